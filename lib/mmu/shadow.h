/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Shadow page tables, for processors without EPT or NPT: linear to host-physical, made from the
 * guest's own tables as it faults. They are a big TLB (SDM 3C 33.3.5, "virtual TLB"): the guest's
 * tables are not watched, since a guest that changes them has to say so by INVLPG or a write to
 * CR3, CR0 or CR4, all of which reach us. Guests of every paging mode (none, 32-bit, PAE, 4-level)
 * get a 4-level table in long mode and a PAE table otherwise.
 *
 * A TLB may keep what is still true. In long mode every shadow table stands for one table of the
 * guest and has a copy of each guest entry that it used; when the guest flushes, the copies are
 * compared with what they were made from, and only entries that differ go (shadow_cache.c). So a
 * change of CR3 costs a look at what was in use, and finds the tables of earlier processes again.
 * In the other modes a flush drops everything.
 *
 * Belongs to one vCPU and its thread; another thread asks that vCPU to flush.
 */
#ifndef MMU_SHADOW_H
#define MMU_SHADOW_H

#include "mmu/mmu_int.h"

#define VMCI_SHADOW_MAX_PAGES 1024u
#define VMCI_SHADOW_CHAINS    256u

struct vmci_shadow_page;

struct vmci_shadow {
    const struct vmc_platform *pf;
    struct vmc_mem *mem;
    uint64_t (*to_phys)(void *ctx, const void *va, uint64_t *run); /* ctx: pf->ctx */
    struct vmci_shadow_page *page; /* VMCI_SHADOW_MAX_PAGES; 0 is the root outside long mode */
    uint32_t limit;                /* pages that may be used */
    uint32_t made, used;           /* pages that have memory; that are in use */
    uint32_t root;                 /* index of the root */
    bool long_mode;
    bool opaque;       /* a table of the guest lies in memory that moves: nothing can be compared */
    uint64_t cr3;      /* long mode: the guest's, of the root */
    uint64_t root_hpa; /* for CR3; outside long mode below 4 GiB: it is 32 bits wide there */
    uint64_t round;    /* of comparisons */
    uint64_t fills, ahead, flushes, kept; /* kept: roots found again */
    uint16_t chain[VMCI_SHADOW_CHAINS];   /* 1 + index of the first page with that hash; 0: none */
};

/* VMC_ENOMEM: also when there is no page below 4 GiB. */
int vmci_shadow_init(struct vmci_shadow *sh, const struct vmc_platform *pf, struct vmc_mem *mem,
                     uint64_t (*to_phys)(void *ctx, const void *va, uint64_t *run));
void vmci_shadow_fini(struct vmci_shadow *sh);

/* Drop everything. Pages that could be written are marked dirty once more. */
void vmci_shadow_flush(struct vmci_shadow *sh);
/*
 * The guest has flushed its TLB, and this is its CR3 now. It may have entered or left long mode.
 * root_hpa may change.
 */
void vmci_shadow_load(struct vmci_shadow *sh, bool long_mode, uint64_t cr3);
void vmci_shadow_invlpg(struct vmci_shadow *sh, uint64_t gva);

enum vmci_shadow_result {
    VMCI_SHADOW_MAPPED,  /* go on */
    VMCI_SHADOW_FAULT,   /* the guest's own page fault: walk.fault_code */
    VMCI_SHADOW_EMULATE, /* a device at walk.gpa, a write to ROM, or rights that cannot be shown */
    VMCI_SHADOW_ABSENT,  /* the page at walk.gpa has to be brought in first */
    VMCI_SHADOW_NOMEM,
};
/*
 * The processor faulted at gva. access: enum vmc_access of the access. *flushed says that other
 * translations were dropped to make room, or that root_hpa is another: the processor's TLB must be
 * flushed.
 */
enum vmci_shadow_result vmci_shadow_fault(struct vmci_shadow *sh, const struct vmc_paging *pg,
                                          uint64_t gva, uint32_t access, struct vmc_walk *walk,
                                          bool *flushed);
/* The entry for gva, 0 when there is none: for tests and dumps. */
uint64_t vmci_shadow_peek(const struct vmci_shadow *sh, uint64_t gva);

#endif
