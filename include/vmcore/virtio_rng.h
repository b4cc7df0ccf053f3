/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Virtio entropy device (virtio 1.2, 5.4), fed by the platform's entropy.
 */
#ifndef VMCORE_VIRTIO_RNG_H
#define VMCORE_VIRTIO_RNG_H

#include <vmcore/virtio.h>

VMC_BEGIN_DECLS

struct vmc_virtio_rng_config {
    struct vmc_virtio_config virtio;
};

/** VMC_ENOTSUP when the platform has no entropy. While quiesced. */
VMC_API VMC_MUST_CHECK int vmc_virtio_rng_create(struct vmc_board *bd,
                                                 const struct vmc_virtio_rng_config *cfg,
                                                 struct vmc_virtio **out, struct vmc_error *err);

VMC_END_DECLS

#endif
