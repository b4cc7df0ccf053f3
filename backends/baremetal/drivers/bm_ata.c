/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ATA disks behind an IDE controller with bus-master DMA: PIIX, and what emulates it in Bochs and
 * QEMU (ATA/ATAPI-6; Intel 82371 data sheet 2.7; "Programming Interface for Bus Master IDE").
 *
 * A channel does one command at a time. Requests wait in a list; each is cut into commands of at
 * most 128 KiB whose memory is described by one PRD table.
 */
#include "kernel/bm_int.h"

#define SECTOR     512u
#define PRD_MAX    64u
#define CHUNK_MAX  (256u * SECTOR)
#define TIMEOUT_US 5000000u
#define RESET_US   2000000u /* the processor waits */

#define REG_ERROR  1
#define REG_COUNT  2
#define REG_LBA    3
#define REG_DEVICE 6
#define REG_STATUS 7 /* command when written */
#define ST_ERR     0x01u
#define ST_DRQ     0x08u
#define ST_DF      0x20u
#define ST_BUSY    0x80u

#define CMD_IDENTIFY      0xecu
#define CMD_READ_DMA      0xc8u
#define CMD_WRITE_DMA     0xcau
#define CMD_READ_DMA_EXT  0x25u
#define CMD_WRITE_DMA_EXT 0x35u
#define CMD_FLUSH         0xe7u
#define CMD_FLUSH_EXT     0xeau

#define BM_CMD    0
#define BM_STATUS 2
#define BM_PRD    4
#define BM_START  1u
#define BM_READ   8u /* the device writes memory */
#define BM_ACTIVE 1u
#define BM_ERROR  2u
#define BM_IRQ    4u

struct prd {
    uint32_t pa;
    uint16_t bytes; /* 0: 64 KiB */
    uint16_t last;
};

struct channel;
struct disk {
    struct channel *ch;
    unsigned unit; /* 0 master, 1 slave */
    uint64_t sectors;
    bool lba48;
    struct bm_lease lease;
    char name[8], model[41];
};

struct channel {
    uint16_t io, ctl, bm;
    struct bm_lock lock;
    volatile uint32_t irq; /* an interrupt came, or somebody should look */
    struct prd *prd;
    uint32_t prd_pa;
    uint8_t *bounce; /* for memory that the controller cannot reach */
    uint64_t bounce_pa;
    struct vmc_block_req *first, **last; /* waiting; backend[0] is the next one */
    bool dead;
    /* the command under way */
    struct vmc_block_req *req;
    uint64_t since_ns;
    uint64_t done, chunk; /* bytes of req finished, bytes of this command */
    uint32_t iov;
    uint64_t iov_off;
    bool bounced;
    struct disk disk[2];
};

static unsigned disk_number;

/* ---- registers ----------------------------------------------------------------------------------
 */

static uint8_t status(struct channel *c)
{
    return inb(c->ctl); /* the alternate one: does not acknowledge the interrupt */
}

static bool wait_idle(struct channel *c, uint64_t us)
{
    for (uint64_t t = 0; t < us; t += 10) {
        uint8_t s = status(c);
        if (s == 0xff)
            return false;
        if ((s & ST_BUSY) == 0)
            return true;
        bm_delay_us(10);
    }
    return false;
}

static void select_unit(struct channel *c, unsigned unit, uint8_t more)
{
    outb(c->io + REG_DEVICE, (uint8_t)(0xa0 | unit << 4 | more));
    for (unsigned i = 0; i < 4; i++) /* 400 ns */
        (void)status(c);
}

static void set_address(struct channel *c, const struct disk *d, uint64_t lba, uint32_t count)
{
    if (d->lba48) {
        select_unit(c, d->unit, 0x40);
        outb(c->io + REG_COUNT, (uint8_t)(count >> 8));
        for (unsigned i = 0; i < 3; i++)
            outb((uint16_t)(c->io + REG_LBA + i), (uint8_t)(lba >> (24 + 8 * i)));
    } else {
        select_unit(c, d->unit, (uint8_t)(0x40 | (lba >> 24 & 15)));
    }
    outb(c->io + REG_COUNT, (uint8_t)count);
    for (unsigned i = 0; i < 3; i++)
        outb((uint16_t)(c->io + REG_LBA + i), (uint8_t)(lba >> (8 * i)));
}

/* ---- commands -----------------------------------------------------------------------------------
 */

/* Describe the next piece of the request; false: it has to go through the bounce buffer. */
static bool build_prd(struct channel *c)
{
    const struct vmc_block_req *r = c->req;
    uint64_t left = r->bytes - c->done < CHUNK_MAX ? r->bytes - c->done : CHUNK_MAX;
    uint32_t iov = c->iov;
    uint64_t off = c->iov_off, total = 0;
    unsigned n = 0;

    while (total < left && n < PRD_MAX) {
        const uint8_t *va = (const uint8_t *)r->iov[iov].base + off;
        uint64_t pa = bm_virt_to_phys(va);
        uint64_t run = r->iov[iov].bytes - off;
        if (run > left - total)
            run = left - total;
        if (run > PAGE - (pa & (PAGE - 1)))
            run = PAGE - (pa & (PAGE - 1));
        if (pa + run > 1ull << 32 || (pa & 1) != 0 || (run & 1) != 0)
            return false;
        c->prd[n++] = (struct prd){.pa = (uint32_t)pa, .bytes = (uint16_t)run};
        total += run;
        off += run;
        if (off == r->iov[iov].bytes) {
            iov++;
            off = 0;
        }
    }
    total -= total % SECTOR;
    if (total == 0)
        return false; /* a sector in more pieces than fit */
    c->chunk = total;
    for (unsigned i = 0; i < n; i++) { /* cut behind the last whole sector */
        uint64_t bytes = c->prd[i].bytes;
        if (total <= bytes) {
            c->prd[i].bytes = (uint16_t)total;
            c->prd[i].last = 0x8000;
            break;
        }
        total -= bytes;
    }
    return true;
}

/* Copy between the request's memory and the bounce buffer, from the current place on. */
static void bounce_copy(struct channel *c, bool to_device)
{
    const struct vmc_block_req *r = c->req;
    uint32_t iov = c->iov;
    uint64_t off = c->iov_off, at = 0;

    while (at < c->chunk) {
        uint64_t run = r->iov[iov].bytes - off;
        if (run > c->chunk - at)
            run = c->chunk - at;
        uint8_t *va = (uint8_t *)r->iov[iov].base + off;
        if (to_device)
            memcpy(c->bounce + at, va, run);
        else
            memcpy(va, c->bounce + at, run);
        at += run;
        off += run;
        if (off == r->iov[iov].bytes) {
            iov++;
            off = 0;
        }
    }
}

static void start_dma(struct channel *c)
{
    struct vmc_block_req *r = c->req;
    struct disk *d = r->backend[1];
    bool write = r->op == VMC_BLOCK_WRITE;

    c->bounced = !build_prd(c);
    if (c->bounced) {
        c->chunk = r->bytes - c->done < PAGE ? r->bytes - c->done : PAGE;
        c->prd[0] = (struct prd){(uint32_t)c->bounce_pa, (uint16_t)c->chunk, 0x8000};
        if (write)
            bounce_copy(c, true);
    }
    c->since_ns = bm_now_ns();
    outb(c->bm + BM_CMD, write ? 0 : BM_READ);
    outb(c->bm + BM_STATUS, BM_IRQ | BM_ERROR);
    outl(c->bm + BM_PRD, c->prd_pa);
    set_address(c, d, (r->offset + c->done) / SECTOR, (uint32_t)(c->chunk / SECTOR));
    if (d->lba48)
        outb(c->io + REG_STATUS, write ? CMD_WRITE_DMA_EXT : CMD_READ_DMA_EXT);
    else
        outb(c->io + REG_STATUS, write ? CMD_WRITE_DMA : CMD_READ_DMA);
    outb(c->bm + BM_CMD, (uint8_t)((write ? 0 : BM_READ) | BM_START));
}

static void start_flush(struct channel *c)
{
    struct disk *d = c->req->backend[1];

    c->since_ns = bm_now_ns();
    select_unit(c, d->unit, 0);
    outb(c->io + REG_STATUS, d->lba48 ? CMD_FLUSH_EXT : CMD_FLUSH);
}

static bool late(const struct vmc_block_req *r)
{
    const struct disk *d = r->backend[1];
    return bm_late(r, &d->lease);
}

/* With the lock: begin the next request if the channel is free. */
static void start_next(struct channel *c)
{
    if (c->req != NULL || c->first == NULL || c->dead || late(c->first))
        return;
    c->req = c->first;
    c->first = c->req->backend[0];
    if (c->first == NULL)
        c->last = &c->first;
    c->done = 0;
    c->iov = 0;
    c->iov_off = 0;
    if (c->req->op == VMC_BLOCK_FLUSH)
        start_flush(c);
    else
        start_dma(c);
}

/* Is the command over? Negative: it failed. */
static int finished(struct channel *c)
{
    uint8_t s;

    if (c->req->op != VMC_BLOCK_FLUSH) {
        uint8_t bm = inb(c->bm + BM_STATUS);
        if ((bm & BM_ERROR) == 0 && (bm & BM_IRQ) == 0 && (bm & BM_ACTIVE) != 0)
            return 0;
        s = status(c);
        if (s & ST_BUSY)
            return 0;
        outb(c->bm + BM_CMD, 0);
        outb(c->bm + BM_STATUS, BM_IRQ | BM_ERROR);
        s = inb(c->io + REG_STATUS); /* acknowledges */
        return (bm & BM_ERROR) != 0 || (s & (ST_ERR | ST_DF)) != 0 ? VMC_EIO : 1;
    }
    s = status(c);
    if (s & ST_BUSY)
        return 0;
    s = inb(c->io + REG_STATUS);
    return (s & (ST_ERR | ST_DF)) != 0 ? VMC_EIO : 1;
}

static void advance(struct channel *c)
{
    const struct vmc_block_req *r = c->req;
    uint64_t n = c->chunk;

    c->done += n;
    while (n > 0) {
        uint64_t run = r->iov[c->iov].bytes - c->iov_off;
        if (n < run) {
            c->iov_off += n;
            return;
        }
        n -= run;
        c->iov++;
        c->iov_off = 0;
    }
}

/*
 * The command got lost, if it is old enough, or must not be carried out any more: the channel's
 * transfer is ended, then its devices are reset (ATA/ATAPI-6, 9.3). Negative: it failed.
 */
static int look_for_lost(struct channel *c)
{
    const struct disk *d = c->req->backend[1];
    bool lost = bm_now_ns() - c->since_ns > BM_DISK_LIMIT_NS;

    if (!lost && !late(c->req))
        return 0;
    bm_printf("%s: a command is not finished %s: resetting the channel\n", d->name,
              lost ? BM_DISK_LOST : BM_DISK_LATE);
    outb(c->bm + BM_CMD, 0);
    outb(c->bm + BM_STATUS, BM_IRQ | BM_ERROR);
    outb(c->ctl, 4);
    bm_delay_us(10);
    outb(c->ctl, 0);
    bm_delay_us(2000);
    c->dead = !wait_idle(c, RESET_US);
    if (c->dead)
        bm_printf("%s: the channel does not recover; its disks are gone\n", d->name);
    return VMC_EIO;
}

/* With the lock: out of the channel's hands. */
static void finish(struct vmc_block_req *r, int status, struct vmc_block_req ***end)
{
    r->status = status;
    r->backend[0] = NULL;
    **end = r;
    *end = (struct vmc_block_req **)&r->backend[0];
}

/* With the lock: what waits and will not be served, because it is late or the channel is dead. */
static void drop(struct channel *c, struct vmc_block_req ***end)
{
    struct vmc_block_req **at = &c->first, *r;

    while ((r = *at) != NULL)
        if (c->dead || late(r)) {
            *at = r->backend[0];
            finish(r, c->dead ? VMC_EIO : VMC_EFENCED, end);
        } else {
            at = (struct vmc_block_req **)&r->backend[0];
        }
    c->last = at;
}

/* What has finished is reported without the lock: done may submit again. */
static void poll_channel(void *ctx)
{
    struct channel *c = ctx;
    struct vmc_block_req *over = NULL, **end = &over, *r;

    bm_lock(&c->lock);
    if (c->req != NULL) {
        int rc = finished(c);
        if (rc == 0)
            rc = look_for_lost(c);
        if (rc == 0) {
            bm_unlock(&c->lock);
            return;
        }
        if (rc > 0 && c->req->op == VMC_BLOCK_READ && c->bounced)
            bounce_copy(c, false);
        if (rc > 0 && c->req->op != VMC_BLOCK_FLUSH)
            advance(c);
        if (rc > 0 && c->req->op != VMC_BLOCK_FLUSH && c->done != c->req->bytes && late(c->req))
            rc = VMC_EFENCED;
        if (rc < 0 || c->req->op == VMC_BLOCK_FLUSH || c->done == c->req->bytes) {
            finish(c->req, rc < 0 ? rc : VMC_OK, &end);
            c->req = NULL;
        } else {
            start_dma(c);
        }
    }
    drop(c, &end);
    start_next(c);
    /* An emulated controller may be done at once and its interrupt come before we look away; while
       anything runs, every look at the devices looks here too. */
    c->irq = c->req != NULL;
    bm_unlock(&c->lock);
    while ((r = over) != NULL) {
        over = r->backend[0];
        r->done(r);
    }
}

static void on_irq(void *ctx)
{
    struct channel *c = ctx;

    (void)inb(c->io + REG_STATUS); /* a level would come again */
    c->irq = 1;
}

/* ---- block device -------------------------------------------------------------------------------
 */

static int ata_info(void *ctx, struct vmc_block_info *out)
{
    struct disk *d = ctx;

    *out = (struct vmc_block_info){.bytes = d->sectors * SECTOR, .sector_bytes = SECTOR};
    return VMC_OK;
}

static int ata_submit(void *ctx, struct vmc_block_req *r)
{
    struct disk *d = ctx;
    struct channel *c = d->ch;

    r->status = VMC_OK;
    if (r->op != VMC_BLOCK_FLUSH &&
        (r->offset > d->sectors * SECTOR || r->bytes > d->sectors * SECTOR - r->offset ||
         r->offset % SECTOR != 0 || r->bytes % SECTOR != 0))
        r->status = VMC_ERANGE;
    else if (r->op != VMC_BLOCK_FLUSH && r->op != VMC_BLOCK_READ && r->op != VMC_BLOCK_WRITE)
        r->status = VMC_ENOTSUP;
    if (r->status != VMC_OK || (r->op != VMC_BLOCK_FLUSH && r->bytes == 0))
        return VMC_BLOCK_COMPLETE;
    r->backend[0] = NULL;
    r->backend[1] = d;
    bm_lock(&c->lock);
    if (c->dead || late(r)) {
        r->status = c->dead ? VMC_EIO : VMC_EFENCED;
        bm_unlock(&c->lock);
        return VMC_BLOCK_COMPLETE;
    }
    *c->last = r;
    c->last = (struct vmc_block_req **)&r->backend[0];
    start_next(c);
    c->irq = 1;
    bm_unlock(&c->lock);
    return VMC_BLOCK_PENDING;
}

static void ata_poll(void *ctx)
{
    poll_channel(((struct disk *)ctx)->ch);
}

static const struct vmc_blockdev_ops ata_ops = {
    .info = ata_info, .submit = ata_submit, .poll = ata_poll};

/* ---- probing ------------------------------------------------------------------------------------
 */

static bool identify(struct channel *c, unsigned unit, uint16_t id[256])
{
    select_unit(c, unit, 0);
    outb(c->io + REG_COUNT, 0);
    for (unsigned i = 0; i < 3; i++)
        outb((uint16_t)(c->io + REG_LBA + i), 0);
    outb(c->io + REG_STATUS, CMD_IDENTIFY);
    if (status(c) == 0 || !wait_idle(c, TIMEOUT_US))
        return false;
    if (inb(c->io + REG_LBA + 1) != 0 || inb(c->io + REG_LBA + 2) != 0)
        return false; /* ATAPI, SATA bridge */
    if ((status(c) & (ST_ERR | ST_DRQ)) != ST_DRQ)
        return false;
    for (unsigned i = 0; i < 256; i++)
        id[i] = inw(c->io);
    (void)inb(c->io + REG_STATUS);
    return true;
}

static void add_disk(struct channel *c, unsigned unit, const uint16_t id[256])
{
    struct disk *d = &c->disk[unit];

    d->ch = c;
    d->unit = unit;
    d->lba48 = (id[83] & 0xc400) == 0x4400;
    d->sectors = d->lba48 ? (uint64_t)id[100] | (uint64_t)id[101] << 16 | (uint64_t)id[102] << 32
                          : (uint64_t)id[60] | (uint64_t)id[61] << 16;
    if (d->sectors == 0 || (id[49] & 0x100) == 0) /* no DMA */
        return;
    for (unsigned i = 0; i < 20; i++) {
        d->model[2 * i] = (char)(id[27 + i] >> 8);
        d->model[2 * i + 1] = (char)id[27 + i];
    }
    for (unsigned i = 40; i > 0 && d->model[i - 1] == ' '; i--)
        d->model[i - 1] = 0;
    bm_snprintf(d->name, sizeof(d->name), "ata%u", disk_number++);
    bm_disk_add(d->name, &(struct vmc_blockdev){.ops = &ata_ops, .ctx = d}, d->model, &d->lease);
}

static void probe_channel(const struct bm_pci *p, unsigned n, uint16_t io, uint16_t ctl,
                          uint16_t bm)
{
    struct channel *c = bm_zalloc(sizeof(*c));
    uint64_t pa = bm_pages_alloc_low(2, OWNER_KERNEL);
    uint16_t id[2][256];
    bool there[2];

    if (c == NULL || pa == 0)
        bm_panic("out of memory for a disk controller");
    c->io = io;
    c->ctl = ctl;
    c->bm = bm;
    c->last = &c->first;
    c->prd = phys_ptr(pa);
    c->prd_pa = (uint32_t)pa;
    c->bounce = phys_ptr(pa + PAGE);
    c->bounce_pa = pa + PAGE;
    outb(ctl, 2); /* no interrupts yet */
    for (unsigned u = 0; u < 2; u++)
        there[u] = status(c) != 0xff && identify(c, u, id[u]);
    if (!there[0] && !there[1]) {
        bm_pages_free(pa, 2);
        bm_free(c, sizeof(*c));
        return;
    }
    bm_poll_add(poll_channel, c, &c->irq);
    /* in legacy mode the channels use the ISA interrupts; else only polling is left */
    if ((p->prog_if >> 2 * n & 1) == 0)
        (void)bm_irq_isa(14 + n, on_irq, c);
    outb(ctl, 0);
    for (unsigned u = 0; u < 2; u++)
        if (there[u])
            add_disk(c, u, id[u]);
}

void bm_ata_probe(const struct bm_pci *p)
{
    static const uint16_t legacy_io[2] = {0x1f0, 0x170}, legacy_ctl[2] = {0x3f6, 0x376};
    bool io;
    uint64_t bytes;
    uint64_t bm = bm_pci_bar(p, 4, &io, &bytes);

    if (!io || bm == 0)
        return; /* no bus master */
    bm_pci_enable(p);
    for (unsigned n = 0; n < 2; n++) {
        uint16_t base = legacy_io[n], ctl = legacy_ctl[n];
        if (p->prog_if >> 2 * n & 1) {
            bool io1, io2;
            base = (uint16_t)bm_pci_bar(p, 2 * n, &io1, &bytes);
            ctl = (uint16_t)(bm_pci_bar(p, 2 * n + 1, &io2, &bytes) + 2);
            if (!io1 || !io2 || base == 0)
                continue;
        }
        probe_channel(p, n, base, ctl, (uint16_t)(bm + 8 * n));
    }
}
