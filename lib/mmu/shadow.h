/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Shadow page tables, for processors without EPT or NPT: linear to host-physical in one step, made
 * from the guest's own tables as it faults. They are a big TLB (SDM 3C 33.3.5, "virtual TLB"): the
 * guest's tables are not watched, since a guest that changes them has to say so by INVLPG or a
 * write to CR3, CR0 or CR4, all of which reach us. Guests of every paging mode (none, 32-bit, PAE,
 * 4-level) get a 4-level table in long mode and a PAE table otherwise.
 *
 * Belongs to one vCPU and its thread; another thread asks that vCPU to flush.
 */
#ifndef MMU_SHADOW_H
#define MMU_SHADOW_H

#include "mmu/mmu_int.h"

#define VMCI_SHADOW_MAX_PAGES 1024u

struct vmci_shadow_page;

struct vmci_shadow {
    const struct vmc_platform *pf;
    struct vmc_mem *mem;
    uint64_t (*to_phys)(void *ctx, const void *va, uint64_t *run); /* ctx: pf->ctx */
    struct vmci_shadow_page *page; /* VMCI_SHADOW_MAX_PAGES, 0 is the root */
    uint32_t made, used;           /* pages that have memory; that are linked */
    bool long_mode;
    uint64_t root_hpa; /* below 4 GiB: CR3 of PAE paging is 32 bits wide */
    uint64_t fills, flushes;
};

/* VMC_ENOMEM: also when there is no page below 4 GiB. */
int vmci_shadow_init(struct vmci_shadow *sh, const struct vmc_platform *pf, struct vmc_mem *mem,
                     uint64_t (*to_phys)(void *ctx, const void *va, uint64_t *run));
void vmci_shadow_fini(struct vmci_shadow *sh);

/* Drop everything. Pages that could be written are marked dirty once more. */
void vmci_shadow_flush(struct vmci_shadow *sh);
/* The guest enters or leaves long mode; flushes when that is a change. */
void vmci_shadow_mode(struct vmci_shadow *sh, bool long_mode);
void vmci_shadow_invlpg(struct vmci_shadow *sh, uint64_t gva);

enum vmci_shadow_result {
    VMCI_SHADOW_MAPPED,  /* go on */
    VMCI_SHADOW_FAULT,   /* the guest's own page fault: walk.fault_code */
    VMCI_SHADOW_EMULATE, /* a device at walk.gpa, or a write to ROM */
    VMCI_SHADOW_NOMEM,
};
/*
 * The processor faulted at gva. access: enum vmc_access of the access. *flushed says that other
 * translations were dropped to make room: the processor's TLB must be flushed.
 */
enum vmci_shadow_result vmci_shadow_fault(struct vmci_shadow *sh, const struct vmc_paging *pg,
                                          uint64_t gva, uint32_t access, struct vmc_walk *walk,
                                          bool *flushed);
/* The entry for gva, 0 when there is none: for tests and dumps. */
uint64_t vmci_shadow_peek(const struct vmci_shadow *sh, uint64_t gva);

#endif
