/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Integer instructions that cannot be copied around a checked operand: BT and its like with a
 * register as the bit number, for which memory is a string of any length, and DIV and IDIV, whose
 * #DE must be the guest's. They run natively where that is known to go well.
 */
#include "cpu/bt/bt_work.h"

/* ---- bit strings ----------------------------------------------------------------------------- */

bool bt_bit_string_native(const struct bt_work *w, const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_BT:
    case VMCI_OP_BTS:
    case VMCI_OP_BTR:
    case VMCI_OP_BTC:
        return w->word == 8 && in->addrsize == 8 && in->opsize >= 4 && in->modrm_off != 0 &&
               (in->flags & VMCI_IF_MEM) != 0 && in->opnd[1].kind == VMCI_OPND_GPR;
    default:
        return false;
    }
}

/* [lock] op reg, bit: 0F op, as in the register form of BT */
static void two_byte(struct emit *e, unsigned wide, unsigned op, unsigned bit,
                     const struct em_addr *a)
{
    em8(e, 0x40 | wide | em_rxb(bit, a));
    em8(e, 0x0f);
    em8(e, op);
    em_modrm(e, bit, a);
}

/* op reg, bit */
static void in_register(struct emit *e, unsigned wide, unsigned op, unsigned reg, unsigned bit)
{
    em_rex(e, wide, bit, reg);
    em8(e, 0x0f);
    em8(e, op);
    em8(e, 0xc0 | (bit & 7) << 3 | (reg & 7));
}

/* With a number within the element the host's own instruction does it, in one step if locked. */
bool bt_bit_string(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    unsigned op = in->raw[in->opcode_off];
    unsigned wide = in->opsize == 8 ? EM_W : 0;
    bool write = in->op != VMCI_OP_BT;
    struct em_addr a;

    if (!bt_bit_string_native(w, in) ||
        !bt_check_bit(w, in, write ? BT_ACC_WRITE : BT_ACC_READ, &a))
        return false;
    bt_count_before(w, bt_flag_use(in));
    if (!write) {
        em_rm(e, wide, 0x8b, w->s, &a);
        in_register(e, wide, op, w->s, in->opnd[1].reg);
        return true;
    }
    em_rm(e, EM_W, 0x8d, w->x, &a); /* lea */
    a = (struct em_addr){(uint8_t)w->x, EM_NONE, 0, 0};
    if ((in->flags & VMCI_IF_LOCK) != 0) {
        em_pext_gs(e, w->s, in->opnd[1].reg, GS_BT(bit_mask) + (wide != 0 ? 8 : 0));
        em8(e, 0xf0);
        two_byte(e, wide, op, w->s, &a);
        return true;
    }
    em_rm(e, wide, 0x8b, w->s, &a);
    in_register(e, wide, op, w->s, in->opnd[1].reg);
    em_rm(e, wide, 0x89, w->s, &a);
    return true;
}

/* ---- DIV, IDIV ------------------------------------------------------------------------------- */

bool bt_divide_native(const struct bt_work *w, const struct vmci_insn *in)
{
    return (in->op == VMCI_OP_DIV || in->op == VMCI_OP_IDIV) && w->word == 8 && in->opsize >= 4 &&
           in->opnd[0].kind != VMCI_OPND_GPR_HI && bt_length_fits(w, in);
}

void bt_unless_rcx(struct bt_work *w)
{
    struct emit *e = &w->e;

    em8(e, 0xe3); /* jrcxz over the next jump */
    em8(e, 2);
    em8(e, 0xeb); /* jmp over the one to the cold code */
    em8(e, 5);
    bt_cold_insn(w, em_jump(e, EM_JMP), BT_RCX_K);
}

/* RCX becomes 0 if the high half of the dividend is what a conversion of the low half gives. */
static void high_half(struct bt_work *w, unsigned wide, bool sign)
{
    struct emit *e = &w->e;

    if (!sign) {
        em_rr(e, wide, 0x8b, EM_RCX, EM_RDX);
        return;
    }
    em_mov_imm(e, w->s, 63);
    em_sarx(e, wide, EM_RCX, EM_RAX, w->s);
    em_mov(e, w->s, EM_RDX);
    em_not(e, w->s);
    em_lea(e, wide, EM_RCX, EM_RCX, w->s, 0, 1);
}

/* DIV or IDIV by x. Hosts change the flags in ways of their own; the interpreter leaves them alone,
   as does this, by way of RCX, which is away. */
static void divide(struct bt_work *w, unsigned wide, bool sign)
{
    struct emit *e = &w->e;
    bool keep = w->lazy == 0;

    if (keep) {
        em_mov(e, w->s, EM_RAX);
        em8(e, 0x9f); /* lahf */
        em8(e, 0x0f); /* seto al */
        em8(e, 0x90);
        em8(e, 0xc0);
        em_rr(e, 0, 0x8b, EM_RCX, EM_RAX);
        em_mov(e, EM_RAX, w->s);
    } else {
        w->lost = w->lazy;
    }
    em_rex(e, wide, 0, w->x);
    em8(e, 0xf7);
    em8(e, (sign ? 0xf8 : 0xf0) | (w->x & 7));
    if (!keep)
        return;
    em_mov(e, w->s, EM_RAX);
    em_rr(e, 0, 0x8b, EM_RAX, EM_RCX);
    em8(e, 0x04); /* add al, 127: OF is set when al was 1 */
    em8(e, 0x7f);
    em8(e, 0x9e); /* sahf */
    em_mov(e, EM_RAX, w->s);
}

/*
 * Of a dividend that is not longer than the divisor, as compilers have it: #DE is for 0 then and,
 * if there are signs, perhaps for -1.
 */
bool bt_divide(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    bool sign = in->op == VMCI_OP_IDIV;
    unsigned wide = in->opsize == 8 ? EM_W : 0;
    struct em_addr a;

    if (!bt_divide_native(w, in))
        return false;
    if (in->opnd[0].kind == VMCI_OPND_GPR) {
        em_rr(e, wide, 0x8b, w->x, in->opnd[0].reg);
    } else {
        if (in->modrm_off == 0 || !bt_check_ea(w, in, BT_ACC_READ, in->opsize, 1, &a))
            return false;
        em_rm(e, wide, 0x8b, w->x, &a);
    }
    bt_rcx_away(w);
    high_half(w, wide, sign);
    bt_cold_insn(w, em_jump_unless_rcxz(e), BT_RCX_K);
    em_mov(e, EM_RCX, w->x);
    bt_unless_rcx(w);
    if (sign) {
        em_lea(e, wide, EM_RCX, w->x, EM_NONE, 0, 1);
        bt_unless_rcx(w);
    }
    divide(w, wide, sign);
    bt_rcx_back(w);
    return true;
}
