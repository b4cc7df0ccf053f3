/* SPDX-License-Identifier: BSD-2-Clause */
/* Features by name, as /proc/cpuinfo spells them (SDM 2A CPUID; APM 3 appendix E). */
#include "cpuid_priv.h"

#define L7   7u
#define LD   0xdu
#define LX1  0x80000001u
#define LX7  0x80000007u
#define LX8  0x80000008u
#define EAX  CPUID_EAX
#define EBX  CPUID_EBX
#define ECX  CPUID_ECX
#define EDX  CPUID_EDX
#define NO   FEAT_NO, VMCI_FEAT_NONE
#define C    FEAT_CPU, VMCI_FEAT_NONE
#define CF(f) FEAT_CPU, VMCI_FEAT_##f
#define FP(f) FEAT_FP, VMCI_FEAT_##f
#define HF(f) FEAT_HOST, VMCI_FEAT_##f

/* Entries that switching features may add: those named below, and the rest of leaf DH. */
#define FEATURE_LEAVES 12u

static const struct cpu_feature features[] = {
    {"fpu", 1, 0, EDX, 0, FP(FPU)},
    {"vme", 1, 0, EDX, 1, C},
    {"de", 1, 0, EDX, 2, C},
    {"pse", 1, 0, EDX, 3, C},
    {"tsc", 1, 0, EDX, 4, CF(TSC)},
    {"msr", 1, 0, EDX, 5, CF(MSR)},
    {"pae", 1, 0, EDX, 6, C},
    {"mce", 1, 0, EDX, 7, C},
    {"cx8", 1, 0, EDX, 8, CF(CX8)},
    {"apic", 1, 0, EDX, 9, C},
    {"sep", 1, 0, EDX, 11, CF(SEP)},
    {"mtrr", 1, 0, EDX, 12, C},
    {"pge", 1, 0, EDX, 13, C},
    {"mca", 1, 0, EDX, 14, C},
    {"cmov", 1, 0, EDX, 15, CF(CMOV)},
    {"pat", 1, 0, EDX, 16, C},
    {"pse36", 1, 0, EDX, 17, C},
    {"clflush", 1, 0, EDX, 19, CF(CLFLUSH)},
    {"dts", 1, 0, EDX, 21, NO},
    {"acpi", 1, 0, EDX, 22, NO},
    {"mmx", 1, 0, EDX, 23, FP(MMX)},
    {"fxsr", 1, 0, EDX, 24, FP(FXSR)},
    {"sse", 1, 0, EDX, 25, FP(SSE)},
    {"sse2", 1, 0, EDX, 26, FP(SSE2)},
    {"ss", 1, 0, EDX, 27, C},
    {"ht", 1, 0, EDX, 28, C},
    {"pni", 1, 0, ECX, 0, FP(SSE3)},
    {"pclmulqdq", 1, 0, ECX, 1, FP(PCLMUL)},
    {"monitor", 1, 0, ECX, 3, CF(MONITOR)},
    {"vmx", 1, 0, ECX, 5, NO},
    {"ssse3", 1, 0, ECX, 9, FP(SSSE3)},
    {"fma", 1, 0, ECX, 12, FP(FMA)},
    {"cx16", 1, 0, ECX, 13, CF(CX16)},
    {"pdcm", 1, 0, ECX, 15, NO},
    {"pcid", 1, 0, ECX, 17, C},
    {"sse4_1", 1, 0, ECX, 19, FP(SSE41)},
    {"sse4_2", 1, 0, ECX, 20, FP(SSE42)},
    {"x2apic", 1, 0, ECX, 21, C},
    {"movbe", 1, 0, ECX, 22, CF(MOVBE)},
    {"popcnt", 1, 0, ECX, 23, CF(POPCNT)},
    {"tsc_deadline_timer", 1, 0, ECX, 24, C},
    {"aes", 1, 0, ECX, 25, FP(AES)},
    {"xsave", 1, 0, ECX, 26, FP(XSAVE)},
    {"avx", 1, 0, ECX, 28, FP(AVX)},
    {"f16c", 1, 0, ECX, 29, FP(F16C)},
    {"rdrand", 1, 0, ECX, 30, HF(RDRAND)},
    {"hypervisor", 1, 0, ECX, 31, C},
    {"arat", 6, 0, EAX, 2, C},
    {"fsgsbase", L7, 0, EBX, 0, CF(FSGSBASE)},
    {"tsc_adjust", L7, 0, EBX, 1, C},
    {"bmi1", L7, 0, EBX, 3, CF(BMI1)},
    {"hle", L7, 0, EBX, 4, NO},
    {"avx2", L7, 0, EBX, 5, FP(AVX2)},
    {"smep", L7, 0, EBX, 7, C},
    {"bmi2", L7, 0, EBX, 8, CF(BMI2)},
    {"erms", L7, 0, EBX, 9, CF(ERMS)},
    {"invpcid", L7, 0, EBX, 10, CF(INVPCID)},
    {"rtm", L7, 0, EBX, 11, NO},
    {"mpx", L7, 0, EBX, 14, NO},
    {"avx512f", L7, 0, EBX, 16, NO},
    {"avx512dq", L7, 0, EBX, 17, NO},
    {"rdseed", L7, 0, EBX, 18, HF(RDSEED)},
    {"adx", L7, 0, EBX, 19, CF(ADX)},
    {"smap", L7, 0, EBX, 20, CF(SMAP)},
    {"avx512ifma", L7, 0, EBX, 21, NO},
    {"clflushopt", L7, 0, EBX, 23, CF(CLFLUSHOPT)},
    {"clwb", L7, 0, EBX, 24, CF(CLWB)},
    {"avx512cd", L7, 0, EBX, 28, NO},
    {"sha_ni", L7, 0, EBX, 29, FP(SHA)},
    {"avx512bw", L7, 0, EBX, 30, NO},
    {"avx512vl", L7, 0, EBX, 31, NO},
    {"avx512vbmi", L7, 0, ECX, 1, NO},
    {"umip", L7, 0, ECX, 2, CF(UMIP)},
    {"pku", L7, 0, ECX, 3, CF(PKU)},
    {"waitpkg", L7, 0, ECX, 5, NO},
    {"avx512_vbmi2", L7, 0, ECX, 6, NO},
    {"gfni", L7, 0, ECX, 8, FP(GFNI)},
    {"vaes", L7, 0, ECX, 9, FP(VAES)},
    {"vpclmulqdq", L7, 0, ECX, 10, FP(VPCLMUL)},
    {"avx512_vnni", L7, 0, ECX, 11, NO},
    {"avx512_bitalg", L7, 0, ECX, 12, NO},
    {"avx512_vpopcntdq", L7, 0, ECX, 14, NO},
    {"la57", L7, 0, ECX, 16, C},
    {"rdpid", L7, 0, ECX, 22, CF(RDPID)},
    {"movdiri", L7, 0, ECX, 27, NO},
    {"movdir64b", L7, 0, ECX, 28, NO},
    {"fsrm", L7, 0, EDX, 4, CF(ERMS)},
    {"md_clear", L7, 0, EDX, 10, NO},
    {"serialize", L7, 0, EDX, 14, CF(SERIALIZE)},
    {"spec_ctrl", L7, 0, EDX, 26, NO},
    {"intel_stibp", L7, 0, EDX, 27, NO},
    {"flush_l1d", L7, 0, EDX, 28, NO},
    {"arch_capabilities", L7, 0, EDX, 29, NO},
    {"ssbd", L7, 0, EDX, 31, NO},
    {"avx_vnni", L7, 1, EAX, 4, NO},
    {"avx512_bf16", L7, 1, EAX, 5, NO},
    {"xsaveopt", LD, 1, EAX, 0, FP(XSAVEOPT)},
    {"xsavec", LD, 1, EAX, 1, FP(XSAVEC)},
    {"xgetbv1", LD, 1, EAX, 2, FP(XSAVEC)},
    {"xsaves", LD, 1, EAX, 3, FP(XSAVES)},
    {"syscall", LX1, 0, EDX, 11, CF(SYSCALL)},
    {"nx", LX1, 0, EDX, 20, C},
    {"mmxext", LX1, 0, EDX, 22, FP(MMXEXT)},
    {"fxsr_opt", LX1, 0, EDX, 25, NO},
    {"pdpe1gb", LX1, 0, EDX, 26, C},
    {"rdtscp", LX1, 0, EDX, 27, CF(RDTSCP)},
    {"lm", LX1, 0, EDX, 29, CF(LM)},
    {"lahf_lm", LX1, 0, ECX, 0, CF(LAHF_LM)},
    {"cmp_legacy", LX1, 0, ECX, 1, C},
    {"svm", LX1, 0, ECX, 2, NO},
    {"cr8_legacy", LX1, 0, ECX, 4, NO},
    {"abm", LX1, 0, ECX, 5, CF(LZCNT)},
    {"sse4a", LX1, 0, ECX, 6, FP(SSE4A)},
    {"misalignsse", LX1, 0, ECX, 7, FEAT_HOST, VMCI_FEAT_NONE},
    {"3dnowprefetch", LX1, 0, ECX, 8, CF(PREFETCHW)},
    {"osvw", LX1, 0, ECX, 9, NO},
    {"xop", LX1, 0, ECX, 11, NO},
    {"fma4", LX1, 0, ECX, 16, NO},
    {"tbm", LX1, 0, ECX, 21, NO},
    {"topoext", LX1, 0, ECX, 22, C},
    {"perfctr_core", LX1, 0, ECX, 23, NO},
    {"nonstop_tsc", LX7, 0, EDX, 8, C},
    {"clzero", LX8, 0, EBX, 0, CF(CLZERO)},
    {"xsaveerptr", LX8, 0, EBX, 2, NO},
    {"wbnoinvd", LX8, 0, EBX, 9, NO},
    {"ibpb", LX8, 0, EBX, 12, NO},
    {"ibrs", LX8, 0, EBX, 14, NO},
    {"stibp", LX8, 0, EBX, 15, NO},
    {"amd_ssbd", LX8, 0, EBX, 24, NO},
    {"virt_ssbd", LX8, 0, EBX, 25, NO},
};

/* The first needs the second. */
static const char *const needs[][2] = {
    {"mmx", "fpu"},         {"fxsr", "fpu"},          {"sse", "fxsr"},
    {"sse2", "sse"},        {"pni", "sse2"},          {"ssse3", "pni"},
    {"sse4_1", "ssse3"},    {"sse4_2", "sse4_1"},     {"aes", "sse2"},
    {"pclmulqdq", "sse2"},  {"sha_ni", "sse2"},       {"sse4a", "pni"},
    {"gfni", "sse2"},       {"xsave", "fxsr"},        {"avx", "xsave"},
    {"avx", "sse4_2"},      {"avx2", "avx"},          {"fma", "avx"},
    {"f16c", "avx"},        {"vaes", "avx"},          {"vaes", "aes"},
    {"vpclmulqdq", "avx"},  {"vpclmulqdq", "pclmulqdq"}, {"xsaveopt", "xsave"},
    {"xsavec", "xsave"},    {"xgetbv1", "xsave"},     {"xsaves", "xsavec"},
    {"avx512f", "avx2"},    {"avx512dq", "avx512f"},  {"avx512bw", "avx512f"},
    {"avx512vl", "avx512f"}, {"avx512cd", "avx512f"}, {"avx512ifma", "avx512f"},
    {"avx512vbmi", "avx512bw"}, {"avx512_vbmi2", "avx512bw"}, {"avx512_vnni", "avx512f"},
    {"avx512_bitalg", "avx512bw"}, {"avx512_vpopcntdq", "avx512f"}, {"avx512_bf16", "avx512bw"},
    {"avx_vnni", "avx2"},   {"lm", "pae"},            {"lm", "msr"},
    {"lm", "cx8"},          {"lm", "syscall"},        {"pcid", "lm"},
    {"invpcid", "pcid"},    {"x2apic", "apic"},       {"tsc_deadline_timer", "apic"},
    {"nx", "pae"},          {"pse36", "pse"},         {"tsc_adjust", "tsc"},
    {"rdtscp", "tsc"},      {"nonstop_tsc", "tsc"},   {"fsgsbase", "lm"},
    {"cx16", "lm"},         {"lahf_lm", "lm"},        {"pdpe1gb", "lm"},
    {"mmxext", "mmx"},      {"fxsr_opt", "fxsr"},     {"la57", "lm"},
    {"pku", "lm"},
    {"mca", "mce"},         {"fsrm", "erms"},         {"topoext", "lm"},
};

const struct cpu_feature *cpuid_feature(unsigned i)
{
    return i < VMCI_ARRAY_SIZE(features) ? &features[i] : NULL;
}

const char *vmc_cpu_feature_name(unsigned i)
{
    return i < VMCI_ARRAY_SIZE(features) ? features[i].name : NULL;
}

const struct cpu_feature *cpuid_feature_find(const char *name, size_t len)
{
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(features); i++)
        if (vmci_strlen(features[i].name) == len && memcmp(features[i].name, name, len) == 0)
            return &features[i];
    return NULL;
}

bool cpuid_feature_on(const struct vmc_cpu_policy *p, const struct cpu_feature *f)
{
    const struct vmc_cpuid_leaf *l = vmc_cpu_policy_find(p, f->leaf, f->subleaf);
    uint32_t v;

    if (l == NULL)
        return false;
    v = f->reg == EAX ? l->eax : f->reg == EBX ? l->ebx : f->reg == ECX ? l->ecx : l->edx;
    return (v >> f->bit & 1u) != 0;
}

/* AMD repeats some of leaf 1 EDX in 80000001H. */
#define AMD_ALIASES 0x0183f3ffu

int cpuid_feature_set(struct vmc_cpu_policy *p, const struct cpu_feature *f, bool on)
{
    struct vmc_cpuid_leaf *l = cpuid_entry(p, f->leaf, f->subleaf);
    uint32_t *reg;

    if (l == NULL) {
        if (!on)
            return VMC_OK;
        struct vmc_cpuid_leaf fresh = {
            .leaf = f->leaf,
            .subleaf = f->subleaf,
            .flags = f->leaf == L7 || f->leaf == LD ? VMC_CPUID_SUBLEAF : 0,
        };
        int r = vmc_cpu_policy_set(p, &fresh);
        if (r != VMC_OK)
            return r;
        l = cpuid_entry(p, f->leaf, f->subleaf);
    }
    reg = cpuid_reg_of(l, f->reg);
    *reg = on ? *reg | 1u << f->bit : *reg & ~(1u << f->bit);
    if (f->leaf == 1 && f->reg == EDX && (AMD_ALIASES >> f->bit & 1u) != 0 && cpuid_is_amd(p)) {
        l = cpuid_entry(p, LX1, 0);
        if (l != NULL)
            l->edx = on ? l->edx | 1u << f->bit : l->edx & ~(1u << f->bit);
    }
    return VMC_OK;
}

static const struct cpu_feature *by_name(const char *name)
{
    return cpuid_feature_find(name, vmci_strlen(name));
}

/* Bring the table in line with needs; round after round until nothing changes. */
static int close_over(struct vmc_cpu_policy *p, bool on)
{
    bool changed = true;

    for (unsigned round = 0; changed && round < VMCI_ARRAY_SIZE(needs); round++) {
        changed = false;
        for (unsigned i = 0; i < VMCI_ARRAY_SIZE(needs); i++) {
            const struct cpu_feature *a = by_name(needs[i][0]);
            const struct cpu_feature *b = by_name(needs[i][1]);
            if (!cpuid_feature_on(p, a) || cpuid_feature_on(p, b))
                continue;
            int r = cpuid_feature_set(p, on ? b : a, on);
            if (r != VMC_OK)
                return r;
            changed = true;
        }
    }
    return VMC_OK;
}

bool vmc_cpu_policy_has(const struct vmc_cpu_policy *p, const char *feature)
{
    const struct cpu_feature *f = by_name(feature);

    return f != NULL && cpuid_feature_on(p, f);
}

int vmc_cpu_policy_feature(struct vmc_cpu_policy *p, const char *feature, bool on,
                           const struct vmc_cpu_policy *ceiling, struct vmc_error *err)
{
    const struct cpu_feature *f = by_name(feature);
    int r;

    if (f == NULL)
        return vmci_error(err, VMC_ENOENT, "cpu/feature", "there is no CPU feature \"%s\"",
                          feature);
    if (on && ceiling != NULL && !cpuid_feature_on(ceiling, f))
        return vmci_error(err, VMC_ENOTSUP, "cpu/feature",
                          "feature %s is not available with this engine on this host", feature);
    /* Checked first, so that a failure cannot leave half a change. */
    if (p->count + FEATURE_LEAVES > VMC_CPUID_MAX_LEAVES)
        return vmci_error(err, VMC_ELIMIT, "cpu/feature", "the CPUID table is full");
    r = cpuid_feature_set(p, f, on);
    if (r == VMC_OK)
        r = close_over(p, on);
    if (r == VMC_OK)
        r = cpuid_fit_features(p, ceiling);
    cpuid_fix_max(p);
    return r;
}

/* ---- policy against ceiling ------------------------------------------------------------------- */

/* The components, and where they lie in memory. */
static int check_xsave(const struct vmc_cpu_policy *p, const struct vmc_cpu_policy *ceiling,
                       struct vmc_error *err)
{
    for (uint32_t i = 0; i < p->count; i++) {
        const struct vmc_cpuid_leaf *l = &p->leaf[i];
        const struct vmc_cpuid_leaf *c;
        if (l->leaf != LD || l->subleaf == 1 || l->eax == 0)
            continue;
        c = vmc_cpu_policy_find(ceiling, LD, l->subleaf);
        if (l->subleaf == 0 &&
            (c == NULL || (l->eax & ~c->eax) != 0 || (l->edx & ~c->edx) != 0))
            return vmci_error(err, VMC_ENOTSUP, "cpu/policy",
                              "leaf d has XSAVE components that are not available");
        if (l->subleaf != 0 && (c == NULL || l->eax != c->eax || l->ebx != c->ebx))
            return vmci_error(err, VMC_ENOTSUP, "cpu/policy",
                              "XSAVE component %u is not available, or lies elsewhere", l->subleaf);
    }
    return VMC_OK;
}

int vmc_cpu_policy_check(const struct vmc_cpu_policy *p, const struct vmc_cpu_policy *ceiling,
                         struct vmc_error *err)
{
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(features); i++) {
        const struct cpu_feature *f = &features[i];
        if (cpuid_feature_on(p, f) && !cpuid_feature_on(ceiling, f))
            return vmci_error(err, VMC_ENOTSUP, "cpu/policy",
                              "feature %s (leaf %x) is not available with this engine on this host",
                              f->name, f->leaf);
    }
    return check_xsave(p, ceiling, err);
}
