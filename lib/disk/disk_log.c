/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Redo logs: a directory of grain tables of grains. New tables and grains go to the end. Tables
 * live in memory and are written at a flush, after the grains that they point to are durable, so a
 * crash never shows a grain that was not written.
 */
#include "disk/disk_priv.h"

static const char site[] = SITE("redo log");

int vmci_disk_log_alloc(struct vmc_disk *d, struct layer *l, struct vmc_error *err)
{
    l->dir = vmci_zalloc(d->pf, l->tables * sizeof(*l->dir));
    l->table = vmci_zalloc(d->pf, l->tables * sizeof(*l->table));
    l->dirty = vmci_zalloc(d->pf, VMCI_BITMAP_WORDS(l->tables) * 8);
    l->buf = vmci_zalloc(d->pf, LOG_ENTRIES * 8);
    if (l->dir == NULL || l->table == NULL || l->dirty == NULL || l->buf == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for %u grain tables", l->tables);
    return VMC_OK;
}

int vmci_disk_log_open(struct vmc_disk *d, struct layer *l, struct vmc_error *err)
{
    l->log = l->desc.format == VMC_DISK_COWD ? &vmci_disk_cowd : &vmci_disk_sesparse;
    return l->log->open(d, l, err);
}

void vmci_disk_log_close(struct vmc_disk *d, struct layer *l)
{
    for (uint32_t i = 0; l->table != NULL && i < l->tables; i++)
        vmci_free(d->pf, l->table[i], LOG_ENTRIES * 8);
    vmci_free(d->pf, l->table, l->tables * sizeof(*l->table));
    vmci_free(d->pf, l->dir, l->tables * sizeof(*l->dir));
    vmci_free(d->pf, l->dirty, VMCI_BITMAP_WORDS(l->tables) * 8);
    vmci_free(d->pf, l->buf, LOG_ENTRIES * 8);
}

/* ---- tables in memory --------------------------------------------------------------------------
 */

static void drop(struct vmc_disk *d, struct layer *l, uint32_t t)
{
    vmci_free(d->pf, l->table[t], LOG_ENTRIES * 8);
    l->table[t] = NULL;
    l->loaded--;
}

/* Forget the next table that is as on disk; there is one after a flush. */
static int make_room(struct vmc_disk *d, struct layer *l)
{
    for (unsigned round = 0; l->loaded >= LOG_CACHE; round++) {
        for (uint32_t i = 0; i < l->tables && l->loaded >= LOG_CACHE; i++) {
            uint32_t t = (l->hand + i) % l->tables;
            if (l->table[t] == NULL || vmci_bit_test(l->dirty, t))
                continue;
            drop(d, l, t);
            l->hand = t + 1;
        }
        if (l->loaded < LOG_CACHE)
            break;
        int rc = round == 0 ? vmci_disk_log_flush(d, l) : VMC_ENOMEM;
        if (rc != VMC_OK)
            return rc;
    }
    return VMC_OK;
}

static uint64_t raw_entry(const struct layer *l, uint32_t i)
{
    return l->log->entry_bytes == 4 ? vmci_ld_le32(l->buf + i * 4) : vmci_ld_le64(l->buf + i * 8);
}

static int read_table(struct vmc_disk *d, struct layer *l, uint32_t t, uint64_t *e)
{
    size_t bytes = LOG_ENTRIES * l->log->entry_bytes;
    uint64_t end = vmci_align_up(l->file_bytes, SECTOR);

    if (!vmci_range_ok(l->dir[t], bytes, end)) {
        vmci_log(d->pf, VMC_LOG_WARN, "disk", "%s: grain table %u at 0x%llx is outside of the file",
                 l->desc.extent, t, (unsigned long long)l->dir[t]);
        return VMC_EFORMAT;
    }
    int rc = d->files.ops->read(d->files.ctx, l->file, l->buf, bytes, l->dir[t]);
    for (uint32_t i = 0; i < LOG_ENTRIES && rc == VMC_OK; i++) {
        uint64_t raw = raw_entry(l, i);
        if (l->log->decode(l, raw, &e[i]) &&
            (e[i] <= AT_ZERO || vmci_range_ok(e[i], l->grain, end)))
            continue;
        vmci_log(d->pf, VMC_LOG_WARN, "disk", "%s: grain table %u: entry %u is 0x%llx",
                 l->desc.extent, t, i, (unsigned long long)raw);
        rc = VMC_EFORMAT;
    }
    return rc;
}

static int load(struct vmc_disk *d, struct layer *l, uint32_t t)
{
    if (l->table[t] != NULL)
        return VMC_OK;
    int rc = make_room(d, l);
    uint64_t *e = rc == VMC_OK ? vmci_zalloc(d->pf, LOG_ENTRIES * 8) : NULL;
    if (e == NULL)
        return rc != VMC_OK ? rc : VMC_ENOMEM;
    if (l->dir[t] != 0)
        rc = read_table(d, l, t, e);
    if (rc != VMC_OK) {
        vmci_free(d->pf, e, LOG_ENTRIES * 8);
        return rc;
    }
    l->table[t] = e;
    l->loaded++;
    return VMC_OK;
}

/* ---- look-up and change ------------------------------------------------------------------------
 */

int vmci_disk_log_find(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t *at,
                       uint64_t *bytes)
{
    uint64_t g = off / l->grain, in = off % l->grain;
    uint32_t t = (uint32_t)(g / LOG_ENTRIES), i = (uint32_t)(g % LOG_ENTRIES), n = 1;

    if (l->dir[t] == 0 && l->table[t] == NULL) {
        *at = AT_NONE;
        *bytes = (LOG_ENTRIES - i) * l->grain - in;
        return VMC_OK;
    }
    int rc = load(d, l, t);
    if (rc != VMC_OK)
        return rc;
    const uint64_t *e = l->table[t];
    uint64_t first = e[i], step = first <= AT_ZERO ? 0 : l->grain;
    while (i + n < LOG_ENTRIES && e[i + n] == first + n * step)
        n++;
    *at = first <= AT_ZERO ? first : first + in;
    *bytes = n * l->grain - in;
    return VMC_OK;
}

/* The file is made longer in large steps: every change of a length costs a transaction. */
static int reserve(struct vmc_disk *d, struct layer *l, uint64_t end)
{
    if (end <= l->file_bytes)
        return VMC_OK;
    uint64_t bytes = vmci_align_up(end, LOG_CHUNK);
    int rc = d->files.ops->resize(d->files.ctx, l->file, bytes);
    if (rc == VMC_OK)
        l->file_bytes = bytes;
    return rc;
}

/* A loaded table gets its place in the file; it is dirty: it stays in memory until it is there. */
static int place(struct vmc_disk *d, struct layer *l, uint32_t t)
{
    int rc = l->log->place(l, t);

    if (rc != VMC_OK)
        return rc;
    vmci_bit_set(l->dirty, t);
    l->dir_dirty = true;
    return reserve(d, l, l->dir[t] + LOG_ENTRIES * l->log->entry_bytes);
}

int vmci_disk_log_add(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t want,
                      uint64_t *at, uint64_t *got)
{
    uint64_t g = off / l->grain;
    uint32_t t = (uint32_t)(g / LOG_ENTRIES), i = (uint32_t)(g % LOG_ENTRIES), n = 0;
    int rc = load(d, l, t);

    if (rc == VMC_OK && l->dir[t] == 0)
        rc = place(d, l, t);
    if (rc != VMC_OK)
        return rc;
    while (i + n < LOG_ENTRIES && n * l->grain < want && l->table[t][i + n] <= AT_ZERO)
        n++;
    if (n == 0)
        return VMC_EINVAL;
    *at = l->next;
    *got = n * l->grain;
    rc = reserve(d, l, *at + *got);
    if (rc == VMC_OK && l->log->encode(l, *at + *got) == 0)
        rc = VMC_ELIMIT;
    if (rc == VMC_OK)
        l->next += *got;
    return rc;
}

int vmci_disk_log_set(struct vmc_disk *d, struct layer *l, uint64_t off, uint64_t at,
                      uint64_t bytes)
{
    uint64_t g = off / l->grain;
    uint32_t t = (uint32_t)(g / LOG_ENTRIES), i = (uint32_t)(g % LOG_ENTRIES);
    int rc = load(d, l, t);

    if (rc != VMC_OK)
        return rc;
    for (uint64_t k = 0; k < bytes; k += l->grain)
        l->table[t][i++] = at > AT_ZERO ? at + k : at;
    vmci_bit_set(l->dirty, t);
    return VMC_OK;
}

int vmci_disk_log_zero(struct vmc_disk *d, struct layer *l, uint64_t off)
{
    uint32_t t = (uint32_t)(off / l->grain / LOG_ENTRIES);

    if (l->dir[t] == 0) {
        int rc = load(d, l, t);
        if (rc == VMC_OK)
            rc = place(d, l, t);
        if (rc != VMC_OK)
            return rc;
    }
    return vmci_disk_log_set(d, l, off, AT_ZERO, l->grain);
}

int vmci_disk_log_check(struct vmc_disk *d, struct layer *l, uint64_t *bad)
{
    for (uint32_t t = 0; t < l->tables; t++) {
        if (l->dir[t] == 0 && l->table[t] == NULL)
            continue;
        int rc = load(d, l, t);
        if (rc == VMC_EFORMAT)
            (*bad)++;
        else if (rc != VMC_OK)
            return rc;
    }
    return VMC_OK;
}

/* ---- durability --------------------------------------------------------------------------------
 */

static int write_table(struct vmc_disk *d, struct layer *l, uint32_t t)
{
    uint32_t n = l->log->entry_bytes;

    for (uint32_t i = 0; i < LOG_ENTRIES; i++) {
        uint64_t raw = l->table[t][i] == AT_NONE ? 0 : l->log->encode(l, l->table[t][i]);
        if (n == 4)
            vmci_st_le32(l->buf + i * 4, (uint32_t)raw);
        else
            vmci_st_le64(l->buf + i * 8, raw);
    }
    return d->files.ops->write(d->files.ctx, l->file, l->buf, LOG_ENTRIES * n, l->dir[t]);
}

static int flush_file(struct vmc_disk *d, struct layer *l)
{
    int rc = d->files.ops->flush(d->files.ctx, l->file);

    if (rc == VMC_OK)
        return rc;
    vmci_log(d->pf, VMC_LOG_WARN, "disk", "%s: a flush failed (%s): no more of them will succeed",
             l->desc.extent, vmc_status_name(rc));
    l->lost = true;
    return VMC_EIO;
}

int vmci_disk_log_flush(struct vmc_disk *d, struct layer *l)
{
    bool any = l->dir_dirty;

    if (l->lost)
        return VMC_EIO;
    for (uint32_t w = 0; w < VMCI_BITMAP_WORDS(l->tables) && !any; w++)
        any = l->dirty[w] != 0;
    int rc = any ? l->log->mark(d, l) : VMC_OK;
    if (rc == VMC_OK)
        rc = flush_file(d, l); /* the grains first */
    if (rc != VMC_OK || !any)
        return rc;
    for (uint32_t t = 0; t < l->tables && rc == VMC_OK; t++)
        if (vmci_bit_test(l->dirty, t))
            rc = write_table(d, l, t);
    if (rc == VMC_OK)
        rc = flush_file(d, l); /* then the tables, then what points to them */
    if (rc == VMC_OK && l->dir_dirty) {
        rc = l->log->publish(d, l);
        if (rc == VMC_OK)
            rc = flush_file(d, l);
    }
    if (rc == VMC_OK) {
        memset(l->dirty, 0, VMCI_BITMAP_WORDS(l->tables) * 8);
        l->dir_dirty = false;
    }
    return rc;
}
