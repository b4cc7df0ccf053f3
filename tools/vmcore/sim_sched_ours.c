/* SPDX-License-Identifier: BSD-2-Clause */
/* lib/sched behind the simulator's policy interface. */
#include "sim_sched.h"

#include <vmcore/host.h>

#include <stdlib.h>
#include <string.h>

struct ours {
    struct vmc_platform pf;
    struct vmc_sched *sched;
    uint32_t *entity; /* by vCPU of the simulator */
    uint32_t *by_entity;
    uint64_t *held_since; /* by vCPU of the simulator; 0: it is not co-stopped */
    struct vmc_sched_event *event;
    size_t events, event_cap;
};

#define RING 4096u /* events of a CPU between two plans */

/* ---- co-stops, for the timeline -------------------------------------------------------------- */

static int by_time(const void *a, const void *b)
{
    const struct vmc_sched_event *x = a;
    const struct vmc_sched_event *y = b;

    return x->ns != y->ns ? (x->ns < y->ns ? -1 : 1) : (x->type > y->type) - (x->type < y->type);
}

/* What the CPUs' rings hold, in o->event. */
static void read_rings(struct sim *s, struct ours *o)
{
    o->events = 0;
    for (uint32_t cpu = 0; cpu < s->ncpus; cpu++) {
        uint32_t n = 64;
        while (n == 64) {
            if (o->events + n > o->event_cap) {
                size_t cap = 2 * o->event_cap + n;
                struct vmc_sched_event *e = realloc(o->event, cap * sizeof(*e));
                if (e == NULL)
                    return;
                o->event = e;
                o->event_cap = cap;
            }
            n = vmc_sched_trace_read(o->sched, cpu, o->event + o->events, n, NULL);
            o->events += n;
        }
    }
}

/* A vCPU is held back from its co-stop until it runs again. */
static void note_costops(struct sim *s, struct ours *o)
{
    read_rings(s, o);
    qsort(o->event, o->events, sizeof(*o->event), by_time);
    for (size_t i = 0; i < o->events; i++) {
        const struct vmc_sched_event *e = &o->event[i];
        if (e->vcpu >= s->nvcpus)
            continue;
        uint32_t v = o->by_entity[e->vcpu];
        if (e->type == VMC_SCHED_EV_COSTOP) {
            o->held_since[v] = e->ns == 0 ? 1 : e->ns;
        } else if (e->type == VMC_SCHED_EV_RUN && o->held_since[v] != 0) {
            sim_held(s, (struct sim_seg){e->cpu, v, o->held_since[v], e->ns});
            o->held_since[v] = 0;
        }
    }
}

/* ---- the policy ------------------------------------------------------------------------------ */

static bool add_all(struct sim *s, struct ours *o, const struct sim_policy *p,
                    struct vmc_error *err)
{
    uint32_t *pool = calloc(s->sc->npools + 1, sizeof(*pool));
    bool ok = true;

    for (uint32_t i = 0; ok && i < s->sc->npools; i++) {
        uint32_t up = s->sc->pools[i].parent;
        ok = vmc_sched_group_add(o->sched, up == SIM_NONE ? VMC_SCHED_ROOT : pool[up],
                                 &s->sc->pools[i].share, &pool[i], err) == VMC_OK;
    }
    for (uint32_t i = 0; ok && i < s->nvms; i++) {
        const struct sim_vm_spec *spec = &s->sc->vms[i];
        struct vmc_sched_vm_config cfg = {
            .size = sizeof(cfg),
            .vcpus = spec->vcpus,
            .coscheduling = p->variant < 0 ? spec->coscheduling : (uint32_t)p->variant,
            .vcpu_cap = spec->vcpu_cap,
            .share = spec->share,
        };
        uint32_t vm;
        ok = vmc_sched_vm_add(o->sched, spec->pool == SIM_NONE ? VMC_SCHED_ROOT : pool[spec->pool],
                              &cfg, &vm, err) == VMC_OK;
        for (uint32_t k = 0; ok && k < spec->vcpus; k++) {
            o->entity[s->vm[i].first + k] = vmc_sched_vcpu(o->sched, vm, k);
            o->by_entity[vmc_sched_vcpu(o->sched, vm, k)] = s->vm[i].first + k;
        }
    }
    free(pool);
    return ok;
}

static void ours_destroy(struct sim *s, void *pol)
{
    struct ours *o = pol;

    (void)s;
    vmc_sched_destroy(o->sched);
    free(o->entity);
    free(o->by_entity);
    free(o->held_since);
    free(o->event);
    free(o);
}

static void *ours_create(struct sim *s, const struct sim_policy *p)
{
    struct ours *o = calloc(1, sizeof(*o));
    struct vmc_error err = {0};

    struct vmc_sched_cpu_topo *topo = calloc(s->ncpus, sizeof(*topo)); /* copied */

    for (uint32_t i = 0; topo != NULL && i < s->ncpus; i++)
        topo[i].core = i / s->sc->threads_per_core;
    o->entity = calloc(s->nvcpus, sizeof(*o->entity));
    o->by_entity = calloc(s->nvcpus, sizeof(*o->by_entity));
    o->held_since = calloc(s->nvcpus, sizeof(*o->held_since));
    struct vmc_sched_config cfg = {
        .size = sizeof(cfg),
        .cpus = s->ncpus,
        .max_groups = s->sc->npools,
        .max_vms = s->nvms,
        .max_vcpus = s->nvcpus,
        .quantum_ns = s->sc->quantum_ns,
        .topo = topo,
        .trace_events = s->record ? RING : 0,
    };
    bool ok = vmc_host_platform_init(&o->pf, NULL, &err) == VMC_OK &&
              vmc_sched_create(&o->pf, &cfg, &o->sched, &err) == VMC_OK && add_all(s, o, p, &err);
    free(topo);
    if (!ok) {
        fprintf(stderr, "sim: %s\n", err.text);
        ours_destroy(s, o);
        return NULL;
    }
    return o;
}

static void kick_all(struct sim *s, struct ours *o)
{
    uint32_t cpu;

    while ((cpu = vmc_sched_take_kick(o->sched)) != VMC_SCHED_NONE)
        sim_kick(s, cpu);
}

static uint32_t ours_pick(struct sim *s, void *pol, uint32_t cpu, uint64_t *end)
{
    struct ours *o = pol;
    struct vmc_sched_slice sl;

    vmc_sched_pick(o->sched, cpu, s->now, &sl);
    if ((sl.flags & VMC_SCHED_PLAN_DUE) != 0) {
        bool planned = vmc_sched_plan(o->sched, s->now);
        kick_all(s, o);
        if (planned && s->record)
            note_costops(s, o);
        if (planned) /* it may have been the frame in progress */
            vmc_sched_pick(o->sched, cpu, s->now, &sl);
    }
    *end = sl.end_ns <= s->now ? s->now + 1 : sl.end_ns;
    return sl.vcpu == VMC_SCHED_NONE ? SIM_NONE : o->by_entity[sl.vcpu];
}

static void ours_block(struct sim *s, void *pol, uint32_t cpu, uint32_t vcpu)
{
    struct ours *o = pol;

    (void)vcpu;
    if (vmc_sched_block(o->sched, cpu, s->now) != VMC_OK) {
        fprintf(stderr, "sim: block refused\n");
        abort();
    }
}

static void ours_wake(struct sim *s, void *pol, uint32_t vcpu)
{
    struct ours *o = pol;
    uint32_t kick;

    if (vmc_sched_wake(o->sched, o->entity[vcpu], s->now, &kick) == VMC_OK &&
        kick != VMC_SCHED_NONE)
        sim_kick(s, kick);
}

static bool ours_spin(struct sim *s, void *pol, uint32_t cpu, uint32_t vcpu)
{
    struct ours *o = pol;

    (void)vcpu;
    return vmc_sched_spin(o->sched, cpu, s->now) == VMC_OK;
}

struct vmc_sched *sim_ours_sched(struct sim *s)
{
    return ((struct ours *)s->pol)->sched;
}

#define OURS(ident, text, about_text, mode)                                                        \
    const struct sim_policy ident = {                                                              \
        .name = text,                                                                              \
        .about = about_text,                                                                       \
        .create = ours_create,                                                                     \
        .destroy = ours_destroy,                                                                   \
        .pick = ours_pick,                                                                         \
        .block = ours_block,                                                                       \
        .wake = ours_wake,                                                                         \
        .spin = ours_spin,                                                                         \
        .variant = mode,                                                                           \
    }

extern const struct sim_policy sim_ours, sim_ours_none, sim_ours_relaxed, sim_ours_strict;
OURS(sim_ours, "vmcore", "this library, co-scheduling as each VM says", -1);
OURS(sim_ours_none, "vmcore-none", "this library without co-scheduling", VMC_SCHED_CO_NONE);
OURS(sim_ours_relaxed, "vmcore-relaxed", "this library, relaxed", VMC_SCHED_CO_RELAXED);
OURS(sim_ours_strict, "vmcore-strict", "this library, strict", VMC_SCHED_CO_STRICT);
