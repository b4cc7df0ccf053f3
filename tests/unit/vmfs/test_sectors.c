/* SPDX-License-Identifier: BSD-2-Clause */
/* Devices whose sectors have 4096 bytes: volumes there are read, and not written to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmfs_model.h"

#include <cmocka.h>

#define MIB    (1ull << 20)
#define SECTOR 4096u

/* The disk below, asked for whole sectors only. */
static int big_info(void *ctx, struct vmc_block_info *out)
{
    const struct vmc_blockdev *below = ctx;
    int rc = below->ops->info(below->ctx, out);

    out->sector_bytes = SECTOR;
    return rc;
}

static int big_submit(void *ctx, struct vmc_block_req *r)
{
    const struct vmc_blockdev *below = ctx;

    assert_int_equal((r->offset | r->bytes) % SECTOR, 0);
    return below->ops->submit(below->ctx, r);
}

static const struct vmc_blockdev_ops big_ops = {.info = big_info, .submit = big_submit};

static void mount_big(struct model_env *e, uint32_t flags, struct vmc_vmfs **v, int want)
{
    struct vmc_blockdev big = {.ops = &big_ops, .ctx = &e->host[0].bd[0]};
    struct vmc_vmfs_mount_config c = {
        .size = sizeof(c), .devs = &big, .dev_count = 1, .flags = flags};

    assert_int_equal(vmc_vmfs_mount(&e->tp.pf, &c, v, &e->err), want);
}

static void volume(uint32_t version)
{
    static unsigned char data[3 * MIB + 777], got[sizeof(data)];
    static const uint64_t sizes[] = {100, 5000, 60000, sizeof(data)};
    struct model_env e;
    struct vmc_vmfs *v;
    struct vmc_vmfs_file *f;
    const struct vmc_vmfs_fsck_config check = {.size = sizeof(check)};
    struct vmc_vmfs_fsck_result report;
    char path[32];

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)(i * 31 + i / 4096);
    model_env_init(&e, 1, 900 * MIB, version, 1, 1);
    model_mount(&e, 0);
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        snprintf(path, sizeof(path), "/file%u", i);
        model_ok(&e,
                 vmc_vmfs_open(e.host[0].v, path, VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &e.err));
        assert_int_equal(vmc_vmfs_pwrite(f, data, sizes[i], 0, &e.err), sizes[i]);
        model_ok(&e, vmc_vmfs_close(f, &e.err));
    }
    /* A session that has ended; then one that has not. */
    for (unsigned n = 0; n < 2; n++) {
        if (n == 0)
            model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
        else
            model_mount(&e, 0);
        mount_big(&e, VMC_VMFS_RDONLY, &v, VMC_OK);
        for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            snprintf(path, sizeof(path), "/file%u", i);
            model_ok(&e, vmc_vmfs_open(v, path, VMC_VMFS_READ, &f, &e.err));
            for (uint64_t at = 0; at < sizes[i]; at += 70001) { /* odd places */
                uint64_t left = sizes[i] - at, part = left < 70001 ? left : 70001;
                assert_int_equal(vmc_vmfs_pread(f, got, part, at, &e.err), part);
                assert_memory_equal(got, data + at, part);
            }
            model_ok(&e, vmc_vmfs_close(f, &e.err));
        }
        struct vmc_vmfs_heartbeat hb;
        uint32_t cookie = 0;
        while (vmc_vmfs_heartbeats(v, &cookie, &hb, &e.err) == 1)
            assert_true(hb.in_use == (n == 1));
        memset(&report, 0, sizeof(report));
        model_ok(&e, vmc_vmfs_fsck(v, &check, &report, &e.err));
        assert_int_equal(report.errors, 0);
        model_ok(&e, vmc_vmfs_unmount(v, &e.err));
        mount_big(&e, VMC_VMFS_EXPERIMENTAL, &v, VMC_ENOTSUP);
        assert_non_null(strstr(e.err.text, "512-byte sectors"));
    }
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    e.host[0].v = NULL;
    model_env_fini(&e);
}

static void sectors_of_4096_vmfs5(void **state)
{
    (void)state;
    volume(5);
}
static void sectors_of_4096_vmfs6(void **state)
{
    (void)state;
    volume(6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sectors_of_4096_vmfs5),
                                       cmocka_unit_test(sectors_of_4096_vmfs6)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
