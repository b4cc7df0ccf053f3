/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Resource files: clusters of file blocks, file descriptors, pointer blocks and sub-blocks, each
 * with a lock, a bitmap and a free count.
 */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("resource");

#define NESTED_MAX 6u /* a block in a sub-block, by a pointer block, each in its file */

static const char *name_of(uint32_t type)
{
    switch (type) {
    case LK_FBB:
    case LK_LFB:
        return ".fbb.sf";
    case LK_SBC:
        return ".sbc.sf";
    case LK_PBC:
        return ".pbc.sf";
    case LK_FDC:
        return ".fdc.sf";
    default:
        return ".pb2.sf";
    }
}

struct fs_res *vmci_fs_res_of(struct vmc_vmfs *v, uint32_t addr_type)
{
    switch (addr_type) {
    case AD_FB:
        return &v->fbb;
    case AD_SB:
        return &v->sbc;
    case AD_PB:
        return &v->pbc;
    case AD_FD:
        return &v->fdc;
    case AD_LFB:
        return &v->lfb;
    default:
        return &v->pb2;
    }
}

static uint32_t max_rpc(const struct vmc_vmfs *v, uint32_t addr_type)
{
    bool six = v->g.version == 6;

    switch (addr_type) {
    case AD_SB:
        return six ? 256 : v->g.dense ? 64 : 16;
    case AD_PB:
    case AD_PB2:
        return six ? 256 : 16;
    case AD_LFB:
        return 256;
    default:
        return CL_BITMAP_MAX;
    }
}

/* How many groups there are is not needed: it follows from the number of resources. */
static int check_groups(struct vmc_vmfs *v, const struct fs_res *r, uint64_t clusters,
                        uint32_t groups, struct vmc_error *err)
{
    struct vmc_error why;

    if (groups == (clusters + r->cpg - 1) / r->cpg)
        return VMC_OK;
    vmci_error(&why, VMC_EFORMAT, site, "%s header: %u groups do not hold %llu resources", r->name,
               groups, (unsigned long long)r->n);
    return vmci_fs_doubt(v, &why, err);
}

static int check_header(struct vmc_vmfs *v, const struct fs_res *r, uint32_t group_off,
                        uint32_t groups, struct vmc_error *err)
{
    uint64_t gs = (uint64_t)r->cpg * r->gs; /* gs holds the bytes of one cluster here */
    uint32_t rs = r->addr_type == AD_FB    ? 0
                  : r->addr_type == AD_FD  ? v->g.fd_bytes
                  : r->addr_type == AD_SB  ? v->g.sb_bytes
                  : r->addr_type == AD_LFB ? v->g.ch_bytes
                                           : v->g.pb_bytes;

    if (group_off != RF_HEADER || r->cpg == 0 || r->cpg > 4096 || gs % FS_PAGE != 0 ||
        (uint64_t)r->cpg * v->g.ch_bytes % FS_PAGE != 0)
        return vmci_error(err, VMC_EFORMAT, site, "%s header: groups at 0x%x, %u clusters each",
                          r->name, group_off, r->cpg);
    if (r->n == 0)
        return VMC_OK;
    if (r->rpc == 0 || r->rpc > max_rpc(v, r->addr_type))
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s header: %u resources in a cluster, 1 to %u are possible", r->name,
                          r->rpc, max_rpc(v, r->addr_type));
    if (r->rs != rs && !(r->addr_type == AD_FB && v->g.version == 6))
        return vmci_error(err, VMC_EFORMAT, site, "%s header: resource size is 0x%x, not 0x%x",
                          r->name, r->rs, rs);
    uint64_t clusters = (r->n + r->rpc - 1) / r->rpc;
    /* What the volume has no room for is not there; addresses have so many bits for the cluster. */
    if ((rs != 0 && r->n > v->g.lv_bytes / rs) ||
        clusters > (r->addr_type == AD_FD ? 0x10000u : 0x3FFFFFu))
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s header: %llu resources are too many for the volume", r->name,
                          (unsigned long long)r->n);
    return check_groups(v, r, clusters, groups, err);
}

/* Sub-blocks are as the header of their file says, if the descriptor says something else. */
static void believe_header(struct vmc_vmfs *v, const struct fs_res *r)
{
    bool dense = v->g.version != 6 && !v->g.dense && r->rpc > 16 && r->rpc <= 64;
    bool other =
        r->rs != v->g.sb_bytes && vmci_is_pow2(r->rs) && r->rs >= FS_PAGE && r->rs <= 0x40000;
    struct vmc_error why;

    if (!v->ro || r->n == 0 || (!dense && !other))
        return;
    vmci_error(&why, VMC_EFORMAT, site,
               "%s has %u resources of 0x%x bytes in a cluster, the descriptor says 0x%x bytes, %s",
               r->name, r->rpc, r->rs, v->g.sb_bytes, v->g.dense ? "dense" : "not dense");
    vmci_fs_overlook(v, &why);
    v->g.dense = v->g.dense || dense;
    v->g.sb_bytes = other ? r->rs : v->g.sb_bytes;
}

int vmci_fs_res_open(struct vmc_vmfs *v, struct fs_res *r, struct fs_inode *ino, uint32_t lock_type,
                     uint32_t addr_type, uint32_t header_off, struct vmc_error *err)
{
    uint8_t h[FS_SECTOR];
    int rc;

    r->name = name_of(lock_type);
    rc = vmci_fs_file_meta(ino, header_off, h, sizeof(h), false, err);
    if (rc != VMC_OK)
        return rc;
    r->lock_type = lock_type;
    r->addr_type = addr_type;
    r->six = v->g.version == 6;
    r->bits = !r->six ? 1 : addr_type == AD_LFB ? 3 : addr_type == AD_FB ? 2 : 1;
    r->rpc = vmci_ld_le32(h + RF_RPC);
    r->cpg = vmci_ld_le32(h + RF_CPG);
    r->rs = vmci_ld_le32(h + RF_RS);
    r->n = vmci_ld_le32(h + RF_N) | (uint64_t)vmci_ld_le32(h + RF_N_HIGH) << 32;
    uint32_t groups = vmci_ld_le32(h + RF_GROUPS);
    if (addr_type == AD_SB)
        believe_header(v, r);
    r->gs = v->g.ch_bytes + (uint64_t)r->rpc * r->rs;
    rc = check_header(v, r, vmci_ld_le32(h + RF_GROUP_OFF), groups, err);
    if (rc != VMC_OK)
        return rc;
    r->gs *= r->cpg;
    if (header_off != 0) {
        /* Clusters of small blocks are resources of the large-block file. */
        r->child = true;
        r->parent_rpc = vmci_ld_le32(h + RF6_PARENT_RPC);
        r->parent_cpg = vmci_ld_le32(h + RF6_PARENT_CPG);
        r->parent_gs = vmci_ld_le32(h + RF6_PARENT_GS);
        if (r->parent_rpc == 0 || r->parent_rpc > 512 || r->parent_cpg == 0 ||
            r->parent_cpg > 4096 || r->parent_gs == 0)
            return vmci_error(err, VMC_EFORMAT, site,
                              "%s child header: parent has %u resources, %u clusters", r->name,
                              r->parent_rpc, r->parent_cpg);
    } else if (r->n != 0 && r->gs != vmci_ld_le32(h + RF_GS)) {
        return vmci_error(err, VMC_EFORMAT, site, "%s header: group size is 0x%x, not 0x%llx",
                          r->name, vmci_ld_le32(h + RF_GS), (unsigned long long)r->gs);
    }
    r->clusters = r->n == 0 ? 0 : (uint32_t)((r->n + r->rpc - 1) / r->rpc);
    if (r->clusters != 0) {
        r->free = vmci_alloc_aligned(v->pf, r->clusters * sizeof(*r->free), 16);
        if (r->free == NULL)
            return vmci_error(err, VMC_ENOMEM, site, "no memory for %s", r->name);
        memset(r->free, 0xFF, r->clusters * sizeof(*r->free));
    }
    r->ino = ino;
    return VMC_OK;
}

void vmci_fs_res_close(struct vmc_vmfs *v, struct fs_res *r)
{
    if (r->free != NULL)
        vmci_free(v->pf, r->free, r->clusters * sizeof(*r->free));
    memset(r, 0, sizeof(*r));
}

uint32_t vmci_fs_res_total(const struct fs_res *r, uint64_t cluster)
{
    return (uint32_t)VMCI_MIN(r->rpc, r->n - cluster * r->rpc);
}

/*
 * A block of a system file, by its address, may lie in a system file itself: pointers to blocks of
 * one do. On a damaged volume that can go on for ever.
 */
static int map_system(struct fs_res *r, uint64_t off, uint64_t *lv, uint64_t *bytes,
                      struct vmc_error *err)
{
    struct vmc_vmfs *v = r->ino->v;
    bool tbz;

    if (v->nested == NESTED_MAX)
        return vmci_error(err, VMC_EFORMAT, site, "%s: what is at offset 0x%llx is in itself",
                          r->name, (unsigned long long)off);
    v->nested++;
    int rc = vmci_fs_map_lv(r->ino, off, lv, bytes, &tbz, err);
    v->nested--;
    return rc;
}

/*
 * An offset in a system file. Where a resource crosses a file block (sub-blocks of VMFS3), the next
 * block has to be its neighbour, as formatting makes it; but see vmci_fs_res_item_piece.
 */
static int file_lv(struct fs_res *r, uint64_t off, uint32_t bytes, uint64_t *lv,
                   struct vmc_error *err)
{
    uint64_t len;

    if (r->lock_type == LK_FDC && off < RF_HEADER + r->gs && r->ino->v->sys[2] == NULL) {
        *lv = r->ino->v->g.fdc_base + off;
        return VMC_OK;
    }
    int rc = map_system(r, off, lv, &len, err);
    if (rc == VMC_OK && *lv != 0 && len < bytes) {
        uint64_t next, more;
        rc = map_system(r, off + len, &next, &more, err);
        if (rc == VMC_OK && next == *lv + len)
            len = bytes;
    }
    if (rc == VMC_OK && (*lv == 0 || len < bytes))
        rc = vmci_error(err, VMC_EFORMAT, site, "%s has no block at offset 0x%llx", r->name,
                        (unsigned long long)off);
    return rc;
}

int vmci_fs_res_cluster_lv(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, uint64_t *lv,
                           struct vmc_error *err)
{
    if (c >= r->clusters)
        return vmci_error(err, VMC_EFORMAT, site, "%s has no cluster %llu", r->name,
                          (unsigned long long)c);
    if (r->child) {
        uint64_t per = (uint64_t)r->parent_cpg * r->parent_rpc;
        return file_lv(r,
                       RF_HEADER + c / per * r->parent_gs +
                           (uint64_t)r->parent_cpg * v->g.ch_bytes + c % per * v->g.ch_bytes,
                       v->g.ch_bytes, lv, err);
    }
    return file_lv(r, RF_HEADER + c / r->cpg * r->gs + c % r->cpg * v->g.ch_bytes, v->g.ch_bytes,
                   lv, err);
}

/* Where in its file a resource is. */
static int item_offset(const struct vmc_vmfs *v, const struct fs_res *r, uint64_t c, uint32_t item,
                       uint64_t *off, struct vmc_error *err)
{
    if (c >= r->clusters || item >= vmci_fs_res_total(r, c))
        return vmci_error(err, VMC_EFORMAT, site, "%s has no resource %llu/%u", r->name,
                          (unsigned long long)c, item);
    *off = RF_HEADER + c / r->cpg * r->gs + (uint64_t)r->cpg * v->g.ch_bytes +
           (c % r->cpg * r->rpc + item) * (uint64_t)r->rs;
    return VMC_OK;
}

int vmci_fs_res_item_lv(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, uint32_t item,
                        uint64_t *lv, struct vmc_error *err)
{
    uint64_t off = 0;
    int rc = item_offset(v, r, c, item, &off, err);

    return rc == VMC_OK ? file_lv(r, off, r->rs, lv, err) : rc;
}

int vmci_fs_res_item_piece(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, uint32_t item,
                           uint32_t in, uint64_t *lv, uint64_t *bytes, struct vmc_error *err)
{
    uint64_t off = 0, next, more;
    int rc = item_offset(v, r, c, item, &off, err);

    if (rc == VMC_OK)
        rc = map_system(r, off + in, lv, bytes, err);
    if (rc == VMC_OK && *lv == 0)
        rc = vmci_error(err, VMC_EFORMAT, site, "%s has no block at offset 0x%llx", r->name,
                        (unsigned long long)(off + in));
    /* A neighbour is the same piece. */
    if (rc == VMC_OK && *bytes < r->rs - in &&
        map_system(r, off + in + *bytes, &next, &more, NULL) == VMC_OK && next == *lv + *bytes)
        *bytes += more;
    if (rc == VMC_OK)
        *bytes = VMCI_MIN(*bytes, r->rs - in);
    return rc;
}

static int check_cluster(const struct fs_res *r, uint64_t c, uint64_t lv, const uint8_t *lk,
                         const uint8_t *md, struct vmc_error *err)
{
    if (vmci_ld_le32(lk + LK_TYPE) != r->lock_type || vmci_ld_le64(lk + LK_SELF) != lv)
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s cluster %llu at volume offset 0x%llx: lock has type 0x%x, address "
                          "0x%llx",
                          r->name, (unsigned long long)c, (unsigned long long)lv,
                          vmci_ld_le32(lk + LK_TYPE),
                          (unsigned long long)vmci_ld_le64(lk + LK_SELF));
    const char *fault = vmci_fs_cl_fault(r, md, c, vmci_fs_res_total(r, c));
    if (fault != NULL)
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s cluster %llu at volume offset 0x%llx: %s is wrong (expected %u "
                          "resources)",
                          r->name, (unsigned long long)c, (unsigned long long)lv, fault,
                          vmci_fs_res_total(r, c));
    return VMC_OK;
}

int vmci_fs_res_cluster(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, uint64_t *lv,
                        uint8_t **md, struct fs_page **page, struct vmc_error *err)
{
    struct fs_page *p, *lock;
    int rc = vmci_fs_res_cluster_lv(v, r, c, lv, err);

    /* The lock first, then what it covers: see vmfs_lock.c. */
    if (rc == VMC_OK)
        rc = vmci_fs_page_read(v, *lv, FS_SECTOR, 0, &lock, err);
    if (rc == VMC_OK)
        rc = vmci_fs_page_read(v, *lv + v->g.ch_md, FS_SECTOR, 0, &p, err);
    if (rc != VMC_OK)
        return rc;
    *md = vmci_fs_at(p, *lv + v->g.ch_md);
    *page = p;
    return v->flags & VMC_VMFS_REPAIR ? VMC_OK
                                      : check_cluster(r, c, *lv, vmci_fs_at(lock, *lv), *md, err);
}

int vmci_fs_res_space(struct vmc_vmfs *v, struct fs_res *r, struct vmc_vmfs_usage *out,
                      struct vmc_error *err)
{
    uint32_t unknown = 0; /* clusters: what they have counts as used */

    if (r->child)
        return vmci_fs_lfb_space(v, out, err);
    out->total = r->n;
    out->free = 0;
    for (uint32_t c = 0; c < r->clusters; c++) {
        uint64_t lv;
        uint8_t *md = NULL;
        struct fs_page *p;
        struct vmc_error why;
        int rc = vmci_fs_res_cluster(v, r, c, &lv, &md, &p, &why);
        if (rc == VMC_EFORMAT && v->ro) {
            if (unknown++ == 0)
                vmci_fs_overlook(v, &why);
            continue;
        }
        if (rc != VMC_OK && err != NULL)
            *err = why;
        if (rc != VMC_OK)
            return rc;
        uint32_t n = vmci_fs_cl_free(r, md);
        out->free += n;
        r->free[c] = (uint16_t)n;
        if (c % 64 == 63)
            vmci_fs_cache_trim(v);
    }
    return VMC_OK;
}

/* ---- allocation (inside a transaction) --------------------------------------------------------
 */

/* Lock a cluster and bring its header up to date in the cache. */
static int lock_cluster(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, uint64_t *lv,
                        uint8_t **md, struct fs_page **p, struct vmc_error *err)
{
    int rc = vmci_fs_res_cluster_lv(v, r, c, lv, err);

    if (rc == VMC_OK)
        rc = vmci_fs_txn_lock(v, *lv, r->lock_type, v->g.ch_bytes, err);
    if (rc == VMC_OK)
        rc = vmci_fs_res_cluster(v, r, c, lv, md, p, err);
    if (rc == VMC_OK)
        r->free[c] = (uint16_t)vmci_fs_cl_free(r, *md);
    return rc;
}

static int update_cluster(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, uint64_t lv,
                          uint8_t *md, struct fs_page *p, uint32_t first, uint32_t n, bool free,
                          struct vmc_error *err)
{
    int rc = vmci_fs_txn_dirty(v, p, lv + v->g.ch_md, FS_SECTOR, lv, err);
    if (rc != VMC_OK)
        return rc;
    vmci_fs_cl_mark(r, md, first, n, vmci_fs_res_total(r, c), free);
    r->free[c] = (uint16_t)vmci_fs_cl_free(r, md);
    return VMC_OK;
}

/* Longest run of free items, or the first that has want of them; 0: none. */
static uint32_t find_run(const struct fs_res *r, const uint8_t *md, uint32_t total, uint32_t want,
                         uint32_t *first)
{
    uint32_t best = 0;

    for (uint32_t i = vmci_fs_cl_first(r, md, 0, total); i < total && best < want;) {
        uint32_t n = 1;
        while (i + n < total && n < want && vmci_fs_cl_is_free(r, md, i + n))
            n++;
        if (n > best) {
            best = n;
            *first = i;
        }
        i = vmci_fs_cl_first(r, md, i + n, total);
    }
    return best;
}

/* What is free in a cluster, without its lock. A large block that is whole is all free, or not at
 * all. */
static int peek(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, bool *whole,
                struct vmc_error *err)
{
    uint64_t lv;
    uint8_t *md;
    struct fs_page *p;
    uint32_t state = MAP6_CONVERTED;
    int rc = VMC_OK;

    if (r->child)
        rc = vmci_fs_lfb_state(v, c, &state, err);
    *whole = state == MAP6_FREE;
    if (rc == VMC_OK && state != MAP6_CONVERTED) {
        r->free[c] = (uint16_t)(state == MAP6_FREE ? vmci_fs_res_total(r, c) : 0);
    } else if (rc == VMC_OK && r->free[c] == FS_FREE_UNKNOWN) {
        rc = vmci_fs_res_cluster(v, r, c, &lv, &md, &p, err);
        if (rc == VMC_OK)
            r->free[c] = (uint16_t)vmci_fs_cl_free(r, md);
    }
    return rc;
}

/*
 * Take a run out of cluster c. *got 0: nothing there. A cluster that another host is using right
 * now is passed over; divide: a whole large block may become small ones.
 */
static int take_from(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, uint32_t goal, uint32_t want,
                     bool divide, uint32_t *first, uint32_t *got, struct vmc_error *err)
{
    uint64_t lv;
    uint8_t *md;
    struct fs_page *p;
    uint32_t n = 0, total = vmci_fs_res_total(r, c);
    bool whole = false, usable = true;
    int rc = VMC_OK;

    *got = 0;
    /* Look before locking: a nearly full volume has many clusters to pass over. */
    if (r->free[c] == FS_FREE_UNKNOWN || (r->child && r->free[c] == total))
        rc = peek(v, r, c, &whole, err);
    if (rc != VMC_OK || r->free[c] == 0 || (whole && !divide))
        return rc;
    if (whole)
        rc = vmci_fs_lfb_convert(v, c, &usable, err);
    if (rc != VMC_OK || !usable) {
        r->free[c] = FS_FREE_UNKNOWN;
        return rc;
    }
    rc = lock_cluster(v, r, c, &lv, &md, &p, err);
    if (rc != VMC_OK)
        return rc;
    if (vmci_fs_cl_free(r, md) == 0)
        return VMC_OK;
    if (goal < total && vmci_fs_cl_is_free(r, md, goal)) {
        *first = goal;
        while (n < want && goal + n < total && vmci_fs_cl_is_free(r, md, goal + n))
            n++;
    } else {
        n = find_run(r, md, total, want, first);
    }
    if (n == 0)
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s cluster %llu says %u resources are free, its bitmap has none",
                          r->name, (unsigned long long)c, vmci_fs_cl_free(r, md));
    if (n > vmci_fs_cl_free(r, md))
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s cluster %llu has more free bits than its count %u", r->name,
                          (unsigned long long)c, vmci_fs_cl_free(r, md));
    rc = update_cluster(v, r, c, lv, md, p, *first, n, false, err);
    *got = n;
    return rc;
}

/* Make the next look at every cluster a look at the device. */
static void forget_counts(struct vmc_vmfs *v, struct fs_res *r)
{
    if (r->child)
        forget_counts(v, &v->lfb);
    for (uint32_t c = 0; c < r->clusters; c++) {
        uint64_t lv;
        if ((r->free[c] != 0 && r->bits != 3) ||
            vmci_fs_res_cluster_lv(v, r, c, &lv, NULL) != VMC_OK)
            continue;
        if (!vmci_fs_txn_locked(v, lv))
            vmci_fs_page_drop(v, lv, v->g.ch_bytes);
        r->free[c] = FS_FREE_UNKNOWN;
    }
}

static int search(struct vmc_vmfs *v, struct fs_res *r, uint64_t goal_cluster, uint32_t goal_item,
                  uint32_t want, uint64_t *cluster, uint32_t *first, uint32_t *got,
                  struct vmc_error *err)
{
    uint64_t at = goal_cluster < r->clusters ? goal_cluster : r->next;
    uint32_t need = r->child ? 32 : 1; /* sectors: large blocks may have to be divided */
    bool busy = false;

    *got = 0;
    /* Pass 0: what there is; 1: divide large blocks too; 2: look at the device again. */
    for (int pass = 0; pass < 3; pass++) {
        if (pass == 1 && !r->child)
            continue;
        /* Other hosts may have freed what we remember as full. */
        if (pass == 2 && v->exclusive)
            break;
        if (pass == 2)
            forget_counts(v, r);
        for (uint32_t i = 0; i < r->clusters; i++) {
            uint64_t c = at + i < r->clusters ? at + i : at + i - r->clusters;
            bool wanted = i == 0 && goal_cluster < r->clusters;
            if (!vmci_fs_txn_room(v, need, 4))
                return vmci_error(err, VMC_EAGAIN, site, "%s: the search spans too many clusters",
                                  r->name);
            int rc = take_from(v, r, c, wanted ? goal_item : UINT32_MAX, want, pass > 0 || wanted,
                               first, got, err);
            if (rc == VMC_EBUSY)
                busy = true;
            else if (rc != VMC_OK)
                return rc;
            if (*got != 0) {
                *cluster = c;
                r->next = (uint32_t)c;
                return VMC_OK;
            }
        }
    }
    if (busy)
        return vmci_error(err, VMC_EBUSY, site, "%s: every cluster with room is locked", r->name);
    return vmci_error(err, VMC_ENOSPC, site, "no free %s left (%s)",
                      r->addr_type == AD_FB    ? "file block"
                      : r->addr_type == AD_LFB ? "large file block"
                      : r->addr_type == AD_FD  ? "file descriptor"
                      : r->addr_type == AD_SB  ? "sub-block"
                                               : "pointer block",
                      r->name);
}

int vmci_fs_res_alloc(struct vmc_vmfs *v, struct fs_res *r, uint64_t *cluster, uint32_t *item,
                      struct vmc_error *err)
{
    uint32_t got;

    if (r->clusters == 0)
        return vmci_error(err, VMC_ENOSPC, site, "the volume has no %s", name_of(r->lock_type));
    int rc = search(v, r, UINT64_MAX, 0, 1, cluster, item, &got, err);
    if (rc == VMC_ENOSPC && r == &v->sbc && !v->no_sb && v->g.version < 6) {
        v->no_sb = v->no_sb_new = true;
        v->no_sb_ns = vmci_fs_now(v);
    }
    return rc;
}

int vmci_fs_res_free(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, uint32_t item,
                     uint32_t count, struct vmc_error *err)
{
    uint64_t lv;
    uint8_t *md;
    struct fs_page *p;

    if (c >= r->clusters || item >= vmci_fs_res_total(r, c) ||
        count > vmci_fs_res_total(r, c) - item)
        return vmci_error(err, VMC_EFORMAT, site, "%s has no resource %llu/%u", r->name,
                          (unsigned long long)c, item);
    if (r == &v->sbc)
        v->sb_freed = true;
    int rc = lock_cluster(v, r, c, &lv, &md, &p, err);
    if (rc != VMC_OK)
        return rc;
    for (uint32_t i = item; i < item + count; i++)
        if (vmci_fs_cl_is_free(r, md, i))
            return vmci_error(err, VMC_EFORMAT, site,
                              "%s resource %llu/%u is freed but free already", r->name,
                              (unsigned long long)c, i);
    return update_cluster(v, r, c, lv, md, p, item, count, true, err);
}

int vmci_fs_fb_alloc(struct vmc_vmfs *v, uint64_t goal, uint32_t want, uint64_t *first,
                     uint32_t *got, struct vmc_error *err)
{
    struct fs_res *r = &v->fbb;
    uint64_t cluster = UINT64_MAX;
    uint32_t item = 0;

    int rc = search(v, r, goal < r->n ? goal / r->rpc : UINT64_MAX, (uint32_t)(goal % r->rpc), want,
                    &cluster, &item, got, err);
    if (rc == VMC_OK)
        *first = cluster * r->rpc + item;
    return rc;
}

int vmci_fs_fb_free(struct vmc_vmfs *v, uint64_t first, uint32_t count, struct vmc_error *err)
{
    struct fs_res *r = &v->fbb;

    if (r->n < count || first > r->n - count)
        return vmci_error(err, VMC_EFORMAT, site, "file blocks %llu+%u are outside of the volume",
                          (unsigned long long)first, count);
    while (count > 0) {
        uint64_t c = first / r->rpc;
        uint32_t item = (uint32_t)(first % r->rpc);
        uint32_t n = VMCI_MIN(count, r->rpc - item);
        int rc = vmci_fs_res_free(v, r, c, item, n, err);
        if (rc != VMC_OK)
            return rc;
        first += n;
        count -= n;
    }
    return VMC_OK;
}

void vmci_fs_res_forget(struct vmc_vmfs *v)
{
    struct fs_res *res[] = {&v->fbb, &v->fdc, &v->pbc, &v->sbc, &v->pb2, &v->lfb};

    for (uint32_t i = 0; i < VMCI_ARRAY_SIZE(res); i++)
        if (res[i]->free != NULL)
            memset(res[i]->free, 0xFF, res[i]->clusters * sizeof(*res[i]->free));
}
