/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Base types and attributes that every public header uses.
 */
#ifndef VMCORE_TYPES_H
#define VMCORE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define VMC_BEGIN_DECLS extern "C" {
#define VMC_END_DECLS   }
#else
#define VMC_BEGIN_DECLS
#define VMC_END_DECLS
#endif

/** Marks a symbol that the shared library exports. */
#define VMC_API __attribute__((visibility("default")))
/** The result carries an error that a caller has to look at. */
#define VMC_MUST_CHECK __attribute__((warn_unused_result))
/** printf-style checking for message functions. */
#define VMC_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))

/** Alignment of a member, in C and C++. */
#define VMC_ALIGNED(n) __attribute__((aligned(n)))

#define VMC_PAGE_SHIFT 12
#define VMC_PAGE_SIZE  4096u

#endif
