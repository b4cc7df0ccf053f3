/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What one transaction cannot hold: the end of a file that is too large to be freed at once, by its
 * removal or by a rename over it, cut at every write; and of directories into each other, by two
 * hosts at the same time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmfs_model.h"

#include <cmocka.h>

#define MIB    (1ull << 20)
#define BLOCKS 280u /* of the file that is replaced; none of them beside another */
#define MARKS  7u

/* ---- a large file is replaced ------------------------------------------------------------------
 */

static void mark(struct model_env *e, struct vmc_vmfs_file *f, uint64_t blk, unsigned value)
{
    unsigned char buf[4096];

    memset(buf, (int)value, sizeof(buf));
    int64_t n = vmc_vmfs_pwrite(f, buf, sizeof(buf), blk * MIB, &e->err);
    model_ok(e, (int)(n < 0 ? n : 0));
}

static bool is_marked(struct model_env *e, struct vmc_vmfs_file *f, uint64_t blk, unsigned value)
{
    unsigned char buf[4096], want[4096];

    memset(want, (int)value, sizeof(want));
    int64_t n = vmc_vmfs_pread(f, buf, sizeof(buf), blk * MIB, &e->err);
    model_ok(e, (int)(n < 0 ? n : 0));
    return n == sizeof(buf) && memcmp(buf, want, sizeof(buf)) == 0;
}

/* /big gets every second block of a stretch of the volume: so many pieces to be freed one by one.
 */
static void make_big(struct model_env *e)
{
    struct vmc_vmfs *v = e->host[0].v;
    struct vmc_vmfs_file *big, *between;
    uint32_t how = VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE;

    model_ok(e, vmc_vmfs_open(v, "/big", how, &big, &e->err));
    model_ok(e, vmc_vmfs_open(v, "/between", how, &between, &e->err));
    model_ok(e, vmc_vmfs_truncate(big, BLOCKS * MIB, &e->err));
    model_ok(e, vmc_vmfs_truncate(between, BLOCKS * MIB, &e->err));
    for (uint64_t i = 0; i < BLOCKS; i++) {
        model_ok(e, vmc_vmfs_allocate(big, i * MIB, MIB, VMC_VMFS_ALLOC_LAZY, &e->err));
        model_ok(e, vmc_vmfs_allocate(between, i * MIB, MIB, VMC_VMFS_ALLOC_LAZY, &e->err));
    }
    for (uint64_t i = 0; i < BLOCKS; i += BLOCKS / MARKS)
        mark(e, big, i, 1);
    model_ok(e, vmc_vmfs_close(big, &e->err));
    model_ok(e, vmc_vmfs_close(between, &e->err));
    model_ok(e, vmc_vmfs_remove(v, "/between", &e->err));
}

static void make_new(struct model_env *e)
{
    struct vmc_vmfs_file *f;

    model_ok(e, vmc_vmfs_open(e->host[0].v, "/new",
                              VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &e->err));
    mark(e, f, 0, 2);
    model_ok(e, vmc_vmfs_fsync(f, &e->err));
    model_ok(e, vmc_vmfs_close(f, &e->err));
}

/* Names that a rename left: at most one. True: there is one; it goes to path. */
static bool find_left(struct model_env *e, char *path, size_t bytes)
{
    struct vmc_vmfs_dirent d;
    uint64_t cookie = 0;
    unsigned n = 0;

    while (vmc_vmfs_readdir(e->host[0].v, "/", &cookie, &d, &e->err) == 1)
        if (strncmp(d.name, ".vmcore-", 8) == 0) {
            assert_int_equal(strspn(d.name + 8, "0123456789abcdef"), 16);
            assert_int_equal(strlen(d.name), 24);
            snprintf(path, bytes, "/%s", d.name);
            n++;
        }
    assert_in_range(n, 0, 1);
    return n == 1;
}

/* True: the rename has happened. Either way one of the two files is there, and is whole. */
static bool look(struct model_env *e)
{
    struct vmc_vmfs *v = e->host[0].v;
    struct vmc_vmfs_stat big, fresh;
    struct vmc_vmfs_file *f;
    char left[64];

    model_ok(e, vmc_vmfs_stat(v, "/big", &big, &e->err));
    int rc = vmc_vmfs_stat(v, "/new", &fresh, &e->err);
    bool happened = rc == VMC_ENOENT;
    if (!happened)
        model_ok(e, rc);
    model_ok(e, vmc_vmfs_open(v, "/big", VMC_VMFS_READ, &f, &e->err));
    if (happened) {
        assert_int_equal(big.bytes, 4096);
        assert_true(is_marked(e, f, 0, 2));
    } else {
        assert_int_equal(big.bytes, BLOCKS * MIB);
        assert_int_equal(big.blocks, BLOCKS);
        for (uint64_t i = 0; i < BLOCKS; i += BLOCKS / MARKS)
            assert_true(is_marked(e, f, i, 1));
        assert_false(find_left(e, left, sizeof(left)));
    }
    model_ok(e, vmc_vmfs_close(f, &e->err));
    return happened;
}

static uint64_t used_blocks(struct model_env *e)
{
    struct vmc_vmfs_space s;

    model_ok(e, vmc_vmfs_space(e->host[0].v, &s, &e->err));
    return s.blocks.total - s.blocks.free;
}

static void remount(struct model_env *e)
{
    model_mount(e, 0);
    /* The lease of the session that was cut off runs out. */
    for (unsigned i = 0; i < 30; i++) {
        e->tp.now_ns += 1000000000ull;
        model_ok(e, vmc_vmfs_beat(e->host[0].v, &e->err));
    }
}

static void replaced(uint32_t version, uint32_t seeds)
{
    struct model_env e;
    char left[64];
    unsigned before = 0, between = 0;

    model_env_init(&e, 1, 900 * MIB, version, 1, 1);
    e.disk[0].can_discard = false; /* it would remember what 280 MiB held, for each cut */
    model_mount(&e, 0);
    uint64_t empty = used_blocks(&e);
    bool whole = false;
    for (uint64_t cut = 0; !whole; cut++) {
        for (uint32_t seed = 0; seed < seeds; seed++) {
            struct vmc_vmfs_stat st;
            if (vmc_vmfs_stat(e.host[0].v, "/new", &st, NULL) == VMC_ENOENT) {
                make_big(&e);
                make_new(&e);
            }
            struct test_path *p = &e.host[0].path[0];
            e.disk[0].track = true;
            p->torn = true;
            p->seed = (uint32_t)(cut * seeds + seed);
            p->cut_after = cut;
            int rc = vmc_vmfs_rename(e.host[0].v, "/new", "/big", 0, &e.err);
            whole = !p->cut;
            if (whole)
                model_ok(&e, rc);
            bool acknowledged = rc == VMC_OK;
            model_kill(&e, 0);
            test_disk_power_cut(&e.disk[0], seed < 2 ? seed : cut * seeds + seed);
            e.disk[0].track = false;
            if (seed == 0)
                model_fsck(&e);
            remount(&e);
            bool happened = look(&e);
            assert_true(happened || !acknowledged);
            before += !happened;
            if (happened && find_left(&e, left, sizeof(left))) {
                between++;
                model_ok(&e, vmc_vmfs_remove(e.host[0].v, left, &e.err));
            }
            if (happened) {
                model_ok(&e, vmc_vmfs_remove(e.host[0].v, "/big", &e.err));
                assert_int_equal(used_blocks(&e), empty);
            }
        }
    }
    print_message("VMFS%u: %u cuts before, %u between rename and release\n", version, before,
                  between);
    assert_true(before > 0 && between > 0);
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    e.host[0].v = NULL;
    model_fsck(&e);
    model_env_fini(&e);
}

static void large_file_is_replaced_at_once(void **state)
{
    (void)state;
    replaced(5, 3);
}
static void large_file_is_replaced_at_once_vmfs3(void **state)
{
    (void)state;
    replaced(3, 1);
}
static void large_file_is_replaced_at_once_vmfs6(void **state)
{
    (void)state;
    replaced(6, 1);
}

/* A large file is removed: a cut leaves the file shorter, and whole in what it still has. */
static void removed(uint32_t version, uint32_t seeds)
{
    struct model_env e;
    struct vmc_vmfs_stat st;
    unsigned whole = 0, shorter = 0, gone = 0;

    model_env_init(&e, 1, 900 * MIB, version, 1, 1);
    e.disk[0].can_discard = false;
    model_mount(&e, 0);
    uint64_t empty = used_blocks(&e);
    bool done = false;
    for (uint64_t cut = 0; !done; cut++) {
        for (uint32_t seed = 0; seed < seeds; seed++) {
            make_big(&e);
            struct test_path *p = &e.host[0].path[0];
            e.disk[0].track = true;
            p->torn = true;
            p->seed = (uint32_t)(cut * seeds + seed);
            p->cut_after = cut;
            int rc = vmc_vmfs_remove(e.host[0].v, "/big", &e.err);
            done = !p->cut;
            if (done)
                model_ok(&e, rc);
            bool acknowledged = rc == VMC_OK;
            model_kill(&e, 0);
            test_disk_power_cut(&e.disk[0], seed < 2 ? seed : cut * seeds + seed);
            e.disk[0].track = false;
            if (seed == 0)
                model_fsck(&e);
            remount(&e);
            int there = vmc_vmfs_stat(e.host[0].v, "/big", &st, &e.err);
            if (there == VMC_ENOENT) {
                gone++;
            } else {
                struct vmc_vmfs_file *f;
                model_ok(&e, there);
                assert_false(acknowledged);
                assert_true(st.bytes % MIB == 0 && st.bytes <= BLOCKS * MIB);
                assert_int_equal(st.blocks, st.bytes / MIB);
                whole += st.blocks == BLOCKS;
                shorter += st.blocks < BLOCKS;
                model_ok(&e, vmc_vmfs_open(e.host[0].v, "/big", VMC_VMFS_READ, &f, &e.err));
                for (uint64_t i = 0; i < st.blocks; i += BLOCKS / MARKS)
                    assert_true(is_marked(&e, f, i, 1));
                model_ok(&e, vmc_vmfs_close(f, &e.err));
                model_ok(&e, vmc_vmfs_remove(e.host[0].v, "/big", &e.err));
            }
            assert_int_equal(used_blocks(&e), empty);
        }
    }
    print_message("VMFS%u: %u cuts before, %u between, %u after\n", version, whole, shorter, gone);
    assert_true(whole > 0 && shorter > 0 && gone > 0);
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    e.host[0].v = NULL;
    model_fsck(&e);
    model_env_fini(&e);
}

static void large_file_is_removed(void **state)
{
    (void)state;
    removed(5, 3);
}
static void large_file_is_removed_vmfs3(void **state)
{
    (void)state;
    removed(3, 1);
}
static void large_file_is_removed_vmfs6(void **state)
{
    (void)state;
    removed(6, 1);
}

/* What a cut left has an ordinary name: it can be replaced itself, though it is the name to be
 * used. */
static void what_was_left_is_replaced(void **state)
{
    (void)state;
    struct model_env e;
    struct vmc_vmfs_stat st;
    char left[64], name[64];

    model_env_init(&e, 1, 900 * MIB, 5, 1, 1);
    model_mount(&e, 0);
    make_big(&e);
    make_new(&e);
    model_ok(&e, vmc_vmfs_stat(e.host[0].v, "/big", &st, &e.err));
    snprintf(name, sizeof(name), "/.vmcore-%08x%08x", (unsigned)st.id, (unsigned)st.generation);
    model_ok(&e, vmc_vmfs_rename(e.host[0].v, "/big", name, 0, &e.err));
    model_ok(&e, vmc_vmfs_rename(e.host[0].v, "/new", name, 0, &e.err));
    model_ok(&e, vmc_vmfs_stat(e.host[0].v, name, &st, &e.err));
    assert_int_equal(st.bytes, 4096);
    assert_true(find_left(&e, left, sizeof(left)));
    assert_string_equal(left, name);
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    e.host[0].v = NULL;
    model_fsck(&e);
    model_env_fini(&e);
}

/* Another host has a look at what is replaced: the rename is done, the rest is found by its name.
 */
static void what_was_replaced_is_in_use(void **state)
{
    (void)state;
    struct model_env e;
    struct vmc_vmfs_file *f;

    model_env_init(&e, 1, 900 * MIB, 5, 1, 2);
    model_mount(&e, 0);
    model_mount(&e, 1);
    make_big(&e);
    make_new(&e);
    model_ok(&e, vmc_vmfs_open(e.host[1].v, "/big", VMC_VMFS_READ, &f, &e.err));
    assert_int_equal(vmc_vmfs_rename(e.host[0].v, "/new", "/big", 0, &e.err), VMC_EBUSY);
    assert_false(look(&e));
    model_ok(&e, vmc_vmfs_close(f, &e.err));
    model_ok(&e, vmc_vmfs_rename(e.host[0].v, "/new", "/big", 0, &e.err));
    assert_true(look(&e));
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    model_ok(&e, vmc_vmfs_unmount(e.host[1].v, &e.err));
    e.host[0].v = e.host[1].v = NULL;
    model_fsck(&e);
    model_env_fini(&e);
}

/* ---- two hosts move two directories into each other ---------------------------------------------
 */

/* A disk that lets the second host move a directory after some request of the first one. */
struct crossing {
    struct vmc_blockdev below;
    struct vmc_blockdev_ops ops;
    struct model_env *e;
    uint32_t after; /* requests until then; UINT32_MAX: never */
    bool done;
    int rc;
};

static void cross(struct crossing *c)
{
    if (c->after == UINT32_MAX || c->after-- != 0)
        return;
    c->after = UINT32_MAX;
    c->done = true;
    c->rc = vmc_vmfs_rename(c->e->host[1].v, "/q/b", "/p/a/y/b", 0, &c->e->err);
}

static int crossing_submit(void *ctx, struct vmc_block_req *r)
{
    struct crossing *c = ctx;
    int rc = c->below.ops->submit(c->below.ctx, r);

    cross(c);
    return rc;
}

static int crossing_info(void *ctx, struct vmc_block_info *out)
{
    struct crossing *c = ctx;
    return c->below.ops->info(c->below.ctx, out);
}

static int crossing_compare_write(void *ctx, uint64_t off, const void *expect, const void *data,
                                  size_t bytes)
{
    struct crossing *c = ctx;
    int rc = c->below.ops->compare_write(c->below.ctx, off, expect, data, bytes);

    cross(c);
    return rc;
}

static void two_ways(uint32_t version)
{
    static const char *const dirs[] = {"/p", "/q", "/p/a", "/q/b", "/p/a/y", "/q/b/x"};
    struct model_env e;
    struct vmc_vmfs_stat st;
    unsigned won[2] = {0}, busy = 0;

    model_env_init(&e, 1, 300 * MIB, version, 1, 2);
    struct crossing c = {.below = e.host[0].bd[0], .e = &e, .after = UINT32_MAX};
    c.ops = (struct vmc_blockdev_ops){
        .info = crossing_info, .submit = crossing_submit, .compare_write = crossing_compare_write};
    e.host[0].bd[0] = (struct vmc_blockdev){.ops = &c.ops, .ctx = &c};
    model_mount(&e, 0);
    model_mount(&e, 1);
    for (uint32_t at = 0;; at++) {
        for (unsigned i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
            model_ok(&e, vmc_vmfs_mkdir(e.host[0].v, dirs[i], 0755, &e.err));
        for (unsigned h = 0; h < 2; h++) /* both know where everything is */
            for (unsigned i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
                model_ok(&e, vmc_vmfs_stat(e.host[h].v, dirs[i], &st, &e.err));
        c.done = false;
        c.after = at;
        c.rc = VMC_OK;
        int rc = vmc_vmfs_rename(e.host[0].v, "/p/a", "/q/b/x/a", 0, &e.err);
        if (rc != VMC_OK && rc != VMC_EINVAL && rc != VMC_ENOENT && rc != VMC_EBUSY)
            model_ok(&e, rc);
        c.after = UINT32_MAX;
        if (!c.done) {
            model_ok(&e, rc);
            break;
        }
        bool moved = vmc_vmfs_stat(e.host[1].v, "/q/b/x/a/y", &st, NULL) == VMC_OK;
        assert_true(moved == (rc == VMC_OK));
        bool other = vmc_vmfs_stat(e.host[0].v, "/p/a/y/b/x", &st, NULL) == VMC_OK;
        assert_true(other == (c.rc == VMC_OK));
        assert_false(moved && other);
        won[0] += moved;
        won[1] += other;
        busy += c.rc == VMC_EBUSY;
        model_fsck(&e);
        /* From the leaves: whatever is where it is now. */
        static const char *const all[] = {"/q/b/x/a/y", "/q/b/x/a", "/p/a/y/b/x", "/p/a/y/b",
                                          "/q/b/x",     "/q/b",     "/p/a/y",     "/p/a",
                                          "/q",         "/p"};
        for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
            if (vmc_vmfs_stat(e.host[0].v, all[i], &st, NULL) == VMC_OK)
                model_ok(&e, vmc_vmfs_remove(e.host[0].v, all[i], &e.err));
    }
    print_message("VMFS%u: the first host won %u times, the second %u; it found locks %u times\n",
                  version, won[0], won[1], busy);
    assert_true(won[0] > 0 && won[1] > 0 && busy > 0);
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    model_ok(&e, vmc_vmfs_unmount(e.host[1].v, &e.err));
    e.host[0].v = e.host[1].v = NULL;
    model_fsck(&e);
    model_env_fini(&e);
}

static void directories_moved_into_each_other(void **state)
{
    (void)state;
    two_ways(5);
}
static void directories_moved_into_each_other_vmfs3(void **state)
{
    (void)state;
    two_ways(3);
}
static void directories_moved_into_each_other_vmfs6(void **state)
{
    (void)state;
    two_ways(6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_file_is_replaced_at_once),
        cmocka_unit_test(large_file_is_replaced_at_once_vmfs3),
        cmocka_unit_test(large_file_is_replaced_at_once_vmfs6),
        cmocka_unit_test(large_file_is_removed),
        cmocka_unit_test(large_file_is_removed_vmfs3),
        cmocka_unit_test(large_file_is_removed_vmfs6),
        cmocka_unit_test(what_was_left_is_replaced),
        cmocka_unit_test(what_was_replaced_is_in_use),
        cmocka_unit_test(directories_moved_into_each_other),
        cmocka_unit_test(directories_moved_into_each_other_vmfs3),
        cmocka_unit_test(directories_moved_into_each_other_vmfs6),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
