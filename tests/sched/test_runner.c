/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The runner with synthetic tasks on real threads. "test_runner measure SECONDS" measures fairness
 * over a long run instead, beside Linux's scheduler with one thread per task.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <vmcore/host_runner.h>

#include "test_platform.h"

#include <cmocka.h>

struct load {
    uint32_t kicked;
    uint32_t stubborn; /* ignores slice_ns: only a kick ends its run */
    uint32_t inside;   /* threads inside run */
    uint32_t overlap;
    uint64_t runs;
    uint64_t idle_every; /* returns IDLE after so many runs; 0: never */
};

static int load_run(void *ctx, uint64_t slice_ns)
{
    struct load *l = ctx;
    uint64_t end = vmc_runner_now_ns() + slice_ns;

    if (__atomic_add_fetch(&l->inside, 1, __ATOMIC_SEQ_CST) != 1)
        __atomic_store_n(&l->overlap, 1, __ATOMIC_SEQ_CST);
    while (!__atomic_exchange_n(&l->kicked, 0, __ATOMIC_SEQ_CST)) {
        if (!l->stubborn && vmc_runner_now_ns() >= end)
            break;
        for (int i = 0; i < 200; i++)
            __builtin_ia32_pause();
    }
    uint64_t runs = __atomic_add_fetch(&l->runs, 1, __ATOMIC_SEQ_CST);
    __atomic_sub_fetch(&l->inside, 1, __ATOMIC_SEQ_CST);
    return l->idle_every != 0 && runs % l->idle_every == 0 ? VMC_RUNNER_IDLE : VMC_RUNNER_AGAIN;
}

static void load_kick(void *ctx)
{
    __atomic_store_n(&((struct load *)ctx)->kicked, 1, __ATOMIC_SEQ_CST);
}

static const struct vmc_runner_task_ops load_ops = {.run = load_run, .kick = load_kick};

static void pause_ms(long ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&ts, NULL);
}

static struct vmc_runner *make(struct test_platform *tp, uint32_t cpus, uint32_t flags)
{
    struct vmc_runner_config cfg = {.size = sizeof(cfg),
                                    .flags = flags,
                                    .cpus = cpus,
                                    .max_groups = 4,
                                    .max_vms = 16,
                                    .max_vcpus = 64,
                                    .trace_events = 4096};
    struct vmc_runner *r;

    test_platform_init_threads(tp);
    assert_int_equal(vmc_runner_create(&tp->pf, &cfg, &r, NULL), VMC_OK);
    return r;
}

static uint32_t add(struct vmc_runner *r, struct load *l, uint32_t n, uint32_t shares)
{
    struct vmc_runner_task t[8];
    struct vmc_sched_vm_config cfg = {.size = sizeof(cfg),
                                      .vcpus = n,
                                      .coscheduling = VMC_SCHED_CO_RELAXED,
                                      .share = {.shares = shares}};
    uint32_t vm;

    for (uint32_t i = 0; i < n; i++)
        t[i] = (struct vmc_runner_task){.ops = &load_ops, .ctx = &l[i]};
    assert_int_equal(vmc_runner_vm_add(r, VMC_SCHED_ROOT, &cfg, t, &vm, NULL), VMC_OK);
    return vm;
}

static void tasks_never_run_twice_at_once(void **state)
{
    (void)state;
    struct test_platform tp;
    struct vmc_runner *r = make(&tp, 3, 0);
    struct load l[8] = {{0}};

    l[0].stubborn = 1;
    l[5].idle_every = 3;
    add(r, l, 2, 100);
    add(r, l + 2, 4, 100);
    uint32_t vm = add(r, l + 6, 2, 300);
    assert_int_equal(vmc_runner_start(r, NULL), VMC_OK);
    assert_int_equal(vmc_runner_start(r, NULL), VMC_ESTATE);
    for (int i = 0; i < 300; i++) {
        vmc_runner_wake(r, 1, 3);
        pause_ms(1);
    }
    assert_int_equal(vmc_runner_vm_remove(r, vm), VMC_OK);
    uint64_t runs = __atomic_load_n(&l[6].runs, __ATOMIC_SEQ_CST);
    pause_ms(50);
    assert_int_equal(__atomic_load_n(&l[6].runs, __ATOMIC_SEQ_CST), runs);
    vmc_runner_stop(r);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(l[i].overlap, 0);
        assert_true(l[i].runs > 0);
    }
    assert_int_equal(vmc_sched_check(vmc_runner_sched(r), NULL), VMC_OK);
    vmc_runner_destroy(r);
    test_platform_check(&tp);
}

static void stubborn_task_is_preempted_by_the_kick(void **state)
{
    (void)state;
    struct test_platform tp;
    struct vmc_runner *r = make(&tp, 1, 0);
    struct load l[2] = {{.stubborn = 1}, {.stubborn = 1}};

    add(r, l, 1, 100);
    add(r, l + 1, 1, 100);
    assert_int_equal(vmc_runner_start(r, NULL), VMC_OK);
    for (int i = 0; i < 5000 && (__atomic_load_n(&l[0].runs, __ATOMIC_SEQ_CST) < 20 ||
                                 __atomic_load_n(&l[1].runs, __ATOMIC_SEQ_CST) < 20);
         i++)
        pause_ms(1);
    vmc_runner_stop(r);
    assert_true(l[0].runs >= 20);
    assert_true(l[1].runs >= 20);
    vmc_runner_destroy(r);
    test_platform_check(&tp);
}

static void cpu_time_follows_shares(void **state)
{
    (void)state;
    struct test_platform tp;
    struct vmc_runner *r = make(&tp, 1, 0);
    struct load l[2] = {{0}};
    uint32_t a = add(r, l, 1, 100);
    uint32_t b = add(r, l + 1, 1, 300);

    assert_int_equal(vmc_runner_start(r, NULL), VMC_OK);
    for (int i = 0; i < 10000 && vmc_runner_used_ns(r, b, 0) < 150000000; i++)
        pause_ms(1);
    vmc_runner_stop(r);
    double ratio = (double)vmc_runner_used_ns(r, b, 0) / (double)vmc_runner_used_ns(r, a, 0);
    assert_true(ratio > 2.4 && ratio < 3.6);
    assert_int_equal(vmc_runner_write_trace(r, "runner.trace.json", NULL), VMC_OK);
    vmc_runner_destroy(r);
    test_platform_check(&tp);
}

static void idle_workers_sleep_and_wake(void **state)
{
    (void)state;
    struct test_platform tp;
    struct vmc_runner *r = make(&tp, 2, 0);
    struct load l = {.idle_every = 1};
    uint32_t vm = add(r, &l, 1, 100);

    assert_int_equal(vmc_runner_start(r, NULL), VMC_OK);
    for (uint64_t n = 1; n <= 20; n++) {
        for (int i = 0; i < 5000 && __atomic_load_n(&l.runs, __ATOMIC_SEQ_CST) < n; i++) {
            pause_ms(1);
            if (i % 100 == 99) /* it may have been on its way to sleep */
                vmc_runner_wake(r, vm, 0);
        }
        assert_true(__atomic_load_n(&l.runs, __ATOMIC_SEQ_CST) >= n);
        vmc_runner_wake(r, vm, 0);
    }
    vmc_runner_destroy(r);
    test_platform_check(&tp);
}

static void one_thread_per_task_works_too(void **state)
{
    (void)state;
    struct test_platform tp;
    struct vmc_runner *r = make(&tp, 0, VMC_RUNNER_THREADS);
    struct load l[4] = {{0}};
    uint32_t vm = add(r, l, 4, 100);

    l[1].idle_every = 2;
    assert_int_equal(vmc_runner_start(r, NULL), VMC_OK);
    for (int i = 0; i < 50; i++) {
        vmc_runner_wake(r, vm, 1);
        pause_ms(2);
    }
    assert_int_equal(vmc_runner_vm_remove(r, vm), VMC_OK);
    vmc_runner_destroy(r);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(l[i].overlap, 0);
        assert_true(l[i].runs > 0);
    }
    test_platform_check(&tp);
}

#define STACK (1ul << 30)

/* Address space for one more stack of that size, and not for two. */
static void one_more_stack(struct rlimit *old)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu", &pages), 1);
    fclose(f);
    assert_int_equal(getrlimit(RLIMIT_AS, old), 0);
    struct rlimit now = {.rlim_cur = pages * 4096 + STACK + STACK / 2, .rlim_max = old->rlim_max};
    assert_int_equal(setrlimit(RLIMIT_AS, &now), 0);
}

/* A VM whose second thread cannot be started is not there at all, and its tasks may be freed. */
static void a_vm_has_all_of_its_threads_or_none(void **state)
{
    (void)state;
    struct vmc_sched_vm_config cfg = {.size = sizeof(cfg), .vcpus = 4, .share = {.shares = 100}};
    struct load l[5] = {{0}};
    struct vmc_runner_task t[4];
    struct vmc_error err = {0};
    struct test_platform tp;
    pthread_attr_t normal, large;
    struct rlimit old;
    uint32_t vm;

    struct vmc_runner *r = make(&tp, 0, VMC_RUNNER_THREADS);
    uint32_t first = add(r, &l[4], 1, 100);
    assert_int_equal(vmc_runner_start(r, NULL), VMC_OK);
    for (uint32_t i = 0; i < 4; i++)
        t[i] = (struct vmc_runner_task){.ops = &load_ops, .ctx = &l[i]};
    assert_int_equal(pthread_getattr_default_np(&normal), 0);
    assert_int_equal(pthread_getattr_default_np(&large), 0);
    assert_int_equal(pthread_attr_setstacksize(&large, STACK), 0);
    assert_int_equal(pthread_setattr_default_np(&large), 0);
    one_more_stack(&old);
    int rc = vmc_runner_vm_add(r, VMC_SCHED_ROOT, &cfg, t, &vm, &err);
    assert_int_equal(setrlimit(RLIMIT_AS, &old), 0);
    assert_int_equal(pthread_setattr_default_np(&normal), 0);
    pthread_attr_destroy(&normal);
    pthread_attr_destroy(&large);
    assert_int_equal(rc, VMC_EHOST);
    uint64_t runs = __atomic_load_n(&l[0].runs, __ATOMIC_SEQ_CST);
    pause_ms(50);
    assert_int_equal(__atomic_load_n(&l[0].runs, __ATOMIC_SEQ_CST), runs);
    assert_string_not_equal(err.text, "");
    /* There is room for it when there are threads again. */
    assert_int_equal(vmc_runner_vm_add(r, VMC_SCHED_ROOT, &cfg, t, &vm, &err), VMC_OK);
    pause_ms(50);
    assert_int_equal(vmc_runner_vm_remove(r, vm), VMC_OK);
    assert_int_equal(vmc_runner_vm_remove(r, first), VMC_OK);
    vmc_runner_destroy(r);
    test_platform_check(&tp);
}

#define RIVALS 4

/* A process that takes CPU time from the workers, and ends with this one. */
static pid_t start_rival(void)
{
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
        __builtin_ia32_pause();
}

static uint64_t process_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Whenever Linux takes the CPU away: also between two slices. */
static void no_more_is_charged_than_was_used(void **state)
{
    (void)state;
    struct test_platform tp;
    struct vmc_runner *r = make(&tp, 2, 0);
    struct load l[4] = {{0}};
    pid_t rival[RIVALS];
    uint32_t vm[4];
    uint64_t charged = 0;

    for (int i = 0; i < RIVALS; i++) {
        rival[i] = start_rival();
        assert_true(rival[i] > 0);
    }
    for (int i = 0; i < 4; i++)
        vm[i] = add(r, &l[i], 1, 100);
    uint64_t before = process_ns();
    assert_int_equal(vmc_runner_start(r, NULL), VMC_OK);
    for (int i = 0; i < 20000 && process_ns() < before + 500000000; i++)
        pause_ms(1);
    vmc_runner_stop(r);
    uint64_t used = process_ns() - before;
    for (int i = 0; i < RIVALS; i++) {
        kill(rival[i], SIGKILL);
        waitpid(rival[i], NULL, 0);
    }
    for (int i = 0; i < 4; i++)
        charged += vmc_runner_used_ns(r, vm[i], 0);
    assert_true(charged > 0);
    assert_true(charged <= used);
    vmc_runner_destroy(r);
    test_platform_check(&tp);
}

/* Largest |received - equal part of what all received|, sampled every few ms. */
static double measure(uint32_t flags, long seconds)
{
    struct test_platform tp;
    struct vmc_runner *r = make(&tp, 2, flags);
    struct load l[6] = {{0}};
    uint32_t vm[6];
    double worst = 0;

    for (int i = 0; i < 6; i++)
        vm[i] = add(r, &l[i], 1, 100);
    assert_int_equal(vmc_runner_start(r, NULL), VMC_OK);
    pause_ms(200);
    uint64_t base[6];
    for (int i = 0; i < 6; i++)
        base[i] = vmc_runner_used_ns(r, vm[i], 0);
    uint64_t end = vmc_runner_now_ns() + (uint64_t)seconds * 1000000000u;
    while (vmc_runner_now_ns() < end) {
        double used[6];
        double sum = 0;
        pause_ms(3);
        for (int i = 0; i < 6; i++)
            sum += used[i] = (double)(vmc_runner_used_ns(r, vm[i], 0) - base[i]);
        for (int i = 0; i < 6; i++) {
            double err = used[i] - sum / 6;
            worst = err > worst ? err : -err > worst ? -err : worst;
        }
    }
    vmc_runner_destroy(r);
    return worst / 1e6;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tasks_never_run_twice_at_once),
        cmocka_unit_test(stubborn_task_is_preempted_by_the_kick),
        cmocka_unit_test(cpu_time_follows_shares),
        cmocka_unit_test(no_more_is_charged_than_was_used),
        cmocka_unit_test(idle_workers_sleep_and_wake),
        cmocka_unit_test(one_thread_per_task_works_too),
        cmocka_unit_test(a_vm_has_all_of_its_threads_or_none),
    };

    if (argc == 3 && strcmp(argv[1], "measure") == 0) {
        long s = strtol(argv[2], NULL, 10);
        printf("largest error over %ld s: this library %.3f ms, Linux %.3f ms\n", s, measure(0, s),
               measure(VMC_RUNNER_THREADS, s));
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
