/* SPDX-License-Identifier: BSD-2-Clause */
#include "test_board.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void line_set(void *ctx, uint32_t pin, bool level)
{
    struct test_board *b = ctx;
    struct test_line *l = &b->line[pin];

    if (level && !l->level)
        l->rises++;
    if (!level && l->level)
        l->falls++;
    l->level = level;
}

static void msi_send(void *ctx, uint64_t addr, uint32_t data)
{
    struct test_board *b = ctx;

    b->msi[b->msis % TEST_MSIS] = (struct test_msi){addr, data};
    b->msis++;
}

void test_board_init(struct test_board *b, uint64_t ram_bytes)
{
    memset(b, 0, sizeof(*b));
    test_platform_init(&b->tp);
    const struct vmc_platform *pf = &b->tp.pf;
    b->bd.platform = pf;
    b->bd.msi = (struct vmc_msi_sink){.send = msi_send, .ctx = b};
    b->out_room = SIZE_MAX;
    if (vmc_mem_create(pf, &b->bd.mem, NULL) != VMC_OK ||
        vmc_bus_create(pf, "pio", 0x10000, &b->bd.pio) != VMC_OK ||
        vmc_bus_create(pf, "mmio", 1ull << VMC_GPA_BITS, &b->bd.mmio) != VMC_OK ||
        vmc_timerq_create(pf, &b->bd.timers) != VMC_OK)
        abort();
    if (ram_bytes != 0) {
        struct vmc_mem_slot slot = {
            .size = sizeof(slot), .attr = VMC_MEM_RAM, .gpa = 0, .bytes = ram_bytes};
        if (vmc_mem_add(b->bd.mem, &slot, NULL) != VMC_OK)
            abort();
    }
}

void test_board_fini(struct test_board *b)
{
    b->tp.fail_after = 0;
    vmc_board_destroy_devices(&b->bd);
    vmc_timerq_destroy(b->bd.timers);
    vmc_bus_destroy(b->bd.pio);
    vmc_bus_destroy(b->bd.mmio);
    vmc_mem_destroy(b->bd.mem);
    test_platform_check(&b->tp);
}

struct vmc_irq_line test_board_line(struct test_board *b, unsigned n)
{
    return (struct vmc_irq_line){.set = line_set, .ctx = b, .pin = n};
}

void test_board_stop(void *ctx, uint32_t why, uint64_t detail)
{
    struct test_board *b = ctx;

    b->stop_why = why;
    b->stop_detail = detail;
    b->stops++;
}

static int chardev_write(void *ctx, const void *data, size_t bytes)
{
    struct test_board *b = ctx;
    size_t n = bytes < b->out_room ? bytes : b->out_room;

    if (n > sizeof(b->out) - b->out_bytes)
        n = sizeof(b->out) - b->out_bytes;
    memcpy(b->out + b->out_bytes, data, n);
    b->out_bytes += n;
    if (b->out_room != SIZE_MAX)
        b->out_room -= n;
    return (int)n;
}

void test_board_chardev(struct test_board *b, struct vmc_chardev *out)
{
    static const struct vmc_chardev_ops ops = {.write = chardev_write};

    *out = (struct vmc_chardev){.ops = &ops, .ctx = b};
}

void test_board_run(struct test_board *b, uint64_t ns)
{
    uint64_t end = b->tp.now_ns + ns, next;

    while (vmc_timerq_next(b->bd.timers, &next) && next <= end) {
        if (next > b->tp.now_ns)
            b->tp.now_ns = next;
        vmc_timerq_advance(b->bd.timers, b->tp.now_ns);
    }
    b->tp.now_ns = end;
}

void test_board_jump(struct test_board *b, uint64_t ns)
{
    b->tp.now_ns += ns;
    vmc_timerq_advance(b->bd.timers, b->tp.now_ns);
}

uint32_t test_in(struct test_board *b, uint16_t port, unsigned bytes)
{
    uint64_t v;

    vmc_bus_read(b->bd.pio, port, bytes, &v);
    return (uint32_t)v;
}

void test_out(struct test_board *b, uint16_t port, unsigned bytes, uint32_t value)
{
    vmc_bus_write(b->bd.pio, port, bytes, value);
}

uint64_t test_mmio_read(struct test_board *b, uint64_t gpa, unsigned bytes)
{
    uint64_t v;

    vmc_bus_read(b->bd.mmio, gpa, bytes, &v);
    return v;
}

void test_mmio_write(struct test_board *b, uint64_t gpa, unsigned bytes, uint64_t value)
{
    vmc_bus_write(b->bd.mmio, gpa, bytes, value);
}

#define STATE_MAX   (128u << 10)
#define DEVICES_MAX 32

void test_board_save_load(struct test_board *b)
{
    uint8_t *saved[DEVICES_MAX] = {0};
    size_t bytes[DEVICES_MAX] = {0};
    unsigned n = 0;

    for (struct vmc_device *d = b->bd.devices; d != NULL; d = d->next, n++) {
        assert_true(n < DEVICES_MAX);
        if (d->ops->save == NULL)
            continue;
        bytes[n] = d->ops->save(d->dev, NULL, 0);
        assert_in_range(bytes[n], 1, STATE_MAX);
        saved[n] = malloc(bytes[n]);
        assert_int_equal(d->ops->save(d->dev, saved[n], bytes[n]), bytes[n]);
    }
    vmc_board_reset(&b->bd);
    n = 0;
    for (struct vmc_device *d = b->bd.devices; d != NULL; d = d->next, n++) {
        struct vmc_error err;
        if (saved[n] == NULL)
            continue;
        /* Truncated and overlong state is refused and changes nothing. */
        assert_true(d->ops->load(d->dev, saved[n], bytes[n] - 1, &err) < 0);
        assert_true(d->ops->load(d->dev, saved[n], 0, &err) < 0);
        assert_int_equal(d->ops->load(d->dev, saved[n], bytes[n], &err), VMC_OK);
        uint8_t *again = malloc(bytes[n]);
        assert_int_equal(d->ops->save(d->dev, again, bytes[n]), bytes[n]);
        assert_memory_equal(again, saved[n], bytes[n]);
        free(again);
        free(saved[n]);
    }
}
