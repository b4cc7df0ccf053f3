/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * VM disks as VMware keeps them: a text descriptor, a flat extent, and redo logs over it ("COWD"
 * sparse extents) that form a chain. A disk is presented as a vmc_blockdev.
 */
#ifndef VMCORE_DISK_H
#define VMCORE_DISK_H

#include <vmcore/io.h>
#include <vmcore/platform.h>

VMC_BEGIN_DECLS

struct vmc_disk;

enum vmc_disk_kind {
    VMC_DISK_THIN = 1,   /**< space is taken as it is written; discard gives it back */
    VMC_DISK_LAZY,       /**< zeroed thick */
    VMC_DISK_EAGER,      /**< eager-zeroed thick */
};

/** The files a disk is made of; names are relative to the descriptor's folder. */
struct vmc_disk_files_ops {
    /** Open for reading, and writing if write. VMC_ENOENT, VMC_EBUSY ... */
    int (*open)(void *ctx, const char *name, bool write, void **file, struct vmc_error *err);
    /** A new, empty file. VMC_EEXIST. */
    int (*create)(void *ctx, const char *name, void **file, struct vmc_error *err);
    int (*close)(void *ctx, void *file);
    int (*remove)(void *ctx, const char *name, struct vmc_error *err);
    int (*size)(void *ctx, void *file, uint64_t *bytes);
    /** Exactly bytes, or VMC_E*. */
    int (*read)(void *ctx, void *file, void *dst, size_t bytes, uint64_t offset);
    int (*write)(void *ctx, void *file, const void *src, size_t bytes, uint64_t offset);
    int (*resize)(void *ctx, void *file, uint64_t bytes);
    /** Give a file of its full length the space that kind (enum vmc_disk_kind) calls for. */
    int (*allocate)(void *ctx, void *file, uint64_t offset, uint64_t bytes, uint32_t kind);
    int (*flush)(void *ctx, void *file);
    /** The open file as a device: the path of I/O in flat extents. */
    int (*blockdev)(void *ctx, void *file, struct vmc_blockdev *out);
};
struct vmc_disk_files {
    const struct vmc_disk_files_ops *ops;
    void *ctx;
};

/** Make NAME.vmdk and NAME-flat.vmdk; name ends in ".vmdk". bytes: a multiple of 512. */
VMC_API VMC_MUST_CHECK int vmc_disk_create(const struct vmc_platform *pf,
                                           const struct vmc_disk_files *files, const char *name,
                                           uint64_t bytes, uint32_t kind, struct vmc_error *err);
/** Open a disk and its parents. Only the top of the chain is written. */
VMC_API VMC_MUST_CHECK int vmc_disk_open(const struct vmc_platform *pf,
                                         const struct vmc_disk_files *files, const char *name,
                                         bool write, struct vmc_disk **out, struct vmc_error *err);
/** Makes everything durable. The handle is gone even when an error is returned. */
VMC_API int vmc_disk_close(struct vmc_disk *d);
/** Valid until close; one thread at a time unless the platform has locks. */
VMC_API struct vmc_blockdev vmc_disk_blockdev(struct vmc_disk *d);
/** How many files the chain has; 1: no snapshot. */
VMC_API uint32_t vmc_disk_depth(const struct vmc_disk *d);
/** A new top of the chain, child.vmdk over parent.vmdk. The parent must not be open for writing. */
VMC_API VMC_MUST_CHECK int vmc_disk_snapshot(const struct vmc_platform *pf,
                                             const struct vmc_disk_files *files,
                                             const char *parent, const char *child,
                                             struct vmc_error *err);
/** Write what child holds into its parent; child is empty afterwards. */
VMC_API VMC_MUST_CHECK int vmc_disk_commit(const struct vmc_platform *pf,
                                           const struct vmc_disk_files *files, const char *child,
                                           struct vmc_error *err);
/** Throw away what child holds: the disk is as it was when the snapshot was made. */
VMC_API VMC_MUST_CHECK int vmc_disk_revert(const struct vmc_platform *pf,
                                           const struct vmc_disk_files *files, const char *child,
                                           struct vmc_error *err);
/** A full, thin copy of a chain. */
VMC_API VMC_MUST_CHECK int vmc_disk_clone(const struct vmc_platform *pf,
                                          const struct vmc_disk_files *files, const char *from,
                                          const char *to, struct vmc_error *err);

VMC_END_DECLS

#endif
