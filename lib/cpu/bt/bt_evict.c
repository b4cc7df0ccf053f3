/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Links between translations, and their end. Code memory and the records that go with it are cut
 * into segments, filled one after the other in a circle. When one is full the translations of the
 * next, which are the oldest, are forgotten: jumps to them ask again, and they leave the lists of
 * what they jump to. That is done at a boundary, where no host address of translated code is kept
 * anywhere but in links and jump tables, and takes time for a sixteenth of all translations or
 * less.
 */
#include "cpu/bt/bt_work.h"

/* Segments that are begun until large pages are asked for again. */
#define LARGE_REST 4u
/* Code memory grows when one in so many translations was made before and evicted. */
#define GROW_PART 4u
/* Less is translated only while it is one in so many at least. */
#define REST_PART 32u

static void patch(uint8_t *site, const uint8_t *site_rx, const uint8_t *target)
{
    vmci_st_le32(site, (uint32_t)(target - (site_rx + 4)));
}

static void list_in(struct bt_link *l, struct bt_trans *t)
{
    l->next = t->in;
    l->prev = &t->in;
    if (t->in != NULL)
        t->in->prev = &l->next;
    t->in = l;
}

void bt_link_to(struct bt_link *l, struct bt_trans *t)
{
    bool ready = (t->fp & ~l->from->fp) == 0;
    const uint8_t *entry = ready ? t->ready : t->canon;

    if (t->set == l->set && ready)
        patch(l->site, l->site_rx, t->inner);
    else if (l->set == BT_CANON)
        patch(l->site, l->site_rx, entry);
    else
        patch(l->canon_site, l->canon_rx, entry);
    list_in(l, t);
}

void bt_link_alone(const struct bt_site *site, struct bt_trans *t)
{
    struct bt_link *l = site->alone;

    if (l->prev != NULL)
        return;
    patch(l->canon_site, l->canon_rx, t->canon);
    patch(l->site, l->site_rx, site->alone_way);
    list_in(l, t);
}

static struct bt_link **far_list(struct vmci_bt *bt, uint64_t la)
{
    return &bt->far[((la >> VMC_PAGE_SHIFT) * 0x9e3779b97f4a7c15ull) >> 52];
}
_Static_assert(BT_FAR_LISTS == 1u << (64 - 52), "the index is what the shift leaves");

void bt_link_far(struct vmci_bt *bt, struct bt_link *l, struct bt_trans *t)
{
    struct bt_link **list = far_list(bt, t->la);

    bt_link_to(l, t);
    bt->far_any = true;
    l->far = true;
    l->far_next = *list;
    l->far_prev = list;
    if (*list != NULL)
        (*list)->far_prev = &l->far_next;
    *list = l;
}

static void leave_far_list(struct bt_link *l)
{
    if (!l->far)
        return;
    l->far = false;
    *l->far_prev = l->far_next;
    if (l->far_next != NULL)
        l->far_next->far_prev = l->far_prev;
}

/* Its target is gone. */
static void unlink(struct bt_link *l)
{
    leave_far_list(l);
    patch(l->site, l->site_rx, l->stub);
    patch(l->canon_site, l->canon_rx, l->ask);
    l->prev = NULL;
}

static void leave_list_in(struct bt_link *l)
{
    *l->prev = l->next;
    if (l->next != NULL)
        l->next->prev = l->prev;
}

void bt_far_flush(struct vmci_bt *bt)
{
    for (unsigned k = 0; k < BT_FAR_LISTS; k++)
        while (bt->far[k] != NULL) {
            struct bt_link *l = bt->far[k];
            leave_list_in(l);
            unlink(l);
        }
    bt->far_any = false;
}

void bt_far_flush_page(struct vmci_bt *bt, uint64_t la)
{
    struct bt_link *next;

    for (struct bt_link *l = *far_list(bt, la); l != NULL; l = next) {
        next = l->far_next;
        if (((bt_link_la(l) ^ la) & PAGE_MASK) != 0)
            continue;
        leave_list_in(l);
        unlink(l);
    }
}

void bt_far_flush_range(struct vmci_bt *bt, uint64_t la, uint64_t bytes)
{
    struct bt_link *next;

    for (unsigned k = 0; bt->far_any && k < BT_FAR_LISTS; k++)
        for (struct bt_link *l = bt->far[k]; l != NULL; l = next) {
            next = l->far_next;
            if (bt_link_la(l) - la >= bytes)
                continue;
            leave_list_in(l);
            unlink(l);
        }
}

void bt_drop(struct vmci_soft_cpu *sc, struct bt_trans *t)
{
    if (t->dead)
        return;
    t->dead = true;
    for (struct bt_link *l = t->in; l != NULL; l = l->next)
        unlink(l);
    t->in = NULL;
    bt_jumps_forget(sc, t);
    for (struct bt_trans **p = &t->blk->bt; *p != NULL; p = &(*p)->next)
        if (*p == t) {
            *p = t->next;
            break;
        }
}

void bt_kill(struct vmci_soft_cpu *sc, struct block *b)
{
    while (b->bt != NULL)
        bt_drop(sc, b->bt);
    for (struct bt_cover *c = b->covers; c != NULL; c = c->next) {
        bt_drop(sc, c->t);
        c->prev = NULL;
    }
    b->covers = NULL;
}

void bt_cover_add(struct bt_cover *c, struct block *b, struct bt_trans *t)
{
    *c = (struct bt_cover){.next = b->covers, .prev = &b->covers, .sibling = t->covers, .t = t};
    if (b->covers != NULL)
        b->covers->prev = &c->next;
    b->covers = c;
    t->covers = c;
}

/* The records of t are about to be written over. */
static void detach(struct bt_trans *t)
{
    for (struct bt_link *l = t->out; l != NULL; l = l->sibling)
        if (l->prev != NULL) {
            leave_list_in(l);
            leave_far_list(l);
        }
    for (struct bt_cover *c = t->covers; c != NULL; c = c->sibling)
        if (c->prev != NULL) {
            *c->prev = c->next;
            if (c->next != NULL)
                c->next->prev = c->prev;
        }
}

void bt_segment_begin(struct vmci_soft_cpu *sc, unsigned n)
{
    const struct vmc_platform *pf = sc->cpu.pf;
    struct vmci_bt *bt = &sc->bt;
    size_t code = bt->segment_bytes;
    size_t arena = code / 2;

    /*
     * Once for each segment, and where they cannot be had not before some more are begun: to ask
     * takes time, on Linux until a kernel thread has run on every CPU.
     */
    if (!vmci_bit_test(bt->large_pages, n)) {
        if (bt->large_rest > 0)
            bt->large_rest--;
        else if (vmci_large_pages(pf, bt->rw + n * code, code, bt->code_bytes) &&
                 vmci_large_pages(pf, bt->arena + n * arena, arena, bt->code_bytes / 2))
            vmci_bit_set(bt->large_pages, n);
        else
            bt->large_rest = LARGE_REST;
    }

    bt->segment = n;
    bt->used = n == 0 ? bt->glue : n * code;
    bt->used_end = (n + 1) * code;
    bt->arena_used = n * arena;
    bt->arena_end = (n + 1) * arena;
    bt->made[n] = NULL;
    bt->full = false;
}

void bt_stopped(struct vmci_soft_cpu *sc, uint64_t since)
{
    uint64_t ns = sc->cpu.pf->now_ns(sc->cpu.pf->ctx) - since;

    sc->bt.st_stop_max = VMCI_MAX(sc->bt.st_stop_max, ns);
}

/*
 * The circle ends here. Were many of those that were made since it began made before, too? Then
 * it grows, and nothing needs to go for now. Where it cannot, only what runs more often is
 * translated from now on, until it is enough.
 */
static bool grow(struct vmci_bt *bt)
{
    bool much = bt->made_again >= bt->made_new / GROW_PART;
    bool few = bt->made_again < bt->made_new / REST_PART;
    bool can = bt->segments < bt->segments_max;

    bt->made_new = bt->made_again = 0;
    if (much && can)
        bt->segments = VMCI_MIN(bt->segments * 2, bt->segments_max);
    else if (much)
        bt->patience = (uint8_t)VMCI_MIN(bt->patience + 1u, BT_PATIENCE_MAX);
    else if (few && bt->patience > 0)
        bt->patience--;
    return much && can;
}

void bt_evict(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;
    unsigned n = bt->segment + 1;
    uint64_t since = sc->cpu.pf->now_ns(sc->cpu.pf->ctx);

    if (bt->ctx_full) {
        block_flush_all(sc);
        return;
    }
    bt_x87_settle(sc);
    if (n == bt->segments && !grow(bt))
        n = 0;
    for (struct bt_trans *t = bt->made[n]; t != NULL; t = t->older) {
        t->blk->evicted = t->blk->evicted || !t->dead;
        if (bt->patience != 0)
            t->blk->heat = 0;
        bt_drop(sc, t);
    }
    for (struct bt_trans *t = bt->made[n]; t != NULL; t = t->older)
        detach(t);
    bt_segment_begin(sc, n);
    bt->st_evictions++;
    bt_stopped(sc, since);
}

void bt_flush(struct vmci_soft_cpu *sc)
{
    struct vmci_bt *bt = &sc->bt;

    if (!bt->enabled)
        return;
    bt_jumps_flush(sc, true);
    bt_sys_forget(sc);
    bt_forget_ctx(bt);
    memset(bt->made, 0, sizeof(bt->made));
    bt_segment_begin(sc, 0);
    bt->st_flushes++;
}
