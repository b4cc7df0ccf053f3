/* SPDX-License-Identifier: BSD-2-Clause */
/* What the formatters of VMFS3/5 and VMFS6 share. */
#ifndef VMFS_MKFS_H
#define VMFS_MKFS_H

#include "vmfs/vmfs_priv.h"

#define MK_FILES 9u /* system file descriptors, root included */

/* A system file while it is being made. */
struct mk_file {
    const char *name;
    uint32_t fd_index, type, mode, links;
    uint64_t length;
    uint32_t blocks;
    uint32_t first, rest; /* file blocks: the first one, and where the others follow */
    /* of resource files */
    uint32_t lock_type, rpc, cpg, rs;
    uint64_t gs, n;
    uint32_t clusters, groups, used; /* resources taken at format time */
    uint32_t flags, aff_cluster, aff_res; /* VMFS6 */
};

struct mk {
    const struct vmc_vmfs_mkfs_config *cfg;
    struct vmc_vmfs *v; /* devices, segments and geometry; not a mounted volume */
    uint32_t version, time_s;
    uint32_t pes[VMC_VMFS_MAX_EXTENTS];
    struct vmc_vmfs_uuid lvm, fs, host, dev;
    struct mk_file f[MK_FILES];
    uint32_t next_fb, next_pb; /* assigned so far */
    uint64_t stamp;            /* of the next lock object */
    uint8_t *buf;              /* MK_BUF bytes */
};
#define MK_BUF 0x100000u

int vmci_fs_mk_lvm(struct mk *m, struct vmc_error *err);
void vmci_fs_mk_lock(struct mk *m, uint8_t *p, uint32_t type, uint64_t lv, bool stamped);
/* Metadata of a system file's descriptor, addresses excluded. */
void vmci_fs_mk_fd(const struct mk *m, const struct mk_file *f, uint8_t *md);
/* Length, clusters and groups from n, rpc, cpg and rs. */
void vmci_fs_mk_size(struct mk *m, struct mk_file *f);
void vmci_fs_mk_desc(const struct mk *m, uint8_t *d);
/* File block of block i of a system file. */
static inline uint32_t vmci_fs_mk_block(const struct mk_file *f, uint32_t i)
{
    return i == 0 ? f->first : f->rest + i - 1;
}
enum { ROOT, FBB, FDC, PBC, SBC, VH, PB2, SDD, JBC };
extern const char *const vmci_fs_mk_names[MK_FILES];
/* LV offset of a byte of a system file. */
uint64_t vmci_fs_mk_lv(const struct mk *m, const struct mk_file *f, uint64_t off);
/* A range of a system file that may cross file blocks; buf NULL: zeros. */
int vmci_fs_mk_write(struct mk *m, const struct mk_file *f, uint64_t off, const uint8_t *buf,
                     uint64_t bytes, struct vmc_error *err);
/* VMFS6: sizes and places of the system files; then the files. */
int vmci_fs_mk6_layout(struct mk *m, struct vmc_error *err);
int vmci_fs_mkfs6(struct mk *m, struct vmc_error *err);

#endif
