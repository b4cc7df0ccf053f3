/* SPDX-License-Identifier: BSD-2-Clause */
/* The checker: file descriptors and what they point to; order of the passes. */
#include "vmfs/vmfs_fsck.h"

static const char site[] = SITE("fsck");

void vmci_fs_ck_report(struct fsck *f, bool repaired, const char *fmt, ...)
{
    char text[400];
    va_list ap;

    va_start(ap, fmt);
    vmci_vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    f->res->errors++;
    f->res->repaired += repaired;
    if (f->cfg->report != NULL)
        f->cfg->report(f->cfg->ctx, text, repaired);
}

int vmci_fs_ck_fix(struct fsck *f, struct fs_inode *ino,
                   int (*fn)(struct fsck *, struct fs_inode *, const void *, struct vmc_error *),
                   const void *arg, struct vmc_error *err)
{
    struct vmc_vmfs *v = f->v;
    int rc = vmci_fs_txn_begin(v, err);

    if (rc != VMC_OK)
        return rc;
    rc = vmci_fs_txn_inode(v, ino, err);
    if (rc == VMC_OK)
        rc = fn(f, ino, arg, err);
    if (rc == VMC_OK)
        return vmci_fs_txn_commit(v, err);
    vmci_fs_txn_abort(v);
    return rc;
}

/* ---- addresses
 * ----------------------------------------------------------------------------------- */

static int kind_of(const struct fsck *f, uint32_t type)
{
    switch (type) {
    case AD_FB:
        return FK_FB;
    case AD_LFB:
        return f->v->g.version == 6 ? FK_LFB : -1;
    case AD_SB:
        return FK_SB;
    case AD_PB:
        return FK_PB;
    case AD_PB2:
        return f->v->pb2.ino != NULL ? FK_PB2 : -1;
    default:
        return -1;
    }
}

/* Note that ino uses what raw names. False: nonsense, or used by something else already. */
static bool claim(struct fsck *f, const struct fs_inode *ino, uint64_t raw, const char **why)
{
    struct fs_addr a = vmci_fs_addr_decode(&f->v->g, raw);
    int k = kind_of(f, a.type);
    uint64_t n;

    *why = "is no valid address";
    if (k < 0 || f->r[k]->n == 0)
        return false;
    n = vmci_fs_ck_number(f->r[k], &a);
    if (n >= f->r[k]->n || (a.type != AD_FB && a.type != AD_LFB && a.item >= f->r[k]->rpc))
        return false;
    *why = "is used twice";
    if (vmci_bit_test(f->ref[k], n) && !a.cow)
        return false;
    vmci_bit_set(f->ref[k], n);
    (void)ino;
    return true;
}

struct tally {
    uint64_t blocks;
    uint32_t tbz, pbs, large;
};

static int clear_block(struct fsck *f, struct fs_inode *ino, const void *arg, struct vmc_error *err)
{
    (void)f;
    return vmci_fs_map_set(ino, *(const uint64_t *)arg, 0, err);
}

static uint64_t word_at(const struct fsck *f, const uint8_t *at)
{
    return f->v->g.ptr_bytes == 8 ? vmci_ld_le64(at) : vmci_ld_le32(at);
}

/* Pointer block words are claimed by where they hang, not by the blocks below them. */
static bool claim_pb(struct fsck *f, struct fs_inode *ino, const uint8_t *at, struct tally *t,
                     uint32_t word)
{
    const char *why;
    uint64_t raw = word_at(f, at);
    struct fs_addr a = vmci_fs_addr_decode(&f->v->g, raw);
    bool fits = a.type == AD_PB || a.type == AD_PB2 ||
                (f->v->g.version == 6 && (a.type == AD_SB || a.type == AD_FB));

    if (raw == 0)
        return false;
    if (fits && claim(f, ino, raw, &why)) {
        t->pbs++;
        return true;
    }
    if (!fits)
        why = "is not a pointer block";
    vmci_fs_ck_report(f, false, "file 0x%08x: pointer word %u: address 0x%llx %s", ino->addr, word,
                      (unsigned long long)raw, why);
    return false;
}

/* Zero a bad pointer-block address in the file descriptor. */
static int clear_word(struct fsck *f, struct fs_inode *ino, const void *arg, struct vmc_error *err)
{
    uint32_t n = f->v->g.ptr_bytes, off = f->v->g.fd_ptrs + *(const uint32_t *)arg * n;
    int rc = vmci_fs_inode_dirty(ino, off, n, err);

    if (rc == VMC_OK)
        memset(ino->md + off, 0, n);
    return rc;
}

/* A large block stands at the entry of each small one that it replaces. */
static bool claim_large(struct fsck *f, const struct fs_inode *ino, uint64_t blk, uint64_t raw,
                        struct tally *t, const char **why)
{
    const struct fs_geometry *g = &f->v->g;
    uint64_t group = blk >> (g->lfb_shift - g->fb_shift);

    if (f->large_fd == ino->addr && f->large_group == group && f->large == raw)
        return true;
    if (!claim(f, ino, raw, why))
        return false;
    f->large_fd = ino->addr;
    f->large_group = group;
    f->large = raw;
    t->large++;
    return true;
}

static int check_leaf(struct fsck *f, struct fs_inode *ino, uint64_t first, uint64_t n,
                      struct tally *t, struct vmc_error *err)
{
    const struct fs_geometry *g = &f->v->g;
    uint32_t want = vmci_fs_md64(ino, FD_BLOCK) == g->fb_bytes ? AD_FB : AD_SB;

    for (uint64_t blk = first; blk < first + n; blk++) {
        uint64_t raw;
        const char *why = "has the wrong type";
        int rc = vmci_fs_map_get(ino, blk, &raw, &f->err);
        if (rc != VMC_OK)
            return rc == VMC_EIO ? rc : VMC_OK; /* reported where the pointer block hangs */
        if (raw == 0)
            continue;
        struct fs_addr a = vmci_fs_addr_decode(g, raw);
        bool large = a.type == AD_LFB && want == AD_FB && g->version == 6;
        if (large ? claim_large(f, ino, blk, raw, t, &why)
                  : a.type == want && claim(f, ino, raw, &why)) {
            t->blocks++;
            t->tbz += a.tbz && a.type != AD_SB;
            continue;
        }
        vmci_fs_ck_report(f, f->cfg->repair, "file 0x%08x block %llu: address 0x%llx %s", ino->addr,
                          (unsigned long long)blk, (unsigned long long)raw, why);
        if (f->cfg->repair) {
            rc = vmci_fs_ck_fix(f, ino, clear_block, &blk, err);
            if (rc != VMC_OK)
                return rc;
        }
    }
    return VMC_OK;
}

static int check_pb_words(struct fsck *f, struct fs_inode *ino, struct tally *t,
                          struct vmc_error *err)
{
    const struct fs_geometry *g = &f->v->g;
    bool twice = vmci_fs_md32(ino, FD_ZLA) == ZLA_DOUBLE;
    int rc = VMC_OK;

    for (uint32_t i = 0; i < g->nptr && rc == VMC_OK; i++) {
        uint8_t *at = ino->md + g->fd_ptrs + i * g->ptr_bytes;
        if (word_at(f, at) == 0)
            continue;
        if (!claim_pb(f, ino, at, t, i)) {
            if (f->cfg->repair) {
                rc = vmci_fs_ck_fix(f, ino, clear_word, &i, err);
                f->res->repaired += rc == VMC_OK;
            }
            continue;
        }
        uint64_t span = g->pb_ptrs;
        if (!twice) {
            rc = check_leaf(f, ino, i * span, span, t, err);
            continue;
        }
        uint64_t lv, bytes;
        struct fs_page *p;
        rc = vmci_fs_addr_lv(f->v, word_at(f, at), &lv, &bytes, err);
        for (uint32_t k = 0; k < span && rc == VMC_OK; k++) {
            uint64_t in = lv + (uint64_t)k * g->ptr_bytes;
            rc =
                vmci_fs_page_read(f->v, vmci_align_down(in, FS_PAGE), FS_PAGE, ino->epoch, &p, err);
            if (rc == VMC_OK && claim_pb(f, ino, vmci_fs_at(p, in), t, i))
                rc = check_leaf(f, ino, (i * span + k) * span, span, t, err);
        }
    }
    return rc;
}

/* ---- one file descriptor
 * --------------------------------------------------------------------------- */

static int set_counts(struct fsck *f, struct fs_inode *ino, const void *arg, struct vmc_error *err)
{
    const struct tally *t = arg;
    int rc = vmci_fs_inode_dirty(ino, 0, FS_SECTOR, err);

    if (rc != VMC_OK)
        return rc;
    vmci_st_le64(ino->md + FD_BLOCKS, t->blocks);
    vmci_st_le32(ino->md + FD_TBZ, t->tbz);
    if (f->v->g.version == 6)
        vmci_st_le32(ino->md + FD_LFBS, t->large);
    if (f->v->g.version >= 5 && !ino->mapping)
        ino->md[FD_LOG2] = (uint8_t)__builtin_ctzll(vmci_fs_md64(ino, FD_BLOCK));
    return VMC_OK;
}

static int check_counts(struct fsck *f, struct fs_inode *ino, const struct tally *t,
                        struct vmc_error *err)
{
    uint64_t blocks = vmci_fs_md64(ino, FD_BLOCKS);
    uint32_t tbz = vmci_fs_md32(ino, FD_TBZ);
    bool bad = false, fix = f->cfg->repair;

    if (blocks != t->blocks) {
        vmci_fs_ck_report(f, fix, "file 0x%08x: number of blocks is %llu, it has %llu", ino->addr,
                          (unsigned long long)blocks, (unsigned long long)t->blocks);
        bad = true;
    }
    if (tbz != t->tbz) {
        vmci_fs_ck_report(f, fix, "file 0x%08x: number of to-be-zeroed blocks is %u, it has %u",
                          ino->addr, tbz, t->tbz);
        bad = true;
    }
    if (f->v->marked && vmci_fs_md32(ino, FD_LFBS) != t->large) {
        vmci_fs_ck_report(f, fix, "file 0x%08x: number of large blocks is %u, it has %u", ino->addr,
                          vmci_fs_md32(ino, FD_LFBS), t->large);
        bad = true;
    }
    uint64_t block = vmci_fs_md64(ino, FD_BLOCK);
    /* Files from before an upgrade of VMFS3 have none. */
    bool none = f->v->g.version == 5 && ino->md[FD_LOG2] == 0;
    if (f->v->g.version >= 5 && !none &&
        (block == 0 || ino->md[FD_LOG2] != __builtin_ctzll(block))) {
        vmci_fs_ck_report(f, fix, "file 0x%08x: logarithm of the block size is %u", ino->addr,
                          ino->md[FD_LOG2]);
        bad = true;
    }
    return bad && fix ? vmci_fs_ck_fix(f, ino, set_counts, t, err) : VMC_OK;
}

static int check_inode(struct fsck *f, uint64_t n, struct vmc_error *err)
{
    struct fs_inode *ino;
    struct tally t = {0};
    uint32_t addr = vmci_fs_ck_fd(f, n);
    int rc = vmci_fs_inode_get(f->v, addr, &ino, &f->err);

    if (rc != VMC_OK) {
        if (rc == VMC_EIO || rc == VMC_ENOMEM)
            return rc;
        vmci_fs_ck_report(f, f->cfg->repair, "%s", f->err.text);
        return VMC_OK; /* without a reference to it, its bit will be set free */
    }
    const uint8_t *md = ino->md;
    uint32_t type = vmci_ld_le32(md + FD_TYPE), zla = vmci_ld_le32(md + FD_ZLA);
    f->info[n] |=
        FI_GOOD | (type == VMC_VMFS_DIR ? FI_DIR : 0) | (type == VMC_VMFS_SYSTEM ? FI_SYSTEM : 0);
    vmci_bit_set(f->ref[FK_FD], n);
    struct fs_page *p;
    rc = vmci_fs_page_read(f->v, ino->lv, FS_SECTOR, 0, &p, err);
    if (rc == VMC_OK && vmci_ld_le32(vmci_fs_at(p, ino->lv) + LK_TYPE) != LK_FD) {
        vmci_fs_ck_report(f, f->cfg->repair, "file 0x%08x: lock has type 0x%x", addr,
                          vmci_ld_le32(vmci_fs_at(p, ino->lv) + LK_TYPE));
        if (f->cfg->repair) /* taking the lock puts its type right */
            rc = vmci_fs_ck_fix(f, ino, set_counts,
                                &(struct tally){.blocks = vmci_fs_md64(ino, FD_BLOCKS),
                                                .tbz = vmci_fs_md32(ino, FD_TBZ),
                                                .large = vmci_fs_md32(ino, FD_LFBS)},
                                err);
    }
    if (type == VMC_VMFS_RDM || zla == ZLA_RESIDENT || rc != VMC_OK)
        ;
    else if (zla == ZLA_FB || zla == ZLA_SB)
        rc = check_leaf(f, ino, 0, f->v->g.nptr, &t, err);
    else
        rc = check_pb_words(f, ino, &t, err);
    if (rc == VMC_OK && type != VMC_VMFS_RDM)
        rc = check_counts(f, ino, &t, err);
    f->res->files += type != VMC_VMFS_DIR;
    f->res->directories += type == VMC_VMFS_DIR;
    vmci_fs_inode_put(ino);
    return rc;
}

int vmci_fs_ck_inodes(struct fsck *f, struct vmc_error *err)
{
    struct fs_res *r = &f->v->fdc;

    for (uint64_t c = 0; c < r->clusters; c++) {
        uint64_t lv;
        uint8_t *md = NULL;
        struct fs_page *p;
        uint8_t copy[FS_SECTOR];
        uint32_t total = vmci_fs_res_total(r, c);
        int rc = vmci_fs_res_cluster(f->v, r, c, &lv, &md, &p, err);
        if (rc == VMC_EFORMAT && md != NULL)
            rc = VMC_OK; /* reported with the maps */
        if (rc != VMC_OK)
            return rc;
        memcpy(copy, md, sizeof(copy));
        for (uint32_t i = 0; i < total && rc == VMC_OK; i++) {
            if (vmci_fs_cl_is_free(r, copy, i))
                continue;
            f->info[c * r->rpc + i] |= FI_USED;
            rc = check_inode(f, c * r->rpc + i, err);
        }
        if (rc != VMC_OK)
            return rc;
        vmci_fs_cache_trim(f->v);
        vmci_fs_inodes_trim(f->v);
    }
    return VMC_OK;
}

/* ---- the whole
 * ------------------------------------------------------------------------------------- */

static size_t map_bytes(const struct fs_res *r)
{
    return VMCI_BITMAP_WORDS(r->n + 1) * 8;
}

static int alloc_state(struct fsck *f, struct vmc_error *err)
{
    struct vmc_vmfs *v = f->v;
    bool ok = true;

    f->r[FK_LFB] = &v->lfb;
    f->r[FK_FB] = &v->fbb;
    f->r[FK_FD] = &v->fdc;
    f->r[FK_PB] = &v->pbc;
    f->r[FK_SB] = &v->sbc;
    f->r[FK_PB2] = &v->pb2;
    for (int k = 0; k < FK_KINDS; k++) {
        f->ref[k] = vmci_zalloc(v->pf, map_bytes(f->r[k]));
        ok = ok && f->ref[k] != NULL;
    }
    f->info = vmci_zalloc(v->pf, v->fdc.n);
    f->links = vmci_zalloc(v->pf, v->fdc.n * sizeof(*f->links));
    f->queue = vmci_zalloc(v->pf, v->fdc.n * sizeof(*f->queue));
    if (!ok || f->info == NULL || f->links == NULL || f->queue == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory to check the volume");
    return VMC_OK;
}

static void free_state(struct fsck *f)
{
    const struct vmc_platform *pf = f->v->pf;

    for (int k = 0; k < FK_KINDS; k++)
        if (f->r[k] != NULL)
            vmci_free(pf, f->ref[k], map_bytes(f->r[k]));
    vmci_free(pf, f->info, f->v->fdc.n);
    vmci_free(pf, f->links, f->v->fdc.n * sizeof(*f->links));
    vmci_free(pf, f->queue, f->v->fdc.n * sizeof(*f->queue));
}

/* Journals of sessions are in use although no file has them. */
static int claim_journals(struct fsck *f, struct vmc_error *err)
{
    uint8_t hb[FS_SECTOR];

    for (uint32_t i = 0; i < f->v->g.hb_slots; i++) {
        bool ours;
        uint32_t fb;
        int rc = vmci_fs_host_record(f->v, i, 0, &ours, &fb, err);
        if (rc == VMC_OK && fb != 0 && fb < f->v->fbb.n)
            vmci_bit_set(f->ref[FK_FB], fb);
        if (rc == VMC_OK)
            rc = vmci_fs_read(f->v, vmci_fs_hb_lv(f->v, i), hb, FS_SECTOR, err);
        if (rc != VMC_OK)
            return rc;
        fb = vmci_ld_le32(hb + HB_JOURNAL) >> 6;
        if (f->v->g.version != 6 && vmci_ld_le32(hb + HB_STATE) == HB_USED && fb != 0 &&
            fb < f->v->fbb.n)
            vmci_bit_set(f->ref[FK_FB], fb);
    }
    return VMC_OK;
}

static int check(struct fsck *f, struct vmc_error *err)
{
    int rc = alloc_state(f, err);

    if (f->v->problem[0] != '\0')
        vmci_fs_ck_report(f, false, "%s", f->v->problem);
    if (rc == VMC_OK)
        rc = vmci_fs_ck_volume(f, err);
    if (rc == VMC_OK)
        rc = vmci_fs_ck_heartbeats(f, err);
    if (rc == VMC_OK)
        rc = claim_journals(f, err);
    if (rc == VMC_OK)
        rc = vmci_fs_ck_inodes(f, err);
    if (rc == VMC_OK)
        rc = vmci_fs_ck_tree(f, err);
    if (rc == VMC_OK)
        rc = vmci_fs_ck_maps(f, err);
    if (rc == VMC_OK)
        rc = vmci_fs_ck_orphans(f, err);
    return rc == VMC_OK ? vmci_fs_ck_links(f, err) : rc;
}

int vmc_vmfs_fsck(struct vmc_vmfs *v, const struct vmc_vmfs_fsck_config *cfg,
                  struct vmc_vmfs_fsck_result *out, struct vmc_error *err)
{
    if (cfg == NULL || cfg->size != sizeof(*cfg))
        return vmci_error(err, VMC_EINVAL, site, "checker configuration is incomplete");
    if (v->fbb.ino == NULL || v->sbc.ino == NULL || v->pbc.ino == NULL)
        return vmci_error(err, VMC_ENOTSUP, site, "the maps of this volume's %s are not understood",
                          v->fbb.ino == NULL   ? "file blocks"
                          : v->sbc.ino == NULL ? "sub-blocks"
                                               : "pointer blocks");
    if (cfg->repair && (v->ro || !(v->flags & VMC_VMFS_REPAIR)))
        return vmci_error(err, VMC_EPERM, site, "the volume is not mounted for repair");
    struct fsck *f = vmci_zalloc(v->pf, sizeof(*f));
    if (f == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory to check the volume");
    memset(out, 0, sizeof(*out));
    f->v = v;
    f->cfg = cfg;
    f->res = out;
    vmci_lock(&v->lock);
    int rc = vmci_list_empty(&v->files) ? check(f, err)
                                        : vmci_error(err, VMC_EBUSY, site, "files are open");
    free_state(f);
    vmci_free(v->pf, f, sizeof(*f));
    vmci_fs_cache_trim(v);
    vmci_unlock(&v->lock);
    return rc;
}
