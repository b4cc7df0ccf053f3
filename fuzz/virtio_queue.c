/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Raw rings: byte 0 chooses features and the ring's size, the rest is laid over the three areas and
 * a page of indirect tables, piece by piece, with a doorbell after each.
 */
#include "virtio_fuzz.h"

#include <vmcore/virtio_blk.h>

#define PIECE 96

static struct mem_disk disk;

static void lay(struct vd *v, uint64_t gpa, struct fuzz_in *in, size_t n)
{
    for (size_t i = 0; i < n && in->left != 0; i++)
        *(unsigned char *)vd_ptr(v->b, gpa + i) = in8(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vd_board *b = fuzz_board();
    static struct vd v;
    struct fuzz_in in = {data, size};
    struct vmc_virtio *dev = NULL;
    uint8_t how = in8(&in);
    uint64_t features = VD_F_VERSION_1 | 1ull << 9 | ((how & 1) != 0 ? VD_F_PACKED : 0) |
                        ((how & 2) != 0 ? VD_F_EVENT_IDX : 0) |
                        ((how & 4) != 0 ? VD_F_INDIRECT : 0);

    mem_disk_init(&disk, 1 << 16, 512);
    disk.hold = (how & 8) != 0;
    const struct vmc_virtio_blk_config cfg = {.virtio = FUZZ_CONFIG(b),
                                              .disk = mem_disk_blockdev(&disk)};
    if (vmc_virtio_blk_create(&b->bd, &cfg, &dev, NULL) != VMC_OK || !vd_probe(&v, b, dev, true))
        abort();
    (void)vd_negotiate(&v, features);
    vd_queue_setup(&v, 0, (how & 16) != 0 ? 4 : 16);
    vd_driver_ok(&v);
    for (unsigned i = 0; i < 64 && in.left != 0; i++) {
        uint8_t where = in8(&in);
        const uint64_t area[4] = {v.q[0].desc, v.q[0].driver, v.q[0].device, VD_HEAP};
        lay(&v, area[where & 3] + (where >> 2), &in, PIECE);
        vd_kick(&v, 0);
        if ((where & 0x80) != 0)
            (void)mem_disk_finish(&disk);
        if ((vd_status(&v) & VD_NEEDS_RESET) != 0) {
            while (mem_disk_finish(&disk))
                ;
            (void)vd_start(&v, features, 1);
        }
    }
    disk.hold = false;
    while (mem_disk_finish(&disk))
        ;
    fuzz_end(b);
    mem_disk_fini(&disk);
    return 0;
}
