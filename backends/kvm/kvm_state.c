/* SPDX-License-Identifier: BSD-2-Clause */
/* Transfer of processor state between struct vmc_x86_state and the kernel. */
#include "kvm_int.h"

#include <string.h>
#include <sys/ioctl.h>

#define SREG_GROUPS (VMC_ST_SEG | VMC_ST_TABLES | VMC_ST_CTRL | VMC_ST_MSR)

/* One row for each MSR of struct vmc_x86_msrs that has a number of its own. */
static const struct {
    uint32_t index;
    size_t offset;
} msr_rows[] = {
#define ROW(number, member) {number, offsetof(struct vmc_x86_msrs, member)}
    ROW(VMC_MSR_STAR, star),
    ROW(VMC_MSR_LSTAR, lstar),
    ROW(VMC_MSR_CSTAR, cstar),
    ROW(VMC_MSR_SFMASK, sfmask),
    ROW(VMC_MSR_SYSENTER_CS, sysenter_cs),
    ROW(VMC_MSR_SYSENTER_ESP, sysenter_esp),
    ROW(VMC_MSR_SYSENTER_EIP, sysenter_eip),
    ROW(VMC_MSR_KERNEL_GS_BASE, kernel_gs_base),
    ROW(VMC_MSR_PAT, pat),
    ROW(VMC_MSR_TSC_AUX, tsc_aux),
    ROW(VMC_MSR_TSC_ADJUST, tsc_adjust),
    ROW(VMC_MSR_MISC_ENABLE, misc_enable),
    ROW(VMC_MSR_SPEC_CTRL, spec_ctrl),
    ROW(VMC_MSR_DEBUGCTL, debugctl),
    ROW(VMC_MSR_XSS, xss),
    ROW(VMC_MSR_MTRR_DEF_TYPE, mtrr_def_type),
    ROW(VMC_MSR_MTRR_FIX64K, mtrr_fixed[0]),
    ROW(VMC_MSR_MTRR_FIX16K_8, mtrr_fixed[1]),
    ROW(VMC_MSR_MTRR_FIX16K_A, mtrr_fixed[2]),
    ROW(VMC_MSR_MTRR_FIX4K_C0 + 0, mtrr_fixed[3]),
    ROW(VMC_MSR_MTRR_FIX4K_C0 + 1, mtrr_fixed[4]),
    ROW(VMC_MSR_MTRR_FIX4K_C0 + 2, mtrr_fixed[5]),
    ROW(VMC_MSR_MTRR_FIX4K_C0 + 3, mtrr_fixed[6]),
    ROW(VMC_MSR_MTRR_FIX4K_C0 + 4, mtrr_fixed[7]),
    ROW(VMC_MSR_MTRR_FIX4K_C0 + 5, mtrr_fixed[8]),
    ROW(VMC_MSR_MTRR_FIX4K_C0 + 6, mtrr_fixed[9]),
    ROW(VMC_MSR_MTRR_FIX4K_C0 + 7, mtrr_fixed[10]),
#define VAR(n)                                                                                     \
    ROW(VMC_MSR_MTRR_PHYSBASE0 + 2 * (n), mtrr_base[n]),                                           \
        ROW(VMC_MSR_MTRR_PHYSBASE0 + 2 * (n) + 1, mtrr_mask[n])
    VAR(0), VAR(1), VAR(2), VAR(3), VAR(4), VAR(5), VAR(6), VAR(7),
#undef VAR
    /* after the LAPIC's timer mode is in place */
    ROW(VMC_MSR_TSC_DEADLINE, tsc_deadline),
#undef ROW
};
#define MSR_ROWS (sizeof(msr_rows) / sizeof(msr_rows[0]))

static int request(int fd, unsigned long nr, void *arg)
{
    return ioctl(fd, nr, arg) < 0 ? VMC_EHOST : VMC_OK;
}

/* ---- single MSRs --------------------------------------------------------------------------- */

struct one_msr {
    struct kvm_msrs head;
    struct kvm_msr_entry entry;
};

static bool get_msr(struct kvm_evcpu *v, uint32_t index, uint64_t *value)
{
    struct one_msr m = {.head.nmsrs = 1, .entry.index = index};

    if (ioctl(v->fd, KVM_GET_MSRS, &m) != 1)
        return false;
    *value = m.entry.data;
    return true;
}

static bool set_msr(struct kvm_evcpu *v, uint32_t index, uint64_t value)
{
    struct one_msr m = {.head.nmsrs = 1, .entry.index = index, .entry.data = value};

    return ioctl(v->fd, KVM_SET_MSRS, &m) == 1;
}

/* What this kernel or processor does not have reads as zero. */
static void get_msrs(struct kvm_evcpu *v, struct vmc_x86_msrs *m)
{
    for (size_t i = 0; i < MSR_ROWS; i++) {
        uint64_t value = 0;
        (void)get_msr(v, msr_rows[i].index, &value); /* stays zero */
        memcpy((char *)m + msr_rows[i].offset, &value, sizeof(value));
    }
}

/* A value that is refused is an error unless it is the zero that get_msrs made up. */
static int set_msrs(struct kvm_evcpu *v, const struct vmc_x86_msrs *m)
{
    for (size_t i = 0; i < MSR_ROWS; i++) {
        uint64_t value;
        uint64_t old;
        memcpy(&value, (const char *)m + msr_rows[i].offset, sizeof(value));
        if (set_msr(v, msr_rows[i].index, value) || value == 0)
            continue;
        /* Bits that this processor lacks in the reset value (fast strings) do not matter. */
        if (msr_rows[i].index == VMC_MSR_MISC_ENABLE || !get_msr(v, msr_rows[i].index, &old))
            continue;
        return VMC_EINVAL;
    }
    return VMC_OK;
}

int kvm_read_tsc(void *ev, uint64_t *tsc, uint64_t *hz, uint64_t *clock)
{
    struct kvm_evcpu *v = ev;
    const struct vmc_platform *pf = v->vm->pf;

    if (clock != NULL)
        *clock = pf->now_ns(pf->ctx);
    *hz = v->vm->tsc_hz;
    return get_msr(v, VMC_MSR_TSC, tsc) ? VMC_OK : VMC_EHOST;
}

/* ---- registers ----------------------------------------------------------------------------- */

static int get_regs(struct kvm_evcpu *v, uint32_t groups, struct vmc_x86_state *st)
{
    struct kvm_regs r;
    int rc = request(v->fd, KVM_GET_REGS, &r);

    if (rc != VMC_OK)
        return rc;
    if (groups & VMC_ST_GPR) {
        const uint64_t gpr[16] = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi,
                                  r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
        memcpy(st->gpr, gpr, sizeof(gpr));
    }
    if (groups & VMC_ST_RIP) {
        st->rip = r.rip;
        st->rflags = r.rflags;
    }
    return VMC_OK;
}

static int set_regs(struct kvm_evcpu *v, uint32_t groups, const struct vmc_x86_state *st)
{
    struct kvm_regs r;
    int rc = request(v->fd, KVM_GET_REGS, &r);

    if (rc != VMC_OK)
        return rc;
    if (groups & VMC_ST_GPR) {
        const uint64_t *g = st->gpr;
        r.rax = g[0], r.rcx = g[1], r.rdx = g[2], r.rbx = g[3];
        r.rsp = g[4], r.rbp = g[5], r.rsi = g[6], r.rdi = g[7];
        r.r8 = g[8], r.r9 = g[9], r.r10 = g[10], r.r11 = g[11];
        r.r12 = g[12], r.r13 = g[13], r.r14 = g[14], r.r15 = g[15];
    }
    if (groups & VMC_ST_RIP) {
        r.rip = st->rip;
        r.rflags = st->rflags | VMC_FLAG_1;
    }
    return request(v->fd, KVM_SET_REGS, &r);
}

/* ---- segments, tables, control ------------------------------------------------------------- */

static void seg_out(const struct kvm_segment *k, struct vmc_segment *s)
{
    *s = (struct vmc_segment){
        .base = k->base,
        .limit = k->limit,
        .selector = k->selector,
        .attr = (uint32_t)k->type | (uint32_t)k->s << 4 | (uint32_t)k->dpl << 5 |
                (uint32_t)k->present << 7 | (uint32_t)k->avl << 12 | (uint32_t)k->l << 13 |
                (uint32_t)k->db << 14 | (uint32_t)k->g << 15 | (uint32_t)k->unusable << 16,
    };
}

static void seg_in(const struct vmc_segment *s, struct kvm_segment *k)
{
    *k = (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->selector,
        .type = s->attr & VMC_SEG_TYPE,
        .s = (s->attr & VMC_SEG_S) != 0,
        .dpl = (s->attr & VMC_SEG_DPL) >> VMC_SEG_DPL_SHIFT,
        .present = (s->attr & VMC_SEG_P) != 0,
        .avl = (s->attr & VMC_SEG_AVL) != 0,
        .l = (s->attr & VMC_SEG_L) != 0,
        .db = (s->attr & VMC_SEG_DB) != 0,
        .g = (s->attr & VMC_SEG_G) != 0,
        .unusable = (s->attr & VMC_SEG_UNUSABLE) != 0,
    };
}

/* The kernel's members in our order. */
static void seg_table(struct kvm_sregs2 *s, struct kvm_segment *out[VMC_SREGS])
{
    out[VMC_ES] = &s->es;
    out[VMC_CS] = &s->cs;
    out[VMC_SS] = &s->ss;
    out[VMC_DS] = &s->ds;
    out[VMC_FS] = &s->fs;
    out[VMC_GS] = &s->gs;
    out[VMC_LDTR] = &s->ldt;
    out[VMC_TR] = &s->tr;
}

/* Old kernels have only the form without PDPTEs; it starts with the same members. */
_Static_assert(offsetof(struct kvm_sregs2, flags) == offsetof(struct kvm_sregs, interrupt_bitmap),
               "the two forms must agree up to here");

static int read_sregs(struct kvm_evcpu *v, struct kvm_sregs2 *s)
{
    struct kvm_sregs old;

    memset(s, 0, sizeof(*s));
    if (v->vm->has_sregs2)
        return request(v->fd, KVM_GET_SREGS2, s);
    int rc = request(v->fd, KVM_GET_SREGS, &old);
    memcpy(s, &old, offsetof(struct kvm_sregs, interrupt_bitmap));
    return rc;
}

static int write_sregs(struct kvm_evcpu *v, const struct kvm_sregs2 *s)
{
    struct kvm_sregs old;

    if (v->vm->has_sregs2)
        return ioctl(v->fd, KVM_SET_SREGS2, s) < 0 ? VMC_EINVAL : VMC_OK;
    /* Keeps an interrupt that is being injected. */
    int rc = request(v->fd, KVM_GET_SREGS, &old);
    if (rc != VMC_OK)
        return rc;
    memcpy(&old, s, offsetof(struct kvm_sregs, interrupt_bitmap));
    return ioctl(v->fd, KVM_SET_SREGS, &old) < 0 ? VMC_EINVAL : VMC_OK;
}

static bool uses_pdptes(const struct kvm_sregs2 *s)
{
    return (s->cr0 & VMC_CR0_PG) && (s->cr4 & VMC_CR4_PAE) && !(s->efer & VMC_EFER_LMA);
}

static int get_sregs(struct kvm_evcpu *v, uint32_t groups, struct vmc_x86_state *st)
{
    struct kvm_sregs2 s;
    struct kvm_segment *k[VMC_SREGS];
    int rc = read_sregs(v, &s);

    if (rc != VMC_OK)
        return rc;
    seg_table(&s, k);
    for (unsigned i = 0; (groups & VMC_ST_SEG) && i < VMC_SREGS; i++)
        seg_out(k[i], &st->seg[i]);
    if (groups & VMC_ST_TABLES) {
        st->gdtr = (struct vmc_table){.base = s.gdt.base, .limit = s.gdt.limit};
        st->idtr = (struct vmc_table){.base = s.idt.base, .limit = s.idt.limit};
    }
    if (groups & VMC_ST_CTRL) {
        st->cr0 = s.cr0;
        st->cr2 = s.cr2;
        st->cr3 = s.cr3;
        st->cr4 = s.cr4;
        st->cr8 = s.cr8;
        st->efer = s.efer;
        memcpy(st->pdpte, s.pdptrs, sizeof(st->pdpte));
    }
    if (groups & VMC_ST_MSR)
        st->msr.apic_base = s.apic_base;
    return VMC_OK;
}

static int set_sregs(struct kvm_evcpu *v, uint32_t groups, const struct vmc_x86_state *st)
{
    struct kvm_sregs2 s;
    struct kvm_segment *k[VMC_SREGS];
    int rc = read_sregs(v, &s);

    if (rc != VMC_OK)
        return rc;
    seg_table(&s, k);
    for (unsigned i = 0; (groups & VMC_ST_SEG) && i < VMC_SREGS; i++)
        seg_in(&st->seg[i], k[i]);
    if (groups & VMC_ST_TABLES) {
        s.gdt = (struct kvm_dtable){.base = st->gdtr.base, .limit = st->gdtr.limit};
        s.idt = (struct kvm_dtable){.base = st->idtr.base, .limit = st->idtr.limit};
    }
    if (groups & VMC_ST_CTRL) {
        s.cr0 = st->cr0;
        s.cr2 = st->cr2;
        s.cr3 = st->cr3;
        s.cr4 = st->cr4;
        s.cr8 = st->cr8;
        s.efer = st->efer;
        memcpy(s.pdptrs, st->pdpte, sizeof(s.pdptrs));
        s.flags = uses_pdptes(&s) ? KVM_SREGS2_FLAGS_PDPTRS_VALID : 0;
    }
    if (groups & VMC_ST_MSR)
        s.apic_base = st->msr.apic_base;
    return write_sregs(v, &s);
}

static int get_xcr0(struct kvm_evcpu *v, struct vmc_x86_state *st)
{
    struct kvm_xcrs x = {0};
    int rc = request(v->fd, KVM_GET_XCRS, &x);

    st->xcr0 = VMC_XCR0_X87;
    for (uint32_t i = 0; rc == VMC_OK && i < x.nr_xcrs && i < KVM_MAX_XCRS; i++) {
        if (x.xcrs[i].xcr == 0)
            st->xcr0 = x.xcrs[i].value;
    }
    return rc;
}

static int set_xcr0(struct kvm_evcpu *v, const struct vmc_x86_state *st)
{
    struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs[0].value = st->xcr0};

    return ioctl(v->fd, KVM_SET_XCRS, &x) < 0 ? VMC_EINVAL : VMC_OK;
}

/* ---- debug registers, FPU ------------------------------------------------------------------ */

static int get_debug(struct kvm_evcpu *v, struct vmc_x86_state *st)
{
    struct kvm_debugregs d;
    int rc = request(v->fd, KVM_GET_DEBUGREGS, &d);

    if (rc == VMC_OK) {
        memcpy(st->dr, d.db, sizeof(st->dr));
        st->dr6 = d.dr6;
        st->dr7 = d.dr7;
    }
    return rc;
}

static int set_debug(struct kvm_evcpu *v, const struct vmc_x86_state *st)
{
    struct kvm_debugregs d = {.dr6 = st->dr6, .dr7 = st->dr7};

    memcpy(d.db, st->dr, sizeof(d.db));
    return ioctl(v->fd, KVM_SET_DEBUGREGS, &d) < 0 ? VMC_EINVAL : VMC_OK;
}

_Static_assert(sizeof(struct kvm_xsave) == VMC_XSAVE_BYTES, "one page of extended state");

static int get_fpu(struct kvm_evcpu *v, struct vmc_x86_state *st)
{
    st->xsave_bytes = VMC_XSAVE_BYTES;
    return request(v->fd, KVM_GET_XSAVE, st->xsave);
}

static int set_fpu(struct kvm_evcpu *v, const struct vmc_x86_state *st)
{
    _Alignas(64) unsigned char area[VMC_XSAVE_BYTES] = {0};

    if (st->xsave_bytes > sizeof(area))
        return VMC_EINVAL;
    memcpy(area, st->xsave, st->xsave_bytes);
    return ioctl(v->fd, KVM_SET_XSAVE, area) < 0 ? VMC_EINVAL : VMC_OK;
}

/* ---- events -------------------------------------------------------------------------------- */

static void events_out(const struct kvm_vcpu_events *e, uint32_t groups, struct vmc_x86_state *st)
{
    if (groups & VMC_ST_RIP) {
        st->sti_shadow = (e->interrupt.shadow & KVM_X86_SHADOW_INT_STI) != 0;
        st->ss_shadow = (e->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS) != 0;
    }
    if (!(groups & VMC_ST_EVENT))
        return;
    st->injected = (struct vmc_event){.type = VMC_EV_NONE};
    if (e->exception.injected || e->exception.pending) {
        st->injected = (struct vmc_event){
            .type = VMC_EV_EXCEPTION,
            .vector = e->exception.nr,
            .has_code = e->exception.has_error_code,
            .code = e->exception.error_code,
            .payload = e->exception_has_payload ? e->exception_payload : 0,
        };
    } else if (e->nmi.injected) {
        st->injected = (struct vmc_event){.type = VMC_EV_NMI, .vector = VMC_VEC_NMI};
    } else if (e->interrupt.injected) {
        st->injected = (struct vmc_event){
            .type = e->interrupt.soft ? VMC_EV_SOFT_INT : VMC_EV_IRQ, .vector = e->interrupt.nr};
    }
    st->nmi_pending = e->nmi.pending;
    st->nmi_blocked = e->nmi.masked;
    st->smm = e->smi.smm;
}

static void exception_in(const struct vmc_event *ev, struct kvm_vcpu_events *e)
{
    e->exception.injected = 1;
    e->exception.nr = ev->vector;
    e->exception.has_error_code = ev->has_code;
    e->exception.error_code = ev->code;
}

static void events_in(const struct vmc_x86_state *st, uint32_t groups, struct kvm_vcpu_events *e)
{
    e->flags = KVM_VCPUEVENT_VALID_SHADOW;
    if (groups & VMC_ST_RIP)
        e->interrupt.shadow = (st->sti_shadow ? KVM_X86_SHADOW_INT_STI : 0) |
                              (st->ss_shadow ? KVM_X86_SHADOW_INT_MOV_SS : 0);
    if (!(groups & VMC_ST_EVENT))
        return;
    memset(&e->exception, 0, sizeof(e->exception));
    e->interrupt.injected = e->interrupt.soft = e->nmi.injected = 0;
    e->exception_has_payload = 0;
    switch (st->injected.type) {
    case VMC_EV_EXCEPTION:
    case VMC_EV_SOFT_EXC:
    case VMC_EV_PRIV_SOFT_EXC:
        exception_in(&st->injected, e);
        break;
    case VMC_EV_NMI:
        e->nmi.injected = 1;
        break;
    case VMC_EV_IRQ:
    case VMC_EV_SOFT_INT:
        e->interrupt.injected = 1;
        e->interrupt.nr = st->injected.vector;
        e->interrupt.soft = st->injected.type == VMC_EV_SOFT_INT;
        break;
    default:
        break;
    }
    e->nmi.pending = st->nmi_pending != 0;
    e->nmi.masked = st->nmi_blocked != 0;
    e->flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
}

static int get_events(struct kvm_evcpu *v, uint32_t groups, struct vmc_x86_state *st)
{
    struct kvm_vcpu_events e;
    int rc = request(v->fd, KVM_GET_VCPU_EVENTS, &e);

    if (rc == VMC_OK)
        events_out(&e, groups, st);
    return rc;
}

static int set_events(struct kvm_evcpu *v, uint32_t groups, const struct vmc_x86_state *st)
{
    struct kvm_vcpu_events e;
    int rc = request(v->fd, KVM_GET_VCPU_EVENTS, &e);

    if (rc != VMC_OK)
        return rc;
    events_in(st, groups, &e);
    return ioctl(v->fd, KVM_SET_VCPU_EVENTS, &e) < 0 ? VMC_EINVAL : VMC_OK;
}

/* ---- activity, local APIC ------------------------------------------------------------------ */

static int get_activity(struct kvm_evcpu *v, struct vmc_x86_state *st)
{
    struct kvm_mp_state mp = {0};

    st->sipi_vector = UINT32_MAX;
    st->activity = v->halted ? VMC_RUN_HALTED : VMC_RUN_RUNNING;
    int rc = request(v->fd, KVM_GET_MP_STATE, &mp);
    if (rc != VMC_OK)
        return rc;
    if (mp.mp_state == KVM_MP_STATE_HALTED)
        st->activity = VMC_RUN_HALTED;
    else if (mp.mp_state == KVM_MP_STATE_UNINITIALIZED ||
             mp.mp_state == KVM_MP_STATE_INIT_RECEIVED || mp.mp_state == KVM_MP_STATE_SIPI_RECEIVED)
        st->activity = VMC_RUN_WAIT_SIPI;
    return VMC_OK;
}

static int set_activity(struct kvm_evcpu *v, const struct vmc_x86_state *st)
{
    struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};

    v->halted = false;
    if (v->vm->user_apic || v->vm->no_irqchip) {
        v->halted = st->activity == VMC_RUN_HALTED; /* waiting for SIPI is the VM layer's */
        return VMC_OK;
    }
    if (st->activity == VMC_RUN_HALTED)
        mp.mp_state = KVM_MP_STATE_HALTED;
    else if (st->activity == VMC_RUN_WAIT_SIPI)
        mp.mp_state = KVM_MP_STATE_INIT_RECEIVED;
    return request(v->fd, KVM_SET_MP_STATE, &mp);
}

_Static_assert(sizeof(struct kvm_lapic_state) == sizeof(((struct vmc_x86_state *)0)->lapic),
               "the APIC page");

static bool has_lapic(const struct kvm_evcpu *v)
{
    return !v->vm->user_apic && !v->vm->no_irqchip;
}

/* ---- all together -------------------------------------------------------------------------- */

int kvm_get_state(void *ev, uint32_t groups, struct vmc_x86_state *st)
{
    struct kvm_evcpu *v = ev;
    int rc = kvm_settle(v);

    if (rc == VMC_OK && (groups & (VMC_ST_GPR | VMC_ST_RIP)))
        rc = get_regs(v, groups, st);
    if (rc == VMC_OK && (groups & SREG_GROUPS))
        rc = get_sregs(v, groups, st);
    if (rc == VMC_OK && (groups & VMC_ST_CTRL))
        rc = get_xcr0(v, st);
    if (rc == VMC_OK && (groups & VMC_ST_DEBUG))
        rc = get_debug(v, st);
    if (rc == VMC_OK && (groups & VMC_ST_MSR))
        get_msrs(v, &st->msr);
    if (rc == VMC_OK && (groups & (VMC_ST_EVENT | VMC_ST_RIP)))
        rc = get_events(v, groups, st);
    if (rc == VMC_OK && (groups & VMC_ST_FPU))
        rc = get_fpu(v, st);
    if (rc == VMC_OK && (groups & VMC_ST_CLOCK) && !get_msr(v, VMC_MSR_TSC, &st->tsc))
        rc = VMC_EHOST;
    if (rc == VMC_OK && (groups & VMC_ST_RUN))
        rc = get_activity(v, st);
    if (rc == VMC_OK && (groups & VMC_ST_LAPIC) && has_lapic(v))
        rc = request(v->fd, KVM_GET_LAPIC, st->lapic);
    return rc;
}

/* Another TSC_ADJUST without a TSC moves the TSC, as WRMSR does it; to KVM it is but a number. */
static int move_tsc(struct kvm_evcpu *v, uint64_t adjust)
{
    uint64_t old, tsc;

    if (!get_msr(v, VMC_MSR_TSC_ADJUST, &old) || old == adjust)
        return VMC_OK;
    return get_msr(v, VMC_MSR_TSC, &tsc) && set_msr(v, VMC_MSR_TSC, tsc + adjust - old)
               ? VMC_OK
               : VMC_EHOST;
}

int kvm_set_state(void *ev, uint32_t groups, const struct vmc_x86_state *st)
{
    struct kvm_evcpu *v = ev;
    struct kvm_lapic_state lapic;

    if (v->debt == DEBT_ANSWER)
        return VMC_ESTATE;
    int rc = kvm_settle(v);
    if (rc == VMC_OK && (groups & SREG_GROUPS))
        rc = set_sregs(v, groups, st);
    if (rc == VMC_OK && (groups & VMC_ST_CTRL))
        rc = set_xcr0(v, st);
    if (rc == VMC_OK && (groups & (VMC_ST_GPR | VMC_ST_RIP)))
        rc = set_regs(v, groups, st);
    if (rc == VMC_OK && (groups & VMC_ST_FPU))
        rc = set_fpu(v, st);
    if (rc == VMC_OK && (groups & VMC_ST_DEBUG))
        rc = set_debug(v, st);
    if (rc == VMC_OK && (groups & VMC_ST_CLOCK) && !set_msr(v, VMC_MSR_TSC, st->tsc))
        rc = VMC_EHOST;
    if (rc == VMC_OK && (groups & (VMC_ST_MSR | VMC_ST_CLOCK)) == VMC_ST_MSR)
        rc = move_tsc(v, st->msr.tsc_adjust);
    if (rc == VMC_OK && (groups & VMC_ST_LAPIC) && has_lapic(v)) {
        memcpy(&lapic, st->lapic, sizeof(lapic));
        rc = request(v->fd, KVM_SET_LAPIC, &lapic);
    }
    if (rc == VMC_OK && (groups & VMC_ST_MSR))
        rc = set_msrs(v, &st->msr);
    if (rc == VMC_OK && (groups & (VMC_ST_EVENT | VMC_ST_RIP)))
        rc = set_events(v, groups, st);
    if (rc == VMC_OK && (groups & VMC_ST_RUN))
        rc = set_activity(v, st);
    return rc;
}

/* ---- injection ----------------------------------------------------------------------------- */

int kvm_can_inject(void *ev, const struct vmc_event *e)
{
    struct kvm_evcpu *v = ev;
    struct kvm_vcpu_events now;

    switch (e->type) {
    case VMC_EV_IRQ:
        return v->run->ready_for_interrupt_injection && v->run->if_flag ? VMC_OK : VMC_EAGAIN;
    case VMC_EV_NMI:
        if (request(v->fd, KVM_GET_VCPU_EVENTS, &now) != VMC_OK)
            return VMC_EHOST;
        return now.nmi.pending || now.nmi.injected ? VMC_EAGAIN : VMC_OK;
    case VMC_EV_EXCEPTION:
        if (request(v->fd, KVM_GET_VCPU_EVENTS, &now) != VMC_OK)
            return VMC_EHOST;
        return now.exception.injected || now.exception.pending ? VMC_EAGAIN : VMC_OK;
    default:
        return VMC_ENOTSUP;
    }
}

static int inject_exception(struct kvm_evcpu *v, const struct vmc_event *e)
{
    struct kvm_vcpu_events now;
    int rc = request(v->fd, KVM_GET_VCPU_EVENTS, &now);

    if (rc != VMC_OK)
        return rc;
    exception_in(e, &now);
    if (e->vector == VMC_VEC_PF) {
        struct kvm_sregs2 s;
        rc = read_sregs(v, &s);
        s.cr2 = e->payload;
        if (rc == VMC_OK)
            rc = write_sregs(v, &s);
    }
    if (rc != VMC_OK)
        return rc;
    now.flags = KVM_VCPUEVENT_VALID_SHADOW;
    return ioctl(v->fd, KVM_SET_VCPU_EVENTS, &now) < 0 ? VMC_EINVAL : VMC_OK;
}

int kvm_inject(void *ev, const struct vmc_event *e)
{
    struct kvm_evcpu *v = ev;
    int rc = e->type == VMC_EV_IRQ ? VMC_OK : kvm_settle(v);

    if (rc != VMC_OK)
        return rc;
    if (e->type == VMC_EV_IRQ) {
        struct kvm_interrupt irq = {.irq = e->vector};
        rc = request(v->fd, KVM_INTERRUPT, &irq);
        v->run->ready_for_interrupt_injection = 0; /* one an entry */
    } else if (e->type == VMC_EV_NMI) {
        rc = ioctl(v->fd, KVM_NMI) < 0 ? VMC_EHOST : VMC_OK;
    } else if (e->type == VMC_EV_EXCEPTION) {
        rc = inject_exception(v, e);
    } else {
        return VMC_ENOTSUP;
    }
    if (rc == VMC_OK)
        v->halted = false;
    return rc;
}
