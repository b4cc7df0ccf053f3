/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Model-specific registers (SDM 4; APM 2 appendix A): what the processor itself owns. Everything
 * else is asked of the machine, which answers #GP for what it does not know.
 */
#include "sys_priv.h"

/* MSRs that only this file knows. */
#define MSR_P5_MC_ADDR      0x0u
#define MSR_P5_MC_TYPE      0x1u
#define MSR_PLATFORM_ID     0x17u
#define MSR_EBL_CR_POWERON  0x2au
#define MSR_BIOS_UPDT_TRIG  0x79u
#define MSR_PLATFORM_INFO   0xceu
#define MSR_MTRR_LAST_VAR   (VMC_MSR_MTRR_PHYSBASE0 + 2 * VMC_MTRR_VARIABLE - 1)
#define MSR_BBL_CR_CTL3     0x11eu
#define MSR_PERF_STATUS     0x198u
#define MSR_LASTBRANCH_FROM 0x1dbu
#define MSR_LASTINT_TO      0x1deu
#define MSR_MTRR_FIX4K_LAST (VMC_MSR_MTRR_FIX4K_C0 + 7)
#define MSR_K7_EVNTSEL0     0xc0010000u
#define MSR_K7_PERFCTR3     0xc0010007u
#define MSR_SYSCFG          0xc0010010u
#define MSR_K7_HWCR         0xc0010015u
#define HWCR_TSC_FREQ_SEL   (1u << 24) /* the TSC counts with the frequency of P0, as it does */
#define MSR_TOP_MEM2        0xc001001du
#define MSR_NB_CFG          0xc001001fu
#define MSR_PATCH_LOADER    0xc0010020u
#define MSR_INT_PENDING     0xc0010055u
#define MSR_MMIO_CFG_BASE   0xc0010058u
#define MSR_TSEG_ADDR       0xc0010112u
#define MSR_TSEG_MASK       0xc0010113u
#define MSR_OSVW_ID_LENGTH  0xc0010140u
#define MSR_OSVW_STATUS     0xc0010141u
#define MSR_DC_CFG          0xc0011022u
#define MSR_BU_CFG2         0xc001102au
#define MSR_DE_CFG          0xc0011029u
#define DE_CFG_LFENCE_SERIALIZES 2u

#define MTRRCAP_VALUE     (VMC_MTRR_VARIABLE | 0x100u | 0x400u) /* fixed ranges, write-combining */
#define MTRR_DEF_WRITABLE 0xcffull
#define MTRR_MASK_VALID   0x800ull
#define SPEC_CTRL_KNOWN   7ull /* IBRS, STIBP, SSBD */
#define DEBUGCTL_KNOWN    (VMC_DEBUGCTL_LBR | VMC_DEBUGCTL_BTF)
#define UCODE_INTEL       (1ull << 32)
#define UCODE_AMD         0x01000065ull
#define FEATURE_CTL_LOCKED 1ull
#define MISC_ENABLE_FIXED (1ull << 11 | 1ull << 12) /* no branch trace store, no PEBS */
#define MISC_ENABLE_XD    (1ull << 34)

static int gp0(struct vmci_cpu *cpu)
{
    return vmci_raise_code(cpu, VMC_VEC_GP, 0);
}

static bool has(const struct vmci_cpu *cpu, unsigned feat)
{
    return (cpu->features >> feat & 1u) != 0;
}

/* A bit of a CPUID leaf of the model; a CPU without a model has everything. */
static bool has_bit(const struct vmci_cpu *cpu, uint32_t leaf, unsigned reg, unsigned bit)
{
    const struct vmc_cpuid_leaf *l;

    if (cpu->policy == NULL)
        return true;
    l = vmc_cpu_policy_find(cpu->policy, leaf, 0);
    return l != NULL && ((&l->eax)[reg] >> bit & 1u) != 0;
}
enum { EAX, EBX, ECX, EDX };

/* Intel's P6, AMD's K7 and later: before them there were few MSRs. */
static bool since_p6(const struct vmci_cpu *cpu)
{
    const struct vmc_cpuid_leaf *l =
        cpu->policy != NULL ? vmc_cpu_policy_find(cpu->policy, 1, 0) : NULL;

    return cpu->policy == NULL || (l != NULL && (l->eax >> 8 & 15u) >= 6);
}
static bool has_apic(const struct vmci_cpu *cpu)
{
    return has_bit(cpu, 1, EDX, 9);
}
static bool has_mtrr(const struct vmci_cpu *cpu)
{
    return has_bit(cpu, 1, EDX, 12);
}
static bool has_pat(const struct vmci_cpu *cpu)
{
    return has_bit(cpu, 1, EDX, 16);
}
static bool has_mca(const struct vmci_cpu *cpu)
{
    return has_bit(cpu, 1, EDX, 14);
}
static bool has_tsc_adjust(const struct vmci_cpu *cpu)
{
    return has_bit(cpu, 7, EBX, 1);
}
static bool has_spec_ctrl(const struct vmci_cpu *cpu)
{
    return has_bit(cpu, 7, EDX, 26) || has_bit(cpu, 0x80000008u, EBX, 14);
}
static bool has_pred_cmd(const struct vmci_cpu *cpu)
{
    return has_bit(cpu, 7, EDX, 26) || has_bit(cpu, 0x80000008u, EBX, 12);
}

static int machine(struct vmci_cpu *cpu, bool write, uint32_t index, uint64_t *value)
{
    if (index == VMC_MSR_APIC_BASE && !has_apic(cpu))
        return gp0(cpu);
    if (cpu->io == NULL || cpu->io->msr == NULL)
        return gp0(cpu);
    return vmci_io_access(cpu, VMCI_IO_MSR, write, index, 8, value);
}

/* ---- time stamp counter ----------------------------------------------------------------------- */

static uint64_t tsc_source(const struct vmci_cpu *cpu)
{
    uint32_t lo;
    uint32_t hi;

    switch ((enum vmci_tsc_source)cpu->tsc_source) {
    case VMCI_TSC_VIRTUAL:
        return cpu->tsc_base + vmci_retired_now(cpu);
    case VMCI_TSC_NS:
        return (uint64_t)((unsigned __int128)cpu->pf->now_ns(cpu->pf->ctx) * cpu->tsc_mult >> 32);
    case VMCI_TSC_HOST:
        break;
    }
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return lo | (uint64_t)hi << 32;
}

uint64_t vmci_tsc(struct vmci_cpu *cpu)
{
    return tsc_source(cpu) + (uint64_t)cpu->tsc_offset;
}

static void write_tsc(struct vmci_cpu *cpu, uint64_t v)
{
    uint64_t now = vmci_tsc(cpu);

    cpu->tsc_offset += (int64_t)(v - now);
    cpu->msr.tsc_adjust += v - now;
}

static void write_tsc_adjust(struct vmci_cpu *cpu, uint64_t v)
{
    cpu->tsc_offset += (int64_t)(v - cpu->msr.tsc_adjust);
    cpu->msr.tsc_adjust = v;
}

/* ---- memory types ----------------------------------------------------------------------------- */

static bool mtrr_type_ok(unsigned t)
{
    return t == 0 || t == 1 || t == 4 || t == 5 || t == 6;
}

static bool all_types_ok(uint64_t v, bool pat)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned t = (unsigned)(v >> (8 * i)) & 0xffu;
        if (!mtrr_type_ok(t) && !(pat && t == 7))
            return false;
    }
    return true;
}

static uint64_t *mtrr_slot(struct vmci_cpu *cpu, uint32_t index)
{
    if (index >= VMC_MSR_MTRR_PHYSBASE0 && index <= MSR_MTRR_LAST_VAR) {
        uint32_t i = (index - VMC_MSR_MTRR_PHYSBASE0) / 2;
        return (index & 1u) != 0 ? &cpu->msr.mtrr_mask[i] : &cpu->msr.mtrr_base[i];
    }
    if (index == VMC_MSR_MTRR_FIX64K)
        return &cpu->msr.mtrr_fixed[0];
    if (index == VMC_MSR_MTRR_FIX16K_8 || index == VMC_MSR_MTRR_FIX16K_A)
        return &cpu->msr.mtrr_fixed[1 + index - VMC_MSR_MTRR_FIX16K_8];
    if (index >= VMC_MSR_MTRR_FIX4K_C0 && index <= MSR_MTRR_FIX4K_LAST)
        return &cpu->msr.mtrr_fixed[3 + index - VMC_MSR_MTRR_FIX4K_C0];
    if (index == VMC_MSR_MTRR_DEF_TYPE)
        return &cpu->msr.mtrr_def_type;
    return NULL;
}

static bool mtrr_value_ok(const struct vmci_cpu *cpu, uint32_t index, uint64_t v)
{
    uint64_t above = ~(VMCI_BIT(cpu->phys_bits) - 1);

    if (index == VMC_MSR_MTRR_DEF_TYPE)
        return (v & ~MTRR_DEF_WRITABLE) == 0 && mtrr_type_ok(v & 0xffu);
    if (index > MSR_MTRR_LAST_VAR)
        return all_types_ok(v, false);
    if ((index & 1u) == 0)
        return (v & (above | 0xf00u)) == 0 && mtrr_type_ok(v & 0xffu);
    return (v & (above | (0xfffu & ~MTRR_MASK_VALID))) == 0;
}

/* ---- EFER ------------------------------------------------------------------------------------- */

static int write_efer(struct vmci_cpu *cpu, uint64_t v)
{
    uint64_t change;

    v &= ~VMC_EFER_LMA; /* read-only */
    if ((v & ~cpu->efer_allowed) != 0)
        return gp0(cpu);
    change = (v ^ cpu->efer) & ~VMC_EFER_LMA;
    if ((change & VMC_EFER_LME) != 0 && (cpu->cr0 & VMC_CR0_PG) != 0)
        return gp0(cpu);
    cpu->efer = v | (cpu->efer & VMC_EFER_LMA);
    if ((change & VMC_EFER_NX) != 0)
        vmci_tlb_flush(cpu, true);
    vmci_update_mode(cpu);
    return 0;
}

/* ---- plain 64-bit registers ------------------------------------------------------------------- */

enum msr_check { MSR_ANY, MSR_CANONICAL, MSR_LOW32 };

/* MSRs that hold a value and do nothing else when written. NULL: not one, or not in this model. */
static uint64_t *plain_slot(struct vmci_cpu *cpu, uint32_t index, enum msr_check *check)
{
    struct vmc_x86_msrs *m = &cpu->msr;
    bool lm = has(cpu, VMCI_FEAT_LM);

    *check = MSR_CANONICAL;
    switch (index) {
    case VMC_MSR_LSTAR:
        return lm ? &m->lstar : NULL;
    case VMC_MSR_CSTAR:
        return lm ? &m->cstar : NULL;
    case VMC_MSR_KERNEL_GS_BASE:
        return lm ? &m->kernel_gs_base : NULL;
    case VMC_MSR_FS_BASE:
        return lm ? &cpu->seg[VMC_FS].base : NULL;
    case VMC_MSR_GS_BASE:
        return lm ? &cpu->seg[VMC_GS].base : NULL;
    case VMC_MSR_SYSENTER_ESP:
        return has(cpu, VMCI_FEAT_SEP) ? &m->sysenter_esp : NULL;
    case VMC_MSR_SYSENTER_EIP:
        return has(cpu, VMCI_FEAT_SEP) ? &m->sysenter_eip : NULL;
    default:
        break;
    }
    *check = MSR_LOW32;
    switch (index) {
    case VMC_MSR_SYSENTER_CS:
        return has(cpu, VMCI_FEAT_SEP) ? &m->sysenter_cs : NULL;
    case VMC_MSR_SFMASK:
        return lm ? &m->sfmask : NULL;
    case VMC_MSR_TSC_AUX:
        return has(cpu, VMCI_FEAT_RDTSCP) || has(cpu, VMCI_FEAT_RDPID) ? &m->tsc_aux : NULL;
    default:
        break;
    }
    *check = MSR_ANY;
    if (index == VMC_MSR_STAR)
        return has(cpu, VMCI_FEAT_SYSCALL) ? &m->star : NULL;
    return NULL;
}

/* ---- read-only and ignored registers ---------------------------------------------------------- */

struct fixed_msr {
    uint32_t first, last;
    uint64_t value;
    bool write_ok; /* writes are ignored; else #GP */
    char vendor;   /* 'i', 'a', or 0: both */
};

static const struct fixed_msr fixed[] = {
    {MSR_P5_MC_ADDR, MSR_P5_MC_TYPE, 0, true, 0},
    {MSR_PLATFORM_ID, MSR_PLATFORM_ID, 0, false, 'i'},
    {MSR_EBL_CR_POWERON, MSR_EBL_CR_POWERON, 0, true, 'i'},
    {VMC_MSR_FEATURE_CTL, VMC_MSR_FEATURE_CTL, FEATURE_CTL_LOCKED, false, 'i'},
    {MSR_BIOS_UPDT_TRIG, MSR_BIOS_UPDT_TRIG, 0, true, 'i'},
    {VMC_MSR_UCODE_REV, VMC_MSR_UCODE_REV, UCODE_INTEL, true, 'i'},
    {VMC_MSR_UCODE_REV, VMC_MSR_UCODE_REV, UCODE_AMD, true, 'a'},
    {MSR_PLATFORM_INFO, MSR_PLATFORM_INFO, 0, false, 'i'},
    {MSR_BBL_CR_CTL3, MSR_BBL_CR_CTL3, 0xbe702111u, true, 'i'},
    {MSR_PERF_STATUS, MSR_PERF_STATUS, 1000 | 4ull << 40, false, 'i'},
    {MSR_LASTBRANCH_FROM, MSR_LASTINT_TO, 0, true, 0},
    {MSR_K7_EVNTSEL0, MSR_K7_PERFCTR3, 0, true, 'a'},
    {MSR_SYSCFG, MSR_SYSCFG, 0, true, 'a'},
    {MSR_K7_HWCR, MSR_K7_HWCR, HWCR_TSC_FREQ_SEL, true, 'a'},
    {MSR_TOP_MEM2, MSR_TOP_MEM2, 0, true, 'a'},
    {MSR_NB_CFG, MSR_NB_CFG, 0, true, 'a'},
    {MSR_PATCH_LOADER, MSR_PATCH_LOADER, 0, true, 'a'},
    {MSR_INT_PENDING, MSR_INT_PENDING, 0, true, 'a'},
    {MSR_MMIO_CFG_BASE, MSR_MMIO_CFG_BASE, 0, true, 'a'},
    {MSR_TSEG_ADDR, MSR_TSEG_MASK, 0, true, 'a'},
    {MSR_OSVW_ID_LENGTH, MSR_OSVW_STATUS, 0, true, 'a'},
    {MSR_DC_CFG, MSR_DC_CFG, 0, true, 'a'},
    {MSR_DE_CFG, MSR_DE_CFG, DE_CFG_LFENCE_SERIALIZES, true, 'a'},
    {MSR_BU_CFG2, MSR_BU_CFG2, 0, true, 'a'},
};

static const struct fixed_msr *find_fixed(const struct vmci_cpu *cpu, uint32_t index)
{
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(fixed); i++) {
        const struct fixed_msr *f = &fixed[i];
        if (index >= f->first && index <= f->last &&
            (f->vendor == 0 || (f->vendor == 'a') == cpu->amd))
            return f->last == MSR_P5_MC_TYPE || since_p6(cpu) ? f : NULL;
    }
    return NULL;
}

/* ---- RDMSR ------------------------------------------------------------------------------------ */

/* Registers with a condition of their own. True: *out is set or a fault was raised (*r). */
static bool read_special(struct vmci_cpu *cpu, uint32_t index, uint64_t *out, int *r)
{
    bool ok = true;

    switch (index) {
    case VMC_MSR_TSC:
        *out = vmci_tsc(cpu);
        ok = has(cpu, VMCI_FEAT_TSC);
        break;
    case VMC_MSR_TSC_ADJUST:
        *out = cpu->msr.tsc_adjust;
        ok = has_tsc_adjust(cpu);
        break;
    case VMC_MSR_EFER:
        *out = cpu->efer;
        ok = cpu->efer_allowed != 0;
        break;
    case VMC_MSR_PAT:
        *out = cpu->msr.pat;
        ok = has_pat(cpu);
        break;
    case VMC_MSR_MTRRCAP:
        *out = MTRRCAP_VALUE;
        ok = has_mtrr(cpu);
        break;
    case VMC_MSR_MCG_CAP: /* no banks */
    case VMC_MSR_MCG_STATUS:
        *out = 0;
        ok = has_mca(cpu);
        break;
    case VMC_MSR_MISC_ENABLE:
        *out = cpu->msr.misc_enable | MISC_ENABLE_FIXED;
        ok = !cpu->amd && since_p6(cpu);
        break;
    case VMC_MSR_DEBUGCTL:
        *out = cpu->msr.debugctl;
        ok = since_p6(cpu);
        break;
    case VMC_MSR_SPEC_CTRL:
        *out = cpu->msr.spec_ctrl;
        ok = has_spec_ctrl(cpu);
        break;
    case VMC_MSR_XSS:
        *out = cpu->msr.xss;
        ok = has(cpu, VMCI_FEAT_XSAVES);
        break;
    default:
        return false;
    }
    *r = ok ? 0 : gp0(cpu);
    return true;
}

int vmci_msr_read(struct vmci_cpu *cpu, uint32_t index, uint64_t *out)
{
    enum msr_check check;
    uint64_t *slot = plain_slot(cpu, index, &check);
    const struct fixed_msr *f;
    int r;

    if (slot == NULL && has_mtrr(cpu))
        slot = mtrr_slot(cpu, index);
    if (slot != NULL) {
        *out = *slot;
        return 0;
    }
    if (read_special(cpu, index, out, &r))
        return r;
    f = find_fixed(cpu, index);
    if (f != NULL) {
        *out = f->value;
        return 0;
    }
    return machine(cpu, false, index, out);
}

/* ---- WRMSR ------------------------------------------------------------------------------------ */

/* As read_special. */
static bool write_special(struct vmci_cpu *cpu, uint32_t index, uint64_t v, int *r)
{
    bool ok;

    *r = 0;
    switch (index) {
    case VMC_MSR_TSC:
        ok = has(cpu, VMCI_FEAT_TSC);
        if (ok)
            write_tsc(cpu, v);
        break;
    case VMC_MSR_TSC_ADJUST:
        ok = has_tsc_adjust(cpu);
        if (ok)
            write_tsc_adjust(cpu, v);
        break;
    case VMC_MSR_EFER:
        ok = cpu->efer_allowed != 0;
        if (ok)
            *r = write_efer(cpu, v);
        break;
    case VMC_MSR_PAT:
        ok = has_pat(cpu) && all_types_ok(v, true);
        if (ok)
            cpu->msr.pat = v;
        break;
    case VMC_MSR_MTRRCAP:
    case VMC_MSR_MCG_CAP:
        ok = false;
        break;
    case VMC_MSR_MCG_STATUS:
        ok = has_mca(cpu) && v == 0;
        break;
    case VMC_MSR_MISC_ENABLE:
        ok = !cpu->amd && since_p6(cpu);
        if (ok) {
            cpu->msr.misc_enable = v | MISC_ENABLE_FIXED;
            if ((v & MISC_ENABLE_XD) != 0)
                cpu->efer_allowed &= ~VMC_EFER_NX;
            else if (has_bit(cpu, 0x80000001u, EDX, 20))
                cpu->efer_allowed |= VMC_EFER_NX;
        }
        break;
    case VMC_MSR_DEBUGCTL:
        ok = since_p6(cpu) && (v & ~DEBUGCTL_KNOWN) == 0;
        if (ok) /* LBR does not stick: nothing is recorded, as in many virtual machines */
            cpu->msr.debugctl = v & VMC_DEBUGCTL_BTF;
        break;
    case VMC_MSR_SPEC_CTRL:
        ok = has_spec_ctrl(cpu) && (v & ~SPEC_CTRL_KNOWN) == 0;
        if (ok)
            cpu->msr.spec_ctrl = v;
        break;
    case VMC_MSR_PRED_CMD:
        ok = has_pred_cmd(cpu) && (v & ~1ull) == 0;
        break;
    case VMC_MSR_XSS: /* no supervisor state component exists */
        ok = has(cpu, VMCI_FEAT_XSAVES) && v == 0;
        break;
    default:
        return false;
    }
    if (!ok)
        *r = gp0(cpu);
    return true;
}

int vmci_msr_write(struct vmci_cpu *cpu, uint32_t index, uint64_t v)
{
    enum msr_check check;
    uint64_t *slot = plain_slot(cpu, index, &check);
    const struct fixed_msr *f;
    int r;

    if (slot != NULL) {
        if (check == MSR_CANONICAL && !vmci_canonical_max(cpu, v))
            return gp0(cpu);
        if (check == MSR_LOW32 && (v >> 32) != 0 && index == VMC_MSR_TSC_AUX)
            return gp0(cpu);
        *slot = check == MSR_LOW32 ? (uint32_t)v : v;
        return 0;
    }
    slot = has_mtrr(cpu) ? mtrr_slot(cpu, index) : NULL;
    if (slot != NULL) {
        if (!mtrr_value_ok(cpu, index, v))
            return gp0(cpu);
        *slot = v;
        return 0;
    }
    if (write_special(cpu, index, v, &r))
        return r;
    f = find_fixed(cpu, index);
    if (f != NULL)
        return f->write_ok ? 0 : gp0(cpu);
    r = machine(cpu, true, index, &v);
    if (r == 0 && index == VMC_MSR_APIC_BASE)
        cpu->msr.apic_base = v;
    return r;
}
