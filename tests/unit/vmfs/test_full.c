/* SPDX-License-Identifier: BSD-2-Clause */
/* Small files and folders on a volume whose sub-blocks have run out: file blocks hold them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test_disk.h"
#include "test_platform.h"
#include <vmcore/vmfs.h>

#include <cmocka.h>

#define MIB   (1ull << 20)
#define BYTES 5000u /* more than fits a descriptor, less than a sub-block */
#define FILES 150u
#define SUBS  64u

enum { BLOCKS = 1, SUB_BLOCKS = 2 }; /* layouts */

struct volume {
    struct test_platform tp;
    struct test_disk disk;
    struct test_path path;
    struct vmc_vmfs *v;
    struct vmc_error err;
};

static void open_volume(struct volume *x)
{
    struct vmc_vmfs_mount_config mc = {
        .size = sizeof(mc), .devs = &x->path.bd, .dev_count = 1, .flags = VMC_VMFS_EXCLUSIVE};

    assert_int_equal(vmc_vmfs_mount(&x->tp.pf, &mc, &x->v, &x->err), VMC_OK);
}

static uint64_t errors(struct volume *x)
{
    struct vmc_vmfs_fsck_config fc = {.size = sizeof(fc)};
    struct vmc_vmfs_fsck_result r = {0};

    assert_int_equal(vmc_vmfs_fsck(x->v, &fc, &r, &x->err), VMC_OK);
    return r.errors;
}

static unsigned char byte_of(unsigned i, unsigned at)
{
    return (unsigned char)(i * 7 + at / 512);
}

static void put_file(struct volume *x, const char *path, unsigned i)
{
    unsigned char buf[BYTES];
    struct vmc_vmfs_file *f;

    for (unsigned at = 0; at < BYTES; at++)
        buf[at] = byte_of(i, at);
    assert_int_equal(
        vmc_vmfs_open(x->v, path, VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &x->err),
        VMC_OK);
    assert_int_equal(vmc_vmfs_pwrite(f, buf, BYTES, 0, &x->err), BYTES);
    assert_int_equal(vmc_vmfs_close(f, &x->err), VMC_OK);
}

static void check_file(struct volume *x, const char *path, unsigned i)
{
    unsigned char buf[BYTES + 1];
    struct vmc_vmfs_file *f;

    assert_int_equal(vmc_vmfs_open(x->v, path, VMC_VMFS_READ, &f, &x->err), VMC_OK);
    assert_int_equal(vmc_vmfs_pread(f, buf, sizeof(buf), 0, &x->err), BYTES);
    for (unsigned at = 0; at < BYTES; at++)
        assert_int_equal(buf[at], byte_of(i, at));
    assert_int_equal(vmc_vmfs_close(f, &x->err), VMC_OK);
}

static void small_things_go_on_without_sub_blocks(uint32_t version)
{
    struct volume x = {0};
    struct vmc_vmfs_stat st = {0};
    char path[32];

    test_platform_init(&x.tp);
    test_disk_init(&x.disk, 1024 * MIB);
    test_path_init(&x.path, &x.disk);
    struct vmc_vmfs_mkfs_config mk = {.size = sizeof(mk),
                                      .devs = &x.path.bd,
                                      .dev_count = 1,
                                      .version = version,
                                      .fds = 600,
                                      .sub_blocks = SUBS,
                                      .time_s = 1};
    assert_int_equal(vmc_vmfs_mkfs(&x.tp.pf, &mk, &x.err), VMC_OK);
    open_volume(&x);
    for (unsigned i = 0; i < FILES; i++) {
        snprintf(path, sizeof(path), "/d%u", i);
        assert_int_equal(vmc_vmfs_mkdir(x.v, path, 0700, &x.err), VMC_OK);
        snprintf(path, sizeof(path), "/d%u/f", i);
        put_file(&x, path, i);
    }
    assert_int_equal(vmc_vmfs_stat(x.v, path, &st, &x.err), VMC_OK);
    assert_int_equal(st.layout, BLOCKS); /* they have run out */
    assert_int_equal(errors(&x), 0);
    assert_int_equal(vmc_vmfs_unmount(x.v, &x.err), VMC_OK);
    open_volume(&x);
    for (unsigned i = 0; i < FILES; i++) {
        snprintf(path, sizeof(path), "/d%u/f", i);
        check_file(&x, path, i);
    }
    /* A hole needs a sub-block when it is written, and none is left to give. */
    struct vmc_vmfs_file *f;
    assert_int_equal(vmc_vmfs_open(x.v, "/hole", VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &x.err),
                     VMC_OK);
    assert_int_equal(vmc_vmfs_truncate(f, BYTES, &x.err), VMC_OK);
    assert_int_equal(vmc_vmfs_close(f, &x.err), VMC_OK);
    put_file(&x, "/hole", 5);
    check_file(&x, "/hole", 5);
    assert_int_equal(errors(&x), 0);
    /* Freed sub-blocks are used again. */
    for (unsigned i = 0; i < FILES; i++) {
        snprintf(path, sizeof(path), "/d%u/f", i);
        assert_int_equal(vmc_vmfs_remove(x.v, path, &x.err), VMC_OK);
    }
    put_file(&x, "/d0/again", 3);
    check_file(&x, "/d0/again", 3);
    assert_int_equal(vmc_vmfs_stat(x.v, "/d0/again", &st, &x.err), VMC_OK);
    assert_int_equal(st.layout, SUB_BLOCKS);
    assert_int_equal(errors(&x), 0);
    assert_int_equal(vmc_vmfs_unmount(x.v, &x.err), VMC_OK);
    test_disk_fini(&x.disk);
    test_platform_check(&x.tp);
}

/* A device that has no space below it, now and then. */
struct thin {
    struct vmc_blockdev below;
    bool full;
};

static int thin_info(void *ctx, struct vmc_block_info *out)
{
    struct thin *t = ctx;
    return t->below.ops->info(t->below.ctx, out);
}

static int thin_submit(void *ctx, struct vmc_block_req *r)
{
    struct thin *t = ctx;

    if (!t->full || (r->op != VMC_BLOCK_WRITE && r->op != VMC_BLOCK_WRITE_ZEROES))
        return t->below.ops->submit(t->below.ctx, r);
    r->status = VMC_ENOSPC;
    return VMC_BLOCK_COMPLETE;
}

static const struct vmc_blockdev_ops thin_ops = {.info = thin_info, .submit = thin_submit};

static bool said(struct volume *x, struct vmc_blockdev bd, uint32_t op, uint64_t off, int expected)
{
    static unsigned char buf[4096];
    struct vmc_iovec iov = {.base = buf, .bytes = sizeof(buf)};
    struct vmc_block_req r = {.op = op,
                              .offset = off,
                              .bytes = sizeof(buf),
                              .iov = &iov,
                              .iov_count = op == VMC_BLOCK_WRITE};

    x->tp.last_log[0] = '\0';
    assert_int_equal(bd.ops->submit(bd.ctx, &r), VMC_BLOCK_COMPLETE);
    assert_int_equal(r.status, expected);
    return x->tp.last_log[0] != '\0';
}

static struct vmc_vmfs_file *open_file(struct volume *x, const char *path)
{
    struct vmc_vmfs_file *f;

    assert_int_equal(
        vmc_vmfs_open(x->v, path, VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &x->err),
        VMC_OK);
    return f;
}

/* Whoever tries the same write every second is told once, until there was space in between. */
static void said_once(void **state)
{
    struct volume x = {0};
    struct thin thin = {0};
    struct vmc_blockdev bd;
    struct vmc_vmfs_file *f, *filler;
    uint64_t at = 0;

    (void)state;
    test_platform_init(&x.tp);
    test_disk_init(&x.disk, 1024 * MIB);
    test_path_init(&x.path, &x.disk);
    thin.below = x.path.bd;
    x.path.bd = (struct vmc_blockdev){.ops = &thin_ops, .ctx = &thin};
    struct vmc_vmfs_mkfs_config mk = {.size = sizeof(mk),
                                      .devs = &x.path.bd,
                                      .dev_count = 1,
                                      .version = 5,
                                      .fds = 600,
                                      .sub_blocks = SUBS,
                                      .time_s = 1};
    assert_int_equal(vmc_vmfs_mkfs(&x.tp.pf, &mk, &x.err), VMC_OK);
    open_volume(&x);
    f = open_file(&x, "/thin");
    assert_int_equal(vmc_vmfs_truncate(f, 900 * MIB, &x.err), VMC_OK);
    assert_int_equal(vmc_vmfs_pwrite(f, "x", 1, 0, &x.err), 1);
    assert_int_equal(vmc_vmfs_close(f, &x.err), VMC_OK);
    filler = open_file(&x, "/filler");
    while (vmc_vmfs_allocate(filler, at, MIB, VMC_VMFS_ALLOC_LAZY, &x.err) == VMC_OK)
        at += MIB;
    assert_int_equal(vmc_vmfs_close(filler, &x.err), VMC_OK);
    assert_int_equal(vmc_vmfs_unmount(x.v, &x.err), VMC_OK);

    open_volume(&x);
    f = open_file(&x, "/thin");
    assert_int_equal(vmc_vmfs_file_blockdev(f, &bd, &x.err), VMC_OK);
    assert_true(said(&x, bd, VMC_BLOCK_WRITE, 800 * MIB, VMC_ENOSPC));
    assert_false(said(&x, bd, VMC_BLOCK_WRITE, 800 * MIB, VMC_ENOSPC));
    assert_false(said(&x, bd, VMC_BLOCK_WRITE, 0, VMC_OK)); /* of what is there */
    assert_false(said(&x, bd, VMC_BLOCK_WRITE, 800 * MIB, VMC_ENOSPC));
    filler = open_file(&x, "/filler");
    assert_int_equal(vmc_vmfs_truncate(filler, at - MIB, &x.err), VMC_OK);
    assert_false(said(&x, bd, VMC_BLOCK_WRITE, 800 * MIB, VMC_OK));
    assert_int_equal(vmc_vmfs_close(filler, &x.err), VMC_OK);
    assert_true(said(&x, bd, VMC_BLOCK_WRITE, 700 * MIB, VMC_ENOSPC));
    assert_int_equal(vmc_vmfs_close(f, &x.err), VMC_OK);
    assert_int_equal(vmc_vmfs_unmount(x.v, &x.err), VMC_OK);

    open_volume(&x);
    f = open_file(&x, "/thin");
    assert_int_equal(vmc_vmfs_file_blockdev(f, &bd, &x.err), VMC_OK);
    thin.full = true;
    assert_true(said(&x, bd, VMC_BLOCK_WRITE_ZEROES, 0, VMC_ENOSPC));
    assert_false(said(&x, bd, VMC_BLOCK_WRITE_ZEROES, 0, VMC_ENOSPC));
    thin.full = false;
    assert_false(said(&x, bd, VMC_BLOCK_WRITE_ZEROES, 0, VMC_OK));
    assert_int_equal(vmc_vmfs_close(f, &x.err), VMC_OK);
    assert_int_equal(vmc_vmfs_unmount(x.v, &x.err), VMC_OK);
    test_disk_fini(&x.disk);
    test_platform_check(&x.tp);
}

static void vmfs5(void **state)
{
    (void)state;
    small_things_go_on_without_sub_blocks(5);
}

static void vmfs3(void **state)
{
    (void)state;
    small_things_go_on_without_sub_blocks(3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(vmfs5), cmocka_unit_test(vmfs3),
                                       cmocka_unit_test(said_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
