/* SPDX-License-Identifier: BSD-2-Clause */
/* Multiplication, division, decimal adjustment. */
#include "cpu/interp/exec.h"

/* ---- MUL, IMUL ------------------------------------------------------------------------------- */

/*
 * Product of the accumulator with a value: low and high half, and the flags. RAX is needed for both
 * the operand and LAHF, so the two change places around the instruction.
 */
static void mul_host(bool sign, unsigned size, u64 a, u64 v, u64 *lo, u64 *hi, u32 *flags)
{
    u64 f;

#define ONE(op, sx, T)                                                                             \
    {                                                                                              \
        T l = (T)a, h = 0;                                                                         \
        u32 ax = *flags;                                                                           \
        __asm__("xchg %[f], %%rax\n\t" ASM_LOAD_FLAGS "mov %[f], %%rax\n\t" op sx " %[v]\n\t"      \
                "mov %%rax, %[f]\n\t" ASM_FLAGS "\n\txchg %[f], %%rax"                             \
                : "=&a"(f), "=&d"(h), [f] "=&r"(f2)                                                \
                : "0"((u64)l), "2"((u64)ax), [v] "r"((T)v)                                         \
                : "cc");                                                                           \
        *lo = (T)f;                                                                                \
        *hi = h;                                                                                   \
        *flags = (u32)f2;                                                                          \
    }
    u64 f2;
    if (sign) {
        if (size == 8)
            ONE("imul", "q", u64)
        else if (size == 4)
            ONE("imul", "l", u32)
        else
            ONE("imul", "w", u16)
    } else {
        if (size == 8)
            ONE("mul", "q", u64)
        else if (size == 4)
            ONE("mul", "l", u32)
        else
            ONE("mul", "w", u16)
    }
#undef ONE
}

static void mul_host8(bool sign, u8 a, u8 v, u16 *product, u32 *flags)
{
    u64 r = a, f = *flags;

#define ONE(op)                                                                                    \
    __asm__("xchg %[f], %%rax\n\t" ASM_LOAD_FLAGS "mov %[f], %%rax\n\t" op "b %[v]\n\t"            \
            "mov %%rax, %[f]\n\t" ASM_FLAGS "\n\txchg %[f], %%rax"                                 \
            : "+&a"(r), [f] "+&r"(f)                                                               \
            : [v] "q"(v)                                                                           \
            : "cc")
    if (sign)
        ONE("imul");
    else
        ONE("mul");
#undef ONE
    *product = (u16)r;
    *flags = (u32)f;
}

static EXEC(mul1)
{
    bool sign = in->op == VMCI_OP_IMUL1;
    u32 ax = flags_ax(cpu);
    u64 v, lo, hi;
    int rc = exec_src(cpu, in, 0, in->opsize, &v);

    if (rc != 0)
        return rc;
    if (in->opsize == 1) {
        u16 p;
        mul_host8(sign, (u8)cpu->gpr[VMC_RAX], (u8)v, &p, &ax);
        put_gpr(cpu, VMC_RAX, 2, p);
    } else {
        mul_host(sign, in->opsize, cpu->gpr[VMC_RAX], v, &lo, &hi, &ax);
        put_gpr(cpu, VMC_RAX, in->opsize, lo);
        put_gpr(cpu, VMC_RDX, in->opsize, hi);
    }
    set_flags(cpu, ax);
    return 0;
}

#define IMUL_ASM(sx, T)                                                                            \
    {                                                                                              \
        T t = (T)a;                                                                                \
        __asm__(ASM_LOAD_FLAGS "imul" sx " %[v], %[t]\n\t" ASM_FLAGS                               \
                : [t] "+r"(t), "+a"(ax)                                                            \
                : [v] "r"((T)b)                                                                    \
                : "cc");                                                                           \
        a = t;                                                                                     \
    }

static EXEC(imul23)
{
    u32 ax = flags_ax(cpu);
    u64 a, b;
    int rc = exec_src(cpu, in, 1, in->opsize, &b);

    if (rc != 0)
        return rc;
    a = in->op == VMCI_OP_IMUL3 ? (u64)in->imm : get_reg(cpu, &in->opnd[0], in->opsize);
    if (in->opsize == 8)
        IMUL_ASM("q", u64)
    else if (in->opsize == 4)
        IMUL_ASM("l", u32)
    else
        IMUL_ASM("w", u16)
    set_flags(cpu, ax);
    put_reg(cpu, &in->opnd[0], in->opsize, a);
    return 0;
}

/* ---- DIV, IDIV ------------------------------------------------------------------------------- */

/* hi:lo / v with hi < v. */
static void div_host(u64 hi, u64 lo, u64 v, u64 *quot, u64 *rem)
{
    __asm__("divq %[v]" : "=a"(*quot), "=d"(*rem) : "0"(lo), "1"(hi), [v] "r"(v) : "cc");
}

/* Unsigned division of a double-width value; false: #DE. */
static bool div_unsigned(unsigned size, u64 hi, u64 lo, u64 v, u64 *quot, u64 *rem)
{
    if (size == 8) {
        if (hi >= v)
            return false;
        div_host(hi, lo, v, quot, rem);
        return true;
    }
    u64 n = hi << (8 * size) | lo;
    if (v == 0)
        return false;
    *quot = n / v;
    *rem = n % v;
    return *quot >> (8 * size) == 0;
}

static bool div_signed(unsigned size, u64 hi, u64 lo, u64 v, u64 *quot, u64 *rem)
{
    u64 sign = 1ull << (8 * size - 1);
    bool neg_n = (hi & sign) != 0, neg_v = (v & sign) != 0;

    if (neg_n) { /* negate the double-width dividend */
        lo = cut(0 - lo, size);
        hi = cut(~hi + (lo == 0), size);
    }
    if (neg_v)
        v = cut(0 - v, size);
    if (!div_unsigned(size, hi, lo, v, quot, rem))
        return false;
    if (*quot > sign - (neg_n == neg_v))
        return false;
    if (neg_n != neg_v)
        *quot = 0 - *quot;
    if (neg_n)
        *rem = 0 - *rem;
    return true;
}

static EXEC(divide)
{
    unsigned size = in->opsize;
    bool sign = in->op == VMCI_OP_IDIV;
    u64 v, lo, hi, quot, rem;
    int rc = exec_src(cpu, in, 0, size, &v);

    if (rc != 0)
        return rc;
    lo = cut(cpu->gpr[VMC_RAX], size);
    hi = size == 1 ? (u8)(cpu->gpr[VMC_RAX] >> 8) : cut(cpu->gpr[VMC_RDX], size);
    v = cut(v, size);
    if (!(sign ? div_signed(size, hi, lo, v, &quot, &rem)
               : div_unsigned(size, hi, lo, v, &quot, &rem)))
        return vmci_raise(cpu, VMC_VEC_DE);
    if (size == 1) {
        put_gpr(cpu, VMC_RAX, 2, (u8)quot | (u64)(u8)rem << 8);
    } else {
        put_gpr(cpu, VMC_RAX, size, quot);
        put_gpr(cpu, VMC_RDX, size, rem);
    }
    return 0; /* the flags are undefined: left alone */
}

/* ---- decimal --------------------------------------------------------------------------------- */

static void decimal_flags(struct vmci_cpu *cpu, u8 al, bool cf, bool af)
{
    u32 ax;

    __asm__("testb %[v], %[v]\n\t" ASM_FLAGS : "=&a"(ax) : [v] "q"(al) : "cc");
    set_flags(cpu, ax);
    put_flag(cpu, VMC_FLAG_CF, cf);
    put_flag(cpu, VMC_FLAG_AF, af);
}

/* OF as the addition or subtraction has it that corrects by c; left undefined by the manual, as ZF
   and SF of AAA and AAS and CF and AF of AAD: these are an EPYC 9004's. */
static void correction(struct vmci_cpu *cpu, bool sub, u32 a, u32 c, u32 result, u32 sign)
{
    put_flag(cpu, VMC_FLAG_OF, ((sub ? a ^ c : ~(a ^ c)) & (a ^ result) & sign) != 0);
}

static EXEC(daa_das)
{
    bool sub = in->op == VMCI_OP_DAS, old_cf = (cpu->rflags & VMC_FLAG_CF) != 0, cf = false;
    bool af = (cpu->rflags & VMC_FLAG_AF) != 0;
    u8 old = (u8)cpu->gpr[VMC_RAX], c = 0;

    if ((old & 15) > 9 || af) {
        cf = old_cf || (sub ? old < 6 : old > 0xf9);
        c = 6;
        af = true;
    }
    if (old > 0x99 || old_cf) {
        c += 0x60;
        cf = true;
    } else if (!sub) {
        cf = false;
    }
    u8 al = (u8)(sub ? old - c : old + c);
    decimal_flags(cpu, al, cf, af);
    correction(cpu, sub, old, c, al, 0x80);
    put_gpr(cpu, VMC_RAX, 1, al);
    return 0;
}

static EXEC(aaa_aas)
{
    bool sub = in->op == VMCI_OP_AAS;
    u16 old = (u16)cpu->gpr[VMC_RAX];
    bool adjust = (old & 15) > 9 || (cpu->rflags & VMC_FLAG_AF) != 0;
    u16 c = adjust ? 0x106 : 0;
    u16 ax = (u16)(sub ? old - c : old + c);

    decimal_flags(cpu, (u8)ax, adjust, adjust);
    put_flag(cpu, VMC_FLAG_ZF, ax == 0);
    put_flag(cpu, VMC_FLAG_SF, (ax & 0x8000u) != 0);
    correction(cpu, sub, old, c, ax, 0x8000);
    put_gpr(cpu, VMC_RAX, 2, ax & 0xff0f);
    return 0;
}

static EXEC(aam)
{
    u8 al = (u8)cpu->gpr[VMC_RAX], base = (u8)in->imm;

    if (base == 0)
        return vmci_raise(cpu, VMC_VEC_DE);
    u16 ax = (u16)((al / base) << 8 | al % base);
    decimal_flags(cpu, (u8)ax, false, false);
    put_gpr(cpu, VMC_RAX, 2, ax);
    return 0;
}

static EXEC(aad)
{
    u16 ax = (u16)cpu->gpr[VMC_RAX];
    u8 old = (u8)ax, tens = (u8)((ax >> 8) * (unsigned)(u8)in->imm);
    u8 al = (u8)(old + tens);

    decimal_flags(cpu, al, old + tens > 0xff, ((old ^ tens ^ al) & 0x10) != 0);
    correction(cpu, false, old, tens, al, 0x80);
    put_gpr(cpu, VMC_RAX, 2, al);
    return 0;
}

vmci_exec_fn mul_handler(const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_MUL:
    case VMCI_OP_IMUL1:
        return mul1;
    case VMCI_OP_IMUL2:
    case VMCI_OP_IMUL3:
        return imul23;
    case VMCI_OP_DIV:
    case VMCI_OP_IDIV:
        return divide;
    case VMCI_OP_DAA:
    case VMCI_OP_DAS:
        return daa_das;
    case VMCI_OP_AAA:
    case VMCI_OP_AAS:
        return aaa_aas;
    case VMCI_OP_AAM:
        return aam;
    case VMCI_OP_AAD:
        return aad;
    default:
        return NULL;
    }
}
