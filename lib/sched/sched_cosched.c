/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Skew between the vCPUs of a VM. The plan keeps siblings together; what remains for run time is
 * the case that the plan could not be carried out: a CPU came late, or a sibling took idle time.
 *
 * Progress is time received plus time asleep while siblings ran, so a sleeping vCPU never holds
 * the others back (VMware, "The CPU Scheduler in VMware ESX", 2010, relaxed co-scheduling). A vCPU
 * that leads the last runnable sibling by costop_ns is stopped, and starts again below costart_ns.
 */
#include "sched_priv.h"

/* The runnable sibling that made least progress; what it made is remembered as a lower bound. */
static const struct sched_vcpu *find_last(const struct vmc_sched *s, struct sched_vm *m,
                                          uint64_t now)
{
    const struct sched_vcpu *last = NULL;
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < m->n; i++) {
        const struct sched_vcpu *o = &s->vcpu[m->first + i];
        uint64_t p = vcpu_progress_at(o, now);
        if ((vmci_load_acquire(&o->st) & ST_READY) != 0 && p < least) {
            least = p;
            last = o;
        }
    }
    if (last != NULL)
        vmci_store_relaxed(&m->floor, least);
    return last;
}

/* It runs again, or may. */
void vmci_sched_costart(struct sched_vcpu *v, uint64_t now)
{
    uint64_t since = vmci_exchange(&v->costop_since, (uint64_t)0);

    if (since != 0 && now > since)
        (void)vmci_fetch_add(&v->costop_ns, now - since);
}

/* Was it stopped, and would it be again, as far as can be told without looking at its siblings? */
bool vmci_sched_held(const struct vmc_sched *s, const struct sched_vcpu *v)
{
    const struct sched_vm *m = &s->vm[vmci_load_relaxed(&v->vm)];

    return vmci_load_relaxed(&v->costop_since) != 0 &&
           vcpu_progress(v) > vmci_load_relaxed(&m->floor) + s->costart;
}

/*
 * The vCPU is about to run here: must it wait for its siblings? Not while the last of them runs:
 * skew grows only when some progress and others that could do not.
 */
bool vmci_sched_costop(struct vmc_sched *s, struct sched_cpu *c, uint32_t vm, uint32_t vcpu,
                       uint64_t now)
{
    struct sched_vcpu *v = &s->vcpu[vcpu];
    const struct sched_vcpu *last = find_last(s, &s->vm[vm], now);
    uint64_t own = vcpu_progress_at(v, now);
    uint64_t floor = last != NULL ? vcpu_progress_at(last, now) : own;
    uint64_t skew = floor < own ? own - floor : 0;
    uint64_t since = vmci_load_relaxed(&v->costop_since);
    bool runs = last != NULL && last != v && (vmci_load_relaxed(&last->st) & ST_ONCPU) != 0;

    if (skew > (since != 0 ? s->costart : s->costop) && !(runs && skew < 3 * s->costop / 2)) {
        if (since == 0) {
            vmci_store_relaxed(&v->costop_since, now == 0 ? 1 : now);
            (void)vmci_fetch_or(&v->notes, (uint8_t)NOTE_STOPPED);
            (void)vmci_fetch_add(&v->costops, 1);
            if (s->ring_size != 0)
                vmci_sched_trace(s, c, now, VMC_SCHED_EV_COSTOP, vcpu);
        }
        return true;
    }
    if (since != 0)
        vmci_sched_costart(v, now);
    return false;
}

/* Planner: remember how far apart the runnable vCPUs are. */
void vmci_sched_note_skew(struct vmc_sched *s, struct sched_vm *m, uint64_t now)
{
    uint64_t least = UINT64_MAX;
    uint64_t most = 0;

    for (uint32_t i = 0; i < m->n; i++) {
        const struct sched_vcpu *o = &s->vcpu[m->first + i];
        if ((vmci_load_acquire(&o->st) & ST_READY) == 0)
            continue;
        uint64_t p = vcpu_progress_at(o, now);
        least = VMCI_MIN(least, p);
        most = VMCI_MAX(most, p);
    }
    if (least == UINT64_MAX)
        return;
    vmci_store_relaxed(&m->floor, least);
    vmci_store_relaxed(&m->skew_ns, most - least);
    if (most - least > m->max_skew_ns)
        vmci_store_relaxed(&m->max_skew_ns, most - least);
}
