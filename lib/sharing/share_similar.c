/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Similar pages: a page is the set of its 64-byte lines; of several keyed orders of all possible
 * lines, the smallest line present is a feature (min-wise hashing, Broder 1997). Two pages that
 * have a part r of their lines in common have each feature in common with probability r.
 */
#include "sharing/sharing_priv.h"

#define LINE 64u

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
        if ((w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]) == 0)
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

int share_sim_init(const struct vmc_platform *pf, struct share_sim_index *x)
{
    if (x->entry != NULL)
        return VMC_OK;
    x->entry =
        vmci_alloc_aligned(pf, share_sim_bytes(&(struct share_sim_index){.entry = (void *)x}), 64);
    if (x->entry == NULL)
        return VMC_ENOMEM;
    memset(x->entry, 0xff, share_sim_bytes(x));
    return VMC_OK;
}

void share_sim_fini(const struct vmc_platform *pf, struct share_sim_index *x)
{
    vmci_free_aligned(pf, x->entry, share_sim_bytes(x), 64);
    x->entry = NULL;
}

static struct share_sim_entry *at(const struct share_sim_index *x, uint32_t feature)
{
    return &x->entry[feature >> (32 - SIM_BITS)];
}

void share_sim_add(struct share_sim_index *x, const uint32_t *f, uint32_t object)
{
    for (unsigned k = 0; k < SIM_FEATURES; k++)
        *at(x, f[k]) = (struct share_sim_entry){.feature = f[k], .object = object};
}

uint32_t share_sim_find(const struct share_sim_index *x, const uint32_t *f)
{
    uint32_t best = VMCI_NONE;
    unsigned votes = 0;

    for (unsigned k = 0; k < SIM_FEATURES; k++) {
        const struct share_sim_entry *e = at(x, f[k]);
        unsigned n = 0;
        if (e->feature != f[k] || e->object == VMCI_NONE)
            continue;
        for (unsigned j = 0; j < SIM_FEATURES; j++)
            n += at(x, f[j])->feature == f[j] && at(x, f[j])->object == e->object;
        if (n > votes) {
            votes = n;
            best = e->object;
        }
    }
    return best;
}
