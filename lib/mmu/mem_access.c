/* SPDX-License-Identifier: BSD-2-Clause */
/* Accessors: the only way for anything but an engine to touch guest memory. */
#include "mmu/mmu_int.h"

/* What an access may touch. */
enum reach { READ_ANY, WRITE_RAM, LOAD_ANY };

/* Is every byte of the range backed, and writable where it must be? */
static bool covered(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes, enum reach reach)
{
    while (bytes > 0) {
        const struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);
        if (s == NULL || (reach == WRITE_RAM && s->attr != VMC_MEM_RAM))
            return false;
        uint64_t run = s->gpa + s->bytes - gpa;
        if (run >= bytes)
            return true;
        gpa += run;
        bytes -= run;
    }
    return true;
}

/* Tell engines that cached code of these pages is stale. */
static void note_code(struct vmc_mem *mem, const struct vmci_mem_slot *s, uint64_t gpa,
                      uint64_t bytes)
{
    uint64_t first = (gpa - s->gpa) >> VMC_PAGE_SHIFT;
    uint64_t last = (gpa - s->gpa + bytes - 1) >> VMC_PAGE_SHIFT;

    for (uint64_t p = first; p <= last; p++) {
        if ((vmci_load_acquire(&s->flags[p]) & VMCI_PG_CODE) == 0)
            continue;
        uint64_t start = VMCI_MAX(gpa, s->gpa + (p << VMC_PAGE_SHIFT));
        uint64_t end = VMCI_MIN(gpa + bytes, s->gpa + ((p + 1) << VMC_PAGE_SHIFT));
        vmci_mem_notify_code(mem, start, end - start);
    }
}

static void mark(struct vmc_mem *mem, struct vmci_mem_slot *s, uint64_t gpa, uint64_t bytes)
{
    uint32_t clients = vmci_load_relaxed(&mem->dirty_clients);

    if (likely(clients == 0) || bytes == 0)
        return;
    uint64_t first = (gpa - s->gpa) >> VMC_PAGE_SHIFT;
    uint64_t last = (gpa - s->gpa + bytes - 1) >> VMC_PAGE_SHIFT;

    for (unsigned c = 0; c < VMC_DIRTY_CLIENTS; c++) {
        uint64_t *map = (clients >> c & 1) != 0 ? vmci_load_acquire(&s->dirty[c]) : NULL;
        if (map == NULL)
            continue;
        for (uint64_t p = first; p <= last; p++)
            if (!vmci_bit_test(map, p))
                vmci_bit_set_atomic(map, p);
    }
}

int vmc_mem_read(struct vmc_mem *mem, uint64_t gpa, void *dst, size_t bytes)
{
    unsigned char *d = dst;

    while (bytes > 0) {
        struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);
        if (s == NULL)
            return VMC_ERANGE;
        size_t run = (size_t)VMCI_MIN((uint64_t)bytes, s->gpa + s->bytes - gpa);
        if (s->space == NULL) {
            memcpy(d, s->hva + (gpa - s->gpa), run);
        } else {
            int rc = vmci_paged_read(s, gpa, d, run);
            if (rc != VMC_OK)
                return rc;
        }
        d += run;
        gpa += run;
        bytes -= run;
    }
    return VMC_OK;
}

/* Copy from src, or fill when that is NULL. */
static int put(struct vmci_mem_slot *s, uint64_t gpa, const void *src, int fill, size_t bytes)
{
    if (s->space != NULL)
        return vmci_paged_write(s, gpa, src, fill, bytes);
    if (src != NULL)
        memcpy(s->hva + (gpa - s->gpa), src, bytes);
    else
        memset(s->hva + (gpa - s->gpa), fill, bytes);
    return VMC_OK;
}

static int store(struct vmc_mem *mem, uint64_t gpa, const void *src, int fill, uint64_t bytes,
                 enum reach reach)
{
    const unsigned char *from = src;

    if (!covered(mem, gpa, bytes, reach))
        return VMC_ERANGE;
    while (bytes > 0) {
        struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);
        size_t run = (size_t)VMCI_MIN(bytes, s->gpa + s->bytes - gpa);
        int rc = put(s, gpa, from, fill, run);
        if (rc != VMC_OK)
            return rc;
        from = from != NULL ? from + run : NULL;
        mark(mem, s, gpa, run);
        note_code(mem, s, gpa, run);
        gpa += run;
        bytes -= run;
    }
    return VMC_OK;
}

int vmc_mem_write(struct vmc_mem *mem, uint64_t gpa, const void *src, size_t bytes)
{
    return store(mem, gpa, src, 0, bytes, WRITE_RAM);
}

int vmc_mem_load(struct vmc_mem *mem, uint64_t gpa, const void *src, size_t bytes)
{
    return store(mem, gpa, src, 0, bytes, LOAD_ANY);
}

int vmc_mem_set(struct vmc_mem *mem, uint64_t gpa, int byte, uint64_t bytes)
{
    return store(mem, gpa, NULL, byte, bytes, LOAD_ANY);
}

int vmc_mem_ref(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes, bool write, void **hva,
                uint64_t *got)
{
    struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);

    if (s == NULL || bytes == 0 || (write && s->attr != VMC_MEM_RAM))
        return VMC_ERANGE;
    *got = VMCI_MIN(bytes, s->gpa + s->bytes - gpa);
    if (s->space != NULL) {
        int rc = vmci_paged_ref(s, gpa, *got, write, hva, got);
        if (rc != VMC_OK)
            return rc;
    } else {
        *hva = s->hva + (gpa - s->gpa);
    }
    if (write)
        mark(mem, s, gpa, *got);
    return VMC_OK;
}

void vmc_mem_unref(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes, bool write)
{
    struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);

    if (s == NULL || bytes == 0 || !vmci_range_ok(gpa - s->gpa, bytes, s->bytes))
        return;
    if (s->space != NULL)
        vmci_paged_unref(s, gpa, bytes, write);
    if (!write)
        return;
    mark(mem, s, gpa, bytes);
    note_code(mem, s, gpa, bytes);
}

/* ---- pages that the guest does not need ------------------------------------------------------ */

/* The whole pages of a range that lie in one slot with a space; 0: none at this address. */
static uint64_t paged_run(struct vmc_mem *mem, uint64_t gpa, uint64_t end,
                          struct vmci_mem_slot **slot, uint64_t *next)
{
    struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);

    *slot = s;
    *next = end;
    if (s == NULL)
        return 0;
    *next = VMCI_MIN(end, s->gpa + s->bytes);
    return s->space != NULL ? (*next - gpa) >> VMC_PAGE_SHIFT : 0;
}

uint64_t vmc_mem_drop(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes, bool balloon)
{
    uint64_t end = vmci_align_down(gpa + bytes, VMC_PAGE_SIZE), dropped = 0, next;
    uint64_t start = vmci_align_up(gpa, VMC_PAGE_SIZE);
    struct vmci_mem_slot *s;

    if (gpa + bytes < gpa || start < gpa)
        return 0;
    for (gpa = start; gpa < end; gpa = next) {
        uint64_t pages = paged_run(mem, gpa, end, &s, &next);
        if (pages == 0)
            continue;
        uint64_t first = s->space_page + ((gpa - s->gpa) >> VMC_PAGE_SHIFT);
        dropped += s->space->ops->drop(s->space, first, pages, balloon);
        mark(mem, s, gpa, pages << VMC_PAGE_SHIFT);
        note_code(mem, s, gpa, pages << VMC_PAGE_SHIFT);
    }
    return dropped;
}

void vmc_mem_return(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes)
{
    uint64_t end = vmci_align_up(gpa + bytes, VMC_PAGE_SIZE), next;
    struct vmci_mem_slot *s;

    if (gpa + bytes < gpa || end == 0)
        return;
    for (gpa = vmci_align_down(gpa, VMC_PAGE_SIZE); gpa < end; gpa = next) {
        uint64_t pages = paged_run(mem, gpa, end, &s, &next);
        if (pages != 0)
            s->space->ops->give(s->space, s->space_page + ((gpa - s->gpa) >> VMC_PAGE_SHIFT),
                                pages);
    }
}

int vmci_mem_resolve(struct vmc_mem *mem, uint64_t gpa, bool write, struct vmci_page *out)
{
    struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);

    return s != NULL ? vmci_mem_resolve_in(mem, s, gpa, write, out) : VMC_ENOENT;
}

int vmci_mem_resolve_in(struct vmc_mem *mem, struct vmci_mem_slot *s, uint64_t gpa, bool write,
                        struct vmci_page *out)
{
    uint64_t page = (gpa - s->gpa) >> VMC_PAGE_SHIFT;
    out->flags = &s->flags[page];
    out->writable = s->attr == VMC_MEM_RAM;
    if (s->space != NULL) {
        int rc = vmci_paged_resolve(s, gpa, write, out);
        if (rc != VMC_OK)
            return rc;
    } else {
        out->hva = s->hva + (page << VMC_PAGE_SHIFT);
    }
    if (write && out->writable)
        mark(mem, s, gpa, 1);
    return VMC_OK;
}

void vmci_mem_mark_dirty(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes)
{
    struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);

    if (s != NULL && vmci_range_ok(gpa - s->gpa, bytes, s->bytes))
        mark(mem, s, gpa, bytes);
}
