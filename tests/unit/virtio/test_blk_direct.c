/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtio disk whose data is in memory: the same requests give the same as through submit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "blk_rig.h"

enum { OK, IOERR, UNSUPP };
#define FEATURES (RIG_F_FLUSH | RIG_F_WCE | RIG_F_DISCARD | RIG_F_ZEROES | VD_F_INDIRECT)
#define SECTORS  2048u
#define SIZE     64u /* of the queue */

static void open_rig(struct rig *r)
{
    struct vmc_virtio_blk_config c = {.virtio = {.queue_size = SIZE}};

    rig_create(r, &c, false);
    assert_true(vd_start(&r->v, FEATURES, 1));
    assert_int_equal(rig_do(r, 0, 0, 512), OK); /* from now on it knows where buffers are */
}

static unsigned pop_all(struct rig *r)
{
    unsigned id, n = 0;
    uint32_t len;

    while (vd_pop(&r->v, 0, &id, &len))
        n++;
    return n;
}

static void usual_requests_go_directly(void **state)
{
    (void)state;
    struct rig r;
    struct vmc_virtio_stats st;

    open_rig(&r);
    r.disk.piece = 4096;
    for (unsigned i = 0; i < 12; i++) {
        (void)rig_add(&r, i, i < 6, 8 * i, 4096);
        memset(vd_ptr(&r.b, RIG_SLOT(i) + 0x1000), (int)(0x51 + i), 4096);
    }
    uint64_t reads = r.disk.ops[VMC_BLOCK_READ];
    vd_kick(&r.v, 0);
    assert_int_equal(pop_all(&r), 12);
    assert_int_equal(r.disk.moves, 12);
    assert_int_equal(r.disk.windows, 1); /* a wide one */
    assert_int_equal(r.disk.ops[VMC_BLOCK_READ], reads + 6);
    assert_false(r.disk.opened);
    for (unsigned i = 0; i < 12; i++) {
        const unsigned char *data = vd_ptr(&r.b, RIG_SLOT(i) + 0x1000);
        assert_int_equal(rig_status(&r, i), OK);
        assert_int_equal(r.disk.data[4096 * i + 4095], i < 6 ? 0x51 + i : 0);
        assert_int_equal(data[4095], i < 6 ? 0x51 + i : 0);
    }
    vmc_virtio_get_stats(r.dev, &st);
    assert_int_equal(st.requests, 13);
    rig_close(&r);
}

/* What is in no window, must not be written directly, or fails, is a request of its own. */
static void others_are_submitted(void **state)
{
    (void)state;
    struct rig r;

    open_rig(&r);
    r.disk.piece = 4096;
    r.disk.closed = 1 << 3;
    for (unsigned i = 0; i < 6; i++)
        (void)rig_add(&r, i, 1, 8 * i, 4096);
    vd_kick(&r.v, 0);
    assert_int_equal(pop_all(&r), 6);
    assert_int_equal(r.disk.moves, 3); /* up to the closed one */
    assert_int_equal(r.disk.ops[VMC_BLOCK_WRITE], 6);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(rig_status(&r, i), OK);

    r.disk.closed = 0;
    r.disk.no_writes = true;
    (void)rig_add(&r, 0, 0, 0, 512);
    (void)rig_add(&r, 1, 1, 0, 512);
    vd_kick(&r.v, 0);
    assert_int_equal(pop_all(&r), 2);
    assert_int_equal(r.disk.moves, 4);

    /* Without a write cache every write is followed by a flush. */
    r.disk.no_writes = false;
    vd_write(&r.v, r.v.config + 32, 1, 0);
    (void)rig_add(&r, 0, 0, 0, 512);
    (void)rig_add(&r, 1, 1, 0, 512);
    (void)rig_add(&r, 2, 1, 0, 512);
    vd_kick(&r.v, 0);
    assert_int_equal(pop_all(&r), 3);
    assert_int_equal(r.disk.moves, 5);
    assert_int_equal(r.disk.ops[VMC_BLOCK_FLUSH], 2);

    /* A disk that cannot now. */
    r.disk.fail = VMC_EIO;
    assert_int_equal(rig_do(&r, 0, 0, 512), IOERR);
    r.disk.fail = 0;
    r.disk.hold = true;
    (void)rig_add(&r, 0, 0, 0, 512);
    vd_kick(&r.v, 0);
    assert_int_equal(pop_all(&r), 0);
    assert_true(mem_disk_finish(&r.disk));
    assert_int_equal(pop_all(&r), 1);
    rig_close(&r);
}

static struct vmc_mem *watched;
static uint64_t dirty[VD_RAM_BYTES / 4096 / 64];

static void take_log(void)
{
    assert_int_equal(
        vmc_mem_dirty_take(watched, 0, 0, VD_RAM_BYTES / 4096, dirty, VD_RAM_BYTES / 4096 / 64),
        VMC_OK);
}

static void start_log(struct mem_disk *d)
{
    d->moved = NULL;
    assert_int_equal(vmc_mem_dirty_start(watched, 0), VMC_OK);
    take_log(); /* every page starts dirty */
}

/* The disk ends where the driver was told; what is written while a dirty log starts is in it. */
static void limits_hold(void **state)
{
    (void)state;
    struct rig r;

    open_rig(&r);
    r.disk.piece = 1 << 20;
    r.disk.info.bytes = 1 << 19;
    assert_int_equal(vmc_virtio_blk_resized(r.dev), VMC_OK);
    r.disk.info.bytes = 1 << 20;
    for (unsigned i = 0; i < 3; i++)
        (void)rig_add(&r, i, 1, SECTORS / 2 - 2 + i, 512);
    vd_kick(&r.v, 0);
    assert_int_equal(pop_all(&r), 3);
    assert_int_equal(r.disk.moves, 2);
    assert_int_equal(rig_status(&r, 1), OK);
    assert_int_equal(rig_status(&r, 2), IOERR);

    watched = r.b.bd.mem;
    r.disk.moved = start_log;
    for (unsigned i = 0; i < 4; i++)
        (void)rig_add(&r, i, i % 2, 0, 512);
    vd_kick(&r.v, 0);
    assert_int_equal(pop_all(&r), 4);
    assert_int_equal(r.disk.moves, 6);
    take_log();
    for (unsigned i = 0; i < 4; i++) {
        uint64_t status = (RIG_SLOT(i) + 0x800) >> 12, page = (RIG_SLOT(i) + 0x1000) >> 12;
        assert_true((dirty[status / 64] >> (status % 64) & 1) != 0);
        assert_int_equal(dirty[page / 64] >> (page % 64) & 1, i % 2 == 0);
    }
    rig_close(&r);
}

/* Rings that have no room for three descriptors, or just so. */
static void small_rings(void **state)
{
    (void)state;
    struct rig r;
    unsigned id;
    uint32_t len;

    open_rig(&r);
    r.disk.piece = 4096;
    for (unsigned size = 1; size <= 4; size *= 2) {
        assert_true(vd_negotiate(&r.v, FEATURES | VD_F_VERSION_1));
        vd_queue_setup(&r.v, 0, size);
        vd_driver_ok(&r.v);
        const struct vd_buf buf[3] = {{RIG_SLOT(0), 16, false},
                                      {RIG_SLOT(0) + 0x1000, 512, true},
                                      {RIG_SLOT(0) + 0x800, 1, true}};
        uint64_t moves = r.disk.moves;
        for (unsigned i = 0; i < 3; i++) {
            (void)rig_header(&r, 0, 0, 0);
            (void)vd_add(&r.v, 0, buf, 3, RIG_SLOT(0) + 0x900);
            vd_kick(&r.v, 0);
            assert_true(vd_pop(&r.v, 0, &id, &len));
            assert_int_equal(len, 513);
            assert_int_equal(rig_status(&r, 0), OK);
        }
        assert_int_equal(r.disk.moves, moves + 2); /* the first showed where buffers are */
        /* A chain that would be right, but behind the ring's end, or over it. */
        for (unsigned i = 0; i < 3; i++)
            vd_raw_desc(&r.v, 0, size - 1 + i, buf[i].gpa, buf[i].len,
                        (uint16_t)((i < 2 ? VD_NEXT : 0) | (i != 0 ? VD_WRITE : 0)),
                        (uint16_t)(size + i));
        vd_raw_avail(&r.v, 0, (uint16_t)(size - 1));
        vd_kick(&r.v, 0);
        assert_int_equal(vd_status(&r.v) & VD_NEEDS_RESET, VD_NEEDS_RESET);
        assert_int_equal(r.disk.moves, moves + 2);
    }
    rig_close(&r);
}

static struct rig *resetting;
static bool whole_board;
static uint64_t resets_at;

/* In the middle of a batch: the driver, or whoever owns the board, wants everything afresh. */
static void reset_now(struct mem_disk *d)
{
    struct vd *v = &resetting->v;

    if (d->moves != resets_at)
        return;
    if (whole_board) {
        vmc_board_reset(&resetting->b.bd); /* the registers are nowhere now */
        return;
    }
    vd_reset(v);
    assert_int_not_equal(vd_status(v), 0); /* not before the batch ended */
    /* A driver that does not wait for that changes nothing. */
    vd_write(v, v->common + 22, 2, 0);
    vd_write(v, v->common + 24, 2, 2);
    vd_write(v, v->common + 32, 4, 0xfffff000);
    vd_write(v, v->common + 28, 2, 1);
    vd_kick(v, 0);
}

static void resets_wait_for_the_batch(void **state)
{
    (void)state;
    struct rig r;

    open_rig(&r);
    r.disk.piece = 4096;
    resetting = &r;
    for (unsigned how = 0; how < 2; how++) {
        whole_board = how == 1;
        for (unsigned i = 0; i < 12; i++)
            (void)rig_add(&r, i, i % 2, 8 * i, 4096);
        resets_at = r.disk.moves + 5;
        r.disk.moved = reset_now;
        uint64_t moves = r.disk.moves;
        vd_kick(&r.v, 0);
        r.disk.moved = NULL;
        assert_int_equal(r.disk.moves, moves + 12);
        assert_false(r.disk.opened);
        for (unsigned i = 0; i < 12; i++)
            assert_int_equal(rig_status(&r, i), OK);
        /* The driver was told of what was done, but for a board that forgot it. */
        assert_int_equal(pop_all(&r), whole_board ? 0 : 12);
        if (whole_board)
            assert_true(vd_probe(&r.v, &r.b, r.dev, true));
        assert_int_equal(vd_status(&r.v), 0);
        memset(vd_ptr(&r.b, VD_RINGS), 0, VD_RING_STEP);
        assert_true(vd_start(&r.v, FEATURES, 1));
        assert_int_equal(rig_do(&r, 0, 0, 512), OK);
    }
    rig_close(&r);
}

/* ---- random drivers, nasty ones among them ------------------------------------------------- */

static uint32_t rnd(uint64_t *s, uint32_t below)
{
    *s = *s * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*s >> 33) % below;
}

static uint64_t odd_address(uint64_t *s)
{
    const uint64_t at[] = {VD_RAM_BYTES - 8, VD_RAM_END - 8, VD_RAM_END,
                           VD_ROM,           UINT64_MAX - 7, RIG_SLOT(40) + 3};
    return at[rnd(s, sizeof(at) / sizeof(at[0]))];
}

struct desc {
    uint64_t at;
    uint32_t len;
    uint16_t flags, next;
};

/* One thing about a chain of three is not as it should be. */
static void spoil(uint64_t *s, struct desc d[3])
{
    static const uint32_t len[] = {0, 1, 2, 15, 17, 511, 513, 0x2001, 1 << 20, UINT32_MAX};
    struct desc *bad = &d[rnd(s, 3)];

    switch (rnd(s, 6)) {
    case 0:
        bad->len = len[rnd(s, sizeof(len) / sizeof(len[0]))];
        break;
    case 1:
        bad->at = odd_address(s);
        break;
    case 2:
        bad->flags ^= VD_WRITE;
        break;
    case 3:
        bad->flags ^= VD_NEXT;
        break;
    case 4:
        bad->flags ^= rnd(s, 4) == 0 ? VD_INDIRECT : 0x4000;
        break;
    default:
        bad->next = (uint16_t)(rnd(s, 2) != 0 ? rnd(s, 70) : 0xffff);
    }
}

/* Request k of a list: where its descriptors are in the table is in place[]. */
static void random_request(struct rig *r, uint64_t *s, unsigned k, const uint16_t *place)
{
    static const uint32_t types[] = {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 4, 8, 13, 77};
    static const uint64_t odd_sector[] = {SECTORS, UINT64_MAX, 1ull << 55, (1ull << 55) - 1};
    uint64_t at = RIG_SLOT(k), header = at + (rnd(s, 12) == 0 ? 4 : 0);
    uint32_t type = types[rnd(s, sizeof(types) / sizeof(types[0]))];
    uint32_t bytes = rnd(s, 12) != 0 ? 512 * (1 + rnd(s, 16)) : 1 + rnd(s, 0x2000);
    uint64_t sector = rnd(s, 12) != 0 ? rnd(s, SECTORS) : odd_sector[rnd(s, 4)];
    unsigned char *p = vd_ptr(&r->b, header);
    struct desc d[3] = {{header, 16, VD_NEXT, place[1]},
                        {at + 0x1000, bytes,
                         (uint16_t)(VD_NEXT | (type == 0 || type == 8 ? VD_WRITE : 0)), place[2]},
                        {at + 0x800, 1, VD_WRITE, 0}};

    memcpy(p, &type, 4);
    memcpy(p + 8, &sector, 8);
    *(unsigned char *)vd_ptr(&r->b, at + 0x800) = 0xee;
    memset(vd_ptr(&r->b, at + 0x1000), (int)rnd(s, 256), 0x2000);
    bool indirect = rnd(s, 4) == 0, spoilt = rnd(s, 8) == 0;
    if (indirect) {
        d[0].next = 1;
        d[1].next = 2;
    }
    if (spoilt)
        spoil(s, d);
    if (!indirect) {
        for (unsigned i = 0; i < 3; i++)
            vd_raw_desc(&r->v, 0, place[i], d[i].at, d[i].len, d[i].flags, d[i].next);
        return;
    }
    uint64_t table = at + 0x900 + (rnd(s, 16) == 0 ? 4 : 0);
    for (unsigned i = 0; i < 3; i++)
        memcpy(vd_ptr(&r->b, table + 16 * i), &d[i], 16);
    vd_raw_desc(&r->v, 0, place[0], rnd(s, 40) != 0 ? table : odd_address(s),
                rnd(s, 40) != 0 ? 48 : 16 * rnd(s, 70), VD_INDIRECT, 0);
}

/* A list of requests, and doorbells now and then. All of it depends on the seed alone. */
static void random_list(struct rig *r, uint64_t seed)
{
    uint64_t s = seed;
    uint16_t place[SIZE];
    unsigned n = 1 + rnd(&s, SIZE / 3);

    for (unsigned i = 0; i < SIZE; i++)
        place[i] = (uint16_t)i;
    for (unsigned i = rnd(&s, 2) * SIZE; i > 1; i--) {
        unsigned j = rnd(&s, i);
        uint16_t swap = place[i - 1];
        place[i - 1] = place[j];
        place[j] = swap;
    }
    for (unsigned k = 0; k < n; k++) {
        random_request(r, &s, k, place + 3 * k);
        vd_raw_avail(&r->v, 0, rnd(&s, 200) != 0 ? place[3 * k] : (uint16_t)rnd(&s, 70));
        if (rnd(&s, 8) == 0)
            vd_kick(&r->v, 0);
    }
    if (rnd(&s, 200) == 0)
        vd_raw_avail_idx(&r->v, 0, (uint16_t)(r->v.q[0].avail_idx + SIZE));
    vd_kick(&r->v, 0);
}

static void the_same_comes_out(void **state)
{
    (void)state;
    enum { LISTS = 3000 };
    struct vmc_virtio_stats st[2];
    struct rig r[2]; /* by submit, directly */
    unsigned broken = 0;
    uint64_t s = 1;

    for (unsigned i = 0; i < 2; i++)
        open_rig(&r[i]);
    for (unsigned n = 0; n < LISTS; n++) {
        r[1].disk.piece = 512u << rnd(&s, 12);
        r[1].disk.closed = rnd(&s, 2) == 0 ? 0 : 1ull << rnd(&s, 64) | 1ull << rnd(&s, 64);
        r[1].disk.no_writes = rnd(&s, 16) == 0;
        uint8_t cache = rnd(&s, 8) != 0;
        for (unsigned i = 0; i < 2; i++) {
            vd_write(&r[i].v, r[i].v.config + 32, 1, cache);
            random_list(&r[i], n);
            vmc_virtio_get_stats(r[i].dev, &st[i]);
        }
        assert_memory_equal(r[0].disk.data, r[1].disk.data, 1 << 20);
        assert_int_equal(vd_status(&r[0].v), vd_status(&r[1].v));
        assert_int_equal(st[0].malformed, st[1].malformed);
        assert_int_equal(st[0].requests, st[1].requests);
        assert_memory_equal(vd_ptr(&r[0].b, RIG_SLOT(0)), vd_ptr(&r[1].b, RIG_SLOT(0)),
                            RIG_SLOT(SIZE / 3 + 1) - RIG_SLOT(0));
        assert_int_equal(r[0].disk.ops[VMC_BLOCK_READ], r[1].disk.ops[VMC_BLOCK_READ]);
        assert_int_equal(r[0].disk.ops[VMC_BLOCK_WRITE], r[1].disk.ops[VMC_BLOCK_WRITE]);
        assert_int_equal(r[0].disk.ops[VMC_BLOCK_FLUSH], r[1].disk.ops[VMC_BLOCK_FLUSH]);
        if ((vd_status(&r[0].v) & VD_NEEDS_RESET) == 0) {
            assert_memory_equal(vd_ptr(&r[0].b, VD_RINGS), vd_ptr(&r[1].b, VD_RINGS), VD_RING_STEP);
            continue;
        }
        /* A broken ring shows nothing of the requests that were taken with what broke it. */
        broken++;
        for (unsigned i = 0; i < 2; i++) {
            memset(vd_ptr(&r[i].b, VD_RINGS), 0, VD_RING_STEP);
            assert_true(vd_start(&r[i].v, FEATURES, 1));
            assert_int_equal(rig_do(&r[i], 0, 0, 512), OK);
        }
    }
    assert_memory_equal(r[0].b.ram2, r[1].b.ram2, VD_RAM2_BYTES);
    assert_int_equal(r[0].disk.moves, 0);
    assert_true(r[1].disk.moves > LISTS);
    assert_true(r[1].disk.moves < r[1].disk.ops[VMC_BLOCK_READ] + r[1].disk.ops[VMC_BLOCK_WRITE]);
    assert_in_range(broken, LISTS / 50, LISTS - LISTS / 50);
    for (unsigned i = 0; i < 2; i++)
        rig_close(&r[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usual_requests_go_directly),
        cmocka_unit_test(others_are_submitted),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(small_rings),
        cmocka_unit_test(resets_wait_for_the_batch),
        cmocka_unit_test(the_same_comes_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
