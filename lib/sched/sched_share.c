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

/* rate = w * level; the product stays below total << LEVEL_SHIFT, see the caller. */
#define LEVEL_SHIFT 13

/* Scale lo (which sum to more than total) down to total. */
static void scale_down(const uint64_t *lo, uint64_t *out, uint32_t n, uint64_t total, uint64_t sum)
{
    uint64_t ratio = (total << LEVEL_SHIFT) / sum;

    for (uint32_t i = 0; i < n; i++)
        out[i] = (lo[i] * ratio) >> LEVEL_SHIFT;
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
        fixed[i] = 0;
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
        uint64_t level = (left << LEVEL_SHIFT) / weight;
        for (uint32_t i = 0; i < n; i++) {
            if (fixed[i] != 0)
                continue;
            out[i] = (w[i] * level) >> LEVEL_SHIFT;
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

/* What each node can use and must get, children before parents. */
static void gather_bounds(struct vmc_sched *s)
{
    for (uint32_t i = 0; i < s->nvms; i++) {
        struct sched_vm *m = &s->vm[s->vms_list[i]];
        uint64_t want = VMCI_MIN(m->cap * m->active, m->hi_affinity);
        clamp_share(s, &m->share, want, 0, &m->lo, &m->hi);
    }
    for (uint32_t k = s->norder; k-- > 0;) {
        struct sched_group *g = &s->group[s->order[k]];
        uint64_t want = 0;
        uint64_t least = 0;

        for (uint32_t i = g->child_first; i < g->child_end; i++) {
            uint32_t c = s->children[i];
            bool is_group = (c & GROUP_BIT) != 0;
            want += is_group ? s->group[c & ~GROUP_BIT].hi : s->vm[c].hi;
            least += is_group ? s->group[c & ~GROUP_BIT].lo : s->vm[c].lo;
        }
        clamp_share(s, &g->share, want, least, &g->lo, &g->hi);
    }
}

static void divide_group(struct vmc_sched *s, const struct sched_group *g)
{
    uint32_t n = 0;

    for (uint32_t i = g->child_first; i < g->child_end; i++) {
        uint32_t c = s->children[i];
        if ((c & GROUP_BIT) != 0) {
            const struct sched_group *sub = &s->group[c & ~GROUP_BIT];
            s->wf_w[n] = sub->share.shares;
            s->wf_lo[n] = sub->lo;
            s->wf_hi[n] = sub->hi;
        } else {
            s->wf_w[n] = s->vm[c].share.shares;
            s->wf_lo[n] = s->vm[c].lo;
            s->wf_hi[n] = s->vm[c].hi;
        }
        if (s->wf_hi[n] == 0)
            s->wf_w[n] = 0;
        n++;
    }
    divide(s->wf_w, s->wf_lo, s->wf_hi, s->wf_out, s->wf_fixed, n, g->rate);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t c = s->children[g->child_first + i];
        uint64_t r = s->wf_hi[i] == 0 ? 0 : VMCI_MIN(s->wf_out[i], s->wf_hi[i]);
        if ((c & GROUP_BIT) != 0)
            s->group[c & ~GROUP_BIT].rate = r;
        else
            s->vm[c].rate = r;
    }
}

static void divide_tree(struct vmc_sched *s)
{
    uint64_t all = ((uint64_t)s->online * s->frame_ns) << C_SHIFT;

    gather_bounds(s);
    s->group[VMC_SCHED_ROOT].rate = VMCI_MIN(all, s->group[VMC_SCHED_ROOT].hi);
    for (uint32_t k = 0; k < s->norder; k++) {
        struct sched_group *g = &s->group[s->order[k]];
        bool own = g->share.limit != 0 && g->hi == to_frame(s, g->share.limit);
        g->limited = (own && g->rate >= g->hi) ||
                     (g->parent != NONE && s->group[g->parent].limited);
        divide_group(s, g);
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
        if (!m->restricted || m->rate == 0)
            continue;
        const uint64_t *mask = vm_mask(s, s->vms_list[i]);
        uint64_t room = ((uint64_t)mask_cpus(s, mask) * s->frame_ns) << C_SHIFT;
        uint64_t sum = 0;
        for (uint32_t j = 0; j < s->nvms; j++)
            if (s->vm[s->vms_list[j]].restricted &&
                mask_within(s, vm_mask(s, s->vms_list[j]), mask))
                sum += s->vm[s->vms_list[j]].rate;
        if (sum <= room + s->nvms)
            continue;
        uint64_t ratio = (room << 10) / (sum >> 3); /* 13 fraction bits */
        for (uint32_t j = 0; j < s->nvms; j++) {
            struct sched_vm *o = &s->vm[s->vms_list[j]];
            if (!o->restricted || !mask_within(s, vm_mask(s, s->vms_list[j]), mask))
                continue;
            o->hi_affinity = (o->rate * ratio) >> 13;
            o->rate = o->hi_affinity;
        }
        capped = true;
    }
    return capped;
}

/* Light: a whole frame's entitlement of one vCPU is shorter than the smallest useful slice. */
static void apply_rate(struct vmc_sched *s, uint32_t vm)
{
    struct sched_vm *m = &s->vm[vm];
    uint64_t old = m->credit;
    uint64_t credit = m->active == 0 ? 0 : m->rate / m->active;

    if (m->active != 0 && credit == 0)
        credit = 1;
    if (credit != 0)
        vmci_store_relaxed(&m->hint, credit);
    bool limited = m->active != 0 && ((m->hi < m->cap * m->active && m->rate >= m->hi) ||
                                      s->group[m->parent].limited);
    vmci_store_relaxed(&m->no_extra, limited || m->vcpu_cap < VMC_SCHED_WHOLE_CPU);
    uint32_t cls = m->active == 0                          ? CLS_IDLE
                   : limited || credit >= s->sigma << C_SHIFT ? CLS_HEAVY
                                                           : CLS_LIGHT;
    if (cls != m->cls) {
        bool was_light = m->cls == CLS_LIGHT; /* its lag is in terms of the old credit */
        if (was_light)
            vmci_sched_set_class(s, vm, CLS_IDLE);
        vmci_store_relaxed(&m->credit, credit);
        vmci_sched_set_class(s, vm, cls);
        return;
    }
    vmci_store_relaxed(&m->credit, credit);
    if (credit == old)
        return;
    if (cls == CLS_LIGHT)
        vmci_sched_light_rekey(s, vm, old);
}

void vmci_sched_fill(struct vmc_sched *s)
{
    for (uint32_t i = 0; i < s->nvms; i++)
        s->vm[s->vms_list[i]].hi_affinity = UINT64_MAX;
    divide_tree(s);
    for (uint32_t pass = 0; pass < 4 && s->nrestricted != 0 && cap_restricted(s); pass++)
        divide_tree(s);
    s->light_sum = 0;
    s->nlight = 0;
    s->bank = 0;
    for (uint32_t i = 0; i < s->nvms; i++) {
        uint32_t vm = s->vms_list[i];
        apply_rate(s, vm);
        if (s->vm[vm].cls == CLS_LIGHT) {
            s->light_sum += s->vm[vm].credit * s->vm[vm].active;
            s->nlight++;
            s->bank += vmci_sched_light_lag(s, &s->vm[vm]) * (int64_t)s->vm[vm].active;
        }
    }
    s->dirty = false;
}

/* children[] and order[] from the parent links. */
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
    for (uint32_t i = 0; i < s->nvms; i++)
        s->children[s->group[s->vm[s->vms_list[i]].parent].child_end++] = s->vms_list[i];
    for (uint32_t k = 1; k < s->norder; k++)
        s->children[s->group[s->group[s->order[k]].parent].child_end++] = s->order[k] | GROUP_BIT;
    s->dirty_tree = false;
    s->dirty = true;
}
