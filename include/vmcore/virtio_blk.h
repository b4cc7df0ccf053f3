/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Virtio block device (virtio 1.2, 5.2): multiple queues, flush, discard, write zeroes, identity.
 */
#ifndef VMCORE_VIRTIO_BLK_H
#define VMCORE_VIRTIO_BLK_H

#include <vmcore/virtio.h>

VMC_BEGIN_DECLS

#define VMC_VIRTIO_BLK_QUEUES_MAX 16u
#define VMC_VIRTIO_BLK_SERIAL     20u /**< bytes of the identity string */

struct vmc_virtio_blk_config {
    struct vmc_virtio_config virtio;
    struct vmc_blockdev disk; /**< its context is borrowed until destroy */
    const char *serial;       /**< what GET_ID answers, at most 20 bytes; copied; NULL: "vmcore" */
    uint16_t queues;          /**< 1 to VMC_VIRTIO_BLK_QUEUES_MAX; 0: 1 */
    bool read_only;           /**< also when the disk says so */
    bool writethrough;        /**< start with the write cache off; the driver may turn it on */
};

/**
 * Data goes between guest memory and the disk without a copy: requests carry windows of
 * vmc_mem_ref. VMC_EINVAL, VMC_ENOMEM, and what the disk's info and the PCI bus answer.
 * While quiesced.
 */
VMC_API VMC_MUST_CHECK int vmc_virtio_blk_create(struct vmc_board *bd,
                                                 const struct vmc_virtio_blk_config *cfg,
                                                 struct vmc_virtio **out, struct vmc_error *err);
/** The disk's size changed: ask it again and tell the driver. Any thread. */
VMC_API VMC_MUST_CHECK int vmc_virtio_blk_resized(struct vmc_virtio *dev);

VMC_END_DECLS

#endif
