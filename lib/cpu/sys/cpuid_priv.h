/* SPDX-License-Identifier: BSD-2-Clause */
/* The CPU model's tables, shared by cpuid_*.c. */
#ifndef CPUID_PRIV_H
#define CPUID_PRIV_H

#include "cpu/cpu_int.h"

enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* How the software CPU comes by a feature. */
enum feat_source {
    FEAT_NO,   /* never: hardware engines only */
    FEAT_CPU,  /* implemented in C, on any host */
    FEAT_FP,   /* by the host's unit: enum vmci_feat says which */
    FEAT_HOST, /* executes the host's own instruction: when the host has it */
};

struct cpu_feature {
    const char *name; /* as in /proc/cpuinfo */
    uint32_t leaf;
    uint8_t subleaf : 1;
    uint8_t reg : 2; /* enum cpuid_reg */
    uint8_t bit : 5;
    uint8_t source; /* enum feat_source */
    uint8_t feat;   /* enum vmci_feat, or VMCI_FEAT_NONE */
};

const struct cpu_feature *cpuid_feature(unsigned i); /* NULL past the last */
const struct cpu_feature *cpuid_feature_find(const char *name, size_t len);
bool cpuid_feature_on(const struct vmc_cpu_policy *p, const struct cpu_feature *f);
/* Sets the bit; the leaf is made when it is missing. */
int cpuid_feature_set(struct vmc_cpu_policy *p, const struct cpu_feature *f, bool on);

/* Exact entry for writing, or NULL. */
struct vmc_cpuid_leaf *cpuid_entry(struct vmc_cpu_policy *p, uint32_t leaf, uint32_t subleaf);
static inline uint32_t *cpuid_reg_of(struct vmc_cpuid_leaf *l, unsigned reg)
{
    return reg == CPUID_EAX ? &l->eax : reg == CPUID_EBX ? &l->ebx : reg == CPUID_ECX ? &l->ecx
                                                                                     : &l->edx;
}
bool cpuid_is_amd(const struct vmc_cpu_policy *p);
/*
 * Make leaf DH and the width of linear addresses fit the features that are on. ceiling: says how
 * the engine lays out XSAVE areas; NULL: as the software CPU does.
 */
int cpuid_fit_features(struct vmc_cpu_policy *p, const struct vmc_cpu_policy *ceiling);
/* Leaves beyond their maximum in 0 and 80000000H are added to it. */
void cpuid_fix_max(struct vmc_cpu_policy *p);

#endif
