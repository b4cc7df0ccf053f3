/* SPDX-License-Identifier: BSD-2-Clause */
/* What a running engine may ask of the machine (struct vmc_engine_io), on the vCPU's thread. */
#include "vm/vm_priv.h"

/* In deterministic mode the devices see the time of the instruction that touches them. */
static __attribute__((noinline)) void read_clock(struct vmc_vcpu *v)
{
    struct vmc_vm *vm = v->vm;
    uint64_t tsc, hz, clock = 0;

    if (vm->ops->read_tsc == NULL)
        return;
    if (vm->ops->read_tsc(v->ev, &tsc, &hz, &clock) == VMC_OK && clock >= vm->clock_ns)
        vmc_timerq_set_virtual(vm->board.timers, clock);
}

static inline void sync_clock(struct vmc_vcpu *v)
{
    if (unlikely(v->vm->flags & VMC_VM_DETERMINISTIC))
        read_clock(v);
}

/*
 * A guest that polls a clock expects the interrupts of the time that it reads. Where a thread of
 * the embedder serves the timers it can be late, so a device access serves first what is due; one
 * in sixteen does, since it costs a look at the clock.
 */
static __attribute__((noinline)) void serve_timers(struct vmc_vcpu *v)
{
    struct vmc_timerq *timers = v->vm->board.timers;

    vmc_timerq_advance(timers, vmc_timerq_now(timers));
}

static inline void before_access(struct vmc_vcpu *v)
{
    if (unlikely(v->vm->flags & VMC_VM_DETERMINISTIC))
        read_clock(v);
    else if (unlikely(((v->stats.pio + v->stats.mmio) & 15) == 0))
        serve_timers(v);
}

int vmci_vcpu_pio(struct vmc_vcpu *v, bool write, uint16_t port, unsigned bytes, uint32_t *data)
{
    struct vmc_vm *vm = v->vm;
    bool claimed;

    before_access(v);
    if (write) {
        claimed = vmc_bus_write(vm->board.pio, port, bytes, *data);
    } else {
        uint64_t value;
        claimed = vmc_bus_read(vm->board.pio, port, bytes, &value);
        *data = (uint32_t)value;
    }
    if (!claimed && (vm->flags & VMC_VM_PIO_EXITS))
        return VMC_IO_EXIT;
    count(&v->stats.pio, 1);
    return VMC_IO_DONE;
}

int vmci_vcpu_mmio(struct vmc_vcpu *v, bool write, uint64_t gpa, unsigned bytes, uint64_t *data)
{
    struct vmc_vm *vm = v->vm;
    bool claimed;

    before_access(v);
    if (v->lapic != NULL && vmci_lapic_claims(v->lapic, gpa)) {
        if (write)
            vmci_lapic_write(v->lapic, (uint32_t)gpa & 0xfff, bytes, *data);
        else
            *data = vmci_lapic_read(v->lapic, (uint32_t)gpa & 0xfff, bytes);
        claimed = true;
    } else if (write) {
        claimed = vmc_bus_write(vm->board.mmio, gpa, bytes, *data);
    } else {
        claimed = vmc_bus_read(vm->board.mmio, gpa, bytes, data);
    }
    if (!claimed && (vm->flags & VMC_VM_MMIO_EXITS))
        return VMC_IO_EXIT;
    count(&v->stats.mmio, 1);
    return VMC_IO_DONE;
}

static bool is_lapic_msr(uint32_t index)
{
    return index == VMC_MSR_APIC_BASE || index == VMC_MSR_TSC_DEADLINE ||
           (index >= VMC_MSR_X2APIC_FIRST && index <= VMC_MSR_X2APIC_LAST);
}

static int unknown_msr(struct vmc_vcpu *v, bool write, uint32_t index)
{
    struct vmc_vm *vm = v->vm;

    if (vm->flags & VMC_VM_MSR_EXITS)
        return VMC_IO_EXIT;
    if (vmci_loglimit_ok(&v->loglimit))
        vmci_log(vm->pf, VMC_LOG_DEBUG, "vm", "vCPU %u %s unknown MSR 0x%x: #GP", v->index,
                 write ? "writes" : "reads", index);
    return VMC_IO_GP;
}

int vmci_vcpu_msr(struct vmc_vcpu *v, bool write, uint32_t index, uint64_t *value)
{
    if (is_lapic_msr(index) && v->lapic != NULL) {
        sync_clock(v);
        bool ok = write ? vmci_lapic_wrmsr(v->lapic, index, *value)
                        : vmci_lapic_rdmsr(v->lapic, index, value);
        return ok ? VMC_IO_DONE : VMC_IO_GP;
    }
    if (index == VMC_MSR_KVM_WALL_CLOCK || index == VMC_MSR_KVM_SYSTEM_TIME ||
        index == VMC_MSR_KVM_STEAL_TIME) {
        sync_clock(v);
        return vmci_pvclock_msr(v, write, index, value);
    }
    return unknown_msr(v, write, index);
}

/* ---- the table ----------------------------------------------------------------------------- */

static bool masked(const struct vmc_vcpu *v, uint32_t kind)
{
    return (v->exit_mask & (1u << kind)) != 0;
}

static int io_pio(void *ctx, bool write, uint16_t port, unsigned bytes, uint32_t *data)
{
    struct vmc_vcpu *v = ctx;

    if (unlikely(masked(v, VMC_EXIT_IO)))
        return VMC_IO_EXIT;
    /* A write that concerns nobody but a device: what guests do most. */
    if (likely(write && !(v->vm->flags & (VMC_VM_DETERMINISTIC | VMC_VM_PIO_EXITS)))) {
        count(&v->stats.pio, 1);
        (void)vmc_bus_write(v->vm->board.pio, port, bytes, *data);
        return VMC_IO_DONE;
    }
    if (is_port_call(v->vm, write, port, bytes))
        return VMC_IO_EXIT;
    return vmci_vcpu_pio(v, write, port, bytes, data);
}

static int io_mmio(void *ctx, bool write, uint64_t gpa, unsigned bytes, uint64_t *data)
{
    struct vmc_vcpu *v = ctx;

    return masked(v, VMC_EXIT_MMIO) ? VMC_IO_EXIT : vmci_vcpu_mmio(v, write, gpa, bytes, data);
}

static int io_msr(void *ctx, bool write, uint32_t index, uint64_t *value)
{
    struct vmc_vcpu *v = ctx;

    return masked(v, VMC_EXIT_MSR) ? VMC_IO_EXIT : vmci_vcpu_msr(v, write, index, value);
}

static int io_irq_pending(void *ctx)
{
    return vmci_vcpu_irq_pending(ctx);
}

static int io_irq_ack(void *ctx)
{
    return vmci_vcpu_irq_ack(ctx);
}

static uint64_t io_get_tpr(void *ctx)
{
    struct vmc_vcpu *v = ctx;

    return v->lapic != NULL ? vmci_lapic_get_tpr(v->lapic) : v->cr8;
}

static void io_set_tpr(void *ctx, uint64_t cr8)
{
    struct vmc_vcpu *v = ctx;

    if (v->lapic != NULL)
        vmci_lapic_set_tpr(v->lapic, cr8);
    else
        v->cr8 = cr8 & 0xf;
}

static uint32_t io_apic_lend(void *ctx, uint8_t *page, uint32_t level[8])
{
    const struct vmc_vcpu *v = ctx;

    return v->lapic != NULL ? vmci_lapic_lend(v->lapic, page, level) : VMC_APIC_KEPT;
}

static bool io_apic_return(void *ctx, const uint8_t *page)
{
    return vmci_lapic_return(((const struct vmc_vcpu *)ctx)->lapic, page);
}

static void io_apic_eoi(void *ctx, uint8_t vector)
{
    vmci_lapic_eoi_done(((const struct vmc_vcpu *)ctx)->lapic, vector);
}

static bool io_apic_post(void *ctx, uint32_t requests[8])
{
    const struct vmc_vcpu *v = ctx;

    return v->lapic != NULL && vmci_lapic_post(v->lapic, requests);
}

static void io_apic_unpost(void *ctx, uint32_t requests[8])
{
    const struct vmc_vcpu *v = ctx;

    if (v->lapic != NULL)
        vmci_lapic_unpost(v->lapic, requests);
}

static void io_tsc_moved(void *ctx)
{
    struct vmc_vcpu *v = ctx;

    sync_clock(v);
    vmci_pvclock_tsc_moved(v);
    if (v->lapic != NULL)
        vmci_apic_timer_tsc_moved(v->lapic);
}

/* Without anything on the line nobody could end the wait: IGNNE# is strapped. */
static bool io_ferr(void *ctx, bool asserted)
{
    struct vmc_vcpu *v = ctx;

    return v->vm->ferr == NULL || v->vm->ferr(v->vm->ferr_ctx, asserted);
}

const struct vmc_engine_io vmci_vm_engine_io = {
    .pio = io_pio,
    .mmio = io_mmio,
    .msr = io_msr,
    .irq_pending = io_irq_pending,
    .irq_ack = io_irq_ack,
    .get_tpr = io_get_tpr,
    .set_tpr = io_set_tpr,
    .ferr = io_ferr,
    .apic_lend = io_apic_lend,
    .apic_return = io_apic_return,
    .apic_eoi = io_apic_eoi,
    .apic_post = io_apic_post,
    .apic_unpost = io_apic_unpost,
    .tsc_moved = io_tsc_moved,
};
