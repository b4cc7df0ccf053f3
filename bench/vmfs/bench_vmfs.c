/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VMFS on memory: 4 KiB I/O from a guest-style ring through a file's block device, transactions,
 * locks, mkfs, fsck. Each I/O rate stands beside the bare copy of the same run: a ring of the same
 * shape whose requests are copies at the right places, without VMFS. CPU time, one thread.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <vmcore/host.h>
#include <vmcore/vmfs.h>
#include "vmfs/vmfs_priv.h"

#define MIB   (1ull << 20)
#define GIB   (1ull << 30)
#define RING  256u
#define BLOCK 4096u
#define RUNS  5

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

static int mem_submit(void *ctx, struct vmc_block_req *r)
{
    struct mem *m = ctx;
    unsigned char *at = m->data + r->offset;

    r->status = VMC_OK;
    if (r->op <= VMC_BLOCK_WRITE) {
        if (r->offset > m->bytes || r->bytes > m->bytes - r->offset) {
            r->status = VMC_ERANGE;
            return VMC_BLOCK_COMPLETE;
        }
        for (uint32_t i = 0; i < r->iov_count; i++) {
            if (r->op == VMC_BLOCK_READ)
                memcpy(r->iov[i].base, at, r->iov[i].bytes);
            else
                memcpy(at, r->iov[i].base, r->iov[i].bytes);
            at += r->iov[i].bytes;
        }
    } else if (r->op == VMC_BLOCK_WRITE_ZEROES) {
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
    .info = mem_info, .submit = mem_submit, .compare_write = mem_caw};

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
    struct vmc_vmfs_mkfs_config c = {.size = sizeof(c), .devs = bd, .dev_count = n, .fds = fds};
    struct vmc_vmfs_mount_config mc = {
        .size = sizeof(mc), .devs = bd, .dev_count = n, .cache_bytes = 256 << 20};
    need(vmc_vmfs_mkfs(&pf, &c, &err), "mkfs");
    need(vmc_vmfs_mount(&pf, &mc, &v, &err), "mount");
    return v;
}

/* ---- the ring ----------------------------------------------------------------------------------
 */

/* A split virtqueue's shape: descriptors of (address, length, write?), available and used rings. */
struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
struct ring {
    struct desc desc[RING];
    uint16_t avail[RING], used[RING];
    uint16_t avail_idx, used_idx;
    uint64_t sector[RING];
};

static uint64_t next_block(uint64_t *s, uint64_t blocks)
{
    *s = *s * 6364136223846793005ull + 1442695040888963407ull;
    return (*s >> 33) % blocks;
}

/* What is at a block: its number, mixed, in every cache line that is looked at. */
static uint64_t stamp(uint64_t block)
{
    return block * 0x9E3779B97F4A7C15ull;
}

typedef void (*serve_fn)(void *ctx, uint64_t off, void *buf, bool write);

/*
 * Guest: put requests into the ring, half of them writes. Device: take them out and serve them.
 * Guest again: check what came. Returns I/Os per CPU second.
 */
static double run_ring(struct ring *r, unsigned char *guest, uint64_t set, uint64_t ios,
                       serve_fn serve, void *ctx)
{
    uint64_t seed = 1, bad = 0, blocks = set / BLOCK;
    double start = cpu_s();

    for (uint64_t done = 0; done < ios; done += RING) {
        for (unsigned i = 0; i < RING; i++) {
            uint64_t b = next_block(&seed, blocks);
            unsigned char *buf = guest + (size_t)i * BLOCK;
            bool write = (done / RING + i) & 1;
            r->desc[i] = (struct desc){.addr = (uintptr_t)buf, .len = BLOCK, .flags = write};
            r->sector[i] = b * (BLOCK / 512);
            if (write) {
                *(uint64_t *)(void *)buf = stamp(b);
                *(uint64_t *)(void *)(buf + BLOCK - 8) = stamp(b);
            }
            r->avail[r->avail_idx++ % RING] = (uint16_t)i;
        }
        while (r->used_idx != r->avail_idx) {
            uint16_t i = r->avail[r->used_idx % RING];
            const struct desc *d = &r->desc[i];
            serve(ctx, r->sector[i] * 512, (void *)(uintptr_t)d->addr, d->flags);
            r->used[r->used_idx++ % RING] = i;
        }
        for (unsigned i = 0; i < RING; i++) {
            const unsigned char *buf = guest + (size_t)i * BLOCK;
            uint64_t want = stamp(r->sector[i] / (BLOCK / 512));
            bad += *(const uint64_t *)(const void *)buf != want ||
                   *(const uint64_t *)(const void *)(buf + BLOCK - 8) != want;
        }
    }
    double s = cpu_s() - start;
    if (bad != 0) {
        fprintf(stderr, "%llu wrong blocks\n", (unsigned long long)bad);
        exit(1);
    }
    return (double)ios / s;
}

/* The request lies ready, as the virtio device keeps one for every place in its queue. */
struct disk {
    struct vmc_blockdev bd;
    struct vmc_iovec iov;
    struct vmc_block_req req;
};

static void serve_vmfs(void *ctx, uint64_t off, void *buf, bool write)
{
    struct disk *d = ctx;

    d->iov.base = buf;
    d->req.op = write ? VMC_BLOCK_WRITE : VMC_BLOCK_READ;
    d->req.offset = off;
    if (d->bd.ops->submit(d->bd.ctx, &d->req) != VMC_BLOCK_COMPLETE || d->req.status != VMC_OK)
        exit(1);
}

static void serve_copy(void *ctx, uint64_t off, void *buf, bool write)
{
    unsigned char *at = (unsigned char *)ctx + off;
    if (write)
        memcpy(at, buf, BLOCK);
    else
        memcpy(buf, at, BLOCK);
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

static void io_rate(const char *name, uint64_t set, uint64_t ios, bool thick)
{
    struct mem m;
    struct vmc_blockdev bd = mem_dev(&m, 4 * GIB);
    struct disk disk = {.iov = {.bytes = BLOCK}};
    struct vmc_vmfs *v = fresh(&bd, 1, 0);
    struct vmc_vmfs_file *f;
    static struct ring ring;
    unsigned char *guest = aligned_alloc(4096, (size_t)RING * BLOCK);
    struct mem r;
    unsigned char *raw = (mem_dev(&r, set), r.data);
    double ours[RUNS], bare[RUNS], ratio[RUNS];

    memset(guest, 0, (size_t)RING * BLOCK);
    need(vmc_vmfs_open(v, "/disk", VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &err),
         "open");
    if (thick)
        need(vmc_vmfs_allocate(f, 0, set, VMC_VMFS_ALLOC_EAGER, &err), "allocate");
    for (uint64_t b = 0; b < set / BLOCK; b++) {
        uint64_t *p = (uint64_t *)(void *)guest;
        p[0] = p[BLOCK / 8 - 1] = stamp(b);
        need(vmc_vmfs_pwrite(f, guest, BLOCK, b * BLOCK, &err), "fill");
        memcpy(raw + b * BLOCK, guest, BLOCK);
    }
    need(vmc_vmfs_file_blockdev(f, &disk.bd, &err), "blockdev");
    disk.req = (struct vmc_block_req){.bytes = BLOCK, .iov = &disk.iov, .iov_count = 1};
    for (int i = 0; i < RUNS; i++) {
        bare[i] = run_ring(&ring, guest, set, ios, serve_copy, raw);
        ours[i] = run_ring(&ring, guest, set, ios, serve_vmfs, &disk);
    }
    /* The ratio of neighbours: other programs disturb both. */
    for (int i = 0; i < RUNS; i++)
        ratio[i] = bare[i] / ours[i];
    double o = median(ours, RUNS), b = median(bare, RUNS);
    printf("%-28s %8.2f M/s  bare copy %8.2f M/s  bare / ours %.2f\n", name, o / 1e6, b / 1e6,
           median(ratio, RUNS));
    printf("result %s %.0f iops\n", name, o);
    need(vmc_vmfs_close(f, &err), "close");
    need(vmc_vmfs_unmount(v, &err), "unmount");
    munmap(m.data, m.bytes);
    munmap(raw, set);
    free(guest);
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

int main(int argc, char **argv)
{
    double scale = argc > 1 ? atof(argv[1]) : 1;

    need(vmc_host_platform_init(&pf, NULL, &err), "platform");
    io_rate("vmfs.iops_per_core_1g", GIB, (uint64_t)(2e6 * scale) / RING * RING, false);
    io_rate("vmfs.iops_per_core_1g_thick", GIB, (uint64_t)(2e6 * scale) / RING * RING, true);
    io_rate("vmfs.iops_per_core_16m", 16 * MIB, (uint64_t)(4e6 * scale) / RING * RING, false);
    metadata();
    mkfs64();
    fsck_rate((uint32_t)(1000000 * scale));
    return 0;
}
