/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One loop on every processor: finish device work, fire timers, ask the scheduler, run a vCPU until
 * its slice ends or something interrupts. There is nothing to preempt but guests.
 *
 * Timers of a guest: the queue has an owner, the processor that was told of its earliest deadline
 * last. The owner's timer is armed for that deadline or sooner; when it passes, the owner looks
 * again. A processor that is no longer the owner forgets its deadline when it passes.
 */
#include "hv.h"

#define QUANTUM_NS     3000000ull
#define QUANTUM_CYCLES 750000ull /* at least */

struct cpu {
    struct vmc_vcpu *volatile current;
    volatile uint32_t attention; /* an interrupt came: look around before running on */
    uint64_t deadline[HV_MAX_GUESTS];
    volatile uint64_t turns; /* times round the loop */
    uint64_t armed;          /* what the timer is set to while a vCPU runs */
} __attribute__((aligned(64)));

struct vmc_sched *hv_sched;
static struct cpu cpus[VMC_BM_MAX_CPUS];
static struct hv_vcpu **entity_vcpu;
#define MAX_ENTITIES (HV_MAX_GUESTS * HV_MAX_VCPUS)

/* ---- interrupts ---------------------------------------------------------------------------------
 */

/* In interrupt context: end what this processor is doing. */
static void on_interrupt(void *ctx, uint32_t cpu)
{
    (void)ctx;
    if (cpus[cpu].attention)
        return; /* kicked already; a kick may itself send an interrupt here */
    cpus[cpu].attention = 1;
    struct vmc_vcpu *v = cpus[cpu].current;
    if (v != NULL)
        vmc_vcpu_kick(v);
}

void hv_attention(void)
{
    vmc_bm_interrupt(0);
}

static void kick_pending(void)
{
    uint32_t cpu;

    while ((cpu = vmc_sched_take_kick(hv_sched)) != VMC_SCHED_NONE)
        vmc_bm_interrupt(cpu);
}

/* ---- timers -------------------------------------------------------------------------------------
 */

/* On whatever processor armed a timer, inside the library. */
void hv_timer_notify(void *ctx)
{
    struct hv_guest *g = ctx;
    uint32_t me = vmc_bm_this_cpu();
    struct cpu *c = &cpus[me];
    uint64_t next;

    if (!vmc_timerq_next(vmc_vm_board(g->vm)->timers, &next))
        return;
    __atomic_store_n(&g->timer_owner, me, __ATOMIC_SEQ_CST);
    c->deadline[g->number] = next;
    if (c->current != NULL && next < c->armed) {
        c->armed = next;
        vmc_bm_timer(next);
    }
}

static uint64_t run_timers(uint32_t me, uint64_t now)
{
    struct cpu *c = &cpus[me];
    uint64_t first = NEVER;

    for (uint32_t i = 0; i < hv_config.guests; i++) {
        struct hv_guest *g = &hv_guests[i];
        if (c->deadline[i] == NEVER)
            continue;
        if (g->state == HV_OFF) {
            c->deadline[i] = NEVER;
            continue;
        }
        if (c->deadline[i] <= now) {
            struct vmc_timerq *q = vmc_vm_board(g->vm)->timers;
            c->deadline[i] = NEVER;
            vmc_timerq_advance(q, now);
            uint64_t next;
            if (__atomic_load_n(&g->timer_owner, __ATOMIC_SEQ_CST) == me &&
                vmc_timerq_next(q, &next) && next < c->deadline[i])
                c->deadline[i] = next;
        }
        if (c->deadline[i] < first)
            first = c->deadline[i];
    }
    return first;
}

/* ---- running ------------------------------------------------------------------------------------
 */

static void vcpu_failed(struct hv_vcpu *hv, const char *what, const char *detail, uint64_t rip)
{
    struct hv_guest *g = hv->g;

    hv->failed = 1;
    if (__atomic_exchange_n(&g->failed, 1, __ATOMIC_SEQ_CST) == 0)
        vmc_bm_snprintf(g->failure, sizeof(g->failure), "vCPU %u at 0x%llx: %s: %s", hv->index,
                        (unsigned long long)rip, what, detail);
    g->attention = 1;
    hv_attention();
}

/* True: the vCPU has nothing to do until it is woken. */
static bool after_run(struct hv_vcpu *hv, int rc, const struct vmc_exit *x)
{
    if (rc < 0) {
        vcpu_failed(hv, "the engine failed", vmc_strerror(rc), 0);
        return true;
    }
    switch (x->kind) {
    case VMC_EXIT_BUDGET:
        return false;
    case VMC_EXIT_KICKED:
        return hv->g->state != HV_RUNNING;
    case VMC_EXIT_IDLE:
        return true;
    case VMC_EXIT_SHUTDOWN:
        hv->g->attention = 1;
        hv_attention();
        return true;
    default:
        vcpu_failed(hv, "nothing handles this exit", vmc_exit_name(x->kind), x->rip);
        return true;
    }
}

/* The current vCPU has nothing to do; if it was woken meanwhile it stays runnable. */
static void block(uint32_t me)
{
    int rc = vmc_sched_block(hv_sched, me, hv_now());
    (void)rc;
}

static void run_vcpu(uint32_t me, struct hv_vcpu *hv, uint64_t end_ns)
{
    struct cpu *c = &cpus[me];
    struct vmc_exit x;
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    int rc = VMC_OK;

    if (hv->g->state != HV_RUNNING || hv->g->failed) {
        block(me);
        return;
    }
    x.kind = VMC_EXIT_KICKED;
    c->armed = end_ns;
    c->current = hv->v;
    vmc_bm_timer(end_ns);
    /* A preemption timer ends a guest whatever becomes of our interrupt. */
    if (hv_engine != vmc_engine_soft())
        lim.deadline_ns = end_ns;
    if (!c->attention)
        rc = vmc_vcpu_run(hv->v, &lim, &x);
    c->current = NULL;
    if (after_run(hv, rc, &x))
        block(me);
}

void hv_loop(uint32_t me)
{
    struct cpu *c = &cpus[me];

    for (uint32_t i = 0; i < HV_MAX_GUESTS; i++)
        c->deadline[i] = NEVER;
    for (;;) {
        struct vmc_sched_slice sl;
        uint64_t end = NEVER;

        c->turns++;
        c->attention = 0;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        vmc_bm_poll();
        if (me == 0) {
            hv_guests_look();
            uint64_t script = hv_monitor_poll(hv_now());
            end = hv_console_poll(hv_now());
            end = script < end ? script : end;
            uint64_t volumes = hv_volumes_poll(hv_now());
            end = volumes < end ? volumes : end;
        }
        uint64_t now = hv_now();
        uint64_t timer = run_timers(me, now);
        vmc_sched_pick(hv_sched, me, now, &sl);
        if ((sl.flags & VMC_SCHED_PLAN_DUE) != 0) {
            bool planned = vmc_sched_plan(hv_sched, now);
            kick_pending();
            if (planned)
                continue;
        }
        end = timer < end ? timer : end;
        end = sl.end_ns < end ? sl.end_ns : end;
        if (sl.vcpu != VMC_SCHED_NONE)
            run_vcpu(me, entity_vcpu[sl.vcpu], end);
        else if (end > now)
            vmc_bm_wait(end);
    }
}

void hv_sync_cpus(void)
{
    uint32_t me = vmc_bm_this_cpu();

    for (uint32_t i = 0; i < hv_machine->cpus; i++) {
        uint64_t before = cpus[i].turns;
        while (i != me && cpus[i].turns == before) {
            vmc_bm_interrupt(i);
            for (unsigned n = 0; n < 1000 && cpus[i].turns == before; n++)
                __asm__ volatile("pause");
        }
    }
}

/* ---- guests come and go
 * -------------------------------------------------------------------------- */

/* The library: a vCPU of a guest has work. */
static void on_wake(void *ctx, uint32_t index)
{
    struct hv_guest *g = ctx;
    uint32_t kick = VMC_SCHED_NONE;

    if (g->state == HV_RUNNING &&
        vmc_sched_wake(hv_sched, g->vcpu[index].entity, hv_now(), &kick) == VMC_OK &&
        kick != VMC_SCHED_NONE)
        vmc_bm_interrupt(kick);
}

void hv_wake_all(struct hv_guest *g)
{
    for (uint32_t i = 0; i < g->cfg->cpus; i++)
        on_wake(g, i);
}

int hv_sched_add(struct hv_guest *g)
{
    struct vmc_error err;
    struct vmc_sched_vm_config vc = {.size = sizeof(vc),
                                     .vcpus = g->cfg->cpus,
                                     .coscheduling = VMC_SCHED_CO_RELAXED,
                                     .share = {.shares = g->cfg->shares}};

    int rc = vmc_sched_vm_add(hv_sched, VMC_SCHED_ROOT, &vc, &g->sched_vm, &err);
    if (rc != VMC_OK) {
        hv_print("%s: scheduler: %s\n", g->cfg->name, err.text);
        return rc;
    }
    for (uint32_t i = 0; i < g->cfg->cpus; i++) {
        g->vcpu[i].entity = vmc_sched_vcpu(hv_sched, g->sched_vm, i);
        entity_vcpu[g->vcpu[i].entity] = &g->vcpu[i];
    }
    vmc_vm_set_wake_hook(g->vm, on_wake, g);
    vmc_timerq_set_notify(vmc_vm_board(g->vm)->timers, hv_timer_notify, g);
    return VMC_OK;
}

void hv_sched_remove(struct hv_guest *g)
{
    int rc = vmc_sched_vm_remove(hv_sched, g->sched_vm);
    (void)rc; /* it is there */
    hv_sync_cpus();
}

void hv_sched_init(void)
{
    struct vmc_error err;
    const struct vmc_platform *pf = vmc_bm_platform();
    /* To lay out a frame takes some thousand instructions: slow processors get longer ones. */
    uint64_t quantum = QUANTUM_CYCLES * 1000000000ull / hv_machine->tsc_hz;
    struct vmc_sched_config sc = {.size = sizeof(sc),
                                  .quantum_ns = quantum > QUANTUM_NS ? quantum : QUANTUM_NS,
                                  .cpus = hv_machine->cpus,
                                  .max_groups = 4,
                                  .max_vms = HV_MAX_GUESTS,
                                  .max_vcpus = MAX_ENTITIES,
                                  .start_ns = hv_now()};

    entity_vcpu = pf->alloc(pf->ctx, (MAX_ENTITIES + 1) * sizeof(struct hv_vcpu *), 64);
    if (entity_vcpu == NULL || vmc_sched_create(pf, &sc, &hv_sched, &err) != VMC_OK)
        vmc_bm_panic("cannot create the scheduler");
    memset(entity_vcpu, 0, (MAX_ENTITIES + 1) * sizeof(struct hv_vcpu *));
    vmc_bm_set_hook(on_interrupt, NULL);
}
