/* SPDX-License-Identifier: BSD-2-Clause */
/* Signals that end "vmcore host" while its main thread waits for something for ever. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../tools/vmcore/host.h"
#include "../../tools/vmcore/vmcore_cmd.h"

#include <cmocka.h>

/* What the rest of the command would be. */
void run_loop_block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, set, NULL);
}

void host_wake_loop(const struct host *h)
{
    uint64_t one = 1;

    (void)!write(h->wake_fd, &one, sizeof(one)); /* as full as it may be */
}

static uint64_t now_ns(void *ctx)
{
    struct timespec ts;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Returns what a host of so many signals ended with; -1: it was alive after patience seconds. */
static int end_of(unsigned signals, unsigned patience)
{
    int ready[2];
    char c;

    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        static struct host h = {.signal_stop = -1};
        h.pf.now_ns = now_ns;
        h.wake_fd = eventfd(0, EFD_NONBLOCK);
        if (host_signals_start(&h) != 0 || write(ready[1], "r", 1) != 1)
            _exit(99);
        for (;;) /* the main thread */
            pause();
    }
    assert_int_equal(read(ready[0], &c, 1), 1);
    for (unsigned i = 0; i < signals; i++) {
        assert_int_equal(kill(child, SIGTERM), 0);
        usleep(200000); /* two at once are one */
    }
    int status = 0;
    pid_t gone = 0;
    for (unsigned i = 0; i < patience * 10 && gone == 0; i++) {
        gone = waitpid(child, &status, WNOHANG);
        usleep(100000);
    }
    close(ready[0]);
    close(ready[1]);
    if (gone == child)
        return WIFEXITED(status) ? WEXITSTATUS(status) : 100;
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return -1;
}

static void the_second_one_does_not_wait(void **state)
{
    (void)state;
    assert_int_equal(end_of(1, 20), -1); /* whoever asks once waits for the disks */
    assert_int_equal(end_of(2, 120), EXIT_ERROR);
}

static void counted_and_passed_on(void **state)
{
    static struct host h = {.signal_stop = -1};
    uint64_t woken = 0;

    (void)state;
    h.pf.now_ns = now_ns;
    h.wake_fd = eventfd(0, 0);
    assert_int_equal(host_signals_start(&h), 0);
    assert_int_equal(kill(getpid(), SIGTERM), 0);
    assert_int_equal(read(h.wake_fd, &woken, sizeof(woken)), sizeof(woken));
    assert_int_equal(woken, 1);
    assert_int_equal(atomic_load(&h.quits), 1);
    host_signals_stop(&h);
    close(h.wake_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counted_and_passed_on),
        cmocka_unit_test(the_second_one_does_not_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
