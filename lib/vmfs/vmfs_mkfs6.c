/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmfs/vmfs_mkfs.h"

/* Not made: what free blocks look like in the allocation maps of VMFS6 is not known. */
int vmci_fs_mkfs6(struct mk *m, struct vmc_error *err)
{
    (void)m;
    return vmci_error(err, VMC_ENOTSUP, SITE("mkfs"), "VMFS6 volumes are read, not made");
}
