/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * String instructions. Every iteration is complete in itself: registers are updated as it ends, so
 * that a fault, an interrupt or an exit finds the instruction restartable. Runs within pages that
 * can be accessed directly are done by the host's own string instructions.
 */
#include "cpu/fpu/fp_bulk.h"
#include "cpu/interp/exec.h"

/* Pages that one host instruction goes through at most. */
#define RUN_PAGES 16u
/* Bytes for which starting REP MOVS costs more than copying them. */
#define SHORT_RUN 128u
/* ... and where saving vector registers does. */
#define SHORT_BULK 64u
/* Iterations before the engine gets to look at the clock. */
#define REP_SLICE 65536u

struct str {
    u64 si, di, count; /* cut to the address size; count in elements */
    unsigned n;        /* bytes an element */
    unsigned asz;
    bool down;
};

static struct str str_of(const struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    return (struct str){
        .si = cut(cpu->gpr[VMC_RSI], in->addrsize),
        .di = cut(cpu->gpr[VMC_RDI], in->addrsize),
        .count = cut(cpu->gpr[VMC_RCX], in->addrsize),
        .n = in->opsize,
        .asz = in->addrsize,
        .down = (cpu->rflags & VMC_FLAG_DF) != 0,
    };
}

static unsigned scale_of(const struct str *s)
{
    return (unsigned)__builtin_ctz(s->n);
}

static void advance(struct vmci_cpu *cpu, unsigned reg, const struct str *s, u64 elements)
{
    u64 d = elements * s->n;
    put_gpr(cpu, reg, s->asz, cut(cpu->gpr[reg] + (s->down ? 0 - d : d), s->asz));
}

/* ---- one iteration --------------------------------------------------------------------------- */

static int src_rd(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct str *s, u64 *v)
{
    u64 la;
    int rc = vmci_seg_la(cpu, in->seg, s->si, s->n, false, &la);
    return rc != 0 ? rc : vmci_rd(cpu, la, s->n, v);
}

static int dst_la(struct vmci_cpu *cpu, const struct str *s, bool write, u64 *la)
{
    return vmci_seg_la(cpu, VMC_ES, s->di, s->n, write, la);
}

static void compare(struct vmci_cpu *cpu, u64 a, u64 b, unsigned n)
{
    u32 ax;

    switch (n) {
    case 1:
        __asm__("cmpb %b[b], %b[a]\n\t" ASM_FLAGS : "=&a"(ax) : [a] "q"(a), [b] "q"(b) : "cc");
        break;
    case 2:
        __asm__("cmpw %w[b], %w[a]\n\t" ASM_FLAGS : "=&a"(ax) : [a] "r"(a), [b] "r"(b) : "cc");
        break;
    case 4:
        __asm__("cmpl %k[b], %k[a]\n\t" ASM_FLAGS : "=&a"(ax) : [a] "r"(a), [b] "r"(b) : "cc");
        break;
    default:
        __asm__("cmpq %[b], %[a]\n\t" ASM_FLAGS : "=&a"(ax) : [a] "r"(a), [b] "r"(b) : "cc");
        break;
    }
    set_flags(cpu, ax);
}

static int movs_step(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct str *s)
{
    u64 v, la;
    int rc = src_rd(cpu, in, s, &v);

    if (rc == 0)
        rc = dst_la(cpu, s, true, &la);
    if (rc == 0)
        rc = vmci_wr(cpu, la, s->n, v);
    if (rc != 0)
        return rc;
    advance(cpu, VMC_RSI, s, 1);
    advance(cpu, VMC_RDI, s, 1);
    return 0;
}

static int stos_step(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct str *s)
{
    u64 la;
    int rc = dst_la(cpu, s, true, &la);

    (void)in;
    if (rc == 0)
        rc = vmci_wr(cpu, la, s->n, cut(cpu->gpr[VMC_RAX], s->n));
    if (rc == 0)
        advance(cpu, VMC_RDI, s, 1);
    return rc;
}

static int lods_step(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct str *s)
{
    u64 v;
    int rc = src_rd(cpu, in, s, &v);

    if (rc != 0)
        return rc;
    put_gpr(cpu, VMC_RAX, s->n, v);
    advance(cpu, VMC_RSI, s, 1);
    return 0;
}

static int cmps_step(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct str *s)
{
    u64 a, b, la;
    int rc = dst_la(cpu, s, false, &la);

    if (rc == 0)
        rc = vmci_rd(cpu, la, s->n, &b);
    if (rc == 0)
        rc = src_rd(cpu, in, s, &a);
    if (rc != 0)
        return rc;
    compare(cpu, a, b, s->n);
    advance(cpu, VMC_RSI, s, 1);
    advance(cpu, VMC_RDI, s, 1);
    return 0;
}

static int scas_step(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct str *s)
{
    u64 b, la;
    int rc = dst_la(cpu, s, false, &la);

    (void)in;
    if (rc == 0)
        rc = vmci_rd(cpu, la, s->n, &b);
    if (rc != 0)
        return rc;
    compare(cpu, cpu->gpr[VMC_RAX], b, s->n);
    advance(cpu, VMC_RDI, s, 1);
    return 0;
}

static int ins_step(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct str *s)
{
    u64 la;
    u32 v = 0;
    u16 port = (u16)cpu->gpr[VMC_RDX];
    int rc = dst_la(cpu, s, true, &la);

    (void)in;
    if (rc == 0) /* the port must not be read for nothing */
        rc = probe_operand(cpu, la, s->n);
    if (rc == 0)
        rc = vmci_pio(cpu, false, port, s->n, &v);
    if (rc == 0)
        rc = vmci_wr(cpu, la, s->n, cut(v, s->n));
    if (rc == 0)
        advance(cpu, VMC_RDI, s, 1);
    return rc;
}

static int outs_step(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct str *s)
{
    u64 v;
    u16 port = (u16)cpu->gpr[VMC_RDX];
    int rc = src_rd(cpu, in, s, &v);

    if (rc != 0)
        return rc;
    u32 d = (u32)v;
    rc = vmci_pio(cpu, true, port, s->n, &d);
    if (rc == 0)
        advance(cpu, VMC_RSI, s, 1);
    return rc;
}

/* ---- runs ------------------------------------------------------------------------------------ */

/*
 * Host address of the run of elements that begins at offset off of seg, and how many of them lie in
 * the page, the segment and below the wrap of the address; 0: one iteration must find out.
 */
static u64 run_of(struct vmci_cpu *cpu, unsigned seg, u64 off, const struct str *s, bool write,
                  u8 **host)
{
    const struct vmc_segment *sr = &cpu->seg[seg];
    u64 la = off, room;

    if (cpu->code_bits != 64) {
        uint32_t plain = VMC_SEG_P | VMC_SEG_S | 2u; /* writable data, expand-up */
        if ((sr->attr & (VMC_SEG_UNUSABLE | VMC_SEG_P | VMC_SEG_S | 0xeu)) != plain ||
            off > sr->limit)
            return 0;
        la = (u32)(sr->base + off);
    } else if (seg == VMC_FS || seg == VMC_GS) {
        la += sr->base;
    }
    room = VMC_PAGE_SIZE - (la & ~PAGE_MASK);
    if (cpu->code_bits != 64)
        room = VMCI_MIN(room, (u64)sr->limit - off + 1);
    if (s->asz != 8)
        room = VMCI_MIN(room, (s->asz == 4 ? 1ull << 32 : 1ull << 16) - off);
    const struct vmci_tlb *t = tlb_now(cpu);
    unsigned i = vmci_tlb_index(la);
    if (!vmci_tlb_hit(write ? t->wr[i] : t->rd[i], la, 1))
        return 0;
    *host = (u8 *)(t->addend[i] + la);
    return room >> scale_of(s);
}

/* Source or destination of a string in flat memory, of which room bytes lie at host. */
struct side {
    const struct vmci_tlb *tlb;
    const u64 *tag;
    u64 la, room;
    u8 *host;
};

static struct side side_of(struct vmci_cpu *cpu, u64 la, bool write)
{
    const struct vmci_tlb *t = tlb_now(cpu);
    return (struct side){.tlb = t, .tag = write ? t->wr : t->rd, .la = la};
}

/* At least n bytes, of the want that are needed: pages that lie side by side in the host's memory,
   too, are one. */
static inline bool fill(struct side *d, unsigned n, u64 want)
{
    if (d->room >= n)
        return true;
    unsigned i = vmci_tlb_index(d->la);
    if (!vmci_tlb_hit(d->tag[i], d->la, 1))
        return false;
    uintptr_t addend = d->tlb->addend[i];
    d->room = VMC_PAGE_SIZE - (d->la & ~PAGE_MASK);
    d->host = (u8 *)(addend + d->la);
    while (d->room < want) {
        u64 next = d->la + d->room;
        i = vmci_tlb_index(next);
        if (d->tag[i] != 0 - next || d->tlb->addend[i] != addend)
            break;
        d->room += VMC_PAGE_SIZE;
    }
    return d->room >= n;
}

/* What one run does at most. */
static inline u64 run_bytes(const struct str *s)
{
    return VMCI_MIN(s->count, (u64)RUN_PAGES * VMC_PAGE_SIZE >> scale_of(s)) << scale_of(s);
}

static inline void step_over(struct side *d, u64 bytes)
{
    d->la += bytes;
    d->room -= bytes;
    d->host += bytes;
}

/* 64-bit addresses without a base: the run goes on from page to page. */
static bool is_flat(const struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    return cpu->code_bits == 64 && in->addrsize == 8 && in->seg != VMC_FS && in->seg != VMC_GS;
}

#define HOST_STRING(insn, ...)                                                                     \
    switch (s->n) {                                                                                \
    case 1:                                                                                        \
        __asm__ volatile(insn "b" __VA_ARGS__);                                                    \
        break;                                                                                     \
    case 2:                                                                                        \
        __asm__ volatile(insn "w" __VA_ARGS__);                                                    \
        break;                                                                                     \
    case 4:                                                                                        \
        __asm__ volatile(insn "l" __VA_ARGS__);                                                    \
        break;                                                                                     \
    default:                                                                                       \
        __asm__ volatile(insn "q" __VA_ARGS__);                                                    \
        break;                                                                                     \
    }

/* Upwards in eights, which is the same as in smaller elements: the destination begins at least
   eight bytes behind the source, or before it. */
static inline void copy_short(u8 *to, const u8 *from, u64 bytes)
{
    u64 at = 0;

    for (; at + 8 <= bytes; at += 8)
        vmci_st_le64(to + at, vmci_ld_le64(from + at));
    if ((bytes & 4) != 0) { /* a whole element, if it is that long: read before it is written */
        vmci_st_le32(to + at, vmci_ld_le32(from + at));
        at += 4;
    }
    if ((bytes & 2) != 0) {
        vmci_st_le16(to + at, vmci_ld_le16(from + at));
        at += 2;
    }
    if ((bytes & 1) != 0)
        to[at] = from[at];
}

static inline void copy_run(u8 *to, u8 *from, const struct str *s, u64 bytes, bool bulk)
{
    u64 left = bytes >> scale_of(s);
    uintptr_t ahead = (uintptr_t)to - (uintptr_t)from;

    if (bulk && bytes >= SHORT_BULK && ahead >= VMCI_FP_BULK_STEP)
        vmci_fp_bulk_copy(to, from, bytes);
    else if (bytes <= SHORT_RUN && ahead >= 8)
        copy_short(to, from, bytes);
    else
        HOST_STRING("rep movs", : "+S"(from), "+D"(to), "+c"(left) : : "memory")
}

static u64 movs_flat(struct vmci_cpu *cpu, const struct str *s)
{
    struct side from = side_of(cpu, s->si, false), to = side_of(cpu, s->di, true);
    u64 most = run_bytes(s), done = 0;
    bool bulk = vmci_fp_bulk(cpu);

    while (done != most && fill(&from, s->n, most - done) && fill(&to, s->n, most - done)) {
        u64 k = VMCI_MIN(VMCI_MIN(from.room, to.room) & (0ull - s->n), most - done);
        copy_run(to.host, from.host, s, k, bulk);
        step_over(&from, k);
        step_over(&to, k);
        done += k;
    }
    done >>= scale_of(s);
    advance(cpu, VMC_RSI, s, done);
    advance(cpu, VMC_RDI, s, done);
    return done;
}

static u64 movs_run(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct str *s)
{
    u8 *from, *to;

    if (is_flat(cpu, in))
        return movs_flat(cpu, s);
    u64 k = run_of(cpu, in->seg, s->si, s, false, &from);
    if (k == 0)
        return 0;
    k = VMCI_MIN(k, run_of(cpu, VMC_ES, s->di, s, true, &to));
    k = VMCI_MIN(k, s->count);
    if (k == 0)
        return 0;
    u64 left = k;
    HOST_STRING("rep movs", : "+S"(from), "+D"(to), "+c"(left) : : "memory")
    advance(cpu, VMC_RSI, s, k);
    advance(cpu, VMC_RDI, s, k);
    return k;
}

static u64 stos_flat(struct vmci_cpu *cpu, const struct str *s)
{
    struct side d = side_of(cpu, s->di, true);
    u64 most = run_bytes(s), done = 0;
    u64 pattern =
        cut(cpu->gpr[VMC_RAX], s->n) * (s->n == 8 ? 1 : UINT64_MAX / cut(UINT64_MAX, s->n));
    bool bulk = vmci_fp_bulk(cpu);

    while (done != most && fill(&d, s->n, most - done)) {
        u64 k = VMCI_MIN(d.room & (0ull - s->n), most - done), left = k >> scale_of(s);
        u8 *to = d.host;
        if (bulk)
            vmci_fp_bulk_fill(to, pattern, k);
        else
            HOST_STRING("rep stos", : "+D"(to), "+c"(left) : "a"(cpu->gpr[VMC_RAX]) : "memory")
        step_over(&d, k);
        done += k;
    }
    done >>= scale_of(s);
    advance(cpu, VMC_RDI, s, done);
    return done;
}

static u64 stos_run(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct str *s)
{
    u8 *to;

    if (is_flat(cpu, in))
        return stos_flat(cpu, s);
    u64 k = VMCI_MIN(run_of(cpu, VMC_ES, s->di, s, true, &to), s->count);
    if (k == 0)
        return 0;
    u64 left = k;
    HOST_STRING("rep stos", : "+D"(to), "+c"(left) : "a"(cpu->gpr[VMC_RAX]) : "memory")
    advance(cpu, VMC_RDI, s, k);
    return k;
}

/* Comparisons stop by themselves; at least one element is compared, so the flags are its own. */
#define FLAGS_OUT "\n\tmovq %%rax, %[keep]\n\t" ASM_FLAGS "\n\txchgq %%rax, %[keep]"

static u64 scas_run(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct str *s)
{
    u8 *at;
    u64 k = VMCI_MIN(run_of(cpu, VMC_ES, s->di, s, false, &at), s->count), left = k, fl;
    u64 a = cpu->gpr[VMC_RAX];

    if (k == 0)
        return 0;
    if ((in->flags & VMCI_IF_REP) != 0) {
        HOST_STRING("repe scas", FLAGS_OUT
                    : "+D"(at), "+c"(left), "+a"(a), [keep] "=&r"(fl)
                    :
                    : "memory", "cc")
    } else {
        HOST_STRING("repne scas", FLAGS_OUT
                    : "+D"(at), "+c"(left), "+a"(a), [keep] "=&r"(fl)
                    :
                    : "memory", "cc")
    }
    set_flags(cpu, (u32)fl);
    advance(cpu, VMC_RDI, s, k - left);
    return k - left;
}

static u64 cmps_run(struct vmci_cpu *cpu, const struct vmci_insn *in, const struct str *s)
{
    u8 *a, *b;
    u64 k = run_of(cpu, in->seg, s->si, s, false, &a), ax = 0, fl;

    if (k == 0)
        return 0;
    k = VMCI_MIN(VMCI_MIN(k, run_of(cpu, VMC_ES, s->di, s, false, &b)), s->count);
    if (k == 0)
        return 0;
    u64 left = k;
    if ((in->flags & VMCI_IF_REP) != 0) {
        HOST_STRING("repe cmps", FLAGS_OUT
                    : "+S"(a), "+D"(b), "+c"(left), "+a"(ax), [keep] "=&r"(fl)
                    :
                    : "memory", "cc")
    } else {
        HOST_STRING("repne cmps", FLAGS_OUT
                    : "+S"(a), "+D"(b), "+c"(left), "+a"(ax), [keep] "=&r"(fl)
                    :
                    : "memory", "cc")
    }
    set_flags(cpu, (u32)fl);
    advance(cpu, VMC_RSI, s, k - left);
    advance(cpu, VMC_RDI, s, k - left);
    return k - left;
}

bool vmci_string_whole(struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    struct str s = str_of(cpu, in);

    if (s.down)
        return false;
    cpu->gpr[VMC_RCX] -= in->op == VMCI_OP_MOVS ? movs_flat(cpu, &s) : stos_flat(cpu, &s);
    return cpu->gpr[VMC_RCX] == 0;
}

/* ---- repetition ------------------------------------------------------------------------------ */

typedef int (*step_fn)(struct vmci_cpu *, const struct vmci_insn *, const struct str *);
typedef u64 (*run_fn)(struct vmci_cpu *, const struct vmci_insn *, const struct str *);

static inline int repeat(struct vmci_cpu *cpu, const struct vmci_insn *in, step_fn step, run_fn run,
                         bool compares)
{
    struct vmci_soft_cpu *sc = soft_of(cpu);
    struct str s = str_of(cpu, in);
    u64 slice = 0;

    if ((in->flags & (VMCI_IF_REP | VMCI_IF_REPNE)) == 0)
        return step(cpu, in, &s);
    while (s.count != 0) {
        u64 k = run != NULL && !s.down && !sc->one_shot ? run(cpu, in, &s) : 0;
        if (k == 0) {
            int rc = step(cpu, in, &s);
            if (rc != 0)
                return rc;
            k = 1;
        }
        put_gpr(cpu, VMC_RCX, s.asz, s.count - k);
        io_log_reset(sc);
        s = str_of(cpu, in);
        if (s.count == 0)
            break;
        if (compares) {
            bool zf = (cpu->rflags & VMC_FLAG_ZF) != 0;
            if (zf != ((in->flags & VMCI_IF_REP) != 0))
                break;
        }
        slice += k;
        if (sc->one_shot || slice >= REP_SLICE || cpu->pending_db != 0 ||
            vmci_load_relaxed(&cpu->request) != 0)
            return VMCI_AGAIN;
    }
    return 0;
}

#define STRING_EXEC(name, run, compares)                                                           \
    static EXEC(name)                                                                              \
    {                                                                                              \
        return repeat(cpu, in, name##_step, run, compares);                                        \
    }
STRING_EXEC(movs, movs_run, false)
STRING_EXEC(stos, stos_run, false)
STRING_EXEC(lods, NULL, false)
STRING_EXEC(cmps, cmps_run, true)
STRING_EXEC(scas, scas_run, true)

/* The port's permission comes first, also of a repetition of no times. */
#define PORT_EXEC(name)                                                                            \
    static EXEC(name)                                                                              \
    {                                                                                              \
        int rc = vmci_io_check(cpu, (u16)cpu->gpr[VMC_RDX], in->opsize);                           \
        return rc != 0 ? rc : repeat(cpu, in, name##_step, NULL, false);                           \
    }
PORT_EXEC(ins)
PORT_EXEC(outs)

vmci_exec_fn string_handler(const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_MOVS:
        return movs;
    case VMCI_OP_STOS:
        return stos;
    case VMCI_OP_LODS:
        return lods;
    case VMCI_OP_CMPS:
        return cmps;
    case VMCI_OP_SCAS:
        return scas;
    case VMCI_OP_INS:
        return ins;
    case VMCI_OP_OUTS:
        return outs;
    default:
        return NULL;
    }
}
