/* SPDX-License-Identifier: BSD-2-Clause */
/* CPUID: what the kernel supports, and what a guest is given. */
#include "kvm_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define MAX_ENTRIES 256u

#define ECX1_X2APIC     (1u << 21)
#define ECX1_DEADLINE   (1u << 24)
#define ECX1_OSXSAVE    (1u << 27)
#define ECX1_HYPERVISOR (1u << 31)
#define EDX1_APIC       (1u << 9)

#define LEAF_KVM_FEATURES 0x40000001u
/* Clock and I/O delay: the paravirtual features that do not need the kernel's local APIC. */
#define KVM_FEATURES_USER_APIC (1u << 0 | 1u << 1 | 1u << 3 | 1u << 24)

static struct kvm_cpuid2 *supported(int dev)
{
    struct kvm_cpuid2 *c =
        calloc(1, sizeof(*c) + MAX_ENTRIES * sizeof(struct kvm_cpuid_entry2));

    if (c == NULL)
        return NULL;
    c->nent = MAX_ENTRIES;
    if (ioctl(dev, KVM_GET_SUPPORTED_CPUID, c) < 0) {
        free(c);
        return NULL;
    }
    return c;
}

static void adjust(int dev, bool user_apic, struct vmc_cpuid_leaf *l)
{
    if (l->leaf == 1) {
        l->ecx |= ECX1_X2APIC | ECX1_HYPERVISOR;
        l->ecx &= ~ECX1_OSXSAVE; /* mirrors CR4, the kernel sets it */
        l->edx |= EDX1_APIC;
        if (user_apic || ioctl(dev, KVM_CHECK_EXTENSION, (long)KVM_CAP_TSC_DEADLINE_TIMER) > 0)
            l->ecx |= ECX1_DEADLINE;
    }
    if (l->leaf == LEAF_KVM_FEATURES && user_apic)
        l->eax &= KVM_FEATURES_USER_APIC;
}

int kvm_ceiling(int dev, bool user_apic, struct vmc_cpu_policy *out, struct vmc_error *err)
{
    struct kvm_cpuid2 *c = supported(dev);

    if (c == NULL)
        return kvm_host_error(err, "KVM_GET_SUPPORTED_CPUID");
    memset(out, 0, sizeof(*out));
    out->size = sizeof(*out);
    for (uint32_t i = 0; i < c->nent && out->count < VMC_CPUID_MAX_LEAVES; i++) {
        const struct kvm_cpuid_entry2 *e = &c->entries[i];
        struct vmc_cpuid_leaf *l = &out->leaf[out->count++];
        *l = (struct vmc_cpuid_leaf){
            .leaf = e->function,
            .subleaf = e->index,
            .flags = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX ? VMC_CPUID_SUBLEAF : 0,
            .eax = e->eax,
            .ebx = e->ebx,
            .ecx = e->ecx,
            .edx = e->edx,
        };
        adjust(dev, user_apic, l);
    }
    free(c);
    return VMC_OK;
}

/* Leaves whose registers are feature bits: a policy must not go beyond the ceiling. */
static const struct {
    uint32_t leaf, subleaf;
    uint32_t eax, ebx, ecx, edx; /* which bits are features */
} feature_leaves[] = {
    {1, 0, 0, 0, ~(ECX1_OSXSAVE | ECX1_HYPERVISOR), ~0u & ~(1u << 28)}, /* not HTT */
    {7, 0, 0, ~0u, ~0u, ~0u},
    {0x80000001u, 0, 0, 0, ~0u & ~(1u << 1), ~0u}, /* not CMP_LEGACY */
};

static int check_features(const struct vmc_cpu_policy *p, const struct vmc_cpu_policy *ceiling,
                          struct vmc_error *err)
{
    for (size_t i = 0; i < sizeof(feature_leaves) / sizeof(feature_leaves[0]); i++) {
        uint32_t leaf = feature_leaves[i].leaf, sub = feature_leaves[i].subleaf;
        const struct vmc_cpuid_leaf *want = vmc_cpu_policy_find(p, leaf, sub);
        const struct vmc_cpuid_leaf *can = vmc_cpu_policy_find(ceiling, leaf, sub);
        static const struct vmc_cpuid_leaf none;

        if (want == NULL)
            continue;
        if (can == NULL)
            can = &none;
        uint32_t ebx = want->ebx & ~can->ebx & feature_leaves[i].ebx;
        uint32_t ecx = want->ecx & ~can->ecx & feature_leaves[i].ecx;
        uint32_t edx = want->edx & ~can->edx & feature_leaves[i].edx;
        if ((ebx | ecx | edx) != 0)
            return kvm_set_error(err, VMC_ENOTSUP,
                                 "KVM cannot offer CPUID leaf 0x%x bits EBX 0x%x ECX 0x%x EDX 0x%x",
                                 leaf, ebx, ecx, edx);
    }
    return VMC_OK;
}

static int set_vcpu_cpuid(struct kvm_evcpu *v, const struct vmc_cpu_policy *p,
                          struct vmc_error *err)
{
    struct kvm_cpuid2 *c =
        calloc(1, sizeof(*c) + VMC_CPUID_MAX_LEAVES * sizeof(struct kvm_cpuid_entry2));

    if (c == NULL)
        return kvm_set_error(err, VMC_ENOMEM, "no memory for the CPUID table");
    c->nent = p->count;
    for (uint32_t i = 0; i < p->count; i++) {
        const struct vmc_cpuid_leaf *l = &p->leaf[i];
        struct kvm_cpuid_entry2 *e = &c->entries[i];
        *e = (struct kvm_cpuid_entry2){
            .function = l->leaf,
            .index = l->subleaf,
            .flags = l->flags & VMC_CPUID_SUBLEAF ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = l->eax,
            .ebx = l->ebx,
            .ecx = l->ecx,
            .edx = l->edx,
        };
        if (l->leaf == 1)
            e->ebx = (e->ebx & 0x00ffffffu) | v->index << 24;
        else if (l->leaf == 0xb || l->leaf == 0x1f)
            e->edx = v->index;
        else if (l->leaf == 0x8000001eu)
            e->eax = v->index;
    }
    int rc = ioctl(v->fd, KVM_SET_CPUID2, c);
    if (rc < 0)
        rc = kvm_host_error(err, "KVM_SET_CPUID2");
    free(c);
    return rc;
}

static int set_tsc_khz(struct kvm_evm *vm, struct kvm_evcpu *v, uint64_t hz, struct vmc_error *err)
{
    uint64_t have = vm->tsc_hz;
    uint64_t diff = hz > have ? hz - have : have - hz;

    if (hz == 0 || have == 0 || diff <= have / 1000)
        return VMC_OK;
    if (ioctl(v->fd, KVM_SET_TSC_KHZ, (long)(hz / 1000)) < 0)
        return kvm_set_error(err, VMC_ENOTSUP,
                             "this processor cannot scale the TSC from %llu to %llu kHz",
                             (unsigned long long)have / 1000, (unsigned long long)hz / 1000);
    return VMC_OK;
}

int kvm_set_policy(void *evm, const struct vmc_cpu_policy *policy, struct vmc_error *err)
{
    struct kvm_evm *vm = evm;
    struct vmc_cpu_policy *ceiling = malloc(sizeof(*ceiling));

    if (ceiling == NULL)
        return kvm_set_error(err, VMC_ENOMEM, "no memory for the CPUID table");
    int rc = kvm_ceiling(vm->dev, vm->user_apic, ceiling, err);
    if (rc == VMC_OK)
        rc = check_features(policy, ceiling, err);
    free(ceiling);
    for (uint32_t i = 0; i < vm->max_vcpus && rc == VMC_OK; i++) {
        if (vm->vcpu[i] == NULL)
            continue;
        rc = set_vcpu_cpuid(vm->vcpu[i], policy, err);
        if (rc == VMC_OK)
            rc = set_tsc_khz(vm, vm->vcpu[i], policy->tsc_hz, err);
    }
    return rc;
}
