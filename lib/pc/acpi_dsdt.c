/* SPDX-License-Identifier: BSD-2-Clause */
/* The DSDT: the PCI root bridge with its windows and interrupt routing, fixed devices, CPUs. */
#include "pc/aml.h"
#include "pc/pc_priv.h"

#define STA_PRESENT 0x0fu
#define STA_HIDDEN  0x0bu

/* ---- PCI ----------------------------------------------------------------------------------- */

/*
 * _PRT (ACPI 6.4 6.2.13): pin p of slot s is line (s + p) % 4 of the root bus. apic: as IOAPIC
 * inputs; else as the ISA interrupts that the PIRQ registers were given.
 */
static void routing(struct aml *a, const char *name, bool apic)
{
    static const uint8_t isa[4] = {10, 10, 11, 11};

    aml_name(a, name);
    size_t table = aml_package(a, VMC_PCI_SLOTS * 4);
    for (unsigned slot = 0; slot < VMC_PCI_SLOTS; slot++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            unsigned line = (slot + pin) % 4;
            size_t entry = aml_package(a, 4);
            aml_int(a, slot << 16 | 0xffff);
            aml_int(a, pin);
            aml_int(a, 0);
            aml_int(a, apic ? PC_INTX_GSI + line : isa[line]);
            aml_end(a, entry);
        }
    }
    aml_end(a, table);
}

static void prt_method(struct aml *a)
{
    size_t m = aml_method(a, "_PRT", 0);
    size_t i = aml_if(a);
    aml_path(a, "PICF");
    aml_op(a, AML_RETURN);
    aml_path(a, "PRTA");
    aml_end(a, i);
    aml_op(a, AML_RETURN);
    aml_path(a, "PRTP");
    aml_end(a, m);
}

/* Field of the capabilities buffer that _OSC gets: CreateDWordField (Arg3, offset, name). */
static void osc_field(struct aml *a, unsigned offset, const char *name)
{
    aml_op(a, AML_CREATE_DWORD);
    aml_byte(a, AML_ARG0 + 3);
    aml_int(a, offset);
    aml_path(a, name);
}

static void osc_flag(struct aml *a, const char *field, unsigned bit)
{
    aml_op(a, AML_OR);
    aml_path(a, field);
    aml_int(a, bit);
    aml_path(a, field);
}

/*
 * _OSC (PCI Firmware 3.2 4.5): the operating system gets what it asks for among hot plug, PME, AER
 * and the capability structure; there is nothing here that would use them.
 */
static void osc_method(struct aml *a)
{
    /* 33db4d5b-1ff7-401c-9657-7441c03dd766 */
    static const uint8_t uuid[16] = {0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
                                     0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66};
    size_t m = aml_method(a, "_OSC", 4);

    osc_field(a, 0, "CDW1");
    size_t i = aml_if(a);
    aml_op(a, AML_LEQUAL);
    aml_op(a, AML_ARG0);
    size_t b = aml_buffer(a);
    aml_bytes(a, uuid, sizeof(uuid));
    aml_buffer_end(a, b);
    osc_field(a, 8, "CDW3");
    aml_op(a, AML_STORE);
    aml_path(a, "CDW3");
    aml_op(a, AML_LOCAL0);
    aml_op(a, AML_AND);
    aml_op(a, AML_LOCAL0);
    aml_int(a, 0x1f);
    aml_op(a, AML_LOCAL0);
    size_t rev = aml_if(a);
    aml_op(a, AML_LNOT);
    aml_op(a, AML_LEQUAL);
    aml_byte(a, AML_ARG0 + 1);
    aml_int(a, 1);
    osc_flag(a, "CDW1", 0x08); /* unknown revision */
    aml_end(a, rev);
    size_t masked = aml_if(a);
    aml_op(a, AML_LNOT);
    aml_op(a, AML_LEQUAL);
    aml_path(a, "CDW3");
    aml_op(a, AML_LOCAL0);
    osc_flag(a, "CDW1", 0x10); /* capabilities were masked */
    aml_end(a, masked);
    aml_op(a, AML_STORE);
    aml_op(a, AML_LOCAL0);
    aml_path(a, "CDW3");
    aml_end(a, i);
    size_t e = aml_else(a);
    osc_flag(a, "CDW1", 0x04); /* unknown UUID */
    aml_end(a, e);
    aml_op(a, AML_RETURN);
    aml_byte(a, AML_ARG0 + 3);
    aml_end(a, m);
}

static void pci_root(struct vmc_pc *pc, struct aml *a)
{
    struct vmc_pci_windows win;

    vmci_pc_windows(pc, &win);
    size_t d = aml_device(a, "PCI0");
    aml_name(a, "_HID");
    aml_eisaid(a, "PNP0A08");
    aml_name(a, "_CID");
    aml_eisaid(a, "PNP0A03");
    aml_name_int(a, "_UID", 0);
    aml_name_int(a, "_SEG", 0);
    aml_name_int(a, "_BBN", 0);
    size_t r = aml_resources(a, "_CRS");
    aml_res_bus(a, 0, 0xff);
    aml_res_io(a, 0xcf8, 8);
    aml_res_io_window(a, 0, 0xcf7);
    aml_res_io_window(a, 0xd00, 0xffff);
    aml_res_mem_window32(a, PC_VGA_BASE, PC_VGA_END - 1);
    aml_res_mem_window32(a, (uint32_t)win.mem_base, (uint32_t)(win.mem_base + win.mem_bytes - 1));
    aml_res_mem_window64(a, win.mem64_base, win.mem64_base + win.mem64_bytes - 1);
    aml_resources_end(a, r);
    routing(a, "PRTA", true);
    routing(a, "PRTP", false);
    prt_method(a);
    osc_method(a);
    size_t isa = aml_device(a, "ISA");
    aml_name_int(a, "_ADR", 0x1f0000);
    aml_end(a, isa);
    aml_end(a, d);
}

/* ---- fixed devices ------------------------------------------------------------------------- */

/* Begins a device with its identity; aml_resources follows. */
static size_t fixed(struct aml *a, const char *name, const char *hid, unsigned uid)
{
    size_t d = aml_device(a, name);

    aml_name(a, "_HID");
    aml_eisaid(a, hid);
    aml_name_int(a, "_UID", uid);
    return d;
}

static void fixed_end(struct aml *a, size_t d, size_t r, unsigned sta)
{
    aml_resources_end(a, r);
    aml_name_int(a, "_STA", sta);
    aml_end(a, d);
}

static void isa_devices(struct aml *a)
{
    size_t s = aml_scope(a, "\\_SB.PCI0.ISA");
    size_t d = fixed(a, "COM1", "PNP0501", 1);
    size_t r = aml_resources(a, "_CRS");
    aml_res_io(a, PC_COM1, 8);
    aml_res_irq(a, 4);
    fixed_end(a, d, r, STA_PRESENT);

    d = fixed(a, "RTC", "PNP0B00", 0);
    r = aml_resources(a, "_CRS");
    aml_res_io(a, 0x70, 4);
    aml_res_irq(a, 8);
    fixed_end(a, d, r, STA_PRESENT);

    d = fixed(a, "KBD", "PNP0303", 0);
    r = aml_resources(a, "_CRS");
    aml_res_io(a, 0x60, 1);
    aml_res_io(a, 0x64, 1);
    aml_res_irq(a, 1);
    fixed_end(a, d, r, STA_PRESENT);
    aml_end(a, s);
}

static void board_devices(struct vmc_pc *pc, struct aml *a)
{
    uint64_t ecam = 0, ecam_bytes = 0;

    vmc_pci_bus_ecam(vmc_chipset_pci(pc->chipset), &ecam, &ecam_bytes);
    /* What belongs to the board and to no driver. */
    size_t d = fixed(a, "MRES", "PNP0C02", 0);
    size_t r = aml_resources(a, "_CRS");
    aml_res_io(a, PC_PM_BASE, 0x80);
    aml_res_io(a, 0xb2, 2);
    aml_res_io(a, 0x92, 1);
    aml_res_io(a, 0x4d0, 2);
    aml_res_mem32(a, (uint32_t)ecam, (uint32_t)ecam_bytes);
    fixed_end(a, d, r, STA_PRESENT);

    if (pc->hpet != NULL) {
        d = fixed(a, "HPET", "PNP0103", 0);
        r = aml_resources(a, "_CRS");
        aml_res_mem32(a, PC_HPET_BASE, 0x400);
        fixed_end(a, d, r, STA_PRESENT);
    }

    d = aml_device(a, "FWCF");
    aml_name(a, "_HID");
    aml_string(a, "QEMU0002");
    r = aml_resources(a, "_CRS");
    aml_res_io(a, PC_FW_CFG, 12);
    fixed_end(a, d, r, STA_HIDDEN);
}

static void cpus(struct vmc_pc *pc, struct aml *a)
{
    for (unsigned i = 0; i < pc->cfg.cpus; i++) {
        char name[8];
        vmci_snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        size_t d = aml_device(a, name);
        aml_name(a, "_HID");
        aml_string(a, "ACPI0007");
        aml_name_int(a, "_UID", i);
        aml_name_int(a, "_STA", STA_PRESENT);
        aml_end(a, d);
    }
}

/* What PM1 control takes as SLP_TYP (ACPI 6.4 7.4.2). */
static void sleep_state(struct aml *a, const char *name, unsigned type)
{
    aml_name(a, name);
    size_t p = aml_package(a, 4);
    for (unsigned i = 0; i < 4; i++)
        aml_int(a, i < 2 ? type : 0);
    aml_end(a, p);
}

/* ---- all ----------------------------------------------------------------------------------- */

void vmci_acpi_dsdt(struct vmc_pc *pc, struct aml *a)
{
    aml_name_int(a, "\\PICF", 0);
    size_t pic = aml_method(a, "\\_PIC", 1);
    aml_op(a, AML_STORE);
    aml_op(a, AML_ARG0);
    aml_path(a, "PICF");
    aml_end(a, pic);

    size_t sb = aml_scope(a, "\\_SB");
    pci_root(pc, a);
    board_devices(pc, a);
    cpus(pc, a);
    aml_end(a, sb);
    isa_devices(a);

    if (pc_sleeps(pc))
        sleep_state(a, "\\_S3", 1);
    sleep_state(a, "\\_S5", 0);
}
