/* SPDX-License-Identifier: BSD-2-Clause */
/* #VMEXIT by code (APM 2 appendix C). */
#include "cpu/hw/hw_hot.h"
#include "cpu/hw/svm_int.h"

typedef int exit_fn(struct hw_vcpu *v, struct vmc_exit *x);

static struct vmcb *vmcb_of(const struct hw_vcpu *v)
{
    return v->u.svm.vmcb;
}

/* ---- length of an instruction -----------------------------------------------------------------
 */

static bool is_prefix(uint8_t b, bool code64)
{
    return b == 0x66 || b == 0x67 || b == 0xf0 || b == 0xf2 || b == 0xf3 || (b & 0xe7) == 0x26 ||
           (b & 0xfe) == 0x64 || (code64 && (b & 0xf0) == 0x40);
}

/* Any mode, and code that crosses a page: by the general walker. */
static unsigned prefixes_slowly(struct hw_vcpu *v, bool code64)
{
    const struct vmc_x86_state *st = &v->st;
    struct vmc_paging pg;
    unsigned n = 0;

    hw_fpu_park(v); /* a page may have to be brought in */
    hw_paging(v, &pg);
    for (; n < 14; n++) {
        uint64_t la = st->rip + n;
        struct vmc_walk w;
        uint8_t b;
        if (!code64)
            la = (uint32_t)(st->seg[VMC_CS].base + la);
        if (vmc_walk_gva(v->vm->mem, &pg, la, VMC_ACC_FETCH | VMC_ACC_PROBE, &w) != VMC_OK ||
            vmc_mem_read(v->vm->mem, w.gpa, &b, 1) != VMC_OK || !is_prefix(b, code64))
            break;
    }
    return n;
}

unsigned svm_insn_len(struct hw_vcpu *v, unsigned n)
{
    struct vmcb *b = vmcb_of(v);
    uint64_t rip = v->st.rip;

    if (v->vm->caps.svm.nrips && b->nrip != 0)
        return (unsigned)(b->nrip - rip) & 15;
    bool code64 = (b->efer & VMC_EFER_LMA) != 0 && (b->cs.attr & 0x200) != 0;
    const uint8_t *p =
        likely(code64) ? hw_code_at(v, rip, v->vm->nested ? b->cr3 : v->st.cr3) : NULL;
    if (likely(p != NULL)) {
        unsigned i = 0;
        if (likely(p[0] == 0x0f))
            return n;
        while (i < 14 && is_prefix(p[i], true))
            i++;
        return i + n;
    }
    hw_need(v, VMC_ST_CTRL | VMC_ST_SEG);
    return prefixes_slowly(v, code64) + n;
}

/* ---- events under delivery --------------------------------------------------------------------
 */

/*
 * Only what we injected has to be delivered again (APM 2 15.7.2). Everything else is a fault or a
 * software interrupt: traps, #AC, #DF, #MC and physical interrupts exit before their delivery. RIP
 * is at the instruction, which is executed again and comes to the same end. So it does not matter
 * that some emulated processors say nothing about INT n here, or what they said the last time.
 */
static void take_back_event(struct hw_vcpu *v)
{
    uint64_t info = vmcb_of(v)->exit_int_info;

    if (likely(!(info & SVM_EV_VALID)))
        return;
    if (v->u.svm.inject_entry != v->stat[HW_STAT_ENTRIES] || v->u.svm.inject_rip != v->st.rip)
        return;
    struct vmc_event e = {.vector = (uint8_t)info, .type = (uint8_t)(info >> 8 & 7)};
    /* INT3 and INTO that come back to where the injected event was delivered. */
    if (e.type == VMC_EV_SOFT_INT ||
        (e.type == VMC_EV_EXCEPTION && (e.vector == VMC_VEC_BP || e.vector == VMC_VEC_OF)))
        return;
    if (info & SVM_EV_CODE) {
        e.has_code = true;
        e.code = (uint32_t)(info >> 32);
    }
    if (e.type == VMC_EV_NMI)
        v->st.nmi_blocked = 0;
    if (e.type == VMC_EV_EXCEPTION && e.vector == VMC_VEC_PF)
        e.payload = vmcb_of(v)->cr2;
    v->st.injected = e;
    v->todo |= HW_TODO_EVENT;
}

/* ---- handlers ---------------------------------------------------------------------------------
 */

static int reflect_db(struct hw_vcpu *v, struct vmc_exit *x)
{
    int r = hw_raise(v, VMC_VEC_DB, false, 0, x);

    if (r == HW_RESUME)
        v->st.injected.payload = v->st.dr6 & 0xe00full;
    return r;
}

static int on_exception(struct hw_vcpu *v, struct vmc_exit *x)
{
    struct vmcb *b = vmcb_of(v);
    unsigned vector = (unsigned)(b->exit_code - SVM_EXC) & 31;

    take_back_event(v);
    switch (vector) {
    case VMC_VEC_MC:
        v->vm->hw->raise(hw_ctx(v), VMC_VEC_MC);
        return HW_RESUME;
    case VMC_VEC_NMI: /* not an exception: never intercepted as one */
        return HW_RESUME;
    case VMC_VEC_PF:
        return hw_on_page_fault(v, b->exit_info2, (uint32_t)b->exit_info1, x);
    case VMC_VEC_DB:
        v->st.dr6 = b->dr6; /* the processor has set it */
        v->st.dr7 = b->dr7;
        return reflect_db(v, x);
    case VMC_VEC_DF:
        /*
         * Delivered by the software CPU: a triple fault is then seen on every processor. (Some
         * emulated ones do not report it as SHUTDOWN.)
         */
        v->st.injected =
            (struct vmc_event){.vector = VMC_VEC_DF, .type = VMC_EV_EXCEPTION, .has_code = true};
        return hw_emulate(v, 1, x);
    default:
        return hw_raise(v, vector, vector == VMC_VEC_AC, (uint32_t)b->exit_info1, x);
    }
}

static int on_host_irq(struct hw_vcpu *v, struct vmc_exit *x)
{
    (void)x;
    hw_host_irq(v);
    take_back_event(v);
    return HW_RESUME; /* taken when STGI opened the gate */
}

static int on_nothing(struct hw_vcpu *v, struct vmc_exit *x)
{
    (void)x;
    v->stat[HW_STAT_OTHER]++;
    return HW_RESUME;
}

static int on_window(struct hw_vcpu *v, struct vmc_exit *x)
{
    (void)x;
    v->stat[HW_STAT_WINDOW]++;
    v->irq_wait = true;
    v->todo |= HW_TODO_EVENT;
    return HW_RESUME;
}

static int on_emulate(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_emulate(v, 1, x);
}

static int on_emulate_system(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_emulate_system(v, x);
}

static int on_task_switch(struct hw_vcpu *v, struct vmc_exit *x)
{
    take_back_event(v);
    return hw_emulate_system(v, x);
}

static int on_undefined(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_raise(v, VMC_VEC_UD, false, 0, x);
}

static inline __attribute__((always_inline)) int on_cpuid(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_on_cpuid(v, svm_insn_len(v, 2), x);
}

static int on_hlt(struct hw_vcpu *v, struct vmc_exit *x)
{
    (void)x;
    return hw_on_hlt(v, svm_insn_len(v, 1));
}

static int on_cache(struct hw_vcpu *v, struct vmc_exit *x)
{
    (void)x;
    v->stat[HW_STAT_OTHER]++;
    hw_skip(v, svm_insn_len(v, 2));
    return HW_RESUME;
}

static int on_vmmcall(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_on_hypercall(v, svm_insn_len(v, 3), x);
}

static int on_msr(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_on_msr(v, vmcb_of(v)->exit_info1 != 0, svm_insn_len(v, 2), x);
}

static unsigned io_len(const struct hw_vcpu *v)
{
    return (unsigned)(vmcb_of(v)->exit_info2 - v->st.rip) & 15;
}

static __attribute__((noinline)) int leave_for_io(struct hw_vcpu *v, struct vmc_exit *x)
{
    uint64_t i = vmcb_of(v)->exit_info1;

    return hw_leave_for_pio(v, (i & SVM_IO_IN) == 0, (uint16_t)(i >> 16), SVM_IO_SIZE(i), io_len(v),
                            x);
}

static inline __attribute__((always_inline)) int on_io(struct hw_vcpu *v, struct vmc_exit *x)
{
    uint64_t i = vmcb_of(v)->exit_info1;

    v->stat[HW_STAT_IO]++;
    if (unlikely((i & SVM_IO_STR) || SVM_IO_SIZE(i) == 0))
        return hw_emulate(v, 1, x);
    bool done = (i & SVM_IO_IN) != 0 ? hw_pio(v, false, (uint16_t)(i >> 16), SVM_IO_SIZE(i))
                                     : hw_pio(v, true, (uint16_t)(i >> 16), SVM_IO_SIZE(i));
    if (unlikely(!done))
        return leave_for_io(v, x);
    hw_skip(v, io_len(v));
    return HW_RESUME;
}

/* After IRET NMIs are open again; the software CPU executes it and says so. */
static int on_iret(struct hw_vcpu *v, struct vmc_exit *x)
{
    int r = hw_emulate(v, 1, x);

    if (v->st.nmi_blocked == 0)
        hw_changed(v, VMC_ST_EVENT);
    v->todo |= HW_TODO_EVENT;
    return r;
}

/* With decode assists a MOV is known, and its register; else the software CPU finds out. */
static bool cr_mov(const struct hw_vcpu *v, unsigned *gpr)
{
    uint64_t i = vmcb_of(v)->exit_info1;

    *gpr = SVM_CR_GPR(i);
    return v->vm->caps.svm.decode && (i & SVM_CR_MOV) != 0;
}

/* CR0, CR3 and CR4 under shadow paging: the processor's are not the guest's. */
static int on_cr_read(struct hw_vcpu *v, struct vmc_exit *x)
{
    unsigned cr = (unsigned)(vmcb_of(v)->exit_code - SVM_CR_READ), gpr;

    if (v->vm->nested || !cr_mov(v, &gpr) || (cr != 0 && cr != 3 && cr != 4))
        return hw_emulate(v, 1, x);
    uint64_t value = cr == 0 ? v->st.cr0 : cr == 3 ? v->st.cr3 : v->st.cr4;
    return hw_on_read_cr(v, value, gpr, svm_insn_len(v, 3));
}

static int on_invlpg(struct hw_vcpu *v, struct vmc_exit *x)
{
    const struct svm_caps *c = &v->vm->caps.svm;

    /* Without next RIP the length would take as long as the whole instruction. */
    if (v->vm->nested || !c->decode || !c->nrips || vmcb_of(v)->nrip == 0)
        return hw_emulate_system(v, x);
    return hw_on_invlpg(v, vmcb_of(v)->exit_info1, svm_insn_len(v, 3));
}

static int on_cr_write(struct hw_vcpu *v, struct vmc_exit *x)
{
    unsigned gpr;

    if (vmcb_of(v)->exit_code == SVM_CR_WRITE + 3 && !v->vm->nested && cr_mov(v, &gpr))
        return hw_on_mov_cr3(v, gpr, svm_insn_len(v, 3), x);
    if (vmcb_of(v)->exit_code == SVM_CR_WRITE + 8) {
        int r = hw_emulate(v, 1, x);
        v->irq_wait = true;
        v->todo |= HW_TODO_EVENT;
        return r;
    }
    return hw_emulate_system(v, x);
}

static int on_shutdown(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_shutdown(v, x);
}

static int on_npf(struct hw_vcpu *v, struct vmc_exit *x)
{
    uint64_t code = vmcb_of(v)->exit_info1;
    uint32_t want = (code & VMC_PF_WRITE)   ? VMCI_SLAT_W
                    : (code & VMC_PF_FETCH) ? VMCI_SLAT_X
                                            : VMCI_SLAT_R;

    take_back_event(v);
    return hw_on_gpa_fault(v, vmcb_of(v)->exit_info2, want, x);
}

static int on_invalid(struct hw_vcpu *v, struct vmc_exit *x)
{
    struct vmc_error err = {.text = "every check that we know passes"};
    uint32_t r[4];

    v->vm->hw->cpuid(hw_ctx(v), 0x80000008u, 0, r);
    (void)svm_check(vmcb_of(v), r[0] & 0xff, &err);
    vmci_log(v->vm->pf, VMC_LOG_ERROR, "svm", "vCPU %u: VMRUN refuses the VMCB: %s", v->index,
             err.text);
    hw_set_exit(v, x, VMC_EXIT_FAIL_ENTRY);
    x->u.stop.detail = SVM_INVALID;
    return HW_LEAVE;
}

static exit_fn *const table[SVM_EXITS] = {
    [SVM_CR_READ... SVM_CR_READ + 15] = on_cr_read,
    [SVM_CR_WRITE... SVM_CR_WRITE + 15] = on_cr_write,
    [SVM_DR_READ... SVM_DR_READ + 15] = on_emulate,
    [SVM_DR_WRITE... SVM_DR_WRITE + 15] = on_emulate,
    [SVM_EXC... SVM_EXC + 31] = on_exception,
    [SVM_INTR] = on_host_irq,
    [SVM_NMI] = on_host_irq,
    [SVM_SMI] = on_nothing,
    [SVM_INIT] = on_nothing,
    [SVM_VINTR] = on_window,
    [SVM_CR0_SEL] = on_emulate_system,
    [SVM_RDTSC] = on_emulate,
    [SVM_RDPMC] = on_emulate,
    [SVM_CPUID] = on_cpuid,
    [SVM_RSM] = on_undefined,
    [SVM_IRET] = on_iret,
    [SVM_INVD] = on_cache,
    [SVM_PAUSE] = on_nothing,
    [SVM_HLT] = on_hlt,
    [SVM_INVLPG] = on_invlpg,
    [SVM_INVLPGA] = on_undefined,
    [SVM_IOIO] = on_io,
    [SVM_MSR] = on_msr,
    [SVM_TASK] = on_task_switch,
    [SVM_FERR] = on_nothing,
    [SVM_SHUTDOWN] = on_shutdown,
    [SVM_VMRUN] = on_undefined,
    [SVM_VMMCALL] = on_vmmcall,
    [SVM_VMLOAD] = on_undefined,
    [SVM_VMSAVE] = on_undefined,
    [SVM_STGI] = on_undefined,
    [SVM_CLGI] = on_undefined,
    [SVM_SKINIT] = on_undefined,
    [SVM_RDTSCP] = on_emulate,
    [SVM_ICEBP] = on_emulate,
    [SVM_WBINVD] = on_cache,
    [SVM_MONITOR] = on_emulate,
    [SVM_MWAIT] = on_emulate,
    [SVM_MWAIT_ARMED] = on_emulate,
    [SVM_XSETBV] = on_emulate,
    [SVM_RDPRU] = on_undefined,
    [SVM_INVLPGB] = on_undefined,
    [SVM_INVPCID] = on_emulate_system,
    [SVM_TLBSYNC] = on_undefined,
};

int svm_handle(struct hw_vcpu *v, struct vmc_exit *x)
{
    struct vmcb *b = vmcb_of(v);
    uint32_t code = (uint32_t)b->exit_code;
    int r;

    if (code < SVM_EXITS && likely(table[code] != NULL)) {
        r = table[vmci_nospec_index(code, SVM_EXITS)](v, x);
    } else if (code == SVM_NPF) {
        r = on_npf(v, x);
    } else if (code == SVM_INVALID) {
        r = on_invalid(v, x);
    } else {
        hw_set_exit(v, x, VMC_EXIT_FAIL_ENTRY);
        x->u.stop.detail = code;
        r = HW_LEAVE;
    }
    if (unlikely(r == HW_LEAVE)) {
        x->raw.reason = code;
        x->raw.info[0] = b->exit_info1;
        x->raw.info[1] = b->exit_info2;
    }
    return r;
}

/* ---- enter ------------------------------------------------------------------------------------
 */

/* The exit after an entry with an event. */
static __attribute__((noinline)) void after_event(struct hw_vcpu *v)
{
    struct vmcb *b = vmcb_of(v);

    if (v->u.svm.offered && (b->v_irq & SVM_V_IRQ) != 0) {
        svm_take_back(v);
        return;
    }
    if (v->u.svm.offered && (v->irq_wait || v->want_window || v->st.nmi_pending != 0))
        v->todo |= HW_TODO_EVENT; /* there was no window for what comes next */
    v->u.svm.offered = false;
    v->inflight.type = VMC_EV_NONE;
    b->event_inj = 0;
}

static inline __attribute__((always_inline)) int enter_once(struct hw_vcpu *v, struct vmc_exit *x)
{
    struct vmcb *b = v->u.svm.vmcb;

    v->stat[HW_STAT_ENTRIES]++;
    if (unlikely(v->u.svm.step_over)) {
        v->u.svm.step_over = false;
        v->todo |= HW_TODO_EVENT;
        return hw_emulate(v, 1, x);
    }
    b->rip = v->st.rip;
    b->rax = v->st.gpr[VMC_RAX];
    __atomic_store_n(&v->in_guest, 1u, __ATOMIC_SEQ_CST);
    int r = v->vm->hw->svm_run(hw_ctx(v), &v->u.svm.frame);
    vmci_store_release(&v->in_guest, 0u);
    if (unlikely(r != VMC_HW_EXITED)) { /* a request came first */
        if (v->inflight.type != VMC_EV_NONE)
            svm_take_back(v);
        return HW_RESUME;
    }
    v->valid &= ~HW_ST_GUEST;
    b->tlb_control = SVM_TLB_KEEP;
    b->clean = v->u.svm.clean;
    if (unlikely(v->inflight.type != VMC_EV_NONE))
        after_event(v);
    v->st.gpr[VMC_RAX] = b->rax;
    v->st.rip = b->rip;
    v->st.rflags = b->rflags;
    v->st.sti_shadow = b->interrupt_shadow & 1;
    v->st.ss_shadow = 0;
    if ((uint32_t)b->exit_code == SVM_CPUID)
        return on_cpuid(v, x);
    if ((uint32_t)b->exit_code == SVM_IOIO)
        return on_io(v, x);
    return svm_handle(v, x);
}

int svm_enter(struct hw_vcpu *v, struct vmc_exit *x)
{
    int r;

    do
        r = enter_once(v, x);
    while (likely(r == HW_RESUME) && hw_again(v));
    return r;
}
