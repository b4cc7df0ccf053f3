/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory operands: the inlined TLB check and the instruction re-encoded around a host address. */
#include "cpu/bt/bt_work.h"

/* Displacements up to here can grow by an operand's size. */
#define DISP_MAX (INT32_MAX - 64)

/* Columns of the TLB as offsets from GS. */
struct columns {
    uint32_t tag, addend, page;
};

static struct columns columns(const struct bt_work *w, enum bt_acc acc)
{
    uint32_t table = GS_CPU(tlb) + (uint32_t)(w->t->mode * sizeof(struct vmci_tlb));
    return (struct columns){table + (uint32_t)(acc == BT_ACC_READ ? offsetof(struct vmci_tlb, rd)
                                                                  : offsetof(struct vmci_tlb, wr)),
                            table + (uint32_t)offsetof(struct vmci_tlb, addend),
                            table + (uint32_t)offsetof(struct vmci_tlb, page)};
}

/* The mask that must find nothing: other pages, and the low bits of an aligned operand. */
static uint32_t page_mask(unsigned align)
{
    return GS_BT(page_mask) + (align <= 1 ? 0 : align == 16 ? 8 : 16);
}

/* What is added to the offset of the first byte so that the mask sees the last one. An aligned
   operand cannot cross a page. */
static int32_t last_byte(unsigned bytes, unsigned align)
{
    return align <= 1 ? (int32_t)bytes - 1 : 0;
}

/*
 * [base + disp] or [(index << scale) + disp], 64-bit. The entry that the first byte selects must
 * hold the page of the last byte; an empty one holds none that could come out (vmci_tlb_none).
 */
static void check_simple(struct bt_work *w, struct em_addr at, enum bt_acc acc, unsigned bytes,
                         unsigned align, struct em_addr *out)
{
    struct emit *e = &w->e;
    struct columns col = columns(w, acc);
    struct em_addr off = at;
    unsigned from = at.base;

    if (at.disp != 0 || at.base == EM_NONE) {
        em_rm(e, EM_W, 0x8d, w->s, &at); /* lea */
        from = w->s;
    }
    em_pext_gs(e, w->s, from, GS_BT(tlb_mask));
    em_mov(e, w->x, EM_RCX);
    em_load_gs_x8(e, EM_RCX, w->s, col.tag);
    /* The offset in the page: address - page. */
    if (off.base == EM_RCX)
        off.base = (uint8_t)w->x;
    if (off.index == EM_RCX)
        off.index = (uint8_t)w->x;
    if (off.base == EM_NONE)
        off.base = EM_RCX;
    else
        off.index = EM_RCX;
    off.disp += last_byte(bytes, align);
    em_rm(e, EM_W, 0x8d, EM_RCX, &off);
    em_pext_gs(e, EM_RCX, EM_RCX, page_mask(align));
    bt_cold_insn(w, em_jump_unless_rcxz(e), BT_RCX_X);
    em_mov(e, EM_RCX, w->x);
    em_load_gs_x8(e, w->s, w->s, col.addend);
    *out = at;
    if (at.base == EM_NONE)
        out->base = (uint8_t)w->s;
    else
        out->index = (uint8_t)w->s;
}

void bt_rcx_away(struct bt_work *w)
{
    if (w->k != EM_NONE)
        em_mov(&w->e, w->k, EM_RCX);
    else
        em_store_gs(&w->e, EM_RCX, GS_GPR(EM_RCX));
}

void bt_rcx_back(struct bt_work *w)
{
    if (w->k != EM_NONE)
        em_mov(&w->e, EM_RCX, w->k);
    else
        em_load_gs(&w->e, EM_RCX, GS_GPR(EM_RCX));
}

/* A linear address in x. */
static void check_linear(struct bt_work *w, enum bt_acc acc, unsigned bytes, unsigned align,
                         bool away, struct em_addr *out)
{
    struct emit *e = &w->e;
    struct columns col = columns(w, acc);

    if (!away)
        bt_rcx_away(w);
    em_pext_gs(e, w->s, w->x, GS_BT(tlb_mask));
    em_load_gs_x8(e, EM_RCX, w->s, col.tag);
    em_lea(e, EM_W, EM_RCX, EM_RCX, w->x, 0, last_byte(bytes, align));
    em_pext_gs(e, EM_RCX, EM_RCX, page_mask(align));
    bt_cold_insn(w, em_jump_unless_rcxz(e), BT_RCX_K);
    bt_rcx_back(w);
    em_load_gs_x8(e, w->s, w->s, col.addend);
    *out = (struct em_addr){(uint8_t)w->x, (uint8_t)w->s, 0, 0};
}

/* The same where the flags may be lost. */
static void check_lazy(struct bt_work *w, enum bt_acc acc, unsigned bytes, unsigned align,
                       struct em_addr *out)
{
    struct emit *e = &w->e;
    struct columns col = columns(w, acc);
    struct em_addr tag = {EM_NONE, (uint8_t)w->s, 3, (int32_t)col.tag};

    w->lost = w->lazy;
    em_pext_gs(e, w->s, w->x, GS_BT(tlb_mask));
    em8(e, 0x65); /* add x, tag: the offset in the page */
    em_rm(e, EM_W, 0x03, w->x, &tag);
    if (align > 1) { /* test x, mask */
        em_rex(e, EM_W, 0, w->x);
        em8(e, 0xf7);
        em8(e, 0xc0 | (w->x & 7));
        em32(e, (uint32_t)PAGE_MASK | (align - 1));
        bt_cold_insn(w, em_jump(e, CC_NE), BT_RCX_HOME);
    } else {
        em_ri(e, EM_W, 7, w->x, VMC_PAGE_SIZE - bytes); /* cmp x, last place */
        bt_cold_insn(w, em_jump(e, CC_A), BT_RCX_HOME);
    }
    em_load_gs_x8(e, w->s, w->s, col.page);
    *out = (struct em_addr){(uint8_t)w->x, (uint8_t)w->s, 0, 0};
}

void bt_check_linear(struct bt_work *w, enum bt_acc acc, unsigned bytes, unsigned align, bool away,
                     struct em_addr *out)
{
    if (w->lazy != 0)
        check_lazy(w, acc, bytes, align, out);
    else
        check_linear(w, acc, bytes, align, away, out);
}

static void mov_page(struct bt_work *w, unsigned reg, uint64_t page, bool negated, bool fixed)
{
    if (fixed)
        em_mov_imm(&w->e, reg, negated ? 0 - page : page);
    else if (negated)
        bt_mov_neg(w, reg, page);
    else
        bt_mov_la(w, reg, page);
}

static void note_entry(struct bt_work *w, uint64_t page, bool fixed)
{
    if (!fixed)
        bt_fix(w, BT_FIX_TLB, page);
}

/* A linear address that is known now: only whether the entry holds its page. fixed: it does not
   depend on where the code is. */
static bool check_known(struct bt_work *w, uint64_t la, bool fixed, enum bt_acc acc, unsigned bytes,
                        unsigned align, struct em_addr *out)
{
    struct emit *e = &w->e;
    struct columns col = columns(w, acc);
    uint32_t at = vmci_tlb_index(la) * 8;
    uint32_t off = (uint32_t)(la & ~PAGE_MASK);
    uint64_t page = la - off;
    uint64_t tag = 0 - (la & PAGE_MASK);
    bool small = tag == (uint64_t)(int64_t)(int32_t)tag && (int32_t)tag != INT32_MIN;

    if (off + bytes > VMC_PAGE_SIZE || !vmci_canonical48(la) || (align > 1 && off % align != 0))
        return false;
    if (w->lazy != 0) {
        w->lost = w->lazy;
        if (small) {
            em_cmp_gs_imm(e, col.tag + at, (uint32_t)tag);
        } else {
            mov_page(w, w->x, page, true, fixed);
            em_rgs(e, EM_W, 0x3b, w->x, col.tag + at);
            note_entry(w, page, fixed);
        }
        bt_cold_insn(w, em_jump(e, CC_NE), BT_RCX_HOME);
    } else {
        em_mov(e, w->x, EM_RCX);
        em_load_gs(e, EM_RCX, col.tag + at);
        note_entry(w, page, fixed);
        if (small) {
            em_lea(e, EM_W, EM_RCX, EM_RCX, EM_NONE, 0, -(int32_t)tag);
        } else {
            mov_page(w, w->s, page, false, fixed);
            em_lea(e, EM_W, EM_RCX, EM_RCX, w->s, 0, 0);
        }
        bt_cold_insn(w, em_jump_unless_rcxz(e), BT_RCX_X);
        em_mov(e, EM_RCX, w->x);
    }
    em_load_gs(e, w->s, col.page + at);
    note_entry(w, page, fixed);
    *out = (struct em_addr){(uint8_t)w->s, EM_NONE, 0, (int32_t)off};
    return true;
}

static bool segment_base(const struct vmci_insn *in)
{
    return in->seg == VMC_FS || in->seg == VMC_GS;
}

bool bt_check_ea(struct bt_work *w, const struct vmci_insn *in, enum bt_acc acc, unsigned bytes,
                 unsigned align, struct em_addr *out)
{
    struct emit *e = &w->e;
    bool based = segment_base(in);
    bool wide = in->addrsize == 8;
    int32_t disp = (int32_t)in->disp;
    struct em_addr at = {in->base < 16 ? in->base : EM_NONE, in->index < 16 ? in->index : EM_NONE,
                         in->scale, disp + bt_owed(w, in->base)};

    if (align > 1 && align != 16 && align != 32)
        return false;
    /* In flat code, too, CS, FS and GS may be anything. */
    if (w->seg || in->addrsize < 4 || (w->word == 4 && (based || in->seg == VMC_CS)))
        return bt_seg_check(w, in, acc, bytes, align, out);
    if (bt_group_use(w, &w->ref[w->i], disp, out))
        return true;
    w->holds = false;
    if (in->base == VMCI_REG_IP || (at.base == EM_NONE && at.index == EM_NONE)) {
        bool fixed = in->base != VMCI_REG_IP;
        uint64_t la = (fixed ? 0 : w->la) + (uint64_t)in->disp;
        if (!wide) {
            la = (uint32_t)la;
            w->moves = w->moves && fixed;
        }
        if (!based)
            return check_known(w, la, fixed, acc, bytes, align, out);
        if (fixed)
            em_mov_imm(e, w->x, la);
        else
            bt_mov_la(w, w->x, la);
    } else if (wide && !based && w->lazy == 0 && (at.base == EM_NONE || at.index == EM_NONE) &&
               disp <= DISP_MAX) {
        check_simple(w, at, acc, bytes, align, out);
        return true;
    } else {
        em_rm(e, wide ? EM_W : 0, 0x8d, w->x, &at); /* lea */
    }
    if (based) {
        em_load_gs(e, w->s,
                   GS_CPU(seg) + (uint32_t)(in->seg * sizeof(struct vmc_segment) +
                                            offsetof(struct vmc_segment, base)));
        em_lea(e, EM_W, w->x, w->x, w->s, 0, 0);
    }
    bt_check_linear(w, acc, bytes, align, false, out);
    return true;
}

bool bt_check_bit(struct bt_work *w, const struct vmci_insn *in, enum bt_acc acc,
                  struct em_addr *out)
{
    struct emit *e = &w->e;
    bool quad = in->opsize == 8;
    struct em_addr at = {in->base < 16 ? in->base : EM_NONE, in->index < 16 ? in->index : EM_NONE,
                         in->scale, (int32_t)in->disp};

    if (in->base == VMCI_REG_IP)
        bt_mov_la(w, w->x, w->la + (uint64_t)in->disp);
    else
        em_rm(e, EM_W, 0x8d, w->x, &at); /* lea */
    em_mov_imm(e, w->s, quad ? 6 : 5);
    em_sarx(e, quad ? EM_W : 0, w->s, in->opnd[1].reg, w->s);
    if (!quad)
        em_rr(e, EM_W, 0x63, w->s, w->s); /* movsxd */
    em_lea(e, EM_W, w->x, w->x, w->s, quad ? 3 : 2, 0);
    if (segment_base(in)) {
        em_load_gs(e, w->s,
                   GS_CPU(seg) + (uint32_t)(in->seg * sizeof(struct vmc_segment) +
                                            offsetof(struct vmc_segment, base)));
        em_lea(e, EM_W, w->x, w->x, w->s, 0, 0);
    }
    bt_check_linear(w, acc, in->opsize, 1, false, out);
    return true;
}

bool bt_check_stack(struct bt_work *w, int32_t disp, enum bt_acc acc, unsigned bytes,
                    struct em_addr *out)
{
    struct em_addr at = {EM_RSP, EM_NONE, 0, disp + w->owed};

    if (bt_group_use(w, &w->stack_ref[w->i], disp, out))
        return true;
    w->holds = false;
    if (w->lazy != 0 || w->word != 8) {
        em_rm(&w->e, bt_wide(w), 0x8d, w->x, &at);
        bt_check_linear(w, acc, bytes, 1, false, out);
    } else {
        check_simple(w, at, acc, bytes, 1, out);
    }
    return true;
}

/* 16-bit code: prefix 66 says the opposite. That of SSE is part of the opcode, and x87 has none. */
static bool other_size(const struct bt_work *w, const struct vmci_insn *in)
{
    return w->bits == 16 && in->op < VMCI_OP_FP_FIRST;
}

/* Is REPNE or REP part of the opcode? Before others they are reserved, or hints. */
static bool rep_is_opcode(const struct vmci_insn *in)
{
    switch (in->op) {
    case VMCI_OP_POPCNT:
    case VMCI_OP_LZCNT:
    case VMCI_OP_TZCNT:
    case VMCI_OP_CRC32:
    case VMCI_OP_ADOX:
        return true;
    default:
        return in->op >= VMCI_OP_FP_FIRST && in->map != VMCI_MAP_1B;
    }
}

/* Prefixes that stay: operand size, LOCK, and REPNE or REP where they mean something, of which the
   last one counts; each once. Segment and address size are dealt with. */
static void emit_prefixes(struct bt_work *w, const struct vmci_insn *in, unsigned end)
{
    uint8_t lock = 0, rep = 0;

    if (((in->flags & VMCI_IF_66) != 0) != other_size(w, in))
        em8(&w->e, 0x66);
    for (unsigned k = 0; k < end; k++) {
        uint8_t b = in->raw[k];
        if (b == 0xf0)
            lock = b;
        else if ((b == 0xf2 || b == 0xf3) && rep_is_opcode(in))
            rep = b;
    }
    if (lock != 0)
        em8(&w->e, lock);
    if (rep != 0)
        em8(&w->e, rep);
}

/* The processor takes no longer ones, and those of a guest may have grown. */
static void bound_length(struct bt_work *w, size_t from)
{
    if (w->e.len - from > VMCI_INSN_MAX)
        w->failed = true;
}

/* Where VEX, REX or the escape to the opcode's map begins, or else the opcode. */
static unsigned before_opcode(const struct vmci_insn *in)
{
    if ((in->flags & VMCI_IF_VEX) != 0)
        return in->opcode_off -
               (in->opcode_off >= 3 && in->raw[in->opcode_off - 3] == 0xc4 ? 3 : 2);
    unsigned escapes = in->map == VMCI_MAP_1B ? 0 : in->map == VMCI_MAP_0F ? 1 : 2;
    return in->opcode_off - escapes - ((in->flags & VMCI_IF_REX) ? 1 : 0);
}

void bt_emit_copy(struct bt_work *w, const struct vmci_insn *in)
{
    unsigned op = in->raw[in->opcode_off];
    size_t from = w->e.len;

    if (w->word == 4 && in->map == VMCI_MAP_1B && (op & 0xf0) == 0x40) {
        /* INC and DEC in one byte: REX in 64-bit code. */
        if (in->opsize == 2)
            em8(&w->e, 0x66);
        em8(&w->e, 0xff);
        em8(&w->e, (op & 8 ? 0xc8 : 0xc0) | (op & 7));
        return;
    }
    unsigned k = before_opcode(in);
    if ((in->flags & VMCI_IF_VEX) == 0)
        emit_prefixes(w, in, k);
    if (in->op == VMCI_OP_LEA && (in->flags & VMCI_IF_67) != 0) /* elsewhere it says nothing */
        em8(&w->e, 0x67);
    for (; k < in->len; k++)
        em8(&w->e, in->raw[k]);
    bound_length(w, from);
}

static void emit_vex(struct bt_work *w, const struct vmci_insn *in, unsigned rxb)
{
    unsigned r = in->rex & 4;
    unsigned wbit = in->rex & 8;
    unsigned pp = in->vex_lpp & 3;
    unsigned l = in->vex_lpp & 4;
    /* VEX.pp: 1 is 66, 2 is F3, 3 is F2. */
    em8(&w->e, 0xc4);
    em8(&w->e, (~(rxb | r) & 7) << 5 | in->map);
    em8(&w->e, (wbit ? 0x80 : 0) | (~in->vex_v & 15) << 3 | l | pp);
    em8(&w->e, in->raw[in->opcode_off]);
}

static void emit_around(struct bt_work *w, const struct vmci_insn *in, const struct em_addr *a)
{
    struct emit *e = &w->e;
    unsigned modrm = in->raw[in->modrm_off];
    unsigned rxb = em_rxb(0, a);
    size_t from = e->len;

    if (in->modrm_off == 0) { /* MOV between the accumulator and an absolute address */
        if (in->opsize == 2)
            em8(e, 0x66);
        em_rm(e, in->opsize == 8 ? EM_W : 0, in->raw[in->opcode_off] ^ 0x28 ^ 2, EM_RAX, a);
        return;
    }
    if ((in->flags & VMCI_IF_VEX) != 0) {
        emit_vex(w, in, rxb);
    } else {
        unsigned escapes = in->map == VMCI_MAP_1B ? 0 : in->map == VMCI_MAP_0F ? 1 : 2;
        emit_prefixes(w, in, before_opcode(in));
        unsigned rex = (in->rex & 0x4cu) | rxb;
        if ((in->flags & VMCI_IF_REX) != 0 || rex != 0)
            em8(e, 0x40 | rex);
        if (escapes > 0)
            em8(e, 0x0f);
        if (escapes == 2)
            em8(e, in->map == VMCI_MAP_0F38 ? 0x38 : 0x3a);
        em8(e, in->raw[in->opcode_off]);
    }
    em_modrm(e, modrm >> 3, a);
    if (in->imm_off != 0)
        for (unsigned k = in->imm_off; k < in->len; k++)
            em8(e, in->raw[k]);
    bound_length(w, from);
}

/* A register that can be named without REX and that the instruction does not use. */
static unsigned legacy_reg(const struct bt_work *w, const struct vmci_insn *in)
{
    static const uint8_t order[] = {EM_RBX, EM_RSI, EM_RDI, EM_RDX, EM_RAX, EM_RCX};
    uint32_t used = bt_regs_used(in);

    if (w->s < 8)
        return w->s;
    for (unsigned k = 0; k < sizeof(order); k++)
        if ((used & 1u << order[k]) == 0 && order[k] != w->x)
            return order[k];
    return EM_NONE;
}

void bt_emit_rm(struct bt_work *w, const struct vmci_insn *in, const struct em_addr *a)
{
    struct emit *e = &w->e;
    bool high = false;

    for (unsigned k = 0; k < in->nopnd && k < 4; k++)
        high = high || in->opnd[k].kind == VMCI_OPND_GPR_HI;
    if (!high || em_rxb(0, a) == 0) {
        emit_around(w, in, a);
        return;
    }
    /* With REX there are no AH, CH, DH, BH: the address goes to a register that needs none. */
    unsigned v = legacy_reg(w, in);
    if (v == EM_NONE) {
        w->failed = true;
        return;
    }
    w->holds = false;
    struct em_addr plain = {(uint8_t)v, EM_NONE, 0, 0};
    if (v != w->s)
        em_store_gs(e, v, GS_SPILL(0));
    em_rm(e, EM_W, 0x8d, v, a);
    emit_around(w, in, &plain);
    if (v != w->s)
        em_load_gs(e, v, GS_SPILL(0));
}
