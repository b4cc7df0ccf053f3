/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests on a file whose blocks are scattered, on a device that does nothing until it is kicked:
 * a request is many of the device's, and every one of them has to be set going.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "test_disk.h"
#include "test_platform.h"
#include <vmcore/vmfs.h>

#include <cmocka.h>

#define MIB    (1ull << 20)
#define QUEUE  64
#define BLOCKS 12

struct lazy {
    struct vmc_blockdev below;
    struct vmc_block_req *queue[QUEUE];
    unsigned queued, served;
    bool on; /* off: requests are done at once */
};

static int lazy_info(void *ctx, struct vmc_block_info *out)
{
    struct lazy *l = ctx;
    return l->below.ops->info(l->below.ctx, out);
}

static int lazy_submit(void *ctx, struct vmc_block_req *r)
{
    struct lazy *l = ctx;

    if (!l->on)
        return l->below.ops->submit(l->below.ctx, r);
    assert_true(l->queued < QUEUE);
    l->queue[l->queued++] = r;
    return VMC_BLOCK_PENDING;
}

static void lazy_kick(void *ctx)
{
    struct lazy *l = ctx;
    struct vmc_block_req *now[QUEUE];
    unsigned n = l->queued;

    memcpy(now, l->queue, n * sizeof(now[0]));
    l->queued = 0;
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(l->below.ops->submit(l->below.ctx, now[i]), VMC_BLOCK_COMPLETE);
        l->served++;
        now[i]->done(now[i]);
    }
}

static int lazy_caw(void *ctx, uint64_t off, const void *expect, const void *data, size_t bytes)
{
    struct lazy *l = ctx;
    return l->below.ops->compare_write(l->below.ctx, off, expect, data, bytes);
}

static const struct vmc_blockdev_ops lazy_ops = {
    .info = lazy_info, .submit = lazy_submit, .kick = lazy_kick, .compare_write = lazy_caw};

static void finished(struct vmc_block_req *r)
{
    *(bool *)r->opaque = true;
}

/* Across two blocks, in more pieces than are passed on at a time, none of which is of whole sectors. */
static void odd_pieces(struct vmc_blockdev file, unsigned char *expect)
{
    struct vmc_iovec iov[41];
    unsigned char data[8192 - 512], *at = data;
    bool done = false;
    struct vmc_block_req r = {.offset = MIB - 4096,
                              .bytes = sizeof(data),
                              .iov = iov,
                              .iov_count = 41,
                              .done = finished,
                              .opaque = &done};

    for (unsigned i = 0; i < 41; i++) {
        iov[i] = (struct vmc_iovec){.base = at, .bytes = i < 40 ? 100 + i : sizeof(data) - 4780};
        at += iov[i].bytes;
    }
    assert_ptr_equal(at, data + sizeof(data));
    for (unsigned i = 0; i < 4; i++) {
        r.op = i % 2 == 0 ? VMC_BLOCK_READ : VMC_BLOCK_WRITE;
        if (r.op == VMC_BLOCK_WRITE) {
            memset(data, 0x80 + (int)i, sizeof(data));
            memset(expect + r.offset, 0x80 + (int)i, sizeof(data));
        }
        if (file.ops->submit(file.ctx, &r) == VMC_BLOCK_PENDING)
            file.ops->kick(file.ctx);
        assert_int_equal(r.status, VMC_OK);
        assert_memory_equal(data, expect + r.offset, sizeof(data));
    }
}

static void every_piece_is_kicked(void **state)
{
    (void)state;
    struct test_platform tp;
    struct test_disk disk;
    struct test_path path;
    struct lazy l = {0};
    struct vmc_vmfs *v;
    struct vmc_vmfs_file *f, *other;
    struct vmc_error err;
    unsigned char *buf = malloc(BLOCKS * MIB), *got = malloc(BLOCKS * MIB);

    test_platform_init(&tp);
    test_disk_init(&disk, 400 * MIB);
    test_path_init(&path, &disk);
    l.below = path.bd;
    struct vmc_blockdev bd = {.ops = &lazy_ops, .ctx = &l};
    struct vmc_vmfs_mkfs_config mk = {.size = sizeof(mk), .devs = &bd, .dev_count = 1, .time_s = 1};
    assert_int_equal(vmc_vmfs_mkfs(&tp.pf, &mk, &err), VMC_OK);
    struct vmc_vmfs_mount_config mc = {
        .size = sizeof(mc), .devs = &bd, .dev_count = 1, .flags = VMC_VMFS_EXCLUSIVE};
    assert_int_equal(vmc_vmfs_mount(&tp.pf, &mc, &v, &err), VMC_OK);
    uint32_t how = VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE;
    assert_int_equal(vmc_vmfs_open(v, "/f", how, &f, &err), VMC_OK);
    assert_int_equal(vmc_vmfs_open(v, "/other", how, &other, &err), VMC_OK);
    /* Block by block in turns: no two of /f's blocks are neighbours. */
    for (unsigned i = 0; i < BLOCKS; i++) {
        memset(buf + i * MIB, (int)i + 1, MIB);
        assert_int_equal(vmc_vmfs_pwrite(f, buf + i * MIB, MIB, i * MIB, &err), MIB);
        assert_int_equal(vmc_vmfs_pwrite(other, buf, MIB, i * MIB, &err), MIB);
    }
    struct vmc_blockdev file;
    assert_int_equal(vmc_vmfs_file_blockdev(f, &file, &err), VMC_OK);
    assert_int_equal(vmc_vmfs_pread(f, got, BLOCKS * MIB, 0, &err),
                     BLOCKS * MIB); /* loads the map */

    l.on = true;
    bool done = false;
    struct vmc_iovec iov = {.base = got, .bytes = BLOCKS * MIB - 1024};
    struct vmc_block_req r = {.op = VMC_BLOCK_READ,
                              .offset = 512,
                              .bytes = iov.bytes,
                              .iov = &iov,
                              .iov_count = 1,
                              .done = finished,
                              .opaque = &done};
    memset(got, 0, BLOCKS * MIB);
    int rc = file.ops->submit(file.ctx, &r);
    if (rc == VMC_BLOCK_PENDING) {
        file.ops->kick(file.ctx); /* once: what follows has to come by itself */
        assert_true(done);
    }
    assert_int_equal(r.status, VMC_OK);
    assert_true(l.served > 1);
    assert_memory_equal(got, buf + 512, BLOCKS * MIB - 1024);
    odd_pieces(file, buf);
    l.on = false;
    assert_int_equal(vmc_vmfs_close(f, &err), VMC_OK);
    assert_int_equal(vmc_vmfs_close(other, &err), VMC_OK);
    assert_int_equal(vmc_vmfs_unmount(v, &err), VMC_OK);
    test_disk_fini(&disk);
    test_platform_check(&tp);
    free(buf);
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_piece_is_kicked)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
