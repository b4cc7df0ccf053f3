/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the time of its own accesses tells a VM about the memory of others: nothing across salts,
 * and, as a check of the method, a lot within one.
 *
 * The spy holds pages of two kinds in random order: contents that the victim has as well, and
 * contents that nobody has. Each access is timed. If the kinds cannot be told apart, every order of
 * the times is equally likely, so the rank sum of one kind (Mann and Whitney 1947) is normally
 * distributed whatever else goes on in the machine: |z| above 6 has a probability of 2e-9.
 */
#include "space_rig.h"

#define PAGES 3000u
#define LIMIT 6.0

static struct test_platform tp;
static struct vmc_pool *pool;
static struct vmc_share *sh;
static struct vmc_space *spy, *victim;
static bool theirs[PAGES];
static uint64_t seed = 88172645463325252ull;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed >> 11;
}

static void scan(void)
{
    struct vmc_share_budget b = {0};
    struct vmc_share_result r;

    rig_sample(spy, NULL);
    rig_sample(victim, NULL);
    do {
        assert_int_equal(vmc_share_scan(sh, &b, &r), VMC_OK);
    } while (!r.pass_done);
}

static void up(uint64_t victims_salt)
{
    struct vmc_share_config cfg = {.size = sizeof(cfg), .seed = 5};

    test_platform_init(&tp);
    pool = rig_pool(&tp, 4 * PAGES);
    assert_int_equal(vmc_share_create(pool, &cfg, &sh, NULL), VMC_OK);
    victim = rig_space(pool, PAGES, victims_salt, NULL);
    spy = rig_space(pool, PAGES, 1, NULL);
    for (uint64_t i = 0; i < PAGES; i++) {
        theirs[i] = (rnd() & 1) != 0;
        rig_fill(spy, i, 100000 + i);
        rig_fill(victim, i, (theirs[i] ? 100000 : 900000) + i);
    }
    scan();
}

static void down(void)
{
    vmc_share_destroy(sh);
    vmc_space_destroy(spy);
    vmc_space_destroy(victim);
    vmc_pool_destroy(pool);
    test_platform_check(&tp);
}

struct timed {
    uint64_t cycles, tie;
    bool theirs;
};

static int by_time(const void *a, const void *b)
{
    const struct timed *x = a, *y = b;

    if (x->cycles != y->cycles)
        return x->cycles < y->cycles ? -1 : 1;
    return x->tie < y->tie ? -1 : x->tie > y->tie; /* ties in random order */
}

/* How many standard deviations the ranks of the pages that both have are off. */
static double spy_on(uint32_t flags)
{
    static struct timed t[PAGES];
    double n = 0, sum = 0;
    struct vmc_page_ref r;

    for (uint64_t k = 0; k < PAGES; k++) {
        uint64_t page = k * 1021 % PAGES;
        uint64_t start = __builtin_ia32_rdtsc();
        int rc = vmc_space_access(spy, page, flags, &r);
        t[k].cycles = __builtin_ia32_rdtsc() - start;
        assert_int_equal(rc, VMC_OK);
        t[k].theirs = theirs[page];
        t[k].tie = rnd();
    }
    qsort(t, PAGES, sizeof(t[0]), by_time);
    for (uint64_t k = 0; k < PAGES; k++) {
        n += t[k].theirs;
        sum += t[k].theirs ? (double)k : 0;
    }
    double m = PAGES - n, off = sum - n * (PAGES - 1) / 2.0;
    double variance = n * m * (PAGES + 1) / 12, z2 = off * off / variance;
    print_message("z^2 %.2f\n", z2);
    return z2;
}

static void pack_all(void)
{
    struct vmc_share_budget b = {0};
    struct vmc_share_pack_result r;

    for (unsigned i = 0; i < 5; i++) {
        rig_sample(spy, NULL);
        rig_sample(victim, NULL);
    }
    assert_int_equal(vmc_share_pack(sh, NULL, &b, 0, &r), VMC_OK);
    assert_true(r.packed + r.deltas > PAGES);
}

static void writes_tell_nothing_across_salts(void **state)
{
    (void)state;
    up(2);
    assert_true(spy_on(VMC_ACCESS_WRITE) < LIMIT * LIMIT);
    scan(); /* found anew, and still nothing */
    assert_true(spy_on(VMC_ACCESS_WRITE) < LIMIT * LIMIT);
    down();
}

static void faults_on_compressed_pages_tell_nothing_across_salts(void **state)
{
    (void)state;
    up(2);
    pack_all();
    assert_true(spy_on(0) < LIMIT * LIMIT);
    down();
}

static void within_a_salt_writes_do_tell(void **state)
{
    (void)state;
    up(1);
    assert_true(spy_on(VMC_ACCESS_WRITE) > LIMIT * LIMIT);
    down();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_tell_nothing_across_salts),
        cmocka_unit_test(faults_on_compressed_pages_tell_nothing_across_salts),
        cmocka_unit_test(within_a_salt_writes_do_tell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
