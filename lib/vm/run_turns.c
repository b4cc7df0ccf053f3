/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All vCPUs on one thread, in turns. In deterministic mode the clock is the count of retired
 * instructions, one nanosecond each, so that every run of a guest is the same run.
 */
#include "vm/vm_priv.h"

/* Instructions a turn: long enough to make switching cheap, short enough for spin locks. */
#define SLICE_INSNS 20000u

struct turns {
    struct vmc_vm *vm;
    const struct vmc_run_limits *lim;
    uint64_t retired; /* by all vCPUs, in this call */
    bool det;
};

static uint64_t clock_now(const struct turns *t)
{
    return t->det ? t->vm->clock_ns : vmc_timerq_now(t->vm->board.timers);
}

static void set_clock(struct turns *t, uint64_t now)
{
    t->vm->clock_ns = now;
    vmc_timerq_set_virtual(t->vm->board.timers, now);
}

/* Length of the next slice: a turn, the caller's rest, and not past the next timer. */
static uint64_t slice_insns(const struct turns *t)
{
    uint64_t n = t->vm->slice_left;
    uint64_t timer;

    if (t->lim->max_insns != 0)
        n = VMCI_MIN(n, t->lim->max_insns - t->retired);
    if (t->det && vmc_timerq_next(t->vm->board.timers, &timer))
        n = VMCI_MIN(n, timer > t->vm->clock_ns ? timer - t->vm->clock_ns : 1);
    return VMCI_MAX(n, 1u);
}

static bool spent(const struct turns *t)
{
    if (t->lim->max_insns != 0 && t->retired >= t->lim->max_insns)
        return true;
    return t->lim->deadline_ns != 0 && clock_now(t) >= t->lim->deadline_ns;
}

/* Give one vCPU its turn. */
static int turn(struct turns *t, struct vmc_vcpu *v, struct vmc_exit *x)
{
    struct vmc_vm *vm = t->vm;
    struct slice s = {
        .lim = t->lim,
        .max_insns = slice_insns(t),
        .virtual_ns = vm->clock_ns,
    };
    uint64_t timer;

    if (!t->det && vmc_timerq_next(vm->board.timers, &timer))
        s.deadline_ns = VMCI_MAX(timer, 1u);
    int action = vmci_vcpu_pass(v, &s, x);
    if (action < 0)
        return action;
    t->retired += x->retired;
    vm->slice_left -= VMCI_MIN(x->retired, vm->slice_left);
    if (t->det)
        set_clock(t, vm->clock_ns + x->retired);
    vmc_timerq_advance(vm->board.timers, clock_now(t));
    return action;
}

/* Can an idle vCPU go on? */
static bool wakes(struct vmc_vcpu *v, const struct vmc_exit *idle)
{
    if (vmci_load_acquire(&v->request) & REQ_LOOP)
        return true;
    bool takes_irqs = idle->u.idle.why != VMC_IDLE_WAIT_SIPI &&
                      (idle->u.idle.irqs_on || idle->u.idle.why == VMC_IDLE_MWAIT);
    if (!takes_irqs || vmci_vcpu_irq_pending(v) < 0)
        return false;
    vmci_fetch_or(&v->request, REQ_IRQ);
    return true;
}

static struct vmc_vcpu *next_vcpu(struct vmc_vm *vm)
{
    do {
        vm->turn = (vm->turn + 1) % vm->max_vcpus;
    } while (vm->vcpu[vm->turn] == NULL); /* vCPU 0 exists */
    vm->slice_left = SLICE_INSNS;
    return vm->vcpu[vm->turn];
}

static bool any_request(const struct vmc_vm *vm)
{
    for (uint32_t i = 0; i < vm->max_vcpus; i++) {
        if (vm->vcpu[i] != NULL && __atomic_load_n(&vm->vcpu[i]->request, __ATOMIC_SEQ_CST) != 0)
            return true;
    }
    return false;
}

/* Every vCPU is idle: let time pass to the next timer. False: *x is for the embedder. */
static bool pass_time(struct turns *t, struct vmc_vcpu *v, struct vmc_exit *x)
{
    struct vmc_vm *vm = t->vm;
    const struct vmc_platform *pf = vm->pf;
    uint64_t until = t->lim->deadline_ns != 0 ? t->lim->deadline_ns : UINT64_MAX;
    uint64_t timer = UINT64_MAX;

    __atomic_store_n(&vm->in_turns, TURNS_PARKED, __ATOMIC_SEQ_CST);
    uint32_t seen = __atomic_load_n(&vm->turn_wakes, __ATOMIC_SEQ_CST);
    if (any_request(vm))
        return true; /* something came while the others had their turn */
    bool any = vmc_timerq_next(vm->board.timers, &timer);
    if (t->det && any) {
        set_clock(t, VMCI_MAX(vm->clock_ns, VMCI_MIN(timer, until)));
    } else if (!t->det && (t->lim->flags & VMC_RUN_PARK)) {
        uint64_t before = pf->now_ns(pf->ctx);
        pf->sync->park(pf->ctx, &vm->turn_wakes, seen, VMCI_MIN(until, timer));
        count(&v->stats.idle_ns, pf->now_ns(pf->ctx) - before);
    } else {
        vmci_vcpu_idle_exit(v, x);
        return false;
    }
    vmc_timerq_advance(vm->board.timers, clock_now(t));
    return true;
}

static int turns_loop(struct turns *t, struct vmc_vcpu **who, struct vmc_exit *x)
{
    struct vmc_vm *vm = t->vm;
    struct vmc_vcpu *v = vm->vcpu[vm->turn];
    uint32_t idle = 0; /* vCPUs in a row that had nothing to do */
    int action;

    for (;;) {
        action = turn(t, v, x);
        *who = v;
        if (action < 0 || action == EXIT_RETURN || action == EXIT_OWED)
            break;
        bool is_idle = action == EXIT_IDLE;
        idle = is_idle && !wakes(v, x) ? idle + 1 : 0;
        /* The turn does not depend on where the caller's limits cut the run. */
        if (is_idle || vm->slice_left == 0)
            v = next_vcpu(vm);
        if (spent(t)) {
            set_exit(x, VMC_EXIT_BUDGET);
            break;
        }
        if (idle > vm->max_vcpus) {
            bool go_on = pass_time(t, v, x);
            vmci_store_release(&vm->in_turns, TURNS_RUNNING);
            if (!go_on)
                break;
        }
    }
    x->retired = t->retired;
    return action < 0 ? action : VMC_OK;
}

int vmc_vm_run(struct vmc_vm *vm, const struct vmc_run_limits *lim, struct vmc_vcpu **who,
               struct vmc_exit *exit)
{
    struct turns t = {.vm = vm, .lim = lim, .det = (vm->flags & VMC_VM_DETERMINISTIC) != 0};

    if (!vm->started)
        return VMC_ESTATE;
    if (!engine_has(vm, VMC_CAP_RETIRED) || engine_has(vm, VMC_CAP_IRQCHIP))
        return VMC_ENOTSUP;
    for (uint32_t i = 0; i < vm->max_vcpus; i++) {
        int rc = vm->vcpu[i] != NULL ? vmci_vcpu_check_run(vm->vcpu[i], lim) : VMC_OK;
        if (rc != VMC_OK)
            return rc;
    }
    struct vmc_vcpu *v = vm->vcpu[vm->turn];
    *who = v;
    if (!vmci_vcpu_enter(v, exit))
        return VMC_OK;
    vmci_store_release(&vm->in_turns, TURNS_RUNNING);
    if (vm->slice_left == 0)
        vm->slice_left = SLICE_INSNS;
    int rc = turns_loop(&t, who, exit);
    vmci_store_release(&vm->in_turns, TURNS_NONE);
    vmci_vcpu_leave(v);
    return rc;
}
