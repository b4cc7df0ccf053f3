/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Programs and libraries are mapped at another address each time they are started, from the same
 * pages of memory. What was translated of such a page for an address where it is no longer mapped
 * is not made again for the new one: all translations of the page move there. Only the constants
 * that depend on the address are changed, of which each translation has a list. Links between them
 * stay, as they are all of the same page.
 *
 * A page that comes back to an address which it has left, because several programs that use it run
 * by turns, gets translations of its own there, up to HOMES_MAX times.
 */
#include "cpu/bt/bt_work.h"

#define HOMES_MAX 6u

/* Constants of these addresses, and of all that are 2 GiB away at most, have 8 bytes, negated or
   not; and all of them are canonical. */
#define MOVES_FROM (1ull << 33)
#define MOVES_TO   ((1ull << 47) - (1ull << 32))

static bool in_range(uint64_t la)
{
    return la >= MOVES_FROM && la < MOVES_TO;
}

bool bt_movable(const struct bt_trans *t)
{
    return t->mode == VMCI_TLB_USER && t->ctx.id == 0 && t->ctx.bits == 64 && !t->blk->global &&
           in_range(t->la);
}

/* ---- what to change -------------------------------------------------------------------------- */

void bt_fix(struct bt_work *w, enum bt_fix_kind kind, uint64_t la)
{
    int64_t rel = (int64_t)(la - w->t->la);
    size_t bytes = kind == BT_FIX_LA || kind == BT_FIX_NEG ? 8 : 4;

    if (!w->moves || w->e.full)
        return;
    if (rel != (int32_t)rel || w->fixes == BT_FIX_MAX) {
        w->moves = false;
        return;
    }
    w->fix[w->fixes++] = (struct bt_fix){(int32_t)rel, (uint16_t)(w->e.len - bytes), (uint8_t)kind};
}

void bt_mov_la(struct bt_work *w, unsigned reg, uint64_t la)
{
    em_mov_imm(&w->e, reg, la);
    bt_fix(w, BT_FIX_LA, la);
}

void bt_mov_neg(struct bt_work *w, unsigned reg, uint64_t la)
{
    em_mov_imm(&w->e, reg, 0 - la);
    bt_fix(w, BT_FIX_NEG, la);
}

void bt_mov_low(struct bt_work *w, unsigned reg, uint64_t la)
{
    em_mov_imm(&w->e, reg, (uint32_t)la);
    bt_fix(w, BT_FIX_LOW, la);
}

/* ---- moving ---------------------------------------------------------------------------------- */

static void add_le32(uint8_t *p, uint32_t by)
{
    vmci_st_le32(p, vmci_ld_le32(p) + by);
}

static void change(uint8_t *p, const struct bt_fix *f, uint64_t was, uint64_t la)
{
    switch (f->kind) {
    case BT_FIX_LA:
        vmci_st_le64(p, la);
        break;
    case BT_FIX_NEG:
        vmci_st_le64(p, 0 - la);
        break;
    case BT_FIX_LOW:
        vmci_st_le32(p, (uint32_t)la);
        break;
    case BT_FIX_JUMP:
        add_le32(p, (bt_jump_index(la) - bt_jump_index(was)) * (uint32_t)sizeof(struct bt_jump));
        break;
    default:
        add_le32(p, (vmci_tlb_index(la) - vmci_tlb_index(was)) * 8);
        break;
    }
}

/* Tell who asked for it where the code is of now. */
static void report(struct vmci_soft_cpu *sc, const struct bt_trans *t)
{
    const struct vmci_soft_vm *vm = sc->cpu.vm;
    struct vmc_translation tr = {
        .gva = t->la, .bits = t->ctx.bits, .host = t->canon, .bytes = t->bytes};

    if (vm->translated == NULL)
        return;
    vmci_fp_park(&sc->cpu);
    vm->translated(vm->translated_ctx, sc->cpu.index, &tr);
}

static void move_one(struct vmci_soft_cpu *sc, struct bt_trans *t, uint64_t by)
{
    struct vmci_bt *bt = &sc->bt;
    uint8_t *code = bt->rw + (t->canon - bt->rx);
    bool target = bt_jumps_forget(sc, t);

    t->la += by;
    t->key = t->la;
    for (unsigned k = 0; k < t->fixes; k++) {
        const struct bt_fix *f = &t->fix[k];
        uint64_t la = t->la + (uint64_t)(int64_t)f->rel;
        change(code + f->at, f, la - by, la);
    }
    bt_cache_moved(t);
    if (target && t->blk->gpa2 == GPA_NONE)
        bt_jumps_enter(sc, t);
    bt->st_moved++;
    report(sc, t);
}

static bool at_home(const struct bt_trans *t, uint64_t home)
{
    return t->mode == VMCI_TLB_USER && t->ctx.id == 0 && (t->la & PAGE_MASK) == home;
}

/* Does global code of another page jump to it? It is where that knows it then. */
static bool linked_far(const struct bt_trans *t)
{
    for (const struct bt_link *l = t->in; l != NULL; l = l->next)
        if (l->far)
            return true;
    return false;
}

static void move_page(struct vmci_soft_cpu *sc, struct code_page *p, uint64_t from, uint64_t to)
{
    struct bt_trans *next;

    bt_x87_settle(sc);
    for (struct block *b = p->blocks; b != NULL; b = b->page_next)
        for (struct bt_trans *t = b->bt; t != NULL; t = next) {
            next = t->next;
            if (!at_home(t, from))
                continue;
            if (t->stays || linked_far(t))
                bt_drop(sc, t);
            else
                move_one(sc, t, to - from);
        }
    p->left[p->leaves++ % VMCI_ARRAY_SIZE(p->left)] = from;
}

/* ---- where to ------------------------------------------------------------------------------- */

struct homes {
    uint64_t la[HOMES_MAX];
    unsigned n;
};

static void add_home(struct homes *h, uint64_t la)
{
    for (unsigned k = 0; k < h->n; k++)
        if (h->la[k] == la)
            return;
    if (h->n < HOMES_MAX)
        h->la[h->n++] = la;
}

static bool returns(const struct code_page *p, uint64_t la)
{
    for (unsigned k = 0; k < VMCI_ARRAY_SIZE(p->left); k++)
        if (p->left[k] == la)
            return true;
    return false;
}

void bt_come(struct vmci_soft_cpu *sc, struct block *b)
{
    uint64_t to = b->la & PAGE_MASK;
    struct homes h = {.n = 0};

    if (b->global || !in_range(to))
        return;
    struct code_page *p = code_page_find(sc, b->gpa & PAGE_MASK);
    if (p == NULL || p->here == to)
        return;
    p->here = to;
    for (const struct block *c = p->blocks; c != NULL; c = c->page_next)
        for (const struct bt_trans *t = c->bt; t != NULL; t = t->next) {
            if (at_home(t, to))
                return;
            if (t->mode == VMCI_TLB_USER && t->ctx.id == 0 && in_range(t->la))
                add_home(&h, t->la & PAGE_MASK);
        }
    if (h.n == 0 || (h.n < HOMES_MAX && returns(p, to)))
        return;
    /* The one where b was not executed for longest; the list begins with the last one. */
    uint64_t from = h.la[h.n - 1];
    for (const struct bt_trans *t = b->bt; t != NULL; t = t->next)
        if (t->mode == VMCI_TLB_USER && t->ctx.id == 0 && in_range(t->la))
            from = t->la & PAGE_MASK;
    move_page(sc, p, from, to);
}
