/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * What the library needs from the world it runs in.
 *
 * The embedder fills a struct vmc_platform once and lends it to every object it creates; it must
 * outlive them. A callback runs on the thread that is inside the library call and must not call
 * back into the library. Optional groups announce themselves by being present; what their absence
 * costs is said at each.
 */
#ifndef VMCORE_PLATFORM_H
#define VMCORE_PLATFORM_H

#include <vmcore/status.h>

VMC_BEGIN_DECLS

/** Physically contiguous host pages. Absent: the VT-x and SVM engines answer VMC_ENOTSUP. */
struct vmc_pages_ops {
    /** 2^order zeroed pages, aligned to their size; NULL when there are none. */
    void *(*alloc)(void *ctx, unsigned order, uint64_t *hpa);
    void (*free)(void *ctx, void *va, unsigned order);
    /** Virtual address of a physical page handed out by alloc. */
    void *(*to_virt)(void *ctx, uint64_t hpa);
};

/**
 * Memory for generated code, as two views of the same bytes: one writable, one executable.
 * Absent: no binary translation, and no x87/SIMD in the software CPU (said at probe).
 */
struct vmc_exec_ops {
    /** Reserve bytes (multiple of the page size). On success *rw and *rx are set. */
    int (*reserve)(void *ctx, size_t bytes, void **rw, const void **rx);
    void (*release)(void *ctx, void *rw, const void *rx, size_t bytes);
};

/** Locks and parking. Absent: one thread at a time may use a VM and everything under it. */
struct vmc_sync_ops {
    size_t lock_bytes; /**< size of one lock object, at most VMC_LOCK_BYTES */
    int (*lock_init)(void *ctx, void *lock);
    void (*lock_fini)(void *ctx, void *lock);
    void (*lock)(void *ctx, void *lock);
    void (*unlock)(void *ctx, void *lock);
    /** Sleep while *word == expect, until woken or deadline_ns (absolute; UINT64_MAX: none). */
    void (*park)(void *ctx, const uint32_t *word, uint32_t expect, uint64_t deadline_ns);
    /** Wake every thread parked on word. Safe from any thread. */
    void (*wake)(void *ctx, const uint32_t *word);
    /**
     * Optional pair, which spares frequent operations their locked instructions. self: a small
     * number that no other living thread has; UINT32_MAX: none is left. fence_all: returns after
     * every thread that was running has executed a full memory barrier.
     */
    uint32_t (*self)(void *ctx);
    void (*fence_all)(void *ctx);
};
#define VMC_LOCK_BYTES 64

/** Host processors. Absent: the VT-x and SVM engines answer VMC_ENOTSUP. */
struct vmc_cpu_ops {
    uint32_t (*this_cpu)(void *ctx);
    void (*interrupt)(void *ctx, uint32_t cpu);
};

/** Unpredictable bytes. Absent: virtio-rng refuses creation, hash seeds are fixed. */
struct vmc_entropy_ops {
    int (*fill)(void *ctx, void *dst, size_t bytes);
};

struct vmc_hw_ops;

enum vmc_log_level { VMC_LOG_ERROR, VMC_LOG_WARN, VMC_LOG_INFO, VMC_LOG_DEBUG };

/** The port. Set size to sizeof(struct vmc_platform); members beyond it are taken as absent. */
struct vmc_platform {
    uint32_t size;
    uint32_t flags; /**< must be 0 */
    void *ctx;      /**< passed to every callback */

    /** Allocate; align is a power of two; contents undefined; NULL when out of memory. */
    void *(*alloc)(void *ctx, size_t bytes, size_t align);
    /** Free what alloc gave, with the same bytes and align. */
    void (*free)(void *ctx, void *ptr, size_t bytes, size_t align);
    /** Monotonic time in ns. */
    uint64_t (*now_ns)(void *ctx);

    /** A line of text without newline; NULL: silent. */
    void (*log)(void *ctx, int level, const char *module, const char *text);
    /** A broken invariant of the library itself. May return; NULL: ignored. */
    void (*bug)(void *ctx, const char *file, int line, const char *text);

    const struct vmc_pages_ops *pages;     /**< optional */
    const struct vmc_exec_ops *exec;       /**< optional */
    const struct vmc_sync_ops *sync;       /**< optional */
    const struct vmc_cpu_ops *cpu;         /**< optional */
    const struct vmc_entropy_ops *entropy; /**< optional */

    uint64_t tsc_hz; /**< frequency of this CPU's invariant TSC; 0: unknown, now_ns is used */
    /** Seconds since 1970 in UTC, for the RTC; NULL: the RTC starts at 2000-01-01. */
    int64_t (*wall_s)(void *ctx);
    /** Privileged instructions (hw.h). Absent: the VT-x and SVM engines answer VMC_ENOTSUP. */
    const struct vmc_hw_ops *hw;
    /**
     * Optional hint: these bytes, part of at least 2 MiB that alloc or exec.reserve (the writable
     * view) gave, will be used at random, so that large pages would spare the processor TLB misses.
     * Fails where there are none. Called by one thread at a time for the same bytes.
     */
    int (*large_pages)(void *ctx, void *at, size_t bytes);
    /** Nanoseconds since 1970 in UTC, for paravirtual clocks; NULL: whole seconds, of wall_s. */
    int64_t (*wall_ns)(void *ctx);
};

/** Check a port before use; err explains the first problem. VMC_EINVAL. Any thread. */
VMC_API VMC_MUST_CHECK int vmc_platform_check(const struct vmc_platform *pf, struct vmc_error *err);

VMC_END_DECLS

#endif
