/* SPDX-License-Identifier: BSD-2-Clause */
#include "mmu/shadow_int.h"

#define FOUR_GIB  (1ull << 32)
#define LOW_TRIES 16u

/* Notes beside the entries of a level-2 table: what lies below is pieces of a large guest page. */
#define NOTE_LARGE 1u

#define FLAT_TOP 3u /* level of the root outside long mode */

/* ---- pages ----------------------------------------------------------------------------------- */

static int make_page(struct vmci_shadow *sh, struct vmci_shadow_page *p)
{
    const struct vmc_platform *pf = sh->pf;

    p->pt = pf->pages->alloc(pf->ctx, 0, &p->hpa);
    if (p->pt == NULL)
        return VMC_ENOMEM;
    p->note = vmci_alloc_aligned(pf, VMC_PAGE_SIZE, VMC_PAGE_SIZE);
    if (p->note == NULL) {
        pf->pages->free(pf->ctx, p->pt, 0);
        p->pt = NULL;
        return VMC_ENOMEM;
    }
    sh->made++;
    return VMC_OK;
}

/* A page with which CR3 of PAE paging can be loaded: try some, then give back the others. */
static int make_root(struct vmci_shadow *sh)
{
    const struct vmc_platform *pf = sh->pf;
    void *high[LOW_TRIES];
    unsigned n = 0;
    int rc;

    for (;;) {
        rc = make_page(sh, &sh->page[0]);
        if (rc != VMC_OK || sh->page[0].hpa < FOUR_GIB || n == LOW_TRIES)
            break;
        high[n++] = sh->page[0].pt;
        vmci_free_aligned(pf, sh->page[0].note, VMC_PAGE_SIZE, VMC_PAGE_SIZE);
        sh->page[0].pt = NULL;
        sh->made--;
    }
    while (n > 0)
        pf->pages->free(pf->ctx, high[--n], 0);
    if (rc == VMC_OK && sh->page[0].hpa >= FOUR_GIB)
        rc = VMC_ENOMEM;
    return rc;
}

struct vmci_shadow_page *vmci_shadow_take(struct vmci_shadow *sh, unsigned level)
{
    if (sh->used == sh->limit)
        return NULL;
    struct vmci_shadow_page *p = &sh->page[sh->used];
    if (p->pt == NULL && make_page(sh, p) != VMC_OK)
        return NULL;
    memset(p->pt, 0, VMC_PAGE_SIZE);
    memset(p->note, 0, VMC_PAGE_SIZE);
    memset(p->used, 0, sizeof(p->used));
    p->level = (uint8_t)level;
    p->key = 0;
    p->guest = NULL;
    sh->used++;
    return p;
}

int vmci_shadow_init(struct vmci_shadow *sh, const struct vmc_platform *pf, struct vmc_mem *mem,
                     uint64_t (*to_phys)(void *ctx, const void *va, uint64_t *run))
{
    memset(sh, 0, sizeof(*sh));
    sh->pf = pf;
    sh->mem = mem;
    sh->to_phys = to_phys;
    sh->limit = VMCI_SHADOW_MAX_PAGES;
    sh->page = vmci_zalloc(pf, VMCI_SHADOW_MAX_PAGES * sizeof(sh->page[0]));
    if (sh->page == NULL)
        return VMC_ENOMEM;
    int rc = make_root(sh);
    if (rc != VMC_OK) {
        vmci_shadow_fini(sh);
        return rc;
    }
    sh->root_hpa = sh->page[0].hpa;
    (void)vmci_shadow_take(sh, FLAT_TOP); /* the root: just made */
    return VMC_OK;
}

void vmci_shadow_fini(struct vmci_shadow *sh)
{
    if (sh->page == NULL)
        return;
    for (uint32_t i = 0; i < VMCI_SHADOW_MAX_PAGES && sh->page[i].pt != NULL; i++) {
        sh->pf->pages->free(sh->pf->ctx, sh->page[i].pt, 0);
        vmci_free_aligned(sh->pf, sh->page[i].note, VMC_PAGE_SIZE, VMC_PAGE_SIZE);
    }
    vmci_free(sh->pf, sh->page, VMCI_SHADOW_MAX_PAGES * sizeof(sh->page[0]));
    sh->page = NULL;
}

/* Outside long mode all bits of an entry are spoken for: the page is found by its address. */
static struct vmci_shadow_page *below(const struct vmci_shadow *sh, uint64_t entry)
{
    for (uint32_t i = 0; i < sh->used; i++)
        if (sh->page[i].hpa == (entry & SH_ADDR))
            return &sh->page[i];
    return NULL;
}

/* ---- flush ----------------------------------------------------------------------------------- */

static void drop_leaves(struct vmci_shadow *sh, struct vmci_shadow_page *p)
{
    if (vmci_load_relaxed(&sh->mem->dirty_clients) == 0)
        return;
    for (unsigned i = 0; i < SH_ENTRIES; i++)
        if (p->pt[i] & SH_W)
            vmci_mem_mark_dirty(sh->mem, sh_leaf_gpa(sh, p, i), 1);
}

/* All pages but the root outside long mode, which has its memory below 4 GiB. */
static void drop_all(struct vmci_shadow *sh)
{
    for (uint32_t i = 1; i < sh->used; i++)
        if (sh->page[i].level == 1)
            drop_leaves(sh, &sh->page[i]);
    sh->used = 0;
    (void)vmci_shadow_take(sh, FLAT_TOP);
    sh->root = 0;
    sh->root_hpa = sh->page[0].hpa;
    sh->opaque = false;
    memset(sh->chain, 0, sizeof(sh->chain));
    sh->flushes++;
}

void vmci_shadow_flush(struct vmci_shadow *sh)
{
    drop_all(sh);
    /* Without memory for a root it stays the other, which is empty and faults. */
    if (sh->long_mode)
        (void)vmci_shadow_cache_root(sh, sh->cr3);
}

void vmci_shadow_load(struct vmci_shadow *sh, bool long_mode, uint64_t cr3)
{
    bool keep = long_mode && sh->long_mode && !sh->opaque;

    if (keep && vmci_shadow_cache_root(sh, cr3))
        return;
    if (sh->long_mode != long_mode) {
        drop_all(sh); /* with the notes of the mode that they belong to */
        sh->long_mode = long_mode;
    }
    sh->cr3 = cr3 & SH_ADDR;
    vmci_shadow_flush(sh);
}

/* The table of a level that covers gva, or NULL. */
static struct vmci_shadow_page *find(const struct vmci_shadow *sh, uint64_t gva, unsigned level)
{
    struct vmci_shadow_page *p = &sh->page[0];

    for (unsigned l = FLAT_TOP; l > level && p != NULL; l--) {
        uint64_t e = p->pt[sh_index(gva, l)];
        p = (e & SH_P) != 0 ? below(sh, e) : NULL;
    }
    return p;
}

/* Drop what a level-2 entry holds: pieces of one large page. */
static void drop_large(struct vmci_shadow *sh, struct vmci_shadow_page *pd, unsigned i)
{
    struct vmci_shadow_page *pt = (pd->pt[i] & SH_P) != 0 ? below(sh, pd->pt[i]) : NULL;

    if (pt == NULL)
        return;
    drop_leaves(sh, pt);
    memset(pt->pt, 0, VMC_PAGE_SIZE);
    pd->note[i] = 0;
}

static void flat_invlpg(struct vmci_shadow *sh, uint64_t gva)
{
    struct vmci_shadow_page *pd = find(sh, gva, 2);

    if (pd == NULL)
        return;
    unsigned i = sh_index(gva, 2);
    /* A 4 MiB page of 32-bit paging is two of our 2 MiB ranges. */
    unsigned pair = i ^ 1;
    if ((pd->note[i] | pd->note[pair]) & NOTE_LARGE) {
        drop_large(sh, pd, i);
        drop_large(sh, pd, pair);
        return;
    }
    struct vmci_shadow_page *pt = find(sh, gva, 1);
    if (pt == NULL)
        return;
    i = sh_index(gva, 1);
    if (pt->pt[i] & SH_W)
        vmci_mem_mark_dirty(sh->mem, pt->note[i], 1);
    pt->pt[i] = 0;
}

void vmci_shadow_invlpg(struct vmci_shadow *sh, uint64_t gva)
{
    if (!sh->long_mode)
        flat_invlpg(sh, gva);
    else if (sh->opaque)
        vmci_shadow_flush(sh);
    else
        vmci_shadow_cache_invlpg(sh, gva);
}

uint64_t vmci_shadow_peek(const struct vmci_shadow *sh, uint64_t gva)
{
    if (sh->long_mode)
        return sh->root != 0 ? vmci_shadow_cache_peek(sh, gva) : 0;
    const struct vmci_shadow_page *pt = find(sh, gva, 1);
    return pt != NULL ? pt->pt[sh_index(gva, 1)] : 0;
}

/* ---- fill ------------------------------------------------------------------------------------ */

/* The leaf table for gva, made where missing; NULL: no page is left. */
static struct vmci_shadow_page *leaf_table(struct vmci_shadow *sh, uint64_t gva, uint64_t bytes)
{
    struct vmci_shadow_page *p = &sh->page[0];

    for (unsigned l = FLAT_TOP; l > 1; l--) {
        uint64_t *e = &p->pt[sh_index(gva, l)];
        struct vmci_shadow_page *next;
        if ((*e & SH_P) != 0) {
            next = below(sh, *e);
        } else {
            next = vmci_shadow_take(sh, l - 1);
            if (next == NULL)
                return NULL;
            /* PDPTEs of PAE paging have no rights (SDM 3A table 4-8). */
            uint64_t rights = l == 3 ? 0 : SH_W | SH_U;
            *e = next->hpa | SH_P | rights;
        }
        if (l == 2 && bytes > VMC_PAGE_SIZE)
            p->note[sh_index(gva, 2)] |= NOTE_LARGE;
        p = next;
    }
    return p;
}

/* Rights of the shadow entry (SDM 3A 4.6): CR0.WP is always set in the processor. */
static uint64_t leaf_rights(const struct vmc_paging *pg, const struct vmc_walk *w, bool may_write)
{
    uint64_t e = SH_P;
    bool user = (w->rights & VMC_RIGHT_USER) != 0;
    bool exec = (w->rights & VMC_RIGHT_EXEC) != 0;
    bool paging = (pg->cr0 & VMC_CR0_PG) != 0;

    if (may_write && (w->rights & VMC_RIGHT_WRITE) == 0) {
        /*
         * A supervisor's write to a read-only page with WP clear: writable for the supervisor
         * alone. That hides the page from user accesses, which fault and come back read-only; and
         * SMEP must go on seeing a user page.
         */
        if (user && (pg->cr4 & VMC_CR4_SMEP) != 0)
            exec = false;
        user = false;
    }
    if (may_write)
        e |= SH_W;
    if (user || !paging)
        e |= SH_U;
    if (!exec)
        e |= SH_NX;
    return e;
}

static enum vmci_shadow_result flat_fill(struct vmci_shadow *sh, const struct vmc_paging *pg,
                                         uint64_t gva, const struct vmc_walk *w, uint64_t hpa,
                                         bool may_write)
{
    struct vmci_shadow_page *pt = leaf_table(sh, gva, w->page_bytes);

    if (pt == NULL)
        return VMCI_SHADOW_NOMEM;
    unsigned i = sh_index(gva, 1);
    pt->note[i] = w->gpa & ~(uint64_t)(VMC_PAGE_SIZE - 1);
    vmci_store_release(&pt->pt[i], hpa | leaf_rights(pg, w, may_write));
    sh->fills++;
    return VMCI_SHADOW_MAPPED;
}

static enum vmci_shadow_result fill(struct vmci_shadow *sh, const struct vmc_paging *pg,
                                    uint64_t gva, const struct vmc_walk *w, uint64_t hpa,
                                    bool may_write)
{
    if (!sh->long_mode)
        return flat_fill(sh, pg, gva, w, hpa, may_write);
    if (sh->root == 0) /* there was no page for it */
        return VMCI_SHADOW_NOMEM;
    return vmci_shadow_cache_fill(sh, pg, gva, w, hpa, may_write);
}

enum vmci_shadow_result vmci_shadow_fault(struct vmci_shadow *sh, const struct vmc_paging *pg,
                                          uint64_t gva, uint32_t access, struct vmc_walk *w,
                                          bool *flushed)
{
    struct vmci_page page;
    bool write = (access & VMC_ACC_WRITE) != 0;
    bool long_mode = (pg->efer & VMC_EFER_LMA) != 0;
    uint64_t run;

    *flushed = sh->long_mode != long_mode || (long_mode && sh->cr3 != (pg->cr3 & SH_ADDR));
    if (*flushed)
        vmci_shadow_load(sh, long_mode, pg->cr3);
    if (vmc_walk_gva(sh->mem, pg, gva, access, w) != VMC_OK)
        return VMCI_SHADOW_FAULT;
    int rc = vmci_mem_resolve(sh->mem, w->gpa, write, &page);
    if (rc == VMC_EAGAIN)
        return VMCI_SHADOW_ABSENT;
    if (rc != VMC_OK || (write && !page.writable))
        return VMCI_SHADOW_EMULATE;
    /* With CR0.WP clear: rights that the levels of a table of long mode cannot express, and that
       would hide the page from SMAP in the others. */
    if ((long_mode || (pg->cr4 & VMC_CR4_SMAP) != 0) && write && (w->rights & VMC_RIGHT_WRITE) == 0)
        return VMCI_SHADOW_EMULATE;
    uint64_t hpa = sh->to_phys(sh->pf->ctx, page.hva, &run);
    if (hpa == UINT64_MAX)
        return VMCI_SHADOW_NOMEM;
    /*
     * Writing is allowed when this is a write, which has set the guest's dirty bit and ours; or
     * when the guest's is set already and nobody logs.
     */
    bool may_write = write || ((w->rights & VMC_RIGHT_WRITE) && (w->rights & VMC_RIGHT_DIRTY) &&
                               page.writable && vmci_load_relaxed(&sh->mem->dirty_clients) == 0);
    enum vmci_shadow_result r = fill(sh, pg, gva, w, hpa, may_write);
    if (r == VMCI_SHADOW_NOMEM) {
        vmci_shadow_flush(sh);
        *flushed = true;
        r = fill(sh, pg, gva, w, hpa, may_write);
    }
    return r;
}
