/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Power cuts: after a random number of writes everything stops, in the middle of a write too; of
 * what was not flushed each write survives, is torn, or is lost, so in any order. The volume is
 * mounted again (the journal is replayed once the lease is over), compared with the model, checked,
 * and used on. VMC_VMFS_CUTS sets how many, VMC_VMFS_SEED where it begins.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmfs_model.h"

#include <cmocka.h>

#define MIB (1ull << 20)

static uint64_t setting(const char *name, uint64_t usual)
{
    const char *s = getenv(name);
    return s != NULL ? strtoull(s, NULL, 0) : usual;
}

static void arm(struct model_env *e, struct model *m)
{
    for (uint32_t i = 0; i < e->disks; i++) {
        struct test_path *p = &e->host[0].path[i];
        p->torn = true;
        p->seed = test_rand(&m->rng);
        p->cut_after = test_rand(&m->rng) % (test_rand(&m->rng) % 4 == 0 ? 400 : 60);
    }
}

/* The lease of the dead session runs out while the new one looks. */
static void remount(struct model_env *e, struct model *m)
{
    model_mount(e, 0);
    model_resync(e, 0, m);
}

static void cuts(uint32_t version, uint64_t count)
{
    struct model_env e;
    struct model m;
    uint64_t seed = setting("VMC_VMFS_SEED", 1) + version;

    print_message("VMFS%u, seed %llu, %llu cuts\n", version, (unsigned long long)seed,
                  (unsigned long long)count);
    model_env_init(&e, 1, 600 * MIB, version, 1, 1);
    e.durable = true;
    e.small = true;
    model_init(&m, seed);
    model_mount(&e, 0);
    for (unsigned i = 0; i < 60; i++)
        assert_true(model_step(&e, 0, &m));
    e.disk[0].track = true;
    for (uint64_t n = 0; n < count; n++) {
        arm(&e, &m);
        while (model_step(&e, 0, &m))
            ;
        model_kill(&e, 0);
        test_disk_power_cut(&e.disk[0], n % 8 == 0 ? 0 : n % 8 == 1 ? 1 : test_rand(&m.rng) | 2);
        /* First what a reader sees who does not replay, then the real thing. */
        if (n % 16 == 0)
            model_fsck(&e);
        remount(&e, &m);
        if (n % 8 == 0)
            model_compare(&e, 0, &m);
        if (n % 16 == 7) {
            model_unmount(&e, &m, 0);
            model_fsck(&e);
            model_mount(&e, 0);
        }
    }
    model_compare(&e, 0, &m);
    model_unmount(&e, &m, 0);
    model_fsck(&e);
    model_env_fini(&e);
}

static void vmfs5(void **state)
{
    (void)state;
    cuts(5, setting("VMC_VMFS_CUTS", 1500));
}

static void vmfs3(void **state)
{
    (void)state;
    cuts(3, setting("VMC_VMFS_CUTS", 1500) / 3);
}

static void vmfs6(void **state)
{
    (void)state;
    cuts(6, setting("VMC_VMFS_CUTS", 1500) / 3);
}

/*
 * A flush fails, what it was for will never be on the medium, and later flushes succeed: whoever
 * trusted them would find a volume that is neither old nor new.
 */
static void failed_flushes(void **state)
{
    struct model_env e;
    struct model m;
    char path[32];

    (void)state;
    model_env_init(&e, 1, 600 * MIB, 5, 1, 1);
    e.durable = true;
    e.small = true;
    model_init(&m, setting("VMC_VMFS_SEED", 1));
    model_mount(&e, 0);
    for (unsigned i = 0; i < 60; i++)
        assert_true(model_step(&e, 0, &m));
    e.disk[0].track = true;
    for (uint64_t n = 0; n < setting("VMC_VMFS_CUTS", 1500) / 15; n++) {
        e.host[0].path[0].fail_flush = 1 + test_rand(&m.rng) % 40;
        while (model_step(&e, 0, &m))
            ;
        for (unsigned i = 0; i < 4; i++) {
            snprintf(path, sizeof(path), "/after%u", i);
            assert_int_equal(vmc_vmfs_create(e.host[0].v, path, 0644, &e.err), VMC_EFENCED);
        }
        model_kill(&e, 0);
        test_disk_power_cut(&e.disk[0], 0);
        remount(&e, &m);
        model_compare(&e, 0, &m);
        if (n % 8 == 7) {
            model_unmount(&e, &m, 0);
            model_fsck(&e);
            model_mount(&e, 0);
        }
    }
    model_unmount(&e, &m, 0);
    model_fsck(&e);
    model_env_fini(&e);
}

/*
 * A write fails of which the disk has nothing, half or all. One to the journal, or one of metadata
 * in place, ends the session: what it left is replayed, and the change has happened or has not.
 */
static void failed_writes(void **state)
{
    struct model_env e;
    struct vmc_vmfs_stat st;
    unsigned there = 0, ended = 0;
    bool whole = false;

    (void)state;
    model_env_init(&e, 1, 300 * MIB, 5, 1, 1);
    model_mount(&e, 0);
    for (uint32_t nth = 1; !whole; nth++)
        for (uint32_t fate = 0; fate < 3; fate++) {
            struct test_path *p = &e.host[0].path[0];
            model_ok(&e, vmc_vmfs_mkdir(e.host[0].v, "/before", 0755, &e.err));
            e.disk[0].track = true;
            p->fail_write = nth;
            p->fail_fate = fate;
            int rc = vmc_vmfs_mkdir(e.host[0].v, "/new", 0755, &e.err);
            whole = p->fail_write != 0;
            p->fail_write = 0;
            bool goes_on = vmc_vmfs_mkdir(e.host[0].v, "/after", 0755, &e.err) == VMC_OK;
            assert_true(goes_on == whole);
            assert_true(whole == (rc == VMC_OK));
            ended += !goes_on;
            model_kill(&e, 0);
            test_disk_power_cut(&e.disk[0], 1 + fate);
            e.disk[0].track = false;
            model_mount(&e, 0);
            for (unsigned i = 0; i < 30; i++) {
                e.tp.now_ns += 1000000000ull;
                model_ok(&e, vmc_vmfs_beat(e.host[0].v, &e.err));
            }
            model_fsck(&e);
            assert_int_equal(vmc_vmfs_stat(e.host[0].v, "/before", &st, &e.err), VMC_OK);
            assert_true(vmc_vmfs_stat(e.host[0].v, "/after", &st, NULL) ==
                        (goes_on ? VMC_OK : VMC_ENOENT));
            rc = vmc_vmfs_stat(e.host[0].v, "/new", &st, NULL);
            assert_true(rc == VMC_OK || (rc == VMC_ENOENT && !goes_on));
            there += rc == VMC_OK;
            model_ok(&e, vmc_vmfs_remove(e.host[0].v, "/before", &e.err));
            if (rc == VMC_OK)
                model_ok(&e, vmc_vmfs_remove(e.host[0].v, "/new", &e.err));
            if (goes_on)
                model_ok(&e, vmc_vmfs_remove(e.host[0].v, "/after", &e.err));
        }
    print_message("%u sessions ended; %u changes have happened\n", ended, there);
    assert_true(ended > 3 && there > 3);
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    e.host[0].v = NULL;
    model_fsck(&e);
    model_env_fini(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(vmfs5), cmocka_unit_test(vmfs3),
                                       cmocka_unit_test(vmfs6), cmocka_unit_test(failed_flushes),
                                       cmocka_unit_test(failed_writes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
