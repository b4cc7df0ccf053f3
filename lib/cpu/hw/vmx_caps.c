/* SPDX-License-Identifier: BSD-2-Clause */
/* Capability negotiation (SDM 3D appendix A). */
#include "cpu/hw/vmx_int.h"

#define SITE "vmx/capabilities"

enum word { W_PIN, W_PROC, W_PROC2, W_EXIT, W_ENTRY, WORDS };

struct want {
    enum word word;
    uint32_t bit;
    bool must;
    const char *name;
};

static const struct want wants[] = {
    {W_PIN, PIN_EXTINT, true, "external-interrupt exiting"},
    {W_PIN, PIN_NMI, true, "NMI exiting"},
    {W_PIN, PIN_VNMI, true, "virtual NMIs"},
    {W_PIN, PIN_TIMER, false, "VMX-preemption timer"},
    {W_PIN, PIN_POSTED, false, "process posted interrupts"},
    {W_PROC, PROC_TSC_OFFSET, true, "TSC offsetting"},
    {W_PROC, PROC_HLT, true, "HLT exiting"},
    {W_PROC, PROC_MWAIT, true, "MWAIT exiting"},
    {W_PROC, PROC_RDPMC, true, "RDPMC exiting"},
    {W_PROC, PROC_MOV_DR, true, "MOV-DR exiting"},
    {W_PROC, PROC_IO, true, "unconditional I/O exiting"},
    {W_PROC, PROC_MONITOR, true, "MONITOR exiting"},
    {W_PROC, PROC_TPR_SHADOW, false, "TPR shadow"},
    {W_PROC, PROC_MSR_BITMAP, false, "MSR bitmaps"},
    {W_PROC, PROC_SECONDARY, false, "secondary controls"},
    {W_PROC2, PROC2_APIC_ACCESS, false, "virtualize APIC accesses"},
    {W_PROC2, PROC2_X2APIC, false, "virtualize x2APIC mode"},
    {W_PROC2, PROC2_APIC_REG, false, "APIC-register virtualization"},
    {W_PROC2, PROC2_VID, false, "virtual-interrupt delivery"},
    {W_PROC2, PROC2_EPT, false, "EPT"},
    {W_PROC2, PROC2_VPID, false, "VPID"},
    {W_PROC2, PROC2_UG, false, "unrestricted guest"},
    {W_PROC2, PROC2_RDTSCP, false, "RDTSCP"},
    {W_PROC2, PROC2_WBINVD, false, "WBINVD exiting"},
    {W_PROC2, PROC2_INVPCID, false, "INVPCID"},
    {W_PROC2, PROC2_PML, false, "page-modification logging"},
    {W_PROC2, PROC2_TSC_SCALE, false, "TSC scaling"},
    {W_EXIT, EXIT_SAVE_DEBUG, true, "save debug controls"},
    {W_EXIT, EXIT_HOST64, true, "host address-space size"},
    {W_EXIT, EXIT_ACK, false, "acknowledge interrupt on exit"},
    {W_EXIT, EXIT_SAVE_PAT, false, "save IA32_PAT"},
    {W_EXIT, EXIT_LOAD_PAT, false, "load IA32_PAT at exit"},
    {W_EXIT, EXIT_SAVE_EFER, false, "save IA32_EFER"},
    {W_EXIT, EXIT_LOAD_EFER, false, "load IA32_EFER at exit"},
    {W_ENTRY, ENTRY_LOAD_DEBUG, true, "load debug controls"},
    {W_ENTRY, ENTRY_LOAD_PAT, false, "load IA32_PAT at entry"},
    {W_ENTRY, ENTRY_LOAD_EFER, false, "load IA32_EFER at entry"},
};

/* Switched on and off later, so they must be possible. */
static const struct want dynamic[] = {
    {W_PROC, PROC_IRQ_WINDOW, true, "interrupt-window exiting"},
    {W_PROC, PROC_NMI_WINDOW, true, "NMI-window exiting"},
    {W_ENTRY, ENTRY_IA32E, true, "IA-32e mode guest"},
};

static const char *const word_name[WORDS] = {"pin-based", "processor-based", "secondary", "VM-exit",
                                             "VM-entry"};

static bool allowed(uint64_t caps, uint32_t bit)
{
    return (caps >> 32 & bit) == bit;
}

static int missing(const struct want *w, uint64_t caps, struct vmc_error *err)
{
    return vmci_error(err, VMC_ENOTSUP, SITE,
                      "the processor lacks \"%s\" (%s control 0x%x; allowed 0x%x)", w->name,
                      word_name[w->word], w->bit, (uint32_t)(caps >> 32));
}

static void read_msrs(const struct vmc_platform *pf, struct vmx_caps *c)
{
    const struct vmc_hw_ops *hw = pf->hw;
    void *ctx = pf->ctx;
    uint32_t r[4];

    c->basic = hw->rdmsr(ctx, MSR_VMX_BASIC);
    bool t = (c->basic & BASIC_TRUE) != 0;
    c->pin = hw->rdmsr(ctx, t ? MSR_VMX_TRUE_PIN : MSR_VMX_PIN);
    c->proc = hw->rdmsr(ctx, t ? MSR_VMX_TRUE_PROC : MSR_VMX_PROC);
    c->exit = hw->rdmsr(ctx, t ? MSR_VMX_TRUE_EXIT : MSR_VMX_EXIT);
    c->entry = hw->rdmsr(ctx, t ? MSR_VMX_TRUE_ENTRY : MSR_VMX_ENTRY);
    c->misc = hw->rdmsr(ctx, MSR_VMX_MISC);
    c->cr0_fixed0 = hw->rdmsr(ctx, MSR_VMX_CR0_0);
    c->cr0_fixed1 = hw->rdmsr(ctx, MSR_VMX_CR0_1);
    c->cr4_fixed0 = hw->rdmsr(ctx, MSR_VMX_CR4_0);
    c->cr4_fixed1 = hw->rdmsr(ctx, MSR_VMX_CR4_1);
    /* These two exist only with what they describe. */
    if (allowed(c->proc, PROC_SECONDARY))
        c->proc2 = hw->rdmsr(ctx, MSR_VMX_PROC2);
    if (allowed(c->proc2, PROC2_EPT) || allowed(c->proc2, PROC2_VPID))
        c->ept_vpid = hw->rdmsr(ctx, MSR_VMX_EPT_VPID);
    c->phys_bits = 36;
    hw->cpuid(ctx, 0x80000000u, 0, r);
    if (r[0] >= 0x80000008u) {
        hw->cpuid(ctx, 0x80000008u, 0, r);
        c->phys_bits = r[0] & 0xff;
    }
}

/* EPT is used only when every piece that the engine relies on is there. */
static bool ept_complete(const struct vmx_caps *c)
{
    const uint64_t need = EPT_WALK4 | EPT_WB | EPT_INVEPT | EPT_INVEPT_ONE;

    return (c->ept_vpid & need) == need;
}

/*
 * The local APIC in the processor: all of it or nothing. The controls are switched on vCPU by vCPU
 * (vmx_apic.c). Without posted interrupts only if somebody asks for it.
 */
#define APIC_ALL (PROC2_APIC_ACCESS | PROC2_X2APIC | PROC2_APIC_REG | PROC2_VID)

static void decide_apic(const struct vmc_hw_ops *hw, struct vmx_caps *c, uint32_t flags)
{
    bool all = c->ept && c->tpr_shadow && c->msr_bitmap && (c->use_proc2 & APIC_ALL) == APIC_ALL;
    bool post = (c->use_pin & PIN_POSTED) != 0 && (c->use_exit & EXIT_ACK) != 0 &&
                hw->notify != NULL && hw->notify_vector >= 32 && hw->notify_vector < 256;

    c->vid = all && (post || (flags & VMC_HW_CFG_APIC) != 0) && !(flags & VMC_HW_CFG_NO_APIC);
    c->posted = c->vid && post;
    c->weak_vid = c->vid && !allowed(c->pin, PIN_POSTED);
    c->use_proc2 &= ~APIC_ALL;
    c->use_pin &= ~PIN_POSTED;
    if (!c->posted)
        c->use_exit &= ~EXIT_ACK;
}

static void decide(const struct vmc_hw_ops *hw, struct vmx_caps *c, uint32_t flags)
{
    uint32_t *p = &c->use_proc, *p2 = &c->use_proc2;

    c->ept = (*p2 & PROC2_EPT) != 0 && ept_complete(c) && !(flags & VMC_HW_CFG_NO_NESTED);
    c->ug = c->ept && (*p2 & PROC2_UG) != 0 && !(flags & VMC_HW_CFG_NO_UG);
    c->vpid = (*p2 & PROC2_VPID) != 0 && (c->ept_vpid & VPID_INVVPID) != 0 &&
              (c->ept_vpid & VPID_ALL) != 0;
    *p2 &= ~((c->ept ? 0 : PROC2_EPT) | (c->ug ? 0 : PROC2_UG) | (c->vpid ? 0 : PROC2_VPID));
    c->ept_ad = c->ept && (c->ept_vpid & EPT_AD) != 0;
    c->ept_2m = c->ept && (c->ept_vpid & EPT_2M) != 0;
    c->ept_1g = c->ept_2m && (c->ept_vpid & EPT_1G) != 0;
    c->rdtscp = (*p2 & PROC2_RDTSCP) != 0;
    c->invpcid = c->ept && (*p2 & PROC2_INVPCID) != 0;
    if (!c->invpcid)
        *p2 &= ~PROC2_INVPCID;
    if (c->ept) { /* TRUE controls let us do without; where they do not, the exits are emulated */
        *p &= ~(PROC_CR3_LOAD | PROC_CR3_STORE | PROC_INVLPG) | (uint32_t)c->proc;
    } else {
        *p |= PROC_CR3_LOAD | PROC_CR3_STORE | PROC_INVLPG;
    }
    c->tpr_shadow = (*p & PROC_TPR_SHADOW) != 0;
    if (!c->tpr_shadow)
        *p |= PROC_CR8_LOAD | PROC_CR8_STORE;
    c->msr_bitmap = (*p & PROC_MSR_BITMAP) != 0;
    decide_apic(hw, c, flags);
    c->pml = c->ept_ad && (*p2 & PROC2_PML) != 0;
    c->tsc_scaling = (*p2 & PROC2_TSC_SCALE) != 0;
    *p2 &= ~(PROC2_PML | PROC2_TSC_SCALE); /* switched on while they are needed */
    if (*p2 == 0 && !c->tsc_scaling)       /* APIC controls come with EPT */
        *p &= ~PROC_SECONDARY;
    c->timer = (c->use_pin & PIN_TIMER) != 0;
    c->timer_shift = (unsigned)(c->misc & 0x1f);
    c->save_efer =
        (c->use_exit & (EXIT_SAVE_EFER | EXIT_LOAD_EFER)) == (EXIT_SAVE_EFER | EXIT_LOAD_EFER) &&
        (c->use_entry & ENTRY_LOAD_EFER) != 0;
    if (!c->save_efer) {
        c->use_exit &= ~(EXIT_SAVE_EFER | EXIT_LOAD_EFER);
        c->use_entry &= ~ENTRY_LOAD_EFER;
    }
    /* With shadow tables it is the host's PAT that their entries refer to. */
    c->save_pat =
        c->ept &&
        (c->use_exit & (EXIT_SAVE_PAT | EXIT_LOAD_PAT)) == (EXIT_SAVE_PAT | EXIT_LOAD_PAT) &&
        (c->use_entry & ENTRY_LOAD_PAT) != 0;
    if (!c->save_pat) {
        c->use_exit &= ~(EXIT_SAVE_PAT | EXIT_LOAD_PAT);
        c->use_entry &= ~ENTRY_LOAD_PAT;
    }
}

int vmx_caps_read(const struct vmc_platform *pf, uint32_t flags, struct vmx_caps *c,
                  struct vmc_error *err)
{
    memset(c, 0, sizeof(*c));
    read_msrs(pf, c);
    uint64_t caps[WORDS] = {c->pin, c->proc, c->proc2, c->exit, c->entry};
    uint32_t use[WORDS];

    for (unsigned i = 0; i < WORDS; i++)
        use[i] = (uint32_t)caps[i]; /* must be 1 */
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(wants); i++) {
        const struct want *w = &wants[i];
        if (allowed(caps[w->word], w->bit))
            use[w->word] |= w->bit;
        else if (w->must)
            return missing(w, caps[w->word], err);
    }
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(dynamic); i++)
        if (!allowed(caps[dynamic[i].word], dynamic[i].bit))
            return missing(&dynamic[i], caps[dynamic[i].word], err);
    c->use_pin = use[W_PIN];
    c->use_proc = use[W_PROC];
    c->use_proc2 = use[W_PROC2];
    c->use_exit = use[W_EXIT];
    c->use_entry = use[W_ENTRY];
    decide(pf->hw, c, flags);
    if ((c->basic >> 32 & 0x1fff) == 0 || (c->basic >> 32 & 0x1fff) > VMC_PAGE_SIZE)
        return vmci_error(err, VMC_ENOTSUP, SITE, "the VMCS has %u bytes (IA32_VMX_BASIC 0x%lx)",
                          (uint32_t)(c->basic >> 32 & 0x1fff), (unsigned long)c->basic);
    return VMC_OK;
}
