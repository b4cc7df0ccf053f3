/* SPDX-License-Identifier: BSD-2-Clause */
/* The TSCs of a VM's vCPUs through guests' writes and RESET, on the software CPU. */
#include "vm_fixture.h"

#define CODE 0x1000u
#define FAR  (1ull << 52)

struct tsc_fx {
    struct test_platform tp;
    struct vmc_vm *vm;
    struct vmc_vcpu *v[2];
    struct vmc_x86_state st;
};

static int setup(void **state)
{
    struct tsc_fx *f = calloc(1, sizeof(*f));
    struct vmc_error err = {.text = ""};
    struct vmc_mem_slot ram = {.size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = 1 << 20};

    test_platform_init(&f->tp);
    f->tp.pf.tsc_hz = 3000000000; /* the clocks need one, any */
    struct vmc_vm_config c = {
        .size = sizeof(c),
        .max_vcpus = 2,
        .platform = &f->tp.pf,
        .engine = vmc_engine_soft(),
    };
    if (vmc_vm_create(&c, &f->vm, &err) != VMC_OK)
        fail_msg("create: %s", err.text);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(vmc_vcpu_create(f->vm, i, &f->v[i], &err), VMC_OK);
    assert_int_equal(vmc_mem_add(vmc_vm_mem(f->vm), &ram, &err), VMC_OK);
    if (vmc_vm_start(f->vm, &err) != VMC_OK)
        fail_msg("start: %s", err.text);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct tsc_fx *f = *state;

    vmc_vm_destroy(f->vm);
    test_platform_check(&f->tp);
    free(f);
    return 0;
}

/* vCPU 0 executes WRMSR. */
static void guest_wrmsr(struct tsc_fx *f, uint32_t index, uint64_t value)
{
    static const uint8_t code[] = {0x0f, 0x30};
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = 1};
    struct vmc_exit x;

    assert_int_equal(vmc_mem_write(vmc_vm_mem(f->vm), CODE, code, sizeof(code)), VMC_OK);
    assert_int_equal(vmc_vcpu_get_state(f->v[0], VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG, &f->st),
                     VMC_OK);
    f->st.rip = CODE;
    f->st.seg[VMC_CS].selector = 0;
    f->st.seg[VMC_CS].base = 0;
    f->st.gpr[VMC_RCX] = index;
    f->st.gpr[VMC_RAX] = (uint32_t)value;
    f->st.gpr[VMC_RDX] = value >> 32;
    assert_int_equal(vmc_vcpu_set_state(f->v[0], VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG, &f->st),
                     VMC_OK);
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &x), VMC_OK);
    assert_int_equal(vmc_vcpu_get_state(f->v[0], VMC_ST_RIP, &f->st), VMC_OK);
    assert_int_equal(f->st.rip, CODE + sizeof(code));
}

static uint64_t get_tsc(struct tsc_fx *f, unsigned cpu, uint64_t *adjust)
{
    assert_int_equal(vmc_vcpu_get_state(f->v[cpu], VMC_ST_MSR | VMC_ST_CLOCK, &f->st), VMC_OK);
    *adjust = f->st.msr.tsc_adjust;
    return f->st.tsc;
}

static void reset_makes_them_one_again(void **state)
{
    static const uint32_t index[] = {VMC_MSR_TSC, VMC_MSR_TSC_ADJUST};
    struct tsc_fx *f = *state;
    uint64_t adjust[2];

    for (unsigned k = 0; k < 2; k++) {
        guest_wrmsr(f, index[k], FAR);
        assert_true(get_tsc(f, 0, &adjust[0]) >= FAR);
        assert_true(get_tsc(f, 1, &adjust[1]) < FAR / 2);
        assert_true(adjust[0] >= FAR / 2 && adjust[1] == 0);
        vmc_vm_pause(f->vm);
        assert_int_equal(vmc_vm_reset(f->vm), VMC_OK);
        vmc_vm_resume(f->vm);
        assert_true(get_tsc(f, 0, &adjust[0]) < FAR / 2);
        assert_true(adjust[0] == 0);
        uint64_t before = get_tsc(f, 0, &adjust[0]);
        uint64_t between = get_tsc(f, 1, &adjust[1]);
        assert_true(between >= before && between <= get_tsc(f, 0, &adjust[0]));
    }
}

/* The whole way: the MSR, the record, RDTSC's clock, one write of the TSC after the other. */
static void clock_is_monotonic_over_writes(void **state)
{
    static const uint64_t to[] = {0, FAR, 12345, ~0ull - 1000};
    struct tsc_fx *f = *state;
    uint64_t stamp[2], adjust, last = 0;

    guest_wrmsr(f, VMC_MSR_KVM_SYSTEM_TIME, 0x5001);
    for (unsigned k = 0; k < 4; k++) {
        guest_wrmsr(f, VMC_MSR_TSC, to[k]);
        assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), 0x5008, stamp, sizeof(stamp)), VMC_OK);
        assert_true(get_tsc(f, 0, &adjust) - stamp[0] < FAR / 2);
        assert_true(stamp[1] >= last && stamp[1] < last + 60000000000);
        last = stamp[1];
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reset_makes_them_one_again, setup, teardown),
        cmocka_unit_test_setup_teardown(clock_is_monotonic_over_writes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
