/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "SE-sparse": redo logs of 4 KiB grains with 64-bit entries. VMware has not published the format;
 * readers (QEMU, dissect.hypervisor) agree on the header, the directory and the tables. What they
 * do not look at, the journal, the bitmap of free grains and the back map, stays zero here. Offsets
 * and sizes in the headers are in sectors.
 */
#include "disk/disk_priv.h"

static const char site[] = SITE("SE-sparse");

#define SE_MAGIC    0x00000000cafebabeull
#define SE_VOLATILE 0x00000000cafecafeull
#define SE_VERSION  0x0000000200000001ull
/* constant header */
#define SE_CAPACITY 0x10
#define SE_GRAIN    0x18
#define SE_TABLE    0x20
#define SE_FLAGS    0x28
#define SE_RESERVED 0x30 /* 4 words */
#define SE_REGIONS  0x50 /* pairs of offset and size: */
enum {
    R_VOLATILE,
    R_JOURNAL_HEADER,
    R_JOURNAL,
    R_DIR,
    R_TABLES,
    R_BITMAP,
    R_BACKMAP,
    R_GRAINS,
    R_COUNT
};
/* volatile header */
#define SV_FREE_TABLE 0x08
#define SV_SEQUENCE   0x10
#define SV_REPLAY     0x18

#define GRAIN_SECTORS   8u
#define TABLE_SECTORS   64u
#define TABLE_BYTES     (TABLE_SECTORS * SECTOR)
#define COVERAGE        (GRAIN_SECTORS * LOG_ENTRIES) /* sectors under one table */
#define JOURNAL_SECTORS 2048u

/* Entries: the kind in the top four bits; a grain number with its low 12 bits above the others. */
#define DIR_TABLE     0x1000000000000000ull
#define KIND_MASK     0xf000000000000000ull
#define KIND_UNMAPPED 0x1000000000000000ull
#define KIND_ZERO     0x2000000000000000ull
#define KIND_GRAIN    0x3000000000000000ull

static uint64_t up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit;
}

static void layout(uint64_t sectors, uint64_t region[R_COUNT][2])
{
    uint64_t tables = up(sectors, COVERAGE), grains = tables * LOG_ENTRIES;
    uint64_t at = 2 * JOURNAL_SECTORS;

    region[R_VOLATILE][0] = 1;
    region[R_VOLATILE][1] = 1;
    region[R_JOURNAL_HEADER][0] = region[R_JOURNAL_HEADER][1] = 2;
    region[R_JOURNAL][0] = region[R_JOURNAL][1] = JOURNAL_SECTORS;
    region[R_DIR][1] = vmci_align_up(up(tables * 8, SECTOR), JOURNAL_SECTORS);
    region[R_TABLES][1] = tables * TABLE_SECTORS;
    region[R_BITMAP][1] = vmci_align_up(up(grains, 8ull * SECTOR), JOURNAL_SECTORS);
    region[R_BACKMAP][1] = up(grains * 8, SECTOR);
    region[R_GRAINS][1] = grains * GRAIN_SECTORS;
    for (unsigned r = R_DIR; r < R_COUNT; r++) {
        region[r][0] = at;
        at += vmci_align_up(region[r][1], JOURNAL_SECTORS); /* 1 MiB: a block of VMFS */
    }
}

int vmci_disk_sesparse_make(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                            void *file, uint64_t sectors, struct vmc_error *err)
{
    uint64_t region[R_COUNT][2];
    uint8_t *h = vmci_zalloc(pf, 2 * SECTOR);

    if (h == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory");
    layout(sectors, region);
    vmci_st_le64(h, SE_MAGIC);
    vmci_st_le64(h + 8, SE_VERSION);
    vmci_st_le64(h + SE_CAPACITY, sectors);
    vmci_st_le64(h + SE_GRAIN, GRAIN_SECTORS);
    vmci_st_le64(h + SE_TABLE, TABLE_SECTORS);
    for (unsigned r = 0; r < R_COUNT; r++) {
        vmci_st_le64(h + SE_REGIONS + r * 16, region[r][0]);
        vmci_st_le64(h + SE_REGIONS + r * 16 + 8, region[r][1]);
    }
    vmci_st_le64(h + SECTOR, SE_VOLATILE);
    /* The file is sparse: only what is used takes space. */
    int rc = files->ops->resize(files->ctx, file, region[R_GRAINS][0] * SECTOR);
    if (rc == VMC_OK)
        rc = files->ops->write(files->ctx, file, h, 2 * SECTOR, 0);
    if (rc == VMC_OK)
        rc = files->ops->flush(files->ctx, file);
    vmci_free(pf, h, 2 * SECTOR);
    return rc == VMC_OK ? rc : vmci_error(err, rc, site, "cannot be written");
}

/* A region of the header in bytes; inside the file, or at its end when it may be empty. */
static int region_of(const struct layer *l, const uint8_t *h, unsigned r, uint64_t need,
                     uint64_t *at, struct vmc_error *err)
{
    uint64_t off = vmci_ld_le64(h + SE_REGIONS + r * 16);

    if (off == 0 || off > UINT64_MAX / SECTOR || !vmci_range_ok(off * SECTOR, need, l->file_bytes))
        return vmci_error(err, VMC_EFORMAT, site, "%s: region %u at sector 0x%llx is outside",
                          l->desc.extent, r, (unsigned long long)off);
    *at = off * SECTOR;
    return VMC_OK;
}

static int check_header(const struct layer *l, const uint8_t *h, struct vmc_error *err)
{
    uint64_t capacity = vmci_ld_le64(h + SE_CAPACITY), reserved = 0;

    for (unsigned i = 0; i < 4; i++)
        reserved |= vmci_ld_le64(h + SE_RESERVED + i * 8);
    if (vmci_ld_le64(h) != SE_MAGIC || vmci_ld_le64(h + 8) != SE_VERSION)
        return vmci_error(err, VMC_EFORMAT, site, "%s: magic 0x%llx, version 0x%llx",
                          l->desc.extent, (unsigned long long)vmci_ld_le64(h),
                          (unsigned long long)vmci_ld_le64(h + 8));
    if (vmci_ld_le64(h + SE_GRAIN) != GRAIN_SECTORS ||
        vmci_ld_le64(h + SE_TABLE) != TABLE_SECTORS || vmci_ld_le64(h + SE_FLAGS) != 0 ||
        reserved != 0)
        return vmci_error(err, VMC_ENOTSUP, site,
                          "%s: grains of %llu sectors, tables of %llu, flags 0x%llx",
                          l->desc.extent, (unsigned long long)vmci_ld_le64(h + SE_GRAIN),
                          (unsigned long long)vmci_ld_le64(h + SE_TABLE),
                          (unsigned long long)vmci_ld_le64(h + SE_FLAGS));
    if (capacity < l->desc.sectors || capacity > 1ull << 37)
        return vmci_error(err, VMC_EFORMAT, site, "%s: 0x%llx sectors, the descriptor says 0x%llx",
                          l->desc.extent, (unsigned long long)capacity,
                          (unsigned long long)l->desc.sectors);
    return VMC_OK;
}

static int read_dir(struct vmc_disk *d, struct layer *l, struct vmc_error *err)
{
    int rc = d->files.ops->read(d->files.ctx, l->file, l->dir, l->tables * 8ull, l->dir_at);

    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "%s: the directory cannot be read", l->desc.extent);
    for (uint32_t i = 0; i < l->tables; i++) {
        uint64_t raw = vmci_ld_le64(&l->dir[i]), n = raw & UINT32_MAX;
        l->dir[i] = raw == 0 ? 0 : l->tables_at + n * TABLE_BYTES;
        if (raw != 0 && ((raw & ~(uint64_t)UINT32_MAX) != DIR_TABLE || n >= l->tables ||
                         !vmci_range_ok(l->dir[i], TABLE_BYTES, l->file_bytes)))
            return vmci_error(err, VMC_EFORMAT, site, "%s: directory entry %u is 0x%llx",
                              l->desc.extent, i, (unsigned long long)raw);
        l->free_table = raw == 0 ? l->free_table : VMCI_MAX(l->free_table, n + 1);
    }
    return VMC_OK;
}

static int se_open(struct vmc_disk *d, struct layer *l, struct vmc_error *err)
{
    uint8_t h[SECTOR], v[SECTOR];
    int rc = l->file_bytes < SECTOR ? VMC_EFORMAT
                                    : d->files.ops->read(d->files.ctx, l->file, h, sizeof(h), 0);

    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "%s: the header cannot be read", l->desc.extent);
    rc = check_header(l, h, err);
    if (rc != VMC_OK)
        return rc;
    l->grain = GRAIN_SECTORS * SECTOR;
    l->tables = (uint32_t)up(vmci_ld_le64(h + SE_CAPACITY), COVERAGE);
    rc = region_of(l, h, R_VOLATILE, SECTOR, &l->volatile_at, err);
    if (rc == VMC_OK)
        rc = region_of(l, h, R_DIR, l->tables * 8ull, &l->dir_at, err);
    if (rc == VMC_OK)
        rc = region_of(l, h, R_TABLES, 0, &l->tables_at, err);
    if (rc == VMC_OK)
        rc = region_of(l, h, R_GRAINS, 0, &l->grains_at, err);
    if (rc == VMC_OK && (rc = d->files.ops->read(d->files.ctx, l->file, v, SECTOR, l->volatile_at)))
        vmci_error(err, rc, site, "%s: the volatile header cannot be read", l->desc.extent);
    if (rc != VMC_OK)
        return rc;
    if (vmci_ld_le64(v) != SE_VOLATILE || vmci_ld_le64(v + SV_REPLAY) != 0)
        return vmci_error(err, vmci_ld_le64(v) != SE_VOLATILE ? VMC_EFORMAT : VMC_ENOTSUP, site,
                          "%s: volatile header with magic 0x%llx, journal to be replayed: %llu",
                          l->desc.extent, (unsigned long long)vmci_ld_le64(v),
                          (unsigned long long)vmci_ld_le64(v + SV_REPLAY));
    l->sequence = vmci_ld_le64(v + SV_SEQUENCE);
    rc = vmci_disk_log_alloc(d, l, err);
    if (rc == VMC_OK)
        rc = read_dir(d, l, err);
    l->next = l->grains_at + vmci_align_up(l->file_bytes - l->grains_at, l->grain);
    return rc;
}

static bool se_decode(const struct layer *l, uint64_t raw, uint64_t *at)
{
    uint64_t kind = raw & KIND_MASK;
    uint64_t n = (raw >> 48 & 0xfff) | (raw & 0xffffffffffffull) << 12;

    *at = kind == KIND_UNMAPPED || kind == KIND_ZERO ? AT_ZERO : AT_NONE;
    if (kind != KIND_GRAIN)
        return raw == 0 || *at == AT_ZERO;
    *at = l->grains_at + n * l->grain;
    return n < 1ull << 34;
}

static uint64_t se_encode(const struct layer *l, uint64_t at)
{
    uint64_t n = (at - l->grains_at) / l->grain;

    return at == AT_ZERO ? KIND_ZERO : KIND_GRAIN | (n & 0xfff) << 48 | n >> 12;
}

static int se_place(struct layer *l, uint32_t t)
{
    if (l->free_table >= l->tables)
        return VMC_EFORMAT;
    l->dir[t] = l->tables_at + l->free_table++ * TABLE_BYTES;
    return VMC_OK;
}

static int se_mark(struct vmc_disk *d, struct layer *l)
{
    uint8_t v[SECTOR] = {0};

    vmci_st_le64(v, SE_VOLATILE);
    vmci_st_le64(v + SV_FREE_TABLE, l->free_table);
    vmci_st_le64(v + SV_SEQUENCE, ++l->sequence);
    return d->files.ops->write(d->files.ctx, l->file, v, SECTOR, l->volatile_at);
}

static int se_publish(struct vmc_disk *d, struct layer *l)
{
    uint8_t *raw = vmci_zalloc(d->pf, l->tables * 8ull);

    if (raw == NULL)
        return VMC_ENOMEM;
    for (uint32_t i = 0; i < l->tables; i++)
        vmci_st_le64(raw + i * 8ull,
                     l->dir[i] == 0 ? 0 : DIR_TABLE | (l->dir[i] - l->tables_at) / TABLE_BYTES);
    int rc = d->files.ops->write(d->files.ctx, l->file, raw, l->tables * 8ull, l->dir_at);
    vmci_free(d->pf, raw, l->tables * 8ull);
    return rc;
}

const struct log_ops vmci_disk_sesparse = {
    .entry_bytes = 8,
    .open = se_open,
    .decode = se_decode,
    .encode = se_encode,
    .place = se_place,
    .mark = se_mark,
    .publish = se_publish,
};
