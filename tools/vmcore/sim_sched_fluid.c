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
 * finished earlier there, which is known only now: the ideal is wound back to that moment and run
 * again from there without it, through every change since. Time that CPUs idle while the ideal
 * would use them is lost to the ideal as well: it divides what the CPUs delivered (how much they
 * did not, is reported apart).
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
    /* while the ideal is wound back */
    bool member;     /* of the ideal system at that time */
    uint32_t leaves; /* the next of the changes that is its leaving; SIM_NONE: it is there still */
};

/* A vCPU joined the ideal system, or left it. */
struct change {
    double time;
    uint32_t vcpu;
    bool join;
    double
        excess; /* a leaver: what the ideal gives it beyond its work, since others left earlier */
};

#define MOST_CHANGES 8192
#define LEAST_EXCESS 500.0 /* ns: less waits until it is more */

struct fluid_vm {
    double lo, hi;    /* extremes of the lag since it became backlogged */
    uint32_t members; /* vCPUs in the ideal system */
    uint32_t awake;   /* those of them that do not drain */
    double before;    /* rate of a vCPU before the division in progress */
};

struct sim_fluid {
    uint32_t npools, nvms; /* node 0 is the root, then pools, then VMs */
    struct node *node;
    struct fluid_vm *vm;
    struct fluid_vcpu *vcpu;
    uint64_t at;
    double clock; /* the same, within a step */
    struct change *change;
    uint32_t changes;
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
    f->change = calloc(MOST_CHANGES, sizeof(*f->change));
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
    free(f->change);
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

/* ---- winding back ---------------------------------------------------------------------------- */

static void log_change(struct sim_fluid *f, uint32_t vcpu, bool join)
{
    if (f->changes == MOST_CHANGES) { /* forget the older half */
        f->changes /= 2;
        memmove(f->change, f->change + f->changes, f->changes * sizeof(*f->change));
    }
    f->change[f->changes++] = (struct change){.time = f->clock, .vcpu = vcpu, .join = join};
}

static void set_member(struct sim_fluid *f, uint32_t vcpu, bool member)
{
    f->vcpu[vcpu].member = member;
    f->vm[f->s->vcpu[vcpu].vm].members += member ? 1u : -1u;
}

static void undo(struct sim_fluid *f, uint32_t k)
{
    const struct change *c = &f->change[k];

    set_member(f, c->vcpu, !c->join);
    if (!c->join)
        f->vcpu[c->vcpu].leaves = k;
}

/* Who was there for d ns had so much more without the vCPU, which has left by now. */
static void run_without(struct sim_fluid *f, uint32_t vcpu, double d)
{
    for (uint32_t i = 0; i < f->nvms; i++)
        f->vm[i].before = vcpu_rate(f, i);
    set_member(f, vcpu, false);
    refill(f);
    for (uint32_t i = 0; i < f->s->nvcpus; i++) {
        struct fluid_vcpu *v = &f->vcpu[i];
        uint32_t vm = f->s->vcpu[i].vm;
        double more = (vcpu_rate(f, vm) - f->vm[vm].before) * d;
        if (v->member && v->leaves == SIM_NONE)
            v->lag += more;
        else if (v->member)
            f->change[v->leaves].excess += more;
    }
    set_member(f, vcpu, true);
}

/* Back to the present: members are those who are not out. */
static void wind_forward(struct sim_fluid *f)
{
    for (uint32_t i = 0; i < f->nvms; i++)
        f->vm[i].members = 0;
    for (uint32_t i = 0; i < f->s->nvcpus; i++)
        f->vm[f->s->vcpu[i].vm].members += f->vcpu[i].where != OUT;
    f->dirty = true;
}

/* What is left of the leaver's lag came from its siblings when it joined them. */
static void give_back(struct sim_fluid *f, uint32_t vcpu, double lag)
{
    const struct sim_vm *vm = &f->s->vm[f->s->vcpu[vcpu].vm];
    uint32_t n = 0;

    for (uint32_t i = vm->first; i < vm->first + vm->n; i++)
        n += f->vcpu[i].where == IN;
    for (uint32_t i = vm->first; i < vm->first + vm->n; i++)
        if (f->vcpu[i].where == IN)
            f->vcpu[i].lag += lag / n;
}

/* Change k, that a vCPU left, comes earlier: as soon as the ideal had given it so much less. */
static void leave_earlier(struct sim_fluid *f, uint32_t k, double lag)
{
    struct change leave = f->change[k];
    uint32_t pos = k;

    for (uint32_t i = 0; i < f->s->nvcpus; i++) {
        f->vcpu[i].member = f->vcpu[i].where != OUT;
        f->vcpu[i].leaves = SIM_NONE;
    }
    for (uint32_t i = f->changes; i-- > k;)
        undo(f, i);
    while (lag > 1e-3) {
        refill(f);
        double rate = vcpu_rate(f, f->s->vcpu[leave.vcpu].vm);
        double from = pos == 0 ? -INFINITY : f->change[pos - 1].time;
        double need = rate > 0 ? lag / rate : INFINITY;
        bool enough = leave.time - need >= from;
        double d = fmin(need, leave.time - from);
        if (isinf(d))
            break;
        run_without(f, leave.vcpu, d);
        leave.time -= d;
        lag -= enough ? lag : rate * d;
        if (enough || (f->change[pos - 1].vcpu == leave.vcpu && f->change[pos - 1].join))
            break;
        undo(f, --pos);
    }
    wind_forward(f);
    if (lag > 1e-3)
        give_back(f, leave.vcpu, lag);
    memmove(&f->change[pos + 1], &f->change[pos], (k - pos) * sizeof(leave));
    f->change[pos] = leave;
}

/* Who left before has had more than its work by that: it left earlier, too. */
static void settle_excess(struct sim_fluid *f)
{
    for (uint32_t k = f->changes; k-- > 0;) {
        double excess = f->change[k].excess;
        if (excess < LEAST_EXCESS)
            continue;
        f->change[k].excess = 0;
        leave_earlier(f, k, excess);
        k = f->changes;
    }
}

/* The ideal has finished with the vCPU; lag > 0: it had so already before. */
static void finish(struct sim_fluid *f, uint32_t vcpu)
{
    double lag = f->vcpu[vcpu].lag;

    f->draining -= f->vcpu[vcpu].where == DRAINS;
    f->vcpu[vcpu] = (struct fluid_vcpu){.where = OUT};
    f->vm[f->s->vcpu[vcpu].vm].members--;
    f->dirty = true;
    log_change(f, vcpu, false);
    if (lag > 0) {
        leave_earlier(f, f->changes - 1, lag);
        settle_excess(f);
    }
    refill(f);
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
    f->clock += dt;
    for (uint32_t i = 0; i < f->nvms; i++)
        if (f->vm[i].awake != 0)
            note(f, i);
    if (first != SIM_NONE)
        finish(f, first);
    return dt;
}

/*
 * Ideal less received of all together; but for what those lack who have whole CPUs in the ideal:
 * nobody can make up for that now, so it stays theirs until they are entitled to less.
 */
static double total_lag(struct sim_fluid *f)
{
    double sum = 0;

    if (f->dirty)
        refill(f);
    for (uint32_t i = 0; i < f->s->nvcpus; i++)
        if (f->vcpu[i].lag < 0 || vcpu_rate(f, f->s->vcpu[i].vm) < 1 - 1e-9)
            sum += f->vcpu[i].lag;
    return sum;
}

/*
 * What all lack together was had by nobody: where more is asked for than there is, take it off
 * those who would have had less, had there been less.
 */
static void take_back_lost(struct sim_fluid *f)
{
    double lost = total_lag(f);
    double all = 0;

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
    double sum = total_lag(f);

    if (sum > -LEAST_LOST)
        return;
    for (uint32_t i = 0; i < f->nvms; i++)
        all += lead_of(f, i);
    if (all > -1)
        return;
    double part = fmin(sum / all, 1);
    for (uint32_t i = 0; i < f->nvms; i++) {
        double lift = -lead_of(f, i) * part / fmax(f->vm[i].awake, 1);
        for (uint32_t k = 0; k < f->s->vm[i].n; k++)
            if (f->vcpu[f->s->vm[i].first + k].where == IN) {
                f->vcpu[f->s->vm[i].first + k].lag += lift;
                f->rep.lost -= lift; /* the CPUs gave more than the ideal, by so much */
            }
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
    f->clock = (double)now;
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
    if (v->where == OUT) {
        m->members++;
        log_change(f, vcpu, true);
    } else {
        f->draining--;
    }
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
