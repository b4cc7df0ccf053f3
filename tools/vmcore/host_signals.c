/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Signals that end a host. The main thread does what they ask for; where it cannot, because it
 * waits for something that does not answer, the second one ends the process all the same.
 */
#define _GNU_SOURCE
#include "host.h"

#include "vmcore_cmd.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* The main thread itself says after five seconds what it waits for, and leaves it after as many. */
#define SILENCE_MS  10000 /* from the first signal on */
#define PATIENCE_MS 15000 /* from the second signal on */

static int signal_fd = -1;

static void say(const char *text)
{
    (void)!write(STDERR_FILENO, text, strlen(text)); /* else nobody is there to hear of it */
}

static void *take_signals(void *arg)
{
    struct host *h = arg;
    struct pollfd fds[] = {{.fd = signal_fd, .events = POLLIN},
                           {.fd = h->signal_stop, .events = POLLIN}};
    uint64_t tell = UINT64_MAX, end = UINT64_MAX;

    for (;;) {
        struct signalfd_siginfo si;
        uint64_t now = h->pf.now_ns(h->pf.ctx) / 1000000u;
        if (now >= end) {
            say("vmcore host: something does not answer, and the second signal does not wait for "
                "it\n");
            _exit(EXIT_ERROR); /* no buffers, no handlers: they may be what is stuck */
        }
        if (now >= tell) {
            if (!atomic_load(&h->told))
                say("vmcore host: waiting for something that does not answer (another signal or "
                    "quit leaves it)\n");
            tell = UINT64_MAX;
        }
        uint64_t next = tell < end ? tell : end;
        if (poll(fds, 2, next != UINT64_MAX ? (int)(next - now) : -1) <= 0)
            continue;
        if (fds[1].revents != 0)
            return NULL;
        if (read(signal_fd, &si, sizeof(si)) != sizeof(si))
            continue;
        now = h->pf.now_ns(h->pf.ctx) / 1000000u;
        if (atomic_fetch_add(&h->quits, 1) == 0)
            tell = now + SILENCE_MS;
        else if (end == UINT64_MAX)
            end = now + PATIENCE_MS;
        host_wake_loop(h);
    }
}

int host_signals_start(struct host *h)
{
    sigset_t set;

    run_loop_block_signals(&set);
    signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    h->signal_stop = eventfd(0, EFD_CLOEXEC);
    int e = signal_fd < 0 || h->signal_stop < 0
                ? errno
                : pthread_create(&h->signal_thread, NULL, take_signals, h);
    h->has_signal_thread = e == 0;
    if (e == 0)
        return 0;
    fprintf(stderr, "vmcore host: signals: %s\n", strerror(e));
    return EXIT_ERROR;
}

void host_signals_stop(struct host *h)
{
    uint64_t one = 1;

    if (h->has_signal_thread && write(h->signal_stop, &one, sizeof(one)) == sizeof(one))
        pthread_join(h->signal_thread, NULL);
    h->has_signal_thread = false;
    if (signal_fd >= 0)
        close(signal_fd);
    if (h->signal_stop >= 0)
        close(h->signal_stop);
    signal_fd = h->signal_stop = -1;
}
