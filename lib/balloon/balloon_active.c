/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Working sets from samples. The maximum of three averages (Waldspurger 2002, 5.3): a slow one, so
 * that memory is not taken away at the first pause, a fast one, and the fast one with the period
 * under way counted in, so that a VM that wakes up is seen at once.
 */
#include "base/base_int.h"
#include <vmcore/balloon.h>

/* An exponential average remembers about n periods when a new sample weighs 1 / n. */
static uint32_t shift_of(uint32_t periods, uint32_t fallback)
{
    uint32_t shift = 0;

    if (periods == 0)
        periods = fallback;
    while (shift < 10 && (2u << shift) <= periods)
        shift++;
    return shift;
}

void vmc_active_init(struct vmc_active *a, uint32_t slow, uint32_t fast)
{
    *a = (struct vmc_active){.slow = VMC_ACTIVE_ONE,
                             .fast = VMC_ACTIVE_ONE,
                             .current = VMC_ACTIVE_ONE,
                             .slow_shift = shift_of(slow, 16),
                             .fast_shift = shift_of(fast, 2)};
}

static uint32_t fraction(uint64_t sampled, uint64_t touched)
{
    touched = VMCI_MIN(touched, sampled);
    while (sampled >> 38 != 0) { /* so that the product fits */
        sampled >>= 1;
        touched >>= 1;
    }
    return (uint32_t)(touched * VMC_ACTIVE_ONE / sampled);
}

static uint32_t toward(uint32_t old, uint32_t sample, uint32_t shift)
{
    int64_t step = (int64_t)sample - (int64_t)old;
    int64_t round = (int64_t)1 << shift >> 1;

    return (uint32_t)((int64_t)old + ((step + (step < 0 ? -round : round)) >> shift));
}

void vmc_active_sample(struct vmc_active *a, uint64_t sampled, uint64_t touched)
{
    if (sampled == 0)
        return;
    uint32_t f = fraction(sampled, touched);
    a->slow = a->primed ? toward(a->slow, f, a->slow_shift) : f;
    a->fast = a->primed ? toward(a->fast, f, a->fast_shift) : f;
    a->current = a->fast;
    a->primed = 1;
}

void vmc_active_peek(struct vmc_active *a, uint64_t sampled, uint64_t touched)
{
    if (sampled == 0)
        return;
    a->current = toward(a->fast, fraction(sampled, touched), a->fast_shift);
}

uint64_t vmc_active_pages(const struct vmc_active *a, uint64_t pages)
{
    uint64_t f = VMCI_MAX(VMCI_MAX(a->slow, a->fast), a->current);

    pages = VMCI_MIN(pages, VMC_BALLOON_MAX_PAGES - 1);
    return (pages * f + VMC_ACTIVE_ONE - 1) / VMC_ACTIVE_ONE;
}

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* One page from each of count equal strata: distinct and ascending by construction. */
size_t vmc_active_pick(uint64_t pages, uint64_t seed, uint64_t *out, size_t count)
{
    pages = VMCI_MIN(pages, VMC_BALLOON_MAX_PAGES);
    count = VMCI_MIN(count, (size_t)VMCI_MIN(pages, (uint64_t)VMC_BALLOON_MAX_VMS));
    for (size_t i = 0; i < count; i++) {
        uint64_t first = pages * i / count;
        uint64_t end = pages * (i + 1) / count;
        out[i] = first + mix(&seed) % (end - first);
    }
    return count;
}
