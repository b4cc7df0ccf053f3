/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Slots whose pages are where a space says: the map as a page provider. Pointers are taken back by
 * flushing the engines' TLBs; a revoke has settled when every running vCPU has passed its flush.
 */
#include "mmu/mmu_int.h"

static uint64_t page_of(const struct vmci_mem_slot *s, uint64_t gpa)
{
    return s->space_page + ((gpa - s->gpa) >> VMC_PAGE_SHIFT);
}

/* ---- the provider ------------------------------------------------------------------------------
 */

static uint64_t revoke(void *ctx, uint64_t first, uint64_t count)
{
    struct vmc_mem *mem = ctx;
    struct {
        uint64_t gpa, bytes;
    } part[VMC_MEM_MAX_SLOTS];
    unsigned n = 0;
    uint64_t ticket;

    if (vmci_load_acquire(&mem->listeners) == NULL)
        return 0;
    ticket = __atomic_add_fetch(&mem->revoke_seq, 1, __ATOMIC_SEQ_CST);
    /* Listeners are told without the lock. */
    vmci_lock(&mem->lock);
    for (unsigned i = 0; i < mem->count; i++) {
        const struct vmci_mem_slot *s = &mem->slot[i];
        uint64_t pages = s->bytes >> VMC_PAGE_SHIFT;
        uint64_t from = VMCI_MAX(first, s->space_page);
        uint64_t to = VMCI_MIN(first + count, s->space_page + pages);
        if (s->space == NULL || (count != 0 && from >= to))
            continue;
        part[n].gpa = count == 0 ? s->gpa : s->gpa + ((from - s->space_page) << VMC_PAGE_SHIFT);
        part[n++].bytes = count == 0 ? s->bytes : (to - from) << VMC_PAGE_SHIFT;
    }
    vmci_unlock(&mem->lock);
    for (unsigned i = 0; i < n; i++)
        vmci_mem_notify_flush(mem, part[i].gpa, part[i].bytes);
    return ticket;
}

static bool settled(void *ctx, uint64_t ticket)
{
    struct vmc_mem *mem = ctx;

    for (struct vmci_mem_listener *l = vmci_load_acquire(&mem->listeners); l != NULL; l = l->next)
        if (l->settled != NULL && !l->settled(l->ctx, ticket))
            return false;
    return true;
}

const struct vmc_provider_ops *vmc_mem_provider(void)
{
    static const struct vmc_provider_ops ops = {.revoke = revoke, .settled = settled};
    return &ops;
}

/* ---- engines outside the library -------------------------------------------------------------- */

_Static_assert(sizeof(struct vmci_mem_listener) <= sizeof(((struct vmc_mem_watch *)0)->reserved),
               "the listener lies in the watch");

static struct vmci_mem_listener *listener_of(struct vmc_mem_watch *w)
{
    return (struct vmci_mem_listener *)(void *)w->reserved;
}

void vmc_mem_watch(struct vmc_mem *mem, struct vmc_mem_watch *w)
{
    *listener_of(w) = (struct vmci_mem_listener){.ctx = w->ctx, .flush = w->revoke};
    vmci_mem_listen(mem, listener_of(w));
}

void vmc_mem_unwatch(struct vmc_mem *mem, struct vmc_mem_watch *w)
{
    vmci_mem_unlisten(mem, listener_of(w));
}

/* ---- vCPUs -------------------------------------------------------------------------------------
 */

int vmci_mem_fault(struct vmc_mem *mem, uint64_t gpa, bool write)
{
    struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);
    struct vmc_page_ref ref;

    if (s == NULL || s->space == NULL)
        return VMC_OK;
    return s->space->ops->access(s->space, page_of(s, gpa), write ? VMC_ACCESS_WRITE : 0, &ref);
}

void vmci_mem_wait(struct vmc_mem *mem, uint64_t gpa)
{
    struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);

    if (s != NULL && s->space != NULL)
        s->space->ops->wait(s->space);
}

int vmci_paged_resolve(struct vmci_mem_slot *s, uint64_t gpa, bool write, struct vmci_page *out)
{
    struct vmc_page_ref ref;

    if (!s->space->ops->fast(s->space, page_of(s, gpa), write, &ref))
        return VMC_EAGAIN;
    out->hva = ref.ptr;
    out->writable = ref.writable;
    return VMC_OK;
}

/* ---- everybody else ----------------------------------------------------------------------------
 */

int vmci_paged_read(struct vmci_mem_slot *s, uint64_t gpa, void *dst, uint64_t bytes)
{
    unsigned char *d = dst;

    while (bytes > 0) {
        uint32_t off = (uint32_t)(gpa % VMC_PAGE_SIZE);
        uint32_t run = (uint32_t)VMCI_MIN(bytes, (uint64_t)(VMC_PAGE_SIZE - off));
        int rc = s->space->ops->read(s->space, page_of(s, gpa), off, d, run, 0);
        if (rc != VMC_OK)
            return rc;
        d += run;
        gpa += run;
        bytes -= run;
    }
    return VMC_OK;
}

int vmci_paged_write(struct vmci_mem_slot *s, uint64_t gpa, const void *src, int fill,
                     uint64_t bytes)
{
    const unsigned char *from = src;
    struct vmc_page_ref ref;

    while (bytes > 0) {
        uint32_t off = (uint32_t)(gpa % VMC_PAGE_SIZE);
        uint32_t run = (uint32_t)VMCI_MIN(bytes, (uint64_t)(VMC_PAGE_SIZE - off));
        int rc = s->space->ops->pin(s->space, page_of(s, gpa), VMC_ACCESS_WRITE, &ref);
        if (rc != VMC_OK)
            return rc;
        if (from != NULL) {
            memcpy((unsigned char *)ref.ptr + off, from, run);
            from += run;
        } else {
            memset((unsigned char *)ref.ptr + off, fill, run);
        }
        s->space->ops->unpin(s->space, page_of(s, gpa), true);
        gpa += run;
        bytes -= run;
    }
    return VMC_OK;
}

/* As many pages as happen to lie one behind the other. */
int vmci_paged_ref(struct vmci_mem_slot *s, uint64_t gpa, uint64_t bytes, bool write, void **hva,
                   uint64_t *got)
{
    uint32_t flags = write ? VMC_ACCESS_WRITE : 0;
    uint64_t page = page_of(s, gpa), off = gpa % VMC_PAGE_SIZE;
    struct vmc_page_ref first, next;
    int rc = s->space->ops->pin(s->space, page, flags, &first);

    if (rc != VMC_OK)
        return rc;
    *hva = (unsigned char *)first.ptr + off;
    *got = VMCI_MIN(bytes, VMC_PAGE_SIZE - off);
    while (*got < bytes && s->space->ops->pin(s->space, ++page, flags, &next) == VMC_OK) {
        if (next.ptr != (unsigned char *)*hva + *got) {
            s->space->ops->unpin(s->space, page, false);
            break;
        }
        *got += VMCI_MIN(bytes - *got, (uint64_t)VMC_PAGE_SIZE);
    }
    return VMC_OK;
}

void vmci_paged_unref(struct vmci_mem_slot *s, uint64_t gpa, uint64_t bytes, bool write)
{
    for (uint64_t p = page_of(s, gpa); p <= page_of(s, gpa + bytes - 1); p++)
        s->space->ops->unpin(s->space, p, write);
}

int vmci_mem_ref_whole(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes, bool write, void **hva)
{
    struct vmci_mem_slot *s = vmci_mem_find(mem, gpa);
    uint64_t got;
    int rc;

    if (s != NULL && s->space != NULL && bytes != 0 &&
        vmci_range_ok(gpa - s->gpa, bytes, s->bytes)) {
        uint64_t first = page_of(s, gpa), last = page_of(s, gpa + bytes - 1);
        rc = s->space->ops->gather(s->space, first, last - first + 1);
        if (rc != VMC_OK)
            return rc;
    }
    rc = vmc_mem_ref(mem, gpa, bytes, write, hva, &got);
    if (rc == VMC_OK && got < bytes) {
        vmc_mem_unref(mem, gpa, got, false);
        rc = VMC_ERANGE;
    }
    return rc;
}
