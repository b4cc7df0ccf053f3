/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory: ROM, changes of the map, dirty pages, code that changes. */
#include "conf.h"

GUEST(g_rom, 64, "mov al, [0xf0010]; mov byte ptr [0xf0010], 0x77; mov ah, [0xf0010]; out 0x7e, al");

static void rom_is_read_only(struct conf *c)
{
    LOAD(LONG64, g_rom);
    do {
        if (!conf_run(c))
            return;
        /* The write has no effect; an engine may let it show up as a device write. */
        if (c->x.kind == VMC_EXIT_MMIO) {
            CHECK(c->x.u.mmio.write);
            CHECK_EQ(c->x.u.mmio.gpa, ROM + 0x10);
            conf_complete(c);
        }
    } while (c->x.kind == VMC_EXIT_MMIO);
    CHECK(conf_is_out(c, END));
    conf_complete(c);
    if (!conf_get(c, VMC_ST_GPR))
        return;
    CHECK_EQ(c->st->gpr[VMC_RAX] & 0xffff, ROM_BYTE | ROM_BYTE << 8);
    CHECK_EQ(c->rom[0x10], ROM_BYTE);
}

GUEST(g_map, 64, "mov al, [0xf0000]; out 0x7e, al; mov al, [0xf0000]; out 0x7e, al");

static void the_map_may_change(struct conf *c)
{
    struct vmc_mem_slot rom = {
        .size = sizeof(rom), .attr = VMC_MEM_ROM, .gpa = ROM, .bytes = 0x10000, .backing = c->rom};

    LOAD(LONG64, g_map);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, END));
    CHECK_EQ(c->x.u.io.data, ROM_BYTE);
    conf_complete(c);
    CHECK_EQ(vmc_mem_remove(c->mem, ROM), VMC_OK);
    CHECK_EQ(c->ops->mem_changed(c->evm), VMC_OK);
    if (!conf_run(c))
        return;
    CHECK_EQ(c->x.kind, VMC_EXIT_MMIO); /* a hole is a device */
    CHECK_EQ(c->x.u.mmio.gpa, ROM);
    c->x.u.mmio.data = 0x99;
    conf_complete(c);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, END));
    CHECK_EQ(c->x.u.io.data, 0x99);
    conf_complete(c);
    CHECK_EQ(vmc_mem_add(c->mem, &rom, NULL), VMC_OK);
    CHECK_EQ(c->ops->mem_changed(c->evm), VMC_OK);
    LOAD(LONG64, g_map);
    if (!conf_run(c))
        return;
    CHECK_EQ(c->x.u.io.data, ROM_BYTE);
}

GUEST(g_dirty, 64, "mov byte ptr [0x21000], 1; mov dword ptr [0x23ffe], 2; mov al, [0x26000];"
                   "out 0x7e, al");

/* Dirty pages 0x20-0x27 as both halves see them together, taken. */
static bool take_dirty(struct conf *c, uint64_t *bits)
{
    uint64_t map[4] = {0}; /* RAM is 0xf0 pages */

    if (vmc_mem_dirty_take(c->mem, 0, 0, RAM_BYTES / VMC_PAGE_SIZE, map, 4) != VMC_OK)
        return false;
    if (c->info.caps & VMC_CAP_DIRTY_LOG &&
        c->ops->dirty_fetch(c->evm, 0, RAM_BYTES / VMC_PAGE_SIZE, map) != VMC_OK)
        return false;
    *bits = (map[0] >> 0x20) & 0xff;
    return true;
}

static void writes_make_pages_dirty(struct conf *c)
{
    uint64_t bits;

    LOAD(LONG64, g_dirty);
    CHECK_EQ(vmc_mem_dirty_start(c->mem, 0), VMC_OK);
    if (c->info.caps & VMC_CAP_DIRTY_LOG)
        CHECK_EQ(c->ops->dirty_log(c->evm, true), VMC_OK);
    CHECK(take_dirty(c, &bits)); /* everything, at first */
    CHECK(take_dirty(c, &bits));
    CHECK_EQ(bits, 0);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, END));
    conf_complete(c);
    CHECK(take_dirty(c, &bits));
    CHECK_EQ(bits, 1u << 1 | 1u << 3 | 1u << 4);
    CHECK(take_dirty(c, &bits));
    CHECK_EQ(bits, 0);
    LOAD(LONG64, g_dirty); /* the same again: a second write is seen as well */
    if (!conf_run(c))
        return;
    CHECK(take_dirty(c, &bits));
    CHECK_EQ(bits, 1u << 1 | 1u << 3 | 1u << 4);
    if (c->info.caps & VMC_CAP_DIRTY_LOG)
        CHECK_EQ(c->ops->dirty_log(c->evm, false), VMC_OK);
    vmc_mem_dirty_stop(c->mem, 0);
}

GUEST(g_smc, 64, "mov ecx, 3; xor ebx, ebx;"
                 "1: mov byte ptr [rip + 2f + 1], cl; jmp 2f; 2: mov bl, 0; add bh, bl; dec ecx;"
                 "jnz 1b; mov al, bh; out 0x7e, al");

static void code_may_change_itself(struct conf *c)
{
    LOAD(LONG64, g_smc);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, END));
    CHECK_EQ(c->x.u.io.data, 6);
}

GUEST(g_loop, 64, "1: mov al, 1; mov dx, 0x500; out dx, al; jmp 1b");

static void others_may_change_code(struct conf *c)
{
    static const uint8_t two = 2;

    LOAD(LONG64, g_loop);
    for (unsigned i = 0; i < 3; i++) {
        if (!conf_run(c))
            return;
        CHECK_EQ(c->x.u.io.data, 1);
        conf_complete(c);
    }
    CHECK_EQ(vmc_mem_write(c->mem, CODE + 1, &two, 1), VMC_OK); /* as a device or debugger does */
    if (!conf_run(c))
        return;
    CHECK_EQ(c->x.u.io.data, 2);
}

const struct conf_test conf_mem_tests[] = {
    {"rom_is_read_only", rom_is_read_only},
    {"the_map_may_change", the_map_may_change},
    {"writes_make_pages_dirty", writes_make_pages_dirty},
    {"code_may_change_itself", code_may_change_itself},
    {"others_may_change_code", others_may_change_code},
    {NULL, NULL},
};
