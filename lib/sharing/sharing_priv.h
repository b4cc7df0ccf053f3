/* SPDX-License-Identifier: BSD-2-Clause */
/* The hint table, the similarity index, and the scanner around them. */
#ifndef SHARING_PRIV_H
#define SHARING_PRIV_H

#include "pages/pages_int.h"
#include <vmcore/sharing.h>

/* ---- hint table (share_table.c) ----------------------------------------------------------------
 */

/*
 * Where pages of a hash may be found. A bucket is one cache line; each hash has two buckets, so
 * that the table can be filled to 88 %. Hints are never trusted, so an entry keeps only a few bits
 * of the hash, its tag. In pools small enough that a reference leaves 8 bits of a word, these are
 * the tag: 16 entries a bucket, 4.5 bytes each. Otherwise tags are bytes of their own: 12
 * entries, 6.1 bytes.
 */
#define SHARE_WORDS     16u
#define SHARE_WIDE_WAYS 12u
#define SHARE_FILL      88u         /* percent */
#define SHARE_OBJECT    0x80000000u /* an object; else a page in the pool's numbering */
#define SHARE_EMPTY     UINT32_MAX
#define SHARE_TAG_BITS  8u /* at least */

struct share_bucket {
    uint32_t word[SHARE_WORDS]; /* wide: the last ones are bytes of tags */
};
_Static_assert(sizeof(struct share_bucket) == 64, "a bucket is a cache line");

struct share_table {
    struct share_bucket *bucket;
    uint64_t buckets;
    uint64_t count;      /* entries */
    unsigned value_bits; /* of a page's or an object's number; 31: wide */
    unsigned ways;
};

/* One of the places where a hash may be: of both buckets of the newer and the older table. */
struct share_slot {
    struct share_bucket *bucket;
    unsigned way;
};

/* For numbers of pages and objects below limit. */
int share_table_init(const struct vmc_platform *pf, struct share_table *t, uint64_t entries,
                     uint32_t limit);
void share_table_fini(const struct vmc_platform *pf, struct share_table *t);
static inline uint64_t share_table_bytes(const struct share_table *t)
{
    return t->buckets * sizeof(struct share_bucket);
}
static inline uint64_t share_table_room(const struct share_table *t)
{
    return t->buckets * t->ways * SHARE_FILL / 100;
}
void share_table_prefetch(const struct share_table *t, uint64_t hash);
/* Entries whose tag fits, at most most of them. */
unsigned share_table_find(const struct share_table *t, uint64_t hash, struct share_slot *out,
                          unsigned most);
/* true: another hint had to go. Objects are not displaced by pages. */
bool share_table_add(struct share_table *t, uint64_t hash, uint32_t ref);
/* What an entry refers to, or SHARE_EMPTY. */
static inline uint32_t share_slot_ref(const struct share_table *t, const struct share_slot *s)
{
    uint32_t w = s->bucket->word[s->way], object = 1u << t->value_bits;

    if (t->ways == SHARE_WIDE_WAYS || w == SHARE_EMPTY)
        return w;
    return (w & (object - 1)) | ((w & object) != 0 ? SHARE_OBJECT : 0);
}
/* Is it one of this table, that still refers to the same? */
static inline bool share_slot_holds(const struct share_table *t, const struct share_slot *s,
                                    uint32_t ref)
{
    uintptr_t at = (uintptr_t)s->bucket - (uintptr_t)t->bucket;

    return at < share_table_bytes(t) && share_slot_ref(t, s) == ref;
}
/* The same tag, another reference. */
void share_slot_set(const struct share_table *t, const struct share_slot *s, uint32_t ref);
static inline void share_slot_clear(struct share_table *t, const struct share_slot *s)
{
    s->bucket->word[s->way] = SHARE_EMPTY;
    t->count--;
}

/* ---- similarity (share_similar.c) -------------------------------------------------------------
 */

#define SIM_FEATURES 4u
#define SIM_BITS_MIN 12u
#define SIM_BITS_MAX 22u
#define SIM_TAG_BITS 8u /* of an entry: which feature of those that belong there it is */

/*
 * A cache of features of pages that others may be stored as differences to: an object's number
 * above the tag. Objects with larger numbers than there is room for are not in it.
 */
struct share_sim_index {
    uint32_t *entry; /* 2^bits, allocated with the first page */
    unsigned bits;
};

void share_sim_features(const void *page, uint32_t *f);
/* An index that suits so many pages; one that does so already stays as it is. */
int share_sim_init(const struct vmc_platform *pf, struct share_sim_index *x, uint64_t pages);
void share_sim_fini(const struct vmc_platform *pf, struct share_sim_index *x);
static inline uint64_t share_sim_bytes(const struct share_sim_index *x)
{
    return x->entry != NULL ? sizeof(uint32_t) << x->bits : 0;
}
void share_sim_add(struct share_sim_index *x, const uint32_t *f, uint32_t object);
/* The object with most features in common, or VMCI_NONE. It may be gone or something else by now.
 */
uint32_t share_sim_find(const struct share_sim_index *x, const uint32_t *f);

/* ---- scanner -----------------------------------------------------------------------------------
 */

/* Spaces of one salt. Nothing passes from one group to another. */
struct share_group {
    uint64_t salt, seed;
    uint8_t mark; /* of its objects */
    struct share_table table;
    struct share_table old; /* being emptied into table; no buckets: none */
    uint64_t moved;         /* buckets of old that are empty */
    struct share_sim_index sim;
};

#define SHARE_PACKED_MOST (VMCI_PACK_MAX - 64u) /* bytes that fit into a slot of the store */

/*
 * So many that the processor reads them as one stream, few enough that they are still in the second
 * level of its cache when they are compared.
 */
#define SHARE_BATCH 64u

/*
 * Bytes of a page that are asked for two pages ahead, the whole one page ahead. Processors drop
 * requests to fetch ahead that miss the TLB, or come faster than they can be noted: of a page that
 * was not asked for before, most of them. The first ones bring the translation.
 */
#define SHARE_FIRST_PART (VMC_PAGE_SIZE / 8)

/* A page on its way. */
struct share_page {
    struct vmc_space *space;
    struct share_group *group; /* NULL: no memory for one */
    uint64_t page, hash;
    uint32_t entry;
    struct share_slot slot; /* of its first candidate */
    uint32_t like;          /* where that seems to be, or SHARE_EMPTY */
    bool zero;
};

struct share_cursor {
    uint32_t space; /* index */
    uint64_t word;
};

/*
 * A pass over all spaces in sequence, abreast: some words of each, then the next ones. Guests of a
 * kind have much at about the same places, so that what a page is compared with was often read
 * moments ago and is in the processor's cache still.
 */
struct share_pass {
    uint64_t from, word; /* of dirty bits: where all are, the next one of the space at hand */
    uint32_t at, count;
    uint32_t longer; /* of the first so many, those that go on */
    uint16_t index[VMC_POOL_MAX_SPACES];
};

struct vmc_share {
    struct vmc_pool *pool;
    vmci_page_hash_fn hash;
    uint64_t seed;
    uint32_t order, max_packed;
    struct share_group **group;
    uint32_t groups, group_cap;
    uint16_t group_of[VMC_POOL_MAX_SPACES]; /* + 1; by index of the space that was there then */

    struct share_pass seq; /* sequential */
    uint64_t random;       /* state of the random order */
    uint32_t window;       /* windows so far */
    uint32_t yield[2];     /* average finds per 1024 pages: sequential, random */
    struct share_page batch[SHARE_BATCH];
    unsigned batched;

    struct vmci_packer *packer;
    unsigned char *scratch; /* 4 pages */
    struct share_cursor pack;
    uint32_t pack_object; /* next object to look at */
    bool pack_objects;    /* the pass is at objects now */

    struct vmc_share_stats stat;
};

/*
 * A page that its guest may be writing. What is read of it then leads to nothing worse than a
 * comparison in vain, when nobody can write it.
 */
static inline const void *share_look(struct vmc_share *sh, const void *frame)
{
#ifdef VMCI_SEES_RACES
    vmci_copy_racing(sh->scratch, frame, VMC_PAGE_SIZE);
    return sh->scratch;
#else
    (void)sh;
    return frame;
#endif
}

/* The group of a space; NULL: no memory. */
struct share_group *share_group_of(struct vmc_share *sh, const struct vmc_space *s);
/* The mark of its objects: they find their group by it, to be stored as differences within it. */
uint8_t share_mark(const struct vmc_share *sh, const struct vmc_space *s);
/*
 * (p) Is the object one of the group's? Hints do not know when its number is used anew, for
 * contents of another group. Groups beyond the number of marks cannot tell, and use no object
 * again.
 */
static inline bool share_is_ours(uint8_t mark, const struct vmci_object *o)
{
    return vmci_object_kind(o) != VMCI_O_FREE && o->mark != VMCI_NO_MARK && o->mark == mark;
}
/* Make room for more entries, or go on moving an old table. */
void share_group_reserve(struct vmc_share *sh, struct share_group *g, uint64_t more);
void share_group_move(struct vmc_share *sh, struct share_group *g, unsigned buckets);
/* The group's index of similar pages, as large as its spaces need it by now. */
int share_group_index(struct vmc_share *sh, struct share_group *g);
/* Into the cache: what tells where the contents are that a hint leads to; their first bytes. */
void share_fetch_entry(struct vmc_share *sh, uint32_t ref);
void share_fetch_page(struct vmc_share *sh, uint32_t ref, unsigned bytes);
/* Merge, or add as hints, what is in the batch. */
void share_flush(struct vmc_share *sh, struct vmc_share_result *out);

#endif
