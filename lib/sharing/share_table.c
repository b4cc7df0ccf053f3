/* SPDX-License-Identifier: BSD-2-Clause */
/* The hint table: two-choice buckets of one cache line. */
#include "sharing/sharing_priv.h"

static uint64_t mulhi(uint64_t a, uint64_t b)
{
    __extension__ unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)(p >> 64);
}

static struct share_bucket *first(const struct share_table *t, uint64_t hash)
{
    return &t->bucket[mulhi(hash, t->buckets)];
}

static struct share_bucket *second(const struct share_table *t, uint64_t hash)
{
    return &t->bucket[mulhi(hash * 0x9e3779b97f4a7c15ull, t->buckets)];
}

static uint8_t tag_of(uint64_t hash)
{
    return (uint8_t)hash;
}

int share_table_init(const struct vmc_platform *pf, struct share_table *t, uint64_t entries)
{
    uint64_t buckets = entries * 100 / (SHARE_FILL * SHARE_WAYS) + 16;
    struct share_bucket *b = vmci_alloc_aligned(pf, buckets * sizeof(*b), VMCI_CACHELINE);

    if (b == NULL)
        return VMC_ENOMEM;
    memset(b, 0xff, buckets * sizeof(*b));
    *t = (struct share_table){.bucket = b, .buckets = buckets};
    return VMC_OK;
}

void share_table_fini(const struct vmc_platform *pf, struct share_table *t)
{
    vmci_free_aligned(pf, t->bucket, t->buckets * sizeof(t->bucket[0]), VMCI_CACHELINE);
    *t = (struct share_table){0};
}

void share_table_prefetch(const struct share_table *t, uint64_t hash)
{
    if (t->buckets == 0)
        return;
    __builtin_prefetch(first(t, hash), 1);
    __builtin_prefetch(second(t, hash), 1);
}

static unsigned find_in(struct share_bucket *b, uint8_t tag, struct share_slot *out, unsigned n,
                        unsigned most)
{
    for (unsigned w = 0; w < SHARE_WAYS && n < most; w++)
        if (b->tag[w] == tag && b->ref[w] != SHARE_EMPTY)
            out[n++] = (struct share_slot){.bucket = b, .way = w};
    return n;
}

unsigned share_table_find(const struct share_table *t, uint64_t hash, struct share_slot *out,
                          unsigned most)
{
    if (t->buckets == 0)
        return 0;
    struct share_bucket *a = first(t, hash), *b = second(t, hash);
    unsigned n = find_in(a, tag_of(hash), out, 0, most);
    return a == b ? n : find_in(b, tag_of(hash), out, n, most);
}

static unsigned used(const struct share_bucket *b, unsigned *hole)
{
    unsigned n = 0;

    for (unsigned w = 0; w < SHARE_WAYS; w++) {
        if (b->ref[w] != SHARE_EMPTY)
            n++;
        else
            *hole = w;
    }
    return n;
}

static void put(struct share_bucket *b, unsigned way, uint64_t hash, uint32_t ref)
{
    b->ref[way] = ref;
    b->tag[way] = tag_of(hash);
}

bool share_table_add(struct share_table *t, uint64_t hash, uint32_t ref)
{
    struct share_bucket *a = first(t, hash), *b = second(t, hash);
    unsigned ha = 0, hb = 0, na = used(a, &ha), nb = used(b, &hb);

    if (na < SHARE_WAYS || nb < SHARE_WAYS) {
        put(na <= nb ? a : b, na <= nb ? ha : hb, hash, ref);
        t->count++;
        return false;
    }
    /* Full: a page's hint gives way; it is found again when it is written, or by a later pass. */
    for (unsigned i = 0; i < SHARE_WAYS; i++) {
        unsigned w = a->turn++ % SHARE_WAYS;
        if ((a->ref[w] & SHARE_OBJECT) == 0 || (ref & SHARE_OBJECT) != 0) {
            put(a, w, hash, ref);
            break;
        }
    }
    return true;
}
