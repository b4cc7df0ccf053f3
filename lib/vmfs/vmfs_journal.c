/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The journal: a redo log of metadata sectors, one per session. docs/vmfs-format.md gives the
 * layout. The invariant that makes replay safe between hosts:
 *
 *   Every record from the journal's tail on, restricted to sectors whose lock still names the
 *   journal's session as its last holder, may be redone in order.
 *
 * It holds because a session that takes a lock over from another one flushes the devices first
 * (so the other's sectors are in place and durable), because the session moves its own tail past
 * everything when it takes a lock back (vmfs_lock.c), and because records revoke the sectors of
 * blocks that they free.
 */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("journal");

#define HOST_MAGIC   0x0054534f48434d56ull /* "VMCHOST" */
#define HR_MAGIC     0x00
#define HR_VERSION   0x08
#define HR_STATE     0x0C
#define HR_GEN       0x10
#define HR_JOURNAL   0x18
#define HR_BYTES     0x20
#define HR_FB        0x24
#define HR_OWNER     0x28
#define HR_LEASE     0x38 /* ms that the session may be silent; 0: FS_LEASE_MS */
#define HR_WAY       0x3C /* locks by compare-and-write (0), or by the bakery */
#define WAY_BAKERY   1u
#define HR_SUM       0x1F8
enum host_state { HOST_NONE, HOST_PENDING, HOST_ACTIVE, HOST_RETAINED };

#define RESERVED_LV    0x200000ull /* slot i has 64 KiB at RESERVED_LV + (i + 1) * 64 KiB */
#define RESERVED_SLOTS 15u

#define REC_MAGIC   0x314e58544a434d56ull /* "VMCJTXN1" */
#define RC_MAGIC    0x00
#define RC_SEQ      0x08
#define RC_TAIL     0x10
#define RC_BYTES    0x18
#define RC_ENTRIES  0x1C
#define RC_REVOKES  0x20
#define RC_SUM      0x28
#define RC_HEAD     64u
#define RE_LV       0
#define RE_LOCK     8
#define RE_BYTES    16
#define RE_DATA     20 /* offset of the new contents in the record */
#define RE_LEN      24u
#define RV_LEN      16u

static uint64_t seed(const struct vmc_vmfs *v, uint32_t slot, uint64_t generation)
{
    return vmci_hash64(v->fs_uuid.b, 16, (generation << 12) ^ slot);
}

static uint64_t record_sum(const struct vmc_vmfs *v, uint32_t slot, uint64_t generation,
                           const uint8_t *rec, uint32_t bytes)
{
    uint64_t head = vmci_hash64(rec, RC_SUM, seed(v, slot, generation));
    return vmci_hash64(rec + RC_SUM + 8, bytes - RC_SUM - 8, head);
}

/* ---- host records ------------------------------------------------------------------------------ */

static int host_read(struct vmc_vmfs *v, uint32_t slot, uint8_t *hr, bool *valid,
                     struct vmc_error *err)
{
    int rc = vmci_fs_read(v, (uint64_t)slot * FS_SECTOR, hr, FS_SECTOR, err);

    *valid = rc == VMC_OK && vmci_ld_le64(hr + HR_MAGIC) == HOST_MAGIC &&
             vmci_ld_le32(hr + HR_VERSION) == 1 &&
             vmci_ld_le64(hr + HR_SUM) == vmci_hash64(hr, HR_SUM, seed(v, slot, 0));
    return rc;
}

static int host_write(struct vmc_vmfs *v, uint32_t slot, uint32_t state, uint64_t generation,
                      uint64_t lv, uint64_t bytes, uint32_t fb, const uint8_t *owner,
                      struct vmc_error *err)
{
    uint8_t hr[FS_SECTOR] = {0};

    if (state != HOST_NONE) {
        vmci_st_le64(hr + HR_MAGIC, HOST_MAGIC);
        vmci_st_le32(hr + HR_VERSION, 1);
        vmci_st_le32(hr + HR_STATE, state);
        vmci_st_le64(hr + HR_GEN, generation);
        vmci_st_le64(hr + HR_JOURNAL, lv);
        vmci_st_le32(hr + HR_BYTES, (uint32_t)bytes);
        vmci_st_le32(hr + HR_FB, fb);
        memcpy(hr + HR_OWNER, owner, 16);
        vmci_st_le32(hr + HR_LEASE, v->lease_ms == FS_LEASE_MS ? 0 : v->lease_ms);
        vmci_st_le32(hr + HR_WAY, v->caw || v->exclusive ? 0 : WAY_BAKERY);
        vmci_st_le64(hr + HR_SUM, vmci_hash64(hr, HR_SUM, seed(v, slot, 0)));
    }
    int rc = vmci_fs_write(v, (uint64_t)slot * FS_SECTOR, hr, FS_SECTOR, err);
    return rc == VMC_OK ? vmci_fs_flush(v, err) : rc;
}

int vmci_fs_host_record(struct vmc_vmfs *v, uint32_t slot, uint64_t generation, bool *ours,
                        uint32_t *fb, struct vmc_error *err)
{
    uint8_t hr[FS_SECTOR];
    bool valid;
    int rc = host_read(v, slot, hr, &valid, err);

    *ours = valid && vmci_ld_le64(hr + HR_GEN) == generation;
    *fb = valid && vmci_ld_le32(hr + HR_STATE) != HOST_NONE ? vmci_ld_le32(hr + HR_FB) : 0;
    return rc;
}

int vmci_fs_host_lease(struct vmc_vmfs *v, uint32_t slot, uint64_t generation, uint32_t *ms,
                       struct vmc_error *err)
{
    uint8_t hr[FS_SECTOR];
    bool valid;
    int rc = host_read(v, slot, hr, &valid, err);

    *ms = v->lease_ms;
    if (rc == VMC_OK && valid && vmci_ld_le64(hr + HR_GEN) == generation) {
        uint32_t own = vmci_ld_le32(hr + HR_LEASE);
        *ms = VMCI_MAX(*ms, own != 0 ? own : FS_LEASE_MS);
    }
    return rc;
}

int vmci_fs_host_way(struct vmc_vmfs *v, uint32_t slot, uint64_t generation, bool *known,
                     bool *bakery, struct vmc_error *err)
{
    uint8_t hr[FS_SECTOR];
    bool valid;
    int rc = host_read(v, slot, hr, &valid, err);

    *known = rc == VMC_OK && valid && vmci_ld_le64(hr + HR_GEN) == generation;
    *bakery = *known && vmci_ld_le32(hr + HR_WAY) == WAY_BAKERY;
    return rc;
}

/* ---- writing ----------------------------------------------------------------------------------- */

static uint32_t build(struct vmc_vmfs *v)
{
    struct fs_txn *t = &v->txn;
    uint8_t *rec = v->j.buf;
    uint32_t entries = 0;

    /* Entries first, to know where the data begin. */
    for (struct fs_page *p = t->dirty; p != NULL; p = p->dirty_next)
        for (uint32_t i = 0; i < FS_PAGE_SECTORS; i++)
            if ((p->dirty >> i & 1) &&
                (i == 0 || !(p->dirty >> (i - 1) & 1) || p->owner[i - 1] != p->owner[i]))
                entries++;
    uint32_t head = RC_HEAD + entries * RE_LEN + t->revokes * RV_LEN;
    uint32_t at = (uint32_t)vmci_align_up(head, FS_SECTOR);
    memset(rec, 0, at);
    uint8_t *e = rec + RC_HEAD;
    for (struct fs_page *p = t->dirty; p != NULL; p = p->dirty_next) {
        uint32_t left = p->dirty;
        while (left != 0) {
            uint32_t i = (uint32_t)__builtin_ctz(left), n = 1;
            while (i + n < FS_PAGE_SECTORS && (left >> (i + n) & 1) && p->owner[i + n] == p->owner[i])
                n++;
            vmci_st_le64(e + RE_LV, p->lv + i * FS_SECTOR);
            vmci_st_le64(e + RE_LOCK, p->owner[i]);
            vmci_st_le32(e + RE_BYTES, n * FS_SECTOR);
            vmci_st_le32(e + RE_DATA, at);
            memcpy(rec + at, p->data + i * FS_SECTOR, n * FS_SECTOR);
            at += n * FS_SECTOR;
            e += RE_LEN;
            left &= ~(((1u << n) - 1) << i);
        }
    }
    for (uint32_t i = 0; i < t->revokes; i++, e += RV_LEN) {
        vmci_st_le64(e, t->revoke[i].lv);
        vmci_st_le64(e + 8, t->revoke[i].bytes);
    }
    vmci_st_le32(rec + RC_ENTRIES, entries);
    vmci_st_le32(rec + RC_REVOKES, t->revokes);
    return at;
}

static int append(struct vmc_vmfs *v, uint32_t bytes, struct vmc_error *err)
{
    struct fs_journal *j = &v->j;
    uint8_t *rec = j->buf;
    uint32_t at = j->head + bytes <= j->bytes ? j->head : 0;
    int rc;

    if (bytes > j->bytes)
        return vmci_error(err, VMC_EINTERNAL, site, "record of %u bytes", bytes);
    /* The newest record must survive until what it describes is durable in place. */
    if (j->tail < j->seq && at < j->last_at + j->last_bytes && j->last_at < at + bytes) {
        rc = vmci_fs_flush(v, err);
        if (rc != VMC_OK)
            return rc;
        j->tail = j->seq;
    }
    vmci_st_le64(rec + RC_MAGIC, REC_MAGIC);
    vmci_st_le64(rec + RC_SEQ, j->seq);
    vmci_st_le64(rec + RC_TAIL, j->tail);
    vmci_st_le32(rec + RC_BYTES, bytes);
    vmci_st_le64(rec + RC_SUM, record_sum(v, v->s.slot, v->s.generation, rec, bytes));
    /* One that failed may be there all the same, for a replay after the next: nothing may follow it. */
    rc = vmci_fs_write(v, j->lv + at, rec, bytes, err);
    if (rc != VMC_OK)
        vmci_fs_give_up(v, "writing to the journal", rc);
    else
        rc = vmci_fs_flush(v, err);
    if (rc != VMC_OK)
        return rc;
    /* That flush also covered the sectors of every older record. */
    j->tail = j->seq++;
    j->head = at + bytes;
    j->last_at = at;
    j->last_bytes = bytes;
    return VMC_OK;
}

int vmci_fs_journal_write(struct vmc_vmfs *v, struct vmc_error *err)
{
    int rc = append(v, build(v), err);

    if (rc != VMC_OK)
        return rc;
    struct fs_locked *l = &v->j.locked[v->j.newest ^= 1];
    l->n = 0;
    for (uint32_t i = 0; i < v->txn.locks; i++)
        l->lv[l->n++] = v->txn.lock[i].lv;
    /* Files whose lock was held already, because they are open. */
    for (uint32_t i = 0; i < v->txn.inodes && l->n < FS_TXN_LOCKS; i++)
        l->lv[l->n++] = v->txn.inode[i]->lv;
    return VMC_OK;
}

static bool in_list(const struct fs_locked *l, uint64_t lv)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (l->lv[i] == lv)
            return true;
    return false;
}

bool vmci_fs_journal_has(const struct vmc_vmfs *v, uint64_t lv)
{
    return in_list(&v->j.locked[0], lv) || in_list(&v->j.locked[1], lv);
}

int vmci_fs_journal_checkpoint(struct vmc_vmfs *v, struct vmc_error *err)
{
    uint8_t *old = v->j.buf;

    memset(old, 0, FS_SECTOR);
    v->j.tail = v->j.seq;
    v->j.locked[0].n = v->j.locked[1].n = 0;
    return append(v, FS_SECTOR, err);
}

/* ---- replay ------------------------------------------------------------------------------------ */

#define SCAN_MAX   (FS_JOURNAL_BYTES / FS_SECTOR)
#define HOLD_TRIES 16u

struct found {
    uint64_t seq;
    uint32_t at;
};

struct replay {
    struct vmc_vmfs *v;
    const uint8_t *buf;
    uint64_t bytes;
    uint32_t slot;
    uint64_t generation;
    struct found rec[SCAN_MAX];
    uint32_t n;
};

static bool record_ok(const struct replay *r, uint32_t at)
{
    const uint8_t *rec = r->buf + at;
    uint32_t bytes = vmci_ld_le32(rec + RC_BYTES);

    if (vmci_ld_le64(rec + RC_MAGIC) != REC_MAGIC || bytes < FS_SECTOR || bytes % FS_SECTOR != 0 ||
        bytes > r->bytes - at)
        return false;
    uint64_t head = RC_HEAD + (uint64_t)vmci_ld_le32(rec + RC_ENTRIES) * RE_LEN +
                    (uint64_t)vmci_ld_le32(rec + RC_REVOKES) * RV_LEN;
    return head <= bytes && vmci_ld_le64(rec + RC_SUM) ==
                                record_sum(r->v, r->slot, r->generation, rec, bytes);
}

static void scan(struct replay *r)
{
    r->n = 0;
    for (uint32_t at = 0; at < r->bytes && r->n < SCAN_MAX; at += FS_SECTOR) {
        if (!record_ok(r, at))
            continue;
        struct found f = {.seq = vmci_ld_le64(r->buf + at + RC_SEQ), .at = at};
        uint32_t i = r->n++;
        for (; i > 0 && r->rec[i - 1].seq > f.seq; i--)
            r->rec[i] = r->rec[i - 1];
        r->rec[i] = f;
    }
}

/* Was [lv, lv + bytes) freed by a later record? Then its sectors may be somebody else's now. */
static bool revoked(const struct replay *r, uint32_t from, uint64_t lv, uint32_t bytes)
{
    for (uint32_t k = from + 1; k < r->n; k++) {
        const uint8_t *rec = r->buf + r->rec[k].at;
        const uint8_t *rv = rec + RC_HEAD + (size_t)vmci_ld_le32(rec + RC_ENTRIES) * RE_LEN;
        uint32_t n = vmci_ld_le32(rec + RC_REVOKES);
        for (uint32_t i = 0; i < n; i++, rv += RV_LEN)
            if (lv < vmci_ld_le64(rv) + vmci_ld_le64(rv + 8) && vmci_ld_le64(rv) < lv + bytes)
                return true;
    }
    return false;
}

/*
 * Is a lock still the dead session's? A free one is taken in that session's name before anything is
 * written, so that nobody takes it between this look and the write: its slot is in use until the
 * end of the replay, so others wait; should we die, too, the next replay finds it as its own.
 */
static int hold(struct vmc_vmfs *v, uint32_t slot, uint64_t generation, uint64_t lock, bool *its,
                struct vmc_error *err)
{
    uint8_t lk[FS_SECTOR], next[FS_SECTOR], hb[FS_SECTOR];
    int rc = VMC_EAGAIN;

    for (unsigned i = 0; i < HOLD_TRIES && rc == VMC_EAGAIN; i++) {
        rc = vmci_fs_read(v, lock, lk, FS_SECTOR, err);
        *its = vmci_ld_le64(lk + LK_HB) == vmci_fs_hb_lv(v, slot) &&
               vmci_ld_le64(lk + LK_HB_GEN) == generation;
        if (rc != VMC_OK || !*its || v->ro || vmci_ld_le32(lk + LK_MODE) != LK_MODE_FREE)
            return rc;
        rc = vmci_fs_read(v, vmci_fs_hb_lv(v, slot), hb, FS_SECTOR, err);
        if (rc != VMC_OK)
            return rc;
        memcpy(next, lk, FS_SECTOR);
        vmci_st_le64(next + LK_TOKEN, vmci_ld_le64(lk + LK_TOKEN) + 1);
        vmci_st_le32(next + LK_MODE, LK_MODE_EXCL);
        memcpy(next + LK_OWNER, hb + HB_OWNER, 16);
        rc = vmci_fs_caw(v, lock, lk, next, err);
    }
    return rc == VMC_EAGAIN
               ? vmci_error(err, VMC_EBUSY, site, "lock at volume offset 0x%llx keeps changing",
                            (unsigned long long)lock)
               : rc;
}

/* What was replayed is durable: whoever wants the lock may have it. */
static int let_go(struct vmc_vmfs *v, uint32_t slot, uint64_t generation, uint64_t lock,
                  struct vmc_error *err)
{
    uint8_t lk[FS_SECTOR], next[FS_SECTOR];
    int rc = vmci_fs_read(v, lock, lk, FS_SECTOR, err);

    if (rc != VMC_OK || vmci_ld_le64(lk + LK_HB) != vmci_fs_hb_lv(v, slot) ||
        vmci_ld_le64(lk + LK_HB_GEN) != generation || vmci_ld_le32(lk + LK_MODE) != LK_MODE_EXCL)
        return rc;
    memcpy(next, lk, FS_SECTOR);
    vmci_st_le32(next + LK_MODE, LK_MODE_FREE);
    memset(next + LK_OWNER, 0, 16);
    rc = vmci_fs_caw(v, lock, lk, next, err);
    return rc == VMC_EAGAIN ? VMC_OK : rc;
}

static int redo_entry(struct replay *r, uint32_t k, const uint8_t *rec, const uint8_t *e,
                      struct vmc_error *err)
{
    struct vmc_vmfs *v = r->v;
    bool its;
    uint64_t lv = vmci_ld_le64(e + RE_LV), lock = vmci_ld_le64(e + RE_LOCK);
    uint32_t bytes = vmci_ld_le32(e + RE_BYTES), data = vmci_ld_le32(e + RE_DATA);

    if (bytes == 0 || bytes % FS_SECTOR != 0 || bytes > FS_PAGE || lv % FS_SECTOR != 0 ||
        lock % FS_SECTOR != 0 || lv < v->g.fdc_base || lock < v->g.fdc_base ||
        !vmci_range_ok(data, bytes, vmci_ld_le32(rec + RC_BYTES)) ||
        !vmci_range_ok(lv, bytes, v->g.lv_bytes) ||
        !vmci_range_ok(lock, FS_SECTOR, v->g.lv_bytes))
        return vmci_error(err, VMC_EFORMAT, site,
                          "journal of heartbeat slot %u: record %llu names volume offset 0x%llx",
                          r->slot, (unsigned long long)vmci_ld_le64(rec + RC_SEQ),
                          (unsigned long long)lv);
    if (revoked(r, k, lv, bytes))
        return VMC_OK;
    int rc = hold(v, r->slot, r->generation, lock, &its, err);
    if (rc != VMC_OK || !its)
        return rc; /* another session went on from the durable result */
    vmci_fs_page_drop(v, lv, bytes);
    if (!v->ro)
        return vmci_fs_write(v, lv, rec + data, bytes, err);
    /* Read-only: the replayed state exists in memory, where it must stay. */
    struct fs_page *p;
    rc = vmci_fs_page_new(v, lv, bytes, 0, &p, err);
    if (rc == VMC_OK) {
        memcpy(vmci_fs_at(p, lv), rec + data, bytes);
        p->dirty |= (uint8_t)vmci_fs_sector_mask(lv, bytes); /* never written, never dropped */
    }
    return rc;
}

static int release_entry(struct replay *r, uint32_t k, const uint8_t *rec, const uint8_t *e,
                         struct vmc_error *err)
{
    (void)k;
    (void)rec;
    return let_go(r->v, r->slot, r->generation, vmci_ld_le64(e + RE_LOCK), err);
}

static int each_entry(struct replay *r,
                      int (*fn)(struct replay *r, uint32_t k, const uint8_t *rec, const uint8_t *e,
                                struct vmc_error *err),
                      struct vmc_error *err)
{
    if (r->n == 0)
        return VMC_OK;
    uint64_t tail = vmci_ld_le64(r->buf + r->rec[r->n - 1].at + RC_TAIL);
    for (uint32_t k = 0; k < r->n; k++) {
        const uint8_t *rec = r->buf + r->rec[k].at;
        if (r->rec[k].seq < tail)
            continue;
        uint32_t n = vmci_ld_le32(rec + RC_ENTRIES);
        for (uint32_t i = 0; i < n; i++) {
            int rc = fn(r, k, rec, rec + RC_HEAD + (size_t)i * RE_LEN, err);
            if (rc != VMC_OK)
                return rc;
        }
    }
    return VMC_OK;
}

/*
 * A session died between writing down the block of its journal and finishing its allocation. The
 * cluster's lock names that session as the last holder if it got so far at all.
 */
static int undo_pending(struct vmc_vmfs *v, uint32_t slot, uint64_t generation, uint32_t fb,
                        struct vmc_error *err)
{
    uint64_t lv;
    uint8_t *md;
    bool its;
    struct fs_page *p;
    struct fs_res *r = &v->fbb;

    if (fb == 0 || fb >= r->n)
        return VMC_OK;
    uint64_t c = fb / r->rpc;
    uint32_t item = fb % r->rpc;
    int rc = vmci_fs_res_cluster_lv(v, &v->fbb, c, &lv, err);
    if (rc != VMC_OK)
        return rc;
    rc = hold(v, slot, generation, lv, &its, err);
    if (rc != VMC_OK || !its)
        return rc;
    vmci_fs_page_drop(v, lv, v->g.ch_bytes);
    rc = vmci_fs_res_cluster(v, &v->fbb, c, &lv, &md, &p, err);
    if (rc == VMC_OK && !vmci_fs_cl_is_free(r, md, item)) {
        vmci_fs_cl_mark(r, md, item, 1, vmci_fs_res_total(r, c), true);
        rc = vmci_fs_write(v, lv + v->g.ch_md, md, FS_SECTOR, err);
    }
    if (rc == VMC_OK)
        rc = vmci_fs_flush(v, err);
    return rc == VMC_OK ? let_go(v, slot, generation, lv, err) : rc;
}

int vmci_fs_journal_replay(struct vmc_vmfs *v, uint32_t slot, uint64_t generation,
                           struct vmc_error *err)
{
    uint8_t hr[FS_SECTOR];
    bool valid;
    int rc = host_read(v, slot, hr, &valid, err);

    if (rc != VMC_OK || !valid || vmci_ld_le64(hr + HR_GEN) != generation)
        return rc;
    uint32_t state = vmci_ld_le32(hr + HR_STATE), fb = vmci_ld_le32(hr + HR_FB);
    uint64_t lv = vmci_ld_le64(hr + HR_JOURNAL);
    uint32_t bytes = vmci_ld_le32(hr + HR_BYTES);
    if (state == HOST_ACTIVE) {
        if (bytes > FS_JOURNAL_BYTES || bytes % FS_SECTOR != 0 || lv % FS_SECTOR != 0 ||
            !vmci_range_ok(lv, bytes, v->g.lv_bytes))
            return vmci_error(err, VMC_EFORMAT, site,
                              "host record %u: journal of 0x%x bytes at volume offset 0x%llx", slot,
                              bytes, (unsigned long long)lv);
        struct replay *r = vmci_zalloc(v->pf, sizeof(*r));
        uint8_t *buf = vmci_alloc_aligned(v->pf, VMCI_MAX(bytes, FS_SECTOR), FS_PAGE);
        if (r == NULL || buf == NULL)
            rc = vmci_error(err, VMC_ENOMEM, site, "no memory to replay a journal");
        else
            rc = vmci_fs_read(v, lv, buf, bytes, err);
        if (rc == VMC_OK) {
            *r = (struct replay){.v = v, .buf = buf, .bytes = bytes, .slot = slot,
                                 .generation = generation};
            scan(r);
            rc = each_entry(r, redo_entry, err);
        }
        if (rc == VMC_OK && !v->ro)
            rc = vmci_fs_flush(v, err);
        if (rc == VMC_OK && !v->ro)
            rc = each_entry(r, release_entry, err);
        vmci_free(v->pf, r, sizeof(*r));
        vmci_free_aligned(v->pf, buf, VMCI_MAX(bytes, FS_SECTOR), FS_PAGE);
    }
    if (v->ro || rc != VMC_OK)
        return rc;
    if (state == HOST_PENDING)
        rc = undo_pending(v, slot, generation, fb, err);
    if (rc == VMC_OK)
        rc = vmci_fs_flush(v, err);
    /* Its block stays allocated for the slot's next session. */
    if (rc == VMC_OK && fb != 0 && state != HOST_PENDING)
        rc = host_write(v, slot, HOST_RETAINED, generation, lv, bytes, fb, hr + HR_OWNER, err);
    else if (rc == VMC_OK)
        rc = host_write(v, slot, HOST_NONE, 0, 0, 0, 0, NULL, err);
    return rc;
}

/* ---- our own journal --------------------------------------------------------------------------- */

static int allocate(struct vmc_vmfs *v, struct vmc_error *err)
{
    struct fs_journal *j = &v->j;
    uint64_t first;
    uint32_t got;

    j->max = FS_RECORD_MAX; /* for the room check; nothing is written to the journal yet */
    /*
     * Say that the slot is ours before waiting for the locks of the block map: they may belong to
     * a host that died, and a slot that beats for a whole lease without a record looks foreign.
     */
    int rc = host_write(v, v->s.slot, HOST_PENDING, v->s.generation, 0, 0, 0, v->host_uuid.b, err);
    if (rc == VMC_OK)
        rc = vmci_fs_txn_begin(v, err);
    if (rc != VMC_OK)
        return rc;
    v->txn.bare = true;
    rc = vmci_fs_fb_alloc(v, UINT64_MAX, 1, &first, &got, err);
    if (rc == VMC_OK)
        rc = host_write(v, v->s.slot, HOST_PENDING, v->s.generation, 0, 0, (uint32_t)first,
                        v->host_uuid.b, err);
    if (rc != VMC_OK) {
        vmci_fs_txn_abort(v);
        return rc;
    }
    rc = vmci_fs_txn_commit(v, err);
    j->fb = (uint32_t)first;
    return rc;
}

int vmci_fs_journal_open(struct vmc_vmfs *v, struct vmc_error *err)
{
    struct fs_journal *j = &v->j;
    uint8_t hr[FS_SECTOR];
    bool valid;
    int rc = host_read(v, v->s.slot, hr, &valid, err);

    if (rc != VMC_OK)
        return rc;
    j->buf = vmci_alloc_aligned(v->pf, FS_RECORD_MAX, FS_PAGE);
    if (j->buf == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for a journal");
    j->seq = j->tail = 1;
    if (v->s.slot < RESERVED_SLOTS) {
        j->lv = RESERVED_LV + (uint64_t)(v->s.slot + 1) * FS_RESERVED_BYTES;
        j->bytes = FS_RESERVED_BYTES;
    } else {
        uint32_t fb = valid ? vmci_ld_le32(hr + HR_FB) : 0;
        if (valid && vmci_ld_le32(hr + HR_STATE) == HOST_RETAINED && fb != 0 && fb < v->fbb.n)
            j->fb = fb;
        else
            rc = allocate(v, err);
        if (rc != VMC_OK)
            return rc;
        j->lv = (uint64_t)j->fb * v->g.fb_bytes;
        j->bytes = FS_JOURNAL_BYTES;
    }
    j->max = (uint32_t)VMCI_MIN(j->bytes, FS_RECORD_MAX);
    return host_write(v, v->s.slot, HOST_ACTIVE, v->s.generation, j->lv, j->bytes, j->fb,
                      v->host_uuid.b, err);
}

int vmci_fs_journal_close(struct vmc_vmfs *v, struct vmc_error *err)
{
    struct fs_journal *j = &v->j;
    int rc = VMC_OK;

    if (v->s.active && !v->s.fenced && j->lv != 0) {
        rc = vmci_fs_flush(v, err);
        /* A block stays allocated for the slot's next session: freeing it could not be undone. */
        if (rc == VMC_OK && j->fb != 0)
            rc = host_write(v, v->s.slot, HOST_RETAINED, v->s.generation, j->lv, j->bytes, j->fb,
                            v->host_uuid.b, err);
        else if (rc == VMC_OK)
            rc = host_write(v, v->s.slot, HOST_NONE, 0, 0, 0, 0, NULL, err);
    }
    vmci_free_aligned(v->pf, j->buf, FS_RECORD_MAX, FS_PAGE);
    j->buf = NULL;
    j->lv = 0;
    return rc;
}
