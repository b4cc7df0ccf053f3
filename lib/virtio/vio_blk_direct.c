/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Usual requests (header, data in one piece, status, on a split ring) of a virtio disk whose data
 * is in memory: a batch is taken and checked, then done and answered. What is not of this kind ends
 * the batch and goes the way of vio_blk.c, which knows everything, and what is wrong. Threats: as
 * there; what is in guest memory is read once.
 */
#include "virtio/vio_blk.h"

#define AHEAD 3u /* requests from the one whose data moves to the one that is fetched */
#define WIDE  2u /* wide windows that are looked for in a pass */

struct job {
    unsigned char *data, *buf, *status; /* the latter in guest memory */
    uint32_t bytes;
    uint16_t id;   /* of the chain */
    uint8_t write; /* T_OUT or T_IN */
};

/* What was taken, and what is needed for it. */
struct pass {
    struct vmci_threes run;
    struct vmc_block_window w;
    unsigned looks;
    bool writable;
    struct job job[BATCH + AHEAD]; /* those after the last one have no data */
};

/* A window for this range that ends where the disk does. */
static __attribute__((noinline)) bool find_window(struct blk_dev *d, struct pass *p,
                                                  uint64_t offset, uint32_t bytes)
{
    uint64_t size = vmci_load_relaxed(&d->bytes);
    struct vmc_block_window w;

    if (!vmci_range_ok(offset, bytes, size) ||
        !d->disk.ops->direct->window(d->disk.ctx, offset, bytes, p->looks++ < WIDE, &w))
        return false;
    if (w.start < size)
        w.bytes = VMCI_MIN(w.bytes, size - w.start);
    p->w = w;
    return vmci_range_ok(offset - w.start, bytes, w.bytes);
}

/* Take what is available, up to limit requests, as long as it is of this kind and right. */
static inline __attribute__((always_inline)) void
take_kind(struct blk_dev *d, struct pass *p, enum vmci_three_kind kind, unsigned limit)
{
    uint64_t align = d->info.sector_bytes - 1u;
    struct vmci_threes run = p->run;
    struct vmc_block_window w = p->w;
    unsigned end = VMCI_MIN(run.ready, limit);
    struct vmci_three t;

    while (run.taken < end && vmci_threes_peek(&run, kind, HEADER, 1, &t)) {
        const uint64_t *header = (const void *)t.first;
        if (unlikely(((uintptr_t)header & 7) != 0))
            break;
        uint32_t type = (uint32_t)vmci_load_relaxed(&header[0]);
        uint64_t sector = vmci_load_relaxed(&header[1]);
        /* In bytes, if that has room: the bits that have none are where those are that must be 0.
         */
        uint64_t offset = sector << 9 | sector >> 55;
        if (unlikely(type > p->writable || t.write + type * VMCI_VD_WRITE != VMCI_VD_WRITE ||
                     ((offset | t.bytes) & align) != 0))
            break;
        if (unlikely(!vmci_range_ok(offset - w.start, t.bytes, w.bytes))) {
            if (!find_window(d, p, offset, t.bytes))
                break;
            w = p->w;
        }
        p->job[run.taken] = (struct job){.data = w.data + (offset - w.start),
                                         .buf = t.data,
                                         .status = t.last,
                                         .bytes = t.bytes,
                                         .id = t.id,
                                         .write = (uint8_t)type};
        vmci_threes_step(&run);
    }
    p->run = run;
}

static __attribute__((noinline)) void take_row(struct blk_dev *d, struct pass *p, unsigned limit)
{
    take_kind(d, p, VMCI_THREE_ROW, limit);
}

static __attribute__((noinline)) void take_table(struct blk_dev *d, struct pass *p, unsigned limit)
{
    take_kind(d, p, VMCI_THREE_TABLE, limit);
}

static __attribute__((noinline)) void take_far(struct blk_dev *d, struct pass *p, unsigned limit)
{
    take_kind(d, p, VMCI_THREE_FAR, limit);
}

/*
 * Take what is available, up to limit requests; false: there are not so many. A request that is
 * wrong in any way is left to vio_blk.c, and so are all after it.
 */
static bool take(struct blk_dev *d, struct pass *p, unsigned limit)
{
    uint32_t before;

    do {
        before = p->run.taken;
        take_row(d, p, limit);
        take_table(d, p, limit);
        if (p->run.taken == before)
            take_far(d, p, limit);
    } while (p->run.taken != before && p->run.taken < limit);
    return p->run.taken == limit;
}

/* Data of a later request, if there is one and fetching it helps. */
static inline const unsigned char *soon(const struct vmc_block_mover *mover, const struct job *j)
{
    return mover->fetch_writes || j->write == T_IN ? j->data : NULL;
}

/* Do what is available, up to a batch. The first data is on its way while the rest is taken. */
static void do_pass(struct blk_dev *d, struct pass *p, const struct vmc_block_mover *mover)
{
    bool more = take(d, p, AHEAD);
    const struct job *j = p->job, *end = j + p->run.taken;

    while (j < end)
        mover->move(mover->ctx, NULL, NULL, 0, false, soon(mover, j++));
    if (more)
        (void)take(d, p, BATCH);
    end = p->job + p->run.taken;
    memset(p->job + p->run.taken, 0, AHEAD * sizeof(struct job));
    for (j = p->job; j < end; j++) {
        mover->move(mover->ctx, j->data, j->buf, j->bytes, j->write != T_IN,
                    soon(mover, j + AHEAD));
        vmci_store_relaxed(j->status, (unsigned char)S_OK);
        vmci_three_wrote(d->v.mem, p->run.slot, j->status, j->buf, j->bytes, j->write == T_IN);
    }
}

unsigned vmci_blk_direct(struct blk_dev *d, struct vmci_vq *q, bool *empty)
{
    const struct vmc_block_direct_ops *ops = d->disk.ops->direct;
    struct vmc_block_mover mover;
    struct pass p;
    bool irq = false;

    /* Nobody else takes chains of this queue: the lock is not needed while they are done. */
    vmci_lock(&q->lock);
    vmci_threes_look(q);
    /* Off: every write is followed by a flush. As of what is available, so looked at after that. */
    bool cache = vmci_blk_has_cache(d);
    p.run = vmci_threes_begin(q);
    vmci_unlock(&q->lock);
    if (p.run.ready == 0 || !ops->open(d->disk.ctx, &mover))
        return 0;
    p.writable = mover.writable && cache && !d->read_only;
    p.w = (struct vmc_block_window){0};
    p.looks = 0;
    do_pass(d, &p, &mover);
    ops->close(d->disk.ctx);
    unsigned n = p.run.taken;
    if (n == 0)
        return 0;

    vmci_lock(&q->lock);
    vmci_threes_end(q, &p.run);
    if (vmci_vq_usable(q)) {
        for (unsigned i = 0; i < n; i++)
            vmci_three_stage(q, i, p.job[i].id, p.job[i].write != T_IN ? 1 : p.job[i].bytes + 1);
        vmci_threes_staged(q, n);
        vmci_vq_publish(q);
        irq = vmci_vq_want_irq(q);
        *empty = vmci_threes_empty(q);
    }
    vmci_unlock(&q->lock);
    (void)vmci_fetch_add(&d->v.stat_requests, n);
    if (irq)
        vmci_vq_irq(q);
    return n;
}
