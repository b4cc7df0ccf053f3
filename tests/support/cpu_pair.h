/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The interpreter and the translator side by side, for tests that compare them, and random numbers.
 * Include it in the one file of a test program; PAIR_FLAGS, if defined before, are of both engines.
 */
#ifndef CPU_PAIR_H
#define CPU_PAIR_H

#include "cpu_rig.h"

#ifndef PAIR_FLAGS
#define PAIR_FLAGS 0
#endif

static struct cpu_rig rig[2]; /* interpreter, translator */
static uint32_t seed;

__attribute__((unused)) static unsigned rnd(unsigned n)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % n;
}

static int setup(void **state)
{
    (void)state;
    cpu_rig_create(&rig[0], PAIR_FLAGS);
    cpu_rig_create_soft(&rig[1], PAIR_FLAGS, VMC_SOFT_TRANSLATE_ALL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cpu_rig_destroy(&rig[0]);
    cpu_rig_destroy(&rig[1]);
    return 0;
}

#endif
