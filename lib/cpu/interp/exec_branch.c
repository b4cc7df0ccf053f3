/* SPDX-License-Identifier: BSD-2-Clause */
/* Control flow. Near branches here; far ones, gates and system calls are in sys/. */
#include "cpu/interp/exec.h"

int exec_branch_slow(struct vmci_cpu *cpu, const struct vmci_insn *in, u64 target)
{
    if (cpu->code_bits == 64) {
        if (!vmci_canonical(cpu, target))
            return gp0(cpu);
    } else {
        target = in->opsize == 2 ? (u16)target : (u32)target;
        if (target > cpu->seg[VMC_CS].limit)
            return gp0(cpu);
    }
    cpu->rip = target;
    return 0;
}

static EXEC(jmp_rel)
{
    return branch(cpu, in, vmci_next_rip(cpu, in) + (u64)in->imm);
}

static EXEC(jmp_reg64)
{
    return branch(cpu, in, cpu->gpr[in->opnd[0].reg]);
}

static EXEC(jmp_any)
{
    u64 v;
    int rc = exec_src(cpu, in, 0, in->opsize, &v);
    return rc != 0 ? rc : branch(cpu, in, v);
}

/* The target is checked before the return address is pushed. */
static inline int call(struct vmci_cpu *cpu, const struct vmci_insn *in, u64 target)
{
    u64 next = next_rip(cpu, in), old = cpu->rip;
    int rc = branch(cpu, in, target);

    if (unlikely(rc != 0))
        return rc;
    rc = push(cpu, in->opsize, cut(next, in->opsize));
    if (unlikely(rc != 0))
        cpu->rip = old;
    return rc;
}

static EXEC(call_rel)
{
    return call(cpu, in, vmci_next_rip(cpu, in) + (u64)in->imm);
}

static EXEC(call_any)
{
    u64 v;
    int rc = exec_src(cpu, in, 0, in->opsize, &v);
    return rc != 0 ? rc : call(cpu, in, v);
}

static EXEC(ret)
{
    u64 v;
    int rc = peek(cpu, in->opsize, &v);

    if (unlikely(rc != 0) || unlikely((rc = branch(cpu, in, v)) != 0))
        return rc;
    drop(cpu, in->opsize + (u64)in->imm);
    return 0;
}

/* ---- counters -------------------------------------------------------------------------------- */

static EXEC(jcxz)
{
    u64 next = next_rip(cpu, in);

    if (cut(cpu->gpr[VMC_RCX], in->addrsize) == 0)
        return branch(cpu, in, next + (u64)in->imm);
    cpu->rip = next;
    return 0;
}

static EXEC(loop)
{
    u64 next = next_rip(cpu, in), n = cut(cpu->gpr[VMC_RCX] - 1, in->addrsize);
    bool zf = (cpu->rflags & VMC_FLAG_ZF) != 0;
    bool go = n != 0 && (in->op == VMCI_OP_LOOP || zf == (in->op == VMCI_OP_LOOPE));
    int rc = 0;

    cpu->rip = next;
    if (go)
        rc = branch(cpu, in, next + (u64)in->imm);
    if (rc == 0)
        put_gpr(cpu, VMC_RCX, in->addrsize, n);
    return rc;
}

/* ---- far ------------------------------------------------------------------------------------- */

static EXEC(far)
{
    bool is_call = in->op == VMCI_OP_CALL_FAR;
    u64 offset = (u32)in->imm, sel = (u64)in->imm >> 32, next = next_rip(cpu, in);

    if (in->opnd[0].kind == VMCI_OPND_MEM) {
        int rc = vmci_rd_pair(cpu, in, in->opsize, 2, &offset, &sel);
        if (rc != 0)
            return rc;
    }
    cpu->rip = next;
    return is_call ? vmci_far_call(cpu, (u16)sel, offset, in->opsize, next)
                   : vmci_far_jmp(cpu, (u16)sel, offset, in->opsize, next);
}

static EXEC(ret_far)
{
    return vmci_far_ret(cpu, in->opsize, (u16)in->imm);
}

static EXEC(iret)
{
    return vmci_iret(cpu, in->opsize, next_rip(cpu, in));
}

static EXEC(int_n)
{
    return vmci_soft_int(cpu, (u8)in->imm, VMC_EV_SOFT_INT, next_rip(cpu, in));
}
static EXEC(int1)
{
    int rc = vmci_soft_int(cpu, VMC_VEC_DB, VMC_EV_PRIV_SOFT_EXC, next_rip(cpu, in));

    /* What MOV SS held back is reported with this #DB, not by another one in its handler. */
    if (rc == 0 && cpu->pending_db != 0) {
        cpu->dr6 = (cpu->dr6 & ~0xfull) | (cpu->pending_db & 0xe00full);
        cpu->pending_db = 0;
    }
    return rc;
}
static EXEC(int3)
{
    return vmci_soft_int(cpu, VMC_VEC_BP, VMC_EV_SOFT_EXC, next_rip(cpu, in));
}
static EXEC(into)
{
    cpu->rip = next_rip(cpu, in);
    if ((cpu->rflags & VMC_FLAG_OF) == 0)
        return 0;
    return vmci_soft_int(cpu, VMC_VEC_OF, VMC_EV_SOFT_EXC, next_rip(cpu, in));
}

static EXEC(bound)
{
    u64 lo, hi;
    int64_t v = (int64_t)sext(get_reg(cpu, &in->opnd[0], in->opsize), in->opsize);
    int rc = vmci_rd_pair(cpu, in, in->opsize, in->opsize, &lo, &hi);

    if (rc != 0)
        return rc;
    if (v < (int64_t)sext(lo, in->opsize) || v > (int64_t)sext(hi, in->opsize))
        return vmci_raise(cpu, VMC_VEC_BR);
    return 0;
}

static EXEC(syscall)
{
    return vmci_syscall(cpu, next_rip(cpu, in));
}
static EXEC(sysret)
{
    return vmci_sysret(cpu, in->opsize);
}
static EXEC(sysenter)
{
    (void)in;
    return vmci_sysenter(cpu);
}
static EXEC(sysexit)
{
    return vmci_sysexit(cpu, in->opsize);
}

vmci_exec_fn branch_handler(const struct vmci_insn *in)
{
    bool rel = in->opnd[0].kind == VMCI_OPND_REL;

    switch (in->op) {
    case VMCI_OP_JMP:
        return rel                                                    ? jmp_rel
               : in->opnd[0].kind == VMCI_OPND_GPR && in->opsize == 8 ? jmp_reg64
                                                                      : jmp_any;
    case VMCI_OP_CALL:
        return rel ? call_rel : call_any;
    case VMCI_OP_RET:
        return ret;
    case VMCI_OP_JCXZ:
        return jcxz;
    case VMCI_OP_LOOP:
    case VMCI_OP_LOOPE:
    case VMCI_OP_LOOPNE:
        return loop;
    case VMCI_OP_JMP_FAR:
    case VMCI_OP_CALL_FAR:
        return far;
    case VMCI_OP_RET_FAR:
        return ret_far;
    case VMCI_OP_IRET:
        return iret;
    case VMCI_OP_INT:
        return int_n;
    case VMCI_OP_INT1:
        return int1;
    case VMCI_OP_INT3:
        return int3;
    case VMCI_OP_INTO:
        return into;
    case VMCI_OP_BOUND:
        return bound;
    case VMCI_OP_SYSCALL:
        return syscall;
    case VMCI_OP_SYSRET:
        return sysret;
    case VMCI_OP_SYSENTER:
        return sysenter;
    case VMCI_OP_SYSEXIT:
        return sysexit;
    default:
        return NULL;
    }
}
