/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The dirty log: one bitmap a slot and client; free of cost while no client is started. A bitmap
 * stays for as long as its slot: vCPUs are quiet when a log ends, but a request of a device that
 * ends just then may be marking pages.
 */
#include "mmu/mmu_int.h"

static size_t map_words(const struct vmci_mem_slot *s)
{
    return VMCI_BITMAP_WORDS(s->bytes >> VMC_PAGE_SHIFT);
}

static bool started(const struct vmc_mem *mem, unsigned client)
{
    return client < VMC_DIRTY_CLIENTS &&
           (vmci_load_relaxed(&mem->dirty_clients) & (1u << client)) != 0;
}

/* Every page of a slot is dirty for the client. */
static int all_dirty(struct vmc_mem *mem, struct vmci_mem_slot *s, unsigned client)
{
    uint64_t *map = s->dirty[client];

    if (map == NULL) {
        map = vmci_zalloc(mem->pf, map_words(s) * sizeof(uint64_t));
        if (map == NULL)
            return VMC_ENOMEM;
    }
    for (size_t w = 0; w < map_words(s); w++)
        vmci_store_relaxed(&map[w], ~0ull);
    vmci_store_release(&s->dirty[client], map);
    return VMC_OK;
}

int vmc_mem_dirty_start(struct vmc_mem *mem, unsigned client)
{
    if (client >= VMC_DIRTY_CLIENTS)
        return VMC_EINVAL;
    if (started(mem, client))
        return VMC_EBUSY;
    for (unsigned i = 0; i < mem->count; i++) {
        int rc = all_dirty(mem, &mem->slot[i], client);
        if (rc != VMC_OK)
            return rc;
    }
    vmci_fetch_or(&mem->dirty_clients, 1u << client);
    vmci_mem_notify_flush(mem, 0, 0);
    return VMC_OK;
}

void vmc_mem_dirty_stop(struct vmc_mem *mem, unsigned client)
{
    if (started(mem, client))
        vmci_fetch_and(&mem->dirty_clients, ~(1u << client));
}

/* The client's words for a range, or NULL with *rc set. */
static uint64_t *range_words(struct vmc_mem *mem, unsigned client, uint64_t gpa, uint64_t pages,
                             size_t words, int *rc)
{
    struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);

    *rc = VMC_ERANGE;
    if (client >= VMC_DIRTY_CLIENTS || s == NULL || gpa % VMC_PAGE_SIZE != 0)
        return NULL;
    uint64_t first = (gpa - s->gpa) >> VMC_PAGE_SHIFT;
    if (first % 64 != 0 || !vmci_range_ok(first, pages, s->bytes >> VMC_PAGE_SHIFT) ||
        words < VMCI_BITMAP_WORDS(pages))
        return NULL;
    *rc = started(mem, client) ? VMC_OK : VMC_ESTATE;
    return *rc == VMC_OK ? s->dirty[client] + first / 64 : NULL;
}

/* The bits of word w that belong to the first `pages` pages. */
static uint64_t word_mask(uint64_t pages, size_t w)
{
    uint64_t left = pages - w * 64;
    return left >= 64 ? ~0ull : (1ull << left) - 1;
}

int vmc_mem_dirty_take(struct vmc_mem *mem, unsigned client, uint64_t gpa, uint64_t pages,
                       uint64_t *bitmap, size_t words)
{
    int rc;
    uint64_t *map = range_words(mem, client, gpa, pages, words, &rc);
    uint64_t any = 0;

    if (map == NULL)
        return rc;
    for (size_t w = 0; w < VMCI_BITMAP_WORDS(pages); w++) {
        uint64_t mask = word_mask(pages, w);
        bitmap[w] = vmci_load_relaxed(&map[w]) & mask;
        if (bitmap[w] != 0)
            bitmap[w] = vmci_fetch_and(&map[w], ~mask) & mask;
        any |= bitmap[w];
    }
    /* A page may still be written through a cached pointer: engines re-mark those as they flush. */
    if (any != 0)
        vmci_mem_notify_flush(mem, gpa, pages << VMC_PAGE_SHIFT);
    return VMC_OK;
}

int vmc_mem_dirty_merge(struct vmc_mem *mem, unsigned client, uint64_t gpa, uint64_t pages,
                        const uint64_t *bitmap, size_t words)
{
    int rc;
    uint64_t *map = range_words(mem, client, gpa, pages, words, &rc);

    if (map == NULL)
        return rc;
    for (size_t w = 0; w < VMCI_BITMAP_WORDS(pages); w++) {
        uint64_t bits = bitmap[w] & word_mask(pages, w);
        if (bits != 0)
            vmci_fetch_or(&map[w], bits);
    }
    return VMC_OK;
}
