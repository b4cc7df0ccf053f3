/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any sequence of a guest's calls of VMware's ports: each page the policy hears of is RAM, goes in
 * once and comes out once.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/vmware.h>

#include "fuzz_platform.h"

#define HOLE  (4u << 20) /* RAM, a hole and RAM of this size each */
#define PAGES (3 * HOLE / 4096)
#define STEP  12u

static uint64_t now_ns;
static const struct vmc_platform pf = FUZZ_PLATFORM(&now_ns);
static uint8_t held[PAGES];

static void move(uint64_t gpa, uint64_t bytes, uint8_t from)
{
    if (gpa % 4096 != 0 || bytes % 4096 != 0 || bytes == 0 || gpa / 4096 >= PAGES ||
        bytes / 4096 > PAGES - gpa / 4096 || (gpa < 2 * HOLE && gpa + bytes > HOLE))
        abort();
    for (uint64_t p = gpa / 4096; p < (gpa + bytes) / 4096; p++) {
        if (held[p] != from)
            abort();
        held[p] = !from;
    }
}

static void on_inflate(void *ctx, uint64_t gpa, uint64_t bytes)
{
    (void)ctx;
    move(gpa, bytes, 0);
}

static void on_deflate(void *ctx, uint64_t gpa, uint64_t bytes)
{
    (void)ctx;
    move(gpa, bytes, 1);
}

static void must(int rc)
{
    if (rc != VMC_OK)
        abort();
}

static void reload(struct vmc_board *bd)
{
    static uint8_t buf[4096];
    struct vmc_device *d = bd->devices;
    size_t n = d->ops->save(d->dev, buf, sizeof(buf));

    if (n > sizeof(buf))
        abort();
    must(d->ops->load(d->dev, buf, n, NULL));
}

/* Command, place of the batch or page, entries, and an entry to put there before. */
static void step(struct vmc_board *bd, struct vmc_vmware *d, const uint8_t *p)
{
    uint64_t page = (p[1] & 0x80 ? 2 * HOLE / 4096 : 0) + (p[1] & 0x7f) * (p[2] & 1 ? 64u : 1u);
    uint64_t entry = ((uint64_t)p[3] << 12 | (uint64_t)(p[4] & 0xf) << 20) << (p[2] >> 7) * 30;
    struct vmc_port_call c = {.port = p[0] & 0x10 ? 0x5658 : 0x5670,
                              .rax = p[0] & 0x10 ? 0x564d5868 : 0x456c6d6f,
                              .rcx = p[0] & 0x20 ? (uint64_t)p[5] << 4 | p[6] : p[0] & 0xf,
                              .rbx = p[2] & 2 ? (uint64_t)p[5] << (p[6] & 63) : page,
                              .rsi = p[2] & 4 ? (uint64_t)p[7] << (p[8] & 63) : p[7] & 7u};

    for (unsigned i = 0; i < 4; i++) {
        uint64_t e = entry + ((uint64_t)p[9 + i % 3] << 12) * i;
        int rc = vmc_mem_write(bd->mem, (page << 12) + 8 * i, &e, sizeof(e));
        (void)rc; /* may be the hole */
    }
    if ((p[0] & 0xc0) == 0xc0)
        reload(bd);
    if ((p[0] & 0xe0) == 0x80 && p[1] == 0xff)
        vmc_board_reset(bd);
    vmc_vmware_set_target(d, entry >> 12);
    (void)vmc_vmware_call(d, &c);
    struct vmc_vmware_info info;
    vmc_vmware_balloon_info(d, &info);
    uint64_t sum = 0;
    for (unsigned i = 0; i < PAGES; i++)
        sum += held[i];
    if (sum != info.held_pages)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct vmc_vmware_config cfg = {
        .size = sizeof(cfg), .inflate = on_inflate, .deflate = on_deflate};
    struct vmc_mem_slot ram = {.size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = HOLE};
    struct vmc_board bd = {.platform = &pf};
    struct vmc_vmware *d;

    memset(held, 0, sizeof(held));
    must(vmc_mem_create(&pf, &bd.mem, NULL));
    must(vmc_mem_add(bd.mem, &ram, NULL));
    ram.gpa = 2 * HOLE;
    must(vmc_mem_add(bd.mem, &ram, NULL));
    must(vmc_timerq_create(&pf, &bd.timers));
    must(vmc_vmware_create(&bd, &cfg, &d, NULL));
    struct vmc_port_call start = {.port = 0x5670, .rax = 0x456c6d6f, .rbx = 0xe};
    (void)vmc_vmware_call(d, &start);
    for (size_t i = 0; i + STEP <= size && i < STEP * 512; i += STEP)
        step(&bd, d, data + i);
    vmc_board_destroy_devices(&bd);
    vmc_timerq_destroy(bd.timers);
    vmc_mem_destroy(bd.mem);
    return 0;
}
