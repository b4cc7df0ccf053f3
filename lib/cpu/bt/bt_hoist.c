/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Checks in front of loops. Where the address of a group moves by a constant each time round, the
 * group is checked once when the second copy of the loop is entered, and the rounds are counted for
 * which it stays in its page: the least of all groups, and of the budget. As the copy counts its
 * instructions anyway, that costs nothing in the loop. When the count is used up, the rest of that
 * round is done by the first copy, whose end leads here again.
 *
 * The flags may be live where the copy is entered: unless they can be made again, everything here
 * uses instructions that leave them alone.
 */
#include "cpu/bt/bt_work.h"

/* Addresses that move faster than this would be checked again too soon. */
#define STRIDE_MAX 128

/* What the trace does with a register. */
struct motion {
    bool known;   /* adds step all in all, and nothing else */
    bool moves;   /* ... though that may be 0 */
    int32_t step; /* bytes */
};

static void find_motion(struct bt_work *w, struct motion m[EM_NONE + 1])
{
    unsigned reg;
    int64_t by;

    for (unsigned r = 0; r <= EM_NONE; r++)
        m[r] = (struct motion){.known = true};
    for (unsigned i = 0; i < w->n; i++) {
        const struct vmci_insn *in = bt_step(w, i);
        uint32_t regs = bt_regs_written(w, in);
        if (bt_moves(in, &reg, &by) && by > -BT_GROUP_SPAN && by < BT_GROUP_SPAN) {
            m[reg].step += (int32_t)by;
            m[reg].moves = true;
            continue;
        }
        for (unsigned r = 0; r < 16; r++)
            if ((regs & 1u << r) != 0)
                m[r].known = false;
    }
}

void bt_hoist_find(struct bt_work *w)
{
    struct motion m[EM_NONE + 1];

    find_motion(w, m);
    for (unsigned k = 0; k < w->group_count; k++) {
        struct bt_group *g = &w->group[k];
        const struct motion *base = &m[g->reg], *index = &m[g->index];
        g->hoist = BT_HOIST_NOT;
        g->stride = base->step + index->step * (1 << g->scale);
        g->fixed = base->known && !base->moves && g->reg != EM_NONE && g->index != EM_NONE;
        g->steady = !g->later && base->known && index->known && g->stride % g->align == 0;
        if (g->later || !base->known || !index->known || g->stride > STRIDE_MAX ||
            g->stride < -STRIDE_MAX || g->stride % g->align != 0)
            continue;
        g->hoist = g->index == EM_NONE ? BT_HOIST_PLAIN
                   : !base->moves      ? BT_HOIST_BASE
                   : !index->moves     ? BT_HOIST_INDEX
                                       : BT_HOIST_PLAIN;
    }
}

/* ---- entering -------------------------------------------------------------------------------- */

/* to = a < b ? a : b, signed; a is lost, and RCX, which is away, unless the flags may be. */
static void least(struct bt_work *w, unsigned to, unsigned a, unsigned b)
{
    struct emit *e = &w->e;

    if (bt_loop_lazy(w)) {
        em_rr(e, EM_W, 0x3b, a, b); /* cmp a, b; cmovg a, b */
        em_rex(e, EM_W, a, b);
        em8(e, 0x0f);
        em8(e, 0x4f);
        em8(e, 0xc0 | (a & 7) << 3 | (b & 7));
        if (to != a)
            em_mov(e, to, a);
        return;
    }
    em_mov(e, EM_RCX, b); /* RCX = a - b; a = all ones if that is negative, else 0 */
    em_not(e, EM_RCX);
    em_lea(e, EM_W, EM_RCX, EM_RCX, a, 0, 1);
    em_pext_gs(e, a, EM_RCX, GS_BT(sign_mask));
    em_lea(e, EM_W, a, a, EM_NONE, 0, -1);
    em_not(e, a);
    em_pext(e, EM_RCX, EM_RCX, a);
    em_lea(e, EM_W, to, b, EM_RCX, 0, 0);
}

/* x, an offset in the page, to the rounds that stay there behind the first, in register to. */
static void rounds(struct bt_work *w, const struct bt_group *g, unsigned to)
{
    struct emit *e = &w->e;
    unsigned far = (unsigned)(g->stride < 0 ? -g->stride : g->stride);
    unsigned shift = 0;

    unsigned from = w->x;

    if (g->stride > 0) { /* the room behind the last byte */
        em_not(e, w->x);
        em_lea(e, EM_W, to, w->x, EM_NONE, 0, (int32_t)VMC_PAGE_SIZE - (g->hi - g->lo) + 1);
        from = to;
    }
    while (1u << shift < far) /* divided by the stride or somewhat more */
        shift++;
    if (shift == 0 && from == to)
        return;
    em_rorx(e, to, from, shift);
    if (shift == 0)
        return;
    em_rex(e, 0, to, to); /* movzx to, low 16 bits of to */
    em8(e, 0x0f);
    em8(e, 0xb7);
    em8(e, 0xc0 | (to & 7) << 3 | (to & 7));
}

/* The first byte's place in the page to x, the addend to the group's register; where the group is
   not in one page of the TLB, the copy is not entered. RCX is away behind that, unless lazy. */
static void check(struct bt_work *w, const struct bt_group *g)
{
    struct emit *e = &w->e;
    uint32_t table = GS_CPU(tlb) + (uint32_t)(w->t->mode * sizeof(struct vmci_tlb));
    struct em_addr at = bt_group_addr(g, g->lo);
    int32_t last = bt_group_last(g) - g->lo;
    unsigned from = bt_loop_place(w, &at);

    em_pext_gs(e, w->s, from, GS_BT(tlb_mask));
    em_load_gs_x8(e, g->host, w->s,
                  table + (uint32_t)(g->write ? offsetof(struct vmci_tlb, wr)
                                              : offsetof(struct vmci_tlb, rd)));
    em_lea(e, EM_W, w->x, from, g->host, 0, 0);
    em_load_gs_x8(e, g->host, w->s, table + (uint32_t)offsetof(struct vmci_tlb, addend));
    if (bt_loop_lazy(w)) {
        unsigned r = w->x;
        if (last != 0)
            em_lea(e, EM_W, r = w->s, w->x, EM_NONE, 0, last);
        em_test_imm(e, r, bt_group_mask(g));
        bt_loop_stay(w, em_jump(e, CC_NE), BT_RCX_HOME);
        return;
    }
    bt_rcx_away(w);
    em_lea(e, EM_W, EM_RCX, w->x, EM_NONE, 0, last);
    em_pext_gs(e, EM_RCX, EM_RCX, bt_group_gs_mask(g));
    bt_loop_stay(w, em_jump_unless_rcxz(e), BT_RCX_K);
}

/* host += base, or scaled index */
static void bias(struct bt_work *w, const struct bt_group *g)
{
    if (g->hoist == BT_HOIST_BASE && g->reg != EM_NONE)
        em_lea(&w->e, EM_W, g->host, g->reg, g->host, 0, 0); /* RSP is no index */
    else if (g->hoist == BT_HOIST_INDEX)
        em_lea(&w->e, EM_W, g->host, g->host, g->index, g->scale, 0);
}

/* s = count * n */
static void times(struct emit *e, unsigned s, unsigned count, unsigned n)
{
    unsigned bit = 31 - (unsigned)__builtin_clz(n);

    em_mov(e, s, count);
    while (bit-- > 0)
        if ((n >> bit & 1) != 0)
            em_lea(e, EM_W, s, count, s, 1, 0);
        else
            em_lea(e, EM_W, s, s, s, 0, 0);
}

/* The count of a copy that charges its rounds before they begin, the first one included. The copy
   is not entered unless it has what is charged at once. */
static void take_rounds(struct bt_work *w, bool bounded, size_t begin)
{
    struct emit *e = &w->e;

    if (bounded) {
        em_load_gs(e, w->x, GS_BUDGET(w, 0));
        em_lea(e, EM_W, w->count, w->count, EM_NONE, 0, 1);
        em_imul_imm(e, w->count, w->n);
        least(w, w->count, w->count, w->x);
    } else {
        em_load_gs(e, w->count, GS_BUDGET(w, 0));
    }
    em_ri(e, EM_W, 7, w->count, w->n * (w->twice ? 2 : 1)); /* cmp */
    struct bt_cold *c = bt_cold(w, BT_COLD_SHORT, em_jump(e, CC_S));
    if (c == NULL)
        return;
    c->lazy = w->around;
    c->back = begin;
    em_rgs(e, EM_W, 0x29, w->count, GS_BUDGET(w, 0)); /* sub */
}

/* The count: instructions of the rounds, if they are bounded, and not more than the budget has.
   Where it has none left the first copy leaves. */
static void take_budget(struct bt_work *w, bool bounded, size_t begin)
{
    struct emit *e = &w->e;
    bool lazy = bt_loop_lazy(w);

    if (w->top) {
        take_rounds(w, bounded, begin);
        return;
    }
    em_load_gs(e, w->x, GS_BUDGET(w, 0));
    if (lazy) {
        em_rr(e, EM_W, 0x85, w->x, w->x); /* test x, x */
        bt_loop_stay(w, em_jump(e, CC_S), BT_RCX_HOME);
        if (bounded) {
            em_imul_imm(e, w->count, w->n);
            least(w, w->count, w->count, w->x);
            em_rgs(e, EM_W, 0x29, w->count, GS_BUDGET(w, 0)); /* sub */
            return;
        }
    } else {
        bt_rcx_away(w);
        em_pext_gs(e, EM_RCX, w->x, GS_BT(sign_mask));
        bt_loop_stay(w, em_jump_unless_rcxz(e), BT_RCX_K);
    }
    if (bounded) {
        times(e, w->s, w->count, w->n);
        least(w, w->count, w->s, w->x);
        em_mov(e, w->s, w->count); /* x -= count */
        em_not(e, w->s);
        em_lea(e, EM_W, w->x, w->x, w->s, 0, 1);
        em_store_gs(e, w->x, GS_BUDGET(w, 0));
    } else {
        em_mov(e, w->count, w->x);
        em_store_gs_imm(e, GS_BUDGET(w, 0), 0);
    }
    if (!lazy)
        bt_rcx_back(w);
}

void bt_hoist_enter(struct bt_work *w, bool again)
{
    bool bounded = false;
    size_t begin = w->e.len;

    for (unsigned k = 0; k < w->group_count; k++) {
        const struct bt_group *g = &w->group[k];
        if (g->hoist == BT_HOIST_NOT || (again && g->stride == 0))
            continue;
        check(w, g);
        if (g->stride != 0) {
            rounds(w, g, bounded ? w->x : w->count);
            if (bounded)
                least(w, w->count, w->x, w->count);
            bounded = true;
        }
        if (!bt_loop_lazy(w))
            bt_rcx_back(w);
        bias(w, g);
    }
    take_budget(w, bounded, begin);
}

void bt_hoist_leave(struct bt_work *w)
{
    struct emit *e = &w->e;

    for (unsigned k = 0; k < w->group_count; k++) {
        const struct bt_group *g = &w->group[k];
        bool base = g->biased || (g->hoist == BT_HOIST_BASE && g->reg != EM_NONE);
        if ((!g->kept && !g->mem) || (!base && g->hoist != BT_HOIST_INDEX))
            continue;
        if (base) /* host -= base */
            em_mov(e, w->s, g->reg);
        else
            em_lea(e, EM_W, w->s, EM_NONE, g->index, g->scale, 0);
        em_not(e, w->s);
        em_lea(e, EM_W, g->host, g->host, w->s, 0, 1);
    }
}
