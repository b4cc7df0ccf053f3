/* SPDX-License-Identifier: BSD-2-Clause */
/* Chains: open, read through the layers, write to the top. */
#include "disk/disk_priv.h"

static const char site[] = SITE("chain");

/* ---- the bottom: a flat file or a raw device ---------------------------------------------------
 */

struct wait {
    const struct vmc_platform *pf;
    uint32_t done;
};

static void wait_done(struct vmc_block_req *req)
{
    struct wait *w = req->opaque;
    const struct vmc_platform *pf = w->pf;

    vmci_store_release(&w->done, 1);
    /* w may be gone from here on: wake only uses the address. */
    if (vmci_pf_has(pf, sync))
        pf->sync->wake(pf->ctx, &w->done);
}

static int device_io(const struct vmc_platform *pf, const struct vmc_blockdev *bd, uint32_t op,
                     uint64_t off, void *buf, uint64_t bytes)
{
    struct vmc_iovec iov = {.base = buf, .bytes = bytes};
    struct wait w = {.pf = pf};
    struct vmc_block_req req = {.op = op,
                                .flags = VMC_BLOCK_WAITED,
                                .offset = off,
                                .bytes = bytes,
                                .iov = &iov,
                                .iov_count = buf != NULL,
                                .done = wait_done,
                                .opaque = &w};

    if (bd->ops->submit(bd->ctx, &req) == VMC_BLOCK_COMPLETE)
        return req.status;
    if (bd->ops->kick != NULL)
        bd->ops->kick(bd->ctx);
    while (!vmci_load_acquire(&w.done)) {
        if (bd->ops->poll != NULL)
            bd->ops->poll(bd->ctx);
        else if (vmci_pf_has(pf, sync))
            pf->sync->park(pf->ctx, &w.done, 0, UINT64_MAX);
        else
            __builtin_ia32_pause();
    }
    return req.status;
}

/* Devices take whole sectors; a request has whole ones too, but in pieces of any length. */
static int read_flat(struct vmc_disk *d, struct layer *l, uint64_t off, uint8_t *dst, uint64_t bytes)
{
    uint8_t sector[SECTOR] = {0};
    int rc = VMC_OK;

    while (bytes > 0 && rc == VMC_OK) {
        uint64_t in = off % SECTOR, n = bytes - bytes % SECTOR;
        if (in == 0 && n > 0) {
            rc = device_io(d->pf, &l->flat, VMC_BLOCK_READ, off, dst, n);
        } else {
            n = VMCI_MIN(bytes, SECTOR - in);
            rc = device_io(d->pf, &l->flat, VMC_BLOCK_READ, off - in, sector, SECTOR);
            memcpy(dst, sector + in, n);
        }
        dst += n;
        off += n;
        bytes -= n;
    }
    return rc;
}

static int bottom_io(struct vmc_disk *d, struct layer *l, bool write, uint64_t off, uint8_t *buf,
                     uint64_t bytes)
{
    if (l->flat.ops != NULL && !write)
        return read_flat(d, l, off, buf, bytes);
    if (l->flat.ops != NULL)
        return device_io(d->pf, &l->flat, VMC_BLOCK_WRITE, off, buf, bytes);
    return write ? d->files.ops->write(d->files.ctx, l->file, buf, bytes, off)
                 : d->files.ops->read(d->files.ctx, l->file, buf, bytes, off);
}

/* ---- I/O ---------------------------------------------------------------------------------------
 */

/* The layer that has what is at off, and for how long; *in d->depth: none. */
static int locate(struct vmc_disk *d, uint64_t off, uint32_t *in, uint64_t *at, uint64_t *bytes)
{
    uint64_t here;
    uint32_t i = 0;

    for (; i < d->depth && vmci_disk_is_log(&d->layer[i].desc); i++) {
        int rc = vmci_disk_log_find(d, &d->layer[i], off, at, &here);
        if (rc != VMC_OK)
            return rc;
        *bytes = VMCI_MIN(*bytes, here);
        if (*at != AT_NONE)
            break;
    }
    *in = i;
    return VMC_OK;
}

int vmci_disk_read(struct vmc_disk *d, uint64_t off, uint8_t *dst, uint64_t bytes)
{
    while (bytes > 0) {
        uint64_t n = bytes, at = AT_NONE;
        uint32_t in;
        int rc = locate(d, off, &in, &at, &n);
        if (rc != VMC_OK)
            return rc;
        if (in == d->depth || at == AT_ZERO)
            memset(dst, 0, n);
        else if (vmci_disk_is_log(&d->layer[in].desc))
            rc = d->files.ops->read(d->files.ctx, d->layer[in].file, dst, n, at);
        else if (d->layer[in].packed != NULL)
            rc = vmci_disk_packed_read(d, &d->layer[in], off, dst, n);
        else
            rc = bottom_io(d, &d->layer[in], false, off, dst, n);
        if (rc != VMC_OK)
            return rc;
        dst += n;
        off += n;
        bytes -= n;
    }
    return VMC_OK;
}

int vmci_disk_extent(struct vmc_disk *d, uint64_t off, uint64_t *at, uint64_t *bytes)
{
    uint64_t data = off, here = 0;
    uint32_t in;

    *bytes = d->bytes - off;
    *at = AT_NONE;
    int rc = locate(d, off, &in, at, bytes);
    if (rc != VMC_OK || in == d->depth || vmci_disk_is_log(&d->layer[in].desc))
        return rc;
    if (d->layer[in].packed != NULL)
        return vmci_disk_packed_extent(d, &d->layer[in], off, at, bytes);
    *at = AT_ZERO + 1;
    if (d->files.ops->next_data == NULL || vmci_disk_is_rdm(&d->layer[in].desc))
        return VMC_OK;
    rc = d->files.ops->next_data(d->files.ctx, d->layer[in].file, &data, &here);
    if (rc != VMC_OK)
        return rc;
    if (here == 0 || data > off)
        *at = AT_ZERO;
    *bytes = VMCI_MIN(*bytes, here == 0 ? UINT64_MAX : data > off ? data - off : here);
    return VMC_OK;
}

int vmc_disk_next_data(struct vmc_disk *d, uint64_t *offset, uint64_t *bytes)
{
    uint64_t at = AT_NONE, n = 0, off = *offset;
    int rc = VMC_OK;

    vmci_lock(&d->lock);
    while (off < d->bytes && (rc = vmci_disk_extent(d, off, &at, &n)) == VMC_OK && at <= AT_ZERO)
        off += n;
    vmci_unlock(&d->lock);
    *offset = off;
    *bytes = rc == VMC_OK && off < d->bytes ? n : 0;
    return rc;
}

/* Grains that are not in the log yet, at most *bytes of them; *bytes: how much that was. */
static int write_new(struct vmc_disk *d, struct layer *l, uint64_t off, const uint8_t *src,
                     uint64_t *bytes)
{
    uint64_t at;
    int rc = vmci_disk_log_add(d, l, off, *bytes, &at, bytes);

    if (rc != VMC_OK)
        return rc;
    rc = d->files.ops->write(d->files.ctx, l->file, src, *bytes, at);
    if (rc == VMC_OK)
        rc = vmci_disk_log_set(d, l, off, at, *bytes);
    if (rc != VMC_OK)
        l->next = at; /* whoever tries again gets the same place */
    return rc;
}

/* One grain that is not in the log yet: what the parents have, and src over it. */
static int write_part(struct vmc_disk *d, struct layer *l, uint64_t off, const uint8_t *src,
                      uint64_t n)
{
    uint64_t in = off % l->grain, start = off - in, got = l->grain;
    uint8_t *grain = vmci_zalloc(d->pf, l->grain);

    if (grain == NULL)
        return VMC_ENOMEM;
    int rc = vmci_disk_read(d, start, grain, VMCI_MIN(l->grain, d->bytes - start));
    memcpy(grain + in, src, n);
    if (rc == VMC_OK)
        rc = write_new(d, l, start, grain, &got);
    vmci_free(d->pf, grain, l->grain);
    return rc;
}

static int write_log(struct vmc_disk *d, struct layer *l, uint64_t off, const uint8_t *src,
                     uint64_t bytes)
{
    int rc = VMC_OK;

    while (bytes > 0 && rc == VMC_OK) {
        uint64_t at, n, in = off % l->grain;
        rc = vmci_disk_log_find(d, l, off, &at, &n);
        if (rc != VMC_OK)
            break;
        n = VMCI_MIN(n, bytes);
        if (at > AT_ZERO) {
            rc = d->files.ops->write(d->files.ctx, l->file, src, n, at);
        } else if (in != 0 || n < l->grain) {
            n = VMCI_MIN(bytes, l->grain - in);
            rc = write_part(d, l, off, src, n);
        } else {
            n = n / l->grain * l->grain;
            rc = write_new(d, l, off, src, &n);
        }
        src += n;
        off += n;
        bytes -= n;
    }
    return rc;
}

int vmci_disk_write(struct vmc_disk *d, uint64_t off, const uint8_t *src, uint64_t bytes)
{
    struct layer *l = &d->layer[0];

    if (vmci_disk_is_log(&l->desc))
        return write_log(d, l, off, src, bytes);
    return bottom_io(d, l, true, off, (uint8_t *)(uintptr_t)src, bytes);
}

static int write_zeros(struct vmc_disk *d, uint64_t off, uint64_t bytes)
{
    while (bytes > 0) {
        uint64_t n = VMCI_MIN(bytes, LOG_ZEROS);
        int rc = vmci_disk_write(d, off, d->zeros, n);
        if (rc != VMC_OK)
            return rc;
        off += n;
        bytes -= n;
    }
    return VMC_OK;
}

/* What reads as zeros as it is takes no space in a log that has no other word for them. */
static int zero_rest(struct vmc_disk *d, uint64_t off, uint64_t bytes)
{
    while (bytes > 0) {
        uint64_t at, n;
        int rc = vmci_disk_extent(d, off, &at, &n);
        n = VMCI_MIN(n, bytes);
        if (rc == VMC_OK && at > AT_ZERO)
            rc = write_zeros(d, off, n);
        if (rc != VMC_OK)
            return rc;
        off += n;
        bytes -= n;
    }
    return VMC_OK;
}

int vmci_disk_zero(struct vmc_disk *d, uint64_t off, uint64_t bytes)
{
    struct layer *l = &d->layer[0];
    struct vmc_block_info info;

    if (l->desc.format == VMC_DISK_SESPARSE) {
        uint64_t first = vmci_align_up(off, l->grain), end = vmci_align_down(off + bytes, l->grain);
        if (first >= end)
            return write_zeros(d, off, bytes);
        int rc = write_zeros(d, off, first - off);
        if (rc == VMC_OK)
            rc = write_zeros(d, end, off + bytes - end);
        for (; first < end && rc == VMC_OK; first += l->grain)
            rc = vmci_disk_log_zero(d, l, first);
        return rc;
    }
    if (vmci_disk_is_log(&l->desc))
        return zero_rest(d, off, bytes);
    if (l->flat.ops != NULL && l->flat.ops->info(l->flat.ctx, &info) == VMC_OK &&
        info.can_write_zeroes) {
        /* Reads of a thin disk's free space are zeros; the zeros after it are for the edges. */
        if (l->desc.thin &&
            device_io(d->pf, &l->flat, VMC_BLOCK_DISCARD, off, NULL, bytes) != VMC_OK)
            return VMC_EIO;
        return device_io(d->pf, &l->flat, VMC_BLOCK_WRITE_ZEROES, off, NULL, bytes);
    }
    return write_zeros(d, off, bytes);
}

static int flush(struct vmc_disk *d)
{
    struct layer *l = &d->layer[0];

    if (!d->write)
        return VMC_OK;
    if (vmci_disk_is_log(&l->desc))
        return vmci_disk_log_flush(d, l);
    if (l->flat.ops != NULL)
        return device_io(d->pf, &l->flat, VMC_BLOCK_FLUSH, 0, NULL, 0);
    return d->files.ops->flush(d->files.ctx, l->file);
}

/* ---- block devices -----------------------------------------------------------------------------
 */

static int disk_info(void *ctx, struct vmc_block_info *out)
{
    struct vmc_disk *d = ctx;

    *out = (struct vmc_block_info){
        .bytes = d->bytes,
        .sector_bytes = SECTOR,
        .optimal_bytes = 4096,
        .read_only = !d->write,
        .can_discard = d->write && d->layer[0].desc.format == VMC_DISK_SESPARSE,
        .can_write_zeroes = d->write,
    };
    return VMC_OK;
}

static int serve(struct vmc_disk *d, struct vmc_block_req *r)
{
    uint64_t off = r->offset;
    int rc = VMC_OK;

    if (r->op == VMC_BLOCK_FLUSH)
        return flush(d);
    if (r->op > VMC_BLOCK_WRITE_ZEROES)
        return VMC_ENOTSUP;
    if (!vmci_range_ok(r->offset, r->bytes, d->bytes))
        return VMC_ERANGE;
    if ((r->offset | r->bytes) % SECTOR != 0)
        return VMC_EINVAL;
    if (r->op != VMC_BLOCK_READ && !d->write)
        return VMC_EPERM;
    if (r->op == VMC_BLOCK_DISCARD && d->layer[0].desc.format != VMC_DISK_SESPARSE)
        return VMC_OK; /* a log of this format keeps what it has */
    if (r->op == VMC_BLOCK_DISCARD || r->op == VMC_BLOCK_WRITE_ZEROES)
        return vmci_disk_zero(d, r->offset, r->bytes);
    for (uint32_t i = 0; i < r->iov_count && rc == VMC_OK; i++) {
        rc = r->op == VMC_BLOCK_READ ? vmci_disk_read(d, off, r->iov[i].base, r->iov[i].bytes)
                                     : vmci_disk_write(d, off, r->iov[i].base, r->iov[i].bytes);
        off += r->iov[i].bytes;
    }
    return rc;
}

static int disk_submit(void *ctx, struct vmc_block_req *r)
{
    struct vmc_disk *d = ctx;

    if (r->flags & VMC_BLOCK_NOWAIT) { /* the tables may have to be read */
        r->status = VMC_EAGAIN;
        return VMC_BLOCK_COMPLETE;
    }
    vmci_lock(&d->lock);
    r->status = serve(d, r);
    vmci_unlock(&d->lock);
    return VMC_BLOCK_COMPLETE;
}

static const struct vmc_blockdev_ops chain_ops = {.info = disk_info, .submit = disk_submit};

/*
 * A flat file that is not simply passed on: a thick disk stays thick, so discards go no further;
 * and of a file that is longer than described (its growth was interrupted) only the described part
 * is the disk.
 */
static int flat_info(void *ctx, struct vmc_block_info *out)
{
    struct vmc_disk *d = ctx;
    int rc = d->layer[0].flat.ops->info(d->layer[0].flat.ctx, out);

    out->bytes = d->bytes;
    out->can_compare_write = false;
    out->can_discard = out->can_discard && d->layer[0].desc.thin;
    return rc;
}

static int flat_submit(void *ctx, struct vmc_block_req *r)
{
    struct vmc_disk *d = ctx;

    if (unlikely(r->op == VMC_BLOCK_DISCARD && !d->layer[0].desc.thin)) {
        r->status = VMC_OK;
        return VMC_BLOCK_COMPLETE;
    }
    if (unlikely(r->op != VMC_BLOCK_FLUSH && !vmci_range_ok(r->offset, r->bytes, d->bytes))) {
        r->status = VMC_ERANGE;
        return VMC_BLOCK_COMPLETE;
    }
    return d->layer[0].flat.ops->submit(d->layer[0].flat.ctx, r);
}

static void flat_kick(void *ctx)
{
    struct vmc_disk *d = ctx;

    if (d->layer[0].flat.ops->kick != NULL)
        d->layer[0].flat.ops->kick(d->layer[0].flat.ctx);
}

static void flat_poll(void *ctx)
{
    struct vmc_disk *d = ctx;

    d->layer[0].flat.ops->poll(d->layer[0].flat.ctx);
}

static const struct vmc_blockdev_ops flat_ops = {
    .info = flat_info, .submit = flat_submit, .kick = flat_kick};
static const struct vmc_blockdev_ops flat_polled_ops = {
    .info = flat_info, .submit = flat_submit, .kick = flat_kick, .poll = flat_poll};

static int peek_info(void *ctx, struct vmc_block_info *out)
{
    const struct vmc_disk *d = ctx;

    *out = (struct vmc_block_info){.bytes = d->bytes, .sector_bytes = SECTOR, .read_only = true};
    return VMC_OK;
}

static int peek_submit(void *ctx, struct vmc_block_req *r)
{
    (void)ctx;
    r->status = VMC_ESTATE;
    return VMC_BLOCK_COMPLETE;
}

static const struct vmc_blockdev_ops peek_ops = {.info = peek_info, .submit = peek_submit};

struct vmc_blockdev vmc_disk_blockdev(struct vmc_disk *d)
{
    const struct layer *l = &d->layer[0];

    if (d->peek)
        return (struct vmc_blockdev){.ops = &peek_ops, .ctx = d};
    if (vmci_disk_is_log(&l->desc) || l->flat.ops == NULL)
        return (struct vmc_blockdev){.ops = &chain_ops, .ctx = d};
    if (vmci_disk_is_rdm(&l->desc) || (l->desc.thin && l->file_bytes == d->bytes))
        return l->flat; /* nothing stands in between */
    return (struct vmc_blockdev){.ops = l->flat.ops->poll != NULL ? &flat_polled_ops : &flat_ops,
                                 .ctx = d};
}

uint32_t vmc_disk_depth(const struct vmc_disk *d)
{
    return d->depth;
}

int vmc_disk_layer(const struct vmc_disk *d, uint32_t layer, struct vmc_disk_layer *out)
{
    if (layer >= d->depth)
        return VMC_ENOENT;
    const struct layer *l = &d->layer[layer];
    *out = (struct vmc_disk_layer){.format = l->desc.format,
                                   .thin = l->desc.thin,
                                   .cid = l->desc.cid,
                                   .parent_cid = l->desc.parent_cid,
                                   .file_bytes = l->file_bytes};
    memcpy(out->name, l->name, DISK_NAME);
    memcpy(out->extent, l->desc.extent, DISK_NAME);
    memcpy(out->device, l->desc.device, DISK_NAME);
    return VMC_OK;
}

/* ---- open and close ----------------------------------------------------------------------------
 */

static int open_raw(struct vmc_disk *d, struct layer *l, bool write, struct vmc_error *err)
{
    struct vmc_block_info info;

    if (l->desc.device[0] == '\0' || d->files.ops->raw_open == NULL)
        return vmci_error(err, VMC_ENOTSUP, site, "%s maps a raw device that %s", l->name,
                          l->desc.device[0] == '\0' ? "it does not name"
                                                    : "cannot be reached here");
    int rc = d->files.ops->raw_open(d->files.ctx, l->desc.device, write, &l->raw, &l->flat, err);
    if (rc != VMC_OK)
        return rc;
    rc = l->flat.ops->info(l->flat.ctx, &info);
    if (rc == VMC_OK && info.bytes < l->desc.sectors * SECTOR)
        rc = VMC_EFORMAT;
    return rc == VMC_OK ? rc
                        : vmci_error(err, rc, site, "%s is smaller than the %llu sectors mapped",
                                     l->desc.device, (unsigned long long)l->desc.sectors);
}

static int open_bottom(struct vmc_disk *d, struct layer *l, bool write, struct vmc_error *err)
{
    if (vmci_disk_is_rdm(&l->desc))
        return open_raw(d, l, write, err);
    if (l->desc.format == VMC_DISK_PACKED && write)
        return vmci_error(err, VMC_EPERM, site, "%s is packed and cannot be written", l->name);
    if (l->desc.format == VMC_DISK_PACKED)
        return vmci_disk_packed_open(d, l, err);
    if (l->file_bytes < l->desc.sectors * SECTOR)
        return vmci_error(err, VMC_EFORMAT, site, "%s has %llu bytes, %llu sectors are described",
                          l->desc.extent, (unsigned long long)l->file_bytes,
                          (unsigned long long)l->desc.sectors);
    if (d->files.ops->blockdev == NULL)
        return VMC_OK;
    int rc = d->files.ops->blockdev(d->files.ctx, l->file, &l->flat);
    return rc == VMC_OK ? rc : vmci_error(err, rc, site, "%s is no device", l->desc.extent);
}

static int check_parent(const struct vmc_disk *d, const struct layer *l, struct vmc_error *err)
{
    if (d->depth < 2)
        return VMC_OK;
    const struct layer *child = l - 1;
    if (l->desc.sectors != child->desc.sectors)
        return vmci_error(err, VMC_EFORMAT, site, "%s has %llu sectors, its child %s has %llu",
                          l->name, (unsigned long long)l->desc.sectors, child->name,
                          (unsigned long long)child->desc.sectors);
    if (l->desc.cid != child->desc.parent_cid)
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s was changed since its snapshot %s (content id %08x, expected %08x)",
                          l->name, child->name, l->desc.cid, child->desc.parent_cid);
    return VMC_OK;
}

/* What a descriptor names, as seen from where its own name is. */
static int beside(const char *descriptor, const char *name, char *out, struct vmc_error *err)
{
    size_t dir = 0;

    for (size_t i = 0; descriptor[i] != '\0' && name[0] != '/'; i++)
        if (descriptor[i] == '/')
            dir = i + 1;
    if (dir + vmci_strlen(name) >= DISK_NAME)
        return vmci_error(err, VMC_ELIMIT, site, "%s: a path of more than %u bytes", name,
                          DISK_NAME - 1);
    memcpy(out, descriptor, dir);
    memcpy(out + dir, name, vmci_strlen(name) + 1);
    return VMC_OK;
}

/* "/vmfs/volumes/VOLUME/folder/name" is "/folder/name" on the volume. */
static const char *on_volume(const char *path)
{
    static const char volumes[] = "/vmfs/volumes/";
    const char *p = path + sizeof(volumes) - 1;

    if (memcmp(path, volumes, VMCI_MIN(vmci_strlen(path) + 1, sizeof(volumes) - 1)) != 0)
        return path;
    while (*p != '\0' && *p != '/')
        p++;
    return *p == '/' ? p : path;
}

/*
 * The parent's name: in the folder that the descriptor says, or beside the disk, where it may have been
 * moved with it. The content id tells which one is meant.
 */
static int parent_of(const struct vmc_disk *d, const struct layer *l, char *out,
                     struct vmc_error *err)
{
    struct descriptor far, near;
    char there[DISK_NAME];
    int rc = beside(l->name, l->desc.parent, out, err);

    if (rc != VMC_OK || l->desc.parent_path[0] == '\0' ||
        beside(l->name, on_volume(l->desc.parent_path), there, NULL) != VMC_OK ||
        vmci_disk_desc_read(d->pf, &d->files, there, &far, NULL) != VMC_OK)
        return rc;
    if (far.cid == l->desc.parent_cid ||
        vmci_disk_desc_read(d->pf, &d->files, out, &near, NULL) != VMC_OK)
        memcpy(out, there, DISK_NAME);
    return VMC_OK;
}

static int add_layer(struct vmc_disk *d, const char *name, bool write, struct vmc_error *err)
{
    struct layer *l = &d->layer[d->depth];
    char extent[DISK_NAME];
    int rc = vmci_disk_desc_read(d->pf, &d->files, name, &l->desc, err);

    if (rc == VMC_OK)
        rc = beside(name, l->desc.extent, extent, err);
    if (rc != VMC_OK)
        return rc;
    vmci_snprintf(l->name, sizeof(l->name), "%s", name);
    rc = d->files.ops->open(d->files.ctx, extent,
                            d->peek ? VMC_DISK_PEEK : write ? VMC_DISK_WRITE : VMC_DISK_READ, &l->file,
                            err);
    if (rc != VMC_OK)
        return rc;
    d->depth++;
    rc = check_parent(d, l, err);
    if (rc == VMC_OK && (rc = d->files.ops->size(d->files.ctx, l->file, &l->file_bytes)) != VMC_OK)
        vmci_error(err, rc, site, "%s has no length", l->desc.extent);
    if (rc != VMC_OK || d->peek)
        return rc;
    return vmci_disk_is_log(&l->desc) ? vmci_disk_log_open(d, l, err)
                                      : open_bottom(d, l, write, err);
}

static int close_layer(struct vmc_disk *d, struct layer *l, bool written)
{
    int rc = VMC_OK;

    if (vmci_disk_is_log(&l->desc)) {
        /* What was taken in advance. */
        if (written && l->next < l->file_bytes && l->next != 0)
            rc = d->files.ops->resize(d->files.ctx, l->file, l->next);
        vmci_disk_log_close(d, l);
    }
    vmci_disk_packed_close(d, l);
    if (l->raw != NULL)
        d->files.ops->raw_close(d->files.ctx, l->raw);
    int rc2 = d->files.ops->close(d->files.ctx, l->file);
    return rc != VMC_OK ? rc : rc2;
}

int vmc_disk_close(struct vmc_disk *d)
{
    int rc = d->depth > 0 ? flush(d) : VMC_OK;
    bool written = d->write && rc == VMC_OK;

    for (uint32_t i = 0; i < d->depth; i++) {
        int rc2 = close_layer(d, &d->layer[i], written && i == 0);
        rc = rc != VMC_OK ? rc : rc2;
    }
    vmci_lock_fini(&d->lock);
    vmci_free(d->pf, d->zeros, LOG_ZEROS);
    vmci_free(d->pf, d, sizeof(*d));
    return rc;
}

/* Contents will change: whoever was made over the old ones must be able to tell. */
static int prepare_write(struct vmc_disk *d, uint32_t how, struct vmc_error *err)
{
    struct layer *l = &d->layer[0];

    d->zeros = vmci_zalloc(d->pf, LOG_ZEROS);
    if (d->zeros == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for a disk");
    if (how & OPEN_SHARED)
        return VMC_OK;
    int rc = vmci_disk_no_children(d->pf, &d->files, l->name, NULL, err);
    if (rc != VMC_OK)
        return rc;
    l->desc.cid = vmci_disk_new_cid(d->pf);
    return vmci_disk_desc_write(d->pf, &d->files, l->name, &l->desc, true, err);
}

int vmci_disk_open(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                   const char *name, uint32_t how, struct vmc_disk **out, struct vmc_error *err)
{
    struct vmc_disk *d = vmci_zalloc(pf, sizeof(*d));
    char next[DISK_NAME];

    if (d == NULL || vmci_lock_init(&d->lock, pf) != VMC_OK) {
        vmci_free(pf, d, sizeof(*d));
        return vmci_error(err, VMC_ENOMEM, site, "no memory for a disk");
    }
    d->pf = pf;
    d->files = *files;
    d->peek = (how & OPEN_PEEK) != 0;
    int rc = vmci_strlen(name) < DISK_NAME
                 ? add_layer(d, name, (how & OPEN_WRITE) != 0, err)
                 : vmci_error(err, VMC_EINVAL, site, "a name of %zu bytes", vmci_strlen(name));
    while (rc == VMC_OK && !(how & OPEN_ALONE) && vmci_disk_is_log(&d->layer[d->depth - 1].desc)) {
        if (d->depth == DISK_DEPTH) {
            rc = vmci_error(err, VMC_ELIMIT, site, "more than %u snapshots, or a loop of them",
                            DISK_DEPTH - 1);
            break;
        }
        rc = parent_of(d, &d->layer[d->depth - 1], next, err);
        if (rc == VMC_OK)
            rc = add_layer(d, next, false, err);
    }
    if (rc == VMC_OK && how & OPEN_WRITE)
        rc = prepare_write(d, how, err);
    if (rc != VMC_OK) {
        (void)vmc_disk_close(d); /* already failing; nothing was written */
        return rc;
    }
    d->write = (how & OPEN_WRITE) != 0;
    d->bytes = d->layer[0].desc.sectors * SECTOR;
    *out = d;
    return VMC_OK;
}

int vmc_disk_open(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                  const char *name, bool write, struct vmc_disk **out, struct vmc_error *err)
{
    return vmci_disk_open(pf, files, name, write ? OPEN_WRITE : 0, out, err);
}

int vmc_disk_peek(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                  const char *name, struct vmc_disk **out, struct vmc_error *err)
{
    return vmci_disk_open(pf, files, name, OPEN_PEEK, out, err);
}
