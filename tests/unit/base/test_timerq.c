/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_int.h"
#include "test_platform.h"
#include <vmcore/timer.h>

#include <cmocka.h>

struct rec {
    struct vmc_timer *t;
    uint64_t deadline;
    unsigned fired;
    unsigned *order; /* shared counter */
    unsigned place;
    uint64_t rearm; /* period, or 0 */
    bool rearm_past;
};

static void fire(void *ctx, uint64_t deadline)
{
    struct rec *r = ctx;
    r->deadline = deadline;
    r->fired++;
    if (r->order != NULL)
        r->place = ++*r->order;
    if (r->rearm != 0)
        vmc_timer_arm(r->t, deadline + r->rearm);
    else if (r->rearm_past)
        vmc_timer_arm(r->t, 1);
}

struct fx {
    struct test_platform tp;
    struct vmc_timerq *q;
};

static int setup(void **state)
{
    struct fx *f = calloc(1, sizeof(*f));
    test_platform_init(&f->tp);
    assert_int_equal(vmc_timerq_create(&f->tp.pf, &f->q), VMC_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fx *f = *state;
    vmc_timerq_destroy(f->q);
    test_platform_check(&f->tp);
    free(f);
    return 0;
}

static struct rec *add(struct fx *f, struct rec *r)
{
    memset(r, 0, sizeof(*r));
    assert_int_equal(vmc_timer_create(f->q, "t", fire, r, &r->t), VMC_OK);
    return r;
}

static void fires_in_order_of_deadline(void **state)
{
    struct fx *f = *state;
    struct rec r[100];
    unsigned order = 0;
    uint64_t next;

    assert_false(vmc_timerq_next(f->q, &next));
    for (unsigned i = 0; i < 100; i++) {
        add(f, &r[i])->order = &order;
        vmc_timer_arm(r[i].t, 1000 + (i * 37) % 100);
    }
    assert_true(vmc_timerq_next(f->q, &next));
    assert_int_equal(next, 1000);
    vmc_timerq_advance(f->q, 999);
    assert_int_equal(order, 0);
    vmc_timerq_advance(f->q, 1049);
    assert_int_equal(order, 50);
    vmc_timerq_advance(f->q, 2000);
    assert_int_equal(order, 100);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(r[i].fired, 1);
        assert_int_equal(r[i].place, (i * 37) % 100 + 1);
        assert_int_equal(r[i].deadline, 1000 + (i * 37) % 100);
        vmc_timer_destroy(r[i].t);
    }
    assert_false(vmc_timerq_next(f->q, &next));
}

static void rearm_moves_and_disarm_stops(void **state)
{
    struct fx *f = *state;
    struct rec a, b;
    uint64_t d;

    add(f, &a);
    add(f, &b);
    vmc_timer_arm(a.t, 100);
    vmc_timer_arm(b.t, 200);
    vmc_timer_arm(a.t, 300); /* later */
    assert_true(vmc_timerq_next(f->q, &d));
    assert_int_equal(d, 200);
    vmc_timer_arm(a.t, 50); /* earlier */
    assert_true(vmc_timer_armed(a.t, &d));
    assert_int_equal(d, 50);
    vmc_timer_disarm(b.t);
    assert_false(vmc_timer_armed(b.t, NULL));
    vmc_timerq_advance(f->q, 1000);
    assert_int_equal(a.fired, 1);
    assert_int_equal(b.fired, 0);
    vmc_timer_arm(a.t, 5); /* an armed timer may be destroyed */
    vmc_timer_destroy(a.t);
    vmc_timer_destroy(b.t);
}

static void periodic_catches_up(void **state)
{
    struct fx *f = *state;
    struct rec a;

    add(f, &a)->rearm = 10;
    vmc_timer_arm(a.t, 10);
    for (unsigned i = 0; i < 20; i++)
        vmc_timerq_advance(f->q, 100);
    assert_int_equal(a.fired, 10);
    vmc_timer_destroy(a.t);
}

static void one_advance_is_bounded(void **state)
{
    struct fx *f = *state;
    struct rec a, b;

    add(f, &a)->rearm_past = true;
    add(f, &b);
    vmc_timer_arm(a.t, 10);
    vmc_timer_arm(b.t, 20);
    vmc_timerq_advance(f->q, 100);
    assert_true(a.fired <= 2);
    vmc_timerq_advance(f->q, 100);
    assert_true(a.fired <= 4);
    vmc_timer_destroy(a.t);
    vmc_timer_destroy(b.t);
}

static void clock_is_the_platforms_until_driven(void **state)
{
    struct fx *f = *state;

    f->tp.now_ns = 777;
    assert_int_equal(vmc_timerq_now(f->q), 777);
    vmc_timerq_set_virtual(f->q, 5);
    f->tp.now_ns = 888;
    assert_int_equal(vmc_timerq_now(f->q), 5);
}

static void count_call(void *ctx)
{
    ++*(unsigned *)ctx;
}

static void hooks_run_for_earlier_deadlines_only(void **state)
{
    struct fx *f = *state;
    struct rec a, b;
    unsigned user = 0, owner = 0;

    add(f, &a);
    add(f, &b);
    vmc_timerq_set_notify(f->q, count_call, &user);
    vmci_timerq_set_owner_notify(f->q, count_call, &owner);
    vmc_timer_arm(a.t, 100);
    vmc_timer_arm(b.t, 200);
    assert_int_equal(user, 1);
    vmc_timer_arm(b.t, 50);
    assert_int_equal(user, 2);
    assert_int_equal(owner, 2);
    vmc_timer_destroy(a.t);
    vmc_timer_destroy(b.t);
}

static void no_memory_is_reported(void **state)
{
    struct fx *f = *state;
    struct vmc_timer *t;

    for (uint64_t n = 1;; n++) {
        f->tp.fail_after = f->tp.allocs + n;
        int rc = vmc_timer_create(f->q, "t", fire, NULL, &t);
        f->tp.fail_after = 0;
        if (rc == VMC_OK)
            break;
        assert_int_equal(rc, VMC_ENOMEM);
    }
    vmc_timer_destroy(t);
}

/* ---- threads ------------------------------------------------------------------------------- */

struct storm {
    struct vmc_timerq *q;
    struct test_platform *tp;
    uint32_t stop;
    uint32_t fired;
};

static void storm_fire(void *ctx, uint64_t deadline)
{
    struct storm *s = ctx;
    (void)deadline;
    __atomic_fetch_add(&s->fired, 1, __ATOMIC_RELAXED);
}

static void *storm_armer(void *arg)
{
    struct storm *s = arg;

    /* On a busy machine the others may not have run yet: go on until one timer has fired. */
    for (unsigned i = 0;
         i < 300 || (i < 1000000 && __atomic_load_n(&s->fired, __ATOMIC_RELAXED) == 0); i++) {
        struct vmc_timer *t;
        if (vmc_timer_create(s->q, "storm", storm_fire, s, &t) != VMC_OK)
            continue;
        for (unsigned k = 0; k < 20; k++) {
            vmc_timer_arm(t, vmc_timerq_now(s->q) + k * 100);
            if (k % 3 == 0)
                vmc_timer_disarm(t);
        }
        vmc_timer_destroy(t); /* must wait for a running callback */
    }
    return NULL;
}

static void *storm_advancer(void *arg)
{
    struct storm *s = arg;

    while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE))
        vmc_timerq_advance(s->q, vmc_timerq_now(s->q) + 1000);
    return NULL;
}

static void threads_arm_while_others_fire(void **state)
{
    (void)state;
    struct test_platform tp;
    struct storm s = {.tp = &tp};
    pthread_t armer[2], advancer[2];

    test_platform_init_threads(&tp);
    assert_int_equal(vmc_timerq_create(&tp.pf, &s.q), VMC_OK);
    for (unsigned i = 0; i < 2; i++) {
        pthread_create(&advancer[i], NULL, storm_advancer, &s);
        pthread_create(&armer[i], NULL, storm_armer, &s);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(armer[i], NULL);
    __atomic_store_n(&s.stop, 1, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(advancer[i], NULL);
    assert_true(s.fired > 0);
    vmc_timerq_destroy(s.q);
    test_platform_check(&tp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(fires_in_order_of_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(rearm_moves_and_disarm_stops, setup, teardown),
        cmocka_unit_test_setup_teardown(periodic_catches_up, setup, teardown),
        cmocka_unit_test_setup_teardown(one_advance_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(clock_is_the_platforms_until_driven, setup, teardown),
        cmocka_unit_test_setup_teardown(hooks_run_for_earlier_deadlines_only, setup, teardown),
        cmocka_unit_test_setup_teardown(no_memory_is_reported, setup, teardown),
        cmocka_unit_test(threads_arm_while_others_fire),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
