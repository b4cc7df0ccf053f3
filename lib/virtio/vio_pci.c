/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio over PCI (virtio 1.2, 4.1): one memory BAR with the five register groups, each in its own
 * page, and MSI-X.
 *
 * Threats (tests/unit/virtio/test_pci.c, fuzz/virtio_*.c)
 *
 * | guest input                       | bound                                                     |
 * |-----------------------------------|-----------------------------------------------------------|
 * | any width at any register         | fields have one width; others read zero, writes are lost  |
 * | queue_select beyond the last      | queue registers read zero, writes are lost                |
 * | queue size, addresses             | power of two up to the maximum; checked when enabled      |
 * | MSI-X vector beyond the table     | reads back "no vector" (4.1.5.1.2.1)                      |
 * | configuration access capability   | BAR 0 below the MSI-X table, 1, 2 or 4 aligned bytes      |
 */
#include "virtio/virtio_int.h"

#define VENDOR_ID       0x1af4u
#define DEVICE_BASE     0x1040u
#define SUBSYS_ID       0x1100u
#define REVISION        1u
#define REG_BAR         0u
#define HEADER_BARS_END 0x28u /* command and BARs lie below it in configuration space */

/* The BAR. */
#define PAGE_COMMON 0x0000u
#define PAGE_ISR    0x1000u
#define PAGE_CONFIG 0x2000u
#define PAGE_NOTIFY 0x3000u
#define PAGE_END    0x4000u
#define MSIX_TABLE  0x4000u
#define MSIX_PBA    0x5000u
#define BAR_BYTES   0x8000u

#define COMMON_BYTES      56u
#define NOTIFY_MULTIPLIER 4u

/* Common configuration (4.1.4.3). */
enum common_reg {
    C_DEVICE_FEATURE_SELECT = 0,
    C_DEVICE_FEATURE = 4,
    C_DRIVER_FEATURE_SELECT = 8,
    C_DRIVER_FEATURE = 12,
    C_CONFIG_VECTOR = 16,
    C_NUM_QUEUES = 18,
    C_STATUS = 20,
    C_GENERATION = 21,
    C_QUEUE_SELECT = 22,
    C_QUEUE_SIZE = 24,
    C_QUEUE_VECTOR = 26,
    C_QUEUE_ENABLE = 28,
    C_QUEUE_NOTIFY_OFF = 30,
    C_QUEUE_DESC = 32,
    C_QUEUE_DRIVER = 40,
    C_QUEUE_DEVICE = 48,
};

/* Capabilities (4.1.4). Offsets count from the capability's first byte. */
enum cap_type { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI };
#define CAP_BYTES     16u
#define CAP_BAR       4u
#define CAP_OFFSET    8u
#define CAP_LENGTH    12u
#define CAP_EXTRA     16u /* notify multiplier, or the data of the access capability */
#define CAP_BYTES_EXT 20u

/* ---- common configuration ------------------------------------------------------------------ */

static struct vmci_vq *selected(struct vmc_virtio *dev)
{
    unsigned i = dev->queue_select;

    return i < dev->queue_count ? &dev->queue[vmci_nospec_index(i, dev->queue_count)] : NULL;
}

/* dev->lock. The whole structure as bytes, so that any width of access reads right. */
static void common_image(struct vmc_virtio *dev, unsigned char *c)
{
    struct vmci_vq *q = selected(dev);
    uint32_t sel = dev->device_feature_select;

    memset(c, 0, COMMON_BYTES);
    vmci_st_le32(c + C_DEVICE_FEATURE_SELECT, sel);
    if (sel < 2)
        vmci_st_le32(c + C_DEVICE_FEATURE, (uint32_t)(dev->offered >> (sel * 32)));
    sel = dev->driver_feature_select;
    vmci_st_le32(c + C_DRIVER_FEATURE_SELECT, sel);
    if (sel < 2)
        vmci_st_le32(c + C_DRIVER_FEATURE, (uint32_t)(dev->features >> (sel * 32)));
    vmci_st_le16(c + C_CONFIG_VECTOR, vmci_load_relaxed(&dev->config_vector));
    vmci_st_le16(c + C_NUM_QUEUES, (uint16_t)dev->queue_count);
    c[C_STATUS] = (unsigned char)vmci_virtio_status(dev);
    c[C_GENERATION] = (unsigned char)dev->config_generation;
    vmci_st_le16(c + C_QUEUE_SELECT, dev->queue_select);
    if (q == NULL)
        return;
    vmci_st_le16(c + C_QUEUE_SIZE, q->size);
    vmci_st_le16(c + C_QUEUE_VECTOR, vmci_load_relaxed(&q->vector));
    vmci_st_le16(c + C_QUEUE_ENABLE, q->enabled);
    vmci_st_le16(c + C_QUEUE_NOTIFY_OFF, q->index);
    vmci_st_le64(c + C_QUEUE_DESC, q->desc_gpa);
    vmci_st_le64(c + C_QUEUE_DRIVER, q->driver_gpa);
    vmci_st_le64(c + C_QUEUE_DEVICE, q->device_gpa);
}

static uint64_t common_read(struct vmc_virtio *dev, uint64_t offset, unsigned bytes)
{
    unsigned char image[COMMON_BYTES];
    uint64_t v = 0;

    if (!vmci_range_ok(offset, bytes, COMMON_BYTES))
        return 0;
    vmci_lock(&dev->lock);
    common_image(dev, image);
    vmci_unlock(&dev->lock);
    memcpy(&v, image + offset, bytes);
    return v;
}

static uint16_t valid_vector(const struct vmc_virtio *dev, uint64_t vector)
{
    unsigned vectors = VMCI_MIN(dev->queue_count + 1, (unsigned)VMC_PCI_MSIX_MAX);

    return dev->msix && vector < vectors ? (uint16_t)vector : VMCI_VNO_VECTOR;
}

/* dev->lock. */
static void enable_queue(struct vmc_virtio *dev, struct vmci_vq *q)
{
    if ((vmci_virtio_status(dev) & VMCI_VS_FEATURES_OK) == 0)
        return;
    vmci_lock(&q->lock);
    q->packed = vmci_virtio_has(dev, VMCI_VF_PACKED);
    q->event_idx = vmci_virtio_has(dev, VMCI_VF_EVENT_IDX);
    q->indirect = vmci_virtio_has(dev, VMCI_VF_INDIRECT);
    q->enabled = true;
    if (!q->packed && !vmci_is_pow2(q->size)) /* set when the features were others */
        (void)vmci_vq_break(q, "the size of a split ring is no power of two");
    else
        (void)vmci_vq_map(q); /* failure latches the queue; the caller reports it */
    vmci_unlock(&q->lock);
}

/* dev->lock. 64-bit addresses are written as two halves (4.1.3.1). */
static void queue_write(struct vmc_virtio *dev, struct vmci_vq *q, unsigned offset, unsigned bytes,
                        uint32_t value)
{
    uint64_t *const area[] = {&q->desc_gpa, &q->driver_gpa, &q->device_gpa};

    if (bytes == 2 && offset == C_QUEUE_VECTOR) {
        vmci_store_relaxed(&q->vector, valid_vector(dev, value));
        return;
    }
    if (q->enabled || (vmci_load_acquire(&dev->stop) & VMCI_VSTOP_RESET) != 0)
        return;
    if (bytes == 2 && offset == C_QUEUE_SIZE) {
        /* Split rings have powers of two (2.7), packed ones any size (2.8.10.1). */
        bool any = vmci_virtio_has(dev, VMCI_VF_PACKED);
        if (value != 0 && value <= q->max_size && (any || vmci_is_pow2(value)))
            q->size = (uint16_t)value;
    } else if (bytes == 2 && offset == C_QUEUE_ENABLE) {
        if (value == 1)
            enable_queue(dev, q);
    } else if (bytes == 4 && offset >= C_QUEUE_DESC && offset % 4 == 0) {
        uint64_t *gpa = area[(offset - C_QUEUE_DESC) / 8];
        unsigned shift = (offset & 4) != 0 ? 32 : 0;
        *gpa = (*gpa & ~(0xffffffffull << shift)) | ((uint64_t)value << shift);
    }
}

static void common_write(struct vmc_virtio *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    if (!vmci_range_ok(offset, bytes, COMMON_BYTES))
        return;
    if (bytes == 8) {
        common_write(dev, offset, 4, (uint32_t)value);
        common_write(dev, offset + 4, 4, value >> 32);
        return;
    }
    if (bytes == 1 && offset == C_STATUS) {
        vmci_virtio_set_status(dev, (uint32_t)value);
        return;
    }
    if (bytes == 4 && offset == C_DRIVER_FEATURE) {
        vmci_virtio_set_features(dev, vmci_load_relaxed(&dev->driver_feature_select),
                                 (uint32_t)value);
        return;
    }
    vmci_lock(&dev->lock);
    struct vmci_vq *q = selected(dev);
    if (bytes == 4 && offset == C_DEVICE_FEATURE_SELECT)
        dev->device_feature_select = (uint32_t)value;
    else if (bytes == 4 && offset == C_DRIVER_FEATURE_SELECT)
        vmci_store_relaxed(&dev->driver_feature_select, (uint32_t)value);
    else if (bytes == 2 && offset == C_CONFIG_VECTOR)
        vmci_store_relaxed(&dev->config_vector, valid_vector(dev, value));
    else if (bytes == 2 && offset == C_QUEUE_SELECT)
        dev->queue_select = (uint16_t)value;
    else if (q != NULL)
        queue_write(dev, q, (unsigned)offset, bytes, (uint32_t)value);
    vmci_unlock(&dev->lock);
    if (q != NULL)
        vmci_vq_report_broken(q);
}

/* ---- interrupts ---------------------------------------------------------------------------- */

void vmci_vpci_irq(struct vmc_virtio *dev, uint32_t isr_bit, uint16_t vector)
{
    if (dev->msix && vmc_pci_msix_enabled(dev->func)) {
        if (vector != VMCI_VNO_VECTOR)
            vmc_pci_msix_raise(dev->func, vector);
        return;
    }
    vmci_lock(&dev->irq_lock);
    dev->isr |= isr_bit;
    vmc_pci_intx_set(dev->func, true);
    vmci_unlock(&dev->irq_lock);
}

/* Reading clears the register and the pin (4.1.4.5). */
static uint32_t isr_read(struct vmc_virtio *dev)
{
    vmci_lock(&dev->irq_lock);
    uint32_t isr = dev->isr;
    dev->isr = 0;
    vmc_pci_intx_set(dev->func, false);
    vmci_unlock(&dev->irq_lock);
    return isr;
}

bool vmci_vpci_may_dma(struct vmc_virtio *dev)
{
    return vmc_pci_bus_master(dev->func);
}

void vmci_vpci_reset(struct vmc_virtio *dev)
{
    (void)isr_read(dev);
}

/* ---- the BAR ------------------------------------------------------------------------------- */

static uint64_t bar_read(void *ctx, uint64_t offset, unsigned bytes)
{
    struct vmc_virtio *dev = ctx;
    uint64_t v = 0;

    switch (offset & ~0xfffull) {
    case PAGE_COMMON:
        return common_read(dev, offset, bytes);
    case PAGE_ISR:
        return offset == PAGE_ISR ? isr_read(dev) : 0;
    case PAGE_CONFIG:
        vmci_virtio_config_read(dev, offset - PAGE_CONFIG, bytes, &v);
        return v;
    default:
        return 0;
    }
}

static void bar_write(void *ctx, uint64_t offset, unsigned bytes, uint64_t value)
{
    struct vmc_virtio *dev = ctx;

    switch (offset & ~0xfffull) {
    case PAGE_COMMON:
        common_write(dev, offset, bytes, value);
        break;
    case PAGE_CONFIG:
        vmci_virtio_config_write(dev, offset - PAGE_CONFIG, bytes, value);
        break;
    case PAGE_NOTIFY:
        if (offset % NOTIFY_MULTIPLIER == 0)
            vmc_virtio_notify(dev, (unsigned)(offset - PAGE_NOTIFY) / NOTIFY_MULTIPLIER);
        break;
    default:
        break;
    }
}

bool vmc_virtio_doorbell(struct vmc_virtio *dev, unsigned queue, uint64_t *gpa)
{
    uint64_t base;

    if (queue >= dev->queue_count || !vmc_pci_bar_address(dev->func, REG_BAR, &base))
        return false;
    *gpa = base + PAGE_NOTIFY + (uint64_t)queue * NOTIFY_MULTIPLIER;
    return true;
}

/* ---- configuration space ------------------------------------------------------------------- */

/* Where the access capability points (4.1.4.9); false: nowhere it may. */
static bool cfg_window(struct vmc_virtio *dev, uint32_t *offset, uint32_t *bytes)
{
    struct vmc_pci_func *f = dev->func;

    *offset = vmc_pci_get_config(f, (uint16_t)(dev->cfg_cap + CAP_OFFSET), 4);
    *bytes = vmc_pci_get_config(f, (uint16_t)(dev->cfg_cap + CAP_LENGTH), 4);
    return vmc_pci_get_config(f, (uint16_t)(dev->cfg_cap + CAP_BAR), 1) == REG_BAR &&
           (*bytes == 1 || *bytes == 2 || *bytes == 4) && *offset % *bytes == 0 &&
           vmci_range_ok(*offset, *bytes, PAGE_END);
}

static bool is_cfg_data(const struct vmc_virtio *dev, uint16_t offset)
{
    return dev->cfg_cap != 0 && offset == dev->cfg_cap + CAP_EXTRA;
}

static void config_read(void *ctx, uint16_t offset, unsigned bytes, uint32_t *value)
{
    struct vmc_virtio *dev = ctx;
    uint32_t at;
    uint32_t n;

    (void)bytes;
    if (is_cfg_data(dev, offset) && cfg_window(dev, &at, &n))
        *value = (uint32_t)bar_read(dev, at, n);
}

static void config_write(void *ctx, uint16_t offset, unsigned bytes, uint32_t value)
{
    struct vmc_virtio *dev = ctx;
    uint32_t at;
    uint32_t n;

    if (is_cfg_data(dev, offset)) {
        if (cfg_window(dev, &at, &n) && n <= bytes)
            bar_write(dev, at, n, value & (uint32_t)(0xffffffffu >> (32 - 8 * n)));
        return;
    }
    if (offset < HEADER_BARS_END)
        vmci_virtio_doorbells_changed(dev);
    if (offset <= VMC_PCI_COMMAND && offset + bytes > VMC_PCI_COMMAND && vmci_vpci_may_dma(dev)) {
        /* Bus mastering may just have been granted: look at what was queued before. */
        for (unsigned i = 0; i < dev->queue_count; i++)
            vmci_vq_run(&dev->queue[i]);
    }
}

static const struct vmc_pci_func_ops func_ops = {
    .config_read = config_read,
    .config_write = config_write,
};
static const struct vmc_bus_ops bar_ops = {.read = bar_read, .write = bar_write};

struct cap {
    enum cap_type type;
    uint32_t offset, length, extra;
    bool extended, writable;
};

static int add_cap(struct vmc_virtio *dev, const struct cap *cap, uint8_t *where,
                   struct vmc_error *err)
{
    unsigned char body[CAP_BYTES_EXT] = {0};
    unsigned char mask[CAP_BYTES_EXT] = {0};
    unsigned bytes = cap->extended ? CAP_BYTES_EXT : CAP_BYTES;

    body[2] = (unsigned char)bytes;
    body[3] = (unsigned char)cap->type;
    body[CAP_BAR] = REG_BAR;
    vmci_st_le32(body + CAP_OFFSET, cap->offset);
    vmci_st_le32(body + CAP_LENGTH, cap->length);
    vmci_st_le32(body + CAP_EXTRA, cap->extra);
    if (cap->writable) {
        mask[CAP_BAR] = 0xff;
        memset(mask + CAP_OFFSET, 0xff, CAP_BYTES_EXT - CAP_OFFSET);
    }
    /* The layer writes the first two bytes. */
    return vmc_pci_add_cap(dev->func, VMC_PCI_CAP_ID_VENDOR, body + 2, mask + 2, bytes - 2, where,
                           err);
}

static int add_caps(struct vmc_virtio *dev, struct vmc_error *err)
{
    const struct cap caps[] = {
        {.type = CAP_COMMON, .offset = PAGE_COMMON, .length = COMMON_BYTES},
        {.type = CAP_ISR, .offset = PAGE_ISR, .length = 1},
        {.type = CAP_DEVICE, .offset = PAGE_CONFIG, .length = dev->cls->config_bytes},
        {.type = CAP_NOTIFY,
         .offset = PAGE_NOTIFY,
         .length = dev->queue_count * NOTIFY_MULTIPLIER,
         .extra = NOTIFY_MULTIPLIER,
         .extended = true},
        {.type = CAP_PCI, .extended = true, .writable = true},
    };

    for (size_t i = 0; i < VMCI_ARRAY_SIZE(caps); i++) {
        uint8_t where;
        if (caps[i].type == CAP_DEVICE && caps[i].length == 0)
            continue; /* only devices that have a configuration (4.1.4.6) */
        int rc = add_cap(dev, &caps[i], &where, err);
        if (rc != VMC_OK)
            return rc;
        if (caps[i].type == CAP_PCI)
            dev->cfg_cap = where;
    }
    return VMC_OK;
}

int vmci_vpci_init(struct vmc_virtio *dev, const struct vmc_virtio_config *cfg,
                   struct vmc_error *err)
{
    const struct vmc_pci_func_config fc = {
        .size = sizeof(fc),
        .slot = cfg->slot,
        .int_pin = 1,
        .revision = REVISION,
        .vendor_id = VENDOR_ID,
        .device_id = (uint16_t)(DEVICE_BASE + dev->cls->device_id),
        .subsys_vendor_id = VENDOR_ID,
        .subsys_id = SUBSYS_ID,
        .class_code = dev->cls->pci_class,
        .ops = &func_ops,
        .dev = dev,
    };
    unsigned vectors = VMCI_MIN(dev->queue_count + 1, (unsigned)VMC_PCI_MSIX_MAX);
    int rc = vmc_pci_func_create(cfg->pci, &fc, &dev->func, err);

    if (rc != VMC_OK)
        return rc;
    rc = vmc_pci_add_bar(dev->func, REG_BAR, VMC_PCI_BAR_MEM64, BAR_BYTES, &bar_ops, dev, err);
    if (rc == VMC_OK && (cfg->flags & VMC_VIRTIO_NO_MSIX) == 0) {
        rc = vmc_pci_add_msix(dev->func, vectors, REG_BAR, MSIX_TABLE, MSIX_PBA, err);
        dev->msix = rc == VMC_OK;
    }
    if (rc == VMC_OK)
        rc = add_caps(dev, err);
    if (rc != VMC_OK)
        vmci_vpci_fini(dev);
    return rc;
}

void vmci_vpci_fini(struct vmc_virtio *dev)
{
    vmc_pci_func_destroy(dev->func);
    dev->func = NULL;
}
