/* SPDX-License-Identifier: BSD-2-Clause */
/* Layers of a disk: a flat extent at the bottom, redo logs over it. */
#ifndef DISK_PRIV_H
#define DISK_PRIV_H

#include <vmcore/disk.h>
#include "base/base_int.h"

#define DISK_NAME  256u
#define DISK_DEPTH 32u
#define DISK_DESC  8192u /* the longest descriptor we read */
#define SECTOR     512u

/* VMware Virtual Disk Format 1.1, "COWD" (ESX redo log) header; sizes in sectors. */
#define COWD_MAGIC      0x44574f43u
#define CW_MAGIC        0x00
#define CW_VERSION      0x04
#define CW_FLAGS        0x08
#define CW_SECTORS      0x0C
#define CW_GRAIN        0x10
#define CW_GD_OFFSET    0x14
#define CW_GD_ENTRIES   0x18
#define CW_FREE         0x1C
#define CW_HEADER_BYTES 2048u
#define CW_GT_ENTRIES   4096u /* one grain table: 16 KiB */
#define CW_GT_BYTES     (CW_GT_ENTRIES * 4u)

struct descriptor {
    uint64_t sectors;
    uint32_t cid, parent_cid;
    bool sparse, thin;
    char extent[DISK_NAME], parent[DISK_NAME];
};

struct layer {
    struct descriptor desc;
    void *file;
    struct vmc_blockdev flat;
    /* of redo logs */
    uint32_t *gd;      /* sector of each grain table, 0: none */
    uint32_t **gt;     /* tables in memory, NULL: not read */
    uint64_t *dirty;   /* bit per table */
    uint32_t tables;
    uint64_t grain;    /* bytes */
    uint64_t next;     /* where the next grain or table goes, bytes */
};

struct vmc_disk {
    const struct vmc_platform *pf;
    struct vmc_disk_files files;
    struct vmci_lock lock;
    bool write;
    uint64_t bytes;
    uint32_t depth;
    struct layer layer[DISK_DEPTH]; /* 0 is the top */
};

#define SITE(step) ("disk/" step)

int vmci_disk_desc_read(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                        const char *name, struct descriptor *d, struct vmc_error *err);
int vmci_disk_desc_write(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                         const char *name, const struct descriptor *d, struct vmc_error *err);
/* "a.vmdk" and "-flat" give "a-flat.vmdk". */
int vmci_disk_extent_name(const char *name, const char *suffix, char *out, struct vmc_error *err);

int vmci_disk_cowd_make(const struct vmc_platform *pf, const struct vmc_disk_files *files, void *file,
                        uint64_t sectors, struct vmc_error *err);
int vmci_disk_cowd_open(struct vmc_disk *d, struct layer *l, struct vmc_error *err);
void vmci_disk_cowd_close(struct vmc_disk *d, struct layer *l);
/* Where a byte is in the redo log, and how far the answer holds; *at 0: not here. */
int vmci_disk_cowd_find(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t *at,
                        uint64_t *bytes);
int vmci_disk_cowd_add(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t *at);
int vmci_disk_cowd_flush(struct vmc_disk *d, struct layer *l);

#endif
