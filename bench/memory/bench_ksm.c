/* SPDX-License-Identifier: BSD-2-Clause */
/* The kernel's own merging, on the same pages. */
#define _GNU_SOURCE
#include "bench_memory.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define KSM     "/sys/kernel/mm/ksm/"
#define LIMIT_S 120

static bool ksm_set(const char *name, const char *value)
{
    char path[96];
    snprintf(path, sizeof(path), KSM "%s", name);
    FILE *f = fopen(path, "we");
    if (f == NULL)
        return false;
    bool ok = fputs(value, f) >= 0;
    return fclose(f) == 0 && ok;
}

static uint64_t ksm_get(const char *name)
{
    char path[96];
    unsigned long long v = 0;
    snprintf(path, sizeof(path), KSM "%s", name);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%llu", &v) != 1)
        v = 0;
    fclose(f);
    return v;
}

/* The kernel thread's number. */
static int find_ksmd(void)
{
    DIR *d = opendir("/proc");
    struct dirent *e;
    int pid = 0;

    while (d != NULL && pid == 0 && (e = readdir(d)) != NULL) {
        char path[300], name[32] = "";
        snprintf(path, sizeof(path), "/proc/%s/comm", e->d_name);
        FILE *f = atoi(e->d_name) > 0 ? fopen(path, "re") : NULL;
        if (f == NULL)
            continue;
        if (fgets(name, sizeof(name), f) != NULL && strcmp(name, "ksmd\n") == 0)
            pid = atoi(e->d_name);
        fclose(f);
    }
    if (d != NULL)
        closedir(d);
    return pid;
}

static double cpu_seconds(int pid)
{
    char path[64], line[512];
    unsigned long user = 0, sys = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    if (fgets(line, sizeof(line), f) != NULL) {
        const char *p = strrchr(line, ')');
        if (p == NULL ||
            sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys) != 2)
            user = sys = 0;
    }
    fclose(f);
    return (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
}

double bench_ksm(const struct bench_image *im, unsigned n, uint64_t used, uint64_t expect)
{
    int pid = find_ksmd();
    size_t bytes = used * VMC_PAGE_SIZE;
    double rate = 0;

    if (pid == 0 || !ksm_set("run", "2")) /* nothing merged at first */
        return 0;
    unsigned char *m =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED)
        return 0;
    (void)madvise(m, bytes, MADV_NOHUGEPAGE);
    uint64_t k = 0;
    for (unsigned v = 0; v < n; v++)
        for (uint64_t i = 0; i < im[v].pages; i++)
            if (im[v].touched[i])
                memcpy(m + k++ * VMC_PAGE_SIZE, im[v].data + i * VMC_PAGE_SIZE, VMC_PAGE_SIZE);
    if (madvise(m, bytes, MADV_MERGEABLE) == 0 && ksm_set("pages_to_scan", "1000000") &&
        ksm_set("sleep_millisecs", "0")) {
        (void)ksm_set("smart_scan", "0");
        double before = cpu_seconds(pid);
        uint64_t start = bench_wall_ns(), merged = 0;
        ksm_set("run", "1");
        while (merged < expect * 99 / 100 && bench_wall_ns() - start < LIMIT_S * 1000000000ull) {
            struct timespec t = {.tv_nsec = 5000000};
            nanosleep(&t, NULL);
            merged = ksm_get("pages_sharing");
        }
        double cpu = cpu_seconds(pid) - before;
        rate = cpu > 0 ? (double)merged / cpu : 0;
    }
    ksm_set("run", "2");
    ksm_set("run", "0");
    munmap(m, bytes);
    return rate;
}
