/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Cold pages: compressed, alone or as a difference to a similar page. Pages are compressed from a
 * copy and without a lock; when that is done, the page must still hold what was copied.
 */
#include "sharing/sharing_priv.h"

#define CLOCK_PAGES 64u
#define LEAST_GAIN  32u /* bytes that a difference must save, besides a third */

/* Parts of the scratch memory; the first is used by comparisons with packed objects. */
static unsigned char *copy_of(const struct vmc_share *sh)
{
    return sh->scratch + VMC_PAGE_SIZE;
}
static unsigned char *plain_of(const struct vmc_share *sh)
{
    return sh->scratch + 2 * VMC_PAGE_SIZE;
}
static unsigned char *delta_of(const struct vmc_share *sh)
{
    return sh->scratch + 3 * VMC_PAGE_SIZE;
}

/* What a page became. */
struct packed {
    const void *data;
    uint16_t bytes;
    uint32_t base; /* holds a reference; VMCI_NONE: plain */
    uint32_t feature[SIM_FEATURES];
};

/* Take a reference to an object that can be the base of a delta, and read it. */
static bool read_base(struct vmc_share *sh, uint8_t mark, uint32_t id, uint32_t self)
{
    struct vmc_pool *p = sh->pool;

    if (id == VMCI_NONE || id == self || id >= p->obj_count)
        return false;
    vmci_lock(&p->lock);
    struct vmci_object *o = vmci_object(p, id);
    bool usable = share_is_ours(mark, o) && vmci_object_kind(o) != VMCI_O_DELTA &&
                  vmci_object_refs(o) < VMCI_REFS_MOST;
    if (usable)
        vmci_object_get(o);
    vmci_unlock(&p->lock);
    if (!usable)
        return false;
    if (vmci_object_read(p, id, sh->scratch) == VMC_OK)
        return true;
    vmci_lock(&p->lock);
    vmci_object_put(p, id);
    vmci_unlock(&p->lock);
    return false;
}

static void drop_base(struct vmc_share *sh, uint32_t id)
{
    if (id == VMCI_NONE)
        return;
    vmci_lock(&sh->pool->lock);
    vmci_object_put(sh->pool, id);
    vmci_unlock(&sh->pool->lock);
}

/*
 * The object is going to be read whenever one of its deltas is: it should be quick. Its contents
 * are in the first part of the scratch memory, and we hold a reference.
 */
static void make_base(struct vmc_share *sh, uint32_t id)
{
    struct vmc_pool *p = sh->pool;

    vmci_lock(&p->lock);
    bool done = vmci_object_make_base(p, id);
    vmci_unlock(&p->lock);
    size_t n = done ? 0
                    : vmci_pack(sh->packer, sh->scratch, NULL, VMCI_PACK_QUICK, plain_of(sh),
                                SHARE_PACKED_MOST);
    if (n == 0)
        return;
    vmci_lock(&p->lock);
    vmci_object_repack(p, id, plain_of(sh), (uint16_t)n);
    vmci_unlock(&p->lock);
}

/* Compress the copy both ways; false: neither is worth it. */
static bool squeeze(struct vmc_share *sh, struct share_group *g, uint32_t self,
                    enum vmci_pack_style style, struct packed *out)
{
    const unsigned char *page = copy_of(sh);
    size_t plain = vmci_pack(sh->packer, page, NULL, style, plain_of(sh), sh->max_packed);

    *out = (struct packed){.data = plain_of(sh), .bytes = (uint16_t)plain, .base = VMCI_NONE};
    if (g == NULL || (g->sim.entry == NULL && share_group_index(sh, g) != VMC_OK))
        return plain != 0;
    share_sim_features(page, out->feature);
    uint32_t base = share_sim_find(&g->sim, out->feature);
    if (!read_base(sh, g->mark, base, self))
        return plain != 0;
    sh->stat.delta_tried++;
    size_t most = plain == 0 ? sh->max_packed : plain * 2 / 3;
    most = most > LEAST_GAIN ? most - LEAST_GAIN : 0;
    size_t delta =
        most == 0 ? 0
                  : vmci_pack(sh->packer, page, sh->scratch, VMCI_PACK_QUICK, delta_of(sh), most);
    if (delta == 0) {
        drop_base(sh, base);
        return plain != 0;
    }
    sh->stat.delta_won++;
    make_base(sh, base);
    out->data = delta_of(sh);
    out->bytes = (uint16_t)delta;
    out->base = base;
    return true;
}

/* Pages like it that follow may refer to it. */
static void remember(struct share_group *g, const struct packed *k, uint32_t id)
{
    if (g != NULL && g->sim.entry != NULL && k->base == VMCI_NONE)
        share_sim_add(&g->sim, k->feature, id);
}

static void count(const struct packed *k, struct vmc_share_pack_result *out)
{
    out->freed++;
    if (k->base != VMCI_NONE)
        out->deltas++;
    else
        out->packed++;
}

/* ---- private pages -----------------------------------------------------------------------------
 */

/* The page still holds what was compressed, and nobody has a pointer to it. */
static uint32_t commit_page(struct vmc_share *sh, struct vmc_space *s, uint64_t page, uint32_t e,
                            const struct packed *k)
{
    struct vmc_pool *p = sh->pool;
    uint32_t id = VMCI_NONE;

    vmci_lock(&s->lock);
    if (!vmci_space_settled(s) || !vmci_page_seize(s, page, e, true)) {
        vmci_unlock(&s->lock);
        return VMCI_NONE;
    }
    if (memcmp(vmci_frame(p, vmci_entry_value(e)), copy_of(sh), VMC_PAGE_SIZE) == 0) {
        vmci_lock(&p->lock);
        id = vmci_object_new(p, vmci_entry_value(e), share_mark(sh, s));
        if (id != VMCI_NONE) {
            vmci_object(p, id)->stamp = (uint8_t)(p->cycle - 128);
            if (vmci_object_pack(p, id, k->data, k->bytes, k->base) != VMC_OK) {
                (void)vmci_object_steal(p, id);
                id = VMCI_NONE;
            }
        }
        vmci_unlock(&p->lock);
    }
    vmci_page_set(s, page, id != VMCI_NONE ? vmci_entry(VMCI_E_OBJECT, id) : e);
    vmci_unlock(&s->lock);
    return id;
}

static bool cold(const struct vmc_space *s, uint64_t page)
{
    uint64_t w = page / 64, mask = VMCI_BIT(page % 64);

    return ((vmci_load_acquire(&s->acc[w]) | vmci_load_acquire(&s->wr[w])) & mask) == 0 &&
           (s->cold[w] & mask) != 0;
}

static void pack_page(struct vmc_share *sh, struct vmc_space *s, uint64_t page,
                      struct vmc_share_pack_result *out)
{
    uint32_t e = vmci_load_acquire(&s->map[page]);
    struct packed k;

    if (vmci_entry_state(e) != VMCI_E_PRIVATE || !cold(s, page))
        return;
    out->visited++;
    vmci_copy_racing(copy_of(sh), vmci_frame(sh->pool, vmci_entry_value(e)), VMC_PAGE_SIZE);
    struct share_group *g = share_group_of(sh, s);
    if (!squeeze(sh, g, VMCI_NONE, VMCI_PACK_EITHER, &k)) {
        out->incompressible++;
        return;
    }
    uint32_t id = commit_page(sh, s, page, e, &k);
    drop_base(sh, k.base);
    if (id == VMCI_NONE)
        return;
    remember(g, &k, id);
    count(&k, out);
    /* A page that turns up later with the same contents finds it. */
    if (g != NULL && g->table.buckets != 0 &&
        (vmci_load_acquire(&s->dirty[page / 64]) & VMCI_BIT(page % 64)) == 0)
        (void)share_table_add(&g->table, sh->hash(copy_of(sh), g->seed), id | SHARE_OBJECT);
}

/* ---- shared objects ----------------------------------------------------------------------------
 */

/* The mark says which group made it: only there may it have a base, or be one. */
static void pack_object(struct vmc_share *sh, uint32_t id, struct vmc_share_pack_result *out)
{
    struct vmc_pool *p = sh->pool;
    struct packed k;

    vmci_lock(&p->lock);
    struct vmci_object *o = vmci_object(p, id);
    bool take = vmci_object_kind(o) == VMCI_O_RESIDENT && vmci_object_cold(p, o);
    uint32_t frame = o->where, mark = o->mark;
    bool is_base = vmci_object_is_base(o); /* and will never be a delta */
    if (take)
        memcpy(copy_of(sh), vmci_frame(p, frame), VMC_PAGE_SIZE);
    vmci_unlock(&p->lock);
    if (!take)
        return;
    out->visited++;
    struct share_group *g = mark != VMCI_NO_MARK && !is_base ? sh->group[mark] : NULL;
    if (!squeeze(sh, g, id, is_base ? VMCI_PACK_QUICK : VMCI_PACK_EITHER, &k)) {
        out->incompressible++;
        return;
    }
    vmci_lock(&p->lock);
    o = vmci_object(p, id);
    bool same = vmci_object_kind(o) == VMCI_O_RESIDENT && o->where == frame && o->mark == mark &&
                memcmp(copy_of(sh), vmci_frame(p, frame), VMC_PAGE_SIZE) == 0;
    if (same && vmci_object_pack(p, id, k.data, k.bytes, k.base) == VMC_OK) {
        count(&k, out);
        remember(g, &k, id);
    }
    vmci_unlock(&p->lock);
    drop_base(sh, k.base);
}

/* ---- the pass ----------------------------------------------------------------------------------
 */

static bool spent(const struct vmc_share *sh, const struct vmc_share_budget *b, uint64_t want,
                  const struct vmc_share_pack_result *r, uint64_t start, uint64_t looks)
{
    const struct vmc_platform *pf = sh->pool->pf;

    if ((b->pages != 0 && r->visited >= b->pages) || (want != 0 && r->freed >= want))
        return true;
    return b->ns != 0 && looks % CLOCK_PAGES == 0 && pf->now_ns(pf->ctx) - start >= b->ns;
}

/* Next page; true: no more spaces (or only one was asked for, and it is done). */
static bool step_page(struct vmc_share *sh, struct vmc_space *only,
                      struct vmc_share_pack_result *out)
{
    struct share_cursor *c = &sh->pack;
    struct vmc_space *s = only;

    if (only != NULL && c->space != only->index)
        *c = (struct share_cursor){.space = only->index};
    if (only == NULL)
        s = c->space < VMC_POOL_MAX_SPACES ? vmci_load_acquire(&sh->pool->space[c->space]) : NULL;
    if (s != NULL && c->word == 0) {
        struct share_group *g = share_group_of(sh, s);
        if (g != NULL && g->sim.entry != NULL)
            (void)share_group_index(sh, g); /* there may be more spaces than before */
    }
    if (s != NULL && c->word < s->pages) {
        pack_page(sh, s, c->word++, out);
        return false;
    }
    c->word = 0;
    if (only != NULL)
        return true;
    do {
        c->space++;
    } while (c->space < VMC_POOL_MAX_SPACES && sh->pool->space[c->space] == NULL);
    if (c->space < VMC_POOL_MAX_SPACES)
        return false;
    c->space = 0;
    return true;
}

int vmc_share_pack(struct vmc_share *sh, struct vmc_space *s, const struct vmc_share_budget *b,
                   uint64_t want, struct vmc_share_pack_result *out)
{
    const struct vmc_platform *pf = sh->pool->pf;
    uint64_t start = b->ns != 0 ? pf->now_ns(pf->ctx) : 0;

    *out = (struct vmc_share_pack_result){0};
    for (uint64_t looks = 0; !out->pass_done && !spent(sh, b, want, out, start, looks); looks++) {
        if (!sh->pack_objects || s != NULL) {
            bool end = step_page(sh, s, out);
            sh->pack_objects = end && s == NULL;
            out->pass_done = end && s != NULL;
        } else if (sh->pack_object < vmci_load_acquire(&sh->pool->obj_count)) {
            pack_object(sh, sh->pack_object++, out);
        } else {
            sh->pack_object = 0;
            sh->pack_objects = false;
            out->pass_done = true;
        }
    }
    return VMC_OK;
}

int vmc_share_pack_shared(struct vmc_share *sh, const struct vmc_share_budget *b, uint64_t want,
                          struct vmc_share_pack_result *out)
{
    const struct vmc_platform *pf = sh->pool->pf;
    uint64_t start = b->ns != 0 ? pf->now_ns(pf->ctx) : 0;
    uint64_t count = vmci_load_acquire(&sh->pool->obj_count);

    *out = (struct vmc_share_pack_result){0};
    for (uint64_t looks = 0; looks < count && !spent(sh, b, want, out, start, looks); looks++) {
        if (sh->pack_object >= count)
            sh->pack_object = 0;
        pack_object(sh, sh->pack_object++, out);
        out->pass_done = looks + 1 == count;
    }
    return VMC_OK;
}
