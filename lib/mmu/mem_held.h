/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pages of RAM that a guest's balloon driver has given up. Each goes in once and comes out once,
 * whatever the driver claims. Calls of several threads may meet.
 */
#ifndef MEM_HELD_H
#define MEM_HELD_H

#include "mmu/mmu_int.h"

struct vmci_held {
    struct vmc_mem *mem;
    uint64_t *bits;     /* (a) one a page below limit */
    uint64_t limit;     /* (c) pages */
    uint64_t ram_pages; /* (c) */
    uint64_t pages;     /* (a) that are in */
};

/* Pages that move the same way, told of in ranges that grow up or down as drivers allocate. */
struct vmci_held_run {
    bool in;
    void (*tell)(void *ctx, uint64_t gpa, uint64_t bytes); /* NULL: nobody wants to know */
    void *ctx;
    uint64_t first, pages, moved;
    const struct vmci_mem_slot *slot;
};

enum vmci_held_result {
    VMCI_HELD_MOVED,
    VMCI_HELD_NO_RAM,
    VMCI_HELD_ALREADY, /* it is where it should go */
};

/* For the RAM there is now. fini takes a zeroed one as well. */
int vmci_held_init(struct vmci_held *h, struct vmc_mem *mem, struct vmc_error *err);
void vmci_held_fini(struct vmci_held *h);
/* The slot of a page of RAM, or NULL. */
const struct vmci_mem_slot *vmci_held_slot(const struct vmci_held *h, uint64_t page);
enum vmci_held_result vmci_held_move(struct vmci_held *h, uint64_t page, struct vmci_held_run *run);
/* The pages of a run are all moved: tell of the last, count them. */
void vmci_held_end(struct vmci_held *h, struct vmci_held_run *run);
/* All pages come out. */
void vmci_held_clear(struct vmci_held *h, void (*tell)(void *ctx, uint64_t gpa, uint64_t bytes),
                     void *ctx);

#endif
