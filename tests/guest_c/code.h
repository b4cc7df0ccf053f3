/* SPDX-License-Identifier: BSD-2-Clause */
/* How kernels of random programs write code: byte after byte, behind at. */
#ifndef CODE_H
#define CODE_H
#include <stdint.h>

static uint8_t *at; /* of the next byte */

static inline void b(unsigned v)
{
    *at++ = (uint8_t)v;
}
static inline void w(unsigned v)
{
    b(v);
    b(v >> 8);
}
static inline void d(uint32_t v)
{
    w(v);
    w(v >> 16);
}
static inline void q(uint64_t v)
{
    d((uint32_t)v);
    d((uint32_t)(v >> 32));
}

#endif
