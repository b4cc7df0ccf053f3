/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saved state of a virtio device: little-endian 64-bit fields in a fixed order. The device is idle
 * when it is saved, so there are no requests in it. A load checks everything, the PCI function
 * included, before it changes anything.
 */
#include "virtio/virtio_int.h"

#define STATE_VERSION 1u

void vmci_vsave_bytes(struct vmci_vsave *s, const void *p, size_t bytes)
{
    if (vmci_range_ok(s->used, bytes, s->bytes))
        memcpy(s->dst + s->used, p, bytes);
    s->used += bytes;
}

void vmci_vsave_u64(struct vmci_vsave *s, uint64_t v)
{
    unsigned char le[8];

    vmci_st_le64(le, v);
    vmci_vsave_bytes(s, le, sizeof(le));
}

void vmci_vload_bytes(struct vmci_vload *l, void *p, size_t bytes)
{
    if (l->left < bytes) {
        l->short_read = true;
        memset(p, 0, bytes);
        return;
    }
    memcpy(p, l->src, bytes);
    l->src += bytes;
    l->left -= bytes;
}

uint64_t vmci_vload_u64(struct vmci_vload *l)
{
    unsigned char le[8];

    vmci_vload_bytes(l, le, sizeof(le));
    return vmci_ld_le64(le);
}

/* ---- save ---------------------------------------------------------------------------------- */

static void save_queue(const struct vmci_vq *q, struct vmci_vsave *s)
{
    const uint64_t fields[] = {
        q->size,          q->vector,          q->enabled,     q->broken,
        q->desc_gpa,      q->driver_gpa,      q->device_gpa,  q->pos.next_avail,
        q->pos.next_used, q->pos.avail_wrap,  q->pos.used_wrap, q->signalled,
        q->signalled_valid, q->unsignalled,
    };

    for (size_t i = 0; i < VMCI_ARRAY_SIZE(fields); i++)
        vmci_vsave_u64(s, fields[i]);
}

size_t vmci_virtio_dev_save(void *ctx, void *dst, size_t bytes)
{
    struct vmc_virtio *dev = ctx;
    struct vmci_vsave s = {.dst = dst, .bytes = bytes};
    const uint64_t head[] = {
        STATE_VERSION,
        dev->cls->device_id,
        dev->features,
        vmci_virtio_status(dev),
        dev->device_feature_select,
        dev->driver_feature_select,
        dev->queue_select,
        dev->config_vector,
        dev->config_generation,
        dev->isr,
        dev->queue_count,
    };

    for (size_t i = 0; i < VMCI_ARRAY_SIZE(head); i++)
        vmci_vsave_u64(&s, head[i]);
    vmci_vsave_bytes(&s, dev->config, sizeof(dev->config));
    for (unsigned i = 0; i < dev->queue_count; i++)
        save_queue(&dev->queue[i], &s);
    if (dev->cls->save != NULL)
        dev->cls->save(dev, &s);
    size_t room = s.bytes > s.used ? s.bytes - s.used : 0;
    return s.used + vmc_pci_func_save(dev->func, room != 0 ? s.dst + s.used : NULL, room);
}

/* ---- load ---------------------------------------------------------------------------------- */

struct queue_state {
    uint64_t size, vector, enabled, broken, desc, driver, device, next_avail, next_used;
    uint64_t avail_wrap, used_wrap, signalled, signalled_valid, unsignalled;
};

static void read_queue(struct vmci_vload *l, struct queue_state *st)
{
    uint64_t *const fields[] = {
        &st->size,       &st->vector,     &st->enabled,    &st->broken,
        &st->desc,       &st->driver,     &st->device,     &st->next_avail,
        &st->next_used,  &st->avail_wrap, &st->used_wrap,  &st->signalled,
        &st->signalled_valid, &st->unsignalled,
    };

    for (size_t i = 0; i < VMCI_ARRAY_SIZE(fields); i++)
        *fields[i] = vmci_vload_u64(l);
}

static bool queue_sane(const struct vmci_vq *q, const struct queue_state *st, bool packed)
{
    uint64_t limit = packed ? st->size : 0x10000u; /* packed: slots; split: 16-bit indices */

    return st->size != 0 && (packed || vmci_is_pow2(st->size)) && st->size <= q->max_size && st->vector <= VMCI_VNO_VECTOR &&
           st->next_avail < limit && st->next_used < limit && st->signalled <= 0xffffu &&
           st->unsignalled <= UINT32_MAX &&
           (st->enabled | st->broken | st->avail_wrap | st->used_wrap | st->signalled_valid) <= 1;
}

static void commit_queue(struct vmci_vq *q, const struct queue_state *st, uint64_t features)
{
    vmci_vq_reset(q);
    vmci_lock(&q->lock);
    q->size = (uint16_t)st->size;
    vmci_store_relaxed(&q->vector, (uint16_t)st->vector);
    q->enabled = st->enabled != 0;
    q->broken = st->broken != 0;
    q->packed = (features & VMCI_VF_PACKED) != 0;
    q->event_idx = (features & VMCI_VF_EVENT_IDX) != 0;
    q->indirect = (features & VMCI_VF_INDIRECT) != 0;
    q->desc_gpa = st->desc;
    q->driver_gpa = st->driver;
    q->device_gpa = st->device;
    q->pos = (struct vmci_vq_pos){
        .next_avail = (uint16_t)st->next_avail,
        .next_used = (uint16_t)st->next_used,
        .avail_wrap = st->avail_wrap != 0,
        .used_wrap = st->used_wrap != 0,
    };
    q->empty = q->pos;
    q->shadow = q->pos.next_avail;
    q->signalled = (uint16_t)st->signalled;
    q->signalled_valid = st->signalled_valid != 0;
    q->unsignalled = (uint32_t)st->unsignalled;
    vmci_unlock(&q->lock);
}

enum { HEAD_VERSION, HEAD_ID, HEAD_FEATURES, HEAD_STATUS, HEAD_DFS, HEAD_GFS, HEAD_QSEL,
       HEAD_VECTOR, HEAD_GENERATION, HEAD_ISR, HEAD_QUEUES, HEAD_FIELDS };

static int check_head(const struct vmc_virtio *dev, const uint64_t *h, struct vmc_error *err)
{
    const char *site = "virtio/load";

    if (h[HEAD_VERSION] != STATE_VERSION)
        return vmci_error(err, VMC_EVERSION, site, "version %llu of the state is not known",
                          (unsigned long long)h[HEAD_VERSION]);
    if (h[HEAD_ID] != dev->cls->device_id || h[HEAD_QUEUES] != dev->queue_count)
        return vmci_error(err, VMC_EFORMAT, site,
                          "state of device %llu with %llu queues, not of %s with %u",
                          (unsigned long long)h[HEAD_ID], (unsigned long long)h[HEAD_QUEUES],
                          dev->cls->device.name, dev->queue_count);
    if ((h[HEAD_FEATURES] & ~dev->offered) != 0)
        return vmci_error(err, VMC_EFORMAT, site, "features %#llx are not all offered here",
                          (unsigned long long)h[HEAD_FEATURES]);
    if (h[HEAD_STATUS] > 0xff || h[HEAD_ISR] > 3 || h[HEAD_VECTOR] > VMCI_VNO_VECTOR ||
        h[HEAD_QSEL] > 0xffff || (h[HEAD_DFS] | h[HEAD_GFS] | h[HEAD_GENERATION]) > UINT32_MAX)
        return vmci_error(err, VMC_EFORMAT, site, "a register is out of range");
    return VMC_OK;
}

/* One pass over the saved bytes; the second one, commit, cannot fail. */
static int load_pass(struct vmc_virtio *dev, struct vmci_vload *l, bool commit,
                     struct vmc_error *err)
{
    uint64_t h[HEAD_FIELDS];
    unsigned char config[VMCI_VCONFIG_BYTES];

    for (unsigned i = 0; i < HEAD_FIELDS; i++)
        h[i] = vmci_vload_u64(l);
    vmci_vload_bytes(l, config, sizeof(config));
    int rc = commit ? VMC_OK : check_head(dev, h, err);
    if (rc != VMC_OK)
        return rc;
    for (unsigned i = 0; i < dev->queue_count; i++) {
        struct queue_state st;

        read_queue(l, &st);
        if (commit)
            commit_queue(&dev->queue[i], &st, h[HEAD_FEATURES]);
        else if (!queue_sane(&dev->queue[i], &st, (h[HEAD_FEATURES] & VMCI_VF_PACKED) != 0))
            return vmci_error(err, VMC_EFORMAT, "virtio/load", "queue %u is not consistent", i);
    }
    if (commit) {
        vmci_lock(&dev->lock);
        dev->features = h[HEAD_FEATURES];
        vmci_store_release(&dev->status, (uint32_t)h[HEAD_STATUS]);
        dev->device_feature_select = (uint32_t)h[HEAD_DFS];
        dev->driver_feature_select = (uint32_t)h[HEAD_GFS];
        dev->queue_select = (uint16_t)h[HEAD_QSEL];
        vmci_store_relaxed(&dev->config_vector, (uint16_t)h[HEAD_VECTOR]);
        dev->config_generation = (uint32_t)h[HEAD_GENERATION];
        dev->isr = (uint32_t)h[HEAD_ISR];
        memcpy(dev->config, config, sizeof(config));
        vmci_unlock(&dev->lock);
    }
    if (dev->cls->load != NULL)
        rc = dev->cls->load(dev, l, commit, err);
    if (rc == VMC_OK && l->short_read)
        return vmci_error(err, VMC_EFORMAT, "virtio/load", "the state is cut short");
    return rc;
}

int vmci_virtio_dev_load(void *ctx, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_virtio *dev = ctx;
    struct vmci_vload l = {.src = src, .left = bytes};
    int rc = load_pass(dev, &l, false, err);

    if (rc == VMC_OK)
        rc = vmc_pci_func_load(dev->func, l.src, l.left, err);
    if (rc != VMC_OK)
        return rc;
    l = (struct vmci_vload){.src = src, .left = bytes};
    (void)load_pass(dev, &l, true, NULL); /* the same bytes were accepted above */
    for (unsigned i = 0; i < dev->queue_count; i++) {
        struct vmci_vq *q = &dev->queue[i];
        vmci_lock(&q->lock);
        if (vmci_vq_usable(q))
            (void)vmci_vq_map(q); /* failure latches the queue broken */
        vmci_unlock(&q->lock);
    }
    return VMC_OK;
}
