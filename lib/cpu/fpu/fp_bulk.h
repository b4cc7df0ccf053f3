/* SPDX-License-Identifier: BSD-2-Clause */
/* Copying and filling guest memory through the host's vector registers. */
#ifndef FP_BULK_H
#define FP_BULK_H

#include "cpu/fpu/fp_int.h"

/* The longest piece of memory that is read before any of it is written. */
#define VMCI_FP_BULK_STEP 128u

/* May the two be used for this guest now? */
bool vmci_fp_bulk(const struct vmci_cpu *cpu);
/*
 * Like REP MOVS upwards in elements of 1 to 8 bytes, a whole number of them, where the destination
 * does not begin 1 to VMCI_FP_BULK_STEP - 1 bytes behind the source. Each byte is written once.
 */
void vmci_fp_bulk_copy(void *to, const void *from, size_t bytes);
/* Like REP STOS upwards; the pattern is the element, repeated. */
void vmci_fp_bulk_fill(void *to, uint64_t pattern, size_t bytes);

#endif
