/* SPDX-License-Identifier: BSD-2-Clause */
/* The volume manager: extents to one logical volume. */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("lvm");

struct extent {
    uint32_t num_pes, units; /* entries of the table; 256 MiB units in the volume */
    uint64_t first_pe, last_pe, lv_bytes, data_off;
    uint32_t num_devs, pe_maps;
    struct vmc_vmfs_uuid lvm_uuid;
};

static int read_header(struct vmc_vmfs *v, struct fs_dev *d, struct extent *x,
                       struct vmc_error *err)
{
    uint8_t buf[2 * FS_PAGE];
    int rc = vmci_fs_dev_io(v->pf, &d->bd, VMC_BLOCK_READ, d->part_off + LVM_META_OFF, buf,
                            sizeof(buf), err);
    if (rc != VMC_OK)
        return rc;
    uint32_t major = vmci_ld_le32(buf + LVM_MAJOR);
    if (vmci_ld_le32(buf) != LVM_MAGIC)
        return vmci_error(err, VMC_EFORMAT, site, "LVM magic is 0x%08x, not 0x%08x",
                          vmci_ld_le32(buf), LVM_MAGIC);
    if (major != 3 && major != 5 && major != 6)
        return vmci_error(err, VMC_EVERSION, site, "LVM major version is %u, not 3, 5 or 6", major);
    d->lvm_major = major;
    d->md_align = major == 6 ? vmci_ld_le32(buf + LVM_MD_ALIGN) : FS_SECTOR;
    if (d->md_align != FS_SECTOR && d->md_align != FS_PAGE)
        return vmci_error(err, VMC_EFORMAT, site, "LVM metadata alignment is %u, not 512 or 4096",
                          d->md_align);
    const uint8_t *t = buf + d->md_align;
    memcpy(d->uuid.b, buf + LVM_DEV_UUID, 16);
    x->num_pes = vmci_ld_le32(buf + LVM_NUM_PES);
    x->data_off = vmci_ld_le64(buf + LVM_DATA);
    x->pe_maps = VMCI_MAX(vmci_ld_le32(buf + LVM_PE_MAPS), 1u);
    x->units = vmci_ld_le32(t + LVT_NUM_PES);
    x->first_pe = vmci_ld_le64(t + LVT_FIRST_PE);
    x->last_pe = vmci_ld_le64(t + LVT_LAST_PE);
    x->lv_bytes = vmci_ld_le64(t + LVT_BYTES);
    x->num_devs = vmci_ld_le32(t + LVT_NUM_DEVS);
    memcpy(x->lvm_uuid.b, t + LVT_UUID, 16);
    if (x->num_pes == 0 || x->num_pes > LVM_PES_PER_MAP * LVM_MAX_MAPS)
        return vmci_error(err, VMC_EFORMAT, site, "number of physical extents is %u", x->num_pes);
    if (x->units == 0 || x->last_pe - x->first_pe + 1 != x->units || x->first_pe > UINT32_MAX ||
        x->last_pe > UINT32_MAX)
        return vmci_error(
            err, VMC_EFORMAT, site, "volume table: extents %llu to %llu do not make %u",
            (unsigned long long)x->first_pe, (unsigned long long)x->last_pe, x->units);
    if (x->num_devs == 0 || x->num_devs > VMC_VMFS_MAX_EXTENTS)
        return vmci_error(err, VMC_EFORMAT, site, "volume table: number of devices is %u",
                          x->num_devs);
    if (x->data_off < 0x200000 || x->data_off > d->part_bytes)
        return vmci_error(err, VMC_EFORMAT, site, "LVM data offset is 0x%llx",
                          (unsigned long long)x->data_off);
    return VMC_OK;
}

/*
 * Every entry has to say what the linear rule says: no volume is known where they differ, and
 * readers exist for either. The data of the device end at *end.
 */
static int check_pe_table(struct vmc_vmfs *v, const struct fs_dev *d, const struct extent *x,
                          struct vmc_error *err)
{
    uint8_t buf[FS_PAGE];
    uint64_t bitmap = d->lvm_major == 6 ? LVM6_PE_BITMAP_OFF : LVM_PE_BITMAP_OFF;
    uint64_t bitmap_bytes = VMCI_MAX(d->md_align, LVM_PE_BITMAP);
    uint64_t pair = bitmap_bytes + LVM_PES_PER_MAP * LVM_PE_ENTRY;
    uint64_t logical = x->first_pe * LVM_PE_BYTES, phys = x->data_off;

    if (d->lvm_major == 6 && d->md_align != FS_PAGE)
        bitmap = LVM_META_OFF + 0x80200;
    for (uint32_t i = 0; i < x->num_pes; i++) {
        uint64_t at = bitmap + (i / LVM_PES_PER_MAP) * pair + bitmap_bytes +
                      (uint64_t)(i % LVM_PES_PER_MAP) * LVM_PE_ENTRY;
        uint64_t sector = vmci_align_down(at, FS_PAGE);
        /* Entries are 128 bytes at a multiple of 128: they never straddle this window. */
        if (i == 0 || at % FS_PAGE < LVM_PE_ENTRY || i % LVM_PES_PER_MAP == 0) {
            int rc = vmci_fs_dev_io(v->pf, &d->bd, VMC_BLOCK_READ, d->part_off + sector, buf,
                                    FS_PAGE, err);
            if (rc != VMC_OK)
                return rc;
        }
        const uint8_t *e = buf + (at - sector);
        uint64_t len = vmci_ld_le64(e + LVP_LENGTH);
        if (e[LVP_USED] != 1 || vmci_ld_le64(e + LVP_PHYS) != phys ||
            vmci_ld_le64(e + LVP_LOGICAL) != logical || len == 0 || len % LVM_PE_BYTES != 0 ||
            len > 16384ull * 1024 * FS_MIB)
            return vmci_error(err, VMC_EFORMAT, site,
                              "physical extent %u: used %u, at 0x%llx, volume offset 0x%llx, "
                              "length 0x%llx; expected at 0x%llx, volume offset 0x%llx",
                              i, e[LVP_USED], (unsigned long long)vmci_ld_le64(e + LVP_PHYS),
                              (unsigned long long)vmci_ld_le64(e + LVP_LOGICAL),
                              (unsigned long long)len, (unsigned long long)phys,
                              (unsigned long long)logical);
        phys += len;
        logical += len;
    }
    if (logical != (x->last_pe + 1) * LVM_PE_BYTES)
        return vmci_error(
            err, VMC_EFORMAT, site, "physical extents end at volume offset 0x%llx, not 0x%llx",
            (unsigned long long)logical, (unsigned long long)((x->last_pe + 1) * LVM_PE_BYTES));
    return VMC_OK;
}

/*
 * A logical volume without a volume manager around it: a copy of one, or a volume inside of another
 * partition scheme. It is only read.
 */
static bool bare_volume(struct vmc_vmfs *v, struct fs_dev *d, struct extent *x)
{
    uint8_t buf[FS_PAGE];
    uint64_t bytes = vmci_align_down(d->info.bytes, FS_MIB);

    if (!v->ro || v->ndevs != 1 || bytes < 64 * FS_MIB ||
        vmci_fs_dev_io(v->pf, &d->bd, VMC_BLOCK_READ, FS_DESC_LV, buf, FS_PAGE, NULL) != VMC_OK ||
        (vmci_ld_le32(buf) != FS_MAGIC && vmci_ld_le32(buf) != FS_MAGIC_L))
        return false;
    d->lvm_major = 0;
    d->part_off = 0;
    d->part_bytes = d->lv_bytes = bytes;
    *x = (struct extent){.num_pes = 1, .units = 1, .lv_bytes = bytes, .num_devs = 1};
    memcpy(x->lvm_uuid.b, buf + FSD_LVM_UUID, 16);
    return true;
}

/* The linear rule reads every volume that is known, whatever becomes of its table. */
static int use_pe_table(struct vmc_vmfs *v, const struct fs_dev *d, const struct extent *x,
                        struct vmc_error *err)
{
    struct vmc_error why;
    int rc = check_pe_table(v, d, x, &why);

    if (rc == VMC_EFORMAT && v->ro) {
        vmci_fs_overlook(v, &why);
        rc = VMC_OK;
    }
    if (rc != VMC_OK && err != NULL)
        *err = why;
    return rc;
}

static int open_extent(struct vmc_vmfs *v, struct fs_dev *d, struct extent *x,
                       struct vmc_error *err)
{
    int rc = d->bd.ops->info(d->bd.ctx, &d->info);

    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "a device does not say its size");
    if (d->info.sector_bytes < FS_SECTOR || d->info.sector_bytes > FS_PAGE ||
        !vmci_is_pow2(d->info.sector_bytes))
        return vmci_error(err, VMC_EINVAL, site, "device sectors of %u bytes",
                          d->info.sector_bytes);
    rc = vmci_fs_find_partition(v->pf, &d->bd, &d->info, &d->part_off, &d->part_bytes, err);
    if (rc == VMC_EFORMAT && bare_volume(v, d, x))
        return VMC_OK;
    if (rc == VMC_OK)
        rc = read_header(v, d, x, err);
    if (rc == VMC_OK)
        rc = use_pe_table(v, d, x, err);
    if (rc != VMC_OK)
        return rc;
    d->first_lv = x->first_pe * LVM_PE_BYTES;
    d->lv_bytes = (uint64_t)x->units * LVM_PE_BYTES;
    if (!vmci_range_ok(x->data_off, d->lv_bytes, d->part_bytes))
        return vmci_error(err, VMC_EFORMAT, site,
                          "extent needs 0x%llx bytes from 0x%llx, its partition has 0x%llx",
                          (unsigned long long)d->lv_bytes, (unsigned long long)x->data_off,
                          (unsigned long long)d->part_bytes);
    return VMC_OK;
}

static void sort_by_lv(struct fs_dev *dev, struct extent *x, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 0 && dev[k].first_lv < dev[k - 1].first_lv; k--) {
            struct fs_dev d = dev[k];
            struct extent e = x[k];
            dev[k] = dev[k - 1];
            dev[k - 1] = d;
            x[k] = x[k - 1];
            x[k - 1] = e;
        }
}

static int join(struct vmc_vmfs *v, const struct extent *x, struct vmc_error *err)
{
    uint64_t lv = 0;

    if (x[0].num_devs != v->ndevs)
        return vmci_error(err, VMC_EFORMAT, site, "the volume has %u extents, %u given",
                          x[0].num_devs, v->ndevs);
    for (uint32_t i = 0; i < v->ndevs; i++) {
        if (memcmp(x[i].lvm_uuid.b, x[0].lvm_uuid.b, 16) != 0 || x[i].lv_bytes != x[0].lv_bytes ||
            x[i].num_devs != x[0].num_devs || v->dev[i].lvm_major != v->dev[0].lvm_major)
            return vmci_error(err, VMC_EFORMAT, site,
                              "extent %u belongs to another volume than extent 0", i);
        if (v->dev[i].first_lv != lv)
            return vmci_error(err, VMC_EFORMAT, site,
                              "extent %u begins at volume offset 0x%llx, expected 0x%llx", i,
                              (unsigned long long)v->dev[i].first_lv, (unsigned long long)lv);
        v->seg[i] = (struct fs_seg){.lv = lv,
                                    .bytes = v->dev[i].lv_bytes,
                                    .dev = i,
                                    .dev_off = v->dev[i].part_off + x[i].data_off};
        lv += v->dev[i].lv_bytes;
    }
    v->nsegs = v->ndevs;
    if (lv != x[0].lv_bytes)
        return vmci_error(err, VMC_EFORMAT, site,
                          "volume table: logical size is 0x%llx, the extents make 0x%llx",
                          (unsigned long long)x[0].lv_bytes, (unsigned long long)lv);
    v->g.lv_bytes = lv;
    v->lvm_uuid = x[0].lvm_uuid;
    return VMC_OK;
}

int vmci_fs_lvm_open(struct vmc_vmfs *v, const struct vmc_vmfs_mount_config *cfg,
                     struct vmc_error *err)
{
    if (cfg->dev_count == 0 || cfg->dev_count > VMC_VMFS_MAX_EXTENTS)
        return vmci_error(err, VMC_EINVAL, site, "%u devices given, 1 to %u are possible",
                          cfg->dev_count, VMC_VMFS_MAX_EXTENTS);
    struct extent *x = vmci_zalloc(v->pf, VMC_VMFS_MAX_EXTENTS * sizeof(*x));
    v->seg = vmci_zalloc(v->pf, VMC_VMFS_MAX_EXTENTS * sizeof(*v->seg));
    int rc = x != NULL && v->seg != NULL
                 ? VMC_OK
                 : vmci_error(err, VMC_ENOMEM, site, "no memory for the extents");
    v->ndevs = cfg->dev_count;
    for (uint32_t i = 0; i < v->ndevs && rc == VMC_OK; i++) {
        v->dev[i].bd = cfg->devs[i];
        rc = open_extent(v, &v->dev[i], &x[i], err);
    }
    if (rc == VMC_OK) {
        sort_by_lv(v->dev, x, v->ndevs);
        rc = join(v, x, err);
    }
    vmci_free(v->pf, x, VMC_VMFS_MAX_EXTENTS * sizeof(*x));
    return rc;
}
