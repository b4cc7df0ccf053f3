/* SPDX-License-Identifier: BSD-2-Clause */
/* The CPUID table of a CPU model: entries, topology, frequencies, the host's own table. */
#include "cpuid_priv.h"

/* ---- entries ---------------------------------------------------------------------------------- */

const struct vmc_cpuid_leaf *vmc_cpu_policy_find(const struct vmc_cpu_policy *p, uint32_t leaf,
                                                 uint32_t subleaf)
{
    uint32_t n = VMCI_MIN(p->count, (uint32_t)VMC_CPUID_MAX_LEAVES);

    for (uint32_t i = 0; i < n; i++) {
        const struct vmc_cpuid_leaf *l = &p->leaf[i];
        if (l->leaf == leaf && ((l->flags & VMC_CPUID_SUBLEAF) == 0 || l->subleaf == subleaf))
            return l;
    }
    return NULL;
}

struct vmc_cpuid_leaf *cpuid_entry(struct vmc_cpu_policy *p, uint32_t leaf, uint32_t subleaf)
{
    const struct vmc_cpuid_leaf *l = vmc_cpu_policy_find(p, leaf, subleaf);

    return l == NULL ? NULL : &p->leaf[l - p->leaf];
}

int vmc_cpu_policy_set(struct vmc_cpu_policy *p, const struct vmc_cpuid_leaf *leaf)
{
    struct vmc_cpuid_leaf *l = cpuid_entry(p, leaf->leaf, leaf->subleaf);

    if (l == NULL) {
        if (p->count >= VMC_CPUID_MAX_LEAVES)
            return VMC_ELIMIT;
        l = &p->leaf[p->count++];
    }
    *l = *leaf;
    return VMC_OK;
}

/* Remove every entry of a leaf. */
static void drop(struct vmc_cpu_policy *p, uint32_t leaf)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < p->count; i++)
        if (p->leaf[i].leaf != leaf)
            p->leaf[kept++] = p->leaf[i];
    p->count = kept;
}

static int put(struct vmc_cpu_policy *p, uint32_t leaf, uint32_t subleaf, uint32_t flags,
               const uint32_t r[4])
{
    struct vmc_cpuid_leaf l = {leaf, subleaf, flags, r[0], r[1], r[2], r[3]};

    return vmc_cpu_policy_set(p, &l);
}

#define PUT(p, leaf, sub, flags, ...) put(p, leaf, sub, flags, (const uint32_t[4]){__VA_ARGS__})

bool cpuid_is_amd(const struct vmc_cpu_policy *p)
{
    const struct vmc_cpuid_leaf *l = vmc_cpu_policy_find(p, 0, 0);

    if (l == NULL)
        return false;
    /* "AuthenticAMD", "HygonGenuine" */
    return l->ebx == 0x68747541u || l->ebx == 0x6f677948u;
}

void cpuid_fix_max(struct vmc_cpu_policy *p)
{
    struct vmc_cpuid_leaf *basic = cpuid_entry(p, 0, 0);
    struct vmc_cpuid_leaf *ext = cpuid_entry(p, 0x80000000u, 0);

    for (uint32_t i = 0; i < p->count; i++) {
        uint32_t n = p->leaf[i].leaf;
        if (n < 0x40000000u && basic != NULL && n > basic->eax)
            basic->eax = n;
        if (n >= 0x80000000u && ext != NULL && n > ext->eax)
            ext->eax = n;
    }
}

/* ---- XSAVE ------------------------------------------------------------------------------------ */

#define XSAVE_LEGACY 576u /* FXSAVE area and header */
#define AVX_OFFSET   576u
#define AVX_BYTES    256u
#define PKRU_OFFSET  832u /* of the software CPU: VMCI_XSAVE_PKRU */
#define PKRU_BYTES   8u
#define AVX512       0xe0u /* components of XCR0 */

/* Where component 9 lies: {0} when the engine does not keep it. */
static struct vmc_cpuid_leaf pkru_place(const struct vmc_cpu_policy *p,
                                        const struct vmc_cpu_policy *ceiling)
{
    const struct vmc_cpuid_leaf own = {0xd, 9, VMC_CPUID_SUBLEAF, PKRU_BYTES, PKRU_OFFSET, 0, 0};
    const struct vmc_cpuid_leaf *l = vmc_cpu_policy_find(ceiling != NULL ? ceiling : p, 0xd, 9);

    if (l != NULL && l->eax != 0)
        return *l;
    return ceiling == NULL ? own : (struct vmc_cpuid_leaf){0};
}

/* Subleaves of components that the table does not have are zeros. */
static void clear_components(struct vmc_cpu_policy *p, uint32_t have)
{
    for (uint32_t i = 0; i < p->count; i++) {
        struct vmc_cpuid_leaf *l = &p->leaf[i];
        if (l->leaf == 0xd && l->subleaf >= 2 && l->subleaf < 32 && (have >> l->subleaf & 1u) == 0)
            l->eax = l->ebx = l->ecx = l->edx = 0;
    }
}

/* A component that needs a feature the table no longer has is taken out. */
static int fit_xsave(struct vmc_cpu_policy *p, const struct vmc_cpu_policy *ceiling)
{
    struct vmc_cpuid_leaf *d0 = cpuid_entry(p, 0xd, 0);
    struct vmc_cpuid_leaf pkru = {0};
    uint32_t xcr0 = VMC_XCR0_X87 | VMC_XCR0_SSE;
    uint32_t keep;
    int r = VMC_OK;

    if (!vmc_cpu_policy_has(p, "xsave")) {
        drop(p, 0xd);
        return VMC_OK;
    }
    if (vmc_cpu_policy_has(p, "avx"))
        xcr0 |= VMC_XCR0_AVX;
    if (vmc_cpu_policy_has(p, "pku"))
        pkru = pkru_place(p, ceiling);
    if (pkru.eax != 0)
        xcr0 |= VMC_XCR0_PKRU;
    keep = xcr0 | (vmc_cpu_policy_has(p, "avx512f") ? AVX512 : 0);
    if (d0 != NULL) {
        d0->eax &= keep;
        d0->edx = 0;
        clear_components(p, d0->eax);
        if ((d0->eax & xcr0) == xcr0 && (d0->eax & ~xcr0) != 0)
            return VMC_OK; /* more components, with their own sizes */
    }
    uint32_t max = (xcr0 & VMC_XCR0_AVX) != 0 ? AVX_OFFSET + AVX_BYTES : XSAVE_LEGACY;
    max = VMCI_MAX(max, pkru.ebx + pkru.eax);
    r = PUT(p, 0xd, 0, VMC_CPUID_SUBLEAF, xcr0, max, max, 0);
    if (r == VMC_OK && vmc_cpu_policy_find(p, 0xd, 1) == NULL)
        r = PUT(p, 0xd, 1, VMC_CPUID_SUBLEAF, 0, max, 0, 0);
    if (r == VMC_OK && (xcr0 & VMC_XCR0_AVX) != 0)
        r = PUT(p, 0xd, 2, VMC_CPUID_SUBLEAF, AVX_BYTES, AVX_OFFSET, 0, 0);
    if (r == VMC_OK && pkru.eax != 0)
        r = vmc_cpu_policy_set(p, &pkru);
    return r;
}

int cpuid_fit_features(struct vmc_cpu_policy *p, const struct vmc_cpu_policy *ceiling)
{
    struct vmc_cpuid_leaf *sizes = cpuid_entry(p, 0x80000008u, 0);

    if (sizes != NULL)
        sizes->eax = (sizes->eax & ~0xff00u) | (vmc_cpu_policy_has(p, "la57") ? 57u : 48u) << 8;
    return fit_xsave(p, ceiling);
}

/* ---- topology --------------------------------------------------------------------------------- */

static unsigned bits_for(uint32_t n)
{
    unsigned bits = 0;

    while (bits < 31 && (1u << bits) < n)
        bits++;
    return bits;
}

int vmc_cpu_policy_topology(struct vmc_cpu_policy *p, uint32_t cpus)
{
    unsigned shift = bits_for(cpus);
    struct vmc_cpuid_leaf *one = cpuid_entry(p, 1, 0);
    struct vmc_cpuid_leaf *l;
    int r = VMC_OK;

    if (cpus == 0 || cpus > (1u << 16))
        return VMC_EINVAL;
    if (one != NULL) {
        one->ebx = (one->ebx & 0xff00ffffu) | VMCI_MIN(cpus, 255u) << 16;
        one->edx = cpus > 1 ? one->edx | 1u << 28 : one->edx & ~(1u << 28);
    }
    for (uint32_t i = 0; i < p->count; i++) { /* caches: L1 and L2 private, L3 shared */
        l = &p->leaf[i];
        if (l->leaf == 4 && (l->eax & 0x1fu) != 0) {
            uint32_t sharing = (l->eax >> 5 & 7u) >= 3 ? (1u << shift) - 1 : 0;
            l->eax = (l->eax & 0x3fffu) | sharing << 14 | VMCI_MIN((1u << shift) - 1, 63u) << 26;
        } else if (l->leaf == 0x8000001du && (l->eax & 0x1fu) != 0) {
            uint32_t sharing = (l->eax >> 5 & 7u) >= 3 ? cpus - 1 : 0;
            l->eax = (l->eax & 0x3fffu) | VMCI_MIN(sharing, 0xfffu) << 14;
        }
    }
    drop(p, 0x1f);
    l = cpuid_entry(p, 0, 0);
    if (l != NULL && l->eax >= 0xb) {
        drop(p, 0xb); /* EDX is the CPU's own x2APIC ID, filled in when CPUID is executed */
        r = PUT(p, 0xb, 0, VMC_CPUID_SUBLEAF, 0, 1, 0x100, 0);
        if (r == VMC_OK)
            r = PUT(p, 0xb, 1, VMC_CPUID_SUBLEAF, shift, cpus, 0x201, 0);
        if (r == VMC_OK)
            r = PUT(p, 0xb, 2, VMC_CPUID_SUBLEAF, 0, 0, 2, 0);
    }
    l = cpuid_entry(p, 0x80000008u, 0);
    if (l != NULL && cpuid_is_amd(p))
        l->ecx = (l->ecx & ~0xf0ffu) | shift << 12 | VMCI_MIN(cpus - 1, 255u);
    l = cpuid_entry(p, 0x80000001u, 0);
    if (l != NULL && cpuid_is_amd(p))
        l->ecx = cpus > 1 ? l->ecx | 2u : l->ecx & ~2u;
    if (cpuid_entry(p, 0x8000001eu, 0) != NULL)
        r = PUT(p, 0x8000001eu, 0, 0, 0, 0, 0, 0); /* one thread a core, one node */
    return r;
}

/* ---- frequencies ------------------------------------------------------------------------------ */

static uint64_t gcd(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t t = a % b;
        a = b;
        b = t;
    }
    return a;
}

int vmc_cpu_policy_tsc(struct vmc_cpu_policy *p, uint64_t tsc_hz, uint64_t crystal_hz)
{
    uint64_t g;
    uint32_t mhz = (uint32_t)VMCI_MIN(tsc_hz / 1000000u, 0xffffull);
    int r;

    if (tsc_hz == 0 || crystal_hz == 0 || crystal_hz > UINT32_MAX)
        return VMC_EINVAL;
    g = gcd(tsc_hz, crystal_hz);
    if (tsc_hz / g > UINT32_MAX) /* drop digits that no guest can use */
        return VMC_EINVAL;
    p->tsc_hz = tsc_hz;
    if (vmc_cpu_policy_find(p, 0, 0) == NULL || vmc_cpu_policy_find(p, 0, 0)->eax < 0xb ||
        cpuid_is_amd(p))
        return VMC_OK; /* models that never had these leaves */
    r = PUT(p, 0x15, 0, 0, (uint32_t)(crystal_hz / g), (uint32_t)(tsc_hz / g),
            (uint32_t)crystal_hz, 0);
    if (r == VMC_OK)
        r = PUT(p, 0x16, 0, 0, mhz, mhz, (uint32_t)VMCI_MIN(crystal_hz / 1000000u, 0xffffull), 0);
    cpuid_fix_max(p);
    return r;
}

/* ---- hypervisor leaves ------------------------------------------------------------------------ */

int vmc_cpu_policy_hypervisor(struct vmc_cpu_policy *p, const char signature[12],
                              uint32_t features)
{
    int r;

    for (uint32_t i = 0; i < 0x100; i++)
        if (vmc_cpu_policy_find(p, 0x40000000u + i, 0) != NULL)
            drop(p, 0x40000000u + i);
    if (features == 0)
        return VMC_OK;
    r = PUT(p, 0x40000000u, 0, 0, 0x40000001u, vmci_ld_le32(signature),
            vmci_ld_le32(signature + 4), vmci_ld_le32(signature + 8));
    if (r == VMC_OK)
        r = PUT(p, 0x40000001u, 0, 0, features, 0, 0, 0);
    return r;
}

/* ---- the host --------------------------------------------------------------------------------- */

static void host_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                     : "a"(leaf), "c"(subleaf));
}

/* Does the table of subleaves of a leaf end here? */
static bool last_subleaf(uint32_t leaf, uint32_t sub, const uint32_t r[4])
{
    switch (leaf) {
    case 4:
    case 0x8000001du:
        return (r[0] & 0x1fu) == 0 || sub >= 7;
    case 7:
        return sub >= 1;
    case 0xb:
    case 0x1f:
        return (r[2] >> 8 & 0xffu) == 0 || sub >= 5;
    case 0xd:
        return sub >= 9; /* PKRU is the last one that any table here keeps */
    default:
        return true;
    }
}

static bool has_subleaves(uint32_t leaf)
{
    return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f ||
           leaf == 0x8000001du;
}

static void host_range(struct vmc_cpu_policy *p, uint32_t first)
{
    uint32_t r[4];
    uint32_t max;

    host_cpuid(first, 0, r);
    max = VMCI_MIN(r[0], first + 0x24u);
    if (r[0] < first)
        return;
    for (uint32_t leaf = first; leaf <= max; leaf++) {
        bool many = has_subleaves(leaf);
        for (uint32_t sub = 0;; sub++) {
            host_cpuid(leaf, sub, r);
            bool empty = (r[0] | r[1] | r[2] | r[3]) == 0;
            if (!empty && PUT(p, leaf, sub, many ? VMC_CPUID_SUBLEAF : 0, r[0], r[1], r[2],
                              r[3]) != VMC_OK)
                return; /* full: what counts comes first */
            if (!many || last_subleaf(leaf, sub, r))
                break;
        }
    }
}

void vmc_cpu_policy_host(struct vmc_cpu_policy *p)
{
    memset(p, 0, sizeof(*p));
    p->size = sizeof(*p);
    host_range(p, 0);
    host_range(p, 0x80000000u);
}
