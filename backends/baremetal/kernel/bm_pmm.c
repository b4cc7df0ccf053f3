/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Physical pages. One 16-bit word a page says who owns it, so that what a VM took can be counted
 * page by page. Freed pages are filled with a pattern that is checked when they are given out
 * again: a write through a stale pointer or by a stale DMA does not go unnoticed.
 *
 * Small requests come from below, first fit within a region of 2 MiB; large ones are whole regions
 * from above, so that the two do not cut each other up.
 */
#include "bm_int.h"

#define REGION_PAGES 512ull
#define OWNED_MASK   0x7fffu
#define POISONED     0x8000u /* free, and filled with the pattern */
#define NOT_RAM      0x7fffu
#define POISON       0xf4ee0000deadf4eeull
#define LOW_MEMORY   (1ull << 20)
#define LOW_REGIONS  2048u /* below 4 GiB */

extern char bm_image_end[], bm_boot_tables[];

static struct bm_lock pmm_lock;
static uint16_t *page_owner;
static uint16_t *region_free;
static uint64_t page_count, region_count;
static uint64_t ram_pages, free_pages, low_hint;
static uint64_t owned[OWNED_MASK + 1];
static bool poison = true;

/* ---- set-up ------------------------------------------------------------------------------------
 */

struct span {
    uint64_t base, end;
};

static uint64_t image_end_pa(void)
{
    return bm_virt_to_phys(bm_image_end);
}

/* What must not be handed out, entry i; false past the last. */
static bool reserved_span(unsigned i, struct span *s)
{
    if (i == 0)
        *s = (struct span){0, LOW_MEMORY};
    else if (i == 1)
        *s = (struct span){bm_boot.load_pa, image_end_pa()};
    else if (i - 2 < bm_boot.modules)
        *s = (struct span){bm_boot.module[i - 2].pa,
                           bm_boot.module[i - 2].pa + bm_boot.module[i - 2].bytes};
    else
        return false;
    return true;
}

/* Memory for the allocator's own tables. */
static uint64_t early_alloc(uint64_t bytes)
{
    for (unsigned r = 0; r < bm_boot.ranges; r++) {
        if (!bm_boot.range[r].ram)
            continue;
        uint64_t base = (bm_boot.range[r].base + PAGE - 1) & ~(PAGE - 1);
        uint64_t end = bm_boot.range[r].base + bm_boot.range[r].bytes;
        struct span s;
        bool again = true;
        while (again && base + bytes <= end) {
            again = false;
            for (unsigned i = 0; reserved_span(i, &s); i++)
                if (base < s.end && s.base < base + bytes) {
                    base = (s.end + PAGE - 1) & ~(PAGE - 1);
                    again = true;
                }
        }
        if (base + bytes <= end && base + bytes <= 1ull << 32)
            return base;
    }
    bm_panic("no %llu KiB of memory for the page table of the allocator",
             (unsigned long long)bytes >> 10);
}

static void set_range(uint64_t base, uint64_t end, uint16_t owner)
{
    for (uint64_t p = base / PAGE; p < PAGES(end) && p < page_count; p++)
        if (owner == OWNER_FREE || page_owner[p] != NOT_RAM)
            page_owner[p] = owner;
}

static void count_pages(void)
{
    for (uint64_t p = 0; p < page_count; p++) {
        if (page_owner[p] == NOT_RAM)
            continue;
        ram_pages++;
        if (page_owner[p] == OWNER_FREE) {
            free_pages++;
            region_free[p / REGION_PAGES]++;
        } else {
            owned[page_owner[p]]++;
        }
    }
}

void bm_pmm_init(void)
{
    uint64_t top = 0;
    char opt[8];
    struct span s;

    poison = !(bm_boot_option("poison", opt, sizeof(opt)) && opt[0] == '0');
    for (unsigned r = 0; r < bm_boot.ranges; r++)
        if (bm_boot.range[r].ram && bm_boot.range[r].base + bm_boot.range[r].bytes > top)
            top = bm_boot.range[r].base + bm_boot.range[r].bytes;
    region_count = (top / PAGE + REGION_PAGES - 1) / REGION_PAGES;
    page_count = region_count * REGION_PAGES;
    uint64_t bytes = (page_count + region_count) * sizeof(uint16_t);
    uint64_t pa = early_alloc(bytes);
    page_owner = phys_ptr(pa);
    region_free = page_owner + page_count;
    memset(region_free, 0, region_count * sizeof(uint16_t));
    for (uint64_t p = 0; p < page_count; p++)
        page_owner[p] = NOT_RAM;
    for (unsigned r = 0; r < bm_boot.ranges; r++) {
        const struct bm_range *g = &bm_boot.range[r];
        uint64_t first = (g->base + PAGE - 1) & ~(PAGE - 1);
        uint64_t last = (g->base + g->bytes) & ~(PAGE - 1);
        if (g->ram && first < last)
            set_range(first, last, OWNER_FREE);
    }
    for (unsigned r = 0; r < bm_boot.ranges; r++) { /* where entries overlap, "not RAM" wins */
        const struct bm_range *g = &bm_boot.range[r];
        if (!g->ram)
            set_range(g->base & ~(PAGE - 1), g->base + g->bytes, NOT_RAM);
    }
    for (unsigned i = 0; reserved_span(i, &s); i++)
        set_range(s.base & ~(PAGE - 1), s.end, OWNER_KERNEL);
    set_range(pa, pa + bytes, OWNER_KERNEL);
    count_pages();
}

uint64_t bm_low_page(void)
{
    struct span s;

    for (uint64_t pa = 0x8000; pa < 0x9e000; pa += PAGE) {
        bool ok = page_owner[pa / PAGE] != NOT_RAM;
        for (unsigned i = 1; reserved_span(i, &s); i++)
            ok = ok && !(pa < s.end && s.base < pa + PAGE);
        if (ok)
            return pa;
    }
    return 0;
}

/* ---- poison ------------------------------------------------------------------------------------
 */

static void fill(uint64_t pa, uint64_t pages)
{
    void *d = phys_ptr(pa);
    uint64_t n = pages * PAGE / 8;

    __asm__ volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(POISON) : "memory");
}

static void check(uint64_t pa)
{
    const uint64_t *q = phys_ptr(pa);

    for (unsigned i = 0; i < PAGE / 8; i++)
        if (q[i] != POISON)
            bm_panic("free page 0x%llx was written: 0x%llx at offset 0x%x", (unsigned long long)pa,
                     (unsigned long long)q[i], i * 8);
}

/* ---- allocation --------------------------------------------------------------------------------
 */

static void take(uint64_t page, uint64_t pages, uint32_t owner)
{
    for (uint64_t p = page; p < page + pages; p++) {
        /* the flag stays until the pattern was checked */
        page_owner[p] = (uint16_t)((page_owner[p] & POISONED) | owner);
        region_free[p / REGION_PAGES]--;
    }
    free_pages -= pages;
    owned[owner] += pages;
}

static bool is_free(uint64_t page)
{
    return (page_owner[page] & OWNED_MASK) == OWNER_FREE;
}

/* First fit inside one region; page_count: none. */
static uint64_t fit(uint64_t region, uint64_t pages, uint64_t align)
{
    uint64_t first = region * REGION_PAGES;

    for (uint64_t p = first; p + pages <= first + REGION_PAGES; p += align) {
        uint64_t n = 0;
        while (n < pages && is_free(p + n))
            n++;
        if (n == pages)
            return p;
    }
    return page_count;
}

static uint64_t find_small(uint64_t pages, uint64_t align, uint64_t limit)
{
    while (low_hint < region_count && region_free[low_hint] == 0)
        low_hint++;
    for (uint64_t r = low_hint; r < limit; r++) {
        if (region_free[r] < pages)
            continue;
        uint64_t p = fit(r, pages, align);
        if (p != page_count)
            return p;
    }
    return page_count;
}

static uint64_t find_large(uint64_t pages, uint64_t align, uint64_t limit)
{
    uint64_t want = (pages + REGION_PAGES - 1) / REGION_PAGES;
    uint64_t step = align > REGION_PAGES ? align / REGION_PAGES : 1;

    if (want > limit)
        return page_count;
    for (uint64_t r = (limit - want) & ~(step - 1);; r -= step) {
        uint64_t n = 0;
        while (n < want && region_free[r + n] == REGION_PAGES)
            n++;
        if (n == want)
            return r * REGION_PAGES;
        if (r < step)
            return page_count;
    }
}

static uint64_t alloc(uint64_t pages, uint64_t align, uint32_t owner, uint64_t limit)
{
    uint64_t p;

    if (pages == 0 || pages > page_count)
        return 0;
    bm_lock(&pmm_lock);
    if (pages >= REGION_PAGES || align > REGION_PAGES)
        p = find_large(pages, align, limit);
    else
        p = find_small(pages, align, limit);
    if (p != page_count)
        take(p, pages, owner);
    bm_unlock(&pmm_lock);
    if (p == page_count)
        return 0;
    for (uint64_t i = p; i < p + pages; i++)
        if (page_owner[i] & POISONED) {
            check(i * PAGE);
            page_owner[i] &= OWNED_MASK;
        }
    return p * PAGE;
}

uint64_t bm_pages_alloc(uint64_t pages, uint64_t align, uint32_t owner)
{
    return alloc(pages, align != 0 ? align : 1, owner, region_count);
}

uint64_t bm_pages_alloc_low(uint64_t pages, uint32_t owner)
{
    return alloc(pages, 1, owner, region_count < LOW_REGIONS ? region_count : LOW_REGIONS);
}

void bm_pages_free(uint64_t pa, uint64_t pages)
{
    uint64_t first = pa / PAGE;

    if (pa % PAGE != 0 || first >= page_count || pages > page_count - first)
        bm_panic("freeing pages at 0x%llx, which is no memory", (unsigned long long)pa);
    if (poison)
        fill(pa, pages);
    bm_lock(&pmm_lock);
    for (uint64_t p = first; p < first + pages; p++) {
        if (is_free(p) || page_owner[p] == NOT_RAM)
            bm_panic("page 0x%llx is freed twice", (unsigned long long)(p * PAGE));
        owned[page_owner[p]]--;
        page_owner[p] = poison ? POISONED : OWNER_FREE;
        region_free[p / REGION_PAGES]++;
    }
    free_pages += pages;
    if (first / REGION_PAGES < low_hint)
        low_hint = first / REGION_PAGES;
    bm_unlock(&pmm_lock);
}

uint64_t bm_pages_owned(uint32_t owner)
{
    return __atomic_load_n(&owned[owner], __ATOMIC_RELAXED);
}

uint64_t bm_pages_reclaim(uint32_t owner)
{
    uint64_t n = 0;

    if (bm_pages_owned(owner) == 0)
        return 0;
    for (uint64_t p = 0; p < page_count; p++)
        if (page_owner[p] == owner) {
            bm_pages_free(p * PAGE, 1);
            n++;
        }
    return n;
}

void bm_pmm_totals(uint64_t *ram, uint64_t *free)
{
    *ram = ram_pages;
    *free = __atomic_load_n(&free_pages, __ATOMIC_RELAXED);
}
