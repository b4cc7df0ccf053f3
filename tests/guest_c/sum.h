/* SPDX-License-Identifier: BSD-2-Clause */
/* What kernels of random programs share: numbers from SEED, and a sum of all that is seen, which
   VERBOSE shows. Both are macros of the kernel that includes this. */
#ifndef SUM_H
#define SUM_H
#include "kern.h"

static uint32_t rng = SEED * 2654435761u + 1;

static uint32_t rnd(uint32_t n)
{
    rng ^= rng << 13;
    rng ^= rng >> 17;
    rng ^= rng << 5;
    return (uint32_t)((uint64_t)rng * n >> 32);
}

static uint32_t sum;
static void add(uint32_t v)
{
    sum = (sum << 7 | sum >> 25) * 31 + v;
#if VERBOSE
    print(" %x", v);
#endif
}

#endif
