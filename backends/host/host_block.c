/* SPDX-License-Identifier: BSD-2-Clause */
/* Raw disks: opening, locking, and every request as a plain system call. */
#define _GNU_SOURCE
#include "host_block_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <unistd.h>

#define DEFAULT_DEPTH   256u
#define MAX_DEPTH       4096u
#define DEFAULT_THREADS 4u
#define MAX_THREADS     64u
#define BOUNCE_BYTES    (1u << 20)
#define LOCK_TRIES      20u
#define LOCK_NAP_NS     50000000

_Static_assert(sizeof(struct vmc_iovec) == sizeof(struct iovec), "same layout");
_Static_assert(offsetof(struct vmc_iovec, bytes) == offsetof(struct iovec, iov_len), "same layout");

/* ---- requests as system calls -------------------------------------------------------------- */

static ssize_t transfer(int fd, bool write, void *p, size_t n, uint64_t at)
{
    ssize_t rc;

    do {
        rc = write ? pwrite(fd, p, n, (off_t)at) : pread(fd, p, n, (off_t)at);
    } while (rc < 0 && errno == EINTR);
    return rc;
}

/* All of one piece. A disk that ends early is a disk that somebody cut. */
static int transfer_all(int fd, bool write, void *p, size_t n, uint64_t at)
{
    while (n != 0) {
        ssize_t rc = transfer(fd, write, p, n, at);
        if (rc < 0)
            return vmci_host_status(errno);
        if (rc == 0)
            return VMC_EIO;
        p = (char *)p + rc;
        n -= (size_t)rc;
        at += (size_t)rc;
    }
    return VMC_OK;
}

/* A piece that O_DIRECT would refuse, through memory that it accepts. */
static int bounce(const struct vmc_host_disk *d, bool write, void *p, size_t n, uint64_t at)
{
    void *buf;
    int rc = VMC_OK;

    if (posix_memalign(&buf, 4096, BOUNCE_BYTES) != 0)
        return VMC_ENOMEM;
    while (n != 0 && rc == VMC_OK) {
        size_t part = n < BOUNCE_BYTES ? n : BOUNCE_BYTES;
        /* The pieces of a request may be odd; the device reads and writes whole sectors. */
        size_t whole = (part + d->sector_bytes - 1) / d->sector_bytes * d->sector_bytes;
        uint64_t start = at / d->sector_bytes * d->sector_bytes;
        size_t skip = (size_t)(at - start);
        if (skip != 0 || whole != part) {
            part = part < d->sector_bytes - skip ? part : d->sector_bytes - skip;
            whole = d->sector_bytes;
        }
        if (!write || skip != 0 || whole != part)
            rc = transfer_all(d->fd, false, buf, whole, start);
        if (rc == VMC_OK && write) {
            memcpy((char *)buf + skip, p, part);
            rc = transfer_all(d->fd, true, buf, whole, start);
        } else if (rc == VMC_OK) {
            memcpy(p, (char *)buf + skip, part);
        }
        p = (char *)p + part;
        n -= part;
        at += part;
    }
    free(buf);
    return rc;
}

static int sync_rw(struct vmc_host_disk *d, const struct vmc_block_req *r, uint64_t done)
{
    bool write = r->op == VMC_BLOCK_WRITE;
    bool plain = !d->cfg.direct;
    bool aligned = vmci_host_disk_aligned(d, r);
    uint64_t at = r->offset;
    int rc = VMC_OK;

    for (uint32_t i = 0; i < r->iov_count && rc == VMC_OK; i++) {
        char *p = r->iov[i].base;
        size_t n = r->iov[i].bytes;
        size_t skip = done < n ? (size_t)done : n;
        done -= skip;
        at += skip;
        p += skip;
        n -= skip;
        if (n != 0 && (plain || (aligned && skip == 0)))
            rc = transfer_all(d->fd, write, p, n, at);
        else if (n != 0)
            rc = bounce(d, write, p, n, at);
        at += n;
    }
    return rc;
}

static int write_zeroes(struct vmc_host_disk *d, uint64_t at, uint64_t bytes)
{
    void *zero;
    int rc = VMC_OK;

    if (posix_memalign(&zero, 4096, BOUNCE_BYTES) != 0)
        return VMC_ENOMEM;
    memset(zero, 0, BOUNCE_BYTES);
    while (bytes != 0 && rc == VMC_OK) {
        size_t n = bytes < BOUNCE_BYTES ? (size_t)bytes : BOUNCE_BYTES;
        rc = transfer_all(d->fd, true, zero, n, at);
        at += n;
        bytes -= n;
    }
    free(zero);
    return rc;
}

bool vmci_host_disk_fallocate_mode(struct vmc_host_disk *d, uint32_t op, int *mode)
{
    int zero = op == VMC_BLOCK_DISCARD ? ZERO_PUNCH : atomic_load(&d->zero_mode);

    *mode =
        FALLOC_FL_KEEP_SIZE | (zero == ZERO_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
    return zero != ZERO_WRITE;
}

static int sync_range(struct vmc_host_disk *d, const struct vmc_block_req *r)
{
    int mode;
    int rc;

    while (vmci_host_disk_fallocate_mode(d, r->op, &mode)) {
        do {
            rc = fallocate(d->fd, mode, (off_t)r->offset, (off_t)r->bytes);
        } while (rc != 0 && errno == EINTR);
        if (rc == 0)
            return VMC_OK;
        if (errno != EOPNOTSUPP && errno != ENOSYS)
            return vmci_host_status(errno);
        if (r->op == VMC_BLOCK_DISCARD)
            return VMC_OK; /* it is advice */
        int was = (mode & FALLOC_FL_PUNCH_HOLE) != 0 ? ZERO_PUNCH : ZERO_RANGE;
        atomic_compare_exchange_strong(&d->zero_mode, &was, was + 1);
    }
    return write_zeroes(d, r->offset, r->bytes);
}

int vmci_host_disk_sync(struct vmc_host_disk *d, const struct vmc_block_req *r, uint64_t done)
{
    switch (r->op) {
    case VMC_BLOCK_READ:
    case VMC_BLOCK_WRITE:
        return sync_rw(d, r, done);
    case VMC_BLOCK_FLUSH:
        return fdatasync(d->fd) == 0 ? VMC_OK : vmci_host_status(errno);
    case VMC_BLOCK_DISCARD:
    case VMC_BLOCK_WRITE_ZEROES:
        return sync_range(d, r);
    default:
        return VMC_ENOTSUP;
    }
}

bool vmci_host_disk_aligned(const struct vmc_host_disk *d, const struct vmc_block_req *r)
{
    if (!d->cfg.direct)
        return true;
    for (uint32_t i = 0; i < r->iov_count; i++)
        if ((uintptr_t)r->iov[i].base % d->mem_align != 0 || r->iov[i].bytes % d->sector_bytes != 0)
            return false;
    return true;
}

/* ---- the block device ---------------------------------------------------------------------- */

static const struct vmci_host_engine engine_inline;

static int disk_bytes(const struct vmc_host_disk *d, uint64_t *bytes)
{
    struct stat st;

    if (d->is_device)
        return ioctl(d->fd, BLKGETSIZE64, bytes) == 0 ? VMC_OK : vmci_host_status(errno);
    if (fstat(d->fd, &st) != 0)
        return vmci_host_status(errno);
    *bytes = (uint64_t)st.st_size;
    return VMC_OK;
}

static int disk_info(void *ctx, struct vmc_block_info *out)
{
    const struct vmc_host_disk *d = ctx;
    uint64_t bytes;
    int rc = disk_bytes(d, &bytes);

    if (rc != VMC_OK)
        return rc;
    *out = (struct vmc_block_info){
        .bytes = bytes / d->sector_bytes * d->sector_bytes,
        .sector_bytes = d->sector_bytes,
        .optimal_bytes = 4096,
        .read_only = d->cfg.read_only,
        .can_discard = d->can_discard && !d->cfg.read_only,
        .can_write_zeroes = !d->cfg.read_only,
        .can_compare_write = d->cfg.shared && !d->cfg.read_only && d->caw.kind != VMCI_CAW_NONE,
        .synchronous = d->engine == &engine_inline,
    };
    return VMC_OK;
}

/* What can be answered without I/O. */
static bool refuse(struct vmc_host_disk *d, struct vmc_block_req *r)
{
    bool writes = r->op != VMC_BLOCK_READ && r->op != VMC_BLOCK_FLUSH;

    if (writes && d->cfg.read_only)
        r->status = VMC_EPERM;
    else if (r->op > VMC_BLOCK_WRITE_ZEROES)
        r->status = VMC_ENOTSUP;
    else if ((r->offset | r->bytes) % d->sector_bytes != 0 || r->offset > INT64_MAX ||
             r->bytes > INT64_MAX - r->offset)
        r->status = VMC_EINVAL;
    else if ((r->op == VMC_BLOCK_FLUSH && d->cfg.read_only) ||
             (r->op == VMC_BLOCK_DISCARD && !d->can_discard) ||
             (r->op != VMC_BLOCK_FLUSH && r->bytes == 0))
        r->status = VMC_OK;
    else
        return false;
    return true;
}

static int disk_submit(void *ctx, struct vmc_block_req *r)
{
    struct vmc_host_disk *d = ctx;

    if (refuse(d, r))
        return VMC_BLOCK_COMPLETE;
    if (r->flags & VMC_BLOCK_WAITED) {
        r->status = vmci_host_disk_sync(d, r, 0);
        return VMC_BLOCK_COMPLETE;
    }
    return d->engine->submit(d, r);
}

static int disk_compare_write(void *ctx, uint64_t off, const void *expect, const void *data,
                              size_t bytes)
{
    struct vmc_host_disk *d = ctx;

    if (!d->cfg.shared || d->cfg.read_only || (off | bytes) % d->sector_bytes != 0 ||
        off > INT64_MAX - bytes)
        return VMC_EINVAL;
    return vmci_caw(&d->caw, off, expect, data, bytes);
}

static void disk_poll(void *ctx)
{
    struct vmc_host_disk *d = ctx;

    d->engine->poll(d);
}

static void disk_kick(void *ctx)
{
    struct vmc_host_disk *d = ctx;

    if (d->engine->kick != NULL)
        d->engine->kick(d);
}

static const struct vmc_blockdev_ops disk_ops = {
    .info = disk_info,
    .submit = disk_submit,
    .kick = disk_kick,
    .compare_write = disk_compare_write,
};

static const struct vmc_blockdev_ops disk_ops_polled = {
    .info = disk_info,
    .submit = disk_submit,
    .kick = disk_kick,
    .compare_write = disk_compare_write,
    .poll = disk_poll,
};

struct vmc_blockdev vmc_host_disk_blockdev(struct vmc_host_disk *d)
{
    return (struct vmc_blockdev){.ops = d->cfg.polled ? &disk_ops_polled : &disk_ops, .ctx = d};
}

int vmc_host_disk_register(struct vmc_host_disk *d, void *base, size_t bytes, struct vmc_error *err)
{
    int rc =
        d->engine->register_memory != NULL ? d->engine->register_memory(d, base, bytes) : -ENOSYS;

    return rc == 0 ? VMC_OK
                   : vmci_host_error(err, rc == -ENOSYS ? VMC_ENOTSUP : vmci_host_status(-rc), -rc,
                                     "host-disk/register", "memory cannot be registered: %s",
                                     strerror(-rc));
}

const char *vmc_host_disk_compare_write(const struct vmc_host_disk *d)
{
    return !d->cfg.shared                 ? NULL
           : d->caw.kind == VMCI_CAW_SCSI ? "scsi"
           : d->caw.kind == VMCI_CAW_LOCK ? "lock"
                                          : NULL;
}

const char *vmc_host_disk_engine_name(const struct vmc_host_disk *d)
{
    return d->engine->name;
}

/* ---- open and close ------------------------------------------------------------------------ */

static int open_file(struct vmc_host_disk *d, struct vmc_error *err)
{
    const char *site = "host-disk/open";
    const char *path = d->cfg.path;
    struct stat st;
    int flags = (d->cfg.read_only ? O_RDONLY : O_RDWR) | (d->cfg.direct ? O_DIRECT : 0);

    d->fd = open(path, flags | O_CLOEXEC | O_NOCTTY);
    if (d->fd < 0)
        return vmci_host_error(err, vmci_host_status(errno), errno, site,
                               "cannot open the disk %s%s: %s", path,
                               d->cfg.direct ? " without the page cache" : "", strerror(errno));
    if (fstat(d->fd, &st) != 0)
        return vmci_host_error(err, VMC_EHOST, errno, site, "cannot examine the disk %s: %s", path,
                               strerror(errno));
    d->is_device = S_ISBLK(st.st_mode);
    if (!d->is_device && !S_ISREG(st.st_mode))
        return vmci_host_error(err, VMC_EINVAL, 0, site, "%s is neither a file nor a block device",
                               path);
    if (!d->cfg.shared)
        return VMC_OK;
    vmci_caw_find(&d->caw, d->fd);
    /* What another computer wrote is not in this one's page cache. */
    if (d->caw.kind != VMCI_CAW_LOCK && !d->cfg.direct) {
        if (fcntl(d->fd, F_SETFL, O_DIRECT) != 0)
            return vmci_host_error(err, VMC_ENOTSUP, errno, site,
                                   "%s cannot be used without the page cache: %s", path,
                                   strerror(errno));
        d->cfg.direct = true;
    }
    return VMC_OK;
}

static int lock_error(const struct vmc_host_disk *d, struct vmc_error *err)
{
    if (errno == EAGAIN || errno == EACCES)
        return vmci_host_error(
            err, VMC_EBUSY, errno, "host-disk/lock",
            d->cfg.read_only ? "the disk %s is in use: another program has it open for writing"
                             : "the disk %s is in use by another program or virtual machine",
            d->cfg.path);
    return vmci_host_error(err, VMC_EHOST, errno, "host-disk/lock", "cannot lock the disk %s: %s",
                           d->cfg.path, strerror(errno));
}

/*
 * Open-file-description locks: they belong to this open file, not to the process. After a process
 * was killed the kernel takes a moment to close what its io_uring has, so a lock is asked for more
 * than once.
 */
static int lock_file(struct vmc_host_disk *d, struct vmc_error *err)
{
    struct flock fl = {.l_type = d->cfg.read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    struct timespec nap = {.tv_nsec = LOCK_NAP_NS};

    if (d->cfg.no_lock || d->cfg.shared)
        return VMC_OK;
    for (unsigned i = 0; fcntl(d->fd, F_OFD_SETLK, &fl) != 0; i++) {
        if ((errno != EAGAIN && errno != EACCES) || i == LOCK_TRIES)
            return lock_error(d, err);
        nanosleep(&nap, NULL);
    }
    return VMC_OK;
}

/* Sector size, and what O_DIRECT asks of memory and offsets. */
static void learn_alignment(struct vmc_host_disk *d)
{
    int logical = 512;

    d->sector_bytes = 512;
    d->mem_align = 1;
    if (d->is_device && ioctl(d->fd, BLKSSZGET, &logical) == 0 && logical > 512 && logical <= 4096)
        d->sector_bytes = (uint32_t)logical;
    if (!d->cfg.direct)
        return;
    d->mem_align = 512;
#ifdef STATX_DIOALIGN
    struct statx sx;
    if (statx(d->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
        (sx.stx_mask & STATX_DIOALIGN) != 0 && sx.stx_dio_mem_align != 0 &&
        sx.stx_dio_offset_align >= 512 && sx.stx_dio_offset_align <= 4096) {
        d->mem_align = sx.stx_dio_mem_align;
        d->sector_bytes = sx.stx_dio_offset_align;
    }
#endif
}

/* Past the end of the file nothing changes, but the file system says whether it could. */
static bool probe_discard(const struct vmc_host_disk *d, uint64_t bytes)
{
    if (d->cfg.read_only || d->cfg.no_discard)
        return false;
    if (d->is_device)
        return true;
    uint64_t past = (bytes + 4095) / 4096 * 4096;
    return fallocate(d->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)past, 4096) == 0;
}

/* ---- files that are memory: every request is a copy, and queues would only cost ----------------
 */

static int inline_open(struct vmc_host_disk *d, struct vmc_error *err)
{
    (void)d;
    (void)err;
    return VMC_OK;
}

static void inline_close(struct vmc_host_disk *d)
{
    (void)d;
}

static int inline_submit(struct vmc_host_disk *d, struct vmc_block_req *r)
{
    r->status = vmci_host_disk_sync(d, r, 0);
    return VMC_BLOCK_COMPLETE;
}

static const struct vmci_host_engine engine_inline = {
    .name = "inline",
    .open = inline_open,
    .close = inline_close,
    .submit = inline_submit,
    .poll = inline_close, /* nothing is ever pending */
};

static bool is_memory(const struct vmc_host_disk *d)
{
    struct statfs fs;

    return !d->is_device && fstatfs(d->fd, &fs) == 0 &&
           (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

static int choose_engine(struct vmc_host_disk *d, struct vmc_error *err)
{
    int rc = VMC_ENOTSUP;

    if (d->cfg.engine == VMC_HOST_DISK_AUTO && is_memory(d)) {
        d->engine = &engine_inline;
        return d->engine->open(d, err);
    }

    if (d->cfg.polled && d->cfg.engine == VMC_HOST_DISK_THREADS)
        return vmci_host_error(err, VMC_EINVAL, 0, "host-disk/open", "threads are not polled");
    if (d->cfg.engine != VMC_HOST_DISK_THREADS) {
        d->engine = &vmci_host_engine_uring;
        rc = d->engine->open(d, err);
        if (rc == VMC_OK || d->cfg.engine == VMC_HOST_DISK_URING || d->cfg.polled)
            return rc;
    }
    d->engine = &vmci_host_engine_threads;
    return d->engine->open(d, err);
}

static int check_config(const struct vmc_host_disk_config *cfg, struct vmc_error *err)
{
    const char *site = "host-disk/open";

    if (cfg->size < sizeof(*cfg) || cfg->path == NULL)
        return vmci_host_error(err, VMC_EINVAL, 0, site, "no path, or an unknown configuration");
    if (cfg->engine > VMC_HOST_DISK_THREADS || cfg->depth > MAX_DEPTH || cfg->threads > MAX_THREADS)
        return vmci_host_error(err, VMC_EINVAL, 0, site, "engine %u, depth %u, %u threads",
                               cfg->engine, cfg->depth, cfg->threads);
    return VMC_OK;
}

int vmc_host_disk_open(const struct vmc_host_disk_config *cfg, struct vmc_host_disk **out,
                       struct vmc_error *err)
{
    uint64_t bytes = 0;
    int rc = check_config(cfg, err);

    if (rc != VMC_OK)
        return rc;
    struct vmc_host_disk *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return vmci_host_error(err, VMC_ENOMEM, 0, "host-disk/open", "no memory");
    d->cfg = *cfg;
    d->fd = -1;
    if (d->cfg.depth == 0)
        d->cfg.depth = DEFAULT_DEPTH;
    if (d->cfg.threads == 0)
        d->cfg.threads = DEFAULT_THREADS;
    rc = open_file(d, err);
    if (rc == VMC_OK)
        rc = lock_file(d, err);
    if (rc == VMC_OK) {
        learn_alignment(d);
        rc = disk_bytes(d, &bytes);
        if (rc != VMC_OK || bytes < d->sector_bytes)
            rc = vmci_host_error(err, rc != VMC_OK ? rc : VMC_EINVAL, 0, "host-disk/open",
                                 "the disk %s is smaller than one sector", cfg->path);
    }
    if (rc == VMC_OK) {
        d->can_discard = probe_discard(d, bytes);
        rc = choose_engine(d, err);
    }
    if (rc != VMC_OK) {
        if (d->fd >= 0)
            close(d->fd);
        free(d);
        return rc;
    }
    d->cfg.path = NULL; /* the caller's string */
    *out = d;
    return VMC_OK;
}

void vmc_host_disk_close(struct vmc_host_disk *d)
{
    if (d == NULL)
        return;
    struct flock fl = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

    d->engine->close(d);
    if (!d->cfg.no_lock && !d->cfg.shared) /* a closed ring may keep the file open for a while */
        (void)fcntl(d->fd, F_OFD_SETLK, &fl);
    close(d->fd);
    free(d);
}

/* ---- raw devices of mappings -------------------------------------------------------------------
 */

/* Is it the device that the user named, by that name or by the one that links lead to? */
static bool is_allowed(const char *allowed, const char *device)
{
    char *real = allowed == NULL ? NULL : realpath(allowed, NULL);
    bool is = real != NULL && (strcmp(device, allowed) == 0 || strcmp(device, real) == 0);

    free(real);
    return is;
}

int vmc_host_raw_open(void *ctx, const char *device, bool write, void **raw,
                      struct vmc_blockdev *out, struct vmc_error *err)
{
    struct vmc_host_disk_config c = {.size = sizeof(c), .path = device, .read_only = !write};
    struct vmc_host_disk *d;

    if (!is_allowed(ctx, device))
        return vmci_host_error(err, VMC_EPERM, 0, "raw device",
                               "the disk maps the raw device %s, which it has not been allowed",
                               device);
    int rc = vmc_host_disk_open(&c, &d, err);
    if (rc != VMC_OK)
        return rc;
    *raw = d;
    *out = vmc_host_disk_blockdev(d);
    return VMC_OK;
}

void vmc_host_raw_close(void *ctx, void *raw)
{
    (void)ctx;
    vmc_host_disk_close(raw);
}
