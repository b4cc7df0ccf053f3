/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef HW_STDLIB_H
#define HW_STDLIB_H

#include <stddef.h>

void *hw_alloc(size_t align, size_t bytes);
void hw_free(void *p);
const char *hw_getenv(const char *name);

#define aligned_alloc hw_alloc
#define free(p)       hw_free(p)
#define getenv        hw_getenv

#endif
