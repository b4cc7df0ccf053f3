/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pointers to pages: what happens when a VM touches one.
 *
 * Threats (tests/unit/pages)
 *
 * | what a guest can do               | what bounds it                                            |
 * |-----------------------------------|-----------------------------------------------------------|
 * | write a page while it is merged,  | the write is seen in `wr`, and the change is given up     |
 * | compressed or swapped out         | (pages_int.h)                                             |
 * | read a frame of another VM        | frames are zeroed or overwritten whole before they are    |
 * |                                   | reachable; freed only when no pointer is left             |
 * | touch ballooned pages             | they are zero pages; memory is taken as for any other     |
 */
#include "pages/pages_int.h"

#define BLOCK   512u
#define WAIT_NS 1000000ull

/* ---- pages under way ---------------------------------------------------------------------------
 */

struct vmci_pending *vmci_pending_find(struct vmc_space *s, uint64_t page)
{
    uint32_t left = s->pending_count;

    for (struct vmci_pending *d = s->pending; left > 0; d++) {
        if (d->kind == VMCI_P_NONE)
            continue;
        if (d->page == page)
            return d;
        left--;
    }
    return NULL;
}

/*
 * A guest may give up a write at any time, for an interrupt: breaks whose writers do not come back
 * must not use up the room. Who does come back begins anew, and waits only where somebody has read
 * again.
 */
uint32_t vmci_pending_room(struct vmc_space *s, uint32_t need)
{
    for (struct vmci_pending *d = s->pending;
         VMCI_PENDING - s->pending_count < need && d < s->pending + VMCI_PENDING; d++)
        if (d->kind == VMCI_P_BREAK && s->provider->settled(s->provider_ctx, d->ticket))
            vmci_pending_end(s, d, d->entry);
    return VMCI_PENDING - s->pending_count;
}

struct vmci_pending *vmci_pending_add(struct vmc_space *s, uint64_t page, uint8_t kind,
                                      uint32_t entry)
{
    if (s->pending_count == VMCI_PENDING)
        return NULL;
    struct vmci_pending *d = s->pending;
    while (d->kind != VMCI_P_NONE)
        d++;
    *d = (struct vmci_pending){.page = page, .kind = kind, .entry = entry};
    s->pending_count++;
    vmci_page_set(s, page, vmci_entry(VMCI_E_BUSY, 0));
    return d;
}

void vmci_pending_end(struct vmc_space *s, struct vmci_pending *d, uint32_t entry)
{
    const struct vmc_platform *pf = s->pool->pf;

    vmci_page_set(s, d->page, entry);
    d->kind = VMCI_P_NONE;
    s->pending_count--;
    (void)vmci_fetch_add(&s->changed, 1u);
    if (vmci_pf_has(pf, sync))
        pf->sync->wake(pf->ctx, &s->changed);
}

void vmc_space_wait(struct vmc_space *s)
{
    const struct vmc_platform *pf = s->pool->pf;
    uint32_t seen = vmci_load_acquire(&s->changed);

    vmc_space_poll(s);
    if (s->swap.ops != NULL && s->swap.ops->poll != NULL)
        s->swap.ops->poll(s->swap.ctx);
    if (vmci_pf_has(pf, sync) && vmci_load_acquire(&s->changed) == seen)
        pf->sync->park(pf->ctx, &s->changed, seen, pf->now_ns(pf->ctx) + WAIT_NS / 8);
}

/* ---- bits --------------------------------------------------------------------------------------
 */

static void set_bit(uint64_t *map, uint64_t page)
{
    uint64_t mask = VMCI_BIT(page % 64);

    if ((vmci_load_acquire(&map[page / 64]) & mask) == 0) /* before what follows is looked at */
        (void)__atomic_fetch_or(&map[page / 64], mask, __ATOMIC_SEQ_CST);
}

static bool test_bit(const uint64_t *map, uint64_t page)
{
    return (vmci_load_acquire(&map[page / 64]) & VMCI_BIT(page % 64)) != 0;
}

static void note(struct vmc_space *s, uint64_t page, bool write)
{
    set_bit(s->acc, page);
    if (write) {
        set_bit(s->wr, page);
        set_bit(s->dirty, page);
    }
}

static void touch_object(const struct vmc_pool *p, struct vmci_object *o)
{
    uint8_t now = vmci_load_relaxed(&p->cycle);

    if (vmci_load_relaxed(&o->stamp) != now)
        __atomic_store_n(&o->stamp, now, __ATOMIC_SEQ_CST);
}

/* ---- without a lock ----------------------------------------------------------------------------
 */

/*
 * Set bits, then look (pages_int.h). A reader may find zero or a resident object as well; a writer
 * must not leave a mark there, since a break has to know whether anybody read before.
 */
bool vmci_space_fast(struct vmc_space *s, uint64_t page, bool write, struct vmc_page_ref *out)
{
    const struct vmc_pool *p = s->pool;
    uint32_t e = vmci_load_acquire(&s->map[page]);
    enum vmci_entry_state st = vmci_entry_state(e);

    if (st != VMCI_E_PRIVATE &&
        (write || (st != VMCI_E_OBJECT && st != VMCI_E_ZERO && st != VMCI_E_BALLOON)))
        return false;
    note(s, page, write);
    if (st == VMCI_E_OBJECT)
        touch_object(p, vmci_object(p, vmci_entry_value(e)));
    if (__atomic_load_n(&s->map[page], __ATOMIC_SEQ_CST) != e)
        return false;
    uint32_t frame = vmci_entry_value(e);
    if (st == VMCI_E_OBJECT) {
        const struct vmci_object *o = vmci_object(p, frame);
        if (vmci_object_kind(o) != VMCI_O_RESIDENT)
            return false;
        frame = vmci_load_acquire(&o->where);
    }
    *out = (struct vmc_page_ref){.ptr = vmci_frame(p, frame),
                                 .writable = st == VMCI_E_PRIVATE && write};
    return true;
}

/* ---- under the space's lock --------------------------------------------------------------------
 */

static int found(struct vmc_space *s, uint64_t page, uint32_t frame, bool private, bool write,
                 struct vmc_page_ref *out)
{
    note(s, page, write && private);
    *out = (struct vmc_page_ref){.ptr = vmci_frame(s->pool, frame), .writable = private && write};
    return VMC_OK;
}

static int own(struct vmc_space *s, uint64_t page, uint32_t frame, struct vmc_page_ref *out)
{
    note(s, page, true);
    vmci_page_set(s, page, vmci_entry(VMCI_E_PRIVATE, frame));
    return found(s, page, frame, true, true, out);
}

/*
 * Somebody may hold a read pointer to contents that this page is about to leave: revoke it. 1: all
 * have gone, and the entry is BUSY, so that none can come; the caller sets the new one, or e again.
 * VMC_EAGAIN: under way.
 */
static int others_let_go(struct vmc_space *s, uint64_t page, uint32_t e)
{
    uint64_t ticket;

    /* Busy first, then the look at who came before: a reader does it the other way round. */
    __atomic_store_n(&s->map[page], vmci_entry(VMCI_E_BUSY, 0), __ATOMIC_SEQ_CST);
    if (s->provider == NULL || s->provider->revoke == NULL)
        return 1;
    if (!test_bit(s->acc, page) && vmci_space_settled(s))
        return 1;
    if (vmci_pending_room(s, 1) == 0) {
        vmci_page_set(s, page, e);
        return VMC_EAGAIN;
    }
    struct vmci_pending *d = vmci_pending_add(s, page, VMCI_P_BREAK, e);
    (void)__atomic_fetch_and(&s->acc[page / 64], ~VMCI_BIT(page % 64), __ATOMIC_SEQ_CST);
    ticket = s->provider->revoke(s->provider_ctx, page, 1);
    if (ticket == 0 || s->provider->settled(s->provider_ctx, ticket)) {
        vmci_pending_end(s, d, vmci_entry(VMCI_E_BUSY, 0));
        return 1;
    }
    d->ticket = ticket;
    return VMC_EAGAIN;
}

/* Entries of a block that are what own_block made of them. */
static void restore_block(struct vmc_space *s, uint64_t first, uint64_t page)
{
    for (uint64_t i = first; i < first + BLOCK; i++)
        if (i != page)
            vmci_page_set(s, i, 0);
}

/*
 * All 512 pages of a block at once, while memory is plenty, none of them has any, and nobody has a
 * pointer to the zeros in its place. The page's own entry is BUSY.
 */
static bool own_block(struct vmc_space *s, uint64_t page)
{
    uint64_t first = page / BLOCK * BLOCK;
    uint32_t none = vmci_entry(VMCI_E_BUSY, 0);

    if ((s->flags & VMC_SPACE_LARGE) == 0 || first + BLOCK > s->pages ||
        vmc_pool_free(s->pool) < s->pool->frames / 16 + BLOCK)
        return false;
    for (uint64_t i = first; i < first + BLOCK; i++)
        if (i != page && (s->map[i] != 0 || test_bit(s->acc, i)))
            return false;
    for (uint64_t i = first; i < first + BLOCK; i++)
        __atomic_store_n(&s->map[i], none, __ATOMIC_RELAXED);
    vmci_fence_seq();
    bool held = false;
    for (uint64_t i = first; i < first + BLOCK; i++)
        held = held || (i != page && test_bit(s->acc, i));
    uint32_t frame = held ? VMCI_NONE : vmci_frame_alloc_block(s->pool);
    if (frame == VMCI_NONE) {
        restore_block(s, first, page);
        return false;
    }
    memset(vmci_frame(s->pool, frame), 0, (size_t)BLOCK * VMC_PAGE_SIZE);
    note(s, page, true); /* before the page can be found */
    for (uint32_t i = 0; i < BLOCK; i++)
        vmci_page_set(s, first + i, vmci_entry(VMCI_E_PRIVATE, frame + i));
    return true;
}

static int write_zero(struct vmc_space *s, uint64_t page, uint32_t e, struct vmc_page_ref *out)
{
    int rc = others_let_go(s, page, e);

    if (rc != 1)
        return rc;
    if (own_block(s, page))
        return found(s, page, vmci_entry_value(s->map[page]), true, true, out);
    uint32_t frame = vmci_frame_alloc(s);
    if (frame == VMCI_NONE) {
        vmci_page_set(s, page, e);
        return VMC_ENOSPC;
    }
    memset(vmci_frame(s->pool, frame), 0, VMC_PAGE_SIZE);
    return own(s, page, frame, out);
}

/* The object's only page takes its frame over; false: it has more, or is compressed. */
static bool take_over(struct vmc_space *s, uint32_t id, uint32_t *frame)
{
    struct vmc_pool *p = s->pool;

    vmci_lock(&p->lock);
    const struct vmci_object *o = vmci_object(p, id);
    bool sole = vmci_object_refs(o) == 1 && vmci_object_kind(o) == VMCI_O_RESIDENT;
    if (sole)
        *frame = vmci_object_steal(p, id);
    vmci_unlock(&p->lock);
    return sole;
}

/*
 * Its contents do not decode. Others that share them notice when they touch them; a VM that ends
 * (vmc_space_abandon) has zeros instead: VMC_OK then. *entry: what the page is from now on.
 */
static int lost(struct vmc_space *s, uint64_t page, uint32_t *entry)
{
    s->unpack_lost++;
    s->lost_page = page;
    if (!s->abandoned)
        return VMC_EINTERNAL;
    vmci_lock(&s->pool->lock);
    vmci_object_put(s->pool, vmci_entry_value(*entry));
    vmci_unlock(&s->pool->lock);
    *entry = vmci_entry(VMCI_E_ZERO, 0);
    return VMC_OK;
}

static int write_object(struct vmc_space *s, uint64_t page, uint32_t e, struct vmc_page_ref *out)
{
    struct vmc_pool *p = s->pool;
    uint32_t id = vmci_entry_value(e), frame;
    int rc = others_let_go(s, page, e);

    if (rc != 1)
        return rc;
    s->breaks++;
    if (take_over(s, id, &frame))
        return own(s, page, frame, out);
    frame = vmci_frame_alloc(s);
    if (frame == VMCI_NONE) {
        vmci_page_set(s, page, e);
        return VMC_ENOSPC;
    }
    s->unpacks += vmci_object_kind(vmci_object(p, id)) != VMCI_O_RESIDENT;
    if (vmci_object_read(p, id, vmci_frame(p, frame)) != VMC_OK) {
        vmci_frame_free(p, frame);
        rc = lost(s, page, &e);
        vmci_page_set(s, page, e);
        return rc == VMC_OK ? write_zero(s, page, e, out) : rc;
    }
    vmci_lock(&p->lock);
    vmci_object_put(p, id);
    vmci_unlock(&p->lock);
    return own(s, page, frame, out);
}

/* A compressed object is read: it gets a frame again; with one page only, that owns the frame. */
static int read_object(struct vmc_space *s, uint64_t page, uint32_t e, struct vmc_page_ref *out)
{
    struct vmc_pool *p = s->pool;
    uint32_t id = vmci_entry_value(e);
    struct vmci_object *o = vmci_object(p, id);

    touch_object(p, o);
    vmci_lock(&p->lock);
    bool resident = vmci_object_kind(o) == VMCI_O_RESIDENT;
    uint32_t frame = resident ? o->where : vmci_frame_alloc_locked(s);
    vmci_unlock(&p->lock);
    if (resident)
        return found(s, page, frame, false, false, out);
    if (frame == VMCI_NONE)
        return VMC_ENOSPC;
    if (vmci_object_read(p, id, vmci_frame(p, frame)) != VMC_OK) {
        vmci_frame_free(p, frame);
        int rc = lost(s, page, &e);
        vmci_page_set(s, page, e);
        return rc == VMC_OK ? found(s, page, 0, false, false, out) : rc;
    }
    s->unpacks++;
    vmci_lock(&p->lock);
    resident = vmci_object_kind(o) == VMCI_O_RESIDENT;
    bool sole = !resident && vmci_object_refs(o) == 1;
    if (resident) { /* another page was quicker, and there may be pointers to its frame by now */
        vmci_frame_free_locked(p, frame);
        frame = o->where;
    } else if (sole) {
        vmci_object_put(p, id);
        vmci_page_set(s, page, vmci_entry(VMCI_E_PRIVATE, frame));
        set_bit(s->dirty, page); /* the scanner does not know it as a private page */
    } else {
        vmci_object_unpack(p, id, frame);
    }
    vmci_unlock(&p->lock);
    return found(s, page, frame, sole, false, out);
}

/* An entry that is BUSY: see whether it goes on. VMC_OK: look again. */
static int busy(struct vmc_space *s, uint64_t page)
{
    struct vmci_pending *d = vmci_pending_find(s, page);

    if (d == NULL)
        return VMC_EAGAIN;
    switch ((enum vmci_pending_kind)d->kind) {
    case VMCI_P_SWAP_OUT: /* wanted after all: what is written does not matter */
        vmci_pending_end(s, d, d->entry);
        return VMC_OK;
    case VMCI_P_SWAP_IN:
        vmci_swap_reap(s);
        return vmci_entry_state(s->map[page]) != VMCI_E_BUSY ? VMC_OK : VMC_EAGAIN;
    case VMCI_P_BREAK:
        if (!s->provider->settled(s->provider_ctx, d->ticket))
            return VMC_EAGAIN;
        vmci_pending_end(s, d, d->entry);
        return VMC_OK;
    case VMCI_P_NONE:
        break;
    }
    return VMC_EINTERNAL;
}

static int locked(struct vmc_space *s, uint64_t page, bool write, struct vmc_page_ref *out)
{
    for (;;) {
        uint32_t e = s->map[page];
        bool breaking = false;
        int rc;
        switch (vmci_entry_state(e)) {
        case VMCI_E_PRIVATE:
            return found(s, page, vmci_entry_value(e), true, write, out);
        case VMCI_E_ZERO:
        case VMCI_E_BALLOON:
            return write ? write_zero(s, page, e, out) : found(s, page, 0, false, false, out);
        case VMCI_E_OBJECT:
            return write ? write_object(s, page, e, out) : read_object(s, page, e, out);
        case VMCI_E_SWAPPED:
            rc = vmci_swap_in(s, page);
            if (rc != VMC_OK)
                return rc;
            break;
        case VMCI_E_BUSY:
            breaking = vmci_pending_find(s, page) != NULL &&
                       vmci_pending_find(s, page)->kind == VMCI_P_BREAK;
            rc = busy(s, page);
            if (rc != VMC_OK)
                return rc;
            /* Readers go on reading only after the writer who waited has had its turn. */
            write = write || breaking;
            break;
        }
    }
}

int vmc_space_access(struct vmc_space *s, uint64_t page, uint32_t flags, struct vmc_page_ref *out)
{
    bool write = (flags & VMC_ACCESS_WRITE) != 0;

    if (page >= s->pages)
        return VMC_ERANGE;
    if (likely(vmci_space_fast(s, page, write, out)))
        return VMC_OK;
    if ((flags & VMC_ACCESS_READY) != 0)
        return VMC_EAGAIN;
    for (;;) {
        vmci_lock(&s->lock);
        int rc = locked(s, page, write, out);
        vmci_unlock(&s->lock);
        if (rc != VMC_EAGAIN || !vmci_swap_kick(s))
            return rc;
    }
}

/* ---- pins --------------------------------------------------------------------------------------
 */

static void pin(struct vmc_space *s, uint64_t page)
{
    (void)__atomic_fetch_add(&s->pins, 1, __ATOMIC_SEQ_CST);
    (void)__atomic_fetch_add(&s->pin[vmci_pin_slot(page)], 1, __ATOMIC_SEQ_CST);
}

static void unpin(struct vmc_space *s, uint64_t page)
{
    (void)__atomic_fetch_sub(&s->pin[vmci_pin_slot(page)], 1, __ATOMIC_SEQ_CST);
    (void)__atomic_fetch_sub(&s->pins, 1, __ATOMIC_SEQ_CST);
}

/* One try; on success the page is private and pinned. */
static int try_pin(struct vmc_space *s, uint64_t page, bool write, struct vmc_page_ref *out)
{
    pin(s, page);
    uint32_t e = __atomic_load_n(&s->map[page], __ATOMIC_SEQ_CST);
    int rc = VMC_OK;
    if (vmci_entry_state(e) == VMCI_E_PRIVATE) {
        if (write)
            set_bit(s->dirty, page);
        out->ptr = vmci_frame(s->pool, vmci_entry_value(e));
    } else {
        rc = vmc_space_access(s, page, VMC_ACCESS_WRITE, out);
    }
    out->writable = write;
    if (rc != VMC_OK)
        unpin(s, page);
    return rc;
}

int vmc_space_pin(struct vmc_space *s, uint64_t page, uint32_t flags, struct vmc_page_ref *out)
{
    if (page >= s->pages)
        return VMC_ERANGE;
    for (;;) {
        int rc = try_pin(s, page, (flags & VMC_ACCESS_WRITE) != 0, out);
        if ((rc != VMC_EAGAIN && rc != VMC_ENOSPC) || (flags & VMC_ACCESS_NOWAIT) != 0)
            return rc;
        if (!vmci_pf_has(s->pool->pf, sync) && rc == VMC_ENOSPC)
            return rc; /* nobody else runs who could free something */
        vmc_space_wait(s);
    }
}

void vmc_space_unpin(struct vmc_space *s, uint64_t page, bool dirty)
{
    if (page >= s->pages)
        return;
    if (dirty)
        set_bit(s->dirty, page);
    unpin(s, page);
}

/* Bytes of a page that is no private one, or false. */
static bool read_shared(struct vmc_space *s, uint64_t page, uint32_t offset, void *dst,
                        uint32_t bytes)
{
    struct vmc_pool *p = s->pool;
    bool done = false;

    vmci_lock(&s->lock);
    uint32_t e = s->map[page];
    if (vmci_entry_state(e) == VMCI_E_ZERO || vmci_entry_state(e) == VMCI_E_BALLOON) {
        memset(dst, 0, bytes);
        done = true;
    } else if (vmci_entry_state(e) == VMCI_E_OBJECT) {
        vmci_lock(&p->lock);
        const struct vmci_object *o = vmci_object(p, vmci_entry_value(e));
        done = vmci_object_kind(o) == VMCI_O_RESIDENT;
        if (done)
            memcpy(dst, vmci_frame(p, o->where) + offset, bytes);
        vmci_unlock(&p->lock);
    }
    vmci_unlock(&s->lock);
    return done;
}

int vmc_space_read(struct vmc_space *s, uint64_t page, uint32_t offset, void *dst, uint32_t bytes,
                   uint32_t flags)
{
    struct vmc_page_ref ref;

    if (page >= s->pages || !vmci_range_ok(offset, bytes, VMC_PAGE_SIZE))
        return VMC_ERANGE;
    enum vmci_entry_state st = vmci_entry_state(vmci_load_acquire(&s->map[page]));
    if (st != VMCI_E_PRIVATE && st != VMCI_E_BUSY && read_shared(s, page, offset, dst, bytes))
        return VMC_OK;
    int rc = vmc_space_pin(s, page, flags & VMC_ACCESS_NOWAIT, &ref);
    if (rc != VMC_OK)
        return rc;
    vmci_copy_racing(dst, (unsigned char *)ref.ptr + offset, bytes);
    vmc_space_unpin(s, page, false);
    return VMC_OK;
}

int vmc_space_write(struct vmc_space *s, uint64_t page, uint32_t offset, const void *src,
                    uint32_t bytes, uint32_t flags)
{
    struct vmc_page_ref ref;

    if (page >= s->pages || !vmci_range_ok(offset, bytes, VMC_PAGE_SIZE))
        return VMC_ERANGE;
    int rc = vmc_space_pin(s, page, flags | VMC_ACCESS_WRITE, &ref);
    if (rc != VMC_OK)
        return rc;
    vmci_copy_racing((unsigned char *)ref.ptr + offset, src, bytes);
    vmc_space_unpin(s, page, true);
    return VMC_OK;
}

/* ---- contiguous pages ---------------------------------------------------------------------------
 */

#define GATHER_MAX   32u
#define GATHER_TRIES 8u

static bool contiguous(const struct vmc_space *s, uint64_t first, uint64_t count)
{
    uint32_t e = vmci_load_acquire(&s->map[first]);

    if (vmci_entry_state(e) != VMCI_E_PRIVATE)
        return false;
    for (uint64_t i = 1; i < count; i++)
        if (vmci_load_acquire(&s->map[first + i]) != e + i)
            return false;
    return true;
}

/* All pages are private and nobody has a pointer: copy them. false: somebody was quicker. */
static bool move_pages(struct vmc_space *s, uint64_t first, uint64_t count, uint32_t to)
{
    struct vmc_pool *p = s->pool;
    uint64_t n = 0;

    while (n < count && vmci_entry_state(s->map[first + n]) == VMCI_E_PRIVATE) {
        s->gather[n] = s->map[first + n];
        if (!vmci_page_seize(s, first + n, s->gather[n], true))
            break;
        n++;
    }
    for (uint64_t i = 0; n < count && i < n; i++)
        vmci_page_set(s, first + i, s->gather[i]);
    if (n < count)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t old = vmci_entry_value(s->gather[i]);
        memcpy(vmci_frame(p, to + i), vmci_frame(p, old), VMC_PAGE_SIZE);
        vmci_page_set(s, first + i, vmci_entry(VMCI_E_PRIVATE, to + i));
        vmci_frame_free(p, old);
    }
    return true;
}

int vmci_space_gather(struct vmc_space *s, uint64_t first, uint64_t count)
{
    struct vmc_page_ref ref;

    if (count > GATHER_MAX)
        return VMC_ELIMIT;
    for (unsigned i = 0; i < GATHER_TRIES; i++) {
        for (uint64_t k = 0; k < count; k++) { /* make them private */
            int rc = vmc_space_pin(s, first + k, VMC_ACCESS_WRITE, &ref);
            if (rc != VMC_OK)
                return rc;
            vmc_space_unpin(s, first + k, true);
        }
        if (contiguous(s, first, count))
            return VMC_OK;
        uint32_t run = vmci_frame_alloc_run(s->pool, (uint32_t)count);
        if (run == VMCI_NONE)
            return VMC_ENOSPC;
        bool moved = false;
        if (vmci_space_let_go(s, first, count)) {
            vmci_lock(&s->lock);
            moved = vmci_space_settled(s) && move_pages(s, first, count, run);
            vmci_unlock(&s->lock);
        }
        for (uint32_t k = 0; !moved && k < count; k++)
            vmci_frame_free(s->pool, run + k);
    }
    return contiguous(s, first, count) ? VMC_OK : VMC_EBUSY;
}
