/* SPDX-License-Identifier: BSD-2-Clause */
/* States in which boot protocols start the first processor. */
#include "boot_priv.h"

#define GDT_ENTRIES 4
#define PTE_P   0x01ull
#define PTE_W   0x02ull
#define PTE_PS  0x80ull
#define PAGES   6 /* PML4, PDPT, four page directories of 2 MiB pages */

#define ATTR_CODE32 (VMC_SEG_P | VMC_SEG_S | 0xb | VMC_SEG_DB | VMC_SEG_G)
#define ATTR_CODE64 (VMC_SEG_P | VMC_SEG_S | 0xb | VMC_SEG_L | VMC_SEG_G)
#define ATTR_DATA   (VMC_SEG_P | VMC_SEG_S | 0x3 | VMC_SEG_DB | VMC_SEG_G)

/* A flat descriptor with these attributes (SDM 3A 3.4.5). */
static uint64_t descriptor(uint32_t attr)
{
    return 0xffffull | (uint64_t)(attr & 0xff) << 40 | 0xfull << 48 |
           (uint64_t)(attr >> 12 & 0xf) << 52;
}

static void flat_segment(struct vmc_segment *s, uint16_t selector, uint32_t attr)
{
    *s = (struct vmc_segment){.limit = UINT32_MAX, .attr = attr, .selector = selector};
}

static int flat_segments(struct boot_ctx *c, uint16_t code, uint32_t code_attr)
{
    uint8_t gdt[8 * GDT_ENTRIES] = {0};
    uint64_t base = 0;
    uint16_t data = (uint16_t)(code + 8);
    struct vmc_x86_state *st = c->start;

    vmci_st_le64(gdt + code, descriptor(code_attr));
    vmci_st_le64(gdt + data, descriptor(ATTR_DATA));
    int rc = vmci_boot_place(c, gdt, sizeof(gdt), "GDT", &base);
    if (rc != VMC_OK)
        return rc;
    st->gdtr = (struct vmc_table){.base = base, .limit = sizeof(gdt) - 1};
    st->idtr = (struct vmc_table){.limit = 0};
    for (unsigned i = VMC_ES; i <= VMC_GS; i++)
        flat_segment(&st->seg[i], data, ATTR_DATA);
    flat_segment(&st->seg[VMC_CS], code, code_attr);
    st->seg[VMC_TR].attr = VMC_SEG_P | 0xb;
    st->seg[VMC_LDTR].attr = VMC_SEG_P | 0x2;
    return VMC_OK;
}

int vmci_start_prot32(struct boot_ctx *c, uint16_t code, uint64_t entry)
{
    struct vmc_x86_state *st = c->start;

    if (entry > UINT32_MAX)
        return vmci_error(c->err, VMC_EFORMAT, "boot/start",
                          "the entry point 0x%llx is beyond 4 GiB", (unsigned long long)entry);
    vmc_x86_state_reset(st);
    st->cr0 = VMC_CR0_PE | VMC_CR0_ET;
    st->rip = entry;
    c->out->entry = entry;
    return flat_segments(c, code, ATTR_CODE32);
}

static int identity_map(struct boot_ctx *c, uint64_t *cr3)
{
    uint8_t *table = c->chunk;
    uint64_t base = 0;
    int rc = vmci_boot_alloc_low(c, PAGES * VMC_PAGE_SIZE, VMC_PAGE_SIZE, LOW_START, LOW_END,
                                 "page tables", &base);

    for (unsigned page = 0; rc == VMC_OK && page < PAGES; page++) {
        memset(table, 0, VMC_PAGE_SIZE);
        if (page == 0) {
            vmci_st_le64(table, (base + VMC_PAGE_SIZE) | PTE_P | PTE_W);
        } else if (page == 1) {
            for (unsigned i = 0; i < PAGES - 2; i++)
                vmci_st_le64(table + 8 * i,
                             (base + (2 + i) * (uint64_t)VMC_PAGE_SIZE) | PTE_P | PTE_W);
        } else {
            for (unsigned i = 0; i < 512; i++)
                vmci_st_le64(table + 8 * i, (page - 2) * GIB + i * 2 * MIB + (PTE_P | PTE_W | PTE_PS));
        }
        rc = vmci_boot_write(c, base + page * (uint64_t)VMC_PAGE_SIZE, table, VMC_PAGE_SIZE,
                             "page tables");
    }
    *cr3 = base;
    return rc;
}

int vmci_start_long64(struct boot_ctx *c, uint16_t code, uint64_t entry)
{
    struct vmc_x86_state *st = c->start;
    uint64_t cr3 = 0;

    if (entry >= 4 * GIB)
        return vmci_error(c->err, VMC_EFORMAT, "boot/start",
                          "the entry point 0x%llx is beyond 4 GiB", (unsigned long long)entry);
    vmc_x86_state_reset(st);
    int rc = identity_map(c, &cr3);
    if (rc != VMC_OK)
        return rc;
    st->cr0 = VMC_CR0_PE | VMC_CR0_ET | VMC_CR0_PG;
    st->cr3 = cr3;
    st->cr4 = VMC_CR4_PAE;
    st->efer = VMC_EFER_LME | VMC_EFER_LMA;
    st->rip = entry;
    c->out->entry = entry;
    return flat_segments(c, code, ATTR_CODE64);
}
