/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * SCSI-3 persistent reservations as the fence of VMFS volumes: hosts register with the disks, which
 * then take writes from registered hosts only; a host that is given up has its registration removed
 * and what it had asked for aborted. Library: vmcore_host.
 */
#ifndef VMCORE_HOST_FENCE_H
#define VMCORE_HOST_FENCE_H

#include <vmcore/host_block.h>
#include <vmcore/vmfs.h>

VMC_BEGIN_DECLS

struct vmc_host_fence;

/**
 * Look whether disks, opened shared, can do that; nothing is changed on them. They are borrowed.
 * VMC_ENOTSUP: one of them cannot; the text says which and why. VMC_EINVAL, VMC_ENOMEM.
 *
 * A disk knows a computer by its path to it, not a process: so one process of a computer at a time
 * can join on a path, and all that the computer does by it has the rights of that process.
 */
VMC_API VMC_MUST_CHECK int vmc_host_fence_create(struct vmc_host_disk *const *disks, uint32_t count,
                                                 struct vmc_host_fence **out, struct vmc_error *err);
/** For struct vmc_vmfs_mount_config; valid until free. */
VMC_API struct vmc_vmfs_fence vmc_host_fence_ops(struct vmc_host_fence *f);
/** After unmounting, before the disks are closed. NULL is allowed. */
VMC_API void vmc_host_fence_free(struct vmc_host_fence *f);

VMC_END_DECLS

#endif
