/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * VMFS volumes: format, mount, files, directories, locks shared between hosts, checking.
 *
 * A volume lives on one to 32 block devices (extents). VMFS3 and VMFS5 are read and written, VMFS6
 * is formatted and read. Every change of metadata is one journaled transaction: when a call that
 * changes names or sizes returns, the change is durable. File data are durable after
 * vmc_vmfs_fsync().
 *
 * Threads: calls on one volume may come from any thread when the platform has locks; metadata
 * operations are serialised inside, reads and writes in allocated space are not. The block devices
 * must not call back into the volume.
 *
 * Sharing: several hosts may mount one volume when the devices offer compare_write, or by a
 * slower protocol when they do not. Each mount session keeps a heartbeat slot; vmc_vmfs_beat()
 * must be called at least every beat_ms while files are open (vmc_vmfs_renew() besides, from a thread of
 * its own, where operations may take longer). A session that was not able to beat within its lease
 * answers VMC_EFENCED to everything from then on; lease_until in struct vmc_vmfs_mount_config is for
 * the moments in which it cannot even do that.
 *
 * Errors that any call on a volume may give, besides those that it names: VMC_EIO (a device failed),
 * VMC_EFORMAT (the volume is damaged; the text names structure and field), VMC_ENOMEM, VMC_EFENCED;
 * those that take a path: VMC_EINVAL (no absolute path, or a part is too long or no directory),
 * VMC_ENOENT; those that change something: VMC_EPERM (mounted to be read, or a system file), VMC_EBUSY
 * (another host holds what is to be changed), VMC_ENOSPC.
 */
#ifndef VMCORE_VMFS_H
#define VMCORE_VMFS_H

#include <vmcore/io.h>
#include <vmcore/platform.h>

VMC_BEGIN_DECLS

#define VMC_VMFS_MAX_EXTENTS 32
#define VMC_VMFS_NAME_MAX    127 /**< bytes in a file name */
#define VMC_VMFS_PATH_MAX    4096

struct vmc_vmfs;      /**< a mounted volume */
struct vmc_vmfs_file; /**< an open file */

/** 16 bytes as on disk; see vmc_vmfs_uuid_text(). */
struct vmc_vmfs_uuid {
    uint8_t b[16];
};

#define VMC_VMFS_UUID_TEXT 36 /**< bytes of the text form with its terminator */
/** "4f000001-10000001-0001-020000000001". text has VMC_VMFS_UUID_TEXT bytes. Any thread. */
VMC_API void vmc_vmfs_uuid_text(const struct vmc_vmfs_uuid *uuid, char *text);

/* ---- formatting ---------------------------------------------------------------------------- */

/** What to make. Zero members mean the usual value. */
struct vmc_vmfs_mkfs_config {
    uint32_t size;              /**< sizeof(struct vmc_vmfs_mkfs_config) */
    uint32_t version;           /**< 3, 5 or 6; 0: 5 */
    uint32_t block_bytes;       /**< VMFS3: 1, 2, 4 or 8 MiB; otherwise 1 MiB */
    uint32_t dev_count;         /**< 1 .. VMC_VMFS_MAX_EXTENTS */
    const struct vmc_blockdev *devs;
    const char *label;          /**< at most 127 bytes; NULL: none */
    uint32_t fds;               /**< number of file descriptors */
    uint32_t sub_blocks;        /**< number of sub-blocks */
    uint32_t pointer_blocks;    /**< number of pointer blocks */
    uint32_t pointer_blocks2;   /**< number in the second pointer block file (VMFS5) */
    uint32_t time_s;            /**< creation time; 0: the platform's clock */
    bool experimental;          /**< allow VMFS6, whose free-space maps are partly guessed */
    bool partition;             /**< write a GPT (VMFS3: MBR) and put the volume into partition 1 */
    struct vmc_vmfs_uuid lvm_uuid, fs_uuid, host_uuid; /**< all zero: generated */
    struct vmc_vmfs_uuid dev_uuid;                     /**< of the first extent; others derived */
};

/** Format. Everything that becomes metadata is overwritten. VMC_EINVAL, VMC_ELIMIT, VMC_EIO ... */
VMC_API VMC_MUST_CHECK int vmc_vmfs_mkfs(const struct vmc_platform *pf,
                                         const struct vmc_vmfs_mkfs_config *cfg,
                                         struct vmc_error *err);

/* ---- mounting ------------------------------------------------------------------------------ */

#define VMC_VMFS_RDONLY    0x1u /**< never write, take no locks */
#define VMC_VMFS_EXCLUSIVE 0x2u /**< the caller vouches that no other host has the devices */
#define VMC_VMFS_REPAIR    0x4u /**< mount what fsck has to repair: system directories unchecked */
/** Write to VMFS6: only to volumes that vmc_vmfs_mkfs() made. */
#define VMC_VMFS_EXPERIMENTAL 0x8u

/**
 * How the devices themselves keep a host out that was given up: requests that hung on their way
 * for longer than its lease may arrive when another host has gone on without it. The devices know
 * sessions by keys and take writes only from those that are registered (on SCSI disks: persistent
 * reservations; host_fence.h). Called with the volume's lock or the heartbeat's; must not call back
 * into the volume. All answer VMC_OK or VMC_E*.
 */
struct vmc_vmfs_fence {
    /**
     * Before the session takes its slot: register key, and let only registered sessions write.
     * VMC_EBUSY: somebody else uses the devices in a way that this would disturb.
     */
    int (*join)(void *ctx, uint64_t key, struct vmc_error *err);
    /** Before each renewal: VMC_EFENCED when key is registered no more; then the session is over. */
    int (*check)(void *ctx, uint64_t key, struct vmc_error *err);
    /**
     * A session with the key whom is given up. When this returns VMC_OK, nothing that it asked for
     * can be carried out any more. It need not be registered. VMC_EFENCED: key itself is not.
     */
    int (*evict)(void *ctx, uint64_t key, uint64_t whom, struct vmc_error *err);
    /** The session has ended and writes no more. */
    int (*leave)(void *ctx, uint64_t key, struct vmc_error *err);
    void *ctx;
};

struct vmc_vmfs_mount_config {
    uint32_t size; /**< sizeof(struct vmc_vmfs_mount_config) */
    uint32_t flags;
    const struct vmc_blockdev *devs; /**< whole disks or partitions, in any order; copied */
    uint32_t dev_count;
    struct vmc_vmfs_uuid host_uuid; /**< of this session; all zero: from the platform's entropy */
    const char *host_name;          /**< shown to other hosts, at most 45 bytes; may be NULL */
    /** 0: 16000. Hosts may differ: a session is never replaced before its own lease is over. */
    uint32_t lease_ms;
    uint32_t window_ms;             /**< extra wait before a dead host is replaced; 0: 4000 */
    uint32_t beat_ms;               /**< 0: 3000 */
    uint32_t lock_wait_ms; /**< how long to wait for a lock that a live host keeps; 0: 2000 */
    size_t cache_bytes;             /**< metadata cache; 0: 16 MiB */
    /** Sleep; NULL: the platform parks, and without that a wait is answered by VMC_EBUSY. */
    void (*sleep_ns)(void *ctx, uint64_t ns);
    void *sleep_ctx;
    /**
     * Watchdog of the lease; NULL: none. A host looks at its lease before each request to a device, but
     * it may be stopped between the look and the request, and wake up when its place has been taken.
     * Called with the lease held until end_ns of the platform's time: before the session takes its
     * slot, after each renewal (from the thread that renewed), and with UINT64_MAX when it is over.
     * Unless the next call comes before end_ns, everything that could still reach the devices has to
     * be stopped then, from outside of what may be stuck (see host_watchdog.h); other hosts wait
     * window_ms longer. An error of the first call fails the mount; later ones are logged, and the end
     * that was set before remains. Must not call back into the volume.
     */
    int (*lease_until)(void *ctx, uint64_t end_ns);
    void *lease_ctx;
    /** Copied; NULL: none. All hosts of a volume have one, or none has. */
    const struct vmc_vmfs_fence *fence;
};

/** What a device says about the volume that it is an extent of. */
struct vmc_vmfs_probe {
    struct vmc_vmfs_uuid lvm_uuid; /**< the same for all extents of a volume */
    struct vmc_vmfs_uuid dev_uuid; /**< the same on copies of a device */
    uint32_t extents;              /**< that the volume has */
};
/** Look for a volume on a disk or partition; reads only. VMC_ENOENT: there is none. Any thread. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_probe(const struct vmc_platform *pf,
                                          const struct vmc_blockdev *dev,
                                          struct vmc_vmfs_probe *out, struct vmc_error *err);

/** Mount. On failure *out is untouched. The devices are borrowed until unmount. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_mount(const struct vmc_platform *pf,
                                          const struct vmc_vmfs_mount_config *cfg,
                                          struct vmc_vmfs **out, struct vmc_error *err);
/** VMC_EBUSY while files are open. Otherwise the handle is gone even when an error is returned. */
VMC_API int vmc_vmfs_unmount(struct vmc_vmfs *v, struct vmc_error *err);
/** Forget the volume without writing anything: what a crash leaves behind. Files become invalid. */
VMC_API void vmc_vmfs_abandon(struct vmc_vmfs *v);
/**
 * Renew the lease, and look after other sessions: those that died are recovered. Waits for the
 * operation under way. VMC_EFENCED once the lease is lost.
 */
VMC_API VMC_MUST_CHECK int vmc_vmfs_beat(struct vmc_vmfs *v, struct vmc_error *err);
/**
 * Renew the lease and no more: does not wait for operations, however long they take (unless the
 * devices have no compare-and-write). Not at the same time as vmc_vmfs_unmount(). VMC_EFENCED.
 */
VMC_API VMC_MUST_CHECK int vmc_vmfs_renew(struct vmc_vmfs *v, struct vmc_error *err);
/** Flush the devices: what was written is durable. Other operations go on meanwhile. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_sync(struct vmc_vmfs *v, struct vmc_error *err);

struct vmc_vmfs_info {
    uint32_t version;      /**< 3, 5 or 6 */
    uint32_t major, minor; /**< as on disk */
    uint32_t extents;
    uint32_t created_s;
    uint32_t sub_block_bytes;
    uint64_t block_bytes;
    uint64_t total_bytes; /**< of the logical volume */
    uint64_t blocks;
    char label[128];
    struct vmc_vmfs_uuid fs_uuid, lvm_uuid, host_uuid;
    bool read_only;
    bool compare_write; /**< locks use the devices' compare-and-write */
    uint64_t partition_offset; /**< of the first extent on its device */
};
/** What the volume is. Any thread. */
VMC_API void vmc_vmfs_info(struct vmc_vmfs *v, struct vmc_vmfs_info *out);

/** One kind of resource. */
struct vmc_vmfs_usage {
    uint64_t total, free;
};
struct vmc_vmfs_space {
    struct vmc_vmfs_usage blocks, fds, sub_blocks, pointer_blocks, pointer_blocks2;
};
/** Count free resources; reads every cluster header. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_space(struct vmc_vmfs *v, struct vmc_vmfs_space *out,
                                          struct vmc_error *err);

/* ---- names --------------------------------------------------------------------------------- */

enum vmc_vmfs_type {
    VMC_VMFS_DIR = 2,
    VMC_VMFS_FILE = 3,
    VMC_VMFS_SYMLINK = 4,
    VMC_VMFS_SYSTEM = 5,
    VMC_VMFS_RDM = 6,
};

struct vmc_vmfs_stat {
    uint32_t id; /**< file descriptor address, unique on the volume */
    uint32_t type;
    uint32_t mode; /**< permission bits */
    uint32_t links;
    uint32_t uid, gid;
    uint32_t mtime_s, ctime_s, atime_s;
    uint64_t bytes;
    uint64_t block_bytes; /**< of this file */
    uint64_t blocks;      /**< allocated, in block_bytes */
    uint64_t tbz_blocks;  /**< allocated but still to be zeroed */
    uint32_t layout;      /**< zla: 1 blocks, 2 sub-blocks, 3 pointer blocks, 4304, 4305 resident */
    uint32_t generation;
    uint32_t large_blocks; /**< VMFS6: blocks of 512 MiB, counted in blocks as well */
    uint64_t lv_offset;    /**< of the file descriptor */
};

struct vmc_vmfs_dirent {
    uint32_t type, id, generation;
    char name[VMC_VMFS_NAME_MAX + 1];
};

/** Paths are absolute; symbolic links are not followed. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_stat(struct vmc_vmfs *v, const char *path,
                                         struct vmc_vmfs_stat *out, struct vmc_error *err);
/**
 * Entry number *cookie (start with 0) of a directory, "." and ".." included. Returns 1 and
 * advances *cookie, 0 at the end. Entries added or removed meanwhile may be missed or repeated.
 */
VMC_API VMC_MUST_CHECK int vmc_vmfs_readdir(struct vmc_vmfs *v, const char *path, uint64_t *cookie,
                                            struct vmc_vmfs_dirent *out, struct vmc_error *err);
/** Make a directory. VMC_EEXIST; errors as vmc_vmfs_create. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_mkdir(struct vmc_vmfs *v, const char *path, uint32_t mode,
                                          struct vmc_error *err);
/** An empty file; VMC_EEXIST. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_create(struct vmc_vmfs *v, const char *path, uint32_t mode,
                                           struct vmc_error *err);
/**
 * Make a symbolic link at path. VMC_EINVAL: target empty or too long; errors as vmc_vmfs_create.
 */
VMC_API VMC_MUST_CHECK int vmc_vmfs_symlink(struct vmc_vmfs *v, const char *target,
                                            const char *path, struct vmc_error *err);
/** A raw device mapping: a file that stands for a device of so many bytes. It has no contents. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_create_rdm(struct vmc_vmfs *v, const char *path,
                                               const char *device, uint64_t bytes,
                                               struct vmc_error *err);
/** Returns the length of the target; dst gets at most bytes - 1 of it and a terminator. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_readlink(struct vmc_vmfs *v, const char *path, char *dst,
                                             size_t bytes, struct vmc_error *err);
/** A file, link or empty directory. VMC_EBUSY when it is open here or on another host. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_remove(struct vmc_vmfs *v, const char *path,
                                           struct vmc_error *err);
#define VMC_VMFS_RENAME_NOREPLACE 1u
/**
 * Rename or move; an existing target of the same kind is replaced, unless NOREPLACE (VMC_EEXIST).
 */
VMC_API VMC_MUST_CHECK int vmc_vmfs_rename(struct vmc_vmfs *v, const char *from, const char *to,
                                           uint32_t flags, struct vmc_error *err);

#define VMC_VMFS_SET_MODE  1u
#define VMC_VMFS_SET_OWNER 2u
#define VMC_VMFS_SET_TIMES 4u
/** Set mode, uid + gid, or mtime + atime, as which says. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_setattr(struct vmc_vmfs *v, const char *path, uint32_t which,
                                            const struct vmc_vmfs_stat *st, struct vmc_error *err);

/* ---- files --------------------------------------------------------------------------------- */

#define VMC_VMFS_READ   0x1u
#define VMC_VMFS_WRITE  0x2u  /**< takes the file's lock exclusively */
#define VMC_VMFS_CREATE 0x4u  /**< make it when it does not exist */
#define VMC_VMFS_NOLOCK 0x8u  /**< read without a lock, whatever others do */
#define VMC_VMFS_MULTI  0x10u /**< multi-writer lock: space must be allocated already */

/** VMC_EBUSY: another host has it; the error text says which. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_open(struct vmc_vmfs *v, const char *path, uint32_t flags,
                                         struct vmc_vmfs_file **out, struct vmc_error *err);
/** Writes times, releases the lock. The handle is gone even when an error is returned. */
VMC_API int vmc_vmfs_close(struct vmc_vmfs_file *f, struct vmc_error *err);
/** As vmc_vmfs_stat, for an open file. Any thread. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_fstat(struct vmc_vmfs_file *f, struct vmc_vmfs_stat *out,
                                          struct vmc_error *err);
/** Bytes read (fewer only at the end of the file) or VMC_E*. Any thread. */
VMC_API VMC_MUST_CHECK int64_t vmc_vmfs_pread(struct vmc_vmfs_file *f, void *dst, size_t bytes,
                                              uint64_t offset, struct vmc_error *err);
/** Bytes written (all of them) or VMC_E*. Grows the file as needed. Any thread. */
VMC_API VMC_MUST_CHECK int64_t vmc_vmfs_pwrite(struct vmc_vmfs_file *f, const void *src,
                                               size_t bytes, uint64_t offset,
                                               struct vmc_error *err);
/** Set the length; a longer file gets a hole. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_truncate(struct vmc_vmfs_file *f, uint64_t bytes,
                                             struct vmc_error *err);

enum vmc_vmfs_alloc {
    VMC_VMFS_ALLOC_LAZY = 1, /**< zeroed thick: blocks are zeroed at their first write */
    VMC_VMFS_ALLOC_RAW,      /**< thick: not zeroed; contents undefined */
    VMC_VMFS_ALLOC_EAGER,    /**< eager-zeroed thick */
};
/** Give every hole between offset and offset + bytes a block; extends the file if needed. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_allocate(struct vmc_vmfs_file *f, uint64_t offset,
                                             uint64_t bytes, uint32_t how, struct vmc_error *err);
/** Release the whole blocks inside the range and zero the rest of it. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_punch(struct vmc_vmfs_file *f, uint64_t offset, uint64_t bytes,
                                          struct vmc_error *err);
/** Everything written so far is durable. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_fsync(struct vmc_vmfs_file *f, struct vmc_error *err);

/** A piece of a file's map. */
struct vmc_vmfs_extent {
    uint64_t offset, bytes;
    uint64_t lv_offset; /**< on the logical volume; meaningless unless has_data */
    bool allocated;     /**< has blocks */
    bool has_data;      /**< they may hold something else than zeros */
};
/** The piece that contains offset, joined with what continues it. VMC_ENOENT at or past the end. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_extent(struct vmc_vmfs_file *f, uint64_t offset,
                                           struct vmc_vmfs_extent *out, struct vmc_error *err);
/**
 * The file as a block device of its present length (rounded down to whole sectors). An I/O in
 * allocated space is one lookup and one request to the extent's device. Valid while f is open.
 */
VMC_API VMC_MUST_CHECK int vmc_vmfs_file_blockdev(struct vmc_vmfs_file *f,
                                                  struct vmc_blockdev *out, struct vmc_error *err);

/* ---- locks --------------------------------------------------------------------------------- */

struct vmc_vmfs_lock {
    uint32_t mode; /**< 0 free, 1 exclusive, 2 read-only, 3 multi-writer */
    uint32_t holders;
    uint64_t token;
    struct vmc_vmfs_uuid owner;
    uint64_t heartbeat; /**< LV offset of the holder's slot */
    uint64_t heartbeat_generation;
    char host_name[46]; /**< as the holder's slot says */
};
/** Who has a file's lock. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_lock_query(struct vmc_vmfs *v, const char *path,
                                               struct vmc_vmfs_lock *out, struct vmc_error *err);

struct vmc_vmfs_heartbeat {
    uint32_t slot;
    bool in_use;
    bool ours;    /**< of a vmcore host (has our journal) */
    bool self;    /**< this session */
    bool bakery;  /**< ours, and locks without compare-and-write */
    bool fenced;  /**< ours, and registered with the devices (struct vmc_vmfs_fence) */
    uint64_t generation, stamp_us;
    struct vmc_vmfs_uuid owner;
    char host_name[46];
};
/** Slots that are or were used, from *cookie on. Returns 1 and advances *cookie, 0 at the end. */
VMC_API VMC_MUST_CHECK int vmc_vmfs_heartbeats(struct vmc_vmfs *v, uint32_t *cookie,
                                               struct vmc_vmfs_heartbeat *out,
                                               struct vmc_error *err);

/* ---- checking ------------------------------------------------------------------------------ */

struct vmc_vmfs_fsck_config {
    uint32_t size;
    bool repair;
    /** Told of every finding; repaired: it has been put right. May be NULL. */
    void (*report)(void *ctx, const char *text, bool repaired);
    void *ctx;
};
struct vmc_vmfs_fsck_result {
    uint64_t errors, repaired;
    uint64_t files, directories;
    uint64_t blocks_used, blocks_lost;
    uint64_t stale_locks; /**< left by sessions that are over; harmless, not counted as errors */
};
/**
 * Check a volume and, on request, repair it: v is mounted read-only for a check, read-write with
 * VMC_VMFS_REPAIR for a repair; no other host may be alive and no file open.
 */
VMC_API VMC_MUST_CHECK int vmc_vmfs_fsck(struct vmc_vmfs *v, const struct vmc_vmfs_fsck_config *cfg,
                                         struct vmc_vmfs_fsck_result *out, struct vmc_error *err);

VMC_END_DECLS

#endif
