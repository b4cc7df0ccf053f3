/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * REP MOVS and REP STOS of 64-bit code, upwards and within a page: the host's own instruction on
 * checked host addresses. Longer runs, DF and everything else are the interpreter's. Nothing was
 * changed when a check fails, so it begins at the beginning.
 */
#include "cpu/bt/bt_work.h"

bool bt_string_native(const struct bt_work *w, const struct vmci_insn *in)
{
    return (in->op == VMCI_OP_MOVS || in->op == VMCI_OP_STOS) && w->word == 8 &&
           in->addrsize == 8 && (in->flags & (VMCI_IF_REP | VMCI_IF_REPNE)) == VMCI_IF_REP &&
           in->seg != VMC_FS && in->seg != VMC_GS;
}

static unsigned scale_of(const struct vmci_insn *in)
{
    return in->opsize == 8 ? 3 : in->opsize == 4 ? 2 : in->opsize == 2 ? 1 : 0;
}

/*
 * The run of x elements from the address in reg on must end in the page where it begins. x is less
 * than VMC_PAGE_SIZE, so that its end lies in no page that shares the entry. Leaves the addend in
 * s; RCX is lost.
 */
static void check_run(struct bt_work *w, const struct vmci_insn *in, unsigned reg, bool write)
{
    struct emit *e = &w->e;
    uint32_t table = GS_CPU(tlb) + (uint32_t)(w->t->mode * sizeof(struct vmci_tlb));

    em_pext_gs(e, w->s, reg, GS_BT(tlb_mask));
    em_load_gs_x8(
        e, EM_RCX, w->s,
        table + (uint32_t)(write ? offsetof(struct vmci_tlb, wr) : offsetof(struct vmci_tlb, rd)));
    em_lea(e, EM_W, EM_RCX, EM_RCX, w->x, scale_of(in), -1);
    em_lea(e, EM_W, EM_RCX, EM_RCX, reg, 0, 0);
    em_pext_gs(e, EM_RCX, EM_RCX, GS_BT(page_mask));
    bt_cold_insn(w, em_jump_unless_rcxz(e), BT_RCX_X);
    em_load_gs_x8(e, w->s, w->s, table + (uint32_t)offsetof(struct vmci_tlb, addend));
}

bool bt_string(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    unsigned scale = scale_of(in);
    bool movs = in->op == VMCI_OP_MOVS;

    if (!bt_string_native(w, in))
        return false;
    em_mov(e, w->x, EM_RCX); /* DF clear and a count below VMC_PAGE_SIZE? */
    em_load_gs(e, EM_RCX, GS_CPU(rflags));
    em_pext_gs(e, EM_RCX, EM_RCX, GS_BT(only_df));
    em_pext_gs(e, w->s, w->x, GS_BT(page_mask));
    em_lea(e, EM_W, EM_RCX, EM_RCX, w->s, 0, 0);
    bt_cold_insn(w, em_jump_unless_rcxz(e), BT_RCX_X);
    if (movs) {
        check_run(w, in, EM_RSI, false);
        em_store_gs(e, w->s, GS_SPILL(0));
    }
    check_run(w, in, EM_RDI, true);
    em_mov(e, EM_RCX, w->x);
    if (movs) { /* where RSI ends, then the host address */
        em_lea(e, EM_W, w->x, EM_RSI, EM_RCX, scale, 0);
        em_store_gs(e, w->x, GS_SPILL(1));
        em_load_gs(e, w->x, GS_SPILL(0));
        em_lea(e, EM_W, EM_RSI, EM_RSI, w->x, 0, 0);
    }
    em_lea(e, EM_W, w->x, EM_RDI, EM_RCX, scale, 0);
    em_lea(e, EM_W, EM_RDI, EM_RDI, w->s, 0, 0);
    if (in->opsize == 2)
        em8(e, 0x66);
    em8(e, 0xf3);
    if (in->opsize == 8)
        em8(e, 0x48);
    em8(e, (movs ? 0xa4u : 0xaau) | (in->opsize > 1 ? 1u : 0));
    em_mov(e, EM_RDI, w->x);
    if (movs)
        em_load_gs(e, EM_RSI, GS_SPILL(1));
    return true;
}
