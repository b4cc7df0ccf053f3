/* SPDX-License-Identifier: BSD-2-Clause */
/* The checker: allocation bitmaps against references, locks, heartbeat slots. */
#include "vmfs/vmfs_fsck.h"

struct cluster {
    struct fs_res *r;
    int kind;
    uint64_t c;
    uint32_t total;
};

/* Does a file use one of the small blocks inside of a large one? */
static bool divided(const struct fsck *f, uint64_t n)
{
    const struct fs_res *r = f->r[FK_FB];
    uint64_t first = n * r->rpc, end = VMCI_MIN(first + r->rpc, r->n);

    for (uint64_t i = first; i < end; i++)
        if (vmci_bit_test(f->ref[FK_FB], i))
            return true;
    return false;
}

/* What a resource has to be marked as. */
static uint32_t right_value(const struct fsck *f, const struct cluster *k, const uint8_t *md,
                            uint32_t i)
{
    uint64_t n = k->c * k->r->rpc + i;
    bool used = vmci_bit_test(f->ref[k->kind], n);
    uint32_t is = vmci_fs_cl_value(k->r, md, i);

    if (k->kind == FK_LFB && !used && (divided(f, n) || (is & MAP6_CONVERTED)))
        return is & MAP6_CONVERTED ? is : MAP6_CONVERTED; /* stays divided, once it is */
    /* On volumes of others only what is used has a value that we know. */
    if (k->kind <= FK_FB && k->r->six && !f->v->marked)
        return used && k->kind == FK_FB ? MAP6_USED : is;
    return used ? 0 : 1;
}

/* The header's sector as it should be; returns how many are free. */
static uint32_t right_map(const struct fsck *f, const struct cluster *k, const uint8_t *md,
                          uint8_t *want)
{
    uint32_t from = k->r->six ? CL6_BITMAP : CL_BITMAP, free = 0, next = 0;
    uint32_t bytes = k->r->six ? (k->r->rpc * k->r->bits + 7) / 8 : CL_BITMAP_MAX / 8;

    memcpy(want, md, FS_SECTOR);
    memset(want + from, 0, bytes);
    for (uint32_t i = k->total; i-- > 0;) {
        uint32_t value = right_value(f, k, md, i);
        vmci_fs_cl_put(k->r, want, i, value);
        if (value == 1) {
            free++;
            next = i;
        }
    }
    vmci_fs_cl_counts(k->r, want, free, next);
    return free;
}

static int rewrite(struct fsck *f, const struct cluster *k, struct vmc_error *err)
{
    struct vmc_vmfs *v = f->v;
    uint64_t lv;
    uint8_t *md, want[FS_SECTOR];
    struct fs_page *p;

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
    uint32_t free = right_map(f, k, md, want);
    memcpy(md, want, FS_SECTOR);
    if (k->r->six) {
        vmci_st_le32(md + CL6_MAGIC_OFF, CL6_MAGIC);
        vmci_st_le64(md + CL6_NUMBER, k->c);
        vmci_st_le16(md + CL6_TOTAL, (uint16_t)k->total);
    } else {
        vmci_st_le32(md + CL_NUMBER, (uint32_t)k->c);
        vmci_st_le32(md + CL_TOTAL, k->total);
    }
    k->r->free[k->c] = (uint16_t)free;
    return vmci_fs_txn_commit(v, err);
}

/* Differences between map and references, one report for each run of them. */
static void compare_map(struct fsck *f, const struct cluster *k, const uint8_t *have,
                        const uint8_t *want)
{
    for (uint32_t i = 0; i < k->total;) {
        uint32_t a = vmci_fs_cl_value(k->r, have, i), b = vmci_fs_cl_value(k->r, want, i);
        uint32_t n = 1;
        if (a == b) {
            i++;
            continue;
        }
        while (i + n < k->total && vmci_fs_cl_value(k->r, have, i + n) == a &&
               vmci_fs_cl_value(k->r, want, i + n) == b)
            n++;
        bool lost = b == 1;
        if (lost && k->kind == FK_FB)
            f->res->blocks_lost += n;
        vmci_fs_ck_report(f, f->cfg->repair, "%s: %u from number %llu on %s", k->r->name, n,
                          (unsigned long long)(k->c * k->r->rpc + i),
                          lost ? "marked used, but nothing refers to them"
                               : "in use, but marked free");
        i += n;
    }
}

/* Is a session over, or none at all? What cannot be read is not called over. */
static bool over(struct fsck *f, uint64_t hb, uint64_t generation)
{
    uint8_t s[FS_SECTOR];

    if (hb < FS_HB_LV || (hb - FS_HB_LV) % f->v->g.hb_bytes != 0 ||
        (hb - FS_HB_LV) / f->v->g.hb_bytes >= f->v->g.hb_slots)
        return true;
    if (vmci_fs_read(f->v, hb, s, FS_SECTOR, NULL) != VMC_OK)
        return false;
    return vmci_ld_le32(s + HB_STATE) != HB_USED || vmci_ld_le64(s + HB_GENERATION) != generation;
}

/* A lock of which every session that it names is over: the last holder, and those that share it. */
static bool stale(struct fsck *f, const uint8_t *lk)
{
    uint32_t mode = vmci_ld_le32(lk + LK_MODE), holders = 0;

    if (mode == LK_MODE_FREE || vmci_fs_lock_mine(f->v, lk) ||
        !over(f, vmci_ld_le64(lk + LK_HB), vmci_ld_le64(lk + LK_HB_GEN)))
        return false;
    if (mode != LK_MODE_EXCL)
        holders = vmci_ld_le32(lk + LK_HOLDERS);
    if (holders > LK_HOLDER_MAX) /* the others are not in the lock */
        return false;
    for (uint32_t i = 0; i < holders; i++) {
        const uint8_t *h = lk + LK_HOLDER + i * LK_HOLDER_LEN;
        if (!over(f, vmci_ld_le64(h), vmci_ld_le64(h + 8)))
            return false;
    }
    return true;
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

/* What is wrong with a header besides its map; NULL: nothing. */
static const char *header_fault(const struct cluster *k, const uint8_t *md, const uint8_t *want,
                                bool same_map)
{
    const char *fault = vmci_fs_cl_fault(k->r, md, k->c, k->total);
    uint32_t from = k->r->six ? CL6_BITMAP : CL_BITMAP;
    uint32_t bytes = k->r->six ? (k->r->rpc * k->r->bits + 7) / 8 : CL_BITMAP_MAX / 8;

    if (fault != NULL)
        return fault;
    if (same_map && vmci_fs_cl_free(k->r, md) != vmci_fs_cl_free(k->r, want))
        return "free count";
    if (same_map && memcmp(md + from, want + from, bytes) != 0)
        return "map beyond its end";
    if (vmci_ld_le32(md + (k->r->six ? CL6_NEXT : CL_NEXT)) >= k->total)
        return "next-free hint";
    return NULL;
}

static int check_cluster(struct fsck *f, const struct cluster *k, struct vmc_error *err)
{
    uint8_t want[FS_SECTOR];
    uint64_t lv;
    uint8_t *md;
    struct fs_page *p;
    uint32_t state = MAP6_CONVERTED;
    int rc = VMC_OK;

    if (k->r->child)
        rc = vmci_fs_lfb_state(f->v, k->c, &state, err);
    if (rc == VMC_OK && !(state & MAP6_CONVERTED)) {
        /* A large block that is whole has no header for small ones. */
        if (vmci_bit_test(f->ref[FK_LFB], k->c))
            f->res->blocks_used += k->total;
        return VMC_OK;
    }
    if (rc == VMC_OK)
        rc = vmci_fs_res_cluster_lv(f->v, k->r, k->c, &lv, err);
    if (rc == VMC_OK)
        rc = check_lock(f, k->r->name, k->c, lv, k->r->lock_type, f->v->g.ch_bytes, err);
    if (rc == VMC_OK)
        rc = vmci_fs_page_read(f->v, lv, FS_SECTOR, 0, &p, err);
    if (rc == VMC_OK)
        rc = vmci_fs_page_read(f->v, lv + f->v->g.ch_md, FS_SECTOR, 0, &p, err);
    if (rc != VMC_OK)
        return rc;
    md = vmci_fs_at(p, lv + f->v->g.ch_md);
    uint32_t free = right_map(f, k, md, want);
    if (k->kind == FK_FB)
        f->res->blocks_used += k->total - free;
    uint64_t errors = f->res->errors;
    compare_map(f, k, md, want);
    bool counts = f->v->g.version != 6 || f->v->marked || k->kind > FK_FB;
    const char *what = header_fault(k, md, want, counts && errors == f->res->errors);
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
