/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Multiboot 1 (Multiboot Specification 0.6.96).
 *
 * Threats (input: the image)
 *   address fields that contradict each other   checked, then claimed in memory   mb_bad_addresses
 *   modules that do not fit                     claimed in memory                 mb_module_too_big
 */
#include "boot_priv.h"

#define MAGIC        0x1badb002u
#define BOOT_MAGIC   0x2badb002u
#define SEARCH_BYTES 8192u
#define HEADER_BYTES 32u
#define FLAG_ADDRESS 0x10000u
#define FLAGS_KNOWN  0x0007u /* page alignment, memory information, video (a wish) */
#define FLAGS_MUST   0xffffu

#define INFO_BYTES   116
#define INFO_MEMORY  0x001u
#define INFO_CMDLINE 0x004u
#define INFO_MODS    0x008u
#define INFO_MMAP    0x040u
#define INFO_LOADER  0x200u
#define MMAP_BYTES   24u
#define MOD_BYTES    16u

static const char loader_name[] = "vmcore";

struct header {
    uint64_t at; /* offset in the image */
    uint32_t flags;
    uint32_t header_addr, load_addr, load_end, bss_end, entry;
};

/* ---- header -------------------------------------------------------------------------------- */

/* buf holds the start of the image. */
static bool find_header(const uint8_t *buf, size_t n, struct header *h)
{
    for (size_t at = 0; at + 12 <= n; at += 4) {
        const uint8_t *p = buf + at;
        uint32_t flags = vmci_ld_le32(p + 4);
        if (vmci_ld_le32(p) != MAGIC || MAGIC + flags + vmci_ld_le32(p + 8) != 0)
            continue;
        *h = (struct header){.at = at, .flags = flags};
        if ((flags & FLAG_ADDRESS) == 0)
            return true;
        if (at + HEADER_BYTES > n)
            return false;
        h->header_addr = vmci_ld_le32(p + 12);
        h->load_addr = vmci_ld_le32(p + 16);
        h->load_end = vmci_ld_le32(p + 20);
        h->bss_end = vmci_ld_le32(p + 24);
        h->entry = vmci_ld_le32(p + 28);
        return true;
    }
    return false;
}

static bool read_header(const struct vmc_image_src *image, uint8_t *buf, struct header *h)
{
    size_t n = (size_t)VMCI_MIN(image->bytes, (uint64_t)SEARCH_BYTES);

    return vmci_image_peek(image, 0, buf, n) && find_header(buf, n, h);
}

/* In pieces that overlap by less than a header, so that the stack stays small. */
static bool probe(const struct vmc_image_src *image)
{
    uint8_t buf[1024];
    struct header h;

    for (uint64_t at = 0; at < SEARCH_BYTES; at += sizeof(buf) - HEADER_BYTES) {
        if (at >= image->bytes)
            return false;
        size_t n = (size_t)VMCI_MIN(VMCI_MIN(image->bytes, (uint64_t)SEARCH_BYTES) - at,
                                    (uint64_t)sizeof(buf));
        if (!vmci_image_peek(image, at, buf, n))
            return false;
        if (find_header(buf, n, &h))
            return true;
    }
    return false;
}

/* ---- loading ------------------------------------------------------------------------------- */

static int load_raw(struct boot_ctx *c, const struct header *h, uint64_t *entry)
{
    uint64_t file = c->cfg->image->bytes;
    uint64_t skip = (uint64_t)h->header_addr - h->load_addr;

    if (h->load_addr > h->header_addr || skip > h->at)
        return vmci_error(c->err, VMC_EFORMAT, "boot/multiboot",
                          "header address 0x%x and load address 0x%x do not fit its offset 0x%llx",
                          h->header_addr, h->load_addr, (unsigned long long)h->at);
    uint64_t offset = h->at - skip;
    uint64_t bytes = file - offset;
    if (h->load_end != 0) {
        if (h->load_end < h->load_addr || h->load_end - h->load_addr > bytes)
            return vmci_error(c->err, VMC_EFORMAT, "boot/multiboot",
                              "load end address 0x%x asks for more than the image has",
                              h->load_end);
        bytes = h->load_end - h->load_addr;
    }
    uint64_t end = h->load_addr + bytes;
    if (h->bss_end != 0 && h->bss_end < end)
        return vmci_error(c->err, VMC_EFORMAT, "boot/multiboot",
                          "BSS end address 0x%x is below the end of the image", h->bss_end);
    uint64_t all = VMCI_MAX(end, (uint64_t)h->bss_end);
    int rc = vmci_boot_claim_fixed(c, h->load_addr, all - h->load_addr, "Multiboot image");
    if (rc == VMC_OK)
        rc = vmci_image_load(c, c->cfg->image, offset, bytes, h->load_addr, "Multiboot image");
    if (rc == VMC_OK && all > end)
        rc = vmci_boot_zero(c, end, all - end, "Multiboot image");
    c->out->low = h->load_addr;
    c->out->high = all;
    *entry = h->entry;
    return rc;
}

static int load_image(struct boot_ctx *c, const struct header *h, uint64_t *entry)
{
    struct elf_image *elf = &c->elf;

    if ((h->flags & FLAG_ADDRESS) != 0)
        return load_raw(c, h, entry);
    int rc = vmci_elf_parse(c, elf);
    if (rc == VMC_OK)
        rc = vmci_elf_load(c, elf);
    if (rc == VMC_OK)
        *entry = vmci_elf_entry(elf);
    return rc;
}

static int load_module(struct boot_ctx *c, const struct vmc_image_src *image, const char *args,
                       uint8_t *entry)
{
    uint64_t at = 0, string = 0;
    /* Behind the kernel, in order: small kernels only map what is low. */
    int rc = vmci_boot_alloc_low(c, VMCI_MAX(image->bytes, 1ull), VMC_PAGE_SIZE,
                                 VMCI_MAX(c->out->high, MIB), 4 * GIB, "module", &at);

    if (rc == VMC_OK)
        rc = vmci_image_load(c, image, 0, image->bytes, at, "module");
    if (rc == VMC_OK)
        rc = vmci_boot_place(c, args, vmci_strlen(args) + 1, "module string", &string);
    vmci_st_le32(entry, (uint32_t)at);
    vmci_st_le32(entry + 4, (uint32_t)(at + image->bytes));
    vmci_st_le32(entry + 8, (uint32_t)string);
    return rc;
}

/* An initial RAM disk is the first module, as with other loaders. */
static int load_modules(struct boot_ctx *c, uint8_t *info)
{
    uint8_t list[(VMC_BOOT_MAX_MODULES + 1) * MOD_BYTES] = {0};
    const struct vmc_image_src *initrd = c->cfg->initrd;
    unsigned n = 0;
    uint64_t gpa = 0;

    if (initrd != NULL && initrd->bytes != 0) {
        int rc = load_module(c, initrd, "initrd", list);
        if (rc != VMC_OK)
            return rc;
        n++;
    }
    for (unsigned i = 0; i < c->cfg->module_count; i++, n++) {
        const struct vmc_boot_module *m = &c->cfg->modules[i];
        int rc = load_module(c, &m->image, m->args != NULL ? m->args : "", list + n * MOD_BYTES);
        if (rc != VMC_OK)
            return rc;
    }
    vmci_st_le32(info + 20, n);
    if (n == 0)
        return VMC_OK;
    int rc = vmci_boot_place(c, list, n * MOD_BYTES, "module list", &gpa);
    vmci_st_le32(info + 24, (uint32_t)gpa);
    return rc;
}

/* ---- information --------------------------------------------------------------------------- */

/* KiB of RAM from base up without a hole. */
static uint32_t contiguous_kib(const struct boot_ctx *c, uint64_t base, uint64_t end)
{
    uint64_t at = base;

    for (unsigned i = 0; i < c->map_count; i++) {
        const struct vmc_memmap *m = &c->map[i];
        if (m->type == VMC_MEMMAP_RAM && m->base <= at && at - m->base < m->bytes)
            at = m->base + m->bytes;
    }
    return (uint32_t)VMCI_MIN((VMCI_MIN(at, end) - base) / 1024, (uint64_t)UINT32_MAX);
}

static int put_map(struct boot_ctx *c, uint8_t *info)
{
    uint8_t map[VMC_MEMMAP_MAX * MMAP_BYTES] = {0};
    uint64_t gpa = 0;

    for (unsigned i = 0; i < c->map_count; i++) {
        uint8_t *e = map + i * MMAP_BYTES;
        vmci_st_le32(e, MMAP_BYTES - 4);
        vmci_st_le64(e + 4, c->map[i].base);
        vmci_st_le64(e + 12, c->map[i].bytes);
        vmci_st_le32(e + 20, c->map[i].type);
    }
    vmci_st_le32(info + 4, contiguous_kib(c, 0, MIB));
    vmci_st_le32(info + 8, contiguous_kib(c, MIB, 4 * GIB));
    vmci_st_le32(info + 44, c->map_count * MMAP_BYTES);
    int rc = vmci_boot_place(c, map, c->map_count * MMAP_BYTES, "memory map", &gpa);
    vmci_st_le32(info + 48, (uint32_t)gpa);
    return rc;
}

static int put_cmdline(struct boot_ctx *c, uint8_t *info)
{
    const char *name = c->cfg->name != NULL ? c->cfg->name : "";
    const char *args = c->cfg->cmdline != NULL ? c->cfg->cmdline : "";
    bool both = *name != '\0' && *args != '\0';
    uint64_t gpa = 0;
    int n = (int)vmci_snprintf((char *)c->chunk, sizeof(c->chunk), "%s%s%s", name, both ? " " : "",
                               args);

    if ((size_t)n >= sizeof(c->chunk))
        return vmci_error(c->err, VMC_ELIMIT, "boot/multiboot", "the image's name is too long");
    int rc = vmci_boot_place(c, c->chunk, (size_t)n + 1, "command line", &gpa);
    vmci_st_le32(info + 16, (uint32_t)gpa);
    return rc;
}

static int load(struct boot_ctx *c)
{
    uint8_t info[INFO_BYTES] = {0};
    struct header h;
    uint64_t entry = 0, info_gpa = 0, name = 0;

    if (!read_header(c->cfg->image, c->chunk, &h))
        return vmci_error(c->err, VMC_EFORMAT, "boot/multiboot",
                          "no Multiboot header in the first 8 KiB");
    if ((h.flags & FLAGS_MUST & ~FLAGS_KNOWN) != 0)
        return vmci_error(c->err, VMC_ENOTSUP, "boot/multiboot",
                          "the image needs unknown Multiboot features (flags 0x%x)", h.flags);
    int rc = load_image(c, &h, &entry);
    if (rc == VMC_OK)
        rc = load_modules(c, info);
    if (rc == VMC_OK)
        rc = put_map(c, info);
    if (rc == VMC_OK)
        rc = put_cmdline(c, info);
    if (rc == VMC_OK)
        rc = vmci_boot_place(c, loader_name, sizeof(loader_name), "loader name", &name);
    if (rc != VMC_OK)
        return rc;
    vmci_st_le32(info, INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER);
    vmci_st_le32(info + 64, (uint32_t)name);
    rc = vmci_boot_place(c, info, sizeof(info), "Multiboot information", &info_gpa);
    if (rc == VMC_OK)
        rc = vmci_start_prot32(c, SEL_FIRST, entry);
    c->start->gpr[VMC_RAX] = BOOT_MAGIC;
    c->start->gpr[VMC_RBX] = info_gpa;
    return rc;
}

const struct vmci_loader vmci_boot_multiboot = {VMC_BOOT_MULTIBOOT, "Multiboot", probe, load};
