/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Dispatch: what a CPU does at each decision. Everything here is local to the CPU, apart from the
 * state word of the vCPUs it takes and releases.
 */
#include "sched_priv.h"

/* A piece that begins this soon has begun: timers fire a little early. */
#define EARLY_NS 1000u
/* A vCPU that should run here is just leaving another CPU: wait so long. */
#define HANDOVER_NS 2000u
/* CPUs looked at for one that a woken vCPU may preempt. */
#define SHARED_SCAN 16u

/* ---- taking and releasing a vCPU ------------------------------------------------------------- */

static void serve_notes(struct vmc_sched *s, struct sched_cpu *c, struct sched_vcpu *v,
                        uint64_t now)
{
    uint32_t notes = vmci_exchange(&v->notes, (uint8_t)0);

    if ((notes & NOTE_WOKEN) != 0) {
        uint64_t wait = now > v->ts ? now - v->ts : 0;
        vmci_store_relaxed(&v->max_wake_ns, VMCI_MAX(v->max_wake_ns, wait));
        if (s->ring_size != 0)
            vmci_sched_trace(s, c, now, VMC_SCHED_EV_WAKE, (uint32_t)(v - s->vcpu));
    }
    if ((notes & NOTE_STOPPED) != 0)
        vmci_sched_costart(v, now);
}

static bool claim(struct vmc_sched *s, struct sched_cpu *c, uint32_t cpu, uint32_t vcpu,
                  uint64_t now)
{
    struct sched_vcpu *v = &s->vcpu[vcpu];
    uint32_t st = ST_READY;

    if (!__atomic_compare_exchange_n(&v->st, &st, ST_RUNNING, false, __ATOMIC_ACQUIRE,
                                     __ATOMIC_RELAXED))
        return false;
    if (now > v->ts)
        vmci_store_relaxed(&v->ready_ns, v->ready_ns + (now - v->ts));
    if (unlikely(vmci_load_relaxed(&v->notes) != 0))
        serve_notes(s, c, v, now);
    if (v->cpu != cpu) {
        vmci_store_relaxed(&v->cpu, cpu);
        add_relaxed64(&v->migrations, 1);
    }
    add_relaxed64(&v->switches, 1);
    vmci_store_relaxed(&v->ts, now);
    vmci_store_relaxed(&v->run_since, VMCI_MAX(now, (uint64_t)1));
    v->extra = 0;
    v->boosted = 0;
    c->cur_since = now;
    vmci_store_relaxed(&c->cur, vcpu);
    return true;
}

/* What it was charged for siblings, less what they were charged for it. */
static int64_t gifts(const struct sched_vcpu *v)
{
    return (int64_t)(vmci_load_relaxed(&v->served) - vmci_load_relaxed(&v->had));
}

/*
 * A sibling is charged for what the current vCPU receives from now on; NONE: nobody else. For one
 * at a time, and not one that always gives: the skew of what they really received is bounded, too.
 */
static void pays(struct vmc_sched *s, struct sched_cpu *c, uint32_t payer, uint64_t now)
{
    int64_t half = (int64_t)s->costart / 2;

    if (payer == NONE || !s->vcpu[payer].shared || s->vcpu[payer].vm != s->vcpu[c->cur].vm ||
        vmci_load_relaxed(&s->vcpu[payer].pays_from) != 0 || gifts(&s->vcpu[payer]) >= half ||
        gifts(&s->vcpu[c->cur]) <= -half)
        return;
    c->payer = payer;
    vmci_store_relaxed(&s->vcpu[payer].pays_from, VMCI_MAX(now, (uint64_t)1));
    vmci_store_relaxed(&s->vcpu[c->cur].paid, (uint64_t)1);
}

static void stop_paying(struct vmc_sched *s, struct sched_cpu *c)
{
    vmci_store_relaxed(&s->vcpu[c->payer].pays_from, (uint64_t)0);
    vmci_store_relaxed(&s->vcpu[c->cur].paid, (uint64_t)0);
    c->payer = NONE;
}

/*
 * The time is charged to the current vCPU, or to the sibling that gave way to it, whose time it is:
 * else siblings that wait for each other, and give way by turns, would lack ever more different
 * amounts, and could not be laid side by side.
 */
static void receive(struct vmc_sched *s, struct sched_cpu *c, struct sched_vcpu *v, uint64_t ns)
{
    uint64_t gift = 0;

    if (likely(!v->shared)) {
        vmci_store_relaxed(&v->served, v->served + ns);
        return;
    }
    if (c->payer != NONE && (vmci_load_relaxed(&s->vcpu[c->payer].st) & ST_READY) != 0) {
        struct sched_vcpu *payer = &s->vcpu[c->payer];
        int64_t half = (int64_t)s->costart / 2; /* each: so siblings differ by costart at most */
        int64_t most = VMCI_MIN(half - gifts(payer), half + gifts(v));
        gift = VMCI_MIN(ns, (uint64_t)VMCI_MAX(most, (int64_t)0));
        (void)vmci_fetch_add(&payer->served, gift);
    }
    (void)vmci_fetch_add(&v->served, ns - gift);
    vmci_store_relaxed(&v->had, v->had + ns);
}

/* Add the time since the last charge to what the current vCPU received. */
static void charge(struct vmc_sched *s, struct sched_cpu *c, uint64_t now, uint64_t stolen)
{
    struct sched_vcpu *v = &s->vcpu[c->cur];
    uint64_t used = now - c->cur_since;
    /* a leap of the clock, or a CPU that was away: nobody ran that long */
    uint64_t most =
        (c->slice_end > c->cur_since && c->slice_end != UINT64_MAX ? c->slice_end - c->cur_since
                                                                   : 0) +
        s->frame_ns;

    stolen = VMCI_MIN(stolen, used);
    used -= stolen;
    if (unlikely(c->slice_end != UINT64_MAX && used > most)) {
        stolen += used - most;
        used = most;
    }
    if (unlikely(stolen != 0)) {
        add_relaxed64(&v->stolen_ns, stolen);
        (void)__atomic_fetch_add(&s->lost, stolen, __ATOMIC_RELAXED);
    }
    receive(s, c, v, used);
    if (unlikely(c->payer != NONE))
        vmci_store_relaxed(&s->vcpu[c->payer].pays_from, VMCI_MAX(now, (uint64_t)1));
    vmci_store_relaxed(&v->run_since, VMCI_MAX(now, (uint64_t)1));
    vmci_store_relaxed(&c->stats.busy_ns, c->stats.busy_ns + used);
    if (unlikely(v->extra))
        add_relaxed64(&v->extra_ns, used);
    if (unlikely(v->boosted)) {
        c->boost_left -= VMCI_MIN(c->boost_left, used);
        vmci_store_relaxed(&v->tokens, v->tokens - VMCI_MIN(v->tokens, used));
    }
    c->cur_since = now;
}

static void release(struct vmc_sched *s, struct sched_cpu *c, uint64_t now)
{
    uint32_t vcpu = c->cur;
    struct sched_vcpu *v = &s->vcpu[vcpu];

    vmci_store_relaxed(&v->run_since, (uint64_t)0);
    vmci_store_relaxed(&v->ts, now);
    vmci_store_relaxed(&c->cur, NONE);
    c->last = vcpu;
    if (s->ring_size != 0)
        vmci_sched_trace(s, c, now, VMC_SCHED_EV_STOP, vcpu);
    (void)__atomic_fetch_and(&v->st, ~(ST_ONCPU | ST_PENDING), __ATOMIC_RELEASE);
}

/* The CPU's clock never goes back. */
static uint64_t advance(struct sched_cpu *c, uint64_t now)
{
    if (now < c->now)
        return c->now;
    c->now = now;
    return now;
}

/* ---- choosing -------------------------------------------------------------------------------- */

/* May the vCPU run now on this CPU? If so it is current, or becomes it. */
static bool take(struct vmc_sched *s, struct sched_cpu *c, uint32_t cpu, uint32_t vcpu, uint32_t vm,
                 uint64_t now)
{
    const struct sched_vm *m = &s->vm[vm];

    if (m->mode != VMC_SCHED_CO_NONE && m->n > 1 &&
        unlikely(vcpu_progress(&s->vcpu[vcpu]) > vmci_load_relaxed(&m->floor) + s->costart) &&
        vmci_sched_costop(s, c, vm, vcpu, now))
        return false;
    if (c->cur == vcpu) {
        if (unlikely((vmci_load_relaxed(&s->vcpu[vcpu].st) & ST_DEAD) != 0))
            return false;
        s->vcpu[vcpu].extra = 0;
        s->vcpu[vcpu].boosted = 0;
        return true;
    }
    if (c->cur != NONE)
        release(s, c, now);
    return claim(s, c, cpu, vcpu, now);
}

/* What the vCPU will lack at the end of the frame, were it not to run again. */
static int64_t lag_now(const struct vmc_sched *s, const struct sched_vcpu *v)
{
    const struct sched_vm *m = &s->vm[vmci_load_relaxed(&v->vm)];

    return (int64_t)(vmci_load_relaxed(&m->g_ns) - vmci_load_relaxed(&v->served)) +
           vmci_load_relaxed(&v->off) + vmci_load_relaxed(&m->bias);
}

/*
 * Has the vCPU another CPU for all of this frame, so that cores are not shared? That one is given
 * an eighth of the frame to take it.
 */
static bool lives_elsewhere(const struct vmc_sched *s, const struct sched_cpu *c, uint32_t vcpu,
                            uint32_t cpu)
{
    uint64_t home = s->smt ? vmci_load_relaxed(&s->vcpu[vcpu].home) : 0;

    return home != 0 && home >> 16 == c->frame && (home & 0xffff) != cpu + 1 &&
           c->now < c->frame_start + s->frame_ns / 8;
}

/*
 * How far, in ns, a vCPU may be ahead for which a limit or cap may bind soon: two frames of what it
 * can ever be entitled to. The plan sees within one and a half that somebody else went to sleep,
 * so until then this is what its ideal may have grown by.
 */
static int64_t most_ahead(const struct sched_vm *m)
{
    return 2 * (int64_t)(vmci_load_relaxed(&m->cap) >> C_SHIFT);
}

/*
 * Who is at its limit gets no more than it is entitled to by then; who may be soon, not much more:
 * it could not pay back.
 */
static bool may_fill(const struct vmc_sched *s, const struct sched_cpu *c, uint32_t vcpu,
                     uint32_t cpu, int64_t lag)
{
    uint32_t vm = vmci_load_relaxed(&s->vcpu[vcpu].vm);
    const struct sched_vm *m = &s->vm[vm];

    if (vmci_load_relaxed(&m->no_extra) && lag < (int64_t)s->min_piece)
        return false;
    if (vmci_load_relaxed(&m->bounded) && lag < -most_ahead(m))
        return false;
    return vm_allows(s, vm, cpu) && !lives_elsewhere(s, c, vcpu, cpu);
}

/* The search for somebody to fill a hole on a CPU with. */
struct search {
    uint32_t best;
    int64_t lag;
    uint32_t not ; /* could not be taken the last time, for its siblings, as all that are held */
};

/* The better of a vCPU and the best so far. */
static void consider(const struct vmc_sched *s, const struct sched_cpu *c, uint32_t cpu,
                     uint32_t vcpu, struct search *f)
{
    const struct sched_vcpu *v = &s->vcpu[vcpu];

    if (vmci_load_acquire(&v->st) != ST_READY && vcpu != c->cur)
        return;
    if (unlikely(f->not != NONE) && (vcpu == f->not || vmci_sched_held(s, v)))
        return;
    int64_t lag = lag_now(s, v);
    if (lag <= f->lag || !may_fill(s, c, vcpu, cpu, lag))
        return;
    f->lag = lag;
    f->best = vcpu;
}

/* Time that has no owner: give it to the vCPU that lacks most among those in reach. */
static uint32_t best_to_fill(struct vmc_sched *s, struct sched_cpu *c, uint32_t cpu,
                             const struct sched_tab *tab, uint32_t not )
{
    struct search f = {.best = NONE, .lag = INT64_MIN, .not = not };
    uint32_t named = VMCI_MIN(vmci_load_relaxed(&s->nfill_first), FILL_FIRST);

    uint32_t own = tab != NULL ? vmci_load_relaxed(&tab->end) : 0;
    for (uint32_t i = tab != NULL ? vmci_load_relaxed(&tab->first) : 0; i < own; i++)
        consider(s, c, cpu, entry_of(tab, i).vcpu, &f);
    uint32_t look = VMCI_MIN(named, s->fill_named);
    uint32_t at = look < named ? cpu * look % named : 0; /* not all CPUs the same ones */
    for (uint32_t i = 0; i < look; i++, at = at + 1 < named ? at + 1 : 0)
        consider(s, c, cpu, vmci_load_relaxed(&s->fill_first[at]), &f);
    for (uint32_t i = 0; i < VMCI_MIN(FILL_SCAN, s->max_vcpus); i++) {
        uint32_t vcpu = c->fill_cursor;
        c->fill_cursor = vcpu + 1 < s->max_vcpus ? vcpu + 1 : 0;
        consider(s, c, cpu, vcpu, &f);
        if (i >= 8 && f.best != NONE)
            break;
    }
    return f.best;
}

/* Who runs in a hole that has no owner has no more of it than may_fill allows. */
static void note_fill(struct vmc_sched *s, struct sched_cpu *c, uint64_t now, uint64_t *end)
{
    struct sched_vcpu *v = &s->vcpu[c->cur];
    const struct sched_vm *m = &s->vm[vmci_load_relaxed(&v->vm)];

    bool limited = vmci_load_relaxed(&m->no_extra) != 0;

    if (limited || vmci_load_relaxed(&m->bounded)) {
        int64_t most = lag_now(s, v) + (limited ? 0 : most_ahead(m));
        *end = VMCI_MIN(*end, now + (uint64_t)VMCI_MAX(most, (int64_t)s->min_piece));
    }
    v->extra = 1;
    add_relaxed64(&c->stats.fills, 1);
}

static bool fill(struct vmc_sched *s, struct sched_cpu *c, uint32_t cpu,
                 const struct sched_tab *tab, uint64_t now, uint64_t *end)
{
    /* a short gap: who runs goes on, a switch would cost more than it corrects */
    if (c->cur != NONE && *end - now < s->sigma &&
        may_fill(s, c, c->cur, cpu, lag_now(s, &s->vcpu[c->cur])) &&
        take(s, c, cpu, c->cur, vmci_load_relaxed(&s->vcpu[c->cur].vm), now)) {
        note_fill(s, c, now, end);
        return true;
    }
    uint32_t vcpu = NONE;
    for (uint32_t tries = 0; tries < 3; tries++) {
        vcpu = best_to_fill(s, c, cpu, tab, vcpu);
        if (vcpu == NONE)
            return false;
        if (take(s, c, cpu, vcpu, vmci_load_relaxed(&s->vcpu[vcpu].vm), now)) {
            note_fill(s, c, now, end);
            return true;
        }
    }
    return false;
}

/*
 * The owner of this time runs elsewhere: because a sibling that waited busily gave way to it, most
 * likely, and that one lacks the time now. Siblings belong side by side, so one goes first.
 */
static bool swap_sibling(struct vmc_sched *s, struct sched_cpu *c, uint32_t cpu,
                         const struct tab_entry *e, uint64_t now)
{
    const struct sched_vm *m = &s->vm[e->vm];
    int64_t most = (int64_t)s->min_piece;
    uint32_t best = NONE;

    if (m->n == 1 || m->mode == VMC_SCHED_CO_NONE)
        return false;
    for (uint32_t i = 0; i < m->n; i++) {
        const struct sched_vcpu *v = &s->vcpu[m->first + i];
        if (vmci_load_relaxed(&v->st) != ST_READY && m->first + i != c->cur)
            continue;
        int64_t lag = lag_now(s, v);
        if (lag > most && may_fill(s, c, m->first + i, cpu, lag)) {
            most = lag;
            best = m->first + i;
        }
    }
    if (best == NONE || !take(s, c, cpu, best, e->vm, now))
        return false;
    pays(s, c, e->vcpu, now);
    return true;
}

/* A vCPU that was just woken and has not used its share may go first. */
static bool boost(struct vmc_sched *s, struct sched_cpu *c, uint32_t cpu, bool owned, uint64_t now,
                  uint64_t *end)
{
    uint32_t bits = vmci_load_relaxed(&c->boosts);

    while (bits != 0) {
        uint32_t slot = (uint32_t)__builtin_ctz(bits);
        bits &= bits - 1;
        if (owned && (c->boost_left < s->min_piece || vmci_load_relaxed(&c->dedicated)))
            return false;
        uint32_t vcpu = vmci_exchange(&c->boost[slot], NONE);
        (void)vmci_fetch_and(&c->boosts, ~(1u << slot));
        if (vcpu == NONE)
            continue;
        struct sched_vcpu *v = &s->vcpu[vcpu];
        uint64_t tokens = vmci_load_relaxed(&v->tokens);
        if (owned && tokens < s->min_piece)
            continue;
        if (!take(s, c, cpu, vcpu, vmci_load_relaxed(&v->vm), now))
            continue;
        v->boosted = 1;
        c->lent = owned;
        if (owned)
            *end = VMCI_MIN(*end, now + VMCI_MIN(tokens, c->boost_left));
        add_relaxed64(&c->stats.boosts, 1);
        return true;
    }
    return false;
}

static void enter_frame(struct vmc_sched *s, struct sched_cpu *c, uint64_t now)
{
    c->frame = frame_of(s, now);
    c->frame_start = s->start + c->frame * s->frame_ns;
    c->frame_end = c->frame_start + s->frame_ns;
    c->pos = 0;
    c->yield_next = NONE;
    c->boost_left = s->frame_ns / 4;
}

/* Nothing to run: sleep until the plan can hold something. */
static uint64_t idle_until(struct vmc_sched *s, struct sched_cpu *c, uint32_t cpu,
                           const struct sched_tab *tab, uint64_t end, uint64_t now)
{
    bool more = tab != NULL && c->pos < vmci_load_relaxed(&tab->end);
    uint32_t state = 1;

    if (!more && vmci_load_relaxed(&s->runnable) == 0 && !vmci_sched_log_waits(s))
        state = 2;
    if (vmci_load_relaxed(&c->idle) == 0)
        c->idle_since = now;
    __atomic_store_n(&c->idle, state, __ATOMIC_SEQ_CST);
    (void)vmci_fetch_or(&s->idle_map[cpu / 64], 1ull << (cpu % 64));
    if (vmci_load_relaxed(&c->boosts) != 0) /* a wake that came before idle_map said so */
        return now;
    if (state == 2)
        return UINT64_MAX;
    if (vmci_load_relaxed(&s->runnable) > vmci_load_relaxed(&s->online))
        end = VMCI_MIN(end, now + s->frame_ns / 8);
    return end;
}

static void leave_idle(struct vmc_sched *s, struct sched_cpu *c, uint32_t cpu, uint64_t now)
{
    vmci_store_relaxed(&c->stats.idle_ns, c->stats.idle_ns + (now - c->idle_since));
    vmci_store_relaxed(&c->idle, 0u);
    (void)vmci_fetch_and(&s->idle_map[cpu / 64], ~(1ull << (cpu % 64)));
}

/* Ask the caller to plan: once per frame, or always while there is no plan at all. */
static uint32_t plan_due(struct vmc_sched *s, const struct sched_cpu *c, uint64_t now,
                         uint64_t *end)
{
    uint64_t planned = vmci_load_acquire(&s->planned);

    if (planned != FRAME_NONE && planned > c->frame)
        return 0;
    if (unlikely(vmci_load_relaxed(&s->runnable) == 0) && planned == c->frame &&
        vmci_sched_log_waits(s))
        return VMC_SCHED_PLAN_DUE; /* laid out when there was nothing to run */
    if (planned == FRAME_NONE || planned < c->frame)
        return VMC_SCHED_PLAN_DUE;
    uint64_t half = c->frame_start + s->frame_ns / 2;
    if (now < half) {
        *end = VMCI_MIN(*end, half);
        return 0;
    }
    uint64_t want = c->frame + 1;
    return vmci_exchange(&s->claimed, want) != want ? VMC_SCHED_PLAN_DUE : 0;
}

/* The CPU's plan for this frame; NULL: there is none. */
static const struct sched_tab *plan_of(struct sched_cpu *c)
{
    const struct sched_tab *tab = &c->tab[c->frame & 1];

    if (likely(vmci_load_acquire(&tab->frame) == c->frame))
        return tab;
    add_relaxed64(&c->stats.late_plans, 1);
    return NULL;
}

/*
 * The piece that covers now. False: there is none, and *end is where the next begins, or the plan
 * was taken back meanwhile (this CPU has fallen a frame behind), and *tab is NULL.
 */
static bool piece_at(struct sched_cpu *c, const struct sched_tab **tab, uint64_t now,
                     struct tab_entry *e, uint64_t *end)
{
    uint32_t t = (uint32_t)(now - c->frame_start);
    uint32_t first = vmci_load_acquire(&(*tab)->first);
    uint32_t last = vmci_load_acquire(&(*tab)->end);
    uint32_t pos = c->pos < first || c->pos > last ? first : c->pos;

    e->start = e->end = 0;
    for (; pos < last; pos++) {
        *e = entry_of(*tab, pos);
        if (e->end > t)
            break;
    }
    if (unlikely(vmci_load_relaxed(&(*tab)->frame) != c->frame)) {
        *tab = NULL;
        return false;
    }
    c->pos = pos;
    if (pos == last)
        return false;
    bool begun = e->start <= t + EARLY_NS;
    *end = c->frame_start + (begun ? e->end : e->start);
    return begun;
}

/*
 * The owner of this time is still on another CPU. Where it is about to leave that, wait for it,
 * once (true); else somebody else may have this CPU until then, or for a while.
 */
static bool await_owner(const struct vmc_sched *s, struct sched_cpu *c, uint32_t vcpu, uint64_t now,
                        uint64_t *end)
{
    const struct sched_cpu *other = &s->cpu[vmci_load_relaxed(&s->vcpu[vcpu].cpu)];
    uint64_t leaves = vmci_load_relaxed(&other->slice_end);
    bool waited = c->waited_for == vcpu && c->waited_frame == c->frame;

    if (leaves <= now + HANDOVER_NS && !waited) {
        c->waited_for = vcpu;
        c->waited_frame = c->frame;
        *end = VMCI_MIN(*end, now + HANDOVER_NS);
        return true;
    }
    *end = VMCI_MIN(*end, now + s->frame_ns / 16);
    if (leaves > now + HANDOVER_NS)
        *end = VMCI_MIN(*end, leaves);
    return false;
}

/* Who runs: the owner of the piece e, if there is one, unless somebody else is to go first. */
static bool choose(struct vmc_sched *s, struct sched_cpu *c, uint32_t cpu,
                   const struct sched_tab *tab, const struct tab_entry *e, uint64_t now,
                   uint64_t *end)
{
    uint32_t to = c->yield_next;

    c->yield_next = NONE;
    if (unlikely(vmci_load_relaxed(&c->boosts) != 0) && boost(s, c, cpu, e != NULL, now, end))
        return true;
    /* what is left of the slice, and no time of whoever comes after it */
    if (unlikely(to != NONE) && now < c->slice_end) {
        if (take(s, c, cpu, to, vmci_load_relaxed(&s->vcpu[to].vm), now)) {
            *end = VMCI_MIN(*end, c->slice_end);
            pays(s, c, c->yield_payer, now);
            return true;
        }
    }
    if (likely(e != NULL)) {
        if (likely(take(s, c, cpu, e->vcpu, e->vm, now)))
            return true;
        /* not if it is current here, and its siblings stop it: it must not pay for them too */
        if (e->vcpu != c->cur && (vmci_load_relaxed(&s->vcpu[e->vcpu].st) & ST_ONCPU) != 0) {
            if (swap_sibling(s, c, cpu, e, now))
                return true;
            if (await_owner(s, c, e->vcpu, now, end))
                return false;
        }
        /* the owner is not here: whoever was woken need not make up for anything */
        if (vmci_load_relaxed(&c->boosts) != 0 && boost(s, c, cpu, false, now, end))
            return true;
    }
    if (tab == NULL)
        *end = VMCI_MIN(*end, now + s->frame_ns / 8);
    return fill(s, c, cpu, tab, now, end);
}

void vmc_sched_pick(struct vmc_sched *s, uint32_t cpu, uint64_t now, struct vmc_sched_slice *out)
{
    struct sched_cpu *c = &s->cpu[cpu];
    uint32_t before = c->cur;

    struct tab_entry e;

    now = advance(c, now);
    if (before != NONE)
        charge(s, c, now, 0);
    if (unlikely(c->payer != NONE))
        stop_paying(s, c);
    c->lent = 0;
    if (now >= c->frame_end || now < c->frame_start)
        enter_frame(s, c, now);
    uint64_t end = c->frame_end;
    const struct sched_tab *tab = plan_of(c);
    bool planned = tab != NULL && piece_at(c, &tab, now, &e, &end);
    bool online = vmci_load_relaxed(&c->online) != 0;
    bool found = online && choose(s, c, cpu, tab, planned ? &e : NULL, now, &end);

    if (!found && c->cur != NONE)
        release(s, c, now);
    out->flags = online ? plan_due(s, c, now, &end) : 0;
    out->vcpu = found ? c->cur : NONE;
    if (unlikely(!found))
        end = online ? idle_until(s, c, cpu, tab, end, now) : UINT64_MAX;
    else if (unlikely(vmci_load_relaxed(&c->idle) != 0))
        leave_idle(s, c, cpu, now);
    vmci_store_relaxed(&c->slice_end, end);
    out->end_ns = end;
    vmci_store_relaxed(&c->stats.picks, c->stats.picks + 1);
    if (c->cur != before) {
        vmci_store_relaxed(&c->stats.switches, c->stats.switches + 1);
        if (s->ring_size != 0)
            vmci_sched_trace(s, c, now, found ? VMC_SCHED_EV_RUN : VMC_SCHED_EV_IDLE, out->vcpu);
    }
}

void vmc_sched_account(struct vmc_sched *s, uint32_t cpu, uint64_t now, uint64_t stolen)
{
    struct sched_cpu *c = &s->cpu[cpu];

    now = advance(c, now);
    if (c->cur != NONE)
        charge(s, c, now, stolen);
}

/* ---- blocking and waking --------------------------------------------------------------------- */

int vmc_sched_block(struct vmc_sched *s, uint32_t cpu, uint64_t now)
{
    struct sched_cpu *c = &s->cpu[cpu];
    uint32_t vcpu = c->cur;

    if (vcpu == NONE)
        return VMC_ESTATE;
    now = advance(c, now);
    charge(s, c, now, 0);
    if (unlikely(c->payer != NONE))
        stop_paying(s, c);
    struct sched_vcpu *v = &s->vcpu[vcpu];
    vmci_store_relaxed(&v->run_since, (uint64_t)0);
    vmci_store_relaxed(&v->ts, now);
    c->last = vcpu;
    vmci_sched_log(s, vcpu, false, now); /* before it can be woken, whose event comes after */
    uint32_t st = ST_RUNNING;
    if (!__atomic_compare_exchange_n(&v->st, &st, ST_BLOCKED, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED)) {
        bool dead = (st & ST_DEAD) != 0;
        if (!dead) {
            (void)vmci_fetch_and(&v->st, ~ST_PENDING);
            vmci_store_relaxed(&v->run_since, VMCI_MAX(now, (uint64_t)1));
            vmci_sched_log(s, vcpu, true, now);
            return VMC_EAGAIN;
        }
        (void)vmci_fetch_and(&v->st, ~(ST_RUNNING | ST_PENDING));
    }
    vmci_store_relaxed(&c->cur, NONE);
    if (s->ring_size != 0)
        vmci_sched_trace(s, c, now, VMC_SCHED_EV_BLOCK, vcpu);
    return VMC_OK;
}

/* Entitlement earned since the last wake, at most a quarter of a frame. */
static void refill(struct vmc_sched *s, struct sched_vcpu *v, const struct sched_vm *m,
                   uint64_t now)
{
    uint64_t most = s->frame_ns / 4;
    uint64_t at = vmci_load_relaxed(&v->tokens_at);
    uint64_t ns = VMCI_MIN(now > at ? now - at : 0, 64 * s->frame_ns);
    uint64_t earned = ((vmci_load_relaxed(&m->hint) >> C_SHIFT) * ns) / s->frame_ns;

    vmci_store_relaxed(&v->tokens, VMCI_MIN(vmci_load_relaxed(&v->tokens) + earned, most));
    vmci_store_relaxed(&v->tokens_at, now);
}

/* Asleep counts as progressing: come back level with the sibling that leads, or led. */
static void catch_up(struct vmc_sched *s, struct sched_vcpu *v, const struct sched_vm *m,
                     uint64_t now)
{
    uint64_t lead = 0;

    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t p = vcpu_progress_at(&s->vcpu[m->first + i], now);
        lead = VMCI_MAX(lead, p);
    }
    uint64_t own = vcpu_progress(v);
    if (lead > own)
        add_relaxed64(&v->prog_adj, lead - own);
}

static bool offer(struct sched_cpu *c, uint32_t vcpu)
{
    for (uint32_t slot = 0; slot < BOOST_SLOTS; slot++) {
        uint32_t none = NONE;
        if (__atomic_compare_exchange_n(&c->boost[slot], &none, vcpu, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {
            (void)vmci_fetch_or(&c->boosts, 1u << slot);
            return true;
        }
    }
    return false;
}

static bool core_idle(const struct vmc_sched *s, uint32_t cpu)
{
    for (uint32_t t = s->next_thread[cpu]; t != cpu; t = s->next_thread[t])
        if (((vmci_load_relaxed(&s->idle_map[t / 64]) >> (t % 64)) & 1) == 0)
            return false;
    return true;
}

/*
 * An idle CPU the VM may use, nearest in number to its last, on a core that idles altogether if
 * that is asked for; taken out of the idle set.
 */
static uint32_t take_idle_of(struct vmc_sched *s, uint32_t vm, uint32_t last, bool whole_core)
{
    uint32_t words = s->mask_words;

    for (uint32_t k = 0; k <= words; k++) {
        uint32_t w = (last / 64 + k) % words;
        uint64_t bits = vmci_load_relaxed(&s->idle_map[w]);
        if (vmci_load_relaxed(&s->vm[vm].restricted))
            bits &= vmci_load_relaxed(&vm_mask(s, vm)[w]);
        if (k == 0 && (bits >> (last % 64)) != 0) /* the last one itself, then those after it */
            bits &= ~0ull << (last % 64);
        while (bits != 0) {
            uint64_t low = bits & -bits;
            uint32_t cpu = w * 64 + (uint32_t)__builtin_ctzll(low);
            if ((!whole_core || core_idle(s, cpu)) &&
                (vmci_fetch_and(&s->idle_map[w], ~low) & low) != 0)
                return cpu;
            bits &= bits - 1;
        }
    }
    return NONE;
}

static uint32_t take_idle(struct vmc_sched *s, uint32_t vm, uint32_t last)
{
    uint32_t cpu = s->smt ? take_idle_of(s, vm, last, true) : NONE;

    return cpu != NONE ? cpu : take_idle_of(s, vm, last, false);
}

/* A CPU whose current vCPU can make up for being preempted: the last one, or one near it. */
static uint32_t shared_cpu(const struct vmc_sched *s, uint32_t vm, uint32_t last)
{
    for (uint32_t i = 0; i < VMCI_MIN(s->ncpus, SHARED_SCAN); i++) {
        uint32_t cpu = last + i < s->ncpus ? last + i : last + i - s->ncpus;
        const struct sched_cpu *c = &s->cpu[cpu];
        if (vmci_load_relaxed(&c->online) && !vmci_load_relaxed(&c->dedicated) &&
            vm_allows(s, vm, cpu))
            return cpu;
    }
    return NONE;
}

int vmc_sched_wake(struct vmc_sched *s, uint32_t vcpu, uint64_t now, uint32_t *kick_cpu)
{
    *kick_cpu = NONE;
    if (vcpu >= s->max_vcpus)
        return VMC_ENOENT;
    struct sched_vcpu *v = &s->vcpu[vcpu];
    uint32_t st = vmci_load_acquire(&v->st);
    for (;;) {
        if ((st & (ST_FREE | ST_DEAD)) != 0)
            return VMC_ENOENT;
        if ((st & ST_WAKING) != 0 || st == ST_READY || (st & ST_PENDING) != 0)
            return VMC_OK;
        uint32_t want = (st & ST_ONCPU) != 0 ? st | ST_PENDING : ST_WAKING;
        if (__atomic_compare_exchange_n(&v->st, &st, want, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            if (want != ST_WAKING)
                return VMC_OK;
            break;
        }
    }
    struct sched_vm *m = &s->vm[vmci_load_relaxed(&v->vm)];
    uint64_t since = vmci_load_relaxed(&v->ts);
    now = VMCI_MAX(now, since);
    add_relaxed64(&v->wait_ns, now - since);
    vmci_store_relaxed(&v->ts, now);
    (void)vmci_fetch_or(&v->notes, (uint8_t)NOTE_WOKEN);
    add_relaxed64(&v->wakes, 1);
    refill(s, v, m, now);
    if (m->n > 1)
        catch_up(s, v, m, now);
    uint32_t last = vmci_load_relaxed(&v->cpu);
    uint32_t vm = vmci_load_relaxed(&v->vm);
    bool credit = vmci_load_relaxed(&v->tokens) >= s->min_piece;
    vmci_sched_log(s, vcpu, true, now);
    /* WAKING -> READY, keeping a DEAD that came meanwhile */
    (void)__atomic_fetch_xor(&v->st, ST_WAKING | ST_READY, __ATOMIC_ACQ_REL);

    uint32_t cpu = take_idle(s, vm, last);
    if (cpu == NONE && credit)
        cpu = shared_cpu(s, vm, last);
    if (cpu != NONE && offer(&s->cpu[cpu], vcpu))
        *kick_cpu = cpu;
    return VMC_OK;
}

/* ---- directed yield -------------------------------------------------------------------------- */

int vmc_sched_yield_to(struct vmc_sched *s, uint32_t cpu, uint32_t vcpu, uint64_t now)
{
    struct sched_cpu *c = &s->cpu[cpu];

    if (c->cur == NONE || vcpu >= s->max_vcpus)
        return VMC_ENOENT;
    if (vmci_load_acquire(&s->vcpu[vcpu].st) != ST_READY)
        return VMC_EBUSY;
    if (c->lent || !vm_allows(s, vmci_load_relaxed(&s->vcpu[vcpu].vm), cpu))
        return VMC_EBUSY;
    c->yield_next = vcpu;
    c->yield_payer = c->payer != NONE ? c->payer : c->cur;
    if (s->vcpu[c->cur].vm != vmci_load_relaxed(&s->vcpu[vcpu].vm) || c->yield_payer == vcpu)
        c->yield_payer = NONE;
    add_relaxed64(&s->vcpu[c->cur].yields, 1);
    if (s->ring_size != 0)
        vmci_sched_trace(s, c, VMCI_MAX(now, c->now), VMC_SCHED_EV_YIELD, c->cur);
    return VMC_OK;
}

/*
 * Is the sibling about to run beside v, as the plan has it? Slices before that end late, and the
 * members of a set do not begin at the very same moment.
 */
static bool joins(const struct vmc_sched *s, const struct sched_cpu *c, const struct sched_vcpu *v,
                  const struct sched_vcpu *sibling, uint64_t now)
{
    uint64_t own = vmci_load_relaxed(&v->due[c->frame & 1]);
    uint64_t its = vmci_load_relaxed(&sibling->due[c->frame & 1]);
    uint64_t t = now - c->frame_start;

    if ((own ^ its) >> 24 != 0 || own >> 32 != (c->frame & UINT32_MAX))
        return false;
    own &= 0xffffff;
    its &= 0xffffff;
    if (vmci_load_relaxed(&sibling->ts) >= c->frame_start + its)
        return false; /* it has begun, and gave way */
    uint64_t near = s->frame_ns / UNEVEN;
    return t + EARLY_NS >= own && its < own + near && t < VMCI_MAX(own, its) + near;
}

int vmc_sched_spin(struct vmc_sched *s, uint32_t cpu, uint64_t now)
{
    struct sched_cpu *c = &s->cpu[cpu];

    if (c->cur == NONE)
        return VMC_ENOENT;
    const struct sched_vm *m = &s->vm[s->vcpu[c->cur].vm];
    uint32_t best = NONE;
    uint64_t least = UINT64_MAX;
    bool best_waits = true;
    for (uint32_t i = 0; i < m->n; i++) {
        const struct sched_vcpu *o = &s->vcpu[m->first + i];
        if (vmci_load_relaxed(&o->st) != ST_READY)
            continue;
        if (joins(s, c, &s->vcpu[c->cur], o, now))
            return VMC_ENOENT;
        bool waits = (vmci_load_relaxed(&o->notes) & NOTE_WAITS) != 0;
        uint64_t key = waits ? vmci_load_relaxed(&o->ts) : vcpu_progress(o);
        if (best == NONE || (best_waits && !waits) || (waits == best_waits && key < least)) {
            least = key;
            best = m->first + i;
            best_waits = waits;
        }
    }
    if (best == NONE)
        return VMC_ENOENT;
    int rc = vmc_sched_yield_to(s, cpu, best, now);
    if (rc == VMC_OK)
        (void)vmci_fetch_or(&s->vcpu[c->cur].notes, (uint8_t)NOTE_WAITS);
    return rc;
}
