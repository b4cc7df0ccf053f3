/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "sandbox.h"

#include "run_options.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <scsi/sg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <termios.h>
#include <unistd.h>

/* What the run loop, the block and character back ends and libc's memory and threads use. */
static const int base_calls[] = {
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(preadv),
    SCMP_SYS(pwritev),
    SCMP_SYS(preadv2),
    SCMP_SYS(pwritev2),
    SCMP_SYS(lseek),
    SCMP_SYS(close),
    SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    SCMP_SYS(fallocate),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(fcntl),
    SCMP_SYS(unlink),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(select),
    SCMP_SYS(pselect6),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(eventfd2),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(timerfd_gettime),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(futex), SCMP_SYS(membarrier),
    SCMP_SYS(sched_yield),
    SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(getrandom),
    SCMP_SYS(gettid),
    SCMP_SYS(getpid),
    SCMP_SYS(getrusage),
    SCMP_SYS(getcpu),
    SCMP_SYS(rt_sigtimedwait),
    SCMP_SYS(timer_create),
    SCMP_SYS(timer_settime),
    SCMP_SYS(timer_delete),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(rseq),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(accept4),
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendto),
    SCMP_SYS(sendmsg),
    SCMP_SYS(shutdown),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

static const int network_calls[] = {
    SCMP_SYS(socket), SCMP_SYS(connect),     SCMP_SYS(bind),
    SCMP_SYS(listen), SCMP_SYS(getsockname), SCMP_SYS(getpeername),
    SCMP_SYS(accept), SCMP_SYS(setsockopt),  SCMP_SYS(getsockopt),
};

#ifdef VMC_SANITIZED
/* The sanitizers' own: a thread that looks for leaks at the end, and symbols for reports. */
static const int sanitizer_calls[] = {
    SCMP_SYS(clone),       SCMP_SYS(clone3),    SCMP_SYS(ptrace),    SCMP_SYS(wait4),
    SCMP_SYS(prctl),       SCMP_SYS(openat),    SCMP_SYS(open),      SCMP_SYS(readlink),
    SCMP_SYS(getppid),     SCMP_SYS(pipe2),     SCMP_SYS(getdents),  SCMP_SYS(getdents64),
    SCMP_SYS(arch_prctl),  SCMP_SYS(prlimit64), SCMP_SYS(getrlimit), SCMP_SYS(process_vm_readv),
    SCMP_SYS(stat),        SCMP_SYS(dup2),      SCMP_SYS(uname),     SCMP_SYS(sched_getaffinity),
    SCMP_SYS(personality),
};
#endif

static int allow(scmp_filter_ctx ctx, const int *calls, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* New memory is never executable: code caches were made before. */
static int allow_memory(scmp_filter_ctx ctx)
{
    static const int calls[] = {SCMP_SYS(mmap), SCMP_SYS(mprotect)};
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < sizeof(calls) / sizeof(calls[0]); i++)
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    return rc;
}

/* Threads of this process are kicked, nobody else's. */
static int allow_signals(scmp_filter_ctx ctx)
{
    return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                            SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
}

static int allow_ioctl(scmp_filter_ctx ctx, const unsigned long *request, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                                  SCMP_A1(SCMP_CMP_EQ, request[i]));
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int allow_ioctls(scmp_filter_ctx ctx, const struct sandbox_needs *needs)
{
    static const unsigned long tty[] = {TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGWINSZ, FIONREAD};
    static const unsigned long scsi[] = {SG_IO};
    static const unsigned long paging[] = {UFFDIO_REGISTER, UFFDIO_CONTINUE, UFFDIO_WRITEPROTECT,
                                           UFFDIO_WAKE};
    int rc = allow_ioctl(ctx, tty, sizeof(tty) / sizeof(tty[0]));

    if (rc == 0 && needs->kvm) /* KVM's have type 0xae in bits 15:8 */
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                              SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, 0xae00));
    if (rc == 0 && needs->paging)
        rc = allow_ioctl(ctx, paging, sizeof(paging) / sizeof(paging[0]));
    if (rc == 0 && needs->volumes)
        rc = allow_ioctl(ctx, scsi, sizeof(scsi) / sizeof(scsi[0]));
    return rc;
}

int sandbox_enter(const struct sandbox_needs *needs)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int rc = ctx == NULL ? -ENOMEM : seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);

    if (rc == 0)
        rc = allow(ctx, base_calls, sizeof(base_calls) / sizeof(base_calls[0]));
    if (rc == 0 && needs->network)
        rc = allow(ctx, network_calls, sizeof(network_calls) / sizeof(network_calls[0]));
#ifdef VMC_SANITIZED
    if (rc == 0)
        rc = allow(ctx, sanitizer_calls, sizeof(sanitizer_calls) / sizeof(sanitizer_calls[0]));
    const bool dumpable = true; /* their thread traces this one */
#else
    const bool dumpable = false;
#endif
    if (rc == 0)
        rc = allow_signals(ctx);
    if (rc == 0)
        rc = allow_memory(ctx);
    if (rc == 0)
        rc = allow_ioctls(ctx, needs);
    if (rc == 0 && !dumpable && prctl(PR_SET_DUMPABLE, 0) != 0)
        rc = -errno;
    if (rc == 0)
        rc = seccomp_load(ctx);
    seccomp_release(ctx);
    if (rc != 0)
        fprintf(stderr, "%s: cannot confine the process: %s (--no-sandbox goes without)\n", run_who,
                strerror(-rc));
    return rc == 0 ? 0 : -1;
}
