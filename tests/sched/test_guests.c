/* SPDX-License-Identifier: BSD-2-Clause */
/* Virtual machines with real guest code on the runner. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "smp_vm.h"
#include "test_platform.h"

#include <cmocka.h>

#define FEATURE_STEAL_TIME (1u << 5)

struct rig {
    struct test_platform tp;
    struct vmc_runner *r;
    struct smp_vm vm[3];
    unsigned vms;
};

static void rig_init(struct rig *g, uint32_t workers, uint32_t flags)
{
    struct vmc_runner_config cfg = {.size = sizeof(cfg),
                                    .flags = flags,
                                    .cpus = workers,
                                    .max_groups = 1,
                                    .max_vms = 4,
                                    .max_vcpus = 16,
                                    .trace_events = 1024};

    memset(g, 0, sizeof(*g));
    test_platform_init_threads(&g->tp);
    assert_int_equal(vmc_runner_create(&g->tp.pf, &cfg, &g->r, NULL), VMC_OK);
    assert_int_equal(vmc_runner_start(g->r, NULL), VMC_OK);
}

static struct smp_vm *rig_vm(struct rig *g, const struct smp_shared *params, uint32_t shares)
{
    struct vmc_sched_vm_config sc = {
        .size = sizeof(sc), .coscheduling = VMC_SCHED_CO_RELAXED, .share = {.shares = shares}};
    struct smp_vm *s = &g->vm[g->vms++];

    assert_int_equal(smp_vm_create(s, &g->tp.pf, vmc_engine_soft(), params), 0);
    assert_int_equal(smp_vm_start(s, g->r, &sc, 0, 0), 0);
    return s;
}

static void rig_fini(struct rig *g)
{
    while (g->vms > 0) {
        assert_int_equal(g->vm[g->vms - 1].bad, 0);
        smp_vm_destroy(&g->vm[--g->vms]);
    }
    vmc_runner_stop(g->r);
    assert_int_equal(vmc_sched_check(vmc_runner_sched(g->r), NULL), VMC_OK);
    vmc_runner_destroy(g->r);
    test_platform_check(&g->tp);
}

static void nap(void)
{
    struct timespec ts = {.tv_nsec = 1000000};
    nanosleep(&ts, NULL);
}

static uint64_t progress(const struct smp_vm *s, unsigned cpu)
{
    return __atomic_load_n(&s->sh->cpu[cpu].progress, __ATOMIC_SEQ_CST);
}

/* Two minutes: only a bug takes that long. */
#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        for (int tries_ = 0; tries_ < 120000 && !(condition); tries_++)                            \
            nap();                                                                                 \
        assert_true(condition);                                                                    \
    } while (0)

static bool finished(const struct smp_vm *s)
{
    return __atomic_load_n(&s->done, __ATOMIC_SEQ_CST) == s->cpus;
}

static void cpu_time_follows_shares(void **state)
{
    (void)state;
    struct rig g;
    struct smp_shared p = {.mode = SMP_COUNT, .cpus = 1};

    rig_init(&g, 1, 0);
    struct smp_vm *a = rig_vm(&g, &p, 100);
    struct smp_vm *b = rig_vm(&g, &p, 300);
    uint64_t a0 = smp_vm_used_ns(a), b0 = smp_vm_used_ns(b);
    WAIT_FOR(smp_vm_used_ns(b) - b0 > 300000000);
    vmc_vm_pause(a->vm);
    vmc_vm_pause(b->vm);
    double ratio = (double)(smp_vm_used_ns(b) - b0) / (double)(smp_vm_used_ns(a) - a0);
    assert_true(ratio > 2.4 && ratio < 3.6);
    assert_true(progress(a, 0) > 0 && progress(b, 0) > 0);
    rig_fini(&g);
}

/* Two vCPUs on two workers, beside a VM that wants all the time there is. */
static void vcpus_share_locks_and_barriers(void **state)
{
    (void)state;
    struct rig g;
    struct smp_shared load = {.mode = SMP_COUNT, .cpus = 2};
    struct smp_shared lock = {
        .mode = SMP_LOCK, .cpus = 2, .rounds = 20000, .work = 100, .critical = 100};
    struct smp_shared barrier = {.mode = SMP_BARRIER, .cpus = 2, .rounds = 2000, .work = 1000};

    rig_init(&g, 2, 0);
    rig_vm(&g, &load, 100);
    struct smp_vm *a = rig_vm(&g, &lock, 100);
    struct smp_vm *b = rig_vm(&g, &barrier, 100);
    WAIT_FOR(finished(a) && finished(b));
    assert_int_equal(a->sh->sum, 40000);
    assert_int_equal(b->sh->sum, 4000);
    rig_fini(&g);
}

/* Run a guest to its end on one worker. */
static struct smp_vm *run_on_one(struct rig *g, const struct smp_shared *p)
{
    rig_init(g, 1, 0);
    struct smp_vm *s = rig_vm(g, p, 100);
    WAIT_FOR(finished(s));
    return s;
}

static struct vmc_sched_vcpu_stats stats_of(const struct rig *g, const struct smp_vm *s,
                                            uint32_t index)
{
    struct vmc_sched *sched = vmc_runner_sched(g->r);
    struct vmc_sched_vcpu_stats st;

    assert_int_equal(
        vmc_sched_vcpu_stats(sched, vmc_sched_vcpu(sched, s->id, index), vmc_runner_now_ns(), &st),
        VMC_OK);
    return st;
}

/* More vCPUs than workers: without directed yield a waiting one would spin for whole slices. */
static void spinning_vcpus_give_way(void **state)
{
    (void)state;
    struct rig g;
    struct smp_shared barrier = {.mode = SMP_BARRIER, .cpus = 4, .rounds = 500, .work = 1000};
    uint64_t yields = 0;

    struct smp_vm *s = run_on_one(&g, &barrier);
    for (uint32_t i = 0; i < 4; i++)
        yields += stats_of(&g, s, i).yields;
    assert_true(yields >= 500);
    rig_fini(&g);
}

static void halted_vcpus_sleep_until_their_timer(void **state)
{
    (void)state;
    struct rig g;
    struct smp_shared p = {.mode = SMP_TICK, .cpus = 2, .rounds = 50, .work = 2000000};

    struct smp_vm *s = run_on_one(&g, &p);
    struct vmc_sched_vcpu_stats st = stats_of(&g, s, 1);
    assert_true(s->sh->cpu[1].ticks >= 50);
    assert_true(st.wakes >= 10); /* late ticks may fall together */
    assert_true(st.wait_ns > st.used_ns);
    rig_fini(&g);
}

static void vcpus_wake_each_other(void **state)
{
    (void)state;
    struct rig g;
    struct smp_shared p = {.mode = SMP_IPI, .cpus = 2, .rounds = 300};

    for (uint32_t workers = 1; workers <= 2; workers++) {
        rig_init(&g, workers, 0);
        struct smp_vm *s = rig_vm(&g, &p, 100);
        WAIT_FOR(finished(s));
        assert_int_equal(s->sh->cpu[0].ticks, 300);
        assert_int_equal(s->sh->cpu[1].ticks, 300);
        rig_fini(&g);
    }
}

static uint64_t steal_of(const struct smp_vm *s)
{
    uint64_t ns;
    memcpy(&ns, s->sh->cpu[0].steal, sizeof(ns));
    return ns;
}

static void guests_see_stolen_time(void **state)
{
    (void)state;
    struct rig g;
    struct smp_shared p = {.mode = SMP_COUNT, .cpus = 1};

    rig_init(&g, 1, 0);
    struct smp_vm *a = rig_vm(&g, &p, 100);
    struct smp_vm *b = rig_vm(&g, &p, 300);
    WAIT_FOR(progress(b, 0) > 0); /* until then the first had all of the CPU */
    uint64_t used = smp_vm_used_ns(a);
    WAIT_FOR(smp_vm_used_ns(a) - used > 50000000);
    assert_int_equal(vmc_vm_pause_wait(a->vm, UINT64_MAX), VMC_OK);
    assert_int_equal(vmc_vm_pause_wait(b->vm, UINT64_MAX), VMC_OK);
    assert_true((a->sh->features & FEATURE_STEAL_TIME) != 0);
    /* a quarter of the CPU for one, three for the other, and other processes steal from both */
    assert_true(steal_of(a) > smp_vm_used_ns(a) - used);
    assert_true(steal_of(a) > steal_of(b));
    rig_fini(&g);
}

static void vms_pause_resume_and_go(void **state)
{
    (void)state;
    struct rig g;
    struct smp_shared p = {.mode = SMP_COUNT, .cpus = 2};
    struct vmc_runner_guest_config again = {.size = sizeof(again), .sched = {.vcpus = 1}};
    struct vmc_error err;
    uint32_t id;

    rig_init(&g, 2, 0);
    struct smp_vm *s = rig_vm(&g, &p, 100);
    again.vm = s->vm;
    assert_int_equal(vmc_runner_attach(g.r, &again, &id, &err), VMC_EINVAL); /* no exit callback */
    WAIT_FOR(progress(s, 0) > 0 && progress(s, 1) > 0);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(vmc_vm_pause_wait(s->vm, UINT64_MAX), VMC_OK);
        uint64_t before = progress(s, 0);
        nap();
        assert_true(progress(s, 0) == before);
        vmc_vm_resume(s->vm);
        WAIT_FOR(progress(s, 0) > before);
    }
    assert_int_equal(vmc_runner_detach(g.r, s->id + 1), VMC_ENOENT);
    rig_fini(&g); /* while it runs */
}

static void one_thread_per_vcpu_works_too(void **state)
{
    (void)state;
    struct rig g;
    struct smp_shared lock = {
        .mode = SMP_LOCK, .cpus = 2, .rounds = 2000, .work = 100, .critical = 100};
    struct smp_shared tick = {.mode = SMP_TICK, .cpus = 1, .rounds = 10, .work = 2000000};

    rig_init(&g, 0, VMC_RUNNER_THREADS);
    struct smp_vm *a = rig_vm(&g, &lock, 100);
    struct smp_vm *b = rig_vm(&g, &tick, 100);
    WAIT_FOR(finished(a) && finished(b));
    assert_int_equal(a->sh->sum, 4000);
    rig_fini(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_time_follows_shares),
        cmocka_unit_test(vcpus_share_locks_and_barriers),
        cmocka_unit_test(spinning_vcpus_give_way),
        cmocka_unit_test(halted_vcpus_sleep_until_their_timer),
        cmocka_unit_test(vcpus_wake_each_other),
        cmocka_unit_test(guests_see_stolen_time),
        cmocka_unit_test(vms_pause_resume_and_go),
        cmocka_unit_test(one_thread_per_vcpu_works_too),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
