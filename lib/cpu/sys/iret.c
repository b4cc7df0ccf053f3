/* SPDX-License-Identifier: BSD-2-Clause */
/* IRET (SDM 2A IRET/IRETD/IRETQ). */
#include "sys_priv.h"

#define FLAGS_STATUS (VMC_FLAG_ARITH | VMC_FLAG_TF | VMC_FLAG_DF | VMC_FLAG_NT)
#define FLAGS_32     (VMC_FLAG_RF | VMC_FLAG_AC | VMC_FLAG_ID)

static int pop3(struct vmci_cpu *cpu, struct sys_stack *s, unsigned bytes, uint64_t *ip,
                uint64_t *cs, uint64_t *flags)
{
    int r = sys_pop(cpu, s, bytes, ip);

    if (r == 0)
        r = sys_pop(cpu, s, bytes, cs);
    if (r == 0)
        r = sys_pop(cpu, s, bytes, flags);
    return r;
}

/* ---- real and virtual-8086 mode ------------------------------------------------------------- */

static int iret_real(struct vmci_cpu *cpu, unsigned opbytes)
{
    uint64_t mask = FLAGS_STATUS | VMC_FLAG_IF | VMC_FLAG_IOPL;
    struct sys_stack s = {0};
    uint64_t ip = 0;
    uint64_t cs = 0;
    uint64_t flags = 0;
    int r;

    sys_stack_current(cpu, &s);
    r = pop3(cpu, &s, opbytes, &ip, &cs, &flags);
    if (r == 0 && ip > cpu->seg[VMC_CS].limit)
        r = vmci_raise_code(cpu, VMC_VEC_GP, 0);
    if (r != 0)
        return r;
    if (opbytes == 4)
        mask |= FLAGS_32;
    sys_sp_set(cpu, s.bits, s.sp);
    sys_seg_real(cpu, VMC_CS, (uint16_t)cs);
    cpu->rip = ip;
    vmci_set_rflags(cpu, flags, mask);
    vmci_update_mode(cpu);
    return 0;
}

static int iret_v86(struct vmci_cpu *cpu, unsigned opbytes)
{
    bool vme = vmci_iopl(cpu) < 3;
    uint64_t mask = FLAGS_STATUS | VMC_FLAG_IF;
    struct sys_stack s = {0};
    uint64_t ip = 0;
    uint64_t cs = 0;
    uint64_t flags = 0;
    int r;

    if (vme && ((cpu->cr4 & VMC_CR4_VME) == 0 || opbytes != 2))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    sys_stack_current(cpu, &s);
    r = pop3(cpu, &s, opbytes, &ip, &cs, &flags);
    if (r != 0)
        return r;
    if (vme && ((flags & VMC_FLAG_TF) != 0 ||
                ((flags & VMC_FLAG_IF) != 0 && (cpu->rflags & VMC_FLAG_VIP) != 0)))
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    if (ip > 0xffff)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    if (opbytes == 4)
        mask |= FLAGS_32;
    if (vme) { /* the virtual interrupt flag stands for IF */
        mask = (mask & ~VMC_FLAG_IF) | VMC_FLAG_VIF;
        flags = (flags & VMC_FLAG_IF) != 0 ? flags | VMC_FLAG_VIF : flags & ~VMC_FLAG_VIF;
    }
    sys_sp_set(cpu, s.bits, s.sp);
    sys_seg_v86(&cpu->seg[VMC_CS], (uint16_t)cs);
    cpu->rip = ip;
    vmci_set_rflags(cpu, flags, mask);
    return 0;
}

/* ---- protected mode ------------------------------------------------------------------------- */

static int iret_task(struct vmci_cpu *cpu, uint64_t next)
{
    const struct vmc_segment *tr = &cpu->seg[VMC_TR];
    struct sys_task t = {.how = SYS_TASK_IRET, .rip = next, .rflags = cpu->rflags & ~VMC_FLAG_RF};
    uint64_t link = 0;
    int r = vmci_rd_sys(cpu, sys_la(cpu, tr->base), 2, &link);

    if (r != 0)
        return r;
    t.sel = (uint16_t)link;
    r = sys_task_read_tss(cpu, &t, VMC_VEC_TS);
    if (r == 0)
        r = sys_task_switch(cpu, &t);
    return r;
}

static int iret_to_v86(struct vmci_cpu *cpu, struct sys_stack *s, uint64_t ip, uint64_t cs,
                       uint64_t flags)
{
    static const uint8_t order[] = {VMC_SS, VMC_ES, VMC_DS, VMC_FS, VMC_GS};
    uint64_t sel[VMCI_ARRAY_SIZE(order)];
    uint64_t sp = 0;
    int r = sys_pop(cpu, s, 4, &sp);

    for (unsigned i = 0; r == 0 && i < VMCI_ARRAY_SIZE(order); i++)
        r = sys_pop(cpu, s, 4, &sel[i]);
    if (r == 0 && ip > 0xffff)
        r = vmci_raise_code(cpu, VMC_VEC_GP, 0);
    if (r != 0)
        return r;
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(order); i++)
        sys_seg_v86(&cpu->seg[order[i]], (uint16_t)sel[i]);
    sys_seg_v86(&cpu->seg[VMC_CS], (uint16_t)cs);
    cpu->rip = ip;
    cpu->gpr[VMC_RSP] = (uint32_t)sp;
    vmci_set_rflags(cpu, flags,
                    FLAGS_STATUS | FLAGS_32 | VMC_FLAG_IF | VMC_FLAG_IOPL | VMC_FLAG_VM |
                        VMC_FLAG_VIF | VMC_FLAG_VIP);
    vmci_update_mode(cpu);
    return 0;
}

/* Flags that IRET of this size may change at the CPL it started at. */
static uint64_t flags_mask(const struct vmci_cpu *cpu, unsigned opbytes)
{
    uint64_t mask = FLAGS_STATUS;

    if (opbytes != 2)
        mask |= FLAGS_32;
    if (cpu->cpl <= vmci_iopl(cpu))
        mask |= VMC_FLAG_IF;
    if (cpu->cpl == 0) {
        mask |= VMC_FLAG_IOPL;
        if (opbytes != 2)
            mask |= VMC_FLAG_VIF | VMC_FLAG_VIP;
    }
    return mask;
}

static int iret_prot(struct vmci_cpu *cpu, unsigned opbytes)
{
    const uint64_t *frame = NULL;
    struct vmc_segment ss = {0};
    struct sys_target t = {0};
    struct sys_stack s = {0};
    struct sys_desc d = {.hi = SEG_ACCESSED << 8};
    uint64_t cs = 0;
    uint64_t flags = 0;
    uint64_t mask;
    uint64_t sp = 0;
    uint64_t sel = 0;
    bool outer;
    bool has_ss;
    int r;

    sys_stack_current(cpu, &s);
    if (opbytes == 8 && cpu->code_bits == 64)
        frame = sys_frame(cpu, &s, s.sp, 5, false);
    if (frame != NULL) {
        t.rip = frame[0];
        cs = frame[1];
        flags = frame[2];
        sp = frame[3];
        sel = frame[4];
        r = 0;
    } else {
        r = pop3(cpu, &s, opbytes, &t.rip, &cs, &flags);
    }
    if (r != 0)
        return r;
    if (opbytes == 4 && (flags & VMC_FLAG_VM) != 0 && cpu->cpl == 0 && !vmci_long_mode(cpu))
        return iret_to_v86(cpu, &s, t.rip, cs, flags);
    r = sys_return_cs(cpu, (uint16_t)cs, &t);
    if (r != 0)
        return r;
    outer = sys_rpl(t.sel) > cpu->cpl;
    has_ss = outer || cpu->code_bits == 64;
    if (has_ss) {
        if (frame == NULL)
            r = sys_pop(cpu, &s, opbytes, &sp);
        if (r == 0 && frame == NULL)
            r = sys_pop(cpu, &s, opbytes, &sel);
        if (r == 0)
            r = sys_return_ss(cpu, (uint16_t)sel, &t, &d, &ss);
    }
    if (r == 0)
        r = sys_target_check_rip(cpu, &t, 0);
    if (r == 0)
        r = sys_desc_set_accessed(cpu, &t.d);
    if (r == 0)
        r = sys_desc_set_accessed(cpu, &d);
    if (r != 0)
        return r;
    mask = flags_mask(cpu, opbytes);
    sys_target_enter(cpu, &t);
    if (has_ss)
        cpu->seg[VMC_SS] = ss;
    vmci_update_mode(cpu);
    if (has_ss)
        sys_sp_set(cpu, cpu->stack_bits, sp);
    else
        sys_sp_set(cpu, s.bits, s.sp);
    if (outer)
        sys_drop_data_segs(cpu, cpu->cpl);
    vmci_set_rflags(cpu, flags, mask);
    return 0;
}

static int iret_any(struct vmci_cpu *cpu, unsigned opbytes, uint64_t next)
{
    if (!vmci_prot_mode(cpu))
        return iret_real(cpu, opbytes);
    if (vmci_v86_mode(cpu))
        return iret_v86(cpu, opbytes);
    if ((cpu->rflags & VMC_FLAG_NT) != 0) {
        if (vmci_long_mode(cpu))
            return vmci_raise_code(cpu, VMC_VEC_GP, 0);
        return iret_task(cpu, next);
    }
    return iret_prot(cpu, opbytes);
}

int vmci_iret(struct vmci_cpu *cpu, unsigned opbytes, uint64_t next)
{
    int r = iret_any(cpu, opbytes, next);

    /* NMIs are let in even if it faults (SDM 3A 6.7.1): in front of the handler then. */
    if (r == 0 || r == VMCI_FAULT) {
        cpu->nmi_blocked = 0;
        if (cpu->nmi_pending != 0)
            sys_request(cpu, VMCI_REQ_NMI);
    }
    return r;
}
