/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Small objects, in slabs of one page; large ones are pages. Each memory domain has a heap of its
 * own, and an empty slab goes back at once, so a domain that frees everything holds no page.
 */
#include "bm_int.h"

#define SLAB_HEADER 64u

static const uint16_t class_bytes[] = {16,  32,  48,  64,  96,  128,  192,
                                       256, 320, 448, 576, 960, 1344, 1984};
#define CLASSES ARRAY_SIZE(class_bytes)

struct slab {
    struct slab *next, *prev; /* among those with room */
    void *free;               /* list through the objects */
    uint16_t cls, used, total, listed;
};

struct bm_heap {
    struct bm_lock lock;
    uint32_t owner;
    struct slab *room[CLASSES];
};

static struct bm_heap kernel_heap = {.owner = OWNER_KERNEL};
struct bm_heap *bm_kernel_heap = &kernel_heap;

/* CLASSES: too large, or aligned too strictly, for a slab. */
static unsigned class_of(size_t bytes, size_t align)
{
    for (unsigned c = 0; c < CLASSES; c++)
        if (bytes <= class_bytes[c] && class_bytes[c] % align == 0 && align <= SLAB_HEADER)
            return c;
    return CLASSES;
}

static void list(struct bm_heap *h, struct slab *s)
{
    s->prev = NULL;
    s->next = h->room[s->cls];
    if (s->next != NULL)
        s->next->prev = s;
    h->room[s->cls] = s;
    s->listed = 1;
}

static void unlist(struct bm_heap *h, struct slab *s)
{
    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        h->room[s->cls] = s->next;
    if (s->next != NULL)
        s->next->prev = s->prev;
    s->listed = 0;
}

static struct slab *new_slab(struct bm_heap *h, unsigned cls)
{
    uint64_t pa = bm_pages_alloc(1, 1, h->owner);

    if (pa == 0)
        return NULL;
    struct slab *s = phys_ptr(pa);
    *s = (struct slab){.cls = (uint16_t)cls,
                       .total = (uint16_t)((PAGE - SLAB_HEADER) / class_bytes[cls])};
    for (unsigned i = s->total; i-- > 0;) {
        void **obj = (void **)((char *)s + SLAB_HEADER + i * class_bytes[cls]);
        *obj = s->free;
        s->free = obj;
    }
    list(h, s);
    return s;
}

void *bm_heap_alloc(struct bm_heap *h, size_t bytes, size_t align)
{
    unsigned cls = class_of(bytes, align != 0 ? align : 1);

    if (cls == CLASSES) {
        uint64_t pa = bm_pages_alloc(PAGES(bytes), align > PAGE ? align / PAGE : 1, h->owner);
        return pa != 0 ? phys_ptr(pa) : NULL;
    }
    bm_lock(&h->lock);
    struct slab *s = h->room[cls];
    if (s == NULL)
        s = new_slab(h, cls);
    void **obj = NULL;
    if (s != NULL) {
        obj = s->free;
        s->free = *obj;
        if (++s->used == s->total)
            unlist(h, s);
    }
    bm_unlock(&h->lock);
    return obj;
}

void bm_heap_free(struct bm_heap *h, void *p, size_t bytes, size_t align)
{
    unsigned cls = class_of(bytes, align != 0 ? align : 1);

    if (p == NULL)
        return;
    if (cls == CLASSES) {
        bm_pages_free(bm_virt_to_phys(p), PAGES(bytes));
        return;
    }
    struct slab *s = (struct slab *)((uint64_t)p & ~(PAGE - 1));
    bm_lock(&h->lock);
    if (s->cls != cls || s->used == 0)
        bm_panic("freeing %zu bytes at %p, which are no object of that size", bytes, p);
    *(void **)p = s->free;
    s->free = p;
    s->used--;
    if (!s->listed)
        list(h, s);
    if (s->used == 0) {
        unlist(h, s);
        bm_unlock(&h->lock);
        bm_pages_free(bm_virt_to_phys(s), 1);
        return;
    }
    bm_unlock(&h->lock);
}

struct bm_heap *bm_heap_create(uint32_t owner)
{
    struct bm_heap *h = bm_zalloc(sizeof(*h));

    if (h != NULL)
        h->owner = owner;
    return h;
}

void bm_heap_destroy(struct bm_heap *h)
{
    bm_free(h, sizeof(*h));
}

void *bm_zalloc(size_t bytes)
{
    void *p = bm_heap_alloc(bm_kernel_heap, bytes, 64);

    if (p != NULL)
        memset(p, 0, bytes);
    return p;
}

void bm_free(void *p, size_t bytes)
{
    bm_heap_free(bm_kernel_heap, p, bytes, 64);
}
