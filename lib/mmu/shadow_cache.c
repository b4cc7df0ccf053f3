/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Shadow tables of long mode, kept across changes of CR3.
 *
 * A shadow table stands for a table of the guest (key: its address and level) or for a piece of a
 * large page (key: the memory, and whether the large entry was dirty), wherever it is linked. Its
 * entries have the rights of the guest's entry alone; the processor combines the levels as it does
 * for the guest. Beside each is the guest's entry that it was made from.
 *
 * The guest may keep what it has not changed: a flush begins a round, in which what is reachable
 * from the root is compared with the guest's tables and dropped where it differs. A table that was
 * not reachable then is compared when it is linked again. Contents of pieces depend on the memory
 * map alone, whose changes drop everything.
 */
#include "mmu/shadow_int.h"

#define KEY_PIECE 0x8ull
#define KEY_DIRTY 0x10ull

#define LINK_SHIFT 52 /* the index of the next page is in bits that the processor ignores */
#define AHEAD      8u /* entries of one fault: a line of the guest's table */

static uint64_t bytes_of(unsigned level)
{
    return 1ull << (VMC_PAGE_SHIFT + 9 * (level - 1));
}

static struct vmci_shadow_page *linked(const struct vmci_shadow *sh, uint64_t entry)
{
    return &sh->page[(entry >> LINK_SHIFT) & (VMCI_SHADOW_MAX_PAGES - 1)];
}

static void put(struct vmci_shadow_page *p, unsigned i, uint64_t entry, uint64_t note)
{
    p->note[i] = note;
    p->used[i / 64] |= VMCI_BIT(i % 64);
    vmci_store_release(&p->pt[i], entry);
}

static void drop(struct vmci_shadow *sh, struct vmci_shadow_page *p, unsigned i)
{
    if (p->level == 1 && (p->pt[i] & SH_W) != 0 && vmci_load_relaxed(&sh->mem->dirty_clients) != 0)
        vmci_mem_mark_dirty(sh->mem, sh_leaf_gpa(sh, p, i), 1);
    vmci_store_release(&p->pt[i], 0);
    p->used[i / 64] &= ~VMCI_BIT(i % 64);
}

/* ---- comparing --------------------------------------------------------------------------------
 */

/* Bounded by the number of pages: each is looked at once a round. */
static void compare(struct vmci_shadow *sh, struct vmci_shadow_page *p)
{
    if (p->round == sh->round)
        return;
    p->round = sh->round;
    if (p->guest == NULL)
        return;
    for (unsigned w = 0; w < SH_ENTRIES / 64; w++) {
        for (uint64_t left = p->used[w]; left != 0; left &= left - 1) {
            unsigned i = w * 64 + (unsigned)__builtin_ctzll(left);
            if (vmci_load_relaxed(&p->guest[i]) != p->note[i])
                drop(sh, p, i);
            else if (p->level > 1)
                compare(sh, linked(sh, p->pt[i]));
        }
    }
}

/* ---- pages by what they stand for -------------------------------------------------------------
 */

static unsigned chain_of(uint64_t key)
{
    return (unsigned)((key * 0x9e3779b97f4a7c15ull) >> 56) & (VMCI_SHADOW_CHAINS - 1);
}

static const uint64_t *guest_table(struct vmci_shadow *sh, uint64_t gpa)
{
    const struct vmci_mem_slot *s = vmci_mem_find(sh->mem, gpa);

    if (s == NULL || s->space != NULL) {
        sh->opaque = true;
        return NULL;
    }
    return (const uint64_t *)(const void *)(s->hva + (gpa - s->gpa));
}

/* The page of a key, made or found and then compared; NULL: none is left. */
static struct vmci_shadow_page *get(struct vmci_shadow *sh, uint64_t base, unsigned level,
                                    uint64_t kind)
{
    uint64_t key = base | level | kind;
    uint16_t *head = &sh->chain[chain_of(key)];

    for (unsigned i = *head; i != 0; i = sh->page[i - 1].next) {
        if (sh->page[i - 1].key == key) {
            compare(sh, &sh->page[i - 1]);
            return &sh->page[i - 1];
        }
    }
    struct vmci_shadow_page *p = vmci_shadow_take(sh, level);
    if (p == NULL)
        return NULL;
    p->key = key;
    p->base = base;
    p->dirty = (kind & KEY_DIRTY) != 0;
    p->guest = (kind & KEY_PIECE) ? NULL : guest_table(sh, base);
    p->round = sh->round;
    p->next = *head;
    *head = (uint16_t)(1 + (p - sh->page));
    return p;
}

bool vmci_shadow_cache_root(struct vmci_shadow *sh, uint64_t cr3)
{
    uint32_t before = sh->used;

    sh->round++;
    struct vmci_shadow_page *p = get(sh, cr3 & SH_ADDR, 4, 0);
    if (p == NULL)
        return false;
    sh->kept += sh->used == before;
    sh->cr3 = cr3 & SH_ADDR;
    sh->root = (uint32_t)(p - sh->page);
    sh->root_hpa = p->hpa;
    return true;
}

/*
 * Entries on the way to gva that are no longer so. What hangs below a dropped one misses this and
 * further calls: the round ends, so that it is compared before it is linked again.
 */
void vmci_shadow_cache_invlpg(struct vmci_shadow *sh, uint64_t gva)
{
    struct vmci_shadow_page *p = &sh->page[sh->root];

    for (unsigned level = 4; level > 0; level--) {
        unsigned i = sh_index(gva, level);
        if ((p->pt[i] & SH_P) == 0 || p->guest == NULL)
            return;
        if (vmci_load_relaxed(&p->guest[i]) != p->note[i]) {
            drop(sh, p, i);
            if (level > 1)
                sh->round++;
            return;
        }
        if (level > 1)
            p = linked(sh, p->pt[i]);
    }
}

uint64_t vmci_shadow_cache_peek(const struct vmci_shadow *sh, uint64_t gva)
{
    const struct vmci_shadow_page *p = &sh->page[sh->root];
    uint64_t allow = ~0ull, deny = 0, e;

    for (unsigned level = 4;; level--) {
        e = p->pt[sh_index(gva, level)];
        if ((e & SH_P) == 0)
            return 0;
        allow &= e | ~(SH_W | SH_U);
        deny |= e & SH_NX;
        if (level == 1)
            return (e & allow) | deny;
        p = linked(sh, e);
    }
}

/* ---- filling ----------------------------------------------------------------------------------
 */

static bool read_entry(struct vmci_shadow *sh, const struct vmci_shadow_page *p, unsigned i,
                       uint64_t *out)
{
    struct vmci_page page;

    if (p->guest != NULL) {
        *out = vmci_load_relaxed(&p->guest[i]);
    } else {
        if (vmci_mem_resolve(sh->mem, p->base, false, &page) != VMC_OK)
            return false;
        *out = vmci_load_relaxed((const uint64_t *)(const void *)page.hva + i);
    }
    return (*out & SH_P) != 0;
}

static bool is_piece(const struct vmci_shadow_page *p)
{
    return (p->key & KEY_PIECE) != 0;
}

/* What the page below entry i, of value e, stands for. */
static struct vmci_shadow_page *below(struct vmci_shadow *sh, const struct vmci_shadow_page *p,
                                      unsigned i, uint64_t e)
{
    unsigned level = p->level;

    if (is_piece(p))
        return get(sh, p->base + i * bytes_of(level), level - 1,
                   KEY_PIECE | (p->dirty ? KEY_DIRTY : 0));
    if (level < 4 && (e & SH_PS) != 0)
        return get(sh, e & SH_ADDR & ~(bytes_of(level) - 1), level - 1,
                   KEY_PIECE | ((e & SH_D) ? KEY_DIRTY : 0));
    return get(sh, e & SH_ADDR, level - 1, 0);
}

/* Map a page of the same line if the processor could have: accessed, and no right beyond D. */
static void map_ahead(struct vmci_shadow *sh, const struct vmc_paging *pg,
                      struct vmci_shadow_page *p, unsigned i)
{
    struct vmci_page page;
    uint64_t e = SH_P | SH_A | SH_W | SH_U | (p->dirty ? SH_D : 0), note = 1, gpa, run;

    if (is_piece(p)) {
        gpa = p->base + ((uint64_t)i << VMC_PAGE_SHIFT);
    } else {
        note = e = vmci_load_relaxed(&p->guest[i]);
        gpa = e & SH_ADDR;
    }
    if ((e & (SH_P | SH_A)) != (SH_P | SH_A) || ((e & SH_NX) != 0 && (pg->efer & VMC_EFER_NX) == 0))
        return;
    const struct vmci_mem_slot *s = vmci_mem_find(sh->mem, gpa);
    if (s == NULL || s->space != NULL || vmci_mem_resolve(sh->mem, gpa, false, &page) != VMC_OK)
        return;
    uint64_t hpa = sh->to_phys(sh->pf->ctx, page.hva, &run);
    if (hpa == UINT64_MAX)
        return;
    uint64_t rights = e & (SH_U | SH_NX);
    if ((e & (SH_W | SH_D)) == (SH_W | SH_D) && page.writable &&
        vmci_load_relaxed(&sh->mem->dirty_clients) == 0)
        rights |= SH_W;
    put(p, i, hpa | SH_P | rights, note);
    sh->ahead++;
}

enum vmci_shadow_result vmci_shadow_cache_fill(struct vmci_shadow *sh, const struct vmc_paging *pg,
                                               uint64_t gva, const struct vmc_walk *w, uint64_t hpa,
                                               bool may_write)
{
    struct vmci_shadow_page *p = &sh->page[sh->root], *next;
    uint64_t e = 1;
    unsigned i;

    for (unsigned level = 4; level > 1; level--) {
        i = sh_index(gva, level);
        e = 1;
        if (!is_piece(p) && !read_entry(sh, p, i, &e))
            return VMCI_SHADOW_MAPPED; /* changed meanwhile: it faults again */
        if ((p->pt[i] & SH_P) != 0 && p->note[i] == e) {
            p = linked(sh, p->pt[i]);
            continue;
        }
        next = below(sh, p, i, e);
        if (next == NULL)
            return VMCI_SHADOW_NOMEM;
        uint64_t rights = is_piece(p) ? SH_W | SH_U : e & (SH_W | SH_U | SH_NX);
        put(p, i, next->hpa | (uint64_t)(next - sh->page) << LINK_SHIFT | SH_P | rights, e);
        p = next;
    }
    i = sh_index(gva, 1);
    e = SH_W | SH_U | (p->dirty ? SH_D : 0) | (p->base + ((uint64_t)i << VMC_PAGE_SHIFT));
    if (!is_piece(p) && !read_entry(sh, p, i, &e))
        return VMCI_SHADOW_MAPPED;
    /* What the walk found must be what the entry is remembered for: another vCPU may have changed
       it in between. */
    if (((e ^ w->gpa) & SH_ADDR) != 0 ||
        (may_write && (w->rights & VMC_RIGHT_DIRTY) != 0 && (e & SH_D) == 0))
        return VMCI_SHADOW_MAPPED;
    uint64_t rights = (e & (SH_U | SH_NX)) | (may_write ? e & SH_W : 0);
    put(p, i, hpa | SH_P | rights, is_piece(p) ? 1 : e);
    sh->fills++;
    if (is_piece(p) || p->guest != NULL)
        for (unsigned k = i & ~(AHEAD - 1), n = 0; n < AHEAD; k++, n++)
            if ((p->used[k / 64] & VMCI_BIT(k % 64)) == 0)
                map_ahead(sh, pg, p, k);
    return VMCI_SHADOW_MAPPED;
}
