/* SPDX-License-Identifier: BSD-2-Clause */
/* What instructions need of the mode and of the model of CPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_rig_one.h"

/* Runs to a HLT; returns the vector if that is in a handler, else -1. */
static int outcome(void)
{
    assert_int_equal(cpu_rig_run(&rig, 1000), VMC_EXIT_IDLE);
    uint64_t at = rig.st.seg[VMC_CS].base + rig.st.rip - 1 - CPU_RIG_TRAPS;
    return at < 32 ? (int)at : -1;
}

/* 16-bit code in virtual-8086 mode at CPU_RIG_TEXT. */
static void v86_mode(void)
{
    cpu_rig_mode(&rig, 32, 3);
    rig.st.rflags |= VMC_FLAG_VM | VMC_FLAG_IOPL;
    for (unsigned i = 0; i < 6; i++)
        rig.st.seg[i] = (struct vmc_segment){.limit = 0xffff, .attr = 0xf3};
    rig.st.seg[VMC_CS].selector = CPU_RIG_TEXT >> 4;
    rig.st.seg[VMC_CS].base = CPU_RIG_TEXT;
    rig.st.rip = 0;
    rig.st.gpr[VMC_RSP] = 0x8000;
}

/* Protected mode, 16-bit code at CPU_RIG_TEXT. */
static void prot16(void)
{
    cpu_rig_mode(&rig, 32, 0);
    rig.st.seg[VMC_CS].attr &= ~VMC_SEG_DB;
}

/*
 * All of the VEX space is #UD in real and virtual-8086 mode, the instructions on general registers
 * too (SDM 2A, exception type 13); the code is the same in all three modes, and so are its blocks.
 */
static void vex_needs_protected_mode(void **state)
{
    static const struct {
        const char *what;
        uint8_t bytes[8];
    } vex[] = {
        {"andn eax, ebx, ecx", {0xc4, 0xe2, 0x60, 0xf2, 0xc1, 0xf4}},
        {"bextr eax, ebx, ecx", {0xc4, 0xe2, 0x70, 0xf7, 0xc3, 0xf4}},
        {"blsi eax, ecx", {0xc4, 0xe2, 0x78, 0xf3, 0xd9, 0xf4}},
        {"blsmsk eax, ecx", {0xc4, 0xe2, 0x78, 0xf3, 0xd1, 0xf4}},
        {"blsr eax, ecx", {0xc4, 0xe2, 0x78, 0xf3, 0xc9, 0xf4}},
        {"bzhi eax, ebx, ecx", {0xc4, 0xe2, 0x70, 0xf5, 0xc3, 0xf4}},
        {"mulx eax, ebx, ecx", {0xc4, 0xe2, 0x63, 0xf6, 0xc1, 0xf4}},
        {"pdep eax, ebx, ecx", {0xc4, 0xe2, 0x63, 0xf5, 0xc1, 0xf4}},
        {"pext eax, ebx, ecx", {0xc4, 0xe2, 0x62, 0xf5, 0xc1, 0xf4}},
        {"rorx eax, ecx, 8", {0xc4, 0xe3, 0x7b, 0xf0, 0xc1, 0x08, 0xf4}},
        {"sarx eax, ebx, ecx", {0xc4, 0xe2, 0x72, 0xf7, 0xc3, 0xf4}},
        {"shlx eax, ebx, ecx", {0xc4, 0xe2, 0x71, 0xf7, 0xc3, 0xf4}},
        {"shrx eax, ebx, ecx", {0xc4, 0xe2, 0x73, 0xf7, 0xc3, 0xf4}},
        {"vzeroupper", {0xc5, 0xf8, 0x77, 0xf4}},
        {"vstmxcsr [bx]", {0xc5, 0xf8, 0xae, 0x1f, 0xf4}},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(vex) / sizeof(vex[0]); i++) {
        for (unsigned k = 0; k < 4; k++) {
            if (k % 2 == 0)
                prot16();
            else if (k == 1)
                cpu_rig_mode(&rig, 16, 0);
            else
                v86_mode();
            rig.st.cr4 |= VMC_CR4_OSXSAVE;
            rig.st.xcr0 = 7;
            rig.st.gpr[VMC_RBX] = CPU_RIG_DATA & 0xffff;
            rig.st.gpr[VMC_RCX] = 0x12345678;
            if (k == 0)
                cpu_rig_code(&rig, CPU_RIG_TEXT, vex[i].bytes, sizeof(vex[i].bytes));
            int got = outcome(), want = k % 2 == 0 ? -1 : VMC_VEC_UD;
            if (got != want)
                fail_msg("%s, mode %u: vector %d, not %d", vex[i].what, k, got, want);
        }
    }
    /* Those of BMI1 without VEX are valid everywhere: tzcnt eax, ecx. */
    static const uint8_t tzcnt[] = {0x66, 0xf3, 0x0f, 0xbc, 0xc1, 0xf4};
    cpu_rig_code(&rig, CPU_RIG_TEXT, tzcnt, sizeof(tzcnt));
    cpu_rig_mode(&rig, 16, 0);
    rig.st.gpr[VMC_RCX] = 0x100;
    assert_int_equal(outcome(), -1);
    assert_int_equal(rig.st.gpr[VMC_RAX], 8);
}

static void model(const char *name)
{
    struct vmc_cpu_policy p;
    struct vmc_error err = {0};
    assert_int_equal(vmc_cpu_policy_preset(&p, name, &rig.info.ceiling, &err), VMC_OK);
    assert_int_equal(rig.ops->set_policy(rig.evm, &p, &err), VMC_OK);
}

/* Opcodes that got a meaning in the course of time. */
static void models_lack_what_came_later(void **state)
{
    static const struct {
        const char *what;
        uint8_t code[8];
        int v486, pentium, pentium3, v1;
    } t[] = {
        {"nop [eax]", {0x0f, 0x1f, 0x00, 0xf4}, 6, 6, -1, -1},
        {"nop eax", {0x0f, 0x1f, 0xc0, 0xf4}, 6, 6, -1, -1},
        {"prefetchnta [eax]", {0x0f, 0x18, 0x00, 0xf4}, 6, 6, -1, -1},
        {"prefetchw [eax]", {0x0f, 0x0d, 0x08, 0xf4}, 6, 6, -1, -1},
        {"endbr32", {0xf3, 0x0f, 0x1e, 0xfb, 0xf4}, 6, 6, -1, -1},
        {"rdpmc", {0x0f, 0x33, 0xf4}, 6, -1, -1, -1},
        {"cmove eax, ecx", {0x0f, 0x44, 0xc1, 0xf4}, 6, 6, -1, -1},
        {"pause", {0xf3, 0x90, 0xf4}, -1, -1, -1, -1},
        {"invd", {0x0f, 0x08, 0xf4}, -1, -1, -1, -1},
    };
    static const char *const models[] = {"486", "pentium", "pentium3", "x86-64-v1"};
    (void)state;
    for (unsigned m = 0; m < 4; m++) {
        cpu_rig_destroy(&rig);
        cpu_rig_create(&rig, 0);
        model(models[m]);
        for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
            const int want[4] = {t[i].v486, t[i].pentium, t[i].pentium3, t[i].v1};
            cpu_rig_mode(&rig, 32, 0);
            rig.st.cr4 = 0;
            cpu_rig_code(&rig, CPU_RIG_TEXT, t[i].code, sizeof(t[i].code));
            int got = outcome();
            if (got != want[m])
                fail_msg("%s on %s: vector %d, not %d", t[i].what, models[m], got, want[m]);
        }
    }
}

/* A Pentium III has no DAZ: FXSAVE leaves 0 in MXCSR_MASK, and LDMXCSR refuses the bit. */
static void daz_came_with_sse2(void **state)
{
    static const uint8_t code[] = {0x0f, 0xae, 0x03, 0x0f, 0xae, 0x16, 0xf4};
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        cpu_rig_destroy(&rig);
        cpu_rig_create(&rig, 0);
        model(i ? "x86-64-v1" : "pentium3");
        for (uint32_t daz = 0; daz <= 0x40; daz += 0x40) {
            uint32_t mxcsr = 0x1f80 | daz, mask;
            cpu_rig_mode(&rig, 32, 0);
            rig.st.gpr[VMC_RBX] = CPU_RIG_DATA;
            rig.st.gpr[VMC_RSI] = CPU_RIG_DATA + 0x400;
            memcpy(rig.ram + CPU_RIG_DATA + 0x400, &mxcsr, 4);
            /* fxsave [ebx]; ldmxcsr [esi]; hlt */
            cpu_rig_code(&rig, CPU_RIG_TEXT, code, sizeof(code));
            assert_int_equal(outcome(), daz && !i ? VMC_VEC_GP : -1);
            memcpy(&mask, rig.ram + CPU_RIG_DATA + 28, 4);
            assert_int_equal(mask & ~0xffbfu, i ? 0x40 : 0);
            assert_int_equal(mask != 0, i);
        }
        /* State may have it all the same: under VT-x and SVM the guest finds the processor's bits. */
        uint32_t mxcsr = 0x1fc0;
        memcpy(rig.st.xsave + 24, &mxcsr, 4);
        assert_int_equal(rig.ops->set_state(rig.ev, VMC_ST_FPU, &rig.st), VMC_OK);
    }
}

/* 32-bit code in long mode, whose GDT and IDT are between 4 and 8 GiB. */
static void tables_of_long_mode_have_64_bits(void **state)
{
    const uint64_t high = 0x180000000, directory = (CPU_RIG_PML4 + 0x2000) | 7;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        cpu_rig_mode(&rig, 64, 0);
        memcpy(rig.ram + CPU_RIG_PML4 + 0x1000 + 8 * (high >> 30), &directory, 8);
        rig.st.seg[VMC_CS].attr = (rig.st.seg[VMC_CS].attr & ~VMC_SEG_L) | VMC_SEG_DB;
        rig.st.gdtr.base += high;
        rig.st.idtr.base += high;
        rig.st.gpr[VMC_RAX] = CPU_RIG_DS0;
        /* mov ds, ax; hlt, or ud2 */
        cpu_rig_code(&rig, CPU_RIG_TEXT, i == 0 ? "\x8e\xd8\xf4" : "\x8e\xd8\x0f\x0b", 4);
        assert_int_equal(outcome(), i == 0 ? -1 : VMC_VEC_UD);
        assert_int_equal(rig.st.seg[VMC_DS].selector, CPU_RIG_DS0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(vex_needs_protected_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(models_lack_what_came_later, setup, teardown),
        cmocka_unit_test_setup_teardown(daz_came_with_sse2, setup, teardown),
        cmocka_unit_test_setup_teardown(tables_of_long_mode_have_64_bits, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
