/* SPDX-License-Identifier: BSD-2-Clause */
/* Formatting: VMFS3 and VMFS5, and what comes before for all versions. */
#include "vmfs/vmfs_mkfs.h"

static const char site[] = SITE("mkfs");

#define FIRST_STAMP  0x201u
#define FIRST_STAMP6 0x191u

const char *const vmci_fs_mk_names[MK_FILES] = {
    "/", ".fbb.sf", ".fdc.sf", ".pbc.sf", ".sbc.sf", ".vh.sf", ".pb2.sf", ".sdd.sf", ".jbc.sf"};

static uint32_t files(const struct mk *m)
{
    return m->version == 3 ? 6 : m->version == 5 ? 8 : 9;
}

/* ---- geometry
 * ------------------------------------------------------------------------------------ */

static int random_uuid(const struct mk *m, const struct vmc_vmfs_uuid *given, uint32_t n,
                       struct vmc_vmfs_uuid *out, struct vmc_error *err)
{
    const struct vmc_platform *pf = m->v->pf;
    static const struct vmc_vmfs_uuid zero;

    *out = *given;
    if (memcmp(given, &zero, sizeof(zero)) != 0)
        return VMC_OK;
    vmci_st_le64(out->b + 4, vmci_fs_now(m->v) + n);
    if (vmci_pf_has(pf, entropy) && pf->entropy->fill(pf->ctx, out->b, 16) != VMC_OK)
        return vmci_error(err, VMC_EHOST, site, "no randomness for UUIDs");
    vmci_st_le32(out->b, m->time_s);
    out->b[10] = (uint8_t)((out->b[10] & 0xFC) | 2); /* a locally administered MAC address */
    return VMC_OK;
}

static int open_devices(struct mk *m, struct vmc_error *err)
{
    const struct vmc_vmfs_mkfs_config *cfg = m->cfg;
    struct vmc_vmfs *v = m->v;
    uint64_t lv = 0;

    for (uint32_t i = 0; i < cfg->dev_count; i++) {
        struct fs_dev *d = &v->dev[i];
        d->bd = cfg->devs[i];
        int rc = d->bd.ops->info(d->bd.ctx, &d->info);
        if (rc != VMC_OK)
            return vmci_error(err, rc, site, "device %u does not say its size", i);
        if (d->info.read_only)
            return vmci_error(err, VMC_EPERM, site, "device %u cannot be written", i);
        if (d->info.sector_bytes != FS_SECTOR)
            return vmci_error(err, VMC_ENOTSUP, site,
                              "VMFS%u is written on devices of 512-byte sectors, not %u",
                              m->version, d->info.sector_bytes);
        d->uuid = m->dev;
        vmci_st_le16(d->uuid.b + 8, (uint16_t)(vmci_ld_le16(m->dev.b + 8) + i));
        d->part_off = 0;
        d->part_bytes = d->info.bytes;
        if (cfg->partition)
            rc = vmci_fs_plan_partition(&d->info, m->version != 3, &d->part_off, &d->part_bytes,
                                        err);
        if (rc != VMC_OK)
            return rc;
        uint64_t pes =
            d->part_bytes < LVM_DATA_START ? 0 : (d->part_bytes - LVM_DATA_START) / LVM_PE_BYTES;
        if (pes == 0)
            return vmci_error(err, VMC_EINVAL, site, "device %u is too small: 273 MiB are needed",
                              i);
        if (pes > LVM_PES_PER_MAP * LVM_MAX_MAPS)
            return vmci_error(err, VMC_ELIMIT, site,
                              "device %u is larger than 16 TiB: use several extents", i);
        m->pes[i] = (uint32_t)pes;
        v->seg[i] = (struct fs_seg){.lv = lv,
                                    .bytes = pes * LVM_PE_BYTES,
                                    .dev = i,
                                    .dev_off = d->part_off + LVM_DATA_START};
        lv += pes * LVM_PE_BYTES;
    }
    v->ndevs = v->nsegs = cfg->dev_count;
    v->g.lv_bytes = lv;
    return VMC_OK;
}

static int write_partitions(const struct mk *m, struct vmc_error *err)
{
    int rc = VMC_OK;

    for (uint32_t i = 0; m->cfg->partition && i < m->v->ndevs && rc == VMC_OK; i++) {
        const struct fs_dev *d = &m->v->dev[i];
        rc = vmci_fs_write_partition(m->v->pf, &d->bd, &d->info, m->version != 3, &d->uuid,
                                     d->part_off, d->part_bytes, err);
    }
    return rc;
}

static int choose_geometry(struct mk *m, struct vmc_error *err)
{
    struct fs_geometry *g = &m->v->g;
    static const uint32_t major[] = {[3] = FS_MAJOR_3, [5] = FS_MAJOR_5, [6] = FS_MAJOR_6};
    static const uint32_t minor[] = {[3] = 31, [5] = 81, [6] = 82};

    g->version = m->version;
    g->major = major[m->version];
    g->minor = minor[m->version];
    g->md_align = m->version == 6 ? FS_PAGE : FS_SECTOR;
    g->fb_bytes = m->cfg->block_bytes ? m->cfg->block_bytes : FS_MIB;
    if (!vmci_is_pow2(g->fb_bytes) || g->fb_bytes < FS_MIB || g->fb_bytes > 8 * FS_MIB ||
        (m->version != 3 && g->fb_bytes != FS_MIB))
        return vmci_error(err, VMC_EINVAL, site, "VMFS%u cannot have file blocks of %llu bytes",
                          m->version, (unsigned long long)g->fb_bytes);
    g->fb_shift = (uint32_t)__builtin_ctzll(g->fb_bytes);
    g->sb_bytes = m->version == 5 ? 0x2000 : 0x10000;
    g->dense = m->version != 3;
    g->lfb_shift = g->fb_shift + 9;
    vmci_fs_geometry_sizes(g);
    if (g->blocks > 1u << 26)
        return vmci_error(err, VMC_ELIMIT, site, "a volume has at most 64 TiB");
    uint32_t cpg = m->version == 3 ? 32 : m->version == 5 ? 64 : 8;
    g->fd0_lv = g->fdc_base + RF_HEADER + (uint64_t)cpg * g->ch_bytes;
    return VMC_OK;
}

static uint32_t pick(uint32_t given, uint64_t usual, uint64_t most)
{
    return given ? given : (uint32_t)VMCI_MAX(VMCI_MIN(usual, most), 1u);
}

static void counts(struct mk *m)
{
    const struct vmc_vmfs_mkfs_config *c = m->cfg;
    const struct fs_geometry *g = &m->v->g;
    bool v3 = m->version == 3;
    uint64_t fbs = g->blocks;
    uint32_t cpg = v3 ? 32 : 64;

    m->f[FBB] = (struct mk_file){.lock_type = LK_FBB, .rpc = 200, .n = fbs};
    m->f[FDC] =
        (struct mk_file){.lock_type = LK_FDC,
                         .rs = 0x800,
                         .n = pick(c->fds, g->lv_bytes / (4 * FS_MIB), v3 ? 30720 : 130000)};
    m->f[FDC].rpc = m->f[FDC].n <= 2048 ? 32 : 200;
    uint64_t gib_blocks = fbs * g->fb_bytes <= 256 * FS_MIB ? 1 : fbs / 1024 + 1;
    m->f[PBC] = (struct mk_file){.lock_type = LK_PBC,
                                 .rs = 0x1000,
                                 .rpc = 16,
                                 .n = pick(c->pointer_blocks, gib_blocks, v3 ? 61440 : 64512)};
    m->f[SBC] = (struct mk_file){
        .lock_type = LK_SBC, .rs = g->sb_bytes, .n = pick(c->sub_blocks, fbs, v3 ? 3968 : 32000)};
    m->f[SBC].rpc = v3 ? 16 : m->f[SBC].n <= 4096 ? 32 : 64;
    m->f[PB2] = (struct mk_file){.lock_type = LK_PB2,
                                 .rs = 0x1000,
                                 .rpc = 16,
                                 .n = pick(c->pointer_blocks2, g->lv_bytes >> 34, 256)};
    m->f[VH].length = g->fdc_base;
    m->f[ROOT].length = (2 + files(m) - 1) * DE_BYTES;
    m->f[SDD].length = 2 * DE_BYTES;
    for (uint32_t i = 0; i < files(m); i++) {
        struct mk_file *f = &m->f[i];
        f->name = vmci_fs_mk_names[i];
        f->fd_index = i;
        f->cpg = cpg;
        f->type = i == ROOT ? VMC_VMFS_DIR : VMC_VMFS_SYSTEM;
        f->links = i == ROOT ? (v3 ? 2 : 3) : i == SDD ? 2 : 1;
        f->mode = i == ROOT ? 01755 : i == SDD ? 040700 : 0400;
        vmci_fs_mk_size(m, f);
    }
}

/*
 * Consecutive file blocks, in the order that the format has. Pointer blocks for files that do not
 * fit the direct addresses come from the beginning of .pbc.sf.
 */
static int assign(struct mk *m, struct vmc_error *err)
{
    static const uint8_t order[] = {FBB, FDC, PBC, SBC, PB2, SDD};
    uint32_t at = m->f[VH].blocks;

    if (m->f[PBC].blocks > 256)
        return vmci_error(err, VMC_ELIMIT, site, "%llu pointer blocks are too many",
                          (unsigned long long)m->f[PBC].n);
    if (m->f[FDC].clusters > 65536 || m->f[SBC].clusters > 0x3FFFFF)
        return vmci_error(err, VMC_ELIMIT, site, "too many file descriptors or sub-blocks");
    m->f[VH].first = 0;
    m->f[VH].rest = 1;
    m->f[FDC].first = at++;
    m->f[ROOT].first = at++;
    for (uint32_t i = 0; i < sizeof(order); i++) {
        struct mk_file *f = &m->f[order[i]];
        if (order[i] >= files(m))
            continue;
        if (order[i] != FDC)
            f->first = at++;
        f->rest = at;
        at += f->blocks - 1;
        if (f->blocks > 256)
            f->used = (f->blocks + 1023) / 1024; /* its pointer blocks, for now */
    }
    m->next_fb = at;
    for (uint32_t i = 0; i < files(m); i++)
        m->next_pb += m->f[i].used;
    if (at > m->v->g.blocks || m->next_pb > m->f[PBC].n)
        return vmci_error(err, VMC_ENOSPC, site,
                          "the metadata need %u file blocks and %u pointer blocks, there are %llu "
                          "and %llu",
                          at, m->next_pb, (unsigned long long)m->v->g.blocks,
                          (unsigned long long)m->f[PBC].n);
    return VMC_OK;
}

/* ---- writing
 * ------------------------------------------------------------------------------------- */

uint64_t vmci_fs_mk_lv(const struct mk *m, const struct mk_file *f, uint64_t off)
{
    uint64_t fb = m->v->g.fb_bytes;
    return (uint64_t)vmci_fs_mk_block(f, (uint32_t)(off / fb)) * fb + off % fb;
}

/* A range of a system file that may cross file blocks. */
int vmci_fs_mk_write(struct mk *m, const struct mk_file *f, uint64_t off, const uint8_t *buf,
                     uint64_t bytes, struct vmc_error *err)
{
    uint64_t fb = m->v->g.fb_bytes;

    while (bytes > 0) {
        /* All blocks but the first follow each other: zeros are one request. */
        uint64_t n = buf == NULL && off >= fb ? bytes : VMCI_MIN(bytes, fb - off % fb);
        int rc = buf != NULL ? vmci_fs_write(m->v, vmci_fs_mk_lv(m, f, off), buf, n, err)
                             : vmci_fs_zero(m->v, vmci_fs_mk_lv(m, f, off), n, err);
        if (rc != VMC_OK)
            return rc;
        off += n;
        buf = buf != NULL ? buf + n : NULL;
        bytes -= n;
    }
    return VMC_OK;
}

static void cluster(struct mk *m, const struct mk_file *f, uint32_t c, uint32_t used, uint64_t lv,
                    uint8_t *p)
{
    uint32_t total = (uint32_t)VMCI_MIN(f->rpc, f->n - (uint64_t)c * f->rpc);
    uint64_t first = (uint64_t)c * f->rpc;
    uint32_t taken = used > first ? (uint32_t)VMCI_MIN(used - first, total) : 0;
    uint8_t *md = p + 0x200;

    vmci_fs_mk_lock(m, p, f->lock_type, lv, true);
    vmci_st_le32(md + CL_NUMBER, c);
    vmci_st_le32(md + CL_TOTAL, total);
    vmci_st_le32(md + CL_FREE, total - taken);
    vmci_st_le32(md + CL_NEXT, taken < total ? taken : 0);
    if (taken == 0) {
        memset(md + CL_BITMAP, 0xFF, total / 8);
        if (total % 8 != 0)
            md[CL_BITMAP + total / 8] = (uint8_t)((1u << (total % 8)) - 1);
    }
    for (uint32_t i = taken; taken != 0 && i < total; i++)
        md[CL_BITMAP + i / 8] |= (uint8_t)(1u << (i % 8));
}

static int resource_file(struct mk *m, const struct mk_file *f, uint32_t used,
                         struct vmc_error *err)
{
    uint8_t *h = m->buf;
    uint32_t headers = f->cpg * 0x400;

    memset(h, 0, RF_HEADER);
    vmci_st_le32(h + RF_RPC, f->rpc);
    vmci_st_le32(h + RF_CPG, f->cpg);
    vmci_st_le32(h + RF_GROUP_OFF, RF_HEADER);
    vmci_st_le32(h + RF_RS, f->rs);
    vmci_st_le32(h + RF_GS, (uint32_t)f->gs);
    vmci_st_le32(h + RF_N, (uint32_t)f->n);
    vmci_st_le32(h + RF_GROUPS, f->groups);
    vmci_st_le32(h + RF_N_HIGH, (uint32_t)(f->n >> 32));
    int rc = vmci_fs_mk_write(m, f, 0, h, RF_HEADER, err);
    for (uint32_t g = 0; g < f->groups && rc == VMC_OK; g++) {
        uint64_t off = RF_HEADER + g * f->gs;
        memset(m->buf, 0, headers);
        for (uint32_t k = 0; k < f->cpg && g * f->cpg + k < f->clusters; k++)
            cluster(m, f, g * f->cpg + k, used, vmci_fs_mk_lv(m, f, off + k * 0x400ull),
                    m->buf + k * 0x400u);
        rc = vmci_fs_mk_write(m, f, off, m->buf, headers, err);
    }
    return rc;
}

/* Addresses of a system file: direct, or through pointer blocks from *pb on. */
static int addresses(struct mk *m, const struct mk_file *f, uint32_t *pb, uint8_t *fd,
                     struct vmc_error *err)
{
    const struct fs_geometry *g = &m->v->g;
    const struct mk_file *pbc = &m->f[PBC];

    if (f->blocks <= 256) {
        for (uint32_t i = 0; i < f->blocks; i++)
            vmci_st_le32(fd + 0x400 + i * 4, vmci_fs_mk_block(f, i) << 6 | AD_FB);
        return VMC_OK;
    }
    vmci_st_le32(fd + 0x200 + FD_ZLA, ZLA_PB);
    if (m->version == 5)
        vmci_st_le32(fd + 0x200 + FD_PBS, (f->blocks + 1023) / 1024);
    for (uint32_t i = 0; i < f->blocks; i += 1024, (*pb)++) {
        uint8_t *p = m->buf;
        memset(p, 0, g->pb_bytes);
        for (uint32_t k = 0; k < 1024 && i + k < f->blocks; k++)
            vmci_st_le32(p + k * 4, vmci_fs_mk_block(f, i + k) << 6 | AD_FB);
        uint64_t off = RF_HEADER + *pb / 16 / pbc->cpg * pbc->gs + pbc->cpg * 0x400ull +
                       (uint64_t)(*pb % (16 * pbc->cpg)) * 0x1000;
        int rc = vmci_fs_mk_write(m, pbc, off, p, g->pb_bytes, err);
        if (rc != VMC_OK)
            return rc;
        vmci_st_le32(fd + 0x400 + i / 1024 * 4,
                     (uint32_t)vmci_fs_addr_encode(g, AD_PB, *pb / 16, *pb % 16));
    }
    return VMC_OK;
}

static int system_files(struct mk *m, struct vmc_error *err)
{
    uint8_t fd[0x800];
    uint32_t pb = 0;
    int rc = vmci_fs_mk_write(m, &m->f[FDC], 0, NULL, m->f[FDC].length, err);

    for (uint32_t i = 0; i < files(m) && rc == VMC_OK; i++) {
        const struct mk_file *f = &m->f[i];
        uint64_t lv = m->v->g.fd0_lv + i * 0x800ull;
        memset(fd, 0, sizeof(fd));
        vmci_fs_mk_lock(m, fd, LK_FD, lv, i != ROOT);
        vmci_fs_mk_fd(m, f, fd + 0x200);
        rc = addresses(m, f, &pb, fd, err);
        if (rc == VMC_OK && f->lock_type != 0) {
            uint32_t used = i == FBB ? m->next_fb : i == FDC ? files(m) : i == PBC ? m->next_pb : 0;
            rc = resource_file(m, f, used, err);
        }
        if (rc == VMC_OK)
            rc = vmci_fs_write(m->v, lv, fd, sizeof(fd), err);
    }
    return rc;
}

static void entry(uint8_t *e, uint32_t type, uint32_t fd, const char *name)
{
    vmci_st_le32(e + DE_TYPE, type);
    vmci_st_le32(e + DE_FD, fd);
    vmci_st_le32(e + DE_GEN, 1);
    memcpy(e + DE_NAME, name, vmci_strlen(name));
}

static int directories(struct mk *m, struct vmc_error *err)
{
    uint8_t *b = m->buf;

    memset(b, 0, FS_PAGE);
    entry(b, VMC_VMFS_DIR, FD_ADDR_ROOT, ".");
    entry(b + DE_BYTES, VMC_VMFS_DIR, FD_ADDR_ROOT, "..");
    for (uint32_t i = 1; i < files(m); i++)
        entry(b + (1 + i) * DE_BYTES, VMC_VMFS_SYSTEM, i << 22 | AD_FD, vmci_fs_mk_names[i]);
    int rc = vmci_fs_mk_write(m, &m->f[ROOT], 0, b, FS_PAGE, err);
    if (rc != VMC_OK || m->version == 3)
        return rc;
    memset(b, 0, FS_PAGE);
    entry(b, VMC_VMFS_SYSTEM, FD_ADDR_SDD, ".");
    entry(b + DE_BYTES, VMC_VMFS_DIR, FD_ADDR_ROOT, "..");
    return vmci_fs_mk_write(m, &m->f[SDD], 0, b, FS_PAGE, err);
}

/* What precedes the file descriptors: free heartbeat slots, and the descriptor last of all. */
static int front(struct mk *m, struct vmc_error *err)
{
    const struct fs_geometry *g = &m->v->g;

    uint32_t part = MK_BUF / g->hb_bytes;
    int rc = VMC_OK;

    for (uint32_t first = 0; first < g->hb_slots && rc == VMC_OK; first += part) {
        uint64_t lv = FS_HB_LV + (uint64_t)first * g->hb_bytes;
        uint32_t n = VMCI_MIN(part, g->hb_slots - first);
        memset(m->buf, 0, (size_t)n * g->hb_bytes);
        for (uint32_t i = 0; i < n; i++) {
            uint8_t *hb = m->buf + (size_t)i * g->hb_bytes;
            vmci_st_le32(hb + HB_STATE, HB_FREE);
            vmci_st_le64(hb + HB_SELF, lv + (uint64_t)i * g->hb_bytes);
        }
        rc = vmci_fs_write(m->v, lv, m->buf, (uint64_t)n * g->hb_bytes, err);
    }
    return rc;
}

static int descriptor(struct mk *m, struct vmc_error *err)
{
    memset(m->buf, 0, FS_PAGE);
    vmci_fs_mk_desc(m, m->buf);
    int rc = vmci_fs_flush(m->v, err);
    if (rc == VMC_OK)
        rc = vmci_fs_write(m->v, FS_DESC_LV, m->buf, FS_PAGE, err);
    return rc == VMC_OK ? vmci_fs_flush(m->v, err) : rc;
}

/* All that can be wrong with what is asked for; nothing is written. */
static int plan(struct mk *m, struct vmc_error *err)
{
    int rc = random_uuid(m, &m->cfg->lvm_uuid, 1, &m->lvm, err);

    if (rc == VMC_OK)
        rc = random_uuid(m, &m->cfg->fs_uuid, 2, &m->fs, err);
    if (rc == VMC_OK)
        rc = random_uuid(m, &m->cfg->host_uuid, 3, &m->host, err);
    if (rc == VMC_OK)
        rc = random_uuid(m, &m->cfg->dev_uuid, 4, &m->dev, err);
    if (rc == VMC_OK)
        rc = open_devices(m, err);
    if (rc == VMC_OK)
        rc = choose_geometry(m, err);
    if (rc != VMC_OK)
        return rc;
    if (m->version == 6)
        return vmci_fs_mk6_layout(m, err);
    counts(m);
    return assign(m, err);
}

static int make(struct mk *m, struct vmc_error *err)
{
    int rc = plan(m, err);

    if (rc == VMC_OK)
        rc = write_partitions(m, err);
    if (rc == VMC_OK)
        rc = vmci_fs_mk_lvm(m, err);
    if (rc == VMC_OK)
        rc = vmci_fs_zero(m->v, 0, m->v->g.fdc_base, err);
    if (rc == VMC_OK)
        rc = front(m, err);
    if (rc == VMC_OK && m->version == 6)
        rc = vmci_fs_mkfs6(m, err);
    else if (rc == VMC_OK)
        rc = system_files(m, err);
    if (rc == VMC_OK && m->version != 6)
        rc = directories(m, err);
    return rc == VMC_OK ? descriptor(m, err) : rc;
}

static int check_config(const struct vmc_vmfs_mkfs_config *cfg, struct vmc_error *err)
{
    if (cfg == NULL || cfg->size != sizeof(*cfg) || cfg->devs == NULL || cfg->dev_count == 0 ||
        cfg->dev_count > VMC_VMFS_MAX_EXTENTS)
        return vmci_error(err, VMC_EINVAL, site, "1 to %u devices are needed",
                          VMC_VMFS_MAX_EXTENTS);
    if (cfg->version != 0 && cfg->version != 3 && cfg->version != 5 && cfg->version != 6)
        return vmci_error(err, VMC_EVERSION, site, "VMFS%u cannot be made", cfg->version);
    if (cfg->version == 6 && !cfg->experimental)
        return vmci_error(
            err, VMC_ENOTSUP, site,
            "the allocation maps of VMFS6 are partly guessed: making one has to be asked "
            "for as experimental");
    if (cfg->label != NULL && vmci_strlen(cfg->label) >= FSD_LABEL_BYTES)
        return vmci_error(err, VMC_EINVAL, site, "a label has at most %u bytes",
                          FSD_LABEL_BYTES - 1);
    return VMC_OK;
}

int vmc_vmfs_mkfs(const struct vmc_platform *pf, const struct vmc_vmfs_mkfs_config *cfg,
                  struct vmc_error *err)
{
    int rc = vmc_platform_check(pf, err);

    if (rc == VMC_OK)
        rc = check_config(cfg, err);
    if (rc != VMC_OK)
        return rc;
    struct mk *m = vmci_zalloc(pf, sizeof(*m));
    struct vmc_vmfs *v = vmci_zalloc(pf, sizeof(*v));
    struct fs_seg *seg = vmci_zalloc(pf, VMC_VMFS_MAX_EXTENTS * sizeof(*seg));
    uint8_t *zeros = vmci_alloc_aligned(pf, FS_ZERO_BYTES, FS_PAGE);
    uint8_t *buf = vmci_alloc_aligned(pf, MK_BUF, FS_PAGE);
    if (m == NULL || v == NULL || seg == NULL || zeros == NULL || buf == NULL) {
        rc = vmci_error(err, VMC_ENOMEM, site, "no memory to format");
    } else {
        memset(zeros, 0, FS_ZERO_BYTES);
        v->pf = pf;
        v->seg = seg;
        v->zeros = zeros;
        m->v = v;
        m->cfg = cfg;
        m->buf = buf;
        m->version = cfg->version ? cfg->version : 5;
        m->stamp = cfg->version == 6 ? FIRST_STAMP6 : FIRST_STAMP;
        m->time_s = cfg->time_s;
        if (m->time_s == 0 && vmci_pf_has(pf, wall_s))
            m->time_s = (uint32_t)pf->wall_s(pf->ctx);
        rc = make(m, err);
    }
    vmci_free_aligned(pf, buf, MK_BUF, FS_PAGE);
    vmci_free_aligned(pf, zeros, FS_ZERO_BYTES, FS_PAGE);
    vmci_free(pf, seg, VMC_VMFS_MAX_EXTENTS * sizeof(*seg));
    vmci_free(pf, v, sizeof(*v));
    vmci_free(pf, m, sizeof(*m));
    return rc;
}
