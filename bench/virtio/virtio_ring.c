/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the block device costs: 4 KiB reads of a disk in memory through a split ring, 32 at a time,
 * beside the copies alone in the same run. Rounds alternate; medians are printed.
 * usage: bench_virtio_ring [ROUNDS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <vmcore/host.h>
#include <vmcore/pci.h>
#include <vmcore/virtio_blk.h>

#define RAM_BYTES   (64u << 20)
#define DEPTH       32u
#define BLOCK       4096u
#define RING        0x100000u
#define AVAIL       (RING + 0x8000u)
#define USED        (RING + 0x10000u)
#define QUEUE_SIZE  256u
#define HEADERS     0x200000u
#define BUFFERS     0x400000u
#define BAR         0xe0000000u
#define MAX_ROUNDS  51u

static unsigned char *ram;
static unsigned char *disk;
static uint64_t disk_bytes;
static uint32_t order[1u << 16]; /* blocks in the order they are read */
static unsigned order_mask;

/* ---- a disk in memory ---------------------------------------------------------------------- */

static int md_info(void *ctx, struct vmc_block_info *out)
{
    (void)ctx;
    *out = (struct vmc_block_info){.bytes = disk_bytes, .sector_bytes = 512};
    return VMC_OK;
}

static int md_submit(void *ctx, struct vmc_block_req *r)
{
    uint64_t at = r->offset;

    (void)ctx;
    for (uint32_t i = 0; i < r->iov_count; i++) {
        memcpy(r->iov[i].base, disk + at, r->iov[i].bytes);
        at += r->iov[i].bytes;
    }
    r->status = VMC_OK;
    return VMC_BLOCK_COMPLETE;
}

/* ---- a driver ------------------------------------------------------------------------------ */

struct bench {
    struct vmc_platform pf;
    struct vmc_board bd;
    struct vmc_virtio *dev;
    uint16_t avail, used;
    unsigned next;
};

static void put(uint64_t gpa, uint64_t value, unsigned bytes)
{
    memcpy(ram + gpa, &value, bytes);
}

static void reg(struct bench *b, unsigned offset, unsigned bytes, uint64_t value)
{
    (void)vmc_bus_write(b->bd.mmio, BAR + offset, bytes, value);
}

static void check(int rc, const char *what)
{
    if (rc != VMC_OK) {
        fprintf(stderr, "%s: %s\n", what, vmc_strerror(rc));
        exit(1);
    }
}

static void open_device(struct bench *b)
{
    static const struct vmc_blockdev_ops ops = {.info = md_info, .submit = md_submit};
    struct vmc_pci_bus_config pc = {.size = sizeof(pc)};
    struct vmc_mem_slot slot = {.size = sizeof(slot), .attr = VMC_MEM_RAM, .bytes = RAM_BYTES,
                                .backing = ram};
    struct vmc_pci_bus *pci;

    check(vmc_host_platform_init(&b->pf, NULL, NULL), "platform");
    b->bd.platform = &b->pf;
    check(vmc_mem_create(&b->pf, &b->bd.mem, NULL), "memory");
    check(vmc_mem_add(b->bd.mem, &slot, NULL), "memory");
    check(vmc_bus_create(&b->pf, "pio", 0x10000, &b->bd.pio), "bus");
    check(vmc_bus_create(&b->pf, "mmio", 1ull << 46, &b->bd.mmio), "bus");
    check(vmc_timerq_create(&b->pf, &b->bd.timers), "timers");
    check(vmc_pci_bus_create(&b->bd, &pc, &pci, NULL), "PCI");
    const struct vmc_virtio_blk_config cfg = {
        .virtio = {.size = sizeof(cfg.virtio), .pci = pci, .slot = 1, .queue_size = QUEUE_SIZE},
        .disk = {.ops = &ops}};
    check(vmc_virtio_blk_create(&b->bd, &cfg, &b->dev, NULL), "virtio-blk");
    vmc_pci_config_write(pci, 8, VMC_PCI_BAR0, 4, BAR);
    vmc_pci_config_write(pci, 8, VMC_PCI_COMMAND, 2,
                         VMC_PCI_COMMAND_MEMORY | VMC_PCI_COMMAND_MASTER);
    reg(b, 20, 1, 0);
    reg(b, 20, 1, 3);
    reg(b, 8, 4, 1);
    reg(b, 12, 4, 1); /* VERSION_1 */
    reg(b, 20, 1, 0xb);
    reg(b, 32, 8, RING);
    reg(b, 40, 8, AVAIL);
    reg(b, 48, 8, USED);
    reg(b, 28, 2, 1);
    reg(b, 20, 1, 0xf);
    put(AVAIL, 1, 2); /* no interrupts: the driver looks */
    for (unsigned i = 0; i < QUEUE_SIZE / 3; i++) {
        uint64_t head = HEADERS + i * 64;
        const uint64_t d[6] = {head,           16 | 1ull << 32 | (3 * i + 1ull) << 48,
                               BUFFERS + (uint64_t)i * BLOCK,
                               BLOCK | 3ull << 32 | (3 * i + 2ull) << 48,
                               head + 32,      1 | 2ull << 32};
        memcpy(ram + RING + i * 48, d, sizeof(d));
    }
}

/* DEPTH requests: add, ring the bell, look at the answers. */
static void batch(struct bench *b)
{
    for (unsigned i = 0; i < DEPTH; i++) {
        unsigned char *header = ram + HEADERS + i * 64;
        uint64_t sector = (uint64_t)order[b->next++ & order_mask] * (BLOCK / 512);
        memcpy(header + 8, &sector, 8);
        header[32] = 0xff;
        put(AVAIL + 4 + 2 * (uint64_t)(b->avail % QUEUE_SIZE), 3 * i, 2);
        b->avail++;
    }
    __atomic_store_n((uint16_t *)(void *)(ram + AVAIL + 2), b->avail, __ATOMIC_RELEASE);
    vmc_virtio_notify(b->dev, 0);
    if (__atomic_load_n((uint16_t *)(void *)(ram + USED + 2), __ATOMIC_ACQUIRE) != b->avail ||
        ram[HEADERS + 32] != 0) {
        fprintf(stderr, "a request did not finish\n");
        exit(1);
    }
}

static void bare(struct bench *b)
{
    for (unsigned i = 0; i < DEPTH; i++)
        memcpy(ram + BUFFERS + (size_t)i * BLOCK,
               disk + (uint64_t)order[b->next++ & order_mask] * BLOCK, BLOCK);
}

/* ---- measuring ----------------------------------------------------------------------------- */

static double cpu_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double rate(struct bench *b, void (*one)(struct bench *), unsigned batches)
{
    double start = cpu_s();

    for (unsigned i = 0; i < batches; i++)
        one(b);
    return batches * (double)DEPTH / (cpu_s() - start);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *v, unsigned n)
{
    qsort(v, n, sizeof(*v), by_value);
    return v[n / 2];
}

static void verify(struct bench *b)
{
    b->next = 0;
    batch(b);
    for (unsigned i = 0; i < DEPTH; i++)
        if (memcmp(ram + BUFFERS + (size_t)i * BLOCK, disk + (uint64_t)order[i] * BLOCK, BLOCK)) {
            fprintf(stderr, "block %u differs\n", order[i]);
            exit(1);
        }
}

static void run(struct bench *b, const char *name, uint64_t bytes, unsigned rounds)
{
    double ring[MAX_ROUNDS];
    double copy[MAX_ROUNDS];
    uint32_t blocks = (uint32_t)(bytes / BLOCK);
    uint32_t seed = 12345;
    unsigned batches = bytes > (64u << 20) ? 3000 : 10000;

    for (unsigned i = 0; i <= order_mask; i++) {
        seed = seed * 1664525 + 1013904223;
        order[i] = (seed >> 8) % blocks;
    }
    verify(b);
    for (unsigned r = 0; r < rounds; r++) {
        ring[r] = rate(b, batch, batches);
        copy[r] = rate(b, bare, batches);
    }
    double m = median(ring, rounds);
    double c = median(copy, rounds);
    printf("result virtio.blk_iops_per_core_%s %.0f iops\n", name, m);
    printf("result virtio.bare_copies_per_core_%s %.0f copies\n", name, c);
    printf("result virtio.blk_cost_%s %.1f ns\n", name, 1e9 / m - 1e9 / c);
}

int main(int argc, char **argv)
{
    static struct bench b;
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 11;

    if (rounds == 0 || rounds > MAX_ROUNDS)
        rounds = 11;
    disk_bytes = 1ull << 30;
    ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    disk = mmap(NULL, disk_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ram == MAP_FAILED || disk == MAP_FAILED)
        return 1;
    for (uint64_t i = 0; i < disk_bytes; i += 64)
        memcpy(disk + i, &i, sizeof(i));
    order_mask = (1u << 16) - 1;
    open_device(&b);
    run(&b, "16m", 16u << 20, rounds);
    run(&b, "1g", disk_bytes, rounds);
    return 0;
}
