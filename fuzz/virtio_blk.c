/* SPDX-License-Identifier: BSD-2-Clause */
#include "virtio_fuzz.h"

#include <vmcore/virtio_blk.h>

static struct mem_disk disk;

static struct vmc_virtio *create(struct vd_board *b)
{
    struct vmc_virtio *dev = NULL;

    mem_disk_init(&disk, 1 << 16, 512);
    const struct vmc_virtio_blk_config cfg = {
        .virtio = FUZZ_CONFIG(b), .disk = mem_disk_blockdev(&disk), .serial = "fuzz", .queues = 2};
    return vmc_virtio_blk_create(&b->bd, &cfg, &dev, NULL) == VMC_OK ? dev : NULL;
}

static void event(struct vd *v, struct fuzz_in *in)
{
    uint8_t what = in8(in);

    disk.hold = (what & 1) != 0;
    disk.fail = (what & 2) != 0 ? VMC_EIO : 0;
    /* Direct access: none, in large or small pieces, to some of them only. */
    disk.piece = (what & 32) != 0 ? 512u << (what >> 6) * 2 : 0;
    disk.closed = (what & 16) != 0 ? 0x8421 : 0;
    if ((what & 4) != 0)
        (void)mem_disk_finish(&disk);
    if ((what & 8) != 0) {
        disk.info.bytes = (what & 16) != 0 ? 1 << 16 : 1 << 15;
        (void)!vmc_virtio_blk_resized(v->dev);
    }
}

static void drain(void)
{
    disk.hold = false;
    while (mem_disk_finish(&disk))
        ;
}

static void end(void)
{
    mem_disk_fini(&disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_device dev = {.create = create,
                                           .queues = 2,
                                           .features = 1ull << 9 | 1ull << 11 | 1ull << 12 |
                                                       1ull << 13 | 1ull << 14,
                                           .event = event,
                                           .drain = drain,
                                           .end = end};

    return fuzz_virtio(data, size, &dev);
}
