/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef PACK_PRIV_H
#define PACK_PRIV_H

#include "pack/pack_int.h"

/* Only on hosts with AVX2 whose operating system saves its registers. */
uint64_t vmci_page_hash_avx2(const void *page, uint64_t seed);

#endif
