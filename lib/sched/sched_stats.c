/* SPDX-License-Identifier: BSD-2-Clause */
/* Statistics, the trace rings, and the check of the scheduler's own invariants. */
#include "sched_priv.h"

int vmc_sched_vcpu_stats(const struct vmc_sched *s, uint32_t vcpu, uint64_t now,
                         struct vmc_sched_vcpu_stats *out)
{
    if (vcpu >= s->max_vcpus)
        return VMC_ENOENT;
    const struct sched_vcpu *v = &s->vcpu[vcpu];
    uint32_t st = vmci_load_acquire(&v->st);
    if ((st & ST_FREE) != 0)
        return VMC_ENOENT;
    uint64_t ts = vmci_load_relaxed(&v->ts);
    uint64_t since = vmci_load_relaxed(&v->run_since);
    uint64_t open = now > ts ? now - ts : 0;
    *out = (struct vmc_sched_vcpu_stats){
        .used_ns = had_ns(v) + (since != 0 && now > since ? now - since : 0),
        .ready_ns = vmci_load_relaxed(&v->ready_ns),
        .costop_ns = vmci_load_relaxed(&v->costop_ns),
        .wait_ns = vmci_load_relaxed(&v->wait_ns),
        .stolen_ns = vmci_load_relaxed(&v->stolen_ns),
        .extra_ns = vmci_load_relaxed(&v->extra_ns),
        .max_wake_ns = vmci_load_relaxed(&v->max_wake_ns),
        .switches = vmci_load_relaxed(&v->switches),
        .wakes = vmci_load_relaxed(&v->wakes),
        .migrations = vmci_load_relaxed(&v->migrations),
        .costops = vmci_load_relaxed(&v->costops),
        .yields = vmci_load_relaxed(&v->yields),
    };
    if ((st & ST_READY) != 0 && (st & ST_ONCPU) == 0)
        out->ready_ns += open;
    if ((st & (ST_READY | ST_WAKING)) == 0)
        out->wait_ns += open;
    /* time held back is counted apart from time merely waited for a CPU */
    uint64_t held = vmci_load_relaxed(&v->costop_since);
    if (held != 0 && now > held)
        out->costop_ns += now - held;
    out->costop_ns = VMCI_MIN(out->costop_ns, out->ready_ns);
    out->ready_ns -= out->costop_ns;
    return VMC_OK;
}

uint64_t vmc_sched_steal_ns(const struct vmc_sched *s, uint32_t vcpu, uint64_t now)
{
    struct vmc_sched_vcpu_stats st;

    if (vmc_sched_vcpu_stats(s, vcpu, now, &st) != VMC_OK)
        return 0;
    return st.ready_ns + st.costop_ns + st.stolen_ns;
}

int vmc_sched_vm_stats(const struct vmc_sched *s, uint32_t vm, struct vmc_sched_vm_stats *out)
{
    if (vm >= s->max_vms || vmci_load_relaxed(&s->vm[vm].used) == 0)
        return VMC_ENOENT;
    const struct sched_vm *m = &s->vm[vm];
    uint32_t active = vmci_load_relaxed(&m->active);
    *out = (struct vmc_sched_vm_stats){
        .entitled_per_frame_ns = (vmci_load_relaxed(&m->credit) * active) >> C_SHIFT,
        .skew_ns = vmci_load_relaxed(&m->skew_ns),
        .max_skew_ns = vmci_load_relaxed(&m->max_skew_ns),
        .lag_ns = vmci_load_relaxed(&m->lag_ns),
    };
    for (uint32_t i = 0; i < m->n; i++) {
        out->used_ns += had_ns(&s->vcpu[m->first + i]);
        if ((vmci_load_relaxed(&s->vcpu[m->first + i].st) & ST_READY) != 0)
            out->runnable++;
    }
    return VMC_OK;
}

int vmc_sched_cpu_stats(const struct vmc_sched *s, uint32_t cpu, struct vmc_sched_cpu_stats *out)
{
    if (cpu >= s->ncpus)
        return VMC_ENOENT;
    const struct vmc_sched_cpu_stats *st = &s->cpu[cpu].stats;
    *out = (struct vmc_sched_cpu_stats){
        .busy_ns = vmci_load_relaxed(&st->busy_ns),
        .idle_ns = vmci_load_relaxed(&st->idle_ns),
        .picks = vmci_load_relaxed(&st->picks),
        .switches = vmci_load_relaxed(&st->switches),
        .boosts = vmci_load_relaxed(&st->boosts),
        .fills = vmci_load_relaxed(&st->fills),
        .late_plans = vmci_load_relaxed(&st->late_plans),
    };
    return VMC_OK;
}

/* ---- trace ----------------------------------------------------------------------------------- */

void vmci_sched_trace(struct vmc_sched *s, struct sched_cpu *c, uint64_t now, uint32_t type,
                      uint32_t vcpu)
{
    uint64_t head = vmci_load_relaxed(&c->ring_head);

    if (head - vmci_load_acquire(&c->ring_tail) >= s->ring_size) {
        vmci_store_relaxed(&c->ring_lost, c->ring_lost + 1);
        return;
    }
    struct vmc_sched_event *e = &c->ring[head & (s->ring_size - 1)];
    *e = (struct vmc_sched_event){
        .ns = now, .vcpu = vcpu, .vm = NONE, .type = (uint16_t)type, .cpu = (uint32_t)(c - s->cpu)};
    if (vcpu != NONE) {
        e->vm = vmci_load_relaxed(&s->vcpu[vcpu].vm);
        e->index = s->vcpu[vcpu].index;
    }
    vmci_store_release(&c->ring_head, head + 1);
}

uint32_t vmc_sched_trace_read(struct vmc_sched *s, uint32_t cpu, struct vmc_sched_event *out,
                              uint32_t max, uint64_t *lost)
{
    if (cpu >= s->ncpus || s->ring_size == 0)
        return 0;
    struct sched_cpu *c = &s->cpu[cpu];
    uint64_t tail = vmci_load_relaxed(&c->ring_tail);
    uint64_t head = vmci_load_acquire(&c->ring_head);
    uint32_t n = 0;

    while (n < max && tail != head)
        out[n++] = c->ring[tail++ & (s->ring_size - 1)];
    vmci_store_release(&c->ring_tail, tail);
    if (lost != NULL)
        *lost = vmci_load_relaxed(&c->ring_lost);
    return n;
}

/* ---- invariants ------------------------------------------------------------------------------ */

#define ROUNDINGS_NS 1000

static int check_tables(const struct vmc_sched *s, struct vmc_error *err)
{
    for (uint32_t i = 0; i < s->ncpus; i++) {
        for (uint32_t b = 0; b < 2; b++) {
            const struct sched_tab *t = &s->cpu[i].tab[b];
            uint32_t at = 0;
            for (uint32_t k = t->first; t->frame != FRAME_NONE && k < t->end; k++) {
                const struct tab_entry e = entry_of(t, k);
                if (e.start < at || e.end <= e.start || e.end > s->frame_ns)
                    return vmci_error(err, VMC_EINTERNAL, "sched/table",
                                      "cpu %u frame %llu entry %u is [%u, %u) after %u", i,
                                      (unsigned long long)t->frame, k, e.start, e.end, at);
                at = e.end;
            }
        }
    }
    return VMC_OK;
}

/* No vCPU is laid out on two CPUs at once, and its pieces are what the tables say. */
static int check_pieces(const struct vmc_sched *s, struct vmc_error *err)
{
    for (uint32_t i = 0; i < s->max_vcpus; i++) {
        const struct sched_vcpu *v = &s->vcpu[i];
        if (v->st == ST_FREE)
            continue;
        for (uint32_t a = 0; a < v->npieces; a++) {
            for (uint32_t b = a + 1; b < v->npieces; b++) {
                if (v->piece[a].start < v->piece[b].end && v->piece[b].start < v->piece[a].end)
                    return vmci_error(err, VMC_EINTERNAL, "sched/pieces",
                                      "vcpu %u frame %llu: [%u, %u) and [%u, %u) overlap", i,
                                      (unsigned long long)v->plan_frame, v->piece[a].start,
                                      v->piece[a].end, v->piece[b].start, v->piece[b].end);
            }
        }
    }
    return VMC_OK;
}

static int check_current(const struct vmc_sched *s, struct vmc_error *err)
{
    for (uint32_t i = 0; i < s->max_vcpus; i++) {
        const struct sched_vcpu *v = &s->vcpu[i];
        uint32_t holders = 0;
        for (uint32_t c = 0; c < s->ncpus; c++)
            holders += s->cpu[c].cur == i;
        if (holders != ((v->st & ST_ONCPU) != 0 ? 1u : 0u))
            return vmci_error(err, VMC_EINTERNAL, "sched/current",
                              "vcpu %u in state 0x%x is current on %u CPUs", i, v->st, holders);
    }
    return VMC_OK;
}

static int check_queues(const struct vmc_sched *s, struct vmc_error *err)
{
    uint32_t light = 0;
    uint32_t queued = s->heap_n;

    for (uint32_t i = 1; i < s->heap_n; i++)
        if (s->heap[(i - 1) / 4].key > s->heap[i].key)
            return vmci_error(err, VMC_EINTERNAL, "sched/heap", "order broken at %u", i);
    for (uint32_t b = 0; b < WHEEL_BUCKETS; b++)
        for (uint32_t vm = s->wheel[b]; vm != NONE && queued <= s->max_vms;
             vm = s->vm[vm].wheel_next)
            queued++;
    for (uint32_t i = 0; i < s->max_vms; i++)
        light += s->vm[i].used == 1 && s->vm[i].cls == CLS_LIGHT;
    if (queued != light)
        return vmci_error(err, VMC_EINTERNAL, "sched/light", "%u VMs queued, %u in the class",
                          queued, light);
    return VMC_OK;
}

/* Of siblings, lag and progress differ by the same amount, or each could wait for the other. */
static int check_siblings(const struct vmc_sched *s, struct vmc_error *err)
{
    int64_t most = (int64_t)s->costart / 2 + ROUNDINGS_NS;

    for (uint32_t i = 0; i < s->max_vms; i++) {
        const struct sched_vm *m = &s->vm[i];
        const struct sched_vcpu *one = NULL;
        for (uint32_t k = 0; m->used == 1 && m->mode != VMC_SCHED_CO_NONE && k < m->n; k++) {
            const struct sched_vcpu *v = &s->vcpu[m->first + k];
            if (v->in_fluid != FLUID_IN)
                continue;
            one = one == NULL ? v : one;
            int64_t diff = v->off + (int64_t)v->join_adj - one->off - (int64_t)one->join_adj;
            if (!m->uneven && (diff > most || diff < -most))
                return vmci_error(err, VMC_EINTERNAL, "sched/siblings",
                                  "VM %u: the lags of vCPUs %u and %u are %lld ns off their "
                                  "progress",
                                  i, one->index, k, (long long)diff);
        }
    }
    return VMC_OK;
}

int vmc_sched_check(struct vmc_sched *s, struct vmc_error *err)
{
    int rc = check_tables(s, err);

    if (rc == VMC_OK)
        rc = check_pieces(s, err);
    if (rc == VMC_OK)
        rc = check_current(s, err);
    if (rc == VMC_OK)
        rc = check_queues(s, err);
    if (rc == VMC_OK)
        rc = check_siblings(s, err);
    return rc;
}
