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
    case VMCI_OP_CMPXCHG8B:
    case VMCI_OP_CMPXCHG16B:
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

/* How the flags of an instruction can be made again after it. */
struct recipe {
    uint16_t step; /* its index + 1; 0: they cannot */
    bool simple;   /* by one instruction that needs no scratch register */
    bool rsp;      /* of ADD or SUB of a constant to RSP: it may move by constants after that */
    uint32_t need; /* registers that must be as they were behind it */
};

/* CMP or TEST with memory, whose operand can be kept in w->f. */
static bool keeps_operand(const struct bt_work *w, const struct vmci_insn *in)
{
    struct bt_access a;

    if (w->f == EM_NONE || (in->op != VMCI_OP_CMP && in->op != VMCI_OP_TEST) ||
        (in->flags & VMCI_IF_MEM) == 0 || in->modrm_off == 0)
        return false;
    for (unsigned k = 0; k < in->nopnd && k < 4; k++)
        if (in->opnd[k].kind == VMCI_OPND_GPR_HI)
            return false;
    return bt_operand(w, in, &a);
}

static bool is_gpr(const struct vmci_opnd *o)
{
    return o->kind == VMCI_OPND_GPR;
}

bool bt_moves_rsp(const struct bt_work *w, const struct vmci_insn *in, int32_t *by)
{
    if (w->word != 8 || in->opsize != 8)
        return false;
    switch (in->op) {
    case VMCI_OP_PUSH:
    case VMCI_OP_CALL:
        *by = -8;
        return true;
    case VMCI_OP_POP:
        *by = 8;
        return in->opnd[0].kind != VMCI_OPND_GPR || in->opnd[0].reg != EM_RSP;
    case VMCI_OP_RET:
        *by = 8 + (in->nopnd > 0 ? (int32_t)(uint16_t)in->imm : 0);
        return true;
    default:
        return false;
    }
}

bool bt_adjusts_rsp(const struct bt_work *w, const struct vmci_insn *in)
{
    return w->word == 8 && (in->op == VMCI_OP_ADD || in->op == VMCI_OP_SUB) && in->opsize == 8 &&
           is_gpr(&in->opnd[0]) && in->opnd[0].reg == EM_RSP && in->opnd[1].kind == VMCI_OPND_IMM &&
           in->imm > -BT_GROUP_SPAN && in->imm < BT_GROUP_SPAN;
}

/* What the instruction changes of that from which flags are made again; 0xffff: anything. */
static uint32_t changes(const struct bt_work *w, const struct vmci_insn *in, const struct recipe *r)
{
    uint32_t regs = bt_regs_written(w, in);
    int32_t by;

    return regs != 0xffff && r->rsp && bt_moves_rsp(w, in, &by) ? regs & ~(1u << EM_RSP) : regs;
}

static struct recipe recipe_of(const struct bt_work *w, unsigned i)
{
    const struct vmci_insn *in = w->step[i].in;
    const struct recipe none = {0};
    const struct vmci_opnd *o = in->opnd;
    uint32_t regs = 0;
    bool full = in->opsize == 4 || in->opsize == 8;

    if (in->nopnd < 2 || (in->flags & VMCI_IF_LOCK) != 0 || !bt_copyable(w, in))
        return none;
    for (unsigned k = 0; k < 2; k++) {
        if (is_gpr(&o[k]))
            regs |= 1u << o[k].reg;
        else if (o[k].kind != VMCI_OPND_IMM && o[k].kind != VMCI_OPND_MEM)
            return none;
    }
    struct recipe r = {.step = (uint16_t)(i + 1), .simple = true, .need = regs};
    bool mem = (in->flags & VMCI_IF_MEM) != 0;
    switch (in->op) {
    case VMCI_OP_CMP:
    case VMCI_OP_TEST:
        return !mem || keeps_operand(w, in) ? r : none;
    case VMCI_OP_AND:
    case VMCI_OP_OR:
    case VMCI_OP_XOR: /* from the result */
        if (!full || !is_gpr(&o[0]))
            return none;
        r.need = 1u << o[0].reg;
        return r;
    case VMCI_OP_ADD:
    case VMCI_OP_SUB:
        if (!full || mem || !is_gpr(&o[0]) || (is_gpr(&o[1]) && o[0].reg == o[1].reg))
            return none;
        r.simple = false;
        r.rsp = bt_adjusts_rsp(w, in);
        return r;
    default:
        return none;
    }
}

/* CMP or TEST with the operand that w->f holds. */
static void again_kept(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    unsigned modrm = in->raw[in->modrm_off];

    if (in->opsize == 2)
        em8(e, 0x66);
    em8(e, 0x40 | (in->rex & 0xcu) | (w->f & 8) >> 3);
    em8(e, in->raw[in->opcode_off]);
    em8(e, 0xc0 | (modrm & 0x38) | (w->f & 7));
    if (in->imm_off != 0)
        for (unsigned k = in->imm_off; k < in->len; k++)
            em8(e, in->raw[k]);
}

void bt_flags_again(struct bt_work *w, unsigned recipe, unsigned scratch)
{
    struct emit *e = &w->e;
    const struct vmci_insn *in = w->step[recipe - 1].in;
    unsigned wide = in->opsize == 8 ? EM_W : 0;
    unsigned r = in->opnd[0].reg;
    bool add = in->op == VMCI_OP_ADD;

    switch (in->op) {
    case VMCI_OP_CMP:
    case VMCI_OP_TEST:
        if ((in->flags & VMCI_IF_MEM) != 0)
            again_kept(w, in);
        else
            bt_emit_copy(w, in);
        return;
    case VMCI_OP_ADD:
    case VMCI_OP_SUB: /* undo it in a copy, then do it again */
        if (bt_adjusts_rsp(w, in)) {
            int32_t by = (int32_t)(add ? in->imm : -in->imm);
            em_lea(e, EM_W, scratch, EM_RSP, EM_NONE, 0,
                   w->step[recipe - 1].moved - w->moved + w->owed - by);
            em_ri(e, EM_W, add ? 0 : 5, scratch, (uint32_t)in->imm);
            return;
        }
        em_mov(e, scratch, r);
        for (unsigned k = 0; k < 2; k++) {
            bool now = add == (k == 1);
            if (in->opnd[1].kind == VMCI_OPND_IMM)
                em_ri(e, wide, now ? 0 : 5, scratch, (uint32_t)in->imm);
            else
                em_rr(e, wide, now ? 0x03 : 0x2b, scratch, in->opnd[1].reg);
        }
        return;
    default: /* logic: the result says it all */
        em_rr(e, wide, 0x85, r, r);
    }
}

void bt_flags_need(struct bt_work *w, unsigned scratch)
{
    if (w->lost != 0)
        bt_flags_again(w, w->lost, scratch);
    w->lost = 0;
}

bool bt_flags_keep(struct bt_work *w, const struct vmci_insn *in, const struct em_addr *a)
{
    struct emit *e = &w->e;

    if (!w->step[w->i].kept)
        return false;
    unsigned size = in->opnd[0].kind == VMCI_OPND_MEM ? in->opnd[0].size : in->opnd[1].size;
    if (size < 4) { /* movzx f, operand */
        em8(e, 0x40 | em_rxb(w->f, a));
        em8(e, 0x0f);
        em8(e, size == 1 ? 0xb6 : 0xb7);
        em_modrm(e, w->f, a);
    } else {
        em_rm(e, size == 8 ? EM_W : 0, 0x8b, w->f, a);
    }
    return true;
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

static bool is_read(enum bt_fluse use)
{
    return use == BT_FU_READ || use == BT_FU_RDWR;
}

static bool accesses(const struct vmci_insn *in)
{
    return (in->flags & VMCI_IF_MEM) != 0 || in->op == VMCI_OP_PUSH || in->op == VMCI_OP_POP ||
           in->op == VMCI_OP_LEAVE || in->op == VMCI_OP_CALL || in->op == VMCI_OP_RET ||
           in->op == VMCI_OP_MOVS || in->op == VMCI_OP_STOS;
}

/* Nothing can be asked for there, whatever happens. */
static bool is_pure(const struct bt_work *w, const struct vmci_insn *in)
{
    if (in->op == VMCI_OP_LEA)
        return w->word == 8 && in->base != VMCI_REG_IP && bt_length_fits(w, in);
    return in->op < VMCI_OP_FP_FIRST &&
           (in->flags & (VMCI_IF_MEM | VMCI_IF_BRANCH | VMCI_IF_END)) == 0 && bt_copyable(w, in);
}

/* Does anything behind step i want the flags from before it? */
static bool wanted_after(const struct bt_work *w, unsigned i)
{
    while (++i < w->n) {
        enum bt_fluse use = bt_step_use(w, i);
        if (!is_pure(w, w->step[i].in) || is_read(use))
            return true;
        if (use == BT_FU_WRITE)
            return false;
    }
    return true;
}

/* The branch goes to another page, or where only memory says. */
static bool looks_up(const struct bt_work *w, unsigned i)
{
    const struct bt_step *st = &w->step[i];
    const struct vmci_insn *in = st->in;
    uint64_t next = st->la + in->next;

    if ((in->flags & VMCI_IF_BRANCH) == 0)
        return i + 1 == w->n && ((bt_after(w, i) ^ st->la) & PAGE_MASK) != 0;
    if (in->nopnd == 0 || in->opnd[0].kind != VMCI_OPND_REL)
        return true;
    return (((next ^ st->la) | ((next + (uint64_t)in->imm) ^ st->la)) & PAGE_MASK) != 0;
}

/* What step i does with the flags of recipe r. */
static void plan_step(struct bt_work *w, unsigned i, const struct recipe *r)
{
    struct bt_step *st = &w->step[i];
    const struct vmci_insn *in = st->in;
    uint32_t regs = changes(w, in, r);
    enum bt_fluse use = bt_step_use(w, i);
    bool kills = (regs & r->need) != 0 && use != BT_FU_WRITE && wanted_after(w, i);

    if (regs == 0xffff) {
        st->again = BT_AGAIN_FIRST;
    } else if (!is_read(use) && !kills) {
        st->lazy = r->step;
    } else if (r->simple && in->op < VMCI_OP_FP_FIRST && (in->flags & VMCI_IF_BRANCH) == 0 &&
               (in->flags & VMCI_IF_MEM) != 0 && bt_copyable(w, in)) {
        st->lazy = r->step;
        st->again = BT_AGAIN_OP;
    } else {
        st->again = BT_AGAIN_FIRST;
    }
}

/* Is it of a comparison with memory? */
static bool from_memory(const struct bt_work *w, unsigned recipe)
{
    const struct vmci_insn *in = w->step[recipe - 1].in;

    return (in->flags & VMCI_IF_MEM) != 0 && (in->op == VMCI_OP_CMP || in->op == VMCI_OP_TEST);
}

static void keep(struct bt_work *w, unsigned recipe)
{
    if (from_memory(w, recipe))
        w->step[recipe - 1].kept = true;
}

static struct recipe plan_all(struct bt_work *w, struct recipe r)
{
    for (unsigned i = 0; i < w->n; i++) {
        struct bt_step *st = &w->step[i];
        enum bt_fluse use = bt_step_use(w, i);
        uint32_t regs = changes(w, st->in, &r);
        st->lazy = st->after = st->again = 0;
        if (r.step != 0)
            plan_step(w, i, &r);
        if (st->lazy != 0 && accesses(st->in))
            keep(w, st->lazy);
        if (regs == 0xffff || use == BT_FU_RDWR || (regs & r.need) != 0)
            r.step = 0;
        if (regs != 0xffff && use == BT_FU_WRITE)
            r = recipe_of(w, i);
        st->after = r.step;
        if (r.step != 0 && looks_up(w, i))
            keep(w, r.step);
    }
    return r;
}

/* A recipe whose operand nobody keeps is none. */
static uint16_t if_kept(const struct bt_work *w, uint16_t recipe)
{
    return recipe != 0 && from_memory(w, recipe) && !w->step[recipe - 1].kept ? 0 : recipe;
}

static void drop_unkept(struct bt_work *w)
{
    for (unsigned i = 0; i < w->n; i++) {
        w->step[i].lazy = if_kept(w, w->step[i].lazy);
        w->step[i].after = if_kept(w, w->step[i].after);
    }
}

void bt_flags_plan(struct bt_work *w)
{
    for (unsigned i = 0; i < w->n; i++)
        w->step[i].kept = false;
    (void)plan_all(w, (struct recipe){0});
    drop_unkept(w);
}

unsigned bt_flags_gain(const struct bt_work *w)
{
    unsigned gain = 0;

    for (unsigned i = 0; i < w->n; i++) {
        const struct bt_step *st = &w->step[i];
        gain += st->lazy != 0 && accesses(st->in);
        gain += st->after != 0 && looks_up(w, i);
    }
    return gain;
}

void bt_flags_plan_around(struct bt_work *w)
{
    unsigned end = w->step[w->n - 1].after;

    w->around = w->lost = w->lost_top = 0;
    if (end == 0)
        return;
    struct recipe r = recipe_of(w, end - 1);
    if (r.rsp) /* it moves from one round to the next */
        return;
    (void)plan_all(w, r);
    drop_unkept(w);
    /* Lost at the beginning if nobody reads them before they are overwritten. */
    for (unsigned i = 0; i < w->n; i++) {
        enum bt_fluse use = bt_step_use(w, i);
        if (w->step[i].again != BT_AGAIN_NOT || is_read(use))
            return;
        if (use == BT_FU_WRITE)
            break;
    }
    w->around = w->lost_top = (uint16_t)end;
}
