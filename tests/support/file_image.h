/* SPDX-License-Identifier: BSD-2-Clause */
/* A file as a kernel or initrd to boot; what goes wrong ends the program. */
#ifndef FILE_IMAGE_H
#define FILE_IMAGE_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vmcore/boot.h>
#include <vmcore/status.h>

struct file_image {
    int fd;
    struct vmc_image_src src;
};

static inline int file_image_read(void *ctx, uint64_t offset, void *dst, size_t bytes)
{
    const struct file_image *img = (const struct file_image *)ctx;
    return pread(img->fd, dst, bytes, (off_t)offset) == (ssize_t)bytes ? VMC_OK : VMC_EIO;
}

static inline void file_image_open(struct file_image *img, const char *path)
{
    static const struct vmc_image_ops ops = {.read = file_image_read};
    struct stat st;

    img->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (img->fd < 0 || fstat(img->fd, &st) != 0) {
        perror(path);
        exit(1);
    }
    img->src = (struct vmc_image_src){.ops = &ops, .ctx = img, .bytes = (uint64_t)st.st_size};
}

#endif
