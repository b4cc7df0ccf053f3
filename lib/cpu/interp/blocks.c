/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The cache of decoded blocks. A block is straight-line code within one guest-physical page (or one
 * instruction that crosses into another); it is found by linear address while the mapping that was
 * seen last still holds, and else by guest-physical address, so that a change of address space
 * loses no decoding.
 */
#include "cpu/interp/exec.h"
#include "cpu/interp/mem.h"

/* ---- memory ---------------------------------------------------------------------------------- */

static unsigned chunks_max(const struct vmci_soft_cpu *sc)
{
    return VMCI_MAX(BLK_CHUNKS, (unsigned)(sc->bt.code_bytes / BLK_CHUNK) * 3 / 2);
}

/* Room for bytes at the end of the arena, without taking it; NULL: full. */
static void *arena_room(struct vmci_soft_cpu *sc, size_t bytes)
{
    struct block_cache *c = &sc->code;

    if (c->chunks != 0 && c->used + bytes <= BLK_CHUNK)
        return c->chunk[c->cur] + c->used;
    if (c->cur + 1 < c->chunks) {
        c->cur++;
    } else {
        if (c->chunks == chunks_max(sc))
            return NULL;
        unsigned char *m = vmci_alloc_aligned(sc->cpu.pf, BLK_CHUNK, 64);
        if (m == NULL)
            return NULL;
        if (c->chunks != 0) /* a kernel's code, not that of a test */
            (void)vmci_large_pages(sc->cpu.pf, m, BLK_CHUNK, BLK_CHUNK);
        c->chunk[c->chunks++] = m;
        c->cur = c->chunks - 1;
    }
    c->used = 0;
    return c->chunk[c->cur];
}

static void arena_take(struct vmci_soft_cpu *sc, size_t bytes)
{
    sc->code.used += vmci_align_up(bytes, 32);
}

void block_flush_all(struct vmci_soft_cpu *sc)
{
    struct block_cache *c = &sc->code;
    uint64_t since = sc->cpu.pf->now_ns(sc->cpu.pf->ctx);

    sc->stat[STAT_CACHE_FLUSHES]++;
    memset(c->jc, 0, sizeof(c->jc));
    memset(c->hash, 0, sizeof(c->hash));
    memset(c->page, 0, sizeof(c->page));
    c->cur = 0;
    c->used = 0;
    sc->cpu.blk = sc->cpu.cur = sc->cpu.blk_end = NULL;
    bt_flush(sc);
    smc_disown_all(sc);
    bt_stopped(sc, since);
}

void block_cache_free(struct vmci_soft_cpu *sc)
{
    for (unsigned i = 0; i < sc->code.chunks; i++)
        vmci_free_aligned(sc->cpu.pf, sc->code.chunk[i], BLK_CHUNK, 64);
    sc->code.chunks = 0;
}

/* ---- pages ----------------------------------------------------------------------------------- */

static unsigned page_slot(uint64_t gpa)
{
    return (unsigned)(((gpa >> VMC_PAGE_SHIFT) * 0x9e3779b97f4a7c15ull) >> (64 - BLK_PAGE_BITS));
}

struct code_page *code_page_find(struct vmci_soft_cpu *sc, uint64_t gpa)
{
    struct code_page *p = sc->code.page[page_slot(gpa)];

    while (p != NULL && p->gpa != gpa)
        p = p->next;
    return p;
}

static struct code_page *code_page_get(struct vmci_soft_cpu *sc, uint64_t gpa)
{
    struct code_page *p = code_page_find(sc, gpa);

    if (p != NULL)
        return p;
    p = arena_room(sc, sizeof(*p));
    if (p == NULL)
        return NULL;
    arena_take(sc, sizeof(*p));
    memset(p, 0, sizeof(*p));
    p->gpa = gpa;
    p->patience = 256;
    p->next = sc->code.page[page_slot(gpa)];
    sc->code.page[page_slot(gpa)] = p;
    return p;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static unsigned hash_slot(uint64_t gpa, unsigned bits)
{
    return (unsigned)(((gpa ^ (uint64_t)bits << 40) * 0x9e3779b97f4a7c15ull) >>
                      (64 - BLK_HASH_BITS));
}

static void unlink_block(struct block **head, struct block *b, size_t link)
{
    struct block **p = head;

    while (*p != NULL && *p != b)
        p = (struct block **)(void *)((char *)*p + link);
    if (*p == b)
        *p = *(struct block **)(void *)((char *)b + link);
}

void block_kill(struct vmci_soft_cpu *sc, struct block *b)
{
    struct code_page *p = code_page_find(sc, b->gpa & PAGE_MASK);
    struct code_page *t = b->gpa2 != GPA_NONE ? code_page_find(sc, b->gpa2) : NULL;

    bt_kill(sc, b);
    b->dead = true;
    b->key = 0;
    sc->stat[STAT_INVALS]++;
    unlink_block(&sc->code.hash[hash_slot(b->gpa, b->bits)], b, offsetof(struct block, hash_next));
    if (p != NULL) {
        unlink_block(&p->blocks, b, offsetof(struct block, page_next));
        if (p->blocks == NULL && p->tails == NULL)
            smc_disown_page(sc, p);
    }
    if (t != NULL) {
        unlink_block(&t->tails, b, offsetof(struct block, tail_next));
        if (t->blocks == NULL && t->tails == NULL)
            smc_disown_page(sc, t);
    }
}

static uint64_t chunks_of(unsigned first, unsigned last)
{
    return (~0ull << (first / 64)) & (~0ull >> (63 - last / 64));
}

static void link_block(struct vmci_soft_cpu *sc, struct block *b, struct code_page *p,
                       struct code_page *t)
{
    struct block **slot = &sc->code.hash[hash_slot(b->gpa, b->bits)];
    unsigned off = (unsigned)(b->gpa & ~PAGE_MASK);
    unsigned last = VMCI_MIN(off + b->bytes, VMC_PAGE_SIZE) - 1;

    b->hash_next = *slot;
    *slot = b;
    b->page_next = p->blocks;
    p->blocks = b;
    p->chunks |= chunks_of(off, last);
    if (t != NULL) {
        b->tail_next = t->tails;
        t->tails = b;
        t->chunks |= chunks_of(0, off + b->bytes - VMC_PAGE_SIZE - 1);
    }
}

/* ---- code bytes ------------------------------------------------------------------------------ */

/* Where the bytes at cpu->rip are. */
struct fetch {
    uint64_t la, gpa;
    const uint8_t *page; /* NULL: no memory there */
    uint8_t *flags;
    bool local; /* one of the pages is not global */
    uint64_t gpa2;
    const uint8_t *page2;
    uint8_t *flags2;
};

static int fetch_page(struct vmci_soft_cpu *sc, uint64_t la, struct tlb_info **i)
{
    struct vmci_cpu *cpu = &sc->cpu;
    unsigned mode = cpu->cpl == 3 ? VMCI_TLB_USER : VMCI_TLB_SUP;
    unsigned n = vmci_tlb_index(la);

    if (likely(vmci_tlb_hit(cpu->tlb[mode].ex[n], la, 1))) {
        *i = &sc->info[mode][n];
        return 0;
    }
    bool before = sc->in_place;
    sc->in_place = true;
    int rc = soft_tlb_get(cpu, mode, la, TLB_X, 0, i);
    sc->in_place = before;
    return rc;
}

static int fetch_first(struct vmci_soft_cpu *sc, uint64_t la, struct fetch *f)
{
    struct tlb_info *i;

    f->la = la;
    int rc = fetch_page(sc, f->la, &i);
    if (rc != 0)
        return rc;
    f->gpa = i->gpa | (f->la & ~PAGE_MASK);
    f->page = i->hva;
    f->flags = i->flags;
    f->local = !i->global;
    f->gpa2 = GPA_NONE;
    f->page2 = NULL;
    return 0;
}

static int fetch_second(struct vmci_soft_cpu *sc, struct fetch *f)
{
    uint64_t la = (f->la & PAGE_MASK) + VMC_PAGE_SIZE;
    struct tlb_info *i;

    if (f->gpa2 != GPA_NONE)
        return 0;
    if (sc->cpu.code_bits != 64)
        la = (uint32_t)la;
    int rc = fetch_page(sc, la, &i);
    if (rc != 0)
        return rc;
    f->gpa2 = i->gpa;
    f->page2 = i->hva;
    f->flags2 = i->flags;
    f->local = f->local || !i->global;
    return 0;
}

/* Copy n code bytes from offset at of the block; what has no memory reads as ones. */
static void code_bytes(const struct fetch *f, unsigned at, uint8_t *dst, unsigned n)
{
    unsigned off = (unsigned)(f->gpa & ~PAGE_MASK) + at;

    for (unsigned k = 0; k < n; k++, off++) {
        const uint8_t *page = off < VMC_PAGE_SIZE ? f->page : f->page2;
        dst[k] = page != NULL ? vmci_load_relaxed(&page[off % VMC_PAGE_SIZE]) : 0xff;
    }
}

bool block_verify(struct vmci_soft_cpu *sc, struct block *b)
{
    struct vmci_page p, p2 = {0};
    struct fetch f = {.gpa = b->gpa, .gpa2 = b->gpa2};
    uint8_t now[VMCI_INSN_MAX];

    if (vmci_mem_resolve(sc->cpu.mem, b->gpa & PAGE_MASK, false, &p) != VMC_OK)
        return false;
    if (b->gpa2 != GPA_NONE && vmci_mem_resolve(sc->cpu.mem, b->gpa2, false, &p2) != VMC_OK)
        return false;
    f.page = p.hva;
    f.page2 = p2.hva;
    for (unsigned i = 0; i < b->n; i++) {
        const struct vmci_insn *in = &b->insn[i];
        code_bytes(&f, in->next - in->len, now, in->len);
        if (memcmp(now, in->raw, in->len) != 0)
            return false;
    }
    return true;
}

/* ---- building -------------------------------------------------------------------------------- */

/* An encoding of more than 15 bytes. */
static void too_long(struct vmci_insn *in, const uint8_t *bytes)
{
    memset(in, 0, sizeof(*in));
    in->op = VMCI_OP_UD;
    in->flags = VMCI_IF_END;
    in->len = VMCI_INSN_MAX;
    in->next = in->len;
    in->base = in->index = VMCI_REG_ZERO;
    memcpy(in->raw, bytes, VMCI_INSN_MAX);
    in->exec = exec_too_long;
}

static void finish_insn(struct vmci_soft_cpu *sc, struct vmci_insn *in, unsigned at)
{
    if (in->exec == NULL)
        vmci_bind(in, sc->cpu.code_bits);
    if (in->op >= VMCI_OP_FP_FIRST) {
        in->exec = vmci_fp_exec;
        vmci_fp_prepare(&sc->cpu, in);
    }
    in->next = (uint16_t)(at + in->len);
    if (in->base == VMCI_REG_IP)
        in->disp += at;
    sc->stat[STAT_DECODED]++;
}

#define NO_FIT (-1)

/* Decode the instruction at offset `at`. 0; NO_FIT: not in this block; VMCI_FAULT. */
static int decode_at(struct vmci_soft_cpu *sc, struct fetch *f, unsigned at, struct vmci_insn *in)
{
    struct vmci_dec_mode mode = {sc->cpu.code_bits, sc->cpu.features};
    unsigned left = VMC_PAGE_SIZE - (unsigned)(f->gpa & ~PAGE_MASK) - at;
    unsigned n = VMCI_MIN(left, (unsigned)VMCI_INSN_MAX);
    uint8_t bytes[VMCI_INSN_MAX];

    code_bytes(f, at, bytes, n);
    int len = vmci_decode(sc->cpu.dec, &mode, bytes, n, in);
    if (len == VMCI_DEC_MORE) {
        if (at != 0)
            return NO_FIT;
        int rc = fetch_second(sc, f);
        if (rc != 0)
            return rc;
        code_bytes(f, at, bytes, VMCI_INSN_MAX);
        len = vmci_decode(sc->cpu.dec, &mode, bytes, VMCI_INSN_MAX, in);
    }
    if (len <= 0)
        too_long(in, bytes);
    finish_insn(sc, in, at);
    return 0;
}

#define ROOM (sizeof(struct block) + (BLK_MAX_INSNS + 1) * sizeof(struct vmci_insn))

static int fill(struct vmci_soft_cpu *sc, struct fetch *f, unsigned max, struct block *b)
{
    unsigned page_left = VMC_PAGE_SIZE - (unsigned)(f->gpa & ~PAGE_MASK);

    b->n = 0;
    b->bytes = 0;
    b->clipped = false;
    while (b->bytes < page_left) {
        if (b->n == max) {
            b->clipped = max < BLK_MAX_INSNS;
            break;
        }
        struct vmci_insn *in = &b->insn[b->n];
        memset(in, 0, sizeof(*in));
        int rc = decode_at(sc, f, b->bytes, in);
        if (rc == NO_FIT)
            break;
        if (rc != 0)
            return rc;
        b->n++;
        b->bytes += in->len;
        if ((in->flags & (VMCI_IF_BRANCH | VMCI_IF_END)) != 0)
            break;
    }
    return 0;
}

static int build(struct vmci_soft_cpu *sc, struct fetch *f, unsigned max, struct block **out)
{
    struct vmci_soft_vm *vm = sc->cpu.vm;
    struct code_page *p, *t = NULL;
    struct block *b;

    vmci_fp_park(&sc->cpu); /* the decoder's library uses what registers it likes */
    for (unsigned again = 0;; again++) {
        p = code_page_get(sc, f->gpa & PAGE_MASK);
        b = p != NULL ? arena_room(sc, ROOM + sizeof(struct code_page) + 64) : NULL;
        if (b != NULL)
            break;
        if (again != 0 || sc->code.chunks == 0)
            return vmci_raise(&sc->cpu, VMC_VEC_MC); /* the host has no memory at all */
        block_flush_all(sc);
    }
    /* The page is flagged before its bytes are read: later writes are all seen. */
    if (f->page != NULL && !sc->foreign)
        smc_adopt_page(sc, p, f->flags);
    uint64_t seq = vmci_load_acquire(&vm->code_seq);
    memset(b, 0, sizeof(*b));
    b->gpa = f->gpa;
    b->bits = sc->cpu.code_bits;
    int rc = fill(sc, f, max, b);
    if (rc != 0)
        return rc;
    arena_take(sc, sizeof(*b) + b->n * sizeof(b->insn[0]));
    b->gpa2 = b->bytes > VMC_PAGE_SIZE - (f->gpa & ~PAGE_MASK) ? f->gpa2 : GPA_NONE;
    if (b->gpa2 != GPA_NONE) {
        t = code_page_get(sc, b->gpa2);
        if (t == NULL)
            return vmci_raise(&sc->cpu, VMC_VEC_MC);
        if (f->page2 != NULL && !sc->foreign) {
            smc_adopt_page(sc, t, f->flags2);
            seq = vmci_load_acquire(&vm->code_seq);
        }
    }
    sc->stat[STAT_BLOCKS]++;
    if (f->page == NULL || (b->gpa2 != GPA_NONE && f->page2 == NULL)) {
        b->dead = true; /* nothing tells when there will be memory: not kept */
    } else {
        b->seq = sc->foreign ? UINT64_MAX : smc_settled(vm, seq) ? 0 : seq;
        link_block(sc, b, p, t);
        if (t != NULL &&
            !block_verify(sc, b)) { /* the second page was read before it was flagged */
            block_kill(sc, b);
            b->dead = true;
        }
    }
    *out = b;
    return 0;
}

/* ---- finding --------------------------------------------------------------------------------- */

/* Is a block that was found by its physical address right for the mapping and time? */
static int check(struct vmci_soft_cpu *sc, struct fetch *f, unsigned max, struct block *b,
                 bool *usable)
{
    *usable = false;
    if (b->gpa2 != GPA_NONE) {
        int rc = fetch_second(sc, f);
        if (rc != 0)
            return rc;
        if (b->gpa2 != f->gpa2)
            return 0;
    }
    if ((b->clipped && max > b->n)) {
        block_kill(sc, b);
        return 0;
    }
    if (unlikely(b->seq != 0)) {
        bool settled = !sc->foreign && smc_settled(sc->cpu.vm, b->seq);
        if (!block_verify(sc, b)) {
            block_kill(sc, b);
            return 0;
        }
        if (settled)
            b->seq = 0;
    }
    *usable = true;
    return 0;
}

/* Blocks of these pages are found without a look at the TLB until it hears of a change there. */
static void note_mapping(struct vmci_soft_cpu *sc, const struct fetch *f, const struct block *b)
{
    struct tlb_half *h = &sc->half[soft_half(f->la)];

    h->local_code = h->local_code || f->local;
    vmci_bit_set(h->code, tlb_code_bit(f->la));
    if (b->gpa2 != GPA_NONE)
        vmci_bit_set(h->code, tlb_code_bit(f->la + VMC_PAGE_SIZE));
}

int block_find(struct vmci_soft_cpu *sc, unsigned max, struct block **out)
{
    struct fetch f;
    struct block *b, *next;
    unsigned bits = sc->cpu.code_bits;
    bool usable = false;

    sc->stat[STAT_LOOKUPS]++;
    int rc = fetch_first(sc, soft_code_la(&sc->cpu), &f);
    if (rc != 0)
        return rc;
    for (b = sc->code.hash[hash_slot(f.gpa, bits)]; b != NULL; b = next) {
        next = b->hash_next;
        if (b->gpa != f.gpa || b->bits != bits)
            continue;
        rc = check(sc, &f, max, b, &usable);
        if (rc != 0)
            return rc;
        if (usable)
            break;
    }
    if (!usable) {
        rc = build(sc, &f, max, &b);
        if (rc != 0)
            return rc;
    }
    b->la = f.la;
    b->key = sc->key[soft_half(f.la)];
    b->global = !f.local;
    note_mapping(sc, &f, b);
    if (b->seq == 0 && !b->dead && !b->clipped)
        sc->code.jc[jc_slot(f.la)] = b;
    else
        b->key = 0;
    *out = b;
    return 0;
}

struct block *block_ahead(struct vmci_soft_cpu *sc, uint64_t la, uint64_t gpa, bool decode)
{
    unsigned bits = sc->cpu.code_bits;
    struct block *b = sc->code.hash[hash_slot(gpa, bits)];
    struct fetch f;

    while (b != NULL && (b->gpa != gpa || b->bits != bits))
        b = b->hash_next;
    if (b == NULL && decode && sc->code.cur + 1 < chunks_max(sc)) { /* empties nothing */
        if (fetch_first(sc, la, &f) != 0 || f.gpa != gpa || build(sc, &f, BLK_MAX_INSNS, &b) != 0) {
            sc->cpu.exc.pending = false; /* if control gets there, it happens again */
            return NULL;
        }
    }
    if (b == NULL || b->dead || b->clipped || b->seq != 0 || b->gpa2 != GPA_NONE)
        return NULL;
    return b;
}
