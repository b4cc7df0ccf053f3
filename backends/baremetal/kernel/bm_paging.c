/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The kernel's address space. No page is both writable and executable at one address, and code has
 * one alias at most that is writable: the second view of generated code. Nothing is mapped one to
 * one. Stacks and other mappings made on demand have unmapped pages on either side.
 */
#include "bm_int.h"

#define PTE_P   (1ull << 0)
#define PTE_W   (1ull << 1)
#define PTE_PWT (1ull << 3)
#define PTE_PCD (1ull << 4)
#define PTE_PS  (1ull << 7)
#define PTE_NX  (1ull << 63)
#define PTE_PA  0x000ffffffffff000ull
#define LARGE   (2ull << 20)

extern char bm_text_start[], bm_text_end[], bm_rodata_start[], bm_rodata_end[], bm_data_start[],
    bm_image_end[], bm_image_start[];

uint64_t bm_kernel_cr3;
static uint64_t nx = PTE_NX;
static bool low_tables = true; /* until the final tables are in force only 4 GiB are mapped */

static uint64_t *table_of(uint64_t entry)
{
    return phys_ptr(entry & PTE_PA);
}

static uint64_t new_table(void)
{
    uint64_t pa =
        low_tables ? bm_pages_alloc_low(1, OWNER_KERNEL) : bm_pages_alloc(1, 1, OWNER_KERNEL);
    if (pa == 0)
        bm_panic("out of memory for page tables");
    memset(phys_ptr(pa), 0, PAGE);
    return pa;
}

/* The entry for va at level (0: 4 KiB, 1: 2 MiB), tables made on the way; NULL: a large page. */
static uint64_t *walk(uint64_t root, uint64_t va, unsigned level, bool make)
{
    uint64_t *t = phys_ptr(root);

    for (unsigned l = 3;; l--) {
        uint64_t *e = &t[va >> (12 + 9 * l) & 511];
        if (l == level)
            return e;
        if ((*e & PTE_P) == 0) {
            if (!make)
                return NULL;
            *e = new_table() | PTE_P | PTE_W;
        } else if (*e & PTE_PS) {
            return NULL;
        }
        t = table_of(*e);
    }
}

static uint64_t prot_bits(unsigned flags)
{
    return PTE_P | (flags & MAP_WRITE ? PTE_W : 0) | (flags & MAP_EXEC ? 0 : nx) |
           (flags & MAP_UC ? PTE_PCD | PTE_PWT : 0);
}

static void map(uint64_t root, uint64_t va, uint64_t pa, uint64_t bytes, unsigned flags, bool large)
{
    uint64_t bits = prot_bits(flags);

    for (uint64_t off = 0; off < bytes;) {
        if (large && (va + off) % LARGE == 0 && (pa + off) % LARGE == 0 && bytes - off >= LARGE) {
            *walk(root, va + off, 1, true) = (pa + off) | bits | PTE_PS;
            off += LARGE;
        } else {
            uint64_t *e = walk(root, va + off, 0, true);
            if (e != NULL) /* else entries of the memory map overlap: it is mapped already */
                *e = (pa + off) | bits;
            off += PAGE;
        }
    }
}

uint64_t bm_virt_to_phys(const void *p)
{
    uint64_t va = (uint64_t)p;

    if (va >= IMAGE_BASE)
        return va - IMAGE_BASE - LARGE + bm_boot.load_pa;
    if (va >= PHYSMAP_BASE && va < VMAP_BASE)
        return va - PHYSMAP_BASE;
    const uint64_t *e = walk(bm_kernel_cr3, va, 0, false);
    if (e == NULL || (*e & PTE_P) == 0)
        bm_panic("no physical address for %p", p);
    return (*e & PTE_PA) | (va & (PAGE - 1));
}

bool bm_mapped(uint64_t va)
{
    uint64_t *t = phys_ptr(bm_kernel_cr3);

    if (bm_kernel_cr3 == 0 || (int64_t)va >> 47 != -1)
        return false;
    for (unsigned l = 3;; l--) {
        uint64_t e = t[va >> (12 + 9 * l) & 511];
        if ((e & PTE_P) == 0)
            return false;
        if (l == 0 || (e & PTE_PS) != 0)
            return true;
        t = table_of(e);
    }
}

/* ---- the fixed part -----------------------------------------------------------------------------
 */

/* RAM from first to last, except what lies in the image, which is mapped by map_image_alias. */
static void map_ram(uint64_t root, uint64_t first, uint64_t last)
{
    uint64_t lo = bm_virt_to_phys(bm_image_start) & ~(PAGE - 1);
    uint64_t hi = bm_virt_to_phys(bm_rodata_end);

    if (first < lo)
        map(root, PHYSMAP_BASE + first, first, (last < lo ? last : lo) - first, MAP_WRITE, true);
    if (last > hi) {
        uint64_t from = first > hi ? first : hi;
        map(root, PHYSMAP_BASE + from, from, last - from, MAP_WRITE, true);
    }
}

static void map_section(uint64_t root, char *start, char *end, unsigned flags)
{
    map(root, (uint64_t)start, bm_virt_to_phys(start), (uint64_t)(end - start), flags, false);
}

void bm_paging_init(void)
{
    uint32_t r[4];

    cpuid(0x80000001u, 0, r);
    if ((r[3] & (1u << 20)) == 0)
        nx = 0;
    uint64_t root = new_table();
    for (unsigned i = 0; i < bm_boot.ranges; i++) {
        const struct bm_range *g = &bm_boot.range[i];
        uint64_t first = (g->base + PAGE - 1) & ~(PAGE - 1);
        uint64_t last = (g->base + g->bytes) & ~(PAGE - 1);
        if (g->ram && first < last)
            map_ram(root, first, last);
    }
    /* code and constants, seen through the map of all memory: read-only there too */
    map(root, PHYSMAP_BASE + bm_virt_to_phys(bm_image_start), bm_virt_to_phys(bm_image_start),
        (uint64_t)(bm_rodata_end - bm_image_start), 0, false);
    map_section(root, bm_text_start, bm_text_end, MAP_EXEC);
    map_section(root, bm_rodata_start, bm_rodata_end, 0);
    map_section(root, bm_data_start, bm_image_end, MAP_WRITE);
    (void)walk(root, VMAP_BASE, 2, true); /* shared by every copy of the root from now on */
    bm_kernel_cr3 = root;
    write_cr3(root);
    low_tables = false;
}

uint64_t bm_paging_trampoline(uint64_t pa)
{
    low_tables = true; /* other CPUs load it in 32-bit code */
    uint64_t root = new_table();
    memcpy(phys_ptr(root), phys_ptr(bm_kernel_cr3), PAGE);
    map(root, pa, pa, PAGE, MAP_WRITE | MAP_EXEC, false);
    low_tables = false;
    return root;
}

void bm_paging_trampoline_free(uint64_t root)
{
    uint64_t *l4 = phys_ptr(root);
    uint64_t *l3 = table_of(l4[0]);
    uint64_t *l2 = table_of(l3[0]);

    bm_pages_free(l2[0] & PTE_PA, 1);
    bm_pages_free(l3[0] & PTE_PA, 1);
    bm_pages_free(l4[0] & PTE_PA, 1);
    bm_pages_free(root, 1);
}

/* ---- mappings on demand ------------------------------------------------------------------------
 */

struct area {
    struct area *next;
    uint64_t va, pages; /* guard pages included */
};
static struct area *areas; /* ascending */
static struct bm_lock vmap_lock;

/* A gap of that many pages; NULL: none. */
static struct area *new_area(uint64_t pages)
{
    struct area **link = &areas;
    uint64_t va = VMAP_BASE;
    struct area *a = bm_heap_alloc(bm_kernel_heap, sizeof(*a), 16);

    if (a == NULL)
        return NULL;
    while (*link != NULL && (*link)->va - va < pages * PAGE) {
        va = (*link)->va + (*link)->pages * PAGE;
        link = &(*link)->next;
    }
    if (va + pages * PAGE > VMAP_BASE + VMAP_BYTES) {
        bm_heap_free(bm_kernel_heap, a, sizeof(*a), 16);
        return NULL;
    }
    *a = (struct area){.next = *link, .va = va, .pages = pages};
    *link = a;
    return a;
}

void *bm_vmap(uint64_t pa, uint64_t pages, unsigned flags)
{
    bm_lock(&vmap_lock);
    struct area *a = new_area(pages + 2);
    if (a != NULL)
        map(bm_kernel_cr3, a->va + PAGE, pa, pages * PAGE, flags, false);
    bm_unlock(&vmap_lock);
    return a != NULL ? (void *)(a->va + PAGE) : NULL;
}

void bm_vunmap(void *p, uint64_t pages)
{
    uint64_t va = (uint64_t)p;

    bm_lock(&vmap_lock);
    struct area **link = &areas;
    while (*link != NULL && (*link)->va != va - PAGE)
        link = &(*link)->next;
    struct area *a = *link;
    if (a == NULL || a->pages != pages + 2)
        bm_panic("unmapping %p, which was never mapped", p);
    for (uint64_t i = 0; i < pages; i++) {
        *walk(bm_kernel_cr3, va + i * PAGE, 0, false) = 0;
        invlpg(va + i * PAGE);
    }
    bm_unlock(&vmap_lock);
    bm_tlb_shootdown(); /* before the addresses are used again */
    bm_lock(&vmap_lock);
    for (link = &areas; *link != a;)
        link = &(*link)->next;
    *link = a->next;
    bm_unlock(&vmap_lock);
    bm_heap_free(bm_kernel_heap, a, sizeof(*a), 16);
}

void *bm_mmio_map(uint64_t pa, uint64_t bytes)
{
    uint64_t off = pa & (PAGE - 1);
    char *va = bm_vmap(pa - off, PAGES(off + bytes), MAP_WRITE | MAP_UC);

    if (va == NULL)
        bm_panic("no address space for registers at 0x%llx", (unsigned long long)pa);
    return va + off;
}
