/* SPDX-License-Identifier: BSD-2-Clause */
/* The software CPU of a test program that makes it anew for each of its tests. */
#ifndef CPU_RIG_ONE_H
#define CPU_RIG_ONE_H

#include "cpu_rig.h"

static struct cpu_rig rig;

static int setup(void **state)
{
    (void)state;
    cpu_rig_create(&rig, 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cpu_rig_destroy(&rig);
    return 0;
}

/* Put these bytes where the program begins. */
#define CODE(...)                                                                                  \
    do {                                                                                           \
        static const uint8_t code_[] = {__VA_ARGS__};                                              \
        cpu_rig_code(&rig, CPU_RIG_TEXT, code_, sizeof(code_));                                    \
    } while (0)

#endif
