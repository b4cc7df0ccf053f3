/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Amounts: how long each vCPU is to run in the frame that is being laid out.
 */
#include "sched_priv.h"

static void add_gang(struct vmc_sched *s, uint32_t vm, uint32_t first, uint32_t n, uint32_t len)
{
    const struct sched_vm *m = &s->vm[vm];

    s->gangs[s->ngangs++] = (struct gang){.vm = vm,
                                          .first = first,
                                          .n = (uint8_t)n,
                                          .width = (uint8_t)VMCI_MIN(n, s->online),
                                          .len = len,
                                          .strict = m->mode == VMC_SCHED_CO_STRICT,
                                          .restricted = m->restricted != 0};
}

/*
 * Members much shorter than the longest run on their own, so that the set leaves no big holes. But
 * a slice that ended late, as it does on threads, is no reason to part siblings: what one has had
 * too much by that, it lacks now.
 */
static void split_gang(struct vmc_sched *s, uint32_t vm, uint32_t first, uint32_t n, uint32_t len)
{
    uint32_t less = VMCI_MIN(VMCI_MAX(len / 16, (uint32_t)s->frame_ns / UNEVEN), len / 2);
    bool strict = s->vm[vm].mode == VMC_SCHED_CO_STRICT;
    uint32_t keep = 0;

    if (n > s->online && !strict) {
        add_gang(s, vm, first, n, len);
        return;
    }

    for (uint32_t i = 0; i < n; i++) {
        struct item it = s->items[first + i];
        if (it.amount >= len - less) {
            s->items[first + i] = s->items[first + keep];
            s->items[first + keep++] = it;
        }
    }
    for (uint32_t i = 0; i < keep; i += s->online) /* as many as there are CPUs at a time */
        add_gang(s, vm, first + i, VMCI_MIN(s->online, keep - i), len);
    for (uint32_t i = keep; i < n; i++)
        add_gang(s, vm, first + i, 1, s->items[first + i].amount);
}

/* Are its vCPUs entitled to all of a CPU each? They could never make up for a loss. */
static bool whole(const struct sched_vm *m)
{
    return m->credit >= m->cap && m->vcpu_cap >= VMC_SCHED_WHOLE_CPU;
}

/* The vCPU as need_at sees it. */
static struct want want_of(const struct sched_vm *m, uint32_t vcpu, int64_t lag)
{
    return (struct want){.lag = lag,
                         .cap = (int64_t)(m->cap >> C_SHIFT),
                         .vcpu = vcpu,
                         .whole = whole(m),
                         .firm = m->firm};
}

/*
 * What is laid out if "rest" is what each is to lack after the frame: all of it for those who could
 * never make up for a loss; not more than the cap, if it is lent some.
 */
static inline int64_t amount_of(const struct want *w, int64_t rest)
{
    if (rest > 0)
        return w->whole ? w->lag : w->lag - rest;
    int64_t a = w->firm ? w->lag : w->lag - rest;
    return rest < 0 ? VMCI_MIN(a, VMCI_MAX(w->lag, w->cap)) : a;
}

/* The VM lacks so much less; all of it alike, as co-scheduling needs (vmci_sched_level). */
static void forget(struct vmc_sched *s, const struct sched_vm *m, int64_t ns)
{
    for (uint32_t i = 0; i < m->n; i++) {
        struct sched_vcpu *v = &s->vcpu[m->first + i];
        if (v->in_fluid == FLUID_IN)
            vmci_store_relaxed(&v->off, v->off - ns);
    }
}

/*
 * Lay out, for the frame in preparation, what each vCPU of the VM lacks: at most "most" each and
 * *room altogether.
 */
void vmci_sched_emit(struct vmc_sched *s, uint32_t vm, uint64_t now, uint64_t most, uint64_t *room)
{
    struct sched_vm *m = &s->vm[vm];
    struct want *w = m->cls == CLS_HEAVY ? &s->want[m->want_at] : NULL;
    uint32_t first = s->nitems;
    uint32_t longest = 0;
    uint64_t sum = 0;

    if (m->uneven)
        vmci_sched_level(s, m, (int64_t)s->costart / 2);
    if (m->active > 1 && *room < most * m->active)
        most = *room / m->active; /* what there is, for all siblings alike */
    for (uint32_t i = 0; i < m->n; i++) {
        struct sched_vcpu *v = &s->vcpu[m->first + i];
        if (v->in_fluid != FLUID_IN)
            continue;
        struct want *own = w != NULL ? w++ : NULL;
        int64_t lag = own != NULL ? amount_of(own, s->rest) : vcpu_lag(s, m, v, now);
        int64_t worst = (int64_t)(64 * s->frame_ns);
        if (m->restricted && lag > worst) { /* its CPUs could not give it that much: forgotten */
            forget(s, m, lag - worst);
            lag = worst;
        }
        if (lag < (int64_t)s->min_piece)
            continue;
        uint64_t a = VMCI_MIN((uint64_t)lag, VMCI_MIN(most, *room - sum));
        if (a < s->min_piece)
            continue;
        s->items[s->nitems++] = (struct item){.vcpu = m->first + i, .amount = (uint32_t)a};
        v->npieces = 0;
        v->plan_frame = s->frame;
        if (own != NULL)
            own->given = (uint32_t)a;
        sum += a;
        longest = VMCI_MAX(longest, (uint32_t)a);
    }
    *room -= sum;
    uint32_t n = s->nitems - first;
    vmci_store_relaxed(&m->lag_ns, light_lag(s, m));
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

/* The vCPUs of the heavy class, and what they lack. */
static void gather_wants(struct vmc_sched *s, uint64_t now)
{
    uint32_t n = 0;

    for (uint32_t k = 0; k < s->nheavy; k++) {
        struct sched_vm *m = &s->vm[s->heavy[k]];
        m->want_at = n;
        for (uint32_t i = 0; i < m->n; i++) {
            const struct sched_vcpu *v = &s->vcpu[m->first + i];
            if (v->in_fluid == FLUID_IN)
                s->want[n++] = want_of(m, m->first + i, vcpu_lag(s, m, v, now));
        }
    }
    s->nwant = n;
}

/*
 * What would be laid out if each heavy vCPU were left with this lag, and the light class too; and
 * by how much that falls for each ns more of it.
 */
static int64_t need_at(const struct vmc_sched *s, int64_t rest, int64_t light, int64_t *slope)
{
    int64_t length = (int64_t)(s->frame_ns - s->base);
    int64_t sum = VMCI_MAX(light - rest * (int64_t)s->nlight, 0);
    int64_t n = sum != 0 ? (int64_t)s->nlight : 0;

    for (uint32_t k = 0; k < s->nwant; k++) {
        int64_t a = amount_of(&s->want[k], rest);
        n += a > 0 && a < length;
        sum += VMCI_MAX(VMCI_MIN(a, length), 0);
    }
    *slope = n;
    return sum;
}

/* A difference in what is laid out, for each vCPU in it, that is not worth another look, ns. */
#define REST_NS 100

/*
 * Everybody gets what it will lack at the end of the frame, if that just fills the frame. If it is
 * more, each is left lacking the same; if less, each is lent the same, which comes off what it
 * lacks later. The need falls with the rest, in straight pieces: follow them (Newton), but halve
 * the interval where that does not help.
 */
static void find_rest(struct vmc_sched *s, uint64_t room, int64_t light)
{
    int64_t lo = -(int64_t)s->frame_ns;
    int64_t hi = 0;
    int64_t slope;

    for (uint32_t k = 0; k < s->nwant; k++)
        hi = VMCI_MAX(hi, s->want[k].lag);
    int64_t over = need_at(s, 0, light, &slope) - (int64_t)room;
    int64_t at = 0;
    s->tight = over > 0;
    if (s->tight)
        lo = 0;
    else
        hi = 0;
    for (uint32_t i = 0; i < 32 && hi - lo > REST_NS; i++) {
        if (over <= 0 && over >= -REST_NS * (slope + 1))
            break;
        int64_t step = slope != 0 ? over / slope + (over > 0) : 0;
        at += step;
        if (step == 0 || at <= lo || at >= hi || i % 4 == 3)
            at = lo + (hi - lo) / 2;
        over = need_at(s, at, light, &slope) - (int64_t)room;
        if (over > 0)
            lo = at;
        else
            hi = at;
    }
    s->rest = hi;
}

/* While nobody blocks or wakes, who lacks most is found in each so-manyth frame only. */
#define NAMES_KEPT 16u

/* The fillers while they are chosen: a heap, the one that lacks least on top. */
struct fillers {
    uint32_t n;
    struct {
        int64_t lag;
        uint32_t vcpu;
    } e[FILL_FIRST];
};

static void filler_add(struct fillers *f, uint32_t vcpu, int64_t lag)
{
    uint32_t at = f->n;

    if (at < FILL_FIRST) {
        for (f->n++; at > 0 && f->e[(at - 1) / 2].lag > lag; at = (at - 1) / 2)
            f->e[at] = f->e[(at - 1) / 2];
    } else if (lag <= f->e[0].lag) {
        return;
    } else {
        uint32_t child = 1;
        for (at = 0; child < FILL_FIRST; child = 2 * at + 1) {
            child += child + 1 < FILL_FIRST && f->e[child + 1].lag < f->e[child].lag;
            if (f->e[child].lag >= lag)
                break;
            f->e[at] = f->e[child];
            at = child;
        }
    }
    f->e[at].lag = lag;
    f->e[at].vcpu = vcpu;
}

/* Name those that will lack most even after the frame: they come first where it has holes. */
static void name_fillers(struct vmc_sched *s, uint64_t now)
{
    struct fillers f;
    uint32_t nlight = VMCI_MIN(s->heap_n, FILL_FIRST / 2); /* the first deadlines */

    f.n = 0;
    for (uint32_t k = 0; k < s->nwant; k++)
        filler_add(&f, s->want[k].vcpu, s->want[k].lag - s->want[k].given);
    for (uint32_t k = 0; k < nlight; k++) {
        struct sched_vm *m = &s->vm[s->heap[k].vm];
        int64_t more = light_lag(s, m) + (int64_t)(((m->credit >> C_SHIFT) * s->ahead) >> V_SHIFT);
        vmci_store_relaxed(&m->bias, more);
        for (uint32_t i = 0; i < m->n; i++) {
            const struct sched_vcpu *v = &s->vcpu[m->first + i];
            if (v->in_fluid == FLUID_IN) /* the lag: less the pieces laid out for it */
                filler_add(&f, m->first + i, vcpu_lag(s, m, v, now) + more);
        }
    }
    for (uint32_t i = 0; i < f.n; i++)
        vmci_store_relaxed(&s->fill_first[i], f.e[i].vcpu);
    vmci_store_relaxed(&s->nfill_first, f.n);
}

/* First those who are entitled to a whole CPU, because they could never make up for a loss. */
static void emit_heavy(struct vmc_sched *s, uint64_t now, uint64_t frame, uint64_t *room)
{
    uint32_t n = s->nheavy;
    uint32_t from = n == 0 || !s->tight ? 0 : (uint32_t)(frame % n);
    uint64_t length = s->frame_ns - s->base;

    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t k = 0; k < n; k++) {
            uint32_t i = from + k < n ? from + k : from + k - n;
            const struct sched_vm *m = &s->vm[s->heavy[i]];
            if (whole(m) == (pass == 0))
                vmci_sched_emit(s, s->heavy[i], now, length, room);
        }
    }
}

/* vCPUs that are to have a CPU for the whole frame: entitled to it, or so far behind. */
static uint64_t whole_cpus(const struct vmc_sched *s)
{
    int64_t far = (int64_t)(s->frame_ns + s->sigma);
    uint64_t sum = 0;

    for (uint32_t k = 0; k < s->nwant; k++)
        sum += s->want[k].lag >= far || s->want[k].whole;
    return sum;
}

void vmci_sched_lay_out(struct vmc_sched *s, uint64_t now, uint64_t frame)
{
    uint64_t end = s->start + (frame + 1) * s->frame_ns;
    uint64_t room = (uint64_t)s->online * (s->frame_ns - s->base);

    s->nitems = 0;
    s->ngangs = 0;
    s->frame = frame;
    s->ahead = ((end - now) << V_SHIFT) / s->frame_ns;
    int64_t light = s->bank + (int64_t)(((s->light_sum >> C_SHIFT) * s->ahead) >> V_SHIFT);
    gather_wants(s, now);
    find_rest(s, room, light);
    if (s->nlight != 0) {
        int64_t allot = light - VMCI_MAX(s->rest, 0) * (int64_t)s->nlight;
        uint64_t kept = VMCI_MIN(whole_cpus(s) * (s->frame_ns - s->base), room);
        uint64_t rest = room - kept;
        vmci_sched_light_pick(s, now, (uint64_t)VMCI_MAX(allot, 0), false, &rest);
        room = kept + rest;
        find_rest(s, room, 0);
    }
    emit_heavy(s, now, frame, &room);
    if (s->nlight != 0) {
        vmci_sched_light_pick(s, now, room, true, &room);
        vmci_sched_light_end(s);
    }
    vmci_sched_pack(s, frame);
    if (s->changed || frame % NAMES_KEPT == 0)
        name_fillers(s, now);
}
