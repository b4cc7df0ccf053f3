/* SPDX-License-Identifier: BSD-2-Clause */
/* Formatting: the volume manager's part of each extent, and pieces common to all versions. */
#include "vmfs/vmfs_mkfs.h"

static int dev_write(struct mk *m, const struct fs_dev *d, uint64_t off, void *buf, uint64_t bytes,
                     struct vmc_error *err)
{
    return vmci_fs_dev_io(m->v->pf, &d->bd, VMC_BLOCK_WRITE, d->part_off + off, buf, bytes, err);
}

static int dev_zero(struct mk *m, const struct fs_dev *d, uint64_t off, uint64_t bytes,
                    struct vmc_error *err)
{
    if (d->info.can_write_zeroes)
        return vmci_fs_dev_io(m->v->pf, &d->bd, VMC_BLOCK_WRITE_ZEROES, d->part_off + off, NULL,
                              bytes, err);
    for (uint64_t at = 0; at < bytes; at += FS_ZERO_BYTES) {
        int rc = dev_write(m, d, off + at, m->v->zeros, VMCI_MIN(bytes - at, FS_ZERO_BYTES), err);
        if (rc != VMC_OK)
            return rc;
    }
    return VMC_OK;
}

static void header(const struct mk *m, uint32_t i, uint8_t *h)
{
    const struct fs_dev *d = &m->v->dev[i];
    uint64_t us = (uint64_t)m->time_s * 1000000u;
    bool six = m->version == 6;
    uint32_t entries = six ? 1 : m->pes[i];

    vmci_st_le32(h, LVM_MAGIC);
    vmci_st_le32(h + LVM_MAJOR, m->version);
    vmci_st_le32(h + LVM_MINOR, m->version == 3 ? 0x10 : 0x15);
    h[LVM_DISKID + 1] = 10;
    vmci_snprintf((char *)h + LVM_DISKID + 34, 44, "vmhba0:%u:0", i);
    vmci_st_le32(h + LVM_DISK_BLOCK, 512);
    vmci_st_le64(h + LVM_TOTAL, d->part_bytes);
    vmci_st_le32(h + LVM_NUM_VOLS, 1);
    vmci_st_le32(h + LVM_NUM_PES, entries);
    vmci_st_le32(h + LVM_LAST_PE, entries - 1);
    vmci_st_le64(h + LVM_GENERATION, entries + 2);
    vmci_st_le64(h + LVM_DATA, LVM_DATA_START);
    memcpy(h + LVM_DEV_UUID, d->uuid.b, 16);
    vmci_st_le64(h + LVM_INIT_US, us);
    vmci_st_le64(h + LVM_MOD_US, us);
    if (m->version == 5)
        vmci_st_le32(h + LVM_PE_MAPS, (entries + LVM_PES_PER_MAP - 1) / LVM_PES_PER_MAP);
    if (six) {
        vmci_st_le32(h + LVM_MD_ALIGN, FS_PAGE);
        vmci_st_le32(h + LVM6_UNITS, m->pes[i]);
    }
}

static void volume_entry(const struct mk *m, uint32_t i, uint32_t total, uint8_t *t)
{
    uint64_t first = m->v->seg[i].lv / LVM_PE_BYTES, us = (uint64_t)m->time_s * 1000000u;

    vmci_st_le64(t + LVT_BYTES, (uint64_t)total * LVM_PE_BYTES);
    vmci_st_le64(t + LVT_GENERATION, (m->version == 6 ? m->v->ndevs : total) + 1);
    vmci_st_le32(t + LVT_STATE, 1);
    vmc_vmfs_uuid_text(&m->lvm, (char *)t + LVT_NAME);
    memcpy(t + LVT_UUID, m->lvm.b, 16);
    vmci_st_le32(t + LVT_SNAP, 1);
    vmci_st_le64(t + LVT_CREATED_US, us);
    vmci_st_le32(t + LVT_NUM_PES, m->pes[i]);
    vmci_st_le64(t + LVT_FIRST_PE, first);
    vmci_st_le64(t + LVT_LAST_PE, first + m->pes[i] - 1);
    vmci_st_le64(t + LVT_MOD_US, us);
    vmci_st_le32(t + LVT_NUM_DEVS, m->v->ndevs);
    vmci_st_le32(t + LVT_CONSUMED, m->version == 6 ? 1 : 0);
}

static int device_names(struct mk *m, const struct fs_dev *d, struct vmc_error *err)
{
    memset(m->buf, 0, VMC_VMFS_MAX_EXTENTS * LVM_NAME_BYTES);
    for (uint32_t i = 0; i < m->v->ndevs; i++)
        vmci_snprintf((char *)m->buf + i * LVM_NAME_BYTES, LVM_NAME_BYTES, "mpx.vmhba0:C0:T%u:L0:1",
                      i);
    return dev_write(m, d, m->version == 6 ? LVM6_NAMES_OFF : LVM_NAMES_OFF, m->buf,
                     VMC_VMFS_MAX_EXTENTS * LVM_NAME_BYTES, err);
}

/* Bitmap and table of physical extents, one pair for every 8192 of them. */
static int pe_maps(struct mk *m, uint32_t i, struct vmc_error *err)
{
    const struct fs_dev *d = &m->v->dev[i];
    bool six = m->version == 6;
    uint32_t entries = six ? 1 : m->pes[i];
    uint64_t pe_bytes = six ? m->pes[i] * LVM_PE_BYTES : LVM_PE_BYTES;
    uint64_t at = six ? LVM6_PE_BITMAP_OFF : LVM_PE_BITMAP_OFF;
    uint32_t bitmap = six ? FS_PAGE : LVM_PE_BITMAP;

    for (uint32_t pe = 0; pe < entries;) {
        uint32_t n = VMCI_MIN(entries - pe, LVM_PES_PER_MAP);
        memset(m->buf, 0, bitmap);
        for (uint32_t k = 0; k < n; k++)
            m->buf[k / 8] |= (uint8_t)(1u << (k % 8));
        int rc = dev_write(m, d, at, m->buf, bitmap, err);
        if (rc != VMC_OK)
            return rc;
        uint64_t bytes = vmci_align_up((uint64_t)n * LVM_PE_ENTRY, six ? FS_PAGE : FS_SECTOR);
        memset(m->buf, 0, bytes);
        for (uint32_t k = 0; k < n; k++, pe++) {
            uint8_t *e = m->buf + (size_t)k * LVM_PE_ENTRY;
            e[LVP_USED] = 1;
            vmci_st_le32(e + LVP_ID, pe);
            vmci_st_le64(e + LVP_PHYS, LVM_DATA_START + pe * pe_bytes);
            vmci_st_le64(e + LVP_LOGICAL, m->v->seg[i].lv + pe * pe_bytes);
            vmci_st_le64(e + LVP_LENGTH, pe_bytes);
            vmci_st_le32(e + LVP_VERSION, 1);
        }
        rc = dev_write(m, d, at + bitmap, m->buf, bytes, err);
        if (rc != VMC_OK)
            return rc;
        at += bitmap + LVM_PES_PER_MAP * LVM_PE_ENTRY;
    }
    return VMC_OK;
}

int vmci_fs_mk_lvm(struct mk *m, struct vmc_error *err)
{
    uint32_t total = 0, align = m->version == 6 ? FS_PAGE : FS_SECTOR;

    for (uint32_t i = 0; i < m->v->ndevs; i++)
        total += m->pes[i];
    for (uint32_t i = 0; i < m->v->ndevs; i++) {
        const struct fs_dev *d = &m->v->dev[i];
        int rc = dev_zero(m, d, 0, LVM_DATA_START, err);
        memset(m->buf, 0, 2 * FS_PAGE);
        header(m, i, m->buf);
        volume_entry(m, i, total, m->buf + align);
        if (rc == VMC_OK)
            rc = dev_write(m, d, LVM_META_OFF, m->buf, 2 * align, err);
        if (rc == VMC_OK && i == 0 && m->version != 3)
            rc = device_names(m, d, err);
        if (rc == VMC_OK)
            rc = pe_maps(m, i, err);
        if (rc != VMC_OK)
            return rc;
    }
    return VMC_OK;
}

/* ---- pieces -------------------------------------------------------------------------------------- */

void vmci_fs_mk_lock(struct mk *m, uint8_t *p, uint32_t type, uint64_t lv, bool stamped)
{
    vmci_st_le32(p + LK_TYPE, type);
    vmci_st_le64(p + LK_SELF, lv);
    vmci_st_le64(p + LK_TOKEN, 1);
    if (stamped)
        vmci_st_le64(p + LK_STAMP, m->stamp++);
}

void vmci_fs_mk_size(struct mk *m, struct mk_file *f)
{
    const struct fs_geometry *g = &m->v->g;
    uint64_t fb = g->fb_bytes;

    if (f->lock_type != 0) {
        f->gs = (uint64_t)f->cpg * (g->ch_bytes + (uint64_t)f->rpc * f->rs);
        f->clusters = f->n == 0 ? 0 : (uint32_t)((f->n + f->rpc - 1) / f->rpc);
        f->groups = (f->clusters + f->cpg - 1) / f->cpg;
        if (f->n == 0)
            f->length = RF_HEADER;
        else if (f->rs == 0)
            f->length = RF_HEADER + f->groups * f->gs;
        else
            f->length = RF_HEADER + (f->groups - 1) * f->gs + (uint64_t)f->cpg * g->ch_bytes +
                        (f->n - (uint64_t)(f->groups - 1) * f->cpg * f->rpc) * f->rs;
        if (f->lock_type == LK_FDC)
            f->length = vmci_align_up(f->length, fb);
    }
    f->blocks = (uint32_t)((f->length + fb - 1) / fb);
}

void vmci_fs_mk_fd(const struct mk *m, const struct mk_file *f, uint8_t *md)
{
    uint32_t addr = f->fd_index << 22 | AD_FD;

    vmci_st_le32(md + FD_SELF, addr);
    vmci_st_le32(md + FD_GENERATION, 1);
    vmci_st_le32(md + FD_LINKS, f->links);
    vmci_st_le32(md + FD_TYPE, f->type);
    vmci_st_le64(md + FD_LENGTH, f->length);
    vmci_st_le64(md + FD_BLOCK, m->v->g.fb_bytes);
    vmci_st_le64(md + FD_BLOCKS, f->blocks);
    vmci_st_le32(md + FD_MTIME, m->time_s);
    vmci_st_le32(md + FD_CTIME, m->time_s);
    vmci_st_le32(md + FD_ATIME, m->time_s);
    vmci_st_le32(md + FD_MODE, f->mode);
    vmci_st_le32(md + FD_ZLA, ZLA_FB);
    if (m->version == 3)
        return;
    vmci_st_le32(md + FD_NEW_BLOCKS, f->blocks);
    vmci_st_le32(md + FD_AFFINITY, addr);
    vmci_st_le32(md + FD_TBZ_SHIFT, 0x14);
    md[FD_LOG2] = (uint8_t)m->v->g.fb_shift;
}

void vmci_fs_mk_desc(const struct mk *m, uint8_t *d)
{
    const struct fs_geometry *g = &m->v->g;
    bool v3 = m->version == 3, six = m->version == 6;

    vmci_st_le32(d, FS_MAGIC);
    vmci_st_le32(d + FSD_MAJOR, g->major);
    d[FSD_MINOR] = (uint8_t)g->minor;
    memcpy(d + FSD_UUID, m->fs.b, 16);
    vmci_st_le32(d + FSD_CONFIG, FSD_CONFIG_PUBLIC | (v3 ? 0 : FSD_CONFIG_DENSE));
    if (m->cfg->label != NULL)
        vmci_snprintf((char *)d + FSD_LABEL, FSD_LABEL_BYTES, "%s", m->cfg->label);
    vmci_st_le32(d + FSD_DISK_BLOCK, 512);
    vmci_st_le64(d + FSD_BLOCK, g->fb_bytes);
    vmci_st_le32(d + FSD_CREATED, m->time_s);
    vmci_st_le32(d + FSD_SNAP, 1);
    memcpy(d + FSD_LVM_UUID, m->lvm.b, 16);
    vmci_st_le32(d + FSD_LVM_SNAP, 1);
    vmci_st_le32(d + FSD_FDC_OFF, RF_HEADER);
    vmci_st_le32(d + FSD_FDC_CPG, m->f[2].cpg);
    vmci_st_le32(d + FSD_SB, g->sb_bytes);
    if (v3)
        return;
    vmci_st_le32(d + FSD_JOURNAL_SLOTS, six ? 0x40 : 8);
    vmci_st_le64(d + FSD_PB2_LV, g->fd0_lv + 6ull * g->fd_bytes);
    vmci_st_le32(d + FSD_PB2_FD, FD_ADDR_PB2);
    memcpy(d + FSD_HOST, m->host.b, 16);
    vmci_st_le64(d + FSD_GENERATION, 1);
    vmci_st_le64(d + FSD_SDD_LV, g->fd0_lv + 7ull * g->fd_bytes);
    vmci_st_le32(d + FSD_SDD_FD, FD_ADDR_SDD);
    if (!six)
        return;
    vmci_st_le16(d + FSD_UNMAP, 1);
    vmci_st_le32(d + FSD_PHYS_BLOCK, 512);
    vmci_st_le32(d + FSD_MD_ALIGN, g->md_align);
    vmci_st_le16(d + FSD_LFB_SHIFT, 9);
    vmci_st_le16(d + FSD_PB_SHIFT, 16);
    vmci_st_le16(d + FSD_SFB_BITS, 44);
    vmci_st_le32(d + FSD_TBZ_GRAN, 0x100000);
    vmci_st_le32(d + FSD_JB_BYTES, 0x200000);
    vmci_st_le32(d + FSD_LEASE_MS, 16000);
    vmci_st_le32(d + FSD_WINDOW_MS, 4000);
}
