/* SPDX-License-Identifier: BSD-2-Clause */
/* The standard machine: which device is where, and who is wired to whom. */
#include "pc/pc_priv.h"

/* ---- memory -------------------------------------------------------------------------------- */

static int add_ram(struct vmc_pc *pc, uint64_t base, uint64_t end, uint64_t offset,
                   struct vmc_error *err)
{
    struct vmc_mem_slot slot = {
        .size = sizeof(slot), .attr = VMC_MEM_RAM, .gpa = base, .bytes = end - base};

    if (end <= base)
        return VMC_OK;
    if (pc->cfg.ram != NULL)
        slot.backing = (uint8_t *)pc->cfg.ram + offset;
    slot.space = pc->cfg.ram_space;
    slot.space_page = offset >> VMC_PAGE_SHIFT;
    return vmc_mem_add(pc->bd->mem, &slot, err);
}

static int make_memory(struct vmc_pc *pc, struct vmc_error *err)
{
    uint64_t ram = pc->cfg.ram_bytes;

    pc->low_bytes = ram >= PC_LOW_MAX ? PC_LOW_SPLIT : ram;
    pc->high_bytes = ram - pc->low_bytes;
    int rc = add_ram(pc, 0, PC_VGA_BASE, 0, err);
    if (rc == VMC_OK)
        rc = add_ram(pc, PC_VGA_END, pc->low_bytes, PC_VGA_END, err);
    if (rc == VMC_OK)
        rc = add_ram(pc, PC_4G, pc_ram_end(pc), pc->low_bytes, err);
    return rc;
}

/* Sizes in CMOS, from before there was a memory map (SeaBIOS and OVMF still read them). */
static int cmos_sizes(struct vmc_pc *pc)
{
    uint64_t ext_k = VMCI_MIN((pc->low_bytes - PC_1M) / 1024, 0xffffull);
    uint64_t above16 = pc->low_bytes > 16 * PC_1M ? (pc->low_bytes - 16 * PC_1M) / 65536 : 0;
    uint64_t high = VMCI_MIN(pc->high_bytes / 65536, 0xffffffull);
    const struct {
        uint8_t index;
        uint64_t value;
    } cmos[] = {
        {0x15, 640 & 0xff}, {0x16, 640 >> 8},   /* base memory, KiB */
        {0x17, ext_k},      {0x18, ext_k >> 8}, /* extended, KiB */
        {0x30, ext_k},      {0x31, ext_k >> 8},
        {0x34, above16},    {0x35, above16 >> 8},      /* above 16 MiB, 64 KiB units */
        {0x5b, high},       {0x5c, high >> 8},         /* above 4 GiB, 64 KiB units */
        {0x5d, high >> 16}, {0x5f, pc->cfg.cpus - 1u}, /* processors beside the first */
        {0x14, 0x06},                                  /* equipment: FPU, keyboard; no display */
        {0x3d, 0x21},       {0x38, 0x31},              /* boot from disk, CD, floppy; no check */
    };
    int rc = VMC_OK;

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(cmos) && rc == VMC_OK; i++)
        rc = vmc_rtc_set_cmos(pc->rtc, cmos[i].index, (uint8_t)cmos[i].value);
    return rc;
}

/* ---- devices ------------------------------------------------------------------------------- */

static void stop_vm(void *ctx, uint32_t why, uint64_t detail)
{
    vmc_vm_request_stop(ctx, (enum vmc_stop)why, detail);
}

static int make_chipset(struct vmc_pc *pc, struct vmc_error *err)
{
    struct vmc_chipset_config cfg = {.size = sizeof(cfg), .stop = pc->cfg.stop};

    if ((pc->cfg.flags & VMC_PC_SLEEP) != 0)
        cfg.flags |= VMC_CHIPSET_S3;
    cfg.sci = vmc_vm_gsi(pc->vm, PC_SCI);
    for (unsigned i = 0; i < 8; i++)
        cfg.gsi[i] = vmc_vm_gsi(pc->vm, PC_PIRQ_GSI + i);
    for (unsigned i = 3; i < 16; i++) /* the rest cannot be routed to */
        cfg.isa[i] = vmc_vm_gsi(pc->vm, i);
    return vmc_chipset_create(pc->bd, &cfg, &pc->chipset, err);
}

static int make_timers(struct vmc_pc *pc, struct vmc_error *err)
{
    struct vmc_irq_line irq0 = vmc_vm_gsi(pc->vm, 0), irq8 = vmc_vm_gsi(pc->vm, 8);

    if ((pc->cfg.flags & VMC_PC_NO_HPET) == 0) {
        struct vmc_hpet_config cfg = {
            .size = sizeof(cfg), .gpa = PC_HPET_BASE, .irq0 = irq0, .irq8 = irq8};
        for (unsigned i = 0; i < VMC_HPET_GSIS; i++) {
            if (i == 2 || i == 8 || i >= 16)
                cfg.gsi[i] = vmc_vm_gsi(pc->vm, i);
        }
        int rc = vmc_hpet_create(pc->bd, &cfg, &pc->hpet, err);
        if (rc != VMC_OK)
            return rc;
        irq0 = vmc_hpet_pit_line(pc->hpet);
        irq8 = vmc_hpet_rtc_line(pc->hpet);
    }
    int rc = vmc_pit_create(pc->bd, irq0, &pc->pit, err);
    if (rc == VMC_OK)
        rc = vmc_rtc_create(pc->bd, irq8, &pc->rtc, err);
    if (rc == VMC_OK) {
        vmc_rtc_set_alarm_line(pc->rtc, vmc_chipset_rtc_line(pc->chipset));
        rc = cmos_sizes(pc);
    }
    return rc;
}

static bool fpu_error(void *ctx, bool ferr)
{
    return vmc_fpu_error_signal(ctx, ferr);
}

#ifdef VMCI_SMALL /* kernels that are tests run elsewhere */
static int make_exit_port(struct vmc_pc *pc, struct vmc_error *err)
{
    (void)pc;
    return vmci_error(err, VMC_ENOTSUP, "pc/create", "there is no exit port in this build");
}
#else
static int make_exit_port(struct vmc_pc *pc, struct vmc_error *err)
{
    struct vmc_irq_line gsi[VMC_TEST_WIRES];
    struct vmc_test_device *t;
    int rc = vmc_exit_port_create(pc->bd, (uint16_t)pc->cfg.exit_port, &pc->cfg.stop,
                                  &pc->exit_port, err);

    if (rc == VMC_EEXIST)
        return vmci_error(err, rc, "pc/create", "exit port 0x%x: a device of the machine is there",
                          pc->cfg.exit_port);
    if (rc != VMC_OK)
        return rc;
    /* Kernels that end at the exit port are tests, and this is what they test with. */
    for (unsigned i = 0; i < VMC_TEST_WIRES; i++)
        gsi[i] = vmc_vm_gsi(pc->vm, i);
    rc = vmc_test_device_create(pc->bd, gsi, &t, err);
    return rc == VMC_EEXIST ? VMC_OK : rc; /* the exit port itself is among its ports */
}
#endif

static int make_ports(struct vmc_pc *pc, struct vmc_error *err)
{
    struct vmc_i8042_config kbd = {.size = sizeof(kbd),
                                   .irq1 = vmc_vm_gsi(pc->vm, 1),
                                   .irq12 = vmc_vm_gsi(pc->vm, 12),
                                   .stop = pc->cfg.stop,
                                   .a20 = vmc_vm_a20(pc->vm)};
    struct vmc_uart_config com1 = {.size = sizeof(com1),
                                   .flags = VMC_UART_PATIENT,
                                   .port = PC_COM1,
                                   .irq = vmc_vm_gsi(pc->vm, 4),
                                   .out = pc->cfg.serial};
    int rc = vmc_i8042_create(pc->bd, &kbd, &pc->i8042, err);

    if (rc == VMC_OK)
        rc = vmc_fpu_error_create(pc->bd, vmc_vm_gsi(pc->vm, 13), &pc->fpu_error, err);
    if (rc == VMC_OK)
        vmc_vm_set_ferr(pc->vm, fpu_error, pc->fpu_error);
    if (rc == VMC_OK)
        rc = vmc_uart_create(pc->bd, &com1, &pc->uart, err);
    if (rc == VMC_OK)
        rc = vmc_debugcon_create(pc->bd, PC_DEBUGCON, &pc->cfg.debugcon, &pc->debugcon, err);
    if (rc == VMC_OK)
        rc = vmc_post_port_create(pc->bd, PC_POST, pc->cfg.post_port == 0 ? &pc->cfg.post : NULL,
                                  &pc->post, err);
    if (rc == VMC_OK && pc->cfg.post_port != 0)
        rc = vmc_post_port_create(pc->bd, (uint16_t)pc->cfg.post_port, &pc->cfg.post, &pc->post2,
                                  err);
    if (rc == VMC_OK)
        rc = vmc_fw_cfg_create(pc->bd, &pc->fw, err);
    /* Last, so that it is the one to blame for an overlap. */
    if (rc == VMC_OK && pc->cfg.exit_port != 0)
        rc = make_exit_port(pc, err);
    return rc;
}

/* ---- life cycle ---------------------------------------------------------------------------- */

#define PC_FLAGS ((uint32_t)(VMC_PC_NO_HPET | VMC_PC_SLEEP))

static int check(const struct vmc_pc_config *cfg, struct vmc_error *err)
{
    if (cfg->size != sizeof(*cfg) || (cfg->flags & ~PC_FLAGS) != 0)
        return vmci_error(err, VMC_EINVAL, "pc/create", "bad configuration size or flags");
    if (cfg->ram_bytes < VMC_PC_MIN_RAM || cfg->ram_bytes > VMC_PC_MAX_RAM ||
        cfg->ram_bytes % VMC_PAGE_SIZE != 0)
        return vmci_error(err, VMC_EINVAL, "pc/create",
                          "0x%llx bytes of memory: 1 MiB to 16 TiB in whole pages are possible",
                          (unsigned long long)cfg->ram_bytes);
    if (cfg->cpus == 0 || cfg->cpus > VMC_PC_MAX_CPUS)
        return vmci_error(err, VMC_EINVAL, "pc/create", "%u processors: 1 to %d are possible",
                          cfg->cpus, VMC_PC_MAX_CPUS);
    if (cfg->exit_port > 0xffff || cfg->post_port > 0xffff)
        return vmci_error(err, VMC_EINVAL, "pc/create", "an I/O port has 16 bits");
    return VMC_OK;
}

int vmc_pc_create(struct vmc_vm *vm, const struct vmc_pc_config *cfg, struct vmc_pc **out,
                  struct vmc_error *err)
{
    int rc = check(cfg, err);

    if (rc != VMC_OK)
        return rc;
    struct vmc_board *bd = vmc_vm_board(vm);
    struct vmc_pc *pc = vmci_zalloc(bd->platform, sizeof(*pc));
    if (pc == NULL)
        return vmci_error(err, VMC_ENOMEM, "pc/create", "no memory for the machine");
    pc->vm = vm;
    pc->bd = bd;
    pc->pf = bd->platform;
    pc->cfg = *cfg;
    if (pc->cfg.stop.stop == NULL)
        pc->cfg.stop = (struct vmc_stop_sink){.stop = stop_vm, .ctx = vm};
    rc = vmci_lock_init(&pc->acpi_lock, pc->pf);
    if (rc != VMC_OK) {
        vmci_free(pc->pf, pc, sizeof(*pc));
        return vmci_error(err, rc, "pc/create", "no lock for the machine");
    }
    rc = make_memory(pc, err);
    if (rc == VMC_OK)
        rc = make_chipset(pc, err);
    if (rc == VMC_OK)
        rc = make_timers(pc, err);
    if (rc == VMC_OK)
        rc = make_ports(pc, err);
    if (rc != VMC_OK) { /* devices that exist are the board's and go with the VM */
        vmc_pc_destroy(pc);
        return rc;
    }
    *out = pc;
    return VMC_OK;
}

void vmc_pc_destroy(struct vmc_pc *pc)
{
    if (pc == NULL)
        return;
    vmci_lock_fini(&pc->acpi_lock);
    vmci_free(pc->pf, pc, sizeof(*pc));
}

struct vmc_pci_bus *vmc_pc_pci(struct vmc_pc *pc)
{
    return vmc_chipset_pci(pc->chipset);
}

struct vmc_fw_cfg *vmc_pc_fw_cfg(struct vmc_pc *pc)
{
    return pc->fw;
}

struct vmc_uart *vmc_pc_serial(struct vmc_pc *pc)
{
    return pc->uart;
}

uint32_t vmc_pc_post_code(struct vmc_pc *pc)
{
    return vmc_post_port_value(pc->post2 != NULL ? pc->post2 : pc->post);
}

void vmc_pc_power_button(struct vmc_pc *pc)
{
    vmc_chipset_power_button(pc->chipset);
}

bool vmc_pc_wake_event(struct vmc_pc *pc)
{
    return vmc_chipset_wake_event(pc->chipset);
}
