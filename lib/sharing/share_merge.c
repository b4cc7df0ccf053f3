/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two pages become one: candidates from the hint table, a full comparison while neither page can be
 * written, and the new map entries.
 */
#include "sharing/sharing_priv.h"

#define CANDIDATES 8u

enum verdict { MERGED, DIFFERENT, STALE, BUSY };

static void mark_dirty(struct vmc_space *s, uint64_t page)
{
    (void)vmci_fetch_or(&s->dirty[page / 64], VMCI_BIT(page % 64));
}

/* Both locks, in order; the same space once. */
static void lock_two(struct vmc_space *a, struct vmc_space *b)
{
    struct vmc_space *lo = a->index < b->index ? a : b, *hi = a->index < b->index ? b : a;

    vmci_lock(&lo->lock);
    if (hi != lo)
        vmci_lock(&hi->lock);
}

static void unlock_two(struct vmc_space *a, struct vmc_space *b)
{
    vmci_unlock(&a->lock);
    if (a != b)
        vmci_unlock(&b->lock);
}

static bool seize(const struct share_page *pg)
{
    return vmci_space_settled(pg->space) && vmci_page_releasable(pg->space) &&
           vmci_page_seize(pg->space, pg->page, pg->entry, false);
}

/* The page refers to object id now and its own frame goes. Pool's lock held. */
static void join(struct vmc_share *sh, const struct share_page *pg, uint32_t id,
                 struct vmc_share_result *out)
{
    vmci_page_release(pg->space, pg->page, vmci_entry_value(pg->entry));
    vmci_page_set(pg->space, pg->page, vmci_entry(VMCI_E_OBJECT, id));
    out->merged++;
    out->freed++;
    sh->stat.merged++;
}

/* Compare with a compressed object: it is read into scratch with a reference of our own. */
static bool same_as_packed(struct vmc_share *sh, const void *frame, uint32_t id)
{
    struct vmc_pool *p = sh->pool;

    vmci_object_get(vmci_object(p, id));
    vmci_unlock(&p->lock);
    bool same = vmci_object_read(p, id, sh->scratch) == VMC_OK &&
                memcmp(frame, sh->scratch, VMC_PAGE_SIZE) == 0;
    vmci_lock(&p->lock);
    if (!same)
        vmci_object_put(p, id);
    return same;
}

static enum verdict with_object(struct vmc_share *sh, const struct share_page *pg, uint32_t id,
                                struct vmc_share_result *out)
{
    struct vmc_pool *p = sh->pool;
    struct vmc_space *s = pg->space;
    unsigned char *frame = vmci_frame(p, vmci_entry_value(pg->entry));
    enum verdict v = DIFFERENT;

    vmci_lock(&s->lock);
    if (!seize(pg)) {
        vmci_unlock(&s->lock);
        return BUSY;
    }
    vmci_lock(&p->lock);
    struct vmci_object *o = vmci_object(p, id);
    if (!share_is_ours(share_mark(sh, s), o) || vmci_object_refs(o) >= VMCI_REFS_MOST) {
        v = STALE; /* the next of so many pages alike begin an object of their own */
    } else if (vmci_object_kind(o) == VMCI_O_RESIDENT) {
        if (memcmp(frame, vmci_frame(p, o->where), VMC_PAGE_SIZE) == 0) {
            vmci_object_get(o);
            v = MERGED;
        }
    } else if (same_as_packed(sh, frame, id)) {
        v = MERGED;
    }
    if (v == MERGED)
        join(sh, pg, id, out);
    else
        vmci_page_set(s, pg->page, pg->entry);
    vmci_unlock(&p->lock);
    vmci_unlock(&s->lock);
    return v;
}

/* Both pages are seized. The other one's frame becomes the object. */
static enum verdict merge_pages(struct vmc_share *sh, const struct share_page *pg,
                                const struct share_page *q, uint32_t *object,
                                struct vmc_share_result *out)
{
    struct vmc_pool *p = sh->pool;
    uint32_t keep = vmci_entry_value(q->entry);
    bool same =
        memcmp(vmci_frame(p, vmci_entry_value(pg->entry)), vmci_frame(p, keep), VMC_PAGE_SIZE) == 0;
    uint32_t id = VMCI_NONE;

    if (same) {
        vmci_lock(&p->lock);
        id = vmci_object_new(p, keep, share_mark(sh, pg->space));
        if (id != VMCI_NONE) {
            vmci_object_get(vmci_object(p, id));
            vmci_page_set(q->space, q->page, vmci_entry(VMCI_E_OBJECT, id));
            join(sh, pg, id, out);
            out->merged++;
        }
        vmci_unlock(&p->lock);
    }
    if (id == VMCI_NONE) {
        vmci_page_set(pg->space, pg->page, pg->entry);
        vmci_page_set(q->space, q->page, q->entry);
        return DIFFERENT;
    }
    *object = id;
    return MERGED;
}

/* ref: where the other page is. *object: what both became. */
static enum verdict with_page(struct vmc_share *sh, const struct share_page *pg, uint32_t ref,
                              uint32_t *object, struct vmc_share_result *out)
{
    struct share_page q = {0};

    q.space = vmci_space_of(sh->pool, ref, &q.page);
    if (q.space == NULL || q.space->salt != pg->space->salt)
        return STALE;
    q.entry = vmci_load_acquire(&q.space->map[q.page]);
    bool dirty = (vmci_load_acquire(&q.space->dirty[q.page / 64]) & VMCI_BIT(q.page % 64)) != 0;
    if (vmci_entry_state(q.entry) != VMCI_E_PRIVATE || dirty)
        return STALE;
    if (q.space == pg->space && q.page == pg->page)
        return STALE; /* itself: it is entered anew */
    lock_two(pg->space, q.space);
    enum verdict v = BUSY;
    if (seize(pg)) {
        if (seize(&q))
            v = merge_pages(sh, pg, &q, object, out);
        else
            vmci_page_set(pg->space, pg->page, pg->entry);
    }
    unlock_two(pg->space, q.space);
    return v;
}

static enum verdict try_slot(struct vmc_share *sh, struct share_table *t,
                             const struct share_slot *slot, const struct share_page *pg,
                             struct vmc_share_result *out)
{
    uint32_t ref = share_slot_ref(t, slot), id = 0;
    bool object = (ref & SHARE_OBJECT) != 0;
    enum verdict v =
        object ? with_object(sh, pg, ref & ~SHARE_OBJECT, out) : with_page(sh, pg, ref, &id, out);

    if (v == MERGED && !object)
        share_slot_set(t, slot, id | SHARE_OBJECT);
    if (v == STALE) {
        share_slot_clear(t, slot);
        sh->stat.stale_hints++;
    }
    return v;
}

/* The candidates of one table. MERGED, or BUSY when the page itself could not be had. */
static enum verdict try_table(struct vmc_share *sh, struct share_table *t,
                              const struct share_page *pg, struct vmc_share_result *out)
{
    struct share_slot slot[CANDIDATES];
    unsigned n = share_table_find(t, pg->hash, slot, CANDIDATES);
    enum verdict last = DIFFERENT;

    for (unsigned i = 0; i < n; i++) {
        enum verdict v = try_slot(sh, t, &slot[i], pg, out);
        if (v == MERGED)
            return v;
        if (v == DIFFERENT)
            sh->stat.false_hints++;
        else if (v == BUSY)
            last = BUSY;
    }
    return last;
}

static void make_zero(struct vmc_share *sh, const struct share_page *pg,
                      struct vmc_share_result *out)
{
    struct vmc_space *s = pg->space;
    struct vmc_pool *p = sh->pool;
    uint32_t frame = vmci_entry_value(pg->entry);

    vmci_lock(&s->lock);
    if (!seize(pg)) {
        mark_dirty(s, pg->page);
        out->busy++;
    } else if (!vmci_page_is_zero(vmci_frame(p, frame))) {
        vmci_page_set(s, pg->page, pg->entry); /* written since: it is dirty again */
    } else {
        vmci_lock(&p->lock);
        vmci_page_release(s, pg->page, frame);
        vmci_unlock(&p->lock);
        vmci_page_set(s, pg->page, vmci_entry(VMCI_E_ZERO, 0));
        out->zeroed++;
        out->freed++;
        sh->stat.zeroed++;
    }
    vmci_unlock(&s->lock);
}

static void one(struct vmc_share *sh, const struct share_page *pg, struct vmc_share_result *out)
{
    struct share_group *g = pg->group;

    if (pg->zero) {
        make_zero(sh, pg, out);
        return;
    }
    if (g == NULL || g->table.buckets == 0)
        return;
    /* Where the batch has read ahead; mostly that is all. */
    if (share_slot_holds(&g->table, &pg->slot, pg->like) &&
        try_slot(sh, &g->table, &pg->slot, pg, out) == MERGED)
        return;
    enum verdict v = try_table(sh, &g->table, pg, out);
    if (v != MERGED && g->old.buckets != 0) {
        share_group_move(sh, g, 1);
        v = try_table(sh, g->old.buckets != 0 ? &g->old : &g->table, pg, out);
    }
    if (v == MERGED)
        return;
    if (v == BUSY)
        out->busy++;
    if (vmci_load_acquire(&pg->space->map[pg->page]) != pg->entry)
        return;
    if (g->table.count + g->old.count >= share_table_room(&g->table))
        share_group_reserve(sh, g, g->table.count / 4);
    if (share_table_add(&g->table, pg->hash, (uint32_t)(pg->space->first + pg->page)))
        sh->stat.lost_hints++;
}

/* ---- a batch -----------------------------------------------------------------------------------
 *
 * Memory is slower than all that is done with it: each step over the batch asks for what the next
 * step, or the same one for the next pages, is going to read.
 */

#define LAG 2u /* pages until a bucket has come into the cache */

/* Into the second level: the first has too few buffers for a page on its way. */
static void fetch_frame(const struct vmc_pool *p, uint32_t frame, unsigned bytes)
{
    if (frame >= p->frames)
        return;
    for (unsigned at = 0; at < bytes; at += VMCI_CACHELINE)
        __builtin_prefetch(vmci_frame(p, frame) + at, 0, 2);
}

static void examine(struct vmc_share *sh, struct share_page *pg)
{
    const void *frame = share_look(sh, vmci_frame(sh->pool, vmci_entry_value(pg->entry)));
    struct share_group *g = share_group_of(sh, pg->space);

    pg->group = g;
    pg->like = SHARE_EMPTY;
    pg->zero = vmci_page_is_zero(frame);
    if (pg->zero || g == NULL)
        return;
    pg->hash = sh->hash(frame, g->seed);
    share_table_prefetch(&g->table, pg->hash);
}

/* Nothing is certain about where a hint leads: what follows only reads ahead. */
void share_fetch_entry(struct vmc_share *sh, uint32_t ref)
{
    uint64_t page;

    if (ref == SHARE_EMPTY)
        return;
    if ((ref & SHARE_OBJECT) != 0) {
        __builtin_prefetch(vmci_object(sh->pool, ref & ~SHARE_OBJECT));
        return;
    }
    const struct vmc_space *s = vmci_space_of(sh->pool, ref, &page);
    if (s != NULL)
        __builtin_prefetch(&s->map[page]);
}

void share_fetch_page(struct vmc_share *sh, uint32_t ref, unsigned bytes)
{
    const struct vmc_pool *p = sh->pool;
    uint64_t page;

    if (ref == SHARE_EMPTY)
        return;
    if ((ref & SHARE_OBJECT) != 0) {
        const struct vmci_object *o = vmci_object(p, ref & ~SHARE_OBJECT);
        if (vmci_object_kind(o) == VMCI_O_RESIDENT)
            fetch_frame(p, vmci_load_relaxed(&o->where), bytes);
        return;
    }
    const struct vmc_space *s = vmci_space_of(sh->pool, ref, &page);
    uint32_t e = s != NULL ? vmci_load_relaxed(&s->map[page]) : 0;
    if (vmci_entry_state(e) == VMCI_E_PRIVATE)
        fetch_frame(p, vmci_entry_value(e), bytes);
}

static void guess(struct vmc_share *sh, struct share_page *pg)
{
    const struct share_group *g = pg->group;

    if (pg->zero || g == NULL || share_table_find(&g->table, pg->hash, &pg->slot, 1) == 0)
        return;
    pg->like = share_slot_ref(&g->table, &pg->slot);
    share_fetch_entry(sh, pg->like);
}

static void fetch_candidate(struct vmc_share *sh, unsigned i, unsigned bytes)
{
    if (i < sh->batched)
        share_fetch_page(sh, sh->batch[i].like, bytes);
}

void share_flush(struct vmc_share *sh, struct vmc_share_result *out)
{
    unsigned n = sh->batched;

    for (unsigned i = 0; i < n + LAG; i++) {
        if (i + 1 < n)
            fetch_frame(sh->pool, vmci_entry_value(sh->batch[i + 1].entry), SHARE_FIRST_PART);
        if (i < n)
            examine(sh, &sh->batch[i]);
        if (i >= LAG)
            guess(sh, &sh->batch[i - LAG]);
    }
    for (unsigned i = 0; i < n; i++) {
        fetch_candidate(sh, i + 3, VMCI_CACHELINE);
        fetch_candidate(sh, i + 2, SHARE_FIRST_PART);
        fetch_candidate(sh, i + 1, VMC_PAGE_SIZE);
        one(sh, &sh->batch[i], out);
    }
    sh->batched = 0;
}
