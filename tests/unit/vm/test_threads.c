/* SPDX-License-Identifier: BSD-2-Clause */
/* The run loop under threads: no kick, interrupt, pause or stop is ever lost. */
#define _GNU_SOURCE
#include <pthread.h>

#include "vm_fixture.h"

#define ROUNDS 3000

/* Executes "instructions" until something asks it to stop; counts interrupts; HLTs every so often. */
static int spin(struct null_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    for (unsigned i = 0;; i++) {
        if (null_take_irq(v) >= 0) {
            uint64_t eoi = 0;
            __atomic_fetch_add(&v->scratch[0], 1, __ATOMIC_RELEASE);
            (void)v->io->mmio(v->io->ctx, true, 0xfee000b0, 4, &eoi);
        }
        if (null_poll(v, lim, out))
            return 0;
        null_retire(v, 1);
        if (i % 64 == 63 && v->scratch[1] == 0)
            return null_hlt(v, out);
    }
}

struct runner {
    struct vm_fx *f;
    unsigned cpu;
    uint32_t kicks; /* KICKED exits seen */
    uint32_t stop;
    uint32_t running;
};

static void *run_thread(void *arg)
{
    struct runner *r = arg;
    struct vmc_run_limits lim = {.size = sizeof(lim), .flags = VMC_RUN_PARK | VMC_RUN_SELF_TIMED};
    struct vmc_exit x;

    while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
        if (vmc_vcpu_run(r->f->v[r->cpu], &lim, &x) != VMC_OK)
            abort();
        if (x.kind == VMC_EXIT_KICKED)
            __atomic_fetch_add(&r->kicks, 1, __ATOMIC_RELEASE);
        else if (x.kind == VMC_EXIT_SHUTDOWN)
            break;
        else
            abort();
    }
    return NULL;
}

static void wait_for(const uint32_t *word, uint32_t at_least)
{
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE) < at_least)
        sched_yield();
}

static void every_kick_is_answered(void **state)
{
    struct vm_fx *f = *state;
    struct runner r = {.f = f};
    pthread_t t;

    vm_up(f, engine_null_pull(), 1, 0, spin);
    pthread_create(&t, NULL, run_thread, &r);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t before = __atomic_load_n(&r.kicks, __ATOMIC_ACQUIRE);
        vmc_vcpu_kick(f->v[0]);
        wait_for(&r.kicks, before + 1); /* hangs, and times out, if it got lost */
    }
    vmc_vm_request_stop(f->vm, VMC_STOP_POWER_OFF, 0);
    pthread_join(t, NULL);
}

static void every_interrupt_arrives(void **state)
{
    struct vm_fx *f = *state;
    struct runner r[2] = {{.f = f}, {.f = f, .cpu = 1}};
    pthread_t t[2];

    vm_up(f, engine_null_pull(), 2, 0, spin);
    for (unsigned i = 0; i < 2; i++) {
        f->v[i]->wait_sipi = false;
        vmci_lapic_write(f->v[i]->lapic, VMCI_APIC_SVR, 4, 0x1ff);
    }
    f->e[1]->scratch[1] = 1; /* never halts */
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, run_thread, &r[i]);
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        for (unsigned c = 0; c < 2; c++) {
            vmc_msi_send(&vmc_vm_board(f->vm)->msi, 0xfee00000 | c << 12, 0x41);
            while (__atomic_load_n(&f->e[c]->scratch[0], __ATOMIC_ACQUIRE) < i)
                sched_yield();
        }
    }
    vmc_vm_request_stop(f->vm, VMC_STOP_POWER_OFF, 0);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(f->e[0]->scratch[0], ROUNDS);
    assert_int_equal(f->e[1]->scratch[0], ROUNDS);
}

/* The same for an engine that has to be kicked out to be injected into. */
static int spin_inject(struct null_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    if (v->injections != 0) {
        uint64_t eoi = 0;
        __atomic_fetch_add(&v->scratch[0], v->injections, __ATOMIC_RELEASE);
        v->injections = 0;
        (void)v->io->mmio(v->io->ctx, true, 0xfee000b0, 4, &eoi);
    }
    for (unsigned i = 0; i < 64; i++) {
        if (null_poll(v, lim, out))
            return 0;
    }
    return null_hlt(v, out);
}

static void *run_thread_untimed(void *arg)
{
    struct runner *r = arg;
    struct vmc_run_limits lim = {.size = sizeof(lim), .flags = VMC_RUN_PARK};
    struct vmc_exit x;

    do {
        if (vmc_vcpu_run(r->f->v[r->cpu], &lim, &x) != VMC_OK)
            abort();
    } while (x.kind != VMC_EXIT_SHUTDOWN);
    return NULL;
}

static void injection_loses_none_either(void **state)
{
    struct vm_fx *f = *state;
    struct runner r = {.f = f};
    pthread_t t;

    vm_up(f, engine_null_inject(), 1, 0, spin_inject);
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_SVR, 4, 0x1ff);
    pthread_create(&t, NULL, run_thread_untimed, &r);
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        vmc_msi_send(&vmc_vm_board(f->vm)->msi, 0xfee00000, 0x41);
        while (__atomic_load_n(&f->e[0]->scratch[0], __ATOMIC_ACQUIRE) < i)
            sched_yield();
    }
    vmc_vm_request_stop(f->vm, VMC_STOP_POWER_OFF, 0);
    pthread_join(t, NULL);
}

static void pause_waits_for_everybody(void **state)
{
    struct vm_fx *f = *state;
    struct runner r[2] = {{.f = f}, {.f = f, .cpu = 1}};
    pthread_t t[2];

    vm_up(f, engine_null_pull(), 2, 0, spin);
    f->v[1]->wait_sipi = false;
    f->e[1]->scratch[1] = 1;
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, run_thread, &r[i]);
    for (unsigned i = 0; i < 300; i++) {
        assert_int_equal(vmc_vm_pause_wait(f->vm, UINT64_MAX), VMC_OK);
        assert_true(vmc_vm_quiesced(f->vm));
        uint64_t a = f->e[0]->retired, b = f->e[1]->retired;
        sched_yield();
        assert_int_equal(f->e[0]->retired, a); /* nobody executes */
        assert_int_equal(f->e[1]->retired, b);
        vmc_vm_resume(f->vm);
    }
    vmc_vm_request_stop(f->vm, VMC_STOP_POWER_OFF, 0);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
}

static void timer_fire_msi(void *ctx, uint64_t deadline)
{
    struct vm_fx *f = ctx;
    (void)deadline;
    vmc_msi_send(&vmc_vm_board(f->vm)->msi, 0xfee00000, 0x41);
}

static void parked_vcpus_wake_for_timers(void **state)
{
    struct vm_fx *f = *state;
    struct runner r = {.f = f};
    struct vmc_timer *timer;
    pthread_t t;

    vm_up(f, engine_null_pull(), 1, 0, spin);
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_SVR, 4, 0x1ff);
    struct vmc_timerq *q = vmc_vm_board(f->vm)->timers;
    assert_int_equal(vmc_timer_create(q, "t", timer_fire_msi, f, &timer), VMC_OK);
    pthread_create(&t, NULL, run_thread, &r);
    for (uint64_t i = 1; i <= 200; i++) {
        /* armed by another thread while the vCPU sleeps without a deadline */
        vmc_timer_arm(timer, vmc_timerq_now(q) + 20000);
        while (__atomic_load_n(&f->e[0]->scratch[0], __ATOMIC_ACQUIRE) < i)
            sched_yield();
    }
    vmc_vm_request_stop(f->vm, VMC_STOP_POWER_OFF, 0);
    pthread_join(t, NULL);
    vmc_timer_destroy(timer);
    struct vmc_vcpu_stats st;
    vmc_vcpu_get_stats(f->v[0], &st);
    assert_true(st.idle_ns > 0);
    assert_true(st.guest_ns > 0);
}

static void stop_reaches_parked_vcpus(void **state)
{
    struct vm_fx *f = *state;
    struct runner r[CPUS_MAX];
    pthread_t t[CPUS_MAX];

    vm_up(f, engine_null_pull(), CPUS_MAX, 0, spin);
    for (unsigned i = 0; i < CPUS_MAX; i++) { /* application processors wait for SIPI */
        r[i] = (struct runner){.f = f, .cpu = i};
        pthread_create(&t[i], NULL, run_thread, &r[i]);
    }
    vmc_vm_request_stop(f->vm, VMC_STOP_EXIT_PORT, 7);
    for (unsigned i = 0; i < CPUS_MAX; i++)
        pthread_join(t[i], NULL);
}

static void *turns_thread(void *arg)
{
    struct vm_fx *f = arg;
    struct vmc_run_limits lim = {.size = sizeof(lim), .flags = VMC_RUN_PARK};
    struct vmc_vcpu *who;
    struct vmc_exit x;

    do {
        if (vmc_vm_run(f->vm, &lim, &who, &x) != VMC_OK)
            abort();
    } while (x.kind != VMC_EXIT_SHUTDOWN);
    return NULL;
}

static void turns_wake_for_any_vcpu(void **state)
{
    struct vm_fx *f = *state;
    pthread_t t;

    vm_up(f, engine_null_pull(), 2, 0, spin);
    f->v[1]->wait_sipi = false;
    for (unsigned i = 0; i < 2; i++)
        vmci_lapic_write(f->v[i]->lapic, VMCI_APIC_SVR, 4, 0x1ff);
    pthread_create(&t, NULL, turns_thread, f);
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        for (unsigned c = 0; c < 2; c++) {
            vmc_msi_send(&vmc_vm_board(f->vm)->msi, 0xfee00000 | c << 12, 0x41);
            while (__atomic_load_n(&f->e[c]->scratch[0], __ATOMIC_ACQUIRE) < i)
                sched_yield();
        }
    }
    vmc_vm_request_stop(f->vm, VMC_STOP_POWER_OFF, 0);
    pthread_join(t, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        vm_test_mt(every_kick_is_answered),
        vm_test_mt(every_interrupt_arrives),
        vm_test_mt(injection_loses_none_either),
        vm_test_mt(pause_waits_for_everybody),
        vm_test_mt(parked_vcpus_wake_for_timers),
        vm_test_mt(stop_reaches_parked_vcpus),
        vm_test_mt(turns_wake_for_any_vcpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
