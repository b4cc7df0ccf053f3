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

/* Ideal less granted of a VM whose grants come a slice at a time. */
int64_t vmci_sched_light_lag(const struct vmc_sched *s, const struct sched_vm *m)
{
    if (m->cls != CLS_LIGHT)
        return 0;
    bool ahead = m->ve > s->v;
    uint64_t dist = VMCI_MIN(ahead ? m->ve - s->v : s->v - m->ve, (uint64_t)1 << 40);
    /* credit < 2^38 in C_SHIFT: keep the product below 2^63 */
    uint64_t lag = ((dist >> 16) * (m->credit >> 4)) >> (V_SHIFT - 16 + C_SHIFT - 4);
    return ahead ? -(int64_t)lag : (int64_t)lag;
}

static uint64_t served_now(const struct sched_vcpu *v, uint64_t now)
{
    uint64_t since = vmci_load_relaxed(&v->run_since);
    uint64_t served = vmci_load_relaxed(&v->served);

    return since != 0 && now > since ? served + (now - since) : served;
}

/* What the frame in progress, or one already laid out, will still give. */
static uint64_t in_flight(const struct vmc_sched *s, const struct sched_vcpu *v, uint64_t now)
{
    uint64_t begin = s->start + v->plan_frame * s->frame_ns;
    uint64_t sum = 0;

    if (v->npieces == 0 || now >= begin + s->frame_ns)
        return 0;
    uint64_t t = now > begin ? now - begin : 0;
    for (uint32_t i = 0; i < v->npieces; i++) {
        if (v->piece[i].end > t)
            sum += v->piece[i].end - VMCI_MAX(v->piece[i].start, t);
    }
    return sum;
}

/*
 * What the vCPU will lack at the end of the frame laid out now, were it given nothing in it. A
 * light VM is granted whole slices, so its grants are not extrapolated.
 */
int64_t vmci_sched_lag(const struct vmc_sched *s, const struct sched_vm *m,
                       const struct sched_vcpu *v, uint64_t now)
{
    int64_t lag = (int64_t)(m->g_ns - served_now(v, now)) + v->off - (int64_t)in_flight(s, v, now);

    if (m->cls == CLS_HEAVY)
        lag += (int64_t)(((m->credit >> C_SHIFT) * s->ahead) >> V_SHIFT);
    return lag;
}

/* ---- classes --------------------------------------------------------------------------------- */

void vmci_sched_set_class(struct vmc_sched *s, uint32_t vm, uint32_t cls)
{
    struct sched_vm *m = &s->vm[vm];

    if (m->cls == CLS_HEAVY) {
        uint32_t last = s->heavy[--s->nheavy];
        s->heavy[m->heavy_pos] = last;
        s->vm[last].heavy_pos = m->heavy_pos;
    } else if (m->cls == CLS_LIGHT) {
        int64_t lag = vmci_sched_light_lag(s, m);
        vmci_sched_light_remove(s, vm);
        vmci_store_relaxed(&m->g_ns, m->g_ns + (uint64_t)lag);
    }
    m->cls = cls;
    if (cls == CLS_HEAVY) {
        m->heavy_pos = s->nheavy;
        s->heavy[s->nheavy++] = vm;
    } else if (cls == CLS_LIGHT) {
        m->ve = s->v;
        vmci_sched_light_insert(s, vm);
    }
}

/* ---- the ideal server ------------------------------------------------------------------------ */

/* Ideal less received of a vCPU, with what its light VM has not been granted yet. */
static int64_t fluid_lag(const struct vmc_sched *s, const struct sched_vcpu *v, uint64_t served)
{
    const struct sched_vm *m = &s->vm[v->vm];

    return (int64_t)(m->g_ns - served) + v->off + vmci_sched_light_lag(s, m);
}

/* Let the ideal server run for dt with the entitlements as they are. */
static void serve(struct vmc_sched *s, uint64_t dt)
{
    uint64_t x = (VMCI_MIN(dt, 16 * s->frame_ns) << V_SHIFT) / s->frame_ns; /* frames */

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

/* Give the VM's entitlement to nobody any more: the ideal has caught up with what it received. */
static void end_drain(struct vmc_sched *s, uint32_t i)
{
    struct sched_vcpu *v = &s->vcpu[s->drain[i]];

    s->drain[i] = s->drain[--s->ndrain];
    v->in_fluid = FLUID_OUT;
    s->vm[v->vm].active--;
    s->dirty = true;
}

/* ns until the ideal has caught up with the vCPU, at the present rate */
static uint64_t drain_ns(const struct vmc_sched *s, const struct sched_vcpu *v)
{
    int64_t lag = fluid_lag(s, v, vmci_load_relaxed(&v->served));
    uint64_t c = s->vm[v->vm].credit >> C_SHIFT;

    if (lag >= 0)
        return 0;
    if (c == 0 || (uint64_t)-lag > 64 * s->frame_ns)
        return UINT64_MAX;
    return ((uint64_t)-lag * s->frame_ns) / c + 1;
}

/* Advance the ideal server to time t, through every moment at which one is done with. */
static void advance_to(struct vmc_sched *s, uint64_t t)
{
    while (t > s->at) {
        uint64_t dt = t - s->at;
        uint32_t first = NONE;
        for (uint32_t i = 0; i < s->ndrain; i++) {
            uint64_t need = drain_ns(s, &s->vcpu[s->drain[i]]);
            if (need <= dt) {
                dt = need;
                first = i;
            }
        }
        serve(s, dt);
        if (first == NONE)
            return;
        end_drain(s, first);
        vmci_sched_fill(s);
    }
}

static bool elastic(const struct sched_vm *m)
{
    return !m->no_extra && m->credit < m->cap;
}

/* Give every VM that could go faster this part of a frame's entitlement, V_SHIFT. */
static void add_to_elastic(struct vmc_sched *s, int64_t scale)
{
    for (uint32_t k = 0; k < s->nheavy; k++) {
        struct sched_vm *m = &s->vm[s->heavy[k]];
        if (!elastic(m))
            continue;
        int64_t more = ((int64_t)(m->credit >> C_SHIFT) * scale) / (1 << V_SHIFT);
        vmci_store_relaxed(&m->g_ns, m->g_ns + (uint64_t)more);
    }
    s->v += (uint64_t)scale;
    s->bank += ((int64_t)(s->light_sum >> C_SHIFT) * scale) / (1 << V_SHIFT);
}

/* Time that the host took from us was nobody's: the ideal server did not have it either. */
static void take_back_lost(struct vmc_sched *s)
{
    uint64_t lost = vmci_exchange(&s->lost, (uint64_t)0);
    uint64_t sum = s->light_sum >> C_SHIFT;

    for (uint32_t k = 0; k < s->nheavy; k++)
        sum += (s->vm[s->heavy[k]].credit >> C_SHIFT) * s->vm[s->heavy[k]].active;
    if (lost == 0 || sum == 0)
        return;
    int64_t part = (int64_t)((VMCI_MIN(lost, 16 * sum) << V_SHIFT) / sum);
    for (uint32_t k = 0; k < s->nheavy; k++) {
        struct sched_vm *m = &s->vm[s->heavy[k]];
        int64_t less = ((int64_t)(m->credit >> C_SHIFT) * part) / (1 << V_SHIFT);
        vmci_store_relaxed(&m->g_ns, m->g_ns - (uint64_t)less);
    }
    s->v -= (uint64_t)part;
    s->bank -= ((int64_t)(s->light_sum >> C_SHIFT) * part) / (1 << V_SHIFT);
}

/* What leavers left unclaimed goes to the others, after the CPUs were divided without them. */
static void spread_unclaimed(struct vmc_sched *s)
{
    uint64_t sum = s->light_sum >> C_SHIFT;

    for (uint32_t k = 0; k < s->nheavy; k++)
        if (elastic(&s->vm[s->heavy[k]]))
            sum += (s->vm[s->heavy[k]].credit >> C_SHIFT) * s->vm[s->heavy[k]].active;
    if (sum != 0)
        add_to_elastic(s, (int64_t)(VMCI_MIN(s->unclaimed, 16 * s->frame_ns) << V_SHIFT) /
                              (int64_t)sum);
    s->unclaimed = 0;
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
    vmci_store_relaxed(&e->vcpu, vcpu);
    vmci_store_relaxed(&e->wake, wake ? 1u : 0u);
    vmci_store_release(&e->seq, pos + 1);
}

static void join(struct vmc_sched *s, struct sched_vcpu *v, uint64_t served)
{
    struct sched_vm *m = &s->vm[v->vm];

    if (v->in_fluid == FLUID_DRAINS) { /* still there: it goes on where it was */
        for (uint32_t i = 0; i < s->ndrain; i++)
            if (&s->vcpu[s->drain[i]] == v)
                s->drain[i--] = s->drain[--s->ndrain];
    } else if (v->in_fluid == FLUID_OUT) {
        /* with the lag of a sibling that still drains, for the VM's sake */
        int64_t lag = 0;
        for (uint32_t i = 0; i < s->ndrain; i++) {
            struct sched_vcpu *o = &s->vcpu[s->drain[i]];
            if (o->vm != v->vm)
                continue;
            lag = fluid_lag(s, o, vmci_load_relaxed(&o->served));
            end_drain(s, i--);
        }
        m->active++;
        vmci_store_relaxed(&v->off,
                           (int64_t)(served - m->g_ns) - vmci_sched_light_lag(s, m) + lag);
    } else {
        return;
    }
    v->in_fluid = FLUID_IN;
    vmci_store_relaxed(&s->runnable, s->runnable + 1);
    s->dirty = true;
}

/* Share out a lag over the runnable siblings of the vCPU; false: there is none. */
static bool leave_to_siblings(struct vmc_sched *s, const struct sched_vcpu *v, int64_t lag)
{
    const struct sched_vm *m = &s->vm[v->vm];
    int64_t n = 0;

    for (uint32_t i = 0; i < m->n; i++)
        n += s->vcpu[m->first + i].in_fluid == FLUID_IN;
    for (uint32_t i = 0; i < m->n; i++) {
        struct sched_vcpu *o = &s->vcpu[m->first + i];
        if (o->in_fluid == FLUID_IN)
            vmci_store_relaxed(&o->off, o->off + lag / n);
    }
    return n != 0;
}

/*
 * A vCPU went to sleep. What its VM is ahead or behind stays with the siblings. The last one, if
 * ahead, stays in the ideal system until that has caught up; if behind, its claim lapses and
 * goes to the others (scale_to_room).
 */
static void leave(struct vmc_sched *s, uint32_t vcpu, uint64_t served)
{
    struct sched_vcpu *v = &s->vcpu[vcpu];
    int64_t lag = fluid_lag(s, v, served);

    vmci_store_relaxed(&s->runnable, s->runnable - 1);
    s->dirty = true;
    v->in_fluid = FLUID_OUT;
    if (!leave_to_siblings(s, v, lag) && lag < -(int64_t)s->frame_ns / 256 &&
        s->ndrain < MAX_DRAINS) {
        v->in_fluid = FLUID_DRAINS;
        s->drain[s->ndrain++] = vcpu;
        return;
    }
    s->vm[v->vm].active--;
    if (lag > 0 && s->vm[v->vm].active == 0)
        s->unclaimed += (uint64_t)lag;
}

static void take_event(struct vmc_sched *s, uint32_t vcpu, bool wake, uint64_t served)
{
    struct sched_vcpu *v = &s->vcpu[vcpu];

    if ((vmci_load_acquire(&v->st) & (ST_FREE | ST_DEAD)) != 0)
        return;
    if (wake)
        join(s, v, served);
    else if (v->in_fluid == FLUID_IN)
        leave(s, vcpu, served);
}

static void refresh(struct vmc_sched *s)
{
    if (s->dirty)
        vmci_sched_fill(s);
    if (s->unclaimed != 0)
        spread_unclaimed(s);
}

/* The log overflowed: compare every vCPU with what the planner believes. */
static void take_all(struct vmc_sched *s)
{
    for (uint32_t i = 0; i < s->max_vcpus; i++) {
        struct sched_vcpu *v = &s->vcpu[i];
        bool runnable = (vmci_load_acquire(&v->st) & ST_READY) != 0;
        if (runnable != (v->in_fluid == FLUID_IN))
            take_event(s, i, runnable, vmci_load_relaxed(&v->served));
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
    uint64_t group = waiting / MAX_REPLAYS + 1;

    if (s->at == 0 && waiting != 0) /* it begins with the first wake */
        s->at = VMCI_MIN(vmci_load_relaxed(&s->log[tail % LOG_EVENTS].time), now);
    if (s->at == 0)
        s->at = now;
    for (uint64_t n = 1; n <= waiting; n++) {
        const struct log_event *e = &s->log[tail % LOG_EVENTS];
        if (vmci_load_acquire(&e->seq) != tail + 1)
            break; /* its writer is not done */
        if (n % group == 0 || n == 1) {
            refresh(s);
            advance_to(s, VMCI_MIN(vmci_load_relaxed(&e->time), now));
        }
        take_event(s, vmci_load_relaxed(&e->vcpu), vmci_load_relaxed(&e->wake) != 0,
                   vmci_load_relaxed(&e->served));
        tail++;
    }
    vmci_store_release(&s->log_tail, tail);
    if (vmci_exchange(&s->log_lost, 0u) != 0)
        take_all(s);
    refresh(s);
    advance_to(s, now);
    take_back_lost(s);
    refresh(s);
}

/* No more than this part of the entitlements is taken or added in one frame. */
#define MOST_SCALE ((1 << V_SHIFT) / 8)

/* ---- amounts --------------------------------------------------------------------------------- */

static void add_gang(struct vmc_sched *s, uint32_t vm, uint32_t first, uint32_t n, uint32_t len)
{
    s->gangs[s->ngangs++] = (struct gang){.vm = vm, .first = first, .n = n, .len = len};
}

/* Members much shorter than the longest run on their own, so that the set leaves no big holes. */
static void split_gang(struct vmc_sched *s, uint32_t vm, uint32_t first, uint32_t n, uint32_t len)
{
    uint32_t keep = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct item it = s->items[first + i];
        if (it.amount >= len - len / 16) {
            s->items[first + i] = s->items[first + keep];
            s->items[first + keep++] = it;
        }
    }
    add_gang(s, vm, first, keep, len);
    for (uint32_t i = keep; i < n; i++)
        add_gang(s, vm, first + i, 1, s->items[first + i].amount);
}

/*
 * Lay out, for the frame in preparation, what each vCPU of the VM lacks: at most "most" each and
 * *room altogether.
 */
void vmci_sched_emit(struct vmc_sched *s, uint32_t vm, uint64_t now, uint64_t most, uint64_t *room)
{
    struct sched_vm *m = &s->vm[vm];
    uint32_t first = s->nitems;
    uint32_t longest = 0;
    uint64_t sum = 0;

    if (m->active > 1 && *room < most * m->active)
        most = *room / m->active; /* what there is, for all siblings alike */
    for (uint32_t i = 0; i < m->n; i++) {
        struct sched_vcpu *v = &s->vcpu[m->first + i];
        if (v->in_fluid != FLUID_IN)
            continue;
        int64_t lag = vmci_sched_lag(s, m, v, now);
        if (s->loan != 0 && m->cls == CLS_HEAVY && !m->no_extra && !m->behind)
            lag += (int64_t)(((m->credit >> C_SHIFT) * s->loan) >> V_SHIFT);
        int64_t worst = (int64_t)(6 * s->frame_ns);
        if (lag > worst) { /* its CPUs could not give it that much: forgotten */
            vmci_store_relaxed(&v->off, v->off - (lag - worst));
            lag = worst;
        }
        if (lag < (int64_t)s->min_piece)
            continue;
        uint64_t a = VMCI_MIN((uint64_t)lag, VMCI_MIN(most, *room - sum));
        if (a < s->min_piece)
            continue;
        s->items[s->nitems++] = (struct item){.vcpu = m->first + i, .amount = (uint32_t)a};
        sum += a;
        longest = VMCI_MAX(longest, (uint32_t)a);
    }
    *room -= sum;
    uint32_t n = s->nitems - first;
    m->lag_ns = vmci_sched_light_lag(s, m);
    if (m->cls == CLS_HEAVY)
        vmci_store_relaxed(&m->bias, (int64_t)(((m->credit >> C_SHIFT) * s->ahead) >> V_SHIFT));
    if (m->n > 1)
        vmci_sched_note_skew(s, m, now);
    if (n == 0)
        return;
    if (n == 1 || m->mode == VMC_SCHED_CO_NONE || m->restricted) {
        for (uint32_t i = 0; i < n; i++)
            add_gang(s, vm, first + i, 1, s->items[first + i].amount);
        return;
    }
    split_gang(s, vm, first, n, longest);
}

/*
 * What the heavy class needs in this frame to have received its ideal at the end of it; a vCPU
 * cannot need less than nothing or more than the frame. *scalable: entitlements that can grow.
 */
static uint64_t heavy_need(struct vmc_sched *s, uint64_t now, uint64_t *scalable)
{
    uint64_t need = 0;

    *scalable = 0;
    for (uint32_t k = 0; k < s->nheavy; k++) {
        struct sched_vm *m = &s->vm[s->heavy[k]];
        int64_t much = (int64_t)(m->credit >> C_SHIFT) + (int64_t)s->frame_ns / 8;
        m->behind = false;
        for (uint32_t i = 0; i < m->n; i++) {
            const struct sched_vcpu *v = &s->vcpu[m->first + i];
            if (v->in_fluid == FLUID_OUT)
                continue;
            int64_t want = vmci_sched_lag(s, m, v, now);
            if (want > 0)
                need += VMCI_MIN((uint64_t)want, s->frame_ns - s->base);
            m->behind = m->behind || want > much;
        }
        if (elastic(m))
            *scalable += (m->credit >> C_SHIFT) * m->active;
    }
    return need;
}

/*
 * What the ideal server hands out in a frame is what the CPUs really have: where vCPUs left behind
 * their share or CPUs were lost, the difference is spread over everyone in proportion, but for
 * VMs at a limit or at whole CPUs, which keep theirs. The sum of all lags stays near 0 by this.
 */
static void scale_to_room(struct vmc_sched *s, uint64_t now, uint64_t room)
{
    uint64_t scalable = 0;
    uint64_t light = s->light_sum >> C_SHIFT;
    int64_t bound = 2 * (int64_t)room;
    int64_t due = s->bank + (int64_t)((light * s->ahead) >> V_SHIFT);
    uint64_t need = heavy_need(s, now, &scalable);
    int64_t spare = (int64_t)room - (int64_t)need - VMCI_MAX(VMCI_MIN(due, bound), -bound);
    uint64_t base = scalable + light;

    s->tight = spare < 0;
    s->loan = 0;
    if (base == 0)
        return;
    spare = VMCI_MAX(VMCI_MIN(spare, bound), -bound);
    int64_t scale = (spare * (1 << V_SHIFT)) / (int64_t)base;
    scale = VMCI_MAX(VMCI_MIN(scale, MOST_SCALE), -MOST_SCALE);
    add_to_elastic(s, scale);
    /* room that nobody claims yet is lent to all alike, and comes off what they lack later */
    uint64_t heavy = scalable == 0 ? 1 : scalable;
    int64_t idle = spare - VMCI_MAX(((int64_t)base * scale) / (1 << V_SHIFT), 0);
    s->loan = idle <= 0 ? 0 : VMCI_MIN(((uint64_t)idle << V_SHIFT) / heavy, 1u << V_SHIFT);
}

/*
 * The heavy class takes what it lacks: first those who are entitled to a whole CPU, because they
 * could never make up for a loss, then those who are behind; where the frame does not hold it all,
 * the rest of what the others lack waits in their lag, each frame another's.
 */
static void emit_heavy(struct vmc_sched *s, uint64_t now, uint64_t frame, uint64_t *room)
{
    uint32_t n = s->nheavy;
    uint32_t from = n == 0 || !s->tight ? 0 : (uint32_t)(frame % n);
    uint64_t length = s->frame_ns - s->base;

    for (int pass = 0; pass < 3; pass++) {
        for (uint32_t k = 0; k < n; k++) {
            uint32_t i = from + k < n ? from + k : from + k - n;
            const struct sched_vm *m = &s->vm[s->heavy[i]];
            int turn = m->credit >= m->cap ? 0 : m->behind ? 1 : 2;
            if (turn == pass)
                vmci_sched_emit(s, s->heavy[i], now, length, room);
        }
    }
}

static void lay_out(struct vmc_sched *s, uint64_t now, uint64_t frame)
{
    uint64_t end = s->start + (frame + 1) * s->frame_ns;
    uint64_t room = (uint64_t)s->online * (s->frame_ns - s->base);

    s->nitems = 0;
    s->ngangs = 0;
    s->ahead = ((end - now) << V_SHIFT) / s->frame_ns;
    scale_to_room(s, now, room);
    emit_heavy(s, now, frame, &room);
    if (s->nlight != 0)
        vmci_sched_light_pick(s, now, room);
    vmci_sched_pack(s, frame);
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
        m->used = 0;
        s->ndying--;
    }
}

/* ---- entry points ---------------------------------------------------------------------------- */

/* The frame in progress was laid out when nothing was runnable, and now something is. */
static bool stale(const struct vmc_sched *s, uint64_t planned, uint64_t frame)
{
    return planned == frame && vmci_load_relaxed(&s->runnable) == 0 &&
           vmci_sched_log_waits(s);
}

/*
 * Which frame to lay out now, or USING_NONE. As a rule the next one, half a frame ahead, so that
 * wakes up to then still count; the one in progress if it has no plan, or an empty one.
 */
static uint64_t next_frame(const struct vmc_sched *s, uint64_t now)
{
    uint64_t f = frame_of(s, now);
    uint64_t planned = vmci_load_relaxed(&s->planned);
    bool late = now >= s->start + f * s->frame_ns + s->frame_ns / 2;
    bool missing = planned == USING_NONE || planned < f || stale(s, planned, f);

    if (missing && !late)
        return f;
    if (late && (missing || planned == f))
        return f + 1;
    return USING_NONE;
}

bool vmc_sched_plan(struct vmc_sched *s, uint64_t now)
{
    vmci_lock(&s->plan_lock);
    uint64_t frame = next_frame(s, now);
    if (frame != USING_NONE) {
        uint64_t begin = s->start + frame * s->frame_ns;
        s->base = now > begin ? (uint32_t)(now - begin) : 0;
        if (s->dirty_tree)
            vmci_sched_rebuild_tree(s);
        if (s->dirty)
            vmci_sched_fill(s);
        replay(s, now);
        if (s->ndying != 0)
            reap(s);
        lay_out(s, now, frame);
        vmci_store_release(&s->planned, frame);
    }
    vmci_unlock(&s->plan_lock);
    return frame != USING_NONE;
}

uint64_t vmc_sched_plan_ns(const struct vmc_sched *s)
{
    uint64_t planned = vmci_load_acquire(&s->planned);

    if (planned == USING_NONE)
        return s->start;
    return s->start + planned * s->frame_ns + s->frame_ns / 2;
}

uint64_t vmc_sched_frame_ns(const struct vmc_sched *s)
{
    return s->frame_ns;
}
