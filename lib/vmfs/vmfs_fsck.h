/* SPDX-License-Identifier: BSD-2-Clause */
/* The checker's state. Resources are numbered cluster * resources-per-cluster + item. */
#ifndef VMFS_FSCK_H
#define VMFS_FSCK_H

#include "vmfs/vmfs_priv.h"

enum { FK_LFB, FK_FB, FK_FD, FK_PB, FK_SB, FK_PB2, FK_KINDS };

/* What is known of a file descriptor. */
#define FI_USED    0x01u /* its bit says so */
#define FI_GOOD    0x02u /* it could be read */
#define FI_DIR     0x04u
#define FI_SYSTEM  0x08u
#define FI_VISITED 0x10u /* reached from the root */

struct fsck {
    struct vmc_vmfs *v;
    const struct vmc_vmfs_fsck_config *cfg;
    struct vmc_vmfs_fsck_result *res;
    struct fs_res *r[FK_KINDS];
    uint64_t *ref[FK_KINDS]; /* bit: somebody refers to it */
    uint8_t *info;           /* per file descriptor */
    uint32_t *links;         /* names that lead to it */
    uint32_t *queue;         /* directories still to be read */
    uint64_t head, tail;
    /* The large block that was met last: it stands at many entries of a file. */
    uint32_t large_fd;
    uint64_t large_group, large;
    struct vmc_error err; /* of probes that may fail */
};

void vmci_fs_ck_report(struct fsck *f, bool repaired, const char *fmt, ...) VMC_PRINTF(3, 4);
static inline uint64_t vmci_fs_ck_number(const struct fs_res *r, const struct fs_addr *a)
{
    return a->type == AD_FB || a->type == AD_LFB ? a->block : a->cluster * r->rpc + a->item;
}
static inline uint32_t vmci_fs_ck_fd(const struct fsck *f, uint64_t n)
{
    return (uint32_t)vmci_fs_addr_encode(&f->v->g, AD_FD, n / f->v->fdc.rpc,
                                         (uint32_t)(n % f->v->fdc.rpc));
}
/* Run fn on ino in a transaction of its own. */
int vmci_fs_ck_fix(struct fsck *f, struct fs_inode *ino,
                   int (*fn)(struct fsck *f, struct fs_inode *ino, const void *arg,
                             struct vmc_error *err),
                   const void *arg, struct vmc_error *err);
int vmci_fs_ck_inodes(struct fsck *f, struct vmc_error *err);
int vmci_fs_ck_tree(struct fsck *f, struct vmc_error *err);
/* What only directories of VMFS6 have: counts, allocation maps, the hash table. */
int vmci_fs_ck_dir6(struct fsck *f, struct fs_inode *dir, struct vmc_error *err);
int vmci_fs_ck_links(struct fsck *f, struct vmc_error *err);
int vmci_fs_ck_orphans(struct fsck *f, struct vmc_error *err);
int vmci_fs_ck_maps(struct fsck *f, struct vmc_error *err);
int vmci_fs_ck_heartbeats(struct fsck *f, struct vmc_error *err);
/* What the volume manager and the descriptor say twice. */
int vmci_fs_ck_volume(struct fsck *f, struct vmc_error *err);

#endif
