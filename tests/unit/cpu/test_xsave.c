/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The XSAVE family at the edges of memory: what faults, how and where, is what an EPYC 9004 did
 * with the same areas; headers; and the upper registers, which only 64-bit mode reaches.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_rig_one.h"

#define PAGE_TABLE 0x9000u   /* of BORDER - 200000h to BORDER + 200000h */
#define BORDER     0x401000u /* of two pages */

static void enable(uint64_t xcr0)
{
    rig.st.cr0 = (rig.st.cr0 & ~(VMC_CR0_EM | VMC_CR0_TS)) | VMC_CR0_NE | VMC_CR0_MP;
    rig.st.cr4 |= VMC_CR4_OSFXSR | VMC_CR4_OSXMMEXCPT | VMC_CR4_OSXSAVE;
    rig.st.xcr0 = xcr0;
}

/* Runs to a HLT; returns the vector if that is in a handler, else -1. */
static int outcome(void)
{
    assert_int_equal(cpu_rig_run(&rig, 1000), VMC_EXIT_IDLE);
    uint64_t at = rig.st.rip - 1 - CPU_RIG_TRAPS;
    return at < 32 ? (int)at : -1;
}

static uint64_t ld64(uint64_t gpa)
{
    uint64_t v;
    memcpy(&v, rig.ram + gpa, 8);
    return v;
}
static void st64(uint64_t gpa, uint64_t v)
{
    memcpy(rig.ram + gpa, &v, 8);
}

/* 64-bit code at level 0; rights of the pages below and above BORDER (1: present, 3: writable). */
static void pages(unsigned below, unsigned above)
{
    cpu_rig_mode(&rig, 64, 0);
    enable(7);
    st64(CPU_RIG_PML4 + 0x2000 + 8 * 2, PAGE_TABLE | 7);
    st64(PAGE_TABLE, (BORDER - 0x1000) | below);
    st64(PAGE_TABLE + 8, BORDER | above);
    memset(rig.ram + BORDER - 0x1000, 0, 0x2000);
}

/* The TLB is emptied, then the instruction with its operand at [rbx]. */
static int run_at(const char *insn, uint64_t area, uint64_t rfbm)
{
    uint8_t code[16] = {0x0f, 0x20, 0xd9, 0x0f, 0x22, 0xd9}; /* mov rcx, cr3; mov cr3, rcx */
    size_t n = strlen(insn);
    memcpy(code + 6, insn, n);
    code[6 + n] = 0xf4;
    cpu_rig_code(&rig, CPU_RIG_TEXT, code, sizeof(code));
    rig.st.gpr[VMC_RBX] = area;
    rig.st.gpr[VMC_RAX] = (uint32_t)rfbm;
    rig.st.gpr[VMC_RDX] = rfbm >> 32;
    return outcome();
}

#define XSAVE    "\x48\x0f\xae\x23"
#define XSAVEOPT "\x48\x0f\xae\x33"
#define XSAVEC   "\x48\x0f\xc7\x23"
#define XRSTOR   "\x48\x0f\xae\x2b"
#define FXSAVE   "\x48\x0f\xae\x03"
#define FXRSTOR  "\x48\x0f\xae\x0b"
#define NONE     (-1)

static void faults_are_those_of_the_ends_of_the_area(void **state)
{
    static const struct {
        const char *what, *insn;
        unsigned rfbm, below, above, before; /* bytes of the area that are below the border */
        int code, at;                        /* error code, CR2 from the area's first byte */
    } cases[] = {
        {"xsave, nothing there", XSAVE, 7, 0, 0, 448, 2, 0},
        {"xsaveopt, nothing there", XSAVEOPT, 7, 0, 0, 448, 2, 0},
        {"xsavec, nothing there", XSAVEC, 7, 0, 0, 448, 2, 0},
        {"xsave of nothing, nothing there", XSAVE, 0, 0, 0, 64, 2, 0},
        {"xsave, the first is read-only", XSAVE, 7, 1, 0, 448, 3, 0},
        {"xsavec, the first is read-only", XSAVEC, 1, 1, 3, 256, 3, 0},
        {"xsave, no second", XSAVE, 7, 3, 0, 256, 2, 831},
        {"xsave without AVX, no second", XSAVE, 1, 3, 0, 256, 2, 575},
        {"xsavec without AVX, no second", XSAVEC, 3, 3, 0, 512, 2, 575},
        {"xsave, the second is read-only", XSAVE, 7, 3, 1, 448, 3, 831},
        {"xsavec of an initial state", XSAVEC, 4, 3, 0, 576, 2, 831},
        {"xsaveopt of an initial state", XSAVEOPT, 4, 3, 0, 640, 2, 831},
        {"xsave without AVX, the second is not needed", XSAVE, 3, 3, 0, 576, NONE, 0},
        {"xsave, the second is not needed", XSAVE, 7, 3, 0, 832, NONE, 0},
        {"xrstor, nothing there", XRSTOR, 7, 0, 0, 448, 0, 0},
        {"xrstor, no header", XRSTOR, 7, 1, 0, 256, 0, 512},
        {"xrstor, header absent, nothing wanted", XRSTOR, 0, 1, 0, 64, 0, 512},
        {"xrstor, AVX absent and initial", XRSTOR, 7, 1, 0, 576, 0, 831},
        {"xrstor, AVX absent and not wanted", XRSTOR, 3, 1, 0, 576, NONE, 0},
        {"fxsave, nothing there", FXSAVE, 0, 0, 0, 64, 2, 511},
        {"fxsave, no first", FXSAVE, 0, 0, 3, 64, 2, 0},
        {"fxrstor, nothing there", FXRSTOR, 0, 0, 0, 64, 0, 511},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t area = BORDER - cases[i].before;
        pages(cases[i].below, cases[i].above);
        int got = run_at(cases[i].insn, area, cases[i].rfbm);
        if (got != (cases[i].code == NONE ? -1 : VMC_VEC_PF))
            fail_msg("%s: vector %d", cases[i].what, got);
        if (got < 0)
            continue;
        int code = (int)ld64(rig.st.gpr[VMC_RSP]), at = (int)(rig.st.cr2 - area);
        if (code != cases[i].code || at != cases[i].at)
            fail_msg("%s: code %d at %d", cases[i].what, code, at);
    }
}

/* Nothing is written unless all of it can be. */
static void a_save_that_faults_writes_nothing(void **state)
{
    static const char *const insns[] = {XSAVE, XSAVEOPT, XSAVEC};
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        pages(3, 1);
        memset(rig.ram + BORDER - 0x1000, 0xcc, 0x2000);
        assert_int_equal(run_at(insns[i], BORDER - 640, 7), VMC_VEC_PF);
        for (unsigned k = 0; k < 0x2000; k++)
            assert_int_equal(rig.ram[BORDER - 0x1000 + k], 0xcc);
    }
}

/* The end of the compacted form is that of what it has. */
static void pkru_is_the_end(void **state)
{
    (void)state;
    pages(3, 0);
    enable(0x207);
    assert_int_equal(run_at(XSAVE, BORDER - 832, 0x200), VMC_VEC_PF);
    assert_int_equal(rig.st.cr2, BORDER + 7);
    pages(3, 0);
    enable(0x207);
    assert_int_equal(run_at(XSAVEC, BORDER - 576, 0x200), VMC_VEC_PF);
    assert_int_equal(rig.st.cr2, BORDER + 7);
    pages(3, 0);
    enable(0x207);
    assert_int_equal(run_at(XSAVEC, BORDER - 640, 0x203), -1);
    /* XRSTOR of it, with room for AVX or not. */
    for (unsigned avx = 0; avx < 2; avx++) {
        uint64_t area = BORDER - 576 - 256 * avx;
        pages(3, 0);
        enable(0x207);
        st64(area + 512, 0x200);
        st64(area + 520, 1ull << 63 | 0x200 | avx << 2);
        assert_int_equal(run_at(XRSTOR, area, 0x207), VMC_VEC_PF);
        assert_int_equal(rig.st.cr2, BORDER + 7);
    }
}

static void compacted_headers(void **state)
{
    static const struct {
        uint64_t bv, comp;
        int vector;
    } cases[] = {
        {0, 1ull << 63, -1},
        {0, 1ull << 63 | 7, -1},
        {4, 1ull << 63 | 7, -1},
        {4, 1ull << 63 | 3, VMC_VEC_GP},
        {1ull << 63, 1ull << 63, VMC_VEC_GP},
        {1ull << 63 | 1, 1ull << 63 | 1, VMC_VEC_GP},
        {1ull << 63, 0, VMC_VEC_GP},
        {0, 1ull << 63 | 8, VMC_VEC_GP},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        pages(3, 3);
        uint64_t area = BORDER - 0x1000;
        st64(area + 512, cases[i].bv);
        st64(area + 520, cases[i].comp);
        int got = run_at(XRSTOR, area, 4);
        if (got != cases[i].vector)
            fail_msg("header %u: vector %d", i, got);
    }
}

/* Alignment goes before the segment and the address. */
static void misaligned_and_not_canonical(void **state)
{
    (void)state;
    for (unsigned off = 0; off < 2; off++) {
        pages(3, 3);
        rig.st.gpr[VMC_RBP] = 0x8000000000000000ull + off;
        assert_int_equal(run_at("\x48\x0f\xae\x65\x40", 0, 7), off ? VMC_VEC_GP : VMC_VEC_SS);
        assert_int_equal(ld64(rig.st.gpr[VMC_RSP]), 0);
    }
}

/* VZEROUPPER and VZEROALL leave YMM8 to 15 alone outside 64-bit mode (SDM 2C), in a translation,
 * too. */
static void zeroing_stops_at_ymm7(void **state)
{
    /* mov ecx, 20000; L: vzeroupper or vzeroall; dec ecx; jnz L; hlt */
    uint8_t code[] = {0xb9, 0x20, 0x4e, 0, 0, 0xc5, 0xf8, 0x77, 0xff, 0xc9, 0x75, 0xf9, 0xf4};
#ifdef VMC_SANITIZED /* such builds have no translator */
    const unsigned runs = 4;
#else
    const unsigned runs = 8;
#endif
    (void)state;
    for (unsigned k = 0; k < runs; k++) {
        unsigned bits = k & 1 ? 64 : 32, all = k & 2, n = bits == 64 ? 16 : 8;
        struct cpu_rig *r = &rig;
        cpu_rig_destroy(r);
        cpu_rig_create_soft(r, 0, k & 4 ? VMC_SOFT_TRANSLATE : 0);
        cpu_rig_mode(r, bits, 0);
        enable(7);
        r->st.xsave_bytes = 832;
        memset(r->st.xsave, 0, sizeof(r->st.xsave));
        r->st.xsave[512] = 7;
        memset(r->st.xsave + 160, 0x55, 256);
        memset(r->st.xsave + 576, 0xaa, 256);
        code[6] = all ? 0xfc : 0xf8;
        cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(code));
        assert_int_equal(cpu_rig_run(r, 0), VMC_EXIT_IDLE);
        for (unsigned i = 0; i < 256; i++) {
            assert_int_equal(r->st.xsave[160 + i], all && i < 16 * n ? 0 : 0x55);
            assert_int_equal(r->st.xsave[576 + i], i < 16 * n ? 0 : 0xaa);
        }
        if (k & 4) { /* it was translated, and needs no help */
            assert_true(cpu_rig_stat(r, "bt.translated") > 0);
            assert_true(cpu_rig_stat(r, "bt.callouts") < 200);
        }
    }
}

/* Bases of data segments mean nothing to 64-bit code, for the alignment of operands neither. */
static void alignment_without_bases(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        pages(3, 3);
        rig.st.seg[VMC_DS].base = 8;
        /* movaps xmm0, [rbx], then with a base that counts; xsave [rbx] */
        static const char *const insns[] = {"\x0f\x28\x03", "\x64\x0f\x28\x03", XSAVE};
        rig.st.seg[VMC_FS].base = 8;
        assert_int_equal(run_at(insns[i], BORDER, 7), i == 1 ? VMC_VEC_GP : -1);
    }
}

/* 32-bit code whose segment goes round the end of the address space: 256 bytes of it are at 7fff00h,
   the rest at 0. FXSAVE and FXRSTOR at its beginning, XMM7 being lost between them. */
static int save_round_the_end(bool first_page)
{
    uint32_t *dir = (uint32_t *)(void *)(rig.ram + PAGE_TABLE), *low = dir + 1024;

    cpu_rig_mode(&rig, 32, 0);
    enable(7);
    memset(dir, 0, 0x1000);
    for (unsigned i = 0; i < 1024; i++)
        low[i] = i << 12 | (i != 0 || first_page ? 3 : 0);
    dir[0] = (PAGE_TABLE + 0x1000) | 3;
    dir[1023] = 0x400083;
    rig.st.cr3 = PAGE_TABLE;
    rig.st.cr4 |= VMC_CR4_PSE;
    rig.st.cr0 |= VMC_CR0_PG;
    rig.st.seg[VMC_DS].base = 0xffffff00;
    memset(rig.ram, 0xcc, 0x200);
    memset(rig.ram + 0x7fff00, 0xcc, 0x100);
    for (unsigned i = 0; i < 8; i++)
        memset(rig.st.xsave + 160 + 16 * i, 0x10 + (int)i, 16);
    rig.st.xsave[512] = 3;
    /* fxsave [ebx]; xorps xmm7, xmm7; fxrstor [ebx]; hlt */
    cpu_rig_code(&rig, CPU_RIG_TEXT, "\x0f\xae\x03\x0f\x57\xff\x0f\xae\x0b\xf4", 10);
    rig.st.gpr[VMC_RBX] = 0;
    return outcome();
}

static void areas_wrap_at_4_gib(void **state)
{
    (void)state;
    assert_int_equal(save_round_the_end(true), -1);
    assert_int_equal(rig.ram[0x7fff00 + 160], 0x10);
    assert_int_equal(rig.ram[160 + 6 * 16 - 256], 0x16);
    assert_int_equal(rig.ram[160 + 7 * 16 - 256 + 15], 0x17);
    assert_int_equal(rig.ram[0x100 + 32], 0xcc); /* no XMM8 in 32-bit code */
    assert_int_equal(rig.st.xsave[160 + 7 * 16 + 15], 0x17);
}

static void faults_behind_4_gib_are_at_low_addresses(void **state)
{
    (void)state;
    assert_int_equal(save_round_the_end(false), VMC_VEC_PF);
    assert_int_equal(rig.st.cr2, 0xff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(faults_are_those_of_the_ends_of_the_area, setup, teardown),
        cmocka_unit_test_setup_teardown(a_save_that_faults_writes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(pkru_is_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(compacted_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(misaligned_and_not_canonical, setup, teardown),
        cmocka_unit_test_setup_teardown(zeroing_stops_at_ymm7, setup, teardown),
        cmocka_unit_test_setup_teardown(alignment_without_bases, setup, teardown),
        cmocka_unit_test_setup_teardown(areas_wrap_at_4_gib, setup, teardown),
        cmocka_unit_test_setup_teardown(faults_behind_4_gib_are_at_low_addresses, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
