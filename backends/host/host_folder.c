/* SPDX-License-Identifier: BSD-2-Clause */
/* A folder of the host as the place of a VM disk's files. */
#define _GNU_SOURCE
#include <vmcore/host_block.h>

#include "host_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char site[] = "host/folder";

struct vmc_host_folder {
    int fd;
    char *path;
    char *device; /* the raw device that mappings may use, or NULL */
};

struct file {
    int fd;
    bool write;
    char *path;
    struct vmc_host_disk *disk; /* made when it is asked for */
};

static int fail(struct vmc_error *err, const struct vmc_host_folder *f, const char *name, int code)
{
    return vmci_host_error(err, vmci_host_status(code), code, site, "%s/%s: %s", f->path, name,
                           strerror(code));
}

static int f_close(void *ctx, void *file)
{
    struct file *h = file;

    (void)ctx;
    vmc_host_disk_close(h->disk);
    int rc = close(h->fd) == 0 ? VMC_OK : vmci_host_status(errno);
    free(h->path);
    free(h);
    return rc;
}

static int lock_whole(struct vmc_host_folder *f, const struct file *h, const char *name,
                      struct vmc_error *err)
{
    struct flock fl = {.l_type = h->write ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};

    if (fcntl(h->fd, F_OFD_SETLK, &fl) == 0)
        return VMC_OK;
    if (errno != EAGAIN && errno != EACCES)
        return fail(err, f, name, errno);
    return vmci_host_error(err, VMC_EBUSY, errno, site,
                           "%s/%s is in use by another program or virtual machine", f->path, name);
}

static int open_at(struct vmc_host_folder *f, const char *name, int flags, bool lock, void **file,
                   struct vmc_error *err)
{
    struct file *h = calloc(1, sizeof(*h));
    struct stat st;

    if (strchr(name, '/') != NULL) {
        free(h);
        return vmci_host_error(err, VMC_EPERM, 0, site, "%s: a name outside of its folder", name);
    }
    if (h == NULL || asprintf(&h->path, "%s/%s", f->path, name) < 0) {
        free(h);
        return vmci_host_error(err, VMC_ENOMEM, ENOMEM, site, "no memory");
    }
    h->write = (flags & O_RDWR) != 0;
    /* What is no file is refused, and a pipe must not make us wait for its other end before. */
    h->fd = openat(f->fd, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (h->fd < 0 || fstat(h->fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        int rc = fail(err, f, name, h->fd < 0 ? errno : EINVAL);
        if (h->fd >= 0)
            close(h->fd);
        free(h->path);
        free(h);
        return rc;
    }
    int rc = lock ? lock_whole(f, h, name, err) : VMC_OK;
    if (rc == VMC_OK)
        *file = h;
    else
        (void)f_close(f, h); /* already failing */
    return rc;
}

static int f_open(void *ctx, const char *name, uint32_t how, void **file, struct vmc_error *err)
{
    return open_at(ctx, name, how == VMC_DISK_WRITE ? O_RDWR : O_RDONLY, how != VMC_DISK_PEEK, file,
                   err);
}

static int f_create(void *ctx, const char *name, void **file, struct vmc_error *err)
{
    return open_at(ctx, name, O_RDWR | O_CREAT | O_EXCL, true, file, err);
}

static int f_remove(void *ctx, const char *name, struct vmc_error *err)
{
    struct vmc_host_folder *f = ctx;
    void *file = NULL;
    int rc = f_open(ctx, name, VMC_DISK_WRITE, &file, err); /* not while somebody has it */

    if (rc != VMC_OK)
        return rc;
    if (unlinkat(f->fd, name, 0) != 0)
        rc = fail(err, f, name, errno);
    (void)f_close(ctx, file); /* removed */
    return rc;
}

static int f_rename(void *ctx, const char *from, const char *to, struct vmc_error *err)
{
    struct vmc_host_folder *f = ctx;

    if (renameat(f->fd, from, f->fd, to) != 0 || fsync(f->fd) != 0)
        return fail(err, f, to, errno);
    return VMC_OK;
}

static int f_list(void *ctx, uint64_t *cookie, char *name, size_t bytes, struct vmc_error *err)
{
    struct vmc_host_folder *f = ctx;
    int fd = openat(f->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e = NULL;

    if (d == NULL) {
        rc = fail(err, f, ".", errno);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    if (*cookie != 0)
        seekdir(d, (long)*cookie);
    do
        e = readdir(d);
    while (e != NULL && strlen(e->d_name) >= bytes);
    if (e != NULL) {
        strcpy(name, e->d_name);
        *cookie = (uint64_t)telldir(d);
        rc = 1;
    }
    closedir(d);
    return rc;
}

static int f_size(void *ctx, void *file, uint64_t *bytes)
{
    const struct file *h = file;
    struct stat st;

    (void)ctx;
    if (fstat(h->fd, &st) != 0)
        return vmci_host_status(errno);
    *bytes = (uint64_t)st.st_size;
    return VMC_OK;
}

static int transfer(const struct file *h, bool write, char *p, size_t n, uint64_t at)
{
    while (n > 0) {
        ssize_t got = write ? pwrite(h->fd, p, n, (off_t)at) : pread(h->fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? vmci_host_status(errno) : VMC_EIO;
        p += got;
        n -= (size_t)got;
        at += (size_t)got;
    }
    return VMC_OK;
}

static int f_read(void *ctx, void *file, void *dst, size_t bytes, uint64_t offset)
{
    (void)ctx;
    return transfer(file, false, dst, bytes, offset);
}

static int f_write(void *ctx, void *file, const void *src, size_t bytes, uint64_t offset)
{
    (void)ctx;
    return transfer(file, true, (char *)(uintptr_t)src, bytes, offset);
}

static int f_resize(void *ctx, void *file, uint64_t bytes)
{
    const struct file *h = file;

    (void)ctx;
    return ftruncate(h->fd, (off_t)bytes) == 0 ? VMC_OK : vmci_host_status(errno);
}

static int f_allocate(void *ctx, void *file, uint64_t offset, uint64_t bytes, uint32_t kind)
{
    static const char zeros[1 << 16];
    const struct file *h = file;

    (void)ctx;
    int e = posix_fallocate(h->fd, (off_t)offset, (off_t)bytes);
    if (e != 0)
        return vmci_host_status(e);
    for (uint64_t at = 0; kind == VMC_DISK_EAGER && at < bytes; at += sizeof(zeros)) {
        size_t n = bytes - at < sizeof(zeros) ? (size_t)(bytes - at) : sizeof(zeros);
        int rc = transfer(h, true, (char *)(uintptr_t)zeros, n, offset + at);
        if (rc != VMC_OK)
            return rc;
    }
    return VMC_OK;
}

static int f_flush(void *ctx, void *file)
{
    const struct file *h = file;

    (void)ctx;
    return !h->write || fdatasync(h->fd) == 0 ? VMC_OK : vmci_host_status(errno);
}

static int f_blockdev(void *ctx, void *file, struct vmc_blockdev *out)
{
    struct file *h = file;
    /* The lock is held by this file already. */
    struct vmc_host_disk_config c = {
        .size = sizeof(c), .path = h->path, .read_only = !h->write, .no_lock = true};

    (void)ctx;
    if (h->disk == NULL) {
        int rc = vmc_host_disk_open(&c, &h->disk, NULL);
        if (rc != VMC_OK)
            return rc;
    }
    *out = vmc_host_disk_blockdev(h->disk);
    return VMC_OK;
}

static int f_next_data(void *ctx, void *file, uint64_t *offset, uint64_t *bytes)
{
    const struct file *h = file;
    off_t a = lseek(h->fd, (off_t)*offset, SEEK_DATA);

    (void)ctx;
    *bytes = 0;
    if (a < 0)
        return errno == ENXIO ? VMC_OK : vmci_host_status(errno);
    off_t b = lseek(h->fd, a, SEEK_HOLE);
    if (b < 0)
        return vmci_host_status(errno);
    *offset = (uint64_t)a;
    *bytes = (uint64_t)(b - a);
    return VMC_OK;
}

static int f_raw_open(void *ctx, const char *device, bool write, void **raw,
                      struct vmc_blockdev *out, struct vmc_error *err)
{
    const struct vmc_host_folder *f = ctx;

    return vmc_host_raw_open(f->device, device, write, raw, out, err);
}

int vmc_host_folder_open(const char *path, struct vmc_host_folder **out, struct vmc_error *err)
{
    struct vmc_host_folder *f = calloc(1, sizeof(*f));

    if (f == NULL || (f->path = strdup(path)) == NULL) {
        free(f);
        return vmci_host_error(err, VMC_ENOMEM, ENOMEM, site, "no memory");
    }
    f->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->fd < 0) {
        int code = errno;
        free(f->path);
        free(f);
        return vmci_host_error(err, vmci_host_status(code), code, site, "%s: %s", path,
                               strerror(code));
    }
    *out = f;
    return VMC_OK;
}

void vmc_host_folder_close(struct vmc_host_folder *f)
{
    if (f == NULL)
        return;
    close(f->fd);
    free(f->path);
    free(f);
}

void vmc_host_folder_allow_raw(struct vmc_host_folder *f, char *device)
{
    f->device = device;
}

struct vmc_disk_files vmc_host_folder_files(struct vmc_host_folder *f)
{
    static const struct vmc_disk_files_ops ops = {
        .open = f_open,
        .create = f_create,
        .close = f_close,
        .remove = f_remove,
        .rename = f_rename,
        .list = f_list,
        .size = f_size,
        .read = f_read,
        .write = f_write,
        .resize = f_resize,
        .allocate = f_allocate,
        .flush = f_flush,
        .blockdev = f_blockdev,
        .next_data = f_next_data,
        .raw_open = f_raw_open,
        .raw_close = vmc_host_raw_close,
    };

    return (struct vmc_disk_files){.ops = &ops, .ctx = f};
}
