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

    if (d->opened) /* nothing else between open and close */
        abort();
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

static void md_move(void *ctx, unsigned char *data, unsigned char *buf, size_t bytes, bool write,
                    const unsigned char *soon)
{
    struct mem_disk *d = ctx;

    if (soon != NULL && (soon < d->data || soon >= d->data + d->info.bytes))
        abort();
    if (bytes == 0)
        return;
    uint64_t at = (uint64_t)(data - d->data);
    if (!d->opened || data < d->data || at + bytes > d->info.bytes || (write && d->no_writes))
        abort();
    for (uint64_t i = at / d->piece; i <= (at + bytes - 1) / d->piece; i++)
        if ((d->closed >> (i & 63) & 1) != 0)
            abort();
    memcpy(write ? data : buf, write ? buf : data, bytes);
    d->ops[write ? VMC_BLOCK_WRITE : VMC_BLOCK_READ]++;
    d->moves++;
    if (d->moved != NULL)
        d->moved(d);
}

static bool md_open(void *ctx, struct vmc_block_mover *out)
{
    struct mem_disk *d = ctx;

    if (d->piece == 0 || d->hold || d->fail != 0)
        return false;
    if (d->opened)
        abort();
    d->opened = true;
    *out = (struct vmc_block_mover){
        .move = md_move, .ctx = d, .writable = !d->no_writes, .fetch_writes = true};
    return true;
}

/* The pieces around the range; wide: and those behind them that may be in it. */
static bool md_window(void *ctx, uint64_t offset, uint64_t bytes, bool wide,
                      struct vmc_block_window *out)
{
    struct mem_disk *d = ctx;

    if (!d->opened || bytes == 0)
        abort();
    d->windows++;
    if (offset > d->info.bytes || bytes > d->info.bytes - offset)
        return false;
    uint64_t first = offset / d->piece, end = (offset + bytes - 1) / d->piece + 1;
    for (uint64_t i = first; i < end; i++)
        if ((d->closed >> (i & 63) & 1) != 0)
            return false;
    while (wide && end * d->piece < d->info.bytes && (d->closed >> (end & 63) & 1) == 0)
        end++;
    uint64_t to = end * d->piece < d->info.bytes ? end * d->piece : d->info.bytes;
    *out = (struct vmc_block_window){.start = first * d->piece,
                                     .bytes = to - first * d->piece,
                                     .data = d->data + first * d->piece};
    return true;
}

static void md_close(void *ctx)
{
    struct mem_disk *d = ctx;

    if (!d->opened)
        abort();
    d->opened = false;
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
    static const struct vmc_block_direct_ops direct = {
        .open = md_open, .window = md_window, .close = md_close};
    static const struct vmc_blockdev_ops ops = {
        .info = md_info, .submit = md_submit, .kick = md_kick, .direct = &direct};

    return (struct vmc_blockdev){.ops = &ops, .ctx = d};
}
