/* SPDX-License-Identifier: BSD-2-Clause */
/* The VM object: creation, start, pause, stop, reset. */
#include "vm/vm_priv.h"

#define PIO_LIMIT  0x10000ull
#define MMIO_LIMIT (1ull << VMC_GPA_BITS)
#define VCPUS_MAX  1024u
#define ALL_FLAGS                                                                                  \
    (VMC_VM_NO_IRQCHIP | VMC_VM_DETERMINISTIC | VMC_VM_PIO_EXITS | VMC_VM_MMIO_EXITS |             \
     VMC_VM_MSR_EXITS | VMC_VM_NO_PARAVIRT | VMC_VM_VMWARE)

static const char site[] = "vm/create";

/* ---- creation ------------------------------------------------------------------------------ */

static int check_config(const struct vmc_vm_config *cfg, struct vmc_error *err)
{
    if (cfg->size < offsetof(struct vmc_vm_config, pad))
        return vmci_error(err, VMC_EINVAL, site, "vm_config.size is %u, at least %zu is needed",
                          cfg->size, offsetof(struct vmc_vm_config, pad));
    int rc = vmc_platform_check(cfg->platform, err);
    if (rc != VMC_OK)
        return rc;
    if (cfg->engine == NULL)
        return vmci_error(err, VMC_EINVAL, site, "vm_config.engine is missing");
    if (cfg->engine->abi != VMC_ENGINE_ABI)
        return vmci_error(err, VMC_EVERSION, site, "engine %s has ABI %u, this library has %u",
                          cfg->engine->name, cfg->engine->abi, VMC_ENGINE_ABI);
    if (cfg->max_vcpus == 0 || cfg->max_vcpus > VCPUS_MAX)
        return vmci_error(err, VMC_EINVAL, site, "vm_config.max_vcpus is %u, allowed are 1 to %u",
                          cfg->max_vcpus, VCPUS_MAX);
    if (cfg->flags & ~(uint32_t)ALL_FLAGS)
        return vmci_error(err, VMC_EINVAL, site, "vm_config.flags has unknown bits 0x%x",
                          cfg->flags & ~(uint32_t)ALL_FLAGS);
    return VMC_OK;
}

static int check_engine(struct vmc_vm *vm, struct vmc_error *err)
{
    vm->info.size = sizeof(vm->info);
    int rc = vm->ops->probe(vm->pf, &vm->info, err);
    if (rc != VMC_OK)
        return rc;
    if (vm->info.max_vcpus != 0 && vm->max_vcpus > vm->info.max_vcpus)
        return vmci_error(err, VMC_ELIMIT, site, "engine %s runs at most %u vCPUs, not %u",
                          vm->ops->name, vm->info.max_vcpus, vm->max_vcpus);
    if ((vm->flags & VMC_VM_DETERMINISTIC) &&
        (!engine_has(vm, VMC_CAP_RETIRED) || engine_has(vm, VMC_CAP_IRQCHIP)))
        return vmci_error(err, VMC_ENOTSUP, site,
                          "engine %s cannot run deterministically: it does not count instructions",
                          vm->ops->name);
    return VMC_OK;
}

static int create_board(struct vmc_vm *vm)
{
    vm->board.platform = vm->pf;
    vm->board.mem = vm->mem;
    int rc = vmc_bus_create(vm->pf, "port", PIO_LIMIT, &vm->board.pio);
    if (rc == VMC_OK)
        rc = vmc_bus_create(vm->pf, "memory", MMIO_LIMIT, &vm->board.mmio);
    if (rc == VMC_OK)
        rc = vmc_timerq_create(vm->pf, &vm->board.timers);
    if (rc == VMC_OK && (vm->flags & VMC_VM_DETERMINISTIC))
        vmc_timerq_set_virtual(vm->board.timers, 0);
    return rc;
}

/* A self-timed vCPU has to shorten its sleep or its stay in the engine. */
static void earlier_timer(void *ctx)
{
    struct vmc_vm *vm = ctx;

    /* A read-modify-write, so that the deadline is visible before this is read: a vCPU counts
       itself first and looks at the deadline second. */
    if (__atomic_fetch_add(&vm->self_timed, 0u, __ATOMIC_SEQ_CST) == 0)
        return;
    for (uint32_t i = 0; i < vm->max_vcpus; i++) {
        struct vmc_vcpu *v = vm->vcpu[i];
        if (v != NULL && vmci_load_acquire(&v->in_run) == 2) {
            vmci_vcpu_request(v, REQ_TIMER);
            return; /* one timekeeper is enough */
        }
    }
}

static int create_engine(struct vmc_vm *vm, const struct vmc_vm_config *cfg, struct vmc_error *err)
{
    struct vmc_engine_vm_config ec = {
        .size = sizeof(ec),
        .max_vcpus = vm->max_vcpus,
        .platform = vm->pf,
        .mem = vm->mem,
        .engine_config = cfg->engine_config,
    };

    if (vm->flags & VMC_VM_DETERMINISTIC)
        ec.flags |= VMC_ENGINE_VIRTUAL_TIME;
    if (vm->flags & VMC_VM_NO_IRQCHIP)
        ec.flags |= VMC_ENGINE_NO_IRQCHIP;
    vm->evm = vmci_alloc_aligned(vm->pf, vm->info.vm_bytes, VMCI_CACHELINE);
    if (vm->evm == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for the engine (%zu bytes)",
                          vm->info.vm_bytes);
    memset(vm->evm, 0, vm->info.vm_bytes);
    int rc = vm->ops->vm_init(vm->evm, &ec, err);
    vm->engine_inited = rc == VMC_OK;
    return rc;
}

static int build(struct vmc_vm *vm, const struct vmc_vm_config *cfg, struct vmc_error *err)
{
    int rc = check_engine(vm, err);
    if (rc != VMC_OK)
        return rc;
    vm->policy = cfg->policy != NULL ? *cfg->policy : vm->info.ceiling;
    if (vm->flags & VMC_VM_NO_IRQCHIP)
        vm->info.caps &= ~(uint32_t)VMC_CAP_IRQCHIP;
    vm->vcpu = vmci_zalloc(vm->pf, vm->max_vcpus * sizeof(vm->vcpu[0]));
    if (vm->vcpu == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for %u vCPUs", vm->max_vcpus);
    rc = vmc_mem_create(vm->pf, &vm->mem, err);
    if (rc != VMC_OK)
        return rc;
    rc = create_board(vm);
    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "no memory for the board");
    rc = create_engine(vm, cfg, err);
    if (rc != VMC_OK)
        return rc;
    vmci_timerq_set_owner_notify(vm->board.timers, earlier_timer, vm);
    rc = vmci_halt_watch_init(vm);
    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "no memory for a timer");
    if (vm->flags & VMC_VM_NO_IRQCHIP)
        return VMC_OK;
    if (engine_has(vm, VMC_CAP_IRQCHIP))
        return vmci_irqchip_init(&vm->chip, &vm->board, 0, &vmci_vm_irq_engine_ops, vm, err);
    return vmci_irqchip_init(&vm->chip, &vm->board, vm->max_vcpus, &vmci_vm_irq_ops, vm, err);
}

int vmc_vm_create(const struct vmc_vm_config *cfg, struct vmc_vm **out, struct vmc_error *err)
{
    int rc = check_config(cfg, err);
    if (rc != VMC_OK)
        return rc;
    struct vmc_vm *vm = vmci_zalloc(cfg->platform, sizeof(*vm));
    if (vm == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for the VM");
    vm->pf = cfg->platform;
    vm->ops = cfg->engine;
    vm->flags = cfg->flags;
    vm->max_vcpus = cfg->max_vcpus;
    rc = vmci_lock_init(&vm->stop_lock, vm->pf);
    if (rc == VMC_OK)
        rc = vmci_lock_init(&vm->pv_lock, vm->pf);
    rc = rc != VMC_OK ? vmci_error(err, rc, site, "no lock for the VM") : build(vm, cfg, err);
    if (rc != VMC_OK) {
        vmc_vm_destroy(vm);
        return rc;
    }
    *out = vm;
    return VMC_OK;
}

void vmc_vm_destroy(struct vmc_vm *vm)
{
    if (vm == NULL)
        return;
    if (!vmc_vm_quiesced(vm)) {
        vmci_bug(vm->pf, __FILE__, __LINE__, "vmc_vm_destroy while a vCPU runs");
        return;
    }
    vmc_board_destroy_devices(&vm->board);
    for (uint32_t i = 0; vm->vcpu != NULL && i < vm->max_vcpus; i++)
        vmci_vcpu_destroy(vm->vcpu[i]);
    vmci_irqchip_fini(&vm->chip);
    if (vm->engine_inited)
        vm->ops->vm_fini(vm->evm);
    vmci_free_aligned(vm->pf, vm->evm, vm->info.vm_bytes, VMCI_CACHELINE);
    vmci_halt_watch_fini(vm);
    vmc_timerq_destroy(vm->board.timers);
    vmc_bus_destroy(vm->board.mmio);
    vmc_bus_destroy(vm->board.pio);
    vmc_mem_destroy(vm->mem);
    vmci_free(vm->pf, vm->vcpu, vm->max_vcpus * sizeof(vm->vcpu[0]));
    vmci_lock_fini(&vm->pv_lock);
    vmci_lock_fini(&vm->stop_lock);
    vmci_free(vm->pf, vm, sizeof(*vm));
}

struct vmc_mem *vmc_vm_mem(struct vmc_vm *vm)
{
    return vm->mem;
}

struct vmc_board *vmc_vm_board(struct vmc_vm *vm)
{
    return &vm->board;
}

static void a20_set(void *ctx, uint32_t pin, bool level)
{
    struct vmc_vm *vm = ctx;

    (void)pin;
    vmci_store_release(&vm->a20_off, level ? 0u : 1u);
    vm->ops->set_a20(vm->evm, level);
}

bool vmc_vm_a20_off(const struct vmc_vm *vm)
{
    return vmci_load_acquire(&vm->a20_off) != 0;
}

struct vmc_irq_line vmc_vm_a20(struct vmc_vm *vm)
{
    struct vmc_irq_line line = {.ctx = vm};

    if (vm->ops->set_a20 != NULL)
        line.set = a20_set;
    return line;
}

void vmc_vm_set_ferr(struct vmc_vm *vm, bool (*ferr)(void *ctx, bool asserted), void *ctx)
{
    vm->ferr = ferr;
    vm->ferr_ctx = ctx;
}

void *vmc_vm_engine(struct vmc_vm *vm)
{
    return vm->evm;
}

const struct vmc_engine_info *vmc_vm_engine_info(const struct vmc_vm *vm)
{
    return &vm->info;
}

struct vmc_vcpu *vmc_vm_vcpu(struct vmc_vm *vm, uint32_t index)
{
    return index < vm->max_vcpus ? vm->vcpu[index] : NULL;
}

struct vmc_irq_line vmc_vm_gsi(struct vmc_vm *vm, uint32_t gsi)
{
    struct vmc_irq_line none = {NULL, NULL, 0};

    return vm->chip.board != NULL ? vmci_irqchip_line(&vm->chip, gsi) : none;
}

/* ---- start --------------------------------------------------------------------------------- */

static void find_tsc_hz(struct vmc_vm *vm)
{
    uint64_t tsc, hz = vm->policy.tsc_hz;

    if (hz == 0 && vm->ops->read_tsc != NULL && vm->vcpu[0] != NULL &&
        vm->ops->read_tsc(vm->vcpu[0]->ev, &tsc, &hz, NULL) != VMC_OK)
        hz = 0;
    vm->tsc_hz = hz;
}

static void set_cpuid_features(struct vmc_vm *vm)
{
    const struct vmc_cpuid_leaf *one = vmc_cpu_policy_find(&vm->policy, 1, 0);
    const struct vmc_cpuid_leaf *sizes = vmc_cpu_policy_find(&vm->policy, 0x80000008u, 0);
    uint32_t bits = sizes != NULL ? sizes->eax & 0xff : VMC_GPA_BITS;

    if (!(vm->flags & (VMC_VM_NO_PARAVIRT | VMC_VM_NO_IRQCHIP)))
        vmci_pvclock_cpuid(vm);
    for (uint32_t i = 0; i < vm->chip.lapics; i++) {
        vm->chip.lapic[i].has_x2apic = one == NULL || (one->ecx & (1u << 21)) != 0;
        vm->chip.lapic[i].has_deadline = one == NULL || (one->ecx & (1u << 24)) != 0;
        vm->chip.lapic[i].phys_bits = (uint8_t)VMCI_MIN(VMCI_MAX(bits, 32u), VMC_GPA_BITS);
    }
}

int vmc_vm_start(struct vmc_vm *vm, struct vmc_error *err)
{
    if (vm->started)
        return vmci_error(err, VMC_ESTATE, "vm/start", "the VM has started already");
    if (vm->vcpu[0] == NULL)
        return vmci_error(err, VMC_ESTATE, "vm/start", "vCPU 0 does not exist");
    find_tsc_hz(vm);
    set_cpuid_features(vm);
    int rc = vm->ops->set_policy(vm->evm, &vm->policy, err);
    if (rc != VMC_OK)
        return rc;
    if (vm->tsc_hz == 0)
        find_tsc_hz(vm); /* some engines know it only now */
    rc = vm->ops->mem_changed(vm->evm);
    if (rc != VMC_OK)
        return vmci_error(err, rc, "vm/start", "engine %s cannot map the guest's memory: %s",
                          vm->ops->name, vmc_strerror(rc));
    vm->started = true;
    vmci_halt_watch_start(vm);
    if (vm->chip.board != NULL) {
        vmci_lock(&vm->chip.lock);
        vmci_ioapic_publish(&vm->chip.ioapic);
        vmci_unlock(&vm->chip.lock);
    }
    return VMC_OK;
}

int vmc_vm_memory_changed(struct vmc_vm *vm)
{
    if (!vmc_vm_quiesced(vm))
        return VMC_EBUSY;
    return vm->started ? vm->ops->mem_changed(vm->evm) : VMC_OK;
}

void vmc_vm_set_trace(struct vmc_vm *vm,
                      void (*fn)(void *ctx, uint32_t index, enum vmc_vm_trace what,
                                 uint64_t detail),
                      void *ctx)
{
    vm->trace_ctx = ctx;
    vm->trace_fn = fn;
}

/* ---- stop, pause, reset -------------------------------------------------------------------- */

static void request_all(struct vmc_vm *vm, uint32_t bits)
{
    for (uint32_t i = 0; i < vm->max_vcpus; i++) {
        if (vm->vcpu[i] != NULL)
            vmci_vcpu_request(vm->vcpu[i], bits);
    }
}

void vmc_vm_request_stop(struct vmc_vm *vm, enum vmc_stop why, uint64_t detail)
{
    vmci_lock(&vm->stop_lock);
    if (vm->stop_why == 0) { /* the first reason counts */
        vm->stop_detail = detail;
        vmci_store_release(&vm->stop_why, (uint32_t)why);
    }
    vmci_unlock(&vm->stop_lock);
    request_all(vm, REQ_STOP);
}

bool vmc_vm_stopped(const struct vmc_vm *vm, uint32_t *why, uint64_t *detail)
{
    uint32_t w = vmci_load_acquire(&vm->stop_why);

    if (w == 0)
        return false;
    if (why != NULL)
        *why = w;
    if (detail != NULL)
        *detail = vm->stop_detail;
    return true;
}

void vmc_vm_pause(struct vmc_vm *vm)
{
    __atomic_fetch_or(&vm->gate, GATE_PAUSED, __ATOMIC_SEQ_CST);
    request_all(vm, REQ_PAUSE);
}

bool vmc_vm_paused(const struct vmc_vm *vm)
{
    return (__atomic_load_n(&vm->gate, __ATOMIC_SEQ_CST) & GATE_PAUSED) != 0;
}

bool vmc_vm_quiesced(const struct vmc_vm *vm)
{
    return (__atomic_load_n(&vm->gate, __ATOMIC_SEQ_CST) & ~GATE_PAUSED) == 0;
}

int vmc_vm_pause_wait(struct vmc_vm *vm, uint64_t deadline_ns)
{
    const struct vmc_platform *pf = vm->pf;

    vmc_vm_pause(vm);
    for (;;) {
        uint32_t gate = __atomic_load_n(&vm->gate, __ATOMIC_SEQ_CST);
        if ((gate & ~GATE_PAUSED) == 0)
            return VMC_OK;
        if (!vmci_pf_has(pf, sync))
            return VMC_ENOTSUP;
        if (deadline_ns != UINT64_MAX && pf->now_ns(pf->ctx) >= deadline_ns)
            return VMC_EAGAIN;
        pf->sync->park(pf->ctx, &vm->gate, gate, deadline_ns);
    }
}

void vmc_vm_resume(struct vmc_vm *vm)
{
    __atomic_fetch_and(&vm->gate, ~GATE_PAUSED, __ATOMIC_SEQ_CST);
    for (uint32_t i = 0; i < vm->max_vcpus; i++) {
        if (vm->vcpu[i] == NULL)
            continue;
        vmci_fetch_and(&vm->vcpu[i]->request, ~REQ_PAUSE);
        if (vm->wake_fn != NULL)
            vm->wake_fn(vm->wake_ctx, i);
    }
}

int vmc_vm_reset(struct vmc_vm *vm)
{
    if (!vmc_vm_quiesced(vm))
        return VMC_EBUSY;
    int rc = VMC_OK;
    vm->pv_valid = false;
    for (uint32_t i = 0; i < vm->max_vcpus && rc == VMC_OK; i++) {
        if (vm->vcpu[i] != NULL)
            rc = vmci_vcpu_reset(vm->vcpu[i]);
    }
    vmc_board_reset(&vm->board);
    vmci_store_release(&vm->stop_why, 0u);
    vm->turn = 0;
    return rc;
}
