/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * A watchdog for processes that write to storage under a lease: the kernel kills the process
 * (SIGKILL) when the lease ends without having been renewed, even while it is stopped, starved or
 * the machine sleeps. So it never wakes up into a write that it was about to make when it was cut
 * off. Library: vmcore_host.
 */
#ifndef VMCORE_HOST_WATCHDOG_H
#define VMCORE_HOST_WATCHDOG_H

#include <vmcore/status.h>

VMC_BEGIN_DECLS

struct vmc_host_watchdog;

/**
 * Make one; it watches nothing yet. It belongs to the process that made it: fork() does not pass it
 * on, execve() drops it. VMC_ENOTSUP: the process is the first one of its PID namespace, which its
 * own signals do not kill (a container without an init). VMC_EHOST, VMC_ENOMEM.
 */
VMC_API VMC_MUST_CHECK int vmc_host_watchdog_create(struct vmc_host_watchdog **out,
                                                    struct vmc_error *err);
/**
 * Kill the process at end_ns (of the clock of vmc_host_platform_init(); time in which the machine
 * sleeps counts too), unless called again before. UINT64_MAX: do not. watchdog is a struct
 * vmc_host_watchdog: fits lease_until in struct vmc_vmfs_mount_config. VMC_EHOST. Any thread.
 */
VMC_API int vmc_host_watchdog_until(void *watchdog, uint64_t end_ns);
/** Stops watching. NULL is allowed. */
VMC_API void vmc_host_watchdog_free(struct vmc_host_watchdog *w);

VMC_END_DECLS

#endif
