/* SPDX-License-Identifier: BSD-2-Clause */
/* Rings as honest drivers use them, in every combination of ring features, through the block device. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include "mem_disk.h"
#include "virtio_driver.h"
#include <vmcore/virtio_blk.h>

#include <cmocka.h>

struct rig {
    struct vd_board b;
    struct mem_disk disk;
    struct vmc_virtio *dev;
    struct vd v;
};

static const uint64_t combos[] = {
    0,
    VD_F_EVENT_IDX,
    VD_F_INDIRECT,
    VD_F_INDIRECT | VD_F_EVENT_IDX,
    VD_F_PACKED,
    VD_F_PACKED | VD_F_EVENT_IDX,
    VD_F_PACKED | VD_F_INDIRECT,
    VD_F_PACKED | VD_F_INDIRECT | VD_F_EVENT_IDX,
};
#define COMBOS (sizeof(combos) / sizeof(combos[0]))

static void rig_open(struct rig *r, uint64_t features, uint16_t queue_size)
{
    vd_board_init(&r->b, false);
    mem_disk_init(&r->disk, 1 << 20, 512);
    struct vmc_virtio_blk_config cfg = {
        .virtio = {.size = sizeof(cfg.virtio), .pci = r->b.pci, .slot = VMC_PCI_ANY_SLOT,
                   .queue_size = queue_size},
        .disk = mem_disk_blockdev(&r->disk),
    };
    assert_int_equal(vmc_virtio_blk_create(&r->b.bd, &cfg, &r->dev, NULL), VMC_OK);
    assert_true(vd_probe(&r->v, &r->b, r->dev, true));
    assert_true(vd_start(&r->v, features | 1ull << 9, 1)); /* with FLUSH */
}

static void rig_close(struct rig *r)
{
    vd_board_fini(&r->b);
    mem_disk_fini(&r->disk);
    test_platform_check(&r->b.tp);
}

/* A 512-byte write of sector, with its own memory by slot number. */
static unsigned add_write(struct rig *r, unsigned slot, uint64_t sector, unsigned char fill)
{
    uint64_t at = VD_HEAP + slot * 0x1000ull;
    unsigned char *p = vd_ptr(&r->b, at);
    const struct vd_buf buf[3] = {
        {at, 16, false}, {at + 0x200, 512, false}, {at + 0x800, 1, true}};

    memset(p, 0, 16);
    p[0] = 1;
    memcpy(p + 8, &sector, 8);
    memset(p + 0x200, fill, 512);
    p[0x800] = 0xee;
    return vd_add(&r->v, 0, buf, 3, (r->v.features & VD_F_INDIRECT) != 0 ? at + 0x900 : 0);
}

static unsigned char status_of(struct rig *r, unsigned slot)
{
    return ((unsigned char *)vd_ptr(&r->b, VD_HEAP + slot * 0x1000ull))[0x800];
}

static void requests_complete_in_every_ring_format(void **state)
{
    (void)state;
    for (unsigned c = 0; c < COMBOS; c++) {
        struct rig r;
        rig_open(&r, combos[c], 16);
        assert_int_equal(r.v.features & combos[c], combos[c]);
        /* Many laps round the ring, up to a full ring at a time. */
        unsigned sector = 0;
        for (unsigned lap = 0; lap < 200; lap++) {
            unsigned n = 1 + lap % 5;
            for (unsigned i = 0; i < n; i++)
                (void)add_write(&r, i, (sector + i) % 2048, (unsigned char)(lap + i + 1));
            vd_kick(&r.v, 0);
            for (unsigned i = 0; i < n; i++) {
                unsigned id;
                uint32_t len;
                assert_true(vd_pop(&r.v, 0, &id, &len));
                assert_int_equal(len, 1);
                assert_int_equal(status_of(&r, i), 0);
                assert_int_equal(r.disk.data[(sector + i) % 2048 * 512 + 77],
                                 (unsigned char)(lap + i + 1));
            }
            sector += n;
        }
        unsigned id;
        uint32_t len;
        assert_false(vd_pop(&r.v, 0, &id, &len));
        assert_int_equal(vd_status(&r.v), 0xf);
        rig_close(&r);
    }
}

static void packed_rings_have_any_size(void **state)
{
    static const unsigned sizes[] = {3, 5, 11, 15, 16};

    (void)state;
    for (unsigned c = 0; c < COMBOS; c++) {
        for (unsigned k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
            struct rig r;
            rig_open(&r, combos[c], 16);
            assert_true(vd_negotiate(&r.v, combos[c] | VD_F_VERSION_1));
            if ((combos[c] & VD_F_PACKED) == 0 && sizes[k] != 16) {
                vd_write(&r.v, r.v.common + 22, 2, 0); /* queue 0 */
                vd_write(&r.v, r.v.common + 24, 2, sizes[k]);
                assert_int_equal(vd_read(&r.v, r.v.common + 24, 2), 16);
                rig_close(&r);
                continue;
            }
            vd_queue_setup(&r.v, 0, sizes[k]);
            assert_int_equal(vd_read(&r.v, r.v.common + 24, 2), sizes[k]);
            vd_driver_ok(&r.v);
            unsigned fit = (combos[c] & VD_F_INDIRECT) != 0 ? sizes[k] : sizes[k] / 3;
            for (unsigned lap = 0; lap < 100; lap++) {
                unsigned n = 1 + lap % fit;
                for (unsigned i = 0; i < n; i++)
                    (void)add_write(&r, i, (lap * 16 + i) % 2048, (unsigned char)(lap + i + 1));
                vd_kick(&r.v, 0);
                for (unsigned i = 0; i < n; i++) {
                    unsigned id;
                    uint32_t len;
                    assert_true(vd_pop(&r.v, 0, &id, &len));
                    assert_int_equal(status_of(&r, i), 0);
                    assert_int_equal(r.disk.data[(lap * 16 + i) % 2048 * 512 + 5],
                                     (unsigned char)(lap + i + 1));
                }
            }
            assert_int_equal(vd_status(&r.v), 0xf);
            rig_close(&r);
        }
    }
}

/* The size is taken for a packed ring, and the driver then changes its mind. */
static void a_split_ring_of_an_odd_size_is_broken(void **state)
{
    struct rig r;
    unsigned id;
    uint32_t len;

    (void)state;
    rig_open(&r, VD_F_PACKED, 16);
    vd_reset(&r.v);
    vd_write(&r.v, r.v.common + 20, 1, 3);
    vd_write(&r.v, r.v.common + 8, 4, 1);
    vd_write(&r.v, r.v.common + 12, 4, (VD_F_PACKED | VD_F_VERSION_1) >> 32);
    vd_write(&r.v, r.v.common + 22, 2, 0);
    vd_write(&r.v, r.v.common + 24, 2, 11);
    assert_int_equal(vd_read(&r.v, r.v.common + 24, 2), 11);
    vd_write(&r.v, r.v.common + 12, 4, VD_F_VERSION_1 >> 32);
    vd_write(&r.v, r.v.common + 20, 1, 11);
    r.v.features = VD_F_VERSION_1;
    vd_queue_setup(&r.v, 0, 0);
    vd_driver_ok(&r.v);
    (void)add_write(&r, 0, 0, 1);
    vd_kick(&r.v, 0);
    assert_false(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(vd_status(&r.v) & VD_NEEDS_RESET, VD_NEEDS_RESET);
    rig_close(&r);
}

static void out_of_order_completion_returns_the_right_ids(void **state)
{
    (void)state;
    for (unsigned c = 0; c < COMBOS; c++) {
        struct rig r;
        unsigned ids[4];
        rig_open(&r, combos[c], 16);
        r.disk.hold = true;
        for (unsigned i = 0; i < 4; i++)
            ids[i] = add_write(&r, i, i, (unsigned char)(i + 1));
        vd_kick(&r.v, 0);
        assert_int_equal(r.disk.held_count, 4);
        /* finish the second before the first */
        struct vmc_block_req *t = r.disk.held[0];
        r.disk.held[0] = r.disk.held[1];
        r.disk.held[1] = t;
        const unsigned order[4] = {1, 0, 2, 3};
        for (unsigned i = 0; i < 4; i++) {
            unsigned id;
            uint32_t len;
            assert_false(vd_pop(&r.v, 0, &id, &len));
            assert_true(mem_disk_finish(&r.disk));
            assert_true(vd_pop(&r.v, 0, &id, &len));
            assert_int_equal(id, ids[order[i]]);
        }
        rig_close(&r);
    }
}

static void data_is_not_copied(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, 0, 16);
    (void)add_write(&r, 0, 3, 0x55);
    vd_kick(&r.v, 0);
    assert_ptr_equal(r.disk.last_base, vd_ptr(&r.b, VD_HEAP + 0x200));
    rig_close(&r);
}

static void interrupts_follow_the_drivers_wish(void **state)
{
    (void)state;
    for (unsigned c = 0; c < COMBOS; c++) {
        struct rig r;
        rig_open(&r, combos[c], 16);
        unsigned id;
        uint32_t len;
        (void)add_write(&r, 0, 0, 1);
        vd_kick(&r.v, 0);
        assert_true(vd_pop(&r.v, 0, &id, &len));
        assert_int_equal(r.b.msi[1], 1);
        if ((combos[c] & VD_F_EVENT_IDX) != 0) {
            /* wake me when the third buffer from here on is used */
            bool packed = (combos[c] & VD_F_PACKED) != 0;
            unsigned per = packed && (combos[c] & VD_F_INDIRECT) == 0 ? 3 : 1;
            uint16_t at = (uint16_t)((r.v.q[0].used_idx + 2 * per) % (packed ? 16 : 65536));
            bool wrap = !packed || r.v.q[0].used_idx + 2 * per < 16;
            vd_irq_after(&r.v, 0, (uint16_t)(at | (packed && wrap ? 0x8000 : 0)));
            for (unsigned i = 0; i < 2; i++) {
                (void)add_write(&r, 0, 0, 1);
                vd_kick(&r.v, 0);
                assert_true(vd_pop(&r.v, 0, &id, &len));
                assert_int_equal(r.b.msi[1], 1);
            }
            (void)add_write(&r, 0, 0, 1);
            vd_kick(&r.v, 0);
            assert_true(vd_pop(&r.v, 0, &id, &len));
            assert_int_equal(r.b.msi[1], 2);
        } else {
            vd_irq_off(&r.v, 0);
            for (unsigned i = 0; i < 20; i++) {
                (void)add_write(&r, 0, 0, 1);
                vd_kick(&r.v, 0);
                assert_true(vd_pop(&r.v, 0, &id, &len));
            }
            assert_int_equal(r.b.msi[1], 1);
        }
        rig_close(&r);
    }
}

static void idle_device_wants_a_doorbell(void **state)
{
    (void)state;
    for (unsigned c = 0; c < COMBOS; c++) {
        struct rig r;
        rig_open(&r, combos[c], 16);
        for (unsigned i = 0; i < 100; i++) { /* in every position of the ring */
            unsigned id;
            uint32_t len;
            (void)add_write(&r, 0, 0, 1);
            assert_true(vd_wants_kick(&r.v, 0));
            vd_kick(&r.v, 0);
            assert_true(vd_pop(&r.v, 0, &id, &len));
        }
        rig_close(&r);
    }
}

static void pieces_across_memory_slots_work(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, 0, 16);
    uint64_t at = VD_HEAP;
    uint64_t data = VD_RAM_BYTES - 256; /* half in one slot, half in the next */
    unsigned char *p = vd_ptr(&r.b, at);
    p[0] = 1;
    memset(vd_ptr(&r.b, data), 0x11, 256);
    memset(vd_ptr(&r.b, VD_RAM_BYTES), 0x22, 256);
    const struct vd_buf buf[3] = {{at, 16, false}, {data, 512, false}, {at + 64, 1, true}};
    (void)vd_add(&r.v, 0, buf, 3, 0);
    vd_kick(&r.v, 0);
    assert_int_equal(p[64], 0);
    assert_int_equal(r.disk.data[255], 0x11);
    assert_int_equal(r.disk.data[256], 0x22);
    rig_close(&r);
}

static void indirect_table_across_slots_and_unaligned(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        struct rig r;
        rig_open(&r, VD_F_INDIRECT | (packed ? VD_F_PACKED : 0), 16);
        const uint64_t tables[] = {VD_RAM_BYTES - 24, VD_HEAP + 0x4004};
        for (unsigned t = 0; t < 2; t++) {
            unsigned char *p = vd_ptr(&r.b, VD_HEAP);
            memset(p, 0, 128);
            p[0] = 1;
            p[64] = 0xee;
            unsigned char table[48] = {0};
            const uint64_t addr[3] = {VD_HEAP, VD_HEAP + 0x200, VD_HEAP + 64};
            const uint32_t len[3] = {16, 512, 1};
            const uint16_t flags[3] = {VD_NEXT, VD_NEXT, VD_WRITE};
            for (unsigned i = 0; i < 3; i++) {
                uint16_t next = (uint16_t)(i + 1);
                memcpy(table + i * 16, &addr[i], 8);
                memcpy(table + i * 16 + 8, &len[i], 4);
                memcpy(table + i * 16 + (packed ? 14 : 12), &flags[i], 2);
                memcpy(table + i * 16 + (packed ? 12 : 14), &next, 2);
            }
            assert_int_equal(vmc_mem_write(r.b.bd.mem, tables[t], table, sizeof(table)), VMC_OK);
            /* the driver helper writes tables itself; put the descriptor by hand */
            if (packed) {
                struct vd_queue *q = &r.v.q[0];
                vd_raw_desc(&r.v, 0, q->avail_idx, tables[t], 48, 7, VD_INDIRECT | 0x0080);
                q->slots[7] = 1;
                q->avail_idx++;
            } else {
                vd_raw_desc(&r.v, 0, 5, tables[t], 48, VD_INDIRECT, 0);
                vd_raw_avail(&r.v, 0, 5);
            }
            vd_kick(&r.v, 0);
            unsigned id;
            uint32_t got;
            assert_true(vd_pop(&r.v, 0, &id, &got));
            assert_int_equal(id, packed ? 7 : 5);
            assert_int_equal(p[64], 0);
        }
        rig_close(&r);
    }
}

static void device_writes_are_in_the_dirty_log(void **state)
{
    (void)state;
    struct rig r;
    uint64_t map[VD_RAM_BYTES / 4096 / 64];
    rig_open(&r, 0, 16);
    assert_int_equal(vmc_mem_dirty_start(r.b.bd.mem, 0), VMC_OK);
    assert_int_equal(vmc_mem_dirty_take(r.b.bd.mem, 0, 0, VD_RAM_BYTES / 4096, map,
                                        sizeof(map) / 8), VMC_OK);
    /* a read of 8 sectors */
    unsigned char *p = vd_ptr(&r.b, VD_HEAP);
    memset(p, 0, 16);
    const struct vd_buf buf[3] = {
        {VD_HEAP, 16, false}, {VD_HEAP + 0x10000, 4096, true}, {VD_HEAP + 0x20000, 1, true}};
    (void)vd_add(&r.v, 0, buf, 3, 0);
    vd_kick(&r.v, 0);
    assert_int_equal(vmc_mem_dirty_take(r.b.bd.mem, 0, 0, VD_RAM_BYTES / 4096, map,
                                        sizeof(map) / 8), VMC_OK);
    const uint64_t dirty[] = {VD_HEAP + 0x10000, VD_HEAP + 0x20000, r.v.q[0].device};
    for (unsigned i = 0; i < 3; i++)
        assert_true(map[dirty[i] / 4096 / 64] >> (dirty[i] / 4096 % 64) & 1);
    assert_false(map[VD_HEAP / 4096 / 64] >> (VD_HEAP / 4096 % 64) & 1);
    vmc_mem_dirty_stop(r.b.bd.mem, 0);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_complete_in_every_ring_format),
        cmocka_unit_test(packed_rings_have_any_size),
        cmocka_unit_test(a_split_ring_of_an_odd_size_is_broken),
        cmocka_unit_test(out_of_order_completion_returns_the_right_ids),
        cmocka_unit_test(data_is_not_copied),
        cmocka_unit_test(interrupts_follow_the_drivers_wish),
        cmocka_unit_test(idle_device_wants_a_doorbell),
        cmocka_unit_test(pieces_across_memory_slots_work),
        cmocka_unit_test(indirect_table_across_slots_and_unaligned),
        cmocka_unit_test(device_writes_are_in_the_dirty_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
