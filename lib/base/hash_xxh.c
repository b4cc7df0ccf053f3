/* SPDX-License-Identifier: BSD-2-Clause */
/* The only file that includes xxHash. Its scalar form: lib/ uses no vector registers. */
#include "base/base_int.h" /* first: it names the mem* functions that xxhash.h uses */
#define XXH_INLINE_ALL
#define XXH_VECTOR 0
#define XXH_NO_STDLIB
#include <xxhash.h>

uint64_t vmci_hash64(const void *data, size_t bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, bytes, seed);
}

struct vmci_hash128 vmci_hash128(const void *data, size_t bytes, uint64_t seed)
{
    XXH128_hash_t h = XXH3_128bits_withSeed(data, bytes, seed);
    return (struct vmci_hash128){.lo = h.low64, .hi = h.high64};
}
