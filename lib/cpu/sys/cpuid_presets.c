/* SPDX-License-Identifier: BSD-2-Clause */
/* Named CPU models, and the most that the software CPU offers. */
#include "cpuid_priv.h"

/* Identities. Signature: EAX of leaf 1. */
#define SIG_486      0x00000480u /* 486 DX4 */
#define SIG_PENTIUM  0x00000543u /* P55C */
#define SIG_PENTIUM3 0x00000686u
/*
 * An in-order Atom (family 6, model 36H): operating systems know that it does not speculate, and
 * leave out return trampolines, page-table isolation and the like, which cost an emulated CPU dear.
 */
#define SIG_IN_ORDER 0x00030661u
#define BRAND        "VMCore Virtual CPU"

#define PHYS_BITS 40u
#define VIRT_BITS 48u

#define F_486      "fpu vme"
#define F_PENTIUM  "fpu vme de pse tsc msr mce cx8 mmx"
#define F_PENTIUM3 F_PENTIUM " pae apic sep mtrr pge mca cmov pat pse36 fxsr sse"
/* The levels of the x86-64 psABI (section 3.1.1): what programs may rely on. */
#define F_V1 "fpu tsc msr pae cx8 cmov mmx fxsr sse sse2 syscall lm"
#define F_V2 F_V1 " pni ssse3 sse4_1 sse4_2 cx16 popcnt lahf_lm"
#define F_V3 F_V2 " avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
/* What every modern machine has and costs nothing; cut to the ceiling. */
#define F_COMMON                                                                                   \
    "vme de pse mce apic sep mtrr pge mca pat pse36 clflush nx mmxext hypervisor x2apic "          \
    "tsc_deadline_timer tsc_adjust nonstop_tsc arat rdtscp cmov pdpe1gb ss "                       \
    "3dnowprefetch"
/*
 * What makes an emulated system fast: string instructions, random numbers without jitter, and vector
 * instructions, which run on the host's own unit. No SMAP: it would change the translator's view of
 * memory twice for each copy from or to a program.
 */
#define F_DEFAULT                                                                                  \
    F_V2 " " F_COMMON " erms fsrm rdrand rdseed fsgsbase smep umip movbe abm bmi1 bmi2 adx "       \
         "clflushopt clwb rdpid aes pclmulqdq sha_ni xsave xsaveopt xgetbv1 avx avx2 f16c fma"

struct preset {
    const char *name;
    const char *about;
    const char *must;   /* fails when the ceiling lacks one */
    const char *may;    /* cut to the ceiling; NULL: all of the ceiling */
    uint32_t signature; /* 0: as the ceiling, or SIG_IN_ORDER */
};

static const struct preset presets[] = {
    {"default", "x86-64-v3 and what is cheap to emulate; chosen for speed", F_V1, F_DEFAULT, 0},
    {"host", "the host's identity, with every feature that the engine supports", "", NULL, 0},
    {"max", "every feature that the engine supports", "", NULL, 0},
    {"x86-64-v1", "the x86-64 baseline", F_V1, F_COMMON, 0},
    {"x86-64-v2", "baseline of 2009: SSE4.2, POPCNT, CMPXCHG16B", F_V2, F_COMMON, 0},
    {"x86-64-v3", "baseline of 2015: AVX2, BMI, FMA, MOVBE", F_V3, F_COMMON " xgetbv1 xsaveopt", 0},
    {"pentium3", "Pentium III: 32-bit, PAE, SSE", F_PENTIUM3, "", SIG_PENTIUM3},
    {"pentium", "Pentium with MMX: 32-bit", F_PENTIUM, "", SIG_PENTIUM},
    {"486", "486 DX4 with CPUID", F_486, "", SIG_486},
};

/* Left out even where everything is in: of no use to a guest, or costly when it is used. */
static const char *const never[] = {"monitor", "topoext", "ss"};

const char *vmc_cpu_preset_name(unsigned i, const char **about)
{
    if (i >= VMCI_ARRAY_SIZE(presets))
        return NULL;
    if (about != NULL)
        *about = presets[i].about;
    return presets[i].name;
}

/* ---- building ---------------------------------------------------------------------------------
 */

static int put(struct vmc_cpu_policy *p, uint32_t leaf, uint32_t sub, uint32_t flags, uint32_t a,
               uint32_t b, uint32_t c, uint32_t d)
{
    struct vmc_cpuid_leaf l = {leaf, sub, flags, a, b, c, d};

    return vmc_cpu_policy_set(p, &l);
}

/* A deterministic cache, as leaf 4 describes it. type: 1 data, 2 code, 3 both. */
static int put_cache(struct vmc_cpu_policy *p, uint32_t sub, uint32_t type, uint32_t level,
                     uint32_t ways, uint32_t kib)
{
    uint32_t sets = kib * 1024 / 64 / ways;

    return put(p, 4, sub, VMC_CPUID_SUBLEAF, type | level << 5 | 1u << 8, (ways - 1) << 22 | 63,
               sets - 1, 0);
}

static int put_brand(struct vmc_cpu_policy *p, const char *text)
{
    char brand[48] = {0};
    int r = VMC_OK;

    for (unsigned i = 0; i < sizeof(brand) - 1 && text[i] != '\0'; i++)
        brand[i] = text[i];
    for (unsigned i = 0; r == VMC_OK && i < 3; i++)
        r = put(p, 0x80000002u + i, 0, 0, vmci_ld_le32(brand + 16 * i),
                vmci_ld_le32(brand + 16 * i + 4), vmci_ld_le32(brand + 16 * i + 8),
                vmci_ld_le32(brand + 16 * i + 12));
    return r;
}

static int put_vendor(struct vmc_cpu_policy *p, const struct vmc_cpuid_leaf *like, uint32_t max)
{
    /* "GenuineIntel" */
    struct vmc_cpuid_leaf l = {0, 0, 0, max, 0x756e6547u, 0x6c65746eu, 0x49656e69u};

    if (like != NULL) {
        l.ebx = like->ebx;
        l.ecx = like->ecx;
        l.edx = like->edx;
    }
    return vmc_cpu_policy_set(p, &l);
}

/* Leaves of a 64-bit model besides its feature bits. */
static int put_modern(struct vmc_cpu_policy *p, const struct vmc_cpu_policy *ceiling, bool amd)
{
    const struct vmc_cpuid_leaf *l8 = vmc_cpu_policy_find(ceiling, 0x80000008u, 0);
    uint32_t sizes = l8 != NULL ? l8->eax & 0xffffu : VIRT_BITS << 8 | PHYS_BITS;
    int r = put(p, 6, 0, 0, 0, 0, 0, 0);

    if (!amd) {
        if (r == VMC_OK)
            r = put(p, 2, 0, 0, 0x00feff01u, 0xf0, 0, 0); /* see leaf 4 */
        if (r == VMC_OK)
            r = put_cache(p, 0, 1, 1, 8, 32);
        if (r == VMC_OK)
            r = put_cache(p, 1, 2, 1, 8, 32);
        if (r == VMC_OK)
            r = put_cache(p, 2, 3, 2, 16, 1024);
        if (r == VMC_OK)
            r = put_cache(p, 3, 3, 3, 16, 16384);
        if (r == VMC_OK)
            r = put(p, 4, 4, VMC_CPUID_SUBLEAF, 0, 0, 0, 0);
    }
    if (r == VMC_OK)
        r = put(p, 7, 0, VMC_CPUID_SUBLEAF, 0, 0, 0, 0);
    if (r == VMC_OK)
        r = put(p, 0x80000000u, 0, 0, 0x80000008u, 0, 0, 0);
    if (r == VMC_OK)
        r = put(p, 0x80000001u, 0, 0, 0, 0, 0, 0);
    if (r == VMC_OK)
        r = put_brand(p, BRAND);
    if (r == VMC_OK && amd) /* L1: 32 KiB, 8 ways */
        r = put(p, 0x80000005u, 0, 0, 0xff40ff40u, 0xff40ff40u, 0x20080140u, 0x20080140u);
    if (r == VMC_OK) /* L2: 1 MiB, 16 ways; L3 on AMD: 16 MiB */
        r = put(p, 0x80000006u, 0, 0, 0, 0, 0x04008140u, amd ? 0x00808140u : 0);
    if (r == VMC_OK)
        r = put(p, 0x80000007u, 0, 0, 0, 0, 0, 0);
    if (r == VMC_OK)
        r = put(p, 0x80000008u, 0, 0, sizes, 0, 0, 0);
    return r;
}

/* Switch on the words of list. must: a word beyond the ceiling is an error. */
static int add_list(struct vmc_cpu_policy *p, const char *list,
                    const struct vmc_cpu_policy *ceiling, bool must, const struct preset *ps,
                    struct vmc_error *err)
{
    while (*list != '\0') {
        size_t len = 0;
        while (list[len] != '\0' && list[len] != ' ')
            len++;
        const struct cpu_feature *f = cpuid_feature_find(list, len);
        if (f != NULL && cpuid_feature_on(ceiling, f)) {
            int r = cpuid_feature_set(p, f, true);
            if (r != VMC_OK)
                return r;
        } else if (must && f != NULL) {
            return vmci_error(err, VMC_ENOTSUP, "cpu/preset",
                              "preset %s needs the feature %s, which this engine lacks here",
                              ps->name, f->name);
        }
        list += len + (list[len] == ' ');
    }
    return VMC_OK;
}

static int add_all(struct vmc_cpu_policy *p, const struct vmc_cpu_policy *ceiling)
{
    const struct cpu_feature *f;
    int r = VMC_OK;

    for (unsigned i = 0; r == VMC_OK && (f = cpuid_feature(i)) != NULL; i++)
        if (cpuid_feature_on(ceiling, f))
            r = cpuid_feature_set(p, f, true);
    return r;
}

static void clear_never(struct vmc_cpu_policy *p)
{
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(never); i++)
        (void)cpuid_feature_set(p, cpuid_feature_find(never[i], vmci_strlen(never[i])), false);
}

/* The ceiling itself is the model. */
static int build_host(struct vmc_cpu_policy *p, const struct vmc_cpu_policy *ceiling)
{
    *p = *ceiling;
    p->size = sizeof(*p);
    p->flags = 0;
    clear_never(p);
    return vmc_cpu_policy_topology(p, 1);
}

static int build(struct vmc_cpu_policy *p, const struct preset *ps,
                 const struct vmc_cpu_policy *ceiling, struct vmc_error *err)
{
    const struct vmc_cpuid_leaf *id = vmc_cpu_policy_find(ceiling, 0, 0);
    const struct vmc_cpuid_leaf *one = vmc_cpu_policy_find(ceiling, 1, 0);
    bool modern = ps->signature == 0;
    bool in_order = (ceiling->flags & VMC_CPU_IN_ORDER) != 0;
    bool like_ceiling = modern && !in_order && id != NULL && one != NULL;
    uint32_t signature = ps->signature != 0 ? ps->signature
                         : like_ceiling     ? one->eax
                                            : SIG_IN_ORDER;
    int r;

    memset(p, 0, sizeof(*p));
    p->size = sizeof(*p);
    r = put_vendor(p, like_ceiling ? id : NULL,
                   modern                          ? 0xd
                   : ps->signature == SIG_PENTIUM3 ? 2
                                                   : 1);
    if (r == VMC_OK) /* CLFLUSH line: 8 quadwords */
        r = put(p, 1, 0, 0, signature, modern ? 0x0800u : 0, 0, 0);
    if (r == VMC_OK && ps->signature == SIG_PENTIUM3)
        r = put(p, 2, 0, 0, 0x03020101u, 0, 0, 0x0c040841u);
    if (r == VMC_OK && modern)
        r = put_modern(p, ceiling, cpuid_is_amd(p));
    if (r == VMC_OK)
        r = add_list(p, ps->must, ceiling, true, ps, err);
    if (r == VMC_OK)
        r = ps->may != NULL ? add_list(p, ps->may, ceiling, false, ps, err) : add_all(p, ceiling);
    if (r != VMC_OK)
        return r;
    if (ps->may == NULL)
        clear_never(p);
    r = cpuid_fit_features(p, ceiling);
    return r == VMC_OK && modern ? vmc_cpu_policy_topology(p, 1) : r;
}

static int unknown(const char *name, struct vmc_error *err)
{
    char list[160] = "";
    size_t n = 0;

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(presets) && n < sizeof(list); i++)
        n += vmci_snprintf(list + n, sizeof(list) - n, "%s%s", i != 0 ? " " : "", presets[i].name);
    return vmci_error(err, VMC_ENOENT, "cpu/preset", "there is no CPU model \"%s\" (there are: %s)",
                      name, list);
}

int vmc_cpu_policy_preset(struct vmc_cpu_policy *p, const char *name,
                          const struct vmc_cpu_policy *ceiling, struct vmc_error *err)
{
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(presets); i++) {
        const struct preset *ps = &presets[i];
        if (!vmci_streq(ps->name, name))
            continue;
        bool copy = vmci_streq(name, "host") ||
                    (vmci_streq(name, "max") && (ceiling->flags & VMC_CPU_IN_ORDER) == 0);
        int r = copy ? build_host(p, ceiling) : build(p, ps, ceiling, err);
        if (r != VMC_OK && r != VMC_ENOTSUP)
            return vmci_error(err, r, "cpu/preset", "the CPUID table is full");
        return r;
    }
    return unknown(name, err);
}

/* ---- the software CPU's ceiling ---------------------------------------------------------------
 */

static bool offered(const struct cpu_feature *f, uint64_t fp, const struct vmc_cpu_policy *host)
{
    switch ((enum feat_source)f->source) {
    case FEAT_CPU:
        return true;
    case FEAT_FP:
        return (fp >> f->feat & 1u) != 0;
    case FEAT_HOST:
        return cpuid_feature_on(host, f);
    case FEAT_NO:
        break;
    }
    return false;
}

/* The identity and the descriptive leaves of the host, then our own feature bits. */
void vmci_soft_ceiling(struct vmc_cpu_policy *out, uint64_t fp_features)
{
    static const uint32_t keep[] = {0,           1,           2,           4,
                                    0x80000000u, 0x80000001u, 0x80000002u, 0x80000003u,
                                    0x80000004u, 0x80000005u, 0x80000006u, 0x8000001du};
    const struct cpu_feature *f;
    struct vmc_cpuid_leaf *l;
    uint32_t n = 0;
    bool on[160];
    int r = VMC_OK;

    vmc_cpu_policy_host(out);
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(on) && (f = cpuid_feature(i)) != NULL; i++)
        on[i] = offered(f, fp_features, out);
    for (uint32_t i = 0; i < out->count; i++)
        for (unsigned k = 0; k < VMCI_ARRAY_SIZE(keep); k++)
            if (out->leaf[i].leaf == keep[k])
                out->leaf[n++] = out->leaf[i];
    out->count = n;
    out->flags = VMC_CPU_IN_ORDER;
    l = cpuid_entry(out, 0, 0);
    l->eax = 0xd;
    l = cpuid_entry(out, 0x80000000u, 0);
    if (l != NULL)
        l->eax = 0x80000008u;
    l = cpuid_entry(out, 1, 0);
    l->ebx = 0x0800;
    l->ecx = l->edx = 0;
    r = put(out, 0x80000001u, 0, 0, 0, 0, 0, 0);
    if (r == VMC_OK)
        r = put(out, 7, 0, VMC_CPUID_SUBLEAF, 0, 0, 0, 0);
    if (r == VMC_OK)
        r = put(out, 0x80000008u, 0, 0, VIRT_BITS << 8 | PHYS_BITS, 0, 0, 0);
    for (unsigned i = 0; r == VMC_OK && i < VMCI_ARRAY_SIZE(on) && (f = cpuid_feature(i)) != NULL;
         i++)
        if (on[i])
            r = cpuid_feature_set(out, f, true);
    if (r == VMC_OK)
        r = cpuid_fit_features(out, NULL);
    if (r == VMC_OK)
        r = vmc_cpu_policy_topology(out, 1);
    cpuid_fix_max(out);
    vmci_assert(r == VMC_OK); /* about forty entries */
}
