/* SPDX-License-Identifier: BSD-2-Clause */
/* Chipset, keyboard controller, debug ports. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/devices.h>

#include "test_board.h"

#include <cmocka.h>

#define S   1000000000ull
#define SCI 9
#define A20 30 /* a wire of the board to see the gate by */

struct fx {
    struct test_board b;
    struct vmc_chipset *cs;
    struct vmc_i8042 *k;
    struct vmc_exit_port *ep;
    struct vmc_post_port *pp;
    struct vmc_debugcon *dc;
    struct vmc_fpu_error *fe;
};

static int setup(void **state)
{
    struct fx *f = calloc(1, sizeof(*f));
    struct vmc_chipset_config cc = {.size = sizeof(cc), .flags = VMC_CHIPSET_S3};
    struct vmc_i8042_config kc = {.size = sizeof(kc)};
    struct vmc_chardev out;

    test_board_init(&f->b, 1 << 20);
    const struct vmc_stop_sink stop = {.stop = test_board_stop, .ctx = &f->b};
    cc.sci = test_board_line(&f->b, SCI);
    for (unsigned i = 0; i < 8; i++)
        cc.gsi[i] = test_board_line(&f->b, 16 + i);
    for (unsigned i = 0; i < 16; i++)
        cc.isa[i] = test_board_line(&f->b, i == SCI ? 31 : i);
    cc.stop = kc.stop = stop;
    kc.irq1 = test_board_line(&f->b, 1);
    kc.irq12 = test_board_line(&f->b, 12);
    kc.a20 = test_board_line(&f->b, A20);
    test_board_chardev(&f->b, &out);
    assert_int_equal(vmc_chipset_create(&f->b.bd, &cc, &f->cs, NULL), VMC_OK);
    assert_int_equal(vmc_i8042_create(&f->b.bd, &kc, &f->k, NULL), VMC_OK);
    assert_int_equal(vmc_exit_port_create(&f->b.bd, 0xf4, &stop, &f->ep, NULL), VMC_OK);
    assert_int_equal(vmc_post_port_create(&f->b.bd, 0x80, &out, &f->pp, NULL), VMC_OK);
    assert_int_equal(vmc_debugcon_create(&f->b.bd, 0xe9, &out, &f->dc, NULL), VMC_OK);
    assert_int_equal(vmc_fpu_error_create(&f->b.bd, test_board_line(&f->b, 13), &f->fe, NULL),
                     VMC_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fx *f = *state;

    test_board_fini(&f->b);
    free(f);
    return 0;
}

#define IN(p)     test_in(&f->b, p, 1)
#define OUT(p, v) test_out(&f->b, p, 1, v)

static uint32_t cfg_in(struct fx *f, unsigned slot, unsigned reg, unsigned bytes)
{
    return vmc_pci_config_read(vmc_chipset_pci(f->cs), VMC_PCI_DEVFN(slot, 0), (uint16_t)reg,
                               bytes);
}

static void cfg_out(struct fx *f, unsigned slot, unsigned reg, unsigned bytes, uint32_t v)
{
    vmc_pci_config_write(vmc_chipset_pci(f->cs), VMC_PCI_DEVFN(slot, 0), (uint16_t)reg, bytes, v);
}

/* ---- chipset ------------------------------------------------------------------------------- */

static void bridges_identify(void **state)
{
    struct fx *f = *state;

    assert_int_equal(cfg_in(f, 0, 0, 4), 0x29c08086);
    assert_int_equal(cfg_in(f, 0, 0x2c, 4), 0x11001af4);
    assert_int_equal(cfg_in(f, 0x1f, 0, 4), 0x29188086);
    assert_int_equal(cfg_in(f, 0x1f, 0x0a, 2), 0x0601);
    cfg_out(f, 0x1f, 4, 2, 0); /* decoding is hardwired */
    assert_int_equal(cfg_in(f, 0x1f, 4, 2), 7);
    cfg_out(f, 0, 0x90, 1, 0xff); /* PAM */
    cfg_out(f, 0, 0x91, 4, 0xffffffff);
    assert_int_equal(cfg_in(f, 0, 0x90, 4), 0x33333330);
}

static void ecam_collision(void **state)
{
    struct fx *f = *state;
    uint64_t base, bytes;

    cfg_out(f, 0, 0x60, 4, 0xb0000001);
    vmc_pci_bus_ecam(vmc_chipset_pci(f->cs), &base, &bytes);
    assert_int_equal(base, 0xb0000000);
    assert_int_equal(bytes, 256u << 20);
    assert_int_equal(test_mmio_read(&f->b, 0xb00f8000, 4), 0x29188086);
    cfg_out(f, 0, 0x60, 4, 0xe0000003); /* 128 MiB */
    vmc_pci_bus_ecam(vmc_chipset_pci(f->cs), &base, &bytes);
    assert_int_equal(base, 0xe0000000);
    assert_int_equal(bytes, 128u << 20);
    cfg_out(f, 0, 0x60, 4, 0xe0000007); /* a length that does not exist */
    vmc_pci_bus_ecam(vmc_chipset_pci(f->cs), &base, &bytes);
    assert_int_equal(bytes, 0);
    cfg_out(f, 0, 0x60, 4, 0xb0000001);
    vmc_board_reset(&f->b.bd);
    vmc_pci_bus_ecam(vmc_chipset_pci(f->cs), &base, &bytes);
    assert_int_equal(bytes, 0);
}

static unsigned log_lines;

static void count_line(void *ctx, int level, const char *module, const char *text)
{
    (void)ctx;
    (void)level;
    (void)module;
    (void)text;
    log_lines++;
}

static uint64_t no_read(void *dev, uint64_t offset, unsigned bytes)
{
    (void)dev;
    (void)offset;
    (void)bytes;
    return 0;
}

static void no_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    (void)dev;
    (void)offset;
    (void)bytes;
    (void)value;
}

/* A guest cannot fill its host's disk with what is said about it. */
static void collisions_are_logged_a_few_times(void **state)
{
    struct fx *f = *state;
    static const struct vmc_bus_ops nothing = {.read = no_read, .write = no_write};

    assert_int_equal(vmc_bus_attach(f->b.bd.mmio, 0xb8000000, 0x1000, &nothing, NULL, NULL),
                     VMC_OK);
    f->b.tp.pf.log = count_line;
    log_lines = 0;
    for (unsigned i = 0; i < 1000; i++) {
        cfg_out(f, 0, 0x60, 4, 0xb0000001);
        cfg_out(f, 0, 0x60, 4, 0);
    }
    assert_in_range(log_lines, 1, 100);
    assert_int_equal(vmc_bus_detach(f->b.bd.mmio, 0xb8000000), VMC_OK);
}

static void pm_base_collision(void **state)
{
    struct fx *f = *state;

    assert_int_equal(vmc_chipset_pm_base(f->cs), 0x600);
    cfg_out(f, 0x1f, 0x40, 4, 0xb001);
    assert_int_equal(vmc_chipset_pm_base(f->cs), 0xb000);
    assert_int_equal(test_in(&f->b, 0x600, 4), 0xffffffff);
    assert_int_equal(test_in(&f->b, 0xb030, 4), 0x20);
    cfg_out(f, 0x1f, 0x40, 4, 0xc81); /* over 0xcf8 */
    assert_int_equal(vmc_chipset_pm_base(f->cs), 0);
    assert_int_equal(cfg_in(f, 0, 0, 4), 0x29c08086);
    cfg_out(f, 0x1f, 0x40, 4, 0x601);
    cfg_out(f, 0x1f, 0x44, 1, 0);
    assert_int_equal(vmc_chipset_pm_base(f->cs), 0);
    cfg_out(f, 0x1f, 0x44, 1, 0x80);
    assert_int_equal(vmc_chipset_pm_base(f->cs), 0x600);
}

static void pm_timer_counts(void **state)
{
    struct fx *f = *state;
    uint32_t a = test_in(&f->b, 0x608, 4);

    test_board_run(&f->b, S);
    uint32_t b = test_in(&f->b, 0x608, 4);
    assert_int_equal((b - a) & 0xffffff, 3579545);
    test_board_run(&f->b, 10 * S);
    assert_true(test_in(&f->b, 0x608, 4) < 1u << 24);
}

static void pm_timer_overflow(void **state)
{
    struct fx *f = *state;

    test_out(&f->b, 0x604, 2, 1); /* SCI_EN */
    test_out(&f->b, 0x602, 2, 1); /* TMR_EN */
    test_board_run(&f->b, 2 * S);
    assert_false(f->b.line[SCI].level);
    test_board_run(&f->b, S);
    assert_true(f->b.line[SCI].level);
    assert_int_equal(test_in(&f->b, 0x600, 2) & 1, 1);
    test_out(&f->b, 0x600, 2, 1);
    assert_false(f->b.line[SCI].level);
    test_board_run(&f->b, 3 * S);
    assert_true(f->b.line[SCI].level);
}

static void power_button_raises_sci(void **state)
{
    struct fx *f = *state;

    vmc_chipset_power_button(f->cs);
    assert_false(f->b.line[SCI].level); /* legacy mode, not enabled */
    OUT(0xb2, 2);                       /* ACPI enable */
    assert_int_equal(test_in(&f->b, 0x604, 2), 1);
    assert_false(f->b.line[SCI].level);
    test_out(&f->b, 0x602, 2, 0x100);
    assert_true(f->b.line[SCI].level);
    assert_int_equal(test_in(&f->b, 0x600, 4), 0x01000100);
    test_out(&f->b, 0x601, 1, 1); /* cleared by its byte alone */
    assert_false(f->b.line[SCI].level);
    OUT(0xb2, 3);
    assert_int_equal(test_in(&f->b, 0x604, 2), 0);
    OUT(0xb3, 0x12);
    assert_int_equal(IN(0xb3), 0x12);
    assert_int_equal(IN(0xb2), 3);
}

static void pm_s5_stops(void **state)
{
    struct fx *f = *state;

    test_out(&f->b, 0x604, 2, 0x1c00); /* type without enable */
    assert_int_equal(f->b.stops, 0);
    test_out(&f->b, 0x604, 2, 0x3400); /* S-state 5 of another type: not S5 here */
    assert_int_equal(f->b.stops, 0);
    test_out(&f->b, 0x604, 2, 0x2001);
    assert_int_equal(f->b.stops, 1);
    assert_int_equal(f->b.stop_why, VMC_STOP_POWER_OFF);
    assert_int_equal(test_in(&f->b, 0x604, 2), 1); /* SLP_EN reads 0 */
}

/* S3 ends the run; an enabled alarm, or the button, wakes; the reason is kept. */
static void pm_s3(void **state)
{
    struct fx *f = *state;
    struct vmc_irq_line alarm = vmc_chipset_rtc_line(f->cs);

    vmc_irq_set(&alarm, true); /* before the guest sleeps: a status bit */
    vmc_irq_set(&alarm, false);
    assert_int_equal(test_in(&f->b, 0x600, 2), 0x400);
    assert_false(vmc_chipset_wake_event(f->cs));
    test_out(&f->b, 0x600, 2, 0xffff);
    test_out(&f->b, 0x604, 2, 0x2400);
    assert_int_equal(f->b.stops, 1);
    assert_int_equal(f->b.stop_why, VMC_STOP_SUSPEND);
    vmc_irq_set(&alarm, true); /* not enabled */
    assert_false(vmc_chipset_wake_event(f->cs));
    test_out(&f->b, 0x602, 2, 0x400);
    assert_true(vmc_chipset_wake_event(f->cs));
    vmc_board_reset(&f->b.bd);
    assert_false(vmc_chipset_wake_event(f->cs));
    assert_int_equal(test_in(&f->b, 0x600, 2), 0);
    vmc_chipset_wake(f->cs);
    assert_int_equal(test_in(&f->b, 0x600, 2), 0x8400);

    test_out(&f->b, 0x600, 2, 0xffff);
    test_out(&f->b, 0x604, 2, 0x2401);
    vmc_chipset_power_button(f->cs); /* whatever is enabled */
    assert_true(vmc_chipset_wake_event(f->cs));
    vmc_board_reset(&f->b.bd);
    vmc_chipset_wake(f->cs);
    assert_int_equal(test_in(&f->b, 0x600, 2), 0x8100);
    assert_int_equal(test_in(&f->b, 0x604, 2), 1); /* ACPI mode is as it was */
    vmc_board_reset(&f->b.bd); /* a reset that is not the end of sleep forgets */
    assert_int_equal(test_in(&f->b, 0x600, 2), 0);
    assert_int_equal(test_in(&f->b, 0x604, 2), 0);
    vmc_chipset_offer_s3(f->cs, false);
    test_out(&f->b, 0x604, 2, 0x2400);
    assert_int_equal(f->b.stops, 2);
}

static void gpe_registers(void **state)
{
    struct fx *f = *state;

    test_out(&f->b, 0x628, 4, 0xffffffff);
    assert_int_equal(test_in(&f->b, 0x628, 4), 0xffffffff);
    test_out(&f->b, 0x620, 4, 0xffffffff);
    assert_int_equal(test_in(&f->b, 0x620, 4), 0);
    test_out(&f->b, 0x630, 4, 0); /* APMC_EN stays */
    assert_int_equal(test_in(&f->b, 0x630, 4), 0x20);
    test_out(&f->b, 0x67c, 4, 0x1234);
    assert_int_equal(test_in(&f->b, 0x67c, 4), 0);
}

static void reset_register(void **state)
{
    struct fx *f = *state;

    OUT(0xcf9, 0x02);
    assert_int_equal(f->b.stops, 0);
    assert_int_equal(IN(0xcf9), 0x02);
    OUT(0xcf9, 0x0e);
    assert_int_equal(f->b.stops, 1);
    assert_int_equal(f->b.stop_why, VMC_STOP_RESET);
}

static void pirq_routing(void **state)
{
    struct fx *f = *state;
    struct vmc_pci_func_config fc = {.size = sizeof(fc), .slot = 3, .int_pin = 1};
    struct vmc_pci_func *g;

    assert_int_equal(vmc_pci_func_create(vmc_chipset_pci(f->cs), &fc, &g, NULL), VMC_OK);
    vmc_pci_intx_set(g, true); /* line 3: PIRQ H */
    assert_true(f->b.line[23].level);
    assert_false(f->b.line[11].level); /* not routed to the PIC */
    cfg_out(f, 0x1f, 0x6b, 1, 0x0b);
    assert_true(f->b.line[11].level);
    cfg_out(f, 0x1f, 0x68, 4, 0x0a0a0a0a);
    assert_false(f->b.line[11].level);
    assert_true(f->b.line[10].level);
    cfg_out(f, 0x1f, 0x6b, 1, 0x80);
    assert_false(f->b.line[10].level);
    assert_true(f->b.line[23].level);
    vmc_pci_intx_set(g, false);
    assert_false(f->b.line[23].level);
    vmc_pci_func_destroy(g);
}

/* A state taken while a function drives its line: later the line still follows the function. */
static void pirq_survives_a_load(void **state)
{
    struct fx *f = *state;
    struct vmc_pci_func_config fc = {.size = sizeof(fc), .slot = 3, .int_pin = 1};
    struct vmc_device *d = f->b.bd.devices;
    static uint8_t low[16384], high[16384];
    struct vmc_pci_func *g;

    while (strcmp(d->ops->name, "chipset") != 0)
        d = d->next;
    assert_int_equal(vmc_pci_func_create(vmc_chipset_pci(f->cs), &fc, &g, NULL), VMC_OK);
    cfg_out(f, 0x1f, 0x68, 4, 0x0a0a0a0a);
    size_t n = d->ops->save(d->dev, low, sizeof(low));
    assert_in_range(n, 1, sizeof(low));
    vmc_pci_intx_set(g, true);
    cfg_out(f, 0x1f, 0x68, 4, 0x0b0b0b0b);
    assert_int_equal(d->ops->save(d->dev, high, sizeof(high)), n);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(d->ops->load(d->dev, round == 0 ? high : low, n, NULL), VMC_OK);
        assert_true(f->b.line[23].level);
        assert_int_equal(f->b.line[11].level, round == 0);
        assert_int_equal(f->b.line[10].level, round == 1);
        vmc_pci_intx_set(g, false);
        assert_false(f->b.line[23].level || f->b.line[11].level || f->b.line[10].level);
        vmc_pci_intx_set(g, true);
    }
    vmc_pci_func_destroy(g);
}

/* ---- keyboard controller ------------------------------------------------------------------- */

static unsigned drain(struct fx *f, uint8_t *dst, unsigned max)
{
    unsigned n = 0;

    while ((IN(0x64) & 1) != 0 && n < max)
        dst[n++] = (uint8_t)IN(0x60);
    return n;
}

static void i8042_self_test(void **state)
{
    struct fx *f = *state;

    assert_int_equal(IN(0x64) & 0x13, 0x10);
    OUT(0x64, 0xaa);
    assert_int_equal(IN(0x64) & 5, 5);
    assert_int_equal(IN(0x60), 0x55);
    OUT(0x64, 0xab);
    assert_int_equal(IN(0x60), 0);
    OUT(0x64, 0xa9);
    assert_int_equal(IN(0x60), 0);
    OUT(0x64, 0x20);
    assert_int_equal(IN(0x60), 0x47);
    OUT(0x64, 0x60);
    assert_int_equal(IN(0x64) & 8, 8);
    OUT(0x60, 0x30);
    OUT(0x64, 0x20);
    assert_int_equal(IN(0x60), 0x30);
    OUT(0x64, 0xad);
    OUT(0x64, 0xa8);
    OUT(0x64, 0x20);
    assert_int_equal(IN(0x60), 0x10);
    OUT(0x64, 0xc0);
    assert_int_equal(IN(0x60), 0x80);
    OUT(0x64, 0x65);
    OUT(0x60, 0x99);
    OUT(0x64, 0x25);
    assert_int_equal(IN(0x60), 0x99);
}

static void i8042_keyboard_commands(void **state)
{
    struct fx *f = *state;
    uint8_t r[8];

    OUT(0x60, 0xff);
    assert_true(f->b.line[1].level);
    assert_int_equal(drain(f, r, 8), 2);
    assert_memory_equal(r, "\xfa\xaa", 2);
    assert_false(f->b.line[1].level);
    OUT(0x60, 0xf2);
    assert_int_equal(drain(f, r, 8), 3);
    assert_memory_equal(r, "\xfa\xab\x41", 3); /* translated */
    OUT(0x60, 0xed);
    OUT(0x60, 0x07);
    assert_int_equal(drain(f, r, 8), 2);
    OUT(0x60, 0xf0);
    OUT(0x60, 0x00);
    assert_int_equal(drain(f, r, 8), 3);
    OUT(0x60, 0xee);
    assert_int_equal(IN(0x60), 0xee);
    OUT(0x60, 0x12);
    assert_int_equal(IN(0x60), 0xfe);
    OUT(0x60, 0xf5);
    assert_int_equal(IN(0x60), 0xfa);
    assert_int_equal(vmc_i8042_key(f->k, (const uint8_t *)"\x1c", 1), 0); /* not scanning */
    OUT(0x60, 0xf4);
    assert_int_equal(IN(0x60), 0xfa);
    OUT(0x60, 0xfe);
    assert_int_equal(IN(0x60), 0xfa);
}

static void i8042_keys_are_translated(void **state)
{
    struct fx *f = *state;
    uint8_t r[8];

    assert_int_equal(vmc_i8042_key(f->k, (const uint8_t *)"\x1c\xf0\x1c\xe0\x75", 5), 5);
    assert_int_equal(drain(f, r, 8), 4);
    assert_memory_equal(r, "\x1e\x9e\xe0\x48", 4);
}

static void i8042_key_flow_control(void **state)
{
    struct fx *f = *state;
    uint8_t codes[64], r[64];

    memset(codes, 0x1c, sizeof(codes));
    assert_int_equal(vmc_i8042_key(f->k, codes, 64), 32);
    assert_int_equal(vmc_i8042_key(f->k, codes, 64), 1); /* one moved to the output buffer */
    assert_int_equal(drain(f, r, 64), 33);
}

static void i8042_queue_overflow(void **state)
{
    struct fx *f = *state;
    uint8_t r[128];

    for (unsigned i = 0; i < 1000; i++) {
        OUT(0x64, 0xaa);
        OUT(0x60, 0xee);
        OUT(0x64, 0xd3);
        OUT(0x60, 0x11);
    }
    assert_in_range(drain(f, r, 128), 3, 97);
    OUT(0x64, 0xaa);
    assert_int_equal(IN(0x60), 0x55);
}

static void i8042_aux_loopback(void **state)
{
    struct fx *f = *state;
    uint8_t r[4];

    OUT(0x64, 0xd3);
    OUT(0x60, 0x5a);
    assert_int_equal(IN(0x64) & 0x21, 0x21);
    assert_true(f->b.line[12].level);
    assert_int_equal(IN(0x60), 0x5a);
    assert_false(f->b.line[12].level);
    OUT(0x64, 0xd4);
    OUT(0x60, 0xff); /* nobody is there */
    assert_int_equal(drain(f, r, 4), 0);
    OUT(0x64, 0xd2);
    OUT(0x60, 0x77);
    assert_int_equal(IN(0x60), 0x77);
}

static void i8042_resets(void **state)
{
    struct fx *f = *state;

    OUT(0x64, 0xff); /* pulses nothing */
    assert_int_equal(f->b.stops, 0);
    OUT(0x64, 0xfe);
    assert_int_equal(f->b.stops, 1);
    assert_int_equal(f->b.stop_why, VMC_STOP_RESET);
    OUT(0x64, 0xd1);
    OUT(0x60, 0x02);
    assert_int_equal(f->b.stops, 2);
    OUT(0x64, 0xd0);
    assert_int_equal(IN(0x60) & 3, 3);
    assert_int_equal(IN(0x92), 2);
    OUT(0x92, 0);
    assert_int_equal(IN(0x92), 0);
    OUT(0x92, 3);
    assert_int_equal(f->b.stops, 3);
    OUT(0x92, 3); /* no edge */
    assert_int_equal(f->b.stops, 3);
}

/* The last write to either of the ports decides, and both tell. */
static void a20_has_two_gates(void **state)
{
    struct fx *f = *state;
    struct vmc_device *d = f->b.bd.devices;
    uint8_t on[256], off[256];

    while (strcmp(d->ops->name, "i8042") != 0)
        d = d->next;
    assert_true(f->b.line[A20].level);
    size_t n = d->ops->save(d->dev, on, sizeof(on));
    assert_in_range(n, 1, sizeof(on));
    OUT(0x92, 0);
    assert_false(f->b.line[A20].level);
    OUT(0x64, 0xd0);
    assert_int_equal(IN(0x60) & 2, 0);
    assert_int_equal(d->ops->save(d->dev, off, sizeof(off)), n);
    OUT(0x64, 0xdf);
    assert_true(f->b.line[A20].level);
    assert_int_equal(IN(0x92), 2);
    OUT(0x64, 0xd1);
    OUT(0x60, 0xdd);
    assert_false(f->b.line[A20].level);
    assert_int_equal(IN(0x92), 0);
    OUT(0x92, 2);
    assert_true(f->b.line[A20].level);
    OUT(0x64, 0xdd);
    assert_false(f->b.line[A20].level);
    vmc_board_reset(&f->b.bd);
    assert_true(f->b.line[A20].level);
    assert_int_equal(d->ops->load(d->dev, off, n, NULL), VMC_OK);
    assert_false(f->b.line[A20].level);
    assert_int_equal(d->ops->load(d->dev, on, n, NULL), VMC_OK);
    assert_true(f->b.line[A20].level);
    assert_int_equal(IN(0x92), 2);
}

/* ---- debug ports --------------------------------------------------------------------------- */

static void exit_port_widths(void **state)
{
    struct fx *f = *state;

    test_out(&f->b, 0xf4, 1, 0x12);
    assert_int_equal(f->b.stop_why, VMC_STOP_EXIT_PORT);
    assert_int_equal(f->b.stop_detail, 0x12);
    test_out(&f->b, 0xf4, 2, 0x1234);
    assert_int_equal(f->b.stop_detail, 0x1234);
    test_out(&f->b, 0xf4, 4, 0x12345678);
    assert_int_equal(f->b.stop_detail, 0x12345678);
    assert_int_equal(f->b.stops, 3);
    assert_int_equal(test_in(&f->b, 0xf4, 4), 0);
    struct vmc_exit_port *p;
    const struct vmc_stop_sink stop = {.stop = test_board_stop, .ctx = &f->b};
    assert_int_equal(vmc_exit_port_create(&f->b.bd, 0x5e, &stop, &p, NULL),
                     VMC_OK); /* 0x60 is taken */
    test_out(&f->b, 0x5e, 2, 7);
    assert_int_equal(f->b.stop_detail, 7);
    assert_int_equal(vmc_exit_port_create(&f->b.bd, 0x60, &stop, &p, NULL), VMC_EEXIST);
}

static void debugcon_and_post(void **state)
{
    struct fx *f = *state;

    assert_int_equal(IN(0xe9), 0xe9);
    OUT(0xe9, 'A');
    test_out(&f->b, 0xe9, 2, 0x4342);
    assert_int_equal(f->b.out_bytes, 2);
    assert_memory_equal(f->b.out, "AB", 2);
    OUT(0x80, 0x42);
    assert_int_equal(IN(0x80), 0x42);
    assert_int_equal(vmc_post_port_value(f->pp), 0x42);
    assert_int_equal(f->b.out_bytes, 3);
    assert_int_equal(f->b.out[2], 0x42); /* each code goes out, too */
    vmc_board_reset(&f->b.bd);
    assert_int_equal(IN(0x80), 0);
}

static void fpu_error_takes_its_line_back_with_a_state(void **state)
{
    struct fx *f = *state;
    struct vmc_device *d = f->b.bd.devices;
    uint8_t off[128], on[128];

    while (strcmp(d->ops->name, "fpu-error") != 0)
        d = d->next;
    size_t n = d->ops->save(d->dev, off, sizeof(off));
    assert_false(vmc_fpu_error_signal(f->fe, true));
    assert_int_equal(d->ops->save(d->dev, on, sizeof(on)), n);
    assert_true(f->b.line[13].level);
    assert_int_equal(d->ops->load(d->dev, off, n, NULL), VMC_OK);
    assert_false(f->b.line[13].level);
    assert_int_equal(d->ops->load(d->dev, on, n, NULL), VMC_OK);
    assert_true(f->b.line[13].level);
}

static void fpu_error_needs_ferr(void **state)
{
    struct fx *f = *state;
    const struct test_line *irq = &f->b.line[13];

    OUT(0xf0, 0);
    assert_false(irq->level);
    assert_false(vmc_fpu_error_signal(f->fe, true)); /* the write before it does not count */
    assert_true(irq->level);
    OUT(0xf0, 0);
    assert_false(irq->level);
    assert_true(vmc_fpu_error_signal(f->fe, true)); /* IGNNE# as long as FERR# stays */
    assert_false(irq->level);
    assert_false(vmc_fpu_error_signal(f->fe, false));
    assert_false(vmc_fpu_error_signal(f->fe, true));
    assert_true(irq->level);
    vmc_board_reset(&f->b.bd);
    assert_false(irq->level);
    assert_int_equal(IN(0xf0), 0xff);
}

static void state_survives(void **state)
{
    struct fx *f = *state;

    cfg_out(f, 0, 0x60, 4, 0xb0000001);
    cfg_out(f, 0x1f, 0x40, 4, 0xb001);
    test_out(&f->b, 0xb004, 2, 1);
    test_out(&f->b, 0xb002, 2, 0x101);
    OUT(0x80, 0x55);
    OUT(0x64, 0xaa);
    test_board_run(&f->b, 3 * S);
    assert_true(f->b.line[SCI].level);
    test_board_save_load(&f->b);
    assert_true(f->b.line[SCI].level);
    assert_int_equal(vmc_chipset_pm_base(f->cs), 0xb000);
    assert_int_equal(test_mmio_read(&f->b, 0xb0000000, 4), 0x29c08086);
    assert_int_equal(IN(0x60), 0x55);
    assert_int_equal(IN(0x80), 0x55);
}

static void refused_state_changes_nothing(void **state)
{
    struct fx *f = *state;
    const struct vmc_device *d = f->b.bd.devices;
    struct vmc_error err;
    static uint8_t buf[16384];

    while (strcmp(d->ops->name, "chipset") != 0)
        d = d->next;
    cfg_out(f, 0, 0x60, 4, 0xb0000001);
    size_t n = d->ops->save(d->dev, buf, sizeof(buf));
    assert_in_range(n, 1024, sizeof(buf));
    cfg_out(f, 0, 0x60, 4, 0xc0000001);
    size_t at = n - 5; /* the version of the last part, the LPC bridge's, and its number */
    while (memcmp(buf + at, "\1\0\0\0\xf8", 5) != 0)
        at--;
    buf[at] ^= 1;
    assert_int_equal(d->ops->load(d->dev, buf, n, &err), VMC_EFORMAT);
    assert_int_equal(cfg_in(f, 0, 0x60, 4), 0xc0000001);
    buf[at] ^= 1;
    assert_int_equal(d->ops->load(d->dev, buf, n, &err), VMC_OK);
    assert_int_equal(cfg_in(f, 0, 0x60, 4), 0xb0000001);
}

static void allocation_failures_leave_nothing(void **state)
{
    struct fx *f = *state;
    struct test_board b;
    struct vmc_chipset *cs;
    struct vmc_chipset_config cc = {.size = sizeof(cc)};
    int rc = VMC_ENOMEM;
    (void)f;

    for (unsigned i = 1; rc != VMC_OK; i++) {
        test_board_init(&b, 0);
        b.tp.fail_after = b.tp.allocs + i;
        rc = vmc_chipset_create(&b.bd, &cc, &cs, NULL);
        b.tp.fail_after = 0;
        assert_true(rc == VMC_OK || rc == VMC_ENOMEM);
        assert_true(rc == VMC_OK || b.bd.devices == NULL);
        test_board_fini(&b);
        assert_true(i < 20);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(bridges_identify),
        T(ecam_collision),
        T(collisions_are_logged_a_few_times),
        T(pm_base_collision),
        T(pm_timer_counts),
        T(pm_timer_overflow),
        T(power_button_raises_sci),
        T(pm_s5_stops),
        T(pm_s3),
        T(gpe_registers),
        T(reset_register),
        T(pirq_routing),
        T(pirq_survives_a_load),
        T(i8042_self_test),
        T(i8042_keyboard_commands),
        T(i8042_keys_are_translated),
        T(i8042_key_flow_control),
        T(i8042_queue_overflow),
        T(i8042_aux_loopback),
        T(i8042_resets),
        T(a20_has_two_gates),
        T(exit_port_widths),
        T(debugcon_and_post),
        T(fpu_error_needs_ferr),
        T(fpu_error_takes_its_line_back_with_a_state),
        T(state_survives),
        T(refused_state_changes_nothing),
        T(allocation_failures_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
