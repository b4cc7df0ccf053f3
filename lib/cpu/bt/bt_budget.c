/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Counting instructions. A block charges the budget once, for all its instructions: in front of
 * the first one that overwrites the flags, where SUB costs least, else in front of the first branch
 * or at its end. It leaves when its part of the budget is used up. So no part is ever further below
 * 0 than the instructions of a block, whatever is given back to others: the sum is the exact count,
 * and execution stops in time.
 *
 * The second copy of a loop has its part of the budget in a register, if it can have one; wherever
 * control leaves it the register is stored first (bt_count_keep).
 */
#include "cpu/bt/bt_work.h"

static bool in_register(const struct bt_work *w)
{
    return w->loop && w->count != EM_NONE;
}

unsigned bt_count_ahead(const struct bt_work *w)
{
    if (w->cold_phase)
        return w->ahead;
    if (!w->loop)
        return 0;
    if (w->top)
        return (w->twice && !w->second ? w->n : 0) + (w->counted ? 0 : w->n);
    return w->twice && w->counted != w->second ? w->n : 0;
}

unsigned bt_count_charged(const struct bt_work *w)
{
    return w->loop && w->twice ? 2 * w->n : w->n;
}

/* Was this round charged by what is in front of it? */
static bool was_charged(const struct bt_work *w)
{
    return w->second || (w->loop && w->top);
}

void bt_count_keep(struct bt_work *w)
{
    struct emit *e = &w->e;

    if (!in_register(w))
        return;
    if (w->strip) { /* what was taken and not used is given back */
        em_load_gs(e, w->s, GS_BUDGET(w, 0));
        em_lea(e, EM_W, w->s, w->s, w->count, 0, (int32_t)bt_count_ahead(w));
        em_store_gs(e, w->s, GS_BUDGET(w, 0));
    } else {
        em_store_gs(e, w->count, GS_BUDGET(w, 0));
    }
}

/* Add to the part of the budget. Flags stay; r is lost. */
static void add(struct bt_work *w, unsigned r, int32_t n)
{
    struct emit *e = &w->e;

    em_load_gs(e, r, GS_BUDGET(w, 0));
    em_lea(e, EM_W, r, r, EM_NONE, 0, n);
    em_store_gs(e, r, GS_BUDGET(w, 0));
}

/* By an instruction that loses the flags. */
static void charge(struct bt_work *w)
{
    struct emit *e = &w->e;

    unsigned n = bt_count_charged(w);
    unsigned op = n <= INT8_MAX ? 0x83 : 0x81;

    if (in_register(w)) { /* sub reg, n */
        em_rex(e, EM_W, 0, w->count);
        em8(e, op);
        em8(e, 0xe8 | (w->count & 7));
    } else { /* sub qword gs:[budget], n */
        em8(e, 0x65);
        em8(e, 0x48);
        em8(e, op);
        em8(e, 0x2c);
        em8(e, 0x25);
        em32(e, GS_BUDGET(w, 0));
    }
    if (op == 0x83)
        em8(e, n);
    else
        em32(e, n);
    w->counted = true;
}

/* The budget is used up in front of instruction w->i. */
static void end_at(const struct bt_work *w, struct bt_cold *c)
{
    c->insn = (uint16_t)w->i;
    c->target = w->i == 0 ? w->t->la : bt_after(w, w->i - 1);
}

void bt_count_before(struct bt_work *w, enum bt_fluse use)
{
    w->budget_cold = -1;
    if (use != BT_FU_WRITE || w->counted)
        return;
    if (was_charged(w)) {
        w->counted = true;
        return;
    }
    charge(w);
    struct bt_cold *c = bt_cold(w, BT_COLD_BUDGET, em_jump(&w->e, CC_S));
    if (c == NULL)
        return;
    c->target = bt_after(w, w->i);
    c->insn = (uint16_t)(w->i + 1);
    w->budget_cold = (int)(c - w->cold);
}

/* The cold code leaves behind the instruction, when the flags are the guest's again. */
void bt_count_after(struct bt_work *w, size_t at)
{
    if (w->budget_cold < 0)
        return;
    w->cold[w->budget_cold].copy = (uint32_t)at;
    w->cold[w->budget_cold].copy_len = (uint8_t)(w->e.len - at);
    w->budget_cold = -1;
}

void bt_count_top(struct bt_work *w)
{
    charge(w);
    w->counted = false;
    w->i = 0;
    (void)bt_cold(w, BT_COLD_STRIP, em_jump(&w->e, CC_S));
}

/* gs:[disp] += n, by way of RCX. */
static void add_kept(struct emit *e, uint32_t disp, int32_t n)
{
    em_load_gs(e, EM_RCX, disp);
    em_lea(e, EM_W, EM_RCX, EM_RCX, EM_NONE, 0, n);
    em_store_gs(e, EM_RCX, disp);
}

/* op gs:[disp], n; w: of 64 bits */
static void op_gs_imm(struct emit *e, unsigned w, unsigned ext, uint32_t disp, uint32_t n)
{
    em8(e, 0x65);
    em_rex(e, w, 0, 0);
    em8(e, 0x81);
    em8(e, 0x04 | ext << 3);
    em8(e, 0x25);
    em32(e, disp);
    em32(e, n);
}

void bt_count_refill(struct bt_work *w, const uint8_t *back, bool rcx)
{
    struct emit *e = &w->e;
    uint32_t part = GS_BUDGET(w, 0);
    size_t none, asked;

    if (rcx) {
        add_kept(e, GS_BT(refills), -1);
        em_pext_gs(e, EM_RCX, EM_RCX, GS_BT(sign_mask));
        none = em_jump_unless_rcxz(e);
        em_rgs(e, 0, 0x8b, EM_RCX, GS_CPU(request)); /* mov ecx, request */
        asked = em_jump_unless_rcxz(e);
        add_kept(e, GS_BT(slice_end), BT_PART);
        if (in_register(w))
            em_lea(e, EM_W, w->count, w->count, EM_NONE, 0, BT_PART);
        else
            add_kept(e, part, BT_PART);
    } else {
        op_gs_imm(e, EM_W, 5, GS_BT(refills), 1); /* sub */
        none = em_jump(e, CC_S);
        op_gs_imm(e, 0, 7, GS_CPU(request), 0); /* cmp */
        asked = em_jump(e, CC_NE);
        op_gs_imm(e, EM_W, 0, GS_BT(slice_end), BT_PART); /* add */
        if (in_register(w) && !w->strip)
            em_lea(e, EM_W, w->count, w->count, EM_NONE, 0, BT_PART);
        else
            op_gs_imm(e, EM_W, 0, part, BT_PART);
    }
    em_jump_to(e, EM_JMP, back);
    em_patch_here(e, none);
    em_patch_here(e, asked);
}

void bt_count_short(struct bt_work *w, const uint8_t *back)
{
    op_gs_imm(&w->e, EM_W, 7, GS_BUDGET(w, 0), w->n * (w->twice ? 2 : 1)); /* cmp */
    size_t enough = em_jump(&w->e, CC_NS);
    bt_count_refill(w, back, false);
    em_patch_here(&w->e, enough);
}

/* The second copy of a loop may go on here. */
static void counted_here(struct bt_work *w)
{
    if (w->loop)
        return;
    w->counted_at = w->e.len;
    w->counted_owed = w->owed;
}

void bt_count_end(struct bt_work *w)
{
    struct emit *e = &w->e;
    unsigned r = EM_RCX;

    if (w->counted)
        return;
    w->counted = true;
    if (was_charged(w))
        return;
    if (w->lazy != 0) {
        w->lost = w->lazy;
        charge(w);
        struct bt_cold *c = bt_cold(w, BT_COLD_BUDGET, em_jump(e, CC_S));
        if (c != NULL)
            end_at(w, c);
        counted_here(w);
        return;
    }
    em_mov(e, w->x, EM_RCX);
    if (in_register(w)) {
        r = w->count;
        em_lea(e, EM_W, r, r, EM_NONE, 0, -(int32_t)bt_count_charged(w));
    } else {
        add(w, r, -(int32_t)w->n);
    }
    em_pext_gs(e, EM_RCX, r, GS_BT(sign_mask));
    struct bt_cold *c = bt_cold(w, BT_COLD_BUDGET, em_jump_unless_rcxz(e));
    em_mov(e, EM_RCX, w->x);
    counted_here(w);
    if (c == NULL)
        return;
    c->rcx = BT_RCX_X;
    end_at(w, c);
}

void bt_count_back(struct bt_work *w, unsigned n)
{
    struct emit *e = &w->e;
    int32_t by = (int32_t)(w->n - n);

    if (in_register(w)) {
        em_lea(e, EM_W, w->count, w->count, EM_NONE, 0, by);
        return;
    }
    /* To another part than the trace counts: neither waits for the other. */
    em_load_gs(e, w->s, GS_BUDGET(w, BT_BUDGETS / 2));
    em_lea(e, EM_W, w->s, w->s, EM_NONE, 0, by);
    em_store_gs(e, w->s, GS_BUDGET(w, BT_BUDGETS / 2));
}

void bt_count_some(struct bt_work *w, unsigned n, uint64_t la, uint16_t set)
{
    struct emit *e = &w->e;

    add(w, w->s, -(int32_t)n);
    em_mov(e, w->x, EM_RCX);
    em_pext_gs(e, EM_RCX, w->s, GS_BT(sign_mask));
    size_t spent = em_jump_unless_rcxz(e);
    size_t over = em_jump(e, EM_JMP);
    em_patch_here(e, spent);
    em_mov(e, EM_RCX, w->x);
    bt_exchange(e, set, BT_CANON);
    bt_mov_la(w, 11, la);
    em_store_gs(e, 11, GS_CPU(rip));
    em_jump_to(e, EM_JMP, w->sc->bt.leave_budget);
    em_patch_here(e, over);
    em_mov(e, EM_RCX, w->x);
}

void bt_count_late(struct bt_work *w)
{
    add(w, w->s, -(int32_t)w->n);
}
