/* SPDX-License-Identifier: BSD-2-Clause */
/* Formatting: sizes, versions, extents, partitions; and the bytes of a known volume. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "example_dump.h"
#include "test_disk.h"
#include "test_platform.h"
#include "vmfs/vmfs_priv.h"

#include <cmocka.h>

#define MIB (1ull << 20)

struct env {
    struct test_platform tp;
    struct test_disk disk[8];
    struct test_path path[8];
    struct vmc_blockdev bd[8];
    uint32_t disks;
    struct vmc_error err;
};

static void env_init(struct env *e, uint32_t disks, uint64_t bytes)
{
    memset(e, 0, sizeof(*e));
    test_platform_init(&e->tp);
    e->disks = disks;
    for (uint32_t i = 0; i < disks; i++) {
        test_disk_init(&e->disk[i], bytes);
        test_path_init(&e->path[i], &e->disk[i]);
        e->bd[i] = e->path[i].bd;
    }
}

static void env_fini(struct env *e)
{
    for (uint32_t i = 0; i < e->disks; i++)
        test_disk_fini(&e->disk[i]);
    test_platform_check(&e->tp);
}

static void ok(struct env *e, int rc)
{
    if (rc < 0)
        fail_msg("%s: %s", vmc_status_name(rc), e->err.text);
}

static struct vmc_vmfs_mkfs_config mkfs_config(struct env *e, uint32_t version)
{
    return (struct vmc_vmfs_mkfs_config){.size = sizeof(struct vmc_vmfs_mkfs_config),
                                         .version = version,
                                         .devs = e->bd,
                                         .dev_count = e->disks,
                                         .label = "EXAMPLE",
                                         .time_s = 0x4f000003};
}

static struct vmc_vmfs *mount(struct env *e, uint32_t flags)
{
    struct vmc_vmfs *v;
    struct vmc_vmfs_mount_config cfg = {
        .size = sizeof(cfg), .flags = flags, .devs = e->bd, .dev_count = e->disks};
    ok(e, vmc_vmfs_mount(&e->tp.pf, &cfg, &v, &e->err));
    return v;
}

static void put(struct env *e, struct vmc_vmfs *v, const char *path, const void *data, size_t n)
{
    struct vmc_vmfs_file *f;
    ok(e, vmc_vmfs_open(v, path, VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &e->err));
    int64_t got = vmc_vmfs_pwrite(f, data, n, 0, &e->err);
    ok(e, (int)(got < 0 ? got : 0));
    assert_int_equal(got, n);
    ok(e, vmc_vmfs_close(f, &e->err));
}

static void check_file(struct env *e, struct vmc_vmfs *v, const char *path, const void *data,
                       size_t n)
{
    struct vmc_vmfs_file *f;
    char *buf = malloc(n + 1);
    ok(e, vmc_vmfs_open(v, path, VMC_VMFS_READ, &f, &e->err));
    int64_t got = vmc_vmfs_pread(f, buf, n + 1, 0, &e->err);
    assert_int_equal(got, n);
    assert_memory_equal(buf, data, n);
    ok(e, vmc_vmfs_close(f, &e->err));
    free(buf);
}

/* A fresh volume of each version can be written, unmounted, mounted and read. */
static void roundtrip(uint32_t version, uint32_t block_mib, bool partition, uint32_t disks)
{
    struct env e;
    env_init(&e, disks, 600 * MIB);
    struct vmc_vmfs_mkfs_config c = mkfs_config(&e, version);
    c.partition = partition;
    c.block_bytes = block_mib << 20;
    ok(&e, vmc_vmfs_mkfs(&e.tp.pf, &c, &e.err));

    struct vmc_vmfs *v = mount(&e, 0);
    struct vmc_vmfs_info info;
    vmc_vmfs_info(v, &info);
    assert_int_equal(info.version, version);
    assert_int_equal(info.extents, disks);
    assert_string_equal(info.label, "EXAMPLE");
    assert_int_equal(info.partition_offset, !partition ? 0 : version == 3 ? 65536 : MIB);
    ok(&e, vmc_vmfs_mkdir(v, "/dir", 0755, &e.err));
    char *big = malloc(5 * MIB + 77);
    for (size_t i = 0; i < 5 * MIB + 77; i++)
        big[i] = (char)(i * 7 + i / 4096);
    put(&e, v, "/dir/empty", "", 0);
    put(&e, v, "/dir/hello.txt", "hello vmfs\n", 11);
    put(&e, v, "/dir/five.bin", big, 5000);
    put(&e, v, "/big", big, 5 * MIB + 77);
    ok(&e, vmc_vmfs_unmount(v, &e.err));

    v = mount(&e, VMC_VMFS_RDONLY);
    check_file(&e, v, "/dir/hello.txt", "hello vmfs\n", 11);
    check_file(&e, v, "/dir/five.bin", big, 5000);
    check_file(&e, v, "/big", big, 5 * MIB + 77);
    struct vmc_vmfs_space sp;
    ok(&e, vmc_vmfs_space(v, &sp, &e.err));
    assert_true(sp.blocks.free < sp.blocks.total);
    ok(&e, vmc_vmfs_unmount(v, &e.err));
    free(big);
    env_fini(&e);
}

static void vmfs5(void **state)
{
    (void)state;
    roundtrip(5, 0, false, 1);
}
static void vmfs5_gpt(void **state)
{
    (void)state;
    roundtrip(5, 0, true, 1);
}
static void vmfs5_three_extents(void **state)
{
    (void)state;
    roundtrip(5, 0, true, 3);
}
static void vmfs3_mbr(void **state)
{
    (void)state;
    roundtrip(3, 1, true, 1);
}
static void vmfs3_eight_mib(void **state)
{
    (void)state;
    roundtrip(3, 8, false, 2);
}

/* What cannot be made leaves the devices as they are, partition tables included. */
static void nothing_is_written_before_all_is_checked(void **state)
{
    (void)state;
    const struct {
        uint32_t version, block_bytes, fds, pointer_blocks;
        bool small; /* the second device */
        int status;
    } bad[] = {
        {.version = 5, .block_bytes = 2u << 20, .status = VMC_EINVAL},
        {.version = 3, .block_bytes = 3u << 20, .status = VMC_EINVAL},
        {.version = 5, .fds = 4000000, .status = VMC_ENOSPC},
        {.version = 5, .pointer_blocks = 4000000, .status = VMC_ELIMIT},
        {.version = 6, .fds = 4000000, .status = VMC_ELIMIT},
        {.version = 5, .small = true, .status = VMC_EINVAL},
        {.version = 3, .small = true, .status = VMC_EINVAL},
    };

    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct env e;
        env_init(&e, 2, 600 * MIB);
        if (bad[i].small)
            e.disk[1].bytes = 100 * MIB;
        struct vmc_vmfs_mkfs_config c = mkfs_config(&e, bad[i].version);
        c.partition = true;
        c.experimental = true;
        c.block_bytes = bad[i].block_bytes;
        c.fds = bad[i].fds;
        c.pointer_blocks = bad[i].pointer_blocks;
        assert_int_equal(vmc_vmfs_mkfs(&e.tp.pf, &c, &e.err), bad[i].status);
        assert_int_equal(e.disk[0].writes + e.disk[1].writes, 0);
        if (bad[i].small)
            e.disk[1].bytes = 600 * MIB;
        env_fini(&e);
    }
}

static void compare(const struct env *e, const struct dump_row *row, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned char *at = e->disk[0].data + row[i].offset;
        for (unsigned k = 0; k < 16; k++)
            if (at[k] != row[i].bytes[k])
                fail_msg("byte 0x%x is 0x%02x, not 0x%02x", row[i].offset + k, at[k],
                         row[i].bytes[k]);
    }
}

static struct vmc_vmfs_uuid example_uuid(uint32_t n)
{
    struct vmc_vmfs_uuid u = {{0}};
    vmci_st_le32(u.b, 0x4f000000 + n);
    vmci_st_le32(u.b + 4, 0x10000000 + n);
    vmci_st_le16(u.b + 8, (uint16_t)n);
    u.b[10] = 2;
    u.b[15] = 1;
    return u;
}

/* The formatter, and then creating files, give the bytes of a volume whose bytes are known. */
static void known_bytes(void **state)
{
    (void)state;
    struct env e;
    char five[5000];
    env_init(&e, 1, 0x11100000);
    struct vmc_vmfs_mkfs_config c = mkfs_config(&e, 5);
    c.lvm_uuid = example_uuid(1);
    c.dev_uuid = example_uuid(2);
    c.fs_uuid = example_uuid(3);
    c.host_uuid = example_uuid(4);
    ok(&e, vmc_vmfs_mkfs(&e.tp.pf, &c, &e.err));
    compare(&e, example_fresh, sizeof(example_fresh) / sizeof(example_fresh[0]));
    uint64_t us = 0x4f000003ull * 1000000;
    assert_int_equal(vmci_ld_le64(e.disk[0].data + 0x100092), us);
    assert_int_equal(vmci_ld_le64(e.disk[0].data + 0x100268), us);
    assert_int_equal(vmci_ld_le32(e.disk[0].data + 0x100290), 1);

    e.tp.now_ns = 0; /* the clock stands still at the format's time */
    struct vmc_vmfs *v = mount(&e, 0);
    for (unsigned i = 0; i < sizeof(five); i++)
        five[i] = "0123456789abcdef"[i % 16];
    ok(&e, vmc_vmfs_mkdir(v, "/dir", 0755, &e.err));
    put(&e, v, "/dir/hello.txt", "hello vmfs\n", 11);
    put(&e, v, "/dir/five.bin", five, sizeof(five));
    ok(&e, vmc_vmfs_unmount(v, &e.err));
    compare(&e, example_used, sizeof(example_used) / sizeof(example_used[0]));
    env_fini(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vmfs5),
        cmocka_unit_test(vmfs5_gpt),
        cmocka_unit_test(vmfs5_three_extents),
        cmocka_unit_test(vmfs3_mbr),
        cmocka_unit_test(vmfs3_eight_mib),
        cmocka_unit_test(nothing_is_written_before_all_is_checked),
        cmocka_unit_test(known_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
