/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VMFS on memory: 4 KiB I/O from a guest's ring through the virtio block device and a file of the
 * volume, transactions, locks, mkfs, fsck. Each I/O rate stands beside the bare copy of the same
 * run: a simple ring whose requests are copies at the right places. CPU time, one thread.
 * The copy is the quickest that was found for the size of the set, and the same for all of them.
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <vmcore/host.h>
#include <vmcore/pci.h>
#include <vmcore/virtio_blk.h>
#include <vmcore/vmfs.h>
#include "vmfs/vmfs_priv.h"

#define MIB    (1ull << 20)
#define GIB    (1ull << 30)
#define RING   64u /* requests in flight */
#define BLOCK  4096u
#define CACHE  (32 * MIB) /* a working set that is larger is not in the cache when it is needed */
#define AHEAD  3u         /* blocks from the one that is copied to the one that is fetched */
#define RUNS   9
#define ROUNDS 63 /* of I/O, short: what disturbs one server disturbs its neighbours, too */

static struct vmc_platform pf;
static struct vmc_error err;

static void need(int64_t rc, const char *what)
{
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", what, err.text);
        exit(1);
    }
}

static double cpu_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- memory as a device: nothing but the copy --------------------------------------------------
 */

struct mem {
    unsigned char *data;
    uint64_t bytes;
    bool no_data; /* every request is answered at once */
};

static int mem_info(void *ctx, struct vmc_block_info *out)
{
    const struct mem *m = ctx;
    *out = (struct vmc_block_info){.bytes = m->bytes,
                                   .sector_bytes = 512,
                                   .can_compare_write = true,
                                   .can_write_zeroes = true,
                                   .synchronous = true};
    return VMC_OK;
}

static void copy(void *to, const void *from, size_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

static void transfer(struct mem *m, struct vmc_block_req *r)
{
    unsigned char *at = m->data + r->offset;

    r->status = VMC_OK;
    if (r->offset > m->bytes || r->bytes > m->bytes - r->offset) {
        r->status = VMC_ERANGE;
        return;
    }
    for (uint32_t i = 0; i < r->iov_count; i++) {
        if (r->op == VMC_BLOCK_READ)
            copy(r->iov[i].base, at, r->iov[i].bytes);
        else
            copy(at, r->iov[i].base, r->iov[i].bytes);
        at += r->iov[i].bytes;
    }
}

/*
 * A block that is copied soon is on its way from memory: into the second level of the cache, where
 * it does not drive out what is being copied. Inline: GCC removes calls of functions that do
 * nothing but prefetch.
 */
static inline __attribute__((always_inline)) void fetch(const unsigned char *at)
{
    for (unsigned i = 0; i < BLOCK; i += 64)
        __builtin_prefetch(at + i, 0, 2);
}

/*
 * A block that goes from one place to another. What it touches of the device is fetched before, but
 * for blocks that are written past the cache: nobody needs what they held.
 */
struct move {
    unsigned char *to;
    const unsigned char *from, *fetch; /* fetch NULL: nothing */
    size_t bytes;
    bool past; /* the cache */
};

static bool have_avx2, past_cache;

static inline struct move move_of(unsigned char *data, unsigned char *buf, size_t bytes, bool write)
{
    bool past = write && past_cache && have_avx2 && (uintptr_t)data % 32 == 0;

    return (struct move){.to = write ? data : buf,
                         .from = write ? buf : data,
                         .fetch = past ? NULL : data,
                         .bytes = bytes,
                         .past = past};
}

/* 128 bytes; inline four times. */
static inline __attribute__((always_inline, target("avx2"))) void
copy_lines(unsigned char *to, const unsigned char *from, const unsigned char *ahead, bool past)
{
    if (ahead != NULL) {
        __builtin_prefetch(ahead, 0, 2);
        __builtin_prefetch(ahead + 64, 0, 2);
    }
    for (unsigned i = 0; i < 128; i += 64) {
        __m256i a = _mm256_loadu_si256((const void *)(from + i));
        __m256i b = _mm256_loadu_si256((const void *)(from + i + 32));
        if (past) {
            _mm256_stream_si256((void *)(to + i), a);
            _mm256_stream_si256((void *)(to + i + 32), b);
        } else {
            _mm256_storeu_si256((void *)(to + i), a);
            _mm256_storeu_si256((void *)(to + i + 32), b);
        }
    }
}

/* A block is copied while another one is fetched, line by line: no unit of the processor waits. */
__attribute__((target("avx2"))) static void
copy_block_avx2(unsigned char *to, const unsigned char *from, bool past, const unsigned char *ahead)
{
    if (past && ahead != NULL)
        for (unsigned i = 0; i < BLOCK; i += 128)
            copy_lines(to + i, from + i, ahead + i, true);
    else if (past)
        for (unsigned i = 0; i < BLOCK; i += 128)
            copy_lines(to + i, from + i, NULL, true);
    else if (ahead != NULL)
        for (unsigned i = 0; i < BLOCK; i += 128)
            copy_lines(to + i, from + i, ahead + i, false);
    else
        for (unsigned i = 0; i < BLOCK; i += 128)
            copy_lines(to + i, from + i, NULL, false);
}

static inline void copy_block(const struct move *m, const unsigned char *ahead)
{
    if (have_avx2) {
        copy_block_avx2(m->to, m->from, m->past, ahead);
    } else {
        if (ahead != NULL)
            fetch(ahead);
        copy(m->to, m->from, BLOCK);
    }
}

/* What went past the cache is in memory before anybody is told so. */
static inline void moves_end(void)
{
    if (past_cache)
        _mm_sfence();
}

static inline void move_all(const struct move *m, uint32_t n)
{
    for (uint32_t i = 0; i < n && i < AHEAD; i++)
        if (m[i].fetch != NULL && m[i].bytes == BLOCK)
            fetch(m[i].fetch);
    for (uint32_t i = 0; i < n; i++) {
        if (m[i].bytes == BLOCK)
            copy_block(&m[i], i + AHEAD < n ? m[i + AHEAD].fetch : NULL);
        else
            copy(m[i].to, m[i].from, m[i].bytes);
    }
    moves_end();
}

static bool mem_window(void *ctx, uint64_t offset, uint64_t bytes, bool wide,
                       struct vmc_block_window *out)
{
    const struct mem *m = ctx;

    (void)wide;
    *out = (struct vmc_block_window){.bytes = m->bytes, .data = m->data};
    return offset <= m->bytes && bytes <= m->bytes - offset;
}

static void mem_close(void *ctx)
{
    (void)ctx;
    moves_end();
}

static void mem_move(void *ctx, unsigned char *data, unsigned char *buf, size_t bytes, bool write,
                     const unsigned char *soon)
{
    const struct mem *m = ctx;

    if (m->no_data)
        return;
    if (bytes == BLOCK) {
        struct move mv = move_of(data, buf, BLOCK, write);
        copy_block(&mv, soon);
        return;
    }
    if (soon != NULL)
        fetch(soon);
    if (bytes != 0)
        copy(write ? data : buf, write ? buf : data, bytes);
}

static bool mem_open(void *ctx, struct vmc_block_mover *out)
{
    *out = (struct vmc_block_mover){
        .move = mem_move, .ctx = ctx, .writable = true, .fetch_writes = !past_cache};
    return true;
}

static const struct vmc_block_direct_ops mem_direct = {
    .open = mem_open, .window = mem_window, .close = mem_close};

static int mem_submit(void *ctx, struct vmc_block_req *r)
{
    struct mem *m = ctx;
    unsigned char *at = m->data + r->offset;

    if (r->op <= VMC_BLOCK_WRITE) {
        transfer(m, r);
        return VMC_BLOCK_COMPLETE;
    }
    r->status = VMC_OK;
    if (r->op == VMC_BLOCK_WRITE_ZEROES) {
        /* Small ranges are cleared in place: giving pages back would split the huge ones. */
        uint64_t a = (r->offset + 4095) & ~4095ull, b = (r->offset + r->bytes) & ~4095ull;
        if (r->bytes >= 64 * MIB)
            madvise(m->data + a, b - a, MADV_DONTNEED);
        else
            memset(at, 0, r->bytes);
    }
    return VMC_BLOCK_COMPLETE;
}

static int mem_caw(void *ctx, uint64_t off, const void *expect, const void *data, size_t bytes)
{
    struct mem *m = ctx;
    if (memcmp(m->data + off, expect, bytes) != 0)
        return VMC_EAGAIN;
    memcpy(m->data + off, data, bytes);
    return VMC_OK;
}

static const struct vmc_blockdev_ops mem_ops = {
    .info = mem_info,
    .submit = mem_submit,
    .compare_write = mem_caw,
    .direct = &mem_direct,
};

static struct vmc_blockdev mem_dev(struct mem *m, uint64_t bytes)
{
    m->bytes = bytes;
    m->data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (m->data == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    if (bytes <= 16 * GIB) /* as a guest's memory and a RAM disk have them */
        madvise(m->data, bytes, MADV_HUGEPAGE);
    return (struct vmc_blockdev){.ops = &mem_ops, .ctx = m};
}

static struct vmc_vmfs *fresh(struct vmc_blockdev *bd, uint32_t n, uint32_t fds)
{
    struct vmc_vmfs *v;
    struct vmc_vmfs_mkfs_config c = {
        .size = sizeof(c), .devs = bd, .dev_count = n, .fds = fds, .sub_blocks = fds / 16};
    struct vmc_vmfs_mount_config mc = {
        .size = sizeof(mc), .devs = bd, .dev_count = n, .cache_bytes = 256 << 20};
    need(vmc_vmfs_mkfs(&pf, &c, &err), "mkfs");
    need(vmc_vmfs_mount(&pf, &mc, &v, &err), "mount");
    return v;
}

/* ---- the guest ---------------------------------------------------------------------------------
 */

/* Where things are in the guest's memory. */
#define RAM_BYTES  (8 * MIB)
#define QUEUE_SIZE 1024u /* three descriptors a request */
#define DESC_GPA   0x100000u
#define AVAIL_GPA  0x108000u
#define USED_GPA   0x110000u
#define HEADER_GPA 0x200000u
#define BUFFER_GPA 0x400000u
#define BAR        0xe0000000u

/* Registers of the common configuration (virtio 1.2, 4.1.4.3). */
enum {
    REG_DRIVER_SELECT = 8,
    REG_DRIVER = 12,
    REG_STATUS = 20,
    REG_QUEUE_ENABLE = 28,
    REG_QUEUE_DESC = 32,
    REG_QUEUE_DRIVER = 40,
    REG_QUEUE_DEVICE = 48
};

struct guest {
    struct vmc_board bd;
    struct vmc_pci_bus *pci;
    struct vmc_virtio *dev;
    unsigned char *ram;
    uint64_t sector[RING];
    uint16_t avail;
};

static void put(struct guest *g, uint64_t gpa, uint64_t value, unsigned bytes)
{
    memcpy(g->ram + gpa, &value, bytes);
}

static void reg(struct guest *g, unsigned offset, unsigned bytes, uint64_t value)
{
    need(vmc_bus_write(g->bd.mmio, BAR + offset, bytes, value), "register");
}

/* The driver's part: features, the queue, three descriptors for each request. */
static void start_driver(struct guest *g)
{
    reg(g, REG_STATUS, 1, 0);
    reg(g, REG_STATUS, 1, 3);
    reg(g, REG_DRIVER_SELECT, 4, 1);
    reg(g, REG_DRIVER, 4, 1); /* VERSION_1 */
    reg(g, REG_DRIVER_SELECT, 4, 0);
    reg(g, REG_DRIVER, 4, 1 << 9); /* FLUSH: without it every write would be followed by one */
    reg(g, REG_STATUS, 1, 0xb);
    reg(g, REG_QUEUE_DESC, 8, DESC_GPA);
    reg(g, REG_QUEUE_DRIVER, 8, AVAIL_GPA);
    reg(g, REG_QUEUE_DEVICE, 8, USED_GPA);
    reg(g, REG_QUEUE_ENABLE, 2, 1);
    reg(g, REG_STATUS, 1, 0xf);
    put(g, AVAIL_GPA, 1, 2); /* no interrupts: the driver looks */
}

static void start_guest(struct guest *g, struct vmc_blockdev disk)
{
    struct vmc_pci_bus_config pc = {.size = sizeof(pc)};
    struct mem m;

    mem_dev(&m, RAM_BYTES);
    memset(g, 0, sizeof(*g));
    g->ram = m.data;
    struct vmc_mem_slot slot = {
        .size = sizeof(slot), .attr = VMC_MEM_RAM, .bytes = RAM_BYTES, .backing = g->ram};
    g->bd.platform = &pf;
    need(vmc_mem_create(&pf, &g->bd.mem, &err), "memory");
    need(vmc_mem_add(g->bd.mem, &slot, &err), "memory");
    need(vmc_bus_create(&pf, "pio", 0x10000, &g->bd.pio), "bus");
    need(vmc_bus_create(&pf, "mmio", 1ull << 46, &g->bd.mmio), "bus");
    need(vmc_timerq_create(&pf, &g->bd.timers), "timers");
    need(vmc_pci_bus_create(&g->bd, &pc, &g->pci, &err), "PCI");
    const struct vmc_virtio_blk_config cfg = {
        .virtio = {.size = sizeof(cfg.virtio), .pci = g->pci, .slot = 1, .queue_size = QUEUE_SIZE},
        .disk = disk};
    need(vmc_virtio_blk_create(&g->bd, &cfg, &g->dev, &err), "virtio-blk");
    vmc_pci_config_write(g->pci, 8, VMC_PCI_BAR0, 4, BAR);
    vmc_pci_config_write(g->pci, 8, VMC_PCI_COMMAND, 2,
                         VMC_PCI_COMMAND_MEMORY | VMC_PCI_COMMAND_MASTER);
    start_driver(g);
}

static void stop_guest(struct guest *g)
{
    vmc_board_destroy_devices(&g->bd);
    munmap(g->ram, RAM_BYTES);
}

/* Request i of the ring: header, data, status. */
static void describe(struct guest *g, unsigned i, uint64_t sector, bool write)
{
    uint64_t head = HEADER_GPA + i * 64u, first = 3u * i;
    volatile uint64_t *header = (void *)(g->ram + head); /* as a driver does: each word, once */
    volatile uint64_t *d = (void *)(g->ram + DESC_GPA + first * 16);

    header[0] = write;
    header[1] = sector;
    g->ram[head + 32] = 0xff;
    d[0] = head;
    d[1] = 16 | 1ull << 32 | (first + 1) << 48;
    d[2] = BUFFER_GPA + (uint64_t)i * BLOCK;
    d[3] = BLOCK | (write ? 1ull : 3ull) << 32 | (first + 2) << 48;
    d[4] = head + 32;
    d[5] = 1 | 2ull << 32;
    put(g, AVAIL_GPA + 4 + 2u * (g->avail % QUEUE_SIZE), first, 2);
    g->avail++;
}

static uint64_t next_block(uint64_t *s, uint64_t blocks)
{
    *s = *s * 6364136223846793005ull + 1442695040888963407ull;
    return (*s >> 33) % blocks;
}

/* What is at a block: its number, mixed, at both ends. */
static uint64_t stamp(uint64_t block)
{
    return block * 0x9E3779B97F4A7C15ull;
}

static void set_stamp(unsigned char *buf, uint64_t block)
{
    *(uint64_t *)(void *)buf = stamp(block);
    *(uint64_t *)(void *)(buf + BLOCK - 8) = stamp(block);
}

static bool has_stamp(const unsigned char *buf, uint64_t block)
{
    return *(const uint64_t *)(const void *)buf == stamp(block) &&
           *(const uint64_t *)(const void *)(buf + BLOCK - 8) == stamp(block);
}

/* RING requests at a time, half of them writes; whoever serves them does, and all is checked. */
static void serve_virtio(struct guest *g, const uint64_t *block, unsigned round)
{
    for (unsigned i = 0; i < RING; i++)
        describe(g, i, block[i] * (BLOCK / 512), (round + i) & 1);
    __atomic_store_n((uint16_t *)(void *)(g->ram + AVAIL_GPA + 2), g->avail, __ATOMIC_RELEASE);
    vmc_virtio_notify(g->dev, 0);
    uint64_t failed = 0;
    for (unsigned i = 0; i < RING; i++)
        failed += g->ram[HEADER_GPA + i * 64 + 32];
    if (failed != 0 || *(uint16_t *)(void *)(g->ram + USED_GPA + 2) != g->avail) {
        fprintf(stderr, "a request did not finish\n");
        exit(1);
    }
}

/* The least that can be done: the requests of a simple ring, each a copy. */
static void serve_plain(unsigned char *data, unsigned char *buffers, const uint64_t *block,
                        unsigned round, bool ahead)
{
    struct move ring[RING];

    for (unsigned i = 0; i < RING; i++)
        ring[i] =
            move_of(data + block[i] * BLOCK, buffers + (size_t)i * BLOCK, BLOCK, (round + i) & 1);
    if (ahead)
        move_all(ring, RING);
    else
        for (unsigned i = 0; i < RING; i++)
            copy(ring[i].to, ring[i].from, BLOCK);
}

/* The guest's ring, served by somebody who believes everything in it. */
static void serve_trusting(struct guest *g, unsigned char *data, const uint64_t *block,
                           unsigned round)
{
    uint16_t first = g->avail, used;
    uint64_t next = 0;

    for (unsigned i = 0; i < RING; i++)
        describe(g, i, block[i] * (BLOCK / 512), (round + i) & 1);
    used = first;
    for (unsigned i = 0; i < RING + AHEAD; i++) {
        const unsigned char *ahead = NULL;
        const uint64_t(*d)[2];
        const uint64_t *header;
        uint16_t head;
        if (i < RING) {
            memcpy(&head, g->ram + AVAIL_GPA + 4 + 2u * ((first + i) % QUEUE_SIZE), 2);
            d = (const void *)(g->ram + DESC_GPA + head * 16u);
            header = (const void *)(g->ram + d[0][0]);
            ahead = move_of(data + header[1] * 512, NULL, 0, header[0] != 0).fetch;
        }
        if (i < AHEAD) {
            if (ahead != NULL)
                fetch(ahead);
            continue;
        }
        memcpy(&head, g->ram + AVAIL_GPA + 4 + 2u * ((first + i - AHEAD) % QUEUE_SIZE), 2);
        d = (const void *)(g->ram + DESC_GPA + head * 16u);
        header = (const void *)(g->ram + d[0][0]);
        struct move m = move_of(data + header[1] * 512, g->ram + d[1][0], BLOCK, header[0] != 0);
        copy_block(&m, ahead);
        g->ram[d[2][0]] = 0;
        put(g, USED_GPA + 4 + 8u * (used++ % QUEUE_SIZE), head | 4097ull << 32, 8);
        next += g->ram[HEADER_GPA + (i - AHEAD) * 64 + 32];
    }
    moves_end();
    put(g, USED_GPA + 2, used, 2);
    if (next != 0)
        exit(1);
}

enum server { PLAIN, PLAIN_AHEAD, TRUSTING, VIRTIO, LAYERS, SERVERS };

/* I/Os per CPU second. */
static double run_ring(struct guest *g, unsigned char *data, enum server who, uint64_t set,
                       uint64_t ios)
{
    uint64_t seed = 1, bad = 0, block[RING];
    unsigned char *buffers = g->ram + BUFFER_GPA;
    double start = cpu_s();

    for (uint64_t done = 0; done < ios; done += RING) {
        unsigned round = (unsigned)(done / RING);
        for (unsigned i = 0; i < RING; i++) {
            block[i] = next_block(&seed, set / BLOCK);
            if ((round + i) & 1)
                set_stamp(buffers + (size_t)i * BLOCK, block[i]);
        }
        if (who == TRUSTING)
            serve_trusting(g, data, block, round);
        else if (who >= VIRTIO)
            serve_virtio(g, block, round);
        else
            serve_plain(data, buffers, block, round, who == PLAIN_AHEAD);
        if (who != LAYERS)
            for (unsigned i = 0; i < RING; i++)
                bad += !has_stamp(buffers + (size_t)i * BLOCK, block[i]);
    }
    double s = cpu_s() - start;
    if (bad != 0) {
        fprintf(stderr, "%llu wrong blocks\n", (unsigned long long)bad);
        exit(1);
    }
    return (double)ios / s;
}

static int by_value(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return d < 0 ? -1 : d > 0;
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof(*v), by_value);
    return v[n / 2];
}

/* Where the device has the file's data: the bare copy works on the same bytes. */
static unsigned char *find_data(const struct vmc_blockdev *disk, uint64_t set)
{
    struct vmc_block_mover mover;
    struct vmc_block_window w;
    unsigned char *start = NULL;
    bool good = disk->ops->direct->open(disk->ctx, &mover);

    for (uint64_t at = 0; good && at < set; at += MIB) {
        good = disk->ops->direct->window(disk->ctx, at, MIB, false, &w);
        if (good && at == 0)
            start = w.data - w.start;
        good = good && w.data - w.start == start;
    }
    if (!good) {
        fprintf(stderr, "the file is not in one piece in memory\n");
        exit(1);
    }
    disk->ops->direct->close(disk->ctx);
    return start;
}

static void io_rate(const char *name, uint64_t set, uint64_t ios, bool thick)
{
    struct mem m;
    struct vmc_blockdev bd = mem_dev(&m, 4 * GIB), disk;
    struct vmc_vmfs *v = fresh(&bd, 1, 0);
    struct vmc_vmfs_file *f;
    struct guest g;
    static unsigned char buf[BLOCK];
    double rate[SERVERS][ROUNDS], ratio[SERVERS][ROUNDS];

    past_cache = set > CACHE;
    need(vmc_vmfs_open(v, "/disk", VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &err),
         "open");
    if (thick)
        need(vmc_vmfs_allocate(f, 0, set, VMC_VMFS_ALLOC_EAGER, &err), "allocate");
    for (uint64_t b = 0; b < set / BLOCK; b++) {
        set_stamp(buf, b);
        need(vmc_vmfs_pwrite(f, buf, BLOCK, b * BLOCK, &err), "fill");
    }
    need(vmc_vmfs_file_blockdev(f, &disk, &err), "blockdev");
    start_guest(&g, disk);
    (void)run_ring(&g, NULL, VIRTIO, set, RING); /* the first request loads the map */
    unsigned char *data = find_data(&disk, set);
    ios = (ios * RUNS / ROUNDS / RING + 1) * RING;
    for (int i = 0; i < ROUNDS; i++)
        for (enum server w = 0; w < SERVERS; w++) {
            /* The trusting server uses the guest's ring: the device starts afresh after it. */
            if (w == VIRTIO) {
                g.avail = 0;
                put(&g, AVAIL_GPA + 2, 0, 2);
                put(&g, USED_GPA + 2, 0, 2);
                start_driver(&g);
            }
            m.no_data = w == LAYERS;
            rate[w][i] = run_ring(&g, data, w, set, ios);
            m.no_data = false;
        }
    /* The ratio of neighbours: other programs disturb both. */
    for (enum server w = 0; w < SERVERS; w++)
        for (int i = 0; i < ROUNDS; i++)
            ratio[w][i] = rate[w][i] / rate[VIRTIO][i];
    static const char *const what[SERVERS] = {
        "simple ring, copy", "simple ring, copy with prefetch",
        "the guest's ring, unchecked, prefetch", "virtio-blk, VMFS", "virtio-blk, VMFS, no data"};
    printf("%s\n", name);
    for (enum server w = 0; w < SERVERS; w++) {
        double mid = median(rate[w], ROUNDS);
        printf("  %-40s %6.2f M/s (best %6.2f)  / ours %.2f\n", what[w], mid / 1e6,
               rate[w][ROUNDS - 1] / 1e6, median(ratio[w], ROUNDS));
    }
    printf("result %s %.0f iops\n", name, median(rate[VIRTIO], ROUNDS));
    printf("result %s_vs_copy %.3f ratio\n", name, median(ratio[PLAIN_AHEAD], ROUNDS));
    stop_guest(&g);
    need(vmc_vmfs_close(f, &err), "close");
    need(vmc_vmfs_unmount(v, &err), "unmount");
    munmap(m.data, m.bytes);
}

/* ---- metadata ----------------------------------------------------------------------------------
 */

static void metadata(void)
{
    struct mem m;
    struct vmc_blockdev bd = mem_dev(&m, 2 * GIB);
    struct vmc_vmfs *v = fresh(&bd, 1, 0);
    struct vmc_vmfs_file *f;
    struct vmc_vmfs_stat st = {.mode = 0600};
    double txn[RUNS], lock[RUNS], make[RUNS];
    enum { N = 100000 };
    bool changed;

    need(vmc_vmfs_create(v, "/f", 0600, &err), "create");
    need(vmc_vmfs_stat(v, "/f", &st, &err), "stat");
    uint64_t lv = st.lv_offset;
    for (int r = 0; r < RUNS; r++) {
        double s = cpu_s();
        for (int i = 0; i < N; i++)
            need(vmc_vmfs_setattr(v, "/f", VMC_VMFS_SET_MODE, &st, &err), "setattr");
        txn[r] = (cpu_s() - s) / N * 1e6;
        s = cpu_s();
        for (int i = 0; i < N; i++) {
            need(vmci_fs_lock_take(v, lv, LK_FD, 2048, LK_MODE_EXCL, &changed, &err), "lock");
            need(vmci_fs_lock_drop(v, lv, LK_MODE_FREE, &err), "unlock");
        }
        lock[r] = N / (cpu_s() - s);
        s = cpu_s();
        for (int i = 0; i < N / 10; i++) {
            need(vmc_vmfs_open(v, "/g", VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &err), "open");
            need(vmc_vmfs_close(f, &err), "close");
            need(vmc_vmfs_remove(v, "/g", &err), "remove");
        }
        make[r] = (cpu_s() - s) / (N / 10) * 1e6;
    }
    printf("create + open + close + remove %.2f us\n", median(make, RUNS));
    printf("result vmfs.txn_us %.3f us\n", median(txn, RUNS));
    printf("result vmfs.lock_per_s %.0f 1/s\n", median(lock, RUNS));
    need(vmc_vmfs_unmount(v, &err), "unmount");
    munmap(m.data, m.bytes);
}

static double wall_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void mkfs64(void)
{
    struct mem m[5];
    struct vmc_blockdev bd[5];
    double start, used;

    /* 16 TiB is the most that one extent can have: 64 TiB are four of them and what is left. */
    for (int i = 0; i < 4; i++)
        bd[i] = mem_dev(&m[i], 16384 * GIB + 0x1100000);
    struct vmc_vmfs_mkfs_config c = {.size = sizeof(c), .devs = bd, .dev_count = 4};
    start = wall_s();
    used = cpu_s();
    need(vmc_vmfs_mkfs(&pf, &c, &err), "mkfs of 64 TiB");
    used = cpu_s() - used;
    printf("mkfs of 64 TiB: %.2f s, %.2f s of CPU time\n", wall_s() - start, used);
    printf("result vmfs.mkfs_64t_s %.3f s\n", used);
    struct vmc_vmfs *v;
    struct vmc_vmfs_mount_config mc = {.size = sizeof(mc), .devs = bd, .dev_count = 4};
    need(vmc_vmfs_mount(&pf, &mc, &v, &err), "mount of 64 TiB");
    need(vmc_vmfs_unmount(v, &err), "unmount");
    for (int i = 0; i < 4; i++)
        munmap(m[i].data, m[i].bytes);
}

/* What the library has allocated, and the most that it was. */
static void *(*host_alloc)(void *ctx, size_t bytes, size_t align);
static void (*host_free)(void *ctx, void *p, size_t bytes, size_t align);
static size_t held, most;

static void *counted_alloc(void *ctx, size_t bytes, size_t align)
{
    held += bytes;
    most = held > most ? held : most;
    return host_alloc(ctx, bytes, align);
}

static void counted_free(void *ctx, void *p, size_t bytes, size_t align)
{
    held -= p != NULL ? bytes : 0;
    host_free(ctx, p, bytes, align);
}

static void fsck_rate(uint32_t files)
{
    struct mem m;
    struct vmc_blockdev bd = mem_dev(&m, 16 * GIB);
    struct vmc_vmfs *v = fresh(&bd, 1, files + files / 8 + 4096);
    char path[64];

    for (uint32_t i = 0; i < files; i++) {
        if (i % 1000 == 0) {
            snprintf(path, sizeof(path), "/d%u", i / 1000);
            need(vmc_vmfs_mkdir(v, path, 0700, &err), path);
        }
        snprintf(path, sizeof(path), "/d%u/f%u", i / 1000, i);
        need(vmc_vmfs_create(v, path, 0600, &err), path);
    }
    need(vmc_vmfs_unmount(v, &err), "unmount");
    struct vmc_vmfs_mount_config mc = {
        .size = sizeof(mc), .devs = &bd, .dev_count = 1, .flags = VMC_VMFS_RDONLY};
    struct vmc_vmfs_fsck_config fc = {.size = sizeof(fc)};
    struct vmc_vmfs_fsck_result r;
    host_alloc = pf.alloc;
    host_free = pf.free;
    pf.alloc = counted_alloc;
    pf.free = counted_free;
    double start = wall_s(), used = cpu_s();
    need(vmc_vmfs_mount(&pf, &mc, &v, &err), "mount");
    need(vmc_vmfs_fsck(v, &fc, &r, &err), "fsck");
    used = cpu_s() - used;
    printf("fsck: %llu files, %.2f s, %.2f s of CPU time\n", (unsigned long long)r.files,
           wall_s() - start, used);
    printf("result vmfs.fsck_files_per_s %.0f 1/s\n", (double)r.files / used);
    printf("result vmfs.fsck_memory_mib %.1f MiB\n", (double)most / (1 << 20));
    if (r.errors != 0)
        exit(1);
    need(vmc_vmfs_unmount(v, &err), "unmount");
    pf.alloc = host_alloc;
    pf.free = host_free;
    munmap(m.data, m.bytes);
}

static bool wanted(int argc, char **argv, const char *part)
{
    return argc < 3 || strcmp(argv[2], part) == 0;
}

/* bench_vmfs [SCALE [1g|thick|16m|metadata|mkfs|fsck]] */
int main(int argc, char **argv)
{
    double scale = argc > 1 ? atof(argv[1]) : 1;
    uint64_t ios = (uint64_t)(1e6 * scale) / RING * RING;

    have_avx2 = __builtin_cpu_supports("avx2");

    need(vmc_host_platform_init(&pf, NULL, &err), "platform");
    if (wanted(argc, argv, "1g"))
        io_rate("vmfs.iops_per_core_1g", GIB, ios, false);
    if (wanted(argc, argv, "thick"))
        io_rate("vmfs.iops_per_core_1g_thick", GIB, ios, true);
    if (wanted(argc, argv, "16m"))
        io_rate("vmfs.iops_per_core_16m", 16 * MIB, 2 * ios, false);
    if (wanted(argc, argv, "metadata"))
        metadata();
    if (wanted(argc, argv, "mkfs"))
        mkfs64();
    if (wanted(argc, argv, "fsck"))
        fsck_rate((uint32_t)(1000000 * scale));
    return 0;
}
