/* SPDX-License-Identifier: BSD-2-Clause */
/* Where the bytes of a file are: direct, through pointer blocks, through two levels of them. */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("map");

/* A place that holds addresses: at .. at + run entries. at NULL: the pointer block is a hole. */
struct loc {
    struct fs_page *page;
    uint8_t *at;
    uint64_t lv;
    uint64_t run;
};

uint64_t vmci_fs_map_capacity(const struct fs_geometry *g, uint32_t zla, uint64_t block)
{
    uint64_t n = g->nptr;
    uint64_t out;

    if (zla == ZLA_RESIDENT)
        return g->resident_max;
    if (zla == ZLA_PB || zla == ZLA_PB2 || zla == ZLA_DOUBLE)
        n *= g->pb_ptrs;
    if (zla == ZLA_DOUBLE)
        n *= g->pb_ptrs;
    return vmci_mul_ovf(n, block, &out) ? UINT64_MAX : out;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i += 8)
        if (vmci_ld_le64(p + i) != 0)
            return false;
    return true;
}

static uint64_t load_ptr(const struct fs_geometry *g, const uint8_t *p)
{
    return g->ptr_bytes == 8 ? vmci_ld_le64(p) : vmci_ld_le32(p);
}

static struct loc in_fd(struct fs_inode *ino, uint64_t i)
{
    const struct fs_geometry *g = &ino->v->g;
    uint32_t off = g->fd_ptrs + (uint32_t)i * g->ptr_bytes;

    return (struct loc){.page = ino->page,
                        .at = ino->md + off,
                        .lv = ino->lv + g->fd_md + off,
                        .run = g->nptr - i};
}

static int store(struct fs_inode *ino, const struct loc *l, uint64_t raw, struct vmc_error *err)
{
    int rc = vmci_fs_txn_dirty(ino->v, l->page, l->lv, ino->v->g.ptr_bytes, ino->lv, err);

    if (rc == VMC_OK && ino->v->g.ptr_bytes == 8)
        vmci_st_le64(l->at, raw);
    else if (rc == VMC_OK)
        vmci_st_le32(l->at, (uint32_t)raw);
    return rc;
}

static void add32(struct fs_inode *ino, uint32_t off, int32_t n)
{
    vmci_st_le32(ino->md + off, vmci_fs_md32(ino, off) + (uint32_t)n);
}

/* Zeros on a new pointer block. One of VMFS6 is too large for the journal: it goes to its place. */
static int clear_pb(struct fs_inode *ino, uint64_t lv, uint64_t bytes, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    struct fs_page *p;

    if (bytes > FS_PAGE) {
        v->txn.ordered = true;
        vmci_fs_page_drop(v, lv, bytes);
        return vmci_fs_zero(v, lv, bytes, err);
    }
    int rc = vmci_fs_page_new(v, lv, FS_PAGE, ino->epoch, &p, err);
    return rc == VMC_OK ? vmci_fs_txn_dirty(v, p, lv, FS_PAGE, ino->lv, err) : rc;
}

/*
 * A sub-block for pointers. It is written to before the commit, so it must not be one that this very
 * transaction frees: a crash would find the old contents gone.
 */
static int alloc_sb(struct vmc_vmfs *v, uint64_t *raw, struct vmc_error *err)
{
    uint64_t c[2], lv, bytes;
    uint32_t item[2], n = 0;
    bool freed = true;
    int rc = VMC_OK;

    while (freed && n < 2 && rc == VMC_OK) {
        rc = vmci_fs_res_alloc(v, &v->sbc, &c[n], &item[n], err);
        if (rc != VMC_OK)
            return rc;
        *raw = vmci_fs_addr_encode(&v->g, AD_SB, c[n], item[n]);
        rc = vmci_fs_addr_lv(v, *raw, &lv, &bytes, err);
        freed = rc == VMC_OK && vmci_fs_txn_revoked(v, lv);
        n++;
    }
    if (rc == VMC_OK && freed)
        rc = vmci_error(err, VMC_EAGAIN, site, "no sub-block but those that are just being freed");
    if (rc == VMC_OK && n == 2)
        rc = vmci_fs_res_free(v, &v->sbc, c[0], item[0], 1, err);
    return rc;
}

/* A zeroed pointer block, hung up at parent. Those of VMFS6 are sub-blocks. */
static int new_pb(struct fs_inode *ino, const struct loc *parent, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    uint64_t cluster, raw = 0, lv, bytes;
    uint32_t item, type = AD_PB;
    bool six = v->g.version == 6;

    int rc = six ? alloc_sb(v, &raw, err) : vmci_fs_res_alloc(v, &v->pbc, &cluster, &item, err);
    if (rc == VMC_ENOSPC && v->pb2.clusters != 0 && v->g.version == 5) {
        type = AD_PB2;
        rc = vmci_fs_res_alloc(v, &v->pb2, &cluster, &item, err);
    }
    if (rc != VMC_OK)
        return rc;
    if (!six)
        raw = vmci_fs_addr_encode(&v->g, type, cluster, item);
    rc = vmci_fs_addr_lv(v, raw, &lv, &bytes, err);
    if (rc == VMC_OK)
        rc = clear_pb(ino, lv, bytes, err);
    if (rc == VMC_OK)
        rc = store(ino, parent, raw, err);
    if (rc == VMC_OK && v->g.version >= 5)
        rc = vmci_fs_inode_dirty(ino, FD_PBS, 4, err);
    if (rc == VMC_OK && v->g.version >= 5)
        add32(ino, FD_PBS, 1);
    return rc;
}

/* From the address of a pointer block to its entry i. level: pointer blocks still below it. */
static int in_pb(struct fs_inode *ino, uint64_t raw, uint64_t i, struct loc *l,
                 struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    const struct fs_geometry *g = &v->g;
    struct fs_addr a = vmci_fs_addr_decode(g, raw);
    uint64_t lv, bytes;

    if (a.type != AD_PB && a.type != AD_PB2 && !(g->version == 6 && (a.type == AD_SB || a.type == AD_FB)))
        return vmci_error(err, VMC_EFORMAT, site,
                          "file 0x%08x: 0x%llx is not the address of a pointer block", ino->addr,
                          (unsigned long long)raw);
    int rc = vmci_fs_addr_lv(v, raw, &lv, &bytes, err);
    if (rc != VMC_OK)
        return rc;
    uint64_t at = lv + i * g->ptr_bytes;
    rc = vmci_fs_page_read(v, vmci_align_down(at, FS_PAGE), FS_PAGE, ino->epoch, &l->page, err);
    if (rc != VMC_OK)
        return rc;
    l->at = vmci_fs_at(l->page, at);
    l->lv = at;
    l->run = (FS_PAGE - at % FS_PAGE) / g->ptr_bytes;
    return VMC_OK;
}

/* One level down from *l, whose entry covers span blocks; i is the index in the pointer block. */
static int descend(struct fs_inode *ino, struct loc *l, uint64_t i, bool alloc,
                   struct vmc_error *err)
{
    const struct fs_geometry *g = &ino->v->g;
    uint64_t raw = load_ptr(g, l->at);

    if (raw == 0 && alloc) {
        int rc = new_pb(ino, l, err);
        if (rc != VMC_OK)
            return rc;
        raw = load_ptr(g, l->at);
    }
    if (raw == 0) {
        *l = (struct loc){.run = g->pb_ptrs - i};
        return VMC_OK;
    }
    return in_pb(ino, raw, i, l, err);
}

static int locate(struct fs_inode *ino, uint64_t blk, bool alloc, struct loc *l,
                  struct vmc_error *err)
{
    const struct fs_geometry *g = &ino->v->g;
    uint32_t zla = vmci_fs_md32(ino, FD_ZLA);
    uint64_t p = g->pb_ptrs;
    uint64_t top = zla == ZLA_DOUBLE ? blk / p / p : zla == ZLA_PB || zla == ZLA_PB2 ? blk / p : blk;
    int rc = VMC_OK;

    if (zla == ZLA_RESIDENT || top >= g->nptr)
        return vmci_error(err, VMC_EFORMAT, site, "file 0x%08x has no block %llu in layout %u",
                          ino->addr, (unsigned long long)blk, zla);
    *l = in_fd(ino, top);
    if (zla == ZLA_DOUBLE) {
        rc = descend(ino, l, blk / p % p, alloc, err);
        if (rc == VMC_OK && l->at == NULL) {
            l->run = p * l->run - blk % p;
            return VMC_OK;
        }
    }
    if (rc == VMC_OK && (zla == ZLA_DOUBLE || zla == ZLA_PB || zla == ZLA_PB2))
        rc = descend(ino, l, blk % p, alloc, err);
    return rc;
}

int vmci_fs_map_get(struct fs_inode *ino, uint64_t blk, uint64_t *raw, struct vmc_error *err)
{
    struct loc l;
    int rc = locate(ino, blk, false, &l, err);

    if (rc == VMC_OK)
        *raw = l.at == NULL ? 0 : load_ptr(&ino->v->g, l.at);
    return rc;
}

static bool is_tbz(const struct fs_geometry *g, uint64_t raw)
{
    return raw != 0 && vmci_fs_addr_decode(g, raw).tbz;
}

int vmci_fs_map_set(struct fs_inode *ino, uint64_t blk, uint64_t raw, struct vmc_error *err)
{
    const struct fs_geometry *g = &ino->v->g;
    struct loc l;
    int rc = locate(ino, blk, raw != 0, &l, err);

    if (rc != VMC_OK || (l.at == NULL && raw == 0))
        return rc;
    uint64_t old = load_ptr(g, l.at);
    rc = vmci_fs_inode_dirty(ino, FD_BLOCKS, 8, err);
    if (rc == VMC_OK)
        rc = store(ino, &l, raw, err);
    if (rc != VMC_OK)
        return rc;
    int64_t blocks = (raw != 0) - (old != 0);
    vmci_st_le64(ino->md + FD_BLOCKS, vmci_fs_md64(ino, FD_BLOCKS) + (uint64_t)blocks);
    if (g->version >= 5)
        add32(ino, FD_NEW_BLOCKS, (int32_t)blocks);
    add32(ino, FD_TBZ, (int32_t)is_tbz(g, raw) - (int32_t)is_tbz(g, old));
    return VMC_OK;
}

int vmci_fs_map_lv(struct fs_inode *ino, uint64_t off, uint64_t *lv, uint64_t *bytes, bool *tbz,
                   struct vmc_error *err)
{
    const struct fs_geometry *g = &ino->v->g;
    uint64_t block = vmci_fs_md64(ino, FD_BLOCK), raw, len;
    struct loc l;

    /* Then the size of its blocks may be anything. */
    if (vmci_fs_md32(ino, FD_ZLA) == ZLA_RESIDENT)
        return vmci_error(err, VMC_EFORMAT, site, "file 0x%08x has no blocks", ino->addr);
    int rc = locate(ino, off / block, false, &l, err);
    if (rc != VMC_OK)
        return rc;
    *tbz = false;
    *lv = 0;
    raw = l.at == NULL ? 0 : load_ptr(g, l.at);
    if (raw == 0) {
        *bytes = (l.at == NULL ? l.run : 1) * block - off % block;
        return VMC_OK;
    }
    struct fs_addr a = vmci_fs_addr_decode(g, raw);
    if (a.type != AD_FB && a.type != AD_SB && a.type != AD_LFB)
        return vmci_error(err, VMC_EFORMAT, site, "file 0x%08x block %llu: address 0x%llx",
                          ino->addr, (unsigned long long)(off / block), (unsigned long long)raw);
    if (a.type == AD_SB && ino->v->sbc.clusters != 0) {
        uint64_t in = off % ino->v->sbc.rs;
        rc = vmci_fs_res_item_piece(ino->v, &ino->v->sbc, a.cluster, a.item, (uint32_t)in, lv, &len,
                                    err);
        *bytes = VMCI_MIN(block - off % block, len);
        return rc;
    }
    rc = vmci_fs_addr_lv(ino->v, raw, lv, &len, err);
    if (rc != VMC_OK)
        return rc;
    *tbz = a.tbz;
    /* A target larger than the file's block (VMFS6) appears once per block of the file. */
    *lv += off % len;
    *bytes = VMCI_MIN(block - off % block, len - off % len);
    return VMC_OK;
}

/* ---- layouts ----------------------------------------------------------------------------------- */

/* Push the pointers of the file descriptor down into a new pointer block. */
static int deepen(struct fs_inode *ino, uint32_t zla, struct vmc_error *err)
{
    const struct fs_geometry *g = &ino->v->g;
    uint8_t ptrs[FS_PAGE];
    uint32_t bytes = g->nptr * g->ptr_bytes;
    struct loc top = in_fd(ino, 0), l;

    memcpy(ptrs, ino->md + g->fd_ptrs, bytes);
    int rc = vmci_fs_inode_dirty(ino, 0, g->fd_ptrs + bytes, err);
    if (rc != VMC_OK)
        return rc;
    memset(ino->md + g->fd_ptrs, 0, bytes);
    vmci_st_le32(ino->md + FD_ZLA, zla);
    if (all_zero(ptrs, bytes))
        return VMC_OK;
    rc = new_pb(ino, &top, err);
    if (rc == VMC_OK)
        rc = in_pb(ino, load_ptr(g, top.at), 0, &l, err);
    if (rc == VMC_OK)
        rc = vmci_fs_txn_dirty(ino->v, l.page, l.lv, bytes, ino->lv, err);
    if (rc == VMC_OK)
        memcpy(l.at, ptrs, bytes);
    return rc;
}

static void set_block_size(struct fs_inode *ino, uint32_t zla, uint64_t block)
{
    vmci_st_le32(ino->md + FD_ZLA, zla);
    vmci_st_le64(ino->md + FD_BLOCK, block);
    if (ino->v->g.version >= 5)
        ino->md[FD_LOG2] = (uint8_t)__builtin_ctzll(block);
}

/* One block of the new kind with its part of the old contents; what is beyond them is zero. */
static int fill_block(struct fs_inode *ino, uint32_t type, uint64_t blk, const uint8_t *buf,
                      uint64_t len, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    uint64_t first = 0, lv, bytes = 0, raw;
    uint32_t item = 0, got;
    int rc = type == AD_SB ? vmci_fs_res_alloc(v, &v->sbc, &first, &item, err)
                           : vmci_fs_fb_alloc(v, UINT64_MAX, 1, &first, &got, err);

    if (rc != VMC_OK)
        return rc;
    raw = vmci_fs_addr_encode(&v->g, type, first, item);
    rc = vmci_fs_map_set(ino, blk, raw, err);
    uint64_t block = vmci_fs_md64(ino, FD_BLOCK);
    len = VMCI_MIN(vmci_align_up(len, FS_SECTOR), block);
    for (uint64_t at = 0; at < block && rc == VMC_OK; at += bytes) {
        bool tbz;
        rc = vmci_fs_map_lv(ino, blk * block + at, &lv, &bytes, &tbz, err);
        uint64_t n = at < len ? VMCI_MIN(len - at, bytes) : 0;
        if (rc == VMC_OK && n > 0)
            rc = vmci_fs_write(v, lv, buf + at, n, err);
        if (rc == VMC_OK && n < bytes)
            rc = vmci_fs_zero(v, lv + n, bytes - n, err);
    }
    v->txn.ordered = true;
    return rc;
}

/*
 * From resident data or sub-blocks to the next larger kind. The contents move; new blocks are
 * written before the commit (ordered data).
 */
static int move_small(struct fs_inode *ino, uint32_t zla, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    const struct fs_geometry *g = &v->g;
    bool from_sb = vmci_fs_md32(ino, FD_ZLA) == ZLA_SB;
    uint64_t len = vmci_fs_md64(ino, FD_LENGTH), left = 0;
    uint64_t block = zla == ZLA_SB ? g->sb_bytes : g->fb_bytes;
    uint64_t room = vmci_align_up(VMCI_MAX(len, 1u), g->sb_bytes);
    int rc = VMC_OK;

    uint8_t *buf = vmci_alloc_aligned(v->pf, room, FS_PAGE);
    if (buf == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory to move a file");
    memset(buf, 0, room);
    if (len > 0) {
        int64_t n = vmci_fs_read_slow(ino, buf, (size_t)len, 0, err);
        rc = n < 0 ? (int)n : VMC_OK;
    }
    if (rc == VMC_OK && from_sb)
        rc = vmci_fs_map_free(ino, 0, (len + g->sb_bytes - 1) / g->sb_bytes, UINT32_MAX, &left, err);
    if (rc == VMC_OK && left != 0)
        rc = vmci_error(err, VMC_EAGAIN, site, "moving a directory takes too large a transaction");
    if (rc == VMC_OK)
        rc = vmci_fs_inode_dirty(ino, 0, g->fd_bytes - g->fd_md, err);
    if (rc == VMC_OK) {
        memset(ino->md + g->fd_resident, 0, vmci_fs_fd_data(g));
        set_block_size(ino, zla, block);
        vmci_fs_leaf_free(ino); /* from when the file had blocks before */
    }
    for (uint64_t at = 0; at < len && rc == VMC_OK; at += block)
        rc = fill_block(ino, zla == ZLA_SB ? AD_SB : AD_FB, at / block, buf + at,
                        VMCI_MIN(room - at, block), err);
    vmci_free_aligned(v->pf, buf, room, FS_PAGE);
    return rc;
}

/* Is the last sub-block that the contents need one they lack, and none is free? File blocks then. */
static bool lacks_sub_block(struct fs_inode *ino, uint32_t zla, uint64_t need)
{
    uint64_t raw;

    return ino->v->no_sb && zla == ZLA_SB && need > 0 &&
           vmci_fs_map_get(ino, (need - 1) / ino->v->g.sb_bytes, &raw, NULL) == VMC_OK && raw == 0;
}

int vmci_fs_map_prepare(struct fs_inode *ino, uint64_t need, struct vmc_error *err)
{
    const struct fs_geometry *g = &ino->v->g;
    bool dir = vmci_fs_md32(ino, FD_TYPE) == VMC_VMFS_DIR;

    /* Each step reaches the next layout; there are five. */
    for (unsigned i = 0; i < 6; i++) {
        uint32_t zla = vmci_fs_md32(ino, FD_ZLA);
        uint64_t block = vmci_fs_md64(ino, FD_BLOCK);
        /* Regular files have at most one sub-block. */
        uint64_t cap = zla == ZLA_SB && !dir ? block : vmci_fs_map_capacity(g, zla, block);
        bool no_sb = lacks_sub_block(ino, zla, need);
        int rc;
        if (need <= cap && !no_sb)
            return VMC_OK;
        if (zla == ZLA_RESIDENT || zla == ZLA_SB)
            rc = move_small(ino, need <= g->sb_bytes && !ino->v->no_sb ? ZLA_SB : ZLA_FB, err);
        else if (zla == ZLA_FB)
            rc = deepen(ino, ZLA_PB, err);
        else if ((zla == ZLA_PB || zla == ZLA_PB2) && g->version >= 5)
            rc = deepen(ino, ZLA_DOUBLE, err);
        else
            break;
        if (rc != VMC_OK)
            return rc;
        bool blocks = vmci_fs_md64(ino, FD_BLOCK) == g->fb_bytes;
        ino->shift = blocks ? g->fb_shift : 0;
    }
    return vmci_error(err, VMC_ELIMIT, site, "a file cannot have 0x%llx bytes on this volume",
                      (unsigned long long)need);
}

/* ---- freeing ----------------------------------------------------------------------------------- */

/* Is there no address in a pointer block? */
static int pb_empty(struct fs_inode *ino, uint64_t raw, bool *empty, struct vmc_error *err)
{
    const struct fs_geometry *g = &ino->v->g;
    uint32_t per = FS_PAGE / g->ptr_bytes;
    struct loc l;
    int rc = VMC_OK;

    *empty = true;
    for (uint32_t i = 0; i < g->pb_ptrs && *empty && rc == VMC_OK; i += per) {
        rc = in_pb(ino, raw, i, &l, err);
        *empty = rc == VMC_OK && all_zero(l.at, FS_PAGE);
    }
    return rc;
}

/* Free the pointer block over blk if nothing is left in it; then the one over that. */
static int prune(struct fs_inode *ino, uint64_t blk, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    uint64_t p = v->g.pb_ptrs;
    uint32_t zla = vmci_fs_md32(ino, FD_ZLA);

    for (unsigned level = zla == ZLA_DOUBLE ? 2 : 1; level > 0; level--) {
        struct loc up;
        uint64_t lv, bytes;
        bool empty;
        int rc = VMC_OK;
        if (zla == ZLA_DOUBLE) {
            up = in_fd(ino, blk / p / p);
            if (level == 2)
                rc = descend(ino, &up, blk / p % p, false, err);
        } else {
            up = in_fd(ino, blk / p);
        }
        if (rc != VMC_OK || up.at == NULL)
            return rc;
        uint64_t raw = load_ptr(&v->g, up.at);
        if (raw == 0)
            continue;
        rc = pb_empty(ino, raw, &empty, err);
        if (rc != VMC_OK || !empty)
            return rc;
        struct fs_addr a = vmci_fs_addr_decode(&v->g, raw);
        rc = vmci_fs_addr_lv(v, raw, &lv, &bytes, err);
        if (rc == VMC_OK)
            rc = store(ino, &up, 0, err);
        if (rc == VMC_OK)
            rc = vmci_fs_txn_revoke(v, lv, bytes, err);
        if (rc == VMC_OK)
            rc = vmci_fs_res_free(v, vmci_fs_res_of(v, a.type), a.cluster, a.item, 1, err);
        if (rc == VMC_OK && v->g.version >= 5)
            rc = vmci_fs_inode_dirty(ino, FD_PBS, 4, err);
        if (rc != VMC_OK)
            return rc;
        if (v->g.version >= 5 && vmci_fs_md32(ino, FD_PBS) > 0)
            add32(ino, FD_PBS, -1);
    }
    return VMC_OK;
}

/* Free what one address names. */
static int free_block(struct fs_inode *ino, uint64_t raw, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    struct fs_addr a = vmci_fs_addr_decode(&v->g, raw);
    uint64_t lv, bytes;
    int rc = VMC_OK;

    if (a.cow)
        rc = vmci_error(err, VMC_ENOTSUP, site, "file 0x%08x shares blocks with another",
                        ino->addr);
    if (rc == VMC_OK && a.type != AD_FB && a.type != AD_SB)
        rc = vmci_error(err, VMC_EFORMAT, site, "file 0x%08x: block address 0x%llx", ino->addr,
                        (unsigned long long)raw);
    uint64_t size = a.type == AD_SB ? v->sbc.rs : v->g.fb_bytes;
    for (uint64_t at = 0; at < size && rc == VMC_OK; at += bytes) {
        rc = a.type == AD_SB ? vmci_fs_res_item_piece(v, &v->sbc, a.cluster, a.item, (uint32_t)at,
                                                      &lv, &bytes, err)
                             : vmci_fs_addr_lv(v, raw, &lv, &bytes, err);
        /* Directory contents were journaled: a replay must not bring them back. */
        if (rc == VMC_OK && (vmci_fs_md32(ino, FD_TYPE) == VMC_VMFS_DIR || a.type == AD_SB))
            rc = vmci_fs_txn_revoke(v, lv, bytes, err);
        if (rc == VMC_OK)
            vmci_fs_txn_discard(v, lv, bytes);
    }
    if (rc != VMC_OK)
        return rc;
    return a.type == AD_FB ? vmci_fs_fb_free(v, a.block, 1, err)
                           : vmci_fs_res_free(v, &v->sbc, a.cluster, a.item, 1, err);
}

/* ---- large blocks (VMFS6) ------------------------------------------------------------------------ */

/*
 * A large block stands at as many entries as it has small blocks: one page of a pointer block, so
 * that a page of addresses is all that has to change with it.
 */
static int large_page(struct fs_inode *ino, uint64_t blk, struct loc *l, struct vmc_error *err)
{
    int rc = locate(ino, blk, true, l, err);

    return rc == VMC_OK ? vmci_fs_txn_dirty(ino->v, l->page, l->page->lv, FS_PAGE, ino->lv, err) : rc;
}

static int count_large(struct fs_inode *ino, int32_t large, int64_t blocks, struct vmc_error *err)
{
    int rc = vmci_fs_inode_dirty(ino, 0, FS_SECTOR, err);

    if (rc != VMC_OK)
        return rc;
    add32(ino, FD_LFBS, large);
    add32(ino, FD_NEW_BLOCKS, (int32_t)blocks);
    vmci_st_le64(ino->md + FD_BLOCKS, vmci_fs_md64(ino, FD_BLOCKS) + (uint64_t)blocks);
    return VMC_OK;
}

int vmci_fs_map_large(struct fs_inode *ino, uint64_t blk, uint64_t want, uint64_t *fb, bool *got,
                      struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    uint32_t zla = vmci_fs_md32(ino, FD_ZLA), per = 1u << (v->g.lfb_shift - v->g.fb_shift);
    uint64_t n;
    struct loc l;

    *got = false;
    if (v->g.version != 6 || per * 8 != FS_PAGE || blk % per != 0 || want < per ||
        (zla != ZLA_PB && zla != ZLA_DOUBLE) || vmci_fs_md64(ino, FD_BLOCK) != v->g.fb_bytes ||
        !vmci_fs_txn_room(v, 64, 8))
        return VMC_OK;
    int rc = large_page(ino, blk, &l, err);
    if (rc != VMC_OK || !all_zero(l.at, FS_PAGE))
        return rc;
    rc = vmci_fs_lfb_alloc(v, &n, err);
    if (rc == VMC_ENOSPC || rc == VMC_EBUSY)
        return VMC_OK; /* small blocks do as well */
    if (rc == VMC_OK)
        rc = count_large(ino, 1, per, err);
    if (rc != VMC_OK)
        return rc;
    for (uint32_t i = 0; i < per; i++)
        vmci_st_le64(l.at + i * 8ull, vmci_fs_addr_encode(&v->g, AD_LFB, n, 0));
    *fb = n * per;
    *got = true;
    return VMC_OK;
}

/* The last block of a large one, blk, goes: all of it if that is wanted, else it is divided first. */
static int free_large(struct fs_inode *ino, uint64_t first, uint64_t blk, uint64_t n, uint64_t *end,
                      struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    uint32_t per = 1u << (v->g.lfb_shift - v->g.fb_shift);
    uint64_t base = blk / per * per;
    bool whole = base >= first && blk == base + per - 1;
    struct loc l;

    if (per * 8 != FS_PAGE || vmci_fs_md32(ino, FD_ZLA) == ZLA_FB)
        return vmci_error(err, VMC_ENOTSUP, site, "file 0x%08x: large block %llu cannot be divided",
                          ino->addr, (unsigned long long)n);
    int rc = large_page(ino, base, &l, err);
    if (rc == VMC_OK)
        rc = whole ? vmci_fs_lfb_free(v, n, err) : vmci_fs_lfb_split(v, n, err);
    if (rc == VMC_OK)
        rc = count_large(ino, -1, whole ? -(int64_t)per : 0, err);
    if (rc != VMC_OK)
        return rc;
    for (uint32_t i = 0; i < per; i++) {
        vmci_st_le64(l.at + i * 8ull,
                     whole ? 0 : vmci_fs_addr_encode(&v->g, AD_FB, n * per + i, 0));
        if (whole)
            vmci_fs_leaf_set(ino, base + i, MAP_HOLE);
    }
    if (whole) {
        vmci_fs_txn_discard(v, n << v->g.lfb_shift, 1ull << v->g.lfb_shift);
        *end = base;
    }
    return VMC_OK;
}

int vmci_fs_map_free(struct fs_inode *ino, uint64_t first, uint64_t end, uint32_t limit,
                     uint64_t *left, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    uint32_t zla = vmci_fs_md32(ino, FD_ZLA);
    bool pbs = zla == ZLA_PB || zla == ZLA_PB2 || zla == ZLA_DOUBLE;
    uint64_t p = v->g.pb_ptrs, pruned = UINT64_MAX;
    uint32_t n = 0;

    while (end > first && n < limit && v->txn.discards < FS_TXN_DISCARDS &&
           vmci_fs_txn_room(v, v->g.version == 6 ? 64 : 32, 8)) {
        struct loc l;
        uint64_t blk = end - 1;
        int rc = locate(ino, blk, false, &l, err);
        if (rc != VMC_OK)
            return rc;
        if (l.at == NULL) {
            /* Nothing in this pointer block: go below it. */
            uint64_t span = zla == ZLA_DOUBLE && l.run > p ? p * p : p;
            end = VMCI_MAX(first, blk / span * span);
            n++;
            continue;
        }
        uint64_t raw = load_ptr(&v->g, l.at);
        if (vmci_fs_addr_decode(&v->g, raw).type == AD_LFB && v->g.version == 6) {
            rc = free_large(ino, first, blk, vmci_fs_addr_decode(&v->g, raw).block, &end, err);
            if (rc != VMC_OK)
                return rc;
            if (end == blk + 1)
                continue; /* divided: look again */
            n++;
            blk = end;
        } else if (raw != 0) {
            rc = vmci_fs_map_set(ino, blk, 0, err);
            if (rc == VMC_OK)
                rc = free_block(ino, raw, err);
            if (rc != VMC_OK)
                return rc;
            vmci_fs_leaf_set(ino, blk, MAP_HOLE);
            n++;
        }
        end = blk;
        if (pbs && (end % p == 0 || end == first)) {
            rc = prune(ino, end, err);
            pruned = end;
            if (rc != VMC_OK)
                return rc;
        }
    }
    if (pbs && n > 0 && end > first && pruned != end) {
        int rc = prune(ino, end, err);
        if (rc != VMC_OK)
            return rc;
    }
    *left = end;
    return VMC_OK;
}
