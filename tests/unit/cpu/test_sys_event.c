/* SPDX-License-Identifier: BSD-2-Clause */
/* Events, IRET and task switches: frames, checks, double and triple faults. */
#include "sys_rig.h"

#define NEXT    (RIG_CODE + 2)
#define HANDLER 0x15000u
#define H(v)    (HANDLER + 0x100u * (v))

static void idt_all(unsigned type)
{
    for (unsigned v = 0; v < 32; v++)
        idt(v, S_CODE0, H(v), D_P | type);
}

static int deliver(unsigned vector, bool has_code, uint32_t code)
{
    int r = has_code ? vmci_raise_code(rig.cpu, vector, code) : vmci_raise(rig.cpu, vector);
    assert_int_equal(r, VMCI_FAULT);
    return vmci_deliver_exception(rig.cpu);
}

/* ---- delivery in protected mode --------------------------------------------------------------- */

static void fault_frame_same_level(void **state)
{
    (void)state;
    rig_prot(0);
    idt_all(0xe);
    rig.cpu->rflags |= VMC_FLAG_IF | VMC_FLAG_TF | VMC_FLAG_NT | VMC_FLAG_CF;
    uint64_t flags = rig.cpu->rflags;
    assert_int_equal(deliver(VMC_VEC_GP, true, 0x1234), 0);
    assert_int_equal(rig.cpu->rip, H(13));
    assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK0 - 16);
    assert_int_equal(get(RIG_STK0 - 4, 4), flags | VMC_FLAG_RF);
    assert_int_equal(get(RIG_STK0 - 8, 4), S_CODE0);
    assert_int_equal(get(RIG_STK0 - 12, 4), RIG_CODE);
    assert_int_equal(get(RIG_STK0 - 16, 4), 0x1234);
    assert_int_equal(rig.cpu->rflags, VMC_FLAG_1 | VMC_FLAG_CF);
}

static void frame_from_user_and_trap_gate(void **state)
{
    (void)state;
    rig_prot(3);
    idt(0x80, S_CODE0, H(1), D_P | D_DPL(3) | 0xf);
    rig.cpu->rflags |= VMC_FLAG_IF;
    assert_int_equal(vmci_soft_int(rig.cpu, 0x80, VMC_EV_SOFT_INT, NEXT), 0);
    assert_int_equal(rig.cpu->cpl, 0);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK0 - 20);
    assert_int_equal(get(RIG_STK0 - 4, 4), S_DATA3);
    assert_int_equal(get(RIG_STK0 - 8, 4), RIG_STK3);
    assert_int_equal(get(RIG_STK0 - 12, 4), VMC_FLAG_1 | VMC_FLAG_IF);
    assert_int_equal(get(RIG_STK0 - 16, 4), S_CODE3);
    assert_int_equal(get(RIG_STK0 - 20, 4), NEXT);
    assert_true((rig.cpu->rflags & VMC_FLAG_IF) != 0); /* trap gate */
    assert_int_equal(vmci_iret(rig.cpu, 4, 0), 0);
    assert_int_equal(rig.cpu->cpl, 3);
    assert_int_equal(rig.cpu->rip, NEXT);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK3);
    assert_true((rig.cpu->seg[VMC_DS].attr & VMC_SEG_UNUSABLE) == 0); /* still level 3 data */
}

static void gate_16_bit(void **state)
{
    (void)state;
    rig_prot(0);
    idt(6, S_CODE0, 0xabcd4321, D_P | 6);
    assert_int_equal(deliver(VMC_VEC_UD, false, 0), 0);
    assert_int_equal(rig.cpu->rip, 0x4321);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK0 - 6);
}

struct gate_case {
    const char *what;
    unsigned cpl;
    unsigned soft;
    unsigned vector_called;
    uint64_t gate; /* of the vector */
    unsigned vector, code;
};

static void gate_checks(void **state)
{
    (void)state;
    static const struct gate_case t[] = {
        {"beyond idt", 0, VMC_EV_SOFT_INT, 0xff, 0, VMC_VEC_GP, 0xff * 8 + 2},
        {"not a gate", 0, VMC_EV_SOFT_INT, 0x40, 0, VMC_VEC_GP, 0x202},
        {"call gate", 0, VMC_EV_SOFT_INT, 0x40, mk_gate(S_CODE0, 1, D_P | 0xc, 0), VMC_VEC_GP,
         0x202},
        {"dpl", 3, VMC_EV_SOFT_INT, 0x40, mk_gate(S_CODE0, 1, D_P | 0xe, 0), VMC_VEC_GP, 0x202},
        {"dpl of int3", 3, VMC_EV_SOFT_EXC, 3, mk_gate(S_CODE0, 1, D_P | 0xe, 0), VMC_VEC_GP, 0x1a},
        {"dpl before present", 3, VMC_EV_SOFT_INT, 0x40, mk_gate(S_CODE0, 1, 0xe, 0), VMC_VEC_GP,
         0x202},
        {"not present", 0, VMC_EV_SOFT_INT, 0x40, mk_gate(S_CODE0, 1, 0xe, 0), VMC_VEC_NP, 0x202},
        {"not present, int1", 0, VMC_EV_PRIV_SOFT_EXC, 1, mk_gate(S_CODE0, 1, 0xe, 0), VMC_VEC_NP,
         0xb},
        {"null cs", 0, VMC_EV_SOFT_INT, 0x40, mk_gate(0, 1, D_P | 0xe, 0), VMC_VEC_GP, 0},
        {"data", 0, VMC_EV_SOFT_INT, 0x40, mk_gate(S_DATA0, 1, D_P | 0xe, 0), VMC_VEC_GP, S_DATA0},
        {"outer", 0, VMC_EV_SOFT_INT, 0x40, mk_gate(S_CODE3, 1, D_P | 0xe, 0), VMC_VEC_GP,
         S_CODE3 & ~3},
        {"task gate to ldt", 0, VMC_EV_SOFT_INT, 0x40, mk_gate(0xc, 0, D_P | 5, 0), VMC_VEC_GP, 0xc},
        {"task gate to busy", 0, VMC_EV_SOFT_INT, 0x40, mk_gate(S_TSS, 0, D_P | 5, 0), VMC_VEC_GP,
         S_TSS},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        rig_prot(t[i].cpl);
        put64(RIG_IDT + 8 * t[i].vector_called, t[i].gate);
        if (t[i].gate == 0 && t[i].vector_called == 0xff)
            rig.cpu->idtr.limit = 0x7fe;
        int r = vmci_soft_int(rig.cpu, t[i].vector_called, t[i].soft, NEXT);
        if (r != VMCI_FAULT || rig.cpu->exc.vector != t[i].vector || rig.cpu->exc.code != t[i].code)
            fail_msg("%s: %d #%u(%x)", t[i].what, r, rig.cpu->exc.vector, rig.cpu->exc.code);
        assert_int_equal(rig.cpu->rip, RIG_CODE);
        assert_int_equal(rig.cpu->cpl, t[i].cpl);
    }
}

static void conforming_handler_keeps_level(void **state)
{
    (void)state;
    rig_prot(3);
    idt(0x40, S_CONF, H(2), D_P | D_DPL(3) | 0xe);
    assert_int_equal(vmci_soft_int(rig.cpu, 0x40, VMC_EV_SOFT_INT, NEXT), 0);
    assert_int_equal(rig.cpu->cpl, 3);
    assert_int_equal(rig.cpu->seg[VMC_CS].selector, S_CONF | 3);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK3 - 12);
}

static void second_faults(void **state)
{
    (void)state;
    /* The first exception's gate is broken in a way that raises the second. */
    static const struct {
        unsigned first;
        unsigned type;    /* of the first gate: 0 gives #GP, 0xe not present gives #NP */
        unsigned handler; /* that runs in the end */
        unsigned code;
    } t[] = {
        {VMC_VEC_UD, 0, VMC_VEC_GP, 6 * 8 + 3},   /* benign, then contributory: serial */
        {VMC_VEC_UD, 0xe, VMC_VEC_NP, 6 * 8 + 3},
        {VMC_VEC_DE, 0, VMC_VEC_DF, 0},           /* contributory twice */
        {VMC_VEC_TS, 0xe, VMC_VEC_DF, 0},
        {VMC_VEC_GP, 0xe, VMC_VEC_DF, 0},
        {VMC_VEC_PF, 0, VMC_VEC_DF, 0},           /* page fault, then contributory */
        {VMC_VEC_AC, 0, VMC_VEC_GP, 17 * 8 + 3},
        {VMC_VEC_NM, 0xe, VMC_VEC_NP, 7 * 8 + 3},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        rig_prot(0);
        idt_all(0xe);
        put64(RIG_IDT + 8 * t[i].first, mk_gate(S_CODE0, 0, t[i].type, 0));
        assert_int_equal(deliver(t[i].first, t[i].first >= 8 && t[i].first != 16, 0), 0);
        assert_int_equal(rig.cpu->rip, H(t[i].handler));
        assert_int_equal(get(rig.cpu->gpr[VMC_RSP], 4), t[i].code);
    }
}

static void page_faults_in_delivery(void **state)
{
    (void)state;
    /* #GP, then #PF while its handler's stack is pushed: serial. */
    rig_prot(3);
    idt_all(0xe);
    put32(RIG_TSS + 4, 0x21000);
    rig.fault_page = 0x20000;
    /* #PF, then #PF: double fault, which faults too: shutdown. */
    assert_int_equal(vmci_raise_pf(rig.cpu, 0x123, 0), VMCI_FAULT);
    assert_int_equal(vmci_deliver_exception(rig.cpu), VMCI_EXIT);
    assert_int_equal(rig.cpu->exit.kind, VMC_EXIT_SHUTDOWN);
    assert_int_equal(rig.cpu->exit.u.stop.why, VMC_STOP_TRIPLE_FAULT);
    assert_int_equal(rig.cpu->activity, VMC_RUN_SHUTDOWN);
    assert_int_equal(rig.cpu->cr2, 0x20ffc);
    assert_int_equal(rig.cpu->cpl, 3);
    assert_int_equal(rig.cpu->rip, RIG_CODE);
    /* The same with a task gate for #DF that brings its own stack. */
    rig_prot(3);
    idt_all(0xe);
    put32(RIG_TSS + 4, 0x21000);
    rig.fault_page = 0x20000;
    idt(VMC_VEC_DF, S_TSS2, 0, D_P | 5);
    put32(RIG_TSS2 + 0x20, 0x1234);
    put32(RIG_TSS2 + 0x24, 2);
    put32(RIG_TSS2 + 0x38, RIG_STK0);
    for (unsigned i = 0; i < 6; i++)
        put16(RIG_TSS2 + 0x48 + 4 * i, i == 1 ? S_CODE0 : S_DATA0);
    assert_int_equal(vmci_raise_pf(rig.cpu, 0x123, 0), VMCI_FAULT);
    assert_int_equal(vmci_deliver_exception(rig.cpu), 0);
    assert_int_equal(rig.cpu->rip, 0x1234);
    assert_int_equal(get(RIG_STK0 - 4, 4), 0);
    assert_int_equal(rig.cpu->seg[VMC_TR].selector, S_TSS2);
    assert_int_equal(get(RIG_TSS2, 2), S_TSS);
    assert_int_equal(get(RIG_TSS + 0x20, 4), RIG_CODE);
    assert_true((rig.cpu->rflags & VMC_FLAG_NT) != 0);
}

static void debug_exception_state(void **state)
{
    (void)state;
    rig_prot(0);
    idt_all(0xe);
    rig.cpu->dr6 = VMC_DR6_FIXED | VMC_DR6_BS | 3;
    rig.cpu->dr7 = 0x2401;
    assert_int_equal(vmci_raise(rig.cpu, VMC_VEC_DB), VMCI_FAULT);
    rig.cpu->exc.payload = 4;
    assert_int_equal(vmci_deliver_exception(rig.cpu), 0);
    assert_int_equal(rig.cpu->dr6, VMC_DR6_FIXED | VMC_DR6_BS | 4);
    assert_int_equal(rig.cpu->dr7, 0x401);
    assert_int_equal(get(RIG_STK0 - 4, 4) & VMC_FLAG_RF, 0);
}

static void external_interrupt_and_nmi(void **state)
{
    (void)state;
    struct vmc_event e = {.vector = 0x40, .type = VMC_EV_IRQ};
    rig_prot(3);
    idt_all(0xe);
    idt(0x40, S_CODE0, H(0), D_P | 0xe); /* DPL 0 does not matter */
    rig.cpu->activity = VMC_RUN_HALTED;
    rig.cpu->irq_shadow = 1;
    assert_int_equal(vmci_deliver_event(rig.cpu, &e), 0);
    assert_int_equal(rig.cpu->rip, H(0));
    assert_int_equal(rig.cpu->activity, VMC_RUN_RUNNING);
    assert_int_equal(rig.cpu->irq_shadow, 0);
    assert_int_equal(get(RIG_STK0 - 12, 4) & VMC_FLAG_RF, 0);
    /* A vector below 32 from outside is benign: its fault is not a double fault. */
    rig_prot(0);
    idt_all(0xe);
    put64(RIG_IDT + 8 * 13, 0);
    e.vector = 11;
    put64(RIG_IDT + 8 * 11, mk_gate(S_DATA0, 0, D_P | 0xe, 0));
    put64(RIG_IDT + 8 * 13, mk_gate(S_CODE0, H(13), D_P | 0xe, 0));
    assert_int_equal(vmci_deliver_event(rig.cpu, &e), 0);
    assert_int_equal(rig.cpu->rip, H(13));
    assert_int_equal(get(rig.cpu->gpr[VMC_RSP], 4), S_DATA0 | 1);
    e = (struct vmc_event){.vector = 2, .type = VMC_EV_NMI};
    rig_prot(0);
    idt_all(0xe);
    assert_int_equal(vmci_deliver_event(rig.cpu, &e), 0);
    assert_int_equal(rig.cpu->nmi_blocked, 1);
    assert_int_equal(vmci_iret(rig.cpu, 4, 0), 0);
    assert_int_equal(rig.cpu->nmi_blocked, 0);
}

/* ---- real and virtual-8086 mode --------------------------------------------------------------- */

static void real_mode_interrupts(void **state)
{
    (void)state;
    rig_new();
    rig.cpu->gpr[VMC_RSP] = 0x8000;
    rig.cpu->rflags |= VMC_FLAG_IF | VMC_FLAG_AC;
    put32(4 * 0x21, 0x20001234);
    assert_int_equal(vmci_soft_int(rig.cpu, 0x21, VMC_EV_SOFT_INT, 0x100), 0);
    assert_int_equal(rig.cpu->seg[VMC_CS].base, 0x20000);
    assert_int_equal(rig.cpu->rip, 0x1234);
    assert_int_equal(get(0x7ffe, 2), VMC_FLAG_1 | VMC_FLAG_IF);
    assert_int_equal(get(0x7ffc, 2), 0xf000);
    assert_int_equal(get(0x7ffa, 2), 0x100);
    assert_int_equal(rig.cpu->rflags, VMC_FLAG_1);
    assert_int_equal(vmci_iret(rig.cpu, 2, 0), 0);
    assert_int_equal(rig.cpu->rip, 0x100);
    assert_int_equal(rig.cpu->rflags, VMC_FLAG_1 | VMC_FLAG_IF);
    /* No error codes; a short IDT is a shutdown in the end. */
    put32(4 * 13, 0x20001300);
    assert_int_equal(deliver(VMC_VEC_GP, true, 0x55), 0);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], 0x7ffa);
    rig.cpu->idtr.limit = 0;
    assert_int_equal(deliver(VMC_VEC_UD, false, 0), VMCI_EXIT);
    assert_int_equal(rig.cpu->exit.u.stop.why, VMC_STOP_TRIPLE_FAULT);
}

static void enter_v86(unsigned iopl)
{
    rig_prot(0);
    idt_all(0xe);
    push32(0x5000); /* GS FS DS ES SS ESP EFLAGS CS EIP */
    push32(0x4000);
    push32(0x3000);
    push32(0x2000);
    push32(0x1000);
    push32(0xffe);
    push32((uint32_t)(VMC_FLAG_VM | VMC_FLAG_1 | VMC_FLAG_IF | iopl << 12));
    push32(0x0200);
    push32(0x40);
    assert_int_equal(vmci_iret(rig.cpu, 4, 0), 0);
}

static void v86_round_trip(void **state)
{
    (void)state;
    enter_v86(0);
    assert_true(vmci_v86_mode(rig.cpu));
    assert_int_equal(rig.cpu->cpl, 3);
    assert_int_equal(rig.cpu->code_bits, 16);
    assert_int_equal(rig.cpu->seg[VMC_GS].base, 0x50000);
    assert_int_equal(rig.cpu->seg[VMC_CS].attr, 0xf3);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], 0xffe);
    assert_int_equal(deliver(VMC_VEC_GP, true, 0), 0);
    assert_int_equal(rig.cpu->cpl, 0);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK0 - 40);
    assert_int_equal(rig.cpu->seg[VMC_DS].selector, 0);
    assert_true((rig.cpu->seg[VMC_GS].attr & VMC_SEG_UNUSABLE) != 0);
    static const uint32_t frame[] = {0x5000, 0x4000, 0x3000, 0x2000, 0x1000, 0xffe};
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(frame); i++)
        assert_int_equal(get(RIG_STK0 - 4 - 4 * i, 4), frame[i]);
    assert_int_equal(get(RIG_STK0 - 28, 4),
                     VMC_FLAG_VM | VMC_FLAG_1 | VMC_FLAG_IF | VMC_FLAG_RF);
    /* The handler must be level 0, not conforming. */
    enter_v86(0);
    idt(13, S_CONF, H(13), D_P | 0xe);
    assert_int_equal(deliver(VMC_VEC_UD, false, 0), 0);
    enter_v86(0);
    idt(6, S_CONF, H(6), D_P | 0xe);
    assert_int_equal(deliver(VMC_VEC_UD, false, 0), 0);
    assert_int_equal(rig.cpu->rip, H(13));
    assert_int_equal(get(rig.cpu->gpr[VMC_RSP], 4), S_CONF | 1);
}

static void v86_int_and_iret_obey_iopl(void **state)
{
    (void)state;
    enter_v86(0);
    assert_fault(vmci_soft_int(rig.cpu, 0x21, VMC_EV_SOFT_INT, 0x42), VMC_VEC_GP, 0);
    assert_fault(vmci_iret(rig.cpu, 2, 0), VMC_VEC_GP, 0);
    /* INT3 is not sensitive to IOPL, but to the gate's DPL. */
    assert_fault(vmci_soft_int(rig.cpu, 3, VMC_EV_SOFT_EXC, 0x41), VMC_VEC_GP, 0x1a);
    idt(3, S_CODE0, H(3), D_P | D_DPL(3) | 0xe);
    assert_int_equal(vmci_soft_int(rig.cpu, 3, VMC_EV_SOFT_EXC, 0x41), 0);
    enter_v86(3);
    idt(0x21, S_CODE0, H(4), D_P | D_DPL(3) | 0xe);
    assert_int_equal(vmci_soft_int(rig.cpu, 0x21, VMC_EV_SOFT_INT, 0x42), 0);
    assert_int_equal(rig.cpu->cpl, 0);
    enter_v86(3);
    put16(0x10ffe, 0x99);
    rig.cpu->gpr[VMC_RSP] = 0xff8;
    put16(0x10ff8, 0x77);
    put16(0x10ffa, 0x300);
    put16(0x10ffc, 0);
    assert_int_equal(vmci_iret(rig.cpu, 2, 0), 0);
    assert_int_equal(rig.cpu->rip, 0x77);
    assert_int_equal(rig.cpu->seg[VMC_CS].base, 0x3000);
    assert_int_equal(rig.cpu->rflags & (VMC_FLAG_VM | VMC_FLAG_IOPL | VMC_FLAG_IF),
                     VMC_FLAG_VM | VMC_FLAG_IOPL);
}

static void vme_redirection(void **state)
{
    (void)state;
    enter_v86(0);
    rig.cpu->cr4 = VMC_CR4_VME;
    rig.cpu->rflags |= VMC_FLAG_VIF | VMC_FLAG_NT;
    put16(RIG_TSS + 0x66, 0x88); /* redirection map at 68h */
    put32(4 * 0x21, 0x03000100);
    /* Clear bit: through the program's own table, with the virtual interrupt flag. */
    assert_int_equal(vmci_soft_int(rig.cpu, 0x21, VMC_EV_SOFT_INT, 0x42), 0);
    assert_int_equal(rig.cpu->rip, 0x100);
    assert_int_equal(rig.cpu->seg[VMC_CS].base, 0x3000);
    assert_int_equal(get(0x10ffc, 2), VMC_FLAG_1 | VMC_FLAG_IF | VMC_FLAG_IOPL | VMC_FLAG_NT);
    assert_int_equal(rig.cpu->rflags & (VMC_FLAG_VIF | VMC_FLAG_IF | VMC_FLAG_NT),
                     VMC_FLAG_IF | VMC_FLAG_NT);
    assert_int_equal(vmci_iret(rig.cpu, 2, 0), 0);
    assert_int_equal(rig.cpu->rip, 0x42);
    assert_true((rig.cpu->rflags & VMC_FLAG_VIF) != 0);
    /* VIP and an image with IF: #GP. */
    rig.cpu->rflags |= VMC_FLAG_VIP;
    rig.cpu->gpr[VMC_RSP] = 0xff8;
    assert_fault(vmci_iret(rig.cpu, 2, 0), VMC_VEC_GP, 0);
    assert_fault(vmci_iret(rig.cpu, 4, 0), VMC_VEC_GP, 0);
    /* Set bit: #GP. */
    rig.mem[RIG_TSS + 0x68 + 0x21 / 8] = 1u << (0x21 % 8);
    assert_fault(vmci_soft_int(rig.cpu, 0x21, VMC_EV_SOFT_INT, 0x42), VMC_VEC_GP, 0);
    put16(RIG_TSS + 0x66, 0x10); /* no room below the map */
    assert_fault(vmci_soft_int(rig.cpu, 0x22, VMC_EV_SOFT_INT, 0x42), VMC_VEC_GP, 0);
}

/* ---- long mode -------------------------------------------------------------------------------- */

static void long_mode_frames(void **state)
{
    (void)state;
    rig_long(3);
    for (unsigned v = 0; v < 32; v++)
        idt64(v, S_CODE64, 0xffff800000000000ull + H(v), D_P | 0xe, v == 8 ? 1 : 0);
    rig.cpu->gpr[VMC_RSP] = RIG_STK3 - 5;
    assert_int_equal(deliver(VMC_VEC_GP, true, 0), 0);
    assert_int_equal(rig.cpu->rip, 0xffff800000000000ull + H(13));
    assert_int_equal(rig.cpu->seg[VMC_SS].selector, 0);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK0 - 48);
    assert_int_equal(get(RIG_STK0 - 8, 8), S_DATA3);
    assert_int_equal(get(RIG_STK0 - 16, 8), RIG_STK3 - 5);
    assert_int_equal(get(RIG_STK0 - 32, 8), S_CODE64U);
    rig.cpu->gpr[VMC_RSP] += 8;
    assert_int_equal(vmci_iret(rig.cpu, 8, 0), 0);
    assert_int_equal(rig.cpu->cpl, 3);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK3 - 5);
    /* Same level: the stack is aligned. */
    rig_long(0);
    idt64(3, S_CODE64, H(3), D_P | 0xf, 0);
    rig.cpu->gpr[VMC_RSP] = RIG_STK0 - 5;
    assert_int_equal(vmci_soft_int(rig.cpu, 3, VMC_EV_SOFT_EXC, NEXT), 0);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK0 - 16 - 40);
    assert_int_equal(rig.cpu->seg[VMC_SS].selector, S_DATA0);
    /* IST at the same level. */
    rig_long(0);
    idt64(3, S_CODE64, H(3), D_P | 0xf, 2);
    assert_int_equal(vmci_soft_int(rig.cpu, 3, VMC_EV_SOFT_EXC, NEXT), 0);
    assert_int_equal(rig.cpu->gpr[VMC_RSP], RIG_STK0 - 0x1100 - 40);
}

static void long_mode_checks(void **state)
{
    (void)state;
    rig_long(0);
    idt64(0x40, S_CODE0, H(3), D_P | 0xe, 0);
    assert_fault(vmci_soft_int(rig.cpu, 0x40, VMC_EV_SOFT_INT, NEXT), VMC_VEC_GP, S_CODE0);
    idt64(0x40, S_TSS2, 0, D_P | 5, 0);
    assert_fault(vmci_soft_int(rig.cpu, 0x40, VMC_EV_SOFT_INT, NEXT), VMC_VEC_GP, 0x202);
    idt64(0x40, S_CODE64, 0x8000000000000ull, D_P | 0xe, 0);
    assert_fault(vmci_soft_int(rig.cpu, 0x40, VMC_EV_SOFT_INT, NEXT), VMC_VEC_GP, 0);
    idt64(0x40, S_CODE64, H(3), D_P | 0xe, 3);
    put64(RIG_TSS + 36 + 16, 0x8000000000000ull);
    assert_fault(vmci_soft_int(rig.cpu, 0x40, VMC_EV_SOFT_INT, NEXT), VMC_VEC_SS, 0);
    rig.cpu->seg[VMC_TR].limit = 40;
    assert_fault(vmci_soft_int(rig.cpu, 0x40, VMC_EV_SOFT_INT, NEXT), VMC_VEC_TS, S_TSS);
    rig.cpu->rflags |= VMC_FLAG_NT;
    assert_fault(vmci_iret(rig.cpu, 8, 0), VMC_VEC_GP, 0);
    /* IRETQ to NULL SS at level 0, not at 3. */
    rig_long(0);
    push64(0);
    push64(RIG_STK0);
    push64(2);
    push64(S_CODE64);
    push64(0x4444);
    assert_int_equal(vmci_iret(rig.cpu, 8, 0), 0);
    assert_int_equal(rig.cpu->rip, 0x4444);
    push64(3);
    push64(RIG_STK3);
    push64(2);
    push64(S_CODE64U);
    push64(0x4444);
    assert_fault(vmci_iret(rig.cpu, 8, 0), VMC_VEC_GP, 0);
}

/* ---- IRET: flags ------------------------------------------------------------------------------ */

static void iret_flag_rights(void **state)
{
    (void)state;
    const uint64_t all = 0x3f7fd7;
    static const struct {
        unsigned cpl, iopl, bytes;
        uint64_t may; /* of IF, IOPL, VIF, VIP, RF, AC, ID */
    } t[] = {
        {0, 0, 4, VMC_FLAG_IF | VMC_FLAG_IOPL | VMC_FLAG_VIF | VMC_FLAG_VIP | VMC_FLAG_RF |
                      VMC_FLAG_AC | VMC_FLAG_ID},
        {0, 0, 2, VMC_FLAG_IF | VMC_FLAG_IOPL},
        {3, 3, 4, VMC_FLAG_IF | VMC_FLAG_RF | VMC_FLAG_AC | VMC_FLAG_ID},
        {3, 0, 4, VMC_FLAG_RF | VMC_FLAG_AC | VMC_FLAG_ID},
        {3, 0, 2, 0},
    };
    const uint64_t priv = t[0].may;
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        rig_prot(t[i].cpl);
        rig.cpu->rflags = VMC_FLAG_1 | (uint64_t)t[i].iopl << 12;
        uint64_t image = all & ~(VMC_FLAG_VM | VMC_FLAG_NT);
        if (t[i].bytes == 4) {
            push32((uint32_t)image);
            push32(t[i].cpl == 3 ? S_CODE3 : S_CODE0);
            push32(0x1111);
        } else {
            rig.cpu->gpr[VMC_RSP] -= 6;
            put16(rig.cpu->gpr[VMC_RSP] + 4, (uint16_t)image);
            put16(rig.cpu->gpr[VMC_RSP] + 2, t[i].cpl == 3 ? S_CODE3 : S_CODE0);
            put16(rig.cpu->gpr[VMC_RSP], 0x1111);
        }
        assert_int_equal(vmci_iret(rig.cpu, t[i].bytes, 0), 0);
        uint64_t want = t[i].may | (t[i].iopl != 0 ? VMC_FLAG_IOPL : 0);
        assert_int_equal(rig.cpu->rflags & priv, want);
        assert_int_equal(rig.cpu->rflags & VMC_FLAG_ARITH, VMC_FLAG_ARITH);
    }
}

static void iret_to_16_bit_stack_keeps_upper_sp(void **state)
{
    (void)state;
    rig_prot(0);
    gdt(0x80, mk_desc(0, 0xffff, D_P | D_DPL(3) | D_DATA, 0));
    rig.cpu->gpr[VMC_RSP] = RIG_STK0;
    rig.cpu->seg[VMC_SS].limit = 0xffffffff;
    push32(0x83);
    push32(0xaaaa1234);
    push32(2);
    push32(S_CODE3);
    push32(0x1111);
    assert_int_equal(vmci_iret(rig.cpu, 4, 0), 0);
    assert_int_equal(rig.cpu->gpr[VMC_RSP] & 0xffff, 0x1234);
    assert_int_equal(rig.cpu->gpr[VMC_RSP] >> 16, 0);
}

/* ---- task switch ------------------------------------------------------------------------------ */

static void make_task(uint16_t cs, uint16_t ss, uint16_t ds, uint16_t ldt_sel)
{
    put32(RIG_TSS2 + 0x1c, 0x7000);
    put32(RIG_TSS2 + 0x20, 0x6543);
    put32(RIG_TSS2 + 0x24, VMC_FLAG_1 | VMC_FLAG_CF);
    for (unsigned i = 0; i < 8; i++)
        put32(RIG_TSS2 + 0x28 + 4 * i, i == VMC_RSP ? RIG_STK0 - 0x800 : 0x1000 + i);
    for (unsigned i = 0; i < 6; i++)
        put16(RIG_TSS2 + 0x48 + 4 * i, i == 1 ? cs : i == 2 ? ss : ds);
    put16(RIG_TSS2 + 0x60, ldt_sel);
}

static void task_call_and_return(void **state)
{
    (void)state;
    rig_prot(0);
    make_task(S_CODE0, S_DATA0, S_DATA0, S_LDT);
    rig.cpu->gpr[VMC_RBX] = 0xbbbb;
    rig.cpu->dr7 = 0x7ff;
    assert_int_equal(vmci_far_call(rig.cpu, S_TSS2, 0, 4, NEXT), 0);
    assert_int_equal(rig.cpu->rip, 0x6543);
    assert_int_equal(rig.cpu->gpr[VMC_RBX], 0x1003);
    assert_int_equal(rig.cpu->rflags, VMC_FLAG_1 | VMC_FLAG_CF | VMC_FLAG_NT);
    assert_int_equal(rig.cpu->seg[VMC_TR].selector, S_TSS2);
    assert_int_equal(rig.cpu->seg[VMC_LDTR].base, RIG_LDT);
    assert_true((rig.cpu->cr0 & VMC_CR0_TS) != 0);
    assert_int_equal(rig.cpu->cr3, 0); /* paging is off */
    assert_int_equal(rig.cpu->dr7 & 0x155, 0);
    assert_int_equal(get(RIG_TSS2, 2), S_TSS);
    assert_int_equal(rig.mem[RIG_GDT + S_TSS + 5] & 2, 2); /* both busy */
    assert_int_equal(rig.mem[RIG_GDT + S_TSS2 + 5] & 2, 2);
    assert_int_equal(get(RIG_TSS + 0x20, 4), NEXT);
    assert_int_equal(get(RIG_TSS + 0x34, 4), 0xbbbb);
    assert_int_equal(get(RIG_TSS + 0x4c, 2), S_CODE0);

    rig.cpu->gpr[VMC_RBX] = 0xcccc;
    assert_int_equal(vmci_iret(rig.cpu, 4, 0x6550), 0);
    assert_int_equal(rig.cpu->rip, NEXT);
    assert_int_equal(rig.cpu->gpr[VMC_RBX], 0xbbbb);
    assert_int_equal(rig.mem[RIG_GDT + S_TSS + 5] & 2, 2);
    assert_int_equal(rig.mem[RIG_GDT + S_TSS2 + 5] & 2, 0);
    assert_int_equal(get(RIG_TSS2 + 0x20, 4), 0x6550);
    assert_int_equal(get(RIG_TSS2 + 0x34, 4), 0xcccc);
    assert_int_equal(get(RIG_TSS2 + 0x24, 4) & VMC_FLAG_NT, 0);
}

static void task_jump(void **state)
{
    (void)state;
    rig_prot(0);
    make_task(S_CODE3, S_DATA3, S_DATA3, 0);
    gdt(0x80, mk_gate(S_TSS2, 0x999, D_P | 5, 0));
    assert_int_equal(vmci_far_jmp(rig.cpu, 0x80, 0, 4, NEXT), 0);
    assert_int_equal(rig.cpu->cpl, 3);
    assert_int_equal(rig.cpu->rflags & VMC_FLAG_NT, 0);
    assert_int_equal(get(RIG_TSS2, 2), 0);
    assert_int_equal(rig.mem[RIG_GDT + S_TSS + 5] & 2, 0);
    assert_int_equal(rig.mem[RIG_GDT + S_TSS2 + 5] & 2, 2);
}

static void task_16_bit(void **state)
{
    (void)state;
    rig_prot(0);
    gdt(S_TSS2, mk_desc(RIG_TSS2, 0x2b, D_P | 1, 0));
    put16(RIG_TSS2 + 0x0e, 0x6543);
    put16(RIG_TSS2 + 0x10, 2);
    for (unsigned i = 0; i < 8; i++)
        put16(RIG_TSS2 + 0x12 + 2 * i, (uint16_t)(0x2000 + i));
    put16(RIG_TSS2 + 0x22, S_DATA0);
    put16(RIG_TSS2 + 0x24, S_CODE0);
    put16(RIG_TSS2 + 0x26, S_DATA0);
    put16(RIG_TSS2 + 0x28, S_DATA3 & ~3);
    rig.cpu->gpr[VMC_RCX] = 0x12345678;
    assert_int_equal(vmci_far_jmp(rig.cpu, S_TSS2, 0, 4, NEXT), 0);
    assert_int_equal(rig.cpu->rip, 0x6543);
    assert_int_equal(rig.cpu->gpr[VMC_RCX] & 0xffff, 0x2001);
    assert_int_equal(rig.cpu->seg[VMC_DS].selector, S_DATA3 & ~3);
    assert_true((rig.cpu->seg[VMC_FS].attr & VMC_SEG_UNUSABLE) != 0);
    assert_int_equal(get(RIG_TSS + 0x2c, 4), 0x12345678);
    /* Back by JMP: the 16-bit TSS gets the low halves. */
    rig.cpu->gpr[VMC_RCX] = 0x87654321;
    assert_int_equal(vmci_far_jmp(rig.cpu, S_TSS, 0, 4, 0x7000), 0);
    assert_int_equal(rig.cpu->gpr[VMC_RCX], 0x12345678);
    assert_int_equal(get(RIG_TSS2 + 0x14, 2), 0x4321);
    assert_int_equal(get(RIG_TSS2 + 0x0e, 2), 0x7000);
}

static void task_faults_before_commit(void **state)
{
    (void)state;
    rig_prot(0);
    make_task(S_CODE0, S_DATA0, S_DATA0, 0);
    gdt(S_TSS2, mk_desc(RIG_TSS2, 0x66, D_P | 9, 0));
    assert_fault(vmci_far_jmp(rig.cpu, S_TSS2, 0, 4, NEXT), VMC_VEC_TS, S_TSS2);
    gdt(S_TSS2, mk_desc(RIG_TSS2, 0x67, 9, 0));
    assert_fault(vmci_far_jmp(rig.cpu, S_TSS2, 0, 4, NEXT), VMC_VEC_NP, S_TSS2);
    gdt(S_TSS2, mk_desc(RIG_TSS2, 0x67, D_P | 9, 0));
    rig.fault_page = RIG_TSS2;
    assert_fault(vmci_far_jmp(rig.cpu, S_TSS2, 0, 4, NEXT), VMC_VEC_PF, 0);
    assert_false(rig.cpu->exc.rip_set);
    assert_int_equal(rig.cpu->seg[VMC_TR].selector, S_TSS);
    assert_int_equal(rig.mem[RIG_GDT + S_TSS2 + 5] & 2, 0);
    rig.fault_page = 0;
    /* IRET with a bad link. */
    rig.cpu->rflags |= VMC_FLAG_NT;
    put16(RIG_TSS, S_TSS2);
    assert_fault(vmci_iret(rig.cpu, 4, 0), VMC_VEC_TS, S_TSS2); /* not busy */
    put16(RIG_TSS, 0x0c);
    assert_fault(vmci_iret(rig.cpu, 4, 0), VMC_VEC_TS, 0x0c);
    put16(RIG_TSS, 0);
    assert_fault(vmci_iret(rig.cpu, 4, 0), VMC_VEC_TS, 0);
}

static void task_faults_after_commit(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        uint16_t cs, ss, ds, ldt;
        uint64_t desc; /* 0x80 */
        unsigned vector, code;
    } t[] = {
        {"ldt type", S_CODE0, S_DATA0, S_DATA0, S_TSS2, 0, VMC_VEC_TS, S_TSS2},
        {"ldt in ldt", S_CODE0, S_DATA0, S_DATA0, 0x0c, 0, VMC_VEC_TS, 0x0c},
        {"ldt not present", S_CODE0, S_DATA0, S_DATA0, 0x80, mk_desc(0, 1, 2, 0), VMC_VEC_TS, 0x80},
        {"null cs", 0, S_DATA0, S_DATA0, 0, 0, VMC_VEC_TS, 0},
        {"cs data", S_DATA0, S_DATA0, S_DATA0, 0, 0, VMC_VEC_TS, S_DATA0},
        {"cs rpl", S_CODE0 | 3, S_DATA0, S_DATA0, 0, 0, VMC_VEC_TS, S_CODE0},
        {"cs not present", 0x80, S_DATA0, S_DATA0, 0, mk_desc(0, 0xfffff, D_CODE, F_G | F_D),
         VMC_VEC_NP, 0x80},
        {"null ss", S_CODE0, 0, S_DATA0, 0, 0, VMC_VEC_TS, 0},
        {"ss dpl", S_CODE0, S_DATA3 & ~3, S_DATA0, 0, 0, VMC_VEC_TS, S_DATA3 & ~3},
        {"ss not present", S_CODE0, 0x80, S_DATA0, 0, mk_desc(0, 0xfffff, D_DATA, F_G | F_D),
         VMC_VEC_SS, 0x80},
        {"ds dpl", S_CODE3, S_DATA3, S_DATA0, 0, 0, VMC_VEC_TS, S_DATA0},
        {"ds not present", S_CODE0, S_DATA0, 0x80, 0, mk_desc(0, 0xfffff, D_DATA, F_G | F_D),
         VMC_VEC_NP, 0x80},
        {"eip beyond limit", 0x80, S_DATA0, S_DATA0, 0, mk_desc(0, 0xfff, D_P | D_CODE, F_D),
         VMC_VEC_GP, 0},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(t); i++) {
        rig_prot(0);
        gdt(0x80, t[i].desc);
        make_task(t[i].cs, t[i].ss, t[i].ds, t[i].ldt);
        int r = vmci_far_jmp(rig.cpu, S_TSS2, 0, 4, NEXT);
        if (r != VMCI_FAULT || rig.cpu->exc.vector != t[i].vector || rig.cpu->exc.code != t[i].code)
            fail_msg("%s: %d #%u(%x)", t[i].what, r, rig.cpu->exc.vector, rig.cpu->exc.code);
        /* The new task is the current one. */
        assert_true(rig.cpu->exc.rip_set);
        assert_int_equal(rig.cpu->rip, 0x6543);
        assert_int_equal(rig.cpu->seg[VMC_TR].selector, S_TSS2);
        assert_int_equal(rig.cpu->gpr[VMC_RBX], 0x1003);
    }
}

static void task_trap_flag_and_v86(void **state)
{
    (void)state;
    rig_prot(0);
    make_task(S_CODE0, S_DATA0, S_DATA0, 0);
    put16(RIG_TSS2 + 0x64, 1);
    assert_int_equal(vmci_far_jmp(rig.cpu, S_TSS2, 0, 4, NEXT), 0);
    assert_int_equal(rig.cpu->pending_db, VMC_DR6_BT);
    rig_prot(0);
    make_task(0x1234, 0x2000, 0x3000, 0);
    put32(RIG_TSS2 + 0x24, VMC_FLAG_1 | VMC_FLAG_VM);
    assert_int_equal(vmci_far_jmp(rig.cpu, S_TSS2, 0, 4, NEXT), 0);
    assert_true(vmci_v86_mode(rig.cpu));
    assert_int_equal(rig.cpu->cpl, 3);
    assert_int_equal(rig.cpu->seg[VMC_CS].base, 0x12340);
    assert_int_equal(rig.cpu->seg[VMC_GS].base, 0x30000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fault_frame_same_level),
        cmocka_unit_test(frame_from_user_and_trap_gate),
        cmocka_unit_test(gate_16_bit),
        cmocka_unit_test(gate_checks),
        cmocka_unit_test(conforming_handler_keeps_level),
        cmocka_unit_test(second_faults),
        cmocka_unit_test(page_faults_in_delivery),
        cmocka_unit_test(debug_exception_state),
        cmocka_unit_test(external_interrupt_and_nmi),
        cmocka_unit_test(real_mode_interrupts),
        cmocka_unit_test(v86_round_trip),
        cmocka_unit_test(v86_int_and_iret_obey_iopl),
        cmocka_unit_test(vme_redirection),
        cmocka_unit_test(long_mode_frames),
        cmocka_unit_test(long_mode_checks),
        cmocka_unit_test(iret_flag_rights),
        cmocka_unit_test(iret_to_16_bit_stack_keeps_upper_sp),
        cmocka_unit_test(task_call_and_return),
        cmocka_unit_test(task_jump),
        cmocka_unit_test(task_16_bit),
        cmocka_unit_test(task_faults_before_commit),
        cmocka_unit_test(task_faults_after_commit),
        cmocka_unit_test(task_trap_flag_and_v86),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
