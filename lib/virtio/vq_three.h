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
    uint32_t write; /* VMCI_VD_WRITE: data is written by the device; else 0 */
    uint16_t id;
};

/* Chains that are taken one after the other, and what is needed for it: on the stack of the taker. */
struct vmci_threes {
    const unsigned char *avail, *desc;
    struct vmci_mem_slot *slot;
    unsigned char *hva; /* slot's */
    uint64_t gpa, room;
    size_t mask, rows; /* the size less 1; descriptors that two others follow in the ring */
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
                                .rows = q->size > 2 ? q->size - 2u : 0,
                                .first = q->pos.next_avail,
                                .ready = VMCI_MIN(there, q->size - q->inflight),
                                .indirect = q->indirect};
}

static inline void vmci_threes_end(struct vmci_vq *q, const struct vmci_threes *s)
{
    q->pos.next_avail = (uint16_t)(q->pos.next_avail + s->taken);
    q->inflight += s->taken;
}

/* Length, flags and next of a descriptor, as in its second word. */
#define VMCI_THREE_WORD(bytes, flags, next)                                                        \
    ((uint64_t)(bytes) | (uint64_t)(flags) << 32 | (uint64_t)(next) << 48)

/* A descriptor of a split ring or indirect table: each word is read once. */
struct vmci_three_desc {
    uint64_t at; /* in the slot; beyond its end: not there */
    uint64_t word;
};

static inline struct vmci_three_desc vmci_three_fetch(const struct vmci_threes *s,
                                                      const unsigned char *table, size_t i)
{
    const uint64_t *d = (const void *)(table + i * VMCI_VD_BYTES);

    return (struct vmci_three_desc){.at = vmci_load_relaxed(&d[0]) - s->gpa,
                                    .word = vmci_load_relaxed(&d[1])};
}

/* The chain of descriptors i, j and k of a table. False: they are none, or none of this kind. */
static inline __attribute__((always_inline)) bool
vmci_three_at(const struct vmci_threes *s, const unsigned char *table, size_t i, size_t j, size_t k,
              uint32_t first_bytes, uint32_t last_bytes, struct vmci_three *t)
{
    struct vmci_three_desc a = vmci_three_fetch(s, table, i), b = vmci_three_fetch(s, table, j),
                           c = vmci_three_fetch(s, table, k);
    uint64_t bytes = (uint32_t)b.word;

    /* The last descriptor names no next one. Data: none is wrong, too. */
    t->write = (uint32_t)(b.word >> 32) ^ ((uint32_t)k << 16 | VMCI_VD_NEXT);
    if (unlikely(a.word != VMCI_THREE_WORD(first_bytes, VMCI_VD_NEXT, j) ||
                 c.word << 16 != VMCI_THREE_WORD(last_bytes, VMCI_VD_WRITE, 0) << 16 ||
                 (t->write & ~VMCI_VD_WRITE) != 0 || bytes == 0))
        return false;
    /* Slots are whole pages: the ends are shorter than any of them. */
    if (unlikely(a.at > s->room - first_bytes || c.at > s->room - last_bytes || b.at >= s->room ||
                 b.at + bytes > s->room))
        return false;
    t->first = s->hva + a.at;
    t->data = s->hva + b.at;
    t->last = s->hva + c.at;
    t->bytes = (uint32_t)bytes;
    return true;
}

/* Where the descriptors of a chain are: one after the other in the ring, in a table, or anywhere. */
enum vmci_three_kind { VMCI_THREE_ROW, VMCI_THREE_TABLE, VMCI_THREE_FAR };

/* The next chain of those that are ready, if it is of this kind, and its ends have these lengths. */
static inline __attribute__((always_inline)) bool
vmci_threes_peek(const struct vmci_threes *s, enum vmci_three_kind kind, uint32_t first_bytes,
                 uint32_t last_bytes, struct vmci_three *t)
{
    size_t mask = s->mask; /* the size is a power of two */
    size_t head = vmci_ring_ld16(s->avail + ((s->first + s->taken) & mask) * 2);
    size_t end = kind == VMCI_THREE_ROW ? s->rows : mask + 1;

    t->slot = s->slot;
    t->id = (uint16_t)head;
    if (unlikely(head >= end))
        return false;
    head = vmci_nospec_index(head, end);
    if (kind == VMCI_THREE_ROW) /* the processor need not wait for the numbers of the others */
        return vmci_three_at(s, s->desc, head, head + 1, head + 2, first_bytes, last_bytes, t);
    struct vmci_three_desc d = vmci_three_fetch(s, s->desc, head);
    if (kind == VMCI_THREE_TABLE) {
        const uint64_t bytes = 3 * VMCI_VD_BYTES;
        return likely(s->indirect &&
                      d.word << 16 == VMCI_THREE_WORD(bytes, VMCI_VD_INDIRECT, 0) << 16 &&
                      d.at <= s->room - bytes && ((uintptr_t)(s->hva + d.at) & 7) == 0) &&
               vmci_three_at(s, s->hva + d.at, 0, 1, 2, first_bytes, last_bytes, t);
    }
    /* All that is followed here is checked below. */
    size_t j = d.word >> 48 & mask, k = vmci_three_fetch(s, s->desc, j).word >> 48 & mask;
    return vmci_three_at(s, s->desc, head, j, k, first_bytes, last_bytes, t);
}

/* The same of any kind, if there is one. */
static inline bool vmci_threes_peek_any(const struct vmci_threes *s, uint32_t first_bytes,
                                        uint32_t last_bytes, struct vmci_three *t)
{
    return s->taken < s->ready &&
           (vmci_threes_peek(s, VMCI_THREE_ROW, first_bytes, last_bytes, t) ||
            vmci_threes_peek(s, VMCI_THREE_TABLE, first_bytes, last_bytes, t) ||
            vmci_threes_peek(s, VMCI_THREE_FAR, first_bytes, last_bytes, t));
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
