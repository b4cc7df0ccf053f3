/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Measures page sharing, savings, faults, reclaim and policy, on memory images of real guests.
 * Every rate is of CPU time of this thread; what is compared runs in alternating rounds.
 */
#define _GNU_SOURCE
#include "bench_memory.h"

#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <vmcore/balloon.h>
#include <vmcore/host.h>

#define MAX_IMAGES 64
#define MAX_ROUNDS 64

static uint64_t clock_ns(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
uint64_t bench_cpu_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}
uint64_t bench_wall_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

void bench_result(const char *name, double value, const char *unit)
{
    printf("result %s %.6g %s\n", name, value, unit);
    fflush(stdout);
}

void bench_must(int rc, const char *what)
{
    if (rc == VMC_OK)
        return;
    fprintf(stderr, "bench_memory: %s: %s\n", what, vmc_strerror(rc));
    exit(1);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, size_t n)
{
    qsort(v, n, sizeof(v[0]), by_value);
    return v[n / 2];
}

/* ---- images ---------------------------------------------------------------------------------- */

static bool is_zero(const unsigned char *p)
{
    return p[0] == 0 && memcmp(p, p + 1, VMC_PAGE_SIZE - 1) == 0;
}

static void image_open(struct bench_image *im, const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0) {
        perror(path);
        exit(1);
    }
    im->pages = (uint64_t)st.st_size / VMC_PAGE_SIZE;
    im->data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    close(fd);
    im->touched = calloc(im->pages, 1);
    if (im->data == MAP_FAILED || im->touched == NULL) {
        perror(path);
        exit(1);
    }
    for (uint64_t i = 0; i < im->pages; i++) {
        im->touched[i] = !is_zero(im->data + i * VMC_PAGE_SIZE);
        im->used += im->touched[i];
    }
}

static int by_contents(const void *a, const void *b)
{
    return memcmp(*(unsigned char *const *)a, *(unsigned char *const *)b, VMC_PAGE_SIZE);
}

/* How many different pages there are, by sorting them: nothing of the library is involved. */
static uint64_t distinct(const struct bench_image *im, unsigned n, uint64_t total)
{
    unsigned char **p = malloc(total * sizeof(p[0]));
    uint64_t k = 0, different = 0;

    if (p == NULL)
        exit(1);
    for (unsigned v = 0; v < n; v++)
        for (uint64_t i = 0; i < im[v].pages; i++)
            if (im[v].touched[i])
                p[k++] = im[v].data + i * VMC_PAGE_SIZE;
    qsort(p, k, sizeof(p[0]), by_contents);
    for (uint64_t i = 0; i < k; i++)
        different += i == 0 || memcmp(p[i - 1], p[i], VMC_PAGE_SIZE) != 0;
    free(p);
    return different;
}

/* ---- one round of ours ------------------------------------------------------------------------
 */

struct world {
    struct vmc_pool *pool;
    struct vmc_share *share;
    struct vmc_space *space[MAX_IMAGES];
    unsigned n;
    void *memory;
    size_t bytes;
};

/* As a host would: its memory for VMs in huge pages. */
static void *huge_memory(size_t bytes)
{
    size_t align = 2u << 20;
    unsigned char *p = mmap(NULL, bytes + align, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        exit(1);
    p += -(uintptr_t)p % align;
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

static void load(struct world *w, const struct vmc_platform *pf, const struct bench_image *im,
                 unsigned n, uint64_t used)
{
    struct vmc_pool_config pc = {.size = sizeof(pc), .frames = used + used / 8 + 4096};
    struct vmc_share_config sc = {.size = sizeof(sc), .order = VMC_SHARE_SEQUENTIAL};
    struct vmc_page_ref r;
    uint64_t ignored;

    for (unsigned v = 0; v < n; v++)
        pc.max_pages += im[v].pages + 4096;
    *w = (struct world){.n = n, .bytes = pc.frames * VMC_PAGE_SIZE};
    pc.base = w->memory = huge_memory(w->bytes);
    bench_must(vmc_pool_create(pf, &pc, &w->pool, NULL), "pool");
    bench_must(vmc_share_create(w->pool, &sc, &w->share, NULL), "scanner");
    for (unsigned v = 0; v < n; v++) {
        struct vmc_space_config cfg = {.size = sizeof(cfg), .pages = im[v].pages, .salt = 1};
        bench_must(vmc_space_create(w->pool, &cfg, &w->space[v], NULL), "space");
        for (uint64_t i = 0; i < im[v].pages; i++) {
            if (!im[v].touched[i])
                continue;
            bench_must(vmc_space_access(w->space[v], i, VMC_ACCESS_WRITE, &r), "load");
            memcpy(r.ptr, im[v].data + i * VMC_PAGE_SIZE, VMC_PAGE_SIZE);
        }
    }
    for (unsigned v = 0; v < n; v++)
        bench_must(vmc_space_sample(w->space[v], &ignored), "sample");
}

static void unload(struct world *w)
{
    vmc_share_destroy(w->share);
    for (unsigned v = 0; v < w->n; v++)
        vmc_space_destroy(w->space[v]);
    vmc_pool_destroy(w->pool);
    if (w->memory != NULL)
        munmap(w->memory, w->bytes);
}

struct scan_result {
    uint64_t cpu_ns, visited, merged, freed;
};

static struct scan_result scan_pass(struct world *w)
{
    struct vmc_share_budget b = {.pages = 65536};
    struct vmc_share_result r;
    struct scan_result out = {0};
    uint64_t start = bench_cpu_ns();

    do {
        bench_must(vmc_share_scan(w->share, &b, &r), "scan");
        out.visited += r.visited;
        out.merged += r.merged;
        out.freed += r.freed;
    } while (!r.pass_done);
    out.cpu_ns = bench_cpu_ns() - start;
    return out;
}

/* Does every VM still read what it wrote? */
static uint64_t wrong_pages(struct world *w, const struct bench_image *im)
{
    static unsigned char page[VMC_PAGE_SIZE];
    uint64_t wrong = 0;

    for (unsigned v = 0; v < w->n; v++)
        for (uint64_t i = 0; i < im[v].pages; i++) {
            bench_must(vmc_space_read(w->space[v], i, 0, page, VMC_PAGE_SIZE, 0), "read");
            wrong += memcmp(page, im[v].data + i * VMC_PAGE_SIZE, VMC_PAGE_SIZE) != 0;
        }
    return wrong;
}

static uint64_t metadata(struct world *w)
{
    struct vmc_pool_stats ps;
    struct vmc_share_stats ss;

    vmc_pool_stats(w->pool, &ps);
    vmc_share_stats(w->share, &ss);
    return ps.meta_bytes + ss.meta_bytes;
}

/* ---- sharing --------------------------------------------------------------------------------- */

static void bench_sharing(const struct vmc_platform *pf, const struct bench_image *im, unsigned n,
                          unsigned rounds, bool ksm)
{
    double ours[MAX_ROUNDS], merges[MAX_ROUNDS], theirs[MAX_ROUNDS];
    uint64_t used = 0, pages = 0, wrong = 0;
    unsigned ksm_rounds = 0;
    struct scan_result r = {0};

    for (unsigned v = 0; v < n; v++) {
        used += im[v].used;
        pages += im[v].pages;
    }
    uint64_t different = distinct(im, n, used);
    printf("%u images: %llu pages, %llu not zero, %llu different: %.1f %% of them can go\n", n,
           (unsigned long long)pages, (unsigned long long)used, (unsigned long long)different,
           100.0 * (double)(used - different) / (double)used);
    for (unsigned i = 0; i < rounds; i++) {
        struct world w;
        load(&w, pf, im, n, used);
        r = scan_pass(&w);
        ours[i] = (double)r.visited * 1e9 / (double)r.cpu_ns;
        merges[i] = (double)r.freed * 1e9 / (double)r.cpu_ns;
        if (i == 0) {
            wrong = wrong_pages(&w, im);
            /* The page maps are what page tables are elsewhere; they are shown beside the rest. */
            double all = (double)metadata(&w) / (double)pages;
            bench_result("mem.meta_bytes_per_page", all - sizeof(uint32_t), "bytes");
            bench_result("mem.meta_with_page_maps_bytes_per_page", all, "bytes");
        }
        printf("round %u: %llu pages in %.1f ms, %.2f million a CPU-second", i + 1,
               (unsigned long long)r.visited, (double)r.cpu_ns / 1e6, ours[i] / 1e6);
        unload(&w);
        if (ksm) {
            theirs[ksm_rounds] = bench_ksm(im, n, used, used - different);
            if (theirs[ksm_rounds] > 0)
                printf("; KSM merges %.3f million", theirs[ksm_rounds++] / 1e6);
        }
        printf("\n");
    }
    bench_result("mem.share_pages_per_cpu_s", median(ours, rounds), "pages/s");
    bench_result("mem.share_merges_per_cpu_s", median(merges, rounds), "pages/s");
    if (ksm_rounds > 0) {
        double k = median(theirs, ksm_rounds);
        bench_result("mem.ksm_merges_per_cpu_s", k, "pages/s");
        bench_result("mem.share_vs_ksm", median(merges, rounds) / k, "ratio");
    }
    bench_result("mem.share_found_fraction", (double)r.freed / (double)(used - different),
                 "fraction");
    bench_result("mem.share_false_merges", (double)wrong, "pages");
}

/* Only what there is to find. */
static void bench_alike(const struct bench_image *im, unsigned n)
{
    uint64_t used = 0;

    for (unsigned v = 0; v < n; v++)
        used += im[v].used;
    bench_result("mem.hetero_identical_fraction",
                 (double)(used - distinct(im, n, used)) / (double)used, "fraction");
}

/* ---- savings, and faults on what was compressed ------------------------------------------------
 */

static uint64_t rnd_state = 88172645463325252ull;
static uint64_t rnd(uint64_t below)
{
    rnd_state ^= rnd_state << 13;
    rnd_state ^= rnd_state >> 7;
    rnd_state ^= rnd_state << 17;
    return rnd_state % below;
}

static void cool(struct world *w)
{
    uint64_t ignored;

    for (unsigned i = 0; i < 5; i++)
        for (unsigned v = 0; v < w->n; v++)
            bench_must(vmc_space_sample(w->space[v], &ignored), "sample");
}

/* Microseconds that so many steps took which need nothing but registers. */
static double steps_us(unsigned steps)
{
    uint64_t t = bench_wall_ns(), x = t;

    while (steps-- > 0)
        x = x * 6364136223846793005ull + 1;
    __asm__ volatile("" : : "r"(x));
    return (double)(bench_wall_ns() - t) / 1000;
}

/* How often the kernel took the processor away from this thread. */
static long switches(void)
{
    struct rusage u;

    getrusage(RUSAGE_THREAD, &u);
    return u.ru_nivcsw;
}

/*
 * Between faults something that should always take 5 us: what the machine adds to the slowest.
 * Faults during which other processes ran are in the first two figures, and not in the last.
 */
static void bench_faults(struct world *w, const char *prefix)
{
    enum { FAULTS = 20000, PROBE = 1000000 };
    static double us[FAULTS], alone[FAULTS], control[FAULTS];
    struct vmc_page_ref r;
    unsigned got = 0, undisturbed = 0, steps = (unsigned)(5 * PROBE / steps_us(PROBE));
    char name[64];

    for (uint64_t tries = 0; got < FAULTS && tries < 100ull * FAULTS; tries++) {
        struct vmc_space *s = w->space[rnd(w->n)];
        uint64_t page = rnd(vmc_space_pages(s));
        enum vmc_page_state st = vmc_space_state(s, page);
        if (st != VMC_PAGE_PACKED && st != VMC_PAGE_DELTA)
            continue;
        long before = switches();
        uint64_t t = bench_wall_ns();
        bench_must(vmc_space_access(s, page, 0, &r), "fault");
        us[got] = (double)(bench_wall_ns() - t) / 1000;
        if (switches() == before)
            alone[undisturbed++] = us[got];
        control[got++] = steps_us(steps);
    }
    if (got == 0)
        return;
    qsort(us, got, sizeof(us[0]), by_value);
    qsort(control, got, sizeof(us[0]), by_value);
    snprintf(name, sizeof(name), "%sfault_p50_us", prefix);
    bench_result(name, us[got / 2], "us");
    snprintf(name, sizeof(name), "%sfault_p99_us", prefix);
    bench_result(name, us[got - got / 100 - 1], "us");
    snprintf(name, sizeof(name), "%sfault_control_p99_us", prefix);
    bench_result(name, control[got - got / 100 - 1], "us");
    if (undisturbed == 0)
        return;
    qsort(alone, undisturbed, sizeof(us[0]), by_value);
    snprintf(name, sizeof(name), "%sfault_undisturbed_p99_us", prefix);
    bench_result(name, alone[undisturbed - undisturbed / 100 - 1], "us");
}

static void bench_savings(const struct vmc_platform *pf, const struct bench_image *im, unsigned n,
                          const char *prefix)
{
    struct vmc_share_budget b = {0};
    struct vmc_share_pack_result r;
    struct vmc_share_stats ss;
    struct vmc_pool_stats ps;
    struct world w;
    uint64_t used = 0;
    char name[64];

    for (unsigned v = 0; v < n; v++)
        used += im[v].used;
    load(&w, pf, im, n, used);
    (void)scan_pass(&w);
    cool(&w);
    uint64_t cpu = bench_cpu_ns();
    bench_must(vmc_share_pack(w.share, NULL, &b, 0, &r), "pack");
    cpu = bench_cpu_ns() - cpu;
    vmc_pool_compact(w.pool, UINT64_MAX);
    vmc_pool_stats(w.pool, &ps);
    vmc_share_stats(w.share, &ss);
    uint64_t taken = (ps.frames - ps.free) * VMC_PAGE_SIZE + metadata(&w);
    printf("%llu pages compressed, %llu as differences (of %llu tried), %llu left; %.1f us each; "
           "store %llu frames for %.1f MiB payload\n",
           (unsigned long long)r.packed, (unsigned long long)r.deltas,
           (unsigned long long)ss.delta_tried, (unsigned long long)r.incompressible,
           (double)cpu / 1000 / (double)(r.visited + !r.visited),
           (unsigned long long)ps.store_frames, (double)ps.packed_bytes / 1048576);
    snprintf(name, sizeof(name), "%ssaved_net_fraction", prefix);
    bench_result(name, 1 - (double)taken / ((double)used * VMC_PAGE_SIZE), "fraction");
    bench_faults(&w, prefix);
    uint64_t wrong = wrong_pages(&w, im);
    snprintf(name, sizeof(name), "%swrong_pages", prefix);
    bench_result(name, (double)wrong, "pages");
    unload(&w);
}

/* ---- idle, reclaim, policy ---------------------------------------------------------------------
 */

static void bench_rescan(const struct vmc_platform *pf)
{
    enum { PAGES = 2 << 18 };
    struct vmc_pool_config pc = {.size = sizeof(pc), .frames = PAGES + 4096};
    struct vmc_share_config sc = {.size = sizeof(sc), .order = VMC_SHARE_SEQUENTIAL};
    struct vmc_space_config cfg = {.size = sizeof(cfg), .pages = PAGES, .salt = 1};
    struct world w = {.n = 1};
    struct vmc_page_ref r;
    uint64_t ignored;
    double ms[9];

    bench_must(vmc_pool_create(pf, &pc, &w.pool, NULL), "pool");
    bench_must(vmc_share_create(w.pool, &sc, &w.share, NULL), "scanner");
    bench_must(vmc_space_create(w.pool, &cfg, &w.space[0], NULL), "space");
    for (uint64_t i = 0; i < PAGES; i++) {
        bench_must(vmc_space_access(w.space[0], i, VMC_ACCESS_WRITE, &r), "load");
        *(uint64_t *)r.ptr = i + 1;
    }
    bench_must(vmc_space_sample(w.space[0], &ignored), "sample");
    (void)scan_pass(&w);
    for (unsigned i = 0; i < 9; i++) {
        uint64_t t = bench_cpu_ns();
        bench_must(vmc_space_sample(w.space[0], &ignored), "sample");
        (void)scan_pass(&w);
        ms[i] = (double)(bench_cpu_ns() - t) / 1e6;
    }
    bench_result("mem.rescan_idle_2g_ms", median(ms, 9), "ms");
    unload(&w);
}

static void discard(void *ctx, void *base, size_t bytes)
{
    (void)ctx;
    if (madvise(base, bytes, MADV_DONTNEED) != 0)
        perror("madvise");
}

/* Whole 2 MiB frames taken from a cooperating guest, and given back to the kernel. */
static void bench_reclaim(const struct vmc_platform *pf)
{
    enum { BLOCKS = 1024, BLOCK = 512, ROUNDS = 7 };
    size_t bytes = (size_t)(BLOCKS + 32) * BLOCK * VMC_PAGE_SIZE;
    struct vmc_pool_config pc = {.size = sizeof(pc),
                                 .frames = (BLOCKS + 32) * BLOCK,
                                 .base = huge_memory(bytes),
                                 .discard = discard};
    struct vmc_space_config cfg = {
        .size = sizeof(cfg), .pages = (uint64_t)BLOCKS * BLOCK, .flags = VMC_SPACE_LARGE};
    unsigned char *bound = huge_memory(bytes);
    double us[ROUNDS], rate[ROUNDS], best[ROUNDS];
    struct vmc_pool *pool;
    struct vmc_space *s;
    struct vmc_page_ref r;
    uint64_t ignored;

    bench_must(vmc_pool_create(pf, &pc, &pool, NULL), "pool");
    bench_must(vmc_space_create(pool, &cfg, &s, NULL), "space");
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t blocks = 0;
        for (uint64_t b = 0; b < BLOCKS - BLOCKS / 8; b++) {
            bench_must(vmc_space_access(s, b * BLOCK, VMC_ACCESS_WRITE, &r), "touch");
            blocks++;
        }
        bench_must(vmc_space_sample(s, &ignored), "sample");
        uint64_t t = bench_cpu_ns();
        for (uint64_t b = 0; b < blocks; b++)
            if (vmc_space_drop(s, b * BLOCK, BLOCK, true) != BLOCK)
                exit(1);
        us[round] = (double)(bench_cpu_ns() - t) / 1000 / (double)blocks;
        t = bench_cpu_ns();
        uint64_t frames = vmc_pool_trim(pool, 0);
        rate[round] = (double)frames * VMC_PAGE_SIZE / (double)(bench_cpu_ns() - t);
        vmc_space_return(s, 0, cfg.pages);
        size_t same = blocks * BLOCK * (size_t)VMC_PAGE_SIZE;
        for (size_t i = 0; i < same; i += VMC_PAGE_SIZE)
            bound[i] = 1;
        t = bench_cpu_ns();
        discard(NULL, bound, same);
        best[round] = (double)same / (double)(bench_cpu_ns() - t);
    }
    bench_result("mem.reclaim_us_per_2m", median(us, ROUNDS), "us");
    bench_result("mem.return_gib_s", median(rate, ROUNDS) / 1.073741824, "GiB/s");
    bench_result("mem.return_vs_madvise", median(rate, ROUNDS) / median(best, ROUNDS), "ratio");
    vmc_space_destroy(s);
    vmc_pool_destroy(pool);
}

static void bench_policy(void)
{
    enum { N = 10000 };
    struct vmc_balloon_vm *v = calloc(N, sizeof(*v));
    uint64_t low = 0, high = 0;
    double ms[21];

    if (v == NULL)
        return;
    for (unsigned i = 0; i < N; i++) {
        v[i] = (struct vmc_balloon_vm){.configured = 1 + rnd(1 << 20),
                                       .shares = (uint32_t)(1 + rnd(4) * 500),
                                       .overhead = 100};
        v[i].reservation = rnd(2) ? rnd(v[i].configured) / 2 : 0;
        v[i].active = rnd(v[i].configured);
        low += v[i].reservation + 100;
        high += v[i].configured + 100;
    }
    for (unsigned i = 0; i < 21; i++) {
        uint64_t t = bench_cpu_ns();
        bench_must(vmc_balloon_plan(v, N, low + (high - low) * (i + 1) / 23, 75, NULL), "plan");
        ms[i] = (double)(bench_cpu_ns() - t) / 1e6;
    }
    bench_result("mem.policy_10k_ms", median(ms, 21), "ms");
    free(v);
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"rounds", required_argument, NULL, 'r'},
                                          {"no-ksm", no_argument, NULL, 'k'},
                                          {"heterogeneous", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    static struct bench_image im[MAX_IMAGES];
    struct vmc_platform pf;
    unsigned n = 0, rounds = 5;
    bool ksm = true, hetero = false;
    int c;

    while ((c = getopt_long(argc, argv, "r:kh", longs, NULL)) != -1) {
        if (c == 'r')
            rounds = (unsigned)atoi(optarg);
        else if (c == 'k')
            ksm = false;
        else if (c == 'h')
            hetero = true;
        else
            return 2;
    }
    if (rounds == 0 || rounds > MAX_ROUNDS)
        return 2;
    bench_must(vmc_host_platform_init(&pf, NULL, NULL), "platform");
    for (; optind < argc && n < MAX_IMAGES; optind++)
        image_open(&im[n++], argv[optind]);
    if (n > 0 && !hetero)
        bench_sharing(&pf, im, n, rounds, ksm);
    else if (n > 0)
        bench_alike(im, n);
    if (n > 0)
        bench_savings(&pf, im, n, hetero ? "mem.hetero_" : "mem.");
    if (!hetero) {
        bench_rescan(&pf);
        bench_reclaim(&pf);
        bench_policy();
    }
    return 0;
}
