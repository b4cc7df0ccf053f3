/* SPDX-License-Identifier: BSD-2-Clause */
/* Virtio block device: numbers of the specification (virtio 1.2, 5.2), the device and its requests. */
#ifndef VIO_BLK_H
#define VIO_BLK_H

#include <vmcore/virtio_blk.h>

#include "virtio/vq_three.h"

#define DEVICE_ID       2u
#define SECTOR          512u
#define HEADER          16u
#define SEG_MAX         126u /* data segments of a request; header and status come on top */
#define SEG_SLACK       10u  /* header, status, and pieces that cross memory slots */
#define DISCARD_SEGS    16u
#define DISCARD_SECTORS (1u << 22)
#define DISCARD_BYTES   16u /* one segment descriptor */
#define BATCH           64u /* requests that are taken under one lock */

/* Feature bits (5.2.3). */
#define F_SEG_MAX      VMCI_BIT(2)
#define F_RO           VMCI_BIT(5)
#define F_BLK_SIZE     VMCI_BIT(6)
#define F_FLUSH        VMCI_BIT(9)
#define F_TOPOLOGY     VMCI_BIT(10)
#define F_CONFIG_WCE   VMCI_BIT(11)
#define F_MQ           VMCI_BIT(12)
#define F_DISCARD      VMCI_BIT(13)
#define F_WRITE_ZEROES VMCI_BIT(14)

/* Configuration (5.2.4). */
enum config_reg {
    CFG_CAPACITY = 0,
    CFG_SEG_MAX = 12,
    CFG_BLK_SIZE = 20,
    CFG_PHYSICAL_EXP = 24,
    CFG_MIN_IO = 26,
    CFG_OPT_IO = 28,
    CFG_WRITEBACK = 32,
    CFG_NUM_QUEUES = 34,
    CFG_DISCARD_SECTORS = 36,
    CFG_DISCARD_SEGS = 40,
    CFG_DISCARD_ALIGN = 44,
    CFG_ZEROES_SECTORS = 48,
    CFG_ZEROES_SEGS = 52,
    CFG_ZEROES_UNMAP = 56,
    CFG_BYTES = 60,
};

/* Request types and results (5.2.6). */
enum req_type { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_ZEROES = 13 };
enum req_status { S_OK, S_IOERR, S_UNSUPP };
#define ZEROES_UNMAP 1u

struct blk_dev;

/* The usual request (header, data in one piece, status) needs the first two cache lines only. */
struct blk_req {
    _Alignas(VMCI_CACHELINE) struct blk_req *next; /* free list */
    struct vmci_mem_slot *usual;                   /* it is one, in this memory; NULL: ch knows */
    unsigned char *status;                         /* in guest memory; NULL: nowhere */
    struct vmc_iovec data;                         /* of a usual one */
    uint32_t written;                              /* bytes, data and status, if there is one */
    uint32_t result;                               /* enum req_status */
    uint16_t seg, segs;                            /* of discard and write zeroes */
    uint16_t id;                                   /* of a usual one */
    bool flush_after;                              /* a write while the cache is off */
    struct vmc_block_req io;
    struct vmci_vq *q;
    struct vmci_chain ch;
    unsigned char ranges[DISCARD_SEGS * DISCARD_BYTES];
};

struct blk_queue {
    struct blk_req *req;
    struct blk_req *free; /* (l: the queue's lock) */
    unsigned char *sg;
};

struct blk_dev {
    struct vmc_virtio v;
    struct vmc_blockdev disk;
    struct vmc_block_info info;
    uint64_t bytes; /* (a) capacity, whole sectors of the disk */
    bool read_only;
    bool writethrough; /* at reset */
    unsigned char serial[VMC_VIRTIO_BLK_SERIAL];
    unsigned queues, requests, seg_cap; /* requests: storage of a queue */
    struct blk_queue queue[VMC_VIRTIO_BLK_QUEUES_MAX];
};

static inline bool vmci_blk_has_cache(struct blk_dev *d)
{
    if (vmci_virtio_has(&d->v, F_CONFIG_WCE))
        return vmci_load_relaxed(&d->v.config[CFG_WRITEBACK]) != 0;
    return vmci_virtio_has(&d->v, F_FLUSH); /* 5.2.6.2 */
}

/*
 * Do usual requests on a disk in memory, up to a batch, from the first that is available up to one
 * of another kind. Returns how many; *empty: nothing else is available.
 */
unsigned vmci_blk_direct(struct blk_dev *d, struct vmci_vq *q, bool *empty);

#endif
