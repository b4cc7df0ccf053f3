/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * The port to a Linux process: memory, time, locks, executable memory, entropy.
 * Library: vmcore_host.
 */
#ifndef VMCORE_HOST_H
#define VMCORE_HOST_H

#include <vmcore/platform.h>

VMC_BEGIN_DECLS

/** Where log lines go, and how many. */
struct vmc_host_log {
    int max_level; /**< enum vmc_log_level; lines above it are dropped */
    /** NULL: standard error. Called from any thread. */
    void (*line)(void *ctx, int level, const char *module, const char *text);
    void *ctx;
};

/**
 * Fill *pf with the port of this process. *log is borrowed for as long as pf is used; NULL: errors
 * and warnings to standard error. Measures the TSC's frequency once per process (about 10 ms).
 * VMC_EHOST. Any thread.
 */
VMC_API VMC_MUST_CHECK int vmc_host_platform_init(struct vmc_platform *pf,
                                                  const struct vmc_host_log *log,
                                                  struct vmc_error *err);

/**
 * Memory for a guest: zero pages on demand, not counted against overcommit, huge pages where the
 * kernel offers them, shared with no one. shared_fd: when not NULL, the memory is a memfd that
 * other processes can map, and the caller closes it. VMC_ENOMEM.
 */
VMC_API VMC_MUST_CHECK int vmc_host_guest_memory(size_t bytes, int *shared_fd, void **out,
                                                 struct vmc_error *err);
/** Give that memory back; bytes as it was asked for. Nobody may use it any more. */
VMC_API void vmc_host_guest_memory_free(void *mem, size_t bytes);
/**
 * Let the kernel store equal pages of that memory once (KSM), for a VM without paged memory
 * (vmcore/pages.h). A guest can find out by timing its writes which pages others hold as well.
 * *running: the kernel's scanner is on. VMC_ENOTSUP. Any thread.
 */
VMC_API VMC_MUST_CHECK int vmc_host_guest_memory_merge(void *mem, size_t bytes, bool *running,
                                                       struct vmc_error *err);

VMC_END_DECLS

#endif
