/* SPDX-License-Identifier: BSD-2-Clause */
/* Single instructions on a state that belongs to somebody else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/emulate.h"
#include "cpu_rig.h"

#include <vmcore/hw.h>

#define GROUPS (VMC_ST_ALL & ~(uint32_t)(VMC_ST_LAPIC | VMC_ST_EVENT | VMC_ST_CLOCK))

static struct cpu_rig rig;
static struct vmci_emulator *emu;

static int setup(void **state)
{
    (void)state;
    struct vmc_error err;
    cpu_rig_create(&rig, 0);
    return vmci_emulator_create(&rig.tp.pf, rig.mem, 0, &rig.info.ceiling, &rig.io, &emu, &err);
}
static int teardown(void **state)
{
    (void)state;
    vmci_emulator_destroy(emu);
    cpu_rig_destroy(&rig);
    return 0;
}

static void poke(const uint8_t *code, size_t n) /* as the guest does it: without telling */
{
    memcpy(rig.ram + CPU_RIG_TEXT, code, n);
}

static void one_instruction(void **state)
{
    (void)state;
    static const uint8_t code[] = {0x8b, 0x03, 0x90}; /* mov eax, [rbx] */
    cpu_rig_mode(&rig, 64, 0);
    poke(code, sizeof(code));
    rig.st.gpr[VMC_RBX] = 0x20000000; /* MMIO */
    rig.mmio_in = 0xabcdef;
    assert_int_equal(vmci_emulate(emu, GROUPS, &rig.st, 1, &rig.exit), 0);
    assert_int_equal(rig.exit.kind, VMC_EXIT_BUDGET);
    assert_int_equal(rig.st.gpr[VMC_RAX], 0xabcdef);
    assert_int_equal(rig.st.rip, CPU_RIG_TEXT + 2);
}

static void code_and_tables_change_behind_its_back(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        uint8_t code[] = {0xb0, (uint8_t)i}; /* mov al, i */
        cpu_rig_mode(&rig, 64, 0);
        poke(code, sizeof(code));
        assert_int_equal(vmci_emulate(emu, GROUPS, &rig.st, 1, &rig.exit), 0);
        assert_int_equal(rig.st.gpr[VMC_RAX], i);
    }
    /* The page at 4 MiB moves between two calls. */
    static const uint8_t load[] = {0x8b, 0x03};
    uint64_t *pde = (uint64_t *)(void *)(rig.ram + CPU_RIG_PML4 + 0x2000 + 8 * 2);
    for (unsigned i = 0; i < 3; i++) {
        cpu_rig_mode(&rig, 64, 0);
        poke(load, sizeof(load));
        *pde = (uint64_t)i << 21 | 0x87 | 0x100; /* global, too */
        uint32_t mark = 0x1000 + i;
        memcpy(rig.ram + ((size_t)i << 21) + 0x1ff000, &mark, 4);
        rig.st.cr4 |= VMC_CR4_PGE;
        rig.st.gpr[VMC_RBX] = (2ull << 21) + 0x1ff000;
        assert_int_equal(vmci_emulate(emu, GROUPS, &rig.st, 1, &rig.exit), 0);
        assert_int_equal(rig.st.gpr[VMC_RAX], mark);
    }
}

static void exits_complete_and_resume(void **state)
{
    (void)state;
    static const uint8_t code[] = {0xa5}; /* movsd from MMIO to MMIO */
    cpu_rig_mode(&rig, 64, 0);
    poke(code, sizeof(code));
    rig.claim = false;
    rig.st.gpr[VMC_RSI] = 0x20000000;
    rig.st.gpr[VMC_RDI] = 0x20001000;
    assert_int_equal(vmci_emulate(emu, GROUPS, &rig.st, 1, &rig.exit), 0);
    assert_int_equal(rig.exit.kind, VMC_EXIT_MMIO);
    assert_false(rig.exit.u.mmio.write);
    rig.exit.u.mmio.data = 99;
    assert_int_equal(vmci_emulate_complete(emu, &rig.exit), 0);
    assert_int_equal(vmci_emulate(emu, GROUPS, &rig.st, 1, &rig.exit), 0);
    assert_int_equal(rig.exit.kind, VMC_EXIT_MMIO);
    assert_true(rig.exit.u.mmio.write);
    assert_int_equal(rig.exit.u.mmio.gpa, 0x20001000);
    assert_int_equal(rig.exit.u.mmio.data, 99);
    assert_int_equal(vmci_emulate_complete(emu, &rig.exit), 0);
    assert_int_equal(vmci_emulate(emu, GROUPS, &rig.st, 1, &rig.exit), 0);
    assert_int_equal(rig.exit.kind, VMC_EXIT_BUDGET);
    assert_int_equal(rig.st.gpr[VMC_RSI], 0x20000004);
    rig.claim = true;
}

static void exceptions_are_delivered(void **state)
{
    (void)state;
    static const uint8_t code[] = {0x0f, 0x0b};
    cpu_rig_mode(&rig, 64, 0);
    poke(code, sizeof(code));
    assert_int_equal(vmci_emulate(emu, GROUPS, &rig.st, 1, &rig.exit), 0);
    assert_int_equal(rig.exit.kind, VMC_EXIT_BUDGET);
    assert_int_equal(rig.st.rip, CPU_RIG_TRAPS + VMC_VEC_UD);
}

/* CR3 and bases that the CPU model has not, but a guest can load where the processor has them. */
static void wide_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)ctx;
    (void)subleaf;
    memset(out, 0, 4 * sizeof(out[0]));
    if (leaf == 0x80000008u)
        out[0] = 52 | 57 << 8;
}

static void the_processor_may_be_wider_than_the_model(void **state)
{
    (void)state;
    static const uint8_t code[] = {0x65, 0x8b, 0x03}; /* mov eax, gs:[rbx] */
    const struct vmc_hw_ops hw = {.size = sizeof(hw), .cpuid = wide_cpuid};
    static struct vmc_x86_state was;
    static struct vmc_cpu_policy policy;
    struct vmc_platform pf = rig.tp.pf;
    struct vmci_emulator *wide, *narrow;
    struct vmc_error err;

    cpu_rig_mode(&rig, 64, 0);
    poke(code, sizeof(code));
    was = rig.st;
    policy = rig.info.ceiling;
    assert_int_equal(vmc_cpu_policy_feature(&policy, "la57", false, NULL, &err), 0);
    assert_int_equal(vmci_emulator_create(&pf, rig.mem, 0, &policy, &rig.io, &narrow, &err), 0);
    pf.hw = &hw;
    assert_int_equal(vmci_emulator_create(&pf, rig.mem, 0, &policy, &rig.io, &wide, &err), 0);
    for (unsigned again = 0; again < 2; again++) {
        rig.st.seg[VMC_GS].base = 1ull << 55;
        rig.st.msr.lstar = 1ull << 55;
        assert_int_equal(vmci_emulate(narrow, GROUPS, &rig.st, 1, &rig.exit), VMC_EINVAL);
        assert_int_equal(vmci_emulate(wide, GROUPS, &rig.st, 1, &rig.exit), 0);
        assert_true(rig.st.rip != CPU_RIG_TEXT + 3); /* it may be loaded, and not accessed: #GP */
        rig.st = was;
        rig.st.cr3 |= 1ull << 51;
        assert_int_equal(vmci_emulate(narrow, GROUPS, &rig.st, 1, &rig.exit), VMC_EINVAL);
        assert_int_equal(vmci_emulate(wide, GROUPS, &rig.st, 1, &rig.exit), 0);
        assert_int_equal(rig.exit.kind, VMC_EXIT_SHUTDOWN);
        rig.st = was;
        rig.st.seg[VMC_GS].base = 1ull << 57;
        assert_int_equal(vmci_emulate(wide, GROUPS, &rig.st, 1, &rig.exit), VMC_EINVAL);
        assert_int_equal(vmci_emulator_set_policy(wide, &policy, &err), 0);
        rig.st = was;
    }
    vmci_emulator_destroy(wide);
    vmci_emulator_destroy(narrow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_instruction),
        cmocka_unit_test(code_and_tables_change_behind_its_back),
        cmocka_unit_test(exits_complete_and_resume),
        cmocka_unit_test(exceptions_are_delivered),
        cmocka_unit_test(the_processor_may_be_wider_than_the_model),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
