/* SPDX-License-Identifier: BSD-2-Clause */
/* Data movement. */
#include "cpu/interp/exec.h"

/* ---- operands of any kind -------------------------------------------------------------------- */

int exec_src(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned n, unsigned size, u64 *v)
{
    const struct vmci_opnd *o = &in->opnd[n];
    u64 la;

    if (o->kind == VMCI_OPND_IMM) {
        *v = (u64)in->imm;
        return 0;
    }
    if (o->kind != VMCI_OPND_MEM) {
        *v = get_reg(cpu, o, size);
        return 0;
    }
    int rc = insn_la(cpu, in, size, false, &la);
    return rc != 0 ? rc : vmci_rd(cpu, la, size, v);
}

int exec_dst(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned size, u64 v)
{
    u64 la;

    if (in->opnd[0].kind != VMCI_OPND_MEM) {
        put_reg(cpu, &in->opnd[0], size, v);
        return 0;
    }
    int rc = insn_la(cpu, in, size, true, &la);
    return rc != 0 ? rc : vmci_wr(cpu, la, size, v);
}

/* ---- MOV ------------------------------------------------------------------------------------- */

#define MOV_WIDTH(W)                                                                               \
    static EXEC(mov_rr##W)                                                                         \
    {                                                                                              \
        put_r##W(cpu, &in->opnd[0], get_r##W(cpu, &in->opnd[1]));                                  \
        return 0;                                                                                  \
    }                                                                                              \
    static EXEC(mov_ri##W)                                                                         \
    {                                                                                              \
        put_r##W(cpu, &in->opnd[0], (u##W)in->imm);                                                \
        return 0;                                                                                  \
    }                                                                                              \
    static EXEC(mov_rm##W)                                                                         \
    {                                                                                              \
        u64 la;                                                                                    \
        u##W v;                                                                                    \
        int rc = insn_la(cpu, in, sizeof(v), false, &la);                                          \
        if (unlikely(rc != 0) || unlikely((rc = ld##W(cpu, la, &v)) != 0))                         \
            return rc;                                                                             \
        put_r##W(cpu, &in->opnd[0], v);                                                            \
        return 0;                                                                                  \
    }                                                                                              \
    static EXEC(mov_mr##W)                                                                         \
    {                                                                                              \
        u64 la;                                                                                    \
        int rc = insn_la(cpu, in, sizeof(u##W), true, &la);                                        \
        return unlikely(rc != 0) ? rc : st##W(cpu, la, get_r##W(cpu, &in->opnd[1]));               \
    }                                                                                              \
    static EXEC(mov_mi##W)                                                                         \
    {                                                                                              \
        u64 la;                                                                                    \
        int rc = insn_la(cpu, in, sizeof(u##W), true, &la);                                        \
        return unlikely(rc != 0) ? rc : st##W(cpu, la, (u##W)in->imm);                             \
    }
MOV_WIDTH(8)
MOV_WIDTH(16)
MOV_WIDTH(32)
MOV_WIDTH(64)

/* ---- MOVZX, MOVSX, MOVSXD -------------------------------------------------------------------- */

#define EXTEND(name, D, S, CAST)                                                                   \
    static EXEC(name##_r##D##_##S)                                                                 \
    {                                                                                              \
        put_r##D(cpu, &in->opnd[0], (u##D)(CAST)get_r##S(cpu, &in->opnd[1]));                      \
        return 0;                                                                                  \
    }                                                                                              \
    static EXEC(name##_m##D##_##S)                                                                 \
    {                                                                                              \
        u64 la;                                                                                    \
        u##S v;                                                                                    \
        int rc = insn_la(cpu, in, sizeof(v), false, &la);                                          \
        if (unlikely(rc != 0) || unlikely((rc = ld##S(cpu, la, &v)) != 0))                         \
            return rc;                                                                             \
        put_r##D(cpu, &in->opnd[0], (u##D)(CAST)v);                                                \
        return 0;                                                                                  \
    }
EXTEND(movzx, 16, 8, u8)
EXTEND(movzx, 32, 8, u8)
EXTEND(movzx, 64, 8, u8)
EXTEND(movzx, 16, 16, u16)
EXTEND(movzx, 32, 16, u16)
EXTEND(movzx, 64, 16, u16)
EXTEND(movsx, 16, 8, int8_t)
EXTEND(movsx, 32, 8, int8_t)
EXTEND(movsx, 64, 8, int8_t)
EXTEND(movsx, 16, 16, int16_t)
EXTEND(movsx, 32, 16, int16_t)
EXTEND(movsx, 64, 16, int16_t)
EXTEND(movsx, 32, 32, int32_t)
EXTEND(movsx, 64, 32, int32_t)

/* [sign][destination 16, 32, 64][source 8, 16, 32][memory] */
#define PAIR(name, D, S) {name##_r##D##_##S, name##_m##D##_##S}
static const vmci_exec_fn extend[2][3][3][2] = {
    {{PAIR(movzx, 16, 8), PAIR(movzx, 16, 16)},
     {PAIR(movzx, 32, 8), PAIR(movzx, 32, 16)},
     {PAIR(movzx, 64, 8), PAIR(movzx, 64, 16)}},
    {{PAIR(movsx, 16, 8), PAIR(movsx, 16, 16)},
     {PAIR(movsx, 32, 8), PAIR(movsx, 32, 16), PAIR(movsx, 32, 32)},
     {PAIR(movsx, 64, 8), PAIR(movsx, 64, 16), PAIR(movsx, 64, 32)}},
};

/* ---- LEA, CMOVcc, SETcc ---------------------------------------------------------------------- */

static EXEC(lea32)
{
    put_r32(cpu, &in->opnd[0], (u32)vmci_ea(cpu, in));
    return 0;
}
static EXEC(lea64)
{
    put_r64(cpu, &in->opnd[0], vmci_ea(cpu, in));
    return 0;
}
static EXEC(lea16)
{
    put_r16(cpu, &in->opnd[0], (u16)vmci_ea(cpu, in));
    return 0;
}

/* The source is read, and a 32-bit destination zero-extended, whatever the condition. */
static EXEC(cmov)
{
    u64 v;
    int rc = exec_src(cpu, in, 1, in->opsize, &v);

    if (rc != 0)
        return rc;
    if (!condition(cpu->rflags, in->cond))
        v = get_reg(cpu, &in->opnd[0], in->opsize);
    put_reg(cpu, &in->opnd[0], in->opsize, v);
    return 0;
}
static EXEC(cmov_rr64)
{
    if (condition(cpu->rflags, in->cond))
        cpu->gpr[in->opnd[0].reg] = cpu->gpr[in->opnd[1].reg];
    return 0;
}
static EXEC(cmov_rr32)
{
    unsigned from = condition(cpu->rflags, in->cond) ? in->opnd[1].reg : in->opnd[0].reg;
    cpu->gpr[in->opnd[0].reg] = (u32)cpu->gpr[from];
    return 0;
}
static EXEC(setcc)
{
    return exec_dst(cpu, in, 1, condition(cpu->rflags, in->cond));
}

/* ---- XCHG, XADD, CMPXCHG --------------------------------------------------------------------- */

#define XCHG_WIDTH(W)                                                                              \
    static EXEC(xchg_m##W)                                                                         \
    {                                                                                              \
        u64 la;                                                                                    \
        int rc = insn_la(cpu, in, sizeof(u##W), true, &la);                                        \
        if (unlikely(rc != 0))                                                                     \
            return rc;                                                                             \
        const struct vmci_opnd *r = &in->opnd[in->opnd[0].kind == VMCI_OPND_MEM];                  \
        u##W v = get_r##W(cpu, r);                                                                 \
        u##W##_u *p = rmw_begin(cpu, la, sizeof(v), true, &rc);                                    \
        if (unlikely(p == NULL))                                                                   \
            return rc;                                                                             \
        __asm__ volatile("xchg %[v], %[m]" : [v] "+q"(v), [m] "+m"(*p) : : "memory");              \
        rc = rmw_done(cpu);                                                                        \
        if (unlikely(rc != 0))                                                                     \
            return rc;                                                                             \
        put_r##W(cpu, r, v);                                                                       \
        return 0;                                                                                  \
    }                                                                                              \
    static EXEC(cmpxchg_m##W)                                                                      \
    {                                                                                              \
        u64 la;                                                                                    \
        u32 ax;                                                                                    \
        bool lock = (in->flags & VMCI_IF_LOCK) != 0;                                               \
        int rc = insn_la(cpu, in, sizeof(u##W), true, &la);                                        \
        if (unlikely(rc != 0))                                                                     \
            return rc;                                                                             \
        u##W a = (u##W)cpu->gpr[VMC_RAX], v = get_r##W(cpu, &in->opnd[1]);                         \
        u##W##_u *p = rmw_begin(cpu, la, sizeof(v), lock, &rc);                                    \
        if (unlikely(p == NULL))                                                                   \
            return rc;                                                                             \
        u##W old = a;                                                                              \
        if (lock)                                                                                  \
            __asm__ volatile("lock; cmpxchg %[v], %[m]" : "+a"(old), [m] "+m"(*p)                  \
                             : [v] "q"(v) : "memory", "cc");                                       \
        else                                                                                       \
            __asm__ volatile("cmpxchg %[v], %[m]" : "+a"(old), [m] "+m"(*p)                        \
                             : [v] "q"(v) : "memory", "cc");                                       \
        rc = rmw_done(cpu);                                                                        \
        if (unlikely(rc != 0))                                                                     \
            return rc;                                                                             \
        __asm__("cmp %[b], %[a]\n\t" ASM_FLAGS : "=&a"(ax) : [a] "q"(a), [b] "q"(old) : "cc");     \
        set_flags(cpu, ax);                                                                        \
        if (a != old)                                                                              \
            put_gpr(cpu, VMC_RAX, sizeof(u##W), old);                                              \
        return 0;                                                                                  \
    }                                                                                              \
    static EXEC(xadd_m##W)                                                                         \
    {                                                                                              \
        u64 la;                                                                                    \
        u32 ax;                                                                                    \
        bool lock = (in->flags & VMCI_IF_LOCK) != 0;                                               \
        int rc = insn_la(cpu, in, sizeof(u##W), true, &la);                                        \
        if (unlikely(rc != 0))                                                                     \
            return rc;                                                                             \
        u##W v = get_r##W(cpu, &in->opnd[1]);                                                      \
        u##W##_u *p = rmw_begin(cpu, la, sizeof(v), lock, &rc);                                    \
        if (unlikely(p == NULL))                                                                   \
            return rc;                                                                             \
        if (lock)                                                                                  \
            __asm__ volatile("lock; xadd %[v], %[m]\n\t" ASM_FLAGS                                 \
                             : [v] "+q"(v), [m] "+m"(*p), "=&a"(ax) : : "memory", "cc");           \
        else                                                                                       \
            __asm__ volatile("xadd %[v], %[m]\n\t" ASM_FLAGS                                       \
                             : [v] "+q"(v), [m] "+m"(*p), "=&a"(ax) : : "memory", "cc");           \
        rc = rmw_done(cpu);                                                                        \
        if (unlikely(rc != 0))                                                                     \
            return rc;                                                                             \
        set_flags(cpu, ax);                                                                        \
        put_r##W(cpu, &in->opnd[1], v);                                                            \
        return 0;                                                                                  \
    }                                                                                              \
    static EXEC(cmpxchg_r##W)                                                                      \
    {                                                                                              \
        u32 ax;                                                                                    \
        u##W a = (u##W)cpu->gpr[VMC_RAX], old = get_r##W(cpu, &in->opnd[0]);                       \
        u##W v = get_r##W(cpu, &in->opnd[1]);                                                      \
        __asm__("cmp %[b], %[a]\n\t" ASM_FLAGS : "=&a"(ax) : [a] "q"(a), [b] "q"(old) : "cc");     \
        set_flags(cpu, ax);                                                                        \
        if (a == old) {                                                                            \
            put_r##W(cpu, &in->opnd[0], v);                                                        \
        } else {                                                                                   \
            /* the destination is not written: bits 63:32 stay */                                  \
            put_gpr(cpu, VMC_RAX, sizeof(u##W), old);                                              \
        }                                                                                          \
        return 0;                                                                                  \
    }                                                                                              \
    static EXEC(xadd_r##W)                                                                         \
    {                                                                                              \
        u32 ax;                                                                                    \
        u##W a = get_r##W(cpu, &in->opnd[0]), b = get_r##W(cpu, &in->opnd[1]), sum = a;            \
        __asm__("add %[b], %[a]\n\t" ASM_FLAGS                                                     \
                : [a] "+q"(sum), "=&a"(ax) : [b] "q"(b) : "cc");                                   \
        set_flags(cpu, ax);                                                                        \
        put_r##W(cpu, &in->opnd[1], a);                                                            \
        put_r##W(cpu, &in->opnd[0], sum);                                                          \
        return 0;                                                                                  \
    }
XCHG_WIDTH(8)
XCHG_WIDTH(16)
XCHG_WIDTH(32)
XCHG_WIDTH(64)

static EXEC(xchg_rr)
{
    u64 a = get_reg(cpu, &in->opnd[0], in->opsize), b = get_reg(cpu, &in->opnd[1], in->opsize);

    put_reg(cpu, &in->opnd[0], in->opsize, b);
    put_reg(cpu, &in->opnd[1], in->opsize, a);
    return 0;
}

static EXEC(cmpxchg8b)
{
    u64 la;
    bool lock = (in->flags & VMCI_IF_LOCK) != 0;
    int rc = insn_la(cpu, in, 8, true, &la);

    if (rc != 0)
        return rc;
    u64_u *p = rmw_begin(cpu, la, 8, lock, &rc);
    if (p == NULL)
        return rc;
    u64 old = (u32)cpu->gpr[VMC_RAX] | cpu->gpr[VMC_RDX] << 32;
    u64 v = (u32)cpu->gpr[VMC_RBX] | cpu->gpr[VMC_RCX] << 32, expect = old;
    /* The locked form always: it is as right, and CMPXCHG8B without LOCK is rare. */
    __asm__ volatile("lock; cmpxchgq %[v], %[m]"
                     : "+a"(old), [m] "+m"(*p)
                     : [v] "r"(v)
                     : "memory", "cc");
    rc = rmw_done(cpu);
    if (rc != 0)
        return rc;
    put_flag(cpu, VMC_FLAG_ZF, old == expect);
    if (old != expect) {
        cpu->gpr[VMC_RAX] = (u32)old;
        cpu->gpr[VMC_RDX] = old >> 32;
    }
    return 0;
}

static EXEC(cmpxchg16b)
{
    u64 la;
    bool lock = (in->flags & VMCI_IF_LOCK) != 0, same;
    int rc = insn_la(cpu, in, 16, true, &la);

    if (rc != 0)
        return rc;
    if ((la & 15) != 0)
        return gp0(cpu);
    u64 *p = rmw_begin(cpu, la, 16, lock, &rc);
    if (p == NULL)
        return rc;
    u64 lo = cpu->gpr[VMC_RAX], hi = cpu->gpr[VMC_RDX];
    __asm__ volatile("lock; cmpxchg16b %[m]\n\tsete %[same]"
                     : "+a"(lo), "+d"(hi), [m] "+m"(*(__int128 *)(void *)p), [same] "=&q"(same)
                     : "b"(cpu->gpr[VMC_RBX]), "c"(cpu->gpr[VMC_RCX])
                     : "memory", "cc");
    rc = rmw_done(cpu);
    if (rc != 0)
        return rc;
    put_flag(cpu, VMC_FLAG_ZF, same);
    if (!same) {
        cpu->gpr[VMC_RAX] = lo;
        cpu->gpr[VMC_RDX] = hi;
    }
    return 0;
}

/* ---- others ---------------------------------------------------------------------------------- */

static EXEC(bswap)
{
    if (in->opsize == 8)
        cpu->gpr[in->opnd[0].reg] = __builtin_bswap64(cpu->gpr[in->opnd[0].reg]);
    else if (in->opsize == 4)
        put_r32(cpu, &in->opnd[0], __builtin_bswap32(get_r32(cpu, &in->opnd[0])));
    else /* undefined; processors clear the word */
        put_r16(cpu, &in->opnd[0], 0);
    return 0;
}

static u64 swapped(u64 v, unsigned size)
{
    return size == 8 ? __builtin_bswap64(v)
           : size == 4 ? __builtin_bswap32((u32)v)
                       : __builtin_bswap16((u16)v);
}

static EXEC(movbe)
{
    u64 v;
    int rc = exec_src(cpu, in, 1, in->opsize, &v);
    return rc != 0 ? rc : exec_dst(cpu, in, in->opsize, swapped(v, in->opsize));
}

static EXEC(movnti)
{
    return exec_dst(cpu, in, in->opsize, get_reg(cpu, &in->opnd[1], in->opsize));
}

static EXEC(xlat)
{
    u64 ea = cut(cpu->gpr[VMC_RBX] + (u8)cpu->gpr[VMC_RAX], in->addrsize), la, v;
    int rc = vmci_seg_la(cpu, in->seg, ea, 1, false, &la);

    if (rc != 0 || (rc = vmci_rd(cpu, la, 1, &v)) != 0)
        return rc;
    put_gpr(cpu, VMC_RAX, 1, v);
    return 0;
}

static EXEC(cbw) /* AL to AX, AX to EAX, EAX to RAX */
{
    put_gpr(cpu, VMC_RAX, in->opsize, sext(cpu->gpr[VMC_RAX], in->opsize / 2u));
    return 0;
}

static EXEC(cwd) /* the sign of AX, EAX, RAX to DX, EDX, RDX */
{
    u64 sign = sext(cpu->gpr[VMC_RAX], in->opsize) >> 63;
    put_gpr(cpu, VMC_RDX, in->opsize, cut(0 - sign, in->opsize));
    return 0;
}

static EXEC(lahf)
{
    if (cpu->code_bits == 64 && !(cpu->features >> VMCI_FEAT_LAHF_LM & 1))
        return ud(cpu);
    (void)in;
    ((u8 *)&cpu->gpr[VMC_RAX])[1] = (u8)((cpu->rflags & 0xd5) | VMC_FLAG_1);
    return 0;
}

static EXEC(sahf)
{
    if (cpu->code_bits == 64 && !(cpu->features >> VMCI_FEAT_LAHF_LM & 1))
        return ud(cpu);
    (void)in;
    cpu->rflags = (cpu->rflags & ~0xd5ull) | (cpu->gpr[VMC_RAX] >> 8 & 0xd5);
    return 0;
}

static EXEC(salc)
{
    (void)in;
    put_gpr(cpu, VMC_RAX, 1, (cpu->rflags & VMC_FLAG_CF) != 0 ? 0xff : 0);
    return 0;
}

static EXEC(nop)
{
    (void)cpu;
    (void)in;
    return 0;
}

/* ---- choice ---------------------------------------------------------------------------------- */

static unsigned width_index(unsigned size)
{
    return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
}

#define BY_WIDTH(name) {name##8, name##16, name##32, name##64}

static vmci_exec_fn plain_mov(const struct vmci_insn *in)
{
    static const vmci_exec_fn t[5][4] = {
        BY_WIDTH(mov_rr), BY_WIDTH(mov_ri), BY_WIDTH(mov_rm), BY_WIDTH(mov_mr), BY_WIDTH(mov_mi),
    };
    bool mem0 = in->opnd[0].kind == VMCI_OPND_MEM;
    unsigned src = in->opnd[1].kind;
    unsigned f = mem0                    ? (src == VMCI_OPND_IMM ? 4 : 3)
                 : src == VMCI_OPND_IMM ? 1
                 : src == VMCI_OPND_MEM ? 2
                                        : 0;
    return t[f][width_index(in->opsize)];
}

static vmci_exec_fn atomics(const struct vmci_insn *in)
{
    static const vmci_exec_fn xchg_m[4] = BY_WIDTH(xchg_m);
    static const vmci_exec_fn xadd[2][4] = {BY_WIDTH(xadd_r), BY_WIDTH(xadd_m)};
    static const vmci_exec_fn cmpxchg[2][4] = {BY_WIDTH(cmpxchg_r), BY_WIDTH(cmpxchg_m)};
    unsigned w = width_index(in->opsize);
    bool mem0 = in->opnd[0].kind == VMCI_OPND_MEM;

    if (in->op == VMCI_OP_XADD)
        return xadd[mem0][w];
    if (in->op == VMCI_OP_CMPXCHG)
        return cmpxchg[mem0][w];
    return mem0 || in->opnd[1].kind == VMCI_OPND_MEM ? xchg_m[w] : xchg_rr;
}

vmci_exec_fn mov_handler(const struct vmci_insn *in)
{
    bool mem1 = in->opnd[1].kind == VMCI_OPND_MEM;

    switch (in->op) {
    case VMCI_OP_MOV:
        return plain_mov(in);
    case VMCI_OP_MOVZX:
    case VMCI_OP_MOVSX:
        return extend[in->op == VMCI_OP_MOVSX][width_index(in->opsize) - 1]
                     [width_index(in->opnd[1].size)][mem1];
    case VMCI_OP_LEA:
        return in->opsize == 8 ? lea64 : in->opsize == 4 ? lea32 : lea16;
    case VMCI_OP_CMOV:
        return mem1 || in->opsize == 2 ? cmov : in->opsize == 8 ? cmov_rr64 : cmov_rr32;
    case VMCI_OP_SETCC:
        return setcc;
    case VMCI_OP_XCHG:
    case VMCI_OP_XADD:
    case VMCI_OP_CMPXCHG:
        return atomics(in);
    case VMCI_OP_CMPXCHG8B:
        return cmpxchg8b;
    case VMCI_OP_CMPXCHG16B:
        return cmpxchg16b;
    case VMCI_OP_BSWAP:
        return bswap;
    case VMCI_OP_MOVBE:
        return movbe;
    case VMCI_OP_MOVNTI:
        return movnti;
    case VMCI_OP_XLAT:
        return xlat;
    case VMCI_OP_CBW:
        return cbw;
    case VMCI_OP_CWD:
        return cwd;
    case VMCI_OP_LAHF:
        return lahf;
    case VMCI_OP_SAHF:
        return sahf;
    case VMCI_OP_SALC:
        return salc;
    case VMCI_OP_NOP:
    case VMCI_OP_PREFETCH:
        return nop;
    default:
        return NULL;
    }
}
