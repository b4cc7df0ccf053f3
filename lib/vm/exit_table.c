/* SPDX-License-Identifier: BSD-2-Clause */
/* What the VM layer does with each kind of exit. One row a kind. */
#include "vm/vm_priv.h"

typedef int exit_fn(struct vmc_vcpu *v, struct vmc_exit *x);

#define CPUID_OSXSAVE    (1u << 27)
#define HYPERCALL_ENOSYS ((uint64_t)-1000) /* KVM_ENOSYS: what a guest of KVM's interface expects  \
                                            */

/* Hand the answer to the engine and run on. */
static int finish(struct vmc_vcpu *v, struct vmc_exit *x, uint32_t answer)
{
    x->answer = answer;
    int rc = v->vm->ops->complete(v->ev, x);
    return rc < 0 ? rc : EXIT_RESUME;
}

static int on_io(struct vmc_vcpu *v, struct vmc_exit *x)
{
    if (is_port_call(v->vm, x->u.io.write, x->u.io.port, x->u.io.bytes)) {
        int rc = vmci_port_call(v, x);
        if (rc != 0)
            return rc < 0 ? rc : EXIT_RESUME;
    }
    if (vmci_vcpu_pio(v, x->u.io.write, x->u.io.port, x->u.io.bytes, &x->u.io.data) == VMC_IO_EXIT)
        return EXIT_OWED;
    return finish(v, x, VMC_ANSWER_DONE);
}

static int on_mmio(struct vmc_vcpu *v, struct vmc_exit *x)
{
    if (vmci_vcpu_mmio(v, x->u.mmio.write, x->u.mmio.gpa, x->u.mmio.bytes, &x->u.mmio.data) ==
        VMC_IO_EXIT)
        return EXIT_OWED;
    return finish(v, x, VMC_ANSWER_DONE);
}

static int on_msr(struct vmc_vcpu *v, struct vmc_exit *x)
{
    int rc = vmci_vcpu_msr(v, x->u.msr.write, x->u.msr.index, &x->u.msr.value);

    if (rc == VMC_IO_EXIT)
        return EXIT_OWED;
    return finish(v, x, rc == VMC_IO_GP ? VMC_ANSWER_GP : VMC_ANSWER_DONE);
}

/* The policy, with what depends on the processor and its state (SDM 2A, CPUID). */
static int on_cpuid(struct vmc_vcpu *v, struct vmc_exit *x)
{
    const struct vmc_cpuid_leaf *e =
        vmc_cpu_policy_find(&v->vm->policy, x->u.cpuid.leaf, x->u.cpuid.subleaf);

    x->u.cpuid.eax = e != NULL ? e->eax : 0;
    x->u.cpuid.ebx = e != NULL ? e->ebx : 0;
    x->u.cpuid.ecx = e != NULL ? e->ecx : 0;
    x->u.cpuid.edx = e != NULL ? e->edx : 0;
    if (x->u.cpuid.leaf == 1) {
        x->u.cpuid.ebx = (x->u.cpuid.ebx & 0x00ffffffu) | v->index << 24;
        /* OSXSAVE mirrors CR4; an engine that needs it exact answers leaf 1 itself. */
        x->u.cpuid.ecx &= ~CPUID_OSXSAVE;
    } else if (x->u.cpuid.leaf == 0xb || x->u.cpuid.leaf == 0x1f) {
        x->u.cpuid.edx = v->index;
    }
    return finish(v, x, VMC_ANSWER_DONE);
}

static int on_hypercall(struct vmc_vcpu *v, struct vmc_exit *x)
{
    x->u.hypercall.ret = HYPERCALL_ENOSYS;
    return finish(v, x, VMC_ANSWER_DONE);
}

static int on_idle(struct vmc_vcpu *v, struct vmc_exit *x)
{
    uint32_t off = x->u.idle.why == VMC_IDLE_HLT && !x->u.idle.irqs_on;

    if (engine_has(v->vm, VMC_CAP_IRQCHIP)) {
        vmci_store_relaxed(&v->asleep, (uint32_t)(off || x->u.idle.why == VMC_IDLE_WAIT_SIPI));
        return EXIT_IDLE;
    }
    vmci_store_relaxed(&v->halted_off, off);
    return EXIT_IDLE;
}

static int on_irq_window(struct vmc_vcpu *v, struct vmc_exit *x)
{
    (void)x;
    v->window = false;
    return EXIT_RESUME;
}

static int on_eoi(struct vmc_vcpu *v, struct vmc_exit *x)
{
    if (v->vm->chip.board != NULL)
        vmci_irqchip_eoi(&v->vm->chip, x->u.eoi.vector);
    return EXIT_RESUME;
}

/* One processor that shuts down takes the machine with it. */
static int on_shutdown(struct vmc_vcpu *v, struct vmc_exit *x)
{
    vmc_vm_request_stop(v->vm, (enum vmc_stop)x->u.stop.why, x->u.stop.detail);
    return EXIT_RETURN;
}

/* The engine's limits are ours as well as the caller's: the loop looks which one was reached. */
static int on_resume(struct vmc_vcpu *v, struct vmc_exit *x)
{
    (void)v;
    (void)x;
    return EXIT_RESUME;
}

static int on_return(struct vmc_vcpu *v, struct vmc_exit *x)
{
    (void)v;
    (void)x;
    return EXIT_RETURN;
}

static const struct {
    const char *name;
    exit_fn *fn;
    bool completes; /* the embedder owes a completion when it gets this exit */
} table[VMC_EXIT_KINDS] = {
    [VMC_EXIT_NONE] = {"none", on_return, false},
    [VMC_EXIT_IO] = {"io", on_io, true},
    [VMC_EXIT_MMIO] = {"mmio", on_mmio, true},
    [VMC_EXIT_MSR] = {"msr", on_msr, true},
    [VMC_EXIT_CPUID] = {"cpuid", on_cpuid, true},
    [VMC_EXIT_HYPERCALL] = {"hypercall", on_hypercall, true},
    [VMC_EXIT_IDLE] = {"idle", on_idle, false},
    [VMC_EXIT_IRQ_WINDOW] = {"irq_window", on_irq_window, false},
    [VMC_EXIT_GPA_FAULT] = {"gpa_fault", on_return, false},
    [VMC_EXIT_EXCEPTION] = {"exception", on_return, false},
    [VMC_EXIT_DEBUG] = {"debug", on_return, false},
    [VMC_EXIT_SHUTDOWN] = {"shutdown", on_shutdown, false},
    [VMC_EXIT_BUDGET] = {"budget", on_resume, false},
    [VMC_EXIT_KICKED] = {"kicked", on_resume, false},
    [VMC_EXIT_EOI] = {"eoi", on_eoi, false},
    [VMC_EXIT_FAIL_ENTRY] = {"fail_entry", on_return, false},
    [VMC_EXIT_EMULATION] = {"emulation", on_return, false},
    [VMC_EXIT_PAUSE] = {"pause", on_return, false},
};

const char *vmc_exit_name(uint32_t kind)
{
    return kind < VMC_EXIT_KINDS ? table[kind].name : "?";
}

int vmci_vcpu_dispatch(struct vmc_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *x)
{
    if (x->kind >= VMC_EXIT_KINDS) {
        vmci_bug(v->vm->pf, __FILE__, __LINE__, "engine reports an unknown exit");
        return VMC_EINTERNAL;
    }
    count(&v->stats.exits[x->kind], 1);
    if (vmci_load_relaxed(&v->asleep) != 0 && x->kind != VMC_EXIT_IDLE)
        vmci_store_relaxed(&v->asleep, 0u);
    int action;
    if (lim->exit_mask & (1u << x->kind))
        action = table[x->kind].completes ? EXIT_OWED : EXIT_RETURN;
    else
        action = table[x->kind].fn(v, x);
    if (action == EXIT_OWED) {
        v->owed = true;
        v->owed_kind = x->kind;
    }
    return action;
}

int vmci_vcpu_default(struct vmc_vcpu *v, const struct vmc_exit *x)
{
    struct vmc_exit copy = *x;

    int action = table[x->kind].fn(v, &copy);
    if (action != EXIT_OWED)
        return action < 0 ? action : VMC_OK;
    /* Nobody claims it, and this time the embedder does not want to know: it floats. */
    if (copy.kind == VMC_EXIT_IO)
        copy.u.io.data = UINT32_MAX;
    else if (copy.kind == VMC_EXIT_MMIO)
        copy.u.mmio.data = UINT64_MAX;
    action = finish(v, &copy, copy.kind == VMC_EXIT_MSR ? VMC_ANSWER_GP : VMC_ANSWER_DONE);
    return action < 0 ? action : VMC_OK;
}

int vmc_vcpu_complete(struct vmc_vcpu *v, const struct vmc_exit *exit)
{
    if (!v->owed)
        return VMC_ESTATE;
    if (exit->kind != v->owed_kind || exit->answer > VMC_ANSWER_DEFAULT)
        return VMC_EINVAL;
    int rc = exit->answer == VMC_ANSWER_DEFAULT ? vmci_vcpu_default(v, exit)
                                                : v->vm->ops->complete(v->ev, exit);
    if (rc >= 0)
        v->owed = false;
    return rc;
}
