/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtual machines on a runner: each vCPU is a task, the wake hook of the VM wakes it, PAUSE exits
 * become directed yields, the scheduler's account of time not given becomes the guest's steal
 * clock, and the timekeeper serves the VM's timers.
 */
#include "host_priv.h"
#include "host_runner_priv.h"

#include <vmcore/timer.h>

#include <stdlib.h>

/*
 * PAUSEs of one waiting loop before its vCPU gives way. KVM and Xen use 4096 cycles of such a loop,
 * which are about as many as here.
 */
#define PAUSE_LIMIT 100

struct guest_vcpu {
    struct runner_guest *g;
    struct vmc_vcpu *v;
    uint32_t index;
    uint64_t steal_ns; /* (a) as last reported: never goes back */
};

struct runner_guest {
    struct vmc_runner_guest_config cfg;
    struct vmc_runner *r;
    uint32_t id;  /* (a) VMC_SCHED_NONE: not added yet */
    bool serving; /* under guests_lock: the timekeeper is in the VM's timers */
    struct runner_guest *next;
    struct guest_vcpu vcpu[];
};

/* ---- the task -------------------------------------------------------------------------------- */

static int guest_run(void *ctx, uint64_t slice_ns)
{
    struct guest_vcpu *gv = ctx;
    struct runner_guest *g = gv->g;
    struct vmc_run_limits lim = {.size = sizeof(lim), .pause_limit = g->cfg.pause_limit};
    struct vmc_exit x = {.kind = VMC_EXIT_KICKED};

    if (vmc_vm_paused(g->cfg.vm) || (g->cfg.held != NULL && g->cfg.held(g->cfg.ctx)))
        return VMC_RUNNER_IDLE;
    /*
     * The timekeeper kicks at the end of the slice. A deadline of the engine's own would be more
     * exact, but where the host gives the worker little time, slices end before they have begun.
     */
    (void)slice_ns;
    if (g->r->threads)
        lim.flags = VMC_RUN_PARK;
    int rc = vmc_vcpu_run(gv->v, &lim, &x);
    if (rc == VMC_OK) {
        switch (x.kind) {
        case VMC_EXIT_BUDGET:
            return VMC_RUNNER_AGAIN;
        case VMC_EXIT_KICKED:
            return vmc_vm_paused(g->cfg.vm) ? VMC_RUNNER_IDLE : VMC_RUNNER_AGAIN;
        case VMC_EXIT_IDLE:
            return VMC_RUNNER_IDLE;
        case VMC_EXIT_PAUSE:
            return VMC_RUNNER_SPIN;
        default:
            break;
        }
    }
    return g->cfg.exit(g->cfg.ctx, gv->index, rc, &x);
}

static void guest_kick(void *ctx)
{
    vmc_vcpu_kick(((struct guest_vcpu *)ctx)->v);
}

static const struct vmc_runner_task_ops task_ops = {.run = guest_run, .kick = guest_kick};

/* ---- what the VM asks for -------------------------------------------------------------------- */

static void on_wake(void *ctx, uint32_t index)
{
    struct runner_guest *g = ctx;
    uint32_t id = __atomic_load_n(&g->id, __ATOMIC_ACQUIRE);

    if (id != VMC_SCHED_NONE)
        vmc_runner_wake(g->r, id, index);
}

/* On the thread of the vCPU, and only there. */
static uint64_t steal_clock(void *ctx, uint32_t index)
{
    struct runner_guest *g = ctx;
    struct guest_vcpu *gv = &g->vcpu[index];
    uint32_t id = __atomic_load_n(&g->id, __ATOMIC_ACQUIRE);

    if (id != VMC_SCHED_NONE) {
        uint32_t v = vmc_sched_vcpu(g->r->sched, id, index);
        uint64_t ns = vmc_sched_steal_ns(g->r->sched, v, vmc_runner_now_ns());
        if (ns > gv->steal_ns)
            gv->steal_ns = ns;
    }
    return gv->steal_ns;
}

static void on_timer(void *ctx)
{
    struct runner_guest *g = ctx;
    uint64_t when;

    if (vmc_timerq_next(vmc_vm_board(g->cfg.vm)->timers, &when))
        runner_keeper_at(g->r, when);
}

/* ---- timers ---------------------------------------------------------------------------------- */

static bool own_timers(const struct runner_guest *g)
{
    return (g->cfg.flags & VMC_RUNNER_OWN_TIMERS) != 0;
}

uint64_t runner_serve_timers(struct vmc_runner *r, uint64_t now)
{
    uint64_t next = RUNNER_NEVER;

    pthread_mutex_lock(&r->guests_lock);
    for (struct runner_guest *g = r->guests; g != NULL; g = g->next) {
        struct vmc_timerq *q = vmc_vm_board(g->cfg.vm)->timers;
        uint64_t when;
        if (own_timers(g) || !vmc_timerq_next(q, &when))
            continue;
        if (when <= now) {
            g->serving = true; /* it stays in the list, and with it g->next */
            pthread_mutex_unlock(&r->guests_lock);
            vmc_timerq_advance(q, now);
            pthread_mutex_lock(&r->guests_lock);
            g->serving = false;
            pthread_cond_broadcast(&r->guests_idle);
            if (!vmc_timerq_next(q, &when))
                continue;
        }
        next = when < next ? when : next;
    }
    pthread_mutex_unlock(&r->guests_lock);
    return next;
}

static void list_add(struct runner_guest *g)
{
    struct vmc_runner *r = g->r;

    pthread_mutex_lock(&r->guests_lock);
    g->next = r->guests;
    r->guests = g;
    pthread_mutex_unlock(&r->guests_lock);
}

/* NULL: there is no such guest. */
static struct runner_guest *list_take(struct vmc_runner *r, uint32_t id)
{
    struct runner_guest **p;

    pthread_mutex_lock(&r->guests_lock);
    for (p = &r->guests; *p != NULL && (*p)->id != id; p = &(*p)->next)
        ;
    struct runner_guest *g = *p;
    if (g != NULL) {
        while (g->serving)
            pthread_cond_wait(&r->guests_idle, &r->guests_lock);
        for (p = &r->guests; *p != g; p = &(*p)->next)
            ;
        *p = g->next;
    }
    pthread_mutex_unlock(&r->guests_lock);
    return g;
}

/* ---- coming and going ------------------------------------------------------------------------ */

static void set_hooks(struct runner_guest *g, bool on)
{
    struct vmc_vm *vm = g->cfg.vm;

    vmc_vm_set_wake_hook(vm, on ? on_wake : NULL, g);
    if (!g->r->threads)
        vmc_vm_set_steal_clock(vm, on ? steal_clock : NULL, g);
    if (!own_timers(g))
        vmc_timerq_set_notify(vmc_vm_board(vm)->timers, on ? on_timer : NULL, g);
}

static int check_guest(const struct vmc_runner *r, const struct vmc_runner_guest_config *cfg,
                       struct vmc_error *err)
{
    if (cfg->size != sizeof(*cfg) || (cfg->flags & ~VMC_RUNNER_OWN_TIMERS) != 0 ||
        cfg->vm == NULL || cfg->exit == NULL)
        return vmci_host_error(err, VMC_EINVAL, 0, "host/runner", "the guest's configuration");
    if (!r->threads && (vmc_vm_engine_info(cfg->vm)->caps & VMC_CAP_IRQCHIP) != 0)
        return vmci_host_error(err, VMC_ENOTSUP, 0, "host/runner",
                               "with this engine a halted vCPU would sleep on its worker");
    for (uint32_t i = 0; i < cfg->sched.vcpus; i++)
        if (vmc_vm_vcpu(cfg->vm, i) == NULL)
            return vmci_host_error(err, VMC_ENOENT, 0, "host/runner", "there is no vCPU %u", i);
    if (vmc_vm_vcpu(cfg->vm, cfg->sched.vcpus) != NULL)
        return vmci_host_error(err, VMC_EINVAL, 0, "host/runner", "the VM has more than %u vCPUs",
                               cfg->sched.vcpus);
    return VMC_OK;
}

int vmc_runner_attach(struct vmc_runner *r, const struct vmc_runner_guest_config *cfg, uint32_t *id,
                      struct vmc_error *err)
{
    struct vmc_runner_task task[VMC_SCHED_MAX_WIDTH];
    uint32_t n = cfg->sched.vcpus;

    int rc = n >= 1 && n <= VMC_SCHED_MAX_WIDTH
                 ? check_guest(r, cfg, err)
                 : vmci_host_error(err, VMC_EINVAL, 0, "host/runner", "%u vCPUs", n);
    if (rc != VMC_OK)
        return rc;
    vmc_vm_pause(cfg->vm);
    if (!vmc_vm_quiesced(cfg->vm))
        return vmci_host_error(err, VMC_EBUSY, 0, "host/runner", "a vCPU is inside run");
    struct runner_guest *g = calloc(1, sizeof(*g) + n * sizeof(g->vcpu[0]));
    if (g == NULL)
        return vmci_host_error(err, VMC_ENOMEM, 0, "host/runner", "no memory for a guest");
    g->cfg = *cfg;
    g->r = r;
    g->id = VMC_SCHED_NONE;
    if (cfg->pause_limit == 0)
        g->cfg.pause_limit = PAUSE_LIMIT;
    else if (cfg->pause_limit == UINT32_MAX)
        g->cfg.pause_limit = 0;
    for (uint32_t i = 0; i < n; i++) {
        g->vcpu[i] = (struct guest_vcpu){.g = g, .v = vmc_vm_vcpu(cfg->vm, i), .index = i};
        task[i] = (struct vmc_runner_task){.ops = &task_ops, .ctx = &g->vcpu[i]};
    }
    set_hooks(g, true);
    rc = vmc_runner_vm_add(r, cfg->group, &cfg->sched, task, id, err);
    if (rc != VMC_OK) {
        set_hooks(g, false);
        free(g);
        return rc;
    }
    __atomic_store_n(&g->id, *id, __ATOMIC_RELEASE);
    list_add(g);
    on_timer(g);
    return VMC_OK;
}

int vmc_runner_detach(struct vmc_runner *r, uint32_t id)
{
    struct runner_guest *g = list_take(r, id);

    if (g == NULL)
        return VMC_ENOENT;
    vmc_vm_pause(g->cfg.vm);
    int rc = vmc_runner_vm_remove(r, id);
    set_hooks(g, false);
    free(g);
    return rc;
}
