/* SPDX-License-Identifier: BSD-2-Clause */
/* Which registers instructions use, and which ones a translation may use for itself. */
#include "cpu/bt/bt_work.h"

/* Registers that an op uses without naming them. */
static uint32_t implied(const struct vmci_insn *in)
{
    const uint32_t ax = 1u << EM_RAX;
    const uint32_t cx = 1u << EM_RCX;
    const uint32_t dx = 1u << EM_RDX;

    switch (in->op) {
    case VMCI_OP_MUL:
    case VMCI_OP_IMUL1:
    case VMCI_OP_CWD:
    case VMCI_OP_DIV:
    case VMCI_OP_IDIV:
        return ax | dx;
    case VMCI_OP_MULX:
        return dx;
    case VMCI_OP_CBW:
    case VMCI_OP_LAHF:
    case VMCI_OP_PUSHF: /* by its translation */
    case VMCI_OP_POPF:
    case VMCI_OP_SAHF:
    case VMCI_OP_CMPXCHG:
        return ax;
    case VMCI_OP_RDTSC:
        return ax | dx;
    case VMCI_OP_RDMSR:
    case VMCI_OP_WRMSR:
    case VMCI_OP_RDTSCP:
        return ax | dx | cx;
    case VMCI_OP_CMPXCHG8B:
    case VMCI_OP_CMPXCHG16B:
    case VMCI_OP_CPUID:
        return ax | dx | cx | 1u << EM_RBX;
    case VMCI_OP_MOVS:
        return cx | 1u << EM_RSI | 1u << EM_RDI;
    case VMCI_OP_STOS:
        return ax | cx | 1u << EM_RDI;
    case VMCI_OP_LEAVE:
        return 1u << EM_RBP;
    case VMCI_OP_ROL:
    case VMCI_OP_ROR:
    case VMCI_OP_RCL:
    case VMCI_OP_RCR:
    case VMCI_OP_SHL:
    case VMCI_OP_SHR:
    case VMCI_OP_SAR:
    case VMCI_OP_SHLD:
    case VMCI_OP_SHRD:
        return cx;
    default:
        return 0;
    }
}

uint32_t bt_regs_used(const struct vmci_insn *in)
{
    uint32_t used = implied(in) | in->gpr_rd | in->gpr_wr;

    for (unsigned k = 0; k < in->nopnd && k < 4; k++) {
        if (in->opnd[k].kind == VMCI_OPND_GPR)
            used |= 1u << in->opnd[k].reg;
        else if (in->opnd[k].kind == VMCI_OPND_GPR_HI)
            used |= 1u << in->opnd[k].reg;
    }
    if ((in->flags & VMCI_IF_MEM) != 0) {
        if (in->base < 16)
            used |= 1u << in->base;
        if (in->index < 16)
            used |= 1u << in->index;
    }
    return used;
}

uint32_t bt_regs_written(const struct bt_work *w, const struct vmci_insn *in)
{
    uint32_t regs = 0;

    switch (in->op) {
    case VMCI_OP_NOP:
    case VMCI_OP_PREFETCH:
    case VMCI_OP_JMP:
    case VMCI_OP_JCC:
    case VMCI_OP_JCXZ:
    case VMCI_OP_CMP:
    case VMCI_OP_TEST:
    case VMCI_OP_BT:
        return 0;
    case VMCI_OP_FP_X87:
    case VMCI_OP_FP_MMX:
    case VMCI_OP_FWAIT:
    case VMCI_OP_FP_SSE:
    case VMCI_OP_FP_AVX:
        return bt_fp_native(w, in) ? in->gpr_wr : 0xffff;
    case VMCI_OP_LEAVE:
        return 1u << EM_RSP | 1u << EM_RBP;
    case VMCI_OP_PUSH:
    case VMCI_OP_CALL:
    case VMCI_OP_RET:
        return in->opsize == w->word || bt_seg_stacked(w, in) ? 1u << EM_RSP : 0xffff;
    case VMCI_OP_POP:
        if (bt_pop_mem_native(w, in))
            return 1u << EM_RSP;
        return (in->opsize == w->word || w->seg) && in->opnd[0].kind == VMCI_OPND_GPR
                   ? 1u << EM_RSP | 1u << in->opnd[0].reg
                   : 0xffff;
    case VMCI_OP_LEA:
        return 1u << in->opnd[0].reg;
    case VMCI_OP_BTS:
    case VMCI_OP_BTR:
    case VMCI_OP_BTC:
        if (bt_bit_string_native(w, in))
            return 0;
        break;
    case VMCI_OP_DIV:
    case VMCI_OP_IDIV:
        return bt_divide_native(w, in) ? implied(in) : 0xffff;
    case VMCI_OP_MOVS:
    case VMCI_OP_STOS:
        return bt_string_native(w, in) ? implied(in) & ~(1u << EM_RAX) : 0xffff;
    default:
        break;
    }
    if (!bt_copyable(w, in))
        return 0xffff;
    /* XCHG, XADD and MULX write two. */
    bool two = in->op == VMCI_OP_XCHG || in->op == VMCI_OP_XADD || in->op == VMCI_OP_MULX;
    for (unsigned k = 0; k < in->nopnd && k < (two ? 2u : 1u); k++)
        if (in->opnd[k].kind == VMCI_OPND_GPR || in->opnd[k].kind == VMCI_OPND_GPR_HI)
            regs |= 1u << in->opnd[k].reg;
    return regs | implied(in);
}

unsigned bt_unused(const struct bt_work *w, uint32_t used)
{
    static const uint8_t order[] = {11, 10,     9,      8,      15,     14,     13,
                                    12, EM_RBX, EM_RDI, EM_RSI, EM_RDX, EM_RBP, EM_RAX};

    for (unsigned k = 0; k < sizeof(order); k++)
        if ((used & 1u << order[k]) == 0 && (w->hint & 1u << order[k]) != 0)
            return order[k];
    for (unsigned k = 0; k < sizeof(order); k++)
        if ((used & 1u << order[k]) == 0)
            return order[k];
    return EM_NONE;
}

bool bt_keeps_rcx(const struct bt_work *w)
{
    unsigned uses = 0;

    for (unsigned i = 0; i < w->n; i++) {
        const struct vmci_insn *in = w->step[i].in;
        if (w->step[i].lazy != 0)
            continue;
        uses += (in->flags & VMCI_IF_MEM) != 0 && in->index < 16;
        uses += in->op == VMCI_OP_RET || in->op == VMCI_OP_JMP || in->op == VMCI_OP_CALL;
    }
    return uses >= 2;
}

/* With a register for an operand, if that makes a difference. */
static void plan_flags(struct bt_work *w, uint32_t used)
{
    w->f = EM_NONE;
    bt_flags_plan(w);
    unsigned gain = bt_flags_gain(w);
    w->f = bt_unused(w, used);
    if (w->f == EM_NONE)
        return;
    bt_flags_plan(w);
    if (bt_flags_gain(w) > gain) {
        w->t->set |= (uint16_t)(1u << w->f);
        return;
    }
    w->f = EM_NONE;
    bt_flags_plan(w);
}

/* Registers x and s for up to n instructions, as long as two are left. Which ones are used. */
static uint32_t pick_two(struct bt_work *w, unsigned n)
{
    uint32_t used = 0;

    w->x = 11;
    w->s = 10;
    for (w->n = 0; w->n < n; w->n++) {
        uint32_t now = used | bt_regs_used(w->step[w->n].in);
        unsigned x = bt_unused(w, now);
        unsigned s = x == EM_NONE ? EM_NONE : bt_unused(w, now | 1u << x);
        if (s == EM_NONE)
            break;
        w->x = x;
        w->s = s;
        used = now;
    }
    return used;
}

void bt_pick_set(struct bt_work *w)
{
    unsigned n = w->n;

    w->hint = w->sc->bt.hint;
    uint32_t used = pick_two(w, n);
    if (w->n < n)
        used = pick_two(w, bt_before_hotter(w, w->n));
    w->t->set = (uint16_t)(1u << w->x | 1u << w->s);
    bt_groups(w, used | w->t->set);
    used |= w->t->set;
    plan_flags(w, used);
    used |= w->t->set;
    w->k = bt_keeps_rcx(w) ? bt_unused(w, used) : EM_NONE;
    if (w->k != EM_NONE)
        w->t->set |= (uint16_t)(1u << w->k);
    w->copy_k[0] = w->copy_k[1] = w->k;
    w->used = used | w->t->set;
}

void bt_exchange(struct emit *e, uint16_t from, uint16_t to)
{
    for (unsigned r = 0; r < 16; r++)
        if ((to & ~from & 1u << r) != 0)
            em_store_gs(e, r, GS_GPR(r));
    for (unsigned r = 0; r < 16; r++)
        if ((from & ~to & 1u << r) != 0)
            em_load_gs(e, r, GS_GPR(r));
}
