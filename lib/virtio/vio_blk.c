/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtio block device (virtio 1.2, 5.2). A request is taken from the ring under the queue's lock,
 * given to the back end with no lock held, and completed from whatever thread finishes it. Data
 * moves between guest memory and the back end directly.
 *
 * Threats (tests/unit/virtio/test_blk.c, fuzz/virtio_blk.c)
 *
 * | guest input                 | bound                                                          |
 * |-----------------------------|----------------------------------------------------------------|
 * | sector, length              | range within the disk, whole sectors, else IOERR               |
 * | request type                | known and negotiated, else UNSUPP                              |
 * | header or status missing    | completed with IOERR, or with length 0 without a status byte   |
 * | discard segments            | at most DISCARD_SEGS, each within the disk                     |
 * | number of requests          | storage for one queue's worth, made at creation                |
 */
#include "virtio/vio_blk.h"

/* ---- requests ------------------------------------------------------------------------------ */

static bool in_disk(struct blk_dev *d, uint64_t sector, uint64_t bytes, uint64_t *offset)
{
    *offset = sector * SECTOR;
    return sector <= UINT64_MAX / SECTOR &&
           vmci_range_ok(*offset, bytes, vmci_load_relaxed(&d->bytes)) &&
           ((*offset | bytes) & (d->info.sector_bytes - 1)) == 0; /* a power of two */
}

static void set_io(struct blk_req *r, uint32_t op, uint64_t offset, uint64_t bytes)
{
    r->io.op = op;
    r->io.flags = 0;
    r->io.offset = offset;
    r->io.bytes = bytes;
    r->io.status = VMC_OK;
    if (op != VMC_BLOCK_READ && op != VMC_BLOCK_WRITE) {
        r->io.iov = NULL;
        r->io.iov_count = 0;
    }
}

/* Each prepare function leaves an I/O to be submitted (true) or a result (false). */
static bool answer(struct blk_req *r, enum req_status status)
{
    r->result = status;
    return false;
}

static inline bool prepare_rw(struct blk_dev *d, struct blk_req *r, uint64_t sector, bool write)
{
    struct vmc_iovec *iov = r->ch.iov;
    unsigned n;
    uint64_t bytes;
    uint64_t offset;

    if (write) {
        bytes = r->ch.out_bytes - HEADER;
        n = r->ch.out_n;
        if (likely(iov->bytes == HEADER)) { /* a descriptor of its own, as usual */
            iov++;
            n--;
        } else {
            n = vmci_iov_drop_front(&iov, n, HEADER);
        }
    } else {
        iov += r->ch.out_n;
        bytes = r->ch.in_bytes - 1;
        n = r->ch.in_n;
        if (likely(iov[n - 1].bytes == 1))
            n--;
        else
            n = vmci_iov_drop_back(iov, n, 1);
    }
    if ((write && d->read_only) || bytes % SECTOR != 0 || !in_disk(d, sector, bytes, &offset))
        return answer(r, S_IOERR);
    if (bytes == 0)
        return answer(r, S_OK);
    set_io(r, write ? VMC_BLOCK_WRITE : VMC_BLOCK_READ, offset, bytes);
    r->io.iov = iov;
    r->io.iov_count = n;
    r->flush_after = write && !vmci_blk_has_cache(d);
    return true;
}

static uint32_t range_sectors(const struct blk_req *r, unsigned seg)
{
    return vmci_ld_le32(r->ranges + seg * DISCARD_BYTES + 8);
}

/* The next segment of a discard or write zeroes that has any length. */
static bool next_range(struct blk_req *r)
{
    while (r->seg < r->segs && range_sectors(r, r->seg) == 0)
        r->seg++;
    if (r->seg == r->segs)
        return false;
    set_io(r, r->io.op, vmci_ld_le64(r->ranges + r->seg * DISCARD_BYTES) * SECTOR,
           (uint64_t)range_sectors(r, r->seg) * SECTOR);
    r->seg++;
    return true;
}

static bool prepare_ranges(struct blk_dev *d, struct blk_req *r, bool zeroes)
{
    uint64_t bytes = r->ch.out_bytes - HEADER;
    uint32_t known = zeroes ? ZEROES_UNMAP : 0;

    if (!vmci_virtio_has(&d->v, zeroes ? F_WRITE_ZEROES : F_DISCARD))
        return answer(r, S_UNSUPP);
    if (d->read_only || bytes == 0 || bytes % DISCARD_BYTES != 0 || bytes > sizeof(r->ranges))
        return answer(r, S_IOERR);
    (void)vmci_chain_read(&r->ch, HEADER, r->ranges, (size_t)bytes); /* there: out_bytes says so */
    r->seg = 0;
    r->segs = (uint16_t)(bytes / DISCARD_BYTES);
    for (unsigned i = 0; i < r->segs; i++) {
        const unsigned char *seg = r->ranges + i * DISCARD_BYTES;
        uint64_t offset;
        if ((vmci_ld_le32(seg + 12) & ~known) != 0)
            return answer(r, S_UNSUPP); /* 5.2.6.2 */
        if (range_sectors(r, i) > DISCARD_SECTORS ||
            !in_disk(d, vmci_ld_le64(seg), (uint64_t)range_sectors(r, i) * SECTOR, &offset))
            return answer(r, S_IOERR);
    }
    r->io.op = zeroes ? VMC_BLOCK_WRITE_ZEROES : VMC_BLOCK_DISCARD;
    r->flush_after = zeroes && !vmci_blk_has_cache(d);
    return next_range(r) ? true : answer(r, S_OK);
}

static bool prepare(struct blk_dev *d, struct blk_req *r)
{
    unsigned char copy[HEADER];
    const unsigned char *header = copy;

    r->status = NULL;
    r->written = (uint32_t)r->ch.in_bytes;
    r->flush_after = false;
    r->seg = r->segs = 0;
    if (r->ch.malformed || r->ch.in_bytes == 0) {
        (void)vmci_fetch_add(&d->v.stat_malformed, 1);
        return answer(r, S_IOERR);
    }
    const struct vmc_iovec *last = &r->ch.iov[r->ch.out_n + r->ch.in_n - 1];
    r->status = (unsigned char *)last->base + last->bytes - 1;
    if (likely(r->ch.out_n != 0 && r->ch.iov[0].bytes >= HEADER)) {
        header = r->ch.iov[0].base;
    } else if (vmci_chain_read(&r->ch, 0, copy, sizeof(copy)) != sizeof(copy)) {
        (void)vmci_fetch_add(&d->v.stat_malformed, 1);
        return answer(r, S_IOERR);
    }
    uint64_t sector = vmci_ld_le64(header + 8);
    uint32_t type = vmci_ld_le32(header);
    __asm__("" : "+r"(type), "+r"(sector)); /* the guest may change them: they are read once */
    if (likely(type <= T_OUT))
        return prepare_rw(d, r, sector, type == T_OUT);
    switch (type) {
    case T_FLUSH:
        set_io(r, VMC_BLOCK_FLUSH, 0, 0);
        return true;
    case T_GET_ID:
        if (r->ch.in_bytes - 1 < sizeof(d->serial))
            return answer(r, S_IOERR);
        (void)vmci_chain_write(&r->ch, 0, d->serial, sizeof(d->serial)); /* fits: checked above */
        return answer(r, S_OK);
    case T_DISCARD:
        return prepare_ranges(d, r, false);
    case T_ZEROES:
        return prepare_ranges(d, r, true);
    default:
        return answer(r, S_UNSUPP);
    }
}

/* What a usual request asks for. Its header, in guest memory, is read once. False: see prepare. */
static inline bool check_usual(struct blk_dev *d, const struct vmci_three *t, uint32_t *type,
                               uint64_t *offset)
{
    const uint64_t *header = (const void *)t->first;
    if (unlikely(((uintptr_t)header & 7) != 0))
        return false;
    *type = (uint32_t)vmci_load_relaxed(&header[0]);
    uint64_t sector = vmci_load_relaxed(&header[1]);
    bool write = *type == T_OUT;

    return likely(*type <= T_OUT && write != (t->write != 0) && !(write && d->read_only) &&
                  t->bytes % SECTOR == 0 && in_disk(d, sector, t->bytes, offset));
}

/* A usual request. False: another kind, for prepare to look at as a chain. */
static inline bool prepare_usual(struct blk_dev *d, struct blk_req *r, const struct vmci_three *t)
{
    uint64_t offset;
    uint32_t type;

    if (unlikely(!check_usual(d, t, &type, &offset)))
        return false;
    r->usual = t->slot;
    r->status = t->last;
    r->data = (struct vmc_iovec){.base = t->data, .bytes = t->bytes};
    r->written = t->write != 0 ? t->bytes + 1 : 1;
    r->id = t->id;
    r->flush_after = type == T_OUT && !vmci_blk_has_cache(d);
    r->seg = r->segs = 0;
    set_io(r, type, offset, t->bytes);
    r->io.iov = &r->data;
    r->io.iov_count = 1;
    return true;
}

/* An I/O of the request ended; true: another one follows. */
static inline bool follow_up(struct blk_req *r)
{
    if (likely(r->io.status == VMC_OK && r->seg == r->segs && !r->flush_after)) {
        r->result = S_OK;
        return false;
    }
    if (r->io.status != VMC_OK) {
        r->result = r->io.status == VMC_ENOTSUP ? S_UNSUPP : S_IOERR;
        return false;
    }
    r->result = S_OK;
    if (r->seg < r->segs && next_range(r))
        return true;
    if (!r->flush_after)
        return false;
    r->flush_after = false;
    set_io(r, VMC_BLOCK_FLUSH, 0, 0);
    return true;
}

/* True: finished here. False: the back end has it and may have finished it already. */
static bool submit(struct blk_dev *d, struct blk_req *r)
{
    do {
        if (d->disk.ops->submit(d->disk.ctx, &r->io) == VMC_BLOCK_PENDING)
            return false;
    } while (follow_up(r));
    return true;
}

/* Put the results of finished requests into guest memory and their chains into the used ring. */
static void finish(struct blk_dev *d, struct vmci_vq *q, struct blk_req *const *req, unsigned n)
{
    struct blk_queue *bq = &d->queue[q->index];
    bool irq = false;

    for (unsigned i = 0; i < n; i++) {
        struct blk_req *r = req[i];
        if (r->status != NULL)
            *r->status = (unsigned char)r->result;
        if (likely(r->usual != NULL))
            vmci_three_wrote(d->v.mem, r->usual, r->status, r->data.base, (uint32_t)r->data.bytes,
                             r->written > 1);
        else
            vmci_chain_release(d->v.mem, &r->ch);
    }
    vmci_lock(&q->lock);
    bool usable = vmci_vq_usable(q);
    for (unsigned i = 0; i < n; i++) {
        struct blk_req *r = req[i];
        if (likely(usable && r->usual != NULL)) {
            vmci_three_stage(q, 0, r->id, r->written);
            vmci_threes_staged(q, 1);
        } else if (usable) {
            vmci_vq_stage(q, &r->ch, r->status != NULL ? r->written : 0);
        }
        r->next = bq->free;
        bq->free = r;
    }
    if (usable) {
        vmci_vq_publish(q);
        irq = vmci_vq_want_irq(q);
    }
    vmci_unlock(&q->lock);
    (void)vmci_fetch_add(&d->v.stat_requests, n);
    if (irq)
        vmci_vq_irq(q);
}

static void kick_disk(struct blk_dev *d)
{
    if (d->disk.ops->kick != NULL)
        d->disk.ops->kick(d->disk.ctx);
}

static void io_done(struct vmc_block_req *io)
{
    struct blk_req *r = io->opaque;
    struct blk_dev *d = VMCI_CONTAINER_OF(r->q->dev, struct blk_dev, v);

    if (follow_up(r) && !submit(d, r)) {
        kick_disk(d);
        return;
    }
    finish(d, r->q, &r, 1);
    vmci_virtio_leave(&d->v);
}

/*
 * The next free request for a chain of three; there is one, as there are more than chains can be in
 * use. Needs the queue's lock.
 */
static inline struct blk_req *use(struct blk_dev *d, struct blk_queue *bq,
                                  const struct vmci_three *t)
{
    struct blk_req *r = bq->free;

    bq->free = r->next;
    if (unlikely(!prepare_usual(d, r, t))) {
        r->usual = NULL;
        vmci_three_to_chain(t, HEADER, 1, &r->ch);
    }
    return r;
}

/* Take up to a batch of chains; returns how many. Usual requests are prepared. */
static unsigned take(struct blk_dev *d, struct vmci_vq *q, struct blk_req **req)
{
    struct blk_queue *bq = &d->queue[q->index];
    struct vmci_three t;
    unsigned n = 0;

    vmci_lock(&q->lock);
    for (;;) {
        struct vmci_threes run = vmci_threes_begin(q);
        struct blk_req *r;
        while ((r = bq->free) != NULL && n < BATCH && vmci_threes_peek_any(&run, HEADER, 1, &t)) {
            req[n++] = use(d, bq, &t);
            vmci_threes_step(&run);
        }
        vmci_threes_end(q, &run);
        if (r == NULL || n == BATCH || !vmci_vq_usable(q) || vmci_vq_pop(q, &r->ch) != 1)
            break;
        if (r->ch.out_n != 0) /* the header is read next */
            __builtin_prefetch(r->ch.iov[0].base);
        r->usual = NULL;
        bq->free = r->next;
        req[n++] = r;
    }
    vmci_unlock(&q->lock);
    return n;
}

static enum vmci_vwork blk_work(struct vmc_virtio *v, struct vmci_vq *q)
{
    struct blk_dev *d = VMCI_CONTAINER_OF(v, struct blk_dev, v);
    struct blk_req *req[BATCH], *done[BATCH];
    unsigned count = 0, finished = 0;
    bool empty = false;

    if (d->disk.ops->direct != NULL) {
        unsigned n = vmci_blk_direct(d, q, &empty);
        if (empty || n == BATCH)
            return empty ? VMCI_VWORK_EMPTY : VMCI_VWORK_MORE;
    }
    count = take(d, q, req);
    if (count == 0)
        return VMCI_VWORK_EMPTY;
    vmci_virtio_hold(v, count);
    for (unsigned i = 0; i < count; i++) {
        bool io = likely(req[i]->usual != NULL) || prepare(d, req[i]);
        if (!io || submit(d, req[i]))
            done[finished++] = req[i];
    }
    if (finished < count)
        kick_disk(d);
    if (finished != 0)
        finish(d, q, done, finished);
    /* Not the last ones inside: the caller is. */
    (void)__atomic_fetch_sub(&v->active, finished, __ATOMIC_SEQ_CST);
    return count == BATCH ? VMCI_VWORK_MORE : VMCI_VWORK_EMPTY;
}

/* ---- configuration and life cycle ---------------------------------------------------------- */

static void blk_reset(struct vmc_virtio *v)
{
    struct blk_dev *d = VMCI_CONTAINER_OF(v, struct blk_dev, v);

    vmci_virtio_config_begin(v);
    v->config[CFG_WRITEBACK] = !d->writethrough;
    vmci_virtio_config_end(v, false);
}

static void blk_config_written(struct vmc_virtio *v, unsigned offset, unsigned bytes)
{
    (void)offset;
    (void)bytes;
    vmci_lock(&v->lock);
    /* Without the feature the field is read-only; with it, it is a truth value. */
    if (!vmci_virtio_has(v, F_CONFIG_WCE)) {
        struct blk_dev *d = VMCI_CONTAINER_OF(v, struct blk_dev, v);
        v->config[CFG_WRITEBACK] = !d->writethrough;
    } else {
        v->config[CFG_WRITEBACK] = v->config[CFG_WRITEBACK] != 0;
    }
    vmci_unlock(&v->lock);
}

static void blk_drain(struct vmc_virtio *v)
{
    kick_disk(VMCI_CONTAINER_OF(v, struct blk_dev, v));
}

static void free_queues(struct blk_dev *d, const struct vmc_platform *pf)
{
    for (unsigned i = 0; i < d->queues; i++) {
        vmci_free_aligned(pf, d->queue[i].sg, d->requests * vmci_chain_bytes(d->seg_cap), 16);
        vmci_free_aligned(pf, d->queue[i].req, d->requests * sizeof(struct blk_req),
                          VMCI_CACHELINE);
    }
}

static void blk_destroy(struct vmc_virtio *v)
{
    struct blk_dev *d = VMCI_CONTAINER_OF(v, struct blk_dev, v);
    const struct vmc_platform *pf = v->pf;

    vmci_virtio_fini(v);
    free_queues(d, pf);
    vmci_free(pf, d, sizeof(*d));
}

static const struct vmci_virtio_class blk_class = {
    .device = {.name = "virtio-blk"},
    .device_id = DEVICE_ID,
    .pci_class = 0x010000, /* SCSI storage controller, as other implementations say */
    .config_bytes = CFG_BYTES,
    .config_writable = VMCI_BIT(CFG_WRITEBACK),
    .work = blk_work,
    .config_written = blk_config_written,
    .reset = blk_reset,
    .drain = blk_drain,
    .destroy = blk_destroy,
};

static int alloc_queues(struct blk_dev *d, const struct vmc_platform *pf)
{
    size_t stride = vmci_chain_bytes(d->seg_cap);

    for (unsigned i = 0; i < d->queues; i++) {
        struct blk_queue *bq = &d->queue[i];

        bq->req = vmci_alloc_aligned(pf, d->requests * sizeof(struct blk_req), VMCI_CACHELINE);
        bq->sg = vmci_alloc_aligned(pf, d->requests * stride, 16);
        if (bq->req == NULL || bq->sg == NULL)
            return VMC_ENOMEM;
        memset(bq->req, 0, d->requests * sizeof(struct blk_req));
        for (unsigned j = 0; j < d->requests; j++) {
            struct blk_req *r = &bq->req[j];
            vmci_chain_place(&r->ch, bq->sg + j * stride, d->seg_cap);
            r->io.done = io_done;
            r->io.opaque = r;
            r->next = bq->free;
            bq->free = r;
        }
    }
    return VMC_OK;
}

static void fill_config(struct blk_dev *d)
{
    unsigned char *c = d->v.config;
    uint32_t blk = d->info.sector_bytes;
    uint32_t optimal = d->info.optimal_bytes;

    vmci_st_le64(c + CFG_CAPACITY, d->bytes / SECTOR);
    vmci_st_le32(c + CFG_SEG_MAX, d->seg_cap - SEG_SLACK);
    vmci_st_le32(c + CFG_BLK_SIZE, blk);
    while (vmci_is_pow2(optimal) && (blk << c[CFG_PHYSICAL_EXP]) < VMCI_MIN(optimal, 4096u))
        c[CFG_PHYSICAL_EXP]++;
    vmci_st_le16(c + CFG_MIN_IO, (uint16_t)(1u << c[CFG_PHYSICAL_EXP]));
    vmci_st_le32(c + CFG_OPT_IO, optimal / blk);
    c[CFG_WRITEBACK] = !d->writethrough;
    vmci_st_le16(c + CFG_NUM_QUEUES, (uint16_t)d->queues);
    vmci_st_le32(c + CFG_DISCARD_SECTORS, DISCARD_SECTORS);
    vmci_st_le32(c + CFG_DISCARD_SEGS, DISCARD_SEGS);
    vmci_st_le32(c + CFG_DISCARD_ALIGN, VMCI_MAX(blk, 4096u) / SECTOR);
    vmci_st_le32(c + CFG_ZEROES_SECTORS, DISCARD_SECTORS);
    vmci_st_le32(c + CFG_ZEROES_SEGS, DISCARD_SEGS);
    c[CFG_ZEROES_UNMAP] = 1;
}

static uint64_t features_of(const struct blk_dev *d)
{
    uint64_t f = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE;

    if (d->queues > 1)
        f |= F_MQ;
    if (d->read_only)
        return f | F_RO;
    if (d->info.can_discard)
        f |= F_DISCARD;
    if (d->info.can_write_zeroes)
        f |= F_WRITE_ZEROES;
    return f;
}

/* Check the configuration and what the disk says of itself. */
static int configure(struct blk_dev *d, const struct vmc_virtio_blk_config *cfg, uint16_t size,
                     struct vmc_error *err)
{
    const char *site = "virtio-blk/create";
    const char *serial = cfg->serial != NULL ? cfg->serial : "vmcore";
    size_t len = vmci_strlen(serial);

    if (cfg->disk.ops == NULL)
        return vmci_error(err, VMC_EINVAL, site, "no disk");
    if (len > sizeof(d->serial))
        return vmci_error(err, VMC_EINVAL, site, "the serial \"%.32s\" is longer than %u bytes",
                          serial, VMC_VIRTIO_BLK_SERIAL);
    if (cfg->queues > VMC_VIRTIO_BLK_QUEUES_MAX)
        return vmci_error(err, VMC_EINVAL, site, "%u queues, at most %u are possible", cfg->queues,
                          VMC_VIRTIO_BLK_QUEUES_MAX);
    d->disk = cfg->disk;
    int rc = d->disk.ops->info(d->disk.ctx, &d->info);
    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "the disk does not tell its size");
    if (!vmci_is_pow2(d->info.sector_bytes) || d->info.sector_bytes < SECTOR ||
        d->info.sector_bytes > 4096)
        return vmci_error(err, VMC_EINVAL, site, "sectors of %u bytes", d->info.sector_bytes);
    d->bytes = vmci_align_down(d->info.bytes, d->info.sector_bytes);
    d->read_only = cfg->read_only || d->info.read_only;
    d->writethrough = cfg->writethrough;
    memcpy(d->serial, serial, len);
    d->queues = cfg->queues != 0 ? cfg->queues : 1;
    d->requests = size + 1u; /* one more than can be in use, to find a driver out that tries */
    d->seg_cap = VMCI_MIN(SEG_MAX, size - 2u) + SEG_SLACK;
    return VMC_OK;
}

int vmc_virtio_blk_create(struct vmc_board *bd, const struct vmc_virtio_blk_config *cfg,
                          struct vmc_virtio **out, struct vmc_error *err)
{
    const struct vmc_platform *pf = bd->platform;
    uint16_t size;
    int rc = vmci_virtio_check_config(&cfg->virtio, &size, err);

    if (rc != VMC_OK)
        return rc;
    struct blk_dev *d = vmci_zalloc(pf, sizeof(*d));
    if (d == NULL)
        return vmci_error(err, VMC_ENOMEM, "virtio-blk/create", "no memory");
    rc = configure(d, cfg, size, err);
    if (rc == VMC_OK && (rc = alloc_queues(d, pf)) != VMC_OK)
        vmci_error(err, rc, "virtio-blk/create", "no memory for %u queues of %u requests",
                   d->queues, d->requests);
    if (rc == VMC_OK) {
        fill_config(d);
        rc = vmci_virtio_init(&d->v, bd, &cfg->virtio, &blk_class, features_of(d), d->queues, err);
    }
    if (rc != VMC_OK) {
        free_queues(d, pf);
        vmci_free(pf, d, sizeof(*d));
        return rc;
    }
    for (unsigned i = 0; i < d->queues; i++)
        for (unsigned j = 0; j < d->requests; j++)
            d->queue[i].req[j].q = &d->v.queue[i];
    *out = &d->v;
    return VMC_OK;
}

int vmc_virtio_blk_resized(struct vmc_virtio *v)
{
    struct blk_dev *d = VMCI_CONTAINER_OF(v, struct blk_dev, v);
    struct vmc_block_info info;
    int rc;

    if (v->cls != &blk_class)
        return VMC_EINVAL;
    rc = d->disk.ops->info(d->disk.ctx, &info);
    if (rc != VMC_OK)
        return rc;
    uint64_t bytes = vmci_align_down(info.bytes, d->info.sector_bytes);
    vmci_virtio_config_begin(v);
    vmci_store_relaxed(&d->bytes, bytes);
    vmci_st_le64(v->config + CFG_CAPACITY, bytes / SECTOR);
    vmci_virtio_config_end(v, true);
    return VMC_OK;
}
