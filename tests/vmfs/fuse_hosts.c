/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One volume, mounted up to four times through FUSE, each mount a host of its own. Random
 * operations go through one mount or another and are checked against a model in memory; mounts are
 * killed in the middle of an operation, or stopped for longer than their lease. What was cut off
 * may have happened or not, or in part; everything else has to be there, through every mount.
 *
 * Usage: fuse_hosts VMCORE VOLUME DIRECTORY HOSTS OPERATIONS SEED [KILL_EVERY [STALL_EVERY
 * [LEASE]]] The volume is fresh. DIRECTORY is empty; the mounts are made in it. Operations come one
 * at a time, but for those of a stopped mount.
 */
#define _GNU_SOURCE
#include "fuse_hosts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PF_EXITING 0x4u /* of the flags in /proc/PID/stat */
#define BURST      12u  /* operations on the contents of a file in a row, on average */

static uint64_t kills, cuts, stalls, late;
static int acting; /* the host that the operation under way goes through */

/* ---- operations on names -----------------------------------------------------------------------
 */

static bool close_kept(struct node *f)
{
    bool good = f->fd < 0 || ok(close(f->fd) == 0, "close", "a kept handle");

    if (!good)
        acting = f->host;
    f->fd = -1;
    return good;
}

static bool do_make(int h)
{
    int parent = pick_dir(), i = pick(NONE);
    unsigned name = (unsigned)rnd(NAMES);
    enum kind kind = (enum kind)(1 + (rnd(10) < 2 ? 0 : rnd(10) < 1 ? 2 : 1));
    char path[256];
    bool worked;

    if (i < 0)
        return true;
    path_at(h, parent, name, path);
    if (find(parent, name) >= 0) {
        /* It is there already: nothing may be made. */
        worked = mkdir(path, 0755) != 0;
        if (!worked || errno != EEXIST)
            return ok(false, "mkdir of what exists", path);
        return true;
    }
    struct node *f = &nodes[i];
    remember(i, -1);
    memset(f->data, 0, data_below(f->size));
    *f = (struct node){.kind = kind,
                       .parent = parent,
                       .name = name,
                       .mode = 0600 + (mode_t)rnd(64),
                       .data = f->data,
                       .host = h,
                       .fd = -1};
    if (kind == DIRECTORY) {
        RETRY(worked, mkdir(path, 0755) == 0);
    } else if (kind == LINK) {
        snprintf(f->target, sizeof(f->target), "to/%llx", (unsigned long long)rnd(UINT64_MAX));
        RETRY(worked, symlink(f->target, path) == 0);
    } else {
        RETRY(worked, (f->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, f->mode)) >= 0);
    }
    if (!ok(worked, "make", path))
        return false;
    return kind != REGULAR || rnd(2) == 0 || close_kept(f);
}

/*
 * What was removed while it was open has another name until its release arrives, and keeps it when
 * the mount was killed before.
 */
static void wait_for_hidden(const char *dir, int tries)
{
    char path[600];
    struct dirent *e;

    nap(10);
    if (tries < 100)
        return;
    DIR *d = opendir(dir);
    while (d != NULL && (e = readdir(d)) != NULL)
        if (strncmp(e->d_name, ".fuse_hidden", 12) == 0) {
            snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
            (void)unlink(path);
        }
    if (d != NULL)
        closedir(d);
}

static bool do_remove(int h)
{
    int i = (int)rnd(NODES);
    struct node *f = &nodes[i];
    char path[256];
    bool worked;

    if (f->kind == NONE)
        return true;
    path_of(h, i, path);
    if (f->kind == DIRECTORY && children(i) != 0) {
        errno = 0;
        worked = rmdir(path) != 0 && errno == ENOTEMPTY;
        return ok(worked, "rmdir of a directory that holds something", path);
    }
    /*
     * A file that is open here lives on until it is closed. (Not when another host may have renamed
     * the directories above it: then the kernel does not know that the name is that of the handle.)
     */
    bool open_still = f->fd >= 0 && hosts == 1 && !now.may_end && rnd(2) == 0;
    if (!open_still && !close_kept(f))
        return false;
    remember(i, -1);
    enum kind was = f->kind;
    f->kind = NONE;
    for (int tries = 0;; tries++) {
        RETRY(worked, (was == DIRECTORY ? rmdir(path) : unlink(path)) == 0);
        if (worked || errno != ENOTEMPTY || tries == 500)
            break;
        wait_for_hidden(path, tries);
    }
    if (!ok(worked, "remove", path))
        return false;
    return !open_still || (read_and_compare(path, f->fd, f, 0, 4096) && close_kept(f));
}

static bool do_rename(int h)
{
    int i = (int)rnd(NODES), to = pick_dir(), over;
    unsigned name = (unsigned)rnd(NAMES);
    struct node *f = &nodes[i];
    char a[256], b[256];
    bool worked;

    if (f->kind == NONE || below(to, i) || (f->parent == to && f->name == name))
        return true;
    if (f->kind == DIRECTORY && depth(to) + 3 > DEPTH)
        return true;
    path_of(h, i, a);
    path_at(h, to, name, b);
    over = find(to, name);
    bool keep = over >= 0 && rnd(4) == 0;
    if (over >= 0 && !keep &&
        ((nodes[over].kind == DIRECTORY) != (f->kind == DIRECTORY) || children(over) != 0))
        return true;
    /* To other hosts, handles below a directory would be those of whatever gets their old path. */
    for (int k = 0; k < NODES && f->kind == DIRECTORY; k++)
        if (nodes[k].fd >= 0 && nodes[k].host != h && below(k, i) && !close_kept(&nodes[k]))
            return false;
    /* Handles elsewhere keep their lock; here they follow the file. */
    if ((f->fd >= 0 && hosts > 1 && !close_kept(f)) ||
        (over >= 0 && !keep && !close_kept(&nodes[over])))
        return false;
    if (keep) {
        worked = renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_NOREPLACE) != 0 && errno == EEXIST;
        return ok(worked, "rename over what exists", b);
    }
    remember(i, over);
    if (over >= 0)
        nodes[over].kind = NONE;
    f->parent = to;
    f->name = name;
    for (int tries = 0;; tries++) {
        RETRY(worked, rename(a, b) == 0);
        if (worked || errno != ENOTEMPTY || tries == 500)
            break;
        wait_for_hidden(b, tries);
    }
    return ok(worked, "rename", a);
}

static bool do_mode(int h)
{
    int i = pick(REGULAR);
    char path[256];
    bool worked;

    if (i < 0 || (nodes[i].fd >= 0 && hosts > 1))
        return true;
    remember(i, -1);
    nodes[i].mode = 0600 + (mode_t)rnd(64);
    path_of(h, i, path);
    RETRY(worked, chmod(path, nodes[i].mode) == 0);
    return ok(worked, "chmod", path);
}

/* ---- operations on contents --------------------------------------------------------------------
 */

static void new_size(struct node *f, uint64_t size)
{
    size_t is = data_below(size), was = data_below(f->size);

    if (is < was) {
        keep(is, was);
        memset(f->data + is, 0, was - is); /* beyond the end there are zeros always */
    }
    f->size = size;
}

static bool write_some(struct node *f, int fd, const char *path, bool mapped)
{
    size_t at, n;

    range(&at, &n);
    if (mapped) {
        size_t have = data_below(f->size);
        if (at >= have || (at < NEAR && at + n > NEAR))
            return true;
        n = at + n > have ? have - at : n;
    }
    now.from = at;
    now.to = at + n;
    keep(at, at + n);
    fill(f->data + at, n);
    if (offset_of(at) + n > f->size)
        f->size = offset_of(at) + n;
    uint64_t off = offset_of(at);
    if (!mapped) {
        ssize_t done = pwrite(fd, f->data + at, n, (off_t)off);
        if (done >= 0 && done != (ssize_t)n)
            errno = EIO; /* cut off between two of its pieces */
        return ok(done == (ssize_t)n, "write", path);
    }
    uint64_t page = off & ~4095ull;
    unsigned char *p =
        mmap(NULL, off - page + n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)page);
    if (!ok(p != MAP_FAILED, "mmap", path))
        return false;
    memcpy(p + (off - page), f->data + at, n);
    bool good = ok(msync(p, off - page + n, MS_SYNC) == 0, "msync", path);
    return ok(munmap(p, off - page + n) == 0, "munmap", path) && good;
}

static bool change_size(struct node *f, int fd, const char *path)
{
    size_t at, n;

    range(&at, &n);
    new_size(f, rnd(6) == 0 ? 0 : offset_of(at));
    return ok(ftruncate(fd, (off_t)f->size) == 0, "truncate", path);
}

static bool change_space(struct node *f, int fd, const char *path, bool punch)
{
    size_t at, n, have = data_below(f->size);

    range(&at, &n);
    now.from = at;
    now.to = at + n;
    if (punch && at < have) {
        size_t end = at + n > have ? have : at + n;
        keep(at, end);
        memset(f->data + at, 0, end - at);
    }
    if (!punch && offset_of(at) + n > f->size)
        f->size = offset_of(at) + n;
    int mode = punch ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : 0;
    return ok(fallocate(fd, mode, (off_t)offset_of(at), (off_t)n) == 0,
              punch ? "punch" : "allocate", path);
}

static bool use(struct node *f, int fd, const char *path)
{
    size_t at, n;
    uint64_t what = rnd(100);

    if (what < 35) {
        range(&at, &n);
        return read_and_compare(path, fd, f, at, n);
    }
    if (what < 70)
        return write_some(f, fd, path, false);
    if (what < 78 && !now.may_end) /* what is cut off would be written in any order */
        return write_some(f, fd, path, true);
    if (what < 86)
        return change_size(f, fd, path);
    if (what < 94)
        return change_space(f, fd, path, what < 90);
    return ok(fsync(fd) == 0, "fsync", path);
}

/* On a handle that is kept, or one that is opened for this. */
static bool do_data(int h)
{
    int i = pick(REGULAR);
    char path[256];
    bool worked;

    if (i < 0)
        return do_make(h);
    struct node *f = &nodes[i];
    if (f->fd >= 0 && f->host != h && (now.may_end || rnd(2) == 0)) {
        if (!close_kept(f))
            return false;
    } else if (f->fd >= 0) {
        h = acting = f->host;
    }
    path_of(h, i, path);
    remember(i, -1);
    if (f->fd < 0) {
        RETRY(worked, (f->fd = open(path, O_RDWR | O_CLOEXEC)) >= 0);
        f->host = h;
        if (!ok(worked, "open", path))
            return false;
    }
    bool good = use(f, f->fd, path);
    /* Several in a row, as opening takes longer than what follows; a kill is to meet all of it. */
    for (uint64_t more = now.may_end ? 0 : rnd(2 * BURST); good && more > 0; more--) {
        remember(i, -1);
        step++;
        good = use(f, f->fd, path);
    }
    if (f->fd >= 0 && rnd(4) == 0)
        good = close_kept(f) && good;
    return good;
}

static bool operation(int h)
{
    uint64_t what = rnd(100);

    acting = h;
    remember(-1, -1);
    if (what < 62)
        return do_data(h);
    if (what < 76)
        return do_make(h);
    if (what < 84)
        return do_remove(h);
    if (what < 92)
        return do_rename(h);
    if (what < 95)
        return do_mode(h);
    int i = (int)rnd(NODES);
    if (what < 98 && nodes[i].kind != NONE && (nodes[i].fd < 0 || nodes[i].host == h))
        return check_stat(h, i);
    return check_list(h, pick_dir());
}

/* ---- what was cut off --------------------------------------------------------------------------
 */

static bool there(int h, int i)
{
    char path[256];
    struct stat st;
    bool found;

    /* The directory above may still be the dead host's, in the middle of its change. */
    RETRY(found, lstat(path_of(h, i, path), &st) == 0);
    if (!found && errno != ENOENT)
        fail("%s: after the cut: %s", path, strerror(errno));
    return found;
}

/* Names: the old state or the new one, and nothing between. */
static void settle_names(int h)
{
    struct node new_a = nodes[now.a], new_b = now.b >= 0 ? nodes[now.b] : (struct node){0};
    bool renamed = now.old_a.kind != NONE && new_a.kind != NONE;
    bool happened;

    errno = 0;
    if (new_a.kind != NONE && !renamed) {
        happened = there(h, now.a); /* made */
    } else {
        nodes[now.a] = now.old_a; /* removed or renamed: is the old one there? */
        nodes[now.a].data = new_a.data;
        happened = !there(h, now.a);
    }
    nodes[now.a] = happened ? new_a : now.old_a;
    nodes[now.a].fd = -1;
    if (now.b >= 0) {
        nodes[now.b] = happened ? new_b : now.old_b;
        nodes[now.b].fd = -1;
    }
}

/* Contents: each byte of the range is as it was, or as it should have become. */
static void settle_data(int h)
{
    static unsigned char got[DATA];
    struct node *f = &nodes[now.a];
    const struct node *old = &now.old_a;
    char path[256];
    struct stat st;
    bool worked;
    int fd;

    path_of(h, now.a, path);
    RETRY(worked, (fd = open(path, O_RDONLY | O_CLOEXEC)) >= 0);
    if (!worked || fstat(fd, &st) != 0)
        fail("%s: open after the cut: %s", path, strerror(errno));
    uint64_t size = (uint64_t)st.st_size, low = f->size < old->size ? f->size : old->size;
    uint64_t high = f->size < old->size ? old->size : f->size;
    if (size < low || size > high)
        fail("%s has %llu bytes after the cut, not %llu to %llu", path, (unsigned long long)size,
             (unsigned long long)low, (unsigned long long)high);
    mode_t mode = st.st_mode & 07777;
    if (mode != f->mode && mode != old->mode)
        fail("%s has mode 0%o after the cut", path, mode);
    memset(got, 0, sizeof(got));
    size_t have = data_below(size), near = have < NEAR ? have : NEAR;
    if (pread(fd, got, near, 0) != (ssize_t)near ||
        (have > NEAR && pread(fd, got + NEAR, have - NEAR, FAR) != (ssize_t)(have - NEAR)))
        fail("%s: read after the cut: %s", path, strerror(errno));
    close(fd);
    size_t was = data_below(old->size);
    for (size_t i = 0; i < have; i++) {
        bool kept = i >= now.kept_from && i < now.kept_to;
        unsigned char before = i >= was ? 0 : kept ? now.copy[i] : f->data[i];
        bool in = (i >= now.from && i < now.to) || i >= data_below(low);
        if (got[i] != before && !(in && (got[i] == f->data[i] || (i >= was && got[i] == 0))))
            fail("%s: byte %llu is 0x%02x after the cut, it was 0x%02x, to be 0x%02x", path,
                 (unsigned long long)offset_of(i), got[i], before, f->data[i]);
    }
    memcpy(f->data, got, DATA);
    f->size = size;
    f->mode = mode;
}

static void settle(int h)
{
    if (now.a < 0)
        return;
    cuts++;
    const struct node *old = &now.old_a, *new = &nodes[now.a];
    if (old->kind != new->kind || old->parent != new->parent || old->name != new->name)
        settle_names(h);
    else if (new->kind == REGULAR)
        settle_data(h);
}

/* ---- hosts that go away ------------------------------------------------------------------------
 */

/*
 * An operation failed though its host was left alone. That is right only if the host had no time
 * for its heartbeats: it says so, then, or is killed.
 */
static void expect_fenced(int h)
{
    char log[300], line[512];

    for (int i = 0; i < 100; i++) {
        snprintf(log, sizeof(log), "%s/h%d.log", top, h);
        FILE *f = fopen(log, "r");
        while (f != NULL && fgets(line, sizeof(line), f) != NULL)
            if (strstr(line, "lost its lease") != NULL ||
                strstr(line, "the lease had expired") != NULL) {
                fclose(f);
                return;
            }
        if (f != NULL)
            fclose(f);
        if (ended_by_watchdog(h))
            return;
        nap(100);
    }
    fail("host %d: %s failed: %s", h, failed, strerror(failed_errno));
}

/* After a failure: another mount, or a new one, says what became of the operation. */
static void recover(int h)
{
    end(h);
    start(h);
    now.may_end = false;
    settle((h + 1) % hosts);
}

static void lost(int h)
{
    expect_fenced(h);
    late++;
    recover(h);
}

static void kill_one(int h)
{
    pid_t killer;

    now.may_end = true;
    kills++;
    /* After a short while, in whatever goes on then. */
    if ((killer = fork()) == 0) {
        struct timespec ts = {.tv_nsec = (long)rnd(30000000)};
        nanosleep(&ts, NULL);
        kill(mounts[h], SIGKILL);
        _exit(0);
    }
    while (operation(h))
        step++;
    waitpid(killer, NULL, 0);
    recover(h);
}

/* Writes through a mount that is stopped meanwhile: until it is told that it cannot. */
static void write_until_refused(int fd, size_t n)
{
    static unsigned char buf[IO];

    memset(buf, 0xEE, sizeof(buf));
    alarm(600);
    while (pwrite(fd, buf, n, 0) == (ssize_t)n)
        ;
    _exit(0);
}

static bool doomed_now(int h)
{
    char path[64], line[256], state_of = 'Z';
    unsigned long long bits = 0, pending = 0;
    unsigned flags = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)mounts[h]);
    f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        (void)sscanf(line, "State: %c", &state_of);
        if (sscanf(line, "SigPnd: %llx", &bits) == 1 || sscanf(line, "ShdPnd: %llx", &bits) == 1)
            pending |= bits;
    }
    if (f != NULL)
        fclose(f);
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)mounts[h]);
    f = fopen(path, "r");
    if (f == NULL || fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %u", &flags) != 1)
        flags = 0;
    if (f != NULL)
        fclose(f);
    return state_of == 'Z' || state_of == 'X' || (pending & 1ull << (SIGKILL - 1)) != 0 ||
           (flags & PF_EXITING) != 0;
}

/* Has the kernel ended it, or is about to? Never for want of another look at it. */
static bool doomed(int h)
{
    for (int i = 0; i < 100; i++) {
        if (doomed_now(h))
            return true;
        nap(1);
    }
    return false;
}

/*
 * Host h writes to a file and is stopped; the lease passes, another host takes the file and writes
 * to it. By then h has been killed where it stood, and nothing of its own may come through.
 */
static void stall_one(int h)
{
    int i = pick(REGULAR), other = (h + 1) % hosts;
    char path[256];
    bool worked;

    if (i < 0)
        return;
    struct node *f = &nodes[i];
    if (!close_kept(f))
        fail("close before a stall");
    stalls++;
    path_of(h, i, path);
    RETRY(worked, (f->fd = open(path, O_RDWR | O_CLOEXEC)) >= 0);
    f->host = h;
    size_t n = 1 + rnd(IO);
    pid_t writer = worked ? fork() : 0;
    if (!worked)
        fail("open before a stall: %s", strerror(errno));
    if (writer == 0)
        write_until_refused(f->fd, n);
    nap(5 + (unsigned)rnd(50));
    double t0 = seconds();
    kill(mounts[h], SIGSTOP);
    (void)close(f->fd); /* waits for the writer, so perhaps for the end of h */
    f->fd = -1;
    int fd;
    path_of(other, i, path);
    RETRY(worked, (fd = open(path, O_RDWR | O_CLOEXEC)) >= 0);
    if (!worked)
        fail("%s: the lock of a stopped host is not taken over: %s", path, strerror(errno));
    /* It may have been late with its heartbeats before the stop, too. */
    if (!doomed(h))
        fail("%s was taken over after %.1f s, before the lease was over", path, seconds() - t0);
    /* The other host finds what was or what h wrote; from here on only it writes. */
    static unsigned char got[DATA];
    struct stat st;
    if (fstat(fd, &st) != 0)
        fail("%s: %s", path, strerror(errno));
    uint64_t size = (uint64_t)st.st_size;
    if (size != f->size && (size < f->size || size > n))
        fail("%s has %llu bytes after a take-over", path, (unsigned long long)size);
    ssize_t have = pread(fd, got, n, 0);
    for (ssize_t k = 0; k < have; k++)
        if (got[k] != 0xEE && got[k] != ((uint64_t)k < f->size ? f->data[k] : 0))
            fail("%s: byte %zd is 0x%02x after a take-over", path, k, got[k]);
    fill(f->data, n);
    if (pwrite(fd, f->data, n, 0) != (ssize_t)n || fsync(fd) != 0)
        fail("%s: write after a take-over: %s", path, strerror(errno));
    f->size = size > n ? size : n;
    for (int k = 0; !ended_by_watchdog(h); k++) {
        if (k > 6000)
            fail("host %d lives, long after its lease", h);
        nap(10);
    }
    waitpid(writer, NULL, 0);
    close(fd);
    end(h);
    start(h);
}

static void usage(void)
{
    fprintf(stderr,
            "Usage: fuse_hosts VMCORE VOLUME DIRECTORY HOSTS OPERATIONS SEED [KILL_EVERY "
            "[STALL_EVERY [LEASE]]]\nVERSION=6 in the environment: mount with --experimental\n");
    exit(2);
}

int main(int argc, char **argv)
{
    if (argc < 7)
        usage();
    vmcore = argv[1];
    volume = argv[2];
    top = argv[3];
    hosts = atoi(argv[4]);
    uint64_t ops = strtoull(argv[5], NULL, 0);
    state = strtoull(argv[6], NULL, 0) * 0x9E3779B97F4A7C15ull | 1;
    uint64_t kill_every = argc > 7 ? strtoull(argv[7], NULL, 0) : 0;
    uint64_t stall_every = argc > 8 ? strtoull(argv[8], NULL, 0) : 0;
    lease_s = argc > 9 ? atoi(argv[9]) : 4;
    six = getenv("VERSION") != NULL && atoi(getenv("VERSION")) == 6;
    if (hosts < 1 || hosts > HOSTS || lease_s < 2)
        usage();
    umask(0);
    for (int i = 0; i < NODES; i++) {
        nodes[i].fd = -1;
        if ((nodes[i].data = calloc(1, DATA)) == NULL)
            fail("no memory");
    }
    for (int h = 0; h < hosts; h++)
        start(h);
    uint64_t next_kill = kill_every, next_stall = stall_every, next_check = 1000;
    for (step = 1; step <= ops; step++) {
        int h = (int)rnd((uint64_t)hosts);
        if (!operation(h))
            lost(acting);
        if (kill_every != 0 && step >= next_kill) {
            kill_one((int)rnd((uint64_t)hosts));
            next_kill = step + kill_every / 2 + rnd(kill_every);
        }
        if (stall_every != 0 && hosts > 1 && step >= next_stall) {
            stall_one((int)rnd((uint64_t)hosts));
            next_stall = step + stall_every / 2 + rnd(stall_every);
        }
        if (step >= next_check) {
            remember(-1, -1);
            if (!check_all(h))
                lost(h);
            next_check = step + 4000;
        }
    }
    for (int i = 0; i < NODES; i++)
        if (nodes[i].kind != NONE)
            (void)close_kept(&nodes[i]);
    remember(-1, -1);
    for (int h = 0; h < hosts; h++)
        while (!check_all(h))
            lost(h);
    for (int h = 0; h < hosts; h++)
        stop(h);
    printf("%llu operations, %d hosts, %llu kills, %llu operations cut off, %llu stalls, %llu too "
           "late to beat\n",
           (unsigned long long)(step - 1), hosts, (unsigned long long)kills,
           (unsigned long long)cuts, (unsigned long long)stalls, (unsigned long long)late);
    return 0;
}
