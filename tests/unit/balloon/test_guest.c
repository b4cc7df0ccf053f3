/* SPDX-License-Identifier: BSD-2-Clause */
/* Drivers that deliver, that do not, and that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <vmcore/balloon.h>

#include <cmocka.h>

#define PAGES 65536u
#define S     1000000000ull

static struct vmc_balloon_guest g;
static struct vmc_balloon_seen seen;
static uint64_t now;

static int setup(void **state)
{
    (void)state;
    now = 100 * S;
    vmc_balloon_guest_init(&g, PAGES);
    seen = (struct vmc_balloon_seen){
        .driver = true, .said = true, .total = PAGES - 2000, .available = PAGES / 2};
    vmc_balloon_guest_look(&g, &seen, now);
    return 0;
}

static void look(uint64_t held)
{
    now += S;
    seen.held = held;
    vmc_balloon_guest_look(&g, &seen, now);
}

static struct vmc_reclaim_vm report(void)
{
    struct vmc_reclaim_vm v = {.configured = PAGES, .consumed = PAGES, .target = PAGES / 2};
    vmc_balloon_guest_report(&g, &v);
    return v;
}

static void without_a_driver_nothing_is_asked(void **state)
{
    (void)state;
    vmc_balloon_guest_init(&g, PAGES);
    seen.driver = false;
    look(0);
    assert_int_equal(vmc_balloon_guest_ask(&g, 1000, now), 0);
    assert_int_equal(report().balloon_max, 0);
    assert_false(report().balloon_stuck);
}

static void a_willing_guest_is_measured(void **state)
{
    (void)state;
    assert_int_equal(vmc_balloon_guest_ask(&g, 20000, now), 20000);
    for (uint64_t held = 1000; held <= 19000; held += 1000)
        look(held);
    assert_in_range(g.rate, 900, 1000);
    look(20000);
    for (unsigned i = 0; i < 20; i++) /* at its target it is not late */
        look(20000);
    struct vmc_reclaim_vm v = report();
    assert_false(v.balloon_stuck);
    assert_int_equal(v.ballooned, 20000);
    assert_int_equal(v.balloon_rate, g.rate);
}

static void what_it_can_spare_bounds_the_balloon(void **state)
{
    (void)state;
    seen.available = 3000;
    look(0);
    assert_int_equal(vmc_balloon_guest_ask(&g, PAGES, now), 3000 - PAGES / 64);
    seen.available = 100;
    look(500);
    assert_int_equal(vmc_balloon_guest_ask(&g, PAGES, now), 500); /* keeps what it gave */
    seen.said = false; /* no statistics: the fixed bound alone */
    look(500);
    assert_int_equal(vmc_balloon_guest_ask(&g, PAGES, now), PAGES * 65 / 100);
}

static void absurd_statistics_are_not_used(void **state)
{
    (void)state;
    const uint64_t lies[][2] = {
        {UINT64_MAX, UINT64_MAX}, {PAGES + 1, 10}, {1000, 1001}, {0, UINT64_MAX}, {UINT64_MAX, 0}};

    for (unsigned i = 0; i < 5; i++) {
        seen.total = lies[i][0];
        seen.available = lies[i][1];
        look(0);
        assert_int_equal(vmc_balloon_guest_ask(&g, UINT64_MAX, now), PAGES * 65 / 100);
    }
    assert_int_equal(g.broken, 5);
    look(UINT64_MAX); /* a device would not say that; it does no harm */
    assert_int_equal(report().ballooned, PAGES);
}

static void a_driver_that_does_not_deliver_is_stuck(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 30; i++)
        look(0); /* nothing was asked: nothing is late */
    assert_false(report().balloon_stuck);
    (void)vmc_balloon_guest_ask(&g, 10000, now);
    look(100);
    for (unsigned i = 0; i < 4; i++)
        look(100);
    assert_false(report().balloon_stuck);
    look(100);
    assert_true(report().balloon_stuck);
    /* The host then takes pages by itself, in the state where balloons alone are used. */
    struct vmc_reclaim_vm v = report();
    struct vmc_reclaim_action a;
    v.can_swap = true;
    assert_int_equal(vmc_reclaim_choose(VMC_RECLAIM_SOFT, &v, 1, 5000, &a), 0);
    assert_int_equal(a.swap, 5000);
    look(200);
    assert_false(report().balloon_stuck);
}

static void a_guest_short_of_memory_is_left_in_peace(void **state)
{
    (void)state;
    (void)vmc_balloon_guest_ask(&g, 20000, now);
    look(20000);
    look(15000); /* deflated on OOM */
    assert_int_equal(vmc_balloon_guest_ask(&g, 25000, now), 15000);
    for (unsigned i = 0; i < 29; i++)
        look(15000);
    assert_int_equal(vmc_balloon_guest_ask(&g, 25000, now), 15000);
    look(15000);
    assert_int_equal(vmc_balloon_guest_ask(&g, 25000, now), 25000);
    /* Deflating because it was told to is something else. */
    look(25000);
    (void)vmc_balloon_guest_ask(&g, 10000, now);
    look(12000);
    assert_int_equal(vmc_balloon_guest_ask(&g, 25000, now), 25000);
}

static void a_driver_that_never_deflates_hurts_itself_only(void **state)
{
    (void)state;
    (void)vmc_balloon_guest_ask(&g, 20000, now);
    look(20000);
    (void)vmc_balloon_guest_ask(&g, 0, now);
    for (unsigned i = 0; i < 30; i++)
        look(20000);
    struct vmc_reclaim_vm v = report();
    assert_false(v.balloon_stuck);
    assert_int_equal(v.ballooned, 20000);
    assert_true(v.balloon_max >= v.ballooned);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(without_a_driver_nothing_is_asked, setup),
        cmocka_unit_test_setup(a_willing_guest_is_measured, setup),
        cmocka_unit_test_setup(what_it_can_spare_bounds_the_balloon, setup),
        cmocka_unit_test_setup(absurd_statistics_are_not_used, setup),
        cmocka_unit_test_setup(a_driver_that_does_not_deliver_is_stuck, setup),
        cmocka_unit_test_setup(a_guest_short_of_memory_is_left_in_peace, setup),
        cmocka_unit_test_setup(a_driver_that_never_deflates_hurts_itself_only, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
