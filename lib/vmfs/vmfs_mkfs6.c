/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A fresh VMFS6 volume. What is used is marked as hosts mark it. How free blocks look in the 2-bit
 * and 3-bit maps is not known: they are written as 01 and 001 (docs/vmfs-format.md), which is why
 * this has to be asked for as experimental.
 */
#include "vmfs/vmfs_mkfs.h"

static const char site[] = SITE("mkfs6");

#define SFBS            512u /* in a large block */
#define LFB_RPC         16u
#define LFB_CPG         8u
#define POINTERS        320u
#define FD6_SIGNATURE   0x66646D64u /* "dmdf" */
#define CL6_LFB_WORDS   0xE0
#define DIR_ENTRY_SLOTS 14u

static uint32_t large_blocks(const struct mk *m)
{
    return (uint32_t)((m->v->g.blocks + SFBS - 1) / SFBS);
}

int vmci_fs_mk6_layout(struct mk *m, struct vmc_error *err)
{
    static const uint8_t order[] = {FBB, FDC, PBC, SBC, PB2, SDD, JBC};
    const struct vmc_vmfs_mkfs_config *c = m->cfg;
    const struct fs_geometry *g = &m->v->g;
    uint32_t sbs = POINTERS * 16 - 4; /* as many as the direct pointers reach */
    uint32_t at;

    m->f[FBB] = (struct mk_file){.lock_type = LK_LFB,
                                 .rpc = LFB_RPC,
                                 .rs = 0x2000,
                                 .n = large_blocks(m),
                                 .flags = 0x35,
                                 .aff_cluster = 0x348,
                                 .aff_res = 0x34};
    m->f[FDC] = (struct mk_file){.lock_type = LK_FDC,
                                 .rpc = 256,
                                 .rs = 0x2000,
                                 .n = c->fds ? c->fds : 16384,
                                 .flags = 4,
                                 .aff_cluster = 0x100,
                                 .aff_res = 1};
    m->f[PBC] = (struct mk_file){.lock_type = LK_PBC, .rs = 0x10000, .flags = 4, .aff_res = 1};
    m->f[SBC] = (struct mk_file){.lock_type = LK_SBC,
                                 .rpc = 256,
                                 .rs = 0x10000,
                                 .n = c->sub_blocks ? c->sub_blocks : sbs,
                                 .flags = 4,
                                 .aff_cluster = 0x100,
                                 .aff_res = 1};
    m->f[PB2] = (struct mk_file){.lock_type = LK_PB2,
                                 .rpc = 32,
                                 .rs = 0x10000,
                                 .n = g->lv_bytes <= 1ull << 30 ? 1 : 256,
                                 .flags = 4,
                                 .aff_cluster = 0x20,
                                 .aff_res = 1};
    m->f[JBC] = (struct mk_file){
        .lock_type = LK_JBC, .rpc = 8, .rs = 0x200000, .n = 128, .aff_cluster = 8, .aff_res = 1};
    m->f[VH].length = g->fdc_base;
    m->f[ROOT].length = D6_HEADER + 2 * FS_PAGE;
    m->f[SDD].length = D6_HEADER + FS_PAGE;
    for (uint32_t i = 0; i < MK_FILES; i++) {
        struct mk_file *f = &m->f[i];
        f->name = vmci_fs_mk_names[i];
        f->fd_index = i;
        f->cpg = i == JBC ? 4 : 8;
        f->type = i == ROOT ? VMC_VMFS_DIR : VMC_VMFS_SYSTEM;
        f->links = i == ROOT ? 3 : i == SDD ? 2 : 1;
        f->mode = i == ROOT ? 01755 : i == SDD ? 040700 : 0400;
        vmci_fs_mk_size(m, f);
        if (f->blocks > POINTERS)
            return vmci_error(
                err, VMC_ELIMIT, site,
                "%s needs %u blocks, %u is the most that can be made: the volume is too "
                "large, or too many files were asked for",
                f->name, f->blocks, POINTERS);
    }
    at = m->f[VH].blocks;
    m->f[VH].rest = 1;
    m->f[FDC].first = at++;
    m->f[ROOT].first = at++;
    for (uint32_t i = 0; i < sizeof(order); i++) {
        struct mk_file *f = &m->f[order[i]];
        if (order[i] != FDC)
            f->first = at++;
        f->rest = at;
        at += f->blocks - 1;
    }
    m->next_fb = at;
    return at <= g->blocks
               ? VMC_OK
               : vmci_error(err, VMC_ENOSPC, site, "the metadata need %u MiB, there are %llu", at,
                            (unsigned long long)g->blocks);
}

/* ---- resource files ----------------------------------------------------------------------------
 */

static void header(const struct mk_file *f, uint8_t *h, uint32_t bits)
{
    vmci_st_le32(h + RF_RPC, f->rpc);
    vmci_st_le32(h + RF_CPG, f->cpg);
    vmci_st_le32(h + RF_GROUP_OFF, RF_HEADER);
    vmci_st_le32(h + RF_RS, f->rs);
    vmci_st_le32(h + RF_GS, (uint32_t)f->gs);
    vmci_st_le32(h + RF_N, (uint32_t)f->n);
    vmci_st_le32(h + RF_GROUPS, f->groups);
    vmci_st_le32(h + RF6_MAGIC_OFF, RF6_MAGIC);
    vmci_st_le32(h + RF6_VERSION, 1);
    vmci_st_le32(h + RF6_FLAGS, f->flags);
    vmci_st_le16(h + RF6_AFF_CL, (uint16_t)f->aff_cluster);
    vmci_st_le16(h + RF6_AFF_RES, (uint16_t)f->aff_res);
    vmci_st_le32(h + RF6_BITS, bits);
}

/* Lock block and metadata block; the map is the caller's. */
static uint8_t *cluster(struct mk *m, uint8_t *p, uint32_t type, uint64_t lv, uint32_t number,
                        uint32_t total, uint32_t used)
{
    uint8_t *md = p + FS_PAGE;

    memset(p, 0, 2 * FS_PAGE);
    vmci_fs_mk_lock(m, p, type, lv, true);
    vmci_st_le32(md + CL6_MAGIC_OFF, CL6_MAGIC);
    vmci_st_le64(md + CL6_NUMBER, number);
    vmci_st_le16(md + CL6_TOTAL, (uint16_t)total);
    vmci_st_le16(md + CL6_FREE, (uint16_t)(total - used));
    vmci_st_le32(md + CL6_ONE, 1);
    vmci_st_le32(md + CL6_NEXT, used < total ? used : 0);
    return md;
}

/* Values of bits bits each in the map, resource first .. end - 1. */
static void map_set(uint8_t *md, uint32_t first, uint32_t end, uint32_t bits, uint32_t value)
{
    for (uint32_t i = first; i < end; i++)
        for (uint32_t b = 0; b < bits; b++)
            if (value >> b & 1)
                md[CL6_BITMAP + (i * bits + b) / 8] |= (uint8_t)(1u << (i * bits + b) % 8);
}

static int resource_file(struct mk *m, const struct mk_file *f, uint32_t used,
                         struct vmc_error *err)
{
    memset(m->buf, 0, RF_HEADER);
    header(f, m->buf, 1);
    int rc = vmci_fs_mk_write(m, f, 0, m->buf, RF_HEADER, err);
    for (uint32_t c = 0; c < f->clusters && rc == VMC_OK; c++) {
        uint64_t off = RF_HEADER + c / f->cpg * f->gs + c % f->cpg * 0x2000ull;
        uint32_t first = c * f->rpc, total = (uint32_t)VMCI_MIN(f->rpc, f->n - first);
        uint32_t taken = used > first ? VMCI_MIN(used - first, total) : 0;
        uint8_t *md = cluster(m, m->buf, f->lock_type, vmci_fs_mk_lv(m, f, off), c, total, taken);
        map_set(md, taken, total, 1, 1);
        if (f->lock_type == LK_FDC)
            vmci_st_le32(md + CL6_FD_GEN, taken > 0 ? 1 : 0);
        rc = vmci_fs_mk_write(m, f, off, m->buf, 2 * FS_PAGE, err);
    }
    return rc;
}

/* Large blocks, and inside the first of them the small ones: what the metadata take. */
static int file_blocks(struct mk *m, struct vmc_error *err)
{
    const struct mk_file *f = &m->f[FBB];
    /* What the metadata take, and the last one when it is not whole. */
    uint32_t converted = (m->next_fb + SFBS - 1) / SFBS, n = converted;
    bool rest = m->v->g.blocks % SFBS != 0 && f->n > converted;
    struct mk_file child = {.rpc = SFBS,
                            .cpg = LFB_CPG,
                            .gs = LFB_CPG * 0x2000,
                            .n = m->v->g.blocks,
                            .flags = 0x2A,
                            .aff_cluster = 0xD8,
                            .aff_res = 1};
    child.groups = (uint32_t)((f->n + LFB_CPG - 1) / LFB_CPG);
    memset(m->buf, 0, RF_HEADER);
    header(f, m->buf, 3);
    vmci_st_le32(m->buf + RF6_CHILD_OFF, FS_PAGE);
    header(&child, m->buf + FS_PAGE, 2);
    vmci_st_le32(m->buf + FS_PAGE + RF6_PARENT_RPC, f->rpc);
    vmci_st_le32(m->buf + FS_PAGE + RF6_PARENT_CPG, f->cpg);
    vmci_st_le32(m->buf + FS_PAGE + RF6_PARENT_GS, (uint32_t)f->gs);
    vmci_st_le32(m->buf + FS_PAGE + RF6_CONVERTED, converted + rest);
    int rc = vmci_fs_mk_write(m, f, 0, m->buf, RF_HEADER, err);
    for (uint32_t c = 0; c < f->clusters && rc == VMC_OK; c++) {
        uint64_t off = RF_HEADER + c / f->cpg * f->gs + c % f->cpg * 0x2000ull;
        uint32_t first = c * LFB_RPC, total = (uint32_t)VMCI_MIN(LFB_RPC, f->n - first);
        uint32_t taken = converted > first ? VMCI_MIN(converted - first, total) : 0;
        bool last = rest && c + 1 == f->clusters;
        uint8_t *md = cluster(m, m->buf, f->lock_type, vmci_fs_mk_lv(m, f, off), c, total,
                              taken + last);
        vmci_st_le16(md + CL6_KIND, 7);
        vmci_st_le32(md + CL6_NEXT, taken + last < total ? taken : 0);
        map_set(md, 0, taken, 3, MAP6_CONVERTED);
        map_set(md, taken, total - last, 3, MAP6_FREE);
        map_set(md, total - last, total, 3, MAP6_CONVERTED);
        for (uint32_t i = 0; i < total; i++)
            vmci_st_le64(md + CL6_LFB_WORDS + i * 8ull, 0xFF);
        rc = vmci_fs_mk_write(m, f, off, m->buf, 2 * FS_PAGE, err);
    }
    for (uint32_t i = 0; i < n + rest && rc == VMC_OK; i++) {
        uint32_t c = i < n ? i : (uint32_t)f->n - 1;
        uint32_t per_group = LFB_CPG * LFB_RPC;
        uint64_t off =
            RF_HEADER + c / per_group * f->gs + LFB_CPG * 0x2000ull + c % per_group * 0x2000ull;
        uint32_t first = c * SFBS, total = (uint32_t)VMCI_MIN(SFBS, m->v->g.blocks - first);
        uint32_t taken = m->next_fb > first ? VMCI_MIN(m->next_fb - first, total) : 0;
        uint8_t *md = cluster(m, m->buf, LK_FBB, vmci_fs_mk_lv(m, f, off), c, total, taken);
        vmci_st_le16(md + CL6_KIND, 0x100);
        map_set(md, taken, total, 2, MAP6_FREE);
        rc = vmci_fs_mk_write(m, f, off, m->buf, 2 * FS_PAGE, err);
    }
    return rc;
}

/* ---- file descriptors and directories ----------------------------------------------------------
 */

static int descriptor(struct mk *m, const struct mk_file *f, struct vmc_error *err)
{
    uint64_t lv = m->v->g.fd0_lv + (uint64_t)f->fd_index * m->v->g.fd_bytes;
    uint8_t *md = m->buf + FS_PAGE;

    memset(m->buf, 0, 2 * FS_PAGE);
    vmci_fs_mk_lock(m, m->buf, LK_FD, lv, f->fd_index != ROOT);
    vmci_fs_mk_fd(m, f, md);
    vmci_st_le32(md + FD_SIGNATURE, FD6_SIGNATURE);
    for (uint32_t i = 0; i < f->blocks; i++) {
        uint64_t n = vmci_fs_mk_block(f, i);
        vmci_st_le64(md + m->v->g.fd_ptrs + i * 8ull, n % SFBS << 51 | n / SFBS << 15 | AD_FB);
    }
    return vmci_fs_write(m->v, lv, m->buf, 2 * FS_PAGE, err);
}

static void entry(uint8_t *b, uint64_t off, uint32_t type, uint32_t fd, const char *name)
{
    vmci_st_le32(b, type);
    vmci_st_le32(b + 4, fd);
    vmci_st_le32(b + 8, 1);
    vmci_st_le64(b + D6_E_OFFSET, off);
    memcpy(b + D6_E_NAME, name, vmci_strlen(name));
}

/* Header, allocation map, and in the root one block with the system files. */
static int directory(struct mk *m, const struct mk_file *f, struct vmc_error *err)
{
    uint32_t self = f->fd_index << 22 | AD_FD, files = f->fd_index == ROOT ? MK_FILES - 1 : 0;
    uint8_t *b = m->buf, *map = b + D6_HEADER, *block = map + FS_PAGE;

    memset(b, 0, D6_HEADER + 2 * FS_PAGE);
    vmci_st_le32(b, D6_VERSION);
    vmci_st_le32(b + D6_ENTRIES, 2 + files);
    vmci_st_le32(b + D6_ALLOCATED, 2 + files);
    vmci_st_le32(b + D6_MAPS, 1);
    entry(b + D6_DOT, D6_DOT, f->type, self, ".");
    entry(b + D6_DOTDOT, D6_DOTDOT, VMC_VMFS_DIR, FD_ADDR_ROOT, "..");
    vmci_st_le16(map + 2, 3);
    memset(map + D6_BLOCK_HEADER, 0x88, FS_PAGE - D6_BLOCK_HEADER);
    map[D6_BLOCK_HEADER] = files > 0 ? 0x35 : 0x38;
    vmci_st_le16(block, 1);
    vmci_st_le16(block + 2, 1);
    vmci_st_le16(block + 4, DIR_ENTRY_SLOTS);
    vmci_st_le16(block + 6, (uint16_t)(DIR_ENTRY_SLOTS - files));
    vmci_st_le64(block + 8, (1u << DIR_ENTRY_SLOTS) - (1u << files));
    for (uint32_t i = 0; i < files; i++) {
        uint64_t off = D6_HEADER + FS_PAGE + D6_BLOCK_HEADER + i * (uint64_t)D6_ENTRY;
        entry(b + off, off, VMC_VMFS_SYSTEM, (i + 1) << 22 | AD_FD, vmci_fs_mk_names[i + 1]);
        /* Location: an entry (1) in block 1, slot i. */
        vmci_st_le32(b + D6_HASH + (D6_SYSTEM_SLOT + i) * 4ull, i << 24 | 1u << 2 | 1u);
    }
    return vmci_fs_mk_write(m, f, 0, b, f->length, err);
}

/* The maps hold what this library puts there: it may write to the volume. */
static int mark(struct mk *m, struct vmc_error *err)
{
    memset(m->buf, 0, FS_SECTOR);
    vmci_st_le64(m->buf, FS6_MARK);
    vmci_st_le32(m->buf + 8, 1);
    vmci_st_le64(m->buf + FS6_MARK_SUM, vmci_hash64(m->fs.b, 16, FS6_MARK));
    return vmci_fs_write(m->v, FS6_MARK_LV, m->buf, FS_SECTOR, err);
}

int vmci_fs_mkfs6(struct mk *m, struct vmc_error *err)
{
    static const uint8_t resources[] = {FDC, PBC, SBC, PB2, JBC};
    int rc = vmci_fs_mk_write(m, &m->f[FDC], 0, NULL, m->f[FDC].length, err);

    if (rc == VMC_OK)
        rc = vmci_fs_mk_write(m, &m->f[FBB], 0, NULL, m->f[FBB].length, err);
    if (rc == VMC_OK) /* a journal that is not zero would be one to replay */
        rc = vmci_fs_mk_write(m, &m->f[JBC], 0, NULL, m->f[JBC].length, err);
    for (uint32_t i = 0; i < MK_FILES && rc == VMC_OK; i++)
        rc = descriptor(m, &m->f[i], err);
    if (rc == VMC_OK)
        rc = file_blocks(m, err);
    for (uint32_t i = 0; i < sizeof(resources) && rc == VMC_OK; i++)
        rc = resource_file(m, &m->f[resources[i]], resources[i] == FDC ? MK_FILES : 0, err);
    if (rc == VMC_OK)
        rc = directory(m, &m->f[ROOT], err);
    if (rc == VMC_OK)
        rc = directory(m, &m->f[SDD], err);
    return rc == VMC_OK ? mark(m, err) : rc;
}
