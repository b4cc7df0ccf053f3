/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Loops: a trace that jumps back to its beginning is translated twice. The second copy, which the
 * first one enters when it comes to its end, keeps in registers the page that each group of
 * accesses touched last, as its TLB tag and its addend: while a group stays in its page its check
 * is an addition and a comparison. A new page is looked up in cold code.
 *
 * The registers always hold a valid pair: the copy is entered only when the TLB has a page for each
 * group, and whatever calls for help goes on in the first copy. So nothing can have dropped an
 * entry of the TLB since its tag was loaded.
 */
#include "cpu/bt/bt_work.h"

/* Processors fetch decoded instructions by lines of 64 bytes of code: a short loop is in one. */
#define LOOP_ALIGN 64u
/* Instructions of a loop that has two rounds in its second copy. */
#define TWICE_MAX 16u

static unsigned take(struct bt_work *w, uint32_t *used)
{
    unsigned r = bt_unused(w, *used);

    if (r != EM_NONE) {
        *used |= 1u << r;
        w->set |= (uint16_t)(1u << r);
    }
    return r;
}

/* Registers for the groups that are checked in front of the loop. */
static void hoist_groups(struct bt_work *w, uint32_t *used)
{
    w->strip = false;
    bt_hoist_find(w);
    for (unsigned k = 0; k < w->group_count; k++) {
        struct bt_group *g = &w->group[k];
        if (w->count == EM_NONE)
            g->hoist = BT_HOIST_NOT;
        if (g->hoist != BT_HOIST_NOT && g->host == EM_NONE)
            g->host = (uint8_t)take(w, used);
        if (g->host == EM_NONE)
            g->hoist = BT_HOIST_NOT;
        w->strip = w->strip || g->hoist != BT_HOIST_NOT;
    }
}

/* The other ones get two each; false: none got any. */
static bool pair_groups(struct bt_work *w, uint32_t *regs)
{
    uint32_t used = *regs;
    bool any = false;

    for (unsigned k = 0; k < w->group_count; k++) {
        struct bt_group *g = &w->group[k];
        uint32_t before = used;
        uint16_t set = w->set;
        if (g->hoist != BT_HOIST_NOT)
            continue;
        unsigned tag = take(w, &used);
        unsigned host = g->host != EM_NONE ? g->host : take(w, &used);
        if (tag == EM_NONE || host == EM_NONE) {
            used = before;
            w->set = set;
            continue;
        }
        g->tag = (uint8_t)tag;
        g->host = (uint8_t)host;
        g->biased = g->fixed;
        any = true;
    }
    *regs = used;
    return any;
}

static void load_pair(struct bt_work *w, const struct bt_group *g, unsigned index)
{
    uint32_t table = GS_CPU(tlb) + (uint32_t)(w->t->mode * sizeof(struct vmci_tlb));

    em_load_gs_x8(&w->e, g->tag, index,
                  table + (uint32_t)(g->write ? offsetof(struct vmci_tlb, wr)
                                              : offsetof(struct vmci_tlb, rd)));
    em_load_gs_x8(&w->e, g->host, index, table + (uint32_t)offsetof(struct vmci_tlb, addend));
}

/* Add the base to both, so that checks and accesses need not. away: RCX is; s is lost. */
static void bias_pair(struct bt_work *w, const struct bt_group *g, bool away)
{
    unsigned base = g->reg;

    if (!g->biased)
        return;
    if (away && base == EM_RCX) {
        base = w->k != EM_NONE ? w->k : w->s;
        if (w->k == EM_NONE)
            em_load_gs(&w->e, base, GS_GPR(EM_RCX));
    }
    em_lea(&w->e, EM_W, g->tag, base, g->tag, 0, 0); /* RSP is no index */
    em_lea(&w->e, EM_W, g->host, base, g->host, 0, 0);
}

void bt_loop_stay(struct bt_work *w, size_t site, enum bt_rcx rcx)
{
    struct bt_cold *c = bt_cold(w, BT_COLD_STAY, site);

    if (c == NULL)
        return;
    c->rcx = (uint8_t)rcx;
    c->lazy = w->around;
}

unsigned bt_loop_place(struct bt_work *w, const struct em_addr *at)
{
    if (at->disp == 0 && at->index == EM_NONE && at->base != EM_RSP && at->base != EM_NONE)
        return at->base;
    em_rm(&w->e, EM_W, 0x8d, w->x, at); /* lea */
    return w->x;
}

/* Load every pair, with the page of the group's first byte as it is now, or nearly so: registers
   may change before the access. Where one does not fit, go on in the first copy. */
static void enter(struct bt_work *w)
{
    struct emit *e = &w->e;

    bt_exchange(e, w->t->set, w->set);
    for (unsigned k = 0; k < w->group_count; k++) {
        const struct bt_group *g = &w->group[k];
        if (g->tag == EM_NONE)
            continue;
        struct em_addr at = bt_group_addr(g, g->lo);
        unsigned from = bt_loop_place(w, &at);
        em_pext_gs(e, w->s, from, GS_BT(tlb_mask));
        load_pair(w, g, w->s);
        if (bt_loop_lazy(w)) {
            em_lea(e, EM_W, w->s, from, g->tag, 0, bt_group_last(g) - g->lo);
            em_test_imm(e, w->s, bt_group_mask(g));
            bt_loop_stay(w, em_jump(e, CC_NE), BT_RCX_HOME);
        } else {
            bt_rcx_away(w);
            em_lea(e, EM_W, EM_RCX, from, g->tag, 0, bt_group_last(g) - g->lo);
            em_pext_gs(e, EM_RCX, EM_RCX, bt_group_gs_mask(g));
            bt_loop_stay(w, em_jump_unless_rcxz(e), BT_RCX_K);
            bt_rcx_back(w);
        }
        bias_pair(w, g, false);
    }
    if (w->strip)
        bt_hoist_enter(w, false);
    else if (w->count != EM_NONE)
        em_load_gs(e, w->count, GS_BUDGET(w, 0));
}

bool bt_loop_likely(const struct bt_work *w)
{
    const struct bt_step *last = &w->step[w->n - 1];
    uint64_t next = last->la + last->in->next;
    uint64_t top = w->step[0].la;

    if (w->n > LOOP_MAX || w->few_rounds)
        return false;
    return bt_after(w, w->n - 1) == top || bt_target(w, last->in, next) == top;
}

/* Is the loop run often enough each time, and wholly translated? */
static bool worth_it(const struct bt_work *w)
{
    if (w->loop_site == 0 || w->n > LOOP_MAX || w->few_rounds || w->sharing)
        return false;
    for (unsigned i = 0; i < w->n; i++)
        if (bt_regs_written(w, w->step[i].in) == 0xffff)
            return false;
    return true;
}

/* Short ones have two rounds in the second copy, which counts them together. */
static bool twice(const struct bt_work *w)
{
    const struct bt_step *last = &w->step[w->n - 1];

    return w->strip && w->n <= TWICE_MAX && last->in->op == VMCI_OP_JCC &&
           bt_target(w, last->in, last->la + last->in->next) == w->t->la;
}

/* What a group touches in two rounds: its first byte, from where the first one has it; how much. */
static int32_t wide_lo(const struct bt_group *g)
{
    return g->lo + VMCI_MIN(g->stride, 0);
}

static int32_t wide_bytes(const struct bt_group *g)
{
    return g->hi - g->lo + (g->stride < 0 ? -g->stride : g->stride);
}

/* Which groups can be checked once for both rounds? */
static bool find_pairs(struct bt_work *w)
{
    bool any = false;

    for (unsigned k = 0; k < w->group_count; k++) {
        struct bt_group *g = &w->group[k];
        g->both = false;
        g->pair = g->tag != EM_NONE && g->steady && g->stride <= BT_GROUP_SPAN &&
                  g->stride >= -BT_GROUP_SPAN && wide_bytes(g) <= BT_GROUP_SPAN;
        any = any || g->pair;
    }
    return any;
}

static void begin_round(struct bt_work *w)
{
    w->counted = false;
    w->lost = w->lost_top;
    for (unsigned k = 0; k < w->group_count; k++)
        w->group[k].checked = w->second && w->group[k].both;
}

bool bt_loop_again(struct bt_work *w)
{
    if (!w->twice || w->failed)
        return false;
    w->second = true;
    begin_round(w);
    return true;
}

bool bt_loop_apart(struct bt_work *w)
{
    if (!w->wide || w->failed)
        return false;
    w->wide = w->second = false;
    for (unsigned k = 0; k < w->group_count; k++)
        w->group[k].both = false;
    begin_round(w);
    return true;
}

bool bt_loop(struct bt_work *w)
{
    struct emit *e = &w->e;

    w->set = w->t->set;
    if (!worth_it(w))
        return false;
    uint32_t used = w->used;
    w->count = take(w, &used);
    hoist_groups(w, &used);
    if (!pair_groups(w, &used) && w->count == EM_NONE) {
        w->set = w->t->set;
        return false;
    }
    bt_flags_plan_around(w);
    if (w->k == EM_NONE && (!bt_loop_lazy(w) || bt_keeps_rcx(w)))
        w->copy_k[1] = take(w, &used);
    em_patch_here(e, w->loop_site);
    bt_piece(w, VMC_CODE_LOOP_ENTRY, w->n);
    w->i = 0;
    w->twice = twice(w);
    w->wide = w->twice && find_pairs(w);
    w->top = w->strip && bt_loop_lazy(w);
    enter(w);
    w->k = w->copy_k[1];
    w->loop = true;
    em_align(e, LOOP_ALIGN);
    w->loop_top = e->len;
    w->counted = false;
    if (w->top)
        bt_count_top(w);
    begin_round(w);
    return true;
}

/* Once more in front of the copy, with its registers: what is left of the count is given back. */
void bt_loop_strip(struct bt_work *w, const struct bt_cold *c)
{
    struct emit *e = &w->e;

    w->set = c->set;
    w->lost = c->lazy;
    em_lea(e, EM_W, w->count, w->count, EM_NONE, 0, (int32_t)bt_count_charged(w));
    em_rgs(e, EM_W, 0x01, w->count, GS_BUDGET(w, 0)); /* add */
    bt_hoist_enter(w, true);
    em_jump_to(e, EM_JMP, e->rx + w->loop_top);
}

/* ---- checks in the second copy --------------------------------------------------------------- */

static void refill(struct bt_work *w, struct bt_group *g, const struct bt_ref *r, size_t site,
                   enum bt_rcx rcx)
{
    struct bt_cold *c = bt_cold(w, BT_COLD_REFILL, site);

    if (c == NULL)
        return;
    c->rcx = (uint8_t)rcx;
    c->lazy = w->lazy;
    c->group = g;
    c->ref = *r;
    c->wide = g->both;
    c->back = w->e.len;
}

/* cmp to, where the bytes may begin at most to end in the page */
static void compare_last(struct bt_work *w, unsigned to, int32_t bytes)
{
    em_ri(&w->e, EM_W, 7, to, (uint32_t)((int32_t)VMC_PAGE_SIZE - bytes));
}

/*
 * The group's first byte must not lie in front of the page, nor its last byte behind it: no index
 * has chosen the tag. to = address + tag, the offset of the first byte, was computed.
 */
static void check_lazy(struct bt_work *w, struct bt_group *g, const struct bt_ref *r, unsigned to)
{
    struct emit *e = &w->e;

    w->lost = w->lazy;
    if (g->both) { /* it stays aligned as it was where the copy was entered */
        compare_last(w, to, wide_bytes(g));
        refill(w, g, r, em_jump(e, CC_A), BT_RCX_HOME);
    } else if (g->hi - g->lo > g->align || g->align == 1) {
        compare_last(w, to, g->hi - g->lo);
        refill(w, g, r, em_jump(e, CC_A), BT_RCX_HOME);
        if (g->align > 1 && !g->steady) {
            em_test_imm(e, to, g->align - 1u);
            refill(w, g, r, em_jump(e, CC_NE), BT_RCX_HOME);
        }
    } else {
        em_test_imm(e, to, bt_group_mask(g));
        refill(w, g, r, em_jump(e, CC_NE), BT_RCX_HOME);
    }
}

/* The offset of the first byte is in RCX; s is lost. */
static size_t check_exact(struct bt_work *w, const struct bt_group *g)
{
    struct emit *e = &w->e;

    if (g->hi - g->lo > g->align) {
        em_lea(e, EM_W, w->s, EM_RCX, EM_NONE, 0, g->hi - g->lo - 1);
        em_pext_gs(e, w->s, w->s, GS_BT(page_mask));
        em_pext_gs(e, EM_RCX, EM_RCX, bt_group_gs_mask(g));
        em_lea(e, EM_W, EM_RCX, EM_RCX, w->s, 0, 0); /* both are 0 */
    } else {
        em_pext_gs(e, EM_RCX, EM_RCX, bt_group_gs_mask(g));
    }
    return em_jump_unless_rcxz(e);
}

void bt_loop_check(struct bt_work *w, struct bt_group *g, const struct bt_ref *r)
{
    struct emit *e = &w->e;
    bool plain = g->index == EM_NONE;

    g->both = w->wide && g->pair && w->lazy != 0;
    struct em_addr at = bt_ref_addr(r, (g->both ? wide_lo(g) : g->lo) - r->off);
    if (g->biased)
        at.base = g->tag;
    if (w->lazy != 0) {
        if (!plain)
            em_rm(e, EM_W, 0x8d, w->x, &at); /* lea */
        if (!g->biased)
            em_lea(e, EM_W, w->x, plain ? r->reg : w->x, g->tag, 0, plain ? at.disp : 0);
        check_lazy(w, g, r, w->x);
    } else if (!plain) {
        bt_rcx_away(w);
        em_rm(e, EM_W, 0x8d, EM_RCX, &at);
        if (!g->biased)
            em_lea(e, EM_W, EM_RCX, EM_RCX, g->tag, 0, 0);
        refill(w, g, r, check_exact(w, g), BT_RCX_K);
        bt_rcx_back(w);
    } else {
        em_mov(e, w->x, EM_RCX);
        em_lea(e, EM_W, EM_RCX, r->reg == EM_RCX ? w->x : r->reg, g->tag, 0, at.disp);
        refill(w, g, r, check_exact(w, g), BT_RCX_X);
        em_mov(e, EM_RCX, w->x);
    }
    if (!w->second)
        g->behind = e->len;
}

/* Behind a jump: back to the hot code if the flags say "equal", or RCX is 0. */
static void back_if(struct bt_work *w, const struct bt_cold *c)
{
    struct emit *e = &w->e;

    if (c->lazy != 0) {
        em_jump_to(e, CC_E, e->rx + c->back);
        return;
    }
    em8(e, 0xe3); /* jrcxz over a jump of 2 bytes */
    em8(e, 2);
    em8(e, 0xeb); /* jmp over one of 5 */
    em8(e, 5);
    em_jump_to(e, EM_JMP, e->rx + c->back);
}

void bt_loop_refill(struct bt_work *w, const struct bt_cold *c)
{
    struct emit *e = &w->e;
    const struct bt_group *g = c->group;
    struct em_addr at = bt_ref_addr(&c->ref, g->lo - c->ref.off);
    unsigned to = c->lazy == 0 ? EM_RCX : w->x;

    if (c->rcx == BT_RCX_K) /* RCX may be part of the address; it is away all the same */
        bt_rcx_back(w);
    else if (c->rcx == BT_RCX_X && at.base == EM_RCX)
        at.base = (uint8_t)w->x;
    em_rm(e, EM_W, 0x8d, w->s, &at); /* lea */
    em_lea(e, EM_W, to, w->s, EM_NONE, 0, bt_group_last(g) - g->lo);
    em_pext_gs(e, w->s, w->s, GS_BT(tlb_mask));
    load_pair(w, g, w->s);
    em_lea(e, EM_W, to, to, g->tag, 0, 0);
    bias_pair(w, g, c->lazy == 0);
    if (c->wide) { /* for two rounds, or for this one: the others check each of them */
        em_lea(e, EM_W, w->s, to, EM_NONE, 0, wide_lo(g) - bt_group_last(g));
        compare_last(w, w->s, wide_bytes(g));
        em_jump_to(e, CC_BE, e->rx + c->back);
        em_test_imm(e, to, bt_group_mask(g));
        em_jump_to(e, CC_E, e->rx + g->behind);
        return;
    }
    if (c->lazy != 0)
        em_test_imm(e, to, bt_group_mask(g));
    else
        em_pext_gs(e, EM_RCX, EM_RCX, bt_group_gs_mask(g));
    back_if(w, c);
}
