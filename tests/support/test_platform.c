/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "test_platform.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define POISON 0xdb

static void *tp_alloc(void *ctx, size_t bytes, size_t align)
{
    struct test_platform *tp = ctx;
    void *p = NULL;
    uint64_t n = __atomic_add_fetch(&tp->allocs, 1, __ATOMIC_RELAXED);

    if (tp->fail_after != 0 && n >= tp->fail_after)
        return NULL;
    if (posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, bytes ? bytes : 1) != 0)
        return NULL;
    memset(p, POISON, bytes);
    __atomic_add_fetch(&tp->live, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&tp->live_bytes, bytes, __ATOMIC_RELAXED);
    return p;
}

static void tp_free(void *ctx, void *ptr, size_t bytes, size_t align)
{
    struct test_platform *tp = ctx;

    (void)align;
    memset(ptr, POISON, bytes);
    __atomic_sub_fetch(&tp->live, 1, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&tp->live_bytes, bytes, __ATOMIC_RELAXED);
    free(ptr);
}

static uint64_t tp_now_manual(void *ctx)
{
    struct test_platform *tp = ctx;
    return __atomic_load_n(&tp->now_ns, __ATOMIC_RELAXED);
}

static uint64_t tp_now_real(void *ctx)
{
    struct timespec ts;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void tp_log(void *ctx, int level, const char *module, const char *text)
{
    struct test_platform *tp = ctx;

    snprintf(tp->last_log, sizeof(tp->last_log), "%s", text);
    if (tp->verbose)
        fprintf(stderr, "[%d] %s: %s\n", level, module, text);
}

static void tp_bug(void *ctx, const char *file, int line, const char *text)
{
    struct test_platform *tp = ctx;

    tp->bugs++;
    fprintf(stderr, "BUG %s:%d: %s\n", file, line, text);
}

static int tp_reserve(void *ctx, size_t bytes, void **rw, const void **rx)
{
    (void)ctx;
    int fd = memfd_create("test-exec", MFD_CLOEXEC);
    if (fd < 0)
        return VMC_EHOST;
    if (ftruncate(fd, (off_t)bytes) != 0) {
        close(fd);
        return VMC_ENOMEM;
    }
    void *w = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *x = mmap(NULL, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    close(fd);
    if (w == MAP_FAILED || x == MAP_FAILED)
        return VMC_ENOMEM;
    *rw = w;
    *rx = x;
    return VMC_OK;
}

static void tp_release(void *ctx, void *rw, const void *rx, size_t bytes)
{
    (void)ctx;
    munmap(rw, bytes);
    munmap((void *)(uintptr_t)rx, bytes);
}

static int tp_lock_init(void *ctx, void *lock)
{
    (void)ctx;
    return pthread_mutex_init(lock, NULL) == 0 ? VMC_OK : VMC_EHOST;
}

static void tp_lock_fini(void *ctx, void *lock)
{
    (void)ctx;
    pthread_mutex_destroy(lock);
}

static void tp_lock(void *ctx, void *lock)
{
    (void)ctx;
    pthread_mutex_lock(lock);
}

static void tp_unlock(void *ctx, void *lock)
{
    (void)ctx;
    pthread_mutex_unlock(lock);
}

static void tp_park(void *ctx, const uint32_t *word, uint32_t expect, uint64_t deadline_ns)
{
    struct timespec ts = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                          .tv_nsec = (long)(deadline_ns % 1000000000u)};

    (void)ctx;
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expect,
            deadline_ns == UINT64_MAX ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void tp_wake(void *ctx, const uint32_t *word)
{
    (void)ctx;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static int tp_entropy(void *ctx, void *dst, size_t bytes)
{
    (void)ctx;
    return getrandom(dst, bytes, 0) == (ssize_t)bytes ? VMC_OK : VMC_EHOST;
}

static const struct vmc_exec_ops exec_ops = {.reserve = tp_reserve, .release = tp_release};
static const struct vmc_sync_ops sync_ops = {
    .lock_bytes = sizeof(pthread_mutex_t),
    .lock_init = tp_lock_init,
    .lock_fini = tp_lock_fini,
    .lock = tp_lock,
    .unlock = tp_unlock,
    .park = tp_park,
    .wake = tp_wake,
};
static const struct vmc_entropy_ops entropy_ops = {.fill = tp_entropy};

void test_platform_init(struct test_platform *tp)
{
    memset(tp, 0, sizeof(*tp));
    tp->now_ns = 1000000000u;
    tp->pf = (struct vmc_platform){
        .size = sizeof(struct vmc_platform),
        .ctx = tp,
        .alloc = tp_alloc,
        .free = tp_free,
        .now_ns = tp_now_manual,
        .log = tp_log,
        .bug = tp_bug,
        .exec = &exec_ops,
        .entropy = &entropy_ops,
    };
}

void test_platform_init_threads(struct test_platform *tp)
{
    test_platform_init(tp);
    tp->pf.sync = &sync_ops;
    tp->pf.now_ns = tp_now_real;
}

void test_platform_check(const struct test_platform *tp)
{
    assert_int_equal(tp->live, 0);
    assert_int_equal(tp->live_bytes, 0);
    assert_int_equal(tp->bugs, 0);
}
