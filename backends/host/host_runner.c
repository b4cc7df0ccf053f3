/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Worker threads that carry vCPUs. Each worker stands for one physical CPU of the scheduler. A
 * timer of its own ends its slices. A timekeeper thread serves the guests' timers, and kicks the
 * task whose slice has ended where that had no effect; it sleeps until the next such time, and
 * workers wake it only when theirs comes sooner.
 */
#define _GNU_SOURCE
#include "host_priv.h"
#include "host_runner_priv.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NEVER RUNNER_NEVER

/* ---- small tools ----------------------------------------------------------------------------- */

uint64_t runner_clock_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t vmc_runner_now_ns(void)
{
    return runner_clock_ns(CLOCK_MONOTONIC);
}

/* Sleep while *word is expect, until the deadline. */
static void sleep_on(uint32_t *word, uint32_t expect, uint64_t deadline)
{
    struct timespec ts = {.tv_sec = (time_t)(deadline / 1000000000u),
                          .tv_nsec = (long)(deadline % 1000000000u)};

    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expect, deadline == NEVER ? NULL : &ts,
            NULL, FUTEX_BITSET_MATCH_ANY);
}

static void wake_up(uint32_t *word)
{
    __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/*
 * Start a thread, on that CPU if it may (-1: anywhere). Signals are for the embedder's threads, and
 * from its first instruction on the thread makes no system call that a sandbox would not allow.
 */
static bool start_thread(pthread_t *thread, int cpu, void *(*fn)(void *), void *arg)
{
    sigset_t all, old;
    pthread_attr_t attr;
    cpu_set_t set;
    bool ok = false;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (cpu >= 0 && pthread_attr_init(&attr) == 0) {
        CPU_ZERO(&set);
        CPU_SET((size_t)cpu, &set);
        ok = pthread_attr_setaffinity_np(&attr, sizeof(set), &set) == 0 &&
             pthread_create(thread, &attr, fn, arg) == 0;
        pthread_attr_destroy(&attr);
    }
    ok = ok || pthread_create(thread, NULL, fn, arg) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ok;
}

/* ---- kicks ----------------------------------------------------------------------------------- */

void runner_kick_task(struct runner_task *t)
{
    __atomic_add_fetch(&t->kickers, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&t->gone, __ATOMIC_SEQ_CST))
        t->t.ops->kick(t->t.ctx);
    __atomic_sub_fetch(&t->kickers, 1, __ATOMIC_SEQ_CST);
}

static void kick_cpu(struct vmc_runner *r, uint32_t cpu)
{
    struct runner_worker *w = &r->w[cpu];

    wake_up(&w->bell);
    uint32_t v = __atomic_load_n(&w->current, __ATOMIC_SEQ_CST);
    if (v != VMC_SCHED_NONE)
        runner_kick_task(&r->task[v]);
}

static void kick_pending(struct vmc_runner *r)
{
    uint32_t cpu;

    while ((cpu = vmc_sched_take_kick(r->sched)) != VMC_SCHED_NONE)
        kick_cpu(r, cpu);
}

static void *keeper_main(void *arg)
{
    struct vmc_runner *r = arg;

    prctl(PR_SET_TIMERSLACK, 1);
    while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
        uint32_t bell = __atomic_load_n(&r->keeper_bell, __ATOMIC_SEQ_CST);
        __atomic_store_n(&r->keeper_until, NEVER, __ATOMIC_SEQ_CST);
        uint64_t next = NEVER;
        uint64_t now = vmc_runner_now_ns();
        for (uint32_t i = 0; i < r->ncpus; i++) {
            uint64_t d = __atomic_load_n(&r->w[i].deadline, __ATOMIC_SEQ_CST);
            if (d <= now) {
                /* once per slice; the worker sets the next deadline */
                if (__atomic_compare_exchange_n(&r->w[i].deadline, &d, NEVER, false,
                                                __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                    kick_cpu(r, i);
            } else if (d < next) {
                next = d;
            }
        }
        uint64_t timer = runner_serve_timers(r, now);
        next = timer < next ? timer : next;
        __atomic_store_n(&r->keeper_until, next, __ATOMIC_SEQ_CST);
        sleep_on(&r->keeper_bell, bell, next);
    }
    return NULL;
}

void runner_keeper_at(struct vmc_runner *r, uint64_t when)
{
    if (when < __atomic_load_n(&r->keeper_until, __ATOMIC_SEQ_CST))
        wake_up(&r->keeper_bell);
}

static void set_deadline(struct vmc_runner *r, struct runner_worker *w, uint64_t end)
{
    __atomic_store_n(&w->deadline, end, __ATOMIC_SEQ_CST);
    if (end != NEVER)
        runner_keeper_at(r, end);
}

/*
 * The slice ends at that time. A task that does that itself is kicked only if it seems unable to,
 * by the timekeeper, which is also there for signals that come late (thread sanitizers keep them
 * back).
 */
static void watch_slice(struct runner_worker *w, const struct runner_task *t, uint64_t end)
{
    uint64_t slack = vmc_sched_frame_ns(w->r->sched) / 2;
    bool itself = (t->t.flags & VMC_RUNNER_ENDS_ITSELF) != 0;

    if (runner_timer_arm(w, itself ? NEVER : end) && !itself)
        slack *= 4;
    else if (!itself)
        slack = 0;
    set_deadline(w->r, w, end > NEVER - slack ? NEVER : end + slack);
}

/* ---- M:N ------------------------------------------------------------------------------------- */

/* What the vCPU had used when it was last charged; time 0 leaves the slice in progress out. */
static uint64_t charged_ns(struct vmc_runner *r, uint32_t vcpu)
{
    struct vmc_sched_vcpu_stats st;

    return vmc_sched_vcpu_stats(r->sched, vcpu, 0, &st) == VMC_OK ? st.used_ns : 0;
}

/*
 * Charge the current vCPU, if there is one, until now: it had so much of the CPU time since the
 * last charge. What else has passed, the host took. Nothing is left out between two charges: Linux
 * takes the CPU from a thread whose time is over when a system call ends, as that for its CPU time.
 */
static void charge(struct runner_worker *w, uint64_t now, uint64_t cpu, uint64_t had)
{
    uint64_t passed = now - w->at;

    vmc_sched_account(w->r->sched, w->cpu, now, passed > had ? passed - had : 0);
    w->at = now;
    w->at_cpu = cpu;
}

static void charge_until_now(struct runner_worker *w)
{
    uint64_t now = vmc_runner_now_ns();
    uint64_t cpu = runner_clock_ns(CLOCK_THREAD_CPUTIME_ID);

    charge(w, now, cpu, cpu - w->at_cpu);
}

static void begin_slice(struct runner_worker *w, uint32_t vcpu)
{
    __atomic_store_n(&w->came, SIGNAL_DUE, __ATOMIC_SEQ_CST);
    __atomic_store_n(&w->begun, w->at, __ATOMIC_SEQ_CST);
    __atomic_store_n(&w->used0, charged_ns(w->r, vcpu), __ATOMIC_SEQ_CST);
    __atomic_store_n(&w->cpu0, w->at_cpu, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&w->slice, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&w->current, vcpu, __ATOMIC_SEQ_CST);
}

static uint64_t slice_left(uint64_t end)
{
    uint64_t now = vmc_runner_now_ns();

    return end > now ? end - now : 0;
}

/*
 * The vCPU waits busily: true if that is right, because every sibling runs or sleeps, and the slice
 * is not over; else pick returns the sibling to which it yields.
 */
static bool spins_on(struct vmc_runner *r, struct runner_worker *w, uint64_t end)
{
    uint64_t now = vmc_runner_now_ns();

    return now < end && !__atomic_load_n(&r->stop, __ATOMIC_SEQ_CST) &&
           vmc_sched_spin(r->sched, w->cpu, now) != VMC_OK;
}

/* Run the vCPU until its slice ends; what the host took from us meanwhile is not charged to it. */
static void run_slice(struct vmc_runner *r, struct runner_worker *w, uint32_t vcpu, uint64_t end)
{
    struct runner_task *t = &r->task[vcpu];
    int res = VMC_RUNNER_AGAIN;

    __atomic_store_n(&t->active, 1, __ATOMIC_SEQ_CST);
    begin_slice(w, vcpu);
    if (!__atomic_load_n(&t->gone, __ATOMIC_SEQ_CST) &&
        !__atomic_load_n(&r->stop, __ATOMIC_SEQ_CST)) {
        watch_slice(w, t, end);
        __atomic_store_n(&w->inside, 1, __ATOMIC_RELAXED);
        res = t->t.ops->run(t->t.ctx, slice_left(end));
        while (res == VMC_RUNNER_SPIN && spins_on(r, w, end))
            res = t->t.ops->run(t->t.ctx, slice_left(end));
        __atomic_store_n(&w->inside, 0, __ATOMIC_RELAXED);
        set_deadline(r, w, NEVER);
    }
    uint64_t now = vmc_runner_now_ns();
    uint64_t cpu = runner_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    /* charged before it leaves: used_in_slice would miss the slice in between */
    charge(w, now, cpu, runner_slice_had(w, cpu));
    __atomic_store_n(&w->current, VMC_SCHED_NONE, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&w->slice, 1, __ATOMIC_SEQ_CST);
    if (res == VMC_RUNNER_DONE)
        __atomic_store_n(&t->gone, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&t->active, 0, __ATOMIC_SEQ_CST);
    int rc = VMC_OK;
    if (res != VMC_RUNNER_AGAIN && res != VMC_RUNNER_SPIN)
        rc = vmc_sched_block(r->sched, w->cpu, now);
    (void)rc; /* woken meanwhile: it stays runnable */
}

/* A sleep takes some 20 us at least. The scheduler waits for less where a vCPU changes its worker.
 */
#define SHORT_WAIT_NS 5000u

/* The time of the last charge is what is picked with, unless something came between. */
#define STALE_NS 2000u

/* Nothing to run until then, or until the bell rings. */
static void idle(struct runner_worker *w, uint32_t bell, uint64_t now, uint64_t end)
{
    if (end - now > SHORT_WAIT_NS) {
        sleep_on(&w->bell, bell, end);
        return;
    }
    while (__atomic_load_n(&w->bell, __ATOMIC_SEQ_CST) == bell && vmc_runner_now_ns() < end)
        ;
}

static void *worker_main(void *arg)
{
    struct runner_worker *w = arg;
    struct vmc_runner *r = w->r;

    prctl(PR_SET_TIMERSLACK, 1); /* waits end when they should; a sandbox may forbid it */
    runner_timer_make(w);
    charge(w, vmc_runner_now_ns(), runner_clock_ns(CLOCK_THREAD_CPUTIME_ID), 0);
    while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
        struct vmc_sched_slice sl;
        uint32_t bell = __atomic_load_n(&w->bell, __ATOMIC_SEQ_CST);
        for (int i = 0; i < 3 && vmc_runner_now_ns() > w->at + STALE_NS; i++)
            charge_until_now(w); /* Linux may take the CPU at the end of this, too */
        vmc_sched_pick(r->sched, w->cpu, w->at, &sl);
        if ((sl.flags & VMC_SCHED_PLAN_DUE) != 0) {
            bool planned = vmc_sched_plan(r->sched, w->at);
            kick_pending(r);
            if (planned) {
                charge_until_now(w);
                continue; /* the plan may be for right now */
            }
        }
        if (sl.vcpu != VMC_SCHED_NONE) {
            run_slice(r, w, sl.vcpu, sl.end_ns);
            continue;
        }
        if (sl.end_ns > w->at)
            idle(w, bell, w->at, sl.end_ns);
        charge_until_now(w);
    }
    runner_timer_drop(w);
    return NULL;
}

/* ---- one thread per task --------------------------------------------------------------------- */

static void *task_main(void *arg)
{
    struct runner_task *t = arg;
    struct vmc_runner *r = t->r;
    uint64_t quantum = 8 * vmc_sched_frame_ns(r->sched);

    while (!__atomic_load_n(&r->stop, __ATOMIC_SEQ_CST) &&
           !__atomic_load_n(&t->gone, __ATOMIC_SEQ_CST)) {
        uint32_t wakes = __atomic_load_n(&t->wakes, __ATOMIC_SEQ_CST);
        int res = t->t.ops->run(t->t.ctx, quantum);
        __atomic_store_n(&t->used, runner_clock_ns(CLOCK_THREAD_CPUTIME_ID), __ATOMIC_RELAXED);
        if (res == VMC_RUNNER_DONE)
            break;
        if (res == VMC_RUNNER_SPIN)
            sched_yield();
        else if (res == VMC_RUNNER_IDLE && !__atomic_load_n(&r->stop, __ATOMIC_SEQ_CST))
            sleep_on(&t->wakes, wakes, NEVER);
    }
    return NULL;
}

static int start_task(struct vmc_runner *r, struct runner_task *t)
{
    t->r = r;
    if (!start_thread(&t->thread, -1, task_main, t))
        return VMC_EHOST;
    pthread_mutex_lock(&r->clocks);
    t->has_thread = true;
    pthread_mutex_unlock(&r->clocks);
    return VMC_OK;
}

static void join_task(struct runner_task *t)
{
    if (!t->has_thread)
        return;
    pthread_mutex_lock(&t->r->clocks);
    t->has_thread = false;
    pthread_mutex_unlock(&t->r->clocks);
    wake_up(&t->wakes);
    t->t.ops->kick(t->t.ctx);
    pthread_join(t->thread, NULL);
}

/* ---- VMs ------------------------------------------------------------------------------------- */

void vmc_runner_wake(struct vmc_runner *r, uint32_t vm, uint32_t index)
{
    uint32_t v = vmc_sched_vcpu(r->sched, vm, index);
    uint32_t kick = VMC_SCHED_NONE;

    if (v == VMC_SCHED_NONE || __atomic_load_n(&r->task[v].gone, __ATOMIC_SEQ_CST))
        return;
    if (r->threads)
        wake_up(&r->task[v].wakes);
    else if (vmc_sched_wake(r->sched, v, vmc_runner_now_ns(), &kick) == VMC_OK &&
             kick != VMC_SCHED_NONE)
        kick_cpu(r, kick);
}

static void nap(void)
{
    struct timespec ts = {.tv_nsec = 50000};
    nanosleep(&ts, NULL);
}

int vmc_runner_vm_remove(struct vmc_runner *r, uint32_t vm)
{
    int rc = VMC_ENOENT;

    pthread_mutex_lock(&r->lock);
    uint32_t first = vmc_sched_vcpu(r->sched, vm, 0);
    uint32_t n = 0;
    if (first != VMC_SCHED_NONE && r->vm_of[first] == vm + 1) {
        while (vmc_sched_vcpu(r->sched, vm, n) != VMC_SCHED_NONE)
            n++;
        for (uint32_t i = 0; i < n; i++)
            __atomic_store_n(&r->task[first + i].gone, 1, __ATOMIC_SEQ_CST);
        rc = vmc_sched_vm_remove(r->sched, vm);
    }
    for (uint32_t i = 0; rc == VMC_OK && i < n; i++) {
        struct runner_task *t = &r->task[first + i];
        join_task(t);
        r->vm_of[first + i] = 0;
        while (__atomic_load_n(&t->active, __ATOMIC_SEQ_CST)) { /* kicks may come before run */
            t->t.ops->kick(t->t.ctx);
            nap();
        }
        while (__atomic_load_n(&t->kickers, __ATOMIC_SEQ_CST) != 0)
            nap();
    }
    pthread_mutex_unlock(&r->lock);
    return rc;
}

/* Some of the tasks may run already where another cannot be started. */
int vmc_runner_vm_add(struct vmc_runner *r, uint32_t group, const struct vmc_sched_vm_config *cfg,
                      const struct vmc_runner_task *tasks, uint32_t *vm, struct vmc_error *err)
{
    int rc = VMC_OK;

    pthread_mutex_lock(&r->lock);
    int added = vmc_sched_vm_add(r->sched, group, cfg, vm, err);
    for (uint32_t i = 0; added == VMC_OK && rc == VMC_OK && i < cfg->vcpus; i++) {
        uint32_t v = vmc_sched_vcpu(r->sched, *vm, i);
        r->task[v].t = tasks[i];
        r->task[v].wakes = 0;
        r->task[v].used = 0;
        __atomic_store_n(&r->task[v].gone, 0, __ATOMIC_SEQ_CST); /* now others may look at it */
        r->vm_of[v] = *vm + 1;
        if (r->threads && r->started)
            rc = start_task(r, &r->task[v]);
    }
    pthread_mutex_unlock(&r->lock);
    if (added != VMC_OK)
        return added;
    if (rc != VMC_OK) {
        int removed = vmc_runner_vm_remove(r, *vm);
        (void)removed; /* it was there */
        return vmci_host_error(err, rc, errno, "host/runner", "cannot start a thread");
    }
    for (uint32_t i = 0; i < cfg->vcpus; i++)
        vmc_runner_wake(r, *vm, i);
    return VMC_OK;
}

/* CPU time of another thread; 0: it has ended. */
static uint64_t thread_ns(pthread_t thread)
{
    clockid_t id;

    return pthread_getcpuclockid(thread, &id) == 0 ? runner_clock_ns(id) : 0;
}

/* What a vCPU on a worker has used, with the part of the slice that it really had. */
static bool used_in_slice(struct runner_worker *w, uint32_t vcpu, uint64_t *ns)
{
    uint32_t slice = __atomic_load_n(&w->slice, __ATOMIC_SEQ_CST);

    if (__atomic_load_n(&w->current, __ATOMIC_SEQ_CST) != vcpu)
        return false;
    uint64_t had = runner_slice_has(w, thread_ns(w->thread), vmc_runner_now_ns());
    *ns = __atomic_load_n(&w->used0, __ATOMIC_SEQ_CST) + had;
    return __atomic_load_n(&w->slice, __ATOMIC_SEQ_CST) == slice;
}

static uint64_t thread_used_ns(struct vmc_runner *r, struct runner_task *t)
{
    uint64_t ns = 0;

    pthread_mutex_lock(&r->clocks);
    if (t->has_thread)
        ns = thread_ns(t->thread);
    pthread_mutex_unlock(&r->clocks);
    return ns != 0 ? ns : __atomic_load_n(&t->used, __ATOMIC_RELAXED);
}

uint64_t vmc_runner_used_ns(struct vmc_runner *r, uint32_t vm, uint32_t index)
{
    uint32_t v = vmc_sched_vcpu(r->sched, vm, index);
    uint64_t ns;

    if (v == VMC_SCHED_NONE)
        return 0;
    if (r->threads)
        return thread_used_ns(r, &r->task[v]);
    for (uint32_t i = 0; i < r->ncpus; i++)
        if (used_in_slice(&r->w[i], v, &ns))
            return ns;
    return charged_ns(r, v);
}

struct vmc_sched *vmc_runner_sched(struct vmc_runner *r)
{
    return r->sched;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Workers on the CPUs this process may use, round and round if there are more. */
static int place_workers(struct vmc_runner *r, uint32_t want)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return VMC_EHOST;
    uint32_t have = (uint32_t)CPU_COUNT(&set);
    r->ncpus = want != 0 ? want : have;
    r->w = aligned_alloc(64, r->ncpus * sizeof(*r->w));
    if (r->w == NULL)
        return VMC_ENOMEM;
    memset(r->w, 0, r->ncpus * sizeof(*r->w));
    int host = -1;
    for (uint32_t i = 0; i < r->ncpus; i++) {
        do {
            host = (host + 1) % CPU_SETSIZE;
        } while (!CPU_ISSET((size_t)host, &set));
        r->w[i].r = r;
        r->w[i].cpu = i;
        r->w[i].host_cpu = host;
        r->w[i].current = VMC_SCHED_NONE;
        r->w[i].deadline = NEVER;
        r->w[i].slice_end = NEVER;
    }
    return VMC_OK;
}

/* A number that sysfs tells of a CPU; fallback: it does not. */
static uint32_t cpu_number(int cpu, const char *what, uint32_t fallback)
{
    char path[96];
    unsigned n = 0;

    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/%s", cpu, what);
    FILE *f = fopen(path, "re");
    bool ok = f != NULL && fscanf(f, "%u", &n) == 1;
    if (f != NULL)
        fclose(f);
    return ok ? n : fallback;
}

/* Which workers share a core, a cache or a socket; NULL: no memory to say so. */
static struct vmc_sched_cpu_topo *find_topology(const struct vmc_runner *r)
{
    struct vmc_sched_cpu_topo *topo = calloc(r->ncpus, sizeof(*topo));

    for (uint32_t i = 0; topo != NULL && i < r->ncpus; i++) {
        int cpu = r->w[i].host_cpu;
        topo[i].core = cpu_number(cpu, "topology/core_id", (uint32_t)cpu);
        topo[i].node = cpu_number(cpu, "topology/physical_package_id", 0);
        topo[i].llc = cpu_number(cpu, "cache/index3/id", topo[i].node);
    }
    return topo;
}

int vmc_runner_create(const struct vmc_platform *pf, const struct vmc_runner_config *cfg,
                      struct vmc_runner **out, struct vmc_error *err)
{
    struct vmc_runner *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return VMC_ENOMEM;
    pthread_mutex_init(&r->lock, NULL);
    pthread_mutex_init(&r->clocks, NULL);
    pthread_mutex_init(&r->guests_lock, NULL);
    pthread_cond_init(&r->guests_idle, NULL);
    r->pf = pf;
    r->keeper_until = NEVER;
    int rc =
        cfg->size == sizeof(*cfg) && pf->sync != NULL ? place_workers(r, cfg->cpus) : VMC_EINVAL;
    r->threads = (cfg->flags & VMC_RUNNER_THREADS) != 0;
    r->signal = cfg->slice_signal != 0 ? (int)cfg->slice_signal : SIGRTMIN;
    r->max_vcpus = cfg->max_vcpus;
    r->task = calloc(cfg->max_vcpus + 1u, sizeof(*r->task));
    r->vm_of = calloc(cfg->max_vcpus + 1u, sizeof(*r->vm_of));
    if (rc == VMC_OK && (r->task == NULL || r->vm_of == NULL))
        rc = VMC_ENOMEM;
    if (rc == VMC_OK) {
        struct vmc_sched_cpu_topo *topo = find_topology(r);
        struct vmc_sched_config sc = {.size = sizeof(sc),
                                      .cpus = r->ncpus,
                                      .max_groups = cfg->max_groups,
                                      .max_vms = cfg->max_vms,
                                      .max_vcpus = cfg->max_vcpus,
                                      .quantum_ns = cfg->quantum_ns,
                                      .start_ns = vmc_runner_now_ns(),
                                      .trace_events = cfg->trace_events,
                                      .topo = topo};
        rc = vmc_sched_create(pf, &sc, &r->sched, err);
        free(topo);
    }
    if (rc != VMC_OK) {
        vmc_runner_destroy(r);
        return rc;
    }
    *out = r;
    return VMC_OK;
}

void vmc_runner_destroy(struct vmc_runner *r)
{
    if (r == NULL)
        return;
    vmc_runner_stop(r);
    vmc_sched_destroy(r->sched);
    pthread_cond_destroy(&r->guests_idle);
    pthread_mutex_destroy(&r->guests_lock);
    pthread_mutex_destroy(&r->clocks);
    pthread_mutex_destroy(&r->lock);
    free(r->w);
    free(r->task);
    free(r->vm_of);
    free(r);
}

/* End the tasks' threads, n workers, and the timekeeper if there is one. */
static void join_all(struct vmc_runner *r, uint32_t n, bool keeper)
{
    for (uint32_t v = 0; r->threads && v < r->max_vcpus; v++)
        join_task(&r->task[v]);
    for (uint32_t i = 0; i < n; i++)
        kick_cpu(r, i);
    for (uint32_t i = 0; i < n; i++)
        pthread_join(r->w[i].thread, NULL);
    if (keeper) {
        wake_up(&r->keeper_bell);
        pthread_join(r->keeper, NULL);
    }
    r->started = false;
}

int vmc_runner_start(struct vmc_runner *r, struct vmc_error *err)
{
    uint32_t n = 0;
    int rc = VMC_OK;

    if (r->started)
        return VMC_ESTATE;
    if (!r->threads && runner_timer_install(r) != VMC_OK)
        return vmci_host_error(err, VMC_EINVAL, errno, "host/runner", "signal %d", r->signal);
    __atomic_store_n(&r->stop, 0, __ATOMIC_SEQ_CST);
    bool keeper = start_thread(&r->keeper, -1, keeper_main, r);
    if (r->threads) {
        for (uint32_t v = 0; keeper && rc == VMC_OK && v < r->max_vcpus; v++)
            if (r->vm_of[v] != 0)
                rc = start_task(r, &r->task[v]);
    } else {
        while (keeper && n < r->ncpus &&
               start_thread(&r->w[n].thread, r->w[n].host_cpu, worker_main, &r->w[n]))
            n++;
    }
    if (!keeper || (!r->threads && n < r->ncpus))
        rc = VMC_EHOST;
    r->started = rc == VMC_OK;
    if (rc == VMC_OK)
        return rc;
    __atomic_store_n(&r->stop, 1, __ATOMIC_SEQ_CST);
    join_all(r, n, keeper);
    return vmci_host_error(err, rc, errno, "host/runner", "cannot start a thread");
}

void vmc_runner_stop(struct vmc_runner *r)
{
    if (!r->started)
        return;
    __atomic_store_n(&r->stop, 1, __ATOMIC_SEQ_CST);
    join_all(r, r->threads ? 0 : r->ncpus, true);
}
