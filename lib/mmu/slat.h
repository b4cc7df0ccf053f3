/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Second-level address translation: the tables by which a processor turns guest-physical into
 * host-physical addresses. One algorithm builds EPT (SDM 3C 29.3) and NPT (APM 2 15.25); a format
 * says how an entry is encoded.
 *
 * Tables are changed under the owner's lock, with the processors that use them running: entries are
 * written whole, a table is filled before it is linked, and it is freed only by vmci_slat_reclaim,
 * after the owner has made every processor drop what it cached. Whoever lowers a right therefore
 * collects all changes first, flushes once, and reclaims.
 */
#ifndef MMU_SLAT_H
#define MMU_SLAT_H

#include "mmu/mmu_int.h"

/* Rights. */
#define VMCI_SLAT_R 1u
#define VMCI_SLAT_W 2u
#define VMCI_SLAT_X 4u

/* Memory types, encoded as in MTRRs and EPT. */
#define VMCI_MT_UC 0u
#define VMCI_MT_WB 6u

/* What an entry is. */
enum vmci_slat_kind {
    VMCI_SLAT_NONE,
    VMCI_SLAT_TABLE,
    VMCI_SLAT_LEAF,
    VMCI_SLAT_MMIO, /* a leaf that exits at once: EPT misconfiguration */
};

struct vmci_slat_format {
    const char *name;
    uint64_t (*leaf)(uint64_t hpa, unsigned level, uint32_t rights, unsigned memtype);
    uint64_t (*table)(uint64_t hpa);
    uint64_t mmio; /* entry of a page that is a device's; 0: the format has none */
    uint64_t accessed, dirty;
    uint64_t write; /* the bit that allows writing */
    enum vmci_slat_kind (*kind)(uint64_t entry, unsigned level);
    uint32_t (*rights)(uint64_t entry);
};
extern const struct vmci_slat_format vmci_ept_format, vmci_npt_format;

struct vmci_slat {
    const struct vmc_platform *pf;
    const struct vmci_slat_format *fmt;
    unsigned max_level; /* of a leaf: 1 4 KiB, 2 2 MiB, 3 1 GiB */
    bool ad;            /* the processor maintains accessed and dirty bits */
    uint64_t *root;
    uint64_t root_hpa;
    uint64_t tables; /* pages in use, the root included */
    uint64_t *last;  /* leaf table of the last 4 KiB page mapped, which covers last_2m; or NULL */
    uint64_t last_2m;
    uint64_t small[8];  /* leaf of 4 KiB of write-back memory at address 0, by rights */
    void *garbage;      /* unlinked tables, chained through their first word */
    uint64_t leaves[5]; /* number of leaves by level, 1 to 4 (level 4 has none) */
};

struct vmci_slat_entry {
    enum vmci_slat_kind kind; /* NONE, LEAF or MMIO */
    unsigned level;
    uint32_t rights;
    uint64_t hpa; /* of the byte asked for, LEAF only */
    bool accessed, dirty;
};

/* VMC_ENOMEM. */
int vmci_slat_init(struct vmci_slat *s, const struct vmc_platform *pf,
                   const struct vmci_slat_format *fmt, unsigned max_level, bool ad);
/* No processor uses the tables any more. */
void vmci_slat_fini(struct vmci_slat *s);

/*
 * Map the page of 4096 << 9 * (level - 1) bytes at gpa (aligned, as is hpa). Replaces what was
 * there, but for what processors noted of the same page (accessed, dirty); a larger leaf around it
 * is split, smaller ones under it are dropped. 1: rights that existed were lowered or moved, so
 * processors must be flushed; 0: need not; VMC_ENOMEM: not mapped, but a leaf around it may have
 * been split, so they must be.
 */
int vmci_slat_map(struct vmci_slat *s, uint64_t gpa, uint64_t hpa, unsigned level, uint32_t rights,
                  unsigned memtype);
/*
 * The short way of vmci_slat_map for a 4 KiB page of write-back memory: done when the last page was
 * mapped in the same table, and nothing is at this one. False: go the long way.
 */
static inline bool vmci_slat_fill(struct vmci_slat *s, uint64_t gpa, uint64_t hpa, uint32_t rights)
{
    uint64_t *e;

    if (s->last == NULL || s->last_2m != gpa >> 21)
        return false;
    e = &s->last[(gpa >> VMC_PAGE_SHIFT) & 511];
    if (vmci_load_relaxed(e) != 0)
        return false;
    vmci_store_release(e, hpa | s->small[rights & 7]);
    s->leaves[1]++;
    return true;
}
/* Make the 4 KiB page exit as a device's. Like map; VMC_ENOTSUP when the format cannot. */
int vmci_slat_map_mmio(struct vmci_slat *s, uint64_t gpa);
struct vmci_slat_entry vmci_slat_lookup(const struct vmci_slat *s, uint64_t gpa);

/* What a visitor does with a leaf. */
enum vmci_slat_op {
    VMCI_SLAT_UNMAP,   /* and everything under it */
    VMCI_SLAT_PROTECT, /* take the right to write */
    VMCI_SLAT_CLEAN,   /* clear the dirty bit */
    VMCI_SLAT_AGE,     /* clear the accessed bit */
};
/*
 * Apply op to every leaf that touches [gpa, gpa + bytes) (bytes 0: all). Large leaves that reach
 * beyond it are split for PROTECT and CLEAN, and go as a whole for UNMAP and AGE. seen, if not
 * NULL, is told of each leaf that had what op takes: present (and was it writable or, with A/D
 * bits, dirty), writable, dirty, accessed. Returns 1 when processors must be flushed, 0, or
 * VMC_ENOMEM (a split failed: the leaf was unmapped instead, which is safe, and 1 is returned).
 */
typedef void vmci_slat_seen(void *ctx, uint64_t gpa, uint64_t bytes, bool written);
int vmci_slat_range(struct vmci_slat *s, enum vmci_slat_op op, uint64_t gpa, uint64_t bytes,
                    vmci_slat_seen *seen, void *ctx);
/*
 * Unmap the leaves of the range that stale says no longer map what they should, and every device
 * page. Returns and tells as vmci_slat_range.
 */
typedef bool vmci_slat_stale(void *ctx, uint64_t gpa, unsigned level, uint64_t hpa,
                             uint32_t rights);
int vmci_slat_recheck(struct vmci_slat *s, uint64_t gpa, uint64_t bytes, vmci_slat_stale *stale,
                      vmci_slat_seen *seen, void *ctx);
/*
 * Put 512 leaves under the 2 MiB or 1 GiB page (level 2 or 3) of gpa back together, when they map
 * contiguous memory with equal rights. 1: merged, flush before reclaim; 0: they do not.
 */
int vmci_slat_merge(struct vmci_slat *s, uint64_t gpa, unsigned level);
/* Free unlinked tables; every processor has been flushed since. */
void vmci_slat_reclaim(struct vmci_slat *s);

#endif
