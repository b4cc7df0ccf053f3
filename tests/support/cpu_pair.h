/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The interpreter and the translator side by side, for tests that compare them, and random numbers.
 * Include it in the one file of a test program; PAIR_FLAGS, if defined before, are of both engines.
 */
#ifndef CPU_PAIR_H
#define CPU_PAIR_H

#include <stdlib.h>

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

/* VMC_BT_SEED, VMC_BT_TIMES: other programs, more of them. */
__attribute__((unused)) static uint32_t number(const char *name, uint32_t otherwise)
{
    const char *s = getenv(name);
    return s != NULL ? (uint32_t)strtoul(s, NULL, 0) : otherwise;
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

/* Instructions until the next stop. Of 4,096 the last ones are the interpreter's; with more than
   94,208 the parts of the budget are made full again in translated code. */
__attribute__((unused)) static uint64_t some_budget(void)
{
    switch (rnd(4)) {
    case 0:
        return 4097 + rnd(200);
    case 1:
        return 94208 + rnd(100000);
    default:
        return 4097 + rnd(60000);
    }
}

/* After a run of both: are they in the same state, and the bytes around middle the same? */
__attribute__((unused)) static void compare_pair(unsigned k, uint64_t middle, uint64_t reach)
{
    for (unsigned r = 0; r < 16; r++)
        if (rig[0].st.gpr[r] != rig[1].st.gpr[r])
            fail_msg("program %u: register %u", k, r);
    if (rig[0].st.rip != rig[1].st.rip || rig[0].st.rflags != rig[1].st.rflags)
        fail_msg("program %u: rip or flags", k);
    if (rig[0].exit.retired != rig[1].exit.retired)
        fail_msg("program %u: %llu instructions retired, not %llu", k,
                 (unsigned long long)rig[1].exit.retired, (unsigned long long)rig[0].exit.retired);
    if (memcmp(rig[0].ram + middle - reach, rig[1].ram + middle - reach, 2 * reach) != 0)
        fail_msg("program %u: memory", k);
}

#endif
