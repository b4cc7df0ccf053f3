/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * On-disk locks of file descriptors and clusters.
 *
 * The cached image of a lock sector doubles as a version of what the lock covers: contents are
 * only read after the image, every acquisition changes the image (its token), so an acquisition
 * by compare-and-write against the cached image proves in one request both that the lock was free
 * and that the cached contents are current.
 *
 * Before a lock is taken over from another session the devices are flushed. So whatever that
 * session wrote under the lock is durable when the lock names us, and its journal no longer
 * matters for this object (vmfs_journal.c relies on it).
 */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("lock");

#define LOCK_TRIES      1000000u /* bound of the retry loop; time bounds it first */
#define BACKOFF_NS      500000ull
#define BACKOFF_MAX     8000000ull
#define PATIENCE        16u /* times lock_wait_ms, for a lock that goes from host to host */
#define HOLDING_WAIT_MS 20ull

static bool same_session(const struct vmc_vmfs *v, const uint8_t *hb, const uint8_t *gen)
{
    return v->s.active && vmci_ld_le64(hb) == v->s.hb_lv && vmci_ld_le64(gen) == v->s.generation;
}

bool vmci_fs_lock_mine(const struct vmc_vmfs *v, const uint8_t *lk)
{
    return same_session(v, lk + LK_HB, lk + LK_HB_GEN);
}

static int slot_of(const struct vmc_vmfs *v, uint64_t hb, uint32_t *slot)
{
    uint64_t off = hb - FS_HB_LV;

    if (hb < FS_HB_LV || off % v->g.hb_bytes != 0 || off / v->g.hb_bytes >= v->g.hb_slots)
        return VMC_EFORMAT;
    *slot = (uint32_t)(off / v->g.hb_bytes);
    return VMC_OK;
}

/* Is the session gone that a holder names? A holder that names no slot is nobody. */
static int holder_gone(struct vmc_vmfs *v, const uint8_t *hb, const uint8_t *gen,
                       const uint8_t *owner, struct vmc_error *err)
{
    uint32_t slot;

    if (same_session(v, hb, gen) || slot_of(v, vmci_ld_le64(hb), &slot) != VMC_OK)
        return VMC_OK;
    return vmci_fs_session_dead(v, slot, vmci_ld_le64(gen), owner, err);
}

int vmci_fs_lock_contended(struct vmc_vmfs *v, uint64_t lv, const uint8_t *lk,
                           struct vmc_error *err)
{
    uint32_t mode = vmci_ld_le32(lk + LK_MODE);
    uint32_t n = VMCI_MIN(vmci_ld_le32(lk + LK_HOLDERS), LK_HOLDER_MAX);
    int rc = VMC_OK;

    (void)lv;
    if (mode == LK_MODE_EXCL)
        return holder_gone(v, lk + LK_HB, lk + LK_HB_GEN, lk + LK_OWNER, err);
    for (uint32_t i = 0; i < n && rc == VMC_OK; i++) {
        const uint8_t *h = lk + LK_HOLDER + i * LK_HOLDER_LEN;
        rc = holder_gone(v, h, h + 8, h + 16, err);
    }
    return rc;
}

/* Can a lock in its present state be taken in this mode? Joining readers need a free entry. */
static int may_take(struct vmc_vmfs *v, uint64_t lv, const uint8_t *lk, uint32_t mode,
                    struct vmc_error *err)
{
    uint32_t now = vmci_ld_le32(lk + LK_MODE);

    if (now == LK_MODE_FREE)
        return VMC_OK;
    if (now == LK_MODE_EXCL && vmci_fs_lock_mine(v, lk))
        return VMC_OK;
    if (now == mode && mode != LK_MODE_EXCL && vmci_ld_le32(lk + LK_HOLDERS) < LK_HOLDER_MAX)
        return VMC_OK;
    return vmci_fs_lock_contended(v, lv, lk, err);
}

static void set_holder(uint8_t *h, const struct vmc_vmfs *v)
{
    vmci_st_le64(h, v->s.hb_lv);
    vmci_st_le64(h + 8, v->s.generation);
    memcpy(h + 16, v->host_uuid.b, 16);
}

static void build_taken(const struct vmc_vmfs *v, uint64_t lv, uint32_t type, uint32_t mode,
                        const uint8_t *old, uint8_t *lk)
{
    uint32_t was = vmci_ld_le32(old + LK_MODE);
    uint32_t n = 0;

    memcpy(lk, old, FS_SECTOR);
    vmci_st_le32(lk + LK_TYPE, type);
    vmci_st_le64(lk + LK_SELF, lv);
    vmci_st_le64(lk + LK_HB, v->s.hb_lv);
    vmci_st_le64(lk + LK_HB_GEN, v->s.generation);
    vmci_st_le64(lk + LK_TOKEN, vmci_ld_le64(old + LK_TOKEN) + 1);
    vmci_st_le32(lk + LK_MODE, mode);
    memcpy(lk + LK_OWNER, v->host_uuid.b, 16);
    if (mode != LK_MODE_EXCL && was == mode)
        n = VMCI_MIN(vmci_ld_le32(old + LK_HOLDERS), LK_HOLDER_MAX - 1);
    memset(lk + LK_HOLDER + n * LK_HOLDER_LEN, 0, (LK_HOLDER_MAX - n) * LK_HOLDER_LEN);
    if (mode != LK_MODE_EXCL)
        set_holder(lk + LK_HOLDER + n++ * LK_HOLDER_LEN, v);
    vmci_st_le32(lk + LK_HOLDERS, n);
}

/* Make sure that what the lock covers is what its last holder wrote. */
static int settle(struct vmc_vmfs *v, const uint8_t *lk, bool *replayed, struct vmc_error *err)
{
    uint32_t slot;
    uint64_t generation = vmci_ld_le64(lk + LK_HB_GEN);

    *replayed = false;
    if (vmci_fs_lock_mine(v, lk) || slot_of(v, vmci_ld_le64(lk + LK_HB), &slot) != VMC_OK ||
        !v->unsure[slot] || generation != v->gen_at_mount[slot])
        return VMC_OK;
    *replayed = true;
    return vmci_fs_session_settle(v, slot, generation, err);
}

/* What the previous session wrote under the lock has to be durable before the lock names us. */
static int take_over(struct vmc_vmfs *v, uint64_t lv, const uint8_t *lk, struct vmc_error *err)
{
    uint32_t slot;

    if (vmci_fs_lock_mine(v, lk) || slot_of(v, vmci_ld_le64(lk + LK_HB), &slot) != VMC_OK ||
        vmci_ld_le64(lk + LK_HB_GEN) < v->gen_at_mount[slot])
        return VMC_OK;
    int rc = vmci_fs_flush(v, err);
    if (rc != VMC_OK)
        return rc;
    v->j.tail = v->j.seq;
    return vmci_fs_journal_has(v, lv) ? vmci_fs_journal_checkpoint(v, err) : VMC_OK;
}

/* Nothing of what the lock covers is known any longer; keep: but its own sector is. */
static void forget(struct vmc_vmfs *v, struct fs_page *p, uint64_t lv, uint32_t span, bool keep)
{
    uint8_t bit = (uint8_t)vmci_fs_sector_mask(lv, FS_SECTOR) & p->valid;

    vmci_fs_page_drop(v, lv, span);
    if (keep)
        p->valid |= bit;
}

static int reread(struct vmc_vmfs *v, uint64_t lv, uint32_t span, struct fs_page *p, bool *changed,
                  struct vmc_error *err)
{
    uint8_t now[FS_SECTOR];
    uint8_t *lk = vmci_fs_at(p, lv);
    uint8_t bit = (uint8_t)vmci_fs_sector_mask(lv, FS_SECTOR);
    int rc = vmci_fs_read(v, lv, now, FS_SECTOR, err);

    if (rc != VMC_OK)
        return rc;
    if (!(p->valid & bit) || memcmp(now, lk, FS_SECTOR) != 0) {
        memcpy(lk, now, FS_SECTOR);
        forget(v, p, lv, span, false);
        p->valid |= bit;
        *changed = true;
    }
    return VMC_OK;
}

static int check_image(const struct vmc_vmfs *v, uint64_t lv, uint32_t type, const uint8_t *lk,
                       struct vmc_error *err)
{
    uint32_t is = vmci_ld_le32(lk + LK_TYPE);

    if (v->flags & VMC_VMFS_REPAIR)
        return VMC_OK;
    /* A file descriptor that was never used; a large block that was never divided. */
    if (is == 0 && (type == LK_FD || (type == LK_FBB && v->g.version == 6)))
        return VMC_OK;
    if (is != type || vmci_ld_le64(lk + LK_SELF) != lv)
        return vmci_error(err, VMC_EFORMAT, site,
                          "lock at volume offset 0x%llx has type 0x%x and address 0x%llx, expected "
                          "type 0x%x",
                          (unsigned long long)lv, is,
                          (unsigned long long)vmci_ld_le64(lk + LK_SELF), type);
    return VMC_OK;
}

/* How long to wait for a lock that others have. */
struct patience {
    uint64_t deadline, last; /* last: however often it changed hands */
    uint64_t pause;
};

/*
 * VMC_OK: slept, try again. VMC_EBUSY: that was long enough. A lock that changes hands is not
 * stuck: it is waited for longer than one that the same session keeps.
 */
static int back_off(struct vmc_vmfs *v, struct patience *w, uint64_t lv, const uint8_t *lk,
                    struct vmc_error *err)
{
    /* Holding other locks, do not wait for long: the transaction is tried again. */
    uint64_t ns = (v->txn.locks > 0 ? HOLDING_WAIT_MS : v->lock_wait_ms) * 1000000ull;
    uint64_t now = vmci_fs_now(v), token = vmci_ld_le64(lk + LK_TOKEN);

    if (w->deadline == 0) {
        w->last = now + (v->txn.locks > 0 ? ns : PATIENCE * ns);
        w->pause = BACKOFF_NS + v->s.slot % 16 * (BACKOFF_NS / 16);
    }
    bool moved = v->busy_lv == lv && v->busy_token != token;
    if (w->deadline == 0 || moved)
        w->deadline = now + ns;
    v->lock_moved = v->lock_moved || moved;
    v->busy_lv = lv;
    v->busy_token = token;
    if (now >= VMCI_MIN(w->deadline, w->last) || !vmci_fs_sleep(v, w->pause))
        return VMC_EBUSY;
    w->pause = VMCI_MIN(w->pause * 3 / 2, BACKOFF_MAX);
    /* The caller has the volume's lock: nobody else can renew the lease meanwhile. */
    return v->s.active ? vmci_fs_session_check(v, err) : VMC_OK;
}

int vmci_fs_lock_take(struct vmc_vmfs *v, uint64_t lv, uint32_t type, uint32_t span, uint32_t mode,
                      bool *changed, struct vmc_error *err)
{
    struct fs_page *p;
    uint8_t bit = (uint8_t)vmci_fs_sector_mask(lv, FS_SECTOR);
    uint8_t image[FS_SECTOR];
    struct patience wait = {0};
    int rc = vmci_fs_page(v, lv, &p, err);

    *changed = false;
    if (rc != VMC_OK)
        return rc;
    uint8_t *lk = vmci_fs_at(p, lv);
    bool fresh = false; /* image comes from the device, not from memory */
    for (uint32_t i = 0; i < LOCK_TRIES; i++) {
        if (fresh || !(p->valid & bit)) {
            rc = reread(v, lv, span, p, changed, err);
            if (rc != VMC_OK)
                return rc;
            fresh = true;
        }
        bool replayed;
        rc = settle(v, lk, &replayed, err);
        if (rc == VMC_OK && replayed) {
            forget(v, p, lv, span, false);
            *changed = true;
            continue;
        }
        if (rc == VMC_OK)
            rc = check_image(v, lv, type, lk, err);
        if (rc == VMC_OK)
            rc = may_take(v, lv, lk, mode, err);
        if (rc != VMC_OK && !fresh) {
            fresh = true;
            continue;
        }
        if (rc == VMC_EBUSY && (rc = back_off(v, &wait, lv, lk, err)) == VMC_OK)
            continue;
        if (rc == VMC_OK)
            rc = take_over(v, lv, lk, err);
        if (rc != VMC_OK)
            return rc;
        build_taken(v, lv, type, mode, lk, image);
        rc = vmci_fs_caw(v, lv, lk, image, err);
        if (rc == VMC_OK) {
            /* Under a lock that was held, contents could change without a change of the image. */
            if (vmci_ld_le32(lk + LK_MODE) != LK_MODE_FREE && !vmci_fs_lock_mine(v, lk)) {
                forget(v, p, lv, span, true);
                *changed = true;
            }
            memcpy(lk, image, FS_SECTOR);
            return VMC_OK;
        }
        if (rc != VMC_EAGAIN)
            return rc;
        fresh = true;
    }
    return vmci_error(err, VMC_EBUSY, site, "lock at volume offset 0x%llx keeps changing",
                      (unsigned long long)lv);
}

/* Are we among those that have the lock? */
static bool held_by_us(const struct vmc_vmfs *v, const uint8_t *lk)
{
    uint32_t mode = vmci_ld_le32(lk + LK_MODE);
    uint32_t n = VMCI_MIN(vmci_ld_le32(lk + LK_HOLDERS), LK_HOLDER_MAX);

    if (mode == LK_MODE_EXCL)
        return vmci_fs_lock_mine(v, lk);
    for (uint32_t i = 0; i < n && mode != LK_MODE_FREE; i++) {
        const uint8_t *h = lk + LK_HOLDER + i * LK_HOLDER_LEN;
        if (same_session(v, h, h + 8))
            return true;
    }
    return false;
}

/* The image after we let go, or went down from exclusive to a shared mode. */
static void build_dropped(const struct vmc_vmfs *v, uint32_t mode, const uint8_t *old, uint8_t *lk)
{
    uint32_t n = VMCI_MIN(vmci_ld_le32(old + LK_HOLDERS), LK_HOLDER_MAX);
    uint32_t kept = 0;

    memcpy(lk, old, FS_SECTOR);
    if (vmci_ld_le32(old + LK_MODE) == LK_MODE_EXCL)
        n = 0;
    memset(lk + LK_HOLDER, 0, LK_HOLDER_MAX * LK_HOLDER_LEN);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *h = old + LK_HOLDER + i * LK_HOLDER_LEN;
        if (!same_session(v, h, h + 8))
            memcpy(lk + LK_HOLDER + kept++ * LK_HOLDER_LEN, h, LK_HOLDER_LEN);
    }
    if (mode != LK_MODE_FREE)
        set_holder(lk + LK_HOLDER + kept++ * LK_HOLDER_LEN, v);
    vmci_st_le32(lk + LK_HOLDERS, kept);
    if (kept == 0) {
        vmci_st_le32(lk + LK_MODE, LK_MODE_FREE);
        memset(lk + LK_OWNER, 0, 16);
    } else if (mode != LK_MODE_FREE) {
        vmci_st_le32(lk + LK_MODE, mode);
    }
}

static int broken(struct vmc_vmfs *v, uint64_t lv, struct vmc_error *err)
{
    vmci_store_relaxed(&v->s.fenced, true);
    return vmci_error(err, VMC_EFENCED, site,
                      "lock at volume offset 0x%llx was broken by another host",
                      (unsigned long long)lv);
}

/*
 * A session that is over keeps its locks: what it wrote under them may be there in part, and the
 * next holder has to wait until its journal has been replayed.
 */
int vmci_fs_lock_drop(struct vmc_vmfs *v, uint64_t lv, uint32_t mode, struct vmc_error *err)
{
    struct fs_page *p;
    uint8_t image[FS_SECTOR];
    bool changed;

    if (vmci_load_relaxed(&v->s.fenced))
        return vmci_fs_session_check(v, err);
    int rc = vmci_fs_page(v, lv, &p, err);
    if (rc != VMC_OK)
        return rc;
    uint8_t *lk = vmci_fs_at(p, lv);
    uint8_t bit = (uint8_t)vmci_fs_sector_mask(lv, FS_SECTOR);
    for (uint32_t i = 0; i < LOCK_TRIES; i++) {
        if (!(p->valid & bit)) {
            rc = reread(v, lv, FS_SECTOR, p, &changed, err);
            if (rc != VMC_OK)
                return rc;
        }
        if (!held_by_us(v, lk))
            return broken(v, lv, err);
        build_dropped(v, mode, lk, image);
        rc = vmci_fs_caw(v, lv, lk, image, err);
        if (rc == VMC_OK) {
            memcpy(lk, image, FS_SECTOR);
            return VMC_OK;
        }
        if (rc != VMC_EAGAIN)
            return rc;
        if (vmci_ld_le32(lk + LK_MODE) == LK_MODE_EXCL)
            return broken(v, lv, err);
        p->valid &= (uint8_t)~bit; /* other readers came or went */
    }
    return vmci_error(err, VMC_EBUSY, site, "lock at volume offset 0x%llx keeps changing",
                      (unsigned long long)lv);
}

int vmci_fs_lock_validate(struct vmc_vmfs *v, uint64_t lv, uint32_t span, bool strict,
                          bool *changed, struct vmc_error *err)
{
    struct fs_page *p;
    struct patience wait = {0};
    int rc = vmci_fs_page(v, lv, &p, err);

    *changed = false;
    if (rc != VMC_OK)
        return rc;
    uint8_t *lk = vmci_fs_at(p, lv);
    for (;;) {
        bool replayed = false;
        rc = reread(v, lv, span, p, changed, err);
        if (rc == VMC_OK && !v->ro)
            rc = settle(v, lk, &replayed, err);
        if (rc == VMC_OK && replayed) {
            forget(v, p, lv, span, false);
            *changed = true;
            continue;
        }
        if (rc != VMC_OK || vmci_ld_le32(lk + LK_MODE) != LK_MODE_EXCL || vmci_fs_lock_mine(v, lk))
            return rc;
        rc = vmci_fs_lock_contended(v, lv, lk, err);
        if (rc == VMC_OK) {
            /* The holder is gone, its journal replayed: break the lock. */
            rc = vmci_fs_lock_take(v, lv, LK_FD, span, LK_MODE_EXCL, changed, err);
            *changed = true;
            return rc == VMC_OK ? vmci_fs_lock_drop(v, lv, LK_MODE_FREE, err) : rc;
        }
        if (rc != VMC_EBUSY)
            return rc;
        /* Somebody may be changing it. What we keep must not outlive that. */
        forget(v, p, lv, span, true);
        *changed = true;
        if (!strict)
            return VMC_OK;
        rc = back_off(v, &wait, lv, lk, err);
        if (rc != VMC_OK)
            return rc;
    }
}
