/* SPDX-License-Identifier: BSD-2-Clause */
/* Boot protocols: well-formed images start as they should, malformed ones are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/boot.h>
#include <vmcore/x86.h>

#include "base/base_int.h"
#include "test_platform.h"

#include <cmocka.h>

#define MIB (1ull << 20)
#define RAM (256 * MIB)

struct fx {
    struct test_platform tp;
    struct vmc_mem *mem;
    struct vmc_memmap map[3];
    struct vmc_image_src image, initrd;
    struct vmc_boot_config cfg;
    struct vmc_x86_state *st;
    struct vmc_boot_result r;
    struct vmc_error err;
    uint8_t *buf;
    size_t room;
};

static int setup(void **state)
{
    struct fx *f = calloc(1, sizeof(*f));

    test_platform_init(&f->tp);
    assert_int_equal(vmc_mem_create(&f->tp.pf, &f->mem, NULL), VMC_OK);
    struct vmc_mem_slot low = {.size = sizeof(low), .attr = VMC_MEM_RAM, .bytes = 0xa0000};
    struct vmc_mem_slot high = {
        .size = sizeof(high), .attr = VMC_MEM_RAM, .gpa = 0xc0000, .bytes = RAM - 0xc0000};
    assert_int_equal(vmc_mem_add(f->mem, &low, NULL), VMC_OK);
    assert_int_equal(vmc_mem_add(f->mem, &high, NULL), VMC_OK);
    f->map[0] = (struct vmc_memmap){.base = 0, .bytes = 0x9fc00, .type = VMC_MEMMAP_RAM};
    f->map[1] = (struct vmc_memmap){.base = 0xe0000, .bytes = 0x20000, .type = VMC_MEMMAP_RESERVED};
    f->map[2] = (struct vmc_memmap){.base = MIB, .bytes = RAM - MIB, .type = VMC_MEMMAP_RAM};
    f->room = 4 * MIB;
    f->buf = calloc(1, f->room);
    f->st = calloc(1, sizeof(*f->st));
    f->cfg = (struct vmc_boot_config){.size = sizeof(f->cfg),
                                      .image = &f->image,
                                      .memmap = f->map,
                                      .memmap_count = 3,
                                      .rsdp = 0xe0000,
                                      .rsdp_bytes = 0x2000};
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fx *f = *state;

    vmc_mem_destroy(f->mem);
    test_platform_check(&f->tp);
    free(f->buf);
    free(f->st);
    free(f);
    return 0;
}

static int load(struct fx *f, size_t bytes)
{
    vmc_image_src_memory(&f->image, f->buf, bytes);
    memset(&f->err, 0, sizeof(f->err));
    int rc = vmc_boot_load(&f->tp.pf, f->mem, &f->cfg, f->st, &f->r, &f->err);
    if (rc != VMC_OK) {
        assert_int_equal(f->err.code, rc);
        assert_true(strlen(f->err.text) > 10);
    }
    return rc;
}

static void get(struct fx *f, uint64_t gpa, void *dst, size_t n)
{
    assert_int_equal(vmc_mem_read(f->mem, gpa, dst, n), VMC_OK);
}

static uint32_t get32(struct fx *f, uint64_t gpa)
{
    uint32_t v;

    get(f, gpa, &v, 4);
    return v;
}

static uint64_t get64(struct fx *f, uint64_t gpa)
{
    uint64_t v;

    get(f, gpa, &v, 8);
    return v;
}

static void get_string(struct fx *f, uint64_t gpa, char *dst, size_t n)
{
    get(f, gpa, dst, n);
    dst[n - 1] = '\0';
}

/* ---- bzImage ------------------------------------------------------------------------------- */

#define SETUP_SECTS 4
#define KERNEL_AT   ((SETUP_SECTS + 1) * 512)

static size_t make_bzimage(struct fx *f, bool is64)
{
    uint8_t *h = f->buf;
    size_t n = KERNEL_AT + 10000;

    memset(h, 0, n);
    h[0x1f1] = SETUP_SECTS;
    vmci_st_le16(h + 0x1fe, 0xaa55);
    h[0x200] = 0xeb;
    h[0x201] = 0x6a;
    memcpy(h + 0x202, "HdrS", 4);
    vmci_st_le16(h + 0x206, 0x20f);
    h[0x211] = 1;
    vmci_st_le32(h + 0x214, 0x100000);
    vmci_st_le32(h + 0x22c, 0x7fffffff);
    vmci_st_le32(h + 0x230, 0x200000);
    h[0x234] = 1;
    vmci_st_le16(h + 0x236, is64 ? 3 : 0);
    vmci_st_le32(h + 0x238, 255);
    vmci_st_le64(h + 0x258, 0x1000000);
    vmci_st_le32(h + 0x260, 0x800000);
    for (size_t i = KERNEL_AT; i < n; i++)
        h[i] = (uint8_t)(i * 31);
    return n;
}

static void bzimage_64(void **state)
{
    struct fx *f = *state;
    static uint8_t disk[5000];
    char line[16];
    size_t n = make_bzimage(f, true);
    uint8_t b[64], seed[32];

    memset(disk, 0x5a, sizeof(disk));
    memset(seed, 0x77, sizeof(seed));
    vmc_image_src_memory(&f->initrd, disk, sizeof(disk));
    f->cfg.initrd = &f->initrd;
    f->cfg.cmdline = "console=ttyS0";
    f->cfg.rng_seed = seed;
    f->cfg.rng_seed_bytes = sizeof(seed);
    assert_int_equal(load(f, n), VMC_OK);
    assert_int_equal(f->r.kind, VMC_BOOT_BZIMAGE);
    assert_int_equal(f->r.entry, 0x1000200);
    get(f, 0x1000000, b, 64);
    assert_memory_equal(b, f->buf + KERNEL_AT, 64);
    assert_int_equal(f->st->cr0, VMC_CR0_PE | VMC_CR0_PG | VMC_CR0_ET);
    assert_int_equal(f->st->efer, VMC_EFER_LME | VMC_EFER_LMA);
    assert_int_equal(f->st->rip, 0x1000200);
    assert_int_equal(f->st->seg[VMC_CS].selector, 0x10);
    assert_int_equal(f->st->seg[VMC_CS].attr & VMC_SEG_L, VMC_SEG_L);
    assert_int_equal(f->st->seg[VMC_DS].selector, 0x18);
    assert_int_equal(f->st->rflags, 2);
    /* the identity map */
    uint64_t pdpt = get64(f, f->st->cr3) & ~0xfffull;
    uint64_t pd3 = get64(f, pdpt + 24) & ~0xfffull;
    assert_int_equal(get64(f, pd3 + 511 * 8), 0xffe00083);
    /* the GDT says the same as the segment registers */
    assert_int_equal(get64(f, f->st->gdtr.base + 0x10), 0x00af9b000000ffff);
    assert_int_equal(get64(f, f->st->gdtr.base + 0x18), 0x00cf93000000ffff);
    uint64_t zp = f->st->gpr[VMC_RSI];
    get(f, zp + 0x202, b, 4);
    assert_memory_equal(b, "HdrS", 4);
    get(f, zp + 0x210, b, 1);
    assert_int_equal(b[0], 0xff);
    get_string(f, get32(f, zp + 0x228), line, sizeof(line));
    assert_string_equal(line, "console=ttyS0");
    assert_int_equal(get32(f, zp + 0x218), f->r.initrd);
    assert_int_equal(get32(f, zp + 0x21c), 5000);
    assert_int_equal(f->r.initrd % 4096, 0);
    assert_true(f->r.initrd + 5000 > RAM - 8192);
    get(f, f->r.initrd + 4999, b, 1);
    assert_int_equal(b[0], 0x5a);
    assert_int_equal(get64(f, zp + 0x70), 0xe0000);
    get(f, zp + 0x1e8, b, 1);
    assert_int_equal(b[0], 3);
    assert_int_equal(get64(f, zp + 0x2d0 + 40), MIB);
    uint64_t sd = get64(f, zp + 0x250);
    assert_int_equal(get32(f, sd + 8), 9);
    assert_int_equal(get32(f, sd + 12), 32);
    get(f, sd + 16, b, 32);
    assert_memory_equal(b, seed, 32);
}

static void bzimage_32(void **state)
{
    struct fx *f = *state;

    assert_int_equal(load(f, make_bzimage(f, false)), VMC_OK);
    assert_int_equal(f->st->rip, 0x1000000);
    assert_int_equal(f->st->cr0, VMC_CR0_PE | VMC_CR0_ET);
    assert_int_equal(f->st->seg[VMC_CS].attr & (VMC_SEG_L | VMC_SEG_DB), VMC_SEG_DB);
    assert_true(f->st->gpr[VMC_RSI] != 0);
    assert_int_equal(f->st->gpr[VMC_RBX], 0);
}

static void bzimage_relocates(void **state)
{
    struct fx *f = *state;
    size_t n = make_bzimage(f, true);

    vmci_st_le64(f->buf + 0x258, 0x40000000); /* beyond RAM */
    assert_int_equal(load(f, n), VMC_OK);
    assert_int_equal(f->r.low, 0x200000);
    f->buf[0x234] = 0;
    assert_int_equal(load(f, n), VMC_ERANGE);
    f->buf[0x234] = 1;
    vmci_st_le32(f->buf + 0x230, 3); /* absurd alignment */
    assert_int_equal(load(f, n), VMC_EFORMAT);
}

static void bzimage_does_not_fit(void **state)
{
    struct fx *f = *state;
    size_t n = make_bzimage(f, true);

    vmci_st_le32(f->buf + 0x260, 0xffffffff);
    assert_int_equal(load(f, n), VMC_ERANGE);
    make_bzimage(f, true);
    vmci_st_le64(f->buf + 0x258, ~0ull - 4096);
    f->buf[0x234] = 0;
    assert_int_equal(load(f, n), VMC_ERANGE);
    make_bzimage(f, true);
    f->initrd = (struct vmc_image_src){.ops = f->image.ops, .bytes = 1ull << 40};
    f->cfg.initrd = &f->initrd;
    assert_int_equal(load(f, n), VMC_ERANGE);
}

static void bzimage_truncated(void **state)
{
    struct fx *f = *state;
    size_t n = make_bzimage(f, true);

    for (size_t i = 1; i < KERNEL_AT + 1; i += 13) {
        f->cfg.kind = VMC_BOOT_BZIMAGE;
        assert_true(load(f, i) < 0);
        f->cfg.kind = VMC_BOOT_AUTO;
        assert_true(load(f, i) < 0);
    }
    assert_int_equal(load(f, KERNEL_AT + 1), VMC_OK);
    /* It says how long it is. */
    vmci_st_le32(f->buf + 0x1f4, 625);
    assert_int_equal(n, KERNEL_AT + 625 * 16);
    assert_int_equal(load(f, n), VMC_OK);
    assert_int_equal(load(f, n - 15), VMC_OK);
    assert_int_equal(load(f, n - 16), VMC_EFORMAT);
    assert_non_null(strstr(f->err.text, "cut off"));
}

static void bzimage_old_protocols(void **state)
{
    struct fx *f = *state;
    size_t n = make_bzimage(f, true);

    vmci_st_le16(f->buf + 0x206, 0x205);
    assert_int_equal(load(f, n), VMC_ENOTSUP);
    vmci_st_le16(f->buf + 0x206, 0x20f);
    f->buf[0x211] = 0; /* zImage */
    assert_int_equal(load(f, n), VMC_ENOTSUP);
}

static void bzimage_without_32_bit_entry(void **state)
{
    struct fx *f = *state;
    size_t n = make_bzimage(f, false);

    assert_int_equal(load(f, n), VMC_OK);
    vmci_st_le32(f->buf + 0x214, 0);
    assert_int_equal(load(f, n), VMC_ENOTSUP);
    assert_non_null(strstr(f->err.text, "16-bit"));
    n = make_bzimage(f, true);
    vmci_st_le32(f->buf + 0x214, 0);
    assert_int_equal(load(f, n), VMC_OK);
}

static void bzimage_cmdline_limit(void **state)
{
    struct fx *f = *state;
    static char line[5000];
    size_t n = make_bzimage(f, true);

    memset(line, 'a', sizeof(line) - 1);
    f->cfg.cmdline = line;
    assert_int_equal(load(f, n), VMC_ELIMIT);
    line[300] = '\0';
    assert_int_equal(load(f, n), VMC_ELIMIT); /* the kernel takes 255 */
    line[255] = '\0';
    assert_int_equal(load(f, n), VMC_OK);
}

/* ---- ELF ----------------------------------------------------------------------------------- */

struct seg {
    uint32_t type;
    uint64_t offset, vaddr, paddr, filesz, memsz;
};

static size_t make_elf(struct fx *f, bool is64, uint64_t entry, const struct seg *s, unsigned n)
{
    uint8_t *h = f->buf;
    unsigned eh = is64 ? 64 : 52, ph = is64 ? 56 : 32;

    memset(h, 0, 65536);
    memcpy(h, "\177ELF", 4);
    h[4] = is64 ? 2 : 1;
    h[5] = h[6] = 1;
    vmci_st_le16(h + 16, 2);
    vmci_st_le16(h + 18, is64 ? 62 : 3);
    if (is64) {
        vmci_st_le64(h + 24, entry);
        vmci_st_le64(h + 32, eh);
        vmci_st_le16(h + 54, (uint16_t)ph);
        vmci_st_le16(h + 56, (uint16_t)n);
    } else {
        vmci_st_le32(h + 24, (uint32_t)entry);
        vmci_st_le32(h + 28, eh);
        vmci_st_le16(h + 42, (uint16_t)ph);
        vmci_st_le16(h + 44, (uint16_t)n);
    }
    for (unsigned i = 0; i < n; i++) {
        uint8_t *p = h + eh + i * ph;
        vmci_st_le32(p, s[i].type);
        if (is64) {
            vmci_st_le64(p + 8, s[i].offset);
            vmci_st_le64(p + 16, s[i].vaddr);
            vmci_st_le64(p + 24, s[i].paddr);
            vmci_st_le64(p + 32, s[i].filesz);
            vmci_st_le64(p + 40, s[i].memsz);
        } else {
            vmci_st_le32(p + 4, (uint32_t)s[i].offset);
            vmci_st_le32(p + 8, (uint32_t)s[i].vaddr);
            vmci_st_le32(p + 12, (uint32_t)s[i].paddr);
            vmci_st_le32(p + 16, (uint32_t)s[i].filesz);
            vmci_st_le32(p + 20, (uint32_t)s[i].memsz);
        }
    }
    for (unsigned i = 0x1000; i < 0x4000; i++)
        h[i] = (uint8_t)(i ^ 0x5a);
    return 65536;
}

static void elf64_by_virtual_entry(void **state)
{
    struct fx *f = *state;
    const struct seg s[] = {
        {1, 0x1000, 0xffffffff81000000, 0x1000000, 0x2000, 0x3000},
        {1, 0x3000, 0xffffffff82000000, 0x2000000, 0x800, 0x800},
    };
    uint8_t b[16];

    assert_int_equal(vmc_mem_set(f->mem, 0x1002000, 0xcc, 0x1000), VMC_OK);
    assert_int_equal(load(f, make_elf(f, true, 0xffffffff81000100, s, 2)), VMC_OK);
    assert_int_equal(f->r.kind, VMC_BOOT_ELF64);
    assert_int_equal(f->st->rip, 0x1000100);
    assert_int_equal(f->r.low, 0x1000000);
    assert_int_equal(f->r.high, 0x2000800);
    get(f, 0x1001ff0, b, 16);
    assert_memory_equal(b, f->buf + 0x2ff0, 16);
    get(f, 0x1002000, b, 16);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(b[i], 0);
    get(f, f->st->gpr[VMC_RSI] + 0x202, b, 4);
    assert_memory_equal(b, "HdrS", 4);
}

/* What somebody gets who names /bin/ls: no triple fault, but the reason. */
static void elf64_program(void **state)
{
    struct fx *f = *state;
    const struct seg s[] = {
        {3, 0x1000, 0x1000, 0x1000, 28, 28},
        {1, 0x1000, 0x1000, 0x1000, 0x2000, 0x3000},
    };

    assert_int_equal(load(f, make_elf(f, true, 0x1100, s, 2)), VMC_EFORMAT);
    assert_non_null(strstr(f->err.text, "interpreter"));
}

static void elf_overlap(void **state)
{
    struct fx *f = *state;
    const struct seg s[] = {
        {1, 0x1000, 0, 0x1000000, 0x1000, 0x2000},
        {1, 0x1000, 0, 0x1001fff, 0x1000, 0x1000},
    };

    assert_int_equal(load(f, make_elf(f, true, 0x1000000, s, 2)), VMC_EFORMAT);
    assert_non_null(strstr(f->err.text, "overlaps"));
}

static void elf_huge(void **state)
{
    struct fx *f = *state;
    struct seg s = {1, 0x1000, 0, 0x1000000, 0x1000, 1ull << 40};

    assert_int_equal(load(f, make_elf(f, true, 0x1000000, &s, 1)), VMC_ERANGE);
    s.memsz = ~0ull;
    assert_int_equal(load(f, make_elf(f, true, 0x1000000, &s, 1)), VMC_ERANGE);
    s = (struct seg){1, 0x1000, 0, ~0ull - 100, 0x1000, 0x1000};
    assert_int_equal(load(f, make_elf(f, true, 0x1000000, &s, 1)), VMC_ERANGE);
    s = (struct seg){1, 0x1000, 0, 0xa0000, 0x1000, 0x1000}; /* the hole */
    assert_int_equal(load(f, make_elf(f, true, 0x1000000, &s, 1)), VMC_ERANGE);
    s = (struct seg){1, 0x1000, 0, 0xe0000, 0x1000, 0x1000}; /* our ACPI tables */
    assert_int_equal(load(f, make_elf(f, true, 0xe0000, &s, 1)), VMC_EFORMAT);
    s = (struct seg){1, 0x1000, 0, 0xff000, 0x1000, 0x2000}; /* reserved, but RAM */
    assert_int_equal(load(f, make_elf(f, true, 0xff000, &s, 1)), VMC_OK);
}

static void elf_truncated(void **state)
{
    struct fx *f = *state;
    struct seg s = {1, 0xff00, 0, 0x1000000, 0x1000, 0x1000};

    assert_int_equal(load(f, make_elf(f, true, 0x1000000, &s, 1)), VMC_EFORMAT);
    s = (struct seg){1, ~0ull - 10, 0, 0x1000000, 0x1000, 0x1000};
    assert_int_equal(load(f, make_elf(f, true, 0x1000000, &s, 1)), VMC_EFORMAT);
    s = (struct seg){1, 0x1000, 0, 0x1000000, 0x1000, 0x800};
    assert_int_equal(load(f, make_elf(f, true, 0x1000000, &s, 1)), VMC_EFORMAT);
    s = (struct seg){1, 0x1000, 0, 0x1000000, 0x1000, 0x1000};
    make_elf(f, true, 0x1000000, &s, 1);
    for (size_t n = 1; n < 120; n++)
        assert_true(load(f, n) < 0);
    vmci_st_le64(f->buf + 32, ~0ull); /* program headers nowhere */
    assert_true(load(f, 65536) < 0);
    make_elf(f, true, 0x1000000, &s, 1);
    vmci_st_le16(f->buf + 54, 8);
    assert_int_equal(load(f, 65536), VMC_EFORMAT);
    make_elf(f, true, 0x1000000, &s, 1);
    vmci_st_le16(f->buf + 56, 0xffff);
    assert_int_equal(load(f, 65536), VMC_ELIMIT);
    make_elf(f, true, 0x1000000, &s, 0);
    assert_int_equal(load(f, 65536), VMC_EFORMAT);
    s.type = 5;
    assert_int_equal(load(f, make_elf(f, true, 0, &s, 1)), VMC_EFORMAT); /* nothing to load */
}

static void elf32_needs_a_protocol(void **state)
{
    struct fx *f = *state;
    struct seg s = {1, 0x1000, 0x100000, 0x100000, 0x1000, 0x1000};
    size_t n = make_elf(f, false, 0x100000, &s, 1);

    assert_int_equal(load(f, n), VMC_EFORMAT);
    f->cfg.kind = VMC_BOOT_ELF64;
    assert_int_equal(load(f, n), VMC_EFORMAT);
    f->cfg.kind = VMC_BOOT_PVH;
    assert_int_equal(load(f, n), VMC_EFORMAT);
    f->cfg.kind = 77;
    assert_int_equal(load(f, n), VMC_EINVAL);
}

static size_t make_pvh(struct fx *f, uint32_t descsz, uint64_t entry)
{
    const struct seg s[] = {
        {1, 0x1000, 0, 0x1000000, 0x1000, 0x1000},
        {4, 0x3000, 0, 0, 256, 256},
    };
    size_t n = make_elf(f, true, 0x1000000, s, 2);
    uint8_t *p = f->buf + 0x3000;

    memset(p, 0, 256);
    vmci_st_le32(p, 4); /* another note first */
    vmci_st_le32(p + 4, 5);
    vmci_st_le32(p + 8, 3);
    memcpy(p + 12, "GNU", 4);
    p += 12 + 4 + 8;
    vmci_st_le32(p, 4);
    vmci_st_le32(p + 4, descsz);
    vmci_st_le32(p + 8, 18);
    memcpy(p + 12, "Xen", 4);
    vmci_st_le64(p + 16, entry);
    return n;
}

static void pvh_starts(void **state)
{
    struct fx *f = *state;
    static uint8_t disk[100];
    char line[8];

    vmc_image_src_memory(&f->initrd, disk, sizeof(disk));
    f->cfg.initrd = &f->initrd;
    f->cfg.cmdline = "a=1";
    assert_int_equal(load(f, make_pvh(f, 8, 0x1000080)), VMC_OK);
    assert_int_equal(f->r.kind, VMC_BOOT_PVH);
    assert_int_equal(f->st->rip, 0x1000080);
    assert_int_equal(f->st->cr0, VMC_CR0_PE | VMC_CR0_ET);
    uint64_t si = f->st->gpr[VMC_RBX];
    assert_int_equal(get32(f, si), 0x336ec578);
    assert_int_equal(get32(f, si + 4), 1);
    assert_int_equal(get32(f, si + 12), 1);
    uint64_t mod = get64(f, si + 16);
    assert_int_equal(get64(f, mod), f->r.initrd);
    assert_int_equal(get64(f, mod + 8), 100);
    get_string(f, get64(f, si + 24), line, 4);
    assert_string_equal(line, "a=1");
    assert_int_equal(get64(f, si + 32), 0xe0000);
    assert_int_equal(get32(f, si + 48), 3);
    uint64_t map = get64(f, si + 40);
    assert_int_equal(get64(f, map + 48), MIB);
    assert_int_equal(get32(f, map + 24 + 16), VMC_MEMMAP_RESERVED);
    assert_int_equal(load(f, make_pvh(f, 4, 0x1000090)), VMC_OK);
    assert_int_equal(f->st->rip, 0x1000090);
}

static void pvh_bad_note(void **state)
{
    struct fx *f = *state;

    assert_int_equal(load(f, make_pvh(f, 0xffffffff, 0)), VMC_OK);
    assert_int_equal(f->r.kind, VMC_BOOT_ELF64); /* the note does not count */
    make_pvh(f, 8, 0x1000080);
    vmci_st_le32(f->buf + 0x3000, 0xfffffff0); /* name size */
    f->cfg.kind = VMC_BOOT_PVH;
    assert_int_equal(load(f, 65536), VMC_EFORMAT);
    make_pvh(f, 8, 0x1000000000);
    assert_int_equal(load(f, 65536), VMC_EFORMAT); /* entry beyond 4 GiB */
}

/* ---- Multiboot ----------------------------------------------------------------------------- */

static void put_mb(uint8_t *p, uint32_t flags)
{
    vmci_st_le32(p, 0x1badb002);
    vmci_st_le32(p + 4, flags);
    vmci_st_le32(p + 8, 0u - 0x1badb002 - flags);
}

static size_t make_mb_raw(struct fx *f, unsigned at)
{
    memset(f->buf, 0x90, 65536);
    put_mb(f->buf + at, 0x10003);
    vmci_st_le32(f->buf + at + 12, 0x200000 + at);
    vmci_st_le32(f->buf + at + 16, 0x200000);
    vmci_st_le32(f->buf + at + 20, 0x200000 + 0x8000);
    vmci_st_le32(f->buf + at + 24, 0x200000 + 0xa000);
    vmci_st_le32(f->buf + at + 28, 0x200040);
    return 65536;
}

static void mb_elf(void **state)
{
    struct fx *f = *state;

    for (unsigned bits = 0; bits < 2; bits++) {
        struct seg s = {1, 0x1000, 0xc0100000, 0x100000, 0x1000, 0x2000};
        size_t n = make_elf(f, bits != 0, 0xc0100010, &s, 1);
        put_mb(f->buf + 0x1004, 3);
        f->cfg.cmdline = "x y";
        f->cfg.name = "kernel.elf";
        assert_int_equal(load(f, n), VMC_OK);
        assert_int_equal(f->r.kind, VMC_BOOT_MULTIBOOT);
        assert_int_equal(f->st->rip, 0x100010);
        assert_int_equal(f->st->gpr[VMC_RAX], 0x2badb002);
        assert_int_equal(f->st->cr0, VMC_CR0_PE | VMC_CR0_ET);
        uint64_t mbi = f->st->gpr[VMC_RBX];
        assert_int_equal(get32(f, mbi), 0x24d);
        assert_int_equal(get32(f, mbi + 4), 0x9fc00 / 1024);
        assert_int_equal(get32(f, mbi + 8), (RAM - MIB) / 1024);
        char line[16];
        get_string(f, get32(f, mbi + 16), line, 15);
        assert_string_equal(line, "kernel.elf x y");
        assert_int_equal(get32(f, mbi + 20), 0);
        assert_int_equal(get32(f, mbi + 44), 3 * 24);
        uint64_t map = get32(f, mbi + 48);
        assert_int_equal(get32(f, map), 20);
        assert_int_equal(get64(f, map + 4), 0);
        assert_int_equal(get64(f, map + 12), 0x9fc00);
        assert_int_equal(get32(f, map + 20), 1);
        get_string(f, get32(f, mbi + 64), line, 7);
        assert_string_equal(line, "vmcore");
    }
}

static void mb_header_anywhere(void **state)
{
    struct fx *f = *state;
    static const unsigned at[] = {0, 4, 984, 988, 992, 996, 1020, 4096, 8160};

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(at); i++) {
        assert_int_equal(load(f, make_mb_raw(f, at[i])), VMC_OK);
        assert_int_equal(f->st->rip, 0x200040);
    }
    assert_int_equal(load(f, make_mb_raw(f, 8192)), VMC_EFORMAT); /* too far */
    make_mb_raw(f, 8164);                                         /* cut off by the limit */
    assert_int_equal(load(f, 65536), VMC_EFORMAT);
    make_mb_raw(f, 16);
    f->buf[24] ^= 1; /* checksum */
    assert_int_equal(load(f, 65536), VMC_EFORMAT);
    make_mb_raw(f, 18); /* not aligned */
    assert_int_equal(load(f, 65536), VMC_EFORMAT);
}

static void mb_raw_loads(void **state)
{
    struct fx *f = *state;
    uint8_t b[2];

    assert_int_equal(vmc_mem_set(f->mem, 0x200000, 0xcc, 0x10000), VMC_OK);
    assert_int_equal(load(f, make_mb_raw(f, 64)), VMC_OK);
    assert_int_equal(f->r.low, 0x200000);
    assert_int_equal(f->r.high, 0x20a000);
    get(f, 0x207fff, b, 2);
    assert_int_equal(b[0], 0x90);
    assert_int_equal(b[1], 0x00);
    get(f, 0x209fff, b, 2);
    assert_int_equal(b[0], 0x00);
    assert_int_equal(b[1], 0xcc);
    vmci_st_le32(f->buf + 64 + 20, 0); /* all of the file */
    vmci_st_le32(f->buf + 64 + 24, 0);
    assert_int_equal(load(f, 65536), VMC_OK);
    assert_int_equal(f->r.high, 0x210000);
}

static void mb_bad_addresses(void **state)
{
    struct fx *f = *state;
    const struct {
        unsigned field;
        uint32_t value;
        int rc;
    } bad[] = {
        {16, 0x200000 + 65, VMC_EFORMAT}, /* loads behind the header */
        {16, 0x100000, VMC_EFORMAT},      /* header would lie before the file */
        {20, 0x1fffff, VMC_EFORMAT},      /* end before start */
        {20, 0xffffffff, VMC_EFORMAT},    /* more than the file has */
        {24, 0x200001, VMC_EFORMAT},      /* BSS ends inside the image */
        {24, 0xffffffff, VMC_ERANGE},     /* BSS beyond memory */
    };

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(bad); i++) {
        size_t n = make_mb_raw(f, 64);
        vmci_st_le32(f->buf + 64 + bad[i].field, bad[i].value);
        assert_int_equal(load(f, n), bad[i].rc);
    }
    make_mb_raw(f, 64);
    vmci_st_le32(f->buf + 64 + 12, 0xfffff000 + 64);
    vmci_st_le32(f->buf + 64 + 16, 0xfffff000);
    vmci_st_le32(f->buf + 64 + 20, 0);
    vmci_st_le32(f->buf + 64 + 24, 0);
    assert_int_equal(load(f, 65536), VMC_ERANGE);
    make_mb_raw(f, 64);
    put_mb(f->buf + 64, 0x10008); /* an unknown must-have */
    assert_int_equal(load(f, 65536), VMC_ENOTSUP);
}

static void mb_modules(void **state)
{
    struct fx *f = *state;
    static uint8_t data[2][6000];
    struct vmc_boot_module m[2] = {{.args = "one 1"}, {.args = NULL}};
    char line[8];
    uint8_t b[2];

    memset(data[0], 0x11, sizeof(data[0]));
    memset(data[1], 0x22, sizeof(data[1]));
    vmc_image_src_memory(&m[0].image, data[0], 6000);
    vmc_image_src_memory(&m[1].image, data[1], 10);
    f->cfg.modules = m;
    f->cfg.module_count = 2;
    assert_int_equal(load(f, make_mb_raw(f, 64)), VMC_OK);
    uint64_t mbi = f->st->gpr[VMC_RBX];
    assert_int_equal(get32(f, mbi + 20), 2);
    uint64_t list = get32(f, mbi + 24);
    uint32_t start = get32(f, list), end = get32(f, list + 4);
    assert_int_equal(start % 4096, 0);
    assert_int_equal(end - start, 6000);
    assert_true(start >= 0x20a000);
    get(f, end - 1, b, 2);
    assert_int_equal(b[0], 0x11);
    get_string(f, get32(f, list + 8), line, 6);
    assert_string_equal(line, "one 1");
    start = get32(f, list + 16);
    assert_true(start >= end);
    get(f, start, b, 1);
    assert_int_equal(b[0], 0x22);
    get(f, get32(f, list + 24), b, 1);
    assert_int_equal(b[0], 0);
    f->cfg.module_count = 65;
    assert_int_equal(load(f, make_mb_raw(f, 64)), VMC_ELIMIT);
}

static void mb_initrd_is_the_first_module(void **state)
{
    struct fx *f = *state;
    static uint8_t data[2][16] = {"initrd data", "module data"};
    struct vmc_boot_module m = {.args = "m"};
    struct vmc_image_src initrd;
    char text[8];

    vmc_image_src_memory(&initrd, data[0], 16);
    vmc_image_src_memory(&m.image, data[1], 16);
    f->cfg.initrd = &initrd;
    f->cfg.modules = &m;
    f->cfg.module_count = 1;
    assert_int_equal(load(f, make_mb_raw(f, 64)), VMC_OK);
    uint64_t mbi = f->st->gpr[VMC_RBX];
    assert_int_equal(get32(f, mbi + 20), 2);
    uint64_t list = get32(f, mbi + 24);
    get_string(f, get32(f, list), text, 7);
    assert_string_equal(text, "initrd");
    get_string(f, get32(f, list + 8), text, 7);
    assert_string_equal(text, "initrd");
    get_string(f, get32(f, list + 16), text, 7);
    assert_string_equal(text, "module");
}

static void mb_module_too_big(void **state)
{
    struct fx *f = *state;
    struct vmc_boot_module m = {.args = "x"};

    vmc_image_src_memory(&m.image, f->buf, 300 * MIB);
    f->cfg.modules = &m;
    f->cfg.module_count = 1;
    assert_int_equal(load(f, make_mb_raw(f, 64)), VMC_ERANGE);
}

/* ---- flat, general ------------------------------------------------------------------------- */

static void flat_modes(void **state)
{
    struct fx *f = *state;

    f->cfg.kind = VMC_BOOT_FLAT;
    f->cfg.flat_gpa = 0x7c00;
    f->cfg.flat_mode = VMC_FLAT_REAL;
    assert_int_equal(load(f, 512), VMC_OK);
    assert_int_equal(f->st->seg[VMC_CS].base, 0x7c00);
    assert_int_equal(f->st->seg[VMC_CS].selector, 0x7c0);
    assert_int_equal(f->st->rip, 0);
    assert_int_equal(f->st->cr0, VMC_CR0_ET);
    f->cfg.flat_entry = 0x7c10;
    assert_int_equal(load(f, 512), VMC_OK);
    assert_int_equal(f->st->rip, 0x10);
    f->cfg.flat_entry = 0;
    f->cfg.flat_gpa = 0x7c04;
    assert_int_equal(load(f, 512), VMC_EINVAL);
    f->cfg.flat_gpa = 0x200000;
    assert_int_equal(load(f, 512), VMC_EINVAL);
    f->cfg.flat_mode = VMC_FLAT_PROT;
    assert_int_equal(load(f, 512), VMC_OK);
    assert_int_equal(f->st->rip, 0x200000);
    f->cfg.flat_mode = VMC_FLAT_LONG;
    f->cfg.flat_entry = 0x200100;
    assert_int_equal(load(f, 512), VMC_OK);
    assert_int_equal(f->st->rip, 0x200100);
    assert_int_equal(f->st->efer & VMC_EFER_LMA, VMC_EFER_LMA);
    f->cfg.flat_mode = 9;
    assert_int_equal(load(f, 512), VMC_EINVAL);
}

static void flat_does_not_fit(void **state)
{
    struct fx *f = *state;

    f->cfg.kind = VMC_BOOT_FLAT;
    f->cfg.flat_mode = VMC_FLAT_PROT;
    f->cfg.flat_gpa = RAM - 100;
    assert_int_equal(load(f, 512), VMC_ERANGE);
    f->cfg.flat_gpa = ~0ull - 10;
    assert_int_equal(load(f, 512), VMC_ERANGE);
}

static void rom_bad_size(void **state)
{
    struct fx *f = *state;

    f->cfg.kind = VMC_BOOT_FIRMWARE;
    assert_int_equal(load(f, 65535), VMC_EFORMAT);
    assert_int_equal(load(f, 65537), VMC_EFORMAT);
    f->buf[65535 - 15] = 0xea;
    assert_int_equal(load(f, 65536), VMC_OK);
    assert_int_equal(get32(f, 0xfffff), 0);
    uint8_t b;
    get(f, 0xffff0, &b, 1);
    assert_int_equal(b, 0xea);
    get(f, 0xfffffff0, &b, 1);
    assert_int_equal(b, 0xea);
    assert_int_equal(f->st->seg[VMC_CS].base + f->st->rip, 0xfffffff0);
}

static int failing_read(void *ctx, uint64_t offset, void *dst, size_t bytes)
{
    struct fx *f = ctx;

    if (offset + bytes > 0x1000)
        return VMC_EIO;
    memcpy(dst, f->buf + offset, bytes);
    return VMC_OK;
}

static void read_errors_are_reported(void **state)
{
    struct fx *f = *state;
    static const struct vmc_image_ops ops = {.read = failing_read};

    size_t n = make_bzimage(f, true);
    f->image = (struct vmc_image_src){.ops = &ops, .ctx = f, .bytes = n};
    assert_int_equal(vmc_boot_load(&f->tp.pf, f->mem, &f->cfg, f->st, &f->r, &f->err), VMC_EIO);
    f->tp.fail_after = f->tp.allocs + 1;
    assert_int_equal(load(f, n), VMC_ENOMEM);
    f->tp.fail_after = 0;
    assert_int_equal(load(f, 0), VMC_EFORMAT);
    f->cfg.image = NULL;
    assert_int_equal(load(f, n), VMC_EINVAL);
    f->cfg.image = &f->image;
    f->cfg.memmap_count = VMC_MEMMAP_MAX + 1;
    assert_int_equal(load(f, n), VMC_ELIMIT);
    f->cfg.memmap_count = 0; /* then RAM slots are the map */
    assert_int_equal(load(f, n), VMC_OK);
    f->cfg.memmap_count = 3;
    f->map[2].base = ~0ull - 5;
    assert_int_equal(load(f, n), VMC_EINVAL);
}

static void kinds_have_names(void **state)
{
    (void)state;
    assert_string_equal(vmc_boot_kind_name(VMC_BOOT_BZIMAGE), "bzImage");
    assert_string_equal(vmc_boot_kind_name(VMC_BOOT_AUTO), "auto");
    assert_string_equal(vmc_boot_kind_name(99), "unknown");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(bzimage_64),
        T(bzimage_32),
        T(bzimage_relocates),
        T(bzimage_does_not_fit),
        T(bzimage_truncated),
        T(bzimage_old_protocols),
        T(bzimage_without_32_bit_entry),
        T(bzimage_cmdline_limit),
        T(elf64_by_virtual_entry),
        T(elf64_program),
        T(elf_overlap),
        T(elf_huge),
        T(elf_truncated),
        T(elf32_needs_a_protocol),
        T(pvh_starts),
        T(pvh_bad_note),
        T(mb_elf),
        T(mb_header_anywhere),
        T(mb_raw_loads),
        T(mb_bad_addresses),
        T(mb_modules),
        T(mb_initrd_is_the_first_module),
        T(mb_module_too_big),
        T(flat_modes),
        T(flat_does_not_fit),
        T(rom_bad_size),
        T(read_errors_are_reported),
        T(kinds_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
