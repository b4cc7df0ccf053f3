/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames: a bitmap of the free ones, searched from where the last search ended. */
#include "pages/pages_int.h"

#define BLOCK       512u /* frames of 2 MiB */
#define BLOCK_WORDS (BLOCK / 64)

#define STORE_RESERVE (8 * VMCI_SLAB_FRAMES)

static uint64_t words(const struct vmc_pool *p)
{
    return VMCI_BITMAP_WORDS(p->frames);
}

static uint64_t blocks(const struct vmc_pool *p)
{
    return (p->frames + BLOCK - 1) / BLOCK;
}

/* Metadata is accounted wherever it is allocated. */
void vmci_pool_meta(struct vmc_pool *p, int64_t bytes)
{
    (void)vmci_fetch_add(&p->meta_bytes, (uint64_t)bytes);
}

static void put_free(struct vmc_pool *p, uint64_t frame)
{
    vmci_bit_set(p->free, frame);
    if (++p->in_block[frame / BLOCK] == BLOCK)
        vmci_bit_set(p->whole, frame / BLOCK);
}

/* All frames of a block are free, or none is. */
static void set_whole(struct vmc_pool *p, uint64_t block, bool free)
{
    memset(&p->free[block * BLOCK_WORDS], free ? 0xff : 0, BLOCK / 8);
    p->in_block[block] = free ? BLOCK : 0;
    if (free)
        vmci_bit_set(p->whole, block);
    else
        vmci_bit_clear(p->whole, block);
}

/* Frame 0 reads as zero for every page that has no memory. */
int vmci_frames_init(struct vmc_pool *p)
{
    p->free = vmci_zalloc(p->pf, words(p) * 8);
    p->given = vmci_zalloc(p->pf, VMCI_BITMAP_WORDS(blocks(p)) * 8);
    p->whole = vmci_zalloc(p->pf, VMCI_BITMAP_WORDS(blocks(p)) * 8);
    p->in_block = vmci_zalloc(p->pf, blocks(p) * sizeof(p->in_block[0]));
    if (p->free == NULL || p->given == NULL || p->whole == NULL || p->in_block == NULL)
        return VMC_ENOMEM;
    vmci_pool_meta(p, (int64_t)(words(p) * 8 + VMCI_BITMAP_WORDS(blocks(p)) * 16 +
                                blocks(p) * sizeof(p->in_block[0])));
    for (uint64_t f = 1; f < p->frames; f++)
        put_free(p, f);
    p->used = 1;
    memset(p->base, 0, VMC_PAGE_SIZE);
    return VMC_OK;
}

void vmci_frames_fini(struct vmc_pool *p)
{
    vmci_free(p->pf, p->free, words(p) * 8);
    vmci_free(p->pf, p->given, VMCI_BITMAP_WORDS(blocks(p)) * 8);
    vmci_free(p->pf, p->whole, VMCI_BITMAP_WORDS(blocks(p)) * 8);
    vmci_free(p->pf, p->in_block, blocks(p) * sizeof(p->in_block[0]));
}

/* The host has to back a block again. */
static void take_back(struct vmc_pool *p, uint64_t block)
{
    if (likely(!vmci_bit_test(p->given, block)))
        return;
    vmci_bit_clear(p->given, block);
    p->given_blocks--;
}

static void take(struct vmc_pool *p, uint64_t frame)
{
    vmci_bit_clear(p->free, frame);
    if (p->in_block[frame / BLOCK]-- == BLOCK)
        vmci_bit_clear(p->whole, frame / BLOCK);
    take_back(p, frame / BLOCK);
    vmci_store_relaxed(&p->used, p->used + 1);
}

/*
 * What compression needs before it frees anything: if pages could take the last frames, no page
 * could be compressed any more, and whoever waits for one would wait for ever. Small pools do
 * without.
 */
static uint64_t reserve(const struct vmc_pool *p)
{
    return p->frames >= 128 * STORE_RESERVE ? STORE_RESERVE : 0;
}

/* A frame while more than keep are left. */
static uint32_t alloc_above(struct vmc_pool *p, uint64_t keep)
{
    uint64_t n = words(p);

    if (p->used + keep >= vmci_load_relaxed(&p->budget))
        return VMCI_NONE;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t w = p->free_at + i < n ? p->free_at + i : p->free_at + i - n;
        if (p->free[w] == 0)
            continue;
        p->free_at = w;
        uint64_t frame = w * 64 + (unsigned)__builtin_ctzll(p->free[w]);
        take(p, frame);
        return (uint32_t)frame;
    }
    return VMCI_NONE;
}

uint32_t vmci_frame_alloc_locked(const struct vmc_space *s)
{
    return alloc_above(s->pool, s->finishing ? 0 : reserve(s->pool));
}

uint32_t vmci_frame_alloc_store(struct vmc_pool *p)
{
    return alloc_above(p, 0);
}

void vmci_frame_free_locked(struct vmc_pool *p, uint32_t frame)
{
    put_free(p, frame);
    vmci_store_relaxed(&p->used, p->used - 1);
}

uint32_t vmci_frame_alloc(const struct vmc_space *s)
{
    vmci_lock(&s->pool->lock);
    uint32_t f = vmci_frame_alloc_locked(s);
    vmci_unlock(&s->pool->lock);
    return f;
}

void vmci_frame_free(struct vmc_pool *p, uint32_t frame)
{
    vmci_lock(&p->lock);
    vmci_frame_free_locked(p, frame);
    vmci_unlock(&p->lock);
}

/* The first block from there on, going round, that is free as a whole; blocks(p): there is none. */
static uint64_t next_whole(const struct vmc_pool *p, uint64_t from)
{
    uint64_t n = VMCI_BITMAP_WORDS(blocks(p)), w = from / 64;
    uint64_t bits = p->whole[w] & (~0ull << (from % 64));

    for (uint64_t i = 0; i <= n && bits == 0; i++) {
        w = w + 1 < n ? w + 1 : 0;
        bits = p->whole[w];
    }
    return bits != 0 ? w * 64 + (unsigned)__builtin_ctzll(bits) : blocks(p);
}

uint32_t vmci_frame_alloc_block(struct vmc_pool *p)
{
    uint32_t found = VMCI_NONE;

    vmci_lock(&p->lock);
    bool room = p->used + BLOCK + reserve(p) <= vmci_load_relaxed(&p->budget);
    uint64_t b = room ? next_whole(p, p->free_at / BLOCK_WORDS) : blocks(p);
    if (b < blocks(p)) {
        set_whole(p, b, false);
        take_back(p, b);
        vmci_store_relaxed(&p->used, p->used + BLOCK);
        p->free_at = (b + 1) % (p->frames / BLOCK) * BLOCK_WORDS;
        found = (uint32_t)(b * BLOCK);
    }
    vmci_unlock(&p->lock);
    return found;
}

/* The first of count frames in a row, the last of which lies below end, or VMCI_NONE. */
static uint32_t find_run(const struct vmc_pool *p, uint64_t from, uint64_t end, uint32_t count)
{
    for (uint64_t f = from, run = 0; f < end; f++) {
        if (f % 64 == 0 && p->free[f / 64] == 0) {
            run = 0;
            f += 63;
            continue;
        }
        run = vmci_bit_test(p->free, f) ? run + 1 : 0;
        if (run == count)
            return (uint32_t)(f - count + 1);
    }
    return VMCI_NONE;
}

/* A look at so many frames is not long: then others have their turn, whoever wants such a run. */
#define RUN_LOOK 16384u

uint32_t vmci_frame_alloc_run(struct vmc_pool *p, uint32_t count)
{
    uint32_t found = VMCI_NONE;
    bool room = true;

    for (uint64_t from = 1; room && from < p->frames && found == VMCI_NONE; from += RUN_LOOK) {
        vmci_lock(&p->lock);
        room = p->used + count + reserve(p) <= vmci_load_relaxed(&p->budget);
        if (room) /* also those that begin here and end behind */
            found = find_run(p, from, VMCI_MIN(from + RUN_LOOK + count - 1, p->frames), count);
        for (uint32_t i = 0; found != VMCI_NONE && i < count; i++)
            take(p, found + i);
        vmci_unlock(&p->lock);
    }
    return found;
}

void vmci_frame_free_block(struct vmc_pool *p, uint32_t first)
{
    vmci_lock(&p->lock);
    set_whole(p, first / BLOCK, true);
    vmci_store_relaxed(&p->used, p->used - BLOCK);
    vmci_unlock(&p->lock);
}

uint64_t vmc_pool_free(const struct vmc_pool *p)
{
    uint64_t budget = vmci_load_relaxed(&p->budget), used = vmci_load_relaxed(&p->used);

    return budget > used ? budget - used : 0;
}

void vmc_pool_set_budget(struct vmc_pool *p, uint64_t frames)
{
    vmci_store_relaxed(&p->budget, VMCI_MIN(frames, p->frames));
}

static bool is_spare(const struct vmc_pool *p, uint64_t block)
{
    return vmci_bit_test(p->whole, block) && !vmci_bit_test(p->given, block);
}

/* Mark a run of free blocks that the host still backs as given; its length in blocks. */
static uint64_t claim_run(struct vmc_pool *p, uint64_t *block, uint64_t most)
{
    uint64_t n = p->frames / BLOCK, b = *block, run = 0;

    while (b < n && !is_spare(p, b))
        b++;
    *block = b;
    for (; b < n && run < most && is_spare(p, b); b++, run++) {
        vmci_bit_set(p->given, b);
        p->given_blocks++;
        set_whole(p, b, false); /* nobody takes it meanwhile */
    }
    return run;
}

uint64_t vmc_pool_trim(struct vmc_pool *p, uint64_t keep)
{
    uint64_t given = 0, block = 0;

    if (p->discard == NULL)
        return 0;
    for (;;) {
        vmci_lock(&p->lock);
        uint64_t spare = p->frames - p->used - p->given_blocks * BLOCK;
        uint64_t most = spare > keep ? (spare - keep) / BLOCK : 0;
        uint64_t run = claim_run(p, &block, most);
        vmci_unlock(&p->lock);
        if (run == 0)
            return given;
        p->discard(p->discard_ctx, vmci_frame(p, (uint32_t)(block * BLOCK)),
                   run * BLOCK * VMC_PAGE_SIZE);
        vmci_lock(&p->lock);
        for (uint64_t i = 0; i < run; i++)
            set_whole(p, block + i, true);
        p->discarded += run * BLOCK;
        vmci_unlock(&p->lock);
        given += run * BLOCK;
        block += run;
    }
}
