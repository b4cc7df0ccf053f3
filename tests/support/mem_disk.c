/* SPDX-License-Identifier: BSD-2-Clause */
#include "mem_disk.h"

#include <stdlib.h>
#include <string.h>

void mem_disk_init(struct mem_disk *d, uint64_t bytes, uint32_t sector_bytes)
{
    memset(d, 0, sizeof(*d));
    d->info = (struct vmc_block_info){
        .bytes = bytes,
        .sector_bytes = sector_bytes,
        .optimal_bytes = 4096,
        .can_discard = true,
        .can_write_zeroes = true,
    };
    d->data = calloc(1, bytes);
    if (d->data == NULL)
        abort();
}

void mem_disk_fini(struct mem_disk *d)
{
    free(d->data);
}

static int carry_out(struct mem_disk *d, struct vmc_block_req *r)
{
    uint64_t at = r->offset;

    if (d->fail != 0)
        return d->fail;
    if (r->offset > d->info.bytes || r->bytes > d->info.bytes - r->offset)
        return VMC_ERANGE;
    switch (r->op) {
    case VMC_BLOCK_READ:
    case VMC_BLOCK_WRITE:
        for (uint32_t i = 0; i < r->iov_count; i++) {
            if (r->op == VMC_BLOCK_READ)
                memcpy(r->iov[i].base, d->data + at, r->iov[i].bytes);
            else
                memcpy(d->data + at, r->iov[i].base, r->iov[i].bytes);
            at += r->iov[i].bytes;
        }
        return at == r->offset + r->bytes ? VMC_OK : VMC_EINVAL;
    case VMC_BLOCK_DISCARD:
    case VMC_BLOCK_WRITE_ZEROES:
        memset(d->data + at, 0, r->bytes);
        return VMC_OK;
    default:
        return VMC_OK;
    }
}

static int md_info(void *ctx, struct vmc_block_info *out)
{
    *out = ((struct mem_disk *)ctx)->info;
    return VMC_OK;
}

static int md_submit(void *ctx, struct vmc_block_req *r)
{
    struct mem_disk *d = ctx;

    d->ops[r->op & 7]++;
    d->last_offset = r->offset;
    d->last_bytes = r->bytes;
    d->last_base = r->iov_count != 0 ? r->iov[0].base : NULL;
    if (d->hold && d->held_count < MEM_DISK_HELD) {
        d->held[d->held_count++] = r;
        return VMC_BLOCK_PENDING;
    }
    r->status = carry_out(d, r);
    return VMC_BLOCK_COMPLETE;
}

static uint32_t md_submit_batch(void *ctx, struct vmc_block_req *const *reqs, uint32_t count)
{
    struct mem_disk *d = ctx;
    uint32_t i = 0;

    for (; i < count && i < d->batch; i++) {
        d->ops[reqs[i]->op & 7]++;
        reqs[i]->status = carry_out(d, reqs[i]);
    }
    return i;
}

static void md_kick(void *ctx)
{
    ((struct mem_disk *)ctx)->kicks++;
}

bool mem_disk_finish(struct mem_disk *d)
{
    if (d->held_count == 0)
        return false;
    struct vmc_block_req *r = d->held[0];
    memmove(d->held, d->held + 1, --d->held_count * sizeof(d->held[0]));
    r->status = carry_out(d, r);
    r->done(r);
    return true;
}

struct vmc_blockdev mem_disk_blockdev(struct mem_disk *d)
{
    static const struct vmc_blockdev_ops ops = {
        .info = md_info, .submit = md_submit, .kick = md_kick, .submit_batch = md_submit_batch};

    return (struct vmc_blockdev){.ops = &ops, .ctx = d};
}
