/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exceptions and interrupts: recording, delivery, double and triple faults (SDM 3A chapter 6), and
 * delivery in real mode.
 */
#include "sys_priv.h"

/* ---- recording -------------------------------------------------------------------------------- */

static int record(struct vmci_cpu *cpu, unsigned vector, bool has_code, uint32_t code,
                  uint64_t payload)
{
    cpu->exc = (struct vmci_exc){
        .pending = true,
        .has_code = has_code,
        .vector = (uint8_t)vector,
        .code = code,
        .payload = payload,
    };
    return VMCI_FAULT;
}

int vmci_raise(struct vmci_cpu *cpu, unsigned vector)
{
    return record(cpu, vector, false, 0, 0);
}

int vmci_raise_code(struct vmci_cpu *cpu, unsigned vector, uint32_t code)
{
    return record(cpu, vector, true, code, 0);
}

int vmci_raise_pf(struct vmci_cpu *cpu, uint64_t la, uint32_t code)
{
    return record(cpu, VMC_VEC_PF, true, code, la);
}

/* ---- mode ------------------------------------------------------------------------------------- */

void vmci_update_mode(struct vmci_cpu *cpu)
{
    const struct vmc_segment *cs = &cpu->seg[VMC_CS];

    if (!vmci_prot_mode(cpu))
        cpu->cpl = 0;
    else if (vmci_v86_mode(cpu))
        cpu->cpl = 3;
    else
        cpu->cpl = (uint8_t)sys_attr_dpl(cpu->seg[VMC_SS].attr);
    if (vmci_long_mode(cpu) && (cs->attr & VMC_SEG_L) != 0)
        cpu->code_bits = 64;
    else
        cpu->code_bits = (cs->attr & VMC_SEG_DB) != 0 ? 32 : 16;
    cpu->stack_bits = (uint8_t)sys_stack_bits(&cpu->seg[VMC_SS], cpu->code_bits == 64);
    if (cpu->cpl == 3)
        cpu->tlb_mode = (cpu->cr0 & VMC_CR0_AM) != 0 && (cpu->rflags & VMC_FLAG_AC) != 0
                            ? VMCI_TLB_ALIGN
                            : VMCI_TLB_USER;
    else
        cpu->tlb_mode = (cpu->rflags & VMC_FLAG_AC) != 0 ? VMCI_TLB_SUP_AC : VMCI_TLB_SUP;
}

void vmci_set_rflags(struct vmci_cpu *cpu, uint64_t value, uint64_t mask)
{
    uint64_t old = cpu->rflags;
    uint64_t now = (old & ~mask) | (value & mask) | VMC_FLAG_1;

    cpu->rflags = now;
    if ((now & VMC_FLAG_TF) != 0)
        sys_request(cpu, VMCI_REQ_TRAP);
    if (((now ^ old) & (VMC_FLAG_AC | VMC_FLAG_VM)) != 0)
        vmci_update_mode(cpu);
}

/* ---- real mode -------------------------------------------------------------------------------- */

int sys_event_real(struct vmci_cpu *cpu, const struct sys_event *e)
{
    uint32_t at = (uint32_t)e->vector * 4;
    struct sys_stack s = {0};
    uint64_t entry = 0;
    int r;

    if (at + 3 > cpu->idtr.limit)
        return vmci_raise_code(cpu, VMC_VEC_GP, sys_idt_code(e));
    r = vmci_rd_sys(cpu, (uint32_t)(cpu->idtr.base + at), 4, &entry);
    if (r != 0)
        return r;
    sys_stack_current(cpu, &s);
    r = sys_push_room(cpu, &s, 3, 2);
    if (r == 0 && (entry & 0xffffu) > cpu->seg[VMC_CS].limit)
        r = vmci_raise_code(cpu, VMC_VEC_GP, e->ext);
    if (r == 0)
        r = sys_push(cpu, &s, 2, e->rflags);
    if (r == 0)
        r = sys_push(cpu, &s, 2, cpu->seg[VMC_CS].selector);
    if (r == 0)
        r = sys_push(cpu, &s, 2, e->rip);
    if (r != 0)
        return r;
    sys_sp_set(cpu, s.bits, s.sp);
    sys_seg_real(cpu, VMC_CS, (uint16_t)(entry >> 16));
    cpu->rip = entry & 0xffffu;
    cpu->rflags &= ~(VMC_FLAG_IF | VMC_FLAG_TF | VMC_FLAG_AC | VMC_FLAG_RF);
    vmci_update_mode(cpu);
    return 0;
}

/* ---- delivery --------------------------------------------------------------------------------- */

static int deliver_once(struct vmci_cpu *cpu, const struct sys_event *e)
{
    int r;

    cpu->delivering = (uint8_t)(e->vector + 1u);
    if (!vmci_prot_mode(cpu))
        r = sys_event_real(cpu, e);
    else if (vmci_long_mode(cpu))
        r = sys_event_long(cpu, e);
    else
        r = sys_event_prot(cpu, e);
    cpu->delivering = 0;
    if (r == 0)
        cpu->irq_shadow = 0;
    return r;
}

/* Effects of an exception that do not wait for its delivery. */
static void latch(struct vmci_cpu *cpu, const struct vmci_exc *x)
{
    if (x->vector == VMC_VEC_PF) {
        cpu->cr2 = x->payload;
    } else if (x->vector == VMC_VEC_DB && x->soft == 0) {
        /* B0-B3 report this exception; BD, BS and BT accumulate (SDM 3B 18.2.3). */
        cpu->dr6 = (cpu->dr6 & ~0xfull) | VMC_DR6_FIXED | (x->payload & 0xe00full);
        cpu->dr7 &= ~VMC_DR7_GD;
        cpu->msr.debugctl &= ~(VMC_DEBUGCTL_LBR | VMC_DEBUGCTL_BTF);
    }
}

/* Faults save RF set, so that the instruction can be tried again past its own breakpoint. */
static bool fault_sets_rf(const struct vmci_exc *x)
{
    if (x->soft != 0 || x->vector == VMC_VEC_NMI || x->vector == VMC_VEC_MC)
        return false;
    return x->vector != VMC_VEC_DB || (x->payload & VMC_DR6_BD) != 0;
}

static struct sys_event event_of(const struct vmci_cpu *cpu, const struct vmci_exc *x)
{
    return (struct sys_event){
        .vector = x->vector,
        .soft = x->soft,
        /* Real mode pushes no error codes. */
        .has_code = x->has_code && vmci_prot_mode(cpu),
        .ext = x->soft == VMC_EV_SOFT_INT || x->soft == VMC_EV_SOFT_EXC ? 0 : 1,
        .code = x->code,
        .rip = cpu->rip,
        .rflags = cpu->rflags | (fault_sets_rf(x) || cpu->mid_rep ? VMC_FLAG_RF : 0),
    };
}

enum exc_class { EXC_BENIGN, EXC_CONTRIBUTORY, EXC_PAGE_FAULT, EXC_DOUBLE };

static enum exc_class exc_class(unsigned vector, unsigned soft)
{
    if (soft != 0)
        return EXC_BENIGN;
    switch (vector) {
    case VMC_VEC_DE:
    case VMC_VEC_TS:
    case VMC_VEC_NP:
    case VMC_VEC_SS:
    case VMC_VEC_GP:
        return EXC_CONTRIBUTORY;
    case VMC_VEC_PF:
        return EXC_PAGE_FAULT;
    case VMC_VEC_DF:
        return EXC_DOUBLE;
    default:
        return EXC_BENIGN;
    }
}

/* SDM 3A table 6-5. True: the second exception makes a double fault with the first. */
static bool makes_double(enum exc_class first, enum exc_class second)
{
    if (first == EXC_CONTRIBUTORY)
        return second == EXC_CONTRIBUTORY;
    if (first == EXC_PAGE_FAULT)
        return second == EXC_CONTRIBUTORY || second == EXC_PAGE_FAULT;
    return false;
}

static int triple_fault(struct vmci_cpu *cpu, const struct vmci_exc *first)
{
    cpu->activity = VMC_RUN_SHUTDOWN;
    cpu->exit = (struct vmc_exit){.kind = VMC_EXIT_SHUTDOWN, .rip = cpu->rip};
    cpu->exit.u.stop.why = VMC_STOP_TRIPLE_FAULT;
    cpu->exit.u.stop.detail = first->vector;
    /* For the dump: what began it, and what stopped the double fault's delivery. */
    cpu->exit.raw.reason = first->vector;
    cpu->exit.raw.info[0] = first->code;
    cpu->exit.raw.info[1] = cpu->exc.vector | (uint64_t)cpu->exc.code << 32;
    cpu->exit.raw.info[2] = first->vector == VMC_VEC_PF ? first->payload : cpu->cr2;
    cpu->exc.pending = false;
    return VMCI_EXIT;
}

/* A guest can make benign exceptions (#AC) fault for ever in their own delivery. */
#define MAX_NESTING 32

/*
 * Deliver an event and whatever its delivery raises. first: the exception that began it, or what
 * stands for an interrupt.
 */
static int deliver(struct vmci_cpu *cpu, struct sys_event e, const struct vmci_exc *first)
{
    struct vmci_exc now = *first;
    enum exc_class class = exc_class(now.vector, now.soft);

    for (unsigned i = 0; i < MAX_NESTING; i++) {
        int r = deliver_once(cpu, &e);

        if (r != VMCI_FAULT) {
            cpu->exc.pending = false;
            return r;
        }
        now = cpu->exc;
        latch(cpu, &now);
        enum exc_class second = exc_class(now.vector, now.soft);
        if (class == EXC_DOUBLE && second != EXC_BENIGN)
            return triple_fault(cpu, first);
        if (makes_double(class, second))
            now = (struct vmci_exc){.vector = VMC_VEC_DF, .has_code = true};
        class = exc_class(now.vector, now.soft);
        e = event_of(cpu, &now);
    }
    return triple_fault(cpu, first);
}

int vmci_deliver_exception(struct vmci_cpu *cpu)
{
    struct vmci_exc first = cpu->exc;
    int r;

    cpu->exc.pending = false;
    if (first.vector == VMC_VEC_DB && first.soft == 0) { /* one #DB reports everything */
        first.payload |= cpu->pending_db;
        cpu->pending_db = 0;
    }
    latch(cpu, &first);
    r = deliver(cpu, event_of(cpu, &first), &first);
    if (r == VMCI_EXIT && cpu->exit.kind != VMC_EXIT_SHUTDOWN)
        cpu->exc = first; /* to be delivered again when the embedder has answered */
    else if (cpu->activity == VMC_RUN_HALTED)
        cpu->activity = VMC_RUN_RUNNING; /* the single-step trap of HLT */
    return r;
}

int vmci_deliver_event(struct vmci_cpu *cpu, const struct vmc_event *ev)
{
    struct vmci_exc x = {.vector = ev->vector};
    struct sys_event e;
    int r;

    switch (ev->type) {
    case VMC_EV_NONE:
        return 0;
    case VMC_EV_IRQ:
    case VMC_EV_NMI:
        x.soft = ev->type == VMC_EV_NMI ? VMC_EV_NMI : 0xff; /* benign, whatever the vector */
        break;
    case VMC_EV_EXCEPTION:
        x.has_code = ev->has_code;
        x.code = ev->code;
        x.payload = ev->payload;
        break;
    default:
        x.soft = ev->type;
        break;
    }
    if (ev->type == VMC_EV_EXCEPTION)
        latch(cpu, &x);
    cpu->exc.pending = false;
    e = event_of(cpu, &x);
    if (ev->type == VMC_EV_IRQ || ev->type == VMC_EV_NMI)
        e.soft = 0;
    else
        e.rip += ev->type == VMC_EV_EXCEPTION ? 0 : ev->insn_len;
    r = deliver(cpu, e, &x);
    if (r == VMCI_EXIT && cpu->exit.kind != VMC_EXIT_SHUTDOWN)
        return r;
    if (ev->type == VMC_EV_NMI)
        cpu->nmi_blocked = 1;
    if (cpu->activity == VMC_RUN_HALTED)
        cpu->activity = VMC_RUN_RUNNING;
    return r;
}

/* ---- INT n, INT3, INTO, INT1 ------------------------------------------------------------------ */

int vmci_soft_int(struct vmci_cpu *cpu, unsigned vector, unsigned soft, uint64_t next)
{
    struct sys_event e = {
        .vector = (uint8_t)vector,
        .soft = (uint8_t)soft,
        .ext = soft == VMC_EV_PRIV_SOFT_EXC,
        .rip = next,
        .rflags = cpu->rflags & ~VMC_FLAG_RF,
    };

    if (vmci_prot_mode(cpu) && vmci_v86_mode(cpu) && soft == VMC_EV_SOFT_INT) {
        bool redirected = false;
        if ((cpu->cr4 & VMC_CR4_VME) != 0) {
            int r = sys_vme_redirected(cpu, vector, &redirected);
            if (r != 0)
                return r;
        }
        if (redirected)
            return sys_event_v86_redirect(cpu, &e);
        if (vmci_iopl(cpu) < 3)
            return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    }
    return deliver_once(cpu, &e);
}
