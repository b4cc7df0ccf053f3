/* SPDX-License-Identifier: BSD-2-Clause */
/* Life and state of VMs and vCPUs, as far as the two engines agree. */
#include "cpu/hw/hw_int.h"

#define SITE "hw"

/* ---- platform ---------------------------------------------------------------------------------
 */

int hw_platform_ok(const struct vmc_platform *pf, const char *site, struct vmc_error *err)
{
    if (!vmci_pf_has(pf, hw))
        return vmci_error(err, VMC_ENOTSUP, site,
                          "platform.hw is absent: no privileged instructions here");
    if (pf->hw->size < sizeof(struct vmc_hw_ops) || pf->hw->percpu == NULL ||
        pf->hw->to_phys == NULL || pf->hw->rdmsr == NULL)
        return vmci_error(err, VMC_EINVAL, site, "platform.hw is incomplete");
    if (!vmci_pf_has(pf, pages))
        return vmci_error(err, VMC_ENOTSUP, site, "platform.pages is absent");
    if (!vmci_pf_has(pf, cpu))
        return vmci_error(err, VMC_ENOTSUP, site, "platform.cpu is absent");
    return VMC_OK;
}

/* ---- VM ---------------------------------------------------------------------------------------
 */

int hw_vm_init(struct hw_vm *vm, const struct vmc_engine_vm_config *cfg,
               const struct hw_vendor *vendor, struct vmc_error *err)
{
    const struct vmc_hw_config *own = cfg->engine_config;

    if (own != NULL && own->size != sizeof(*own))
        return vmci_error(err, VMC_EINVAL, SITE, "engine_config has size %u", own->size);
    if (cfg->flags & VMC_ENGINE_VIRTUAL_TIME)
        return vmci_error(err, VMC_ENOTSUP, SITE, "a processor does not run on virtual time");
    if (cfg->max_vcpus == 0 || cfg->max_vcpus > HW_MAX_VCPUS)
        return vmci_error(err, VMC_ELIMIT, SITE, "%u vCPUs, at most %u are possible",
                          cfg->max_vcpus, HW_MAX_VCPUS);
    vm->pf = cfg->platform;
    vm->hw = cfg->platform->hw;
    vm->keeps_fpu = (vm->hw->flags & VMC_HW_KEEPS_FPU) != 0;
    vm->mem = cfg->mem;
    vm->vendor = vendor;
    vm->max_vcpus = cfg->max_vcpus;
    vm->tsc_hz = vm->pf->tsc_hz;
    vm->flags = own != NULL ? own->flags : 0;
    hw_spec_choose(vm->pf, &vm->spec);
    return VMC_OK;
}

/* ---- policy -----------------------------------------------------------------------------------
 */

static uint64_t xcr0_of(const struct hw_vm *vm)
{
    const struct vmc_cpuid_leaf *l = vmc_cpu_policy_find(&vm->policy, 0xd, 0);
    uint32_t host[4];

    vm->hw->cpuid(vm->pf->ctx, 1, 0, host);
    if ((host[2] & (1u << 26)) == 0)
        return 0;
    uint64_t want = VMC_XCR0_X87 | VMC_XCR0_SSE;
    if (vmc_cpu_policy_has(&vm->policy, "xsave") && l != NULL)
        want |= l->eax | (uint64_t)l->edx << 32;
    vm->hw->cpuid(vm->pf->ctx, 0xd, 0, host);
    want &= host[0] | (uint64_t)host[3] << 32;
    /* What does not fit the transfer format is not offered (x86_state.h). */
    return want & 0x2ffull;
}

/* The guest's clock goes on from where it is. */
static int set_tsc_rate(struct hw_vm *vm, uint64_t hz, struct vmc_error *err)
{
    uint64_t own = vm->pf->tsc_hz, mult = 0;

    if (hz != 0 && own != 0 && hz != own) {
        unsigned __int128 m =
            vm->tsc_fraction != 0 ? ((unsigned __int128)hz << vm->tsc_fraction) / own : 0;
        if (m == 0 || m >> (vm->tsc_fraction + 8) != 0) /* SVM has 8 bits before the point */
            return vmci_error(err, VMC_ENOTSUP, SITE,
                              "the policy wants a TSC of %lu Hz, this processor's runs at %lu Hz%s",
                              (unsigned long)hz, (unsigned long)own,
                              vm->tsc_fraction != 0 ? "" : " and cannot be scaled");
        mult = (uint64_t)m;
    }
    uint64_t host = vm->hw->rdtsc(vm->pf->ctx), before = hw_scale_tsc(vm, host);
    vm->tsc_hz = hz != 0 ? hz : own;
    vm->tsc_mult = mult;
    for (uint32_t i = 0; i < vm->max_vcpus; i++)
        if (vm->vcpu[i] != NULL) {
            vm->vcpu[i]->tsc_offset += (int64_t)(before - hw_scale_tsc(vm, host));
            hw_changed(vm->vcpu[i], VMC_ST_CLOCK);
        }
    return VMC_OK;
}

int hw_set_policy(void *evm, const struct vmc_cpu_policy *policy, struct vmc_error *err)
{
    struct hw_vm *vm = evm;

    if (policy->size != sizeof(*policy) || policy->count > VMC_CPUID_MAX_LEAVES)
        return vmci_error(err, VMC_EINVAL, SITE, "the CPU policy has %u entries", policy->count);
    int set = set_tsc_rate(vm, policy->tsc_hz, err);
    if (set != VMC_OK)
        return set;
    vm->policy = *policy;
    vm->xcr0_mask = xcr0_of(vm);
    hw_cpuid_index(vm);
    for (uint32_t i = 0; i < vm->max_vcpus; i++)
        if (vm->vcpu[i] != NULL) {
            int rc = vmci_emulator_set_policy(vm->vcpu[i]->emu, &vm->policy, err);
            if (rc != VMC_OK)
                return rc;
        }
    return VMC_OK;
}

/* ---- vCPU -------------------------------------------------------------------------------------
 */

void hw_vcpu_fini(struct hw_vcpu *v)
{
    if (v->vm == NULL)
        return;
    vmci_store_release(&v->vm->vcpu[v->index], (struct hw_vcpu *)NULL);
    if (!v->vm->nested)
        vmci_shadow_fini(&v->shadow);
    vmci_emulator_destroy(v->emu);
    v->emu = NULL;
    v->vm = NULL;
}

int hw_vcpu_init(struct hw_vm *vm, struct hw_vcpu *v, uint32_t index,
                 const struct vmc_engine_io *io, struct vmc_error *err)
{
    if (index >= vm->max_vcpus)
        return vmci_error(err, VMC_ELIMIT, SITE, "vCPU %u of a VM with %u", index, vm->max_vcpus);
    if (io == NULL || io->pio == NULL)
        return vmci_error(err, VMC_EINVAL, SITE, "the engine needs vmc_engine_io");
    v->io = io;
    v->index = index;
    v->last_cpu = UINT32_MAX;
    v->irq_wait = true;
    v->inflight.type = VMC_EV_NONE;
    int rc = vmci_emulator_create(vm->pf, vm->mem, index, &vm->policy, io, &v->emu, err);
    if (rc != VMC_OK)
        return rc;
    rc = vmci_emulator_get(v->emu, VMC_ST_ALL & ~(uint32_t)VMC_ST_LAPIC, &v->st);
    if (rc == VMC_OK && !vm->nested) {
        rc = vmci_shadow_init(&v->shadow, vm->pf, vm->mem, vm->hw->to_phys);
        if (rc != VMC_OK)
            (void)vmci_error(err, rc, SITE, "no memory for shadow page tables");
    }
    if (rc != VMC_OK) {
        vmci_emulator_destroy(v->emu);
        v->emu = NULL;
        return rc;
    }
    v->tsc_offset = -(int64_t)hw_scale_tsc(vm, vm->hw->rdtsc(vm->pf->ctx));
    v->vm = vm;
    if (vm->vcpu[0] != NULL)
        v->tsc_offset = vm->vcpu[0]->tsc_offset; /* all TSCs of a machine are one */
    hw_changed(v, HW_ST_EMULATE | HW_ST_RSP | VMC_ST_CLOCK | VMC_ST_FPU);
    v->todo |= HW_TODO_EVENT | HW_TODO_FPU;
    return VMC_OK;
}

void hw_vcpu_publish(struct hw_vcpu *v)
{
    vmci_store_release(&v->vm->vcpu[v->index], v);
}

/* ---- state ------------------------------------------------------------------------------------
 */

bool hw_grab(struct hw_vcpu *v)
{
    if (v->loaded)
        return false;
    return v->vm->vendor->attach(v) == VMC_OK;
}

void hw_drop(struct hw_vcpu *v, bool grabbed)
{
    if (grabbed)
        v->vm->vendor->detach(v);
}

static void need_from_outside(struct hw_vcpu *v, uint32_t groups)
{
    if ((groups & ~v->valid) == 0)
        return;
    bool grabbed = hw_grab(v);
    hw_need(v, groups);
    hw_drop(v, grabbed);
}

static void copy_groups(uint32_t groups, struct vmc_x86_state *to, const struct vmc_x86_state *from)
{
    if (groups & VMC_ST_GPR)
        memcpy(to->gpr, from->gpr, sizeof(to->gpr));
    if (groups & VMC_ST_RIP) {
        to->rip = from->rip;
        to->rflags = from->rflags;
        to->sti_shadow = from->sti_shadow;
        to->ss_shadow = from->ss_shadow;
    }
    if (groups & VMC_ST_SEG)
        memcpy(to->seg, from->seg, sizeof(to->seg));
    if (groups & VMC_ST_TABLES) {
        to->gdtr = from->gdtr;
        to->idtr = from->idtr;
    }
    if (groups & VMC_ST_CTRL) {
        to->cr0 = from->cr0;
        to->cr2 = from->cr2;
        to->cr3 = from->cr3;
        to->cr4 = from->cr4;
        to->efer = from->efer;
        to->xcr0 = from->xcr0;
        memcpy(to->pdpte, from->pdpte, sizeof(to->pdpte));
    }
    if (groups & VMC_ST_DEBUG) {
        memcpy(to->dr, from->dr, sizeof(to->dr));
        to->dr6 = from->dr6;
        to->dr7 = from->dr7;
    }
    if (groups & VMC_ST_MSR)
        to->msr = from->msr;
    if (groups & VMC_ST_EVENT) {
        to->injected = from->injected;
        to->nmi_pending = from->nmi_pending;
        to->nmi_blocked = from->nmi_blocked;
        to->smm = 0;
    }
    if (groups & VMC_ST_FPU) {
        to->xsave_bytes = from->xsave_bytes;
        memcpy(to->xsave, from->xsave, sizeof(to->xsave));
    }
    if (groups & VMC_ST_RUN) {
        to->activity = from->activity;
        to->sipi_vector = UINT32_MAX;
    }
}

/* FXSAVE knows no header: say that x87 and SSE are there. */
static void fix_xsave(struct hw_vcpu *v)
{
    if (v->vm->xcr0_mask == 0)
        v->st.xsave[XSAVE_BV] |= 3;
}

int hw_get_state(void *ev, uint32_t groups, struct vmc_x86_state *st)
{
    struct hw_vcpu *v = ev;

    if (groups == VMC_ST_LAPIC)
        return VMC_ENOTSUP;
    need_from_outside(v, (groups & HW_ST_EMULATE) | ((groups & VMC_ST_GPR) ? HW_ST_RSP : 0));
    if (groups & VMC_ST_FPU)
        fix_xsave(v);
    if (st != &v->st)
        copy_groups(groups, st, &v->st);
    if (groups & VMC_ST_CTRL)
        st->cr8 = v->io->get_tpr != NULL ? v->io->get_tpr(v->io->ctx) : 0;
    if (groups & VMC_ST_CLOCK)
        st->tsc = hw_guest_tsc(v);
    return VMC_OK;
}

/* The software CPU checks what is new together with what stays, and brings it into form. */
int hw_set_state(void *ev, uint32_t groups, const struct vmc_x86_state *st)
{
    struct hw_vcpu *v = ev;
    const uint32_t all = HW_ST_EMULATE;
    uint32_t take = groups & (all | VMC_ST_FPU);

    if (v->owed != 0)
        return VMC_ESTATE;
    need_from_outside(v, all | HW_ST_RSP);
    v->st.cr8 = v->io->get_tpr != NULL ? v->io->get_tpr(v->io->ctx) : 0;
    uint64_t adjust = v->st.msr.tsc_adjust;
    int rc = vmci_emulator_set(v->emu, all, &v->st);
    if (rc == VMC_OK && take != 0)
        rc = vmci_emulator_set(v->emu, take, st);
    if (rc == VMC_OK)
        rc = vmci_emulator_get(v->emu, take, &v->st);
    if (rc != VMC_OK)
        return rc;
    v->stashed = false;
    if (groups & VMC_ST_CLOCK) {
        v->tsc_offset += (int64_t)(st->tsc - hw_guest_tsc(v));
        hw_changed(v, VMC_ST_CLOCK);
    } else if (v->st.msr.tsc_adjust != adjust) { /* the TSC moves with it, as WRMSR does it */
        v->tsc_offset += (int64_t)(v->st.msr.tsc_adjust - adjust);
        hw_changed(v, VMC_ST_CLOCK);
    }
    hw_changed(v, take | ((take & VMC_ST_GPR) ? HW_ST_RSP : 0));
    if (take & (VMC_ST_CTRL | VMC_ST_SEG)) {
        v->todo |= HW_TODO_FLUSH;
        if (!v->vm->nested) {
            vmci_shadow_load(&v->shadow, (v->st.efer & VMC_EFER_LMA) != 0, v->st.cr3);
            vmci_shadow_flush(&v->shadow);
        }
    }
    v->irq_wait = true;
    v->todo |= HW_TODO_EVENT | HW_TODO_FPU;
    v->todo = v->st.activity != VMC_RUN_RUNNING ? v->todo | HW_TODO_IDLE : v->todo & ~HW_TODO_IDLE;
    return VMC_OK;
}

/* ---- injection --------------------------------------------------------------------------------
 */

int hw_can_inject(void *ev, const struct vmc_event *e)
{
    struct hw_vcpu *v = ev;
    const struct vmc_x86_state *st = &v->st;
    bool shadow = (st->sti_shadow | st->ss_shadow) != 0;
    bool blocked = st->injected.type != VMC_EV_NONE;

    if (e->type == VMC_EV_IRQ)
        blocked = blocked || (st->rflags & VMC_FLAG_IF) == 0 || shadow;
    if (e->type == VMC_EV_NMI)
        blocked = st->nmi_pending != 0 || st->nmi_blocked != 0 || shadow;
    return blocked ? VMC_EAGAIN : VMC_OK;
}

int hw_inject(void *ev, const struct vmc_event *e)
{
    struct hw_vcpu *v = ev;

    v->todo |= HW_TODO_EVENT;
    if (e->type == VMC_EV_NMI) {
        v->st.nmi_pending = 1;
        return VMC_OK;
    }
    int rc = hw_can_inject(ev, e);
    if (rc == VMC_OK) {
        v->st.injected = *e;
        if (v->st.activity == VMC_RUN_HALTED)
            v->st.activity = VMC_RUN_RUNNING;
    }
    return rc;
}

int hw_want_window(void *ev, bool on)
{
    struct hw_vcpu *v = ev;

    v->want_window = on;
    v->todo |= HW_TODO_EVENT;
    return VMC_OK;
}

/* ---- clock, debugger, statistics --------------------------------------------------------------
 */

int hw_read_tsc(void *ev, uint64_t *tsc, uint64_t *hz, uint64_t *clock)
{
    struct hw_vcpu *v = ev;
    const struct vmc_platform *pf = v->vm->pf;

    *tsc = hw_guest_tsc(v);
    *hz = v->vm->tsc_hz;
    if (clock != NULL)
        *clock = pf->now_ns(pf->ctx);
    return VMC_OK;
}

/*
 * With breakpoints the vCPU runs on the software CPU: exact for any number of them, and nothing of
 * it shows in the guest's debug registers.
 */
int hw_set_debug(void *ev, const struct vmc_breakpoint *bp, size_t n)
{
    struct hw_vcpu *v = ev;
    int rc = vmci_emulator_set_debug(v->emu, bp, n);

    v->debugger = rc == VMC_OK && n != 0;
    return rc;
}

size_t hw_stats(void *ev, const char **names, uint64_t *values, size_t max)
{
    static const char *const name[HW_STATS] = {
        [HW_STAT_ENTRIES] = "hw.entries",
        [HW_STAT_CPUID] = "hw.cpuid",
        [HW_STAT_IO] = "hw.io",
        [HW_STAT_MSR] = "hw.msr",
        [HW_STAT_CR] = "hw.control_regs",
        [HW_STAT_HLT] = "hw.hlt",
        [HW_STAT_HOST_IRQ] = "hw.host_irqs",
        [HW_STAT_WINDOW] = "hw.windows",
        [HW_STAT_EVENTS] = "hw.injected",
        [HW_STAT_EXCEPTION] = "hw.exceptions",
        [HW_STAT_FAULT] = "hw.memory_faults",
        [HW_STAT_MAPPED] = "hw.pages_mapped",
        [HW_STAT_BROUGHT] = "hw.pages_brought_in",
        [HW_STAT_MMIO] = "hw.mmio",
        [HW_STAT_EMULATED] = "hw.emulated",
        [HW_STAT_TIMER] = "hw.timer",
        [HW_STAT_FLUSH] = "hw.tlb_flushes",
        [HW_STAT_APIC] = "hw.apic",
        [HW_STAT_LOG_FULL] = "hw.dirty_log_full",
        [HW_STAT_OTHER] = "hw.other",
    };
    const struct hw_vcpu *v = ev;

    for (size_t i = 0; i < HW_STATS && i < max; i++) {
        names[i] = name[i];
        values[i] = v->stat[i];
    }
    return HW_STATS;
}
