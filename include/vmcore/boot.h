/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Boot protocols: from an image to guest memory and the state of the first processor.
 *
 * Three steps: load the image, describe the machine to it (zero page, start info, Multiboot
 * information), and set the state it starts in. All of it works on a struct vmc_mem alone; the
 * embedder puts the state into its first vCPU. Images are untrusted: every offset and size is
 * checked against the image and against guest memory.
 */
#ifndef VMCORE_BOOT_H
#define VMCORE_BOOT_H

#include <vmcore/memory.h>
#include <vmcore/x86_state.h>

VMC_BEGIN_DECLS

/** Where an image is read from. */
struct vmc_image_ops {
    /** Read exactly bytes at offset, which lie inside the image. 0 or VMC_E*. */
    int (*read)(void *ctx, uint64_t offset, void *dst, size_t bytes);
};
struct vmc_image_src {
    const struct vmc_image_ops *ops;
    void *ctx;
    uint64_t bytes; /**< length of the image */
};

/** Make src read from memory, which is borrowed. */
VMC_API void vmc_image_src_memory(struct vmc_image_src *src, const void *data, size_t bytes);

/** Boot protocols. */
enum vmc_boot_kind {
    VMC_BOOT_AUTO = 0,      /**< recognise the image; never taken for FLAT or FIRMWARE */
    VMC_BOOT_BZIMAGE = 1,   /**< Linux boot protocol 2.12 or later, 64-bit entry or 32-bit entry */
    VMC_BOOT_PVH = 2,       /**< ELF with a XEN_ELFNOTE_PHYS32_ENTRY note */
    VMC_BOOT_ELF64 = 3,     /**< uncompressed Linux kernel, by its 64-bit entry */
    VMC_BOOT_MULTIBOOT = 4, /**< Multiboot 1: ELF32, ELF64 or the header's address fields */
    VMC_BOOT_FLAT = 5,      /**< the image as it is, at flat_gpa, in the mode flat_mode */
    VMC_BOOT_FIRMWARE = 6,  /**< ROM below 4 GiB, started at the reset vector */
};

/** Types of vmc_memmap.type, as ACPI 6.4 table 15-1 numbers them. */
enum vmc_memmap_type {
    VMC_MEMMAP_RAM = 1,
    VMC_MEMMAP_RESERVED = 2,
    VMC_MEMMAP_ACPI = 3,
    VMC_MEMMAP_NVS = 4,
};

/** An entry of the guest's memory map (e820). */
struct vmc_memmap {
    uint64_t base, bytes;
    uint32_t type; /**< enum vmc_memmap_type */
    uint32_t pad;
};

#define VMC_MEMMAP_MAX       64
#define VMC_BOOT_MAX_MODULES 64
/** Longest command line, with its terminator; a kernel may accept less. */
#define VMC_BOOT_CMDLINE_MAX 4096

/** A Multiboot module. */
struct vmc_boot_module {
    struct vmc_image_src image;
    const char *args; /**< its string, or NULL */
};

enum vmc_flat_mode {
    VMC_FLAT_REAL = 0, /**< 16 bits: CS = DS = gpa >> 4, IP 0; gpa below 1 MiB */
    VMC_FLAT_PROT = 1, /**< 32 bits: flat segments, paging off */
    VMC_FLAT_LONG = 2, /**< 64 bits: flat segments, the first 4 GiB mapped one to one */
};

/** What to boot. Everything is borrowed for the call. */
struct vmc_boot_config {
    uint32_t size;
    uint32_t kind;                       /**< enum vmc_boot_kind */
    const struct vmc_image_src *image;
    const struct vmc_image_src *initrd;  /**< or NULL; a Multiboot image gets it as module 0 */
    const char *cmdline;                 /**< or NULL */
    const char *name; /**< of the image, or NULL; Multiboot puts it before the command line */
    const struct vmc_boot_module *modules; /**< Multiboot only: VMC_EINVAL elsewhere */
    uint32_t module_count;
    uint32_t memmap_count;
    const struct vmc_memmap *memmap;     /**< ascending; from which RAM is chosen */
    uint64_t rsdp;                       /**< of ACPI, 0: none */
    uint64_t rsdp_bytes; /**< how much memory ACPI tables take from rsdp on; images stay off it */
    const void *rng_seed;                /**< for Linux's setup_data, or NULL */
    uint32_t rng_seed_bytes;             /**< at most 64 */
    uint32_t flat_mode;                  /**< enum vmc_flat_mode */
    uint64_t flat_gpa, flat_entry;       /**< flat_entry 0: flat_gpa */
};

/** What was done. */
struct vmc_boot_result {
    uint32_t kind; /**< enum vmc_boot_kind that was used */
    uint32_t pad;
    uint64_t entry;      /**< where the first instruction is fetched */
    uint64_t low, high;  /**< guest-physical range of the loaded image */
    uint64_t initrd, initrd_bytes;
};

/**
 * Load an image. start gets the state of the first processor (all groups that
 * vmc_x86_state_reset fills). VMC_EFORMAT the image is malformed or of no known kind, VMC_ERANGE it
 * does not fit guest memory, VMC_ENOTSUP its version is too old, or what read reported.
 * While quiesced.
 */
VMC_API VMC_MUST_CHECK int vmc_boot_load(const struct vmc_platform *pf, struct vmc_mem *mem,
                                         const struct vmc_boot_config *cfg,
                                         struct vmc_x86_state *start, struct vmc_boot_result *out,
                                         struct vmc_error *err);
/** What vmc_boot_load would take the image for; VMC_BOOT_AUTO when nothing claims it. */
VMC_API uint32_t vmc_boot_probe(const struct vmc_image_src *image);
/** Static name of a protocol ("bzImage" ...); never NULL. */
VMC_API const char *vmc_boot_kind_name(uint32_t kind);

VMC_END_DECLS

#endif
