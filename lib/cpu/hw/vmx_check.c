/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The checks of VM entry, in the manual's order, so that a VMCS that the processor refuses can be
 * explained. Sections are those of SDM volume 3C (edition of 2023: chapter 27).
 */
#include "cpu/hw/vmx_int.h"

#define SITE "vmx/check"

struct check {
    const struct vmx_caps *c;
    const struct vmx_fields *f;
    struct vmc_error *err;
};

static uint64_t rd(const struct check *k, uint32_t field)
{
    return k->f->read(k->f->ctx, field);
}

static __attribute__((noinline, cold)) int refuse(const struct check *k, const char *section,
                                                  const char *what, uint64_t value)
{
    return vmci_error(k->err, VMC_EINVAL, SITE, "SDM 3C %s: %s (0x%llx)", section, what,
                      (unsigned long long)value);
}

#define REQUIRE(cond, section, what, value)                                                        \
    do {                                                                                           \
        if (!(cond))                                                                               \
            return refuse(k, section, what, value);                                                \
    } while (0)

static bool canonical(uint64_t la)
{
    return (uint64_t)((int64_t)(la << 16) >> 16) == la;
}

static bool fits(uint32_t value, uint64_t caps)
{
    return (value & (uint32_t)caps) == (uint32_t)caps && (value & ~(uint32_t)(caps >> 32)) == 0;
}

static bool page_ok(const struct check *k, uint64_t hpa)
{
    return (hpa & 0xfff) == 0 && hpa >> k->c->phys_bits == 0;
}

static bool area_ok(const struct check *k, uint64_t hpa)
{
    return (hpa & 0xf) == 0 && hpa >> k->c->phys_bits == 0;
}

static bool pat_ok(uint64_t pat)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned t = (unsigned)(pat >> 8 * i) & 0xff;
        if (t != 0 && t != 1 && t != 4 && t != 5 && t != 6 && t != 7)
            return false;
    }
    return true;
}

/* ---- controls: 27.2.1 -------------------------------------------------------------------------
 */

static uint32_t proc2_of(const struct check *k)
{
    uint32_t proc = (uint32_t)rd(k, VMCS_PROC_CTL);

    return (proc & PROC_SECONDARY) ? (uint32_t)rd(k, VMCS_PROC2_CTL) : 0;
}

static int check_words(const struct check *k)
{
    const char *s = "27.2.1.1";
    uint32_t pin = (uint32_t)rd(k, VMCS_PIN_CTL), proc = (uint32_t)rd(k, VMCS_PROC_CTL);
    uint32_t proc2 = proc2_of(k);

    REQUIRE(fits(pin, k->c->pin), s, "pin-based controls: reserved bits", pin);
    REQUIRE(fits(proc, k->c->proc), s, "processor-based controls: reserved bits", proc);
    REQUIRE(!(proc & PROC_SECONDARY) || fits(proc2, k->c->proc2), s,
            "secondary controls: reserved bits", proc2);
    REQUIRE(rd(k, VMCS_CR3_TARGETS) <= (k->c->misc >> 16 & 0x1ff), s, "CR3-target count",
            rd(k, VMCS_CR3_TARGETS));
    REQUIRE((pin & PIN_NMI) || !(pin & PIN_VNMI), s, "virtual NMIs without NMI exiting", pin);
    REQUIRE((pin & PIN_VNMI) || !(proc & PROC_NMI_WINDOW), s,
            "NMI-window exiting without virtual NMIs", proc);
    REQUIRE((proc & PROC_TPR_SHADOW) || !(proc2 & (PROC2_X2APIC | PROC2_APIC_REG | PROC2_VID)), s,
            "APIC virtualisation without TPR shadow", proc2);
    REQUIRE(!(proc2 & PROC2_VID) || (pin & PIN_EXTINT), s,
            "virtual-interrupt delivery without external-interrupt exiting", proc2);
    REQUIRE(!(proc2 & PROC2_X2APIC) || !(proc2 & PROC2_APIC_ACCESS), s,
            "x2APIC mode together with APIC accesses", proc2);
    REQUIRE(!(pin & PIN_POSTED) || (proc2 & PROC2_VID), s,
            "posted interrupts without virtual-interrupt delivery", pin);
    REQUIRE(!(proc2 & PROC2_UG) || (proc2 & PROC2_EPT), s, "unrestricted guest without EPT", proc2);
    REQUIRE(!(proc2 & PROC2_PML) || (proc2 & PROC2_EPT), s, "PML without EPT", proc2);
    return VMC_OK;
}

static int check_addresses(const struct check *k)
{
    const char *s = "27.2.1.1";
    uint32_t proc = (uint32_t)rd(k, VMCS_PROC_CTL), proc2 = proc2_of(k);

    if (proc & PROC_IO_BITMAP) {
        REQUIRE(page_ok(k, rd(k, VMCS_IO_BITMAP_A)), s, "I/O bitmap A", rd(k, VMCS_IO_BITMAP_A));
        REQUIRE(page_ok(k, rd(k, VMCS_IO_BITMAP_B)), s, "I/O bitmap B", rd(k, VMCS_IO_BITMAP_B));
    }
    if (proc & PROC_MSR_BITMAP)
        REQUIRE(page_ok(k, rd(k, VMCS_MSR_BITMAP)), s, "MSR bitmap", rd(k, VMCS_MSR_BITMAP));
    if (proc & PROC_TPR_SHADOW) {
        REQUIRE(page_ok(k, rd(k, VMCS_VIRTUAL_APIC)), s, "virtual-APIC address",
                rd(k, VMCS_VIRTUAL_APIC));
        REQUIRE((proc2 & PROC2_VID) || rd(k, VMCS_TPR_THRESHOLD) < 16, s, "TPR threshold",
                rd(k, VMCS_TPR_THRESHOLD));
    }
    if ((proc & PROC_TPR_SHADOW) && !(proc2 & (PROC2_APIC_ACCESS | PROC2_VID)) &&
        k->f->vapic != NULL)
        REQUIRE(rd(k, VMCS_TPR_THRESHOLD) <= k->f->vapic[VAPIC_TPR] >> 4, s,
                "TPR threshold is above VTPR", rd(k, VMCS_TPR_THRESHOLD));
    if (proc2 & PROC2_APIC_ACCESS)
        REQUIRE(page_ok(k, rd(k, VMCS_APIC_ACCESS)), s, "APIC-access address",
                rd(k, VMCS_APIC_ACCESS));
    if ((uint32_t)rd(k, VMCS_PIN_CTL) & PIN_POSTED) {
        REQUIRE((uint32_t)rd(k, VMCS_EXIT_CTL) & EXIT_ACK, s,
                "posted interrupts without acknowledge interrupt on exit", rd(k, VMCS_EXIT_CTL));
        REQUIRE(rd(k, VMCS_POSTED_VECTOR) < 256, s, "posted-interrupt notification vector",
                rd(k, VMCS_POSTED_VECTOR));
        REQUIRE((rd(k, VMCS_POSTED_DESC) & 63) == 0 &&
                    rd(k, VMCS_POSTED_DESC) >> k->c->phys_bits == 0,
                s, "posted-interrupt descriptor address", rd(k, VMCS_POSTED_DESC));
    }
    if (proc2 & PROC2_VPID)
        REQUIRE(rd(k, VMCS_VPID) != 0, s, "VPID is 0", 0);
    if (proc2 & PROC2_PML)
        REQUIRE(page_ok(k, rd(k, VMCS_PML_ADDRESS)), s, "PML address", rd(k, VMCS_PML_ADDRESS));
    if (proc2 & PROC2_TSC_SCALE)
        REQUIRE(rd(k, VMCS_TSC_MULTIPLIER) != 0, s, "TSC multiplier is 0", 0);
    if (proc2 & PROC2_EPT) {
        uint64_t e = rd(k, VMCS_EPTP);
        REQUIRE(((e & 7) == 6 && (k->c->ept_vpid & EPT_WB)) ||
                    ((e & 7) == 0 && (k->c->ept_vpid & EPT_UC)),
                s, "EPTP: memory type", e);
        REQUIRE((e >> 3 & 7) == 3, s, "EPTP: page-walk length", e);
        REQUIRE(!(e & 0x40) || (k->c->ept_vpid & EPT_AD), s, "EPTP: accessed and dirty flags", e);
        REQUIRE((e & 0xf80) == 0 && e >> k->c->phys_bits == 0, s, "EPTP: reserved bits", e);
    }
    return VMC_OK;
}

static int check_exit_controls(const struct check *k)
{
    const char *s = "27.2.1.2";
    uint32_t pin = (uint32_t)rd(k, VMCS_PIN_CTL), exit = (uint32_t)rd(k, VMCS_EXIT_CTL);

    REQUIRE(fits(exit, k->c->exit), s, "VM-exit controls: reserved bits", exit);
    REQUIRE((pin & PIN_TIMER) || !(exit & EXIT_SAVE_TIMER), s,
            "saving the preemption timer without using it", exit);
    if (rd(k, VMCS_EXIT_STORE_N) != 0)
        REQUIRE(area_ok(k, rd(k, VMCS_EXIT_MSR_STORE)), s, "VM-exit MSR-store area",
                rd(k, VMCS_EXIT_MSR_STORE));
    if (rd(k, VMCS_EXIT_LOAD_N) != 0)
        REQUIRE(area_ok(k, rd(k, VMCS_EXIT_MSR_LOAD)), s, "VM-exit MSR-load area",
                rd(k, VMCS_EXIT_MSR_LOAD));
    return VMC_OK;
}

static bool vector_ok(uint32_t type, uint32_t vector)
{
    if (type == VMC_EV_NMI)
        return vector == VMC_VEC_NMI;
    if (type == VMC_EV_EXCEPTION)
        return vector < 32;
    return type != 7 || vector == 0;
}

static bool has_code(uint32_t vector)
{
    return vector == VMC_VEC_DF || (vector >= VMC_VEC_TS && vector <= VMC_VEC_PF) ||
           vector == VMC_VEC_AC;
}

static int check_injection(const struct check *k)
{
    const char *s = "27.2.1.3";
    uint32_t info = (uint32_t)rd(k, VMCS_ENTRY_INTR_INFO);
    uint32_t type = INTR_TYPE(info), vector = info & 0xff;

    if (!(info & INTR_VALID))
        return VMC_OK;
    bool pe = (rd(k, VMCS_GUEST_CR0) & VMC_CR0_PE) != 0 || !(proc2_of(k) & PROC2_UG);
    bool code = type == VMC_EV_EXCEPTION && has_code(vector) && pe;
    REQUIRE(type != 1, s, "event injection: interruption type is reserved", info);
    REQUIRE(type != 7 || (k->c->proc >> 32 & PROC_MTF), s, "event injection: MTF", info);
    REQUIRE(vector_ok(type, vector), s, "event injection: vector does not fit the type", info);
    /* Processors with IA32_VMX_BASIC bit 56 do not insist on the error code of an exception. */
    REQUIRE(((info & INTR_CODE) != 0) == code ||
                (type == VMC_EV_EXCEPTION && pe && (k->c->basic >> 56 & 1)),
            s, "event injection: deliver-error-code", info);
    REQUIRE((info & 0x7ffff000u) == 0, s, "event injection: reserved bits", info);
    REQUIRE(!(info & INTR_CODE) || (rd(k, VMCS_ENTRY_EXC_CODE) & ~0xffffull) == 0, s,
            "event injection: error code", rd(k, VMCS_ENTRY_EXC_CODE));
    if (type >= VMC_EV_SOFT_INT && type <= VMC_EV_SOFT_EXC) {
        uint64_t len = rd(k, VMCS_ENTRY_INSN_LEN);
        REQUIRE(len <= 15 && (len != 0 || (k->c->misc >> 30 & 1)), s,
                "event injection: instruction length", len);
    }
    return VMC_OK;
}

int vmx_check_controls(const struct vmx_caps *c, const struct vmx_fields *f, struct vmc_error *err)
{
    const struct check check = {c, f, err}, *k = &check;
    int rc = check_words(k);

    if (rc == VMC_OK)
        rc = check_addresses(k);
    if (rc == VMC_OK)
        rc = check_exit_controls(k);
    if (rc != VMC_OK)
        return rc;
    uint32_t entry = (uint32_t)rd(k, VMCS_ENTRY_CTL);
    REQUIRE(fits(entry, c->entry), "27.2.1.3", "VM-entry controls: reserved bits", entry);
    REQUIRE(!(entry & (ENTRY_SMM | ENTRY_DUAL)), "27.2.1.3", "VM-entry controls: SMM", entry);
    if (rd(k, VMCS_ENTRY_LOAD_N) != 0)
        REQUIRE(area_ok(k, rd(k, VMCS_ENTRY_MSR_LOAD)), "27.2.1.3", "VM-entry MSR-load area",
                rd(k, VMCS_ENTRY_MSR_LOAD));
    return check_injection(k);
}

/* ---- host: 27.2.2 to 27.2.4 -------------------------------------------------------------------
 */

static int check_host_segments(const struct check *k, bool host64)
{
    static const uint32_t sel[] = {VMCS_HOST_ES, VMCS_HOST_CS, VMCS_HOST_SS, VMCS_HOST_DS,
                                   VMCS_HOST_FS, VMCS_HOST_GS, VMCS_HOST_TR};
    static const uint32_t base[] = {VMCS_HOST_FS_BASE, VMCS_HOST_GS_BASE, VMCS_HOST_GDTR_BASE,
                                    VMCS_HOST_IDTR_BASE, VMCS_HOST_TR_BASE};
    const char *s = "27.2.3";

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(sel); i++)
        REQUIRE((rd(k, sel[i]) & 7) == 0, s, "host selector: TI or RPL is not 0", rd(k, sel[i]));
    REQUIRE(rd(k, VMCS_HOST_CS) != 0, s, "host CS is 0", 0);
    REQUIRE(rd(k, VMCS_HOST_TR) != 0, s, "host TR is 0", 0);
    REQUIRE(host64 || rd(k, VMCS_HOST_SS) != 0, s, "host SS is 0", 0);
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(base); i++)
        REQUIRE(canonical(rd(k, base[i])), s, "host base address is not canonical", rd(k, base[i]));
    return VMC_OK;
}

int vmx_check_host(const struct vmx_caps *c, const struct vmx_fields *f, struct vmc_error *err)
{
    const struct check check = {c, f, err}, *k = &check;
    const char *s = "27.2.2";
    uint64_t cr0 = rd(k, VMCS_HOST_CR0), cr4 = rd(k, VMCS_HOST_CR4);
    uint32_t exit = (uint32_t)rd(k, VMCS_EXIT_CTL);
    bool host64 = (exit & EXIT_HOST64) != 0;

    REQUIRE((cr0 & c->cr0_fixed0) == c->cr0_fixed0 && (cr0 & ~c->cr0_fixed1) == 0, s,
            "host CR0: fixed bits", cr0);
    REQUIRE((cr4 & c->cr4_fixed0) == c->cr4_fixed0 && (cr4 & ~c->cr4_fixed1) == 0, s,
            "host CR4: fixed bits", cr4);
    REQUIRE(rd(k, VMCS_HOST_CR3) >> c->phys_bits == 0, s, "host CR3", rd(k, VMCS_HOST_CR3));
    REQUIRE(canonical(rd(k, VMCS_HOST_SYSENTER_ESP)) && canonical(rd(k, VMCS_HOST_SYSENTER_EIP)), s,
            "host SYSENTER addresses are not canonical", rd(k, VMCS_HOST_SYSENTER_EIP));
    REQUIRE(!(exit & EXIT_LOAD_PAT) || pat_ok(rd(k, VMCS_HOST_PAT)), s, "host PAT",
            rd(k, VMCS_HOST_PAT));
    if (exit & EXIT_LOAD_EFER) {
        uint64_t efer = rd(k, VMCS_HOST_EFER);
        REQUIRE((efer & ~(VMC_EFER_SCE | VMC_EFER_LME | VMC_EFER_LMA | VMC_EFER_NX)) == 0, s,
                "host EFER: reserved bits", efer);
        REQUIRE(((efer & VMC_EFER_LMA) != 0) == host64 && ((efer & VMC_EFER_LME) != 0) == host64, s,
                "host EFER does not fit \"host address-space size\"", efer);
    }
    int rc = check_host_segments(k, host64);
    if (rc != VMC_OK)
        return rc;
    s = "27.2.4";
    REQUIRE(host64, s, "\"host address-space size\" is 0 on a 64-bit host", exit);
    REQUIRE((cr4 & VMC_CR4_PAE) != 0, s, "host CR4.PAE is 0", cr4);
    REQUIRE(canonical(rd(k, VMCS_HOST_RIP)), s, "host RIP is not canonical", rd(k, VMCS_HOST_RIP));
    return VMC_OK;
}

/* ---- guest: 27.3.1 ----------------------------------------------------------------------------
 */

struct guest {
    struct vmc_segment seg[VMC_SREGS];
    uint64_t cr0, rflags;
    bool ia32e, ug, v86;
};

static bool usable(const struct vmc_segment *s)
{
    return !(s->attr & VMC_SEG_UNUSABLE);
}

static unsigned type_of(const struct vmc_segment *s)
{
    return s->attr & VMC_SEG_TYPE;
}

static unsigned dpl_of(const struct vmc_segment *s)
{
    return (s->attr & VMC_SEG_DPL) >> VMC_SEG_DPL_SHIFT;
}

static bool granular(const struct vmc_segment *s)
{
    if ((s->limit & 0xfff) != 0xfff && (s->attr & VMC_SEG_G))
        return false;
    return (s->limit >> 20) == 0 || (s->attr & VMC_SEG_G) != 0;
}

#define SEG_RESERVED 0xfffe0f00u

/* The first rule of 27.3.1.2 that the segment registers break, or NULL. */
static const char *broken_v86(const struct guest *g)
{
    for (unsigned i = 0; i <= VMC_GS; i++) {
        const struct vmc_segment *s = &g->seg[i];
        if (s->base != (uint64_t)s->selector << 4)
            return "virtual-8086 mode: base is not selector * 16";
        if (s->limit != 0xffff)
            return "virtual-8086 mode: limit is not FFFFH";
        if (s->attr != 0xf3)
            return "virtual-8086 mode: access rights are not F3H";
    }
    return NULL;
}

static const char *broken_cs(const struct guest *g)
{
    const struct vmc_segment *cs = &g->seg[VMC_CS], *ss = &g->seg[VMC_SS];
    unsigned type = type_of(cs);

    if (!usable(cs) || !(cs->attr & VMC_SEG_S) || !(cs->attr & VMC_SEG_P))
        return "CS is not a present code segment";
    if (!(type == 9 || type == 11 || type == 13 || type == 15 || (type == 3 && g->ug)))
        return "CS: type";
    if (type == 3 && dpl_of(cs) != 0)
        return "CS: DPL of a data segment in CS";
    if ((type == 9 || type == 11) && dpl_of(cs) != dpl_of(ss))
        return "CS: DPL differs from SS.DPL";
    if ((type == 13 || type == 15) && dpl_of(cs) > dpl_of(ss))
        return "CS: DPL is above SS.DPL";
    if (g->ia32e && (cs->attr & VMC_SEG_L) && (cs->attr & VMC_SEG_DB))
        return "CS: L and D are both 1";
    if ((cs->attr & SEG_RESERVED) != 0 || !granular(cs))
        return "CS: reserved bits or granularity";
    return cs->base >> 32 != 0 ? "CS: base is above 32 bits" : NULL;
}

static const char *broken_data(const struct guest *g, unsigned i)
{
    const struct vmc_segment *s = &g->seg[i];
    unsigned type = type_of(s);

    if (i <= VMC_DS && usable(s) && s->base >> 32 != 0)
        return "base of a data segment is above 32 bits";
    if ((i == VMC_FS || i == VMC_GS) && !canonical(s->base))
        return "base of FS or GS is not canonical";
    if (!usable(s))
        return NULL;
    if (i == VMC_SS && type != 3 && type != 7)
        return "SS: type";
    if (i != VMC_SS && ((type & 1) == 0 || ((type & 8) != 0 && (type & 2) == 0)))
        return "data segment: not accessed, or code that is not readable";
    if (!(s->attr & VMC_SEG_S) || !(s->attr & VMC_SEG_P))
        return "data segment: S or P is 0";
    if (i != VMC_SS && !g->ug && type <= 11 && dpl_of(s) < (s->selector & 3))
        return "data segment: DPL is below RPL";
    if ((s->attr & SEG_RESERVED) != 0 || !granular(s))
        return "data segment: reserved bits or granularity";
    return NULL;
}

static const char *broken_ss(const struct guest *g)
{
    const struct vmc_segment *cs = &g->seg[VMC_CS], *ss = &g->seg[VMC_SS];

    if (!g->ug && (ss->selector & 3) != (cs->selector & 3))
        return "SS: RPL differs from CS.RPL";
    if (!g->ug && dpl_of(ss) != (ss->selector & 3u))
        return "SS: DPL differs from RPL";
    if ((type_of(cs) == 3 || !(g->cr0 & VMC_CR0_PE)) && dpl_of(ss) != 0)
        return "SS: DPL is not 0 in real-address mode";
    return NULL;
}

static const char *broken_system(const struct guest *g)
{
    const struct vmc_segment *tr = &g->seg[VMC_TR], *ldtr = &g->seg[VMC_LDTR];

    if (!usable(tr) || !(tr->attr & VMC_SEG_P) || (tr->attr & VMC_SEG_S) || (tr->selector & 4))
        return "TR is not a present system segment of the GDT";
    if (type_of(tr) != 11 && (type_of(tr) != 3 || g->ia32e))
        return "TR: type is not a busy TSS";
    if (!canonical(tr->base) || (tr->attr & SEG_RESERVED) != 0 || !granular(tr))
        return "TR: base, reserved bits or granularity";
    if (!usable(ldtr))
        return NULL;
    if ((ldtr->selector & 4) || type_of(ldtr) != 2 || (ldtr->attr & VMC_SEG_S) ||
        !(ldtr->attr & VMC_SEG_P))
        return "LDTR is not a present LDT of the GDT";
    if (!canonical(ldtr->base) || (ldtr->attr & SEG_RESERVED) != 0 || !granular(ldtr))
        return "LDTR: base, reserved bits or granularity";
    return NULL;
}

static const char *broken_segments(const struct guest *g)
{
    const char *why = g->v86 ? broken_v86(g) : broken_cs(g);

    if (why == NULL && !g->v86)
        why = broken_ss(g);
    for (unsigned i = 0; why == NULL && !g->v86 && i <= VMC_GS; i++)
        if (i != VMC_CS)
            why = broken_data(g, i);
    return why != NULL ? why : broken_system(g);
}

static void read_guest(const struct check *k, struct guest *g)
{
    for (unsigned i = 0; i < VMC_SREGS; i++) {
        g->seg[i].selector = (uint16_t)rd(k, VMCS_GUEST_SEL(i));
        g->seg[i].base = rd(k, VMCS_GUEST_BASE(i));
        g->seg[i].limit = (uint32_t)rd(k, VMCS_GUEST_LIMIT(i));
        g->seg[i].attr = (uint32_t)rd(k, VMCS_GUEST_AR(i));
    }
    g->cr0 = rd(k, VMCS_GUEST_CR0);
    g->rflags = rd(k, VMCS_GUEST_RFLAGS);
    g->ia32e = (rd(k, VMCS_ENTRY_CTL) & ENTRY_IA32E) != 0;
    g->ug = (proc2_of(k) & PROC2_UG) != 0;
    g->v86 = (g->rflags & VMC_FLAG_VM) != 0;
}

static int check_guest_control(const struct check *k, const struct guest *g)
{
    const char *s = "27.3.1.1";
    uint64_t fixed0 = k->c->cr0_fixed0 & ~(g->ug ? VMC_CR0_PE | VMC_CR0_PG : 0);
    uint64_t cr4 = rd(k, VMCS_GUEST_CR4);
    uint32_t entry = (uint32_t)rd(k, VMCS_ENTRY_CTL);

    REQUIRE((g->cr0 & fixed0) == fixed0 && (g->cr0 & ~k->c->cr0_fixed1) == 0, s,
            "guest CR0: fixed bits", g->cr0);
    REQUIRE(!(g->cr0 & VMC_CR0_PG) || (g->cr0 & VMC_CR0_PE), s, "guest CR0: PG without PE", g->cr0);
    REQUIRE((cr4 & k->c->cr4_fixed0) == k->c->cr4_fixed0 && (cr4 & ~k->c->cr4_fixed1) == 0, s,
            "guest CR4: fixed bits", cr4);
    REQUIRE(!g->ia32e || ((g->cr0 & VMC_CR0_PG) && (cr4 & VMC_CR4_PAE)), s,
            "IA-32e mode without paging or PAE", cr4);
    REQUIRE(g->ia32e || !(cr4 & VMC_CR4_PCIDE), s, "PCIDE outside IA-32e mode", cr4);
    REQUIRE(rd(k, VMCS_GUEST_CR3) >> k->c->phys_bits == 0, s, "guest CR3", rd(k, VMCS_GUEST_CR3));
    REQUIRE(!(entry & ENTRY_LOAD_DEBUG) || rd(k, VMCS_GUEST_DR7) >> 32 == 0, s,
            "guest DR7 is above 32 bits", rd(k, VMCS_GUEST_DR7));
    REQUIRE(!(entry & ENTRY_LOAD_DEBUG) || (rd(k, VMCS_GUEST_DEBUGCTL) & ~0xdfc7ull) == 0, s,
            "guest IA32_DEBUGCTL: reserved bits", rd(k, VMCS_GUEST_DEBUGCTL));
    REQUIRE(canonical(rd(k, VMCS_GUEST_SYSENTER_ESP)) && canonical(rd(k, VMCS_GUEST_SYSENTER_EIP)),
            s, "guest SYSENTER addresses are not canonical", rd(k, VMCS_GUEST_SYSENTER_EIP));
    REQUIRE(!(entry & ENTRY_LOAD_PAT) || pat_ok(rd(k, VMCS_GUEST_PAT)), s, "guest PAT",
            rd(k, VMCS_GUEST_PAT));
    if (entry & ENTRY_LOAD_EFER) {
        uint64_t efer = rd(k, VMCS_GUEST_EFER);
        REQUIRE((efer & ~(VMC_EFER_SCE | VMC_EFER_LME | VMC_EFER_LMA | VMC_EFER_NX)) == 0, s,
                "guest EFER: reserved bits", efer);
        REQUIRE(((efer & VMC_EFER_LMA) != 0) == g->ia32e, s,
                "guest EFER.LMA does not fit \"IA-32e mode guest\"", efer);
        REQUIRE(!(g->cr0 & VMC_CR0_PG) || !(efer & VMC_EFER_LMA) == !(efer & VMC_EFER_LME), s,
                "guest EFER: LME differs from LMA while paging", efer);
    }
    return VMC_OK;
}

static int check_guest_flow(const struct check *k, const struct guest *g)
{
    uint64_t rip = rd(k, VMCS_GUEST_RIP);
    uint32_t info = (uint32_t)rd(k, VMCS_ENTRY_INTR_INFO);
    bool irq = (info & INTR_VALID) && INTR_TYPE(info) == VMC_EV_IRQ;
    bool code64 = g->ia32e && (g->seg[VMC_CS].attr & VMC_SEG_L);

    for (unsigned i = 0; i < 2; i++) {
        uint64_t base = rd(k, i == 0 ? VMCS_GUEST_GDTR_BASE : VMCS_GUEST_IDTR_BASE);
        uint64_t limit = rd(k, i == 0 ? VMCS_GUEST_GDTR_LIMIT : VMCS_GUEST_IDTR_LIMIT);
        REQUIRE(canonical(base), "27.3.1.3", "base of GDTR or IDTR is not canonical", base);
        REQUIRE(limit >> 16 == 0, "27.3.1.3", "limit of GDTR or IDTR is above 16 bits", limit);
    }
    REQUIRE(code64 ? canonical(rip) : rip >> 32 == 0, "27.3.1.4", "guest RIP", rip);
    REQUIRE((g->rflags & ~0x3f7fd7ull) == 0 && (g->rflags & 2), "27.3.1.4",
            "guest RFLAGS: reserved bits", g->rflags);
    REQUIRE(!g->v86 || (!g->ia32e && (g->cr0 & VMC_CR0_PE)), "27.3.1.4",
            "guest RFLAGS.VM in IA-32e or real-address mode", g->rflags);
    REQUIRE(!irq || (g->rflags & VMC_FLAG_IF), "27.3.1.4",
            "an external interrupt is injected with IF 0", g->rflags);
    return VMC_OK;
}

/* May an event be injected in an activity state? (HLT, shutdown, wait-for-SIPI) */
static bool delivered_in(uint64_t activity, uint32_t type, uint32_t vector)
{
    bool mc = type == VMC_EV_EXCEPTION && vector == VMC_VEC_MC;

    if (activity == 1)
        return type == VMC_EV_IRQ || type == VMC_EV_NMI || mc || (type == 7 && vector == 0) ||
               (type == VMC_EV_EXCEPTION && vector == VMC_VEC_DB);
    return activity == 0 || (activity == 2 && (type == VMC_EV_NMI || mc));
}

static int check_guest_rest(const struct check *k, const struct guest *g)
{
    const char *s = "27.3.1.5";
    uint64_t act = rd(k, VMCS_ACTIVITY), intr = rd(k, VMCS_INTERRUPTIBILITY);
    uint32_t info = (uint32_t)rd(k, VMCS_ENTRY_INTR_INFO), type = INTR_TYPE(info);
    bool valid = (info & INTR_VALID) != 0;
    uint64_t pend = rd(k, VMCS_PENDING_DEBUG), link = rd(k, VMCS_LINK_POINTER);

    REQUIRE(act <= 3 && (act == 0 || (k->c->misc >> (5 + act) & 1)), s, "activity state", act);
    REQUIRE(act != 1 || dpl_of(&g->seg[VMC_SS]) == 0, s, "HLT with SS.DPL not 0", act);
    REQUIRE(act == 0 || !(intr & (INTR_STI | INTR_SS)), s, "not active, and STI or MOV SS blocks",
            intr);
    REQUIRE(!valid || delivered_in(act, type, info & 0xff), s,
            "the activity state blocks the injected event", info);
    REQUIRE(intr >> 5 == 0, s, "interruptibility: reserved bits", intr);
    REQUIRE((intr & 3) != 3, s, "interruptibility: STI and MOV SS together", intr);
    REQUIRE(!(intr & INTR_STI) || (g->rflags & VMC_FLAG_IF), s, "blocking by STI with IF 0", intr);
    REQUIRE(!valid || type != VMC_EV_IRQ || !(intr & 3), s,
            "an interrupt is injected while blocked", intr);
    REQUIRE(!valid || type != VMC_EV_NMI || !(intr & INTR_SS), s, "an NMI is injected after MOV SS",
            intr);
    REQUIRE(!valid || type != VMC_EV_NMI || !(intr & INTR_NMI), s,
            "an NMI is injected while NMIs are blocked", intr);
    REQUIRE(!(intr & INTR_SMI), s, "blocking by SMI outside SMM", intr);
    REQUIRE((pend & ~0x1500full) == 0, s, "pending debug exceptions: reserved bits", pend);
    if ((intr & 3) || act == 1) {
        bool steps =
            (g->rflags & VMC_FLAG_TF) != 0 && (rd(k, VMCS_GUEST_DEBUGCTL) & VMC_DEBUGCTL_BTF) == 0;
        REQUIRE(!(pend & VMC_DR6_BS) == !steps, s,
                "pending debug exceptions: BS does not follow TF and BTF", pend);
    }
    REQUIRE(link == ~0ull, s, "VMCS link pointer", link);
    bool pae = (g->cr0 & VMC_CR0_PG) && (rd(k, VMCS_GUEST_CR4) & VMC_CR4_PAE) && !g->ia32e;
    for (unsigned i = 0; pae && (proc2_of(k) & PROC2_EPT) && i < 4; i++) {
        uint64_t e = rd(k, VMCS_GUEST_PDPTE0 + 2 * i);
        REQUIRE(!(e & 1) || ((e & 0x1e6) == 0 && e >> k->c->phys_bits == 0), "27.3.1.6",
                "PDPTE: reserved bits", e);
    }
    return VMC_OK;
}

int vmx_check_guest(const struct vmx_caps *c, const struct vmx_fields *f, struct vmc_error *err)
{
    const struct check check = {c, f, err}, *k = &check;
    struct guest g;

    read_guest(k, &g);
    int rc = check_guest_control(k, &g);
    if (rc != VMC_OK)
        return rc;
    const char *why = broken_segments(&g);
    REQUIRE(why == NULL, "27.3.1.2", why, g.seg[VMC_CS].attr);
    rc = check_guest_flow(k, &g);
    return rc == VMC_OK ? check_guest_rest(k, &g) : rc;
}

int vmx_check(const struct vmx_caps *c, const struct vmx_fields *f, struct vmc_error *err)
{
    int rc = vmx_check_controls(c, f, err);

    if (rc == VMC_OK)
        rc = vmx_check_host(c, f, err);
    return rc == VMC_OK ? vmx_check_guest(c, f, err) : rc;
}

/*
 * Without unrestricted guest the processor runs nothing but paged protected mode (or, with shadow
 * tables, protected mode that is paged behind the guest's back), with segments as a guest in it
 * loads them. The rest is for the software CPU, until it gets there.
 */
bool vmx_runnable(struct hw_vcpu *v)
{
    const struct vmx_caps *c = &v->vm->caps.vmx;
    struct guest g;

    if (likely(c->ug))
        return true;
    hw_need(v, VMC_ST_CTRL | VMC_ST_SEG);
    if (!(v->st.cr0 & VMC_CR0_PE) || (c->ept && !(v->st.cr0 & VMC_CR0_PG)))
        return false;
    memcpy(g.seg, v->st.seg, sizeof(g.seg));
    g.cr0 = v->st.cr0;
    g.rflags = v->st.rflags;
    g.ia32e = (v->st.efer & VMC_EFER_LMA) != 0;
    g.ug = false;
    g.v86 = (g.rflags & VMC_FLAG_VM) != 0;
    /* What push corrects on its own does not count. */
    g.seg[VMC_TR] = (struct vmc_segment){.attr = 0x8b, .limit = 0x67};
    if (!(g.seg[VMC_LDTR].attr & VMC_SEG_P))
        g.seg[VMC_LDTR].attr |= VMC_SEG_UNUSABLE;
    return broken_segments(&g) == NULL;
}

const char *vmx_insn_error(uint32_t n)
{
    static const char *const text[] = {
        [0] = "no current VMCS",
        [1] = "VMCALL in VMX root operation",
        [2] = "VMCLEAR with an invalid address",
        [3] = "VMCLEAR of the VMXON region",
        [4] = "VMLAUNCH of a VMCS that is not clear",
        [5] = "VMRESUME of a VMCS that was not launched",
        [6] = "VMRESUME after VMXOFF",
        [7] = "invalid control fields",
        [8] = "invalid host state",
        [9] = "VMPTRLD with an invalid address",
        [10] = "VMPTRLD of the VMXON region",
        [11] = "VMPTRLD with another revision",
        [12] = "a VMCS component that is not supported",
        [13] = "VMWRITE to a read-only component",
        [15] = "VMXON in VMX root operation",
        [16] = "invalid executive-VMCS pointer",
        [17] = "executive VMCS that was not launched",
        [18] = "executive-VMCS pointer is not the VMXON pointer",
        [19] = "VMCALL with a VMCS that is not clear",
        [20] = "VMCALL with invalid VM-exit controls",
        [22] = "VMCALL with another MSEG revision",
        [23] = "VMXOFF under dual-monitor treatment",
        [24] = "VMCALL with invalid SMM-monitor features",
        [25] = "invalid execution controls in the executive VMCS",
        [26] = "entry with events blocked by MOV SS",
        [28] = "invalid operand to INVEPT or INVVPID",
    };

    return n < VMCI_ARRAY_SIZE(text) && text[n] != NULL ? text[n] : "unknown error";
}
