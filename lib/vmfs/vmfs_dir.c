/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Directories. On VMFS3 and VMFS5 they are a packed array of entries; those of VMFS6 are in
 * vmfs_dir6.c. Look-ups in large ones go through an index in memory, built at the first need and
 * dropped whenever the directory is read again.
 */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("directory");

#define INDEX_FROM 48u /* entries from which an index pays */
#define SLOT_EMPTY UINT32_MAX
#define SLOT_GONE  (UINT32_MAX - 1)

struct slot {
    uint32_t hash, pos;
};

struct fs_dir_index {
    uint32_t size, used; /* slots; those that are not empty */
    struct slot slot[];
};

/* Places for entries; on VMFS3 and VMFS5 all but those of removed names are in use. */
static uint64_t entries(const struct fs_inode *dir)
{
    uint64_t len = vmci_fs_md64(dir, FD_LENGTH);

    if (dir->v->g.version == 6)
        return len < D6_HEADER
                   ? 0
                   : 2 + (len - D6_HEADER) / FS_PAGE * ((FS_PAGE - D6_BLOCK_HEADER) / D6_ENTRY);
    return vmci_fs_md64(dir, FD_LENGTH) / DE_BYTES;
}

static uint32_t hash(const char *name, size_t len)
{
    return (uint32_t)vmci_hash64(name, len, 0);
}

static int read_entry(struct fs_inode *dir, uint64_t pos, struct fs_entry *e, struct vmc_error *err)
{
    uint8_t b[DE_BYTES];

    if (dir->v->g.version == 6)
        return vmci_fs_dir6_read(dir, pos, e, err);
    int rc = vmci_fs_file_meta(dir, pos * DE_BYTES, b, DE_BYTES, false, err);

    if (rc != VMC_OK)
        return rc;
    e->type = vmci_ld_le32(b + DE_TYPE);
    e->fd = vmci_ld_le32(b + DE_FD);
    e->gen = vmci_ld_le32(b + DE_GEN);
    e->pos = pos;
    memcpy(e->name, b + DE_NAME, DE_NAME_BYTES);
    if (e->name[DE_NAME_BYTES - 1] != '\0') {
        if (!(dir->v->flags & VMC_VMFS_REPAIR) && !dir->v->ro)
            return vmci_error(err, VMC_EFORMAT, site,
                              "directory 0x%08x entry %llu: the name has no end", dir->addr,
                              (unsigned long long)pos);
        e->name[DE_NAME_BYTES - 1] = '\0';
    }
    return VMC_OK;
}

/* ---- the index --------------------------------------------------------------------------------- */

static size_t index_bytes(uint32_t size)
{
    return sizeof(struct fs_dir_index) + (size_t)size * sizeof(struct slot);
}

void vmci_fs_dir_forget(struct fs_inode *dir)
{
    if (dir->index != NULL)
        vmci_free(dir->v->pf, dir->index, index_bytes(dir->index->size));
    dir->index = NULL;
}

static void index_put(struct fs_dir_index *x, uint32_t h, uint32_t pos)
{
    uint32_t i = h & (x->size - 1);

    while (x->slot[i].pos < SLOT_GONE)
        i = (i + 1) & (x->size - 1);
    if (x->slot[i].pos == SLOT_EMPTY)
        x->used++;
    x->slot[i] = (struct slot){.hash = h, .pos = pos};
}

static struct slot *index_at(struct fs_dir_index *x, uint32_t h, uint32_t pos)
{
    for (uint32_t i = h & (x->size - 1); x->slot[i].pos != SLOT_EMPTY; i = (i + 1) & (x->size - 1))
        if (x->slot[i].pos == pos && x->slot[i].hash == h)
            return &x->slot[i];
    return NULL;
}

static int index_build(struct fs_inode *dir, struct vmc_error *err)
{
    uint64_t n = entries(dir);
    uint32_t size = 256;

    vmci_fs_dir_forget(dir);
    if (n > 1u << 28)
        return vmci_error(err, VMC_ELIMIT, site, "directory 0x%08x has %llu entries", dir->addr,
                          (unsigned long long)n);
    while (size < 3 * n)
        size *= 2;
    struct fs_dir_index *x = vmci_alloc_aligned(dir->v->pf, index_bytes(size), 16);
    if (x == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory for an index");
    memset(x, 0xFF, index_bytes(size));
    x->size = size;
    x->used = 0;
    dir->index = x;
    uint64_t cookie = 0;
    struct fs_entry e;
    int rc;
    while ((rc = vmci_fs_dir_next(dir, &cookie, &e, err)) == 1)
        index_put(x, hash(e.name, vmci_strlen(e.name)), (uint32_t)e.pos);
    if (rc != VMC_OK)
        vmci_fs_dir_forget(dir);
    return rc;
}

static void index_add(struct fs_inode *dir, const char *name, size_t len, uint64_t pos)
{
    if (dir->index == NULL)
        return;
    if (dir->index->used * 4 > dir->index->size * 3)
        vmci_fs_dir_forget(dir);
    else
        index_put(dir->index, hash(name, len), (uint32_t)pos);
}

static void index_move(struct fs_inode *dir, const char *name, uint64_t from, uint64_t to)
{
    struct slot *s;

    if (dir->index == NULL)
        return;
    s = index_at(dir->index, hash(name, vmci_strlen(name)), (uint32_t)from);
    if (s == NULL)
        vmci_fs_dir_forget(dir); /* does not agree with the directory: start again */
    else
        s->pos = to == UINT64_MAX ? SLOT_GONE : (uint32_t)to;
}

/* ---- reading ----------------------------------------------------------------------------------- */

static bool same_name(const struct fs_entry *e, const char *name, size_t len)
{
    return e->fd != 0 && memcmp(e->name, name, len) == 0 && e->name[len] == '\0';
}

int vmci_fs_dir_find(struct fs_inode *dir, const char *name, size_t len, struct fs_entry *out,
                     struct vmc_error *err)
{
    uint64_t n = entries(dir), cookie = 0;
    int rc;

    if (vmci_fs_md64(dir, FD_LENGTH) > UINT32_MAX)
        return vmci_error(err, VMC_EFORMAT, site, "directory 0x%08x has 0x%llx bytes", dir->addr,
                          (unsigned long long)vmci_fs_md64(dir, FD_LENGTH));
    if (n < INDEX_FROM) {
        while ((rc = vmci_fs_dir_next(dir, &cookie, out, err)) == 1)
            if (same_name(out, name, len))
                return VMC_OK;
        if (rc != VMC_OK)
            return rc;
        rc = VMC_ENOENT;
    } else {
        if (dir->index == NULL) {
            rc = index_build(dir, err);
            if (rc != VMC_OK)
                return rc;
        }
        struct fs_dir_index *x = dir->index;
        uint32_t h = hash(name, len);
        for (uint32_t i = h & (x->size - 1); x->slot[i].pos != SLOT_EMPTY; i = (i + 1) & (x->size - 1)) {
            if (x->slot[i].hash != h || x->slot[i].pos == SLOT_GONE || x->slot[i].pos >= n)
                continue;
            rc = read_entry(dir, x->slot[i].pos, out, err);
            if (rc != VMC_OK || same_name(out, name, len))
                return rc;
        }
        rc = VMC_ENOENT;
    }
    if (rc == VMC_ENOENT)
        return vmci_error(err, VMC_ENOENT, site, "no \"%.*s\" here", (int)len, name);
    return rc;
}

int vmci_fs_dir_next(struct fs_inode *dir, uint64_t *cookie, struct fs_entry *out,
                     struct vmc_error *err)
{
    if (dir->v->g.version == 6)
        return vmci_fs_dir6_next(dir, cookie, out, err);
    while (*cookie < entries(dir)) {
        int rc = read_entry(dir, (*cookie)++, out, err);
        if (rc != VMC_OK)
            return rc;
        if (out->fd != 0)
            return 1;
    }
    return 0;
}

/* ---- changing (inside a transaction that has the directory) ------------------------------------- */

static int write_entry(struct fs_inode *dir, uint64_t pos, uint32_t type, uint32_t fd, uint32_t gen,
                       const char *name, size_t len, struct vmc_error *err)
{
    uint8_t b[DE_BYTES] = {0};

    vmci_st_le32(b + DE_TYPE, type);
    vmci_st_le32(b + DE_FD, fd);
    vmci_st_le32(b + DE_GEN, gen);
    memcpy(b + DE_NAME, name, len);
    return vmci_fs_file_meta(dir, pos * DE_BYTES, b, DE_BYTES, true, err);
}

int vmci_fs_dir_set_length(struct fs_inode *dir, uint64_t len, struct vmc_error *err)
{
    uint32_t now = vmci_fs_wall(dir->v);
    int rc = vmci_fs_inode_dirty(dir, 0, FS_SECTOR, err);

    if (rc != VMC_OK)
        return rc;
    vmci_st_le64(dir->md + FD_LENGTH, len);
    vmci_st_le32(dir->md + FD_MTIME, now);
    vmci_st_le32(dir->md + FD_CTIME, now);
    return VMC_OK;
}

/* A header of VMFS6 begins as zeros, and so does every block after it. */
static int clear_block(struct fs_inode *dir, uint64_t raw, struct vmc_error *err)
{
    struct vmc_vmfs *v = dir->v;
    uint64_t lv, bytes;
    int rc = vmci_fs_addr_lv(v, raw, &lv, &bytes, err);

    if (rc != VMC_OK)
        return rc;
    v->txn.ordered = true;
    vmci_fs_page_drop(v, lv, bytes);
    return vmci_fs_zero(v, lv, bytes, err);
}

int vmci_fs_dir_extend(struct fs_inode *dir, uint64_t need, struct vmc_error *err)
{
    struct vmc_vmfs *v = dir->v;
    int rc = vmci_fs_map_prepare(dir, need, err);

    if (rc != VMC_OK)
        return rc;
    uint64_t block = vmci_fs_md64(dir, FD_BLOCK), len = vmci_fs_md64(dir, FD_LENGTH);
    for (uint64_t blk = len / block; blk * block < need && rc == VMC_OK; blk++) {
        uint64_t raw, first = 0;
        uint32_t item = 0, got;
        rc = vmci_fs_map_get(dir, blk, &raw, err);
        if (rc != VMC_OK || raw != 0)
            continue;
        bool sb = block != v->g.fb_bytes;
        rc = sb ? vmci_fs_res_alloc(v, &v->sbc, &first, &item, err)
                : vmci_fs_fb_alloc(v, UINT64_MAX, 1, &first, &got, err);
        raw = vmci_fs_addr_encode(&v->g, sb ? AD_SB : AD_FB, first, item);
        if (rc == VMC_OK && v->g.version == 6)
            rc = clear_block(dir, raw, err);
        if (rc == VMC_OK)
            rc = vmci_fs_map_set(dir, blk, raw, err);
    }
    return rc;
}

int vmci_fs_dir_add(struct fs_inode *dir, const char *name, size_t len, const struct fs_inode *ino,
                    struct vmc_error *err)
{
    uint64_t pos = entries(dir);
    int rc;

    if (dir->v->g.version == 6) {
        rc = vmci_fs_dir6_add(dir, name, len, ino, &pos, err);
        if (rc == VMC_OK)
            index_add(dir, name, len, pos);
        return rc;
    }
    rc = vmci_fs_dir_extend(dir, (pos + 1) * DE_BYTES, err);
    if (rc == VMC_OK)
        rc = vmci_fs_dir_set_length(dir, (pos + 1) * DE_BYTES, err);
    if (rc == VMC_OK)
        rc = write_entry(dir, pos, vmci_fs_md32(ino, FD_TYPE), ino->addr,
                         vmci_fs_md32(ino, FD_GENERATION), name, len, err);
    if (rc == VMC_OK)
        index_add(dir, name, len, pos);
    return rc;
}

int vmci_fs_dir_remove(struct fs_inode *dir, const struct fs_entry *e, struct vmc_error *err)
{
    uint64_t last = entries(dir) - 1, block = vmci_fs_md64(dir, FD_BLOCK), left;
    struct fs_entry moved;

    if (dir->v->g.version == 6) {
        index_move(dir, e->name, e->pos, UINT64_MAX);
        return vmci_fs_dir6_remove(dir, e, err);
    }
    int rc = read_entry(dir, last, &moved, err);
    if (rc != VMC_OK)
        return rc;
    index_move(dir, e->name, e->pos, UINT64_MAX);
    if (e->pos != last) {
        rc = write_entry(dir, e->pos, moved.type, moved.fd, moved.gen, moved.name,
                         vmci_strlen(moved.name), err);
        index_move(dir, moved.name, last, e->pos);
    }
    uint64_t keep = (last * DE_BYTES + block - 1) / block;
    uint64_t had = ((last + 1) * DE_BYTES + block - 1) / block;
    if (rc == VMC_OK && keep < had)
        rc = vmci_fs_map_free(dir, keep, had, UINT32_MAX, &left, err);
    return rc == VMC_OK ? vmci_fs_dir_set_length(dir, last * DE_BYTES, err) : rc;
}

int vmci_fs_dir_set(struct fs_inode *dir, uint64_t pos, const struct fs_inode *ino,
                    struct vmc_error *err)
{
    struct fs_entry e;
    int rc = read_entry(dir, pos, &e, err);

    if (rc == VMC_OK)
        rc = vmci_fs_dir_set_length(dir, vmci_fs_md64(dir, FD_LENGTH), err);
    if (rc != VMC_OK)
        return rc;
    if (dir->v->g.version == 6)
        return vmci_fs_dir6_set(dir, pos, vmci_fs_md32(ino, FD_TYPE), ino->addr,
                                vmci_fs_md32(ino, FD_GENERATION), err);
    return write_entry(dir, pos, vmci_fs_md32(ino, FD_TYPE), ino->addr,
                       vmci_fs_md32(ino, FD_GENERATION), e.name, vmci_strlen(e.name), err);
}

int vmci_fs_dir_init(struct fs_inode *dir, const struct fs_inode *parent, struct vmc_error *err)
{
    if (dir->v->g.version == 6)
        return vmci_fs_dir6_init(dir, parent, err);
    int rc = vmci_fs_dir_add(dir, ".", 1, dir, err);
    return rc == VMC_OK ? vmci_fs_dir_add(dir, "..", 2, parent, err) : rc;
}
