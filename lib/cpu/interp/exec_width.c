/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What has a handler for each width or condition: MOV, MOVZX, MOVSX, XCHG, XADD, CMPXCHG, Jcc.
 * exec_width_small.c has one for all, where size counts for more.
 */
#include "cpu/interp/exec.h"

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
#define PAIR(name, D, S)                                                                           \
    {                                                                                              \
        name##_r##D##_##S, name##_m##D##_##S                                                       \
    }
static const vmci_exec_fn extend[2][3][3][2] = {
    {{PAIR(movzx, 16, 8), PAIR(movzx, 16, 16)},
     {PAIR(movzx, 32, 8), PAIR(movzx, 32, 16)},
     {PAIR(movzx, 64, 8), PAIR(movzx, 64, 16)}},
    {{PAIR(movsx, 16, 8), PAIR(movsx, 16, 16)},
     {PAIR(movsx, 32, 8), PAIR(movsx, 32, 16), PAIR(movsx, 32, 32)},
     {PAIR(movsx, 64, 8), PAIR(movsx, 64, 16), PAIR(movsx, 64, 32)}},
};

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
            __asm__ volatile("lock; cmpxchg %[v], %[m]"                                            \
                             : "+a"(old), [m] "+m"(*p)                                             \
                             : [v] "q"(v)                                                          \
                             : "memory", "cc");                                                    \
        else                                                                                       \
            __asm__ volatile("cmpxchg %[v], %[m]"                                                  \
                             : "+a"(old), [m] "+m"(*p)                                             \
                             : [v] "q"(v)                                                          \
                             : "memory", "cc");                                                    \
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
                             : [v] "+q"(v), [m] "+m"(*p), "=&a"(ax)                                \
                             :                                                                     \
                             : "memory", "cc");                                                    \
        else                                                                                       \
            __asm__ volatile("xadd %[v], %[m]\n\t" ASM_FLAGS                                       \
                             : [v] "+q"(v), [m] "+m"(*p), "=&a"(ax)                                \
                             :                                                                     \
                             : "memory", "cc");                                                    \
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
        __asm__("add %[b], %[a]\n\t" ASM_FLAGS : [a] "+q"(sum), "=&a"(ax) : [b] "q"(b) : "cc");    \
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

/* ---- Jcc ------------------------------------------------------------------------------------- */

#define JCC(cc)                                                                                    \
    static EXEC(jcc_##cc)                                                                          \
    {                                                                                              \
        u64 next = next_rip(cpu, in);                                                              \
        if (condition(cpu->rflags, cc))                                                            \
            return branch(cpu, in, next + (u64)in->imm);                                           \
        cpu->rip = next;                                                                           \
        return 0;                                                                                  \
    }
/* clang-format off */
JCC(0) JCC(1) JCC(2) JCC(3) JCC(4) JCC(5) JCC(6) JCC(7)
JCC(8) JCC(9) JCC(10) JCC(11) JCC(12) JCC(13) JCC(14) JCC(15)

static const vmci_exec_fn jcc[16] = {
    jcc_0, jcc_1, jcc_2,  jcc_3,  jcc_4,  jcc_5,  jcc_6,  jcc_7,
    jcc_8, jcc_9, jcc_10, jcc_11, jcc_12, jcc_13, jcc_14, jcc_15,
};
/* clang-format on */

/* ---- choice ---------------------------------------------------------------------------------- */

static unsigned width_index(unsigned size)
{
    return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
}

#define BY_WIDTH(name)                                                                             \
    {                                                                                              \
        name##8, name##16, name##32, name##64                                                      \
    }

static vmci_exec_fn plain_mov(const struct vmci_insn *in)
{
    static const vmci_exec_fn t[5][4] = {
        BY_WIDTH(mov_rr), BY_WIDTH(mov_ri), BY_WIDTH(mov_rm), BY_WIDTH(mov_mr), BY_WIDTH(mov_mi),
    };
    bool mem0 = in->opnd[0].kind == VMCI_OPND_MEM;
    unsigned src = in->opnd[1].kind;
    unsigned f = mem0                   ? (src == VMCI_OPND_IMM ? 4 : 3)
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

vmci_exec_fn width_handler(const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_MOV:
        return plain_mov(in);
    case VMCI_OP_MOVZX:
    case VMCI_OP_MOVSX:
        return extend[in->op == VMCI_OP_MOVSX][width_index(in->opsize) - 1]
                     [width_index(in->opnd[1].size)][in->opnd[1].kind == VMCI_OPND_MEM];
    case VMCI_OP_XCHG:
    case VMCI_OP_XADD:
    case VMCI_OP_CMPXCHG:
        return atomics(in);
    case VMCI_OP_JCC:
        return jcc[in->cond];
    default:
        return NULL;
    }
}
