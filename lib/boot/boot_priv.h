/* SPDX-License-Identifier: BSD-2-Clause */
/* What the loaders share: a bounded view of the image, room in guest memory, start states. */
#ifndef BOOT_PRIV_H
#define BOOT_PRIV_H

#include <vmcore/boot.h>
#include <vmcore/x86.h>

#include "base/base_int.h"

#define MIB           (1ull << 20)
#define GIB           (1ull << 30)
#define LOW_START     0x1000ull  /* below: IVT and BIOS data */
#define LOW_END       0xa0000ull
#define MAX_CLAIMS    256

struct boot_claim {
    uint64_t base, end;
    const char *what;
};

#define ELF_MAX_SEGMENTS 64

struct elf_segment {
    uint64_t offset, vaddr, paddr, filesz, memsz;
    uint32_t type;
};

struct elf_image {
    bool is64;
    uint16_t machine;
    uint64_t entry;
    unsigned count;
    struct elf_segment seg[ELF_MAX_SEGMENTS];
};

#define ZERO_PAGE_BYTES 4096

struct boot_ctx {
    const struct vmc_platform *pf;
    struct vmc_mem *mem;
    const struct vmc_boot_config *cfg;
    struct vmc_x86_state *start;
    struct vmc_boot_result *out;
    struct vmc_error *err;
    struct vmc_memmap map[VMC_MEMMAP_MAX];
    unsigned map_count;
    struct boot_claim claim[MAX_CLAIMS];
    unsigned claims;
    uint8_t chunk[65536]; /* between the image and guest memory */
    uint8_t page[ZERO_PAGE_BYTES]; /* Linux's zero page in the making */
    struct elf_image elf;
};

/* A row of the loader table. */
struct vmci_loader {
    uint32_t kind;
    const char *name;
    /* Is it this kind of image, by its first bytes? NULL: never guessed. */
    bool (*probe)(const struct vmc_image_src *image);
    int (*load)(struct boot_ctx *c);
};

extern const struct vmci_loader vmci_boot_bzimage, vmci_boot_pvh, vmci_boot_elf64,
    vmci_boot_multiboot, vmci_boot_flat, vmci_boot_firmware;

/* ---- image --------------------------------------------------------------------------------- */

/* Read a range of the image; VMC_EFORMAT, naming what, when it does not lie inside. */
int vmci_image_read(struct boot_ctx *c, uint64_t offset, void *dst, size_t bytes, const char *what);
/* For probes: false when it cannot be read. */
bool vmci_image_peek(const struct vmc_image_src *src, uint64_t offset, void *dst, size_t bytes);
/* Copy a range of an image to guest memory. */
int vmci_image_load(struct boot_ctx *c, const struct vmc_image_src *src, uint64_t offset,
                    uint64_t bytes, uint64_t gpa, const char *what);

/* ---- guest memory -------------------------------------------------------------------------- */

/* Take a range for what: it must be RAM that nothing else took. VMC_ERANGE, VMC_EFORMAT overlap. */
int vmci_boot_claim(struct boot_ctx *c, uint64_t base, uint64_t bytes, const char *what);
/*
 * The same for an image with fixed addresses: any guest RAM will do, even what the memory map calls
 * reserved (linkers like to put ELF headers just below 1 MiB).
 */
int vmci_boot_claim_fixed(struct boot_ctx *c, uint64_t base, uint64_t bytes, const char *what);
/* Is the range RAM, and free? */
bool vmci_boot_free(const struct boot_ctx *c, uint64_t base, uint64_t bytes);
/* Take the highest, or lowest, free place for bytes within [min, max). VMC_ERANGE. */
int vmci_boot_alloc_high(struct boot_ctx *c, uint64_t bytes, uint64_t align, uint64_t min,
                         uint64_t max, const char *what, uint64_t *base);
int vmci_boot_alloc_low(struct boot_ctx *c, uint64_t bytes, uint64_t align, uint64_t min,
                        uint64_t max, const char *what, uint64_t *base);
/* Allocate below 640 KiB and fill; the usual place for tables and strings. */
int vmci_boot_place(struct boot_ctx *c, const void *data, size_t bytes, const char *what,
                    uint64_t *base);
int vmci_boot_write(struct boot_ctx *c, uint64_t gpa, const void *src, size_t bytes,
                    const char *what);
int vmci_boot_zero(struct boot_ctx *c, uint64_t gpa, uint64_t bytes, const char *what);

/* ---- start states -------------------------------------------------------------------------- */

/* Flat 32-bit protected mode, paging off; code is the selector of the code segment, data follows. */
int vmci_start_prot32(struct boot_ctx *c, uint16_t code, uint64_t entry);
/* 64-bit mode, the first 4 GiB mapped one to one. */
int vmci_start_long64(struct boot_ctx *c, uint16_t code, uint64_t entry);
#define SEL_LINUX 0x10 /* Linux boot protocol: __BOOT_CS; __BOOT_DS follows */
#define SEL_FIRST 0x08

/* ---- pieces of Linux's protocol that two loaders use ---------------------------------------- */

/*
 * Fill in the parts of a zero page that do not come from the kernel's header: memory map, command
 * line, initial RAM disk, ACPI, random seed; and put it into guest memory.
 */
int vmci_linux_zero_page(struct boot_ctx *c, uint8_t *page, uint64_t cmdline_limit,
                         uint64_t initrd_max, uint64_t *gpa);

/* ---- ELF ----------------------------------------------------------------------------------- */

#define ELF_PT_LOAD 1u
#define ELF_PT_NOTE 4u

bool vmci_elf_probe(const struct vmc_image_src *src);
/* Parse header and program headers. */
int vmci_elf_parse(struct boot_ctx *c, struct elf_image *elf);
/* Load every PT_LOAD segment at its physical address, BSS cleared. */
int vmci_elf_load(struct boot_ctx *c, const struct elf_image *elf);
/* Physical address of the entry point, which may be given as a virtual one. */
uint64_t vmci_elf_entry(const struct elf_image *elf);

#endif
