/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which heartbeat slots belong to a living host of other software: asked when a volume is mounted,
 * while other hosts come, go and die.
 */
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

#define MIB      (1ull << 20)
#define HOSTS    18
#define RESERVED 15 /* slots whose journal needs no file block */

struct world {
    struct test_platform tp;
    struct test_disk disk;
    struct test_path path[HOSTS];
    struct vmc_vmfs *v[HOSTS];
    struct vmc_error err;
    void (*while_sleeping)(struct world *w);
    bool nested;
    unsigned char *waiting; /* slot of the host that sleeps while another mounts: it still beats */
    unsigned sleeps, mounts;
};

static void ok(struct world *w, int rc)
{
    if (rc < 0)
        fail_msg("%s: %s", vmc_status_name(rc), w->err.text);
}

static void sleep_ns(void *ctx, uint64_t ns)
{
    struct world *w = ctx;

    w->tp.now_ns += ns;
    w->sleeps++;
    if (w->nested) {
        if (w->waiting != NULL)
            vmci_st_le64(w->waiting + HB_STAMP, vmci_ld_le64(w->waiting + HB_STAMP) + 1);
    } else if (w->while_sleeping != NULL) {
        w->nested = true;
        w->while_sleeping(w);
        w->nested = false;
    }
}

static int mount_with(struct world *w, unsigned h, uint32_t lease_ms, uint32_t beat_ms)
{
    char name[16];

    test_path_init(&w->path[h], &w->disk);
    snprintf(name, sizeof(name), "host%u", h);
    struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                      .devs = &w->path[h].bd,
                                      .dev_count = 1,
                                      .host_name = name,
                                      .lease_ms = lease_ms,
                                      .beat_ms = beat_ms,
                                      .sleep_ns = sleep_ns,
                                      .sleep_ctx = w,
                                      .cache_bytes = 1 << 20};
    return vmc_vmfs_mount(&w->tp.pf, &c, &w->v[h], &w->err);
}

static int mount(struct world *w, unsigned h)
{
    return mount_with(w, h, 0, 0);
}

static void world_init(struct world *w)
{
    memset(w, 0, sizeof(*w));
    test_platform_init(&w->tp);
    test_disk_init(&w->disk, 300 * MIB);
    test_path_init(&w->path[0], &w->disk);
    struct vmc_vmfs_mkfs_config c = {.size = sizeof(c),
                                     .version = 5,
                                     .block_bytes = MIB,
                                     .devs = &w->path[0].bd,
                                     .dev_count = 1,
                                     .label = "slots",
                                     .time_s = 1,
                                     .pointer_blocks = 200,
                                     .sub_blocks = 100};
    ok(w, vmc_vmfs_mkfs(&w->tp.pf, &c, &w->err));
}

static void world_fini(struct world *w)
{
    w->while_sleeping = NULL;
    for (unsigned h = 0; h < HOSTS; h++)
        if (w->v[h] != NULL && w->path[h].cut)
            vmc_vmfs_abandon(w->v[h]);
        else if (w->v[h] != NULL)
            ok(w, vmc_vmfs_unmount(w->v[h], &w->err));
    test_disk_fini(&w->disk);
    test_platform_check(&w->tp);
}

/* A heartbeat slot on the disk. */
static unsigned char *slot_of(struct world *w, unsigned slot)
{
    for (uint64_t at = 0; at < 64 * MIB; at += 512)
        if ((vmci_ld_le32(w->disk.data + at) == HB_FREE ||
             vmci_ld_le32(w->disk.data + at) == HB_USED) &&
            vmci_ld_le64(w->disk.data + at + HB_SELF) == FS_HB_LV + 512ull * slot)
            return w->disk.data + at;
    fail_msg("no heartbeat slot %u on the disk", slot);
    return NULL;
}

static unsigned char *foreign; /* the slot of a host that keeps no record */

static void foreign_takes(struct world *w, unsigned slot)
{
    foreign = slot_of(w, slot);
    vmci_st_le32(foreign + HB_STATE, HB_USED);
    vmci_st_le64(foreign + HB_STAMP, 1000);
    memset(foreign + HB_OWNER, 0x5A, 16);
    memcpy(foreign + HB_NAME, "elsewhere", 10);
}

static void foreign_beats(struct world *w)
{
    if (w->sleeps % 6 == 0) /* every 3 s */
        vmci_st_le64(foreign + HB_STAMP, vmci_ld_le64(foreign + HB_STAMP) + 1);
}

static void foreign_is_replaced(struct world *w)
{
    if (w->sleeps > 30 || w->sleeps % 6 != 0)
        return;
    vmci_st_le64(foreign + HB_GENERATION, vmci_ld_le64(foreign + HB_GENERATION) + 1);
    vmci_st_le64(foreign + HB_STAMP, vmci_ld_le64(foreign + HB_STAMP) + 1);
}

static void beating_slot_refuses_the_mount(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    foreign_takes(&w, 3);
    w.while_sleeping = foreign_beats;
    assert_int_equal(mount(&w, 0), VMC_EBUSY);
    assert_non_null(strstr(w.err.text, "heartbeat slot 3"));
    assert_non_null(strstr(w.err.text, "elsewhere"));
    world_fini(&w);
}

static void dead_slot_does_not(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    foreign_takes(&w, 3);
    ok(&w, mount(&w, 0));
    world_fini(&w);
}

/* Every session has a lease of its own to beat in: a slot that only changes hands is not alive. */
static void slot_that_changes_hands(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    foreign_takes(&w, 3);
    w.while_sleeping = foreign_is_replaced;
    ok(&w, mount(&w, 0));
    assert_true(w.sleeps > 30);
    world_fini(&w);
}

/* The host that waits has no journal yet; the last one mounts meanwhile. */
static void another_mounts(struct world *w)
{
    for (unsigned h = 0; h < RESERVED; h++)
        if (!w->path[h].cut)
            ok(w, vmc_vmfs_beat(w->v[h], &w->err));
    if (w->sleeps % 4 != 0)
        return;
    unsigned char before[512];
    w->waiting = slot_of(w, RESERVED);
    memcpy(before, w->waiting, sizeof(before));
    ok(w, mount(w, HOSTS - 1));
    w->mounts++;
    ok(w, vmc_vmfs_unmount(w->v[HOSTS - 1], &w->err));
    w->v[HOSTS - 1] = NULL;
    memcpy(w->waiting, before, sizeof(before)); /* as its owner remembers it */
    w->waiting = NULL;
}

/*
 * Slots past the reserved journals allocate a block for theirs, and may have to wait for the locks
 * of a host that died. They count as ours meanwhile.
 */
static void waiting_for_a_journal(void **state)
{
    (void)state;
    unsigned waited = 0;
    for (unsigned cut = 0; cut < 10; cut++) {
        struct world w;
        struct vmc_vmfs_file *f;
        world_init(&w);
        for (unsigned h = 0; h < RESERVED; h++)
            ok(&w, mount(&w, h));
        ok(&w, vmc_vmfs_open(w.v[0], "/f", VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &w.err));
        w.path[0].cut_after = cut;
        assert_int_not_equal(vmc_vmfs_allocate(f, 0, 220 * MIB, VMC_VMFS_ALLOC_RAW, &w.err),
                             VMC_OK);
        assert_true(w.path[0].cut);
        w.sleeps = 0;
        w.while_sleeping = another_mounts;
        ok(&w, mount(&w, RESERVED));
        waited += w.mounts;
        world_fini(&w);
    }
    assert_true(waited > 0);
}

/* How long after a host's last sign of life another one gets the file that it had open, in seconds.
 */
static double seconds_to_take_over(uint32_t its_lease_ms, uint32_t our_lease_ms)
{
    struct world w;
    struct vmc_vmfs_file *f;
    int rc;

    world_init(&w);
    ok(&w, mount_with(&w, 0, its_lease_ms, 500));
    ok(&w, mount_with(&w, 1, our_lease_ms, 500));
    ok(&w, vmc_vmfs_open(w.v[0], "/disk", VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &w.err));
    ok(&w, vmc_vmfs_beat(w.v[0], &w.err));
    uint64_t last = w.tp.now_ns;
    w.path[0].cut = true; /* nothing more comes from it */
    do {
        rc = vmc_vmfs_open(w.v[1], "/disk", VMC_VMFS_WRITE, &f, &w.err);
        if (rc == VMC_EBUSY)
            assert_non_null(strstr(w.err.text, "host0"));
        w.tp.now_ns += 200000000;
        ok(&w, vmc_vmfs_beat(w.v[1], &w.err));
    } while (rc == VMC_EBUSY && w.tp.now_ns - last < 200000000000ull);
    ok(&w, rc);
    double s = (double)(w.tp.now_ns - last) / 1e9;
    ok(&w, vmc_vmfs_close(f, &w.err));
    world_fini(&w);
    return s;
}

/* The longer lease counts: the holder may rely on its own, whoever looks. */
static void hosts_of_different_leases(void **state)
{
    (void)state;
    double s = seconds_to_take_over(60000, 4000);
    assert_true(s > 60 && s < 80);
    s = seconds_to_take_over(4000, 30000);
    assert_true(s > 4 && s < 50);
    s = seconds_to_take_over(4000, 4000);
    assert_true(s > 4 && s < 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beating_slot_refuses_the_mount), cmocka_unit_test(dead_slot_does_not),
        cmocka_unit_test(slot_that_changes_hands),        cmocka_unit_test(waiting_for_a_journal),
        cmocka_unit_test(hosts_of_different_leases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
