/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What guests do in bench/memory/live. Every page they use holds numbers that are known, half of
 * them random, and is compared each time it is used. Built static; runs in the guest.
 *
 *   work memory SEED MIB WINDOW   fill MIB, then use random pages of a window of WINDOW MiB that
 * moves work idle SEED MIB            fill MIB, then sleep work image FILE MIB           make a
 * disk for: work cache FILE MIB           read random pieces of it through the page cache
 *
 * Prints "READY", then five times a second "AT ms OPS n"; "CORRUPT ..." when a page is wrong.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE  4096u
#define WORDS (PAGE / 8)
#define MIB   (1u << 20)
#define PIECE 4u     /* pages of the disk at a time */
#define MOVE  65536u /* operations between two moves of the window, by an eighth */

static uint64_t seed, rnd_state = 88172645463325252u;

static uint64_t rnd(void)
{
    rnd_state ^= rnd_state << 13;
    rnd_state ^= rnd_state >> 7;
    rnd_state ^= rnd_state << 17;
    return rnd_state;
}

/* Contents of a page: half noise, half the same few words. */
static void make(uint64_t *p, uint64_t page, uint64_t version)
{
    uint64_t v = (seed << 48) ^ (page << 16) ^ version ^ 0x9e3779b97f4a7c15u;

    for (unsigned i = 0; i < WORDS; i++) {
        v = v * 6364136223846793005u + 1442695040888963407u;
        p[i] = i % 2 == 0 ? v ^ v >> 29 : page;
    }
    p[WORDS - 1] = version;
}

static void check(const uint64_t *p, uint64_t page, uint64_t version)
{
    uint64_t want[WORDS];

    make(want, page, version);
    if (memcmp(p, want, PAGE) == 0)
        return;
    printf("CORRUPT page %llu version %llu\n", (unsigned long long)page,
           (unsigned long long)version);
    exit(1);
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void report(uint64_t ops)
{
    static uint64_t last;
    uint64_t now = now_ms();

    if (now - last < 200)
        return;
    last = now;
    printf("AT %llu OPS %llu\n", (unsigned long long)now, (unsigned long long)ops);
}

static void memory(uint64_t mib, uint64_t window)
{
    uint64_t pages = mib * MIB / PAGE, wide = window * MIB / PAGE, from = 0;
    uint64_t *mem =
        mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *version = calloc(pages, sizeof(version[0]));

    if (mem == MAP_FAILED || version == NULL) {
        printf("CORRUPT no memory\n");
        exit(1);
    }
    for (uint64_t i = 0; i < pages; i++)
        make(mem + i * WORDS, i, 0);
    printf("READY\n");
    for (uint64_t ops = 0; wide != 0; ops++) {
        uint64_t i = (from + rnd() % wide) % pages;
        check(mem + i * WORDS, i, version[i]);
        if (ops % 4 == 0)
            make(mem + i * WORDS, i, ++version[i]);
        if (ops % MOVE == MOVE - 1)
            from = (from + wide / 8) % pages;
        if (ops % 64 == 0)
            report(ops);
    }
    for (;;)
        sleep(1000);
}

static void image(const char *path, uint64_t mib)
{
    uint64_t page[WORDS];
    FILE *f = fopen(path, "w");

    for (uint64_t i = 0; f != NULL && i < mib * MIB / PAGE; i++) {
        make(page, i, 0);
        fwrite(page, PAGE, 1, f);
    }
    if (f == NULL || fclose(f) != 0)
        exit(1);
}

/* Linux reads ahead where it sees an order; there is none here. */
static void cache(const char *path, uint64_t mib)
{
    static uint64_t buf[PIECE * WORDS];
    uint64_t pieces = mib * MIB / PAGE / PIECE;
    int fd = open(path, O_RDONLY);

    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    printf("READY\n");
    for (uint64_t ops = 0;; ops++) {
        uint64_t at = rnd() % pieces * PIECE;
        if (pread(fd, buf, sizeof(buf), (off_t)(at * PAGE)) != (ssize_t)sizeof(buf)) {
            printf("CORRUPT cannot read\n");
            exit(1);
        }
        for (unsigned k = 0; k < PIECE; k++)
            check(buf + k * WORDS, at + k, 0);
        report(ops);
    }
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 4)
        return 2;
    if (strcmp(argv[1], "image") == 0) {
        image(argv[2], strtoull(argv[3], NULL, 0));
    } else if (strcmp(argv[1], "cache") == 0) {
        cache(argv[2], strtoull(argv[3], NULL, 0));
    } else {
        seed = strtoull(argv[2], NULL, 0);
        rnd_state += seed * 0x9e3779b97f4a7c15u;
        memory(strtoull(argv[3], NULL, 0), argc > 4 ? strtoull(argv[4], NULL, 0) : 0);
    }
    return 0;
}
