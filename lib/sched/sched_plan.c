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

int64_t vmci_sched_lag(const struct vmc_sched *s, const struct sched_vm *m,
                       const struct sched_vcpu *v, uint64_t now)
{
    return (int64_t)(m->g_ns - served_now(v, now)) + v->off - (int64_t)in_flight(s, v, now);
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

/* ---- vCPUs that blocked or woke -------------------------------------------------------------- */

void vmci_sched_push_event(struct vmc_sched *s, uint32_t vcpu)
{
    struct sched_vcpu *v = &s->vcpu[vcpu];

    if (vmci_exchange(&v->evt_queued, 1u) != 0)
        return;
    uint32_t head = vmci_load_relaxed(&s->evt_head);
    do {
        vmci_store_relaxed(&v->evt_next, head);
    } while (!__atomic_compare_exchange_n(&s->evt_head, &head, vcpu, true, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
}

static uint64_t per_frame(const struct vmc_sched *s, uint64_t credit, uint64_t ns)
{
    /* credit < 2^41, ns is cut to 64 frames: below 2^63 */
    ns = VMCI_MIN(ns, 64 * s->frame_ns);
    return ((credit >> C_SHIFT) * ns) / s->frame_ns;
}

/* Lag with which a vCPU comes back: what it was ahead when it left, less what that paid off. */
static int64_t rejoin_lag(const struct vmc_sched *s, const struct sched_vcpu *v,
                          const struct sched_vm *m, uint64_t frame)
{
    uint64_t gone = frame > v->leave_frame ? frame - v->leave_frame : 0;
    int64_t lag = v->leave_lag + (int64_t)per_frame(s, m->hint, gone * s->frame_ns);

    return VMCI_MIN(lag, 0);
}

static int64_t clamp_debt(const struct vmc_sched *s, int64_t lag)
{
    return VMCI_MAX(VMCI_MIN(lag, 0), -(int64_t)(s->frame_ns / 2));
}

static uint64_t begin_of(const struct vmc_sched *s, uint64_t frame)
{
    return s->start + frame * s->frame_ns + s->base;
}

/* Ideal less received now, with what a light VM has not been granted yet. */
static int64_t fluid_lag(const struct vmc_sched *s, const struct sched_vcpu *v, uint64_t now)
{
    const struct sched_vm *m = &s->vm[v->vm];

    return (int64_t)(m->g_ns - served_now(v, now)) + v->off + vmci_sched_light_lag(s, m);
}

/* One more change for the mean of their times, by weight of what they change. */
static void add_mean(struct vmc_sched *s, uint64_t credit, int64_t retro)
{
    int64_t w = (int64_t)(credit >> C_SHIFT) / 16 + 1;

    s->mean_sum += w * retro;
    s->mean_weight += w;
}

static int64_t take_mean(struct vmc_sched *s)
{
    int64_t mean = s->mean_weight == 0 ? 0 : s->mean_sum / s->mean_weight;

    s->mean_sum = 0;
    s->mean_weight = 0;
    return mean;
}

/*
 * Those that slept for a while and are back: the others were entitled to more meanwhile. Divide
 * once without them, for the length of their sleep.
 */
static void settle_slept(struct vmc_sched *s)
{
    if (s->nslept == 0)
        return;
    s->retro = take_mean(s);
    for (uint32_t i = 1; i <= s->nslept; i++)
        s->vm[s->vcpu[s->joined[s->max_vcpus - i]].vm].active--;
    vmci_sched_fill(s);
    for (uint32_t i = 1; i <= s->nslept; i++)
        s->vm[s->vcpu[s->joined[s->max_vcpus - i]].vm].active++;
    s->dirty = true;
}

/* Sort the vCPUs whose state changed into those that joined and those that left. */
static void changed(struct vmc_sched *s, uint32_t vcpu, uint64_t now)
{
    struct sched_vcpu *v = &s->vcpu[vcpu];
    uint32_t st = vmci_load_acquire(&v->st);
    bool runnable = (st & ST_READY) != 0 && (st & ST_DEAD) == 0;
    struct sched_vm *m = &s->vm[v->vm];
    uint64_t idle = vmci_exchange(&v->idle_acc, (uint64_t)0);

    if ((st & (ST_FREE | ST_DEAD)) != 0)
        return;
    if (!v->in_fluid) {
        s->joined[s->njoined++] = vcpu;
        m->active++;
        s->runnable++;
        s->dirty = true;
    } else if (runnable && idle != 0) { /* what it would have got in its sleep went to others */
        int64_t lag = fluid_lag(s, v, now);
        int64_t lost = (int64_t)per_frame(s, m->credit, idle);
        if (lag > 0)
            v->off -= VMCI_MIN(lag, lost);
        if (lag > -lost / 2 && idle > s->frame_ns / 16) { /* else the ideal never let it go */
            add_mean(s, m->credit, (int64_t)VMCI_MIN(idle, 2 * s->frame_ns));
            s->joined[s->max_vcpus - ++s->nslept] = vcpu;
        }
    }
    if (!runnable)
        s->left[s->nleft++] = vcpu;
}

static void drain_events(struct vmc_sched *s, uint64_t now)
{
    uint32_t i = vmci_exchange(&s->evt_head, NONE);

    s->njoined = 0;
    s->nleft = 0;
    s->nslept = 0;
    while (i != NONE) {
        uint32_t next = vmci_load_relaxed(&s->vcpu[i].evt_next);
        (void)vmci_exchange(&s->vcpu[i].evt_queued, 0u); /* before its state is read */
        changed(s, i, now);
        i = next;
    }
}

/* ns from a change to the beginning of the frame, within two frames either way */
static int64_t retro_ns(const struct vmc_sched *s, uint64_t begin, uint64_t t, int64_t late)
{
    int64_t most = (int64_t)(2 * s->frame_ns);

    return VMCI_MAX(VMCI_MIN((int64_t)(begin - t) - late, most), -most);
}

/*
 * Joined vCPUs are entitled from the moment they woke, and the others to less from that moment,
 * not from the next frame.
 */
static void settle_joined(struct vmc_sched *s, uint64_t frame)
{
    uint64_t begin = begin_of(s, frame);

    for (uint32_t i = 0; i < s->njoined; i++) {
        const struct sched_vcpu *v = &s->vcpu[s->joined[i]];
        add_mean(s, s->vm[v->vm].hint, retro_ns(s, begin, vmci_load_relaxed(&v->wake_ns), 0));
    }
    for (uint32_t i = 1; i <= s->nslept; i++)
        add_mean(s, s->vm[s->vcpu[s->joined[s->max_vcpus - i]].vm].hint, 0);
    s->retro = take_mean(s);
    if (s->dirty)
        vmci_sched_fill(s);
    for (uint32_t i = 0; i < s->njoined; i++) {
        struct sched_vcpu *v = &s->vcpu[s->joined[i]];
        struct sched_vm *m = &s->vm[v->vm];
        vmci_store_relaxed(&m->hint, m->credit);
        uint64_t woke = vmci_load_relaxed(&v->wake_ns);
        int64_t since = VMCI_MAX(retro_ns(s, begin, woke, 0), 0);
        int64_t lag = rejoin_lag(s, v, m, frame) + (int64_t)per_frame(s, m->credit, (uint64_t)since);
        v->off = (int64_t)(vmci_load_relaxed(&v->wake_served) - m->g_ns) -
                 vmci_sched_light_lag(s, m) + lag;
        vmci_store_relaxed(&v->in_fluid, 1u);
    }
}

/*
 * A vCPU that left ahead of its ideal counts as leaving when the ideal has caught up with it: the
 * others get what it had from then on. What it left unclaimed is spread over all (scale_to_room).
 */
static void settle_left(struct vmc_sched *s, uint64_t now, uint64_t frame)
{
    uint64_t begin = begin_of(s, frame);

    if (s->nleft == 0)
        return;
    for (uint32_t i = 0; i < s->nleft; i++) {
        struct sched_vcpu *v = &s->vcpu[s->left[i]];
        struct sched_vm *m = &s->vm[v->vm];
        uint64_t t = VMCI_MIN(vmci_load_relaxed(&v->blocked_at), begin);
        /* granted up to begin, but it was runnable up to t only */
        int64_t lag = fluid_lag(s, v, now);
        lag -= (int64_t)per_frame(s, m->credit, begin - t);
        v->leave_lag = clamp_debt(s, lag);
        v->leave_frame = frame;
        uint64_t c = (m->credit >> C_SHIFT) + 1;
        uint64_t debt = (uint64_t)-v->leave_lag;
        add_mean(s, m->credit, retro_ns(s, begin, t, (int64_t)(debt * s->frame_ns / c)));
        vmci_store_relaxed(&v->in_fluid, 0u);
        m->active--;
        s->runnable--;
    }
    s->retro = take_mean(s);
    vmci_sched_fill(s);
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

    for (uint32_t i = 0; i < m->n; i++) {
        struct sched_vcpu *v = &s->vcpu[m->first + i];
        if (!v->in_fluid)
            continue;
        int64_t lag = vmci_sched_lag(s, m, v, now);
        int64_t worst = (int64_t)(2 * s->frame_ns);
        if (lag > worst) { /* its CPUs could not give it that much: forgotten */
            v->off -= lag - worst;
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

/* Entitlement for what is left of the frame. */
static uint64_t part(const struct vmc_sched *s, uint64_t credit)
{
    if (likely(s->base == 0))
        return credit;
    return credit / s->frame_ns * (s->frame_ns - s->base);
}

/*
 * What the heavy class needs in this frame to have received its ideal at the end of it; a vCPU
 * cannot need less than nothing or more than the frame. *scalable: grants of those who can grow.
 */
static uint64_t heavy_need(const struct vmc_sched *s, uint64_t now, uint64_t *scalable)
{
    uint64_t need = 0;

    *scalable = 0;
    for (uint32_t k = 0; k < s->nheavy; k++) {
        const struct sched_vm *m = &s->vm[s->heavy[k]];
        uint64_t c = part(s, m->credit) >> C_SHIFT;
        for (uint32_t i = 0; i < m->n; i++) {
            const struct sched_vcpu *v = &s->vcpu[m->first + i];
            if (!v->in_fluid)
                continue;
            int64_t want = (int64_t)c + vmci_sched_lag(s, m, v, now);
            if (want > 0)
                need += VMCI_MIN((uint64_t)want, s->frame_ns - s->base);
        }
        if (!m->no_extra && m->credit < m->cap)
            *scalable += c * m->active;
    }
    return need;
}

/*
 * Add this frame's entitlement, scaled by 1 + scale / 2^V_SHIFT, to what the VM has been given.
 * VMs at a limit or at whole CPUs keep theirs, as they do in the ideal.
 */
static void grant(struct vmc_sched *s, struct sched_vm *m, int64_t scale)
{
    uint64_t acc = m->g_frac + part(s, m->credit);
    uint64_t ns = acc >> C_SHIFT;

    m->g_frac = (uint32_t)(acc & ((1u << C_SHIFT) - 1));
    if (!m->no_extra && m->credit < m->cap) {
        int64_t more = ((int64_t)ns * scale) / (1 << V_SHIFT);
        int64_t sum = (int64_t)ns + more;
        ns = (uint64_t)VMCI_MAX(sum, 0);
        ns = VMCI_MIN(ns, s->frame_ns - s->base);
    }
    vmci_store_relaxed(&m->g_ns, m->g_ns + ns);
}

/*
 * What the ideal server hands out in a frame is what the CPUs really have: where vCPUs left ahead
 * of or behind their share, the difference is spread over everyone in proportion.
 */
static int64_t scale_to_room(struct vmc_sched *s, uint64_t now, uint64_t room)
{
    uint64_t scalable = 0;
    uint64_t light = part(s, s->light_sum) >> C_SHIFT;
    int64_t bound = 2 * (int64_t)room;
    s->bank = s->nlight == 0 ? 0 : VMCI_MAX(VMCI_MIN(s->bank, bound), -bound);
    uint64_t need = heavy_need(s, now, &scalable);
    int64_t spare = (int64_t)room - (int64_t)(need + light) - s->bank;
    uint64_t base = scalable + light;

    s->tight = spare < 0;
    if (base == 0)
        return 0;
    spare = VMCI_MAX(VMCI_MIN(spare, bound), -bound);
    int64_t scale = (spare * (1 << V_SHIFT)) / (int64_t)base;
    return VMCI_MAX(VMCI_MIN(scale, MOST_SCALE), -MOST_SCALE);
}

/*
 * The heavy class takes what it lacks: first those who are entitled to a whole CPU, because they
 * could never make up for a loss; where the frame does not hold it all, the rest of what the
 * others lack waits in their lag, each frame another's.
 */
static void emit_heavy(struct vmc_sched *s, uint64_t now, uint64_t frame, uint64_t *room)
{
    uint32_t n = s->nheavy;
    uint32_t from = n == 0 ? 0 : (uint32_t)(frame % n);
    uint64_t length = s->frame_ns - s->base;

    for (uint32_t k = 0; k < n; k++) {
        struct sched_vm *m = &s->vm[s->heavy[k]];
        if (m->credit >= m->cap)
            vmci_sched_emit(s, s->heavy[k], now, length, room);
    }
    bool tight = s->tight;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t i = tight ? (from + k < n ? from + k : from + k - n) : k;
        const struct sched_vm *m = &s->vm[s->heavy[i]];
        if (m->credit < m->cap)
            vmci_sched_emit(s, s->heavy[i], now, length, room);
    }
}

static void lay_out(struct vmc_sched *s, uint64_t now, uint64_t frame)
{
    uint64_t room = (uint64_t)s->online * (s->frame_ns - s->base);

    s->nitems = 0;
    s->ngangs = 0;
    int64_t scale = scale_to_room(s, now, room);
    for (uint32_t k = 0; k < s->nheavy; k++)
        grant(s, &s->vm[s->heavy[k]], scale);
    emit_heavy(s, now, frame, &room);
    if (s->nlight != 0)
        vmci_sched_light_pick(s, now, room, scale);
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
            gone = vmci_load_acquire(&v->st) == ST_DEAD && vmci_load_acquire(&v->evt_queued) == 0;
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
           vmci_load_relaxed(&s->evt_head) != NONE;
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
        drain_events(s, now);
        settle_slept(s);
        settle_joined(s, frame);
        settle_left(s, now, frame);
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
