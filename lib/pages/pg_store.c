/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The compressed store: slots of one size in slabs of up to eight frames, which need not be
 * contiguous; a slot may straddle two of them. Sizes are 32 bytes apart, so a slot wastes 16 bytes
 * on average; a slab has as many frames as leave least behind its last slot. Each slot names the
 * object it belongs to, so that compaction can move it.
 */
#include "pages/pages_int.h"

#define MAX_SLABS (1u << (32 - VMCI_SLOT_BITS))

static struct vmci_slab *slab(const struct vmci_store *st, uint32_t n)
{
    return &st->chunk[n / VMCI_SLAB_CHUNK][n % VMCI_SLAB_CHUNK];
}

static unsigned class_of(uint16_t bytes)
{
    unsigned cls = (bytes + VMCI_SLOT_HEAD + VMCI_CLASS_STEP - 1) / VMCI_CLASS_STEP;
    /* More slots than their number has bits for would do nobody any good. */
    unsigned least = VMCI_SLAB_BYTES >> VMCI_SLOT_BITS;
    return VMCI_MAX(cls, (least + VMCI_CLASS_STEP - 1) / VMCI_CLASS_STEP);
}

/* How many frames a slab of the class has: what they do not use for slots is small. */
static unsigned frames_of(unsigned cls)
{
    unsigned bytes = cls * VMCI_CLASS_STEP, best = VMCI_SLAB_FRAMES, best_lost = UINT32_MAX;

    for (unsigned n = VMCI_SLAB_FRAMES; n > 0; n--) {
        unsigned lost = (unsigned)sizeof(struct vmci_slab) + n * VMC_PAGE_SIZE % bytes;
        /* For each frame; 840 is a multiple of all numbers of them. */
        if (n * VMC_PAGE_SIZE >= bytes && lost * 840u / n < best_lost) {
            best = n;
            best_lost = lost * 840u / n;
        }
    }
    return best;
}

static size_t dir_bytes(const struct vmc_pool *p)
{
    uint64_t most = VMCI_MIN(p->frames, (uint64_t)MAX_SLABS);
    return (most / VMCI_SLAB_CHUNK + 1) * sizeof(p->store.chunk[0]);
}

int vmci_store_init(struct vmc_pool *p)
{
    struct vmci_store *st = &p->store;

    st->chunk = vmci_zalloc(p->pf, dir_bytes(p));
    if (st->chunk == NULL)
        return VMC_ENOMEM;
    vmci_pool_meta(p, (int64_t)dir_bytes(p));
    st->free_slab = VMCI_NONE;
    memset(st->partial, 0xff, sizeof(st->partial)); /* VMCI_NONE */
    return VMC_OK;
}

void vmci_store_fini(struct vmc_pool *p)
{
    struct vmci_store *st = &p->store;

    if (st->chunk == NULL)
        return;
    for (uint32_t i = 0; i < st->chunks; i++)
        vmci_free(p->pf, st->chunk[i], VMCI_SLAB_CHUNK * sizeof(struct vmci_slab));
    vmci_free(p->pf, st->chunk, dir_bytes(p));
}

/* ---- bytes of a slot ---------------------------------------------------------------------------
 */

static void copy(const struct vmc_pool *p, const struct vmci_slab *sl, uint32_t at, void *data,
                 uint32_t bytes, bool in)
{
    unsigned char *d = data;

    while (bytes > 0) {
        uint32_t off = at % VMC_PAGE_SIZE, run = VMCI_MIN(bytes, VMC_PAGE_SIZE - off);
        unsigned char *at_frame = vmci_frame(p, sl->frame[at / VMC_PAGE_SIZE]) + off;
        if (in)
            memcpy(at_frame, d, run);
        else
            memcpy(d, at_frame, run);
        d += run;
        at += run;
        bytes -= run;
    }
}

static uint32_t slot_at(const struct vmci_slab *sl, uint32_t slot)
{
    return slot * sl->cls * VMCI_CLASS_STEP;
}

/* The head of a slot: its object, or when it is free the next free slot; and the bytes behind it.
 */
static uint32_t head_get(const struct vmc_pool *p, const struct vmci_slab *sl, uint32_t slot)
{
    unsigned char le[4];

    copy(p, sl, slot_at(sl, slot), le, sizeof(le), false);
    return vmci_ld_le32(le);
}

static void head_set(const struct vmc_pool *p, const struct vmci_slab *sl, uint32_t slot,
                     uint32_t value)
{
    unsigned char le[4];

    vmci_st_le32(le, value);
    copy(p, sl, slot_at(sl, slot), le, sizeof(le), true);
}

/* Never more than fits into the slot. */
static uint16_t size_get(const struct vmc_pool *p, const struct vmci_slab *sl, uint32_t slot)
{
    unsigned char le[2];

    copy(p, sl, slot_at(sl, slot) + 4, le, sizeof(le), false);
    return VMCI_MIN(vmci_ld_le16(le), (uint16_t)(sl->cls * VMCI_CLASS_STEP - VMCI_SLOT_HEAD));
}

static void size_set(const struct vmc_pool *p, const struct vmci_slab *sl, uint32_t slot,
                     uint16_t bytes)
{
    unsigned char le[2];

    vmci_st_le16(le, bytes);
    copy(p, sl, slot_at(sl, slot) + 4, le, sizeof(le), true);
}

/* ---- slabs -------------------------------------------------------------------------------------
 */

/* How full a slab is: which list of its class it belongs to; VMCI_FILLS: it is full. */
static unsigned fill_of(const struct vmci_slab *sl)
{
    return sl->used * VMCI_FILLS / sl->slots;
}

static void unlink_partial(struct vmci_store *st, uint32_t n)
{
    struct vmci_slab *sl = slab(st, n);

    if (sl->prev != VMCI_NONE)
        slab(st, sl->prev)->next = sl->next;
    else
        st->partial[sl->cls][fill_of(sl)] = sl->next;
    if (sl->next != VMCI_NONE)
        slab(st, sl->next)->prev = sl->prev;
    st->room[sl->cls] -= (uint32_t)(sl->slots - sl->used);
}

static void link_partial(struct vmci_store *st, uint32_t n)
{
    struct vmci_slab *sl = slab(st, n);
    uint32_t *head = &st->partial[sl->cls][fill_of(sl)];

    sl->prev = VMCI_NONE;
    sl->next = *head;
    if (sl->next != VMCI_NONE)
        slab(st, sl->next)->prev = n;
    *head = n;
    st->room[sl->cls] += (uint32_t)(sl->slots - sl->used);
}

/* So many slots of a slab that is not empty are used from now on; it may come to another list. */
static void set_used(struct vmci_store *st, uint32_t n, uint32_t used)
{
    struct vmci_slab *sl = slab(st, n);
    bool stays = sl->used != sl->slots && fill_of(sl) == used * VMCI_FILLS / sl->slots;

    if (stays)
        st->room[sl->cls] += sl->used - used;
    else if (sl->used != sl->slots)
        unlink_partial(st, n);
    sl->used = (uint16_t)used;
    if (!stays && used != sl->slots)
        link_partial(st, n);
}

/* One of the fullest slabs of a class that have room, or VMCI_NONE: the others may become empty. */
static uint32_t fullest(const struct vmci_store *st, unsigned cls)
{
    uint32_t n = VMCI_NONE;

    for (unsigned f = VMCI_FILLS; n == VMCI_NONE && f-- > 0;)
        n = st->partial[cls][f];
    return n;
}

/* One of the emptiest. */
static uint32_t emptiest(const struct vmci_store *st, unsigned cls)
{
    uint32_t n = VMCI_NONE;

    for (unsigned f = 0; n == VMCI_NONE && f < VMCI_FILLS; f++)
        n = st->partial[cls][f];
    return n;
}

static bool more_slabs(struct vmc_pool *p)
{
    struct vmci_store *st = &p->store;
    size_t bytes = VMCI_SLAB_CHUNK * sizeof(struct vmci_slab);

    if (st->slabs >= MAX_SLABS - VMCI_SLAB_CHUNK ||
        (st->chunks + 1) * sizeof(st->chunk[0]) > dir_bytes(p))
        return false;
    st->chunk[st->chunks] = vmci_zalloc(p->pf, bytes);
    if (st->chunk[st->chunks] == NULL)
        return false;
    vmci_pool_meta(p, (int64_t)bytes);
    st->chunks++;
    for (uint32_t i = 0; i < VMCI_SLAB_CHUNK; i++) {
        uint32_t n = st->slabs++;
        slab(st, n)->next = st->free_slab;
        st->free_slab = n;
    }
    return true;
}

/* All slots free, each linked to the next. */
static int new_slab(struct vmc_pool *p, unsigned cls, uint32_t *out)
{
    struct vmci_store *st = &p->store;

    if (st->free_slab == VMCI_NONE && !more_slabs(p))
        return VMC_ENOMEM;
    uint32_t n = st->free_slab;
    struct vmci_slab *sl = slab(st, n);
    unsigned frames = frames_of(cls);
    for (unsigned i = 0; i < frames; i++) {
        sl->frame[i] = vmci_frame_alloc_store(p);
        if (sl->frame[i] == VMCI_NONE) {
            while (i-- > 0)
                vmci_frame_free_locked(p, sl->frame[i]);
            return VMC_ENOSPC;
        }
    }
    st->free_slab = sl->next;
    st->frames += frames;
    sl->cls = (uint16_t)cls;
    sl->used = 0;
    sl->slots = (uint16_t)(frames * VMC_PAGE_SIZE / (cls * VMCI_CLASS_STEP));
    sl->free_slot = 0;
    for (uint32_t i = 0; i < sl->slots; i++)
        head_set(p, sl, i, i + 1);
    link_partial(st, n);
    *out = n;
    return VMC_OK;
}

/* It is on no list. */
static void free_slab(struct vmc_pool *p, uint32_t n)
{
    struct vmci_store *st = &p->store;
    struct vmci_slab *sl = slab(st, n);
    unsigned frames = frames_of(sl->cls);

    for (unsigned i = 0; i < frames; i++)
        vmci_frame_free_locked(p, sl->frame[i]);
    st->frames -= frames;
    sl->cls = 0;
    sl->next = st->free_slab;
    st->free_slab = n;
}

static uint32_t take_slot(struct vmc_pool *p, uint32_t n)
{
    struct vmci_slab *sl = slab(&p->store, n);
    uint32_t slot = sl->free_slot;

    sl->free_slot = (uint16_t)head_get(p, sl, slot);
    set_used(&p->store, n, sl->used + 1u);
    return slot;
}

static void give_slot(struct vmc_pool *p, uint32_t n, uint32_t slot)
{
    struct vmci_slab *sl = slab(&p->store, n);

    head_set(p, sl, slot, sl->free_slot);
    sl->free_slot = (uint16_t)slot;
    set_used(&p->store, n, sl->used - 1u);
    if (sl->used != 0)
        return;
    unlink_partial(&p->store, n);
    free_slab(p, n);
}

/* ---- objects -----------------------------------------------------------------------------------
 */

#define BASE_BYTES 4u /* of the base's number, in front of the payload */

static const struct vmci_slab *slab_of(const struct vmc_pool *p, uint32_t slot, uint32_t *at)
{
    *at = slot & ((1u << VMCI_SLOT_BITS) - 1);
    return slab(&p->store, slot >> VMCI_SLOT_BITS);
}

int vmci_store_put(struct vmc_pool *p, uint32_t object, uint32_t base, const void *data,
                   uint16_t bytes, uint32_t *slot)
{
    uint32_t front = base != VMCI_NONE ? BASE_BYTES : 0;
    unsigned cls = class_of((uint16_t)(bytes + front));
    uint32_t n = fullest(&p->store, cls);

    int rc = n == VMCI_NONE ? new_slab(p, cls, &n) : VMC_OK;
    while (rc != VMC_OK &&
           ++cls < VMCI_CLASSES) { /* no frames for a slab: a slot that is too large */
        n = fullest(&p->store, cls);
        rc = n != VMCI_NONE ? VMC_OK : rc;
    }
    if (rc != VMC_OK)
        return rc;
    uint32_t at = take_slot(p, n);
    struct vmci_slab *sl = slab(&p->store, n);
    unsigned char le[BASE_BYTES];
    vmci_st_le32(le, base);
    head_set(p, sl, at, object);
    size_set(p, sl, at, (uint16_t)(bytes + front));
    copy(p, sl, slot_at(sl, at) + VMCI_SLOT_HEAD, le, front, true);
    copy(p, sl, slot_at(sl, at) + VMCI_SLOT_HEAD + front, (void *)(uintptr_t)data, bytes, true);
    p->store.payload += bytes;
    *slot = n << VMCI_SLOT_BITS | at;
    return VMC_OK;
}

uint16_t vmci_store_bytes(const struct vmc_pool *p, uint32_t slot, bool base)
{
    uint32_t at, front = base ? BASE_BYTES : 0;
    const struct vmci_slab *sl = slab_of(p, slot, &at);
    uint32_t bytes = size_get(p, sl, at);

    return (uint16_t)(bytes > front ? bytes - front : 0);
}

uint32_t vmci_store_base(const struct vmc_pool *p, uint32_t slot)
{
    unsigned char le[BASE_BYTES];
    uint32_t at;
    const struct vmci_slab *sl = slab_of(p, slot, &at);

    copy(p, sl, slot_at(sl, at) + VMCI_SLOT_HEAD, le, sizeof(le), false);
    return vmci_ld_le32(le);
}

void vmci_store_fetch(const struct vmc_pool *p, uint32_t slot)
{
    uint32_t at;
    const struct vmci_slab *sl = slab_of(p, slot, &at);
    uint32_t from = slot_at(sl, at), end = from + sl->cls * VMCI_CLASS_STEP;

    for (from -= from % VMCI_CACHELINE; from < end; from += VMCI_CACHELINE)
        __builtin_prefetch(vmci_frame(p, sl->frame[from / VMC_PAGE_SIZE]) + from % VMC_PAGE_SIZE);
}

uint16_t vmci_store_get(const struct vmc_pool *p, uint32_t slot, bool base, void *data)
{
    uint16_t bytes = vmci_store_bytes(p, slot, base);
    uint32_t at;
    const struct vmci_slab *sl = slab_of(p, slot, &at);

    copy(p, sl, slot_at(sl, at) + VMCI_SLOT_HEAD + (base ? BASE_BYTES : 0), data, bytes, false);
    return bytes;
}

void vmci_store_drop(struct vmc_pool *p, uint32_t slot, bool base)
{
    p->store.payload -= vmci_store_bytes(p, slot, base);
    give_slot(p, slot >> VMCI_SLOT_BITS, slot & ((1u << VMCI_SLOT_BITS) - 1));
}

/* ---- compaction --------------------------------------------------------------------------------
 */

/* Which slots are in use? The free list tells which are not. */
static void used_slots(const struct vmc_pool *p, const struct vmci_slab *sl, uint64_t *map)
{
    uint32_t f = sl->free_slot;

    memset(map, 0xff, (1u << VMCI_SLOT_BITS) / 8);
    for (uint32_t i = sl->used; i < sl->slots; i++) {
        vmci_bit_clear(map, f);
        f = head_get(p, sl, f);
    }
}

/* Move everything out of slab from; there is room for it. Returns the objects moved. */
static uint64_t evacuate(struct vmc_pool *p, uint32_t from)
{
    struct vmci_store *st = &p->store;
    struct vmci_slab *sl = slab(st, from);
    uint64_t map[(1u << VMCI_SLOT_BITS) / 64], moved = 0;
    uint32_t left = sl->used, slots = sl->slots;
    unsigned char buf[VMC_PAGE_SIZE / 4];

    used_slots(p, sl, map);
    unlink_partial(st, from);
    for (uint32_t s = 0; s < slots && left > 0; s++) {
        if (!vmci_bit_test(map, s))
            continue;
        uint32_t to = fullest(st, sl->cls);
        uint32_t at = take_slot(p, to);
        struct vmci_object *o = vmci_object(p, head_get(p, sl, s));
        uint32_t bytes = size_get(p, sl, s) + VMCI_SLOT_HEAD;
        for (uint32_t done = 0; done < bytes; done += sizeof(buf)) {
            uint32_t n = VMCI_MIN(bytes - done, (uint32_t)sizeof(buf));
            copy(p, sl, slot_at(sl, s) + done, buf, n, false);
            copy(p, slab(st, to), slot_at(slab(st, to), at) + done, buf, n, true);
        }
        vmci_store_relaxed(&o->where, to << VMCI_SLOT_BITS | at);
        moved++;
        left--;
    }
    sl->used = 0;
    free_slab(p, from);
    return moved;
}

uint64_t vmc_pool_compact(struct vmc_pool *p, uint64_t budget)
{
    struct vmci_store *st = &p->store;
    uint64_t freed = 0;

    for (unsigned cls = 1; cls < VMCI_CLASSES; cls++) {
        for (;;) {
            vmci_lock(&p->lock);
            uint32_t from = emptiest(st, cls);
            /* What it holds has room in the others if all of them have as much as a slab. */
            bool fits = from != VMCI_NONE && st->room[cls] >= slab(st, from)->slots &&
                        slab(st, from)->used <= budget;
            if (fits) {
                budget -= evacuate(p, from);
                freed += frames_of(cls);
            }
            vmci_unlock(&p->lock);
            if (!fits)
                break;
        }
    }
    return freed;
}
