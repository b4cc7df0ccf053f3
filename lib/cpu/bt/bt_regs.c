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
        return ax | dx;
    case VMCI_OP_MULX:
        return dx;
    case VMCI_OP_CBW:
    case VMCI_OP_LAHF:
    case VMCI_OP_SAHF:
    case VMCI_OP_CMPXCHG:
        return ax;
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

/* The first two that nobody names, in the order in which compilers use registers least. */
static unsigned unused(uint32_t used, unsigned out[2])
{
    static const uint8_t order[] = {11, 10, 9, 8, 15, 14, 13, 12, EM_RBX, EM_RDI, EM_RSI, EM_RDX,
                                    EM_RBP, EM_RAX};
    unsigned n = 0;

    for (unsigned k = 0; k < sizeof(order) && n < 2; k++)
        if ((used & 1u << order[k]) == 0)
            out[n++] = order[k];
    return n;
}

void bt_pick_set(struct bt_work *w)
{
    uint32_t used = 0;
    unsigned r[2] = {11, 10};

    /* Code that uses every register is translated up to where two are left. */
    for (w->n = 0; w->n < w->b->n; w->n++) {
        unsigned more[2];
        used |= bt_regs_used(&w->b->insn[w->n]);
        if (unused(used, more) < 2)
            break;
        r[0] = more[0];
        r[1] = more[1];
    }
    w->x = r[0];
    w->s = r[1];
    w->t->set = (uint16_t)(1u << r[0] | 1u << r[1]);
    w->t->n = (uint16_t)w->n;
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
