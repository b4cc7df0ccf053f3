/* SPDX-License-Identifier: BSD-2-Clause */
/* Contents of files under the volume's lock: holes, growth, small files, truncation. */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("file");

#define RUNS_MAX 64u /* newly mapped runs in one transaction */

struct new_run {
    uint64_t blk, fb;
    uint32_t n;
};

/* ---- metadata in files: directories and headers of system files, through the cache ----------- */

int vmci_fs_file_meta(struct fs_inode *ino, uint64_t off, void *buf, uint32_t bytes, bool write,
                      struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    uint8_t *b = buf;

    /* A directory of others that is so small that it needs no block; ours have one always. */
    if (vmci_fs_md32(ino, FD_ZLA) == ZLA_RESIDENT && !write) {
        if (!vmci_range_ok(off, bytes, v->g.resident_max))
            return vmci_error(err, VMC_EFORMAT, site, "file 0x%08x has nothing at 0x%llx",
                              ino->addr, (unsigned long long)off);
        memcpy(b, ino->md + v->g.fd_resident + off, bytes);
        return VMC_OK;
    }
    while (bytes > 0) {
        uint64_t lv, len;
        bool tbz;
        struct fs_page *p;
        int rc = vmci_fs_map_lv(ino, off, &lv, &len, &tbz, err);
        if (rc != VMC_OK)
            return rc;
        uint32_t n = (uint32_t)VMCI_MIN(VMCI_MIN(len, FS_PAGE - off % FS_PAGE), bytes);
        if (lv == 0 || tbz) {
            if (write)
                return vmci_error(err, VMC_EFORMAT, site, "file 0x%08x has a hole at 0x%llx",
                                  ino->addr, (unsigned long long)off);
            memset(b, 0, n);
        } else {
            rc = vmci_fs_page_read(v, vmci_align_down(lv, FS_PAGE), FS_PAGE, ino->epoch, &p, err);
            if (rc == VMC_OK && write)
                rc = vmci_fs_txn_dirty(v, p, lv, n, ino->lv, err);
            if (rc != VMC_OK)
                return rc;
            if (write)
                memcpy(vmci_fs_at(p, lv), b, n);
            else
                memcpy(b, vmci_fs_at(p, lv), n);
        }
        b += n;
        off += n;
        bytes -= n;
    }
    return VMC_OK;
}

/* ---- raw data at a place on the volume, any alignment ------------------------------------------- */

static uint32_t unit(const struct vmc_vmfs *v)
{
    return VMCI_MAX(v->dev[0].info.sector_bytes, FS_SECTOR);
}

static int data_read(struct vmc_vmfs *v, uint64_t lv, uint8_t *dst, uint64_t bytes,
                     struct vmc_error *err)
{
    uint8_t bounce[FS_PAGE];
    uint32_t u = unit(v);

    while (bytes > 0) {
        uint64_t n = vmci_align_down(bytes, u);
        int rc;
        if (lv % u == 0 && n > 0) {
            rc = vmci_fs_read(v, lv, dst, n, err);
        } else {
            uint64_t base = vmci_align_down(lv, u);
            n = VMCI_MIN(bytes, base + u - lv);
            rc = vmci_fs_read(v, base, bounce, u, err);
            if (rc == VMC_OK)
                memcpy(dst, bounce + (lv - base), n);
        }
        if (rc != VMC_OK)
            return rc;
        lv += n;
        dst += n;
        bytes -= n;
    }
    return VMC_OK;
}

/* src NULL: zeros. */
static int data_write(struct vmc_vmfs *v, uint64_t lv, const uint8_t *src, uint64_t bytes,
                      struct vmc_error *err)
{
    uint8_t bounce[FS_PAGE];
    uint32_t u = unit(v);

    while (bytes > 0) {
        uint64_t n = vmci_align_down(bytes, u);
        int rc;
        if (lv % u == 0 && n > 0) {
            rc = src != NULL ? vmci_fs_write(v, lv, src, n, err) : vmci_fs_zero(v, lv, n, err);
        } else {
            uint64_t base = vmci_align_down(lv, u);
            n = VMCI_MIN(bytes, base + u - lv);
            rc = vmci_fs_read(v, base, bounce, u, err);
            if (rc == VMC_OK && src != NULL)
                memcpy(bounce + (lv - base), src, n);
            else if (rc == VMC_OK)
                memset(bounce + (lv - base), 0, n);
            if (rc == VMC_OK)
                rc = vmci_fs_write(v, base, bounce, u, err);
        }
        if (rc != VMC_OK)
            return rc;
        lv += n;
        src = src != NULL ? src + n : NULL;
        bytes -= n;
    }
    return VMC_OK;
}

int64_t vmci_fs_read_slow(struct fs_inode *ino, void *dst, size_t bytes, uint64_t off,
                          struct vmc_error *err)
{
    uint64_t len = vmci_fs_md64(ino, FD_LENGTH);
    uint8_t *d = dst;
    bool dir = vmci_fs_md32(ino, FD_TYPE) == VMC_VMFS_DIR;

    if (ino->mapping)
        return vmci_error(err, VMC_ENOTSUP, site, "0x%08x maps a raw device and has no contents",
                          ino->addr);
    if (off >= len)
        return 0;
    bytes = (size_t)VMCI_MIN(bytes, len - off);
    if (vmci_fs_md32(ino, FD_ZLA) == ZLA_RESIDENT) {
        memcpy(dst, ino->md + ino->v->g.fd_resident + off, bytes);
        return (int64_t)bytes;
    }
    for (size_t done = 0; done < bytes;) {
        uint64_t lv, n;
        bool tbz;
        int rc = vmci_fs_map_lv(ino, off + done, &lv, &n, &tbz, err);
        if (rc != VMC_OK)
            return rc;
        n = VMCI_MIN(n, bytes - done);
        if (lv == 0 || tbz)
            memset(d + done, 0, n);
        else if (dir)
            rc = vmci_fs_file_meta(ino, off + done, d + done, (uint32_t)n, false, err);
        else
            rc = data_read(ino->v, lv, d + done, n, err);
        if (rc != VMC_OK)
            return rc;
        done += n;
    }
    return (int64_t)bytes;
}

/* ---- writing ----------------------------------------------------------------------------------- */

static int touch(struct fs_inode *ino, struct vmc_error *err)
{
    uint32_t now = vmci_fs_wall(ino->v);
    int rc = vmci_fs_inode_dirty(ino, FD_MTIME, 8, err);

    if (rc == VMC_OK) {
        vmci_st_le32(ino->md + FD_MTIME, now);
        vmci_st_le32(ino->md + FD_CTIME, now);
    }
    return rc;
}

static int set_length(struct fs_inode *ino, uint64_t len, struct vmc_error *err)
{
    int rc = vmci_fs_inode_dirty(ino, FD_LENGTH, 8, err);

    if (rc == VMC_OK)
        vmci_st_le64(ino->md + FD_LENGTH, len);
    return rc == VMC_OK ? touch(ino, err) : rc;
}

/* What lies in the last block beyond the old end must read as zeros once the file is longer. */
static int zero_tail(struct fs_inode *ino, uint64_t upto, struct vmc_error *err)
{
    uint64_t len = vmci_fs_md64(ino, FD_LENGTH), lv, n;
    bool tbz;

    if (vmci_fs_md32(ino, FD_ZLA) == ZLA_RESIDENT) {
        uint64_t end = VMCI_MIN(upto, ino->v->g.resident_max);
        int rc = vmci_fs_inode_dirty(ino, 0, ino->v->g.fd_bytes - ino->v->g.fd_md, err);
        if (rc == VMC_OK && end > len)
            memset(ino->md + ino->v->g.fd_resident + len, 0, end - len);
        return rc;
    }
    if (upto <= len || len % vmci_fs_md64(ino, FD_BLOCK) == 0)
        return VMC_OK;
    int rc = vmci_fs_map_lv(ino, len, &lv, &n, &tbz, err);
    if (rc != VMC_OK || lv == 0 || tbz)
        return rc;
    ino->v->txn.ordered = true;
    return data_write(ino->v, lv, NULL, VMCI_MIN(n, upto - len), err);
}

/* A block that is newly the file's: data at in .. in + n, zeros around them. */
static int fill(struct vmc_vmfs *v, uint64_t lv, uint64_t total, uint64_t in, const uint8_t *src,
                uint64_t n, struct vmc_error *err)
{
    uint64_t head = vmci_align_down(in, unit(v)), tail = vmci_align_up(in + n, unit(v));
    int rc = VMC_OK;

    v->txn.ordered = true;
    if (head > 0)
        rc = vmci_fs_zero(v, lv, head, err);
    if (rc == VMC_OK && total > tail)
        rc = vmci_fs_zero(v, lv + tail, total - tail, err);
    if (rc == VMC_OK && in > head) {
        rc = vmci_fs_zero(v, lv + head, unit(v), err);
    }
    if (rc == VMC_OK && tail > in + n && (in <= head || tail - unit(v) != head))
        rc = vmci_fs_zero(v, lv + tail - unit(v), unit(v), err);
    return rc == VMC_OK ? data_write(v, lv + in, src, n, err) : rc;
}

/* The same for a sub-block, which may be in two pieces. */
static int fill_sub_block(struct fs_inode *ino, uint64_t blk, uint64_t in, const uint8_t *src,
                          uint64_t n, struct vmc_error *err)
{
    uint64_t block = vmci_fs_md64(ino, FD_BLOCK), lv, len;
    int rc = VMC_OK;

    for (uint64_t at = 0; at < block && rc == VMC_OK; at += len) {
        bool tbz;
        rc = vmci_fs_map_lv(ino, blk * block + at, &lv, &len, &tbz, err);
        if (rc != VMC_OK)
            break;
        uint64_t first = VMCI_MAX(in, at), end = VMCI_MIN(in + n, at + len);
        rc = first < end ? fill(ino->v, lv, len, first - at, src + (first - in), end - first, err)
                         : vmci_fs_zero(ino->v, lv, len, err);
    }
    return rc;
}

static uint64_t goal_after(struct fs_inode *ino, uint64_t blk)
{
    uint64_t raw;

    if (blk == 0 || vmci_fs_map_get(ino, blk - 1, &raw, NULL) != VMC_OK || raw == 0)
        return UINT64_MAX;
    struct fs_addr a = vmci_fs_addr_decode(&ino->v->g, raw);
    if (a.type == AD_LFB)
        return (a.block + 1) << (ino->v->g.lfb_shift - ino->v->g.fb_shift);
    return a.type == AD_FB ? a.block + 1 : UINT64_MAX;
}

/* How many holes follow each other from blk on, at most want. */
static uint32_t count_holes(struct fs_inode *ino, uint64_t blk, uint64_t want)
{
    uint32_t n = 0;
    uint64_t raw;

    while (n < want && vmci_fs_map_get(ino, blk + n, &raw, NULL) == VMC_OK && raw == 0)
        n++;
    return n;
}

/*
 * Map up to want holes from blk on, contiguously. tbz: as "to be zeroed". Stops where the
 * transaction is full; *got may be 0 then.
 */
static int map_run(struct fs_inode *ino, uint64_t blk, uint64_t want, bool tbz, uint64_t *fb,
                   uint32_t *got, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    uint32_t n = count_holes(ino, blk, VMCI_MIN(want, 256u));
    int rc;

    *got = 0;
    if (!vmci_fs_txn_room(v, 24, 8))
        return VMC_OK;
    if (vmci_fs_md64(ino, FD_BLOCK) != v->g.fb_bytes) {
        uint64_t cluster;
        uint32_t item;
        rc = vmci_fs_res_alloc(v, &v->sbc, &cluster, &item, err);
        if (rc == VMC_OK)
            rc = vmci_fs_map_set(ino, blk, vmci_fs_addr_encode(&v->g, AD_SB, cluster, item), err);
        *got = rc == VMC_OK;
        return rc;
    }
    rc = vmci_fs_fb_alloc(v, goal_after(ino, blk), n, fb, got, err);
    for (uint32_t i = 0; i < *got && rc == VMC_OK; i++) {
        /* Room for two more pointer blocks, or stop here and give the rest back. */
        if (!vmci_fs_txn_room(v, 20, 4)) {
            rc = vmci_fs_fb_free(v, *fb + i, *got - i, err);
            *got = i;
            break;
        }
        rc = vmci_fs_map_set(ino, blk + i,
                             vmci_fs_addr_encode(&v->g, AD_FB, *fb + i, 0) |
                                 (tbz ? vmci_fs_tbz_bits(&v->g) : 0),
                             err);
    }
    return rc;
}

struct writer {
    struct fs_inode *ino;
    struct new_run run[RUNS_MAX];
    uint32_t runs;
};

static int commit_runs(struct writer *w, struct vmc_error *err)
{
    int rc = vmci_fs_txn_commit(w->ino->v, err);

    for (uint32_t i = 0; i < w->runs && rc == VMC_OK; i++)
        for (uint32_t k = 0; k < w->run[i].n; k++)
            vmci_fs_leaf_set(w->ino, w->run[i].blk + k, MAP_BLOCK | (uint32_t)(w->run[i].fb + k) << 2);
    w->runs = 0;
    return rc;
}

/*
 * One piece of a write, as far as it can be done in this transaction. *n: bytes done, 0 when the
 * transaction is full. old_end: the first block that was beyond the file when the write began.
 */
static int write_piece(struct writer *w, const uint8_t *src, uint64_t off, uint64_t bytes,
                       uint64_t old_end, uint64_t *n, struct vmc_error *err)
{
    struct fs_inode *ino = w->ino;
    struct vmc_vmfs *v = ino->v;
    uint64_t block = vmci_fs_md64(ino, FD_BLOCK), blk = off / block, in = off % block;
    uint64_t raw, lv, len;
    int rc = vmci_fs_map_get(ino, blk, &raw, err);

    *n = 0;
    if (rc != VMC_OK)
        return rc;
    if (w->runs == RUNS_MAX)
        return VMC_OK;
    struct fs_addr a = vmci_fs_addr_decode(&v->g, raw);
    if (raw != 0 && a.cow)
        return vmci_error(err, VMC_ENOTSUP, site, "file 0x%08x shares block %llu with another",
                          ino->addr, (unsigned long long)blk);
    if (raw != 0 && !a.tbz && blk < old_end) {
        bool tbz;
        rc = vmci_fs_map_lv(ino, off, &lv, &len, &tbz, err);
        *n = VMCI_MIN(bytes, len);
        return rc == VMC_OK ? data_write(v, lv, src, *n, err) : rc;
    }
    uint64_t fb = 0;
    uint32_t got = 0;
    if (raw == 0) {
        rc = map_run(ino, blk, (in + bytes + block - 1) / block, false, &fb, &got, err);
        if (rc != VMC_OK || got == 0)
            return rc;
        rc = vmci_fs_map_get(ino, blk, &raw, err);
    } else {
        if (!vmci_fs_txn_room(v, 24, 4))
            return VMC_OK;
        raw &= ~vmci_fs_tbz_bits(&v->g);
        rc = vmci_fs_map_set(ino, blk, raw, err);
        fb = a.block;
        got = 1;
    }
    if (rc == VMC_OK && a.type == AD_LFB)
        rc = vmci_error(err, VMC_EFORMAT, site, "file 0x%08x: large block %llu beyond its end",
                        ino->addr, (unsigned long long)a.block);
    if (rc != VMC_OK)
        return rc;
    *n = VMCI_MIN(bytes, got * block - in);
    if (block != v->g.fb_bytes)
        return fill_sub_block(ino, blk, in, src, *n, err);
    rc = vmci_fs_addr_lv(v, raw, &lv, &len, err);
    if (rc != VMC_OK)
        return rc;
    rc = fill(v, lv, got * block, in, src, *n, err);
    w->run[w->runs++] = (struct new_run){.blk = blk, .fb = fb, .n = got};
    return rc;
}

static int write_resident(struct fs_inode *ino, const uint8_t *src, uint64_t bytes, uint64_t off,
                          struct vmc_error *err)
{
    const struct fs_geometry *g = &ino->v->g;
    int rc = vmci_fs_inode_dirty(ino, g->fd_resident + (uint32_t)off, (uint32_t)bytes, err);

    if (rc == VMC_OK)
        memcpy(ino->md + g->fd_resident + off, src, bytes);
    return rc;
}

/* The first contents of a file made in the running transaction; short ones. */
int vmci_fs_write_first(struct fs_inode *ino, const void *src, uint32_t bytes,
                        struct vmc_error *err)
{
    uint64_t n = bytes;
    int rc = vmci_fs_map_prepare(ino, bytes, err);

    if (rc == VMC_OK && vmci_fs_md32(ino, FD_ZLA) == ZLA_RESIDENT) {
        rc = write_resident(ino, src, bytes, 0, err);
    } else if (rc == VMC_OK) {
        struct writer *w = vmci_zalloc(ino->v->pf, sizeof(*w));
        if (w == NULL)
            return vmci_error(err, VMC_ENOMEM, site, "no memory to write");
        w->ino = ino;
        rc = write_piece(w, src, 0, bytes, 0, &n, err);
        vmci_free(ino->v->pf, w, sizeof(*w));
    }
    if (rc == VMC_OK && n != bytes)
        rc = vmci_error(err, VMC_ELIMIT, site, "%u bytes are too many at once", bytes);
    return rc == VMC_OK ? set_length(ino, bytes, err) : rc;
}

/* One transaction's worth of a write. */
static int write_step(struct writer *w, const uint8_t *src, uint64_t off, uint64_t bytes,
                      uint64_t *done, struct vmc_error *err)
{
    struct fs_inode *ino = w->ino;
    struct vmc_vmfs *v = ino->v;
    uint64_t len, old_end, block;
    int rc = vmci_fs_txn_begin(v, err);

    *done = 0;
    if (rc != VMC_OK)
        return rc;
    rc = vmci_fs_txn_inode(v, ino, err);
    if (rc != VMC_OK)
        goto abort;
    len = vmci_fs_md64(ino, FD_LENGTH);
    rc = zero_tail(ino, VMCI_MAX(off, len), err);
    if (rc == VMC_OK)
        rc = vmci_fs_map_prepare(ino, VMCI_MAX(off + bytes, len), err);
    if (rc != VMC_OK)
        goto abort;
    block = vmci_fs_md64(ino, FD_BLOCK);
    old_end = (len + block - 1) / block;
    if (vmci_fs_md32(ino, FD_ZLA) == ZLA_RESIDENT) {
        rc = write_resident(ino, src, bytes, off, err);
        *done = bytes;
    }
    while (rc == VMC_OK && *done < bytes) {
        uint64_t n;
        rc = write_piece(w, src + *done, off + *done, bytes - *done, old_end, &n, err);
        if (n == 0)
            break;
        *done += n;
    }
    if (rc == VMC_OK && *done == 0)
        rc = vmci_error(err, VMC_EAGAIN, site, "a write does not fit a transaction");
    if (rc == VMC_OK && off + *done > len)
        rc = set_length(ino, off + *done, err);
    else if (rc == VMC_OK)
        rc = touch(ino, err);
    if (rc == VMC_OK)
        return commit_runs(w, err);
abort:
    w->runs = 0;
    vmci_fs_txn_abort(v);
    return rc;
}

/* Does the write touch nothing but data blocks that the file has? */
static int overwrite(struct fs_inode *ino, const uint8_t *src, uint64_t bytes, uint64_t off,
                     bool *done, struct vmc_error *err)
{
    uint64_t lv, n, at = 0;
    bool tbz;

    *done = false;
    if (vmci_fs_md32(ino, FD_ZLA) == ZLA_RESIDENT ||
        !vmci_range_ok(off, bytes, vmci_fs_md64(ino, FD_LENGTH)))
        return VMC_OK;
    for (; at < bytes; at += n) {
        int rc = vmci_fs_map_lv(ino, off + at, &lv, &n, &tbz, err);
        if (rc != VMC_OK)
            return rc;
        if (lv == 0 || tbz)
            return VMC_OK;
    }
    for (at = 0; at < bytes; at += n) {
        int rc = vmci_fs_map_lv(ino, off + at, &lv, &n, &tbz, err);
        n = VMCI_MIN(n, bytes - at);
        if (rc == VMC_OK)
            rc = data_write(ino->v, lv, src + at, n, err);
        if (rc != VMC_OK)
            return rc;
    }
    *done = true;
    ino->times_dirty = true;
    return VMC_OK;
}

int64_t vmci_fs_write_slow(struct fs_inode *ino, const void *src, size_t bytes, uint64_t off,
                           struct vmc_error *err)
{
    uint64_t end;
    bool done;

    if (vmci_add_ovf(off, bytes, &end))
        return vmci_error(err, VMC_ERANGE, site, "a write at 0x%llx is out of range",
                          (unsigned long long)off);
    int rc = vmci_fs_session_check(ino->v, err);
    if (rc == VMC_OK && !ino->loaded)
        rc = vmci_fs_inode_reload(ino, err);
    if (rc == VMC_OK)
        rc = overwrite(ino, src, bytes, off, &done, err);
    if (rc != VMC_OK)
        return rc;
    struct writer *w = NULL;
    if (!done && bytes > 0) {
        w = vmci_zalloc(ino->v->pf, sizeof(*w));
        if (w == NULL)
            return vmci_error(err, VMC_ENOMEM, site, "no memory to write");
        w->ino = ino;
    }
    for (uint64_t at = 0; !done && at < bytes && rc == VMC_OK;) {
        uint64_t n;
        rc = write_step(w, (const uint8_t *)src + at, off + at, bytes - at, &n, err);
        at += n;
    }
    vmci_free(ino->v->pf, w, sizeof(*w));
    return rc == VMC_OK ? (int64_t)bytes : rc;
}

/* ---- length and holes -------------------------------------------------------------------------- */

/* Nothing is left: go back to the layout of an empty file. */
static int empty(struct fs_inode *ino, struct vmc_error *err)
{
    const struct fs_geometry *g = &ino->v->g;
    int rc = vmci_fs_inode_dirty(ino, 0, g->fd_bytes - g->fd_md, err);

    if (rc != VMC_OK || vmci_fs_md32(ino, FD_TYPE) == VMC_VMFS_DIR)
        return rc;
    memset(ino->md + g->fd_resident, 0, vmci_fs_fd_data(g));
    vmci_st_le32(ino->md + FD_ZLA, g->version >= 5 ? ZLA_RESIDENT : ZLA_SB);
    vmci_st_le64(ino->md + FD_BLOCK, g->sb_bytes);
    if (g->version >= 5)
        ino->md[FD_LOG2] = (uint8_t)__builtin_ctz(g->sb_bytes);
    ino->shift = 0;
    return VMC_OK;
}

static int shrink_step(struct fs_inode *ino, uint64_t bytes, bool *more, struct vmc_error *err)
{
    uint64_t block = vmci_fs_md64(ino, FD_BLOCK), len = vmci_fs_md64(ino, FD_LENGTH);
    uint64_t first = (bytes + block - 1) / block, end = (len + block - 1) / block, left = first;
    int rc = VMC_OK;

    if (vmci_fs_md32(ino, FD_ZLA) != ZLA_RESIDENT && end > first)
        rc = vmci_fs_map_free(ino, first, end, UINT32_MAX, &left, err);
    if (rc == VMC_OK && left >= end && end > first)
        rc = vmci_error(err, VMC_EAGAIN, site, "a truncation does not fit a transaction");
    if (rc == VMC_OK)
        rc = set_length(ino, left > first ? left * block : bytes, err);
    if (rc == VMC_OK && bytes == 0 && left == first)
        rc = empty(ino, err);
    *more = left > first;
    /* No request may still be on its way to a block that is about to be given away. */
    vmci_fs_ios_drain(ino);
    return rc;
}

static int grow(struct fs_inode *ino, uint64_t bytes, struct vmc_error *err)
{
    int rc = zero_tail(ino, bytes, err);

    if (rc == VMC_OK)
        rc = vmci_fs_map_prepare(ino, bytes, err);
    if (rc == VMC_OK)
        rc = set_length(ino, bytes, err);
    vmci_fs_leaf_free(ino);
    return rc;
}

int vmci_fs_truncate(struct fs_inode *ino, uint64_t bytes, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    bool more = true;

    while (more) {
        int rc = vmci_fs_txn_begin(v, err);
        if (rc != VMC_OK)
            return rc;
        rc = vmci_fs_txn_inode(v, ino, err);
        more = false;
        if (rc == VMC_OK) {
            uint64_t len = vmci_fs_md64(ino, FD_LENGTH);
            rc = bytes > len   ? grow(ino, bytes, err)
                 : bytes < len ? shrink_step(ino, bytes, &more, err)
                               : touch(ino, err);
        }
        if (rc != VMC_OK) {
            vmci_fs_txn_abort(v);
            return rc;
        }
        rc = vmci_fs_txn_commit(v, err);
        if (rc != VMC_OK)
            return rc;
    }
    return VMC_OK;
}

int vmci_fs_zero_range(struct fs_inode *ino, uint64_t off, uint64_t bytes, struct vmc_error *err)
{
    uint64_t len = vmci_fs_md64(ino, FD_LENGTH);

    if (off >= len)
        return VMC_OK;
    bytes = VMCI_MIN(bytes, len - off);
    if (vmci_fs_md32(ino, FD_ZLA) == ZLA_RESIDENT) {
        int64_t n = vmci_fs_write_slow(ino, ino->v->zeros, (size_t)bytes, off, err);
        return n < 0 ? (int)n : VMC_OK;
    }
    while (bytes > 0) {
        uint64_t lv, n;
        bool tbz;
        int rc = vmci_fs_map_lv(ino, off, &lv, &n, &tbz, err);
        if (rc != VMC_OK)
            return rc;
        n = VMCI_MIN(n, bytes);
        if (lv != 0 && !tbz) {
            rc = data_write(ino->v, lv, NULL, n, err);
            ino->times_dirty = true;
        }
        if (rc != VMC_OK)
            return rc;
        off += n;
        bytes -= n;
    }
    return VMC_OK;
}

int vmci_fs_punch(struct fs_inode *ino, uint64_t off, uint64_t bytes, bool edges,
                  struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    uint64_t block = vmci_fs_md64(ino, FD_BLOCK), len = vmci_fs_md64(ino, FD_LENGTH);

    if (off >= len || bytes == 0)
        return VMC_OK;
    uint64_t end = off + VMCI_MIN(bytes, len - off);
    uint64_t first = (off + block - 1) / block, last = end == len ? (end + block - 1) / block : end / block;
    if (vmci_fs_md32(ino, FD_ZLA) == ZLA_RESIDENT || first >= last)
        return edges ? vmci_fs_zero_range(ino, off, end - off, err) : VMC_OK;
    int rc = VMC_OK;
    if (edges && off < first * block)
        rc = vmci_fs_zero_range(ino, off, first * block - off, err);
    if (rc == VMC_OK && edges && end > last * block)
        rc = vmci_fs_zero_range(ino, last * block, end - last * block, err);
    while (rc == VMC_OK && last > first) {
        uint64_t left = last;
        rc = vmci_fs_txn_begin(v, err);
        if (rc != VMC_OK)
            return rc;
        rc = vmci_fs_txn_inode(v, ino, err);
        if (rc == VMC_OK)
            rc = vmci_fs_map_free(ino, first, last, UINT32_MAX, &left, err);
        if (rc == VMC_OK && left == last)
            rc = vmci_error(err, VMC_EAGAIN, site, "a hole does not fit a transaction");
        vmci_fs_ios_drain(ino);
        if (rc == VMC_OK)
            rc = touch(ino, err);
        if (rc == VMC_OK)
            rc = vmci_fs_txn_commit(v, err);
        else
            vmci_fs_txn_abort(v);
        last = left;
    }
    return rc;
}

/* ---- allocation in advance --------------------------------------------------------------------- */

static int allocate_step(struct writer *w, uint64_t *blk, uint64_t end, uint32_t how,
                         struct vmc_error *err)
{
    struct fs_inode *ino = w->ino;
    struct vmc_vmfs *v = ino->v;
    uint64_t block = v->g.fb_bytes;
    int rc = VMC_OK;

    while (*blk < end && rc == VMC_OK && w->runs < RUNS_MAX && vmci_fs_txn_room(v, 24, 8)) {
        uint64_t raw, fb = 0;
        uint32_t got = 1;
        rc = vmci_fs_map_get(ino, *blk, &raw, err);
        if (rc != VMC_OK)
            break;
        struct fs_addr a = vmci_fs_addr_decode(&v->g, raw);
        if (raw == 0) {
            bool large = false;
            if (how != VMC_VMFS_ALLOC_LAZY)
                rc = vmci_fs_map_large(ino, *blk, end - *blk, &fb, &large, err);
            if (large)
                got = 1u << (v->g.lfb_shift - v->g.fb_shift);
            else if (rc == VMC_OK)
                rc = map_run(ino, *blk, end - *blk, how == VMC_VMFS_ALLOC_LAZY, &fb, &got, err);
            if (rc != VMC_OK || got == 0)
                break;
        } else if (a.tbz && how == VMC_VMFS_ALLOC_EAGER) {
            fb = a.block;
            rc = vmci_fs_map_set(ino, *blk, raw & ~vmci_fs_tbz_bits(&v->g), err);
        } else {
            (*blk)++;
            continue;
        }
        if (rc == VMC_OK && how == VMC_VMFS_ALLOC_EAGER) {
            rc = vmci_fs_zero(v, fb * block, got * block, err);
            v->txn.ordered = true;
        }
        w->run[w->runs++] = (struct new_run){.blk = *blk, .fb = fb, .n = got};
        *blk += got;
    }
    return rc;
}

static int allocate(struct fs_inode *ino, uint64_t off, uint64_t bytes, uint32_t how,
                    struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    uint64_t blk = off / v->g.fb_bytes, end = (off + bytes + v->g.fb_bytes - 1) / v->g.fb_bytes;
    struct writer *w = vmci_zalloc(v->pf, sizeof(*w));
    int rc = VMC_OK;

    if (w == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory to allocate");
    w->ino = ino;
    while (blk < end && rc == VMC_OK) {
        uint64_t before = blk;
        rc = vmci_fs_txn_begin(v, err);
        if (rc != VMC_OK)
            break;
        rc = vmci_fs_txn_inode(v, ino, err);
        if (rc == VMC_OK)
            rc = allocate_step(w, &blk, end, how, err);
        if (rc == VMC_OK && blk == before)
            rc = vmci_error(err, VMC_EAGAIN, site, "an allocation does not fit a transaction");
        if (rc != VMC_OK) {
            vmci_fs_txn_abort(v);
            break;
        }
        rc = vmci_fs_txn_commit(v, err);
        for (uint32_t i = 0; i < w->runs; i++)
            for (uint32_t k = 0; k < w->run[i].n; k++)
                vmci_fs_leaf_set(ino, w->run[i].blk + k,
                                 (how == VMC_VMFS_ALLOC_LAZY ? MAP_TBZ : MAP_BLOCK) |
                                     (uint32_t)(w->run[i].fb + k) << 2);
        w->runs = 0;
    }
    vmci_free(v->pf, w, sizeof(*w));
    return rc;
}

int vmci_fs_allocate(struct fs_inode *ino, uint64_t off, uint64_t bytes, uint32_t how,
                     struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    uint64_t end, len = vmci_fs_md64(ino, FD_LENGTH);

    if (bytes == 0 || vmci_add_ovf(off, bytes, &end) || how < VMC_VMFS_ALLOC_LAZY ||
        how > VMC_VMFS_ALLOC_EAGER)
        return vmci_error(err, VMC_EINVAL, site, "allocation of 0x%llx bytes at 0x%llx",
                          (unsigned long long)bytes, (unsigned long long)off);
    int rc = VMC_OK;
    if (end > len)
        rc = vmci_fs_truncate(ino, end, err);
    /* Blocks in advance make sense for files of blocks only; a small file stays what it is. */
    if (rc == VMC_OK && vmci_fs_md64(ino, FD_BLOCK) == v->g.fb_bytes)
        rc = allocate(ino, off, bytes, how, err);
    return rc;
}
