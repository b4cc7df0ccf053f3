/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Virtio devices on PCI: what all of them share.
 *
 * The devices follow "Virtual I/O Device (VIRTIO) Version 1.2": modern interface only, split and
 * packed rings, indirect descriptors, event index, MSI-X with a fall-back to the interrupt pin.
 * Each device file has its own create function; the object it returns is put on the board's list,
 * which resets, drains, saves and destroys it (vmcore/device.h).
 *
 * Threads: register accesses come from vCPU threads, completions from the back ends' threads. A
 * device never holds a lock across a call into a back end.
 */
#ifndef VMCORE_VIRTIO_H
#define VMCORE_VIRTIO_H

#include <vmcore/pci.h>

VMC_BEGIN_DECLS

struct vmc_virtio;

#define VMC_VIRTIO_QUEUE_MAX     1024u /**< largest queue_size */
#define VMC_VIRTIO_QUEUE_DEFAULT 256u

enum vmc_virtio_flags {
    VMC_VIRTIO_NO_PACKED = 1u << 0,    /**< do not offer the packed ring */
    VMC_VIRTIO_NO_EVENT_IDX = 1u << 1, /**< do not offer the event index */
    VMC_VIRTIO_NO_INDIRECT = 1u << 2,  /**< do not offer indirect descriptors */
    VMC_VIRTIO_NO_MSIX = 1u << 3,      /**< the interrupt pin only */
};

/** Where a device sits and how its queues look; the first member of each device's config. */
struct vmc_virtio_config {
    uint32_t size;           /**< sizeof(struct vmc_virtio_config) */
    uint32_t flags;          /**< enum vmc_virtio_flags */
    struct vmc_pci_bus *pci; /**< borrowed */
    uint8_t slot;            /**< device number, or VMC_PCI_ANY_SLOT */
    uint8_t pad;
    uint16_t queue_size; /**< entries a queue: a power of two up to VMC_VIRTIO_QUEUE_MAX; 0: default */
    /**
     * The doorbells may have come, gone or moved: look with vmc_virtio_live and vmc_virtio_doorbell.
     * Any thread, no lock held. May be NULL.
     */
    void (*doorbells_changed)(void *ctx);
    void *doorbells_ctx;
};

/** What a device has done. Counters only grow; they are not part of saved state. */
struct vmc_virtio_stats {
    uint32_t size;
    uint32_t pad;
    uint64_t notifies;   /**< doorbells the guest rang */
    uint64_t requests;   /**< chains completed */
    uint64_t interrupts; /**< interrupts raised */
    uint64_t malformed;  /**< requests completed with an error because they made no sense */
    uint64_t broken;     /**< times a queue was latched broken (DEVICE_NEEDS_RESET) */
};

/** Any thread. */
VMC_API void vmc_virtio_get_stats(struct vmc_virtio *dev, struct vmc_virtio_stats *out);
/** The PCI function, to learn its address or messages. */
VMC_API struct vmc_pci_func *vmc_virtio_pci_func(struct vmc_virtio *dev);
/** The driver finished its set-up (DRIVER_OK) and the device is not broken. Any thread. */
VMC_API bool vmc_virtio_live(const struct vmc_virtio *dev);
/**
 * Do what a doorbell write does: work off a queue. For embedders that take doorbells away from the
 * vCPU (ioeventfd, polling threads). Any thread; a queue that is being worked on is not entered
 * twice. Numbers beyond the last queue are ignored.
 */
VMC_API void vmc_virtio_notify(struct vmc_virtio *dev, unsigned queue);
/** Guest-visible address of a queue's doorbell in its BAR; false while the BAR is not decoded. */
VMC_API bool vmc_virtio_doorbell(struct vmc_virtio *dev, unsigned queue, uint64_t *gpa);

VMC_END_DECLS

#endif
