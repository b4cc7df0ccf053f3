/* SPDX-License-Identifier: BSD-2-Clause */
/* The run loop of both engines. What it does before every entry is kept to two words: stop and
 * todo. */
#include "cpu/hw/hw_hot.h"

/* Instructions that the software CPU runs between two looks at events and the clock. */
#define SOFT_SLICE 256u
#define NS_PER_S   1000000000u

void hw_set_exit(struct hw_vcpu *v, struct vmc_exit *x, uint32_t kind)
{
    memset(x, 0, sizeof(*x));
    x->kind = kind;
    x->rip = v->st.rip;
    x->raw.vendor = v->vm->vendor->id;
}

/* ---- requests of other threads --------------------------------------------------------------- */

static void request(struct hw_vcpu *v, uint32_t bits)
{
    __atomic_fetch_or(&v->stop, bits, __ATOMIC_SEQ_CST);
    /* Either this sees in_guest, or the entry path sees stop. */
    if (__atomic_load_n(&v->in_guest, __ATOMIC_SEQ_CST) != 0) {
        const struct vmc_platform *pf = v->vm->pf;
        pf->cpu->interrupt(pf->ctx, vmci_load_relaxed(&v->cpu));
    }
}

void hw_kick(void *ev)
{
    request(ev, HW_REQ_KICK);
}

void hw_irq_notify(void *ev)
{
    struct hw_vcpu *v = ev;

    /* Into the guest, if it is running. */
    if (vmci_load_relaxed(&v->posting) && __atomic_load_n(&v->in_guest, __ATOMIC_SEQ_CST) != 0 &&
        v->vm->vendor->post(v))
        return;
    request(v, HW_REQ_IRQ);
}

void hw_shootdown(struct hw_vm *vm)
{
    for (uint32_t i = 0; i < vm->max_vcpus; i++) {
        struct hw_vcpu *v = vmci_load_acquire(&vm->vcpu[i]);
        if (v != NULL)
            request(v, HW_REQ_FLUSH);
    }
    /* Whoever is seen outside the guest, once, looks at the request before it goes in again. */
    for (uint32_t i = 0; i < vm->max_vcpus; i++) {
        struct hw_vcpu *v = vmci_load_acquire(&vm->vcpu[i]);
        while (v != NULL && __atomic_load_n(&v->in_guest, __ATOMIC_SEQ_CST) != 0)
            vmci_cpu_relax();
    }
}

static int take_requests(struct hw_vcpu *v, struct vmc_exit *x)
{
    uint32_t req = vmci_exchange(&v->stop, 0u);

    if (req & HW_REQ_FLUSH) {
        v->stat[HW_STAT_FLUSH]++;
        if (!v->vm->nested)
            vmci_shadow_flush(&v->shadow);
        v->todo |= HW_TODO_FLUSH;
    }
    if (req & HW_REQ_IRQ) {
        v->irq_wait = true;
        v->todo |= HW_TODO_EVENT;
    }
    if (req & HW_REQ_KICK) {
        hw_set_exit(v, x, VMC_EXIT_KICKED);
        return HW_LEAVE;
    }
    return HW_RESUME;
}

/* ---- events ---------------------------------------------------------------------------------- */

static bool irqs_open(const struct hw_vcpu *v)
{
    return v->st.injected.type == VMC_EV_NONE && (v->st.rflags & VMC_FLAG_IF) != 0 &&
           !hw_shadowed(v);
}

/* Highest vector that waits, or -1; a no is remembered until somebody notifies. */
static int pending_irq(struct hw_vcpu *v)
{
    if (!v->irq_wait || v->io == NULL || v->io->irq_pending == NULL)
        return -1;
    hw_callback(v);
    v->vm->vendor->tpr_out(v);
    int vector = v->io->irq_pending(v->io->ctx);
    if (vector < 0)
        v->irq_wait = false;
    return vector;
}

/* Accept the interrupt that is due, unless it is the local APIC's and the processor does that. */
static void pick_irq(struct hw_vcpu *v, bool by_software)
{
    struct vmc_x86_state *st = &v->st;
    int vector = pending_irq(v);

    if (vector > 0 && v->delivers && !by_software) {
        st->activity = VMC_RUN_RUNNING;
        return;
    }
    if (vector >= 0)
        vector = v->io->irq_ack(v->io->ctx);
    if (vector >= 0)
        st->injected = (struct vmc_event){.vector = (uint8_t)vector, .type = VMC_EV_IRQ};
}

/* Choose the event that comes next (SDM 3A table 6-2); it is left in st.injected. */
static void pick_event(struct hw_vcpu *v, bool by_software)
{
    struct vmc_x86_state *st = &v->st;

    if (st->injected.type != VMC_EV_NONE)
        return;
    if (st->nmi_pending != 0 && st->nmi_blocked == 0 && !hw_shadowed(v)) {
        st->nmi_pending--;
        st->injected = (struct vmc_event){.vector = VMC_VEC_NMI, .type = VMC_EV_NMI};
    } else if (irqs_open(v)) {
        pick_irq(v, by_software);
    }
    if (st->injected.type != VMC_EV_NONE)
        st->activity = VMC_RUN_RUNNING;
}

/* What an exception does beside going through the IDT. */
static void side_effects(struct hw_vcpu *v, const struct vmc_event *e)
{
    if (e->type != VMC_EV_EXCEPTION)
        return;
    if (e->vector == VMC_VEC_PF && e->payload != v->st.cr2) {
        hw_need(v, VMC_ST_CTRL);
        v->st.cr2 = e->payload;
        hw_changed(v, VMC_ST_CTRL);
    } else if (e->vector == VMC_VEC_DB) {
        v->st.dr6 = (v->st.dr6 & ~0xfull) | e->payload;
        v->st.dr7 &= ~VMC_DR7_GD;
        hw_changed(v, VMC_ST_DEBUG);
        if (v->st.msr.debugctl != 0) {
            hw_need(v, VMC_ST_MSR);
            v->st.msr.debugctl &= ~(VMC_DEBUGCTL_LBR | VMC_DEBUGCTL_BTF);
            hw_changed(v, VMC_ST_MSR);
        }
    }
}

static void hand_over_event(struct hw_vcpu *v)
{
    struct vmc_x86_state *st = &v->st;

    if (st->injected.type != VMC_EV_NONE) {
        side_effects(v, &st->injected);
        v->inflight = st->injected;
        st->injected.type = VMC_EV_NONE;
        v->vm->vendor->inject(v, &v->inflight);
        v->stat[HW_STAT_EVENTS]++;
    }
    int vector = pending_irq(v);
    v->vm->vendor->tpr_in(v); /* says who delivers */
    bool more =
        v->delivers ? vector == 0 : vector >= 0; /* 0: the 8259's, nobody else delivers it */
    v->vm->vendor->windows(v, more || v->want_window, st->nmi_pending != 0);
}

/* ---- before an entry ------------------------------------------------------------------------- */

static int on_idle(struct hw_vcpu *v, struct vmc_exit *x)
{
    struct vmc_x86_state *st = &v->st;

    if (st->activity == VMC_RUN_HALTED)
        pick_event(v, false);
    if (st->activity == VMC_RUN_RUNNING) {
        v->todo = (v->todo & ~HW_TODO_IDLE) | HW_TODO_EVENT;
        return HW_RESUME;
    }
    if (st->activity == VMC_RUN_SHUTDOWN)
        return hw_shutdown(v, x);
    hw_set_exit(v, x, VMC_EXIT_IDLE);
    x->u.idle.why = st->activity == VMC_RUN_HALTED ? VMC_IDLE_HLT : VMC_IDLE_WAIT_SIPI;
    x->u.idle.irqs_on = (st->rflags & VMC_FLAG_IF) != 0;
    x->u.idle.deadline_ns = UINT64_MAX;
    return HW_LEAVE;
}

/* A slice by the software CPU: a state the processor cannot run, or somebody watches. */
static int soft_slice(struct hw_vcpu *v, struct vmc_exit *x)
{
    pick_event(v, true);
    v->todo &= ~(HW_TODO_EVENT | HW_TODO_SOFT);
    int r = hw_emulate(v, v->step ? 1 : SOFT_SLICE, x);
    if (v->irq_wait)
        v->todo |= HW_TODO_EVENT;
    if (!v->vm->nested) {
        vmci_shadow_load(&v->shadow, (v->st.efer & VMC_EFER_LMA) != 0, v->st.cr3);
        vmci_shadow_flush(&v->shadow);
        v->todo |= HW_TODO_FLUSH;
    }
    if (r == HW_RESUME && v->step) {
        hw_set_exit(v, x, VMC_EXIT_BUDGET);
        return HW_LEAVE;
    }
    return r;
}

static void unpark_fpu(struct hw_vcpu *v)
{
    const struct vmc_hw_ops *hw = v->vm->hw;

    if (v->vm->xcr0_mask != 0) {
        /* Saved under an earlier policy, or from outside: XRSTOR faults on components it may not
           load. */
        uint64_t bv = vmci_ld_le64(v->st.xsave + XSAVE_BV);
        vmci_st_le64(v->st.xsave + XSAVE_BV, bv & v->vm->xcr0_mask);
        hw->write_xcr0(hw_ctx(v), v->vm->xcr0_mask);
        hw->fpu_load(hw_ctx(v), v->st.xsave, v->vm->xcr0_mask);
        if (v->st.xcr0 != v->vm->xcr0_mask)
            hw->write_xcr0(hw_ctx(v), v->st.xcr0);
    } else {
        hw->fpu_load(hw_ctx(v), v->st.xsave, 0);
    }
    v->fpu_live = true;
}

/* Where guests change XCR0 without an exit; else st has it. */
void hw_pull_xcr0(struct hw_vcpu *v)
{
    if (v->vm->own_xcr0 && v->fpu_live && v->vm->xcr0_mask != 0)
        v->st.xcr0 = v->vm->hw->read_xcr0(hw_ctx(v)) & v->vm->xcr0_mask;
}

void hw_fpu_park(struct hw_vcpu *v)
{
    const struct vmc_hw_ops *hw = v->vm->hw;

    if (!v->fpu_live)
        return;
    uint64_t host = hw_percpu(v->vm->pf)->xcr0;
    hw_pull_xcr0(v);
    v->fpu_live = false;
    v->todo |= HW_TODO_FPU;
    if (v->vm->xcr0_mask != 0 && v->st.xcr0 != v->vm->xcr0_mask)
        hw->write_xcr0(hw_ctx(v), v->vm->xcr0_mask);
    hw->fpu_save(hw_ctx(v), v->st.xsave, v->vm->xcr0_mask);
    /* Software CPUs, also those of VMs with another CPU model, use all that the host has. */
    if (v->vm->xcr0_mask != 0 && host != 0 && host != v->vm->xcr0_mask)
        hw->write_xcr0(hw_ctx(v), host);
}

/* Everything that todo says. RESUME: the guest can be entered, or the loop is to look again. */
static int prepare(struct hw_vcpu *v, struct vmc_exit *x, bool *again)
{
    const struct hw_vendor *vd = v->vm->vendor;

    *again = false;
    if (v->todo & HW_TODO_IDLE) {
        *again = true;
        return on_idle(v, x);
    }
    if ((v->todo & HW_TODO_PUSH) && !v->debugger && !v->step && !vd->runnable(v))
        v->todo |= HW_TODO_SOFT;
    if (v->want_window && irqs_open(v)) {
        hw_set_exit(v, x, VMC_EXIT_IRQ_WINDOW);
        return HW_LEAVE;
    }
    if (v->todo & (HW_TODO_SOFT | HW_TODO_DEBUG)) {
        *again = true;
        return soft_slice(v, x);
    }
    if (v->todo & HW_TODO_EVENT) {
        v->todo &= ~HW_TODO_EVENT;
        pick_event(v, false);
        hand_over_event(v);
    }
    if (v->todo & HW_TODO_PUSH) {
        uint32_t dirty = v->dirty;
        v->dirty = 0;
        v->todo &= ~HW_TODO_PUSH;
        vd->push(v, dirty);
    }
    if (v->todo & HW_TODO_FLUSH) {
        v->todo &= ~HW_TODO_FLUSH;
        vd->flush_tlb(v);
    }
    if (v->todo & HW_TODO_FPU) {
        v->todo &= ~HW_TODO_FPU;
        unpark_fpu(v);
    }
    return HW_RESUME;
}

/* The TSC is read first: who is held up between the two readings looks too early, not too late. */
static void set_deadline(struct hw_vcpu *v, uint64_t deadline_ns)
{
    const struct vmc_platform *pf = v->vm->pf;

    v->deadline_ns = deadline_ns;
    v->deadline_tsc = 0;
    if (deadline_ns == 0 || pf->tsc_hz == 0)
        return;
    uint64_t tsc = v->vm->hw->rdtsc(pf->ctx);
    uint64_t now = pf->now_ns(pf->ctx);
    uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
    unsigned __int128 ticks = (unsigned __int128)left * pf->tsc_hz / NS_PER_S;
    uint64_t capped = ticks > INT64_MAX / 2 ? (uint64_t)INT64_MAX / 2 : (uint64_t)ticks;
    v->deadline_tsc = tsc + capped;
    if (v->deadline_tsc == 0)
        v->deadline_tsc = 1;
}

/* The TSC says so, which is set anew if the clock does not agree. */
static bool deadline_reached(struct hw_vcpu *v)
{
    const struct vmc_platform *pf = v->vm->pf;

    if (v->deadline_tsc == 0 || pf->now_ns(pf->ctx) >= v->deadline_ns)
        return true;
    set_deadline(v, v->deadline_ns);
    v->timer_left = v->deadline_tsc - v->vm->hw->rdtsc(pf->ctx);
    if ((int64_t)v->timer_left < 0) /* it is over by now */
        v->timer_left = 0;
    return false;
}

static int turn(struct hw_vcpu *v, struct vmc_exit *x)
{
    bool again;

    if (unlikely(vmci_load_relaxed(&v->stop) != 0)) {
        int r = take_requests(v, x);
        if (r != HW_RESUME)
            return r;
    }
    if (hw_past_deadline(v) && deadline_reached(v)) {
        hw_set_exit(v, x, VMC_EXIT_BUDGET);
        return HW_LEAVE;
    }
    if (unlikely(v->todo != 0)) {
        int r = prepare(v, x, &again);
        if (r != HW_RESUME || again)
            return r;
    }
    return v->vm->vendor->enter(v, x);
}

/*
 * The host has taken an interrupt that ended the guest. If that was its timer, and a little early,
 * there has to be another.
 */
void hw_host_irq(struct hw_vcpu *v)
{
    const struct vmc_hw_ops *hw = v->vm->hw;

    v->stat[HW_STAT_HOST_IRQ]++;
    if (v->deadline_ns != 0 && hw->timer != NULL)
        hw->timer(hw_ctx(v), v->deadline_ns);
}

/* ---- run ------------------------------------------------------------------------------------- */

/* The processor is this vCPU's until the end of run. */
static int begin(struct hw_vcpu *v)
{
    const struct vmc_platform *pf = v->vm->pf;
    struct hw_percpu *pc = hw_percpu(pf);

    if (pc == NULL || pc->kind == VMC_HW_NONE)
        return VMC_ESTATE; /* vmc_hw_cpu_up was not called here */
    uint32_t cpu = pf->cpu->this_cpu(pf->ctx);
    vmci_store_relaxed(&v->cpu, cpu);
    hw_spec_switch(v, pc);
    int rc = v->vm->vendor->load(v);
    if (rc != VMC_OK)
        return rc;
    v->loaded = true;
    if (v->last_cpu != cpu || v->tag_generation != pc->tags.generation || pc->tags.max == 0) {
        hw_tag_new(v, pc);
        v->todo |= HW_TODO_FLUSH;
    }
    v->last_cpu = cpu;
    pc->last = v;
    v->todo |= HW_TODO_FPU | HW_TODO_EVENT;
    return VMC_OK;
}

static void end(struct hw_vcpu *v)
{
    hw_fpu_park(v);
    v->vm->vendor->tpr_out(v);
    v->vm->vendor->unload(v);
    v->loaded = false;
}

int hw_run(void *ev, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    struct hw_vcpu *v = ev;
    const struct vmc_hw_ops *hw = v->vm->hw;

    if (v->owed != 0)
        return VMC_ESTATE;
    if (lim->max_insns > 1)
        return VMC_ENOTSUP;
    if (v->stashed) {
        v->stashed = false;
        v->owed = v->stash_owed;
        *out = v->stash;
        return VMC_OK;
    }
    v->exit_mask = lim->exit_mask;
    v->step = lim->max_insns == 1;
    v->todo = (v->todo & ~HW_TODO_DEBUG) | (v->step || v->debugger ? HW_TODO_DEBUG : 0);
    if (!v->step && !v->debugger)
        v->todo |= HW_TODO_PUSH; /* runnable is asked again after a step */
    set_deadline(v, lim->deadline_ns);
    int rc = begin(v);
    if (rc != VMC_OK)
        return rc;
    if (lim->deadline_ns != 0 && hw->timer != NULL)
        hw->timer(hw_ctx(v), lim->deadline_ns);
    do {
        rc = turn(v, out);
    } while (rc == HW_RESUME);
    if (lim->deadline_ns != 0 && hw->timer != NULL)
        hw->timer(hw_ctx(v), 0);
    end(v);
    return rc < 0 ? rc : VMC_OK;
}

/* ---- completion ------------------------------------------------------------------------------ */

static void answer_in(struct hw_vcpu *v, const struct vmc_exit *x)
{
    uint64_t *rax = &v->st.gpr[VMC_RAX];

    if (x->u.io.write)
        return;
    if (x->u.io.bytes == 1)
        *rax = (*rax & ~0xffull) | (x->u.io.data & 0xff);
    else if (x->u.io.bytes == 2)
        *rax = (*rax & ~0xffffull) | (x->u.io.data & 0xffff);
    else
        *rax = x->u.io.data;
}

static void answer(struct hw_vcpu *v, const struct vmc_exit *x)
{
    uint64_t *g = v->st.gpr;

    switch (x->kind) {
    case VMC_EXIT_IO:
        answer_in(v, x);
        break;
    case VMC_EXIT_MSR:
        if (!x->u.msr.write) {
            g[VMC_RAX] = (uint32_t)x->u.msr.value;
            g[VMC_RDX] = x->u.msr.value >> 32;
        }
        break;
    case VMC_EXIT_HYPERCALL:
        g[VMC_RAX] = x->u.hypercall.ret;
        break;
    case VMC_EXIT_CPUID:
        g[VMC_RAX] = x->u.cpuid.eax;
        g[VMC_RBX] = x->u.cpuid.ebx;
        g[VMC_RCX] = x->u.cpuid.ecx;
        g[VMC_RDX] = x->u.cpuid.edx;
        break;
    default:
        break;
    }
    hw_skip(v, v->insn_len);
}

/* The emulator's instruction goes on; what else it wants is kept for the next run. */
static int resume_emulator(struct hw_vcpu *v, const struct vmc_exit *done)
{
    int rc = vmci_emulate_complete(v->emu, done);

    if (rc != VMC_OK)
        return rc;
    rc = hw_emulate(v, 1, &v->stash);
    v->stashed = rc == HW_LEAVE;
    v->stash_owed = v->owed;
    v->owed = 0; /* run reports it first */
    return rc < 0 ? rc : VMC_OK;
}

int hw_complete(void *ev, const struct vmc_exit *done)
{
    struct hw_vcpu *v = ev;
    struct vmc_exit x;

    if (v->owed == 0 || v->owed != done->kind)
        return VMC_ESTATE;
    v->owed = 0;
    if (v->owed_emulator) {
        v->owed_emulator = false;
        return resume_emulator(v, done);
    }
    if (done->answer == VMC_ANSWER_GP)
        return hw_raise(v, VMC_VEC_GP, true, 0, &x) < 0 ? VMC_EHOST : VMC_OK;
    if (done->answer == VMC_ANSWER_UD)
        return hw_raise(v, VMC_VEC_UD, false, 0, &x) < 0 ? VMC_EHOST : VMC_OK;
    answer(v, done);
    return VMC_OK;
}
