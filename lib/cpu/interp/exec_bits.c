/* SPDX-License-Identifier: BSD-2-Clause */
/* Bits: test and set, scan, count, BMI1 and BMI2, ADX, CRC32. */
#include "cpu/interp/exec.h"

/* ---- BT, BTS, BTR, BTC ----------------------------------------------------------------------- */

/* On a host location of the operand's size; CF to *ax. The bit number is within the operand. */
#define BIT_ASM(op, sx, T)                                                                         \
    if (lock)                                                                                      \
        __asm__ volatile(ASM_LOAD_FLAGS "lock; " op sx " %[n], %[m]\n\t" ASM_FLAGS                 \
                         : [m] "+m"(*(T *)p), "+a"(*ax)                                            \
                         : [n] "r"((T)bit)                                                         \
                         : "cc", "memory");                                                        \
    else                                                                                           \
        __asm__ volatile(ASM_LOAD_FLAGS op sx " %[n], %[m]\n\t" ASM_FLAGS                          \
                         : [m] "+m"(*(T *)p), "+a"(*ax)                                            \
                         : [n] "r"((T)bit)                                                         \
                         : "cc", "memory");
#define BIT_SIZES(op)                                                                              \
    if (size == 8) {                                                                               \
        BIT_ASM(op, "q", u64_u)                                                                    \
    } else if (size == 4) {                                                                        \
        BIT_ASM(op, "l", u32_u)                                                                    \
    } else {                                                                                       \
        BIT_ASM(op, "w", u16_u)                                                                    \
    }

static void bit_op(unsigned op, void *p, unsigned size, u64 bit, bool lock, u32 *ax)
{
    switch (op) {
    case VMCI_OP_BTS:
        BIT_SIZES("bts")
        break;
    case VMCI_OP_BTR:
        BIT_SIZES("btr")
        break;
    case VMCI_OP_BTC:
        BIT_SIZES("btc")
        break;
    default: {
        u64 v = size == 8 ? *(u64_u *)p : size == 4 ? *(u32_u *)p : *(u16_u *)p;
        __asm__(ASM_LOAD_FLAGS "btq %[n], %[v]\n\t" ASM_FLAGS
                : "+a"(*ax)
                : [v] "r"(v), [n] "r"(bit)
                : "cc");
        break;
    }
    }
}

/* The memory form with a register bit number reaches beyond the operand (SDM 2A, BT). */
static u64 bit_ea(struct vmci_cpu *cpu, const struct vmci_insn *in, u64 bit)
{
    u64 ea = vmci_ea(cpu, in);

    if (in->opnd[1].kind == VMCI_OPND_IMM)
        return ea;
    int64_t n = (int64_t)sext(bit, in->opsize);
    int64_t unit = in->opsize == 8 ? n >> 6 : in->opsize == 4 ? n >> 5 : n >> 4;
    return cut(ea + (u64)(unit * in->opsize), in->addrsize);
}

static EXEC(bt)
{
    u64 bit =
        in->opnd[1].kind == VMCI_OPND_IMM ? (u64)in->imm : get_reg(cpu, &in->opnd[1], in->opsize);
    u64 in_operand = bit & (8u * in->opsize - 1), la, v;
    u32 ax = flags_ax(cpu);
    bool write = in->op != VMCI_OP_BT;
    int rc;

    if (in->opnd[0].kind != VMCI_OPND_MEM) {
        v = get_reg(cpu, &in->opnd[0], in->opsize);
        bit_op(in->op, &v, in->opsize, in_operand, false, &ax);
        set_flags(cpu, ax);
        if (write)
            put_reg(cpu, &in->opnd[0], in->opsize, v);
        return 0;
    }
    rc = vmci_insn_la_seg(cpu, in, bit_ea(cpu, in, bit), in->opsize, write, &la);
    if (rc != 0)
        return rc;
    if (!write) {
        rc = vmci_rd(cpu, la, in->opsize, &v);
        if (rc != 0)
            return rc;
        bit_op(in->op, &v, in->opsize, in_operand, false, &ax);
        set_flags(cpu, ax);
        return 0;
    }
    bool lock = (in->flags & VMCI_IF_LOCK) != 0;
    void *p = rmw_begin(cpu, la, in->opsize, lock, &rc);
    if (p == NULL)
        return rc;
    bit_op(in->op, p, in->opsize, in_operand, lock, &ax);
    rc = rmw_done(cpu);
    if (rc == 0)
        set_flags(cpu, ax);
    return rc;
}

/* ---- scans and counts ------------------------------------------------------------------------ */

#define SCAN_ASM(op, sx, T)                                                                        \
    {                                                                                              \
        T d = (T)dst;                                                                              \
        __asm__(ASM_LOAD_FLAGS op sx " %[s], %[d]\n\t" ASM_FLAGS                                   \
                : [d] "+r"(d), "+a"(ax)                                                            \
                : [s] "r"((T)v)                                                                    \
                : "cc");                                                                           \
        dst = d;                                                                                   \
    }
#define SCAN_SIZES(op)                                                                             \
    if (in->opsize == 8)                                                                           \
        SCAN_ASM(op, "q", u64)                                                                     \
    else if (in->opsize == 4)                                                                      \
        SCAN_ASM(op, "l", u32)                                                                     \
    else                                                                                           \
        SCAN_ASM(op, "w", u16)

/* A zero source leaves the destination as it was, the upper half included. */
static EXEC(bsx)
{
    u64 v, dst = get_reg(cpu, &in->opnd[0], in->opsize);
    u32 ax = flags_ax(cpu);
    int rc = exec_src(cpu, in, 1, in->opsize, &v);

    if (rc != 0)
        return rc;
    if (in->op == VMCI_OP_BSF) {
        SCAN_SIZES("bsf")
    } else {
        SCAN_SIZES("bsr")
    }
    set_flags(cpu, ax);
    if (cut(v, in->opsize) != 0)
        put_reg(cpu, &in->opnd[0], in->opsize, dst);
    return 0;
}

static unsigned count_bits(u64 v)
{
    v -= (v >> 1) & 0x5555555555555555ull;
    v = (v & 0x3333333333333333ull) + ((v >> 2) & 0x3333333333333333ull);
    v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0full;
    return (unsigned)((v * 0x0101010101010101ull) >> 56);
}

static EXEC(count)
{
    u64 v;
    unsigned bits = 8u * in->opsize, n;
    int rc = exec_src(cpu, in, 1, in->opsize, &v);

    if (rc != 0)
        return rc;
    v = cut(v, in->opsize);
    if (in->op == VMCI_OP_POPCNT) {
        n = count_bits(v);
        cpu->rflags &= ~VMC_FLAG_ARITH;
        put_flag(cpu, VMC_FLAG_ZF, v == 0);
    } else if (cpu->host_bmi) {
        u64 dst = 0;
        u32 ax = flags_ax(cpu);
        if (in->op == VMCI_OP_TZCNT) {
            SCAN_SIZES("tzcnt")
        } else {
            SCAN_SIZES("lzcnt")
        }
        set_flags(cpu, ax);
        n = (unsigned)dst;
    } else {
        if (v == 0)
            n = bits;
        else if (in->op == VMCI_OP_TZCNT)
            n = (unsigned)__builtin_ctzll(v);
        else
            n = (unsigned)__builtin_clzll(v) - (64 - bits);
        put_flag(cpu, VMC_FLAG_CF, v == 0);
        put_flag(cpu, VMC_FLAG_ZF, n == 0);
    }
    put_reg(cpu, &in->opnd[0], in->opsize, n);
    return 0;
}

/* ---- BMI1, BMI2 ------------------------------------------------------------------------------ */

/* On a host that has them: the flags that the manual leaves undefined are its own. */
#define BMI_ASM(op, args, T)                                                                       \
    {                                                                                              \
        T d;                                                                                       \
        __asm__(ASM_LOAD_FLAGS op " " args ", %[d]\n\t" ASM_FLAGS                                  \
                : [d] "=&r"(d), "+a"(ax)                                                           \
                : [a] "r"((T)a), [b] "r"((T)b)                                                     \
                : "cc");                                                                           \
        r = d;                                                                                     \
    }
#define BMI_SIZES(op, args)                                                                        \
    if (size == 8)                                                                                 \
        BMI_ASM(op "q", args, u64)                                                                 \
    else                                                                                           \
        BMI_ASM(op "l", args, u32)                                                                 \
    break

static u64 bmi_host(struct vmci_cpu *cpu, unsigned op, unsigned size, u64 a, u64 b)
{
    u64 r = 0;
    u32 ax = flags_ax(cpu);

    switch (op) {
    case VMCI_OP_ANDN:
        BMI_SIZES("andn", "%[b], %[a]");
    case VMCI_OP_BLSI:
        BMI_SIZES("blsi", "%[a]");
    case VMCI_OP_BLSMSK:
        BMI_SIZES("blsmsk", "%[a]");
    case VMCI_OP_BLSR:
        BMI_SIZES("blsr", "%[a]");
    case VMCI_OP_BZHI:
        BMI_SIZES("bzhi", "%[b], %[a]");
    default:
        BMI_SIZES("bextr", "%[b], %[a]");
    }
    set_flags(cpu, ax);
    return r;
}

static void logic_flags(struct vmci_cpu *cpu, u64 v, unsigned size, bool cf)
{
    u64 keep = cpu->rflags & ~(VMC_FLAG_CF | VMC_FLAG_ZF | VMC_FLAG_SF | VMC_FLAG_OF);

    v = cut(v, size);
    cpu->rflags = keep | (cf ? VMC_FLAG_CF : 0) | (v == 0 ? VMC_FLAG_ZF : 0) |
                  (v >> (8 * size - 1) != 0 ? VMC_FLAG_SF : 0);
}

/* ANDN r, vvvv, rm; BLSx vvvv, rm; BEXTR and BZHI r, rm, vvvv: memory may be operand 1 or 2. */
static EXEC(bmi)
{
    unsigned size = in->opsize, bits = 8 * size;
    u64 a, b = 0, r = 0;
    bool cf = false;
    int rc = exec_src(cpu, in, 1, size, &a);

    if (rc == 0 && in->nopnd > 2)
        rc = exec_src(cpu, in, 2, size, &b);
    if (rc != 0)
        return rc;
    a = cut(a, size);
    if (cpu->host_bmi) {
        put_reg(cpu, &in->opnd[0], size, bmi_host(cpu, in->op, size, a, b));
        return 0;
    }
    switch (in->op) {
    case VMCI_OP_ANDN:
        r = ~a & b;
        break;
    case VMCI_OP_BLSI:
        r = a & (0 - a);
        cf = a != 0;
        break;
    case VMCI_OP_BLSMSK:
        r = a ^ (a - 1);
        cf = a == 0;
        break;
    case VMCI_OP_BLSR:
        r = a & (a - 1);
        cf = a == 0;
        break;
    case VMCI_OP_BZHI: {
        unsigned n = (u8)b;
        r = n < bits ? a & ((1ull << n) - 1) : a;
        cf = n >= bits;
        break;
    }
    default: { /* BEXTR */
        unsigned start = (u8)b, len = (u8)(b >> 8);
        r = start < bits ? a >> start : 0;
        if (len < 64)
            r &= (1ull << len) - 1;
        break;
    }
    }
    r = cut(r, size);
    logic_flags(cpu, r, size, cf);
    if (in->op == VMCI_OP_BEXTR) /* SF is undefined; AMD and Intel clear it */
        put_flag(cpu, VMC_FLAG_SF, false);
    put_reg(cpu, &in->opnd[0], size, r);
    return 0;
}

static EXEC(pdep_pext)
{
    unsigned size = in->opsize;
    u64 src, mask, r = 0;
    int rc = exec_src(cpu, in, 1, size, &src);

    if (rc == 0)
        rc = exec_src(cpu, in, 2, size, &mask);
    if (rc != 0)
        return rc;
    mask = cut(mask, size);
    for (unsigned n = 0; mask != 0; n++, mask &= mask - 1) {
        u64 low = mask & (0 - mask);
        if (in->op == VMCI_OP_PDEP)
            r |= (src >> n & 1) != 0 ? low : 0;
        else
            r |= (src & low) != 0 ? 1ull << n : 0;
    }
    put_reg(cpu, &in->opnd[0], size, r);
    return 0;
}

static EXEC(mulx)
{
    u64 v;
    int rc = exec_src(cpu, in, 2, in->opsize, &v);

    if (rc != 0)
        return rc;
    if (in->opsize == 8) {
        unsigned __int128 p = (unsigned __int128)cpu->gpr[VMC_RDX] * v;
        put_r64(cpu, &in->opnd[1], (u64)p);
        put_r64(cpu, &in->opnd[0], (u64)(p >> 64)); /* the same register twice: high half */
    } else {
        u64 p = (u64)(u32)cpu->gpr[VMC_RDX] * (u32)v;
        put_r32(cpu, &in->opnd[1], (u32)p);
        put_r32(cpu, &in->opnd[0], (u32)(p >> 32));
    }
    return 0;
}

static EXEC(adx)
{
    u64 v, flag = in->op == VMCI_OP_ADCX ? VMC_FLAG_CF : VMC_FLAG_OF, sum;
    int rc = exec_src(cpu, in, 1, in->opsize, &v);

    if (rc != 0)
        return rc;
    u64 carry = (cpu->rflags & flag) != 0, a = get_reg(cpu, &in->opnd[0], in->opsize);
    bool out;
    if (in->opsize == 8) {
        bool c1 = __builtin_add_overflow(a, v, &sum);
        bool c2 = __builtin_add_overflow(sum, carry, &sum);
        out = c1 || c2;
    } else {
        sum = a + (u32)v + carry;
        out = sum >> 32 != 0;
    }
    put_reg(cpu, &in->opnd[0], in->opsize, sum);
    put_flag(cpu, flag, out);
    return 0;
}

/* CRC-32C, reflected polynomial; one byte at a time (SDM 2A, CRC32). */
static EXEC(crc32)
{
    u64 v;
    u32 crc = (u32)get_reg(cpu, &in->opnd[0], 4);
    int rc = exec_src(cpu, in, 1, in->opsize, &v);

    if (rc != 0)
        return rc;
    for (unsigned i = 0; i < in->opsize; i++) {
        crc ^= (u8)(v >> (8 * i));
        for (unsigned b = 0; b < 8; b++)
            crc = crc >> 1 ^ (0x82f63b78u & (0u - (crc & 1)));
    }
    put_r32(cpu, &in->opnd[0], crc);
    return 0;
}

vmci_exec_fn bits_handler(const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_BT:
    case VMCI_OP_BTS:
    case VMCI_OP_BTR:
    case VMCI_OP_BTC:
        return bt;
    case VMCI_OP_BSF:
    case VMCI_OP_BSR:
        return bsx;
    case VMCI_OP_LZCNT:
    case VMCI_OP_TZCNT:
    case VMCI_OP_POPCNT:
        return count;
    case VMCI_OP_ANDN:
    case VMCI_OP_BEXTR:
    case VMCI_OP_BLSI:
    case VMCI_OP_BLSMSK:
    case VMCI_OP_BLSR:
    case VMCI_OP_BZHI:
        return bmi;
    case VMCI_OP_PDEP:
    case VMCI_OP_PEXT:
        return pdep_pext;
    case VMCI_OP_MULX:
        return mulx;
    case VMCI_OP_ADCX:
    case VMCI_OP_ADOX:
        return adx;
    case VMCI_OP_CRC32:
        return crc32;
    default:
        return NULL;
    }
}
