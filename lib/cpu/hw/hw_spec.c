/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Barriers against speculation, chosen by what the processor says of itself (SDM 3A 2.8,
 * "Speculation Control"; docs/hardware.md gives the reasons).
 */
#include "cpu/hw/hw_int.h"

#define MSR_SPEC_CTRL         0x48u
#define MSR_PRED_CMD          0x49u
#define MSR_ARCH_CAPABILITIES 0x10au
#define SPEC_CTRL_IBRS        1u
#define PRED_CMD_IBPB         1u
#define EFER_AUTO_IBRS        (1ull << 21)

#define L7_EDX_MD_CLEAR   (1u << 10)
#define L7_EDX_IBRS_IBPB  (1u << 26)
#define L7_EDX_L1D_FLUSH  (1u << 28)
#define L7_EDX_ARCH_CAPS  (1u << 29)
#define LX8_EBX_IBPB      (1u << 12)
#define LX8_EBX_IBRS      (1u << 14)
#define LX8_EBX_IBRS_ON   (1u << 16) /* once set, it stays in force */
#define LX21_EAX_AUTOIBRS (1u << 8)

#define CAP_RDCL_NO    (1ull << 0)
#define CAP_IBRS_ALL   (1ull << 1)
#define CAP_RSBA       (1ull << 2)
#define CAP_SKIP_L1D   (1ull << 3)
#define CAP_MDS_NO     (1ull << 5)
#define CAP_TAA_NO     (1ull << 8)
#define CAP_RFDS_NO    (1ull << 27)
#define CAP_RFDS_CLEAR (1ull << 28)

/* What the processor says of itself. */
struct spec_id {
    uint32_t l7_edx, lx8_ebx, lx21_eax;
    uint64_t caps;
};

static void identify(const struct vmc_platform *pf, struct spec_id *id)
{
    const struct vmc_hw_ops *hw = pf->hw;
    uint32_t r[4];

    memset(id, 0, sizeof(*id));
    hw->cpuid(pf->ctx, 0, 0, r);
    if (r[0] >= 7) {
        hw->cpuid(pf->ctx, 7, 0, r);
        id->l7_edx = r[3];
    }
    hw->cpuid(pf->ctx, 0x80000000u, 0, r);
    uint32_t max = r[0];
    if (max >= 0x80000008u) {
        hw->cpuid(pf->ctx, 0x80000008u, 0, r);
        id->lx8_ebx = r[1];
    }
    if (max >= 0x80000021u) {
        hw->cpuid(pf->ctx, 0x80000021u, 0, r);
        id->lx21_eax = r[0];
    }
    if (id->l7_edx & L7_EDX_ARCH_CAPS)
        id->caps = hw->rdmsr(pf->ctx, MSR_ARCH_CAPABILITIES);
}

/* IBRS that is set once and then separates host and guest by itself. */
static bool ibrs_stays(const struct spec_id *id)
{
    const uint32_t amd = LX8_EBX_IBRS | LX8_EBX_IBRS_ON;

    return (id->caps & CAP_IBRS_ALL) != 0 || (id->lx8_ebx & amd) == amd;
}

void hw_spec_choose(const struct vmc_platform *pf, struct hw_spec *out)
{
    struct spec_id id;

    identify(pf, &id);
    memset(out, 0, sizeof(*out));
    bool ibrs = (id.l7_edx & L7_EDX_IBRS_IBPB) != 0 || (id.lx8_ebx & LX8_EBX_IBRS) != 0;
    bool automatic = (id.lx21_eax & LX21_EAX_AUTOIBRS) != 0;
    out->ibpb = (id.l7_edx & L7_EDX_IBRS_IBPB) != 0 || (id.lx8_ebx & LX8_EBX_IBPB) != 0;
    /* VERW overwrites buffers only where microcode says so, and is needed where MDS or TAA is, or
       register file data is left. */
    if (((id.l7_edx & L7_EDX_MD_CLEAR) && !((id.caps & CAP_MDS_NO) && (id.caps & CAP_TAA_NO))) ||
        ((id.caps & CAP_RFDS_CLEAR) && !(id.caps & CAP_RFDS_NO)))
        out->entry_flags |= VMC_HW_CLEAR_CPU;
    /* L1TF reads what the L1 holds by guest-chosen physical addresses. */
    if ((id.l7_edx & L7_EDX_L1D_FLUSH) && (id.caps & (CAP_RDCL_NO | CAP_SKIP_L1D)) == 0)
        out->entry_flags |= VMC_HW_FLUSH_L1D;
    /* Returns must not use predictions that the guest left; enhanced IBRS does not cover them. */
    if (out->ibpb || (id.caps & (CAP_IBRS_ALL | CAP_RSBA)) != 0)
        out->entry_flags |= VMC_HW_FILL_RSB;
    /* Nor must indirect branches: where IBRS does not stay in force it is written after each exit.
     */
    if (ibrs && !automatic && !ibrs_stays(&id))
        out->entry_flags |= VMC_HW_SET_IBRS;
}

void hw_spec_cpu_up(const struct vmc_platform *pf)
{
    const struct vmc_hw_ops *hw = pf->hw;
    struct spec_id id;

    identify(pf, &id);
    if (id.lx21_eax & LX21_EAX_AUTOIBRS)
        hw->wrmsr(pf->ctx, VMC_MSR_EFER, hw->rdmsr(pf->ctx, VMC_MSR_EFER) | EFER_AUTO_IBRS);
    else if (ibrs_stays(&id))
        hw->wrmsr(pf->ctx, MSR_SPEC_CTRL, hw->rdmsr(pf->ctx, MSR_SPEC_CTRL) | SPEC_CTRL_IBRS);
}

void hw_spec_switch(struct hw_vcpu *v, struct hw_percpu *pc)
{
    /* Another guest's branch history must not steer this one. One that did not run here last may lie
       where the one that did lay, which is gone. */
    if (v->vm->spec.ibpb && (pc->last != v || v->last_cpu != vmci_load_relaxed(&v->cpu)))
        v->vm->hw->wrmsr(hw_ctx(v), MSR_PRED_CMD, PRED_CMD_IBPB);
}
