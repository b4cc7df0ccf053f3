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
#include <unistd.h>

#define NS_PER_S      1000000000u
#define HANDLER_BYTES 65536u

/* Another slice may have begun since; then its own timer is armed. */
static void on_signal(int sig, siginfo_t *info, void *context)
{
    int saved = errno;

    (void)sig;
    (void)context;
    if (info->si_code == SI_TIMER) {
        struct runner_worker *w = info->si_value.sival_ptr;
        uint32_t v = __atomic_load_n(&w->current, __ATOMIC_SEQ_CST);
        if (v != VMC_SCHED_NONE &&
            vmc_runner_now_ns() >= __atomic_load_n(&w->slice_end, __ATOMIC_RELAXED))
            runner_kick_task(&w->r->task[v]);
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
