/* SPDX-License-Identifier: BSD-2-Clause */
/* VM exits by basic reason (SDM 3C 26.1, 28.2; 3D appendix C). */
#include "cpu/hw/hw_hot.h"
#include "cpu/hw/vmx_int.h"

typedef int exit_fn(struct hw_vcpu *v, struct vmc_exit *x);

static struct vmc_hw_vmx_frame *frame_of(struct hw_vcpu *v)
{
    return &v->u.vmx.frame;
}

/* ---- events under delivery --------------------------------------------------------------------
 */

/* An exit that came while an event was being delivered: deliver it again (SDM 3C 28.2.4). */
static void take_back_event(struct hw_vcpu *v)
{
    uint32_t info = (uint32_t)frame_of(v)->idt_info;

    if (likely(!(info & INTR_VALID)))
        return;
    struct vmc_event e = {.vector = (uint8_t)info, .type = (uint8_t)INTR_TYPE(info)};
    if (unlikely(v->delivers) && vmx_apic_was_delivering(v, &e.vector)) {
        e.type = VMC_EV_IRQ;
        info &= ~INTR_CODE;
    }
    if (info & INTR_CODE) {
        e.has_code = true;
        e.code = (uint32_t)vmx_read(v, VMCS_IDT_CODE);
    }
    if (e.type >= VMC_EV_SOFT_INT)
        e.insn_len = (uint8_t)frame_of(v)->insn_len;
    if (e.type == VMC_EV_NMI)
        v->st.nmi_blocked = 0; /* its delivery set it */
    if (e.type == VMC_EV_EXCEPTION && e.vector == VMC_VEC_PF) {
        hw_need(v, VMC_ST_CTRL);
        e.payload = v->st.cr2;
    }
    v->st.injected = e;
    hw_changed(v, VMC_ST_EVENT);
    v->todo |= HW_TODO_EVENT;
}

/* IRET had unblocked NMIs before its exit (SDM 3C 28.2.3): they are blocked again. */
static void block_nmi_again(struct hw_vcpu *v, bool unblocked)
{
    if (unblocked && v->st.injected.type == VMC_EV_NONE) {
        v->st.nmi_blocked = 1;
        hw_changed(v, VMC_ST_EVENT);
    }
}

/* ---- handlers ---------------------------------------------------------------------------------
 */

static int reflect_db(struct hw_vcpu *v, uint32_t info, struct vmc_exit *x)
{
    uint64_t bits = frame_of(v)->qualification & 0xe00full;

    int r = hw_raise(v, VMC_VEC_DB, false, 0, x);
    if (r != HW_RESUME)
        return r;
    v->st.injected.payload = bits;
    if (INTR_TYPE(info) == VMC_EV_PRIV_SOFT_EXC) { /* INT1 */
        v->st.injected.type = VMC_EV_PRIV_SOFT_EXC;
        v->st.injected.insn_len = (uint8_t)frame_of(v)->insn_len;
    }
    return HW_RESUME;
}

static int on_exception(struct hw_vcpu *v, struct vmc_exit *x)
{
    uint32_t info = (uint32_t)vmx_read(v, VMCS_EXIT_INTR_INFO);
    uint32_t code = (info & INTR_CODE) ? (uint32_t)vmx_read(v, VMCS_EXIT_INTR_CODE) : 0;
    uint8_t vector = (uint8_t)info;

    if (INTR_TYPE(info) == VMC_EV_NMI) { /* the host's, not the guest's */
        take_back_event(v);
        v->vm->hw->raise(hw_ctx(v), VMC_VEC_NMI);
        return HW_RESUME;
    }
    if (vector == VMC_VEC_MC) {
        take_back_event(v);
        v->vm->hw->raise(hw_ctx(v), VMC_VEC_MC);
        return HW_RESUME;
    }
    take_back_event(v);
    block_nmi_again(v, (info & INTR_UNBLOCK) != 0);
    if (vector == VMC_VEC_PF)
        return hw_on_page_fault(v, frame_of(v)->qualification, code, x);
    if (vector == VMC_VEC_DB)
        return reflect_db(v, info, x);
    return hw_raise(v, vector, (info & INTR_CODE) != 0, code, x);
}

static int on_host_irq(struct hw_vcpu *v, struct vmc_exit *x)
{
    (void)x;
    /* Taken by the host when entry code switched interrupts on again, or acknowledged already. */
    uint32_t info = v->vm->caps.vmx.posted ? (uint32_t)vmx_read(v, VMCS_EXIT_INTR_INFO) : 0;
    if (info & INTR_VALID)
        v->vm->hw->raise(hw_ctx(v), info & 0xff);
    hw_host_irq(v);
    return HW_RESUME;
}

static int on_triple(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_shutdown(v, x);
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
    v->todo |= HW_TODO_EVENT;
    return HW_RESUME;
}

static int on_task_switch(struct hw_vcpu *v, struct vmc_exit *x)
{
    take_back_event(v);
    /* INT n, INT3, INTO and INT1 stand at RIP still: they are executed as instructions. */
    if (v->st.injected.type >= VMC_EV_SOFT_INT)
        v->st.injected.type = VMC_EV_NONE;
    return hw_emulate_system(v, x);
}

static inline __attribute__((always_inline)) int on_cpuid(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_on_cpuid(v, frame_of(v)->insn_len, x);
}

static int on_hlt(struct hw_vcpu *v, struct vmc_exit *x)
{
    (void)x;
    return hw_on_hlt(v, frame_of(v)->insn_len);
}

static int on_invlpg(struct hw_vcpu *v, struct vmc_exit *x)
{
    if (v->vm->nested)
        return hw_emulate_system(v, x);
    return hw_on_invlpg(v, frame_of(v)->qualification, frame_of(v)->insn_len);
}

static int on_emulate(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_emulate(v, 1, x);
}

static int on_emulate_system(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_emulate_system(v, x);
}

static int on_vmcall(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_on_hypercall(v, frame_of(v)->insn_len, x);
}

/* Instructions that the guest's CPU model does not have. */
static int on_undefined(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_raise(v, VMC_VEC_UD, false, 0, x);
}

/* WBINVD and INVD: guest memory is coherent RAM, and the host's caches are not the guest's to drop.
 */
static int on_cache(struct hw_vcpu *v, struct vmc_exit *x)
{
    (void)x;
    v->stat[HW_STAT_OTHER]++;
    hw_skip(v, frame_of(v)->insn_len);
    return HW_RESUME;
}

static int on_cr8(struct hw_vcpu *v, bool to_cr, unsigned gpr, struct vmc_exit *x)
{
    uint64_t *r = hw_gpr(v, gpr);

    if (v->io->set_tpr == NULL || v->io->get_tpr == NULL || (to_cr && *r > 15))
        return hw_emulate(v, 1, x);
    v->stat[HW_STAT_CR]++;
    if (to_cr) {
        v->io->set_tpr(v->io->ctx, *r);
        v->irq_wait = true;
        v->todo |= HW_TODO_EVENT;
    } else {
        *r = v->io->get_tpr(v->io->ctx);
        if (gpr == VMC_RSP)
            hw_changed(v, HW_ST_RSP);
    }
    hw_skip(v, frame_of(v)->insn_len);
    return HW_RESUME;
}

static int on_cr(struct hw_vcpu *v, struct vmc_exit *x)
{
    uint64_t q = frame_of(v)->qualification;
    unsigned cr = q & 15, how = (q >> 4) & 3, gpr = (q >> 8) & 15;

    if (cr == 8 && how < 2)
        return on_cr8(v, how == 0, gpr, x);
    if (cr == 3 && how == 0 && !v->vm->nested)
        return hw_on_mov_cr3(v, gpr, frame_of(v)->insn_len, x);
    if (cr == 3 && how == 1) {
        hw_need(v, VMC_ST_CTRL);
        return hw_on_read_cr(v, v->st.cr3, gpr, frame_of(v)->insn_len);
    }
    return hw_emulate_system(v, x);
}

/* Exit qualification of an I/O instruction (SDM 3C table 28-5). */
#define IO_IN       0x08u
#define IO_STRING   0x10u
#define IO_BYTES(q) (((unsigned)(q)&7) + 1)
#define IO_PORT(q)  ((uint16_t)((q) >> 16))

static __attribute__((noinline)) int leave_for_io(struct hw_vcpu *v, struct vmc_exit *x)
{
    uint64_t q = frame_of(v)->qualification;

    return hw_leave_for_pio(v, (q & IO_IN) == 0, IO_PORT(q), IO_BYTES(q), frame_of(v)->insn_len, x);
}

static inline __attribute__((always_inline)) int on_io(struct hw_vcpu *v, struct vmc_exit *x)
{
    uint64_t q = frame_of(v)->qualification;

    v->stat[HW_STAT_IO]++;
    if (unlikely(q & IO_STRING))
        return hw_emulate(v, 1, x);
    bool done = (q & IO_IN) != 0 ? hw_pio(v, false, IO_PORT(q), IO_BYTES(q))
                                 : hw_pio(v, true, IO_PORT(q), IO_BYTES(q));
    if (unlikely(!done))
        return leave_for_io(v, x);
    hw_skip(v, frame_of(v)->insn_len);
    return HW_RESUME;
}

static int on_rdmsr(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_on_msr(v, false, frame_of(v)->insn_len, x);
}

static int on_wrmsr(struct hw_vcpu *v, struct vmc_exit *x)
{
    return hw_on_msr(v, true, frame_of(v)->insn_len, x);
}

static int on_entry_failure(struct hw_vcpu *v, struct vmc_exit *x)
{
    return vmx_entry_failed(v, true, frame_of(v)->reason, x);
}

static int on_tpr(struct hw_vcpu *v, struct vmc_exit *x)
{
    (void)x;
    vmx_tpr_out(v);
    v->irq_wait = true;
    v->todo |= HW_TODO_EVENT;
    return HW_RESUME;
}

static int on_apic_access(struct hw_vcpu *v, struct vmc_exit *x)
{
    take_back_event(v);
    return vmx_on_apic_access(v, x);
}

static int on_ept_violation(struct hw_vcpu *v, struct vmc_exit *x)
{
    uint64_t q = frame_of(v)->qualification;

    take_back_event(v);
    if (unlikely(q & INTR_UNBLOCK))
        block_nmi_again(v, true);
    return hw_on_gpa_fault(v, frame_of(v)->gpa, (uint32_t)(q & 7), x);
}

/* Our own mark of a device page. */
static int on_ept_misconfig(struct hw_vcpu *v, struct vmc_exit *x)
{
    uint64_t gpa = frame_of(v)->gpa;

    take_back_event(v);
    v->stat[HW_STAT_FAULT]++;
    if (vmci_mem_find(v->vm->mem, gpa) != NULL)
        return hw_on_gpa_fault(v, gpa, VMCI_SLAT_R, x);
    return hw_on_mmio(v, gpa, x);
}

/* The instruction whose page could not be logged is executed again. */
static int on_log_full(struct hw_vcpu *v, struct vmc_exit *x)
{
    uint64_t q = frame_of(v)->qualification;

    (void)x;
    take_back_event(v);
    if (q & INTR_UNBLOCK)
        block_nmi_again(v, true);
    v->stat[HW_STAT_LOG_FULL]++;
    if (v->log != NULL) {
        hw_log_drain(v->vm);
        vmx_write(v, VMCS_PML_INDEX, HW_LOG_ENTRIES - 1);
    }
    return HW_RESUME;
}

static int on_timer(struct hw_vcpu *v, struct vmc_exit *x)
{
    (void)x;
    v->stat[HW_STAT_TIMER]++;
    return HW_RESUME; /* the loop looks at the deadline */
}

static exit_fn *const table[VMX_REASONS] = {
    [VMX_EXC_NMI] = on_exception,
    [VMX_EXTINT] = on_host_irq,
    [VMX_TRIPLE] = on_triple,
    [VMX_INIT] = on_nothing,
    [VMX_SIPI] = on_nothing,
    [VMX_IO_SMI] = on_nothing,
    [VMX_SMI] = on_nothing,
    [VMX_IRQ_WINDOW] = on_window,
    [VMX_NMI_WINDOW] = on_window,
    [VMX_TASK_SWITCH] = on_task_switch,
    [VMX_CPUID] = on_cpuid,
    [VMX_GETSEC] = on_undefined,
    [VMX_HLT] = on_hlt,
    [VMX_INVD] = on_cache,
    [VMX_INVLPG] = on_invlpg,
    [VMX_RDPMC] = on_emulate,
    [VMX_RDTSC] = on_emulate,
    [VMX_RSM] = on_undefined,
    [VMX_VMCALL] = on_vmcall,
    [VMX_VMCLEAR] = on_undefined,
    [VMX_VMLAUNCH] = on_undefined,
    [VMX_VMPTRLD] = on_undefined,
    [VMX_VMPTRST] = on_undefined,
    [VMX_VMREAD] = on_undefined,
    [VMX_VMRESUME] = on_undefined,
    [VMX_VMWRITE] = on_undefined,
    [VMX_VMXOFF] = on_undefined,
    [VMX_VMXON] = on_undefined,
    [VMX_CR] = on_cr,
    [VMX_DR] = on_emulate,
    [VMX_IO] = on_io,
    [VMX_RDMSR] = on_rdmsr,
    [VMX_WRMSR] = on_wrmsr,
    [VMX_BAD_GUEST] = on_entry_failure,
    [VMX_BAD_MSR] = on_entry_failure,
    [VMX_MWAIT] = on_emulate,
    [VMX_MTF] = on_nothing,
    [VMX_MONITOR] = on_emulate,
    [VMX_PAUSE] = on_nothing,
    [VMX_BAD_MCE] = on_entry_failure,
    [VMX_TPR] = on_tpr,
    [VMX_APIC_ACCESS] = on_apic_access,
    [VMX_EOI] = vmx_on_eoi,
    [VMX_GDTR_IDTR] = on_emulate,
    [VMX_LDTR_TR] = on_emulate,
    [VMX_EPT_VIOLATION] = on_ept_violation,
    [VMX_EPT_MISCONFIG] = on_ept_misconfig,
    [VMX_INVEPT] = on_undefined,
    [VMX_RDTSCP] = on_emulate,
    [VMX_TIMER] = on_timer,
    [VMX_INVVPID] = on_undefined,
    [VMX_WBINVD] = on_cache,
    [VMX_XSETBV] = on_emulate,
    [VMX_APIC_WRITE] = vmx_on_apic_write,
    [VMX_RDRAND] = on_emulate,
    [VMX_INVPCID] = on_emulate_system,
    [VMX_VMFUNC] = on_undefined,
    [VMX_ENCLS] = on_undefined,
    [VMX_RDSEED] = on_emulate,
    [VMX_PML_FULL] = on_log_full,
    [VMX_XSAVES] = on_undefined,
    [VMX_XRSTORS] = on_undefined,
    [VMX_PCONFIG] = on_undefined,
    [VMX_SPP] = on_nothing,
    [VMX_UMWAIT] = on_undefined,
    [VMX_TPAUSE] = on_undefined,
    [VMX_LOADIWKEY] = on_undefined,
    [VMX_ENCLV] = on_undefined,
    [VMX_ENQCMD] = on_undefined,
    [VMX_ENQCMDS] = on_undefined,
    [VMX_BUS_LOCK] = on_nothing,
    [VMX_NOTIFY] = on_nothing,
    [VMX_SEAMCALL] = on_undefined, /* these two exit whatever the controls say */
    [VMX_TDCALL] = on_undefined,
};

static int unknown(struct hw_vcpu *v, struct vmc_exit *x)
{
    hw_set_exit(v, x, VMC_EXIT_FAIL_ENTRY);
    x->u.stop.detail = x->raw.reason = frame_of(v)->reason;
    x->raw.info[0] = frame_of(v)->qualification;
    return HW_LEAVE;
}

int vmx_handle(struct hw_vcpu *v, struct vmc_exit *x)
{
    struct vmc_hw_vmx_frame *f = frame_of(v);
    uint32_t reason = f->reason & 0xffff;

    if (unlikely(reason >= VMX_REASONS || table[reason] == NULL))
        return unknown(v, x);
    /* Bits 30:16 say where the exit happened; only a failed entry changes what is done. */
    if (unlikely(f->reason & VMX_ENTRY_FAILED) && reason != VMX_BAD_GUEST &&
        reason != VMX_BAD_MSR && reason != VMX_BAD_MCE)
        return unknown(v, x);
    int r = table[vmci_nospec_index(reason, VMX_REASONS)](v, x);
    if (unlikely(r == HW_LEAVE)) {
        x->raw.reason = f->reason;
        x->raw.info[0] = f->qualification;
    }
    return r;
}

/* ---- enter ------------------------------------------------------------------------------------
 */

static inline __attribute__((always_inline)) int enter_once(struct hw_vcpu *v, struct vmc_exit *x)
{
    struct vmc_hw_vmx_frame *f = &v->u.vmx.frame;

    v->stat[HW_STAT_ENTRIES]++;
    f->rip = v->st.rip;
    if (v->deadline_tsc != 0)
        f->timer = VMCI_MIN(v->timer_left >> v->vm->caps.vmx.timer_shift, VMX_TIMER_MAX);
    __atomic_store_n(&v->in_guest, 1u, __ATOMIC_SEQ_CST);
    int r = v->vm->hw->vmx_run(hw_ctx(v), f);
    vmci_store_release(&v->in_guest, 0u);
    if (unlikely(r != VMC_HW_EXITED)) {
        if (r != VMC_HW_STOPPED)
            return vmx_entry_failed(v, false, r == VMC_HW_FAIL ? f->reason : 0, x);
        if (v->inflight.type != VMC_EV_NONE) { /* not delivered after all */
            v->st.injected = v->inflight;
            v->inflight.type = VMC_EV_NONE;
            vmx_inject(v, &v->inflight);
            v->todo |= HW_TODO_EVENT;
        }
        if ((f->flags & VMC_HW_POSTED) && vmci_load_relaxed(f->posted) != 0) {
            v->irq_wait = true;
            v->todo |= HW_TODO_EVENT;
        }
        return HW_RESUME;
    }
    if (unlikely(!(f->flags & VMC_HW_LAUNCHED)) && !(f->reason & VMX_ENTRY_FAILED))
        f->flags |= VMC_HW_LAUNCHED;
    v->inflight.type = VMC_EV_NONE;
    v->valid &= ~HW_ST_GUEST;
    v->st.rip = f->rip;
    v->st.rflags = f->rflags;
    if (likely(f->interruptibility == 0)) { /* worth a branch: the most frequent by far */
        v->st.sti_shadow = v->st.ss_shadow = 0;
        v->st.nmi_blocked = 0;
    } else {
        v->st.sti_shadow = (f->interruptibility & INTR_STI) != 0;
        v->st.ss_shadow = (f->interruptibility & INTR_SS) != 0;
        v->st.nmi_blocked = (f->interruptibility & INTR_NMI) != 0;
    }
    if (f->reason == VMX_CPUID)
        return on_cpuid(v, x);
    if (f->reason == VMX_IO)
        return on_io(v, x);
    if (f->reason == VMX_EPT_VIOLATION)
        return on_ept_violation(v, x);
    return vmx_handle(v, x);
}

int vmx_enter(struct hw_vcpu *v, struct vmc_exit *x)
{
    int r;

    do
        r = enter_once(v, x);
    while (likely(r == HW_RESUME) && hw_again(v));
    return r;
}
