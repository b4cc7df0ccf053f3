/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * A file or loop device that several programs use at once, as a synchronous vmc_blockdev with
 * compare-and-write: the device under a shared VMFS volume. Library: vmcore_host.
 */
#ifndef VMCORE_HOST_FILE_H
#define VMCORE_HOST_FILE_H

#include <vmcore/io.h>

VMC_BEGIN_DECLS

struct vmc_host_file;

/**
 * Open path. Not locked as a whole: compare_write holds an open-file-description lock on the
 * sector it is about, which excludes every other opener on this host (and on others, where the
 * file system passes locks on). VMC_ENOENT, VMC_EPERM, VMC_EHOST; VMC_ENOTSUP: another block device,
 * which other computers may have, too (see vmc_host_disk).
 */
VMC_API VMC_MUST_CHECK int vmc_host_file_open(const char *path, bool read_only,
                                              struct vmc_host_file **out, struct vmc_error *err);
/** NULL is allowed. */
VMC_API void vmc_host_file_close(struct vmc_host_file *f);
/** Valid until close; any thread. */
VMC_API struct vmc_blockdev vmc_host_file_blockdev(struct vmc_host_file *f);

VMC_END_DECLS

#endif
