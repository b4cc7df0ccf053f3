/* SPDX-License-Identifier: BSD-2-Clause */
/* A board with a block device on a disk in memory, and a driver for it. For cmocka tests. */
#ifndef BLK_RIG_H
#define BLK_RIG_H

#include <string.h>

#include "mem_disk.h"
#include "virtio_driver.h"
#include <vmcore/virtio_blk.h>

#define RIG_F_FLUSH  (1ull << 9)
#define RIG_F_WCE    (1ull << 11)
#define RIG_F_DISCARD (1ull << 13)
#define RIG_F_ZEROES (1ull << 14)

struct rig {
    struct vd_board b;
    struct mem_disk disk;
    struct vmc_virtio *dev;
    struct vd v;
};

static inline void rig_create(struct rig *r, const struct vmc_virtio_blk_config *extra, bool threads)
{
    struct vmc_virtio_blk_config cfg = {0};

    if (extra != NULL)
        cfg = *extra;
    vd_board_init(&r->b, threads);
    mem_disk_init(&r->disk, 1 << 20, 512);
    cfg.virtio.size = sizeof(cfg.virtio);
    cfg.virtio.pci = r->b.pci;
    cfg.virtio.slot = VMC_PCI_ANY_SLOT;
    if (cfg.virtio.queue_size == 0)
        cfg.virtio.queue_size = 16;
    cfg.disk = mem_disk_blockdev(&r->disk);
    assert_int_equal(vmc_virtio_blk_create(&r->b.bd, &cfg, &r->dev, NULL), VMC_OK);
    assert_true(vd_probe(&r->v, &r->b, r->dev, true));
}

static inline void rig_close(struct rig *r)
{
    vd_board_fini(&r->b);
    mem_disk_fini(&r->disk);
    test_platform_check(&r->b.tp);
}

/* Memory of request number slot: header at 0, status at 0x800, table at 0x900, data at 0x1000. */
#define RIG_SLOT(slot) (VD_HEAP + (slot) * 0x4000ull)

static inline unsigned char *rig_header(struct rig *r, unsigned slot, uint32_t type, uint64_t sector)
{
    unsigned char *p = vd_ptr(&r->b, RIG_SLOT(slot));

    memset(p, 0, 16);
    memcpy(p, &type, 4);
    memcpy(p + 8, &sector, 8);
    p[0x800] = 0xee;
    return p + 0x1000;
}

/* Make a request available: bytes of data at RIG_SLOT + 0x1000. */
static inline unsigned rig_add(struct rig *r, unsigned slot, uint32_t type, uint64_t sector,
                               uint32_t bytes)
{
    uint64_t at = RIG_SLOT(slot);
    bool in = type == 0 || type == 8;
    const struct vd_buf buf[3] = {{at, 16, false}, {at + 0x1000, bytes, in}, {at + 0x800, 1, true}};
    const struct vd_buf none[2] = {buf[0], buf[2]};

    (void)rig_header(r, slot, type, sector);
    return vd_add(&r->v, 0, bytes != 0 ? buf : none, bytes != 0 ? 3 : 2, 0);
}

static inline unsigned char rig_status(struct rig *r, unsigned slot)
{
    return ((unsigned char *)vd_ptr(&r->b, RIG_SLOT(slot)))[0x800];
}

/* One request from start to end; returns its status. */
static inline unsigned char rig_do(struct rig *r, uint32_t type, uint64_t sector, uint32_t bytes)
{
    unsigned id;
    uint32_t len;

    (void)rig_add(r, 0, type, sector, bytes);
    vd_kick(&r->v, 0);
    assert_true(vd_pop(&r->v, 0, &id, &len));
    return rig_status(r, 0);
}

#endif
