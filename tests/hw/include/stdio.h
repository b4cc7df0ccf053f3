/* SPDX-License-Identifier: BSD-2-Clause */
/* As much of C's library as the conformance suite uses, on the bare-metal kernel. */
#ifndef HW_STDIO_H
#define HW_STDIO_H

#include <stddef.h>
#include <stdint.h>

#include <vmcore/baremetal.h>

#define printf       vmc_bm_printf
#define fprintf(f, ...) vmc_bm_printf(__VA_ARGS__)
#define fflush(f)    ((void)0)

#endif
