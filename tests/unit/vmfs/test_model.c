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

static void vmfs3(void **state)
{
    (void)state;
    campaign(3, 2, 1, setting("VMC_VMFS_OPS", 60000) / 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vmfs5_one_extent),
        cmocka_unit_test(vmfs5_two_extents),
        cmocka_unit_test(vmfs3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
