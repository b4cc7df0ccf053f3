/* SPDX-License-Identifier: BSD-2-Clause */
/* Chains: open, read through the layers, write to the top, snapshot, commit, revert, clone. */
#include "disk/disk_priv.h"

static const char site[] = SITE("chain");

#define COPY_BYTES 0x100000u

/* ---- I/O --------------------------------------------------------------------------------------- */

static int read_at(struct vmc_disk *d, uint64_t off, uint8_t *dst, uint64_t bytes)
{
    while (bytes > 0) {
        uint64_t n = bytes, at = 0;
        uint32_t i = 0;
        int rc = VMC_OK;
        for (; i + 1 < d->depth; i++) {
            uint64_t here;
            rc = vmci_disk_cowd_find(d, &d->layer[i], off, &at, &here);
            if (rc != VMC_OK)
                return rc;
            n = VMCI_MIN(n, here);
            if (at != 0)
                break;
        }
        rc = d->files.ops->read(d->files.ctx, d->layer[i].file, dst, n, at != 0 ? at : off);
        if (rc != VMC_OK)
            return rc;
        dst += n;
        off += n;
        bytes -= n;
    }
    return VMC_OK;
}

static int write_at(struct vmc_disk *d, uint64_t off, const uint8_t *src, uint64_t bytes)
{
    struct layer *l = &d->layer[0];
    uint8_t *grain = NULL;
    int rc = VMC_OK;

    if (!l->desc.sparse)
        return d->files.ops->write(d->files.ctx, l->file, src, bytes, off);
    while (bytes > 0 && rc == VMC_OK) {
        uint64_t at, n, in = off % l->grain;
        rc = vmci_disk_cowd_find(d, l, off, &at, &n);
        if (rc != VMC_OK)
            break;
        n = VMCI_MIN(n, bytes);
        if (at != 0) {
            rc = d->files.ops->write(d->files.ctx, l->file, src, n, at);
        } else {
            n = VMCI_MIN(bytes, l->grain - in);
            if (n < l->grain && grain == NULL)
                grain = vmci_zalloc(d->pf, l->grain);
            if (n < l->grain && grain == NULL)
                return VMC_ENOMEM;
            const uint8_t *whole = src;
            if (n < l->grain) { /* the rest of the grain is what the parents have */
                uint64_t start = off - in;
                rc = read_at(d, start, grain, VMCI_MIN(l->grain, d->bytes - start));
                memcpy(grain + in, src, n);
                whole = grain;
            }
            if (rc == VMC_OK)
                rc = vmci_disk_cowd_add(d, l, off, &at);
            if (rc == VMC_OK)
                rc = d->files.ops->write(d->files.ctx, l->file, whole, l->grain, at);
        }
        src += n;
        off += n;
        bytes -= n;
    }
    vmci_free(d->pf, grain, l->grain);
    return rc;
}

static int flush(struct vmc_disk *d)
{
    struct layer *l = &d->layer[0];

    if (!d->write)
        return VMC_OK;
    return l->desc.sparse ? vmci_disk_cowd_flush(d, l)
                          : d->files.ops->flush(d->files.ctx, l->file);
}

static int disk_info(void *ctx, struct vmc_block_info *out)
{
    struct vmc_disk *d = ctx;

    *out = (struct vmc_block_info){.bytes = d->bytes, .sector_bytes = SECTOR, .read_only = !d->write,
                                   .can_discard = d->write && d->layer[0].desc.thin};
    return VMC_OK;
}

static int serve(struct vmc_disk *d, struct vmc_block_req *r)
{
    uint64_t off = r->offset;
    int rc = VMC_OK;

    if (r->op == VMC_BLOCK_FLUSH)
        return flush(d);
    if (!vmci_range_ok(r->offset, r->bytes, d->bytes))
        return VMC_ERANGE;
    if (r->op != VMC_BLOCK_READ && !d->write)
        return VMC_EPERM;
    if (r->op == VMC_BLOCK_DISCARD)
        return VMC_OK; /* a redo log keeps what it has */
    if (r->op == VMC_BLOCK_WRITE_ZEROES)
        return VMC_ENOTSUP;
    for (uint32_t i = 0; i < r->iov_count && rc == VMC_OK; i++) {
        rc = r->op == VMC_BLOCK_READ ? read_at(d, off, r->iov[i].base, r->iov[i].bytes)
                                     : write_at(d, off, r->iov[i].base, r->iov[i].bytes);
        off += r->iov[i].bytes;
    }
    return rc;
}

static int disk_submit(void *ctx, struct vmc_block_req *r)
{
    struct vmc_disk *d = ctx;

    vmci_lock(&d->lock);
    r->status = serve(d, r);
    vmci_unlock(&d->lock);
    return VMC_BLOCK_COMPLETE;
}

static const struct vmc_blockdev_ops disk_ops = {.info = disk_info, .submit = disk_submit};

struct vmc_blockdev vmc_disk_blockdev(struct vmc_disk *d)
{
    /* A disk without snapshots is its flat file: nothing stands in between. */
    if (d->depth == 1 && d->layer[0].flat.ops != NULL)
        return d->layer[0].flat;
    return (struct vmc_blockdev){.ops = &disk_ops, .ctx = d};
}

uint32_t vmc_disk_depth(const struct vmc_disk *d)
{
    return d->depth;
}

/* ---- open and close ------------------------------------------------------------------------------ */

static int add_layer(struct vmc_disk *d, const char *name, struct vmc_error *err)
{
    struct layer *l = &d->layer[d->depth];
    bool write = d->write && d->depth == 0;
    uint64_t size;
    int rc = vmci_disk_desc_read(d->pf, &d->files, name, &l->desc, err);

    if (rc == VMC_OK)
        rc = d->files.ops->open(d->files.ctx, l->desc.extent, write, &l->file, err);
    if (rc != VMC_OK)
        return rc;
    d->depth++;
    if (d->depth > 1 && l->desc.sectors != d->layer[0].desc.sectors)
        return vmci_error(err, VMC_EFORMAT, site, "%s has %llu sectors, its child %llu", name,
                          (unsigned long long)l->desc.sectors,
                          (unsigned long long)d->layer[0].desc.sectors);
    if (d->depth > 1 && l->desc.cid != d->layer[d->depth - 2].desc.parent_cid)
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s was changed since its snapshot (content id %08x, expected %08x)", name,
                          l->desc.cid, d->layer[d->depth - 2].desc.parent_cid);
    if (l->desc.sparse)
        return vmci_disk_cowd_open(d, l, err);
    rc = d->files.ops->size(d->files.ctx, l->file, &size);
    if (rc == VMC_OK && size < l->desc.sectors * SECTOR)
        rc = vmci_error(err, VMC_EFORMAT, site, "%s has %llu bytes, %llu sectors are described",
                        l->desc.extent, (unsigned long long)size, (unsigned long long)l->desc.sectors);
    if (rc == VMC_OK && d->files.ops->blockdev != NULL)
        rc = d->files.ops->blockdev(d->files.ctx, l->file, &l->flat);
    return rc;
}

int vmc_disk_close(struct vmc_disk *d)
{
    int rc = d->depth > 0 ? flush(d) : VMC_OK;

    for (uint32_t i = 0; i < d->depth; i++) {
        if (d->layer[i].desc.sparse)
            vmci_disk_cowd_close(d, &d->layer[i]);
        int rc2 = d->files.ops->close(d->files.ctx, d->layer[i].file);
        rc = rc != VMC_OK ? rc : rc2;
    }
    vmci_lock_fini(&d->lock);
    vmci_free(d->pf, d, sizeof(*d));
    return rc;
}

int vmc_disk_open(const struct vmc_platform *pf, const struct vmc_disk_files *files, const char *name,
                  bool write, struct vmc_disk **out, struct vmc_error *err)
{
    struct vmc_disk *d = vmci_zalloc(pf, sizeof(*d));
    char next[DISK_NAME];

    if (d == NULL || vmci_lock_init(&d->lock, pf) != VMC_OK) {
        vmci_free(pf, d, sizeof(*d));
        return vmci_error(err, VMC_ENOMEM, site, "no memory for a disk");
    }
    d->pf = pf;
    d->files = *files;
    d->write = write;
    int rc = add_layer(d, name, err);
    while (rc == VMC_OK && d->layer[d->depth - 1].desc.sparse) {
        if (d->depth == DISK_DEPTH) {
            rc = vmci_error(err, VMC_ELIMIT, site, "more than %u snapshots, or a loop of them",
                            DISK_DEPTH - 1);
            break;
        }
        memcpy(next, d->layer[d->depth - 1].desc.parent, DISK_NAME);
        rc = add_layer(d, next, err);
    }
    if (rc != VMC_OK) {
        d->write = false; /* nothing to be flushed */
        (void)vmc_disk_close(d); /* already failing */
        return rc;
    }
    d->bytes = d->layer[0].desc.sectors * SECTOR;
    *out = d;
    return VMC_OK;
}

/* ---- making ---------------------------------------------------------------------------------------- */

static uint32_t new_cid(const struct vmc_platform *pf)
{
    uint32_t cid = (uint32_t)pf->now_ns(pf->ctx);

    if (vmci_pf_has(pf, entropy) && pf->entropy->fill(pf->ctx, &cid, sizeof(cid)) != VMC_OK)
        cid ^= 0x5a5a5a5a; /* an id that tells contents apart, no secret */
    return cid >= UINT32_MAX - 1 ? 1 : cid;
}

int vmc_disk_create(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                    const char *name, uint64_t bytes, uint32_t kind, struct vmc_error *err)
{
    struct descriptor d = {.sectors = bytes / SECTOR, .cid = new_cid(pf), .parent_cid = UINT32_MAX,
                           .thin = kind == VMC_DISK_THIN};
    void *file;
    int rc = vmci_disk_extent_name(name, "-flat", d.extent, err);

    if (rc == VMC_OK && (bytes == 0 || bytes % SECTOR != 0 || kind < VMC_DISK_THIN || kind > VMC_DISK_EAGER))
        rc = vmci_error(err, VMC_EINVAL, site, "a disk of %llu bytes, kind %u",
                        (unsigned long long)bytes, kind);
    if (rc == VMC_OK)
        rc = files->ops->create(files->ctx, d.extent, &file, err);
    if (rc != VMC_OK)
        return rc;
    rc = files->ops->resize(files->ctx, file, bytes);
    if (rc == VMC_OK && kind != VMC_DISK_THIN)
        rc = files->ops->allocate(files->ctx, file, 0, bytes, kind);
    int rc2 = files->ops->close(files->ctx, file);
    rc = rc != VMC_OK ? rc : rc2;
    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "%s cannot be given its size", d.extent);
    return vmci_disk_desc_write(pf, files, name, &d, err);
}

static int make_log(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                    const char *extent, uint64_t sectors, struct vmc_error *err)
{
    void *file;
    int rc = files->ops->create(files->ctx, extent, &file, err);

    if (rc != VMC_OK)
        return rc;
    rc = vmci_disk_cowd_make(pf, files, file, sectors, err);
    int rc2 = files->ops->close(files->ctx, file);
    return rc != VMC_OK ? rc : rc2;
}

int vmc_disk_snapshot(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                      const char *parent, const char *child, struct vmc_error *err)
{
    struct descriptor p, c;
    int rc = vmci_disk_desc_read(pf, files, parent, &p, err);

    if (rc != VMC_OK)
        return rc;
    c = (struct descriptor){.sectors = p.sectors, .cid = p.cid, .parent_cid = p.cid, .sparse = true};
    if (vmci_strlen(parent) >= DISK_NAME)
        return vmci_error(err, VMC_EINVAL, site, "%s: too long a name", parent);
    memcpy(c.parent, parent, vmci_strlen(parent));
    rc = vmci_disk_extent_name(child, "-delta", c.extent, err);
    if (rc == VMC_OK)
        rc = make_log(pf, files, c.extent, c.sectors, err);
    return rc == VMC_OK ? vmci_disk_desc_write(pf, files, child, &c, err) : rc;
}

int vmc_disk_revert(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                    const char *child, struct vmc_error *err)
{
    struct descriptor d;
    int rc = vmci_disk_desc_read(pf, files, child, &d, err);

    if (rc == VMC_OK && !d.sparse)
        rc = vmci_error(err, VMC_EINVAL, site, "%s is no snapshot", child);
    if (rc == VMC_OK)
        rc = files->ops->remove(files->ctx, d.extent, err);
    return rc == VMC_OK ? make_log(pf, files, d.extent, d.sectors, err) : rc;
}

/* Copy what layer 0 of from has, or everything, to a writable disk. */
static int copy(struct vmc_disk *from, struct vmc_disk *to, bool top_only)
{
    uint8_t *buf = vmci_alloc_aligned(from->pf, COPY_BYTES, 4096);
    int rc = buf == NULL ? VMC_ENOMEM : VMC_OK;

    for (uint64_t off = 0; off < from->bytes && rc == VMC_OK;) {
        uint64_t n = VMCI_MIN(from->bytes - off, COPY_BYTES), at = 1, here;
        bool zero = true;
        if (top_only) {
            rc = vmci_disk_cowd_find(from, &from->layer[0], off, &at, &here);
            n = VMCI_MIN(at != 0 ? n : from->bytes - off, here);
        }
        if (rc == VMC_OK && at != 0) {
            rc = read_at(from, off, buf, n);
            for (uint64_t i = 0; i < n && zero; i++)
                zero = buf[i] == 0;
            if (rc == VMC_OK && (top_only || !zero))
                rc = write_at(to, off, buf, n);
        }
        off += n;
    }
    vmci_free_aligned(from->pf, buf, COPY_BYTES, 4096);
    return rc;
}

int vmc_disk_commit(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                    const char *child, struct vmc_error *err)
{
    struct descriptor d;
    struct vmc_disk *from, *to;
    int rc = vmci_disk_desc_read(pf, files, child, &d, err);

    if (rc == VMC_OK && !d.sparse)
        rc = vmci_error(err, VMC_EINVAL, site, "%s is no snapshot", child);
    if (rc == VMC_OK)
        rc = vmc_disk_open(pf, files, d.parent, true, &to, err);
    if (rc != VMC_OK)
        return rc;
    /* The child alone: its parents are open for writing already. */
    from = vmci_zalloc(pf, sizeof(*from));
    if (from == NULL) {
        rc = vmci_error(err, VMC_ENOMEM, site, "no memory");
    } else {
        from->pf = pf;
        from->files = *files;
        from->bytes = d.sectors * SECTOR;
        rc = add_layer(from, child, err);
        from->depth = rc == VMC_OK ? 2 : from->depth; /* so that layer 0 is looked at as a log */
        if (rc == VMC_OK && (rc = copy(from, to, true)) != VMC_OK)
            vmci_error(err, rc, site, "%s cannot be written into %s", child, d.parent);
        from->depth = from->depth > 1 ? 1 : from->depth;
        int rc2 = vmc_disk_close(from);
        rc = rc != VMC_OK ? rc : rc2;
    }
    int rc2 = vmc_disk_close(to);
    rc = rc != VMC_OK ? rc : rc2;
    return rc == VMC_OK ? vmc_disk_revert(pf, files, child, err) : rc;
}

int vmc_disk_clone(const struct vmc_platform *pf, const struct vmc_disk_files *files, const char *from,
                   const char *to, struct vmc_error *err)
{
    struct vmc_disk *a, *b;
    int rc = vmc_disk_open(pf, files, from, false, &a, err);

    if (rc != VMC_OK)
        return rc;
    rc = vmc_disk_create(pf, files, to, a->bytes, VMC_DISK_THIN, err);
    if (rc == VMC_OK)
        rc = vmc_disk_open(pf, files, to, true, &b, err);
    if (rc == VMC_OK) {
        rc = copy(a, b, false);
        int rc2 = vmc_disk_close(b);
        rc = rc != VMC_OK ? rc : rc2;
        if (rc != VMC_OK)
            vmci_error(err, rc, site, "%s cannot be copied", from);
    }
    int rc2 = vmc_disk_close(a);
    return rc != VMC_OK ? rc : rc2;
}
