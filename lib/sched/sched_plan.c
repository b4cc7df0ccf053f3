/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The planner: who runs how long in the next frame.
 *
 * For each VM g_ns counts the ideal CPU time of one vCPU since the beginning. A vCPU's lag is
 * g_ns + off - served, and what it is given in the next frame is just that lag, less what the
 * frame in progress still holds for it. Because both sides are totals since the beginning, any
 * disturbance (a slice cut short, a CPU that came late, time on an idle CPU) is made up for by
 * itself, and no rounding error ever accumulates.
 */
#include "sched_priv.h"

/* ---- classes --------------------------------------------------------------------------------- */

/*
 * What the VM lacks or is ahead, in the mean of its vCPUs, becomes its lag as one of the class, as
 * far as that can express it.
 */
static void start_light(struct vmc_sched *s, struct sched_vm *m)
{
    int64_t most = (int64_t)VMCI_MIN(16 * s->frame_ns, most_light_lag(m) >> C_SHIFT);
    int64_t lag = 0;
    int64_t n = 0;

    for (uint32_t i = 0; i < m->n; i++) {
        const struct sched_vcpu *v = &s->vcpu[m->first + i];
        if (v->in_fluid == FLUID_OUT)
            continue;
        lag += (int64_t)(m->g_ns - served_now(v, s->at)) + v->off;
        n++;
    }
    lag = n == 0 ? 0 : VMCI_MAX(VMCI_MIN(lag / n, most), -most);
    vmci_store_relaxed(&m->g_ns, m->g_ns - (uint64_t)lag);
    uint64_t size = ((uint64_t)(lag < 0 ? -lag : lag) << (C_SHIFT + V_SHIFT)) / m->credit;
    m->ve = lag < 0 ? s->v + size : s->v - size;
}

void vmci_sched_set_class(struct vmc_sched *s, uint32_t vm, uint32_t cls)
{
    struct sched_vm *m = &s->vm[vm];

    if (m->cls == CLS_HEAVY) {
        uint32_t last = s->heavy[--s->nheavy];
        s->heavy[m->heavy_pos] = last;
        s->vm[last].heavy_pos = m->heavy_pos;
    } else if (m->cls == CLS_LIGHT) {
        int64_t lag = light_lag(s, m);
        vmci_sched_light_remove(s, vm);
        vmci_store_relaxed(&m->g_ns, m->g_ns + (uint64_t)lag);
    }
    m->cls = cls;
    if (cls == CLS_HEAVY) {
        m->heavy_pos = s->nheavy;
        s->heavy[s->nheavy++] = vm;
    } else if (cls == CLS_LIGHT) {
        start_light(s, m);
        vmci_sched_light_insert(s, vm);
    }
}

/* ---- the ideal server ------------------------------------------------------------------------ */

/* Ideal less received of a vCPU, with what its light VM has not been granted yet. */
static int64_t fluid_lag(const struct vmc_sched *s, const struct sched_vcpu *v, uint64_t served)
{
    const struct sched_vm *m = &s->vm[v->vm];

    return (int64_t)(m->g_ns - served) + v->off + light_lag(s, m);
}

/* Let the ideal server run for dt with the entitlements as they are. */
static void serve(struct vmc_sched *s, uint64_t dt)
{
    uint64_t t = (VMCI_MIN(dt, 16 * s->frame_ns) << V_SHIFT) + s->v_rem;
    uint64_t x = t / s->frame_ns; /* frames */

    s->v_rem = t % s->frame_ns;
    for (uint32_t k = 0; k < s->nheavy; k++) {
        struct sched_vm *m = &s->vm[s->heavy[k]];
        uint64_t acc = m->g_frac + (uint64_t)(((unsigned __int128)m->credit * x) >> V_SHIFT);
        m->g_frac = (uint32_t)(acc & ((1u << C_SHIFT) - 1));
        vmci_store_relaxed(&m->g_ns, m->g_ns + (acc >> C_SHIFT));
    }
    s->v += x;
    s->bank += (int64_t)(((s->light_sum >> C_SHIFT) * x) >> V_SHIFT);
    s->at += dt;
}

/* The vCPU leaves the ideal system, having received this much less than the ideal gave it. */
static void finish(struct vmc_sched *s, struct sched_vcpu *v, int64_t lag)
{
    v->in_fluid = FLUID_OUT;
    vmci_sched_set_active(s, &s->vm[v->vm], s->vm[v->vm].active - 1);
    s->dirty = true;
    vmci_sched_note_change(s, (uint32_t)(v - s->vcpu), false);
    if (lag > 0) /* it had finished earlier there */
        vmci_sched_rewind(s, (uint64_t)lag);
}

/* ns until the ideal has caught up with the vCPU, at the present rate */
static uint64_t drain_ns(const struct vmc_sched *s, const struct sched_vcpu *v)
{
    int64_t lag = fluid_lag(s, v, v->left_served);
    uint64_t c = s->vm[v->vm].credit >> C_SHIFT;

    if (lag >= 0)
        return 0;
    if (c == 0 || (uint64_t)-lag > 1024 * s->frame_ns)
        return UINT64_MAX - 1;
    return ((uint64_t)-lag * s->frame_ns) / c + 1;
}

/* All that the ideal has caught up with by now. */
static void finish_drains(struct vmc_sched *s)
{
    for (uint32_t i = 0; i < s->ndrain; i++) {
        struct sched_vcpu *v = &s->vcpu[s->drain[i]];
        int64_t lag = fluid_lag(s, v, v->left_served);
        if (lag < 0)
            continue;
        s->drain[i--] = s->drain[--s->ndrain];
        finish(s, v, lag);
    }
}

static void refresh(struct vmc_sched *s)
{
    if (!s->dirty)
        return;
    if (s->unclaimed != 0)
        s->ago = VMCI_MIN((VMCI_MIN(s->unclaimed, (uint64_t)1 << 27) << (C_SHIFT + V_SHIFT)) /
                              s->unclaimed_rate,
                          (uint64_t)1 << (V_SHIFT + 12));
    s->unclaimed = 0;
    s->unclaimed_rate = 0;
    s->replays -= s->replays != 0;
    vmci_sched_fill(s);
}

/*
 * Advance the ideal server to time t, dividing the CPUs anew at every moment at which it is done
 * with one that sleeps; when there were too many of those, only at the end.
 */
static void advance_to(struct vmc_sched *s, uint64_t t)
{
    refresh(s);
    while (t > s->at) {
        uint64_t dt = t - s->at;
        for (uint32_t i = 0; s->replays != 0 && i < s->ndrain; i++)
            dt = VMCI_MIN(dt, drain_ns(s, &s->vcpu[s->drain[i]]) + 1);
        serve(s, dt);
        finish_drains(s);
        refresh(s);
    }
}

/* Are its vCPUs entitled to a CPU each? */
static bool has_whole_cpus(const struct sched_vm *m)
{
    return m->cls == CLS_HEAVY && m->vcpu_cap >= VMC_SCHED_WHOLE_CPU && m->credit >= m->cap;
}

/*
 * Ideal less received of all vCPUs together; but for what those lack who are entitled to whole
 * CPUs: nobody can make up for that now, so it stays theirs until they are entitled to less.
 */
static int64_t total_lag(const struct vmc_sched *s, uint64_t now)
{
    int64_t sum = 0;

    for (uint32_t k = 0; k < s->nvms; k++) {
        const struct sched_vm *m = &s->vm[s->vms_list[k]];
        int64_t light = light_lag(s, m);
        int64_t most = has_whole_cpus(m) ? 0 : INT64_MAX;
        for (uint32_t i = 0; i < m->n && m->active != 0; i++) {
            const struct sched_vcpu *v = &s->vcpu[m->first + i];
            uint64_t served = v->in_fluid == FLUID_IN ? served_now(v, now) : v->left_served;
            int64_t lag = (int64_t)(m->g_ns - served) + v->off + light;
            if (v->in_fluid != FLUID_OUT)
                sum += VMCI_MIN(lag, most);
        }
    }
    return sum;
}

/* Ideal less received of those of the VM that are awake, if it has whole CPUs and is ahead. */
static int64_t lead_of(const struct vmc_sched *s, const struct sched_vm *m, uint64_t now,
                       int64_t *awake)
{
    int64_t sum = 0;

    *awake = 0;
    if (!has_whole_cpus(m))
        return 0;
    for (uint32_t i = 0; i < m->n; i++) {
        const struct sched_vcpu *v = &s->vcpu[m->first + i];
        if (v->in_fluid != FLUID_IN)
            continue;
        sum += (int64_t)(m->g_ns - served_now(v, now)) + v->off;
        (*awake)++;
    }
    return VMCI_MIN(sum, 0);
}

/*
 * What all are ahead together was nobody's loss: they had time for which the ideal had no use any
 * more. Who runs on whole CPUs in the ideal too is not to pay that back.
 */
static void forgive(struct vmc_sched *s, uint64_t now, int64_t sum)
{
    int64_t all = 0;
    int64_t n;

    for (uint32_t k = 0; k < s->nheavy; k++)
        all += lead_of(s, &s->vm[s->heavy[k]], now, &n);
    if (all > -(int64_t)s->min_piece)
        return;
    int64_t most = (int64_t)1 << 40;
    uint64_t part =
        ((uint64_t)VMCI_MIN(-VMCI_MAX(sum, all), most) << 20) / (uint64_t)VMCI_MIN(-all, most);
    for (uint32_t k = 0; k < s->nheavy; k++) {
        struct sched_vm *m = &s->vm[s->heavy[k]];
        int64_t lead = lead_of(s, m, now, &n);
        for (uint32_t i = 0; i < m->n && lead != 0; i++) {
            struct sched_vcpu *v = &s->vcpu[m->first + i];
            int64_t lift = (VMCI_MIN(-lead / n, most) * (int64_t)part) >> 20;
            if (v->in_fluid == FLUID_IN)
                vmci_store_relaxed(&v->off, v->off + lift);
        }
    }
}

/*
 * Siblings whose skew is bounded have the same difference of lag and progress, or co-stopping would
 * hold back whom the plan prefers. Where that changed by more than "least", share out the lag of
 * the VM anew.
 */
void vmci_sched_level(struct vmc_sched *s, struct sched_vm *m, int64_t least)
{
    int64_t base = 0;
    int64_t sum = 0;
    int64_t lo = 0;
    int64_t hi = 0;
    int64_t n = 0;

    m->uneven = false;
    for (uint32_t i = 0; i < m->n; i++) {
        const struct sched_vcpu *v = &s->vcpu[m->first + i];
        if (v->in_fluid != FLUID_IN)
            continue;
        base = n++ == 0 ? v->off + (int64_t)v->join_adj : base;
        int64_t diff = v->off + (int64_t)v->join_adj - base;
        lo = VMCI_MIN(lo, diff);
        hi = VMCI_MAX(hi, diff);
        sum += diff;
    }
    if (n < 2 || m->mode == VMC_SCHED_CO_NONE || hi - lo <= least)
        return;
    for (uint32_t i = 0; i < m->n; i++) {
        struct sched_vcpu *v = &s->vcpu[m->first + i];
        if (v->in_fluid == FLUID_IN)
            vmci_store_relaxed(&v->off, base + sum / n - (int64_t)v->join_adj);
    }
}

/*
 * The host took CPUs away. Where there are enough for all, that is the loss of those that ran
 * there, or of their VMs; else it is shared (take_back_lost).
 */
static void note_stolen(struct vmc_sched *s, bool enough)
{
    for (uint32_t i = 0; i < s->max_vcpus; i++) {
        struct sched_vcpu *v = &s->vcpu[i];
        uint64_t stolen = vmci_load_relaxed(&v->stolen_ns);
        if (enough && v->in_fluid != FLUID_OUT)
            vmci_store_relaxed(&v->off, v->off - (int64_t)(stolen - v->stolen_seen));
        v->stolen_seen = stolen;
    }
    for (uint32_t k = 0; enough && k < s->nvms; k++)
        vmci_sched_level(s, &s->vm[s->vms_list[k]], 0);
}

/*
 * Time that nobody had (the host took it, or a CPU idled while somebody waited) is not in the ideal
 * either: it comes off the ideal of those who would have had less, had there been so much less.
 */
static void take_back_lost(struct vmc_sched *s, uint64_t now)
{
    uint64_t all = (uint64_t)s->online * s->frame_ns;

    if (vmci_exchange(&s->lost, (uint64_t)0) != 0)
        note_stolen(s, s->group[VMC_SCHED_ROOT].hi <= all << C_SHIFT);
    int64_t lost = total_lag(s, now);

    if (lost < -(int64_t)s->min_piece)
        forgive(s, now, lost);
    if (lost < (int64_t)s->min_piece || s->group[VMC_SCHED_ROOT].hi <= all << C_SHIFT)
        return; /* or nobody would have had less */
    s->cut = (all / 16) << C_SHIFT;
    s->ago = ((VMCI_MIN((uint64_t)lost, 64 * all) << V_SHIFT) / all) * 16;
    vmci_sched_fill(s);
    s->cut = 0;
    vmci_sched_fill(s);
}

/* In how many frames once: it looks at every vCPU. */
static uint64_t lost_period(const struct vmc_sched *s)
{
    if (s->nvms <= FEW_VMS)
        return 1;
    return s->nvms <= MANY_VMS ? 16 : 64;
}

/* ---- vCPUs that blocked or woke -------------------------------------------------------------- */

void vmci_sched_log(struct vmc_sched *s, uint32_t vcpu, bool wake, uint64_t now)
{
    uint64_t pos = vmci_fetch_add(&s->log_head, (uint64_t)1);

    if (pos - vmci_load_acquire(&s->log_tail) >= LOG_EVENTS) {
        vmci_store_relaxed(&s->log_lost, 1u); /* the planner then looks at every vCPU */
        return;
    }
    struct log_event *e = &s->log[pos % LOG_EVENTS];
    vmci_store_relaxed(&e->time, now);
    vmci_store_relaxed(&e->served, vmci_load_relaxed(&s->vcpu[vcpu].served));
    vmci_store_relaxed(&e->adj, vmci_load_relaxed(&s->vcpu[vcpu].prog_adj));
    vmci_store_relaxed(&e->vcpu, vcpu);
    vmci_store_relaxed(&e->wake, wake ? 1u : 0u);
    vmci_store_release(&e->seq, pos + 1);
}

/*
 * The vCPU joins siblings. It comes back level with the one that leads (vmc_sched_wake), so it must
 * lack as much as that one does, or co-stopping would hold back whom the plan prefers: the lag of
 * the VM is shared out anew.
 */
static void level_with_siblings(struct vmc_sched *s, const struct sched_vm *m, struct sched_vcpu *v)
{
    const struct sched_vcpu *other = NULL;
    int64_t n = 1;

    for (uint32_t i = 0; i < m->n; i++) {
        const struct sched_vcpu *o = &s->vcpu[m->first + i];
        if (o == v || o->in_fluid != FLUID_IN)
            continue;
        other = o;
        n++;
    }
    if (other == NULL)
        return;
    int64_t off = (int64_t)(other->join_adj - v->join_adj) + other->off;
    int64_t more = off - v->off;
    vmci_store_relaxed(&v->off, off - more % n);
    for (uint32_t i = 0; i < m->n; i++) {
        struct sched_vcpu *o = &s->vcpu[m->first + i];
        if (o == v || o->in_fluid == FLUID_IN)
            vmci_store_relaxed(&o->off, o->off - more / n);
    }
}

static void join(struct vmc_sched *s, struct sched_vcpu *v, uint64_t served, uint64_t adj)
{
    struct sched_vm *m = &s->vm[v->vm];

    if (v->in_fluid == FLUID_IN)
        return;
    v->join_adj = adj;
    if (v->in_fluid == FLUID_DRAINS) { /* still there: it goes on where it was */
        for (uint32_t i = 0; i < s->ndrain; i++)
            if (&s->vcpu[s->drain[i]] == v)
                s->drain[i--] = s->drain[--s->ndrain];
    } else {
        vmci_sched_set_active(s, m, m->active + 1);
        vmci_store_relaxed(&v->off, (int64_t)(served - m->g_ns) - light_lag(s, m));
        vmci_sched_note_change(s, m->first + v->index, true);
    }
    if (m->n > 1)
        level_with_siblings(s, m, v);
    v->in_fluid = FLUID_IN;
    vmci_store_relaxed(&s->runnable, s->runnable + 1);
    s->dirty = true;
}

/*
 * A vCPU went to sleep. If it is ahead, it stays in the ideal system until that has caught up; if
 * behind, the ideal had been done with it before.
 */
static void leave(struct vmc_sched *s, uint32_t vcpu, uint64_t served)
{
    struct sched_vcpu *v = &s->vcpu[vcpu];
    int64_t lag = fluid_lag(s, v, served);

    vmci_store_relaxed(&s->runnable, s->runnable - 1);
    if (lag >= 0) {
        finish(s, v, lag);
        return;
    }
    v->left_served = served;
    v->in_fluid = FLUID_DRAINS;
    s->drain[s->ndrain++] = vcpu;
}

static void take_event(struct vmc_sched *s, uint32_t vcpu, bool wake, uint64_t served, uint64_t adj)
{
    struct sched_vcpu *v = &s->vcpu[vcpu];

    if ((vmci_load_acquire(&v->st) & (ST_FREE | ST_DEAD)) != 0)
        return;
    if (wake)
        join(s, v, served, adj);
    else if (v->in_fluid == FLUID_IN)
        leave(s, vcpu, served);
}

/* The log overflowed: compare every vCPU with what the planner believes. */
static void take_all(struct vmc_sched *s)
{
    for (uint32_t i = 0; i < s->max_vcpus; i++) {
        struct sched_vcpu *v = &s->vcpu[i];
        bool runnable = (vmci_load_acquire(&v->st) & ST_READY) != 0;
        if (runnable != (v->in_fluid == FLUID_IN))
            take_event(s, i, runnable, vmci_load_relaxed(&v->served),
                       vmci_load_relaxed(&v->prog_adj));
    }
    refresh(s);
}

/*
 * Replay what happened since the last plan, in the order of the log, dividing the CPUs anew after
 * each change; in bursts of changes, after each group of them.
 */
static void replay(struct vmc_sched *s, uint64_t now)
{
    uint64_t tail = s->log_tail;
    uint64_t waiting = VMCI_MIN(vmci_load_acquire(&s->log_head) - tail, (uint64_t)LOG_EVENTS);
    uint64_t most = VMCI_MAX(VMCI_MIN(MOST_DIVIDED / (s->nvms + 1), MAX_REPLAYS), MIN_REPLAYS);
    uint64_t group = waiting / most + 1;

    s->replays = (uint32_t)(2 * most);
    s->rewinds = (uint32_t)most;
    s->changed |= waiting != 0;

    if (vmci_load_relaxed(&s->planned) == FRAME_NONE) /* it begins with the first wake */
        s->at =
            waiting == 0 ? now : VMCI_MIN(vmci_load_relaxed(&s->log[tail % LOG_EVENTS].time), now);
    for (uint64_t n = 1; n <= waiting; n++) {
        const struct log_event *e = &s->log[tail % LOG_EVENTS];
        if (vmci_load_acquire(&e->seq) != tail + 1)
            break; /* its writer is not done */
        if (n % group == 0 || n == 1) {
            advance_to(s, VMCI_MIN(vmci_load_relaxed(&e->time), now));
        }
        take_event(s, vmci_load_relaxed(&e->vcpu), vmci_load_relaxed(&e->wake) != 0,
                   vmci_load_relaxed(&e->served), vmci_load_relaxed(&e->adj));
        tail++;
    }
    vmci_store_release(&s->log_tail, tail);
    if (vmci_exchange(&s->log_lost, 0u) != 0)
        take_all(s);
    advance_to(s, now);
    if (frame_of(s, now) % lost_period(s) == 0)
        take_back_lost(s, now);
}

/* ---- removed VMs ----------------------------------------------------------------------------- */

static void reap(struct vmc_sched *s)
{
    for (uint32_t vm = 0; vm < s->max_vms && s->ndying != 0; vm++) {
        struct sched_vm *m = &s->vm[vm];
        bool gone = m->used == 2;
        for (uint32_t i = 0; gone && i < m->n; i++) {
            const struct sched_vcpu *v = &s->vcpu[m->first + i];
            gone = (vmci_load_acquire(&v->st) & (ST_ONCPU | ST_WAKING)) == 0;
        }
        if (!gone)
            continue;
        for (uint32_t i = 0; i < m->n; i++)
            vmci_store_release(&s->vcpu[m->first + i].st, ST_FREE);
        vmci_store_release(&m->used, 0u);
        s->ndying--;
    }
}

/* ---- entry points ---------------------------------------------------------------------------- */

/* The frame in progress was laid out when nothing was runnable, and now something is. */
static bool stale(const struct vmc_sched *s, uint64_t planned, uint64_t frame)
{
    return planned == frame && vmci_load_relaxed(&s->runnable) == 0 && vmci_sched_log_waits(s);
}

/*
 * Which frame to lay out now, or FRAME_NONE. As a rule the next one, half a frame ahead, so that
 * wakes up to then still count; the one in progress if it has no plan, or an empty one.
 */
static uint64_t next_frame(const struct vmc_sched *s, uint64_t now)
{
    uint64_t f = frame_of(s, now);
    uint64_t planned = vmci_load_relaxed(&s->planned);
    bool late = now >= s->start + f * s->frame_ns + s->frame_ns / 2;
    bool missing = planned == FRAME_NONE || planned < f || stale(s, planned, f);

    if (missing && !late)
        return f;
    if (late && (missing || planned == f))
        return f + 1;
    return FRAME_NONE;
}

bool vmc_sched_plan(struct vmc_sched *s, uint64_t now)
{
    vmci_lock(&s->plan_lock);
    uint64_t frame = next_frame(s, now);
    if (frame != FRAME_NONE) {
        uint64_t begin = s->start + frame * s->frame_ns;
        s->base = now > begin ? (uint32_t)(now - begin) : 0;
        if (s->dirty_tree)
            vmci_sched_rebuild_tree(s);
        s->changed = s->dirty;
        if (s->dirty) { /* shares or CPUs have changed */
            vmci_sched_touch_all(s);
            vmci_sched_fill(s);
            s->npast = 0;
        }
        replay(s, now);
        if (s->resum)
            vmci_sched_sum_light(s);
        if (s->ndying != 0)
            reap(s);
        vmci_sched_lay_out(s, now, frame);
        vmci_store_release(&s->planned, frame);
    }
    vmci_unlock(&s->plan_lock);
    return frame != FRAME_NONE;
}

uint64_t vmc_sched_plan_ns(const struct vmc_sched *s)
{
    uint64_t planned = vmci_load_acquire(&s->planned);

    if (planned == FRAME_NONE)
        return s->start;
    return s->start + planned * s->frame_ns + s->frame_ns / 2;
}

uint64_t vmc_sched_frame_ns(const struct vmc_sched *s)
{
    return s->frame_ns;
}
