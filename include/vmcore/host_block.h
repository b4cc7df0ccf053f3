/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Raw disk images and host block devices as vmc_blockdev, and folders that hold the files of
 * struct vmc_disk. Library: vmcore_host.
 */
#ifndef VMCORE_HOST_BLOCK_H
#define VMCORE_HOST_BLOCK_H

#include <vmcore/disk.h>
#include <vmcore/io.h>

VMC_BEGIN_DECLS

struct vmc_host_disk;

enum vmc_host_disk_engine {
    /** io_uring where the kernel offers it, threads otherwise; plain calls on files in memory */
    VMC_HOST_DISK_AUTO,
    VMC_HOST_DISK_URING,   /**< io_uring or VMC_ENOTSUP */
    VMC_HOST_DISK_THREADS, /**< a pool of threads that read and write */
};

/** What to open and how. Copied. */
struct vmc_host_disk_config {
    uint32_t size;
    uint32_t engine;  /**< enum vmc_host_disk_engine */
    const char *path; /**< regular file or block device */
    bool read_only;
    bool direct;     /**< past the host's page cache (O_DIRECT) */
    bool no_discard; /**< discard is ignored: blocks once allocated stay so */
    bool no_lock;    /**< do not lock the file; the caller sees to it that nobody else writes */
    /**
     * Several programs use it at once and agree on who writes where, as on a VMFS volume: the file
     * is not locked, and has compare_write where that keeps all computers apart that reach it.
     */
    bool shared;
    /** Nobody is told of completions: they are found, and their done called, by poll. io_uring. */
    bool polled;
    uint32_t depth;   /**< requests in the kernel at a time; 0: 256 */
    uint32_t threads; /**< of the pool; 0: 4 */
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
/**
 * Tell the kernel of memory that requests will use, such as a guest's: it is pinned, and transfers
 * to and from it need no page look-ups. Once, before the first request. VMC_ENOTSUP without
 * io_uring.
 */
VMC_API VMC_MUST_CHECK int vmc_host_disk_register(struct vmc_host_disk *d, void *base, size_t bytes,
                                                  struct vmc_error *err);
/** How compare_write excludes others: "scsi" (the disk does it), "lock" (a lock of this computer's
 * kernel), or NULL: it cannot, or the disk is not shared. */
VMC_API const char *vmc_host_disk_compare_write(const struct vmc_host_disk *d);
/** "io_uring", "threads" or "inline" (files in memory). */
VMC_API const char *vmc_host_disk_engine_name(const struct vmc_host_disk *d);

/**
 * Open a host's device or image for a raw device mapping: vmc_disk_vmfs.raw_open. Whoever made the
 * disk chose the name that its mapping has, so only the device is opened that ctx, a char *, names:
 * the path of it, or NULL for none. VMC_EPERM: the mapping names another one; else as
 * vmc_host_disk_open().
 */
VMC_API VMC_MUST_CHECK int vmc_host_raw_open(void *ctx, const char *device, bool write, void **raw,
                                             struct vmc_blockdev *out, struct vmc_error *err);
/** Close what vmc_host_raw_open opened: vmc_disk_vmfs.raw_close. ctx: unused. */
VMC_API void vmc_host_raw_close(void *ctx, void *raw);

struct vmc_host_folder;
/**
 * A folder of the host that holds VM disks. A disk's file is locked while it is open: for itself
 * by a writer, together by readers; VMC_EBUSY when somebody else has it.
 */
VMC_API VMC_MUST_CHECK int vmc_host_folder_open(const char *path, struct vmc_host_folder **out,
                                                struct vmc_error *err);
/** NULL is allowed. No file of it may be open. */
VMC_API void vmc_host_folder_close(struct vmc_host_folder *f);
/** Valid until close. */
VMC_API struct vmc_disk_files vmc_host_folder_files(struct vmc_host_folder *f);
/**
 * Let raw device mappings in the folder use this device (a path; NULL: none, as at first), see
 * vmc_host_raw_open(). device is borrowed until the folder is closed.
 */
VMC_API void vmc_host_folder_allow_raw(struct vmc_host_folder *f, char *device);

VMC_END_DECLS

#endif
