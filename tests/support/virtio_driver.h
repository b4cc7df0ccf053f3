/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's side of virtio for tests and fuzzers: a board with memory and a PCI bus, and a driver
 * that finds a device, negotiates and works with split and packed rings. It can be told to break
 * every rule. No cmocka in here: fuzzers use it too.
 */
#ifndef VIRTIO_DRIVER_H
#define VIRTIO_DRIVER_H

#include "test_platform.h"
#include <vmcore/pci.h>
#include <vmcore/virtio.h>

#ifndef VD_RAM_BYTES
#define VD_RAM_BYTES  (16u << 20)            /* at 0 */
#endif
#define VD_RAM2_BYTES (1u << 20)             /* right behind it, other backing */
#define VD_ROM        0x2000000u             /* 64 KiB */
#define VD_RAM_END    (VD_RAM_BYTES + VD_RAM2_BYTES)
#define VD_RINGS      0x100000u              /* rings of queue i at VD_RINGS + i * VD_RING_STEP */
#define VD_RING_STEP  0x20000u
#define VD_HEAP       0x400000u              /* buffers of tests */
#define VD_MSI_ADDR   0xfee00000u
#define VD_BAR        0xe0000000u
#define VD_QUEUES     24
#define VD_VECTORS    64

struct vd_board {
    struct test_platform tp;
    struct vmc_board bd;
    struct vmc_pci_bus *pci;
    unsigned char *ram;  /* VD_RAM_BYTES at guest address 0 */
    unsigned char *ram2; /* VD_RAM2_BYTES */
    uint32_t msi[VD_VECTORS]; /* messages by data value (a) */
    uint32_t pin[4];          /* levels of the four lines (a) */
};

void vd_board_init(struct vd_board *b, bool threads);
/* Destroys devices, the PCI bus among them, buses and memory. */
void vd_board_fini(struct vd_board *b);
/* Host address of guest memory, or NULL. */
void *vd_ptr(struct vd_board *b, uint64_t gpa);

struct vd_buf {
    uint64_t gpa;
    uint32_t len;
    bool write;
};

struct vd_queue {
    unsigned index, size;
    uint64_t desc, driver, device; /* guest addresses of the three areas */
    uint16_t avail_idx, used_idx;  /* split: free running; packed: slots */
    bool avail_wrap, used_wrap;
    uint16_t next_desc;  /* split: where the next chain is put */
    uint16_t slots[1024]; /* packed: slots of the buffer with an ID */
    uint16_t old_idx;    /* split: avail index at the last kick */
};

struct vd {
    struct vd_board *b;
    struct vmc_virtio *dev;
    uint8_t devfn;
    uint64_t common, isr, config, notify; /* guest addresses */
    uint32_t notify_multiplier;
    uint8_t cfg_cap;
    uint64_t features;
    struct vd_queue q[VD_QUEUES];
};

/* Register access through the board's MMIO bus. */
uint64_t vd_read(struct vd *v, uint64_t gpa, unsigned bytes);
void vd_write(struct vd *v, uint64_t gpa, unsigned bytes, uint64_t value);

/* Find the capabilities, place BAR 0, enable memory, bus mastering and MSI-X (msix). */
bool vd_probe(struct vd *v, struct vd_board *b, struct vmc_virtio *dev, bool msix);
/* Reset, then negotiate want & offered; false: FEATURES_OK refused. */
bool vd_negotiate(struct vd *v, uint64_t want);
uint64_t vd_offered(struct vd *v);
/* Place and enable queue i; size 0: what the device says. Vector i + 1. */
void vd_queue_setup(struct vd *v, unsigned i, unsigned size);
void vd_driver_ok(struct vd *v);
/* All of it: negotiate, set up queues 0..queues-1, DRIVER_OK. */
bool vd_start(struct vd *v, uint64_t want, unsigned queues);
uint8_t vd_status(struct vd *v);
void vd_reset(struct vd *v);

/* Make a chain available; indirect: table at this guest address, or 0. Returns its ID. */
unsigned vd_add(struct vd *v, unsigned queue, const struct vd_buf *buf, unsigned n,
                uint64_t indirect);
void vd_kick(struct vd *v, unsigned queue);
/* Would a driver that honours suppression ring the bell for what it added since the last one? */
bool vd_wants_kick(struct vd *v, unsigned queue);
/* The next used buffer; false: none. */
bool vd_pop(struct vd *v, unsigned queue, unsigned *id, uint32_t *len);
/* Ask for an interrupt only when used index i is passed (event index), or never (no event index). */
void vd_irq_after(struct vd *v, unsigned queue, uint16_t i);
void vd_irq_off(struct vd *v, unsigned queue);

/* Raw split ring, for drivers that misbehave. */
void vd_raw_desc(struct vd *v, unsigned queue, unsigned i, uint64_t addr, uint32_t len,
                 uint16_t flags, uint16_t next);
void vd_raw_avail(struct vd *v, unsigned queue, uint16_t head);
void vd_raw_avail_idx(struct vd *v, unsigned queue, uint16_t idx);

#define VD_F_INDIRECT  (1ull << 28)
#define VD_F_EVENT_IDX (1ull << 29)
#define VD_F_VERSION_1 (1ull << 32)
#define VD_F_PACKED    (1ull << 34)
#define VD_NEXT     1u
#define VD_WRITE    2u
#define VD_INDIRECT 4u
#define VD_NEEDS_RESET 0x40u

#endif
