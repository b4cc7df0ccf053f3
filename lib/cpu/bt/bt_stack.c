/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RSP in traces. Pushes, pops, calls and returns move it by constants, as does ADD or SUB of one;
 * the translation does not, as long as it knows how far: it owes RSP the sum, adds that to the
 * displacements of what it accesses through RSP, and pays at the next instruction that names RSP
 * otherwise, or where the trace is left. Cold code pays before anything else can look, and takes it
 * back when it returns.
 */
#include "cpu/bt/bt_work.h"

/* The second copies of loops resume in the first ones and are left alone. */
static bool defers(const struct bt_work *w)
{
    return w->word == 8 && !w->loop;
}

void bt_rsp_move(struct bt_work *w, int32_t by)
{
    w->moved += by;
    if (defers(w))
        w->owed += by;
    else
        em_lea(&w->e, bt_wide(w), EM_RSP, EM_RSP, EM_NONE, 0, by);
}

void bt_rsp_pay(struct bt_work *w)
{
    if (w->owed != 0)
        em_lea(&w->e, EM_W, EM_RSP, EM_RSP, EM_NONE, 0, w->owed);
    w->owed = 0;
}

void bt_rsp_borrow(struct emit *e, int32_t owed)
{
    if (owed != 0)
        em_lea(e, EM_W, EM_RSP, EM_RSP, EM_NONE, 0, -owed);
}

/* Is RSP at most the base of a memory operand that bt_check_ea finds? */
static bool only_base(const struct bt_work *w, const struct vmci_insn *in)
{
    const uint32_t rsp = 1u << EM_RSP;
    struct vmci_insn rest = *in;

    rest.base = VMCI_REG_ZERO;
    if ((bt_regs_used(&rest) & rsp) != 0 || in->disp != (int16_t)in->disp)
        return false;
    switch (in->op) {
    case VMCI_OP_BT:
    case VMCI_OP_BTS:
    case VMCI_OP_BTR:
    case VMCI_OP_BTC:
        return false;
    case VMCI_OP_FP_SSE:
    case VMCI_OP_FP_AVX:
        return bt_fp_native(w, in);
    default:
        return in->op < VMCI_OP_FP_FIRST && in->op != VMCI_OP_LEA && bt_copyable(w, in);
    }
}

bool bt_rsp_may_owe(const struct bt_work *w, const struct vmci_insn *in, enum bt_follow follow)
{
    const uint32_t rsp = 1u << EM_RSP;
    const struct vmci_opnd *o = &in->opnd[0];

    switch (in->op) {
    case VMCI_OP_PUSH:
        return in->opsize == 8 &&
               (o->kind == VMCI_OPND_IMM || (o->kind == VMCI_OPND_GPR && o->reg != EM_RSP));
    case VMCI_OP_POP:
        return in->opsize == 8 && o->kind == VMCI_OPND_GPR && o->reg != EM_RSP;
    case VMCI_OP_CALL:
        return in->opsize == 8 && o->kind == VMCI_OPND_REL;
    case VMCI_OP_RET:
        return in->opsize == 8;
    case VMCI_OP_JMP:
    case VMCI_OP_JCC:
        return follow != BT_FOLLOW_NOT && (bt_regs_used(in) & rsp) == 0;
    default:
        break;
    }
    if ((in->flags & VMCI_IF_BRANCH) != 0 || bt_regs_written(w, in) == 0xffff)
        return false;
    if (((bt_regs_used(in) | bt_regs_written(w, in)) & rsp) == 0)
        return true;
    return ((bt_regs_written(w, in) & rsp) == 0 && only_base(w, in)) || bt_rsp_later(w, in);
}

bool bt_rsp_later(const struct bt_work *w, const struct vmci_insn *in)
{
    return defers(w) && bt_adjusts_rsp(w, in) && w->step[w->i].after == w->i + 1;
}
