/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands that move contents or change names. */
#define _GNU_SOURCE
#include "disk_place.h"
#include "vmfs_tool.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK (4u << 20)

extern char **environ;

bool vt_all_zero(const char *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

int vt_write_all(struct vt *t, int fd, const char *p, size_t n, off_t off, bool seek)
{
    while (n > 0) {
        ssize_t w = seek ? pwrite(fd, p, n, off) : write(fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0) {
            fprintf(stderr, "%s: write: %s\n", t->name, strerror(errno));
            return EXIT_ERROR;
        }
        p += w;
        off += w;
        n -= (size_t)w;
    }
    return 0;
}

static int open_volume_file(struct vt *t, const char *path, uint32_t flags,
                            struct vmc_vmfs_file **f)
{
    return vmc_vmfs_open(t->v, path, flags, f, &t->err) == VMC_OK ? 0 : vt_fail(t, path);
}

int vt_cat(struct vt *t)
{
    struct vmc_vmfs_file *f;
    char *buf = malloc(CHUNK);
    uint64_t off = 0;
    int rc = vt_mount(t, t->arg[0], VMC_VMFS_RDONLY);

    if (rc != 0) {
        free(buf);
        return rc;
    }
    rc = open_volume_file(t, t->arg[1], VMC_VMFS_READ, &f);
    if (rc != 0 || buf == NULL) {
        free(buf);
        return vt_close(t, rc);
    }
    for (;;) {
        int64_t n = vmc_vmfs_pread(f, buf, CHUNK, off, &t->err);
        if (n < 0)
            rc = vt_fail(t, t->arg[1]);
        if (n <= 0 || (rc = vt_write_all(t, STDOUT_FILENO, buf, (size_t)n, 0, false)) != 0)
            break;
        off += (uint64_t)n;
    }
    free(buf);
    if (vmc_vmfs_close(f, &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[1]);
    return vt_close(t, rc);
}

/* ---- import
 * --------------------------------------------------------------------------------------- */

/* Let qemu-img turn an image into raw data, or the other way round. */
int vt_convert(struct vt *t, const char *from_fmt, const char *from, const char *to_fmt,
               const char *to)
{
    const char *args[12];
    int n = 0, status;
    siginfo_t ended;
    pid_t pid;

    args[n++] = "qemu-img";
    args[n++] = "convert";
    if (from_fmt != NULL) {
        args[n++] = "-f";
        args[n++] = from_fmt;
    }
    args[n++] = "-O";
    args[n++] = to_fmt;
    args[n++] = from;
    args[n++] = to;
    args[n] = NULL;
    if (posix_spawnp(&pid, "qemu-img", NULL, NULL, (char **)(uintptr_t)args, environ) != 0) {
        fprintf(stderr, "%s: formats other than raw need qemu-img\n", t->name);
        return EXIT_ERROR;
    }
    vt_stop_helper(pid);
    while (waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOWAIT) < 0 && errno == EINTR)
        ;
    vt_stop_helper(0); /* before its number can be another process's */
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (vt_stopped(t))
        return EXIT_ERROR;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EXIT_ERROR;
}

int vt_temp_name(struct vt *t, char *path, size_t bytes)
{
    const char *dir = getenv("TMPDIR");

    vt_stop_watch();
    snprintf(path, bytes, "%s/vmcore-XXXXXX", dir != NULL ? dir : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0) {
        fprintf(stderr, "%s: %s: %s\n", t->name, path, strerror(errno));
        return EXIT_ERROR;
    }
    close(fd);
    return 0;
}

/* Data of the host's file from off on; end: where it stops being data. */
bool vt_next_data(int fd, off_t *off, off_t *end, off_t size)
{
    off_t a = lseek(fd, *off, SEEK_DATA);

    if (a < 0) {
        if (errno == ENXIO)
            return false;
        a = *off; /* no holes known here */
    }
    off_t b = lseek(fd, a, SEEK_HOLE);
    *off = a;
    *end = b > a && b < size ? b : size; /* it may grow meanwhile */
    return a < size;
}

static int import_data(struct vt *t, int fd, off_t size, struct vmc_vmfs_file *f)
{
    char *buf = aligned_alloc(4096, CHUNK);
    double start = vt_now();
    off_t at = 0, end;
    int rc = 0;

    if (buf == NULL)
        return EXIT_ERROR;
    while (rc == 0 && at < size && vt_next_data(fd, &at, &end, size)) {
        for (; rc == 0 && at < end;) {
            size_t want = (size_t)(end - at < CHUNK ? end - at : CHUNK);
            ssize_t n = pread(fd, buf, want, at);
            if (n <= 0) {
                fprintf(stderr, "%s: read: %s\n", t->name, n < 0 ? strerror(errno) : "short file");
                rc = EXIT_ERROR;
                break;
            }
            /* The file is a hole already where it would only get zeros. */
            if (!vt_all_zero(buf, (size_t)n) &&
                vmc_vmfs_pwrite(f, buf, (size_t)n, (uint64_t)at, &t->err) != n)
                rc = vt_fail(t, t->arg[2]);
            at += n;
            vt_progress(t, "import", (uint64_t)at, (uint64_t)size, start);
            if (rc == 0 && vt_stopped(t))
                rc = EXIT_ERROR;
        }
    }
    if (rc == 0 && at < size) /* the rest is a hole */
        vt_progress(t, "import", (uint64_t)size, (uint64_t)size, start);
    free(buf);
    return rc;
}

int vt_open_host(struct vt *t, const char *host, int *fd, off_t *size)
{
    struct stat st;

    *fd = open(host, O_RDONLY | O_CLOEXEC);
    if (*fd >= 0 && fstat(*fd, &st) == 0) {
        *size = S_ISBLK(st.st_mode) ? lseek(*fd, 0, SEEK_END) : st.st_size;
        if (!S_ISDIR(st.st_mode) && *size >= 0)
            return 0;
        errno = S_ISDIR(st.st_mode) ? EISDIR : errno;
    }
    fprintf(stderr, "%s: %s: %s\n", t->name, host, strerror(errno));
    if (*fd >= 0)
        close(*fd);
    return EXIT_ERROR;
}

static int import_file(struct vt *t, const char *host)
{
    static struct vt_new_file n;
    off_t bytes;
    int fd, rc = vt_open_host(t, host, &fd, &bytes);

    if (rc != 0)
        return rc;
    rc = vt_new_file(t, &n, t->arg[2]);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    uint64_t size = (uint64_t)bytes;
    if (vmc_vmfs_truncate(n.f, size, &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[2]);
    if (rc == 0 && t->kind != NULL && strcmp(t->kind, "thin") != 0 && size > 0 &&
        vmc_vmfs_allocate(n.f, 0, size,
                          *t->kind == 'l' ? VMC_VMFS_ALLOC_LAZY : VMC_VMFS_ALLOC_EAGER,
                          &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[2]);
    if (rc == 0)
        rc = import_data(t, fd, bytes, n.f);
    close(fd);
    return vt_new_file_end(t, &n, rc);
}

/* Images are files like others here; but a descriptor without the files it names is of no use. */
static void tell_format(const struct vt *t, const char *host)
{
    const char *format = t->format == NULL ? disk_image_format(host) : NULL;

    if (format != NULL && !t->quiet)
        fprintf(
            stderr,
            "%s: %s: a %s image, copied as it is, without other files that it names; for a disk, "
            "'vmcore disk import -O %s'; for its contents alone, -O %s\n",
            t->name, host, format, format, format);
}

int vt_import(struct vt *t)
{
    char temp[512] = "";
    const char *from = t->arg[1];
    int rc = 0;

    tell_format(t, from);
    if (t->format != NULL && strcmp(t->format, "raw") != 0) {
        rc = vt_temp_name(t, temp, sizeof(temp));
        if (rc == 0)
            rc = vt_convert(t, t->format, from, "raw", temp);
        from = temp;
    }
    if (rc == 0)
        rc = vt_mount(t, t->arg[0], 0);
    if (rc == 0)
        rc = vt_close(t, import_file(t, from));
    if (*temp)
        unlink(temp);
    return rc;
}

/* ---- export
 * --------------------------------------------------------------------------------------- */

static int out_failed(const struct vt *t, const char *to)
{
    fprintf(stderr, "%s: %s: %s\n", t->name, to, strerror(errno));
    return EXIT_ERROR;
}

int vt_out_open(struct vt *t, const char *to, uint64_t bytes, bool *device)
{
    int fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC | O_TRUNC, 0666);
    struct stat st = {0};
    bool ok = fd >= 0 && fstat(fd, &st) == 0;

    *device = !S_ISREG(st.st_mode);
    if (ok && S_ISREG(st.st_mode))
        ok = ftruncate(fd, (off_t)bytes) == 0;
    if (ok && S_ISBLK(st.st_mode) && lseek(fd, 0, SEEK_END) < (off_t)bytes) {
        ok = false;
        errno = ENOSPC;
    }
    if (ok)
        return fd;
    out_failed(t, to);
    if (fd >= 0)
        close(fd);
    return -1;
}

int vt_out_zeros(struct vt *t, int fd, uint64_t at, uint64_t end)
{
    static const char nothing[1 << 20];
    int rc = 0;

    for (size_t n; rc == 0 && at < end; at += n) {
        n = end - at < sizeof(nothing) ? (size_t)(end - at) : sizeof(nothing);
        rc = vt_write_all(t, fd, nothing, n, (off_t)at, true);
        if (rc == 0 && vt_stopped(t))
            rc = EXIT_ERROR;
    }
    return rc;
}

int vt_out_close(struct vt *t, const char *to, int fd, bool device, int rc)
{
    /* Files are synced by whoever gives them their name; some devices have nothing to sync. */
    if (rc == 0 && device && fsync(fd) != 0 && errno != EINVAL)
        rc = out_failed(t, to);
    if (close(fd) != 0 && rc == 0)
        rc = out_failed(t, to);
    return rc;
}

static int export_data(struct vt *t, struct vmc_vmfs_file *f, int fd, uint64_t size, bool device)
{
    char *buf = aligned_alloc(4096, CHUNK);
    double start = vt_now();
    uint64_t shown = 0;
    int rc = buf == NULL ? EXIT_ERROR : 0;

    for (uint64_t at = 0; at < size && rc == 0;) {
        struct vmc_vmfs_extent x = {0};
        if (vmc_vmfs_extent(f, at, &x, &t->err) != VMC_OK)
            rc = vt_fail(t, t->arg[1]);
        for (uint64_t end = at + x.bytes; rc == 0 && at < end;) {
            size_t n = (size_t)(end - at < CHUNK ? end - at : CHUNK);
            if (!x.has_data) {
                rc = device ? vt_out_zeros(t, fd, at, end < size ? end : size) : 0;
                at = end;
                break;
            }
            int64_t got = vmc_vmfs_pread(f, buf, n, at, &t->err);
            if (got <= 0)
                rc = vt_fail(t, t->arg[1]);
            else if (device || !vt_all_zero(buf, (size_t)got))
                rc = vt_write_all(t, fd, buf, (size_t)got, (off_t)at, true);
            at += n;
            shown = at < size ? at : size;
            vt_progress(t, "export", shown, size, start);
            if (rc == 0 && vt_stopped(t))
                rc = EXIT_ERROR;
        }
    }
    if (rc == 0 && shown < size)
        vt_progress(t, "export", size, size, start);
    free(buf);
    return rc;
}

static int export_file(struct vt *t, const char *to)
{
    struct vmc_vmfs_file *f;
    struct vmc_vmfs_stat st;
    int rc = open_volume_file(t, t->arg[1], VMC_VMFS_READ, &f);

    if (rc != 0)
        return rc;
    if (vmc_vmfs_fstat(f, &st, &t->err) != VMC_OK) {
        rc = vt_fail(t, t->arg[1]);
    } else {
        bool device;
        int fd = vt_out_open(t, to, st.bytes, &device);
        rc = fd < 0 ? EXIT_ERROR
                    : vt_out_close(t, to, fd, device, export_data(t, f, fd, st.bytes, device));
    }
    if (vmc_vmfs_close(f, &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[1]);
    return rc;
}

int vt_export(struct vt *t)
{
    char temp[512] = "";
    struct vt_new_host out;
    int rc = vt_new_host(t, &out, t->arg[2]);
    bool convert = t->format != NULL && strcmp(t->format, "raw") != 0;

    if (rc != 0)
        return rc;
    if (convert)
        rc = vt_temp_name(t, temp, sizeof(temp));
    if (rc == 0)
        rc = vt_mount(t, t->arg[0], VMC_VMFS_RDONLY);
    if (rc == 0)
        rc = vt_close(t, export_file(t, convert ? temp : out.path));
    if (rc == 0 && convert)
        rc = vt_convert(t, "raw", temp, t->format, out.path);
    if (*temp)
        unlink(temp);
    return vt_new_host_end(t, &out, rc);
}

/* ---- on the volume
 * -------------------------------------------------------------------------------- */

static int copy(struct vt *t, struct vmc_vmfs_file *from, struct vmc_vmfs_file *to)
{
    struct vmc_vmfs_stat st;
    char *buf = aligned_alloc(4096, CHUNK);
    double start = vt_now();
    uint64_t shown = 0;
    int rc = 0;

    if (buf == NULL || vmc_vmfs_fstat(from, &st, &t->err) != VMC_OK ||
        vmc_vmfs_truncate(to, st.bytes, &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[1]);
    for (uint64_t at = 0; rc == 0 && at < st.bytes;) {
        struct vmc_vmfs_extent x;
        if (vmc_vmfs_extent(from, at, &x, &t->err) != VMC_OK) {
            rc = vt_fail(t, t->arg[1]);
            break;
        }
        size_t n = (size_t)(x.bytes < CHUNK ? x.bytes : CHUNK);
        if (!x.has_data) {
            at += x.bytes;
            continue;
        }
        if (vmc_vmfs_pread(from, buf, n, at, &t->err) != (int64_t)n ||
            (!vt_all_zero(buf, n) && vmc_vmfs_pwrite(to, buf, n, at, &t->err) != (int64_t)n))
            rc = vt_fail(t, t->arg[1]);
        shown = at += n;
        vt_progress(t, "copy", shown, st.bytes, start);
        if (rc == 0 && vt_stopped(t))
            rc = EXIT_ERROR;
    }
    if (rc == 0 && shown < st.bytes)
        vt_progress(t, "copy", st.bytes, st.bytes, start);
    free(buf);
    return rc;
}

int vt_cp(struct vt *t)
{
    static struct vt_new_file n;
    struct vmc_vmfs_file *from;
    int rc = vt_mount(t, t->arg[0], 0);

    if (rc != 0)
        return rc;
    rc = open_volume_file(t, t->arg[1], VMC_VMFS_READ, &from);
    if (rc != 0)
        return vt_close(t, rc);
    rc = vt_new_file(t, &n, t->arg[2]);
    int copied = rc == 0 ? copy(t, from, n.f) : rc;
    if (vmc_vmfs_close(from, &t->err) != VMC_OK)
        copied = vt_fail(t, t->arg[1]);
    if (rc == 0)
        rc = vt_new_file_end(t, &n, copied);
    return vt_close(t, rc);
}

/* With --parents it may be there, if it is a directory. */
static int make_dir(struct vt *t, const char *path)
{
    struct vmc_vmfs_stat st;
    int s = vmc_vmfs_mkdir(t->v, path, 0755, &t->err);

    if (s == VMC_EEXIST && t->parents && vmc_vmfs_stat(t->v, path, &st, NULL) == VMC_OK &&
        st.type == VMC_VMFS_DIR)
        s = VMC_OK;
    return s == VMC_OK ? 0 : vt_fail(t, path);
}

int vt_mkdir(struct vt *t)
{
    char *path = strdup(t->arg[1]);
    int rc = path != NULL ? vt_mount(t, t->arg[0], 0) : EXIT_ERROR;

    if (rc != 0) {
        free(path);
        return rc;
    }
    char *p = path;
    while (rc == 0 && t->parents && *p != '\0' && (p = strchr(p + 1, '/')) != NULL) {
        *p = '\0';
        rc = make_dir(t, path);
        *p = '/';
    }
    if (rc == 0)
        rc = make_dir(t, path);
    free(path);
    return vt_close(t, rc);
}

static int rm_tree(struct vt *t, const char *path)
{
    struct vmc_vmfs_dirent d;
    struct vmc_vmfs_stat st;
    char *sub = malloc(VMC_VMFS_PATH_MAX + 256);
    int rc = 0, got;

    if (sub == NULL || vmc_vmfs_stat(t->v, path, &st, &t->err) != VMC_OK) {
        free(sub);
        return vt_fail(t, path);
    }
    while (st.type == VMC_VMFS_DIR && rc == 0) {
        uint64_t cookie = 2; /* after "." and ".." */
        got = vmc_vmfs_readdir(t->v, path, &cookie, &d, &t->err);
        if (got < 0)
            rc = vt_fail(t, path);
        if (got <= 0)
            break;
        snprintf(sub, VMC_VMFS_PATH_MAX + 256, "%s/%s", path, d.name);
        rc = rm_tree(t, sub);
    }
    free(sub);
    if (rc == 0 && vt_stopped(t))
        rc = EXIT_ERROR;
    if (rc == 0 && vmc_vmfs_remove(t->v, path, &t->err) != VMC_OK)
        rc = vt_fail(t, path);
    return rc;
}

int vt_rm(struct vt *t)
{
    int rc = vt_mount(t, t->arg[0], 0);

    if (rc != 0)
        return rc;
    vt_stop_watch(); /* other hosts need not wait for the lease of a session that ends by itself */
    if (t->recursive)
        rc = rm_tree(t, t->arg[1]);
    else if (vmc_vmfs_remove(t->v, t->arg[1], &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[1]);
    return vt_close(t, rc);
}

int vt_mv(struct vt *t)
{
    int rc = vt_mount(t, t->arg[0], 0);

    if (rc != 0)
        return rc;
    if (vmc_vmfs_rename(t->v, t->arg[1], t->arg[2], t->force ? 0 : VMC_VMFS_RENAME_NOREPLACE,
                        &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[1]);
    return vt_close(t, rc);
}

int vt_truncate(struct vt *t)
{
    struct vmc_vmfs_file *f;
    uint64_t size;

    if (!vt_parse_size(t->arg[2], &size)) {
        fprintf(stderr, "%s: '%s' is no size\n", t->name, t->arg[2]);
        return EXIT_BAD_ARGS;
    }
    int rc = vt_mount(t, t->arg[0], 0);
    if (rc == 0)
        rc = open_volume_file(t, t->arg[1], VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f);
    if (rc != 0)
        return vt_close(t, rc);
    if (vmc_vmfs_truncate(f, size, &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[1]);
    if (vmc_vmfs_close(f, &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[1]);
    return vt_close(t, rc);
}
