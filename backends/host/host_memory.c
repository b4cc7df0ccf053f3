/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory for guests. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vmcore/host.h>

static int fail(struct vmc_error *err, int code, size_t bytes)
{
    if (err != NULL) {
        err->code = code;
        err->host_code = errno;
        err->site = "host/guest_memory";
        snprintf(err->text, sizeof(err->text), "cannot reserve %zu MiB of guest memory: %s",
                 bytes >> 20, strerror(errno));
    }
    return code;
}

int vmc_host_guest_memory(size_t bytes, int *shared_fd, void **out, struct vmc_error *err)
{
    int fd = -1;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

    if (shared_fd != NULL) {
        fd = memfd_create("vmcore-guest", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) {
            int rc = fail(err, VMC_ENOMEM, bytes);
            if (fd >= 0)
                close(fd);
            return rc;
        }
        flags = MAP_SHARED | MAP_NORESERVE;
    }
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (p == MAP_FAILED) {
        int rc = fail(err, VMC_ENOMEM, bytes);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    madvise(p, bytes, MADV_HUGEPAGE); /* only a hint */
    madvise(p, bytes, MADV_DONTDUMP);
    if (shared_fd != NULL)
        *shared_fd = fd;
    *out = p;
    return VMC_OK;
}

void vmc_host_guest_memory_free(void *mem, size_t bytes)
{
    if (mem != NULL)
        munmap(mem, bytes);
}

int vmc_host_guest_memory_merge(void *mem, size_t bytes, bool *running, struct vmc_error *err)
{
    char c = 0;
    int fd = open("/sys/kernel/mm/ksm/run", O_RDONLY | O_CLOEXEC);

    *running = fd >= 0 && read(fd, &c, 1) == 1 && c == '1';
    if (fd >= 0)
        close(fd);
    if (madvise(mem, bytes, MADV_MERGEABLE) == 0)
        return VMC_OK;
    if (err != NULL) {
        err->code = VMC_ENOTSUP;
        err->host_code = errno;
        err->site = "host/guest_memory";
        snprintf(err->text, sizeof(err->text), "the kernel does not merge pages (CONFIG_KSM): %s",
                 strerror(errno));
    }
    return VMC_ENOTSUP;
}
