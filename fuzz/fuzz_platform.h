/* SPDX-License-Identifier: BSD-2-Clause */
/* What fuzz targets give the library: the heap, a clock that they set, and no patience with bugs. */
#ifndef FUZZ_PLATFORM_H
#define FUZZ_PLATFORM_H

#include <stdio.h>
#include <stdlib.h>

#include <vmcore/platform.h>

static inline void *fuzz_alloc(void *ctx, size_t bytes, size_t align)
{
    void *p = NULL;

    (void)ctx;
    return posix_memalign(&p, align < sizeof(p) ? sizeof(p) : align, bytes) == 0 ? p : NULL;
}

static inline void fuzz_free(void *ctx, void *p, size_t bytes, size_t align)
{
    (void)ctx;
    (void)bytes;
    (void)align;
    free(p);
}

/* ctx is the time, or NULL for a clock that stands still. */
static inline uint64_t fuzz_now(void *ctx)
{
    return ctx != NULL ? *(const uint64_t *)ctx : 0;
}

static inline void fuzz_bug(void *ctx, const char *file, int line, const char *text)
{
    (void)ctx;
    fprintf(stderr, "%s:%d: %s\n", file, line, text);
    abort();
}

#define FUZZ_PLATFORM(clock)                                                                       \
    {                                                                                              \
        .size = sizeof(struct vmc_platform), .ctx = (clock), .alloc = fuzz_alloc,                  \
        .free = fuzz_free, .now_ns = fuzz_now, .bug = fuzz_bug                                     \
    }

#endif
