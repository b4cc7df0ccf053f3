/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Linux on x86 (Documentation/arch/x86/boot.rst, zero-page.rst): bzImage by its 64-bit or 32-bit
 * entry, and the zero page that an ELF kernel gets too.
 *
 * Threats (input: the image)
 *   setup sectors, sizes beyond the image   bounded reads                      bzimage_truncated
 *   load address, init_size anywhere        claimed in the memory map          bzimage_does_not_fit
 *   command line longer than it accepts     refused                            bzimage_cmdline_limit
 */
#include "boot_priv.h"

/* Offsets in the zero page; the kernel's setup header is part of it. */
#define ZP_RSDP           0x070
#define ZP_EXT_INITRD     0x0c0
#define ZP_EXT_INITRD_SIZE 0x0c4
#define ZP_EXT_CMDLINE    0x0c8
#define ZP_ALT_MEM_K      0x1e0
#define ZP_E820_COUNT     0x1e8
#define ZP_E820           0x2d0
#define ZP_E820_MAX       128
#define HDR_START         0x1f1
#define HDR_SETUP_SECTS   0x1f1
#define HDR_SYSSIZE       0x1f4
#define HDR_VID_MODE      0x1fa
#define HDR_BOOT_FLAG     0x1fe
#define HDR_JUMP          0x201
#define HDR_MAGIC         0x202
#define HDR_VERSION       0x206
#define HDR_LOADER        0x210
#define HDR_LOADFLAGS     0x211
#define HDR_CODE32        0x214
#define HDR_INITRD        0x218
#define HDR_INITRD_SIZE   0x21c
#define HDR_HEAP_END      0x224
#define HDR_CMDLINE       0x228
#define HDR_INITRD_MAX    0x22c
#define HDR_ALIGN         0x230
#define HDR_RELOCATABLE   0x234
#define HDR_XLOADFLAGS    0x236
#define HDR_CMDLINE_SIZE  0x238
#define HDR_SETUP_DATA    0x250
#define HDR_PREF_ADDRESS  0x258
#define HDR_INIT_SIZE     0x260
#define HDR_END_MAX       0x290

#define MAGIC             0x53726448u /* "HdrS" */
#define LOADER_UNDEFINED  0xffu
#define LOADED_HIGH       0x01u
#define KEEP_SEGMENTS     0x40u
#define CAN_USE_HEAP      0x80u
#define XLF_KERNEL_64     0x01u
#define XLF_ABOVE_4G      0x02u
#define VID_NORMAL        0xffffu
#define VERSION_64        0x020cu
#define VERSION_32        0x0206u
#define SECTOR            512u
#define ENTRY_64          0x200u

#define SETUP_RNG_SEED    9u
#define SETUP_DATA_HEAD   16

/* ---- zero page ----------------------------------------------------------------------------- */

static void put_e820(const struct boot_ctx *c, uint8_t *page)
{
    uint8_t *e = page + ZP_E820;
    unsigned n = VMCI_MIN(c->map_count, (unsigned)ZP_E820_MAX);

    for (unsigned i = 0; i < n; i++, e += 20) {
        vmci_st_le64(e, c->map[i].base);
        vmci_st_le64(e + 8, c->map[i].bytes);
        vmci_st_le32(e + 16, c->map[i].type);
        if (c->map[i].type == VMC_MEMMAP_RAM && c->map[i].base == MIB)
            vmci_st_le32(page + ZP_ALT_MEM_K,
                         (uint32_t)VMCI_MIN(c->map[i].bytes / 1024, (uint64_t)UINT32_MAX));
    }
    page[ZP_E820_COUNT] = (uint8_t)n;
}

static int put_initrd(struct boot_ctx *c, uint8_t *page, uint64_t max)
{
    const struct vmc_image_src *src = c->cfg->initrd;
    uint64_t gpa = 0;

    if (src == NULL || src->bytes == 0)
        return VMC_OK;
    int rc = vmci_boot_alloc_high(c, src->bytes, VMC_PAGE_SIZE, MIB, max, "initial RAM disk", &gpa);
    if (rc == VMC_OK)
        rc = vmci_image_load(c, src, 0, src->bytes, gpa, "initial RAM disk");
    if (rc != VMC_OK)
        return rc;
    vmci_st_le32(page + HDR_INITRD, (uint32_t)gpa);
    vmci_st_le32(page + ZP_EXT_INITRD, (uint32_t)(gpa >> 32));
    vmci_st_le32(page + HDR_INITRD_SIZE, (uint32_t)src->bytes);
    vmci_st_le32(page + ZP_EXT_INITRD_SIZE, (uint32_t)(src->bytes >> 32));
    c->out->initrd = gpa;
    c->out->initrd_bytes = src->bytes;
    return VMC_OK;
}

static int put_cmdline(struct boot_ctx *c, uint8_t *page, uint64_t limit)
{
    const char *line = c->cfg->cmdline != NULL ? c->cfg->cmdline : "";
    size_t len = vmci_strlen(line);
    uint64_t gpa = 0;

    if (len > limit)
        return vmci_error(c->err, VMC_ELIMIT, "boot/linux",
                          "the command line has %zu characters; this kernel takes %llu", len,
                          (unsigned long long)limit);
    int rc = vmci_boot_place(c, line, len + 1, "command line", &gpa);
    vmci_st_le32(page + HDR_CMDLINE, (uint32_t)gpa);
    return rc;
}

static int put_seed(struct boot_ctx *c, uint8_t *page)
{
    uint8_t node[SETUP_DATA_HEAD + 64] = {0};
    uint64_t gpa = 0;

    if (c->cfg->rng_seed == NULL || c->cfg->rng_seed_bytes == 0)
        return VMC_OK;
    vmci_st_le32(node + 8, SETUP_RNG_SEED);
    vmci_st_le32(node + 12, c->cfg->rng_seed_bytes);
    memcpy(node + SETUP_DATA_HEAD, c->cfg->rng_seed, c->cfg->rng_seed_bytes);
    int rc = vmci_boot_place(c, node, SETUP_DATA_HEAD + c->cfg->rng_seed_bytes, "random seed",
                             &gpa);
    vmci_st_le64(page + HDR_SETUP_DATA, gpa);
    return rc;
}

int vmci_linux_zero_page(struct boot_ctx *c, uint8_t *page, uint64_t cmdline_limit,
                         uint64_t initrd_max, uint64_t *gpa)
{
    page[HDR_LOADER] = LOADER_UNDEFINED;
    vmci_st_le16(page + HDR_VID_MODE, VID_NORMAL);
    vmci_st_le64(page + ZP_RSDP, c->cfg->rsdp);
    put_e820(c, page);
    int rc = put_cmdline(c, page, cmdline_limit);
    if (rc == VMC_OK)
        rc = put_initrd(c, page, initrd_max);
    if (rc == VMC_OK)
        rc = put_seed(c, page);
    if (rc == VMC_OK)
        rc = vmci_boot_alloc_low(c, ZERO_PAGE_BYTES, VMC_PAGE_SIZE, LOW_START, LOW_END,
                                 "zero page", gpa);
    if (rc == VMC_OK)
        rc = vmci_boot_write(c, *gpa, page, ZERO_PAGE_BYTES, "zero page");
    return rc;
}

/* ---- bzImage ------------------------------------------------------------------------------- */

static bool probe(const struct vmc_image_src *image)
{
    uint8_t h[HDR_VERSION - HDR_START];

    return vmci_image_peek(image, HDR_START, h, sizeof(h)) &&
           vmci_ld_le16(h + (HDR_BOOT_FLAG - HDR_START)) == 0xaa55 &&
           vmci_ld_le32(h + (HDR_MAGIC - HDR_START)) == MAGIC;
}

/* Where the protected-mode kernel goes, and how much memory it needs there. */
static int place_kernel(struct boot_ctx *c, const uint8_t *page, uint64_t bytes, uint64_t *gpa)
{
    unsigned version = vmci_ld_le16(page + HDR_VERSION);
    uint64_t pref = version >= 0x020a ? vmci_ld_le64(page + HDR_PREF_ADDRESS) : MIB;
    uint64_t need = version >= 0x020a ? vmci_ld_le32(page + HDR_INIT_SIZE) : bytes;
    uint64_t align = vmci_ld_le32(page + HDR_ALIGN);

    need = VMCI_MAX(need, bytes);
    if (pref == 0)
        pref = MIB;
    if (vmci_boot_free(c, pref, need) || page[HDR_RELOCATABLE] == 0) {
        *gpa = pref;
        return vmci_boot_claim(c, pref, need, "kernel");
    }
    if (!vmci_is_pow2(align) || align < VMC_PAGE_SIZE || align > GIB)
        return vmci_error(c->err, VMC_EFORMAT, "boot/linux", "kernel alignment 0x%llx is absurd",
                          (unsigned long long)align);
    return vmci_boot_alloc_low(c, need, align, MIB, 4 * GIB, "kernel", gpa);
}

static int read_header(struct boot_ctx *c, uint8_t *page, uint64_t *setup_bytes)
{
    uint8_t h[HDR_VERSION + 2];
    int rc = vmci_image_read(c, 0, h, sizeof(h), "Linux setup header");

    if (rc != VMC_OK)
        return rc;
    if (!probe(c->cfg->image))
        return vmci_error(c->err, VMC_EFORMAT, "boot/linux", "the image is no bzImage");
    unsigned version = vmci_ld_le16(h + HDR_VERSION);
    if (version < VERSION_32)
        return vmci_error(c->err, VMC_ENOTSUP, "boot/linux",
                          "boot protocol %u.%02u is too old; 2.06 is needed", version >> 8,
                          version & 0xff);
    unsigned end = VMCI_MIN((unsigned)HDR_MAGIC + h[HDR_JUMP], (unsigned)HDR_END_MAX);
    rc = vmci_image_read(c, HDR_START, page + HDR_START, end - HDR_START, "Linux setup header");
    if (rc != VMC_OK)
        return rc;
    unsigned sects = h[HDR_SETUP_SECTS] != 0 ? h[HDR_SETUP_SECTS] : 4;
    *setup_bytes = (sects + 1) * (uint64_t)SECTOR;
    if (*setup_bytes >= c->cfg->image->bytes)
        return vmci_error(c->err, VMC_EFORMAT, "boot/linux",
                          "the image ends inside its setup code (%u sectors)", sects);
    /* In paragraphs, to which build tools fill the image up. 0: not told. */
    uint64_t whole = *setup_bytes + vmci_ld_le32(page + HDR_SYSSIZE) * 16ull;
    if (whole > c->cfg->image->bytes + 15)
        return vmci_error(c->err, VMC_EFORMAT, "boot/linux",
                          "the image is cut off: it has %llu bytes of %llu",
                          (unsigned long long)c->cfg->image->bytes, (unsigned long long)whole);
    if ((page[HDR_LOADFLAGS] & LOADED_HIGH) == 0)
        return vmci_error(c->err, VMC_ENOTSUP, "boot/linux",
                          "a zImage, which loads below 640 KiB, is not supported");
    /* Programs in the clothes of a kernel, such as iPXE, need the BIOS that their setup code calls. */
    unsigned xload = version >= VERSION_64 ? vmci_ld_le16(page + HDR_XLOADFLAGS) : 0;
    if (vmci_ld_le32(page + HDR_CODE32) == 0 && (xload & XLF_KERNEL_64) == 0)
        return vmci_error(c->err, VMC_ENOTSUP, "boot/linux",
                          "the image starts by its 16-bit code only; boot it by a BIOS");
    return VMC_OK;
}

static int load(struct boot_ctx *c)
{
    uint8_t *page = c->page;
    uint64_t setup = 0, gpa = 0, zero_page = 0;
    int rc = read_header(c, page, &setup);

    if (rc != VMC_OK)
        return rc;
    unsigned version = vmci_ld_le16(page + HDR_VERSION);
    unsigned xload = version >= VERSION_64 ? vmci_ld_le16(page + HDR_XLOADFLAGS) : 0;
    uint64_t bytes = c->cfg->image->bytes - setup;
    rc = place_kernel(c, page, bytes, &gpa);
    if (rc == VMC_OK)
        rc = vmci_image_load(c, c->cfg->image, setup, bytes, gpa, "kernel");
    if (rc != VMC_OK)
        return rc;
    c->out->low = gpa;
    c->out->high = gpa + bytes;

    page[HDR_LOADFLAGS] &= (uint8_t)~(KEEP_SEGMENTS | CAN_USE_HEAP);
    vmci_st_le32(page + HDR_SETUP_DATA, 0);
    uint64_t initrd_max = vmci_ld_le32(page + HDR_INITRD_MAX) + 1ull;
    if ((xload & XLF_ABOVE_4G) != 0 && c->cfg->initrd != NULL &&
        c->cfg->initrd->bytes > initrd_max / 2)
        initrd_max = 1ull << VMC_GPA_BITS;
    rc = vmci_linux_zero_page(c, page, vmci_ld_le32(page + HDR_CMDLINE_SIZE), initrd_max,
                              &zero_page);
    if (rc != VMC_OK)
        return rc;
    rc = (xload & XLF_KERNEL_64) != 0 ? vmci_start_long64(c, SEL_LINUX, gpa + ENTRY_64)
                                      : vmci_start_prot32(c, SEL_LINUX, gpa);
    c->start->gpr[VMC_RSI] = zero_page;
    return rc;
}

const struct vmci_loader vmci_boot_bzimage = {VMC_BOOT_BZIMAGE, "bzImage", probe, load};
