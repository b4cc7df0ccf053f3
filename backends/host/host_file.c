/* SPDX-License-Identifier: BSD-2-Clause */
/* A shared file as a synchronous block device with compare-and-write. */
#define _GNU_SOURCE
#include <vmcore/host_file.h>

#include "host_caw.h"
#include "host_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR   512u
#define IOV_MAX_ 64

struct vmc_host_file {
    int fd;
    uint64_t bytes;
    bool read_only, block_device;
    struct vmci_caw caw;
};

static int file_info(void *ctx, struct vmc_block_info *out)
{
    const struct vmc_host_file *f = ctx;

    *out = (struct vmc_block_info){
        .bytes = f->bytes,
        .sector_bytes = SECTOR,
        .optimal_bytes = 1 << 20,
        .read_only = f->read_only,
        .can_discard = !f->read_only && !f->block_device,
        .can_write_zeroes = !f->read_only && !f->block_device,
        .can_compare_write = !f->read_only && f->caw.kind == VMCI_CAW_LOCK,
        .synchronous = true,
    };
    return VMC_OK;
}

static int transfer(const struct vmc_host_file *f, struct vmc_block_req *r)
{
    struct iovec iov[IOV_MAX_];
    uint64_t off = r->offset;
    uint32_t i = 0;
    uint64_t skip = 0; /* bytes of iov[i] done */

    while (i < r->iov_count) {
        int n = 0;
        for (uint32_t k = i; k < r->iov_count && n < IOV_MAX_; k++, n++)
            iov[n] = (struct iovec){.iov_base = r->iov[k].base, .iov_len = r->iov[k].bytes};
        iov[0].iov_base = (char *)iov[0].iov_base + skip;
        iov[0].iov_len -= skip;
        ssize_t got = r->op == VMC_BLOCK_READ ? preadv(f->fd, iov, n, (off_t)off)
                                              : pwritev(f->fd, iov, n, (off_t)off);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? vmci_host_status(errno) : VMC_EIO;
        off += (uint64_t)got;
        skip += (uint64_t)got;
        while (i < r->iov_count && skip >= r->iov[i].bytes)
            skip -= r->iov[i++].bytes;
    }
    return VMC_OK;
}

static int punch(const struct vmc_host_file *f, const struct vmc_block_req *r, int mode)
{
    if (fallocate(f->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)r->offset, (off_t)r->bytes) == 0)
        return VMC_OK;
    return errno == EOPNOTSUPP ? VMC_ENOTSUP : vmci_host_status(errno);
}

static int write_zeroes(const struct vmc_host_file *f, const struct vmc_block_req *r)
{
    static const char zeros[1 << 16];
    int rc = punch(f, r, FALLOC_FL_PUNCH_HOLE);

    for (uint64_t at = 0; rc == VMC_ENOTSUP && at < r->bytes; at += sizeof(zeros)) {
        size_t n = r->bytes - at < sizeof(zeros) ? r->bytes - at : sizeof(zeros);
        if (pwrite(f->fd, zeros, n, (off_t)(r->offset + at)) != (ssize_t)n)
            return VMC_EIO;
    }
    return rc == VMC_ENOTSUP ? VMC_OK : rc;
}

static int file_submit(void *ctx, struct vmc_block_req *r)
{
    const struct vmc_host_file *f = ctx;

    if (r->op == VMC_BLOCK_FLUSH)
        r->status = f->read_only || fdatasync(f->fd) == 0 ? VMC_OK : vmci_host_status(errno);
    else if (r->offset > f->bytes || r->bytes > f->bytes - r->offset)
        r->status = VMC_ERANGE;
    else if (r->op != VMC_BLOCK_READ && f->read_only)
        r->status = VMC_EPERM;
    else if (r->op == VMC_BLOCK_READ || r->op == VMC_BLOCK_WRITE)
        r->status = transfer(f, r);
    else if (r->op == VMC_BLOCK_WRITE_ZEROES)
        r->status = write_zeroes(f, r);
    else
        r->status = punch(f, r, FALLOC_FL_PUNCH_HOLE) == VMC_OK ? VMC_OK : VMC_ENOTSUP;
    return VMC_BLOCK_COMPLETE;
}

static int file_compare_write(void *ctx, uint64_t off, const void *expect, const void *data,
                              size_t bytes)
{
    struct vmc_host_file *f = ctx;

    if (f->read_only || off > f->bytes || bytes > f->bytes - off)
        return VMC_EINVAL;
    return vmci_caw(&f->caw, off, expect, data, bytes);
}

static const struct vmc_blockdev_ops file_ops = {
    .info = file_info,
    .submit = file_submit,
    .compare_write = file_compare_write,
};

int vmc_host_file_open(const char *path, bool read_only, struct vmc_host_file **out,
                       struct vmc_error *err)
{
    struct stat st;
    struct vmc_host_file *f = calloc(1, sizeof(*f));
    int code = 0;

    if (f == NULL)
        return vmci_host_error(err, VMC_ENOMEM, ENOMEM, "host/file", "no memory");
    f->read_only = read_only;
    f->fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (f->fd < 0 || fstat(f->fd, &st) != 0) {
        code = errno;
    } else if (S_ISBLK(st.st_mode)) {
        f->block_device = true;
        if (ioctl(f->fd, BLKGETSIZE64, &f->bytes) != 0)
            code = errno;
    } else if (S_ISREG(st.st_mode)) {
        f->bytes = (uint64_t)st.st_size / SECTOR * SECTOR;
    } else {
        code = EINVAL;
    }
    if (code != 0) {
        if (f->fd >= 0)
            close(f->fd);
        free(f);
        return vmci_host_error(err, vmci_host_status(code), code, "host/file", "%s: %s", path,
                               strerror(code));
    }
    vmci_caw_find(&f->caw, f->fd);
    if (f->caw.kind != VMCI_CAW_LOCK) { /* what other computers write is not in this page cache */
        vmc_host_file_close(f);
        return vmci_host_error(err, VMC_ENOTSUP, 0, "host/file",
                               "%s: a disk that other computers may have needs a vmc_host_disk",
                               path);
    }
    *out = f;
    return VMC_OK;
}

void vmc_host_file_close(struct vmc_host_file *f)
{
    if (f == NULL)
        return;
    close(f->fd);
    free(f);
}

struct vmc_blockdev vmc_host_file_blockdev(struct vmc_host_file *f)
{
    return (struct vmc_blockdev){.ops = &file_ops, .ctx = f};
}
