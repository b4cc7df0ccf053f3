/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page walks as the processor makes them: SDM 3A 4.3 (32-bit), 4.4 (PAE), 4.5 (4-level), 4.6
 * (access rights), 4.7 (error codes), 4.8 (accessed and dirty flags).
 *
 * One loop serves all formats; a format is how many levels, how many index bits, and the size of
 * an entry.
 */
#include "mmu/mmu_int.h"

#define PTE_P   0x001ull
#define PTE_W   0x002ull
#define PTE_U   0x004ull
#define PTE_PWT 0x008ull
#define PTE_PCD 0x010ull
#define PTE_A   0x020ull
#define PTE_D   0x040ull
#define PTE_PS  0x080ull
#define PTE_PAT 0x080ull /* of a 4 KiB entry */
#define PTE_G   0x100ull
#define PTE_PAT_LARGE 0x1000ull
#define PTE_NX  (1ull << 63)

/* Of CR3 and PDPTEs: beyond the model's physical addresses there are no tables. */
#define TABLE_ADDR 0x000ffffffffff000ull

#define A20 (1ull << 20)

#define DEFAULT_PHYS_BITS 40
#define MAX_LEVELS        5

struct walker {
    struct vmc_mem *mem;
    const struct vmc_paging *pg;
    uint32_t access;
    unsigned phys_bits;
    uint64_t a20; /* address bits that are not masked */
    bool wide;   /* 8-byte entries */
    bool nx;     /* EFER.NXE */
    bool long_mode;
    struct vmc_walk *out;
    uint64_t gva;
    uint64_t rights_and; /* W and U of every level so far */
    bool exec;
    /* Entries that lack A or D; they get them when nothing can fault any more. */
    struct used {
        uint64_t gpa, entry, set;
    } used[MAX_LEVELS];
    unsigned used_count;
};

static uint64_t a20_mask(const struct vmc_paging *pg)
{
    return (pg->without & VMC_PAGING_NO_A20) != 0 ? ~A20 : ~0ull;
}

static int fault(struct walker *w, uint32_t bits)
{
    uint32_t code = bits;

    if (w->access & VMC_ACC_WRITE)
        code |= VMC_PF_WRITE;
    if (w->access & VMC_ACC_USER)
        code |= VMC_PF_USER;
    if ((w->access & VMC_ACC_FETCH) &&
        (w->nx || (w->pg->cr4 & VMC_CR4_SMEP) != 0))
        code |= VMC_PF_FETCH;
    w->out->fault_code = code;
    return VMC_GUEST_FAULT;
}

/*
 * Table entries are read and updated in host memory. Tables outside RAM read as all ones: a present
 * entry with reserved bits.
 */
static int entry_ptr(struct walker *w, uint64_t gpa, bool write, bool *rom, unsigned char **out)
{
    struct vmci_mem_slot *s = vmci_mem_find(w->mem, gpa);
    struct vmci_page pg;

    *out = NULL;
    if (s == NULL)
        return VMC_OK;
    *rom = s->attr != VMC_MEM_RAM;
    if (s->space == NULL) {
        *out = s->hva + (gpa - s->gpa);
        return VMC_OK;
    }
    int rc = vmci_paged_resolve(s, gpa, write, &pg);
    if (rc != VMC_OK)
        *w->out = (struct vmc_walk){.gpa = gpa, .rights = write ? VMC_RIGHT_WRITE : 0};
    else
        *out = pg.hva + gpa % VMC_PAGE_SIZE;
    return rc;
}

static uint64_t entry_load(struct walker *w, const unsigned char *p)
{
    if (p == NULL)
        return ~0ull;
    if (w->wide)
        return __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_RELAXED);
    return __atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_RELAXED);
}

/* Replace old by new; false when another processor changed the entry meanwhile. */
static bool entry_cas(struct walker *w, unsigned char *p, uint64_t old, uint64_t new)
{
    if (w->wide)
        return __atomic_compare_exchange_n((uint64_t *)(void *)p, &old, new, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    uint32_t old32 = (uint32_t)old;
    return __atomic_compare_exchange_n((uint32_t *)(void *)p, &old32, (uint32_t)new, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* Bits that must be zero in a present entry at a level (1: the 4 KiB level). */
static uint64_t reserved_bits(const struct walker *w, uint64_t entry, unsigned level, bool leaf)
{
    uint64_t rsvd = 0;

    if (!w->wide) {
        /* 4 MiB page: bits 20:13 hold address bits 39:32 with PSE-36, as far as there are such. */
        unsigned top =
            (w->pg->without & VMC_PAGING_NO_PSE36) != 0 ? 32 : VMCI_MIN(w->phys_bits, 40);
        if (leaf && level == 2)
            rsvd |= (1ull << 22) - (1ull << (top - 19));
        return rsvd;
    }
    uint64_t phys_mask = (1ull << w->phys_bits) - 1;
    uint64_t address_top = w->long_mode ? (1ull << 52) - 1 : ~PTE_NX;
    rsvd |= address_top & ~phys_mask;
    if (!w->nx)
        rsvd |= PTE_NX;
    if (level >= 4)
        rsvd |= PTE_PS;
    else if (level == 3 && (entry & PTE_PS) != 0)
        rsvd |= 0x3fffe000ull; /* 1 GiB page: bits 29:13 */
    else if (level == 2 && leaf)
        rsvd |= 0x1fe000ull; /* 2 MiB page: bits 20:13 */
    return rsvd;
}

static bool is_leaf(const struct walker *w, uint64_t entry, unsigned level)
{
    if (level == 1)
        return true;
    if ((entry & PTE_PS) == 0)
        return false;
    if (level == 2)
        return w->wide || (w->pg->cr4 & VMC_CR4_PSE) != 0;
    return level == 3 && w->long_mode && (w->pg->without & VMC_PAGING_NO_1G) == 0;
}

/* SDM 3A 4.6.1. */
static bool allowed(const struct walker *w, bool user_page, bool writable)
{
    bool wp = (w->pg->cr0 & VMC_CR0_WP) != 0;

    if (w->access & VMC_ACC_USER) {
        if (!user_page)
            return false;
        if ((w->access & VMC_ACC_WRITE) && !writable)
            return false;
        return !(w->access & VMC_ACC_FETCH) || w->exec;
    }
    if (w->access & VMC_ACC_FETCH)
        return w->exec && !(user_page && (w->pg->cr4 & VMC_CR4_SMEP) != 0);
    if (user_page && (w->pg->cr4 & VMC_CR4_SMAP) != 0 &&
        (!(w->access & VMC_ACC_AC) || (w->access & VMC_ACC_IMPLICIT)))
        return false;
    return !(w->access & VMC_ACC_WRITE) || writable || !wp;
}

/* Protection keys for user pages (SDM 3A 4.6.2). */
static bool key_allows(const struct walker *w, uint64_t entry, bool user_page)
{
    if (!user_page || !w->long_mode || (w->pg->cr4 & VMC_CR4_PKE) == 0 ||
        (w->access & VMC_ACC_FETCH))
        return true;
    unsigned key = (entry >> 59) & 15;
    bool ad = (w->pg->pkru >> (2 * key)) & 1;
    bool wd = (w->pg->pkru >> (2 * key + 1)) & 1;
    if (ad)
        return false;
    if ((w->access & VMC_ACC_WRITE) && wd)
        return (w->access & VMC_ACC_USER) == 0 && (w->pg->cr0 & VMC_CR0_WP) == 0;
    return true;
}

static void finish(struct walker *w, uint64_t entry, unsigned level, unsigned shift)
{
    struct vmc_walk *out = w->out;
    uint64_t bytes = 1ull << shift;
    uint64_t base;

    if (w->wide)
        base = entry & ((1ull << w->phys_bits) - 1) & ~(bytes - 1);
    else if (level == 2)
        base = (entry & 0xffc00000ull) | ((entry & 0x1fe000ull) << 19);
    else
        base = entry & 0xfffff000ull;
    out->gpa = (base | (w->gva & (bytes - 1))) & w->a20;
    out->page_bytes = bytes;
    out->pat_index = (uint8_t)(((entry & PTE_PWT) ? 1 : 0) | ((entry & PTE_PCD) ? 2 : 0) |
                               ((entry & (level == 1 ? PTE_PAT : PTE_PAT_LARGE)) ? 4 : 0));
    out->pkey = w->wide ? (entry >> 59) & 15 : 0;
    out->rights = ((w->rights_and & PTE_W) ? VMC_RIGHT_WRITE : 0) |
                  ((w->rights_and & PTE_U) ? VMC_RIGHT_USER : 0) | (w->exec ? VMC_RIGHT_EXEC : 0) |
                  ((entry & PTE_D) ? VMC_RIGHT_DIRTY : 0) |
                  (((entry & PTE_G) && (w->pg->cr4 & VMC_CR4_PGE)) ? VMC_RIGHT_GLOBAL : 0);
}

/* Outcome of one level. STEP_CHANGED: another processor changed an entry, walk again. */
enum step { STEP_DOWN, STEP_DONE, STEP_FAULT, STEP_AGAIN, STEP_CHANGED };

/* A walk that faults marks nothing: entries above the one that faults are used, but not accessed. */
static enum step mark_used(struct walker *w)
{
    for (unsigned i = 0; i < w->used_count; i++) {
        const struct used *u = &w->used[i];
        unsigned char *p;
        bool rom;

        if (entry_ptr(w, u->gpa, true, &rom, &p) != VMC_OK)
            return STEP_AGAIN;
        if (p == NULL || rom || !entry_cas(w, p, u->entry, u->entry | u->set))
            return STEP_CHANGED;
        vmci_mem_mark_dirty(w->mem, u->gpa, w->wide ? 8 : 4);
    }
    return STEP_DONE;
}

static enum step walk_level(struct walker *w, uint64_t *table, unsigned level, unsigned shift,
                            unsigned index_bits)
{
    uint64_t index = (w->gva >> shift) & ((1ull << index_bits) - 1);
    uint64_t at = (*table & w->a20) + index * (w->wide ? 8 : 4);
    bool rom = false;
    unsigned char *p;

    if (entry_ptr(w, at, false, &rom, &p) != VMC_OK)
        return STEP_AGAIN;
    uint64_t entry = entry_load(w, p);
    if ((entry & PTE_P) == 0) {
        fault(w, 0);
        return STEP_FAULT;
    }
    bool leaf = is_leaf(w, entry, level);
    if ((entry & reserved_bits(w, entry, level, leaf)) != 0 ||
        (level == 3 && (entry & PTE_PS) != 0 && !leaf)) {
        fault(w, VMC_PF_P | VMC_PF_RSVD);
        return STEP_FAULT;
    }
    w->rights_and &= entry;
    w->exec = w->exec && !(w->nx && w->wide && (entry & PTE_NX) != 0);
    uint64_t set = PTE_A;
    if (leaf) {
        bool user_page = (w->rights_and & PTE_U) != 0;
        bool key = key_allows(w, entry, user_page); /* reported beside other reasons */
        if (!allowed(w, user_page, (w->rights_and & PTE_W) != 0) || !key) {
            fault(w, VMC_PF_P | (key ? 0 : VMC_PF_PK));
            return STEP_FAULT;
        }
        if (w->access & VMC_ACC_WRITE)
            set |= PTE_D;
    }
    if ((entry & set) != set && !rom && (w->access & VMC_ACC_PROBE) == 0) {
        w->used[w->used_count++] = (struct used){.gpa = at, .entry = entry, .set = set};
        entry |= set;
    }
    if (leaf) {
        enum step st = mark_used(w);
        if (st == STEP_DONE)
            finish(w, entry, level, shift);
        return st;
    }
    *table = w->wide ? entry & ((1ull << w->phys_bits) - 1) & ~0xfffull : entry & 0xfffff000ull;
    return STEP_DOWN;
}

static int walk_unpaged(const struct vmc_paging *pg, uint64_t gva, struct vmc_walk *out)
{
    *out = (struct vmc_walk){.gpa = gva & 0xffffffffull & a20_mask(pg),
                             .page_bytes = VMC_PAGE_SIZE,
                             .rights = VMC_RIGHT_WRITE | VMC_RIGHT_USER | VMC_RIGHT_EXEC |
                                       VMC_RIGHT_DIRTY | VMC_RIGHT_GLOBAL};
    return VMC_OK;
}

/* Not a vCPU: wait for tables that have to be brought in. */
int vmc_walk_gva(struct vmc_mem *mem, const struct vmc_paging *pg, uint64_t gva, uint32_t access,
                 struct vmc_walk *out)
{
    for (;;) {
        int rc = vmci_walk_gva(mem, pg, gva, access, out);
        if (rc != VMC_EAGAIN)
            return rc;
        uint64_t at = out->gpa;
        rc = vmci_mem_fault(mem, at, (out->rights & VMC_RIGHT_WRITE) != 0);
        if (rc == VMC_EAGAIN)
            vmci_mem_wait(mem, at);
        else if (rc != VMC_OK)
            return rc;
    }
}

static enum step walk_once(struct vmc_mem *mem, const struct vmc_paging *pg, uint64_t gva,
                           uint32_t access, struct vmc_walk *out)
{
    *out = (struct vmc_walk){0};
    struct walker w = {
        .mem = mem,
        .pg = pg,
        .access = access,
        .phys_bits = pg->phys_bits != 0 ? pg->phys_bits : DEFAULT_PHYS_BITS,
        .a20 = a20_mask(pg),
        .wide = (pg->cr4 & VMC_CR4_PAE) != 0,
        .nx = (pg->efer & VMC_EFER_NX) != 0 && (pg->cr4 & VMC_CR4_PAE) != 0,
        .long_mode = (pg->efer & VMC_EFER_LMA) != 0,
        .out = out,
        .gva = gva,
        .rights_and = PTE_W | PTE_U,
        .exec = true,
    };
    unsigned level;
    unsigned index_bits = w.wide ? 9 : 10;
    uint64_t table;

    if (w.long_mode) {
        level = (pg->cr4 & VMC_CR4_LA57) != 0 ? 5 : 4;
        table = pg->cr3 & TABLE_ADDR;
    } else if (w.wide) {
        w.gva &= 0xffffffffull;
        uint64_t pdpte = pg->pdpte[w.gva >> 30];
        if ((pdpte & PTE_P) == 0) {
            fault(&w, 0);
            return STEP_FAULT;
        }
        level = 2;
        table = pdpte & TABLE_ADDR;
    } else {
        w.gva &= 0xffffffffull;
        level = 2;
        table = pg->cr3 & 0xfffff000ull;
    }
    for (; level >= 1; level--) {
        unsigned shift = VMC_PAGE_SHIFT + (level - 1) * index_bits;
        enum step st = walk_level(&w, &table, level, shift, index_bits);
        if (st != STEP_DOWN)
            return st;
    }
    return STEP_FAULT;
}

int vmci_walk_gva(struct vmc_mem *mem, const struct vmc_paging *pg, uint64_t gva, uint32_t access,
                  struct vmc_walk *out)
{
    enum step st;

    if ((pg->cr0 & VMC_CR0_PG) == 0)
        return walk_unpaged(pg, gva, out);
    do {
        st = walk_once(mem, pg, gva, access, out);
    } while (st == STEP_CHANGED);
    return st == STEP_DONE ? VMC_OK : st == STEP_AGAIN ? VMC_EAGAIN : VMC_GUEST_FAULT;
}

int vmc_walk_load_pdpte(struct vmc_mem *mem, uint64_t cr3, uint32_t phys_bits, uint64_t pdpte[4])
{
    unsigned bits = phys_bits != 0 ? phys_bits : DEFAULT_PHYS_BITS;
    /* SDM 3A table 4-8: bits 2:1, 8:5 and those above MAXPHYADDR are reserved. */
    uint64_t rsvd = 0x1e6ull | ~((1ull << bits) - 1);
    uint64_t got[4];

    if (vmc_mem_read(mem, cr3 & 0xffffffe0ull, got, sizeof(got)) != VMC_OK)
        for (unsigned i = 0; i < 4; i++)
            got[i] = 0;
    for (unsigned i = 0; i < 4; i++)
        if ((got[i] & PTE_P) != 0 && (got[i] & rsvd) != 0)
            return VMC_GUEST_FAULT;
    for (unsigned i = 0; i < 4; i++)
        pdpte[i] = got[i];
    return VMC_OK;
}
