/* SPDX-License-Identifier: BSD-2-Clause */
#include "mmu/mem_held.h"

int vmci_held_init(struct vmci_held *h, struct vmc_mem *mem, struct vmc_error *err)
{
    struct vmc_mem_slot s;

    *h = (struct vmci_held){.mem = mem};
    for (unsigned i = 0; vmc_mem_slot_at(mem, i, &s) == VMC_OK; i++) {
        if (s.attr != VMC_MEM_RAM)
            continue;
        h->ram_pages += s.bytes >> VMC_PAGE_SHIFT;
        h->limit = (s.gpa + s.bytes) >> VMC_PAGE_SHIFT;
    }
    h->bits = vmci_zalloc(mem->pf, VMCI_BITMAP_WORDS(h->limit) * sizeof(uint64_t));
    if (h->bits == NULL)
        return vmci_error(err, VMC_ENOMEM, "balloon/create", "no memory for a map of %llu pages",
                          (unsigned long long)h->limit);
    return VMC_OK;
}

void vmci_held_fini(struct vmci_held *h)
{
    if (h->bits != NULL)
        vmci_free(h->mem->pf, h->bits, VMCI_BITMAP_WORDS(h->limit) * sizeof(uint64_t));
    h->bits = NULL;
}

const struct vmci_mem_slot *vmci_held_slot(const struct vmci_held *h, uint64_t page)
{
    if (page >= h->limit)
        return NULL;
    const struct vmci_mem_slot *slot = vmci_mem_find(h->mem, page << VMC_PAGE_SHIFT);
    return slot != NULL && slot->attr == VMC_MEM_RAM ? slot : NULL;
}

static void tell_range(struct vmci_held_run *r)
{
    if (r->pages != 0 && r->tell != NULL)
        r->tell(r->ctx, r->first << VMC_PAGE_SHIFT, r->pages << VMC_PAGE_SHIFT);
    r->pages = 0;
}

static void add(struct vmci_held_run *r, uint64_t page, const struct vmci_mem_slot *slot)
{
    r->moved++;
    if (r->pages != 0 && r->slot == slot && page == r->first + r->pages) {
        r->pages++;
    } else if (r->pages != 0 && r->slot == slot && page + 1 == r->first) {
        r->first = page;
        r->pages++;
    } else {
        tell_range(r);
        r->first = page;
        r->pages = 1;
        r->slot = slot;
    }
}

enum vmci_held_result vmci_held_move(struct vmci_held *h, uint64_t page, struct vmci_held_run *run)
{
    const struct vmci_mem_slot *slot = vmci_held_slot(h, page);

    if (slot == NULL)
        return VMCI_HELD_NO_RAM;
    uint64_t mask = VMCI_BIT(page % 64);
    uint64_t *word = &h->bits[page / 64];
    uint64_t old = run->in ? vmci_fetch_or(word, mask) : vmci_fetch_and(word, ~mask);
    if (((old & mask) != 0) == run->in)
        return VMCI_HELD_ALREADY;
    add(run, page, slot);
    return VMCI_HELD_MOVED;
}

void vmci_held_end(struct vmci_held *h, struct vmci_held_run *run)
{
    tell_range(run);
    (void)vmci_fetch_add(&h->pages, run->in ? run->moved : 0 - run->moved);
    run->moved = 0;
}

void vmci_held_clear(struct vmci_held *h, void (*tell)(void *ctx, uint64_t gpa, uint64_t bytes),
                     void *ctx)
{
    struct vmci_held_run run = {.tell = tell, .ctx = ctx};

    for (uint64_t w = 0; w < VMCI_BITMAP_WORDS(h->limit); w++) {
        uint64_t bits = vmci_exchange(&h->bits[w], 0);
        for (; bits != 0; bits &= bits - 1) {
            uint64_t page = w * 64 + (unsigned)__builtin_ctzll(bits);
            add(&run, page, vmci_mem_find(h->mem, page << VMC_PAGE_SHIFT));
        }
    }
    vmci_held_end(h, &run);
}
