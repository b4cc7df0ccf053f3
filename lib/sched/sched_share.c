/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Entitlements: how the CPUs divide over the tree of groups and VMs.
 *
 * Each level is filled like vessels of width "shares": the level of the water is the same for all
 * children, except those whose reservation lifts them above it or whose limit (or number of
 * runnable vCPUs) keeps them below (weighted max-min fairness; Bertsekas and Gallager, Data
 * Networks, 6.5.2). The unit is CPU ns per frame with C_SHIFT fraction bits.
 */
#include "sched_priv.h"

/* total / weight, with enough fraction bits that the rates below add up to total. */
#define LEVEL_SHIFT 40

struct level {
    uint64_t whole, frac;
};

/* weight < 2^44, so that no shifted remainder overflows */
static struct level level_of(uint64_t total, uint64_t weight)
{
    uint64_t r = total % weight;
    uint64_t high = (r << (LEVEL_SHIFT / 2)) / weight;
    uint64_t low = (((r << (LEVEL_SHIFT / 2)) % weight) << (LEVEL_SHIFT / 2)) / weight;

    return (struct level){.whole = total / weight, .frac = (high << (LEVEL_SHIFT / 2)) | low};
}

static uint64_t at_level(uint64_t w, struct level l)
{
    return w * l.whole + (uint64_t)(((unsigned __int128)w * l.frac) >> LEVEL_SHIFT);
}

/* Scale lo (which sum to more than total) down to total. */
static void scale_down(const uint64_t *lo, uint64_t *out, uint32_t n, uint64_t total, uint64_t sum)
{
    struct level ratio = level_of(total >> 8, (sum >> 8) + 1); /* sum < 2^52 */

    for (uint32_t i = 0; i < n; i++)
        out[i] = at_level(lo[i], ratio);
}

/*
 * Divide total over n children of weight w[i], each between lo[i] and hi[i]. Every round fixes at
 * least one child, so there are at most n; two or three are usual.
 */
static void divide(const uint64_t *w, const uint64_t *lo, const uint64_t *hi, uint64_t *out,
                   uint8_t *fixed, uint32_t n, uint64_t total)
{
    uint64_t sum_lo = 0;
    uint64_t sum_hi = 0;

    for (uint32_t i = 0; i < n; i++) {
        fixed[i] = hi[i] == 0;
        out[i] = 0;
        sum_lo += lo[i];
        sum_hi += hi[i];
    }
    if (sum_hi <= total) {
        for (uint32_t i = 0; i < n; i++)
            out[i] = hi[i];
        return;
    }
    if (sum_lo >= total) {
        scale_down(lo, out, n, total, sum_lo);
        return;
    }
    for (uint32_t round = 0; round <= n; round++) {
        uint64_t left = total;
        uint64_t weight = 0;
        uint64_t over = 0;
        uint64_t under = 0;

        for (uint32_t i = 0; i < n; i++) {
            if (fixed[i] != 0)
                left -= out[i];
            else
                weight += w[i];
        }
        if (weight == 0)
            return;
        struct level level = level_of(left, weight);
        for (uint32_t i = 0; i < n; i++) {
            if (fixed[i] != 0)
                continue;
            out[i] = at_level(w[i], level);
            if (out[i] > hi[i])
                over += out[i] - hi[i];
            else if (out[i] < lo[i])
                under += lo[i] - out[i];
        }
        if (over == 0 && under == 0)
            return;
        for (uint32_t i = 0; i < n; i++) {
            if (fixed[i] != 0)
                continue;
            if (over >= under && out[i] > hi[i]) {
                out[i] = hi[i];
                fixed[i] = 1;
            } else if (over < under && out[i] < lo[i]) {
                out[i] = lo[i];
                fixed[i] = 1;
            }
        }
    }
}

static uint64_t to_frame(const struct vmc_sched *s, uint64_t rate)
{
    /* rate <= 1024 CPUs of 10^6, frame <= 10^7 ns: below 2^54 before the shift */
    return ((rate * s->frame_ns) / VMC_SCHED_WHOLE_CPU) << C_SHIFT;
}

static void clamp_share(const struct vmc_sched *s, const struct vmc_sched_share *sh, uint64_t want,
                        uint64_t least, uint64_t *lo, uint64_t *hi)
{
    uint64_t resv = to_frame(s, sh->reservation);

    *hi = want;
    if (sh->limit != 0)
        *hi = VMCI_MIN(*hi, to_frame(s, sh->limit));
    *lo = VMCI_MIN(VMCI_MAX(resv, least), *hi);
}

/* What the VM can use and must get, anew. */
static void bound_vm(struct vmc_sched *s, struct sched_vm *m)
{
    uint64_t want = VMCI_MIN(m->cap * m->active, m->hi_affinity);

    clamp_share(s, &m->share, want, 0, &s->child_lo[m->slot], &s->child_hi[m->slot]);
    s->group[m->parent].touched = true;
}

void vmci_sched_set_active(struct vmc_sched *s, struct sched_vm *m, uint32_t active)
{
    vmci_store_relaxed(&m->active, active);
    if (!s->dirty_tree) /* else it has no place yet */
        bound_vm(s, m);
}

/* All entitlements may have changed. */
void vmci_sched_touch_all(struct vmc_sched *s)
{
    for (uint32_t i = 0; i < s->nvms; i++) {
        struct sched_vm *m = &s->vm[s->vms_list[i]];
        s->child_w[m->slot] = m->share.shares;
        bound_vm(s, m);
    }
    for (uint32_t k = 0; k < s->norder; k++) {
        struct sched_group *g = &s->group[s->order[k]];
        if (g->parent != NONE)
            s->child_w[g->slot] = g->share.shares;
        g->touched = true;
    }
}

/* What each group can use and must get, children before parents; those that did not change keep
 * theirs. */
static void gather_bounds(struct vmc_sched *s)
{
    for (uint32_t k = s->norder; k-- > 0;) {
        struct sched_group *g = &s->group[s->order[k]];
        uint64_t want = 0;
        uint64_t least = 0;
        uint64_t lo, hi;

        if (!g->touched)
            continue;
        for (uint32_t i = g->child_first; i < g->child_end; i++) {
            want += s->child_hi[i];
            least += s->child_lo[i];
        }
        clamp_share(s, &g->share, want, least, &lo, &hi);
        g->hi = hi;
        if (g->parent == NONE || (s->child_lo[g->slot] == lo && s->child_hi[g->slot] == hi))
            continue;
        s->child_lo[g->slot] = lo;
        s->child_hi[g->slot] = hi;
        s->group[g->parent].touched = true;
    }
}

/*
 * From the root down. A group whose children can use what they could before, and which has the same
 * rate as before, is divided as before: a change of one VM costs what its pools have children.
 */
static void divide_tree(struct vmc_sched *s)
{
    uint64_t all = (((uint64_t)s->online * s->frame_ns) << C_SHIFT) - s->cut;

    gather_bounds(s);
    s->divisions++;
    for (uint32_t k = 0; k < s->norder; k++) {
        struct sched_group *g = &s->group[s->order[k]];
        bool root = g->parent == NONE;
        bool own = g->share.limit != 0 && g->hi == to_frame(s, g->share.limit);
        uint64_t rate = root ? VMCI_MIN(all, g->hi) : s->child_rate[g->slot];
        bool limited = (own && rate >= g->hi) || (!root && s->group[g->parent].limited);
        g->bounded = g->share.limit != 0 || (!root && s->group[g->parent].bounded);
        g->divided |= limited != g->limited;
        g->limited = limited;
        if (!g->touched && g->rate == rate)
            continue;
        g->touched = false;
        g->divided = true;
        g->division = s->divisions;
        g->rate = rate;
        uint32_t i = g->child_first;
        uint32_t n = g->child_end - i;
        divide(&s->child_w[i], &s->child_lo[i], &s->child_hi[i], &s->child_rate[i], s->wf_fixed, n,
               rate);
        for (; i < g->child_end; i++)
            s->child_rate[i] = VMCI_MIN(s->child_rate[i], s->child_hi[i]);
    }
}

/* CPUs of the mask that are on line. */
static uint32_t mask_cpus(const struct vmc_sched *s, const uint64_t *mask)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->online; i++)
        if (vmci_bit_test(mask, s->col_cpu[i]))
            n++;
    return n;
}

static bool mask_within(const struct vmc_sched *s, const uint64_t *a, const uint64_t *b)
{
    for (uint32_t w = 0; w < s->mask_words; w++)
        if ((a[w] & ~b[w]) != 0)
            return false;
    return true;
}

/*
 * The VMs confined to a set of CPUs cannot together use more than those CPUs give. Where the tree
 * gave them more, cap each in proportion; the rest then goes to the others. True if any was capped.
 */
static bool cap_restricted(struct vmc_sched *s)
{
    bool capped = false;

    for (uint32_t i = 0; i < s->nvms; i++) {
        struct sched_vm *m = &s->vm[s->vms_list[i]];
        if (!m->restricted || s->child_rate[m->slot] == 0)
            continue;
        const uint64_t *mask = vm_mask(s, s->vms_list[i]);
        uint64_t room = ((uint64_t)mask_cpus(s, mask) * s->frame_ns) << C_SHIFT;
        uint64_t sum = 0;
        for (uint32_t j = 0; j < s->nvms; j++)
            if (s->vm[s->vms_list[j]].restricted &&
                mask_within(s, vm_mask(s, s->vms_list[j]), mask))
                sum += s->child_rate[s->vm[s->vms_list[j]].slot];
        if (sum <= room + s->nvms)
            continue;
        uint64_t ratio = (room << 10) / (sum >> 3); /* 13 fraction bits */
        for (uint32_t j = 0; j < s->nvms; j++) {
            struct sched_vm *o = &s->vm[s->vms_list[j]];
            if (!o->restricted || !mask_within(s, vm_mask(s, s->vms_list[j]), mask))
                continue;
            o->hi_affinity = (s->child_rate[o->slot] * ratio) >> 13;
            s->child_rate[o->slot] = o->hi_affinity;
            bound_vm(s, o);
        }
        capped = true;
    }
    return capped;
}

/*
 * While s->ago is not 0, who was in the ideal system before is credited with what it has now, and
 * had not then, for that long; with s->cut, it loses what it had and has not now. C_SHIFT.
 */
static int64_t credit_back(const struct vmc_sched *s, uint64_t old, uint64_t credit)
{
    uint64_t diff = s->cut != 0 ? old - credit : credit - old;

    if (s->ago == 0 || old == 0 || credit == 0 || (int64_t)diff <= 0)
        return 0;
    uint64_t more = (uint64_t)(((unsigned __int128)diff * s->ago) >> V_SHIFT);
    more = VMCI_MIN(more, (uint64_t)1 << 43);
    return s->cut != 0 ? -(int64_t)more : (int64_t)more;
}

/* The ideal of who sleeps is already received: it is not to be changed with that of its siblings.
 */
static void spare_drains(struct vmc_sched *s, const struct sched_vm *m, int64_t more)
{
    for (uint32_t i = 0; i < m->n; i++) {
        struct sched_vcpu *v = &s->vcpu[m->first + i];
        if (v->in_fluid == FLUID_DRAINS)
            vmci_store_relaxed(&v->off, v->off - (more >> C_SHIFT));
    }
}

/* A change of the ideal, with its fraction. */
static void add_ideal(struct sched_vm *m, int64_t more)
{
    int64_t acc = (int64_t)m->g_frac + more;

    m->g_frac = (uint32_t)((uint64_t)acc & ((1u << C_SHIFT) - 1));
    vmci_store_relaxed(&m->g_ns, m->g_ns + (uint64_t)(acc >> C_SHIFT));
}

/* Each vCPU of the VM should have had so much more (C_SHIFT). */
void vmci_sched_add_ideal(struct vmc_sched *s, uint32_t vm, int64_t more)
{
    struct sched_vm *m = &s->vm[vm];

    if (m->cls == CLS_LIGHT)
        vmci_sched_light_rekey(s, vm, m->credit, more);
    else
        add_ideal(m, more);
}

/* Light: a whole frame's entitlement of one vCPU is shorter than the smallest useful slice. */
static void apply_rate(struct vmc_sched *s, uint32_t vm)
{
    struct sched_vm *m = &s->vm[vm];
    uint64_t old = m->credit;
    uint64_t rate = s->child_rate[m->slot];
    uint64_t hi = s->child_hi[m->slot];
    uint64_t credit = m->active == 0 ? 0 : rate / m->active;

    if (m->active != 0 && credit == 0)
        credit = 1;
    if (credit != 0)
        vmci_store_relaxed(&m->hint, credit);
    int64_t more = credit_back(s, old, credit);
    if (more < 0)
        spare_drains(s, m, more);
    bool capped = m->vcpu_cap < VMC_SCHED_WHOLE_CPU;
    bool limited = m->active != 0 && (((capped || hi < m->cap * m->active) && rate >= hi) ||
                                      s->group[m->parent].limited);
    vmci_store_relaxed(&m->no_extra, limited);
    m->firm = limited;
    vmci_store_relaxed(&m->bounded, capped || m->share.limit != 0 || s->group[m->parent].bounded);
    uint32_t cls = m->active == 0                             ? CLS_IDLE
                   : limited || credit >= s->sigma << C_SHIFT ? CLS_HEAVY
                                                              : CLS_LIGHT;
    if (cls != m->cls) {
        bool was_light = m->cls == CLS_LIGHT; /* its lag is in terms of the old credit */
        if (was_light)
            vmci_sched_set_class(s, vm, CLS_IDLE);
        vmci_store_relaxed(&m->credit, credit);
        vmci_sched_set_class(s, vm, cls);
        add_ideal(m, more);
        return;
    }
    vmci_store_relaxed(&m->credit, credit);
    if (cls == CLS_LIGHT && credit != old)
        vmci_sched_light_rekey(s, vm, old, more);
    else if (more != 0)
        add_ideal(m, more);
}

/* The rates of all VMs, for the vCPUs that are active in them. */
void vmci_sched_divide(struct vmc_sched *s)
{
    for (uint32_t i = 0; i < s->nvms && s->nrestricted != 0; i++) {
        struct sched_vm *m = &s->vm[s->vms_list[i]];
        m->hi_affinity = UINT64_MAX;
        if (m->restricted)
            bound_vm(s, m);
    }
    divide_tree(s);
    for (uint32_t pass = 0; pass < 4 && s->nrestricted != 0 && cap_restricted(s); pass++)
        divide_tree(s);
}

/* Divide the CPUs, and let all VMs whose pools were divided anew go on with what they have now. */
void vmci_sched_fill(struct vmc_sched *s)
{
    vmci_sched_divide(s);
    for (uint32_t k = 0; k < s->norder; k++) {
        struct sched_group *g = &s->group[s->order[k]];
        bool divided = g->divided || s->nrestricted != 0;
        g->divided = false;
        for (uint32_t i = g->child_first; divided && i < g->vms_end; i++)
            apply_rate(s, s->child_vm[i]);
    }
    s->dirty = false;
    s->ago = 0;
    s->resum = true;
}

/* What the VMs of the light class are entitled to, and are owed, altogether. */
void vmci_sched_sum_light(struct vmc_sched *s)
{
    s->light_sum = 0;
    s->nlight = 0;
    s->bank = 0;
    for (uint32_t i = 0; i < s->nvms; i++) {
        const struct sched_vm *m = &s->vm[s->vms_list[i]];
        if (m->cls != CLS_LIGHT)
            continue;
        s->light_sum += m->credit * m->active;
        s->nlight++;
        s->bank += light_lag(s, m) * (int64_t)m->active;
    }
    s->resum = false;
}

/* The places of children and order[] from the parent links. */
void vmci_sched_rebuild_tree(struct vmc_sched *s)
{
    uint32_t n = 0;

    s->norder = 0;
    s->nvms = 0;
    for (uint32_t d = 0; d <= VMC_SCHED_MAX_DEPTH; d++)
        for (uint32_t g = 0; g <= s->max_groups; g++)
            if (s->group[g].used && s->group[g].depth == d)
                s->order[s->norder++] = g;
    for (uint32_t vm = 0; vm < s->max_vms; vm++)
        if (s->vm[vm].used == 1)
            s->vms_list[s->nvms++] = vm;
    for (uint32_t g = 0; g <= s->max_groups; g++)
        s->group[g].child_first = 0;
    for (uint32_t i = 0; i < s->nvms; i++)
        s->group[s->vm[s->vms_list[i]].parent].child_first++;
    for (uint32_t k = 1; k < s->norder; k++)
        s->group[s->group[s->order[k]].parent].child_first++;
    for (uint32_t k = 0; k < s->norder; k++) { /* counts to positions */
        struct sched_group *g = &s->group[s->order[k]];
        uint32_t count = g->child_first;
        g->child_first = n;
        g->child_end = n;
        n += count;
    }
    for (uint32_t i = 0; i < s->nvms; i++) {
        struct sched_vm *m = &s->vm[s->vms_list[i]];
        m->slot = s->group[m->parent].child_end++;
        s->child_vm[m->slot] = s->vms_list[i];
    }
    for (uint32_t k = 0; k < s->norder; k++)
        s->group[s->order[k]].vms_end = s->group[s->order[k]].child_end;
    for (uint32_t k = 1; k < s->norder; k++) {
        struct sched_group *g = &s->group[s->order[k]];
        g->slot = s->group[g->parent].child_end++;
        s->child_lo[g->slot] = s->child_hi[g->slot] = 0;
    }
    s->nchildren = n;
    s->dirty_tree = false;
    s->dirty = true;
}
