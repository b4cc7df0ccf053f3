/* SPDX-License-Identifier: BSD-2-Clause */
/* System instructions: privilege and mode checks here, the work mostly in sys/. */
#include "cpu/interp/exec.h"

static int need_cpl0(struct vmci_cpu *cpu)
{
    return likely(cpu->cpl == 0) ? 0 : gp0(cpu);
}
/* Protected mode, not virtual-8086. */
static int need_prot(struct vmci_cpu *cpu)
{
    return vmci_prot_mode(cpu) && !vmci_v86_mode(cpu) ? 0 : ud(cpu);
}
static int umip(struct vmci_cpu *cpu)
{
    return (cpu->cr4 & VMC_CR4_UMIP) != 0 && cpu->cpl > 0 ? gp0(cpu) : 0;
}
static void put_edx_eax(struct vmci_cpu *cpu, u64 v)
{
    cpu->gpr[VMC_RAX] = (u32)v;
    cpu->gpr[VMC_RDX] = v >> 32;
}
static u64 edx_eax(const struct vmci_cpu *cpu)
{
    return (u32)cpu->gpr[VMC_RAX] | cpu->gpr[VMC_RDX] << 32;
}

EXEC(exec_ud)
{
    (void)in;
    return ud(cpu);
}
EXEC(exec_too_long)
{
    (void)in;
    return gp0(cpu);
}

/* ---- flags ----------------------------------------------------------------------------------- */

static EXEC(flag_op)
{
    switch (in->op) {
    case VMCI_OP_CLC:
        cpu->rflags &= ~VMC_FLAG_CF;
        break;
    case VMCI_OP_STC:
        cpu->rflags |= VMC_FLAG_CF;
        break;
    case VMCI_OP_CMC:
        cpu->rflags ^= VMC_FLAG_CF;
        break;
    case VMCI_OP_CLD:
        cpu->rflags &= ~VMC_FLAG_DF;
        break;
    default:
        cpu->rflags |= VMC_FLAG_DF;
        break;
    }
    return 0;
}

/* May IF be changed? 0: yes; 1: VIF instead (VME, PVI); 2: #GP raised. SDM 3A table 2-4. */
static int if_access(struct vmci_cpu *cpu)
{
    bool v86 = vmci_v86_mode(cpu);

    if (!vmci_prot_mode(cpu) || vmci_iopl(cpu) >= (v86 ? 3u : cpu->cpl))
        return 0;
    if (v86 ? (cpu->cr4 & VMC_CR4_VME) != 0 : cpu->cpl == 3 && (cpu->cr4 & VMC_CR4_PVI) != 0)
        return 1;
    (void)gp0(cpu);
    return 2;
}

static EXEC(cli)
{
    int how = if_access(cpu);

    (void)in;
    if (unlikely(how == 2))
        return VMCI_FAULT;
    cpu->rflags &= how == 0 ? ~VMC_FLAG_IF : ~VMC_FLAG_VIF;
    return 0;
}

static EXEC(sti)
{
    int how = if_access(cpu);

    (void)in;
    if (how == 2)
        return VMCI_FAULT;
    if (how == 1) {
        if ((cpu->rflags & VMC_FLAG_VIP) != 0)
            return gp0(cpu);
        cpu->rflags |= VMC_FLAG_VIF;
    } else if ((cpu->rflags & VMC_FLAG_IF) == 0) {
        cpu->rflags |= VMC_FLAG_IF;
        cpu->irq_shadow |= 1;
    }
    return 0;
}

static EXEC(clac_stac)
{
    if (cpu->cpl != 0)
        return ud(cpu);
    vmci_set_rflags(cpu, in->op == VMCI_OP_STAC ? VMC_FLAG_AC : 0, VMC_FLAG_AC);
    return 0;
}

/* ---- ports ----------------------------------------------------------------------------------- */

static EXEC(in_out)
{
    bool write = in->op == VMCI_OP_OUT;
    const struct vmci_opnd *p = &in->opnd[write ? 0 : 1];
    u16 port = p->kind == VMCI_OPND_IMM ? (u16)(u8)in->imm : (u16)cpu->gpr[VMC_RDX];
    u32 v = write ? (u32)cut(cpu->gpr[VMC_RAX], in->opsize) : 0;
    int rc = vmci_io_check(cpu, port, in->opsize);

    if (rc == 0)
        rc = vmci_pio(cpu, write, port, in->opsize, &v);
    if (rc == 0 && !write)
        put_gpr(cpu, VMC_RAX, in->opsize, v);
    return rc;
}

/* ---- processor control ----------------------------------------------------------------------- */

static EXEC(hlt)
{
    int rc = need_cpl0(cpu);

    (void)in;
    if (rc == 0)
        cpu->activity = VMC_RUN_HALTED;
    return rc;
}

static EXEC(cpuid)
{
    u32 out[4];

    (void)in;
    vmci_cpuid(cpu, (u32)cpu->gpr[VMC_RAX], (u32)cpu->gpr[VMC_RCX], out);
    cpu->gpr[VMC_RAX] = out[0];
    cpu->gpr[VMC_RBX] = out[1];
    cpu->gpr[VMC_RCX] = out[2];
    cpu->gpr[VMC_RDX] = out[3];
    return 0;
}

static EXEC(rdtsc)
{
    if ((cpu->cr4 & VMC_CR4_TSD) != 0 && cpu->cpl != 0)
        return gp0(cpu);
    put_edx_eax(cpu, vmci_tsc(cpu));
    if (in->op == VMCI_OP_RDTSCP)
        cpu->gpr[VMC_RCX] = (u32)cpu->msr.tsc_aux;
    return 0;
}

static EXEC(rdpid)
{
    put_reg(cpu, &in->opnd[0], in->opnd[0].size, cpu->msr.tsc_aux);
    return 0;
}

/* No performance counters: those that every processor has read as zero. */
static EXEC(rdpmc)
{
    u32 n = (u32)cpu->gpr[VMC_RCX];

    (void)in;
    if ((cpu->cr4 & VMC_CR4_PCE) == 0 && cpu->cpl != 0)
        return gp0(cpu);
    if (n > 3)
        return gp0(cpu);
    put_edx_eax(cpu, 0);
    return 0;
}

static EXEC(rdmsr)
{
    u64 v;
    int rc = need_cpl0(cpu);

    (void)in;
    if (rc == 0)
        rc = vmci_msr_read(cpu, (u32)cpu->gpr[VMC_RCX], &v);
    if (rc == 0)
        put_edx_eax(cpu, v);
    return rc;
}

static EXEC(wrmsr)
{
    int rc = need_cpl0(cpu);
    int64_t offset = cpu->tsc_offset;

    (void)in;
    if (rc == 0)
        rc = vmci_msr_write(cpu, (u32)cpu->gpr[VMC_RCX], edx_eax(cpu));
    if (cpu->tsc_offset != offset && cpu->io != NULL && cpu->io->tsc_moved != NULL) {
        vmci_fp_park(cpu);
        cpu->io->tsc_moved(cpu->io->ctx);
    }
    return rc;
}

static EXEC(mov_cr)
{
    u64 v;
    int rc;

    if (in->opnd[0].kind == VMCI_OPND_CR)
        return vmci_cr_write(cpu, in->opnd[0].reg, get_reg(cpu, &in->opnd[1], in->opsize));
    rc = vmci_cr_read(cpu, in->opnd[1].reg, &v);
    if (rc == 0)
        put_reg(cpu, &in->opnd[0], in->opsize, v);
    return rc;
}

static EXEC(mov_dr)
{
    u64 v;
    int rc;

    if (in->opnd[0].kind == VMCI_OPND_DR)
        return vmci_dr_write(cpu, in->opnd[0].reg, get_reg(cpu, &in->opnd[1], in->opsize));
    rc = vmci_dr_read(cpu, in->opnd[1].reg, &v);
    if (rc == 0)
        put_reg(cpu, &in->opnd[0], in->opsize, v);
    return rc;
}

static EXEC(clts)
{
    (void)in;
    return vmci_clts(cpu);
}

static EXEC(lmsw)
{
    u64 v;
    if (cpu->cpl != 0) /* before the operand is read */
        return gp0(cpu);
    int rc = exec_src(cpu, in, 0, 2, &v);
    return rc != 0 ? rc : vmci_lmsw(cpu, (u16)v);
}

/* To a register with its full size, to memory always a word. */
static int store_word(struct vmci_cpu *cpu, const struct vmci_insn *in, u64 v)
{
    bool mem = in->opnd[0].kind == VMCI_OPND_MEM;
    return exec_dst(cpu, in, mem ? 2 : in->opsize, v);
}

static EXEC(smsw)
{
    int rc = umip(cpu);
    return rc != 0 ? rc : store_word(cpu, in, cpu->cr0);
}

static EXEC(xgetbv)
{
    u64 v;
    int rc = vmci_xgetbv(cpu, (u32)cpu->gpr[VMC_RCX], &v);

    (void)in;
    if (rc == 0)
        put_edx_eax(cpu, v);
    return rc;
}

static EXEC(xsetbv)
{
    (void)in;
    return vmci_xsetbv(cpu, (u32)cpu->gpr[VMC_RCX], edx_eax(cpu));
}

static EXEC(privileged_nop) /* INVD, WBINVD: there is no cache to write back */
{
    (void)in;
    return need_cpl0(cpu);
}

/* Instructions between two PAUSEs of one loop that waits, at most. */
#define PAUSE_GAP 64u

static EXEC(pause)
{
    struct vmci_soft_cpu *sc = soft_of(cpu);

    (void)in;
    if (sc->pause_limit == 0)
        return 0;
    uint64_t now = vmci_retired_now(cpu);
    sc->pauses = now - sc->pause_at <= PAUSE_GAP ? sc->pauses + 1 : 1;
    sc->pause_at = now;
    if (sc->pauses >= sc->pause_limit)
        vmci_stop_block(cpu);
    return 0;
}

static EXEC(fence)
{
    (void)cpu;
    (void)in;
    vmci_fence_seq();
    return 0;
}

/* CLFLUSH and the like fault as a read of one byte would. */
static EXEC(clflush)
{
    u64 la, v;
    int rc = insn_la(cpu, in, 1, false, &la);
    return rc != 0 ? rc : vmci_rd(cpu, la, 1, &v);
}

static EXEC(clzero)
{
    u64 la;
    int rc = vmci_seg_la(cpu, in->seg, cut(cpu->gpr[VMC_RAX], in->addrsize) & ~63ull, 64, true,
                         &la);
    for (unsigned i = 0; rc == 0 && i < 8; i++)
        rc = vmci_wr(cpu, la + 8 * i, 8, 0);
    return rc;
}

static EXEC(monitor)
{
    u64 la, v;

    if (cpu->cpl != 0)
        return ud(cpu);
    if ((u32)cpu->gpr[VMC_RCX] != 0)
        return gp0(cpu);
    int rc = vmci_seg_la(cpu, in->seg, cut(cpu->gpr[VMC_RAX], in->addrsize), 1, false, &la);
    return rc != 0 ? rc : vmci_rd(cpu, la, 1, &v);
}

/* Waiting may end at any time (SDM 2B, MWAIT): it ends at once. */
static EXEC(mwait)
{
    u32 r[4], hints = 0;

    (void)in;
    if (cpu->cpl != 0)
        return ud(cpu);
    vmci_cpuid(cpu, 5, 0, r);
    if ((r[2] & 3) == 3)
        hints = 1; /* interrupts end the wait even while IF is clear */
    return ((u32)cpu->gpr[VMC_RCX] & ~hints) != 0 ? gp0(cpu) : 0;
}

static EXEC(invlpg)
{
    u64 ea = vmci_ea(cpu, in);

    if (cpu->code_bits != 64)
        ea = (u32)(ea + cpu->seg[in->seg].base);
    else if (in->seg == VMC_FS || in->seg == VMC_GS)
        ea += cpu->seg[in->seg].base;
    return vmci_invlpg(cpu, ea);
}

static EXEC(invpcid)
{
    u64 la, pcid, addr;
    unsigned n = cpu->code_bits == 64 ? 8 : 4;

    if (!vmci_prot_mode(cpu))
        n = 4;
    if (vmci_v86_mode(cpu) || cpu->cpl != 0)
        return gp0(cpu);
    int rc = insn_la(cpu, in, 16, false, &la);
    if (rc == 0)
        rc = vmci_rd(cpu, la, 8, &pcid);
    if (rc == 0)
        rc = vmci_rd(cpu, la + 8, 8, &addr);
    return rc != 0 ? rc : vmci_invpcid(cpu, get_reg(cpu, &in->opnd[0], n), pcid, addr);
}

static EXEC(random)
{
    u64 v = 0;
    u8 ok = 1;

    if (cpu->vm != NULL && cpu->vm->virtual_time) { /* replay needs the same numbers again */
        u64 now = cpu->tsc_base + vmci_retired_now(cpu);
        v = vmci_hash64(&now, sizeof(now), cpu->index);
    } else if (in->op == VMCI_OP_RDRAND) {
        __asm__ volatile("rdrand %[v]\n\tsetc %[ok]" : [v] "=r"(v), [ok] "=q"(ok) : : "cc");
    } else {
        __asm__ volatile("rdseed %[v]\n\tsetc %[ok]" : [v] "=r"(v), [ok] "=q"(ok) : : "cc");
    }
    put_reg(cpu, &in->opnd[0], in->opsize, cut(v, in->opsize));
    cpu->rflags = (cpu->rflags & ~VMC_FLAG_ARITH) | (ok != 0 ? VMC_FLAG_CF : 0);
    return 0;
}

/* The VM layer knows whether there are hypercalls. */
static EXEC(hypercall)
{
    struct vmc_exit *x = &cpu->exit;
    static const u8 regs[6] = {VMC_RBX, VMC_RCX, VMC_RDX, VMC_RSI, VMC_RDI, VMC_R8};

    if (cpu->cpl != 0)
        return ud(cpu);
    soft_of(cpu)->exit_len = in->len;
    memset(x, 0, sizeof(*x));
    x->kind = VMC_EXIT_HYPERCALL;
    x->u.hypercall.nr = cpu->gpr[VMC_RAX];
    for (unsigned i = 0; i < 6; i++)
        x->u.hypercall.arg[i] = cpu->gpr[regs[i]];
    return VMCI_EXIT;
}

/* ---- descriptor tables and segments ---------------------------------------------------------- */

static EXEC(lgdt_lidt)
{
    u64 limit, base;
    bool wide = cpu->code_bits == 64;
    int rc = need_cpl0(cpu);

    if (rc == 0)
        rc = vmci_rd_pair(cpu, in, 2, wide ? 8 : 4, &limit, &base);
    if (rc != 0)
        return rc;
    if (wide && !vmci_canonical_max(cpu, base))
        return gp0(cpu);
    if (!wide && (in->flags & VMCI_IF_66 ? cpu->code_bits == 32 : cpu->code_bits == 16))
        base &= 0xffffff;
    struct vmc_table *t = in->op == VMCI_OP_LGDT ? &cpu->gdtr : &cpu->idtr;
    t->base = base;
    t->limit = (u16)limit;
    return 0;
}

static EXEC(sgdt_sidt)
{
    const struct vmc_table *t = in->op == VMCI_OP_SGDT ? &cpu->gdtr : &cpu->idtr;
    unsigned bytes = cpu->code_bits == 64 ? 10 : 6;
    u8 image[10];
    u64 la;
    int rc = umip(cpu);

    if (rc == 0)
        rc = insn_la(cpu, in, bytes, true, &la);
    if (rc != 0)
        return rc;
    /* One operand that wants to be aligned to four bytes (SDM 3A table 6-7). */
    if (cpu->tlb_mode == VMCI_TLB_ALIGN && (la & 3) != 0 && vmci_canonical(cpu, la))
        return vmci_raise_code(cpu, VMC_VEC_AC, 0);
    vmci_st_le16(image, (u16)t->limit);
    vmci_st_le64(image + 2, t->base);
    return vmci_wr_block(cpu, la, image, bytes);
}

static EXEC(lldt_ltr)
{
    u64 v;
    int rc = need_prot(cpu);

    if (rc == 0)
        rc = need_cpl0(cpu);
    if (rc == 0)
        rc = exec_src(cpu, in, 0, 2, &v);
    if (rc != 0)
        return rc;
    return in->op == VMCI_OP_LLDT ? vmci_lldt(cpu, (u16)v) : vmci_ltr(cpu, (u16)v);
}

static EXEC(sldt_str)
{
    int rc = need_prot(cpu);

    if (rc == 0)
        rc = umip(cpu);
    if (rc != 0)
        return rc;
    return store_word(cpu, in, cpu->seg[in->op == VMCI_OP_SLDT ? VMC_LDTR : VMC_TR].selector);
}

static EXEC(lar_lsl)
{
    u64 sel;
    u32 out = 0;
    bool zf = false;
    int rc = need_prot(cpu);

    if (rc == 0)
        rc = exec_src(cpu, in, 1, 2, &sel);
    if (rc == 0)
        rc = in->op == VMCI_OP_LAR ? vmci_lar(cpu, (u16)sel, &out, &zf)
                                   : vmci_lsl(cpu, (u16)sel, &out, &zf);
    if (rc != 0)
        return rc;
    put_flag(cpu, VMC_FLAG_ZF, zf);
    if (zf)
        put_reg(cpu, &in->opnd[0], in->opsize, out);
    return 0;
}

static EXEC(verr_verw)
{
    u64 sel;
    bool zf = false;
    int rc = need_prot(cpu);

    if (rc == 0)
        rc = exec_src(cpu, in, 0, 2, &sel);
    if (rc == 0)
        rc = vmci_verrw(cpu, (u16)sel, in->op == VMCI_OP_VERW, &zf);
    if (rc == 0)
        put_flag(cpu, VMC_FLAG_ZF, zf);
    return rc;
}

static EXEC(arpl)
{
    u64 dst, la = 0;
    u64 src = get_reg(cpu, &in->opnd[1], 2);
    bool mem = in->opnd[0].kind == VMCI_OPND_MEM;
    int rc = need_prot(cpu);

    if (rc == 0)
        rc = exec_src(cpu, in, 0, 2, &dst);
    if (rc != 0)
        return rc;
    /* Without a change nothing is written, and what cannot be written does not fault. */
    bool adjust = (dst & 3) < (src & 3);
    dst = (dst & ~3ull) | (src & 3);
    if (adjust && mem) {
        rc = insn_la(cpu, in, 2, true, &la);
        if (rc == 0)
            rc = vmci_wr(cpu, la, 2, dst);
    } else if (adjust) {
        put_reg(cpu, &in->opnd[0], 2, dst);
    }
    if (rc == 0)
        put_flag(cpu, VMC_FLAG_ZF, adjust);
    return rc;
}

static EXEC(mov_sreg)
{
    u64 v;
    unsigned seg;
    int rc;

    if (in->opnd[0].kind != VMCI_OPND_SREG)
        return store_word(cpu, in, cpu->seg[in->opnd[1].reg].selector);
    seg = in->opnd[0].reg;
    if (seg == VMC_CS)
        return ud(cpu);
    rc = exec_src(cpu, in, 1, 2, &v);
    if (rc == 0)
        rc = vmci_load_sreg(cpu, seg, (u16)v);
    if (rc == 0 && seg == VMC_SS)
        cpu->irq_shadow = 3;
    return rc;
}

static unsigned far_seg(const struct vmci_insn *in)
{
    uint8_t op = in->raw[in->opcode_off];

    if (in->map == VMCI_MAP_1B)
        return op == 0xc4 ? VMC_ES : VMC_DS;
    return op == 0xb2 ? VMC_SS : op == 0xb4 ? VMC_FS : VMC_GS;
}

static EXEC(load_far)
{
    u64 off, sel;
    int rc = vmci_rd_pair(cpu, in, in->opsize, 2, &off, &sel);

    if (rc == 0)
        rc = vmci_load_sreg(cpu, far_seg(in), (u16)sel);
    if (rc == 0)
        put_reg(cpu, &in->opnd[0], in->opsize, off);
    return rc;
}

static EXEC(rdpkru)
{
    (void)in;
    if ((cpu->cr4 & VMC_CR4_PKE) == 0)
        return ud(cpu);
    if ((u32)cpu->gpr[VMC_RCX] != 0)
        return gp0(cpu);
    cpu->gpr[VMC_RAX] = cpu->pkru;
    cpu->gpr[VMC_RDX] = 0;
    return 0;
}

static EXEC(wrpkru)
{
    (void)in;
    if ((cpu->cr4 & VMC_CR4_PKE) == 0)
        return ud(cpu);
    if ((u32)cpu->gpr[VMC_RCX] != 0 || (u32)cpu->gpr[VMC_RDX] != 0)
        return gp0(cpu);
    vmci_set_pkru(cpu, (u32)cpu->gpr[VMC_RAX]);
    return 0;
}

static EXEC(swapgs)
{
    (void)in;
    if (cpu->code_bits != 64)
        return ud(cpu);
    int rc = need_cpl0(cpu);
    if (rc != 0)
        return rc;
    u64 t = cpu->seg[VMC_GS].base;
    cpu->seg[VMC_GS].base = cpu->msr.kernel_gs_base;
    cpu->msr.kernel_gs_base = t;
    return 0;
}

static EXEC(fsgsbase)
{
    bool write = in->op == VMCI_OP_WRFSBASE || in->op == VMCI_OP_WRGSBASE;
    bool fs = in->op == VMCI_OP_RDFSBASE || in->op == VMCI_OP_WRFSBASE;
    u64 *base = &cpu->seg[fs ? VMC_FS : VMC_GS].base;

    if (cpu->code_bits != 64 || (cpu->cr4 & VMC_CR4_FSGSBASE) == 0)
        return ud(cpu);
    if (!write) {
        put_reg(cpu, &in->opnd[0], in->opsize, *base);
        return 0;
    }
    u64 v = get_reg(cpu, &in->opnd[0], in->opsize);
    if (!vmci_canonical_max(cpu, v))
        return gp0(cpu);
    *base = v;
    return 0;
}

/* ---- choice ---------------------------------------------------------------------------------- */

vmci_exec_fn system_handler(const struct vmci_insn *in)
{
    static const vmci_exec_fn t[VMCI_OP_COUNT] = {
        [VMCI_OP_CLC] = flag_op,       [VMCI_OP_STC] = flag_op,
        [VMCI_OP_CMC] = flag_op,       [VMCI_OP_CLD] = flag_op,
        [VMCI_OP_STD] = flag_op,       [VMCI_OP_CLI] = cli,
        [VMCI_OP_STI] = sti,           [VMCI_OP_CLAC] = clac_stac,
        [VMCI_OP_STAC] = clac_stac,    [VMCI_OP_IN] = in_out,
        [VMCI_OP_OUT] = in_out,        [VMCI_OP_HLT] = hlt,
        [VMCI_OP_CPUID] = cpuid,       [VMCI_OP_RDTSC] = rdtsc,
        [VMCI_OP_RDTSCP] = rdtsc,      [VMCI_OP_RDPID] = rdpid,
        [VMCI_OP_RDPMC] = rdpmc,       [VMCI_OP_RDMSR] = rdmsr,
        [VMCI_OP_WRMSR] = wrmsr,       [VMCI_OP_MOV_CR] = mov_cr,
        [VMCI_OP_MOV_DR] = mov_dr,     [VMCI_OP_CLTS] = clts,
        [VMCI_OP_LMSW] = lmsw,         [VMCI_OP_SMSW] = smsw,
        [VMCI_OP_XGETBV] = xgetbv,     [VMCI_OP_XSETBV] = xsetbv,
        [VMCI_OP_INVD] = privileged_nop, [VMCI_OP_WBINVD] = privileged_nop,
        [VMCI_OP_PAUSE] = pause,       [VMCI_OP_SERIALIZE] = fence,
        [VMCI_OP_FENCE] = fence,       [VMCI_OP_CLFLUSH] = clflush,
        [VMCI_OP_CLFLUSHOPT] = clflush, [VMCI_OP_CLWB] = clflush,
        [VMCI_OP_CLZERO] = clzero,     [VMCI_OP_MONITOR] = monitor,
        [VMCI_OP_MWAIT] = mwait,       [VMCI_OP_INVLPG] = invlpg,
        [VMCI_OP_INVPCID] = invpcid,   [VMCI_OP_RDRAND] = random,
        [VMCI_OP_RDSEED] = random,     [VMCI_OP_VMCALL] = hypercall,
        [VMCI_OP_VMMCALL] = hypercall, [VMCI_OP_LGDT] = lgdt_lidt,
        [VMCI_OP_LIDT] = lgdt_lidt,    [VMCI_OP_SGDT] = sgdt_sidt,
        [VMCI_OP_SIDT] = sgdt_sidt,    [VMCI_OP_LLDT] = lldt_ltr,
        [VMCI_OP_LTR] = lldt_ltr,      [VMCI_OP_SLDT] = sldt_str,
        [VMCI_OP_STR] = sldt_str,      [VMCI_OP_LAR] = lar_lsl,
        [VMCI_OP_LSL] = lar_lsl,       [VMCI_OP_VERR] = verr_verw,
        [VMCI_OP_VERW] = verr_verw,    [VMCI_OP_ARPL] = arpl,
        [VMCI_OP_MOV_SREG] = mov_sreg, [VMCI_OP_LOAD_FAR] = load_far,
        [VMCI_OP_SWAPGS] = swapgs,     [VMCI_OP_RDFSBASE] = fsgsbase,
        [VMCI_OP_RDGSBASE] = fsgsbase, [VMCI_OP_WRFSBASE] = fsgsbase,
        [VMCI_OP_WRGSBASE] = fsgsbase, [VMCI_OP_RDPKRU] = rdpkru,
        [VMCI_OP_WRPKRU] = wrpkru,     [VMCI_OP_UD] = exec_ud,
        [VMCI_OP_RSM] = exec_ud, /* there is no system management mode */
    };
    return in->op < VMCI_OP_COUNT ? t[in->op] : NULL;
}
