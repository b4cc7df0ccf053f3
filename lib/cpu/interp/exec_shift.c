/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Shifts and rotates. The guest's flags are loaded first: what the host leaves alone keeps the
 * guest's value, and a count of zero changes nothing.
 */
#include "cpu/interp/exec.h"

struct sh {
    u64 v;
    u32 ax;
};

#define SHIFT_ASM(op, sx, T)                                                                       \
    {                                                                                              \
        T t = (T)s->v;                                                                             \
        __asm__(ASM_LOAD_FLAGS op sx " %%cl, %[t]\n\t" ASM_FLAGS                                   \
                : [t] "+q"(t), "+a"(s->ax)                                                         \
                : "c"(count)                                                                       \
                : "cc");                                                                           \
        s->v = t;                                                                                  \
    }
#define SHIFT_FN(name, op)                                                                         \
    static void name(struct sh *s, unsigned size, u8 count)                                        \
    {                                                                                              \
        if (size == 4)                                                                             \
            SHIFT_ASM(op, "l", u32)                                                                \
        else if (size == 8)                                                                        \
            SHIFT_ASM(op, "q", u64)                                                                \
        else if (size == 1)                                                                        \
            SHIFT_ASM(op, "b", u8)                                                                 \
        else                                                                                       \
            SHIFT_ASM(op, "w", u16)                                                                \
    }
/* An operand in memory that rmw_begin gave. */
static u64 operand_get(const void *p, unsigned bytes)
{
    switch (bytes) {
    case 1:
        return *(const volatile u8 *)p;
    case 2:
        return *(const volatile u16_u *)p;
    case 4:
        return *(const volatile u32_u *)p;
    default:
        return *(const volatile u64_u *)p;
    }
}

static void operand_put(void *p, unsigned bytes, u64 v)
{
    switch (bytes) {
    case 1:
        *(volatile u8 *)p = (u8)v;
        break;
    case 2:
        *(volatile u16_u *)p = (u16)v;
        break;
    case 4:
        *(volatile u32_u *)p = (u32)v;
        break;
    default:
        *(volatile u64_u *)p = v;
        break;
    }
}

/* clang-format off */
SHIFT_FN(do_rol, "rol") SHIFT_FN(do_ror, "ror") SHIFT_FN(do_rcl, "rcl") SHIFT_FN(do_rcr, "rcr")
SHIFT_FN(do_shl, "shl") SHIFT_FN(do_shr, "shr") SHIFT_FN(do_sar, "sar")
/* clang-format on */

typedef void (*shift_fn)(struct sh *s, unsigned size, u8 count);

static inline u8 count_of(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned n)
{
    u8 c = in->opnd[n].kind == VMCI_OPND_IMM ? (u8)in->imm : (u8)cpu->gpr[VMC_RCX];
    return c & (in->opsize == 8 ? 63 : 31);
}

static inline int shift(struct vmci_cpu *cpu, const struct vmci_insn *in, shift_fn fn)
{
    struct sh s = {0, flags_ax(cpu)};
    u8 count = count_of(cpu, in, 1);
    u64 la;
    int rc;

    if (in->opnd[0].kind != VMCI_OPND_MEM) {
        s.v = get_reg(cpu, &in->opnd[0], in->opsize);
        fn(&s, in->opsize, count);
        set_flags(cpu, s.ax);
        put_reg(cpu, &in->opnd[0], in->opsize, s.v);
        return 0;
    }
    rc = insn_la(cpu, in, in->opsize, true, &la);
    if (rc != 0)
        return rc;
    void *p = rmw_begin(cpu, la, in->opsize, false, &rc);
    if (p == NULL)
        return rc;
    s.v = operand_get(p, in->opsize);
    fn(&s, in->opsize, count);
    operand_put(p, in->opsize, s.v);
    rc = rmw_done(cpu);
    if (rc == 0)
        set_flags(cpu, s.ax);
    return rc;
}

#define SHIFT_EXEC(name)                                                                           \
    static EXEC(name)                                                                              \
    {                                                                                              \
        return shift(cpu, in, do_##name);                                                          \
    }
SHIFT_EXEC(rol)
SHIFT_EXEC(ror)
SHIFT_EXEC(rcl)
SHIFT_EXEC(rcr)
SHIFT_EXEC(shl)
SHIFT_EXEC(shr)
SHIFT_EXEC(sar)

/* The frequent forms: a register by a constant other than zero. */
#define SHIFT_RI(name, op, sx, W)                                                                  \
    static EXEC(name##_ri##W)                                                                      \
    {                                                                                              \
        u##W t = get_r##W(cpu, &in->opnd[0]);                                                      \
        u32 ax = flags_ax(cpu);                                                                    \
        __asm__(ASM_LOAD_FLAGS op sx " %%cl, %[t]\n\t" ASM_FLAGS                                   \
                : [t] "+r"(t), "+a"(ax)                                                            \
                : "c"((u8)in->imm)                                                                 \
                : "cc");                                                                           \
        set_flags(cpu, ax);                                                                        \
        put_r##W(cpu, &in->opnd[0], t);                                                            \
        return 0;                                                                                  \
    }
SHIFT_RI(shl, "shl", "l", 32)
SHIFT_RI(shl, "shl", "q", 64)
SHIFT_RI(shr, "shr", "l", 32)
SHIFT_RI(shr, "shr", "q", 64)
SHIFT_RI(sar, "sar", "l", 32)
SHIFT_RI(sar, "sar", "q", 64)

/* ---- SHLD, SHRD ------------------------------------------------------------------------------ */

#define DOUBLE_ASM(op, sx, T)                                                                      \
    {                                                                                              \
        T t = (T)s->v;                                                                             \
        __asm__(ASM_LOAD_FLAGS op sx " %%cl, %[r], %[t]\n\t" ASM_FLAGS                             \
                : [t] "+r"(t), "+a"(s->ax)                                                         \
                : [r] "r"((T)reg), "c"(count)                                                      \
                : "cc");                                                                           \
        s->v = t;                                                                                  \
    }

static void double_shift(struct sh *s, u64 reg, unsigned size, u8 count, bool left)
{
    if (left) {
        if (size == 8)
            DOUBLE_ASM("shld", "q", u64)
        else if (size == 4)
            DOUBLE_ASM("shld", "l", u32)
        else
            DOUBLE_ASM("shld", "w", u16)
    } else {
        if (size == 8)
            DOUBLE_ASM("shrd", "q", u64)
        else if (size == 4)
            DOUBLE_ASM("shrd", "l", u32)
        else
            DOUBLE_ASM("shrd", "w", u16)
    }
}

static EXEC(shxd)
{
    struct sh s = {0, flags_ax(cpu)};
    u8 count = count_of(cpu, in, 2);
    u64 reg = get_reg(cpu, &in->opnd[1], in->opsize), la;
    bool left = in->op == VMCI_OP_SHLD;
    int rc;

    if (in->opnd[0].kind != VMCI_OPND_MEM) {
        s.v = get_reg(cpu, &in->opnd[0], in->opsize);
        double_shift(&s, reg, in->opsize, count, left);
        set_flags(cpu, s.ax);
        put_reg(cpu, &in->opnd[0], in->opsize, s.v);
        return 0;
    }
    rc = insn_la(cpu, in, in->opsize, true, &la);
    if (rc != 0)
        return rc;
    void *p = rmw_begin(cpu, la, in->opsize, false, &rc);
    if (p == NULL)
        return rc;
    s.v = operand_get(p, in->opsize);
    double_shift(&s, reg, in->opsize, count, left);
    operand_put(p, in->opsize, s.v);
    rc = rmw_done(cpu);
    if (rc == 0)
        set_flags(cpu, s.ax);
    return rc;
}

/* ---- BMI2 shifts: no flags ------------------------------------------------------------------- */

static EXEC(shift_bmi)
{
    u64 v;
    unsigned bits = 8u * in->opsize;
    int rc = exec_src(cpu, in, 1, in->opsize, &v);

    if (rc != 0)
        return rc;
    unsigned c = (in->op == VMCI_OP_RORX ? (unsigned)in->imm : (unsigned)cpu->gpr[in->opnd[2].reg]);
    c &= bits - 1;
    switch (in->op) {
    case VMCI_OP_SHLX:
        v = v << c;
        break;
    case VMCI_OP_SHRX:
        v = cut(v, in->opsize) >> c;
        break;
    case VMCI_OP_SARX:
        v = (u64)((int64_t)sext(v, in->opsize) >> c);
        break;
    default: /* RORX */
        v = cut(v, in->opsize);
        if (c != 0)
            v = v >> c | v << (bits - c);
        break;
    }
    put_reg(cpu, &in->opnd[0], in->opsize, cut(v, in->opsize));
    return 0;
}

vmci_exec_fn shift_handler(const struct vmci_insn *in)
{
    static const vmci_exec_fn general[] = {rol, ror, rcl, rcr, shl, shr, sar};
    static const vmci_exec_fn imm[3][2] = {
        {shl_ri32, shl_ri64}, {shr_ri32, shr_ri64}, {sar_ri32, sar_ri64}};

    switch (in->op) {
    case VMCI_OP_SHL:
    case VMCI_OP_SHR:
    case VMCI_OP_SAR:
        if (in->opnd[0].kind == VMCI_OPND_GPR && in->opsize >= 4 &&
            in->opnd[1].kind == VMCI_OPND_IMM)
            return imm[in->op - VMCI_OP_SHL][in->opsize == 8];
        return general[in->op - VMCI_OP_ROL];
    case VMCI_OP_ROL:
    case VMCI_OP_ROR:
    case VMCI_OP_RCL:
    case VMCI_OP_RCR:
        return general[in->op - VMCI_OP_ROL];
    case VMCI_OP_SHLD:
    case VMCI_OP_SHRD:
        return shxd;
    case VMCI_OP_RORX:
    case VMCI_OP_SARX:
    case VMCI_OP_SHLX:
    case VMCI_OP_SHRX:
        return shift_bmi;
    default:
        return NULL;
    }
}
