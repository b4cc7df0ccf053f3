/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The packed ring (virtio 1.2, 2.8): one ring of descriptors that driver and device take turns to
 * write, and an event suppression structure for each side.
 */
#include "virtio/virtio_int.h"

#define DESC_LEN      8u
#define DESC_ID       12u
#define DESC_FLAGS    14u
#define EVENT_OFFSET  0u
#define EVENT_FLAGS   2u
#define EVENT_WRAP    0x8000u

static unsigned char *slot_at(const struct vmci_vq *q, unsigned slot)
{
    return q->desc + (size_t)slot * VMCI_VD_BYTES;
}

/* Slot + n, and whether that went round the end. */
static uint16_t advance(const struct vmci_vq *q, uint16_t slot, unsigned n, bool *wrap)
{
    unsigned to = slot + n;

    if (to >= q->size) {
        to -= q->size;
        *wrap = !*wrap;
    }
    return (uint16_t)to;
}

static bool is_available(const struct vmci_vq *q, uint16_t slot, bool wrap)
{
    const unsigned char *p = slot_at(q, slot);
    uint16_t flags = vmci_load_acquire((const uint16_t *)(const void *)(p + DESC_FLAGS));
    bool avail = (flags & VMCI_VD_AVAIL) != 0;
    bool used = (flags & VMCI_VD_USED) != 0;

    return avail == wrap && used != wrap;
}

/* The chain from the next slot on; *slots is how many it takes. */
static int walk(struct vmci_vq *q, struct vmci_chain *ch, unsigned *slots)
{
    uint16_t slot = q->pos.next_avail;
    bool wrap = q->pos.avail_wrap;

    for (unsigned steps = 1; steps <= q->size; steps++) {
        struct vmci_vdesc d;
        int rc;

        vmci_vdesc_fetch(slot_at(q, slot), true, &d);
        if ((d.flags & VMCI_VD_INDIRECT) != 0)
            rc = vmci_chain_add_indirect(q, ch, &d);
        else
            rc = vmci_chain_add(q, ch, &d);
        if (rc != VMC_OK)
            return rc;
        if ((d.flags & VMCI_VD_NEXT) == 0) {
            ch->id = d.next; /* the last descriptor carries the buffer ID (2.8.6) */
            *slots = steps;
            return VMC_OK;
        }
        slot = advance(q, slot, 1, &wrap);
    }
    return vmci_vq_break(q, "chain longer than the ring");
}

int vmci_packed_pop(struct vmci_vq *q, struct vmci_chain *ch)
{
    unsigned slots = 0;

    if (!is_available(q, q->pos.next_avail, q->pos.avail_wrap))
        return 0;
    int rc = walk(q, ch, &slots);
    if (rc != VMC_OK)
        return rc;
    if (q->inflight + slots > q->size)
        return vmci_vq_break(q, "more descriptors in use than the ring has");
    ch->slots = (uint16_t)slots;
    q->pos.next_avail = advance(q, q->pos.next_avail, slots, &q->pos.avail_wrap);
    q->inflight += slots;
    return 1;
}

void vmci_packed_stage(struct vmci_vq *q, const struct vmci_chain *ch, uint32_t written)
{
    unsigned char *p = slot_at(q, q->pos.next_used);
    uint16_t flags = q->pos.used_wrap ? VMCI_VD_AVAIL | VMCI_VD_USED : 0;

    if (written != 0)
        flags |= VMCI_VD_WRITE;
    vmci_store_relaxed((uint32_t *)(void *)(p + DESC_LEN), written);
    vmci_ring_st16(p + DESC_ID, ch->id);
    if (!q->deferred) { /* the first entry is what the driver looks at: its flags go last */
        q->deferred = true;
        q->first_flags = flags;
        q->first_slot = q->pos.next_used;
    } else {
        vmci_store_release((uint16_t *)(void *)(p + DESC_FLAGS), flags);
    }
    q->pos.next_used = advance(q, q->pos.next_used, ch->slots, &q->pos.used_wrap);
    q->unsignalled += ch->slots;
    q->inflight -= ch->slots;
    q->staged++;
}

void vmci_packed_publish(struct vmci_vq *q)
{
    if (!q->deferred)
        return;
    vmci_store_release((uint16_t *)(void *)(slot_at(q, q->first_slot) + DESC_FLAGS),
                       q->first_flags);
    q->deferred = false;
    q->staged = 0;
    vmci_vq_wrote(q, q->dev->mem, (uint64_t)q->size * VMCI_VD_BYTES);
}

bool vmci_packed_want_irq(struct vmci_vq *q)
{
    uint32_t since = q->unsignalled;

    vmci_fence_seq();
    q->unsignalled = 0;
    switch (vmci_ring_ld16(q->driver + EVENT_FLAGS) & 3u) {
    case VMCI_VEVENT_DISABLE:
        return false;
    case VMCI_VEVENT_DESC:
        break;
    default:
        return true;
    }
    if (!q->event_idx || since >= q->size)
        return true;
    uint16_t word = vmci_ring_ld16(q->driver + EVENT_OFFSET);
    uint16_t event = word & (uint16_t)~EVENT_WRAP;
    bool event_wrap = (word & EVENT_WRAP) != 0;
    uint16_t now = q->pos.next_used;
    /* An event of the other lap lies one ring behind. */
    if (event_wrap != q->pos.used_wrap)
        event = (uint16_t)(event - q->size);
    return vmci_vq_event_passed(event, now, (uint16_t)(now - since));
}

static void set_event(struct vmci_vq *q, uint16_t flags)
{
    vmci_store_release((uint16_t *)(void *)(q->device + EVENT_FLAGS), flags);
    if (unlikely(vmci_load_relaxed(&q->dev->mem->dirty_clients) != 0))
        vmci_mem_mark_dirty(q->dev->mem, q->device_gpa, 4);
}

void vmci_packed_notify_off(struct vmci_vq *q)
{
    set_event(q, VMCI_VEVENT_DISABLE);
}

bool vmci_packed_notify_on(struct vmci_vq *q)
{
    if (q->event_idx) {
        uint16_t word = q->empty.next_avail;

        if (q->empty.avail_wrap)
            word |= EVENT_WRAP;
        vmci_ring_st16(q->device + EVENT_OFFSET, word);
        set_event(q, VMCI_VEVENT_DESC);
    } else {
        set_event(q, VMCI_VEVENT_ENABLE);
    }
    vmci_fence_seq();
    return is_available(q, q->empty.next_avail, q->empty.avail_wrap);
}
