/* SPDX-License-Identifier: BSD-2-Clause */
/* What others do between two locks of a page fault: locks tell when they are about to be taken. */
#include "space_rig.h"

#include "sharing/sharing_priv.h"

static struct test_platform tp;
static struct vmc_pool *pool;
static struct vmc_share *sh;
static struct vmc_space *one, *two;
static const struct vmc_share_budget all = {0};

static struct {
    const struct vmc_sync_ops *below;
    struct vmc_sync_ops ops;
    void *lock;    /* before this one is taken, */
    unsigned when; /* for the so manieth time, */
    void (*act)(void);
} hook;

static void hooked_lock(void *ctx, void *lock)
{
    if (lock == hook.lock && --hook.when == 0) {
        hook.lock = NULL;
        hook.act();
    }
    hook.below->lock(ctx, lock);
}

static int setup(void **state)
{
    struct vmc_share_config cfg = {.size = sizeof(cfg), .seed = 12345};

    (void)state;
    test_platform_init_threads(&tp);
    memset(&hook, 0, sizeof(hook));
    hook.below = tp.pf.sync;
    hook.ops = *tp.pf.sync;
    hook.ops.lock = hooked_lock;
    tp.pf.sync = &hook.ops;
    pool = rig_pool(&tp, 1024);
    assert_int_equal(vmc_share_create(pool, &cfg, &sh, NULL), VMC_OK);
    one = rig_space(pool, 64, 1, NULL);
    two = rig_space(pool, 64, 1, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vmc_space_destroy(one);
    vmc_space_destroy(two);
    vmc_share_destroy(sh);
    vmc_pool_destroy(pool);
    test_platform_check(&tp);
    return 0;
}

/* Page 0 of both spaces is one compressed object. */
static void share_and_pack(void)
{
    struct vmc_share_result res;
    struct vmc_share_pack_result pr;

    rig_fill(one, 0, 77);
    rig_fill(two, 0, 77);
    for (unsigned i = 0; i < 5; i++) {
        rig_sample(one, NULL);
        rig_sample(two, NULL);
        assert_int_equal(vmc_share_scan(sh, &all, &res), VMC_OK);
    }
    assert_true(one->map[0] == two->map[0]);
    assert_int_equal(vmc_share_pack(sh, NULL, &all, 0, &pr), VMC_OK);
    assert_int_equal(vmc_space_state(one, 0), VMC_PAGE_PACKED);
}

static const unsigned char *seen;

/*
 * The other VM brings the page back; a second vCPU of this one gets a pointer to it; the other VM
 * writes its page, so that this one's is the only one left.
 */
static void come_and_go(void)
{
    struct vmc_page_ref r;

    rig_expect(two, 0, 77);
    assert_true(vmci_space_fast(one, 0, false, &r));
    seen = r.ptr;
    rig_fill(two, 0, 78);
}

static void a_pointer_of_another_vcpu_stays_good(void **state)
{
    unsigned char want[VMC_PAGE_SIZE];

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        rig_fill(one, 0, 0);
        rig_fill(two, 0, 0);
        share_and_pack();
        hook.act = come_and_go;
        seen = NULL;
        /* Before it is read; and when that is done, and is to be noted. */
        hook.when = i == 0 ? 1 : 3;
        hook.lock = i == 0 ? pool->unpack_lock.obj : pool->lock.obj;
        rig_expect(one, 0, 77);
        assert_non_null(seen);
        /* Whoever gets that memory now writes something else there. */
        for (uint64_t k = 1; k < 64; k++)
            rig_fill(two, k, 1000 + k);
        rig_pattern(want, 77);
        assert_memory_equal(seen, want, VMC_PAGE_SIZE);
        rig_expect(one, 0, 77);
        rig_check(pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_pointer_of_another_vcpu_stays_good, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
