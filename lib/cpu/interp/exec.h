/* SPDX-License-Identifier: BSD-2-Clause */
/* What the executors share: registers by operand, flags from the host's ALU, stack, branches. */
#ifndef INTERP_EXEC_H
#define INTERP_EXEC_H

#include "cpu/interp/mem.h"

#define EXEC(name) int name(struct vmci_cpu *cpu, const struct vmci_insn *in)

/* Tables of executors, chosen from by bind.c. */
EXEC(exec_ud);
EXEC(exec_too_long);
vmci_exec_fn alu_handler(const struct vmci_insn *in);
vmci_exec_fn width_handler(const struct vmci_insn *in);
vmci_exec_fn mov_handler(const struct vmci_insn *in);
vmci_exec_fn shift_handler(const struct vmci_insn *in);
vmci_exec_fn bits_handler(const struct vmci_insn *in);
vmci_exec_fn mul_handler(const struct vmci_insn *in);
vmci_exec_fn stack_handler(const struct vmci_insn *in);
vmci_exec_fn branch_handler(const struct vmci_insn *in);
vmci_exec_fn string_handler(const struct vmci_insn *in);
vmci_exec_fn system_handler(const struct vmci_insn *in);

/* ---- registers ------------------------------------------------------------------------------- */

static inline u8 *reg8(struct vmci_cpu *cpu, const struct vmci_opnd *o)
{
    return (u8 *)&cpu->gpr[o->reg] + (o->kind == VMCI_OPND_GPR_HI);
}
static inline u8 get_r8(struct vmci_cpu *cpu, const struct vmci_opnd *o)
{
    return *reg8(cpu, o);
}
static inline u16 get_r16(struct vmci_cpu *cpu, const struct vmci_opnd *o)
{
    return (u16)cpu->gpr[o->reg];
}
static inline u32 get_r32(struct vmci_cpu *cpu, const struct vmci_opnd *o)
{
    return (u32)cpu->gpr[o->reg];
}
static inline u64 get_r64(struct vmci_cpu *cpu, const struct vmci_opnd *o)
{
    return cpu->gpr[o->reg];
}
static inline void put_r8(struct vmci_cpu *cpu, const struct vmci_opnd *o, u8 v)
{
    *reg8(cpu, o) = v;
}
static inline void put_r16(struct vmci_cpu *cpu, const struct vmci_opnd *o, u16 v)
{
    __builtin_memcpy(&cpu->gpr[o->reg], &v, 2);
}
static inline void put_r32(struct vmci_cpu *cpu, const struct vmci_opnd *o, u32 v)
{
    cpu->gpr[o->reg] = v;
}
static inline void put_r64(struct vmci_cpu *cpu, const struct vmci_opnd *o, u64 v)
{
    cpu->gpr[o->reg] = v;
}

/* The same with the size at run time, for what is not hot. */
static inline u64 get_reg(struct vmci_cpu *cpu, const struct vmci_opnd *o, unsigned size)
{
    switch (size) {
    case 1:
        return get_r8(cpu, o);
    case 2:
        return get_r16(cpu, o);
    case 4:
        return get_r32(cpu, o);
    default:
        return get_r64(cpu, o);
    }
}
static inline void put_reg(struct vmci_cpu *cpu, const struct vmci_opnd *o, unsigned size, u64 v)
{
    switch (size) {
    case 1:
        put_r8(cpu, o, (u8)v);
        break;
    case 2:
        put_r16(cpu, o, (u16)v);
        break;
    case 4:
        put_r32(cpu, o, (u32)v);
        break;
    default:
        put_r64(cpu, o, v);
        break;
    }
}
/* A register by number, by the rules of a destination of that size (never a high byte). */
static inline void put_gpr(struct vmci_cpu *cpu, unsigned reg, unsigned size, u64 v)
{
    struct vmci_opnd o = {VMCI_OPND_GPR, (u8)size, (u8)reg};
    put_reg(cpu, &o, size, v);
}
static inline u64 cut(u64 v, unsigned size)
{
    return size == 8 ? v : v & ((1ull << (8 * size)) - 1);
}
static inline u64 sext(u64 v, unsigned size)
{
    unsigned sh = 64 - 8 * size;
    return (u64)((int64_t)(v << sh) >> sh);
}

/* Source operand of any kind; memory is read. */
int exec_src(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned n, unsigned size, u64 *v);
/* Destination operand 0, register or memory, when it is only written. */
int exec_dst(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned size, u64 v);

/* Would a write of an operand fault? Of 2, 4 or 8 bytes; its alignment counts, too. */
static inline int probe_operand(struct vmci_cpu *cpu, u64 la, unsigned bytes)
{
    if (cpu->tlb_mode == VMCI_TLB_ALIGN && (la & (bytes - 1)) != 0 && vmci_canonical(cpu, la))
        return vmci_raise_code(cpu, VMC_VEC_AC, 0);
    return vmci_probe_wr(cpu, la, bytes);
}

/* ---- flags ----------------------------------------------------------------------------------- */

/*
 * Flags as "lahf; seto %al" leaves them in AX: SF ZF AF PF CF in AH in the places that they have
 * in RFLAGS, OF in bit 0.
 */
#define ASM_FLAGS "lahf\n\tseto %%al"
static inline void set_flags(struct vmci_cpu *cpu, u32 ax)
{
    cpu->rflags = (cpu->rflags & ~VMC_FLAG_ARITH) | ((ax >> 8) & 0xd5) | (u64)(ax & 1) << 11;
}
static inline void set_flags_mask(struct vmci_cpu *cpu, u32 ax, u64 mask)
{
    u64 f = ((ax >> 8) & 0xd5) | (u64)(ax & 1) << 11;
    cpu->rflags = (cpu->rflags & ~mask) | (f & mask);
}
/* The other way: "addb $0x7f, %al; sahf" restores them, so that what an instruction leaves alone
   stays alone. */
#define ASM_LOAD_FLAGS "addb $0x7f, %%al\n\tsahf\n\t"
static inline u32 flags_ax(const struct vmci_cpu *cpu)
{
    return (u32)((cpu->rflags & 0xff) << 8 | ((cpu->rflags >> 11) & 1));
}
static inline void put_flag(struct vmci_cpu *cpu, u64 flag, bool on)
{
    cpu->rflags = on ? cpu->rflags | flag : cpu->rflags & ~flag;
}

/* Condition code 0..15 (SDM 1 appendix B). */
static inline bool condition(u64 f, unsigned cc)
{
    bool r;

    switch (cc >> 1) {
    case 0:
        r = (f & VMC_FLAG_OF) != 0;
        break;
    case 1:
        r = (f & VMC_FLAG_CF) != 0;
        break;
    case 2:
        r = (f & VMC_FLAG_ZF) != 0;
        break;
    case 3:
        r = (f & (VMC_FLAG_CF | VMC_FLAG_ZF)) != 0;
        break;
    case 4:
        r = (f & VMC_FLAG_SF) != 0;
        break;
    case 5:
        r = (f & VMC_FLAG_PF) != 0;
        break;
    case 6:
        r = ((f >> 7) ^ (f >> 11)) & 1;
        break;
    default:
        r = (((f >> 7) ^ (f >> 11)) & 1) != 0 || (f & VMC_FLAG_ZF) != 0;
        break;
    }
    return r != (cc & 1);
}

/* ---- stack ----------------------------------------------------------------------------------- */

static inline void set_sp(struct vmci_cpu *cpu, u64 sp)
{
    put_gpr(cpu, VMC_RSP, cpu->stack_bits / 8u, sp);
}
/* A stack access that is not canonical is #SS, not #GP. */
static inline int stack_fault(struct vmci_cpu *cpu, int rc)
{
    if (rc == VMCI_FAULT && cpu->exc.vector == VMC_VEC_GP)
        cpu->exc.vector = VMC_VEC_SS;
    return rc;
}
/* Access of bytes at stack offset sp, without moving SP. */
int exec_stack_wr(struct vmci_cpu *cpu, u64 sp, unsigned bytes, u64 v);
int exec_stack_rd(struct vmci_cpu *cpu, u64 sp, unsigned bytes, u64 *v);

static inline int push(struct vmci_cpu *cpu, unsigned bytes, u64 v)
{
    if (likely(bytes == 8)) {
        u64 sp = cpu->gpr[VMC_RSP] - 8;
        int rc = st64(cpu, sp, v);
        if (unlikely(rc != 0))
            return stack_fault(cpu, rc);
        cpu->gpr[VMC_RSP] = sp;
        return 0;
    }
    u64 sp = cut(cpu->gpr[VMC_RSP] - bytes, cpu->stack_bits / 8u);
    int rc = exec_stack_wr(cpu, sp, bytes, v);
    if (rc == 0)
        set_sp(cpu, sp);
    return rc;
}
/* Read the top of the stack; the caller moves SP when nothing can fail any more. */
static inline int peek(struct vmci_cpu *cpu, unsigned bytes, u64 *v)
{
    if (likely(bytes == 8)) {
        int rc = ld64(cpu, cpu->gpr[VMC_RSP], v);
        return unlikely(rc != 0) ? stack_fault(cpu, rc) : 0;
    }
    return exec_stack_rd(cpu, cut(cpu->gpr[VMC_RSP], cpu->stack_bits / 8u), bytes, v);
}
static inline void drop(struct vmci_cpu *cpu, u64 bytes)
{
    if (likely(cpu->stack_bits == 64))
        cpu->gpr[VMC_RSP] += bytes;
    else
        set_sp(cpu, cpu->gpr[VMC_RSP] + bytes);
}

/* ---- branches -------------------------------------------------------------------------------- */

int exec_branch_slow(struct vmci_cpu *cpu, const struct vmci_insn *in, u64 target);

/* Go to target (an offset in CS), cut to the operand size, checked. */
static inline int branch(struct vmci_cpu *cpu, const struct vmci_insn *in, u64 target)
{
    if (likely(in->opsize == 8 && vmci_canonical48(target))) {
        cpu->rip = target;
        return 0;
    }
    return exec_branch_slow(cpu, in, target);
}
/* The instruction after this one; IP does not wrap at 64 KiB by itself. */
static inline u64 next_rip(const struct vmci_cpu *cpu, const struct vmci_insn *in)
{
    u64 rip = vmci_next_rip(cpu, in);
    return likely(cpu->code_bits == 64) ? rip : (u32)rip;
}

static inline int gp0(struct vmci_cpu *cpu)
{
    return vmci_raise_code(cpu, VMC_VEC_GP, 0);
}
static inline int ud(struct vmci_cpu *cpu)
{
    return vmci_raise(cpu, VMC_VEC_UD);
}

#endif
