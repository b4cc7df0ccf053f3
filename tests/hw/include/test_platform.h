/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TEST_PLATFORM_H
#define TEST_PLATFORM_H

#include <vmcore/platform.h>

struct test_platform {
    struct vmc_platform pf;
    uint64_t bugs; /* the kernel panics instead */
};

void test_platform_init_threads(struct test_platform *tp);

#endif
