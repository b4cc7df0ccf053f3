/* SPDX-License-Identifier: BSD-2-Clause */
/* The static ACPI tables (ACPI 6.4 chapter 5; MCFG: PCI Firmware 3.2 4.1; HPET: 1.0a 3.2.4). */
#include "pc/aml.h"
#include "pc/pc_priv.h"

#define HEADER_BYTES 36u
#define SUM_OFFSET   9u

#define FADT_BYTES 268u
#define FADT_REV   5
#define MADT_REV   4
#define FACS_BYTES 64u

#define FADT_WBINVD         (1u << 0)
#define FADT_PROC_C1        (1u << 2)
#define FADT_SLP_BUTTON     (1u << 5) /* no sleep button among the fixed features */
#define FADT_FIX_RTC        (1u << 6) /* nor the RTC's alarm, which only ends sleep */
#define FADT_RESET          (1u << 10)
#define FADT_PLATFORM_CLOCK (1u << 15)
#define FADT_APIC_CLUSTER   (1u << 18)
#define BOOT_LEGACY         (1u << 0)
#define BOOT_8042           (1u << 1)
#define BOOT_NO_VGA         (1u << 2)

#define CPUS_FLAT_MAX 8 /* flat logical destinations */
#define XAPIC_ID_MAX  254
#define IOAPIC_GPA    0xfec00000u
#define LAPIC_GPA     0xfee00000u

/* ---- building blocks ----------------------------------------------------------------------- */

static size_t table_begin(struct vmc_pc *pc, struct aml *a, const char *sig, uint8_t revision)
{
    (void)pc;
    while (a->len % 16 != 0)
        aml_byte(a, 0);
    size_t at = a->len;
    aml_bytes(a, sig, 4);
    aml_le(a, 0, 4); /* length */
    aml_byte(a, revision);
    aml_byte(a, 0); /* checksum */
    aml_bytes(a, "VMCORE", 6);
    aml_bytes(a, "VMCOREPC", 8);
    aml_le(a, 1, 4);
    aml_bytes(a, "VMCO", 4);
    aml_le(a, 1, 4);
    return at;
}

static void table_end(struct vmc_pc *pc, struct aml *a, size_t at)
{
    struct acpi_blob *b = &pc->acpi;
    uint32_t n = (uint32_t)(a->len - at);

    if (a->len > a->room)
        return; /* reported at the end */
    vmci_st_le32(a->buf + at + 4, n);
    if (b->sums < ACPI_MAX_FIXUPS)
        b->sum[b->sums++] = (struct acpi_sum){.start = (uint32_t)at, .bytes = n};
}

/* A pointer to a table, as its offset for now. */
static void pointer(struct vmc_pc *pc, struct aml *a, size_t target, unsigned bytes)
{
    struct acpi_blob *b = &pc->acpi;

    if (b->pointers < ACPI_MAX_FIXUPS)
        b->pointer[b->pointers++] = (struct acpi_pointer){.at = (uint32_t)a->len, .bytes = bytes};
    aml_le(a, target, bytes);
}

/* Generic address structure in I/O space; width in bits, access size 1-4 = 8-64 bits. */
static void gas_io(struct aml *a, uint8_t width, uint8_t access, uint64_t address)
{
    aml_byte(a, 1);
    aml_byte(a, width);
    aml_byte(a, 0);
    aml_byte(a, access);
    aml_le(a, address, 8);
}

/* ---- tables -------------------------------------------------------------------------------- */

static size_t facs(struct aml *a)
{
    while (a->len % 64 != 0)
        aml_byte(a, 0);
    size_t at = a->len;
    aml_bytes(a, "FACS", 4);
    aml_le(a, FACS_BYTES, 4);
    for (unsigned i = 8; i < FACS_BYTES; i++)
        aml_byte(a, i == 32 ? 2 : 0); /* version */
    return at;
}

static void fadt_fixed(struct vmc_pc *pc, struct aml *a, uint16_t pm)
{
    uint32_t flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_RESET |
                     FADT_PLATFORM_CLOCK | (pc->cfg.cpus > CPUS_FLAT_MAX ? FADT_APIC_CLUSTER : 0) |
                     (pc_sleeps(pc) ? 0 : FADT_FIX_RTC);

    aml_byte(a, 0); /* model */
    aml_byte(a, 0); /* preferred profile: unspecified */
    aml_le(a, PC_SCI, 2);
    aml_le(a, 0xb2, 4); /* SMI command port */
    aml_byte(a, 2);     /* ACPI enable, disable */
    aml_byte(a, 3);
    aml_le(a, 0, 2);        /* S4BIOS, P-states */
    aml_le(a, pm, 4);       /* PM1a event */
    aml_le(a, 0, 4);        /* PM1b event */
    aml_le(a, pm + 4u, 4);  /* PM1a control */
    aml_le(a, 0, 4);        /* PM1b control */
    aml_le(a, 0, 4);        /* PM2 control */
    aml_le(a, pm + 8u, 4);  /* PM timer */
    aml_le(a, pm + 32u, 4); /* GPE0 */
    aml_le(a, 0, 4);        /* GPE1 */
    aml_byte(a, 4);         /* lengths of PM1 event, PM1 control, PM2, timer, GPE0, GPE1 */
    aml_byte(a, 2);
    aml_byte(a, 0);
    aml_byte(a, 4);
    aml_byte(a, 16);
    aml_byte(a, 0);
    aml_byte(a, 0);      /* GPE1 base */
    aml_byte(a, 0);      /* _CST */
    aml_le(a, 0xfff, 2); /* C2 latency: no C2 */
    aml_le(a, 0xfff, 2); /* C3 latency: no C3 */
    aml_le(a, 0, 2);     /* flush size, stride */
    aml_le(a, 0, 2);
    aml_byte(a, 0); /* duty offset, width */
    aml_byte(a, 0);
    aml_byte(a, 0); /* day alarm, month alarm: not implemented */
    aml_byte(a, 0);
    aml_byte(a, 0x32); /* century register of the RTC */
    aml_le(a, BOOT_LEGACY | BOOT_8042 | BOOT_NO_VGA, 2);
    aml_byte(a, 0);
    aml_le(a, flags, 4);
    gas_io(a, 8, 1, 0xcf9);
    aml_byte(a, 0x0e); /* reset value */
    aml_le(a, 0, 3);   /* ARM flags, minor version */
}

static size_t fadt(struct vmc_pc *pc, struct aml *a, size_t facs_at, size_t dsdt_at)
{
    uint16_t pm = vmc_chipset_pm_base(pc->chipset);

    if (pm == 0)
        pm = PC_PM_BASE; /* firmware has not switched it on yet; this is where it will */
    size_t at = table_begin(pc, a, "FACP", FADT_REV);
    pointer(pc, a, facs_at, 4);
    pointer(pc, a, dsdt_at, 4);
    fadt_fixed(pc, a, pm);
    aml_le(a, 0, 8); /* X_FIRMWARE_CTRL: the 32-bit one counts */
    pointer(pc, a, dsdt_at, 8);
    gas_io(a, 32, 2, pm);
    gas_io(a, 0, 0, 0);
    gas_io(a, 16, 2, pm + 4u);
    gas_io(a, 0, 0, 0);
    gas_io(a, 0, 0, 0);
    gas_io(a, 32, 3, pm + 8u);
    gas_io(a, 128, 1, pm + 32u);
    gas_io(a, 0, 0, 0);
    while (a->len - at < FADT_BYTES)
        aml_byte(a, 0); /* sleep registers: not hardware-reduced */
    table_end(pc, a, at);
    return at;
}

static void irq_override(struct aml *a, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    aml_byte(a, 2);
    aml_byte(a, 10);
    aml_byte(a, 0); /* ISA */
    aml_byte(a, irq);
    aml_le(a, gsi, 4);
    aml_le(a, flags, 2);
}

static void madt_cpu(struct aml *a, uint32_t id)
{
    bool wide = id > XAPIC_ID_MAX;

    aml_byte(a, wide ? 9 : 0);
    aml_byte(a, wide ? 16 : 8);
    if (wide) {
        aml_le(a, 0, 2);
        aml_le(a, id, 4);
        aml_le(a, 1, 4); /* enabled */
        aml_le(a, id, 4);
    } else {
        aml_byte(a, (uint8_t)id); /* ACPI UID, then APIC ID */
        aml_byte(a, (uint8_t)id);
        aml_le(a, 1, 4);
    }
}

static size_t madt(struct vmc_pc *pc, struct aml *a)
{
    const uint16_t level_high = 0x0d;
    size_t at = table_begin(pc, a, "APIC", MADT_REV);

    aml_le(a, LAPIC_GPA, 4);
    aml_le(a, 1, 4); /* there is an 8259 pair */
    for (unsigned i = 0; i < pc->cfg.cpus; i++)
        madt_cpu(a, i);
    aml_byte(a, 1); /* IOAPIC */
    aml_byte(a, 12);
    aml_byte(a, 0);
    aml_byte(a, 0);
    aml_le(a, IOAPIC_GPA, 4);
    aml_le(a, 0, 4);
    irq_override(a, 0, 2, 0);
    irq_override(a, PC_SCI, PC_SCI, level_high);
    irq_override(a, 10, 10, level_high); /* PIRQs, in PIC mode */
    irq_override(a, 11, 11, level_high);
    aml_byte(a, 4); /* NMI on LINT1 of every local APIC */
    aml_byte(a, 6);
    aml_byte(a, 0xff);
    aml_le(a, 0, 2);
    aml_byte(a, 1);
    if (pc->cfg.cpus > XAPIC_ID_MAX + 1) {
        aml_byte(a, 10);
        aml_byte(a, 12);
        aml_le(a, 0, 2);
        aml_le(a, 0xffffffffu, 4);
        aml_byte(a, 1);
        aml_le(a, 0, 3);
    }
    table_end(pc, a, at);
    return at;
}

static size_t mcfg(struct vmc_pc *pc, struct aml *a)
{
    uint64_t base = 0, bytes = 0;

    vmc_pci_bus_ecam(vmc_chipset_pci(pc->chipset), &base, &bytes);
    size_t at = table_begin(pc, a, "MCFG", 1);
    aml_le(a, 0, 8);
    aml_le(a, base, 8);
    aml_le(a, 0, 2); /* segment */
    aml_byte(a, 0);  /* buses */
    aml_byte(a, bytes != 0 ? (uint8_t)((bytes >> 20) - 1) : 0);
    aml_le(a, 0, 4);
    table_end(pc, a, at);
    return at;
}

static size_t hpet(struct vmc_pc *pc, struct aml *a)
{
    size_t at = table_begin(pc, a, "HPET", 1);

    aml_le(a, 0x8086a201, 4);
    aml_byte(a, 0); /* memory space */
    aml_byte(a, 64);
    aml_le(a, 0, 2);
    aml_le(a, PC_HPET_BASE, 8);
    aml_byte(a, 0);    /* number */
    aml_le(a, 100, 2); /* shortest period, in ticks */
    aml_byte(a, 0);
    table_end(pc, a, at);
    return at;
}

static size_t root_table(struct vmc_pc *pc, struct aml *a, const char *sig, const size_t *tables,
                         unsigned n, unsigned bytes)
{
    size_t at = table_begin(pc, a, sig, 1);

    for (unsigned i = 0; i < n; i++)
        pointer(pc, a, tables[i], bytes);
    table_end(pc, a, at);
    return at;
}

int vmci_acpi_build(struct vmc_pc *pc, struct vmc_error *err)
{
    struct acpi_blob *b = &pc->acpi;
    struct aml a = {.buf = b->data, .room = sizeof(b->data)};
    size_t list[4];
    unsigned n = 0;

    b->pointers = b->sums = 0;
    size_t facs_at = facs(&a);
    size_t dsdt_at = table_begin(pc, &a, "DSDT", 2);
    vmci_acpi_dsdt(pc, &a);
    table_end(pc, &a, dsdt_at);
    list[n++] = fadt(pc, &a, facs_at, dsdt_at);
    list[n++] = madt(pc, &a);
    list[n++] = mcfg(pc, &a);
    if (pc->hpet != NULL)
        list[n++] = hpet(pc, &a);
    b->facs = (uint32_t)facs_at;
    b->rsdt = (uint32_t)root_table(pc, &a, "RSDT", list, n, 4);
    b->xsdt = (uint32_t)root_table(pc, &a, "XSDT", list, n, 8);
    if (a.len > a.room)
        return vmci_error(err, VMC_ELIMIT, "pc/acpi", "the ACPI tables need %zu bytes of %zu",
                          a.len, a.room);
    b->bytes = (uint32_t)a.len;
    return VMC_OK;
}

/* ---- in guest memory ----------------------------------------------------------------------- */

static uint8_t checksum(const uint8_t *p, size_t n)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum = (uint8_t)(sum + p[i]);
    return (uint8_t)-sum;
}

static void rsdp_fill(struct vmc_pc *pc, uint64_t tables)
{
    uint8_t *r = pc->rsdp;

    memset(r, 0, sizeof(pc->rsdp));
    memcpy(r, "RSD PTR ", 8);
    memcpy(r + 9, "VMCORE", 6);
    r[15] = 2; /* revision */
    vmci_st_le32(r + 16, (uint32_t)tables + pc->acpi.rsdt);
    vmci_st_le32(r + 20, ACPI_RSDP_BYTES);
    vmci_st_le64(r + 24, tables + pc->acpi.xsdt);
}

int vmci_acpi_place(struct vmc_pc *pc, uint64_t gpa, struct vmc_error *err)
{
    struct acpi_blob *b = &pc->acpi;
    uint64_t tables = gpa + PC_ACPI_RSDP_ROOM;

    for (unsigned i = 0; i < b->pointers; i++) {
        uint8_t *p = b->data + b->pointer[i].at;
        if (b->pointer[i].bytes == 8)
            vmci_st_le64(p, vmci_ld_le64(p) + tables);
        else
            vmci_st_le32(p, vmci_ld_le32(p) + (uint32_t)tables);
    }
    for (unsigned i = 0; i < b->sums; i++) {
        uint8_t *p = b->data + b->sum[i].start;
        p[SUM_OFFSET] = 0;
        p[SUM_OFFSET] = checksum(p, b->sum[i].bytes);
    }
    rsdp_fill(pc, tables);
    pc->rsdp[8] = checksum(pc->rsdp, 20);
    pc->rsdp[32] = checksum(pc->rsdp, ACPI_RSDP_BYTES);
    int rc = vmc_mem_load(pc->bd->mem, gpa, pc->rsdp, ACPI_RSDP_BYTES);
    if (rc == VMC_OK)
        rc = vmc_mem_load(pc->bd->mem, tables, b->data, b->bytes);
    if (rc != VMC_OK)
        return vmci_error(err, rc, "pc/acpi", "no guest memory at 0x%llx for the ACPI tables",
                          (unsigned long long)gpa);
    return VMC_OK;
}
