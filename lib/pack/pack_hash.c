/* SPDX-License-Identifier: BSD-2-Clause */
/* Page hashes and the zero test. */
#define XXH_INLINE_ALL
#define XXH_NO_STDLIB
#include <cpuid.h>
#include <xxhash.h>
#include "pack/pack_priv.h"

static uint64_t hash_baseline(const void *page, uint64_t seed)
{
    return XXH3_64bits_withSeed(page, VMC_PAGE_SIZE, seed);
}

/* SDM 1 14.7.1: AVX2 may be used when XCR0 says that SSE and AVX state is saved. */
static bool have_avx2(void)
{
    uint32_t a, b, c, d, xcr0, high;

    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & bit_OSXSAVE) == 0 || (c & bit_AVX) == 0)
        return false;
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    return (xcr0 & 6) == 6 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2) != 0;
}

vmci_page_hash_fn vmci_page_hash_best(void)
{
    return have_avx2() ? vmci_page_hash_avx2 : hash_baseline;
}

/* Most pages that are not zero differ in the first line; the rest goes in runs the compiler can
 * vectorise. */
bool vmci_page_is_zero(const void *page)
{
    const uint64_t *w = page;

    if ((w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]) != 0)
        return false;
    for (unsigned i = 8; i < VMC_PAGE_SIZE / 8; i += 8) {
        uint64_t any = 0;
        for (unsigned k = 0; k < 8; k++)
            any |= w[i + k];
        if (any != 0)
            return false;
    }
    return true;
}
