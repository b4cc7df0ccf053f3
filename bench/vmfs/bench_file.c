/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 4 KiB random reads on a file of the host: as it is, and through thin and thick files of a VMFS
 * volume on it, at queue depths 1 and 32. Prints "KIND DEPTH IOPS P50_US P99_US" lines, one for
 * each round; IOPS are per second of CPU time. The first line is "data OFFSET": where the volume
 * has the thick file's data, SPAN bytes, which "raw" reads without VMFS.
 * bench_file VOLUME MS [direct]: so long for each kind and depth.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vmcore/host.h>
#include <vmcore/host_block.h>
#include <vmcore/vmfs.h>

#define SPAN   (256 * MIB)
#define MIB    (1ull << 20)
#define BLOCK  4096u
#define DEPTH  32u
#define ROUNDS 9

static struct vmc_platform pf;
static struct vmc_error err;

struct io {
    struct vmc_block_req req;
    struct vmc_iovec iov;
    double start;
    int done;
};

static struct io io[DEPTH];
static double *lat;
static size_t lats, lat_max = 1u << 22;

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double cpu(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void need(int64_t rc, const char *what)
{
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", what, err.text);
        exit(1);
    }
}

static void finished(struct vmc_block_req *r)
{
    struct io *q = r->opaque;
    q->done = 1;
}

static int by_value(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return d < 0 ? -1 : d > 0;
}

/* Batches of depth requests; a request that waits alone is done where it is submitted. */
static double run(struct vmc_blockdev bd, unsigned depth, double seconds)
{
    static uint64_t rng = 1;
    uint64_t n = 0;
    double used = cpu(), end = now() + seconds, t = now();

    while (t < end) {
        for (unsigned i = 0; i < depth; i++) {
            struct io *q = &io[i];
            rng = rng * 6364136223846793005ull + 1442695040888963407ull;
            q->req = (struct vmc_block_req){.op = VMC_BLOCK_READ,
                                            .flags = depth == 1 ? VMC_BLOCK_WAITED : 0,
                                            .offset = (rng >> 33) % (SPAN / BLOCK) * BLOCK,
                                            .bytes = BLOCK,
                                            .iov = &q->iov,
                                            .iov_count = 1,
                                            .done = finished,
                                            .opaque = q};
            q->start = t;
            q->done = bd.ops->submit(bd.ctx, &q->req) == VMC_BLOCK_COMPLETE;
        }
        if (depth > 1)
            bd.ops->kick(bd.ctx);
        for (unsigned i = 0; i < depth; i++) {
            while (!io[i].done)
                bd.ops->poll(bd.ctx);
            t = now();
            if (lats < lat_max)
                lat[lats++] = t - io[i].start;
            if (io[i].req.status != VMC_OK) {
                fprintf(stderr, "read: %s\n", vmc_strerror(io[i].req.status));
                exit(1);
            }
        }
        n += depth;
    }
    return (double)n / (cpu() - used);
}

struct row {
    const char *name;
    struct vmc_blockdev bd;
};

/*
 * Rounds take turns, and each kind is the first one now and then: what disturbs one disturbs its
 * neighbours, too.
 */
static void measure(const struct row *rows, unsigned count, unsigned depth, double seconds)
{
    for (unsigned r = 0; r < ROUNDS; r++)
        for (unsigned k = 0; k < count; k++) {
            const struct row *row = &rows[(r + k) % count];
            lats = 0;
            double iops = run(row->bd, depth, seconds / ROUNDS);
            qsort(lat, lats, sizeof(*lat), by_value);
            printf("%-12s %3u %10.0f %8.2f %8.2f\n", row->name, depth, iops, lat[lats / 2] * 1e6,
                   lat[lats * 99 / 100] * 1e6);
        }
}

/* ---- the volume without VMFS, from an offset on ------------------------------------------------
 */

struct part {
    struct vmc_blockdev whole;
    uint64_t start;
};

static int part_submit(void *ctx, struct vmc_block_req *r)
{
    struct part *p = ctx;
    r->offset += p->start;
    return p->whole.ops->submit(p->whole.ctx, r);
}

static void part_kick(void *ctx)
{
    struct part *p = ctx;
    p->whole.ops->kick(p->whole.ctx);
}

static void part_poll(void *ctx)
{
    struct part *p = ctx;
    p->whole.ops->poll(p->whole.ctx);
}

static const struct vmc_blockdev_ops part_ops = {
    .submit = part_submit, .kick = part_kick, .poll = part_poll};

/* Each MiB of the thick file begins with these. */
#define MARK 0x9E3779B97F4A7C15ull

static void read_now(struct vmc_blockdev bd, uint64_t offset, void *buf, uint64_t bytes)
{
    struct io q = {.iov = {.base = buf, .bytes = bytes}};

    q.req = (struct vmc_block_req){.op = VMC_BLOCK_READ,
                                   .flags = VMC_BLOCK_WAITED,
                                   .offset = offset,
                                   .bytes = bytes,
                                   .iov = &q.iov,
                                   .iov_count = 1,
                                   .done = finished,
                                   .opaque = &q};
    q.done = bd.ops->submit(bd.ctx, &q.req) == VMC_BLOCK_COMPLETE;
    if (!q.done && bd.ops->kick != NULL)
        bd.ops->kick(bd.ctx);
    while (!q.done)
        bd.ops->poll(bd.ctx);
    need(q.req.status, "read");
}

static uint64_t find_thick(struct vmc_blockdev bd, unsigned char *buf)
{
    struct vmc_block_info info;
    uint64_t start = 0, found = 0;

    need(bd.ops->info(bd.ctx, &info), "volume");
    for (uint64_t at = 0; at + MIB <= info.bytes; at += MIB) {
        read_now(bd, at, buf, MIB);
        for (uint64_t in = 0; in < MIB; in += BLOCK) {
            uint64_t mark[2];
            memcpy(mark, buf + in, sizeof(mark));
            if (mark[0] != MARK)
                continue;
            if (found == 0)
                start = at + in;
            found += mark[1] * MIB == at + in - start;
        }
    }
    if (found != SPAN / MIB) {
        fprintf(stderr, "the thick file is not in one piece\n");
        exit(1);
    }
    return start;
}

static struct vmc_vmfs_file *make(struct vmc_vmfs *v, const char *path, unsigned char *buf,
                                  bool thick)
{
    struct vmc_vmfs_file *f;

    need(vmc_vmfs_open(v, path, VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &err), path);
    if (thick)
        need(vmc_vmfs_allocate(f, 0, SPAN, VMC_VMFS_ALLOC_EAGER, &err), path);
    for (uint64_t at = 0; at < SPAN; at += MIB) {
        uint64_t mark[2] = {thick ? MARK : 0, at / MIB};
        memcpy(buf, mark, sizeof(mark));
        need(vmc_vmfs_pwrite(f, buf, MIB, at, &err), path);
    }
    need(vmc_vmfs_fsync(f, &err), path);
    return f;
}

int main(int argc, char **argv)
{
    struct vmc_host_disk *disk;
    struct row rows[3] = {{.name = "raw"}, {.name = "vmfs-thin"}, {.name = "vmfs-thick"}};
    struct vmc_vmfs *v;

    if (argc < 3) {
        fprintf(stderr, "usage: bench_file VOLUME MS [direct]\n");
        return 2;
    }
    double seconds = atof(argv[2]) / 1000;
    need(vmc_host_platform_init(&pf, NULL, &err), "platform");
    lat = malloc(lat_max * sizeof(*lat));
    unsigned char *buf = aligned_alloc(4096, MIB);
    memset(buf, 0x5a, MIB);
    struct vmc_host_disk_config c = {
        .size = sizeof(c), .path = argv[1], .shared = true, .polled = true, .direct = argc > 3};
    need(vmc_host_disk_open(&c, &disk, &err), argv[1]);
    if (vmc_host_disk_register(disk, buf, MIB, &err) != VMC_OK)
        fprintf(stderr, "without fixed buffers: %s\n", err.text);
    for (unsigned i = 0; i < DEPTH; i++)
        io[i].iov = (struct vmc_iovec){.base = buf + (size_t)i * BLOCK, .bytes = BLOCK};
    struct vmc_blockdev bd = vmc_host_disk_blockdev(disk);
    struct vmc_vmfs_mount_config mc = {
        .size = sizeof(mc), .devs = &bd, .dev_count = 1, .flags = VMC_VMFS_EXCLUSIVE};
    need(vmc_vmfs_mount(&pf, &mc, &v, &err), "mount");
    struct vmc_vmfs_file *thin = make(v, "/thin", buf, false),
                         *thick = make(v, "/thick", buf, true);
    struct part part = {.whole = bd, .start = find_thick(bd, buf)};
    printf("data %llu\n", (unsigned long long)part.start);
    rows[0].bd = (struct vmc_blockdev){.ops = &part_ops, .ctx = &part};
    need(vmc_vmfs_file_blockdev(thin, &rows[1].bd, &err), "thin");
    need(vmc_vmfs_file_blockdev(thick, &rows[2].bd, &err), "thick");
    measure(rows, 3, 1, seconds);
    measure(rows, 3, DEPTH, seconds);
    need(vmc_vmfs_close(thin, &err), "close");
    need(vmc_vmfs_close(thick, &err), "close");
    need(vmc_vmfs_unmount(v, &err), "unmount");
    vmc_host_disk_close(disk);
    return 0;
}
