/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Chains of three descriptors, inline: something short to read, data in one piece, something short
 * to write. That is what a driver of a disk sends nearly always. Threats: as in vq_chain.c; what is
 * not exactly of this kind is left to vmci_vq_pop, which knows everything, and what is wrong.
 */
#ifndef VQ_THREE_H
#define VQ_THREE_H

#include "virtio/virtio_int.h"

struct vmci_three {
    struct vmci_mem_slot *slot; /* ordinary memory that holds all of it */
    unsigned char *first, *data, *last;
    uint32_t bytes; /* of data */
    uint16_t id;
    bool write; /* data is written by the device */
};

/* Chains that are taken one after the other, and what is needed for it: on the stack of the taker. */
struct vmci_threes {
    const unsigned char *avail, *desc;
    struct vmci_mem_slot *slot;
    unsigned char *hva; /* slot's */
    uint64_t gpa, room;
    size_t mask, entries;
    uint16_t first, next, end; /* in the available ring: as it was, now, where to stop */
    bool indirect;
};

#define VMCI_THREE_AHEAD 4u /* chains from the one that is taken to the one that is fetched */

/* Length and flags of a descriptor of a split ring or indirect table, as in its second word. */
#define VMCI_THREE_WORD(bytes, flags) ((uint64_t)(bytes) | (uint64_t)(flags) << 32)
#define VMCI_THREE_MASK               0xffffffffffffull

/* Read the driver's index where nothing is known to be available. What is wrong with it, vmci_vq_pop says. */
static inline void vmci_threes_look(struct vmci_vq *q)
{
    if (q->packed || !vmci_vq_usable(q) || q->shadow != q->pos.next_avail)
        return;
    uint16_t idx = vmci_load_acquire((const uint16_t *)(const void *)(q->driver + 2));
    if (likely((uint16_t)(idx - q->pos.next_avail) <= q->size))
        q->shadow = idx;
}

/* As if vmci_vq_pop had found nothing, if that is so: on a split ring, with the lock. */
static inline bool vmci_threes_empty(struct vmci_vq *q)
{
    vmci_threes_look(q);
    if (q->packed || !vmci_vq_usable(q) || q->shadow != q->pos.next_avail)
        return false;
    q->empty = q->pos;
    return true;
}

/* Needs q->lock until vmci_threes_end. Takes what the driver's index was known to have made available. */
static inline struct vmci_threes vmci_threes_begin(const struct vmci_vq *q)
{
    const struct vmci_mem_slot *slot = q->near;
    struct vmci_threes s = {0};

    if (unlikely(slot == NULL || q->packed || !vmci_vq_usable(q) ||
                 vmci_load_relaxed(&q->dev->mem->dirty_clients) != 0))
        return s;
    uint32_t ready = (uint16_t)(q->shadow - q->pos.next_avail);
    return (struct vmci_threes){.avail = q->driver + 4,
                                .desc = q->desc,
                                .slot = q->near,
                                .hva = slot->hva,
                                .gpa = slot->gpa,
                                .room = slot->bytes,
                                .mask = q->size - 1u,
                                .entries = q->size,
                                .first = q->pos.next_avail,
                                .next = q->pos.next_avail,
                                .end = (uint16_t)(q->pos.next_avail +
                                                  VMCI_MIN(ready, q->size - q->inflight)),
                                .indirect = q->indirect};
}

static inline void vmci_threes_end(struct vmci_vq *q, const struct vmci_threes *s)
{
    uint16_t taken = (uint16_t)(s->next - s->first);

    q->pos.next_avail = (uint16_t)(q->pos.next_avail + taken);
    q->inflight += taken;
}

/*
 * Go from a descriptor to the next one, which nearly always follows it in the table: the processor
 * need not wait for its number then. mask: that of a power of two, at least entries.
 */
static inline __attribute__((always_inline)) bool vmci_three_next(size_t *i, size_t next,
                                                                  size_t entries, size_t mask)
{
    size_t same = *i = (*i + 1) & mask;

    __asm__("" : "+r"(same)); /* or the compiler would go on with next instead, */
    if (unlikely(next != same)) {
        __asm__ volatile(""); /* or choose without a branch */
        *i = next & mask;
    }
    return next < entries;
}

/*
 * Take the next chain, if it is one of these and its ends have these lengths. False: it was not
 * taken, or there is none.
 */
static inline __attribute__((always_inline)) bool
vmci_threes_take(struct vmci_threes *s, uint32_t first_bytes, uint32_t last_bytes,
                 struct vmci_three *t)
{
    const unsigned char *table = s->desc;
    size_t entries = s->entries, mask = s->mask;

    if (s->next == s->end)
        return false;
    size_t head = vmci_ring_ld16(s->avail + (s->next & s->mask) * 2);
    size_t ahead = vmci_ring_ld16(s->avail + ((s->next + VMCI_THREE_AHEAD) & s->mask) * 2);
    __builtin_prefetch(table + (ahead & s->mask) * VMCI_VD_BYTES); /* the size is a power of two */
    if (unlikely(head >= entries))
        return false;
    size_t i = head & mask;
    const uint64_t *d = (const void *)(table + i * VMCI_VD_BYTES);
    uint64_t at = vmci_load_relaxed(&d[0]) - s->gpa, word = vmci_load_relaxed(&d[1]);
    if ((word >> 32 & VMCI_VD_INDIRECT) != 0) {
        const uint64_t bytes = 3 * VMCI_VD_BYTES;
        /* Room for four: what is never followed, but might be by a processor that guesses. */
        if (unlikely(!s->indirect || at > s->room - 4 * VMCI_VD_BYTES ||
                     ((uintptr_t)(s->hva + at) & 7) != 0 ||
                     (word & VMCI_THREE_MASK) != VMCI_THREE_WORD(bytes, VMCI_VD_INDIRECT)))
            return false;
        table = s->hva + at;
        entries = 3;
        mask = 3;
        i = 0;
        d = (const void *)table;
        at = vmci_load_relaxed(&d[0]) - s->gpa;
        word = vmci_load_relaxed(&d[1]);
    }

    /* Slots are whole pages: the ends are shorter than any of them. */
    if (unlikely((word & VMCI_THREE_MASK) != VMCI_THREE_WORD(first_bytes, VMCI_VD_NEXT) ||
                 at > s->room - first_bytes || !vmci_three_next(&i, word >> 48, entries, mask)))
        return false;
    t->first = s->hva + at;

    d = (const void *)(table + i * VMCI_VD_BYTES);
    at = vmci_load_relaxed(&d[0]) - s->gpa;
    word = vmci_load_relaxed(&d[1]);
    t->bytes = (uint32_t)word;
    t->write = (word >> 32 & VMCI_VD_WRITE) != 0;
    if (unlikely((word >> 32 & (0xffff & ~VMCI_VD_WRITE)) != VMCI_VD_NEXT || t->bytes == 0 ||
                 !vmci_range_ok(at, t->bytes, s->room) ||
                 !vmci_three_next(&i, word >> 48, entries, mask)))
        return false;
    t->data = s->hva + at;

    d = (const void *)(table + i * VMCI_VD_BYTES);
    at = vmci_load_relaxed(&d[0]) - s->gpa;
    word = vmci_load_relaxed(&d[1]);
    if (unlikely((word & VMCI_THREE_MASK) != VMCI_THREE_WORD(last_bytes, VMCI_VD_WRITE) ||
                 at > s->room - last_bytes))
        return false;
    t->last = s->hva + at;
    t->slot = s->slot;
    t->id = (uint16_t)head;
    s->next++;
    return true;
}

/* The same as a chain, for whoever knows chains. */
static inline void vmci_three_to_chain(const struct vmci_three *t, uint32_t first_bytes,
                                       uint32_t last_bytes, struct vmci_chain *ch)
{
    const struct vmc_iovec piece[3] = {
        {t->first, first_bytes}, {t->data, t->bytes}, {t->last, last_bytes}};

    ch->id = t->id;
    ch->slots = 1;
    ch->malformed = ch->held = false;
    ch->near = t->slot;
    ch->out_n = t->write ? 1 : 2;
    ch->in_n = t->write ? 2 : 1;
    ch->out_bytes = first_bytes + (t->write ? 0 : t->bytes);
    ch->in_bytes = last_bytes + (t->write ? t->bytes : 0);
    for (unsigned i = 0; i < 3; i++) {
        ch->iov[i] = piece[i];
        ch->ref[i].gpa =
            t->slot->gpa + (uint64_t)((unsigned char *)piece[i].base - t->slot->hva);
        ch->ref[i].bytes = piece[i].bytes;
    }
}

/* A chain that was done, and how much of it was written. */
struct vmci_three_used {
    uint32_t id, written;
};

/*
 * One byte of status and, unless bytes is 0, data were written where a chain of this slot says: the
 * end of the windows on them. Needs no lock.
 */
static inline void vmci_three_wrote(struct vmc_mem *mem, const struct vmci_mem_slot *slot,
                                    const unsigned char *status, const unsigned char *data,
                                    uint64_t bytes)
{
    const uint8_t *flags = slot->flags;
    uint64_t at = (uint64_t)(status - slot->hva), from = (uint64_t)(data - slot->hva);
    uint8_t all = vmci_load_acquire(&flags[at >> VMC_PAGE_SHIFT]);

    if (bytes != 0)
        all |= vmci_load_acquire(&flags[from >> VMC_PAGE_SHIFT]) |
               vmci_load_acquire(&flags[(from + bytes - 1) >> VMC_PAGE_SHIFT]);
    if (likely(vmci_load_relaxed(&mem->dirty_clients) == 0 && bytes <= VMC_PAGE_SIZE &&
               (all & VMCI_PG_CODE) == 0))
        return;
    vmc_mem_unref(mem, slot->gpa + at, 1, true);
    if (bytes != 0)
        vmc_mem_unref(mem, slot->gpa + from, bytes, true);
}

/* vmci_vq_stage for some chains, on a split ring. */
static inline void vmci_three_stage(struct vmci_vq *q, const struct vmci_three_used *used,
                                    unsigned count)
{
    unsigned mask = q->size - 1u, slot = q->pos.next_used;
    unsigned char *ring = q->device + 4;

    for (unsigned i = 0; i < count; i++) {
        uint32_t *elem = (uint32_t *)(void *)(ring + (slot++ & mask) * 8);
        vmci_store_relaxed(&elem[0], used[i].id);
        vmci_store_relaxed(&elem[1], used[i].written);
    }
    q->pos.next_used = (uint16_t)slot;
    q->staged += count;
    q->inflight -= count;
}

#endif
