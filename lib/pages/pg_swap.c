/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Swapping by the host: pages go to a file of their own VM, page n to offset n * 4 KiB, through
 * buffers of the request, so that a frame is never tied up by a transfer. While a page is written
 * its entry is BUSY; touching it just takes it back, and what is written then does not matter. A
 * checksum stays in the map entry, so that a file that was damaged or replaced is noticed.
 *
 * Requests are prepared under the space's lock and submitted without it (vmci_swap_kick).
 */
#include "pages/pages_int.h"

#define SITE       "pages/swap"
#define READ_AHEAD 8u          /* pages around a fault, aligned */
#define PAUSE_NS   50000000ull /* after a write that failed; doubled while they go on failing */
#define PAUSE_MOST (64 * PAUSE_NS)

static uint32_t checksum(const struct vmc_space *s, uint64_t page, const void *data)
{
    return (uint32_t)s->pool->hash(data, s->first + page) & VMCI_E_MASK;
}

static void io_done(struct vmc_block_req *req)
{
    struct vmci_swap_io *io = req->opaque;
    struct vmc_space *s = io->space;
    const struct vmc_platform *pf = s->pool->pf;

    (void)vmci_fetch_add(&s->ending, 1u); /* before anybody sees that it is done */
    vmci_store_release(&io->state, (uint32_t)VMCI_IO_DONE);
    (void)vmci_fetch_add(&s->changed, 1u);
    if (vmci_pf_has(pf, sync))
        pf->sync->wake(pf->ctx, &s->changed);
    (void)__atomic_fetch_sub(&s->ending, 1,
                             __ATOMIC_RELEASE); /* the space may be gone from here on */
}

int vmci_swap_init(struct vmc_space *s, struct vmc_error *err)
{
    struct vmc_block_info info;

    if (s->swap.ops == NULL)
        return VMC_OK;
    int rc = s->swap.ops->info(s->swap.ctx, &info);
    if (rc != VMC_OK)
        return vmci_error(err, rc, SITE, "the swap file does not answer");
    if (info.read_only || info.bytes / VMC_PAGE_SIZE < s->pages)
        return vmci_error(err, VMC_EINVAL, SITE,
                          "the swap file is read-only or smaller than %llu pages",
                          (unsigned long long)s->pages);
    for (unsigned i = 0; i < VMCI_SWAP_IO; i++) {
        size_t bytes = VMC_SPACE_SWAP_BATCH * VMC_PAGE_SIZE;
        s->io[i].space = s;
        s->io[i].buf = vmci_alloc_aligned(s->pool->pf, bytes, VMC_PAGE_SIZE);
        if (s->io[i].buf == NULL)
            return vmci_error(err, VMC_ENOMEM, SITE, "no memory for swap requests");
        vmci_pool_meta(s->pool, (int64_t)bytes);
    }
    return VMC_OK;
}

void vmci_swap_fini(struct vmc_space *s)
{
    for (unsigned i = 0; i < VMCI_SWAP_IO; i++) {
        struct vmci_swap_io *io = &s->io[i];
        if (io->buf == NULL)
            continue;
        while (vmci_load_acquire(&io->state) == VMCI_IO_BUSY)
            vmc_space_wait(s);
        while (vmci_load_acquire(&s->ending) != 0)
            vmc_space_wait(s);
        vmci_free_aligned(s->pool->pf, io->buf, VMC_SPACE_SWAP_BATCH * VMC_PAGE_SIZE,
                          VMC_PAGE_SIZE);
        vmci_pool_meta(s->pool, -(int64_t)(VMC_SPACE_SWAP_BATCH * VMC_PAGE_SIZE));
    }
    for (unsigned i = 0; i < VMCI_PENDING; i++) /* frames for pages that never arrived */
        if (s->pending[i].kind == VMCI_P_SWAP_IN && s->pending[i].frame != VMCI_NONE)
            vmci_frame_free(s->pool, s->pending[i].frame);
}

static struct vmci_swap_io *idle_io(struct vmc_space *s)
{
    for (unsigned i = 0; i < VMCI_SWAP_IO; i++)
        if (s->io[i].buf != NULL && vmci_load_acquire(&s->io[i].state) == VMCI_IO_IDLE)
            return &s->io[i];
    return NULL;
}

static void ready(struct vmci_swap_io *io, enum vmc_block_op op)
{
    io->iov = (struct vmc_iovec){.base = io->buf, .bytes = io->count * (size_t)VMC_PAGE_SIZE};
    io->req = (struct vmc_block_req){.op = op,
                                     .offset = io->first << VMC_PAGE_SHIFT,
                                     .bytes = io->iov.bytes,
                                     .iov = &io->iov,
                                     .iov_count = 1,
                                     .done = io_done,
                                     .opaque = io};
    vmci_store_release(&io->state, (uint32_t)VMCI_IO_READY);
}

bool vmci_swap_kick(struct vmc_space *s)
{
    bool done = false;

    for (unsigned i = 0; s->swap.ops != NULL && i < VMCI_SWAP_IO; i++) {
        struct vmci_swap_io *io = &s->io[i];
        uint32_t seen = VMCI_IO_READY;
        if (!__atomic_compare_exchange_n(&io->state, &seen, VMCI_IO_BUSY, false, __ATOMIC_ACQ_REL,
                                         __ATOMIC_ACQUIRE))
            continue;
        if (s->swap.ops->submit(s->swap.ctx, &io->req) == VMC_BLOCK_COMPLETE) {
            vmci_store_release(&io->state, (uint32_t)VMCI_IO_DONE);
            done = true;
        }
    }
    if (s->swap.ops != NULL && s->swap.ops->kick != NULL)
        s->swap.ops->kick(s->swap.ctx);
    return done;
}

/* ---- finished requests -------------------------------------------------------------------------
 */

bool vmci_swap_paused(const struct vmc_space *s)
{
    const struct vmc_platform *pf = s->pool->pf;

    return s->swap_retry_ns != 0 && pf->now_ns(pf->ctx) < s->swap_retry_ns;
}

/* A disk that is full stays so for a while: pages are copied and written in vain meanwhile. */
static void note_write(struct vmc_space *s, bool good)
{
    const struct vmc_platform *pf = s->pool->pf;

    if (good) {
        s->swap_pause_ns = s->swap_retry_ns = 0;
        return;
    }
    if (vmci_swap_paused(s)) /* it was begun before the one that failed first */
        return;
    s->swap_pause_ns =
        s->swap_pause_ns == 0 ? PAUSE_NS : VMCI_MIN(2 * s->swap_pause_ns, PAUSE_MOST);
    s->swap_retry_ns = pf->now_ns(pf->ctx) + s->swap_pause_ns;
}

static void wrote(struct vmc_space *s, struct vmci_swap_io *io, unsigned index)
{
    note_write(s, io->req.status == VMC_OK);
    for (uint32_t i = 0; i < io->count; i++) {
        struct vmci_pending *d = vmci_pending_find(s, io->first + i);
        if (d == NULL || d->kind != VMCI_P_SWAP_OUT || d->io != index)
            continue; /* taken back meanwhile */
        if (io->req.status != VMC_OK) {
            s->swap_errors++;
            vmci_pending_end(s, d, d->entry);
            continue;
        }
        uint64_t page = d->page;
        uint32_t frame = vmci_entry_value(d->entry);
        vmci_pending_end(
            s, d,
            vmci_entry(VMCI_E_SWAPPED, checksum(s, page, io->buf + (size_t)i * VMC_PAGE_SIZE)));
        vmci_frame_free(s->pool, frame);
        s->swap_outs++;
    }
}

static void arrived(struct vmc_space *s, struct vmci_pending *d, const unsigned char *data,
                    int status)
{
    uint64_t page = d->page;
    bool wanted = d->frame != VMCI_NONE;
    bool good = status == VMC_OK && checksum(s, page, data) == vmci_entry_value(d->entry);

    if (!good) {
        s->swap_errors++;
        if (wanted) {
            vmci_frame_free(s->pool, d->frame);
            s->bad_page = page + 1;
            s->lost_page = page;
            s->swap_lost++;
        }
        vmci_pending_end(s, d, s->abandoned ? vmci_entry(VMCI_E_ZERO, 0) : d->entry);
        return;
    }
    uint32_t frame = wanted ? d->frame : vmci_frame_alloc(s);
    if (frame == VMCI_NONE) { /* read ahead, and no room for it */
        vmci_pending_end(s, d, d->entry);
        return;
    }
    memcpy(vmci_frame(s->pool, frame), data, VMC_PAGE_SIZE);
    (void)vmci_fetch_or(&s->dirty[page / 64], VMCI_BIT(page % 64)); /* for the scanner to see */
    vmci_pending_end(s, d, vmci_entry(VMCI_E_PRIVATE, frame));
    s->swap_ins++;
}

static void read_in(struct vmc_space *s, struct vmci_swap_io *io, unsigned index)
{
    for (uint32_t i = 0; i < io->count; i++) {
        struct vmci_pending *d = vmci_pending_find(s, io->first + i);
        if (d != NULL && d->kind == VMCI_P_SWAP_IN && d->io == index)
            arrived(s, d, io->buf + (size_t)i * VMC_PAGE_SIZE, io->req.status);
    }
}

void vmci_swap_reap(struct vmc_space *s)
{
    for (unsigned i = 0; i < VMCI_SWAP_IO; i++) {
        struct vmci_swap_io *io = &s->io[i];
        if (io->buf == NULL || vmci_load_acquire(&io->state) != VMCI_IO_DONE)
            continue;
        if (io->req.op == VMC_BLOCK_WRITE)
            wrote(s, io, i);
        else
            read_in(s, io, i);
        vmci_store_release(&io->state, (uint32_t)VMCI_IO_IDLE);
    }
}

/* ---- in ----------------------------------------------------------------------------------------
 */

static bool swapped(const struct vmc_space *s, uint64_t page)
{
    return page < s->pages && vmci_entry_state(s->map[page]) == VMCI_E_SWAPPED;
}

int vmci_swap_in(struct vmc_space *s, uint64_t page)
{
    if (s->bad_page == page + 1) {
        s->bad_page = 0; /* said once; the next access tries again */
        return VMC_EIO;
    }
    struct vmci_swap_io *io = idle_io(s);
    if (io == NULL || vmci_pending_room(s, READ_AHEAD) < READ_AHEAD) {
        vmci_swap_reap(s);
        return VMC_EAGAIN;
    }
    uint32_t frame = vmci_frame_alloc(s);
    if (frame == VMCI_NONE)
        return VMC_ENOSPC;
    uint64_t first = page, end = page + 1;
    while (first > page / READ_AHEAD * READ_AHEAD && swapped(s, first - 1))
        first--;
    while (end < (page / READ_AHEAD + 1) * READ_AHEAD && swapped(s, end))
        end++;
    io->first = first;
    io->count = (uint32_t)(end - first);
    for (uint64_t i = first; i < end; i++) {
        struct vmci_pending *d = vmci_pending_add(s, i, VMCI_P_SWAP_IN, s->map[i]);
        d->io = (uint8_t)(io - s->io);
        d->frame = i == page ? frame : VMCI_NONE;
    }
    ready(io, VMC_BLOCK_READ);
    return VMC_OK;
}

/* ---- out ---------------------------------------------------------------------------------------
 */

/* Two requests for one place may be done in any order. */
static bool under_way(const struct vmc_space *s, uint64_t page)
{
    for (unsigned i = 0; i < VMCI_SWAP_IO; i++)
        if (vmci_load_acquire(&s->io[i].state) != VMCI_IO_IDLE &&
            page - s->io[i].first < s->io[i].count)
            return true;
    return false;
}

static bool victim(struct vmc_space *s, uint64_t page, bool hot)
{
    uint64_t mask = VMCI_BIT(page % 64);

    if (under_way(s, page))
        return false;
    if (vmci_entry_state(s->map[page]) != VMCI_E_PRIVATE ||
        (vmci_load_acquire(&s->acc[page / 64]) & mask) != 0)
        return false;
    return (hot || (s->cold[page / 64] & mask) != 0) &&
           vmci_page_seize(s, page, s->map[page], true);
}

/* Take a run of victims into a request. Entries of seized pages are BUSY already. */
static uint32_t gather(struct vmc_space *s, struct vmci_swap_io *io, uint64_t most, bool hot)
{
    io->first = s->clock;
    io->count = 0;
    while (io->count < most && s->clock < s->pages) {
        uint32_t e = s->map[s->clock];
        if (!victim(s, s->clock, hot))
            break;
        struct vmci_pending *d = vmci_pending_add(s, s->clock, VMCI_P_SWAP_OUT, e);
        d->io = (uint8_t)(io - s->io);
        memcpy(io->buf + (size_t)io->count * VMC_PAGE_SIZE,
               vmci_frame(s->pool, vmci_entry_value(e)), VMC_PAGE_SIZE);
        io->count++;
        s->clock++;
    }
    return io->count;
}

static uint64_t next_run(struct vmc_space *s, uint64_t want, uint64_t *budget, bool hot)
{
    struct vmci_swap_io *io = idle_io(s);
    uint64_t got = 0;

    while (io != NULL && *budget > 0 && got == 0) {
        uint64_t room = vmci_pending_room(s, VMC_SPACE_SWAP_BATCH);
        uint64_t most =
            VMCI_MIN(VMCI_MIN(want, (uint64_t)VMC_SPACE_SWAP_BATCH), VMCI_MIN(room, *budget));
        if (most == 0)
            break;
        got = gather(s, io, most, hot);
        *budget -= got;
        if (got == 0) {
            s->clock++;
            *budget -= 1;
        }
        if (s->clock >= s->pages)
            s->clock = 0;
    }
    if (got != 0)
        ready(io, VMC_BLOCK_WRITE);
    return got;
}

void vmc_space_abandon(struct vmc_space *s)
{
    vmci_lock(&s->lock);
    s->abandoned = true;
    vmci_unlock(&s->lock);
}

void vmc_space_finish(struct vmc_space *s)
{
    vmci_lock(&s->lock);
    s->finishing = true;
    vmci_unlock(&s->lock);
}

int vmc_space_swap_out(struct vmc_space *s, uint64_t want, uint64_t budget, bool hot,
                       uint64_t *started)
{
    *started = 0;
    if (s->swap.ops == NULL)
        return VMC_ENOTSUP;
    while (*started < want && budget > 0) {
        vmci_lock(&s->lock);
        vmci_swap_reap(s);
        bool idle = idle_io(s) != NULL && !vmci_swap_paused(s);
        uint64_t got =
            idle && vmci_space_settled(s) ? next_run(s, want - *started, &budget, hot) : 0;
        vmci_unlock(&s->lock);
        (void)vmci_swap_kick(s);
        if (got == 0)
            return *started == 0 && !idle ? VMC_EAGAIN : VMC_OK;
        *started += got;
    }
    vmc_space_poll(s);
    return VMC_OK;
}
