/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Inline caches: an indirect jump or a return compares its target with the last few before it looks
 * in the table, and has direct links to their translations, within the page, as other branches have
 * them. Only in traces that were made again because time is spent there.
 *
 * The code is: a comparison and a jump for each place, and a jump to the interpreter, which
 * executes the branch and enters where it led in a free place. When all are taken, or it often
 * leads to other pages, the first place that is still free becomes a jump to the look-up.
 */
#include "cpu/bt/bt_work.h"

/* Targets that find no place until the cache is closed. */
#define STRANGERS_MAX 4u

/* All addresses of the page, and what they are negated, are sign-extended from 32 bits and longer
   than 8. */
static bool is_small(uint64_t page)
{
    return em_fits32(page) && em_fits32(0 - page) && page != 0 && page != PAGE_MASK;
}

/* Leave for the returned jump unless x is the target, which is filled in later. */
static size_t compare(struct bt_work *w, struct bt_cache *c, unsigned k)
{
    struct emit *e = &w->e;
    uint64_t nothing = c->negated ? 0 - w->la : w->la;

    c->start[k] = e->rw + e->len;
    if (c->negated)
        bt_rcx_away(w);
    if (c->wide) { /* mov s, imm64 */
        em_rex(e, EM_W, 0, w->s);
        em8(e, 0xb8 | (w->s & 7));
        em32(e, (uint32_t)nothing);
        em32(e, (uint32_t)(nothing >> 32));
        c->value[k] = e->rw + e->len - 8;
        if (c->negated)
            em_lea(e, EM_W, EM_RCX, w->x, w->s, 0, 0);
        else
            em_rr(e, EM_W, 0x3b, w->x, w->s);
    } else {
        if (c->negated)
            em_lea(e, EM_W, EM_RCX, w->x, EM_NONE, 0, (int32_t)nothing);
        else
            em_ri(e, EM_W, 7, w->x, (uint32_t)nothing);
        c->value[k] = e->rw + e->len - 4;
    }
    if (!c->negated) {
        w->lost = w->lazy;
        return em_jump(e, CC_NE);
    }
    size_t miss = em_jump_unless_rcxz(e);
    bt_rcx_back(w);
    return miss;
}

/* The branch is taken, to the target in place k: RSP moves, and control goes there. */
static void take(struct bt_work *w, struct bt_cache *c, unsigned k, int32_t pops)
{
    int32_t moved = w->moved, owed = w->owed;
    uint16_t lost = w->lost;

    if (pops != 0)
        bt_rsp_move(w, pops);
    bt_rsp_pay(w);
    bt_flags_need(w, w->x);
    struct bt_cold *cold = bt_cold(w, BT_COLD_LINK, em_jump(&w->e, EM_JMP));
    if (cold != NULL) {
        cold->target = w->la; /* until it is known: one that may be linked */
        cold->cache = c;
        cold->place = (uint8_t)k;
    }
    w->moved = moved;
    w->owed = owed;
    w->lost = lost;
}

void bt_cache(struct bt_work *w, int32_t pops)
{
    struct emit *e = &w->e;

    if ((!w->t->blk->watched && w->t->alone == 0) || w->b->gpa2 != GPA_NONE || w->word != 8)
        return;
    struct bt_cache *c = bt_record(w, sizeof(*c));
    if (c == NULL)
        return;
    *c = (struct bt_cache){.negated = w->lazy == 0, .wide = !is_small(w->la & PAGE_MASK)};
    c->sibling = w->t->caches;
    w->t->caches = c;
    for (unsigned k = 0; k < BT_CACHE_SIZE; k++) {
        size_t miss = compare(w, c, k);
        take(w, c, k, pops);
        em_patch_here(e, miss);
        if (c->negated)
            bt_rcx_back(w);
    }
    c->start[BT_CACHE_SIZE] = e->rw + e->len;
    bt_cold_insn(w, em_jump(e, EM_JMP), BT_RCX_HOME);
    if (w->cold_count != 0)
        w->cold[w->cold_count - 1].cache = c;
    c->end = e->rw + e->len;
}

static bool closed(const struct bt_cache *c)
{
    return c->used == BT_CACHE_SIZE || c->strangers >= STRANGERS_MAX;
}

/* The target of place k. */
static void set_value(struct bt_cache *c, unsigned k)
{
    uint64_t la = bt_link_la(c->link[k]);
    uint64_t value = c->negated ? 0 - la : la;

    vmci_st_le32(c->value[k], (uint32_t)value);
    if (c->wide)
        vmci_st_le32(c->value[k] + 4, (uint32_t)(value >> 32));
}

/* Where the first free place was there may be a jump now. */
void bt_cache_moved(const struct bt_trans *t)
{
    for (struct bt_cache *c = t->caches; c != NULL; c = c->sibling)
        for (unsigned k = 0; k < (closed(c) ? c->used : BT_CACHE_SIZE); k++)
            set_value(c, k);
}

void bt_cache_enter(const struct bt_site *site, struct bt_trans *t)
{
    struct bt_cache *c = site->cache;
    const struct bt_trans *from = site->t;
    bool near = t->blk->gpa2 == GPA_NONE && ((t->la ^ bt_site_la(site)) & PAGE_MASK) == 0 &&
                ((t->blk->gpa ^ site->blk->gpa) & PAGE_MASK) == 0 && t->mode == from->mode;

    if (from->dead)
        return;
    while (c->used < BT_CACHE_SIZE && c->link[c->used]->prev != NULL)
        c->used++; /* what stood there before it was entered has been met */
    if (near && c->used < BT_CACHE_SIZE) {
        struct bt_link *l = c->link[c->used];
        l->rel = t->la - from->la;
        set_value(c, c->used);
        bt_link_to(l, t);
        c->used++;
    } else {
        c->strangers++;
    }
    if (closed(c)) {
        uint8_t *at = c->start[c->used];
        at[0] = 0xe9; /* jmp end */
        vmci_st_le32(at + 1, (uint32_t)(c->end - (at + 5)));
    }
}
