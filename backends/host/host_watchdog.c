/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A POSIX timer whose signal is SIGKILL. The kernel delivers it to a stopped process as well, and
 * before any further instruction of the process; a system call under way ends first, or is given up
 * at the next page.
 */
#define _GNU_SOURCE
#include <vmcore/host_watchdog.h>

#include "host_priv.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull

struct vmc_host_watchdog {
    timer_t timer;
};

int vmc_host_watchdog_create(struct vmc_host_watchdog **out, struct vmc_error *err)
{
    static const char site[] = "host/watchdog";
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};

    if (getpid() == 1)
        return vmci_host_error(err, VMC_ENOTSUP, 0, site,
                               "process 1 is not killed by its own timer: run it under an init");
    struct vmc_host_watchdog *w = malloc(sizeof(*w));
    if (w == NULL)
        return vmci_host_error(err, VMC_ENOMEM, 0, site, "no memory");
    /* Not CLOCK_MONOTONIC, which stands still while the machine sleeps and others wait. */
    if (timer_create(CLOCK_BOOTTIME, &ev, &w->timer) != 0) {
        int e = errno;
        free(w);
        return vmci_host_error(err, VMC_EHOST, e, site, "timer_create: %s", strerror(e));
    }
    *out = w;
    return VMC_OK;
}

static uint64_t now_of(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

int vmc_host_watchdog_until(void *watchdog, uint64_t end_ns)
{
    const struct vmc_host_watchdog *w = watchdog;
    struct itimerspec when = {0};

    if (end_ns != UINT64_MAX) {
        /*
         * In this order: a delay between the two makes the end come earlier. After a sleep of the
         * machine this may be too late, but then the end that was set before has passed.
         */
        uint64_t boot = now_of(CLOCK_BOOTTIME), mono = now_of(CLOCK_MONOTONIC);
        uint64_t end = end_ns + (boot - mono);
        when.it_value.tv_sec = (time_t)(end / SECOND);
        when.it_value.tv_nsec = (long)(end % SECOND);
        if (end == 0)
            when.it_value.tv_nsec = 1; /* 0 would disarm */
    }
    return timer_settime(w->timer, TIMER_ABSTIME, &when, NULL) == 0 ? VMC_OK : VMC_EHOST;
}

void vmc_host_watchdog_free(struct vmc_host_watchdog *w)
{
    if (w != NULL)
        timer_delete(w->timer);
    free(w);
}
