/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The scheduler without anything else of the library: this program owns the loop, the clock and the
 * timers, and calls pick and account itself. Two tasks always have work, one has a fourth of the
 * CPU and one the rest; a third works for a moment now and then.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <vmcore/sched.h>

#define CPU    0u          /* the only one: this thread */
#define RUN_NS 1000000000u /* of CPU time */
#define NEVER  UINT64_MAX
#define TASKS  (sizeof(task) / sizeof(task[0]))

static struct task {
    const char *name;
    uint32_t shares;
    uint64_t work_ns, sleep_ns; /* by turns; sleep 0: it always has work */
    uint32_t vm, vcpu;
    uint64_t left, wake_at;
} task[] = {
    {.name = "a fourth", .shares = 1000},
    {.name = "the rest", .shares = 3000},
    {.name = "a little", .shares = 1000, .work_ns = 200000, .sleep_ns = 20000000},
};

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- the platform: without other threads, three functions are enough ------------------------- */

static void *pf_alloc(void *ctx, size_t size, size_t align)
{
    (void)ctx;
    return aligned_alloc(align, (size + align - 1) / align * align);
}

static void pf_free(void *ctx, void *ptr, size_t size, size_t align)
{
    (void)ctx;
    (void)size;
    (void)align;
    free(ptr);
}

static uint64_t pf_now_ns(void *ctx)
{
    (void)ctx;
    return clock_ns(CLOCK_MONOTONIC);
}

/* ---- tasks ----------------------------------------------------------------------------------- */

static int add_tasks(struct vmc_sched *s, struct vmc_error *err)
{
    for (size_t i = 0; i < TASKS; i++) {
        struct task *t = &task[i];
        struct vmc_sched_vm_config vc = {
            .size = sizeof(vc), .vcpus = 1, .share = {.shares = t->shares}};
        if (vmc_sched_vm_add(s, VMC_SCHED_ROOT, &vc, &t->vm, err) != VMC_OK)
            return -1;
        t->vcpu =
            vmc_sched_vcpu(s, t->vm, 0); /* asleep until wake_at: 0, so the first turn wakes it */
        t->left = t->sleep_ns != 0 ? t->work_ns : NEVER;
    }
    return 0;
}

/* Wake whose time has come; when the next one's does. */
static uint64_t wake_tasks(struct vmc_sched *s, uint64_t now)
{
    uint64_t next = NEVER;

    for (size_t i = 0; i < TASKS; i++) {
        struct task *t = &task[i];
        uint32_t kick; /* this CPU or none, and it is about to pick */
        if (t->wake_at <= now) {
            if (vmc_sched_wake(s, t->vcpu, now, &kick) != VMC_OK)
                exit(1);
            t->wake_at = NEVER;
        }
        next = t->wake_at < next ? t->wake_at : next;
    }
    return next;
}

static struct task *task_of(uint32_t vcpu)
{
    size_t i = 0;

    while (task[i].vcpu != vcpu)
        i++;
    return &task[i];
}

/* Work until then, or until there is nothing left to do. */
static void work(struct task *t, uint64_t until)
{
    uint64_t begin = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    uint64_t used = 0;

    while (used < t->left && clock_ns(CLOCK_MONOTONIC) < until)
        used = clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin;
    if (t->sleep_ns != 0)
        t->left -= used < t->left ? used : t->left;
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* Both clocks, at the last charge. */
struct moment {
    uint64_t now, cpu;
};

static struct moment moment_now(void)
{
    struct moment m = {.now = clock_ns(CLOCK_MONOTONIC)};

    m.cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    return m;
}

/*
 * What has passed and was not used, other processes had, and nobody is charged for it. pick charges
 * the current vCPU for all that has passed since, so it gets the same time.
 */
static void charge(struct vmc_sched *s, struct moment *last)
{
    struct moment m = moment_now();
    uint64_t passed = m.now - last->now;
    uint64_t used = m.cpu - last->cpu;

    vmc_sched_account(s, CPU, m.now, passed > used ? passed - used : 0);
    *last = m;
}

static void turn(struct vmc_sched *s, struct moment *last)
{
    uint64_t timer = wake_tasks(s, last->now);
    struct vmc_sched_slice slice;

    vmc_sched_pick(s, CPU, last->now, &slice);
    if ((slice.flags & VMC_SCHED_PLAN_DUE) != 0 && vmc_sched_plan(s, last->now)) {
        charge(s, last);
        return; /* pick again: the plan may be for right now */
    }
    uint64_t until = slice.end_ns < timer ? slice.end_ns : timer;
    if (slice.vcpu == VMC_SCHED_NONE) { /* nobody has work */
        uint64_t ns = until > last->now ? until - last->now : 0;
        nanosleep(&(struct timespec){.tv_nsec = ns < 1000000 ? (long)ns : 1000000}, NULL);
        *last = moment_now();
        return;
    }
    struct task *t = task_of(slice.vcpu);
    work(t, until);
    charge(s, last);
    if (t->left == 0) {
        t->left = t->work_ns;
        t->wake_at = last->now + t->sleep_ns;
        if (vmc_sched_block(s, CPU, last->now) != VMC_OK)
            exit(1);
    }
}

static uint64_t used_ns(const struct vmc_sched *s, const struct task *t)
{
    struct vmc_sched_vcpu_stats st;

    if (vmc_sched_vcpu_stats(s, t->vcpu, clock_ns(CLOCK_MONOTONIC), &st) != VMC_OK)
        exit(1);
    return st.used_ns;
}

int main(void)
{
    struct vmc_platform pf = {
        .size = sizeof(pf), .alloc = pf_alloc, .free = pf_free, .now_ns = pf_now_ns};
    struct vmc_sched_config cfg = {.size = sizeof(cfg),
                                   .cpus = 1,
                                   .max_vms = TASKS,
                                   .max_vcpus = TASKS,
                                   .start_ns = clock_ns(CLOCK_MONOTONIC)};
    struct vmc_error err = {0};
    struct vmc_sched *s;

    if (vmc_sched_create(&pf, &cfg, &s, &err) != VMC_OK || add_tasks(s, &err) != 0) {
        fprintf(stderr, "own-loop: %s\n", err.text);
        return 1;
    }
    struct moment last = moment_now();
    while (clock_ns(CLOCK_PROCESS_CPUTIME_ID) < RUN_NS)
        turn(s, &last);
    for (size_t i = 0; i < TASKS; i++)
        printf("%s: %.1f ms\n", task[i].name, (double)used_ns(s, &task[i]) / 1e6);
    double ratio = (double)used_ns(s, &task[1]) / (double)used_ns(s, &task[0]);
    vmc_sched_destroy(s);
    printf("%.3f times as much, 3 is its share\n", ratio);
    return ratio > 2 && ratio < 4 ? 0 : 1; /* a busy host may take time out of a slice */
}
