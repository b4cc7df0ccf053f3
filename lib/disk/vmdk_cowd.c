/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Redo logs: a directory of grain tables of grains. New tables and grains go to the end. Tables
 * live in memory and are written at a flush, after the grains that they point to are durable, so a
 * crash never shows a grain that was not written.
 */
#include "disk/disk_priv.h"

static const char site[] = SITE("redo log");

#define GD_SECTOR 4u

int vmci_disk_cowd_make(const struct vmc_platform *pf, const struct vmc_disk_files *files, void *file,
                        uint64_t sectors, struct vmc_error *err)
{
    uint64_t tables = (sectors + CW_GT_ENTRIES - 1) / CW_GT_ENTRIES;
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
    vmci_st_le32(h + CW_GD_OFFSET, GD_SECTOR);
    vmci_st_le32(h + CW_GD_ENTRIES, (uint32_t)tables);
    vmci_st_le32(h + CW_FREE, (uint32_t)(bytes / SECTOR));
    int rc = files->ops->write(files->ctx, file, h, bytes, 0);
    if (rc == VMC_OK)
        rc = files->ops->flush(files->ctx, file);
    vmci_free(pf, h, bytes);
    return rc == VMC_OK ? rc : vmci_error(err, rc, site, "cannot be written");
}

void vmci_disk_cowd_close(struct vmc_disk *d, struct layer *l)
{
    for (uint32_t i = 0; l->gt != NULL && i < l->tables; i++)
        vmci_free(d->pf, l->gt[i], CW_GT_BYTES);
    vmci_free(d->pf, l->gt, l->tables * sizeof(*l->gt));
    vmci_free(d->pf, l->gd, l->tables * sizeof(*l->gd));
    vmci_free(d->pf, l->dirty, VMCI_BITMAP_WORDS(l->tables) * 8);
}

int vmci_disk_cowd_open(struct vmc_disk *d, struct layer *l, struct vmc_error *err)
{
    uint8_t h[SECTOR];
    uint64_t size;
    int rc = d->files.ops->read(d->files.ctx, l->file, h, sizeof(h), 0);

    if (rc == VMC_OK)
        rc = d->files.ops->size(d->files.ctx, l->file, &size);
    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "%s cannot be read", l->desc.extent);
    uint32_t grain = vmci_ld_le32(h + CW_GRAIN), gd = vmci_ld_le32(h + CW_GD_OFFSET);
    l->tables = vmci_ld_le32(h + CW_GD_ENTRIES);
    if (vmci_ld_le32(h + CW_MAGIC) != COWD_MAGIC || vmci_ld_le32(h + CW_VERSION) != 1 ||
        !vmci_is_pow2(grain) || grain > 8192 || l->tables == 0 ||
        (uint64_t)l->tables * CW_GT_ENTRIES * grain < l->desc.sectors || l->tables > 1u << 20 ||
        !vmci_range_ok((uint64_t)gd * SECTOR, l->tables * 4ull, size))
        return vmci_error(err, VMC_EFORMAT, site, "%s: bad header (grain %u, %u tables)",
                          l->desc.extent, grain, l->tables);
    l->grain = (uint64_t)grain * SECTOR;
    l->next = vmci_align_up(size, SECTOR);
    l->gd = vmci_zalloc(d->pf, l->tables * sizeof(*l->gd));
    l->gt = vmci_zalloc(d->pf, l->tables * sizeof(*l->gt));
    l->dirty = vmci_zalloc(d->pf, VMCI_BITMAP_WORDS(l->tables) * 8);
    if (l->gd == NULL || l->gt == NULL || l->dirty == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory");
    rc = d->files.ops->read(d->files.ctx, l->file, l->gd, l->tables * 4ull, (uint64_t)gd * SECTOR);
    for (uint32_t i = 0; rc == VMC_OK && i < l->tables; i++)
        if (l->gd[i] != 0 && !vmci_range_ok((uint64_t)l->gd[i] * SECTOR, CW_GT_BYTES, size))
            return vmci_error(err, VMC_EFORMAT, site, "%s: grain table %u is outside of the file",
                              l->desc.extent, i);
    return rc == VMC_OK ? rc : vmci_error(err, rc, site, "%s cannot be read", l->desc.extent);
}

static int load(struct vmc_disk *d, struct layer *l, uint32_t t)
{
    if (l->gt[t] != NULL)
        return VMC_OK;
    l->gt[t] = vmci_zalloc(d->pf, CW_GT_BYTES);
    if (l->gt[t] == NULL)
        return VMC_ENOMEM;
    if (l->gd[t] == 0)
        return VMC_OK;
    return d->files.ops->read(d->files.ctx, l->file, l->gt[t], CW_GT_BYTES,
                              (uint64_t)l->gd[t] * SECTOR);
}

int vmci_disk_cowd_find(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t *at,
                        uint64_t *bytes)
{
    uint64_t g = off / l->grain, in = off % l->grain;
    uint32_t t = (uint32_t)(g / CW_GT_ENTRIES), i = (uint32_t)(g % CW_GT_ENTRIES), n = 1;

    if (l->gd[t] == 0 && l->gt[t] == NULL) {
        *at = 0;
        *bytes = (CW_GT_ENTRIES - i) * l->grain - in;
        return VMC_OK;
    }
    int rc = load(d, l, t);
    if (rc != VMC_OK)
        return rc;
    uint32_t first = l->gt[t][i], step = (uint32_t)(l->grain / SECTOR);
    while (i + n < CW_GT_ENTRIES && l->gt[t][i + n] == (first == 0 ? 0 : first + n * step))
        n++;
    *at = first == 0 ? 0 : (uint64_t)first * SECTOR + in;
    *bytes = n * l->grain - in;
    return VMC_OK;
}

int vmci_disk_cowd_add(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t *at)
{
    uint64_t g = off / l->grain;
    uint32_t t = (uint32_t)(g / CW_GT_ENTRIES);
    int rc = load(d, l, t);

    if (rc != VMC_OK)
        return rc;
    if (l->next / SECTOR > UINT32_MAX - 64)
        return VMC_ELIMIT;
    if (l->gd[t] == 0) {
        l->gd[t] = (uint32_t)(l->next / SECTOR);
        l->next += CW_GT_BYTES;
    }
    *at = l->next;
    l->next += l->grain;
    l->gt[t][g % CW_GT_ENTRIES] = (uint32_t)(*at / SECTOR);
    vmci_bit_set(l->dirty, t);
    return VMC_OK;
}

int vmci_disk_cowd_flush(struct vmc_disk *d, struct layer *l)
{
    const struct vmc_disk_files_ops *f = d->files.ops;
    bool any = false;
    uint8_t free[4];
    int rc = f->flush(d->files.ctx, l->file); /* the grains first */

    for (uint32_t t = 0; t < l->tables && rc == VMC_OK; t++) {
        if (!vmci_bit_test(l->dirty, t))
            continue;
        any = true;
        rc = f->write(d->files.ctx, l->file, l->gt[t], CW_GT_BYTES, (uint64_t)l->gd[t] * SECTOR);
    }
    if (rc != VMC_OK || !any)
        return rc;
    rc = f->flush(d->files.ctx, l->file); /* then the tables, then what points to them */
    if (rc == VMC_OK)
        rc = f->write(d->files.ctx, l->file, l->gd, l->tables * 4ull, GD_SECTOR * SECTOR);
    vmci_st_le32(free, (uint32_t)(l->next / SECTOR));
    if (rc == VMC_OK)
        rc = f->write(d->files.ctx, l->file, free, 4, CW_FREE);
    if (rc == VMC_OK)
        rc = f->flush(d->files.ctx, l->file);
    if (rc == VMC_OK)
        memset(l->dirty, 0, VMCI_BITMAP_WORDS(l->tables) * 8);
    return rc;
}
