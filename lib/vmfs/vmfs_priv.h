/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of lib/vmfs share. docs/vmfs.md explains how the parts work together. */
#ifndef VMFS_PRIV_H
#define VMFS_PRIV_H

#include <vmcore/vmfs.h>
#include "vmfs/vmfs_format.h"

#define FS_PAGE         4096u
#define FS_PAGE_SECTORS 8u
#define FS_MAX_SEGS     1024u
#define FS_HB_SLOTS     2048u
#define FS_LEAF_BLOCKS  1024u /* file blocks that one word of the map covers */
#define FS_TXN_SECTORS  960u  /* dirty sectors in one transaction */
#define FS_TXN_LOCKS    400u
#define FS_TXN_REVOKES  2048u
#define FS_TXN_DISCARDS 256u
#define FS_TXN_INODES   8u
#define FS_JOURNAL_BYTES 0x100000u /* in a file block */
#define FS_RESERVED_BYTES 0x10000u /* in the reserved area */
#define FS_RECORD_MAX    0x80000u
#define FS_ZERO_BYTES   0x10000u

/* ---- devices and the logical volume ---------------------------------------------------------- */

struct fs_dev {
    struct vmc_blockdev bd;
    struct vmc_block_info info;
    uint64_t part_off, part_bytes;
    uint64_t lv_bytes; /* what of the volume is here, by the linear rule */
    struct vmc_vmfs_uuid uuid;
    uint32_t md_align;
    uint32_t lvm_major;
};

/* A piece of the logical volume that is contiguous on a device. Sorted by lv. */
struct fs_seg {
    uint64_t lv, bytes;
    uint64_t dev_off; /* on the device, partition included */
    uint32_t dev;
};

/* ---- metadata cache --------------------------------------------------------------------------- */

/*
 * 4 KiB of the logical volume, valid and dirty per sector. A sector of a lock that is valid holds
 * the last known image of that lock; the other sectors of its object are then no newer and no
 * older than that image (see vmfs_lock.c).
 */
struct fs_page {
    struct vmci_list lru;
    struct fs_page *hnext;
    struct fs_page *dirty_next;
    uint64_t lv;
    uint64_t epoch; /* of the file that owns the page; 0: not a file's contents */
    uint32_t pins;
    uint8_t valid, dirty;
    bool on_dirty;
    uint64_t owner[FS_PAGE_SECTORS]; /* LV of the lock that covers a dirty sector */
    uint8_t *data;
};

struct fs_cache {
    struct fs_page **hash;
    uint32_t hash_size;
    uint32_t pages, max_pages;
    struct vmci_list lru;
};

/* ---- files ------------------------------------------------------------------------------------- */

/*
 * Map words (one covers FS_LEAF_BLOCKS blocks): 0 not loaded; odd: all mapped, contiguous from
 * block word >> 1; else a pointer to FS_LEAF_BLOCKS entries.
 * Entries: state in bits 0..1, block number in bits 2..31.
 */
#define MAP_HOLE   0u
#define MAP_BLOCK  1u
#define MAP_TBZ    2u
#define MAP_OTHER  3u /* not in file blocks: take the slow path */

struct fs_map {
    uint64_t words;
    _Alignas(16) uintptr_t w[];
};

struct fs_io_slot;
struct fs_io_slots;
struct fs_dir_index;

struct fs_inode {
    struct fs_inode *hnext;
    struct vmci_list lru;
    struct vmc_vmfs *v;
    uint32_t addr;
    uint32_t refs;
    uint64_t lv; /* of the lock sector */
    uint64_t epoch; /* changes when cached contents of the file became worthless */
    struct fs_page *page; /* pinned; holds the metadata */
    uint8_t *md;
    bool loaded;
    bool mapping; /* of a raw device: its length is not that of anything here */

    /* the lock as this host holds it while the file is open */
    uint32_t held; /* enum fs_lock_mode */
    uint32_t opens;
    uint32_t writers;
    bool times_dirty;
    bool full; /* a write found no space, that was said, and it got none since */

    /* for I/O without the volume's lock */
    uint64_t length;    /* (a) */
    uint32_t shift;     /* log2 of the block size of mapped blocks; 0: slow path only */
    struct fs_map *map; /* (a) */
    struct fs_io_slots *ios;

    struct fs_dir_index *index;
};

struct vmc_vmfs_file {
    struct vmc_vmfs *v;
    struct fs_inode *ino;
    uint32_t flags;
    struct vmci_list link;
};

/* ---- resources --------------------------------------------------------------------------------- */

struct fs_res {
    const char *name;
    struct fs_inode *ino;
    uint32_t lock_type;
    uint32_t addr_type;
    uint32_t rpc, cpg, rs;
    uint64_t gs;
    uint64_t n;
    uint32_t clusters;
    uint32_t start;   /* where this host begins to look */
    uint32_t next;    /* where it found room last */
    uint16_t *free;   /* per cluster; FS_FREE_UNKNOWN until read */
    uint32_t bits; /* of a resource in the map */
    bool six;      /* headers as VMFS6 has them */
    /* VMFS6: of small file blocks only */
    bool child;
    uint32_t parent_rpc, parent_cpg;
    uint64_t parent_gs;
};
#define FS_FREE_UNKNOWN 0xFFFFu

/* ---- transactions ------------------------------------------------------------------------------ */

struct fs_txn_lock {
    uint64_t lv;
    uint32_t restore; /* mode the lock goes back to */
};
struct fs_range {
    uint64_t lv, bytes;
};

struct fs_txn {
    bool active;
    bool ordered; /* data were written that must be durable before the commit */
    uint32_t locks, revokes, inodes;
    uint32_t sectors; /* dirty */
    bool bare;        /* one sector, journal not needed: how the journal itself comes to be */
    struct fs_page *dirty;
    struct fs_txn_lock lock[FS_TXN_LOCKS];
    struct fs_range revoke[FS_TXN_REVOKES];
    uint32_t discards;
    struct fs_range discard[FS_TXN_DISCARDS];
    struct fs_inode *inode[FS_TXN_INODES];
};

struct fs_journal {
    uint64_t lv; /* 0: none */
    uint64_t bytes;
    uint32_t fb;      /* file block it lives in; 0: the reserved area of the slot */
    uint32_t max;     /* bytes of the largest record */
    uint32_t last_at, last_bytes; /* where the newest record is */
    uint32_t head; /* byte offset of the next record */
    uint64_t seq;  /* of the next record */
    uint64_t tail; /* oldest record that may have to be replayed */
    uint8_t *buf;
    /*
     * Objects of the newest record and of the one before it: a crash before the flush that made
     * the newest durable may need both.
     */
    struct fs_locked {
        uint32_t n;
        uint64_t lv[FS_TXN_LOCKS];
    } locked[2];
    uint32_t newest; /* index of the newest one's */
};

/* What this host has seen of another host's heartbeat. */
struct fs_observation {
    uint64_t stamp, generation;
    uint64_t since_ns;
    bool seen; /* ever looked */
};

struct fs_session {
    uint32_t slot;
    uint64_t hb_lv, generation;
    uint64_t beat_ns; /* start of the last successful beat */
    uint64_t beat_tsc; /* the same by the TSC, where the platform says its frequency */
    uint8_t image[FS_SECTOR]; /* the slot as we wrote it last */
    uint64_t stamp;
    uint32_t look; /* where the next look at the others begins */
    uint64_t key;  /* with which the devices know the session; 0: they do not */
    bool active, fenced;
};

/* ---- the volume -------------------------------------------------------------------------------- */

struct fs_geometry {
    uint32_t version; /* 3, 5, 6 */
    uint32_t major, minor;
    uint32_t md_align;
    uint32_t fd_bytes, fd_md;      /* file descriptor; metadata in it */
    uint32_t fd_ptrs, fd_resident; /* offsets from the metadata */
    uint32_t resident_max;
    uint32_t nptr, ptr_bytes;
    uint32_t pb_bytes, pb_ptrs;
    uint32_t ch_bytes, ch_md; /* cluster header */
    uint32_t hb_slots, hb_bytes;
    uint64_t fb_bytes;
    uint32_t fb_shift;
    uint32_t sb_bytes;
    uint64_t fdc_base, fd0_lv;
    uint64_t lv_bytes, blocks;
    uint32_t lfb_shift; /* VMFS6: log2 of the bytes of a large block */
    bool dense;
};

struct vmc_vmfs {
    const struct vmc_platform *pf;
    uint32_t flags;
    bool ro, exclusive, caw;
    bool marked; /* VMFS6: what the maps say is ours */
    struct vmci_lock lock;

    bool unlocked; /* I/O without locked instructions: the devices are synchronous, see vmfs_io.c */
    uint32_t (*self)(void *ctx); /* the thread's number; NULL: there is one thread */
    uint32_t ndevs;
    struct fs_dev dev[VMC_VMFS_MAX_EXTENTS];
    uint32_t nsegs;
    struct fs_seg *seg;

    struct fs_geometry g;
    uint8_t desc[FS_SECTOR];
    struct vmc_vmfs_uuid fs_uuid, lvm_uuid, host_uuid;
    char host_name[HB_NAME_BYTES];

    struct fs_cache cache;
    uint64_t epochs;
    struct fs_inode **ihash;
    uint32_t inodes;
    struct vmci_list ilru; /* inodes without references, oldest first */
    struct vmci_list files;

    struct fs_res fbb, fdc, pbc, sbc, pb2, lfb;
    uint32_t nested; /* system files on the way to a block: see vmfs_res.c */
    struct fs_inode *sys[9];
    struct fs_inode *root;

    struct fs_txn txn;
    struct fs_journal j;
    struct fs_session s;
    struct fs_observation *obs;
    uint64_t *gen_at_mount; /* sessions of a slot before this one ended before our first flush */
    uint8_t *unsure;        /* slot in use at our mount by a session that nobody has seen alive */
    struct vmci_lock beat_lock; /* inside lock: over renewals of the lease */
    uint32_t lease_ms, window_ms, beat_ms, lock_wait_ms;
    int (*lease_until)(void *ctx, uint64_t end_ns);
    void *lease_ctx;
    bool fencing; /* fence is there */
    struct vmc_vmfs_fence fence;
    bool no_sb;        /* no sub-block was free: small contents get whole file blocks */
    uint64_t no_sb_ns; /* when that was found: other hosts free some, too */
    bool no_sb_new;    /* that was found just now: the operation begins again */
    bool sb_freed;     /* by the operation: there are some again if it succeeds */
    bool lock_moved;   /* the lock that was waited for went from host to host */
    uint64_t busy_lv, busy_token; /* the lock that was last found busy */
    uint64_t wait_end; /* of the running operation, however much moves */
    void (*sleep_ns)(void *ctx, uint64_t ns);
    void *sleep_ctx;

    uint64_t tsc_per_ms;
    uint8_t *zeros; /* FS_ZERO_BYTES */
    uint64_t stat_commits;
    char problem[160]; /* what a read-only mount overlooked first; the checker reports it */
    uint32_t overlooked;
};

#define SITE(step) ("vmfs/" step)

/* vmfs_mount.c: a read-only mount goes on in spite of this. */
void vmci_fs_overlook(struct vmc_vmfs *v, const struct vmc_error *why);
/* What keeps a volume from being written to, but not from being read: why's code, or VMC_OK. */
int vmci_fs_doubt(struct vmc_vmfs *v, const struct vmc_error *why, struct vmc_error *err);

/* vmfs_bio.c: synchronous I/O. buf is sector aligned in length and offset. */
int vmci_fs_dev_io(const struct vmc_platform *pf, const struct vmc_blockdev *bd, uint32_t op,
                   uint64_t off, void *buf, uint64_t bytes, struct vmc_error *err);
int vmci_fs_read(struct vmc_vmfs *v, uint64_t lv, void *buf, uint64_t bytes, struct vmc_error *err);
/* Both look at the lease just before the device gets the request. */
int vmci_fs_write(struct vmc_vmfs *v, uint64_t lv, const void *buf, uint64_t bytes,
                  struct vmc_error *err);
int vmci_fs_zero(struct vmc_vmfs *v, uint64_t lv, uint64_t bytes, struct vmc_error *err);
/* For what a heartbeat is made of, which may be late. */
int vmci_fs_write_unleased(struct vmc_vmfs *v, uint64_t lv, const void *buf, uint64_t bytes,
                           struct vmc_error *err);
int vmci_fs_flush(struct vmc_vmfs *v, struct vmc_error *err);
/* What the devices hold is no longer known: the session is over, its journal is to be replayed. */
void vmci_fs_give_up(struct vmc_vmfs *v, const char *what, int why);
/* Compare and write without help, where no other host writes meanwhile; VMC_EAGAIN as below. */
int vmci_fs_caw_owned(struct vmc_vmfs *v, uint64_t lv, const uint8_t *expect, const uint8_t *data,
                      struct vmc_error *err);
/* VMC_EAGAIN: the sector is not expect. The second one: it is not data either; for what only this
 * session can write. */
int vmci_fs_caw_once(struct vmc_vmfs *v, uint64_t lv, const uint8_t *expect, const uint8_t *data,
                     struct vmc_error *err);
int vmci_fs_caw(struct vmc_vmfs *v, uint64_t lv, const uint8_t *expect, const uint8_t *data,
                struct vmc_error *err);
const struct fs_seg *vmci_fs_seg(const struct vmc_vmfs *v, uint64_t lv);
/* False: nobody can sleep here. */
bool vmci_fs_sleep(struct vmc_vmfs *v, uint64_t ns);
uint64_t vmci_fs_now(const struct vmc_vmfs *v);
uint32_t vmci_fs_wall(const struct vmc_vmfs *v);

/* vmfs_part.c */
/* Where one may have been whose table is gone: by its copy at the end, by where hosts make it. */
bool vmci_fs_guess_partition(const struct vmc_platform *pf, const struct vmc_blockdev *bd,
                             const struct vmc_block_info *info, uint64_t *off, uint64_t *bytes);
int vmci_fs_find_partition(const struct vmc_platform *pf, const struct vmc_blockdev *bd,
                           const struct vmc_block_info *info, uint64_t *off, uint64_t *bytes,
                           struct vmc_error *err);
/* Where partition 1 of a new table is; then the table. */
int vmci_fs_plan_partition(const struct vmc_block_info *info, bool gpt, uint64_t *off,
                           uint64_t *bytes, struct vmc_error *err);
int vmci_fs_write_partition(const struct vmc_platform *pf, const struct vmc_blockdev *bd,
                            const struct vmc_block_info *info, bool gpt,
                            const struct vmc_vmfs_uuid *seed, uint64_t off, uint64_t bytes,
                            struct vmc_error *err);

/* vmfs_lvm.c */
int vmci_fs_lvm_open(struct vmc_vmfs *v, const struct vmc_vmfs_mount_config *cfg,
                     struct vmc_error *err);

/* vmfs_cache.c */
int vmci_fs_cache_init(struct vmc_vmfs *v, size_t bytes);
void vmci_fs_cache_fini(struct vmc_vmfs *v);
/* The page of lv; nothing of it need be valid. */
int vmci_fs_page(struct vmc_vmfs *v, uint64_t lv, struct fs_page **out, struct vmc_error *err);
/* The same with the sectors of lv .. lv + bytes (inside the page) valid. */
int vmci_fs_page_read(struct vmc_vmfs *v, uint64_t lv, uint32_t bytes, uint64_t epoch,
                      struct fs_page **out, struct vmc_error *err);
/* The same with the sectors zero and valid: a new block. */
int vmci_fs_page_new(struct vmc_vmfs *v, uint64_t lv, uint32_t bytes, uint64_t epoch,
                     struct fs_page **out, struct vmc_error *err);
void vmci_fs_page_drop(struct vmc_vmfs *v, uint64_t lv, uint64_t bytes);
void vmci_fs_cache_trim(struct vmc_vmfs *v);
static inline uint8_t *vmci_fs_at(struct fs_page *p, uint64_t lv)
{
    return p->data + (lv & (FS_PAGE - 1));
}
static inline uint32_t vmci_fs_sector_mask(uint64_t lv, uint32_t bytes)
{
    uint32_t first = (uint32_t)(lv & (FS_PAGE - 1)) / FS_SECTOR;
    uint32_t last = ((uint32_t)(lv & (FS_PAGE - 1)) + bytes - 1) / FS_SECTOR;
    return (0xFFu >> (7 - (last - first))) << first;
}

/* vmfs_addr.c */
struct fs_addr {
    uint32_t type;
    bool tbz, cow;
    uint64_t block; /* file blocks: number; large ones: their own */
    uint64_t cluster;
    uint32_t item;
};
struct fs_addr vmci_fs_addr_decode(const struct fs_geometry *g, uint64_t raw);
/* Small file blocks in one cluster of VMFS6. */
uint32_t vmci_fs_sfb_per_cluster(const struct fs_geometry *g);
/* The bits that say of a file block: to be zeroed. */
static inline uint64_t vmci_fs_tbz_bits(const struct fs_geometry *g)
{
    return g->version == 6 ? AD6_TBZ : AD_TBZ;
}
uint64_t vmci_fs_addr_encode(const struct fs_geometry *g, uint32_t type, uint64_t cluster_or_block,
                             uint32_t item);
/* LV offset and length of what an address names; checks ranges. */
int vmci_fs_addr_lv(struct vmc_vmfs *v, uint64_t raw, uint64_t *lv, uint64_t *bytes,
                    struct vmc_error *err);

/* vmfs_res.c */
int vmci_fs_res_open(struct vmc_vmfs *v, struct fs_res *r, struct fs_inode *ino, uint32_t lock_type,
                     uint32_t addr_type, uint32_t header_off, struct vmc_error *err);
void vmci_fs_res_close(struct vmc_vmfs *v, struct fs_res *r);
int vmci_fs_res_cluster_lv(struct vmc_vmfs *v, struct fs_res *r, uint64_t cluster, uint64_t *lv,
                           struct vmc_error *err);
int vmci_fs_res_item_lv(struct vmc_vmfs *v, struct fs_res *r, uint64_t cluster, uint32_t item,
                        uint64_t *lv, struct vmc_error *err);
/*
 * From byte in of a resource on, as far as it is in one piece: where a host made its sub-block file of
 * file blocks that are no neighbours, a sub-block of VMFS3 can be in two.
 */
int vmci_fs_res_item_piece(struct vmc_vmfs *v, struct fs_res *r, uint64_t cluster, uint32_t item,
                           uint32_t in, uint64_t *lv, uint64_t *bytes, struct vmc_error *err);
/* Cluster header with its contents valid; checked. md points at the part after the lock. */
int vmci_fs_res_cluster(struct vmc_vmfs *v, struct fs_res *r, uint64_t cluster, uint64_t *lv,
                        uint8_t **md, struct fs_page **page, struct vmc_error *err);
uint32_t vmci_fs_res_total(const struct fs_res *r, uint64_t cluster);
int vmci_fs_res_space(struct vmc_vmfs *v, struct fs_res *r, struct vmc_vmfs_usage *out,
                      struct vmc_error *err);
/* Forget the free counts kept in memory. */
void vmci_fs_res_forget(struct vmc_vmfs *v);
/* One resource (pointer block, sub-block, file descriptor). */
int vmci_fs_res_alloc(struct vmc_vmfs *v, struct fs_res *r, uint64_t *cluster, uint32_t *item,
                      struct vmc_error *err);
int vmci_fs_res_free(struct vmc_vmfs *v, struct fs_res *r, uint64_t cluster, uint32_t item,
                     uint32_t count, struct vmc_error *err);
/* Up to want contiguous file blocks, preferably at goal. */
int vmci_fs_fb_alloc(struct vmc_vmfs *v, uint64_t goal, uint32_t want, uint64_t *first,
                     uint32_t *got, struct vmc_error *err);
int vmci_fs_fb_free(struct vmc_vmfs *v, uint64_t first, uint32_t count, struct vmc_error *err);
struct fs_res *vmci_fs_res_of(struct vmc_vmfs *v, uint32_t addr_type);

/* vmfs_clmap.c: the part of a cluster's header after the lock */
uint32_t vmci_fs_cl_value(const struct fs_res *r, const uint8_t *md, uint32_t i);
void vmci_fs_cl_put(const struct fs_res *r, uint8_t *md, uint32_t i, uint32_t value);
bool vmci_fs_cl_is_free(const struct fs_res *r, const uint8_t *md, uint32_t i);
/* The first free one from from on; total: none. */
uint32_t vmci_fs_cl_first(const struct fs_res *r, const uint8_t *md, uint32_t from, uint32_t total);
uint32_t vmci_fs_cl_free(const struct fs_res *r, const uint8_t *md);
void vmci_fs_cl_counts(const struct fs_res *r, uint8_t *md, uint32_t free, uint32_t next);
/* Map, free count and hint. */
void vmci_fs_cl_mark(const struct fs_res *r, uint8_t *md, uint32_t first, uint32_t n,
                     uint32_t total, bool free);
/* A fresh header of VMFS6, everything free or used. */
void vmci_fs_cl_init6(const struct fs_res *r, uint8_t *md, uint64_t number, uint32_t total,
                      bool free);
/* What is wrong with a header; NULL: nothing. */
const char *vmci_fs_cl_fault(const struct fs_res *r, const uint8_t *md, uint64_t number,
                             uint32_t total);

/* vmfs_lfb.c: large file blocks of VMFS6 */
int vmci_fs_lfb_state(struct vmc_vmfs *v, uint64_t n, uint32_t *state, struct vmc_error *err);
/* Divide a free one into small blocks. usable: it is divided now. */
int vmci_fs_lfb_convert(struct vmc_vmfs *v, uint64_t n, bool *usable, struct vmc_error *err);
/* Divide one that is in use as a whole into small blocks in use. */
int vmci_fs_lfb_split(struct vmc_vmfs *v, uint64_t n, struct vmc_error *err);
int vmci_fs_lfb_alloc(struct vmc_vmfs *v, uint64_t *n, struct vmc_error *err);
int vmci_fs_lfb_free(struct vmc_vmfs *v, uint64_t n, struct vmc_error *err);
/* File blocks, free ones inside of large blocks included. */
int vmci_fs_lfb_space(struct vmc_vmfs *v, struct vmc_vmfs_usage *out, struct vmc_error *err);

/* vmfs_txn.c */
int vmci_fs_txn_begin(struct vmc_vmfs *v, struct vmc_error *err);
int vmci_fs_txn_lock(struct vmc_vmfs *v, uint64_t lv, uint32_t type, uint32_t span,
                     struct vmc_error *err);
int vmci_fs_txn_inode(struct vmc_vmfs *v, struct fs_inode *ino, struct vmc_error *err);
int vmci_fs_txn_dirty(struct vmc_vmfs *v, struct fs_page *p, uint64_t lv, uint32_t bytes,
                      uint64_t owner, struct vmc_error *err);
int vmci_fs_txn_revoke(struct vmc_vmfs *v, uint64_t lv, uint64_t bytes, struct vmc_error *err);
/* Does the running transaction free what is at lv (sub-blocks, metadata)? */
bool vmci_fs_txn_revoked(const struct vmc_vmfs *v, uint64_t lv);
int vmci_fs_txn_commit(struct vmc_vmfs *v, struct vmc_error *err);
void vmci_fs_txn_abort(struct vmc_vmfs *v);
bool vmci_fs_txn_locked(const struct vmc_vmfs *v, uint64_t lv);
/* Tell the devices, once the transaction is durable, that a file's old blocks are free. */
void vmci_fs_txn_discard(struct vmc_vmfs *v, uint64_t lv, uint64_t bytes);
/* Room for so many more dirty sectors and locks? */
bool vmci_fs_txn_room(const struct vmc_vmfs *v, uint32_t sectors, uint32_t locks);

/* vmfs_journal.c */
int vmci_fs_journal_write(struct vmc_vmfs *v, struct vmc_error *err);
int vmci_fs_journal_checkpoint(struct vmc_vmfs *v, struct vmc_error *err);
/* May a replay of our journal touch what this lock covers? */
bool vmci_fs_journal_has(const struct vmc_vmfs *v, uint64_t lv);
int vmci_fs_journal_open(struct vmc_vmfs *v, struct vmc_error *err);
int vmci_fs_journal_close(struct vmc_vmfs *v, struct vmc_error *err);
/* Replay what the session (slot, generation) left; *fb is its journal's block, or 0. */
int vmci_fs_journal_replay(struct vmc_vmfs *v, uint32_t slot, uint64_t generation,
                           struct vmc_error *err);
/* Does slot belong to a host of ours? *fb: journal block named by its record, 0 none. */
int vmci_fs_host_record(struct vmc_vmfs *v, uint32_t slot, uint64_t generation, bool *ours,
                        uint32_t *fb, struct vmc_error *err);
/* How a session's host locks, if it is one of ours. Hosts that do it in two ways do not see each
 * other's locks. */
int vmci_fs_host_way(struct vmc_vmfs *v, uint32_t slot, uint64_t generation, bool *known,
                     bool *bakery, struct vmc_error *err);
/* For how long a session may be silent: by its record, but not less than ours. */
int vmci_fs_host_lease(struct vmc_vmfs *v, uint32_t slot, uint64_t generation, uint32_t *ms,
                       struct vmc_error *err);

/* vmfs_lock.c */
bool vmci_fs_lock_mine(const struct vmc_vmfs *v, const uint8_t *lk);
/* VMC_OK: the holder is gone, the lock may be taken. VMC_EBUSY: it lives, or may live. */
int vmci_fs_lock_contended(struct vmc_vmfs *v, uint64_t lv, const uint8_t *lk,
                           struct vmc_error *err);
/* Take lv's lock; *changed: others had it since we last did, contents were dropped. */
int vmci_fs_lock_take(struct vmc_vmfs *v, uint64_t lv, uint32_t type, uint32_t span, uint32_t mode,
                      bool *changed, struct vmc_error *err);
/* Give it back, or down to a weaker mode. */
int vmci_fs_lock_drop(struct vmc_vmfs *v, uint64_t lv, uint32_t mode, struct vmc_error *err);
/* Make sure that cached contents under lv's lock are current, without taking it. */
int vmci_fs_lock_validate(struct vmc_vmfs *v, uint64_t lv, uint32_t span, bool strict,
                          bool *changed, struct vmc_error *err);

/* vmfs_heartbeat.c */
/* Has the observed session of a slot been silent for longer than a lease, its own or ours? */
int vmci_fs_session_silent(struct vmc_vmfs *v, uint32_t slot, uint64_t generation, bool *yes,
                           struct vmc_error *err);
int vmci_fs_session_open(struct vmc_vmfs *v, struct vmc_error *err);
int vmci_fs_session_close(struct vmc_vmfs *v, struct vmc_error *err);
/* With our record written: no living host may lock in another way than this one. */
int vmci_fs_session_agree(struct vmc_vmfs *v, struct vmc_error *err);
int vmci_fs_session_check(struct vmc_vmfs *v, struct vmc_error *err);
/* No write of this session can come any more: its watchdog has nothing to watch. */
void vmci_fs_session_over(struct vmc_vmfs *v);
/* For how long after a beat data may be written: the lease outlasts the requests by the window. */
static inline uint64_t vmci_fs_lease_safe_ms(const struct vmc_vmfs *v)
{
    return v->lease_ms - VMCI_MIN(v->window_ms, v->lease_ms / 2);
}
/* May data still be written? */
static inline bool vmci_fs_lease_ok(struct vmc_vmfs *v)
{
    if (v->exclusive)
        return true;
    if (unlikely(vmci_load_relaxed(&v->s.fenced)))
        return false;
    uint64_t ms = vmci_fs_lease_safe_ms(v);
    if (v->tsc_per_ms != 0)
        return __builtin_ia32_rdtsc() - vmci_load_relaxed(&v->s.beat_tsc) < ms * v->tsc_per_ms;
    return v->pf->now_ns(v->pf->ctx) - vmci_load_relaxed(&v->s.beat_ns) < ms * 1000000ull;
}
int vmci_fs_session_recover(struct vmc_vmfs *v, uint32_t slot, uint64_t generation,
                            struct vmc_error *err);
/* VMC_EFENCED: another host may have given this session up, so that it waits for it no more. */
int vmci_fs_session_sure(struct vmc_vmfs *v, struct vmc_error *err);
/* Wait until the session that had a lock last is known to be alive, or over and recovered. */
int vmci_fs_session_settle(struct vmc_vmfs *v, uint32_t slot, uint64_t generation,
                           struct vmc_error *err);
/* VMC_OK: slot's session is over (and recovered). VMC_EBUSY: alive or not yet known. */
int vmci_fs_session_dead(struct vmc_vmfs *v, uint32_t slot, uint64_t generation,
                         const uint8_t *owner, struct vmc_error *err);
/* vmfs_fence.c: sessions that the devices know by keys, and keep out once they are given up. */
/* Until no session is alive that the devices would shut out, as it has no key. */
int vmci_fs_fence_wait(struct vmc_vmfs *v, const uint8_t *all, struct vmc_error *err);
int vmci_fs_fence_join(struct vmc_vmfs *v, struct vmc_error *err);
/* VMC_EFENCED: we were given up. */
int vmci_fs_fence_check(struct vmc_vmfs *v, struct vmc_error *err);
/* Nothing of a session that is given up may arrive from here on; hb: its slot. */
int vmci_fs_fence_evict(struct vmc_vmfs *v, uint32_t slot, const uint8_t *hb, struct vmc_error *err);
void vmci_fs_fence_leave(struct vmc_vmfs *v);
static inline uint64_t vmci_fs_hb_lv(const struct vmc_vmfs *v, uint32_t slot)
{
    return FS_HB_LV + (uint64_t)slot * v->g.hb_bytes;
}

/* vmfs_bakery.c: compare-and-write where the device has none. */
int vmci_fs_bakery_enter(struct vmc_vmfs *v, struct vmc_error *err);
int vmci_fs_bakery_leave(struct vmc_vmfs *v, struct vmc_error *err);

/* vmfs_inode.c */
int vmci_fs_inode_get(struct vmc_vmfs *v, uint32_t addr, struct fs_inode **out,
                      struct vmc_error *err);
void vmci_fs_inode_put(struct fs_inode *ino);
/* Contents in memory are current (reads what changed). strict: wait for a writer. */
int vmci_fs_inode_validate(struct fs_inode *ino, bool strict, struct vmc_error *err);
int vmci_fs_inode_reload(struct fs_inode *ino, struct vmc_error *err);
/* After a replay of another host's journal: nothing that was not locked by us is current. */
void vmci_fs_inodes_stale(struct vmc_vmfs *v);
/* Drop what is derived from the metadata: map, index, pages. Waits for I/O in flight. */
void vmci_fs_inode_forget(struct fs_inode *ino);
int vmci_fs_inode_dirty(struct fs_inode *ino, uint32_t md_off, uint32_t bytes,
                        struct vmc_error *err);
/* A fresh file descriptor, locked, in the running transaction. */
int vmci_fs_inode_new(struct vmc_vmfs *v, uint32_t type, uint32_t mode, struct fs_inode **out,
                      struct vmc_error *err);
int vmci_fs_inode_free(struct fs_inode *ino, struct vmc_error *err);
void vmci_fs_inodes_fini(struct vmc_vmfs *v);
void vmci_fs_inodes_trim(struct vmc_vmfs *v);
void vmci_fs_inode_stat(const struct fs_inode *ino, struct vmc_vmfs_stat *out);
/* Where a file keeps addresses or, if it is small, its contents. */
static inline uint32_t vmci_fs_fd_data(const struct fs_geometry *g)
{
    return g->fd_bytes - g->fd_md - g->fd_resident;
}
static inline uint32_t vmci_fs_md32(const struct fs_inode *ino, uint32_t off)
{
    return vmci_ld_le32(ino->md + off);
}
static inline uint64_t vmci_fs_md64(const struct fs_inode *ino, uint32_t off)
{
    return vmci_ld_le64(ino->md + off);
}

/*
 * A directory, or the hidden one (.sdd.sf) that has the type of a system file: the descriptor says which,
 * as it is an ordinary number after an upgrade. Not one of those that are files on every volume.
 */
static inline bool vmci_fs_is_sdd(const struct vmc_vmfs *v, uint32_t addr)
{
    return vmci_ld_le32(v->desc + FSD_SDD_FD) == addr && vmci_ld_le32(v->desc + FSD_PB2_FD) != addr &&
           (addr > FD_ADDR_VH || (addr & 0x3FFFC0u) != 0) && (v->g.version != 6 || addr != FD_ADDR_JBC);
}
static inline bool vmci_fs_is_dir(const struct fs_inode *ino)
{
    uint32_t type = vmci_fs_md32(ino, FD_TYPE);
    return type == VMC_VMFS_DIR || (type == VMC_VMFS_SYSTEM && vmci_fs_is_sdd(ino->v, ino->addr));
}

/* vmfs_map.c: where a file's bytes are. All under the volume's lock. */
int vmci_fs_map_get(struct fs_inode *ino, uint64_t blk, uint64_t *raw, struct vmc_error *err);
int vmci_fs_map_set(struct fs_inode *ino, uint64_t blk, uint64_t raw, struct vmc_error *err);
/* Change the layout so that blocks below need (of the new block size) can be addressed. */
int vmci_fs_map_prepare(struct fs_inode *ino, uint64_t need_bytes, struct vmc_error *err);
/* LV offset of a byte of the file and how far it stays contiguous; *lv 0: hole. */
int vmci_fs_map_lv(struct fs_inode *ino, uint64_t off, uint64_t *lv, uint64_t *bytes, bool *tbz,
                   struct vmc_error *err);
/* Free the blocks first .. end-1; at most limit of them, from the end; *left: new end. */
int vmci_fs_map_free(struct fs_inode *ino, uint64_t first, uint64_t end, uint32_t limit,
                     uint64_t *left, struct vmc_error *err);
/* Use a whole large block (VMFS6) for blk and the blocks after it; *got false: not possible here. */
int vmci_fs_map_large(struct fs_inode *ino, uint64_t blk, uint64_t want, uint64_t *fb, bool *got,
                      struct vmc_error *err);
uint64_t vmci_fs_map_capacity(const struct fs_geometry *g, uint32_t zla, uint64_t block);

/* vmfs_leaf.c: the same for I/O that takes no lock. */
int vmci_fs_leaf_load(struct fs_inode *ino, uint64_t blk, struct vmc_error *err);
int vmci_fs_leaf_room(struct fs_inode *ino, uint64_t blocks, struct vmc_error *err);
void vmci_fs_leaf_set(struct fs_inode *ino, uint64_t blk, uint32_t entry);
void vmci_fs_leaf_free(struct fs_inode *ino);
/* MAP_* of a block, its number, and how many blocks from here on continue it; false: not loaded */
static inline bool vmci_fs_leaf_in(const struct fs_map *m, uint64_t blk, uint32_t *state, uint64_t *fb)
{
    uint64_t i = blk / FS_LEAF_BLOCKS;

    if (unlikely(m == NULL || i >= m->words))
        return false;
    uintptr_t w = vmci_load_acquire(&m->w[i]);
    if (likely(w & 1)) {
        *state = MAP_BLOCK;
        *fb = (w >> 1) + blk % FS_LEAF_BLOCKS;
        return true;
    }
    if (unlikely(w == 0))
        return false;
    uint32_t e = vmci_load_acquire((const uint32_t *)w + blk % FS_LEAF_BLOCKS);
    *state = e & 3;
    *fb = e >> 2;
    return true;
}
static inline bool vmci_fs_leaf_get(const struct fs_inode *ino, uint64_t blk, uint32_t *state, uint64_t *fb)
{
    return vmci_fs_leaf_in(vmci_load_acquire(&ino->map), blk, state, fb);
}

/* vmfs_io.c */
int vmci_fs_ios_create(struct fs_inode *ino, struct vmc_error *err);
void vmci_fs_ios_destroy(struct fs_inode *ino);
void vmci_fs_ios_drain(struct fs_inode *ino);

/* vmfs_file.c */
int vmci_fs_file_meta(struct fs_inode *ino, uint64_t off, void *buf, uint32_t bytes, bool write,
                      struct vmc_error *err);
int64_t vmci_fs_read_slow(struct fs_inode *ino, void *dst, size_t bytes, uint64_t off,
                          struct vmc_error *err);
int64_t vmci_fs_write_slow(struct fs_inode *ino, const void *src, size_t bytes, uint64_t off,
                           struct vmc_error *err);
int vmci_fs_write_first(struct fs_inode *ino, const void *src, uint32_t bytes,
                        struct vmc_error *err);
/* Whole blocks of the range become holes; edges: the rest of it is zeroed too. */
int vmci_fs_punch(struct fs_inode *ino, uint64_t off, uint64_t bytes, bool edges,
                  struct vmc_error *err);
int vmci_fs_allocate(struct fs_inode *ino, uint64_t off, uint64_t bytes, uint32_t how,
                     struct vmc_error *err);
/* Zero a range without changing what is allocated. */
int vmci_fs_zero_range(struct fs_inode *ino, uint64_t off, uint64_t bytes, struct vmc_error *err);
int vmci_fs_truncate(struct fs_inode *ino, uint64_t bytes, struct vmc_error *err);

/* vmfs_dir.c, vmfs_dir6.c */
struct fs_entry {
    uint32_t type, fd, gen;
    char name[DE_NAME_BYTES];
    uint64_t pos; /* entry number */
};
int vmci_fs_dir_find(struct fs_inode *dir, const char *name, size_t len, struct fs_entry *out,
                     struct vmc_error *err);
int vmci_fs_dir_add(struct fs_inode *dir, const char *name, size_t len, const struct fs_inode *ino,
                    struct vmc_error *err);
int vmci_fs_dir_remove(struct fs_inode *dir, const struct fs_entry *e, struct vmc_error *err);
int vmci_fs_dir_set(struct fs_inode *dir, uint64_t pos, const struct fs_inode *ino,
                    struct vmc_error *err);
/* 1: entry *cookie read and *cookie advanced. 0: end. */
int vmci_fs_dir_next(struct fs_inode *dir, uint64_t *cookie, struct fs_entry *out,
                     struct vmc_error *err);
void vmci_fs_dir_forget(struct fs_inode *dir);
/* Blocks for a directory of need bytes; length: of the directory from now on. */
int vmci_fs_dir_extend(struct fs_inode *dir, uint64_t need, struct vmc_error *err);
int vmci_fs_dir_set_length(struct fs_inode *dir, uint64_t len, struct vmc_error *err);
/* "." and ".." of a new directory. */
int vmci_fs_dir_init(struct fs_inode *dir, const struct fs_inode *parent, struct vmc_error *err);

/* vmfs_name.c */
/* The inode of a path; referenced, current. */
int vmci_fs_lookup(struct vmc_vmfs *v, const char *path, struct fs_inode **out,
                   struct vmc_error *err);
struct fs_new {
    uint32_t type, mode;
    const char *data; /* first contents, of a symbolic link; the identity of a raw device */
    uint32_t bytes;   /* of data */
    uint64_t length;  /* of the device, for raw device mappings */
};
int vmci_fs_create(struct vmc_vmfs *v, const char *path, const struct fs_new *what,
                   struct vmc_error *err);
/* After an operation that ended with rc: give memory back; true: a deadlock was avoided, retry. */
bool vmci_fs_op_end(struct vmc_vmfs *v, int rc, uint64_t *deadline);
int vmci_fs_dir6_read(struct fs_inode *dir, uint64_t pos, struct fs_entry *e,
                      struct vmc_error *err);
int vmci_fs_dir6_add(struct fs_inode *dir, const char *name, size_t len,
                     const struct fs_inode *ino, uint64_t *pos, struct vmc_error *err);
int vmci_fs_dir6_remove(struct fs_inode *dir, const struct fs_entry *e, struct vmc_error *err);
int vmci_fs_dir6_set(struct fs_inode *dir, uint64_t pos, uint32_t type, uint32_t fd, uint32_t gen,
                     struct vmc_error *err);
/* Does the hash table lead to an entry? Make it do so. */
bool vmci_fs_dir6_hashed(struct fs_inode *dir, const struct fs_entry *e);
int vmci_fs_dir6_rehash(struct fs_inode *dir, const struct fs_entry *e, struct vmc_error *err);
int vmci_fs_dir6_init(struct fs_inode *dir, const struct fs_inode *parent, struct vmc_error *err);
int vmci_fs_dir6_next(struct fs_inode *dir, uint64_t *cookie, struct fs_entry *out,
                      struct vmc_error *err);
uint64_t vmci_fs_dir6_hash(const char *name, size_t len);

/* vmfs_geometry.c */
int vmci_fs_geometry(struct fs_geometry *g, const uint8_t *desc, uint64_t lv_bytes,
                     struct vmc_error *err);
void vmci_fs_geometry_sizes(struct fs_geometry *g);
int vmci_fs_load_system(struct vmc_vmfs *v, struct vmc_error *err);
void vmci_fs_unload_system(struct vmc_vmfs *v);

#endif
