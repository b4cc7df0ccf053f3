/* SPDX-License-Identifier: BSD-2-Clause */
/* The standard machine: addresses, and what its files share. */
#ifndef PC_PRIV_H
#define PC_PRIV_H

#include <vmcore/pc.h>

#include "base/base_int.h"

/* ---- memory -------------------------------------------------------------------------------- */

#define PC_VGA_BASE      0xa0000ull
#define PC_VGA_END       0xc0000ull
#define PC_EBDA          0x9fc00ull /* end of conventional memory as firmware leaves it */
#define PC_BIOS_BASE     0xe0000ull /* ACPI tables of a direct boot lie here */
#define PC_MP_BASE       0xfd000ull /* the MP table of a direct boot, behind them */
#define PC_1M            0x100000ull
#define PC_4G            0x100000000ull
#define PC_ECAM_BASE     0xb0000000ull
#define PC_ECAM_BYTES    0x10000000ull
#define PC_LOW_MAX       PC_ECAM_BASE  /* RAM from here on ... */
#define PC_LOW_SPLIT     0x80000000ull /* ... makes the low part end here */
#define PC_HOLE_END      0xfec00000ull /* IOAPIC: the PCI window ends */
#define PC_HPET_BASE     0xfed00000ull
#define PC_RESERVED_BASE 0xfec00000ull /* IOAPIC, HPET, local APIC, firmware */
#define PC_MEM64_ALIGN   (32ull << 30)
#define PC_MEM64_BYTES   (32ull << 30)

/* ---- ports --------------------------------------------------------------------------------- */

#define PC_PM_BASE      0x600u
#define PC_COM1         0x3f8u
#define PC_DEBUGCON     0xe9u
#define PC_POST         0x80u
#define PC_FW_CFG       0x510u
#define PC_PCI_IO_BASE  0xc000u
#define PC_PCI_IO_BYTES 0x3000u

/* ---- interrupts ---------------------------------------------------------------------------- */

#define PC_SCI      9u
#define PC_PIRQ_GSI 16u /* PIRQ A; the root bus uses E-H */
#define PC_INTX_GSI 20u

#define PC_ACPI_RSDP_ROOM 64u /* from the RSDP to the first table */
#define ACPI_BLOB_MAX     0x1c000u
#define ACPI_MAX_FIXUPS   32
#define ACPI_RSDP_BYTES   36u
#define LOADER_ENTRY      128u
#define LOADER_MAX        (3 * ACPI_MAX_FIXUPS)
#define BOOTORDER_MAX     1024u

/* A pointer inside the tables, and a table with a checksum. */
struct acpi_pointer {
    uint32_t at;
    uint32_t bytes;
};
struct acpi_sum {
    uint32_t start, bytes; /* of the table; its checksum byte is the tenth */
};

/* All tables but the RSDP, one behind the other; pointers are offsets until they are fixed up. */
struct acpi_blob {
    uint8_t data[ACPI_BLOB_MAX];
    uint32_t bytes;
    struct acpi_pointer pointer[ACPI_MAX_FIXUPS];
    unsigned pointers;
    struct acpi_sum sum[ACPI_MAX_FIXUPS];
    unsigned sums;
    uint32_t rsdt, xsdt, facs; /* offsets */
};

struct vmc_pc {
    struct vmc_vm *vm;
    const struct vmc_platform *pf;
    struct vmc_board *bd;
    struct vmc_pc_config cfg;
    uint64_t low_bytes, high_bytes; /* RAM below and from 4 GiB */

    struct vmc_chipset *chipset;
    struct vmc_uart *uart;
    struct vmc_fpu_error *fpu_error;
    struct vmc_pit *pit;
    struct vmc_rtc *rtc;
    struct vmc_hpet *hpet;
    struct vmc_i8042 *i8042;
    struct vmc_fw_cfg *fw;
    struct vmc_debugcon *debugcon;
    struct vmc_exit_port *exit_port;
    struct vmc_post_port *post, *post2;

    struct vmc_memmap memmap[VMC_MEMMAP_MAX];
    unsigned memmap_count;

    struct vmci_lock acpi_lock; /* what vCPUs make anew: acpi, rsdp */
    struct acpi_blob acpi;
    uint8_t rsdp[ACPI_RSDP_BYTES];
    uint8_t loader[LOADER_MAX * LOADER_ENTRY];
    uint8_t e820[VMC_MEMMAP_MAX * 20];
    char bootorder[BOOTORDER_MAX];
    uint8_t kernel_setup[0x8000]; /* for fw_cfg's kernel items */
    struct vmc_pc_boot boot;      /* images that fw_cfg reads from */
    uint64_t kernel_skip;
};

/* Fill pc->memmap. firmware: only RAM, which is what firmware wants to hear about. */
void vmci_pc_memmap(struct vmc_pc *pc, bool firmware);
/* End of RAM above 4 GiB (4 GiB when there is none). */
static inline uint64_t pc_ram_end(const struct vmc_pc *pc)
{
    return PC_4G + pc->high_bytes;
}
/* Is S3 offered to what is being booted? */
static inline bool pc_sleeps(const struct vmc_pc *pc)
{
    return (pc->cfg.flags & VMC_PC_SLEEP) != 0 && pc->boot.firmware == NULL;
}
/* The PCI memory windows as they are now, for _CRS and for assignment. */
void vmci_pc_windows(struct vmc_pc *pc, struct vmc_pci_windows *win);

/* ---- ACPI ---------------------------------------------------------------------------------- */

/* Build all tables for the machine as it is. Always the same length for the same machine. */
int vmci_acpi_build(struct vmc_pc *pc, struct vmc_error *err);
/* The DSDT's contents behind its header. */
struct aml;
void vmci_acpi_dsdt(struct vmc_pc *pc, struct aml *a);
/* Put tables and RSDP into guest memory at gpa. */
int vmci_acpi_place(struct vmc_pc *pc, uint64_t gpa, struct vmc_error *err);

/* Put the MP table at PC_MP_BASE. */
int vmci_mp_table(struct vmc_pc *pc, struct vmc_error *err);

/* ---- fw_cfg -------------------------------------------------------------------------------- */

int vmci_pc_fw_cfg(struct vmc_pc *pc, struct vmc_error *err);

#endif
