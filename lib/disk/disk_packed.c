/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Packed extents: the contents of a disk that is seldom written, in grains of 64 KiB that zstd has
 * compressed one by one (docs/disk.md, "Packed extents"). A packed extent is only read; what is
 * written goes to a redo log over it. The index comes in chunks, each with a checksum; every grain
 * has a checksum of its stored bytes.
 */
#include "disk/disk_priv.h"
#include "pack/pack_int.h"

static const char site[] = SITE("packed");

#define MAGIC      0x314b434150434d56ull /* "VMCPACK1" */
#define HEAD_BYTES 4096u
#define HD_VERSION 0x08
#define HD_GRAIN   0x0C
#define HD_BYTES   0x10 /* of the disk */
#define HD_INDEX   0x18
#define HD_END     0x20 /* bytes of the file */
#define HD_SUM     0x38
#define GRAIN      0x10000u
#define CHUNK      0x10000u /* of the index */
#define ENTRY      16u      /* u64 offset, u32 bytes, u32 checksum */
#define PER_CHUNK  (CHUNK / ENTRY - 1)
#define LEVEL      6
#define CACHED     8u /* grains in memory */

struct packed {
    struct vmci_unpacker *unpacker;
    uint64_t index_at, end, chunks;
    uint64_t chunk; /* that is in memory; UINT64_MAX: none */
    uint8_t *index, *raw;
    uint64_t grain[CACHED]; /* numbers of the grains in memory */
    uint32_t next;
    uint8_t *data;
};

#define PACKED_BUFFERS ((uint64_t)CHUNK + GRAIN + (uint64_t)CACHED * GRAIN)

static uint64_t grains_of(uint64_t bytes)
{
    return (bytes + GRAIN - 1) / GRAIN;
}

static uint64_t chunk_sum(const uint8_t *chunk, uint64_t number)
{
    return vmci_hash64(chunk, PER_CHUNK * ENTRY, number + 1);
}

/* ---- reading
 * ------------------------------------------------------------------------------------- */

int vmci_disk_packed_open(struct vmc_disk *d, struct layer *l, struct vmc_error *err)
{
    uint8_t h[HEAD_BYTES];
    int rc = d->files.ops->read(d->files.ctx, l->file, h, sizeof(h), 0);

    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "%s has no header", l->desc.extent);
    if (vmci_ld_le64(h) != MAGIC || vmci_ld_le64(h + HD_SUM) != vmci_hash64(h, HD_SUM, MAGIC))
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s is no packed extent, or its header is damaged", l->desc.extent);
    if (vmci_ld_le32(h + HD_VERSION) != 1 || vmci_ld_le32(h + HD_GRAIN) != GRAIN)
        return vmci_error(err, VMC_EVERSION, site, "%s: version %u, grains of %u bytes",
                          l->desc.extent, vmci_ld_le32(h + HD_VERSION), vmci_ld_le32(h + HD_GRAIN));
    uint64_t bytes = vmci_ld_le64(h + HD_BYTES), index = vmci_ld_le64(h + HD_INDEX);
    uint64_t chunks = (grains_of(bytes) + PER_CHUNK - 1) / PER_CHUNK;
    if (bytes != l->desc.sectors * SECTOR || vmci_ld_le64(h + HD_END) > l->file_bytes ||
        !vmci_range_ok(index, chunks * CHUNK, l->file_bytes))
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s is for %llu bytes and was cut off, or is another's", l->desc.extent,
                          (unsigned long long)bytes);
    struct packed *p = vmci_zalloc(d->pf, sizeof(*p));
    if (p == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for a packed extent");
    l->packed = p;
    p->index_at = index;
    p->end = l->file_bytes;
    p->chunks = chunks;
    p->chunk = UINT64_MAX;
    memset(p->grain, 0xFF, sizeof(p->grain));
    p->index = vmci_alloc_aligned(d->pf, PACKED_BUFFERS, 4096);
    if (p->index == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for a packed extent");
    p->raw = p->index + CHUNK;
    p->data = p->raw + GRAIN;
    return vmci_unpacker_create(d->pf, &p->unpacker, err);
}

void vmci_disk_packed_close(struct vmc_disk *d, struct layer *l)
{
    struct packed *p = l->packed;

    if (p == NULL)
        return;
    vmci_unpacker_destroy(p->unpacker);
    vmci_free_aligned(d->pf, p->index, PACKED_BUFFERS, 4096);
    vmci_free(d->pf, p, sizeof(*p));
    l->packed = NULL;
}

static int damaged(struct vmc_disk *d, const struct layer *l, const char *what, uint64_t number)
{
    vmci_log(d->pf, VMC_LOG_WARN, "disk", "%s: %s %llu is damaged", l->desc.extent, what,
             (unsigned long long)number);
    return VMC_EFORMAT;
}

/* The index entry of a grain. */
static int entry_of(struct vmc_disk *d, struct layer *l, uint64_t grain, const uint8_t **e)
{
    struct packed *p = l->packed;
    uint64_t c = grain / PER_CHUNK;

    if (p->chunk != c) {
        p->chunk = UINT64_MAX;
        int rc =
            d->files.ops->read(d->files.ctx, l->file, p->index, CHUNK, p->index_at + c * CHUNK);
        if (rc != VMC_OK)
            return rc;
        if (vmci_ld_le64(p->index + PER_CHUNK * ENTRY) != chunk_sum(p->index, c))
            return damaged(d, l, "index chunk", c);
        p->chunk = c;
    }
    *e = p->index + grain % PER_CHUNK * ENTRY;
    return VMC_OK;
}

/* A grain's contents in memory; NULL: zeros. */
static int grain_of(struct vmc_disk *d, struct layer *l, uint64_t grain, const uint8_t **out)
{
    struct packed *p = l->packed;
    const uint8_t *e;

    for (uint32_t i = 0; i < CACHED; i++)
        if (p->grain[i] == grain) {
            *out = p->data + (uint64_t)i * GRAIN;
            return VMC_OK;
        }
    int rc = entry_of(d, l, grain, &e);
    if (rc != VMC_OK)
        return rc;
    uint64_t at = vmci_ld_le64(e);
    uint32_t n = vmci_ld_le32(e + 8), sum = vmci_ld_le32(e + 12), slot = p->next++ % CACHED;
    *out = NULL;
    if (at == 0)
        return VMC_OK;
    if (n == 0 || n > GRAIN || !vmci_range_ok(at, n, p->end))
        return damaged(d, l, "the index entry of grain", grain);
    uint8_t *data = p->data + (uint64_t)slot * GRAIN;
    uint8_t *raw = n == GRAIN ? data : p->raw;
    p->grain[slot] = UINT64_MAX;
    rc = d->files.ops->read(d->files.ctx, l->file, raw, n, at);
    if (rc != VMC_OK)
        return rc;
    if ((uint32_t)vmci_hash64(raw, n, grain) != sum ||
        (n != GRAIN && vmci_unpack_block(p->unpacker, raw, n, data, GRAIN) != VMC_OK))
        return damaged(d, l, "grain", grain);
    p->grain[slot] = grain;
    *out = data;
    return VMC_OK;
}

int vmci_disk_packed_read(struct vmc_disk *d, struct layer *l, uint64_t off, uint8_t *dst,
                          uint64_t bytes)
{
    while (bytes > 0) {
        const uint8_t *data;
        uint64_t in = off % GRAIN, n = VMCI_MIN(GRAIN - in, bytes);
        int rc = grain_of(d, l, off / GRAIN, &data);
        if (rc != VMC_OK)
            return rc;
        if (data != NULL)
            memcpy(dst, data + in, n);
        else
            memset(dst, 0, n);
        dst += n;
        off += n;
        bytes -= n;
    }
    return VMC_OK;
}

int vmci_disk_packed_extent(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t *at,
                            uint64_t *bytes)
{
    uint64_t grain = off / GRAIN, end = grains_of(l->desc.sectors * SECTOR), n = 0;
    const uint8_t *e;
    bool data = false;

    /* A chunk at a time: the caller asks again. */
    for (; grain + n < end && n < PER_CHUNK; n++) {
        int rc = entry_of(d, l, grain + n, &e);
        if (rc != VMC_OK)
            return rc;
        if (n == 0)
            data = vmci_ld_le64(e) != 0;
        else if ((vmci_ld_le64(e) != 0) != data)
            break;
    }
    *at = data ? AT_ZERO + 1 : AT_ZERO;
    *bytes = VMCI_MIN(*bytes, n * GRAIN - off % GRAIN);
    return VMC_OK;
}

int vmci_disk_packed_check(struct vmc_disk *d, struct layer *l, uint64_t *bad,
                           const struct vmc_disk_progress *progress)
{
    uint64_t n = grains_of(l->desc.sectors * SECTOR);
    const uint8_t *data;

    for (uint64_t g = 0; g < n; g++) {
        int rc = grain_of(d, l, g, &data);
        if (rc == VMC_EFORMAT)
            (*bad)++;
        else if (rc != VMC_OK)
            return rc;
        if (progress != NULL && progress->report != NULL && g % 256 == 255)
            progress->report(progress->ctx, g * GRAIN, n * GRAIN);
    }
    return VMC_OK;
}

/* ---- making
 * -------------------------------------------------------------------------------------- */

struct maker {
    struct vmc_disk *from;
    const struct vmc_disk_files *files;
    void *file;
    struct vmci_packer *packer;
    uint8_t *index, *grain, *packed;
    uint64_t at; /* where the next grain goes */
};

static bool all_zero(const uint8_t *p, uint64_t n)
{
    return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

/* Store one grain; its index entry is at e. */
static int store(struct maker *m, uint64_t grain, uint8_t *e)
{
    uint64_t off = grain * GRAIN, n = VMCI_MIN(GRAIN, m->from->bytes - off), at, run;
    const uint8_t *src = m->packed;
    int rc = vmci_disk_extent(m->from, off, &at, &run);

    memset(e, 0, ENTRY);
    if (rc != VMC_OK || (at <= AT_ZERO && run >= n && at != AT_NONE))
        return rc;
    memset(m->grain, 0, GRAIN);
    rc = vmci_disk_read(m->from, off, m->grain, n);
    if (rc != VMC_OK || all_zero(m->grain, GRAIN))
        return rc;
    size_t bytes = vmci_pack_block(m->packer, m->grain, GRAIN, m->packed, GRAIN - 1);
    if (bytes == 0) {
        bytes = GRAIN;
        src = m->grain;
    }
    rc = m->files->ops->write(m->files->ctx, m->file, src, bytes, m->at);
    vmci_st_le64(e, m->at);
    vmci_st_le32(e + 8, (uint32_t)bytes);
    vmci_st_le32(e + 12, (uint32_t)vmci_hash64(src, bytes, grain));
    m->at += bytes;
    return rc;
}

static int make(struct maker *m, const struct vmc_disk_progress *progress)
{
    uint64_t n = grains_of(m->from->bytes), chunks = (n + PER_CHUNK - 1) / PER_CHUNK;
    const struct vmc_disk_files_ops *ops = m->files->ops;
    uint8_t h[HEAD_BYTES] = {0};
    int rc = VMC_OK;

    m->at = HEAD_BYTES + chunks * CHUNK;
    for (uint64_t c = 0; c < chunks && rc == VMC_OK; c++) {
        memset(m->index, 0, CHUNK);
        for (uint64_t i = 0; i < PER_CHUNK && c * PER_CHUNK + i < n && rc == VMC_OK; i++) {
            uint64_t grain = c * PER_CHUNK + i;
            rc = store(m, grain, m->index + i * ENTRY);
            if (progress != NULL && progress->report != NULL && grain % 64 == 63)
                progress->report(progress->ctx, grain * GRAIN, m->from->bytes);
        }
        vmci_st_le64(m->index + PER_CHUNK * ENTRY, chunk_sum(m->index, c));
        if (rc == VMC_OK)
            rc = ops->write(m->files->ctx, m->file, m->index, CHUNK, HEAD_BYTES + c * CHUNK);
    }
    if (rc == VMC_OK)
        rc = ops->flush(m->files->ctx, m->file);
    vmci_st_le64(h, MAGIC);
    vmci_st_le32(h + HD_VERSION, 1);
    vmci_st_le32(h + HD_GRAIN, GRAIN);
    vmci_st_le64(h + HD_BYTES, m->from->bytes);
    vmci_st_le64(h + HD_INDEX, HEAD_BYTES);
    vmci_st_le64(h + HD_END, m->at);
    vmci_st_le64(h + HD_SUM, vmci_hash64(h, HD_SUM, MAGIC));
    /* The header last: without it the file is nothing. */
    if (rc == VMC_OK)
        rc = ops->write(m->files->ctx, m->file, h, sizeof(h), 0);
    return rc == VMC_OK ? ops->flush(m->files->ctx, m->file) : rc;
}

int vmci_disk_packed_make(struct vmc_disk *from, const struct vmc_disk_files *files,
                          const char *extent, const struct vmc_disk_progress *progress,
                          struct vmc_error *err)
{
    struct maker m = {.from = from, .files = files};
    uint64_t buffers = (uint64_t)CHUNK + 2 * GRAIN;
    int rc = vmci_packer_create_for(from->pf, LEVEL, GRAIN, &m.packer, err);

    if (rc != VMC_OK)
        return rc;
    m.index = vmci_alloc_aligned(from->pf, buffers, 4096);
    rc = m.index == NULL ? vmci_error(err, VMC_ENOMEM, site, "no memory to compress")
                         : files->ops->create(files->ctx, extent, &m.file, err);
    if (rc == VMC_OK) {
        m.grain = m.index + CHUNK;
        m.packed = m.grain + GRAIN;
        rc = make(&m, progress);
        int rc2 = files->ops->close(files->ctx, m.file);
        rc = rc != VMC_OK ? rc : rc2;
        if (rc != VMC_OK) {
            vmci_error(err, rc, site, "%s cannot be written: %s", extent, vmc_strerror(rc));
            (void)files->ops->remove(files->ctx, extent, NULL); /* already failing */
        }
    }
    vmci_free_aligned(from->pf, m.index, buffers, 4096);
    vmci_packer_destroy(m.packer);
    return rc;
}
