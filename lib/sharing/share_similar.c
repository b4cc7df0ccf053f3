/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Similar pages: a page is the set of its 32-byte lines; of several keyed orders of all possible
 * lines, the smallest line present is a feature (min-wise hashing, Broder 1997). Two pages that
 * have a part r of their lines in common have each feature in common with probability r.
 */
#include "sharing/sharing_priv.h"

#define LINE 32u

static uint64_t line_hash(const uint64_t *w)
{
    uint64_t h = 0;

    for (unsigned i = 0; i < LINE / 8; i++)
        h = ((h ^ w[i]) * 0x9fb21c651e98df25ull) ^ (h >> 29);
    return h ^ h >> 32;
}

void share_sim_features(const void *page, uint32_t *f)
{
    static const uint64_t key[SIM_FEATURES] = {0x9e3779b97f4a7c15ull, 0xc2b2ae3d27d4eb4full,
                                               0x165667b19e3779f9ull, 0x27d4eb2f165667c5ull};
    const uint64_t *w = page;
    uint64_t least[SIM_FEATURES] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};

    for (unsigned i = 0; i < VMC_PAGE_SIZE / LINE; i++, w += LINE / 8) {
        if ((w[0] | w[1] | w[2] | w[3]) == 0)
            continue; /* every page has these */
        uint64_t h = line_hash(w);
        for (unsigned k = 0; k < SIM_FEATURES; k++) {
            uint64_t v = h * key[k];
            v ^= v >> 31;
            least[k] = v < least[k] ? v : least[k];
        }
    }
    for (unsigned k = 0; k < SIM_FEATURES; k++)
        f[k] = (uint32_t)(least[k] * 0xff51afd7ed558ccdull >> 32) ^ k;
}

/* Up to an entry for each page; of those that others may refer to, each has four. */
static unsigned bits_for(uint64_t pages)
{
    unsigned bits = SIM_BITS_MIN;

    while (bits < SIM_BITS_MAX && (2ull << bits) <= pages)
        bits++;
    return bits;
}

int share_sim_init(const struct vmc_platform *pf, struct share_sim_index *x, uint64_t pages)
{
    struct share_sim_index n = {.bits = bits_for(pages)};

    if (x->entry != NULL && n.bits <= x->bits)
        return VMC_OK;
    n.entry = vmci_alloc_aligned(pf, sizeof(n.entry[0]) << n.bits, 64);
    if (n.entry == NULL)
        return x->entry != NULL ? VMC_OK : VMC_ENOMEM;
    memset(n.entry, 0xff, share_sim_bytes(&n));
    share_sim_fini(pf, x); /* entries cannot be moved: they do not keep the feature */
    *x = n;
    return VMC_OK;
}

void share_sim_fini(const struct vmc_platform *pf, struct share_sim_index *x)
{
    vmci_free_aligned(pf, x->entry, share_sim_bytes(x), 64);
    x->entry = NULL;
}

#define OBJECTS (UINT32_MAX >> SIM_TAG_BITS) /* that have room in an entry */

static uint32_t *at(const struct share_sim_index *x, uint32_t feature)
{
    return &x->entry[feature >> (32 - x->bits)];
}

static uint32_t entry_of(uint32_t feature, uint32_t object)
{
    return object << SIM_TAG_BITS | (feature & ((1u << SIM_TAG_BITS) - 1));
}

/* VMCI_NONE: another feature is there, or none. */
static uint32_t object_at(const struct share_sim_index *x, uint32_t feature)
{
    uint32_t e = *at(x, feature), object = e >> SIM_TAG_BITS;

    return object < OBJECTS && e == entry_of(feature, object) ? object : VMCI_NONE;
}

void share_sim_add(struct share_sim_index *x, const uint32_t *f, uint32_t object)
{
    for (unsigned k = 0; k < SIM_FEATURES && object < OBJECTS; k++)
        *at(x, f[k]) = entry_of(f[k], object);
}

uint32_t share_sim_find(const struct share_sim_index *x, const uint32_t *f)
{
    uint32_t object[SIM_FEATURES], best = VMCI_NONE;
    unsigned votes = 0;

    for (unsigned k = 0; k < SIM_FEATURES; k++)
        object[k] = object_at(x, f[k]);
    for (unsigned k = 0; k < SIM_FEATURES; k++) {
        unsigned n = 0;
        for (unsigned j = 0; j < SIM_FEATURES; j++)
            n += object[j] == object[k];
        if (object[k] != VMCI_NONE && n > votes) {
            votes = n;
            best = object[k];
        }
    }
    return best;
}
