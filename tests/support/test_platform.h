/* SPDX-License-Identifier: BSD-2-Clause */
/* A platform for tests: manual clock, allocations counted and made to fail, leaks found. */
#ifndef TEST_PLATFORM_H
#define TEST_PLATFORM_H

#include <vmcore/platform.h>

struct test_platform {
    struct vmc_platform pf;  /* pass &tp->pf to the library */
    uint64_t now_ns;         /* the clock; tests advance it */
    uint64_t fail_after;     /* the allocation with this number (from 1) and all later fail; 0: none */
    uint64_t allocs;         /* allocations so far */
    uint64_t live;           /* not yet freed */
    uint64_t live_bytes;
    uint64_t bugs;           /* vmc_platform.bug calls */
    char last_log[512];
    bool verbose;            /* print log lines */
};

/* No threads: sync absent. With exec memory. */
void test_platform_init(struct test_platform *tp);
/* The same with pthread locks and parking, and the real clock. */
void test_platform_init_threads(struct test_platform *tp);
/* Fails the running cmocka test when something leaked or a bug was reported. */
void test_platform_check(const struct test_platform *tp);

#endif
