/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BENCH_MEMORY_H
#define BENCH_MEMORY_H

#include <vmcore/sharing.h>

/* A guest's memory. */
struct bench_image {
    unsigned char *data;
    unsigned char *touched; /* per page: not all zero */
    uint64_t pages, used;
};

uint64_t bench_cpu_ns(void);
uint64_t bench_wall_ns(void);
void bench_result(const char *name, double value, const char *unit);
void bench_must(int rc, const char *what);

/*
 * Load the images into memory that the kernel may merge and let ksmd do it at full speed. Frames
 * freed per second of ksmd's CPU time; 0: not possible here.
 */
double bench_ksm(const struct bench_image *im, unsigned n, uint64_t used, uint64_t expect);

#endif
