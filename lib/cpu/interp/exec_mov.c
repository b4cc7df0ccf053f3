/* SPDX-License-Identifier: BSD-2-Clause */
/* Data movement. */
#include "cpu/interp/exec.h"

/* ---- operands of any kind -------------------------------------------------------------------- */

int exec_src(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned n, unsigned size, u64 *v)
{
    const struct vmci_opnd *o = &in->opnd[n];
    u64 la;

    if (o->kind == VMCI_OPND_IMM) {
        *v = (u64)in->imm;
        return 0;
    }
    if (o->kind != VMCI_OPND_MEM) {
        *v = get_reg(cpu, o, size);
        return 0;
    }
    int rc = insn_la(cpu, in, size, false, &la);
    return rc != 0 ? rc : vmci_rd(cpu, la, size, v);
}

int exec_dst(struct vmci_cpu *cpu, const struct vmci_insn *in, unsigned size, u64 v)
{
    u64 la;

    if (in->opnd[0].kind != VMCI_OPND_MEM) {
        put_reg(cpu, &in->opnd[0], size, v);
        return 0;
    }
    int rc = insn_la(cpu, in, size, true, &la);
    return rc != 0 ? rc : vmci_wr(cpu, la, size, v);
}

/* ---- LEA, CMOVcc, SETcc ---------------------------------------------------------------------- */

static EXEC(lea32)
{
    put_r32(cpu, &in->opnd[0], (u32)vmci_ea(cpu, in));
    return 0;
}
static EXEC(lea64)
{
    put_r64(cpu, &in->opnd[0], vmci_ea(cpu, in));
    return 0;
}
static EXEC(lea16)
{
    put_r16(cpu, &in->opnd[0], (u16)vmci_ea(cpu, in));
    return 0;
}

/* The source is read, and a 32-bit destination zero-extended, whatever the condition. */
static EXEC(cmov)
{
    u64 v;
    int rc = exec_src(cpu, in, 1, in->opsize, &v);

    if (rc != 0)
        return rc;
    if (!condition(cpu->rflags, in->cond))
        v = get_reg(cpu, &in->opnd[0], in->opsize);
    put_reg(cpu, &in->opnd[0], in->opsize, v);
    return 0;
}
static EXEC(cmov_rr64)
{
    if (condition(cpu->rflags, in->cond))
        cpu->gpr[in->opnd[0].reg] = cpu->gpr[in->opnd[1].reg];
    return 0;
}
static EXEC(cmov_rr32)
{
    unsigned from = condition(cpu->rflags, in->cond) ? in->opnd[1].reg : in->opnd[0].reg;
    cpu->gpr[in->opnd[0].reg] = (u32)cpu->gpr[from];
    return 0;
}
static EXEC(setcc)
{
    return exec_dst(cpu, in, 1, condition(cpu->rflags, in->cond));
}

/* ---- CMPXCHG8B, CMPXCHG16B --------------------------------------------------------------------
 */

static EXEC(cmpxchg8b)
{
    u64 la;
    bool lock = (in->flags & VMCI_IF_LOCK) != 0;
    int rc = insn_la(cpu, in, 8, true, &la);

    if (rc != 0)
        return rc;
    u64_u *p = rmw_begin(cpu, la, 8, lock, &rc);
    if (p == NULL)
        return rc;
    u64 old = (u32)cpu->gpr[VMC_RAX] | cpu->gpr[VMC_RDX] << 32;
    u64 v = (u32)cpu->gpr[VMC_RBX] | cpu->gpr[VMC_RCX] << 32, expect = old;
    /* The locked form always: it is as right, and CMPXCHG8B without LOCK is rare. */
    __asm__ volatile("lock; cmpxchgq %[v], %[m]"
                     : "+a"(old), [m] "+m"(*p)
                     : [v] "r"(v)
                     : "memory", "cc");
    rc = rmw_done(cpu);
    if (rc != 0)
        return rc;
    put_flag(cpu, VMC_FLAG_ZF, old == expect);
    if (old != expect) {
        cpu->gpr[VMC_RAX] = (u32)old;
        cpu->gpr[VMC_RDX] = old >> 32;
    }
    return 0;
}

static EXEC(cmpxchg16b)
{
    u64 la;
    bool lock = (in->flags & VMCI_IF_LOCK) != 0, same;
    int rc = insn_la(cpu, in, 16, true, &la);

    if (rc != 0)
        return rc;
    if ((la & 15) != 0)
        return gp0(cpu);
    u64 *p = rmw_begin(cpu, la, 16, lock, &rc);
    if (p == NULL)
        return rc;
    u64 lo = cpu->gpr[VMC_RAX], hi = cpu->gpr[VMC_RDX];
    __asm__ volatile("lock; cmpxchg16b %[m]\n\tsete %[same]"
                     : "+a"(lo), "+d"(hi), [m] "+m"(*(__int128 *)(void *)p), [same] "=&q"(same)
                     : "b"(cpu->gpr[VMC_RBX]), "c"(cpu->gpr[VMC_RCX])
                     : "memory", "cc");
    rc = rmw_done(cpu);
    if (rc != 0)
        return rc;
    put_flag(cpu, VMC_FLAG_ZF, same);
    if (!same) {
        cpu->gpr[VMC_RAX] = lo;
        cpu->gpr[VMC_RDX] = hi;
    }
    return 0;
}

/* ---- others ---------------------------------------------------------------------------------- */

static EXEC(bswap)
{
    if (in->opsize == 8)
        cpu->gpr[in->opnd[0].reg] = __builtin_bswap64(cpu->gpr[in->opnd[0].reg]);
    else if (in->opsize == 4)
        put_r32(cpu, &in->opnd[0], __builtin_bswap32(get_r32(cpu, &in->opnd[0])));
    else /* undefined; processors clear the word */
        put_r16(cpu, &in->opnd[0], 0);
    return 0;
}

static u64 swapped(u64 v, unsigned size)
{
    return size == 8   ? __builtin_bswap64(v)
           : size == 4 ? __builtin_bswap32((u32)v)
                       : __builtin_bswap16((u16)v);
}

static EXEC(movbe)
{
    u64 v;
    int rc = exec_src(cpu, in, 1, in->opsize, &v);
    return rc != 0 ? rc : exec_dst(cpu, in, in->opsize, swapped(v, in->opsize));
}

static EXEC(movnti)
{
    return exec_dst(cpu, in, in->opsize, get_reg(cpu, &in->opnd[1], in->opsize));
}

static EXEC(xlat)
{
    u64 ea = cut(cpu->gpr[VMC_RBX] + (u8)cpu->gpr[VMC_RAX], in->addrsize), la, v;
    int rc = vmci_seg_la(cpu, in->seg, ea, 1, false, &la);

    if (rc != 0 || (rc = vmci_rd(cpu, la, 1, &v)) != 0)
        return rc;
    put_gpr(cpu, VMC_RAX, 1, v);
    return 0;
}

static EXEC(cbw) /* AL to AX, AX to EAX, EAX to RAX */
{
    put_gpr(cpu, VMC_RAX, in->opsize, sext(cpu->gpr[VMC_RAX], in->opsize / 2u));
    return 0;
}

static EXEC(cwd) /* the sign of AX, EAX, RAX to DX, EDX, RDX */
{
    u64 sign = sext(cpu->gpr[VMC_RAX], in->opsize) >> 63;
    put_gpr(cpu, VMC_RDX, in->opsize, cut(0 - sign, in->opsize));
    return 0;
}

static EXEC(lahf)
{
    if (cpu->code_bits == 64 && !(cpu->features >> VMCI_FEAT_LAHF_LM & 1))
        return ud(cpu);
    (void)in;
    ((u8 *)&cpu->gpr[VMC_RAX])[1] = (u8)((cpu->rflags & 0xd5) | VMC_FLAG_1);
    return 0;
}

static EXEC(sahf)
{
    if (cpu->code_bits == 64 && !(cpu->features >> VMCI_FEAT_LAHF_LM & 1))
        return ud(cpu);
    (void)in;
    cpu->rflags = (cpu->rflags & ~0xd5ull) | (cpu->gpr[VMC_RAX] >> 8 & 0xd5);
    return 0;
}

static EXEC(salc)
{
    (void)in;
    put_gpr(cpu, VMC_RAX, 1, (cpu->rflags & VMC_FLAG_CF) != 0 ? 0xff : 0);
    return 0;
}

static EXEC(nop)
{
    (void)cpu;
    (void)in;
    return 0;
}

/* ---- choice ---------------------------------------------------------------------------------- */

vmci_exec_fn mov_handler(const struct vmci_insn *in)
{
    bool mem1 = in->opnd[1].kind == VMCI_OPND_MEM;

    switch (in->op) {
    case VMCI_OP_LEA:
        return in->opsize == 8 ? lea64 : in->opsize == 4 ? lea32 : lea16;
    case VMCI_OP_CMOV:
        return mem1 || in->opsize == 2 ? cmov : in->opsize == 8 ? cmov_rr64 : cmov_rr32;
    case VMCI_OP_SETCC:
        return setcc;
    case VMCI_OP_CMPXCHG8B:
        return cmpxchg8b;
    case VMCI_OP_CMPXCHG16B:
        return cmpxchg16b;
    case VMCI_OP_BSWAP:
        return bswap;
    case VMCI_OP_MOVBE:
        return movbe;
    case VMCI_OP_MOVNTI:
        return movnti;
    case VMCI_OP_XLAT:
        return xlat;
    case VMCI_OP_CBW:
        return cbw;
    case VMCI_OP_CWD:
        return cwd;
    case VMCI_OP_LAHF:
        return lahf;
    case VMCI_OP_SAHF:
        return sahf;
    case VMCI_OP_SALC:
        return salc;
    case VMCI_OP_NOP:
    case VMCI_OP_PREFETCH:
        return nop;
    default:
        return NULL;
    }
}
