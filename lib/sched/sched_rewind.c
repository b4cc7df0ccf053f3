/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vCPU that goes to sleep with less than its ideal had finished earlier there, which nobody could
 * know before. The ideal is wound back through the changes since, to the moment at which it had
 * given the vCPU what it really received, and everybody else is credited with what the divisions
 * without it would have been. As every such division is a possible one, nobody is ever credited
 * with more than the CPUs could have given.
 *
 * Who left in the meantime would then have finished earlier still, and is wound back in turn.
 */
#include "sched_priv.h"

/* What one that left was given beyond its work is worth winding back from here on, ns. */
#define LEAST_EXCESS 1000u

void vmci_sched_note_change(struct vmc_sched *s, uint32_t vcpu, bool joined)
{
    if (s->npast == PAST_CHANGES) { /* forget the older half */
        s->npast /= 2;
        memmove(s->past, s->past + s->npast, s->npast * sizeof(s->past[0]));
    }
    s->past[s->npast++] = (struct past_change){.time = s->at, .vcpu = vcpu, .joined = joined};
    if (joined)
        s->vcpu[vcpu].joined_at = s->at;
}

static struct sched_vm *vm_of(const struct vmc_sched *s, uint32_t vcpu)
{
    return &s->vm[s->vcpu[vcpu].vm];
}

static void undo(struct vmc_sched *s, uint32_t k)
{
    const struct past_change *c = &s->past[k];
    struct sched_vcpu *v = &s->vcpu[c->vcpu];
    struct sched_vm *m = vm_of(s, c->vcpu);

    vmci_sched_set_active(s, m, c->joined ? m->active - 1 : m->active + 1);
    if (c->joined) {
        m->left -= v->leaves != NONE;
        v->leaves = NONE;
    } else {
        m->left++;
        v->leaves = k;
    }
}

static void redo(struct vmc_sched *s, uint32_t k)
{
    const struct past_change *c = &s->past[k];
    struct sched_vm *m = vm_of(s, c->vcpu);

    s->vcpu[c->vcpu].leaves = NONE;
    m->left = 0;
    vmci_sched_set_active(s, m, c->joined ? m->active + 1 : m->active - 1);
}

/* A vCPU's part of the division in force. */
static uint64_t part(const struct sched_vm *m, const uint64_t *rates)
{
    return m->active == 0 ? 0 : rates[m->slot] / m->active;
}

/*
 * Each vCPU of the VM that was there at the time "from", but for the leaver, has so much more. Who
 * joined them later does not, so that siblings may have to be levelled (vmci_sched_emit).
 */
static void credit_vm(struct vmc_sched *s, uint32_t vm, uint32_t leaver, uint64_t from,
                      int64_t more)
{
    struct sched_vm *m = &s->vm[vm];

    vmci_sched_add_ideal(s, vm, more);
    for (uint32_t i = 0; i < m->n; i++) {
        struct sched_vcpu *v = &s->vcpu[m->first + i];
        if (v->leaves != NONE && m->first + i != leaver)
            s->past[v->leaves].excess += more;
        if (v->in_fluid != FLUID_OUT && v->joined_at > from) {
            vmci_store_relaxed(&v->off, v->off - (more >> C_SHIFT));
            m->uneven = true;
        }
    }
}

/* For that long, the VM had its new rate and not what it had before; "before": the leaver's VM. */
static void change_rate(struct vmc_sched *s, uint32_t vm, uint32_t leaver, uint64_t from,
                        uint64_t x, uint64_t before)
{
    const struct sched_vm *m = &s->vm[vm];

    if (m->active == 0)
        return;
    uint64_t old = m == vm_of(s, leaver) ? before : part(m, s->rate_before);
    int64_t diff = (int64_t)(part(m, s->child_rate) - old);
    int64_t more = (int64_t)(((__int128)diff * (int64_t)x) >> V_SHIFT);
    if (m->left == 0 && m->n == 1)
        vmci_sched_add_ideal(s, vm, more);
    else
        credit_vm(s, vm, leaver, from, more);
}

/*
 * For x frames (V_SHIFT), which began at "from", the CPUs are divided without the vCPU, and not as
 * they are now.
 */
static void run_without(struct vmc_sched *s, uint32_t vcpu, uint64_t from, uint64_t x)
{
    struct sched_vm *own = vm_of(s, vcpu);
    uint64_t before = part(own, s->child_rate);

    memcpy(s->rate_before, s->child_rate, s->nchildren * sizeof(s->child_rate[0]));
    uint64_t division = s->divisions;
    vmci_sched_set_active(s, own, own->active - 1);
    vmci_sched_divide(s);
    for (uint32_t k = 0; k < s->norder; k++) {
        const struct sched_group *g = &s->group[s->order[k]];
        if (g->division <= division && s->nrestricted == 0)
            continue; /* it has what it had */
        for (uint32_t i = g->child_first; i < g->vms_end; i++)
            if (s->rate_before[i] != s->child_rate[i] || s->child_vm[i] == s->vcpu[vcpu].vm)
                change_rate(s, s->child_vm[i], vcpu, from, x, before);
    }
    vmci_sched_set_active(s, own, own->active + 1);
}

/* What is left of the leaver's lag came from its siblings when it joined them. */
static void give_back(struct vmc_sched *s, const struct sched_vm *m, uint64_t lag)
{
    int64_t n = 0;

    for (uint32_t i = 0; i < m->n; i++)
        n += s->vcpu[m->first + i].in_fluid == FLUID_IN;
    for (uint32_t i = 0; i < m->n; i++) {
        struct sched_vcpu *v = &s->vcpu[m->first + i];
        if (v->in_fluid == FLUID_IN)
            vmci_store_relaxed(&v->off, v->off + (int64_t)(lag >> C_SHIFT) / n);
    }
}

/* Step back from the leaver's moment to the one at which it lacked nothing; returns the change that
 * it then comes before. */
static uint32_t step_back(struct vmc_sched *s, struct past_change *leave, uint32_t pos,
                          uint64_t *lag)
{
    struct sched_vm *own = vm_of(s, leave->vcpu);

    while (*lag != 0 && pos != 0 && s->rewinds != 0) {
        const struct past_change *prev = &s->past[pos - 1];
        uint64_t length = VMCI_MIN(leave->time - prev->time, (uint64_t)1 << 40);
        uint64_t x = (length << V_SHIFT) / s->frame_ns;
        s->rewinds--;
        vmci_sched_divide(s);
        uint64_t rate = part(own, s->child_rate);
        uint64_t need = rate == 0 ? UINT64_MAX : (*lag << V_SHIFT) / rate;
        bool enough = need <= x;
        if (enough)
            x = need;
        if (x != 0)
            run_without(s, leave->vcpu, leave->time - ((x * s->frame_ns) >> V_SHIFT), x);
        *lag = enough ? 0 : *lag - (uint64_t)(((unsigned __int128)rate * x) >> V_SHIFT);
        leave->time = enough ? leave->time - ((x * s->frame_ns) >> V_SHIFT) : prev->time;
        if (enough || (prev->vcpu == leave->vcpu && prev->joined))
            break;
        undo(s, --pos);
    }
    return pos;
}

/* The vCPU of change k, a leave, left as soon as the ideal had given it so much (C_SHIFT) less. */
static void leave_earlier(struct vmc_sched *s, uint32_t k, uint64_t lag)
{
    struct past_change leave = s->past[k];
    struct sched_vm *own = vm_of(s, leave.vcpu);

    for (uint32_t i = s->npast; i-- > k;)
        undo(s, i);
    uint32_t pos = step_back(s, &leave, k, &lag);
    bool stayed = pos != 0 && s->past[pos - 1].vcpu == leave.vcpu && s->past[pos - 1].joined;
    leave.excess = 0;
    memmove(&s->past[pos + 1], &s->past[pos], (k - pos) * sizeof(leave));
    s->past[pos] = leave;
    for (uint32_t i = pos; i < s->npast; i++)
        redo(s, i);
    if (lag != 0 && stayed) {
        give_back(s, own, lag);
    } else if (lag != 0 && own->hint != 0) { /* too long ago, or too much work */
        s->unclaimed += lag >> C_SHIFT;
        s->unclaimed_rate += own->hint;
    }
}

void vmci_sched_rewind(struct vmc_sched *s, uint64_t lag)
{
    uint64_t most = 8 * s->frame_ns;

    leave_earlier(s, s->npast - 1, VMCI_MIN(lag, most) << C_SHIFT);
    for (uint32_t k = s->npast; k-- > 0 && s->rewinds != 0;) {
        int64_t excess = s->past[k].excess;
        if (excess < (int64_t)LEAST_EXCESS << C_SHIFT)
            continue;
        s->past[k].excess = 0;
        leave_earlier(s, k, VMCI_MIN((uint64_t)excess, most << C_SHIFT));
        k = s->npast;
    }
}
