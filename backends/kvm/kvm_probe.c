/* SPDX-License-Identifier: BSD-2-Clause */
/* What this machine's KVM can do, and clear words for what it cannot. */
#include "kvm_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const char site[] = "kvm/probe";

int kvm_set_error(struct vmc_error *err, int code, const char *fmt, ...)
{
    va_list ap;

    if (err == NULL)
        return code;
    err->code = code;
    err->host_code = 0;
    err->site = site;
    va_start(ap, fmt);
    (void)vsnprintf(err->text, sizeof(err->text), fmt, ap); /* truncation is harmless */
    va_end(ap);
    return code;
}

int kvm_host_error(struct vmc_error *err, const char *what)
{
    int host = errno;
    int rc = kvm_set_error(err, VMC_EHOST, "%s: %s", what, strerror(host));

    if (err != NULL)
        err->host_code = host;
    return rc;
}

/* Abilities without which the engine does not work, and what they are for. */
static const struct {
    int cap;
    const char *name, *why;
    bool split_only;
} needed[] = {
    {KVM_CAP_USER_MEMORY, "USER_MEMORY", "guest memory", false},
    {KVM_CAP_READONLY_MEM, "READONLY_MEM", "ROM", false},
    {KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT", "kicks and completions", false},
    {KVM_CAP_EXT_CPUID, "EXT_CPUID", "the CPU model", false},
    {KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS", "pending events", false},
    {KVM_CAP_DEBUGREGS, "DEBUGREGS", "debug registers", false},
    {KVM_CAP_XSAVE, "XSAVE", "vector registers", false},
    {KVM_CAP_XCRS, "XCRS", "XCR0", false},
    {KVM_CAP_MP_STATE, "MP_STATE", "application processors", false},
    {KVM_CAP_SET_GUEST_DEBUG, "SET_GUEST_DEBUG", "breakpoints and single steps", false},
    {KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI", "interrupt messages", true},
    {KVM_CAP_SPLIT_IRQCHIP, "SPLIT_IRQCHIP", "the split interrupt controller", true},
    {KVM_CAP_X2APIC_API, "X2APIC_API", "32-bit APIC IDs", true},
    {KVM_CAP_X86_USER_SPACE_MSR, "X86_USER_SPACE_MSR", "MSRs of the machine", false},
    {KVM_CAP_X86_MSR_FILTER, "X86_MSR_FILTER", "MSRs of the machine", false},
};

int kvm_open_checked(bool user_apic, struct vmc_error *err)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        const char *hint = errno == ENOENT ? " (no KVM in this kernel, or its module is not loaded)"
                           : errno == EACCES
                               ? " (may this user open it? It belongs to the group kvm)"
                               : "";
        int host = errno;
        int rc = kvm_set_error(err, VMC_ENOTSUP, "cannot open /dev/kvm: %s%s", strerror(host), hint);
        if (err != NULL)
            err->host_code = host;
        return rc;
    }
    int api = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (api != KVM_API_VERSION) {
        close(fd);
        return kvm_set_error(err, VMC_ENOTSUP, "/dev/kvm has API version %d, %d is needed", api,
                             KVM_API_VERSION);
    }
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        if ((needed[i].split_only && user_apic) ||
            ioctl(fd, KVM_CHECK_EXTENSION, (long)needed[i].cap) > 0)
            continue;
        close(fd);
        return kvm_set_error(err, VMC_ENOTSUP, "/dev/kvm lacks KVM_CAP_%s, needed for %s",
                             needed[i].name, needed[i].why);
    }
    return fd;
}

static int probe(bool user_apic, struct vmc_engine_info *out, struct vmc_error *err)
{
    int dev = kvm_open_checked(user_apic, err);

    if (dev < 0)
        return dev;
    memset(out, 0, sizeof(*out));
    out->size = sizeof(*out);
    out->caps = VMC_CAP_DEADLINE | VMC_CAP_STEP | VMC_CAP_BREAKPOINT | VMC_CAP_DIRTY_LOG |
                VMC_CAP_MSR_EXIT;
    if (!user_apic)
        out->caps |= VMC_CAP_IRQCHIP;
    int max = ioctl(dev, KVM_CHECK_EXTENSION, (long)KVM_CAP_MAX_VCPUS);
    out->max_vcpus = max > 0 ? (uint32_t)max : 1;
    out->vm_bytes = sizeof(struct kvm_evm) + out->max_vcpus * sizeof(struct kvm_evcpu *);
    out->vcpu_bytes = sizeof(struct kvm_evcpu);
    int rc = kvm_ceiling(dev, user_apic, &out->ceiling, err);
    close(dev);
    return rc;
}

int kvm_probe_split(const struct vmc_platform *pf, struct vmc_engine_info *out,
                    struct vmc_error *err)
{
    (void)pf;
    return probe(false, out, err);
}

int kvm_probe_user(const struct vmc_platform *pf, struct vmc_engine_info *out,
                   struct vmc_error *err)
{
    (void)pf;
    return probe(true, out, err);
}
