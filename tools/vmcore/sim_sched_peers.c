/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Other schedulers, written from their published descriptions, to compare with:
 *
 *   eevdf    per-CPU queues, earliest eligible virtual deadline, slices of 3 ms (Linux 6.6 and on)
 *   balance  the same, siblings on different CPUs (Sukwong, Kim, EuroSys 2011)
 *   demand   the same, siblings of a spinning vCPU are urgent (Kim et al., ASPLOS 2013)
 *   credit   Xen's first: 30 ms slices, BOOST/UNDER/OVER, work stealing
 *   credit2  Xen's second: one queue, credit burnt by weight, slices of 0.5 to 10 ms
 *   rtds     Xen's real-time deferrable server: global EDF with budgets, extra time when idle
 *   gang     strict gangs in slots of 10 ms (Ousterhout, 1982)
 *
 * They know no pools; a VM's weight is its part of its pool's, and so on up to the root.
 */
#include "sim_sched.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { EEVDF, BALANCE, DEMAND, CREDIT, CREDIT2, RTDS, GANG };
enum { BOOST, UNDER, OVER };

struct pv {
    double w;                          /* weight of the vCPU */
    double vt, dl;                     /* virtual time received, virtual deadline (eevdf) */
    double credit;                     /* credit, credit2: ns */
    uint32_t q;                        /* per-CPU policies: its queue */
    int prio;                          /* credit */
    bool urgent;                       /* demand */
    uint64_t since;                    /* position in round robin */
    uint64_t period_end, budget, full; /* rtds */
};

struct peer {
    int kind;
    struct pv *v;
    double total_w;
    uint64_t next_tick, tick;
    uint64_t seq;
    uint32_t *gang;  /* by CPU: what it runs in this slot */
    double *gang_vt; /* by VM */
    uint64_t slot_end;
};

static double vm_weight(const struct sim *s, uint32_t vm)
{
    const struct sim_scenario *sc = s->sc;
    double w = 1;
    uint32_t up = sc->vms[vm].pool;
    double mine = sc->vms[vm].share.shares;

    for (;;) {
        double sum = 0;
        for (uint32_t i = 0; i < sc->nvms; i++)
            sum += sc->vms[i].pool == up ? sc->vms[i].share.shares : 0;
        for (uint32_t i = 0; i < sc->npools; i++)
            sum += sc->pools[i].parent == up ? sc->pools[i].share.shares : 0;
        w *= mine / sum;
        if (up == SIM_NONE)
            return w;
        mine = sc->pools[up].share.shares;
        up = sc->pools[up].parent;
    }
}

static void peer_destroy(struct sim *s, void *pol)
{
    struct peer *p = pol;

    (void)s;
    free(p->v);
    free(p->gang);
    free(p->gang_vt);
    free(p);
}

static void *peer_create(struct sim *s, const struct sim_policy *pol)
{
    struct peer *p = calloc(1, sizeof(*p));

    p->kind = pol->variant;
    p->v = calloc(s->nvcpus, sizeof(*p->v));
    p->gang = malloc(s->ncpus * sizeof(*p->gang));
    p->gang_vt = calloc(s->nvms, sizeof(*p->gang_vt));
    memset(p->gang, 0xff, s->ncpus * sizeof(*p->gang));
    for (uint32_t i = 0; i < s->nvms; i++) {
        double w = vm_weight(s, i);
        for (uint32_t k = 0; k < s->vm[i].n; k++) {
            struct pv *v = &p->v[s->vm[i].first + k];
            v->w = w / s->vm[i].n;
            v->q = (s->vm[i].first + k) % s->ncpus;
            v->prio = UNDER;
            v->full = (uint64_t)(1e7 * fmin(1.0, v->w * s->ncpus));
            p->total_w += v->w;
        }
    }
    p->tick = p->kind == GANG ? 10000000 : p->kind == CREDIT ? 10000000 : 4000000;
    p->next_tick = p->tick;
    return p;
}

/* May the policy choose it for the CPU? */
static bool candidate(const struct sim *s, uint32_t i, uint32_t cpu)
{
    return s->vcpu[i].state == SIM_READY || s->cur[cpu] == i;
}

static bool queued_on(const struct sim *s, const struct peer *p, uint32_t i, uint32_t cpu)
{
    return p->v[i].q == cpu && s->vcpu[i].state != SIM_BLOCKED;
}

/* Make an idle CPU pick, one that has not been told already; false: none is idle. */
static bool kick_idle(struct sim *s)
{
    for (uint32_t c = 0; c < s->ncpus; c++) {
        if (s->cur[c] == SIM_NONE && s->slice_end[c] == SIM_NEVER) {
            sim_kick(s, c);
            return true;
        }
    }
    return false;
}

static double load_of(const struct sim *s, const struct peer *p, uint32_t cpu)
{
    double sum = 0;

    for (uint32_t i = 0; i < s->nvcpus; i++)
        sum += queued_on(s, p, i, cpu) ? p->v[i].w : 0;
    return sum;
}

static bool sibling_on(const struct sim *s, const struct peer *p, uint32_t vcpu, uint32_t cpu)
{
    const struct sim_vm *m = &s->vm[s->vcpu[vcpu].vm];

    for (uint32_t k = 0; k < m->n; k++)
        if (m->first + k != vcpu && queued_on(s, p, m->first + k, cpu))
            return true;
    return false;
}

/* ---- eevdf, balance, demand ------------------------------------------------------------------ */

#define SLICE 3000000.0

static double average_vt(const struct sim *s, const struct peer *p, uint32_t cpu)
{
    double sum = 0;
    double w = 0;

    for (uint32_t i = 0; i < s->nvcpus; i++) {
        if (queued_on(s, p, i, cpu)) {
            sum += p->v[i].vt * p->v[i].w;
            w += p->v[i].w;
        }
    }
    return w > 0 ? sum / w : 0;
}

static void place(struct sim *s, struct peer *p, uint32_t vcpu, uint32_t cpu)
{
    struct pv *v = &p->v[vcpu];

    v->q = cpu;
    v->vt = average_vt(s, p, cpu);
    v->dl = v->vt + SLICE / v->w;
}

static uint32_t eevdf_steal(struct sim *s, struct peer *p, uint32_t cpu)
{
    for (uint32_t i = 0; i < s->nvcpus; i++) {
        if (s->vcpu[i].state == SIM_READY && !(p->kind == BALANCE && sibling_on(s, p, i, cpu))) {
            place(s, p, i, cpu);
            return i;
        }
    }
    return SIM_NONE;
}

static uint32_t eevdf_pick(struct sim *s, struct peer *p, uint32_t cpu, uint64_t *end)
{
    double v = average_vt(s, p, cpu);
    uint32_t best = SIM_NONE;

    for (uint32_t i = 0; i < s->nvcpus; i++) {
        struct pv *o = &p->v[i];
        if (!queued_on(s, p, i, cpu) || !candidate(s, i, cpu))
            continue;
        if (o->vt >= o->dl)
            o->dl = o->vt + SLICE / o->w;
        if (o->urgent && (best == SIM_NONE || !p->v[best].urgent)) {
            best = i;
            continue;
        }
        if (o->vt > v + 1e-6 * fabs(v) || (best != SIM_NONE && p->v[best].urgent && !o->urgent))
            continue;
        if (best == SIM_NONE || o->dl < p->v[best].dl)
            best = i;
    }
    if (best == SIM_NONE)
        best = eevdf_steal(s, p, cpu);
    if (best == SIM_NONE)
        return SIM_NONE;
    double left = (p->v[best].dl - p->v[best].vt) * p->v[best].w;
    *end = s->now + (uint64_t)fmax(left, 100000);
    if (p->v[best].urgent) {
        p->v[best].urgent = false;
        *end = s->now + 500000;
    }
    return best;
}

static void eevdf_wake(struct sim *s, struct peer *p, uint32_t vcpu)
{
    uint32_t best = p->v[vcpu].q;
    double least = INFINITY;

    for (uint32_t c = 0; c < s->ncpus; c++) {
        double load = load_of(s, p, c);
        if (p->kind == BALANCE && sibling_on(s, p, vcpu, c))
            load += 1e9;
        if (c == p->v[vcpu].q)
            load -= 1e-9;
        if (load < least) {
            least = load;
            best = c;
        }
    }
    place(s, p, vcpu, best);
    uint32_t cur = s->cur[best];
    if (cur == SIM_NONE || p->v[vcpu].dl < p->v[cur].dl)
        sim_kick(s, best);
}

/* Move a waiting vCPU from the most to the least loaded queue when that evens them out. */
static void eevdf_balance(struct sim *s, struct peer *p)
{
    uint32_t hi = 0;
    uint32_t lo = 0;

    for (uint32_t c = 1; c < s->ncpus; c++) {
        if (load_of(s, p, c) > load_of(s, p, hi))
            hi = c;
        if (load_of(s, p, c) < load_of(s, p, lo))
            lo = c;
    }
    double gap = load_of(s, p, hi) - load_of(s, p, lo);
    for (uint32_t i = 0; i < s->nvcpus; i++) {
        if (p->v[i].q == hi && s->vcpu[i].state == SIM_READY && p->v[i].w < gap &&
            !(p->kind == BALANCE && sibling_on(s, p, i, lo))) {
            place(s, p, i, lo);
            return;
        }
    }
}

/* ---- credit ---------------------------------------------------------------------------------- */

static uint32_t credit_best(struct sim *s, struct peer *p, uint32_t cpu, bool own)
{
    uint32_t best = SIM_NONE;

    for (uint32_t i = 0; i < s->nvcpus; i++) {
        const struct pv *o = &p->v[i];
        if (!candidate(s, i, cpu) || (o->q == cpu) != own)
            continue;
        if (best == SIM_NONE || o->prio < p->v[best].prio ||
            (o->prio == p->v[best].prio && o->since < p->v[best].since))
            best = i;
    }
    return best;
}

static uint32_t credit_pick(struct sim *s, struct peer *p, uint32_t cpu, uint64_t *end)
{
    uint32_t old = s->cur[cpu];

    if (old != SIM_NONE)
        p->v[old].since = ++p->seq; /* to the tail of its priority */
    uint32_t best = credit_best(s, p, cpu, true);
    if (best == SIM_NONE || p->v[best].prio == OVER) {
        uint32_t other = credit_best(s, p, cpu, false);
        if (other != SIM_NONE && (best == SIM_NONE || p->v[other].prio < OVER)) {
            p->v[other].q = cpu;
            best = other;
        }
    }
    *end = s->now + 30000000;
    return best;
}

static void credit_wake(struct sim *s, struct peer *p, uint32_t vcpu)
{
    struct pv *v = &p->v[vcpu];

    v->since = ++p->seq;
    if (v->prio == UNDER)
        v->prio = BOOST;
    if (kick_idle(s))
        return;
    uint32_t cur = s->cur[v->q];
    if (cur != SIM_NONE && p->v[cur].prio > v->prio)
        sim_kick(s, v->q);
}

/* Every 10 ms: the running vCPUs lose BOOST; every 30 ms credit is handed out by weight. */
static void credit_tick(struct sim *s, struct peer *p)
{
    bool accounting = (p->next_tick / p->tick) % 3 == 0;
    double active = 0;

    for (uint32_t i = 0; i < s->nvcpus; i++)
        active += s->vcpu[i].state != SIM_BLOCKED ? p->v[i].w : 0;
    for (uint32_t i = 0; i < s->nvcpus; i++) {
        struct pv *v = &p->v[i];
        if (s->vcpu[i].state == SIM_RUNNING && v->prio == BOOST)
            v->prio = UNDER;
        if (!accounting || s->vcpu[i].state == SIM_BLOCKED)
            continue;
        v->credit += 3e7 * s->ncpus * v->w / active;
        v->credit = fmin(fmax(v->credit, -3e7), 3e7);
        v->prio = v->credit < 0 ? OVER : v->prio == OVER ? UNDER : v->prio;
    }
}

/* ---- credit2 --------------------------------------------------------------------------------- */

static uint32_t credit2_pick(struct sim *s, struct peer *p, uint32_t cpu, uint64_t *end)
{
    uint32_t best = SIM_NONE;
    uint32_t second = SIM_NONE;

    for (uint32_t i = 0; i < s->nvcpus; i++) {
        if (!candidate(s, i, cpu))
            continue;
        if (best == SIM_NONE || p->v[i].credit > p->v[best].credit) {
            second = best;
            best = i;
        } else if (second == SIM_NONE || p->v[i].credit > p->v[second].credit) {
            second = i;
        }
    }
    if (best == SIM_NONE)
        return SIM_NONE;
    if (p->v[best].credit <= 0) /* reset: everybody gets 10.5 ms more, debts are kept */
        for (uint32_t i = 0; i < s->nvcpus; i++)
            p->v[i].credit = fmin(p->v[i].credit + 10500000, 10500000);
    double slice = 10000000;
    if (second != SIM_NONE)
        slice = (p->v[best].credit - p->v[second].credit) * p->v[best].w * s->nvcpus / p->total_w;
    *end = s->now + (uint64_t)fmin(fmax(slice, 500000), 10000000);
    return best;
}

static void credit2_wake(struct sim *s, struct peer *p, uint32_t vcpu)
{
    uint32_t worst = 0;

    if (kick_idle(s))
        return;
    for (uint32_t c = 0; c < s->ncpus; c++) {
        if (s->cur[c] == SIM_NONE)
            return; /* one is about to pick */
        if (p->v[s->cur[c]].credit < p->v[s->cur[worst]].credit)
            worst = c;
    }
    if (p->v[s->cur[worst]].credit < p->v[vcpu].credit &&
        s->now - s->run_from[worst] >= 1000000) /* rate limit */
        sim_kick(s, worst);
}

/* ---- rtds ------------------------------------------------------------------------------------ */

#define PERIOD 10000000u

static void rtds_refill(struct sim *s, struct pv *v)
{
    if (s->now >= v->period_end) {
        v->period_end = s->now - s->now % PERIOD + PERIOD;
        v->budget = v->full;
    }
}

static uint32_t rtds_pick(struct sim *s, struct peer *p, uint32_t cpu, uint64_t *end)
{
    uint32_t best = SIM_NONE;

    for (uint32_t i = 0; i < s->nvcpus; i++) {
        if (!candidate(s, i, cpu))
            continue;
        rtds_refill(s, &p->v[i]);
        const struct pv *b = best == SIM_NONE ? NULL : &p->v[best];
        bool has = p->v[i].budget != 0;
        if (b == NULL || (has && b->budget == 0) ||
            (has == (b->budget != 0) && p->v[i].since < b->since &&
             p->v[i].period_end <= b->period_end))
            best = i;
    }
    if (best == SIM_NONE)
        return SIM_NONE;
    struct pv *v = &p->v[best];
    v->since = ++p->seq;
    *end = s->now + (v->budget != 0 ? v->budget : 500000);
    if (*end > v->period_end)
        *end = v->period_end;
    return best;
}

/* ---- gang ------------------------------------------------------------------------------------ */

static void gang_slot(struct sim *s, struct peer *p)
{
    uint32_t cpu = 0;
    bool *done = calloc(s->nvms, sizeof(*done));

    memset(p->gang, 0xff, s->ncpus * sizeof(*p->gang));
    for (uint32_t round = 0; round < s->nvms && cpu < s->ncpus; round++) {
        uint32_t best = SIM_NONE;
        for (uint32_t i = 0; i < s->nvms; i++)
            if (!done[i] && s->vm[i].runnable != 0 &&
                (best == SIM_NONE || p->gang_vt[i] < p->gang_vt[best]))
                best = i;
        if (best == SIM_NONE)
            break;
        done[best] = true;
        const struct sim_vm *m = &s->vm[best];
        if (cpu + m->n > s->ncpus)
            continue;
        for (uint32_t k = 0; k < m->n; k++)
            p->gang[cpu++] = m->first + k;
    }
    free(done);
    p->slot_end = s->now + p->tick;
    for (uint32_t c = 0; c < s->ncpus; c++)
        sim_kick(s, c);
}

static uint32_t gang_pick(struct sim *s, struct peer *p, uint32_t cpu, uint64_t *end)
{
    uint32_t v = p->gang[cpu];

    *end = SIM_NEVER;
    if (v == SIM_NONE || !candidate(s, v, cpu))
        return SIM_NONE; /* all or none: the CPU of a sleeping member stays empty */
    return v;
}

static void gang_wake(struct sim *s, struct peer *p, uint32_t vcpu)
{
    const struct sim_vm *m = &s->vm[s->vcpu[vcpu].vm];
    double least = INFINITY;

    if (m->runnable == 1) { /* no credit for having slept */
        for (uint32_t i = 0; i < s->nvms; i++)
            if (s->vm[i].runnable != 0 && &s->vm[i] != m)
                least = fmin(least, p->gang_vt[i]);
        uint32_t vm = s->vcpu[vcpu].vm;
        if (least < INFINITY)
            p->gang_vt[vm] = fmax(p->gang_vt[vm], least);
    }
    for (uint32_t c = 0; c < s->ncpus; c++) {
        if (p->gang[c] == vcpu) {
            sim_kick(s, c);
            return;
        }
        if (p->gang[c] != SIM_NONE && s->vcpu[p->gang[c]].state != SIM_BLOCKED)
            return;
    }
    gang_slot(s, p); /* nobody runs */
}

/* ---- the interface --------------------------------------------------------------------------- */

static uint32_t peer_pick(struct sim *s, void *pol, uint32_t cpu, uint64_t *end)
{
    struct peer *p = pol;

    switch (p->kind) {
    case CREDIT:
        return credit_pick(s, p, cpu, end);
    case CREDIT2:
        return credit2_pick(s, p, cpu, end);
    case RTDS:
        return rtds_pick(s, p, cpu, end);
    case GANG:
        return gang_pick(s, p, cpu, end);
    default:
        return eevdf_pick(s, p, cpu, end);
    }
}

static void peer_block(struct sim *s, void *pol, uint32_t cpu, uint32_t vcpu)
{
    (void)s;
    (void)pol;
    (void)cpu;
    (void)vcpu;
}

static void peer_wake(struct sim *s, void *pol, uint32_t vcpu)
{
    struct peer *p = pol;

    switch (p->kind) {
    case CREDIT:
        credit_wake(s, p, vcpu);
        return;
    case CREDIT2:
        credit2_wake(s, p, vcpu);
        return;
    case RTDS:
        for (uint32_t c = 0; !kick_idle(s) && c < s->ncpus; c++) {
            if (s->cur[c] != SIM_NONE && p->v[s->cur[c]].budget == 0) {
                sim_kick(s, c);
                return;
            }
        }
        return;
    case GANG:
        gang_wake(s, p, vcpu);
        return;
    default:
        eevdf_wake(s, p, vcpu);
    }
}

static void peer_charge(struct sim *s, void *pol, uint32_t cpu, uint32_t vcpu, uint64_t dt)
{
    struct peer *p = pol;
    struct pv *v = &p->v[vcpu];

    (void)cpu;
    v->vt += (double)dt / v->w;
    if (p->kind == CREDIT2)
        v->credit -= (double)dt * p->total_w / (v->w * s->nvcpus);
    else
        v->credit -= (double)dt;
    v->budget -= dt < v->budget ? dt : v->budget;
    p->gang_vt[s->vcpu[vcpu].vm] += (double)dt / v->w;
}

static bool peer_spin(struct sim *s, void *pol, uint32_t cpu, uint32_t vcpu)
{
    struct peer *p = pol;
    const struct sim_vm *m = &s->vm[s->vcpu[vcpu].vm];

    (void)cpu;
    if (p->kind == GANG || p->kind == RTDS)
        return false;
    if (p->kind == DEMAND) {
        for (uint32_t k = 0; k < m->n; k++) {
            uint32_t o = m->first + k;
            if (s->vcpu[o].state == SIM_READY && !p->v[o].urgent) {
                p->v[o].urgent = true;
                if (p->v[o].q != p->v[vcpu].q)
                    sim_kick(s, p->v[o].q);
            }
        }
    }
    return true; /* yield */
}

static uint64_t peer_next_timer(struct sim *s, void *pol)
{
    (void)s;
    return ((struct peer *)pol)->next_tick;
}

static void peer_timer(struct sim *s, void *pol)
{
    struct peer *p = pol;

    if (p->kind == CREDIT)
        credit_tick(s, p);
    else if (p->kind == GANG)
        gang_slot(s, p);
    else if (p->kind < CREDIT)
        eevdf_balance(s, p);
    p->next_tick += p->tick;
}

#define PEER(ident, text, about_text, kind)                                                        \
    static const struct sim_policy ident = {                                                       \
        .name = text,                                                                              \
        .about = about_text,                                                                       \
        .create = peer_create,                                                                     \
        .destroy = peer_destroy,                                                                   \
        .pick = peer_pick,                                                                         \
        .block = peer_block,                                                                       \
        .wake = peer_wake,                                                                         \
        .charge = peer_charge,                                                                     \
        .spin = peer_spin,                                                                         \
        .next_timer = peer_next_timer,                                                             \
        .timer = peer_timer,                                                                       \
        .variant = kind,                                                                           \
    }

PEER(peer_eevdf, "eevdf", "like Linux: per-CPU queues, virtual deadlines", EEVDF);
PEER(peer_balance, "balance", "eevdf with siblings on different CPUs", BALANCE);
PEER(peer_demand, "demand", "eevdf with demand-based coordination of spinning VMs", DEMAND);
PEER(peer_credit, "credit", "like Xen's credit scheduler", CREDIT);
PEER(peer_credit2, "credit2", "like Xen's credit2 scheduler", CREDIT2);
PEER(peer_rtds, "rtds", "like Xen's real-time deferrable server", RTDS);
PEER(peer_gang, "gang", "strict gang scheduling in slots", GANG);

extern const struct sim_policy sim_ours, sim_ours_none, sim_ours_relaxed, sim_ours_strict;

const struct sim_policy *const sim_policies[] = {
    &sim_ours,    &sim_ours_none, &sim_ours_relaxed, &sim_ours_strict, &peer_gang, &peer_balance,
    &peer_demand, &peer_eevdf,    &peer_credit,      &peer_credit2,    &peer_rtds,
};
const unsigned sim_npolicies = sizeof(sim_policies) / sizeof(sim_policies[0]);

const struct sim_policy *sim_policy_find(const char *name)
{
    for (unsigned i = 0; i < sim_npolicies; i++)
        if (strcmp(sim_policies[i]->name, name) == 0)
            return sim_policies[i];
    return NULL;
}
