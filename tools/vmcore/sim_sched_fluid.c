/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The ideal that schedulers are measured against: generalised processor sharing over the tree of
 * pools, written on its own, in floating point, without anything of the library.
 *
 * At every instant the runnable VMs divide the CPUs by weighted max-min fairness with reservations
 * as lower and limits and runnable vCPUs as upper bounds. A VM that goes to sleep having received
 * more than the ideal server gave it stays in the ideal system until that has given as much (the
 * ideal server is slower at the same work; Parekh and Gallager, 1993). What a VM leaves unclaimed
 * when it goes to sleep behind its ideal goes to the others in proportion.
 */
#include "sim_sched.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct node {
    uint32_t parent;
    double w, lo, hi, rate;
    double resv, limit;
    bool fixed;
    uint32_t first_child, next; /* lists */
};

struct fluid_vm {
    double lag;            /* ideal less received */
    double lo, hi;         /* extremes of the lag since it became backlogged */
    uint32_t width;        /* vCPUs that count for its upper bound */
    bool active, draining;
};

struct sim_fluid {
    uint32_t npools, nvms; /* node 0 is the root, then pools, then VMs */
    struct node *node;
    struct fluid_vm *vm;
    uint64_t at;
    bool dirty;
    double cpus;
    struct sim_fluid_report rep;
    const struct sim *s;
};

static double to_rate(uint64_t r)
{
    return (double)r / VMC_SCHED_WHOLE_CPU;
}

static void set_share(struct node *n, const struct vmc_sched_share *sh)
{
    n->w = sh->shares;
    n->resv = to_rate(sh->reservation);
    n->limit = sh->limit == 0 ? INFINITY : to_rate(sh->limit);
}

struct sim_fluid *sim_fluid_create(const struct sim *s)
{
    struct sim_fluid *f = calloc(1, sizeof(*f));
    uint32_t nodes = 1 + s->sc->npools + s->nvms;

    f->npools = s->sc->npools;
    f->nvms = s->nvms;
    f->cpus = s->ncpus;
    f->s = s;
    f->node = calloc(nodes, sizeof(*f->node));
    f->vm = calloc(s->nvms, sizeof(*f->vm));
    f->node[0].parent = SIM_NONE;
    f->node[0].limit = INFINITY;
    for (uint32_t i = 0; i < nodes; i++)
        f->node[i].first_child = SIM_NONE;
    for (uint32_t i = 1; i < nodes; i++) {
        bool pool = i <= f->npools;
        const struct sim_vm_spec *spec = pool ? NULL : &s->sc->vms[i - 1 - f->npools];
        uint32_t up = pool ? s->sc->pools[i - 1].parent : spec->pool;
        f->node[i].parent = up == SIM_NONE ? 0 : up + 1;
        set_share(&f->node[i], pool ? &s->sc->pools[i - 1].share : &spec->share);
        f->node[i].next = f->node[f->node[i].parent].first_child;
        f->node[f->node[i].parent].first_child = i;
    }
    f->dirty = true;
    return f;
}

void sim_fluid_destroy(struct sim_fluid *f)
{
    if (f == NULL)
        return;
    free(f->node);
    free(f->vm);
    free(f);
}

/* Weighted max-min below one node. */
static void divide(struct sim_fluid *f, uint32_t up)
{
    double sum_hi = 0;
    double sum_lo = 0;
    double total = f->node[up].rate;

    for (uint32_t c = f->node[up].first_child; c != SIM_NONE; c = f->node[c].next) {
        f->node[c].fixed = f->node[c].hi <= 0;
        f->node[c].rate = 0;
        sum_hi += f->node[c].hi;
        sum_lo += f->node[c].lo;
    }
    if (sum_hi <= total || sum_lo >= total) {
        for (uint32_t c = f->node[up].first_child; c != SIM_NONE; c = f->node[c].next)
            f->node[c].rate = sum_hi <= total ? f->node[c].hi : f->node[c].lo * total / sum_lo;
        return;
    }
    for (;;) {
        double left = total;
        double weight = 0;
        double over = 0;
        double under = 0;
        for (uint32_t c = f->node[up].first_child; c != SIM_NONE; c = f->node[c].next) {
            if (f->node[c].fixed)
                left -= f->node[c].rate;
            else
                weight += f->node[c].w;
        }
        if (weight <= 0)
            return;
        for (uint32_t c = f->node[up].first_child; c != SIM_NONE; c = f->node[c].next) {
            struct node *n = &f->node[c];
            if (n->fixed)
                continue;
            n->rate = left * n->w / weight;
            over += n->rate > n->hi ? n->rate - n->hi : 0;
            under += n->rate < n->lo ? n->lo - n->rate : 0;
        }
        if (over <= 1e-12 && under <= 1e-12)
            return;
        for (uint32_t c = f->node[up].first_child; c != SIM_NONE; c = f->node[c].next) {
            struct node *n = &f->node[c];
            if (n->fixed)
                continue;
            if (over >= under ? n->rate > n->hi : n->rate < n->lo) {
                n->rate = over >= under ? n->hi : n->lo;
                n->fixed = true;
            }
        }
    }
}

static void refill(struct sim_fluid *f)
{
    uint32_t nodes = 1 + f->npools + f->nvms;

    for (uint32_t i = 0; i < nodes; i++)
        f->node[i].hi = f->node[i].lo = 0;
    /* parents have smaller numbers than their children, VMs the largest */
    for (uint32_t i = nodes; i-- > 0;) {
        struct node *n = &f->node[i];
        if (i > f->npools) {
            const struct fluid_vm *v = &f->vm[i - 1 - f->npools];
            const struct sim_vm_spec *spec = &f->s->sc->vms[i - 1 - f->npools];
            double cap = spec->vcpu_cap == 0 ? 1.0 : to_rate(spec->vcpu_cap);
            n->hi = v->active ? cap * v->width : 0;
        }
        n->hi = fmin(n->hi, n->limit);
        n->lo = fmin(fmax(n->lo, n->resv), n->hi);
        if (n->parent != SIM_NONE) {
            f->node[n->parent].hi += n->hi;
            f->node[n->parent].lo += n->lo;
        }
    }
    f->node[0].rate = fmin(f->cpus, f->node[0].hi);
    for (uint32_t i = 0; i <= f->npools; i++)
        divide(f, i);
    f->dirty = false;
}

static struct node *vm_node(struct sim_fluid *f, uint32_t vm)
{
    return &f->node[1 + f->npools + vm];
}

/* Can the VM go faster, or is it held by its limit or its number of CPUs, or a pool's? */
static bool elastic(struct sim_fluid *f, uint32_t vm)
{
    for (uint32_t i = 1 + f->npools + vm; i != 0; i = f->node[i].parent)
        if (f->node[i].rate >= f->node[i].hi - 1e-9)
            return false;
    return f->vm[vm].active;
}

/* Give "ns" to the VMs that would have gone faster, in proportion to their rates. */
static void spread(struct sim_fluid *f, double ns)
{
    double sum = 0;

    for (uint32_t i = 0; i < f->nvms; i++)
        sum += elastic(f, i) ? vm_node(f, i)->rate : 0;
    if (sum <= 0)
        return;
    for (uint32_t i = 0; i < f->nvms; i++)
        if (elastic(f, i))
            f->vm[i].lag += ns * vm_node(f, i)->rate / sum;
}

static void deactivate(struct sim_fluid *f, uint32_t vm)
{
    double left = f->vm[vm].lag;

    f->vm[vm].active = false;
    f->vm[vm].draining = false;
    f->vm[vm].lag = 0;
    f->dirty = true;
    if (left > 0) {
        refill(f);
        spread(f, left);
    }
}

static void note(struct sim_fluid *f, uint32_t vm)
{
    struct fluid_vm *v = &f->vm[vm];
    double width = f->s->vm[vm].n;

    if (!v->active || v->draining)
        return;
    v->lo = fmin(v->lo, v->lag);
    v->hi = fmax(v->hi, v->lag);
    double lag = fmax(v->hi, -v->lo);
    double window = v->hi - v->lo;
    if (window / width > f->rep.max_window)
        f->rep.worst_vm = vm;
    f->rep.max_lag = fmax(f->rep.max_lag, lag / width);
    f->rep.max_window = fmax(f->rep.max_window, window / width);
    f->rep.max_vm_lag = fmax(f->rep.max_vm_lag, lag);
    f->rep.max_vm_window = fmax(f->rep.max_vm_window, window);
}

/* The ideal may finish with a sleeping VM before dt is over: step to the first such moment. */
static double step(struct sim_fluid *f, const struct sim *s, double dt)
{
    for (uint32_t i = 0; i < f->nvms; i++) {
        const struct fluid_vm *v = &f->vm[i];
        if (v->draining && vm_node(f, i)->rate > 0)
            dt = fmin(dt, fmax(-v->lag / vm_node(f, i)->rate, 1e-3));
    }
    for (uint32_t i = 0; i < f->nvms; i++) {
        struct fluid_vm *v = &f->vm[i];
        if (!v->active)
            continue;
        uint32_t cpus = 0;
        for (uint32_t k = 0; k < s->vm[i].n; k++)
            cpus += s->vcpu[s->vm[i].first + k].state == SIM_RUNNING;
        v->lag += (vm_node(f, i)->rate - cpus) * dt;
        note(f, i);
    }
    for (uint32_t i = 0; i < f->nvms; i++)
        if (f->vm[i].draining && f->vm[i].lag >= -1e-3)
            deactivate(f, i);
    return dt;
}

void sim_fluid_advance(struct sim_fluid *f, const struct sim *s, uint64_t now)
{
    double left = (double)(now - f->at);

    while (left > 1e-6) {
        if (f->dirty)
            refill(f);
        left -= step(f, s, left);
    }
    f->at = now;
}

/* Called after the state of one of the VM's vCPUs changed, with time advanced up to that. */
void sim_fluid_changed(struct sim_fluid *f, const struct sim *s, uint32_t vm)
{
    struct fluid_vm *v = &f->vm[vm];
    uint32_t runnable = s->vm[vm].runnable;

    f->dirty = true;
    if (runnable != 0) {
        if (!v->active || v->draining) {
            v->lo = v->hi = v->lag;
            v->active = true;
            v->draining = false;
        }
        v->width = runnable;
        return;
    }
    if (v->active && v->lag < 0)
        v->draining = true;
    else if (v->active)
        deactivate(f, vm);
}

void sim_fluid_report(const struct sim_fluid *f, struct sim_fluid_report *out)
{
    *out = f->rep;
}

double sim_fluid_lag(const struct sim_fluid *f, uint32_t vm)
{
    return f->vm[vm].lag;
}
