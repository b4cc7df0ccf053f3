/* SPDX-License-Identifier: BSD-2-Clause */
/* What shadow.c and shadow_cache.c share. */
#ifndef MMU_SHADOW_INT_H
#define MMU_SHADOW_INT_H

#include "mmu/shadow.h"

#define SH_P    0x001ull
#define SH_W    0x002ull
#define SH_U    0x004ull
#define SH_A    0x020ull
#define SH_D    0x040ull
#define SH_PS   0x080ull
#define SH_NX   (1ull << 63)
#define SH_ADDR 0x000ffffffffff000ull

#define SH_ENTRIES 512u

struct vmci_shadow_page {
    uint64_t *pt;
    uint64_t hpa;
    /*
     * Beside each entry. Long mode: the guest's entry that it was made from, or 1 in a piece of a
     * large page. Else, level 1: guest-physical page; level 2: NOTE_*.
     */
    uint64_t *note;
    uint8_t level;
    /* The rest in long mode only. */
    bool dirty;                     /* a piece of a large page whose entry is dirty */
    uint16_t next;                  /* in its chain, as in struct vmci_shadow */
    uint64_t key;                   /* what it stands for (shadow_cache.c) */
    uint64_t base;                  /* guest-physical: the table, or what the piece maps */
    const uint64_t *guest;          /* the guest's table, NULL: a piece, or not to be had */
    uint64_t round;                 /* when it was compared last */
    uint64_t used[SH_ENTRIES / 64]; /* entries that are not 0 */
};

static inline unsigned sh_index(uint64_t gva, unsigned level)
{
    return (unsigned)(gva >> (VMC_PAGE_SHIFT + 9 * (level - 1))) & (SH_ENTRIES - 1);
}

/* A page, empty; NULL: none is left. */
struct vmci_shadow_page *vmci_shadow_take(struct vmci_shadow *sh, unsigned level);

/* ---- shadow_cache.c: long mode --------------------------------------------------------------- */

/* The table of CR3 becomes the root, made or compared. False: no page is left. */
bool vmci_shadow_cache_root(struct vmci_shadow *sh, uint64_t cr3);
void vmci_shadow_cache_invlpg(struct vmci_shadow *sh, uint64_t gva);
/* The level 1 entry for gva with the rights of all levels, or 0. */
uint64_t vmci_shadow_cache_peek(const struct vmci_shadow *sh, uint64_t gva);
/* Put what a walk found into the tables. NOMEM: no page is left. */
enum vmci_shadow_result vmci_shadow_cache_fill(struct vmci_shadow *sh, const struct vmc_paging *pg,
                                               uint64_t gva, const struct vmc_walk *w, uint64_t hpa,
                                               bool may_write);
/* Guest-physical page of an entry of a level 1 page. */
static inline uint64_t sh_leaf_gpa(const struct vmci_shadow *sh, const struct vmci_shadow_page *p,
                                   unsigned i)
{
    if (!sh->long_mode)
        return p->note[i];
    /* No entry of a guest that was used is 1: it is accessed. */
    return p->note[i] == 1 ? p->base + ((uint64_t)i << VMC_PAGE_SHIFT) : p->note[i] & SH_ADDR;
}

#endif
