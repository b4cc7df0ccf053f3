/* SPDX-License-Identifier: BSD-2-Clause */
/* Requests of the block device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "blk_rig.h"

enum { OK, IOERR, UNSUPP };
#define ALL     (RIG_F_FLUSH | RIG_F_WCE | RIG_F_DISCARD | RIG_F_ZEROES | 1ull << 12)
#define SECTORS 2048u

static void open_rig(struct rig *r, const struct vmc_virtio_blk_config *c, uint64_t features)
{
    rig_create(r, c, false);
    assert_true(vd_start(&r->v, features, 1));
}

static unsigned char *data_of(struct rig *r)
{
    return vd_ptr(&r->b, RIG_SLOT(0) + 0x1000);
}

static void read_gives_what_was_written(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, NULL, ALL);
    for (unsigned i = 0; i < 4096; i++)
        data_of(&r)[i] = (unsigned char)(i * 11);
    assert_int_equal(rig_do(&r, 1, 100, 4096), OK);
    assert_memory_equal(r.disk.data + 51200, data_of(&r), 4096);
    memset(data_of(&r), 0, 4096);
    assert_int_equal(rig_do(&r, 0, 100, 4096), OK);
    assert_memory_equal(r.disk.data + 51200, data_of(&r), 4096);
    assert_int_equal(r.disk.ops[VMC_BLOCK_FLUSH], 0);
    assert_int_equal(rig_do(&r, 4, 0, 0), OK);
    assert_int_equal(r.disk.ops[VMC_BLOCK_FLUSH], 1);
    rig_close(&r);
}

static void configuration_describes_the_disk(void **state)
{
    (void)state;
    struct vmc_virtio_blk_config c = {.queues = 4};
    struct rig r;
    open_rig(&r, &c, ALL);
    assert_int_equal(vd_read(&r.v, r.v.config, 8), SECTORS);
    assert_int_equal(vd_read(&r.v, r.v.config + 12, 4), 14); /* segments: 16 less 2 */
    assert_int_equal(vd_read(&r.v, r.v.config + 20, 4), 512);
    assert_int_equal(vd_read(&r.v, r.v.config + 34, 2), 4);
    assert_true(vd_read(&r.v, r.v.config + 40, 4) >= 1);
    assert_int_equal(vd_read(&r.v, r.v.config + 200, 4), 0);
    /* growing: the driver is told, the generation changes */
    uint64_t generation = vd_read(&r.v, r.v.common + 21, 1);
    r.disk.info.bytes *= 2;
    assert_int_equal(vmc_virtio_blk_resized(r.dev), VMC_OK);
    r.disk.info.bytes /= 2;
    assert_int_equal(vd_read(&r.v, r.v.config, 8), 2 * SECTORS);
    assert_int_not_equal(vd_read(&r.v, r.v.common + 21, 1), generation);
    assert_int_equal(r.b.msi[0], 1);
    rig_close(&r);
}

static void bad_ranges_are_io_errors(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, NULL, ALL);
    assert_int_equal(rig_do(&r, 1, SECTORS - 1, 512), OK);
    const struct {
        uint64_t sector;
        uint32_t bytes;
    } bad[] = {
        {SECTORS, 512},    {SECTORS - 1, 1024},      {UINT64_MAX, 512},
        {1ull << 55, 512}, {UINT64_MAX / 512, 512},  {0, 100},
        {0, 513},          {(1ull << 55) - 1, 1024},
    };
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(rig_do(&r, 0, bad[i].sector, bad[i].bytes), IOERR);
        assert_int_equal(rig_do(&r, 1, bad[i].sector, bad[i].bytes), IOERR);
    }
    rig_close(&r);
}

static void headers_of_any_framing_are_understood(void **state)
{
    (void)state;
    struct rig r;
    unsigned id;
    uint32_t len;
    open_rig(&r, NULL, ALL);
    /* header in two pieces, the second shared with data; status at the end of the data piece */
    uint64_t at = RIG_SLOT(0);
    (void)rig_header(&r, 0, 1, 5);
    memset(vd_ptr(&r.b, at + 16), 0x5a, 512);
    const struct vd_buf w[3] = {{at, 7, false}, {at + 7, 9 + 512, false}, {at + 0x800, 1, true}};
    (void)vd_add(&r.v, 0, w, 3, 0);
    vd_kick(&r.v, 0);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(rig_status(&r, 0), OK);
    assert_int_equal(r.disk.data[5 * 512 + 511], 0x5a);
    (void)rig_header(&r, 0, 0, 5);
    unsigned char *p = vd_ptr(&r.b, at + 0x1000);
    memset(p, 0xff, 513);
    const struct vd_buf rd[2] = {{at, 16, false}, {at + 0x1000, 513, true}};
    (void)vd_add(&r.v, 0, rd, 2, 0);
    vd_kick(&r.v, 0);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(len, 513);
    assert_int_equal(p[0], 0x5a);
    assert_int_equal(p[511], 0x5a);
    assert_int_equal(p[512], OK);
    rig_close(&r);
}

static void requests_without_header_or_status_end(void **state)
{
    (void)state;
    struct rig r;
    struct vmc_virtio_stats st;
    unsigned id;
    uint32_t len;
    open_rig(&r, NULL, ALL);
    const struct vd_buf only_out = {RIG_SLOT(0), 16, false};
    const struct vd_buf only_in = {RIG_SLOT(0) + 0x800, 1, true};
    const struct vd_buf short_header[2] = {{RIG_SLOT(0), 15, false}, only_in};
    (void)rig_header(&r, 0, 4, 0);
    (void)vd_add(&r.v, 0, &only_out, 1, 0);
    (void)vd_add(&r.v, 0, &only_in, 1, 0);
    (void)vd_add(&r.v, 0, short_header, 2, 0);
    vd_kick(&r.v, 0);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(len, 0);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(len, 1);
    assert_true(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(rig_status(&r, 0), IOERR);
    vmc_virtio_get_stats(r.dev, &st);
    assert_int_equal(st.malformed, 3);
    assert_int_equal(rig_do(&r, 77, 0, 512), UNSUPP);
    assert_int_equal(rig_do(&r, 4, 0, 0), OK);
    rig_close(&r);
}

static void identity_is_the_serial(void **state)
{
    (void)state;
    struct vmc_virtio_blk_config c = {.serial = "SN-12345"};
    struct rig r;
    open_rig(&r, &c, ALL);
    memset(data_of(&r), 0xff, 20);
    assert_int_equal(rig_do(&r, 8, 0, 20), OK);
    assert_memory_equal(data_of(&r), "SN-12345\0\0\0\0\0\0\0\0\0\0\0\0", 20);
    assert_int_equal(rig_do(&r, 8, 0, 19), IOERR);
    rig_close(&r);
}

static void read_only_disks_are_not_written(void **state)
{
    (void)state;
    struct vmc_virtio_blk_config c = {.read_only = true};
    struct rig r;
    open_rig(&r, &c, ALL);
    assert_true((vd_offered(&r.v) & 1u << 5) != 0);
    assert_int_equal(vd_offered(&r.v) & (RIG_F_DISCARD | RIG_F_ZEROES), 0);
    assert_int_equal(rig_do(&r, 1, 0, 512), IOERR);
    assert_int_equal(rig_do(&r, 0, 0, 512), OK);
    assert_int_equal(rig_do(&r, 11, 0, 16), UNSUPP);
    assert_int_equal(r.disk.ops[VMC_BLOCK_WRITE], 0);
    rig_close(&r);
}

/*
 * Several requests under one notification: all but the first are taken the short way where they
 * have its shape (header, data in one piece, status), and must mean the same as the first.
 */
static void requests_behind_the_first_mean_the_same(void **state)
{
    (void)state;
    struct rig r;
    struct vmc_virtio_stats st;
    unsigned id;
    uint32_t len;
    static const struct {
        uint32_t type;
        uint64_t sector;
        uint32_t bytes;
        unsigned char status;
        uint32_t written;
    } all[] = {
        {0, 8, 4096, OK, 4097},         {1, 16, 4096, OK, 1},         {8, 0, 20, OK, 21},
        {0, SECTORS, 512, IOERR, 0},    {1, SECTORS - 1, 512, OK, 1}, {0, 0, 100, IOERR, 0},
        {1, UINT64_MAX, 512, IOERR, 0}, {77, 0, 512, UNSUPP, 0},      {4, 0, 0, OK, 1},
        {11, 0, 15, IOERR, 0},          {0, 24, 0x2000, OK, 0x2001},
    };
    enum { N = sizeof(all) / sizeof(all[0]) };

    for (unsigned how = 0; how < 3; how++) { /* a plain chain, an indirect table, a dirty log */
        struct vmc_virtio_blk_config c = {.virtio = {.queue_size = 64}};
        open_rig(&r, &c, ALL | VD_F_INDIRECT);
        memset(r.disk.data, 0x33, 1 << 20);
        assert_int_equal(rig_do(&r, 0, 0, 512), OK);
        if (how == 2)
            assert_int_equal(vmc_mem_dirty_start(r.b.bd.mem, 0), VMC_OK);
        for (unsigned round = 0; round < 2; round++) {
            unsigned ids[N];
            for (unsigned i = 0; i < N; i++) {
                uint64_t at = RIG_SLOT(i);
                bool in = all[i].type == 0 || all[i].type == 8;
                const struct vd_buf b[3] = {
                    {at, 16, false}, {at + 0x1000, all[i].bytes, in}, {at + 0x800, 1, true}};
                const struct vd_buf none[2] = {b[0], b[2]};
                (void)rig_header(&r, i, all[i].type, all[i].sector);
                memset(vd_ptr(&r.b, at + 0x1000), 0x40 + (int)i, 4096);
                ids[i] = vd_add(&r.v, 0, all[i].bytes != 0 ? b : none, all[i].bytes != 0 ? 3 : 2,
                                how == 1 ? at + 0x900 : 0);
            }
            vd_kick(&r.v, 0);
            for (unsigned k = 0; k < N; k++) {
                assert_true(vd_pop(&r.v, 0, &id, &len));
                unsigned i = 0;
                while (i < N && ids[i] != id)
                    i++;
                assert_true(i < N);
                assert_int_equal(rig_status(&r, i), all[i].status);
                if (all[i].written != 0)
                    assert_int_equal(len, all[i].written);
            }
            const unsigned char *read = vd_ptr(&r.b, RIG_SLOT(0) + 0x1000);
            assert_int_equal(read[0], 0x33);
            assert_int_equal(read[4095], 0x33);
            assert_int_equal(r.disk.data[16 * 512 + 4095], 0x41);
            assert_int_equal(r.disk.data[(SECTORS - 1) * 512], 0x44);
            assert_memory_equal(vd_ptr(&r.b, RIG_SLOT(2) + 0x1000), "vmcore", 7);
        }
        vmc_virtio_get_stats(r.dev, &st);
        assert_int_equal(st.requests, 2 * N + 1);
        assert_int_equal(st.malformed, 0);
        rig_close(&r);
    }
}

/* The same place in a list, and something is wrong with the request, or odd. */
static void odd_requests_behind_the_first(void **state)
{
    (void)state;
    const uint64_t at = RIG_SLOT(1);
    static const struct {
        struct vd_buf b[3];
        uint32_t type;
        unsigned char status;
    } odd[] = {
        {{{at, 16, false}, {at + 0x1000, 512, false}, {at + 0x800, 1, true}},
         0,
         OK}, /* nothing to read */
        {{{at, 16, false}, {at + 0x1000, 512, true}, {at + 0x800, 1, true}}, 1, OK}, /* to write */
        {{{at, 15, false}, {at + 0xf, 513, false}, {at + 0x800, 1, true}}, 1, OK},
        {{{at, 16, false}, {at + 0x1000, 511, true}, {at + 0x7ff, 2, true}}, 0, OK},
        {{{at, 16, false}, {VD_RAM_BYTES - 256, 512, true}, {at + 0x800, 1, true}},
         0,
         OK}, /* two slots */
        {{{at, 16, false}, {VD_RAM_END - 256, 512, true}, {at + 0x800, 1, true}}, 0, IOERR},
        {{{at, 16, false}, {at + 0x1000, 512, true}, {VD_RAM_BYTES + 4, 1, true}}, 0, OK},
    };
    struct rig r;
    unsigned id;
    uint32_t len;

    for (unsigned i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
        for (unsigned indirect = 0; indirect < 2; indirect++) {
            open_rig(&r, NULL, ALL | VD_F_INDIRECT);
            memset(r.disk.data, 0x77, 1 << 20);
            assert_int_equal(rig_do(&r, 0, 0, 512), OK);
            (void)rig_add(&r, 0, 0, 0, 512);
            (void)rig_header(&r, 1, odd[i].type, 5);
            unsigned char *status = vd_ptr(&r.b, odd[i].b[2].gpa + odd[i].b[2].len - 1);
            *status = 0xee;
            (void)vd_add(&r.v, 0, odd[i].b, 3, indirect ? at + 0x900 : 0);
            (void)rig_add(&r, 2, 1, 9, 512);
            vd_kick(&r.v, 0);
            for (unsigned k = 0; k < 3; k++)
                assert_true(vd_pop(&r.v, 0, &id, &len));
            assert_int_equal(rig_status(&r, 0), OK);
            assert_int_equal(rig_status(&r, 2), OK);
            if (odd[i].status == OK)
                assert_int_equal(*status, OK);
            else
                assert_int_not_equal(*status, OK);
            assert_int_equal(vd_status(&r.v) & VD_NEEDS_RESET, 0);
            rig_close(&r);
        }
}

static void put_range(struct rig *r, unsigned i, uint64_t sector, uint32_t n, uint32_t flags)
{
    unsigned char *p = data_of(r) + 16 * i;
    memcpy(p, &sector, 8);
    memcpy(p + 8, &n, 4);
    memcpy(p + 12, &flags, 4);
}

static void discard_and_zeroes_cover_all_segments(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, NULL, ALL);
    memset(r.disk.data, 0xaa, 1 << 20);
    put_range(&r, 0, 8, 8, 0);
    put_range(&r, 1, 100, 0, 0); /* empty: nothing to do */
    put_range(&r, 2, 2040, 8, 0);
    assert_int_equal(rig_do(&r, 11, 0, 48), OK);
    assert_int_equal(r.disk.ops[VMC_BLOCK_DISCARD], 2);
    assert_int_equal(r.disk.data[8 * 512], 0);
    assert_int_equal(r.disk.data[16 * 512], 0xaa);
    assert_int_equal(r.disk.data[2047 * 512], 0);
    put_range(&r, 0, 20, 4, 1);
    assert_int_equal(rig_do(&r, 13, 0, 16), OK);
    assert_int_equal(r.disk.data[23 * 512 + 511], 0);
    assert_int_equal(r.disk.data[24 * 512], 0xaa);
    /* each segment is checked before any is done */
    put_range(&r, 0, 0, 8, 0);
    put_range(&r, 1, 2047, 2, 0);
    assert_int_equal(rig_do(&r, 11, 0, 32), IOERR);
    assert_int_equal(r.disk.data[0], 0xaa);
    put_range(&r, 0, 0, 8, 1);
    assert_int_equal(rig_do(&r, 11, 0, 16), UNSUPP); /* flags are reserved */
    put_range(&r, 0, 0, 8, 2);
    assert_int_equal(rig_do(&r, 13, 0, 16), UNSUPP);
    put_range(&r, 0, 0, 0xffffffff, 0);
    assert_int_equal(rig_do(&r, 13, 0, 16), IOERR);
    assert_int_equal(rig_do(&r, 13, 0, 15), IOERR);
    assert_int_equal(rig_do(&r, 13, 0, 17 * 16), IOERR);
    assert_int_equal(rig_do(&r, 13, 0, 0), IOERR);
    /* later segments also run when the disk is slow */
    r.disk.hold = true;
    put_range(&r, 0, 0, 1, 0);
    put_range(&r, 1, 2, 1, 0);
    unsigned id;
    uint32_t len;
    const struct vd_buf buf[3] = {{RIG_SLOT(0), 16, false},
                                  {RIG_SLOT(0) + 0x1000, 32, false},
                                  {RIG_SLOT(0) + 0x800, 1, true}};
    (void)rig_header(&r, 0, 13, 0);
    (void)vd_add(&r.v, 0, buf, 3, 0);
    vd_kick(&r.v, 0);
    assert_true(mem_disk_finish(&r.disk));
    assert_false(vd_pop(&r.v, 0, &id, &len));
    assert_true(mem_disk_finish(&r.disk));
    assert_true(vd_pop(&r.v, 0, &id, &len));
    assert_int_equal(rig_status(&r, 0), OK);
    assert_int_equal(r.disk.data[2 * 512], 0);
    assert_int_equal(r.disk.data[1 * 512], 0xaa);
    rig_close(&r);
}

static void failures_of_the_disk_are_reported(void **state)
{
    (void)state;
    struct rig r;
    open_rig(&r, NULL, ALL);
    r.disk.fail = VMC_EIO;
    assert_int_equal(rig_do(&r, 0, 0, 512), IOERR);
    assert_int_equal(rig_do(&r, 1, 0, 512), IOERR);
    assert_int_equal(rig_do(&r, 4, 0, 0), IOERR);
    r.disk.fail = VMC_ENOTSUP;
    put_range(&r, 0, 0, 1, 0);
    assert_int_equal(rig_do(&r, 11, 0, 16), UNSUPP);
    r.disk.fail = 0;
    assert_int_equal(rig_do(&r, 0, 0, 512), OK);
    rig_close(&r);
}

static void writes_are_flushed_while_the_cache_is_off(void **state)
{
    (void)state;
    struct vmc_virtio_blk_config c = {.writethrough = true};
    struct rig r;
    open_rig(&r, &c, ALL);
    assert_int_equal(vd_read(&r.v, r.v.config + 32, 1), 0);
    assert_int_equal(rig_do(&r, 1, 0, 512), OK);
    assert_int_equal(r.disk.ops[VMC_BLOCK_FLUSH], 1);
    vd_write(&r.v, r.v.config + 32, 1, 1); /* the driver turns it on */
    assert_int_equal(rig_do(&r, 1, 0, 512), OK);
    assert_int_equal(r.disk.ops[VMC_BLOCK_FLUSH], 1);
    vd_write(&r.v, r.v.config, 4, 99); /* everything else is read-only */
    assert_int_equal(vd_read(&r.v, r.v.config, 4), SECTORS);
    /* a driver that cannot flush gets its writes durable (5.2.6.2) */
    assert_true(vd_start(&r.v, 0, 1));
    assert_int_equal(rig_do(&r, 1, 0, 512), OK);
    assert_int_equal(r.disk.ops[VMC_BLOCK_FLUSH], 2);
    assert_int_equal(rig_do(&r, 11, 0, 16), UNSUPP); /* not negotiated */
    rig_close(&r);
}

static void disks_of_4k_sectors_take_no_less(void **state)
{
    (void)state;
    struct rig r;
    vd_board_init(&r.b, false);
    mem_disk_init(&r.disk, 1 << 20, 4096);
    struct vmc_virtio_blk_config cfg = {.virtio = {.size = sizeof(cfg.virtio),
                                                   .pci = r.b.pci,
                                                   .slot = VMC_PCI_ANY_SLOT,
                                                   .queue_size = 16},
                                        .disk = mem_disk_blockdev(&r.disk)};
    assert_int_equal(vmc_virtio_blk_create(&r.b.bd, &cfg, &r.dev, NULL), VMC_OK);
    assert_true(vd_probe(&r.v, &r.b, r.dev, true));
    assert_true(vd_start(&r.v, ALL, 1));
    assert_int_equal(vd_read(&r.v, r.v.config + 20, 4), 4096);
    assert_int_equal(rig_do(&r, 1, 8, 4096), OK);
    assert_int_equal(rig_do(&r, 1, 1, 4096), IOERR);
    assert_int_equal(rig_do(&r, 1, 8, 512), IOERR);
    rig_close(&r);
}

static void queues_work_independently(void **state)
{
    (void)state;
    struct vmc_virtio_blk_config c = {.queues = 3};
    struct rig r;
    unsigned id;
    uint32_t len;
    rig_create(&r, &c, false);
    assert_true(vd_start(&r.v, ALL, 3));
    for (unsigned q = 0; q < 3; q++) {
        uint64_t at = RIG_SLOT(q);
        (void)rig_header(&r, q, 1, q);
        memset(vd_ptr(&r.b, at + 0x1000), (int)q + 1, 512);
        const struct vd_buf buf[3] = {
            {at, 16, false}, {at + 0x1000, 512, false}, {at + 0x800, 1, true}};
        (void)vd_add(&r.v, q, buf, 3, 0);
        vd_kick(&r.v, q);
        assert_true(vd_pop(&r.v, q, &id, &len));
        assert_int_equal(r.disk.data[q * 512], q + 1);
        assert_int_equal(r.b.msi[q + 1], 1);
    }
    /* one of them broken: the device as a whole wants a reset */
    vd_raw_avail_idx(&r.v, 1, 999);
    vd_kick(&r.v, 1);
    assert_int_equal(vd_status(&r.v) & VD_NEEDS_RESET, VD_NEEDS_RESET);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read_gives_what_was_written),
        cmocka_unit_test(configuration_describes_the_disk),
        cmocka_unit_test(bad_ranges_are_io_errors),
        cmocka_unit_test(headers_of_any_framing_are_understood),
        cmocka_unit_test(requests_without_header_or_status_end),
        cmocka_unit_test(identity_is_the_serial),
        cmocka_unit_test(read_only_disks_are_not_written),
        cmocka_unit_test(requests_behind_the_first_mean_the_same),
        cmocka_unit_test(odd_requests_behind_the_first),
        cmocka_unit_test(discard_and_zeroes_cover_all_segments),
        cmocka_unit_test(failures_of_the_disk_are_reported),
        cmocka_unit_test(writes_are_flushed_while_the_cache_is_off),
        cmocka_unit_test(disks_of_4k_sectors_take_no_less),
        cmocka_unit_test(queues_work_independently),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
