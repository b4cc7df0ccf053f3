/* SPDX-License-Identifier: BSD-2-Clause */
/* Load control (lib/balloon/balloon_turns.c) as "vmcore host" applies it: who runs, who rests, for how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "host.h"

#define MS    1000000ull
#define VMS   4u
#define PAGES 1000u /* to divide */

struct fx {
    struct host h;
    struct host_vm vm[VMS];
    struct host_vm *who[VMS];
    struct vmc_balloon_vm plan[VMS];
    uint64_t now;
    uint64_t ran[VMS], rested[VMS]; /* looks at which it ran or not */
    uint64_t ran_ns[VMS];
    unsigned most; /* that ran at the same time */
};

static struct fx *fixture;

/* What the policy would call. */
uint64_t host_vm_ran_ns(const struct host_vm *vm)
{
    return fixture->ran_ns[vm - fixture->vm];
}

void host_vm_hold(struct host_vm *vm, unsigned why)
{
    atomic_fetch_or(&vm->held, why);
}

void host_vm_release(struct host_vm *vm, unsigned why)
{
    atomic_fetch_and(&vm->held, ~why);
}

static int setup(void **state)
{
    struct fx *f = calloc(1, sizeof(*f));

    f->now = 1000 * MS;
    f->h.vms = f->who;
    f->h.count = VMS;
    for (unsigned i = 0; i < VMS; i++) {
        f->who[i] = &f->vm[i];
        f->vm[i].ready = true;
        f->vm[i].footprint = 600;
        f->plan[i] = (struct vmc_balloon_vm){.configured = 800, .active = 400, .shares = 1};
    }
    *state = fixture = f;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

/* Look every 5 ms; who is not held executes a half of the time. */
static void pass(struct fx *f, unsigned ms, enum vmc_reclaim_state s)
{
    for (unsigned t = 0; t < ms; t += 5) {
        unsigned running = 0;
        f->now += 5 * MS;
        for (unsigned i = 0; i < VMS; i++) {
            bool runs = atomic_load(&f->vm[i].held) == 0;
            f->ran[i] += runs;
            f->rested[i] += !runs;
            running += runs;
            if (runs)
                f->ran_ns[i] += 5 * MS / 2;
        }
        f->most = running > f->most ? running : f->most;
        f->h.state = s;
        host_turns_look(&f->h, f->now, f->plan, f->who, VMS, PAGES);
    }
}

static void forget(struct fx *f)
{
    memset(f->ran, 0, sizeof(f->ran));
    memset(f->rested, 0, sizeof(f->rested));
    f->most = 0;
}

static void nobody_rests_while_there_is_memory(void **state)
{
    struct fx *f = *state;

    pass(f, 60000, VMC_RECLAIM_SOFT);
    for (unsigned i = 0; i < VMS; i++)
        assert_int_equal(f->rested[i], 0);
    pass(f, 900, VMC_RECLAIM_LOW); /* a moment is not enough */
    assert_int_equal(f->h.stats.turns, 0);
}

static void turns_go_round(void **state)
{
    struct fx *f = *state;

    pass(f, 2000, VMC_RECLAIM_LOW);
    forget(f);
    pass(f, 120000, VMC_RECLAIM_LOW);
    assert_true(f->most <= 2); /* 2 * 450 pages fit, 3 do not */
    uint64_t least = UINT64_MAX, most = 0;
    for (unsigned i = 0; i < VMS; i++) {
        assert_true(f->ran[i] > 0 && f->rested[i] > 0);
        least = f->ran[i] < least ? f->ran[i] : least;
        most = f->ran[i] > most ? f->ran[i] : most;
    }
    assert_true(most <= least + least / 2);
    pass(f, 20000, VMC_RECLAIM_HIGH);
    forget(f);
    pass(f, 1000, VMC_RECLAIM_HIGH);
    for (unsigned i = 0; i < VMS; i++)
        assert_int_equal(f->rested[i], 0);
}

static void who_has_no_more_than_its_reservation_never_rests(void **state)
{
    struct fx *f = *state;

    f->plan[2].reservation = 640;
    pass(f, 120000, VMC_RECLAIM_LOW);
    assert_true(f->h.stats.turns > 10);
    assert_int_equal(f->rested[2], 0);
    for (unsigned i = 0; i < VMS; i++)
        assert_true(f->ran[i] > 0); /* the others take their turns beside it */
    assert_true(f->rested[0] > 0 && f->rested[1] > 0 && f->rested[3] > 0);
}

static void a_reservation_that_is_not_enough_does_not_help(void **state)
{
    struct fx *f = *state;

    f->plan[2].reservation = 300;
    f->plan[2].active = 10; /* as of a VM that waits for its pages all the time */
    pass(f, 120000, VMC_RECLAIM_LOW);
    assert_true(f->rested[2] > 0);
}

static void it_goes_on_at_once_when_it_has_become_small(void **state)
{
    struct fx *f = *state;

    f->plan[2].reservation = 300;
    for (unsigned i = 0; i < 20000 && !f->vm[2].resting; i++)
        pass(f, 5, VMC_RECLAIM_LOW);
    assert_true(f->vm[2].resting);
    f->vm[2].footprint = 290;
    pass(f, 5, VMC_RECLAIM_LOW);
    assert_false(f->vm[2].resting);
    f->vm[2].footprint = 310; /* and takes its turn again when it has grown */
    forget(f);
    pass(f, 60000, VMC_RECLAIM_LOW);
    assert_true(f->rested[2] > 0 && f->ran[2] > 0);
}

static void reservations_for_all_need_no_turns(void **state)
{
    struct fx *f = *state;

    for (unsigned i = 0; i < VMS; i++) {
        f->plan[i].active = 200;
        f->vm[i].footprint = 230;
        f->plan[i].reservation = 240;
    }
    pass(f, 60000, VMC_RECLAIM_LOW);
    for (unsigned i = 0; i < VMS; i++)
        assert_int_equal(f->rested[i], 0);
}

#define turns_test(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        turns_test(nobody_rests_while_there_is_memory),
        turns_test(turns_go_round),
        turns_test(who_has_no_more_than_its_reservation_never_rests),
        turns_test(a_reservation_that_is_not_enough_does_not_help),
        turns_test(it_goes_on_at_once_when_it_has_become_small),
        turns_test(reservations_for_all_need_no_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
