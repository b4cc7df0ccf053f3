/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The tables of the MultiProcessor specification 1.4 (chapter 4), for systems that look there for
 * processors and interrupts: older than ACPI, or told to do without it.
 */
#include "pc/aml.h"
#include "pc/pc_priv.h"

#define POINTER_BYTES 16u
#define TABLE_MAX     0x2000u
#define SPEC_REV      4 /* 1.4 */

#define LAPIC_GPA     0xfee00000u
#define LAPIC_VERSION 0x14
#define IOAPIC_GPA    0xfec00000u
#define XAPIC_IDS     255u /* 255 is everybody */

_Static_assert(PC_BIOS_BASE + PC_ACPI_RSDP_ROOM + ACPI_BLOB_MAX <= PC_MP_BASE, "the ACPI tables");
_Static_assert(PC_MP_BASE + TABLE_MAX <= PC_1M, "conventional memory");

enum entry { PROCESSOR, BUS, IOAPIC, IO_INT, LOCAL_INT };
enum int_type { INT, NMI, EXTINT = 3 };
enum bus { PCI_BUS, ISA_BUS };

#define CPU_ENABLED 1u
#define CPU_BOOT    2u

static void processor(struct aml *a, unsigned id)
{
    aml_byte(a, PROCESSOR);
    aml_byte(a, (uint8_t)id);
    aml_byte(a, LAPIC_VERSION);
    aml_byte(a, CPU_ENABLED | (id == 0 ? CPU_BOOT : 0));
    aml_le(a, 0x600, 4); /* family 6; CPUID knows more */
    aml_le(a, 0x201, 4); /* FPU, APIC */
    aml_le(a, 0, 8);
}

static void bus(struct aml *a, enum bus id, const char *name)
{
    aml_byte(a, BUS);
    aml_byte(a, (uint8_t)id);
    aml_bytes(a, name, 6);
}

/* Polarity and trigger mode are those of the bus. */
static void interrupt(struct aml *a, enum entry entry, enum int_type type, enum bus from,
                      unsigned irq, uint8_t to, unsigned input)
{
    aml_byte(a, (uint8_t)entry);
    aml_byte(a, (uint8_t)type);
    aml_le(a, 0, 2);
    aml_byte(a, (uint8_t)from);
    aml_byte(a, (uint8_t)irq);
    aml_byte(a, to);
    aml_byte(a, (uint8_t)input);
}

static unsigned entries(struct vmc_pc *pc, struct aml *a)
{
    unsigned n = 0;

    for (; n < VMCI_MIN(pc->cfg.cpus, XAPIC_IDS); n++)
        processor(a, n);
    bus(a, PCI_BUS, "PCI   ");
    bus(a, ISA_BUS, "ISA   ");
    aml_byte(a, IOAPIC);
    aml_byte(a, 0); /* its ID */
    aml_byte(a, 0x20);
    aml_byte(a, 1); /* usable */
    aml_le(a, IOAPIC_GPA, 4);
    n += 3;
    for (unsigned irq = 0; irq < 16; irq++) {
        if (irq == 2) /* the cascade; its input is the timer's */
            continue;
        interrupt(a, IO_INT, INT, ISA_BUS, irq, 0, irq == 0 ? 2 : irq);
        n++;
    }
    for (unsigned slot = 1; slot < VMC_PCI_SLOTS; slot++) {
        for (unsigned pin = 0; pin < 4; pin++, n++)
            interrupt(a, IO_INT, INT, PCI_BUS, slot << 2 | pin, 0, PC_INTX_GSI + (slot + pin) % 4);
    }
    interrupt(a, LOCAL_INT, EXTINT, ISA_BUS, 0, 0, 0); /* 8259s at LINT0 of the first */
    interrupt(a, LOCAL_INT, NMI, ISA_BUS, 0, 0xff, 1); /* LINT1 of all */
    return n + 2;
}

static void set_checksum(uint8_t *p, size_t n, size_t at)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum = (uint8_t)(sum + p[i]);
    p[at] = (uint8_t)(p[at] - sum);
}

int vmci_mp_table(struct vmc_pc *pc, struct vmc_error *err)
{
    uint8_t b[TABLE_MAX];
    struct aml a = {.buf = b, .room = sizeof(b)};

    aml_bytes(&a, "_MP_", 4);
    aml_le(&a, PC_MP_BASE + POINTER_BYTES, 4);
    aml_byte(&a, 1); /* length in 16 bytes */
    aml_byte(&a, SPEC_REV);
    aml_byte(&a, 0);  /* checksum */
    aml_le(&a, 0, 5); /* features: a table, no IMCR, so virtual wire mode */

    aml_bytes(&a, "PCMP", 4);
    aml_le(&a, 0, 2); /* length */
    aml_byte(&a, SPEC_REV);
    aml_byte(&a, 0); /* checksum */
    aml_bytes(&a, "VMCORE  VMCOREPC    ", 20);
    aml_le(&a, 0, 6); /* no table of the manufacturer's */
    aml_le(&a, 0, 2); /* number of entries */
    aml_le(&a, LAPIC_GPA, 4);
    aml_le(&a, 0, 4); /* no extended entries */
    unsigned n = entries(pc, &a);
    if (a.len > a.room)
        return vmci_error(err, VMC_ELIMIT, "pc/mp", "the MP table needs %zu bytes of %zu", a.len,
                          a.room);
    uint8_t *table = b + POINTER_BYTES;
    vmci_st_le16(table + 4, (uint16_t)(a.len - POINTER_BYTES));
    vmci_st_le16(table + 34, (uint16_t)n);
    set_checksum(b, POINTER_BYTES, 10);
    set_checksum(table, a.len - POINTER_BYTES, 7);
    int rc = vmc_mem_load(pc->bd->mem, PC_MP_BASE, b, a.len);
    return rc == VMC_OK ? rc : vmci_error(err, rc, "pc/mp", "no guest memory for the MP table");
}
