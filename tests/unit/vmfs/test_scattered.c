/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A VMFS3 volume whose sub-block file is made of file blocks that are no neighbours, as other hosts
 * may have enlarged it: of 64 KiB each, every sixteenth sub-block is in two pieces.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmfs_model.h"

#include <cmocka.h>

#define MIB       (1ull << 20)
#define LV        0x1100000u /* where the logical volume begins */
#define POINTERS  0x400u     /* in a file descriptor */
#define SUB_BLOCK 65536u
#define FILES     110u

static unsigned char *pointers(struct model_env *e, const char *path)
{
    struct vmc_vmfs_stat st;

    model_ok(e, vmc_vmfs_stat(e->host[0].v, path, &st, &e->err));
    return e->disk[0].data + LV + st.lv_offset + POINTERS;
}

static unsigned char *block_of(struct model_env *e, const unsigned char *pointer)
{
    uint32_t raw;

    memcpy(&raw, pointer, sizeof(raw));
    assert_int_equal(raw & 7, 1);
    return e->disk[0].data + LV + (uint64_t)(raw >> 6) * MIB;
}

/* Block n of the sub-block file changes places with a block of another file, contents and all. */
static void scatter(struct model_env *e)
{
    struct vmc_vmfs_file *f;
    unsigned char *all[2], *tmp = malloc(MIB);

    model_mount(e, 0);
    model_ok(e,
             vmc_vmfs_open(e->host[0].v, "/spare", VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &e->err));
    model_ok(e, vmc_vmfs_allocate(f, 0, 30 * MIB, VMC_VMFS_ALLOC_EAGER, &e->err));
    model_ok(e, vmc_vmfs_close(f, &e->err));
    all[0] = pointers(e, "/.sbc.sf");
    all[1] = pointers(e, "/spare");
    model_ok(e, vmc_vmfs_unmount(e->host[0].v, &e->err));
    e->host[0].v = NULL;
    for (unsigned i = 1; i < 26;
         i += 2) { /* headers name their place: they stay, and so do others */
        unsigned char *a = all[0] + 4 * i, *b = all[1] + 4 * i, swap[4];
        memcpy(tmp, block_of(e, a), MIB);
        memcpy(block_of(e, a), block_of(e, b), MIB);
        memcpy(block_of(e, b), tmp, MIB);
        memcpy(swap, a, 4);
        memcpy(a, b, 4);
        memcpy(b, swap, 4);
    }
    free(tmp);
}

static uint32_t length_of(unsigned i)
{
    return i % 3 == 0 ? SUB_BLOCK : 1 + i * 171 % SUB_BLOCK;
}

static void contents(unsigned i, unsigned char *buf)
{
    for (uint32_t k = 0; k < SUB_BLOCK; k++)
        buf[k] = (unsigned char)(i + k / 251 + k * 7);
}

static void check_all(struct model_env *e, unsigned char *got, unsigned char *want)
{
    struct vmc_vmfs_file *f;
    char path[32];

    for (unsigned i = 0; i < FILES; i++) {
        snprintf(path, sizeof(path), "/f%u", i);
        model_ok(e, vmc_vmfs_open(e->host[0].v, path, VMC_VMFS_READ, &f, &e->err));
        contents(i, want);
        assert_int_equal(vmc_vmfs_pread(f, got, SUB_BLOCK + 1, 0, &e->err), length_of(i));
        assert_memory_equal(got, want, length_of(i));
        model_ok(e, vmc_vmfs_close(f, &e->err));
    }
}

static void scattered_sub_blocks(void **state)
{
    (void)state;
    struct model_env e;
    struct vmc_vmfs_file *f;
    struct vmc_vmfs_space before, after;
    unsigned char *got = malloc(SUB_BLOCK + 1), *want = malloc(SUB_BLOCK);
    char path[32];

    model_env_init(&e, 1, 600 * MIB, 3, 1, 1);
    scatter(&e);
    model_fsck(&e);
    model_mount(&e, 0);
    model_ok(&e, vmc_vmfs_space(e.host[0].v, &before, &e.err));
    /* All sub-blocks but some: in one write, in two, over what is there. */
    for (unsigned i = 0; i < FILES; i++) {
        snprintf(path, sizeof(path), "/f%u", i);
        model_ok(&e, vmc_vmfs_open(e.host[0].v, path,
                                   VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &e.err));
        contents(i, want);
        uint32_t n = length_of(i), half = i % 2 == 0 ? n : n / 2;
        assert_int_equal(vmc_vmfs_pwrite(f, want + (n - half), half, n - half, &e.err), half);
        memset(got, 0xff, SUB_BLOCK);
        assert_int_equal(vmc_vmfs_pread(f, got, n, 0, &e.err), n);
        for (uint32_t k = 0; k < n - half; k++)
            assert_int_equal(got[k], 0);
        assert_int_equal(vmc_vmfs_pwrite(f, want, n, 0, &e.err), n);
        model_ok(&e, vmc_vmfs_close(f, &e.err));
    }
    check_all(&e, got, want);
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    model_fsck(&e);
    model_mount(&e, 0);
    check_all(&e, got, want);
    /* A folder of more than one sub-block, and files that leave theirs for blocks. */
    model_ok(&e, vmc_vmfs_mkdir(e.host[0].v, "/dir", 0755, &e.err));
    for (unsigned i = 0; i < FILES; i++) {
        char to[64];
        snprintf(path, sizeof(path), "/f%u", i);
        snprintf(to, sizeof(to), "/dir/a-rather-long-name-of-file-%u", i);
        model_ok(&e, vmc_vmfs_rename(e.host[0].v, path, to, 0, &e.err));
        model_ok(&e, vmc_vmfs_rename(e.host[0].v, to, path, 0, &e.err));
        if (i % 16 == 0) {
            model_ok(&e,
                     vmc_vmfs_open(e.host[0].v, path, VMC_VMFS_READ | VMC_VMFS_WRITE, &f, &e.err));
            model_ok(&e, vmc_vmfs_truncate(f, 3 * SUB_BLOCK, &e.err));
            contents(i, want);
            assert_int_equal(vmc_vmfs_pread(f, got, length_of(i), 0, &e.err), length_of(i));
            assert_memory_equal(got, want, length_of(i));
            model_ok(&e, vmc_vmfs_close(f, &e.err));
        }
        model_ok(&e, vmc_vmfs_remove(e.host[0].v, path, &e.err));
    }
    model_ok(&e, vmc_vmfs_remove(e.host[0].v, "/dir", &e.err));
    model_ok(&e, vmc_vmfs_space(e.host[0].v, &after, &e.err));
    assert_int_equal(after.sub_blocks.free, before.sub_blocks.free);
    assert_int_equal(after.blocks.free, before.blocks.free);
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    e.host[0].v = NULL;
    model_fsck(&e);
    model_env_fini(&e);
    free(got);
    free(want);
}

static uint32_t address(unsigned char *pointer, uint32_t raw)
{
    uint32_t old;

    memcpy(&old, pointer, sizeof(old));
    memcpy(pointer, &raw, sizeof(raw));
    return old;
}

/* A block of the sub-block file is, by its address, a sub-block inside of that very block. */
static void in_itself(uint32_t version, uint32_t raw)
{
    struct model_env e;
    struct vmc_vmfs_file *f;
    struct vmc_vmfs_fsck_result res;
    struct vmc_vmfs_fsck_config fc = {.size = sizeof(fc)};
    struct vmc_vmfs_space space;
    static const char victim[] = "/file";
    unsigned char buf[600] = {0};

    model_env_init(&e, 1, 600 * MIB, version, 1, 1);
    model_mount(&e, 0);
    model_ok(&e, vmc_vmfs_open(e.host[0].v, victim, VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &e.err));
    model_ok(&e, vmc_vmfs_truncate(f, 3 * MIB, &e.err));
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(vmc_vmfs_pwrite(f, buf, sizeof(buf), i * MIB, &e.err), sizeof(buf));
    model_ok(&e, vmc_vmfs_close(f, &e.err));
    unsigned char *system = pointers(&e, "/.sbc.sf"), *file = pointers(&e, victim);
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    address(system + 4, raw); /* its second block */
    address(file, raw);
    struct vmc_vmfs_mount_config c = {
        .size = sizeof(c), .flags = VMC_VMFS_RDONLY, .devs = e.host[0].bd, .dev_count = 1};
    model_ok(&e, vmc_vmfs_mount(&e.tp.pf, &c, &e.host[0].v, &e.err));
    model_ok(&e, vmc_vmfs_open(e.host[0].v, victim, VMC_VMFS_READ, &f, &e.err));
    assert_int_equal(vmc_vmfs_pread(f, buf, sizeof(buf), 0, &e.err), VMC_EFORMAT);
    if (strstr(e.err.text, "itself") == NULL)
        fail_msg("%s", e.err.text);
    model_ok(&e, vmc_vmfs_close(f, &e.err));
    int rc = vmc_vmfs_space(e.host[0].v, &space, &e.err);
    assert_true(rc == VMC_OK || rc == VMC_EFORMAT);
    model_ok(&e, vmc_vmfs_fsck(e.host[0].v, &fc, &res, &e.err));
    assert_true(res.errors > 0);
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    e.host[0].v = NULL;
    model_env_fini(&e);
}

/* Header, headers of clusters (32 on VMFS3, 64 on VMFS5), then 16 or 32 sub-blocks in each. */
static void sub_blocks_in_themselves(void **state)
{
    (void)state;
    uint32_t three = (uint32_t)((MIB + 0x10000 - 0x18000) / 0x10000); /* the first in block 1 */
    uint32_t five = (uint32_t)((MIB - 0x20000) / 0x2000);

    in_itself(3, 2 | three / 16 << 6 | three % 16 << 28);
    in_itself(5, 2 | five / 32 << 6 | (five % 32 & 15) << 28 | five % 32 >> 4 << 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(scattered_sub_blocks),
                                       cmocka_unit_test(sub_blocks_in_themselves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
