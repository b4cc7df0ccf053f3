/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Resource files: clusters of file blocks, file descriptors, pointer blocks and sub-blocks, each
 * with a lock, a bitmap and a free count.
 */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("resource");

static const char *name_of(uint32_t type)
{
    switch (type) {
    case LK_FBB:
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
    default:
        return CL_BITMAP_MAX;
    }
}

static int check_header(const struct vmc_vmfs *v, const struct fs_res *r, uint32_t group_off,
                        uint32_t groups, struct vmc_error *err)
{
    uint64_t gs = (uint64_t)r->cpg * r->gs; /* gs holds the bytes of one cluster here */
    uint32_t rs = r->addr_type == AD_FB   ? 0
                  : r->addr_type == AD_FD ? v->g.fd_bytes
                  : r->addr_type == AD_SB ? v->g.sb_bytes
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
    if (clusters > 0x3FFFFF || groups != (clusters + r->cpg - 1) / r->cpg)
        return vmci_error(err, VMC_EFORMAT, site, "%s header: %u groups do not hold %llu resources",
                          r->name, groups, (unsigned long long)r->n);
    return VMC_OK;
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
    r->rpc = vmci_ld_le32(h + RF_RPC);
    r->cpg = vmci_ld_le32(h + RF_CPG);
    r->rs = vmci_ld_le32(h + RF_RS);
    r->n = vmci_ld_le32(h + RF_N) | (uint64_t)vmci_ld_le32(h + RF_N_HIGH) << 32;
    uint32_t groups = vmci_ld_le32(h + RF_GROUPS);
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
 * An offset in a system file. Where a resource crosses a file block (sub-blocks of VMFS3), the next
 * block has to be its neighbour, as formatting makes it.
 */
static int file_lv(struct fs_res *r, uint64_t off, uint32_t bytes, uint64_t *lv,
                   struct vmc_error *err)
{
    uint64_t len;
    bool tbz;

    if (r->lock_type == LK_FDC && off < RF_HEADER + r->gs && r->ino->v->sys[2] == NULL) {
        *lv = r->ino->v->g.fdc_base + off;
        return VMC_OK;
    }
    int rc = vmci_fs_map_lv(r->ino, off, lv, &len, &tbz, err);
    if (rc == VMC_OK && *lv != 0 && len < bytes) {
        uint64_t next, more;
        rc = vmci_fs_map_lv(r->ino, off + len, &next, &more, &tbz, err);
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
        return file_lv(r, RF_HEADER + c / per * r->parent_gs +
                              (uint64_t)r->parent_cpg * v->g.ch_bytes + c % per * v->g.ch_bytes,
                       v->g.ch_bytes, lv, err);
    }
    return file_lv(r, RF_HEADER + c / r->cpg * r->gs + c % r->cpg * v->g.ch_bytes, v->g.ch_bytes,
                   lv, err);
}

int vmci_fs_res_item_lv(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, uint32_t item,
                        uint64_t *lv, struct vmc_error *err)
{
    if (c >= r->clusters || item >= vmci_fs_res_total(r, c))
        return vmci_error(err, VMC_EFORMAT, site, "%s has no resource %llu/%u", r->name,
                          (unsigned long long)c, item);
    return file_lv(r, RF_HEADER + c / r->cpg * r->gs + (uint64_t)r->cpg * v->g.ch_bytes +
                          (c % r->cpg * r->rpc + item) * (uint64_t)r->rs,
                   r->rs, lv, err);
}

static int check_cluster(const struct fs_res *r, uint64_t c, uint64_t lv, const uint8_t *lk,
                         const uint8_t *md, struct vmc_error *err)
{
    uint32_t total = vmci_fs_res_total(r, c);

    if (vmci_ld_le32(lk + LK_TYPE) != r->lock_type || vmci_ld_le64(lk + LK_SELF) != lv)
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s cluster %llu at volume offset 0x%llx: lock has type 0x%x, address "
                          "0x%llx",
                          r->name, (unsigned long long)c, (unsigned long long)lv,
                          vmci_ld_le32(lk + LK_TYPE), (unsigned long long)vmci_ld_le64(lk + LK_SELF));
    if (vmci_ld_le32(md + CL_NUMBER) != c || vmci_ld_le32(md + CL_TOTAL) != total ||
        vmci_ld_le32(md + CL_FREE) > total)
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s cluster %llu at volume offset 0x%llx: number %u, %u resources, %u "
                          "free; expected %u resources",
                          r->name, (unsigned long long)c, (unsigned long long)lv,
                          vmci_ld_le32(md + CL_NUMBER), vmci_ld_le32(md + CL_TOTAL),
                          vmci_ld_le32(md + CL_FREE), total);
    return VMC_OK;
}

int vmci_fs_res_cluster(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, uint64_t *lv,
                        uint8_t **md, struct fs_page **page, struct vmc_error *err)
{
    struct fs_page *p;
    int rc = vmci_fs_res_cluster_lv(v, r, c, lv, err);

    if (rc != VMC_OK)
        return rc;
    if (v->g.version == 6) {
        rc = vmci_fs_page_read(v, *lv + v->g.ch_md, FS_PAGE, 0, &p, err);
        if (rc != VMC_OK)
            return rc;
        *md = p->data;
        *page = p;
        if (vmci_ld_le32(*md + CL6_MAGIC_OFF) != CL6_MAGIC)
            return vmci_error(err, VMC_EFORMAT, site, "%s cluster %llu: signature is 0x%x", r->name,
                              (unsigned long long)c, vmci_ld_le32(*md + CL6_MAGIC_OFF));
        return VMC_OK;
    }
    /* The lock first, then what it covers: see vmfs_lock.c. */
    rc = vmci_fs_page_read(v, *lv, FS_SECTOR, 0, &p, err);
    if (rc == VMC_OK)
        rc = vmci_fs_page_read(v, *lv + v->g.ch_md, FS_SECTOR, 0, &p, err);
    if (rc != VMC_OK)
        return rc;
    *md = vmci_fs_at(p, *lv) + v->g.ch_md;
    *page = p;
    return v->flags & VMC_VMFS_REPAIR ? VMC_OK
                                      : check_cluster(r, c, *lv, vmci_fs_at(p, *lv), *md, err);
}

int vmci_fs_res_space(struct vmc_vmfs *v, struct fs_res *r, struct vmc_vmfs_usage *out,
                      struct vmc_error *err)
{
    out->total = r->n;
    out->free = 0;
    for (uint32_t c = 0; c < r->clusters; c++) {
        uint64_t lv;
        uint8_t *md;
        struct fs_page *p;
        int rc = vmci_fs_res_cluster(v, r, c, &lv, &md, &p, err);
        if (rc != VMC_OK)
            return rc;
        uint32_t n = v->g.version == 6 ? vmci_ld_le16(md + CL6_FREE) : vmci_ld_le32(md + CL_FREE);
        out->free += n;
        r->free[c] = (uint16_t)n;
        if (c % 64 == 63)
            vmci_fs_cache_trim(v);
    }
    return VMC_OK;
}

/* ---- allocation (VMFS3, VMFS5; inside a transaction) ----------------------------------------- */

static bool bit_free(const uint8_t *md, uint32_t i)
{
    return (md[CL_BITMAP + i / 8] >> (i % 8)) & 1;
}

static void set_bits(uint8_t *md, uint32_t first, uint32_t n, bool free)
{
    for (uint32_t i = first; i < first + n; i++) {
        if (free)
            md[CL_BITMAP + i / 8] |= (uint8_t)(1u << (i % 8));
        else
            md[CL_BITMAP + i / 8] &= (uint8_t)~(1u << (i % 8));
    }
}

static uint32_t first_free(const uint8_t *md, uint32_t from, uint32_t total)
{
    for (uint32_t i = from; i < total; i++) {
        if (i % 8 == 0 && md[CL_BITMAP + i / 8] == 0) {
            i += 7;
            continue;
        }
        if (bit_free(md, i))
            return i;
    }
    return total;
}

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
        r->free[c] = (uint16_t)vmci_ld_le32(*md + CL_FREE);
    return rc;
}

static int update_cluster(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, uint64_t lv,
                          uint8_t *md, struct fs_page *p, uint32_t first, uint32_t n, bool free,
                          struct vmc_error *err)
{
    uint32_t total = vmci_fs_res_total(r, c);
    uint32_t count = vmci_ld_le32(md + CL_FREE);

    int rc = vmci_fs_txn_dirty(v, p, lv + v->g.ch_md, FS_SECTOR, lv, err);
    if (rc != VMC_OK)
        return rc;
    set_bits(md, first, n, free);
    count = free ? count + n : count - n;
    vmci_st_le32(md + CL_FREE, count);
    uint32_t next = first_free(md, 0, total);
    vmci_st_le32(md + CL_NEXT, next == total ? 0 : next);
    r->free[c] = (uint16_t)count;
    return VMC_OK;
}

/* Longest run of free items, or the first that has want of them; 0: none. */
static uint32_t find_run(const uint8_t *md, uint32_t total, uint32_t want, uint32_t *first)
{
    uint32_t best = 0;

    for (uint32_t i = first_free(md, 0, total); i < total && best < want;) {
        uint32_t n = 1;
        while (i + n < total && n < want && bit_free(md, i + n))
            n++;
        if (n > best) {
            best = n;
            *first = i;
        }
        i = first_free(md, i + n, total);
    }
    return best;
}

/*
 * Take a run out of cluster c. *got 0: nothing there. A cluster that another host is using right
 * now is passed over.
 */
static int take_from(struct vmc_vmfs *v, struct fs_res *r, uint64_t c, uint32_t goal,
                     uint32_t want, uint32_t *first, uint32_t *got, struct vmc_error *err)
{
    uint64_t lv;
    uint8_t *md;
    struct fs_page *p;
    uint32_t n = 0, total = vmci_fs_res_total(r, c);

    *got = 0;
    if (r->free[c] == FS_FREE_UNKNOWN) {
        /* Look before locking: a nearly full volume has many clusters to pass over. */
        int rc = vmci_fs_res_cluster(v, r, c, &lv, &md, &p, err);
        if (rc != VMC_OK)
            return rc;
        r->free[c] = (uint16_t)vmci_ld_le32(md + CL_FREE);
    }
    if (r->free[c] == 0)
        return VMC_OK;
    int rc = lock_cluster(v, r, c, &lv, &md, &p, err);
    if (rc != VMC_OK)
        return rc;
    if (vmci_ld_le32(md + CL_FREE) == 0)
        return VMC_OK;
    if (goal < total && bit_free(md, goal)) {
        *first = goal;
        while (n < want && goal + n < total && bit_free(md, goal + n))
            n++;
    } else {
        n = find_run(md, total, want, first);
    }
    if (n == 0)
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s cluster %llu says %u resources are free, its bitmap has none", r->name,
                          (unsigned long long)c, vmci_ld_le32(md + CL_FREE));
    if (n > vmci_ld_le32(md + CL_FREE))
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s cluster %llu has more free bits than its count %u", r->name,
                          (unsigned long long)c, vmci_ld_le32(md + CL_FREE));
    rc = update_cluster(v, r, c, lv, md, p, *first, n, false, err);
    *got = n;
    return rc;
}

/* Make the next look at every cluster a look at the device. */
static void forget_counts(struct vmc_vmfs *v, struct fs_res *r)
{
    for (uint32_t c = 0; c < r->clusters; c++) {
        uint64_t lv;
        if (r->free[c] != 0 || vmci_fs_res_cluster_lv(v, r, c, &lv, NULL) != VMC_OK)
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
    bool busy = false;

    *got = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < r->clusters; i++) {
            uint64_t c = at + i < r->clusters ? at + i : at + i - r->clusters;
            uint32_t goal = i == 0 && goal_cluster < r->clusters ? goal_item : UINT32_MAX;
            if (!vmci_fs_txn_room(v, 1, 1))
                return vmci_error(err, VMC_EAGAIN, site, "%s: the search spans too many clusters",
                                  r->name);
            int rc = take_from(v, r, c, goal, want, first, got, err);
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
        /* Other hosts may have freed what we remember as full. */
        if (pass == 0 && !v->exclusive)
            forget_counts(v, r);
    }
    if (busy)
        return vmci_error(err, VMC_EBUSY, site, "%s: every cluster with room is locked", r->name);
    return vmci_error(err, VMC_ENOSPC, site, "no free %s left (%s)",
                      r->addr_type == AD_FB   ? "file block"
                      : r->addr_type == AD_FD ? "file descriptor"
                      : r->addr_type == AD_SB ? "sub-block"
                                              : "pointer block",
                      r->name);
}

int vmci_fs_res_alloc(struct vmc_vmfs *v, struct fs_res *r, uint64_t *cluster, uint32_t *item,
                      struct vmc_error *err)
{
    uint32_t got;

    if (r->clusters == 0)
        return vmci_error(err, VMC_ENOSPC, site, "the volume has no %s", name_of(r->lock_type));
    return search(v, r, UINT64_MAX, 0, 1, cluster, item, &got, err);
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
    int rc = lock_cluster(v, r, c, &lv, &md, &p, err);
    if (rc != VMC_OK)
        return rc;
    for (uint32_t i = item; i < item + count; i++)
        if (bit_free(md, i))
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
    uint32_t item;

    int rc = search(v, r, goal < r->n ? goal / r->rpc : UINT64_MAX, (uint32_t)(goal % r->rpc),
                    want, &cluster, &item, got, err);
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
    struct fs_res *res[] = {&v->fbb, &v->fdc, &v->pbc, &v->sbc, &v->pb2};

    for (uint32_t i = 0; i < VMCI_ARRAY_SIZE(res); i++)
        if (res[i]->free != NULL)
            memset(res[i]->free, 0xFF, res[i]->clusters * sizeof(*res[i]->free));
}
