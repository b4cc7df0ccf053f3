/* SPDX-License-Identifier: BSD-2-Clause */
/* The arithmetic flags: between EFLAGS and memory; which instructions use them. */
#include "cpu/bt/bt_work.h"

/* LAHF gives SF ZF AF PF CF; SETO the sixth. RAX is lost. */
void bt_flags_save(struct emit *e)
{
    em8(e, 0x0f); /* seto al */
    em8(e, 0x90);
    em8(e, 0xc0);
    em8(e, 0x9f); /* lahf */
    em8(e, 0x65); /* mov gs:[flags], ax */
    em8(e, 0x66);
    em8(e, 0x89);
    em8(e, 0x04);
    em8(e, 0x25);
    em32(e, GS_BT(flags));
}

void bt_flags_restore(struct emit *e)
{
    em_rgs(e, 0, 0x8b, EM_RAX, GS_BT(flags));
    em8(e, 0x04); /* add al, 127: OF is set when al was 1 */
    em8(e, 0x7f);
    em8(e, 0x9e); /* sahf */
}

/* A shift by a count that may be zero leaves the flags alone then. */
static enum bt_fluse shift_use(const struct vmci_insn *in)
{
    bool counted = in->nopnd >= 2 && in->opnd[in->nopnd - 1].kind == VMCI_OPND_IMM;
    unsigned mask = in->opsize == 8 ? 63 : 31;

    return counted && ((uint64_t)in->imm & mask) != 0 ? BT_FU_WRITE : BT_FU_RDWR;
}

/*
 * Flags that the manual leaves undefined count as written only where processors compute them from
 * the operands. MUL, LZCNT and their like let the old ones through on some: those must be the
 * guest's own, not what the translator's code left.
 */
enum bt_fluse bt_flag_use(const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_ADD:
    case VMCI_OP_SUB:
    case VMCI_OP_CMP:
    case VMCI_OP_AND:
    case VMCI_OP_OR:
    case VMCI_OP_XOR:
    case VMCI_OP_TEST:
    case VMCI_OP_NEG:
    case VMCI_OP_XADD:
    case VMCI_OP_CMPXCHG:
    case VMCI_OP_POPCNT:
    case VMCI_OP_BSF:
    case VMCI_OP_BSR:
    case VMCI_OP_ANDN:
    case VMCI_OP_BEXTR:
    case VMCI_OP_BLSI:
    case VMCI_OP_BLSMSK:
    case VMCI_OP_BLSR:
    case VMCI_OP_BZHI:
        return BT_FU_WRITE;
    case VMCI_OP_SHLD:
    case VMCI_OP_SHRD:
    case VMCI_OP_SHL:
    case VMCI_OP_SHR:
    case VMCI_OP_SAR:
        return shift_use(in);
    case VMCI_OP_ADC:
    case VMCI_OP_SBB:
    case VMCI_OP_INC:
    case VMCI_OP_DEC:
    case VMCI_OP_MUL:
    case VMCI_OP_IMUL1:
    case VMCI_OP_IMUL2:
    case VMCI_OP_IMUL3:
    case VMCI_OP_ROL:
    case VMCI_OP_ROR:
    case VMCI_OP_RCL:
    case VMCI_OP_RCR:
    case VMCI_OP_BT:
    case VMCI_OP_BTS:
    case VMCI_OP_BTR:
    case VMCI_OP_BTC:
    case VMCI_OP_LZCNT:
    case VMCI_OP_TZCNT:
    case VMCI_OP_ADCX:
    case VMCI_OP_ADOX:
    case VMCI_OP_SAHF:
    case VMCI_OP_CLC:
    case VMCI_OP_STC:
    case VMCI_OP_CMC:
        return BT_FU_RDWR;
    case VMCI_OP_CMOV:
    case VMCI_OP_SETCC:
    case VMCI_OP_LAHF:
    case VMCI_OP_JCC:
        return BT_FU_READ;
    default:
        return BT_FU_NONE;
    }
}
