/* SPDX-License-Identifier: BSD-2-Clause */
/* The device of test kernels: register, interrupt wires, memory, saved state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "test_board.h"

#include <vmcore/devices.h>

struct fx {
    struct test_board b;
    struct vmc_test_device *t;
};

static int setup(void **state)
{
    struct fx *f = calloc(1, sizeof(*f));
    struct vmc_irq_line gsi[VMC_TEST_WIRES];

    test_board_init(&f->b, 1 << 20);
    for (unsigned i = 0; i < VMC_TEST_WIRES; i++)
        gsi[i] = test_board_line(&f->b, i);
    assert_int_equal(vmc_test_device_create(&f->b.bd, gsi, &f->t, NULL), VMC_OK);
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

static void test_device_register(void **state)
{
    struct fx *f = *state;

    test_out(&f->b, 0xe0, 4, 0x12345678);
    assert_int_equal(test_in(&f->b, 0xe0, 4), 0x12345678);
    test_out(&f->b, 0xe1, 1, 0x9a);
    assert_int_equal(test_in(&f->b, 0xe0, 2), 0x9a78);
    assert_int_equal(test_in(&f->b, 0xe3, 1), 0x12);
    test_out(&f->b, 0xe4, 4, 0x1000);
    assert_int_equal(test_in(&f->b, 0xe0, 4), 0x12349a78);
    test_board_save_load(&f->b);
    assert_int_equal(test_in(&f->b, 0xe0, 4), 0x12349a78);
}

static void test_device_wires(void **state)
{
    struct fx *f = *state;

    test_out(&f->b, 0x200e, 1, 1);
    assert_true(f->b.line[14].level);
    assert_int_equal(test_in(&f->b, 0x200e, 1), 1);
    test_out(&f->b, 0x200e, 1, 0);
    assert_false(f->b.line[14].level);
    test_out(&f->b, 0x2017, 1, 1);
    assert_true(f->b.line[23].level);
    test_out(&f->b, 0x2018, 1, 1); /* not there */
    vmc_board_reset(&f->b.bd);
    assert_false(f->b.line[23].level);
    assert_int_equal(test_in(&f->b, 0x2017, 1), 0);
}

static void test_device_memory(void **state)
{
    struct fx *f = *state;

    test_mmio_write(&f->b, 0xff000ffe, 4, 0x11223344);
    assert_int_equal(test_mmio_read(&f->b, 0xff001000, 2), 0x1122);
    test_mmio_write(&f->b, 0xff00fff8, 8, 0x0123456789abcdef);
    assert_int_equal(test_mmio_read(&f->b, 0xff00fff8, 8), 0x0123456789abcdef);
    test_mmio_write(&f->b, 0xff00fffc, 8, 0); /* half of it is beyond the end */
    assert_int_equal(test_mmio_read(&f->b, 0xff00fff8, 8), 0x0000000089abcdef);
    assert_int_equal(test_mmio_read(&f->b, 0xff010000, 4), 0xffffffff);
}

static void test_device_taken(void **state)
{
    struct fx *f = *state;
    struct vmc_irq_line gsi[VMC_TEST_WIRES] = {{0}};
    struct vmc_test_device *t;

    assert_int_equal(vmc_test_device_create(&f->b.bd, gsi, &t, NULL), VMC_EEXIST);
    test_out(&f->b, 0xe0, 1, 5);
    assert_int_equal(test_in(&f->b, 0xe0, 1), 5);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_device_register),
        T(test_device_wires),
        T(test_device_memory),
        T(test_device_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
