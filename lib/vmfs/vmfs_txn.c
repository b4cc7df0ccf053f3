/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Transactions. One runs at a time, under the volume's lock: take the on-disk locks, change cached
 * metadata, then commit: data flushed, record in the journal flushed, sectors written in place,
 * locks released. What was committed is durable. An abort forgets the changed sectors.
 */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("transaction");

#define RECORD_HEAD  64u
#define RECORD_ENTRY 24u
#define RECORD_REVOKE 16u

int vmci_fs_txn_begin(struct vmc_vmfs *v, struct vmc_error *err)
{
    struct fs_txn *t = &v->txn;

    if (v->ro)
        return vmci_error(err, VMC_EPERM, site, "the volume is mounted read-only");
    if (t->active)
        return vmci_error(err, VMC_EINTERNAL, site, "a transaction is running");
    int rc = vmci_fs_session_check(v, err);
    if (rc != VMC_OK)
        return rc;
    t->active = true;
    t->ordered = t->bare = false;
    t->locks = t->revokes = t->inodes = t->sectors = t->discards = 0;
    t->dirty = NULL;
    return VMC_OK;
}

bool vmci_fs_txn_room(const struct vmc_vmfs *v, uint32_t sectors, uint32_t locks)
{
    const struct fs_txn *t = &v->txn;
    uint64_t n = t->sectors + sectors;

    return t->locks + locks <= FS_TXN_LOCKS && n <= FS_TXN_SECTORS &&
           t->revokes + 16 <= FS_TXN_REVOKES &&
           RECORD_HEAD + n * (FS_SECTOR + RECORD_ENTRY) + (t->revokes + 16ull) * RECORD_REVOKE +
                   FS_SECTOR <= v->j.max;
}

bool vmci_fs_txn_locked(const struct vmc_vmfs *v, uint64_t lv)
{
    for (uint32_t i = 0; i < v->txn.locks; i++)
        if (v->txn.lock[i].lv == lv)
            return true;
    return false;
}

static int take(struct vmc_vmfs *v, uint64_t lv, uint32_t type, uint32_t span, uint32_t restore,
                bool *changed, struct vmc_error *err)
{
    struct fs_txn *t = &v->txn;

    *changed = false;
    if (vmci_fs_txn_locked(v, lv))
        return VMC_OK;
    if (t->locks == FS_TXN_LOCKS)
        return vmci_error(err, VMC_ELIMIT, site, "more than %u locks", FS_TXN_LOCKS);
    int rc = vmci_fs_lock_take(v, lv, type, span, LK_MODE_EXCL, changed, err);
    if (rc == VMC_OK)
        t->lock[t->locks++] = (struct fs_txn_lock){.lv = lv, .restore = restore};
    return rc;
}

int vmci_fs_txn_lock(struct vmc_vmfs *v, uint64_t lv, uint32_t type, uint32_t span,
                     struct vmc_error *err)
{
    bool changed;
    return take(v, lv, type, span, LK_MODE_FREE, &changed, err);
}

int vmci_fs_txn_inode(struct vmc_vmfs *v, struct fs_inode *ino, struct vmc_error *err)
{
    struct fs_txn *t = &v->txn;
    bool changed = false;
    int rc = VMC_OK;

    for (uint32_t i = 0; i < t->inodes; i++)
        if (t->inode[i] == ino)
            return VMC_OK;
    if (t->inodes == FS_TXN_INODES)
        return vmci_error(err, VMC_ELIMIT, site, "more than %u files", FS_TXN_INODES);
    if (ino->held == LK_MODE_MULTI)
        return vmci_error(err, VMC_EBUSY, site, "the file is shared by several writers");
    if (ino->held != LK_MODE_EXCL)
        rc = take(v, ino->lv, LK_FD, v->g.fd_bytes, ino->held, &changed, err);
    if (rc != VMC_OK)
        return rc;
    t->inode[t->inodes++] = ino;
    if (changed)
        vmci_fs_inode_forget(ino);
    return changed || !ino->loaded ? vmci_fs_inode_reload(ino, err) : VMC_OK;
}

int vmci_fs_txn_dirty(struct vmc_vmfs *v, struct fs_page *p, uint64_t lv, uint32_t bytes,
                      uint64_t owner, struct vmc_error *err)
{
    struct fs_txn *t = &v->txn;
    uint8_t mask = (uint8_t)vmci_fs_sector_mask(lv, bytes);
    uint8_t add = mask & (uint8_t)~p->dirty;

    if (unlikely(!t->active))
        return vmci_error(err, VMC_EINTERNAL, site, "change outside of a transaction");
    if (add == 0)
        return VMC_OK;
    uint32_t n = (uint32_t)__builtin_popcount(add);
    if (t->sectors + n > FS_TXN_SECTORS || !vmci_fs_txn_room(v, n, 0))
        return vmci_error(err, VMC_EAGAIN, site, "the transaction has no room for %u more sectors",
                          n);
    if (!p->on_dirty) {
        p->on_dirty = true;
        p->dirty_next = t->dirty;
        t->dirty = p;
    }
    for (uint32_t i = 0; i < FS_PAGE_SECTORS; i++)
        if (add >> i & 1)
            p->owner[i] = owner;
    p->dirty |= add;
    t->sectors += n;
    return VMC_OK;
}

int vmci_fs_txn_revoke(struct vmc_vmfs *v, uint64_t lv, uint64_t bytes, struct vmc_error *err)
{
    struct fs_txn *t = &v->txn;

    for (struct fs_page *p = t->dirty; p != NULL; p = p->dirty_next) {
        if (p->lv < lv || p->lv >= lv + bytes || p->dirty == 0)
            continue;
        t->sectors -= (uint32_t)__builtin_popcount(p->dirty);
        p->dirty = 0;
    }
    vmci_fs_page_drop(v, lv, bytes);
    if (t->revokes > 0) {
        struct fs_range *last = &t->revoke[t->revokes - 1];
        if (last->lv + last->bytes == lv) {
            last->bytes += bytes;
            return VMC_OK;
        }
        if (lv + bytes == last->lv) {
            last->lv = lv;
            last->bytes += bytes;
            return VMC_OK;
        }
    }
    if (t->revokes == FS_TXN_REVOKES)
        return vmci_error(err, VMC_EAGAIN, site, "the transaction frees too many blocks");
    t->revoke[t->revokes++] = (struct fs_range){.lv = lv, .bytes = bytes};
    return VMC_OK;
}

bool vmci_fs_txn_revoked(const struct vmc_vmfs *v, uint64_t lv)
{
    for (uint32_t i = 0; i < v->txn.revokes; i++)
        if (lv - v->txn.revoke[i].lv < v->txn.revoke[i].bytes)
            return true;
    return false;
}

void vmci_fs_txn_discard(struct vmc_vmfs *v, uint64_t lv, uint64_t bytes)
{
    struct fs_txn *t = &v->txn;

    if (t->discards > 0) {
        struct fs_range *last = &t->discard[t->discards - 1];
        if (lv + bytes == last->lv) {
            last->lv = lv;
            last->bytes += bytes;
            return;
        }
    }
    if (t->discards < FS_TXN_DISCARDS)
        t->discard[t->discards++] = (struct fs_range){.lv = lv, .bytes = bytes};
}

static int write_in_place(struct vmc_vmfs *v, struct vmc_error *err)
{
    for (struct fs_page *p = v->txn.dirty; p != NULL; p = p->dirty_next) {
        uint32_t left = p->dirty;
        while (left != 0) {
            uint32_t first = (uint32_t)__builtin_ctz(left);
            uint32_t n = (uint32_t)__builtin_ctz(~(left >> first));
            int rc = vmci_fs_write(v, p->lv + first * FS_SECTOR, p->data + first * FS_SECTOR,
                                   (uint64_t)n * FS_SECTOR, err);
            if (rc != VMC_OK)
                return rc;
            left &= ~(((1u << n) - 1) << first);
        }
    }
    return VMC_OK;
}

/* Space is only a gift to the devices: a failure here changes nothing. */
static void discard(struct vmc_vmfs *v)
{
    for (uint32_t i = 0; i < v->txn.discards; i++) {
        struct fs_range r = v->txn.discard[i];
        while (r.bytes > 0) {
            const struct fs_seg *s = vmci_fs_seg(v, r.lv);
            if (s == NULL || !v->dev[s->dev].info.can_discard || !vmci_fs_lease_ok(v))
                break;
            uint64_t n = VMCI_MIN(r.bytes, s->lv + s->bytes - r.lv);
            (void)vmci_fs_dev_io(v->pf, &v->dev[s->dev].bd, VMC_BLOCK_DISCARD,
                                 s->dev_off + (r.lv - s->lv), NULL, n, NULL);
            r.lv += n;
            r.bytes -= n;
        }
    }
}

static int release(struct vmc_vmfs *v, struct vmc_error *err)
{
    struct fs_txn *t = &v->txn;
    int first = VMC_OK;

    for (uint32_t i = 0; i < t->locks; i++) {
        int rc = vmci_fs_lock_drop(v, t->lock[i].lv, t->lock[i].restore, first == VMC_OK ? err : NULL);
        if (first == VMC_OK)
            first = rc;
    }
    t->locks = 0;
    t->active = false;
    return first;
}

static void clean_pages(struct fs_txn *t, bool keep)
{
    struct fs_page *next;

    for (struct fs_page *p = t->dirty; p != NULL; p = next) {
        next = p->dirty_next;
        if (!keep)
            p->valid &= (uint8_t)~p->dirty;
        p->dirty = 0;
        p->on_dirty = false;
    }
    t->dirty = NULL;
    t->sectors = 0;
}

void vmci_fs_txn_abort(struct vmc_vmfs *v)
{
    struct fs_txn *t = &v->txn;

    if (!t->active)
        return;
    clean_pages(t, false);
    for (uint32_t i = 0; i < t->inodes; i++) {
        vmci_fs_inode_forget(t->inode[i]);
        t->inode[i]->loaded = false;
    }
    (void)release(v, NULL); /* the caller reports why it aborts */
    vmci_fs_res_forget(v);
}

int vmci_fs_txn_commit(struct vmc_vmfs *v, struct vmc_error *err)
{
    struct fs_txn *t = &v->txn;
    int rc = VMC_OK;

    if (t->sectors == 0) {
        clean_pages(t, true);
        return release(v, err);
    }
    rc = vmci_fs_session_check(v, err);
    if (rc == VMC_OK && t->ordered)
        rc = vmci_fs_flush(v, err);
    if (rc == VMC_OK && !t->bare)
        rc = vmci_fs_journal_write(v, err);
    if (rc == VMC_OK)
        rc = vmci_fs_session_check(v, err);
    if (rc != VMC_OK) {
        vmci_fs_txn_abort(v);
        return rc;
    }
    /* From here on the change has happened, whatever fails. */
    rc = write_in_place(v, err);
    if (rc == VMC_OK && t->bare)
        rc = vmci_fs_flush(v, err);
    if (rc != VMC_OK) {
        /* Only a replay of the journal can repair this. */
        vmci_fs_give_up(v, "writing metadata", rc);
        vmci_fs_txn_abort(v);
        return rc;
    }
    clean_pages(t, true);
    discard(v);
    v->stat_commits++;
    for (uint32_t i = 0; i < t->inodes; i++)
        if (t->inode[i]->md != NULL)
            vmci_store_release(&t->inode[i]->length, vmci_fs_md64(t->inode[i], FD_LENGTH));
    return release(v, err);
}
