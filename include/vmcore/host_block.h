/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Raw disk images and host block devices as vmc_blockdev. Library: vmcore_host.
 */
#ifndef VMCORE_HOST_BLOCK_H
#define VMCORE_HOST_BLOCK_H

#include <vmcore/io.h>

VMC_BEGIN_DECLS

struct vmc_host_disk;

enum vmc_host_disk_engine {
    VMC_HOST_DISK_AUTO,    /**< io_uring where the kernel offers it, threads otherwise */
    VMC_HOST_DISK_URING,   /**< io_uring or VMC_ENOTSUP */
    VMC_HOST_DISK_THREADS, /**< a pool of threads that read and write */
};

/** What to open and how. Copied. */
struct vmc_host_disk_config {
    uint32_t size;
    uint32_t engine;   /**< enum vmc_host_disk_engine */
    const char *path;  /**< regular file or block device */
    bool read_only;
    bool direct;       /**< past the host's page cache (O_DIRECT) */
    bool no_discard;   /**< discard is ignored: blocks once allocated stay so */
    bool no_lock;      /**< do not lock the file; the caller sees to it that nobody else writes */
    uint32_t depth;    /**< requests in the kernel at a time; 0: 256 */
    uint32_t threads;  /**< of the pool; 0: 4 */
};

/**
 * Open a disk and start what completes its requests. A writer takes the file for itself, readers
 * share it; the lock belongs to the open file and goes with it.
 * VMC_EBUSY: locked by another program; VMC_ENOENT, VMC_EPERM, VMC_EINVAL (empty or not a disk),
 * VMC_ENOTSUP, VMC_ENOMEM, VMC_EHOST. err->host_code is the errno. Any thread.
 */
VMC_API VMC_MUST_CHECK int vmc_host_disk_open(const struct vmc_host_disk_config *cfg,
                                              struct vmc_host_disk **out, struct vmc_error *err);
/** Waits for the requests under way. Whoever submits must have stopped. NULL is allowed. */
VMC_API void vmc_host_disk_close(struct vmc_host_disk *d);
/** The device, valid until close. Its submit and kick may be called from any thread. */
VMC_API struct vmc_blockdev vmc_host_disk_blockdev(struct vmc_host_disk *d);
/** "io_uring" or "threads". */
VMC_API const char *vmc_host_disk_engine_name(const struct vmc_host_disk *d);

VMC_END_DECLS

#endif
