/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef HW_MMAN_H
#define HW_MMAN_H

#include <stdlib.h>

#define MAP_FAILED ((void *)0)
#define PROT_READ  0
#define PROT_WRITE 0
#define MAP_PRIVATE 0
#define MAP_ANONYMOUS 0
#define mmap(at, bytes, prot, flags, fd, off) hw_alloc_zeroed(bytes)
#define munmap(p, bytes) hw_free(p)
void *hw_alloc_zeroed(size_t bytes);

#endif
