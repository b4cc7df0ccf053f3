/* SPDX-License-Identifier: BSD-2-Clause */
/* Mounts, and the model of what they should show. */
#define _GNU_SOURCE
#include "fuse_hosts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FUSE_TYPE 0x65735546

struct node nodes[NODES];
struct change now;
pid_t mounts[HOSTS];
int hosts, lease_s;
const char *vmcore, *volume, *top;
uint64_t state, step;
const char *failed;
int failed_errno;
bool six;

void __attribute__((format(printf, 1, 2), noreturn)) fail(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fprintf(stderr, "fuse_hosts: step %llu: ", (unsigned long long)step);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    for (int h = 0; h < hosts; h++)
        if (mounts[h] > 0)
            kill(mounts[h], SIGCONT);
    exit(1);
}

uint64_t rnd(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

void nap(unsigned ms)
{
    (void)poll(NULL, 0, (int)ms);
}

double seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- mounts ------------------------------------------------------------------------------------
 */

const char *mount_point(int h, char *out)
{
    sprintf(out, "%s/h%d", top, h);
    return out;
}

static bool is_mounted(int h)
{
    char path[256];
    struct statfs s;

    return statfs(mount_point(h, path), &s) == 0 && s.f_type == FUSE_TYPE;
}

void start(int h)
{
    char path[256], log[300], lease[16];

    mount_point(h, path);
    snprintf(log, sizeof(log), "%s/h%d.log", top, h);
    snprintf(lease, sizeof(lease), "%d", lease_s);
    (void)mkdir(path, 0755);
    mounts[h] = fork();
    if (mounts[h] == 0) {
        int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(fd, 1);
        dup2(fd, 2);
        execl(vmcore, vmcore, "vmfs", "mount", "--lease", lease, volume, path,
              six ? "--experimental" : NULL, NULL);
        _exit(127);
    }
    for (int i = 0; !is_mounted(h); i++) {
        int status;
        if (waitpid(mounts[h], &status, WNOHANG) == mounts[h])
            fail("host %d: the mount ended with status 0x%x, see %s", h, status, log);
        if (i > 6000)
            fail("host %d does not mount", h);
        nap(10);
    }
}

/* The mount is gone, or is to go: without a word to the others. */
void end(int h)
{
    char path[256];
    int status;

    if (mounts[h] != 0)
        kill(mounts[h], SIGKILL);
    for (int i = 0; i < NODES; i++)
        if (nodes[i].fd >= 0 && nodes[i].host == h) {
            (void)close(nodes[i].fd);
            nodes[i].fd = -1;
        }
    if (umount2(mount_point(h, path), MNT_DETACH) != 0)
        fail("unmount of host %d: %s", h, strerror(errno));
    if (mounts[h] != 0)
        waitpid(mounts[h], &status, 0);
    mounts[h] = 0;
}

bool ended_by_watchdog(int h)
{
    int status;

    if (waitpid(mounts[h], &status, WNOHANG) != mounts[h])
        return false;
    mounts[h] = 0;
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail("host %d ended with status 0x%x", h, status);
    return true;
}

void stop(int h)
{
    char path[256];
    int status;

    for (int i = 0; umount2(mount_point(h, path), 0) != 0; i++) {
        if (errno != EBUSY || i > 200)
            fail("unmount of host %d: %s", h, strerror(errno));
        nap(50);
    }
    if (waitpid(mounts[h], &status, 0) != mounts[h] ||
        (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)))
        fail("host %d ended with status 0x%x", h, status);
    mounts[h] = 0;
}

/* ---- calls that may be cut off or have to wait -------------------------------------------------
 */

/* What a call says when the mount is gone, or has lost its lease. */
static bool gone(int e)
{
    return e == ENOTCONN || e == ECONNABORTED || e == EIO || e == ENODEV;
}

/*
 * Judges a call: true: it worked. Otherwise its mount went away in a moment when it may; anything
 * else is an error of the file system. A host whose heartbeats came late, because the machine had
 * no time for it, fences itself: that is no error either, but counted.
 */
bool ok(bool worked, const char *what, const char *path)
{
    if (worked)
        return true;
    if (!gone(errno))
        fail("%s: %s: %s", what, path, strerror(errno));
    failed = what;
    failed_errno = errno;
    return false;
}

/* A lock may still be that of a dead host, or of a handle whose release is on its way. */
bool again(double *since)
{
    if (errno != EBUSY)
        return false;
    if (*since == 0)
        *since = seconds();
    if (seconds() - *since > 30 * lease_s)
        return false;
    nap(20);
    return true;
}

/* ---- the model ---------------------------------------------------------------------------------
 */

char *path_at(int h, int parent, unsigned name, char *out)
{
    int up[NODES], n = 0;

    for (int i = parent; i >= 0; i = nodes[i].parent)
        up[n++] = i;
    char *p = out + sprintf(out, "%s/h%d", top, h);
    while (n > 0)
        p += sprintf(p, "/n%u", nodes[up[--n]].name);
    sprintf(p, "/n%u", name);
    return out;
}

char *path_of(int h, int i, char *out)
{
    return path_at(h, nodes[i].parent, nodes[i].name, out);
}

int find(int parent, unsigned name)
{
    for (int i = 0; i < NODES; i++)
        if (nodes[i].kind != NONE && nodes[i].parent == parent && nodes[i].name == name)
            return i;
    return -1;
}

int depth(int i)
{
    int n = 0;

    for (; i >= 0; i = nodes[i].parent)
        n++;
    return n;
}

bool below(int i, int dir)
{
    for (; i >= 0; i = nodes[i].parent)
        if (i == dir)
            return true;
    return false;
}

int children(int dir)
{
    int n = 0;

    for (int i = 0; i < NODES; i++)
        n += nodes[i].kind != NONE && nodes[i].parent == dir;
    return n;
}

int pick(enum kind kind)
{
    int from = (int)rnd(NODES);

    for (int i = 0; i < NODES; i++)
        if (nodes[(from + i) % NODES].kind == kind)
            return (from + i) % NODES;
    return -1;
}

int pick_dir(void)
{
    int i = rnd(3) == 0 ? -1 : pick(DIRECTORY);

    return i >= 0 && depth(i) < DEPTH ? i : -1;
}

/* Offset in the file of what the model has at an index. */
uint64_t offset_of(size_t at)
{
    return at < NEAR ? at : FAR + (at - NEAR);
}

/* Bytes of data below a file size. */
size_t data_below(uint64_t size)
{
    if (size <= FAR)
        return size < NEAR ? (size_t)size : NEAR;
    return NEAR + (size - FAR < FAR_BYTES ? (size_t)(size - FAR) : FAR_BYTES);
}

void remember(int a, int b)
{
    now.a = a;
    now.b = b;
    now.from = now.to = 0;
    now.kept_from = now.kept_to = 0;
    now.old_a = a >= 0 ? nodes[a] : (struct node){0};
    now.old_b = b >= 0 ? nodes[b] : (struct node){0};
}

void keep(size_t from, size_t to)
{
    memcpy(now.copy + from, nodes[now.a].data + from, to - from);
    now.kept_from = from;
    now.kept_to = to;
}

void fill(unsigned char *p, size_t n)
{
    uint64_t seed = rnd(UINT64_MAX);

    for (size_t i = 0; i < n; i += 8) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        memcpy(p + i, &seed, n - i < 8 ? n - i : 8);
    }
}

/* A range inside one of the two areas; short ones near the beginning are the more frequent ones. */
void range(size_t *at, size_t *n)
{
    static const size_t scale[] = {300, 1100, 9000, 70000, 300000, NEAR};
    size_t start = rnd(8) == 0 ? NEAR : 0, room = start != 0 ? FAR_BYTES : NEAR;
    size_t most = scale[rnd(6)];

    most = most < room ? most : room;
    *at = start + rnd(most);
    *n = 1 + rnd(rnd(4) == 0 ? IO : 5000);
    if (*at + *n > start + room)
        *n = start + room - *at;
}

/* ---- checking ----------------------------------------------------------------------------------
 */

static void compare(const char *path, const struct node *f, const unsigned char *got, size_t at,
                    size_t n)
{
    if (memcmp(got, f->data + at, n) == 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (got[i] != f->data[at + i])
            fail("%s: byte %llu of %llu is 0x%02x, not 0x%02x", path,
                 (unsigned long long)offset_of(at + i), (unsigned long long)f->size, got[i],
                 f->data[at + i]);
}

/* Like pread, to the end: of a mount that ends in between, the kernel hands out the first part. */
static ssize_t read_all(int fd, unsigned char *buf, size_t n, uint64_t at)
{
    size_t done = 0;
    ssize_t got;

    do {
        got = pread(fd, buf + done, n - done, (off_t)(at + done));
        done += got > 0 ? (size_t)got : 0;
    } while (got > 0 && done < n);
    return got < 0 ? -1 : (ssize_t)done;
}

/* A piece of the file against the model; a mount that ended shows nothing. */
bool read_and_compare(const char *path, int fd, const struct node *f, size_t at, size_t n)
{
    static unsigned char buf[DATA];
    size_t have = data_below(f->size), want = at >= have ? 0 : at + n > have ? have - at : n;
    ssize_t got = read_all(fd, buf, n, offset_of(at));

    if (!ok(got >= 0, "read", path))
        return false;
    /* Between the two areas there is nothing, and it can be read when the file is longer. */
    if ((size_t)got != want && !(at + n == NEAR && f->size > NEAR))
        fail("%s: %zd bytes at %llu, not %zu of a file of %llu", path, got,
             (unsigned long long)offset_of(at), want, (unsigned long long)f->size);
    compare(path, f, buf, at, want);
    return true;
}

bool check_stat(int h, int i)
{
    char path[256];
    struct stat st;
    const struct node *f = &nodes[i];
    static const mode_t type[] = {0, S_IFDIR, S_IFREG, S_IFLNK};
    bool found;

    path_of(h, i, path);
    RETRY(found, lstat(path, &st) == 0);
    if (!ok(found, "stat", path))
        return false;
    if ((st.st_mode & S_IFMT) != type[f->kind])
        fail("%s has mode 0%o", path, st.st_mode);
    if (f->kind == REGULAR && ((uint64_t)st.st_size != f->size || (st.st_mode & 07777) != f->mode))
        fail("%s has %lld bytes and mode 0%o, not %llu and 0%o", path, (long long)st.st_size,
             st.st_mode & 07777, (unsigned long long)f->size, f->mode);
    return true;
}

/* How many names of the model a directory holds; -1 with errno. */
static int list(const char *path, int dir)
{
    int n = 0;
    struct dirent *e;
    DIR *d = opendir(path);

    if (d == NULL)
        return -1;
    for (errno = 0; (e = readdir(d)) != NULL; errno = 0) {
        unsigned name;
        if (sscanf(e->d_name, "n%u", &name) != 1)
            continue; /* ".", what belongs to the volume, files that are removed when closed */
        if (find(dir, name) < 0)
            fail("%s holds %s, which does not exist", path, e->d_name);
        n++;
    }
    int rc = errno;
    closedir(d);
    errno = rc;
    return rc == 0 ? n : -1;
}

bool check_list(int h, int dir)
{
    char path[256];
    int n;
    bool listed;

    if (dir >= 0)
        path_of(h, dir, path);
    else
        mount_point(h, path);
    RETRY(listed, (n = list(path, dir)) >= 0);
    if (!ok(listed, "list", path))
        return false;
    if (n != children(dir))
        fail("%s holds %d names, not %d", path, n, children(dir));
    return true;
}

/* A file's contents through a handle of its own, or the one that is kept. */
static bool check_file(int h, int i)
{
    char path[256];
    struct node *f = &nodes[i];
    bool kept = f->fd >= 0, good;
    int fd = f->fd;

    path_of(h, i, path);
    if (!kept) {
        bool open_ok;
        RETRY(open_ok, (fd = open(path, O_RDONLY | O_CLOEXEC)) >= 0);
        if (!ok(open_ok, "open", path))
            return false;
    }
    good = read_and_compare(path, fd, f, 0, NEAR);
    if (good && f->size > FAR)
        good = read_and_compare(path, fd, f, NEAR, FAR_BYTES);
    if (!kept)
        close(fd);
    return good;
}

bool check_all(int h)
{
    char path[256], target[64];

    if (!check_list(h, -1))
        return false;
    for (int i = 0; i < NODES; i++) {
        const struct node *f = &nodes[i];
        if (f->kind == NONE)
            continue;
        if (!check_stat(h, i) || (f->kind == DIRECTORY && !check_list(h, i)))
            return false;
        if (f->kind == REGULAR && (f->fd < 0 || f->host == h) && !check_file(h, i))
            return false;
        if (f->kind == LINK) {
            ssize_t n;
            bool got;
            RETRY(got, (n = readlink(path_of(h, i, path), target, sizeof(target) - 1)) >= 0);
            if (!ok(got, "readlink", path))
                return false;
            target[n] = 0;
            if (strcmp(target, f->target) != 0)
                fail("%s points to %s, not %s", path, target, f->target);
        }
    }
    return true;
}
