/* SPDX-License-Identifier: BSD-2-Clause */
/* Layers of a disk: a flat extent at the bottom, redo logs over it. */
#ifndef DISK_PRIV_H
#define DISK_PRIV_H

#include <vmcore/disk.h>
#include "base/base_int.h"

#define DISK_NAME  (VMC_DISK_NAME_MAX + 1u)
#define DISK_DEPTH ((uint32_t)VMC_DISK_DEPTH_MAX)
#define DISK_DESC  20480u /* the longest descriptor we read and write */
#define SECTOR     512u

#define LOG_ENTRIES 4096u     /* in a grain table, in both formats */
#define LOG_CACHE   1024u     /* tables in memory, of one redo log */
#define LOG_CHUNK   0x400000u /* the file grows by so much at a time */

/* Where a grain is: nowhere in this log, all zeros, or else the byte offset in the file. */
#define AT_NONE 0u
#define AT_ZERO 1u

struct descriptor {
    uint64_t sectors;
    uint32_t cid, parent_cid;
    uint32_t format; /* enum vmc_disk_format */
    bool thin;
    char extent[DISK_NAME], parent[DISK_NAME];
    char parent_path[DISK_NAME]; /* the parent with its folder, where one is said; "": none */
    char device[DISK_NAME]; /* of raw device mappings */
};

struct layer;
struct packed;

/* What tells the formats of redo logs apart. */
struct log_ops {
    uint32_t entry_bytes; /* in tables on disk: 4 or 8 */
    /* Read headers; fill grain, tables, dir, next, bytes. */
    int (*open)(struct vmc_disk *d, struct layer *l, struct vmc_error *err);
    /* An entry on disk to AT_* or an offset; false: not valid. */
    bool (*decode)(const struct layer *l, uint64_t raw, uint64_t *at);
    uint64_t (*encode)(const struct layer *l, uint64_t at);
    /* Give table t a place: dir[t], l->next or whatever says what is free. */
    int (*place)(struct layer *l, uint32_t t);
    /* What says how much of the file is in use: before anything points to it. */
    int (*mark)(struct vmc_disk *d, struct layer *l);
    /* The directory, after the tables that it points to. */
    int (*publish)(struct vmc_disk *d, struct layer *l);
};

struct layer {
    struct descriptor desc;
    char name[DISK_NAME];
    void *file, *raw;
    struct vmc_blockdev flat;
    uint64_t file_bytes;
    /* of redo logs */
    const struct log_ops *log;
    uint64_t *dir;    /* offset of each grain table, 0: none */
    uint64_t **table; /* entries in memory, NULL: not read */
    uint64_t *dirty;  /* bit per table */
    uint8_t *buf;     /* a table as on disk */
    uint32_t tables, loaded, hand;
    bool dir_dirty;
    bool lost;       /* a flush failed: what had been written may be gone */
    uint64_t grain;  /* bytes */
    uint64_t next;   /* where the next grain (COWD: or table) goes, bytes */
    uint64_t dir_at; /* the directory in the file */
    struct packed *packed; /* of packed extents */
    uint64_t tables_at, grains_at, free_table, volatile_at, sequence; /* SE-sparse */
};

struct vmc_disk {
    const struct vmc_platform *pf;
    struct vmc_disk_files files;
    struct vmci_lock lock;
    bool write;
    bool peek; /* there is no access to contents */
    uint64_t bytes;
    uint32_t depth;
    uint8_t *zeros;                 /* LOG_ZEROS bytes, of disks that are written */
    struct layer layer[DISK_DEPTH]; /* 0 is the top */
};
#define LOG_ZEROS 0x10000u

#define SITE(step) ("disk/" step)

/* Is the parent in another folder than the disk? */
static inline bool vmci_disk_parent_elsewhere(const struct vmc_disk *d)
{
    return d->depth > 1 && !vmci_streq(d->layer[1].name, d->layer[0].desc.parent);
}
static inline bool vmci_disk_is_log(const struct descriptor *d)
{
    return d->format == VMC_DISK_COWD || d->format == VMC_DISK_SESPARSE;
}
static inline bool vmci_disk_is_rdm(const struct descriptor *d)
{
    return d->format == VMC_DISK_RDM || d->format == VMC_DISK_RDM_PHYSICAL;
}

/* vmdk_desc.c */
int vmci_disk_desc_read(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                        const char *name, struct descriptor *d, struct vmc_error *err);
/* A new descriptor; replace: in place of the one that is there, in one step. */
int vmci_disk_desc_write(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                         const char *name, const struct descriptor *d, bool replace,
                         struct vmc_error *err);
/* "a.vmdk" and "-flat" give "a-flat.vmdk". */
int vmci_disk_extent_name(const char *name, const char *suffix, char *out, struct vmc_error *err);
/* VMC_EBUSY: a descriptor of the folder, other than except, names this one as its parent. */
int vmci_disk_no_children(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                          const char *name, const char *except, struct vmc_error *err);
uint32_t vmci_disk_new_cid(const struct vmc_platform *pf);

/* disk_chain.c */
#define OPEN_WRITE  1u
#define OPEN_SHARED 2u /* the caller knows that there are children; the content id stays */
#define OPEN_ALONE  4u /* only the first layer */
#define OPEN_PEEK   8u /* what the descriptors say; no lock, no contents */
int vmci_disk_open(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                   const char *name, uint32_t how, struct vmc_disk **out, struct vmc_error *err);
int vmci_disk_read(struct vmc_disk *d, uint64_t off, uint8_t *dst, uint64_t bytes);
int vmci_disk_write(struct vmc_disk *d, uint64_t off, const uint8_t *src, uint64_t bytes);
/* Zeros, by giving space back where the top layer can. */
int vmci_disk_zero(struct vmc_disk *d, uint64_t off, uint64_t bytes);
/* From off on: what the chain holds (AT_ZERO, or else data), and for how long. */
int vmci_disk_extent(struct vmc_disk *d, uint64_t off, uint64_t *at, uint64_t *bytes);

/* disk_log.c: tables of redo logs */
int vmci_disk_log_open(struct vmc_disk *d, struct layer *l, struct vmc_error *err);
int vmci_disk_log_alloc(struct vmc_disk *d, struct layer *l, struct vmc_error *err);
void vmci_disk_log_close(struct vmc_disk *d, struct layer *l);
/* Where a byte is in the redo log, and how far the answer holds. */
int vmci_disk_log_find(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t *at,
                       uint64_t *bytes);
/* Places, one after another, for *got of want bytes of grains from off on; set makes them known. */
int vmci_disk_log_add(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t want,
                      uint64_t *at, uint64_t *got);
/* Grains off .. off + bytes (of one table) are at at, which is AT_ZERO or what add gave. */
int vmci_disk_log_set(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t at,
                      uint64_t bytes);
/* The grain at off is all zeros. */
int vmci_disk_log_zero(struct vmc_disk *d, struct layer *l, uint64_t off);
/*
 * VMC_ENOSPC: tables found no space; they are in memory, and can be tried again. VMC_EIO, from then on: a
 * flush of the file failed, and whoever served it may have forgotten what it could not write.
 */
int vmci_disk_log_flush(struct vmc_disk *d, struct layer *l);

/* Read every table; *bad counts those that are not valid. */
int vmci_disk_log_check(struct vmc_disk *d, struct layer *l, uint64_t *bad);

/* disk_packed.c: compressed extents, read only */
int vmci_disk_packed_open(struct vmc_disk *d, struct layer *l, struct vmc_error *err);
void vmci_disk_packed_close(struct vmc_disk *d, struct layer *l);
int vmci_disk_packed_read(struct vmc_disk *d, struct layer *l, uint64_t off, uint8_t *dst,
                          uint64_t bytes);
/* AT_ZERO, or more for data, and for how long at most. */
int vmci_disk_packed_extent(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t *at,
                            uint64_t *bytes);
int vmci_disk_packed_check(struct vmc_disk *d, struct layer *l, uint64_t *bad,
                           const struct vmc_disk_progress *progress);
/* A packed extent with what a disk holds. */
int vmci_disk_packed_make(struct vmc_disk *from, const struct vmc_disk_files *files,
                          const char *extent, const struct vmc_disk_progress *progress,
                          struct vmc_error *err);

/* disk_compress.c */
/* What interrupted compressions and expansions of a disk without snapshots have left. */
void vmci_disk_remove_leftovers(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                                const char *name, const struct descriptor *d);

/* disk_make.c */
int vmci_disk_make_log(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                       const char *extent, const struct descriptor *d, struct vmc_error *err);
/* What a disk holds into a file of zeros; made durable. */
int vmci_disk_copy_out(struct vmc_disk *from, const struct vmc_disk_files *to, void *file,
                       const struct vmc_disk_progress *progress);

/* vmdk_cowd.c, vmdk_sesparse.c */
extern const struct log_ops vmci_disk_cowd;
extern const struct log_ops vmci_disk_sesparse;
int vmci_disk_cowd_make(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                        void *file, uint64_t sectors, struct vmc_error *err);
int vmci_disk_sesparse_make(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                            void *file, uint64_t sectors, struct vmc_error *err);

#endif
