/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The instructions of exec_width.c where size counts for more than speed (the bare-metal image):
 * one handler for every width, form and condition.
 */
#include "cpu/interp/exec.h"

static EXEC(mov_any)
{
    u64 v;
    int rc = exec_src(cpu, in, 1, in->opsize, &v);

    return rc != 0 ? rc : exec_dst(cpu, in, in->opsize, cut(v, in->opsize));
}

static EXEC(extend_any)
{
    unsigned from = in->opnd[1].size;
    u64 v;
    int rc = exec_src(cpu, in, 1, from, &v);

    if (rc != 0)
        return rc;
    put_reg(cpu, &in->opnd[0], in->opsize, in->op == VMCI_OP_MOVSX ? sext(v, from) : v);
    return 0;
}

/*
 * XCHG, XADD and CMPXCHG, for a destination at RDI and a source in RDX, each in 16 bytes; CMPXCHG
 * compares with RAX. RCX not zero: locked; else the prefix is jumped over.
 */
#define SWAP_SLOT(insn) ".p2align 4\n\tjrcxz 2f\n\t.byte 0xf0\n2:\t" insn "\n\tjmp 9f\n"
#define SWAP(op)                                                                                   \
    SWAP_SLOT(op " %%dl, (%%rdi)")                                                                 \
    SWAP_SLOT(op " %%dx, (%%rdi)")                                                                 \
    SWAP_SLOT(op " %%edx, (%%rdi)")                                                                \
    SWAP_SLOT(op " %%rdx, (%%rdi)")

enum { SWAP_XCHG, SWAP_XADD, SWAP_CMPXCHG };

/* One of these on *p, of 1 << width bytes. Returns the flags as set_flags takes them. */
static __attribute__((noinline)) u32 swap(unsigned op, unsigned width, void *p, u64 *source,
                                          u64 *accumulator, bool lock)
{
    u64 rax = *accumulator, rcx = lock;
    __asm__ volatile("leaq 1f(%%rip), %%r8\n\t"
                     "addq %[at], %%r8\n\t"
                     "jmp *%%r8\n"
                     ".p2align 4\n"
                     "1:\n" SWAP("xchg") SWAP("xadd")
                         SWAP("cmpxchg") "9:\n\tmovq %%rax, %%rcx\n\t" ASM_FLAGS
                     : "+a"(rax), "+c"(rcx), "+d"(*source)
                     : [at] "r"((u64)(op * 4 + width) * 16), "D"(p)
                     : "r8", "cc", "memory");
    *accumulator = rcx;
    return (u32)rax;
}

static EXEC(swap_any)
{
    bool mem0 = in->opnd[0].kind == VMCI_OPND_MEM;
    bool mem = mem0 || in->opnd[1].kind == VMCI_OPND_MEM;
    unsigned size = in->opsize;
    unsigned op = in->op == VMCI_OP_XCHG   ? SWAP_XCHG
                  : in->op == VMCI_OP_XADD ? SWAP_XADD
                                           : SWAP_CMPXCHG;
    bool lock = op == SWAP_XCHG || (in->flags & VMCI_IF_LOCK) != 0;
    const struct vmci_opnd *r = &in->opnd[mem0 || !mem];
    u64 v = get_reg(cpu, r, size), acc = cpu->gpr[VMC_RAX], cell, la;
    void *p = &cell;
    int rc;

    if (mem) {
        rc = insn_la(cpu, in, size, true, &la);
        if (rc != 0)
            return rc;
        p = rmw_begin(cpu, la, size, lock, &rc);
        if (p == NULL)
            return rc;
    } else {
        cell = get_reg(cpu, &in->opnd[0], size);
    }
    u32 ax = swap(op, (unsigned)__builtin_ctz(size), p, &v, &acc, lock);
    if (mem && (rc = rmw_done(cpu)) != 0)
        return rc;
    if (op != SWAP_XCHG)
        set_flags(cpu, ax);
    if (op != SWAP_CMPXCHG)
        put_reg(cpu, r, size, v);
    else if ((cpu->rflags & VMC_FLAG_ZF) == 0) { /* the destination keeps bits 63:32, too */
        put_gpr(cpu, VMC_RAX, size, acc);
        return 0;
    }
    if (!mem)
        put_reg(cpu, &in->opnd[0], size, cell);
    return 0;
}

static EXEC(jcc_any)
{
    u64 next = next_rip(cpu, in);

    if (condition(cpu->rflags, in->cond))
        return branch(cpu, in, next + (u64)in->imm);
    cpu->rip = next;
    return 0;
}

vmci_exec_fn width_handler(const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_MOV:
        return mov_any;
    case VMCI_OP_MOVZX:
    case VMCI_OP_MOVSX:
        return extend_any;
    case VMCI_OP_XCHG:
    case VMCI_OP_XADD:
    case VMCI_OP_CMPXCHG:
        return swap_any;
    case VMCI_OP_JCC:
        return jcc_any;
    default:
        return NULL;
    }
}
