/* SPDX-License-Identifier: BSD-2-Clause */
/* Between the parts of the runner. (a): atomic. */
#ifndef HOST_RUNNER_PRIV_H
#define HOST_RUNNER_PRIV_H

#include <vmcore/host_runner.h>

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

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

/* Late: long after the end of the slice, though it was no system call that kept it. */
enum { SIGNAL_DUE, SIGNAL_CAME, SIGNAL_LATE };

struct runner_worker {
    struct vmc_runner *r;
    uint32_t cpu;
    int host_cpu;
    pthread_t thread;
    uint32_t bell;     /* (a) futex: rung by kicks */
    uint32_t current;  /* (a) entity inside run, or VMC_SCHED_NONE */
    uint64_t deadline; /* (a) when the timekeeper kicks it */
    /* the worker's own: a signal at the end of the slice */
    timer_t timer;
    bool has_timer;
    void *stack; /* of the handler; NULL: the thread had one */
    stack_t old_stack;
    uint64_t slice_end; /* (a) when the signal is due */
    uint32_t inside;    /* (a) the task's run is active */
    uint32_t came;      /* (a) SIGNAL_*: of this slice */
    uint64_t late_cpu;  /* (a) SIGNAL_LATE: what the thread had used when it came */
    uint64_t at, at_cpu; /* charged until then, when the thread had used so much */
    /* for vmc_runner_used_ns: what current had used, and this thread, when the slice began */
    uint32_t slice;       /* (a) counts beginnings and ends */
    uint64_t used0, cpu0; /* (a) */
    uint64_t begun;       /* (a) when that was */
} __attribute__((aligned(64)));

struct vmc_runner {
    const struct vmc_platform *pf;
    struct vmc_sched *sched;
    bool threads;
    int signal; /* ends slices */
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

/* Time of the clock; CPU time of the calling thread. */
uint64_t runner_clock_ns(clockid_t id);

/* A task that is gone may be freed as soon as nobody is in here with it (vmc_runner_vm_remove). */
void runner_kick_task(struct runner_task *t);

/* host_runner_timer.c: what the signal does, for the process; and, on a worker's thread, its timer.
 * False: it has none. */
int runner_timer_install(const struct vmc_runner *r);
void runner_timer_make(struct runner_worker *w);
void runner_timer_drop(struct runner_worker *w);
bool runner_timer_arm(struct runner_worker *w, uint64_t end);
/* What a vCPU had of the slice that has ended, or that goes on, when the worker has used cpu. */
uint64_t runner_slice_had(const struct runner_worker *w, uint64_t cpu);
uint64_t runner_slice_has(const struct runner_worker *w, uint64_t cpu, uint64_t now);

/* The timekeeper has something to do at that time. Any thread. */
void runner_keeper_at(struct vmc_runner *r, uint64_t when);
/* Serve the timers of guests that are due; when the next one is. On the timekeeper. */
uint64_t runner_serve_timers(struct vmc_runner *r, uint64_t now);

#endif
