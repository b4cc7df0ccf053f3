/* SPDX-License-Identifier: BSD-2-Clause */
/* Virtio block device (virtio 1.2, 5.2): one queue. */
#include "bm_virtio.h"

#define SECTOR     512u
#define SEG_MAX    64u
#define F_SEG_MAX  (1ull << 2)
#define F_RO       (1ull << 5)
#define F_BLK_SIZE (1ull << 6)
#define F_FLUSH    (1ull << 9)
#define WANTED     (F_RO | F_FLUSH | F_SEG_MAX)
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4 };

struct slot {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } head;
    uint8_t status;
    struct slot *next_free;
    struct vmc_block_req *req;
    uint64_t bytes; /* of this piece */
    uint64_t since_ns;
};

struct vblk {
    struct bm_virtio v;
    struct bm_vq q;
    struct bm_lock lock;
    volatile uint32_t irq;
    uint64_t sectors;
    uint32_t seg_max; /* pieces that one request may have */
    bool dead;
    struct bm_lease lease;
    struct slot *slots, *free;           /* all VQ_SIZE of them; those that are not in use */
    struct vmc_block_req *first, **last; /* waiting; backend[0] next, backend[1] bytes begun,
                                            backend[2] bytes finished, backend[3] failed */
    struct vmc_blockdev dev;
    char name[8];
};

static unsigned number;

/* Descriptors for up to max pieces of the request from byte "from" on; returns their number. */
static unsigned gather(const struct vmc_block_req *r, uint64_t from, struct vq_desc *d,
                       unsigned max, uint64_t *bytes)
{
    unsigned n = 0;
    uint64_t total = 0;

    for (uint32_t i = 0; i < r->iov_count && n < max; i++) {
        uint64_t off = 0;
        if (from >= r->iov[i].bytes) {
            from -= r->iov[i].bytes;
            continue;
        }
        for (off = from, from = 0; off < r->iov[i].bytes && n < max;) {
            uint64_t pa = bm_virt_to_phys((const char *)r->iov[i].base + off);
            uint64_t run = r->iov[i].bytes - off;
            if (run > PAGE - (pa & (PAGE - 1)))
                run = PAGE - (pa & (PAGE - 1));
            if (n > 0 && d[n - 1].pa + d[n - 1].bytes == pa)
                d[n - 1].bytes += (uint32_t)run;
            else
                d[n++] = (struct vq_desc){.pa = pa, .bytes = (uint32_t)run};
            off += run;
            total += run;
        }
    }
    for (uint64_t over = total % SECTOR; over > 0;) { /* whole sectors only */
        uint64_t cut = d[n - 1].bytes < over ? d[n - 1].bytes : over;
        d[n - 1].bytes -= (uint32_t)cut;
        total -= cut;
        over -= cut;
        n -= d[n - 1].bytes == 0;
    }
    *bytes = total;
    return n;
}

/* With the lock: give the device as much of what waits as fits. */
static void pump(struct vblk *b)
{
    bool kick = false;

    while (b->first != NULL && b->free != NULL && !b->dead && !bm_late(b->first, &b->lease)) {
        struct vmc_block_req *r = b->first;
        struct slot *s = b->free;
        struct vq_desc d[SEG_MAX + 2];
        uint64_t begun = (uint64_t)r->backend[1];
        unsigned n = 0;
        s->bytes = 0;
        if (r->op != VMC_BLOCK_FLUSH)
            n = gather(r, begun, d + 1, b->seg_max, &s->bytes);
        for (unsigned i = 1; i <= n; i++)
            d[i].flags = r->op == VMC_BLOCK_READ ? VQ_WRITE : 0;
        s->head.type = r->op == VMC_BLOCK_FLUSH ? T_FLUSH : r->op == VMC_BLOCK_READ ? T_IN : T_OUT;
        s->head.reserved = 0;
        s->head.sector = r->op == VMC_BLOCK_FLUSH ? 0 : (r->offset + begun) / SECTOR;
        s->status = 0xff;
        d[0] = (struct vq_desc){.pa = bm_virt_to_phys(&s->head), .bytes = sizeof(s->head)};
        d[n + 1] =
            (struct vq_desc){.pa = bm_virt_to_phys(&s->status), .bytes = 1, .flags = VQ_WRITE};
        if (!bm_vq_add(&b->q, d, n + 2, s))
            break;
        kick = true;
        b->free = s->next_free;
        s->req = r; /* that of a free one stays NULL */
        s->since_ns = bm_now_ns();
        begun += s->bytes;
        r->backend[1] = (void *)begun;
        if (r->op == VMC_BLOCK_FLUSH || begun == r->bytes) {
            b->first = r->backend[0];
            if (b->first == NULL)
                b->last = &b->first;
        }
    }
    if (kick)
        bm_vq_kick(&b->q);
}

/* With the lock: out of our hands. */
static void finish(struct vmc_block_req *r, int status, struct vmc_block_req ***end)
{
    r->status = status;
    r->backend[0] = NULL;
    **end = r;
    *end = (struct vmc_block_req **)&r->backend[0];
}

/* With the lock. A piece of the request is over; was it the last? */
static void piece_over(struct vblk *b, struct slot *s, bool failed, struct vmc_block_req ***end)
{
    struct vmc_block_req *r = s->req;
    uint64_t finished = (uint64_t)r->backend[2] + s->bytes;

    s->req = NULL;
    s->next_free = b->free;
    b->free = s;
    r->backend[2] = (void *)finished;
    if (failed)
        r->backend[3] = b;
    if (r->op == VMC_BLOCK_FLUSH || finished == r->bytes)
        finish(r, r->backend[3] != NULL ? VMC_EIO : VMC_OK, end);
}

/* Why the device has to be started anew, or NULL. */
static const char *overdue(const struct vblk *b)
{
    uint64_t now = bm_now_ns();

    for (unsigned i = 0; i < VQ_SIZE; i++)
        if (b->slots[i].req != NULL) {
            if (now - b->slots[i].since_ns > BM_DISK_LIMIT_NS)
                return BM_DISK_LOST;
            if (bm_late(b->slots[i].req, &b->lease))
                return BM_DISK_LATE;
        }
    return NULL;
}

/* With the lock: what waits for its turn, and must not have one any more. */
static void drop_late(struct vblk *b, struct vmc_block_req ***end)
{
    struct vmc_block_req **at = &b->first, *r;

    while ((r = *at) != NULL)
        if (bm_late(r, &b->lease) && r->backend[1] == r->backend[2]) { /* no piece is under way */
            *at = r->backend[0];
            finish(r, VMC_EFENCED, end);
        } else {
            at = (struct vmc_block_req **)&r->backend[0];
        }
    b->last = at;
    pump(b);
}

/* With the lock: once the device is reset, no request can still reach memory. */
static void start_anew(struct vblk *b, const char *why, struct vmc_block_req ***end)
{
    struct vmc_block_req *r;

    bm_printf("%s: a request is not finished %s: starting the device anew\n", b->name, why);
    b->dead = !bm_virtio_start(&b->v, b->v.pci, WANTED) || !bm_virtio_queue(&b->v, &b->q, 0);
    if (b->dead) {
        bm_printf("%s: it does not start; the disk is gone\n", b->name);
        bm_pci_stop(b->v.pci);
    } else {
        bm_virtio_live(&b->v);
    }
    for (unsigned i = 0; i < VQ_SIZE; i++)
        if (b->slots[i].req != NULL)
            piece_over(b, &b->slots[i], true, end);
    while (b->dead && (r = b->first) != NULL) {
        b->first = r->backend[0];
        finish(r, VMC_EIO, end);
    }
    if (b->first == NULL)
        b->last = &b->first;
    pump(b);
}

/* What is over is told without the lock. */
static void vblk_poll(void *ctx)
{
    struct vblk *b = ctx;
    struct vmc_block_req *over = NULL, **end = &over, *r;
    struct slot *s;
    uint32_t bytes;

    b->irq = 0;
    bm_lock(&b->lock);
    while (!b->dead && (s = bm_vq_get(&b->q, &bytes)) != NULL) {
        piece_over(b, s, s->status != 0, &end);
        pump(b);
    }
    const char *why = overdue(b);
    if (why != NULL)
        start_anew(b, why, &end);
    drop_late(b, &end);
    bm_unlock(&b->lock);
    while ((r = over) != NULL) {
        over = r->backend[0];
        r->done(r);
    }
}

static void on_irq(void *ctx)
{
    ((struct vblk *)ctx)->irq = 1;
}

static int vblk_info(void *ctx, struct vmc_block_info *out)
{
    struct vblk *b = ctx;

    *out = (struct vmc_block_info){.bytes = b->sectors * SECTOR,
                                   .sector_bytes = SECTOR,
                                   .read_only = (b->v.features & F_RO) != 0};
    return VMC_OK;
}

static int vblk_submit(void *ctx, struct vmc_block_req *r)
{
    struct vblk *b = ctx;

    r->status = VMC_OK;
    if (r->op == VMC_BLOCK_FLUSH && (b->v.features & F_FLUSH) == 0)
        return VMC_BLOCK_COMPLETE; /* no cache */
    if (r->op != VMC_BLOCK_FLUSH &&
        (r->offset > b->sectors * SECTOR || r->bytes > b->sectors * SECTOR - r->offset ||
         r->offset % SECTOR != 0 || r->bytes % SECTOR != 0))
        r->status = VMC_ERANGE;
    else if (r->op == VMC_BLOCK_WRITE && (b->v.features & F_RO) != 0)
        r->status = VMC_EPERM;
    else if (r->op != VMC_BLOCK_FLUSH && r->op != VMC_BLOCK_READ && r->op != VMC_BLOCK_WRITE)
        r->status = VMC_ENOTSUP;
    if (r->status != VMC_OK || (r->op != VMC_BLOCK_FLUSH && r->bytes == 0))
        return VMC_BLOCK_COMPLETE;
    /* One piece alone has to hold a whole sector: none may cross a page. */
    if (r->op != VMC_BLOCK_FLUSH && bm_bounce_needed(r, b->seg_max == 1 ? SECTOR : 1, SECTOR))
        return bm_bounce_submit(r, &b->dev);
    for (unsigned i = 0; i < 4; i++)
        r->backend[i] = NULL;
    bm_lock(&b->lock);
    if (b->dead || bm_late(r, &b->lease)) {
        r->status = b->dead ? VMC_EIO : VMC_EFENCED;
        bm_unlock(&b->lock);
        return VMC_BLOCK_COMPLETE;
    }
    *b->last = r;
    b->last = (struct vmc_block_req **)&r->backend[0];
    pump(b);
    bm_unlock(&b->lock);
    return VMC_BLOCK_PENDING;
}

static const struct vmc_blockdev_ops vblk_ops = {
    .info = vblk_info, .submit = vblk_submit, .poll = vblk_poll};

void bm_virtio_blk_probe(const struct bm_pci *p)
{
    struct vblk *b = bm_zalloc(sizeof(*b));
    struct slot *slots = bm_zalloc(VQ_SIZE * sizeof(*slots));

    if (b == NULL || slots == NULL)
        bm_panic("out of memory for a virtio disk");
    if (!bm_virtio_start(&b->v, p, WANTED) || !bm_pci_msi(p, on_irq, b) ||
        !bm_virtio_queue(&b->v, &b->q, 0) || b->q.size < 4) {
        bm_printf("virtio-blk at %02x:%02x.%u: not usable\n", p->bus, p->dev, p->fn);
        return;
    }
    b->slots = slots;
    for (unsigned i = 0; i < VQ_SIZE; i++) {
        slots[i].next_free = b->free;
        b->free = &slots[i];
    }
    b->last = &b->first;
    /* a chain has a descriptor before and one behind them, and has to fit into the queue */
    b->seg_max = b->q.size - 2u < SEG_MAX ? b->q.size - 2u : SEG_MAX;
    uint32_t limit = (b->v.features & F_SEG_MAX) != 0 ? mmio_rd32(b->v.device + 12) : 0;
    if (limit != 0 && limit < b->seg_max)
        b->seg_max = limit;
    b->sectors = mmio_rd64(b->v.device);
    bm_virtio_live(&b->v);
    bm_poll_add(vblk_poll, b, &b->irq);
    bm_snprintf(b->name, sizeof(b->name), "vblk%u", number++);
    b->dev = (struct vmc_blockdev){.ops = &vblk_ops, .ctx = b};
    bm_disk_add(b->name, &b->dev, "virtio", &b->lease);
}
