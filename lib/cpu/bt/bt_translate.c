/* SPDX-License-Identifier: BSD-2-Clause */
/* One block of decoded instructions into host code. */
#include "cpu/bt/bt_work.h"
#include "cpu/fpu/fp_int.h"

/*
 * 32-bit code ignores the bits of a VEX prefix that name registers 8-15, and W mostly; compilers
 * leave them as 64-bit code wants them. Others are for the interpreter.
 */
static bool vex_fits(const struct bt_work *w, const struct vmci_insn *in)
{
    const uint8_t *op = &in->raw[in->opcode_off];

    if (w->word == 8 || (in->flags & VMCI_IF_VEX) == 0)
        return true;
    if (w->seg) /* #UD in real and virtual-8086 mode */
        return false;
    bool three = in->opcode_off >= 3 && op[-3] == 0xc4;
    if ((op[-1] & 0x40) == 0 || (three && ((op[-1] & 0x80) != 0 || (op[-2] & 0xe0) != 0xe0)))
        return false;
    return in->imm_off == 0 || (in->raw[in->imm_off] & 0x80) == 0;
}

/* ---- which instructions can be copied -------------------------------------------------------- */

/* Integer instructions that run as they are, around their memory operand if they have one. */
bool bt_copyable(const struct bt_work *w, const struct vmci_insn *in)
{
    if ((w->sc->bt.lacks >> in->feature & 1) != 0)
        return false;
    if (w->word == 4 && in->map == VMCI_MAP_1B && in->raw[in->opcode_off] == 0x82)
        return false; /* not an instruction of 64-bit code */
    if (w->bits == 16 && in->map > VMCI_MAP_0F && (in->flags & VMCI_IF_VEX) == 0)
        return false; /* prefix 66 may belong to the opcode */
    if (!vex_fits(w, in) || !bt_length_fits(w, in))
        return false;
    switch (in->op) {
    case VMCI_OP_MOV:
    case VMCI_OP_MOVSX:
    case VMCI_OP_MOVZX:
    case VMCI_OP_MOVBE:
    case VMCI_OP_XCHG:
    case VMCI_OP_CMOV:
    case VMCI_OP_SETCC:
    case VMCI_OP_BSWAP:
    case VMCI_OP_LAHF:
    case VMCI_OP_SAHF:
    case VMCI_OP_ADD:
    case VMCI_OP_OR:
    case VMCI_OP_ADC:
    case VMCI_OP_SBB:
    case VMCI_OP_AND:
    case VMCI_OP_SUB:
    case VMCI_OP_XOR:
    case VMCI_OP_CMP:
    case VMCI_OP_TEST:
    case VMCI_OP_INC:
    case VMCI_OP_DEC:
    case VMCI_OP_NEG:
    case VMCI_OP_NOT:
    case VMCI_OP_MUL:
    case VMCI_OP_IMUL1:
    case VMCI_OP_IMUL2:
    case VMCI_OP_IMUL3:
    case VMCI_OP_CBW:
    case VMCI_OP_CWD:
    case VMCI_OP_ROL:
    case VMCI_OP_ROR:
    case VMCI_OP_RCL:
    case VMCI_OP_RCR:
    case VMCI_OP_SHL:
    case VMCI_OP_SHR:
    case VMCI_OP_SAR:
    case VMCI_OP_SHLD:
    case VMCI_OP_SHRD:
    case VMCI_OP_LZCNT:
    case VMCI_OP_TZCNT:
    case VMCI_OP_POPCNT:
    case VMCI_OP_CRC32:
    case VMCI_OP_XADD:
    case VMCI_OP_CMPXCHG:
    case VMCI_OP_ADCX:
    case VMCI_OP_ADOX:
    case VMCI_OP_ANDN:
    case VMCI_OP_BEXTR:
    case VMCI_OP_BLSI:
    case VMCI_OP_BLSMSK:
    case VMCI_OP_BLSR:
    case VMCI_OP_BZHI:
    case VMCI_OP_MULX:
    case VMCI_OP_PDEP:
    case VMCI_OP_PEXT:
    case VMCI_OP_RORX:
    case VMCI_OP_SARX:
    case VMCI_OP_SHLX:
    case VMCI_OP_SHRX:
    case VMCI_OP_CLC:
    case VMCI_OP_STC:
    case VMCI_OP_CMC:
        return true;
    case VMCI_OP_MOVNTI:
    case VMCI_OP_CMPXCHG8B:
    case VMCI_OP_CMPXCHG16B:
        return w->bits != 16; /* there is no form with prefix 66 */
    case VMCI_OP_BSF:
    case VMCI_OP_BSR:
        /* With F3 the host may take it for TZCNT or LZCNT. */
        return (in->flags & VMCI_IF_F3) == 0;
    case VMCI_OP_BT:
    case VMCI_OP_BTS:
    case VMCI_OP_BTR:
    case VMCI_OP_BTC:
        /* With a register as the bit number memory is a bit string of any length. */
        return (in->flags & VMCI_IF_MEM) == 0 || in->opnd[1].kind == VMCI_OPND_IMM;
    default:
        return false;
    }
}

/* The explicit memory operand. */
static const struct vmci_opnd *mem_operand(const struct vmci_insn *in)
{
    for (unsigned k = 0; k < in->nopnd && k < 4; k++)
        if (in->opnd[k].kind == VMCI_OPND_MEM)
            return &in->opnd[k];
    return NULL;
}

/* Does it write its memory operand? Read-modify-write counts as writing. */
static bool writes_mem(const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_CMP:
    case VMCI_OP_TEST:
    case VMCI_OP_BT:
    case VMCI_OP_MUL:
    case VMCI_OP_IMUL1:
        return false;
    case VMCI_OP_XCHG:
    case VMCI_OP_XADD:
    case VMCI_OP_CMPXCHG:
    case VMCI_OP_CMPXCHG8B:
    case VMCI_OP_CMPXCHG16B:
        return true;
    default:
        return in->opnd[0].kind == VMCI_OPND_MEM;
    }
}

/* What a native FP instruction needs of bt.fp_ready; 0: it is not run natively. */
static unsigned fp_need(const struct bt_work *w, const struct vmci_insn *in,
                        struct vmci_fp_form *form)
{
    if (in->op < VMCI_OP_FP_X87 || in->op > VMCI_OP_FP_AVX)
        return 0;
    if (in->op == VMCI_OP_FWAIT) {
        *form = (struct vmci_fp_form){.flags = VMCI_FO_X87};
        return BT_FP_X87;
    }
    if (!vex_fits(w, in) || !bt_length_fits(w, in) || !vmci_fp_classify(in, w->bits, form) ||
        (in->flags & VMCI_IF_VSIB) != 0)
        return 0;
    if (form->special != VMCI_FS_PLAIN && form->special != VMCI_FS_EMMS &&
        form->special != VMCI_FS_VZERO8 && form->special != VMCI_FS_FNOP &&
        form->special != VMCI_FS_FNOP0)
        return 0;
    if ((w->sc->cpu.fp->host_features >> form->feature & 1) == 0)
        return 0; /* whatever the CPU model says */
    if ((form->flags & VMCI_FO_X87) != 0)
        return BT_FP_X87;
    if (in->op == VMCI_OP_FP_AVX)
        return BT_FP_AVX;
    if ((form->flags & VMCI_FO_MMX) == 0 && form->special != VMCI_FS_EMMS)
        return BT_FP_SSE;
    return (form->flags & (VMCI_FO_XMM | VMCI_FO_EXC)) != 0 ? BT_FP_X87 | BT_FP_SSE : BT_FP_X87;
}

bool bt_fp_native(const struct bt_work *w, const struct vmci_insn *in)
{
    struct vmci_fp_form form;
    return fp_need(w, in, &form) != 0;
}

bool bt_fp_flags(const struct bt_work *w, const struct vmci_insn *in)
{
    struct vmci_fp_form form;
    return fp_need(w, in, &form) != 0 && (form.flags & VMCI_FO_FLAGS) != 0;
}

/* MOV between the accumulator and an address without ModR/M. */
static bool absolute_mov(const struct vmci_insn *in)
{
    return in->op == VMCI_OP_MOV && in->map == VMCI_MAP_1B &&
           (in->raw[in->opcode_off] & 0xfc) == 0xa0;
}

bool bt_operand(const struct bt_work *w, const struct vmci_insn *in, struct bt_access *a)
{
    struct vmci_fp_form form;

    if ((in->flags & VMCI_IF_MEM) == 0)
        return false;
    if (in->op >= VMCI_OP_FP_FIRST) {
        if (fp_need(w, in, &form) == 0 || form.mem_bytes == 0 || form.mem_bytes > 32)
            return false;
        *a = (struct bt_access){(form.mem_acc & VMCI_MEM_WRITE) != 0 ? BT_ACC_WRITE : BT_ACC_READ,
                                form.mem_bytes, form.align};
        return in->modrm_off != 0;
    }
    switch (in->op) {
    case VMCI_OP_PUSH:
    case VMCI_OP_JMP:
    case VMCI_OP_CALL:
        *a = (struct bt_access){BT_ACC_READ, in->opsize, 1};
        return w->seg ? in->opsize == 2 || in->opsize == 4 : in->opsize == w->word;
    case VMCI_OP_POP:
        *a = (struct bt_access){BT_ACC_WRITE, in->opsize, 1};
        return bt_pop_mem_native(w, in);
    case VMCI_OP_CMPXCHG16B:
        *a = (struct bt_access){BT_ACC_WRITE, 16, 16};
        return bt_copyable(w, in);
    case VMCI_OP_CMPXCHG8B:
        *a = (struct bt_access){BT_ACC_WRITE, 8, 1};
        return bt_copyable(w, in);
    default:
        break;
    }
    const struct vmci_opnd *m = mem_operand(in);
    if (!bt_copyable(w, in) || m == NULL || m->size == 0 || m->size > 8 ||
        (in->modrm_off == 0 && !absolute_mov(in)))
        return false;
    *a = (struct bt_access){writes_mem(in) ? BT_ACC_WRITE : BT_ACC_READ, m->size, 1};
    return true;
}

/* ---- integer instructions -------------------------------------------------------------------- */

static bool translate_mem(struct bt_work *w, const struct vmci_insn *in)
{
    enum bt_fluse use = bt_flag_use(in);
    struct bt_access acc;
    struct em_addr a;

    if (!bt_operand(w, in, &acc) || !bt_check_ea(w, in, acc.acc, acc.bytes, acc.align, &a))
        return false;
    if (w->step[w->i].again == BT_AGAIN_OP)
        bt_flags_need(w, EM_NONE);
    bool kept = bt_flags_keep(w, in, &a); /* first: cold code of the budget executes it, too */
    bt_count_before(w, use);
    size_t at = w->e.len;
    if (kept)
        bt_flags_again(w, w->i + 1, EM_NONE);
    else
        bt_emit_rm(w, in, &a);
    bt_count_after(w, at);
    return true;
}

static bool translate_reg(struct bt_work *w, const struct vmci_insn *in)
{
    struct bt_step *st = &w->step[w->i];

    if (bt_rsp_later(w, in)) {
        w->owed += (int32_t)(in->op == VMCI_OP_ADD ? in->imm : -in->imm);
        w->lost = (uint16_t)(w->i + 1);
        st->later = true;
        return true;
    }
    if (st->later) { /* both copies of a loop charge the budget at the same places */
        bt_emit_copy(w, in);
        return true;
    }
    bt_count_before(w, bt_flag_use(in));
    size_t at = w->e.len;
    bt_emit_copy(w, in);
    bt_count_after(w, at);
    return true;
}

static bool translate_lea(struct bt_work *w, const struct vmci_insn *in)
{
    if (in->base == VMCI_REG_IP) {
        uint64_t v = w->la + (uint64_t)in->disp;
        if (in->opsize == 2)
            return false;
        if (in->opsize == 4 || in->addrsize == 4)
            bt_mov_low(w, in->opnd[0].reg, v);
        else
            bt_mov_la(w, in->opnd[0].reg, v);
        return true;
    }
    if (!bt_length_fits(w, in))
        return false;
    if (w->seg)
        return bt_seg_lea(w, in);
    if (w->word == 4) {
        struct em_addr at = {in->base < 16 ? in->base : EM_NONE,
                             in->index < 16 ? in->index : EM_NONE, in->scale, (int32_t)in->disp};
        if (in->addrsize != 4)
            return false;
        if (in->opsize == 2)
            em8(&w->e, 0x66);
        em_rm(&w->e, 0, 0x8d, in->opnd[0].reg, &at);
        return true;
    }
    bt_emit_copy(w, in);
    return true;
}

static bool translate_push(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    int32_t size = (int32_t)w->word;
    struct em_addr from, to;

    if (w->seg)
        return bt_seg_push(w, in);
    if (in->opsize != w->word)
        return false;
    if (in->opnd[0].kind == VMCI_OPND_MEM) {
        if (!bt_check_ea(w, in, BT_ACC_READ, w->word, 1, &from))
            return false;
        em_rm(e, bt_wide(w), 0x8b, w->x, &from);
        em_store_gs(e, w->x, GS_SPILL(0)); /* x is needed for the second check */
    }
    if (!bt_check_stack(w, -size, BT_ACC_WRITE, w->word, &to))
        return false;
    if (in->opnd[0].kind == VMCI_OPND_GPR) {
        em_rm(e, bt_wide(w), 0x89, in->opnd[0].reg, &to);
    } else if (in->opnd[0].kind == VMCI_OPND_MEM) {
        em_rm(e, EM_W, 0x8d, w->x, &to);
        em_load_gs(e, w->s, GS_SPILL(0));
        to = (struct em_addr){(uint8_t)w->x, EM_NONE, 0, 0};
        em_rm(e, bt_wide(w), 0x89, w->s, &to);
    } else {
        em_rm(e, bt_wide(w), 0xc7, 0, &to); /* mov [to], imm32 */
        em32(e, (uint32_t)in->imm);
    }
    bt_rsp_move(w, -size);
    return true;
}

/* POP to memory, as functions of SBCL begin. An address by RSP, which moves first, is rare. */
bool bt_pop_mem_native(const struct bt_work *w, const struct vmci_insn *in)
{
    return !w->seg && in->op == VMCI_OP_POP && in->opnd[0].kind == VMCI_OPND_MEM &&
           in->opsize == w->word && in->base != EM_RSP;
}

/* Both are checked before anything is written; what fails is executed as a whole elsewhere. */
static bool pop_mem(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    struct em_addr from, to;

    if (!bt_pop_mem_native(w, in) || !bt_check_ea(w, in, BT_ACC_WRITE, w->word, 1, &to))
        return false;
    em_rm(e, EM_W, 0x8d, w->x, &to);
    em_store_gs(e, w->x, GS_SPILL(0)); /* x is needed for the second check */
    if (!bt_check_stack(w, 0, BT_ACC_READ, w->word, &from))
        return false;
    em_rm(e, bt_wide(w), 0x8b, w->x, &from);
    em_load_gs(e, w->s, GS_SPILL(0));
    to = (struct em_addr){(uint8_t)w->s, EM_NONE, 0, 0};
    em_rm(e, bt_wide(w), 0x89, w->x, &to);
    bt_rsp_move(w, (int32_t)w->word);
    return true;
}

static bool translate_pop(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    struct em_addr a;

    if (w->seg)
        return bt_seg_pop(w, in);
    if (in->opnd[0].kind == VMCI_OPND_MEM)
        return pop_mem(w, in);
    if (in->opsize != w->word || in->opnd[0].kind != VMCI_OPND_GPR ||
        !bt_check_stack(w, 0, BT_ACC_READ, w->word, &a))
        return false;
    em_rm(e, bt_wide(w), 0x8b, in->opnd[0].reg, &a);
    if (in->opnd[0].reg != EM_RSP) /* which has moved before it is loaded */
        bt_rsp_move(w, (int32_t)w->word);
    return true;
}

/* mov rsp, rbp; pop rbp, as one: nothing changes when the load faults. */
static bool translate_leave(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    struct vmci_insn at = {
        .base = EM_RBP, .index = VMCI_REG_ZERO, .addrsize = (uint8_t)w->word, .seg = VMC_SS};
    struct em_addr a;

    if (w->seg)
        return bt_seg_leave(w, in);
    if (in->opsize != w->word || !bt_check_ea(w, &at, BT_ACC_READ, w->word, 1, &a))
        return false;
    em_rm(e, bt_wide(w), 0x8b, w->x, &a);
    em_lea(e, bt_wide(w), EM_RSP, EM_RBP, EM_NONE, 0, (int32_t)w->word);
    em_mov(e, EM_RBP, w->x);
    return true;
}

/* ---- SSE and AVX ----------------------------------------------------------------------------- */

static void emit_vzero8(struct bt_work *w, const struct vmci_insn *in)
{
    uint8_t b[VMCI_VZERO8_BYTES];

    vmci_fp_vzero8(in, b);
    for (unsigned k = 0; k < sizeof(b); k++)
        em8(&w->e, b[k]);
}

static bool translate_fp(struct bt_work *w, const struct vmci_insn *in)
{
    struct vmci_fp_form form;
    struct em_addr a;

    if (fp_need(w, in, &form) == 0)
        return false;
    if ((form.flags & VMCI_FO_X87) != 0)
        return bt_x87(w, in, &form);
    enum bt_fluse use = (form.flags & VMCI_FO_FLAGS) != 0 ? BT_FU_WRITE : BT_FU_NONE;
    if ((in->flags & VMCI_IF_MEM) == 0) {
        bt_count_before(w, use);
        size_t at = w->e.len;
        if (form.special == VMCI_FS_VZERO8)
            emit_vzero8(w, in);
        else
            bt_emit_copy(w, in);
        bt_count_after(w, at);
        return true;
    }
    struct bt_access acc;
    if (!bt_operand(w, in, &acc) || !bt_check_ea(w, in, acc.acc, acc.bytes, acc.align, &a))
        return false;
    bt_count_before(w, use);
    size_t at = w->e.len;
    bt_emit_rm(w, in, &a);
    bt_count_after(w, at);
    return true;
}

/* ---- the block ------------------------------------------------------------------------------- */

static bool translate_one(struct bt_work *w, const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_NOP:
    case VMCI_OP_PREFETCH:
        return true;
    case VMCI_OP_LEA:
        return translate_lea(w, in);
    case VMCI_OP_PUSH:
        return translate_push(w, in);
    case VMCI_OP_POP:
        return translate_pop(w, in);
    case VMCI_OP_LEAVE:
        return translate_leave(w, in);
    case VMCI_OP_PUSH_SREG:
        return w->seg && bt_seg_push(w, in);
    case VMCI_OP_MOV_SREG:
        if (w->seg && bt_seg_load(w, in))
            return true;
        break;
    default:
        break;
    }
    if (bt_sys(w, in) || bt_string(w, in) || bt_bit_string(w, in) || bt_divide(w, in))
        return true;
    if (in->op >= VMCI_OP_FP_FIRST)
        return translate_fp(w, in);
    if (!bt_copyable(w, in))
        return false;
    return (in->flags & VMCI_IF_MEM) != 0 ? translate_mem(w, in) : translate_reg(w, in);
}

unsigned bt_block_fp(const struct bt_work *w, const struct block *b)
{
    struct vmci_fp_form form;
    unsigned need = 0;

    for (unsigned i = 0; i < b->n; i++)
        need |= fp_need(w, &b->insn[i], &form);
    return need;
}

uint64_t bt_after(const struct bt_work *w, unsigned i)
{
    const struct bt_step *st = &w->step[i];
    uint64_t next = st->la + st->in->next;

    if (st->follow == BT_FOLLOW_BACK ||
        st->follow == BT_FOLLOW_TO) /* the next instruction of the trace is the target's first */
        return st[1].la + st[1].in->next - st[1].in->len;
    if (st->follow != BT_FOLLOW_TAKEN)
        return bt_wrap(w, next);
    return bt_target(w, st->in, next);
}

/* Leave unless FP instructions may run natively; at the entry with the canonical set. */
static void check_fp(struct bt_work *w, unsigned need)
{
    struct emit *e = &w->e;

    em_mov(e, 11, EM_RCX);
    em8(e, 0x65); /* movzx ecx, byte gs:[fp_lacks] */
    em8(e, 0x0f);
    em8(e, 0xb6);
    em8(e, 0x0c);
    em8(e, 0x25);
    em32(e, GS_BT(fp_lacks) + need);
    em8(e, 0xe3); /* jrcxz over the way out */
    size_t over = e->len;
    em8(e, 0);
    em_mov(e, EM_RCX, 11);
    em_store_gs(e, EM_RAX, GS_GPR(EM_RAX));
    em_mov_imm(e, EM_RAX, (uintptr_t)w->t);
    em_jump_to(e, EM_JMP, w->sc->bt.call_fp);
    if (!e->full)
        e->rw[over] = (uint8_t)(e->len - over - 1);
    em_mov(e, EM_RCX, 11);
}

/* Cold code of the instruction that was just translated comes back behind it. */
static void set_resume(struct bt_work *w, unsigned first)
{
    for (unsigned k = first; k < w->cold_count; k++) {
        w->cold[k].resume = w->e.len;
        w->cold[k].back_owed = w->owed;
        w->cold[k].back_held = w->held;
        w->cold[k].late = !w->cold[k].counted && w->counted;
    }
}

static bool translate_step(struct bt_work *w, const struct vmci_insn *in, enum bt_follow follow)
{
    if ((in->flags & VMCI_IF_BRANCH) == 0)
        return translate_one(w, in);
    return follow != BT_FOLLOW_NOT ? bt_branch_follow(w, in, follow) : bt_branch(w, in);
}

void bt_piece(struct bt_work *w, enum vmc_code_kind kind, unsigned i)
{
    if (w->sc->cpu.vm->translated == NULL || w->pieces == BT_PIECES_MAX)
        return;
    struct vmc_code_piece *p = &w->piece[w->pieces++];
    *p = (struct vmc_code_piece){
        .gva = bt_linear(w, w->t->la), .offset = (uint32_t)w->e.len, .kind = (uint8_t)kind};
    if (i < w->n) {
        const struct vmci_insn *in = w->step[i].in;
        p->gva = bt_linear(w, w->step[i].la + in->next - in->len);
        p->guest = in->raw;
        p->guest_bytes = in->len;
    }
}

/* Tell who asked for it what was made. */
static void report(struct bt_work *w)
{
    const struct vmci_soft_vm *vm = w->sc->cpu.vm;
    struct vmc_translation tr = {.gva = bt_linear(w, w->t->la),
                                 .bits = w->bits,
                                 .pieces = w->pieces,
                                 .host = w->e.rx,
                                 .bytes = w->e.len,
                                 .piece = w->piece};

    if (vm->translated == NULL)
        return;
    vmci_fp_park(&w->sc->cpu);
    vm->translated(vm->translated_ctx, w->sc->cpu.index, &tr);
}

static void translate_body(struct bt_work *w)
{
    bool open = true; /* control can run off the end */
    int32_t by;

    w->moved = w->owed = 0;
    w->x87_seg = UINT8_MAX;
    w->x87_mark = 0;
    w->held = (struct bt_held){0};
    for (unsigned i = 0; i < w->n && !w->failed; i++) {
        const struct vmci_insn *in = bt_step(w, i);
        enum bt_follow follow = w->step[i].follow;
        unsigned first = w->cold_count;
        if (w->step[i].again == BT_AGAIN_FIRST) {
            if (w->lost != 0)
                w->held.s = 0;
            bt_flags_need(w, w->s);
        }
        w->lazy = w->step[i].lazy;
        bt_hold_begin(w, in, follow);
        bt_x87_before(w, in, follow);
        uint32_t mark = w->x87_mark;
        if (!bt_rsp_may_owe(w, in, follow))
            bt_rsp_pay(w);
        int32_t owed = w->owed;
        size_t start = w->e.len;
        unsigned fixes = w->fixes;
        bool counted = w->counted;
        int32_t moved = w->moved;
        bt_piece(w, w->loop ? VMC_CODE_LOOP : VMC_CODE_BODY, i);
        if (translate_step(w, in, follow)) {
            open = (in->flags & VMCI_IF_BRANCH) == 0 || follow != BT_FOLLOW_NOT;
        } else {
            /* Let the interpreter execute it, then go on. What was begun is void. */
            w->e.len = start;
            w->fixes = fixes;
            w->cold_count = first;
            w->counted = counted;
            w->moved = moved;
            w->owed = owed;
            bt_groups_undo(w);
            w->x87_seg = UINT8_MAX;
            w->holds = false;
            w->x87_mark = mark;
            bt_cold_insn(w, em_jump(&w->e, EM_JMP), BT_RCX_HOME);
            w->x87_mark = 0;
            w->owed = 0;
            if (bt_moves_rsp(w, in, &by))
                w->moved += by;
            w->lost = 0;
            open = in + 1 < w->b->insn + w->b->n || bt_sys_goes_on(in);
        }
        if (bt_step_use(w, i) == BT_FU_WRITE && w->lost != i + 1)
            w->lost = 0;
        w->lazy = w->step[i].after;
        w->step[i].moved = w->moved;
        bt_hold_end(w);
        set_resume(w, first);
        if (!w->loop) {
            w->start[i] = start;
            w->resume[i] = w->e.len;
            w->step[i].owed[0] = owed;
            w->step[i].owed[1] = w->owed;
        }
        if (!open)
            break;
    }
    if (!open || w->failed)
        return;
    bt_x87_store(w);
    w->i = w->n;
    bt_count_end(w);
    bt_exit_direct(w, bt_after(w, w->n - 1));
}

/* Instruction i is of another block than the one before it. */
static bool enters_block(const struct bt_work *w, unsigned i)
{
    return w->step[i].b != w->step[i - 1].b;
}

/* Room for the records of cover. */
static struct bt_cover *cover_room(struct bt_work *w)
{
    unsigned n = 0;

    for (unsigned i = 1; i < w->n; i++)
        n += enters_block(w, i);
    return bt_record(w, n * sizeof(struct bt_cover));
}

/* When one of the trace's blocks dies, so does the translation. */
static void cover(struct bt_work *w, struct bt_cover *c)
{
    for (unsigned i = 1; i < w->n; i++)
        if (enters_block(w, i))
            bt_cover_add(c++, w->step[i].b, w->t);
}

/* What to change when the trace is mapped elsewhere. */
static void keep_fixes(struct bt_work *w)
{
    struct bt_trans *t = w->t;
    size_t bytes = w->fixes * sizeof(*t->fix);
    struct bt_fix *fix = w->moves ? bt_record(w, bytes) : NULL;

    t->bytes = (uint16_t)w->e.len;
    t->stays = fix == NULL;
    if (fix != NULL)
        memcpy(fix, w->fix, bytes);
    t->fix = fix;
    t->fixes = (uint16_t)w->fixes;
}

/* Give back what a failed attempt took. */
static struct bt_trans *give_up(struct vmci_bt *bt, struct block *b, size_t arena, bool full)
{
    bt->arena_used = arena;
    b->never = b->never || (!full && !bt->alone);
    return NULL;
}

static struct bt_trans *translate(struct vmci_soft_cpu *sc, struct block *b, bool around)
{
    struct vmci_bt *bt = &sc->bt;
    struct bt_work *w = bt->work;
    size_t arena = bt->arena_used;

    if (!bt_has_room(bt))
        return NULL;
    w->sc = sc;
    if (!bt_trace(w, b, around))
        return NULL;
    struct bt_trans *t = (struct bt_trans *)(void *)(bt->arena + arena);
    bt->arena_used += sizeof(*t);
    *t = (struct bt_trans){.la = w->step[0].la,
                           .key = bt_key(&bt->ctx, w->step[0].la),
                           .ctx = bt->ctx,
                           .blk = b,
                           .mode = sc->cpu.tlb_mode,
                           .alone = bt->alone,
                           .fp = (uint8_t)w->fp,
                           .part = (uint8_t)(bt->st_translated % BT_BUDGETS)};
    w->t = t;
    w->e = (struct emit){.rw = bt->rw + bt->used, .rx = bt->rx + bt->used, .cap = BT_BLOCK_MAX};
    w->failed = w->counted = w->cold_phase = false;
    w->loop = w->twice = w->second = w->wide = w->top = false;
    w->loop_site = 0;
    w->lazy = w->lost = w->lost_top = 0;
    w->cold_count = 0;
    w->fixes = 0;
    w->moves = bt_movable(t);
    w->budget_cold = -1;
    bt_pick_set(w);
    if (w->n == 0)
        return give_up(bt, b, arena, false);
    w->set = t->set;
    w->pieces = 0;
    bt_piece(w, VMC_CODE_ENTRY, w->n);
    t->canon = em_here(&w->e);
    if (t->fp != 0)
        check_fp(w, t->fp);
    t->ready = em_here(&w->e);
    bt_exchange(&w->e, BT_CANON, t->set);
    t->inner = em_here(&w->e);
    translate_body(w);
    t->loops = bt_loop(w);
    if (t->loops) {
        translate_body(w);
        if (bt_loop_again(w))
            translate_body(w);
        if (bt_loop_apart(w)) {
            translate_body(w);
            if (bt_loop_again(w))
                translate_body(w);
        }
    } else if (w->loop_site != 0)
        em_patch_at(&w->e, w->loop_site, t->inner);
    bt_emit_cold(w);
    struct bt_cover *covers = cover_room(w);
    if ((w->failed || w->e.full) && (w->around_inner || w->ways)) {
        bt->arena_used = arena;
        return translate(sc, b, false);
    }
    if (w->failed || w->e.full)
        return give_up(bt, b, arena, false);
    cover(w, covers);
    keep_fixes(w);
    vmci_assert(bt->arena_used <= bt->arena_end && bt->used + w->e.len <= bt->used_end);
    vmci_assert(w->cold_count <= BT_COLD_MAX && w->pieces <= BT_PIECES_MAX &&
                w->fixes <= BT_FIX_MAX && w->n <= BT_TRACE_MAX);
    bt->used = (bt->used + w->e.len + 15) & ~(size_t)15;
    bt->st_translated++;
    bt->made_new++;
    bt->made_again += b->evicted;
    b->evicted = false;
    bt->st_segmented += w->seg;
    bt->st_around += w->around_inner;
    bt->st_ways += w->ways;
    t->next = b->bt;
    b->bt = t;
    t->older = bt->made[bt->segment];
    bt->made[bt->segment] = t;
    report(w);
    return t;
}

struct bt_trans *bt_translate(struct vmci_soft_cpu *sc, struct block *b)
{
    return translate(sc, b, true);
}
