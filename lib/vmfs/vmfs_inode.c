/* SPDX-License-Identifier: BSD-2-Clause */
/* File descriptors in memory. The metadata are used where they are, in a pinned cache page. */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("file descriptor");

#define INODE_HASH 1024u
#define INODE_KEEP 4096u /* unreferenced ones kept in memory */

static uint32_t bucket(uint32_t addr)
{
    return (addr * 0x9E3779B1u) >> 22;
}

static bool zla_ok(const struct fs_geometry *g, uint32_t zla)
{
    switch (zla) {
    case ZLA_FB:
    case ZLA_SB:
    case ZLA_PB:
        return true;
    case ZLA_PB2:
    case ZLA_DOUBLE:
    case ZLA_RESIDENT:
        return g->version != 3;
    default:
        return false;
    }
}

static int check(const struct fs_inode *ino, struct vmc_error *err)
{
    const struct vmc_vmfs *v = ino->v;
    const struct fs_geometry *g = &v->g;
    const uint8_t *md = ino->md;
    uint32_t type = vmci_ld_le32(md + FD_TYPE), zla = vmci_ld_le32(md + FD_ZLA);
    uint64_t block = vmci_ld_le64(md + FD_BLOCK), len = vmci_ld_le64(md + FD_LENGTH);

    if (vmci_ld_le32(md + FD_SELF) != ino->addr)
        return vmci_error(err, VMC_EFORMAT, site,
                          "0x%08x at volume offset 0x%llx says it is 0x%08x", ino->addr,
                          (unsigned long long)ino->lv, vmci_ld_le32(md + FD_SELF));
    if (vmci_ld_le32(md + FD_LINKS) == 0)
        return vmci_error(err, VMC_ENOENT, site, "0x%08x is not in use", ino->addr);
    if (type < VMC_VMFS_DIR || type > VMC_VMFS_RDM)
        return vmci_error(err, VMC_EFORMAT, site, "0x%08x: type is %u", ino->addr, type);
    if (type == VMC_VMFS_RDM)
        return VMC_OK; /* what a mapping says of blocks is not about any of its own */
    if (!zla_ok(g, zla))
        return vmci_error(err, VMC_EFORMAT, site, "0x%08x: layout (zla) is %u", ino->addr, zla);
    /* Contents in the descriptor have no blocks; others are read in blocks of any size. */
    bool odd = block != g->fb_bytes && block != g->sb_bytes &&
               (g->version != 6 || block != 1ull << g->lfb_shift);
    bool usable = v->ro && (zla == ZLA_RESIDENT || (block >= FS_SECTOR && vmci_is_pow2(block) &&
                                                    block <= 1ull << g->lfb_shift));
    if (odd && !usable)
        return vmci_error(err, VMC_EFORMAT, site, "0x%08x: block size is 0x%llx", ino->addr,
                          (unsigned long long)block);
    if (len > vmci_fs_map_capacity(g, zla, block))
        return vmci_error(err, VMC_EFORMAT, site,
                          "0x%08x: length 0x%llx is more than its layout %u can hold", ino->addr,
                          (unsigned long long)len, zla);
    return VMC_OK;
}

static void refresh(struct fs_inode *ino)
{
    const struct fs_geometry *g = &ino->v->g;
    uint32_t zla = vmci_fs_md32(ino, FD_ZLA);

    ino->mapping = vmci_fs_md32(ino, FD_TYPE) == VMC_VMFS_RDM;
    bool blocks = zla != ZLA_RESIDENT && zla != ZLA_SB && !ino->mapping &&
                  vmci_fs_md64(ino, FD_BLOCK) == g->fb_bytes;

    ino->shift = blocks ? g->fb_shift : 0;
    vmci_store_release(&ino->length, vmci_fs_md64(ino, FD_LENGTH));
}

int vmci_fs_inode_reload(struct fs_inode *ino, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    struct fs_page *p;
    uint32_t bytes = v->g.fd_bytes - v->g.fd_md;
    int rc = vmci_fs_page_read(v, ino->lv, FS_SECTOR, 0, &p, err); /* the lock comes first */

    ino->loaded = false;
    if (rc == VMC_OK)
        rc = vmci_fs_page_read(v, ino->lv + v->g.fd_md, bytes, 0, &p, err);
    if (rc != VMC_OK)
        return rc;
    if (ino->page != p) {
        if (ino->page != NULL)
            ino->page->pins--;
        p->pins++;
        ino->page = p;
        ino->md = vmci_fs_at(p, ino->lv + v->g.fd_md);
    }
    rc = check(ino, err);
    if (rc != VMC_OK)
        return rc;
    refresh(ino);
    ino->loaded = true;
    return VMC_OK;
}

static int locate(struct vmc_vmfs *v, uint32_t addr, uint64_t *lv, struct vmc_error *err)
{
    struct fs_addr a = vmci_fs_addr_decode(&v->g, addr);

    if (a.type != AD_FD || (addr & 0x38) != 0)
        return vmci_error(err, VMC_EFORMAT, site, "0x%08x is not a file descriptor address", addr);
    if (v->fdc.ino == NULL) {
        /* The first ones have to be found before the file that holds them can be read. */
        if (a.cluster != 0 || a.item > 8)
            return vmci_error(err, VMC_EFORMAT, site, "0x%08x is not a system file", addr);
        *lv = v->g.fd0_lv + (uint64_t)a.item * v->g.fd_bytes;
        return VMC_OK;
    }
    return vmci_fs_res_item_lv(v, &v->fdc, a.cluster, a.item, lv, err);
}

static struct fs_inode *find(struct vmc_vmfs *v, uint32_t addr)
{
    struct fs_inode *i = v->ihash[bucket(addr)];

    while (i != NULL && i->addr != addr)
        i = i->hnext;
    return i;
}

/* The object, loaded or not, with one more reference. */
static int get(struct vmc_vmfs *v, uint32_t addr, struct fs_inode **out, struct vmc_error *err)
{
    struct fs_inode *ino = find(v, addr);

    if (ino == NULL) {
        uint64_t lv;
        int rc = locate(v, addr, &lv, err);
        if (rc != VMC_OK)
            return rc;
        ino = vmci_zalloc(v->pf, sizeof(*ino));
        if (ino == NULL)
            return vmci_error(err, VMC_ENOMEM, site, "no memory for a file");
        ino->v = v;
        ino->addr = addr;
        ino->lv = lv;
        ino->epoch = ++v->epochs;
        vmci_list_init(&ino->lru);
        ino->hnext = v->ihash[bucket(addr)];
        v->ihash[bucket(addr)] = ino;
        v->inodes++;
    }
    if (ino->refs++ == 0)
        vmci_list_del(&ino->lru);
    *out = ino;
    return VMC_OK;
}

int vmci_fs_inode_get(struct vmc_vmfs *v, uint32_t addr, struct fs_inode **out,
                      struct vmc_error *err)
{
    struct fs_inode *ino;
    int rc;

    if (v->ihash == NULL) {
        v->ihash = vmci_zalloc(v->pf, INODE_HASH * sizeof(*v->ihash));
        if (v->ihash == NULL)
            return vmci_error(err, VMC_ENOMEM, site, "no memory for files");
    }
    rc = get(v, addr, &ino, err);
    if (rc == VMC_OK && !ino->loaded) {
        /* Pages may still be there from when another host had not changed them yet. */
        rc = v->s.active ? vmci_fs_inode_validate(ino, false, err) : vmci_fs_inode_reload(ino, err);
        if (rc != VMC_OK)
            vmci_fs_inode_put(ino);
    }
    if (rc == VMC_OK)
        *out = ino;
    return rc;
}

void vmci_fs_inode_put(struct fs_inode *ino)
{
    if (--ino->refs == 0)
        vmci_list_add_tail(&ino->v->ilru, &ino->lru);
}

void vmci_fs_inode_forget(struct fs_inode *ino)
{
    vmci_fs_leaf_free(ino);
    vmci_fs_dir_forget(ino);
    ino->epoch = ++ino->v->epochs;
}

static void destroy(struct fs_inode *ino)
{
    struct vmc_vmfs *v = ino->v;
    struct fs_inode **at = &v->ihash[bucket(ino->addr)];

    while (*at != ino)
        at = &(*at)->hnext;
    *at = ino->hnext;
    vmci_list_del(&ino->lru);
    vmci_fs_inode_forget(ino);
    vmci_fs_ios_destroy(ino);
    if (ino->page != NULL)
        ino->page->pins--;
    v->inodes--;
    vmci_free(v->pf, ino, sizeof(*ino));
}

void vmci_fs_inodes_stale(struct vmc_vmfs *v)
{
    for (uint32_t i = 0; v->ihash != NULL && i < INODE_HASH; i++)
        for (struct fs_inode *ino = v->ihash[i]; ino != NULL; ino = ino->hnext) {
            /* System files but the root never change after formatting. */
            bool fixed = ino->addr != FD_ADDR_ROOT && ino->loaded &&
                         vmci_fs_md32(ino, FD_TYPE) == VMC_VMFS_SYSTEM;
            if (fixed || ino->held != LK_MODE_FREE || vmci_fs_txn_locked(v, ino->lv))
                continue;
            vmci_fs_inode_forget(ino);
            ino->loaded = false;
        }
    vmci_fs_res_forget(v);
}

void vmci_fs_inodes_trim(struct vmc_vmfs *v)
{
    while (v->inodes > INODE_KEEP && !vmci_list_empty(&v->ilru))
        destroy(vmci_list_entry(v->ilru.next, struct fs_inode, lru));
}

void vmci_fs_inodes_fini(struct vmc_vmfs *v)
{
    if (v->ihash == NULL)
        return;
    for (uint32_t i = 0; i < INODE_HASH; i++)
        while (v->ihash[i] != NULL)
            destroy(v->ihash[i]);
    vmci_free(v->pf, v->ihash, INODE_HASH * sizeof(*v->ihash));
    v->ihash = NULL;
}

int vmci_fs_inode_validate(struct fs_inode *ino, bool strict, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    bool changed = false;
    int rc = VMC_OK;

    if (!v->ro && !v->exclusive && ino->held == LK_MODE_FREE && !vmci_fs_txn_locked(v, ino->lv))
        rc = vmci_fs_lock_validate(v, ino->lv, v->g.fd_bytes, strict, &changed, err);
    if (rc != VMC_OK)
        return rc;
    if (changed)
        vmci_fs_inode_forget(ino);
    return changed || !ino->loaded ? vmci_fs_inode_reload(ino, err) : VMC_OK;
}

int vmci_fs_inode_dirty(struct fs_inode *ino, uint32_t md_off, uint32_t bytes,
                        struct vmc_error *err)
{
    return vmci_fs_txn_dirty(ino->v, ino->page, ino->lv + ino->v->g.fd_md + md_off, bytes, ino->lv,
                             err);
}

static void fill_new(struct fs_inode *ino, uint32_t generation, uint32_t type, uint32_t mode)
{
    const struct fs_geometry *g = &ino->v->g;
    uint8_t *md = ino->md;
    uint32_t now = vmci_fs_wall(ino->v);
    bool v5 = g->version >= 5;
    bool dir = type == VMC_VMFS_DIR;

    memset(md, 0, g->fd_bytes - g->fd_md);
    vmci_st_le32(md + FD_SELF, ino->addr);
    vmci_st_le32(md + FD_GENERATION, generation);
    vmci_st_le32(md + FD_LINKS, dir ? 2 : 1);
    vmci_st_le32(md + FD_TYPE, type);
    vmci_st_le64(md + FD_BLOCK, g->sb_bytes);
    vmci_st_le32(md + FD_MTIME, now);
    vmci_st_le32(md + FD_CTIME, now);
    vmci_st_le32(md + FD_ATIME, now);
    vmci_st_le32(md + FD_MODE, v5 || type != VMC_VMFS_FILE ? mode : mode | 0100000);
    vmci_st_le32(md + FD_ZLA, v5 && !dir ? ZLA_RESIDENT : ZLA_SB);
    if (v5) {
        vmci_st_le32(md + FD_AFFINITY, ino->addr);
        vmci_st_le32(md + FD_TBZ_SHIFT, 0x14);
        md[FD_LOG2] = (uint8_t)__builtin_ctz(g->sb_bytes);
    }
    if (g->version == 6)
        vmci_st_le32(md + FD_SIGNATURE, FD_SIG6);
}

int vmci_fs_inode_new(struct vmc_vmfs *v, uint32_t type, uint32_t mode, struct fs_inode **out,
                      struct vmc_error *err)
{
    uint64_t cluster, lv;
    uint32_t item;
    uint8_t *md;
    struct fs_page *p;
    struct fs_inode *ino;

    int rc = vmci_fs_res_alloc(v, &v->fdc, &cluster, &item, err);
    if (rc == VMC_OK)
        rc = vmci_fs_res_cluster(v, &v->fdc, cluster, &lv, &md, &p, err);
    if (rc != VMC_OK)
        return rc;
    uint32_t gen_at = v->g.version == 6 ? CL6_FD_GEN : CL_FD_GEN;
    uint32_t generation = vmci_ld_le32(md + gen_at) + 1;
    vmci_st_le32(md + gen_at, generation); /* the sector is dirty already */
    rc = get(v, (uint32_t)vmci_fs_addr_encode(&v->g, AD_FD, cluster, item), &ino, err);
    if (rc != VMC_OK)
        return rc;
    rc = vmci_fs_txn_lock(v, ino->lv, LK_FD, v->g.fd_bytes, err);
    if (rc == VMC_OK)
        rc = vmci_fs_page_new(v, ino->lv + v->g.fd_md, v->g.fd_bytes - v->g.fd_md, 0, &p, err);
    if (rc != VMC_OK) {
        vmci_fs_inode_put(ino);
        return rc;
    }
    if (ino->page != p) {
        if (ino->page != NULL)
            ino->page->pins--;
        p->pins++;
        ino->page = p;
        ino->md = vmci_fs_at(p, ino->lv + v->g.fd_md);
    }
    vmci_fs_inode_forget(ino);
    fill_new(ino, generation, type, mode);
    refresh(ino);
    ino->loaded = true;
    rc = vmci_fs_txn_inode(v, ino, err);
    if (rc == VMC_OK)
        rc = vmci_fs_inode_dirty(ino, 0, v->g.fd_bytes - v->g.fd_md, err);
    if (rc != VMC_OK) {
        ino->loaded = false;
        vmci_fs_inode_put(ino);
        return rc;
    }
    *out = ino;
    return VMC_OK;
}

int vmci_fs_inode_free(struct fs_inode *ino, struct vmc_error *err)
{
    struct vmc_vmfs *v = ino->v;
    struct fs_addr a = vmci_fs_addr_decode(&v->g, ino->addr);
    int rc = vmci_fs_inode_dirty(ino, 0, FS_SECTOR, err);

    if (rc != VMC_OK)
        return rc;
    vmci_st_le32(ino->md + FD_LINKS, 0);
    vmci_st_le64(ino->md + FD_LENGTH, 0);
    vmci_st_le32(ino->md + FD_CTIME, vmci_fs_wall(v));
    ino->loaded = false;
    return vmci_fs_res_free(v, &v->fdc, a.cluster, a.item, 1, err);
}

void vmci_fs_inode_stat(const struct fs_inode *ino, struct vmc_vmfs_stat *out)
{
    const uint8_t *md = ino->md;

    *out = (struct vmc_vmfs_stat){
        .id = ino->addr,
        .type = vmci_ld_le32(md + FD_TYPE),
        .mode = vmci_ld_le32(md + FD_MODE) & 07777,
        .links = vmci_ld_le32(md + FD_LINKS),
        .uid = vmci_ld_le32(md + FD_UID),
        .gid = vmci_ld_le32(md + FD_GID),
        .mtime_s = vmci_ld_le32(md + FD_MTIME),
        .ctime_s = vmci_ld_le32(md + FD_CTIME),
        .atime_s = vmci_ld_le32(md + FD_ATIME),
        .bytes = vmci_ld_le64(md + FD_LENGTH),
        .block_bytes = vmci_ld_le64(md + FD_BLOCK),
        .blocks = vmci_ld_le64(md + FD_BLOCKS),
        .tbz_blocks = vmci_ld_le32(md + FD_TBZ),
        .layout = vmci_ld_le32(md + FD_ZLA),
        .generation = vmci_ld_le32(md + FD_GENERATION),
        .large_blocks = ino->v->g.version == 6 ? vmci_ld_le32(md + FD_LFBS) : 0,
        .lv_offset = ino->lv,
    };
}
