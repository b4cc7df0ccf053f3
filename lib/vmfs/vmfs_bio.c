/* SPDX-License-Identifier: BSD-2-Clause */
/* Synchronous I/O on the devices and on the logical volume. */
#include "vmfs/vmfs_priv.h"

struct wait {
    uint32_t done;
    const struct vmc_platform *pf;
};

static void wait_done(struct vmc_block_req *req)
{
    struct wait *w = req->opaque;
    const struct vmc_platform *pf = w->pf;

    vmci_store_release(&w->done, 1);
    /* w may be gone from here on: wake only uses the address. */
    if (vmci_pf_has(pf, sync))
        pf->sync->wake(pf->ctx, &w->done);
}

static void wait_for(const struct vmc_blockdev *bd, struct wait *w)
{
    if (bd->ops->kick != NULL)
        bd->ops->kick(bd->ctx);
    while (!vmci_load_acquire(&w->done)) {
        if (bd->ops->poll != NULL)
            bd->ops->poll(bd->ctx);
        else if (vmci_pf_has(w->pf, sync))
            w->pf->sync->park(w->pf->ctx, &w->done, 0, UINT64_MAX);
        else
            __builtin_ia32_pause();
    }
}

int vmci_fs_dev_io(const struct vmc_platform *pf, const struct vmc_blockdev *bd, uint32_t op,
                   uint64_t off, void *buf, uint64_t bytes, struct vmc_error *err)
{
    static const char *const names[] = {"read", "write", "flush", "discard", "write zeroes"};
    struct vmc_iovec iov = {.base = buf, .bytes = bytes};
    struct wait w = {.pf = pf};
    struct vmc_block_req req = {
        .op = op,
        .flags = VMC_BLOCK_WAITED,
        .offset = off,
        .bytes = bytes,
        .iov = &iov,
        .iov_count = buf != NULL ? 1 : 0,
        .done = wait_done,
        .opaque = &w,
    };

    if (bd->ops->submit(bd->ctx, &req) == VMC_BLOCK_PENDING)
        wait_for(bd, &w);
    if (unlikely(req.status != VMC_OK))
        return vmci_error(
            err, req.status, SITE("io"), "%s of %llu bytes at device offset 0x%llx failed: %s",
            op < VMCI_ARRAY_SIZE(names) ? names[op] : "request", (unsigned long long)bytes,
            (unsigned long long)off, vmc_strerror(req.status));
    return VMC_OK;
}

const struct fs_seg *vmci_fs_seg(const struct vmc_vmfs *v, uint64_t lv)
{
    uint32_t lo = 0, hi = v->nsegs;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        const struct fs_seg *s = &v->seg[mid];
        if (lv < s->lv)
            hi = mid;
        else if (lv - s->lv >= s->bytes)
            lo = mid + 1;
        else
            return s;
    }
    return NULL;
}

/* A read of parts of a device's sectors: the sectors, and from them what is wanted. */
static int read_parts(struct vmc_vmfs *v, const struct fs_dev *d, uint64_t off, uint8_t *buf,
                      uint64_t bytes, struct vmc_error *err)
{
    _Alignas(FS_PAGE) uint8_t page[FS_PAGE];

    while (bytes > 0) {
        uint64_t skip = off % d->info.sector_bytes;
        uint64_t n = VMCI_MIN(bytes, d->info.sector_bytes - skip);
        int rc = vmci_fs_dev_io(v->pf, &d->bd, VMC_BLOCK_READ, off - skip, page,
                                d->info.sector_bytes, err);
        if (rc != VMC_OK)
            return rc;
        memcpy(buf, page + skip, n);
        off += n;
        buf += n;
        bytes -= n;
    }
    return VMC_OK;
}

/* leased: looked at before each request, as a host may stall between any two. */
static int lv_io(struct vmc_vmfs *v, uint32_t op, uint64_t lv, uint8_t *buf, uint64_t bytes,
                 bool leased, struct vmc_error *err)
{
    while (bytes > 0) {
        const struct fs_seg *s = vmci_fs_seg(v, lv);
        if (unlikely(s == NULL))
            return vmci_error(err, VMC_EFORMAT, SITE("io"),
                              "volume offset 0x%llx is outside of the extents",
                              (unsigned long long)lv);
        uint64_t n = VMCI_MIN(bytes, s->lv + s->bytes - lv);
        int rc = VMC_OK;
        if (leased && v->s.active && unlikely(!vmci_fs_lease_ok(v)))
            rc = vmci_fs_session_check(v, err);
        const struct fs_dev *d = &v->dev[s->dev];
        uint64_t off = s->dev_off + (lv - s->lv);
        if (rc == VMC_OK && op == VMC_BLOCK_READ &&
            unlikely(((off | n) & (d->info.sector_bytes - 1)) != 0))
            rc = read_parts(v, d, off, buf, n, err);
        else if (rc == VMC_OK)
            rc = vmci_fs_dev_io(v->pf, &d->bd, op, off, buf, n, err);
        if (rc != VMC_OK)
            return rc;
        lv += n;
        bytes -= n;
        if (buf != NULL)
            buf += n;
    }
    return VMC_OK;
}

int vmci_fs_read(struct vmc_vmfs *v, uint64_t lv, void *buf, uint64_t bytes, struct vmc_error *err)
{
    return lv_io(v, VMC_BLOCK_READ, lv, buf, bytes, false, err);
}

int vmci_fs_write(struct vmc_vmfs *v, uint64_t lv, const void *buf, uint64_t bytes,
                  struct vmc_error *err)
{
    if (unlikely(v->ro))
        return vmci_error(err, VMC_EPERM, SITE("io"), "the volume is mounted read-only");
    return lv_io(v, VMC_BLOCK_WRITE, lv, (uint8_t *)(uintptr_t)buf, bytes, true, err);
}

int vmci_fs_write_unleased(struct vmc_vmfs *v, uint64_t lv, const void *buf, uint64_t bytes,
                           struct vmc_error *err)
{
    return lv_io(v, VMC_BLOCK_WRITE, lv, (uint8_t *)(uintptr_t)buf, bytes, false, err);
}

int vmci_fs_zero(struct vmc_vmfs *v, uint64_t lv, uint64_t bytes, struct vmc_error *err)
{
    const struct fs_seg *s = vmci_fs_seg(v, lv);

    if (s != NULL && v->dev[s->dev].info.can_write_zeroes)
        return lv_io(v, VMC_BLOCK_WRITE_ZEROES, lv, NULL, bytes, true, err);
    while (bytes > 0) {
        uint64_t n = VMCI_MIN(bytes, FS_ZERO_BYTES);
        int rc = vmci_fs_write(v, lv, v->zeros, n, err);
        if (rc != VMC_OK)
            return rc;
        lv += n;
        bytes -= n;
    }
    return VMC_OK;
}

void vmci_fs_give_up(struct vmc_vmfs *v, const char *what, int why)
{
    if (!v->s.active || vmci_load_relaxed(&v->s.fenced))
        return;
    vmci_store_relaxed(&v->s.fenced, true);
    vmci_log(v->pf, VMC_LOG_ERROR, "vmfs",
             "%s failed (%s): nothing more is written until the volume is mounted again", what,
             vmc_strerror(why));
}

/*
 * A flush that fails ends the session: what it was for may be lost, the next one would succeed all
 * the same, and the records that could repair it would be given up. The journal is replayed
 * instead.
 */
int vmci_fs_flush(struct vmc_vmfs *v, struct vmc_error *err)
{
    for (uint32_t i = 0; i < v->ndevs; i++) {
        int rc = vmci_fs_dev_io(v->pf, &v->dev[i].bd, VMC_BLOCK_FLUSH, 0, NULL, 0, err);
        if (unlikely(rc != VMC_OK)) {
            vmci_fs_give_up(v, "a flush", rc);
            return rc;
        }
    }
    return VMC_OK;
}

int vmci_fs_caw_owned(struct vmc_vmfs *v, uint64_t lv, const uint8_t *expect, const uint8_t *data,
                      struct vmc_error *err)
{
    uint8_t now[FS_SECTOR];
    int rc = vmci_fs_read(v, lv, now, FS_SECTOR, err);
    if (rc == VMC_OK && memcmp(now, expect, FS_SECTOR) != 0)
        rc = VMC_EAGAIN;
    if (rc == VMC_OK)
        rc = vmci_fs_session_sure(v, err);
    if (rc == VMC_OK)
        rc = vmci_fs_write_unleased(v, lv, data, FS_SECTOR, err);
    return rc;
}

/* Without help from the device: inside a mutual exclusion between hosts. */
static int caw_emulated(struct vmc_vmfs *v, uint64_t lv, const uint8_t *expect, const uint8_t *data,
                        struct vmc_error *err)
{
    int rc = vmci_fs_session_sure(v, err);

    if (rc == VMC_OK && !v->exclusive)
        rc = vmci_fs_bakery_enter(v, err);
    if (rc != VMC_OK)
        return rc;
    rc = vmci_fs_caw_owned(v, lv, expect, data, err);
    if (v->exclusive)
        return rc;
    int rc2 = vmci_fs_bakery_leave(v, err);
    return rc != VMC_OK ? rc : rc2;
}

int vmci_fs_caw_once(struct vmc_vmfs *v, uint64_t lv, const uint8_t *expect, const uint8_t *data,
                     struct vmc_error *err)
{
    const struct fs_seg *s = vmci_fs_seg(v, lv);

    if (unlikely(s == NULL))
        return vmci_error(err, VMC_EFORMAT, SITE("io"),
                          "lock at volume offset 0x%llx is outside of the extents",
                          (unsigned long long)lv);
    if (!v->caw)
        return caw_emulated(v, lv, expect, data, err);
    const struct vmc_blockdev *bd = &v->dev[s->dev].bd;
    int rc = bd->ops->compare_write(bd->ctx, s->dev_off + (lv - s->lv), expect, data, FS_SECTOR);
    if (unlikely(rc != VMC_OK && rc != VMC_EAGAIN))
        return vmci_error(err, rc, SITE("io"),
                          "compare and write at volume offset 0x%llx failed: %s",
                          (unsigned long long)lv,
                          rc == VMC_EPERM ? "the disk is reserved by another host, or protected"
                                          : vmc_strerror(rc));
    return rc;
}

/*
 * A path that repeats a command it has no answer to makes the disk compare with what the first one
 * wrote. No two sessions write the same, so what is there is ours.
 */
int vmci_fs_caw(struct vmc_vmfs *v, uint64_t lv, const uint8_t *expect, const uint8_t *data,
                struct vmc_error *err)
{
    uint8_t now[FS_SECTOR];
    int rc = vmci_fs_caw_once(v, lv, expect, data, err);

    if (unlikely(rc != VMC_OK) && v->caw && vmci_fs_read(v, lv, now, FS_SECTOR, NULL) == VMC_OK &&
        memcmp(now, data, FS_SECTOR) == 0)
        rc = VMC_OK;
    return rc;
}

uint64_t vmci_fs_now(const struct vmc_vmfs *v)
{
    return v->pf->now_ns(v->pf->ctx);
}

uint32_t vmci_fs_wall(const struct vmc_vmfs *v)
{
    if (vmci_pf_has(v->pf, wall_s))
        return (uint32_t)v->pf->wall_s(v->pf->ctx);
    /* Without a clock, time goes on from where the volume was made. */
    return vmci_ld_le32(v->desc + FSD_CREATED) + (uint32_t)(vmci_fs_now(v) / 1000000000u);
}

bool vmci_fs_sleep(struct vmc_vmfs *v, uint64_t ns)
{
    if (v->sleep_ns != NULL) {
        v->sleep_ns(v->sleep_ctx, ns);
        return true;
    }
    if (!vmci_pf_has(v->pf, sync))
        return false;
    uint32_t word = 0;
    v->pf->sync->park(v->pf->ctx, &word, 0, vmci_fs_now(v) + ns);
    return true;
}
