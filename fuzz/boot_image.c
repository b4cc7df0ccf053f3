/* SPDX-License-Identifier: BSD-2-Clause */
/* Any bytes as an image for every boot protocol: an error or a start state, never more. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/boot.h>

#include "fuzz_platform.h"

#define RAM (4ull << 20)

static const struct vmc_platform pf = FUZZ_PLATFORM(NULL);

/* The first byte picks the protocol and options, the rest is the image. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct vmc_memmap map[] = {
        {.base = 0, .bytes = 0x9fc00, .type = VMC_MEMMAP_RAM},
        {.base = 0xe0000, .bytes = 0x20000, .type = VMC_MEMMAP_RESERVED},
        {.base = 0x100000, .bytes = RAM - 0x100000, .type = VMC_MEMMAP_RAM},
    };
    struct vmc_mem_slot slot = {.size = sizeof(slot), .attr = VMC_MEM_RAM, .bytes = RAM};
    struct vmc_image_src image, extra;
    struct vmc_boot_module module = {.args = "module"};
    struct vmc_boot_result r;
    struct vmc_error err;
    struct vmc_mem *mem;

    if (size < 2)
        return 0;
    vmc_image_src_memory(&image, data + 1, size - 1);
    vmc_image_src_memory(&extra, data, size);
    module.image = extra;
    struct vmc_boot_config cfg = {
        .size = sizeof(cfg),
        .kind = data[0] & 7,
        .image = &image,
        .initrd = (data[0] & 8) != 0 ? &extra : NULL,
        .cmdline = "console=ttyS0",
        .name = "kernel",
        .modules = &module,
        .module_count = (data[0] & 16) != 0,
        .memmap = map,
        .memmap_count = 3,
        .rsdp = 0xe0000,
        .rsdp_bytes = 0x2000,
        .flat_mode = data[0] >> 6,
        .flat_gpa = (data[0] & 32) != 0 ? 0x7c00 : 0x100000,
    };
    if (vmc_mem_create(&pf, &mem, NULL) != VMC_OK)
        abort();
    struct vmc_x86_state *st = calloc(1, sizeof(*st));
    memset(&err, 0, sizeof(err));
    if (st == NULL || vmc_mem_add(mem, &slot, NULL) != VMC_OK)
        abort();
    int rc = vmc_boot_load(&pf, mem, &cfg, st, &r, &err);
    /* A failure explains itself; a success says where it starts. */
    if (rc < 0 ? err.code != rc || err.text[0] == '\0' : r.kind == VMC_BOOT_AUTO)
        abort();
    free(st);
    vmc_mem_destroy(mem);
    return 0;
}
