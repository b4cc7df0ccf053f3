/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef HW_BENCH_H
#define HW_BENCH_H

#include <stdbool.h>

/*
 * Print what exits cost, in ticks of the time-stamp counter. only: one kind, or "" for all. False:
 * something failed.
 */
bool hw_bench(const char *engine, const char *only);

#endif
