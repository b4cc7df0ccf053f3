/* SPDX-License-Identifier: BSD-2-Clause */
/* The dirty log of a VM: what the memory map saw, and what the engine saw. */
#include "mmu/mmu_int.h"
#include "vm/vm_priv.h"

#define BATCH_PAGES 4096u

static bool any_client(const struct vmc_vm *vm)
{
    return vmci_load_relaxed(&vm->mem->dirty_clients) != 0;
}

int vmc_vm_dirty_start(struct vmc_vm *vm, unsigned client)
{
    if (!vmc_vm_quiesced(vm))
        return VMC_EBUSY;
    bool first = !any_client(vm);
    int rc = vmc_mem_dirty_start(vm->mem, client);
    if (rc == VMC_OK && first && engine_has(vm, VMC_CAP_DIRTY_LOG)) {
        rc = vm->ops->dirty_log(vm->evm, true);
        if (rc != VMC_OK)
            vmc_mem_dirty_stop(vm->mem, client);
    }
    return rc;
}

int vmc_vm_dirty_stop(struct vmc_vm *vm, unsigned client)
{
    if (!vmc_vm_quiesced(vm))
        return VMC_EBUSY;
    vmc_mem_dirty_stop(vm->mem, client);
    if (!any_client(vm) && engine_has(vm, VMC_CAP_DIRTY_LOG))
        return vm->ops->dirty_log(vm->evm, false);
    return VMC_OK;
}

/* Runs of dirty pages of a batch go to every client. */
static void spread(struct vmc_vm *vm, uint64_t gpa, uint64_t pages, const uint64_t *bits)
{
    for (uint64_t p = 0; p < pages;) {
        uint64_t run = 0;
        while (p + run < pages && vmci_bit_test(bits, p + run))
            run++;
        if (run != 0)
            vmci_mem_mark_dirty(vm->mem, gpa + p * VMC_PAGE_SIZE, run * VMC_PAGE_SIZE);
        p += run + 1;
    }
}

int vmc_vm_dirty_take(struct vmc_vm *vm, unsigned client, uint64_t gpa, uint64_t pages,
                      uint64_t *bitmap, size_t words)
{
    uint64_t bits[VMCI_BITMAP_WORDS(BATCH_PAGES)];

    for (uint64_t done = 0; engine_has(vm, VMC_CAP_DIRTY_LOG) && done < pages;) {
        uint64_t n = VMCI_MIN(pages - done, BATCH_PAGES);
        memset(bits, 0, sizeof(bits));
        int rc = vm->ops->dirty_fetch(vm->evm, gpa + done * VMC_PAGE_SIZE, n, bits);
        if (rc != VMC_OK)
            return rc;
        spread(vm, gpa + done * VMC_PAGE_SIZE, n, bits);
        done += n;
    }
    return vmc_mem_dirty_take(vm->mem, client, gpa, pages, bitmap, words);
}
