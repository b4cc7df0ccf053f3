/* SPDX-License-Identifier: BSD-2-Clause */
/* The 16550A, register by register. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/devices.h>

#include "test_board.h"

#include <cmocka.h>

#define COM1 0x3f8
#define IRQ  4

struct fx {
    struct test_board b;
    struct vmc_uart *u;
    unsigned ready;
};

static void on_ready(void *ctx)
{
    ((struct fx *)ctx)->ready++;
}

static int setup(void **state)
{
    struct fx *f = calloc(1, sizeof(*f));
    struct vmc_uart_config cfg = {
        .size = sizeof(cfg), .port = COM1, .input_ready = on_ready, .input_ready_ctx = f};

    test_board_init(&f->b, 0);
    cfg.irq = test_board_line(&f->b, IRQ);
    test_board_chardev(&f->b, &cfg.out);
    assert_int_equal(vmc_uart_create(&f->b.bd, &cfg, &f->u, NULL), VMC_OK);
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

#define IN(r)     test_in(&f->b, (uint16_t)(COM1 + (r)), 1)
#define OUT(r, v) test_out(&f->b, (uint16_t)(COM1 + (r)), 1, v)

static void reset_values(void **state)
{
    struct fx *f = *state;

    assert_int_equal(IN(1), 0x00);
    assert_int_equal(IN(2), 0x01);
    assert_int_equal(IN(3), 0x00);
    assert_int_equal(IN(4), 0x00);
    assert_int_equal(IN(5), 0x60);
    assert_int_equal(IN(6), 0xb0);
    assert_int_equal(IN(7), 0x00);
}

static void output_goes_out(void **state)
{
    struct fx *f = *state;
    const char *text = "hello";

    for (const char *p = text; *p != '\0'; p++)
        OUT(0, (uint8_t)*p);
    assert_int_equal(f->b.out_bytes, 5);
    assert_memory_equal(f->b.out, text, 5);
    assert_int_equal(IN(5), 0x60);
}

static void thre_interrupt(void **state)
{
    struct fx *f = *state;

    OUT(1, 0x02);
    assert_true(f->b.line[IRQ].level); /* idle transmitter: at once */
    assert_int_equal(IN(2), 0x02);
    assert_false(f->b.line[IRQ].level); /* reading IIR clears it */
    assert_int_equal(IN(2), 0x01);
    OUT(0, 'x');
    assert_true(f->b.line[IRQ].level);
    OUT(1, 0x00);
    assert_false(f->b.line[IRQ].level);
}

/* A driver that writes the next character without reading IIR gets an edge for each. */
static void thre_interrupt_has_an_edge_for_each_character(void **state)
{
    struct fx *f = *state;

    OUT(1, 0x02);
    assert_int_equal(f->b.line[IRQ].rises, 1);
    for (unsigned i = 0; i < 26; i++) {
        OUT(0, 'A' + i);
        assert_true(f->b.line[IRQ].level);
        assert_int_equal(f->b.line[IRQ].rises, 2 + i);
    }
    f->b.out_room = 0;
    OUT(0, 'x'); /* nobody takes it: busy until somebody does */
    assert_false(f->b.line[IRQ].level);
    f->b.out_room = SIZE_MAX;
    vmc_uart_output_ready(f->u);
    assert_int_equal(f->b.line[IRQ].rises, 28);
    OUT(4, 0x10); /* and in loopback, without the receive interrupt */
    OUT(0, 'y');
    assert_int_equal(f->b.line[IRQ].rises, 29);
}

static void divisor_latch(void **state)
{
    struct fx *f = *state;

    OUT(3, 0x83);
    OUT(0, 0x0c);
    OUT(1, 0x01);
    assert_int_equal(IN(0), 0x0c);
    assert_int_equal(IN(1), 0x01);
    OUT(3, 0x03);
    assert_int_equal(IN(1), 0x00);
    assert_int_equal(f->b.out_bytes, 0);
}

static void scratch_keeps(void **state)
{
    struct fx *f = *state;

    OUT(7, 0xa5);
    assert_int_equal(IN(7), 0xa5);
}

static void receive_without_fifo(void **state)
{
    struct fx *f = *state;

    OUT(1, 0x01);
    assert_int_equal(vmc_uart_input(f->u, "ab", 2), 1);
    assert_true(f->b.line[IRQ].level);
    assert_int_equal(IN(2), 0x04);
    assert_int_equal(IN(5), 0x61);
    assert_int_equal(IN(0), 'a');
    assert_false(f->b.line[IRQ].level);
    assert_int_equal(f->ready, 1);
    assert_int_equal(IN(5), 0x60);
}

static void fifo_trigger_and_timeout(void **state)
{
    struct fx *f = *state;

    OUT(3, 0x83);
    OUT(0, 1); /* 115200 */
    OUT(3, 0x03);
    OUT(2, 0x81); /* FIFO, trigger 8 */
    assert_int_equal(IN(2) & 0xc0, 0xc0);
    OUT(1, 0x01);
    assert_int_equal(vmc_uart_input(f->u, "1234567", 7), 7);
    assert_false(f->b.line[IRQ].level);
    test_board_run(&f->b, 300000); /* 4 characters are 347 us */
    assert_false(f->b.line[IRQ].level);
    test_board_run(&f->b, 60000);
    assert_true(f->b.line[IRQ].level);
    assert_int_equal(IN(2), 0xcc); /* character timeout */
    assert_int_equal(IN(0), '1');
    assert_false(f->b.line[IRQ].level); /* a read restarts it */
    assert_int_equal(vmc_uart_input(f->u, "89", 2), 2);
    assert_int_equal(IN(2), 0xc4);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(IN(0), '2' + i);
    assert_int_equal(IN(2), 0xc1);
    test_board_run(&f->b, 10000000);
    assert_false(f->b.line[IRQ].level); /* empty: no timeout */
}

static void input_flow_control(void **state)
{
    struct fx *f = *state;
    uint8_t text[40];

    memset(text, 'z', sizeof(text));
    OUT(2, 0x01);
    assert_int_equal(vmc_uart_input(f->u, text, sizeof(text)), 16);
    assert_int_equal(vmc_uart_input(f->u, text, 1), 0);
    assert_int_equal(f->ready, 0);
    IN(0);
    assert_int_equal(f->ready, 1);
    assert_int_equal(vmc_uart_input(f->u, text, 5), 1);
    OUT(2, 0x03); /* clearing the FIFO makes room too */
    assert_int_equal(f->ready, 2);
    assert_int_equal(IN(5), 0x60);
}

/* A UART of its own that holds input back until somebody listens. */
static void patient_setup(struct fx *f)
{
    struct vmc_uart_config cfg = {.size = sizeof(cfg),
                                  .port = COM1 + 8,
                                  .flags = VMC_UART_PATIENT,
                                  .input_ready = on_ready,
                                  .input_ready_ctx = f};

    test_board_chardev(&f->b, &cfg.out);
    assert_int_equal(vmc_uart_create(&f->b.bd, &cfg, &f->u, NULL), VMC_OK);
    assert_int_equal(vmc_uart_input(f->u, "hi", 2), 0);
}

/* What was typed before a saved machine came back is for that one, which does listen. */
static void input_that_waited_comes_after_a_load(void **state)
{
    struct fx *f = *state;
    struct vmc_device *d = f->b.bd.devices;
    uint8_t buf[512];

    patient_setup(f);
    while (d->next != NULL)
        d = d->next;
    size_t n = d->ops->save(d->dev, buf, sizeof(buf));
    assert_int_equal(f->ready, 0);
    assert_int_equal(d->ops->load(d->dev, buf, n, NULL), VMC_OK);
    assert_int_equal(f->ready, 1);
    assert_int_equal(vmc_uart_input(f->u, "hi", 2), 1);
}

static void patient_uart_waits_for_the_receive_interrupt(void **state)
{
    struct fx *f = *state;

    patient_setup(f);
    for (unsigned i = 0; i < 20; i++) { /* a console that only sends */
        OUT(8 + 1, 0);
        assert_int_equal(IN(8 + 5), 0x60);
        OUT(8 + 0, 'x');
        IN(8 + 5);
    }
    OUT(8 + 2, 0x07);
    assert_int_equal(f->ready, 0);
    assert_int_equal(vmc_uart_input(f->u, "hi", 2), 0);
    OUT(8 + 1, 0x0f); /* a driver that identifies the chip */
    OUT(8 + 1, 0x00);
    test_board_run(&f->b, 200000000);
    assert_int_equal(f->ready, 0);
    OUT(8 + 1, 0x05);
    assert_int_equal(f->ready, 0);
    test_board_run(&f->b, 200000000);
    assert_int_equal(f->ready, 1);
    assert_int_equal(vmc_uart_input(f->u, "hi", 2), 2);
    assert_int_equal(IN(8 + 0), 'h');
    OUT(8 + 1, 0); /* it has listened once: from now on the line is as a line is */
    assert_int_equal(vmc_uart_input(f->u, "o", 1), 1);
}

static void patient_uart_notices_a_poll(void **state)
{
    struct fx *f = *state;

    patient_setup(f);
    IN(8 + 5);
    IN(8 + 5);
    assert_int_equal(f->ready, 0);
    IN(8 + 5);
    assert_int_equal(f->ready, 1);
    assert_int_equal(vmc_uart_input(f->u, "hi", 2), 1); /* no FIFO */
    assert_int_equal(IN(8 + 5), 0x61);
}

/* A timer interrupt that prints switches the receive interrupt off and on every 55 ms. */
static void patient_uart_bears_an_interrupt_switched_all_the_time(void **state)
{
    struct fx *f = *state;

    patient_setup(f);
    for (unsigned i = 0; i < 5; i++) {
        OUT(8 + 1, 0);
        OUT(8 + 0, '.');
        OUT(8 + 1, 1);
        test_board_run(&f->b, 55000000);
    }
    assert_int_equal(f->ready, 1);
    assert_int_equal(vmc_uart_input(f->u, "hi", 2), 1);
}

/* A guest that polls, and prints whenever there was nothing, never looks three times in a row. */
static void patient_uart_notices_a_poll_that_prints(void **state)
{
    struct fx *f = *state;
    unsigned ms = 0;

    patient_setup(f);
    for (; f->ready == 0 && ms < 10000; ms++) {
        IN(8 + 5); /* input? */
        IN(8 + 5); /* may I send? */
        OUT(8 + 0, '.');
        f->b.out_bytes = 0;
        test_board_run(&f->b, 1000000);
    }
    assert_in_range(ms, 1000, 3000);
    assert_int_equal(vmc_uart_input(f->u, "hi", 2), 1);
}

/* A console that sends for many seconds before its driver is ready is not taken for a poll ... */
static void patient_uart_waits_for_a_slow_start(void **state)
{
    struct fx *f = *state;
    unsigned s = 0;

    patient_setup(f);
    for (unsigned ms = 0; ms < 30000; ms++) {
        IN(8 + 5);
        OUT(8 + 0, 'x');
        f->b.out_bytes = 0;
        test_board_run(&f->b, 1000000);
    }
    assert_int_equal(f->ready, 0);
    assert_int_equal(vmc_uart_input(f->u, "hi", 2), 0);
    for (; f->ready == 0 && s < 300; s++) { /* ... but not for ever */
        for (unsigned i = 0; i < 10; i++) {
            IN(8 + 5);
            OUT(8 + 0, 'x');
            test_board_run(&f->b, 100000000);
        }
    }
    assert_in_range(s, 20, 60);
}

/* What was counted before a reset says nothing about the guest after it. */
static void patient_uart_forgets_at_reset(void **state)
{
    struct fx *f = *state;

    patient_setup(f);
    for (unsigned i = 0; i < 30; i++) {
        IN(8 + 5);
        IN(8 + 5);
        OUT(8 + 0, '.');
        OUT(8 + 1, 1);
        if (i % 15 == 14)
            vmc_board_reset(&f->b.bd);
        else
            OUT(8 + 1, 0);
        test_board_run(&f->b, 110000000);
    }
    assert_int_equal(f->ready, 0);
    OUT(8 + 1, 1);
    test_board_run(&f->b, 110000000);
    assert_int_equal(f->ready, 1);
}

static void slow_output_keeps_order(void **state)
{
    struct fx *f = *state;

    OUT(2, 0x01);
    f->b.out_room = 3;
    for (unsigned i = 0; i < 10; i++)
        OUT(0, '0' + i);
    assert_int_equal(f->b.out_bytes, 3);
    assert_int_equal(IN(5), 0x00); /* neither THRE nor TEMT */
    f->b.out_room = 2;
    test_board_run(&f->b, 5000000); /* asked again */
    assert_int_equal(f->b.out_bytes, 5);
    f->b.out_room = SIZE_MAX;
    vmc_uart_output_ready(f->u);
    assert_memory_equal(f->b.out, "0123456789", 10);
    assert_int_equal(IN(5), 0x60);
    f->b.out_room = 0; /* overflow: the last place is overwritten, nothing else breaks */
    for (unsigned i = 0; i < 100; i++)
        OUT(0, 'a');
    f->b.out_room = SIZE_MAX;
    vmc_uart_output_ready(f->u);
    assert_int_equal(f->b.out_bytes, 10 + 16);
}

static void loopback(void **state)
{
    struct fx *f = *state;

    IN(6);
    OUT(4, 0x1f);
    assert_int_equal(IN(6) & 0xf0, 0xf0);
    OUT(4, 0x10);
    assert_int_equal(IN(6), 0x0f); /* everything changed, RI fell */
    assert_int_equal(IN(6), 0x00);
    OUT(0, 0x5a);
    assert_int_equal(f->b.out_bytes, 0);
    assert_int_equal(IN(5), 0x61);
    assert_int_equal(IN(0), 0x5a);
    assert_int_equal(vmc_uart_input(f->u, "a", 1), 0); /* cut off from the line */
    OUT(3, 0x43);                                      /* break, looped back */
    assert_int_equal(IN(5) & 0x19, 0x19);
    OUT(4, 0x1a);
    assert_int_equal(IN(6) & 0xf0, 0x90); /* as drivers probe: RTS and OUT2 */
}

static void modem_interrupt(void **state)
{
    struct fx *f = *state;

    OUT(1, 0x08);
    OUT(4, 0x10);
    assert_true(f->b.line[IRQ].level);
    assert_int_equal(IN(2), 0x00);
    IN(6);
    assert_false(f->b.line[IRQ].level);
}

static void overrun_and_break(void **state)
{
    struct fx *f = *state;

    OUT(1, 0x04);
    vmc_uart_input_break(f->u);
    assert_int_equal(IN(2), 0x06);
    assert_int_equal(IN(5) & 0x1f, 0x11);
    assert_false(f->b.line[IRQ].level);
    vmc_uart_input_break(f->u); /* no room: overrun */
    assert_int_equal(IN(5) & 0x02, 0x02);
    assert_int_equal(IN(5) & 0x02, 0x00);
}

static void divisor_zero(void **state)
{
    struct fx *f = *state;

    OUT(3, 0x80);
    OUT(0, 0);
    OUT(1, 0);
    OUT(3, 0x00);
    OUT(2, 0x41);
    OUT(1, 0x01);
    vmc_uart_input(f->u, "q", 1);
    test_board_run(&f->b, 10000000);
    assert_true(f->b.line[IRQ].level);
    assert_int_equal(IN(0), 'q');
}

static void wide_access_is_bytes(void **state)
{
    struct fx *f = *state;

    assert_int_equal(test_in(&f->b, COM1 + 4, 4), 0x00b06000);
    test_out(&f->b, COM1 + 7, 1, 0x11);
    test_out(&f->b, COM1, 2, 0x0041); /* 'A' to THR, 0 to IER */
    assert_int_equal(f->b.out[0], 'A');
}

static void state_survives(void **state)
{
    struct fx *f = *state;

    OUT(2, 0x41);
    OUT(1, 0x0f);
    OUT(7, 0x77);
    vmc_uart_input(f->u, "xyz", 3);
    test_board_save_load(&f->b);
    assert_int_equal(IN(7), 0x77);
    assert_int_equal(IN(0), 'x');
    assert_int_equal(IN(0), 'y');
}

static void bad_state_is_refused(void **state)
{
    struct fx *f = *state;
    const struct vmc_device *d = f->b.bd.devices;
    uint8_t buf[256];
    struct vmc_error err;
    size_t n = d->ops->save(d->dev, buf, sizeof(buf));

    memset(buf + 16, 0xff, n - 16);
    assert_int_equal(d->ops->load(d->dev, buf, n, &err), VMC_EFORMAT);
    buf[8] ^= 1;
    assert_int_equal(d->ops->load(d->dev, buf, n, &err), VMC_EVERSION);
}

static void create_failures(void **state)
{
    struct fx *f = *state;
    struct vmc_uart_config cfg = {.size = sizeof(cfg), .port = COM1};
    struct vmc_uart *u;
    struct vmc_error err;

    assert_int_equal(vmc_uart_create(&f->b.bd, &cfg, &u, &err), VMC_EEXIST);
    cfg.size = 1;
    assert_int_equal(vmc_uart_create(&f->b.bd, &cfg, &u, &err), VMC_EINVAL);
    cfg.size = sizeof(cfg);
    cfg.port = 0x2f8;
    for (unsigned i = 1; i < 4; i++) {
        f->b.tp.fail_after = f->b.tp.allocs + i;
        int rc = vmc_uart_create(&f->b.bd, &cfg, &u, &err);
        f->b.tp.fail_after = 0;
        if (rc == VMC_OK)
            break;
        assert_int_equal(rc, VMC_ENOMEM);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(reset_values),
        T(output_goes_out),
        T(thre_interrupt),
        T(thre_interrupt_has_an_edge_for_each_character),
        T(divisor_latch),
        T(scratch_keeps),
        T(receive_without_fifo),
        T(fifo_trigger_and_timeout),
        T(input_flow_control),
        T(input_that_waited_comes_after_a_load),
        T(patient_uart_waits_for_the_receive_interrupt),
        T(patient_uart_notices_a_poll),
        T(patient_uart_bears_an_interrupt_switched_all_the_time),
        T(patient_uart_notices_a_poll_that_prints),
        T(patient_uart_waits_for_a_slow_start),
        T(patient_uart_forgets_at_reset),
        T(slow_output_keeps_order),
        T(loopback),
        T(modem_interrupt),
        T(overrun_and_break),
        T(divisor_zero),
        T(wide_access_is_bytes),
        T(state_survives),
        T(bad_state_is_refused),
        T(create_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
