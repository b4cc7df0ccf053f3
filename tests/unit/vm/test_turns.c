/* SPDX-License-Identifier: BSD-2-Clause */
/* Deterministic mode and the paravirtual clock. */
#include "vm_fixture.h"

/* A toy guest: counts, reads its clock through a device, arms its APIC timer, halts. */
struct trace {
    uint64_t hash;
    unsigned irqs, reads;
};

static struct trace trace;

static void mix(uint64_t v)
{
    trace.hash = (trace.hash ^ v) * 0x100000001b3ull;
}

static uint64_t clock_read(void *dev, uint64_t o, unsigned n)
{
    struct vmc_timerq *q = dev;
    (void)o;
    (void)n;
    trace.reads++;
    return vmc_timerq_now(q);
}
static void clock_write(void *dev, uint64_t o, unsigned n, uint64_t v)
{
    (void)dev;
    (void)o;
    (void)n;
    (void)v;
}
static const struct vmc_bus_ops clock_ops = {clock_read, clock_write};

static int guest(struct null_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    if (v->scratch[7] == 0) { /* first run: enable the APIC, periodic timer of 5000 ns */
        static const struct {
            uint32_t reg, v;
        } setup[] = {{0xf0, 0x1ff}, {0x3e0, 0xb}, {0x320, 0x20040}, {0x380, 50000}};
        for (unsigned i = 0; i < 4; i++) {
            uint64_t data = setup[i].v;
            (void)v->io->mmio(v->io->ctx, true, 0xfee00000 + setup[i].reg, 4, &data);
        }
        v->scratch[7] = 1;
    }
    for (;;) {
        int vec = null_take_irq(v);
        if (vec >= 0) {
            uint64_t zero = 0;
            v->scratch[6] = 0;
            trace.irqs++;
            mix(v->index * 1000 + (unsigned)vec);
            mix(v->retired);
            (void)v->io->mmio(v->io->ctx, true, 0xfee000b0, 4, &zero);
        }
        if (v->scratch[6] != 0) /* still halted */
            return null_hlt(v, out);
        if (null_poll(v, lim, out))
            return 0;
        null_retire(v, 1);
        if (v->retired % (700 + v->index) == 0) {
            uint64_t now;
            (void)v->io->mmio(v->io->ctx, false, 0xe0000000, 8, &now);
            mix(now);
        }
        v->scratch[6] = v->retired % 1100 == 0;
        if (v->scratch[6] != 0)
            return null_hlt(v, out);
    }
}

static uint64_t one_run(struct vm_fx *f, uint64_t insns, unsigned parts)
{
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = insns / parts};
    struct vmc_vcpu *who;

    memset(&trace, 0, sizeof(trace));
    vm_up(f, engine_null_pull(), 2, VMC_VM_DETERMINISTIC, guest);
    f->v[1]->wait_sipi = false;
    struct vmc_board *bd = vmc_vm_board(f->vm);
    assert_int_equal(vmc_bus_attach(bd->mmio, 0xe0000000, 8, &clock_ops, bd->timers, NULL), 0);
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_ESTATE);
    for (unsigned i = 0; i < parts; i++) { /* splitting a run must not matter to its result */
        assert_int_equal(vmc_vm_run(f->vm, &lim, &who, &f->x), VMC_OK);
        assert_int_equal(f->x.kind, VMC_EXIT_BUDGET);
        f->tp.now_ns += 123456789; /* the host's time does not matter */
    }
    mix(f->e[0]->retired);
    mix(f->e[1]->retired);
    mix(vmc_timerq_now(bd->timers));
    assert_true(trace.irqs > 10);
    assert_true(trace.reads > 10);
    vmc_vm_destroy(f->vm);
    f->vm = NULL;
    return trace.hash;
}

static void two_runs_are_the_same_run(void **state)
{
    struct vm_fx *f = *state;
    uint64_t first = one_run(f, 400000, 4);

    f->tp.now_ns = 42;
    assert_int_equal(one_run(f, 400000, 4), first);
    assert_int_equal(one_run(f, 400000, 1), first);
    assert_int_equal(one_run(f, 400000, 1000), first);
}

static void idle_time_is_skipped(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = 100000};
    struct vmc_vcpu *who;

    vm_up(f, engine_null_pull(), 1, VMC_VM_DETERMINISTIC, guest);
    assert_int_equal(vmc_vm_run(f->vm, &lim, &who, &f->x), VMC_OK);
    /* about 90 halts, each until the next tick of 50 us */
    assert_true(vmc_timerq_now(vmc_vm_board(f->vm)->timers) > 3000000);
}

static int sleeper(struct null_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    (void)lim;
    return null_hlt(v, out);
}

static void nothing_to_wait_for_is_the_embedders(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    struct vmc_vcpu *who;

    vm_up(f, engine_null_pull(), 2, VMC_VM_DETERMINISTIC, sleeper);
    assert_int_equal(vmc_vm_run(f->vm, &lim, &who, &f->x), VMC_OK);
    assert_int_equal(f->x.kind, VMC_EXIT_IDLE);
    assert_int_equal(f->x.u.idle.deadline_ns, UINT64_MAX);
    vmc_vcpu_kick(f->v[1]);
    assert_int_equal(vmc_vm_run(f->vm, &lim, &who, &f->x), VMC_OK);
    assert_int_equal(f->x.kind, VMC_EXIT_KICKED);
    assert_ptr_equal(who, f->v[1]);
    assert_int_equal(vmc_vcpu_index(who), 1);
    vmc_vm_pause(f->vm);
    assert_int_equal(vmc_vm_run(f->vm, &lim, &who, &f->x), VMC_OK);
    assert_int_equal(f->x.kind, VMC_EXIT_KICKED);
}

/* ---- paravirtual clock --------------------------------------------------------------------- */

static int wrmsr(struct null_vcpu *v, uint32_t index, uint64_t value)
{
    return v->io->msr(v->io->ctx, true, index, &value);
}

static uint64_t guest_time(const uint8_t *rec, uint64_t tsc)
{
    uint64_t delta = tsc - *(const uint64_t *)(const void *)(rec + 8);
    int8_t shift = (int8_t)rec[28];

    delta = shift >= 0 ? delta << shift : delta >> -shift;
    return *(const uint64_t *)(const void *)(rec + 16) +
           (uint64_t)(((unsigned __int128)delta * *(const uint32_t *)(const void *)(rec + 24)) >>
                      32);
}

static void clock_page_gives_the_time(void **state)
{
    struct vm_fx *f = *state;
    _Alignas(8) uint8_t rec[32], other[32];
    uint64_t v, tsc, hz;

    vm_up(f, engine_null_pull(), 2, 0, sleeper);
    f->tp.now_ns = 1000000;
    assert_int_equal(wrmsr(f->e[0], VMC_MSR_KVM_SYSTEM_TIME, 0x5001), VMC_IO_DONE);
    assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), 0x5000, rec, 32), VMC_OK);
    assert_int_equal(rec[0] & 1, 0); /* even: valid */
    assert_int_equal(rec[29], 1);    /* stable */
    f->tp.now_ns = 777777777777;
    (void)f->vm->ops->read_tsc(f->e[0], &tsc, &hz, NULL);
    v = guest_time(rec, tsc);
    assert_true(v <= f->tp.now_ns && v > f->tp.now_ns - 1000);
    assert_int_equal(wrmsr(f->e[1], VMC_MSR_KVM_SYSTEM_TIME, 0x5041), VMC_IO_DONE);
    assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), 0x5040, other, 32), VMC_OK);
    assert_memory_equal(rec + 4, other + 4, 28); /* the same clock on every vCPU */
    assert_int_equal(f->e[0]->io->msr(f->e[0]->io->ctx, false, VMC_MSR_KVM_SYSTEM_TIME, &v), 0);
    assert_int_equal(v, 0x5001);
    assert_int_equal(wrmsr(f->e[0], VMC_MSR_KVM_WALL_CLOCK, 0x6000), VMC_IO_DONE);
    assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), 0x6000, rec, 12), VMC_OK);
    uint32_t sec = *(uint32_t *)(void *)(rec + 4);
    assert_true(sec <= 946684800 && sec > 946684800 - 1000);
    assert_int_equal(wrmsr(f->e[0], VMC_MSR_KVM_SYSTEM_TIME, 0xdead0001), VMC_IO_GP);
    assert_int_equal(wrmsr(f->e[0], VMC_MSR_KVM_SYSTEM_TIME, 0), VMC_IO_DONE);
}

static int64_t some_time_s(void *ctx)
{
    (void)ctx;
    return 1234567;
}

static int64_t some_time_ns(void *ctx)
{
    (void)ctx;
    return 1234567890123456;
}

/* To the nanosecond where the platform knows it. */
static void wall_clock_is_as_fine_as_the_platform(void **state)
{
    struct vm_fx *f = *state;
    uint32_t rec[3];

    f->tp.pf.wall_s = some_time_s;
    vm_up(f, engine_null_pull(), 1, 0, sleeper);
    uint64_t start = vmc_timerq_now(vmc_vm_board(f->vm)->timers);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t now = i == 0 ? 1234567000000000 : 1234567890123456;
        assert_int_equal(wrmsr(f->e[0], VMC_MSR_KVM_WALL_CLOCK, 0x6000), VMC_IO_DONE);
        assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), 0x6000, rec, 12), VMC_OK);
        assert_int_equal(rec[0] & 1, 0);
        assert_int_equal(rec[1] * 1000000000ull + rec[2], now - start);
        f->tp.pf.wall_ns = some_time_ns;
    }
}

static void read_record(struct vm_fx *f, uint64_t gpa, uint8_t rec[32])
{
    assert_int_equal(vmc_mem_read(vmc_vm_mem(f->vm), gpa, rec, 32), VMC_OK);
    assert_int_equal(rec[0] & 1, 0);
}

/* The record is behind the TSC and tells the time. */
static uint64_t check_record(struct vm_fx *f, unsigned cpu, const uint8_t rec[32])
{
    uint64_t tsc, hz, stamp;

    assert_int_equal(f->vm->ops->read_tsc(f->e[cpu], &tsc, &hz, NULL), VMC_OK);
    memcpy(&stamp, rec + 8, sizeof(stamp));
    assert_true((int64_t)(tsc - stamp) >= 0 && tsc >= stamp);
    uint64_t t = guest_time(rec, tsc);
    assert_true(t <= f->tp.now_ns && t > f->tp.now_ns - 1000);
    return t;
}

static void move_tsc(struct vm_fx *f, unsigned cpu, uint64_t by)
{
    f->e[cpu]->tsc_base += by;
    f->e[cpu]->st.msr.tsc_adjust += by;
    f->e[cpu]->io->tsc_moved(f->e[cpu]->io->ctx);
}

static int go_to_sleep(struct null_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    (void)lim;
    return null_hlt(v, out);
}

static void clock_goes_on_when_the_tsc_moves(void **state)
{
    struct vm_fx *f = *state;
    _Alignas(8) uint8_t rec[2][32];

    vm_up(f, engine_null_pull(), 2, 0, go_to_sleep);
    f->tp.now_ns = 5000000000;
    assert_int_equal(wrmsr(f->e[0], VMC_MSR_KVM_SYSTEM_TIME, 0x5001), VMC_IO_DONE);
    assert_int_equal(wrmsr(f->e[1], VMC_MSR_KVM_SYSTEM_TIME, 0x5041), VMC_IO_DONE);
    read_record(f, 0x5000, rec[0]);
    f->tp.now_ns += 777777777;
    uint64_t before = check_record(f, 0, rec[0]);
    move_tsc(f, 0, -f->tp.now_ns); /* the guest writes 0 */
    read_record(f, 0x5000, rec[0]);
    assert_true(check_record(f, 0, rec[0]) >= before);
    assert_int_equal(rec[0][29], 0); /* the TSCs are no longer one */
    run_to(f, 1, 0, VMC_EXIT_IDLE);
    read_record(f, 0x5040, rec[1]);
    (void)check_record(f, 1, rec[1]);
    assert_int_equal(rec[1][29], 0);
    assert_int_equal(wrmsr(f->e[0], VMC_MSR_KVM_SYSTEM_TIME, 0x5001), VMC_IO_DONE);
    read_record(f, 0x5000, rec[0]);
    assert_true(check_record(f, 0, rec[0]) >= before);
    f->tp.now_ns += 12345;
    move_tsc(f, 1, f->e[0]->st.msr.tsc_adjust); /* one again */
    read_record(f, 0x5040, rec[1]);
    (void)check_record(f, 1, rec[1]);
    assert_int_equal(rec[1][29], 1);
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    read_record(f, 0x5000, rec[0]);
    (void)check_record(f, 0, rec[0]);
    assert_memory_equal(rec[0] + 4, rec[1] + 4, 28);
}

static void clock_starts_anew_after_reset(void **state)
{
    struct vm_fx *f = *state;
    _Alignas(8) uint8_t rec[32];

    vm_up(f, engine_null_pull(), 1, 0, go_to_sleep);
    f->tp.now_ns = 5000000000;
    assert_int_equal(wrmsr(f->e[0], VMC_MSR_KVM_SYSTEM_TIME, 0x5001), VMC_IO_DONE);
    f->tp.now_ns += 1000000;
    vmc_vm_pause(f->vm);
    assert_int_equal(vmc_vm_reset(f->vm), VMC_OK);
    vmc_vm_resume(f->vm);
    f->e[0]->tsc_base = 1000; /* whatever the engine does with it */
    assert_int_equal(wrmsr(f->e[0], VMC_MSR_KVM_SYSTEM_TIME, 0x5001), VMC_IO_DONE);
    read_record(f, 0x5000, rec);
    (void)check_record(f, 0, rec);
}

static void clock_can_be_switched_off(void **state)
{
    struct vm_fx *f = *state;

    vm_up(f, engine_null_pull(), 1, VMC_VM_NO_PARAVIRT, sleeper);
    assert_int_equal(wrmsr(f->e[0], VMC_MSR_KVM_SYSTEM_TIME, 0x5001), VMC_IO_GP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        vm_test(two_runs_are_the_same_run),
        vm_test(idle_time_is_skipped),
        vm_test(nothing_to_wait_for_is_the_embedders),
        vm_test(clock_page_gives_the_time),
        vm_test(wall_clock_is_as_fine_as_the_platform),
        vm_test(clock_goes_on_when_the_tsc_moves),
        vm_test(clock_starts_anew_after_reset),
        vm_test(clock_can_be_switched_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
