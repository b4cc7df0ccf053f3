/* SPDX-License-Identifier: BSD-2-Clause */
/* Which barriers against speculation are chosen for which processor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/hw/hw_int.h"
#include "test_platform.h"

static struct {
    uint32_t l7_edx, lx8_ebx, lx21_eax;
    uint64_t caps;
    uint64_t spec_ctrl, efer;
    unsigned ibpbs;
} cpu;
static struct test_platform tp;
static struct vmc_hw_ops ops;

static void op_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)ctx, (void)subleaf;
    memset(out, 0, 4 * sizeof(out[0]));
    if (leaf == 0)
        out[0] = 7;
    else if (leaf == 7)
        out[3] = cpu.l7_edx;
    else if (leaf == 0x80000000u)
        out[0] = 0x80000021u;
    else if (leaf == 0x80000008u)
        out[1] = cpu.lx8_ebx;
    else if (leaf == 0x80000021u)
        out[0] = cpu.lx21_eax;
}

static uint64_t op_rdmsr(void *ctx, uint32_t index)
{
    (void)ctx;
    assert_true(index == VMC_MSR_EFER || (index == 0x48 && (cpu.l7_edx | cpu.lx8_ebx) != 0) ||
                (index == 0x10a && (cpu.l7_edx & 1u << 29)));
    return index == 0x10a ? cpu.caps : index == 0x48 ? cpu.spec_ctrl : cpu.efer;
}

static void op_wrmsr(void *ctx, uint32_t index, uint64_t value)
{
    (void)ctx;
    if (index == 0x48)
        cpu.spec_ctrl = value;
    else if (index == 0x49)
        cpu.ibpbs++;
    else if (index == VMC_MSR_EFER)
        cpu.efer = value;
    else
        fail_msg("MSR 0x%x", index);
}

static uint32_t choose(uint32_t l7_edx, uint64_t caps, uint32_t lx8_ebx, uint32_t lx21_eax)
{
    struct hw_spec s;

    memset(&cpu, 0, sizeof(cpu));
    cpu.l7_edx = l7_edx;
    cpu.caps = caps;
    cpu.lx8_ebx = lx8_ebx;
    cpu.lx21_eax = lx21_eax;
    hw_spec_choose(&tp.pf, &s);
    hw_spec_cpu_up(&tp.pf);
    return s.entry_flags | (s.ibpb ? 0x80000000u : 0);
}

#define IBPB     0x80000000u
#define IBRS     (1u << 26) /* CPUID.7:EDX */
#define MD_CLEAR (1u << 10)
#define L1D      (1u << 28)
#define CAPS     (1u << 29)

static int set_up(void **state)
{
    (void)state;
    test_platform_init(&tp);
    ops = (struct vmc_hw_ops){
        .size = sizeof(ops), .cpuid = op_cpuid, .rdmsr = op_rdmsr, .wrmsr = op_wrmsr};
    tp.pf.hw = &ops;
    return 0;
}

static void old_processors_get_nothing(void **state)
{
    (void)state;
    assert_int_equal(choose(0, 0, 0, 0), 0);
    assert_int_equal(cpu.spec_ctrl, 0);
}

static void intel(void **state)
{
    (void)state;
    const uint32_t rsb = VMC_HW_FILL_RSB;
    /* The first ones with microcode against Meltdown, Spectre, L1TF, MDS. */
    assert_int_equal(choose(IBRS | MD_CLEAR | L1D, 0, 0, 0),
                     IBPB | rsb | VMC_HW_SET_IBRS | VMC_HW_CLEAR_CPU | VMC_HW_FLUSH_L1D);
    assert_int_equal(cpu.spec_ctrl, 0);
    /* Enhanced IBRS is switched on once. */
    assert_int_equal(choose(IBRS | MD_CLEAR | L1D | CAPS, 1 << 0 | 1 << 1 | 1 << 3 | 1 << 5, 0, 0),
                     IBPB | rsb | VMC_HW_CLEAR_CPU); /* no TAA_NO */
    assert_int_equal(cpu.spec_ctrl, 1);
    assert_int_equal(choose(IBRS | MD_CLEAR | L1D | CAPS, 0x12b, 0, 0), IBPB | rsb);
    /* Register file data sampling. */
    assert_int_equal(choose(IBRS | MD_CLEAR | CAPS, 0x12b | 1ull << 28, 0, 0),
                     IBPB | rsb | VMC_HW_CLEAR_CPU);
    assert_int_equal(choose(IBRS | MD_CLEAR | CAPS, 0x12b | 3ull << 27, 0, 0), IBPB | rsb);
    /* Returns that leave the stack for the branch predictor. */
    assert_int_equal(choose(CAPS, 1 << 2, 0, 0), rsb);
}

static void amd(void **state)
{
    (void)state;
    const uint32_t rsb = VMC_HW_FILL_RSB;

    assert_int_equal(choose(0, 0, 1u << 12, 0), IBPB | rsb);
    assert_int_equal(choose(0, 0, 1u << 12 | 1u << 14, 0), IBPB | rsb | VMC_HW_SET_IBRS);
    assert_int_equal(choose(0, 0, 1u << 12 | 1u << 14 | 1u << 16, 0), IBPB | rsb);
    assert_int_equal(cpu.spec_ctrl, 1);
    assert_int_equal(choose(0, 0, 1u << 12 | 1u << 14, 1u << 8), IBPB | rsb);
    assert_int_equal(cpu.spec_ctrl, 0);
    assert_true(cpu.efer == 1u << 21);
}

static void another_vcpu_gets_another_history(void **state)
{
    (void)state;
    static struct hw_vm vm;
    static struct hw_vcpu a, b;
    struct hw_percpu pc = {.last = &a};

    (void)choose(0, 0, 1u << 12, 0);
    vm.pf = &tp.pf;
    vm.hw = &ops;
    hw_spec_choose(&tp.pf, &vm.spec);
    a.vm = b.vm = &vm;
    hw_spec_switch(&a, &pc);
    assert_int_equal(cpu.ibpbs, 0);
    hw_spec_switch(&b, &pc);
    assert_int_equal(cpu.ibpbs, 1);
    /* The last one is gone, and a new one lies in its place. */
    a.last_cpu = UINT32_MAX;
    hw_spec_switch(&a, &pc);
    assert_int_equal(cpu.ibpbs, 2);
    /* So it does when that one has run since, on another processor. */
    a.last_cpu = 1;
    hw_spec_switch(&a, &pc);
    assert_int_equal(cpu.ibpbs, 3);
    a.last_cpu = 0;
    hw_spec_switch(&a, &pc);
    assert_int_equal(cpu.ibpbs, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(old_processors_get_nothing),
        cmocka_unit_test(intel),
        cmocka_unit_test(amd),
        cmocka_unit_test(another_vcpu_gets_another_history),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
