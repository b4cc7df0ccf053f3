/* SPDX-License-Identifier: BSD-2-Clause */
#include "virtio_fuzz.h"

#include <vmcore/virtio_rng.h>

static struct vmc_virtio *create(struct vd_board *b)
{
    struct vmc_virtio *dev = NULL;
    const struct vmc_virtio_rng_config cfg = {.virtio = FUZZ_CONFIG(b)};

    return vmc_virtio_rng_create(&b->bd, &cfg, &dev, NULL) == VMC_OK ? dev : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_device dev = {.create = create, .queues = 1};

    return fuzz_virtio(data, size, &dev);
}
