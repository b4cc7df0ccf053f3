/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What firmware finds in fw_cfg: the machine's size, memory map, boot order, kernel, and the ACPI
 * tables with the linker/loader script that places them (QEMU, docs/specs/acpi_bios_linker_loader).
 */
#include "pc/pc_priv.h"

#define FILE_TABLES "etc/acpi/tables"
#define FILE_RSDP   "etc/acpi/rsdp"

#define CMD_ALLOCATE 1u
#define CMD_POINTER  2u
#define CMD_CHECKSUM 3u
#define ZONE_HIGH    1u
#define ZONE_FSEG    2u

#define RSDP_SUM_BYTES 20u
#define INITRD_END     0x38000000ull /* the initial RAM disk ends here, or with memory */

/* ---- linker/loader script ------------------------------------------------------------------ */

static void put_name(uint8_t *dst, const char *name)
{
    for (unsigned i = 0; name[i] != '\0' && i < VMC_FW_CFG_NAME - 1; i++)
        dst[i] = (uint8_t)name[i];
}

static uint8_t *command(struct vmc_pc *pc, unsigned *n, uint32_t kind, const char *file)
{
    uint8_t *e = pc->loader + (size_t)*n * LOADER_ENTRY;

    (*n)++;
    memset(e, 0, LOADER_ENTRY);
    vmci_st_le32(e, kind);
    put_name(e + 4, file);
    return e;
}

static void allocate(struct vmc_pc *pc, unsigned *n, const char *file, uint32_t align, uint8_t zone)
{
    uint8_t *e = command(pc, n, CMD_ALLOCATE, file);

    vmci_st_le32(e + 60, align);
    e[64] = zone;
}

static void add_pointer(struct vmc_pc *pc, unsigned *n, const char *file, uint32_t at,
                        uint32_t bytes)
{
    uint8_t *e = command(pc, n, CMD_POINTER, file);

    put_name(e + 60, FILE_TABLES);
    vmci_st_le32(e + 116, at);
    e[120] = (uint8_t)bytes;
}

static void add_checksum(struct vmc_pc *pc, unsigned *n, const char *file, uint32_t at,
                         uint32_t start, uint32_t bytes)
{
    uint8_t *e = command(pc, n, CMD_CHECKSUM, file);

    vmci_st_le32(e + 60, at);
    vmci_st_le32(e + 64, start);
    vmci_st_le32(e + 68, bytes);
}

static uint32_t script(struct vmc_pc *pc)
{
    const struct acpi_blob *b = &pc->acpi;
    unsigned n = 0;

    allocate(pc, &n, FILE_RSDP, 16, ZONE_FSEG);
    allocate(pc, &n, FILE_TABLES, 64, ZONE_HIGH);
    for (unsigned i = 0; i < b->pointers; i++)
        add_pointer(pc, &n, FILE_TABLES, b->pointer[i].at, b->pointer[i].bytes);
    for (unsigned i = 0; i < b->sums; i++)
        add_checksum(pc, &n, FILE_TABLES, b->sum[i].start + 9, b->sum[i].start, b->sum[i].bytes);
    add_pointer(pc, &n, FILE_RSDP, 16, 4);
    add_pointer(pc, &n, FILE_RSDP, 24, 8);
    add_checksum(pc, &n, FILE_RSDP, 8, 0, RSDP_SUM_BYTES);
    add_checksum(pc, &n, FILE_RSDP, 32, 0, ACPI_RSDP_BYTES);
    return n * LOADER_ENTRY;
}

/* RSDP with offsets in place of addresses. */
static void rsdp_template(struct vmc_pc *pc)
{
    memset(pc->rsdp, 0, sizeof(pc->rsdp));
    memcpy(pc->rsdp, "RSD PTR ", 8);
    memcpy(pc->rsdp + 9, "VMCORE", 6);
    pc->rsdp[15] = 2;
    vmci_st_le32(pc->rsdp + 16, pc->acpi.rsdt);
    vmci_st_le32(pc->rsdp + 20, ACPI_RSDP_BYTES);
    vmci_st_le64(pc->rsdp + 24, pc->acpi.xsdt);
}

/* Firmware has set up the chipset when it asks for the tables: describe it as it is now. Any number
   of vCPUs may ask at once. */
static void acpi_select(void *ctx)
{
    struct vmc_pc *pc = ctx;

    vmci_lock(&pc->acpi_lock);
    int rc = vmci_acpi_build(pc, NULL);
    rsdp_template(pc);
    vmci_unlock(&pc->acpi_lock);
    if (rc != VMC_OK)
        vmci_bug(pc->pf, __FILE__, __LINE__, "the ACPI tables grew");
}

static int add_file(struct vmc_pc *pc, const char *name, const void *data, uint32_t bytes,
                    bool acpi, struct vmc_error *err)
{
    struct vmc_fw_cfg_item item = {.data = data, .bytes = bytes};

    if (acpi) {
        item.select = acpi_select;
        item.ctx = pc;
    }
    int rc = vmc_fw_cfg_add_file(pc->fw, name, &item);
    if (rc != VMC_OK)
        return vmci_error(err, rc, "pc/fw_cfg", "cannot add the fw_cfg file %s", name);
    return VMC_OK;
}

/* ---- memory map, boot order ---------------------------------------------------------------- */

static uint32_t e820(struct vmc_pc *pc)
{
    vmci_pc_memmap(pc, true);
    for (unsigned i = 0; i < pc->memmap_count; i++) {
        uint8_t *e = pc->e820 + i * 20;
        vmci_st_le64(e, pc->memmap[i].base);
        vmci_st_le64(e + 8, pc->memmap[i].bytes);
        vmci_st_le32(e + 16, pc->memmap[i].type);
    }
    return pc->memmap_count * 20;
}

/* Every storage controller, by slot, as an Open Firmware path; one a line. */
static uint32_t bootorder(struct vmc_pc *pc)
{
    struct vmc_pci_bus *bus = vmc_chipset_pci(pc->chipset);
    size_t n = 0;

    for (unsigned slot = 1; slot < VMC_PCI_SLOTS && n + 64 < sizeof(pc->bootorder); slot++) {
        uint8_t devfn = VMC_PCI_DEVFN(slot, 0);
        if (vmc_pci_config_read(bus, devfn, VMC_PCI_CLASS + 2, 1) != 0x01)
            continue;
        n += vmci_snprintf(pc->bootorder + n, sizeof(pc->bootorder) - n,
                           "%s/pci@i0cf8/scsi@%x/disk@0,0", n == 0 ? "" : "\n", slot);
    }
    return n == 0 ? 0 : (uint32_t)n + 1;
}

/* ---- kernel -------------------------------------------------------------------------------- */

static int kernel_read(void *ctx, uint64_t offset, void *dst, size_t bytes)
{
    struct vmc_pc *pc = ctx;
    const struct vmc_image_src *k = pc->boot.kernel;

    return k->ops->read(k->ctx, pc->kernel_skip + offset, dst, bytes);
}

static int initrd_read(void *ctx, uint64_t offset, void *dst, size_t bytes)
{
    struct vmc_pc *pc = ctx;

    return pc->boot.initrd->ops->read(pc->boot.initrd->ctx, offset, dst, bytes);
}

/* Nothing of a kernel that was offered for another boot: it may be gone. */
static int no_kernel_items(struct vmc_pc *pc, struct vmc_error *err)
{
    static const uint16_t key[] = {
        VMC_FW_CFG_KERNEL_ADDR,  VMC_FW_CFG_KERNEL_SIZE,  VMC_FW_CFG_KERNEL_DATA,
        VMC_FW_CFG_INITRD_ADDR,  VMC_FW_CFG_INITRD_SIZE,  VMC_FW_CFG_INITRD_DATA,
        VMC_FW_CFG_CMDLINE_ADDR, VMC_FW_CFG_CMDLINE_SIZE, VMC_FW_CFG_CMDLINE_DATA,
        VMC_FW_CFG_SETUP_ADDR,   VMC_FW_CFG_SETUP_SIZE,   VMC_FW_CFG_SETUP_DATA,
    };
    const struct vmc_fw_cfg_item nothing = {.bytes = 0};
    int rc = VMC_OK;

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(key) && rc == VMC_OK; i++)
        rc = vmc_fw_cfg_set(pc->fw, key[i], &nothing);
    return rc == VMC_OK ? rc : vmci_error(err, rc, "pc/fw_cfg", "cannot clear fw_cfg");
}

/* A bzImage in the pieces that firmware expects: setup code, kernel, initial RAM disk. */
static int kernel_items(struct vmc_pc *pc, struct vmc_error *err)
{
    const struct vmc_image_src *k = pc->boot.kernel, *initrd = pc->boot.initrd;
    const char *cmdline = pc->boot.cmdline != NULL ? pc->boot.cmdline : "";

    if (vmc_boot_probe(k) != VMC_BOOT_BZIMAGE)
        return vmci_error(err, VMC_ENOTSUP, "pc/fw_cfg",
                          "firmware can only start a Linux bzImage kernel");
    if (k->bytes > UINT32_MAX || (initrd != NULL && initrd->bytes > UINT32_MAX))
        return vmci_error(err, VMC_ELIMIT, "pc/fw_cfg", "the kernel does not fit fw_cfg");
    uint8_t sects = 0;
    if (k->ops->read(k->ctx, 0x1f1, &sects, 1) != VMC_OK)
        return vmci_error(err, VMC_EIO, "pc/fw_cfg", "cannot read the kernel");
    uint32_t setup = ((sects == 0 ? 4u : sects) + 1) * 512;
    if (setup > sizeof(pc->kernel_setup) || setup >= k->bytes ||
        k->ops->read(k->ctx, 0, pc->kernel_setup, setup) != VMC_OK)
        return vmci_error(err, VMC_EFORMAT, "pc/fw_cfg", "the kernel ends inside its setup code");
    pc->kernel_setup[0x210] = 0xb0; /* loader: the one this interface belongs to */
    pc->kernel_skip = setup;

    struct vmc_fw_cfg_item body = {
        .read = kernel_read, .ctx = pc, .bytes = (uint32_t)k->bytes - setup};
    struct vmc_fw_cfg_item disk = {
        .read = initrd_read, .ctx = pc, .bytes = initrd != NULL ? (uint32_t)initrd->bytes : 0};
    struct vmc_fw_cfg_item head = {.data = pc->kernel_setup, .bytes = setup};
    struct vmc_fw_cfg_item line = {.data = cmdline, .bytes = (uint32_t)vmci_strlen(cmdline) + 1};
    uint64_t room = VMCI_MIN(pc->low_bytes, INITRD_END), end = PC_1M + (uint64_t)body.bytes;
    uint64_t top = vmci_align_down(room - VMCI_MIN(disk.bytes, room), VMC_PAGE_SIZE);
    if (end > top) /* the kernel may end where the disk begins, not above */
        return vmci_error(err, VMC_ELIMIT, "pc/fw_cfg",
                          "kernel and initial RAM disk do not fit into %llu MiB of memory",
                          (unsigned long long)(room / PC_1M));

    const struct {
        uint16_t key;
        uint64_t value;
    } number[] = {
        {VMC_FW_CFG_KERNEL_ADDR, PC_1M},    {VMC_FW_CFG_KERNEL_SIZE, body.bytes},
        {VMC_FW_CFG_INITRD_ADDR, top},      {VMC_FW_CFG_INITRD_SIZE, disk.bytes},
        {VMC_FW_CFG_CMDLINE_ADDR, 0x20000}, {VMC_FW_CFG_CMDLINE_SIZE, line.bytes},
        {VMC_FW_CFG_SETUP_ADDR, 0x10000},   {VMC_FW_CFG_SETUP_SIZE, setup},
    };
    int rc = VMC_OK;
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(number) && rc == VMC_OK; i++)
        rc = vmc_fw_cfg_set_int(pc->fw, number[i].key, number[i].value, 4);
    if (rc == VMC_OK)
        rc = vmc_fw_cfg_set(pc->fw, VMC_FW_CFG_KERNEL_DATA, &body);
    if (rc == VMC_OK)
        rc = vmc_fw_cfg_set(pc->fw, VMC_FW_CFG_INITRD_DATA, &disk);
    if (rc == VMC_OK)
        rc = vmc_fw_cfg_set(pc->fw, VMC_FW_CFG_SETUP_DATA, &head);
    if (rc == VMC_OK)
        rc = vmc_fw_cfg_set(pc->fw, VMC_FW_CFG_CMDLINE_DATA, &line);
    if (rc != VMC_OK)
        return vmci_error(err, rc, "pc/fw_cfg", "cannot offer the kernel through fw_cfg");
    return VMC_OK;
}

/* ---- all of it ----------------------------------------------------------------------------- */

static int numbers(struct vmc_pc *pc)
{
    const struct {
        uint16_t key;
        uint8_t bytes;
        uint64_t value;
    } item[] = {
        {VMC_FW_CFG_RAM_SIZE, 8, pc->cfg.ram_bytes},
        {VMC_FW_CFG_NOGRAPHIC, 2, 1},
        {VMC_FW_CFG_NB_CPUS, 2, pc->cfg.cpus},
        {VMC_FW_CFG_MAX_CPUS, 2, pc->cfg.cpus},
        {VMC_FW_CFG_BOOT_MENU, 2, 0},
        {VMC_FW_CFG_IRQ0_OVERRIDE, 4, 1},
    };
    int rc = VMC_OK;

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(item) && rc == VMC_OK; i++)
        rc = vmc_fw_cfg_set_int(pc->fw, item[i].key, item[i].value, item[i].bytes);
    return rc;
}

int vmci_pc_fw_cfg(struct vmc_pc *pc, struct vmc_error *err)
{
    /* Sleep states S0-S5: bit 7 says supported, the rest is the SLP_TYP value. S3 and S4 are not.
     */
    static const uint8_t states[6] = {128, 0, 0, 1, 2, 128};
    static const uint8_t sercon[2] = {PC_COM1 & 0xff, PC_COM1 >> 8};

    int rc = numbers(pc);
    if (rc != VMC_OK)
        return vmci_error(err, rc, "pc/fw_cfg", "cannot fill fw_cfg");
    rc = vmci_acpi_build(pc, err);
    if (rc != VMC_OK)
        return rc;
    rsdp_template(pc);
    uint32_t loader = script(pc), map = e820(pc), order = bootorder(pc);

    const struct {
        const char *name;
        const void *data;
        uint32_t bytes;
        bool acpi;
    } file[] = {
        {FILE_TABLES, pc->acpi.data, pc->acpi.bytes, true},
        {FILE_RSDP, pc->rsdp, sizeof(pc->rsdp), true},
        {"etc/table-loader", pc->loader, loader, true},
        {"etc/e820", pc->e820, map, false},
        {"etc/system-states", states, sizeof(states), false},
        {"etc/sercon-port", sercon, sizeof(sercon), false},
        {"bootorder", pc->bootorder, order, false},
    };
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(file) && rc == VMC_OK; i++)
        rc = add_file(pc, file[i].name, file[i].data, file[i].bytes, file[i].acpi, err);
    if (rc == VMC_OK)
        rc = no_kernel_items(pc, err);
    if (rc == VMC_OK && pc->boot.kernel != NULL && pc->boot.firmware != NULL)
        rc = kernel_items(pc, err);
    return rc;
}
