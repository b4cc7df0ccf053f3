/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 4 KiB random reads on a file of the host: as it is, and through thin and thick files of a VMFS
 * volume on it, at queue depths 1 and 32. Prints "KIND DEPTH IOPS P50_US P99_US" lines; IOPS are
 * per second of CPU time.
 * bench_file VOLUME RAW SECONDS [direct]: both files exist; RAW has SPAN bytes of data.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vmcore/host.h>
#include <vmcore/host_block.h>
#include <vmcore/vmfs.h>

#define SPAN   (256ull << 20)
#define BLOCK  4096u
#define DEPTH  32u
#define ROUNDS 5

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
    double iops[ROUNDS], p50[ROUNDS], p99[ROUNDS];
};

static void measure(struct row *rows, unsigned count, unsigned depth, double seconds)
{
    /* Rounds take turns: what disturbs one disturbs its neighbours too. Medians of the rounds. */
    for (unsigned r = 0; r < ROUNDS; r++)
        for (unsigned k = 0; k < count; k++) {
            lats = 0;
            rows[k].iops[r] = run(rows[k].bd, depth, seconds / ROUNDS);
            qsort(lat, lats, sizeof(*lat), by_value);
            rows[k].p50[r] = lat[lats / 2] * 1e6;
            rows[k].p99[r] = lat[lats * 99 / 100] * 1e6;
        }
    for (unsigned k = 0; k < count; k++) {
        qsort(rows[k].iops, ROUNDS, sizeof(double), by_value);
        qsort(rows[k].p50, ROUNDS, sizeof(double), by_value);
        qsort(rows[k].p99, ROUNDS, sizeof(double), by_value);
        printf("%-12s %3u %10.0f %8.2f %8.2f\n", rows[k].name, depth, rows[k].iops[ROUNDS / 2],
               rows[k].p50[ROUNDS / 2], rows[k].p99[ROUNDS / 2]);
    }
}

static struct vmc_vmfs_file *make(struct vmc_vmfs *v, const char *path, unsigned char *buf,
                                  bool thick)
{
    struct vmc_vmfs_file *f;

    need(vmc_vmfs_open(v, path, VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &err), path);
    if (thick)
        need(vmc_vmfs_allocate(f, 0, SPAN, VMC_VMFS_ALLOC_EAGER, &err), path);
    for (uint64_t at = 0; at < SPAN; at += 1 << 20)
        need(vmc_vmfs_pwrite(f, buf, 1 << 20, at, &err), path);
    need(vmc_vmfs_fsync(f, &err), path);
    return f;
}

int main(int argc, char **argv)
{
    struct vmc_host_disk *disk[2];
    struct row rows[3] = {{.name = "raw"}, {.name = "vmfs-thin"}, {.name = "vmfs-thick"}};
    struct vmc_vmfs *v;

    if (argc < 4) {
        fprintf(stderr, "usage: bench_file VOLUME RAW SECONDS [direct]\n");
        return 2;
    }
    need(vmc_host_platform_init(&pf, NULL, &err), "platform");
    lat = malloc(lat_max * sizeof(*lat));
    unsigned char *buf = aligned_alloc(4096, 1 << 20);
    memset(buf, 0x5a, 1 << 20);
    for (unsigned i = 0; i < 2; i++) {
        struct vmc_host_disk_config c = {.size = sizeof(c),
                                         .path = argv[1 + i],
                                         .shared = true,
                                         .polled = true,
                                         .direct = argc > 4};
        need(vmc_host_disk_open(&c, &disk[i], &err), argv[1 + i]);
        if (vmc_host_disk_register(disk[i], buf, 1 << 20, &err) != VMC_OK)
            fprintf(stderr, "without fixed buffers: %s\n", err.text);
    }
    for (unsigned i = 0; i < DEPTH; i++)
        io[i].iov = (struct vmc_iovec){.base = buf + (size_t)i * BLOCK, .bytes = BLOCK};
    struct vmc_blockdev bd = vmc_host_disk_blockdev(disk[0]);
    struct vmc_vmfs_mount_config mc = {
        .size = sizeof(mc), .devs = &bd, .dev_count = 1, .flags = VMC_VMFS_EXCLUSIVE};
    need(vmc_vmfs_mount(&pf, &mc, &v, &err), "mount");
    struct vmc_vmfs_file *thin = make(v, "/thin", buf, false),
                         *thick = make(v, "/thick", buf, true);
    rows[0].bd = vmc_host_disk_blockdev(disk[1]);
    need(vmc_vmfs_file_blockdev(thin, &rows[1].bd, &err), "thin");
    need(vmc_vmfs_file_blockdev(thick, &rows[2].bd, &err), "thick");
    measure(rows, 3, 1, atof(argv[3]));
    measure(rows, 3, DEPTH, atof(argv[3]));
    need(vmc_vmfs_close(thin, &err), "close");
    need(vmc_vmfs_close(thick, &err), "close");
    need(vmc_vmfs_unmount(v, &err), "unmount");
    vmc_host_disk_close(disk[0]);
    vmc_host_disk_close(disk[1]);
    return 0;
}
