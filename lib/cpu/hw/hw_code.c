/* SPDX-License-Identifier: BSD-2-Clause */
/* Where 64-bit code of the guest lies in host memory: remembered for a page, with what says so. */
#include "cpu/hw/hw_hot.h"

#define PTE_P    0x1ull
#define PTE_PS   0x80ull
#define PTE_ADDR 0x000ffffffffff000ull

static const void *host_of(const struct hw_vcpu *v, uint64_t gpa)
{
    struct vmci_mem_slot *s = vmci_mem_find(v->vm->mem, gpa);

    /* Pages of a space may move without a word to us. */
    return s != NULL && s->space == NULL ? s->hva + (gpa - s->gpa) : NULL;
}

/* Walk the guest's 4-level tables for its code. */
bool hw_code_find(struct hw_vcpu *v, uint64_t page, uint64_t cr3)
{
    struct hw_code_page *c = &v->code;
    uint64_t table = cr3 & PTE_ADDR;

    c->page = ~0ull;
    c->levels = 0;
    if (v->st.cr4 & VMC_CR4_LA57) /* writes to it exit: this is the guest's */
        return false;
    for (unsigned level = 4; level > 0; level--) {
        unsigned shift = 12 + 9 * (level - 1);
        const uint64_t *e = host_of(v, table + ((page >> shift) & 0x1ff) * 8);
        if (e == NULL)
            return false;
        uint64_t value = vmci_load_relaxed(e);
        if (!(value & PTE_P))
            return false;
        c->entry[c->levels] = e;
        c->value[c->levels++] = value;
        table = value & PTE_ADDR;
        if (level > 1 && level < 4 && (value & PTE_PS)) {
            uint64_t mask = (1ull << shift) - 1;
            table = (table & ~mask) | (page & mask & ~0xfffull);
            break;
        }
    }
    c->hva = host_of(v, table);
    if (c->hva == NULL)
        return false;
    for (unsigned i = c->levels; i < 4; i++) {
        c->entry[i] = c->entry[i - 1];
        c->value[i] = c->value[i - 1];
    }
    c->page = page;
    c->cr3 = cr3;
    return true;
}
