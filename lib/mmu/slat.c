/* SPDX-License-Identifier: BSD-2-Clause */
#include "mmu/slat.h"

#define LEVELS    4u
#define ENTRIES   512u
#define ADDR_MASK 0x000ffffffffff000ull

static unsigned shift_of(unsigned level)
{
    return VMC_PAGE_SHIFT + 9 * (level - 1);
}

static uint64_t size_of(unsigned level)
{
    return 1ull << shift_of(level);
}

static unsigned index_of(uint64_t gpa, unsigned level)
{
    return (unsigned)(gpa >> shift_of(level)) & (ENTRIES - 1);
}

/* Bits of a leaf that are its address. */
static uint64_t leaf_hpa(uint64_t e, unsigned level)
{
    return e & ADDR_MASK & ~(size_of(level) - 1);
}

static uint64_t load(const uint64_t *e)
{
    return vmci_load_acquire(e);
}

static uint64_t *table_of(const struct vmci_slat *s, uint64_t e)
{
    return s->pf->pages->to_virt(s->pf->ctx, e & ADDR_MASK);
}

/* ---- tables ---------------------------------------------------------------------------------- */

static uint64_t *new_table(struct vmci_slat *s, uint64_t *hpa)
{
    uint64_t *t = s->pf->pages->alloc(s->pf->ctx, 0, hpa);

    if (t != NULL)
        s->tables++;
    return t;
}

static void count_leaf(struct vmci_slat *s, uint64_t e, unsigned level, int by)
{
    if (level < VMCI_ARRAY_SIZE(s->leaves) && s->fmt->kind(e, level) == VMCI_SLAT_LEAF)
        s->leaves[level] += (uint64_t)(int64_t)by;
}

/* Unlink a table and all below it. Not freed: a processor may be in the middle of a walk. */
static void discard(struct vmci_slat *s, uint64_t *t, unsigned level)
{
    s->last = NULL;
    for (unsigned i = 0; i < ENTRIES; i++) {
        uint64_t e = load(&t[i]);
        if (s->fmt->kind(e, level) == VMCI_SLAT_TABLE)
            discard(s, table_of(s, e), level - 1);
        else
            count_leaf(s, e, level, -1);
    }
    /*
     * The chain goes through the first word, as an entry that is present to no format: the pointer
     * is aligned, and its low bits are clear.
     */
    vmci_store_release((void **)(void *)t, s->garbage);
    s->garbage = t;
}

void vmci_slat_reclaim(struct vmci_slat *s)
{
    while (s->garbage != NULL) {
        void *t = s->garbage;
        s->garbage = *(void **)t;
        s->tables--;
        s->pf->pages->free(s->pf->ctx, t, 0);
    }
}

int vmci_slat_init(struct vmci_slat *s, const struct vmc_platform *pf,
                   const struct vmci_slat_format *fmt, unsigned max_level, bool ad)
{
    memset(s, 0, sizeof(*s));
    s->pf = pf;
    s->fmt = fmt;
    s->max_level = max_level;
    s->ad = ad;
    for (uint32_t r = 0; r < VMCI_ARRAY_SIZE(s->small); r++)
        s->small[r] = fmt->leaf(0, 1, r, VMCI_MT_WB);
    s->root = new_table(s, &s->root_hpa);
    return s->root != NULL ? VMC_OK : VMC_ENOMEM;
}

void vmci_slat_fini(struct vmci_slat *s)
{
    if (s->root == NULL)
        return;
    discard(s, s->root, LEVELS);
    vmci_slat_reclaim(s);
    s->root = NULL;
}

/* Does replacing old by new take something away from a processor that has cached old? */
static bool must_flush(const struct vmci_slat *s, uint64_t old, uint64_t new, unsigned level)
{
    enum vmci_slat_kind was = s->fmt->kind(old, level);

    if (was == VMCI_SLAT_NONE)
        return false;
    if (was != VMCI_SLAT_LEAF || s->fmt->kind(new, level) != VMCI_SLAT_LEAF)
        return true; /* a misconfiguration is never cached, but its tables are */
    return leaf_hpa(old, level) != leaf_hpa(new, level) ||
           (s->fmt->rights(old) & ~s->fmt->rights(new)) != 0;
}

/* What v instead of old means, which is what was there at that moment. */
static int account(struct vmci_slat *s, uint64_t old, uint64_t v, unsigned level)
{
    count_leaf(s, old, level, -1);
    count_leaf(s, v, level, 1);
    bool flush = must_flush(s, old, v, level);
    if (s->fmt->kind(old, level) == VMCI_SLAT_TABLE)
        discard(s, table_of(s, old), level - 1);
    return flush;
}

static int set_entry(struct vmci_slat *s, uint64_t *e, uint64_t v, unsigned level)
{
    return account(s, vmci_exchange(e, v), v, level);
}

/*
 * Map a leaf where something is. If that is the same page, two processors faulted at it, and the
 * other may have been using it since: what it did with it is kept.
 */
static int set_leaf(struct vmci_slat *s, uint64_t *e, uint64_t leaf, unsigned level)
{
    uint64_t old = load(e), v;

    do {
        bool same = s->fmt->kind(old, level) == VMCI_SLAT_LEAF &&
                    leaf_hpa(old, level) == leaf_hpa(leaf, level);
        v = leaf | (same ? old & (s->fmt->accessed | s->fmt->dirty) : 0);
    } while (!__atomic_compare_exchange_n(e, &old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return account(s, old, v, level);
}

/* Replace a large leaf by a table of leaves one level smaller: the same memory, the same rights. */
static int split(struct vmci_slat *s, uint64_t *e, unsigned level)
{
    uint64_t old = load(e);
    uint64_t hpa;
    uint64_t *t = new_table(s, &hpa);

    if (t == NULL)
        return VMC_ENOMEM;
    uint64_t small = old;
    if (level == 2) /* the bit that makes it large means something else, or nothing, below */
        small &= ~(s->fmt->leaf(0, 2, 0, 0) & ~s->fmt->leaf(0, 1, 0, 0));
    for (unsigned i = 0; i < ENTRIES; i++)
        t[i] = small + i * size_of(level - 1);
    s->leaves[level]--;
    s->leaves[level - 1] += ENTRIES;
    /* The processor may set A and D in the old leaf meanwhile. */
    while (!__atomic_compare_exchange_n(e, &old, s->fmt->table(hpa), false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
        uint64_t ad = old & (s->fmt->accessed | s->fmt->dirty);
        for (unsigned i = 0; i < ENTRIES; i++)
            t[i] |= ad;
    }
    return VMC_OK;
}

/* The entry for gpa at a level, with the tables above it made; NULL: no memory. *flush is set. */
static uint64_t *descend(struct vmci_slat *s, uint64_t gpa, unsigned level, int *flush)
{
    uint64_t *t = s->root;

    for (unsigned l = LEVELS; l > level; l--) {
        uint64_t *e = &t[index_of(gpa, l)];
        switch (s->fmt->kind(load(e), l)) {
        case VMCI_SLAT_TABLE:
            break;
        case VMCI_SLAT_LEAF:
            if (split(s, e, l) != VMC_OK)
                return NULL;
            *flush = 1; /* two sizes of one page must not live side by side for long */
            break;
        default: {
            uint64_t hpa;
            if (new_table(s, &hpa) == NULL)
                return NULL;
            *flush |= set_entry(s, e, s->fmt->table(hpa), l);
            break;
        }
        }
        t = table_of(s, load(e));
    }
    return &t[index_of(gpa, level)];
}

/* ---- map ------------------------------------------------------------------------------------- */

int vmci_slat_map(struct vmci_slat *s, uint64_t gpa, uint64_t hpa, unsigned level, uint32_t rights,
                  unsigned memtype)
{
    int flush = 0;
    uint64_t v = s->fmt->leaf(hpa, level, rights, memtype);
    uint64_t *e;

    if (level == 1 && s->last != NULL && s->last_2m == gpa >> shift_of(2)) {
        e = &s->last[index_of(gpa, 1)];
    } else {
        e = descend(s, gpa, level, &flush);
        if (e == NULL)
            return VMC_ENOMEM;
        if (level == 1) {
            s->last = e - index_of(gpa, 1);
            s->last_2m = gpa >> shift_of(2);
        }
    }
    if (likely(load(e) == 0)) { /* nothing was there, and nobody but us fills entries */
        vmci_store_release(e, v);
        s->leaves[level]++;
        return flush;
    }
    return flush | set_leaf(s, e, v, level);
}

int vmci_slat_map_mmio(struct vmci_slat *s, uint64_t gpa)
{
    int flush = 0;

    if (s->fmt->mmio == 0)
        return VMC_ENOTSUP;
    uint64_t *e = descend(s, gpa, 1, &flush);
    if (e == NULL)
        return VMC_ENOMEM;
    return flush | set_entry(s, e, s->fmt->mmio, 1);
}

struct vmci_slat_entry vmci_slat_lookup(const struct vmci_slat *s, uint64_t gpa)
{
    struct vmci_slat_entry out = {.kind = VMCI_SLAT_NONE, .level = LEVELS};
    const uint64_t *t = s->root;

    for (unsigned l = LEVELS; l > 0; l--) {
        uint64_t e = load(&t[index_of(gpa, l)]);
        out.level = l;
        out.kind = s->fmt->kind(e, l);
        if (out.kind == VMCI_SLAT_TABLE) {
            t = table_of(s, e);
            continue;
        }
        if (out.kind == VMCI_SLAT_LEAF) {
            out.rights = s->fmt->rights(e);
            out.hpa = leaf_hpa(e, l) | (gpa & (size_of(l) - 1));
            out.accessed = (e & s->fmt->accessed) != 0;
            out.dirty = (e & s->fmt->dirty) != 0;
        }
        break;
    }
    return out;
}

/* ---- ranges ---------------------------------------------------------------------------------- */

struct visit {
    struct vmci_slat *s;
    enum vmci_slat_op op;
    uint64_t first, last; /* bytes, inclusive */
    vmci_slat_seen *seen;
    vmci_slat_stale *stale; /* UNMAP only what it says */
    void *ctx;
    int flush;
};

static bool written(const struct vmci_slat *s, uint64_t e)
{
    return (e & (s->ad ? s->fmt->dirty : s->fmt->write)) != 0;
}

static void tell(struct visit *v, uint64_t gpa, unsigned level, uint64_t old)
{
    if (v->seen != NULL)
        v->seen(v->ctx, gpa, size_of(level), written(v->s, old));
}

/* What the processor did with it up to this moment is told. */
static void unmap(struct visit *v, uint64_t *e, uint64_t gpa, unsigned level)
{
    uint64_t old = vmci_exchange(e, 0ull);

    tell(v, gpa, level, old);
    v->flush |= account(v->s, old, 0, level);
}

static void visit_leaf(struct visit *v, uint64_t *e, uint64_t gpa, unsigned level)
{
    struct vmci_slat *s = v->s;
    uint64_t bit, old;

    switch (v->op) {
    case VMCI_SLAT_UNMAP:
        old = load(e);
        if (v->stale != NULL &&
            !v->stale(v->ctx, gpa, level, leaf_hpa(old, level), s->fmt->rights(old)))
            return;
        unmap(v, e, gpa, level);
        return;
    case VMCI_SLAT_PROTECT:
        bit = s->fmt->write;
        break;
    case VMCI_SLAT_CLEAN:
        bit = s->fmt->dirty;
        break;
    default:
        bit = s->fmt->accessed;
        break;
    }
    if ((load(e) & bit) == 0)
        return;
    old = vmci_fetch_and(e, ~bit);
    tell(v, gpa, level, old);
    v->flush = 1;
}

static void visit_table(struct visit *v, uint64_t *t, uint64_t base, unsigned level)
{
    struct vmci_slat *s = v->s;
    unsigned from = base >= v->first ? 0 : index_of(v->first, level);

    for (unsigned i = from; i < ENTRIES; i++) {
        uint64_t gpa = base + i * size_of(level);
        if (gpa > v->last)
            break;
        enum vmci_slat_kind k = s->fmt->kind(load(&t[i]), level);
        bool whole = gpa >= v->first && v->last - gpa >= size_of(level) - 1;
        if (k == VMCI_SLAT_LEAF && level > 1 && !whole &&
            (v->op == VMCI_SLAT_PROTECT || v->op == VMCI_SLAT_CLEAN)) {
            if (split(s, &t[i], level) == VMC_OK) {
                v->flush = 1;
                k = VMCI_SLAT_TABLE;
            } else {
                unmap(v, &t[i], gpa, level);
                continue;
            }
        }
        if (k == VMCI_SLAT_TABLE)
            visit_table(v, table_of(s, load(&t[i])), gpa, level - 1);
        else if (k == VMCI_SLAT_LEAF)
            visit_leaf(v, &t[i], gpa, level);
        else if (k == VMCI_SLAT_MMIO && v->op == VMCI_SLAT_UNMAP)
            v->flush |= set_entry(s, &t[i], 0, level);
    }
}

static int visit_range(struct visit *v, uint64_t gpa, uint64_t bytes)
{
    v->first = bytes != 0 ? gpa : 0;
    v->last = bytes != 0 ? gpa + bytes - 1 : (1ull << 48) - 1;
    visit_table(v, v->s->root, 0, LEVELS);
    return v->flush;
}

int vmci_slat_range(struct vmci_slat *s, enum vmci_slat_op op, uint64_t gpa, uint64_t bytes,
                    vmci_slat_seen *seen, void *ctx)
{
    struct visit v = {.s = s, .op = op, .seen = seen, .ctx = ctx};

    return visit_range(&v, gpa, bytes);
}

int vmci_slat_recheck(struct vmci_slat *s, uint64_t gpa, uint64_t bytes, vmci_slat_stale *stale,
                      vmci_slat_seen *seen, void *ctx)
{
    struct visit v = {.s = s, .op = VMCI_SLAT_UNMAP, .seen = seen, .stale = stale, .ctx = ctx};

    return visit_range(&v, gpa, bytes);
}

/* ---- merge ----------------------------------------------------------------------------------- */

int vmci_slat_merge(struct vmci_slat *s, uint64_t gpa, unsigned level)
{
    uint64_t *t = s->root;
    unsigned l;

    if (level < 2 || level > s->max_level)
        return 0;
    for (l = LEVELS; l > level; l--) {
        uint64_t e = load(&t[index_of(gpa, l)]);
        if (s->fmt->kind(e, l) != VMCI_SLAT_TABLE)
            return 0;
        t = table_of(s, e);
    }
    uint64_t *slot = &t[index_of(gpa, level)];
    if (s->fmt->kind(load(slot), level) != VMCI_SLAT_TABLE)
        return 0;
    const uint64_t *small = table_of(s, load(slot));
    uint64_t ad = s->fmt->accessed | s->fmt->dirty;
    uint64_t first = load(&small[0]) & ~ad;
    uint64_t seen = 0;
    if (s->fmt->kind(first, level - 1) != VMCI_SLAT_LEAF ||
        (first & ADDR_MASK & (size_of(level) - 1)) != 0)
        return 0;
    for (unsigned i = 0; i < ENTRIES; i++) {
        uint64_t e = load(&small[i]);
        if ((e & ~ad) != first + i * size_of(level - 1))
            return 0;
        seen |= e & ad;
    }
    uint64_t large = first | (s->fmt->leaf(0, 2, 0, 0) & ~s->fmt->leaf(0, 1, 0, 0));
    /* Until the flush a processor may set bits in the small leaves: as if it had been set before.
     */
    return set_entry(s, slot, large | seen | (s->ad ? ad : 0), level);
}
