/* SPDX-License-Identifier: BSD-2-Clause */
/* Code that is rarely reached, behind each block. */
#include "cpu/bt/bt_work.h"

struct bt_cold *bt_cold(struct bt_work *w, enum bt_cold_kind kind, size_t site)
{
    if (w->cold_count == BT_COLD_MAX) {
        w->failed = true;
        return NULL;
    }
    struct bt_cold *c = &w->cold[w->cold_count++];
    *c = (struct bt_cold){.site = site, .kind = (uint8_t)kind, .insn = (uint16_t)w->i};
    c->counted = w->counted;
    c->lazy = w->lost;
    c->set = w->set;
    c->loop = w->loop;
    c->ahead = (uint8_t)bt_count_ahead(w);
    c->moved = w->moved;
    c->owed = w->owed;
    c->x87_mark = w->x87_mark;
    return c;
}

void bt_cold_insn(struct bt_work *w, size_t site, enum bt_rcx rcx)
{
    struct bt_cold *c = bt_cold(w, BT_COLD_INSN, site);

    if (c == NULL)
        return;
    c->rcx = (uint8_t)rcx;
    c->lazy = w->lazy;
}

void *bt_record(struct bt_work *w, size_t bytes)
{
    struct vmci_bt *bt = &w->sc->bt;

    if (bt->arena_end - bt->arena_used < bytes) {
        w->failed = true;
        return NULL;
    }
    void *p = bt->arena + bt->arena_used;
    bt->arena_used += (bytes + 7) & ~(size_t)7;
    return p;
}

/* The guest's RCX comes home. */
static void restore_rcx(struct bt_work *w, enum bt_rcx where)
{
    if (where == BT_RCX_X)
        em_mov(&w->e, EM_RCX, w->x);
    else if (where == BT_RCX_S)
        em_mov(&w->e, EM_RCX, w->s);
    else if (where == BT_RCX_K)
        bt_rcx_back(w);
}

/* With the canonical set: ask glue for help about record. */
static void ask(struct emit *e, const void *rec, const uint8_t *glue)
{
    em_store_gs(e, EM_RAX, GS_GPR(EM_RAX));
    em_mov_imm(e, EM_RAX, (uintptr_t)rec);
    em_jump_to(e, EM_JMP, glue);
}

/* From the second copy of a loop to the first one, which has the addends of some groups in memory.
 */
static void keep_for_first(struct bt_work *w)
{
    for (unsigned k = 0; k < w->group_count; k++) {
        const struct bt_group *g = &w->group[k];
        if (g->mem && g->host != EM_NONE)
            em_store_gs(&w->e, g->host, GS_BT(keep) + 8u * g->slot);
    }
}

/* The interpreter's callers know nothing of the addends of groups, nor of f. */
static void keep_addends(struct bt_work *w, bool store)
{
    uint32_t f_at = GS_BT(keep) + 8u * BT_GROUP_REGS;

    if (w->f != EM_NONE && store)
        em_store_gs(&w->e, w->f, f_at);
    else if (w->f != EM_NONE)
        em_load_gs(&w->e, w->f, f_at);
    for (unsigned k = 0; k < w->group_count; k++) {
        const struct bt_group *g = &w->group[k];
        if (!g->kept)
            continue;
        if (store)
            em_store_gs(&w->e, g->host, GS_BT(keep) + 8u * g->slot);
        else
            em_load_gs(&w->e, g->host, GS_BT(keep) + 8u * g->slot);
    }
}

/* Does the instruction make the first access of a group that is not the one that failed? */
static bool starts_group(const struct bt_work *w, const struct bt_cold *c)
{
    for (unsigned k = 0; k < w->group_count; k++)
        if ((w->group[k].kept || w->group[k].mem || w->group[k].shares) &&
            &w->group[k] != c->group && w->group[k].at == c->insn)
            return true;
    return false;
}

/* The same, but by way of a stub, which has the canonical set for itself. */
static void ask_stub(struct bt_work *w, const struct bt_site *site, const struct bt_cold *c)
{
    struct emit *e = &w->e;

    em_mov_imm(e, 11, (uintptr_t)site);
    bt_mov_la(w, 10, bt_after(w, c->insn));
    em_jump_to(e, EM_JMP, w->sc->bt.stub[c->stub]);
}

/* A jump over nothing, until the group's check has failed too often. */
static struct bt_link *alone_link(struct bt_work *w, const struct bt_cold *c)
{
    struct emit *e = &w->e;
    struct bt_link *l = bt_record(w, sizeof(*l));

    if (l == NULL)
        return NULL;
    size_t at = em_jump(e, EM_JMP);
    em_patch_here(e, at);
    *l = (struct bt_link){.sibling = w->t->out, .from = w->t, .set = c->set};
    w->t->out = l;
    l->site = e->rw + at;
    l->site_rx = e->rx + at;
    l->stub = l->ask = em_here(e);
    return l;
}

/* Where it leads then: in front of instruction c->insn, out of the trace. */
static void alone_way(struct bt_work *w, const struct bt_cold *c, struct bt_site *site,
                      struct bt_link *l)
{
    struct emit *e = &w->e;
    const struct vmci_insn *in = w->step[c->insn].in;

    site->alone = l;
    site->alone_way = em_here(e);
    if (c->counted)
        bt_count_back(w, c->insn);
    else if (c->insn > 0)
        bt_count_some(w, c->insn, w->step[c->insn].la + in->next - in->len, c->set);
    bt_exchange(e, c->set, BT_CANON);
    size_t at = em_jump(e, EM_JMP);
    em_patch_at(e, at, l->ask);
    l->canon_site = e->rw + at;
    l->canon_rx = e->rx + at;
}

static void cold_insn(struct bt_work *w, const struct bt_cold *c)
{
    struct emit *e = &w->e;
    struct bt_site *site = bt_record(w, sizeof(*site));
    /* From the second copy of a loop to the first one, for the rest of the round. */
    size_t resume = c->loop ? w->resume[c->insn] : c->resume;

    if (site == NULL)
        return;
    const struct bt_step *st = &w->step[c->insn];
    int32_t owed = c->loop ? st->owed[1] : c->back_owed;
    bool retry = st->kept;
    if (retry) {
        resume = w->start[c->insn];
        owed = st->owed[0];
    }
    *site =
        (struct bt_site){.insn = st->in,
                         .t = w->t,
                         .blk = st->b,
                         .rel = st->la - w->t->la,
                         .before = st->before,
                         .resume = e->rx + resume,
                         .stop = starts_group(w, c),
                         .goes_on = bt_sys_goes_on(st->in),
                         .retry = retry,
                         .cache = c->cache,
                         .returns = st->follow == BT_FOLLOW_BACK,
                         .back = st->follow == BT_FOLLOW_BACK ? bt_after(w, c->insn) - w->t->la : 0,
                         .counted = c->counted ? w->n - c->given : 0};
    if (c->group != NULL && (c->group->kept || c->group->mem || c->group->shares)) {
        site->group = 1;
        site->shares = c->group->shares;
        site->reg = c->ref.reg != EM_NONE ? c->ref.reg : VMCI_REG_ZERO;
        site->index = c->ref.index != EM_NONE ? c->ref.index : VMCI_REG_ZERO;
        site->scale = c->ref.scale;
        site->slot = c->group->slot;
        site->write = c->group->write;
        site->align = c->group->align;
        site->lo = c->group->lo - c->ref.off;
        site->span = (uint32_t)(c->group->hi - c->group->lo);
    }
    restore_rcx(w, c->rcx);
    bt_x87_store(w);
    bt_rsp_pay(w);
    bt_count_keep(w);
    if (c->lazy != 0)
        bt_flags_again(w, c->lazy, w->s);
    if (c->loop) {
        bt_hoist_leave(w);
        keep_for_first(w);
    }
    struct bt_link *alone = site->group != 0 && !site->shares ? alone_link(w, c) : NULL;
    keep_addends(w, true);
    bt_exchange(e, c->set, BT_CANON);
    if (c->stub != BT_STUB_NONE) {
        ask_stub(w, site, c);
        return;
    }
    const struct vmci_bt *bt = &w->sc->bt;
    ask(e, site,
        c->io                             ? bt->call_io
        : bt_string_native(w, site->insn) ? bt->call_string
                                          : bt->call_insn);
    w->loop = false;
    bool late = c->late && !retry;
    struct bt_held held = c->loop || retry ? (struct bt_held){0} : c->back_held;
    if (w->t->set != BT_CANON || late || owed != 0 || held.x != 0 || held.s != 0) {
        site->resume = em_here(e);
        bt_rsp_borrow(e, owed);
        bt_exchange(e, BT_CANON, w->t->set);
        keep_addends(w, false);
        if (late)
            bt_count_late(w);
        bt_hold_again(w, &held);
        em_jump_to(e, EM_JMP, e->rx + resume);
    }
    if (alone != NULL)
        alone_way(w, c, site, alone);
}

static void cold_link(struct bt_work *w, const struct bt_cold *c)
{
    struct emit *e = &w->e;
    struct bt_link *l = bt_record(w, sizeof(*l));
    uint16_t set = c->set;
    size_t site = c->site;

    if (l == NULL)
        return;
    /* What a loop leads to mostly has the set of the first copy. */
    if (c->loop && !c->far && c->rcx == BT_RCX_HOME && c->lazy == 0) {
        set = w->t->set;
        bt_exchange(e, c->set, set);
        site = em_jump(e, EM_JMP);
        em_patch_here(e, site);
    }
    *l = (struct bt_link){
        .sibling = w->t->out, .rel = c->target - w->t->la, .from = w->t, .set = set};
    w->t->out = l;
    l->blk = c->blk;
    if (c->cache != NULL)
        c->cache->link[c->place] = l;
    l->stub = em_here(e);
    restore_rcx(w, c->rcx);
    if (c->lazy != 0)
        bt_flags_again(w, c->lazy, w->s);
    bt_exchange(e, set, BT_CANON);
    if (!c->far) {
        l->site = e->rw + site;
        l->site_rx = e->rx + site;
        size_t at = em_jump(e, EM_JMP);
        em_patch_here(e, at);
        l->canon_site = e->rw + at;
        l->canon_rx = e->rx + at;
    }
    l->ask = em_here(e);
    ask(e, l, w->sc->bt.call_link);
}

/* Entries that this adds to the list are dealt with later. */
static void cold_exit(struct bt_work *w, const struct bt_cold *at)
{
    struct bt_cold c = *at;

    w->set = c.set;
    (void)bt_step(w, c.insn);
    w->lost = 0;
    w->lazy = c.lazy;
    bt_x87_store(w);
    if (c.insn + 1u < w->n)
        bt_count_back(w, c.insn + 1u);
    bt_exit_direct(w, c.target);
}

/* The same by an indirect jump that leads elsewhere than the trace goes. */
static void cold_away(struct bt_work *w, const struct bt_cold *at)
{
    struct bt_cold c = *at;
    unsigned first = w->cold_count;
    unsigned left = w->n - (c.insn + 1u);

    w->set = c.set;
    const struct vmci_insn *in = bt_step(w, c.insn);
    w->lost = w->lazy = c.lazy;
    restore_rcx(w, c.rcx);
    bt_count_keep(w);
    bt_rsp_pay(w);
    if (left != 0)
        bt_count_back(w, c.insn + 1u);
    bt_jump_away(w, in);
    for (unsigned k = first; k < w->cold_count; k++)
        w->cold[k].given = (uint16_t)left;
}

/* Another round in the first copy of a loop. */
static void cold_stay(struct bt_work *w, const struct bt_cold *c)
{
    restore_rcx(w, c->rcx);
    if (c->lazy != 0)
        bt_flags_again(w, c->lazy, w->s);
    bt_exchange(&w->e, c->set, w->t->set);
    em_jump_to(&w->e, EM_JMP, w->t->inner);
}

/* The budget, or what the hoisted checks allow, is less than what the second copy charges. */
static void cold_short(struct bt_work *w, const struct bt_cold *c)
{
    struct emit *e = &w->e;

    bt_count_short(w, e->rx + c->back);
    cold_stay(w, c);
}

/* What the hoisted checks of a loop allow is used up: the first copy does the rest of the round. */
static void cold_rest(struct bt_work *w, const struct bt_cold *c)
{
    struct emit *e = &w->e;
    bool copied = c->copy_len != 0;
    size_t at = copied ? w->resume[c->insn - 1] : w->counted_at;
    int32_t owed = copied ? w->step[c->insn - 1].owed[1] : w->counted_owed;

    for (unsigned k = 0; k < c->copy_len; k++)
        em8(e, e->rw[c->copy + k]);
    restore_rcx(w, c->rcx);
    if (c->lazy != 0 && c->copy_len == 0)
        bt_flags_again(w, c->lazy, w->s);
    bt_count_keep(w);
    bt_hoist_leave(w);
    keep_for_first(w);
    bt_exchange(e, c->set, w->t->set);
    bt_rsp_borrow(e, owed);
    em_jump_to(e, EM_JMP, e->rx + at);
}

static void cold_budget(struct bt_work *w, const struct bt_cold *c)
{
    struct emit *e = &w->e;
    unsigned r = 11; /* free with the canonical set */

    if (c->loop && w->strip) {
        cold_rest(w, c);
        return;
    }
    bt_count_refill(w, e->rx + c->site + 4, c->rcx == BT_RCX_X);
    restore_rcx(w, c->rcx);
    bt_x87_store(w);
    bt_count_keep(w);
    if (c->lazy != 0 && c->copy_len == 0)
        bt_flags_again(w, c->lazy, w->s);
    for (unsigned k = 0; k < c->copy_len; k++)
        em8(e, e->rw[c->copy + k]);
    bt_rsp_pay(w);
    bt_exchange(e, c->set, BT_CANON);
    if (c->insn < w->n) { /* what is left of the block does not count */
        em_load_gs(e, r, GS_BUDGET(w, 0));
        em_lea(e, EM_W, r, r, EM_NONE, 0, (int32_t)(w->n - c->insn));
        em_store_gs(e, r, GS_BUDGET(w, 0));
    }
    em_mov_imm(e, r, (uintptr_t)w->t);
    em_store_gs(e, r, GS_BT(spent));
    bt_mov_la(w, r, c->target);
    em_store_gs(e, r, GS_CPU(rip));
    em_jump_to(e, EM_JMP, w->sc->bt.leave_budget);
}

void bt_emit_cold(struct bt_work *w)
{
    w->cold_phase = true;
    for (unsigned k = 0; k < w->cold_count && !w->failed; k++) {
        const struct bt_cold *c = &w->cold[k];
        bt_piece(w, VMC_CODE_COLD, c->insn);
        em_patch_here(&w->e, c->site);
        w->loop = c->loop;
        w->ahead = c->ahead;
        w->moved = c->moved;
        w->owed = c->owed;
        w->k = w->copy_k[c->loop];
        w->x87_mark = c->x87_mark;
        if (c->kind == BT_COLD_REFILL)
            bt_loop_refill(w, c);
        if (c->kind == BT_COLD_INSN || c->kind == BT_COLD_REFILL)
            cold_insn(w, c);
        else if (c->kind == BT_COLD_STAY)
            cold_stay(w, c);
        else if (c->kind == BT_COLD_SHORT)
            cold_short(w, c);
        else if (c->kind == BT_COLD_STRIP)
            bt_loop_strip(w, c);
        else if (c->kind == BT_COLD_LINK)
            cold_link(w, c);
        else if (c->kind == BT_COLD_EXIT)
            cold_exit(w, c);
        else if (c->kind == BT_COLD_AWAY)
            cold_away(w, c);
        else
            cold_budget(w, c);
    }
}
