/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sessions that the devices know by keys: when they join and leave, and that nothing of a dead one
 * is touched before the devices have shut it out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_int.h"
#include "vmfs/vmfs_format.h"
#include "test_disk.h"
#include "test_platform.h"
#include <vmcore/vmfs.h>

#include <cmocka.h>

#define MIB   (1ull << 20)
#define BYTES (300 * MIB)
#define MS    1000000ull
#define LEASE 10
enum { A, B, HOSTS };

struct world;

struct host {
    struct world *w;
    struct test_path path;
    struct vmc_blockdev bd; /* the path, as the disk keeps it */
    struct vmc_vmfs_fence fence;
    struct vmc_vmfs *v;
    uint64_t key; /* that it registered; 0: none */
    unsigned joins, checks, leaves;
    unsigned slots_at_join, slots_at_leave;
    int join_rc;
};

struct world {
    struct test_platform tp;
    struct test_disk disk;
    struct host host[HOSTS];
    struct vmc_error err;
    uint64_t key[HOSTS]; /* registered with the disk; 0: nobody */
    /* evictions */
    uint64_t whom;
    unsigned evictions, changed; /* sectors outside of heartbeats, until then */
    unsigned conflicts;
    int evict_rc;
    uint8_t *before;
    struct host *beats; /* while somebody sleeps */
    uint64_t slept;
};

static bool is_slot(const uint8_t *s)
{
    uint32_t state = vmci_ld_le32(s);

    return (state == HB_USED || state == HB_FREE) && vmci_ld_le64(s + HB_SELF) >= FS_HB_LV;
}

static unsigned slots_in_use(const struct world *w)
{
    unsigned n = 0;

    for (uint64_t at = 0; at < 64 * MIB; at += 512)
        n += is_slot(w->disk.data + at) && vmci_ld_le32(w->disk.data + at) == HB_USED;
    return n;
}

static uint64_t *registered(struct world *w, uint64_t key)
{
    for (unsigned i = 0; i < HOSTS; i++)
        if (w->key[i] == key)
            return &w->key[i];
    return NULL;
}

/* Once somebody has registered, only reads are for everybody: SYNCHRONIZE CACHE is not, either. */
static bool conflict(struct host *h)
{
    struct world *w = h->w;
    bool reserved = false;

    for (unsigned i = 0; i < HOSTS; i++)
        reserved = reserved || w->key[i] != 0;
    bool refused = reserved && (h->key == 0 || registered(w, h->key) == NULL);
    w->conflicts += refused;
    return refused;
}

static int kept_info(void *ctx, struct vmc_block_info *out)
{
    struct host *h = ctx;

    return h->path.bd.ops->info(h->path.bd.ctx, out);
}

static int kept_submit(void *ctx, struct vmc_block_req *req)
{
    struct host *h = ctx;

    if (req->op == VMC_BLOCK_READ || !conflict(h))
        return h->path.bd.ops->submit(h->path.bd.ctx, req);
    req->status = VMC_EPERM;
    return VMC_BLOCK_COMPLETE;
}

static int kept_caw(void *ctx, uint64_t offset, const void *expect, const void *data, size_t bytes)
{
    struct host *h = ctx;

    if (conflict(h))
        return VMC_EPERM;
    return h->path.bd.ops->compare_write(h->path.bd.ctx, offset, expect, data, bytes);
}

static const struct vmc_blockdev_ops kept_ops = {
    .info = kept_info, .submit = kept_submit, .compare_write = kept_caw};

static int join(void *ctx, uint64_t key, struct vmc_error *err)
{
    struct host *h = ctx;

    h->joins++;
    h->slots_at_join = slots_in_use(h->w);
    assert_int_equal(key >> 40, 0x564d43);
    assert_null(registered(h->w, key));
    if (h->join_rc != VMC_OK)
        return vmci_error(err, h->join_rc, "test", "no");
    *registered(h->w, 0) = key;
    h->key = key;
    return VMC_OK;
}

static int check(void *ctx, uint64_t key, struct vmc_error *err)
{
    struct host *h = ctx;

    h->checks++;
    assert_true(key == h->key);
    return registered(h->w, key) != NULL ? VMC_OK
                                         : vmci_error(err, VMC_EFENCED, "test", "shut out");
}

static int evict(void *ctx, uint64_t key, uint64_t whom, struct vmc_error *err)
{
    struct host *h = ctx;
    struct world *w = h->w;

    assert_true(key == h->key && whom != key);
    w->evictions++;
    w->whom = whom;
    w->changed = 0;
    for (uint64_t at = 0; w->before != NULL && at < BYTES; at += 512)
        w->changed +=
            memcmp(w->before + at, w->disk.data + at, 512) != 0 && !is_slot(w->disk.data + at);
    if (w->evict_rc != VMC_OK)
        return vmci_error(err, w->evict_rc, "test", "no");
    if (registered(w, whom) != NULL)
        *registered(w, whom) = 0;
    return VMC_OK;
}

static int leave(void *ctx, uint64_t key, struct vmc_error *err)
{
    struct host *h = ctx;

    (void)err;
    h->leaves++;
    h->slots_at_leave = slots_in_use(h->w);
    *registered(h->w, key) = 0;
    return VMC_OK;
}

static void sleep_ns(void *ctx, uint64_t ns)
{
    struct world *w = ctx;

    w->tp.now_ns += ns;
    w->slept += ns;
    if (w->beats != NULL)
        assert_int_equal(vmc_vmfs_renew(w->beats->v, NULL), VMC_OK);
}

static int mount(struct world *w, unsigned i, bool fenced)
{
    struct host *h = &w->host[i];
    struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                      .devs = &h->bd,
                                      .dev_count = 1,
                                      .host_name = i == A ? "first" : "second",
                                      .lease_ms = LEASE * 1000,
                                      .sleep_ns = sleep_ns,
                                      .sleep_ctx = w,
                                      .fence = fenced ? &h->fence : NULL,
                                      .cache_bytes = 1 << 20};
    return vmc_vmfs_mount(&w->tp.pf, &c, &h->v, &w->err);
}

static void ok(struct world *w, int rc)
{
    if (rc < 0)
        fail_msg("%s: %s", vmc_status_name(rc), w->err.text);
}

static struct world *world_new(void)
{
    struct world *w = calloc(1, sizeof(*w));

    assert_non_null(w);
    test_platform_init(&w->tp);
    test_disk_init(&w->disk, BYTES);
    for (unsigned i = 0; i < HOSTS; i++) {
        struct host *h = &w->host[i];
        h->w = w;
        test_path_init(&h->path, &w->disk);
        h->bd = (struct vmc_blockdev){.ops = &kept_ops, .ctx = h};
        h->fence = (struct vmc_vmfs_fence){
            .join = join, .check = check, .evict = evict, .leave = leave, .ctx = h};
    }
    struct vmc_vmfs_mkfs_config c = {.size = sizeof(c),
                                     .version = 5,
                                     .block_bytes = MIB,
                                     .devs = &w->host[A].path.bd,
                                     .dev_count = 1,
                                     .label = "fenced",
                                     .time_s = 1,
                                     .pointer_blocks = 200,
                                     .sub_blocks = 100};
    ok(w, vmc_vmfs_mkfs(&w->tp.pf, &c, &w->err));
    return w;
}

static void world_free(struct world *w)
{
    test_disk_fini(&w->disk);
    test_platform_check(&w->tp);
    free(w->before);
    free(w);
}

static void joins_before_its_slot_and_leaves_after_it(void **state)
{
    struct world *w = world_new();
    struct host *a = &w->host[A];
    struct vmc_vmfs_heartbeat hb;
    uint32_t cookie = 0;

    (void)state;
    ok(w, mount(w, A, true));
    assert_int_equal(a->joins, 1);
    assert_int_equal(a->slots_at_join, 0);
    assert_int_equal(vmc_vmfs_heartbeats(a->v, &cookie, &hb, &w->err), 1);
    assert_true(hb.self && hb.fenced);
    unsigned checks = a->checks;
    w->tp.now_ns += 1000 * MS;
    ok(w, vmc_vmfs_renew(a->v, &w->err));
    assert_true(a->checks > checks);
    ok(w, vmc_vmfs_mkdir(a->v, "/d", 0700, &w->err));
    w->beats = a;
    ok(w, mount(w, B, true)); /* a second one, and they do not disturb each other */
    assert_true(w->host[B].key != a->key);
    ok(w, vmc_vmfs_mkdir(w->host[B].v, "/d/e", 0700, &w->err));
    ok(w, vmc_vmfs_unmount(w->host[B].v, &w->err));
    ok(w, vmc_vmfs_unmount(a->v, &w->err));
    assert_int_equal(a->leaves, 1);
    assert_int_equal(a->slots_at_leave, 0);
    assert_null(registered(w, a->key));
    for (uint64_t at = 0; at < 64 * MIB; at += 512)
        assert_false(is_slot(w->disk.data + at) && vmci_ld_le64(w->disk.data + at + HB_KEY) != 0);
    assert_int_equal(w->evictions, 0);
    assert_int_equal(w->conflicts, 0); /* nobody asked for anything that needs a key without one */
    world_free(w);
}

static void what_cannot_join_takes_no_slot(void **state)
{
    struct world *w = world_new();

    (void)state;
    w->host[A].join_rc = VMC_EBUSY;
    assert_int_equal(mount(w, A, true), VMC_EBUSY);
    assert_int_equal(slots_in_use(w), 0);
    assert_int_equal(w->host[A].leaves, 0);
    /* Who only reads does not join. */
    struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                      .flags = VMC_VMFS_RDONLY,
                                      .devs = &w->host[A].path.bd,
                                      .dev_count = 1,
                                      .fence = &w->host[A].fence};
    ok(w, vmc_vmfs_mount(&w->tp.pf, &c, &w->host[A].v, &w->err));
    ok(w, vmc_vmfs_unmount(w->host[A].v, &w->err));
    assert_int_equal(w->host[A].joins, 1);
    world_free(w);
}

/* The rescuer's beats until it has looked at all slots. */
static void pass(struct world *w, unsigned seconds)
{
    for (unsigned i = 0; i < seconds; i++) {
        w->tp.now_ns += 1000 * MS;
        ok(w, vmc_vmfs_beat(w->host[B].v, &w->err));
    }
}

static void the_dead_are_shut_out_first(void **state)
{
    struct world *w = world_new();
    struct vmc_vmfs_file *f;
    uint64_t dead;

    (void)state;
    ok(w, mount(w, A, true));
    ok(w, mount(w, B, true));
    dead = w->host[A].key;
    ok(w, vmc_vmfs_open(w->host[A].v, "/f", VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &w->err));
    vmc_vmfs_abandon(w->host[A].v);
    pass(w, 2);
    w->before = malloc(BYTES);
    assert_non_null(w->before);
    memcpy(w->before, w->disk.data, BYTES);
    w->evict_rc = VMC_EIO;
    pass(w, LEASE + 10);
    /* As long as that fails, nothing that it had is touched. */
    assert_true(w->evictions > 0 && w->whom == dead);
    assert_int_equal(w->changed, 0);
    assert_int_equal(slots_in_use(w), 2);
    assert_int_equal(vmc_vmfs_open(w->host[B].v, "/f", VMC_VMFS_WRITE, &f, &w->err), VMC_EIO);
    assert_int_equal(w->changed, 0);
    w->evict_rc = VMC_OK;
    pass(w, 2);
    assert_int_equal(w->changed, 0);
    assert_int_equal(slots_in_use(w), 1);
    assert_null(registered(w, dead));
    ok(w, vmc_vmfs_open(w->host[B].v, "/f", VMC_VMFS_WRITE, &f, &w->err));
    ok(w, vmc_vmfs_close(f, &w->err));
    ok(w, vmc_vmfs_unmount(w->host[B].v, &w->err));
    world_free(w);
}

static void who_is_shut_out_is_over(void **state)
{
    struct world *w = world_new();
    struct host *a = &w->host[A];

    (void)state;
    ok(w, mount(w, A, true));
    *registered(w, a->key) = 0;
    uint8_t *was = malloc(BYTES);
    assert_non_null(was);
    memcpy(was, w->disk.data, BYTES);
    w->tp.now_ns += 1000 * MS;
    assert_int_equal(vmc_vmfs_renew(a->v, &w->err), VMC_EFENCED);
    assert_int_equal(vmc_vmfs_mkdir(a->v, "/d", 0700, &w->err), VMC_EFENCED);
    assert_int_equal(vmc_vmfs_beat(a->v, &w->err), VMC_EFENCED);
    (void)!vmc_vmfs_unmount(a->v, &w->err);
    assert_memory_equal(was, w->disk.data, BYTES); /* not a byte more */
    assert_int_equal(a->joins, 1);
    assert_int_equal(a->leaves, 0);
    free(was);
    world_free(w);
}

/* The same when a host learns it from an attempt to shut out another one. */
static void a_rescuer_that_is_shut_out_is_over(void **state)
{
    struct world *w = world_new();

    (void)state;
    ok(w, mount(w, A, true));
    ok(w, mount(w, B, true));
    vmc_vmfs_abandon(w->host[A].v);
    w->evict_rc = VMC_EFENCED;
    int rc = VMC_OK;
    for (unsigned i = 0; rc == VMC_OK && i < LEASE + 10; i++) {
        w->tp.now_ns += 1000 * MS;
        rc = vmc_vmfs_beat(w->host[B].v, &w->err);
    }
    assert_int_equal(rc, VMC_EFENCED);
    assert_int_equal(slots_in_use(w), 2);
    vmc_vmfs_abandon(w->host[B].v);
    world_free(w);
}

/* A reservation would shut out a host that never registered. */
static void waits_for_who_has_no_key(void **state)
{
    struct world *w = world_new();

    (void)state;
    ok(w, mount(w, A, false));
    w->beats = &w->host[A];
    assert_int_equal(mount(w, B, true), VMC_EBUSY);
    assert_non_null(strstr(w->err.text, "first"));
    assert_int_equal(w->host[B].joins, 0);
    w->beats = NULL;
    vmc_vmfs_abandon(w->host[A].v);
    w->slept = 0;
    ok(w, mount(w, B, true));
    assert_true(w->slept >= LEASE * 1000 * MS); /* dead at last */
    pass(w, 2);
    assert_int_equal(slots_in_use(w), 1);
    assert_int_equal(w->evictions, 0);
    ok(w, vmc_vmfs_unmount(w->host[B].v, &w->err));
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(joins_before_its_slot_and_leaves_after_it),
        cmocka_unit_test(what_cannot_join_takes_no_slot),
        cmocka_unit_test(the_dead_are_shut_out_first),
        cmocka_unit_test(who_is_shut_out_is_over),
        cmocka_unit_test(a_rescuer_that_is_shut_out_is_over),
        cmocka_unit_test(waits_for_who_has_no_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
