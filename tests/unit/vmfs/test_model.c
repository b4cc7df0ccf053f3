/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random operations against a model in memory. VMC_VMFS_OPS sets how many (all cases together),
 * VMC_VMFS_SEED where they begin.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test_disk.h"
#include "test_platform.h"
#include "vmfs_model.h"

#include <cmocka.h>

#define MIB (1ull << 20)

static uint64_t setting(const char *name, uint64_t usual)
{
    const char *s = getenv(name);
    return s != NULL ? strtoull(s, NULL, 0) : usual;
}

static void campaign(uint32_t version, uint32_t block_mib, uint32_t disks, uint64_t ops)
{
    struct model_env e;
    struct model m;
    uint64_t seed = setting("VMC_VMFS_SEED", 12345) + version * 100 + block_mib;

    print_message("VMFS%u, %u MiB blocks, %u extents, seed %llu, %llu operations\n", version,
                  block_mib, disks, (unsigned long long)seed, (unsigned long long)ops);
    model_env_init(&e, disks, 700 * MIB, version, block_mib, 1);
    model_init(&m, seed);
    model_mount(&e, 0);
    for (uint64_t i = 0; i < ops; i++) {
        assert_true(model_step(&e, 0, &m));
        if (i % 4000 == 3999) {
            /* Remount now and then: everything must have reached the disk. */
            model_unmount(&e, &m, 0);
            model_fsck(&e);
            model_mount(&e, 0);
            model_compare(&e, 0, &m);
        }
    }
    model_compare(&e, 0, &m);
    model_unmount(&e, &m, 0);
    model_fsck(&e);
    model_env_fini(&e);
}

static void vmfs5_one_extent(void **state)
{
    (void)state;
    campaign(5, 1, 1, setting("VMC_VMFS_OPS", 60000) / 3);
}

static void vmfs5_two_extents(void **state)
{
    (void)state;
    campaign(5, 1, 2, setting("VMC_VMFS_OPS", 60000) / 3);
}

static void vmfs6(void **state)
{
    (void)state;
    campaign(6, 1, 1, setting("VMC_VMFS_OPS", 60000) / 3);
}

static void vmfs3(void **state)
{
    (void)state;
    campaign(3, 2, 1, setting("VMC_VMFS_OPS", 60000) / 3);
}

/* The map that I/O looks at follows a file that loses its blocks and gets others. */
static void map_follows_layouts(void **state)
{
    (void)state;
    struct model_env e;
    struct vmc_vmfs_file *f;
    char *buf = malloc(MIB), *want = malloc(MIB);

    for (uint32_t version = 3; version <= 6; version += version == 3 ? 2 : 1) {
        model_env_init(&e, 1, 300 * MIB, version, 1, 1);
        model_mount(&e, 0);
        model_ok(&e, vmc_vmfs_open(e.host[0].v, "/f", VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f,
                                   &e.err));
        for (size_t small = 100; small < 100000; small = small * 5 / 2) {
            memset(want, 'a', MIB);
            assert_int_equal(vmc_vmfs_pwrite(f, want, MIB, 0, &e.err), MIB);
            assert_int_equal(vmc_vmfs_pread(f, buf, MIB, 0, &e.err), MIB); /* loads the map */
            model_ok(&e, vmc_vmfs_truncate(f, 0, &e.err));
            assert_int_equal(vmc_vmfs_pwrite(f, want, small, 0, &e.err), small);
            memset(want, 'b', MIB);
            assert_int_equal(vmc_vmfs_pwrite(f, want, MIB / 2, 0, &e.err), MIB / 2);
            assert_int_equal(vmc_vmfs_pread(f, buf, MIB / 2, 0, &e.err), MIB / 2);
            assert_memory_equal(buf, want, MIB / 2);
        }
        model_ok(&e, vmc_vmfs_close(f, &e.err));
        model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
        model_fsck(&e);
        model_env_fini(&e);
    }
    free(buf);
    free(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_follows_layouts),
        cmocka_unit_test(vmfs5_one_extent),
        cmocka_unit_test(vmfs5_two_extents),
        cmocka_unit_test(vmfs3),
        cmocka_unit_test(vmfs6),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
