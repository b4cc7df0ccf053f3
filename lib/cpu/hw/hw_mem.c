/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest memory in EPT or NPT: filled as the guest touches it, dropped as the map changes. Without
 * either, each vCPU's shadow tables are filled and dropped instead.
 */
#include "cpu/hw/hw_int.h"

#define SITE "hw/mem"

static uint64_t bytes_of(unsigned level)
{
    return 1ull << (VMC_PAGE_SHIFT + 9 * (level - 1));
}

/* A page that was mapped for writing counts as written again (vmci_mem_listener). */
static void mark_again(void *ctx, uint64_t gpa, uint64_t bytes, bool written)
{
    struct hw_vm *vm = ctx;

    if (!written || vmci_load_relaxed(&vm->mem->dirty_clients) == 0)
        return;
    /* Pages of other slots may be taken back while one is added or removed. */
    vmci_lock(&vm->mem->lock);
    vmci_mem_mark_dirty(vm->mem, gpa, bytes);
    vmci_unlock(&vm->mem->lock);
}

/* Does the leaf map something else than the memory map now says, or with too many rights? */
static bool is_stale(void *ctx, uint64_t gpa, unsigned level, uint64_t hpa, uint32_t rights)
{
    struct hw_vm *vm = ctx;
    struct vmci_page page;
    uint64_t run;

    vmci_lock(&vm->mem->lock);
    const struct vmci_mem_slot *s = vmci_mem_find(vm->mem, gpa);
    bool paged = s == NULL || s->space != NULL;
    bool read_only = !paged && s->attr != VMC_MEM_RAM;
    vmci_unlock(&vm->mem->lock);

    /*
     * Large leaves are not looked into: pages under them may be elsewhere. A space takes its pages
     * back also where they stay, to see who uses them.
     */
    if (level > 1 || paged || (read_only && (rights & VMCI_SLAT_W) != 0) ||
        vmci_mem_resolve(vm->mem, gpa, false, &page) != VMC_OK)
        return true;
    return vm->hw->to_phys(vm->pf->ctx, page.hva, &run) != hpa;
}

/*
 * The memory map or the dirty log asks. The log itself needs nothing from us here: it has our bits
 * by hw_dirty_fetch, so that leaves which are right may stay.
 */
static void drop(struct hw_vm *vm, uint64_t gpa, uint64_t bytes)
{
    int flush;

    vmci_lock(&vm->lock);
    if (bytes == 0)
        flush = vmci_slat_range(&vm->slat, VMCI_SLAT_UNMAP, 0, 0, mark_again, vm);
    else
        flush = vmci_slat_recheck(&vm->slat, gpa, bytes, is_stale, mark_again, vm);
    /* The lock is held until no vCPU uses the old entries: who takes it next finds a quiet table.
     */
    if (flush != 0) {
        hw_shootdown(vm);
        vmci_slat_reclaim(&vm->slat);
    }
    vmci_unlock(&vm->lock);
}

/* ---- dirty log --------------------------------------------------------------------------------
 */

/* What was changed takes something away. */
static __attribute__((noinline)) void flush_locked(struct hw_vm *vm)
{
    hw_shootdown(vm);
    vmci_slat_reclaim(&vm->slat);
}

struct fetch {
    uint64_t gpa, pages;
    uint64_t *bitmap;
};

static void note_dirty(void *ctx, uint64_t gpa, uint64_t bytes, bool written)
{
    struct fetch *f = ctx;

    for (uint64_t at = gpa; written && at < gpa + bytes; at += VMC_PAGE_SIZE)
        if (at - f->gpa < f->pages << VMC_PAGE_SHIFT)
            vmci_bit_set(f->bitmap, (at - f->gpa) >> VMC_PAGE_SHIFT);
}

static bool keeps_log(const struct hw_vm *vm)
{
    return vm->vcpu[0] != NULL && vm->vcpu[0]->log != NULL;
}

/*
 * What is not asked for by f goes to the memory map's log.
 * A processor logs a page as it sets the dirty bit, before it writes. What it logs while we look is
 * of a write that goes on now, and is found the next time. The bit is cleared so that the next
 * write is logged again, which holds once everybody has flushed.
 */
static int drain_locked(struct hw_vm *vm, struct hw_vcpu *v, struct fetch *f)
{
    int flush = 0;

    for (unsigned i = 0; i < HW_LOG_ENTRIES; i++) {
        if (vmci_load_relaxed(&v->log[i]) == HW_LOG_NONE)
            continue;
        uint64_t gpa = vmci_exchange(&v->log[i], HW_LOG_NONE) & ~(uint64_t)(VMC_PAGE_SIZE - 1);
        if (f != NULL && gpa - f->gpa < f->pages << VMC_PAGE_SHIFT)
            note_dirty(f, gpa, VMC_PAGE_SIZE, true);
        else
            vmci_mem_mark_dirty(vm->mem, gpa, VMC_PAGE_SIZE);
        flush |= vmci_slat_range(&vm->slat, VMCI_SLAT_CLEAN, gpa, VMC_PAGE_SIZE, NULL, NULL);
    }
    return flush;
}

static void drain(struct hw_vm *vm, struct fetch *f)
{
    int flush = 0;

    vmci_lock(&vm->lock);
    for (uint32_t i = 0; i < vm->max_vcpus; i++)
        if (vm->vcpu[i] != NULL && vm->vcpu[i]->log != NULL)
            flush |= drain_locked(vm, vm->vcpu[i], f);
    if (flush != 0)
        flush_locked(vm);
    vmci_unlock(&vm->lock);
}

void hw_log_drain(struct hw_vm *vm)
{
    drain(vm, NULL);
}

/* Put large pages back together that were mapped by small ones while writes were logged. */
static void merge_all(struct hw_vm *vm)
{
    const uint64_t step = bytes_of(2);
    int flush = 0;

    vmci_lock(&vm->lock);
    for (unsigned i = 0; i < vm->mem->count; i++) {
        const struct vmci_mem_slot *s = &vm->mem->slot[i];
        uint64_t end = vmci_align_down(s->gpa + s->bytes, step);
        for (uint64_t at = vmci_align_up(s->gpa, step); s->space == NULL && at < end; at += step)
            flush |= vmci_slat_merge(&vm->slat, at, 2);
    }
    if (flush != 0)
        flush_locked(vm);
    vmci_unlock(&vm->lock);
}

int hw_dirty_log(void *evm, bool on)
{
    struct hw_vm *vm = evm;

    if (keeps_log(vm)) /* vCPUs switch their logs on or off as they flush */
        hw_shootdown(vm);
    /* Large leaves go, so that writes are logged by small ones, which may all stay afterwards: a
       fault beside them maps a large one instead. Without dirty bits they are read-only. */
    if (on || vmci_load_relaxed(&vm->mem->dirty_clients) != 0 || !vm->nested || !vm->slat.ad ||
        vm->max_leaf < 2)
        return hw_mem_changed(evm);
    merge_all(vm);
    return VMC_OK;
}

/*
 * Where the processor keeps a log, that says what was written. With dirty bits alone the tables are
 * looked through; without, a page is writable from its first write on until it is fetched.
 */
int hw_dirty_fetch(void *evm, uint64_t gpa, uint64_t pages, uint64_t *bitmap)
{
    struct hw_vm *vm = evm;
    struct fetch f = {.gpa = gpa, .pages = pages, .bitmap = bitmap};

    if (!vm->nested || pages == 0)
        return VMC_OK;
    if (keeps_log(vm)) {
        drain(vm, &f);
        return VMC_OK;
    }
    vmci_lock(&vm->lock);
    if (vmci_slat_range(&vm->slat, vm->slat.ad ? VMCI_SLAT_CLEAN : VMCI_SLAT_PROTECT, gpa,
                        pages << VMC_PAGE_SHIFT, note_dirty, &f) != 0)
        hw_shootdown(vm);
    vmci_unlock(&vm->lock);
    return VMC_OK;
}

static void on_flush(void *ctx, uint64_t gpa, uint64_t bytes)
{
    struct hw_vm *vm = ctx;

    if (vm->nested)
        drop(vm, gpa, bytes);
    else
        hw_shootdown(vm);
}

int hw_mem_changed(void *evm)
{
    on_flush(evm, 0, 0);
    return VMC_OK;
}

int hw_mem_init(struct hw_vm *vm, const struct vmci_slat_format *fmt, unsigned max_leaf, bool ad,
                struct vmc_error *err)
{
    int rc = vmci_lock_init(&vm->lock, vm->pf);

    if (rc != VMC_OK)
        return vmci_error(err, rc, SITE, "cannot create a lock");
    vm->max_leaf = (vm->flags & VMC_HW_CFG_4K) ? 1 : max_leaf;
    if (vm->nested) {
        rc = vmci_slat_init(&vm->slat, vm->pf, fmt, max_leaf, ad);
        if (rc != VMC_OK) {
            vmci_lock_fini(&vm->lock);
            return vmci_error(err, rc, SITE, "no memory for %s tables", fmt->name);
        }
    }
    vm->listener = (struct vmci_mem_listener){.ctx = vm, .flush = on_flush};
    vmci_mem_listen(vm->mem, &vm->listener);
    return VMC_OK;
}

void hw_mem_fini(struct hw_vm *vm)
{
    vmci_mem_unlisten(vm->mem, &vm->listener);
    if (vm->nested)
        vmci_slat_fini(&vm->slat);
    vmci_lock_fini(&vm->lock);
}

/* The largest leaf that maps gpa to contiguous memory of its slot; *base is its address. */
static unsigned leaf_level(const struct hw_vm *vm, const struct vmci_mem_slot *s, uint64_t gpa,
                           uint64_t *base, uint64_t *hpa)
{
    for (unsigned level = vm->max_leaf; level > 1; level--) {
        uint64_t bytes = bytes_of(level), run;
        uint64_t at = vmci_align_down(gpa, bytes);
        if (at < s->gpa || at + bytes > s->gpa + s->bytes)
            continue;
        uint64_t h = vm->hw->to_phys(vm->pf->ctx, s->hva + (at - s->gpa), &run);
        if (h != VMC_HW_NO_PHYS && (h & (bytes - 1)) == 0 && run >= bytes) {
            *base = at;
            *hpa = h;
            return level;
        }
    }
    return 1;
}

/* Has another vCPU mapped the page, while this one was about to? */
static bool is_there(const struct hw_vm *vm, uint64_t gpa, uint64_t hpa)
{
    struct vmci_slat_entry e = vmci_slat_lookup(&vm->slat, gpa);

    return e.kind == VMCI_SLAT_LEAF && e.hpa == hpa;
}

/* A page of the memory map, with the lock held. As vmci_slat_map; VMC_EHOST. */
static int map(struct hw_vm *vm, const struct vmci_mem_slot *s, const struct vmci_page *page,
               uint64_t gpa, uint32_t want)
{
    bool logged = hw_logging(vm);
    uint64_t base = gpa & ~(uint64_t)(VMC_PAGE_SIZE - 1), hpa, run;
    uint32_t rights = VMCI_SLAT_R | VMCI_SLAT_X;

    /* Logging wants small pages; without dirty bits, writable only once they are written. */
    if (page->writable && (!logged || vm->slat.ad || (want & VMCI_SLAT_W) != 0))
        rights |= VMCI_SLAT_W;
    if (!logged && vm->max_leaf > 1 && s->space == NULL) {
        unsigned level = leaf_level(vm, s, gpa, &base, &hpa);
        if (level > 1)
            return vmci_slat_map(&vm->slat, base, hpa, level, rights, VMCI_MT_WB);
    }
    hpa = vm->hw->to_phys(vm->pf->ctx, page->hva, &run);
    if (unlikely(hpa == VMC_HW_NO_PHYS))
        return VMC_EHOST;
    if (likely(vmci_slat_fill(&vm->slat, base, hpa, rights)))
        return 0;
    /* Without dirty bits the right to write says that the page was written: it stays. */
    if (logged && (rights & VMCI_SLAT_W) == 0 && is_there(vm, base, hpa))
        return 0;
    return vmci_slat_map(&vm->slat, base, hpa, 1, rights, VMCI_MT_WB);
}

/* The page by which the processor knows accesses to the local APIC (SDM 3C 30.4.1). */
static int map_apic(struct hw_vm *vm)
{
    int rc = vmci_slat_map(&vm->slat, VMC_APIC_DEFAULT_GPA, vm->apic_page_hpa, 1,
                           VMCI_SLAT_R | VMCI_SLAT_W | VMCI_SLAT_X, VMCI_MT_WB);

    if (rc != 0)
        flush_locked(vm);
    return rc < 0 ? rc : VMC_OK;
}

void hw_mem_forget(struct hw_vm *vm, uint64_t gpa)
{
    drop(vm, gpa, VMC_PAGE_SIZE);
}

/* No memory is there: the page exits at once from now on, where the format has such entries. */
static __attribute__((noinline)) int map_device(struct hw_vm *vm, uint64_t gpa)
{
    vmci_lock(&vm->lock);
    if (gpa >> VMC_PAGE_SHIFT == VMC_APIC_DEFAULT_GPA >> VMC_PAGE_SHIFT &&
        __atomic_load_n(&vm->apic_page_used, __ATOMIC_SEQ_CST)) {
        int rc = map_apic(vm);
        vmci_unlock(&vm->lock);
        return rc;
    }
    int rc = vmci_slat_map_mmio(&vm->slat, vmci_align_down(gpa, VMC_PAGE_SIZE));
    if (rc > 0 || rc == VMC_ENOMEM)
        flush_locked(vm);
    vmci_unlock(&vm->lock);
    return VMC_ENOENT;
}

int hw_mem_fault(struct hw_vm *vm, uint64_t gpa, uint32_t want)
{
    struct vmci_mem_slot *s = vmci_mem_find(vm->mem, gpa);
    struct vmci_page page;

    if (unlikely(s == NULL))
        return map_device(vm, gpa);
    /* A space is told what its page is wanted for; otherwise the dirty log has its own ways. */
    bool write = unlikely(s->space != NULL) && (want & VMCI_SLAT_W) != 0;
    /* Under the lock, so that a page that moves meanwhile is dropped after it was mapped. */
    vmci_lock(&vm->lock);
    int rc = vmci_mem_resolve_in(vm->mem, s, gpa, write, &page);
    if (unlikely(rc != VMC_OK || ((want & VMCI_SLAT_W) != 0 && !page.writable))) {
        vmci_unlock(&vm->lock);
        return rc != VMC_OK ? rc : VMC_ENOENT;
    }
    rc = map(vm, s, &page, gpa, want);
    if (unlikely(rc > 0 || rc == VMC_ENOMEM))
        flush_locked(vm);
    vmci_unlock(&vm->lock);
    return rc < 0 ? rc : VMC_OK;
}
