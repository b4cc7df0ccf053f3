/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two-operand and one-operand arithmetic and logic. The host's own instruction computes result and
 * flags, so that also the flags that the manual leaves undefined are those of this silicon.
 */
#include "cpu/interp/exec.h"

/* Suffix of the instruction for each width. */
#define SX8  "b"
#define SX16 "w"
#define SX32 "l"
#define SX64 "q"
/* Constraint of a register operand. */
#define RC8  "q"
#define RC16 "r"
#define RC32 "r"
#define RC64 "r"

/*
 * One handler for a binary operation, by form:
 *   rr register, register    ri register, immediate    rm register, memory
 *   mr memory, register      mi memory, immediate
 * PRE: instructions before the operation (loading CF).
 */
#define ALU_REG_BODY(op, PRE, W, B)                                                                \
    u##W a = get_r##W(cpu, &in->opnd[0]), b = (B);                                                 \
    u32 ax;                                                                                        \
    u32 cf = (u32)cpu->rflags;                                                                     \
    (void)cf;                                                                                      \
    __asm__(PRE op SX##W " %[b], %[a]\n\t" ASM_FLAGS                                               \
            : [a] "+" RC##W(a), "=&a"(ax)                                                          \
            : [b] RC##W(b), [cf] "r"(cf)                                                           \
            : "cc");                                                                               \
    set_flags(cpu, ax);                                                                            \
    put_r##W(cpu, &in->opnd[0], a);                                                                \
    return 0;

#define ALU_MEM_BODY(op, PRE, W, B)                                                                \
    u64 la;                                                                                        \
    int rc = insn_la(cpu, in, sizeof(u##W), true, &la);                                            \
    if (unlikely(rc != 0))                                                                         \
        return rc;                                                                                 \
    u##W b = (B);                                                                                  \
    u32 ax;                                                                                        \
    u32 cf = (u32)cpu->rflags;                                                                     \
    bool lock = (in->flags & VMCI_IF_LOCK) != 0;                                                   \
    u##W##_u *p = rmw_begin(cpu, la, sizeof(u##W), lock, &rc);                                     \
    if (unlikely(p == NULL))                                                                       \
        return rc;                                                                                 \
    (void)cf;                                                                                      \
    if (lock)                                                                                      \
        __asm__ volatile(PRE "lock; " op SX##W " %[b], %[m]\n\t" ASM_FLAGS                         \
                         : [m] "+m"(*p), "=&a"(ax)                                                 \
                         : [b] RC##W(b), [cf] "r"(cf)                                              \
                         : "cc", "memory");                                                        \
    else                                                                                           \
        __asm__ volatile(PRE op SX##W " %[b], %[m]\n\t" ASM_FLAGS                                  \
                         : [m] "+m"(*p), "=&a"(ax)                                                 \
                         : [b] RC##W(b), [cf] "r"(cf)                                              \
                         : "cc", "memory");                                                        \
    rc = rmw_done(cpu);                                                                            \
    if (unlikely(rc != 0))                                                                         \
        return rc;                                                                                 \
    set_flags(cpu, ax);                                                                            \
    return 0;

#define LOAD_SRC(W)                                                                                \
    u64 la_;                                                                                       \
    u##W v_;                                                                                       \
    int rc_ = insn_la(cpu, in, sizeof(u##W), false, &la_);                                         \
    if (unlikely(rc_ != 0) || unlikely((rc_ = ld##W(cpu, la_, &v_)) != 0))                         \
        return rc_;

#define ALU_WIDTH(name, op, PRE, W)                                                                \
    static EXEC(name##_rr##W)                                                                      \
    {                                                                                              \
        ALU_REG_BODY(op, PRE, W, get_r##W(cpu, &in->opnd[1]))                                      \
    }                                                                                              \
    static EXEC(name##_ri##W)                                                                      \
    {                                                                                              \
        ALU_REG_BODY(op, PRE, W, (u##W)in->imm)                                                    \
    }                                                                                              \
    static EXEC(name##_rm##W)                                                                      \
    {                                                                                              \
        LOAD_SRC(W)                                                                                \
        ALU_REG_BODY(op, PRE, W, v_)                                                               \
    }                                                                                              \
    static EXEC(name##_mr##W)                                                                      \
    {                                                                                              \
        ALU_MEM_BODY(op, PRE, W, get_r##W(cpu, &in->opnd[1]))                                      \
    }                                                                                              \
    static EXEC(name##_mi##W)                                                                      \
    {                                                                                              \
        ALU_MEM_BODY(op, PRE, W, (u##W)in->imm)                                                    \
    }

/* CMP and TEST write nothing: both operands are values. */
#define CMP_BODY(op, W, A, B)                                                                      \
    u##W a = (A), b = (B);                                                                         \
    u32 ax;                                                                                        \
    __asm__(op SX##W " %[b], %[a]\n\t" ASM_FLAGS                                                   \
            : "=&a"(ax)                                                                            \
            : [a] RC##W(a), [b] RC##W(b)                                                           \
            : "cc");                                                                               \
    set_flags(cpu, ax);                                                                            \
    return 0;

#define CMP_WIDTH(name, op, PRE, W)                                                                \
    static EXEC(name##_rr##W)                                                                      \
    {                                                                                              \
        CMP_BODY(op, W, get_r##W(cpu, &in->opnd[0]), get_r##W(cpu, &in->opnd[1]))                  \
    }                                                                                              \
    static EXEC(name##_ri##W)                                                                      \
    {                                                                                              \
        CMP_BODY(op, W, get_r##W(cpu, &in->opnd[0]), (u##W)in->imm)                                \
    }                                                                                              \
    static EXEC(name##_rm##W)                                                                      \
    {                                                                                              \
        LOAD_SRC(W)                                                                                \
        CMP_BODY(op, W, get_r##W(cpu, &in->opnd[0]), v_)                                           \
    }                                                                                              \
    static EXEC(name##_mr##W)                                                                      \
    {                                                                                              \
        LOAD_SRC(W)                                                                                \
        CMP_BODY(op, W, v_, get_r##W(cpu, &in->opnd[1]))                                           \
    }                                                                                              \
    static EXEC(name##_mi##W)                                                                      \
    {                                                                                              \
        LOAD_SRC(W)                                                                                \
        CMP_BODY(op, W, v_, (u##W)in->imm)                                                         \
    }

#define ALL_WIDTHS(KIND, name, op, PRE)                                                            \
    KIND(name, op, PRE, 8) KIND(name, op, PRE, 16) KIND(name, op, PRE, 32) KIND(name, op, PRE, 64)

#define CF_IN "btl $0, %[cf]\n\t"
/* clang-format off */
ALL_WIDTHS(ALU_WIDTH, add, "add", "")
ALL_WIDTHS(ALU_WIDTH, or, "or", "")
ALL_WIDTHS(ALU_WIDTH, adc, "adc", CF_IN)
ALL_WIDTHS(ALU_WIDTH, sbb, "sbb", CF_IN)
ALL_WIDTHS(ALU_WIDTH, and, "and", "")
ALL_WIDTHS(ALU_WIDTH, sub, "sub", "")
ALL_WIDTHS(ALU_WIDTH, xor, "xor", "")
ALL_WIDTHS(CMP_WIDTH, cmp, "cmp", "")
ALL_WIDTHS(CMP_WIDTH, test, "test", "")

/* ---- one operand ----------------------------------------------------------------------------- */

#define ONE_WIDTH(name, op, MASK, W)                                                               \
    static EXEC(name##_r##W)                                                                       \
    {                                                                                              \
        u##W a = get_r##W(cpu, &in->opnd[0]);                                                      \
        u32 ax;                                                                                    \
        __asm__(op SX##W " %[a]\n\t" ASM_FLAGS : [a] "+" RC##W(a), "=&a"(ax) : : "cc");            \
        set_flags_mask(cpu, ax, MASK);                                                             \
        put_r##W(cpu, &in->opnd[0], a);                                                            \
        return 0;                                                                                  \
    }                                                                                              \
    static EXEC(name##_m##W)                                                                       \
    {                                                                                              \
        u64 la;                                                                                    \
        u32 ax;                                                                                    \
        bool lock = (in->flags & VMCI_IF_LOCK) != 0;                                               \
        int rc = insn_la(cpu, in, sizeof(u##W), true, &la);                                        \
        if (unlikely(rc != 0))                                                                     \
            return rc;                                                                             \
        u##W##_u *p = rmw_begin(cpu, la, sizeof(u##W), lock, &rc);                                 \
        if (unlikely(p == NULL))                                                                   \
            return rc;                                                                             \
        if (lock)                                                                                  \
            __asm__ volatile("lock; " op SX##W " %[m]\n\t" ASM_FLAGS                               \
                             : [m] "+m"(*p), "=&a"(ax) : : "cc", "memory");                        \
        else                                                                                       \
            __asm__ volatile(op SX##W " %[m]\n\t" ASM_FLAGS                                        \
                             : [m] "+m"(*p), "=&a"(ax) : : "cc", "memory");                        \
        rc = rmw_done(cpu);                                                                        \
        if (unlikely(rc != 0))                                                                     \
            return rc;                                                                             \
        set_flags_mask(cpu, ax, MASK);                                                             \
        return 0;                                                                                  \
    }

#define NOT_CF (VMC_FLAG_ARITH & ~VMC_FLAG_CF)
ALL_WIDTHS(ONE_WIDTH, inc, "inc", NOT_CF)
ALL_WIDTHS(ONE_WIDTH, dec, "dec", NOT_CF)
ALL_WIDTHS(ONE_WIDTH, neg, "neg", VMC_FLAG_ARITH)
ALL_WIDTHS(ONE_WIDTH, not, "not", 0)

/* ---- choice ---------------------------------------------------------------------------------- */

enum form { RR, RI, RM, MR, MI, FORMS };

#define FORM_ROW(name, W)                                                                          \
    {name##_rr##W, name##_ri##W, name##_rm##W, name##_mr##W, name##_mi##W}
#define OP_ROWS(name) {FORM_ROW(name, 8), FORM_ROW(name, 16), FORM_ROW(name, 32), FORM_ROW(name, 64)}

/* ADD..XOR, CMP, TEST: in the order of enum vmci_op. */
static const vmci_exec_fn binary[9][4][FORMS] = {
    OP_ROWS(add), OP_ROWS(or), OP_ROWS(adc), OP_ROWS(sbb), OP_ROWS(and), OP_ROWS(sub),
    OP_ROWS(xor), OP_ROWS(cmp), OP_ROWS(test),
};
_Static_assert(VMCI_OP_TEST - VMCI_OP_ADD == 8, "order of binary[]");

#define ONE_ROWS(name)                                                                             \
    {{name##_r8, name##_m8}, {name##_r16, name##_m16}, {name##_r32, name##_m32},                   \
     {name##_r64, name##_m64}}
static const vmci_exec_fn unary[4][4][2] = {
    ONE_ROWS(inc), ONE_ROWS(dec), ONE_ROWS(neg), ONE_ROWS(not),
};
_Static_assert(VMCI_OP_NOT - VMCI_OP_INC == 3, "order of unary[]");
/* clang-format on */

static unsigned width_index(unsigned size)
{
    return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
}

vmci_exec_fn alu_handler(const struct vmci_insn *in)
{
    unsigned w = width_index(in->opsize);
    bool mem0 = in->opnd[0].kind == VMCI_OPND_MEM;

    if (in->op >= VMCI_OP_ADD && in->op <= VMCI_OP_TEST) {
        unsigned src = in->opnd[1].kind;
        enum form f = mem0 ? (src == VMCI_OPND_IMM ? MI : MR)
                      : src == VMCI_OPND_IMM ? RI
                      : src == VMCI_OPND_MEM ? RM
                                             : RR;
        return binary[in->op - VMCI_OP_ADD][w][f];
    }
    if (in->op >= VMCI_OP_INC && in->op <= VMCI_OP_NOT)
        return unary[in->op - VMCI_OP_INC][w][mem0];
    return NULL;
}
