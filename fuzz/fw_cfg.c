/* SPDX-License-Identifier: BSD-2-Clause */
/* Any sequence of selections, reads and DMA descriptors against fw_cfg. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/devices.h>

#include "fuzz_platform.h"

#define RAM 0x40000u

static const struct vmc_platform pf = FUZZ_PLATFORM(NULL);

/* The contract: never asked for what is outside the item. */
static int lazy_read(void *ctx, uint64_t offset, void *dst, size_t bytes)
{
    (void)ctx;
    if (offset > 10000 || bytes > 10000 - offset)
        abort();
    memset(dst, 0x5a, bytes);
    return offset > 9000 ? VMC_EIO : VMC_OK;
}

static void must(int rc)
{
    if (rc != VMC_OK)
        abort();
}

/* Ten bytes a step: what, then a descriptor or values. */
static void step(struct vmc_board *bd, const uint8_t *p)
{
    uint64_t got;

    switch (p[0] & 3) {
    case 0:
        vmc_bus_write(bd->pio, 0x510, 2, p[1] | p[2] << 8);
        break;
    case 1:
        for (unsigned i = 0; i < p[1]; i++)
            vmc_bus_read(bd->pio, 0x511, 1, &got);
        break;
    case 2: {
        uint8_t desc[16] = {p[1], p[2], p[3], p[4], 0, p[5] & 7, p[6], p[7], 0, 0, 0, 0,
                            0,    p[8] & 7, p[9], 0};
        if (vmc_mem_write(bd->mem, 0x1000, desc, sizeof(desc)) != VMC_OK)
            abort();
        vmc_bus_write(bd->pio, 0x514, 4, 0);
        vmc_bus_write(bd->pio, 0x518, 4, 0x00100000);
        break;
    }
    default: /* any width at any offset, and a descriptor anywhere */
        vmc_bus_write(bd->pio, (uint64_t)0x510 + p[1] % 12, 1u << (p[2] & 3),
                      p[3] | (uint64_t)p[4] << 8 | (uint64_t)p[5] << 24);
        vmc_bus_read(bd->pio, (uint64_t)0x510 + p[1] % 12, 1u << (p[2] & 3), &got);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[100] = "contents";
    struct vmc_mem_slot ram = {.size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = RAM};
    struct vmc_fw_cfg_item lazy = {.read = lazy_read, .bytes = 10000};
    struct vmc_fw_cfg_item plain = {.data = text, .bytes = sizeof(text)};
    struct vmc_board bd = {.platform = &pf};
    struct vmc_fw_cfg *fw;

    must(vmc_mem_create(&pf, &bd.mem, NULL));
    must(vmc_mem_add(bd.mem, &ram, NULL));
    must(vmc_bus_create(&pf, "pio", 0x10000, &bd.pio));
    must(vmc_timerq_create(&pf, &bd.timers));
    must(vmc_fw_cfg_create(&bd, &fw, NULL));
    must(vmc_fw_cfg_add_file(fw, "etc/lazy", &lazy));
    must(vmc_fw_cfg_add_file(fw, "etc/plain", &plain));
    must(vmc_fw_cfg_set(fw, VMC_FW_CFG_KERNEL_DATA, &lazy));
    must(vmc_fw_cfg_set_int(fw, VMC_FW_CFG_NB_CPUS, 2, 2));
    for (size_t i = 0; i + 10 <= size && i < 10 * 256; i += 10)
        step(&bd, data + i);
    vmc_board_destroy_devices(&bd);
    vmc_timerq_destroy(bd.timers);
    vmc_bus_destroy(bd.pio);
    vmc_mem_destroy(bd.mem);
    return 0;
}
