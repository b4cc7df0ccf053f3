/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random operations on a mounted file system against a model in memory, like fsx, but on several
 * files at a time: read, write, mapped write, truncate, punch, allocate, rename over, unlink, list.
 * Usage: fuse_model DIRECTORY OPERATIONS SEED [verify]
 * The directory must be empty; "verify" does the same operations without touching the file system,
 * and then compares what is there: after the volume was mounted again.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 6
#define NAMES 10
#define MAX   (6u << 20)
#define IO    (600u << 10)

struct file {
    bool used;
    int fd;
    unsigned name;
    size_t size;
    unsigned char *data;
};

static struct file files[FILES];
static uint64_t state, step;
static bool dry; /* only the model */

static void __attribute__((format(printf, 1, 2))) fail(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fprintf(stderr, "fuse_model: step %llu: ", (unsigned long long)step);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    exit(1);
}

static uint64_t rnd(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static const char *path_of(unsigned name, char *out)
{
    sprintf(out, name % 3 == 0 ? "dir/file%u" : "file%u", name);
    return out;
}

static void must(bool ok, const char *what)
{
    if (!ok)
        fail("%s: %s", what, strerror(errno));
}

/* Small numbers more often: files inside of a descriptor and of one sub-block matter too. */
static size_t size_below(size_t most)
{
    static const size_t scale[] = {300, 1100, 9000, 70000, 300000, MAX};
    size_t n = scale[rnd(6)];
    return rnd((n < most ? n : most) + 1);
}

static void open_file(struct file *f, int flags)
{
    char path[32];

    if (dry)
        return;
    f->fd = open(path_of(f->name, path), O_RDWR | flags, 0644);
    must(f->fd >= 0, path);
}

static void close_file(struct file *f)
{
    if (!dry)
        must(close(f->fd) == 0, "close");
    f->fd = -1;
}

static bool taken(unsigned name)
{
    for (int i = 0; i < FILES; i++)
        if (files[i].used && files[i].name == name)
            return true;
    return false;
}

static void fill(unsigned char *p, size_t n)
{
    uint64_t seed = rnd(UINT64_MAX);

    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        p[i] = (unsigned char)(seed >> 56);
    }
}

static void compare(const struct file *f, const unsigned char *got, size_t off, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (got[i] != f->data[off + i])
            fail("file%u: byte %zu of %zu is 0x%02x, not 0x%02x", f->name, off + i, f->size, got[i],
                 f->data[off + i]);
}

static void do_write(struct file *f, bool mapped)
{
    size_t off = size_below(mapped ? f->size : MAX - 1), n = 1 + rnd(IO);
    bool sync = rnd(2) == 0;

    if (mapped && (f->size == 0 || off >= f->size))
        return;
    n = off + n > (mapped ? f->size : MAX) ? (mapped ? f->size : MAX) - off : n;
    fill(f->data + off, n);
    if (off + n > f->size)
        f->size = off + n;
    if (dry)
        return;
    if (!mapped) {
        must(pwrite(f->fd, f->data + off, n, (off_t)off) == (ssize_t)n, "write");
        return;
    }
    unsigned char *p = mmap(NULL, f->size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    must(p != MAP_FAILED, "mmap");
    memcpy(p + off, f->data + off, n);
    compare(f, p, 0, f->size < 5000 ? f->size : 5000);
    if (sync)
        must(msync(p, f->size, MS_SYNC) == 0, "msync");
    must(munmap(p, f->size) == 0, "munmap");
}

static void do_read(struct file *f)
{
    size_t off = size_below(MAX - 1), n = 1 + rnd(IO);
    size_t want = off >= f->size ? 0 : off + n > f->size ? f->size - off : n;

    if (dry)
        return;
    unsigned char *buf = malloc(n);
    must(buf != NULL, "memory");
    ssize_t got = pread(f->fd, buf, n, (off_t)off);
    must(got >= 0, "read");
    if ((size_t)got != want)
        fail("file%u: %zd bytes at %zu, not %zu", f->name, got, off, want);
    compare(f, buf, off, want);
    free(buf);
}

static void do_size(struct file *f)
{
    size_t n = size_below(MAX);

    if (n < f->size)
        memset(f->data + n, 0, f->size - n);
    f->size = n;
    if (!dry)
        must(ftruncate(f->fd, (off_t)n) == 0, "truncate");
}

static void do_space(struct file *f, bool punch)
{
    size_t off = size_below(MAX - 1), n = 1 + rnd(2 * IO);

    n = off + n > MAX ? MAX - off : n;
    if (punch && off < f->size)
        memset(f->data + off, 0, off + n > f->size ? f->size - off : n);
    if (!punch && off + n > f->size)
        f->size = off + n;
    if (!dry)
        must(fallocate(f->fd, punch ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : 0, (off_t)off,
                       (off_t)n) == 0,
             punch ? "punch" : "allocate");
}

static void do_rename(struct file *f)
{
    unsigned to = (unsigned)rnd(NAMES);
    char a[32], b[32];

    if (to == f->name)
        return;
    for (int i = 0; i < FILES; i++)
        if (files[i].used && files[i].name == to) {
            close_file(&files[i]);
            files[i].used = false;
        }
    if (!dry)
        must(rename(path_of(f->name, a), path_of(to, b)) == 0, "rename");
    f->name = to;
}

static void do_make(struct file *f)
{
    unsigned name = (unsigned)rnd(NAMES);

    if (taken(name))
        return;
    f->used = true;
    f->name = name;
    f->size = 0;
    memset(f->data, 0, MAX);
    open_file(f, O_CREAT | O_EXCL);
}

static void do_unlink(struct file *f)
{
    char path[32];

    close_file(f);
    f->used = false;
    if (!dry)
        must(unlink(path_of(f->name, path)) == 0, "unlink");
}

static unsigned listed(const char *dir)
{
    unsigned n = 0;
    struct dirent *e;
    DIR *d = opendir(dir);

    must(d != NULL, dir);
    while ((e = readdir(d)) != NULL)
        n += strncmp(e->d_name, "file", 4) == 0;
    closedir(d);
    return n;
}

static void compare_all(void)
{
    unsigned here = 0, below = 0;
    struct stat st;

    for (int i = 0; i < FILES; i++) {
        struct file *f = &files[i];
        if (!f->used)
            continue;
        here += f->name % 3 != 0;
        below += f->name % 3 == 0;
        must(fstat(f->fd, &st) == 0, "stat");
        if ((size_t)st.st_size != f->size)
            fail("file%u has %lld bytes, not %zu", f->name, (long long)st.st_size, f->size);
        unsigned char *buf = malloc(f->size + 1);
        must(buf != NULL && pread(f->fd, buf, f->size + 1, 0) == (ssize_t)f->size, "read");
        compare(f, buf, 0, f->size);
        free(buf);
    }
    if (listed(".") != here || listed("dir") != below)
        fail("%u and %u names are listed, not %u and %u", listed("."), listed("dir"), here, below);
}

static void operation(void)
{
    struct file *f = &files[rnd(FILES)];
    unsigned what = (unsigned)rnd(100), extra = (unsigned)rnd(2);

    if (!f->used)
        do_make(f);
    else if (what < 28)
        do_write(f, false);
    else if (what < 58)
        do_read(f);
    else if (what < 70)
        do_size(f);
    else if (what < 78)
        do_write(f, true);
    else if (what < 86)
        do_space(f, extra == 0);
    else if (what < 91)
        do_rename(f);
    else if (what < 94)
        do_unlink(f);
    else if (what < 97) {
        close_file(f);
        if (extra != 0) {
            memset(f->data, 0, f->size);
            f->size = 0;
        }
        open_file(f, extra != 0 ? O_TRUNC : 0);
    } else if (!dry)
        must(fsync(f->fd) == 0, "fsync");
}

int main(int argc, char **argv)
{
    if (argc < 4 || chdir(argv[1]) != 0) {
        fprintf(stderr, "Usage: fuse_model DIRECTORY OPERATIONS SEED [verify]\n");
        return 2;
    }
    uint64_t ops = strtoull(argv[2], NULL, 0);
    state = strtoull(argv[3], NULL, 0) * 0x9E3779B97F4A7C15ull | 1;
    dry = argc > 4;
    for (int i = 0; i < FILES; i++)
        must((files[i].data = calloc(1, MAX)) != NULL, "memory");
    if (!dry)
        must(mkdir("dir", 0755) == 0, "mkdir");
    for (step = 1; step <= ops; step++) {
        operation();
        if (!dry && step % 500 == 0)
            compare_all();
    }
    for (int i = 0; dry && i < FILES; i++) {
        char path[32];
        files[i].fd = files[i].used ? open(path_of(files[i].name, path), O_RDONLY) : -1;
        must(!files[i].used || files[i].fd >= 0, "open");
    }
    compare_all();
    printf("%llu operations%s\n", (unsigned long long)ops, dry ? " verified" : "");
    return 0;
}
