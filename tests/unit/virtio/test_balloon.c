/* SPDX-License-Identifier: BSD-2-Clause */
/* Balloon device: pages in and out, statistics, hints, reports, and drivers that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "space_rig.h"
#include "virtio_driver.h"
#include <vmcore/virtio_balloon.h>

#define F_TELL   (1ull << 0)
#define F_STATS  (1ull << 1)
#define F_OOM    (1ull << 2)
#define F_HINT   (1ull << 3)
#define F_POISON (1ull << 4)
#define F_REPORT (1ull << 5)
#define ALL      (F_TELL | F_STATS | F_OOM | F_HINT | F_POISON | F_REPORT)

struct range {
    char what; /* i, d, r, h */
    uint64_t gpa, bytes;
};

struct bal_rig {
    struct vd_board b;
    struct vmc_virtio *dev;
    struct vd v;
    struct range log[64];
    unsigned n, hints_done, stats_calls;
    uint64_t actual;
    struct vmc_balloon_stats stats;
};

static void note(struct bal_rig *r, char what, uint64_t gpa, uint64_t bytes)
{
    if (r->n < 64)
        r->log[r->n++] = (struct range){what, gpa, bytes};
}

static void on_inflate(void *ctx, uint64_t gpa, uint64_t bytes)
{
    note(ctx, 'i', gpa, bytes);
}
static void on_deflate(void *ctx, uint64_t gpa, uint64_t bytes)
{
    note(ctx, 'd', gpa, bytes);
}
static void on_report(void *ctx, uint64_t gpa, uint64_t bytes)
{
    note(ctx, 'r', gpa, bytes);
}
static void on_hint(void *ctx, uint64_t gpa, uint64_t bytes)
{
    note(ctx, 'h', gpa, bytes);
}
static void on_hint_done(void *ctx)
{
    ((struct bal_rig *)ctx)->hints_done++;
}
static void on_stats(void *ctx, const struct vmc_balloon_stats *st)
{
    struct bal_rig *r = ctx;
    r->stats_calls++;
    r->stats = *st;
}
static void on_actual(void *ctx, uint64_t pages)
{
    ((struct bal_rig *)ctx)->actual = pages;
}

static const struct vmc_balloon_ops ops = {
    .inflate = on_inflate,
    .deflate = on_deflate,
    .report = on_report,
    .hint = on_hint,
    .hint_done = on_hint_done,
    .stats = on_stats,
    .actual = on_actual,
};

static void create(struct bal_rig *r)
{
    memset(r, 0, sizeof(*r));
    vd_board_init(&r->b, false);
    const struct vmc_virtio_balloon_config cfg = {
        .virtio = {.size = sizeof(cfg.virtio),
                   .pci = r->b.pci,
                   .slot = VMC_PCI_ANY_SLOT,
                   .queue_size = 128},
        .ops = &ops,
        .ctx = r,
        .deflate_on_oom = true,
        .free_page_reporting = true,
        .free_page_hinting = true,
    };
    assert_int_equal(vmc_virtio_balloon_create(&r->b.bd, &cfg, &r->dev, NULL), VMC_OK);
    assert_true(vd_probe(&r->v, &r->b, r->dev, true));
}

static void open_rig(struct bal_rig *r, uint64_t features)
{
    create(r);
    assert_true(vd_start(&r->v, features, 5));
}

static void close_rig(struct bal_rig *r)
{
    vd_board_fini(&r->b);
    test_platform_check(&r->b.tp);
}

static void pages(struct bal_rig *r, unsigned queue, const uint32_t *pfn, unsigned n)
{
    unsigned id;
    uint32_t len;
    memcpy(vd_ptr(&r->b, VD_HEAP), pfn, n * 4);
    const struct vd_buf b = {VD_HEAP, n * 4, false};
    (void)vd_add(&r->v, queue, &b, 1, 0);
    vd_kick(&r->v, queue);
    assert_true(vd_pop(&r->v, queue, &id, &len));
}

static struct vmc_balloon_info info(struct bal_rig *r)
{
    struct vmc_balloon_info i;
    vmc_virtio_balloon_info(r->dev, &i);
    return i;
}

static void expect(struct bal_rig *r, unsigned i, char what, uint64_t page, uint64_t count)
{
    assert_true(i < r->n);
    assert_int_equal(r->log[i].what, what);
    assert_int_equal(r->log[i].gpa, page * 4096);
    assert_int_equal(r->log[i].bytes, count * 4096);
}

static void pages_are_given_up_in_ranges_and_taken_back(void **state)
{
    (void)state;
    struct bal_rig r;
    open_rig(&r, ALL);
    const uint32_t up[] = {0x800, 0x801, 0x802, 0x900, 0x7ff};
    const uint32_t down[] = {0x803, 0xa03, 0xa02, 0xa01, 0xa00};
    pages(&r, 0, up, 5);
    assert_int_equal(r.n, 3);
    expect(&r, 0, 'i', 0x800, 3);
    expect(&r, 1, 'i', 0x900, 1);
    expect(&r, 2, 'i', 0x7ff, 1);
    pages(&r, 0, down, 5);
    expect(&r, 3, 'i', 0x803, 1);
    expect(&r, 4, 'i', 0xa00, 4);
    assert_int_equal(info(&r).held_pages, 10);
    pages(&r, 1, down, 5);
    expect(&r, 5, 'd', 0x803, 1);
    expect(&r, 6, 'd', 0xa00, 4);
    assert_int_equal(info(&r).held_pages, 5);
    assert_int_equal(info(&r).rejected, 0);
    /* ranges never cross memory slots */
    const uint32_t edge[] = {VD_RAM_BYTES / 4096 - 1, VD_RAM_BYTES / 4096};
    r.n = 0;
    pages(&r, 0, edge, 2);
    assert_int_equal(r.n, 2);
    close_rig(&r);
}

static void lies_about_pages_reach_nobody(void **state)
{
    (void)state;
    struct bal_rig r;
    open_rig(&r, ALL);
    const uint32_t twice[] = {0x800, 0x800};
    const uint32_t outside[] = {VD_RAM_END / 4096, VD_ROM / 4096, 0xffffffff, 0x80000000};
    const uint32_t never[] = {0x900};
    pages(&r, 0, twice, 2);
    assert_int_equal(r.n, 1);
    pages(&r, 0, outside, 4);
    pages(&r, 1, outside, 4);
    pages(&r, 1, never, 1);
    assert_int_equal(r.n, 1);
    assert_int_equal(info(&r).held_pages, 1);
    assert_int_equal(info(&r).rejected, 1 + 4 + 4 + 1);
    pages(&r, 1, twice, 2);
    expect(&r, 1, 'd', 0x800, 1);
    assert_int_equal(r.n, 2);
    assert_int_equal(info(&r).held_pages, 0);
    assert_int_equal(vd_status(&r.v), 0xf);
    close_rig(&r);
}

static void a_new_driver_gets_all_its_pages_back(void **state)
{
    (void)state;
    struct bal_rig r;
    open_rig(&r, ALL);
    const uint32_t pfn[] = {0x800, 0x801, 0xa00};
    pages(&r, 0, pfn, 3);
    r.n = 0;
    vd_reset(&r.v);
    assert_int_equal(r.n, 2);
    expect(&r, 0, 'd', 0x800, 2);
    expect(&r, 1, 'd', 0xa00, 1);
    assert_int_equal(info(&r).held_pages, 0);
    close_rig(&r);
}

static void targets_reach_the_driver(void **state)
{
    (void)state;
    struct bal_rig r;
    open_rig(&r, ALL);
    vmc_virtio_balloon_set_target(r.dev, 1000);
    assert_int_equal(vd_read(&r.v, r.v.config, 4), 1000);
    assert_int_equal(r.b.msi[0], 1);
    vmc_virtio_balloon_set_target(r.dev, 1000);
    assert_int_equal(r.b.msi[0], 1);
    vd_write(&r.v, r.v.config + 4, 4, 990);
    assert_int_equal(r.actual, 990);
    assert_int_equal(info(&r).actual_pages, 990);
    vmc_virtio_balloon_set_target(r.dev, UINT64_MAX); /* no more than there is */
    assert_int_equal(vd_read(&r.v, r.v.config, 4), VD_RAM_END / 4096);
    vd_write(&r.v, r.v.config, 4, 5); /* not the driver's to write */
    assert_int_equal(vd_read(&r.v, r.v.config, 4), VD_RAM_END / 4096);
    close_rig(&r);
}

static void put_stat(unsigned char *p, unsigned i, uint16_t tag, uint64_t value)
{
    memcpy(p + 10 * i, &tag, 2);
    memcpy(p + 10 * i + 2, &value, 8);
}

static void statistics_come_on_request(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        struct bal_rig r;
        struct vmc_balloon_stats st;
        unsigned id;
        uint32_t len;
        open_rig(&r, ALL | VD_F_EVENT_IDX | (packed ? VD_F_PACKED : 0));
        unsigned char *p = vd_ptr(&r.b, VD_HEAP);
        put_stat(p, 0, VMC_BALLOON_FREE, 12345);
        put_stat(p, 1, 999, 1); /* a tag of the future */
        const struct vd_buf b = {VD_HEAP, 20, false};
        (void)vd_add(&r.v, 2, &b, 1, 0); /* the driver's first buffer */
        vd_kick(&r.v, 2);
        assert_false(vd_pop(&r.v, 2, &id, &len)); /* kept in the ring */
        for (unsigned i = 0; i < 150; i++) {
            r.b.tp.now_ns += 1000;
            assert_int_equal(vmc_virtio_balloon_request_stats(r.dev), VMC_OK);
            assert_int_equal(vmc_virtio_balloon_request_stats(r.dev), VMC_EAGAIN);
            assert_false(vd_pop(&r.v, 2, &id, &len)); /* guest memory is left alone until then */
            vmc_timerq_advance(r.b.bd.timers, r.b.tp.now_ns);
            assert_true(vd_pop(&r.v, 2, &id, &len));
            put_stat(p, 0, VMC_BALLOON_FREE, i);
            put_stat(p, 1, VMC_BALLOON_TOTAL, 1 << 20);
            (void)vd_add(&r.v, 2, &b, 1, 0);
            assert_true(vd_wants_kick(&r.v, 2));
            vd_kick(&r.v, 2);
            assert_int_equal(r.stats_calls, i + 1);
            assert_int_equal(r.stats.value[VMC_BALLOON_FREE], i);
        }
        vmc_virtio_balloon_stats(r.dev, &st);
        assert_int_equal(st.valid, 1u << VMC_BALLOON_FREE | 1u << VMC_BALLOON_TOTAL);
        assert_int_equal(st.when_ns, r.b.tp.now_ns);
        vd_reset(&r.v);
        assert_int_equal(vmc_virtio_balloon_request_stats(r.dev), VMC_ENOTSUP);
        close_rig(&r);
    }
}

static void report(struct bal_rig *r, unsigned queue)
{
    unsigned id;
    uint32_t len;
    const struct vd_buf b[2] = {{0x800000, 0x200000, true}, {0xa00000 + 100, 0x3000, true}};
    (void)vd_add(&r->v, queue, b, 2, 0);
    vd_kick(&r->v, queue);
    assert_true(vd_pop(&r->v, queue, &id, &len));
    assert_int_equal(len, 0);
}

static void free_pages_are_reported(void **state)
{
    (void)state;
    struct bal_rig r;
    open_rig(&r, ALL);
    report(&r, 4);
    assert_int_equal(r.n, 2);
    expect(&r, 0, 'r', 0x800, 0x200);
    expect(&r, 1, 'r', 0xa01, 2); /* whole pages only */
    assert_int_equal(info(&r).reported_bytes, 0x202000);
    vd_write(&r.v, r.v.config + 12, 4, 0xaa); /* pages must read back as poison: kept */
    report(&r, 4);
    assert_int_equal(r.n, 2);
    close_rig(&r);
}

static void command(struct bal_rig *r, uint32_t id)
{
    unsigned used;
    uint32_t len;
    memcpy(vd_ptr(&r->b, VD_HEAP), &id, 4);
    const struct vd_buf b = {VD_HEAP, 4, false};
    (void)vd_add(&r->v, 3, &b, 1, 0);
    vd_kick(&r->v, 3);
    assert_true(vd_pop(&r->v, 3, &used, &len));
}

#define PAGED_GPA 0x40000000ull

/* A report of pages whose frames are scattered, most of them zero, while no frame is free. */
static void reported_pages_of_a_space_lose_their_memory(void **state)
{
    (void)state;
    struct bal_rig r = {0};
    vd_board_init(&r.b, false);
    struct vmc_pool *pool = rig_pool(&r.b.tp, 302);
    struct vmc_space *space;
    const struct vmc_space_config sc = {.size = sizeof(sc),
                                        .pages = 1024,
                                        .provider = vmc_mem_provider(),
                                        .provider_ctx = r.b.bd.mem};
    assert_int_equal(vmc_space_create(pool, &sc, &space, NULL), VMC_OK);
    const struct vmc_mem_slot slot = {.size = sizeof(slot),
                                      .attr = VMC_MEM_RAM,
                                      .gpa = PAGED_GPA,
                                      .bytes = 1024 * 4096,
                                      .space = space};
    assert_int_equal(vmc_mem_add(r.b.bd.mem, &slot, NULL), VMC_OK);
    for (unsigned i = 0; i < 300; i++)
        rig_fill(space, (i * 7) % 1024, i + 1);
    assert_int_equal(vmc_pool_free(pool), 1);
    const struct vmc_virtio_balloon_config cfg = {
        .virtio = {.size = sizeof(cfg.virtio), .pci = r.b.pci, .slot = VMC_PCI_ANY_SLOT},
        .ops = vmc_virtio_balloon_space_ops(),
        .ctx = r.b.bd.mem,
        .free_page_reporting = true,
        .free_page_hinting = true,
    };
    assert_int_equal(vmc_virtio_balloon_create(&r.b.bd, &cfg, &r.dev, NULL), VMC_OK);
    assert_true(vd_probe(&r.v, &r.b, r.dev, true));
    assert_true(vd_start(&r.v, ALL, 5));

    const struct vd_buf all = {PAGED_GPA, 1024 * 4096, true};
    unsigned id;
    uint32_t len;
    (void)vd_add(&r.v, 4, &all, 1, 0);
    vd_kick(&r.v, 4);
    assert_true(vd_pop(&r.v, 4, &id, &len));
    assert_int_equal(info(&r).reported_bytes, 1024 * 4096);
    assert_int_equal(vmc_pool_free(pool), 301);
    for (unsigned i = 0; i < 1024; i++)
        rig_expect(space, i, 0);

    rig_fill(space, 5, 5); /* a hint says nothing to a space: the page stays */
    assert_int_equal(vmc_virtio_balloon_hint_start(r.dev), VMC_OK);
    command(&r, (uint32_t)vd_read(&r.v, r.v.config + 8, 4));
    (void)vd_add(&r.v, 3, &all, 1, 0);
    vd_kick(&r.v, 3);
    assert_true(vd_pop(&r.v, 3, &id, &len));
    assert_int_equal(info(&r).hinted_bytes, 1024 * 4096);
    assert_int_equal(vmc_pool_free(pool), 300);
    rig_expect(space, 5, 5);

    const struct vd_buf beyond = {PAGED_GPA + 512 * 4096, 1024 * 4096, true};
    (void)vd_add(&r.v, 4, &beyond, 1, 0); /* runs out of memory: answered, not used */
    vd_kick(&r.v, 4);
    assert_true(vd_pop(&r.v, 4, &id, &len));
    assert_int_equal(info(&r).reported_bytes, 1024 * 4096);
    vd_board_fini(&r.b);
    vmc_space_destroy(space);
    vmc_pool_destroy(pool);
    test_platform_check(&r.b.tp);
}

/* Older drivers number the queues of what they use without a gap. */
static void queue_numbers_without_gaps_are_understood(void **state)
{
    (void)state;
    struct bal_rig r;
    create(&r);
    assert_true(vd_start(&r.v, F_TELL | F_STATS | F_REPORT, 4)); /* no hints: report is queue 3 */
    report(&r, 3);
    assert_int_equal(r.n, 2);
    assert_int_equal(r.log[0].what, 'r');
    close_rig(&r);
    create(&r);
    assert_true(vd_negotiate(&r.v, VD_F_VERSION_1 | F_TELL | F_REPORT));
    vd_queue_setup(&r.v, 0, 0);
    vd_queue_setup(&r.v, 1, 0);
    vd_queue_setup(&r.v, 4, 0); /* by the book */
    vd_driver_ok(&r.v);
    report(&r, 4);
    assert_int_equal(r.n, 2);
    close_rig(&r);
    create(&r);
    assert_true(vd_start(&r.v, F_TELL | F_REPORT, 3));
    report(&r, 2);
    assert_int_equal(r.n, 2);
    close_rig(&r);
}

static void hints_belong_to_their_round(void **state)
{
    (void)state;
    struct bal_rig r;
    open_rig(&r, ALL);
    report(&r, 3); /* nobody asked */
    assert_int_equal(r.n, 0);
    assert_int_equal(vmc_virtio_balloon_hint_start(r.dev), VMC_OK);
    uint32_t id = (uint32_t)vd_read(&r.v, r.v.config + 8, 4);
    assert_true(id >= 2);
    assert_int_equal(r.b.msi[0], 1);
    command(&r, id + 1); /* a round that does not exist */
    report(&r, 3);
    assert_int_equal(r.n, 0);
    command(&r, id);
    report(&r, 3);
    assert_int_equal(r.n, 2);
    assert_int_equal(r.log[0].what, 'h');
    command(&r, 0); /* all hinted */
    assert_int_equal(r.hints_done, 1);
    report(&r, 3);
    assert_int_equal(r.n, 2);
    vmc_virtio_balloon_hint_release(r.dev);
    assert_int_equal(vd_read(&r.v, r.v.config + 8, 4), 1);
    assert_int_equal(vmc_virtio_balloon_hint_start(r.dev), VMC_OK);
    assert_int_equal(vd_read(&r.v, r.v.config + 8, 4), id + 1); /* never the old one again */
    vmc_virtio_balloon_hint_stop(r.dev);
    assert_int_equal(vd_read(&r.v, r.v.config + 8, 4), 0);
    close_rig(&r);
}

static void state_survives_a_save(void **state)
{
    (void)state;
    static unsigned char buf[65536];
    struct bal_rig a;
    struct bal_rig b;
    open_rig(&a, ALL);
    const uint32_t pfn[] = {0x800, 0x801, 0xa00};
    pages(&a, 0, pfn, 3);
    vmc_virtio_balloon_set_target(a.dev, 77);
    assert_int_equal(vmc_board_quiesce(&a.b.bd), VMC_OK);
    struct vmc_device *d = a.b.bd.devices->next;
    size_t n = d->ops->save(d->dev, buf, sizeof(buf));
    assert_true(n <= sizeof(buf));
    create(&b);
    memcpy(b.b.ram, a.b.ram, VD_RAM_BYTES);
    assert_int_equal(vmc_board_quiesce(&b.b.bd), VMC_OK);
    d = b.b.bd.devices->next;
    assert_int_equal(d->ops->load(d->dev, buf, n, NULL), VMC_OK);
    vmc_board_resume(&b.b.bd);
    assert_int_equal(info(&b).held_pages, 3);
    assert_int_equal(info(&b).target_pages, 77);
    struct vmc_virtio *dev = b.v.dev;
    b.v = a.v;
    b.v.b = &b.b;
    b.v.dev = dev;
    pages(&b, 1, pfn, 3);
    assert_int_equal(info(&b).held_pages, 0);
    close_rig(&a);
    close_rig(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_given_up_in_ranges_and_taken_back),
        cmocka_unit_test(lies_about_pages_reach_nobody),
        cmocka_unit_test(a_new_driver_gets_all_its_pages_back),
        cmocka_unit_test(targets_reach_the_driver),
        cmocka_unit_test(statistics_come_on_request),
        cmocka_unit_test(free_pages_are_reported),
        cmocka_unit_test(reported_pages_of_a_space_lose_their_memory),
        cmocka_unit_test(queue_numbers_without_gaps_are_understood),
        cmocka_unit_test(hints_belong_to_their_round),
        cmocka_unit_test(state_survives_a_save),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
