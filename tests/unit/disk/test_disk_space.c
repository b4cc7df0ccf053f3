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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_place_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
