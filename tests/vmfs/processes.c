/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Four processes on one volume, each a host of its own: they create, grow and delete files in one
 * directory while one after the other is killed with SIGKILL and started again. What an operation
 * had acknowledged when its process died has to be there at the end.
 * processes VOLUME [SECONDS [SEED [ALSO [LEASE]]]]: every second process reaches the volume by the
 * name ALSO, as another path to a disk has one; leases are so many seconds long.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <vmcore/host.h>
#include <vmcore/host_block.h>
#include <vmcore/host_file.h>
#include <vmcore/host_watchdog.h>
#include <vmcore/vmfs.h>

#define HOSTS     4
#define FILES     24
#define MAX_BYTES (5u << 20)
/* Short, so that a killed host is replaced soon; long enough for a loaded machine. */
static unsigned lease_ms = 3000;
#define WINDOW_MS (lease_ms / 4)
#define BEAT_MS   (lease_ms / 6)

/* What a process promised, in memory that survives it. */
enum state { GONE, MAKING, LIVE, GROWING, DELETING };
struct promise {
    enum state state;
    uint64_t bytes, next; /* durable length; the one being made */
    uint64_t seed;
};
struct shared {
    struct promise file[HOSTS][FILES];
    uint64_t ops[HOSTS], fenced, kills;
    volatile int stop;
};
static struct shared *all;

struct mounted {
    struct vmc_platform pf;
    struct vmc_host_file *file;
    struct vmc_host_disk *disk; /* instead of a file: a device */
    struct vmc_host_watchdog *watchdog;
    struct vmc_vmfs *v;
    struct vmc_error err;
    pthread_t beater;
    volatile int stop;
};

static void die(const struct mounted *m, const char *what, int rc)
{
    fprintf(stderr, "process %d: %s: %s: %s\n", (int)getpid(), what, vmc_status_name(rc),
            m->err.text);
    exit(rc == VMC_EFENCED ? 3 : 1);
}

static void need(const struct mounted *m, const char *what, int64_t rc)
{
    if (rc < 0)
        die(m, what, (int)rc);
}

static void *beat(void *arg)
{
    struct mounted *m = arg;
    struct vmc_error err;

    while (!m->stop && vmc_vmfs_beat(m->v, &err) != VMC_EFENCED)
        poll(NULL, 0, (int)BEAT_MS / 2);
    return NULL;
}

static struct vmc_blockdev open_volume(struct mounted *m, const char *path)
{
    struct vmc_host_disk_config c = {.size = sizeof(c), .path = path, .shared = true};
    struct stat st;

    if (stat(path, &st) == 0 && S_ISBLK(st.st_mode)) {
        need(m, path, vmc_host_disk_open(&c, &m->disk, &m->err));
        return vmc_host_disk_blockdev(m->disk);
    }
    need(m, path, vmc_host_file_open(path, false, &m->file, &m->err));
    return vmc_host_file_blockdev(m->file);
}

static void mount_volume(struct mounted *m, const char *path, const char *name)
{
    memset(m, 0, sizeof(*m));
    need(m, "platform", vmc_host_platform_init(&m->pf, NULL, &m->err));
    struct vmc_blockdev bd = open_volume(m, path);
    need(m, "watchdog", vmc_host_watchdog_create(&m->watchdog, &m->err));
    struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                      .devs = &bd,
                                      .dev_count = 1,
                                      .host_name = name,
                                      .lease_ms = lease_ms,
                                      .window_ms = WINDOW_MS,
                                      .beat_ms = BEAT_MS,
                                      /* longer than it takes to see that a holder is dead */
                                      .lock_wait_ms = 20 * lease_ms,
                                      .lease_until = vmc_host_watchdog_until,
                                      .lease_ctx = m->watchdog};
    need(m, "mount", vmc_vmfs_mount(&m->pf, &c, &m->v, &m->err));
    if (pthread_create(&m->beater, NULL, beat, m) != 0)
        exit(1);
}

static void unmount_volume(struct mounted *m)
{
    m->stop = 1;
    pthread_join(m->beater, NULL);
    need(m, "unmount", vmc_vmfs_unmount(m->v, &m->err));
    vmc_host_file_close(m->file);
    vmc_host_disk_close(m->disk);
    vmc_host_watchdog_free(m->watchdog);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 31) * 0x9E3779B97F4A7C15ull;
    return x ^ x >> 29;
}

static void pattern(uint64_t seed, uint64_t at, unsigned char *buf, size_t n)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t w = mix(seed + at + i);
        memcpy(buf + i, &w, 8);
    }
}

static void path_of(int h, int i, char *path, size_t bytes)
{
    snprintf(path, bytes, "/shared/host%d-%02d", h, i);
}

/* ---- one host ----------------------------------------------------------------------------------
 */

static void extend(struct mounted *m, int h, int i, bool create)
{
    struct promise *p = &all->file[h][i];
    unsigned char *buf = malloc(1 << 20);
    struct vmc_vmfs_file *f;
    char path[64];
    uint64_t at = create ? 0 : p->bytes;

    path_of(h, i, path, sizeof(path));
    need(m, path,
         vmc_vmfs_open(m->v, path, VMC_VMFS_WRITE | (create ? VMC_VMFS_CREATE : 0), &f, &m->err));
    while (at < p->next) {
        size_t n = p->next - at < (1 << 20) ? (size_t)(p->next - at) : 1 << 20;
        pattern(p->seed, at, buf, n);
        need(m, path, vmc_vmfs_pwrite(f, buf, n, at, &m->err));
        at += n;
    }
    need(m, path, vmc_vmfs_fsync(f, &m->err));
    need(m, path, vmc_vmfs_close(f, &m->err));
    free(buf);
    p->bytes = p->next;
    p->state = LIVE;
}

/* Files whose fate was open when the last process of this host died. */
static void settle(struct mounted *m, int h)
{
    for (int i = 0; i < FILES; i++) {
        struct promise *p = &all->file[h][i];
        char path[64];
        path_of(h, i, path, sizeof(path));
        if (p->state == MAKING || p->state == DELETING) {
            int rc = vmc_vmfs_remove(m->v, path, &m->err);
            if (rc != VMC_ENOENT)
                need(m, path, rc);
            p->state = GONE;
        } else if (p->state == GROWING) {
            extend(m, h, i, false);
        }
    }
}

static void run_host(const char *volume, int h, uint64_t rng)
{
    struct mounted m;
    char name[16], path[64];

    snprintf(name, sizeof(name), "host%d", h);
    mount_volume(&m, volume, name);
    settle(&m, h);
    while (!all->stop) {
        rng = mix(rng + 1);
        int i = (int)(rng % FILES);
        struct promise *p = &all->file[h][i];
        uint64_t size = (rng >> 8) % 4 == 0 ? (rng >> 16) % MAX_BYTES : (rng >> 16) % 20000;
        size &= ~7ull;
        if (p->state == GONE) {
            p->seed = rng;
            p->next = size;
            p->state = MAKING;
            extend(&m, h, i, true);
        } else if ((rng >> 10) % 2 == 0 && p->bytes + size <= 2 * MAX_BYTES) {
            p->next = p->bytes + size;
            p->state = GROWING;
            extend(&m, h, i, false);
        } else {
            p->state = DELETING;
            path_of(h, i, path, sizeof(path));
            need(&m, path, vmc_vmfs_remove(m.v, path, &m.err));
            p->state = GONE;
        }
        all->ops[h]++;
    }
    unmount_volume(&m);
    exit(0);
}

/* ---- the test ----------------------------------------------------------------------------------
 */

static pid_t start(char **volume, int h, uint64_t rng)
{
    pid_t pid = fork();

    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_host(volume[h % 2], h, rng);
    }
    if (pid < 0) {
        perror("fork");
        exit(1);
    }
    return pid;
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void verify(struct mounted *m)
{
    unsigned char *buf = malloc(1 << 20), *want = malloc(1 << 20);
    unsigned live = 0, wrong = 0;

    for (int h = 0; h < HOSTS; h++) {
        for (int i = 0; i < FILES; i++) {
            const struct promise *p = &all->file[h][i];
            struct vmc_vmfs_stat st;
            struct vmc_vmfs_file *f;
            char path[64];
            path_of(h, i, path, sizeof(path));
            int rc = vmc_vmfs_stat(m->v, path, &st, &m->err);
            if (p->state == GONE && rc == VMC_ENOENT)
                continue;
            if (p->state != LIVE || rc != VMC_OK || st.bytes != p->bytes) {
                fprintf(stderr, "%s: state %d, %s, %llu bytes, expected %llu\n", path, p->state,
                        vmc_status_name(rc), (unsigned long long)st.bytes,
                        (unsigned long long)p->bytes);
                wrong++;
                continue;
            }
            live++;
            need(m, path, vmc_vmfs_open(m->v, path, VMC_VMFS_READ, &f, &m->err));
            for (uint64_t at = 0; at < p->bytes; at += 1 << 20) {
                size_t n = p->bytes - at < (1 << 20) ? (size_t)(p->bytes - at) : 1 << 20;
                pattern(p->seed, at, want, n);
                need(m, path, vmc_vmfs_pread(f, buf, n, at, &m->err));
                if (memcmp(buf, want, n) != 0) {
                    fprintf(stderr, "%s: wrong contents in %llu .. %llu\n", path,
                            (unsigned long long)at, (unsigned long long)(at + n));
                    wrong++;
                }
            }
            need(m, path, vmc_vmfs_close(f, &m->err));
        }
    }
    free(buf);
    free(want);
    printf("%u files with the right contents, %u wrong\n", live, wrong);
    if (wrong != 0)
        exit(1);
}

/* A process was not killed by us: only a lost lease is a reason, on a machine that stalled. */
static void check_end(int status, int h)
{
    if ((WIFEXITED(status) && WEXITSTATUS(status) == 3) ||
        (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) {
        all->fenced++;
        return;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    fprintf(stderr, "host%d ended with status 0x%x\n", h, status);
    exit(1);
}

int main(int argc, char **argv)
{
    double seconds = argc > 2 ? atof(argv[2]) : 20;
    uint64_t rng = argc > 3 ? strtoull(argv[3], NULL, 0) : (uint64_t)time(NULL);
    if (argc > 5)
        lease_ms = (unsigned)atoi(argv[5]) * 1000;
    char *volume[2] = {argv[1], argc > 4 ? argv[4] : argv[1]};
    pid_t pid[HOSTS];
    struct mounted m;
    int status;

    if (argc < 2) {
        fprintf(stderr, "usage: processes VOLUME [SECONDS [SEED [ALSO [LEASE]]]]\n");
        return 2;
    }
    printf("seed %llu\n", (unsigned long long)rng);
    all = mmap(NULL, sizeof(*all), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        return 1;
    mount_volume(&m, argv[1], "prepare");
    need(&m, "/shared", vmc_vmfs_mkdir(m.v, "/shared", 0700, &m.err));
    unmount_volume(&m);
    fflush(stdout);
    for (int h = 0; h < HOSTS; h++)
        pid[h] = start(volume, h, rng += 1000);
    double end = now() + seconds;
    for (int victim = 0; now() < end; victim = (victim + 1) % HOSTS) {
        poll(NULL, 0, (int)(lease_ms / 10 + mix(rng += 7) % (lease_ms / 2)));
        for (int h = 0; h < HOSTS; h++)
            if (waitpid(pid[h], &status, WNOHANG) == pid[h]) {
                check_end(status, h);
                pid[h] = start(volume, h, rng += 1000);
            }
        kill(pid[victim], SIGKILL);
        waitpid(pid[victim], &status, 0);
        all->kills++;
        pid[victim] = start(volume, victim, rng += 1000);
    }
    all->stop = 1;
    for (int h = 0; h < HOSTS; h++) {
        waitpid(pid[h], &status, 0);
        check_end(status, h);
    }
    mount_volume(&m, argv[1], "verify");
    for (int h = 0; h < HOSTS; h++)
        settle(&m, h); /* of hosts that were fenced at the end */
    verify(&m);
    unmount_volume(&m);
    uint64_t ops = 0;
    for (int h = 0; h < HOSTS; h++)
        ops += all->ops[h];
    printf("%llu operations, %llu processes killed, %llu fenced\n", (unsigned long long)ops,
           (unsigned long long)all->kills, (unsigned long long)all->fenced);
    return ops > 0 && all->kills > 0 ? 0 : 1;
}
