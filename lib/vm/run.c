/* SPDX-License-Identifier: BSD-2-Clause */
/* The run loop of a vCPU. */
#include "vm/vm_priv.h"

#define RUN_FLAGS (VMC_RUN_PARK | VMC_RUN_SELF_TIMED)

static uint64_t platform_now(const struct vmc_vm *vm)
{
    return vm->pf->now_ns(vm->pf->ctx);
}

/* ---- entering and leaving run -------------------------------------------------------------- */

int vmci_vcpu_check_run(const struct vmc_vcpu *v, const struct vmc_run_limits *lim)
{
    const struct vmc_vm *vm = v->vm;

    if (lim->size < offsetof(struct vmc_run_limits, virtual_ns) || (lim->flags & ~RUN_FLAGS))
        return VMC_EINVAL;
    if (v->dead != 0)
        return v->dead;
    if (!vm->started || v->owed)
        return VMC_ESTATE;
    if ((lim->flags & VMC_RUN_PARK) && !vmci_pf_has(vm->pf, sync))
        return VMC_ENOTSUP;
    if ((lim->flags & VMC_RUN_SELF_TIMED) && !engine_has(vm, VMC_CAP_DEADLINE))
        return VMC_ENOTSUP;
    if (lim->max_insns > 1 && !engine_has(vm, VMC_CAP_RETIRED))
        return VMC_ENOTSUP;
    if (lim->max_insns == 1 && !engine_has(vm, VMC_CAP_RETIRED | VMC_CAP_STEP))
        return VMC_ENOTSUP;
    if (lim->deadline_ns != 0 && !engine_has(vm, VMC_CAP_DEADLINE))
        return VMC_ENOTSUP;
    return VMC_OK;
}

bool vmci_vcpu_enter(struct vmc_vcpu *v, struct vmc_exit *x)
{
    struct vmc_vm *vm = v->vm;
    uint32_t gate = __atomic_load_n(&vm->gate, __ATOMIC_SEQ_CST);

    while ((gate & GATE_PAUSED) == 0) {
        if (__atomic_compare_exchange_n(&vm->gate, &gate, gate + 1, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
            return true;
    }
    vmci_fetch_and(&v->request, ~REQ_KICK);
    set_exit(x, VMC_EXIT_KICKED);
    return false;
}

void vmci_vcpu_leave(struct vmc_vcpu *v)
{
    struct vmc_vm *vm = v->vm;

    if (__atomic_sub_fetch(&vm->gate, 1, __ATOMIC_SEQ_CST) == GATE_PAUSED &&
        vmci_pf_has(vm->pf, sync))
        vm->pf->sync->wake(vm->pf->ctx, &vm->gate);
}

/* ---- requests ------------------------------------------------------------------------------ */

static int shutdown_exit(struct vmc_vcpu *v, struct vmc_exit *x)
{
    set_exit(x, VMC_EXIT_SHUTDOWN);
    (void)vmc_vm_stopped(v->vm, &x->u.stop.why, &x->u.stop.detail); /* known to be stopped */
    return EXIT_RETURN;
}

static int inject_nmis(struct vmc_vcpu *v)
{
    struct vmc_event e = {.vector = VMC_VEC_NMI, .type = VMC_EV_NMI};
    int rc = VMC_OK;

    /* A processor that waits for a start-up IPI takes none. */
    for (uint32_t n = vmci_exchange(&v->nmis, 0u); n > 0 && rc == VMC_OK && !v->wait_sipi; n--)
        rc = v->vm->ops->inject(v->ev, &e);
    return rc == VMC_EAGAIN ? VMC_OK : rc; /* enough are pending already: they collapse */
}

/* Act on what other threads asked for. RESUME: go on. */
static int take_requests(struct vmc_vcpu *v, struct vmc_exit *x)
{
    int rc = VMC_OK;

    if (vmci_load_acquire(&v->vm->stop_why) != 0)
        return shutdown_exit(v, x);
    /* Pause stays set until vmc_vm_resume, and the hint for an engine that pulls until it is passed
       on; the others are consumed here. In one step, because an INIT takes back a start-up request
       that waits. */
    const uint32_t keep = engine_has(v->vm, VMC_CAP_IRQ_PULL) ? REQ_PAUSE | REQ_IRQ : REQ_PAUSE;
    uint32_t req = vmci_load_acquire(&v->request);
    uint32_t left;
    do {
        left = req & keep;
        if (req & (REQ_KICK | REQ_PAUSE)) /* what else was asked for waits for the next run */
            left |= req & (REQ_INIT | REQ_SIPI | REQ_NMI | REQ_CLOCK);
    } while (!__atomic_compare_exchange_n(&v->request, &req, left, false, __ATOMIC_SEQ_CST,
                                          __ATOMIC_SEQ_CST));
    if (req & (REQ_KICK | REQ_PAUSE)) {
        set_exit(x, VMC_EXIT_KICKED);
        return EXIT_RETURN;
    }
    if (req & REQ_CLOCK)
        vmci_pvclock_renew(v);
    if (req & REQ_INIT)
        rc = vmci_vcpu_do_init(v);
    if (rc == VMC_OK && (req & REQ_SIPI))
        rc = vmci_vcpu_do_sipi(v);
    if (rc == VMC_OK && (req & REQ_NMI))
        rc = inject_nmis(v);
    return rc < 0 ? rc : EXIT_RESUME;
}

/* ---- one pass ------------------------------------------------------------------------------ */

static int enter_engine(struct vmc_vcpu *v, const struct slice *s, struct vmc_exit *x)
{
    struct vmc_vm *vm = v->vm;
    struct vmc_run_limits lim = {
        .size = sizeof(lim),
        .exit_mask = s->lim->exit_mask,
        .pause_limit = s->pause_limit,
        .max_insns = s->max_insns,
        .deadline_ns = s->deadline_ns,
        .virtual_ns = s->virtual_ns,
    };
    bool timed = !(vm->flags & VMC_VM_DETERMINISTIC);
    uint64_t before = timed ? platform_now(vm) : 0;

    note_trace(v, VMC_TRACE_ENTER, 0);
    set_exit(x, VMC_EXIT_NONE);
    v->exit_mask = s->lim->exit_mask;
    vmci_store_relaxed(&v->halted_off, 0u);
    __atomic_store_n(&v->in_engine, 1u, __ATOMIC_SEQ_CST);
    int rc = VMC_OK;
    /* A request that came before in_engine was set did not kick the engine. */
    uint32_t req = __atomic_load_n(&v->request, __ATOMIC_SEQ_CST);
    if ((req & ~REQ_IRQ) == 0) {
        if (req & REQ_IRQ) {
            vmci_fetch_and(&v->request, ~REQ_IRQ);
            if (engine_has(vm, VMC_CAP_IRQ_PULL))
                vm->ops->irq_notify(v->ev);
            else
                req |= REQ_TIMER; /* deliver it first */
        }
        if ((req & REQ_TIMER) == 0)
            rc = vm->ops->run(v->ev, &lim, x);
    }
    __atomic_store_n(&v->in_engine, 0u, __ATOMIC_SEQ_CST);
    note_trace(v, VMC_TRACE_EXIT, rc == VMC_OK ? x->kind : (uint64_t)VMC_EXIT_NONE);
    count(&v->stats.retired, x->retired);
    if (timed)
        count(&v->stats.guest_ns, platform_now(vm) - before);
    return rc;
}

int vmci_vcpu_pass(struct vmc_vcpu *v, const struct slice *s, struct vmc_exit *x)
{
    struct vmc_vm *vm = v->vm;

    x->retired = 0;
    int action = EXIT_RESUME;
    if ((vmci_load_acquire(&v->request) & ~REQ_IRQ) != 0 || vmci_load_acquire(&vm->stop_why) != 0)
        action = take_requests(v, x);
    if (action != EXIT_RESUME)
        return action;
    if (v->wait_sipi) {
        set_exit(x, VMC_EXIT_IDLE);
        x->u.idle.why = VMC_IDLE_WAIT_SIPI;
        return EXIT_IDLE;
    }
    if (!engine_has(vm, VMC_CAP_IRQ_PULL)) {
        vmci_fetch_and(&v->request, ~REQ_IRQ);
        int rc = vmci_vcpu_deliver(v);
        if (rc < 0) {
            v->dead = rc;
            return rc;
        }
    }
    int rc = enter_engine(v, s, x);
    if (rc == VMC_OK) /* NONE: a request came first */
        rc = x->kind != VMC_EXIT_NONE ? vmci_vcpu_dispatch(v, s->lim, x) : EXIT_RESUME;
    if (rc < 0)
        v->dead = rc;
    return rc;
}

/* ---- idle ---------------------------------------------------------------------------------- */

/* HLT with interrupts off on every processor that was started: only an NMI could end it, and there
   is nobody left to send one. */
static bool halted_for_ever(const struct vmc_vm *vm)
{
    if (vm->chip.lapics == 0)
        return false;
    for (uint32_t i = 0; i < vm->max_vcpus; i++) {
        const struct vmc_vcpu *v = vm->vcpu[i];
        if (v != NULL && !v->wait_sipi && !vmci_load_relaxed(&v->halted_off))
            return false;
        if (v != NULL && (vmci_load_relaxed(&v->request) & ~REQ_IRQ) != 0)
            return false;
    }
    return true;
}

void vmci_vcpu_idle_exit(struct vmc_vcpu *v, struct vmc_exit *x)
{
    struct vmc_vm *vm = v->vm;

    if (halted_for_ever(vm)) {
        vmc_vm_request_stop(vm, VMC_STOP_HALT_FOREVER, 0);
        (void)shutdown_exit(v, x); /* RETURN */
        return;
    }
    x->u.idle.deadline_ns = UINT64_MAX;
    (void)vmc_timerq_next(vm->board.timers, &x->u.idle.deadline_ns); /* none: stays the maximum */
}

/* Sleep until a request, a timer or the caller's deadline. */
static void park(struct vmc_vcpu *v, const struct vmc_run_limits *lim)
{
    struct vmc_vm *vm = v->vm;
    const struct vmc_platform *pf = vm->pf;
    uint64_t until = lim->deadline_ns != 0 ? lim->deadline_ns : UINT64_MAX;
    uint64_t timer;
    uint64_t before = platform_now(vm);

    if ((lim->flags & VMC_RUN_SELF_TIMED) && vmc_timerq_next(vm->board.timers, &timer))
        until = VMCI_MIN(until, timer);
    __atomic_store_n(&v->parked, 1u, __ATOMIC_SEQ_CST);
    note_trace(v, VMC_TRACE_SLEEP, 0);
    if (until > before)
        pf->sync->park(pf->ctx, &v->request, 0, until);
    note_trace(v, VMC_TRACE_WAKE, 0);
    __atomic_store_n(&v->parked, 0u, __ATOMIC_SEQ_CST);
    count(&v->stats.idle_ns, platform_now(vm) - before);
}

/* True: run on. False: *x is for the embedder. */
static bool wait_idle(struct vmc_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *x)
{
    struct vmc_vm *vm = v->vm;
    /* Its local APIC is in the engine, and so it sleeps there. */
    if (engine_has(vm, VMC_CAP_IRQCHIP) && (lim->flags & VMC_RUN_PARK))
        return true;
    bool takes_irqs = x->u.idle.why != VMC_IDLE_WAIT_SIPI &&
                      (x->u.idle.irqs_on || x->u.idle.why == VMC_IDLE_MWAIT);

    for (;;) {
        if (vmci_load_acquire(&v->request) & REQ_LOOP || vmci_load_acquire(&vm->stop_why) != 0)
            return true;
        /* Forget older hints first, then look: a new one sets the bit again. */
        vmci_fetch_and(&v->request, ~(REQ_IRQ | REQ_TIMER));
        if (takes_irqs && vmci_vcpu_irq_pending(v) >= 0) {
            vmci_fetch_or(&v->request, REQ_IRQ);
            return true;
        }
        if (lim->flags & VMC_RUN_SELF_TIMED) {
            vmc_timerq_advance(vm->board.timers, vmc_timerq_now(vm->board.timers));
            if (vmci_load_acquire(&v->request) != 0)
                continue;
        }
        if (lim->deadline_ns != 0 && platform_now(vm) >= lim->deadline_ns) {
            set_exit(x, VMC_EXIT_BUDGET);
            return false;
        }
        if (!(lim->flags & VMC_RUN_PARK) || halted_for_ever(vm)) {
            vmci_vcpu_idle_exit(v, x);
            return false;
        }
        park(v, lim);
    }
}

/* ---- run ----------------------------------------------------------------------------------- */

/* The earlier of the caller's deadline and, self-timed, the next timer; 0: none. */
static uint64_t next_deadline(const struct vmc_vm *vm, const struct vmc_run_limits *lim)
{
    uint64_t deadline = lim->deadline_ns;
    uint64_t timer;

    if ((lim->flags & VMC_RUN_SELF_TIMED) && vmc_timerq_next(vm->board.timers, &timer) &&
        (deadline == 0 || timer < deadline))
        deadline = VMCI_MAX(timer, 1u);
    return deadline;
}

/* Was a limit of the caller reached? */
static bool spent(const struct vmc_vm *vm, const struct vmc_run_limits *lim, uint64_t retired,
                  const struct vmc_exit *x)
{
    if (lim->max_insns != 0 && engine_has(vm, VMC_CAP_RETIRED) && retired >= lim->max_insns)
        return true;
    /* Without counting, a step is over when the engine says so. */
    if (lim->max_insns != 0 && !engine_has(vm, VMC_CAP_RETIRED) && x->kind == VMC_EXIT_BUDGET)
        return true;
    return lim->deadline_ns != 0 && platform_now(vm) >= lim->deadline_ns;
}

static int run_loop(struct vmc_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *x)
{
    struct vmc_vm *vm = v->vm;
    uint64_t retired = 0;
    int action;

    for (;;) {
        if (lim->flags & VMC_RUN_SELF_TIMED)
            vmc_timerq_advance(vm->board.timers, vmc_timerq_now(vm->board.timers));
        struct slice s = {
            .lim = lim,
            .max_insns = lim->max_insns != 0 ? lim->max_insns - retired : 0,
            .deadline_ns = next_deadline(vm, lim),
            .pause_limit = lim->pause_limit,
        };
        action = vmci_vcpu_pass(v, &s, x);
        if (action < 0)
            return action;
        retired += x->retired;
        if (action == EXIT_RETURN || action == EXIT_OWED)
            break;
        if (spent(vm, lim, retired, x)) {
            set_exit(x, VMC_EXIT_BUDGET);
            break;
        }
        if (action == EXIT_IDLE && !wait_idle(v, lim, x))
            break;
    }
    x->retired = retired;
    return VMC_OK;
}

int vmc_vcpu_run(struct vmc_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *exit)
{
    struct vmc_vm *vm = v->vm;

    int rc = vmci_vcpu_check_run(v, lim);
    if (rc != VMC_OK)
        return rc;
    if (vm->flags & VMC_VM_DETERMINISTIC)
        return VMC_ESTATE; /* vmc_vm_run drives its clock */
    bool self_timed = (lim->flags & VMC_RUN_SELF_TIMED) != 0;
    if (!vmci_vcpu_enter(v, exit))
        return VMC_OK;
    vmci_store_release(&v->in_run, self_timed ? 2u : 1u);
    if (self_timed)
        vmci_fetch_add(&vm->self_timed, 1u);
    if (unlikely(v->pv.steal_msr != 0))
        vmci_steal_enter(v);
    rc = run_loop(v, lim, exit);
    if (unlikely(v->pv.steal_msr != 0))
        vmci_steal_leave(v, rc == VMC_OK && exit->kind != VMC_EXIT_IDLE);
    if (self_timed)
        vmci_fetch_add(&vm->self_timed, -1u);
    vmci_store_release(&v->in_run, 0u);
    vmci_vcpu_leave(v);
    return rc;
}
