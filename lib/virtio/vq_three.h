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
    size_t mask;
    uint32_t first;        /* in the available ring, but for the mask */
    uint32_t ready, taken; /* how many may be taken, and were */
    bool indirect;
};

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
    uint32_t there = (uint16_t)(q->shadow - q->pos.next_avail);
    return (struct vmci_threes){.avail = q->driver + 4,
                                .desc = q->desc,
                                .slot = q->near,
                                .hva = slot->hva,
                                .gpa = slot->gpa,
                                .room = slot->bytes,
                                .mask = q->size - 1u,
                                .first = q->pos.next_avail,
                                .ready = VMCI_MIN(there, q->size - q->inflight),
                                .indirect = q->indirect};
}

static inline void vmci_threes_end(struct vmci_vq *q, const struct vmci_threes *s)
{
    q->pos.next_avail = (uint16_t)(q->pos.next_avail + s->taken);
    q->inflight += s->taken;
}

/* A descriptor of a split ring or indirect table: each field is read once. */
struct vmci_three_desc {
    uint64_t at; /* in the slot; beyond its end: not there */
    uint32_t bytes;
    uint32_t link; /* flags; next in the upper half */
};

static inline struct vmci_three_desc vmci_three_fetch(const struct vmci_threes *s,
                                                      const unsigned char *table, size_t i)
{
    const unsigned char *d = table + i * VMCI_VD_BYTES;
    const uint32_t *word = (const void *)(d + 8);

    return (struct vmci_three_desc){.at = vmci_load_relaxed((const uint64_t *)(const void *)d) -
                                          s->gpa,
                                    .bytes = vmci_load_relaxed(&word[0]),
                                    .link = vmci_load_relaxed(&word[1])};
}

/* The chain of descriptors i, j and k of a table. False: they are none, or none of this kind. */
static inline __attribute__((always_inline)) bool
vmci_three_at(const struct vmci_threes *s, const unsigned char *table, size_t i, size_t j, size_t k,
              uint32_t first_bytes, uint32_t last_bytes, struct vmci_three *t)
{
    struct vmci_three_desc d = vmci_three_fetch(s, table, i);

    /* Slots are whole pages: the ends are shorter than any of them. */
    if (unlikely(d.link != ((uint32_t)j << 16 | VMCI_VD_NEXT) || d.bytes != first_bytes ||
                 d.at > s->room - first_bytes))
        return false;
    t->first = s->hva + d.at;
    d = vmci_three_fetch(s, table, k);
    if (unlikely((uint16_t)d.link != VMCI_VD_WRITE || d.bytes != last_bytes ||
                 d.at > s->room - last_bytes))
        return false;
    t->last = s->hva + d.at;
    d = vmci_three_fetch(s, table, j);
    if (unlikely((d.link & ~VMCI_VD_WRITE) != ((uint32_t)k << 16 | VMCI_VD_NEXT) ||
                 d.at >= s->room || (uint64_t)d.bytes - 1 >= s->room - d.at)) /* 0 is wrong, too */
        return false;
    t->data = s->hva + d.at;
    t->bytes = d.bytes;
    t->write = (d.link & VMCI_VD_WRITE) != 0;
    return true;
}

/* The chain that begins with descriptor i of the ring, wherever the others are. */
bool vmci_three_scattered(const struct vmci_threes *s, size_t i, uint32_t first_bytes,
                          uint32_t last_bytes, struct vmci_three *t);

/*
 * The next chain, if there is one, of this kind, and its ends have these lengths. Nearly always its
 * descriptors follow each other: the processor need not wait for their numbers then.
 */
static inline __attribute__((always_inline)) bool
vmci_threes_peek(const struct vmci_threes *s, uint32_t first_bytes, uint32_t last_bytes,
                 struct vmci_three *t)
{
    if (s->taken == s->ready)
        return false;
    size_t mask = s->mask; /* the size is a power of two */
    size_t head = vmci_ring_ld16(s->avail + ((s->first + s->taken) & mask) * 2);
    if (unlikely(head > mask))
        return false;
    t->slot = s->slot;
    t->id = (uint16_t)head;
    head &= mask;
    const uint32_t *link = (const void *)(s->desc + head * VMCI_VD_BYTES + 12);
    if ((vmci_load_relaxed(link) & VMCI_VD_INDIRECT) == 0) {
        if (likely(vmci_three_at(s, s->desc, head, (head + 1) & mask, (head + 2) & mask,
                                 first_bytes, last_bytes, t)))
            return true;
        /* Copies: what has an address is in no register. */
        struct vmci_threes there = *s;
        struct vmci_three far = *t;
        bool found = vmci_three_scattered(&there, head, first_bytes, last_bytes, &far);
        *t = far;
        return found;
    }
    struct vmci_three_desc d = vmci_three_fetch(s, s->desc, head);
    if (unlikely(!s->indirect || (uint16_t)d.link != VMCI_VD_INDIRECT ||
                 d.bytes != 3 * VMCI_VD_BYTES || d.at > s->room - 3 * VMCI_VD_BYTES ||
                 ((uintptr_t)(s->hva + d.at) & 7) != 0))
        return false;
    return vmci_three_at(s, s->hva + d.at, 0, 1, 2, first_bytes, last_bytes, t);
}

/* It is taken. */
static inline void vmci_threes_step(struct vmci_threes *s)
{
    s->taken++;
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
        ch->ref[i].gpa = t->slot->gpa + (uint64_t)((unsigned char *)piece[i].base - t->slot->hva);
        ch->ref[i].bytes = piece[i].bytes;
    }
}

/*
 * One byte of status and, if write, data were written where a chain of this slot says: the end of
 * the windows on them. Needs no lock.
 */
static inline void vmci_three_wrote(struct vmc_mem *mem, const struct vmci_mem_slot *slot,
                                    const unsigned char *status, const unsigned char *data,
                                    uint32_t bytes, bool write)
{
    const uint8_t *flags = slot->flags;
    uint64_t at = (uint64_t)(status - slot->hva), from = (uint64_t)(data - slot->hva);
    uint8_t all = vmci_load_acquire(&flags[at >> VMC_PAGE_SHIFT]) |
                  vmci_load_acquire(&flags[from >> VMC_PAGE_SHIFT]) |
                  vmci_load_acquire(&flags[(from + bytes - 1) >> VMC_PAGE_SHIFT]);

    if (likely(vmci_load_relaxed(&mem->dirty_clients) == 0 && bytes <= VMC_PAGE_SIZE &&
               (all & VMCI_PG_CODE) == 0))
        return;
    vmc_mem_unref(mem, slot->gpa + at, 1, true);
    if (write)
        vmc_mem_unref(mem, slot->gpa + from, bytes, true);
}

/* vmci_vq_stage for the first, second, ... of some chains, on a split ring. */
static inline void vmci_three_stage(const struct vmci_vq *q, unsigned n, uint32_t id,
                                    uint32_t written)
{
    unsigned slot = (q->pos.next_used + n) & (q->size - 1u);
    uint32_t *elem = (uint32_t *)(void *)(q->device + 4 + (size_t)slot * 8);

    vmci_store_relaxed(&elem[0], id);
    vmci_store_relaxed(&elem[1], written);
}

/* So many were staged. */
static inline void vmci_threes_staged(struct vmci_vq *q, unsigned count)
{
    q->pos.next_used = (uint16_t)(q->pos.next_used + count);
    q->staged += count;
    q->inflight -= count;
}

#endif
