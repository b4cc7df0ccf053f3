/* SPDX-License-Identifier: BSD-2-Clause */
/* Payloads of bench/cpu: each does its unit of work n times and returns a checksum. */
#ifndef WORK_H
#define WORK_H

#include <stdint.h>

struct work {
    const char *name;
    const char *group;
    uint64_t (*run)(uint64_t n);
};

extern const struct work work_int[], work_fp[], work_mem[], work_sys[];

/* Whatever p points to may have been read and changed. */
#define ESCAPE(p) __asm__ volatile("" : : "r"(p) : "memory")

static inline uint32_t next_random(uint32_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 17;
    *s ^= *s << 5;
    return *s;
}

#endif
