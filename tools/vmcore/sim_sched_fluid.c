/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The ideal that schedulers are measured against: generalised processor sharing over the tree of
 * pools, written on its own, in floating point, without anything of the library.
 *
 * At every instant the VMs divide the CPUs by weighted max-min fairness with reservations as lower
 * and limits and the number of vCPUs as upper bounds; a VM's part is divided evenly over its vCPUs.
 * The ideal server does the same work as the real one, at another speed (Parekh and Gallager,
 * 1993), so a vCPU that goes to sleep having received more than the ideal gave it stays in the
 * ideal system until that has given as much. One that goes to sleep having received less had
 * finished earlier there: from that moment on the others had what the division without it gives
 * them, and that is what they are credited with, as far as the ideal had held it back from them
 * lately: nobody can have had more than all of its CPUs. Time that CPUs idle while the ideal would
 * use them is lost to the ideal as well: it divides what the CPUs delivered (how much they did not,
 * is reported apart).
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

#define LEAST_LOST 20000.0 /* ns */

enum where { OUT, IN, DRAINS };

struct fluid_vcpu {
    double lag; /* ideal less received */
    enum where where;
};

struct fluid_vm {
    double lo, hi;    /* extremes of the lag since it became backlogged */
    uint32_t members; /* vCPUs in the ideal system */
    uint32_t awake;   /* those of them that do not drain */
    double before;    /* rate of a vCPU before the division in progress */
    double held;      /* what a vCPU could have had lately, beyond what the ideal gave it */
};

struct sim_fluid {
    uint32_t npools, nvms; /* node 0 is the root, then pools, then VMs */
    struct node *node;
    struct fluid_vm *vm;
    struct fluid_vcpu *vcpu;
    uint64_t at;
    bool dirty;
    uint32_t draining;
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
    f->vcpu = calloc(s->nvcpus, sizeof(*f->vcpu));
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
    free(f->vcpu);
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
            n->hi = cap * v->members;
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

/* Rate of each vCPU of the VM that is in the ideal system. */
static double vcpu_rate(struct sim_fluid *f, uint32_t vm)
{
    return f->vm[vm].members == 0 ? 0 : vm_node(f, vm)->rate / f->vm[vm].members;
}

/* How far back credit may reach, in quanta. */
#define LATELY (4.0 / 3)

static void hold(struct fluid_vm *v, const struct sim *s, double ns)
{
    v->held = fmin(v->held + ns, LATELY * (double)s->sc->quantum_ns);
}

/* Each vCPU of the VM should have had so much more, if it could. */
static void credit(struct sim_fluid *f, uint32_t vm, double ns)
{
    ns = fmin(ns, f->vm[vm].held);
    hold(&f->vm[vm], f->s, -ns);
    for (uint32_t k = 0; k < f->s->vm[vm].n; k++)
        if (f->vcpu[f->s->vm[vm].first + k].where != OUT)
            f->vcpu[f->s->vm[vm].first + k].lag += ns;
}

/* The ideal has finished with the vCPU; lag > 0: it had so already, that much earlier. */
static void finish(struct sim_fluid *f, uint32_t vcpu)
{
    uint32_t vm = f->s->vcpu[vcpu].vm;
    double rate = vcpu_rate(f, vm);
    double ago = f->vcpu[vcpu].lag > 0 && rate > 0 ? f->vcpu[vcpu].lag / rate : 0;

    for (uint32_t i = 0; i < f->nvms; i++)
        f->vm[i].before = vcpu_rate(f, i);
    f->draining -= f->vcpu[vcpu].where == DRAINS;
    f->vcpu[vcpu] = (struct fluid_vcpu){.where = OUT};
    f->vm[vm].members--;
    refill(f);
    if (ago <= 0)
        return;
    for (uint32_t i = 0; i < f->nvms; i++)
        credit(f, i, (vcpu_rate(f, i) - f->vm[i].before) * ago);
}

static double vm_lag(const struct sim_fluid *f, uint32_t vm)
{
    double sum = 0;

    for (uint32_t k = 0; k < f->s->vm[vm].n; k++)
        sum += f->vcpu[f->s->vm[vm].first + k].lag;
    return sum;
}

static void note(struct sim_fluid *f, uint32_t vm)
{
    struct fluid_vm *v = &f->vm[vm];
    double width = f->s->vm[vm].n;
    double now = vm_lag(f, vm);

    v->lo = fmin(v->lo, now);
    v->hi = fmax(v->hi, now);
    double lag = fmax(v->hi, -v->lo);
    double window = v->hi - v->lo;
    if (window / width > f->rep.max_window)
        f->rep.worst_vm = vm;
    f->rep.max_lag = fmax(f->rep.max_lag, lag / width);
    f->rep.max_window = fmax(f->rep.max_window, window / width);
    f->rep.max_vm_lag = fmax(f->rep.max_vm_lag, lag);
    f->rep.max_vm_window = fmax(f->rep.max_vm_window, window);
}

/* The ideal may finish with a sleeping vCPU before dt is over: step to the first such moment. */
static double step(struct sim_fluid *f, const struct sim *s, double dt)
{
    uint32_t first = SIM_NONE;

    for (uint32_t i = 0; f->draining != 0 && i < s->nvcpus; i++) {
        double rate = vcpu_rate(f, s->vcpu[i].vm);
        double need = rate > 0 ? fmax(-f->vcpu[i].lag, 0) / rate : INFINITY;
        if (f->vcpu[i].where == DRAINS && need <= dt) {
            dt = need;
            first = i;
        }
    }
    for (uint32_t i = 0; i < s->nvcpus; i++)
        if (f->vcpu[i].where != OUT)
            f->vcpu[i].lag +=
                (vcpu_rate(f, s->vcpu[i].vm) - (s->vcpu[i].state == SIM_RUNNING)) * dt;
    for (uint32_t i = 0; i < f->nvms; i++) {
        const struct node *n = vm_node(f, i);
        if (f->vm[i].members != 0)
            hold(&f->vm[i], s, (n->hi - n->rate) / f->vm[i].members * dt);
        else
            f->vm[i].held = 0;
        if (f->vm[i].awake != 0)
            note(f, i);
    }
    if (first != SIM_NONE)
        finish(f, first);
    return dt;
}

/*
 * What all lack together was had by nobody: where more is asked for than there is, take it off
 * those who would have had less, had there been less.
 */
static void take_back_lost(struct sim_fluid *f)
{
    double lost = 0;
    double all = 0;

    for (uint32_t i = 0; i < f->s->nvcpus; i++)
        lost += f->vcpu[i].lag;
    if (f->dirty)
        refill(f);
    if (lost < LEAST_LOST || f->node[0].hi <= f->cpus + 1e-6)
        return;
    for (uint32_t i = 0; i < f->nvms; i++)
        f->vm[i].before = vcpu_rate(f, i);
    f->cpus = f->s->ncpus * 0.9375;
    refill(f);
    for (uint32_t i = 0; i < f->nvms; i++) {
        f->vm[i].before -= vcpu_rate(f, i);
        all += f->vm[i].before * f->vm[i].awake;
    }
    f->cpus = f->s->ncpus;
    refill(f);
    if (all <= 0)
        return;
    for (uint32_t i = 0; i < f->s->nvcpus; i++)
        if (f->vcpu[i].where == IN)
            f->vcpu[i].lag -= f->vm[f->s->vcpu[i].vm].before * lost / all;
    for (uint32_t i = 0; i < f->nvms; i++)
        hold(&f->vm[i], f->s, f->vm[i].before * lost / all);
    f->rep.lost += lost;
}

/* Ideal less received of those of the VM that are awake, if it has whole CPUs and is ahead. */
static double lead_of(struct sim_fluid *f, uint32_t vm)
{
    double sum = 0;

    if (f->vm[vm].awake == 0 || vcpu_rate(f, vm) < 1 - 1e-9)
        return 0;
    for (uint32_t k = 0; k < f->s->vm[vm].n; k++)
        if (f->vcpu[f->s->vm[vm].first + k].where == IN)
            sum += f->vcpu[f->s->vm[vm].first + k].lag;
    return fmin(sum, 0);
}

/*
 * What all are ahead together was nobody's loss: they had time for which the ideal had no use any
 * more. Who runs on whole CPUs in the ideal too is not to pay that back.
 */
static void forgive(struct sim_fluid *f)
{
    double all = 0;
    double sum = 0;

    for (uint32_t i = 0; i < f->s->nvcpus; i++)
        sum += f->vcpu[i].lag;
    if (sum > -LEAST_LOST)
        return;
    if (f->dirty)
        refill(f);
    for (uint32_t i = 0; i < f->nvms; i++)
        all += lead_of(f, i);
    if (all > -1)
        return;
    double part = fmin(sum / all, 1);
    for (uint32_t i = 0; i < f->nvms; i++) {
        double lift = -lead_of(f, i) * part / fmax(f->vm[i].awake, 1);
        for (uint32_t k = 0; k < f->s->vm[i].n; k++)
            if (f->vcpu[f->s->vm[i].first + k].where == IN)
                f->vcpu[f->s->vm[i].first + k].lag += lift;
    }
}

static void advance(struct sim_fluid *f, const struct sim *s, uint64_t now)
{
    double left = (double)(now - f->at);

    while (left > 1e-6) {
        if (f->dirty)
            refill(f);
        left -= step(f, s, left);
    }
    f->at = now;
}

/* What was lost, or spare, is settled at fixed times. */
void sim_fluid_advance(struct sim_fluid *f, const struct sim *s, uint64_t now)
{
    uint64_t period = s->sc->quantum_ns / 8;

    while (f->at / period != now / period) {
        advance(f, s, (f->at / period + 1) * period);
        take_back_lost(f);
        forgive(f);
    }
    advance(f, s, now);
}

/*
 * A vCPU that joins siblings comes back level with the one that leads, because sleep counts as
 * progress; so it lacks what that one lacks, and what its VM lacks in all is shared out anew.
 */
static void level_with_siblings(struct sim_fluid *f, const struct sim *s, uint32_t vcpu)
{
    const struct sim_vm *vm = &s->vm[s->vcpu[vcpu].vm];
    double all = f->vcpu[vcpu].lag;
    double lead = all;
    uint32_t n = 1;

    for (uint32_t i = vm->first; i < vm->first + vm->n; i++) {
        if (i == vcpu || f->vcpu[i].where != IN)
            continue;
        double ahead = (double)sim_progress(s, i) - (double)sim_progress(s, vcpu);
        lead = f->vcpu[i].lag + ahead;
        n++;
    }
    f->vcpu[vcpu].lag = lead;
    for (uint32_t i = vm->first; i < vm->first + vm->n; i++)
        if (i == vcpu || f->vcpu[i].where == IN)
            f->vcpu[i].lag -= (lead - all) / n;
}

/* Called after the vCPU blocked or woke, with time advanced up to that. */
void sim_fluid_changed(struct sim_fluid *f, const struct sim *s, uint32_t vcpu)
{
    struct fluid_vcpu *v = &f->vcpu[vcpu];
    struct fluid_vm *m = &f->vm[s->vcpu[vcpu].vm];

    if (f->dirty)
        refill(f);
    if (s->vcpu[vcpu].state == SIM_BLOCKED) {
        m->awake--;
        if (v->lag < 0) {
            v->where = DRAINS;
            f->draining++;
        } else {
            finish(f, vcpu);
        }
        return;
    }
    if (m->awake++ == 0)
        m->lo = m->hi = vm_lag(f, s->vcpu[vcpu].vm);
    if (v->where == OUT)
        m->members++;
    else
        f->draining--;
    level_with_siblings(f, s, vcpu);
    v->where = IN;
    f->dirty = true;
}

void sim_fluid_report(const struct sim_fluid *f, struct sim_fluid_report *out)
{
    *out = f->rep;
}

double sim_fluid_lag(const struct sim_fluid *f, uint32_t vm)
{
    return vm_lag(f, vm);
}
