/* SPDX-License-Identifier: BSD-2-Clause */
/* Between the interrupt controllers and the vCPUs. */
#include "vm/vm_priv.h"

/* ---- what the controllers ask for (any thread) --------------------------------------------- */

static struct vmc_vcpu *target(void *ctx, uint32_t index)
{
    struct vmc_vm *vm = ctx;

    return index < vm->max_vcpus ? vm->vcpu[index] : NULL;
}

static void notify(void *ctx, uint32_t index)
{
    struct vmc_vcpu *v = target(ctx, index);

    if (v != NULL)
        vmci_vcpu_request(v, REQ_IRQ);
}

static void nmi(void *ctx, uint32_t index)
{
    struct vmc_vcpu *v = target(ctx, index);

    if (v == NULL)
        return;
    /* Between two instructions of the target, one is taken and one is latched meanwhile. */
    uint32_t n = vmci_load_relaxed(&v->nmis);
    while (n < 2 && !__atomic_compare_exchange_n(&v->nmis, &n, n + 1, true, __ATOMIC_RELAXED,
                                                 __ATOMIC_RELAXED))
        ;
    vmci_vcpu_request(v, REQ_NMI);
}

static void init(void *ctx, uint32_t index)
{
    struct vmc_vcpu *v = target(ctx, index);

    if (v != NULL) {
        /* A start-up IPI that came before the INIT has nothing to start. */
        vmci_fetch_and(&v->request, ~REQ_SIPI);
        vmci_vcpu_request(v, REQ_INIT);
    }
}

static void sipi(void *ctx, uint32_t index, uint8_t vector)
{
    struct vmc_vcpu *v = target(ctx, index);

    if (v != NULL) {
        vmci_store_release(&v->sipi, (uint32_t)vector);
        vmci_vcpu_request(v, REQ_SIPI);
    }
}

static void tsc(void *ctx, uint32_t index, uint64_t *value, uint64_t *hz)
{
    struct vmc_vm *vm = ctx;
    struct vmc_vcpu *v = target(ctx, index);

    *value = 0;
    *hz = 0;
    if (v != NULL && vm->ops->read_tsc != NULL &&
        vm->ops->read_tsc(v->ev, value, hz, NULL) != VMC_OK)
        *hz = 0;
}

static void engine_msi(void *ctx, uint64_t addr, uint32_t data)
{
    struct vmc_vm *vm = ctx;

    int rc = vm->ops->msi(vm->evm, addr, data);
    if (rc < 0)
        vmci_log(vm->pf, VMC_LOG_ERROR, "vm", "engine %s lost an interrupt message: %s",
                 vm->ops->name, vmc_strerror(rc));
}

static void engine_route(void *ctx, unsigned pin, uint64_t addr, uint32_t data, bool level)
{
    struct vmc_vm *vm = ctx;

    if (!vm->started || vm->ops->ioapic_route == NULL)
        return; /* vmc_vm_start publishes them all */
    int rc = vm->ops->ioapic_route(vm->evm, pin, addr, data, level);
    if (rc < 0)
        vmci_log(vm->pf, VMC_LOG_ERROR, "vm", "engine %s refuses the route of IOAPIC pin %u: %s",
                 vm->ops->name, pin, vmc_strerror(rc));
}

const struct vmci_irqchip_ops vmci_vm_irq_ops = {
    .notify = notify,
    .nmi = nmi,
    .init = init,
    .sipi = sipi,
    .tsc = tsc,
};

const struct vmci_irqchip_ops vmci_vm_irq_engine_ops = {
    .notify = notify,
    .nmi = nmi,
    .init = init,
    .sipi = sipi,
    .tsc = tsc,
    .msi = engine_msi,
    .route = engine_route,
};

/* ---- what a vCPU takes --------------------------------------------------------------------- */

int vmci_vcpu_irq_pending(struct vmc_vcpu *v)
{
    const struct vmc_vm *vm = v->vm;

    if (v->lapic != NULL)
        return vmci_lapic_pending(v->lapic);
    /* The engine has the local APICs; what is left here is the 8259, wired to the first vCPU. */
    if (vm->chip.board != NULL && v->index == 0 && vmci_load_acquire(&vm->chip.pic.intr) != 0)
        return 0;
    return -1;
}

int vmci_vcpu_irq_ack(struct vmc_vcpu *v)
{
    int vector = v->lapic != NULL               ? vmci_lapic_ack(v->lapic)
                 : vmci_vcpu_irq_pending(v) < 0 ? -1
                                                : vmci_irqchip_pic_ack(&v->vm->chip);

    if (vector >= 0) {
        count(&v->stats.irqs, 1);
        note_trace(v, VMC_TRACE_IRQ, (uint64_t)vector);
    }
    return vector;
}

static int set_window(struct vmc_vcpu *v, bool on)
{
    if (v->window == on)
        return VMC_OK;
    int rc = v->vm->ops->want_window(v->ev, on);
    if (rc == VMC_OK)
        v->window = on;
    return rc;
}

int vmci_vcpu_deliver(struct vmc_vcpu *v)
{
    const struct vmc_engine_ops *ops = v->vm->ops;
    struct vmc_event e = {.type = VMC_EV_IRQ};

    if (vmci_vcpu_irq_pending(v) < 0)
        return set_window(v, false);
    int rc = ops->can_inject(v->ev, &e);
    if (rc == VMC_EAGAIN)
        return set_window(v, true);
    if (rc != VMC_OK)
        return rc;
    int vector = vmci_vcpu_irq_ack(v);
    if (vector < 0)
        return VMC_OK;
    e.vector = (uint8_t)vector;
    rc = ops->inject(v->ev, &e);
    if (rc != VMC_OK)
        return rc;
    return set_window(v, vmci_vcpu_irq_pending(v) >= 0);
}
