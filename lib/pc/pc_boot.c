/* SPDX-License-Identifier: BSD-2-Clause */
/* Starting the machine: what firmware would have left behind, or firmware itself. */
#include <vmcore/x86.h>

#include "irq/irq_int.h"
#include "pc/pc_priv.h"

#define RNG_SEED_BYTES 32
#define XBAR_ENABLE    1u
#define MCH_PCIEXBAR   0x60
#define LPC_PIRQ_A     0x60
#define LPC_PIRQ_E     0x68
#define PIRQ_ROUTES    0x0b0b0a0au /* A, B (E, F): 10; C, D (G, H): 11 */
#define PIC_ELCR_SLAVE 0x4d1
#define LEVEL_9_10_11  0x0eu

/* Vectors of the interrupt controllers under a BIOS. */
#define PC_BIOS_MASTER 0x08u
#define PC_BIOS_SLAVE  0x70u

#define MTRR_ENABLED  0xc06ull /* fixed ranges on, default write-back */
#define MTRR_WB       0x0606060606060606ull
#define MTRR_FIX16K_A 2 /* of mtrr_fixed: 0xa0000-0xbffff, not cached */

/* ---- memory map ---------------------------------------------------------------------------- */

static void map_add(struct vmc_pc *pc, uint64_t base, uint64_t end, uint32_t type)
{
    if (end > base)
        pc->memmap[pc->memmap_count++] =
            (struct vmc_memmap){.base = base, .bytes = end - base, .type = type};
}

void vmci_pc_memmap(struct vmc_pc *pc, bool firmware)
{
    pc->memmap_count = 0;
    if (firmware) {
        map_add(pc, 0, pc->low_bytes, VMC_MEMMAP_RAM);
    } else {
        map_add(pc, 0, PC_EBDA, VMC_MEMMAP_RAM);
        map_add(pc, PC_EBDA, PC_VGA_BASE, VMC_MEMMAP_RESERVED);
        map_add(pc, PC_BIOS_BASE, PC_1M, VMC_MEMMAP_RESERVED);
        map_add(pc, PC_1M, pc->low_bytes, VMC_MEMMAP_RAM);
        map_add(pc, PC_ECAM_BASE, PC_ECAM_BASE + PC_ECAM_BYTES, VMC_MEMMAP_RESERVED);
        map_add(pc, PC_RESERVED_BASE, PC_4G, VMC_MEMMAP_RESERVED);
    }
    map_add(pc, PC_4G, pc_ram_end(pc), VMC_MEMMAP_RAM);
}

void vmci_pc_windows(struct vmc_pc *pc, struct vmc_pci_windows *win)
{
    uint64_t ecam = 0, bytes = 0;

    vmc_pci_bus_ecam(vmc_chipset_pci(pc->chipset), &ecam, &bytes);
    uint64_t base = VMCI_MAX(pc->low_bytes, PC_LOW_MAX);
    if (bytes != 0 && ecam + bytes > base && ecam < PC_HOLE_END)
        base = ecam + bytes;
    if (base >= PC_HOLE_END)
        base = PC_LOW_MAX;
    *win = (struct vmc_pci_windows){
        .io_base = PC_PCI_IO_BASE,
        .io_bytes = PC_PCI_IO_BYTES,
        .mem_base = base,
        .mem_bytes = PC_HOLE_END - base,
        .mem64_base = vmci_align_up(pc_ram_end(pc), PC_MEM64_ALIGN),
        .mem64_bytes = PC_MEM64_BYTES,
    };
}

/* ---- without firmware ---------------------------------------------------------------------- */

/* Chipset and PCI as firmware leaves them. */
static int program_chipset(struct vmc_pc *pc, struct vmc_error *err)
{
    static const uint8_t line_irq[4] = {10, 10, 11, 11};
    struct vmc_pci_bus *bus = vmc_chipset_pci(pc->chipset);
    struct vmc_pci_windows win;
    const uint8_t mch = VMC_PCI_DEVFN(0, 0), lpc = VMC_PCI_DEVFN(0x1f, 0);

    vmc_pci_config_write(bus, mch, MCH_PCIEXBAR + 4, 4, 0);
    vmc_pci_config_write(bus, mch, MCH_PCIEXBAR, 4, (uint32_t)PC_ECAM_BASE | XBAR_ENABLE);
    vmc_pci_config_write(bus, lpc, LPC_PIRQ_A, 4, PIRQ_ROUTES);
    vmc_pci_config_write(bus, lpc, LPC_PIRQ_E, 4, PIRQ_ROUTES);
    vmc_bus_write(pc->bd->pio, PIC_ELCR_SLAVE, 1, LEVEL_9_10_11); /* SCI and PCI */
    vmci_pc_windows(pc, &win);
    return vmc_pci_bus_assign(bus, &win, line_irq, err);
}

/* Interrupt handlers for real mode, in the extended BIOS data area. */
#define AT_NO_BIOS 0x10u
#define AT_TIMER   0x20u
#define AT_MASTER  0x40u
#define AT_SLAVE   0x50u

/* Set the caller's carry flag: no such function. */
static const uint8_t no_bios[] = {
    0x55,                   /* push bp */
    0x89, 0xe5,             /* mov bp, sp */
    0x80, 0x4e, 0x06, 0x01, /* or byte [bp + 6], 1 */
    0x5d,                   /* pop bp */
    0xcf,                   /* iret */
};

/* Count a tick, and tell whoever wants to know. */
static const uint8_t on_timer[] = {
    0x50, 0x1e,                   /* push ax; push ds */
    0x31, 0xc0, 0x8e, 0xd8,       /* xor ax, ax; mov ds, ax */
    0x66, 0xff, 0x06, 0x6c, 0x04, /* inc dword [0x46c] */
    0xcd, 0x1c,                   /* int 0x1c */
    0xb0, 0x20, 0xe6, 0x20,       /* mov al, 0x20; out 0x20, al */
    0x1f, 0x58, 0xcf,             /* pop ds; pop ax; iret */
};

static const uint8_t on_master[] = {
    0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf, /* push ax; mov al, 0x20; out 0x20, al; ... */
};

static const uint8_t on_slave[] = {
    0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf, /* ... out 0xa0, al; out 0x20, al; ... */
};

static unsigned handler_of(unsigned vector)
{
    if (vector == PC_BIOS_MASTER)
        return AT_TIMER;
    if (vector - PC_BIOS_MASTER < 8)
        return AT_MASTER;
    return vector - PC_BIOS_SLAVE < 8 ? AT_SLAVE : AT_NO_BIOS;
}

static int write_vectors(struct vmc_pc *pc)
{
    static const struct {
        unsigned at;
        const uint8_t *code;
        size_t bytes;
    } handlers[] = {
        {AT_NO_BIOS, no_bios, sizeof(no_bios)},
        {AT_TIMER, on_timer, sizeof(on_timer)},
        {AT_MASTER, on_master, sizeof(on_master)},
        {AT_SLAVE, on_slave, sizeof(on_slave)},
    };
    uint8_t ivt[1024];
    int rc = VMC_OK;

    for (unsigned i = 0; i < 256; i++)
        vmci_st_le32(ivt + (size_t)i * 4, (uint32_t)(PC_EBDA >> 4) << 16 | handler_of(i));
    for (unsigned i = 0; rc == VMC_OK && i < VMCI_ARRAY_SIZE(handlers); i++)
        rc = vmc_mem_write(pc->bd->mem, PC_EBDA + handlers[i].at, handlers[i].code,
                           handlers[i].bytes);
    return rc != VMC_OK ? rc : vmc_mem_write(pc->bd->mem, 0, ivt, sizeof(ivt));
}

/*
 * The 8259s and the timer as a BIOS leaves them, for programs that boot code of a PC starts: ticks
 * come 18.2 times a second as vector 8 to those that allow interrupts and do not say otherwise.
 */
static void start_ticks(struct vmc_pc *pc)
{
    static const struct {
        uint16_t port;
        uint8_t value;
    } writes[] = {
        {0x20, 0x11}, /* ICW1 to ICW4 */
        {0x21, PC_BIOS_MASTER},
        {0x21, 4},
        {0x21, 1},
        {0xa0, 0x11},
        {0xa1, PC_BIOS_SLAVE},
        {0xa1, 2},
        {0xa1, 1},
        {0x21, 0xfa}, /* the timer and the cascade are open */
        {0xa1, 0xff},
        {0x43, 0x34}, /* channel 0, mode 2, 65536 */
        {0x40, 0},
        {0x40, 0},
    };

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(writes); i++)
        vmc_bus_write(pc->bd->pio, writes[i].port, 1, writes[i].value);
}

/*
 * What programs of the PC's first days, and boot code since, find in the BIOS data area. Some boot
 * code returns to real mode and calls the BIOS: it finds one that can do nothing.
 */
static int write_bios_data(struct vmc_pc *pc)
{
    static const struct {
        uint16_t gpa, value;
    } words[] = {
        {0x400, 0x3f8},                     /* COM1 */
        {0x40e, (uint16_t)(PC_EBDA >> 4)},  /* segment of the extended BIOS data area */
        {0x413, (uint16_t)(PC_EBDA >> 10)}, /* conventional memory in KiB */
    };
    const uint8_t ebda_kib = (uint8_t)((PC_VGA_BASE - PC_EBDA) >> 10);
    int rc = write_vectors(pc);

    if (rc == VMC_OK)
        rc = vmc_mem_write(pc->bd->mem, PC_EBDA, &ebda_kib, 1);
    for (unsigned i = 0; rc == VMC_OK && i < VMCI_ARRAY_SIZE(words); i++) {
        uint8_t le[2];
        vmci_st_le16(le, words[i].value);
        rc = vmc_mem_write(pc->bd->mem, words[i].gpa, le, sizeof(le));
    }
    return rc;
}

/* All processors get the memory types that firmware would set (SDM 3A 11.11). */
static int set_mtrrs(struct vmc_pc *pc, struct vmc_x86_state *st, struct vmc_error *err)
{
    for (unsigned i = 0; i < pc->cfg.cpus; i++) {
        struct vmc_vcpu *v = vmc_vm_vcpu(pc->vm, i);
        if (v == NULL)
            return vmci_error(err, VMC_ESTATE, "pc/boot", "vCPU %u does not exist", i);
        int rc = vmc_vcpu_get_state(v, VMC_ST_MSR, st);
        if (rc == VMC_OK) {
            st->msr.mtrr_def_type = MTRR_ENABLED;
            for (unsigned n = 0; n < VMCI_ARRAY_SIZE(st->msr.mtrr_fixed); n++)
                st->msr.mtrr_fixed[n] = n == MTRR_FIX16K_A ? 0 : MTRR_WB;
            rc = vmc_vcpu_set_state(v, VMC_ST_MSR, st);
        }
        if (rc != VMC_OK)
            return vmci_error(err, rc, "pc/boot", "cannot set the MTRRs of vCPU %u", i);
    }
    return VMC_OK;
}

/* Virtual wire mode (MP specification 3.6.2.2): the 8259's interrupts and NMIs come by the APIC. */
static int set_lapic(struct vmc_pc *pc, struct vmc_x86_state *st, struct vmc_error *err)
{
    struct vmc_vcpu *v = vmc_vm_vcpu(pc->vm, 0);
    int rc = vmc_vcpu_get_state(v, VMC_ST_LAPIC, st);

    if (rc == VMC_OK) {
        vmci_st_le32(st->lapic + VMCI_APIC_SVR, VMCI_SVR_ENABLE | 0xff);
        vmci_st_le32(st->lapic + VMCI_APIC_LVT_LINT0,
                     (uint32_t)VMCI_IRQ_EXTINT << VMCI_LVT_MODE_SHIFT);
        vmci_st_le32(st->lapic + VMCI_APIC_LVT_LINT1,
                     (uint32_t)VMCI_IRQ_NMI << VMCI_LVT_MODE_SHIFT);
        rc = vmc_vcpu_set_state(v, VMC_ST_LAPIC, st);
    }
    return rc == VMC_OK ? rc : vmci_error(err, rc, "pc/boot", "cannot set up the local APIC");
}

static int load_kernel(struct vmc_pc *pc, const struct vmc_pc_boot *b, struct vmc_x86_state *st,
                       struct vmc_boot_result *out, struct vmc_error *err)
{
    uint8_t seed[RNG_SEED_BYTES];
    struct vmc_boot_config cfg = {
        .size = sizeof(cfg),
        .kind = b->kind,
        .image = b->kernel,
        .initrd = b->initrd,
        .cmdline = b->cmdline,
        .name = b->name,
        .modules = b->modules,
        .module_count = b->module_count,
        .memmap = pc->memmap,
        .memmap_count = pc->memmap_count,
        .rsdp = PC_BIOS_BASE,
        .rsdp_bytes = PC_ACPI_RSDP_ROOM + pc->acpi.bytes,
        .flat_mode = b->flat_mode,
        .flat_gpa = b->flat_gpa,
        .flat_entry = b->flat_entry,
    };

    if (vmci_pf_has(pc->pf, entropy) &&
        pc->pf->entropy->fill(pc->pf->ctx, seed, sizeof(seed)) == VMC_OK) {
        cfg.rng_seed = seed;
        cfg.rng_seed_bytes = sizeof(seed);
    }
    return vmc_boot_load(pc->pf, pc->bd->mem, &cfg, st, out, err);
}

static int boot_direct(struct vmc_pc *pc, const struct vmc_pc_boot *b, struct vmc_x86_state *st,
                       struct vmc_boot_result *out, struct vmc_error *err)
{
    int rc = program_chipset(pc, err);

    if (rc == VMC_OK)
        rc = write_bios_data(pc);
    if (rc == VMC_OK)
        rc = vmci_pc_fw_cfg(pc, err);
    if (rc == VMC_OK)
        rc = vmci_acpi_build(pc, err);
    if (rc == VMC_OK)
        rc = vmci_acpi_place(pc, PC_BIOS_BASE, err);
    if (rc == VMC_OK) /* fw_cfg keeps its own copy: the tables with offsets */
        rc = vmci_acpi_build(pc, err);
    if (rc == VMC_OK)
        rc = vmci_mp_table(pc, err);
    if (rc == VMC_OK)
        rc = set_mtrrs(pc, st, err);
    if (rc == VMC_OK)
        rc = set_lapic(pc, st, err);
    vmci_pc_memmap(pc, false);
    if (rc == VMC_OK)
        rc = load_kernel(pc, b, st, out, err);
    if (rc == VMC_OK && (out->kind == VMC_BOOT_MULTIBOOT || out->kind == VMC_BOOT_FLAT))
        start_ticks(pc);
    return rc;
}

/* ---- with firmware ------------------------------------------------------------------------- */

static int boot_firmware(struct vmc_pc *pc, const struct vmc_pc_boot *b, struct vmc_x86_state *st,
                         struct vmc_boot_result *out, struct vmc_error *err)
{
    struct vmc_boot_config cfg = {
        .size = sizeof(cfg), .kind = VMC_BOOT_FIRMWARE, .image = b->firmware};
    int rc = vmci_pc_fw_cfg(pc, err);

    if (rc == VMC_OK)
        rc = vmc_boot_load(pc->pf, pc->bd->mem, &cfg, st, out, err);
    return rc;
}

/* ---- start --------------------------------------------------------------------------------- */

#define START_GROUPS (VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG | VMC_ST_TABLES | VMC_ST_CTRL)

int vmc_pc_boot(struct vmc_pc *pc, const struct vmc_pc_boot *boot, struct vmc_boot_result *out,
                struct vmc_error *err)
{
    struct vmc_vcpu *v = vmc_vm_vcpu(pc->vm, 0);

    if (boot->size != sizeof(*boot) || (boot->firmware == NULL && boot->kernel == NULL))
        return vmci_error(err, VMC_EINVAL, "pc/boot", "neither firmware nor a kernel to boot");
    if (v == NULL)
        return vmci_error(err, VMC_ESTATE, "pc/boot", "vCPU 0 does not exist");
    struct vmc_x86_state *st = vmci_alloc_aligned(pc->pf, sizeof(*st), 64);
    if (st == NULL)
        return vmci_error(err, VMC_ENOMEM, "pc/boot", "no memory for the start state");
    memset(st, 0, sizeof(*st));
    pc->boot = *boot;
    vmc_chipset_offer_s3(pc->chipset, pc_sleeps(pc));
    int rc = boot->firmware != NULL ? boot_firmware(pc, boot, st, out, err)
                                    : boot_direct(pc, boot, st, out, err);
    if (rc == VMC_OK) {
        rc = vmc_vcpu_set_state(v, START_GROUPS, st);
        if (rc != VMC_OK)
            vmci_error(err, rc, "pc/boot", "cannot set the state of vCPU 0");
    }
    vmci_free_aligned(pc->pf, st, sizeof(*st), 64);
    return rc;
}

/* ---- the end of S3 ------------------------------------------------------------------------- */

#define FACS_WAKING_VECTOR 12u

/* Processor 0 at the waking vector in real mode, processors and chipset as after a boot. */
static int wake(struct vmc_pc *pc, struct vmc_x86_state *st, struct vmc_error *err)
{
    uint8_t le[4];
    int rc = vmc_mem_read(pc->bd->mem,
                          PC_BIOS_BASE + PC_ACPI_RSDP_ROOM + pc->acpi.facs + FACS_WAKING_VECTOR, le,
                          sizeof(le));
    uint32_t vector = rc == VMC_OK ? vmci_ld_le32(le) : 0;

    if (vector == 0 || vector >= PC_1M)
        return vmci_error(err, VMC_ESTATE, "pc/wake",
                          "the guest sleeps with waking vector 0x%x: it must be below 1 MiB",
                          vector);
    rc = program_chipset(pc, err);
    if (rc == VMC_OK)
        rc = set_mtrrs(pc, st, err);
    if (rc == VMC_OK)
        rc = set_lapic(pc, st, err);
    if (rc != VMC_OK)
        return rc;
    vmc_chipset_wake(pc->chipset);
    vmc_x86_state_reset(st);
    st->seg[VMC_CS].selector = (uint16_t)(vector >> 4);
    st->seg[VMC_CS].base = vector & ~0xfu;
    st->rip = vector & 0xf;
    rc = vmc_vcpu_set_state(vmc_vm_vcpu(pc->vm, 0), START_GROUPS, st);
    return rc == VMC_OK ? rc : vmci_error(err, rc, "pc/wake", "cannot set the state of vCPU 0");
}

int vmc_pc_wake(struct vmc_pc *pc, struct vmc_error *err)
{
    if (!pc_sleeps(pc))
        return vmci_error(err, VMC_ESTATE, "pc/wake", "this machine does not sleep");
    struct vmc_x86_state *st = vmci_alloc_aligned(pc->pf, sizeof(*st), 64);
    if (st == NULL)
        return vmci_error(err, VMC_ENOMEM, "pc/wake", "no memory for the state of the processor");
    memset(st, 0, sizeof(*st));
    int rc = wake(pc, st, err);
    vmci_free_aligned(pc->pf, st, sizeof(*st), 64);
    return rc;
}
