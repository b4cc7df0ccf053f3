/* SPDX-License-Identifier: BSD-2-Clause */
/* What all virtio devices share: negotiation, life cycle, who works on which queue. */
#include "base/snapshot.h"
#include "virtio/virtio_int.h"

/*
 * Calls of work() before a queue's thread is let go, so that a guest cannot keep it for ever; and
 * how long they may take, since that thread may serve the timers of other guests.
 */
#define SLICE    64
#define SLICE_NS 2000000u

/* ---- entering, leaving, reset -------------------------------------------------------------- */

static bool live(const struct vmc_virtio *dev)
{
    uint32_t st = vmci_load_acquire(&dev->status);

    return (st & (VMCI_VS_DRIVER_OK | VMCI_VS_NEEDS_RESET)) == VMCI_VS_DRIVER_OK;
}

/* A driver that asked for a reset is gone, though the status stays until nothing is in flight. */
bool vmc_virtio_live(const struct vmc_virtio *dev)
{
    return live(dev) && (vmci_load_acquire(&dev->stop) & VMCI_VSTOP_RESET) == 0;
}

/* Registers, queues and the device's own state to power-on. Nobody is inside. */
static void reset_now(struct vmc_virtio *dev)
{
    if (dev->cls->reset != NULL)
        dev->cls->reset(dev);
    for (unsigned i = 0; i < dev->queue_count; i++)
        vmci_vq_reset(&dev->queue[i]);
    vmci_lock(&dev->lock);
    dev->features = 0;
    dev->device_feature_select = dev->driver_feature_select = 0;
    dev->queue_select = 0;
    vmci_store_relaxed(&dev->config_vector, VMCI_VNO_VECTOR);
    vmci_unlock(&dev->lock);
    vmci_vpci_reset(dev);
    vmci_store_release(&dev->status, 0);
    vmci_virtio_doorbells_changed(dev);
}

/* One thread gets to carry out a reset that was asked for. It counts as active while it does. */
static bool claim_reset(struct vmc_virtio *dev)
{
    bool mine;

    vmci_lock(&dev->lock);
    mine = (vmci_load_acquire(&dev->stop) & VMCI_VSTOP_RESET) != 0 &&
           vmci_load_acquire(&dev->active) == 0;
    if (mine)
        vmci_virtio_hold(dev, 1);
    vmci_unlock(&dev->lock);
    return mine;
}

bool vmci_virtio_enter(struct vmc_virtio *dev)
{
    vmci_virtio_hold(dev, 1);
    if (__atomic_load_n(&dev->stop, __ATOMIC_SEQ_CST) == 0 && live(dev))
        return true;
    vmci_virtio_leave(dev);
    return false;
}

void vmci_virtio_leave(struct vmc_virtio *dev)
{
    while (__atomic_sub_fetch(&dev->active, 1, __ATOMIC_SEQ_CST) == 0) {
        if ((__atomic_load_n(&dev->stop, __ATOMIC_SEQ_CST) & VMCI_VSTOP_RESET) == 0 ||
            !claim_reset(dev))
            return;
        reset_now(dev);
        (void)__atomic_fetch_and(&dev->stop, ~VMCI_VSTOP_RESET, __ATOMIC_SEQ_CST);
    }
}

/* By whoever is the last one inside, now or later. */
static void ask_reset(struct vmc_virtio *dev)
{
    (void)__atomic_fetch_or(&dev->stop, VMCI_VSTOP_RESET, __ATOMIC_SEQ_CST);
    vmci_virtio_hold(dev, 1);
    vmci_virtio_leave(dev);
}

/* ---- working on queues --------------------------------------------------------------------- */

void vmci_vq_irq(struct vmci_vq *q)
{
    (void)vmci_fetch_add(&q->dev->stat_interrupts, 1);
    vmci_vpci_irq(q->dev, VMCI_VISR_QUEUE, vmci_load_relaxed(&q->vector));
}

void vmci_vq_report_broken(struct vmci_vq *q)
{
    struct vmc_virtio *dev = q->dev;
    bool broken;

    vmci_lock(&q->lock);
    broken = q->broken;
    vmci_unlock(&q->lock);
    if (!broken)
        return;
    uint32_t old = vmci_fetch_or(&dev->status, VMCI_VS_NEEDS_RESET);
    if ((old & VMCI_VS_NEEDS_RESET) != 0)
        return;
    (void)vmci_fetch_add(&dev->stat_broken, 1);
    if ((old & VMCI_VS_DRIVER_OK) != 0) /* 2.1.2: say so by a configuration change */
        vmci_vpci_irq(dev, VMCI_VISR_CONFIG, vmci_load_relaxed(&dev->config_vector));
}

/* Become the thread that works on q; false: not usable, or somebody is and was told. */
static bool begin_work(struct vmci_vq *q)
{
    bool mine = false;

    vmci_lock(&q->lock);
    if (vmci_vq_usable(q)) {
        if (q->busy)
            q->again = true;
        else
            mine = q->busy = true;
    }
    if (mine)
        vmci_vq_notify_off(q);
    vmci_unlock(&q->lock);
    return mine;
}

/* After work() answered how; true: go on. False: *broken as it is. */
static bool go_on(struct vmci_vq *q, enum vmci_vwork how, bool *broken)
{
    bool more;

    if (how == VMCI_VWORK_MORE)
        return true;
    vmci_lock(&q->lock);
    more = q->again;
    q->again = false;
    if (!more && how == VMCI_VWORK_EMPTY && vmci_vq_usable(q)) {
        more = vmci_vq_notify_on(q);
        if (more)
            vmci_vq_notify_off(q);
    }
    if (!vmci_vq_usable(q))
        more = false;
    q->busy = more;
    *broken = q->broken;
    vmci_unlock(&q->lock);
    return more;
}

/* The thread that runs timers goes on. */
static void resume_soon(struct vmc_virtio *dev)
{
    vmci_store_release(&dev->unfinished, 1);
    vmc_timer_arm(dev->resume_timer, vmc_timerq_now(dev->bd->timers));
}

static void end_slice(struct vmci_vq *q, bool *broken)
{
    vmci_lock(&q->lock);
    q->busy = q->again = false;
    *broken = q->broken;
    vmci_unlock(&q->lock);
    if (q->dev->resume_timer != NULL) /* else the device stops; a resume runs all queues */
        resume_soon(q->dev);
}

/* After so many calls of work(); *until is noted at the first. */
static bool slice_over(const struct vmc_virtio *dev, unsigned calls, uint64_t *until)
{
    if (dev->resume_timer == NULL)
        return false;
    uint64_t now = vmc_timerq_now(dev->bd->timers);
    if (calls == 1)
        *until = now + SLICE_NS;
    return calls == SLICE || now >= *until;
}

void vmci_vq_run(struct vmci_vq *q)
{
    struct vmc_virtio *dev = q->dev;

    if (!vmci_virtio_enter(dev))
        return;
    if (vmci_vpci_may_dma(dev) && begin_work(q)) {
        uint64_t until = 0;
        bool broken;
        for (unsigned i = 1;; i++) {
            if (!go_on(q, dev->cls->work(dev, q), &broken))
                break;
            bool stopping = vmci_load_acquire(&dev->stop) != 0;
            if (stopping || slice_over(dev, i, &until)) {
                end_slice(q, &broken);
                break;
            }
        }
        if (broken)
            vmci_vq_report_broken(q);
    }
    vmci_virtio_leave(dev);
}

void vmci_vq_run_soon(struct vmci_vq *q)
{
    if (q->dev->resume_timer != NULL)
        resume_soon(q->dev);
    else
        vmci_vq_run(q);
}

static void run_all(struct vmc_virtio *dev)
{
    for (unsigned i = 0; i < dev->queue_count; i++)
        vmci_vq_run(&dev->queue[i]);
}

static void resume_timer_fired(void *ctx, uint64_t deadline_ns)
{
    struct vmc_virtio *dev = ctx;

    (void)deadline_ns;
    if (vmci_exchange(&dev->unfinished, 0) != 0)
        run_all(dev);
}

void vmci_vq_complete(struct vmci_vq *q, struct vmci_chain *ch, uint32_t written)
{
    struct vmc_virtio *dev = q->dev;
    bool irq = false;

    vmci_chain_release(dev->mem, ch);
    vmci_lock(&q->lock);
    if (vmci_vq_usable(q)) {
        vmci_vq_stage(q, ch, written);
        vmci_vq_publish(q);
        irq = vmci_vq_want_irq(q);
    }
    vmci_unlock(&q->lock);
    (void)vmci_fetch_add(&dev->stat_requests, 1);
    if (irq)
        vmci_vq_irq(q);
}

void vmc_virtio_notify(struct vmc_virtio *dev, unsigned queue)
{
    if (queue >= dev->queue_count)
        return;
    (void)vmci_fetch_add(&dev->stat_notifies, 1);
    vmci_vq_run(&dev->queue[vmci_nospec_index(queue, dev->queue_count)]);
}

/* ---- negotiation --------------------------------------------------------------------------- */

uint32_t vmci_virtio_status(const struct vmc_virtio *dev)
{
    return vmci_load_acquire(&dev->status);
}

static bool features_acceptable(struct vmc_virtio *dev)
{
    uint64_t f = dev->features;

    if ((f & ~dev->offered) != 0 || (f & VMCI_VF_VERSION_1) == 0)
        return false;
    return dev->cls->features_ok == NULL || dev->cls->features_ok(dev, f);
}

void vmci_virtio_set_features(struct vmc_virtio *dev, uint32_t half, uint32_t value)
{
    vmci_lock(&dev->lock);
    if (half < 2 && (vmci_virtio_status(dev) & VMCI_VS_FEATURES_OK) == 0) {
        unsigned shift = half * 32;
        dev->features = (dev->features & ~(0xffffffffull << shift)) | ((uint64_t)value << shift);
    }
    vmci_unlock(&dev->lock);
}

void vmci_virtio_set_status(struct vmc_virtio *dev, uint32_t value)
{
    const uint32_t may_set = VMCI_VS_ACKNOWLEDGE | VMCI_VS_DRIVER | VMCI_VS_FEATURES_OK |
                             VMCI_VS_DRIVER_OK | VMCI_VS_FAILED;

    if (value == 0) { /* the status reads 0 once nothing is in flight any more */
        ask_reset(dev);
        return;
    }
    if ((vmci_load_acquire(&dev->stop) & VMCI_VSTOP_RESET) != 0)
        return;
    vmci_lock(&dev->lock);
    uint32_t old = vmci_virtio_status(dev);
    uint32_t add = value & may_set & ~old; /* only a reset clears bits (2.1.1) */
    if ((add & VMCI_VS_FEATURES_OK) != 0 && !features_acceptable(dev))
        add &= ~(VMCI_VS_FEATURES_OK | VMCI_VS_DRIVER_OK);
    if (((old | add) & VMCI_VS_FEATURES_OK) == 0)
        add &= ~VMCI_VS_DRIVER_OK;
    (void)vmci_fetch_or(&dev->status, add);
    vmci_unlock(&dev->lock);
    if ((add & VMCI_VS_DRIVER_OK) != 0 && vmci_virtio_enter(dev)) {
        if (dev->cls->started != NULL)
            dev->cls->started(dev);
        vmci_virtio_leave(dev);
        vmci_virtio_doorbells_changed(dev);
        run_all(dev); /* what the driver queued before */
    }
}

/* ---- configuration space ------------------------------------------------------------------- */

void vmci_virtio_config_begin(struct vmc_virtio *dev)
{
    vmci_lock(&dev->lock);
}

void vmci_virtio_config_end(struct vmc_virtio *dev, bool notify)
{
    dev->config_generation++;
    vmci_unlock(&dev->lock);
    if (notify && (vmci_virtio_status(dev) & VMCI_VS_DRIVER_OK) != 0) {
        (void)vmci_fetch_add(&dev->stat_interrupts, 1);
        vmci_vpci_irq(dev, VMCI_VISR_CONFIG, vmci_load_relaxed(&dev->config_vector));
    }
}

void vmci_virtio_config_read(struct vmc_virtio *dev, uint64_t offset, unsigned bytes, void *dst)
{
    memset(dst, 0, bytes);
    if (!vmci_range_ok(offset, bytes, dev->cls->config_bytes))
        return;
    vmci_lock(&dev->lock);
    memcpy(dst, dev->config + offset, bytes);
    vmci_unlock(&dev->lock);
}

void vmci_virtio_config_write(struct vmc_virtio *dev, uint64_t offset, unsigned bytes,
                              uint64_t value)
{
    if (!vmci_range_ok(offset, bytes, dev->cls->config_bytes))
        return;
    vmci_lock(&dev->lock);
    for (unsigned i = 0; i < bytes; i++)
        if ((dev->cls->config_writable >> (offset + i) & 1) != 0)
            dev->config[offset + i] = (unsigned char)(value >> (8 * i));
    vmci_unlock(&dev->lock);
    if (dev->cls->config_written != NULL)
        dev->cls->config_written(dev, (unsigned)offset, bytes);
}

/* ---- life cycle ---------------------------------------------------------------------------- */

/*
 * Of an idle device: at once. Requests that are in flight nevertheless are nobody's from now on,
 * and the status stays until they have ended.
 */
void vmci_virtio_dev_reset(void *ctx)
{
    struct vmc_virtio *dev = ctx;

    for (unsigned i = 0; i < dev->queue_count; i++) {
        struct vmci_vq *q = &dev->queue[i];
        vmci_lock(&q->lock);
        q->enabled = false;
        vmci_unlock(&q->lock);
    }
    ask_reset(dev);
    vmc_pci_func_reset(dev->func);
}

int vmci_virtio_dev_quiesce(void *ctx)
{
    struct vmc_virtio *dev = ctx;

    (void)__atomic_fetch_or(&dev->stop, VMCI_VSTOP_PAUSE, __ATOMIC_SEQ_CST);
    if (dev->cls->drain != NULL)
        dev->cls->drain(dev);
    return __atomic_load_n(&dev->active, __ATOMIC_SEQ_CST) == 0 ? VMC_OK : VMC_EAGAIN;
}

/* The memory map may have changed meanwhile. */
static void remap(struct vmci_vq *q)
{
    vmci_lock(&q->lock);
    if (vmci_vq_usable(q))
        (void)vmci_vq_map(q); /* failure latches the queue; reported below */
    vmci_unlock(&q->lock);
    vmci_vq_report_broken(q);
}

void vmci_virtio_dev_resume(void *ctx)
{
    struct vmc_virtio *dev = ctx;

    for (unsigned i = 0; i < dev->queue_count; i++)
        remap(&dev->queue[i]);
    (void)__atomic_fetch_and(&dev->stop, ~VMCI_VSTOP_PAUSE, __ATOMIC_SEQ_CST);
    run_all(dev);
}

static void dev_destroy(void *ctx)
{
    struct vmc_virtio *dev = ctx;

    dev->cls->destroy(dev);
}

int vmci_virtio_check_config(const struct vmc_virtio_config *cfg, uint16_t *queue_size,
                             struct vmc_error *err)
{
    uint16_t size = cfg->queue_size != 0 ? cfg->queue_size : VMC_VIRTIO_QUEUE_DEFAULT;

    if (cfg->size < sizeof(*cfg))
        return vmci_error(err, VMC_EINVAL, "virtio/create", "virtio_config.size is %u", cfg->size);
    if (cfg->pci == NULL)
        return vmci_error(err, VMC_EINVAL, "virtio/create", "virtio_config.pci is NULL");
    if (!vmci_is_pow2(size) || size < 4 || size > VMC_VIRTIO_QUEUE_MAX)
        return vmci_error(err, VMC_EINVAL, "virtio/create",
                          "queue_size %u is not a power of two from 4 to %u", size,
                          VMC_VIRTIO_QUEUE_MAX);
    *queue_size = size;
    return VMC_OK;
}

static uint64_t ring_features(uint32_t flags)
{
    uint64_t f = VMCI_VF_VERSION_1;

    if ((flags & VMC_VIRTIO_NO_PACKED) == 0)
        f |= VMCI_VF_PACKED;
    if ((flags & VMC_VIRTIO_NO_EVENT_IDX) == 0)
        f |= VMCI_VF_EVENT_IDX;
    if ((flags & VMC_VIRTIO_NO_INDIRECT) == 0)
        f |= VMCI_VF_INDIRECT;
    return f;
}

static int init_queues(struct vmc_virtio *dev, unsigned count, uint16_t size, struct vmc_error *err)
{
    dev->queue = vmci_zalloc(dev->pf, count * sizeof(*dev->queue));
    if (dev->queue == NULL)
        return vmci_error(err, VMC_ENOMEM, "virtio/create", "no memory for %u queues", count);
    for (unsigned i = 0; i < count; i++) {
        int rc = vmci_vq_init(&dev->queue[i], dev, i, size);
        if (rc != VMC_OK) {
            while (i-- > 0)
                vmci_vq_fini(&dev->queue[i]);
            vmci_free(dev->pf, dev->queue, count * sizeof(*dev->queue));
            dev->queue = NULL;
            return vmci_error(err, rc, "virtio/create", "cannot make a lock");
        }
    }
    dev->queue_count = count;
    return VMC_OK;
}

static void fini_queues(struct vmc_virtio *dev)
{
    for (unsigned i = 0; i < dev->queue_count; i++)
        vmci_vq_fini(&dev->queue[i]);
    vmci_free(dev->pf, dev->queue, dev->queue_count * sizeof(*dev->queue));
}

int vmci_virtio_init(struct vmc_virtio *dev, struct vmc_board *bd,
                     const struct vmc_virtio_config *cfg, const struct vmci_virtio_class *cls,
                     uint64_t features, unsigned queue_count, struct vmc_error *err)
{
    uint16_t size;
    int rc = vmci_virtio_check_config(cfg, &size, err);

    if (rc != VMC_OK)
        return rc;
    dev->cls = cls;
    dev->bd = bd;
    dev->pf = bd->platform;
    dev->mem = bd->mem;
    dev->doorbells_changed = cfg->doorbells_changed;
    dev->doorbells_ctx = cfg->doorbells_ctx;
    dev->offered = features | ring_features(cfg->flags);
    dev->config_vector = VMCI_VNO_VECTOR;
    rc = vmci_lock_init(&dev->lock, dev->pf);
    if (rc != VMC_OK)
        return vmci_error(err, rc, "virtio/create", "cannot make a lock");
    rc = vmci_lock_init(&dev->irq_lock, dev->pf);
    if (rc != VMC_OK) {
        vmci_error(err, rc, "virtio/create", "cannot make a lock");
        goto no_irq_lock;
    }
    rc = init_queues(dev, queue_count, size, err);
    if (rc != VMC_OK)
        goto no_queues;
    if (bd->timers != NULL) {
        rc = vmc_timer_create(bd->timers, cls->device.name, resume_timer_fired, dev,
                              &dev->resume_timer);
        if (rc != VMC_OK) {
            vmci_error(err, rc, "virtio/create", "cannot make a timer");
            goto no_timer;
        }
    }
    rc = vmci_vpci_init(dev, cfg, err);
    if (rc != VMC_OK)
        goto no_pci;
    dev->listed_ops = (struct vmc_device_ops){
        .name = cls->device.name,
        .reset = vmci_virtio_dev_reset,
        .quiesce = vmci_virtio_dev_quiesce,
        .resume = vmci_virtio_dev_resume,
        .destroy = dev_destroy,
        .save = VMCI_SNAPSHOT(vmci_virtio_dev_save),
        .load = VMCI_SNAPSHOT(vmci_virtio_dev_load),
    };
    dev->listed = (struct vmc_device){.ops = &dev->listed_ops, .dev = dev};
    vmc_board_add(bd, &dev->listed);
    return VMC_OK;

no_pci:
    vmc_timer_destroy(dev->resume_timer);
no_timer:
    fini_queues(dev);
no_queues:
    vmci_lock_fini(&dev->irq_lock);
no_irq_lock:
    vmci_lock_fini(&dev->lock);
    return rc;
}

void vmci_virtio_fini(struct vmc_virtio *dev)
{
    vmci_vpci_fini(dev);
    vmc_timer_destroy(dev->resume_timer);
    fini_queues(dev);
    vmci_lock_fini(&dev->irq_lock);
    vmci_lock_fini(&dev->lock);
}

void vmc_virtio_get_stats(struct vmc_virtio *dev, struct vmc_virtio_stats *out)
{
    out->notifies = vmci_load_relaxed(&dev->stat_notifies);
    out->requests = vmci_load_relaxed(&dev->stat_requests);
    out->interrupts = vmci_load_relaxed(&dev->stat_interrupts);
    out->malformed = vmci_load_relaxed(&dev->stat_malformed);
    out->broken = vmci_load_relaxed(&dev->stat_broken);
}

struct vmc_pci_func *vmc_virtio_pci_func(struct vmc_virtio *dev)
{
    return dev->func;
}
