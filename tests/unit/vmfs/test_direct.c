/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files as block devices on synchronous disks: windows on data in memory, and discards on a volume
 * of two extents.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test_disk.h"
#include "test_platform.h"
#include <vmcore/vmfs.h>

#include <cmocka.h>

#define MIB   (1ull << 20)
#define BYTES (800 * MIB) /* of an extent */
#define BLOCK 4096u

/* A disk in memory that says that it is done at once. */
struct quick {
    struct vmc_blockdev below;
    struct test_disk *disk;
    bool opened, busy;
};

struct env {
    struct vmc_sync_ops sync;
    struct test_platform tp;
    struct test_disk disk[2];
    struct test_path path[2];
    struct quick quick[2];
    struct vmc_blockdev bd[2];
    struct vmc_vmfs *v;
    struct vmc_error err;
};

static int quick_info(void *ctx, struct vmc_block_info *out)
{
    struct quick *q = ctx;
    int rc = q->below.ops->info(q->below.ctx, out);

    out->synchronous = true;
    return rc;
}

static int quick_submit(void *ctx, struct vmc_block_req *r)
{
    struct quick *q = ctx;
    return q->below.ops->submit(q->below.ctx, r);
}

static int quick_caw(void *ctx, uint64_t off, const void *expect, const void *data, size_t bytes)
{
    struct quick *q = ctx;
    return q->below.ops->compare_write(q->below.ctx, off, expect, data, bytes);
}

static void quick_move(void *ctx, unsigned char *data, unsigned char *buf, size_t bytes, bool write,
                       const unsigned char *soon)
{
    const struct quick *q = ctx;

    (void)soon;
    assert_true(q->opened);
    memcpy(write ? data : buf, write ? buf : data, bytes);
}

static bool quick_open(void *ctx, struct vmc_block_mover *out)
{
    struct quick *q = ctx;

    assert_false(q->opened);
    q->opened = !q->busy;
    *out = (struct vmc_block_mover){.move = quick_move, .ctx = q, .writable = true};
    return q->opened;
}

static bool quick_window(void *ctx, uint64_t offset, uint64_t bytes, bool wide,
                         struct vmc_block_window *out)
{
    const struct quick *q = ctx;

    (void)wide;
    assert_true(q->opened && offset <= q->disk->bytes && bytes <= q->disk->bytes - offset);
    *out = (struct vmc_block_window){.bytes = q->disk->bytes, .data = q->disk->data};
    return true;
}

static void quick_close(void *ctx)
{
    struct quick *q = ctx;

    assert_true(q->opened);
    q->opened = false;
}

static const struct vmc_block_direct_ops quick_direct = {
    .open = quick_open, .window = quick_window, .close = quick_close};
static const struct vmc_blockdev_ops quick_ops = {.info = quick_info,
                                                  .submit = quick_submit,
                                                  .compare_write = quick_caw,
                                                  .direct = &quick_direct};

/* Of a thread; the second one only comes after the first has marked what it looks at. */
static _Thread_local uint32_t number;

static uint32_t my_number(void *ctx)
{
    (void)ctx;
    return number;
}

static void fence_all(void *ctx)
{
    (void)ctx;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void open_env(struct env *e, unsigned disks, bool threads)
{
    memset(e, 0, sizeof(*e));
    if (threads) {
        test_platform_init_threads(&e->tp);
        e->sync = *e->tp.pf.sync;
        e->sync.self = my_number;
        e->sync.fence_all = fence_all;
        e->tp.pf.sync = &e->sync;
    } else {
        test_platform_init(&e->tp);
    }
    for (unsigned i = 0; i < 2; i++) {
        test_disk_init(&e->disk[i], BYTES);
        e->disk[i].can_discard = true;
        test_path_init(&e->path[i], &e->disk[i]);
        e->quick[i].below = e->path[i].bd;
        e->quick[i].disk = &e->disk[i];
        e->bd[i] = (struct vmc_blockdev){.ops = &quick_ops, .ctx = &e->quick[i]};
    }
    struct vmc_vmfs_mkfs_config mk = {
        .size = sizeof(mk), .devs = e->bd, .dev_count = disks, .time_s = 1};
    assert_int_equal(vmc_vmfs_mkfs(&e->tp.pf, &mk, &e->err), VMC_OK);
    struct vmc_vmfs_mount_config mc = {
        .size = sizeof(mc), .devs = e->bd, .dev_count = disks, .flags = VMC_VMFS_EXCLUSIVE};
    assert_int_equal(vmc_vmfs_mount(&e->tp.pf, &mc, &e->v, &e->err), VMC_OK);
}

static void close_env(struct env *e)
{
    assert_int_equal(vmc_vmfs_unmount(e->v, &e->err), VMC_OK);
    for (unsigned i = 0; i < 2; i++)
        test_disk_fini(&e->disk[i]);
    test_platform_check(&e->tp);
}

static struct vmc_vmfs_file *open_file(struct env *e, const char *path)
{
    struct vmc_vmfs_file *f;

    assert_int_equal(
        vmc_vmfs_open(e->v, path, VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &e->err),
        VMC_OK);
    return f;
}

static void read_block(struct vmc_blockdev *bd, unsigned char *to, uint64_t offset)
{
    struct vmc_iovec iov = {.base = to, .bytes = BLOCK};
    struct vmc_block_req r = {
        .op = VMC_BLOCK_READ, .offset = offset, .bytes = BLOCK, .iov = &iov, .iov_count = 1};

    assert_int_equal(bd->ops->submit(bd->ctx, &r), VMC_BLOCK_COMPLETE);
    assert_int_equal(r.status, VMC_OK);
}

static bool in_window(const struct vmc_block_window *w, uint64_t offset, uint64_t bytes)
{
    return offset >= w->start && offset - w->start <= w->bytes &&
           bytes <= w->bytes - (offset - w->start);
}

static void windows_are_on_the_data_of_a_file(void **state)
{
    (void)state;
    struct env e;
    struct vmc_blockdev bd;
    struct vmc_block_mover m;
    struct vmc_block_window w;
    static unsigned char buf[BLOCK], got[BLOCK];

    open_env(&e, 1, false);
    struct vmc_vmfs_file *f = open_file(&e, "/f");
    assert_int_equal(vmc_vmfs_truncate(f, 20 * MIB, &e.err), VMC_OK);
    for (unsigned i = 0; i < 8; i++) { /* the blocks from 8 on are holes */
        memset(buf, (int)(0x40 + i), BLOCK);
        assert_int_equal(vmc_vmfs_pwrite(f, buf, BLOCK, i * MIB, &e.err), BLOCK);
    }
    assert_int_equal(vmc_vmfs_file_blockdev(f, &bd, &e.err), VMC_OK);
    assert_non_null(bd.ops->direct);
    const struct vmc_block_direct_ops *direct = bd.ops->direct;
    read_block(&bd, got, 0); /* loads the map */

    assert_true(direct->open(bd.ctx, &m));
    assert_true(e.quick[0].opened);
    assert_true(m.writable);
    for (unsigned i = 0; i < 16; i++) {
        uint64_t at = (i * 3 % 8) * MIB + (i % 2) * 512;
        assert_true(direct->window(bd.ctx, at, BLOCK, i % 4 > 1, &w));
        assert_true(in_window(&w, at, BLOCK));
        assert_true(w.start + w.bytes <= 8 * MIB);
        assert_int_equal(w.data[at - w.start], 0x40 + i * 3 % 8);
        if (i % 4 <= 1)
            assert_int_equal(w.bytes, BLOCK);
    }
    /* What needs a block first, what is in no block, or not in one. */
    const struct {
        uint64_t at, bytes;
    } none[] = {{12 * MIB, BLOCK},       {8 * MIB - 512, BLOCK}, {20 * MIB, 512},
                {UINT64_MAX - 511, 512}, {20 * MIB - 512, 1024}, {0, UINT64_MAX}};
    for (unsigned i = 0; i < 2 * sizeof(none) / sizeof(none[0]); i++)
        assert_false(direct->window(bd.ctx, none[i / 2].at, none[i / 2].bytes, i % 2, &w));
    assert_true(direct->window(bd.ctx, 5 * MIB, BLOCK, true, &w));
    m.move(m.ctx, w.data + (5 * MIB - w.start), got, BLOCK, false, NULL);
    memset(buf, 0x77, BLOCK);
    m.move(m.ctx, w.data + (5 * MIB - w.start), buf, BLOCK, true, NULL);
    direct->close(bd.ctx);
    assert_false(e.quick[0].opened);
    assert_int_equal(got[BLOCK - 1], 0x45);
    assert_int_equal(vmc_vmfs_pread(f, got, BLOCK, 5 * MIB, &e.err), BLOCK);
    assert_memory_equal(got, buf, BLOCK);

    e.quick[0].busy = true; /* no, says the device */
    assert_false(direct->open(bd.ctx, &m));
    e.quick[0].busy = false;
    assert_int_equal(vmc_vmfs_truncate(f, 4 * MIB, &e.err), VMC_OK); /* waits for nobody */
    assert_true(direct->open(bd.ctx, &m));
    assert_false(direct->window(bd.ctx, 5 * MIB, BLOCK, false, &w));
    direct->close(bd.ctx);
    assert_int_equal(vmc_vmfs_close(f, &e.err), VMC_OK);

    /* Opened for reading. */
    assert_int_equal(vmc_vmfs_open(e.v, "/f", VMC_VMFS_READ, &f, &e.err), VMC_OK);
    assert_int_equal(vmc_vmfs_file_blockdev(f, &bd, &e.err), VMC_OK);
    assert_true(bd.ops->direct->open(bd.ctx, &m));
    assert_false(m.writable);
    bd.ops->direct->close(bd.ctx);
    assert_int_equal(vmc_vmfs_close(f, &e.err), VMC_OK);
    close_env(&e);
}

struct cutter {
    struct env *e;
    struct vmc_vmfs_file *f;
    bool done;
};

static void *cut_off(void *arg)
{
    struct cutter *c = arg;

    number = 1;
    if (vmc_vmfs_truncate(c->f, MIB, &c->e->err) == VMC_OK)
        __atomic_store_n(&c->done, true, __ATOMIC_SEQ_CST);
    return NULL;
}

/* Blocks stay the file's for as long as somebody may look at them. */
static void a_window_keeps_its_blocks(void **state)
{
    (void)state;
    struct env e;
    struct vmc_blockdev bd;
    struct vmc_block_mover m;
    struct vmc_block_window w;
    static unsigned char buf[BLOCK];
    pthread_t thread;

    open_env(&e, 1, true);
    struct vmc_vmfs_file *f = open_file(&e, "/f");
    memset(buf, 0x5a, BLOCK);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(vmc_vmfs_pwrite(f, buf, BLOCK, i * MIB, &e.err), BLOCK);
    assert_int_equal(vmc_vmfs_file_blockdev(f, &bd, &e.err), VMC_OK);
    read_block(&bd, buf, 0);
    struct cutter c = {.e = &e, .f = f};
    assert_true(bd.ops->direct->open(bd.ctx, &m));
    assert_true(bd.ops->direct->window(bd.ctx, 2 * MIB, BLOCK, true, &w));
    assert_int_equal(pthread_create(&thread, NULL, cut_off, &c), 0);
    usleep(20000);
    assert_false(__atomic_load_n(&c.done, __ATOMIC_SEQ_CST));
    m.move(m.ctx, w.data + (2 * MIB - w.start), buf, BLOCK, false, NULL);
    bd.ops->direct->close(bd.ctx);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(c.done);
    assert_int_equal(buf[BLOCK - 1], 0x5a);
    assert_int_equal(vmc_vmfs_close(f, &e.err), VMC_OK);
    close_env(&e);
}

/* Across blocks that follow each other on the device. */
static void wide_windows_end_where_the_blocks_do(void **state)
{
    (void)state;
    enum { BLOCKS = 40, GAP = 30 }; /* more than are looked at; one that is elsewhere */
    struct env e;
    struct vmc_blockdev bd;
    struct vmc_block_mover m;
    struct vmc_block_window w;
    static unsigned char buf[MIB];

    open_env(&e, 1, false);
    struct vmc_vmfs_file *f = open_file(&e, "/f"), *g;
    for (unsigned i = 0; i < BLOCKS; i++) {
        if (i == GAP) {
            g = open_file(&e, "/g");
            assert_int_equal(vmc_vmfs_pwrite(g, buf, MIB, 0, &e.err), MIB);
            assert_int_equal(vmc_vmfs_close(g, &e.err), VMC_OK);
        }
        for (unsigned k = 0; k < MIB; k += 512)
            memcpy(buf + k, &(uint32_t){i * 2048 + k / 512}, 4);
        assert_int_equal(
            vmc_vmfs_pwrite(f, buf, MIB - (i == BLOCKS - 1 ? 512 : 0), i * MIB, &e.err),
            MIB - (i == BLOCKS - 1 ? 512 : 0));
    }
    assert_int_equal(vmc_vmfs_file_blockdev(f, &bd, &e.err), VMC_OK);
    read_block(&bd, buf, 0); /* loads the map */
    /* A window for the first, and whether the second is in it. */
    const struct {
        uint64_t first, at;
        bool with;
    } pair[] = {
        {0, MIB - 512, true},
        {5 * MIB, 2 * MIB - 512, true},
        {5 * MIB, 8 * MIB + 512, true},
        {20 * MIB, 29 * MIB + 4096, true},
        {29 * MIB, 30 * MIB - 512, false}, /* into the block that is elsewhere */
        {29 * MIB, 30 * MIB, false},
        {30 * MIB, 31 * MIB, true}, /* another run */
        {30 * MIB, 29 * MIB, false},
        {38 * MIB, 39 * MIB - 512, true},
        {38 * MIB, 40 * MIB - 4096, false}, /* past the end */
        {38 * MIB, 40 * MIB - 4608, true},
    };
    assert_true(bd.ops->direct->open(bd.ctx, &m));
    for (unsigned i = 0; i < sizeof(pair) / sizeof(pair[0]); i++) {
        assert_true(bd.ops->direct->window(bd.ctx, pair[i].first, BLOCK, true, &w));
        assert_true(in_window(&w, pair[i].first, BLOCK));
        assert_int_equal(in_window(&w, pair[i].at, BLOCK), pair[i].with);
        for (uint64_t at = w.start; at < w.start + w.bytes; at += 512)
            assert_memory_equal(w.data + (at - w.start), &(uint32_t){(uint32_t)(at / 512)}, 4);
    }
    bd.ops->direct->close(bd.ctx);
    assert_int_equal(vmc_vmfs_close(f, &e.err), VMC_OK);
    close_env(&e);
}

static unsigned blocks_with(struct env *e, unsigned char what)
{
    unsigned n = 0;

    for (unsigned i = 0; i < 2; i++)
        for (uint64_t at = 0x1100000; at < BYTES; at += MIB)
            n += e->disk[i].data[at] == what && e->disk[i].data[at + 1] == what;
    return n;
}

/* A guest's discard of a file in hundreds of pieces on two disks: all of them are given back. */
static void discards_reach_every_piece(void **state)
{
    (void)state;
    enum { N = 580 };
    struct env e;
    struct vmc_blockdev bd;
    struct vmc_vmfs_space before, after;
    static unsigned char ours[BLOCK], theirs[BLOCK], got[BLOCK];

    open_env(&e, 2, false);
    memset(ours, 0xa1, BLOCK);
    memset(theirs, 0xb2, BLOCK);
    struct vmc_vmfs_file *f = open_file(&e, "/f"), *g = open_file(&e, "/g");
    for (unsigned i = 0; i < N; i++) { /* no two blocks of /f are neighbours */
        assert_int_equal(vmc_vmfs_pwrite(f, ours, BLOCK, i * MIB, &e.err), BLOCK);
        assert_int_equal(vmc_vmfs_pwrite(g, theirs, BLOCK, i * MIB, &e.err), BLOCK);
    }
    assert_int_equal(blocks_with(&e, 0xa1), N);
    assert_int_equal(vmc_vmfs_space(e.v, &before, &e.err), VMC_OK);
    assert_int_equal(vmc_vmfs_file_blockdev(f, &bd, &e.err), VMC_OK);
    assert_null(bd.ops->direct); /* it is on two devices */
    struct vmc_block_req r = {
        .op = VMC_BLOCK_DISCARD, .offset = 10 * MIB + 512, .bytes = (N - 20) * MIB};
    assert_int_equal(bd.ops->submit(bd.ctx, &r), VMC_BLOCK_COMPLETE);
    assert_int_equal(r.status, VMC_OK);
    /* The blocks that lie in it as a whole. */
    assert_int_equal(vmc_vmfs_space(e.v, &after, &e.err), VMC_OK);
    assert_int_equal(after.blocks.free - before.blocks.free, N - 21);
    assert_int_equal(blocks_with(&e, 0xa1), 21);
    assert_int_equal(blocks_with(&e, 0xb2), N);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(vmc_vmfs_pread(f, got, BLOCK, i * MIB, &e.err), BLOCK);
        assert_int_equal(got[700], i < 11 || i >= N - 10 ? 0xa1 : 0);
    }
    assert_int_equal(vmc_vmfs_close(f, &e.err), VMC_OK);
    assert_int_equal(vmc_vmfs_close(g, &e.err), VMC_OK);
    close_env(&e);
}

struct async {
    struct vmc_blockdev below;
    struct vmc_block_req *held;
    unsigned asked;
};

static int async_info(void *ctx, struct vmc_block_info *out)
{
    const struct async *a = ctx;
    return a->below.ops->info(a->below.ctx, out);
}

static int async_caw(void *ctx, uint64_t off, const void *expect, const void *data, size_t bytes)
{
    const struct async *a = ctx;
    return a->below.ops->compare_write(a->below.ctx, off, expect, data, bytes);
}

/* Done when somebody looks. */
static int async_submit(void *ctx, struct vmc_block_req *r)
{
    struct async *a = ctx;

    assert_null(a->held);
    a->asked++;
    a->held = r;
    return VMC_BLOCK_PENDING;
}

static void async_poll(void *ctx)
{
    struct async *a = ctx;
    struct vmc_block_req *r = a->held;

    if (r == NULL)
        return;
    a->held = NULL;
    assert_int_equal(a->below.ops->submit(a->below.ctx, r), VMC_BLOCK_COMPLETE);
    r->done(r);
}

static const struct vmc_blockdev_ops async_ops = {
    .info = async_info, .submit = async_submit, .poll = async_poll, .compare_write = async_caw};

static void set_done(struct vmc_block_req *r)
{
    *(bool *)r->opaque = true;
}

static void request(struct vmc_blockdev *bd, uint32_t op, uint64_t at, unsigned char *buf, size_t n)
{
    bool done = false;
    struct vmc_iovec iov[2] = {{buf, n / 2}, {buf + n / 2, n - n / 2}};
    struct vmc_block_req r = {.op = op,
                              .offset = at,
                              .bytes = n,
                              .iov = iov,
                              .iov_count = 2,
                              .done = set_done,
                              .opaque = &done};

    if (bd->ops->submit(bd->ctx, &r) == VMC_BLOCK_PENDING)
        while (!done)
            bd->ops->poll(bd->ctx);
    assert_int_equal(r.status, VMC_OK);
}

/*
 * A file on two devices: a request inside a block is one request to its device, whichever that is;
 * one across blocks goes on where the next one is.
 */
static void a_file_on_two_devices(void **state)
{
    (void)state;
    enum { N = 1000 }; /* blocks: more than one device has */
    struct env e;
    struct async a[2] = {0};
    struct vmc_blockdev bd;
    static unsigned char buf[2 * BLOCK], got[2 * BLOCK];

    open_env(&e, 2, false);
    assert_int_equal(vmc_vmfs_unmount(e.v, &e.err), VMC_OK);
    for (unsigned i = 0; i < 2; i++) {
        a[i].below = e.path[i].bd;
        e.bd[i] = (struct vmc_blockdev){.ops = &async_ops, .ctx = &a[i]};
    }
    struct vmc_vmfs_mount_config mc = {
        .size = sizeof(mc), .devs = e.bd, .dev_count = 2, .flags = VMC_VMFS_EXCLUSIVE};
    assert_int_equal(vmc_vmfs_mount(&e.tp.pf, &mc, &e.v, &e.err), VMC_OK);
    struct vmc_vmfs_file *f = open_file(&e, "/f");
    assert_int_equal(vmc_vmfs_truncate(f, N * MIB, &e.err), VMC_OK);
    assert_int_equal(vmc_vmfs_allocate(f, 0, N * MIB, VMC_VMFS_ALLOC_LAZY, &e.err), VMC_OK);
    assert_int_equal(vmc_vmfs_file_blockdev(f, &bd, &e.err), VMC_OK);
    for (unsigned i = 0; i < N; i++) { /* makes blocks that are still to be zeroed usual ones */
        memset(buf, (int)(i % 251), 2 * BLOCK);
        request(&bd, VMC_BLOCK_WRITE, i * MIB, buf, BLOCK);
        request(&bd, VMC_BLOCK_WRITE, (i + 1) * MIB - BLOCK, buf, BLOCK);
    }
    unsigned on[2] = {0};
    for (unsigned i = 0; i < N; i++) {
        unsigned before[2] = {a[0].asked, a[1].asked};
        memset(buf, (int)(i % 251), BLOCK);
        request(&bd, VMC_BLOCK_READ, i * MIB, got, BLOCK);
        assert_memory_equal(got, buf, BLOCK);
        unsigned asked[2] = {a[0].asked - before[0], a[1].asked - before[1]};
        assert_int_equal(asked[0] + asked[1], 1);
        on[0] += asked[0];
        on[1] += asked[1];
        if (i == 0)
            continue;
        memset(buf, (int)((i - 1) % 251), BLOCK);
        memset(buf + BLOCK, (int)(i % 251), BLOCK);
        request(&bd, VMC_BLOCK_READ, i * MIB - BLOCK, got, 2 * BLOCK);
        assert_memory_equal(got, buf, 2 * BLOCK);
        request(&bd, VMC_BLOCK_WRITE, i * MIB - BLOCK, buf, 2 * BLOCK);
    }
    assert_true(on[0] > 100 && on[1] > 100);
    assert_int_equal(vmc_vmfs_close(f, &e.err), VMC_OK);
    close_env(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_are_on_the_data_of_a_file),
        cmocka_unit_test(a_window_keeps_its_blocks),
        cmocka_unit_test(wide_windows_end_where_the_blocks_do),
        cmocka_unit_test(discards_reach_every_piece),
        cmocka_unit_test(a_file_on_two_devices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
