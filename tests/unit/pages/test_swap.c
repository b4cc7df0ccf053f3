/* SPDX-License-Identifier: BSD-2-Clause */
/* Swapping by the host: asynchronous files, failures, damage. */
#include <pthread.h>
#include <time.h>

#include "space_rig.h"

#define PAGES 256u

static struct test_platform tp;
static struct vmc_pool *pool;
static struct vmc_space *space;

/* A file that completes at once, later, or not well. */
static struct {
    unsigned char data[PAGES * VMC_PAGE_SIZE];
    bool later;
    int fail; /* status of requests */
    struct vmc_block_req *queued[8];
    unsigned count, submitted;
} file;

static int file_info(void *ctx, struct vmc_block_info *out)
{
    (void)ctx;
    *out = (struct vmc_block_info){.bytes = sizeof(file.data), .sector_bytes = 512};
    return VMC_OK;
}

static void perform(struct vmc_block_req *r)
{
    r->status = file.fail;
    if (file.fail != 0)
        return;
    if (r->op == VMC_BLOCK_WRITE)
        memcpy(file.data + r->offset, r->iov[0].base, r->bytes);
    else
        memcpy(r->iov[0].base, file.data + r->offset, r->bytes);
}

static int file_submit(void *ctx, struct vmc_block_req *r)
{
    (void)ctx;
    file.submitted++;
    assert_true(r->offset + r->bytes <= sizeof(file.data));
    if (file.later) {
        file.queued[file.count++] = r;
        return VMC_BLOCK_PENDING;
    }
    perform(r);
    return VMC_BLOCK_COMPLETE;
}

static void finish_all(void)
{
    while (file.count > 0) {
        struct vmc_block_req *r = file.queued[--file.count];
        perform(r);
        r->done(r);
    }
}
static void file_poll(void *ctx)
{
    (void)ctx;
    finish_all();
}

static const struct vmc_blockdev_ops file_ops = {
    .info = file_info, .submit = file_submit, .poll = file_poll};

/* Nobody but its own thread completes a request. */
static const struct vmc_blockdev_ops file_later_ops = {.info = file_info, .submit = file_submit};

static int setup(void **state)
{
    struct vmc_space_config cfg = {.size = sizeof(cfg), .pages = PAGES, .swap = {.ops = &file_ops}};

    (void)state;
    memset(&file, 0, sizeof(file));
    test_platform_init(&tp);
    pool = rig_pool(&tp, 512);
    assert_int_equal(vmc_space_create(pool, &cfg, &space, NULL), VMC_OK);
    for (uint64_t i = 0; i < PAGES; i++)
        rig_fill(space, i, i + 1);
    rig_sample(space, NULL);
    rig_sample(space, NULL);
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

static uint64_t out(uint64_t want)
{
    uint64_t started;

    assert_int_equal(vmc_space_swap_out(space, want, PAGES, false, &started), VMC_OK);
    return started;
}

static void pages_go_and_come_back(void **state)
{
    (void)state;
    uint64_t before = vmc_pool_free(pool);

    assert_int_equal(out(100), 100);
    assert_int_equal(vmc_pool_free(pool), before + 100);
    assert_int_equal(vmc_space_state(space, 0), VMC_PAGE_SWAPPED);
    unsigned writes = file.submitted;
    assert_true(writes <= 5); /* in batches */
    for (uint64_t i = 0; i < PAGES; i++)
        rig_expect(space, i, i + 1);
    assert_true(file.submitted - writes <= 100 / 8 + 2); /* read ahead */
    assert_int_equal(vmc_pool_free(pool), before);
    struct vmc_space_stats st;
    vmc_space_stats(space, &st);
    assert_int_equal(st.swap_outs, 100);
    assert_int_equal(st.swap_ins, 100);
}

static void recently_used_pages_stay_unless_all_may_go(void **state)
{
    (void)state;
    uint64_t started;

    for (uint64_t i = 0; i < 200; i++)
        rig_expect(space, i, i + 1);
    rig_sample(space, NULL);
    assert_int_equal(out(PAGES), 56);
    assert_int_equal(vmc_space_swap_out(space, PAGES, PAGES, true, &started), VMC_OK);
    assert_true(started > 0);
    for (uint64_t i = 0; i < PAGES; i++)
        rig_expect(space, i, i + 1);
}

static void a_page_that_is_touched_while_written_stays(void **state)
{
    (void)state;
    file.later = true;
    assert_int_equal(out(32), 32);
    rig_fill(space, 3, 777); /* the write to the file is still under way */
    rig_expect(space, 4, 5);
    finish_all();
    vmc_space_poll(space);
    assert_int_equal(vmc_space_state(space, 3), VMC_PAGE_PRIVATE);
    assert_int_equal(vmc_space_state(space, 5), VMC_PAGE_SWAPPED);
    file.later = false;
    rig_expect(space, 3, 777);
    for (uint64_t i = 4; i < PAGES; i++)
        rig_expect(space, i, i + 1);
    rig_check(pool);
}

static void reads_are_waited_for(void **state)
{
    (void)state;
    struct vmc_page_ref r;
    struct vmc_page_ref pinned;

    assert_int_equal(out(32), 32);
    file.later = true;
    assert_int_equal(vmc_space_access(space, 8, 0, &r), VMC_EAGAIN);
    assert_int_equal(vmc_space_access(space, 8, 0, &r), VMC_EAGAIN);
    assert_int_equal(file.count, 1);
    finish_all();
    rig_expect(space, 8, 9);
    rig_expect(space, 9, 10); /* came along */
    assert_int_equal(vmc_space_pin(space, 16, VMC_ACCESS_NOWAIT, &pinned), VMC_EAGAIN);
    assert_int_equal(vmc_space_pin(space, 16, 0, &pinned), VMC_OK); /* polls the file */
    vmc_space_unpin(space, 16, false);
}

static void failed_writes_lose_nothing(void **state)
{
    (void)state;
    struct vmc_space_stats st;
    uint64_t before = vmc_pool_free(pool);

    file.fail = VMC_ENOSPC;
    (void)out(64);
    vmc_space_poll(space);
    assert_int_equal(vmc_pool_free(pool), before);
    vmc_space_stats(space, &st);
    assert_int_equal(st.swap_errors, 32); /* the first request; the next waits */
    for (uint64_t i = 0; i < PAGES; i++)
        rig_expect(space, i, i + 1);
}

static void a_full_disk_is_left_alone_for_longer_and_longer(void **state)
{
    (void)state;
    struct vmc_space_stats st;
    uint64_t started, end = tp.now_ns + 60000000000ull, failed = 0;

    file.fail = VMC_ENOSPC;
    for (; tp.now_ns < end; tp.now_ns += 5000000) { /* as a host looks */
        unsigned before = file.submitted;
        int rc = vmc_space_swap_out(space, 64, PAGES, false, &started);
        assert_int_equal(rc, file.submitted == before ? VMC_EAGAIN : VMC_OK);
        vmc_space_poll(space);
        failed += file.submitted - before;
    }
    assert_in_range(failed, 60000 / 3200, 60000 / 3200 + 8);
    vmc_space_stats(space, &st);
    assert_true(st.swap_paused);
    /* Room again: found out at the next try, and no pause any more. */
    file.fail = 0;
    tp.now_ns += 3200000000ull;
    assert_int_equal(out(64), 64);
    vmc_space_stats(space, &st);
    assert_false(st.swap_paused);
    file.fail = VMC_ENOSPC;
    (void)out(32);
    vmc_space_poll(space);
    tp.now_ns += 50000000; /* the pause is a short one again */
    file.fail = 0;
    assert_int_equal(out(32), 32);
    for (uint64_t i = 0; i < PAGES; i++)
        rig_expect(space, i, i + 1);
    rig_check(pool);
}

static void failed_reads_are_reported_and_tried_again(void **state)
{
    (void)state;
    struct vmc_page_ref r;

    assert_int_equal(out(32), 32);
    file.fail = VMC_EIO;
    assert_int_equal(vmc_space_access(space, 1, 0, &r), VMC_EIO);
    assert_int_equal(vmc_space_access(space, 1, 0, &r), VMC_EIO);
    rig_expect(space, 100, 101);
    file.fail = 0;
    rig_expect(space, 1, 2);
    rig_check(pool);
}

/* A VM that lost a page ends: then nobody waits for that page for ever. */
static void abandoned_spaces_read_zeros(void **state)
{
    (void)state;
    struct vmc_page_ref r;
    struct vmc_space_stats st;

    assert_int_equal(out(32), 32);
    file.fail = VMC_EIO;
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(vmc_space_access(space, 1, 0, &r), VMC_EIO);
    vmc_space_stats(space, &st);
    assert_int_equal(st.swap_lost, 3);
    assert_int_equal(st.lost_page, 1);
    vmc_space_abandon(space);
    (void)!vmc_space_access(space, 1, 0, &r); /* says so once more, or finds zeros */
    assert_int_equal(vmc_space_access(space, 1, 0, &r), VMC_OK);
    rig_expect(space, 1, 0);
    rig_expect(space, 100, 101);
    file.fail = 0;
    rig_expect(space, 31, 32); /* what can be read is */
    rig_check(pool);
}

/* Whoever can write the file must not be able to put his own bytes into the guest unnoticed. */
static void damage_is_noticed(void **state)
{
    (void)state;
    struct vmc_page_ref r;

    assert_int_equal(out(32), 32);
    file.data[2 * 4096 + 17] ^= 1;
    memcpy(file.data + 5 * 4096, file.data + 6 * 4096, 4096); /* another page of its own */
    assert_int_equal(vmc_space_access(space, 2, 0, &r), VMC_EIO);
    assert_int_equal(vmc_space_access(space, 5, 0, &r), VMC_EIO);
    rig_expect(space, 6, 7);
    file.data[2 * 4096 + 17] ^= 1;
    rig_expect(space, 2, 3);
}

static void dropped_and_destroyed_pages_need_no_file(void **state)
{
    (void)state;
    assert_int_equal(out(32), 32);
    assert_int_equal(vmc_space_drop(space, 0, 16, true), 16);
    rig_expect(space, 0, 0);
    rig_expect(space, 20, 21);
    file.later = true;
    assert_true(out(64) > 0); /* destroyed with requests under way: waits for them */
}

/* A back end whose thread is held up just when it tells of the end of its request. */
static struct {
    const struct vmc_sync_ops *below;
    struct vmc_sync_ops ops;
    pthread_t thread;
    uint32_t begun, destroyed, early;
} slow;

static void slow_wake(void *ctx, const uint32_t *word)
{
    if (vmci_load_acquire(&slow.begun) != 0 && pthread_equal(pthread_self(), slow.thread)) {
        const struct timespec ms = {.tv_nsec = 1000000};
        for (unsigned i = 0; i < 50 && vmci_load_acquire(&slow.destroyed) == 0; i++)
            nanosleep(&ms, NULL);
        vmci_store_release(&slow.early, vmci_load_acquire(&slow.destroyed));
    }
    slow.below->wake(ctx, word);
}

static void *slow_end(void *arg)
{
    (void)arg;
    slow.thread = pthread_self();
    vmci_store_release(&slow.begun, 1);
    finish_all();
    return NULL;
}

static void a_space_outlives_the_end_of_its_requests(void **state)
{
    struct vmc_space_config cfg = {
        .size = sizeof(cfg), .pages = PAGES, .swap = {.ops = &file_later_ops}};
    uint64_t started;
    pthread_t t;

    (void)state;
    memset(&file, 0, sizeof(file));
    memset(&slow, 0, sizeof(slow));
    test_platform_init_threads(&tp);
    slow.below = tp.pf.sync;
    slow.ops = *tp.pf.sync;
    slow.ops.wake = slow_wake;
    tp.pf.sync = &slow.ops;
    pool = rig_pool(&tp, 512);
    assert_int_equal(vmc_space_create(pool, &cfg, &space, NULL), VMC_OK);
    rig_fill(space, 0, 1);
    rig_sample(space, NULL);
    rig_sample(space, NULL);
    file.later = true;
    assert_int_equal(vmc_space_swap_out(space, 1, PAGES, false, &started), VMC_OK);
    assert_int_equal(started, 1);
    assert_int_equal(pthread_create(&t, NULL, slow_end, NULL), 0);
    vmc_space_destroy(space);
    vmci_store_release(&slow.destroyed, 1);
    pthread_join(t, NULL);
    assert_int_equal(slow.early, 0);
    vmc_pool_destroy(pool);
    test_platform_check(&tp);
}

static void files_are_checked(void **state)
{
    (void)state;
    struct vmc_space_config cfg = {
        .size = sizeof(cfg), .pages = PAGES + 1, .swap = {.ops = &file_ops}};
    struct vmc_space *s = NULL;
    uint64_t n;

    assert_int_equal(vmc_space_create(pool, &cfg, &s, NULL), VMC_EINVAL);
    s = rig_space(pool, 10, 0, NULL);
    assert_int_equal(vmc_space_swap_out(s, 1, 10, false, &n), VMC_ENOTSUP);
    vmc_space_destroy(s);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(pages_go_and_come_back),
        T(recently_used_pages_stay_unless_all_may_go),
        T(a_page_that_is_touched_while_written_stays),
        T(reads_are_waited_for),
        T(failed_writes_lose_nothing),
        T(a_full_disk_is_left_alone_for_longer_and_longer),
        T(failed_reads_are_reported_and_tried_again),
        T(abandoned_spaces_read_zeros),
        T(damage_is_noticed),
        T(dropped_and_destroyed_pages_need_no_file),
        T(files_are_checked),
        cmocka_unit_test(a_space_outlives_the_end_of_its_requests),
    };
#undef T
    return cmocka_run_group_tests(tests, NULL, NULL);
}
