/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Entries of nested page tables: those of 4-level paging (APM 2 15.25, 5.3). Every nested walk is a
 * user access (15.25.5), so U is always set.
 */
#include "mmu/slat.h"

#define NPT_P   0x1ull
#define NPT_W   0x2ull
#define NPT_U   0x4ull
#define NPT_PWT 0x8ull
#define NPT_PCD 0x10ull
#define NPT_A   0x20ull
#define NPT_D   0x40ull
#define NPT_PS  0x80ull
#define NPT_NX  (1ull << 63)

static uint64_t leaf(uint64_t hpa, unsigned level, uint32_t rights, unsigned memtype)
{
    return hpa | NPT_P | NPT_U | ((rights & VMCI_SLAT_W) ? NPT_W : 0) |
           ((rights & VMCI_SLAT_X) ? 0 : NPT_NX) | (level > 1 ? NPT_PS : 0) |
           (memtype == VMCI_MT_UC ? NPT_PCD | NPT_PWT : 0);
}

static uint64_t table(uint64_t hpa)
{
    return hpa | NPT_P | NPT_W | NPT_U;
}

static enum vmci_slat_kind kind(uint64_t e, unsigned level)
{
    if ((e & NPT_P) == 0)
        return VMCI_SLAT_NONE;
    return level == 1 || (e & NPT_PS) != 0 ? VMCI_SLAT_LEAF : VMCI_SLAT_TABLE;
}

static uint32_t rights(uint64_t e)
{
    return VMCI_SLAT_R | ((e & NPT_W) ? VMCI_SLAT_W : 0) | ((e & NPT_NX) ? 0 : VMCI_SLAT_X);
}

const struct vmci_slat_format vmci_npt_format = {
    .name = "NPT",
    .leaf = leaf,
    .table = table,
    .accessed = NPT_A,
    .dirty = NPT_D,
    .write = NPT_W,
    .kind = kind,
    .rights = rights,
};
