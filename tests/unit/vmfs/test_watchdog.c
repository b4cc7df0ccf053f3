/* SPDX-License-Identifier: BSD-2-Clause */
/* What a session tells the watchdog of its lease, and when. */
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

#define MIB   (1ull << 20)
#define SEC   1000000000ull
#define LEASE 10

struct world {
    struct test_platform tp;
    struct test_disk disk;
    struct test_path path;
    struct vmc_vmfs *v;
    struct vmc_error err;
    /* what the watchdog heard */
    uint64_t end[64];
    unsigned calls, slots_at_first;
    int answer;
};

static unsigned slots_in_use(struct world *w)
{
    unsigned n = 0;

    for (uint64_t at = 0; at < 64 * MIB; at += 512)
        n += vmci_ld_le32(w->disk.data + at) == HB_USED &&
             vmci_ld_le64(w->disk.data + at + HB_SELF) >= FS_HB_LV;
    return n;
}

static int until(void *ctx, uint64_t end_ns)
{
    struct world *w = ctx;

    if (w->calls == 0)
        w->slots_at_first = slots_in_use(w);
    assert_in_range(w->calls, 0, 63);
    w->end[w->calls++] = end_ns;
    return w->answer;
}

static void ok(struct world *w, int rc)
{
    if (rc < 0)
        fail_msg("%s: %s", vmc_status_name(rc), w->err.text);
}

static int mount(struct world *w, uint32_t flags)
{
    struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                      .flags = flags,
                                      .devs = &w->path.bd,
                                      .dev_count = 1,
                                      .host_name = "host",
                                      .lease_ms = LEASE * 1000,
                                      .lease_until = until,
                                      .lease_ctx = w,
                                      .cache_bytes = 1 << 20};
    return vmc_vmfs_mount(&w->tp.pf, &c, &w->v, &w->err);
}

static void world_init(struct world *w)
{
    memset(w, 0, sizeof(*w));
    test_platform_init(&w->tp);
    test_disk_init(&w->disk, 300 * MIB);
    test_path_init(&w->path, &w->disk);
    struct vmc_vmfs_mkfs_config c = {.size = sizeof(c),
                                     .version = 5,
                                     .block_bytes = MIB,
                                     .devs = &w->path.bd,
                                     .dev_count = 1,
                                     .label = "watched",
                                     .time_s = 1,
                                     .pointer_blocks = 200,
                                     .sub_blocks = 100};
    ok(w, vmc_vmfs_mkfs(&w->tp.pf, &c, &w->err));
}

static void world_fini(struct world *w)
{
    test_disk_fini(&w->disk);
    test_platform_check(&w->tp);
}

static uint64_t last(const struct world *w)
{
    return w->end[w->calls - 1];
}

static void set_before_the_slot_and_at_each_renewal(void **state)
{
    (void)state;
    struct world w;

    world_init(&w);
    uint64_t from = w.tp.now_ns;
    ok(&w, mount(&w, 0));
    assert_int_equal(w.slots_at_first, 0);
    assert_int_equal(slots_in_use(&w), 1);
    assert_in_range(w.end[0], from + LEASE * SEC, w.tp.now_ns + LEASE * SEC);
    for (unsigned i = 0; i < 3; i++) {
        unsigned calls = w.calls;
        w.tp.now_ns += SEC;
        uint64_t start = w.tp.now_ns;
        ok(&w, i == 1 ? vmc_vmfs_beat(w.v, &w.err) : vmc_vmfs_renew(w.v, &w.err));
        assert_int_equal(w.calls, calls + 1);
        assert_in_range(last(&w), start + LEASE * SEC, w.tp.now_ns + LEASE * SEC);
    }
    /* Operations renew it too, when it is time. */
    w.tp.now_ns += 5 * SEC;
    uint64_t before = last(&w);
    ok(&w, vmc_vmfs_mkdir(w.v, "/d", 0700, &w.err));
    assert_true(last(&w) >= before + 5 * SEC);
    ok(&w, vmc_vmfs_unmount(w.v, &w.err));
    assert_true(last(&w) == UINT64_MAX);
    assert_true(w.end[w.calls - 2] != UINT64_MAX); /* said once, at the end */
    assert_int_equal(slots_in_use(&w), 0);
    world_fini(&w);
}

/* A renewal that did not reach the device moves nothing; neither does one of a lost lease. */
static void not_set_by_what_fails(void **state)
{
    (void)state;
    struct world w;

    world_init(&w);
    ok(&w, mount(&w, 0));
    unsigned calls = w.calls;
    w.tp.now_ns += SEC;
    w.path.cut = true;
    assert_int_not_equal(vmc_vmfs_renew(w.v, &w.err), VMC_OK);
    assert_int_not_equal(vmc_vmfs_beat(w.v, &w.err), VMC_OK);
    assert_int_equal(w.calls, calls);
    w.path.cut = false;
    for (uint64_t at = 0; at < 64 * MIB; at += 512)
        if (vmci_ld_le32(w.disk.data + at) == HB_USED &&
            vmci_ld_le64(w.disk.data + at + HB_SELF) >= FS_HB_LV)
            vmci_st_le32(w.disk.data + at, HB_FREE); /* another host ended the session */
    assert_int_equal(vmc_vmfs_renew(w.v, &w.err), VMC_EFENCED);
    assert_int_equal(vmc_vmfs_renew(w.v, &w.err), VMC_EFENCED);
    assert_int_equal(vmc_vmfs_beat(w.v, &w.err), VMC_EFENCED);
    assert_int_equal(w.calls, calls);
    vmc_vmfs_abandon(w.v);
    assert_int_equal(w.calls, calls + 1);
    assert_true(last(&w) == UINT64_MAX);
    world_fini(&w);
}

static void that_cannot_be_set_refuses_the_mount(void **state)
{
    (void)state;
    struct world w;

    world_init(&w);
    w.answer = VMC_EHOST;
    assert_int_equal(mount(&w, 0), VMC_EHOST);
    assert_non_null(strstr(w.err.text, "watchdog"));
    assert_int_equal(slots_in_use(&w), 0);
    world_fini(&w);
}

/* Who has the volume alone, or only reads, has no lease. */
static void without_a_lease(void **state)
{
    (void)state;
    static const uint32_t flags[] = {VMC_VMFS_EXCLUSIVE, VMC_VMFS_RDONLY};

    for (unsigned i = 0; i < 2; i++) {
        struct world w;
        world_init(&w);
        ok(&w, mount(&w, flags[i]));
        w.tp.now_ns += 100 * SEC;
        ok(&w, vmc_vmfs_renew(w.v, &w.err));
        ok(&w, vmc_vmfs_beat(w.v, &w.err));
        ok(&w, vmc_vmfs_sync(w.v, &w.err));
        ok(&w, vmc_vmfs_unmount(w.v, &w.err));
        assert_int_equal(w.calls, 0);
        world_fini(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_before_the_slot_and_at_each_renewal),
        cmocka_unit_test(not_set_by_what_fails),
        cmocka_unit_test(that_cannot_be_set_refuses_the_mount),
        cmocka_unit_test(without_a_lease),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
