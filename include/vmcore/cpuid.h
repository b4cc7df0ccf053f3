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

/** A table of leaves. Plain data; copy it freely. */
struct vmc_cpu_policy {
    uint32_t size; /**< sizeof(struct vmc_cpu_policy) */
    uint32_t count;
    uint64_t tsc_hz; /**< frequency of the guest's TSC; 0: the engine's default */
    struct vmc_cpuid_leaf leaf[VMC_CPUID_MAX_LEAVES];
};

/**
 * Fill a policy from a named preset; ceiling is the most the engine supports (from
 * vmc_engine_ops.probe). VMC_ENOENT: no such preset (err lists them). Any thread.
 */
VMC_API VMC_MUST_CHECK int vmc_cpu_policy_preset(struct vmc_cpu_policy *p, const char *name,
                                                 const struct vmc_cpu_policy *ceiling,
                                                 struct vmc_error *err);
/** Name of preset number i, or NULL past the last; *about is one line of text. */
VMC_API const char *vmc_cpu_preset_name(unsigned i, const char **about);
/**
 * Switch a feature by name ("avx2", "x2apic" ...), as /proc/cpuinfo spells it. VMC_ENOENT: no such
 * name; VMC_ENOTSUP: switched on but beyond the ceiling.
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
/** The host's own CPUID as a table (executes CPUID: slow under a hypervisor; do it once). */
VMC_API void vmc_cpu_policy_host(struct vmc_cpu_policy *p);

VMC_END_DECLS

#endif
