/* SPDX-License-Identifier: BSD-2-Clause */
/* vCPUs: creation, state, requests from other threads, statistics. */
#include "vm/vm_priv.h"

static const char site[] = "vcpu/create";

/* ---- attention ----------------------------------------------------------------------------- */

void vmci_vcpu_request(struct vmc_vcpu *v, uint32_t bits)
{
    struct vmc_vm *vm = v->vm;
    const struct vmc_platform *pf = vm->pf;

    __atomic_fetch_or(&v->request, bits, __ATOMIC_SEQ_CST);
    /* Ordered against vmci_vcpu_pass, which sets in_engine and then looks at request: one of the
       two sees the other. */
    if (__atomic_load_n(&v->in_engine, __ATOMIC_SEQ_CST)) {
        if ((bits & ~REQ_IRQ) == 0 && engine_has(vm, VMC_CAP_IRQ_PULL))
            vm->ops->irq_notify(v->ev);
        else
            vm->ops->kick(v->ev);
    } else if (vm->wake_fn != NULL) {
        vm->wake_fn(vm->wake_ctx, v->index);
    }
    if (!vmci_pf_has(pf, sync))
        return;
    if (__atomic_load_n(&v->parked, __ATOMIC_SEQ_CST))
        pf->sync->wake(pf->ctx, &v->request);
    if (__atomic_load_n(&vm->in_turns, __ATOMIC_SEQ_CST) == TURNS_PARKED) {
        __atomic_fetch_add(&vm->turn_wakes, 1u, __ATOMIC_SEQ_CST);
        pf->sync->wake(pf->ctx, &vm->turn_wakes);
    }
}

void vmc_vm_set_wake_hook(struct vmc_vm *vm, void (*fn)(void *ctx, uint32_t index), void *ctx)
{
    vm->wake_ctx = ctx;
    vm->wake_fn = fn;
}

void vmc_vcpu_kick(struct vmc_vcpu *v)
{
    vmci_vcpu_request(v, REQ_KICK);
}

/* ---- creation ------------------------------------------------------------------------------ */

static int init_engine(struct vmc_vcpu *v, struct vmc_error *err)
{
    struct vmc_vm *vm = v->vm;
    size_t bytes = vm->info.vcpu_bytes;

    v->ev = vmci_alloc_aligned(vm->pf, bytes, VMCI_CACHELINE);
    if (v->ev == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for vCPU %u (%zu bytes)", v->index,
                          bytes);
    (void)vmci_large_pages(vm->pf, v->ev, bytes, bytes);
    memset(v->ev, 0, bytes);
    int rc = vm->ops->vcpu_init(vm->evm, v->ev, v->index, &v->io, err);
    if (rc != VMC_OK) {
        vmci_free_aligned(vm->pf, v->ev, bytes, VMCI_CACHELINE);
        v->ev = NULL;
    }
    return rc;
}

int vmc_vcpu_create(struct vmc_vm *vm, uint32_t index, struct vmc_vcpu **out, struct vmc_error *err)
{
    if (vm->started)
        return vmci_error(err, VMC_ESTATE, site, "the VM has started already");
    if (index >= vm->max_vcpus)
        return vmci_error(err, VMC_ERANGE, site, "vCPU %u of a VM with %u", index, vm->max_vcpus);
    if (vm->vcpu[index] != NULL)
        return vmci_error(err, VMC_EEXIST, site, "vCPU %u exists already", index);
    struct vmc_vcpu *v = vmci_alloc_aligned(vm->pf, sizeof(*v), VMCI_CACHELINE);
    if (v == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for vCPU %u", index);
    memset(v, 0, sizeof(*v));
    v->vm = vm;
    v->index = index;
    v->io = vmci_vm_engine_io;
    v->io.ctx = v;
    v->lapic = index < vm->chip.lapics ? &vm->chip.lapic[index] : NULL;
    int rc = init_engine(v, err);
    if (rc == VMC_OK) {
        rc = vmci_vcpu_reset(v);
        if (rc != VMC_OK)
            rc = vmci_error(err, rc, site, "engine %s refuses the reset state: %s", vm->ops->name,
                            vmc_strerror(rc));
    }
    if (rc != VMC_OK) {
        vmci_vcpu_destroy(v);
        return rc;
    }
    vm->vcpu[index] = v;
    *out = v;
    return VMC_OK;
}

void vmci_vcpu_destroy(struct vmc_vcpu *v)
{
    if (v == NULL)
        return;
    if (v->ev != NULL) {
        v->vm->ops->vcpu_fini(v->ev);
        vmci_free_aligned(v->vm->pf, v->ev, v->vm->info.vcpu_bytes, VMCI_CACHELINE);
    }
    vmci_free_aligned(v->vm->pf, v, sizeof(*v), VMCI_CACHELINE);
}

/* Processor signature, which RESET and INIT leave in EDX. */
static uint64_t signature(const struct vmc_vm *vm)
{
    const struct vmc_cpuid_leaf *one = vmc_cpu_policy_find(&vm->policy, 1, 0);

    return one != NULL ? one->eax : 0;
}

/* A buffer for the whole state: too large for a kernel's stack. */
struct vmc_x86_state *vmci_state_alloc(struct vmc_vm *vm)
{
    return vmci_alloc_aligned(vm->pf, sizeof(struct vmc_x86_state), _Alignof(struct vmc_x86_state));
}

void vmci_state_free(struct vmc_vm *vm, struct vmc_x86_state *st)
{
    vmci_free_aligned(vm->pf, st, sizeof(*st), _Alignof(struct vmc_x86_state));
}

int vmci_vcpu_reset(struct vmc_vcpu *v)
{
    struct vmc_vm *vm = v->vm;
    struct vmc_x86_state *st = vmci_state_alloc(vm);
    /* The TSCs go on: set one after the other they would no longer be one. What the guest moved
       them by is undone with TSC_ADJUST. */
    uint32_t groups = VMC_ST_ALL & ~(uint32_t)VMC_ST_CLOCK;

    if (st == NULL)
        return VMC_ENOMEM;
    vmc_x86_state_reset(st);
    st->gpr[VMC_RDX] = signature(vm);
    if (v->index == 0)
        st->msr.apic_base |= VMC_APIC_BASE_BSP;
    else if (!(vm->flags & VMC_VM_NO_IRQCHIP))
        st->activity = VMC_RUN_WAIT_SIPI;
    if (!engine_has(vm, VMC_CAP_IRQCHIP))
        groups &= ~(uint32_t)VMC_ST_LAPIC;
    else
        vmci_lapic_reset_page(st->lapic, v->index);
    int rc = vm->ops->set_state(v->ev, groups, st);
    vmci_state_free(vm, st);
    v->wait_sipi = v->index != 0 && v->lapic != NULL;
    v->owed = false;
    v->window = false;
    v->cr8 = 0;
    v->dead = 0;
    vmci_store_relaxed(&v->halted_off, 0u);
    vmci_store_relaxed(&v->nmis, 0u);
    vmci_store_release(&v->request, 0u);
    if (v->lapic != NULL)
        vmci_lapic_reset(v->lapic, false);
    vmci_pvclock_reset(v);
    return rc;
}

/* INIT keeps the FPU, the MSRs, the cache bits of CR0, XCR0 and the TSC (SDM 3A table 10-1). */
int vmci_vcpu_do_init(struct vmc_vcpu *v)
{
    struct vmc_vm *vm = v->vm;
    struct vmc_x86_state *st = vmci_state_alloc(vm);
    const uint32_t groups = VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG | VMC_ST_TABLES | VMC_ST_CTRL |
                            VMC_ST_DEBUG | VMC_ST_EVENT | VMC_ST_RUN;

    if (st == NULL)
        return VMC_ENOMEM;
    int rc = vm->ops->get_state(v->ev, VMC_ST_CTRL, st);
    uint64_t cache = st->cr0 & (VMC_CR0_CD | VMC_CR0_NW);
    uint64_t xcr0 = st->xcr0;
    vmc_x86_state_reset(st);
    st->cr0 = VMC_CR0_ET | cache;
    st->xcr0 = xcr0;
    st->gpr[VMC_RDX] = signature(vm);
    v->wait_sipi = v->index != 0;
    if (v->wait_sipi)
        st->activity = VMC_RUN_WAIT_SIPI;
    if (rc == VMC_OK)
        rc = vm->ops->set_state(v->ev, groups, st);
    vmci_state_free(vm, st);
    vmci_store_relaxed(&v->halted_off, 0u);
    if (v->lapic != NULL)
        vmci_lapic_reset(v->lapic, true);
    return rc;
}

int vmci_vcpu_do_sipi(struct vmc_vcpu *v)
{
    struct vmc_vm *vm = v->vm;
    uint32_t vector = vmci_load_acquire(&v->sipi);

    if (!v->wait_sipi)
        return VMC_OK; /* ignored by a processor that runs */
    struct vmc_x86_state *st = vmci_state_alloc(vm);
    if (st == NULL)
        return VMC_ENOMEM;
    int rc = vm->ops->get_state(v->ev, VMC_ST_SEG | VMC_ST_RIP, st);
    st->seg[VMC_CS].selector = (uint16_t)(vector << 8);
    st->seg[VMC_CS].base = (uint64_t)vector << 12;
    st->rip = 0;
    st->activity = VMC_RUN_RUNNING;
    st->sipi_vector = UINT32_MAX;
    if (rc == VMC_OK)
        rc = vm->ops->set_state(v->ev, VMC_ST_SEG | VMC_ST_RIP | VMC_ST_RUN, st);
    vmci_state_free(vm, st);
    v->wait_sipi = false;
    return rc;
}

/* ---- state --------------------------------------------------------------------------------- */

int vmc_vcpu_get_state(struct vmc_vcpu *v, uint32_t groups, struct vmc_x86_state *st)
{
    if (groups & ~(uint32_t)VMC_ST_ALL)
        return VMC_EINVAL;
    uint32_t engine = groups;
    if (v->lapic != NULL)
        engine &= ~(uint32_t)VMC_ST_LAPIC;
    int rc = v->vm->ops->get_state(v->ev, engine, st);
    if (rc != VMC_OK)
        return rc;
    if ((groups & VMC_ST_RUN) && v->wait_sipi)
        st->activity = VMC_RUN_WAIT_SIPI;
    if (v->lapic == NULL)
        return VMC_OK;
    if (groups & VMC_ST_MSR) {
        st->msr.apic_base = v->lapic->base;
        st->msr.tsc_deadline = vmci_apic_timer_get_deadline(v->lapic);
    }
    if (groups & VMC_ST_LAPIC) /* behind the deadline, which is a request if it is over */
        vmci_lapic_get_page(v->lapic, st->lapic);
    if (groups & VMC_ST_CTRL)
        st->cr8 = vmci_lapic_get_tpr(v->lapic);
    return VMC_OK;
}

static int set_lapic_state(struct vmc_vcpu *v, uint32_t groups, const struct vmc_x86_state *st)
{
    struct vmci_lapic *l = v->lapic;

    if (groups & VMC_ST_MSR) {
        if ((st->msr.apic_base & (VMC_APIC_BASE_ENABLE | VMC_APIC_BASE_X2APIC)) ==
            VMC_APIC_BASE_X2APIC)
            return VMC_EINVAL;
        vmci_store_relaxed(&l->base, st->msr.apic_base & (VMCI_BIT(VMC_GPA_BITS) - 1));
    }
    if (groups & VMC_ST_LAPIC)
        vmci_lapic_set_page(l, st->lapic);
    if (groups & VMC_ST_MSR)
        vmci_apic_timer_set_deadline(l, st->msr.tsc_deadline);
    if (groups & VMC_ST_CTRL)
        vmci_lapic_set_tpr(l, st->cr8);
    return VMC_OK;
}

int vmc_vcpu_set_state(struct vmc_vcpu *v, uint32_t groups, const struct vmc_x86_state *st)
{
    if (groups & ~(uint32_t)VMC_ST_ALL)
        return VMC_EINVAL;
    if (v->owed)
        return VMC_ESTATE;
    uint32_t engine = groups;
    if (v->lapic != NULL)
        engine &= ~(uint32_t)VMC_ST_LAPIC;
    int rc = v->vm->ops->set_state(v->ev, engine, st);
    if (rc != VMC_OK)
        return rc;
    if (groups & VMC_ST_MSR)
        vmci_pvclock_set_adjust(v, st->msr.tsc_adjust);
    if (groups & VMC_ST_RUN)
        v->wait_sipi = v->lapic != NULL && st->activity == VMC_RUN_WAIT_SIPI;
    return v->lapic != NULL ? set_lapic_state(v, groups, st) : VMC_OK;
}

int vmc_vcpu_inject(struct vmc_vcpu *v, const struct vmc_event *e)
{
    if (v->owed)
        return VMC_ESTATE;
    int rc = v->vm->ops->can_inject(v->ev, e);
    return rc == VMC_OK ? v->vm->ops->inject(v->ev, e) : rc;
}

int vmc_vcpu_set_debug(struct vmc_vcpu *v, const struct vmc_breakpoint *bp, size_t n)
{
    if (!engine_has(v->vm, VMC_CAP_BREAKPOINT))
        return VMC_ENOTSUP;
    return v->vm->ops->set_debug(v->ev, bp, n);
}

uint32_t vmc_vcpu_index(const struct vmc_vcpu *v)
{
    return v->index;
}

/* ---- statistics ---------------------------------------------------------------------------- */

void vmc_vcpu_get_stats(struct vmc_vcpu *v, struct vmc_vcpu_stats *out)
{
    const uint64_t *from = (const uint64_t *)(const void *)&v->stats;
    uint64_t *to = (uint64_t *)(void *)out;

    for (size_t i = 0; i < sizeof(*out) / sizeof(*to); i++)
        to[i] = vmci_load_relaxed(&from[i]);
    out->size = sizeof(*out);
    out->pad = 0;
}

size_t vmc_vcpu_engine_stats(struct vmc_vcpu *v, const char **names, uint64_t *values, size_t max)
{
    return v->vm->ops->stats != NULL ? v->vm->ops->stats(v->ev, names, values, max) : 0;
}
