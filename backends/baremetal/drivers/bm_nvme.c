/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * NVMe (NVM Express Base Specification 1.4): one pair of I/O queues, interrupts by MSI-X or MSI.
 * A command's memory is described by PRP entries: pages, of which only the first may begin and
 * only the last may end inside.
 */
#include "kernel/bm_int.h"

#define R_CAP     0x00
#define R_INTMS   0x0c
#define R_CC      0x14
#define R_CSTS    0x1c
#define R_AQA     0x24
#define R_ASQ     0x28
#define R_ACQ     0x30
#define DOORBELLS 0x1000

#define DEPTH      64u
#define PRP_MAX    65u /* 256 KiB that begin inside a page */
#define CHUNK_MAX  (256u << 10)
#define TIMEOUT_US 10000000u
#define AGAIN_US   1000000u /* to start anew; the processor waits */

enum { ADM_CREATE_SQ = 1, ADM_CREATE_CQ = 5, ADM_IDENTIFY = 6, ADM_SET_FEATURES = 9 };
enum { IO_FLUSH = 0, IO_WRITE = 1, IO_READ = 2, IO_ZEROES = 8 };

struct sqe {
    uint32_t cdw0, nsid, cdw2, cdw3;
    uint64_t mptr, prp1, prp2;
    uint32_t cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};

struct cqe {
    uint32_t result, reserved;
    uint16_t sq_head, sq_id, cid, status; /* bit 0: phase */
};

struct queue {
    struct sqe *sq;
    volatile struct cqe *cq;
    uint64_t sq_pa, cq_pa;
    volatile char *sq_bell, *cq_bell;
    uint16_t tail, head, phase;
};

struct nvme;
struct ns {
    struct nvme *c;
    uint32_t id, shift;
    uint64_t bytes;
    struct bm_lease lease;
    struct vmc_blockdev dev;
    char name[12];
};

struct nvme {
    const struct bm_pci *pci;
    volatile char *reg;
    uint32_t limit_us; /* for its answers */
    bool dead;
    unsigned number;
    uint32_t stride, max_chunk;
    struct queue admin, io;
    struct bm_lock lock;
    volatile uint32_t irq;
    uint64_t *prp; /* a page for each slot's list */
    uint64_t prp_pa;
    struct {
        struct vmc_block_req *req;
        uint64_t bytes, since_ns;
    } slot[DEPTH];
    uint64_t busy;
    struct vmc_block_req *first, **last; /* waiting; backend[0] next, [1] begun, [2] finished,
                                            [3] failed, [4] namespace */
    char model[41];
};

static unsigned number;

/* ---- queues -------------------------------------------------------------------------------------
 */

static void make_queue(struct nvme *c, struct queue *q, unsigned id)
{
    uint64_t pa = q->sq_pa != 0 ? q->sq_pa : bm_pages_alloc(2, 1, OWNER_KERNEL);

    if (pa == 0)
        bm_panic("out of memory for a disk controller");
    memset(phys_ptr(pa), 0, 2 * PAGE);
    q->sq = phys_ptr(pa);
    q->sq_pa = pa;
    q->cq = phys_ptr(pa + PAGE);
    q->cq_pa = pa + PAGE;
    q->sq_bell = c->reg + DOORBELLS + 2 * id * c->stride;
    q->cq_bell = q->sq_bell + c->stride;
    q->tail = q->head = 0;
    q->phase = 1;
}

static void put(struct queue *q, const struct sqe *e)
{
    q->sq[q->tail] = *e;
    q->tail = (uint16_t)((q->tail + 1) % DEPTH);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    mmio_wr32(q->sq_bell, q->tail);
}

static bool get(struct queue *q, struct cqe *out)
{
    volatile struct cqe *e = &q->cq[q->head];

    if ((e->status & 1) != q->phase)
        return false;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    out->result = e->result;
    out->cid = e->cid;
    out->status = e->status;
    q->head = (uint16_t)((q->head + 1) % DEPTH);
    if (q->head == 0)
        q->phase ^= 1;
    mmio_wr32(q->cq_bell, q->head);
    return true;
}

/* An administrative command, waited for. */
static bool admin(struct nvme *c, const struct sqe *e)
{
    struct cqe done;

    put(&c->admin, e);
    for (uint64_t t = 0; t < c->limit_us; t += 10) {
        if (get(&c->admin, &done))
            return (done.status >> 1) == 0;
        bm_delay_us(10);
    }
    return false;
}

/* ---- requests -----------------------------------------------------------------------------------
 */

/*
 * PRP entries for the request from byte "from" on: as long as pieces meet at page borders.
 * Returns how many; *bytes is what they cover, whole blocks.
 */
static unsigned gather(const struct vmc_block_req *r, uint64_t from, uint64_t *prp, uint64_t max,
                       uint32_t block, uint64_t *bytes)
{
    unsigned n = 0;
    uint64_t total = 0, end = 0; /* end: address behind the last piece */

    for (uint32_t i = 0; i < r->iov_count; i++) {
        if (from >= r->iov[i].bytes) {
            from -= r->iov[i].bytes;
            continue;
        }
        uint64_t off = from;
        from = 0;
        while (off < r->iov[i].bytes) {
            uint64_t pa = bm_virt_to_phys((const char *)r->iov[i].base + off);
            uint64_t run = r->iov[i].bytes - off;
            if (run > PAGE - (pa & (PAGE - 1)))
                run = PAGE - (pa & (PAGE - 1));
            bool joined = n > 0 && pa == end && (pa & (PAGE - 1)) != 0;
            if (n > 0 && !joined && ((pa | end) & (PAGE - 1)) != 0)
                goto out; /* a hole inside a page */
            if (total >= max || (!joined && n == PRP_MAX))
                goto out;
            if (!joined)
                prp[n++] = pa;
            off += run;
            total += run;
            end = pa + run;
        }
    }
out:
    if (total > max)
        total = max;
    *bytes = total - total % block;
    /* entries behind the end are not looked at */
    return (unsigned)(((prp[0] & (PAGE - 1)) + *bytes + PAGE - 1) / PAGE);
}

static bool late(const struct vmc_block_req *r)
{
    const struct ns *ns = r->backend[4];
    return bm_late(r, &ns->lease);
}

/* With the lock. */
static void pump(struct nvme *c)
{
    while (c->first != NULL && !c->dead && c->busy != (1ull << (DEPTH - 1)) - 1 &&
           !late(c->first)) {
        struct vmc_block_req *r = c->first;
        const struct ns *ns = r->backend[4];
        unsigned s = (unsigned)__builtin_ctzll(~c->busy);
        uint64_t begun = (uint64_t)r->backend[1], bytes = 0;
        struct sqe e = {.cdw0 = (uint32_t)s << 16, .nsid = ns->id};
        if (r->op == VMC_BLOCK_FLUSH) {
            e.cdw0 |= IO_FLUSH;
        } else {
            uint64_t *prp = c->prp + s * (PAGE / 8);
            unsigned n = gather(r, begun, prp, c->max_chunk, 1u << ns->shift, &bytes);
            uint64_t lba = (r->offset + begun) >> ns->shift;
            e.cdw0 |= r->op == VMC_BLOCK_READ ? IO_READ : IO_WRITE;
            e.prp1 = prp[0];
            e.prp2 = n < 2 ? 0 : n == 2 ? prp[1] : c->prp_pa + s * PAGE + 8;
            e.cdw10 = (uint32_t)lba;
            e.cdw11 = (uint32_t)(lba >> 32);
            e.cdw12 = (uint32_t)(bytes >> ns->shift) - 1;
        }
        c->slot[s].req = r;
        c->slot[s].bytes = bytes;
        c->slot[s].since_ns = bm_now_ns();
        c->busy |= 1ull << s;
        begun += bytes;
        r->backend[1] = (void *)begun;
        if (r->op == VMC_BLOCK_FLUSH || begun == r->bytes) {
            c->first = r->backend[0];
            if (c->first == NULL)
                c->last = &c->first;
        }
        put(&c->io, &e);
    }
}

/* ---- starting, and starting anew ----------------------------------------------------------------
 */

static bool wait_ready(struct nvme *c, uint32_t want)
{
    for (uint64_t t = 0; t < c->limit_us; t += 100) {
        uint32_t s = mmio_rd32(c->reg + R_CSTS);
        if ((s & 2) != 0 && want != 0)
            return false; /* fatal; one that is being reset says so until it is */
        if ((s & 1) == want)
            return true;
        bm_delay_us(100);
    }
    return false;
}

static bool enable(struct nvme *c)
{
    mmio_wr32(c->reg + R_CC, 0);
    if (!wait_ready(c, 0))
        return false;
    make_queue(c, &c->admin, 0);
    make_queue(c, &c->io, 1);
    mmio_wr32(c->reg + R_AQA, (DEPTH - 1) << 16 | (DEPTH - 1));
    mmio_wr64(c->reg + R_ASQ, c->admin.sq_pa);
    mmio_wr64(c->reg + R_ACQ, c->admin.cq_pa);
    mmio_wr32(c->reg + R_CC, 4u << 20 | 6u << 16 | 1); /* entries of 16 and 64 bytes, enabled */
    return wait_ready(c, 1);
}

static bool io_queues(struct nvme *c)
{
    struct sqe want = {.cdw0 = ADM_SET_FEATURES, .cdw10 = 7}; /* one queue of each kind */
    struct sqe cq = {.cdw0 = ADM_CREATE_CQ,
                     .prp1 = c->io.cq_pa,
                     .cdw10 = (DEPTH - 1) << 16 | 1,
                     .cdw11 = 3}; /* interrupts, contiguous */
    struct sqe sq = {.cdw0 = ADM_CREATE_SQ,
                     .prp1 = c->io.sq_pa,
                     .cdw10 = (DEPTH - 1) << 16 | 1,
                     .cdw11 = 1u << 16 | 1};

    return admin(c, &want) && admin(c, &cq) && admin(c, &sq);
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
static void piece_over(struct nvme *c, unsigned s, bool failed, struct vmc_block_req ***end)
{
    struct vmc_block_req *r = c->slot[s].req;
    uint64_t finished = (uint64_t)r->backend[2] + c->slot[s].bytes;

    c->busy &= ~(1ull << s);
    r->backend[2] = (void *)finished;
    if (failed)
        r->backend[3] = c;
    if (r->op == VMC_BLOCK_FLUSH || finished == r->bytes)
        finish(r, r->backend[3] != NULL ? VMC_EIO : VMC_OK, end);
}

/* Why the controller has to be started anew, or NULL. */
static const char *overdue(const struct nvme *c)
{
    uint64_t now = bm_now_ns();

    for (uint64_t b = c->busy; b != 0; b &= b - 1) {
        unsigned s = (unsigned)__builtin_ctzll(b);
        if (now - c->slot[s].since_ns > BM_DISK_LIMIT_NS)
            return BM_DISK_LOST;
        if (late(c->slot[s].req))
            return BM_DISK_LATE;
    }
    return NULL;
}

/* With the lock: what waits for its turn, and must not have one any more. */
static void drop_late(struct nvme *c, struct vmc_block_req ***end)
{
    struct vmc_block_req **at = &c->first, *r;

    while ((r = *at) != NULL)
        if (late(r) && r->backend[1] == r->backend[2]) { /* no piece is under way */
            *at = r->backend[0];
            finish(r, VMC_EFENCED, end);
        } else {
            at = (struct vmc_block_req **)&r->backend[0];
        }
    c->last = at;
    pump(c);
}

/* With the lock: once the controller is off, no command can still reach memory. */
static void start_anew(struct nvme *c, const char *why, struct vmc_block_req ***end)
{
    struct vmc_block_req *r;

    bm_printf("nvme%u: a command is not finished %s: starting the controller anew\n", c->number,
              why);
    if (!enable(c) || !io_queues(c)) {
        bm_printf("nvme%u: it does not start; its disks are gone\n", c->number);
        bm_pci_stop(c->pci);
        c->dead = true;
    }
    while (c->busy != 0)
        piece_over(c, (unsigned)__builtin_ctzll(c->busy), true, end);
    while (c->dead && (r = c->first) != NULL) {
        c->first = r->backend[0];
        finish(r, VMC_EIO, end);
    }
    if (c->first == NULL)
        c->last = &c->first;
    pump(c);
}

/* What is over is told without the lock. */
static void nvme_poll(void *ctx)
{
    struct nvme *c = ctx;
    struct vmc_block_req *over = NULL, **end = &over, *r;
    struct cqe done;

    c->irq = 0;
    bm_lock(&c->lock);
    while (!c->dead && get(&c->io, &done)) {
        if (done.cid >= DEPTH || (c->busy >> done.cid & 1) == 0)
            bm_panic("an NVMe controller finishes command %u, which it was not given", done.cid);
        piece_over(c, done.cid, (done.status >> 1) != 0, &end);
        pump(c);
    }
    const char *why = overdue(c);
    if (why != NULL)
        start_anew(c, why, &end);
    drop_late(c, &end);
    bm_unlock(&c->lock);
    while ((r = over) != NULL) {
        over = r->backend[0];
        r->done(r);
    }
}

static void on_irq(void *ctx)
{
    ((struct nvme *)ctx)->irq = 1;
}

static int ns_info(void *ctx, struct vmc_block_info *out)
{
    struct ns *ns = ctx;

    *out = (struct vmc_block_info){.bytes = ns->bytes, .sector_bytes = 1u << ns->shift};
    return VMC_OK;
}

static int ns_submit(void *ctx, struct vmc_block_req *r)
{
    struct ns *ns = ctx;
    struct nvme *c = ns->c;
    uint64_t mask = (1ull << ns->shift) - 1;

    r->status = VMC_OK;
    if (r->op != VMC_BLOCK_FLUSH && (r->offset > ns->bytes || r->bytes > ns->bytes - r->offset ||
                                     ((r->offset | r->bytes) & mask) != 0))
        r->status = VMC_ERANGE;
    else if (r->op != VMC_BLOCK_FLUSH && r->op != VMC_BLOCK_READ && r->op != VMC_BLOCK_WRITE)
        r->status = VMC_ENOTSUP;
    if (r->status != VMC_OK || (r->op != VMC_BLOCK_FLUSH && r->bytes == 0))
        return VMC_BLOCK_COMPLETE;
    if (r->op != VMC_BLOCK_FLUSH && bm_bounce_needed(r, 1u << ns->shift, 1u << ns->shift))
        return bm_bounce_submit(r, &ns->dev); /* blocks are whole in every piece from here on */
    for (unsigned i = 0; i < 4; i++)
        r->backend[i] = NULL;
    r->backend[4] = ns;
    bm_lock(&c->lock);
    if (c->dead || late(r)) {
        r->status = c->dead ? VMC_EIO : VMC_EFENCED;
        bm_unlock(&c->lock);
        return VMC_BLOCK_COMPLETE;
    }
    *c->last = r;
    c->last = (struct vmc_block_req **)&r->backend[0];
    pump(c);
    bm_unlock(&c->lock);
    return VMC_BLOCK_PENDING;
}

static void ns_poll(void *ctx)
{
    nvme_poll(((struct ns *)ctx)->c);
}

static const struct vmc_blockdev_ops nvme_ops = {
    .info = ns_info, .submit = ns_submit, .poll = ns_poll};

/* ---- probing ------------------------------------------------------------------------------------
 */

static bool identify(struct nvme *c, uint32_t what, uint32_t nsid, uint64_t pa)
{
    struct sqe e = {.cdw0 = ADM_IDENTIFY, .nsid = nsid, .prp1 = pa, .cdw10 = what};

    memset(phys_ptr(pa), 0, PAGE);
    return admin(c, &e);
}

static void add_namespace(struct nvme *c, uint32_t nsid, uint64_t pa)
{
    const uint8_t *id = phys_ptr(pa);
    struct ns *ns = bm_zalloc(sizeof(*ns));
    uint64_t blocks;
    uint32_t format;

    if (ns == NULL || !identify(c, 0, nsid, pa))
        return;
    memcpy(&blocks, id, 8);
    memcpy(&format, id + 128 + 4 * (id[26] & 15u), 4);
    ns->c = c;
    ns->id = nsid;
    ns->shift = format >> 16 & 0xff;
    if (blocks == 0 || ns->shift < 9 || ns->shift > 12 || (format & 0xffff) != 0) /* metadata */
        return;
    ns->bytes = blocks << ns->shift;
    if (nsid == 1)
        bm_snprintf(ns->name, sizeof(ns->name), "nvme%u", c->number);
    else
        bm_snprintf(ns->name, sizeof(ns->name), "nvme%u.%u", c->number, nsid);
    ns->dev = (struct vmc_blockdev){.ops = &nvme_ops, .ctx = ns};
    bm_disk_add(ns->name, &ns->dev, c->model, &ns->lease);
}

static void find_namespaces(struct nvme *c, uint64_t cap)
{
    uint64_t pa = bm_pages_alloc(1, 1, OWNER_KERNEL);
    uint32_t list[16];

    if (pa == 0 || !identify(c, 1, 0, pa)) {
        bm_printf("nvme: the controller does not say what it is\n");
        return;
    }
    const uint8_t *id = phys_ptr(pa);
    memcpy(c->model, id + 24, 40);
    for (unsigned i = 40; i > 0 && c->model[i - 1] == ' '; i--)
        c->model[i - 1] = 0;
    unsigned mdts = id[77];
    uint64_t unit = 1ull << (12 + (cap >> 48 & 15));
    c->max_chunk =
        mdts != 0 && mdts < 16 && unit << mdts < CHUNK_MAX ? (uint32_t)(unit << mdts) : CHUNK_MAX;
    if (identify(c, 2, 0, pa)) { /* active namespaces */
        memcpy(list, phys_ptr(pa), sizeof(list));
        c->number = number++;
        for (unsigned i = 0; i < ARRAY_SIZE(list) && list[i] != 0; i++)
            add_namespace(c, list[i], pa);
    }
    bm_pages_free(pa, 1);
}

void bm_nvme_probe(const struct bm_pci *pci)
{
    bool io;
    uint64_t bytes;
    uint64_t bar = bm_pci_bar(pci, 0, &io, &bytes);
    struct nvme *c = bm_zalloc(sizeof(*c));

    if (c == NULL)
        bm_panic("out of memory for a disk controller");
    if (io || bar == 0)
        return;
    bm_pci_enable(pci);
    c->reg = bm_mmio_map(bar, 0x2000);
    uint64_t cap = mmio_rd64(c->reg + R_CAP);
    c->stride = 4u << (cap >> 32 & 15);
    c->last = &c->first;
    c->pci = pci;
    c->limit_us = TIMEOUT_US;
    c->prp_pa = bm_pages_alloc(DEPTH, 1, OWNER_KERNEL);
    if (c->prp_pa == 0)
        bm_panic("out of memory for a disk controller");
    c->prp = phys_ptr(c->prp_pa);
    bool irq = bm_pci_msi(pci, on_irq, c);
    if ((cap & 0xffff) + 1 < DEPTH || c->stride > 0x400 || !enable(c) || !io_queues(c)) {
        bm_printf("nvme at %02x:%02x.%u: does not start\n", pci->bus, pci->dev, pci->fn);
        return;
    }
    bm_poll_add(nvme_poll, c, &c->irq);
    if (!irq)
        bm_poll_always(&c->irq);
    find_namespaces(c, cap);
    c->limit_us = AGAIN_US;
}
