/* SPDX-License-Identifier: BSD-2-Clause */
/* One VM's pages: life cycle, samples, pages that the guest gives up. */
#include "pages/pages_int.h"

#define SITE      "pages/space"
#define BLOCK     512u         /* pages of 2 MiB */
#define SETTLE_NS 200000000ull /* longest wait for vCPUs to let go */
#define LIMBO_CAP 4096u

static size_t map_bytes(const struct vmc_space *s)
{
    return (size_t)s->pages * sizeof(s->map[0]);
}

static size_t bits_bytes(const struct vmc_space *s)
{
    return (size_t)VMCI_BITMAP_WORDS(s->pages) * sizeof(uint64_t);
}

static int check(const struct vmc_space_config *cfg, struct vmc_error *err)
{
    if (cfg->size != sizeof(*cfg) || (cfg->flags & ~VMC_SPACE_LARGE) != 0)
        return vmci_error(err, VMC_EINVAL, SITE, "size %u or flags 0x%x", cfg->size, cfg->flags);
    if (cfg->pages == 0 || cfg->pages > VMC_POOL_MAX_PAGES)
        return vmci_error(err, VMC_ELIMIT, SITE, "%llu pages, not 1 to %u",
                          (unsigned long long)cfg->pages, VMC_POOL_MAX_PAGES);
    if (cfg->provider != NULL && cfg->provider->revoke != NULL && cfg->provider->settled == NULL)
        return vmci_error(err, VMC_EINVAL, SITE, "a provider with revoke needs settled");
    return VMC_OK;
}

/* Numbers for the pages, and an index. First fit: spaces are few. */
static int enter(struct vmc_pool *p, struct vmc_space *s)
{
    uint32_t need = (uint32_t)((s->pages + VMCI_SPACE_CHUNK - 1) / VMCI_SPACE_CHUNK);
    uint32_t index = 0, run = 0, c;

    while (index < VMC_POOL_MAX_SPACES && p->space[index] != NULL)
        index++;
    for (c = 0; c < p->page_chunks && run < need; c++)
        run = p->chunk_owner[c] == 0 ? run + 1 : 0;
    if (index == VMC_POOL_MAX_SPACES || run < need)
        return VMC_ELIMIT;
    s->index = index;
    s->first = (uint64_t)(c - need) * VMCI_SPACE_CHUNK;
    for (uint32_t i = c - need; i < c; i++)
        p->chunk_owner[i] = (uint16_t)(index + 1);
    p->space[index] = s;
    return VMC_OK;
}

static void leave(struct vmc_pool *p, struct vmc_space *s)
{
    if (p->space[s->index] != s)
        return;
    for (uint32_t i = 0; i < p->page_chunks; i++)
        if (p->chunk_owner[i] == s->index + 1)
            p->chunk_owner[i] = 0;
    p->space[s->index] = NULL;
}

static int64_t meta(const struct vmc_space *s)
{
    return (int64_t)(sizeof(*s) + map_bytes(s) + 4 * bits_bytes(s) + VMCI_PINS * 4 +
                     s->limbo_cap * 4);
}

static int alloc(struct vmc_space *s)
{
    const struct vmc_platform *pf = s->pool->pf;

    s->map = vmci_zalloc(pf, map_bytes(s));
    s->acc = vmci_zalloc(pf, bits_bytes(s));
    s->wr = vmci_zalloc(pf, bits_bytes(s));
    s->dirty = vmci_zalloc(pf, bits_bytes(s));
    s->cold = vmci_zalloc(pf, bits_bytes(s));
    s->pin = vmci_zalloc(pf, VMCI_PINS * sizeof(s->pin[0]));
    /* Without a provider nothing ever waits there. */
    s->limbo_cap = s->provider != NULL && s->provider->revoke != NULL ? LIMBO_CAP : 1;
    s->limbo = vmci_zalloc(pf, s->limbo_cap * sizeof(s->limbo[0]));
    vmci_pool_meta(s->pool, meta(s));
    bool all = s->map != NULL && s->acc != NULL && s->wr != NULL && s->dirty != NULL &&
               s->cold != NULL && s->pin != NULL && s->limbo != NULL;
    return all ? VMC_OK : VMC_ENOMEM;
}

static const struct vmci_space_ops space_ops = {
    .access = vmc_space_access,
    .fast = vmci_space_fast,
    .pin = vmc_space_pin,
    .unpin = vmc_space_unpin,
    .read = vmc_space_read,
    .gather = vmci_space_gather,
    .drop = vmc_space_drop,
    .give = vmc_space_return,
    .wait = vmc_space_wait,
};

int vmc_space_create(struct vmc_pool *p, const struct vmc_space_config *cfg, struct vmc_space **out,
                     struct vmc_error *err)
{
    int rc = check(cfg, err);

    if (rc != VMC_OK)
        return rc;
    struct vmc_space *s = vmci_zalloc(p->pf, sizeof(*s));
    if (s == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE, "no memory for a space");
    s->ops = &space_ops;
    s->pool = p;
    s->pages = cfg->pages;
    s->flags = cfg->flags;
    s->salt = cfg->salt;
    s->provider = cfg->provider;
    s->provider_ctx = cfg->provider_ctx;
    s->swap = cfg->swap;
    s->settled = true;
    s->index = VMC_POOL_MAX_SPACES - 1;
    rc = vmci_lock_init(&s->lock, p->pf);
    if (rc != VMC_OK) {
        vmci_free(p->pf, s, sizeof(*s));
        return vmci_error(err, rc, SITE, "cannot create a lock");
    }
    rc = alloc(s);
    if (rc != VMC_OK)
        rc = vmci_error(err, rc, SITE, "no memory for the map of %llu pages",
                        (unsigned long long)s->pages);
    if (rc == VMC_OK)
        rc = vmci_swap_init(s, err);
    if (rc == VMC_OK) {
        vmci_lock(&p->lock);
        rc = enter(p, s);
        vmci_unlock(&p->lock);
        if (rc != VMC_OK)
            rc = vmci_error(err, rc, SITE, "the pool has no room for %llu more pages",
                            (unsigned long long)s->pages);
    }
    if (rc != VMC_OK) {
        vmc_space_destroy(s);
        return rc;
    }
    *out = s;
    return VMC_OK;
}

/* Every page that has contents lets go of them. */
static void empty(struct vmc_space *s)
{
    struct vmc_pool *p = s->pool;

    vmci_lock(&p->lock);
    for (uint64_t i = 0; s->map != NULL && i < s->pages; i++) {
        uint32_t e = s->map[i];
        if (vmci_entry_state(e) == VMCI_E_BUSY) {
            struct vmci_pending *d = vmci_pending_find(s, i);
            e = d != NULL ? d->entry : 0;
        }
        if (vmci_entry_state(e) == VMCI_E_PRIVATE)
            vmci_frame_free_locked(p, vmci_entry_value(e));
        else if (vmci_entry_state(e) == VMCI_E_OBJECT)
            vmci_object_put(p, vmci_entry_value(e));
    }
    for (uint32_t i = 0; i < s->limbo_count; i++)
        vmci_frame_free_locked(p, s->limbo[i]);
    (void)vmci_fetch_add(&p->limbo, 0ull - s->limbo_count);
    leave(p, s);
    vmci_unlock(&p->lock);
}

void vmc_space_destroy(struct vmc_space *s)
{
    if (s == NULL)
        return;
    struct vmc_pool *p = s->pool;
    vmci_swap_fini(s);
    empty(s);
    vmci_pool_meta(p, -meta(s));
    vmci_free(p->pf, s->map, map_bytes(s));
    vmci_free(p->pf, s->acc, bits_bytes(s));
    vmci_free(p->pf, s->wr, bits_bytes(s));
    vmci_free(p->pf, s->dirty, bits_bytes(s));
    vmci_free(p->pf, s->cold, bits_bytes(s));
    vmci_free(p->pf, s->pin, VMCI_PINS * sizeof(s->pin[0]));
    vmci_free(p->pf, s->limbo, s->limbo_cap * sizeof(s->limbo[0]));
    vmci_lock_fini(&s->lock);
    vmci_free(p->pf, s, sizeof(*s));
}

/* ---- statistics --------------------------------------------------------------------------------
 */

static enum vmc_page_state state_of(const struct vmc_pool *p, uint32_t e)
{
    switch (vmci_entry_state(e)) {
    case VMCI_E_ZERO:
        return VMC_PAGE_ZERO;
    case VMCI_E_BALLOON:
        return VMC_PAGE_BALLOON;
    case VMCI_E_PRIVATE:
        return VMC_PAGE_PRIVATE;
    case VMCI_E_SWAPPED:
        return VMC_PAGE_SWAPPED;
    case VMCI_E_OBJECT:
    case VMCI_E_BUSY:
        break;
    }
    if (vmci_entry_state(e) == VMCI_E_BUSY)
        return VMC_PAGE_PRIVATE;
    switch (vmci_object_kind(vmci_object(p, vmci_entry_value(e)))) {
    case VMCI_O_PACKED:
        return VMC_PAGE_PACKED;
    case VMCI_O_DELTA:
        return VMC_PAGE_DELTA;
    default:
        return VMC_PAGE_OBJECT;
    }
}

enum vmc_page_state vmc_space_state(struct vmc_space *s, uint64_t page)
{
    if (page >= s->pages)
        return VMC_PAGE_ZERO;
    vmci_lock(&s->lock);
    uint32_t e = s->map[page];
    struct vmci_pending *d = vmci_entry_state(e) == VMCI_E_BUSY ? vmci_pending_find(s, page) : NULL;
    enum vmc_page_state st = state_of(s->pool, d != NULL ? d->entry : e);
    vmci_unlock(&s->lock);
    return st;
}

uint64_t vmc_space_pages(const struct vmc_space *s)
{
    return s->pages;
}

/* Walks the map, a block at a time so that faults do not wait long. */
void vmc_space_stats(struct vmc_space *s, struct vmc_space_stats *out)
{
    struct vmc_pool *p = s->pool;
    uint64_t shared_refs = 0; /* sum over object pages of 1 / references, in 2^-20 */

    *out = (struct vmc_space_stats){.pages = s->pages};
    for (uint64_t at = 0; at < s->pages; at += BLOCK) {
        vmci_lock(&s->lock);
        for (uint64_t i = at; i < VMCI_MIN(at + BLOCK, s->pages); i++) {
            uint32_t e = s->map[i];
            enum vmc_page_state st = state_of(p, e);
            out->state[st]++;
            if (vmci_entry_state(e) != VMCI_E_OBJECT)
                continue;
            const struct vmci_object *o = vmci_object(p, vmci_entry_value(e));
            uint32_t refs = vmci_object_refs(o);
            refs = VMCI_MAX(refs, 1u);
            if (st == VMC_PAGE_OBJECT) {
                shared_refs += (1u << 20) / refs;
                out->consumed_bytes += VMC_PAGE_SIZE / refs;
            } else {
                vmci_lock(&p->lock);
                out->consumed_bytes += vmci_object_bytes(p, o) / refs;
                vmci_unlock(&p->lock);
            }
        }
        vmci_unlock(&s->lock);
    }
    vmci_lock(&s->lock);
    out->breaks = s->breaks;
    out->unpacks = s->unpacks;
    out->swap_ins = s->swap_ins;
    out->swap_outs = s->swap_outs;
    out->swap_errors = s->swap_errors;
    out->swap_lost = s->swap_lost;
    out->unpack_lost = s->unpack_lost;
    out->lost_page = s->lost_page;
    out->swap_paused = vmci_swap_paused(s);
    out->accessed = s->accessed;
    out->consumed_bytes += s->limbo_count * (uint64_t)VMC_PAGE_SIZE;
    vmci_unlock(&s->lock);
    out->consumed_bytes += out->state[VMC_PAGE_PRIVATE] * VMC_PAGE_SIZE;
    out->shared_saved = out->state[VMC_PAGE_OBJECT] - (shared_refs >> 20);
}

/* ---- pointers that may still be held -----------------------------------------------------------
 */

bool vmci_space_settled(struct vmc_space *s)
{
    if (s->settled)
        return true;
    if (!s->provider->settled(s->provider_ctx, s->ticket))
        return false;
    s->settled = true;
    /* What was in limbo when the pointers were revoked is free now. */
    vmci_lock(&s->pool->lock);
    for (uint32_t i = 0; i < s->limbo_ready; i++)
        vmci_frame_free_locked(s->pool, s->limbo[i]);
    vmci_unlock(&s->pool->lock);
    (void)vmci_fetch_add(&s->pool->limbo, 0ull - s->limbo_ready);
    s->limbo_count -= s->limbo_ready;
    memmove(s->limbo, s->limbo + s->limbo_ready, s->limbo_count * sizeof(s->limbo[0]));
    s->limbo_ready = 0;
    return true;
}

/* Did anybody get a pointer to the page since that was last asked back? */
static bool held(const struct vmc_space *s, uint64_t page)
{
    return (__atomic_load_n(&s->acc[page / 64], __ATOMIC_SEQ_CST) & VMCI_BIT(page % 64)) != 0;
}

bool vmci_page_seize(struct vmc_space *s, uint64_t page, uint32_t entry, bool read)
{
    uint32_t seen = entry;

    if (!__atomic_compare_exchange_n(&s->map[page], &seen, vmci_entry(VMCI_E_BUSY, 0), false,
                                     __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return false;
    const uint64_t *bits = read ? s->acc : s->wr;
    uint64_t mask = VMCI_BIT(page % 64);
    if ((__atomic_load_n(&bits[page / 64], __ATOMIC_SEQ_CST) & mask) == 0 &&
        __atomic_load_n(&s->pin[vmci_pin_slot(page)], __ATOMIC_SEQ_CST) == 0)
        return true;
    vmci_page_set(s, page, entry);
    return false;
}

bool vmci_page_releasable(const struct vmc_space *s)
{
    return s->limbo_count < s->limbo_cap;
}

void vmci_page_release(struct vmc_space *s, uint64_t page, uint32_t frame)
{
    if (!held(s, page) || s->provider == NULL || s->provider->revoke == NULL) {
        vmci_frame_free_locked(s->pool, frame);
        return;
    }
    s->limbo[s->limbo_count++] = frame;
    (void)vmci_fetch_add(&s->pool->limbo, 1);
}

/* ---- samples -----------------------------------------------------------------------------------
 */

/*
 * A cycle of the pool ends when every space has begun a sample in it. A pointer handed out in one
 * cycle is revoked by a sample of the next, and that has settled before the one of the cycle after
 * that begins: when three have passed, it is gone.
 */
static void note_cycle(struct vmc_pool *p, struct vmc_space *s)
{
    vmci_lock(&p->lock);
    s->sampled = 1;
    bool all = true;
    for (uint32_t i = 0; i < VMC_POOL_MAX_SPACES; i++)
        all = all && (p->space[i] == NULL || p->space[i]->sampled != 0);
    if (all) {
        vmci_store_release(&p->cycle, (uint8_t)(p->cycle + 1));
        for (uint32_t i = 0; i < VMC_POOL_MAX_SPACES; i++)
            if (p->space[i] != NULL)
                p->space[i]->sampled = 0;
    }
    vmci_unlock(&p->lock);
}

static uint64_t start_period(struct vmc_space *s)
{
    uint64_t count = 0, words = VMCI_BITMAP_WORDS(s->pages);

    if (s->provider != NULL && s->provider->harvest != NULL)
        s->provider->harvest(s->provider_ctx, 0, s->pages, s->acc, s->dirty);
    for (uint64_t w = 0; w < words; w++) {
        uint64_t acc = vmci_load_relaxed(&s->acc[w]);
        if (acc != 0)
            acc = __atomic_exchange_n(&s->acc[w], 0, __ATOMIC_SEQ_CST);
        s->cold[w] = ~acc;
        count += (unsigned)__builtin_popcountll(acc);
        if (vmci_load_relaxed(&s->wr[w]) != 0) {
            uint64_t wr = __atomic_exchange_n(&s->wr[w], 0, __ATOMIC_SEQ_CST);
            (void)vmci_fetch_or(&s->dirty[w], wr); /* written for as long as they were writable */
        }
    }
    return count;
}

int vmc_space_sample(struct vmc_space *s, uint64_t *accessed)
{
    vmci_lock(&s->lock);
    if (!vmci_space_settled(s)) {
        vmci_unlock(&s->lock);
        return VMC_EAGAIN;
    }
    s->accessed = start_period(s);
    if (accessed != NULL)
        *accessed = s->accessed;
    s->limbo_ready = s->limbo_count;
    s->ticket = 0;
    if (s->provider != NULL && s->provider->revoke != NULL)
        s->ticket = s->provider->revoke(s->provider_ctx, 0, 0);
    if (s->ticket == 0 && s->limbo_ready != 0) { /* nobody held anything */
        vmci_lock(&s->pool->lock);
        for (uint32_t i = 0; i < s->limbo_ready; i++)
            vmci_frame_free_locked(s->pool, s->limbo[i]);
        vmci_unlock(&s->pool->lock);
        (void)vmci_fetch_add(&s->pool->limbo, 0ull - s->limbo_ready);
        s->limbo_count = s->limbo_ready = 0;
    }
    s->settled = s->ticket == 0;
    note_cycle(s->pool, s);
    vmci_unlock(&s->lock);
    return VMC_OK;
}

void vmc_space_poll(struct vmc_space *s)
{
    vmci_lock(&s->lock);
    (void)vmci_space_settled(s);
    vmci_swap_reap(s);
    vmci_unlock(&s->lock);
}

/* ---- pages that the guest gives up -------------------------------------------------------------
 */

/* Sleep a little; false: that is enough waiting. */
static bool pause_until(struct vmc_space *s, uint64_t deadline)
{
    const struct vmc_platform *pf = s->pool->pf;

    if (pf->now_ns(pf->ctx) >= deadline || !vmci_pf_has(pf, sync))
        return false;
    vmc_space_wait(s);
    return true;
}

static void clear_bits(uint64_t *map, uint64_t first, uint64_t count)
{
    while (count > 0) {
        uint64_t bit = first % 64, n = VMCI_MIN(64 - bit, count);
        uint64_t mask = (n == 64 ? ~0ull : (VMCI_BIT(n) - 1)) << bit;
        (void)__atomic_fetch_and(&map[first / 64], ~mask, __ATOMIC_SEQ_CST);
        first += n;
        count -= n;
    }
}

static bool any_bit(const uint64_t *map, uint64_t first, uint64_t count)
{
    uint64_t any = 0;

    for (uint64_t w = first / 64; w <= (first + count - 1) / 64; w++)
        any |= vmci_load_acquire(&map[w]);
    return any != 0;
}

/*
 * Pointers to the range must be gone before the guest may use it again: a write through one would
 * go to a frame that is no longer the page's.
 */
bool vmci_space_let_go(struct vmc_space *s, uint64_t first, uint64_t count)
{
    uint64_t ticket = 0;

    vmci_lock(&s->lock);
    if (any_bit(s->acc, first, count) || !vmci_space_settled(s)) {
        clear_bits(s->acc, first, count);
        clear_bits(s->wr, first, count);
        if (s->provider != NULL && s->provider->revoke != NULL)
            ticket = s->provider->revoke(s->provider_ctx, first, count);
        if (ticket != 0) { /* until then nobody may rely on the bits */
            s->ticket = ticket;
            s->settled = false;
        }
    }
    vmci_unlock(&s->lock);
    if (ticket == 0)
        return true;
    uint64_t deadline = s->pool->pf->now_ns(s->pool->pf->ctx) + SETTLE_NS;
    while (!s->provider->settled(s->provider_ctx, ticket))
        if (!pause_until(s, deadline))
            return false;
    return true;
}

/*
 * Entries of a block: entry, and step more from one to the next. Two at a time: this is most of
 * what giving up a large page takes. An aligned store of both is no less atomic than one of each.
 */
static void set_block(uint32_t *map, uint32_t entry, uint32_t step)
{
#ifdef VMCI_SEES_RACES
    for (uint32_t i = 0; i < BLOCK; i++)
        __atomic_store_n(&map[i], entry + i * step, __ATOMIC_RELEASE);
#else
    uint64_t two = (uint64_t)(entry + step) << 32 | entry,
             more = (uint64_t)step << 33 | 2ull * step;

    __atomic_thread_fence(__ATOMIC_RELEASE);
    for (uint32_t i = 0; i < BLOCK; i += 2, two += more)
        vmci_st_le64(&map[i], two);
#endif
}

/* Are the entries of a block e, e + 1, e + 2 ...? */
static bool is_run(const uint32_t *map, uint32_t e)
{
    uint64_t two = (uint64_t)(e + 1) << 32 | e, diff = 0;

    for (uint32_t i = 0; i < BLOCK; i += 2, two += 2ull << 32 | 2)
        diff |= vmci_ld_le64(&map[i]) ^ two;
    return diff == 0;
}

/* 512 private pages in one block: no look at each of them. Returns the first frame, or NONE. */
static uint32_t whole_block(struct vmc_space *s, uint64_t first)
{
    const uint32_t *map = &s->map[first];
    uint32_t e = map[0];

    if (vmci_entry_state(e) != VMCI_E_PRIVATE || vmci_entry_value(e) % BLOCK != 0)
        return VMCI_NONE;
    if (!is_run(map, e) || any_bit(s->acc, first, BLOCK))
        return VMCI_NONE;
    return vmci_entry_value(e);
}

static bool pins_in(const struct vmc_space *s, uint64_t first, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (__atomic_load_n(&s->pin[vmci_pin_slot(first + i)], __ATOMIC_SEQ_CST) != 0)
            return true;
    return false;
}

static bool drop_block(struct vmc_space *s, uint64_t first, uint32_t entry)
{
    uint32_t frame = vmci_space_settled(s) ? whole_block(s, first) : VMCI_NONE;

    if (frame == VMCI_NONE)
        return false;
    set_block(&s->map[first], vmci_entry(VMCI_E_BUSY, 0), 0);
    vmci_fence_seq();
    bool used = any_bit(s->acc, first, BLOCK) ||
                (__atomic_load_n(&s->pins, __ATOMIC_SEQ_CST) != 0 && pins_in(s, first, BLOCK));
    set_block(&s->map[first], used ? vmci_entry(VMCI_E_PRIVATE, frame) : entry, used);
    if (used)
        return false;
    memset(&s->dirty[first / 64], 0, BLOCK / 8);
    vmci_frame_free_block(s->pool, frame);
    return true;
}

static bool drop_page(struct vmc_space *s, uint64_t page, uint32_t entry)
{
    uint32_t e = s->map[page];
    struct vmci_pending *d;

    switch (vmci_entry_state(e)) {
    case VMCI_E_PRIVATE:
        if (!vmci_space_settled(s) || !vmci_page_seize(s, page, e, true))
            return false;
        vmci_frame_free(s->pool, vmci_entry_value(e));
        break;
    case VMCI_E_OBJECT:
        __atomic_store_n(&s->map[page], vmci_entry(VMCI_E_BUSY, 0), __ATOMIC_SEQ_CST);
        if (!vmci_space_settled(s) || held(s, page)) {
            vmci_page_set(s, page, e);
            return false;
        }
        vmci_lock(&s->pool->lock);
        vmci_object_put(s->pool, vmci_entry_value(e));
        vmci_unlock(&s->pool->lock);
        break;
    case VMCI_E_BUSY:
        d = vmci_pending_find(s, page);
        if (d == NULL || d->kind != VMCI_P_SWAP_OUT)
            return false;
        vmci_pending_end(s, d, d->entry); /* the write goes on and means nothing */
        return drop_page(s, page, entry);
    case VMCI_E_ZERO:
    case VMCI_E_BALLOON:
    case VMCI_E_SWAPPED:
        break;
    }
    vmci_page_set(s, page, entry);
    (void)vmci_fetch_and(&s->dirty[page / 64], ~VMCI_BIT(page % 64));
    return true;
}

uint64_t vmc_space_drop(struct vmc_space *s, uint64_t first, uint64_t count, bool balloon)
{
    uint32_t entry = vmci_entry(balloon ? VMCI_E_BALLOON : VMCI_E_ZERO, 0);
    uint64_t dropped = 0;

    if (count == 0 || !vmci_range_ok(first, count, s->pages) || !vmci_space_let_go(s, first, count))
        return 0;
    for (uint64_t at = first; at < first + count;) {
        uint64_t n = VMCI_MIN(BLOCK - at % BLOCK, first + count - at);
        vmci_lock(&s->lock);
        if (!vmci_space_settled(s)) { /* a sample came between */
            vmci_unlock(&s->lock);
            if (!vmci_space_let_go(s, at, n))
                break;
            vmci_lock(&s->lock);
        }
        if (n == BLOCK && drop_block(s, at, entry)) {
            dropped += BLOCK;
        } else {
            for (uint64_t i = at; i < at + n; i++)
                dropped += drop_page(s, i, entry);
        }
        vmci_unlock(&s->lock);
        at += n;
    }
    return dropped;
}

void vmc_space_return(struct vmc_space *s, uint64_t first, uint64_t count)
{
    if (!vmci_range_ok(first, count, s->pages))
        return;
    vmci_lock(&s->lock);
    for (uint64_t i = first; i < first + count; i++)
        if (vmci_entry_state(s->map[i]) == VMCI_E_BALLOON)
            vmci_page_set(s, i, vmci_entry(VMCI_E_ZERO, 0));
    vmci_unlock(&s->lock);
}
