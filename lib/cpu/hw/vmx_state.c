/* SPDX-License-Identifier: BSD-2-Clause */
/* Between struct vmc_x86_state and the VMCS. */
#include "cpu/hw/vmx_int.h"

/* Bits of CR0 and CR4 that the guest changes without an exit; what reads them is in its own hands.
 */
#define CR0_GUEST       (VMC_CR0_TS | VMC_CR0_MP | VMC_CR0_EM | VMC_CR0_AM)
#define EXIT_MSR_AT     2048u /* the exit area within the page of MSR-load areas */
#define MSR_ENTRY_BYTES 16u

static const struct vmx_caps *caps(const struct hw_vcpu *v)
{
    return &v->vm->caps.vmx;
}

static uint64_t cr0_owned(const struct hw_vcpu *v)
{
    uint64_t guest = CR0_GUEST | (v->vm->nested ? VMC_CR0_WP : 0);

    return ~(guest & ~caps(v)->cr0_fixed0);
}

static uint64_t cr4_owned(const struct hw_vcpu *v)
{
    /* Turning PGE off and on is how guests flush everything: let them, where the tables are theirs.
     */
    bool pge = v->vm->nested && vmc_cpu_policy_has(&v->vm->policy, "pge");

    return ~(pge ? VMC_CR4_PGE : 0);
}

static bool long_mode(const struct vmc_x86_state *st)
{
    return (st->efer & VMC_EFER_LMA) != 0;
}

/* ---- load and unload --------------------------------------------------------------------------
 */

int vmx_attach(struct hw_vcpu *v)
{
    return v->vm->hw->vmptrld(hw_ctx(v), v->u.vmx.vmcs_hpa) == 0 ? VMC_OK : VMC_EHOST;
}

void vmx_detach(struct hw_vcpu *v)
{
    (void)v->vm->hw->vmclear(hw_ctx(v), v->u.vmx.vmcs_hpa);
    v->u.vmx.frame.flags &= ~VMC_HW_LAUNCHED;
}

static void put_msr(struct vmx_vcpu *x, unsigned at, uint32_t index, uint64_t value)
{
    unsigned char *p = (unsigned char *)x->msr_load + at;

    vmci_st_le32(p, index);
    vmci_st_le32(p + 4, 0);
    vmci_st_le64(p + 8, value);
}

static void write_host(struct hw_vcpu *v)
{
    struct vmc_hw_host h;

    v->vm->hw->host(hw_ctx(v), &h);
    vmx_write(v, VMCS_HOST_CR0, h.cr0);
    vmx_write(v, VMCS_HOST_CR3, h.cr3);
    vmx_write(v, VMCS_HOST_CR4, h.cr4);
    vmx_write(v, VMCS_HOST_ES, h.es);
    vmx_write(v, VMCS_HOST_CS, h.cs);
    vmx_write(v, VMCS_HOST_SS, h.ss);
    vmx_write(v, VMCS_HOST_DS, h.ds);
    vmx_write(v, VMCS_HOST_FS, h.fs);
    vmx_write(v, VMCS_HOST_GS, h.gs);
    vmx_write(v, VMCS_HOST_TR, h.tr);
    vmx_write(v, VMCS_HOST_FS_BASE, h.fs_base);
    vmx_write(v, VMCS_HOST_GS_BASE, h.gs_base);
    vmx_write(v, VMCS_HOST_TR_BASE, h.tr_base);
    vmx_write(v, VMCS_HOST_GDTR_BASE, h.gdtr_base);
    vmx_write(v, VMCS_HOST_IDTR_BASE, h.idtr_base);
    vmx_write(v, VMCS_HOST_SYSENTER_CS, h.sysenter_cs);
    vmx_write(v, VMCS_HOST_SYSENTER_ESP, h.sysenter_esp);
    vmx_write(v, VMCS_HOST_SYSENTER_EIP, h.sysenter_eip);
    vmx_write(v, VMCS_HOST_RIP, h.exit_rip);
    if (caps(v)->save_efer)
        vmx_write(v, VMCS_HOST_EFER, h.efer);
    else
        put_msr(&v->u.vmx, EXIT_MSR_AT, VMC_MSR_EFER, h.efer);
    if (caps(v)->save_pat)
        vmx_write(v, VMCS_HOST_PAT, h.pat);
}

/* Registers that neither entry nor exit switches: the guest's stay in the processor during run. */
static void load_live_msrs(struct hw_vcpu *v)
{
    const struct vmc_hw_ops *hw = v->vm->hw;
    const struct vmc_x86_msrs *m = &v->st.msr;
    void *ctx = hw_ctx(v);

    hw->wrmsr(ctx, VMC_MSR_STAR, m->star);
    hw->wrmsr(ctx, VMC_MSR_LSTAR, m->lstar);
    hw->wrmsr(ctx, VMC_MSR_CSTAR, m->cstar);
    hw->wrmsr(ctx, VMC_MSR_SFMASK, m->sfmask);
    hw->wrmsr(ctx, VMC_MSR_KERNEL_GS_BASE, m->kernel_gs_base);
    if (caps(v)->rdtscp)
        hw->wrmsr(ctx, VMC_MSR_TSC_AUX, m->tsc_aux);
}

static void load_debug(struct hw_vcpu *v)
{
    if ((v->st.dr7 & 0xff) == 0)
        return;
    for (unsigned i = 0; i < 4; i++)
        v->vm->hw->write_dr(hw_ctx(v), i, v->st.dr[i]);
}

int vmx_load(struct hw_vcpu *v)
{
    int rc = vmx_attach(v);

    if (rc != VMC_OK)
        return rc;
    v->u.vmx.frame.timer = VMX_TIMER_MAX;
    write_host(v);
    load_live_msrs(v);
    load_debug(v);
    v->vm->hw->write_cr(hw_ctx(v), 2, v->st.cr2);
    return VMC_OK;
}

void vmx_unload(struct hw_vcpu *v)
{
    /* What the guest may have changed outside the VMCS. */
    if (!(v->valid & VMC_ST_MSR))
        v->st.msr.kernel_gs_base = v->vm->hw->rdmsr(hw_ctx(v), VMC_MSR_KERNEL_GS_BASE);
    if (!(v->dirty & VMC_ST_CTRL))
        v->st.cr2 = v->vm->hw->read_cr(hw_ctx(v), 2);
    vmx_detach(v);
}

/* ---- set-up -----------------------------------------------------------------------------------
 */

void vmx_setup(struct hw_vcpu *v)
{
    const struct vmx_caps *c = caps(v);
    struct vmx_vcpu *x = &v->u.vmx;

    x->proc = c->use_proc;
    x->proc2 = c->use_proc2;
    x->entry = c->use_entry;
    /* #AC and #DB for guests that would loop in their delivery for ever; #MC is the host's. */
    x->exc_bitmap =
        1u << VMC_VEC_AC | 1u << VMC_VEC_DB | 1u << VMC_VEC_MC | (c->ept ? 0 : 1u << VMC_VEC_PF);
    vmx_write(v, VMCS_PIN_CTL, c->use_pin);
    vmx_write(v, VMCS_PROC_CTL, x->proc);
    if (x->proc & PROC_SECONDARY)
        vmx_write(v, VMCS_PROC2_CTL, x->proc2);
    vmx_write(v, VMCS_EXIT_CTL, c->use_exit);
    vmx_write(v, VMCS_ENTRY_CTL, x->entry);
    vmx_write(v, VMCS_EXC_BITMAP, x->exc_bitmap);
    vmx_write(v, VMCS_PF_MASK, 0);
    vmx_write(v, VMCS_PF_MATCH, 0);
    vmx_write(v, VMCS_CR3_TARGETS, 0);
    vmx_write(v, VMCS_ENTRY_INTR_INFO, 0);
    vmx_write(v, VMCS_EXIT_STORE_N, 0);
    vmx_write(v, VMCS_EXIT_LOAD_N, c->save_efer ? 0 : 1);
    vmx_write(v, VMCS_ENTRY_LOAD_N, c->save_efer ? 0 : 1);
    if (!c->save_efer) {
        vmx_write(v, VMCS_ENTRY_MSR_LOAD, x->msr_load_hpa);
        vmx_write(v, VMCS_EXIT_MSR_LOAD, x->msr_load_hpa + EXIT_MSR_AT);
    }
    if (c->msr_bitmap)
        vmx_write(v, VMCS_MSR_BITMAP, v->vm->msr_bitmap_hpa);
    if (c->tpr_shadow) {
        vmx_write(v, VMCS_VIRTUAL_APIC, x->vapic_hpa);
        vmx_write(v, VMCS_TPR_THRESHOLD, 0);
    }
    if (c->ept) /* write-back tables, four levels */
        vmx_write(v, VMCS_EPTP,
                  v->vm->slat.root_hpa | VMCI_MT_WB | 3u << 3 | (c->ept_ad ? 1u << 6 : 0));
    if (c->vpid)
        vmx_write(v, VMCS_VPID, 1);
    if (v->log != NULL) {
        memset(v->log, 0xff, VMC_PAGE_SIZE);
        vmx_write(v, VMCS_PML_ADDRESS, x->log_hpa);
        vmx_write(v, VMCS_PML_INDEX, HW_LOG_ENTRIES - 1);
    }
    vmx_write(v, VMCS_LINK_POINTER, ~0ull);
    vmx_write(v, VMCS_GUEST_DEBUGCTL, 0);
    vmx_write(v, VMCS_PENDING_DEBUG, 0);
    vmx_write(v, VMCS_ACTIVITY, 0);
    vmx_apic_setup(v);
}

/* ---- pull -------------------------------------------------------------------------------------
 */

static void pull_segments(struct hw_vcpu *v)
{
    for (unsigned i = 0; i < VMC_SREGS; i++) {
        struct vmc_segment *s = &v->st.seg[i];
        s->selector = (uint16_t)vmx_read(v, VMCS_GUEST_SEL(i));
        s->base = vmx_read(v, VMCS_GUEST_BASE(i));
        s->limit = (uint32_t)vmx_read(v, VMCS_GUEST_LIMIT(i));
        s->attr = (uint32_t)vmx_read(v, VMCS_GUEST_AR(i));
        /* Of an unusable segment only the DPL (of SS) means something. */
        if (s->attr & VMC_SEG_UNUSABLE)
            s->attr = VMC_SEG_UNUSABLE | (s->attr & VMC_SEG_DPL);
    }
}

static void pull_control(struct hw_vcpu *v)
{
    struct vmc_x86_state *st = &v->st;
    uint64_t own0 = cr0_owned(v), own4 = cr4_owned(v);

    st->cr0 = (st->cr0 & own0) | (vmx_read(v, VMCS_GUEST_CR0) & ~own0);
    st->cr4 = (st->cr4 & own4) | (vmx_read(v, VMCS_GUEST_CR4) & ~own4);
    if (v->vm->nested)
        st->cr3 = vmx_read(v, VMCS_GUEST_CR3);
    /* While it runs, CR2 is in the processor; else it was saved by unload. */
    if (v->loaded)
        st->cr2 = v->vm->hw->read_cr(hw_ctx(v), 2);
    if (v->vm->nested && (st->cr0 & VMC_CR0_PG) && (st->cr4 & VMC_CR4_PAE) && !long_mode(st))
        for (unsigned i = 0; i < 4; i++)
            st->pdpte[i] = vmx_read(v, VMCS_GUEST_PDPTE0 + 2 * i);
}

void vmx_pull(struct hw_vcpu *v, uint32_t groups)
{
    struct vmc_x86_state *st = &v->st;

    if (groups & HW_ST_RSP)
        st->gpr[VMC_RSP] = vmx_read(v, VMCS_GUEST_RSP);
    if (groups & VMC_ST_SEG)
        pull_segments(v);
    if (groups & VMC_ST_TABLES) {
        st->gdtr.base = vmx_read(v, VMCS_GUEST_GDTR_BASE);
        st->gdtr.limit = (uint16_t)vmx_read(v, VMCS_GUEST_GDTR_LIMIT);
        st->idtr.base = vmx_read(v, VMCS_GUEST_IDTR_BASE);
        st->idtr.limit = (uint16_t)vmx_read(v, VMCS_GUEST_IDTR_LIMIT);
    }
    if (groups & VMC_ST_CTRL)
        pull_control(v);
    if (groups & VMC_ST_MSR) {
        st->msr.sysenter_cs = vmx_read(v, VMCS_GUEST_SYSENTER_CS);
        st->msr.sysenter_esp = vmx_read(v, VMCS_GUEST_SYSENTER_ESP);
        st->msr.sysenter_eip = vmx_read(v, VMCS_GUEST_SYSENTER_EIP);
        if (v->loaded)
            st->msr.kernel_gs_base = v->vm->hw->rdmsr(hw_ctx(v), VMC_MSR_KERNEL_GS_BASE);
    }
}

/* ---- push -------------------------------------------------------------------------------------
 */

static void push_segments(struct hw_vcpu *v)
{
    for (unsigned i = 0; i < VMC_SREGS; i++) {
        const struct vmc_segment *s = &v->st.seg[i];
        uint32_t attr = s->attr;
        /* LTR sets the busy bit; a state made by hand may not have it, and entry insists. */
        if (i == VMC_TR)
            attr = (attr & ~VMC_SEG_UNUSABLE) | VMC_SEG_P | 2 | ((attr & 1) | (attr & 8));
        if (i == VMC_TR && (attr & VMC_SEG_TYPE) != 11 && (attr & VMC_SEG_TYPE) != 3)
            attr = (attr & ~VMC_SEG_TYPE) | 11;
        if (i == VMC_LDTR && (attr & VMC_SEG_P) == 0)
            attr |= VMC_SEG_UNUSABLE;
        vmx_write(v, VMCS_GUEST_SEL(i), s->selector);
        vmx_write(v, VMCS_GUEST_BASE(i), s->base);
        vmx_write(v, VMCS_GUEST_LIMIT(i), s->limit);
        vmx_write(v, VMCS_GUEST_AR(i), attr);
    }
}

static void push_efer(struct hw_vcpu *v)
{
    const struct vmc_x86_state *st = &v->st;
    uint64_t efer = st->efer;
    uint32_t entry = long_mode(st) ? v->u.vmx.entry | ENTRY_IA32E : v->u.vmx.entry & ~ENTRY_IA32E;

    if (entry != v->u.vmx.entry) {
        v->u.vmx.entry = entry;
        vmx_write(v, VMCS_ENTRY_CTL, entry);
    }
    if (!v->vm->nested) {
        /* The processor always pages, with tables that have NX. */
        efer |= VMC_EFER_NX;
        if (!long_mode(st))
            efer &= ~VMC_EFER_LME;
    }
    if (caps(v)->save_efer)
        vmx_write(v, VMCS_GUEST_EFER, efer);
    else
        put_msr(&v->u.vmx, 0, VMC_MSR_EFER, efer);
}

static void push_control(struct hw_vcpu *v)
{
    const struct vmx_caps *c = caps(v);
    const struct vmc_x86_state *st = &v->st;
    uint64_t fixed0 = c->cr0_fixed0 & ~(c->ug ? VMC_CR0_PE | VMC_CR0_PG : 0);
    uint64_t cr0 = (st->cr0 | fixed0) & c->cr0_fixed1;
    /* Caching is switched off for a guest that asks by nobody: its memory is RAM. */
    cr0 &= ~(VMC_CR0_CD | VMC_CR0_NW);
    uint64_t cr4 = (st->cr4 | c->cr4_fixed0 | (v->vm->hw->read_cr(hw_ctx(v), 4) & VMC_CR4_MCE)) &
                   c->cr4_fixed1;

    if (!v->vm->nested) {
        cr0 |= VMC_CR0_PE | VMC_CR0_PG | VMC_CR0_WP;
        cr4 = (cr4 | VMC_CR4_PAE) & ~(VMC_CR4_PCIDE | VMC_CR4_PGE);
    }
    vmx_write(v, VMCS_CR0_MASK, cr0_owned(v));
    vmx_write(v, VMCS_CR4_MASK, cr4_owned(v)); /* follows the policy */
    vmx_write(v, VMCS_GUEST_CR0, cr0);
    vmx_write(v, VMCS_CR0_SHADOW, st->cr0);
    vmx_write(v, VMCS_GUEST_CR4, cr4);
    vmx_write(v, VMCS_CR4_SHADOW, st->cr4);
    vmx_write(v, VMCS_GUEST_CR3, v->vm->nested ? st->cr3 : v->shadow.root_hpa);
    push_efer(v);
    if (v->vm->nested)
        for (unsigned i = 0; i < 4; i++)
            vmx_write(v, VMCS_GUEST_PDPTE0 + 2 * i, st->pdpte[i]);
    v->vm->hw->write_cr(hw_ctx(v), 2, st->cr2);
}

static void push_flow(struct hw_vcpu *v)
{
    const struct vmc_x86_state *st = &v->st;
    uint32_t i = (st->ss_shadow    ? INTR_SS
                  : st->sti_shadow ? INTR_STI
                                   : 0) |
                 (st->nmi_blocked ? INTR_NMI : 0);

    /* STI blocks only what IF allows (SDM 3C 27.3.1.5). */
    if (!(st->rflags & VMC_FLAG_IF))
        i &= ~INTR_STI;
    vmx_write(v, VMCS_GUEST_RFLAGS, (st->rflags & 0x3f7fd5ull) | VMC_FLAG_1);
    vmx_write(v, VMCS_INTERRUPTIBILITY, i);
    /* A trap of the instruction that was just stepped over is queued as an event, not here. */
    bool steps = (st->rflags & VMC_FLAG_TF) && !(st->msr.debugctl & VMC_DEBUGCTL_BTF);
    vmx_write(v, VMCS_PENDING_DEBUG, (i & (INTR_STI | INTR_SS)) && steps ? VMC_DR6_BS : 0);
}

static void set_proc2(struct hw_vcpu *v, uint32_t bit, bool on)
{
    uint32_t proc2 = on ? v->u.vmx.proc2 | bit : v->u.vmx.proc2 & ~bit;

    if (proc2 == v->u.vmx.proc2)
        return;
    v->u.vmx.proc2 = proc2;
    vmx_write(v, VMCS_PROC2_CTL, proc2);
}

static void push_clock(struct hw_vcpu *v)
{
    uint64_t mult = v->vm->tsc_mult;

    if (caps(v)->tsc_scaling) {
        set_proc2(v, PROC2_TSC_SCALE, mult != 0);
        if (mult != 0)
            vmx_write(v, VMCS_TSC_MULTIPLIER, mult);
    }
    vmx_write(v, VMCS_TSC_OFFSET, (uint64_t)v->tsc_offset);
}

void vmx_push(struct hw_vcpu *v, uint32_t groups)
{
    const struct vmc_x86_state *st = &v->st;

    if (groups & (VMC_ST_RIP | VMC_ST_EVENT | VMC_ST_MSR))
        push_flow(v);
    if (groups & HW_ST_RSP)
        vmx_write(v, VMCS_GUEST_RSP, st->gpr[VMC_RSP]);
    if (groups & VMC_ST_SEG)
        push_segments(v);
    if (groups & VMC_ST_TABLES) {
        vmx_write(v, VMCS_GUEST_GDTR_BASE, st->gdtr.base);
        vmx_write(v, VMCS_GUEST_GDTR_LIMIT, st->gdtr.limit);
        vmx_write(v, VMCS_GUEST_IDTR_BASE, st->idtr.base);
        vmx_write(v, VMCS_GUEST_IDTR_LIMIT, st->idtr.limit);
    }
    if (groups & VMC_ST_CTRL)
        push_control(v);
    if (groups & VMC_ST_DEBUG) {
        vmx_write(v, VMCS_GUEST_DR7, (st->dr7 & 0xffffffffull) | VMC_DR7_FIXED);
        load_debug(v);
    }
    if (groups & VMC_ST_MSR) {
        vmx_write(v, VMCS_GUEST_SYSENTER_CS, st->msr.sysenter_cs);
        vmx_write(v, VMCS_GUEST_SYSENTER_ESP, st->msr.sysenter_esp);
        vmx_write(v, VMCS_GUEST_SYSENTER_EIP, st->msr.sysenter_eip);
        vmx_write(v, VMCS_GUEST_DEBUGCTL, st->msr.debugctl & VMC_DEBUGCTL_BTF);
        if (caps(v)->save_pat)
            vmx_write(v, VMCS_GUEST_PAT, st->msr.pat);
        load_live_msrs(v);
    }
    if (groups & VMC_ST_CLOCK)
        push_clock(v);
}

/* ---- events -----------------------------------------------------------------------------------
 */

static bool is_soft(const struct vmc_event *e)
{
    return e->type == VMC_EV_SOFT_INT || e->type == VMC_EV_SOFT_EXC ||
           e->type == VMC_EV_PRIV_SOFT_EXC;
}

void vmx_inject(struct hw_vcpu *v, const struct vmc_event *e)
{
    if (e->type == VMC_EV_NONE) {
        vmx_write(v, VMCS_ENTRY_INTR_INFO, 0);
        return;
    }
    hw_need(v, VMC_ST_CTRL);
    bool code = e->has_code && (v->st.cr0 & VMC_CR0_PE) != 0;
    if (code)
        vmx_write(v, VMCS_ENTRY_EXC_CODE, e->code & 0xffff);
    if (is_soft(e))
        vmx_write(v, VMCS_ENTRY_INSN_LEN, e->insn_len);
    vmx_write(v, VMCS_ENTRY_INTR_INFO,
              INTR_VALID | (code ? INTR_CODE : 0) | (uint32_t)e->type << 8 | e->vector);
}

void vmx_windows(struct hw_vcpu *v, bool irq, bool nmi)
{
    uint32_t proc = v->u.vmx.proc & ~(PROC_IRQ_WINDOW | PROC_NMI_WINDOW);

    irq = irq || vmx_apic_wants_window(v);
    proc |= (irq ? PROC_IRQ_WINDOW : 0) | (nmi ? PROC_NMI_WINDOW : 0);
    if (proc != v->u.vmx.proc) {
        v->u.vmx.proc = proc;
        vmx_write(v, VMCS_PROC_CTL, proc);
    }
}

/* ---- translations -----------------------------------------------------------------------------
 */

bool vmx_code64(struct hw_vcpu *v, uint64_t *cr3)
{
    *cr3 = v->vm->nested ? vmx_read(v, VMCS_GUEST_CR3) : v->st.cr3;
    return long_mode(&v->st) && (vmx_read(v, VMCS_GUEST_AR(VMC_CS)) & VMC_SEG_L) != 0;
}

void vmx_flush_tlb(struct hw_vcpu *v)
{
    const struct vmc_hw_ops *hw = v->vm->hw;
    struct hw_percpu *pc = hw_percpu(v->vm->pf);

    hw_code_forget(v); /* host addresses may have changed as well */
    if (v->log != NULL)
        set_proc2(v, PROC2_PML, hw_logging(v->vm));
    if (caps(v)->vpid) {
        hw_tag_new(v, pc);
        if (pc->owes_flush != 0) { /* a generation of VPIDs is used up */
            (void)hw->invvpid(hw_ctx(v), 2, 0, 0);
            pc->owes_flush = 0;
        }
        vmx_write(v, VMCS_VPID, v->tag);
    }
    /* A new VPID leaves what is cached of the EPT alone; without VPIDs entry flushes the rest. */
    if (caps(v)->ept)
        (void)hw->invept(hw_ctx(v), 1,
                         v->vm->slat.root_hpa | VMCI_MT_WB | 3u << 3 |
                             (caps(v)->ept_ad ? 1u << 6 : 0));
    else
        vmx_write(v, VMCS_GUEST_CR3, v->shadow.root_hpa);
}
