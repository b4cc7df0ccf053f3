/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ELF images (System V ABI, gABI 4.1): headers, segments, and the two ways to start them without a
 * Multiboot header: PVH (Xen, docs/misc/pvh.pandoc) and Linux's 64-bit entry.
 *
 * Threats (input: the image)
 *   headers outside the image           bounded reads                      elf_truncated
 *   overlapping or huge segments        each is claimed in memory          elf_overlap, elf_huge
 *   notes with absurd sizes             bounded, at most NOTE_MAX bytes    pvh_bad_note
 *   an ordinary program                 refused by its interpreter         elf64_program
 */
#include "boot_priv.h"

#define EH32_BYTES  52
#define EH64_BYTES  64
#define PH32_BYTES  32
#define PH64_BYTES  56
#define EM_386      3
#define EM_X86_64   62
#define PT_INTERP   3u
#define NOTE_MAX    65536u
#define NOTE_PHYS32 18u /* XEN_ELFNOTE_PHYS32_ENTRY */

bool vmci_elf_probe(const struct vmc_image_src *src)
{
    uint8_t id[20];

    return vmci_image_peek(src, 0, id, sizeof(id)) && vmci_ld_le32(id) == 0x464c457fu &&
           (id[4] == 1 || id[4] == 2) && id[5] == 1 &&
           (vmci_ld_le16(id + 18) == EM_386 || vmci_ld_le16(id + 18) == EM_X86_64);
}

static void decode_segment(bool is64, const uint8_t *p, struct elf_segment *s)
{
    s->type = vmci_ld_le32(p);
    if (is64) {
        s->offset = vmci_ld_le64(p + 8);
        s->vaddr = vmci_ld_le64(p + 16);
        s->paddr = vmci_ld_le64(p + 24);
        s->filesz = vmci_ld_le64(p + 32);
        s->memsz = vmci_ld_le64(p + 40);
    } else {
        s->offset = vmci_ld_le32(p + 4);
        s->vaddr = vmci_ld_le32(p + 8);
        s->paddr = vmci_ld_le32(p + 12);
        s->filesz = vmci_ld_le32(p + 16);
        s->memsz = vmci_ld_le32(p + 20);
    }
}

int vmci_elf_parse(struct boot_ctx *c, struct elf_image *elf)
{
    uint8_t h[EH64_BYTES] = {0};

    if (!vmci_elf_probe(c->cfg->image))
        return vmci_error(c->err, VMC_EFORMAT, "boot/elf", "the image is no ELF file for x86");
    int rc = vmci_image_read(c, 0, h, EH32_BYTES, "ELF header");
    if (rc != VMC_OK)
        return rc;
    elf->is64 = h[4] == 2;
    if (elf->is64) {
        rc = vmci_image_read(c, 0, h, EH64_BYTES, "ELF header");
        if (rc != VMC_OK)
            return rc;
    }
    elf->machine = vmci_ld_le16(h + 18);
    elf->entry = elf->is64 ? vmci_ld_le64(h + 24) : vmci_ld_le32(h + 24);
    uint64_t phoff = elf->is64 ? vmci_ld_le64(h + 32) : vmci_ld_le32(h + 28);
    unsigned phsize = vmci_ld_le16(h + (elf->is64 ? 54 : 42));
    elf->count = vmci_ld_le16(h + (elf->is64 ? 56 : 44));
    unsigned want = elf->is64 ? PH64_BYTES : PH32_BYTES;
    if (elf->count == 0)
        return vmci_error(c->err, VMC_EFORMAT, "boot/elf", "the ELF file has no segments");
    if (elf->count > ELF_MAX_SEGMENTS)
        return vmci_error(c->err, VMC_ELIMIT, "boot/elf", "the ELF file has %u segments; %d can be",
                          elf->count, ELF_MAX_SEGMENTS);
    if (phsize < want)
        return vmci_error(c->err, VMC_EFORMAT, "boot/elf", "program headers have %u bytes, not %u",
                          phsize, want);
    for (unsigned i = 0; i < elf->count; i++) {
        uint8_t ph[PH64_BYTES];
        uint64_t at;
        if (vmci_add_ovf(phoff, (uint64_t)i * phsize, &at))
            return vmci_error(c->err, VMC_EFORMAT, "boot/elf", "program header offset overflows");
        rc = vmci_image_read(c, at, ph, want, "ELF program header");
        if (rc != VMC_OK)
            return rc;
        decode_segment(elf->is64, ph, &elf->seg[i]);
    }
    return VMC_OK;
}

static int load_segment(struct boot_ctx *c, const struct elf_segment *s)
{
    if (s->filesz > s->memsz)
        return vmci_error(c->err, VMC_EFORMAT, "boot/elf",
                          "an ELF segment has more bytes in the file (0x%llx) than in memory "
                          "(0x%llx)", (unsigned long long)s->filesz, (unsigned long long)s->memsz);
    if (!vmci_range_ok(s->offset, s->filesz, c->cfg->image->bytes))
        return vmci_error(c->err, VMC_EFORMAT, "boot/elf",
                          "an ELF segment of 0x%llx bytes at offset 0x%llx is not inside the image",
                          (unsigned long long)s->filesz, (unsigned long long)s->offset);
    int rc = vmci_boot_claim_fixed(c, s->paddr, s->memsz, "ELF segment");
    if (rc == VMC_OK)
        rc = vmci_image_load(c, c->cfg->image, s->offset, s->filesz, s->paddr, "ELF segment");
    if (rc == VMC_OK && s->memsz != s->filesz)
        rc = vmci_boot_zero(c, s->paddr + s->filesz, s->memsz - s->filesz, "ELF segment");
    return rc;
}

int vmci_elf_load(struct boot_ctx *c, const struct elf_image *elf)
{
    c->out->low = UINT64_MAX;
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *s = &elf->seg[i];
        if (s->type != ELF_PT_LOAD || s->memsz == 0)
            continue;
        int rc = load_segment(c, s);
        if (rc != VMC_OK)
            return rc;
        c->out->low = VMCI_MIN(c->out->low, s->paddr);
        c->out->high = VMCI_MAX(c->out->high, s->paddr + s->memsz);
    }
    if (c->out->high == 0)
        return vmci_error(c->err, VMC_EFORMAT, "boot/elf", "the ELF file has nothing to load");
    return VMC_OK;
}

uint64_t vmci_elf_entry(const struct elf_image *elf)
{
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < elf->count; i++) {
            const struct elf_segment *s = &elf->seg[i];
            uint64_t base = pass == 0 ? s->paddr : s->vaddr;
            if (s->type == ELF_PT_LOAD && elf->entry >= base && elf->entry - base < s->memsz)
                return s->paddr + (elf->entry - base);
        }
    }
    return elf->entry;
}

/* ---- PVH ----------------------------------------------------------------------------------- */

#define PVH_MAGIC       0x336ec578u
#define PVH_INFO_BYTES  56
#define PVH_MOD_BYTES   32
#define PVH_MAP_BYTES   24

/* Entry point of the Xen note in a note segment of n bytes; false: it has none. */
static bool find_note(const uint8_t *p, size_t n, uint64_t *entry)
{
    size_t at = 0;

    while (at + 12 <= n) {
        uint64_t name = vmci_ld_le32(p + at), desc = vmci_ld_le32(p + at + 4);
        uint32_t type = vmci_ld_le32(p + at + 8);
        uint64_t desc_at = at + 12 + vmci_align_up(name, 4);
        if (!vmci_range_ok(desc_at, desc, n))
            return false;
        if (type == NOTE_PHYS32 && name == 4 && memcmp(p + at + 12, "Xen", 4) == 0 &&
            (desc == 4 || desc == 8)) {
            *entry = desc == 4 ? vmci_ld_le32(p + desc_at) : vmci_ld_le64(p + desc_at);
            return true;
        }
        at = (size_t)(desc_at + vmci_align_up(desc, 4));
    }
    return false;
}

static bool note_of(const struct vmc_image_src *src, const struct elf_segment *s, uint8_t *buf,
                    size_t room, uint64_t *entry)
{
    size_t n = (size_t)VMCI_MIN(s->filesz, (uint64_t)VMCI_MIN(room, (size_t)NOTE_MAX));

    return s->type == ELF_PT_NOTE && vmci_image_peek(src, s->offset, buf, n) &&
           find_note(buf, n, entry);
}

static bool pvh_probe(const struct vmc_image_src *src)
{
    uint8_t h[EH64_BYTES] = {0}, buf[1024];
    uint64_t entry;

    if (!vmci_elf_probe(src) || !vmci_image_peek(src, 0, h, EH32_BYTES))
        return false;
    bool is64 = h[4] == 2;
    if (is64 && !vmci_image_peek(src, 0, h, EH64_BYTES))
        return false;
    uint64_t phoff = is64 ? vmci_ld_le64(h + 32) : vmci_ld_le32(h + 28);
    unsigned phsize = vmci_ld_le16(h + (is64 ? 54 : 42));
    unsigned count = VMCI_MIN((unsigned)vmci_ld_le16(h + (is64 ? 56 : 44)),
                              (unsigned)ELF_MAX_SEGMENTS);
    for (unsigned i = 0; i < count; i++) {
        uint8_t ph[PH64_BYTES];
        struct elf_segment s;
        uint64_t at;
        if (vmci_add_ovf(phoff, (uint64_t)i * phsize, &at) ||
            !vmci_image_peek(src, at, ph, is64 ? PH64_BYTES : PH32_BYTES))
            return false;
        decode_segment(is64, ph, &s);
        if (note_of(src, &s, buf, sizeof(buf), &entry))
            return true;
    }
    return false;
}

/* Initial RAM disk or modules as PVH modules; *gpa of the list. */
static int pvh_modules(struct boot_ctx *c, uint32_t *count, uint64_t *list)
{
    uint8_t entry[PVH_MOD_BYTES] = {0};
    const struct vmc_image_src *src = c->cfg->initrd;
    uint64_t gpa = 0;

    if (src == NULL || src->bytes == 0)
        return VMC_OK;
    int rc = vmci_boot_alloc_high(c, src->bytes, VMC_PAGE_SIZE, MIB, 4 * GIB, "initial RAM disk",
                                  &gpa);
    if (rc == VMC_OK)
        rc = vmci_image_load(c, src, 0, src->bytes, gpa, "initial RAM disk");
    if (rc != VMC_OK)
        return rc;
    vmci_st_le64(entry, gpa);
    vmci_st_le64(entry + 8, src->bytes);
    c->out->initrd = gpa;
    c->out->initrd_bytes = src->bytes;
    *count = 1;
    return vmci_boot_place(c, entry, sizeof(entry), "module list", list);
}

static int pvh_info(struct boot_ctx *c, uint64_t *gpa)
{
    const char *line = c->cfg->cmdline != NULL ? c->cfg->cmdline : "";
    uint8_t info[PVH_INFO_BYTES] = {0};
    uint8_t map[VMC_MEMMAP_MAX * PVH_MAP_BYTES] = {0};
    uint64_t cmdline = 0, mods = 0, memmap = 0;
    uint32_t mod_count = 0;

    for (unsigned i = 0; i < c->map_count; i++) {
        uint8_t *e = map + i * PVH_MAP_BYTES;
        vmci_st_le64(e, c->map[i].base);
        vmci_st_le64(e + 8, c->map[i].bytes);
        vmci_st_le32(e + 16, c->map[i].type);
    }
    int rc = vmci_boot_place(c, line, vmci_strlen(line) + 1, "command line", &cmdline);
    if (rc == VMC_OK)
        rc = pvh_modules(c, &mod_count, &mods);
    if (rc == VMC_OK)
        rc = vmci_boot_place(c, map, c->map_count * PVH_MAP_BYTES, "memory map", &memmap);
    if (rc != VMC_OK)
        return rc;
    vmci_st_le32(info, PVH_MAGIC);
    vmci_st_le32(info + 4, 1); /* version: with a memory map */
    vmci_st_le32(info + 12, mod_count);
    vmci_st_le64(info + 16, mods);
    vmci_st_le64(info + 24, cmdline);
    vmci_st_le64(info + 32, c->cfg->rsdp);
    vmci_st_le64(info + 40, memmap);
    vmci_st_le32(info + 48, c->map_count);
    return vmci_boot_place(c, info, sizeof(info), "start info", gpa);
}

static int pvh_load(struct boot_ctx *c)
{
    struct elf_image *elf = &c->elf;
    uint64_t entry = 0, info = 0;
    bool found = false;
    int rc = vmci_elf_parse(c, elf);

    if (rc != VMC_OK)
        return rc;
    for (unsigned i = 0; i < elf->count && !found; i++)
        found = note_of(c->cfg->image, &elf->seg[i], c->chunk, sizeof(c->chunk), &entry);
    if (!found)
        return vmci_error(c->err, VMC_EFORMAT, "boot/pvh", "the ELF file has no PVH entry note");
    rc = vmci_elf_load(c, elf);
    if (rc == VMC_OK)
        rc = pvh_info(c, &info);
    if (rc == VMC_OK)
        rc = vmci_start_prot32(c, SEL_FIRST, entry);
    c->start->gpr[VMC_RBX] = info;
    return rc;
}

/* ---- Linux's 64-bit entry ------------------------------------------------------------------ */

#define HDR_BOOT_FLAG 0x1fe
#define HDR_MAGIC     0x202
#define HDR_VERSION   0x206
#define CMDLINE_MAX   2047u
#define INITRD_MAX    0x80000000ull

static bool elf64_probe(const struct vmc_image_src *src)
{
    uint8_t id[20];

    return vmci_elf_probe(src) && vmci_image_peek(src, 0, id, sizeof(id)) && id[4] == 2;
}

static int elf64_load(struct boot_ctx *c)
{
    uint8_t *page = c->page;
    struct elf_image *elf = &c->elf;
    uint64_t zero_page = 0;
    int rc = vmci_elf_parse(c, elf);

    if (rc == VMC_OK && !elf->is64)
        return vmci_error(c->err, VMC_EFORMAT, "boot/elf",
                          "a 32-bit ELF file needs a Multiboot header or a PVH note");
    for (unsigned i = 0; rc == VMC_OK && i < elf->count; i++)
        if (elf->seg[i].type == PT_INTERP)
            return vmci_error(c->err, VMC_EFORMAT, "boot/elf",
                              "the ELF file is a program, no kernel: it asks for an interpreter");
    if (rc == VMC_OK)
        rc = vmci_elf_load(c, elf);
    if (rc != VMC_OK)
        return rc;
    /* What the setup code of a bzImage would say. */
    vmci_st_le16(page + HDR_BOOT_FLAG, 0xaa55);
    vmci_st_le32(page + HDR_MAGIC, 0x53726448u);
    vmci_st_le16(page + HDR_VERSION, 0x020f);
    rc = vmci_linux_zero_page(c, page, CMDLINE_MAX, INITRD_MAX, &zero_page);
    if (rc == VMC_OK)
        rc = vmci_start_long64(c, SEL_LINUX, vmci_elf_entry(elf));
    c->start->gpr[VMC_RSI] = zero_page;
    return rc;
}

const struct vmci_loader vmci_boot_pvh = {VMC_BOOT_PVH, "PVH", pvh_probe, pvh_load};
const struct vmci_loader vmci_boot_elf64 = {VMC_BOOT_ELF64, "ELF64", elf64_probe, elf64_load};
