/* SPDX-License-Identifier: BSD-2-Clause */
/* Life of the KVM engine's VM and vCPUs, and its table of operations. */
#define _GNU_SOURCE
#include "kvm_int.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Three pages that VT-x without unrestricted guest needs, below the firmware's 16 MiB window. */
#define TSS_GPA      0xfeffd000ul
#define IDENTITY_GPA 0xfeffc000ull

/* ---- VM ------------------------------------------------------------------------------------ */

static int enable_cap(struct kvm_evm *vm, uint32_t cap, uint64_t arg)
{
    struct kvm_enable_cap req = {.cap = cap, .args[0] = arg};

    return ioctl(vm->fd, KVM_ENABLE_CAP, &req);
}

/* With our own local APICs their MSRs must come to us. */
static int filter_apic_msrs(struct kvm_evm *vm)
{
    uint8_t deny[4] = {0}; /* a set bit allows; one word for each range */
    struct kvm_msr_filter f = {.flags = KVM_MSR_FILTER_DEFAULT_ALLOW};
    static const uint32_t msr[] = {VMC_MSR_APIC_BASE, VMC_MSR_TSC_DEADLINE};

    for (size_t i = 0; i < sizeof(msr) / sizeof(msr[0]); i++)
        f.ranges[i] = (struct kvm_msr_filter_range){
            .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
            .nmsrs = 1,
            .base = msr[i],
            .bitmap = &deny[i],
        };
    return ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, &f);
}

static int set_up_irqchip(struct kvm_evm *vm, struct vmc_error *err)
{
    uint64_t reasons = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;
    bool ours = vm->user_apic || vm->no_irqchip;

    if (!ours) {
        if (enable_cap(vm, KVM_CAP_SPLIT_IRQCHIP, KVM_PINS) < 0)
            return kvm_host_error(err, "cannot create the split interrupt controller");
        if (enable_cap(vm, KVM_CAP_X2APIC_API,
                       KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK) < 0)
            return kvm_host_error(err, "KVM_CAP_X2APIC_API");
    }
    if (vm->user_apic)
        reasons |= KVM_MSR_EXIT_REASON_INVAL; /* x2APIC registers */
    if (enable_cap(vm, KVM_CAP_X86_USER_SPACE_MSR, reasons) < 0)
        return kvm_host_error(err, "KVM_CAP_X86_USER_SPACE_MSR");
    if (vm->user_apic && filter_apic_msrs(vm) < 0)
        return kvm_host_error(err, "KVM_X86_SET_MSR_FILTER");
    return VMC_OK;
}

static int create_vm(struct kvm_evm *vm, struct vmc_error *err)
{
    uint64_t identity = IDENTITY_GPA;

    vm->fd = ioctl(vm->dev, KVM_CREATE_VM, 0);
    if (vm->fd < 0)
        return kvm_host_error(err, "KVM_CREATE_VM");
    fcntl(vm->fd, F_SETFD, FD_CLOEXEC);
    if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
        ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_GPA) < 0)
        return kvm_host_error(err, "cannot reserve the pages that VT-x needs");
    int bytes = ioctl(vm->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (bytes < (int)sizeof(struct kvm_run))
        return kvm_host_error(err, "KVM_GET_VCPU_MMAP_SIZE");
    vm->run_bytes = (uint32_t)bytes;
    int page = ioctl(vm->dev, KVM_CHECK_EXTENSION, (long)KVM_CAP_COALESCED_MMIO);
    vm->coalesced_page = page > 0 ? (uint32_t)page : 0;
    vm->has_sregs2 = ioctl(vm->dev, KVM_CHECK_EXTENSION, (long)KVM_CAP_SREGS2) > 0;
    /* Good to have: instruction bytes with emulation failures. */
    vm->plain_failures = enable_cap(vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1) == 0;
    return set_up_irqchip(vm, err);
}

static void vm_fini(void *evm)
{
    struct kvm_evm *vm = evm;

    if (vm->fd >= 0)
        close(vm->fd); /* nothing runs in the windows any more */
    kvm_mem_fini(vm);
    if (vm->dev >= 0)
        close(vm->dev);
    pthread_mutex_destroy(&vm->ring_lock);
    pthread_mutex_destroy(&vm->lock);
}

static int init(struct kvm_evm *vm, const struct vmc_engine_vm_config *cfg, bool user_apic,
                struct vmc_error *err)
{
    const struct vmc_kvm_config *own = cfg->engine_config;

    if (cfg->flags & VMC_ENGINE_VIRTUAL_TIME)
        return kvm_set_error(err, VMC_ENOTSUP, "KVM cannot run on virtual time");
    vm->pf = cfg->platform;
    vm->mem = cfg->mem;
    vm->max_vcpus = cfg->max_vcpus;
    vm->no_irqchip = (cfg->flags & VMC_ENGINE_NO_IRQCHIP) != 0;
    vm->user_apic = user_apic && !vm->no_irqchip;
    vm->kick_signal = own != NULL && own->kick_signal != 0 ? (int)own->kick_signal : SIGURG;
    if (own != NULL && own->size == sizeof(*own)) {
        vm->frames = own->frames;
        vm->max_mappings = own->max_mappings;
    }
    vm->dev = vm->fd = -1;
    pthread_mutex_init(&vm->lock, NULL);
    pthread_mutex_init(&vm->ring_lock, NULL);
    int rc = vm->dev = kvm_open_checked(user_apic, err);
    if (vm->dev >= 0)
        rc = create_vm(vm, err);
    if (rc < 0)
        vm_fini(vm);
    return rc < 0 ? rc : VMC_OK;
}

static int vm_init_split(void *evm, const struct vmc_engine_vm_config *cfg, struct vmc_error *err)
{
    return init(evm, cfg, false, err);
}

static int vm_init_user(void *evm, const struct vmc_engine_vm_config *cfg, struct vmc_error *err)
{
    return init(evm, cfg, true, err);
}

/* ---- vCPU ---------------------------------------------------------------------------------- */

static void vcpu_fini(void *ev)
{
    struct kvm_evcpu *v = ev;

    kvm_timer_fini(v);
    if (v->run != NULL)
        munmap(v->run, v->vm->run_bytes);
    if (v->fd >= 0)
        close(v->fd);
    v->vm->vcpu[v->index] = NULL;
}

static int vcpu_init(void *evm, void *ev, uint32_t index, const struct vmc_engine_io *io,
                     struct vmc_error *err)
{
    struct kvm_evm *vm = evm;
    struct kvm_evcpu *v = ev;

    v->vm = vm;
    v->io = io;
    v->index = index;
    v->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (long)index);
    if (v->fd < 0)
        return kvm_host_error(err, "KVM_CREATE_VCPU");
    fcntl(v->fd, F_SETFD, FD_CLOEXEC);
    void *map = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (map == MAP_FAILED) {
        int rc = kvm_host_error(err, "cannot map kvm_run");
        close(v->fd);
        return rc;
    }
    v->run = map;
    if (vm->coalesced_page != 0)
        v->ring = (struct kvm_coalesced_mmio_ring *)(void *)((char *)map +
                                                             vm->coalesced_page * VMC_PAGE_SIZE);
    v->run->kvm_valid_regs = KVM_SYNC_X86_REGS; /* RIP with every exit */
    int khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
    if (khz > 0)
        vm->tsc_hz = (uint64_t)khz * 1000;
    vm->vcpu[index] = v;
    /* A model before the first state: XCR0 and MSRs are checked against it. */
    struct vmc_cpu_policy *all = vm->pf->alloc(vm->pf->ctx, sizeof(*all), 16);
    int rc = all != NULL ? kvm_ceiling(vm->dev, vm->user_apic, all, err) : VMC_ENOMEM;
    if (rc == VMC_OK)
        rc = kvm_set_policy(vm, all, err);
    if (all != NULL)
        vm->pf->free(vm->pf->ctx, all, sizeof(*all), 16);
    if (rc != VMC_OK)
        vcpu_fini(v);
    return rc;
}

static size_t stats(void *ev, const char **names, uint64_t *values, size_t max)
{
    const struct kvm_evcpu *v = ev;
    const char *const name[] = {"kvm_runs", "kvm_signals"};
    const uint64_t value[] = {v->n_runs, v->n_signals};

    for (size_t i = 0; i < 2 && i < max; i++) {
        names[i] = name[i];
        values[i] = value[i];
    }
    return 2;
}

/* ---- the tables ---------------------------------------------------------------------------- */

#define COMMON_OPS                                                                                 \
    .abi = VMC_ENGINE_ABI, .vm_fini = vm_fini, .vcpu_init = vcpu_init, .vcpu_fini = vcpu_fini,     \
    .set_policy = kvm_set_policy, .run = kvm_run, .complete = kvm_complete,                        \
    .get_state = kvm_get_state, .set_state = kvm_set_state, .can_inject = kvm_can_inject,          \
    .inject = kvm_inject, .want_window = kvm_want_window, .kick = kvm_kick,                        \
    .mem_changed = kvm_mem_changed, .dirty_log = kvm_dirty_log, .dirty_fetch = kvm_dirty_fetch,    \
    .read_tsc = kvm_read_tsc, .set_debug = kvm_set_debug, .stats = stats

static const struct vmc_engine_ops split_ops = {
    COMMON_OPS,
    .name = "kvm",
    .probe = kvm_probe_split,
    .vm_init = vm_init_split,
    .irq_line = kvm_irq_line,
    .msi = kvm_msi,
    .ioapic_route = kvm_ioapic_route,
};

static const struct vmc_engine_ops user_ops = {
    COMMON_OPS,
    .name = "kvm-user-apic",
    .probe = kvm_probe_user,
    .vm_init = vm_init_user,
};

const struct vmc_engine_ops *vmc_engine_kvm(void)
{
    return &split_ops;
}

const struct vmc_engine_ops *vmc_engine_kvm_user_apic(void)
{
    return &user_ops;
}
