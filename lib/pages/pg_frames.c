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

/* Frame 0 reads as zero for every page that has no memory. */
int vmci_frames_init(struct vmc_pool *p)
{
    p->free = vmci_zalloc(p->pf, words(p) * 8);
    p->given = vmci_zalloc(p->pf, VMCI_BITMAP_WORDS(blocks(p)) * 8);
    if (p->free == NULL || p->given == NULL)
        return VMC_ENOMEM;
    vmci_pool_meta(p, (int64_t)(words(p) * 8 + VMCI_BITMAP_WORDS(blocks(p)) * 8));
    for (uint64_t f = 1; f < p->frames; f++)
        vmci_bit_set(p->free, f);
    p->used = 1;
    memset(p->base, 0, VMC_PAGE_SIZE);
    return VMC_OK;
}

void vmci_frames_fini(struct vmc_pool *p)
{
    vmci_free(p->pf, p->free, words(p) * 8);
    vmci_free(p->pf, p->given, VMCI_BITMAP_WORDS(blocks(p)) * 8);
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
    vmci_bit_set(p->free, frame);
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

static bool block_free(const struct vmc_pool *p, uint64_t block)
{
    const uint64_t *w = &p->free[block * BLOCK_WORDS];
    uint64_t all = ~0ull;

    if ((block + 1) * BLOCK > p->frames)
        return false;
    for (unsigned i = 0; i < BLOCK_WORDS; i++)
        all &= w[i];
    return all == ~0ull;
}

uint32_t vmci_frame_alloc_block(struct vmc_pool *p)
{
    uint64_t n = p->frames / BLOCK;
    uint32_t found = VMCI_NONE;

    vmci_lock(&p->lock);
    uint64_t at = p->free_at / BLOCK_WORDS;
    for (uint64_t i = 0; i < n && p->used + BLOCK + reserve(p) <= vmci_load_relaxed(&p->budget);
         i++) {
        uint64_t b = (at + i) % n;
        if (!block_free(p, b))
            continue;
        memset(&p->free[b * BLOCK_WORDS], 0, BLOCK / 8);
        take_back(p, b);
        vmci_store_relaxed(&p->used, p->used + BLOCK);
        p->free_at = (b + 1) % n * BLOCK_WORDS;
        found = (uint32_t)(b * BLOCK);
        break;
    }
    vmci_unlock(&p->lock);
    return found;
}

uint32_t vmci_frame_alloc_run(struct vmc_pool *p, uint32_t count)
{
    uint32_t found = VMCI_NONE;

    vmci_lock(&p->lock);
    bool room = p->used + count + reserve(p) <= vmci_load_relaxed(&p->budget);
    for (uint64_t f = 1, run = 0; room && f < p->frames && found == VMCI_NONE; f++) {
        if (f % 64 == 0 && p->free[f / 64] == 0) {
            run = 0;
            f += 63;
            continue;
        }
        run = vmci_bit_test(p->free, f) ? run + 1 : 0;
        if (run == count)
            found = (uint32_t)(f - count + 1);
    }
    for (uint32_t i = 0; found != VMCI_NONE && i < count; i++)
        take(p, found + i);
    vmci_unlock(&p->lock);
    return found;
}

void vmci_frame_free_block(struct vmc_pool *p, uint32_t first)
{
    vmci_lock(&p->lock);
    memset(&p->free[first / 64], 0xff, BLOCK / 8);
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

/* Mark a run of free blocks that the host still backs as given; its length in blocks. */
static uint64_t claim_run(struct vmc_pool *p, uint64_t *block, uint64_t most)
{
    uint64_t n = p->frames / BLOCK, b = *block, run = 0;

    while (b < n && (vmci_bit_test(p->given, b) || !block_free(p, b)))
        b++;
    *block = b;
    for (; b < n && run < most && !vmci_bit_test(p->given, b) && block_free(p, b); b++, run++) {
        vmci_bit_set(p->given, b);
        p->given_blocks++;
        memset(&p->free[b * BLOCK_WORDS], 0, BLOCK / 8); /* nobody takes it meanwhile */
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
        memset(&p->free[block * BLOCK_WORDS], 0xff, run * BLOCK / 8);
        p->discarded += run * BLOCK;
        vmci_unlock(&p->lock);
        given += run * BLOCK;
        block += run;
    }
}
