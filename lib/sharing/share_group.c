/* SPDX-License-Identifier: BSD-2-Clause */
/* Groups of spaces that may share, and their tables as they grow. */
#include "sharing/sharing_priv.h"

#define FIRST_ENTRIES 4096u

/* splitmix64: a key of its own for each group, from the scanner's secret and the salt. */
static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static bool room_for_group(struct vmc_share *sh)
{
    const struct vmc_platform *pf = sh->pool->pf;

    if (sh->groups < sh->group_cap)
        return true;
    uint32_t cap = sh->group_cap * 2 + 4;
    struct share_group **g = vmci_zalloc(pf, cap * sizeof(g[0]));
    if (g == NULL)
        return false;
    memcpy(g, sh->group, sh->groups * sizeof(g[0]));
    vmci_free(pf, sh->group, sh->group_cap * sizeof(g[0]));
    sh->group = g;
    sh->group_cap = cap;
    return true;
}

/* Is there a space of the salt? Only this thread's scanner makes objects for one that is to come.
 */
static bool in_use(const struct vmc_share *sh, uint64_t salt)
{
    for (uint32_t i = 0; i < VMC_POOL_MAX_SPACES; i++) {
        const struct vmc_space *s = vmci_load_acquire(&sh->pool->space[i]);
        if (s != NULL && s->salt == salt)
            return true;
    }
    return false;
}

/* A new group, in the place of one whose spaces (and objects) have all gone, if there is any. */
static struct share_group *group_new(struct vmc_share *sh, uint64_t salt, uint32_t *index)
{
    const struct vmc_platform *pf = sh->pool->pf;
    struct share_group *g;
    uint32_t i = 0;

    while (i < sh->groups && in_use(sh, sh->group[i]->salt))
        i++;
    if (i < sh->groups) {
        g = sh->group[i];
        share_table_fini(pf, &g->table);
        share_table_fini(pf, &g->old);
        share_sim_fini(pf, &g->sim);
    } else {
        g = room_for_group(sh) ? vmci_zalloc(pf, sizeof(*g)) : NULL;
        if (g == NULL)
            return NULL;
        sh->group[sh->groups++] = g;
    }
    *g = (struct share_group){.salt = salt,
                              .seed = mix(sh->seed ^ mix(salt)),
                              .mark = (uint8_t)VMCI_MIN(i, (uint32_t)VMCI_NO_MARK)};
    *index = i;
    return g;
}

struct share_group *share_group_of(struct vmc_share *sh, const struct vmc_space *s)
{
    uint32_t i = sh->group_of[s->index];

    if (i != 0 && sh->group[i - 1]->salt == s->salt)
        return sh->group[i - 1];
    for (i = 0; i < sh->groups && sh->group[i]->salt != s->salt;)
        i++;
    if (i == sh->groups && group_new(sh, s->salt, &i) == NULL)
        return NULL;
    sh->group_of[s->index] = (uint16_t)(i + 1);
    return sh->group[i];
}

int share_group_index(struct vmc_share *sh, struct share_group *g)
{
    uint64_t pages = 0;

    for (uint32_t i = 0; i < VMC_POOL_MAX_SPACES; i++) {
        const struct vmc_space *s = vmci_load_acquire(&sh->pool->space[i]);
        if (s != NULL && s->salt == g->salt)
            pages += s->pages;
    }
    return share_sim_init(sh->pool->pf, &g->sim, pages);
}

uint8_t share_mark(const struct vmc_share *sh, const struct vmc_space *s)
{
    uint32_t i = sh->group_of[s->index];

    /* It may be that of a space which was there before. */
    return i != 0 && sh->group[i - 1]->salt == s->salt ? sh->group[i - 1]->mark : VMCI_NO_MARK;
}

/* The hash that an entry has now, or false when it is worth nothing any more. */
static bool rehash(struct vmc_share *sh, const struct share_group *g, uint32_t ref, uint64_t *hash)
{
    struct vmc_pool *p = sh->pool;
    uint64_t page;

    if ((ref & SHARE_OBJECT) != 0) {
        uint32_t id = ref & ~SHARE_OBJECT;
        vmci_lock(&p->lock);
        const struct vmci_object *o = vmci_object(p, id);
        bool alive = share_is_ours(g->mark, o);
        bool resident = alive && vmci_object_kind(o) == VMCI_O_RESIDENT;
        if (resident)
            *hash = sh->hash(vmci_frame(p, o->where), g->seed);
        else if (alive)
            vmci_object_get(vmci_object(p, id));
        vmci_unlock(&p->lock);
        if (!alive || resident)
            return alive;
        alive = vmci_object_read(p, id, sh->scratch) == VMC_OK;
        *hash = sh->hash(sh->scratch, g->seed);
        vmci_lock(&p->lock);
        vmci_object_put(p, id);
        vmci_unlock(&p->lock);
        return alive;
    }
    struct vmc_space *s = vmci_space_of(p, ref, &page);
    if (s == NULL || s->salt != g->salt)
        return false;
    uint32_t e = vmci_load_acquire(&s->map[page]);
    bool dirty = (vmci_load_acquire(&s->dirty[page / 64]) & VMCI_BIT(page % 64)) != 0;
    if (dirty || vmci_entry_state(e) != VMCI_E_PRIVATE)
        return false; /* it will be looked at again, or is found as an object */
    *hash = sh->hash(share_look(sh, vmci_frame(p, vmci_entry_value(e))), g->seed);
    return true;
}

/* All entries of a bucket. Their pages are anywhere in memory, and asked for ahead. */
static void move_bucket(struct vmc_share *sh, struct share_group *g, struct share_bucket *b)
{
    uint32_t ref[SHARE_WORDS + 2];
    unsigned n = 0;
    uint64_t hash;

    for (unsigned w = 0; w < g->old.ways; w++) {
        ref[n] = share_slot_ref(&g->old, &(struct share_slot){.bucket = b, .way = w});
        share_fetch_entry(sh, ref[n]);
        n += ref[n] != SHARE_EMPTY;
    }
    ref[n] = ref[n + 1] = SHARE_EMPTY;
    g->old.count -= n;
    for (unsigned i = 0; i < n; i++) {
        share_fetch_page(sh, ref[i + 2], SHARE_FIRST_PART);
        share_fetch_page(sh, ref[i + 1], VMC_PAGE_SIZE);
        if (!rehash(sh, g, ref[i], &hash))
            sh->stat.stale_hints++;
        else if (share_table_add(&g->table, hash, ref[i]))
            sh->stat.lost_hints++;
    }
}

void share_group_move(struct vmc_share *sh, struct share_group *g, unsigned buckets)
{
    for (; g->old.buckets != 0 && buckets > 0; buckets--) {
        move_bucket(sh, g, &g->old.bucket[g->moved++]);
        if (g->moved == g->old.buckets)
            share_table_fini(sh->pool->pf, &g->old);
    }
}

/* One more than the greatest number of a page or an object. */
static uint32_t numbers(const struct vmc_pool *p)
{
    return VMCI_MAX(p->page_chunks * VMCI_SPACE_CHUNK, p->obj_limit + VMCI_OBJ_CHUNK);
}

void share_group_reserve(struct vmc_share *sh, struct share_group *g, uint64_t more)
{
    uint64_t need = g->table.count + g->old.count + more;
    struct share_table t;

    if (g->table.buckets != 0 && need <= share_table_room(&g->table))
        return;
    if (g->old.buckets != 0) /* one at a time: finish the last */
        share_group_move(sh, g, UINT32_MAX);
    need = VMCI_MAX(g->table.count + more, (uint64_t)FIRST_ENTRIES);
    if (share_table_init(sh->pool->pf, &t, need, numbers(sh->pool)) != VMC_OK)
        return; /* hints are lost instead */
    g->old = g->table;
    g->table = t;
    g->moved = 0;
    if (g->old.buckets == 0)
        share_table_fini(sh->pool->pf, &g->old);
}
