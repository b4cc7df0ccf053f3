/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 16-bit code, and 32-bit code with other than flat segments.
 *
 * A translation is for one code segment, by base and limit, one width of the stack pointer, and for
 * real or protected mode: its context. Contexts are numbered; when there are too many of them
 * everything is forgotten. What data and stack segments are does not belong to it: each access adds
 * the base that it finds in bt.view, and asks there whether its last byte is within what may be
 * read or written by a comparison alone. Expand-down segments, and whatever else is not so simple,
 * have views in which nothing is, so the interpreter executes that instruction.
 */
#include "cpu/bt/bt_work.h"

#define SEG_W    2u
#define SEG_E    4u
#define SEG_CODE 8u

/* The table of contexts is never full. */
#define CONTEXTS_MAX (BT_CONTEXTS * 3 / 4)

/* ---- contexts -------------------------------------------------------------------------------- */

static bool is_flat(const struct vmc_segment *s)
{
    return s->base == 0 && s->limit == UINT32_MAX &&
           (s->attr & (VMC_SEG_UNUSABLE | VMC_SEG_P | VMC_SEG_S | SEG_CODE | SEG_E | SEG_W)) ==
               (VMC_SEG_P | VMC_SEG_S | SEG_W);
}

/* 32-bit code that needs no look at segments but FS and GS. */
static bool all_flat(const struct vmci_cpu *cpu)
{
    const struct vmc_segment *cs = &cpu->seg[VMC_CS];

    return cpu->code_bits == 32 && cpu->stack_bits == 32 && vmci_prot_mode(cpu) &&
           !vmci_v86_mode(cpu) && cs->base == 0 && cs->limit == UINT32_MAX &&
           is_flat(&cpu->seg[VMC_DS]) && is_flat(&cpu->seg[VMC_ES]) && is_flat(&cpu->seg[VMC_SS]);
}

static struct bt_ctx ctx_now(const struct vmci_cpu *cpu)
{
    const struct vmc_segment *cs = &cpu->seg[VMC_CS];

    if (cpu->code_bits == 64)
        return (struct bt_ctx){.limit = UINT32_MAX, .bits = 64, .stack = 8};
    return (struct bt_ctx){.base = (uint32_t)cs->base,
                           .limit = cs->limit,
                           .bits = cpu->code_bits,
                           .stack = cpu->stack_bits / 8,
                           .real = !vmci_prot_mode(cpu)};
}

static bool same(const struct bt_ctx *a, const struct bt_ctx *b)
{
    return a->base == b->base && a->limit == b->limit && a->bits == b->bits &&
           a->stack == b->stack && a->real == b->real;
}

/* The entry of the context, or the empty one where it belongs. */
static struct bt_ctx *find(struct vmci_bt *bt, const struct bt_ctx *c)
{
    uint32_t slot = c->base >> 4 ^ c->base >> 14 ^ c->limit >> 16 ^ (uint32_t)c->bits << 3 ^
                    (uint32_t)c->stack << 5 ^ (c->real ? 1u << 8 : 0);

    for (;; slot++) {
        struct bt_ctx *known = &bt->known[slot % BT_CONTEXTS];
        if (known->id == 0 || same(known, c))
            return known;
    }
}

bool bt_ctx_fits(const struct vmci_soft_cpu *sc, const struct bt_ctx *c)
{
    const struct vmci_cpu *cpu = &sc->cpu;

    if (cpu->code_bits != c->bits || c->bits == 64)
        return cpu->code_bits == c->bits;
    struct bt_ctx now = ctx_now(cpu);
    return same(&now, c) && all_flat(cpu) == (c->id == 0);
}

bool bt_see_ctx(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;

    if (likely(bt_ctx_fits(sc, &bt->ctx)))
        return true;
    struct bt_ctx now = ctx_now(&sc->cpu);
    if (now.bits != 64 && !all_flat(&sc->cpu)) {
        struct bt_ctx *known = find(bt, &now);
        if (known->id == 0) {
            if (bt->ctx_ids == CONTEXTS_MAX) {
                bt->ctx_full = true; /* the engine forgets them at its next look */
                (void)vmci_fetch_or(&sc->cpu.request, VMCI_REQ_TRAP);
                return false;
            }
            now.id = ++bt->ctx_ids;
            *known = now;
        }
        now.id = known->id;
    }
    bt->ctx = now;
    return true;
}

void bt_forget_ctx(struct vmci_bt *bt)
{
    memset(bt->known, 0, sizeof(bt->known));
    memset(&bt->ctx, 0, sizeof(bt->ctx)); /* of no code */
    bt->ctx_ids = 0;
    bt->ctx_full = false;
}

/* ---- views ----------------------------------------------------------------------------------- */

static void see_segment(struct bt_view *v, const struct vmc_segment *s, bool real)
{
    bool code = (s->attr & SEG_CODE) != 0;
    bool down = !code && (s->attr & SEG_E) != 0;
    bool usable =
        (s->attr & (VMC_SEG_UNUSABLE | VMC_SEG_P | VMC_SEG_S)) == (VMC_SEG_P | VMC_SEG_S) && !down;
    int64_t end = -((int64_t)s->limit + 1);
    /* Bit 1 of a code type: readable. Real and virtual-8086 mode look at no types of code. */
    bool rd = !code || real || (s->attr & SEG_W) != 0;
    bool wr = code ? real : (s->attr & SEG_W) != 0;

    *v = (struct bt_view){s->base, usable && rd ? end : 0, usable && wr ? end : 0};
}

void bt_see_segments(struct vmci_soft_cpu *sc)
{
    const struct vmci_cpu *cpu = &sc->cpu;
    bool real = !vmci_prot_mode(cpu) || vmci_v86_mode(cpu);

    if (cpu->code_bits == 64)
        return;
    for (unsigned k = 0; k < BT_VIEWS; k++)
        see_segment(&sc->bt.view[k], &cpu->seg[k], real);
}
_Static_assert(VMC_ES < BT_VIEWS && VMC_GS < BT_VIEWS, "views are of the six segments");

/* ---- operands -------------------------------------------------------------------------------- */

static uint32_t view_at(unsigned seg, size_t field)
{
    return GS_BT(view) + (uint32_t)(seg * sizeof(struct bt_view) + field);
}

/* op of 2 or 4 bytes: reg, memory */
static void op_rm(struct emit *e, unsigned bytes, unsigned op, unsigned reg,
                  const struct em_addr *a)
{
    if (bytes == 2)
        em8(e, 0x66);
    em_rm(e, 0, op, reg, a);
}

/* x is an offset: make it a linear address if all bytes are within the segment. Is RCX away then?
 */
static bool within(struct bt_work *w, unsigned seg, enum bt_acc acc, unsigned bytes)
{
    struct emit *e = &w->e;
    uint32_t end = view_at(seg, acc == BT_ACC_READ ? offsetof(struct bt_view, rd)
                                                   : offsetof(struct bt_view, wr));
    uint32_t base = view_at(seg, offsetof(struct bt_view, base));

    if (w->lazy != 0) {
        w->lost = w->lazy;
        em_lea(e, EM_W, w->s, w->x, EM_NONE, 0, (int32_t)bytes - 1);
        em_rgs(e, EM_W, 0x03, w->s, end); /* add */
        bt_cold_insn(w, em_jump(e, CC_NS), BT_RCX_HOME);
        em_rgs(e, 0, 0x03, w->x, base);
        return false;
    }
    bt_rcx_away(w);
    em_load_gs(e, EM_RCX, end);
    em_lea(e, EM_W, EM_RCX, EM_RCX, w->x, 0, (int32_t)bytes - 1);
    em_pext_gs(e, EM_RCX, EM_RCX, GS_BT(sign_mask));
    bt_unless_rcx(w);
    em_rgs(e, 0, 0x8b, w->s, base);
    em_lea(e, 0, w->x, w->x, w->s, 0, 0);
    return true;
}

static void check(struct bt_work *w, unsigned seg, enum bt_acc acc, unsigned bytes, unsigned align,
                  struct em_addr *out)
{
    bool away = within(w, seg, acc, bytes);

    bt_check_linear(w, acc, bytes, align, away, out);
}

/* The offset of the operand to x. */
static void offset(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    struct em_addr at = {in->base < 16 ? in->base : EM_NONE, in->index < 16 ? in->index : EM_NONE,
                         in->scale, (int32_t)in->disp};
    bool narrow = in->addrsize == 2;

    if (at.base == EM_NONE && at.index == EM_NONE) {
        em_mov_imm(e, w->x, narrow ? (uint16_t)in->disp : (uint32_t)in->disp);
        return;
    }
    if (narrow && at.index == EM_NONE && at.disp == 0) {
        em_zero16(e, w->x, at.base);
        return;
    }
    em_rm(e, 0, 0x8d, w->x, &at); /* lea */
    if (narrow)
        em_zero16(e, w->x, w->x);
}

bool bt_seg_check(struct bt_work *w, const struct vmci_insn *in, enum bt_acc acc, unsigned bytes,
                  unsigned align, struct em_addr *out)
{
    if (in->seg >= BT_VIEWS || in->addrsize > 4)
        return false;
    offset(w, in);
    check(w, in->seg, acc, bytes, align, out);
    return true;
}

/* [SP + disp] */
static void check_stack(struct bt_work *w, int32_t disp, enum bt_acc acc, unsigned bytes,
                        struct em_addr *out)
{
    struct vmci_insn at = {.base = EM_RSP,
                           .index = VMCI_REG_ZERO,
                           .addrsize = w->t->ctx.stack,
                           .disp = disp,
                           .seg = VMC_SS};
    (void)bt_seg_check(w, &at, acc, bytes, 1, out);
}

static void move_sp(struct bt_work *w, unsigned base, int32_t by)
{
    struct em_addr at = {(uint8_t)base, EM_NONE, 0, by};
    op_rm(&w->e, w->t->ctx.stack, 0x8d, EM_RSP, &at); /* lea */
}

void bt_seg_fetch(struct bt_work *w, const struct vmci_insn *in, unsigned reg,
                  const struct em_addr *a)
{
    struct emit *e = &w->e;

    if (in->opsize == 4) {
        em_rm(e, 0, 0x8b, reg, a);
        return;
    }
    unsigned rex = 0x40 | em_rxb(reg, a);
    if (rex != 0x40)
        em8(e, rex);
    em8(e, 0x0f); /* movzx */
    em8(e, 0xb7);
    em_modrm(e, reg, a);
}

/* ---- pushes and pops ------------------------------------------------------------------------- */

bool bt_seg_stacked(const struct bt_work *w, const struct vmci_insn *in)
{
    if (!w->seg || (in->opsize != 2 && in->opsize != 4))
        return false;
    return in->op != VMCI_OP_POP ||
           (in->opnd[0].kind == VMCI_OPND_GPR && in->opnd[0].reg != EM_RSP);
}

/* mov [a], imm */
static void store_imm(struct bt_work *w, const struct vmci_insn *in, const struct em_addr *a,
                      uint64_t v)
{
    op_rm(&w->e, in->opsize, 0xc7, 0, a);
    if (in->opsize == 2) {
        em8(&w->e, v & 0xff);
        em8(&w->e, v >> 8 & 0xff);
    } else {
        em32(&w->e, (uint32_t)v);
    }
}

bool bt_seg_push(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    const struct vmci_opnd *o = &in->opnd[0];
    struct em_addr from, to;

    if (!bt_seg_stacked(w, in))
        return false;
    if (o->kind == VMCI_OPND_MEM) {
        if (!bt_check_ea(w, in, BT_ACC_READ, in->opsize, 1, &from))
            return false;
        bt_seg_fetch(w, in, w->x, &from);
    } else if (o->kind == VMCI_OPND_SREG) { /* movzx x, selector */
        em8(e, 0x65);
        em_rex(e, 0, w->x, 0);
        em8(e, 0x0f);
        em8(e, 0xb7);
        em8(e, 0x04 | (w->x & 7) << 3);
        em8(e, 0x25);
        em32(e, GS_CPU(seg) + (uint32_t)(o->reg * sizeof(struct vmc_segment) +
                                         offsetof(struct vmc_segment, selector)));
    }
    bool spilled = o->kind == VMCI_OPND_MEM || o->kind == VMCI_OPND_SREG;
    if (spilled)
        em_store_gs(e, w->x, GS_SPILL(0)); /* x is needed for the check */
    check_stack(w, -(int32_t)in->opsize, BT_ACC_WRITE, in->opsize, &to);
    if (o->kind == VMCI_OPND_GPR) {
        op_rm(e, in->opsize, 0x89, o->reg, &to);
    } else if (spilled) {
        em_rm(e, EM_W, 0x8d, w->x, &to);
        em_load_gs(e, w->s, GS_SPILL(0));
        to = (struct em_addr){(uint8_t)w->x, EM_NONE, 0, 0};
        op_rm(e, in->opsize, 0x89, w->s, &to);
    } else {
        store_imm(w, in, &to, (uint64_t)in->imm);
    }
    move_sp(w, EM_RSP, -(int32_t)in->opsize);
    return true;
}

bool bt_seg_pop(struct bt_work *w, const struct vmci_insn *in)
{
    struct em_addr a;

    if (!bt_seg_stacked(w, in))
        return false;
    check_stack(w, 0, BT_ACC_READ, in->opsize, &a);
    op_rm(&w->e, in->opsize, 0x8b, in->opnd[0].reg, &a);
    move_sp(w, EM_RSP, in->opsize);
    return true;
}

bool bt_seg_leave(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    struct vmci_insn at = {
        .base = EM_RBP, .index = VMCI_REG_ZERO, .addrsize = w->t->ctx.stack, .seg = VMC_SS};
    struct em_addr a;

    if (!bt_seg_stacked(w, in) || !bt_seg_check(w, &at, BT_ACC_READ, in->opsize, 1, &a))
        return false;
    op_rm(e, in->opsize, 0x8b, w->x, &a);
    move_sp(w, EM_RBP, in->opsize);
    if (in->opsize == 2)
        em8(e, 0x66);
    em_rr(e, 0, 0x8b, EM_RBP, w->x);
    return true;
}

bool bt_seg_push_return(struct bt_work *w, const struct vmci_insn *in, uint64_t next)
{
    struct em_addr a;

    if (!bt_seg_stacked(w, in))
        return false;
    check_stack(w, -(int32_t)in->opsize, BT_ACC_WRITE, in->opsize, &a);
    store_imm(w, in, &a, next);
    move_sp(w, EM_RSP, -(int32_t)in->opsize);
    return true;
}

bool bt_seg_return(struct bt_work *w, const struct vmci_insn *in)
{
    struct em_addr a;

    if (!bt_seg_stacked(w, in))
        return false;
    check_stack(w, 0, BT_ACC_READ, in->opsize, &a);
    bt_seg_fetch(w, in, w->x, &a);
    return true;
}

void bt_seg_returned(struct bt_work *w, const struct vmci_insn *in)
{
    move_sp(w, EM_RSP, in->opsize + (in->nopnd > 0 ? (int32_t)(uint16_t)in->imm : 0));
}

/* ---- others ---------------------------------------------------------------------------------- */

bool bt_seg_lea(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    unsigned reg = in->opnd[0].reg;
    struct em_addr at = {in->base < 16 ? in->base : EM_NONE, in->index < 16 ? in->index : EM_NONE,
                         in->scale, (int32_t)in->disp};

    if (in->addrsize > 4)
        return false;
    op_rm(e, in->opsize, 0x8d, reg, &at);
    if (in->addrsize == 2 && in->opsize == 4)
        em_zero16(e, reg, reg);
    return true;
}

/*
 * MOV to DS, ES, FS or GS in real mode: limit and type stay, unless there was a null selector.
 */
bool bt_seg_load(struct bt_work *w, const struct vmci_insn *in)
{
    struct emit *e = &w->e;
    unsigned seg = in->opnd[0].reg;
    uint32_t at = GS_CPU(seg) + (uint32_t)(seg * sizeof(struct vmc_segment));

    if (!w->t->ctx.real || in->opnd[0].kind != VMCI_OPND_SREG ||
        in->opnd[1].kind != VMCI_OPND_GPR || seg == VMC_SS || seg == VMC_CS || seg >= BT_VIEWS)
        return false;
    bt_unless_zero(w, 4, GS_BT(x87_mark)); /* what FDS is depends on the selector until now */
    bt_rcx_away(w);
    em_load_gs(e, EM_RCX, view_at(seg, offsetof(struct bt_view, rd)));
    bt_unless_rcx(w);
    bt_rcx_back(w);
    em_zero16(e, w->x, in->opnd[1].reg);
    em8(e, 0x66);
    em_rgs(e, 0, 0x89, w->x, at + (uint32_t)offsetof(struct vmc_segment, selector));
    em_lea(e, EM_W, w->x, EM_NONE, w->x, 3, 0);
    em_lea(e, EM_W, w->x, w->x, w->x, 0, 0);
    em_store_gs(e, w->x, at + (uint32_t)offsetof(struct vmc_segment, base));
    em_store_gs(e, w->x, view_at(seg, offsetof(struct bt_view, base)));
    return true;
}
