/* SPDX-License-Identifier: BSD-2-Clause */
/* Files that get their name when they are whole: until then they stand beside it under another. */
#define _GNU_SOURCE
#include "vmfs_tool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- on the host --------------------------------------------------------------------------- */

static int host_fail(const struct vt *t, const char *path)
{
    fprintf(stderr, "%s: %s: %s\n", t->name, path, strerror(errno));
    return EXIT_ERROR;
}

/* Nothing can have another name beside it: it is written where it is to be. */
static bool in_place(const char *to, bool there)
{
    int fd = open(to, O_WRONLY | O_CLOEXEC | (there ? 0 : O_CREAT | O_EXCL), 0666);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

int vt_new_host(struct vt *t, struct vt_new_host *n, const char *to)
{
    struct stat st;
    char *real = NULL;
    bool there = stat(to, &st) == 0;

    memset(n, 0, sizeof(*n));
    if (there && (!t->force || S_ISDIR(st.st_mode))) {
        fprintf(stderr, "%s: %s %s\n", t->name, to,
                S_ISDIR(st.st_mode) ? "is a directory" : "exists (-f overwrites it)");
        return EXIT_ERROR;
    }
    if (there && !S_ISREG(st.st_mode)) { /* a disk: nothing can take its place */
        n->path = strdup(to);
        return n->path != NULL ? 0 : EXIT_ERROR;
    }
    if (there && (real = realpath(to, NULL)) == NULL)
        return host_fail(t, to);
    n->to = real != NULL ? real : strdup(to);
    if (n->to == NULL || asprintf(&n->path, "%s.XXXXXX", n->to) < 0) {
        free(n->to);
        return EXIT_ERROR;
    }
    mode_t mask = umask(0);
    umask(mask);
    vt_stop_watch();
    int fd = mkstemp(n->path);
    if (fd < 0 && (errno == EACCES || errno == ENAMETOOLONG) && in_place(n->to, there)) {
        free(n->path);
        n->path = n->to;
        n->to = NULL;
        return 0;
    }
    int rc =
        fd < 0 || fchmod(fd, there ? st.st_mode & 07777 : 0666 & ~mask) != 0 ? host_fail(t, to) : 0;
    if (fd >= 0)
        close(fd);
    if (rc != 0) {
        if (fd >= 0)
            unlink(n->path);
        free(n->path);
        free(n->to);
    }
    return rc;
}

/* The name must not be on the disk before what it stands for. */
static int sync_host(const struct vt *t, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) != 0 ? host_fail(t, path) : 0;

    if (fd >= 0)
        close(fd);
    return rc;
}

int vt_new_host_end(struct vt *t, struct vt_new_host *n, int rc)
{
    if (n->to != NULL) {
        if (rc == 0 && vt_stopped(t))
            rc = EXIT_ERROR;
        if (rc == 0)
            rc = sync_host(t, n->path);
        if (rc == 0 &&
            renameat2(AT_FDCWD, n->path, AT_FDCWD, n->to, t->force ? 0 : RENAME_NOREPLACE) != 0 &&
            (errno != EINVAL ||
             rename(n->path, n->to) != 0)) /* not every file system knows NOREPLACE */
            rc = host_fail(t, n->to);
        if (rc != 0)
            unlink(n->path);
    }
    free(n->path);
    free(n->to);
    return rc;
}

/* ---- on the volume -------------------------------------------------------------------------- */

int vt_new_file(struct vt *t, struct vt_new_file *n, const char *to)
{
    struct vmc_vmfs_stat st;
    const char *slash = strrchr(to, '/');
    uint64_t number;

    n->to = to;
    n->f = NULL;
    int rc = vmc_vmfs_stat(t->v, to, &st, &t->err);
    if (rc == VMC_OK && (!t->force || st.type == VMC_VMFS_DIR)) {
        fprintf(stderr, "%s: %s %s\n", t->name, to,
                st.type == VMC_VMFS_DIR ? "is a directory" : "exists (-f overwrites it)");
        return EXIT_ERROR;
    }
    if (rc != VMC_OK && rc != VMC_ENOENT)
        return vt_fail(t, to);
    if (getrandom(&number, sizeof(number), 0) != sizeof(number))
        return host_fail(t, "getrandom");
    int dir = slash != NULL ? (int)(slash - to) : 0;
    snprintf(n->path, sizeof(n->path), "%.*s", dir, to);
    vt_left_remove(t, dir == 0 ? "/" : n->path);
    snprintf(n->path, sizeof(n->path), "%.*s/" VT_NEW_PREFIX "%016llx", dir, to,
             (unsigned long long)number);
    vt_stop_watch();
    if (vmc_vmfs_create(t->v, n->path, 0644, &t->err) != VMC_OK)
        return vt_fail(t, to);
    if (vmc_vmfs_open(t->v, n->path, VMC_VMFS_WRITE, &n->f, &t->err) == VMC_OK)
        return 0;
    rc = vt_fail(t, to);
    (void)!vmc_vmfs_remove(t->v, n->path, NULL); /* already failing */
    return rc;
}

int vt_new_file_end(struct vt *t, struct vt_new_file *n, int rc)
{
    if (rc == 0 && vt_stopped(t))
        rc = EXIT_ERROR;
    if (rc == 0 && vmc_vmfs_fsync(n->f, &t->err) != VMC_OK)
        rc = vt_fail(t, n->to);
    if (vmc_vmfs_close(n->f, &t->err) != VMC_OK && rc == 0)
        rc = vt_fail(t, n->to);
    if (rc == 0 && vmc_vmfs_rename(t->v, n->path, n->to, t->force ? 0 : VMC_VMFS_RENAME_NOREPLACE,
                                   &t->err) != VMC_OK)
        rc = vt_fail(t, n->to);
    if (rc != 0)
        (void)!vmc_vmfs_remove(t->v, n->path, NULL); /* half a file: already failing */
    return rc;
}
