/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The decoder, case by case: each correction of the library's view, sizes and operands of forms
 * that are easy to get wrong, what is not an instruction. Whole binaries are compared with objdump
 * by diff.decode.objdump.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_int.h"
#include "cpu/decode/insn.h"
#include "test_platform.h"

#include <vmcore/x86_state.h>

static struct test_platform tp;
static struct vmci_decoder *dec;

static int setup(void **state)
{
    (void)state;
    test_platform_init(&tp);
    return vmci_decoder_create(&tp.pf, &dec, NULL);
}
static int teardown(void **state)
{
    (void)state;
    vmci_decoder_destroy(dec);
    test_platform_check(&tp);
    return 0;
}

/* ---- what is decoded ------------------------------------------------------------------------- */

struct want {
    const char *hex;
    uint8_t bits;
    uint16_t op;
    uint8_t len, opsize;
    uint8_t kind0, reg0; /* of operand 0, where it matters */
    int64_t imm;
};

#define G VMCI_OPND_GPR
#define H VMCI_OPND_GPR_HI
#define M VMCI_OPND_MEM
#define S VMCI_OPND_SREG
#define OP(x) VMCI_OP_##x
#define MORE  0xffff /* the bytes are not enough */

/* clang-format off */
static const struct want wants[] = {
    /* corrections */
    {"0f20c0", 64, OP(MOV_CR), 3, 8, G, 0, 0},
    {"0f2000", 64, OP(MOV_CR), 3, 8, G, 0, 0},        /* mod is ignored */
    {"0f2244", 32, OP(MOV_CR), 3, 4, VMCI_OPND_CR, 0, 0},
    {"440f22c0", 64, OP(MOV_CR), 4, 8, VMCI_OPND_CR, 8, 0},
    {"0f23f8", 64, OP(MOV_DR), 3, 8, VMCI_OPND_DR, 7, 0},
    {"0f0d08", 64, OP(NOP), 3, 4, 0, 0, 0},
    {"0f0dc0", 64, OP(NOP), 3, 4, 0, 0, 0},
    {"0f1800", 32, OP(NOP), 3, 4, 0, 0, 0},
    {"0f1efa", 64, OP(NOP), 3, 4, 0, 0, 0},
    {"f30f1efa", 64, OP(NOP), 4, 4, 0, 0, 0},         /* ENDBR64 */
    {"f3480f1ec8", 64, OP(NOP), 5, 8, 0, 0, 0},       /* RDSSP without CET */
    {"0f1f8412345678", 64, MORE, 0, 0, 0, 0, 0},
    {"0f1f841278563412", 64, OP(NOP), 8, 4, 0, 0, 0},
    {"f6c801", 32, OP(TEST), 3, 1, G, 0, 1},          /* /1 */
    {"f7c801000000", 32, OP(TEST), 6, 4, G, 0, 1},
    {"c1f004", 32, OP(SHL), 3, 4, G, 0, 4},           /* /6 */
    {"d0f0", 32, OP(SHL), 2, 1, G, 0, 1},
    {"d3f1", 64, OP(SHL), 2, 4, G, 1, 0},
    {"a5", 64, OP(MOVS), 1, 4, 0, 0, 0},
    {"48a7", 64, OP(CMPS), 2, 8, 0, 0, 0},
    {"0f01fc", 64, OP(CLZERO), 3, 4, 0, 0, 0},
    {"0f01e8", 64, OP(SERIALIZE), 3, 4, 0, 0, 0},
    {"f30fc7f8", 64, OP(RDPID), 4, 0, G, 0, 0},
    {"0fffc0", 64, OP(UD), 3, 4, 0, 0, 0},
    {"0fb900", 32, OP(UD), 3, 4, 0, 0, 0},
    /* sizes */
    {"50", 64, OP(PUSH), 1, 8, G, 0, 0},
    {"6650", 64, OP(PUSH), 2, 2, G, 0, 0},
    {"6aff", 64, OP(PUSH), 2, 8, VMCI_OPND_IMM, 0, -1},
    {"68feffffff", 32, OP(PUSH), 5, 4, VMCI_OPND_IMM, 0, -2},
    {"0fa0", 64, OP(PUSH_SREG), 2, 8, S, VMC_FS, 0},
    {"1f", 32, OP(POP_SREG), 1, 4, S, VMC_DS, 0},
    {"9c", 16, OP(PUSHF), 1, 2, 0, 0, 0},
    {"669c", 16, OP(PUSHF), 2, 4, 0, 0, 0},
    {"e8fc", 16, MORE, 0, 0, 0, 0, 0},
    {"e8fcff", 16, OP(CALL), 3, 2, VMCI_OPND_REL, 0, -4},
    {"66e8fcffffff", 64, OP(CALL), 6, 8, VMCI_OPND_REL, 0, -4},
    {"ebfe", 64, OP(JMP), 2, 8, VMCI_OPND_REL, 0, -2},
    {"0f8400010000", 64, OP(JCC), 6, 8, VMCI_OPND_REL, 0, 256},
    {"67e3fe", 64, OP(JCXZ), 3, 8, VMCI_OPND_REL, 0, -2},
    {"c20800", 64, OP(RET), 3, 8, VMCI_OPND_IMM, 0, 8},
    {"c8001004", 32, OP(ENTER), 4, 4, 0, 0, 0x41000},
    {"9a7856341234 12", 32, OP(CALL_FAR), 7, 4, VMCI_OPND_FAR, 0, 0x123412345678},
    {"ea34127856", 16, OP(JMP_FAR), 5, 2, VMCI_OPND_FAR, 0, 0x567800001234},
    {"ff28", 64, OP(JMP_FAR), 2, 4, M, 0, 0},
    {"63c1", 64, OP(MOVSX), 2, 4, G, 0, 0},           /* MOVSXD without REX.W */
    {"4863c1", 64, OP(MOVSX), 3, 8, G, 0, 0},
    {"63c1", 32, OP(ARPL), 2, 2, G, 1, 0},
    {"48b88877665544332211", 64, OP(MOV), 10, 8, G, 0, 0x1122334455667788},
    {"a1887766554433221148", 64, OP(MOV), 9, 4, G, 0, 0},
    {"a21234", 16, OP(MOV), 3, 1, M, 0, 0},
    {"b4ff", 64, OP(MOV), 2, 1, H, 0, -1},
    {"40b4ff", 64, OP(MOV), 3, 1, G, VMC_RSP, -1},
    {"8ed8", 64, OP(MOV_SREG), 2, 4, S, VMC_DS, 0},
    {"8c18", 64, OP(MOV_SREG), 2, 4, M, 0, 0},
    {"6690", 64, OP(NOP), 2, 2, 0, 0, 0},
    {"f390", 64, OP(PAUSE), 2, 4, 0, 0, 0},
    {"4190", 64, OP(XCHG), 2, 4, G, 0, 0},
    {"6bc305", 64, OP(IMUL3), 3, 4, G, 0, 5},
    {"69c000010000", 32, OP(IMUL3), 6, 4, G, 0, 256},
    {"f7eb", 64, OP(IMUL1), 2, 4, G, 3, 0},
    {"0fafc3", 64, OP(IMUL2), 3, 4, G, 0, 0},
    {"e480", 32, OP(IN), 2, 1, G, 0, 0x80},
    {"48ef", 64, OP(OUT), 2, 4, G, 2, 0},
    {"66ed", 32, OP(IN), 2, 2, G, 0, 0},
    {"cd80", 64, OP(INT), 2, 0, VMCI_OPND_IMM, 0, 0x80},
    {"d40a", 32, OP(AAM), 2, 0, 0, 0, 10},
    {"f3480fb8c1", 64, OP(POPCNT), 5, 8, G, 0, 0},
    {"f30fbcc1", 16, OP(TZCNT), 4, 2, G, 0, 0},
    {"f20f38f0c1", 64, OP(CRC32), 5, 1, G, 0, 0},
    {"0f38f000", 32, OP(MOVBE), 4, 4, G, 0, 0},
    {"c4e2f8f3c8", 64, OP(BLSR), 5, 8, G, 0, 0},
    {"c4e27bf7c1", 64, OP(SHRX), 5, 4, G, 0, 0},
    {"f0480fb10b", 64, OP(CMPXCHG), 5, 8, M, 0, 0},
    {"480fc70e", 64, OP(CMPXCHG16B), 4, 0, M, 0, 0},
    {"0fc7f0", 64, OP(RDRAND), 3, 4, G, 0, 0},
    {"f30faed8", 64, OP(WRGSBASE), 4, 4, G, 0, 0},
    {"0faef0", 64, OP(FENCE), 3, 0, 0, 0, 0},
    {"0faef7", 64, OP(FENCE), 3, 0, 0, 0, 0}, /* any r/m */
    {"0faee9", 32, OP(FENCE), 3, 0, 0, 0, 0},
    {"480faeff", 64, OP(FENCE), 4, 0, 0, 0, 0},
    {"c410", 32, OP(LOAD_FAR), 2, 4, G, VMC_RDX, 0},
    {"d6", 32, OP(SALC), 1, 0, 0, 0, 0},
    {"f1", 64, OP(INT1), 1, 0, 0, 0, 0},
    /* prefixes in odd places */
    {"48668b03", 64, OP(MOV), 4, 2, G, 0, 0},         /* REX before 66 does not count */
    {"2e3e26648b03", 64, OP(MOV), 6, 4, G, 0, 0},
    {"f2f366 90", 64, OP(PAUSE), 4, 2, 0, 0, 0},      /* the last of F2 and F3 counts */
    {"f28b03", 64, OP(MOV), 3, 4, G, 0, 0},
    /* FP classes */
    {"d9eb", 64, OP(FP_X87), 2, 0, 0, 0, 0},
    {"0fefc0", 64, OP(FP_MMX), 3, 0, 0, 0, 0},
    {"660fefc0", 64, OP(FP_SSE), 4, 0, 0, 0, 0},
    {"c5f8580b", 64, OP(FP_AVX), 4, 0, 0, 0, 0},
    {"9b", 64, OP(FWAIT), 1, 0, 0, 0, 0},
    {"480fae00", 64, OP(FXSAVE), 4, 0, 0, 0, 0},
    /* not instructions */
    {"06", 64, OP(UD), 0, 0, 0, 0, 0},
    {"f08b03", 64, OP(UD), 0, 0, 0, 0, 0},            /* LOCK on a load */
    {"f001c0", 64, OP(UD), 0, 0, 0, 0, 0},            /* LOCK on registers */
    {"f0a5", 32, OP(UD), 0, 0, 0, 0, 0},
    {"8dc0", 32, OP(UD), 0, 0, 0, 0, 0},              /* LEA of a register */
    {"0fc7c8", 32, OP(UD), 0, 0, 0, 0, 0},            /* CMPXCHG8B of a register */
    {"ffff", 64, OP(UD), 0, 0, 0, 0, 0},
    {"c7c800000000", 32, OP(UD), 0, 0, 0, 0, 0},      /* C7 /1 */
    {"8ee8c0", 32, OP(MOV_SREG), 2, 4, S, VMC_GS, 0},
    {"62f17c4858c1", 64, OP(UD), 0, 0, 0, 0, 0},      /* EVEX */
    {"66c5f858c1", 64, OP(UD), 0, 0, 0, 0, 0},        /* 66 before VEX */
    {"c4e27cf3c8", 64, OP(UD), 0, 0, 0, 0, 0},        /* BLSR with L */
    {"0fa6c0", 64, OP(UD), 0, 0, 0, 0, 0},
    {"0f0f00b4", 64, OP(UD), 0, 0, 0, 0, 0},          /* 3DNow! */
};
/* clang-format on */

static unsigned unhex(const char *hex, uint8_t *out)
{
    unsigned n = 0;

    while (*hex != '\0') {
        unsigned v;
        if (*hex == ' ') {
            hex++;
            continue;
        }
        assert_int_equal(sscanf(hex, "%2x", &v), 1);
        out[n++] = (uint8_t)v;
        hex += 2;
    }
    return n;
}

static int decode(const char *hex, unsigned bits, uint64_t features, struct vmci_insn *in)
{
    struct vmci_dec_mode mode = {(uint8_t)bits, features};
    uint8_t b[16] = {0};
    unsigned n = unhex(hex, b);

    return vmci_decode(dec, &mode, b, n, in);
}

static void forms(void **state)
{
    (void)state;
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(wants); i++) {
        const struct want *w = &wants[i];
        struct vmci_insn in;
        int len = decode(w->hex, w->bits, ~0ull, &in);

        if (w->op >= VMCI_OP_COUNT) {
            if (len != VMCI_DEC_MORE)
                fail_msg("%s: length %d, wants more bytes", w->hex, len);
            continue;
        }
        if (len <= 0 || in.op != w->op)
            fail_msg("%s (%u): %s, length %d", w->hex, w->bits, vmci_op_name(in.op), len);
        if (w->len != 0 && (len != w->len || in.len != w->len || in.next != w->len))
            fail_msg("%s (%u): length %d", w->hex, w->bits, len);
        if (w->opsize != 0 && in.opsize != w->opsize)
            fail_msg("%s (%u): operand size %u", w->hex, w->bits, in.opsize);
        if (w->kind0 != 0 && (in.opnd[0].kind != w->kind0 || in.opnd[0].reg != w->reg0))
            fail_msg("%s (%u): operand 0 is %u/%u", w->hex, w->bits, in.opnd[0].kind,
                     in.opnd[0].reg);
        if (w->imm != 0 && in.imm != w->imm)
            fail_msg("%s (%u): immediate %llx", w->hex, w->bits, (unsigned long long)in.imm);
    }
}

/* ---- addresses ------------------------------------------------------------------------------- */

struct addr {
    const char *hex;
    uint8_t bits, base, index, scale, seg, asz;
    int64_t disp;
};
#define Z VMCI_REG_ZERO

/* clang-format off */
static const struct addr addrs[] = {
    {"8b00", 64, 0, Z, 0, VMC_DS, 8, 0},
    {"8b0424", 64, VMC_RSP, Z, 0, VMC_SS, 8, 0},
    {"8b4500", 64, VMC_RBP, Z, 0, VMC_SS, 8, 0},
    {"418b4500", 64, 13, Z, 0, VMC_DS, 8, 0},         /* R13 is no stack register */
    {"418b0424", 64, 12, Z, 0, VMC_DS, 8, 0},
    {"8b0500010000", 64, VMCI_REG_IP, Z, 0, VMC_DS, 8, 0x106},
    {"678b0500010000", 64, VMCI_REG_IP, Z, 0, VMC_DS, 4, 0x107},
    {"8b0500010000", 32, Z, Z, 0, VMC_DS, 4, 0x100},
    {"8b042500ffffff", 64, Z, Z, 0, VMC_DS, 8, -256}, /* SIB without base and index */
    {"8b84cb78563412", 64, 3, 1, 3, VMC_DS, 8, 0x12345678},
    {"4a8b04e0", 64, 0, 12, 3, VMC_DS, 8, 0},         /* R12 can be an index */
    {"8b04ed00000000", 64, Z, 5, 3, VMC_DS, 8, 0},
    {"64488b042528000000", 64, Z, Z, 0, VMC_FS, 8, 0x28},
    {"2e8b00", 32, 0, Z, 0, VMC_CS, 4, 0},
    {"368b00", 64, 0, Z, 0, VMC_DS, 8, 0},            /* ignored in 64-bit mode */
    {"8b00", 16, 3, 6, 0, VMC_DS, 2, 0},
    {"8b4610", 16, 5, Z, 0, VMC_SS, 2, 0x10},
    {"8b063412", 16, Z, Z, 0, VMC_DS, 2, 0x1234},
    {"8b8300ff", 16, 5, 7, 0, VMC_SS, 2, -256},
    {"678b0424", 16, 4, Z, 0, VMC_SS, 4, 0},
    {"678b07", 32, 3, Z, 0, VMC_DS, 2, 0},
    {"a18877665544332211", 64, Z, Z, 0, VMC_DS, 8, 0x1122334455667788},
    {"65a100000080", 32, Z, Z, 0, VMC_GS, 4, 0x80000000},
};
/* clang-format on */

static void addresses(void **state)
{
    (void)state;
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(addrs); i++) {
        const struct addr *a = &addrs[i];
        struct vmci_insn in;

        assert_true(decode(a->hex, a->bits, ~0ull, &in) > 0);
        if (in.op != VMCI_OP_MOV || in.base != a->base || in.index != a->index ||
            in.scale != a->scale || in.seg != a->seg || in.addrsize != a->asz ||
            in.disp != a->disp)
            fail_msg("%s (%u): %s base %u index %u scale %u seg %u size %u disp %llx", a->hex,
                     a->bits, vmci_op_name(in.op), in.base, in.index, in.scale, in.seg,
                     in.addrsize, (unsigned long long)in.disp);
        bool linear = a->bits == 64 && a->asz == 8 && a->seg != VMC_FS && a->seg != VMC_GS;
        assert_int_equal((in.flags & VMCI_IF_LINEAR) != 0, linear);
    }
}

/* ---- lengths --------------------------------------------------------------------------------- */

static void truncated_and_too_long(void **state)
{
    (void)state;
    struct vmci_insn in;
    struct vmci_dec_mode mode = {64, ~0ull};
    uint8_t b[16];
    /* Every prefix of a long instruction asks for more. */
    unsigned n = unhex("f0 64 67 4c 81 84 c3 78563412 11223344", b);
    for (unsigned k = 1; k < n; k++)
        assert_int_equal(vmci_decode(dec, &mode, b, k, &in), VMCI_DEC_MORE);
    assert_int_equal(vmci_decode(dec, &mode, b, n, &in), n);
    assert_true(in.flags & VMCI_IF_LOCK);
    /* 15 bytes are the most. */
    memset(b, 0x66, sizeof(b));
    assert_int_equal(vmci_decode(dec, &mode, b, 15, &in), VMCI_DEC_TOO_LONG);
    b[14] = 0x90;
    assert_int_equal(vmci_decode(dec, &mode, b, 15, &in), 15);
    b[14] = 0xb8;
    assert_int_equal(vmci_decode(dec, &mode, b, 15, &in), VMCI_DEC_TOO_LONG);
}

static void features_gate(void **state)
{
    (void)state;
    static const struct {
        const char *hex;
        unsigned feat;
    } t[] = {
        {"c4e2f8f3c8", VMCI_FEAT_BMI1}, {"f3480fb8c1", VMCI_FEAT_POPCNT},
        {"0f38f000", VMCI_FEAT_MOVBE},  {"480fc70e", VMCI_FEAT_CX16},
        {"c5fdefc1", VMCI_FEAT_AVX2},   {"0f01f9", VMCI_FEAT_RDTSCP},
        {"660f38dcc1", VMCI_FEAT_AES},  {"0f44c1", VMCI_FEAT_CMOV},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        struct vmci_insn in;
        assert_true(decode(t[i].hex, 64, ~0ull, &in) > 0);
        assert_int_not_equal(in.op, VMCI_OP_UD);
        assert_true(decode(t[i].hex, 64, ~(1ull << t[i].feat), &in) > 0);
        if (in.op != VMCI_OP_UD)
            fail_msg("%s is valid without %s", t[i].hex, vmci_feat_name(t[i].feat));
    }
}

/* Without BMI1 and ABM the encodings of TZCNT and LZCNT are BSF and BSR with a prefix. */
static void tzcnt_falls_back_to_bsf(void **state)
{
    (void)state;
    struct vmci_insn in;
    assert_int_equal(decode("f30fbcc1", 32, ~0ull, &in), 4);
    assert_int_equal(in.op, VMCI_OP_TZCNT);
    assert_int_equal(decode("f30fbcc1", 32, ~(1ull << VMCI_FEAT_BMI1), &in), 4);
    assert_int_equal(in.op, VMCI_OP_BSF);
    assert_int_equal(decode("f30fbdc1", 32, ~(1ull << VMCI_FEAT_LZCNT), &in), 4);
    assert_int_equal(in.op, VMCI_OP_BSR);
}

/* Any bytes: a length in range, or a clear answer. */
static void random_bytes(void **state)
{
    (void)state;
    uint64_t x = 0x9e3779b97f4a7c15ull;
    static const uint8_t widths[3] = {16, 32, 64};

    for (unsigned i = 0; i < 100000; i++) {
        uint8_t b[16];
        struct vmci_insn in;
        for (unsigned k = 0; k < 16; k += 8) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            memcpy(b + k, &x, 8);
        }
        struct vmci_dec_mode mode = {widths[i % 3], ~0ull};
        int len = vmci_decode(dec, &mode, b, 15, &in);
        assert_true(len == VMCI_DEC_TOO_LONG || (len >= 1 && len <= 15));
        if (len > 0) {
            assert_int_equal(in.len, len);
            assert_memory_equal(in.raw, b, (size_t)len);
            assert_true(in.op > VMCI_OP_INVALID && in.op < VMCI_OP_COUNT);
            assert_true(in.base <= VMCI_REG_IP && in.scale <= 3 && in.nopnd <= 4);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms),           cmocka_unit_test(addresses),
        cmocka_unit_test(truncated_and_too_long), cmocka_unit_test(features_gate),
        cmocka_unit_test(tzcnt_falls_back_to_bsf),
        cmocka_unit_test(random_bytes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
