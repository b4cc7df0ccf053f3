/* SPDX-License-Identifier: BSD-2-Clause */
/* Pools and spaces: access, copy on write, pins, balloons, limits. */
#include "space_rig.h"

static struct test_platform tp;
static struct vmc_pool *pool;

static int setup(void **state)
{
    (void)state;
    test_platform_init(&tp);
    pool = rig_pool(&tp, 4096);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vmc_pool_destroy(pool);
    test_platform_check(&tp);
    return 0;
}

static void pages_begin_as_zero_without_memory(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 1000, 0, NULL);
    uint64_t before = vmc_pool_free(pool);

    for (uint64_t i = 0; i < 1000; i++)
        rig_expect(s, i, 0);
    assert_int_equal(vmc_pool_free(pool), before);
    rig_fill(s, 7, 42);
    assert_int_equal(vmc_pool_free(pool), before - 1);
    rig_expect(s, 7, 42);
    rig_expect(s, 6, 0);
    assert_int_equal(vmc_space_state(s, 7), VMC_PAGE_PRIVATE);
    assert_int_equal(vmc_space_state(s, 6), VMC_PAGE_ZERO);
    rig_check(pool);
    vmc_space_destroy(s);
    assert_int_equal(vmc_pool_free(pool), before);
}

static void configurations_are_checked(void **state)
{
    (void)state;
    struct vmc_pool_config pc = {.size = sizeof(pc), .frames = 4};
    struct vmc_space_config sc = {.size = sizeof(sc), .pages = 0};
    struct vmc_pool *p = NULL;
    struct vmc_space *s = NULL;
    struct vmc_error err;

    assert_int_equal(vmc_pool_create(&tp.pf, &pc, &p, &err), VMC_ELIMIT);
    pc.frames = 64;
    pc.size = 3;
    assert_int_equal(vmc_pool_create(&tp.pf, &pc, &p, &err), VMC_EINVAL);
    assert_int_equal(vmc_space_create(pool, &sc, &s, &err), VMC_ELIMIT);
    sc.pages = 8 * 4096 + 4096 * 8;
    assert_int_equal(vmc_space_create(pool, &sc, &s, &err), VMC_ELIMIT);
    assert_non_null(strstr(err.text, "no room"));
    sc.pages = 1;
    sc.flags = 0x80;
    assert_int_equal(vmc_space_create(pool, &sc, &s, &err), VMC_EINVAL);
    struct vmc_page_ref r;
    s = rig_space(pool, 10, 0, NULL);
    assert_int_equal(vmc_space_access(s, 10, 0, &r), VMC_ERANGE);
    assert_int_equal(vmc_space_pin(s, UINT64_MAX, 0, &r), VMC_ERANGE);
    assert_int_equal(vmc_space_read(s, 0, 4095, &r, 2, 0), VMC_ERANGE);
    assert_int_equal(vmc_space_drop(s, 5, 6, true), 0);
    assert_int_equal(vmc_space_drop(s, UINT64_MAX, 2, true), 0);
    vmc_space_destroy(s);
}

static void running_out_of_frames_is_reported(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 8192, 0, NULL);
    struct vmc_page_ref r;

    vmc_pool_set_budget(pool, 100);
    for (uint64_t i = 0; i < 99; i++)
        rig_fill(s, i, i + 1);
    assert_int_equal(vmc_space_access(s, 99, VMC_ACCESS_WRITE, &r), VMC_ENOSPC);
    assert_int_equal(vmc_space_access(s, 99, 0, &r), VMC_OK); /* zero needs none */
    assert_int_equal(vmc_space_drop(s, 0, 1, true), 1);
    assert_int_equal(vmc_space_access(s, 99, VMC_ACCESS_WRITE, &r), VMC_OK);
    rig_check(pool);
    vmc_space_destroy(s);
}

/* What a VM gave up never shows up in another one. */
static void freed_pages_are_zero_for_the_next(void **state)
{
    (void)state;
    struct vmc_space *a = rig_space(pool, 4000, 1, NULL);
    struct vmc_space *b = rig_space(pool, 4000, 2, NULL);
    struct vmc_page_ref r;

    for (unsigned round = 0; round < 3; round++) {
        for (uint64_t i = 0; i < 4000; i++)
            rig_fill(a, i, 0x5ec4e7);
        assert_int_equal(vmc_space_drop(a, 0, 4000, round & 1), 4000);
        for (uint64_t i = 0; i < 4000; i++) {
            assert_int_equal(vmc_space_access(b, i, VMC_ACCESS_WRITE, &r), VMC_OK);
            for (unsigned k = 0; k < VMC_PAGE_SIZE; k += 8)
                assert_int_equal(*(uint64_t *)((char *)r.ptr + k), 0);
        }
        assert_int_equal(vmc_space_drop(b, 0, 4000, true), 4000);
        vmc_space_return(a, 0, 4000);
    }
    vmc_space_destroy(a);
    vmc_space_destroy(b);
}

static void balloons_read_as_zero_even_when_the_guest_lies(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 100, 0, NULL);
    struct vmc_space_stats st;

    rig_fill(s, 5, 9);
    assert_int_equal(vmc_space_drop(s, 0, 100, true), 100);
    vmc_space_stats(s, &st);
    assert_int_equal(st.state[VMC_PAGE_BALLOON], 100);
    rig_expect(s, 5, 0);
    assert_int_equal(vmc_space_state(s, 5), VMC_PAGE_BALLOON);
    rig_fill(s, 5, 10); /* used without having been taken back */
    rig_expect(s, 5, 10);
    vmc_space_return(s, 0, 100);
    rig_expect(s, 5, 10);
    assert_int_equal(vmc_space_state(s, 6), VMC_PAGE_ZERO);
    vmc_space_return(s, 50, 1000); /* out of range: ignored */
    vmc_space_destroy(s);
}

static void pinned_pages_stay(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 100, 0, NULL);
    struct vmc_page_ref r;

    rig_fill(s, 3, 77);
    rig_sample(s, NULL);
    assert_int_equal(vmc_space_pin(s, 3, 0, &r), VMC_OK);
    assert_int_equal(vmc_space_drop(s, 0, 10, true), 9);
    assert_int_equal(vmc_space_state(s, 3), VMC_PAGE_PRIVATE);
    rig_expect(s, 3, 77);
    vmc_space_unpin(s, 3, false);
    rig_sample(s, NULL);
    assert_int_equal(vmc_space_drop(s, 0, 10, true), 10);
    rig_expect(s, 3, 0);
    vmc_space_destroy(s);
}

static void copies_see_what_pointers_see(void **state)
{
    (void)state;
    struct vmc_space *s = rig_space(pool, 10, 0, NULL);
    uint64_t v = 0;

    assert_int_equal(vmc_space_read(s, 1, 8, &v, 8, 0), VMC_OK);
    assert_int_equal(v, 0);
    assert_int_equal(vmc_space_state(s, 1), VMC_PAGE_ZERO);
    v = 0x1122334455667788;
    assert_int_equal(vmc_space_write(s, 1, 4088, &v, 8, 0), VMC_OK);
    struct vmc_page_ref r;
    assert_int_equal(vmc_space_access(s, 1, 0, &r), VMC_OK);
    assert_memory_equal((char *)r.ptr + 4088, &v, 8);
    v = 0;
    assert_int_equal(vmc_space_read(s, 1, 4088, &v, 8, 0), VMC_OK);
    assert_int_equal(v, 0x1122334455667788);
    vmc_space_destroy(s);
}

/* A vCPU that has read a zero page must let go before another one's write becomes visible. */
static void writes_wait_for_readers_of_the_old_contents(void **state)
{
    (void)state;
    struct rig_provider rp = {0};
    struct vmc_space *s = rig_space(pool, 100, 0, &rp);
    struct vmc_page_ref r;

    rig_expect(s, 9, 0);
    assert_int_equal(vmc_space_access(s, 9, VMC_ACCESS_WRITE, &r), VMC_EAGAIN);
    assert_int_equal(rp.first, 9);
    assert_int_equal(rp.count, 1);
    assert_int_equal(vmc_space_access(s, 9, 0, &r), VMC_EAGAIN); /* readers wait, too */
    assert_int_equal(vmc_space_access(s, 9, VMC_ACCESS_WRITE, &r), VMC_EAGAIN);
    assert_int_equal(rp.revokes, 1);
    rp.settled_to = rp.ticket;
    assert_int_equal(vmc_space_access(s, 9, VMC_ACCESS_WRITE, &r), VMC_OK);
    assert_true(r.writable);
    /* Nobody has read page 10: no wait. */
    assert_int_equal(vmc_space_access(s, 10, VMC_ACCESS_WRITE, &r), VMC_OK);
    /* A reader that comes when the way is free completes the writer's business. */
    rig_expect(s, 11, 0);
    assert_int_equal(vmc_space_access(s, 11, VMC_ACCESS_WRITE, &r), VMC_EAGAIN);
    rp.settled_to = rp.ticket;
    assert_int_equal(vmc_space_access(s, 11, 0, &r), VMC_OK);
    assert_int_equal(vmc_space_access(s, 11, VMC_ACCESS_WRITE, &r), VMC_OK);
    rig_check(pool);
    vmc_space_destroy(s);
}

/* A vCPU may take an interrupt where it waits to write, and never come back. */
static void writers_that_do_not_come_back_leave_room(void **state)
{
    (void)state;
    struct rig_provider rp = {0};
    struct vmc_space *s = rig_space(pool, 200, 0, &rp);
    struct vmc_page_ref r;

    for (uint64_t i = 0; i < VMCI_PENDING; i++) {
        rig_expect(s, i, 0);
        assert_int_equal(vmc_space_access(s, i, VMC_ACCESS_WRITE, &r), VMC_EAGAIN);
    }
    assert_int_equal(s->pending_count, VMCI_PENDING);
    rig_expect(s, 100, 0);
    assert_int_equal(vmc_space_access(s, 100, VMC_ACCESS_WRITE, &r), VMC_EAGAIN); /* no room */
    rp.settled_to = rp.ticket;
    assert_int_equal(vmc_space_access(s, 100, VMC_ACCESS_WRITE, &r), VMC_EAGAIN); /* begun */
    rp.settled_to = rp.ticket;
    assert_int_equal(vmc_space_access(s, 100, VMC_ACCESS_WRITE, &r), VMC_OK);
    for (uint64_t i = 0; i < VMCI_PENDING; i++) { /* nothing is lost for those who do */
        int rc = vmc_space_access(s, i, VMC_ACCESS_WRITE, &r);
        rp.settled_to = rp.ticket;
        if (rc == VMC_EAGAIN)
            rc = vmc_space_access(s, i, VMC_ACCESS_WRITE, &r);
        assert_int_equal(rc, VMC_OK);
    }
    assert_int_equal(s->pending_count, 0);
    rig_check(pool);
    vmc_space_destroy(s);
}

static void dropping_waits_for_pointers(void **state)
{
    (void)state;
    struct rig_provider rp = {0};
    struct vmc_space *s = rig_space(pool, 100, 0, &rp);

    rig_fill(s, 1, 5);
    assert_int_equal(vmc_space_drop(s, 0, 10, true), 0); /* never settles, no threads: given up */
    uint64_t n;
    assert_int_equal(vmc_space_sample(s, &n), VMC_EAGAIN); /* and nothing else is done either */
    rp.settled_to = rp.ticket;
    rig_expect(s, 1, 5);
    rig_sample(s, &rp);
    assert_int_equal(vmc_space_drop(s, 0, 10, true), 10);
    rig_expect(s, 1, 0);
    vmc_space_destroy(s);
}

static void samples_count_what_was_touched(void **state)
{
    (void)state;
    struct rig_provider rp = {0};
    struct vmc_space *s = rig_space(pool, 3000, 0, &rp);
    uint64_t n;

    for (uint64_t i = 0; i < 300; i++)
        rig_fill(s, i, i + 1);
    assert_int_equal(vmc_space_sample(s, &n), VMC_OK);
    assert_int_equal(n, 300);
    assert_int_equal(vmc_space_sample(s, &n), VMC_EAGAIN); /* pointers are still out */
    rp.settled_to = rp.ticket;
    for (uint64_t i = 100; i < 150; i++)
        rig_expect(s, i, i + 1);
    assert_int_equal(vmc_space_sample(s, &n), VMC_OK);
    assert_int_equal(n, 50);
    rp.settled_to = rp.ticket;
    rig_expect(s, 1, 2);
    assert_int_equal(vmc_space_sample(s, NULL), VMC_OK); /* who does not want to know */
    rp.settled_to = rp.ticket;
    assert_int_equal(vmc_space_sample(s, &n), VMC_OK);
    assert_int_equal(n, 0);
    vmc_space_destroy(s);
}

static void large_blocks_come_and_go_whole(void **state)
{
    (void)state;
    struct vmc_space_config cfg = {.size = sizeof(cfg), .pages = 2048, .flags = VMC_SPACE_LARGE};
    struct vmc_space *s = NULL;
    struct vmc_page_ref a, b;

    assert_int_equal(vmc_space_create(pool, &cfg, &s, NULL), VMC_OK);
    uint64_t before = vmc_pool_free(pool);
    rig_fill(s, 700, 3);
    assert_int_equal(vmc_pool_free(pool), before - 512);
    assert_int_equal(vmc_space_access(s, 512, VMC_ACCESS_WRITE, &a), VMC_OK);
    assert_int_equal(vmc_space_access(s, 1023, VMC_ACCESS_WRITE, &b), VMC_OK);
    assert_ptr_equal((char *)a.ptr + 511 * 4096, b.ptr);
    assert_int_equal(((uintptr_t)a.ptr - (uintptr_t)pool->base) % (2u << 20), 0);
    rig_expect(s, 700, 3);
    rig_expect(s, 701, 0);
    rig_check(pool);
    rig_sample(s, NULL);
    assert_int_equal(vmc_space_drop(s, 512, 512, true), 512);
    assert_int_equal(vmc_pool_free(pool), before);
    rig_expect(s, 700, 0);
    rig_check(pool);
    vmc_space_destroy(s);
}

struct discarded {
    uint64_t bytes;
};
static void count_discard(void *ctx, void *base, size_t bytes)
{
    memset(base, 0xdd, bytes); /* may read as anything afterwards */
    ((struct discarded *)ctx)->bytes += bytes;
}

static void unused_blocks_go_back_to_the_host_once(void **state)
{
    (void)state;
    struct discarded d = {0};
    struct vmc_pool_config cfg = {
        .size = sizeof(cfg), .frames = 4096, .discard = count_discard, .ctx = &d};
    struct vmc_pool *p = NULL;

    assert_int_equal(vmc_pool_create(&tp.pf, &cfg, &p, NULL), VMC_OK);
    struct vmc_space *s = rig_space(p, 1000, 0, NULL);
    rig_fill(s, 0, 1); /* in the first block */
    assert_int_equal(vmc_pool_trim(p, 4096 - 2 * 512), 512);
    assert_int_equal(vmc_pool_trim(p, 0), 6 * 512);
    assert_int_equal(vmc_pool_trim(p, 0), 0);
    assert_int_equal(d.bytes, 7ull * 2 << 20);
    for (uint64_t i = 1; i < 1000; i++)
        rig_expect(s, i, 0);
    struct vmc_page_ref r;
    for (uint64_t i = 1; i < 1000; i++) {
        assert_int_equal(vmc_space_access(s, i, VMC_ACCESS_WRITE, &r), VMC_OK);
        rig_expect(s, i, 0);
    }
    assert_true(vmc_pool_trim(p, 0) == 0);
    assert_int_equal(vmc_space_drop(s, 0, 1000, true), 1000);
    assert_int_equal(vmc_pool_trim(p, 0), 512); /* the zero page is in the other one */
    rig_check(p);
    vmc_space_destroy(s);
    vmc_pool_destroy(p);
}

static void failing_allocations_leave_nothing_behind(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct vmc_pool_config pc = {.size = sizeof(pc), .frames = 64};
        struct vmc_space_config sc = {.size = sizeof(sc), .pages = 64};
        struct vmc_pool *p = NULL;
        struct vmc_space *s = NULL;
        uint64_t live = tp.live;
        tp.fail_after = tp.allocs + n;
        int rc = vmc_pool_create(&tp.pf, &pc, &p, NULL);
        if (rc == VMC_OK)
            rc = vmc_space_create(p, &sc, &s, NULL);
        tp.fail_after = 0;
        vmc_space_destroy(s);
        vmc_pool_destroy(p);
        assert_int_equal(tp.live, live);
        if (rc == VMC_OK)
            break;
        assert_int_equal(rc, VMC_ENOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pages_begin_as_zero_without_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(configurations_are_checked, setup, teardown),
        cmocka_unit_test_setup_teardown(running_out_of_frames_is_reported, setup, teardown),
        cmocka_unit_test_setup_teardown(freed_pages_are_zero_for_the_next, setup, teardown),
        cmocka_unit_test_setup_teardown(balloons_read_as_zero_even_when_the_guest_lies, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(pinned_pages_stay, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_see_what_pointers_see, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_wait_for_readers_of_the_old_contents, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(writers_that_do_not_come_back_leave_room, setup, teardown),
        cmocka_unit_test_setup_teardown(dropping_waits_for_pointers, setup, teardown),
        cmocka_unit_test_setup_teardown(samples_count_what_was_touched, setup, teardown),
        cmocka_unit_test_setup_teardown(large_blocks_come_and_go_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(unused_blocks_go_back_to_the_host_once, setup, teardown),
        cmocka_unit_test_setup_teardown(failing_allocations_leave_nothing_behind, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
