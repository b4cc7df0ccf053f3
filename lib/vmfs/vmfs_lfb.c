/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Large file blocks of VMFS6 (512 MiB). One is free, or used as a whole, or converted: divided into
 * small file blocks, whose cluster header is the resource that the large block has in .fbb.sf.
 */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("large block");

/* The header of the cluster that a large block belongs to; lock: for a change. */
static int header(struct vmc_vmfs *v, uint64_t n, bool lock, uint64_t *lv, uint8_t **md,
                  struct fs_page **p, struct vmc_error *err)
{
    struct fs_res *r = &v->lfb;
    uint64_t c = r->rpc != 0 ? n / r->rpc : UINT64_MAX;
    int rc = vmci_fs_res_cluster_lv(v, r, c, lv, err);

    if (rc == VMC_OK && lock)
        rc = vmci_fs_txn_lock(v, *lv, r->lock_type, v->g.ch_bytes, err);
    return rc == VMC_OK ? vmci_fs_res_cluster(v, r, c, lv, md, p, err) : rc;
}

int vmci_fs_lfb_state(struct vmc_vmfs *v, uint64_t n, uint32_t *state, struct vmc_error *err)
{
    uint64_t lv;
    uint8_t *md;
    struct fs_page *p;
    int rc = header(v, n, false, &lv, &md, &p, err);

    if (rc == VMC_OK)
        *state = vmci_fs_cl_value(&v->lfb, md, (uint32_t)(n % v->lfb.rpc));
    return rc;
}

/* How many are converted is kept in the header of the small blocks. */
static int count_conversion(struct vmc_vmfs *v, struct vmc_error *err)
{
    struct fs_inode *ino = v->fbb.ino;
    uint8_t b[4];
    int rc = vmci_fs_txn_inode(v, ino, err);

    if (rc == VMC_OK)
        rc = vmci_fs_file_meta(ino, FS_PAGE + RF6_CONVERTED, b, sizeof(b), false, err);
    if (rc != VMC_OK)
        return rc;
    vmci_st_le32(b, vmci_ld_le32(b) + 1);
    return vmci_fs_file_meta(ino, FS_PAGE + RF6_CONVERTED, b, sizeof(b), true, err);
}

/* A header for the small blocks inside, all free or all used. */
static int new_cluster(struct vmc_vmfs *v, uint64_t n, bool free, struct vmc_error *err)
{
    struct fs_res *r = &v->fbb;
    uint64_t lv;
    struct fs_page *p;
    int rc = vmci_fs_res_cluster_lv(v, r, n, &lv, err);

    if (rc == VMC_OK)
        rc = vmci_fs_txn_lock(v, lv, r->lock_type, v->g.ch_bytes, err);
    if (rc == VMC_OK)
        rc = vmci_fs_page_new(v, lv + v->g.ch_md, FS_PAGE, 0, &p, err);
    if (rc == VMC_OK)
        rc = vmci_fs_txn_dirty(v, p, lv + v->g.ch_md, FS_PAGE, lv, err);
    if (rc != VMC_OK)
        return rc;
    uint32_t total = vmci_fs_res_total(r, n);
    vmci_fs_cl_init6(r, p->data, n, total, free);
    r->free[n] = (uint16_t)(free ? total : 0);
    return count_conversion(v, err);
}

static int convert(struct vmc_vmfs *v, uint64_t n, uint32_t from, bool *done, struct vmc_error *err)
{
    struct fs_res *r = &v->lfb;
    uint64_t lv;
    uint8_t *md;
    struct fs_page *p;
    uint32_t item = (uint32_t)(n % VMCI_MAX(r->rpc, 1u));
    int rc = header(v, n, true, &lv, &md, &p, err);

    *done = false;
    if (rc != VMC_OK)
        return rc;
    uint32_t is = vmci_fs_cl_value(r, md, item);
    if (is == MAP6_CONVERTED || is != from) {
        *done = is == MAP6_CONVERTED;
        return VMC_OK;
    }
    rc = vmci_fs_txn_dirty(v, p, lv + v->g.ch_md, FS_SECTOR, lv, err);
    if (rc != VMC_OK)
        return rc;
    if (from == MAP6_FREE)
        vmci_fs_cl_mark(r, md, item, 1, vmci_fs_res_total(r, n / r->rpc), false);
    vmci_fs_cl_put(r, md, item, MAP6_CONVERTED);
    r->free[n / r->rpc] = (uint16_t)vmci_fs_cl_free(r, md);
    *done = true;
    return new_cluster(v, n, from == MAP6_FREE, err);
}

int vmci_fs_lfb_convert(struct vmc_vmfs *v, uint64_t n, bool *usable, struct vmc_error *err)
{
    return convert(v, n, MAP6_FREE, usable, err);
}

int vmci_fs_lfb_split(struct vmc_vmfs *v, uint64_t n, struct vmc_error *err)
{
    bool done;
    int rc = convert(v, n, MAP6_USED, &done, err);

    if (rc == VMC_OK && !done)
        rc = vmci_error(err, VMC_EFORMAT, site, "%llu is in use, but marked free",
                        (unsigned long long)n);
    return rc;
}

int vmci_fs_lfb_alloc(struct vmc_vmfs *v, uint64_t *n, struct vmc_error *err)
{
    uint64_t c;
    uint32_t item;
    int rc = vmci_fs_res_alloc(v, &v->lfb, &c, &item, err);

    if (rc != VMC_OK)
        return rc;
    *n = c * v->lfb.rpc + item;
    if (*n < v->fbb.clusters)
        v->fbb.free[*n] = 0;
    return VMC_OK;
}

int vmci_fs_lfb_free(struct vmc_vmfs *v, uint64_t n, struct vmc_error *err)
{
    struct fs_res *r = &v->lfb;
    int rc = r->rpc == 0 ? vmci_error(err, VMC_EFORMAT, site, "the volume has none")
                         : vmci_fs_res_free(v, r, n / r->rpc, (uint32_t)(n % r->rpc), 1, err);

    if (rc == VMC_OK && n < v->fbb.clusters)
        v->fbb.free[n] = FS_FREE_UNKNOWN;
    return rc;
}

int vmci_fs_lfb_space(struct vmc_vmfs *v, struct vmc_vmfs_usage *out, struct vmc_error *err)
{
    struct fs_res *r = &v->lfb;
    uint64_t lv;
    uint8_t *md;
    struct fs_page *p;

    struct vmc_error why;
    uint32_t unknown = 0; /* what they have counts as used */
    out->total = v->g.blocks;
    out->free = 0;
    for (uint64_t n = 0; n < r->n; n++) {
        int rc = header(v, n, false, &lv, &md, &p, &why);
        if (rc == VMC_EFORMAT && v->ro) {
            if (unknown++ == 0)
                vmci_fs_overlook(v, &why);
            continue;
        }
        if (rc != VMC_OK && err != NULL)
            *err = why;
        if (rc != VMC_OK)
            return rc;
        /* Whole ones are counted by their cluster: their value may be one that we do not know. */
        if (n % r->rpc == 0)
            out->free += (uint64_t)vmci_fs_cl_free(r, md) << (v->g.lfb_shift - v->g.fb_shift);
        if (!(vmci_fs_cl_value(r, md, (uint32_t)(n % r->rpc)) & MAP6_CONVERTED))
            continue;
        rc = vmci_fs_res_cluster(v, &v->fbb, n, &lv, &md, &p, &why);
        if (rc == VMC_EFORMAT && v->ro) {
            if (unknown++ == 0)
                vmci_fs_overlook(v, &why);
            continue;
        }
        if (rc != VMC_OK && err != NULL)
            *err = why;
        if (rc != VMC_OK)
            return rc;
        out->free += vmci_fs_cl_free(&v->fbb, md);
        if (n % 64 == 63)
            vmci_fs_cache_trim(v);
    }
    /* The last large block may be larger than what is left of the volume. */
    out->free = VMCI_MIN(out->free, out->total);
    return VMC_OK;
}
