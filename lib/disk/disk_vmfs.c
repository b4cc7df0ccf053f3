/* SPDX-License-Identifier: BSD-2-Clause */
/* The files of disks on a VMFS volume. An open file holds its lock against other hosts. */
#include "disk/disk_priv.h"
#include <vmcore/vmfs.h>

static const char site[] = SITE("vmfs");

static int path_of(const struct vmc_disk_vmfs *f, const char *name, char *path,
                   struct vmc_error *err)
{
    bool whole = name[0] == '/'; /* from the top of the volume */
    size_t n = vmci_snprintf(path, VMC_VMFS_PATH_MAX, "%s%s%s", whole ? "" : f->folder,
                             whole || vmci_streq(f->folder, "/") ? "" : "/", name);

    return n < VMC_VMFS_PATH_MAX ? VMC_OK
                                 : vmci_error(err, VMC_EINVAL, site, "%s: too long a name", name);
}

static int v_open(void *ctx, const char *name, uint32_t how, void **file, struct vmc_error *err)
{
    static const uint32_t flags[] = {[VMC_DISK_PEEK] = VMC_VMFS_READ | VMC_VMFS_NOLOCK,
                                     [VMC_DISK_READ] = VMC_VMFS_READ,
                                     [VMC_DISK_WRITE] = VMC_VMFS_READ | VMC_VMFS_WRITE};
    struct vmc_disk_vmfs *f = ctx;
    char path[VMC_VMFS_PATH_MAX];
    struct vmc_vmfs_file *h;
    int rc = path_of(f, name, path, err);

    if (rc == VMC_OK)
        rc = vmc_vmfs_open(f->volume, path, flags[how], &h, err);
    if (rc == VMC_OK)
        *file = h;
    return rc;
}

static int v_create(void *ctx, const char *name, void **file, struct vmc_error *err)
{
    struct vmc_disk_vmfs *f = ctx;
    char path[VMC_VMFS_PATH_MAX];
    int rc = path_of(f, name, path, err);

    if (rc == VMC_OK)
        rc = vmc_vmfs_create(f->volume, path, 0600, err);
    return rc == VMC_OK ? v_open(ctx, name, VMC_DISK_WRITE, file, err) : rc;
}

static int v_close(void *ctx, void *file)
{
    (void)ctx;
    return vmc_vmfs_close(file, NULL);
}

static int v_remove(void *ctx, const char *name, struct vmc_error *err)
{
    struct vmc_disk_vmfs *f = ctx;
    char path[VMC_VMFS_PATH_MAX];
    int rc = path_of(f, name, path, err);

    return rc == VMC_OK ? vmc_vmfs_remove(f->volume, path, err) : rc;
}

static int v_rename(void *ctx, const char *from, const char *to, struct vmc_error *err)
{
    struct vmc_disk_vmfs *f = ctx;
    char a[VMC_VMFS_PATH_MAX], b[VMC_VMFS_PATH_MAX];
    int rc = path_of(f, from, a, err);

    if (rc == VMC_OK)
        rc = path_of(f, to, b, err);
    return rc == VMC_OK ? vmc_vmfs_rename(f->volume, a, b, 0, err) : rc;
}

static int v_list(void *ctx, uint64_t *cookie, char *name, size_t bytes, struct vmc_error *err)
{
    struct vmc_disk_vmfs *f = ctx;
    struct vmc_vmfs_dirent e;
    int rc = vmc_vmfs_readdir(f->volume, f->folder, cookie, &e, err);

    if (rc == 1)
        vmci_snprintf(name, bytes, "%s", e.name);
    return rc;
}

static int v_size(void *ctx, void *file, uint64_t *bytes)
{
    struct vmc_vmfs_stat st;
    int rc = vmc_vmfs_fstat(file, &st, NULL);

    (void)ctx;
    *bytes = st.bytes;
    return rc;
}

static int v_read(void *ctx, void *file, void *dst, size_t bytes, uint64_t offset)
{
    int64_t n = vmc_vmfs_pread(file, dst, bytes, offset, NULL);

    (void)ctx;
    return n < 0 ? (int)n : (uint64_t)n == bytes ? VMC_OK : VMC_EIO;
}

static int v_write(void *ctx, void *file, const void *src, size_t bytes, uint64_t offset)
{
    int64_t n = vmc_vmfs_pwrite(file, src, bytes, offset, NULL);

    (void)ctx;
    return n < 0 ? (int)n : VMC_OK;
}

static int v_resize(void *ctx, void *file, uint64_t bytes)
{
    (void)ctx;
    return vmc_vmfs_truncate(file, bytes, NULL);
}

static int v_allocate(void *ctx, void *file, uint64_t offset, uint64_t bytes, uint32_t kind)
{
    (void)ctx;
    return vmc_vmfs_allocate(file, offset, bytes,
                             kind == VMC_DISK_EAGER ? VMC_VMFS_ALLOC_EAGER : VMC_VMFS_ALLOC_LAZY,
                             NULL);
}

static int v_flush(void *ctx, void *file)
{
    (void)ctx;
    return vmc_vmfs_fsync(file, NULL);
}

static int v_blockdev(void *ctx, void *file, struct vmc_blockdev *out)
{
    (void)ctx;
    return vmc_vmfs_file_blockdev(file, out, NULL);
}

static int v_next_data(void *ctx, void *file, uint64_t *offset, uint64_t *bytes)
{
    struct vmc_vmfs_extent x;
    int rc;

    (void)ctx;
    *bytes = 0;
    while ((rc = vmc_vmfs_extent(file, *offset, &x, NULL)) == VMC_OK && !x.has_data)
        *offset += x.bytes;
    if (rc == VMC_OK)
        *bytes = x.bytes;
    return rc == VMC_ENOENT ? VMC_OK : rc;
}

static int v_raw_open(void *ctx, const char *device, bool write, void **raw,
                      struct vmc_blockdev *out, struct vmc_error *err)
{
    struct vmc_disk_vmfs *f = ctx;

    if (f->raw_open == NULL)
        return vmci_error(err, VMC_ENOTSUP, site, "raw devices cannot be reached here");
    return f->raw_open(f->raw_ctx, device, write, raw, out, err);
}

static void v_raw_close(void *ctx, void *raw)
{
    struct vmc_disk_vmfs *f = ctx;

    f->raw_close(f->raw_ctx, raw);
}

static int v_raw_map(void *ctx, const char *name, const char *device, uint64_t bytes,
                     struct vmc_error *err)
{
    struct vmc_disk_vmfs *f = ctx;
    char path[VMC_VMFS_PATH_MAX];
    int rc = path_of(f, name, path, err);

    return rc == VMC_OK ? vmc_vmfs_create_rdm(f->volume, path, device, bytes, err) : rc;
}

struct vmc_disk_files vmc_disk_vmfs_files(struct vmc_disk_vmfs *folder)
{
    static const struct vmc_disk_files_ops ops = {
        .open = v_open,
        .create = v_create,
        .close = v_close,
        .remove = v_remove,
        .rename = v_rename,
        .list = v_list,
        .size = v_size,
        .read = v_read,
        .write = v_write,
        .resize = v_resize,
        .allocate = v_allocate,
        .flush = v_flush,
        .blockdev = v_blockdev,
        .next_data = v_next_data,
        .raw_open = v_raw_open,
        .raw_close = v_raw_close,
        .raw_map = v_raw_map,
    };

    return (struct vmc_disk_files){.ops = &ops, .ctx = folder};
}
