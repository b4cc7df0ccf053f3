/* SPDX-License-Identifier: BSD-2-Clause */
/* What makes, changes and removes whole disks: create, snapshot, commit, revert, clone, grow. */
#include "disk/disk_priv.h"

static const char site[] = SITE("make");

#define COPY_BYTES 0x100000u

static void tell(const struct vmc_disk_progress *p, uint64_t done, uint64_t total)
{
    if (p != NULL && p->report != NULL)
        p->report(p->ctx, done, total);
}

static bool exists(const struct vmc_disk_files *files, const char *name)
{
    void *file;

    if (files->ops->open(files->ctx, name, VMC_DISK_PEEK, &file, NULL) != VMC_OK)
        return false;
    (void)files->ops->close(files->ctx, file); /* only looked at */
    return true;
}

/*
 * An extent without a descriptor is what an interruption leaves; but it may also be a disk whose
 * descriptor was lost, so nothing here removes it.
 */
static int must_be_new(const struct vmc_disk_files *files, const char *name, const char *extent,
                       struct vmc_error *err)
{
    if (exists(files, name))
        return vmci_error(err, VMC_EEXIST, site, "%s exists", name);
    if (exists(files, extent))
        return vmci_error(
            err, VMC_EEXIST, site,
            "%s is there without its descriptor %s: an interrupted operation left it, "
            "or the descriptor was lost; move or remove it first",
            extent, name);
    return VMC_OK;
}

/* ---- new disks ---------------------------------------------------------------------------------
 */

static int give_size(const struct vmc_disk_files *files, void *file, uint64_t bytes, uint32_t kind)
{
    int rc = files->ops->resize(files->ctx, file, bytes);

    if (rc == VMC_OK && kind != VMC_DISK_THIN)
        rc = files->ops->allocate(files->ctx, file, 0, bytes, kind);
    return rc;
}

int vmc_disk_create(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                    const char *name, uint64_t bytes, uint32_t kind, struct vmc_error *err)
{
    struct descriptor d = {.sectors = bytes / SECTOR,
                           .cid = vmci_disk_new_cid(pf),
                           .parent_cid = UINT32_MAX,
                           .format = VMC_DISK_FLAT,
                           .thin = kind == VMC_DISK_THIN};
    void *file;
    int rc = vmci_disk_extent_name(name, "-flat", d.extent, err);

    if (rc == VMC_OK && (bytes == 0 || bytes % SECTOR != 0 || bytes > 1ull << 46))
        rc = vmci_error(err, VMC_EINVAL, site,
                        "%s: a size of %llu bytes; whole sectors of %u bytes up to 64 TiB are possible",
                        name, (unsigned long long)bytes, (unsigned)SECTOR);
    if (rc == VMC_OK && (kind < VMC_DISK_THIN || kind > VMC_DISK_EAGER))
        rc = vmci_error(err, VMC_EINVAL, site, "%s: no kind of disk is %u", name, kind);
    if (rc == VMC_OK)
        rc = must_be_new(files, name, d.extent, err);
    if (rc == VMC_OK)
        rc = files->ops->create(files->ctx, d.extent, &file, err);
    if (rc != VMC_OK)
        return rc;
    rc = give_size(files, file, bytes, kind);
    int rc2 = files->ops->close(files->ctx, file);
    rc = rc != VMC_OK ? rc : rc2;
    if (rc != VMC_OK)
        vmci_error(err, rc, site, "%s cannot be given its size: %s", d.extent, vmc_strerror(rc));
    else
        rc = vmci_disk_desc_write(pf, files, name, &d, false, err);
    if (rc != VMC_OK)
        (void)files->ops->remove(files->ctx, d.extent, NULL); /* already failing */
    return rc;
}

int vmc_disk_map_raw(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                     const char *name, const char *device, bool physical, struct vmc_error *err)
{
    struct descriptor d = {.cid = vmci_disk_new_cid(pf),
                           .parent_cid = UINT32_MAX,
                           .format = physical ? VMC_DISK_RDM_PHYSICAL : VMC_DISK_RDM};
    struct vmc_blockdev bd;
    struct vmc_block_info info;
    void *raw;
    int rc = vmci_disk_extent_name(name, physical ? "-rdmp" : "-rdm", d.extent, err);

    if (rc != VMC_OK)
        return rc;
    if (files->ops->raw_open == NULL || files->ops->raw_map == NULL)
        return vmci_error(err, VMC_ENOTSUP, site, "raw devices cannot be mapped here");
    if (vmci_snprintf(d.device, sizeof(d.device), "%s", device) >= sizeof(d.device))
        return vmci_error(err, VMC_EINVAL, site, "%s: too long a name", device);
    rc = files->ops->raw_open(files->ctx, device, false, &raw, &bd, err);
    if (rc != VMC_OK)
        return rc;
    rc = bd.ops->info(bd.ctx, &info);
    files->ops->raw_close(files->ctx, raw);
    if (rc != VMC_OK || info.bytes < SECTOR)
        return vmci_error(err, rc != VMC_OK ? rc : VMC_EINVAL, site, "%s has no size", device);
    d.sectors = info.bytes / SECTOR;
    rc = files->ops->raw_map(files->ctx, d.extent, device, d.sectors * SECTOR, err);
    if (rc == VMC_OK)
        rc = vmci_disk_desc_write(pf, files, name, &d, false, err);
    return rc;
}

/* ---- snapshots ---------------------------------------------------------------------------------
 */

int vmci_disk_make_log(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                       const char *extent, const struct descriptor *d, struct vmc_error *err)
{
    void *file;
    int rc = files->ops->create(files->ctx, extent, &file, err);

    if (rc != VMC_OK)
        return rc;
    rc = d->format == VMC_DISK_COWD ? vmci_disk_cowd_make(pf, files, file, d->sectors, err)
                                    : vmci_disk_sesparse_make(pf, files, file, d->sectors, err);
    int rc2 = files->ops->close(files->ctx, file);
    return rc != VMC_OK ? rc : rc2;
}

int vmc_disk_snapshot(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                      const char *parent, const char *child, uint32_t format, struct vmc_error *err)
{
    struct descriptor c;
    struct vmc_disk *p;
    /* Opened: a disk that is in use, or broken, gets no snapshot. */
    int rc = vmci_disk_open(pf, files, parent, 0, &p, err);

    if (rc != VMC_OK)
        return rc;
    c = (struct descriptor){.sectors = p->layer[0].desc.sectors,
                            .cid = p->layer[0].desc.cid,
                            .parent_cid = p->layer[0].desc.cid,
                            .format = format};
    uint32_t depth = p->depth;
    bool physical = p->layer[depth - 1].desc.format == VMC_DISK_RDM_PHYSICAL;
    rc = vmc_disk_close(p);
    if (rc == VMC_OK && depth == DISK_DEPTH)
        rc = vmci_error(err, VMC_ELIMIT, site, "a chain has at most %u snapshots", DISK_DEPTH - 1);
    if (rc == VMC_OK && physical)
        rc = vmci_error(err, VMC_ENOTSUP, site, "a physical raw device mapping has no snapshots");
    if (format == 0)
        c.format = c.sectors <= UINT32_MAX ? VMC_DISK_COWD : VMC_DISK_SESPARSE;
    if (rc == VMC_OK && c.format != VMC_DISK_COWD && c.format != VMC_DISK_SESPARSE)
        rc = vmci_error(err, VMC_EINVAL, site, "%u is no format of redo logs", format);
    if (rc != VMC_OK)
        return rc;
    vmci_snprintf(c.parent, sizeof(c.parent), "%s", parent);
    c.parent_path[0] = '\0';
    rc = vmci_disk_extent_name(child, c.format == VMC_DISK_COWD ? "-delta" : "-sesparse", c.extent,
                               err);
    if (rc == VMC_OK)
        rc = must_be_new(files, child, c.extent, err);
    if (rc == VMC_OK)
        rc = vmci_disk_make_log(pf, files, c.extent, &c, err);
    if (rc != VMC_OK)
        return rc;
    rc = vmci_disk_desc_write(pf, files, child, &c, false, err);
    if (rc != VMC_OK)
        (void)files->ops->remove(files->ctx, c.extent, NULL); /* already failing */
    return rc;
}

static int read_log(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                    const char *child, struct descriptor *d, struct vmc_error *err)
{
    int rc = vmci_disk_desc_read(pf, files, child, d, err);

    if (rc == VMC_OK && !vmci_disk_is_log(d))
        rc = vmci_error(err, VMC_EINVAL, site, "%s is no snapshot", child);
    return rc;
}

/* An empty log takes the old one's place in one step. */
static int empty_log(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                     const struct descriptor *d, struct vmc_error *err)
{
    char temp[DISK_NAME + 8];
    void *file;

    /* Locked once for writing: it is not in use. */
    int rc = files->ops->open(files->ctx, d->extent, VMC_DISK_WRITE, &file, err);
    if (rc == VMC_OK)
        rc = files->ops->close(files->ctx, file);
    if (rc != VMC_OK)
        return rc;
    vmci_snprintf(temp, sizeof(temp), "%s.new", d->extent);
    (void)files->ops->remove(files->ctx, temp, NULL); /* left by a crash */
    rc = vmci_disk_make_log(pf, files, temp, d, err);
    return rc == VMC_OK ? files->ops->rename(files->ctx, temp, d->extent, err) : rc;
}

int vmc_disk_revert(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                    const char *child, struct vmc_error *err)
{
    struct descriptor d;
    int rc = read_log(pf, files, child, &d, err);

    if (rc == VMC_OK)
        rc = vmci_disk_no_children(pf, files, child, NULL, err);
    return rc == VMC_OK ? empty_log(pf, files, &d, err) : rc;
}

/* ---- copies ------------------------------------------------------------------------------------
 */

static bool all_zero(const uint8_t *p, uint64_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* Copy what from holds to a writable disk. */
static int copy(struct vmc_disk *from, struct vmc_disk *to,
                const struct vmc_disk_progress *progress)
{
    uint8_t *buf = vmci_alloc_aligned(from->pf, COPY_BYTES, 4096);
    int rc = buf == NULL ? VMC_ENOMEM : VMC_OK;

    for (uint64_t off = 0; off < from->bytes && rc == VMC_OK;) {
        uint64_t at, n;
        rc = vmci_disk_extent(from, off, &at, &n);
        if (rc != VMC_OK)
            break;
        if (at > AT_ZERO) {
            n = VMCI_MIN(n, COPY_BYTES - off % COPY_BYTES);
            rc = vmci_disk_read(from, off, buf, n);
            if (rc == VMC_OK)
                rc = vmci_disk_write(to, off, buf, n);
        } else if (at == AT_ZERO) {
            rc = vmci_disk_zero(to, off, n);
        }
        off += n;
        tell(progress, off, from->bytes);
    }
    vmci_free_aligned(from->pf, buf, COPY_BYTES, 4096);
    return rc;
}

int vmci_disk_copy_out(struct vmc_disk *from, const struct vmc_disk_files *to, void *file,
                       const struct vmc_disk_progress *progress)
{
    uint8_t *buf = vmci_alloc_aligned(from->pf, COPY_BYTES, 4096);
    int rc = buf == NULL ? VMC_ENOMEM : VMC_OK;

    for (uint64_t off = 0; off < from->bytes && rc == VMC_OK;) {
        uint64_t at, n;
        rc = vmci_disk_extent(from, off, &at, &n);
        if (rc == VMC_OK && at > AT_ZERO) {
            n = VMCI_MIN(n, COPY_BYTES - off % COPY_BYTES);
            rc = vmci_disk_read(from, off, buf, n);
            if (rc == VMC_OK && !all_zero(buf, n))
                rc = to->ops->write(to->ctx, file, buf, n, off);
        }
        off += n;
        tell(progress, off, from->bytes);
    }
    vmci_free_aligned(from->pf, buf, COPY_BYTES, 4096);
    return rc == VMC_OK ? to->ops->flush(to->ctx, file) : rc;
}

int vmc_disk_commit(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                    const char *child, const struct vmc_disk_progress *progress,
                    struct vmc_error *err)
{
    struct descriptor d;
    struct vmc_disk *from = NULL, *to;
    int rc = read_log(pf, files, child, &d, err);

    /* Others over the same parent would see its contents change; those over child do not. */
    if (rc == VMC_OK)
        rc = vmci_disk_no_children(pf, files, d.parent, child, err);
    /* The whole chain once, so that nothing is written into a broken one. */
    if (rc == VMC_OK)
        rc = vmci_disk_open(pf, files, child, 0, &from, err);
    if (rc == VMC_OK && vmci_disk_parent_elsewhere(from))
        rc = vmci_error(err, VMC_ENOTSUP, site,
                        "%s lies in another folder: who else was made over it is not known",
                        from->layer[1].name);
    if (rc == VMC_OK || from != NULL) {
        int rc2 = vmc_disk_close(from);
        rc = rc != VMC_OK ? rc : rc2;
    }
    if (rc != VMC_OK)
        return rc;
    /* The parent keeps its content id: until the log is empty, child shows the same contents. */
    rc = vmci_disk_open(pf, files, d.parent, OPEN_WRITE | OPEN_SHARED, &to, err);
    if (rc != VMC_OK)
        return rc;
    rc = vmci_disk_open(pf, files, child, OPEN_ALONE, &from, err);
    if (rc == VMC_OK) {
        rc = copy(from, to, progress);
        if (rc != VMC_OK)
            vmci_error(err, rc, site, "%s cannot be written into %s: %s", child, d.parent,
                       vmc_strerror(rc));
        int rc2 = vmc_disk_close(from);
        rc = rc != VMC_OK ? rc : rc2;
    }
    int rc2 = vmc_disk_close(to);
    if (rc == VMC_OK && rc2 != VMC_OK)
        rc = vmci_error(err, rc2, site, "%s cannot be made durable", d.parent);
    return rc == VMC_OK ? empty_log(pf, files, &d, err) : rc;
}

/*
 * The copy gets its name when it is whole, and its descriptor last: what an interruption leaves is
 * never taken for a disk.
 */
static int clone_to(struct vmc_disk *from, const struct vmc_disk_files *files, const char *name,
                    uint32_t kind, const struct vmc_disk_progress *progress, struct vmc_error *err)
{
    struct descriptor d = {.sectors = from->bytes / SECTOR,
                           .cid = vmci_disk_new_cid(from->pf),
                           .parent_cid = UINT32_MAX,
                           .format = VMC_DISK_FLAT,
                           .thin = kind == VMC_DISK_THIN};
    char temp[DISK_NAME + 8];
    void *file;
    int rc = vmci_disk_extent_name(name, "-flat", d.extent, err);

    if (rc == VMC_OK && (kind < VMC_DISK_THIN || kind > VMC_DISK_EAGER))
        rc = vmci_error(err, VMC_EINVAL, site, "%u is no kind of disk", kind);
    if (rc == VMC_OK)
        rc = must_be_new(files, name, d.extent, err);
    if (rc != VMC_OK)
        return rc;
    vmci_snprintf(temp, sizeof(temp), "%s.new", d.extent);
    (void)files->ops->remove(files->ctx, temp, NULL); /* left by a crash */
    rc = files->ops->create(files->ctx, temp, &file, err);
    if (rc != VMC_OK)
        return rc;
    rc = give_size(files, file, from->bytes, kind);
    if (rc == VMC_OK)
        rc = vmci_disk_copy_out(from, files, file, progress);
    int rc2 = files->ops->close(files->ctx, file);
    rc = rc != VMC_OK ? rc : rc2;
    if (rc != VMC_OK)
        vmci_error(err, rc, site, "%s cannot be copied: %s", from->layer[0].name, vmc_strerror(rc));
    else
        rc = files->ops->rename(files->ctx, temp, d.extent, err);
    if (rc != VMC_OK) {
        (void)files->ops->remove(files->ctx, temp, NULL); /* already failing */
        return rc;
    }
    rc = vmci_disk_desc_write(from->pf, files, name, &d, false, err);
    if (rc != VMC_OK)
        (void)files->ops->remove(files->ctx, d.extent, NULL); /* already failing */
    return rc;
}

int vmc_disk_clone(const struct vmc_platform *pf, const struct vmc_disk_files *from_files,
                   const char *from, const struct vmc_disk_files *to_files, const char *to,
                   uint32_t kind, const struct vmc_disk_progress *progress, struct vmc_error *err)
{
    struct vmc_disk *d;
    int rc = vmci_disk_open(pf, from_files, from, 0, &d, err);

    if (rc != VMC_OK)
        return rc;
    rc = clone_to(d, to_files, to, kind, progress, err);
    int rc2 = vmc_disk_close(d);
    return rc != VMC_OK ? rc : rc2;
}

/* ---- size and end ------------------------------------------------------------------------------
 */

int vmc_disk_grow(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                  const char *name, uint64_t bytes, struct vmc_error *err)
{
    struct descriptor d;
    uint64_t size;
    void *file;
    int rc = vmci_disk_desc_read(pf, files, name, &d, err);

    if (rc == VMC_OK && d.format != VMC_DISK_FLAT)
        rc = vmci_error(err, VMC_EINVAL, site, "%s is %s and cannot grow", name,
                        vmci_disk_is_log(&d)          ? "a snapshot"
                        : d.format == VMC_DISK_PACKED ? "packed"
                                                      : "a mapping");
    if (rc == VMC_OK && (bytes % SECTOR != 0 || bytes > 1ull << 46 || bytes < d.sectors * SECTOR))
        rc = vmci_error(err, VMC_EINVAL, site, "%s has %llu bytes and cannot get %llu", name,
                        (unsigned long long)d.sectors * SECTOR, (unsigned long long)bytes);
    if (rc == VMC_OK)
        rc = vmci_disk_no_children(pf, files, name, NULL, err);
    if (rc == VMC_OK)
        rc = files->ops->open(files->ctx, d.extent, VMC_DISK_WRITE, &file, err);
    if (rc != VMC_OK)
        return rc;
    rc = files->ops->size(files->ctx, file, &size);
    if (rc == VMC_OK && size < bytes)
        rc = files->ops->resize(files->ctx, file, bytes);
    if (rc == VMC_OK && !d.thin && bytes > d.sectors * SECTOR)
        rc = files->ops->allocate(files->ctx, file, d.sectors * SECTOR, bytes - d.sectors * SECTOR,
                                  VMC_DISK_LAZY);
    if (rc == VMC_OK)
        rc = files->ops->flush(files->ctx, file);
    if (rc != VMC_OK) {
        vmci_error(err, rc, site, "%s cannot grow: %s", d.extent, vmc_strerror(rc));
    } else {
        d.sectors = bytes / SECTOR;
        d.cid = vmci_disk_new_cid(pf);
        rc = vmci_disk_desc_write(pf, files, name, &d, true, err);
    }
    int rc2 = files->ops->close(files->ctx, file);
    return rc != VMC_OK ? rc : rc2;
}

int vmc_disk_remove(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                    const char *name, struct vmc_error *err)
{
    struct descriptor d, cold;
    int rc = vmci_disk_desc_read(pf, files, name, &d, err);

    if (rc == VMC_OK)
        rc = vmci_disk_no_children(pf, files, name, NULL, err);
    if (rc == VMC_OK)
        vmci_disk_remove_leftovers(pf, files, name, &d);
    if (rc == VMC_OK)
        rc = files->ops->remove(files->ctx, d.extent, err);
    if (rc == VMC_ENOENT) /* interrupted before */
        rc = VMC_OK;
    if (rc == VMC_OK)
        rc = files->ops->remove(files->ctx, name, err);
    /* The cold part of a compressed disk has no other use. */
    if (rc == VMC_OK && vmci_disk_is_log(&d) && d.parent_path[0] == '\0' &&
        vmci_disk_desc_read(pf, files, d.parent, &cold, NULL) == VMC_OK &&
        cold.format == VMC_DISK_PACKED &&
        vmci_disk_no_children(pf, files, d.parent, NULL, NULL) == VMC_OK) {
        rc = files->ops->remove(files->ctx, cold.extent, err);
        if (rc == VMC_OK)
            rc = files->ops->remove(files->ctx, d.parent, err);
    }
    return rc;
}
