/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The FP unit where user-mode comparison with the host does not reach: control bits, formats of
 * other modes, deferred exceptions, state transfer, exits inside instructions, the thunk cache.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_rig_one.h"

#define MMIO 0x20000000u

static void enable(void)
{
    rig.st.cr0 = (rig.st.cr0 & ~(VMC_CR0_EM | VMC_CR0_TS)) | VMC_CR0_NE | VMC_CR0_MP;
    rig.st.cr4 |= VMC_CR4_OSFXSR | VMC_CR4_OSXMMEXCPT | VMC_CR4_OSXSAVE;
    rig.st.xcr0 = 7;
}

/* Runs to a HLT; returns the vector if that is in a handler, else -1. */
static int outcome(void)
{
    assert_int_equal(cpu_rig_run(&rig, 1000), VMC_EXIT_IDLE);
    uint64_t at = rig.st.rip - 1 - CPU_RIG_TRAPS;
    return at < 32 ? (int)at : -1;
}

static uint32_t ld32(uint32_t gpa)
{
    uint32_t v;
    memcpy(&v, rig.ram + gpa, 4);
    return v;
}
static uint16_t ld16(uint32_t gpa)
{
    uint16_t v;
    memcpy(&v, rig.ram + gpa, 2);
    return v;
}

struct control_case {
    const char *what;
    uint64_t cr0_set, cr0_clear, cr4_clear, xcr0;
    int x87, fwait, mmx, sse, avx; /* vector, or -1 */
};

static void control_bits_gate_each_kind(void **state)
{
    static const struct control_case cases[] = {
        {"all enabled", 0, 0, 0, 7, -1, -1, -1, -1, -1},
        {"TS", VMC_CR0_TS, 0, 0, 7, 7, 7, 7, 7, 7},
        {"TS without MP", VMC_CR0_TS, VMC_CR0_MP, 0, 7, 7, -1, 7, 7, 7},
        {"EM", VMC_CR0_EM, 0, 0, 7, 7, -1, 6, 6, -1},
        {"EM and TS", VMC_CR0_EM | VMC_CR0_TS, 0, 0, 7, 7, 7, 6, 6, 7},
        {"no OSFXSR", 0, 0, VMC_CR4_OSFXSR, 7, -1, -1, -1, 6, -1},
        {"no OSXSAVE", 0, 0, VMC_CR4_OSXSAVE, 7, -1, -1, -1, -1, 6},
        {"no AVX in XCR0", 0, 0, 0, 3, -1, -1, -1, -1, 6},
    };
    static const uint8_t insns[5][8] = {
        {0xd9, 0xe8, 0xf4},             /* fld1 */
        {0x9b, 0xf4},                   /* fwait */
        {0x0f, 0xfc, 0xc1, 0xf4},       /* paddb mm0, mm1 */
        {0x0f, 0x58, 0xc1, 0xf4},       /* addps xmm0, xmm1 */
        {0xc5, 0xf0, 0x58, 0xc2, 0xf4}, /* vaddps xmm0, xmm1, xmm2 */
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct control_case *c = &cases[i];
        const int want[5] = {c->x87, c->fwait, c->mmx, c->sse, c->avx};
        for (unsigned k = 0; k < 5; k++) {
            cpu_rig_mode(&rig, 64, 0);
            enable();
            rig.st.cr0 = (rig.st.cr0 | c->cr0_set) & ~c->cr0_clear;
            rig.st.cr4 &= ~c->cr4_clear;
            rig.st.xcr0 = c->xcr0;
            cpu_rig_code(&rig, CPU_RIG_TEXT, insns[k], sizeof(insns[k]));
            int got = outcome();
            if (got != want[k])
                fail_msg("%s, instruction %u: vector %d, not %d", c->what, k, got, want[k]);
        }
    }
}

static void x87_exception_is_reported_by_the_next_waiting_instruction(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    enable();
    rig.st.gpr[VMC_RBX] = CPU_RIG_DATA;
    /* fninit; mov word [rbx], 33bh (ZE unmasked); fldcw [rbx]; fld1; fldz; fdivp; fnstsw ax; nop;
       fld1; hlt */
    CODE(0xdb, 0xe3, 0x66, 0xc7, 0x03, 0x3b, 0x03, 0xd9, 0x2b, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9,
         0xdf, 0xe0, 0x90, 0xd9, 0xe8, 0xf4);
    assert_int_equal(outcome(), VMC_VEC_MF);
    assert_int_equal(rig.st.gpr[VMC_RAX] & 0x84, 0x84); /* ES, ZE */
    /* The frame shows the instruction that waited. */
    uint64_t rip;
    memcpy(&rip, rig.ram + rig.st.gpr[VMC_RSP], 8);
    assert_int_equal(rip, CPU_RIG_TEXT + 18);
}

static void simd_exception_leaves_the_destination(void **state)
{
    (void)state;
    for (unsigned reported = 0; reported < 2; reported++) {
        cpu_rig_mode(&rig, 64, 0);
        enable();
        if (!reported)
            rig.st.cr4 &= ~VMC_CR4_OSXMMEXCPT;
        rig.st.gpr[VMC_RBX] = CPU_RIG_DATA;
        rig.st.gpr[VMC_RCX] = 0x3f800000;
        /* mov dword [rbx], 1d80h (ZE unmasked); ldmxcsr [rbx]; movd xmm0, ecx; xorps xmm1, xmm1;
           divss xmm0, xmm1; hlt */
        CODE(0xc7, 0x03, 0x80, 0x1d, 0, 0, 0x0f, 0xae, 0x13, 0x66, 0x0f, 0x6e, 0xc1, 0x0f, 0x57,
             0xc9, 0xf3, 0x0f, 0x5e, 0xc1, 0xf4);
        assert_int_equal(outcome(), reported ? VMC_VEC_XM : VMC_VEC_UD);
        uint32_t mxcsr, xmm0;
        memcpy(&mxcsr, rig.st.xsave + 24, 4);
        memcpy(&xmm0, rig.st.xsave + 160, 4);
        assert_int_equal(mxcsr, 0x1d84);
        assert_int_equal(xmm0, 0x3f800000);
    }
}

static void environment_formats_follow_mode_and_operand_size(void **state)
{
    (void)state;
    /* 32-bit protected mode: fninit; fld dword [ebx]; fnstenv [ecx]; o16 fnstenv [edx]; hlt */
    cpu_rig_mode(&rig, 32, 0);
    enable();
    rig.st.gpr[VMC_RBX] = CPU_RIG_DATA;
    rig.st.gpr[VMC_RCX] = CPU_RIG_DATA + 0x100;
    rig.st.gpr[VMC_RDX] = CPU_RIG_DATA + 0x200;
    CODE(0xdb, 0xe3, 0xd9, 0x03, 0xd9, 0x31, 0x66, 0xd9, 0x32, 0xf4);
    assert_int_equal(outcome(), -1);
    assert_int_equal(ld32(CPU_RIG_DATA + 0x100), 0xffff037f);
    assert_int_equal(ld32(CPU_RIG_DATA + 0x10c), CPU_RIG_TEXT + 2);
    assert_int_equal(ld32(CPU_RIG_DATA + 0x110), CPU_RIG_CS0 | 0x103u << 16);
    assert_int_equal(ld32(CPU_RIG_DATA + 0x114), CPU_RIG_DATA);
    assert_int_equal(ld32(CPU_RIG_DATA + 0x118) & 0xffff, CPU_RIG_DS0);
    assert_int_equal(ld16(CPU_RIG_DATA + 0x206), (CPU_RIG_TEXT + 2) & 0xffff);
    assert_int_equal(ld16(CPU_RIG_DATA + 0x208), CPU_RIG_CS0);
    /* Real mode: fninit; fld dword [bx]; fnstenv [si]; o32 fnstenv [di]; hlt: linear addresses */
    cpu_rig_mode(&rig, 16, 0);
    enable();
    rig.st.gpr[VMC_RBX] = 0x300;
    rig.st.gpr[VMC_RSI] = 0x400;
    rig.st.gpr[VMC_RDI] = 0x500;
    CODE(0xdb, 0xe3, 0xd9, 0x07, 0xd9, 0x34, 0x66, 0xd9, 0x35, 0xf4);
    uint32_t ds = (uint32_t)rig.st.seg[VMC_DS].base;
    uint32_t ip = (uint32_t)rig.st.seg[VMC_CS].base + (uint32_t)rig.st.rip + 2;
    uint32_t dp = ds + 0x300;
    assert_int_equal(outcome(), -1);
    assert_int_equal(ld16(ds + 0x406), ip & 0xffff);
    assert_int_equal(ld16(ds + 0x408), (ip >> 4 & 0xf000) | 0x107);
    assert_int_equal(ld16(ds + 0x40a), dp & 0xffff);
    assert_int_equal(ld16(ds + 0x40c), dp >> 4 & 0xf000);
    assert_int_equal(ld32(ds + 0x50c) & 0xffff, ip & 0xffff);
    assert_int_equal(ld32(ds + 0x510), (ip >> 16) << 12 | 0x107);
    assert_int_equal(ld32(ds + 0x514) & 0xffff, dp & 0xffff);
}

/* XRSTOR of an area with a bad header faults and changes nothing. */
static void xrstor_checks_its_header(void **state)
{
    static const struct {
        unsigned at;
        uint8_t byte;
    } bad[] = {
        {512, 0x08},      /* a component that XCR0 does not have */
        {520, 0x01},      /* XCOMP_BV without bit 63 */
        {528, 0x01},      /* reserved in the standard form */
        {26, 0xff},       /* reserved bits of MXCSR */
    };
    (void)state;
    for (unsigned i = 0; i <= sizeof(bad) / sizeof(bad[0]); i++) {
        cpu_rig_mode(&rig, 64, 0);
        enable();
        rig.st.gpr[VMC_RBX] = CPU_RIG_DATA;
        rig.st.gpr[VMC_RAX] = 7;
        rig.st.gpr[VMC_RDX] = 0;
        memset(rig.ram + CPU_RIG_DATA, 0, 832);
        rig.ram[CPU_RIG_DATA] = 0x7f;
        rig.ram[CPU_RIG_DATA + 1] = 0x03;
        rig.ram[CPU_RIG_DATA + 24] = 0x80;
        rig.ram[CPU_RIG_DATA + 25] = 0x1f;
        rig.ram[CPU_RIG_DATA + 160] = 0x55; /* xmm0 */
        rig.ram[CPU_RIG_DATA + 512] = 7;
        bool good = i == sizeof(bad) / sizeof(bad[0]);
        if (!good)
            rig.ram[CPU_RIG_DATA + bad[i].at] = bad[i].byte;
        CODE(0x0f, 0x57, 0xc0, 0x0f, 0xae, 0x2b, 0xf4); /* xorps xmm0, xmm0; xrstor [rbx]; hlt */
        assert_int_equal(outcome(), good ? -1 : VMC_VEC_GP);
        assert_int_equal(rig.st.xsave[160], good ? 0x55 : 0);
    }
}

static void xsavec_writes_what_is_in_use(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    enable();
    rig.st.gpr[VMC_RBX] = CPU_RIG_DATA;
    rig.st.gpr[VMC_RAX] = 7;
    memset(rig.ram + CPU_RIG_DATA, 0xcc, 1024);
    /* fninit; vzeroall; pcmpeqb xmm3, xmm3; xsavec [rbx]; hlt */
    CODE(0xdb, 0xe3, 0xc5, 0xfc, 0x77, 0x66, 0x0f, 0x74, 0xdb, 0x0f, 0xc7, 0x23, 0xf4);
    assert_int_equal(outcome(), -1);
    assert_int_equal(ld32(CPU_RIG_DATA + 512) & ~1u, 2); /* SSE; x87 registers may hold old values */
    assert_int_equal(ld32(CPU_RIG_DATA + 520), 7);
    assert_int_equal(ld32(CPU_RIG_DATA + 524), 0x80000000);
    assert_int_equal(ld32(CPU_RIG_DATA + 160 + 48), 0xffffffff);
    assert_int_equal(ld32(CPU_RIG_DATA + 160), 0);
    assert_int_equal(ld32(CPU_RIG_DATA + 576), 0xcccccccc); /* AVX is in its initial state */
}

/* A pop that has to wait for the embedder happens once. */
static void store_to_a_device_pops_once(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    enable();
    rig.claim = false;
    rig.st.gpr[VMC_RBX] = MMIO;
    rig.st.gpr[VMC_RCX] = CPU_RIG_DATA;
    /* fninit; fld1; fldz; fld1; fstp qword [rbx]; fnstsw ax; fnsave [rcx]; hlt */
    CODE(0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xee, 0xd9, 0xe8, 0xdd, 0x1b, 0xdf, 0xe0, 0xdd, 0x31, 0xf4);
    uint32_t kind = cpu_rig_run(&rig, 1000);
    unsigned exits = 0;
    uint64_t written = 0;
    while (kind == VMC_EXIT_MMIO && exits++ < 10) {
        assert_true(rig.exit.u.mmio.write);
        written |= rig.exit.u.mmio.data << 8 * (rig.exit.u.mmio.gpa - MMIO);
        assert_int_equal(rig.ops->complete(rig.ev, &rig.exit), VMC_OK);
        kind = cpu_rig_resume(&rig, 1000);
    }
    assert_int_equal(kind, VMC_EXIT_IDLE);
    assert_true(exits > 0);
    assert_int_equal(written, 0x3ff0000000000000);
    assert_int_equal(rig.st.gpr[VMC_RAX] >> 11 & 7, 6); /* two left */
    assert_int_equal(ld16(CPU_RIG_DATA + 28 + 8), 0);      /* ST0 = 0 */
    assert_int_equal(ld16(CPU_RIG_DATA + 28 + 18), 0x3fff); /* ST1 = 1 */
}

/*
 * The registers are live in the host's while helpers flush the TLB, read CPUID, load CR3 ...: none of
 * them may use vector registers. (With GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX512VL,-AVX512BW the C
 * library's memset uses those that a guest has.)
 */
static void helpers_leave_live_registers_alone(void **state)
{
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    enable();
    rig.st.gpr[VMC_RSI] = CPU_RIG_DATA;
    for (unsigned i = 0; i < 512; i++)
        rig.ram[CPU_RIG_DATA + i] = (uint8_t)(i * 7 + 1);
    /* vmovups ymm0, [rsi]; vmovups ymm1, [rsi+32]; mov rax, cr3; mov cr3, rax; mov rax, cr4;
       xor al, 80h; mov cr4, rax; xor al, 80h; mov cr4, rax; invlpg [rsi]; xor eax, eax; cpuid;
       vmovups [rsi+256], ymm0; vmovups [rsi+288], ymm1; hlt */
    CODE(0xc5, 0xfc, 0x10, 0x06, 0xc5, 0xfc, 0x10, 0x4e, 0x20, 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8,
         0x0f, 0x20, 0xe0, 0x34, 0x80, 0x0f, 0x22, 0xe0, 0x34, 0x80, 0x0f, 0x22, 0xe0, 0x0f, 0x01,
         0x3e, 0x31, 0xc0, 0x0f, 0xa2, 0xc5, 0xfc, 0x11, 0x86, 0, 1, 0, 0, 0xc5, 0xfc, 0x11, 0x8e,
         0x20, 1, 0, 0, 0xf4);
    assert_int_equal(outcome(), -1);
    assert_memory_equal(rig.ram + CPU_RIG_DATA + 256, rig.ram + CPU_RIG_DATA, 64);
}

/* More encodings than the cache holds: each still does what it says. */
static void thunk_cache_overflows_without_harm(void **state)
{
    enum { N = 9000 };
    (void)state;
    for (unsigned from = 0; from < N; from += 50) {
        uint8_t code[512];
        unsigned n = 0;
        cpu_rig_mode(&rig, 64, 0);
        enable();
        for (unsigned i = from; i < from + 50; i++) { /* pshufd x, y, imm: 16 * 16 * 256 of them */
            unsigned x = i % 15 + 1, y = i / 15 % 15 + 1;
            code[n++] = 0x66;
            code[n++] = (uint8_t)(0x40 | (x >> 3) << 2 | y >> 3);
            code[n++] = 0x0f;
            code[n++] = 0x70;
            code[n++] = (uint8_t)(0xc0 | (x & 7) << 3 | (y & 7));
            code[n++] = (uint8_t)(i / 225);
        }
        /* movd xmm0, ecx; pshufd xmm0, xmm0, 0; movd eax, xmm0; hlt */
        static const uint8_t tail[] = {0x66, 0x0f, 0x6e, 0xc1, 0x66, 0x0f, 0x70, 0xc0, 0x00,
                                       0x66, 0x0f, 0x7e, 0xc0, 0xf4};
        memcpy(code + n, tail, sizeof(tail));
        rig.st.gpr[VMC_RCX] = from + 7;
        cpu_rig_code(&rig, CPU_RIG_TEXT, code, n + sizeof(tail));
        assert_int_equal(outcome(), -1);
        assert_int_equal(rig.st.gpr[VMC_RAX], from + 7);
    }
}

static void state_transfer_refuses_what_the_unit_lacks(void **state)
{
    struct vmc_x86_state *st = &rig.st;
    uint32_t mxcsr = 0xffffffff;
    (void)state;
    cpu_rig_mode(&rig, 64, 0);
    enable();
    st->xsave_bytes = 832;
    memset(st->xsave, 0, sizeof(st->xsave));
    st->xsave[512] = 7;
    memcpy(st->xsave + 24, &mxcsr, 4);
    assert_int_equal(rig.ops->set_state(rig.ev, VMC_ST_FPU, st), VMC_EINVAL);
    memset(st->xsave + 24, 0, 4);
    st->xsave[512] = 0xff;
    assert_int_equal(rig.ops->set_state(rig.ev, VMC_ST_FPU, st), VMC_EINVAL);
    st->xsave[512] = 7;
    assert_int_equal(rig.ops->set_state(rig.ev, VMC_ST_FPU, st), VMC_OK);
    st->xsave_bytes = 100;
    assert_int_equal(rig.ops->set_state(rig.ev, VMC_ST_FPU, st), VMC_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(control_bits_gate_each_kind, setup, teardown),
        cmocka_unit_test_setup_teardown(x87_exception_is_reported_by_the_next_waiting_instruction,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(simd_exception_leaves_the_destination, setup, teardown),
        cmocka_unit_test_setup_teardown(environment_formats_follow_mode_and_operand_size, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(xrstor_checks_its_header, setup, teardown),
        cmocka_unit_test_setup_teardown(xsavec_writes_what_is_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(store_to_a_device_pops_once, setup, teardown),
        cmocka_unit_test_setup_teardown(helpers_leave_live_registers_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(thunk_cache_overflows_without_harm, setup, teardown),
        cmocka_unit_test_setup_teardown(state_transfer_refuses_what_the_unit_lacks, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
