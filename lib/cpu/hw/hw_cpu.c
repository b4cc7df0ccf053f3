/* SPDX-License-Identifier: BSD-2-Clause */
/* Detection, and switching VT-x or SVM on for a processor. */
#include "cpu/hw/hw_int.h"

#define SITE "hw/cpu"

#define L1_ECX_VMX   (1u << 5)
#define L1_ECX_XSAVE (1u << 26)
#define LX1_ECX_SVM  (1u << 2)
#define CTL_LOCK     1ull
#define CTL_VMX      4ull
#define MSR_VM_CR    0xc0010114u
#define VM_CR_SVMDIS 0x10ull
#define LXA_EDX_LOCK 4u
#define CR4_OSXSAVE  VMC_CR4_OSXSAVE
#define TAGS_PER_CPU 0x10000u

enum vmc_hw_kind vmc_hw_detect(const struct vmc_platform *pf, struct vmc_error *err)
{
    uint32_t r[4];

    if (hw_platform_ok(pf, SITE, err) != VMC_OK)
        return VMC_HW_NONE;
    const struct vmc_hw_ops *hw = pf->hw;
    hw->cpuid(pf->ctx, 1, 0, r);
    if (r[2] & L1_ECX_VMX) {
        uint64_t ctl = hw->rdmsr(pf->ctx, VMC_MSR_FEATURE_CTL);
        if ((ctl & CTL_LOCK) && !(ctl & CTL_VMX)) {
            (void)vmci_error(err, VMC_ENOTSUP, SITE,
                             "firmware has locked VT-x off (IA32_FEATURE_CONTROL is 0x%lx)",
                             (unsigned long)ctl);
            return VMC_HW_NONE;
        }
        return VMC_HW_VMX;
    }
    hw->cpuid(pf->ctx, 0x80000000u, 0, r);
    uint32_t max = r[0];
    if (max >= 0x8000000au) {
        hw->cpuid(pf->ctx, 0x80000001u, 0, r);
        if (r[2] & LX1_ECX_SVM) {
            hw->cpuid(pf->ctx, 0x8000000au, 0, r);
            /* Without the lock feature there is no VM_CR.SVMDIS to look at (APM 2 15.4). */
            if ((r[3] & LXA_EDX_LOCK) == 0 || (hw->rdmsr(pf->ctx, MSR_VM_CR) & VM_CR_SVMDIS) == 0)
                return VMC_HW_SVM;
            (void)vmci_error(err, VMC_ENOTSUP, SITE,
                             "firmware has switched SVM off (VM_CR.SVMDIS)");
            return VMC_HW_NONE;
        }
    }
    (void)vmci_error(err, VMC_ENOTSUP, SITE,
                     "the processor has neither VT-x (CPUID.1:ECX.5) nor SVM "
                     "(CPUID.80000001H:ECX.2)");
    return VMC_HW_NONE;
}

int vmc_hw_cpu_up(const struct vmc_platform *pf, struct vmc_error *err)
{
    enum vmc_hw_kind kind = vmc_hw_detect(pf, err);
    uint32_t r[4];

    if (kind == VMC_HW_NONE)
        return VMC_ENOTSUP;
    struct hw_percpu *pc = hw_percpu(pf);
    if (pc->kind != VMC_HW_NONE)
        return vmci_error(err, VMC_ESTATE, SITE, "processor %u is up already",
                          pf->cpu->this_cpu(pf->ctx));
    /* A generation that no vCPU has seen: its tag of before may be another's now. */
    uint64_t generation =
        pc->tags.generation != 0 ? pc->tags.generation : pf->cpu->this_cpu(pf->ctx);
    memset(pc, 0, sizeof(*pc));
    pc->tags.generation = generation + (1ull << 16);
    pc->tags.next = 1;
    pc->owes_flush = 1; /* somebody may have used tags before us */
    pc->old_cr4 = pf->hw->read_cr(pf->ctx, 4);
    /* Guests' FPU state is switched with the instructions of the best that there is. */
    pf->hw->cpuid(pf->ctx, 1, 0, r);
    uint64_t cr4 = pc->old_cr4 | VMC_CR4_OSFXSR | VMC_CR4_OSXMMEXCPT |
                   ((r[2] & L1_ECX_XSAVE) ? CR4_OSXSAVE : 0);
    pf->hw->write_cr(pf->ctx, 4, cr4);
    pc->xcr0 = (r[2] & L1_ECX_XSAVE) ? pf->hw->read_xcr0(pf->ctx) : 0;
    int rc = kind == VMC_HW_VMX ? vmx_cpu_up(pf, pc, err) : svm_cpu_up(pf, pc, err);
    if (rc != VMC_OK) {
        pf->hw->write_cr(pf->ctx, 4, pc->old_cr4);
        return rc;
    }
    hw_spec_cpu_up(pf);
    pc->kind = kind;
    return VMC_OK;
}

void vmc_hw_cpu_down(const struct vmc_platform *pf)
{
    struct hw_percpu *pc = hw_percpu(pf);

    if (pc == NULL || pc->kind == VMC_HW_NONE)
        return;
    if (pc->kind == VMC_HW_VMX)
        vmx_cpu_down(pf, pc);
    else
        svm_cpu_down(pf, pc);
    pf->hw->write_cr(pf->ctx, 4, pc->old_cr4);
    pc->kind = VMC_HW_NONE;
}
