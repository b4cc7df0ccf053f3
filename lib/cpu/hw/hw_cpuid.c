/* SPDX-License-Identifier: BSD-2-Clause */
/* The CPU model of a guest on hardware: what can be offered, and the short way to answer CPUID. */
#include "cpu/cpu_int.h"
#include "cpu/fpu/fp.h"
#include "cpu/hw/hw_int.h"

/*
 * The ceiling is what both the processor and the software CPU can do: the guest has to find the
 * same machine whoever executes its next instruction.
 */
void hw_ceiling(const struct vmc_platform *pf, bool nested, bool invpcid, bool rdtscp,
                struct vmc_cpu_policy *out)
{
    /* Made by the machine, whatever the processor has. */
    static const char *const ours[] = {"x2apic",     "tsc_deadline_timer",
                                       "hypervisor", "arat",
                                       "tsc_adjust", "apic",
                                       "mtrr",       "pat",
                                       "mce",        "mca"};
    static const char *const never[] = {"monitor", "la57", "pku", "waitpkg", "xsaves"};
    static const char *const paging[] = {"pcid", "invpcid"};
    struct vmc_cpu_policy *host = vmci_zalloc(pf, sizeof(*host));
    const char *name;

    vmci_soft_ceiling(out, vmci_pf_has(pf, exec) ? vmci_fp_host_features() : 0);
    out->flags = 0;
    if (host == NULL)
        return;
    vmc_cpu_policy_host(host);
    for (unsigned i = 0; (name = vmc_cpu_feature_name(i)) != NULL; i++) {
        bool keep = vmc_cpu_policy_has(host, name);
        for (unsigned k = 0; k < VMCI_ARRAY_SIZE(ours); k++)
            keep = keep || vmci_streq(name, ours[k]);
        for (unsigned k = 0; k < VMCI_ARRAY_SIZE(never); k++)
            keep = keep && !vmci_streq(name, never[k]);
        for (unsigned k = 0; k < VMCI_ARRAY_SIZE(paging); k++)
            keep = keep && (nested || !vmci_streq(name, paging[k]));
        keep = keep && (invpcid || !vmci_streq(name, "invpcid")) &&
               (rdtscp || (!vmci_streq(name, "rdtscp") && !vmci_streq(name, "rdpid")));
        if (!keep && vmc_cpu_policy_has(out, name) &&
            vmc_cpu_policy_feature(out, name, false, NULL, NULL) != VMC_OK)
            break; /* taking away needs no room: it cannot fail */
    }
    vmci_free(pf, host, sizeof(*host));
}

/* Leaves whose answer follows the processor's state (lib/cpu/sys/cpuid.c). */
static bool dynamic(uint32_t leaf)
{
    return leaf == 1 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f ||
           leaf == 0x80000001u || leaf == 0x8000001eu;
}

void hw_cpuid_index(struct hw_vm *vm)
{
    struct hw_cpuid *c = &vm->cpuid;

    memset(c, 0, sizeof(*c));
    /* Backwards, so that each chain has the order of the table. */
    for (uint32_t i = vm->policy.count; i-- > 0;) {
        uint32_t leaf = vm->policy.leaf[i].leaf;
        if (dynamic(leaf))
            continue;
        c->next[i] = c->first[hw_cpuid_slot(leaf)];
        c->first[hw_cpuid_slot(leaf)] = (uint8_t)(i + 1);
    }
}
