/* SPDX-License-Identifier: BSD-2-Clause */
/* One block of decoded instructions into host code. */
#include "cpu/bt/bt_work.h"
#include "cpu/fpu/fp_int.h"

/* ---- which instructions can be copied -------------------------------------------------------- */

/* Integer instructions that run as they are, around their memory operand if they have one. */
static bool copyable(const struct bt_work *w, const struct vmci_insn *in)
{
    if ((w->sc->bt.lacks >> in->feature & 1) != 0)
        return false;
    switch (in->op) {
    case VMCI_OP_MOV:
    case VMCI_OP_MOVSX:
    case VMCI_OP_MOVZX:
    case VMCI_OP_MOVBE:
    case VMCI_OP_MOVNTI:
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
        return true;
    default:
        return in->opnd[0].kind == VMCI_OPND_MEM;
    }
}

/* ---- integer instructions -------------------------------------------------------------------- */

static void use_flags(struct bt_work *w, enum bt_fluse use)
{
    if (use == BT_FU_READ || use == BT_FU_RDWR)
        bt_need_host(w);
}

static void wrote_flags(struct bt_work *w, enum bt_fluse use)
{
    if (use == BT_FU_WRITE || use == BT_FU_RDWR)
        w->flags = BT_FL_HOST;
}

static bool translate_mem(struct bt_work *w, const struct vmci_insn *in)
{
    const struct vmci_opnd *m = mem_operand(in);
    unsigned s = BT_NO_REG;
    unsigned t = BT_NO_REG;
    enum bt_fluse use = bt_flag_use(in);

    if (m == NULL || m->size == 0 || m->size > 8 || in->modrm_off == 0)
        return false;
    bt_pick_scratch(w, bt_regs_used(in) | 1u << EM_RSP, &s, &t);
    if (s == BT_NO_REG || t == BT_NO_REG)
        return false;
    /* Without REX a byte register 4-7 is AH-BH: the scratch register must not need one. */
    for (unsigned k = 0; k < in->nopnd && k < 4; k++)
        if (in->opnd[k].kind == VMCI_OPND_GPR_HI && s >= 8)
            return false;
    bt_check_ea(w, in, writes_mem(in) ? BT_ACC_WRITE : BT_ACC_READ, m->size, 1, s, t);
    use_flags(w, use);
    bt_emit_rm(w, in, s);
    wrote_flags(w, use);
    bt_reload(w, s, t);
    return true;
}

static bool translate_lea(struct bt_work *w, const struct vmci_insn *in)
{
    if (in->base == VMCI_REG_IP) {
        uint64_t v = w->la + (uint64_t)in->disp;
        if (in->addrsize == 4)
            v = (uint32_t)v;
        if (in->opsize == 2)
            return false;
        em_mov_imm(&w->e, in->opnd[0].reg, in->opsize == 4 ? (uint32_t)v : v);
        return true;
    }
    bt_emit_copy(w, in);
    return true;
}

static bool translate_push(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    unsigned s = BT_NO_REG;
    unsigned t = BT_NO_REG;

    if (in->opsize != 8 || in->opnd[0].kind == VMCI_OPND_MEM)
        return false;
    bt_pick_scratch(w, bt_regs_used(in) | 1u << EM_RSP, &s, &t);
    bt_check_stack(w, -8, BT_ACC_WRITE, 8, s, t);
    if (in->opnd[0].kind == VMCI_OPND_GPR) {
        em_rm(e, EM_W, 0x89, in->opnd[0].reg, s);
    } else {
        em_rex(e, EM_W, 0, s); /* mov qword [s], imm32 */
        em8(e, 0xc7);
        em8(e, s & 7);
        em32(e, (uint32_t)in->imm);
    }
    em_lea(e, EM_W, EM_RSP, EM_RSP, BT_NO_REG, 0, -8);
    bt_reload(w, s, t);
    return true;
}

static bool translate_pop(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    unsigned s = BT_NO_REG;
    unsigned t = BT_NO_REG;

    if (in->opsize != 8 || in->opnd[0].kind != VMCI_OPND_GPR || in->opnd[0].reg == EM_RSP)
        return false;
    bt_pick_scratch(w, bt_regs_used(in) | 1u << EM_RSP, &s, &t);
    bt_check_stack(w, 0, BT_ACC_READ, 8, s, t);
    em_rm(e, EM_W, 0x8b, in->opnd[0].reg, s);
    em_lea(e, EM_W, EM_RSP, EM_RSP, BT_NO_REG, 0, 8);
    bt_reload(w, s, t);
    return true;
}

/* mov rsp, rbp; pop rbp, as one: nothing changes when the load faults. */
static bool translate_leave(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    struct vmci_insn at = {.base = EM_RBP, .index = VMCI_REG_ZERO, .addrsize = 8, .seg = VMC_SS};

    if (in->opsize != 8)
        return false;
    bt_check_ea(w, &at, BT_ACC_READ, 8, 1, EM_RCX, EM_RDX);
    em_lea(e, EM_W, EM_RSP, EM_RBP, BT_NO_REG, 0, 8);
    em_rm(e, EM_W, 0x8b, EM_RBP, EM_RCX);
    bt_reload(w, EM_RCX, EM_RDX);
    return true;
}

/* ---- SSE and AVX ----------------------------------------------------------------------------- */

/* What a native FP instruction needs of bt.fp_ready; 0: it is not run natively. */
static unsigned fp_need(const struct vmci_fp *fp, const struct vmci_insn *in,
                        struct vmci_fp_form *form)
{
    if (in->op != VMCI_OP_FP_SSE && in->op != VMCI_OP_FP_AVX)
        return 0;
    if (!vmci_fp_classify(in, 64, form) || form->special != VMCI_FS_PLAIN)
        return 0;
    if ((form->flags & (VMCI_FO_MMX | VMCI_FO_X87)) != 0 || (in->flags & VMCI_IF_VSIB) != 0)
        return 0;
    if ((fp->host_features >> form->feature & 1) == 0)
        return 0; /* whatever the CPU model says */
    return in->op == VMCI_OP_FP_AVX ? BT_FP_AVX : BT_FP_SSE;
}

static bool translate_fp(struct bt_work *w, const struct vmci_insn *in)
{
    struct vmci_fp_form form;
    unsigned s = BT_NO_REG;
    unsigned t = BT_NO_REG;

    if (fp_need(w->sc->cpu.fp, in, &form) == 0)
        return false;
    bool flags = (form.flags & VMCI_FO_FLAGS) != 0;
    if ((in->flags & VMCI_IF_MEM) == 0) {
        bt_emit_copy(w, in);
        if (flags)
            w->flags = BT_FL_HOST;
        return true;
    }
    if (form.mem_bytes == 0 || form.mem_bytes > 32 || in->modrm_off == 0)
        return false;
    bt_pick_scratch(w, bt_regs_used(in) | 1u << EM_RSP, &s, &t);
    if (s == BT_NO_REG || t == BT_NO_REG)
        return false;
    bt_check_ea(w, in, (form.mem_acc & VMCI_MEM_WRITE) != 0 ? BT_ACC_WRITE : BT_ACC_READ,
                form.mem_bytes, form.align, s, t);
    bt_emit_rm(w, in, s);
    if (flags)
        w->flags = BT_FL_HOST;
    bt_reload(w, s, t);
    return true;
}

/* ---- the block ------------------------------------------------------------------------------- */

static bool translate_one(struct bt_work *w, const struct vmci_insn *in)
{
    enum bt_fluse use;

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
    default:
        break;
    }
    if (in->op >= VMCI_OP_FP_FIRST)
        return translate_fp(w, in);
    if (!copyable(w, in))
        return false;
    if ((in->flags & VMCI_IF_MEM) != 0)
        return translate_mem(w, in);
    use = bt_flag_use(in);
    use_flags(w, use);
    bt_emit_copy(w, in);
    wrote_flags(w, use);
    return true;
}

/* Let the interpreter execute instruction i, then go on. */
static void interpret(struct bt_work *w)
{
    bt_clobber(w);
    bt_cold_insn(w, em_jump(&w->e, EM_JMP), BT_NO_REG, BT_NO_REG);
}

/* Does the block want the flags in memory, or in EFLAGS, or does it not care? */
static enum bt_flags entry_flags(const struct bt_work *w, const struct block *b)
{
    for (unsigned i = 0; i < b->n; i++) {
        const struct vmci_insn *in = &b->insn[i];
        enum bt_fluse use = bt_flag_use(in);
        bool plain = (copyable(w, in) || in->op == VMCI_OP_LEA || in->op == VMCI_OP_NOP) &&
                     ((in->flags & VMCI_IF_MEM) == 0 || in->op == VMCI_OP_LEA);
        if (plain && use == BT_FU_WRITE)
            return BT_FL_ANY;
        if ((plain || in->op == VMCI_OP_JCC) && (use == BT_FU_READ || use == BT_FU_RDWR))
            return BT_FL_HOST;
        if (!plain)
            return BT_FL_MEM;
    }
    return BT_FL_MEM;
}

static unsigned block_fp_need(const struct vmci_fp *fp, const struct block *b)
{
    struct vmci_fp_form form;
    unsigned need = 0;

    for (unsigned i = 0; i < b->n; i++)
        need |= fp_need(fp, &b->insn[i], &form);
    return need;
}

/* Leave unless bt.fp_ready has every bit of need. Flags are in MEM. */
static void check_fp(struct bt_work *w, unsigned need)
{
    struct emit *e = &w->e;

    em_store_gs(e, EM_RAX, GS_SPILL(2));
    em8(e, 0x65); /* movzx eax, byte gs:[fp_ready] */
    em8(e, 0x0f);
    em8(e, 0xb6);
    em8(e, 0x04);
    em8(e, 0x25);
    em32(e, GS_BT(fp_ready));
    em8(e, 0xf6); /* not al; test al, need */
    em8(e, 0xd0);
    em8(e, 0xa8);
    em8(e, need);
    em_load_gs(e, EM_RAX, GS_SPILL(2));
    size_t ok = em_jump(e, CC_E);
    em_store_gs(e, EM_RAX, GS_GPR(EM_RAX));
    em_mov_imm(e, EM_RAX, (uintptr_t)w->t);
    em_store_gs(e, EM_RAX, GS_BT(cur));
    em_jump_to(e, EM_JMP, w->sc->bt.call_fp);
    em_patch_here(e, ok);
}

static void emit_cold_insn(struct bt_work *w, const struct bt_cold *c)
{
    struct emit *e = &w->e;
    const uint8_t *resume = e->rx + c->resume;

    if (c->live) {
        /* Where the interpreter comes back to: bring the flags along. */
        resume = em_here(e);
        bt_flags_restore(e);
        em_jump_to(e, EM_JMP, e->rx + c->resume);
        em_patch_here(e, c->site);
    }
    bt_reload(w, c->s, c->t);
    em_store_gs(e, EM_RAX, GS_GPR(EM_RAX));
    em_mov_imm(e, EM_RAX, (uintptr_t)&w->b->insn[c->insn]);
    em_store_gs(e, EM_RAX, GS_CPU(cur));
    em_mov_imm(e, EM_RAX, (uintptr_t)w->t);
    em_store_gs(e, EM_RAX, GS_BT(cur));
    em_mov_imm(e, EM_RAX, (uintptr_t)resume);
    em_store_gs(e, EM_RAX, GS_BT(resume));
    em_jump_to(e, EM_JMP, w->sc->bt.call_insn);
}

static void emit_cold_link(struct bt_work *w, const struct bt_cold *c)
{
    struct vmci_bt *bt = &w->sc->bt;
    struct emit *e = &w->e;

    if (BT_ARENA_BYTES - bt->arena_used < sizeof(struct bt_link)) {
        w->failed = true;
        return;
    }
    struct bt_link *l = (struct bt_link *)(void *)(bt->arena + bt->arena_used);
    bt->arena_used += sizeof(*l);
    *l = (struct bt_link){.site = e->rw + c->site,
                          .site_rx = e->rx + c->site,
                          .stub = em_here(e),
                          .target_la = c->target,
                          .from = w->t,
                          .live = c->live};
    if (c->live)
        bt_flags_save(e);
    em_store_gs(e, EM_RAX, GS_GPR(EM_RAX));
    em_mov_imm(e, EM_RAX, (uintptr_t)l);
    em_store_gs(e, EM_RAX, GS_BT(link));
    em_jump_to(e, EM_JMP, bt->call_link);
}

static void emit_cold(struct bt_work *w)
{
    for (unsigned k = 0; k < w->cold_count && !w->failed; k++) {
        const struct bt_cold *c = &w->cold[k];
        em_patch_here(&w->e, c->site);
        if (c->kind == BT_COLD_LINK)
            emit_cold_link(w, c);
        else
            emit_cold_insn(w, c);
    }
}

/* Cold code of the instruction that was just translated comes back behind it, with the flags where
   the hot path has them. */
static void set_resume(struct bt_work *w, unsigned first)
{
    for (unsigned k = first; k < w->cold_count; k++) {
        w->cold[k].resume = w->e.len;
        w->cold[k].live = w->flags != BT_FL_MEM;
    }
}

static void translate_body(struct bt_work *w)
{
    struct block *b = w->b;
    bool open = true; /* control can run off the end */

    for (w->i = 0; w->i < b->n && !w->failed; w->i++) {
        const struct vmci_insn *in = &b->insn[w->i];
        unsigned first = w->cold_count;
        if ((in->flags & VMCI_IF_BRANCH) != 0 && bt_branch(w, in)) {
            open = false;
            break;
        }
        if ((in->flags & VMCI_IF_BRANCH) != 0 || !translate_one(w, in)) {
            interpret(w);
            /* The interpreter leaves after the last instruction of a block. */
            open = w->i + 1u < b->n;
        }
        set_resume(w, first);
    }
    if (open && !w->failed)
        bt_exit_direct(w, w->la + b->bytes, b->n, w->la);
}

static void emit_entries(struct bt_work *w, enum bt_flags start)
{
    struct emit *e = &w->e;
    const uint8_t *body;

    if (start == BT_FL_MEM) {
        w->t->live_entry = em_here(e);
        bt_flags_save(e);
        w->t->mem_entry = em_here(e);
        return;
    }
    if (start == BT_FL_HOST) {
        w->t->mem_entry = em_here(e);
        bt_flags_restore(e);
        w->t->live_entry = em_here(e);
        return;
    }
    body = em_here(e);
    w->t->mem_entry = w->t->live_entry = body;
}

struct bt_trans *bt_translate(struct vmci_soft_cpu *sc, struct block *b)
{
    struct vmci_bt *bt = &sc->bt;
    struct bt_work *w = bt->work;

    if (BT_CODE_BYTES - bt->used < BT_BLOCK_MAX ||
        BT_ARENA_BYTES - bt->arena_used < sizeof(struct bt_trans))
        return NULL;
    struct bt_trans *t = (struct bt_trans *)(void *)(bt->arena + bt->arena_used);
    bt->arena_used += sizeof(*t);
    *t = (struct bt_trans){.la = b->la, .blk = b, .mode = sc->cpu.tlb_mode,
                           .fp = (uint8_t)block_fp_need(sc->cpu.fp, b)};
    w->sc = sc;
    w->b = b;
    w->t = t;
    w->e = (struct emit){.rw = bt->rw + bt->used, .rx = bt->rx + bt->used, .cap = BT_BLOCK_MAX};
    w->la = b->la;
    w->failed = false;
    w->cold_count = 0;
    enum bt_flags start = t->fp != 0 ? BT_FL_MEM : entry_flags(w, b);
    emit_entries(w, start);
    w->flags = start;
    if (t->fp != 0)
        check_fp(w, t->fp);
    translate_body(w);
    emit_cold(w);
    if (w->failed || w->e.full)
        return NULL;
    bt->used = (bt->used + w->e.len + 15) & ~(size_t)15;
    bt->st_translated++;
    t->next = b->bt;
    b->bt = t;
    return t;
}
