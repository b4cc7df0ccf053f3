/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Devices that keep out a host that was given up. Each session registers with a key of its own,
 * which stands in its heartbeat slot, so that whoever takes its place knows whom to have shut out.
 * A session that finds itself shut out never registers again: it is over.
 */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("fence");

#define MS 1000000ull
#define KEY_MARK                                                                                   \
    0x564d43ull /* "VMC": the upper 24 bits of our keys, for who lists those of a disk */

static int make_key(struct vmc_vmfs *v, struct vmc_error *err)
{
    uint64_t r = 0;

    if (vmci_pf_has(v->pf, entropy)) {
        if (v->pf->entropy->fill(v->pf->ctx, &r, sizeof(r)) != VMC_OK)
            return vmci_error(err, VMC_EHOST, site, "no randomness for a key");
    } else {
        r = vmci_hash64(v->host_uuid.b, 16, vmci_fs_now(v));
    }
    v->s.key = KEY_MARK << 40 | (r & ((1ull << 40) - 1));
    return VMC_OK;
}

int vmci_fs_fence_wait(struct vmc_vmfs *v, const uint8_t *all, struct vmc_error *err)
{
    for (uint32_t i = 0; i < v->g.hb_slots; i++) {
        const uint8_t *seen = all + (size_t)i * v->g.hb_bytes;
        uint64_t generation = vmci_ld_le64(seen + HB_GENERATION);
        uint8_t hb[FS_SECTOR];
        bool silent = false, ours;
        uint32_t fb;

        if (vmci_ld_le32(seen + HB_STATE) != HB_USED)
            continue;
        int rc = vmci_fs_host_record(v, i, generation, &ours, &fb, err);
        if (rc != VMC_OK)
            return rc;
        /* One of other software is over: the survey has seen to that. */
        while (ours && vmci_ld_le64(seen + HB_KEY) == 0 && !silent) {
            rc = vmci_fs_read(v, vmci_fs_hb_lv(v, i), hb, FS_SECTOR, err);
            if (rc != VMC_OK)
                return rc;
            if (vmci_ld_le32(hb + HB_STATE) != HB_USED ||
                vmci_ld_le64(hb + HB_GENERATION) != generation)
                break;
            bool beats = vmci_ld_le64(hb + HB_STAMP) != v->obs[i].stamp;
            if (!beats)
                rc = vmci_fs_session_silent(v, i, generation, &silent, err);
            if (rc != VMC_OK)
                return rc;
            if (beats || (!silent && !vmci_fs_sleep(v, 250 * MS)))
                return vmci_error(
                    err, VMC_EBUSY, site,
                    "the host in heartbeat slot %u (%.*s) has not registered with the "
                    "devices: a reservation would shut it out",
                    i, (int)HB_NAME_BYTES - 1, (const char *)hb + HB_NAME);
        }
    }
    return VMC_OK;
}

int vmci_fs_fence_join(struct vmc_vmfs *v, struct vmc_error *err)
{
    int rc = make_key(v, err);

    if (rc == VMC_OK)
        rc = v->fence.join(v->fence.ctx, v->s.key, err);
    if (rc != VMC_OK)
        v->s.key = 0;
    return rc;
}

int vmci_fs_fence_check(struct vmc_vmfs *v, struct vmc_error *err)
{
    if (v->s.key == 0)
        return VMC_OK;
    int rc = v->fence.check(v->fence.ctx, v->s.key, err);
    if (rc == VMC_EFENCED)
        vmci_store_relaxed(&v->s.fenced, true);
    return rc;
}

int vmci_fs_fence_evict(struct vmc_vmfs *v, uint32_t slot, const uint8_t *hb, struct vmc_error *err)
{
    uint64_t whom = vmci_ld_le64(hb + HB_KEY);

    /* Without a key it was never let in, as nobody joins while a session without one lives. */
    if (v->s.key == 0 || whom >> 40 != KEY_MARK || whom == v->s.key)
        return VMC_OK;
    int rc = v->fence.evict(v->fence.ctx, v->s.key, whom, err);
    if (rc == VMC_EFENCED)
        vmci_store_relaxed(&v->s.fenced, true);
    if (rc != VMC_OK)
        vmci_log(v->pf, VMC_LOG_WARN, "vmfs",
                 "the session in heartbeat slot %u cannot be shut out, so it is not recovered: %s",
                 slot, vmc_strerror(rc));
    return rc;
}

void vmci_fs_fence_leave(struct vmc_vmfs *v)
{
    struct vmc_error err;

    if (v->s.key != 0 && v->fence.leave(v->fence.ctx, v->s.key, &err) != VMC_OK)
        vmci_log(v->pf, VMC_LOG_WARN, "vmfs", "the devices still know this host's key: %s",
                 err.text);
    v->s.key = 0;
}
