/* SPDX-License-Identifier: BSD-2-Clause */
/* Drivers that break each rule: the device says so once, stays silent, and a reset revives it. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdatomic.h>
#include <unistd.h>

#include <cmocka.h>

#include "blk_rig.h"

static void open_rig(struct rig *r, uint64_t features)
{
    rig_create(r, NULL, false);
    assert_true(vd_start(&r->v, features | RIG_F_FLUSH, 1));
}

/* The queue is broken: said once, nothing is written any more, and a reset helps. */
static void expect_broken(struct rig *r)
{
    struct vmc_virtio_stats st;
    unsigned id;
    uint32_t len;
    uint64_t features = r->v.features;

    assert_int_equal(vd_status(&r->v) & VD_NEEDS_RESET, VD_NEEDS_RESET);
    assert_int_equal(r->b.msi[0], 1);
    uint32_t before = r->b.msi[1];
    for (unsigned i = 0; i < 3; i++)
        vd_kick(&r->v, 0);
    assert_int_equal(r->b.msi[0], 1);
    assert_int_equal(r->b.msi[1], before);
    assert_false(vd_pop(&r->v, 0, &id, &len));
    vmc_virtio_get_stats(r->dev, &st);
    assert_int_equal(st.broken, 1);
    assert_int_equal(r->b.tp.bugs, 0);
    assert_true(vd_start(&r->v, features, 1));
    assert_int_equal(vd_status(&r->v), 0xf);
    assert_int_equal(rig_do(r, 1, 0, 512), 0);
    rig_close(r);
}

static void good_desc(struct rig *r, unsigned first)
{
    (void)rig_header(r, 0, 1, 0);
    vd_raw_desc(&r->v, 0, first, RIG_SLOT(0), 16, VD_NEXT, (uint16_t)(first + 1));
    vd_raw_desc(&r->v, 0, first + 1, RIG_SLOT(0) + 0x1000, 512, VD_NEXT, (uint16_t)(first + 2));
    vd_raw_desc(&r->v, 0, first + 2, RIG_SLOT(0) + 0x800, 1, VD_WRITE, 0);
}

static void available_index_jump(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, 0);
    vd_raw_avail_idx(&r.v, 0, 17);
    vd_kick(&r.v, 0);
    expect_broken(&r);
    open_rig(&r, 0);
    vd_raw_avail_idx(&r.v, 0, 0xffff);
    vd_kick(&r.v, 0);
    expect_broken(&r);
}

static void head_out_of_range(void **state)
{
    (void)state;
    const uint16_t heads[] = {16, 17, 0x7fff, 0xffff};
    for (unsigned i = 0; i < 4; i++) {
        struct rig r;
        open_rig(&r, 0);
        good_desc(&r, 0);
        vd_raw_avail(&r.v, 0, heads[i]);
        vd_kick(&r.v, 0);
        expect_broken(&r);
    }
}

static void next_out_of_range(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, 0);
    vd_raw_desc(&r.v, 0, 0, RIG_SLOT(0), 16, VD_NEXT, 16);
    vd_raw_avail(&r.v, 0, 0);
    vd_kick(&r.v, 0);
    expect_broken(&r);
}

static void descriptor_loops(void **state)
{
    (void)state;
    for (unsigned len = 1; len <= 16; len++) {
        struct rig r;
        open_rig(&r, 0);
        for (unsigned i = 0; i < len; i++)
            vd_raw_desc(&r.v, 0, i, RIG_SLOT(0), 16, VD_NEXT, (uint16_t)((i + 1) % len));
        vd_raw_avail(&r.v, 0, 0);
        vd_kick(&r.v, 0);
        expect_broken(&r);
    }
}

static void zero_length_loop(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, 0);
    vd_raw_desc(&r.v, 0, 0, 0, 0, VD_NEXT, 0);
    vd_raw_avail(&r.v, 0, 0);
    vd_kick(&r.v, 0);
    expect_broken(&r);
}

static void indirect_loops_nesting_and_sizes(void **state)
{
    (void)state;
    const struct {
        uint64_t table;
        uint32_t len;
        uint16_t flags, inner_flags, inner_next;
    } cases[] = {
        {RIG_SLOT(1), 16, VD_INDIRECT, VD_INDIRECT, 0},           /* nested */
        {RIG_SLOT(1), 32, VD_INDIRECT, VD_NEXT, 0},               /* loop */
        {RIG_SLOT(1), 32, VD_INDIRECT, VD_NEXT, 2},               /* next outside the table */
        {RIG_SLOT(1), 17, VD_INDIRECT, 0, 0},                     /* not whole entries */
        {RIG_SLOT(1), 0, VD_INDIRECT, 0, 0},                      /* empty */
        {RIG_SLOT(1), 16 * 17, VD_INDIRECT, 0, 0},                /* too many */
        {RIG_SLOT(1), 0xfffffff0, VD_INDIRECT, 0, 0},             /* far too many */
        {RIG_SLOT(1), 16, VD_INDIRECT | VD_NEXT, 0, 0},           /* with a next one */
        {VD_RAM_END, 16, VD_INDIRECT, 0, 0},                      /* no memory there */
        {VD_RAM_END - 16, 32, VD_INDIRECT, VD_NEXT, 1},           /* half of it there */
        {UINT64_MAX - 15, 16, VD_INDIRECT, 0, 0},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rig r;
        open_rig(&r, VD_F_INDIRECT);
        uint64_t entry[2] = {RIG_SLOT(0), 16 | (uint64_t)cases[i].inner_flags << 32 |
                                              (uint64_t)cases[i].inner_next << 48};
        if (vd_ptr(&r.b, cases[i].table) != NULL)
            memcpy(vd_ptr(&r.b, cases[i].table), entry, 16);
        vd_raw_desc(&r.v, 0, 0, cases[i].table, cases[i].len, cases[i].flags, 1);
        vd_raw_avail(&r.v, 0, 0);
        vd_kick(&r.v, 0);
        expect_broken(&r);
    }
}

static void indirect_without_the_feature(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, 0);
    vd_raw_desc(&r.v, 0, 0, RIG_SLOT(1), 16, VD_INDIRECT, 0);
    vd_raw_avail(&r.v, 0, 0);
    vd_kick(&r.v, 0);
    expect_broken(&r);
}

static void huge_totals(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, 0);
    vd_raw_desc(&r.v, 0, 0, RIG_SLOT(0), 16, VD_NEXT, 1);
    vd_raw_desc(&r.v, 0, 1, 0, 0xffffffff, VD_NEXT, 2);
    vd_raw_desc(&r.v, 0, 2, 0, 0xffffffff, VD_NEXT, 3);
    vd_raw_desc(&r.v, 0, 3, RIG_SLOT(0) + 0x800, 1, VD_WRITE, 0);
    vd_raw_avail(&r.v, 0, 0);
    vd_kick(&r.v, 0);
    expect_broken(&r);
}

static void readable_after_writable(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, 0);
    vd_raw_desc(&r.v, 0, 0, RIG_SLOT(0), 16, VD_WRITE | VD_NEXT, 1);
    vd_raw_desc(&r.v, 0, 1, RIG_SLOT(0), 16, 0, 0);
    vd_raw_avail(&r.v, 0, 0);
    vd_kick(&r.v, 0);
    expect_broken(&r);
}

static void same_head_while_in_use(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, 0);
    r.disk.hold = true;
    good_desc(&r, 0);
    for (unsigned i = 0; i < 16; i++)
        vd_raw_avail(&r.v, 0, 0);
    vd_kick(&r.v, 0);
    assert_int_equal(r.disk.held_count, 16);
    assert_int_equal(vd_status(&r.v), 0xf);
    vd_raw_avail(&r.v, 0, 0); /* one more than the queue has entries */
    vd_kick(&r.v, 0);
    assert_int_equal(vd_status(&r.v) & VD_NEEDS_RESET, VD_NEEDS_RESET);
    /* the reset waits for what is at the disk */
    vd_reset(&r.v);
    assert_int_not_equal(vd_status(&r.v), 0);
    while (mem_disk_finish(&r.disk))
        ;
    assert_int_equal(vd_status(&r.v), 0);
    unsigned id;
    uint32_t len;
    assert_false(vd_pop(&r.v, 0, &id, &len));
    r.disk.hold = false;
    assert_true(vd_start(&r.v, RIG_F_FLUSH, 1));
    assert_int_equal(rig_do(&r, 1, 0, 512), 0);
    rig_close(&r);
}

/* Pieces outside RAM are a bad request in a sound chain: it ends with length 0, the queue lives. */
static void pieces_outside_memory(void **state)
{
    (void)state;
    const struct {
        uint64_t gpa;
        uint32_t len;
        uint16_t flags;
    } cases[] = {
        {VD_RAM_END, 512, 0},
        {VD_RAM_END - 256, 512, 0},
        {UINT64_MAX, 512, 0},
        {UINT64_MAX - 511, 512, 0},
        {1ull << 46, 512, 0},
        {0, 0x80000000, 0},
        {VD_ROM, 512, VD_WRITE}, /* read-only memory */
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rig r;
        unsigned id;
        uint32_t len;
        open_rig(&r, 0);
        (void)rig_header(&r, 0, cases[i].flags != 0 ? 0 : 1, 0);
        vd_raw_desc(&r.v, 0, 0, RIG_SLOT(0), 16, VD_NEXT, 1);
        vd_raw_desc(&r.v, 0, 1, cases[i].gpa, cases[i].len, cases[i].flags | VD_NEXT, 2);
        vd_raw_desc(&r.v, 0, 2, RIG_SLOT(0) + 0x800, 1, VD_WRITE, 0);
        vd_raw_avail(&r.v, 0, 0);
        vd_kick(&r.v, 0);
        assert_int_equal(vd_status(&r.v), 0xf);
        assert_true(vd_pop(&r.v, 0, &id, &len));
        assert_int_equal(len, 0);
        r.v.q[0].next_desc = 3;
        assert_int_equal(rig_do(&r, 1, 0, 512), 0);
        rig_close(&r);
    }
}

static void rings_at_bad_addresses(void **state)
{
    (void)state;
    const uint64_t bad[] = {VD_RAM_END, VD_RAM_BYTES - 16, UINT64_MAX & ~15ull, VD_ROM, 8, 1};
    for (unsigned area = 0; area < 3; area++) {
        for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
            for (unsigned packed = 0; packed < 2; packed++) {
                if (bad[i] == VD_ROM && area != 2) /* reading a ring from ROM is odd but sound */
                    continue;
                if (bad[i] == 8 && (area != 0)) /* aligned enough for the other areas */
                    continue;
                if (bad[i] == VD_RAM_BYTES - 16 && packed && area != 0) /* 4 bytes fit there */
                    continue;
                struct rig r;
                rig_create(&r, NULL, false);
                assert_true(vd_negotiate(&r.v, VD_F_VERSION_1 | (packed ? VD_F_PACKED : 0)));
                vd_write(&r.v, r.v.common + 22, 2, 0);
                for (unsigned a = 0; a < 3; a++) {
                    uint64_t gpa = a == area ? bad[i] : VD_RINGS + a * 0x8000;
                    vd_write(&r.v, r.v.common + 32 + 8 * a, 8, gpa);
                }
                vd_write(&r.v, r.v.common + 28, 2, 1);
                vd_driver_ok(&r.v);
                assert_int_equal(vd_status(&r.v) & VD_NEEDS_RESET, VD_NEEDS_RESET);
                vd_kick(&r.v, 0);
                rig_close(&r);
            }
        }
    }
}

static void nothing_is_consumed_before_driver_ok(void **state)
{
    (void)state;
    struct rig r;
    unsigned id;
    uint32_t len;
    rig_create(&r, NULL, false);
    assert_true(vd_negotiate(&r.v, VD_F_VERSION_1));
    vd_queue_setup(&r.v, 0, 0);
    (void)rig_add(&r, 0, 1, 0, 512);
    vd_kick(&r.v, 0);
    assert_false(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(r.disk.ops[VMC_BLOCK_WRITE], 0);
    vd_driver_ok(&r.v); /* now what was queued early is done */
    assert_true(vd_pop(&r.v, 0, &id, &len));
    rig_close(&r);
}

static void no_memory_access_without_bus_mastering(void **state)
{
    (void)state;
    struct rig r;
    unsigned id;
    uint32_t len;
    open_rig(&r, 0);
    vmc_pci_config_write(r.b.pci, r.v.devfn, VMC_PCI_COMMAND, 2, VMC_PCI_COMMAND_MEMORY);
    (void)rig_add(&r, 0, 1, 0, 512);
    vd_kick(&r.v, 0);
    assert_false(vd_pop(&r.v, 0, &id, &len));
    vmc_pci_config_write(r.b.pci, r.v.devfn, VMC_PCI_COMMAND, 2,
                         VMC_PCI_COMMAND_MEMORY | VMC_PCI_COMMAND_MASTER);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    rig_close(&r);
}

static void packed_ring_rules(void **state)
{
    (void)state;
    struct rig r;
    /* a chain longer than the ring: every slot has NEXT */
    open_rig(&r, VD_F_PACKED);
    for (unsigned i = 0; i < 16; i++)
        vd_raw_desc(&r.v, 0, i, RIG_SLOT(0), 16, 0, 0x80 | VD_NEXT);
    vd_kick(&r.v, 0);
    expect_broken(&r);
    /* the ring made available again before anything was used */
    open_rig(&r, VD_F_PACKED);
    r.disk.hold = true;
    (void)rig_header(&r, 0, 4, 0);
    const struct vd_buf flush[2] = {{RIG_SLOT(0), 16, false}, {RIG_SLOT(0) + 0x800, 1, true}};
    for (unsigned i = 0; i < 8; i++)
        (void)vd_add(&r.v, 0, flush, 2, 0);
    vd_kick(&r.v, 0);
    assert_int_equal(r.disk.held_count, 8);
    (void)vd_add(&r.v, 0, flush, 2, 0);
    vd_kick(&r.v, 0);
    assert_int_equal(vd_status(&r.v) & VD_NEEDS_RESET, VD_NEEDS_RESET);
    while (mem_disk_finish(&r.disk))
        ;
    r.disk.hold = false;
    expect_broken(&r);
    /* indirect without the feature, and a bad table */
    open_rig(&r, VD_F_PACKED);
    vd_raw_desc(&r.v, 0, 0, RIG_SLOT(1), 16, 0, 0x80 | VD_INDIRECT);
    vd_kick(&r.v, 0);
    expect_broken(&r);
    open_rig(&r, VD_F_PACKED | VD_F_INDIRECT);
    vd_raw_desc(&r.v, 0, 0, VD_RAM_END, 16, 0, 0x80 | VD_INDIRECT);
    vd_kick(&r.v, 0);
    expect_broken(&r);
}

/* ---- descriptors that change while they are used ------------------------------------------- */

struct racer {
    uint64_t *ring;
    atomic_bool stop;
};

/* Flips lengths, addresses and flags of the ring as fast as it can. */
static void *flip(void *arg)
{
    struct racer *k = arg;
    uint32_t seed = 1;

    while (!atomic_load_explicit(&k->stop, memory_order_relaxed)) {
        seed = seed * 1664525 + 1013904223;
        unsigned i = (seed >> 8) % 6;
        uint64_t addr = (seed & 64) != 0 ? RIG_SLOT(0) : VD_RAM_END - 64;
        uint64_t len = (seed & 128) != 0 ? 16 : 0x00100000;
        uint64_t flags = (seed >> 16) & 7;
        __atomic_store_n(&k->ring[2 * i], addr, __ATOMIC_RELAXED);
        __atomic_store_n(&k->ring[2 * i + 1], len | flags << 32 | (uint64_t)(seed >> 28) << 48,
                         __ATOMIC_RELAXED);
    }
    return NULL;
}

static void changing_descriptors_are_harmless(void **state)
{
    (void)state;
    struct rig r;
    pthread_t thread;
    struct racer k = {0};
    rig_create(&r, NULL, true);
    assert_true(vd_start(&r.v, VD_F_INDIRECT, 1));
    (void)rig_header(&r, 0, 1, 0);
    k.ring = vd_ptr(&r.b, r.v.q[0].desc);
    assert_int_equal(pthread_create(&thread, NULL, flip, &k), 0);
    for (unsigned i = 0; i < 20000; i++) {
        for (unsigned h = 0; h < 6; h++)
            vd_raw_avail(&r.v, 0, (uint16_t)h);
        vd_kick(&r.v, 0);
        if ((vd_status(&r.v) & VD_NEEDS_RESET) != 0)
            assert_true(vd_start(&r.v, VD_F_INDIRECT, 1));
    }
    atomic_store(&k.stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(r.b.tp.bugs, 0);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(available_index_jump),
        cmocka_unit_test(head_out_of_range),
        cmocka_unit_test(next_out_of_range),
        cmocka_unit_test(descriptor_loops),
        cmocka_unit_test(zero_length_loop),
        cmocka_unit_test(indirect_loops_nesting_and_sizes),
        cmocka_unit_test(indirect_without_the_feature),
        cmocka_unit_test(huge_totals),
        cmocka_unit_test(readable_after_writable),
        cmocka_unit_test(same_head_while_in_use),
        cmocka_unit_test(pieces_outside_memory),
        cmocka_unit_test(rings_at_bad_addresses),
        cmocka_unit_test(nothing_is_consumed_before_driver_ok),
        cmocka_unit_test(no_memory_access_without_bus_mastering),
        cmocka_unit_test(packed_ring_rules),
        cmocka_unit_test(changing_descriptors_are_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
