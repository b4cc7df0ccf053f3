/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SATA disks behind an AHCI controller (Serial ATA AHCI 1.3.1). A port holds up to 32 commands,
 * which the controller takes in order; queued commands (NCQ) are not used.
 */
#include "kernel/bm_int.h"

#define SECTOR     512u
#define PRD_MAX    56u
#define TIMEOUT_US 2000000u

#define HBA_CAP   0x00
#define HBA_GHC   0x04
#define HBA_IS    0x08
#define HBA_PI    0x0c
#define GHC_RESET 1u
#define GHC_IE    (1u << 1)
#define GHC_AE    (1u << 31)

#define PORT(n)   (0x100u + 0x80u * (n))
#define P_CLB     0x00
#define P_FB      0x08
#define P_IS      0x10
#define P_IE      0x14
#define P_CMD     0x18
#define P_TFD     0x20
#define P_SIG     0x24
#define P_SSTS    0x28
#define P_SCTL    0x2c
#define P_SERR    0x30
#define P_CI      0x38
#define CMD_ST    1u
#define CMD_SUD   (1u << 1)
#define CMD_POD   (1u << 2)
#define CMD_FRE   (1u << 4)
#define CMD_FR    (1u << 14)
#define CMD_CR    (1u << 15)
#define IS_ERRORS 0x78000000u /* task file, host bus, interface */
#define IE_WANTED (IS_ERRORS | 3u)
#define SIG_ATA   0x00000101u

#define ATA_IDENTIFY  0xecu
#define ATA_READ_EXT  0x25u
#define ATA_WRITE_EXT 0x35u
#define ATA_FLUSH_EXT 0xeau

struct header {
    uint16_t flags, prds;
    volatile uint32_t moved;
    uint64_t table;
    uint32_t reserved[4];
};

struct table {
    uint8_t fis[64], atapi[16], reserved[48];
    struct {
        uint64_t pa;
        uint32_t zero, bytes; /* less one */
    } prd[PRD_MAX];
};
_Static_assert(sizeof(struct table) == 1024, "four tables a page");

struct ahci;
struct port {
    struct ahci *hba;
    volatile char *reg;
    struct bm_lock lock;
    struct header *list;
    struct table *table;
    uint32_t slots, busy; /* bit n: command n is with the device */
    uint32_t is;          /* interrupt bits seen */
    struct {
        struct vmc_block_req *req;
        uint64_t bytes, since_ns;
    } slot[32];
    struct vmc_block_req *first, **last; /* waiting; backend[0] next, [1] bytes begun, [2] finished,
                                            [3] failed */
    uint64_t sectors;
    struct bm_lease lease;
    volatile bool dead; /* its controller reaches no memory any more */
    struct vmc_blockdev dev;
    char name[8], model[41];
};

struct ahci {
    const struct bm_pci *pci;
    volatile char *reg;
    volatile uint32_t irq;
    bool wide; /* 64-bit addresses */
    struct port *port[32];
};

static unsigned number;

static uint32_t rd(struct port *p, unsigned reg)
{
    return mmio_rd32(p->reg + reg);
}

static void wr(struct port *p, unsigned reg, uint32_t v)
{
    mmio_wr32(p->reg + reg, v);
}

static bool wait_clear(struct port *p, unsigned reg, uint32_t bits)
{
    for (uint64_t t = 0; t < TIMEOUT_US; t += 10) {
        if ((rd(p, reg) & bits) == 0)
            return true;
        bm_delay_us(10);
    }
    return false;
}

/* ---- commands -----------------------------------------------------------------------------------
 */

static void put_fis(struct table *t, uint8_t cmd, uint64_t lba, uint32_t count)
{
    memset(t->fis, 0, sizeof(t->fis));
    t->fis[0] = 0x27; /* register, host to device */
    t->fis[1] = 0x80; /* a command */
    t->fis[2] = cmd;
    for (unsigned i = 0; i < 3; i++) {
        t->fis[4 + i] = (uint8_t)(lba >> 8 * i);
        t->fis[8 + i] = (uint8_t)(lba >> (24 + 8 * i));
    }
    t->fis[7] = 0x40; /* LBA */
    t->fis[12] = (uint8_t)count;
    t->fis[13] = (uint8_t)(count >> 8);
}

/* Entries for the request from byte "from" on; returns how many. */
static unsigned gather(const struct vmc_block_req *r, uint64_t from, struct table *t,
                       uint64_t *bytes)
{
    unsigned n = 0;
    uint64_t total = 0;

    for (uint32_t i = 0; i < r->iov_count && n < PRD_MAX; i++) {
        if (from >= r->iov[i].bytes) {
            from -= r->iov[i].bytes;
            continue;
        }
        uint64_t off = from;
        from = 0;
        while (off < r->iov[i].bytes && n < PRD_MAX) {
            uint64_t pa = bm_virt_to_phys((const char *)r->iov[i].base + off);
            uint64_t run = r->iov[i].bytes - off;
            if (run > PAGE - (pa & (PAGE - 1)))
                run = PAGE - (pa & (PAGE - 1));
            t->prd[n].pa = pa;
            t->prd[n].zero = 0;
            t->prd[n++].bytes = (uint32_t)run - 1;
            off += run;
            total += run;
        }
    }
    for (uint64_t over = total % SECTOR; over > 0;) {
        uint64_t have = t->prd[n - 1].bytes + 1ull;
        uint64_t cut = have < over ? have : over;
        t->prd[n - 1].bytes -= (uint32_t)cut;
        total -= cut;
        over -= cut;
        n -= have == cut;
    }
    *bytes = total;
    return n;
}

/* With the lock. */
static void pump(struct port *p)
{
    while (p->first != NULL && p->busy != p->slots && !p->dead && !bm_late(p->first, &p->lease)) {
        struct vmc_block_req *r = p->first;
        unsigned s = (unsigned)__builtin_ctz(p->slots & ~p->busy);
        uint64_t begun = (uint64_t)r->backend[1];
        bool write = r->op == VMC_BLOCK_WRITE;
        struct table *t = &p->table[s];
        uint64_t bytes = 0;
        unsigned n = 0;
        if (r->op == VMC_BLOCK_FLUSH) {
            if (p->busy != 0)
                return; /* behind everything that was written */
            put_fis(t, ATA_FLUSH_EXT, 0, 0);
        } else {
            n = gather(r, begun, t, &bytes);
            put_fis(t, write ? ATA_WRITE_EXT : ATA_READ_EXT, (r->offset + begun) / SECTOR,
                    (uint32_t)(bytes / SECTOR));
        }
        p->list[s].flags = (uint16_t)(5 | (write ? 1u << 6 : 0));
        p->list[s].prds = (uint16_t)n;
        p->list[s].moved = 0;
        p->slot[s].req = r;
        p->slot[s].bytes = bytes;
        p->slot[s].since_ns = bm_now_ns();
        begun += bytes;
        r->backend[1] = (void *)begun;
        if (r->op == VMC_BLOCK_FLUSH || begun == r->bytes) {
            p->first = r->backend[0];
            if (p->first == NULL)
                p->last = &p->first;
        }
        p->busy |= 1u << s;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        wr(p, P_CI, 1u << s);
    }
}

static bool stop(struct port *p)
{
    wr(p, P_CMD, rd(p, P_CMD) & ~CMD_ST);
    if (!wait_clear(p, P_CMD, CMD_CR))
        return false;
    wr(p, P_CMD, rd(p, P_CMD) & ~CMD_FRE);
    return wait_clear(p, P_CMD, CMD_FR);
}

static bool start(struct port *p)
{
    wr(p, P_SERR, UINT32_MAX);
    wr(p, P_IS, UINT32_MAX);
    wr(p, P_CMD, rd(p, P_CMD) | CMD_FRE | CMD_SUD | CMD_POD);
    if (!wait_clear(p, P_TFD, 0x88)) /* BSY, DRQ */
        return false;
    wr(p, P_CMD, rd(p, P_CMD) | CMD_ST);
    return true;
}

/* Take over the port's interrupt bits. Also in interrupt context. */
static void collect(struct port *p)
{
    uint32_t is = rd(p, P_IS);

    wr(p, P_IS, is);
    __atomic_or_fetch(&p->is, is, __ATOMIC_SEQ_CST);
}

/* The link is reset, and with it the device (AHCI 10.4.2). */
static bool reset_link(struct port *p)
{
    wr(p, P_CMD, rd(p, P_CMD) & ~CMD_ST);
    (void)wait_clear(p, P_CMD, CMD_CR); /* or else the reset ends it */
    wr(p, P_SCTL, (rd(p, P_SCTL) & ~15u) | 1);
    bm_delay_us(1000);
    wr(p, P_SCTL, rd(p, P_SCTL) & ~15u);
    for (unsigned t = 0; t < 1000 && (rd(p, P_SSTS) & 15) != 3; t++)
        bm_delay_us(1000);
    return stop(p) && start(p);
}

/*
 * All commands have failed. They are nobody's when the port has stopped; where it does not, the
 * whole controller is kept from memory.
 */
static void recover(struct port *p, bool lost)
{
    if ((!lost && stop(p) && start(p)) || reset_link(p))
        return;
    bm_printf("%s: the port does not recover; all disks of its controller are gone\n", p->name);
    bm_pci_stop(p->hba->pci);
    for (unsigned i = 0; i < 32; i++)
        if (p->hba->port[i] != NULL)
            p->hba->port[i]->dead = true;
    p->hba->irq = 1; /* the others look, too */
}

/* Why the link has to be reset, or NULL. */
static const char *overdue(const struct port *p)
{
    uint64_t now = bm_now_ns();

    for (uint32_t b = p->busy; b != 0; b &= b - 1) {
        unsigned s = (unsigned)__builtin_ctz(b);
        if (now - p->slot[s].since_ns > BM_DISK_LIMIT_NS)
            return BM_DISK_LOST;
        if (bm_late(p->slot[s].req, &p->lease))
            return BM_DISK_LATE;
    }
    return NULL;
}

/* Commands that are over, as a mask; after an error the port is started again and all have failed.
 */
static uint32_t take_finished(struct port *p, bool *failed)
{
    if (p->dead) {
        *failed = true;
        return p->busy;
    }
    collect(p);
    *failed = (__atomic_exchange_n(&p->is, 0, __ATOMIC_SEQ_CST) & IS_ERRORS) != 0;
    uint32_t over = p->busy & ~rd(p, P_CI);
    const char *why = *failed || over != 0 ? NULL : overdue(p);
    if (why != NULL) {
        bm_printf("%s: a command is not finished %s: resetting the link\n", p->name, why);
        recover(p, true);
        *failed = true;
    } else if (*failed) {
        recover(p, false);
    }
    return *failed ? p->busy : over;
}

/* With the lock: out of the port's hands, to be reported when the lock is not held. */
static void finish(struct vmc_block_req *r, int status, struct vmc_block_req ***end)
{
    r->status = status;
    r->backend[0] = NULL;
    **end = r;
    *end = (struct vmc_block_req **)&r->backend[0];
}

/* With the lock: what waits for its turn, and must not have one any more. */
static void drop_late(struct port *p, struct vmc_block_req ***end)
{
    struct vmc_block_req **at = &p->first, *r;

    while ((r = *at) != NULL)
        if (bm_late(r, &p->lease) && r->backend[1] == r->backend[2]) { /* no piece is under way */
            *at = r->backend[0];
            finish(r, VMC_EFENCED, end);
        } else {
            at = (struct vmc_block_req **)&r->backend[0];
        }
    p->last = at;
}

/* Whoever else looks meanwhile must not find the same commands: all are taken before one is told.
 */
static void poll_port(struct port *p)
{
    struct vmc_block_req *over = NULL, **end = &over, *r;
    bool failed = false;

    bm_lock(&p->lock);
    for (uint32_t ready = p->busy != 0 ? take_finished(p, &failed) : 0; ready != 0;
         ready &= ready - 1) {
        unsigned s = (unsigned)__builtin_ctz(ready);
        r = p->slot[s].req;
        uint64_t finished = (uint64_t)r->backend[2] + p->slot[s].bytes;
        p->busy &= ~(1u << s);
        r->backend[2] = (void *)finished;
        if (failed)
            r->backend[3] = p;
        if (r->op == VMC_BLOCK_FLUSH || finished == r->bytes)
            finish(r, r->backend[3] != NULL ? VMC_EIO : VMC_OK, &end);
    }
    drop_late(p, &end);
    pump(p);
    while (p->dead && (r = p->first) != NULL) { /* nobody will ever serve them */
        p->first = r->backend[0];
        finish(r, VMC_EIO, &end);
    }
    if (p->first == NULL)
        p->last = &p->first;
    bm_unlock(&p->lock);
    while ((r = over) != NULL) {
        over = r->backend[0];
        r->done(r);
    }
}

static void ahci_poll(void *ctx)
{
    struct ahci *h = ctx;

    h->irq = 0;
    for (unsigned i = 0; i < 32; i++)
        if (h->port[i] != NULL)
            poll_port(h->port[i]);
}

/* The ports' bits first: as long as one is set, clearing the controller's raises it again. */
static void on_irq(void *ctx)
{
    struct ahci *h = ctx;
    uint32_t is = mmio_rd32(h->reg + HBA_IS);

    for (unsigned i = 0; i < 32; i++)
        if ((is >> i & 1) != 0 && h->port[i] != NULL)
            collect(h->port[i]);
    mmio_wr32(h->reg + HBA_IS, is);
    h->irq = 1;
}

/* ---- block device -------------------------------------------------------------------------------
 */

static int port_info(void *ctx, struct vmc_block_info *out)
{
    struct port *p = ctx;

    *out = (struct vmc_block_info){.bytes = p->sectors * SECTOR, .sector_bytes = SECTOR};
    return VMC_OK;
}

static int port_submit(void *ctx, struct vmc_block_req *r)
{
    struct port *p = ctx;

    r->status = VMC_OK;
    if (r->op != VMC_BLOCK_FLUSH &&
        (r->offset > p->sectors * SECTOR || r->bytes > p->sectors * SECTOR - r->offset ||
         r->offset % SECTOR != 0 || r->bytes % SECTOR != 0))
        r->status = VMC_ERANGE;
    else if (r->op != VMC_BLOCK_FLUSH && r->op != VMC_BLOCK_READ && r->op != VMC_BLOCK_WRITE)
        r->status = VMC_ENOTSUP;
    if (r->status != VMC_OK || (r->op != VMC_BLOCK_FLUSH && r->bytes == 0))
        return VMC_BLOCK_COMPLETE;
    if (r->op != VMC_BLOCK_FLUSH && bm_bounce_needed(r, 2, SECTOR))
        return bm_bounce_submit(r, &p->dev);
    for (unsigned i = 0; i < 4; i++)
        r->backend[i] = NULL;
    bm_lock(&p->lock);
    if (p->dead || bm_late(r, &p->lease)) {
        r->status = p->dead ? VMC_EIO : VMC_EFENCED;
        bm_unlock(&p->lock);
        return VMC_BLOCK_COMPLETE;
    }
    *p->last = r;
    p->last = (struct vmc_block_req **)&r->backend[0];
    pump(p);
    bm_unlock(&p->lock);
    return VMC_BLOCK_PENDING;
}

static void port_poll(void *ctx)
{
    poll_port(ctx);
}

static const struct vmc_blockdev_ops ahci_ops = {
    .info = port_info, .submit = port_submit, .poll = port_poll};

/* ---- probing ------------------------------------------------------------------------------------
 */

static bool identify(struct port *p, uint16_t id[256], uint64_t pa)
{
    put_fis(&p->table[0], ATA_IDENTIFY, 0, 0);
    p->table[0].prd[0].pa = pa;
    p->table[0].prd[0].bytes = 511;
    p->list[0].flags = 5;
    p->list[0].prds = 1;
    wr(p, P_CI, 1);
    if (!wait_clear(p, P_CI, 1) || (rd(p, P_TFD) & 1) != 0)
        return false;
    memcpy(id, phys_ptr(pa), 512);
    wr(p, P_IS, UINT32_MAX);
    return true;
}

static bool set_up(struct port *p, uint32_t slots)
{
    /* the command list, the received FIS and 32 tables; low, for controllers with 32 bits */
    uint64_t pa = bm_pages_alloc_low(9, OWNER_KERNEL);

    if (pa == 0)
        bm_panic("out of memory for a disk controller");
    memset(phys_ptr(pa), 0, 9 * PAGE);
    if (!stop(p)) {
        bm_pages_free(pa, 9);
        return false;
    }
    p->list = phys_ptr(pa);
    p->table = phys_ptr(pa + PAGE);
    for (unsigned i = 0; i < 32; i++)
        p->list[i].table = pa + PAGE + i * sizeof(struct table);
    mmio_wr64(p->reg + P_CLB, pa);
    mmio_wr64(p->reg + P_FB, pa + 1024);
    p->slots = slots;
    p->last = &p->first;
    uint16_t id[256];
    /* the signature arrives with the first FIS */
    if (!start(p) || rd(p, P_SIG) != SIG_ATA || !identify(p, id, pa + 2048)) {
        (void)stop(p); /* the memory stays: the controller may still write to it */
        return false;
    }
    p->sectors = (uint64_t)id[100] | (uint64_t)id[101] << 16 | (uint64_t)id[102] << 32;
    for (unsigned i = 0; i < 20; i++) {
        p->model[2 * i] = (char)(id[27 + i] >> 8);
        p->model[2 * i + 1] = (char)id[27 + i];
    }
    for (unsigned i = 40; i > 0 && p->model[i - 1] == ' '; i--)
        p->model[i - 1] = 0;
    return p->sectors != 0 && (id[83] & 0xc400) == 0x4400;
}

static void probe_port(struct ahci *h, unsigned n, uint32_t slots)
{
    struct port *p = bm_zalloc(sizeof(*p));

    if (p == NULL)
        bm_panic("out of memory for a disk controller");
    p->hba = h;
    p->reg = h->reg + PORT(n);
    for (unsigned t = 0; t < 100 && (rd(p, P_SSTS) & 15) == 1; t++) /* the link comes up */
        bm_delay_us(1000);
    if ((rd(p, P_SSTS) & 15) != 3 || !set_up(p, slots)) {
        bm_free(p, sizeof(*p));
        return;
    }
    h->port[n] = p;
    wr(p, P_IE, IE_WANTED);
    bm_snprintf(p->name, sizeof(p->name), "ahci%u", number++);
    p->dev = (struct vmc_blockdev){.ops = &ahci_ops, .ctx = p};
    bm_disk_add(p->name, &p->dev, p->model, &p->lease);
}

void bm_ahci_probe(const struct bm_pci *pci)
{
    bool io;
    uint64_t bytes;
    uint64_t bar = bm_pci_bar(pci, 5, &io, &bytes);
    struct ahci *h = bm_zalloc(sizeof(*h));

    if (h == NULL)
        bm_panic("out of memory for a disk controller");
    if (io || bar == 0)
        return;
    bm_pci_enable(pci);
    h->pci = pci;
    h->reg = bm_mmio_map(bar, bytes < 0x1100 ? bytes : 0x1100);
    mmio_wr32(h->reg + HBA_GHC, GHC_AE);
    mmio_wr32(h->reg + HBA_GHC, GHC_AE | GHC_RESET);
    for (unsigned t = 0; t < 1000 && (mmio_rd32(h->reg + HBA_GHC) & GHC_RESET) != 0; t++)
        bm_delay_us(1000);
    mmio_wr32(h->reg + HBA_GHC, GHC_AE);
    uint32_t cap = mmio_rd32(h->reg + HBA_CAP);
    uint32_t pi = mmio_rd32(h->reg + HBA_PI);
    unsigned slots = (cap >> 8 & 31) + 1;
    h->wide = (cap >> 31) != 0;
    if (!h->wide) {
        struct vmc_bm_memory m;
        vmc_bm_get_memory(&m);
        if (m.ram_pages > 0xc0000) { /* memory may lie beyond what it reaches */
            bm_printf("ahci: a controller with 32-bit addresses is not used\n");
            return;
        }
    }
    bm_poll_add(ahci_poll, h, &h->irq);
    bool irq = bm_pci_msi(pci, on_irq, h);
    for (unsigned n = 0; n < 32 && PORT(n) + 0x80 <= bytes; n++)
        if (pi >> n & 1)
            probe_port(h, n, slots == 32 ? UINT32_MAX : (1u << slots) - 1);
    if (irq)
        mmio_wr32(h->reg + HBA_GHC, GHC_AE | GHC_IE);
    else
        bm_poll_always(&h->irq);
}
