/* SPDX-License-Identifier: BSD-2-Clause */
/* Writes that wait for space (tools/vmcore/disk_full.c), over a device that answers at once or
 * later. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "disk_full.h"
#include "disk_rig.h"

#define REQUESTS 200u
#define THREADS  4u

struct fx {
    struct disk_full *d;
    struct vmc_blockdev bd;
    _Atomic bool space, later;  /* later: another thread answers, */
    _Atomic bool held;          /* not now */
    _Atomic bool stuck, inside; /* submit does not return; somebody is in there */
    _Atomic bool unwanted;
    _Atomic unsigned submits;
    pthread_t worker;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct vmc_block_req *queue[REQUESTS * THREADS];
    unsigned queued;
    bool end;
};

struct request {
    struct vmc_block_req r;
    _Atomic unsigned done; /* how often */
};

static int result(struct fx *f, const struct vmc_block_req *r)
{
    return r->op == VMC_BLOCK_READ || atomic_load(&f->space) ? VMC_OK : VMC_ENOSPC;
}

static void nap(unsigned ms)
{
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};

    nanosleep(&t, NULL);
}

static int submit(void *ctx, struct vmc_block_req *r)
{
    struct fx *f = ctx;

    atomic_fetch_add(&f->submits, 1);
    while (atomic_load(&f->stuck)) {
        atomic_store(&f->inside, true);
        nap(1);
    }
    if (!atomic_load(&f->later)) {
        r->status = result(f, r);
        return VMC_BLOCK_COMPLETE;
    }
    pthread_mutex_lock(&f->lock);
    f->queue[f->queued++] = r;
    pthread_cond_signal(&f->changed);
    pthread_mutex_unlock(&f->lock);
    nap(1); /* some are answered before this returns */
    return VMC_BLOCK_PENDING;
}

static void *work(void *ctx)
{
    struct fx *f = ctx;

    pthread_mutex_lock(&f->lock);
    while (!f->end || f->queued > 0) {
        if (f->queued == 0) {
            pthread_cond_wait(&f->changed, &f->lock);
            continue;
        }
        struct vmc_block_req *r = f->queue[--f->queued];
        pthread_mutex_unlock(&f->lock);
        while (atomic_load(&f->held))
            nap(1);
        r->status = result(f, r);
        r->done(r);
        pthread_mutex_lock(&f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

static int info(void *ctx, struct vmc_block_info *out)
{
    (void)ctx;
    *out = (struct vmc_block_info){.bytes = 1 << 20, .sector_bytes = 512};
    return VMC_OK;
}

static const struct vmc_blockdev_ops below = {.info = info, .submit = submit};

static struct fx *start(bool flushes)
{
    struct fx *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    assert_int_equal(pthread_create(&f->worker, NULL, work, f), 0);
    f->d = disk_full_create("test", (struct vmc_blockdev){.ops = &below, .ctx = f}, flushes);
    assert_non_null(f->d);
    f->bd = disk_full_blockdev(f->d);
    return f;
}

static void stop(struct fx *f)
{
    disk_full_free(f->d);
    pthread_mutex_lock(&f->lock);
    f->end = true;
    pthread_cond_signal(&f->changed);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->worker, NULL);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static void done(struct vmc_block_req *r)
{
    struct request *q = r->opaque;

    atomic_fetch_add(&q->done, 1);
}

static void issue(struct fx *f, struct request *q, uint32_t op)
{
    q->r.op = op;
    q->r.status = 1;
    q->r.done = done;
    q->r.opaque = q;
    atomic_store(&q->done, 0);
    if (f->bd.ops->submit(f->bd.ctx, &q->r) == VMC_BLOCK_COMPLETE)
        done(&q->r);
}

/* Until it is done; the answer. */
static int answer(struct request *q)
{
    while (atomic_load(&q->done) == 0)
        nap(1);
    assert_int_equal(atomic_load(&q->done), 1);
    assert_ptr_equal(q->r.opaque, q);
    assert_true(q->r.done == done);
    return q->r.status;
}

static void waits(bool later)
{
    struct fx *f = start(true);
    static struct request q[8];
    time_t since = time(NULL);

    atomic_store(&f->later, later);
    for (unsigned i = 0; i < 8; i++)
        issue(f, &q[i],
              i == 3   ? VMC_BLOCK_FLUSH
              : i == 4 ? VMC_BLOCK_WRITE_ZEROES
                       : VMC_BLOCK_WRITE);
    struct request read = {0};
    issue(f, &read, VMC_BLOCK_READ);
    assert_int_equal(answer(&read), VMC_OK); /* others go on */
    while (!disk_full_waits(f->d))
        nap(1);
    nap(3000); /* looks in vain, at most one each second */
    unsigned submits = atomic_load(&f->submits);
    assert_true(submits > 9 && submits <= 9 + 8 * (unsigned)(time(NULL) - since + 2));
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(atomic_load(&q[i].done), 0);
    atomic_store(&f->space, true);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(answer(&q[i]), VMC_OK);
    while (disk_full_waits(f->d)) /* until the thread is out of it */
        nap(1);
    issue(f, &q[0], VMC_BLOCK_WRITE);
    assert_int_equal(answer(&q[0]), VMC_OK);
    stop(f);
}

static void test_at_once(void **state)
{
    (void)state;
    waits(false);
}

static void test_later(void **state)
{
    (void)state;
    waits(true);
}

/* A write that is tried again waits as well. */
static void test_try(void **state)
{
    struct fx *f = start(false);
    static struct request q;

    (void)state;
    issue(f, &q, VMC_BLOCK_WRITE);
    atomic_store(&f->held, true);
    atomic_store(&f->later, true);
    for (unsigned i = atomic_load(&f->submits); atomic_load(&f->submits) == i;)
        nap(1);
    nap(100); /* the thread waits for work again */
    assert_true(disk_full_waits(f->d));
    atomic_store(&f->space, true);
    atomic_store(&f->held, false);
    assert_int_equal(answer(&q), VMC_OK);
    while (disk_full_waits(f->d))
        nap(1);
    stop(f);
}

static void test_fail(void **state)
{
    struct fx *f = start(false);
    static struct request q[8];

    (void)state;
    issue(f, &q[0], VMC_BLOCK_FLUSH); /* of a file of the host: not tried again */
    assert_int_equal(answer(&q[0]), VMC_ENOSPC);
    for (unsigned i = 0; i < 8; i++)
        issue(f, &q[i], VMC_BLOCK_WRITE);
    disk_full_fail(f->d, true);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(answer(&q[i]), VMC_ENOSPC);
    issue(f, &q[0], VMC_BLOCK_WRITE);
    assert_int_equal(answer(&q[0]), VMC_ENOSPC);
    disk_full_fail(f->d, false);
    issue(f, &q[0], VMC_BLOCK_WRITE);
    assert_true(disk_full_waits(f->d));
    atomic_store(&f->space, true);
    assert_int_equal(answer(&q[0]), VMC_OK);
    stop(f);
}

/* A look for space is stuck in a disk that does not answer: who wants writes to fail is not kept. */
static void test_fail_while_stuck(void **state)
{
    struct fx *f = start(false);
    static struct request q[2];

    (void)state;
    issue(f, &q[0], VMC_BLOCK_WRITE);
    atomic_store(&f->stuck, true);
    while (!atomic_load(&f->inside))
        nap(1);
    disk_full_fail(f->d, true);
    assert_int_equal(atomic_load(&q[0].done), 0);
    atomic_store(&f->stuck, false);
    assert_int_equal(answer(&q[0]), VMC_ENOSPC);
    stop(f);
}

static bool is_wanted(void *ctx)
{
    struct fx *f = ctx;

    return !atomic_load(&f->unwanted);
}

/* The guest's driver resets its device: what waits is no use to it, and keeps the reset waiting. */
static void test_unwanted(void **state)
{
    struct fx *f = start(false);
    static struct request q[4];

    (void)state;
    disk_full_watch(f->d, is_wanted, f);
    for (unsigned i = 0; i < 4; i++)
        issue(f, &q[i], VMC_BLOCK_WRITE);
    nap(1500);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(atomic_load(&q[i].done), 0);
    atomic_store(&f->unwanted, true);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(answer(&q[i]), VMC_ENOSPC);
    atomic_store(&f->unwanted, false); /* and there is a new driver */
    issue(f, &q[0], VMC_BLOCK_WRITE);
    atomic_store(&f->space, true);
    assert_int_equal(answer(&q[0]), VMC_OK);
    stop(f);
}

/* Of disks, only redo logs have something to write again; the rest is the host's fsync. */
static void test_flushes(void **state)
{
    static const struct {
        const char *name;
        bool flushes;
    } disks[] = {{"flat.vmdk", false}, {"cowd.vmdk", true}, {"sesparse.vmdk", true}};
    struct env e;
    struct vmc_disk *d;

    (void)state;
    env_init(&e);
    ok(&e, vmc_disk_create(&e.tp.pf, &e.files, disks[0].name, 1 << 20, VMC_DISK_THIN, &e.err));
    ok(&e,
       vmc_disk_snapshot(&e.tp.pf, &e.files, disks[0].name, disks[1].name, VMC_DISK_COWD, &e.err));
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, disks[0].name, disks[2].name, VMC_DISK_SESPARSE,
                             &e.err));
    for (unsigned i = 0; i < 3; i++) {
        ok(&e, vmc_disk_open(&e.tp.pf, &e.files, disks[i].name, false, &d, &e.err));
        assert_int_equal(disk_full_flushes(d), disks[i].flushes);
        ok(&e, vmc_disk_close(d));
    }
    assert_false(disk_full_flushes(NULL));
    env_fini(&e);
}

static void *writer(void *arg)
{
    struct fx *f = arg;
    struct request *q = calloc(REQUESTS, sizeof(*q));
    unsigned failed = 0;

    if (q == NULL)
        return f;
    for (unsigned i = 0; i < REQUESTS; i++) {
        issue(f, &q[i], VMC_BLOCK_WRITE);
        if (i % 16 == 15)
            nap(1);
    }
    for (unsigned i = 0; i < REQUESTS; i++) {
        while (atomic_load(&q[i].done) == 0)
            nap(1);
        failed += atomic_load(&q[i].done) != 1 ||
                  (q[i].r.status != VMC_OK && q[i].r.status != VMC_ENOSPC);
    }
    free(q);
    return failed != 0 ? f : NULL;
}

/* Space comes and goes, so do answers later, while several threads write: each write ends once. */
static void test_storm(void **state)
{
    struct fx *f = start(true);
    pthread_t t[THREADS];
    void *failed;

    (void)state;
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, writer, f), 0);
    for (unsigned i = 0; i < 40; i++) {
        atomic_store(&f->space, i % 3 == 0);
        atomic_store(&f->later, i % 2 == 0);
        if (i % 10 == 9)
            disk_full_fail(f->d, true);
        nap(5);
        disk_full_fail(f->d, false);
    }
    atomic_store(&f->space, true);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(t[i], &failed);
        assert_null(failed);
    }
    assert_true(atomic_load(&f->submits) >= REQUESTS * THREADS);
    stop(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_at_once),  cmocka_unit_test(test_later),
        cmocka_unit_test(test_try),      cmocka_unit_test(test_fail),
        cmocka_unit_test(test_flushes),  cmocka_unit_test(test_storm),
        cmocka_unit_test(test_unwanted), cmocka_unit_test(test_fail_while_stuck)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
