/* SPDX-License-Identifier: BSD-2-Clause */
/* The volume manager: extents to one logical volume. */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("lvm");

struct extent {
    uint32_t num_pes, units; /* entries of the table; 256 MiB units in the volume */
    uint64_t first_pe, last_pe, lv_bytes, data_off;
    uint32_t num_devs, volume;
    uint64_t more; /* where a further table is; 0: nowhere */
    struct vmc_vmfs_uuid lvm_uuid;
};

/* What follows from where the first unit of an extent is. Every volume that is known obeys this. */
static int check_linear(const struct extent *x, struct vmc_error *err)
{
    if (x->units == 0 || x->last_pe - x->first_pe + 1 != x->units || x->first_pe > UINT32_MAX ||
        x->last_pe > UINT32_MAX)
        return vmci_error(
            err, VMC_EFORMAT, site, "volume table: extents %llu to %llu do not make %u",
            (unsigned long long)x->first_pe, (unsigned long long)x->last_pe, x->units);
    return VMC_OK;
}

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
    if (major < 3 || major > 6)
        return vmci_error(err, VMC_EVERSION, site, "LVM major version is %u, not 3 to 6", major);
    d->lvm_major = major;
    d->md_align = major == 6 ? vmci_ld_le32(buf + LVM_MD_ALIGN) : FS_SECTOR;
    if (d->md_align != FS_SECTOR && d->md_align != FS_PAGE)
        return vmci_error(err, VMC_EFORMAT, site, "LVM metadata alignment is %u, not 512 or 4096",
                          d->md_align);
    const uint8_t *t = buf + d->md_align;
    memcpy(d->uuid.b, buf + LVM_DEV_UUID, 16);
    x->num_pes = vmci_ld_le32(buf + LVM_NUM_PES);
    x->data_off = vmci_ld_le64(buf + LVM_DATA);
    x->more = vmci_ld_le64(buf + LVM_MORE);
    x->volume = vmci_ld_le32(t + LVT_INDEX);
    x->units = vmci_ld_le32(t + LVT_NUM_PES);
    x->first_pe = vmci_ld_le64(t + LVT_FIRST_PE);
    x->last_pe = vmci_ld_le64(t + LVT_LAST_PE);
    x->lv_bytes = vmci_ld_le64(t + LVT_BYTES);
    x->num_devs = vmci_ld_le32(t + LVT_NUM_DEVS);
    memcpy(x->lvm_uuid.b, t + LVT_UUID, 16);
    if (x->data_off < 0x200000 || x->data_off > d->part_bytes)
        return vmci_error(err, VMC_EFORMAT, site, "LVM data offset is 0x%llx",
                          (unsigned long long)x->data_off);
    return VMC_OK;
}

/* ---- the table of physical extents
 * --------------------------------------------------------------- */

/*
 * A walk through the entries: a map has 8192 of them behind a bitmap, a region has up to eight
 * maps, and each region may name a further one.
 */
struct pe_walk {
    uint64_t header,
        bitmap;   /* sizes: in front of the maps of a region, in front of a map's entries */
    uint64_t map; /* where the map is that is being read */
    uint32_t maps, in_map; /* left in the region, that one included; the next entry of it */
    uint64_t more;
    uint32_t regions;
    uint64_t page; /* in buf; UINT64_MAX: none */
    uint8_t buf[FS_PAGE];
};

static void walk_begin(struct pe_walk *w, const struct fs_dev *d, const struct extent *x)
{
    w->header = d->md_align + 0x80000;
    w->bitmap = VMCI_MAX(d->md_align, LVM_PE_BITMAP);
    w->map = LVM_META_OFF + w->header;
    w->maps = LVM_MAX_MAPS;
    w->in_map = 0;
    w->more = x->more;
    w->regions = 0;
    w->page = UINT64_MAX;
}

static int walk_load(struct vmc_vmfs *v, const struct fs_dev *d, struct pe_walk *w, uint64_t at,
                     struct vmc_error *err)
{
    uint64_t page = vmci_align_down(at, FS_PAGE);

    if (page == w->page)
        return VMC_OK;
    w->page = UINT64_MAX;
    if (!vmci_range_ok(page, FS_PAGE, d->part_bytes))
        return vmci_error(err, VMC_EFORMAT, site,
                          "the table of physical extents at 0x%llx is outside of the partition",
                          (unsigned long long)at);
    int rc =
        vmci_fs_dev_io(v->pf, &d->bd, VMC_BLOCK_READ, d->part_off + page, w->buf, FS_PAGE, err);
    if (rc == VMC_OK)
        w->page = page;
    return rc;
}

static int walk_region(struct vmc_vmfs *v, const struct fs_dev *d, struct pe_walk *w,
                       struct vmc_error *err)
{
    uint64_t at = w->more;

    if (at == 0 || at % FS_SECTOR != 0 || w->regions++ == LVM_MAX_PES / LVM_PES_PER_MAP)
        return vmci_error(
            err, VMC_EFORMAT, site,
            "the table of physical extents ends before its last entry (next at 0x%llx)",
            (unsigned long long)at);
    int rc = walk_load(v, d, w, at, err);
    if (rc != VMC_OK)
        return rc;
    const uint8_t *h = w->buf + (at - w->page);
    w->maps = vmci_ld_le32(h + LVX_MAPS);
    if (vmci_ld_le32(h) != LVM_MAGIC || w->maps == 0 || w->maps > LVM_MAX_MAPS)
        return vmci_error(err, VMC_EFORMAT, site,
                          "further table of physical extents at 0x%llx: magic 0x%08x, %u maps",
                          (unsigned long long)at, vmci_ld_le32(h), w->maps);
    w->more = vmci_ld_le64(h + LVX_MORE);
    w->map = at + w->header;
    return VMC_OK;
}

static int walk_next(struct vmc_vmfs *v, const struct fs_dev *d, struct pe_walk *w,
                     const uint8_t **e, struct vmc_error *err)
{
    int rc = VMC_OK;

    if (w->in_map == LVM_PES_PER_MAP) {
        w->in_map = 0;
        w->map += w->bitmap + LVM_PES_PER_MAP * LVM_PE_ENTRY;
        if (--w->maps == 0)
            rc = walk_region(v, d, w, err);
    }
    /* Entries are 128 bytes at a multiple of 128: they never straddle a page. */
    uint64_t at = w->map + w->bitmap + (uint64_t)w->in_map++ * LVM_PE_ENTRY;
    if (rc == VMC_OK)
        rc = walk_load(v, d, w, at, err);
    if (rc == VMC_OK)
        *e = w->buf + (at - w->page);
    return rc;
}

/* Does every entry say what the linear rule says? */
static int check_pe_table(struct vmc_vmfs *v, const struct fs_dev *d, const struct extent *x,
                          struct vmc_error *err)
{
    struct pe_walk w;
    uint64_t logical = x->first_pe * LVM_PE_BYTES, phys = x->data_off;
    const uint8_t *e;
    int rc = check_linear(x, err);

    if (x->num_pes == 0 || x->num_pes > LVM_MAX_PES)
        return vmci_error(err, VMC_EFORMAT, site, "number of physical extents is %u", x->num_pes);
    walk_begin(&w, d, x);
    for (uint32_t i = 0; i < x->num_pes && rc == VMC_OK; i++) {
        rc = walk_next(v, d, &w, &e, err);
        if (rc != VMC_OK)
            break;
        uint64_t len = vmci_ld_le64(e + LVP_LENGTH);
        if (e[LVP_USED] != 1 || vmci_ld_le64(e + LVP_PHYS) != phys ||
            vmci_ld_le64(e + LVP_LOGICAL) != logical || len == 0 || len % LVM_PE_BYTES != 0 ||
            len > LVM_PE_MAX)
            rc = vmci_error(err, VMC_EFORMAT, site,
                            "physical extent %u: used %u, at 0x%llx, volume offset 0x%llx, "
                            "length 0x%llx; expected at 0x%llx, volume offset 0x%llx",
                            i, e[LVP_USED], (unsigned long long)vmci_ld_le64(e + LVP_PHYS),
                            (unsigned long long)vmci_ld_le64(e + LVP_LOGICAL),
                            (unsigned long long)len, (unsigned long long)phys,
                            (unsigned long long)logical);
        phys += len;
        logical += len;
    }
    if (rc == VMC_OK && logical != (x->last_pe + 1) * LVM_PE_BYTES)
        rc = vmci_error(
            err, VMC_EFORMAT, site, "physical extents end at volume offset 0x%llx, not 0x%llx",
            (unsigned long long)logical, (unsigned long long)((x->last_pe + 1) * LVM_PE_BYTES));
    return rc;
}

/*
 * The pieces of the volume that the table puts on a device: of extents that were enlarged after
 * others had been added, they are not contiguous. Entries that make no sense: VMC_EFORMAT.
 */
static int table_segs(struct vmc_vmfs *v, const struct fs_dev *d, uint32_t dev,
                      const struct extent *x, struct vmc_error *err)
{
    uint32_t first = v->nsegs;
    struct pe_walk w;
    const uint8_t *e;
    int rc = VMC_OK;

    walk_begin(&w, d, x);
    for (uint32_t i = 0; i < x->num_pes && rc == VMC_OK; i++) {
        rc = walk_next(v, d, &w, &e, err);
        if (rc != VMC_OK || e[LVP_USED] == 0 || vmci_ld_le32(e + LVP_VOLUME) != x->volume)
            continue;
        uint64_t lv = vmci_ld_le64(e + LVP_LOGICAL), phys = vmci_ld_le64(e + LVP_PHYS);
        uint64_t len = vmci_ld_le64(e + LVP_LENGTH);
        struct fs_seg *s = v->nsegs > first ? &v->seg[v->nsegs - 1] : NULL;
        if (e[LVP_USED] != 1 || len == 0 || (lv | phys | len) % FS_MIB != 0 || len > LVM_PE_MAX ||
            phys < x->data_off || !vmci_range_ok(phys, len, d->part_bytes) ||
            !vmci_range_ok(lv, len, x->lv_bytes))
            rc = vmci_error(err, VMC_EFORMAT, site,
                            "physical extent %u: used %u, at 0x%llx, volume offset 0x%llx, length "
                            "0x%llx",
                            i, e[LVP_USED], (unsigned long long)phys, (unsigned long long)lv,
                            (unsigned long long)len);
        else if (s != NULL && s->lv + s->bytes == lv && s->dev_off + s->bytes == d->part_off + phys)
            s->bytes += len;
        else if (v->nsegs == FS_MAX_SEGS)
            rc = vmci_error(err, VMC_ELIMIT, site, "the volume is in more than %u pieces",
                            FS_MAX_SEGS);
        else
            v->seg[v->nsegs++] =
                (struct fs_seg){.lv = lv, .bytes = len, .dev = dev, .dev_off = d->part_off + phys};
    }
    if (rc != VMC_OK)
        v->nsegs = first;
    return rc;
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
        vmci_ld_le32(buf) < FS_MAGIC || vmci_ld_le32(buf) > FS_MAGIC_6L)
        return false;
    d->lvm_major = 0;
    d->part_off = 0;
    d->part_bytes = d->lv_bytes = bytes;
    *x = (struct extent){.num_pes = 1, .units = 1, .lv_bytes = bytes, .num_devs = 1};
    memcpy(x->lvm_uuid.b, buf + FSD_LVM_UUID, 16);
    return true;
}

static int device_info(struct fs_dev *d, struct vmc_error *err)
{
    int rc = d->bd.ops->info(d->bd.ctx, &d->info);

    if (rc != VMC_OK)
        return vmci_error(err, rc, site, "a device does not say its size");
    if (d->info.sector_bytes < FS_SECTOR || d->info.sector_bytes > FS_PAGE ||
        !vmci_is_pow2(d->info.sector_bytes))
        return vmci_error(err, VMC_EINVAL, site, "device sectors of %u bytes",
                          d->info.sector_bytes);
    return VMC_OK;
}

static int open_extent(struct vmc_vmfs *v, struct fs_dev *d, struct extent *x,
                       struct vmc_error *err)
{
    int rc = device_info(d, err);

    if (rc != VMC_OK)
        return rc;
    rc = vmci_fs_find_partition(v->pf, &d->bd, &d->info, &d->part_off, &d->part_bytes, err);
    if (rc == VMC_EFORMAT && bare_volume(v, d, x))
        return VMC_OK;
    if (rc == VMC_EFORMAT && v->ro &&
        vmci_fs_guess_partition(v->pf, &d->bd, &d->info, &d->part_off, &d->part_bytes)) {
        struct vmc_error why;
        vmci_error(&why, VMC_EFORMAT, site, "no table names the partition at 0x%llx",
                   (unsigned long long)d->part_off);
        rc = vmci_fs_doubt(v, &why, err);
    }
    return rc == VMC_OK ? read_header(v, d, x, err) : rc;
}

/* By the linear rule, an extent is one piece. */
static int linear_seg(struct vmc_vmfs *v, struct fs_dev *d, uint32_t dev, const struct extent *x,
                      struct vmc_error *err)
{
    uint64_t lv = x->first_pe * LVM_PE_BYTES, bytes = (uint64_t)x->units * LVM_PE_BYTES;
    struct vmc_error why;

    if (d->lvm_major == 0)
        bytes = d->lv_bytes; /* bare */
    d->lv_bytes = bytes;
    if (!vmci_range_ok(x->data_off, bytes, d->part_bytes)) {
        vmci_error(&why, VMC_EFORMAT, site,
                   "extent needs 0x%llx bytes from 0x%llx, its partition has 0x%llx",
                   (unsigned long long)bytes, (unsigned long long)x->data_off,
                   (unsigned long long)d->part_bytes);
        int rc = vmci_fs_doubt(v, &why, err); /* what is there can be read */
        if (rc != VMC_OK)
            return rc;
    }
    if (v->nsegs == FS_MAX_SEGS)
        return vmci_error(err, VMC_ELIMIT, site, "the volume is in more than %u pieces",
                          FS_MAX_SEGS);
    v->seg[v->nsegs++] =
        (struct fs_seg){.lv = lv, .bytes = bytes, .dev = dev, .dev_off = d->part_off + x->data_off};
    return VMC_OK;
}

/*
 * Where the volume's bytes are on a device. The table and the linear rule have to agree on volumes
 * that are written to; one that is only read is read by the table where that makes sense.
 */
static int place(struct vmc_vmfs *v, uint32_t i, const struct extent *x, struct vmc_error *err)
{
    struct fs_dev *d = &v->dev[i];
    struct vmc_error why;
    int rc = d->lvm_major == 0 ? VMC_OK : check_pe_table(v, d, x, &why);

    if (rc == VMC_OK)
        return linear_seg(v, d, i, x, err);
    if (rc == VMC_EFORMAT && v->ro) {
        vmci_fs_overlook(v, &why);
        uint32_t segs = v->nsegs;
        if (x->num_pes <= LVM_MAX_PES && table_segs(v, d, i, x, NULL) == VMC_OK && v->nsegs > segs)
            return VMC_OK;
        rc = check_linear(x, &why);
        if (rc == VMC_OK)
            return linear_seg(v, d, i, x, err);
    }
    if (err != NULL)
        *err = why;
    return rc;
}

static void sort_segs(struct fs_seg *s, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 0 && s[k].lv < s[k - 1].lv; k--) {
            struct fs_seg t = s[k];
            s[k] = s[k - 1];
            s[k - 1] = t;
        }
}

static int join(struct vmc_vmfs *v, const struct extent *x, struct vmc_error *err)
{
    struct vmc_error why;
    uint64_t lv = 0;
    int rc = VMC_OK;

    for (uint32_t i = 1; i < v->ndevs && rc == VMC_OK; i++) {
        if (memcmp(x[i].lvm_uuid.b, x[0].lvm_uuid.b, 16) != 0)
            return vmci_error(err, VMC_EFORMAT, site,
                              "device %u belongs to another volume than device 0", i);
        if (x[i].lv_bytes == x[0].lv_bytes && x[i].num_devs == x[0].num_devs &&
            v->dev[i].lvm_major == v->dev[0].lvm_major)
            continue;
        /* One that was added by another version; one of before others were added. */
        vmci_error(&why, VMC_EFORMAT, site,
                   "device %u says version %u, %u devices, 0x%llx bytes, device 0 version %u, %u "
                   "devices, 0x%llx bytes",
                   i, v->dev[i].lvm_major, x[i].num_devs, (unsigned long long)x[i].lv_bytes,
                   v->dev[0].lvm_major, x[0].num_devs, (unsigned long long)x[0].lv_bytes);
        rc = vmci_fs_doubt(v, &why, err);
    }
    if (rc == VMC_OK && x[0].num_devs != v->ndevs) {
        vmci_error(&why, VMC_EFORMAT, site, "the volume has %u extents, %u given", x[0].num_devs,
                   v->ndevs);
        rc = vmci_fs_doubt(v, &why, err);
    }
    for (uint32_t i = 0; i < v->ndevs && rc == VMC_OK; i++)
        rc = place(v, i, &x[i], err);
    sort_segs(v->seg, v->nsegs);
    for (uint32_t i = 0; i < v->nsegs && rc == VMC_OK; i++) {
        const struct fs_seg *s = &v->seg[i];
        if (s->lv < lv)
            return vmci_error(err, VMC_EFORMAT, site,
                              "a piece of the volume begins at 0x%llx, where another one is",
                              (unsigned long long)s->lv);
        if (s->lv > lv) {
            vmci_error(&why, VMC_EFORMAT, site,
                       "an extent begins at volume offset 0x%llx, expected 0x%llx",
                       (unsigned long long)s->lv, (unsigned long long)lv);
            rc = vmci_fs_doubt(v, &why, err);
        }
        lv = s->lv + s->bytes;
    }
    if (rc == VMC_OK && lv != x[0].lv_bytes) {
        vmci_error(&why, VMC_EFORMAT, site,
                   "volume table: logical size is 0x%llx, the extents make 0x%llx",
                   (unsigned long long)x[0].lv_bytes, (unsigned long long)lv);
        rc = vmci_fs_doubt(v, &why, err);
    }
    v->g.lv_bytes = lv;
    v->lvm_uuid = x[0].lvm_uuid;
    return rc;
}

int vmci_fs_lvm_open(struct vmc_vmfs *v, const struct vmc_vmfs_mount_config *cfg,
                     struct vmc_error *err)
{
    if (cfg->dev_count == 0 || cfg->dev_count > VMC_VMFS_MAX_EXTENTS)
        return vmci_error(err, VMC_EINVAL, site, "%u devices given, 1 to %u are possible",
                          cfg->dev_count, VMC_VMFS_MAX_EXTENTS);
    struct extent *x = vmci_zalloc(v->pf, VMC_VMFS_MAX_EXTENTS * sizeof(*x));
    v->seg = vmci_zalloc(v->pf, FS_MAX_SEGS * sizeof(*v->seg));
    int rc = x != NULL && v->seg != NULL
                 ? VMC_OK
                 : vmci_error(err, VMC_ENOMEM, site, "no memory for the extents");
    v->ndevs = cfg->dev_count;
    for (uint32_t i = 0; i < v->ndevs && rc == VMC_OK; i++) {
        v->dev[i].bd = cfg->devs[i];
        rc = open_extent(v, &v->dev[i], &x[i], err);
    }
    if (rc == VMC_OK)
        rc = join(v, x, err);
    vmci_free(v->pf, x, VMC_VMFS_MAX_EXTENTS * sizeof(*x));
    return rc;
}

int vmc_vmfs_probe(const struct vmc_platform *pf, const struct vmc_blockdev *dev,
                   struct vmc_vmfs_probe *out, struct vmc_error *err)
{
    int rc = vmc_platform_check(pf, err);

    if (rc != VMC_OK)
        return rc;
    struct vmc_vmfs *v = vmci_zalloc(pf, sizeof(*v));
    if (v == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for a volume");
    struct fs_dev *d = &v->dev[0];
    struct extent x = {0};
    v->pf = pf;
    d->bd = *dev;
    rc = device_info(d, err);
    if (rc == VMC_OK) {
        rc = vmci_fs_find_partition(pf, dev, &d->info, &d->part_off, &d->part_bytes, err);
        if (rc == VMC_EFORMAT)
            rc = err != NULL ? err->code = VMC_ENOENT : VMC_ENOENT;
    }
    if (rc == VMC_OK)
        rc = read_header(v, d, &x, err);
    if (rc == VMC_OK)
        *out = (struct vmc_vmfs_probe){
            .lvm_uuid = x.lvm_uuid, .dev_uuid = d->uuid, .extents = x.num_devs};
    vmci_free(pf, v, sizeof(*v));
    return rc;
}
