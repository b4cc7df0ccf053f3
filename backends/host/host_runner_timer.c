/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The end of a slice, by a timer of the worker itself: its signal arrives on the CPU that runs the
 * vCPU. The timekeeper is a thread, which Linux lets wait, with every CPU busy, for as long as its
 * own slices: milliseconds, which somebody then had too much. It still kicks, later, whom the
 * signal has not reached.
 */
#define _GNU_SOURCE
#include "host_priv.h"
#include "host_runner_priv.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define NS_PER_S      1000000000u
#define HANDLER_BYTES 65536u

/* A signal takes some 20 us. */
static uint64_t late_ns(const struct runner_worker *w)
{
    return vmc_sched_frame_ns(w->r->sched) / 8;
}

/*
 * Did the signal interrupt a system call? The instruction for it leaves the address of the next one
 * in RCX; a call that will be made again is before that.
 */
static bool in_system_call(const ucontext_t *uc)
{
    greg_t next = uc->uc_mcontext.gregs[REG_RIP] - uc->uc_mcontext.gregs[REG_RCX];

    return next == 0 || next == -2;
}

/*
 * The timer of a CPU interrupts whatever code runs there. Where that took long, the CPU stood still
 * or did something else, and Linux charges this thread for it: a hypervisor below had the CPU and
 * did not say so, or interrupts had. But what the vCPU lets the kernel do is its own time.
 */
static void note_signal(struct runner_worker *w, uint64_t now, const ucontext_t *uc)
{
    uint32_t came = SIGNAL_CAME;

    if (__atomic_load_n(&w->came, __ATOMIC_SEQ_CST) != SIGNAL_DUE)
        return;
    bool own = __atomic_load_n(&w->inside, __ATOMIC_RELAXED) != 0 && in_system_call(uc);
    if (now > w->slice_end + late_ns(w) && !own) {
        uint64_t cpu = runner_clock_ns(CLOCK_THREAD_CPUTIME_ID);
        __atomic_store_n(&w->late_cpu, cpu, __ATOMIC_SEQ_CST);
        came = SIGNAL_LATE;
    }
    __atomic_store_n(&w->came, came, __ATOMIC_SEQ_CST);
}

/* Of the CPU time until the signal came, no more was the vCPU's than the slice is long. */
static uint64_t without_late(const struct runner_worker *w, uint64_t cpu, uint64_t until)
{
    uint64_t begun = __atomic_load_n(&w->begun, __ATOMIC_SEQ_CST);
    uint64_t end = __atomic_load_n(&w->slice_end, __ATOMIC_SEQ_CST);
    uint64_t cpu0 = __atomic_load_n(&w->cpu0, __ATOMIC_SEQ_CST);
    uint64_t length = end > begun ? end - begun : 0;
    uint64_t before = until > cpu0 ? until - cpu0 : 0;
    uint64_t all = cpu > cpu0 ? cpu - cpu0 : 0;

    return before > length && all > before - length ? all - (before - length) : all;
}

uint64_t runner_slice_had(const struct runner_worker *w, uint64_t cpu)
{
    bool late = __atomic_load_n(&w->came, __ATOMIC_SEQ_CST) == SIGNAL_LATE;

    return without_late(w, cpu, late ? __atomic_load_n(&w->late_cpu, __ATOMIC_SEQ_CST) : 0);
}

uint64_t runner_slice_has(const struct runner_worker *w, uint64_t cpu, uint64_t now)
{
    uint64_t end = __atomic_load_n(&w->slice_end, __ATOMIC_SEQ_CST);

    if (__atomic_load_n(&w->came, __ATOMIC_SEQ_CST) != SIGNAL_DUE || end == RUNNER_NEVER ||
        now <= end + late_ns(w))
        return runner_slice_had(w, cpu);
    return without_late(w, cpu, cpu); /* it may be late */
}

/* Another slice may have begun since; then its own timer is armed. */
static void on_signal(int sig, siginfo_t *info, void *context)
{
    int saved = errno;

    (void)sig;
    if (info->si_code == SI_TIMER) {
        struct runner_worker *w = info->si_value.sival_ptr;
        uint32_t v = __atomic_load_n(&w->current, __ATOMIC_SEQ_CST);
        uint64_t now = vmc_runner_now_ns();
        if (v != VMC_SCHED_NONE && now >= __atomic_load_n(&w->slice_end, __ATOMIC_RELAXED)) {
            note_signal(w, now, context);
            runner_kick_task(&w->r->task[v]);
        }
    }
    errno = saved;
}

int runner_timer_install(const struct vmc_runner *r)
{
    struct sigaction sa = {.sa_sigaction = on_signal,
                           .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};

    return sigaction(r->signal, &sa, NULL) == 0 ? VMC_OK : VMC_EHOST;
}

/*
 * Translated code has the guest's stack pointer in RSP, so that handlers need a stack of their own.
 * Address sanitizers give threads one.
 */
static bool make_stack(struct runner_worker *w)
{
    long least = sysconf(_SC_MINSIGSTKSZ); /* grows with the vector registers */
    size_t bytes = (least > 0 ? (size_t)least : MINSIGSTKSZ) + HANDLER_BYTES;
    stack_t own = {.ss_size = bytes};
    stack_t old;

    if (sigaltstack(NULL, &old) == 0 && (old.ss_flags & SS_DISABLE) == 0 && old.ss_size >= bytes)
        return true;
    w->stack = own.ss_sp = malloc(bytes);
    return w->stack != NULL && sigaltstack(&own, &w->old_stack) == 0;
}

static void drop_stack(struct runner_worker *w)
{
    if (w->stack != NULL)
        sigaltstack(&w->old_stack, NULL);
    free(w->stack);
    w->stack = NULL;
}

void runner_timer_make(struct runner_worker *w)
{
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID,
                          .sigev_signo = w->r->signal,
                          .sigev_value = {.sival_ptr = w}};
    sigset_t set;

    ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    w->has_timer = make_stack(w) && timer_create(CLOCK_MONOTONIC, &ev, &w->timer) == 0;
    sigemptyset(&set);
    sigaddset(&set, w->r->signal);
    if (!w->has_timer || pthread_sigmask(SIG_UNBLOCK, &set, NULL) != 0)
        runner_timer_drop(w);
}

void runner_timer_drop(struct runner_worker *w)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, w->r->signal);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (w->has_timer)
        timer_delete(w->timer); /* with the signal that may be pending */
    w->has_timer = false;
    drop_stack(w);
}

bool runner_timer_arm(struct runner_worker *w, uint64_t end)
{
    struct itimerspec at = {
        .it_value = {.tv_sec = (time_t)(end / NS_PER_S), .tv_nsec = (long)(end % NS_PER_S)}};

    if (!w->has_timer)
        return false;
    /* as after a yield: the signal has not come yet, and will find the vCPU that is current now */
    if (end == w->slice_end && end != RUNNER_NEVER && vmc_runner_now_ns() < end)
        return true;
    __atomic_store_n(&w->slice_end, end, __ATOMIC_RELAXED);
    if (end == RUNNER_NEVER)
        at.it_value = (struct timespec){0};
    if (timer_settime(w->timer, TIMER_ABSTIME, &at, NULL) == 0)
        return true;
    __atomic_store_n(&w->slice_end, RUNNER_NEVER, __ATOMIC_RELAXED);
    return false;
}
