/* SPDX-License-Identifier: BSD-2-Clause */
/* PUSH, POP and their relatives. SP moves last, so that a fault leaves it as it was. */
#include "cpu/interp/exec.h"

int exec_stack_wr(struct vmci_cpu *cpu, u64 sp, unsigned bytes, u64 v)
{
    u64 la;
    int rc = vmci_seg_la(cpu, VMC_SS, sp, bytes, true, &la);

    if (rc == 0)
        rc = vmci_wr(cpu, la, bytes, v);
    return stack_fault(cpu, rc);
}

int exec_stack_rd(struct vmci_cpu *cpu, u64 sp, unsigned bytes, u64 *v)
{
    u64 la;
    int rc = vmci_seg_la(cpu, VMC_SS, sp, bytes, false, &la);

    if (rc == 0)
        rc = vmci_rd(cpu, la, bytes, v);
    return stack_fault(cpu, rc);
}

static u64 sp_cut(const struct vmci_cpu *cpu, u64 sp)
{
    return cut(sp, cpu->stack_bits / 8u);
}

static EXEC(push_r64)
{
    return push(cpu, 8, cpu->gpr[in->opnd[0].reg]);
}

static EXEC(push_any)
{
    u64 v;
    int rc = exec_src(cpu, in, 0, in->opsize, &v);
    return rc != 0 ? rc : push(cpu, in->opsize, cut(v, in->opsize));
}

static EXEC(pop_r64)
{
    u64 v;
    int rc = peek(cpu, 8, &v);

    if (unlikely(rc != 0))
        return rc;
    cpu->gpr[VMC_RSP] += 8;
    cpu->gpr[in->opnd[0].reg] = v;
    return 0;
}

/* The address of a memory operand is computed with SP moved already (SDM 2B, POP). */
static EXEC(pop_any)
{
    u64 v, sp = cpu->gpr[VMC_RSP];
    int rc = peek(cpu, in->opsize, &v);

    if (rc != 0)
        return rc;
    drop(cpu, in->opsize);
    rc = exec_dst(cpu, in, in->opsize, v);
    if (rc != 0)
        cpu->gpr[VMC_RSP] = sp;
    return rc;
}

static EXEC(push_sreg)
{
    return push(cpu, in->opsize, cpu->seg[in->opnd[0].reg].selector);
}

static EXEC(pop_sreg)
{
    u64 v;
    unsigned seg = in->opnd[0].reg;
    unsigned bits = cpu->stack_bits; /* loading SS may change it */
    int rc = peek(cpu, in->opsize, &v);

    if (rc == 0)
        rc = vmci_load_sreg(cpu, seg, (u16)v);
    if (rc != 0)
        return rc;
    put_gpr(cpu, VMC_RSP, bits / 8, cpu->gpr[VMC_RSP] + in->opsize);
    if (seg == VMC_SS)
        cpu->irq_shadow = 3;
    return 0;
}

static EXEC(pusha)
{
    u64 sp = cpu->gpr[VMC_RSP], at = sp_cut(cpu, sp);

    /* SDM 2B, PUSHA: in real and virtual-8086 mode it is not the #SS that its accesses would make. */
    if ((!vmci_prot_mode(cpu) || vmci_v86_mode(cpu)) && at >= 7 && at <= 15 && (at & 1) != 0)
        return vmci_raise_code(cpu, VMC_VEC_GP, 0);
    for (unsigned i = 0; i < 8; i++) {
        int rc = exec_stack_wr(cpu, sp_cut(cpu, sp - (i + 1) * in->opsize), in->opsize,
                               cut(cpu->gpr[i], in->opsize));
        if (rc != 0)
            return rc;
    }
    set_sp(cpu, sp - 8u * in->opsize);
    return 0;
}

/* Processors load the registers one by one: what was popped before a fault stays. The stack pointer
   moves at the end, so the instruction can start again. */
static EXEC(popa)
{
    u64 v, sp = cpu->gpr[VMC_RSP];

    for (unsigned i = 0; i < 8; i++) {
        unsigned reg = 7 - i;
        int rc = exec_stack_rd(cpu, sp_cut(cpu, sp + i * in->opsize), in->opsize, &v);
        if (rc != 0)
            return rc;
        if (reg != VMC_RSP)
            put_gpr(cpu, reg, in->opsize, v);
    }
    set_sp(cpu, sp + 8u * in->opsize);
    return 0;
}

/* SDM 2A, ENTER: frame pointers of the enclosing procedures are copied. */
static EXEC(enter)
{
    unsigned level = (unsigned)(in->imm >> 16) & 31u, n = in->opsize;
    u64 sp = cpu->gpr[VMC_RSP], bp = cpu->gpr[VMC_RBP], v, la;
    int rc;

    sp = sp_cut(cpu, sp - n);
    rc = exec_stack_wr(cpu, sp, n, cut(bp, n));
    /* With a 16-bit stack pointer the upper half of ESP goes along. */
    u64 frame = cpu->stack_bits == 16 ? (cpu->gpr[VMC_RSP] & ~0xffffull) | sp : sp;
    for (unsigned i = 1; rc == 0 && i < level; i++) {
        bp -= n;
        rc = exec_stack_rd(cpu, sp_cut(cpu, bp), n, &v);
        if (rc == 0) {
            sp = sp_cut(cpu, sp - n);
            rc = exec_stack_wr(cpu, sp, n, v);
        }
    }
    if (rc == 0 && level != 0) {
        sp = sp_cut(cpu, sp - n);
        rc = exec_stack_wr(cpu, sp, n, cut(frame, n));
    }
    if (rc != 0)
        return rc;
    sp = sp_cut(cpu, sp - (u16)in->imm);
    /* A write to the new top of the stack must be possible. */
    rc = vmci_seg_la(cpu, VMC_SS, sp, n, true, &la);
    if (rc == 0)
        rc = probe_operand(cpu, la, n);
    if (rc != 0)
        return stack_fault(cpu, rc);
    put_gpr(cpu, VMC_RBP, n, frame);
    set_sp(cpu, sp);
    return 0;
}

static EXEC(leave)
{
    u64 v, bp = sp_cut(cpu, cpu->gpr[VMC_RBP]);
    int rc = exec_stack_rd(cpu, bp, in->opsize, &v);

    if (rc != 0)
        return rc;
    set_sp(cpu, bp + in->opsize);
    put_gpr(cpu, VMC_RBP, in->opsize, v);
    return 0;
}

static EXEC(leave64)
{
    u64 v;
    int rc = ld64(cpu, cpu->gpr[VMC_RBP], &v);

    (void)in;
    if (unlikely(rc != 0))
        return stack_fault(cpu, rc);
    cpu->gpr[VMC_RSP] = cpu->gpr[VMC_RBP] + 8;
    cpu->gpr[VMC_RBP] = v;
    return 0;
}

/* ---- flags ----------------------------------------------------------------------------------- */

/* Virtual-8086 mode below IOPL 3: 0: not, 1: emulated by VME, VMCI_FAULT + 1: #GP raised. */
static int v86_flags(struct vmci_cpu *cpu, unsigned opsize)
{
    if (!vmci_v86_mode(cpu) || vmci_iopl(cpu) == 3)
        return 0;
    if ((cpu->cr4 & VMC_CR4_VME) != 0 && opsize == 2)
        return 1;
    return VMCI_FAULT + gp0(cpu);
}

static EXEC(pushf)
{
    u64 f = cpu->rflags & ~(VMC_FLAG_VM | VMC_FLAG_RF);
    int v86 = v86_flags(cpu, in->opsize);

    if (v86 > 1)
        return VMCI_FAULT;
    if (v86 == 1) {
        f |= VMC_FLAG_IOPL;
        f = (f & VMC_FLAG_VIF) != 0 ? f | VMC_FLAG_IF : f & ~VMC_FLAG_IF;
    }
    return push(cpu, in->opsize, cut(f, in->opsize));
}

static EXEC(popf)
{
    u64 v, mask = VMC_FLAG_ARITH | VMC_FLAG_TF | VMC_FLAG_DF | VMC_FLAG_NT;
    int v86 = v86_flags(cpu, in->opsize);

    if (v86 > 1)
        return VMCI_FAULT;
    int rc = peek(cpu, in->opsize, &v);
    if (rc != 0)
        return rc;
    if (in->opsize > 2)
        mask |= VMC_FLAG_AC | VMC_FLAG_ID;
    if (v86 == 1) {
        if ((v & VMC_FLAG_TF) != 0 ||
            ((v & VMC_FLAG_IF) != 0 && (cpu->rflags & VMC_FLAG_VIP) != 0))
            return gp0(cpu);
        v = (v & VMC_FLAG_IF) != 0 ? v | VMC_FLAG_VIF : v & ~VMC_FLAG_VIF;
        mask |= VMC_FLAG_VIF;
    } else {
        if (cpu->cpl == 0)
            mask |= VMC_FLAG_IOPL;
        if (cpu->cpl <= vmci_iopl(cpu))
            mask |= VMC_FLAG_IF;
    }
    drop(cpu, in->opsize);
    vmci_set_rflags(cpu, v, mask);
    cpu->rflags &= ~VMC_FLAG_RF;
    return 0;
}

vmci_exec_fn stack_handler(const struct vmci_insn *in)
{
    bool reg64 = in->opnd[0].kind == VMCI_OPND_GPR && in->opsize == 8;

    switch (in->op) {
    case VMCI_OP_PUSH:
        return reg64 ? push_r64 : push_any;
    case VMCI_OP_POP:
        return reg64 ? pop_r64 : pop_any;
    case VMCI_OP_PUSH_SREG:
        return push_sreg;
    case VMCI_OP_POP_SREG:
        return pop_sreg;
    case VMCI_OP_PUSHA:
        return pusha;
    case VMCI_OP_POPA:
        return popa;
    case VMCI_OP_ENTER:
        return enter;
    case VMCI_OP_LEAVE:
        return in->opsize == 8 ? leave64 : leave;
    case VMCI_OP_PUSHF:
        return pushf;
    case VMCI_OP_POPF:
        return popf;
    default:
        return NULL;
    }
}
