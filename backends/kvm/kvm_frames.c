/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory for a pool that KVM guests use. */
#define _GNU_SOURCE
#include "kvm_window.h"
#include "kvm_int.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct vmc_kvm_frames {
    int fd;
    unsigned char *base;
    uint64_t bytes;
};

int vmc_kvm_frames_create(uint64_t frames, struct vmc_kvm_frames **out, struct vmc_error *err)
{
    struct vmc_kvm_frames *f = calloc(1, sizeof(*f));

    if (f == NULL || frames == 0 || frames > VMC_POOL_MAX_FRAMES) {
        free(f);
        return kvm_set_error(err, f == NULL ? VMC_ENOMEM : VMC_ELIMIT, "no memory for %llu frames",
                             (unsigned long long)frames);
    }
    f->bytes = frames * VMC_PAGE_SIZE;
    f->base = MAP_FAILED;
    f->fd = memfd_create("vmcore-frames", MFD_CLOEXEC);
    if (f->fd >= 0 && ftruncate(f->fd, (off_t)f->bytes) == 0)
        f->base =
            mmap(NULL, f->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, f->fd, 0);
    if (f->base == MAP_FAILED) {
        int rc = kvm_host_error(err, "memory for frames");
        if (f->fd >= 0)
            close(f->fd);
        free(f);
        return rc;
    }
    *out = f;
    return VMC_OK;
}

void vmc_kvm_frames_destroy(struct vmc_kvm_frames *f)
{
    if (f == NULL)
        return;
    munmap(f->base, f->bytes);
    close(f->fd);
    free(f);
}

static void discard(void *ctx, void *base, size_t bytes)
{
    const struct vmc_kvm_frames *f = ctx;

    /* Failure costs memory, nothing else. */
    (void)fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (unsigned char *)base - f->base, (off_t)bytes);
}

void vmc_kvm_frames_pool(struct vmc_kvm_frames *f, struct vmc_pool_config *cfg)
{
    cfg->frames = f->bytes / VMC_PAGE_SIZE;
    cfg->base = f->base;
    cfg->discard = discard;
    cfg->ctx = f;
}

int kvm_frames_fd(const struct vmc_kvm_frames *f)
{
    return f->fd;
}

unsigned char *kvm_frames_base(const struct vmc_kvm_frames *f)
{
    return f->base;
}
