/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files as block devices on synchronous disks: requests that come several at a time, and discards,
 * on a volume of two extents.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "test_disk.h"
#include "test_platform.h"
#include <vmcore/vmfs.h>

#include <cmocka.h>

#define MIB   (1ull << 20)
#define BYTES (800 * MIB) /* of an extent */
#define BLOCK 4096u

/* A disk that says that it is done at once, and does lists of requests. */
struct quick {
    struct vmc_blockdev below;
    unsigned batches, in_batches;
};

struct env {
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

static uint32_t quick_batch(void *ctx, struct vmc_block_req *const *reqs, uint32_t count)
{
    struct quick *q = ctx;

    q->batches++;
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(quick_submit(ctx, reqs[i]), VMC_BLOCK_COMPLETE);
        q->in_batches++;
    }
    return count;
}

static const struct vmc_blockdev_ops quick_ops = {.info = quick_info,
                                                  .submit = quick_submit,
                                                  .compare_write = quick_caw,
                                                  .submit_batch = quick_batch};

static void open_env(struct env *e, unsigned disks)
{
    memset(e, 0, sizeof(*e));
    test_platform_init(&e->tp);
    for (unsigned i = 0; i < 2; i++) {
        test_disk_init(&e->disk[i], BYTES);
        e->disk[i].can_discard = true;
        test_path_init(&e->path[i], &e->disk[i]);
        e->quick[i].below = e->path[i].bd;
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

/* Requests of a block each. */
struct list {
    struct vmc_block_req req[16], *at[16];
    struct vmc_iovec iov[16];
    unsigned char buf[16][BLOCK];
    unsigned count;
};

static void add(struct list *l, uint32_t op, uint64_t offset)
{
    unsigned i = l->count++;

    l->iov[i] = (struct vmc_iovec){.base = l->buf[i], .bytes = BLOCK};
    l->req[i] = (struct vmc_block_req){.op = op,
                                       .offset = offset,
                                       .bytes = BLOCK,
                                       .iov = &l->iov[i],
                                       .iov_count = 1,
                                       .status = 77};
    l->at[i] = &l->req[i];
}

static void batches_end_where_one_has_to_wait(void **state)
{
    (void)state;
    struct env e;
    struct vmc_blockdev bd;
    static struct list l;
    static unsigned char got[BLOCK];

    open_env(&e, 2);
    struct vmc_vmfs_file *f = open_file(&e, "/f");
    assert_int_equal(vmc_vmfs_truncate(f, 20 * MIB, &e.err), VMC_OK);
    for (unsigned i = 0; i < 8; i++) /* the blocks from 8 on are holes */
        assert_int_equal(vmc_vmfs_pwrite(f, got, BLOCK, i * MIB, &e.err), BLOCK);
    assert_int_equal(vmc_vmfs_file_blockdev(f, &bd, &e.err), VMC_OK);
    assert_non_null(bd.ops->submit_batch);

    l.count = 0;
    for (unsigned i = 0; i < 5; i++) {
        add(&l, VMC_BLOCK_WRITE, (7 - i) * MIB + i * BLOCK);
        memset(l.buf[i], (int)(0x40 + i), BLOCK);
    }
    add(&l, VMC_BLOCK_READ, 3 * MIB);   /* zeros */
    add(&l, VMC_BLOCK_WRITE, 12 * MIB); /* a hole: needs a block first */
    add(&l, VMC_BLOCK_READ, 7 * MIB);
    memset(l.buf[5], 0xee, BLOCK);
    assert_int_equal(bd.ops->submit_batch(bd.ctx, l.at, l.count), 6);
    assert_int_equal(e.quick[0].in_batches + e.quick[1].in_batches, 6);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(l.req[i].status, i < 6 ? VMC_OK : 77);
        assert_int_equal(l.req[i].offset, i < 5    ? (7 - i) * MIB + i * BLOCK
                                          : i == 5 ? 3 * MIB
                                          : i == 6 ? 12 * MIB
                                                   : 7 * MIB);
    }
    assert_memory_equal(l.buf[5], got, BLOCK);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(vmc_vmfs_pread(f, got, BLOCK, (7 - i) * MIB + i * BLOCK, &e.err), BLOCK);
        assert_memory_equal(got, l.buf[i], BLOCK);
    }
    /* The hole goes the other way, and then the list goes on. */
    assert_int_equal(bd.ops->submit(bd.ctx, l.at[6]), VMC_BLOCK_COMPLETE);
    assert_int_equal(l.req[6].status, VMC_OK);
    assert_int_equal(bd.ops->submit_batch(bd.ctx, l.at + 7, 1), 1);
    assert_memory_equal(l.buf[7], l.buf[0], BLOCK);

    /* What is wrong is left to submit as well; nothing after it is done. */
    const uint64_t bad[] = {20 * MIB, UINT64_MAX - 100, 20 * MIB - 512, MIB - 512};
    for (unsigned i = 0; i < 4; i++) {
        l.count = 0;
        add(&l, VMC_BLOCK_READ, bad[i]);
        add(&l, VMC_BLOCK_READ, 0);
        assert_int_equal(bd.ops->submit_batch(bd.ctx, l.at, 2), 0);
        assert_int_equal(l.req[1].status, 77);
    }
    l.count = 0;
    add(&l, VMC_BLOCK_FLUSH, 0);
    assert_int_equal(bd.ops->submit_batch(bd.ctx, l.at, 1), 0);
    assert_int_equal(vmc_vmfs_close(f, &e.err), VMC_OK);

    /* Opened for reading: writes are left to submit, which refuses them. */
    assert_int_equal(vmc_vmfs_open(e.v, "/f", VMC_VMFS_READ, &f, &e.err), VMC_OK);
    assert_int_equal(vmc_vmfs_pread(f, got, BLOCK, 0, &e.err), BLOCK);
    assert_int_equal(vmc_vmfs_file_blockdev(f, &bd, &e.err), VMC_OK);
    l.count = 0;
    add(&l, VMC_BLOCK_READ, 0);
    add(&l, VMC_BLOCK_WRITE, 0);
    assert_int_equal(bd.ops->submit_batch(bd.ctx, l.at, 2), 1);
    assert_int_equal(bd.ops->submit(bd.ctx, l.at[1]), VMC_BLOCK_COMPLETE);
    assert_int_equal(l.req[1].status, VMC_EPERM);
    assert_int_equal(vmc_vmfs_close(f, &e.err), VMC_OK);
    close_env(&e);
}

static void batches_stay_on_one_device(void **state)
{
    (void)state;
    struct env e;
    struct vmc_blockdev bd;
    static struct list l;
    static unsigned char buf[BLOCK];

    open_env(&e, 2);
    struct vmc_vmfs_file *f = open_file(&e, "/f");
    /* More than one extent has. */
    for (unsigned i = 0; i < 800; i++) {
        memcpy(buf, &i, sizeof(i));
        assert_int_equal(vmc_vmfs_pwrite(f, buf, BLOCK, i * MIB, &e.err), BLOCK);
    }
    assert_int_equal(vmc_vmfs_file_blockdev(f, &bd, &e.err), VMC_OK);
    for (unsigned i = 0; i < 16; i++)
        add(&l, VMC_BLOCK_READ, (i < 10 ? i : 780 + i) * MIB);
    for (unsigned i = 0; i < 16; i++) /* loads the map */
        assert_int_equal(bd.ops->submit(bd.ctx, l.at[i]), VMC_BLOCK_COMPLETE);
    unsigned done = 0, calls = 0;
    while (done < 16) {
        unsigned n = bd.ops->submit_batch(bd.ctx, l.at + done, 16 - done);
        assert_in_range(n, 1, 16 - done);
        done += n;
        calls++;
    }
    assert_int_equal(calls, 2);
    assert_int_equal(e.quick[0].batches, 1);
    assert_int_equal(e.quick[1].batches, 1);
    for (unsigned i = 0; i < 16; i++) {
        unsigned want = i < 10 ? i : 780 + i;
        assert_memory_equal(l.buf[i], &want, sizeof(want));
    }
    assert_int_equal(vmc_vmfs_close(f, &e.err), VMC_OK);
    close_env(&e);
}

/* On one device: across blocks that follow each other there, once one of them was looked up. */
static void runs_of_blocks_end_where_they_end(void **state)
{
    (void)state;
    enum { BLOCKS = 40, GAP = 30 }; /* more than are looked at; one that is elsewhere */
    struct env e;
    struct vmc_blockdev bd;
    static struct list l;
    static unsigned char buf[MIB], got[BLOCK];

    open_env(&e, 1);
    struct vmc_vmfs_file *f = open_file(&e, "/f"), *g;
    for (unsigned i = 0; i < BLOCKS; i++) {
        if (i == GAP) {
            g = open_file(&e, "/g");
            assert_int_equal(vmc_vmfs_pwrite(g, buf, MIB, 0, &e.err), MIB);
            assert_int_equal(vmc_vmfs_close(g, &e.err), VMC_OK);
        }
        for (unsigned k = 0; k < MIB; k += 512)
            memcpy(buf + k, &(uint32_t){i * 4096 + k / 512}, 4);
        assert_int_equal(
            vmc_vmfs_pwrite(f, buf, MIB - (i == BLOCKS - 1 ? 512 : 0), i * MIB, &e.err),
            MIB - (i == BLOCKS - 1 ? 512 : 0));
    }
    assert_int_equal(vmc_vmfs_file_blockdev(f, &bd, &e.err), VMC_OK);
    l.count = 0;
    add(&l, VMC_BLOCK_READ, 0);
    assert_int_equal(bd.ops->submit(bd.ctx, l.at[0]), VMC_BLOCK_COMPLETE); /* loads the map */
    /* The first of a list, the one behind it, and whether that is done with it. */
    const struct {
        uint64_t first, at;
        bool with;
    } pair[] = {
        {0, MIB - 512, true},
        {5 * MIB, 2 * MIB - 512, true},
        {5 * MIB, 8 * MIB + 512, true},
        {20 * MIB, 29 * MIB + 4096, true},
        {29 * MIB, 30 * MIB - 512, false}, /* into the block that is elsewhere */
        {29 * MIB, 30 * MIB, true},        /* another run */
        {38 * MIB, 39 * MIB - 512, true},
        {38 * MIB, 40 * MIB - 4096, false}, /* past the end */
        {38 * MIB, 40 * MIB - 4608, true},
        {38 * MIB, UINT64_MAX - 511, false},
    };
    for (unsigned i = 0; i < sizeof(pair) / sizeof(pair[0]); i++) {
        l.count = 0;
        add(&l, VMC_BLOCK_READ, pair[i].first);
        add(&l, VMC_BLOCK_READ, pair[i].at);
        add(&l, VMC_BLOCK_READ, pair[i].first);
        memset(l.buf, 0xee, sizeof(l.buf));
        assert_int_equal(bd.ops->submit_batch(bd.ctx, l.at, 3), pair[i].with ? 3 : 1);
        for (unsigned k = 0; k < 3; k++) {
            bool done = k == 0 || pair[i].with;
            uint64_t at = k == 1 ? pair[i].at : pair[i].first;
            assert_int_equal(l.req[k].status, done ? VMC_OK : 77);
            assert_int_equal(l.req[k].offset, at);
            for (unsigned s = 0; done && s < BLOCK; s += 512) {
                memcpy(got, l.buf[k] + s, 4);
                assert_memory_equal(
                    got, &(uint32_t){(uint32_t)((at + s) / MIB * 4096 + (at + s) % MIB / 512)}, 4);
            }
        }
    }
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

    open_env(&e, 2);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_end_where_one_has_to_wait),
        cmocka_unit_test(batches_stay_on_one_device),
        cmocka_unit_test(runs_of_blocks_end_where_they_end),
        cmocka_unit_test(discards_reach_every_piece),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
