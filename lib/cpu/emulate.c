/* SPDX-License-Identifier: BSD-2-Clause */
#include "cpu/emulate.h"
#include "cpu/interp/soft_int.h"

#include <vmcore/hw.h>

struct vmci_emulator {
    const struct vmc_platform *pf;
    const struct vmc_engine_ops *ops;
    struct vmc_engine_io io;
    bool listening;
    struct vmci_soft_vm vm;
    struct vmci_soft_cpu cpu;
};

/* The state that is emulated comes from the processor. */
static void take_its_width(struct vmci_emulator *e)
{
    struct vmci_cpu *cpu = &e->cpu.cpu;
    uint32_t r[4];

    if (!vmci_pf_has(e->pf, hw))
        return;
    e->pf->hw->cpuid(e->pf->ctx, 0x80000008u, 0, r);
    cpu->state_phys_bits = VMCI_MAX(cpu->phys_bits, VMCI_MIN(r[0] & 0xff, 52u));
    cpu->state_57 = (r[0] >> 8 & 0xff) > 48;
}

int vmci_emulator_create(const struct vmc_platform *pf, struct vmc_mem *mem, uint32_t index,
                         const struct vmc_cpu_policy *policy, const struct vmc_engine_io *io,
                         struct vmci_emulator **out, struct vmc_error *err)
{
    struct vmci_emulator *e = vmci_alloc_aligned(pf, sizeof(*e), 64);
    struct vmc_engine_vm_config cfg = {
        .size = sizeof(cfg), .max_vcpus = 1, .platform = pf, .mem = mem};

    if (e == NULL)
        return vmci_error(err, VMC_ENOMEM, "emulate", "no memory for the emulator");
    memset(e, 0, sizeof(*e));
    e->pf = pf;
    e->ops = vmc_engine_soft();
    if (io != NULL)
        e->io = *io;
    e->io.irq_pending = NULL;
    e->io.irq_ack = NULL;
    e->io.tsc_moved = NULL; /* the owner's TSC follows later, and so does the notice of it */
    int rc = e->ops->vm_init(&e->vm, &cfg, err);
    if (rc != VMC_OK) {
        vmci_free_aligned(pf, e, sizeof(*e), 64);
        return rc;
    }
    e->listening = true;
    e->cpu.foreign = true;
    rc = e->ops->vcpu_init(&e->vm, &e->cpu, 0, &e->io, err);
    if (rc == VMC_OK)
        rc = e->ops->set_policy(&e->vm, policy, err);
    if (rc != VMC_OK) {
        vmci_emulator_destroy(e);
        return rc;
    }
    e->cpu.cpu.apic_id = index;
    take_its_width(e);
    *out = e;
    return VMC_OK;
}

void vmci_emulator_destroy(struct vmci_emulator *e)
{
    if (e == NULL)
        return;
    e->ops->vcpu_fini(&e->cpu);
    if (e->listening)
        e->ops->vm_fini(&e->vm);
    vmci_free_aligned(e->pf, e, sizeof(*e), 64);
}

int vmci_emulate(struct vmci_emulator *e, uint32_t groups, struct vmc_x86_state *st, uint64_t n,
                 struct vmc_exit *out)
{
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = n};

    /* After a completion the instruction is run again from where it was. */
    if (!e->cpu.resuming) {
        int rc = e->ops->set_state(&e->cpu, groups, st);
        if (rc != VMC_OK)
            return rc;
    }
    e->cpu.resuming = false;
    vmci_tlb_flush(&e->cpu.cpu, false);
    int rc = e->ops->run(&e->cpu, &lim, out);
    if (rc != VMC_OK)
        return rc;
    return e->ops->get_state(&e->cpu, groups, st);
}

int vmci_emulate_complete(struct vmci_emulator *e, const struct vmc_exit *done)
{
    int rc = e->ops->complete(&e->cpu, done);

    e->cpu.resuming = rc == VMC_OK;
    return rc;
}

int vmci_emulator_set(struct vmci_emulator *e, uint32_t groups, const struct vmc_x86_state *st)
{
    e->cpu.owed = false;
    e->cpu.resuming = false;
    return e->ops->set_state(&e->cpu, groups, st);
}

int vmci_emulator_get(struct vmci_emulator *e, uint32_t groups, struct vmc_x86_state *st)
{
    return e->ops->get_state(&e->cpu, groups, st);
}

int vmci_emulator_set_policy(struct vmci_emulator *e, const struct vmc_cpu_policy *policy,
                             struct vmc_error *err)
{
    int rc = e->ops->set_policy(&e->vm, policy, err);

    take_its_width(e);
    return rc;
}

int vmci_emulator_set_debug(struct vmci_emulator *e, const struct vmc_breakpoint *bp, size_t n)
{
    return e->ops->set_debug(&e->cpu, bp, n);
}

int64_t *vmci_emulator_tsc_offset(struct vmci_emulator *e)
{
    return &e->cpu.cpu.tsc_offset;
}

void vmci_emulator_paging(const struct vmci_emulator *e, struct vmc_paging *pg)
{
    pg->phys_bits = e->cpu.cpu.phys_bits;
    pg->without = e->cpu.cpu.paging_lacks;
}

uint64_t vmci_emulator_tsc(struct vmci_emulator *e)
{
    return vmci_tsc(&e->cpu.cpu);
}

void vmci_emulator_cpuid(struct vmci_emulator *e, const struct vmc_x86_state *st, uint32_t leaf,
                         uint32_t subleaf, uint32_t out[4])
{
    struct vmci_cpu *cpu = &e->cpu.cpu;
    bool code64 = (st->efer & VMC_EFER_LMA) != 0 && (st->seg[VMC_CS].attr & VMC_SEG_L) != 0;
    uint64_t cr4 = cpu->cr4, xcr0 = cpu->xcr0;
    uint8_t bits = cpu->code_bits;

    /* What the answer depends on (cpuid.c); the rest of the emulator's state is not touched. */
    cpu->cr4 = st->cr4;
    cpu->xcr0 = st->xcr0;
    cpu->code_bits = code64 ? 64 : 32;
    vmci_cpuid(cpu, leaf, subleaf, out);
    cpu->cr4 = cr4;
    cpu->xcr0 = xcr0;
    cpu->code_bits = bits;
}
