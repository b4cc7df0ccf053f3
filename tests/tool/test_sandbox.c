/* SPDX-License-Identifier: BSD-2-Clause */
/* What a confined process can still do, and what not. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "run_options.h"
#include "sandbox.h"

#include <cmocka.h>

char run_who[RUN_WHO_BYTES] = "test";

/* In a child, confined with these needs: what fn returns, 0 if all was as it should be. */
static int confined(const struct sandbox_needs *needs, int (*fn)(void))
{
    int status = -1;
    pid_t child = fork();

    if (child == 0)
        _exit(sandbox_enter(needs) == 0 ? fn() : 99);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static bool refused(long rc)
{
    return rc < 0 && errno == EPERM;
}

static int try_to_get_out(void)
{
    static char name[] = "true";
    char *const argv[] = {name, NULL};
    size_t page = 4096;

    if (!refused(socket(AF_INET, SOCK_STREAM, 0)))
        return 1;
    if (!refused(execve("/bin/true", argv, NULL)))
        return 2;
    if (!refused(kill(getppid(), 0)))
        return 3;
    if (!refused(syscall(SYS_tgkill, getppid(), getppid(), 0)))
        return 4;
    if (!refused(syscall(SYS_tgkill, -1, getppid(), 0)))
        return 5;
    void *p = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || !refused(mprotect(p, page, PROT_READ | PROT_EXEC)))
        return 6;
    if (mmap(NULL, page, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
        return 7;
    if (!refused(syscall(SYS_io_uring_setup, 8, NULL)))
        return 8;
#ifndef VMC_SANITIZED /* their threads need these */
    if (!refused(open("/dev/null", O_RDONLY)))
        return 9;
    if (!refused(syscall(SYS_ptrace, 16 /* PTRACE_ATTACH */, getppid(), 0, 0)))
        return 10;
    if (!refused(fork()))
        return 11;
#endif
    return 0;
}

static void a_confined_process_does_not_get_out(void **state)
{
    (void)state;
    const struct sandbox_needs needs = {0};

    assert_int_equal(confined(&needs, try_to_get_out), 0);
}

static volatile sig_atomic_t kicks;

static void on_kick(int signal)
{
    (void)signal;
    kicks++;
}

static int kick_itself(void)
{
    struct sigaction sa = {.sa_handler = on_kick};

    if (sigaction(SIGUSR1, &sa, NULL) != 0)
        return 1;
    if (pthread_kill(pthread_self(), SIGUSR1) != 0)
        return 2;
    return kicks == 1 ? 0 : 3;
}

static void its_threads_are_kicked(void **state)
{
    (void)state;
    const struct sandbox_needs needs = {0};

    assert_int_equal(confined(&needs, kick_itself), 0);
}

static int open_a_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0) >= 0 ? 0 : 1;
}

static void user_networking_opens_sockets(void **state)
{
    (void)state;
    const struct sandbox_needs needs = {.network = true};

    assert_int_equal(confined(&needs, open_a_socket), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_confined_process_does_not_get_out),
        cmocka_unit_test(its_threads_are_kicked),
        cmocka_unit_test(user_networking_opens_sockets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
