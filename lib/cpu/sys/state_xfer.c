/* SPDX-License-Identifier: BSD-2-Clause */
/* Between struct vmci_cpu and the transfer format, and the state after RESET and INIT. */
#include "sys_priv.h"

#define RFLAGS_KNOWN                                                                               \
    (VMC_FLAG_ARITH | VMC_FLAG_1 | VMC_FLAG_TF | VMC_FLAG_IF | VMC_FLAG_DF | VMC_FLAG_IOPL |       \
     VMC_FLAG_NT | VMC_FLAG_RF | VMC_FLAG_VM | VMC_FLAG_AC | VMC_FLAG_VIF | VMC_FLAG_VIP |         \
     VMC_FLAG_ID)
#define CR0_KNOWN  0xe005003full
#define DR6_KNOWN  0xe00full
#define DR7_KNOWN  0xffff23ffull
#define ATTR_KNOWN (0xf0ffu | VMC_SEG_UNUSABLE)
#define PDPTE_P    1ull
#define PDPTE_RSVD 0x1e6ull
#define SHADOW_STI 1u
#define SHADOW_SS  3u
#define PAT_RESET  0x0007040600070406ull
#define XCR0_RESET VMC_XCR0_X87

/* ---- get -------------------------------------------------------------------------------------- */

static void get_ctrl(const struct vmci_cpu *cpu, struct vmc_x86_state *st)
{
    st->cr0 = cpu->cr0;
    st->cr2 = cpu->cr2;
    st->cr3 = cpu->cr3;
    st->cr4 = cpu->cr4;
    st->cr8 = cpu->io != NULL && cpu->io->get_tpr != NULL ? cpu->io->get_tpr(cpu->io->ctx) : 0;
    st->efer = cpu->efer;
    st->xcr0 = cpu->xcr0;
    memcpy(st->pdpte, cpu->pdpte, sizeof(st->pdpte));
}

static void get_event(const struct vmci_cpu *cpu, struct vmc_x86_state *st)
{
    st->injected = cpu->injected;
    if (cpu->injected.type == VMC_EV_NONE && cpu->pending_db != 0)
        st->injected = (struct vmc_event){
            .vector = VMC_VEC_DB, .type = VMC_EV_EXCEPTION, .payload = cpu->pending_db};
    st->nmi_pending = cpu->nmi_pending;
    st->nmi_blocked = cpu->nmi_blocked;
    st->smm = 0;
}

void vmci_cpu_get_state(struct vmci_cpu *cpu, uint32_t groups, struct vmc_x86_state *st)
{
    if ((groups & VMC_ST_GPR) != 0)
        memcpy(st->gpr, cpu->gpr, sizeof(st->gpr));
    if ((groups & VMC_ST_RIP) != 0) {
        st->rip = cpu->rip;
        st->rflags = cpu->rflags;
        st->sti_shadow = cpu->irq_shadow == SHADOW_STI;
        st->ss_shadow = cpu->irq_shadow == SHADOW_SS;
    }
    if ((groups & VMC_ST_SEG) != 0)
        memcpy(st->seg, cpu->seg, sizeof(st->seg));
    if ((groups & VMC_ST_TABLES) != 0) {
        st->gdtr = cpu->gdtr;
        st->idtr = cpu->idtr;
    }
    if ((groups & VMC_ST_CTRL) != 0)
        get_ctrl(cpu, st);
    if ((groups & VMC_ST_DEBUG) != 0) {
        memcpy(st->dr, cpu->dr, sizeof(st->dr));
        st->dr6 = cpu->dr6;
        st->dr7 = cpu->dr7;
    }
    if ((groups & VMC_ST_MSR) != 0)
        st->msr = cpu->msr;
    if ((groups & VMC_ST_EVENT) != 0)
        get_event(cpu, st);
    if ((groups & VMC_ST_CLOCK) != 0)
        st->tsc = vmci_tsc(cpu);
    if ((groups & VMC_ST_RUN) != 0)
        st->activity = cpu->activity;
}

/* ---- checks ----------------------------------------------------------------------------------- */

/* The first check that fails, for whoever has to find out why. */
struct refusal {
    const char *what;
    uint64_t value;
};

static bool no(struct refusal *r, const char *what, uint64_t value)
{
    *r = (struct refusal){what, value};
    return false;
}

static bool loadable(const struct vmci_cpu *cpu, uint64_t la)
{
    return vmci_canonical48(la) || (cpu->state_57 && vmci_canonical57(la));
}

/* The registers that rules between groups look at, as they will be. */
struct merged {
    uint64_t cr0, efer, rflags;
    const struct vmc_segment *cs;
};

static bool paging_ok(const struct vmci_cpu *cpu, const struct vmc_x86_state *st, struct refusal *r)
{
    bool lma = (st->efer & VMC_EFER_LMA) != 0;
    bool active = (st->efer & VMC_EFER_LME) != 0 && (st->cr0 & VMC_CR0_PG) != 0;

    if (lma != active)
        return no(r, "EFER.LMA is not EFER.LME and CR0.PG", st->efer);
    if (lma && (st->cr4 & VMC_CR4_PAE) == 0)
        return no(r, "long mode without CR4.PAE", st->cr4);
    if (!lma && (st->cr4 & VMC_CR4_PCIDE) != 0)
        return no(r, "CR4.PCIDE outside of long mode", st->cr4);
    if (st->cr3 >> cpu->state_phys_bits != 0)
        return no(r, "CR3: reserved bits", st->cr3);
    for (unsigned i = 0; i < 4; i++)
        if ((st->pdpte[i] & PDPTE_P) != 0 &&
            ((st->pdpte[i] & PDPTE_RSVD) != 0 || st->pdpte[i] >> cpu->state_phys_bits != 0))
            return no(r, "PDPTE: reserved bits", st->pdpte[i]);
    return true;
}

static bool ctrl_ok(const struct vmci_cpu *cpu, const struct vmc_x86_state *st, struct refusal *r)
{
    if ((st->cr0 >> 32) != 0)
        return no(r, "CR0 is above 32 bits", st->cr0);
    if ((st->cr0 & VMC_CR0_PG) != 0 && (st->cr0 & VMC_CR0_PE) == 0)
        return no(r, "CR0: PG without PE", st->cr0);
    if ((st->cr0 & VMC_CR0_NW) != 0 && (st->cr0 & VMC_CR0_CD) == 0)
        return no(r, "CR0: NW without CD", st->cr0);
    if ((st->cr4 & ~cpu->cr4_allowed) != 0)
        return no(r, "CR4: bits that the CPU model has not", st->cr4);
    if ((st->efer & ~(cpu->state_efer | VMC_EFER_LMA)) != 0)
        return no(r, "EFER: bits that the CPU model has not", st->efer);
    if (st->cr8 > 15)
        return no(r, "CR8 is above 4 bits", st->cr8);
    if ((st->xcr0 & ~cpu->xcr0_allowed) != 0)
        return no(r, "XCR0: components that the CPU model has not", st->xcr0);
    if ((st->xcr0 & VMC_XCR0_X87) == 0 ||
        (st->xcr0 & (VMC_XCR0_SSE | VMC_XCR0_AVX)) == VMC_XCR0_AVX)
        return no(r, "XCR0: without x87, or AVX without SSE", st->xcr0);
    return paging_ok(cpu, st, r);
}

static bool segs_ok(const struct vmci_cpu *cpu, const struct vmc_x86_state *st, struct refusal *r)
{
    static const uint8_t wide[] = {VMC_FS, VMC_GS, VMC_LDTR, VMC_TR};

    for (unsigned i = 0; i < VMC_SREGS; i++)
        if ((st->seg[i].attr & ~ATTR_KNOWN) != 0)
            return no(r, "segment attributes: reserved bits", st->seg[i].attr);
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(wide); i++)
        if (!loadable(cpu, st->seg[wide[i]].base))
            return no(r, "base of FS, GS, LDTR or TR is not canonical", st->seg[wide[i]].base);
    for (unsigned i = 0; i <= VMC_DS; i++)
        if ((st->seg[i].base >> 32) != 0 && (st->seg[i].attr & VMC_SEG_UNUSABLE) == 0)
            return no(r, "base of ES, CS, SS or DS is above 32 bits", st->seg[i].base);
    return true;
}

static bool types_ok(uint64_t v, bool pat)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned t = (unsigned)(v >> (8 * i)) & 0xffu;
        if (t > 7 || t == 2 || t == 3 || (t == 7 && !pat))
            return false;
    }
    return true;
}

static bool msrs_ok(const struct vmci_cpu *cpu, const struct vmc_x86_msrs *m, struct refusal *r)
{
    const uint64_t address[] = {m->lstar, m->cstar, m->sysenter_eip, m->sysenter_esp,
                                m->kernel_gs_base};

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(address); i++)
        if (!loadable(cpu, address[i]))
            return no(r, "LSTAR, CSTAR, SYSENTER_EIP, _ESP or KERNEL_GS_BASE is not canonical",
                      address[i]);
    if ((m->tsc_aux >> 32) != 0)
        return no(r, "TSC_AUX is above 32 bits", m->tsc_aux);
    if (m->xss != 0)
        return no(r, "XSS: there are no supervisor components", m->xss);
    if (!types_ok(m->pat, true))
        return no(r, "PAT: reserved memory types", m->pat);
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(m->mtrr_fixed); i++)
        if (!types_ok(m->mtrr_fixed[i], false))
            return no(r, "fixed MTRR: reserved memory types", m->mtrr_fixed[i]);
    return true;
}

static bool event_ok(const struct vmc_x86_state *st, struct refusal *r)
{
    const struct vmc_event *e = &st->injected;
    bool ok;

    if (st->nmi_blocked > 1 || st->nmi_pending > 2)
        return no(r, "more NMIs than can wait", st->nmi_pending);
    if (st->smm != 0)
        return no(r, "there is no system management mode", st->smm);
    switch (e->type) {
    case VMC_EV_NONE:
    case VMC_EV_IRQ:
    case VMC_EV_SOFT_INT:
        ok = true;
        break;
    case VMC_EV_NMI:
        ok = e->vector == VMC_VEC_NMI;
        break;
    case VMC_EV_EXCEPTION:
    case VMC_EV_PRIV_SOFT_EXC:
    case VMC_EV_SOFT_EXC:
        ok = e->vector < 32;
        break;
    default:
        ok = false;
        break;
    }
    return ok || no(r, "event to deliver: its type (8 bits up) and vector do not go together",
                    (uint64_t)e->type << 8 | e->vector);
}

static bool modes_ok(const struct merged *m, struct refusal *r)
{
    bool lma = (m->efer & VMC_EFER_LMA) != 0;

    if ((m->rflags & VMC_FLAG_VM) != 0 && (lma || (m->cr0 & VMC_CR0_PE) == 0))
        return no(r, "RFLAGS.VM outside of protected mode", m->rflags);
    if (lma && (m->cs->attr & (VMC_SEG_L | VMC_SEG_DB)) == (VMC_SEG_L | VMC_SEG_DB))
        return no(r, "CS: L and D are both 1", m->cs->attr);
    return true;
}

static bool tables_ok(const struct vmci_cpu *cpu, const struct vmc_x86_state *st, struct refusal *r)
{
    if (!loadable(cpu, st->gdtr.base))
        return no(r, "GDTR: base is not canonical", st->gdtr.base);
    return loadable(cpu, st->idtr.base) ||
           no(r, "IDTR: base is not canonical", st->idtr.base);
}

static bool state_ok(const struct vmci_cpu *cpu, uint32_t groups, const struct vmc_x86_state *st,
                     struct refusal *r)
{
    bool ctrl = (groups & VMC_ST_CTRL) != 0;
    struct merged m = {
        .cr0 = ctrl ? st->cr0 : cpu->cr0,
        .efer = ctrl ? st->efer : cpu->efer,
        .rflags = (groups & VMC_ST_RIP) != 0 ? st->rflags : cpu->rflags,
        .cs = (groups & VMC_ST_SEG) != 0 ? &st->seg[VMC_CS] : &cpu->seg[VMC_CS],
    };

    if ((groups & VMC_ST_RIP) != 0 && (st->rflags & ~RFLAGS_KNOWN) != 0)
        return no(r, "RFLAGS: reserved bits", st->rflags);
    if ((groups & VMC_ST_SEG) != 0 && !segs_ok(cpu, st, r))
        return false;
    if ((groups & VMC_ST_TABLES) != 0 && !tables_ok(cpu, st, r))
        return false;
    if (ctrl && !ctrl_ok(cpu, st, r))
        return false;
    if ((groups & VMC_ST_DEBUG) != 0 && (st->dr6 >> 32) != 0)
        return no(r, "DR6 is above 32 bits", st->dr6);
    if ((groups & VMC_ST_DEBUG) != 0 && (st->dr7 >> 32) != 0)
        return no(r, "DR7 is above 32 bits", st->dr7);
    if ((groups & VMC_ST_MSR) != 0 && !msrs_ok(cpu, &st->msr, r))
        return false;
    if ((groups & VMC_ST_EVENT) != 0 && !event_ok(st, r))
        return false;
    if ((groups & VMC_ST_RUN) != 0 && st->activity > VMC_RUN_SHUTDOWN)
        return no(r, "activity does not exist", st->activity);
    return modes_ok(&m, r);
}

/* ---- set -------------------------------------------------------------------------------------- */

static void set_ctrl(struct vmci_cpu *cpu, const struct vmc_x86_state *st)
{
    bool pae = (st->cr0 & VMC_CR0_PG) != 0 && (st->cr4 & VMC_CR4_PAE) != 0 &&
               (st->efer & VMC_EFER_LMA) == 0;

    cpu->cr0 = (st->cr0 & CR0_KNOWN) | VMC_CR0_ET;
    cpu->cr2 = st->cr2;
    cpu->cr3 = st->cr3;
    cpu->cr4 = st->cr4;
    cpu->efer = st->efer;
    cpu->xcr0 = st->xcr0;
    memcpy(cpu->pdpte, st->pdpte, sizeof(cpu->pdpte));
    /* A state without PDPTEs (made by hand) takes them from memory. */
    if (pae && ((st->pdpte[0] | st->pdpte[1] | st->pdpte[2] | st->pdpte[3]) & PDPTE_P) == 0 &&
        vmc_walk_load_pdpte(cpu->mem, st->cr3, cpu->phys_bits, cpu->pdpte) != 0)
        memset(cpu->pdpte, 0, sizeof(cpu->pdpte));
    if (cpu->io != NULL && cpu->io->set_tpr != NULL)
        cpu->io->set_tpr(cpu->io->ctx, st->cr8);
}

static void set_seg(struct vmc_segment *to, const struct vmc_segment *from)
{
    *to = *from;
    memset(to->pad, 0, sizeof(to->pad));
    if ((from->attr & VMC_SEG_UNUSABLE) != 0)
        to->attr = VMC_SEG_UNUSABLE | (from->attr & VMC_SEG_DPL);
}

int vmci_cpu_set_state(struct vmci_cpu *cpu, uint32_t groups, const struct vmc_x86_state *st)
{
    struct refusal r;

    if (!state_ok(cpu, groups, st, &r)) {
        vmci_log(cpu->pf, VMC_LOG_WARN, "cpu",
                 "vCPU %u: no processor can be in this state: %s (0x%llx)", cpu->apic_id, r.what,
                 (unsigned long long)r.value);
        return VMC_EINVAL;
    }
    if ((groups & VMC_ST_GPR) != 0)
        memcpy(cpu->gpr, st->gpr, sizeof(st->gpr));
    if ((groups & VMC_ST_RIP) != 0) {
        cpu->rip = st->rip;
        cpu->rflags = st->rflags | VMC_FLAG_1;
        cpu->irq_shadow = st->ss_shadow != 0 ? SHADOW_SS : st->sti_shadow != 0 ? SHADOW_STI : 0;
    }
    if ((groups & VMC_ST_SEG) != 0)
        for (unsigned i = 0; i < VMC_SREGS; i++)
            set_seg(&cpu->seg[i], &st->seg[i]);
    if ((groups & VMC_ST_TABLES) != 0) {
        cpu->gdtr = st->gdtr;
        cpu->idtr = st->idtr;
    }
    if ((groups & VMC_ST_CTRL) != 0)
        set_ctrl(cpu, st);
    if ((groups & VMC_ST_DEBUG) != 0) {
        memcpy(cpu->dr, st->dr, sizeof(cpu->dr));
        cpu->dr6 = (st->dr6 & DR6_KNOWN) | VMC_DR6_FIXED;
        cpu->dr7 = (st->dr7 & DR7_KNOWN) | VMC_DR7_FIXED;
    }
    if ((groups & VMC_ST_MSR) != 0)
        cpu->msr = st->msr;
    if ((groups & VMC_ST_EVENT) != 0) {
        cpu->injected = st->injected;
        cpu->pending_db = 0;
        cpu->nmi_pending = st->nmi_pending;
        cpu->nmi_blocked = st->nmi_blocked;
    }
    if ((groups & VMC_ST_CLOCK) != 0)
        cpu->tsc_offset += (int64_t)(st->tsc - vmci_tsc(cpu));
    if ((groups & VMC_ST_RUN) != 0)
        cpu->activity = st->activity;
    cpu->exc.pending = false;
    vmci_update_mode(cpu);
    if ((groups & (VMC_ST_CTRL | VMC_ST_SEG | VMC_ST_DEBUG)) != 0)
        vmci_tlb_flush(cpu, true);
    sys_request(cpu, VMCI_REQ_TRAP | VMCI_REQ_IRQ | (cpu->nmi_pending != 0 ? VMCI_REQ_NMI : 0));
    return VMC_OK;
}

/* ---- RESET and INIT (SDM 3A table 10-1) ------------------------------------------------------- */

static void reset_segments(struct vmci_cpu *cpu)
{
    for (unsigned i = 0; i < VMC_SREGS; i++)
        cpu->seg[i] = (struct vmc_segment){.limit = 0xffff, .attr = SEG_ATTR_REAL};
    cpu->seg[VMC_CS].selector = 0xf000;
    cpu->seg[VMC_CS].base = 0xffff0000u;
    cpu->seg[VMC_CS].attr = VMC_SEG_P | VMC_SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED;
    cpu->seg[VMC_LDTR].attr = VMC_SEG_P | SYS_LDT;
    cpu->seg[VMC_TR].attr = VMC_SEG_P | SYS_TSS32_BUSY;
    cpu->gdtr = (struct vmc_table){.limit = 0xffff};
    cpu->idtr = (struct vmc_table){.limit = 0xffff};
}

/* What RESET sets and INIT leaves alone. */
static void reset_only(struct vmci_cpu *cpu)
{
    cpu->cr0 = VMC_CR0_CD | VMC_CR0_NW;
    cpu->xcr0 = XCR0_RESET;
    cpu->pkru = 0; /* everything is flushed below */
    memset(&cpu->msr, 0, sizeof(cpu->msr));
    cpu->msr.pat = PAT_RESET;
    cpu->msr.misc_enable = 1; /* fast strings */
    cpu->msr.apic_base =
        VMC_APIC_DEFAULT_GPA | VMC_APIC_BASE_ENABLE | (cpu->index == 0 ? VMC_APIC_BASE_BSP : 0);
    cpu->tsc_offset = 0;
    cpu->tsc_offset = -(int64_t)vmci_tsc(cpu);
    cpu->nmi_pending = 0;
}

void vmci_cpu_reset(struct vmci_cpu *cpu, bool init)
{
    const struct vmc_cpuid_leaf *one =
        cpu->policy == NULL ? NULL : vmc_cpu_policy_find(cpu->policy, 1, 0);

    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->gpr[VMC_RDX] = one != NULL ? one->eax : 0x600;
    cpu->rip = 0xfff0;
    cpu->rflags = VMC_FLAG_1;
    reset_segments(cpu);
    if (!init)
        reset_only(cpu);
    cpu->cr0 = (cpu->cr0 & (VMC_CR0_CD | VMC_CR0_NW)) | VMC_CR0_ET;
    cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->efer = 0;
    memset(cpu->pdpte, 0, sizeof(cpu->pdpte));
    memset(cpu->dr, 0, sizeof(cpu->dr));
    cpu->dr6 = VMC_DR6_FIXED;
    cpu->dr7 = VMC_DR7_FIXED;
    cpu->exc = (struct vmci_exc){0};
    cpu->pending_db = 0;
    cpu->irq_shadow = 0;
    cpu->nmi_blocked = 0;
    cpu->delivering = 0;
    cpu->injected = (struct vmc_event){.type = VMC_EV_NONE};
    cpu->activity = VMC_RUN_RUNNING;
    vmci_update_mode(cpu);
    vmci_tlb_flush(cpu, true);
}
