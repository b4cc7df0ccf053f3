/* SPDX-License-Identifier: BSD-2-Clause */
/* The fence of a VMFS volume: a persistent reservation on each of its disks. */
#define _GNU_SOURCE
#include <vmcore/host_fence.h>

#include "host_block_priv.h"
#include "host_reserve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static const char site[] = "host/fence";

/*
 * Of the disk's node in /dev. A process that was killed keeps it until the kernel has ended its
 * last request: before that, nobody may give the path the right to write again.
 */
#define LOCK_AT (1ll << 62)

struct vmc_host_fence {
    uint32_t count;
    struct vmc_host_disk *disk[VMC_VMFS_MAX_EXTENTS];
};

int vmc_host_fence_create(struct vmc_host_disk *const *disks, uint32_t count,
                          struct vmc_host_fence **out, struct vmc_error *err)
{
    if (count == 0 || count > VMC_VMFS_MAX_EXTENTS)
        return vmci_host_error(err, VMC_EINVAL, 0, site, "%u disks", count);
    for (uint32_t i = 0; i < count; i++) {
        const char *why = "it is no SCSI disk as a whole (a file, a partition or a mapped device)";
        int rc = VMC_ENOTSUP;
        if (disks[i] != NULL && disks[i]->caw.whole)
            rc = vmci_reserve_offered(&disks[i]->caw, &why);
        if (rc != VMC_OK)
            return vmci_host_error(err, rc, 0, site, "extent %u cannot be reserved: %s", i, why);
    }
    struct vmc_host_fence *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return vmci_host_error(err, VMC_ENOMEM, 0, site, "no memory");
    f->count = count;
    memcpy(f->disk, disks, count * sizeof(f->disk[0]));
    *out = f;
    return VMC_OK;
}

static int lock_path(const struct vmc_host_disk *d, short type)
{
    struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = LOCK_AT, .l_len = 1};

    return fcntl(d->fd, F_OFD_SETLK, &fl) == 0  ? VMC_OK
           : errno == EAGAIN || errno == EACCES ? VMC_EBUSY
                                                : VMC_EHOST;
}

static int leave(void *ctx, uint64_t key, struct vmc_error *err)
{
    struct vmc_host_fence *f = ctx;
    int rc = VMC_OK;

    for (uint32_t i = 0; i < f->count; i++) {
        int rc2 = vmci_reserve_leave(&f->disk[i]->caw, key);
        rc = rc2 != VMC_OK ? rc2 : rc;
        if (rc2 == VMC_OK)
            (void)lock_path(f->disk[i], F_UNLCK);
    }
    return rc == VMC_OK
               ? VMC_OK
               : vmci_host_error(err, rc, 0, site, "removing a registration: %s", vmc_strerror(rc));
}

static int join_one(struct vmc_host_disk *d, uint32_t i, uint64_t key, struct vmc_error *err)
{
    const char *why;
    int rc = lock_path(d, F_WRLCK);

    if (rc != VMC_OK)
        return vmci_host_error(
            err, rc, 0, site,
            rc == VMC_EBUSY ? "extent %u: another process of this computer has registered by "
                              "this path, or its requests have not ended yet"
                            : "extent %u: no lock on its device",
            i);
    rc = vmci_reserve_join(&d->caw, key, &why);
    if (rc == VMC_OK)
        return VMC_OK;
    (void)lock_path(d, F_UNLCK);
    return vmci_host_error(err, rc, 0, site, "extent %u cannot be reserved: %s", i,
                           why != NULL ? why : vmc_strerror(rc));
}

static int join(void *ctx, uint64_t key, struct vmc_error *err)
{
    struct vmc_host_fence *f = ctx;
    uint32_t i = 0;
    int rc = VMC_OK;

    for (; i < f->count && rc == VMC_OK; i++)
        rc = join_one(f->disk[i], i, key, err);
    if (rc != VMC_OK)
        for (i--; i-- > 0;) {
            (void)vmci_reserve_leave(&f->disk[i]->caw, key);
            (void)lock_path(f->disk[i], F_UNLCK);
        }
    return rc;
}

static int check(void *ctx, uint64_t key, struct vmc_error *err)
{
    struct vmc_host_fence *f = ctx;

    for (uint32_t i = 0; i < f->count; i++) {
        int rc = vmci_reserve_check(&f->disk[i]->caw, key);
        if (rc != VMC_OK)
            return vmci_host_error(err, rc, 0, site, "extent %u: %s", i,
                                   rc == VMC_EFENCED
                                       ? "the disk takes nothing more from this host: its "
                                         "registration or the reservation was removed"
                                       : vmc_strerror(rc));
    }
    return VMC_OK;
}

static int evict(void *ctx, uint64_t key, uint64_t whom, struct vmc_error *err)
{
    struct vmc_host_fence *f = ctx;

    for (uint32_t i = 0; i < f->count; i++) {
        int rc = vmci_reserve_evict(&f->disk[i]->caw, key, whom);
        if (rc != VMC_OK)
            return vmci_host_error(err, rc, 0, site, "extent %u does not shut a host out: %s", i,
                                   rc == VMC_EFENCED ? "this one is shut out itself"
                                                     : vmc_strerror(rc));
    }
    return VMC_OK;
}

struct vmc_vmfs_fence vmc_host_fence_ops(struct vmc_host_fence *f)
{
    return (struct vmc_vmfs_fence){
        .join = join, .check = check, .evict = evict, .leave = leave, .ctx = f};
}

void vmc_host_fence_free(struct vmc_host_fence *f)
{
    free(f);
}
