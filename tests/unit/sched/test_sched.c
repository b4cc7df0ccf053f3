/* SPDX-License-Identifier: BSD-2-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <vmcore/sched.h>

#include "sched/sched_priv.h"
#include "test_platform.h"

#include <cmocka.h>

#define FRAME 375000u

struct world {
    struct test_platform tp;
    struct vmc_sched *s;
    uint32_t cpus;
    uint64_t now;
    uint64_t end[8];
};

static void make_with(struct world *w, struct vmc_sched_config *cfg)
{
    memset(w, 0, sizeof(*w));
    test_platform_init(&w->tp);
    w->cpus = cfg->cpus;
    cfg->size = sizeof(*cfg);
    assert_int_equal(vmc_sched_create(&w->tp.pf, cfg, &w->s, NULL), VMC_OK);
    assert_int_equal(vmc_sched_frame_ns(w->s), FRAME);
}

static void make(struct world *w, uint32_t cpus)
{
    struct vmc_sched_config cfg = {.cpus = cpus, .max_groups = 4, .max_vms = 16, .max_vcpus = 64};
    make_with(w, &cfg);
}

static void drop(struct world *w)
{
    struct vmc_error err;

    if (vmc_sched_check(w->s, &err) != VMC_OK)
        fail_msg("%s", err.text);
    vmc_sched_destroy(w->s);
    test_platform_check(&w->tp);
}

static uint32_t add(struct world *w, uint32_t group, uint32_t vcpus, struct vmc_sched_share share)
{
    struct vmc_sched_vm_config cfg = {
        .size = sizeof(cfg), .vcpus = vcpus, .coscheduling = VMC_SCHED_CO_RELAXED, .share = share};
    uint32_t vm;
    uint32_t kick;

    assert_int_equal(vmc_sched_vm_add(w->s, group, &cfg, &vm, NULL), VMC_OK);
    for (uint32_t i = 0; i < vcpus; i++)
        assert_int_equal(vmc_sched_wake(w->s, vmc_sched_vcpu(w->s, vm, i), w->now, &kick), VMC_OK);
    return vm;
}

static void pick(struct world *w, uint32_t cpu, struct vmc_sched_slice *sl)
{
    vmc_sched_pick(w->s, cpu, w->now, sl);
    if ((sl->flags & VMC_SCHED_PLAN_DUE) != 0 && vmc_sched_plan(w->s, w->now))
        vmc_sched_pick(w->s, cpu, w->now, sl);
}

/* Let every CPU pick whenever its slice ends. */
static void run_for(struct world *w, uint64_t ns)
{
    uint64_t stop = w->now + ns;

    for (;;) {
        uint32_t next = 0;
        for (uint32_t c = 1; c < w->cpus; c++)
            if (w->end[c] < w->end[next])
                next = c;
        if (w->end[next] >= stop)
            break;
        if (w->end[next] > w->now)
            w->now = w->end[next];
        struct vmc_sched_slice sl;
        pick(w, next, &sl);
        w->end[next] = sl.end_ns > w->now ? sl.end_ns : w->now + 1;
        uint32_t kick;
        while ((kick = vmc_sched_take_kick(w->s)) != VMC_SCHED_NONE)
            w->end[kick] = w->now;
    }
    w->now = stop;
    for (uint32_t c = 0; c < w->cpus; c++)
        vmc_sched_account(w->s, c, w->now, 0);
}

static uint64_t used(struct world *w, uint32_t vm)
{
    struct vmc_sched_vm_stats st;

    assert_int_equal(vmc_sched_vm_stats(w->s, vm, &st), VMC_OK);
    return st.used_ns;
}

static void assert_near(uint64_t a, uint64_t b, uint64_t within)
{
    if (a > b + within || b > a + within)
        fail_msg("%llu is not within %llu of %llu", (unsigned long long)a,
                 (unsigned long long)within, (unsigned long long)b);
}

static void time_is_proportional_to_shares(void **state)
{
    (void)state;
    struct world w;
    make(&w, 2);
    uint32_t a = add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 100});
    uint32_t b = add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 200});
    uint32_t c = add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 500});
    run_for(&w, 400 * FRAME);
    assert_near(used(&w, a), 100 * FRAME, 2 * FRAME);
    assert_near(used(&w, b), 200 * FRAME, 2 * FRAME);
    assert_near(used(&w, c), 500 * FRAME, 4 * FRAME);
    drop(&w);
}

static void planning_is_due_when_it_says(void **state)
{
    (void)state;
    struct world w;
    make(&w, 2);
    add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 100});
    run_for(&w, 3 * FRAME);
    uint64_t due = vmc_sched_plan_ns(w.s);
    assert_in_range(due, w.now - FRAME, w.now + 2 * FRAME);
    while (vmc_sched_plan(w.s, due))
        ;
    assert_in_range(vmc_sched_plan_ns(w.s), due + 1, due + FRAME);
    drop(&w);
}

static void small_shares_are_kept_too(void **state)
{
    (void)state;
    struct world w;
    make(&w, 1);
    uint32_t big = add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 10000});
    uint32_t small = add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 100});
    run_for(&w, 10100 * (uint64_t)FRAME);
    assert_near(used(&w, small), 100 * FRAME, 2 * FRAME);
    assert_near(used(&w, big), 10000 * (uint64_t)FRAME, 2 * FRAME);
    drop(&w);
}

static void pools_divide_before_their_members(void **state)
{
    (void)state;
    struct world w;
    uint32_t pool;
    make(&w, 1);
    struct vmc_sched_share one = {.shares = 100};
    assert_int_equal(vmc_sched_group_add(w.s, VMC_SCHED_ROOT, &one, &pool, NULL), VMC_OK);
    uint32_t alone = add(&w, VMC_SCHED_ROOT, 1, one);
    uint32_t m1 = add(&w, pool, 1, one);
    uint32_t m2 = add(&w, pool, 1, (struct vmc_sched_share){.shares = 300});
    run_for(&w, 400 * FRAME);
    assert_near(used(&w, alone), 200 * FRAME, 2 * FRAME);
    assert_near(used(&w, m1), 50 * FRAME, 2 * FRAME);
    assert_near(used(&w, m2), 150 * FRAME, 2 * FRAME);
    assert_int_equal(vmc_sched_group_remove(w.s, pool), VMC_EBUSY);
    drop(&w);
}

static void reservation_and_limit_bound_the_share(void **state)
{
    (void)state;
    struct world w;
    make(&w, 1);
    uint32_t r =
        add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 1, .reservation = 400000});
    uint32_t l =
        add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 1000, .limit = 200000});
    uint32_t o = add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 100});
    run_for(&w, 400 * FRAME);
    assert_near(used(&w, r), 160 * FRAME, 2 * FRAME);
    assert_near(used(&w, l), 80 * FRAME, 2 * FRAME);
    assert_near(used(&w, o), 160 * FRAME, 2 * FRAME);
    drop(&w);
}

static void a_cap_can_change_at_any_moment(void **state)
{
    (void)state;
    struct world w;
    struct vmc_error err;

    make(&w, 2);
    uint32_t vm = add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    run_for(&w, 30 * (uint64_t)FRAME);
    uint64_t before = used(&w, vm);
    assert_int_equal(vmc_sched_vm_set_cap(w.s, vm, 250000, &err), VMC_OK);
    run_for(&w, 300 * (uint64_t)FRAME);
    assert_near(used(&w, vm) - before, 150 * (uint64_t)FRAME, 3 * FRAME); /* a quarter, twice */
    before = used(&w, vm);
    assert_int_equal(vmc_sched_vm_set_cap(w.s, vm, 0, &err), VMC_OK);
    run_for(&w, 300 * (uint64_t)FRAME);
    assert_near(used(&w, vm) - before, 600 * (uint64_t)FRAME, 6 * FRAME);
    assert_int_equal(vmc_sched_vm_set_cap(w.s, vm, VMC_SCHED_WHOLE_CPU + 1, &err), VMC_EINVAL);
    assert_int_equal(vmc_sched_vm_set_cap(w.s, vm, 1, &err), VMC_EINVAL);
    assert_int_equal(vmc_sched_vm_set_cap(w.s, vm + 1, 0, &err), VMC_ENOENT);
    drop(&w);
}

static void impossible_reservations_are_refused(void **state)
{
    (void)state;
    struct world w;
    struct vmc_error err;
    uint32_t pool, vm;
    make(&w, 1);
    struct vmc_sched_share half = {.shares = 1, .reservation = 500000};
    assert_int_equal(vmc_sched_group_add(w.s, VMC_SCHED_ROOT, &half, &pool, &err), VMC_OK);
    struct vmc_sched_vm_config cfg = {
        .size = sizeof(cfg), .vcpus = 1, .share = {.shares = 1, .reservation = 600000}};
    assert_int_equal(vmc_sched_vm_add(w.s, pool, &cfg, &vm, &err), VMC_ENOSPC);
    assert_non_null(strstr(err.text, "reserves 500000"));
    cfg.share.reservation = 500000;
    assert_int_equal(vmc_sched_vm_add(w.s, pool, &cfg, &vm, &err), VMC_OK);
    cfg.share.reservation = 600000;
    assert_int_equal(vmc_sched_vm_add(w.s, VMC_SCHED_ROOT, &cfg, &vm, &err), VMC_ENOSPC);
    cfg.share = (struct vmc_sched_share){.shares = 0};
    assert_int_equal(vmc_sched_vm_add(w.s, VMC_SCHED_ROOT, &cfg, &vm, &err), VMC_EINVAL);
    cfg.share.shares = 1;
    cfg.vcpus = 65;
    assert_int_equal(vmc_sched_vm_add(w.s, VMC_SCHED_ROOT, &cfg, &vm, &err), VMC_EINVAL);
    drop(&w);
}

static void siblings_run_at_the_same_time(void **state)
{
    (void)state;
    struct world w;
    struct vmc_sched_vm_stats st;
    make(&w, 2);
    uint32_t a = add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    int apart = 0;
    run_for(&w, 20 * FRAME);
    for (int i = 0; i < 500; i++) {
        run_for(&w, FRAME / 25);
        bool first = vmc_sched_vcpu_cpu(w.s, vmc_sched_vcpu(w.s, a, 0)) != VMC_SCHED_NONE;
        bool second = vmc_sched_vcpu_cpu(w.s, vmc_sched_vcpu(w.s, a, 1)) != VMC_SCHED_NONE;
        apart += first != second;
    }
    if (apart > 25) /* 5 %: samples at the edge of a slice */
        fail_msg("apart in %d samples of 500", apart);
    assert_int_equal(vmc_sched_vm_stats(w.s, a, &st), VMC_OK);
    assert_true(st.max_skew_ns <= 2 * FRAME);
    drop(&w);
}

static void affinity_is_obeyed(void **state)
{
    (void)state;
    struct world w;
    make(&w, 3);
    uint32_t pinned = add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    uint32_t free_vm = add(&w, VMC_SCHED_ROOT, 3, (struct vmc_sched_share){.shares = 100});
    uint64_t mask = 2;
    assert_int_equal(vmc_sched_vm_set_affinity(w.s, pinned, &mask, 1), VMC_OK);
    run_for(&w, 10 * FRAME);
    for (int i = 0; i < 200; i++) {
        run_for(&w, FRAME / 10);
        for (uint32_t k = 0; k < 2; k++) {
            uint32_t cpu = vmc_sched_vcpu_cpu(w.s, vmc_sched_vcpu(w.s, pinned, k));
            assert_true(cpu == 1 || cpu == VMC_SCHED_NONE);
        }
    }
    assert_true(used(&w, free_vm) > used(&w, pinned));
    mask = 8; /* no such CPU */
    assert_int_equal(vmc_sched_vm_set_affinity(w.s, pinned, &mask, 1), VMC_EINVAL);
    drop(&w);
}

static void blocked_vcpu_uses_nothing_and_wake_runs_it(void **state)
{
    (void)state;
    struct world w;
    struct vmc_sched_slice sl;
    struct vmc_sched_vcpu_stats st;
    uint32_t kick;
    make(&w, 1);
    uint32_t vm = add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 100});
    uint32_t v = vmc_sched_vcpu(w.s, vm, 0);
    run_for(&w, 2 * FRAME);
    assert_int_equal(vmc_sched_block(w.s, 0, w.now), VMC_OK);
    assert_int_equal(vmc_sched_block(w.s, 0, w.now), VMC_ESTATE);
    w.end[0] = w.now;
    run_for(&w, 10 * FRAME);
    assert_int_equal(vmc_sched_vcpu_stats(w.s, v, w.now, &st), VMC_OK);
    assert_near(st.wait_ns, 10 * FRAME, 10);
    assert_int_equal(vmc_sched_wake(w.s, v, w.now, &kick), VMC_OK);
    assert_int_equal(kick, 0);
    pick(&w, 0, &sl);
    assert_int_equal(sl.vcpu, v);
    /* woken while it runs: the halt that follows must not sleep */
    assert_int_equal(vmc_sched_wake(w.s, v, w.now, &kick), VMC_OK);
    assert_int_equal(vmc_sched_block(w.s, 0, w.now), VMC_EAGAIN);
    assert_int_equal(vmc_sched_block(w.s, 0, w.now), VMC_OK);
    assert_int_equal(vmc_sched_wake(w.s, 1000, w.now, &kick), VMC_ENOENT);
    drop(&w);
}

static void stolen_time_and_clock_leaps_are_not_charged(void **state)
{
    (void)state;
    struct world w;
    struct vmc_sched_slice sl;
    struct vmc_sched_vcpu_stats st;
    make(&w, 1);
    uint32_t v =
        vmc_sched_vcpu(w.s, add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 1}), 0);
    pick(&w, 0, &sl);
    assert_int_equal(sl.vcpu, v);
    w.now += 500000;
    vmc_sched_account(w.s, 0, w.now, 200000);
    assert_int_equal(vmc_sched_vcpu_stats(w.s, v, w.now, &st), VMC_OK);
    assert_int_equal(st.used_ns, 300000);
    assert_int_equal(st.stolen_ns, 200000);
    assert_int_equal(vmc_sched_steal_ns(w.s, v, w.now), 200000);
    w.now += 3600u * (uint64_t)1000000000;
    pick(&w, 0, &sl);
    assert_int_equal(vmc_sched_vcpu_stats(w.s, v, w.now, &st), VMC_OK);
    assert_true(st.used_ns <= 300000 + 2 * FRAME);
    vmc_sched_pick(w.s, 0, 5, &sl); /* the clock goes back */
    assert_int_equal(vmc_sched_vcpu_stats(w.s, v, w.now, &st), VMC_OK);
    assert_true(st.used_ns <= 300000 + 2 * FRAME);
    drop(&w);
}

static void vm_can_go_at_any_moment(void **state)
{
    (void)state;
    struct world w;
    make(&w, 2);
    uint32_t keep = add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    for (int round = 0; round < 40; round++) {
        uint32_t vm = add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 200});
        uint32_t v = vmc_sched_vcpu(w.s, vm, 0);
        run_for(&w, 3 * FRAME + (uint64_t)round * 30011);
        assert_int_equal(vmc_sched_vm_remove(w.s, vm), VMC_OK);
        assert_int_equal(vmc_sched_vm_remove(w.s, vm), VMC_ENOENT);
        for (uint32_t c = 0; c < 2; c++)
            w.end[c] = w.now; /* kicked */
        run_for(&w, 3 * FRAME);
        assert_int_equal(vmc_sched_vcpu_cpu(w.s, v), VMC_SCHED_NONE);
    }
    assert_true(used(&w, keep) > 100 * FRAME);
    drop(&w);
}

static void cpu_can_go_and_come_back(void **state)
{
    (void)state;
    struct world w;
    make(&w, 2);
    uint32_t a = add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 100});
    uint32_t b = add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 100});
    run_for(&w, 10 * FRAME);
    assert_int_equal(vmc_sched_cpu_set_online(w.s, 1, false), VMC_OK);
    assert_int_equal(vmc_sched_cpu_set_online(w.s, 0, false), VMC_EBUSY);
    w.end[1] = w.now;
    run_for(&w, 5 * FRAME);
    uint64_t a0 = used(&w, a);
    uint64_t b0 = used(&w, b);
    run_for(&w, 100 * FRAME);
    assert_near(used(&w, a) - a0, 50 * FRAME, 2 * FRAME);
    assert_near(used(&w, b) - b0, 50 * FRAME, 2 * FRAME);
    assert_int_equal(vmc_sched_cpu_set_online(w.s, 1, true), VMC_OK);
    w.end[1] = w.now;
    run_for(&w, 5 * FRAME);
    a0 = used(&w, a);
    run_for(&w, 100 * FRAME);
    assert_near(used(&w, a) - a0, 100 * FRAME, 2 * FRAME);
    drop(&w);
}

static void spinning_yields_to_the_sibling_behind(void **state)
{
    (void)state;
    struct world w;
    struct vmc_sched_slice sl;
    make(&w, 1);
    uint32_t vm = add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    run_for(&w, 10 * FRAME + FRAME / 4);
    pick(&w, 0, &sl);
    uint32_t other = sl.vcpu == vmc_sched_vcpu(w.s, vm, 0) ? vmc_sched_vcpu(w.s, vm, 1)
                                                           : vmc_sched_vcpu(w.s, vm, 0);
    assert_int_equal(vmc_sched_spin(w.s, 0, w.now), VMC_OK);
    pick(&w, 0, &sl);
    assert_int_equal(sl.vcpu, other);
    assert_int_equal(vmc_sched_yield_to(w.s, 0, 5000, w.now), VMC_ENOENT);
    drop(&w);
}

/* Two siblings alone on two CPUs; CPU 0 has begun with one in a new frame, CPU 1 is late. */
static void one_sibling_begins(struct world *w, uint32_t *vm, struct vmc_sched_slice *sl)
{
    make(w, 2);
    *vm = add(w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    add(w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    run_for(w, 20 * FRAME);
    for (int i = 0; i < 2000; i++) { /* until the other VM leaves both CPUs and this one comes */
        w->now += 500;
        pick(w, 0, sl);
        uint32_t other = vmc_sched_vcpu(w->s, *vm, 0) == sl->vcpu ? vmc_sched_vcpu(w->s, *vm, 1)
                                                                  : vmc_sched_vcpu(w->s, *vm, 0);
        bool ours =
            sl->vcpu == vmc_sched_vcpu(w->s, *vm, 0) || sl->vcpu == vmc_sched_vcpu(w->s, *vm, 1);
        if (ours && vmc_sched_vcpu_cpu(w->s, other) == VMC_SCHED_NONE)
            return;
        struct vmc_sched_slice next;
        pick(w, 1, &next);
    }
    fail_msg("the siblings never begin");
}

static void nobody_yields_to_a_sibling_about_to_start(void **state)
{
    (void)state;
    struct world w;
    struct vmc_sched_slice sl;
    uint32_t vm;
    one_sibling_begins(&w, &vm, &sl);
    assert_int_equal(vmc_sched_spin(w.s, 0, w.now), VMC_ENOENT);
    w.now += FRAME / 8 + 10000; /* CPU 1 does not come: the host has taken it */
    assert_true(w.now < sl.end_ns);
    assert_int_equal(vmc_sched_spin(w.s, 0, w.now), VMC_OK);
    drop(&w);
}

static void who_gives_way_is_charged(void **state)
{
    (void)state;
    struct world w;
    struct vmc_sched_slice sl;
    struct vmc_sched_vcpu_stats a, b;
    uint32_t vm;
    one_sibling_begins(&w, &vm, &sl);
    const struct sched_vcpu *giver = &w.s->vcpu[sl.vcpu];
    uint32_t from = sl.vcpu;
    w.now += FRAME / 8 + 10000;
    assert_int_equal(vmc_sched_spin(w.s, 0, w.now), VMC_OK);
    pick(&w, 0, &sl);
    assert_int_not_equal(sl.vcpu, from);
    uint64_t charged = giver->served;
    uint64_t other = w.s->vcpu[sl.vcpu].served;
    assert_int_equal(vmc_sched_vcpu_stats(w.s, from, w.now, &a), VMC_OK);
    for (int i = 0; i < 2; i++) { /* also where it is charged in between */
        w.now += 20000;
        vmc_sched_account(w.s, 0, w.now, 0);
    }
    assert_int_equal(giver->served, charged + 40000);
    assert_int_equal(w.s->vcpu[sl.vcpu].served, other);
    assert_int_equal(vmc_sched_vcpu_stats(w.s, from, w.now, &b), VMC_OK);
    assert_int_equal(a.used_ns, b.used_ns); /* but it has not run */
    /* its sibling's time on CPU 1 is the giver's now, and charged to that one */
    struct vmc_sched_slice swapped;
    pick(&w, 1, &swapped);
    assert_int_equal(swapped.vcpu, from);
    w.now += 10000;
    vmc_sched_account(w.s, 1, w.now, 0);
    assert_int_equal(w.s->vcpu[sl.vcpu].served, other + 10000);
    assert_int_equal(vmc_sched_vcpu_stats(w.s, from, w.now, &b), VMC_OK);
    assert_int_equal(b.used_ns, a.used_ns + 10000);
    run_for(&w, 20 * FRAME);
    drop(&w);
}

/* Go on in small steps until a vCPU of the VM starts on CPU 0, with so much of its slice left. */
static void until_starts(struct world *w, uint32_t vm, uint64_t left, struct vmc_sched_slice *sl)
{
    for (int i = 0; i < 20000; i++) {
        w->now += 1000;
        pick(w, 0, sl);
        bool ours =
            sl->vcpu == vmc_sched_vcpu(w->s, vm, 0) || sl->vcpu == vmc_sched_vcpu(w->s, vm, 1);
        if (ours && sl->end_ns > w->now + left)
            return;
    }
    fail_msg("VM %u never starts", vm);
}

/* Whoever wakes, spins and gives way gets no more of another VM's time than the wake-up allows. */
static void time_lent_to_a_woken_vcpu_is_not_handed_on(void **state)
{
    (void)state;
    struct world w;
    struct vmc_sched_slice sl;
    uint32_t kick;
    make(&w, 1);
    uint32_t a = add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    uint32_t b = add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    run_for(&w, 10 * FRAME);
    until_starts(&w, a, 0, &sl);
    uint32_t sleeper = sl.vcpu;
    assert_int_equal(vmc_sched_block(w.s, 0, w.now), VMC_OK);
    for (int i = 0; i < 20; i++) {
        w.now += FRAME / 2;
        pick(&w, 0, &sl);
    }
    until_starts(&w, b, FRAME / 8, &sl);
    assert_int_equal(vmc_sched_wake(w.s, sleeper, w.now, &kick), VMC_OK);
    assert_int_equal(kick, 0);
    pick(&w, 0, &sl);
    assert_int_equal(sl.vcpu, sleeper);
    assert_int_equal(vmc_sched_spin(w.s, 0, w.now), VMC_EBUSY);
    drop(&w);
}

static void a_yield_ends_with_the_slice(void **state)
{
    (void)state;
    struct world w;
    struct vmc_sched_slice sl, next;
    make(&w, 1);
    uint32_t a = add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    uint32_t b = add(&w, VMC_SCHED_ROOT, 2, (struct vmc_sched_share){.shares = 100});
    unsigned seen = 0;
    run_for(&w, 10 * FRAME);
    for (int i = 0; i < 200 && seen < 5; i++) {
        until_starts(&w, a, 0, &sl);
        uint32_t other = vmc_sched_vcpu(w.s, a, sl.vcpu == vmc_sched_vcpu(w.s, a, 0));
        if (vmc_sched_spin(w.s, 0, w.now) != VMC_OK)
            continue;
        pick(&w, 0, &next); /* in time: the sibling, for no longer */
        assert_int_equal(next.vcpu, other);
        assert_true(next.end_ns <= sl.end_ns);
        if (vmc_sched_spin(w.s, 0, w.now) != VMC_OK)
            continue;
        w.now = next.end_ns; /* too late: what the plan says, and often that is the other VM */
        pick(&w, 0, &next);
        seen += next.vcpu == vmc_sched_vcpu(w.s, b, 0) || next.vcpu == vmc_sched_vcpu(w.s, b, 1);
    }
    assert_int_equal(seen, 5);
    drop(&w);
}

/* More siblings than CPUs: all CPUs are theirs at the same times, though they lack unequal amounts.
 */
static void more_siblings_than_cpus_share_a_rectangle(void **state)
{
    (void)state;
    struct world w;
    make(&w, 2);
    uint32_t vm = add(&w, VMC_SCHED_ROOT, 4, (struct vmc_sched_share){.shares = 100});
    for (int i = 0; i < 3; i++)
        add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 33});
    run_for(&w, 20 * FRAME);
    int alone = 0;
    int both = 0;
    for (int i = 0; i < 2000; i++) {
        run_for(&w, FRAME / 50);
        int on = 0;
        for (uint32_t k = 0; k < 4; k++)
            on += vmc_sched_vcpu_cpu(w.s, vmc_sched_vcpu(w.s, vm, k)) != VMC_SCHED_NONE;
        alone += on == 1;
        both += on == 2;
        if (i % 100 ==
            50) { /* one is ahead for a while, as if the host had taken the others' time */
            w.s->vcpu[vmc_sched_vcpu(w.s, vm, (uint32_t)i / 100 % 4)].served += 40000;
            w.s->vcpu[vmc_sched_vcpu(w.s, vm, ((uint32_t)i / 100 + 1) % 4)].served -= 40000;
        }
    }
    if (both < 700 || alone > both / 8)
        fail_msg("one of them on the CPUs in %d samples, two in %d", alone, both);
    drop(&w);
}

static void trace_tells_what_ran(void **state)
{
    (void)state;
    struct world w;
    struct vmc_sched_event e[64];
    struct vmc_sched_config cfg = {.cpus = 1, .max_vms = 4, .max_vcpus = 8, .trace_events = 64};
    uint64_t lost = 0;
    make_with(&w, &cfg);
    add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 1});
    add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 1});
    run_for(&w, 5 * FRAME);
    uint32_t n = vmc_sched_trace_read(w.s, 0, e, 64, &lost);
    assert_true(n >= 6);
    assert_int_equal(lost, 0);
    for (uint32_t i = 1; i < n; i++)
        assert_true(e[i].ns >= e[i - 1].ns);
    drop(&w);
}

static void bad_configurations_and_lack_of_memory_are_reported(void **state)
{
    (void)state;
    struct test_platform tp;
    struct vmc_sched *s;
    struct vmc_error err;
    test_platform_init(&tp);
    struct vmc_sched_config cfg = {.size = sizeof(cfg), .cpus = 0, .max_vms = 1, .max_vcpus = 1};
    assert_int_equal(vmc_sched_create(&tp.pf, &cfg, &s, &err), VMC_EINVAL);
    cfg.cpus = 2;
    cfg.quantum_ns = 1;
    assert_int_equal(vmc_sched_create(&tp.pf, &cfg, &s, &err), VMC_EINVAL);
    cfg.quantum_ns = 0;
    for (uint64_t n = 1;; n++) {
        tp.allocs = 0;
        tp.fail_after = n;
        int rc = vmc_sched_create(&tp.pf, &cfg, &s, &err);
        if (rc == VMC_OK)
            break;
        assert_int_equal(rc, VMC_ENOMEM);
        assert_int_equal(tp.live, 0);
    }
    vmc_sched_destroy(s);
    test_platform_check(&tp);
}

/* Two cores of two threads each: nobody shares a core while the other one idles. */
static void cores_are_shared_last(void **state)
{
    static const struct vmc_sched_cpu_topo topo[4] = {
        {.core = 7}, {.core = 7}, {.core = 9}, {.core = 9}};
    struct vmc_sched_config cfg = {
        .cpus = 4, .max_groups = 1, .max_vms = 4, .max_vcpus = 8, .topo = topo};
    struct world w;
    struct vmc_sched_share one = {.shares = 1000};
    uint32_t shared = 0;

    (void)state;
    make_with(&w, &cfg);
    uint32_t a = vmc_sched_vcpu(w.s, add(&w, VMC_SCHED_ROOT, 1, one), 0);
    uint32_t b = vmc_sched_vcpu(w.s, add(&w, VMC_SCHED_ROOT, 1, one), 0);
    run_for(&w, 4 * FRAME);
    for (unsigned i = 0; i < 100; i++) {
        run_for(&w, FRAME / 4);
        uint32_t at = vmc_sched_vcpu_cpu(w.s, a);
        uint32_t bt = vmc_sched_vcpu_cpu(w.s, b);
        assert_true(at != VMC_SCHED_NONE && bt != VMC_SCHED_NONE);
        shared += topo[at].core == topo[bt].core;
    }
    assert_int_equal(shared, 0);
    /* a third one has to share, and all three run all the time */
    uint32_t c = vmc_sched_vcpu(w.s, add(&w, VMC_SCHED_ROOT, 1, one), 0);
    run_for(&w, 4 * FRAME);
    struct vmc_sched_vcpu_stats before, after;
    assert_int_equal(vmc_sched_vcpu_stats(w.s, c, w.now, &before), VMC_OK);
    run_for(&w, 10 * FRAME);
    assert_int_equal(vmc_sched_vcpu_stats(w.s, c, w.now, &after), VMC_OK);
    assert_true(after.used_ns - before.used_ns >= 10 * FRAME - FRAME / 10);
    drop(&w);
}

/* A woken vCPU goes to an idle core, not beside its former neighbour. */
static void a_wake_takes_an_idle_core(void **state)
{
    static const struct vmc_sched_cpu_topo topo[4] = {
        {.core = 0}, {.core = 0}, {.core = 1}, {.core = 1}};
    struct vmc_sched_config cfg = {
        .cpus = 4, .max_groups = 1, .max_vms = 4, .max_vcpus = 8, .topo = topo};
    struct world w;
    uint32_t kick;

    (void)state;
    make_with(&w, &cfg);
    uint32_t a =
        vmc_sched_vcpu(w.s, add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 1}), 0);
    uint32_t b =
        vmc_sched_vcpu(w.s, add(&w, VMC_SCHED_ROOT, 1, (struct vmc_sched_share){.shares = 1}), 0);
    run_for(&w, 4 * FRAME);
    uint32_t bt = vmc_sched_vcpu_cpu(w.s, b);
    assert_int_equal(vmc_sched_block(w.s, bt, w.now), VMC_OK);
    w.end[bt] = w.now;
    run_for(&w, 4 * FRAME);
    assert_int_equal(vmc_sched_wake(w.s, b, w.now, &kick), VMC_OK);
    assert_int_not_equal(kick, VMC_SCHED_NONE);
    assert_int_not_equal(topo[kick].core, topo[vmc_sched_vcpu_cpu(w.s, a)].core);
    drop(&w);
}

/*
 * The last of four siblings is ahead of its ideal, so that the plan holds nothing for it, and was
 * stopped once; the others must wait for it.
 */
static void the_last_of_its_siblings_runs_though_it_was_stopped_once(void **state)
{
    (void)state;
    struct world w;
    make(&w, 2);
    uint32_t vm = add(&w, VMC_SCHED_ROOT, 4, (struct vmc_sched_share){.shares = 1});
    run_for(&w, 20 * FRAME);
    for (uint32_t i = 0; i < 4; i++) {
        struct sched_vcpu *v = &w.s->vcpu[vmc_sched_vcpu(w.s, vm, i)];
        v->prog_adj += i != 1 ? 4 * FRAME : 0;
        v->off -= i == 1 ? 2 * (int64_t)FRAME : 0;
        v->costop_since = w.now;
    }
    uint64_t before = used(&w, vm);
    run_for(&w, 60 * FRAME);
    assert_true(used(&w, vm) - before >= 100 * FRAME);
    vmc_sched_destroy(w.s); /* without the check: the lags are wrong now */
    test_platform_check(&w.tp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_is_proportional_to_shares),
        cmocka_unit_test(planning_is_due_when_it_says),
        cmocka_unit_test(small_shares_are_kept_too),
        cmocka_unit_test(pools_divide_before_their_members),
        cmocka_unit_test(reservation_and_limit_bound_the_share),
        cmocka_unit_test(a_cap_can_change_at_any_moment),
        cmocka_unit_test(impossible_reservations_are_refused),
        cmocka_unit_test(siblings_run_at_the_same_time),
        cmocka_unit_test(affinity_is_obeyed),
        cmocka_unit_test(blocked_vcpu_uses_nothing_and_wake_runs_it),
        cmocka_unit_test(stolen_time_and_clock_leaps_are_not_charged),
        cmocka_unit_test(vm_can_go_at_any_moment),
        cmocka_unit_test(cpu_can_go_and_come_back),
        cmocka_unit_test(spinning_yields_to_the_sibling_behind),
        cmocka_unit_test(nobody_yields_to_a_sibling_about_to_start),
        cmocka_unit_test(time_lent_to_a_woken_vcpu_is_not_handed_on),
        cmocka_unit_test(a_yield_ends_with_the_slice),
        cmocka_unit_test(who_gives_way_is_charged),
        cmocka_unit_test(more_siblings_than_cpus_share_a_rectangle),
        cmocka_unit_test(trace_tells_what_ran),
        cmocka_unit_test(bad_configurations_and_lack_of_memory_are_reported),
        cmocka_unit_test(cores_are_shared_last),
        cmocka_unit_test(a_wake_takes_an_idle_core),
        cmocka_unit_test(the_last_of_its_siblings_runs_though_it_was_stopped_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
