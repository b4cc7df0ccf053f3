/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the boot loader says: Multiboot 1 (0.6.96) and Multiboot 2 (2.0). Everything is copied,
 * because the loader's own memory is given to the allocator afterwards. The first 4 GiB are mapped
 * at PHYSMAP_BASE.
 */
#include "bm_int.h"

#define MB1_LOADED 0x2badb002u
#define MB2_LOADED 0x36d76289u
#define LOW_LIMIT  (1ull << 32)
#define MAX_INFO   (16u << 20) /* more is no information but nonsense */

struct bm_boot bm_boot;

static void copy_string(char *dst, size_t bytes, const char *src, size_t max)
{
    size_t n = 0;

    while (n + 1 < bytes && n < max && src[n] != 0) {
        dst[n] = src[n];
        n++;
    }
    dst[n] = 0;
}

/* What the loader points to must be there to be read. */
static void must_be_low(uint64_t pa, uint64_t bytes)
{
    if (bytes > MAX_INFO || pa + bytes > LOW_LIMIT)
        bm_panic("boot information at 0x%llx cannot be read", (unsigned long long)pa);
}

static void add_range(uint64_t base, uint64_t bytes, bool ram)
{
    if (bytes == 0 || base + bytes < base)
        return;
    if (bm_boot.ranges == BM_MAX_RANGES)
        bm_panic("the boot loader's memory map has more than %u entries", BM_MAX_RANGES);
    bm_boot.range[bm_boot.ranges++] = (struct bm_range){.base = base, .bytes = bytes, .ram = ram};
}

static void add_module(uint64_t start, uint64_t end, const char *name, size_t max)
{
    if (end < start)
        return;
    if (bm_boot.modules == BM_MAX_MODULES)
        bm_panic("more than %u modules", BM_MAX_MODULES);
    unsigned i = bm_boot.modules++;
    bm_boot.module[i].pa = start;
    bm_boot.module[i].bytes = end - start;
    copy_string(bm_boot.module[i].name, sizeof(bm_boot.module[i].name), name, max);
}

/* ---- Multiboot 1 ------------------------------------------------------------------------------
 */

struct mb1_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
    uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, loader_name;
};

static void parse_mb1(uint64_t pa)
{
    const struct mb1_info *in = phys_ptr(pa);

    bm_boot.protocol = "Multiboot 1";
    if (in->flags & (1u << 2))
        copy_string(bm_boot.cmdline, sizeof(bm_boot.cmdline), phys_ptr(in->cmdline), SIZE_MAX);
    if (in->flags & (1u << 9))
        copy_string(bm_boot.loader, sizeof(bm_boot.loader), phys_ptr(in->loader_name), SIZE_MAX);
    if (in->flags & (1u << 3)) {
        must_be_low(in->mods_addr, in->mods_count * 16ull);
        for (uint32_t i = 0; i < in->mods_count; i++) {
            uint32_t m[3]; /* start, end, string */
            memcpy(m, phys_ptr(in->mods_addr + i * 16ull), sizeof(m));
            add_module(m[0], m[1], m[2] != 0 ? phys_ptr(m[2]) : "", SIZE_MAX);
        }
    }
    if ((in->flags & (1u << 6)) == 0)
        bm_panic("the boot loader passed no memory map");
    must_be_low(in->mmap_addr, in->mmap_length);
    for (uint64_t off = 0; off + 24 <= in->mmap_length;) {
        const uint8_t *e = phys_ptr(in->mmap_addr + off);
        uint32_t bytes, type;
        uint64_t base, len;
        memcpy(&bytes, e, 4);
        memcpy(&base, e + 4, 8);
        memcpy(&len, e + 12, 8);
        memcpy(&type, e + 20, 4);
        add_range(base, len, type == 1);
        off += bytes + 4ull;
    }
}

/* ---- Multiboot 2 ------------------------------------------------------------------------------
 */

enum mb2_tag {
    MB2_END = 0,
    MB2_CMDLINE = 1,
    MB2_LOADER = 2,
    MB2_MODULE = 3,
    MB2_MMAP = 6,
    MB2_EFI32 = 11,
    MB2_EFI64 = 12,
    MB2_ACPI1 = 14,
    MB2_ACPI2 = 15,
};

static void mb2_mmap(const uint8_t *tag, uint32_t bytes)
{
    uint32_t entry;

    if (bytes < 16)
        return;
    memcpy(&entry, tag + 8, 4);
    for (uint64_t off = 16; entry >= 24 && off + entry <= bytes; off += entry) {
        uint64_t base, len;
        uint32_t type;
        memcpy(&base, tag + off, 8);
        memcpy(&len, tag + off + 8, 8);
        memcpy(&type, tag + off + 16, 4);
        add_range(base, len, type == 1);
    }
}

static void mb2_one(const uint8_t *tag, uint64_t tag_pa, uint32_t type, uint32_t bytes)
{
    const char *text = (const char *)tag + 8;
    uint32_t start, end;

    switch (type) {
    case MB2_CMDLINE:
        copy_string(bm_boot.cmdline, sizeof(bm_boot.cmdline), text, bytes - 8);
        break;
    case MB2_LOADER:
        copy_string(bm_boot.loader, sizeof(bm_boot.loader), text, bytes - 8);
        break;
    case MB2_MODULE:
        if (bytes < 16)
            break;
        memcpy(&start, tag + 8, 4);
        memcpy(&end, tag + 12, 4);
        add_module(start, end, (const char *)tag + 16, bytes - 16);
        break;
    case MB2_MMAP:
        mb2_mmap(tag, bytes);
        break;
    case MB2_EFI32:
    case MB2_EFI64:
        bm_boot.efi = true;
        break;
    case MB2_ACPI1:
        if (bm_boot.rsdp_pa == 0)
            bm_boot.rsdp_pa = tag_pa + 8; /* a copy of the RSDP, used before the memory is freed */
        break;
    case MB2_ACPI2:
        bm_boot.rsdp_pa = tag_pa + 8;
        break;
    default:
        break;
    }
}

static uint8_t rsdp_copy[64];

static void parse_mb2(uint64_t pa)
{
    const uint8_t *in = phys_ptr(pa);
    uint32_t total;

    bm_boot.protocol = "Multiboot 2";
    memcpy(&total, in, 4);
    must_be_low(pa, total);
    for (uint64_t off = 8; off + 8 <= total;) {
        uint32_t type, bytes;
        memcpy(&type, in + off, 4);
        memcpy(&bytes, in + off + 4, 4);
        if (type == MB2_END || bytes < 8 || bytes > total - off)
            break;
        mb2_one(in + off, pa + off, type, bytes);
        if ((type == MB2_ACPI1 || type == MB2_ACPI2) && bytes - 8 <= sizeof(rsdp_copy) &&
            bm_boot.rsdp_pa == pa + off + 8)
            memcpy(rsdp_copy, in + off + 8, bytes - 8);
        off += (bytes + 7ull) & ~7ull;
    }
    if (bm_boot.rsdp_pa != 0) /* the loader's copy does not outlive this */
        bm_boot.rsdp_pa = bm_virt_to_phys(rsdp_copy);
}

/* ---- both ---------------------------------------------------------------------------------------
 */

void bm_boot_parse(uint32_t magic, uint64_t info_pa)
{
    if (magic == MB1_LOADED)
        parse_mb1(info_pa);
    else if (magic == MB2_LOADED)
        parse_mb2(info_pa);
    else
        bm_panic("not started by a Multiboot loader (magic 0x%x)", magic);
    if (bm_boot.ranges == 0)
        bm_panic("the boot loader's memory map is empty");
    for (unsigned i = 0; i < bm_boot.modules; i++)
        if (bm_boot.module[i].pa + bm_boot.module[i].bytes > LOW_LIMIT)
            bm_panic("module %u lies beyond 4 GiB", i);
}

static bool starts_with(const char *s, const char *prefix)
{
    while (*prefix != 0)
        if (*s++ != *prefix++)
            return false;
    return true;
}

bool bm_boot_option(const char *name, char *out, size_t bytes)
{
    const char *p = bm_boot.cmdline;
    size_t n = bm_strlen(name);

    while (*p != 0) {
        while (*p == ' ')
            p++;
        if (starts_with(p, name) && p[n] == '=') {
            size_t len = 0;
            for (p += n + 1; p[len] != 0 && p[len] != ' ';)
                len++;
            copy_string(out, bytes, p, len);
            return true;
        }
        while (*p != 0 && *p != ' ')
            p++;
    }
    return false;
}
