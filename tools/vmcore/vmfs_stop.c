/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Signals that end a command while something half made is there: the first one makes it give up as
 * it does after an error, the second one, of whatever kind, ends it at once.
 */
#define _GNU_SOURCE
#include "vmfs_tool.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
static atomic_int caught, helper;
static bool watched;

static void stop(int number)
{
    int was = errno, pid = atomic_load(&helper);

    if (atomic_exchange(&caught, number) != 0) {
        signal(number, SIG_DFL);
        raise(number); /* once this function has returned */
    }
    if (pid > 0)
        kill(pid, SIGTERM);
    errno = was;
}

void vt_stop_watch(void)
{
    struct sigaction old, sa = {.sa_handler = stop, .sa_flags = SA_RESTART};

    for (size_t i = 0; !watched && i < sizeof(signals) / sizeof(signals[0]); i++)
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(signals[i], &sa, NULL);
    watched = true;
}

void vt_stop_helper(pid_t pid)
{
    atomic_store(&helper, pid);
    if (pid > 0 && atomic_load(&caught) != 0)
        kill(pid, SIGTERM);
}

bool vt_stopped(const struct vt *t)
{
    static bool told;

    if (atomic_load(&caught) == 0)
        return false;
    if (!told)
        fprintf(stderr, "%s%s: interrupted\n", isatty(STDERR_FILENO) ? "\n" : "", t->name);
    told = true;
    return true;
}

void vt_stop_end(void)
{
    int number = atomic_load(&caught);

    if (number == 0)
        return;
    signal(number, SIG_DFL);
    raise(number);
}
