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
    const struct CMUnitTest tests[] = {cmocka_unit_test(vmfs5), cmocka_unit_test(vmfs3)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
