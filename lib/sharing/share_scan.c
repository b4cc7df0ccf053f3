/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which pages to look at, in which order, and how many. The dirty bitmaps of the spaces are the
 * only list there is: a page whose bit is clear was looked at since it was written, so a pass over
 * idle VMs reads one bit a page and nothing else.
 */
#include "sharing/sharing_priv.h"

#define SITE       "sharing"
#define WINDOW     32u /* words of 64 pages before the order is chosen anew */
#define STRIDE     4u  /* words of each space before the next space has its turn */
#define EXPLORE    8u  /* every so many windows the order that yields less has its turn */
#define MIN_BUDGET 256u
#define MAX_BUDGET (1u << 22)

static int entropy(const struct vmc_platform *pf, uint64_t *seed)
{
    if (*seed != 0 || !vmci_pf_has(pf, entropy))
        return VMC_OK;
    return pf->entropy->fill(pf->ctx, seed, sizeof(*seed));
}

/* Objects of a scanner that was there before are of no group of this one. */
static void forget_marks(struct vmc_pool *p)
{
    for (uint32_t at = 0; at < vmci_load_acquire(&p->obj_count); at += VMCI_OBJ_CHUNK) {
        vmci_lock(&p->lock);
        for (uint32_t i = at; i < at + VMCI_OBJ_CHUNK; i++)
            vmci_object(p, i)->mark = VMCI_NO_MARK;
        vmci_unlock(&p->lock);
    }
}

int vmc_share_create(struct vmc_pool *pool, const struct vmc_share_config *cfg,
                     struct vmc_share **out, struct vmc_error *err)
{
    const struct vmc_platform *pf = pool->pf;
    int level = cfg->level != 0 ? cfg->level : 3;

    if (cfg->size != sizeof(*cfg) || cfg->order > VMC_SHARE_RANDOM ||
        cfg->max_packed > SHARE_PACKED_MOST)
        return vmci_error(err, VMC_EINVAL, SITE, "size %u, order %u or max_packed %u", cfg->size,
                          cfg->order, cfg->max_packed);
    struct vmc_share *sh = vmci_zalloc(pf, sizeof(*sh));
    if (sh == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory for a scanner");
    if (vmci_exchange(&pool->scanned, 1) != 0) {
        vmci_free(pf, sh, sizeof(*sh));
        return vmci_error(err, VMC_EEXIST, SITE, "the pool has a scanner");
    }
    *sh = (struct vmc_share){.pool = pool,
                             .hash = vmci_page_hash_best(),
                             .seed = cfg->seed,
                             .order = cfg->order,
                             .max_packed = cfg->max_packed != 0 ? cfg->max_packed : 3072,
                             .random = cfg->seed | 1};
    int rc = entropy(pf, &sh->seed);
    if (rc != VMC_OK) {
        vmc_share_destroy(sh);
        return vmci_error(err, rc, SITE, "the platform gives no entropy");
    }
    rc = vmci_packer_create(pf, level, &sh->packer, err);
    if (rc == VMC_OK) {
        sh->scratch = vmci_alloc_aligned(pf, 4 * VMC_PAGE_SIZE, VMC_PAGE_SIZE);
        if (sh->scratch == NULL)
            rc = vmci_error(err, VMC_ENOMEM, SITE, "no memory for a scanner");
    }
    if (rc != VMC_OK) {
        vmc_share_destroy(sh);
        return rc;
    }
    forget_marks(pool);
    *out = sh;
    return VMC_OK;
}

void vmc_share_destroy(struct vmc_share *sh)
{
    if (sh == NULL)
        return;
    const struct vmc_platform *pf = sh->pool->pf;
    for (uint32_t i = 0; i < sh->groups; i++) {
        share_table_fini(pf, &sh->group[i]->table);
        share_table_fini(pf, &sh->group[i]->old);
        share_sim_fini(pf, &sh->group[i]->sim);
        vmci_free(pf, sh->group[i], sizeof(*sh->group[i]));
    }
    vmci_free(pf, sh->group, sh->group_cap * sizeof(sh->group[0]));
    vmci_packer_destroy(sh->packer);
    vmci_free_aligned(pf, sh->scratch, 4 * VMC_PAGE_SIZE, VMC_PAGE_SIZE);
    vmci_store_release(&sh->pool->scanned, 0);
    vmci_free(pf, sh, sizeof(*sh));
}

void vmc_share_stats(struct vmc_share *sh, struct vmc_share_stats *out)
{
    *out = sh->stat;
    out->groups = sh->groups;
    out->meta_bytes = sizeof(*sh) + 4 * VMC_PAGE_SIZE + vmci_packer_bytes(sh->packer);
    for (uint32_t i = 0; i < sh->groups; i++) {
        const struct share_group *g = sh->group[i];
        out->hints += g->table.count + g->old.count;
        out->meta_bytes += sizeof(*g) + share_table_bytes(&g->table) + share_table_bytes(&g->old) +
                           share_sim_bytes(&g->sim);
    }
}

/* ---- one word of pages -------------------------------------------------------------------------
 */

static void enqueue(struct vmc_share *sh, struct vmc_space *s, uint64_t page, uint32_t entry,
                    struct vmc_share_result *out)
{
    sh->batch[sh->batched++] = (struct share_page){.space = s, .page = page, .entry = entry};
    out->visited++;
    sh->stat.scanned++;
    if (sh->batched == SHARE_BATCH)
        share_flush(sh, out);
}

/*
 * Pages of the word that were written and are not writable now. Their bits are cleared before they
 * are read: whoever writes later sets them again.
 */
static void scan_word(struct vmc_share *sh, struct vmc_space *s, uint64_t word,
                      struct vmc_share_result *out)
{
    uint64_t dirty = vmci_load_relaxed(&s->dirty[word]);

    if (dirty == 0)
        return;
    uint64_t hot = dirty & vmci_load_acquire(&s->wr[word]);
    out->busy += (unsigned)__builtin_popcountll(hot);
    dirty &= ~hot;
    if (dirty == 0)
        return;
    (void)__atomic_fetch_and(&s->dirty[word], ~dirty, __ATOMIC_SEQ_CST);
    for (; dirty != 0; dirty &= dirty - 1) {
        uint64_t page = word * 64 + (unsigned)__builtin_ctzll(dirty);
        uint32_t e = vmci_load_acquire(&s->map[page]);
        if (vmci_entry_state(e) == VMCI_E_PRIVATE)
            enqueue(sh, s, page, e, out);
    }
}

/* ---- order -------------------------------------------------------------------------------------
 */

static struct vmc_space *space_at(struct vmc_share *sh, uint32_t index)
{
    return index < VMC_POOL_MAX_SPACES ? vmci_load_acquire(&sh->pool->space[index]) : NULL;
}

static bool ready(struct vmc_space *s)
{
    vmci_lock(&s->lock);
    bool yes = vmci_space_settled(s);
    vmci_unlock(&s->lock);
    return yes;
}

/*
 * Percent of the pages of so many VMs of a kind that need an entry: those that are their own, and
 * once those that they have in common. A table that turns out too small costs a hash of each page
 * in it, one too large memory.
 */
static uint64_t expected(unsigned vms)
{
    return 33 + 67 / vms;
}

static uint64_t new_to_scanner(const struct vmc_space *s)
{
    uint64_t fresh = 0;

    for (uint64_t w = 0; w < VMCI_BITMAP_WORDS(s->pages); w++)
        fresh += (unsigned)__builtin_popcountll(vmci_load_relaxed(&s->dirty[w]));
    return fresh;
}

/* The space has pages to look at: its group, with room for them and those of its kind that wait. */
static bool prepare(struct vmc_share *sh, const struct vmc_space *s)
{
    struct share_group *g = share_group_of(sh, s);
    uint64_t fresh = 0;
    unsigned vms = 0;

    if (g == NULL || g->table.buckets != 0)
        return g != NULL;
    for (uint32_t i = 0; i < VMC_POOL_MAX_SPACES; i++) {
        const struct vmc_space *t = space_at(sh, i);
        uint64_t n = t != NULL && t->salt == s->salt ? new_to_scanner(t) : 0;
        fresh += n;
        vms += n != 0;
    }
    if (vms != 0)
        share_group_reserve(sh, g, fresh * expected(vms) / 100);
    return true;
}

static void begin_pass(struct vmc_share *sh)
{
    struct share_pass *p = &sh->seq;

    p->from = p->word = 0;
    p->at = p->count = p->longer = 0;
    for (uint32_t i = 0; i < VMC_POOL_MAX_SPACES; i++)
        if (space_at(sh, i) != NULL)
            p->index[p->count++] = (uint16_t)i;
}

/* The space at hand is where all are to be; true: it was the last one. */
static bool next_space(struct share_pass *p, bool goes_on)
{
    if (goes_on)
        p->index[p->longer++] = p->index[p->at];
    p->word = p->from;
    if (++p->at < p->count)
        return false;
    p->count = p->longer;
    p->at = p->longer = 0;
    p->word = p->from += STRIDE;
    return true;
}

/* Next word in sequence; true: the pass is over. */
static bool step_seq(struct vmc_share *sh, struct vmc_share_result *out)
{
    struct share_pass *p = &sh->seq;

    if (p->count == 0)
        begin_pass(sh);
    for (bool round = p->count == 0; !round;) {
        struct vmc_space *s = space_at(sh, p->index[p->at]);
        uint64_t end = s != NULL ? VMCI_BITMAP_WORDS(s->pages) : 0;
        if (p->from == 0 && p->word == 0 && s != NULL && !ready(s))
            end = 0;
        /* Idle memory: one look at 64 pages. */
        uint64_t stop = VMCI_MIN(end, p->from + STRIDE);
        while (p->word < stop && vmci_load_relaxed(&s->dirty[p->word]) == 0)
            p->word++;
        if (p->word < stop && prepare(sh, s)) {
            scan_word(sh, s, p->word++, out);
            return false;
        }
        round = next_space(p, end > p->from + STRIDE);
    }
    return p->count == 0;
}

static uint64_t next_random(struct vmc_share *sh)
{
    sh->random ^= sh->random << 13;
    sh->random ^= sh->random >> 7;
    return sh->random ^= sh->random << 17;
}

/* A word anywhere. A few tries find one with work while there is much. */
static void step_random(struct vmc_share *sh, struct vmc_share_result *out)
{
    for (unsigned i = 0; i < 4; i++) {
        uint64_t r = next_random(sh), page;
        uint32_t global = (uint32_t)(((r >> 32) * sh->pool->page_chunks) >> 32) * VMCI_SPACE_CHUNK;
        struct vmc_space *s =
            vmci_space_of(sh->pool, global + (uint32_t)(r % VMCI_SPACE_CHUNK), &page);
        if (s == NULL || !ready(s) || vmci_load_relaxed(&s->dirty[page / 64]) == 0 ||
            !prepare(sh, s))
            continue;
        scan_word(sh, s, page / 64, out);
        return;
    }
}

/* Finds per 1024 pages, averaged over windows. */
static void learn(struct vmc_share *sh, bool random, const struct vmc_share_result *before,
                  const struct vmc_share_result *now)
{
    uint64_t pages = now->visited - before->visited;
    uint64_t finds = now->merged + now->zeroed - before->merged - before->zeroed;

    if (pages == 0)
        return;
    uint32_t y = (uint32_t)(finds * 1024 / pages);
    sh->yield[random] = (3 * sh->yield[random] + y) / 4;
}

static bool choose_random(struct vmc_share *sh)
{
    if (sh->order != VMC_SHARE_ADAPTIVE)
        return sh->order == VMC_SHARE_RANDOM;
    bool better = sh->yield[1] > sh->yield[0] + sh->yield[0] / 8;
    return sh->window % EXPLORE == EXPLORE - 1 ? !better : better;
}

static bool spent(const struct vmc_share *sh, const struct vmc_share_budget *b,
                  const struct vmc_share_result *r, uint64_t start)
{
    const struct vmc_platform *pf = sh->pool->pf;

    if (b->pages != 0 && r->visited >= b->pages)
        return true;
    return b->ns != 0 && pf->now_ns(pf->ctx) - start >= b->ns;
}

int vmc_share_scan(struct vmc_share *sh, const struct vmc_share_budget *b,
                   struct vmc_share_result *out)
{
    const struct vmc_platform *pf = sh->pool->pf;
    uint64_t start = b->ns != 0 ? pf->now_ns(pf->ctx) : 0;

    *out = (struct vmc_share_result){0};
    while (!out->pass_done && !spent(sh, b, out, start)) {
        bool random = choose_random(sh);
        struct vmc_share_result before = *out;
        for (unsigned i = 0; i < WINDOW && !out->pass_done && !spent(sh, b, out, start); i++) {
            /* A random step first: the pass ends with the sequence in any case. */
            if (random)
                step_random(sh, out);
            if (!random || i % 4 == 3)
                out->pass_done = step_seq(sh, out);
        }
        share_flush(sh, out);
        learn(sh, random, &before, out);
        sh->window++;
    }
    sh->stat.passes += out->pass_done;
    return VMC_OK;
}

uint64_t vmc_share_next_budget(struct vmc_share *sh, uint64_t last_budget,
                               const struct vmc_share_result *last)
{
    uint64_t finds = last->merged + last->zeroed;

    (void)sh;
    last_budget = VMCI_MAX(last_budget, (uint64_t)MIN_BUDGET);
    if (last->visited == 0)
        return MIN_BUDGET;
    if (finds * 20 >= last->visited) /* 5 % and more: hurry */
        return VMCI_MIN(last_budget * 2, (uint64_t)MAX_BUDGET);
    if (finds * 100 < last->visited) /* less than 1 %: relax */
        return VMCI_MAX(last_budget - last_budget / 4, (uint64_t)MIN_BUDGET);
    return VMCI_MIN(last_budget, (uint64_t)MAX_BUDGET);
}
