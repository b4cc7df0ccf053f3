/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Usual requests (header, data in one piece, status, on a split ring) of a virtio disk whose data
 * is in memory: each is taken, checked, done and answered in one pass, a few requests after it was
 * taken, so that the disk can have its data on the way meanwhile. What is not of this kind ends the
 * pass and goes the way of vio_blk.c, which knows everything, and what is wrong. Threats: as there;
 * what is in guest memory is read once.
 */
#include "virtio/vio_blk.h"

#define AHEAD 3u /* requests from the one whose data moves to the one that was taken last */
#define JOBS  4u /* more than these; a power of two */
#define WIDE  2u /* wide windows that are looked for in a pass */

struct job {
    unsigned char *data, *buf, *status; /* the latter in guest memory */
    uint32_t bytes;
    bool write;
};

static inline void do_job(struct blk_dev *d, const struct vmci_threes *run,
                          const struct vmc_block_mover *mover, const struct job *j,
                          const unsigned char *soon)
{
    mover->move(mover->ctx, j->data, j->buf, j->bytes, j->write, soon);
    vmci_store_relaxed(j->status, (unsigned char)S_OK);
    vmci_three_wrote(d->v.mem, run->slot, j->status, j->buf, j->write ? 0 : j->bytes);
}

/* A window for this range that ends where the disk does. */
static bool find_window(struct blk_dev *d, uint64_t offset, uint64_t bytes, bool wide,
                        struct vmc_block_window *w)
{
    uint64_t size = vmci_load_relaxed(&d->bytes);

    if (!vmci_range_ok(offset, bytes, size) ||
        !d->disk.ops->direct->window(d->disk.ctx, offset, bytes, wide, w))
        return false;
    if (w->start < size)
        w->bytes = VMCI_MIN(w->bytes, size - w->start);
    return vmci_range_ok(offset - w->start, bytes, w->bytes);
}

/*
 * Do what is available in run; returns how many requests. A request that is wrong in any way is
 * left to vio_blk.c, and so are all after it.
 */
static __attribute__((noinline)) unsigned pass(struct blk_dev *d, struct vmci_threes *r,
                                               const struct vmc_block_mover *mover,
                                               struct vmci_three_used *used)
{
    uint64_t align = d->info.sector_bytes - 1u;
    struct vmci_threes run = *r;
    struct vmc_block_window w = {0};
    unsigned n = 0, looks = 0;
    struct job job[JOBS];
    struct vmci_three t;

    while (n < BATCH && vmci_threes_take(&run, HEADER, 1, &t)) {
        const uint64_t *header = (const void *)t.first;
        struct job *j = &job[n % JOBS];
        if (unlikely(((uintptr_t)header & 7) != 0))
            break;
        uint32_t type = (uint32_t)vmci_load_relaxed(&header[0]);
        uint64_t sector = vmci_load_relaxed(&header[1]), offset = sector * SECTOR;
        bool write = !t.write;
        if (unlikely(type != (write ? T_OUT : T_IN) || (write && !mover->writable) ||
                     sector > UINT64_MAX / SECTOR || ((offset | t.bytes) & align) != 0))
            break;
        if (unlikely(!vmci_range_ok(offset - w.start, t.bytes, w.bytes)) &&
            !find_window(d, offset, t.bytes, looks++ < WIDE, &w))
            break;
        *j = (struct job){.data = w.data + (offset - w.start),
                          .buf = t.data,
                          .status = t.last,
                          .bytes = t.bytes,
                          .write = write};
        used[n] = (struct vmci_three_used){.id = t.id, .written = write ? 1 : t.bytes + 1};
        const unsigned char *soon = write && !mover->fetch_writes ? NULL : j->data;
        if (likely(n >= AHEAD))
            do_job(d, &run, mover, &job[(n - AHEAD) % JOBS], soon);
        else
            mover->move(mover->ctx, NULL, NULL, 0, false, soon);
        n++;
    }
    for (unsigned i = n > AHEAD ? n - AHEAD : 0; i < n; i++)
        do_job(d, &run, mover, &job[i % JOBS], NULL);
    r->next = (uint16_t)(r->first + n);
    return n;
}

unsigned vmci_blk_direct(struct blk_dev *d, struct vmci_vq *q, bool *empty)
{
    const struct vmc_block_direct_ops *ops = d->disk.ops->direct;
    struct vmc_block_mover mover;
    struct vmci_three_used used[BATCH];
    bool irq = false;

    /* Nobody else takes chains of this queue: the lock is not needed while they are done. */
    vmci_lock(&q->lock);
    vmci_threes_look(q);
    /* Off: every write is followed by a flush. As of what is available, so looked at after that. */
    bool cache = vmci_blk_has_cache(d);
    struct vmci_threes run = vmci_threes_begin(q);
    vmci_unlock(&q->lock);
    if (run.next == run.end || !ops->open(d->disk.ctx, &mover))
        return 0;
    mover.writable = mover.writable && cache && !d->read_only;
    unsigned n = pass(d, &run, &mover, used);
    ops->close(d->disk.ctx);
    if (n == 0)
        return 0;

    vmci_lock(&q->lock);
    vmci_threes_end(q, &run);
    if (vmci_vq_usable(q)) {
        vmci_three_stage(q, used, n);
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
