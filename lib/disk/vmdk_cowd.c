/* SPDX-License-Identifier: BSD-2-Clause */
/* "COWD": the redo logs of ESX, VMware Virtual Disk Format 1.1. Offsets are in sectors. */
#include "disk/disk_priv.h"

static const char site[] = SITE("COWD");

#define COWD_MAGIC      0x44574f43u
#define CW_MAGIC        0x00
#define CW_VERSION      0x04
#define CW_FLAGS        0x08
#define CW_SECTORS      0x0C
#define CW_GRAIN        0x10
#define CW_GD_OFFSET    0x14
#define CW_GD_ENTRIES   0x18
#define CW_FREE         0x1C
#define CW_HEADER_BYTES 2048u
#define TABLE_BYTES     (LOG_ENTRIES * 4u)

int vmci_disk_cowd_make(const struct vmc_platform *pf, const struct vmc_disk_files *files,
                        void *file, uint64_t sectors, struct vmc_error *err)
{
    uint64_t tables = (sectors + LOG_ENTRIES - 1) / LOG_ENTRIES;
    uint64_t bytes = vmci_align_up(CW_HEADER_BYTES + tables * 4, SECTOR);

    if (sectors > UINT32_MAX)
        return vmci_error(err, VMC_ELIMIT, site, "a redo log of this format covers at most 2 TiB");
    uint8_t *h = vmci_zalloc(pf, bytes);
    if (h == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory");
    vmci_st_le32(h + CW_MAGIC, COWD_MAGIC);
    vmci_st_le32(h + CW_VERSION, 1);
    vmci_st_le32(h + CW_FLAGS, 3);
    vmci_st_le32(h + CW_SECTORS, (uint32_t)sectors);
    vmci_st_le32(h + CW_GRAIN, 1);
    vmci_st_le32(h + CW_GD_OFFSET, CW_HEADER_BYTES / SECTOR);
    vmci_st_le32(h + CW_GD_ENTRIES, (uint32_t)tables);
    vmci_st_le32(h + CW_FREE, (uint32_t)(bytes / SECTOR));
    int rc = files->ops->write(files->ctx, file, h, bytes, 0);
    if (rc == VMC_OK)
        rc = files->ops->flush(files->ctx, file);
    vmci_free(pf, h, bytes);
    return rc == VMC_OK ? rc : vmci_error(err, rc, site, "cannot be written");
}

static int cowd_open(struct vmc_disk *d, struct layer *l, struct vmc_error *err)
{
    uint8_t h[SECTOR];
    int rc = l->file_bytes < SECTOR ? VMC_EFORMAT
                                    : d->files.ops->read(d->files.ctx, l->file, h, sizeof(h), 0);

    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "%s: the header cannot be read", l->desc.extent);
    uint32_t grain = vmci_ld_le32(h + CW_GRAIN), gd = vmci_ld_le32(h + CW_GD_OFFSET);
    l->tables = vmci_ld_le32(h + CW_GD_ENTRIES);
    if (vmci_ld_le32(h + CW_MAGIC) != COWD_MAGIC || vmci_ld_le32(h + CW_VERSION) != 1)
        return vmci_error(err, VMC_EFORMAT, site, "%s: magic 0x%08x, version %u", l->desc.extent,
                          vmci_ld_le32(h + CW_MAGIC), vmci_ld_le32(h + CW_VERSION));
    if (!vmci_is_pow2(grain) || grain > 8192 || l->tables == 0 || l->tables > 1u << 20 ||
        (uint64_t)l->tables * LOG_ENTRIES * grain < l->desc.sectors)
        return vmci_error(err, VMC_EFORMAT, site,
                          "%s: %u grain tables with grains of %u sectors, for %llu sectors",
                          l->desc.extent, l->tables, grain, (unsigned long long)l->desc.sectors);
    if (gd == 0 || !vmci_range_ok((uint64_t)gd * SECTOR, l->tables * 4ull, l->file_bytes))
        return vmci_error(err, VMC_EFORMAT, site, "%s: the directory (sector %u) is outside",
                          l->desc.extent, gd);
    l->grain = (uint64_t)grain * SECTOR;
    l->dir_at = (uint64_t)gd * SECTOR;
    l->next = vmci_align_up(l->file_bytes, SECTOR);
    rc = vmci_disk_log_alloc(d, l, err);
    if (rc != VMC_OK)
        return rc;
    /* Read as sectors into the space of the entries, then widened from the end. */
    uint8_t *raw = (uint8_t *)l->dir;
    rc = d->files.ops->read(d->files.ctx, l->file, raw, l->tables * 4ull, l->dir_at);
    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "%s: the directory cannot be read", l->desc.extent);
    for (uint32_t i = l->tables; i-- > 0;)
        l->dir[i] = (uint64_t)vmci_ld_le32(raw + i * 4ull) * SECTOR;
    for (uint32_t i = 0; i < l->tables; i++)
        if (l->dir[i] != 0 && !vmci_range_ok(l->dir[i], TABLE_BYTES, l->next))
            return vmci_error(err, VMC_EFORMAT, site, "%s: grain table %u is outside of the file",
                              l->desc.extent, i);
    return VMC_OK;
}

static bool cowd_decode(const struct layer *l, uint64_t raw, uint64_t *at)
{
    *at = raw * SECTOR;
    return raw == 0 || *at > l->dir_at;
}

static uint64_t cowd_encode(const struct layer *l, uint64_t at)
{
    (void)l;
    return at / SECTOR <= UINT32_MAX ? at / SECTOR : 0;
}

static int cowd_place(struct layer *l, uint32_t t)
{
    if ((l->next + TABLE_BYTES) / SECTOR > UINT32_MAX)
        return VMC_ELIMIT;
    l->dir[t] = l->next;
    l->next += TABLE_BYTES;
    return VMC_OK;
}

static int cowd_mark(struct vmc_disk *d, struct layer *l)
{
    uint8_t free[4];

    vmci_st_le32(free, (uint32_t)(l->next / SECTOR));
    return d->files.ops->write(d->files.ctx, l->file, free, sizeof(free), CW_FREE);
}

static int cowd_publish(struct vmc_disk *d, struct layer *l)
{
    uint8_t *raw = vmci_zalloc(d->pf, l->tables * 4ull);

    if (raw == NULL)
        return VMC_ENOMEM;
    for (uint32_t i = 0; i < l->tables; i++)
        vmci_st_le32(raw + i * 4ull, (uint32_t)(l->dir[i] / SECTOR));
    int rc = d->files.ops->write(d->files.ctx, l->file, raw, l->tables * 4ull, l->dir_at);
    vmci_free(d->pf, raw, l->tables * 4ull);
    return rc;
}

const struct log_ops vmci_disk_cowd = {
    .entry_bytes = 4,
    .open = cowd_open,
    .decode = cowd_decode,
    .encode = cowd_encode,
    .place = cowd_place,
    .mark = cowd_mark,
    .publish = cowd_publish,
};
