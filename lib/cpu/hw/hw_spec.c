/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Barriers against speculation, chosen by what the processor says of itself (SDM 3A 2.8,
 * "Speculation Control"; docs/hardware.md gives the reasons).
 */
#include "cpu/hw/hw_int.h"

#define MSR_ARCH_CAPABILITIES 0x10au
#define MSR_PRED_CMD          0x49u
#define PRED_CMD_IBPB         1u

#define L7_EDX_MD_CLEAR  (1u << 10)
#define L7_EDX_IBRS_IBPB (1u << 26)
#define L7_EDX_L1D_FLUSH (1u << 28)
#define L7_EDX_ARCH_CAPS (1u << 29)
#define LX8_EBX_IBPB     (1u << 12)

#define CAP_IBRS_ALL (1ull << 1)
#define CAP_RSBA     (1ull << 2)
#define CAP_SKIP_L1D (1ull << 3)
#define CAP_MDS_NO   (1ull << 5)
#define CAP_RDCL_NO  (1ull << 0)
#define CAP_TAA_NO   (1ull << 8)

#define INTEL_EBX 0x756e6547u

void hw_spec_choose(const struct vmc_platform *pf, struct hw_spec *out)
{
    const struct vmc_hw_ops *hw = pf->hw;
    uint32_t id[4], l7[4] = {0}, lx[4] = {0};
    uint64_t caps = 0;

    memset(out, 0, sizeof(*out));
    hw->cpuid(pf->ctx, 0, 0, id);
    bool intel = id[1] == INTEL_EBX;
    if (id[0] >= 7)
        hw->cpuid(pf->ctx, 7, 0, l7);
    hw->cpuid(pf->ctx, 0x80000000u, 0, lx);
    uint32_t max = lx[0];
    memset(lx, 0, sizeof(lx));
    if (max >= 0x80000008u)
        hw->cpuid(pf->ctx, 0x80000008u, 0, lx);
    if (l7[3] & L7_EDX_ARCH_CAPS)
        caps = hw->rdmsr(pf->ctx, MSR_ARCH_CAPABILITIES);

    out->ibpb = (l7[3] & L7_EDX_IBRS_IBPB) != 0 || (lx[1] & LX8_EBX_IBPB) != 0;
    /* VERW overwrites buffers only where microcode says so, and is needed where MDS or TAA is. */
    if ((l7[3] & L7_EDX_MD_CLEAR) && !((caps & CAP_MDS_NO) && (caps & CAP_TAA_NO)))
        out->entry_flags |= VMC_HW_CLEAR_CPU;
    /* L1TF reads what the L1 holds by guest-chosen physical addresses. */
    if ((l7[3] & L7_EDX_L1D_FLUSH) && (caps & (CAP_RDCL_NO | CAP_SKIP_L1D)) == 0)
        out->entry_flags |= VMC_HW_FLUSH_L1D;
    /* Returns must not use predictions that the guest left; enhanced IBRS does not cover them. */
    if (out->ibpb || (caps & (CAP_IBRS_ALL | CAP_RSBA)) != 0)
        out->entry_flags |= VMC_HW_FILL_RSB;
    (void)intel;
}

void hw_spec_switch(struct hw_vcpu *v, struct hw_percpu *pc)
{
    /* Another guest's branch history must not steer this one. */
    if (v->vm->spec.ibpb && pc->last != v)
        v->vm->hw->wrmsr(hw_ctx(v), MSR_PRED_CMD, PRED_CMD_IBPB);
}
