/* SPDX-License-Identifier: BSD-2-Clause */
/* Between the parts of the runner. (a): atomic. */
#ifndef HOST_RUNNER_PRIV_H
#define HOST_RUNNER_PRIV_H

#include <vmcore/host_runner.h>

#include <pthread.h>
#include <stdbool.h>

#define RUNNER_NEVER UINT64_MAX

struct runner_guest;
struct runner_trace;

struct runner_task {
    struct vmc_runner_task t;
    uint32_t active;  /* (a) inside run */
    uint32_t gone;    /* (a) removed or done */
    uint32_t kickers; /* (a) threads about to kick it, if it is not gone */
    /* one thread per task */
    struct vmc_runner *r;
    pthread_t thread;
    bool has_thread;
    uint32_t wakes; /* (a) futex */
    uint64_t used;  /* (a) */
};

struct runner_worker {
    struct vmc_runner *r;
    uint32_t cpu;
    int host_cpu;
    pthread_t thread;
    uint32_t bell;     /* (a) futex: rung by kicks */
    uint32_t current;  /* (a) entity inside run, or VMC_SCHED_NONE */
    uint64_t deadline; /* (a) when the timekeeper kicks it */
    /* for vmc_runner_used_ns: what current had used, and this thread, when the slice began */
    uint32_t slice;       /* (a) counts beginnings and ends */
    uint64_t used0, cpu0; /* (a) */
} __attribute__((aligned(64)));

struct vmc_runner {
    const struct vmc_platform *pf;
    struct vmc_sched *sched;
    bool threads;
    uint32_t ncpus, max_vcpus;
    struct runner_worker *w;
    struct runner_task *task; /* by entity */
    uint32_t *vm_of;          /* by entity: VM + 1 */
    pthread_mutex_t lock;     /* adding and removing */
    pthread_mutex_t clocks;   /* one thread per task: has_thread */
    bool started;
    uint32_t stop; /* (a) */
    pthread_t keeper;
    uint32_t keeper_bell;  /* (a) futex */
    uint64_t keeper_until; /* (a) */

    pthread_mutex_t guests_lock; /* the list */
    pthread_cond_t guests_idle;  /* a guest's timers are not being served any more */
    struct runner_guest *guests;
    struct runner_trace *trace; /* of vmc_runner_trace_begin, or NULL */
};

/* The timekeeper has something to do at that time. Any thread. */
void runner_keeper_at(struct vmc_runner *r, uint64_t when);
/* Serve the timers of guests that are due; when the next one is. On the timekeeper. */
uint64_t runner_serve_timers(struct vmc_runner *r, uint64_t now);

#endif
