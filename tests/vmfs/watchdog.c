/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A host that is stopped between its look at the lease and the write that follows. The stop is made
 * where it hurts, by the device under the volume. Without a watchdog the write arrives when the
 * host is woken up, though another one has the file by then; with one the host is dead before that.
 * And a host that renews its lease lives, however long its operations take.
 *
 * watchdog VOLUME: a fresh volume.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vmcore/host.h>
#include <vmcore/host_file.h>
#include <vmcore/host_watchdog.h>
#include <vmcore/vmfs.h>

#define BYTES     4096
#define LEASE_MS  2000
#define MOST_MS   32000 /* a machine may be too busy for shorter leases */
#define WINDOW_MS 1000
#define PATH      "/disk"

enum { MINE = 0x11, LATE = 0x22, THEIRS = 0x33 };

/* What a child says, in memory that survives it. */
struct report {
    volatile int armed, ready;
};
static struct report *report;

struct host {
    struct vmc_platform pf;
    struct vmc_host_file *file;
    struct vmc_blockdev below, bd;
    struct vmc_blockdev_ops ops;
    struct vmc_host_watchdog *dog;
    struct vmc_vmfs *v;
    struct vmc_error err;
    uint32_t slow_ms, slow; /* what so many flushes take */
    volatile int stop;
};

static const char *volume;

static void __attribute__((noreturn)) die(const char *what, const char *why)
{
    fprintf(stderr, "watchdog: %s: %s\n", what, why);
    exit(1);
}

static void need(const struct host *h, const char *what, int64_t rc)
{
    if (rc < 0)
        die(what, h->err.text);
}

/* The device under the host: stops the process before a write that was asked for, flushes slowly.
 */
static int submit(void *ctx, struct vmc_block_req *r)
{
    struct host *h = ctx;

    if (r->op == VMC_BLOCK_WRITE && report->armed) {
        report->armed = 0;
        report->ready = 1;
        raise(SIGSTOP);
    }
    if (r->op == VMC_BLOCK_FLUSH && h->slow > 0) {
        h->slow--;
        (void)poll(NULL, 0, (int)h->slow_ms);
    }
    return h->below.ops->submit(h->below.ctx, r);
}

static int info(void *ctx, struct vmc_block_info *out)
{
    const struct host *h = ctx;
    return h->below.ops->info(h->below.ctx, out);
}

static int compare_write(void *ctx, uint64_t off, const void *expect, const void *data, size_t n)
{
    const struct host *h = ctx;
    return h->below.ops->compare_write(h->below.ctx, off, expect, data, n);
}

static void mount_volume(struct host *h, const char *name, uint32_t lease_ms, bool watched)
{
    memset(h, 0, sizeof(*h));
    need(h, "platform", vmc_host_platform_init(&h->pf, NULL, &h->err));
    need(h, "open", vmc_host_file_open(volume, false, &h->file, &h->err));
    if (watched)
        need(h, "watchdog", vmc_host_watchdog_create(&h->dog, &h->err));
    h->below = vmc_host_file_blockdev(h->file);
    h->ops =
        (struct vmc_blockdev_ops){.info = info, .submit = submit, .compare_write = compare_write};
    h->bd = (struct vmc_blockdev){.ctx = h, .ops = &h->ops};
    struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                      .devs = &h->bd,
                                      .dev_count = 1,
                                      .host_name = name,
                                      .lease_ms = lease_ms,
                                      .window_ms = WINDOW_MS,
                                      .beat_ms = lease_ms / 8,
                                      .lease_until = watched ? vmc_host_watchdog_until : NULL,
                                      .lease_ctx = h->dog};
    need(h, "mount", vmc_vmfs_mount(&h->pf, &c, &h->v, &h->err));
}

static void unmount_volume(struct host *h)
{
    need(h, "unmount", vmc_vmfs_unmount(h->v, &h->err));
    vmc_host_watchdog_free(h->dog);
    vmc_host_file_close(h->file);
}

static void write_file(struct host *h, struct vmc_vmfs_file *f, int value)
{
    unsigned char buf[BYTES];

    memset(buf, value, sizeof(buf));
    need(h, "write", vmc_vmfs_pwrite(f, buf, sizeof(buf), 0, &h->err));
}

static void expect_file(struct host *h, struct vmc_vmfs_file *f, int value)
{
    unsigned char buf[BYTES];

    need(h, "read", vmc_vmfs_pread(f, buf, sizeof(buf), 0, &h->err));
    for (unsigned i = 0; i < sizeof(buf); i++)
        if (buf[i] != value) {
            fprintf(stderr, "watchdog: byte %u is 0x%02x, not 0x%02x\n", i, buf[i], value);
            exit(1);
        }
}

/* Another host gets the file when the first one's lease has passed, and writes to it. */
static void take_over(struct host *h, struct vmc_vmfs_file **f)
{
    int rc;

    while ((rc = vmc_vmfs_open(h->v, PATH, VMC_VMFS_READ | VMC_VMFS_WRITE, f, &h->err)) ==
           VMC_EBUSY)
        (void)poll(NULL, 0, 50);
    need(h, "take over", rc);
    write_file(h, *f, THEIRS);
}

static pid_t start(void (*run)(uint32_t lease_ms), uint32_t lease_ms)
{
    memset(report, 0, sizeof(*report));
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        run(lease_ms);
        _exit(0);
    }
    return pid;
}

static int status_of(pid_t pid, int options)
{
    int status;

    if (waitpid(pid, &status, options) != pid)
        die("waitpid", "failed");
    return status;
}

static bool killed(int status)
{
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

/* ---- stopped before a write --------------------------------------------------------------------
 */

static void write_and_stop(uint32_t lease_ms, bool watched)
{
    struct host h;
    struct vmc_vmfs_file *f;

    mount_volume(&h, "first", lease_ms, watched);
    need(&h, "open",
         vmc_vmfs_open(h.v, PATH, VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &h.err));
    need(&h, "allocate", vmc_vmfs_allocate(f, 0, 1 << 20, VMC_VMFS_ALLOC_EAGER, &h.err));
    write_file(&h, f, MINE);
    need(&h, "renew", vmc_vmfs_renew(h.v, &h.err));
    report->armed = 1;
    write_file(&h, f, LATE);
}

static void watched_writer(uint32_t lease_ms)
{
    write_and_stop(lease_ms, true);
}

static void unwatched_writer(uint32_t lease_ms)
{
    write_and_stop(lease_ms, false);
}

/* False: the writer did not come as far as that, for want of time. */
static bool stop_and_take_over(uint32_t lease_ms, bool watched)
{
    struct host h;
    struct vmc_vmfs_file *f;
    pid_t pid = start(watched ? watched_writer : unwatched_writer, lease_ms);
    int status = status_of(pid, WUNTRACED);

    if (!report->ready && watched && killed(status))
        return false;
    if (!report->ready)
        die("writer", "ended too early");
    mount_volume(&h, "second", lease_ms, false);
    take_over(&h, &f);
    if (watched && !WIFSTOPPED(status) && !killed(status))
        die("writer", "ended by itself");
    if (!watched)
        kill(pid, SIGCONT); /* nobody wakes up the other: it is woken up to die */
    if (!killed(status))
        status = status_of(pid, 0);
    if (killed(status) != watched)
        die(watched ? "with a watchdog" : "without a watchdog",
            watched ? "the stopped host was not killed" : "the stopped host was killed");
    expect_file(&h, f, watched ? THEIRS : LATE);
    need(&h, "close", vmc_vmfs_close(f, &h.err));
    unmount_volume(&h);
    return true;
}

/* ---- renewed -----------------------------------------------------------------------------------
 */

static void *renew(void *arg)
{
    struct host *h = arg;

    while (!h->stop) {
        (void)poll(NULL, 0, 100);
        need(h, "renew", vmc_vmfs_renew(h->v, &h->err));
    }
    return NULL;
}

/* An operation that takes longer than the lease, several times over. */
static void busy_host(uint32_t lease_ms)
{
    struct host h;
    pthread_t renewer;

    mount_volume(&h, "busy", lease_ms, true);
    if (pthread_create(&renewer, NULL, renew, &h) != 0)
        die("thread", "cannot be made");
    h.slow_ms = lease_ms * 3 / 2;
    h.slow = 2;
    need(&h, "mkdir", vmc_vmfs_mkdir(h.v, "/busy", 0700, &h.err));
    need(&h, "remove", vmc_vmfs_remove(h.v, "/busy", &h.err));
    if (h.slow != 0)
        die("busy host", "was not slow");
    h.stop = 1;
    pthread_join(renewer, NULL);
    unmount_volume(&h);
    (void)poll(NULL, 0, (int)lease_ms * 3 / 2); /* nothing is left behind that kills */
    report->ready = 1;
}

static bool renew_and_live(uint32_t lease_ms)
{
    int status = status_of(start(busy_host, lease_ms), 0);

    if (killed(status))
        return false;
    if (status != 0 || !report->ready)
        die("busy host", "failed");
    return true;
}

int main(int argc, char **argv)
{
    uint32_t ms = LEASE_MS;

    if (argc != 2) {
        fprintf(stderr, "Usage: watchdog VOLUME\n");
        return 2;
    }
    volume = argv[1];
    report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (report == MAP_FAILED)
        die("mmap", "failed");
    (void)stop_and_take_over(LEASE_MS, false);
    while (!stop_and_take_over(ms, true))
        if ((ms *= 2) > MOST_MS)
            die("writer", "killed before it was stopped");
    for (ms = LEASE_MS; !renew_and_live(ms);)
        if ((ms *= 2) > MOST_MS)
            die("busy host", "killed in spite of its renewals");
    printf("late without a watchdog, dead with one, alive when renewed\n");
    return 0;
}
