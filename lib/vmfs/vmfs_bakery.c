/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Mutual exclusion between hosts on devices that only read and write sectors: Lamport's bakery
 * algorithm ("A New Solution of Dijkstra's Concurrent Programming Problem", CACM 17(8), 1974). It
 * needs no more than registers with one writer each, and it tolerates that a read overlaps a
 * write. Slot i's register is the sector at LV offset 0x100000 + i * 512, a region that VMFS
 * leaves unused. A host counts only as long as its heartbeat slot is in use; one that died
 * inside is recovered like the holder of any lock.
 */
#include "vmfs/vmfs_priv.h"

#define BAKERY_LV    0x100000ull
#define BAKERY_MAGIC 0x79726b61424d4356ull /* "VCMBakry" */
#define BK_MAGIC     0
#define BK_GEN       8
#define BK_CHOOSING  16
#define BK_NUMBER    24
#define POLL_NS      200000ull

static int put(struct vmc_vmfs *v, uint64_t choosing, uint64_t number, struct vmc_error *err)
{
    uint8_t s[FS_SECTOR] = {0};

    vmci_st_le64(s + BK_MAGIC, BAKERY_MAGIC);
    vmci_st_le64(s + BK_GEN, v->s.generation);
    vmci_st_le64(s + BK_CHOOSING, choosing);
    vmci_st_le64(s + BK_NUMBER, number);
    int rc =
        vmci_fs_write_unleased(v, BAKERY_LV + (uint64_t)v->s.slot * FS_SECTOR, s, FS_SECTOR, err);
    return rc == VMC_OK ? vmci_fs_flush(v, err) : rc;
}

static bool counts(const uint8_t *s)
{
    return vmci_ld_le64(s + BK_MAGIC) == BAKERY_MAGIC;
}

/*
 * A register's number. One that nobody reaches by counting was left over or damaged, and would end
 * the numbers: it is none unless its session lives.
 */
static int number_of(struct vmc_vmfs *v, uint32_t i, const uint8_t *s, uint64_t *n,
                     struct vmc_error *err)
{
    uint8_t hb[FS_SECTOR];

    *n = counts(s) ? vmci_ld_le64(s + BK_NUMBER) : 0;
    if (*n < UINT64_MAX / 2)
        return VMC_OK;
    int rc = vmci_fs_read(v, vmci_fs_hb_lv(v, i), hb, FS_SECTOR, err);
    if (rc == VMC_OK && (vmci_ld_le32(hb + HB_STATE) != HB_USED ||
                         vmci_ld_le64(hb + HB_GENERATION) != vmci_ld_le64(s + BK_GEN)))
        *n = 0;
    return rc;
}

/* Wait until slot i is neither choosing nor in front of us. */
static int wait_for(struct vmc_vmfs *v, uint32_t i, uint64_t mine, struct vmc_error *err)
{
    uint64_t deadline = vmci_fs_now(v) + v->lock_wait_ms * 1000000ull;
    uint8_t s[FS_SECTOR], hb[FS_SECTOR];

    for (;;) {
        int rc = vmci_fs_read(v, BAKERY_LV + (uint64_t)i * FS_SECTOR, s, FS_SECTOR, err);
        if (rc != VMC_OK)
            return rc;
        uint64_t n = vmci_ld_le64(s + BK_NUMBER);
        bool first = n != 0 && (n < mine || (n == mine && i < v->s.slot));
        if (!counts(s) || (vmci_ld_le64(s + BK_CHOOSING) == 0 && !first))
            return VMC_OK;
        rc = vmci_fs_read(v, vmci_fs_hb_lv(v, i), hb, FS_SECTOR, err);
        if (rc != VMC_OK)
            return rc;
        uint64_t stamp = vmci_ld_le64(hb + HB_STAMP), now = vmci_fs_now(v);
        struct fs_observation *o = &v->obs[i];
        if (vmci_ld_le32(hb + HB_STATE) != HB_USED ||
            vmci_ld_le64(hb + HB_GENERATION) != vmci_ld_le64(s + BK_GEN))
            return VMC_OK; /* left over by a session that has ended */
        if (!o->seen || o->stamp != stamp || o->generation != vmci_ld_le64(s + BK_GEN))
            *o = (struct fs_observation){.stamp = stamp,
                                         .generation = vmci_ld_le64(s + BK_GEN),
                                         .since_ns = now,
                                         .seen = true};
        bool dead;
        rc = vmci_fs_session_silent(v, i, o->generation, &dead, err);
        if (rc != VMC_OK || dead) /* it must not write any more */
            return rc;
        rc = vmci_fs_session_check(v, err); /* it may take longer than a lease */
        if (rc != VMC_OK)
            return rc;
        if (now >= deadline || !vmci_fs_sleep(v, POLL_NS))
            return vmci_error(err, VMC_EBUSY, SITE("bakery"), "heartbeat slot %u does not let go",
                              i);
    }
}

int vmci_fs_bakery_enter(struct vmc_vmfs *v, struct vmc_error *err)
{
    uint64_t top = 0;
    uint8_t *all = vmci_alloc_aligned(v->pf, FS_HB_SLOTS * FS_SECTOR, FS_PAGE);
    int rc;

    if (all == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE("bakery"), "no memory");
    rc = put(v, 1, 0, err);
    if (rc == VMC_OK)
        rc = vmci_fs_read(v, BAKERY_LV, all, FS_HB_SLOTS * FS_SECTOR, err);
    for (uint32_t i = 0; i < v->g.hb_slots && rc == VMC_OK; i++) {
        uint64_t n;
        rc = number_of(v, i, all + i * FS_SECTOR, &n, err);
        top = rc == VMC_OK ? VMCI_MAX(top, n) : top;
    }
    if (rc == VMC_OK && top == UINT64_MAX)
        rc = vmci_error(err, VMC_EFORMAT, SITE("bakery"), "a ticket number is out of range");
    if (rc == VMC_OK)
        rc = vmci_fs_session_sure(v, err);
    if (rc == VMC_OK)
        rc = put(v, 0, top + 1, err);
    if (rc == VMC_OK)
        rc = vmci_fs_read(v, BAKERY_LV, all, FS_HB_SLOTS * FS_SECTOR, err);
    for (uint32_t i = 0; i < v->g.hb_slots && rc == VMC_OK; i++)
        if (i != v->s.slot && counts(all + i * FS_SECTOR))
            rc = wait_for(v, i, top + 1, err);
    vmci_free_aligned(v->pf, all, FS_HB_SLOTS * FS_SECTOR, FS_PAGE);
    if (rc != VMC_OK)
        (void)vmci_fs_bakery_leave(v, NULL); /* already failing */
    return rc;
}

int vmci_fs_bakery_leave(struct vmc_vmfs *v, struct vmc_error *err)
{
    /* The register of a session that was given up may be that of its slot's next one. */
    return vmci_load_relaxed(&v->s.fenced) ? VMC_OK : put(v, 0, 0, err);
}
