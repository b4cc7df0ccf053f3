/* SPDX-License-Identifier: BSD-2-Clause */
/* In the place of disk_packed.c where there is no zstd: packed extents are not opened. */
#include "disk/disk_priv.h"

static const char site[] = SITE("packed");

int vmci_disk_packed_open(struct vmc_disk *d, struct layer *l, struct vmc_error *err)
{
    (void)d;
    return vmci_error(err, VMC_ENOTSUP, site, "%s is compressed, which cannot be read here",
                      l->desc.extent);
}

void vmci_disk_packed_close(struct vmc_disk *d, struct layer *l)
{
    (void)d;
    (void)l;
}

int vmci_disk_packed_read(struct vmc_disk *d, struct layer *l, uint64_t off, uint8_t *dst,
                          uint64_t bytes)
{
    (void)d;
    (void)l;
    (void)off;
    (void)dst;
    (void)bytes;
    return VMC_ENOTSUP;
}

int vmci_disk_packed_extent(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t *at,
                            uint64_t *bytes)
{
    (void)d;
    (void)l;
    (void)off;
    (void)at;
    (void)bytes;
    return VMC_ENOTSUP;
}

int vmci_disk_packed_check(struct vmc_disk *d, struct layer *l, uint64_t *bad,
                           const struct vmc_disk_progress *progress)
{
    (void)d;
    (void)l;
    (void)bad;
    (void)progress;
    return VMC_ENOTSUP;
}

int vmci_disk_packed_make(struct vmc_disk *from, const struct vmc_disk_files *files,
                          const char *extent, const struct vmc_disk_progress *progress,
                          struct vmc_error *err)
{
    (void)from;
    (void)files;
    (void)progress;
    return vmci_error(err, VMC_ENOTSUP, site, "%s: nothing is compressed here", extent);
}
