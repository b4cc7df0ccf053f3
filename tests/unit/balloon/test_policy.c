/* SPDX-License-Identifier: BSD-2-Clause */
/* The memory policy against independent, slow statements of what it should give. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vmcore/balloon.h>

#include <cmocka.h>

static uint64_t seed = 1;

static uint64_t rnd(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return below == 0 ? 0 : seed % below;
}

static uint64_t upper(const struct vmc_balloon_vm *v)
{
    return v->limit != 0 && v->limit < v->configured ? v->limit : v->configured;
}

/* Pages of a VM that can pay for x units of cost. */
static long double pages_at(const struct vmc_balloon_vm *v, long double x, unsigned tax)
{
    long double active = v->active < v->configured ? v->active : v->configured;
    long double cost = x * v->shares;
    long double p = cost <= active ? cost : active + (cost - active) * (100 - tax) / 100;

    if (p < v->reservation)
        p = v->reservation;
    return p > upper(v) ? upper(v) : p;
}

/* Bisection in long double: an independent solution, good to a small fraction of a page. */
static long double oracle_x(const struct vmc_balloon_vm *v, size_t n, uint64_t pages, unsigned tax)
{
    long double lo = 0, hi = 1e18L;

    for (int i = 0; i < 300; i++) {
        long double mid = (lo + hi) / 2, sum = 0;
        for (size_t k = 0; k < n; k++)
            sum += pages_at(&v[k], mid, tax);
        if (sum < pages)
            lo = mid;
        else
            hi = mid;
    }
    return (lo + hi) / 2;
}

static void random_vms(struct vmc_balloon_vm *v, size_t n)
{
    static const uint32_t shares[] = {1, 250, 500, 1000, 1000, 2000, 333, 1000000};

    for (size_t i = 0; i < n; i++) {
        v[i] = (struct vmc_balloon_vm){
            .shares = shares[rnd(8)], .configured = 1 + rnd(1 << 20), .overhead = rnd(1000)};
        if (rnd(3) == 0)
            v[i].limit = 1 + rnd(v[i].configured);
        if (rnd(2) == 0)
            v[i].reservation = rnd(upper(&v[i]) + 1);
        v[i].active = rnd(v[i].configured + 1);
    }
}

static void targets_are_the_fixed_point(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 3000; round++) {
        struct vmc_balloon_vm v[40];
        size_t n = 1 + rnd(40);
        unsigned tax = round % 5 == 0 ? 0 : (unsigned)rnd(100);
        uint64_t low = 0, high = 0, over = 0, sum = 0;
        random_vms(v, n);
        for (size_t i = 0; i < n; i++) {
            low += v[i].reservation;
            high += upper(&v[i]);
            over += v[i].overhead;
        }
        uint64_t pages = low + rnd(high - low + 1);
        assert_int_equal(vmc_balloon_plan(v, n, pages + over, tax, NULL), VMC_OK);
        long double x = oracle_x(v, n, pages, tax);
        for (size_t i = 0; i < n; i++) {
            long double want = pages_at(&v[i], x, tax);
            sum += v[i].target;
            assert_true(v[i].target >= v[i].reservation && v[i].target <= upper(&v[i]));
            if (fabsl((long double)v[i].target - want) >= 1.001L) {
                print_error("round %u VM %zu: %llu, not %Lf\n", round, i,
                            (unsigned long long)v[i].target, want);
                fail();
            }
        }
        assert_int_equal(sum, pages);
    }
}

/* Small enough to revoke page by page, as the algorithm is defined. */
static void targets_equal_revocation_page_by_page(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 300; round++) {
        struct vmc_balloon_vm v[6];
        uint64_t have[6], pages, total = 0;
        size_t n = 2 + rnd(5);
        unsigned tax = (unsigned)rnd(90);
        for (size_t i = 0; i < n; i++) {
            v[i] = (struct vmc_balloon_vm){.shares = 1 + (uint32_t)rnd(1000),
                                           .configured = 1 + rnd(300)};
            v[i].active = rnd(v[i].configured + 1);
            v[i].reservation = rnd(v[i].configured) / 4;
            have[i] = v[i].configured;
            total += have[i];
        }
        uint64_t low = 0;
        for (size_t i = 0; i < n; i++)
            low += v[i].reservation;
        pages = low + rnd(total - low + 1);
        /* Take the page whose loss leaves the highest price: the last page of highest cost. */
        for (; total > pages; total--) {
            size_t victim = n;
            long double worst = -1;
            for (size_t i = 0; i < n; i++) {
                long double cost = have[i] <= v[i].active ? have[i]
                                                          : v[i].active + (have[i] - v[i].active) *
                                                                              100.0L / (100 - tax);
                if (have[i] > v[i].reservation && cost / v[i].shares > worst) {
                    worst = cost / v[i].shares;
                    victim = i;
                }
            }
            have[victim]--;
        }
        assert_int_equal(vmc_balloon_plan(v, n, pages, tax, NULL), VMC_OK);
        for (size_t i = 0; i < n; i++)
            /* Whole pages are rounded otherwise: one each, and one VM may make up for the rest. */
            assert_true(llabs((long long)have[i] - (long long)v[i].target) < (long long)n);
    }
}

static void equal_vms_get_equal_parts(void **state)
{
    (void)state;
    struct vmc_balloon_vm v[3] = {{.shares = 1, .configured = 100},
                                  {.shares = 1, .configured = 100},
                                  {.shares = 1, .configured = 100}};
    assert_int_equal(vmc_balloon_plan(v, 3, 100, 0, NULL), VMC_OK);
    assert_int_equal(v[0].target, 34); /* the odd page to the lower index */
    assert_int_equal(v[1].target, 33);
    assert_int_equal(v[2].target, 33);
}

static void idle_memory_is_taxed(void **state)
{
    (void)state;
    /* The experiment of the paper: two VMs of 256 MB, one idle, one busy, 360 MB to divide. */
    struct vmc_balloon_vm v[2] = {{.shares = 1000, .configured = 65536, .active = 0},
                                  {.shares = 1000, .configured = 65536, .active = 65536}};
    assert_int_equal(vmc_balloon_plan(v, 2, 92160, 0, NULL), VMC_OK);
    assert_int_equal(v[0].target, 46080);
    assert_int_equal(v[1].target, 46080);
    assert_int_equal(vmc_balloon_plan(v, 2, 92160, 75, NULL), VMC_OK);
    assert_int_equal(v[0].target, 92160 - 65536); /* the busy one has all it can use */
    assert_int_equal(v[1].target, 65536);
    assert_int_equal(vmc_balloon_plan(v, 2, 60000, 75, NULL), VMC_OK);
    assert_int_equal(v[0].target, 12000); /* four idle pages pay as much as one active */
    assert_int_equal(v[1].target, 48000);
}

static void bounds_are_kept_and_errors_explained(void **state)
{
    (void)state;
    struct vmc_error err;
    struct vmc_balloon_vm v[2] = {{.shares = 1, .configured = 100, .reservation = 60},
                                  {.shares = 1, .configured = 100, .reservation = 60}};
    assert_int_equal(vmc_balloon_plan(v, 2, 100, 0, &err), VMC_ENOSPC);
    assert_int_equal(v[0].target, 50);
    assert_int_equal(vmc_balloon_plan(v, 2, 1000, 0, &err), VMC_OK);
    assert_int_equal(v[0].target, 100);
    v[1].shares = 0;
    assert_int_equal(vmc_balloon_plan(v, 2, 1000, 0, &err), VMC_EINVAL);
    assert_non_null(strstr(err.text, "VM 1"));
    v[1].shares = VMC_BALLOON_MAX_SHARES + 1;
    assert_int_equal(vmc_balloon_plan(v, 2, 1000, 0, &err), VMC_EINVAL);
    v[1].shares = 1;
    v[1].limit = 10;
    assert_int_equal(vmc_balloon_plan(v, 2, 1000, 0, &err), VMC_EINVAL); /* below reservation */
    v[1].limit = 0;
    v[1].configured = UINT64_MAX;
    assert_int_equal(vmc_balloon_plan(v, 2, 1000, 0, &err), VMC_EINVAL);
    assert_int_equal(vmc_balloon_plan(v, 1, 1000, 100, &err), VMC_EINVAL);
    assert_int_equal(vmc_balloon_plan(NULL, 0, 1000, 0, &err), VMC_OK);
}

static void extreme_sizes_do_not_overflow(void **state)
{
    (void)state;
    struct vmc_balloon_vm v[4];
    for (unsigned i = 0; i < 4; i++)
        v[i] = (struct vmc_balloon_vm){.shares = i % 2 ? VMC_BALLOON_MAX_SHARES : 1,
                                       .configured = VMC_BALLOON_MAX_PAGES,
                                       .active = i * 3};
    assert_int_equal(vmc_balloon_plan(v, 4, VMC_BALLOON_MAX_PAGES + 12345, 99, NULL), VMC_OK);
    uint64_t sum = 0;
    for (unsigned i = 0; i < 4; i++)
        sum += v[i].target;
    assert_int_equal(sum, VMC_BALLOON_MAX_PAGES + 12345);
}

/* A bound for a busy test machine; bench/memory measures it properly. */
static void ten_thousand_vms_are_quick(void **state)
{
    (void)state;
    enum { N = 10000 };
    struct vmc_balloon_vm *v = malloc(N * sizeof(*v));
    uint64_t low = 0, high = 0, best = UINT64_MAX, sum = 0;
    struct timespec a, b;

    assert_non_null(v);
    random_vms(v, N);
    for (size_t i = 0; i < N; i++) {
        low += v[i].reservation + v[i].overhead;
        high += upper(&v[i]) + v[i].overhead;
    }
    for (unsigned r = 0; r < 5; r++) {
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
        assert_int_equal(vmc_balloon_plan(v, N, (low + high) / 2, 75, NULL), VMC_OK);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
        uint64_t ns = (uint64_t)((b.tv_sec - a.tv_sec) * 1000000000ll + b.tv_nsec - a.tv_nsec);
        best = ns < best ? ns : best;
    }
    for (size_t i = 0; i < N; i++)
        sum += v[i].target + v[i].overhead;
    assert_int_equal(sum, (low + high) / 2);
    print_message("10,000 VMs: %.3f ms\n", (double)best / 1e6);
    assert_true(best < 20000000);
    free(v);
}

static void admission_needs_a_place_for_every_page(void **state)
{
    (void)state;
    struct vmc_error err;
    struct vmc_balloon_vm v[2] = {
        {.shares = 1, .configured = 100, .reservation = 40, .overhead = 5},
        {.shares = 1, .configured = 200, .reservation = 50, .overhead = 5}};
    struct vmc_balloon_admission host = {.host_pages = 100, .swap_pages = 210};

    assert_int_equal(vmc_balloon_admit(v, 2, &host, &err), VMC_OK);
    host.host_pages = 99;
    assert_int_equal(vmc_balloon_admit(v, 2, &host, &err), VMC_ENOSPC);
    assert_non_null(strstr(err.text, "1 pages more than the host"));
    host.host_pages = 100;
    host.swap_pages = 200;
    assert_int_equal(vmc_balloon_admit(v, 2, &host, &err), VMC_ENOSPC);
    assert_non_null(strstr(err.text, "10 pages more of swap"));
}

static void estimates_rise_at_once_and_fall_slowly(void **state)
{
    (void)state;
    struct vmc_active a;

    vmc_active_init(&a, 0, 0);
    assert_int_equal(vmc_active_pages(&a, 1000), 1000); /* nothing known: all of it */
    for (unsigned i = 0; i < 200; i++)
        vmc_active_sample(&a, 1000, 200);
    assert_true(labs((long)vmc_active_pages(&a, 1000) - 200) <= 1);
    vmc_active_peek(&a, 1000, 900); /* under way: seen at once, by the weight of one sample */
    assert_true(vmc_active_pages(&a, 1000) >= 500);
    vmc_active_sample(&a, 1000, 900);
    vmc_active_sample(&a, 1000, 900);
    assert_true(vmc_active_pages(&a, 1000) >= 700);
    for (unsigned i = 0; i < 30; i++)
        vmc_active_sample(&a, 1000, 900);
    vmc_active_sample(&a, 1000, 0);
    vmc_active_sample(&a, 1000, 0);
    assert_true(vmc_active_pages(&a, 1000) >= 600); /* the slow average holds */
    for (unsigned i = 0; i < 200; i++)
        vmc_active_sample(&a, 1000, 0);
    assert_true(vmc_active_pages(&a, 1000) <= 1);
    vmc_active_sample(&a, 0, 5);
    vmc_active_sample(&a, UINT64_MAX, UINT64_MAX);
    assert_true(vmc_active_pages(&a, UINT64_MAX) <= VMC_BALLOON_MAX_PAGES);
}

static void picked_pages_are_spread_and_distinct(void **state)
{
    (void)state;
    uint64_t p[100];

    assert_int_equal(vmc_active_pick(65536, 7, p, 100), 100);
    for (unsigned i = 0; i < 100; i++)
        assert_true(p[i] >= 65536ull * i / 100 && p[i] < 65536ull * (i + 1) / 100);
    assert_int_equal(vmc_active_pick(5, 7, p, 100), 5);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(p[i], i);
    assert_int_equal(vmc_active_pick(0, 7, p, 100), 0);
}

static void states_have_hysteresis(void **state)
{
    (void)state;
    struct vmc_reclaim_config c;
    enum vmc_reclaim_state s = VMC_RECLAIM_HIGH;

    vmc_reclaim_defaults(&c, 4ull << 18); /* 4 GiB: 6 % */
    assert_int_equal(c.below[VMC_RECLAIM_CLEAR], (4ull << 18) * 6 / 100);
    assert_true(c.below[VMC_RECLAIM_SOFT] < c.below[VMC_RECLAIM_CLEAR]);
    assert_true(c.below[VMC_RECLAIM_LOW] < c.below[VMC_RECLAIM_HARD]);
    s = vmc_reclaim_next(&c, s, c.below[VMC_RECLAIM_CLEAR]);
    assert_int_equal(s, VMC_RECLAIM_HIGH);
    s = vmc_reclaim_next(&c, s, c.below[VMC_RECLAIM_SOFT] - 1);
    assert_int_equal(s, VMC_RECLAIM_SOFT);
    s = vmc_reclaim_next(&c, s, c.below[VMC_RECLAIM_SOFT] + c.hysteresis - 1);
    assert_int_equal(s, VMC_RECLAIM_SOFT); /* not yet clear of it */
    s = vmc_reclaim_next(&c, s, c.below[VMC_RECLAIM_SOFT] + c.hysteresis);
    assert_int_equal(s, VMC_RECLAIM_CLEAR);
    s = vmc_reclaim_next(&c, s, 0);
    assert_int_equal(s, VMC_RECLAIM_LOW); /* down at once */
    s = vmc_reclaim_next(&c, s, UINT64_MAX);
    assert_int_equal(s, VMC_RECLAIM_HIGH);
}

static struct vmc_reclaim_vm greedy(void)
{
    return (struct vmc_reclaim_vm){.configured = 1000,
                                   .target = 400,
                                   .consumed = 1000,
                                   .balloon_max = 700,
                                   .can_swap = true,
                                   .can_pack = true,
                                   .can_share = true,
                                   .pack_percent = 40};
}

static void gentle_means_come_first(void **state)
{
    (void)state;
    struct vmc_reclaim_vm v = greedy();
    struct vmc_reclaim_action a;

    assert_int_equal(vmc_reclaim_choose(VMC_RECLAIM_HIGH, &v, 1, 0, &a), VMC_OK);
    assert_true(a.scan && a.balloon_target == 0 && a.pack == 0 && a.swap == 0 && !a.break_large);
    assert_int_equal(vmc_reclaim_choose(VMC_RECLAIM_CLEAR, &v, 1, 100, &a), VMC_OK);
    assert_true(a.break_large && a.balloon_target == 0 && a.swap == 0);
    assert_int_equal(vmc_reclaim_choose(VMC_RECLAIM_SOFT, &v, 1, 600, &a), VMC_OK);
    assert_true(a.balloon_target == 600 && a.pack == 0 && a.swap == 0);
    v.balloon_stuck = true;
    assert_int_equal(vmc_reclaim_choose(VMC_RECLAIM_SOFT, &v, 1, 600, &a), VMC_OK);
    assert_true(a.balloon_target == 0 && a.pack == 400 && a.swap == 200);
    v.balloon_stuck = false;
    assert_int_equal(vmc_reclaim_choose(VMC_RECLAIM_HARD, &v, 1, 600, &a), VMC_OK);
    assert_true(a.pack == 400 && a.swap == 200 && !a.block);
    assert_int_equal(vmc_reclaim_choose(VMC_RECLAIM_LOW, &v, 1, 600, &a), VMC_OK);
    assert_true(a.block && a.hot);
}

static void vms_at_their_target_are_left_alone(void **state)
{
    (void)state;
    struct vmc_reclaim_vm v[2] = {greedy(), greedy()};
    struct vmc_reclaim_action a[2];

    v[1].consumed = 300;
    v[1].ballooned = 250;
    assert_int_equal(vmc_reclaim_choose(VMC_RECLAIM_LOW, v, 2, 500, a), VMC_OK);
    assert_true(a[0].block && a[0].pack + a[0].swap == 500);
    assert_true(!a[1].block && a[1].pack == 0 && a[1].swap == 0);
    assert_int_equal(a[1].balloon_target, 150); /* may grow to its target */
    v[0].pack_percent = 101;
    assert_int_equal(vmc_reclaim_choose(VMC_RECLAIM_LOW, v, 2, 500, a), VMC_EINVAL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(targets_are_the_fixed_point),
        cmocka_unit_test(targets_equal_revocation_page_by_page),
        cmocka_unit_test(equal_vms_get_equal_parts),
        cmocka_unit_test(idle_memory_is_taxed),
        cmocka_unit_test(bounds_are_kept_and_errors_explained),
        cmocka_unit_test(extreme_sizes_do_not_overflow),
        cmocka_unit_test(ten_thousand_vms_are_quick),
        cmocka_unit_test(admission_needs_a_place_for_every_page),
        cmocka_unit_test(estimates_rise_at_once_and_fall_slowly),
        cmocka_unit_test(picked_pages_are_spread_and_distinct),
        cmocka_unit_test(states_have_hysteresis),
        cmocka_unit_test(gentle_means_come_first),
        cmocka_unit_test(vms_at_their_target_are_left_alone),
    };

    if (argc > 1)
        seed = strtoull(argv[1], NULL, 0) | 1;
    print_message("seed %llu\n", (unsigned long long)seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
