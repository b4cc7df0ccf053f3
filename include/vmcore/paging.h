/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Guest page-table walks from a copied paging context (SDM 3A chapter 4).
 *
 * The walker knows no CPU: the software CPU, MMIO emulation, the debugger and tests all use it.
 */
#ifndef VMCORE_PAGING_H
#define VMCORE_PAGING_H

#include <vmcore/memory.h>

VMC_BEGIN_DECLS

/** What the processor lacks, in vmc_paging.without. */
enum vmc_paging_lack {
    VMC_PAGING_NO_1G = 1u << 0,    /**< pages of 1 GiB (CPUID pdpe1gb): PS is reserved there */
    VMC_PAGING_NO_PSE36 = 1u << 1, /**< 4 MiB pages above 4 GiB (CPUID pse36) */
    VMC_PAGING_NO_A20 = 1u << 2,   /**< address bit 20: it is 0 in every physical address */
};

/** What a walk depends on. */
struct vmc_paging {
    uint64_t cr0, cr3, cr4, efer;
    uint64_t pdpte[4]; /**< the PDPTE registers, for PAE paging outside long mode */
    uint32_t pkru;
    uint32_t phys_bits; /**< MAXPHYADDR; 0 is taken as 40 */
    uint32_t without;   /**< enum vmc_paging_lack */
};

/** Kind of an access. One of READ, WRITE, FETCH, with flags. */
enum vmc_access {
    VMC_ACC_READ = 0,
    VMC_ACC_WRITE = 1u << 0,
    VMC_ACC_FETCH = 1u << 1,
    VMC_ACC_USER = 1u << 2,     /**< CPL 3, not an implicit supervisor access */
    VMC_ACC_AC = 1u << 3,       /**< EFLAGS.AC set and the access explicit: SMAP does not apply */
    VMC_ACC_IMPLICIT = 1u << 4, /**< descriptor table, TSS ...: SMAP applies whatever AC says */
    VMC_ACC_PROBE = 1u << 5,    /**< do not set accessed and dirty bits (debugger) */
};

/** Rights of a translation, in vmc_walk.rights. */
enum vmc_rights {
    VMC_RIGHT_WRITE = 1u << 0, /**< every level allows writing */
    VMC_RIGHT_USER = 1u << 1,
    VMC_RIGHT_EXEC = 1u << 2, /**< no level forbids it */
    VMC_RIGHT_DIRTY = 1u << 3, /**< the leaf is dirty already */
    VMC_RIGHT_GLOBAL = 1u << 4,
};

struct vmc_walk {
    uint64_t gpa;        /**< of the byte */
    uint64_t page_bytes; /**< size of the mapping */
    uint32_t rights;     /**< enum vmc_rights */
    uint32_t fault_code; /**< error code of the #PF, when VMC_GUEST_FAULT */
    uint8_t pat_index;   /**< PAT, PCD, PWT of the leaf */
    uint8_t pkey;
};

/**
 * Translate gva; sets accessed and dirty bits by locked updates as the processor does.
 * 0, VMC_GUEST_FAULT (out->fault_code valid). Any thread.
 */
VMC_API VMC_MUST_CHECK int vmc_walk_gva(struct vmc_mem *mem, const struct vmc_paging *pg,
                                        uint64_t gva, uint32_t access, struct vmc_walk *out);

/**
 * Read the four PDPTEs that CR3 points at. 0, or VMC_GUEST_FAULT when a present one has reserved
 * bits set (the instruction that loads them gets #GP).
 */
VMC_API VMC_MUST_CHECK int vmc_walk_load_pdpte(struct vmc_mem *mem, uint64_t cr3,
                                               uint32_t phys_bits, uint64_t pdpte[4]);

VMC_END_DECLS

#endif
