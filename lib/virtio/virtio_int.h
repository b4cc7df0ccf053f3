/* SPDX-License-Identifier: BSD-2-Clause */
/* Virtqueues and the part that all virtio devices share. Section numbers are those of virtio 1.2. */
#ifndef VIRTIO_INT_H
#define VIRTIO_INT_H

#include "base/base_int.h"
#include "mmu/mmu_int.h"
#include <vmcore/virtio.h>

/* ---- numbers of the specification ---------------------------------------------------------- */

/* Device status (2.1). */
#define VMCI_VS_ACKNOWLEDGE 0x01u
#define VMCI_VS_DRIVER      0x02u
#define VMCI_VS_DRIVER_OK   0x04u
#define VMCI_VS_FEATURES_OK 0x08u
#define VMCI_VS_NEEDS_RESET 0x40u
#define VMCI_VS_FAILED      0x80u

/* Feature bits of rings and transport (6). */
#define VMCI_VF_INDIRECT  VMCI_BIT(28)
#define VMCI_VF_EVENT_IDX VMCI_BIT(29)
#define VMCI_VF_VERSION_1 VMCI_BIT(32)
#define VMCI_VF_PACKED    VMCI_BIT(34)

/* Descriptor flags (2.7.5, 2.8.13). */
#define VMCI_VD_NEXT     0x0001u
#define VMCI_VD_WRITE    0x0002u
#define VMCI_VD_INDIRECT 0x0004u
#define VMCI_VD_AVAIL    0x0080u /* packed */
#define VMCI_VD_USED     0x8000u /* packed */
#define VMCI_VD_BYTES    16u

/* Split ring (2.7.6, 2.7.8) and packed event suppression (2.8.10). */
#define VMCI_VAVAIL_NO_INTERRUPT 0x0001u
#define VMCI_VUSED_NO_NOTIFY     0x0001u
#define VMCI_VEVENT_ENABLE       0u
#define VMCI_VEVENT_DISABLE      1u
#define VMCI_VEVENT_DESC         2u

/* ISR status bits (4.1.4.5) and "no vector" (4.1.5.1.2). */
#define VMCI_VISR_QUEUE  0x01u
#define VMCI_VISR_CONFIG 0x02u
#define VMCI_VNO_VECTOR  0xffffu

/* A chain may describe at most this much (2.7.5.2). */
#define VMCI_VCHAIN_BYTES_MAX (1ull << 32)

#define VMCI_VCONFIG_BYTES 64u /* largest device-specific configuration */
#define VMCI_VBATCH        32u /* chains a device takes from a queue under one lock */

/* ---- chains -------------------------------------------------------------------------------- */

/* A window of guest memory as it was taken; given back by vmci_chain_release. */
struct vmci_vref {
    uint64_t gpa;
    uint64_t bytes;
};

/*
 * One buffer chain in host terms: out_n readable pieces, then in_n writable ones. The owner may
 * move the pieces' bounds; ref keeps what has to be released.
 */
struct vmci_chain {
    uint16_t id;    /* head index (split) or buffer ID (packed) */
    uint16_t slots; /* ring entries it occupies (packed) */
    uint16_t cap;   /* entries of iov and ref (c) */
    uint16_t out_n, in_n;
    bool unmapped;  /* (c) writable pieces are addresses only: nothing will be written there */
    bool malformed; /* a piece is not guest RAM, or there are too many: complete with length 0 */
    bool held;      /* readable pieces have to be released too */
    uint64_t out_bytes, in_bytes;
    struct vmc_iovec *iov;
    struct vmci_vref *ref;
    struct vmci_mem_slot *near; /* ordinary memory that holds pieces of it; NULL: not known */
};

/* Bytes of memory for the iov and ref arrays of a chain, and putting them in place. */
size_t vmci_chain_bytes(unsigned cap);
void vmci_chain_place(struct vmci_chain *ch, void *storage, unsigned cap);

/* Copy from the readable pieces, to the writable ones, at an offset; returns how much was there. */
size_t vmci_chain_read(const struct vmci_chain *ch, uint64_t offset, void *dst, size_t bytes);
size_t vmci_chain_write(const struct vmci_chain *ch, uint64_t offset, const void *src,
                        size_t bytes);
/* The first (last) bytes of a list of pieces are cut off; returns the pieces left, *iov moves. */
unsigned vmci_iov_drop_front(struct vmc_iovec **iov, unsigned n, uint64_t bytes);
unsigned vmci_iov_drop_back(struct vmc_iovec *iov, unsigned n, uint64_t bytes);

/* ---- queues -------------------------------------------------------------------------------- */

/* Where a queue stands; what has to survive a snapshot besides what the driver configured. */
struct vmci_vq_pos {
    uint16_t next_avail; /* split: free running; packed: slot */
    uint16_t next_used;
    bool avail_wrap, used_wrap; /* packed */
};

/* (l) members belong to lock; the driver configures (q) members while the queue is disabled. */
/* A part of a ring that is mapped. */
struct vmci_vq_area {
    uint64_t gpa, bytes;
    bool write;
};

struct vmci_vq {
    struct vmc_virtio *dev; /* (c) */
    uint16_t index;         /* (c) */
    uint16_t max_size;      /* (c) */
    uint16_t size;          /* (q) */
    uint16_t vector;        /* (a) MSI-X vector */
    bool enabled;           /* (l) */
    bool broken;            /* (l) structural error: silent until reset */
    bool packed, event_idx, indirect; /* (q) negotiated */
    bool busy, again;                 /* (l) somebody works on the queue; look once more */
    bool deferred;                    /* (l) used entries wait for publish */
    bool signalled_valid;             /* (l) split: signalled is meaningful */
    uint64_t desc_gpa, driver_gpa, device_gpa; /* (q) */

    struct vmci_lock lock;
    struct vmci_vq_pos pos; /* (l) */
    struct vmci_vq_pos empty; /* (l) where pop last found nothing: pos may have been put back since */
    uint16_t shadow;        /* (l) split: available index as last read */
    uint16_t signalled;     /* (l) split: used index at the last interrupt decision */
    uint32_t unsignalled;   /* (l) packed: slots used since then */
    uint32_t inflight;      /* (l) ring slots taken and not given back */
    uint32_t staged;        /* (l) slots used but not published */
    uint16_t first_flags;   /* (l) packed: flags of the first deferred entry, stored last */
    uint16_t first_slot;    /* (l) packed: where */

    struct vmci_vq_area area[3]; /* mapped since the last reset */
    unsigned areas;
    unsigned char *desc, *driver, *device; /* (l) ring windows while enabled */
    struct vmci_mem_slot *near;            /* (l) where buffers were found last, or NULL */
};

int vmci_vq_init(struct vmci_vq *q, struct vmc_virtio *dev, unsigned index, unsigned max_size);
void vmci_vq_fini(struct vmci_vq *q);
/* Back to power-on. Nobody works on the queue. */
void vmci_vq_reset(struct vmci_vq *q);
/* Check the rings' addresses and take windows on them. VMC_EFORMAT. Also after the map changed. */
int vmci_vq_map(struct vmci_vq *q);

/* The following need q->lock and an enabled queue that is not broken. */

/* 1: *ch is the next chain; 0: none; VMC_EFORMAT: the queue is broken now. */
int vmci_vq_pop(struct vmci_vq *q, struct vmci_chain *ch);
/* Take chains popped after pos was copied back, as if they had not been popped. */
void vmci_vq_rewind(struct vmci_vq *q, const struct vmci_vq_pos *pos, uint32_t slots);
/* Give a chain back with the number of bytes written; the driver sees it after publish. */
void vmci_vq_stage(struct vmci_vq *q, const struct vmci_chain *ch, uint32_t written);
void vmci_vq_publish(struct vmci_vq *q);
/* After publish: does the driver want an interrupt? */
bool vmci_vq_want_irq(struct vmci_vq *q);
/* Doorbells are not needed for now. */
void vmci_vq_notify_off(struct vmci_vq *q);
/* After pop found nothing: ring for what comes then; true: something came already, pop again. */
bool vmci_vq_notify_on(struct vmci_vq *q);
/* A structural error: latch, count, log. Returns VMC_EFORMAT. */
int vmci_vq_break(struct vmci_vq *q, const char *what);

/* End of the windows. Needs no lock. */
void vmci_chain_release(struct vmc_mem *mem, struct vmci_chain *ch);

/* One ring format; vq.c chooses by q->packed. */
int vmci_split_pop(struct vmci_vq *q, struct vmci_chain *ch);
void vmci_split_stage(struct vmci_vq *q, const struct vmci_chain *ch, uint32_t written);
void vmci_split_publish(struct vmci_vq *q);
bool vmci_split_want_irq(struct vmci_vq *q);
void vmci_split_notify_off(struct vmci_vq *q);
bool vmci_split_notify_on(struct vmci_vq *q);
int vmci_packed_pop(struct vmci_vq *q, struct vmci_chain *ch);
void vmci_packed_stage(struct vmci_vq *q, const struct vmci_chain *ch, uint32_t written);
void vmci_packed_publish(struct vmci_vq *q);
bool vmci_packed_want_irq(struct vmci_vq *q);
void vmci_packed_notify_off(struct vmci_vq *q);
bool vmci_packed_notify_on(struct vmci_vq *q);

/* Helpers of the two: add a descriptor to a chain, walk an indirect table. 0 or VMC_EFORMAT. */
struct vmci_vdesc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next; /* split: next; packed: buffer ID */
};
/* Split: address, length, flags, next (2.7.5). Packed: address, length, ID, flags (2.8.13). */
static inline void vmci_vdesc_fetch(const unsigned char *p, bool packed, struct vmci_vdesc *d)
{
    const uint64_t *w = (const uint64_t *)(const void *)p;
    uint64_t rest = vmci_load_relaxed(&w[1]);

    d->addr = vmci_load_relaxed(&w[0]);
    d->len = (uint32_t)rest;
    d->flags = (uint16_t)(packed ? rest >> 48 : rest >> 32);
    d->next = (uint16_t)(packed ? rest >> 32 : rest >> 48);
}
int vmci_chain_add(struct vmci_vq *q, struct vmci_chain *ch, const struct vmci_vdesc *d);
/*
 * The usual chain as a whole: descriptors of a table from number i on, of ordinary memory, each in
 * one slot, the readable ones first. in_row: they follow each other up to the table's end (packed
 * indirect tables), else each names the next one. False: the chain is empty as before, and the long
 * way has to be gone, which knows everything, and what is wrong.
 */
bool vmci_chain_plain(struct vmci_vq *q, struct vmci_chain *ch, const unsigned char *table,
                      unsigned entries, unsigned i, bool in_row);
int vmci_chain_add_indirect(struct vmci_vq *q, struct vmci_chain *ch, const struct vmci_vdesc *d);
/* The driver's side of event index arithmetic (2.7.10): was event passed going from old to new? */
static inline bool vmci_vq_event_passed(uint16_t event, uint16_t new_idx, uint16_t old_idx)
{
    return (uint16_t)(new_idx - event - 1) < (uint16_t)(new_idx - old_idx);
}
/* The rings are shared with running vCPUs: every access is one atomic access. */
static inline uint16_t vmci_ring_ld16(const unsigned char *p)
{
    return vmci_load_relaxed((const uint16_t *)(const void *)p);
}
static inline void vmci_ring_st16(unsigned char *p, uint16_t v)
{
    vmci_store_relaxed((uint16_t *)(void *)p, v);
}
/* The device area was written: tell the dirty log. */
static inline void vmci_vq_wrote(struct vmci_vq *q, struct vmc_mem *mem, uint64_t bytes)
{
    if (unlikely(vmci_load_relaxed(&mem->dirty_clients) != 0))
        vmci_mem_mark_dirty(mem, q->packed ? q->desc_gpa : q->device_gpa, bytes);
}

/* ---- devices ------------------------------------------------------------------------------- */

enum vmci_vwork {
    VMCI_VWORK_EMPTY,   /* the queue was empty when looked at */
    VMCI_VWORK_MORE,    /* call again */
    VMCI_VWORK_STALLED, /* cannot go on; the device calls vmci_vq_run when it can */
};

/* Cursors over saved state. */
struct vmci_vsave {
    unsigned char *dst;
    size_t bytes; /* room */
    size_t used;  /* what the state needs, whether it fits or not */
};
struct vmci_vload {
    const unsigned char *src;
    size_t left;
    bool short_read;
};
void vmci_vsave_u64(struct vmci_vsave *s, uint64_t v);
void vmci_vsave_bytes(struct vmci_vsave *s, const void *p, size_t bytes);
uint64_t vmci_vload_u64(struct vmci_vload *l);
void vmci_vload_bytes(struct vmci_vload *l, void *p, size_t bytes);

/* What makes a device of a kind. Members may be NULL unless said. */
struct vmci_virtio_class {
    struct vmc_device_ops device; /* name set; the rest filled by vmci_virtio_* functions */
    uint16_t device_id;           /* virtio device number (5) */
    uint32_t pci_class;
    unsigned config_bytes;
    /* May the driver have this set? Only what goes beyond "a subset of what is offered". */
    bool (*features_ok)(struct vmc_virtio *dev, uint64_t features);
    /* DRIVER_OK was set. No lock held. */
    void (*started)(struct vmc_virtio *dev);
    /* Work on a queue; required. No lock held; not entered twice for one queue. */
    enum vmci_vwork (*work)(struct vmc_virtio *dev, struct vmci_vq *q);
    /* The driver wrote dev->config; the bytes are already there if writable. No lock held. */
    void (*config_written)(struct vmc_virtio *dev, unsigned offset, unsigned bytes);
    /* Which bytes of config the driver may write (bit per byte). */
    uint64_t config_writable;
    /* Device-specific state back to power-on. Idle. */
    void (*reset)(struct vmc_virtio *dev);
    /* Device-specific state; load checks first, and commits when told. */
    void (*save)(struct vmc_virtio *dev, struct vmci_vsave *s);
    int (*load)(struct vmc_virtio *dev, struct vmci_vload *l, bool commit, struct vmc_error *err);
    /* Tell back ends to hurry (draining). */
    void (*drain)(struct vmc_virtio *dev);
    /* Free the device; required. Calls vmci_virtio_fini. */
    void (*destroy)(struct vmc_virtio *dev);
};

/* The part every device embeds as its first member. */
struct vmc_virtio {
    struct vmc_device listed;
    struct vmc_device_ops listed_ops;
    const struct vmci_virtio_class *cls;
    struct vmc_board *bd;
    const struct vmc_platform *pf;
    struct vmc_mem *mem;
    uint64_t offered; /* features (c) */

    struct vmci_lock lock; /* registers, config */
    uint64_t features;     /* (l) accepted by the driver; fixed after FEATURES_OK */
    uint32_t status;       /* (a) */
    uint32_t device_feature_select, driver_feature_select; /* (l) */
    uint16_t queue_select;                                 /* (l) */
    uint16_t config_vector;                                /* (a) */
    uint32_t config_generation;                            /* (l) */
    unsigned char config[VMCI_VCONFIG_BYTES];              /* (l) */

    /*
     * Who is inside: threads working on queues, requests at back ends. stop says why nobody may
     * enter any more. A reset takes effect, and a quiesce is complete, once active is 0.
     */
    uint32_t active; /* (a) */
    uint32_t stop;   /* (a) VMCI_VSTOP_* */

    struct vmci_lock irq_lock; /* isr and the level of the pin belong together */
    uint32_t isr;              /* (l: irq_lock) */

    unsigned queue_count;
    struct vmci_vq *queue;
    struct vmc_timer *resume_timer; /* goes on with queues whose time slice was over */
    uint32_t unfinished;            /* (a) some queue's slice was over */
    struct vmci_loglimit loglimit;
    uint64_t stat_notifies, stat_requests, stat_interrupts, stat_malformed, stat_broken; /* (a) */

    void (*doorbells_changed)(void *ctx); /* (c) or NULL */
    void *doorbells_ctx;                  /* (c) */

    struct vmc_pci_func *func;
    uint8_t cfg_cap; /* offset of the PCI configuration access capability */
    bool msix;
};

#define VMCI_VSTOP_RESET 1u
#define VMCI_VSTOP_PAUSE 2u

/* Create the shared part: queues, PCI function, place on the board's list. queue_count >= 1. */
int vmci_virtio_init(struct vmc_virtio *dev, struct vmc_board *bd,
                     const struct vmc_virtio_config *cfg, const struct vmci_virtio_class *cls,
                     uint64_t features, unsigned queue_count, struct vmc_error *err);
void vmci_virtio_fini(struct vmc_virtio *dev);
/* Check cfg, the part that is needed before memory can be sized. *queue_size gets the default. */
int vmci_virtio_check_config(const struct vmc_virtio_config *cfg, uint16_t *queue_size,
                             struct vmc_error *err);

static inline void vmci_virtio_doorbells_changed(struct vmc_virtio *dev)
{
    if (dev->doorbells_changed != NULL)
        dev->doorbells_changed(dev->doorbells_ctx);
}

static inline bool vmci_virtio_has(const struct vmc_virtio *dev, uint64_t feature)
{
    return (dev->features & feature) != 0;
}

/* Enter to touch queues; false: not live, or being stopped. Every true is paired with a leave. */
bool vmci_virtio_enter(struct vmc_virtio *dev);
void vmci_virtio_leave(struct vmc_virtio *dev);
/* Keep the device from becoming idle for n requests at a back end (inside enter), and end it. */
static inline void vmci_virtio_hold(struct vmc_virtio *dev, unsigned n)
{
    (void)__atomic_fetch_add(&dev->active, n, __ATOMIC_SEQ_CST);
}

/* Work on a queue, on this thread or by telling the one that is at it. */
void vmci_vq_run(struct vmci_vq *q);
/* The same on the thread that runs timers, where there are any: the caller touches no guest memory. */
void vmci_vq_run_soon(struct vmci_vq *q);
/* Usable now: enabled, not broken. Needs q->lock. */
static inline bool vmci_vq_usable(const struct vmci_vq *q)
{
    return q->enabled && !q->broken;
}
/* Complete one chain and raise its interrupt; for requests that were held. */
void vmci_vq_complete(struct vmci_vq *q, struct vmci_chain *ch, uint32_t written);
/* After the lock was dropped: raise the interrupt of the queue, report a queue found broken. */
void vmci_vq_irq(struct vmci_vq *q);
void vmci_vq_report_broken(struct vmci_vq *q);

/* The device changes its configuration: between begin and end the bytes of dev->config. */
void vmci_virtio_config_begin(struct vmc_virtio *dev);
void vmci_virtio_config_end(struct vmc_virtio *dev, bool notify);

/* ---- registers, called by the transport ---------------------------------------------------- */

uint32_t vmci_virtio_status(const struct vmc_virtio *dev);
void vmci_virtio_set_status(struct vmc_virtio *dev, uint32_t value);
void vmci_virtio_set_features(struct vmc_virtio *dev, uint32_t half, uint32_t value);
void vmci_virtio_config_read(struct vmc_virtio *dev, uint64_t offset, unsigned bytes, void *dst);
void vmci_virtio_config_write(struct vmc_virtio *dev, uint64_t offset, unsigned bytes,
                              uint64_t value);

/* ---- PCI transport ------------------------------------------------------------------------- */

int vmci_vpci_init(struct vmc_virtio *dev, const struct vmc_virtio_config *cfg,
                   struct vmc_error *err);
void vmci_vpci_fini(struct vmc_virtio *dev);
void vmci_vpci_reset(struct vmc_virtio *dev); /* registers only; the function has its own reset */
/* Raise for a queue (bit VMCI_VISR_QUEUE) or a configuration change. */
void vmci_vpci_irq(struct vmc_virtio *dev, uint32_t isr_bit, uint16_t vector);
bool vmci_vpci_may_dma(struct vmc_virtio *dev);

/* Device life cycle, as vmc_device_ops wants it. */
void vmci_virtio_dev_reset(void *dev);
int vmci_virtio_dev_quiesce(void *dev);
void vmci_virtio_dev_resume(void *dev);
size_t vmci_virtio_dev_save(void *dev, void *dst, size_t bytes);
int vmci_virtio_dev_load(void *dev, const void *src, size_t bytes, struct vmc_error *err);

#endif
