/* SPDX-License-Identifier: BSD-2-Clause */
#include "engine_null.h"

#include <string.h>

/* ---- what programs use --------------------------------------------------------------------- */

static void set_exit(struct null_vcpu *v, struct vmc_exit *out, uint32_t kind)
{
    memset(out, 0, sizeof(*out));
    out->kind = kind;
    out->retired = v->retired - v->run_start;
    out->rip = v->st.rip;
}

bool null_poll(struct null_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    const struct vmc_platform *pf = v->vm->vm.platform;

    if (__atomic_exchange_n(&v->kicked, 0, __ATOMIC_ACQ_REL)) {
        set_exit(v, out, VMC_EXIT_KICKED);
        return true;
    }
    if ((lim->max_insns != 0 && v->retired - v->run_start >= lim->max_insns) ||
        (lim->deadline_ns != 0 && pf->now_ns(pf->ctx) >= lim->deadline_ns)) {
        set_exit(v, out, VMC_EXIT_BUDGET);
        return true;
    }
    return false;
}

void null_retire(struct null_vcpu *v, uint64_t n)
{
    v->retired += n;
}

int null_take_irq(struct null_vcpu *v)
{
    if (!v->irq_on || !__atomic_load_n(&v->notified, __ATOMIC_ACQUIRE))
        return -1;
    __atomic_store_n(&v->notified, 0, __ATOMIC_RELEASE);
    if (v->io->irq_pending(v->io->ctx) < 0)
        return -1;
    return v->io->irq_ack(v->io->ctx);
}

int null_hlt(struct null_vcpu *v, struct vmc_exit *out)
{
    set_exit(v, out, VMC_EXIT_IDLE);
    out->u.idle.why = VMC_IDLE_HLT;
    out->u.idle.irqs_on = v->irq_on;
    return 0;
}

int null_out(struct null_vcpu *v, uint16_t port, unsigned bytes, uint32_t data,
             struct vmc_exit *out)
{
    if (v->io->pio(v->io->ctx, true, port, bytes, &data) == VMC_IO_DONE)
        return 0;
    set_exit(v, out, VMC_EXIT_IO);
    out->u.io.port = port;
    out->u.io.bytes = (uint8_t)bytes;
    out->u.io.write = true;
    out->u.io.data = data;
    return 1;
}

/* ---- the engine ---------------------------------------------------------------------------- */

static int probe(struct vmc_engine_info *out, uint32_t caps)
{
    memset(out, 0, sizeof(*out));
    out->size = sizeof(*out);
    out->caps = caps;
    out->vm_bytes = sizeof(struct null_vm);
    out->vcpu_bytes = sizeof(struct null_vcpu);
    out->max_vcpus = 64;
    out->ceiling.size = sizeof(out->ceiling);
    out->ceiling.count = 2;
    out->ceiling.leaf[0] = (struct vmc_cpuid_leaf){.leaf = 0, .eax = 1};
    out->ceiling.leaf[1] = (struct vmc_cpuid_leaf){
        .leaf = 1, .eax = 0x000306a9, .ecx = 1u << 21 | 1u << 24, .edx = 1u << 9};
    return VMC_OK;
}

static int probe_pull(const struct vmc_platform *pf, struct vmc_engine_info *out,
                      struct vmc_error *err)
{
    (void)pf;
    (void)err;
    return probe(out, VMC_CAP_RETIRED | VMC_CAP_DEADLINE | VMC_CAP_STEP | VMC_CAP_MSR_EXIT |
                          VMC_CAP_CPUID_EXIT | VMC_CAP_IRQ_PULL);
}

static int probe_inject(const struct vmc_platform *pf, struct vmc_engine_info *out,
                        struct vmc_error *err)
{
    (void)pf;
    (void)err;
    return probe(out, VMC_CAP_MSR_EXIT | VMC_CAP_CPUID_EXIT);
}

static int probe_irqchip(const struct vmc_platform *pf, struct vmc_engine_info *out,
                         struct vmc_error *err)
{
    (void)pf;
    (void)err;
    return probe(out, VMC_CAP_IRQCHIP | VMC_CAP_DIRTY_LOG);
}

static int vm_init(void *evm, const struct vmc_engine_vm_config *cfg, struct vmc_error *err)
{
    struct null_vm *vm = evm;

    (void)err;
    vm->cfg = cfg->engine_config;
    vm->vm = *cfg;
    return vm->cfg->fail_vm_init;
}

static void vm_fini(void *evm)
{
    (void)evm;
}

static int vcpu_init(void *evm, void *ev, uint32_t index, const struct vmc_engine_io *io,
                     struct vmc_error *err)
{
    struct null_vm *vm = evm;
    struct null_vcpu *v = ev;

    (void)err;
    v->vm = vm;
    v->io = io;
    v->ctx = vm->cfg->ctx;
    v->index = index;
    v->irq_on = true;
    return vm->cfg->fail_vcpu_init;
}

static void vcpu_fini(void *ev)
{
    (void)ev;
}

static int set_policy(void *evm, const struct vmc_cpu_policy *policy, struct vmc_error *err)
{
    struct null_vm *vm = evm;

    (void)err;
    vm->policy = *policy;
    vm->policies++;
    return vm->cfg->fail_policy;
}

static int run(void *ev, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    struct null_vcpu *v = ev;

    if (v->owed)
        return VMC_ESTATE;
    v->runs++;
    v->run_start = v->retired;
    v->run_virtual = lim->virtual_ns;
    if (null_poll(v, lim, out))
        return VMC_OK;
    int rc = v->vm->cfg->program(v, lim, out);
    if (rc == VMC_OK && out->kind >= VMC_EXIT_IO && out->kind <= VMC_EXIT_HYPERCALL) {
        v->owed = true;
        v->owed_exit = *out;
    }
    return rc;
}

static int complete(void *ev, const struct vmc_exit *done)
{
    struct null_vcpu *v = ev;

    if (!v->owed)
        return VMC_ESTATE;
    v->owed = false;
    v->completed = *done;
    v->completions++;
    return VMC_OK;
}

static int get_state(void *ev, uint32_t groups, struct vmc_x86_state *st)
{
    struct null_vcpu *v = ev;

    (void)groups;
    *st = v->st;
    return VMC_OK;
}

static int set_state(void *ev, uint32_t groups, const struct vmc_x86_state *st)
{
    struct null_vcpu *v = ev;

    if (v->owed)
        return VMC_ESTATE;
    if (groups & VMC_ST_GPR)
        memcpy(v->st.gpr, st->gpr, sizeof(st->gpr));
    if (groups & VMC_ST_RIP) {
        v->st.rip = st->rip;
        v->st.rflags = st->rflags;
    }
    if (groups & VMC_ST_SEG)
        memcpy(v->st.seg, st->seg, sizeof(st->seg));
    if (groups & VMC_ST_CTRL) {
        v->st.cr0 = st->cr0;
        v->st.xcr0 = st->xcr0;
    }
    if (groups & VMC_ST_RUN)
        v->st.activity = st->activity;
    if (groups & VMC_ST_MSR)
        v->st.msr = st->msr;
    if (groups & VMC_ST_LAPIC)
        memcpy(v->st.lapic, st->lapic, sizeof(st->lapic));
    return VMC_OK;
}

static int can_inject(void *ev, const struct vmc_event *e)
{
    struct null_vcpu *v = ev;

    return e->type != VMC_EV_IRQ || (v->irq_on && !v->shadow) ? VMC_OK : VMC_EAGAIN;
}

static int inject(void *ev, const struct vmc_event *e)
{
    struct null_vcpu *v = ev;

    if (v->injections < NULL_EVENTS)
        v->injected[v->injections] = *e;
    v->injections++;
    return VMC_OK;
}

static int want_window(void *ev, bool on)
{
    ((struct null_vcpu *)ev)->window = on;
    return VMC_OK;
}

static void kick(void *ev)
{
    __atomic_store_n(&((struct null_vcpu *)ev)->kicked, 1, __ATOMIC_RELEASE);
}

static void irq_notify(void *ev)
{
    __atomic_store_n(&((struct null_vcpu *)ev)->notified, 1, __ATOMIC_RELEASE);
}

static int mem_changed(void *evm)
{
    ((struct null_vm *)evm)->mem_changes++;
    return VMC_OK;
}

static int dirty_log(void *evm, bool on)
{
    ((struct null_vm *)evm)->logging = on;
    return VMC_OK;
}

static int dirty_fetch(void *evm, uint64_t gpa, uint64_t pages, uint64_t *bitmap)
{
    struct null_vm *vm = evm;

    if (gpa == 0 && pages >= 64 && vm->logging) {
        bitmap[0] |= vm->dirty;
        vm->dirty = 0;
    }
    return VMC_OK;
}

static int irq_line(void *evm, uint32_t gsi, bool level)
{
    (void)evm;
    (void)gsi;
    (void)level;
    return VMC_OK;
}

static int msi(void *evm, uint64_t addr, uint32_t data)
{
    struct null_vm *vm = evm;

    __atomic_fetch_add(&vm->msis, 1, __ATOMIC_RELAXED);
    vm->last_msi = addr << 32 | data;
    return VMC_OK;
}

static int ioapic_route(void *evm, uint32_t pin, uint64_t addr, uint32_t data, bool level)
{
    (void)pin;
    (void)addr;
    (void)data;
    (void)level;
    ((struct null_vm *)evm)->routes++;
    return VMC_OK;
}

static int read_tsc(void *ev, uint64_t *tsc, uint64_t *hz, uint64_t *clock)
{
    struct null_vcpu *v = ev;
    const struct vmc_platform *pf = v->vm->vm.platform;
    uint64_t now = v->vm->vm.flags & VMC_ENGINE_VIRTUAL_TIME
                       ? v->run_virtual + v->retired - v->run_start
                       : pf->now_ns(pf->ctx);

    *tsc = now + v->tsc_base;
    *hz = 1000000000u;
    if (clock != NULL)
        *clock = now;
    return VMC_OK;
}

static size_t stats(void *ev, const char **names, uint64_t *values, size_t max)
{
    if (max > 0) {
        names[0] = "runs";
        values[0] = ((struct null_vcpu *)ev)->runs;
    }
    return 1;
}

#define COMMON                                                                                     \
    .abi = VMC_ENGINE_ABI, .vm_init = vm_init, .vm_fini = vm_fini, .vcpu_init = vcpu_init,          \
    .vcpu_fini = vcpu_fini, .set_policy = set_policy, .run = run, .complete = complete,            \
    .get_state = get_state, .set_state = set_state, .can_inject = can_inject, .inject = inject,    \
    .want_window = want_window, .kick = kick, .mem_changed = mem_changed, .stats = stats

static const struct vmc_engine_ops pull_ops = {
    COMMON, .name = "null-pull", .probe = probe_pull, .irq_notify = irq_notify,
    .read_tsc = read_tsc};
static const struct vmc_engine_ops inject_ops = {
    COMMON, .name = "null-inject", .probe = probe_inject, .read_tsc = read_tsc};
static const struct vmc_engine_ops irqchip_ops = {
    COMMON, .name = "null-irqchip", .probe = probe_irqchip, .dirty_log = dirty_log,
    .dirty_fetch = dirty_fetch, .irq_line = irq_line, .msi = msi,
    .ioapic_route = ioapic_route};

const struct vmc_engine_ops *engine_null_pull(void)
{
    return &pull_ops;
}

const struct vmc_engine_ops *engine_null_inject(void)
{
    return &inject_ops;
}

const struct vmc_engine_ops *engine_null_irqchip(void)
{
    return &irqchip_ops;
}
