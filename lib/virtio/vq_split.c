/* SPDX-License-Identifier: BSD-2-Clause */
/* The split ring (virtio 1.2, 2.7): descriptor table, available ring, used ring. */
#include "virtio/virtio_int.h"

#define AVAIL_FLAGS 0u
#define AVAIL_IDX   2u
#define AVAIL_RING  4u
#define USED_FLAGS  0u
#define USED_IDX    2u
#define USED_RING   4u
#define USED_ELEM   8u
#define AHEAD       4u /* chains from the one that is taken to the one that is fetched */

static uint16_t load_avail_idx(const struct vmci_vq *q)
{
    return vmci_load_acquire((const uint16_t *)(const void *)(q->driver + AVAIL_IDX));
}

static uint64_t used_bytes(const struct vmci_vq *q)
{
    return USED_RING + (uint64_t)USED_ELEM * q->size + 2;
}

/* Read the driver's index; 1 when there is something, 0 when not. */
static int refresh(struct vmci_vq *q)
{
    uint16_t idx = load_avail_idx(q);
    uint16_t ready = (uint16_t)(idx - q->pos.next_avail);

    if (ready > q->size)
        return vmci_vq_break(q, "available index moved by more than the queue's size");
    q->shadow = idx;
    return ready != 0;
}

static int walk(struct vmci_vq *q, struct vmci_chain *ch, unsigned head)
{
    unsigned i = head;

    if (likely(vmci_chain_plain(q, ch, q->desc, q->size, head, false)))
        return VMC_OK;
    for (unsigned steps = 0; steps < q->size; steps++) {
        struct vmci_vdesc d;

        vmci_vdesc_fetch(q->desc + (size_t)i * VMCI_VD_BYTES, false, &d);
        if ((d.flags & VMCI_VD_INDIRECT) != 0)
            return vmci_chain_add_indirect(q, ch, &d);
        int rc = vmci_chain_add(q, ch, &d);
        if (rc != VMC_OK || (d.flags & VMCI_VD_NEXT) == 0)
            return rc;
        if (d.next >= q->size)
            return vmci_vq_break(q, "next index outside the descriptor table");
        i = vmci_nospec_index(d.next, q->size);
    }
    return vmci_vq_break(q, "loop in a descriptor chain");
}

/* A chain that is taken soon: much was copied since its descriptors were written. */
static inline void fetch_ahead(const struct vmci_vq *q)
{
    unsigned slot = (q->pos.next_avail + AHEAD) & (q->size - 1u);
    unsigned head = vmci_ring_ld16(q->driver + AVAIL_RING + (size_t)slot * 2);

    if (head < q->size)
        __builtin_prefetch(q->desc + vmci_nospec_index(head, q->size) * VMCI_VD_BYTES);
}

int vmci_split_pop(struct vmci_vq *q, struct vmci_chain *ch)
{
    if (q->shadow == q->pos.next_avail) {
        int rc = refresh(q);
        if (rc != 1)
            return rc;
    }
    if (q->inflight >= q->size)
        return vmci_vq_break(q, "more chains in use than the queue has entries");

    unsigned slot = q->pos.next_avail & (q->size - 1u);
    unsigned head = vmci_ring_ld16(q->driver + AVAIL_RING + (size_t)slot * 2);
    if (head >= q->size)
        return vmci_vq_break(q, "head index outside the descriptor table");
    head = (unsigned)vmci_nospec_index(head, q->size);
    ch->id = (uint16_t)head;
    ch->slots = 1;
    fetch_ahead(q);
    int rc = walk(q, ch, head);
    if (rc != VMC_OK)
        return rc;
    q->pos.next_avail++;
    q->inflight++;
    return 1;
}

void vmci_split_stage(struct vmci_vq *q, const struct vmci_chain *ch, uint32_t written)
{
    unsigned slot = q->pos.next_used & (q->size - 1u);
    unsigned char *elem = q->device + USED_RING + (size_t)slot * USED_ELEM;

    /* id in the low half, length in the high half */
    uint32_t *word = (uint32_t *)(void *)elem;
    vmci_store_relaxed(&word[0], ch->id);
    vmci_store_relaxed(&word[1], written);
    q->pos.next_used++;
    q->staged++;
    q->inflight--;
}

void vmci_split_publish(struct vmci_vq *q)
{
    if (q->staged == 0)
        return;
    vmci_store_release((uint16_t *)(void *)(q->device + USED_IDX), q->pos.next_used);
    q->staged = 0;
    vmci_vq_wrote(q, q->dev->mem, used_bytes(q));
}

bool vmci_split_want_irq(struct vmci_vq *q)
{
    uint16_t old = q->signalled;
    bool valid = q->signalled_valid;

    /* The used index has to be visible before the driver's wish is read (2.7.10.1). */
    vmci_fence_seq();
    q->signalled = q->pos.next_used;
    q->signalled_valid = true;
    if (!q->event_idx)
        return (vmci_ring_ld16(q->driver + AVAIL_FLAGS) & VMCI_VAVAIL_NO_INTERRUPT) == 0;
    uint16_t event = vmci_ring_ld16(q->driver + AVAIL_RING + (size_t)q->size * 2);
    return !valid || vmci_vq_event_passed(event, q->pos.next_used, old);
}

static void set_avail_event(struct vmci_vq *q, uint16_t idx)
{
    vmci_ring_st16(q->device + USED_RING + (size_t)q->size * USED_ELEM, idx);
}

void vmci_split_notify_off(struct vmci_vq *q)
{
    /* With the event index an old avail_event keeps the driver quiet by itself. */
    if (q->event_idx)
        return;
    vmci_ring_st16(q->device + USED_FLAGS, VMCI_VUSED_NO_NOTIFY);
    vmci_vq_wrote(q, q->dev->mem, used_bytes(q));
}

bool vmci_split_notify_on(struct vmci_vq *q)
{
    if (q->event_idx)
        set_avail_event(q, q->empty.next_avail);
    else
        vmci_ring_st16(q->device + USED_FLAGS, 0);
    vmci_vq_wrote(q, q->dev->mem, used_bytes(q));
    vmci_fence_seq();
    return load_avail_idx(q) != q->empty.next_avail;
}
