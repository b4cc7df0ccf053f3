/* SPDX-License-Identifier: BSD-2-Clause */
/* The hint table: two-choice buckets of one cache line. */
#include "sharing/sharing_priv.h"

/* The compiler's own vectors: its header for SSE includes others, which a kernel has not. */
typedef uint32_t share_words __attribute__((vector_size(16), may_alias));
typedef float share_signs __attribute__((vector_size(16)));

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

/* Narrow: the tag's bits above the reference. */
static uint32_t above(const struct share_table *t, uint32_t tag)
{
    return tag << (t->value_bits + 1);
}

static bool wide(const struct share_table *t)
{
    return t->ways == SHARE_WIDE_WAYS;
}

static uint8_t *tags(struct share_bucket *b)
{
    return (uint8_t *)&b->word[SHARE_WIDE_WAYS];
}

int share_table_init(const struct vmc_platform *pf, struct share_table *t, uint64_t entries,
                     uint32_t limit)
{
    unsigned bits = 32u - (unsigned)__builtin_clz(limit | 1); /* an entry of all ones is none */
    bool narrow = bits + 1 + SHARE_TAG_BITS <= 32;
    unsigned ways = narrow ? SHARE_WORDS : SHARE_WIDE_WAYS;
    uint64_t buckets = entries * 100 / (SHARE_FILL * ways) + 16;
    struct share_bucket *b = vmci_alloc_aligned(pf, buckets * sizeof(*b), VMCI_CACHELINE);

    if (b == NULL)
        return VMC_ENOMEM;
    memset(b, 0xff, buckets * sizeof(*b));
    *t = (struct share_table){
        .bucket = b, .buckets = buckets, .value_bits = narrow ? bits : 31, .ways = ways};
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

/* Which words of a bucket are want, of the bits in mask? A bit for each. */
static uint32_t alike(const struct share_bucket *b, uint32_t want, uint32_t mask)
{
    const share_words *v = (const share_words *)(const void *)b->word;
    uint32_t bits = 0;

    for (unsigned i = 0; i < SHARE_WORDS / 4; i++) {
        share_words is = (share_words)((v[i] & mask) == want);
        bits |= (uint32_t)__builtin_ia32_movmskps((share_signs)is) << (4 * i);
    }
    return bits;
}

/* Those that are entries, and not tags. */
static uint32_t ways_of(const struct share_table *t)
{
    return (1u << t->ways) - 1;
}

static unsigned find_in(const struct share_table *t, struct share_bucket *b, uint32_t tag,
                        struct share_slot *out, unsigned n, unsigned most)
{
    uint32_t fits = 0;

    if (wide(t)) {
        const uint8_t *tg = tags(b);
        for (unsigned w = 0; w < SHARE_WIDE_WAYS; w++)
            fits |= (uint32_t)(tg[w] == (uint8_t)tag) << w;
    } else {
        fits = alike(b, above(t, tag), above(t, UINT32_MAX));
    }
    for (; fits != 0 && n < most; fits &= fits - 1) {
        unsigned w = (unsigned)__builtin_ctz(fits);
        if (b->word[w] != SHARE_EMPTY)
            out[n++] = (struct share_slot){.bucket = b, .way = w};
    }
    return n;
}

unsigned share_table_find(const struct share_table *t, uint64_t hash, struct share_slot *out,
                          unsigned most)
{
    if (t->buckets == 0)
        return 0;
    struct share_bucket *a = first(t, hash), *b = second(t, hash);
    unsigned n = find_in(t, a, (uint32_t)hash, out, 0, most);
    return a == b || n == most ? n : find_in(t, b, (uint32_t)hash, out, n, most);
}

static unsigned used(const struct share_table *t, const struct share_bucket *b, unsigned *hole)
{
    uint32_t empty = alike(b, SHARE_EMPTY, UINT32_MAX) & ways_of(t);

    if (empty != 0)
        *hole = (unsigned)__builtin_ctz(empty);
    return t->ways - (unsigned)__builtin_popcount(empty);
}

static uint32_t word_of(const struct share_table *t, uint32_t ref)
{
    if (wide(t))
        return ref;
    uint32_t object = 1u << t->value_bits;
    return (ref & (object - 1)) | ((ref & SHARE_OBJECT) != 0 ? object : 0);
}

void share_slot_set(const struct share_table *t, const struct share_slot *s, uint32_t ref)
{
    uint32_t *w = &s->bucket->word[s->way];
    uint32_t tag = wide(t) ? 0 : *w & above(t, UINT32_MAX);

    *w = word_of(t, ref) | tag;
}

static void put(const struct share_table *t, struct share_bucket *b, unsigned way, uint64_t hash,
                uint32_t ref)
{
    b->word[way] = word_of(t, ref) | (wide(t) ? 0 : above(t, (uint32_t)hash));
    if (wide(t))
        tags(b)[way] = (uint8_t)hash;
}

bool share_table_add(struct share_table *t, uint64_t hash, uint32_t ref)
{
    struct share_bucket *a = first(t, hash), *b = second(t, hash);
    unsigned ha = 0, hb = 0, na = used(t, a, &ha), nb = used(t, b, &hb);

    if (na < t->ways || nb < t->ways) {
        put(t, na <= nb ? a : b, na <= nb ? ha : hb, hash, ref);
        t->count++;
        return false;
    }
    /* Full: a page's hint gives way; it is found again when it is written, or by a later pass. */
    for (unsigned i = 0; i < t->ways; i++) {
        struct share_slot s = {.bucket = a, .way = (unsigned)((hash >> 32) + i) % t->ways};
        if ((share_slot_ref(t, &s) & SHARE_OBJECT) == 0 || (ref & SHARE_OBJECT) != 0) {
            put(t, a, s.way, hash, ref);
            break;
        }
    }
    return true;
}
