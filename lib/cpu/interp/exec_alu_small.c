/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The arithmetic and logic of exec_alu.c where size counts for more than speed (the bare-metal
 * image): one handler for every operation, width and form. The host's own instruction computes
 * here, too.
 */
#include "cpu/interp/exec.h"

/*
 * The instructions, for a destination at RDI and a source in RSI, each in 16 bytes. RCX not zero:
 * locked; else the prefix is jumped over. JRCXZ leaves the flags alone, so CF arrives at ADC.
 */
#define SLOT(insn) ".p2align 4\n\tjrcxz 2f\n\t.byte 0xf0\n2:\t" insn "\n\tjmp 9f\n"
#define TWO(op)                                                                                    \
    SLOT(op "b %%sil, (%%rdi)")                                                                    \
    SLOT(op "w %%si, (%%rdi)")                                                                     \
    SLOT(op "l %%esi, (%%rdi)")                                                                    \
    SLOT(op "q %%rsi, (%%rdi)")
#define ONE(op) SLOT(op "b (%%rdi)") SLOT(op "w (%%rdi)") SLOT(op "l (%%rdi)") SLOT(op "q (%%rdi)")

enum { TWO_OPS = VMCI_OP_TEST - VMCI_OP_ADD + 1 };
_Static_assert(TWO_OPS == 9 && VMCI_OP_NOT - VMCI_OP_INC == 3, "order of the operations");

/* Number op of the list below on *p, of 1 << width bytes. Returns the flags as set_flags takes
 * them. */
static __attribute__((noinline)) u32 compute(unsigned op, unsigned width, void *p, u64 b,
                                             u64 rflags, bool lock)
{
    u32 ax;
    __asm__ volatile("leaq 1f(%%rip), %%rax\n\t"
                     "addq %[at], %%rax\n\t"
                     "btl $0, %[rflags]\n\t" /* CF */
                     "jmp *%%rax\n"
                     ".p2align 4\n"
                     "1:\n" TWO("add") TWO("or") TWO("adc") TWO("sbb") TWO("and") TWO("sub")
                         TWO("xor") TWO("cmp") TWO("test") ONE("inc") ONE("dec") ONE("neg")
                             ONE("not") "9:\n\t" ASM_FLAGS
                     : "=&a"(ax)
                     : [at] "r"((u64)(op * 4 + width) * 16), [rflags] "r"((u32)rflags), "D"(p),
                       "S"(b), "c"((u64)lock)
                     : "cc", "memory");
    return ax;
}

static EXEC(alu_any)
{
    bool two = in->op <= VMCI_OP_TEST;
    unsigned op = two ? in->op - VMCI_OP_ADD : in->op - VMCI_OP_INC + TWO_OPS;
    unsigned size = in->opsize, width = (unsigned)__builtin_ctz(size);
    bool keep = in->op == VMCI_OP_CMP || in->op == VMCI_OP_TEST;
    u64 a, b = 0, la;
    u32 ax;
    int rc;

    if (two && (rc = exec_src(cpu, in, 1, size, &b)) != 0)
        return rc;
    if (keep || in->opnd[0].kind != VMCI_OPND_MEM) {
        rc = exec_src(cpu, in, 0, size, &a);
        if (rc != 0)
            return rc;
        ax = compute(op, width, &a, b, cpu->rflags, false);
        if (!keep)
            put_reg(cpu, &in->opnd[0], size, a);
    } else {
        bool lock = (in->flags & VMCI_IF_LOCK) != 0;
        rc = insn_la(cpu, in, size, true, &la);
        if (rc != 0)
            return rc;
        void *p = rmw_begin(cpu, la, size, lock, &rc);
        if (p == NULL)
            return rc;
        ax = compute(op, width, p, b, cpu->rflags, lock);
        rc = rmw_done(cpu);
        if (rc != 0)
            return rc;
    }
    if (in->op != VMCI_OP_NOT) /* INC and DEC left CF as it was loaded */
        set_flags(cpu, ax);
    return 0;
}

vmci_exec_fn alu_handler(const struct vmci_insn *in)
{
    bool mine = (in->op >= VMCI_OP_ADD && in->op <= VMCI_OP_TEST) ||
                (in->op >= VMCI_OP_INC && in->op <= VMCI_OP_NOT);
    return mine ? alu_any : NULL;
}
