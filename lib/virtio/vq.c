/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtqueue: set-up, and the choice between the two ring formats. */
#include "virtio/virtio_int.h"

int vmci_vq_init(struct vmci_vq *q, struct vmc_virtio *dev, unsigned index, unsigned max_size)
{
    memset(q, 0, sizeof(*q));
    q->dev = dev;
    q->index = (uint16_t)index;
    q->max_size = (uint16_t)max_size;
    int rc = vmci_lock_init(&q->lock, dev->pf);
    if (rc == VMC_OK)
        vmci_vq_reset(q);
    return rc;
}

void vmci_vq_fini(struct vmci_vq *q)
{
    vmci_lock_fini(&q->lock);
}

static void unmap(struct vmci_vq *q)
{
    while (q->areas > 0) {
        const struct vmci_vq_area *a = &q->area[--q->areas];
        vmc_mem_unref(q->dev->mem, a->gpa, a->bytes, a->write);
    }
}

void vmci_vq_reset(struct vmci_vq *q)
{
    vmci_lock(&q->lock);
    unmap(q);
    q->size = q->max_size;
    vmci_store_relaxed(&q->vector, VMCI_VNO_VECTOR);
    q->enabled = q->broken = false;
    q->packed = q->event_idx = q->indirect = false;
    q->again = q->deferred = q->signalled_valid = false;
    q->desc_gpa = q->driver_gpa = q->device_gpa = 0;
    q->pos = (struct vmci_vq_pos){.avail_wrap = true, .used_wrap = true};
    q->empty = q->pos;
    q->shadow = q->signalled = 0;
    q->unsignalled = q->inflight = q->staged = 0;
    q->desc = q->driver = q->device = NULL;
    q->near = NULL;
    vmci_unlock(&q->lock);
}

static int map_area(struct vmci_vq *q, uint64_t gpa, uint64_t bytes, uint64_t align, bool write,
                    unsigned char **out)
{
    struct vmci_vq_area *a = &q->area[q->areas];
    void *hva;

    if (gpa % align != 0)
        return vmci_vq_break(q, "misaligned ring");
    if (vmci_mem_ref_whole(q->dev->mem, gpa, bytes, write, &hva) != VMC_OK)
        return vmci_vq_break(q, "ring outside guest memory");
    *a = (struct vmci_vq_area){.gpa = gpa, .bytes = bytes, .write = write};
    q->areas++;
    *out = hva;
    return VMC_OK;
}

/* Sizes and alignments: 2.7 for the split ring, 2.8.10 for the packed one. */
int vmci_vq_map(struct vmci_vq *q)
{
    uint64_t n = q->size;

    unmap(q);
    q->near = NULL;
    int rc = map_area(q, q->desc_gpa, n * VMCI_VD_BYTES, 16, q->packed, &q->desc);

    if (rc == VMC_OK && q->packed) {
        rc = map_area(q, q->driver_gpa, 4, 4, false, &q->driver);
        if (rc == VMC_OK)
            rc = map_area(q, q->device_gpa, 4, 4, true, &q->device);
    } else if (rc == VMC_OK) {
        rc = map_area(q, q->driver_gpa, 6 + 2 * n, 2, false, &q->driver);
        if (rc == VMC_OK)
            rc = map_area(q, q->device_gpa, 6 + 8 * n, 4, true, &q->device);
    }
    return rc;
}

int vmci_vq_break(struct vmci_vq *q, const char *what)
{
    struct vmc_virtio *dev = q->dev;

    if (!q->broken && vmci_loglimit_ok(&dev->loglimit))
        vmci_log(dev->pf, VMC_LOG_WARN, dev->cls->device.name, "queue %u: %s; it needs a reset",
                 q->index, what);
    q->broken = true;
    return VMC_EFORMAT;
}

int vmci_vq_pop(struct vmci_vq *q, struct vmci_chain *ch)
{
    ch->malformed = ch->held = false;
    ch->out_n = ch->in_n = 0;
    ch->out_bytes = ch->in_bytes = 0;
    ch->near = NULL;
    int rc = q->packed ? vmci_packed_pop(q, ch) : vmci_split_pop(q, ch);
    if (rc < 0)
        vmci_chain_release(q->dev->mem, ch);
    else if (rc == 0)
        q->empty = q->pos;
    return rc;
}

void vmci_vq_rewind(struct vmci_vq *q, const struct vmci_vq_pos *pos, uint32_t slots)
{
    q->pos = *pos;
    q->inflight -= slots;
}

void vmci_vq_stage(struct vmci_vq *q, const struct vmci_chain *ch, uint32_t written)
{
    if (q->packed)
        vmci_packed_stage(q, ch, written);
    else
        vmci_split_stage(q, ch, written);
}

void vmci_vq_publish(struct vmci_vq *q)
{
    if (q->packed)
        vmci_packed_publish(q);
    else
        vmci_split_publish(q);
}

bool vmci_vq_want_irq(struct vmci_vq *q)
{
    return q->packed ? vmci_packed_want_irq(q) : vmci_split_want_irq(q);
}

void vmci_vq_notify_off(struct vmci_vq *q)
{
    if (q->packed)
        vmci_packed_notify_off(q);
    else
        vmci_split_notify_off(q);
}

bool vmci_vq_notify_on(struct vmci_vq *q)
{
    return q->packed ? vmci_packed_notify_on(q) : vmci_split_notify_on(q);
}
