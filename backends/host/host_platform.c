/* SPDX-License-Identifier: BSD-2-Clause */
/* struct vmc_platform of a Linux process. */
#define _GNU_SOURCE
#include <vmcore/host.h>
#include <vmcore/log.h>

#include <cpuid.h>
#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

/* Larger blocks come straight from the kernel: zero on demand, and given back when freed. */
#define MMAP_THRESHOLD (1u << 20)
#define CALIBRATE_NS   10000000u
#define LARGE_PAGE     ((size_t)2 << 20)
#ifndef MADV_COLLAPSE /* Linux 6.1 */
#define MADV_COLLAPSE 25
#endif

static uint64_t now_of(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t host_now_ns(void *ctx)
{
    (void)ctx;
    return now_of(CLOCK_MONOTONIC);
}

static int64_t host_wall_s(void *ctx)
{
    (void)ctx;
    return (int64_t)time(NULL);
}

static int64_t host_wall_ns(void *ctx)
{
    (void)ctx;
    return (int64_t)now_of(CLOCK_REALTIME);
}

/* Reserve addresses; those of what could be large pages begin where one can. */
static void *reserve(size_t bytes)
{
    size_t more = bytes >= LARGE_PAGE ? LARGE_PAGE : 0;
    uint8_t *p =
        mmap(NULL, bytes + more, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    size_t head = more != 0 ? (0 - (uintptr_t)p) % LARGE_PAGE : 0;
    if (head != 0)
        munmap(p, head);
    if (more != head)
        munmap(p + head + bytes, more - head);
    return p + head;
}

static size_t mapped_size(size_t bytes)
{
    size_t unit = bytes >= LARGE_PAGE ? LARGE_PAGE : VMC_PAGE_SIZE;
    return (bytes + unit - 1) & ~(unit - 1);
}

static void *host_alloc(void *ctx, size_t bytes, size_t align)
{
    (void)ctx;
    if (bytes >= MMAP_THRESHOLD && align <= VMC_PAGE_SIZE) {
        void *p = reserve(mapped_size(bytes));
        if (p != NULL && mprotect(p, mapped_size(bytes), PROT_READ | PROT_WRITE) != 0) {
            munmap(p, mapped_size(bytes));
            p = NULL;
        }
        return p;
    }
    void *p = NULL;
    if (align < sizeof(void *))
        align = sizeof(void *);
    return posix_memalign(&p, align, bytes != 0 ? bytes : 1) == 0 ? p : NULL;
}

static void host_free(void *ctx, void *ptr, size_t bytes, size_t align)
{
    (void)ctx;
    if (bytes >= MMAP_THRESHOLD && align <= VMC_PAGE_SIZE)
        munmap(ptr, mapped_size(bytes));
    else
        free(ptr);
}

/*
 * The large pages that hold these bytes, at once and whatever the system's policy is: code memory
 * is shared memory, for which that usually is to have none.
 */
static int host_large_pages(void *ctx, void *at, size_t bytes)
{
    uintptr_t from = (uintptr_t)at & ~(uintptr_t)(LARGE_PAGE - 1);
    uintptr_t to = (uintptr_t)at + bytes;

    (void)ctx;
    for (; from < to; from += LARGE_PAGE) {
        volatile uint8_t *one = (volatile uint8_t *)from;
        *one = *one; /* one of its pages must be there, and written: not the page of zeros */
        if (madvise((void *)from, LARGE_PAGE, MADV_COLLAPSE) != 0)
            return VMC_EHOST;
    }
    return VMC_OK;
}

static void log_stderr(int level, const char *module, const char *text)
{
    fprintf(stderr, "vmcore: %s: %s: %s\r\n", vmc_log_level_name(level), module, text);
}

static void host_log(void *ctx, int level, const char *module, const char *text)
{
    const struct vmc_host_log *log = ctx;
    int max = log != NULL ? log->max_level : VMC_LOG_WARN;

    if (level > max)
        return;
    if (log != NULL && log->line != NULL)
        log->line(log->ctx, level, module, text);
    else
        log_stderr(level, module, text);
}

static void host_bug(void *ctx, const char *file, int line, const char *text)
{
    char msg[512];
    snprintf(msg, sizeof(msg), "internal error at %s:%d: %s", file, line, text);
    host_log(ctx, VMC_LOG_ERROR, "bug", msg);
}

/* ---- code memory: shared memory, mapped twice ------------------------------------------------ */

static int exec_reserve(void *ctx, size_t bytes, void **rw, const void **rx)
{
    (void)ctx;
    void *w = reserve(bytes);
    void *x = reserve(bytes);

    /* Not a memfd: perf(1) looks symbols of code in named files up in the files. mremap of size 0
       maps it once more. */
    if (w == NULL || x == NULL ||
        mmap(w, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
            w ||
        mremap(w, 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, x) != x ||
        mprotect(x, bytes, PROT_READ | PROT_EXEC) != 0) {
        if (w != NULL)
            munmap(w, bytes);
        if (x != NULL)
            munmap(x, bytes);
        return VMC_ENOMEM;
    }
    *rw = w;
    *rx = x;
    return VMC_OK;
}

static void exec_release(void *ctx, void *rw, const void *rx, size_t bytes)
{
    (void)ctx;
    munmap(rw, bytes);
    munmap((void *)(uintptr_t)rx, bytes);
}

/* ---- locks and parking ---------------------------------------------------------------------- */

static int sync_lock_init(void *ctx, void *lock)
{
    (void)ctx;
    return pthread_mutex_init(lock, NULL) == 0 ? VMC_OK : VMC_EHOST;
}

static void sync_lock_fini(void *ctx, void *lock)
{
    (void)ctx;
    pthread_mutex_destroy(lock);
}

static void sync_lock(void *ctx, void *lock)
{
    (void)ctx;
    pthread_mutex_lock(lock);
}

static void sync_unlock(void *ctx, void *lock)
{
    (void)ctx;
    pthread_mutex_unlock(lock);
}

static void sync_park(void *ctx, const uint32_t *word, uint32_t expect, uint64_t deadline_ns)
{
    struct timespec ts = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                          .tv_nsec = (long)(deadline_ns % 1000000000u)};
    (void)ctx;
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expect,
            deadline_ns == UINT64_MAX ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void sync_wake(void *ctx, const uint32_t *word)
{
    (void)ctx;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/*
 * Numbers of threads: bit n of a word is the thread with number n. A thread takes one at its first
 * request and gives it back when it ends.
 */
static atomic_uint_least64_t thread_numbers;
static pthread_once_t numbers_once = PTHREAD_ONCE_INIT;
static pthread_key_t numbers_key;
static _Thread_local uint32_t my_number; /* plus 1; 0: not asked for yet */

static void number_free(void *number)
{
    atomic_fetch_and(&thread_numbers, ~(1ull << ((uintptr_t)number - 1)));
}

static void numbers_init(void)
{
    if (pthread_key_create(&numbers_key, number_free) != 0)
        atomic_store(&thread_numbers, UINT64_MAX); /* none to be had */
}

static uint32_t number_take(void)
{
    pthread_once(&numbers_once, numbers_init);
    uint64_t used = atomic_load(&thread_numbers);
    while (used != UINT64_MAX) {
        uint32_t n = (uint32_t)__builtin_ctzll(~used);
        if (!atomic_compare_exchange_weak(&thread_numbers, &used, used | 1ull << n))
            continue;
        if (pthread_setspecific(numbers_key, (void *)(uintptr_t)(n + 1)) != 0) {
            number_free((void *)(uintptr_t)(n + 1));
            break;
        }
        my_number = n + 1;
        return n;
    }
    return UINT32_MAX;
}

static uint32_t sync_self(void *ctx)
{
    (void)ctx;
    return my_number != 0 ? my_number - 1 : number_take();
}

static long membarrier(int cmd)
{
    return syscall(SYS_membarrier, cmd, 0, 0);
}

static void sync_fence_all(void *ctx)
{
    (void)ctx;
    if (membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0)
        return;
    /* A child of fork may have to register again; the slow command needs no registration. */
    if (membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0 &&
        membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0)
        return;
    membarrier(MEMBARRIER_CMD_GLOBAL);
}

static int entropy_fill(void *ctx, void *dst, size_t bytes)
{
    unsigned char *p = dst;
    (void)ctx;
    while (bytes > 0) {
        ssize_t n = getrandom(p, bytes, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return VMC_EHOST;
        p += n;
        bytes -= (size_t)n;
    }
    return VMC_OK;
}

static const struct vmc_exec_ops exec_ops = {.reserve = exec_reserve, .release = exec_release};
static const struct vmc_entropy_ops entropy_ops = {.fill = entropy_fill};
static const struct vmc_sync_ops sync_ops = {
    .lock_bytes = sizeof(pthread_mutex_t),
    .lock_init = sync_lock_init,
    .lock_fini = sync_lock_fini,
    .lock = sync_lock,
    .unlock = sync_unlock,
    .park = sync_park,
    .wake = sync_wake,
};
static const struct vmc_sync_ops sync_ops_membarrier = {
    .lock_bytes = sizeof(pthread_mutex_t),
    .lock_init = sync_lock_init,
    .lock_fini = sync_lock_fini,
    .lock = sync_lock,
    .unlock = sync_unlock,
    .park = sync_park,
    .wake = sync_wake,
    .self = sync_self,
    .fence_all = sync_fence_all,
};
_Static_assert(sizeof(pthread_mutex_t) <= VMC_LOCK_BYTES, "a mutex fits a lock object");

/* ---- the TSC -------------------------------------------------------------------------------- */

static uint64_t tsc_hz;
static pthread_once_t tsc_once = PTHREAD_ONCE_INIT;

/* Only an invariant TSC (CPUID 80000007H:EDX[8]) can be a guest's clock. */
static bool tsc_invariant(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(0x80000007u, &a, &b, &c, &d) && (d & (1u << 8)) != 0;
}

/* A pair of readings taken close together: the tightest of a few tries. */
static void read_pair(uint64_t *tsc, uint64_t *ns)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 8; i++) {
        uint64_t before = __rdtsc();
        uint64_t t = now_of(CLOCK_MONOTONIC);
        uint64_t after = __rdtsc();
        if (after - before < best) {
            best = after - before;
            *tsc = before + (after - before) / 2;
            *ns = t;
        }
    }
}

static void calibrate_tsc(void)
{
    uint64_t c0 = 0, c1 = 0, t0 = 0, t1 = 0;

    if (!tsc_invariant())
        return;
    read_pair(&c0, &t0);
    struct timespec nap = {.tv_nsec = CALIBRATE_NS};
    nanosleep(&nap, NULL);
    read_pair(&c1, &t1);
    unsigned __int128 hz = (unsigned __int128)(c1 - c0) * 1000000000u / (t1 - t0);
    tsc_hz = (uint64_t)hz / 1000 * 1000;
}

int vmc_host_platform_init(struct vmc_platform *pf, const struct vmc_host_log *log,
                           struct vmc_error *err)
{
    pthread_once(&tsc_once, calibrate_tsc);
    *pf = (struct vmc_platform){
        .size = sizeof(*pf),
        .ctx = (void *)(uintptr_t)log,
        .alloc = host_alloc,
        .free = host_free,
        .now_ns = host_now_ns,
        .log = host_log,
        .bug = host_bug,
        .exec = &exec_ops,
        .large_pages = host_large_pages,
        .sync = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0 ? &sync_ops_membarrier
                                                                           : &sync_ops,
        .entropy = &entropy_ops,
        .tsc_hz = tsc_hz,
        .wall_s = host_wall_s,
        .wall_ns = host_wall_ns,
    };
    return vmc_platform_check(pf, err);
}
