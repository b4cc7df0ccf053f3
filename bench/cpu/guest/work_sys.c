/* SPDX-License-Identifier: BSD-2-Clause */
/* Programs that spend their time in the kernel. */
#define _GNU_SOURCE
#include "work.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u

static void check(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        abort();
    }
}

static uint64_t syscall_null(uint64_t n)
{
    uint64_t sum = 0;

    for (n *= 1000; n > 0; n--)
        sum += syscall(SYS_getppid) >= 0;
    return sum;
}

static uint64_t fork_wait(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        int status;
        pid_t pid = fork();
        if (pid == 0)
            _exit(3);
        check(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 3, "fork");
    }
    return 1;
}

static uint64_t fork_exec(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            execl("/proc/self/exe", "payload", "exit", (char *)NULL);
            _exit(1);
        }
        check(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7, "exec");
    }
    return 1;
}

/* A program with much code, beside this one, that lives for moments: each time at another address,
   where the kernel randomizes these. */
static uint64_t start_large(uint64_t n)
{
    char path[4096] = "";

    check(readlink("/proc/self/exe", path, sizeof(path) - sizeof("large")) > 0, "readlink");
    strcpy(strrchr(path, '/') + 1, "large");
    for (uint64_t i = 0; i < n; i++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            execl(path, "large", (char *)NULL);
            _exit(1);
        }
        check(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7, "large program");
    }
    return 1;
}

static uint64_t pipe_pingpong(uint64_t n)
{
    int a[2], b[2], status;
    char c = 'x';

    check(pipe(a) == 0 && pipe(b) == 0, "pipe");
    pid_t pid = fork();
    if (pid == 0) {
        close(a[1]);
        while (read(a[0], &c, 1) == 1)
            if (write(b[1], &c, 1) != 1)
                break;
        _exit(0);
    }
    close(a[0]);
    for (n *= 100; n > 0; n--)
        check(write(a[1], &c, 1) == 1 && read(b[0], &c, 1) == 1, "pipe");
    close(a[1]);
    close(b[0]);
    close(b[1]);
    check(waitpid(pid, &status, 0) == pid, "wait");
    return (uint64_t)c;
}

/* Two threads hand a word to each other. */
static uint32_t turn;
static uint64_t turns;

static void take_turns(uint32_t me)
{
    for (uint64_t i = 0; i < turns; i++) {
        while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != me)
            syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, !me, NULL, NULL, 0);
        __atomic_store_n(&turn, !me, __ATOMIC_RELEASE);
        syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

static void *other_thread(void *arg)
{
    (void)arg;
    take_turns(1);
    return NULL;
}

static uint64_t futex(uint64_t n)
{
    pthread_t t;

    turn = 0;
    turns = n * 100;
    check(pthread_create(&t, NULL, other_thread, NULL) == 0, "thread");
    take_turns(0);
    pthread_join(t, NULL);
    return turn;
}

static uint64_t mmap_fault(uint64_t n)
{
    const size_t bytes = 64 * PAGE;

    while (n-- > 0) {
        char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        check(p != MAP_FAILED, "mmap");
        for (size_t at = 0; at < bytes; at += PAGE)
            p[at] = 1;
        munmap(p, bytes);
    }
    return 1;
}

static uint64_t work_mprotect(uint64_t n)
{
    char *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    check(p != MAP_FAILED, "mmap");
    for (n *= 100; n > 0; n--) {
        check(mprotect(p + PAGE, PAGE, PROT_READ) == 0, "mprotect");
        check(mprotect(p + PAGE, PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
        p[PAGE] = (char)n;
    }
    munmap(p, 4 * PAGE);
    return 1;
}

static volatile uint64_t handled;

static void on_signal(int sig)
{
    (void)sig;
    handled++;
}

static uint64_t work_signal(uint64_t n)
{
    struct sigaction sa = {.sa_handler = on_signal};
    pid_t pid = getpid();
    uint64_t want = n * 100;

    sigaction(SIGUSR1, &sa, NULL);
    handled = 0;
    for (uint64_t i = 0; i < want; i++)
        syscall(SYS_tgkill, pid, pid, SIGUSR1);
    check(handled == want, "signal");
    return 1;
}

static char *guarded;

static void on_segv(int sig, siginfo_t *info, void *ctx)
{
    (void)sig;
    (void)ctx;
    handled++;
    mprotect((void *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1)), PAGE,
             PROT_READ | PROT_WRITE);
}

static uint64_t segv(uint64_t n)
{
    struct sigaction sa = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO};
    uint64_t want = n * 50;

    guarded = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(guarded != MAP_FAILED, "mmap");
    sigaction(SIGSEGV, &sa, NULL);
    handled = 0;
    for (uint64_t i = 0; i < want; i++) {
        mprotect(guarded, PAGE, PROT_NONE);
        *(volatile char *)guarded = (char)i;
    }
    check(handled == want, "segv");
    munmap(guarded, PAGE);
    signal(SIGSEGV, SIG_DFL);
    return 1;
}

/* Files in a file system in memory. */
static uint64_t tmpfs(uint64_t n)
{
    static char buf[8192];
    const char *dir = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    char path[64];

    while (n-- > 0)
        for (unsigned i = 0; i < 10; i++) {
            snprintf(path, sizeof(path), "%s/payload.%d.%u", dir, (int)getpid(), i);
            int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
            check(fd >= 0 && write(fd, buf, sizeof(buf)) == (ssize_t)sizeof(buf), "write");
            check(pread(fd, buf, sizeof(buf), 0) == (ssize_t)sizeof(buf), "read");
            close(fd);
            unlink(path);
        }
    return 1;
}

const struct work work_sys[] = {
    {"syscall", "sys", syscall_null},
    {"fork_wait", "sys", fork_wait},
    {"fork_exec", "sys", fork_exec},
    {"start_large", "sys", start_large},
    {"pipe", "sys", pipe_pingpong},
    {"futex", "sys", futex},
    {"mmap_fault", "sys", mmap_fault},
    {"mprotect", "sys", work_mprotect},
    {"signal", "sys", work_signal},
    {"segv", "sys", segv},
    {"tmpfs", "sys", tmpfs},
    {0},
};
