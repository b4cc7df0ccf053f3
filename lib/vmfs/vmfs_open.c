/* SPDX-License-Identifier: BSD-2-Clause */
/* The public calls on names and files: each takes the volume's lock and does one thing. */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("open");

/* ---- names
 * --------------------------------------------------------------------------------------- */

int vmc_vmfs_stat(struct vmc_vmfs *v, const char *path, struct vmc_vmfs_stat *out,
                  struct vmc_error *err)
{
    struct fs_inode *ino;

    vmci_lock(&v->lock);
    int rc = vmci_fs_lookup(v, path, &ino, err);
    if (rc == VMC_OK) {
        vmci_fs_inode_stat(ino, out);
        vmci_fs_inode_put(ino);
    }
    vmci_fs_cache_trim(v);
    vmci_fs_inodes_trim(v);
    vmci_unlock(&v->lock);
    return rc;
}

int vmc_vmfs_readdir(struct vmc_vmfs *v, const char *path, uint64_t *cookie,
                     struct vmc_vmfs_dirent *out, struct vmc_error *err)
{
    struct fs_inode *ino;
    struct fs_entry e;

    vmci_lock(&v->lock);
    int rc = vmci_fs_lookup(v, path, &ino, err);
    if (rc == VMC_OK) {
        if (!vmci_fs_is_dir(ino))
            rc = vmci_error(err, VMC_EINVAL, site, "%s is not a directory", path);
        else
            rc = vmci_fs_dir_next(ino, cookie, &e, err);
        vmci_fs_inode_put(ino);
    }
    vmci_fs_cache_trim(v);
    vmci_unlock(&v->lock);
    if (rc == 1) {
        *out = (struct vmc_vmfs_dirent){.type = e.type, .id = e.fd, .generation = e.gen};
        memcpy(out->name, e.name, sizeof(out->name));
    }
    return rc;
}

static int create(struct vmc_vmfs *v, const char *path, const struct fs_new *what,
                  struct vmc_error *err)
{
    uint64_t deadline = 0;
    int rc;

    vmci_lock(&v->lock);
    do
        rc = vmci_fs_create(v, path, what, err);
    while (vmci_fs_op_end(v, rc, &deadline));
    vmci_unlock(&v->lock);
    return rc;
}

int vmc_vmfs_mkdir(struct vmc_vmfs *v, const char *path, uint32_t mode, struct vmc_error *err)
{
    const struct fs_new what = {.type = VMC_VMFS_DIR, .mode = mode};

    return create(v, path, &what, err);
}

int vmc_vmfs_create(struct vmc_vmfs *v, const char *path, uint32_t mode, struct vmc_error *err)
{
    const struct fs_new what = {.type = VMC_VMFS_FILE, .mode = mode};

    return create(v, path, &what, err);
}

int vmc_vmfs_symlink(struct vmc_vmfs *v, const char *target, const char *path,
                     struct vmc_error *err)
{
    size_t n = target != NULL ? vmci_strlen(target) : 0;
    const struct fs_new what = {
        .type = VMC_VMFS_SYMLINK, .mode = 0777, .data = target, .bytes = (uint32_t)n};

    if (n == 0 || n >= VMC_VMFS_PATH_MAX)
        return vmci_error(err, VMC_EINVAL, site, "a link target of %zu bytes", n);
    return create(v, path, &what, err);
}

int vmc_vmfs_create_rdm(struct vmc_vmfs *v, const char *path, const char *device, uint64_t bytes,
                        struct vmc_error *err)
{
    char id[SCSI_ID_BYTES] = {0};
    size_t n = device != NULL ? vmci_strlen(device) : 0;
    const struct fs_new what = {
        .type = VMC_VMFS_RDM, .mode = 0600, .data = id, .bytes = sizeof(id), .length = bytes};

    if (n == 0 || bytes == 0 || bytes > 1ull << 46)
        return vmci_error(err, VMC_EINVAL, site, "a mapping of a device of %llu bytes",
                          (unsigned long long)bytes);
    /* The end of a name tells devices apart; the descriptor of the disk has all of it. */
    size_t keep = VMCI_MIN(n, SCSI_ID_BYTES - SCSI_ID_NAME - 1u);
    id[SCSI_ID_LENGTH] = (char)keep;
    memcpy(id + SCSI_ID_VENDOR, "VMCORE  Raw device      1.0 ", 28);
    memcpy(id + SCSI_ID_NAME, device + n - keep, keep);
    return create(v, path, &what, err);
}

int vmc_vmfs_readlink(struct vmc_vmfs *v, const char *path, char *dst, size_t bytes,
                      struct vmc_error *err)
{
    struct fs_inode *ino;
    int64_t n = 0;

    vmci_lock(&v->lock);
    int rc = vmci_fs_lookup(v, path, &ino, err);
    if (rc == VMC_OK) {
        if (vmci_fs_md32(ino, FD_TYPE) != VMC_VMFS_SYMLINK || ino->length >= VMC_VMFS_PATH_MAX)
            rc = vmci_error(err, VMC_EINVAL, site, "%s is not a symbolic link", path);
        else if (bytes > 0)
            n = vmci_fs_read_slow(ino, dst, bytes - 1, 0, err);
        if (rc == VMC_OK && n >= 0 && bytes > 0)
            dst[n] = '\0';
        if (rc == VMC_OK)
            rc = n < 0 ? (int)n : (int)ino->length;
        vmci_fs_inode_put(ino);
    }
    vmci_fs_cache_trim(v);
    vmci_unlock(&v->lock);
    return rc;
}

static int setattr(struct vmc_vmfs *v, const char *path, uint32_t which,
                   const struct vmc_vmfs_stat *st, struct vmc_error *err)
{
    struct fs_inode *ino;
    int rc = vmci_fs_lookup(v, path, &ino, err);

    if (rc != VMC_OK)
        return rc;
    rc = vmci_fs_txn_begin(v, err);
    if (rc == VMC_OK) {
        rc = vmci_fs_txn_inode(v, ino, err);
        if (rc == VMC_OK)
            rc = vmci_fs_inode_dirty(ino, 0, FD_MODE + 4, err);
        if (rc == VMC_OK) {
            uint8_t *md = ino->md;
            if (which & VMC_VMFS_SET_MODE)
                vmci_st_le32(md + FD_MODE,
                             (vmci_ld_le32(md + FD_MODE) & ~07777u) | (st->mode & 07777));
            if (which & VMC_VMFS_SET_OWNER) {
                vmci_st_le32(md + FD_UID, st->uid);
                vmci_st_le32(md + FD_GID, st->gid);
            }
            if (which & VMC_VMFS_SET_TIMES) {
                vmci_st_le32(md + FD_MTIME, st->mtime_s);
                vmci_st_le32(md + FD_ATIME, st->atime_s);
                ino->times_dirty = false;
            }
            vmci_st_le32(md + FD_CTIME, vmci_fs_wall(v));
            rc = vmci_fs_txn_commit(v, err);
        } else {
            vmci_fs_txn_abort(v);
        }
    }
    vmci_fs_inode_put(ino);
    return rc;
}

int vmc_vmfs_setattr(struct vmc_vmfs *v, const char *path, uint32_t which,
                     const struct vmc_vmfs_stat *st, struct vmc_error *err)
{
    uint64_t deadline = 0;
    int rc;

    vmci_lock(&v->lock);
    do
        rc = setattr(v, path, which, st, err);
    while (vmci_fs_op_end(v, rc, &deadline));
    vmci_unlock(&v->lock);
    return rc;
}

/* ---- open and close
 * ------------------------------------------------------------------------------ */

static uint32_t mode_of(uint32_t flags)
{
    if (flags & VMC_VMFS_NOLOCK)
        return LK_MODE_FREE;
    if (flags & VMC_VMFS_MULTI)
        return LK_MODE_MULTI;
    return flags & VMC_VMFS_WRITE ? LK_MODE_EXCL : LK_MODE_RO;
}

/* A host's handles share one lock on disk, in the strongest mode that any of them needs. */
static int lock_for(struct fs_inode *ino, uint32_t mode, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    bool changed;

    if (v->ro || mode == LK_MODE_FREE || ino->held == mode || ino->held == LK_MODE_EXCL)
        return vmci_fs_inode_validate(ino, false, err);
    if (ino->held == LK_MODE_MULTI || mode == LK_MODE_MULTI) {
        if (ino->held != LK_MODE_FREE)
            return vmci_error(err, VMC_EBUSY, site, "the file is open here in another mode");
    }
    int rc = vmci_fs_session_check(v, err);
    if (rc == VMC_OK)
        rc = vmci_fs_lock_take(v, ino->lv, LK_FD, v->g.fd_bytes, mode, &changed, err);
    if (rc != VMC_OK)
        return rc;
    ino->held = mode;
    if (changed)
        vmci_fs_inode_forget(ino);
    return changed || !ino->loaded ? vmci_fs_inode_reload(ino, err) : VMC_OK;
}

static int unlock(struct fs_inode *ino, struct vmc_error *err)
{
    if (ino->held == LK_MODE_FREE)
        return VMC_OK;
    ino->held = LK_MODE_FREE;
    return vmci_fs_lock_drop(ino->v, ino->lv, LK_MODE_FREE, err);
}

static int open_inode(struct vmc_vmfs *v, const char *path, uint32_t flags, struct fs_inode **out,
                      struct vmc_error *err)
{
    struct fs_inode *ino;
    int rc = vmci_fs_lookup(v, path, &ino, err);

    if (rc == VMC_ENOENT && flags & VMC_VMFS_CREATE) {
        static const struct fs_new what = {.type = VMC_VMFS_FILE, .mode = 0644};
        rc = vmci_fs_create(v, path, &what, err);
        if (rc == VMC_OK || rc == VMC_EEXIST)
            rc = vmci_fs_lookup(v, path, &ino, err);
    }
    if (rc != VMC_OK)
        return rc;
    uint32_t type = vmci_fs_md32(ino, FD_TYPE);
    if (type == VMC_VMFS_DIR)
        rc = vmci_error(err, VMC_EINVAL, site, "%s is a directory", path);
    else if (type != VMC_VMFS_FILE && type != VMC_VMFS_RDM && flags & VMC_VMFS_WRITE)
        rc = vmci_error(err, VMC_EINVAL, site, "%s is not a file that can be written", path);
    if (rc == VMC_OK)
        rc = lock_for(ino, mode_of(flags), err);
    if (rc == VMC_OK)
        rc = vmci_fs_ios_create(ino, err);
    if (rc == VMC_OK)
        *out = ino;
    else if (ino->opens == 0)
        (void)unlock(ino, NULL); /* already failing */
    if (rc != VMC_OK)
        vmci_fs_inode_put(ino);
    return rc;
}

int vmc_vmfs_open(struct vmc_vmfs *v, const char *path, uint32_t flags, struct vmc_vmfs_file **out,
                  struct vmc_error *err)
{
    uint64_t deadline = 0;
    int rc;

    if (v->ro && flags & (VMC_VMFS_WRITE | VMC_VMFS_CREATE))
        return vmci_error(err, VMC_EPERM, site, "the volume is mounted read-only");
    if (flags & VMC_VMFS_NOLOCK && flags & (VMC_VMFS_WRITE | VMC_VMFS_CREATE))
        return vmci_error(err, VMC_EINVAL, site, "writing needs a lock");
    struct vmc_vmfs_file *f = vmci_zalloc(v->pf, sizeof(*f));
    if (f == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for a file");
    f->v = v;
    f->flags = flags;
    vmci_lock(&v->lock);
    do
        rc = open_inode(v, path, flags, &f->ino, err);
    while (vmci_fs_op_end(v, rc, &deadline));
    if (rc == VMC_OK) {
        f->ino->opens++;
        f->ino->writers += (flags & VMC_VMFS_WRITE) != 0;
        vmci_list_add_tail(&v->files, &f->link);
    }
    vmci_unlock(&v->lock);
    if (rc == VMC_OK)
        *out = f;
    else
        vmci_free(v->pf, f, sizeof(*f));
    return rc;
}

static int write_times(struct fs_inode *ino, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    uint32_t now = vmci_fs_wall(v);

    if (!ino->times_dirty || ino->held != LK_MODE_EXCL)
        return VMC_OK;
    ino->times_dirty = false;
    int rc = vmci_fs_txn_begin(v, err);
    if (rc != VMC_OK)
        return rc;
    rc = vmci_fs_txn_inode(v, ino, err);
    if (rc == VMC_OK)
        rc = vmci_fs_inode_dirty(ino, FD_MTIME, 8, err);
    if (rc != VMC_OK) {
        vmci_fs_txn_abort(v);
        return rc;
    }
    vmci_st_le32(ino->md + FD_MTIME, now);
    vmci_st_le32(ino->md + FD_CTIME, now);
    return vmci_fs_txn_commit(v, err);
}

int vmc_vmfs_close(struct vmc_vmfs_file *f, struct vmc_error *err)
{
    struct vmc_vmfs *v = f->v;
    struct fs_inode *ino = f->ino;
    int rc = VMC_OK, rc2 = VMC_OK;

    vmci_lock(&v->lock);
    vmci_list_del(&f->link);
    if (f->flags & VMC_VMFS_WRITE) {
        rc = write_times(ino, err);
        ino->writers--;
    }
    if (--ino->opens == 0) {
        vmci_fs_ios_drain(ino); /* nothing may be on its way to blocks that others may free */
        rc2 = unlock(ino, rc == VMC_OK ? err : NULL);
        vmci_fs_leaf_free(ino);
        vmci_fs_ios_destroy(ino);
    }
    vmci_fs_inode_put(ino);
    vmci_unlock(&v->lock);
    vmci_free(v->pf, f, sizeof(*f));
    return rc != VMC_OK ? rc : rc2;
}

/* ---- contents
 * ------------------------------------------------------------------------------------ */

int vmc_vmfs_fstat(struct vmc_vmfs_file *f, struct vmc_vmfs_stat *out, struct vmc_error *err)
{
    vmci_lock(&f->v->lock);
    int rc = vmci_fs_inode_validate(f->ino, false, err);
    if (rc == VMC_OK)
        vmci_fs_inode_stat(f->ino, out);
    vmci_unlock(&f->v->lock);
    return rc;
}

/* Whole sectors of a file of blocks go the same way as a guest's. */
static bool block_aligned(const struct vmc_vmfs_file *f, uint64_t off, size_t bytes)
{
    uint64_t end;

    return bytes > 0 && (off | bytes) % FS_SECTOR == 0 && vmci_load_relaxed(&f->ino->shift) != 0 &&
           !vmci_add_ovf(off, bytes, &end) && end <= vmci_load_acquire(&f->ino->length) &&
           !f->v->ro;
}

static int block_io(struct vmc_vmfs_file *f, uint32_t op, void *buf, size_t bytes, uint64_t off,
                    struct vmc_error *err)
{
    struct vmc_blockdev bd;
    int rc = vmc_vmfs_file_blockdev(f, &bd, err);

    return rc == VMC_OK ? vmci_fs_dev_io(f->v->pf, &bd, op, off, buf, bytes, err) : rc;
}

int64_t vmc_vmfs_pread(struct vmc_vmfs_file *f, void *dst, size_t bytes, uint64_t off,
                       struct vmc_error *err)
{
    int64_t n;

    if (block_aligned(f, off, bytes)) {
        int rc = block_io(f, VMC_BLOCK_READ, dst, bytes, off, err);
        return rc == VMC_OK ? (int64_t)bytes : rc;
    }
    vmci_lock(&f->v->lock);
    n = vmci_fs_inode_validate(f->ino, false, err);
    if (n == VMC_OK)
        n = vmci_fs_read_slow(f->ino, dst, bytes, off, err);
    vmci_fs_cache_trim(f->v);
    vmci_unlock(&f->v->lock);
    return n;
}

static int writable(const struct vmc_vmfs_file *f, struct vmc_error *err)
{
    if (!(f->flags & VMC_VMFS_WRITE))
        return vmci_error(err, VMC_EPERM, site, "the file is open for reading");
    if (f->ino->mapping)
        return vmci_error(err, VMC_ENOTSUP, site, "a mapping of a raw device has no contents");
    return VMC_OK;
}

int64_t vmc_vmfs_pwrite(struct vmc_vmfs_file *f, const void *src, size_t bytes, uint64_t off,
                        struct vmc_error *err)
{
    uint64_t deadline = 0;
    int64_t n = writable(f, err);

    if (n != VMC_OK)
        return n;
    if (block_aligned(f, off, bytes)) {
        int rc = block_io(f, VMC_BLOCK_WRITE, (void *)(uintptr_t)src, bytes, off, err);
        if (rc == VMC_OK)
            vmci_store_relaxed(&f->ino->times_dirty, true);
        return rc == VMC_OK ? (int64_t)bytes : rc;
    }
    vmci_lock(&f->v->lock);
    do
        n = vmci_fs_write_slow(f->ino, src, bytes, off, err);
    while (vmci_fs_op_end(f->v, n < 0 ? (int)n : VMC_OK, &deadline));
    vmci_unlock(&f->v->lock);
    return n;
}

int vmc_vmfs_truncate(struct vmc_vmfs_file *f, uint64_t bytes, struct vmc_error *err)
{
    uint64_t deadline = 0;
    int rc = writable(f, err);

    if (rc != VMC_OK)
        return rc;
    vmci_lock(&f->v->lock);
    do
        rc = vmci_fs_truncate(f->ino, bytes, err);
    while (vmci_fs_op_end(f->v, rc, &deadline));
    vmci_unlock(&f->v->lock);
    return rc;
}

int vmc_vmfs_allocate(struct vmc_vmfs_file *f, uint64_t off, uint64_t bytes, uint32_t how,
                      struct vmc_error *err)
{
    uint64_t deadline = 0;
    int rc = writable(f, err);

    if (rc != VMC_OK)
        return rc;
    vmci_lock(&f->v->lock);
    do
        rc = vmci_fs_allocate(f->ino, off, bytes, how, err);
    while (vmci_fs_op_end(f->v, rc, &deadline));
    vmci_unlock(&f->v->lock);
    return rc;
}

int vmc_vmfs_punch(struct vmc_vmfs_file *f, uint64_t off, uint64_t bytes, struct vmc_error *err)
{
    uint64_t deadline = 0;
    int rc = writable(f, err);

    if (rc != VMC_OK)
        return rc;
    vmci_lock(&f->v->lock);
    do
        rc = vmci_fs_punch(f->ino, off, bytes, true, err);
    while (vmci_fs_op_end(f->v, rc, &deadline));
    vmci_unlock(&f->v->lock);
    return rc;
}

int vmc_vmfs_fsync(struct vmc_vmfs_file *f, struct vmc_error *err)
{
    vmci_lock(&f->v->lock);
    int rc = f->v->ro ? VMC_OK : write_times(f->ino, err);
    if (rc == VMC_OK && !f->v->ro)
        rc = vmci_fs_flush(f->v, err);
    vmci_unlock(&f->v->lock);
    return rc;
}

static int extent_at(struct fs_inode *ino, uint64_t off, struct vmc_vmfs_extent *x,
                     struct vmc_error *err)
{
    bool tbz = false;

    if (ino->mapping)
        return vmci_error(err, VMC_ENOTSUP, site, "a mapping of a raw device has no contents");
    *x = (struct vmc_vmfs_extent){.offset = off};
    if (vmci_fs_md32(ino, FD_ZLA) == ZLA_RESIDENT) {
        x->bytes = vmci_fs_md64(ino, FD_LENGTH) - off;
        x->lv_offset = ino->lv + ino->v->g.fd_md + ino->v->g.fd_resident + off;
        x->allocated = x->has_data = true;
        return VMC_OK;
    }
    int rc = vmci_fs_map_lv(ino, off, &x->lv_offset, &x->bytes, &tbz, err);
    x->allocated = x->lv_offset != 0;
    x->has_data = x->allocated && !tbz;
    return rc;
}

int vmc_vmfs_extent(struct vmc_vmfs_file *f, uint64_t off, struct vmc_vmfs_extent *out,
                    struct vmc_error *err)
{
    struct fs_inode *ino = f->ino;

    vmci_lock(&f->v->lock);
    int rc = vmci_fs_inode_validate(ino, false, err);
    uint64_t len = rc == VMC_OK ? vmci_fs_md64(ino, FD_LENGTH) : 0;
    if (rc == VMC_OK && off >= len)
        rc = vmci_error(err, VMC_ENOENT, site, "offset 0x%llx is past the end",
                        (unsigned long long)off);
    if (rc == VMC_OK)
        rc = extent_at(ino, off, out, err);
    while (rc == VMC_OK && off + out->bytes < len) {
        struct vmc_vmfs_extent next;
        rc = extent_at(ino, off + out->bytes, &next, err);
        if (rc != VMC_OK || next.allocated != out->allocated || next.has_data != out->has_data ||
            (out->has_data && next.lv_offset != out->lv_offset + out->bytes))
            break;
        out->bytes += next.bytes;
    }
    if (rc == VMC_OK)
        out->bytes = VMCI_MIN(out->bytes, len - off);
    vmci_fs_cache_trim(f->v);
    vmci_unlock(&f->v->lock);
    return rc;
}

int vmc_vmfs_lock_query(struct vmc_vmfs *v, const char *path, struct vmc_vmfs_lock *out,
                        struct vmc_error *err)
{
    struct fs_inode *ino;
    uint8_t lk[FS_PAGE], hb[FS_PAGE];

    vmci_lock(&v->lock);
    int rc = vmci_fs_lookup(v, path, &ino, err);
    if (rc == VMC_OK) {
        rc = vmci_fs_read(v, ino->lv, lk, v->g.md_align, err);
        vmci_fs_inode_put(ino);
    }
    if (rc == VMC_OK) {
        *out = (struct vmc_vmfs_lock){
            .mode = vmci_ld_le32(lk + LK_MODE),
            .holders = vmci_ld_le32(lk + LK_HOLDERS),
            .token = vmci_ld_le64(lk + LK_TOKEN),
            .heartbeat = vmci_ld_le64(lk + LK_HB),
            .heartbeat_generation = vmci_ld_le64(lk + LK_HB_GEN),
        };
        memcpy(out->owner.b, lk + LK_OWNER, 16);
        uint64_t hb_end = FS_HB_LV + (uint64_t)v->g.hb_slots * v->g.hb_bytes;
        if (out->mode != LK_MODE_FREE && out->heartbeat >= FS_HB_LV && out->heartbeat < hb_end &&
            out->heartbeat % v->g.hb_bytes == 0)
            rc = vmci_fs_read(v, out->heartbeat, hb, v->g.hb_bytes, err);
        if (rc == VMC_OK && out->mode != LK_MODE_FREE && out->heartbeat >= FS_HB_LV &&
            out->heartbeat < hb_end && out->heartbeat % v->g.hb_bytes == 0)
            memcpy(out->host_name, hb + HB_NAME, HB_NAME_BYTES - 1);
    }
    vmci_unlock(&v->lock);
    return rc;
}
