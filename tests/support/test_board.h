/* SPDX-License-Identifier: BSD-2-Clause */
/* A board for device tests: buses, memory, timers on a manual clock, recorded lines and MSIs. */
#ifndef TEST_BOARD_H
#define TEST_BOARD_H

#include <vmcore/device.h>
#include <vmcore/io.h>

#include "test_platform.h"

#define TEST_LINES 32
#define TEST_MSIS  64

struct test_line {
    bool level;
    unsigned rises, falls;
};

struct test_msi {
    uint64_t addr;
    uint32_t data;
};

struct test_board {
    struct test_platform tp;
    struct vmc_board bd;
    struct test_line line[TEST_LINES];
    struct test_msi msi[TEST_MSIS];
    unsigned msis;
    uint32_t stop_why;
    uint64_t stop_detail;
    unsigned stops;
    uint8_t out[4096]; /* what a chardev got */
    size_t out_bytes;
    size_t out_room; /* how many bytes it takes before it refuses; default: all */
};

/* RAM of ram_bytes at 0. */
void test_board_init(struct test_board *b, uint64_t ram_bytes);
/* Destroys all devices and checks for leaks. */
void test_board_fini(struct test_board *b);
struct vmc_irq_line test_board_line(struct test_board *b, unsigned n);
void test_board_stop(void *ctx, uint32_t why, uint64_t detail);
void test_board_chardev(struct test_board *b, struct vmc_chardev *out);

/* Let time pass, firing timers in order, each at its time. */
void test_board_run(struct test_board *b, uint64_t ns);
/* Let time jump, as if the host had been away: then fire. */
void test_board_jump(struct test_board *b, uint64_t ns);

uint32_t test_in(struct test_board *b, uint16_t port, unsigned bytes);
void test_out(struct test_board *b, uint16_t port, unsigned bytes, uint32_t value);
uint64_t test_mmio_read(struct test_board *b, uint64_t gpa, unsigned bytes);
void test_mmio_write(struct test_board *b, uint64_t gpa, unsigned bytes, uint64_t value);

/* Save every device, reset the board, load everything back; every device must be as it was. */
void test_board_save_load(struct test_board *b);

#endif
