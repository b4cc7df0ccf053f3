/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of loaders, and what happens around each of them. */
#include "boot_priv.h"

/* In the order of recognition; loaders without a probe are only taken when asked for. */
static const struct vmci_loader *const loaders[] = {
    &vmci_boot_bzimage, &vmci_boot_multiboot, &vmci_boot_pvh,
    &vmci_boot_elf64,   &vmci_boot_flat,      &vmci_boot_firmware,
};

static const struct vmci_loader *find(uint32_t kind)
{
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(loaders); i++) {
        if (loaders[i]->kind == kind)
            return loaders[i];
    }
    return NULL;
}

const char *vmc_boot_kind_name(uint32_t kind)
{
    const struct vmci_loader *l = find(kind);

    return l != NULL ? l->name : kind == VMC_BOOT_AUTO ? "auto" : "unknown";
}

uint32_t vmc_boot_probe(const struct vmc_image_src *image)
{
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(loaders); i++) {
        if (loaders[i]->probe != NULL && loaders[i]->probe(image))
            return loaders[i]->kind;
    }
    return VMC_BOOT_AUTO;
}

static int copy_map(struct boot_ctx *c)
{
    const struct vmc_boot_config *cfg = c->cfg;
    struct vmc_mem_slot slot = {.size = sizeof(slot)};

    if (cfg->memmap_count > VMC_MEMMAP_MAX)
        return vmci_error(c->err, VMC_ELIMIT, "boot/map", "%u memory map entries; %d are possible",
                          cfg->memmap_count, VMC_MEMMAP_MAX);
    for (unsigned i = 0; i < cfg->memmap_count; i++) {
        if (cfg->memmap[i].base + cfg->memmap[i].bytes < cfg->memmap[i].base)
            return vmci_error(c->err, VMC_EINVAL, "boot/map", "memory map entry %u wraps around",
                              i);
        c->map[c->map_count++] = cfg->memmap[i];
    }
    if (cfg->memmap_count != 0)
        return VMC_OK;
    for (unsigned i = 0; vmc_mem_slot_at(c->mem, i, &slot) == VMC_OK; i++) {
        if (slot.attr == VMC_MEM_RAM && c->map_count < VMC_MEMMAP_MAX)
            c->map[c->map_count++] =
                (struct vmc_memmap){.base = slot.gpa, .bytes = slot.bytes, .type = VMC_MEMMAP_RAM};
    }
    return VMC_OK;
}

static int check(const struct vmc_boot_config *cfg, struct vmc_error *err)
{
    if (cfg->size != sizeof(*cfg))
        return vmci_error(err, VMC_EINVAL, "boot/load", "bad configuration size");
    if (cfg->image == NULL || cfg->image->ops == NULL)
        return vmci_error(err, VMC_EINVAL, "boot/load", "no image to boot");
    if (cfg->image->bytes == 0)
        return vmci_error(err, VMC_EFORMAT, "boot/load", "the image is empty");
    if (cfg->cmdline != NULL && vmci_strlen(cfg->cmdline) >= VMC_BOOT_CMDLINE_MAX)
        return vmci_error(err, VMC_ELIMIT, "boot/load",
                          "the command line has %zu characters; %d are possible",
                          vmci_strlen(cfg->cmdline), VMC_BOOT_CMDLINE_MAX - 1);
    if (cfg->module_count > VMC_BOOT_MAX_MODULES)
        return vmci_error(err, VMC_ELIMIT, "boot/load", "%u modules; %d are possible",
                          cfg->module_count, VMC_BOOT_MAX_MODULES);
    if (cfg->rng_seed != NULL && cfg->rng_seed_bytes > 64)
        return vmci_error(err, VMC_EINVAL, "boot/load", "the random seed is too long");
    return VMC_OK;
}

int vmc_boot_load(const struct vmc_platform *pf, struct vmc_mem *mem,
                  const struct vmc_boot_config *cfg, struct vmc_x86_state *start,
                  struct vmc_boot_result *out, struct vmc_error *err)
{
    int rc = check(cfg, err);

    if (rc != VMC_OK)
        return rc;
    uint32_t kind = cfg->kind != VMC_BOOT_AUTO ? cfg->kind : vmc_boot_probe(cfg->image);
    const struct vmci_loader *l = find(kind);
    if (l == NULL)
        return vmci_error(err, cfg->kind != VMC_BOOT_AUTO ? VMC_EINVAL : VMC_EFORMAT, "boot/load",
                          cfg->kind != VMC_BOOT_AUTO
                              ? "unknown boot protocol"
                              : "the image is neither a Linux kernel nor ELF nor Multiboot");
    struct boot_ctx *c = vmci_zalloc(pf, sizeof(*c));
    if (c == NULL)
        return vmci_error(err, VMC_ENOMEM, "boot/load", "no memory to load an image");
    memset(out, 0, sizeof(*out));
    c->pf = pf;
    c->mem = mem;
    c->cfg = cfg;
    c->start = start;
    c->out = out;
    c->err = err;
    out->kind = kind;
    rc = copy_map(c);
    if (rc == VMC_OK && cfg->module_count != 0 && kind != VMC_BOOT_MULTIBOOT)
        rc = vmci_error(err, VMC_EINVAL, "boot/load", "modules are for Multiboot images, not %s",
                        l->name);
    if (rc == VMC_OK && cfg->rsdp != 0)
        rc = vmci_boot_claim_fixed(c, cfg->rsdp, cfg->rsdp_bytes, "ACPI tables");
    if (rc == VMC_OK)
        rc = l->load(c);
    vmci_free(pf, c, sizeof(*c));
    return rc;
}
