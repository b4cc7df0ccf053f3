/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests whose memory a controller cannot take as it lies (odd addresses, pieces that end inside
 * a sector) go through a copy. Guests of sound mind never cause one.
 */
#include "kernel/bm_int.h"

struct bounce {
    struct vmc_block_req req;
    struct vmc_iovec iov;
    struct vmc_block_req *orig;
};

static void copy(struct bounce *b, bool to_copy)
{
    uint8_t *at = b->iov.base;

    for (uint32_t i = 0; i < b->orig->iov_count; i++) {
        if (to_copy)
            memcpy(at, b->orig->iov[i].base, b->orig->iov[i].bytes);
        else
            memcpy(b->orig->iov[i].base, at, b->orig->iov[i].bytes);
        at += b->orig->iov[i].bytes;
    }
}

static void over(struct vmc_block_req *r)
{
    struct bounce *b = r->opaque;
    struct vmc_block_req *orig = b->orig;

    orig->status = r->status;
    if (r->status == VMC_OK && r->op == VMC_BLOCK_READ)
        copy(b, false);
    bm_pages_free(bm_virt_to_phys(b->iov.base), PAGES(r->bytes));
    bm_free(b, sizeof(*b));
    orig->done(orig);
}

bool bm_bounce_needed(const struct vmc_block_req *r, uint32_t align, uint32_t unit)
{
    for (uint32_t i = 0; i < r->iov_count; i++)
        if (((uint64_t)r->iov[i].base & (align - 1)) != 0 || (r->iov[i].bytes & (unit - 1)) != 0)
            return true;
    return false;
}

int bm_bounce_submit(struct vmc_block_req *r, const struct vmc_blockdev *dev)
{
    struct bounce *b = bm_zalloc(sizeof(*b));
    uint64_t pa = b != NULL ? bm_pages_alloc(PAGES(r->bytes), 1, OWNER_KERNEL) : 0;

    if (pa == 0) {
        bm_free(b, sizeof(*b));
        r->status = VMC_ENOMEM;
        return VMC_BLOCK_COMPLETE;
    }
    b->orig = r;
    b->iov = (struct vmc_iovec){.base = phys_ptr(pa), .bytes = r->bytes};
    b->req = (struct vmc_block_req){.op = r->op,
                                    .offset = r->offset,
                                    .bytes = r->bytes,
                                    .iov = &b->iov,
                                    .iov_count = 1,
                                    .done = over,
                                    .opaque = b};
    if (r->op == VMC_BLOCK_WRITE)
        copy(b, true);
    if (dev->ops->submit(dev->ctx, &b->req) == VMC_BLOCK_COMPLETE) {
        r->status = b->req.status; /* only failures complete at once */
        bm_pages_free(pa, PAGES(r->bytes));
        bm_free(b, sizeof(*b));
        return VMC_BLOCK_COMPLETE;
    }
    return VMC_BLOCK_PENDING;
}
