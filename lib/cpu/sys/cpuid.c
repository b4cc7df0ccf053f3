/* SPDX-License-Identifier: BSD-2-Clause */
/* The CPUID instruction, and what a CPU model means for the rest of the processor. */
#include <cpuid.h>

#include "cpuid_priv.h"
#include "sys_priv.h"

#define DEFAULT_PHYS_BITS 40u
#define DEFAULT_TSC_HZ    1000000000ull
#define NS_PER_S          1000000000ull

#define L1_ECX_MONITOR   (1u << 3)
#define L1_ECX_OSXSAVE   (1u << 27)
#define L1_EDX_APIC      (1u << 9)
#define L7_ECX_OSPKE     (1u << 4)
#define LX1_EDX_SYSCALL  (1u << 11)
#define LX1_EDX_NX       (1u << 20)
#define XSAVE_LEGACY     576u
#define MISC_LIMIT_CPUID (1ull << 22)
#define MISC_XD_DISABLE  (1ull << 34)

/* ---- CPUID ------------------------------------------------------------------------------------ */

/* Size of an XSAVE area for a set of components, standard or compacted. */
static uint32_t xsave_bytes(const struct vmci_cpu *cpu, uint64_t components, bool compacted)
{
    uint32_t bytes = XSAVE_LEGACY;

    for (unsigned i = 2; i < 63; i++) {
        const struct vmc_cpuid_leaf *l;
        if ((components >> i & 1u) == 0)
            continue;
        l = vmc_cpu_policy_find(cpu->policy, 0xd, i);
        if (l == NULL)
            continue;
        if (compacted)
            bytes = ((l->ecx & 2u) != 0 ? (bytes + 63) & ~63u : bytes) + l->eax;
        else
            bytes = VMCI_MAX(bytes, l->ebx + l->eax);
    }
    return bytes;
}

/* Bits that follow the processor's state. */
static void dynamic_bits(struct vmci_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    switch (leaf) {
    case 0:
        if (!cpu->amd && (cpu->msr.misc_enable & MISC_LIMIT_CPUID) != 0 && r[0] > 2)
            r[0] = 2;
        break;
    case 1:
        r[1] = (r[1] & 0x00ffffffu) | cpu->apic_id << 24;
        r[2] &= ~L1_ECX_OSXSAVE;
        if ((cpu->cr4 & VMC_CR4_OSXSAVE) != 0)
            r[2] |= L1_ECX_OSXSAVE;
        if ((cpu->msr.apic_base & VMC_APIC_BASE_ENABLE) == 0)
            r[3] &= ~L1_EDX_APIC;
        break;
    case 7:
        if (subleaf == 0) {
            r[2] &= ~L7_ECX_OSPKE;
            if ((cpu->cr4 & VMC_CR4_PKE) != 0)
                r[2] |= L7_ECX_OSPKE;
        }
        break;
    case 0xb:
    case 0x1f:
        r[2] = (r[2] & ~0xffu) | (subleaf & 0xffu);
        r[3] = cpu->apic_id;
        break;
    case 0xd:
        if (subleaf == 0)
            r[1] = xsave_bytes(cpu, cpu->xcr0, false);
        else if (subleaf == 1)
            r[1] = (r[0] & 0xau) != 0 ? xsave_bytes(cpu, cpu->xcr0 | cpu->msr.xss, true) : 0;
        break;
    case 0x80000001u:
        if (!cpu->amd && cpu->code_bits != 64)
            r[3] &= ~LX1_EDX_SYSCALL;
        if (!cpu->amd && (cpu->msr.misc_enable & MISC_XD_DISABLE) != 0)
            r[3] &= ~LX1_EDX_NX;
        break;
    case 0x8000001eu:
        r[0] = cpu->apic_id;
        r[1] = (r[1] & ~0xffu) | (cpu->apic_id & 0xffu);
        break;
    default:
        break;
    }
}

static uint32_t max_leaf(const struct vmci_cpu *cpu, uint32_t range)
{
    const struct vmc_cpuid_leaf *l = vmc_cpu_policy_find(cpu->policy, range, 0);

    return l == NULL ? 0 : l->eax;
}

/* The leaf that tells the maximum of a leaf's range. Hypervisors' ranges have 256 leaves each. */
static uint32_t range_of(uint32_t leaf)
{
    return leaf >> 28 == 4 ? leaf & 0xffffff00u : leaf & 0x80000000u;
}

void vmci_cpuid(struct vmci_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const struct vmc_cpuid_leaf *l;

    memset(out, 0, 4 * sizeof(*out));
    if (cpu->policy == NULL)
        return;
    l = vmc_cpu_policy_find(cpu->policy, leaf, subleaf);
    /* Beyond a range's maximum Intel repeats the last basic leaf, AMD returns zeros. */
    if (l == NULL && !cpu->amd && leaf > max_leaf(cpu, range_of(leaf))) {
        leaf = max_leaf(cpu, 0);
        l = vmc_cpu_policy_find(cpu->policy, leaf, subleaf);
    }
    if (l != NULL) {
        out[0] = l->eax;
        out[1] = l->ebx;
        out[2] = l->ecx;
        out[3] = l->edx;
    } else if (leaf != 0xb && leaf != 0x1f) {
        return;
    }
    dynamic_bits(cpu, leaf, subleaf, out);
}

/* ---- the model -------------------------------------------------------------------------------- */

struct bit_rule {
    const char *feature;
    uint64_t bits;
};

static const struct bit_rule cr4_rules[] = {
    {"vme", VMC_CR4_VME | VMC_CR4_PVI},
    {"tsc", VMC_CR4_TSD},
    {"de", VMC_CR4_DE},
    {"pse", VMC_CR4_PSE},
    {"pae", VMC_CR4_PAE},
    {"mce", VMC_CR4_MCE},
    {"pge", VMC_CR4_PGE},
    {"msr", VMC_CR4_PCE}, /* RDPMC as such came with the Pentium Pro; the bit is harmless before */
    {"fxsr", VMC_CR4_OSFXSR},
    {"sse", VMC_CR4_OSXMMEXCPT},
    {"umip", VMC_CR4_UMIP},
    {"fsgsbase", VMC_CR4_FSGSBASE},
    {"pcid", VMC_CR4_PCIDE},
    {"xsave", VMC_CR4_OSXSAVE},
    {"smep", VMC_CR4_SMEP},
    {"smap", VMC_CR4_SMAP},
    {"la57", VMC_CR4_LA57},
    {"pku", VMC_CR4_PKE},
};

static const struct bit_rule efer_rules[] = {
    {"syscall", VMC_EFER_SCE},
    {"lm", VMC_EFER_LME | VMC_EFER_SCE},
    {"nx", VMC_EFER_NX},
    {"fxsr_opt", VMC_EFER_FFXSR},
};

static uint64_t allowed(const struct vmc_cpu_policy *p, const struct bit_rule *rules, unsigned n)
{
    uint64_t bits = 0;

    for (unsigned i = 0; i < n; i++)
        if (vmc_cpu_policy_has(p, rules[i].feature))
            bits |= rules[i].bits;
    return bits;
}

static unsigned family(const struct vmc_cpu_policy *p)
{
    const struct vmc_cpuid_leaf *l = vmc_cpu_policy_find(p, 1, 0);

    return l != NULL ? l->eax >> 8 & 15 : 6; /* 15: and later */
}

static uint64_t feature_mask(const struct vmc_cpu_policy *p)
{
    uint64_t mask = 1u << VMCI_FEAT_NONE;
    const struct cpu_feature *f;

    for (unsigned i = 0; (f = cpuid_feature(i)) != NULL; i++)
        if (f->feat != VMCI_FEAT_NONE && cpuid_feature_on(p, f))
            mask |= VMCI_BIT(f->feat);
    if ((mask & VMCI_BIT(VMCI_FEAT_SSE)) != 0)
        mask |= VMCI_BIT(VMCI_FEAT_MMXEXT); /* SSE includes AMD's MMX extensions */
    if (family(p) >= 6)
        mask |= VMCI_BIT(VMCI_FEAT_HINTS);
    if (family(p) >= 6 || (mask & VMCI_BIT(VMCI_FEAT_MMX)) != 0)
        mask |= VMCI_BIT(VMCI_FEAT_RDPMC); /* in the Pentium with MMX, too */
    return mask;
}

static void set_tsc_rate(struct vmci_cpu *cpu, uint64_t wanted)
{
    uint64_t host_hz = vmci_pf_has(cpu->pf, tsc_hz) ? cpu->pf->tsc_hz : 0;

    if (cpu->tsc_source == VMCI_TSC_VIRTUAL) {
        cpu->tsc_hz = DEFAULT_TSC_HZ;
        return;
    }
    cpu->tsc_hz = wanted != 0 ? wanted : host_hz != 0 ? host_hz : DEFAULT_TSC_HZ;
    cpu->tsc_source = cpu->tsc_hz == host_hz ? VMCI_TSC_HOST : VMCI_TSC_NS;
    /* (hz << 32) / 10^9 without overflow: seconds and the rest apart. */
    cpu->tsc_mult = (cpu->tsc_hz / NS_PER_S << 32) + ((cpu->tsc_hz % NS_PER_S) << 32) / NS_PER_S;
}

static bool host_has_bmi(void)
{
    unsigned a, b, c, d;

    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & 1u << 3) == 0 || (b & 1u << 8) == 0)
        return false;
    return __get_cpuid(0x80000001u, &a, &b, &c, &d) && (c & 1u << 5) != 0;
}

void vmci_apply_policy(struct vmci_cpu *cpu, const struct vmc_cpu_policy *policy)
{
    const struct vmc_cpuid_leaf *l = vmc_cpu_policy_find(policy, 0x80000008u, 0);

    cpu->policy = policy;
    cpu->amd = cpuid_is_amd(policy);
    cpu->features = feature_mask(policy);
    cpu->host_bmi = host_has_bmi();
    cpu->cr4_allowed = allowed(policy, cr4_rules, VMCI_ARRAY_SIZE(cr4_rules));
    cpu->efer_allowed = allowed(policy, efer_rules, VMCI_ARRAY_SIZE(efer_rules));
    cpu->phys_bits = l != NULL && (l->eax & 0xffu) >= 32 && (l->eax & 0xffu) <= 52 ? l->eax & 0xffu
                     : vmc_cpu_policy_has(policy, "lm")  ? DEFAULT_PHYS_BITS
                     : vmc_cpu_policy_has(policy, "pae") ? 36
                                                         : 32;
    cpu->state_efer = cpu->efer_allowed; /* with NX, also while MISC_ENABLE takes it away */
    cpu->state_phys_bits = cpu->phys_bits;
    cpu->state_57 = (cpu->cr4_allowed & VMC_CR4_LA57) != 0;
    cpu->paging_lacks = (cpu->paging_lacks & VMC_PAGING_NO_A20) |
                        (vmc_cpu_policy_has(policy, "pdpe1gb") ? 0 : VMC_PAGING_NO_1G) |
                        (vmc_cpu_policy_has(policy, "pse36") ? 0 : VMC_PAGING_NO_PSE36);
    l = vmc_cpu_policy_find(policy, 0xd, 0);
    cpu->xcr0_allowed = l != NULL ? l->eax | (uint64_t)l->edx << 32 : VMC_XCR0_X87;
    set_tsc_rate(cpu, policy->tsc_hz);
}
