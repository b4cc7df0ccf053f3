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

static bool indexed(const struct vmci_insn *in)
{
    return in->base != VMCI_REG_IP && in->index < 16 && in->addrsize == 8 && in->seg != VMC_FS &&
           in->seg != VMC_GS;
}

/* Accesses with an index are groups of their own. */
static void add_indexed(struct bt_work *w)
{
    for (unsigned i = 0; i < w->n; i++) {
        const struct vmci_insn *in = bt_step(w, i);
        struct bt_access a;
        if (w->group_count == BT_GROUP_MAX || !indexed(in) || w->ref[i].group != 0 ||
            !bt_operand(w, in, &a) || (a.align > 1 && a.align != a.bytes) || a.align > 32)
            continue;
        w->group[w->group_count++] = (struct bt_group){.reg = EM_NONE,
                                                       .host = EM_NONE,
                                                       .tag = EM_NONE,
                                                       .step = (uint16_t)i,
                                                       .hi = (int32_t)a.bytes,
                                                       .align = (uint8_t)VMCI_MAX(a.align, 1u),
                                                       .write = a.acc == BT_ACC_WRITE};
        w->ref[i].group = (uint8_t)w->group_count;
    }
}

static unsigned take(struct bt_work *w, uint32_t *used)
{
    unsigned r = bt_unused(*used);

    if (r != EM_NONE) {
        *used |= 1u << r;
        w->set |= (uint16_t)(1u << r);
    }
    return r;
}

/* Give groups registers; false: none got any. */
static bool pair_groups(struct bt_work *w, uint32_t *regs)
{
    uint32_t used = *regs;
    bool any = false;

    for (unsigned k = 0; k < w->group_count; k++) {
        struct bt_group *g = &w->group[k];
        uint32_t before = used;
        uint16_t set = w->set;
        unsigned tag = take(w, &used);
        unsigned host = g->host != EM_NONE ? g->host : take(w, &used);
        if (tag == EM_NONE || host == EM_NONE) {
            used = before;
            w->set = set;
            continue;
        }
        g->tag = (uint8_t)tag;
        g->host = (uint8_t)host;
        any = true;
    }
    *regs = used;
    return any;
}

/* The first byte of the group as it is now, or nearly so: registers may change before the access.
 */
static struct em_addr first_byte(struct bt_work *w, const struct bt_group *g)
{
    if (g->reg != EM_NONE)
        return (struct em_addr){g->reg, EM_NONE, 0, g->lo};
    const struct vmci_insn *in = w->step[g->step].in;
    return (struct em_addr){in->base < 16 ? in->base : EM_NONE, in->index, in->scale,
                            (int32_t)in->disp};
}

static void load_pair(struct bt_work *w, const struct bt_group *g, unsigned index)
{
    uint32_t table = GS_CPU(tlb) + (uint32_t)(w->t->mode * sizeof(struct vmci_tlb));

    em_load_gs_x8(&w->e, g->tag, index,
                  table + (uint32_t)(g->write ? offsetof(struct vmci_tlb, wr)
                                              : offsetof(struct vmci_tlb, rd)));
    em_load_gs_x8(&w->e, g->host, index, table + (uint32_t)offsetof(struct vmci_tlb, addend));
}

/* x, the address of the group's first byte, to the offset of its last one in the page of the tag.
 */
static void offset(struct bt_work *w, const struct bt_group *g, unsigned to)
{
    em_lea(&w->e, EM_W, to, w->x, g->tag, 0, bt_group_last(g) - g->lo);
}

/* Load every pair; where one does not fit, go on in the first copy. */
static void enter(struct bt_work *w)
{
    struct emit *e = &w->e;

    bt_exchange(e, w->t->set, w->set);
    for (unsigned k = 0; k < w->group_count; k++) {
        const struct bt_group *g = &w->group[k];
        if (g->tag == EM_NONE)
            continue;
        struct em_addr at = first_byte(w, g);
        em_rm(e, EM_W, 0x8d, w->x, &at); /* lea */
        em_pext_gs(e, w->s, w->x, GS_BT(tlb_mask));
        load_pair(w, g, w->s);
        bt_rcx_away(w);
        offset(w, g, EM_RCX);
        em_pext_gs(e, EM_RCX, EM_RCX, bt_group_gs_mask(g));
        struct bt_cold *c = bt_cold(w, BT_COLD_STAY, em_jump_unless_rcxz(e));
        if (c != NULL)
            c->rcx = BT_RCX_K;
        bt_rcx_back(w);
    }
    if (w->count != EM_NONE)
        em_load_gs(e, w->count, GS_BUDGET(w, 0));
}

/* Flags that the end of the trace has set, up to where its beginning overwrites them. */
static void plan_around(struct bt_work *w)
{
    unsigned setter = w->n;

    for (unsigned i = 0; i < w->n; i++) {
        enum bt_fluse use = bt_step_use(w, i);
        if (use == BT_FU_WRITE)
            setter = i;
        else if (use == BT_FU_RDWR || bt_regs_written(w, w->step[i].in) == 0xffff)
            setter = w->n;
    }
    if (setter < w->n)
        bt_flags_plan_around(w, setter);
}

bool bt_loop(struct bt_work *w)
{
    struct emit *e = &w->e;

    w->set = w->t->set;
    if (w->loop_site == 0 || w->n > LOOP_MAX)
        return false;
    uint32_t used = w->used | w->t->set;
    w->count = take(w, &used);
    add_indexed(w);
    if (!pair_groups(w, &used) && w->count == EM_NONE) {
        w->set = w->t->set;
        return false;
    }
    if (w->k == EM_NONE)
        w->copy_k[1] = take(w, &used);
    em_patch_here(e, w->loop_site);
    bt_piece(w, VMC_CODE_LOOP_ENTRY, w->n);
    w->i = 0;
    enter(w);
    w->k = w->copy_k[1];
    w->loop = true;
    w->loop_top = e->len;
    w->counted = false;
    for (unsigned k = 0; k < w->group_count; k++)
        w->group[k].checked = false;
    plan_around(w);
    return true;
}

/* ---- checks in the second copy --------------------------------------------------------------- */

static void test_mask(struct emit *e, unsigned r, uint32_t mask)
{
    em_rex(e, EM_W, 0, r); /* test r, mask */
    em8(e, 0xf7);
    em8(e, 0xc0 | (r & 7));
    em32(e, mask);
}

/* lea to, [last aligned piece of the group + tag]; RCX is in x where it is needed for that. */
static void based_offset(struct bt_work *w, const struct bt_group *g, int32_t off, unsigned to,
                         bool rcx_in_x)
{
    unsigned base = g->reg == EM_RCX && rcx_in_x ? w->x : g->reg;

    em_lea(&w->e, EM_W, to, base, g->tag, 0, bt_group_last(g) - off);
}

static void refill(struct bt_work *w, struct bt_group *g, int32_t off, size_t site, enum bt_rcx rcx)
{
    struct bt_cold *c = bt_cold(w, BT_COLD_REFILL, site);

    if (c == NULL)
        return;
    c->rcx = (uint8_t)rcx;
    c->lazy = w->step[w->i].lazy;
    c->group = g;
    c->off = off;
    c->back = w->e.len;
}

/*
 * The group's first byte must not lie in front of the page, nor its last byte behind it: no index
 * has chosen the tag. to = address + tag, the offset of the first byte, was computed.
 */
static void check_lazy(struct bt_work *w, struct bt_group *g, int32_t off, unsigned to)
{
    struct emit *e = &w->e;

    if (g->hi - g->lo > g->align || g->align == 1) {
        em_ri(e, EM_W, 7, to, (uint32_t)((int32_t)VMC_PAGE_SIZE - (g->hi - g->lo))); /* cmp */
        refill(w, g, off, em_jump(e, CC_A), BT_RCX_HOME);
        if (g->align > 1) {
            test_mask(e, to, g->align - 1u);
            refill(w, g, off, em_jump(e, CC_NE), BT_RCX_HOME);
        }
    } else {
        test_mask(e, to, bt_group_mask(g));
        refill(w, g, off, em_jump(e, CC_NE), BT_RCX_HOME);
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

void bt_loop_check(struct bt_work *w, struct bt_group *g, int32_t off)
{
    struct emit *e = &w->e;
    bool lazy = w->step[w->i].lazy != 0;

    if (g->reg == EM_NONE && lazy) { /* the address is in x */
        em_lea(e, EM_W, w->s, w->x, g->tag, 0, 0);
        check_lazy(w, g, 0, w->s);
    } else if (g->reg == EM_NONE) {
        bt_rcx_away(w);
        em_lea(e, EM_W, EM_RCX, w->x, g->tag, 0, 0);
        refill(w, g, 0, check_exact(w, g), BT_RCX_K);
        bt_rcx_back(w);
    } else if (lazy) {
        em_lea(e, EM_W, w->x, g->reg, g->tag, 0, g->lo - off);
        check_lazy(w, g, off, w->x);
    } else {
        em_mov(e, w->x, EM_RCX);
        em_lea(e, EM_W, EM_RCX, g->reg == EM_RCX ? w->x : g->reg, g->tag, 0, g->lo - off);
        refill(w, g, off, check_exact(w, g), BT_RCX_X);
        em_mov(e, EM_RCX, w->x);
    }
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

    if (g->reg == EM_NONE) {
        em_pext_gs(e, w->s, w->x, GS_BT(tlb_mask));
    } else {
        bool moved = g->reg == EM_RCX && c->lazy == 0;
        em_lea(e, EM_W, w->s, moved ? w->x : g->reg, EM_NONE, 0, g->lo - c->off);
        em_pext_gs(e, w->s, w->s, GS_BT(tlb_mask));
    }
    load_pair(w, g, w->s);
    unsigned to = c->lazy == 0 ? EM_RCX : g->reg == EM_NONE ? w->s : w->x;
    if (g->reg == EM_NONE)
        offset(w, g, to);
    else
        based_offset(w, g, c->off, to, c->lazy == 0);
    if (c->lazy != 0)
        test_mask(e, to, bt_group_mask(g));
    else
        em_pext_gs(e, EM_RCX, EM_RCX, bt_group_gs_mask(g));
    back_if(w, c);
}
