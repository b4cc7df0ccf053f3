/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "test_platform.h"
#include <vmcore/bus.h>
#include <vmcore/device.h>

#include <cmocka.h>

/* A device that is plain bytes and remembers its accesses. */
struct dev {
    uint8_t mem[64];
    unsigned reads, writes;
    uint64_t last_offset;
    unsigned last_bytes;
};

static uint64_t dev_read(void *d, uint64_t offset, unsigned bytes)
{
    struct dev *dev = d;
    uint64_t v = 0;
    dev->reads++;
    dev->last_offset = offset;
    dev->last_bytes = bytes;
    memcpy(&v, dev->mem + offset, bytes);
    return v | (bytes < 8 ? ~0ull << (bytes * 8) : 0); /* dirt above what was asked for */
}

static void dev_write(void *d, uint64_t offset, unsigned bytes, uint64_t v)
{
    struct dev *dev = d;
    dev->writes++;
    dev->last_offset = offset;
    dev->last_bytes = bytes;
    memcpy(dev->mem + offset, &v, bytes);
}

static const struct vmc_bus_ops ops = {dev_read, dev_write};

struct fx {
    struct test_platform tp;
    struct vmc_bus *bus;
};

static int setup(void **state)
{
    struct fx *f = calloc(1, sizeof(*f));
    test_platform_init(&f->tp);
    assert_int_equal(vmc_bus_create(&f->tp.pf, "port", 0x10000, &f->bus), VMC_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fx *f = *state;
    vmc_bus_destroy(f->bus);
    test_platform_check(&f->tp);
    free(f);
    return 0;
}

static void unclaimed_reads_ones(void **state)
{
    struct fx *f = *state;
    uint64_t v = 0;

    assert_false(vmc_bus_read(f->bus, 0x80, 1, &v));
    assert_int_equal(v, 0xff);
    assert_false(vmc_bus_read(f->bus, 0xffff, 4, &v));
    assert_int_equal(v, 0xffffffff);
    assert_false(vmc_bus_read(f->bus, UINT64_MAX - 3, 8, &v)); /* wraps: still ones */
    assert_int_equal(v, UINT64_MAX);
    assert_false(vmc_bus_write(f->bus, 0x80, 4, 1));
}

static void offsets_are_relative(void **state)
{
    struct fx *f = *state;
    struct dev d = {{0}, 0, 0, 0, 0};
    uint64_t v;

    assert_int_equal(vmc_bus_attach(f->bus, 0x3f8, 8, &ops, &d, NULL), VMC_OK);
    assert_true(vmc_bus_write(f->bus, 0x3fb, 1, 0x1234));
    assert_int_equal(d.last_offset, 3);
    assert_int_equal(d.mem[3], 0x34);
    assert_int_equal(d.mem[4], 0);
    assert_true(vmc_bus_read(f->bus, 0x3f8, 4, &v));
    assert_int_equal(v, 0x34000000);
    assert_true(vmc_bus_read(f->bus, 0x3f8, 8, &v));
    assert_int_equal(d.last_bytes, 8);
}

static void accesses_split_at_range_ends(void **state)
{
    struct fx *f = *state;
    struct dev a = {{0}, 0, 0, 0, 0}, b = a;
    uint64_t v;

    assert_int_equal(vmc_bus_attach(f->bus, 0x100, 2, &ops, &a, NULL), VMC_OK);
    assert_int_equal(vmc_bus_attach(f->bus, 0x103, 1, &ops, &b, NULL), VMC_OK);
    assert_true(vmc_bus_write(f->bus, 0x100, 4, 0x44332211));
    assert_int_equal(a.mem[0], 0x11);
    assert_int_equal(a.mem[1], 0x22);
    assert_int_equal(b.mem[0], 0x44);
    assert_int_equal(a.writes + b.writes, 2);
    assert_true(vmc_bus_read(f->bus, 0x100, 4, &v));
    assert_int_equal(v, 0x44ff2211); /* the hole floats */
    assert_true(vmc_bus_read(f->bus, 0xff, 2, &v)); /* only the second byte is claimed */
    assert_int_equal(v, 0x11ff);
}

static void overlap_and_limits_are_refused(void **state)
{
    struct fx *f = *state;
    struct dev d;
    struct vmc_error err;
    static const struct vmc_bus_ops incomplete = {dev_read, NULL};

    assert_int_equal(vmc_bus_attach(f->bus, 0x100, 0x10, &ops, &d, &err), VMC_OK);
    assert_int_equal(vmc_bus_attach(f->bus, 0x10f, 1, &ops, &d, &err), VMC_EEXIST);
    assert_non_null(strstr(err.text, "0x100-0x10f"));
    assert_int_equal(vmc_bus_attach(f->bus, 0xf0, 0x11, &ops, &d, &err), VMC_EEXIST);
    assert_int_equal(vmc_bus_attach(f->bus, 0, 0x10000, &ops, &d, &err), VMC_EEXIST);
    assert_int_equal(vmc_bus_attach(f->bus, 0xf0, 0x10, &ops, &d, &err), VMC_OK);
    assert_int_equal(vmc_bus_attach(f->bus, 0x110, 0, &ops, &d, &err), VMC_ERANGE);
    assert_int_equal(vmc_bus_attach(f->bus, 0xffff, 2, &ops, &d, &err), VMC_ERANGE);
    assert_int_equal(vmc_bus_attach(f->bus, 2, UINT64_MAX, &ops, &d, &err), VMC_ERANGE);
    assert_int_equal(vmc_bus_attach(f->bus, 0x300, 1, &incomplete, &d, &err), VMC_EINVAL);
    assert_int_equal(vmc_bus_detach(f->bus, 0x101), VMC_ENOENT);
    assert_int_equal(vmc_bus_detach(f->bus, 0x100), VMC_OK);
    assert_int_equal(vmc_bus_detach(f->bus, 0x100), VMC_ENOENT);
    assert_int_equal(vmc_bus_attach(f->bus, 0x100, 0x20, &ops, &d, &err), VMC_OK);
}

static void a_full_bus_says_so(void **state)
{
    struct fx *f = *state;
    struct dev d;

    /* from the top down, so that every insertion moves entries */
    for (unsigned i = VMC_BUS_MAX_RANGES; i-- > 0;)
        assert_int_equal(vmc_bus_attach(f->bus, i * 4, 2, &ops, &d, NULL), VMC_OK);
    assert_int_equal(vmc_bus_attach(f->bus, 0xf000, 2, &ops, &d, NULL), VMC_ELIMIT);
    assert_int_equal(vmc_bus_detach(f->bus, 4 * 100), VMC_OK);
    assert_int_equal(vmc_bus_attach(f->bus, 0xf000, 2, &ops, &d, NULL), VMC_OK);
}

/* ---- detach against running handlers ------------------------------------------------------- */

struct gate {
    struct vmc_bus *bus;
    uint32_t stop;
    uint32_t alive; /* the device of the moving range exists */
    uint32_t broken;
    uint32_t hits;
};

static uint64_t gate_read(void *d, uint64_t offset, unsigned bytes)
{
    struct gate *g = d;
    (void)offset;
    (void)bytes;
    if (!__atomic_load_n(&g->alive, __ATOMIC_ACQUIRE))
        __atomic_store_n(&g->broken, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&g->hits, 1, __ATOMIC_RELAXED);
    return 0x5a;
}

static void gate_write(void *d, uint64_t offset, unsigned bytes, uint64_t v)
{
    (void)v;
    (void)gate_read(d, offset, bytes);
}

static const struct vmc_bus_ops gate_ops = {gate_read, gate_write};

static void *reader(void *arg)
{
    struct gate *g = arg;
    uint64_t v;

    while (!__atomic_load_n(&g->stop, __ATOMIC_ACQUIRE)) {
        (void)vmc_bus_read(g->bus, 0x1000, 4, &v);
        (void)vmc_bus_write(g->bus, 0x1002, 2, v);
        /* a fixed neighbour is always found, whatever moves around it */
        if (!vmc_bus_read(g->bus, 0x2000, 1, &v) || v != 0x5a)
            __atomic_store_n(&g->broken, 2, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void detach_waits_for_handlers(void **state)
{
    (void)state;
    struct test_platform tp;
    struct gate moving = {0}, fixed = {.alive = 1};
    pthread_t th[2];

    test_platform_init_threads(&tp);
    assert_int_equal(vmc_bus_create(&tp.pf, "memory", 1ull << 40, &moving.bus), VMC_OK);
    assert_int_equal(vmc_bus_attach(moving.bus, 0x2000, 4, &gate_ops, &fixed, NULL), VMC_OK);
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&th[i], NULL, reader, &moving);
    /* On a busy machine the readers may not have run yet: go on until one has. */
    for (unsigned i = 0; i < 2000 || (i < 5000000 && __atomic_load_n(&fixed.hits, __ATOMIC_RELAXED) == 0); i++) {
        __atomic_store_n(&moving.alive, 1, __ATOMIC_RELEASE);
        assert_int_equal(vmc_bus_attach(moving.bus, 0x1000, 4, &gate_ops, &moving, NULL), VMC_OK);
        assert_int_equal(vmc_bus_detach(moving.bus, 0x1000), VMC_OK);
        __atomic_store_n(&moving.alive, 0, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&moving.stop, 1, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(th[i], NULL);
    assert_int_equal(moving.broken, 0);
    assert_true(fixed.hits > 0);
    vmc_bus_destroy(moving.bus);
    test_platform_check(&tp);
}

/* ---- board --------------------------------------------------------------------------------- */

struct toy {
    struct vmc_device d;
    unsigned resets, resumes, *order, destroyed_at;
    int quiesce;
};

static void toy_reset(void *t)
{
    ((struct toy *)t)->resets++;
}
static int toy_quiesce(void *t)
{
    return ((struct toy *)t)->quiesce;
}
static void toy_resume(void *t)
{
    ((struct toy *)t)->resumes++;
}
static void toy_destroy(void *t)
{
    struct toy *toy = t;
    toy->destroyed_at = ++*toy->order;
}

static const struct vmc_device_ops toy_ops = {
    .name = "toy", .reset = toy_reset, .quiesce = toy_quiesce, .resume = toy_resume,
    .destroy = toy_destroy};
static const struct vmc_device_ops bare_ops = {.name = "bare"};

static void board_walks_its_devices(void **state)
{
    (void)state;
    struct vmc_board bd = {0};
    unsigned order = 0;
    struct toy a = {.d = {.ops = &toy_ops, .dev = &a}, .order = &order};
    struct toy b = {.d = {.ops = &toy_ops, .dev = &b}, .order = &order, .quiesce = VMC_EAGAIN};
    struct toy c = {.d = {.ops = &bare_ops, .dev = &c}};

    vmc_board_add(&bd, &a.d);
    vmc_board_add(&bd, &c.d);
    vmc_board_add(&bd, &b.d);
    assert_int_equal(a.d.instance, 0);
    assert_int_equal(c.d.instance, 0);
    assert_int_equal(b.d.instance, 1);
    vmc_board_reset(&bd);
    assert_int_equal(a.resets + b.resets, 2);
    assert_int_equal(vmc_board_quiesce(&bd), VMC_EAGAIN);
    b.quiesce = VMC_OK;
    assert_int_equal(vmc_board_quiesce(&bd), VMC_OK);
    vmc_board_resume(&bd);
    assert_int_equal(a.resumes + b.resumes, 2);
    vmc_board_remove(&bd, &c.d);
    assert_ptr_equal(a.d.next, &b.d);
    vmc_board_destroy_devices(&bd);
    assert_int_equal(b.destroyed_at, 1); /* last first */
    assert_int_equal(a.destroyed_at, 2);
    assert_null(bd.devices);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(unclaimed_reads_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(offsets_are_relative, setup, teardown),
        cmocka_unit_test_setup_teardown(accesses_split_at_range_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(overlap_and_limits_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_bus_says_so, setup, teardown),
        cmocka_unit_test(detach_waits_for_handlers),
        cmocka_unit_test(board_walks_its_devices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
