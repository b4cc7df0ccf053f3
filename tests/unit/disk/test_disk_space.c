/* SPDX-License-Identifier: BSD-2-Clause */
/* Redo logs whose files find no space for a while: what is tried again costs nothing, and is not
 * lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/disk.h>
#include "disk_rig.h"
#include "test_platform.h"

#include <cmocka.h>

#define SIZE  (8u << 20)
#define TRIES 5000u
#define CHUNK (64u << 10)

static int io(struct vmc_disk *d, uint32_t op, uint64_t off, void *buf, size_t n)
{
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    struct vmc_iovec iov = {.base = buf, .bytes = n};
    struct vmc_block_req r = {
        .op = op, .offset = off, .bytes = n, .iov = &iov, .iov_count = buf != NULL};
    assert_int_equal(bd.ops->submit(bd.ctx, &r), VMC_BLOCK_COMPLETE);
    return r.status;
}

static struct vmc_disk *snapshot(struct env *e, uint32_t format)
{
    struct vmc_disk *d;

    env_init(e);
    ok(e, vmc_disk_create(&e->tp.pf, &e->files, "a.vmdk", SIZE, VMC_DISK_THIN, &e->err));
    ok(e, vmc_disk_snapshot(&e->tp.pf, &e->files, "a.vmdk", "b.vmdk", format, &e->err));
    ok(e, vmc_disk_open(&e->tp.pf, &e->files, "b.vmdk", true, &d, &e->err));
    return d;
}

/* Length of the log after a few writes, the second of which (and parts of grains) fails often. */
static uint64_t length(uint32_t format, unsigned tries)
{
    struct env e;
    struct vmc_disk *d = snapshot(&e, format);
    static unsigned char buf[CHUNK], back[CHUNK];
    unsigned failed = 0;

    memset(buf, 1, sizeof(buf));
    ok(&e, io(d, VMC_BLOCK_WRITE, 0, buf, CHUNK));
    e.mem.no_space = tries;
    memset(buf, 2, sizeof(buf));
    while (io(d, VMC_BLOCK_WRITE, SIZE / 2, buf, CHUNK) == VMC_ENOSPC)
        failed++;
    e.mem.no_space = tries;
    while (io(d, VMC_BLOCK_WRITE, 3 * CHUNK + 512, buf, 512) == VMC_ENOSPC)
        failed++;
    assert_int_equal(failed, 2 * tries);
    ok(&e, vmc_disk_close(d));
    const char *name = format == VMC_DISK_COWD ? "b-delta.vmdk" : "b-sesparse.vmdk";
    assert_non_null(mem_files_find(&e.mem, name));
    uint64_t bytes = mem_files_find(&e.mem, name)->bytes;

    ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "b.vmdk", false, &d, &e.err));
    ok(&e, io(d, VMC_BLOCK_READ, SIZE / 2, back, CHUNK));
    assert_memory_equal(back, buf, CHUNK);
    ok(&e, io(d, VMC_BLOCK_READ, 3 * CHUNK + 512, back, 512));
    assert_memory_equal(back, buf, 512);
    ok(&e, io(d, VMC_BLOCK_READ, 0, back, CHUNK));
    memset(buf, 1, sizeof(buf));
    assert_memory_equal(back, buf, CHUNK);
    ok(&e, vmc_disk_close(d));
    env_fini(&e);
    return bytes;
}

static void test_place_is_kept(void **state)
{
    (void)state;
    assert_int_equal(length(VMC_DISK_COWD, TRIES), length(VMC_DISK_COWD, 0));
    assert_int_equal(length(VMC_DISK_SESPARSE, TRIES), length(VMC_DISK_SESPARSE, 0));
}

/* Tables that find no space stay in memory and are written by a later flush. */
static void tables_wait(uint32_t format)
{
    struct env e;
    struct vmc_disk *d = snapshot(&e, format);
    static unsigned char buf[CHUNK], back[CHUNK];

    memset(buf, 3, sizeof(buf));
    for (unsigned skip = 1; skip <= 2; skip++) {
        ok(&e, io(d, VMC_BLOCK_WRITE, skip * CHUNK, buf, CHUNK));
        e.mem.no_space = skip;
        for (unsigned i = 0; i < skip; i++)
            assert_int_equal(io(d, VMC_BLOCK_FLUSH, 0, NULL, 0), VMC_ENOSPC);
        ok(&e, io(d, VMC_BLOCK_FLUSH, 0, NULL, 0));
    }
    ok(&e, vmc_disk_close(d));
    ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "b.vmdk", false, &d, &e.err));
    for (unsigned skip = 1; skip <= 2; skip++) {
        ok(&e, io(d, VMC_BLOCK_READ, skip * CHUNK, back, CHUNK));
        assert_memory_equal(back, buf, CHUNK);
    }
    ok(&e, vmc_disk_close(d));
    env_fini(&e);
}

/* A flush of the file that fails may have lost what was written: no later one says that all is
 * well. */
static void flush_fails(uint32_t format)
{
    struct env e;
    struct vmc_disk *d = snapshot(&e, format);
    static unsigned char buf[CHUNK];

    ok(&e, io(d, VMC_BLOCK_WRITE, 0, buf, CHUNK));
    ok(&e, io(d, VMC_BLOCK_FLUSH, 0, NULL, 0));
    ok(&e, io(d, VMC_BLOCK_WRITE, CHUNK, buf, CHUNK));
    e.mem.flush_status = VMC_ENOSPC;
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(io(d, VMC_BLOCK_FLUSH, 0, NULL, 0), VMC_EIO);
    assert_int_equal(vmc_disk_close(d), VMC_EIO);
    ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "b.vmdk", true, &d, &e.err));
    ok(&e, io(d, VMC_BLOCK_FLUSH, 0, NULL, 0));
    ok(&e, vmc_disk_close(d));
    env_fini(&e);
}

static void test_flush(void **state)
{
    (void)state;
    tables_wait(VMC_DISK_COWD);
    tables_wait(VMC_DISK_SESPARSE);
    flush_fails(VMC_DISK_COWD);
    flush_fails(VMC_DISK_SESPARSE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_place_is_kept),
        cmocka_unit_test(test_flush),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
