/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sessions: the heartbeat slot of this host, and judging those of others. A slot's generation
 * rises when the slot is cleared, so (slot, generation, owner) names one session. Clocks of
 * different hosts are never compared: a watcher measures with its own clock for how long
 * another's stamp did not move.
 */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("heartbeat");

#define MS         1000000ull
#define LOOK_SLOTS 64u

/* What a slot without a record of ours may do before it counts as a living foreign host's. */
#define FOREIGN_BEATS    2u
#define FOREIGN_SESSIONS 16u

static int read_slot(struct vmc_vmfs *v, uint32_t slot, uint8_t *hb, struct vmc_error *err)
{
    int rc = vmci_fs_read(v, vmci_fs_hb_lv(v, slot), hb, FS_SECTOR, err);

    if (rc != VMC_OK)
        return rc;
    uint32_t state = vmci_ld_le32(hb + HB_STATE);
    if ((state != HB_FREE && state != HB_USED) ||
        vmci_ld_le64(hb + HB_SELF) != vmci_fs_hb_lv(v, slot))
        return vmci_error(err, VMC_EFORMAT, site,
                          "heartbeat slot %u: state is 0x%x, own address 0x%llx", slot, state,
                          (unsigned long long)vmci_ld_le64(hb + HB_SELF));
    return VMC_OK;
}

static int busy(const uint8_t *hb, uint32_t slot, struct vmc_error *err)
{
    char uuid[VMC_VMFS_UUID_TEXT];
    struct vmc_vmfs_uuid u;

    memcpy(u.b, hb + HB_OWNER, 16);
    vmc_vmfs_uuid_text(&u, uuid);
    return vmci_error(err, VMC_EBUSY, site, "held by host %.*s (%s, heartbeat slot %u)",
                      (int)HB_NAME_BYTES - 1, hb[HB_NAME] ? (const char *)hb + HB_NAME : "unnamed", uuid, slot);
}

/*
 * Has a session been silent for longer than its lease? Hosts may have different ones: what counts
 * is the longer of its and ours.
 */
int vmci_fs_session_silent(struct vmc_vmfs *v, uint32_t slot, uint64_t generation, bool *yes,
                           struct vmc_error *err)
{
    uint64_t ms = (vmci_fs_now(v) - v->obs[slot].since_ns) / MS;
    uint32_t lease;
    int rc = VMC_OK;

    *yes = ms >= v->lease_ms + v->window_ms;
    if (*yes)
        rc = vmci_fs_host_lease(v, slot, generation, &lease, err);
    *yes = *yes && rc == VMC_OK && ms >= (uint64_t)lease + v->window_ms;
    return rc;
}

int vmci_fs_session_dead(struct vmc_vmfs *v, uint32_t slot, uint64_t generation,
                         const uint8_t *owner, struct vmc_error *err)
{
    uint8_t hb[FS_SECTOR];
    struct fs_observation *o = &v->obs[slot];
    int rc = read_slot(v, slot, hb, err);

    if (rc != VMC_OK)
        return rc;
    if (vmci_ld_le32(hb + HB_STATE) == HB_FREE || vmci_ld_le64(hb + HB_GENERATION) != generation ||
        memcmp(hb + HB_OWNER, owner, 16) != 0)
        return VMC_OK;
    uint64_t now = vmci_fs_now(v), stamp = vmci_ld_le64(hb + HB_STAMP);
    if (!o->seen || o->stamp != stamp || o->generation != generation) {
        *o = (struct fs_observation){.stamp = stamp, .generation = generation, .since_ns = now, .seen = true};
        return busy(hb, slot, err);
    }
    bool over;
    rc = vmci_fs_session_silent(v, slot, generation, &over, err);
    if (rc != VMC_OK || !over)
        return rc != VMC_OK ? rc : busy(hb, slot, err);
    return vmci_fs_session_recover(v, slot, generation, err);
}

/* A journal that is not ours can only be replayed by the host software that wrote it. */
static int check_foreign_journal(struct vmc_vmfs *v, const uint8_t *hb, uint32_t slot,
                                 struct vmc_error *err)
{
    uint8_t s[FS_SECTOR];
    uint64_t lv = vmci_ld_le64(hb + HB_JOURNAL_LV);

    if (lv == 0)
        lv = (uint64_t)(vmci_ld_le32(hb + HB_JOURNAL) >> 6) * v->g.fb_bytes;
    if (lv == 0)
        return VMC_OK;
    int rc = vmci_fs_read(v, vmci_align_down(lv, FS_SECTOR), s, FS_SECTOR, err);
    if (rc != VMC_OK)
        return rc;
    for (uint32_t i = 0; i < FS_SECTOR; i++)
        if (s[i] != 0)
            return vmci_error(err, VMC_EPERM, site,
                              "heartbeat slot %u left a journal at volume offset 0x%llx that only "
                              "its own host software can replay",
                              slot, (unsigned long long)lv);
    return VMC_OK;
}

static void clear_slot(uint8_t *hb)
{
    vmci_st_le32(hb + HB_STATE, HB_FREE);
    vmci_st_le64(hb + HB_GENERATION, vmci_ld_le64(hb + HB_GENERATION) + 1);
    memset(hb + HB_OWNER, 0, 16);
    vmci_st_le32(hb + HB_JOURNAL, 0);
    memset(hb + HB_NAME, 0, HB_NAME_BYTES);
    memset(hb + HB_JOURNAL_LV, 0, 8 + 16);
    memset(hb + HB_REPLAY_HB, 0, 16);
    memset(hb + HB_KEY, 0, 8);
}

/* VMC_EAGAIN: it beat, or another rescuer was faster. From here on the slot's session cannot beat. */
static int put_mark(struct vmc_vmfs *v, uint32_t slot, uint8_t *hb, struct vmc_error *err)
{
    uint8_t next[FS_SECTOR];

    memcpy(next, hb, FS_SECTOR);
    memcpy(next + HB_REPLAYER, v->host_uuid.b, 16);
    vmci_st_le64(next + HB_REPLAY_HB, v->s.hb_lv);
    vmci_st_le64(next + HB_REPLAY_GEN, v->s.generation);
    int rc = vmci_fs_caw(v, vmci_fs_hb_lv(v, slot), hb, next, err);
    if (rc == VMC_OK)
        memcpy(hb, next, FS_SECTOR);
    return rc;
}

/* Mark the slot as being replayed by us, so that a second rescuer waits for the first. */
static int mark_replay(struct vmc_vmfs *v, uint32_t slot, uint8_t *hb, struct vmc_error *err)
{
    uint64_t by = vmci_ld_le64(hb + HB_REPLAY_HB);

    if (by >= FS_HB_LV && (by - FS_HB_LV) % v->g.hb_bytes == 0 &&
        (by - FS_HB_LV) / v->g.hb_bytes < v->g.hb_slots && by != vmci_fs_hb_lv(v, slot) &&
        by != v->s.hb_lv) {
        /* One more level only: a dead rescuer's own slot is recovered in its turn. */
        uint8_t other[FS_SECTOR];
        uint32_t s = (uint32_t)((by - FS_HB_LV) / v->g.hb_bytes);
        int rc = read_slot(v, s, other, err);
        if (rc != VMC_OK)
            return rc;
        struct fs_observation *o = &v->obs[s];
        uint64_t gen = vmci_ld_le64(hb + HB_REPLAY_GEN), stamp = vmci_ld_le64(other + HB_STAMP);
        uint64_t now = vmci_fs_now(v);
        bool over = vmci_ld_le32(other + HB_STATE) == HB_FREE ||
                    vmci_ld_le64(other + HB_GENERATION) != gen;
        if (!over && (!o->seen || o->stamp != stamp || o->generation != gen)) {
            *o = (struct fs_observation){.stamp = stamp, .generation = gen, .since_ns = now, .seen = true};
            return busy(other, s, err);
        }
        if (!over) {
            rc = vmci_fs_session_silent(v, s, gen, &over, err);
            /* Should it wake up, it must not go on with the replay: its next beat has to fail. */
            if (rc == VMC_OK && over && vmci_ld_le64(other + HB_REPLAY_HB) == 0)
                rc = put_mark(v, s, other, err);
            /* Nor may what it asked for arrive later. */
            if (rc == VMC_OK && over)
                rc = vmci_fs_fence_evict(v, s, other, err);
        }
        if (rc != VMC_OK || !over)
            return rc != VMC_OK && rc != VMC_EAGAIN ? rc : busy(other, s, err);
    }
    int rc = put_mark(v, slot, hb, err);
    return rc == VMC_EAGAIN ? busy(hb, slot, err) : rc;
}

int vmci_fs_session_recover(struct vmc_vmfs *v, uint32_t slot, uint64_t generation,
                            struct vmc_error *err)
{
    uint8_t hb[FS_SECTOR], next[FS_SECTOR];
    bool ours;
    uint32_t fb;
    int rc = read_slot(v, slot, hb, err);

    if (rc != VMC_OK)
        return rc;
    if (vmci_ld_le32(hb + HB_STATE) == HB_FREE || vmci_ld_le64(hb + HB_GENERATION) != generation)
        return VMC_OK;
    if (vmci_ld_le64(hb + HB_STAMP) != v->obs[slot].stamp)
        return busy(hb, slot, err); /* it beat after all */
    if (v->ro)
        return busy(hb, slot, err);
    rc = vmci_fs_host_record(v, slot, generation, &ours, &fb, err);
    if (rc == VMC_OK && !ours)
        rc = check_foreign_journal(v, hb, slot, err);
    if (rc == VMC_OK)
        rc = mark_replay(v, slot, hb, err);
    if (rc == VMC_OK)
        rc = vmci_fs_fence_evict(v, slot, hb, err);
    if (rc == VMC_OK && ours)
        rc = vmci_fs_journal_replay(v, slot, generation, err);
    if (rc == VMC_OK)
        rc = vmci_fs_flush(v, err);
    if (rc != VMC_OK)
        return rc;
    memcpy(next, hb, FS_SECTOR);
    clear_slot(next);
    rc = vmci_fs_caw(v, vmci_fs_hb_lv(v, slot), hb, next, err);
    if (rc == VMC_EAGAIN)
        return busy(hb, slot, err);
    if (rc == VMC_OK)
        rc = vmci_fs_flush(v, err);
    if (rc != VMC_OK)
        return rc;
    v->unsure[slot] = 0;
    vmci_fs_inodes_stale(v);
    vmci_log(v->pf, VMC_LOG_WARN, "vmfs", "recovered the session in heartbeat slot %u", slot);
    return VMC_OK;
}

/*
 * Whom the caller waits for, and for how long at most; once it is silent for longer than one that
 * lives would be. True: said.
 */
static bool tell_wait(struct vmc_vmfs *v, uint32_t slot, uint64_t generation, const uint8_t *hb)
{
    uint64_t ms = (vmci_fs_now(v) - v->obs[slot].since_ns) / MS, all = v->window_ms;
    uint32_t lease;

    if (ms < 2ull * v->beat_ms || vmci_fs_host_lease(v, slot, generation, &lease, NULL) != VMC_OK)
        return false;
    all += lease;
    vmci_log(v->pf, VMC_LOG_WARN, "vmfs",
             "host %.*s (heartbeat slot %u) is silent and did not unmount: waiting up to %llu s more "
             "before what it left is recovered",
             (int)HB_NAME_BYTES - 1, hb[HB_NAME] ? (const char *)hb + HB_NAME : "unnamed", slot,
             (unsigned long long)((all > ms ? all - ms : 0) + 999) / 1000);
    return true;
}

/*
 * A session that was in use when we mounted may have ended together with the devices' power. Then
 * a lock may look released whose contents never reached the disk, and only its journal has them.
 * One that beats since our mount, or that began after it, has lost nothing.
 */
int vmci_fs_session_settle(struct vmc_vmfs *v, uint32_t slot, uint64_t generation,
                           struct vmc_error *err)
{
    uint8_t hb[FS_SECTOR];
    bool told = false;

    while (v->unsure[slot] && generation == v->gen_at_mount[slot]) {
        int rc = read_slot(v, slot, hb, err);
        if (rc != VMC_OK)
            return rc;
        struct fs_observation *o = &v->obs[slot];
        uint64_t stamp = vmci_ld_le64(hb + HB_STAMP);
        bool over = vmci_ld_le32(hb + HB_STATE) == HB_FREE ||
                    vmci_ld_le64(hb + HB_GENERATION) != generation;
        if (over || (o->seen && o->generation == generation && o->stamp != stamp)) {
            v->unsure[slot] = 0;
            if (over) /* somebody replayed, under our caches */
                vmci_fs_inodes_stale(v);
            return VMC_OK;
        }
        rc = vmci_fs_session_dead(v, slot, generation, hb + HB_OWNER, err);
        if (rc != VMC_EBUSY)
            return rc;
        told = told || tell_wait(v, slot, generation, hb);
        if (!vmci_fs_sleep(v, 250 * MS))
            return rc;
        rc = vmci_fs_session_check(v, err);
        if (rc != VMC_OK)
            return rc;
    }
    return VMC_OK;
}

/* ---- our own slot ------------------------------------------------------------------------------ */

static int lease_until(struct vmc_vmfs *v, uint64_t end_ns)
{
    return v->lease_until != NULL ? v->lease_until(v->lease_ctx, end_ns) : VMC_OK;
}

void vmci_fs_session_over(struct vmc_vmfs *v)
{
    (void)lease_until(v, UINT64_MAX); /* what cannot be stopped errs on the safe side */
}

/* By either clock. */
static bool lease_ended(struct vmc_vmfs *v)
{
    return vmci_fs_now(v) - vmci_load_acquire(&v->s.beat_ns) >= v->lease_ms * MS ||
           (v->tsc_per_ms != 0 && __builtin_ia32_rdtsc() - vmci_load_relaxed(&v->s.beat_tsc) >=
                                      v->lease_ms * v->tsc_per_ms);
}

/*
 * In the bakery nobody waits for a session that has been silent for longer than its lease: what it
 * compares and writes, a rescuer may be writing. So it is over, unless there is no other session:
 * one that begins now watches ours for a whole lease before it gives it up.
 */
int vmci_fs_session_sure(struct vmc_vmfs *v, struct vmc_error *err)
{
    uint64_t from = vmci_fs_now(v);
    uint8_t hb[FS_SECTOR];
    bool lost = false;

    if (v->exclusive || !v->s.active || !lease_ended(v))
        return VMC_OK;
    for (uint32_t i = 0; i < v->g.hb_slots && !lost; i++) {
        int rc = vmci_fs_read(v, vmci_fs_hb_lv(v, i), hb, FS_SECTOR, err);
        if (rc != VMC_OK)
            return rc;
        lost = i == v->s.slot ? memcmp(hb, v->s.image, FS_SECTOR) != 0
                              : vmci_ld_le32(hb + HB_STATE) == HB_USED;
    }
    if (!lost && vmci_fs_now(v) - from < v->lease_ms * MS)
        return VMC_OK;
    vmci_store_relaxed(&v->s.fenced, true);
    return vmci_error(err, VMC_EFENCED, site,
                      "the lease of heartbeat slot %u ended, and another host may have taken it",
                      v->s.slot);
}

static int beat_locked(struct vmc_vmfs *v, struct vmc_error *err)
{
    uint8_t next[FS_SECTOR];
    uint64_t tsc = __builtin_ia32_rdtsc(), now = vmci_fs_now(v);
    uint64_t stamp = VMCI_MAX(now / 1000, v->s.stamp + 1);

    memcpy(next, v->s.image, FS_SECTOR);
    vmci_st_le64(next + HB_STAMP, stamp);
    if (v->s.fenced)
        return vmci_error(err, VMC_EFENCED, site, "this session lost its lease and must unmount");
    int rc = vmci_fs_fence_check(v, err);
    if (rc != VMC_OK)
        return rc;
    /*
     * Nobody else writes to the slot while the lease lasts. So, without compare-and-write, its
     * owner needs no turn, for which it might have to wait until the lease is over.
     */
    rc = v->caw ? vmci_fs_caw(v, v->s.hb_lv, v->s.image, next, err)
                : vmci_fs_caw_owned(v, v->s.hb_lv, v->s.image, next, err);
    if (rc == VMC_EAGAIN) {
        vmci_store_relaxed(&v->s.fenced, true);
        return vmci_error(err, VMC_EFENCED, site,
                          "heartbeat slot %u was taken from us: the lease had expired", v->s.slot);
    }
    if (rc != VMC_OK)
        return rc;
    uint64_t since_ms = (now - v->s.beat_ns) / MS;
    memcpy(v->s.image, next, FS_SECTOR);
    v->s.stamp = stamp;
    vmci_store_relaxed(&v->s.beat_tsc, tsc);
    vmci_store_release(&v->s.beat_ns, now);
    if (lease_until(v, now + v->lease_ms * MS) != VMC_OK)
        vmci_log(v->pf, VMC_LOG_ERROR, "vmfs", "the watchdog of the lease cannot be set again");
    if (since_ms >= vmci_fs_lease_safe_ms(v))
        vmci_log(v->pf, VMC_LOG_WARN, "vmfs",
                 "the lease of heartbeat slot %u was renewed late, after %llu ms: other hosts may take "
                 "over after %u",
                 v->s.slot, (unsigned long long)since_ms, v->lease_ms + v->window_ms);
    return VMC_OK;
}

/* By any thread, with the volume's lock or without. */
static int beat(struct vmc_vmfs *v, struct vmc_error *err)
{
    vmci_lock(&v->beat_lock);
    int rc = beat_locked(v, err);
    vmci_unlock(&v->beat_lock);
    return rc;
}

int vmci_fs_session_check(struct vmc_vmfs *v, struct vmc_error *err)
{
    if (unlikely(vmci_load_relaxed(&v->s.fenced)))
        return vmci_error(err, VMC_EFENCED, site, "this session lost its lease and must unmount");
    /* By both clocks: one of them may have stood still while the machine slept. */
    if (v->exclusive || (vmci_fs_now(v) - vmci_load_acquire(&v->s.beat_ns) < v->beat_ms * MS &&
                         vmci_fs_lease_ok(v)))
        return VMC_OK;
    /*
     * Late or not: the compare-and-write succeeds only if no rescuer has marked the slot, and
     * then no rescuer will before a whole lease has passed from now.
     */
    return beat(v, err);
}

/*
 * Look after other sessions, a piece of the region at each beat: what died is recovered without
 * being asked. Hosts take the lowest free slot, so a piece without any user ends the round.
 */
static void look_around(struct vmc_vmfs *v)
{
    uint32_t first = v->s.look, n = LOOK_SLOTS, used = 0;
    uint8_t *all = vmci_alloc_aligned(v->pf, n * v->g.hb_bytes, FS_PAGE);

    if (all == NULL || vmci_fs_read(v, vmci_fs_hb_lv(v, first), all, n * v->g.hb_bytes, NULL) != VMC_OK)
        used = 0;
    else
        for (uint32_t i = 0; i < n; i++) {
            const uint8_t *hb = all + (size_t)i * v->g.hb_bytes;
            uint64_t generation = vmci_ld_le64(hb + HB_GENERATION);
            if (vmci_ld_le32(hb + HB_STATE) != HB_USED || first + i == v->s.slot)
                continue;
            used++;
            if (v->unsure[first + i] && generation == v->gen_at_mount[first + i] &&
                v->obs[first + i].stamp != vmci_ld_le64(hb + HB_STAMP))
                v->unsure[first + i] = 0;
            /* Busy is the usual answer; whatever else fails here fails again where it matters. */
            (void)vmci_fs_session_dead(v, first + i, generation, hb + HB_OWNER, NULL);
        }
    vmci_free_aligned(v->pf, all, n * v->g.hb_bytes, FS_PAGE);
    v->s.look = used > 0 && first + 2 * n <= v->g.hb_slots ? first + n : 0;
}

int vmc_vmfs_beat(struct vmc_vmfs *v, struct vmc_error *err)
{
    int rc = VMC_OK;

    vmci_lock(&v->lock);
    if (v->s.active && v->s.fenced)
        rc = vmci_fs_session_check(v, err);
    else if (v->s.active && !v->exclusive)
        rc = beat(v, err);
    if (rc == VMC_OK && v->s.active && !v->exclusive)
        look_around(v);
    vmci_unlock(&v->lock);
    return rc;
}

int vmc_vmfs_renew(struct vmc_vmfs *v, struct vmc_error *err)
{
    if (!v->s.active || v->exclusive)
        return VMC_OK;
    if (v->caw)
        return beat(v, err);
    /* A thread in its turn looks at what the slot has to hold. */
    vmci_lock(&v->lock);
    int rc = beat(v, err);
    vmci_unlock(&v->lock);
    return rc;
}

/*
 * Slots of hosts that are not ours: none may be alive, none may have left work. A host of ours that
 * mounts has its slot before its record, so a slot is foreign only if it beats again and again
 * without one; and a slot may change hands while it is watched: each session is judged by itself.
 */
static int check_foreign(struct vmc_vmfs *v, uint32_t slot, const uint8_t *seen,
                         struct vmc_error *err)
{
    uint8_t hb[FS_SECTOR];
    uint64_t gen = 0, stamp = 0, end = 0;

    memcpy(hb, seen, FS_SECTOR);
    for (uint32_t sessions = 0, beats = 0;;) {
        bool ours;
        uint32_t fb;
        uint64_t now_gen = vmci_ld_le64(hb + HB_GENERATION), now_stamp = vmci_ld_le64(hb + HB_STAMP);
        int rc = vmci_fs_host_record(v, slot, now_gen, &ours, &fb, err);
        if (rc != VMC_OK || ours)
            return rc;
        if (sessions == 0 || now_gen != gen) {
            rc = check_foreign_journal(v, hb, slot, err);
            if (rc != VMC_OK || v->exclusive)
                return rc;
            sessions++;
            beats = 0;
        } else if (now_stamp != stamp) {
            beats++;
        }
        if (beats >= FOREIGN_BEATS || sessions > FOREIGN_SESSIONS)
            return vmci_error(err, VMC_EBUSY, site,
                              "heartbeat slot %u is in use by a host of other software (%.*s)", slot,
                              (int)HB_NAME_BYTES - 1, (const char *)hb + HB_NAME);
        if (now_gen != gen || now_stamp != stamp)
            end = vmci_fs_now(v) + (v->lease_ms + v->window_ms) * MS;
        gen = now_gen;
        stamp = now_stamp;
        if (vmci_fs_now(v) >= end)
            return VMC_OK;
        if (!vmci_fs_sleep(v, 500 * MS))
            return vmci_error(err, VMC_EBUSY, site,
                              "heartbeat slot %u may be in use by a host of other software (%.*s): a "
                              "platform that can sleep would find out", slot,
                              (int)HB_NAME_BYTES - 1, (const char *)hb + HB_NAME);
        rc = read_slot(v, slot, hb, err);
        if (rc != VMC_OK || vmci_ld_le32(hb + HB_STATE) != HB_USED)
            return rc;
    }
}

static uint64_t hb_region(const struct vmc_vmfs *v)
{
    return (uint64_t)v->g.hb_slots * v->g.hb_bytes;
}

static int survey(struct vmc_vmfs *v, uint8_t *all, struct vmc_error *err)
{
    int rc = vmci_fs_read(v, FS_HB_LV, all, hb_region(v), err);

    for (uint32_t i = 0; i < v->g.hb_slots && rc == VMC_OK; i++) {
        const uint8_t *hb = all + (size_t)i * v->g.hb_bytes;
        v->gen_at_mount[i] = vmci_ld_le64(hb + HB_GENERATION);
        if (vmci_ld_le32(hb + HB_STATE) != HB_USED)
            continue;
        v->unsure[i] = 1;
        v->obs[i] = (struct fs_observation){.stamp = vmci_ld_le64(hb + HB_STAMP),
                                            .generation = v->gen_at_mount[i],
                                            .since_ns = vmci_fs_now(v), .seen = true};
        rc = check_foreign(v, i, hb, err);
    }
    return rc;
}

static int claim(struct vmc_vmfs *v, uint32_t slot, const uint8_t *hb, struct vmc_error *err)
{
    uint8_t *next = v->s.image;
    uint64_t now = vmci_fs_now(v);

    memcpy(next, hb, FS_SECTOR);
    vmci_st_le32(next + HB_STATE, HB_USED);
    v->s.stamp = VMCI_MAX(now / 1000, vmci_ld_le64(hb + HB_STAMP) + 1);
    vmci_st_le64(next + HB_STAMP, v->s.stamp);
    memcpy(next + HB_OWNER, v->host_uuid.b, 16);
    vmci_st_le32(next + HB_JOURNAL, 0);
    vmci_st_le32(next + HB_MAJOR, v->g.major);
    next[HB_MINOR] = (uint8_t)v->g.minor;
    next[HB_LOCK_IMPL] = v->g.version == 3 ? 0 : v->g.version == 5 ? 3 : 5;
    memset(next + HB_NAME, 0, HB_NAME_BYTES);
    if (v->g.version != 3)
        memcpy(next + HB_NAME, v->host_name, HB_NAME_BYTES);
    vmci_st_le64(next + HB_JOURNAL_LV, 0);
    memset(next + HB_REPLAYER, 0, 16);
    vmci_st_le64(next + HB_KEY, v->s.key);
    v->s.slot = slot;
    v->s.hb_lv = vmci_fs_hb_lv(v, slot);
    v->s.generation = vmci_ld_le64(hb + HB_GENERATION);
    v->s.beat_ns = now;
    v->s.beat_tsc = __builtin_ia32_rdtsc();
    int rc = lease_until(v, now + v->lease_ms * MS);
    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "the watchdog of the lease cannot be set");
    if (v->caw || v->exclusive)
        return vmci_fs_caw_once(v, v->s.hb_lv, hb, next, err);
    /*
     * Nothing atomic to be had and no slot yet to take part in the bakery with: claim, wait until
     * whoever claimed at the same time has written too, and see who was last.
     */
    uint8_t seen[FS_SECTOR];
    rc = vmci_fs_write(v, v->s.hb_lv, next, FS_SECTOR, err);
    if (rc == VMC_OK && !vmci_fs_sleep(v, v->window_ms * MS))
        return vmci_error(err, VMC_ENOTSUP, site,
                          "a shared device without compare-and-write needs a platform that can sleep");
    if (rc == VMC_OK)
        rc = vmci_fs_read(v, v->s.hb_lv, seen, FS_SECTOR, err);
    if (rc == VMC_OK && memcmp(seen, next, FS_SECTOR) != 0)
        rc = VMC_EAGAIN;
    return rc;
}

int vmci_fs_session_open(struct vmc_vmfs *v, struct vmc_error *err)
{
    uint8_t *all = vmci_alloc_aligned(v->pf, hb_region(v), FS_PAGE);
    int rc;

    if (all == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for the heartbeat region");
    rc = survey(v, all, err);
    if (rc == VMC_OK && v->fencing) {
        rc = vmci_fs_fence_wait(v, all, err);
        if (rc == VMC_OK)
            rc = vmci_fs_fence_join(v, err);
    }
    /*
     * What others left to be written may take long: not at the cost of our lease. A flush is for
     * registered hosts only, too.
     */
    if (rc == VMC_OK)
        rc = vmci_fs_flush(v, err);
    for (uint32_t i = 0; i < v->g.hb_slots && rc == VMC_OK; i++) {
        const uint8_t *hb = all + (size_t)i * v->g.hb_bytes;
        if (vmci_ld_le32(hb + HB_STATE) != HB_FREE || vmci_ld_le64(hb + HB_SELF) != vmci_fs_hb_lv(v, i))
            continue;
        rc = claim(v, i, hb, err);
        if (rc == VMC_OK) {
            v->s.active = true;
            v->gen_at_mount[i] = v->s.generation;
            break;
        }
        if (rc == VMC_EAGAIN)
            rc = VMC_OK; /* another host was faster: the next slot */
    }
    vmci_free_aligned(v->pf, all, hb_region(v), FS_PAGE);
    if (rc == VMC_OK && !v->s.active)
        rc = vmci_error(err, VMC_ELIMIT, site, "all %u heartbeat slots are in use", v->g.hb_slots);
    if (!v->s.active)
        vmci_fs_fence_leave(v);
    if (rc == VMC_OK)
        rc = vmci_fs_flush(v, err);
    return rc;
}

/* A session that locks in another way: is it over, or recovered now? Waited for, for a lease. */
static int outlive(struct vmc_vmfs *v, uint32_t slot, const uint8_t *hb, struct vmc_error *err)
{
    uint64_t generation = vmci_ld_le64(hb + HB_GENERATION);
    uint64_t end = vmci_fs_now(v) + (v->lease_ms + 2 * v->window_ms) * MS;
    int rc;

    while ((rc = vmci_fs_session_dead(v, slot, generation, hb + HB_OWNER, err)) == VMC_EBUSY &&
           vmci_fs_now(v) < end && vmci_fs_sleep(v, 500 * MS)) {
        rc = vmci_fs_session_check(v, err);
        if (rc != VMC_OK)
            return rc;
    }
    if (rc != VMC_EBUSY)
        return rc;
    return vmci_error(err, VMC_EBUSY, site,
                      "the host in heartbeat slot %u (%.*s) has %s compare-and-write on the disk, this "
                      "one has %s: they would not see each other's locks",
                      slot, (int)HB_NAME_BYTES - 1, (const char *)hb + HB_NAME, v->caw ? "no" : "a",
                      v->caw ? "one" : "none");
}

int vmci_fs_session_agree(struct vmc_vmfs *v, struct vmc_error *err)
{
    uint8_t *all = vmci_alloc_aligned(v->pf, hb_region(v), FS_PAGE);
    int rc;

    if (all == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for the heartbeat region");
    rc = vmci_fs_read(v, FS_HB_LV, all, hb_region(v), err);
    for (uint32_t i = 0; i < v->g.hb_slots && rc == VMC_OK; i++) {
        const uint8_t *hb = all + (size_t)i * v->g.hb_bytes;
        bool known = false, bakery = false;
        if (vmci_ld_le32(hb + HB_STATE) == HB_USED && i != v->s.slot)
            rc = vmci_fs_host_way(v, i, vmci_ld_le64(hb + HB_GENERATION), &known, &bakery, err);
        if (rc == VMC_OK && known && bakery == v->caw)
            rc = outlive(v, i, hb, err);
    }
    vmci_free_aligned(v->pf, all, hb_region(v), FS_PAGE);
    return rc;
}

int vmci_fs_session_close(struct vmc_vmfs *v, struct vmc_error *err)
{
    uint8_t next[FS_SECTOR];

    if (!v->s.active || v->s.fenced)
        return VMC_OK;
    int rc = vmci_fs_flush(v, err);
    if (rc != VMC_OK)
        return rc;
    memcpy(next, v->s.image, FS_SECTOR);
    clear_slot(next);
    rc = vmci_fs_caw(v, v->s.hb_lv, v->s.image, next, err);
    v->s.active = false;
    if (rc == VMC_EAGAIN)
        return vmci_error(err, VMC_EFENCED, site, "heartbeat slot %u was taken from us", v->s.slot);
    if (rc == VMC_OK)
        rc = vmci_fs_flush(v, err);
    if (rc == VMC_OK)
        vmci_fs_fence_leave(v);
    return rc;
}

int vmc_vmfs_heartbeats(struct vmc_vmfs *v, uint32_t *cookie, struct vmc_vmfs_heartbeat *out,
                        struct vmc_error *err)
{
    uint8_t hb[FS_PAGE];
    int rc = VMC_OK;

    vmci_lock(&v->lock);
    for (; *cookie < v->g.hb_slots; (*cookie)++) {
        uint32_t fb;
        bool ours = false, known, bakery = false;
        rc = vmci_fs_read(v, vmci_fs_hb_lv(v, *cookie), hb, v->g.hb_bytes, err);
        if (rc != VMC_OK)
            break;
        bool used = vmci_ld_le32(hb + HB_STATE) == HB_USED;
        uint64_t gen = vmci_ld_le64(hb + HB_GENERATION);
        if (!used && gen == 0)
            continue;
        if (used)
            rc = vmci_fs_host_record(v, *cookie, gen, &ours, &fb, err);
        if (used && rc == VMC_OK)
            rc = vmci_fs_host_way(v, *cookie, gen, &known, &bakery, err);
        memset(out, 0, sizeof(*out));
        out->slot = (*cookie)++;
        out->in_use = used;
        out->ours = ours;
        out->bakery = bakery;
        out->fenced = ours && vmci_ld_le64(hb + HB_KEY) != 0;
        out->self = v->s.active && out->slot == v->s.slot;
        out->generation = gen;
        out->stamp_us = vmci_ld_le64(hb + HB_STAMP);
        memcpy(out->owner.b, hb + HB_OWNER, 16);
        memcpy(out->host_name, hb + HB_NAME, HB_NAME_BYTES - 1);
        vmci_unlock(&v->lock);
        return rc == VMC_OK ? 1 : rc;
    }
    vmci_unlock(&v->lock);
    return rc;
}
