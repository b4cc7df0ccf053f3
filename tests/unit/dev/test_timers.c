/* SPDX-License-Identifier: BSD-2-Clause */
/* PIT, RTC and HPET on a manual clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/devices.h>

#include "test_board.h"

#include <cmocka.h>

#define MS   1000000ull
#define S    1000000000ull
#define HPET 0xfed00000ull

struct fx {
    struct test_board b;
    struct vmc_hpet *h;
    struct vmc_pit *p;
    struct vmc_rtc *r;
};

static int64_t wall(void *ctx)
{
    (void)ctx;
    return 1709209799; /* 2024-02-29 12:29:59 UTC, a Thursday */
}

static int setup(void **state)
{
    struct fx *f = calloc(1, sizeof(*f));
    struct vmc_hpet_config cfg = {.size = sizeof(cfg), .gpa = HPET};

    test_board_init(&f->b, 0);
    f->b.tp.pf.wall_s = wall;
    for (unsigned i = 0; i < VMC_HPET_GSIS; i++)
        cfg.gsi[i] = test_board_line(&f->b, i);
    cfg.irq0 = test_board_line(&f->b, 0);
    cfg.irq8 = test_board_line(&f->b, 8);
    assert_int_equal(vmc_hpet_create(&f->b.bd, &cfg, &f->h, NULL), VMC_OK);
    assert_int_equal(vmc_pit_create(&f->b.bd, vmc_hpet_pit_line(f->h), &f->p, NULL), VMC_OK);
    assert_int_equal(vmc_rtc_create(&f->b.bd, vmc_hpet_rtc_line(f->h), &f->r, NULL), VMC_OK);
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

/* ---- PIT ----------------------------------------------------------------------------------- */

static void pit_program(struct fx *f, unsigned ch, unsigned mode, unsigned count)
{
    test_out(&f->b, 0x43, 1, ch << 6 | 0x30 | mode << 1);
    test_out(&f->b, (uint16_t)(0x40 + ch), 1, count & 0xff);
    test_out(&f->b, (uint16_t)(0x40 + ch), 1, count >> 8);
}

static unsigned pit_count(struct fx *f, unsigned ch)
{
    test_out(&f->b, 0x43, 1, ch << 6);
    unsigned lo = test_in(&f->b, (uint16_t)(0x40 + ch), 1);
    return lo | test_in(&f->b, (uint16_t)(0x40 + ch), 1) << 8;
}

#define P61_OUT2 0x20u

static unsigned pit_status(struct fx *f, unsigned ch)
{
    test_out(&f->b, 0x43, 1, 0xe0 | 2u << ch);
    return test_in(&f->b, (uint16_t)(0x40 + ch), 1);
}

static void pit_rate_generator(void **state)
{
    struct fx *f = *state;

    pit_program(f, 0, 2, 11932); /* 100 Hz */
    f->b.line[0].rises = 0;
    test_board_run(&f->b, S);
    assert_in_range(f->b.line[0].rises, 99, 100);
    pit_program(f, 0, 3, 1193);
    f->b.line[0].rises = 0;
    test_board_run(&f->b, S);
    assert_in_range(f->b.line[0].rises, 999, 1001);
}

static void pit_one_shot(void **state)
{
    struct fx *f = *state;

    pit_program(f, 0, 0, 1193); /* 1 ms */
    assert_false(f->b.line[0].level);
    test_board_run(&f->b, MS - 10000);
    assert_false(f->b.line[0].level);
    test_board_run(&f->b, 20000);
    assert_true(f->b.line[0].level);
    f->b.line[0].rises = 0;
    test_board_run(&f->b, S);
    assert_int_equal(f->b.line[0].rises, 0);
    pit_program(f, 0, 4, 1193); /* strobe */
    test_board_run(&f->b, 2 * MS);
    assert_int_equal(f->b.line[0].rises, 1);
}

static void pit_counts_down(void **state)
{
    struct fx *f = *state;

    pit_program(f, 2, 0, 60000);
    assert_int_equal(pit_count(f, 2), 60000); /* gate closed */
    test_board_run(&f->b, 10 * MS);
    assert_int_equal(pit_count(f, 2), 60000);
    test_out(&f->b, 0x61, 1, 0x01);
    test_board_run(&f->b, 10 * MS);
    assert_in_range(pit_count(f, 2), 60000 - 11933, 60000 - 11930);
    assert_int_equal(test_in(&f->b, 0x61, 1) & 0x20, 0);
    test_board_run(&f->b, 50 * MS);
    assert_int_equal(test_in(&f->b, 0x61, 1) & 0x20, 0x20); /* terminal count */
}

/* Mode 0: the first byte of a count stops the count in effect, which is still the one loaded. */
static void pit_first_byte_stops_the_count(void **state)
{
    struct fx *f = *state;

    pit_program(f, 2, 0, 60000);
    test_out(&f->b, 0x61, 1, 0x01);
    test_board_run(&f->b, 10 * MS);
    test_out(&f->b, 0x42, 1, 0x10);
    assert_int_equal(pit_status(f, 2) & 0xc0, 0); /* OUT low, no null count */
    unsigned left = pit_count(f, 2);
    assert_in_range(left, 60000 - 11933, 60000 - 11930);
    test_board_run(&f->b, 100 * MS);
    assert_int_equal(pit_count(f, 2), left);
    test_out(&f->b, 0x61, 1, 0x00); /* the gate makes no difference */
    test_board_run(&f->b, MS);
    test_out(&f->b, 0x61, 1, 0x01);
    test_board_save_load(&f->b);
    test_board_run(&f->b, 100 * MS);
    assert_int_equal(pit_count(f, 2), left);
    assert_int_equal(pit_status(f, 2) & 0xc0, 0);
    test_out(&f->b, 0x42, 1, 0x10); /* 0x1010: 3.446 ms */
    assert_int_equal(pit_status(f, 2) & 0xc0, 0);
    test_board_run(&f->b, 3400000);
    assert_int_equal(pit_status(f, 2) & 0xc0, 0);
    test_board_run(&f->b, 100000);
    assert_int_equal(pit_status(f, 2) & 0xc0, 0x80);
    test_out(&f->b, 0x42, 1, 0x10); /* at its end, too */
    assert_int_equal(pit_status(f, 2) & 0xc0, 0);
    test_out(&f->b, 0x43, 1, 0xb0); /* a control word ends it all: there is no count */
    assert_int_equal(pit_status(f, 2) & 0xc0, 0x40);
    test_out(&f->b, 0x42, 1, 0x10);
    assert_int_equal(pit_status(f, 2) & 0xc0, 0x40);
    pit_program(f, 0, 0, 1193); /* no interrupt of a count that is stopped */
    test_out(&f->b, 0x40, 1, 0x10);
    f->b.line[0].rises = 0;
    test_board_run(&f->b, 100 * MS);
    assert_int_equal(f->b.line[0].rises, 0);
    test_out(&f->b, 0x40, 1, 0x10);
    test_board_run(&f->b, 4 * MS);
    assert_int_equal(f->b.line[0].rises, 1);
}

static void pit_gated_one_shot(void **state)
{
    struct fx *f = *state;

    pit_program(f, 2, 1, 1193);
    assert_int_equal(test_in(&f->b, 0x61, 1) & 0x20, 0x20);
    test_board_run(&f->b, 5 * MS);
    test_out(&f->b, 0x61, 1, 0x01); /* the gate's edge starts it */
    assert_int_equal(test_in(&f->b, 0x61, 1) & 0x20, 0);
    test_board_run(&f->b, 900000);
    assert_int_equal(test_in(&f->b, 0x61, 1) & 0x20, 0);
    test_board_run(&f->b, 200000);
    assert_int_equal(test_in(&f->b, 0x61, 1) & 0x20, 0x20);
}

static void pit_new_count(struct fx *f, unsigned ch, unsigned count)
{
    test_out(&f->b, (uint16_t)(0x40 + ch), 1, count & 0xff);
    test_out(&f->b, (uint16_t)(0x40 + ch), 1, count >> 8);
}

/* Modes 1 and 5: a count is loaded by the next trigger; until then NULL COUNT says so. */
static void pit_count_waits_for_the_trigger(void **state)
{
    struct fx *f = *state;

    pit_program(f, 2, 1, 11932); /* 10 ms */
    assert_int_equal(pit_status(f, 2) & 0xc0, 0xc0);
    test_out(&f->b, 0x61, 1, 0x01);
    assert_int_equal(pit_status(f, 2) & 0xc0, 0);
    test_board_run(&f->b, 2 * MS);
    pit_new_count(f, 2, 1193);
    assert_int_equal(pit_status(f, 2) & 0xc0, 0x40);
    test_board_run(&f->b, 7 * MS);
    assert_int_equal(test_in(&f->b, 0x61, 1) & P61_OUT2, 0); /* the shot goes on */
    assert_in_range(pit_count(f, 2), 1190, 1196);
    test_board_run(&f->b, 2 * MS);
    assert_int_equal(test_in(&f->b, 0x61, 1) & P61_OUT2, P61_OUT2);
    test_out(&f->b, 0x61, 1, 0x00);
    test_out(&f->b, 0x61, 1, 0x01);
    assert_int_equal(pit_status(f, 2) & 0xc0, 0);
    test_board_run(&f->b, 900000);
    assert_int_equal(test_in(&f->b, 0x61, 1) & P61_OUT2, 0);
    test_board_run(&f->b, 200000);
    assert_int_equal(test_in(&f->b, 0x61, 1) & P61_OUT2, P61_OUT2); /* 1 ms */
}

/* Mode 2: a count is loaded when the period ends, or the gate opens. */
static void pit_count_waits_for_the_period(void **state)
{
    struct fx *f = *state;

    test_out(&f->b, 0x61, 1, 0x01);
    pit_program(f, 2, 2, 11932); /* 10 ms */
    assert_int_equal(pit_status(f, 2) & 0x40, 0);
    test_board_run(&f->b, 34 * MS);
    pit_new_count(f, 2, 2386); /* 2 ms */
    assert_int_equal(pit_status(f, 2) & 0x40, 0x40);
    assert_in_range(pit_count(f, 2), 11932 - 4774, 11932 - 4770);
    test_board_run(&f->b, 5 * MS);
    assert_in_range(pit_count(f, 2), 1190, 1198);
    test_board_run(&f->b, 1500000); /* 0.5 ms of the next period */
    assert_int_equal(pit_status(f, 2) & 0x40, 0);
    assert_in_range(pit_count(f, 2), 2386 - 600, 2386 - 592);
    test_board_run(&f->b, 100 * MS); /* 50 periods */
    assert_in_range(pit_count(f, 2), 2386 - 620, 2386 - 610); /* and 18 ticks */
    pit_new_count(f, 2, 11932);
    test_out(&f->b, 0x61, 1, 0x00);
    assert_int_equal(pit_status(f, 2) & 0x40, 0x40);
    test_out(&f->b, 0x61, 1, 0x01);
    assert_int_equal(pit_status(f, 2) & 0x40, 0);
    test_board_run(&f->b, MS);
    assert_in_range(pit_count(f, 2), 11932 - 1195, 11932 - 1192);
}

/* Mode 3: when the half ends. */
static void pit_count_waits_for_half_a_period(void **state)
{
    struct fx *f = *state;

    test_out(&f->b, 0x61, 1, 0x01);
    pit_program(f, 2, 3, 11932); /* 5 ms high, 5 ms low */
    test_board_run(&f->b, 21 * MS);
    pit_new_count(f, 2, 2386);
    assert_int_equal(pit_status(f, 2) & 0xc0, 0xc0);
    test_board_run(&f->b, 3900000); /* 24.9 ms */
    assert_int_equal(pit_status(f, 2) & 0xc0, 0xc0);
    test_board_run(&f->b, 200000);
    assert_int_equal(pit_status(f, 2) & 0xc0, 0);
    test_board_run(&f->b, 800000); /* 25.9 ms: low for 1 ms */
    assert_int_equal(pit_status(f, 2) & 0x80, 0);
    test_board_run(&f->b, 200000);
    assert_int_equal(pit_status(f, 2) & 0x80, 0x80);
    test_board_run(&f->b, MS);
    assert_int_equal(pit_status(f, 2) & 0x80, 0);
    pit_new_count(f, 2, 11932); /* in the low half: at the end of the period, 28 ms */
    assert_int_equal(pit_status(f, 2) & 0xc0, 0x40);
    test_board_run(&f->b, MS);
    assert_int_equal(pit_status(f, 2) & 0xc0, 0x80);
    test_board_run(&f->b, 4700000); /* 32.8 ms */
    assert_int_equal(pit_status(f, 2) & 0xc0, 0x80);
    test_board_run(&f->b, 400000);
    assert_int_equal(pit_status(f, 2) & 0xc0, 0);
}

/* The interrupts of channel 0 follow. */
static void pit_interrupts_change_with_the_period(void **state)
{
    struct fx *f = *state;

    for (unsigned mode = 2; mode <= 3; mode++) {
        pit_program(f, 0, mode, 11932); /* 10 ms */
        test_board_run(&f->b, 21 * MS);
        pit_new_count(f, 0, 1193); /* 1 ms */
        f->b.line[0].rises = 0;
        /* In the middle of mode 3, 25 ms: low for half a period, then high. */
        test_board_run(&f->b, (mode == 2 ? 8900 : 4400) * 1000ull);
        assert_int_equal(f->b.line[0].rises, 0);
        test_board_run(&f->b, 200000);
        assert_int_equal(f->b.line[0].rises, 1);
        test_board_run(&f->b, 10 * MS);
        assert_int_equal(f->b.line[0].rises, 11);
    }
}

static void pit_read_back(void **state)
{
    struct fx *f = *state;

    test_out(&f->b, 0x43, 1, 0x34);
    test_out(&f->b, 0x43, 1, 0xc2);                  /* count and status of channel 0 */
    assert_int_equal(test_in(&f->b, 0x40, 1), 0xf4); /* OUT, null count, both bytes, mode 2 */
    test_in(&f->b, 0x40, 1);
    test_in(&f->b, 0x40, 1);
    test_out(&f->b, 0x40, 1, 0x00);
    test_out(&f->b, 0x40, 1, 0x10);
    test_out(&f->b, 0x43, 1, 0xe2); /* status only */
    assert_int_equal(test_in(&f->b, 0x40, 1), 0xb4);
    assert_int_equal(test_in(&f->b, 0x43, 1), 0);
}

static void pit_shows_the_mode_as_written(void **state)
{
    struct fx *f = *state;

    for (unsigned mode = 0; mode < 8; mode++)
        for (unsigned access = 1; access < 4; access++) {
            unsigned word = access << 4 | mode << 1 | (mode & 1);
            test_out(&f->b, 0x43, 1, 2 << 6 | word);
            assert_int_equal(pit_status(f, 2) & 0x3f, word);
        }
    pit_program(f, 0, 6, 11932); /* mode 2: 100 Hz */
    f->b.line[0].rises = 0;
    test_board_run(&f->b, S);
    assert_in_range(f->b.line[0].rises, 99, 100);
}

static void pit_latch_holds(void **state)
{
    struct fx *f = *state;

    pit_program(f, 0, 2, 0); /* 65536 */
    test_board_run(&f->b, MS);
    test_out(&f->b, 0x43, 1, 0x00);
    test_board_run(&f->b, 20 * MS);
    test_out(&f->b, 0x43, 1, 0x00); /* a second latch does nothing */
    unsigned v = test_in(&f->b, 0x40, 1);
    v |= test_in(&f->b, 0x40, 1) << 8;
    assert_in_range(v, 65536 - 1194, 65536 - 1192);
}

static void pit_bcd(void **state)
{
    struct fx *f = *state;

    test_out(&f->b, 0x61, 1, 1);
    test_out(&f->b, 0x43, 1, 0xb1);
    test_out(&f->b, 0x42, 1, 0x00);
    test_out(&f->b, 0x42, 1, 0x50); /* 5000 */
    test_board_run(&f->b, MS);      /* 1193 ticks */
    unsigned v = pit_count(f, 2);
    assert_in_range(v, 0x3806, 0x3808);
}

static void pit_byte_access_modes(void **state)
{
    struct fx *f = *state;

    test_out(&f->b, 0x61, 1, 1);
    test_out(&f->b, 0x43, 1, 0x90); /* low byte only, mode 0 */
    test_out(&f->b, 0x42, 1, 200);
    assert_int_equal(test_in(&f->b, 0x42, 1), 200);
    test_out(&f->b, 0x43, 1, 0xa0); /* high byte only */
    test_out(&f->b, 0x42, 1, 0x40);
    assert_in_range(test_in(&f->b, 0x42, 1), 0x3f, 0x40);
}

static void pit_storm_is_bounded(void **state)
{
    struct fx *f = *state;

    pit_program(f, 0, 2, 1);
    f->b.line[0].rises = 0;
    test_board_run(&f->b, 10 * MS);
    assert_in_range(f->b.line[0].rises, 100, 501);
}

static void pit_lag_is_bounded(void **state)
{
    struct fx *f = *state;

    pit_program(f, 0, 2, 1193);
    f->b.line[0].rises = 0;
    test_board_jump(&f->b, 100 * MS);
    test_board_run(&f->b, 100 * MS);
    assert_in_range(f->b.line[0].rises, 198, 202); /* made up */
    f->b.line[0].rises = 0;
    test_board_jump(&f->b, 3600 * S);
    test_board_run(&f->b, 100 * MS);
    assert_in_range(f->b.line[0].rises, 50, 700); /* not an hour of them */
}

static void refresh_toggles(void **state)
{
    struct fx *f = *state;
    unsigned changes = 0, last = test_in(&f->b, 0x61, 1) & 0x10;

    for (unsigned i = 0; i < 100; i++) {
        test_board_run(&f->b, 15085);
        unsigned now = test_in(&f->b, 0x61, 1) & 0x10;
        changes += now != last;
        last = now;
    }
    assert_int_equal(changes, 100);
}

/* ---- RTC ----------------------------------------------------------------------------------- */

static unsigned cmos(struct fx *f, unsigned i)
{
    test_out(&f->b, 0x70, 1, i);
    return test_in(&f->b, 0x71, 1);
}

static void cmos_set(struct fx *f, unsigned i, unsigned v)
{
    test_out(&f->b, 0x70, 1, i);
    test_out(&f->b, 0x71, 1, v);
}

static void assert_time(struct fx *f, unsigned y, unsigned mo, unsigned d, unsigned h, unsigned mi,
                        unsigned s)
{
    assert_int_equal(cmos(f, 0x32) << 8 | cmos(f, 9), y);
    assert_int_equal(cmos(f, 8), mo);
    assert_int_equal(cmos(f, 7), d);
    assert_int_equal(cmos(f, 4), h);
    assert_int_equal(cmos(f, 2), mi);
    assert_int_equal(cmos(f, 0), s);
}

static void rtc_starts_at_wall_time(void **state)
{
    struct fx *f = *state;

    assert_time(f, 0x2024, 0x02, 0x29, 0x12, 0x29, 0x59);
    assert_int_equal(cmos(f, 6), 5); /* Sunday is 1 */
    test_board_run(&f->b, S);
    assert_time(f, 0x2024, 0x02, 0x29, 0x12, 0x30, 0x00);
    test_board_run(&f->b, 86400 * S);
    assert_time(f, 0x2024, 0x03, 0x01, 0x12, 0x30, 0x00);
    assert_int_equal(cmos(f, 0x0d), 0x80);
}

static void rtc_formats(void **state)
{
    struct fx *f = *state;

    cmos_set(f, 0x0b, 0x06); /* binary, 24 hours */
    assert_time(f, 20 << 8 | 24, 2, 29, 12, 29, 59);
    cmos_set(f, 0x0b, 0x04); /* 12 hours */
    assert_int_equal(cmos(f, 4), 0x8c);
    test_board_run(&f->b, 13 * 3600 * S);
    assert_int_equal(cmos(f, 4), 1);
    test_board_run(&f->b, 23 * 3600 * S);
    assert_int_equal(cmos(f, 4), 12); /* midnight */
}

static void rtc_set_time(void **state)
{
    struct fx *f = *state;

    cmos_set(f, 0x0b, 0x82); /* SET */
    cmos_set(f, 0x32, 0x19);
    cmos_set(f, 9, 0x99);
    cmos_set(f, 8, 0x12);
    cmos_set(f, 7, 0x31);
    cmos_set(f, 4, 0x23);
    cmos_set(f, 2, 0x59);
    cmos_set(f, 0, 0x58);
    test_board_run(&f->b, 10 * S);
    assert_int_equal(cmos(f, 0), 0x58); /* frozen */
    cmos_set(f, 0x0b, 0x02);
    assert_time(f, 0x1999, 0x12, 0x31, 0x23, 0x59, 0x58);
    test_board_run(&f->b, 2 * S);
    assert_time(f, 0x2000, 0x01, 0x01, 0x00, 0x00, 0x00);
}

/* Only the divider's reset begins a second anew; a time that is written does not. */
static void rtc_seconds_keep_their_phase(void **state)
{
    struct fx *f = *state;

    test_board_run(&f->b, S / 4);
    cmos_set(f, 0, 0x10);
    cmos_set(f, 0x0b, 0x82); /* SET */
    test_board_run(&f->b, S / 4);
    cmos_set(f, 0, 0x20);
    cmos_set(f, 0x0b, 0x02);
    test_board_run(&f->b, S / 2 - 1000);
    assert_int_equal(cmos(f, 0), 0x20);
    assert_int_equal(cmos(f, 0x0a) & 0x80, 0x80);
    test_board_run(&f->b, 1000);
    assert_int_equal(cmos(f, 0), 0x21);
    test_board_run(&f->b, S / 4);
    cmos_set(f, 0x0a, 0x76);
    cmos_set(f, 0, 0x30);
    cmos_set(f, 0x0a, 0x26);
    test_board_run(&f->b, S / 2 - 1000);
    assert_int_equal(cmos(f, 0), 0x30);
    test_board_run(&f->b, 1000);
    assert_int_equal(cmos(f, 0), 0x31);
}

static void rtc_nonsense_time(void **state)
{
    struct fx *f = *state;

    cmos_set(f, 0x0b, 0x82);
    for (unsigned i = 0; i < 10; i++)
        cmos_set(f, i, 0xff);
    cmos_set(f, 0x32, 0xff);
    cmos_set(f, 0x0b, 0x02);
    assert_int_equal(cmos(f, 4), 0x23);
    test_board_run(&f->b, 10 * S);
    assert_int_equal(cmos(f, 0x0d), 0x80);
}

static void rtc_update_in_progress(void **state)
{
    struct fx *f = *state;
    unsigned up = 0;

    for (unsigned i = 0; i < 10000; i++) {
        test_board_run(&f->b, 100000);
        up += (cmos(f, 0x0a) & 0x80) != 0;
    }
    assert_in_range(up, 2, 3); /* 244 us a second, sampled every 100 us */
}

static void rtc_periodic(void **state)
{
    struct fx *f = *state;

    cmos_set(f, 0x0a, 0x26); /* 1024 Hz */
    cmos_set(f, 0x0b, 0x42);
    unsigned n = 0;
    for (unsigned i = 0; i < 2000; i++) {
        test_board_run(&f->b, 500000);
        if (f->b.line[8].level) {
            n++;
            assert_int_equal(cmos(f, 0x0c) & 0xc0, 0xc0);
        }
        assert_false(f->b.line[8].level);
    }
    assert_in_range(n, 1022, 1025);
    cmos_set(f, 0x0b, 0x02);
    test_board_run(&f->b, S);
    assert_false(f->b.line[8].level);
    assert_int_equal(cmos(f, 0x0c) & 0x40, 0x40); /* the flag comes without the enable */
}

/* A guest that polls the flags faster than the host's timers are served loses no interrupt. */
static void rtc_polled_flags_keep_the_edge(void **state)
{
    struct fx *f = *state;

    cmos_set(f, 0x0a, 0x26);
    cmos_set(f, 0x0b, 0x42);
    unsigned before = f->b.line[8].rises;
    f->b.tp.now_ns += 2000000; /* no timer runs */
    assert_int_equal(cmos(f, 0x0c) & 0xc0, 0xc0);
    assert_false(f->b.line[8].level);
    assert_int_equal(f->b.line[8].rises, before + 1);
}

static void rtc_update_interrupt(void **state)
{
    struct fx *f = *state;

    cmos_set(f, 0x0b, 0x12);
    cmos(f, 0x0c);
    test_board_run(&f->b, S - 1000);
    assert_false(f->b.line[8].level);
    test_board_run(&f->b, 2000);
    assert_true(f->b.line[8].level);
    assert_int_equal(cmos(f, 0x0c) & 0x90, 0x90);
    assert_false(f->b.line[8].level);
}

static void rtc_alarm(void **state)
{
    struct fx *f = *state;

    vmc_rtc_set_alarm_line(f->r, test_board_line(&f->b, 30));
    cmos_set(f, 5, 0x12);
    cmos_set(f, 3, 0x31);
    cmos_set(f, 1, 0x05);
    cmos_set(f, 0x0b, 0x22);
    cmos(f, 0x0c);
    test_board_run(&f->b, 65 * S);
    assert_false(f->b.line[8].level);
    test_board_run(&f->b, S + MS);
    assert_true(f->b.line[8].level);
    assert_true(f->b.line[30].level);
    assert_int_equal(cmos(f, 0x0c) & 0xa0, 0xa0);
    assert_false(f->b.line[30].level);
    cmos_set(f, 1, 0xff); /* every second of that minute */
    test_board_run(&f->b, S);
    assert_int_equal(cmos(f, 0x0c) & 0x20, 0x20);
}

static void rtc_alarm_never(void **state)
{
    struct fx *f = *state;

    cmos_set(f, 5, 0x45); /* there is no such hour */
    cmos_set(f, 0x0b, 0x22);
    test_board_run(&f->b, 100000 * S);
    assert_int_equal(cmos(f, 0x0c) & 0x20, 0);
}

static void rtc_periodic_lag(void **state)
{
    struct fx *f = *state;

    cmos_set(f, 0x0a, 0x23); /* 8192 Hz */
    cmos_set(f, 0x0b, 0x42);
    test_board_jump(&f->b, 3600 * S);
    assert_true(f->b.line[8].level);
    cmos(f, 0x0c);
    test_board_run(&f->b, MS);
    assert_true(f->b.line[8].level);
}

static void rtc_ram(void **state)
{
    struct fx *f = *state;

    assert_int_equal(vmc_rtc_set_cmos(f->r, 0x5f, 3), VMC_OK);
    assert_int_equal(vmc_rtc_set_cmos(f->r, 0x0a, 3), VMC_ERANGE);
    assert_int_equal(vmc_rtc_set_cmos(f->r, 256, 3), VMC_ERANGE);
    cmos_set(f, 0x5f, 9);
    test_out(&f->b, 0x72, 1, 0x12);
    test_out(&f->b, 0x73, 1, 0x34);
    assert_int_equal(test_in(&f->b, 0x73, 1), 0x34);
    vmc_board_reset(&f->b.bd);
    assert_int_equal(cmos(f, 0x5f), 3);
    assert_int_equal(cmos(f, 0x80 | 0x5f), 3); /* bit 7 is the NMI's */
}

/* ---- HPET ---------------------------------------------------------------------------------- */

#define HR(o)    test_mmio_read(&f->b, HPET + (o), 8)
#define HW(o, v) test_mmio_write(&f->b, HPET + (o), 8, v)

static void hpet_identifies(void **state)
{
    struct fx *f = *state;

    assert_int_equal(HR(0), 0x009896808086a201);
    assert_int_equal(test_mmio_read(&f->b, HPET + 4, 4), 10000000);
    assert_int_equal(HR(0x10), 0);
    assert_int_equal(HR(0xf0), 0);
    test_board_run(&f->b, MS);
    assert_int_equal(HR(0xf0), 0);
    HW(0x10, 1);
    test_board_run(&f->b, MS);
    assert_int_equal(HR(0xf0), 100000);
    HW(0x10, 0);
    test_board_run(&f->b, MS);
    assert_int_equal(HR(0xf0), 100000);
    test_mmio_write(&f->b, HPET + 0xf4, 4, 1);
    assert_int_equal(HR(0xf0), 0x1000186a0);
}

static void hpet_one_shot(void **state)
{
    struct fx *f = *state;

    HW(0x10, 1);
    HW(0x120, 0x4 | 20 << 9); /* edge, input 20 */
    HW(0x128, 50000);
    test_board_run(&f->b, 499999);
    assert_int_equal(f->b.line[20].rises, 0);
    test_board_run(&f->b, 1);
    assert_int_equal(f->b.line[20].rises, 1);
    assert_false(f->b.line[20].level);
    test_board_run(&f->b, 100 * S);
    assert_int_equal(f->b.line[20].rises, 1);
}

static void hpet_level(void **state)
{
    struct fx *f = *state;

    HW(0x10, 1);
    HW(0x140, 0x6 | 16 << 9);
    HW(0x148, 100);
    test_board_run(&f->b, MS);
    assert_true(f->b.line[16].level);
    assert_int_equal(HR(0x20), 4);
    HW(0x20, 4);
    assert_int_equal(HR(0x20), 0);
    assert_false(f->b.line[16].level);
}

static void hpet_periodic_legacy(void **state)
{
    struct fx *f = *state;

    HW(0x10, 3); /* on, legacy replacement */
    test_mmio_write(&f->b, HPET + 0x100, 4, 0x4 | 0x8 | 0x40 | 0x100);
    test_mmio_write(&f->b, HPET + 0x108, 4, 100000);
    test_mmio_write(&f->b, HPET + 0x108, 4, 100000); /* 1 ms */
    f->b.line[0].rises = 0;
    test_board_run(&f->b, S);
    assert_in_range(f->b.line[0].rises, 999, 1000);
    pit_program(f, 0, 2, 1193); /* the PIT is cut off */
    f->b.line[0].rises = 0;
    test_board_run(&f->b, 100 * MS);
    assert_in_range(f->b.line[0].rises, 99, 101);
    HW(0x100, 0);
    HW(0x10, 1); /* and connected again */
    f->b.line[0].rises = 0;
    test_board_run(&f->b, 100 * MS);
    assert_in_range(f->b.line[0].rises, 99, 101);
}

static void hpet_past_comparator(void **state)
{
    struct fx *f = *state;

    HW(0x10, 1);
    test_board_run(&f->b, S);
    HW(0x120, 0x4 | 0x100 | 20 << 9);
    HW(0x128, HR(0xf0) - 10);
    test_board_run(&f->b, 1000);
    assert_int_equal(f->b.line[20].rises, 1);
}

/* A match is by equality: what is far behind, or far ahead, is ahead. */
static void hpet_matches_by_equality(void **state)
{
    struct fx *f = *state;

    HW(0x120, 0x4 | 0x100 | 20 << 9); /* 32 bits */
    HW(0x128, 0xc0000000);            /* 32.212 s */
    HW(0x10, 1);
    test_board_run(&f->b, 32212 * MS);
    assert_int_equal(f->b.line[20].rises, 0);
    test_board_run(&f->b, MS);
    assert_int_equal(f->b.line[20].rises, 1);
    test_board_run(&f->b, 42948 * MS); /* the round after it */
    assert_int_equal(f->b.line[20].rises, 1);
    test_board_run(&f->b, MS);
    assert_int_equal(f->b.line[20].rises, 2);
    HW(0x128, (HR(0xf0) - 1000000000) & UINT32_MAX); /* 10 s ago: in 32.949 s */
    test_board_run(&f->b, 32949 * MS);
    assert_int_equal(f->b.line[20].rises, 2);
    test_board_run(&f->b, MS);
    assert_int_equal(f->b.line[20].rises, 3);
}

static void hpet_all_ones_never_match(void **state)
{
    struct fx *f = *state;

    HW(0x120, 0x4 | 20 << 9);
    HW(0x128, UINT64_MAX);
    HW(0x140, 0x4 | 0x100 | 21 << 9); /* 32 bits: after a round */
    HW(0x148, UINT32_MAX);
    HW(0x10, 1);
    HW(0x128, UINT64_MAX);
    HW(0x148, UINT32_MAX);
    test_board_run(&f->b, 42949 * MS);
    assert_int_equal(f->b.line[21].rises, 0);
    test_board_run(&f->b, MS);
    assert_int_equal(f->b.line[21].rises, 1);
    HW(0x140, 0);
    HW(0x128, HR(0xf0) - 1000000000); /* of 64 bits: 10 s ago is never, too */
    test_board_run(&f->b, 100000 * S);
    assert_int_equal(f->b.line[20].rises, 0);
}

/* Periods of more than half a round are periods. */
static void hpet_long_period(void **state)
{
    struct fx *f = *state;

    HW(0x100, 0x4 | 0x8 | 0x40 | 0x100 | 21 << 9);
    HW(0x108, 3000000000); /* 30 s */
    HW(0x108, 3000000000);
    HW(0x10, 1);
    for (unsigned i = 0; i < 5; i++) {
        test_board_run(&f->b, 30 * S - 1);
        assert_int_equal(f->b.line[21].rises, i);
        test_board_run(&f->b, 1);
        assert_int_equal(f->b.line[21].rises, i + 1);
    }
}

static void hpet_storm_is_bounded(void **state)
{
    struct fx *f = *state;

    HW(0x10, 1);
    HW(0x100, 0x4 | 0x8 | 0x40 | 21 << 9);
    HW(0x108, 1);
    HW(0x108, 1);
    test_board_run(&f->b, 10 * MS);
    assert_in_range(f->b.line[21].rises, 100, 502);
}

static void hpet_lag_is_bounded(void **state)
{
    struct fx *f = *state;

    HW(0x10, 1);
    HW(0x100, 0x4 | 0x8 | 0x40 | 21 << 9);
    HW(0x108, 100000);
    HW(0x108, 100000);
    test_board_jump(&f->b, 3600 * S);
    test_board_run(&f->b, 10 * MS);
    assert_in_range(f->b.line[21].rises, 5, 520);
}

static void hpet_absent_routes(void **state)
{
    struct fx *f = *state;

    HW(0x10, 1);
    HW(0x120, 0x4 | 5 << 9); /* input 5 is not offered */
    HW(0x128, 100);
    test_board_run(&f->b, MS);
    assert_int_equal(f->b.line[5].rises, 0);
    HW(0x120, 0x4 | 31 << 9);
    HW(0x128, HR(0xf0) + 100);
    test_board_run(&f->b, MS);
    assert_int_equal(HR(0x3f8), 0);
}

/* ---- all ----------------------------------------------------------------------------------- */

static void state_survives(void **state)
{
    struct fx *f = *state;

    pit_program(f, 0, 2, 11932);
    HW(0x10, 1);
    HW(0x120, 0x6 | 20 << 9);
    HW(0x128, 50);
    cmos_set(f, 0x0b, 0x52);
    test_board_run(&f->b, 5 * MS);
    test_board_save_load(&f->b);
    f->b.line[0].rises = 0;
    test_board_run(&f->b, S);
    assert_in_range(f->b.line[0].rises, 99, 101);
    assert_int_equal(HR(0x20), 2);
    assert_true(f->b.line[8].level);
}

static void villain(void **state)
{
    struct fx *f = *state;
    uint32_t x = 12345;

    for (unsigned i = 0; i < 20000; i++) {
        x = x * 1664525 + 1013904223;
        static const uint16_t ports[] = {0x40, 0x41, 0x42, 0x43, 0x61, 0x70, 0x71, 0x72, 0x73};
        if ((x >> 28) < 8)
            test_out(&f->b, ports[(x >> 8) % 9], 1, x >> 16);
        else if ((x >> 28) < 12)
            test_mmio_write(&f->b, HPET + ((x >> 8) & 0x3fc), 4, x * 7919u);
        else
            test_in(&f->b, ports[(x >> 8) % 9], 1 << (x >> 6 & 1));
        if (x % 64 == 0)
            test_board_run(&f->b, 100000);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(pit_rate_generator),
        T(pit_one_shot),
        T(pit_counts_down),
        T(pit_first_byte_stops_the_count),
        T(pit_gated_one_shot),
        T(pit_count_waits_for_the_trigger),
        T(pit_count_waits_for_the_period),
        T(pit_count_waits_for_half_a_period),
        T(pit_interrupts_change_with_the_period),
        T(pit_read_back),
        T(pit_shows_the_mode_as_written),
        T(pit_latch_holds),
        T(pit_bcd),
        T(pit_byte_access_modes),
        T(pit_storm_is_bounded),
        T(pit_lag_is_bounded),
        T(refresh_toggles),
        T(rtc_starts_at_wall_time),
        T(rtc_formats),
        T(rtc_set_time),
        T(rtc_seconds_keep_their_phase),
        T(rtc_nonsense_time),
        T(rtc_update_in_progress),
        T(rtc_periodic),
        T(rtc_polled_flags_keep_the_edge),
        T(rtc_update_interrupt),
        T(rtc_alarm),
        T(rtc_alarm_never),
        T(rtc_periodic_lag),
        T(rtc_ram),
        T(hpet_identifies),
        T(hpet_one_shot),
        T(hpet_level),
        T(hpet_periodic_legacy),
        T(hpet_past_comparator),
        T(hpet_matches_by_equality),
        T(hpet_all_ones_never_match),
        T(hpet_long_period),
        T(hpet_storm_is_bounded),
        T(hpet_lag_is_bounded),
        T(hpet_absent_routes),
        T(state_survives),
        T(villain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
