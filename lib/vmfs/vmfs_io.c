/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The fast path: a file as a block device. A request in allocated space is a look-up in the
 * file's map and one request to the device, without a lock.
 *
 * Each request in flight owns a slot of its file. Whoever takes blocks away from the file first
 * makes the map say so and then waits until every slot that was busy has been given back
 * (vmci_fs_ios_drain): no I/O can still go to those blocks. Taking a slot is a locked
 * instruction, hence a full barrier between it and the look-up.
 *
 * Where the devices are synchronous and the platform can number threads, a request needs no slot
 * and no locked instruction: the thread marks its guard by a plain store, looks up, does the I/O,
 * and unmarks. Whoever takes blocks away then has every thread execute a barrier after the map has
 * changed: a mark that is not seen by then belongs to a thread that will see the new map.
 */
#include "vmfs/vmfs_priv.h"

#define STRIPES   4u
#define SLOT_IOVS 16u

struct fs_io_slot {
    struct vmc_block_req child;
    struct vmc_iovec iov[SLOT_IOVS];
    struct fs_inode *ino;
    struct vmc_block_req *parent;
    uint64_t at; /* bytes of the parent done or being done */
    uint64_t *busy;
    uint64_t bit;
    uint32_t generation;
};

#define GUARDS 64u
#define RUN    16u /* blocks on each side that are looked at */

struct fs_io_slots {
    struct {
        _Alignas(VMCI_CACHELINE) uint32_t busy; /* odd: I/O is under way; even: it is not */
    } guard[GUARDS];
    struct {
        _Alignas(VMCI_CACHELINE) uint64_t busy;
    } stripe[STRIPES];
    struct fs_io_slot slot[STRIPES][64];
};

int vmci_fs_ios_create(struct fs_inode *ino, struct vmc_error *err)
{
    if (ino->ios != NULL)
        return VMC_OK;
    struct fs_io_slots *s = vmci_alloc_aligned(ino->v->pf, sizeof(*s), VMCI_CACHELINE);
    if (s == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE("io"), "no memory for I/O");
    memset(s, 0, sizeof(*s));
    for (uint32_t i = 0; i < STRIPES; i++)
        for (uint32_t k = 0; k < 64; k++) {
            s->slot[i][k].ino = ino;
            s->slot[i][k].busy = &s->stripe[i].busy;
            s->slot[i][k].bit = 1ull << k;
        }
    ino->ios = s;
    return VMC_OK;
}

void vmci_fs_ios_destroy(struct fs_inode *ino)
{
    if (ino->ios != NULL)
        vmci_free_aligned(ino->v->pf, ino->ios, sizeof(*ino->ios), VMCI_CACHELINE);
    ino->ios = NULL;
}

static inline struct fs_io_slot *slot_get(struct fs_inode *ino, const struct vmc_block_req *req)
{
    struct fs_io_slots *s = ino->ios;
    uint32_t first = (uint32_t)((uintptr_t)req >> 7);

    for (uint32_t i = 0; i < STRIPES; i++) {
        uint32_t k = (first + i) % STRIPES;
        uint64_t free = ~vmci_load_relaxed(&s->stripe[k].busy);
        while (free != 0) {
            unsigned n = (unsigned)__builtin_ctzll(free);
            uint64_t bit = 1ull << n;
            if (likely(!(__atomic_fetch_or(&s->stripe[k].busy, bit, __ATOMIC_SEQ_CST) & bit))) {
                struct fs_io_slot *slot = &s->slot[k][n];
                vmci_store_relaxed(&slot->generation, slot->generation + 1);
                return slot;
            }
            free &= free - 1;
        }
    }
    return NULL;
}

static inline void slot_put(struct fs_io_slot *slot)
{
    __atomic_fetch_and(slot->busy, ~slot->bit, __ATOMIC_RELEASE);
}

static void poll_devices(struct vmc_vmfs *v)
{
    for (uint32_t i = 0; i < v->ndevs; i++)
        if (v->dev[i].bd.ops->poll != NULL)
            v->dev[i].bd.ops->poll(v->dev[i].bd.ctx);
    __builtin_ia32_pause();
}

static void kick_devices(struct vmc_vmfs *v)
{
    for (uint32_t i = 0; i < v->ndevs; i++)
        if (v->dev[i].bd.ops->kick != NULL)
            v->dev[i].bd.ops->kick(v->dev[i].bd.ctx);
}

static void drain_guards(struct vmc_vmfs *v, struct fs_io_slots *s)
{
    if (!v->unlocked || v->self == NULL)
        return;
    v->pf->sync->fence_all(v->pf->ctx);
    for (uint32_t i = 0; i < GUARDS; i++) {
        uint32_t seen = vmci_load_acquire(&s->guard[i].busy);
        while (seen & 1 && vmci_load_acquire(&s->guard[i].busy) == seen)
            __builtin_ia32_pause();
    }
}

void vmci_fs_ios_drain(struct fs_inode *ino)
{
    struct fs_io_slots *s = ino->ios;

    if (s == NULL)
        return;
    drain_guards(ino->v, s);
    vmci_fence_seq();
    for (uint32_t i = 0; i < STRIPES; i++) {
        uint64_t seen = vmci_load_acquire(&s->stripe[i].busy);
        while (seen != 0) {
            unsigned n = (unsigned)__builtin_ctzll(seen);
            uint32_t g = vmci_load_relaxed(&s->slot[i][n].generation);
            /* Gone, or already somebody else's who started after the map had changed. */
            while ((vmci_load_acquire(&s->stripe[i].busy) >> n & 1) &&
                   vmci_load_relaxed(&s->slot[i][n].generation) == g)
                poll_devices(ino->v);
            seen &= seen - 1;
        }
    }
}

/* ---- requests that need the volume's lock ------------------------------------------------------
 */

static int slow_rw(struct fs_inode *ino, struct vmc_block_req *req, struct vmc_error *err)
{
    uint64_t off = req->offset;

    for (uint32_t i = 0; i < req->iov_count; i++) {
        const struct vmc_iovec *io = &req->iov[i];
        int64_t n = req->op == VMC_BLOCK_READ
                        ? vmci_fs_read_slow(ino, io->base, io->bytes, off, err)
                        : vmci_fs_write_slow(ino, io->base, io->bytes, off, err);
        if (n < 0)
            return (int)n;
        if (req->op == VMC_BLOCK_READ && (size_t)n < io->bytes)
            memset((uint8_t *)io->base + n, 0, io->bytes - (size_t)n);
        off += io->bytes;
    }
    return VMC_OK;
}

static int slow(struct vmc_vmfs_file *f, struct vmc_block_req *req)
{
    struct vmc_vmfs *v = f->v;
    struct vmc_error err;
    int rc = VMC_OK;

    if (req->flags & VMC_BLOCK_NOWAIT) {
        req->status = VMC_EAGAIN;
        return VMC_BLOCK_COMPLETE;
    }
    vmci_lock(&v->lock);
    if (req->op != VMC_BLOCK_READ)
        rc = vmci_fs_session_check(v, &err);
    if (rc == VMC_OK && req->op == VMC_BLOCK_WRITE && !f->ino->loaded)
        rc = vmci_fs_inode_reload(f->ino, &err);
    uint64_t blocks = f->ino->loaded ? vmci_fs_md64(f->ino, FD_BLOCKS) : UINT64_MAX;
    if (rc == VMC_OK && (req->op == VMC_BLOCK_READ || req->op == VMC_BLOCK_WRITE))
        rc = slow_rw(f->ino, req, &err);
    else if (rc == VMC_OK && req->op == VMC_BLOCK_DISCARD)
        rc = vmci_fs_punch(f->ino, req->offset, req->bytes, false, &err);
    else if (rc == VMC_OK && req->op == VMC_BLOCK_WRITE_ZEROES)
        rc = vmci_fs_zero_range(f->ino, req->offset, req->bytes, &err);
    else if (rc == VMC_OK)
        rc = vmci_fs_flush(v, &err);
    if (rc == VMC_OK && req->op <= VMC_BLOCK_WRITE && f->ino->shift != 0 &&
        req->offset < f->ino->length)
        rc = vmci_fs_leaf_load(f->ino, req->offset >> f->ino->shift, &err);
    bool told =
        f->ino->full && rc == VMC_ENOSPC; /* whoever tries again every second heard it once */
    if (rc == VMC_ENOSPC)
        f->ino->full = true;
    else if (f->ino->loaded && vmci_fs_md64(f->ino, FD_BLOCKS) > blocks)
        f->ino->full = false;
    vmci_fs_cache_trim(v);
    vmci_unlock(&v->lock);
    if (rc != VMC_OK && !told)
        vmci_log(v->pf, VMC_LOG_WARN, "vmfs", "I/O on file 0x%08x at 0x%llx: %s", f->ino->addr,
                 (unsigned long long)req->offset, err.text);
    req->status = rc;
    return VMC_BLOCK_COMPLETE;
}

/* ---- the fast path -----------------------------------------------------------------------------
 */

/* A contiguous piece of the file from off on. False: the slow path has to look. */
static inline bool piece(const struct fs_inode *ino, uint64_t off, uint64_t bytes, uint32_t *state,
                         uint64_t *lv, uint64_t *len)
{
    uint32_t shift = ino->shift, st;
    uint64_t blk = off >> shift, fb, next;

    if (unlikely(shift == 0) || !vmci_fs_leaf_get(ino, blk, state, &fb))
        return false;
    uint64_t in = off & ((1ull << shift) - 1);
    *lv = (fb << shift) + in;
    *len = (1ull << shift) - in;
    /* Across blocks as long as they follow each other, or are all holes. */
    for (uint64_t n = 1; unlikely(*len < bytes); n++) {
        if (!vmci_fs_leaf_get(ino, blk + n, &st, &next) || st != *state ||
            (st == MAP_BLOCK && next != fb + n))
            break;
        *len += 1ull << shift;
    }
    *len = VMCI_MIN(*len, bytes);
    return true;
}

static bool all_mapped(const struct fs_inode *ino, const struct vmc_block_req *req)
{
    uint64_t at = 0, lv, len;
    uint32_t state;

    while (at < req->bytes) {
        if (!piece(ino, req->offset + at, req->bytes - at, &state, &lv, &len) ||
            state == MAP_OTHER || (req->op == VMC_BLOCK_WRITE && state != MAP_BLOCK))
            return false;
        at += len;
    }
    return true;
}

/* More pieces than a slot holds, and not of whole sectors: what is cut off them might not be,
 * either. */
static bool awkward(const struct vmc_block_req *req)
{
    for (uint32_t i = 0; i < req->iov_count && req->iov_count > SLOT_IOVS; i++)
        if (req->iov[i].bytes % FS_SECTOR != 0)
            return true;
    return false;
}

/* The iovec of bytes at .. at + len of the parent; returns how many bytes fitted. */
static uint64_t sub_iov(struct fs_io_slot *s, uint64_t at, uint64_t len, uint32_t *count)
{
    const struct vmc_block_req *p = s->parent;
    uint64_t done = 0;
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->iov_count && n < SLOT_IOVS && done < len; i++) {
        uint64_t have = p->iov[i].bytes;
        if (at >= have) {
            at -= have;
            continue;
        }
        uint64_t take = VMCI_MIN(have - at, len - done);
        s->iov[n++] = (struct vmc_iovec){.base = (uint8_t *)p->iov[i].base + at, .bytes = take};
        done += take;
        at = 0;
    }
    *count = n;
    return done;
}

static void child_done(struct vmc_block_req *child);

/* Go on with the parent from s->at. Returns PENDING while a child is out. */
static int advance(struct fs_io_slot *s)
{
    struct vmc_block_req *p = s->parent;
    struct vmc_vmfs *v = s->ino->v;

    while (s->at < p->bytes) {
        uint64_t lv, len;
        uint32_t state, count;
        if (!piece(s->ino, p->offset + s->at, p->bytes - s->at, &state, &lv, &len)) {
            p->status = VMC_EIO; /* the map was complete when the request came in */
            return VMC_BLOCK_COMPLETE;
        }
        len = sub_iov(s, s->at, len, &count);
        if (state != MAP_BLOCK) {
            for (uint32_t i = 0; i < count; i++)
                memset(s->iov[i].base, 0, s->iov[i].bytes);
            s->at += len;
            continue;
        }
        const struct fs_seg *seg = vmci_fs_seg(v, lv);
        if (seg == NULL) {
            p->status = VMC_EIO;
            return VMC_BLOCK_COMPLETE;
        }
        if (len > seg->lv + seg->bytes - lv)
            len = sub_iov(s, s->at, seg->lv + seg->bytes - lv, &count);
        s->child = (struct vmc_block_req){.op = p->op,
                                          .flags = p->flags,
                                          .offset = seg->dev_off + (lv - seg->lv),
                                          .bytes = len,
                                          .iov = s->iov,
                                          .iov_count = count,
                                          .done = child_done,
                                          .opaque = s};
        const struct vmc_blockdev *bd = &v->dev[seg->dev].bd;
        if (bd->ops->submit(bd->ctx, &s->child) == VMC_BLOCK_PENDING)
            return VMC_BLOCK_PENDING;
        if (s->child.status != VMC_OK) {
            p->status = s->child.status;
            return VMC_BLOCK_COMPLETE;
        }
        s->at += len;
    }
    p->status = VMC_OK;
    return VMC_BLOCK_COMPLETE;
}

static void child_done(struct vmc_block_req *child)
{
    struct fs_io_slot *s = child->opaque;
    struct vmc_block_req *p = s->parent;
    struct vmc_vmfs *v = s->ino->v;

    s->at += child->bytes;
    if (child->status != VMC_OK) {
        p->status = child->status;
    } else if (s->at < p->bytes && advance(s) == VMC_BLOCK_PENDING) {
        /* Whoever submitted the first piece has kicked the devices already: nobody will again. */
        kick_devices(v);
        return;
    } else if (s->at >= p->bytes) {
        p->status = VMC_OK;
    }
    slot_put(s);
    p->done(p);
}

/* Where on which device a request goes that lies inside one block. NULL: the slow path knows. */
static inline const struct vmc_blockdev *place(struct vmc_vmfs *v, const struct fs_map *map,
                                               uint32_t shift, uint64_t at, uint64_t bytes,
                                               uint64_t *offset)
{
    uint64_t fb, in = at & ((1ull << shift) - 1);
    const struct fs_seg *seg = v->seg;
    uint32_t state;

    if (unlikely(shift == 0 || in + bytes > 1ull << shift) ||
        unlikely(!vmci_fs_leaf_in(map, at >> shift, &state, &fb) || state != MAP_BLOCK))
        return NULL;
    uint64_t lv = (fb << shift) + in;
    if (unlikely(v->nsegs != 1))
        seg = vmci_fs_seg(v, lv);
    if (unlikely(seg == NULL || lv - seg->lv + bytes > seg->bytes))
        return NULL;
    *offset = seg->dev_off + (lv - seg->lv);
    return &v->dev[seg->dev].bd;
}

/* The usual case: inside one block. */
static inline int submit_one(struct fs_io_slot *s, struct vmc_block_req *req)
{
    const struct fs_inode *ino = s->ino;
    struct vmc_block_req *c = &s->child;
    const struct vmc_blockdev *bd = place(ino->v, vmci_load_acquire(&ino->map), ino->shift,
                                          req->offset, req->bytes, &c->offset);

    if (unlikely(bd == NULL))
        return -1;
    c->op = req->op;
    c->flags = req->flags;
    c->bytes = req->bytes;
    c->iov = req->iov;
    c->iov_count = req->iov_count;
    c->done = child_done;
    c->opaque = s;
    s->parent = req;
    s->at = 0;
    if (bd->ops->submit(bd->ctx, c) == VMC_BLOCK_PENDING)
        return VMC_BLOCK_PENDING;
    req->status = c->status;
    slot_put(s);
    return VMC_BLOCK_COMPLETE;
}

/* The thread's guard; NULL: it has none. */
static inline uint32_t *my_guard(struct vmc_vmfs *v, struct fs_io_slots *s)
{
    uint32_t n = v->self != NULL ? v->self(v->pf->ctx) : 0;

    return likely(n < GUARDS) ? &s->guard[n].busy : NULL;
}

/*
 * A request inside one block on synchronous devices: it goes to the device itself, at another
 * offset. False: not done.
 */
static inline bool submit_unlocked(struct fs_inode *ino, struct vmc_block_req *req)
{
    struct vmc_vmfs *v = ino->v;
    uint64_t off = req->offset, to;
    uint32_t *guard = my_guard(v, ino->ios);
    bool done = false;

    if (unlikely(guard == NULL))
        return false;
    uint32_t g = vmci_load_relaxed(guard);
    vmci_store_relaxed(guard, g + 1);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the processor's part is fence_all's */
    const struct vmc_blockdev *bd =
        place(v, vmci_load_acquire(&ino->map), ino->shift, off, req->bytes, &to);
    if (likely(bd != NULL)) {
        req->offset = to;
        done = bd->ops->submit(bd->ctx, req) == VMC_BLOCK_COMPLETE;
        req->offset = off;
    }
    vmci_store_release(guard, g + 2);
    return done;
}

/* A run of blocks of a file on a device. It stays good as long as the thread's guard is marked. */
struct run {
    uint64_t start, bytes; /* in the file; empty at first */
    uint64_t delta;        /* from there to the device */
};

/* The run of blocks in one leaf around blk, which is block fb of a volume on one device. */
static struct run find_run(const struct vmc_vmfs *v, const struct fs_map *map, uint32_t shift,
                           uint64_t length, uint64_t blk, uint64_t fb)
{
    uint64_t n = blk % FS_LEAF_BLOCKS, before = 0, after = 1;
    uintptr_t w = vmci_load_acquire(&map->w[blk / FS_LEAF_BLOCKS]);

    if ((w & 1) != 0 && (w >> 1) + n == fb) {
        before = n;
        after = FS_LEAF_BLOCKS - n;
    } else if (w != 0 && (w & 1) == 0) {
        const uint32_t *leaf = (const uint32_t *)w + n;
        uint32_t entry = (uint32_t)fb << 2 | MAP_BLOCK;
        while (before < VMCI_MIN(RUN, n) &&
               vmci_load_acquire(leaf - before - 1) == entry - ((uint32_t)before + 1) * 4)
            before++;
        while (after < VMCI_MIN(RUN, FS_LEAF_BLOCKS - n) &&
               vmci_load_acquire(leaf + after) == entry + (uint32_t)after * 4)
            after++;
    }
    uint64_t first = blk - before, end = blk + after;
    uint64_t lv = (fb - (blk - first)) << shift, start = first << shift;
    uint64_t bytes = VMCI_MIN(end << shift, length) - start;
    if (!vmci_range_ok(lv - v->seg->lv, bytes, v->seg->bytes))
        return (struct run){0};
    return (struct run){
        .start = start, .bytes = bytes, .delta = v->seg->dev_off + (lv - v->seg->lv) - start};
}

/*
 * The data of a file on a device in memory. The guard is marked from open to close: windows stay
 * good, and there is one look at the lease for all that is moved.
 */
static bool file_open_direct(void *ctx, struct vmc_block_mover *out)
{
    struct vmc_vmfs_file *f = ctx;
    struct vmc_vmfs *v = f->v;
    uint32_t *guard = my_guard(v, f->ino->ios);
    const struct vmc_blockdev *bd = &v->dev[v->seg->dev].bd;

    if (unlikely(guard == NULL || !bd->ops->direct->open(bd->ctx, out)))
        return false;
    out->writable = out->writable && (f->flags & VMC_VMFS_WRITE) != 0 && vmci_fs_lease_ok(v);
    vmci_store_relaxed(guard, vmci_load_relaxed(guard) + 1);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the processor's part is fence_all's */
    return true;
}

static void file_close_direct(void *ctx)
{
    struct vmc_vmfs_file *f = ctx;
    uint32_t *guard = my_guard(f->v, f->ino->ios);
    const struct vmc_blockdev *bd = &f->v->dev[f->v->seg->dev].bd;

    bd->ops->direct->close(bd->ctx);
    vmci_store_release(guard, vmci_load_relaxed(guard) + 1);
}

static bool file_window(void *ctx, uint64_t offset, uint64_t bytes, bool wide,
                        struct vmc_block_window *out)
{
    const struct vmc_vmfs_file *f = ctx;
    const struct fs_inode *ino = f->ino;
    struct vmc_vmfs *v = f->v;
    const struct fs_map *map = vmci_load_acquire(&ino->map);
    uint64_t length = vmci_load_acquire(&ino->length), to;
    struct run run = {.start = offset, .bytes = bytes};

    if (unlikely(!vmci_range_ok(offset, bytes, length)))
        return false;
    const struct vmc_blockdev *bd = place(v, map, ino->shift, offset, bytes, &to);
    if (unlikely(bd != &v->dev[v->seg->dev].bd)) /* none, or of an extent that came later */
        return false;
    run.delta = to - offset;
    if (wide && v->nsegs == 1) {
        struct run more = find_run(v, map, ino->shift, length, offset >> ino->shift,
                                   (to - v->seg->dev_off + v->seg->lv) >> ino->shift);
        if (likely(vmci_range_ok(offset - more.start, bytes, more.bytes)))
            run = more;
    }
    uint64_t first = run.start + run.delta;
    if (!bd->ops->direct->window(bd->ctx, first, run.bytes, wide, out))
        return false;
    *out = (struct vmc_block_window){
        .start = run.start, .bytes = run.bytes, .data = out->data + (first - out->start)};
    return true;
}

static const struct vmc_block_direct_ops file_direct = {
    .open = file_open_direct,
    .window = file_window,
    .close = file_close_direct,
};

static int fail(struct vmc_block_req *req, int status)
{
    req->status = status;
    return VMC_BLOCK_COMPLETE;
}

static int file_submit(void *ctx, struct vmc_block_req *req)
{
    struct vmc_vmfs_file *f = ctx;
    struct fs_inode *ino = f->ino;

    if (unlikely(req->op == VMC_BLOCK_FLUSH))
        return slow(f, req);
    if (unlikely(!vmci_range_ok(req->offset, req->bytes, vmci_load_acquire(&ino->length))))
        return fail(req, VMC_ERANGE);
    if (req->op != VMC_BLOCK_READ) {
        if (unlikely(!(f->flags & VMC_VMFS_WRITE)))
            return fail(req, VMC_EPERM);
        if (unlikely(req->op != VMC_BLOCK_WRITE || !vmci_fs_lease_ok(f->v)))
            return slow(f, req);
    }
    if (f->v->unlocked && likely(submit_unlocked(ino, req)))
        return VMC_BLOCK_COMPLETE;
    struct fs_io_slot *s = slot_get(ino, req);
    if (unlikely(s == NULL))
        return slow(f, req);
    int rc = submit_one(s, req);
    if (likely(rc >= 0))
        return rc;
    if (!all_mapped(ino, req) || awkward(req)) {
        slot_put(s);
        return slow(f, req);
    }
    s->parent = req;
    s->at = 0;
    rc = advance(s);
    if (rc == VMC_BLOCK_COMPLETE)
        slot_put(s);
    return rc;
}

static int file_info(void *ctx, struct vmc_block_info *out)
{
    struct vmc_vmfs_file *f = ctx;

    *out = (struct vmc_block_info){
        .bytes = vmci_align_down(vmci_load_acquire(&f->ino->length), FS_SECTOR),
        .sector_bytes = FS_SECTOR,
        .optimal_bytes = (uint32_t)f->v->g.fb_bytes,
        .read_only = !(f->flags & VMC_VMFS_WRITE),
        .can_discard = (f->flags & VMC_VMFS_WRITE) != 0,
        .can_write_zeroes = (f->flags & VMC_VMFS_WRITE) != 0,
    };
    return VMC_OK;
}

static void file_kick(void *ctx)
{
    struct vmc_vmfs_file *f = ctx;

    kick_devices(f->v);
}

static void file_poll(void *ctx)
{
    struct vmc_vmfs_file *f = ctx;

    poll_devices(f->v);
}

/* Completions come by themselves, or have to be looked for: as with the devices below. */
static const struct vmc_blockdev_ops file_ops = {
    .info = file_info,
    .submit = file_submit,
    .kick = file_kick,
};
static const struct vmc_blockdev_ops file_ops_polled = {
    .info = file_info,
    .submit = file_submit,
    .kick = file_kick,
    .poll = file_poll,
};

/* All of it on one device, in memory. */
static const struct vmc_blockdev_ops file_ops_direct = {
    .info = file_info,
    .submit = file_submit,
    .kick = file_kick,
    .direct = &file_direct,
};

int vmc_vmfs_file_blockdev(struct vmc_vmfs_file *f, struct vmc_blockdev *out, struct vmc_error *err)
{
    if (vmci_load_acquire(&f->ino->length) < FS_SECTOR)
        return vmci_error(err, VMC_EINVAL, SITE("io"), "a file of %llu bytes is no disk",
                          (unsigned long long)f->ino->length);
    if (f->ino->mapping)
        return vmci_error(err, VMC_ENOTSUP, SITE("io"),
                          "a mapping of a raw device is no disk itself");
    bool polled = false;
    for (uint32_t i = 0; i < f->v->ndevs; i++)
        polled = polled || f->v->dev[i].bd.ops->poll != NULL;
    bool direct =
        f->v->unlocked && f->v->nsegs == 1 && f->v->dev[f->v->seg->dev].bd.ops->direct != NULL;
    *out = (struct vmc_blockdev){.ops = direct   ? &file_ops_direct
                                        : polled ? &file_ops_polled
                                                 : &file_ops,
                                 .ctx = f};
    return VMC_OK;
}
