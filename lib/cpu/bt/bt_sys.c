/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Instructions of kernels that are frequent and simple, without a call for help: CLI, PUSHF,
 * SWAPGS. Only code that cannot change EFLAGS is emitted: RFLAGS bits are cleared by PEXT and PDEP
 * with the same mask. STI is not here: its shadow must last until the next instruction was
 * executed, whatever comes in between.
 *
 * Translations for supervisor modes run at CPL 0 alone (bt_get), so no privilege is checked.
 */
#include "cpu/bt/bt_work.h"

/* op reg, src, gs:[disp] of PEXT (pp F3) or PDEP (pp F2): a VEX encoding of map 0F38, opcode F5 */
static void pdep_gs(struct emit *e, unsigned reg, unsigned src, uint32_t disp)
{
    em8(e, 0x65);
    em8(e, 0xc4);
    em8(e, (reg & 8 ? 0 : 0x80) | 0x62);
    em8(e, 0x80 | (~src & 15) << 3 | 3);
    em8(e, 0xf5);
    em8(e, 0x04 | (reg & 7) << 3);
    em8(e, 0x25);
    em32(e, disp);
}

/* reg &= gs:[disp] */
static void and_gs(struct emit *e, unsigned reg, uint32_t disp)
{
    em_pext_gs(e, reg, reg, disp);
    pdep_gs(e, reg, reg, disp);
}

static bool supervisor(const struct bt_work *w)
{
    return w->t->mode == VMCI_TLB_SUP || w->t->mode == VMCI_TLB_SUP_AC;
}

static bool cli(struct bt_work *w)
{
    struct emit *e = &w->e;

    if (!supervisor(w))
        return false;
    em_load_gs(e, w->s, GS_CPU(rflags));
    and_gs(e, w->s, GS_BT(not_if));
    em_store_gs(e, w->s, GS_CPU(rflags));
    return true;
}

/* PUSHFQ: RFLAGS with the arithmetic flags of the moment, without RF. */
static bool pushf(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    struct em_addr to;

    if (in->opsize != 8 || (w->t->set & 1u << EM_RAX) != 0)
        return false;
    em_mov(e, w->x, EM_RAX);
    em8(e, 0x0f); /* seto al */
    em8(e, 0x90);
    em8(e, 0xc0);
    em8(e, 0x9f);             /* lahf */
    em_rex(e, 0x40, w->s, 0); /* movzx s, al */
    em8(e, 0x0f);
    em8(e, 0xb6);
    em8(e, 0xc0 | (w->s & 7) << 3);
    em8(e, 0x0f); /* movzx eax, ah */
    em8(e, 0xb6);
    em8(e, 0xc4);
    pdep_gs(e, w->s, w->s, GS_BT(only_of));
    em_lea(e, EM_W, EM_RAX, EM_RAX, w->s, 0, 0);
    em_load_gs(e, w->s, GS_CPU(rflags));
    and_gs(e, w->s, GS_BT(not_arith));
    em_lea(e, EM_W, w->s, w->s, EM_RAX, 0, 0);
    em_mov(e, EM_RAX, w->x);
    em_store_gs(e, w->s, GS_SPILL(0));
    if (!bt_check_stack(w, -8, BT_ACC_WRITE, 8, &to))
        return false;
    em_load_gs(e, w->x, GS_SPILL(0));
    em_rm(e, EM_W, 0x89, w->x, &to);
    em_lea(e, EM_W, EM_RSP, EM_RSP, EM_NONE, 0, -8);
    return true;
}

static bool swapgs(struct bt_work *w)
{
    struct emit *e = &w->e;
    uint32_t base = GS_CPU(seg) + (uint32_t)(VMC_GS * sizeof(struct vmc_segment) +
                                             offsetof(struct vmc_segment, base));

    if (!supervisor(w) || w->word != 8)
        return false;
    em_load_gs(e, w->x, base);
    em_load_gs(e, w->s, GS_CPU(msr.kernel_gs_base));
    em_store_gs(e, w->s, base);
    em_store_gs(e, w->x, GS_CPU(msr.kernel_gs_base));
    return true;
}

void bt_sys_init(struct vmci_soft_cpu *sc)
{
    sc->bt.not_if = ~(uint64_t)VMC_FLAG_IF;
    sc->bt.only_of = 0x800;
    /* LAHF's image has bit 1 set, which RFLAGS has too. */
    sc->bt.not_arith = ~(uint64_t)(VMC_FLAG_ARITH | VMC_FLAG_1 | VMC_FLAG_RF | VMC_FLAG_VM);
}

bool bt_sys(struct bt_work *w, const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_CLI:
        return cli(w);
    case VMCI_OP_PUSHF:
        return pushf(w, in);
    case VMCI_OP_SWAPGS:
        return swapgs(w);
    default:
        return false;
    }
}
