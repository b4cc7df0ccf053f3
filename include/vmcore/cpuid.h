/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * CPU models: what CPUID tells a guest.
 *
 * A policy is built from a preset, adjusted by features, and handed to the VM, which pushes it to
 * its engine before the first instruction. Presets hold only what the engine can run; asking for
 * more is an error that names the feature.
 */
#ifndef VMCORE_CPUID_H
#define VMCORE_CPUID_H

#include <vmcore/platform.h>

VMC_BEGIN_DECLS

#define VMC_CPUID_MAX_LEAVES 96
#define VMC_CPUID_SUBLEAF    1u /**< the entry matches only its subleaf */

struct vmc_cpuid_leaf {
    uint32_t leaf, subleaf;
    uint32_t flags;
    uint32_t eax, ebx, ecx, edx;
};

/**
 * In a ceiling: the engine executes nothing speculatively, so presets pick an identity for which
 * guests apply no speculation workarounds.
 */
#define VMC_CPU_IN_ORDER 1u

/** A table of leaves. Plain data; copy it freely. */
struct vmc_cpu_policy {
    uint32_t size; /**< sizeof(struct vmc_cpu_policy) */
    uint32_t count;
    uint64_t tsc_hz; /**< frequency of the guest's TSC; 0: the engine's default */
    uint32_t flags;  /**< VMC_CPU_* */
    uint32_t pad;
    struct vmc_cpuid_leaf leaf[VMC_CPUID_MAX_LEAVES];
};

/**
 * Fill a policy from a named preset; ceiling is the most the engine supports (from
 * vmc_engine_ops.probe). One processor; see vmc_cpu_policy_topology. VMC_ENOENT: no such preset
 * (err lists them); VMC_ENOTSUP: the ceiling lacks a feature that the preset promises (err names
 * it). Any thread.
 */
VMC_API VMC_MUST_CHECK int vmc_cpu_policy_preset(struct vmc_cpu_policy *p, const char *name,
                                                 const struct vmc_cpu_policy *ceiling,
                                                 struct vmc_error *err);
/** Name of preset number i, or NULL past the last; *about is one line of text. */
VMC_API const char *vmc_cpu_preset_name(unsigned i, const char **about);
/**
 * Switch a feature by name ("avx2", "x2apic" ...), as /proc/cpuinfo spells it. What it needs is
 * switched on with it, what depends on it is switched off with it. VMC_ENOENT: no such name;
 * VMC_ENOTSUP: switched on but beyond the ceiling. The policy is unchanged on failure.
 */
VMC_API VMC_MUST_CHECK int vmc_cpu_policy_feature(struct vmc_cpu_policy *p, const char *feature,
                                                  bool on, const struct vmc_cpu_policy *ceiling,
                                                  struct vmc_error *err);
/** Set the number of processors in the topology leaves (one socket, one thread a core). */
VMC_API VMC_MUST_CHECK int vmc_cpu_policy_topology(struct vmc_cpu_policy *p, uint32_t cpus);
/** Entry for a leaf, or NULL. */
VMC_API const struct vmc_cpuid_leaf *vmc_cpu_policy_find(const struct vmc_cpu_policy *p,
                                                         uint32_t leaf, uint32_t subleaf);
/** Add or replace an entry. VMC_ELIMIT. */
VMC_API VMC_MUST_CHECK int vmc_cpu_policy_set(struct vmc_cpu_policy *p,
                                              const struct vmc_cpuid_leaf *leaf);
/** Is the feature on? False for unknown names. */
VMC_API bool vmc_cpu_policy_has(const struct vmc_cpu_policy *p, const char *feature);
/** Name of feature number i of those that vmc_cpu_policy_feature knows, or NULL past the last. */
VMC_API const char *vmc_cpu_feature_name(unsigned i);
/**
 * Does the policy stay within the ceiling? VMC_ENOTSUP: err names the feature, or the leaf and
 * register, that goes beyond it.
 */
VMC_API VMC_MUST_CHECK int vmc_cpu_policy_check(const struct vmc_cpu_policy *p,
                                                const struct vmc_cpu_policy *ceiling,
                                                struct vmc_error *err);
/**
 * Set the TSC's frequency, and tell guests by leaves 15H and 16H. crystal_hz: the clock that drives
 * the local APIC's timer (guests derive it from leaf 15H). VMC_EINVAL, VMC_ELIMIT.
 */
VMC_API VMC_MUST_CHECK int vmc_cpu_policy_tsc(struct vmc_cpu_policy *p, uint64_t tsc_hz,
                                              uint64_t crystal_hz);
/**
 * Set the hypervisor leaves 40000000H and 40000001H: a signature of 12 bytes and the feature word
 * (EAX of 40000001H). Only for paravirtual interfaces that the machine really has; features 0
 * removes the leaves. VMC_ELIMIT.
 */
VMC_API VMC_MUST_CHECK int vmc_cpu_policy_hypervisor(struct vmc_cpu_policy *p,
                                                     const char signature[12], uint32_t features);
/** The host's own CPUID as a table (executes CPUID: slow under a hypervisor; do it once). */
VMC_API void vmc_cpu_policy_host(struct vmc_cpu_policy *p);

VMC_END_DECLS

#endif
