/* SPDX-License-Identifier: BSD-2-Clause */
/* What the volume manager and the descriptor say twice: found where it differs, and put right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base_int.h"
#include "vmfs/vmfs_format.h"
#include "test_disk.h"
#include "test_platform.h"
#include <vmcore/vmfs.h>

#include <cmocka.h>

#define MIB (1ull << 20)

struct world {
    struct test_platform tp;
    struct test_disk disk;
    struct test_path path;
    struct vmc_error err;
    char said[512];
};

static void report(void *ctx, const char *text, bool repaired)
{
    struct world *w = ctx;

    (void)repaired;
    snprintf(w->said, sizeof(w->said), "%s", text);
}

/* Errors that are found. */
static uint64_t fsck(struct world *w, bool repair)
{
    struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                      .flags = repair ? VMC_VMFS_REPAIR | VMC_VMFS_EXCLUSIVE
                                                      : VMC_VMFS_RDONLY,
                                      .devs = &w->path.bd,
                                      .dev_count = 1,
                                      .cache_bytes = 1 << 20};
    struct vmc_vmfs_fsck_config fc = {
        .size = sizeof(fc), .repair = repair, .report = report, .ctx = w};
    struct vmc_vmfs_fsck_result r;
    struct vmc_vmfs *v;

    w->said[0] = '\0';
    assert_int_equal(vmc_vmfs_mount(&w->tp.pf, &c, &v, &w->err), VMC_OK);
    assert_int_equal(vmc_vmfs_fsck(v, &fc, &r, &w->err), VMC_OK);
    assert_int_equal(vmc_vmfs_unmount(v, &w->err), VMC_OK);
    assert_int_equal(r.repaired, repair ? r.errors : 0);
    return r.errors;
}

static void found_and_repaired(void **state)
{
    static const uint32_t versions[] = {3, 5};
    const struct {
        uint64_t at;
        const char *word;
        bool five; /* VMFS5 only */
    } harm[] = {
        {LVM_PE_BITMAP_OFF, "extent 1", false},
        {LVM_DATA_START + FS_DESC_LV + FSD_PB2_LV, ".pb2.sf", true},
        {LVM_DATA_START + FS_DESC_LV + FSD_SDD_LV + 1, ".sdd.sf", true},
    };
    struct world w;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        memset(&w, 0, sizeof(w));
        test_platform_init(&w.tp);
        test_disk_init(&w.disk, 17 * MIB + 3 * 256 * MIB);
        test_path_init(&w.path, &w.disk);
        struct vmc_vmfs_mkfs_config c = {.size = sizeof(c),
                                         .version = versions[i],
                                         .block_bytes = MIB,
                                         .devs = &w.path.bd,
                                         .dev_count = 1,
                                         .time_s = 1};
        assert_int_equal(vmc_vmfs_mkfs(&w.tp.pf, &c, &w.err), VMC_OK);
        assert_int_equal(fsck(&w, false), 0);
        for (unsigned k = 0; k < VMCI_ARRAY_SIZE(harm); k++) {
            if (harm[k].five && versions[i] != 5)
                continue;
            uint8_t *p = w.disk.data + harm[k].at, was = *p;
            *p ^= 2;
            assert_int_equal(fsck(&w, false), 1);
            assert_non_null(strstr(w.said, harm[k].word));
            assert_int_equal(*p, was ^ 2);
            assert_int_equal(fsck(&w, true), 1);
            assert_int_equal(*p, was);
            assert_int_equal(fsck(&w, false), 0);
        }
        test_disk_fini(&w.disk);
        test_platform_check(&w.tp);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(found_and_repaired),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
