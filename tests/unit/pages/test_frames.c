/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames of a pool: single ones, blocks of 512, runs; what is said of them is always so. */
#include "space_rig.h"

#define BLOCK  512u
#define FRAMES (40u * BLOCK + 100)

static struct test_platform tp;
static struct vmc_pool *pool;
static struct vmc_space *space;
static struct vmc_sync_ops counting;
static const struct vmc_sync_ops *below;
static void *watched;
static unsigned taken; /* so often was the watched lock */

static void count_lock(void *ctx, void *lock)
{
    taken += lock == watched;
    below->lock(ctx, lock);
}

static void discard(void *ctx, void *base, size_t bytes)
{
    (void)ctx;
    memset(base, 0, bytes);
}

static int setup(void **state)
{
    struct vmc_pool_config cfg = {.size = sizeof(cfg), .frames = FRAMES, .discard = discard};

    (void)state;
    test_platform_init_threads(&tp);
    below = tp.pf.sync;
    counting = *below;
    counting.lock = count_lock;
    tp.pf.sync = &counting;
    assert_int_equal(vmc_pool_create(&tp.pf, &cfg, &pool, NULL), VMC_OK);
    space = rig_space(pool, 16, 0, NULL);
    watched = pool->lock.obj;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vmc_space_destroy(space);
    vmc_pool_destroy(pool);
    test_platform_check(&tp);
    return 0;
}

static void check(uint64_t used)
{
    for (uint64_t b = 0; b * BLOCK < FRAMES; b++) {
        unsigned n = 0;
        for (uint64_t f = b * BLOCK; f < VMCI_MIN((b + 1) * BLOCK, (uint64_t)FRAMES); f++)
            n += vmci_bit_test(pool->free, f);
        assert_int_equal(pool->in_block[b], n);
        assert_int_equal(vmci_bit_test(pool->whole, b), n == BLOCK);
    }
    assert_int_equal(pool->used, used);
}

static void blocks_are_known_when_all_of_them_is_free(void **state)
{
    static uint32_t single[FRAMES], block[64], singles, blocks;
    uint64_t seed = 7;

    (void)state;
    singles = blocks = 0;
    for (unsigned i = 0; i < 60000; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        unsigned what = (unsigned)(seed >> 60), r = (unsigned)(seed >> 33);
        uint32_t f;
        if (what < (i / 10000 % 2 == 0 ? 10 : 4)) {
            f = vmci_frame_alloc(space);
            if (f != VMCI_NONE)
                single[singles++] = f;
        } else if (what < 14 && singles != 0) {
            f = r % singles;
            vmci_frame_free(pool, single[f]);
            single[f] = single[--singles];
        } else if (what == 14) {
            f = vmci_frame_alloc_block(pool);
            if (f != VMCI_NONE) {
                assert_int_equal(f % BLOCK, 0);
                block[blocks++] = f;
            }
        } else if (what == 15 && blocks != 0) {
            vmci_frame_free_block(pool, block[--blocks]);
        }
        if (i % 997 == 0) {
            (void)vmc_pool_trim(pool, r % FRAMES);
            check(1 + singles + (uint64_t)blocks * BLOCK);
        }
    }
    while (singles > 0)
        vmci_frame_free(pool, single[--singles]);
    while (blocks > 0)
        vmci_frame_free_block(pool, block[--blocks]);
    check(1);
    /* All but the block of frame 0 and the last, short one. */
    for (blocks = 0; (block[blocks] = vmci_frame_alloc_block(pool)) != VMCI_NONE; blocks++)
        ;
    assert_int_equal(blocks, FRAMES / BLOCK - 1);
    while (blocks > 0)
        vmci_frame_free_block(pool, block[--blocks]);
    check(1);
}

/* A guest can make holes everywhere, and ask for runs all the time. */
static void looking_for_a_run_lets_others_in(void **state)
{
    static uint32_t all[FRAMES];
    uint32_t n = 0;

    (void)state;
    vmc_space_finish(space); /* takes the last ones, too */
    while ((all[n] = vmci_frame_alloc(space)) != VMCI_NONE)
        n++;
    for (uint32_t i = 0; i < n; i += 2)
        vmci_frame_free(pool, all[i]);
    taken = 0;
    assert_int_equal(vmci_frame_alloc_run(pool, 2), VMCI_NONE);
    assert_true(taken >= FRAMES / 16384);
    /* The only one there is, wherever that begins. */
    for (uint32_t at = 16375; at < 16390; at++) {
        uint32_t k = 0;
        while (all[k] != at)
            k++;
        if (k % 2 == 0)
            continue; /* free already */
        vmci_frame_free(pool, at);
        assert_int_equal(vmci_frame_alloc_run(pool, 3), at - 1);
        vmci_frame_free(pool, at - 1);
        vmci_frame_free(pool, at + 1);
    }
    for (uint32_t i = 1; i < n; i += 2)
        vmci_frame_free(pool, all[i]);
    check(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(blocks_are_known_when_all_of_them_is_free, setup, teardown),
        cmocka_unit_test_setup_teardown(looking_for_a_run_lets_others_in, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
