/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Images without a format: flat binaries and firmware ROMs. Never guessed.
 *
 * Threats (input: the image)
 *   sizes and addresses that do not fit    checked, claimed in memory    flat_does_not_fit, rom_bad_size
 */
#include "boot_priv.h"

/* ---- flat binary --------------------------------------------------------------------------- */

static int start_real(struct boot_ctx *c, uint64_t entry)
{
    struct vmc_x86_state *st = c->start;
    uint64_t base = c->cfg->flat_gpa;

    if (base % 16 != 0 || base >= MIB || entry < base || entry - base > 0xffff)
        return vmci_error(c->err, VMC_EINVAL, "boot/flat",
                          "16-bit code needs a paragraph below 1 MiB, not 0x%llx",
                          (unsigned long long)base);
    vmc_x86_state_reset(st);
    st->cr0 = VMC_CR0_ET;
    for (unsigned i = VMC_ES; i <= VMC_GS; i++) {
        st->seg[i].selector = (uint16_t)(base >> 4);
        st->seg[i].base = base;
    }
    st->seg[VMC_CS].attr = VMC_SEG_P | VMC_SEG_S | 0xb;
    st->idtr = (struct vmc_table){.limit = 0x3ff};
    st->rip = entry - base;
    c->out->entry = entry;
    return VMC_OK;
}

static int load_flat(struct boot_ctx *c)
{
    const struct vmc_boot_config *cfg = c->cfg;
    uint64_t entry = cfg->flat_entry != 0 ? cfg->flat_entry : cfg->flat_gpa;
    int rc = vmci_boot_claim_fixed(c, cfg->flat_gpa, cfg->image->bytes, "flat image");

    if (rc == VMC_OK)
        rc = vmci_image_load(c, cfg->image, 0, cfg->image->bytes, cfg->flat_gpa, "flat image");
    if (rc != VMC_OK)
        return rc;
    c->out->low = cfg->flat_gpa;
    c->out->high = cfg->flat_gpa + cfg->image->bytes;
    switch (cfg->flat_mode) {
    case VMC_FLAT_REAL:
        return start_real(c, entry);
    case VMC_FLAT_PROT:
        return vmci_start_prot32(c, SEL_FIRST, entry);
    case VMC_FLAT_LONG:
        return vmci_start_long64(c, SEL_FIRST, entry);
    default:
        return vmci_error(c->err, VMC_EINVAL, "boot/flat", "unknown mode %u", cfg->flat_mode);
    }
}

/* ---- firmware ------------------------------------------------------------------------------ */

#define ROM_MIN    (64ull << 10)
#define ROM_MAX    (16 * MIB)
#define SHADOW_MAX (128ull << 10)

/* The ROM slot below 4 GiB; one that is there from an earlier load is used again. */
static int rom_slot(struct boot_ctx *c, uint64_t gpa, uint64_t bytes)
{
    struct vmc_mem_slot slot = {.size = sizeof(slot)};

    for (unsigned i = 0; vmc_mem_slot_at(c->mem, i, &slot) == VMC_OK; i++) {
        if (slot.gpa == gpa && slot.bytes == bytes && slot.attr == VMC_MEM_ROM)
            return VMC_OK;
    }
    slot = (struct vmc_mem_slot){
        .size = sizeof(slot), .attr = VMC_MEM_ROM, .gpa = gpa, .bytes = bytes};
    return vmc_mem_add(c->mem, &slot, c->err);
}

static int load_firmware(struct boot_ctx *c)
{
    const struct vmc_image_src *src = c->cfg->image;
    uint64_t bytes = src->bytes;

    if (bytes < ROM_MIN || bytes > ROM_MAX || bytes % VMC_PAGE_SIZE != 0)
        return vmci_error(c->err, VMC_EFORMAT, "boot/firmware",
                          "firmware of 0x%llx bytes: 64 KiB to 16 MiB in whole pages are possible",
                          (unsigned long long)bytes);
    uint64_t gpa = 4 * GIB - bytes;
    uint64_t shadow = VMCI_MIN(bytes, SHADOW_MAX);
    int rc = rom_slot(c, gpa, bytes);
    if (rc == VMC_OK)
        rc = vmci_image_load(c, src, 0, bytes, gpa, "firmware");
    if (rc == VMC_OK)
        rc = vmci_image_load(c, src, bytes - shadow, shadow, MIB - shadow, "firmware");
    if (rc != VMC_OK)
        return rc;
    vmc_x86_state_reset(c->start);
    c->out->low = gpa;
    c->out->high = 4 * GIB;
    c->out->entry = 4 * GIB - 16;
    return VMC_OK;
}

const struct vmci_loader vmci_boot_flat = {VMC_BOOT_FLAT, "flat", NULL, load_flat};
const struct vmci_loader vmci_boot_firmware = {VMC_BOOT_FIRMWARE, "firmware", NULL, load_firmware};
