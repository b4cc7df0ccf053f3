/* SPDX-License-Identifier: BSD-2-Clause */
/* What the virtio drivers share: a modern PCI device and split queues (virtio 1.2, 2.7 and 4.1). */
#ifndef BM_VIRTIO_H
#define BM_VIRTIO_H

#include "kernel/bm_int.h"

#define VQ_SIZE            128u
#define VIRTIO_F_VERSION_1 (1ull << 32)

struct vq_desc {
    uint64_t pa;
    uint32_t bytes;
    uint16_t flags, next;
};
#define VQ_NEXT  1u
#define VQ_WRITE 2u

struct bm_vq {
    uint16_t size, index;
    struct vq_desc *desc;
    volatile uint16_t *avail; /* flags, idx, ring */
    volatile uint16_t *used;  /* flags, idx, {id, len} */
    uint16_t free_head, free_count, used_seen;
    volatile char *doorbell;
    void *token[VQ_SIZE]; /* by head descriptor */
};

struct bm_virtio {
    const struct bm_pci *pci;
    volatile char *common, *notify, *device, *isr;
    uint32_t notify_mul;
    uint64_t features;
};

/* From then on it reaches no memory. False: it does not answer. */
bool bm_virtio_reset(struct bm_virtio *v);
/* Find the structures, reset, negotiate want (what the device lacks is left out). */
bool bm_virtio_start(struct bm_virtio *v, const struct bm_pci *p, uint64_t want);
/* A queue that there is already is made anew, after a reset. */
bool bm_virtio_queue(struct bm_virtio *v, struct bm_vq *q, uint16_t index);
void bm_virtio_live(struct bm_virtio *v);
/* Put a chain of n descriptors into the ring (writable from the out-th on); false: no room. */
bool bm_vq_add(struct bm_vq *q, const struct vq_desc *d, unsigned n, void *token);
void bm_vq_kick(struct bm_vq *q);
/* The next finished chain's token, or NULL; *bytes is what the device wrote. */
void *bm_vq_get(struct bm_vq *q, uint32_t *bytes);

#endif
