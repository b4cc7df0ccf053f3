/* SPDX-License-Identifier: BSD-2-Clause */
/* Opening of volumes, the threads that keep the lease, messages. */
#define _GNU_SOURCE
#include "json_add.h"
#include "vmfs_tool.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

char *vt_plain(char *text)
{
    unsigned n;

    for (unsigned char *s = (unsigned char *)text; *s != '\0'; s += n) {
        n = utf8_bytes(s);
        bool c1 = n == 2 && s[0] == 0xc2 && s[1] <= 0x9f; /* U+0080 to U+009F */
        /* Terminals that know no UTF-8 obey the bytes of these, too. */
        if (n == 0 || c1 || s[0] < 0x20 || s[0] == 0x7f)
            memset(s, '?', n = n == 0 ? 1 : n);
    }
    return text;
}

int vt_fail(const struct vt *t, const char *what)
{
    char line[VMC_VMFS_PATH_MAX + sizeof(t->err.text)];

    snprintf(line, sizeof(line), "%s%s%s", what != NULL ? what : "", what != NULL ? ": " : "",
             t->err.text);
    fprintf(stderr, "%s: %s\n", t->name, vt_plain(line));
    return EXIT_ERROR;
}

static void log_line(void *ctx, int level, const char *module, const char *text)
{
    (void)ctx;
    (void)level;
    char line[1024];
    snprintf(line, sizeof(line), "%s", text);
    fprintf(stderr, "vmcore: %s: %s\n", module, vt_plain(line));
}

int vt_init(struct vt *t)
{
    static const struct vmc_host_log log = {.max_level = VMC_LOG_WARN, .line = log_line};

    t->stop_fd = -1;
    if (vmc_host_platform_init(&t->pf, &log, &t->err) != VMC_OK)
        return vt_fail(t, NULL);
    return 0;
}

double vt_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

bool vt_parse_size(const char *s, uint64_t *out)
{
    char *end;
    static const char units[] = "KMGT";

    if (!isdigit((unsigned char)*s))
        return false;
    errno = 0;
    *out = strtoull(s, &end, 0);
    if (errno != 0)
        return false;
    const char *u = *end != '\0' ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (u != NULL && *end != '\0') {
        unsigned shift = 10 * (unsigned)(u - units + 1);
        if (*out > UINT64_MAX >> shift)
            return false;
        *out <<= shift;
        end++;
        if (strcmp(end, "iB") == 0)
            end += 2;
    }
    return *end == '\0';
}

const char *vt_bytes(uint64_t n, char *buf, size_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)n;
    unsigned u = 0;

    while (v >= 1024 && u < 4) {
        v /= 1024;
        u++;
    }
    snprintf(buf, bytes, u == 0 ? "%.0f %s" : "%.1f %s", v, unit[u]);
    return buf;
}

void vt_progress(const struct vt *t, const char *what, uint64_t done, uint64_t total, double since)
{
    char a[32], b[32], r[32];
    double s = vt_now() - since;

    if (t->quiet || !isatty(STDERR_FILENO))
        return;
    unsigned parts = total > 0 ? (unsigned)(done * 30 / total) : 30;
    fprintf(stderr, "\r%s [%.*s%.*s] %s of %s, %s/s  ", what, (int)parts,
            "##############################", (int)(30 - parts), "..............................",
            vt_bytes(done, a, sizeof(a)), vt_bytes(total, b, sizeof(b)),
            vt_bytes(s > 0 ? (uint64_t)((double)done / s) : 0, r, sizeof(r)));
    if (done == total)
        fputc('\n', stderr);
}

void vt_json(struct json_object *o)
{
    puts(json_object_to_json_string_ext(o,
                                        JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
}

const char *vt_type_name(uint32_t type)
{
    switch (type) {
    case VMC_VMFS_DIR:
        return "directory";
    case VMC_VMFS_FILE:
        return "file";
    case VMC_VMFS_SYMLINK:
        return "symlink";
    case VMC_VMFS_SYSTEM:
        return "system";
    case VMC_VMFS_RDM:
        return "rdm";
    default:
        return "?";
    }
}

/* One device twice would be two extents in the same place. */
static bool given_before(struct vt *t, const struct stat *st)
{
    for (uint32_t i = 0; i < t->files; i++) {
        const struct stat *o = &t->st[i];
        if (S_ISBLK(st->st_mode) ? S_ISBLK(o->st_mode) && st->st_rdev == o->st_rdev
                                 : st->st_dev == o->st_dev && st->st_ino == o->st_ino)
            return true;
    }
    return false;
}

static int open_device(struct vt *t, const char *path, bool read_only)
{
    uint32_t i = t->files;
    struct vmc_host_disk_config c = {
        .size = sizeof(c), .path = path, .read_only = read_only, .shared = true};
    struct stat *st = &t->st[i];

    if (stat(path, st) != 0) {
        memset(st, 0, sizeof(*st)); /* whoever opens it says why */
    } else if (given_before(t, st)) {
        fprintf(stderr, "%s: %s is given twice\n", t->name, path);
        return EXIT_BAD_ARGS;
    }
    if (t->async || S_ISBLK(st->st_mode)) {
        if (vmc_host_disk_open(&c, &t->disk[i], &t->err) != VMC_OK)
            return vt_fail(t, NULL);
        t->bd[i] = vmc_host_disk_blockdev(t->disk[i]);
    } else {
        if (vmc_host_file_open(path, read_only, &t->file[i], &t->err) != VMC_OK)
            return vt_fail(t, NULL);
        t->bd[i] = vmc_host_file_blockdev(t->file[i]);
    }
    t->files++;
    return 0;
}

int vt_open_devices(struct vt *t, const char *spec, bool read_only)
{
    char *copy = strdup(spec), *save = NULL;
    int rc = 0;

    if (copy == NULL)
        return EXIT_ERROR;
    for (char *p = strtok_r(copy, ",", &save); p != NULL && rc == 0;
         p = strtok_r(NULL, ",", &save)) {
        if (t->files == VMC_VMFS_MAX_EXTENTS) {
            fprintf(stderr, "%s: more than %u extents\n", t->name, VMC_VMFS_MAX_EXTENTS);
            rc = EXIT_BAD_ARGS;
        } else {
            rc = open_device(t, p, read_only);
        }
    }
    free(copy);
    return rc;
}

static void close_devices(struct vt *t)
{
    while (t->files > 0) {
        t->files--;
        vmc_host_file_close(t->file[t->files]);
        vmc_host_disk_close(t->disk[t->files]);
        t->file[t->files] = NULL;
        t->disk[t->files] = NULL;
    }
}

#define BEAT_MS 2000
#define BEATS   5u /* in a lease that the user chose */

/* False: it is time to stop. */
static bool next_beat(const struct vt *t)
{
    struct pollfd p = {.fd = t->stop_fd, .events = POLLIN};

    return poll(&p, 1, t->lease_s != 0 ? (int)(t->lease_s * 1000 / BEATS / 2) : BEAT_MS) == 0;
}

/* Apart from what waits for operations: one that takes long must not cost the lease. */
static void *renew(void *arg)
{
    struct vt *t = arg;
    struct vmc_error err;

    while (next_beat(t))
        if (vmc_vmfs_renew(t->v, &err) == VMC_EFENCED) {
            fprintf(stderr, "%s: %s%s\n", t->name, vt_plain(err.text),
                    t->watchdog != NULL ? "; this process will be killed at the lease's end" : "");
            break;
        }
    return NULL;
}

/* Looks after other hosts. */
static void *beat(void *arg)
{
    struct vt *t = arg;
    struct vmc_error err;

    while (next_beat(t) && vmc_vmfs_beat(t->v, &err) != VMC_EFENCED)
        ;
    return NULL;
}

/* 0 or an exit status after a message. */
static int make_watchdog(struct vt *t)
{
    int status = vmc_host_watchdog_create(&t->watchdog, &t->err);

    if (status != VMC_ENOTSUP)
        return status == VMC_OK ? 0 : vt_fail(t, NULL);
    fprintf(stderr, "%s: warning: no watchdog of the lease: %s\n", t->name, t->err.text);
    return 0;
}

static int start_beating(struct vt *t)
{
    t->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (t->stop_fd >= 0) {
        t->renewing = pthread_create(&t->renewer, NULL, renew, t) == 0;
        t->beating = t->renewing && pthread_create(&t->beater, NULL, beat, t) == 0;
    }
    if (t->beating)
        return 0;
    fprintf(stderr, "%s: no thread to keep the lease with\n", t->name);
    return EXIT_ERROR;
}

static void stop_beating(struct vt *t)
{
    uint64_t one = 1;

    if (t->stop_fd >= 0 && write(t->stop_fd, &one, sizeof(one)) == sizeof(one)) {
        if (t->renewing)
            pthread_join(t->renewer, NULL);
        if (t->beating)
            pthread_join(t->beater, NULL);
    }
    t->renewing = t->beating = false;
    if (t->stop_fd >= 0)
        close(t->stop_fd);
    t->stop_fd = -1;
}

/* Devices that this user, or nobody, may write to. */
static bool protected(const char *spec)
{
    char *copy = strdup(spec), *save = NULL;
    bool yes = false;

    for (char *p = copy != NULL ? strtok_r(copy, ",", &save) : NULL; p != NULL;
         p = strtok_r(NULL, ",", &save))
        yes = yes || (access(p, R_OK) == 0 && access(p, W_OK) != 0);
    free(copy);
    return yes;
}

/* A disk that other computers may share, and that cannot keep them apart by itself. */
static void slow_locks(const struct vt *t, const char *spec)
{
    struct vmc_vmfs_info info;

    vmc_vmfs_info(t->v, &info);
    if (!info.compare_write && !t->exclusive && !t->quiet)
        fprintf(stderr,
                "%s: %s: no SCSI COMPARE AND WRITE: hosts take turns by reads and writes, which is "
                "slow (--exclusive, if no other host has the disk)\n",
                t->name, spec);
}

/* On a disk that keeps hosts apart by itself a request may hang on its way for longer than a lease.
 */
static void say_unfenced(const struct vt *t, const char *spec)
{
    struct vmc_host_fence *f;

    for (uint32_t i = 0; i < t->files; i++) {
        const char *how = t->disk[i] != NULL ? vmc_host_disk_compare_write(t->disk[i]) : "lock";
        if (how != NULL && strcmp(how, "lock") == 0)
            continue;
        bool can = vmc_host_fence_create(t->disk, t->files, &f, NULL) == VMC_OK;
        if (can)
            vmc_host_fence_free(f);
        fprintf(stderr,
                "%s: %s: warning: writes that hang on the way to the disk for longer than the "
                "lease may "
                "arrive after another host has taken over%s\n",
                t->name, spec,
                can ? " (--reserve, on all hosts, prevents that)"
                    : ": this disk has no means against it");
        return;
    }
}

/* 0 or an exit status after a message. */
static int make_fence(struct vt *t, const char *spec)
{
    if (vmc_host_fence_create(t->disk, t->files, &t->fence, &t->err) == VMC_OK)
        return 0;
    return vt_fail(t, spec);
}

int vt_mount(struct vt *t, const char *spec, uint32_t flags)
{
    char name[32] = "vmcore", host[46];
    bool ro = t->read_only || (flags & VMC_VMFS_RDONLY) != 0;

    if (!ro && t->may_read_only && protected(spec)) {
        ro = t->read_only = true;
        if (!t->quiet)
            fprintf(stderr, "%s: %s: mounted read-only: %s\n", t->name, spec, strerror(errno));
    }
    int rc = vt_open_devices(t, spec, ro);

    flags |= ro ? VMC_VMFS_RDONLY : 0;

    if (rc == 0 && !ro && !t->exclusive && !t->no_watchdog)
        rc = make_watchdog(t);
    if (rc == 0 && !ro && !t->exclusive && t->reserve)
        rc = make_fence(t, spec);
    if (rc == 0) {
        struct vmc_vmfs_fence fence;
        if (t->fence != NULL)
            fence = vmc_host_fence_ops(t->fence);
        /* Processes of one host are hosts of their own to a volume. */
        gethostname(name, sizeof(name) - 1);
        snprintf(host, sizeof(host), "%s pid %d", name, (int)getpid());
        struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                          .devs = t->bd,
                                          .dev_count = t->files,
                                          .flags = flags | (t->exclusive ? VMC_VMFS_EXCLUSIVE : 0) |
                                                   (t->experimental ? VMC_VMFS_EXPERIMENTAL : 0),
                                          .host_name = host,
                                          .lease_ms = t->lease_s * 1000,
                                          .window_ms = t->lease_s * 1000 / 4,
                                          .beat_ms = t->lease_s * 1000 / BEATS,
                                          .cache_bytes = 64u << 20,
                                          .lease_until =
                                              t->watchdog != NULL ? vmc_host_watchdog_until : NULL,
                                          .lease_ctx = t->watchdog,
                                          .fence = t->fence != NULL ? &fence : NULL};
        int status = vmc_vmfs_mount(&t->pf, &c, &t->v, &t->err);
        /* What cannot be written because of what it is; not what somebody is writing to. */
        bool never = status == VMC_ENOTSUP || status == VMC_EPERM || status == VMC_EFORMAT;
        struct vmc_error why = t->err;
        if (never && !ro && t->may_read_only) {
            ro = t->read_only = true;
            c.flags |= VMC_VMFS_RDONLY;
            status = vmc_vmfs_mount(&t->pf, &c, &t->v, &t->err);
            if (status == VMC_OK && !t->quiet)
                fprintf(stderr, "%s: %s: mounted read-only: %s\n", t->name, spec, why.text);
        }
        if (status != VMC_OK)
            rc = vt_fail(t, spec);
    }
    if (rc == 0 && !ro)
        slow_locks(t, spec);
    if (rc == 0 && !ro && !t->exclusive && !t->reserve && t->may_read_only && !t->quiet)
        say_unfenced(t, spec);
    if (rc == 0 && !ro)
        rc = start_beating(t);
    return rc == 0 ? 0 : vt_close(t, rc);
}

int vt_close(struct vt *t, int status)
{
    /* What takes long while the lease is still being renewed. */
    if (t->v != NULL && vmc_vmfs_sync(t->v, &t->err) != VMC_OK)
        status = vt_fail(t, NULL);
    stop_beating(t);
    if (t->v != NULL && vmc_vmfs_unmount(t->v, &t->err) != VMC_OK)
        status = vt_fail(t, NULL);
    t->v = NULL;
    vmc_host_watchdog_free(t->watchdog);
    t->watchdog = NULL;
    vmc_host_fence_free(t->fence);
    t->fence = NULL;
    close_devices(t);
    return status;
}
