/* SPDX-License-Identifier: BSD-2-Clause */
/* The checker: what the volume manager and the descriptor say twice. */
#include "vmfs/vmfs_fsck.h"

#define PAGE_ENTRIES (FS_PAGE / LVM_PE_ENTRY)

struct pe_map {
    struct fsck *f;
    const struct fs_dev *d;
    uint32_t dev;
    uint64_t at;    /* of the bitmap, on the device */
    uint64_t bytes; /* of it: the entries follow */
};

static int dev_io(const struct pe_map *m, uint32_t op, uint64_t off, void *buf, uint64_t bytes,
                  struct vmc_error *err)
{
    const struct fsck *f = m->f;

    return vmci_fs_dev_io(f->v->pf, &m->d->bd, op, off, buf, bytes, err);
}

/* A bit for each entry that is used, as many as there are; the rest is as it was. */
static int bits_of_entries(const struct pe_map *m, uint32_t entries, uint8_t *want,
                           struct vmc_error *err)
{
    uint8_t page[FS_PAGE];

    for (uint32_t i = 0; i < entries; i++) {
        uint64_t at = m->at + m->bytes + (uint64_t)(i / PAGE_ENTRIES) * FS_PAGE;
        int rc = i % PAGE_ENTRIES == 0 ? dev_io(m, VMC_BLOCK_READ, at, page, FS_PAGE, err) : VMC_OK;
        if (rc != VMC_OK)
            return rc;
        bool used = page[i % PAGE_ENTRIES * LVM_PE_ENTRY + LVP_USED] != 0;
        uint8_t bit = (uint8_t)(1u << i % 8);
        want[i / 8] = (uint8_t)(used ? want[i / 8] | bit : want[i / 8] & ~bit);
    }
    return VMC_OK;
}

/* Is each physical extent that the table has in use marked so, in the map in front of the table? */
static int check_pe_map(struct pe_map *m, uint32_t entries, uint64_t first, struct vmc_error *err)
{
    struct fsck *f = m->f;
    uint8_t have[LVM_PE_BITMAP], want[LVM_PE_BITMAP];
    uint32_t wrong = 0, example = 0;
    int rc = dev_io(m, VMC_BLOCK_READ, m->at, have, sizeof(have), err);

    memcpy(want, have, sizeof(want));
    if (rc == VMC_OK)
        rc = bits_of_entries(m, entries, want, err);
    if (rc != VMC_OK)
        return rc;
    for (uint32_t i = 0; i < entries; i++)
        if (((have[i / 8] ^ want[i / 8]) >> i % 8 & 1) != 0) {
            example = wrong++ == 0 ? i : example;
        }
    if (wrong == 0)
        return VMC_OK;
    vmci_fs_ck_report(
        f, f->cfg->repair,
        "device %u: bitmap of physical extents at 0x%llx: %u bits differ from the table, "
        "the first is that of extent %llu",
        m->dev, (unsigned long long)(m->at - m->d->part_off), wrong,
        (unsigned long long)(first + example));
    return f->cfg->repair ? dev_io(m, VMC_BLOCK_WRITE, m->at, want, sizeof(want), err) : VMC_OK;
}

/* The first region; further ones are of devices of more than 16 TiB, which we do not make. */
static int check_pe_maps(struct fsck *f, uint32_t dev, struct vmc_error *err)
{
    const struct fs_dev *d = &f->v->dev[dev];
    struct pe_map m = {.f = f, .d = d, .dev = dev, .bytes = VMCI_MAX(d->md_align, LVM_PE_BITMAP)};
    uint8_t head[FS_SECTOR];

    /* Volumes on such sectors are only read; a whole logical volume has no manager's header. */
    if (d->info.sector_bytes != FS_SECTOR || d->lvm_major == 0)
        return VMC_OK;
    int rc = dev_io(&m, VMC_BLOCK_READ, d->part_off + LVM_META_OFF, head, sizeof(head), err);
    uint32_t left = rc == VMC_OK ? vmci_ld_le32(head + LVM_NUM_PES) : 0;
    m.at = d->part_off + LVM_META_OFF + d->md_align + 0x80000;
    for (uint32_t i = 0; i < LVM_MAX_MAPS && left > 0 && rc == VMC_OK; i++) {
        uint32_t n = VMCI_MIN(left, LVM_PES_PER_MAP);
        if (!vmci_range_ok(m.at - d->part_off, m.bytes + LVM_PES_PER_MAP * LVM_PE_ENTRY,
                           d->part_bytes))
            break; /* mounting has said that the number cannot be right */
        rc = check_pe_map(&m, n, (uint64_t)i * LVM_PES_PER_MAP, err);
        m.at += m.bytes + LVM_PES_PER_MAP * LVM_PE_ENTRY;
        left -= n;
    }
    return rc;
}

/* The descriptor names two system files by address and by place. */
static int check_place(struct fsck *f, const char *name, uint32_t fd, uint32_t off,
                       struct vmc_error *err)
{
    struct vmc_vmfs *v = f->v;
    struct fs_addr a = vmci_fs_addr_decode(&v->g, fd);
    uint64_t lv, says = vmci_ld_le64(v->desc + off);

    if (a.type != AD_FD ||
        vmci_fs_res_item_lv(v, &v->fdc, a.cluster, a.item, &lv, NULL) != VMC_OK || lv == says)
        return VMC_OK; /* an address that leads nowhere is reported at mounting */
    vmci_fs_ck_report(
        f, f->cfg->repair,
        "descriptor: %s is at volume offset 0x%llx, its file descriptor 0x%08x is at 0x%llx", name,
        (unsigned long long)says, fd, (unsigned long long)lv);
    if (!f->cfg->repair)
        return VMC_OK;
    vmci_st_le64(v->desc + off, lv);
    return vmci_fs_write(v, FS_DESC_LV, v->desc, FS_SECTOR, err);
}

int vmci_fs_ck_volume(struct fsck *f, struct vmc_error *err)
{
    const uint8_t *desc = f->v->desc;
    int rc = check_place(f, ".pb2.sf", vmci_ld_le32(desc + FSD_PB2_FD), FSD_PB2_LV, err);

    if (rc == VMC_OK)
        rc = check_place(f, ".sdd.sf", vmci_ld_le32(desc + FSD_SDD_FD), FSD_SDD_LV, err);
    for (uint32_t i = 0; i < f->v->ndevs && rc == VMC_OK; i++)
        rc = check_pe_maps(f, i, err);
    return rc;
}
