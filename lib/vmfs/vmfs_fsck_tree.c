/* SPDX-License-Identifier: BSD-2-Clause */
/* The checker: directories, link counts, files without a name. */
#include "vmfs/vmfs_fsck.h"

static const char site[] = SITE("fsck");

static bool fd_number(const struct fsck *f, uint32_t addr, uint64_t *n)
{
    const struct fs_res *r = &f->v->fdc;
    struct fs_addr a = vmci_fs_addr_decode(&f->v->g, addr);

    *n = a.cluster * r->rpc + a.item;
    return a.type == AD_FD && (addr & 0x38) == 0 && a.item < r->rpc && *n < r->n;
}

static int remove_entry(struct fsck *f, struct fs_inode *dir, const void *arg,
                        struct vmc_error *err)
{
    (void)f;
    vmci_fs_dir_forget(dir);
    return vmci_fs_dir_remove(dir, arg, err);
}

struct fixed {
    uint64_t pos;
    uint32_t type, fd, gen;
};

/* Overwrite type, address and generation of an entry; its name stays. */
static int set_entry(struct fsck *f, struct fs_inode *dir, const void *arg, struct vmc_error *err)
{
    const struct fixed *x = arg;
    uint8_t b[12];

    if (f->v->g.version == 6)
        return vmci_fs_dir6_set(dir, x->pos, x->type, x->fd, x->gen, err);
    vmci_st_le32(b + DE_TYPE, x->type);
    vmci_st_le32(b + DE_FD, x->fd);
    vmci_st_le32(b + DE_GEN, x->gen);
    return vmci_fs_file_meta(dir, x->pos * DE_BYTES, b, sizeof(b), true, err);
}

static bool is(const struct fs_entry *e, const char *name)
{
    return vmci_streq(e->name, name);
}

static int visit(struct fsck *f, uint64_t n)
{
    f->info[n] |= FI_VISITED;
    if (f->info[n] & FI_DIR)
        f->queue[f->tail++] = (uint32_t)n;
    return VMC_OK;
}

/* What is wrong with an entry that is neither "." nor ".."; NULL: nothing. */
static const char *entry_fault(struct fsck *f, struct fs_inode *dir, const struct fs_entry *e,
                               uint64_t *n)
{
    struct fs_entry first;

    if (!fd_number(f, e->fd, n))
        return "has an invalid file descriptor";
    if (!(f->info[*n] & FI_USED))
        return "names a free file descriptor";
    if (!(f->info[*n] & FI_GOOD))
        return "names a broken file descriptor";
    if (f->info[*n] & FI_VISITED)
        return "is a second name of a file";
    if (e->name[0] == '\0')
        return "has no name";
    if (vmci_fs_dir_find(dir, e->name, vmci_strlen(e->name), &first, &f->err) == VMC_OK &&
        first.pos != e->pos && first.fd != e->fd)
        return "has the name of another";
    return NULL;
}

static int check_entry(struct fsck *f, struct fs_inode *dir, const struct fs_entry *e, bool *gone,
                       struct vmc_error *err)
{
    uint64_t n;
    struct fs_inode *ino;
    const char *fault = entry_fault(f, dir, e, &n);

    *gone = false;
    if (fault != NULL) {
        vmci_fs_ck_report(f, f->cfg->repair, "directory 0x%08x entry %llu \"%s\" (0x%08x) %s",
                          dir->addr, (unsigned long long)e->pos, e->name, e->fd, fault);
        *gone = f->cfg->repair;
        return f->cfg->repair ? vmci_fs_ck_fix(f, dir, remove_entry, e, err) : VMC_OK;
    }
    int rc = vmci_fs_inode_get(f->v, e->fd, &ino, err);
    if (rc != VMC_OK)
        return rc;
    struct fixed x = {.pos = e->pos, .type = vmci_fs_md32(ino, FD_TYPE), .fd = e->fd,
                      .gen = vmci_fs_md32(ino, FD_GENERATION)};
    vmci_fs_inode_put(ino);
    if (x.type != e->type || x.gen != e->gen) {
        vmci_fs_ck_report(f, f->cfg->repair,
                          "directory 0x%08x entry \"%s\": type %u generation %u, its file has %u and "
                          "%u",
                          dir->addr, e->name, e->type, e->gen, x.type, x.gen);
        if (f->cfg->repair)
            rc = vmci_fs_ck_fix(f, dir, set_entry, &x, err);
    }
    f->links[n]++;
    /* A subdirectory's ".." counts for this one. */
    uint64_t d;
    if (fd_number(f, dir->addr, &d) && (f->info[n] & FI_DIR || vmci_fs_is_sdd(f->v, e->fd)))
        f->links[d]++;
    return rc == VMC_OK ? visit(f, n) : rc;
}

static int check_dots(struct fsck *f, struct fs_inode *dir, uint32_t parent, struct vmc_error *err)
{
    static const char *const name[2] = {".", ".."};
    const uint32_t want[2] = {dir->addr, parent};

    for (unsigned i = 0; i < 2; i++) {
        struct fs_entry e;
        struct fs_inode *to;
        int rc = vmci_fs_inode_get(f->v, want[i], &to, err);
        if (rc != VMC_OK)
            return rc;
        struct fixed x = {.type = vmci_fs_md32(to, FD_TYPE), .fd = want[i],
                          .gen = vmci_fs_md32(to, FD_GENERATION)};
        vmci_fs_inode_put(to);
        rc = vmci_fs_dir_find(dir, name[i], i + 1, &e, &f->err);
        if (rc == VMC_OK && e.fd == x.fd && e.type == x.type && e.gen == x.gen)
            continue;
        if (rc != VMC_OK && rc != VMC_ENOENT)
            return vmci_error(err, rc, site, "%s", f->err.text);
        bool fix = f->cfg->repair && rc == VMC_OK;
        vmci_fs_ck_report(f, fix, "directory 0x%08x: \"%s\" %s", dir->addr, name[i],
                          rc == VMC_OK ? "is wrong" : "is missing");
        x.pos = e.pos;
        if (fix) {
            rc = vmci_fs_ck_fix(f, dir, set_entry, &x, err);
            if (rc != VMC_OK)
                return rc;
        }
    }
    return VMC_OK;
}

static int cut_length(struct fsck *f, struct fs_inode *dir, const void *arg, struct vmc_error *err)
{
    (void)f;
    (void)arg;
    int rc = vmci_fs_inode_dirty(dir, FD_LENGTH, 8, err);
    if (rc == VMC_OK)
        vmci_st_le64(dir->md + FD_LENGTH, vmci_fs_md64(dir, FD_LENGTH) / DE_BYTES * DE_BYTES);
    return rc;
}

static int check_dir(struct fsck *f, struct fs_inode *dir, uint32_t parent, struct vmc_error *err)
{
    uint64_t cookie = 0;
    struct fs_entry e;
    int rc = VMC_OK;

    if (f->v->g.version == 6) {
        rc = vmci_fs_ck_dir6(f, dir, err);
    } else if (vmci_fs_md64(dir, FD_LENGTH) % DE_BYTES != 0) {
        vmci_fs_ck_report(f, f->cfg->repair, "directory 0x%08x: length %llu is no multiple of %u",
                          dir->addr, (unsigned long long)vmci_fs_md64(dir, FD_LENGTH), DE_BYTES);
        if (f->cfg->repair)
            rc = vmci_fs_ck_fix(f, dir, cut_length, NULL, err);
    }
    if (rc == VMC_OK)
        rc = check_dots(f, dir, parent, err);
    while (rc == VMC_OK && (rc = vmci_fs_dir_next(dir, &cookie, &e, &f->err)) == 1) {
        bool gone;
        rc = VMC_OK;
        if (is(&e, ".") || is(&e, ".."))
            continue;
        rc = check_entry(f, dir, &e, &gone, err);
        if (gone)
            cookie = e.pos; /* the last entry was moved here */
    }
    if (rc == VMC_EFORMAT) {
        vmci_fs_ck_report(f, false, "directory 0x%08x: %s", dir->addr, f->err.text);
        rc = VMC_OK;
    }
    vmci_fs_cache_trim(f->v);
    return rc;
}

/* Breadth first: the queue holds every directory once, so that loops end. */
int vmci_fs_ck_tree(struct fsck *f, struct vmc_error *err)
{
    uint32_t *parent = vmci_zalloc(f->v->pf, f->v->fdc.n * sizeof(*parent));
    int rc = VMC_OK;

    if (parent == NULL)
        return vmci_error(err, VMC_ENOMEM, site, "no memory to check the volume");
    f->links[0] = 1; /* the root's own "."; each ".." adds one */
    f->info[0] |= FI_VISITED;
    f->queue[f->tail++] = 0;
    while (f->head < f->tail && rc == VMC_OK) {
        uint64_t n = f->queue[f->head++], before = f->tail;
        struct fs_inode *dir;
        rc = vmci_fs_inode_get(f->v, vmci_fs_ck_fd(f, n), &dir, err);
        if (rc != VMC_OK)
            break;
        rc = check_dir(f, dir, vmci_fs_ck_fd(f, parent[n]), err);
        vmci_fs_inode_put(dir);
        vmci_fs_inodes_trim(f->v);
        for (uint64_t i = before; i < f->tail; i++)
            parent[f->queue[i]] = (uint32_t)n;
    }
    vmci_free(f->v->pf, parent, f->v->fdc.n * sizeof(*parent));
    return rc;
}

static int set_links(struct fsck *f, struct fs_inode *ino, const void *arg, struct vmc_error *err)
{
    int rc = vmci_fs_inode_dirty(ino, FD_LINKS, 4, err);

    (void)f;
    if (rc == VMC_OK)
        vmci_st_le32(ino->md + FD_LINKS, *(const uint32_t *)arg);
    return rc;
}

int vmci_fs_ck_links(struct fsck *f, struct vmc_error *err)
{
    for (uint64_t n = 0; n < f->v->fdc.n; n++) {
        struct fs_inode *ino;
        if (!(f->info[n] & FI_VISITED))
            continue;
        int rc = vmci_fs_inode_get(f->v, vmci_fs_ck_fd(f, n), &ino, err);
        if (rc != VMC_OK)
            return rc;
        /* A directory has its name, its own ".", and the ".." of each subdirectory. */
        uint32_t want = f->links[n] + (f->info[n] & FI_DIR ? 1 : 0);
        uint32_t has = vmci_fs_md32(ino, FD_LINKS);
        if (vmci_fs_is_sdd(f->v, ino->addr))
            want = has; /* its count is not told by its entries */
        if (has != want) {
            vmci_fs_ck_report(f, f->cfg->repair, "file 0x%08x: link count is %u, %u names lead to it",
                              ino->addr, has, want);
            if (f->cfg->repair)
                rc = vmci_fs_ck_fix(f, ino, set_links, &want, err);
        }
        vmci_fs_inode_put(ino);
        if (rc != VMC_OK)
            return rc;
        vmci_fs_inodes_trim(f->v);
        vmci_fs_cache_trim(f->v);
    }
    return VMC_OK;
}

/* ---- files without a name -------------------------------------------------------------------------- */

static int adopt(struct fsck *f, struct fs_inode *ino, const void *arg, struct vmc_error *err)
{
    struct fs_inode *dir = (struct fs_inode *)(uintptr_t)arg;
    struct vmc_vmfs *v = f->v;
    char name[32];
    struct fs_entry e;

    vmci_snprintf(name, sizeof(name), "fd-%08x", ino->addr);
    int rc = vmci_fs_txn_inode(v, dir, err);
    if (rc == VMC_OK)
        rc = vmci_fs_dir_add(dir, name, vmci_strlen(name), ino, err);
    if (rc == VMC_OK && vmci_fs_md32(ino, FD_TYPE) == VMC_VMFS_DIR &&
        vmci_fs_dir_find(ino, "..", 2, &e, NULL) == VMC_OK)
        rc = vmci_fs_dir_set(ino, e.pos, dir, err);
    return rc;
}

static int lost_found(struct fsck *f, struct fs_inode **out, struct vmc_error *err)
{
    uint64_t n;
    static const struct fs_new what = {.type = VMC_VMFS_DIR, .mode = 0700};
    int rc = vmci_fs_create(f->v, "/lost+found", &what, err);

    if (rc != VMC_OK && rc != VMC_EEXIST)
        return rc;
    bool made = rc == VMC_OK;
    rc = vmci_fs_lookup(f->v, "/lost+found", out, err);
    if (rc == VMC_OK && made && fd_number(f, (*out)->addr, &n)) {
        f->info[n] = FI_USED | FI_GOOD | FI_DIR | FI_VISITED;
        f->links[n] = 1;
        f->links[0]++;
    }
    return rc;
}

int vmci_fs_ck_orphans(struct fsck *f, struct vmc_error *err)
{
    struct fs_inode *dir = NULL, *ino;
    uint64_t d = 0;
    int rc = VMC_OK;

    for (uint64_t n = 0; n < f->v->fdc.n && rc == VMC_OK; n++) {
        uint32_t addr = vmci_fs_ck_fd(f, n);
        if (!(f->info[n] & FI_GOOD) || f->info[n] & FI_VISITED)
            continue;
        vmci_fs_ck_report(f, f->cfg->repair, "file 0x%08x has no name", addr);
        if (!f->cfg->repair)
            continue;
        if (dir == NULL)
            rc = lost_found(f, &dir, err);
        if (rc == VMC_OK && dir != NULL && fd_number(f, dir->addr, &d))
            rc = vmci_fs_inode_get(f->v, addr, &ino, err);
        if (rc != VMC_OK)
            break;
        rc = vmci_fs_ck_fix(f, ino, adopt, dir, err);
        vmci_fs_inode_put(ino);
        f->info[n] |= FI_VISITED;
        f->links[n]++;
        f->links[d] += (f->info[n] & FI_DIR) != 0;
        if (rc == VMC_OK && f->info[n] & FI_DIR) {
            /* What is below it has not been looked at yet: another run does. */
            vmci_fs_ck_report(f, false, "directory 0x%08x was put into /lost+found: check again",
                              addr);
        }
    }
    if (dir != NULL)
        vmci_fs_inode_put(dir);
    return rc;
}
