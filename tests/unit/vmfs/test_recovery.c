/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A host replays the journal of one that died while a third, which knew the dead one, works in the
 * same directory: at every request of the replay, before it and after it. Then the same with a host
 * that stalls there for longer than its lease: it must not go on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmfs_model.h"

#include <cmocka.h>

#define MIB    (1ull << 20)
#define SECOND 1000000000ull
enum { RESCUER, WORKER, DEAD, HOSTS };

/* The rescuer's way to the disk: the worker makes a file before or after some request. */
struct meeting {
    struct vmc_blockdev below;
    struct vmc_blockdev_ops ops;
    struct model_env *e;
    uint32_t left; /* moments until then; UINT32_MAX: never */
    bool stalls; /* the rescuer, for longer than its lease; not between its look at it and a request
                  */
    char path[32];
    bool met;
    int rc;
};

static int make(struct model_env *e, unsigned host, const char *path)
{
    struct vmc_vmfs_file *f;
    int rc = vmc_vmfs_open(e->host[host].v, path, VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE,
                           &f, &e->err);

    if (rc != VMC_OK)
        return rc;
    int64_t n = vmc_vmfs_pwrite(f, path, strlen(path), 5000, &e->err);
    rc = vmc_vmfs_close(f, &e->err);
    return n < 0 ? (int)n : rc;
}

static void meet(struct meeting *m)
{
    if (m->left == UINT32_MAX || m->left-- != 0)
        return;
    m->left = UINT32_MAX;
    m->met = true;
    m->e->host[WORKER].waiting = true;
    if (!m->stalls)
        m->rc = make(m->e, WORKER, m->path);
    for (unsigned i = 0; m->stalls && i < 60; i++) {
        m->e->tp.now_ns += SECOND;
        model_ok(m->e, vmc_vmfs_renew(m->e->host[WORKER].v, &m->e->err));
        if (i == 0 || m->rc == VMC_EBUSY)
            m->rc = make(m->e, WORKER, m->path);
    }
    m->e->host[WORKER].waiting = false;
}

static int meeting_submit(void *ctx, struct vmc_block_req *r)
{
    struct meeting *m = ctx;

    if (!m->stalls)
        meet(m);
    int rc = m->below.ops->submit(m->below.ctx, r);
    meet(m);
    return rc;
}

static int meeting_info(void *ctx, struct vmc_block_info *out)
{
    struct meeting *m = ctx;
    return m->below.ops->info(m->below.ctx, out);
}

static int meeting_compare_write(void *ctx, uint64_t off, const void *expect, const void *data,
                                 size_t bytes)
{
    struct meeting *m = ctx;

    if (!m->stalls)
        meet(m);
    int rc = m->below.ops->compare_write(m->below.ctx, off, expect, data, bytes);
    meet(m);
    return rc;
}

/* Time goes on; nobody looks around, so nobody is recovered. */
static void wait_seconds(struct model_env *e, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        e->tp.now_ns += SECOND;
        model_ok(e, vmc_vmfs_renew(e->host[RESCUER].v, &e->err));
        model_ok(e, vmc_vmfs_renew(e->host[WORKER].v, &e->err));
    }
}

/* All slots are looked at: a beat looks at some. */
static int look_around(struct model_env *e)
{
    int rc = VMC_OK;

    e->host[RESCUER].waiting = true; /* it does not beat while the worker waits for it */
    for (unsigned i = 0; rc == VMC_OK && i < 3; i++)
        rc = vmc_vmfs_beat(e->host[RESCUER].v, &e->err);
    e->host[RESCUER].waiting = false;
    return rc;
}

static void there(struct model_env *e, const char *path)
{
    for (unsigned h = RESCUER; h <= WORKER; h++) {
        struct vmc_vmfs_file *f;
        char buf[32];
        model_ok(e, vmc_vmfs_open(e->host[h].v, path, VMC_VMFS_READ, &f, &e->err));
        assert_int_equal(vmc_vmfs_pread(f, buf, strlen(path), 5000, &e->err), strlen(path));
        assert_memory_equal(buf, path, strlen(path));
        model_ok(e, vmc_vmfs_close(f, &e->err));
    }
}

static void at_every_moment(uint32_t version, bool stalls)
{
    struct model_env e;
    unsigned first = 0, busy = 0, fenced = 0;

    model_env_init(&e, 1, 300 * MIB, version, 1, HOSTS);
    struct meeting m = {
        .below = e.host[RESCUER].bd[0], .e = &e, .left = UINT32_MAX, .stalls = stalls};
    m.ops = (struct vmc_blockdev_ops){
        .info = meeting_info, .submit = meeting_submit, .compare_write = meeting_compare_write};
    e.host[RESCUER].bd[0] = (struct vmc_blockdev){.ops = &m.ops, .ctx = &m};
    model_mount(&e, RESCUER);
    model_mount(&e, WORKER);
    model_ok(&e, vmc_vmfs_mkdir(e.host[WORKER].v, "/d", 0755, &e.err));
    for (uint32_t at = 0;; at++) {
        char dead[32];
        snprintf(dead, sizeof(dead), "/d/dead%u", at);
        snprintf(m.path, sizeof(m.path), "/d/new%u", at);
        model_mount(&e, DEAD);
        model_ok(&e, look_around(&e));
        model_ok(&e, make(&e, DEAD, dead));
        model_ok(&e, vmc_vmfs_mkdir(e.host[DEAD].v, "/d/last", 0755, &e.err));
        model_kill(&e, DEAD);
        model_ok(&e, look_around(&e)); /* it was seen alive */
        wait_seconds(&e, 30);
        m.met = false;
        m.rc = VMC_OK;
        m.left = at;
        int rc = look_around(&e);
        m.left = UINT32_MAX;
        if (stalls && m.met) {
            assert_true(rc == VMC_OK || rc == VMC_EFENCED);
            fenced += rc == VMC_EFENCED;
            model_kill(&e, RESCUER);
            model_mount(&e, RESCUER);
        } else {
            model_ok(&e, rc);
        }
        if (m.rc == VMC_EBUSY) { /* it was held in the name of the dead one */
            busy++;
            m.rc = make(&e, WORKER, m.path);
        }
        model_ok(&e, m.rc);
        there(&e, dead);
        model_ok(&e, vmc_vmfs_remove(e.host[WORKER].v, "/d/last", &e.err));
        if (!m.met)
            break;
        first++;
        there(&e, m.path);
        model_fsck(&e);
        model_ok(&e, vmc_vmfs_remove(e.host[WORKER].v, m.path, &e.err));
        model_ok(&e, vmc_vmfs_remove(e.host[RESCUER].v, dead, &e.err));
    }
    print_message(
        "VMFS%u: %u moments, the directory was held in %u; the rescuer was fenced in %u\n", version,
        first, busy, fenced);
    assert_true((stalls ? fenced : busy) > 0);
    assert_true(first > 20);
    model_ok(&e, vmc_vmfs_unmount(e.host[RESCUER].v, &e.err));
    model_ok(&e, vmc_vmfs_unmount(e.host[WORKER].v, &e.err));
    e.host[RESCUER].v = e.host[WORKER].v = NULL;
    model_fsck(&e);
    model_env_fini(&e);
}

static void replay_meets_a_host_at_work(void **state)
{
    (void)state;
    at_every_moment(5, false);
}
static void replay_stalls(void **state)
{
    (void)state;
    at_every_moment(5, true);
}
static void replay_stalls_vmfs6(void **state)
{
    (void)state;
    at_every_moment(6, true);
}
static void replay_meets_a_host_at_work_vmfs3(void **state)
{
    (void)state;
    at_every_moment(3, false);
}
static void replay_meets_a_host_at_work_vmfs6(void **state)
{
    (void)state;
    at_every_moment(6, false);
}

/*
 * A host that has a file open stalls for longer than its lease, and another one opens the file for
 * writing. What the first one does with its handle then leaves the lock of the other one alone.
 */
static void stalled_holder(uint32_t flags)
{
    enum { STALLED, WRITER, THIRD };
    struct model_env e;
    struct vmc_vmfs_file *f, *g, *h;
    int rc = VMC_EBUSY;

    model_env_init(&e, 1, 300 * MIB, 5, 1, HOSTS);
    for (unsigned i = STALLED; i <= THIRD; i++)
        model_mount(&e, i);
    model_ok(&e, make(&e, WRITER, "/f"));
    model_ok(&e, vmc_vmfs_open(e.host[STALLED].v, "/f", flags, &f, &e.err));
    for (unsigned i = 0; i < 60 && rc == VMC_EBUSY; i++) {
        e.tp.now_ns += SECOND;
        model_ok(&e, vmc_vmfs_renew(e.host[WRITER].v, &e.err));
        model_ok(&e, vmc_vmfs_renew(e.host[THIRD].v, &e.err));
        e.host[WRITER].waiting = e.host[STALLED].waiting = true;
        rc = vmc_vmfs_open(e.host[WRITER].v, "/f", VMC_VMFS_READ | VMC_VMFS_WRITE, &g, &e.err);
        e.host[WRITER].waiting = e.host[STALLED].waiting = false;
    }
    model_ok(&e, rc);
    rc = vmc_vmfs_close(f, &e.err);
    assert_int_equal(
        vmc_vmfs_open(e.host[THIRD].v, "/f", VMC_VMFS_READ | VMC_VMFS_WRITE, &h, &e.err),
        VMC_EBUSY);
    assert_int_equal(rc, VMC_EFENCED);
    assert_int_equal(vmc_vmfs_pwrite(g, "x", 1, 0, &e.err), 1);
    model_ok(&e, vmc_vmfs_close(g, &e.err));
    model_kill(&e, STALLED);
    model_mount(&e, STALLED);
    for (unsigned i = STALLED; i <= THIRD; i++) {
        model_ok(&e, vmc_vmfs_unmount(e.host[i].v, &e.err));
        e.host[i].v = NULL;
    }
    model_fsck(&e);
    model_env_fini(&e);
}

static void a_reader_stalls(void **state)
{
    (void)state;
    stalled_holder(VMC_VMFS_READ);
}

static void one_of_several_writers_stalls(void **state)
{
    (void)state;
    stalled_holder(VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_MULTI);
}

static void a_writer_stalls(void **state)
{
    (void)state;
    stalled_holder(VMC_VMFS_READ | VMC_VMFS_WRITE);
}

/*
 * A write of one host fails: to its journal, or of metadata in place. Whatever of it is on the
 * disk, and whatever another host wants meanwhile, the change is there as a whole in the end, or
 * not at all.
 */
static void a_write_fails(void **state)
{
    (void)state;
    enum { FAILING, OTHER };
    unsigned failed = 0, busy = 0;

    for (uint32_t fate = 0; fate < 3; fate++) {
        for (uint32_t at = 1;; at++) {
            struct model_env e;
            model_env_init(&e, 1, 300 * MIB, 5, 1, 2);
            model_mount(&e, OTHER);
            model_mount(&e, FAILING); /* the other one knows that it began to live */
            model_ok(&e, vmc_vmfs_mkdir(e.host[OTHER].v, "/d", 0755, &e.err));
            model_ok(&e, make(&e, FAILING, "/d/first"));
            e.host[FAILING].path[0].fail_fate = fate;
            e.host[FAILING].path[0].fail_write = at;
            int rc = vmc_vmfs_mkdir(e.host[FAILING].v, "/d/second", 0755, &e.err);
            bool all = e.host[FAILING].path[0].fail_write != 0;
            e.host[FAILING].path[0].fail_write = 0;
            e.host[OTHER].waiting = e.host[FAILING].waiting = true;
            int got = make(&e, OTHER, "/d/new");
            for (unsigned i = 0; i < 60 && got == VMC_EBUSY; i++) {
                e.tp.now_ns += SECOND;
                model_ok(&e, vmc_vmfs_renew(e.host[OTHER].v, &e.err));
                got = make(&e, OTHER, "/d/new");
                busy += got == VMC_OK;
            }
            model_ok(&e, got);
            e.host[OTHER].waiting = e.host[FAILING].waiting = false;
            failed += rc != VMC_OK;
            model_kill(&e, FAILING);
            model_mount(&e, FAILING);
            model_ok(&e, vmc_vmfs_unmount(e.host[FAILING].v, &e.err));
            struct vmc_vmfs_stat st;
            model_ok(&e, vmc_vmfs_stat(e.host[OTHER].v, "/d/first", &st, &e.err));
            model_ok(&e, vmc_vmfs_stat(e.host[OTHER].v, "/d/new", &st, &e.err));
            bool there = vmc_vmfs_stat(e.host[OTHER].v, "/d/second", &st, &e.err) == VMC_OK;
            assert_true(there || rc != VMC_OK);
            model_ok(&e, vmc_vmfs_unmount(e.host[OTHER].v, &e.err));
            e.host[FAILING].v = e.host[OTHER].v = NULL;
            model_fsck(&e);
            model_env_fini(&e);
            if (all)
                break;
        }
    }
    print_message("%u failed, the other waited in %u\n", failed, busy);
    assert_true(failed > 6 && busy > 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replay_meets_a_host_at_work),
        cmocka_unit_test(replay_meets_a_host_at_work_vmfs3),
        cmocka_unit_test(replay_meets_a_host_at_work_vmfs6),
        cmocka_unit_test(replay_stalls),
        cmocka_unit_test(replay_stalls_vmfs6),
        cmocka_unit_test(a_reader_stalls),
        cmocka_unit_test(one_of_several_writers_stalls),
        cmocka_unit_test(a_writer_stalls),
        cmocka_unit_test(a_write_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
