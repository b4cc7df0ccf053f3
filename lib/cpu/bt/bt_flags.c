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

/* ---- flags that need not be kept ------------------------------------------------------------- */

/* Registers from which the flags of in can be made again after it; 0: they cannot. */
static uint32_t sources(const struct vmci_insn *in)
{
    uint32_t regs;

    if ((in->flags & (VMCI_IF_MEM | VMCI_IF_LOCK)) != 0 || in->nopnd < 2 ||
        in->opnd[0].kind != VMCI_OPND_GPR)
        return 0;
    regs = 1u << in->opnd[0].reg;
    if (in->opnd[1].kind == VMCI_OPND_GPR)
        regs |= 1u << in->opnd[1].reg;
    else if (in->opnd[1].kind != VMCI_OPND_IMM)
        return 0;
    bool full = in->opsize == 4 || in->opsize == 8;
    switch (in->op) {
    case VMCI_OP_CMP:
    case VMCI_OP_TEST:
        return regs;
    case VMCI_OP_AND:
    case VMCI_OP_OR:
    case VMCI_OP_XOR:
        return full ? 1u << in->opnd[0].reg : 0;
    case VMCI_OP_ADD:
    case VMCI_OP_SUB:
        if (!full || (in->opnd[1].kind == VMCI_OPND_GPR && in->opnd[0].reg == in->opnd[1].reg))
            return 0;
        return regs;
    default:
        return 0;
    }
}

void bt_flags_again(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    unsigned wide = in->opsize == 8 ? EM_W : 0;
    unsigned r = in->opnd[0].reg;
    bool add = in->op == VMCI_OP_ADD;

    switch (in->op) {
    case VMCI_OP_CMP:
    case VMCI_OP_TEST:
        bt_emit_copy(w, in);
        return;
    case VMCI_OP_ADD:
    case VMCI_OP_SUB: /* undo it in a copy, then do it again */
        em_mov(e, w->s, r);
        for (unsigned k = 0; k < 2; k++) {
            bool now = add == (k == 1);
            if (in->opnd[1].kind == VMCI_OPND_IMM)
                em_ri(e, wide, now ? 0 : 5, w->s, (uint32_t)in->imm);
            else
                em_rr(e, wide, now ? 0x03 : 0x2b, w->s, in->opnd[1].reg);
        }
        return;
    default: /* logic: the result says it all */
        em_rr(e, wide, 0x85, r, r);
    }
}

enum bt_fluse bt_step_use(const struct bt_work *w, unsigned i)
{
    const struct vmci_insn *in = w->step[i].in;

    if (in->op == VMCI_OP_FP_X87 && (in->raw[in->opcode_off] & 0xfe) == 0xda &&
        (in->flags & VMCI_IF_MEM) == 0 && in->raw[in->modrm_off] < 0xe0)
        return BT_FU_READ; /* FCMOVcc */
    if (in->op >= VMCI_OP_FP_FIRST)
        return bt_fp_flags(w, in) ? BT_FU_WRITE : BT_FU_NONE;
    return bt_flag_use(in);
}

static bool accesses(const struct vmci_insn *in)
{
    return (in->flags & VMCI_IF_MEM) != 0 || in->op == VMCI_OP_PUSH || in->op == VMCI_OP_POP ||
           in->op == VMCI_OP_LEAVE || in->op == VMCI_OP_CALL || in->op == VMCI_OP_MOVS ||
           in->op == VMCI_OP_STOS;
}

/*
 * The steps behind setter, up to the next one that overwrites its flags: those behind the last one
 * that reads the flags, or has an access in front of which they could not be made again.
 */
static void plan_from(struct bt_work *w, unsigned setter)
{
    uint32_t need = sources(w->step[setter].in);
    uint32_t written = 0;
    unsigned first = setter + 1;
    unsigned end;

    if (need == 0 || !bt_copyable(w, w->step[setter].in))
        return;
    for (end = setter + 1; end < w->n; end++) {
        const struct vmci_insn *in = w->step[end].in;
        enum bt_fluse use = bt_step_use(w, end);
        uint32_t regs = bt_regs_written(w, in);
        bool leaves = (in->flags & VMCI_IF_BRANCH) != 0 && w->step[end].follow == BT_FOLLOW_NOT;
        if (leaves || use == BT_FU_RDWR || regs == 0xffff)
            return;
        if (use == BT_FU_READ || (accesses(in) && (written & need) != 0))
            first = end + 1;
        written |= regs;
        if (use == BT_FU_WRITE)
            break;
    }
    for (unsigned i = first; end < w->n && i <= end; i++)
        w->step[i].lazy = (uint8_t)(setter + 1);
}

void bt_flags_plan(struct bt_work *w)
{
    for (unsigned i = 0; i < w->n; i++)
        w->step[i].lazy = 0;
    for (unsigned i = 0; i < w->n; i++)
        if (bt_step_use(w, i) == BT_FU_WRITE)
            plan_from(w, i);
}

void bt_flags_plan_around(struct bt_work *w, unsigned setter)
{
    uint32_t need = sources(w->step[setter].in);
    uint32_t written = 0;
    unsigned end;

    if (need == 0 || !bt_copyable(w, w->step[setter].in))
        return;
    for (unsigned i = setter + 1; i < w->n; i++)
        written |= bt_regs_written(w, w->step[i].in);
    bool again = (written & need) == 0;
    for (end = 0; end <= setter; end++) {
        const struct vmci_insn *in = w->step[end].in;
        enum bt_fluse use = bt_step_use(w, end);
        uint32_t regs = bt_regs_written(w, in);
        if ((in->flags & VMCI_IF_BRANCH) != 0 || use == BT_FU_READ || use == BT_FU_RDWR ||
            regs == 0xffff || (accesses(in) && (written & need) != 0))
            return;
        written |= regs;
        if (use == BT_FU_WRITE)
            break;
    }
    for (unsigned i = 0; i <= end && i <= setter; i++)
        w->step[i].lazy = (uint8_t)(setter + 1);
    w->around = again ? (uint8_t)(setter + 1) : 0;
}
