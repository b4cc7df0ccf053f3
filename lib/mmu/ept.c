/* SPDX-License-Identifier: BSD-2-Clause */
/* Entries of extended page tables (SDM 3C 29.3.2, tables 29-1 to 29-7). */
#include "mmu/slat.h"

#define EPT_R          0x1ull
#define EPT_W          0x2ull
#define EPT_X          0x4ull
#define EPT_RWX        0x7ull
#define EPT_MT_SHIFT   3
#define EPT_IGNORE_PAT 0x40ull
#define EPT_LARGE      0x80ull
#define EPT_A          0x100ull
#define EPT_D          0x200ull
/* Write without read is a misconfiguration on every processor (29.3.3.1). */
#define EPT_MISCONFIG EPT_W

static uint64_t leaf(uint64_t hpa, unsigned level, uint32_t rights, unsigned memtype)
{
    /* Guests have no devices that snoop less than RAM: their PAT is not to weaken coherence. */
    return hpa | (rights & EPT_RWX) | (uint64_t)memtype << EPT_MT_SHIFT | EPT_IGNORE_PAT |
           (level > 1 ? EPT_LARGE : 0);
}

static uint64_t table(uint64_t hpa)
{
    return hpa | EPT_RWX;
}

static enum vmci_slat_kind kind(uint64_t e, unsigned level)
{
    if ((e & EPT_RWX) == 0)
        return VMCI_SLAT_NONE;
    if ((e & EPT_RWX) == EPT_MISCONFIG)
        return VMCI_SLAT_MMIO;
    return level == 1 || (e & EPT_LARGE) != 0 ? VMCI_SLAT_LEAF : VMCI_SLAT_TABLE;
}

static uint32_t rights(uint64_t e)
{
    return (uint32_t)(e & EPT_RWX);
}

const struct vmci_slat_format vmci_ept_format = {
    .name = "EPT",
    .leaf = leaf,
    .table = table,
    .mmio = EPT_MISCONFIG,
    .accessed = EPT_A,
    .dirty = EPT_D,
    .write = EPT_W,
    .kind = kind,
    .rights = rights,
};
