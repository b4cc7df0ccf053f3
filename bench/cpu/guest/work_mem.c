/* SPDX-License-Identifier: BSD-2-Clause */
/* Copying and filling memory. */
#include "work.h"

#include <string.h>

#define BYTES 65536

static uint8_t from[BYTES + 64], to[BYTES + 64];

/* The C library's, in the sizes that programs use. */
static uint64_t work_memcpy(uint64_t n)
{
    static const unsigned sizes[] = {16, 100, 37, 512, 4096, 64, 1500, 8, 256, 16384, 33, 4000};

    while (n-- > 0) {
        unsigned at = 0;
        for (unsigned i = 0; i < 240; i++) {
            unsigned len = sizes[i % 12];
            memcpy(to + at % 32768, from + at * 7 % 32768, len);
            ESCAPE(to);
            at += len;
        }
    }
    return to[99];
}

static uint64_t rep_movsb(uint64_t n)
{
    while (n-- > 0)
        for (unsigned i = 0; i < 32; i++) {
            void *d = to;
            const void *s = from;
            uint64_t c = 16384 - i;
            __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(c) : : "memory");
        }
    return to[99];
}

static uint64_t rep_stosb(uint64_t n)
{
    while (n-- > 0)
        for (unsigned i = 0; i < 32; i++) {
            void *d = to;
            uint64_t c = 16384 - i;
            __asm__ volatile("rep stosb" : "+D"(d), "+c"(c) : "a"(i) : "memory");
        }
    return to[99];
}

const struct work work_mem[] = {
    {"memcpy", "mem", work_memcpy},
    {"rep_movsb", "mem", rep_movsb},
    {"rep_stosb", "mem", rep_stosb},
    {0},
};
