/* SPDX-License-Identifier: BSD-2-Clause */
/* Between struct vmc_x86_state and the VMCB. */
#include "cpu/hw/svm_int.h"

#define RFLAGS_KNOWN 0x3f7fd5ull
#define CR0_HOST     (VMC_CR0_CD | VMC_CR0_NW)

static struct vmcb *vmcb_of(const struct hw_vcpu *v)
{
    return v->u.svm.vmcb;
}

/* ---- set-up -----------------------------------------------------------------------------------
 */

void svm_setup(struct hw_vcpu *v)
{
    struct vmcb *b = vmcb_of(v);
    bool nested = v->vm->nested;

    b->cr_write = 1u << 4 | 1u << 8 | (nested ? 0 : 1u << 0 | 1u << 3);
    b->cr_read = nested ? 0 : 1u << 0 | 1u << 3 | 1u << 4; /* the processor's are not the guest's */
    b->dr_read = b->dr_write = 0xffff;
    /* #AC, #DB: loops in their delivery; #DF: see svm_exit.c. */
    b->exceptions = 1u << VMC_VEC_AC | 1u << VMC_VEC_DB | 1u << VMC_VEC_MC | 1u << VMC_VEC_DF |
                    (nested ? 0 : 1u << VMC_VEC_PF);
    b->misc1 = SVM_I_INTR | SVM_I_NMI | SVM_I_SMI | SVM_I_INIT | SVM_I_CR0_SEL | SVM_I_RDPMC |
               SVM_I_CPUID | SVM_I_RSM | SVM_I_INVD | SVM_I_HLT | SVM_I_INVLPGA | SVM_I_IOIO |
               SVM_I_MSR | SVM_I_TASK | SVM_I_FERR | SVM_I_SHUTDOWN | (nested ? 0 : SVM_I_INVLPG);
    b->misc2 = SVM_I_VMRUN | SVM_I_VMMCALL | SVM_I_VMLOAD | SVM_I_VMSAVE | SVM_I_STGI | SVM_I_CLGI |
               SVM_I_SKINIT | SVM_I_WBINVD | SVM_I_MONITOR | SVM_I_MWAIT | SVM_I_XSETBV |
               SVM_I_RDPRU;
    b->misc3 = SVM_I_INVLPGB | SVM_I_TLBSYNC | (nested ? 0 : SVM_I_INVPCID);
    b->iopm = v->vm->io_bitmap_hpa;
    b->msrpm = v->vm->msr_bitmap_hpa;
    b->v_masking = 1;
    b->v_prio = SVM_V_IGN_TPR | 0xf;
    b->np_enable = nested ? 1 : 0;
    b->n_cr3 = nested ? v->vm->slat.root_hpa : 0;
    b->asid = 1;
    hw_code_forget(v);
    v->u.svm.clean = v->vm->caps.svm.clean_bits ? 0xfffu : 0;
}

int svm_load(struct hw_vcpu *v)
{
    const struct vmc_hw_ops *hw = v->vm->hw;

    struct hw_percpu *pc = hw_percpu(v->vm->pf);

    v->u.svm.frame.host_vmcb = pc->hpa[1];
    if (v->vm->tsc_fraction != 0) { /* one for the processor: it acts only in guests */
        uint64_t ratio = v->vm->tsc_mult != 0 ? v->vm->tsc_mult : TSC_RATIO_ONE;
        if (ratio != pc->tsc_ratio)
            hw->wrmsr(hw_ctx(v), MSR_TSC_RATIO, ratio);
        pc->tsc_ratio = ratio;
    }
    vmcb_of(v)->clean = 0;
    if ((v->st.dr7 & 0xff) != 0)
        for (unsigned i = 0; i < 4; i++)
            hw->write_dr(hw_ctx(v), i, v->st.dr[i]);
    if (vmc_cpu_policy_has(&v->vm->policy, "rdtscp"))
        hw->wrmsr(hw_ctx(v), VMC_MSR_TSC_AUX, v->st.msr.tsc_aux);
    return VMC_OK;
}

void svm_unload(struct hw_vcpu *v)
{
    struct vmcb *b = vmcb_of(v);

    /* All that a guest changes is in the VMCB. Was it never entered, though, the flush that was to
       come first is still owed to this processor, and its tag is of no use. */
    if (b->tlb_control == SVM_TLB_KEEP)
        return;
    b->tlb_control = SVM_TLB_KEEP;
    hw_percpu(v->vm->pf)->owes_flush = 1;
    v->last_cpu = UINT32_MAX;
}

/* ---- segments ---------------------------------------------------------------------------------
 */

/* The VMCB packs the attributes into 12 bits (APM 2 figure 15-3). */
static void seg_in(struct vmcb_seg *to, const struct vmc_segment *s)
{
    bool dead = (s->attr & VMC_SEG_UNUSABLE) != 0;

    to->selector = s->selector;
    to->limit = s->limit;
    to->base = s->base;
    to->attr = dead ? (uint16_t)(s->attr & VMC_SEG_DPL)
                    : (uint16_t)((s->attr & 0xff) | (s->attr >> 4 & 0xf00));
}

static void seg_out(struct vmc_segment *s, const struct vmcb_seg *from, bool system)
{
    s->selector = from->selector;
    s->limit = from->limit;
    s->base = from->base;
    s->attr = (from->attr & 0xffu) | (from->attr & 0xf00u) << 4;
    if (!(s->attr & VMC_SEG_P))
        s->attr = VMC_SEG_UNUSABLE | (s->attr & VMC_SEG_DPL);
    else if (system)
        s->attr &= ~VMC_SEG_S;
}

static void seg_table(struct vmcb *b, struct vmcb_seg *out[VMC_SREGS])
{
    out[VMC_ES] = &b->es;
    out[VMC_CS] = &b->cs;
    out[VMC_SS] = &b->ss;
    out[VMC_DS] = &b->ds;
    out[VMC_FS] = &b->fs;
    out[VMC_GS] = &b->gs;
    out[VMC_LDTR] = &b->ldtr;
    out[VMC_TR] = &b->tr;
}

/* ---- pull -------------------------------------------------------------------------------------
 */

static void pull_control(struct hw_vcpu *v)
{
    const struct vmcb *b = vmcb_of(v);
    struct vmc_x86_state *st = &v->st;
    struct vmc_paging pg;

    st->cr2 = b->cr2;
    hw_pull_xcr0(v);
    if (!v->vm->nested)
        return; /* the others are what the last push said */
    /* Bits that are not passed on change with an exit; so does all of CR4. */
    st->cr0 = (b->cr0 & ~CR0_HOST) | (st->cr0 & CR0_HOST);
    st->cr3 = b->cr3;
    st->efer = b->efer & ~VMC_EFER_SVME;
    /* The processor reads PDPTEs as it walks; the software CPU wants them beforehand. */
    vmci_emulator_paging(v->emu, &pg);
    if ((st->cr0 & VMC_CR0_PG) && (st->cr4 & VMC_CR4_PAE) && !(st->efer & VMC_EFER_LMA) &&
        vmc_walk_load_pdpte(v->vm->mem, st->cr3, pg.phys_bits, st->pdpte) != VMC_OK)
        memset(st->pdpte, 0, sizeof(st->pdpte));
}

void svm_pull(struct hw_vcpu *v, uint32_t groups)
{
    struct vmcb *b = vmcb_of(v);
    struct vmc_x86_state *st = &v->st;
    struct vmcb_seg *seg[VMC_SREGS];

    if (groups & HW_ST_RSP)
        st->gpr[VMC_RSP] = b->rsp;
    if (groups & VMC_ST_SEG) {
        seg_table(b, seg);
        for (unsigned i = 0; i < VMC_SREGS; i++)
            seg_out(&st->seg[i], seg[i], i >= VMC_LDTR);
        /* CPL is apart, and the DPL of SS may be stale (APM 2 15.5.1). */
        st->seg[VMC_SS].attr = (st->seg[VMC_SS].attr & ~VMC_SEG_DPL) | (uint32_t)(b->cpl & 3)
                                                                           << VMC_SEG_DPL_SHIFT;
    }
    if (groups & VMC_ST_TABLES) {
        st->gdtr = (struct vmc_table){.base = b->gdtr.base, .limit = (uint16_t)b->gdtr.limit};
        st->idtr = (struct vmc_table){.base = b->idtr.base, .limit = (uint16_t)b->idtr.limit};
    }
    if (groups & VMC_ST_CTRL)
        pull_control(v);
    if (groups & VMC_ST_MSR) {
        st->msr.star = b->star;
        st->msr.lstar = b->lstar;
        st->msr.cstar = b->cstar;
        st->msr.sfmask = b->sfmask;
        st->msr.kernel_gs_base = b->kernel_gs_base;
        st->msr.sysenter_cs = b->sysenter_cs;
        st->msr.sysenter_esp = b->sysenter_esp;
        st->msr.sysenter_eip = b->sysenter_eip;
    }
}

/* ---- push -------------------------------------------------------------------------------------
 */

static uint8_t cpl_of(const struct vmc_x86_state *st)
{
    if (!(st->cr0 & VMC_CR0_PE))
        return 0;
    if (st->rflags & VMC_FLAG_VM)
        return 3;
    return (uint8_t)((st->seg[VMC_SS].attr & VMC_SEG_DPL) >> VMC_SEG_DPL_SHIFT);
}

static void push_control(struct hw_vcpu *v)
{
    struct vmcb *b = vmcb_of(v);
    const struct vmc_x86_state *st = &v->st;

    hw_code_forget(v);
    /* Nobody but the host switches caches off (see vmx_state.c). */
    b->cr0 = st->cr0 & ~CR0_HOST;
    b->cr4 = st->cr4 | (v->vm->hw->read_cr(hw_ctx(v), 4) & VMC_CR4_MCE);
    b->cr3 = st->cr3;
    b->cr2 = st->cr2;
    b->efer = st->efer | VMC_EFER_SVME;
    if (v->vm->nested) {
        /* SVM_I_CR0_SEL compares with what the processor has: it misses that CD is cleared. */
        bool differs = b->cr0 != st->cr0;
        b->cr_read = differs | (b->cr4 != st->cr4) << 4;
        b->cr_write = (b->cr_write & ~1u) | differs;
    }
    if (!v->vm->nested) {
        /* Always paged, with tables that have NX; real mode pages too (APM 2 15.19). */
        b->cr0 |= VMC_CR0_PG | VMC_CR0_WP;
        b->cr4 = (b->cr4 | VMC_CR4_PAE) & ~(VMC_CR4_PCIDE | VMC_CR4_PGE);
        b->cr3 = v->shadow.root_hpa;
        b->efer |= VMC_EFER_NX;
        if (!(st->efer & VMC_EFER_LMA))
            b->efer &= ~VMC_EFER_LME;
    }
}

void svm_push(struct hw_vcpu *v, uint32_t groups)
{
    struct vmcb *b = vmcb_of(v);
    const struct vmc_x86_state *st = &v->st;
    struct vmcb_seg *seg[VMC_SREGS];

    b->clean = 0;
    if (groups & (VMC_ST_RIP | VMC_ST_EVENT)) {
        b->rflags = (st->rflags & RFLAGS_KNOWN) | VMC_FLAG_1;
        b->interrupt_shadow = (st->sti_shadow | st->ss_shadow) != 0;
        /* There is no blocking by NMI: IRET is watched for instead. */
        b->misc1 = st->nmi_blocked ? b->misc1 | SVM_I_IRET : b->misc1 & ~SVM_I_IRET;
    }
    if (groups & HW_ST_RSP)
        b->rsp = st->gpr[VMC_RSP];
    if (groups & VMC_ST_SEG) {
        seg_table(b, seg);
        for (unsigned i = 0; i < VMC_SREGS; i++)
            seg_in(seg[i], &st->seg[i]);
    }
    /* Of segments that were not asked for since the last exit the VMCB knows better. */
    if ((groups & (VMC_ST_SEG | VMC_ST_RIP | VMC_ST_CTRL)) &&
        (v->valid & (VMC_ST_SEG | VMC_ST_CTRL)) == (VMC_ST_SEG | VMC_ST_CTRL))
        b->cpl = cpl_of(st);
    if (groups & VMC_ST_TABLES) {
        b->gdtr = (struct vmcb_seg){.base = st->gdtr.base, .limit = st->gdtr.limit};
        b->idtr = (struct vmcb_seg){.base = st->idtr.base, .limit = st->idtr.limit};
    }
    if (groups & VMC_ST_CTRL)
        push_control(v);
    if (groups & VMC_ST_DEBUG) {
        b->dr6 = st->dr6;
        b->dr7 = (st->dr7 & 0xffffffffull) | VMC_DR7_FIXED;
        if ((st->dr7 & 0xff) != 0)
            for (unsigned i = 0; i < 4; i++)
                v->vm->hw->write_dr(hw_ctx(v), i, st->dr[i]);
    }
    if (groups & VMC_ST_MSR) {
        b->star = st->msr.star;
        b->lstar = st->msr.lstar;
        b->cstar = st->msr.cstar;
        b->sfmask = st->msr.sfmask;
        b->kernel_gs_base = st->msr.kernel_gs_base;
        b->sysenter_cs = st->msr.sysenter_cs;
        b->sysenter_esp = st->msr.sysenter_esp;
        b->sysenter_eip = st->msr.sysenter_eip;
        b->g_pat = st->msr.pat;
        if (v->vm->caps.svm.lbr) { /* switched only while it is needed */
            b->dbgctl = st->msr.debugctl & VMC_DEBUGCTL_BTF;
            b->lbr = b->dbgctl != 0 ? SVM_LBR_ON : 0;
        }
        if (vmc_cpu_policy_has(&v->vm->policy, "rdtscp"))
            v->vm->hw->wrmsr(hw_ctx(v), VMC_MSR_TSC_AUX, st->msr.tsc_aux);
    }
    if (groups & VMC_ST_CLOCK)
        b->tsc_offset = (uint64_t)v->tsc_offset;
}

/* ---- events -----------------------------------------------------------------------------------
 */

/* The one virtual interrupt of the VMCB: to be delivered, or to exit when it could be. */
static void set_virq(struct hw_vcpu *v, bool on, uint8_t vector, bool exits)
{
    struct vmcb *b = vmcb_of(v);

    b->v_irq = on ? SVM_V_IRQ : 0;
    b->v_vector = vector;
    b->misc1 = exits ? b->misc1 | SVM_I_VINTR : b->misc1 & ~SVM_I_VINTR;
    b->clean = 0;
}

/*
 * QEMU's processor delivers interrupts from EVENTINJ at once but keeps the vector as if it were
 * still to come: when it stops to look at something else before the next exit, it delivers the
 * interrupt again, with interrupts off, and kills the guest in time. There they become virtual ones
 * (APM 2 15.21.4), which the processor takes before the guest's first instruction. Silicon does so
 * too; Bochs does not before the guest sets IF.
 */
void svm_inject(struct hw_vcpu *v, const struct vmc_event *e)
{
    struct vmcb *b = vmcb_of(v);

    v->u.svm.inject_entry = v->stat[HW_STAT_ENTRIES] + 1;
    v->u.svm.inject_rip = v->st.rip;
    if (v->vm->caps.svm.offer_irqs && e->type == VMC_EV_IRQ && (v->st.rflags & VMC_FLAG_IF) != 0) {
        v->u.svm.offered = true;
        set_virq(v, true, e->vector, false);
        return;
    }
    unsigned type =
        e->type == VMC_EV_SOFT_EXC || e->type == VMC_EV_PRIV_SOFT_EXC ? VMC_EV_EXCEPTION : e->type;
    b->event_inj = e->vector | (uint64_t)type << 8 | SVM_EV_VALID;
    hw_need(v, VMC_ST_CTRL);
    if (e->has_code && (v->st.cr0 & VMC_CR0_PE) != 0)
        b->event_inj |= SVM_EV_CODE | (uint64_t)e->code << 32;
    if (e->type == VMC_EV_NMI) {
        v->st.nmi_blocked = 1;
        b->misc1 |= SVM_I_IRET;
        b->clean = 0;
    }
}

/* An event that was handed over did not reach the guest. */
void svm_take_back(struct hw_vcpu *v)
{
    struct vmcb *b = vmcb_of(v);

    if (v->inflight.type == VMC_EV_NMI)
        v->st.nmi_blocked = 0;
    if (v->u.svm.offered)
        set_virq(v, false, 0, false);
    v->u.svm.offered = false;
    v->u.svm.inject_entry = 0; /* what EXITINTINFO says of it is not needed */
    b->event_inj = 0;
    v->st.injected = v->inflight;
    v->inflight.type = VMC_EV_NONE;
    v->todo |= HW_TODO_EVENT;
}

void svm_windows(struct hw_vcpu *v, bool irq, bool nmi)
{
    struct vmcb *b = vmcb_of(v);
    bool on = (b->misc1 & SVM_I_VINTR) != 0;

    /* A window would need the virtual interrupt that is on offer: see after_event. */
    if (v->u.svm.offered) {
        v->u.svm.step_over = false;
        return;
    }
    /* A virtual interrupt that exits instead of being delivered: the window is open. */
    if (irq != on)
        set_virq(v, irq, 0, irq);
    /* While NMIs are blocked IRET tells; in an interrupt shadow one instruction has to pass. */
    v->u.svm.step_over = nmi && !v->st.nmi_blocked && v->inflight.type == VMC_EV_NONE;
}

bool svm_code64(struct hw_vcpu *v, uint64_t *cr3)
{
    const struct vmcb *b = vmcb_of(v);

    *cr3 = v->vm->nested ? b->cr3 : v->st.cr3;
    return (b->efer & VMC_EFER_LMA) != 0 && (b->cs.attr & 0x200) != 0;
}

/* Decode assists keep what was fetched when data accesses fault (APM 2 15.8.4). */
const uint8_t *svm_fetched(struct hw_vcpu *v)
{
    const struct vmcb *b = vmcb_of(v);
    bool fault = b->exit_code == SVM_NPF || b->exit_code == SVM_EXC + VMC_VEC_PF;

    return fault && (b->fetched & 15) == sizeof(b->bytes) ? b->bytes : NULL;
}

/* ---- translations, task priority --------------------------------------------------------------
 */

void svm_flush_tlb(struct hw_vcpu *v)
{
    struct hw_percpu *pc = hw_percpu(v->vm->pf);
    struct vmcb *b = vmcb_of(v);

    hw_code_forget(v); /* host addresses may have changed as well */
    hw_tag_new(v, pc);
    b->asid = v->tag;
    b->clean = 0;
    if (!v->vm->nested)
        b->cr3 = v->shadow.root_hpa;
    if (pc->owes_flush != 0) {
        b->tlb_control = SVM_TLB_FLUSH_ALL;
        pc->owes_flush = 0;
    }
}

void svm_tpr_out(struct hw_vcpu *v)
{
    uint8_t tpr = vmcb_of(v)->v_tpr & 0xf;

    if (v->io->set_tpr != NULL && tpr != v->u.svm.tpr) {
        v->u.svm.tpr = tpr;
        v->io->set_tpr(v->io->ctx, tpr);
    }
}

void svm_tpr_in(struct hw_vcpu *v)
{
    if (v->io->get_tpr == NULL)
        return;
    uint8_t tpr = (uint8_t)(v->io->get_tpr(v->io->ctx) & 0xf);
    if (tpr != v->u.svm.tpr) {
        v->u.svm.tpr = tpr;
        vmcb_of(v)->v_tpr = tpr;
        vmcb_of(v)->clean = 0;
    }
}
