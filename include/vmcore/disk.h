/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * VM disks as VMware keeps them: a text descriptor, a flat extent, and redo logs over it (sparse
 * extents of the formats "COWD" and "SE-sparse") that form a chain. A disk is presented as a
 * vmc_blockdev.
 *
 * The files come from the embedder (struct vmc_disk_files), for example from a VMFS volume
 * (vmc_disk_vmfs_files()) or from a folder of the host (vmc_host_folder_files(), in vmcore_host).
 * Calls on one disk may come from any thread when the platform has locks.
 */
#ifndef VMCORE_DISK_H
#define VMCORE_DISK_H

#include <vmcore/io.h>
#include <vmcore/platform.h>

VMC_BEGIN_DECLS

struct vmc_disk;
struct vmc_vmfs;

#define VMC_DISK_NAME_MAX  255 /**< bytes in the name of a disk's file */
#define VMC_DISK_DEPTH_MAX 32  /**< files in a chain */

enum vmc_disk_kind {
    VMC_DISK_THIN = 1, /**< space is taken as it is written; discard gives it back */
    VMC_DISK_LAZY,     /**< zeroed thick */
    VMC_DISK_EAGER,    /**< eager-zeroed thick */
};

/** How a file of a chain keeps its contents. */
enum vmc_disk_format {
    VMC_DISK_FLAT = 1,
    VMC_DISK_COWD,     /**< redo log, at most 2 TiB; discard is ignored */
    VMC_DISK_SESPARSE, /**< redo log of 4 KiB grains; discard makes zeros */
    VMC_DISK_RDM,      /**< raw device mapping, virtual */
    VMC_DISK_RDM_PHYSICAL,
    VMC_DISK_PACKED, /**< compressed, read only; the bottom of what vmc_disk_compress() makes */
};

/** What a file is opened for. */
enum vmc_disk_open {
    VMC_DISK_PEEK,  /**< to read a descriptor, whoever has it: takes no lock */
    VMC_DISK_READ,  /**< together with other readers */
    VMC_DISK_WRITE, /**< alone */
};

/** The files a disk is made of; names are relative to the descriptor's folder. */
struct vmc_disk_files_ops {
    /** Open; how: enum vmc_disk_open. VMC_ENOENT, VMC_EBUSY (the text says who) ... */
    int (*open)(void *ctx, const char *name, uint32_t how, void **file, struct vmc_error *err);
    /** A new, empty file, open for writing. VMC_EEXIST. */
    int (*create)(void *ctx, const char *name, void **file, struct vmc_error *err);
    int (*close)(void *ctx, void *file);
    int (*remove)(void *ctx, const char *name, struct vmc_error *err);
    /** Rename; a file of the name to is replaced in one step. */
    int (*rename)(void *ctx, const char *from, const char *to, struct vmc_error *err);
    /** Name number *cookie (start with 0) of the folder: 1 and *cookie advanced, 0 at the end. */
    int (*list)(void *ctx, uint64_t *cookie, char *name, size_t bytes, struct vmc_error *err);
    int (*size)(void *ctx, void *file, uint64_t *bytes);
    /** Exactly bytes, or VMC_E*. */
    int (*read)(void *ctx, void *file, void *dst, size_t bytes, uint64_t offset);
    int (*write)(void *ctx, void *file, const void *src, size_t bytes, uint64_t offset);
    int (*resize)(void *ctx, void *file, uint64_t bytes);
    /** Give a range of a file the space that kind (enum vmc_disk_kind) calls for. */
    int (*allocate)(void *ctx, void *file, uint64_t offset, uint64_t bytes, uint32_t kind);
    int (*flush)(void *ctx, void *file);
    /** The open file as a device: the path of I/O in flat extents. May be NULL. */
    int (*blockdev)(void *ctx, void *file, struct vmc_blockdev *out);
    /** The next range at or after offset that may hold data; *bytes 0: none. May be NULL. */
    int (*next_data)(void *ctx, void *file, uint64_t *offset, uint64_t *bytes);
    /** A raw device by the name that its mapping has. May be NULL: no raw device mappings. */
    int (*raw_open)(void *ctx, const char *device, bool write, void **raw, struct vmc_blockdev *out,
                    struct vmc_error *err);
    void (*raw_close)(void *ctx, void *raw);
    /** A mapping file for a device of so many bytes. May be NULL: none can be made. */
    int (*raw_map)(void *ctx, const char *name, const char *device, uint64_t bytes,
                   struct vmc_error *err);
};
struct vmc_disk_files {
    const struct vmc_disk_files_ops *ops;
    void *ctx;
};

/** Told from time to time how far a long operation is. NULL is allowed where it is passed. */
struct vmc_disk_progress {
    void (*report)(void *ctx, uint64_t done, uint64_t total); /**< in bytes */
    void *ctx;
};

/** Make NAME.vmdk and NAME-flat.vmdk; name ends in ".vmdk". bytes: a multiple of 512. */
VMC_API VMC_MUST_CHECK int vmc_disk_create(const struct vmc_platform *pf,
                                           const struct vmc_disk_files *files, const char *name,
                                           uint64_t bytes, uint32_t kind, struct vmc_error *err);
/** Make NAME.vmdk and the mapping NAME-rdm.vmdk (or -rdmp) of a raw device. */
VMC_API VMC_MUST_CHECK int vmc_disk_map_raw(const struct vmc_platform *pf,
                                            const struct vmc_disk_files *files, const char *name,
                                            const char *device, bool physical,
                                            struct vmc_error *err);

/**
 * Open a disk and its parents. Only the top of the chain is written; a disk that has a snapshot in
 * the same folder is not opened for writing (VMC_EBUSY). The content id changes when it is.
 */
VMC_API VMC_MUST_CHECK int vmc_disk_open(const struct vmc_platform *pf,
                                         const struct vmc_disk_files *files, const char *name,
                                         bool write, struct vmc_disk **out, struct vmc_error *err);
/**
 * Open a disk to ask about it only, whoever else has it: takes no lock, and its device answers nothing
 * but its size. The files may be changing: their lengths are those of the moment.
 */
VMC_API VMC_MUST_CHECK int vmc_disk_peek(const struct vmc_platform *pf,
                                         const struct vmc_disk_files *files, const char *name,
                                         struct vmc_disk **out, struct vmc_error *err);
/** Makes everything durable. The handle is gone even when an error is returned. */
VMC_API int vmc_disk_close(struct vmc_disk *d);
/** Valid until close. */
VMC_API struct vmc_blockdev vmc_disk_blockdev(struct vmc_disk *d);
/** How many files the chain has; 1: no snapshot. */
VMC_API uint32_t vmc_disk_depth(const struct vmc_disk *d);

/** One file of a chain. */
struct vmc_disk_layer {
    uint32_t format; /**< enum vmc_disk_format */
    bool thin;
    uint32_t cid, parent_cid;
    uint64_t file_bytes; /**< length of the extent's file */
    char name[VMC_DISK_NAME_MAX + 1];
    char extent[VMC_DISK_NAME_MAX + 1];
    char device[VMC_DISK_NAME_MAX + 1]; /**< of raw device mappings */
};
/** Layer 0 is the top. VMC_ENOENT past the last. */
VMC_API VMC_MUST_CHECK int vmc_disk_layer(const struct vmc_disk *d, uint32_t layer,
                                          struct vmc_disk_layer *out);

/** The next range at or after *offset that may hold something else than zeros; *bytes 0: none. */
VMC_API VMC_MUST_CHECK int vmc_disk_next_data(struct vmc_disk *d, uint64_t *offset,
                                              uint64_t *bytes);

/**
 * A new top of the chain, child.vmdk over parent.vmdk. format: VMC_DISK_COWD, VMC_DISK_SESPARSE,
 * or 0 for the first where it suffices. VMC_EBUSY: the parent is in use.
 */
VMC_API VMC_MUST_CHECK int vmc_disk_snapshot(const struct vmc_platform *pf,
                                             const struct vmc_disk_files *files, const char *parent,
                                             const char *child, uint32_t format,
                                             struct vmc_error *err);
/**
 * Write what child holds into its parent; child is empty afterwards. Interrupted anywhere, the
 * disk as child shows it is unchanged. VMC_EBUSY: the parent has other children.
 */
VMC_API VMC_MUST_CHECK int vmc_disk_commit(const struct vmc_platform *pf,
                                           const struct vmc_disk_files *files, const char *child,
                                           const struct vmc_disk_progress *progress,
                                           struct vmc_error *err);
/** Throw away what child holds: the disk is as it was when the snapshot was made. */
VMC_API VMC_MUST_CHECK int vmc_disk_revert(const struct vmc_platform *pf,
                                           const struct vmc_disk_files *files, const char *child,
                                           struct vmc_error *err);
/**
 * Compress a flat disk, or one that is compressed already, in place: NAME.vmdk becomes a redo log over
 * NAME-cold.vmdk. Reads decompress; what is written stays plain until the next compression. The disk
 * must not be in use and have no snapshots. Interrupted anywhere, the disk holds what it held.
 */
VMC_API VMC_MUST_CHECK int vmc_disk_compress(const struct vmc_platform *pf,
                                             const struct vmc_disk_files *files, const char *name,
                                             const struct vmc_disk_progress *progress,
                                             struct vmc_error *err);
/** Make a compressed disk a flat, thin one again. VMC_EINVAL when it is not compressed. */
VMC_API VMC_MUST_CHECK int vmc_disk_expand(const struct vmc_platform *pf,
                                           const struct vmc_disk_files *files, const char *name,
                                           const struct vmc_disk_progress *progress,
                                           struct vmc_error *err);
/**
 * Look at every table of redo logs and every grain of packed extents. *bad: how many are damaged (each
 * is logged as a warning).
 */
VMC_API VMC_MUST_CHECK int vmc_disk_check(struct vmc_disk *d, uint64_t *bad,
                                          const struct vmc_disk_progress *progress);
/** A full copy of a chain, of the given kind; to may lie among other files. */
VMC_API VMC_MUST_CHECK int vmc_disk_clone(const struct vmc_platform *pf,
                                          const struct vmc_disk_files *from_files, const char *from,
                                          const struct vmc_disk_files *to_files, const char *to,
                                          uint32_t kind, const struct vmc_disk_progress *progress,
                                          struct vmc_error *err);
/** Make a flat disk without snapshots larger. New space of thick disks is zeroed thick. */
VMC_API VMC_MUST_CHECK int vmc_disk_grow(const struct vmc_platform *pf,
                                         const struct vmc_disk_files *files, const char *name,
                                         uint64_t bytes, struct vmc_error *err);
/** Remove a disk's two files. VMC_EBUSY: it has a snapshot, or is in use. */
VMC_API VMC_MUST_CHECK int vmc_disk_remove(const struct vmc_platform *pf,
                                           const struct vmc_disk_files *files, const char *name,
                                           struct vmc_error *err);

/** Files in a folder of a mounted volume. The caller owns it; it outlives what uses it. */
struct vmc_disk_vmfs {
    struct vmc_vmfs *volume;
    const char *folder; /**< absolute */
    /** Raw devices, see vmc_disk_files_ops; raw_ctx is passed. All may be NULL. */
    int (*raw_open)(void *raw_ctx, const char *device, bool write, void **raw,
                    struct vmc_blockdev *out, struct vmc_error *err);
    void (*raw_close)(void *raw_ctx, void *raw);
    void *raw_ctx;
};
/** The operations for files in that folder; *folder is borrowed as long as they are used. */
VMC_API struct vmc_disk_files vmc_disk_vmfs_files(struct vmc_disk_vmfs *folder);

VMC_END_DECLS

#endif
