/* SPDX-License-Identifier: BSD-2-Clause */
/* The checker: allocation bitmaps against references, locks, heartbeat slots. */
#include "vmfs/vmfs_fsck.h"

struct cluster {
    struct fs_res *r;
    int kind;
    uint64_t c;
    uint32_t total;
};

static void right_bitmap(const struct fsck *f, const struct cluster *k, uint8_t *map, uint32_t *free,
                         uint32_t *next)
{
    memset(map, 0, CL_BITMAP_MAX / 8);
    *free = 0;
    *next = 0;
    for (uint32_t i = k->total; i-- > 0;) {
        if (vmci_bit_test(f->ref[k->kind], k->c * k->r->rpc + i))
            continue;
        map[i / 8] |= (uint8_t)(1u << (i % 8));
        (*free)++;
        *next = i;
    }
}

static int rewrite(struct fsck *f, const struct cluster *k, struct vmc_error *err)
{
    struct vmc_vmfs *v = f->v;
    uint64_t lv;
    uint8_t *md;
    struct fs_page *p;
    uint32_t free, next;

    int rc = vmci_fs_txn_begin(v, err);
    if (rc != VMC_OK)
        return rc;
    rc = vmci_fs_res_cluster_lv(v, k->r, k->c, &lv, err);
    if (rc == VMC_OK)
        rc = vmci_fs_txn_lock(v, lv, k->r->lock_type, v->g.ch_bytes, err);
    if (rc == VMC_OK)
        rc = vmci_fs_res_cluster(v, k->r, k->c, &lv, &md, &p, err);
    if (rc == VMC_OK)
        rc = vmci_fs_txn_dirty(v, p, lv + v->g.ch_md, FS_SECTOR, lv, err);
    if (rc != VMC_OK) {
        vmci_fs_txn_abort(v);
        return rc;
    }
    right_bitmap(f, k, md + CL_BITMAP, &free, &next);
    vmci_st_le32(md + CL_NUMBER, (uint32_t)k->c);
    vmci_st_le32(md + CL_TOTAL, k->total);
    vmci_st_le32(md + CL_FREE, free);
    vmci_st_le32(md + CL_NEXT, next);
    k->r->free[k->c] = (uint16_t)free;
    return vmci_fs_txn_commit(v, err);
}

/* Differences between bitmap and references, one report for each run of them. */
static void compare_bits(struct fsck *f, const struct cluster *k, const uint8_t *have,
                         const uint8_t *want)
{
    for (uint32_t i = 0; i < k->total;) {
        bool a = have[i / 8] >> (i % 8) & 1, b = want[i / 8] >> (i % 8) & 1;
        uint32_t n = 1;
        if (a == b) {
            i++;
            continue;
        }
        while (i + n < k->total && (have[(i + n) / 8] >> ((i + n) % 8) & 1) == a &&
               (want[(i + n) / 8] >> ((i + n) % 8) & 1) == b)
            n++;
        if (b && k->kind == FK_FB)
            f->res->blocks_lost += n;
        vmci_fs_ck_report(f, f->cfg->repair, "%s: %u from number %llu on %s", k->r->name, n,
                          (unsigned long long)(k->c * k->r->rpc + i),
                          b ? "marked used, but nothing refers to them"
                            : "in use, but marked free");
        i += n;
    }
}

/* A lock that names a session which is over. */
static bool stale(struct fsck *f, const uint8_t *lk)
{
    uint32_t mode = vmci_ld_le32(lk + LK_MODE);
    uint64_t hb = vmci_ld_le64(lk + LK_HB);
    uint8_t s[FS_SECTOR];

    if (mode == LK_MODE_FREE || vmci_fs_lock_mine(f->v, lk))
        return false;
    if (hb < FS_HB_LV || (hb - FS_HB_LV) % f->v->g.hb_bytes != 0 ||
        (hb - FS_HB_LV) / f->v->g.hb_bytes >= f->v->g.hb_slots)
        return true;
    if (vmci_fs_read(f->v, hb, s, FS_SECTOR, NULL) != VMC_OK)
        return false;
    return vmci_ld_le32(s + HB_STATE) != HB_USED ||
           vmci_ld_le64(s + HB_GENERATION) != vmci_ld_le64(lk + LK_HB_GEN);
}

/* Taking a lock and giving it back puts every field of it right. */
static int reset_lock(struct fsck *f, uint64_t lv, uint32_t type, uint32_t span, struct vmc_error *err)
{
    bool changed;
    int rc = vmci_fs_lock_take(f->v, lv, type, span, LK_MODE_EXCL, &changed, err);

    return rc == VMC_OK ? vmci_fs_lock_drop(f->v, lv, LK_MODE_FREE, err) : rc;
}

static int check_lock(struct fsck *f, const char *name, uint64_t number, uint64_t lv, uint32_t type,
                      uint32_t span, struct vmc_error *err)
{
    struct fs_page *p;
    int rc = vmci_fs_page_read(f->v, lv, FS_SECTOR, 0, &p, err);

    if (rc != VMC_OK)
        return rc;
    const uint8_t *lk = vmci_fs_at(p, lv);
    bool bad = vmci_ld_le32(lk + LK_TYPE) != type || vmci_ld_le64(lk + LK_SELF) != lv;
    if (!bad && !stale(f, lk))
        return VMC_OK;
    if (!bad) {
        f->res->stale_locks++;
        return f->cfg->repair ? reset_lock(f, lv, type, span, err) : VMC_OK;
    }
    vmci_fs_ck_report(f, f->cfg->repair,
                      "%s %llu: lock at volume offset 0x%llx has type 0x%x, address 0x%llx", name,
                      (unsigned long long)number, (unsigned long long)lv, vmci_ld_le32(lk + LK_TYPE),
                      (unsigned long long)vmci_ld_le64(lk + LK_SELF));
    return f->cfg->repair ? reset_lock(f, lv, type, span, err) : VMC_OK;
}

static int check_cluster(struct fsck *f, const struct cluster *k, struct vmc_error *err)
{
    uint8_t want[CL_BITMAP_MAX / 8];
    uint64_t lv;
    uint8_t *md;
    struct fs_page *p;
    uint32_t free, next;
    const char *what = NULL;

    int rc = vmci_fs_res_cluster_lv(f->v, k->r, k->c, &lv, err);
    if (rc == VMC_OK)
        rc = check_lock(f, k->r->name, k->c, lv, k->r->lock_type, f->v->g.ch_bytes, err);
    if (rc == VMC_OK)
        rc = vmci_fs_page_read(f->v, lv, FS_SECTOR, 0, &p, err);
    if (rc == VMC_OK)
        rc = vmci_fs_page_read(f->v, lv + f->v->g.ch_md, FS_SECTOR, 0, &p, err);
    if (rc != VMC_OK)
        return rc;
    md = vmci_fs_at(p, lv) + f->v->g.ch_md;
    right_bitmap(f, k, want, &free, &next);
    if (k->kind == FK_FB)
        f->res->blocks_used += k->total - free;
    uint64_t errors = f->res->errors;
    compare_bits(f, k, md + CL_BITMAP, want);
    if (vmci_ld_le32(md + CL_NUMBER) != k->c)
        what = "its own number";
    else if (vmci_ld_le32(md + CL_TOTAL) != k->total)
        what = "the number of resources";
    else if (vmci_ld_le32(md + CL_FREE) != free && errors == f->res->errors)
        what = "the free count";
    else if (memcmp(md + CL_BITMAP, want, sizeof(want)) != 0 && errors == f->res->errors)
        what = "bits beyond its end";
    else if (vmci_ld_le32(md + CL_NEXT) >= k->total)
        what = "the next-free hint";
    if (what != NULL)
        vmci_fs_ck_report(f, f->cfg->repair, "%s cluster %llu at volume offset 0x%llx: %s is wrong",
                          k->r->name, (unsigned long long)k->c, (unsigned long long)lv, what);
    if (errors != f->res->errors && f->cfg->repair)
        return rewrite(f, k, err);
    return VMC_OK;
}

int vmci_fs_ck_maps(struct fsck *f, struct vmc_error *err)
{
    for (int kind = 0; kind < FK_KINDS; kind++) {
        struct fs_res *r = f->r[kind];
        for (uint64_t c = 0; c < r->clusters; c++) {
            struct cluster k = {.r = r, .kind = kind, .c = c, .total = vmci_fs_res_total(r, c)};
            int rc = check_cluster(f, &k, err);
            if (rc != VMC_OK)
                return rc;
            if (c % 64 == 63)
                vmci_fs_cache_trim(f->v);
        }
    }
    for (uint64_t n = 0; n < f->v->fdc.n; n++) {
        uint64_t lv;
        if (!(f->info[n] & FI_GOOD))
            continue;
        int rc = vmci_fs_res_item_lv(f->v, &f->v->fdc, n / f->v->fdc.rpc,
                                     (uint32_t)(n % f->v->fdc.rpc), &lv, err);
        if (rc == VMC_OK)
            rc = check_lock(f, "file descriptor", n, lv, LK_FD, f->v->g.fd_bytes, err);
        if (rc != VMC_OK)
            return rc;
        if (n % 64 == 63)
            vmci_fs_cache_trim(f->v);
    }
    return VMC_OK;
}

/* ---- heartbeats ------------------------------------------------------------------------------------ */

/* Before a repair every other session has to be over; the dead are recovered on the way. */
static int bury(struct fsck *f, uint32_t slot, const uint8_t *hb, struct vmc_error *err)
{
    struct vmc_vmfs *v = f->v;
    uint64_t end = vmci_fs_now(v) + 2ull * (v->lease_ms + v->window_ms) * 1000000ull;

    for (;;) {
        int rc = vmci_fs_session_dead(v, slot, vmci_ld_le64(hb + HB_GENERATION), hb + HB_OWNER, err);
        if (rc != VMC_EBUSY || vmci_fs_now(v) > end || !vmci_fs_sleep(v, 250000000ull))
            return rc;
        rc = vmci_fs_session_check(v, err);
        if (rc != VMC_OK)
            return rc;
    }
}

int vmci_fs_ck_heartbeats(struct fsck *f, struct vmc_error *err)
{
    struct vmc_vmfs *v = f->v;
    uint8_t hb[FS_SECTOR];

    for (uint32_t i = 0; i < v->g.hb_slots; i++) {
        uint64_t lv = vmci_fs_hb_lv(v, i);
        int rc = vmci_fs_read(v, lv, hb, FS_SECTOR, err);
        if (rc != VMC_OK)
            return rc;
        uint32_t state = vmci_ld_le32(hb + HB_STATE);
        if ((state != HB_FREE && state != HB_USED) || vmci_ld_le64(hb + HB_SELF) != lv) {
            vmci_fs_ck_report(f, f->cfg->repair, "heartbeat slot %u: state 0x%x, own address 0x%llx",
                              i, state, (unsigned long long)vmci_ld_le64(hb + HB_SELF));
            if (f->cfg->repair) {
                uint8_t clean[FS_SECTOR] = {0};
                vmci_st_le32(clean + HB_STATE, HB_FREE);
                vmci_st_le64(clean + HB_SELF, lv);
                vmci_st_le64(clean + HB_GENERATION, vmci_ld_le64(hb + HB_GENERATION) + 1);
                rc = vmci_fs_caw(v, lv, hb, clean, err);
            }
        } else if (state == HB_USED && f->cfg->repair && !(v->s.active && i == v->s.slot)) {
            rc = bury(f, i, hb, err);
        }
        if (rc != VMC_OK)
            return rc;
    }
    return VMC_OK;
}
