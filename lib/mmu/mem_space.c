/* SPDX-License-Identifier: BSD-2-Clause */
/* The map of guest-physical memory: slots and who listens to changes. */
#include "mmu/mmu_int.h"

static const char site[] = "mem/add";

int vmc_mem_create(const struct vmc_platform *pf, struct vmc_mem **out, struct vmc_error *err)
{
    int rc = vmc_platform_check(pf, err);
    if (rc != VMC_OK)
        return rc;
    struct vmc_mem *mem = vmci_zalloc(pf, sizeof(*mem));
    if (mem == NULL)
        return vmci_error(err, VMC_ENOMEM, "mem/create", "no memory for the memory map");
    mem->pf = pf;
    rc = vmci_lock_init(&mem->lock, pf);
    if (rc != VMC_OK) {
        vmci_free(pf, mem, sizeof(*mem));
        return vmci_error(err, rc, "mem/create", "cannot create a lock");
    }
    *out = mem;
    return VMC_OK;
}

static uint64_t slot_pages(const struct vmci_mem_slot *s)
{
    return s->bytes >> VMC_PAGE_SHIFT;
}

static size_t dirty_bytes(const struct vmci_mem_slot *s)
{
    return VMCI_BITMAP_WORDS(slot_pages(s)) * sizeof(uint64_t);
}

static void slot_free(struct vmc_mem *mem, struct vmci_mem_slot *s)
{
    for (unsigned c = 0; c < VMC_DIRTY_CLIENTS; c++)
        vmci_free(mem->pf, s->dirty[c], dirty_bytes(s));
    vmci_free(mem->pf, s->flags, slot_pages(s));
    if (s->owned)
        vmci_free_aligned(mem->pf, s->hva, s->bytes, VMC_PAGE_SIZE);
    memset(s, 0, sizeof(*s));
}

void vmc_mem_destroy(struct vmc_mem *mem)
{
    if (mem == NULL)
        return;
    for (unsigned i = 0; i < mem->count; i++)
        slot_free(mem, &mem->slot[i]);
    vmci_lock_fini(&mem->lock);
    vmci_free(mem->pf, mem, sizeof(*mem));
}

static int check_slot(const struct vmc_mem *mem, const struct vmc_mem_slot *slot,
                      struct vmc_error *err)
{
    if (slot->size != sizeof(*slot))
        return vmci_error(err, VMC_EINVAL, site, "slot.size is %u, expected %zu", slot->size,
                          sizeof(*slot));
    if (slot->attr != VMC_MEM_RAM && slot->attr != VMC_MEM_ROM)
        return vmci_error(err, VMC_EINVAL, site, "slot.attr 0x%x is neither RAM nor ROM",
                          slot->attr);
    if (slot->bytes == 0 || slot->bytes % VMC_PAGE_SIZE != 0 || slot->gpa % VMC_PAGE_SIZE != 0 ||
        (uintptr_t)slot->backing % VMC_PAGE_SIZE != 0)
        return vmci_error(err, VMC_EINVAL, site,
                          "slot at 0x%lx, 0x%lx bytes: not a whole number of aligned pages",
                          (unsigned long)slot->gpa, (unsigned long)slot->bytes);
    if (slot->space != NULL &&
        (slot->backing != NULL || slot->attr != VMC_MEM_RAM ||
         !vmci_range_ok(slot->space_page, slot->bytes >> VMC_PAGE_SHIFT,
                        slot->space->pages) ||
         slot->space->provider != vmc_mem_provider() || slot->space->provider_ctx != mem))
        return vmci_error(err, VMC_EINVAL, site,
                          "slot at 0x%lx: the space is too small, not of this map, or not alone",
                          (unsigned long)slot->gpa);
    if (!vmci_range_ok(slot->gpa, slot->bytes, 1ull << VMC_GPA_BITS))
        return vmci_error(err, VMC_ERANGE, site, "slot at 0x%lx, 0x%lx bytes: beyond %d bits",
                          (unsigned long)slot->gpa, (unsigned long)slot->bytes, VMC_GPA_BITS);
    if (mem->count == VMC_MEM_MAX_SLOTS)
        return vmci_error(err, VMC_ELIMIT, site, "more than %d slots", VMC_MEM_MAX_SLOTS);
    for (unsigned i = 0; i < mem->count; i++) {
        const struct vmci_mem_slot *s = &mem->slot[i];
        if (slot->gpa < s->gpa + s->bytes && s->gpa < slot->gpa + slot->bytes)
            return vmci_error(err, VMC_EEXIST, site,
                              "slot at 0x%lx, 0x%lx bytes overlaps the slot at 0x%lx",
                              (unsigned long)slot->gpa, (unsigned long)slot->bytes,
                              (unsigned long)s->gpa);
    }
    return VMC_OK;
}

static int slot_alloc(struct vmc_mem *mem, struct vmci_mem_slot *s, void *backing)
{
    const struct vmc_platform *pf = mem->pf;

    s->flags = vmci_zalloc(pf, slot_pages(s));
    if (s->flags == NULL)
        return VMC_ENOMEM;
    for (unsigned c = 0; c < VMC_DIRTY_CLIENTS; c++) {
        if ((mem->dirty_clients & (1u << c)) == 0)
            continue;
        s->dirty[c] = vmci_zalloc(pf, dirty_bytes(s));
        if (s->dirty[c] == NULL)
            return VMC_ENOMEM;
        memset(s->dirty[c], 0xff, dirty_bytes(s));
    }
    s->hva = backing;
    if (backing == NULL && s->space == NULL) {
        s->hva = vmci_alloc_aligned(pf, s->bytes, VMC_PAGE_SIZE);
        if (s->hva == NULL)
            return VMC_ENOMEM;
        s->owned = true;
        memset(s->hva, 0, s->bytes);
    }
    return VMC_OK;
}

int vmc_mem_add(struct vmc_mem *mem, const struct vmc_mem_slot *slot, struct vmc_error *err)
{
    int rc = check_slot(mem, slot, err);
    if (rc != VMC_OK)
        return rc;

    struct vmci_mem_slot s = {.gpa = slot->gpa, .bytes = slot->bytes, .attr = slot->attr,
                              .space = slot->space, .space_page = slot->space_page};
    rc = slot_alloc(mem, &s, slot->backing);
    if (rc != VMC_OK) {
        slot_free(mem, &s);
        return vmci_error(err, rc, site, "no memory for a slot of 0x%lx bytes",
                          (unsigned long)slot->bytes);
    }
    vmci_lock(&mem->lock);
    unsigned at = mem->count;
    while (at > 0 && mem->slot[at - 1].gpa > s.gpa) {
        mem->slot[at] = mem->slot[at - 1];
        at--;
    }
    mem->slot[at] = s;
    mem->count++;
    vmci_unlock(&mem->lock);
    vmci_mem_notify_flush(mem, 0, 0);
    return VMC_OK;
}

int vmc_mem_remove(struct vmc_mem *mem, uint64_t gpa)
{
    for (unsigned i = 0; i < mem->count; i++) {
        if (mem->slot[i].gpa != gpa)
            continue;
        struct vmci_mem_slot old = mem->slot[i];
        vmci_lock(&mem->lock);
        memmove(&mem->slot[i], &mem->slot[i + 1], (mem->count - i - 1) * sizeof(mem->slot[0]));
        mem->count--;
        vmci_unlock(&mem->lock);
        vmci_mem_notify_code(mem, old.gpa, old.bytes);
        vmci_mem_notify_flush(mem, 0, 0);
        slot_free(mem, &old);
        return VMC_OK;
    }
    return VMC_ENOENT;
}

int vmc_mem_slot_at(const struct vmc_mem *mem, unsigned index, struct vmc_mem_slot *out)
{
    if (index >= mem->count)
        return VMC_ENOENT;
    const struct vmci_mem_slot *s = &mem->slot[index];
    *out = (struct vmc_mem_slot){
        .size = sizeof(*out), .attr = s->attr, .gpa = s->gpa, .bytes = s->bytes, .backing = s->hva,
        .space = s->space, .space_page = s->space_page};
    return VMC_OK;
}

/* Listeners come and go with engines, while quiesced; notifying takes no lock. */
void vmci_mem_listen(struct vmc_mem *mem, struct vmci_mem_listener *l)
{
    l->next = mem->listeners;
    vmci_store_release(&mem->listeners, l);
}

void vmci_mem_unlisten(struct vmc_mem *mem, struct vmci_mem_listener *l)
{
    for (struct vmci_mem_listener **p = &mem->listeners; *p != NULL; p = &(*p)->next) {
        if (*p == l) {
            *p = l->next;
            return;
        }
    }
}

void vmci_mem_notify_code(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes)
{
    for (struct vmci_mem_listener *l = vmci_load_acquire(&mem->listeners); l != NULL; l = l->next)
        if (l->code_write != NULL)
            l->code_write(l->ctx, gpa, bytes);
}

void vmci_mem_notify_flush(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes)
{
    for (struct vmci_mem_listener *l = vmci_load_acquire(&mem->listeners); l != NULL; l = l->next)
        if (l->flush != NULL)
            l->flush(l->ctx, gpa, bytes);
}
