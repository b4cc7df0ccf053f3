/* SPDX-License-Identifier: BSD-2-Clause */
/* Paths: look up, create, remove, rename. */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("path");

#define STABLE_TRIES 100u
#define PATIENCE     16u            /* times lock_wait_ms, while locks go from host to host */
#define NO_SB_NS     10000000000ull /* then other hosts may have freed sub-blocks */

bool vmci_fs_op_end(struct vmc_vmfs *v, int rc, uint64_t *deadline)
{
    vmci_fs_cache_trim(v);
    vmci_fs_inodes_trim(v);
    bool no_sb = v->no_sb_new;
    v->no_sb = v->no_sb && !(v->sb_freed && rc == VMC_OK);
    v->no_sb_new = v->sb_freed = false;
    if (rc == VMC_ENOSPC && no_sb && !v->s.fenced)
        return true;
    if (v->no_sb && !v->exclusive && rc != VMC_EBUSY && vmci_fs_now(v) - v->no_sb_ns > NO_SB_NS)
        v->no_sb = false;
    if (rc != VMC_EBUSY || v->s.fenced)
        return false;
    uint64_t now = vmci_fs_now(v), ns = v->lock_wait_ms * 1000000ull;
    if (*deadline == 0)
        v->wait_end = now + PATIENCE * ns;
    if (*deadline == 0 || v->lock_moved)
        *deadline = VMCI_MIN(now + ns, v->wait_end);
    v->lock_moved = false;
    /* Hosts that met in the opposite order of locks must not meet again in step. */
    return now < *deadline && vmci_fs_sleep(v, (1 + v->s.slot % 16) * 1000000ull) &&
           vmci_fs_session_check(v, NULL) == VMC_OK;
}

static int next_part(const char **path, const char **name, size_t *len, struct vmc_error *err)
{
    while (**path == '/')
        (*path)++;
    *name = *path;
    while (**path != '\0' && **path != '/')
        (*path)++;
    *len = (size_t)(*path - *name);
    if (*len > VMC_VMFS_NAME_MAX)
        return vmci_error(err, VMC_ERANGE, site, "a name has more than %u bytes",
                          VMC_VMFS_NAME_MAX);
    return VMC_OK;
}

/* An entry of a directory that did not change while we looked at it. */
static int find_stable(struct fs_inode *dir, const char *name, size_t len, struct fs_entry *e,
                       struct vmc_error *err)
{
    for (unsigned i = 0; i < STABLE_TRIES; i++) {
        int rc = vmci_fs_inode_validate(dir, true, err);
        if (rc != VMC_OK)
            return rc;
        uint64_t epoch = dir->epoch;
        if (!vmci_fs_is_dir(dir))
            return vmci_error(err, VMC_EINVAL, site, "0x%08x is not a directory", dir->addr);
        int found = vmci_fs_dir_find(dir, name, len, e, err);
        rc = vmci_fs_inode_validate(dir, true, found == VMC_OK ? err : NULL);
        if (rc != VMC_OK)
            return rc;
        if (dir->epoch == epoch)
            return found;
    }
    return vmci_error(err, VMC_EBUSY, site, "directory 0x%08x keeps changing", dir->addr);
}

static int check_entry(const struct fs_inode *ino, const struct fs_entry *e, struct vmc_error *err)
{
    if (ino->v->flags & VMC_VMFS_REPAIR)
        return VMC_OK;
    if (vmci_fs_md32(ino, FD_TYPE) == e->type && vmci_fs_md32(ino, FD_GENERATION) == e->gen)
        return VMC_OK;
    struct vmc_error why;
    vmci_error(&why, VMC_EFORMAT, site,
               "\"%s\": entry has type %u generation %u, file 0x%08x type %u generation %u",
               e->name, e->type, e->gen, ino->addr, vmci_fs_md32(ino, FD_TYPE),
               vmci_fs_md32(ino, FD_GENERATION));
    /* A host that was cut off may have left it so; the descriptor is what others believe, too. */
    return vmci_fs_doubt(ino->v, &why, err);
}

/* Walk to the directory that holds the last part of a path; len 0: the path is the root itself. */
static int walk(struct vmc_vmfs *v, const char *path, struct fs_inode **dir, const char **name,
                size_t *len, struct vmc_error *err)
{
    struct fs_inode *at, *next;
    struct fs_entry e;
    int rc;

    if (path == NULL || *path != '/')
        return vmci_error(err, VMC_EINVAL, site, "a path has to begin with /");
    rc = vmci_fs_inode_get(v, FD_ADDR_ROOT, &at, err);
    if (rc != VMC_OK)
        return rc;
    rc = next_part(&path, name, len, err);
    while (rc == VMC_OK) {
        const char *more, *rest = path;
        size_t n;
        rc = next_part(&rest, &more, &n, err);
        if (rc != VMC_OK || n == 0)
            break;
        rc = find_stable(at, *name, *len, &e, err);
        if (rc == VMC_OK)
            rc = vmci_fs_inode_get(v, e.fd, &next, err);
        if (rc != VMC_OK)
            break;
        vmci_fs_inode_put(at);
        at = next;
        path = rest;
        *name = more;
        *len = n;
    }
    if (rc == VMC_OK)
        *dir = at;
    else
        vmci_fs_inode_put(at);
    return rc;
}

int vmci_fs_lookup(struct vmc_vmfs *v, const char *path, struct fs_inode **out,
                   struct vmc_error *err)
{
    struct fs_inode *dir, *ino;
    const char *name;
    size_t len;
    struct fs_entry e;

    for (unsigned i = 0; i < STABLE_TRIES; i++) {
        int rc = walk(v, path, &dir, &name, &len, err);
        if (rc != VMC_OK)
            return rc;
        if (len == 0) {
            rc = vmci_fs_inode_validate(dir, true, err);
            if (rc == VMC_OK)
                *out = dir;
            else
                vmci_fs_inode_put(dir);
            return rc;
        }
        rc = find_stable(dir, name, len, &e, err);
        vmci_fs_inode_put(dir);
        if (rc != VMC_OK)
            return rc;
        rc = vmci_fs_inode_get(v, e.fd, &ino, err);
        if (rc == VMC_OK) {
            rc = vmci_fs_inode_validate(ino, false, err);
            if (rc == VMC_OK)
                rc = check_entry(ino, &e, err);
            if (rc == VMC_OK) {
                *out = ino;
                return VMC_OK;
            }
            vmci_fs_inode_put(ino);
        }
        /* Removed by another host between the entry and the file: look again. */
        if (v->ro || v->exclusive || (rc != VMC_ENOENT && rc != VMC_EFORMAT))
            return rc;
        struct fs_inode *again;
        struct fs_entry e2;
        if (walk(v, path, &again, &name, &len, NULL) != VMC_OK)
            return rc;
        int rc2 = find_stable(again, name, len, &e2, NULL);
        vmci_fs_inode_put(again);
        if (rc2 == VMC_OK && e2.fd == e.fd && e2.gen == e.gen)
            return rc; /* it is really so */
    }
    return vmci_error(err, VMC_EBUSY, site, "%s keeps changing", path);
}

static bool dots(const char *name, size_t len)
{
    return (len == 1 && name[0] == '.') || (len == 2 && name[0] == '.' && name[1] == '.');
}

static int add_links(struct fs_inode *dir, int32_t n, struct vmc_error *err)
{
    int rc = vmci_fs_inode_dirty(dir, FD_LINKS, 4, err);

    if (rc == VMC_OK)
        vmci_st_le32(dir->md + FD_LINKS, vmci_fs_md32(dir, FD_LINKS) + (uint32_t)n);
    return rc;
}

static int writable_dir(const struct fs_inode *dir, struct vmc_error *err)
{
    if (vmci_fs_md32(dir, FD_TYPE) != VMC_VMFS_DIR)
        return vmci_error(err, VMC_EINVAL, site, "0x%08x is not a directory that can be changed",
                          dir->addr);
    return VMC_OK;
}

/* A mapping has the device's length, and what identifies it where others have addresses. */
static int fill_mapping(struct fs_inode *ino, const struct fs_new *what, struct vmc_error *err)
{
    const struct fs_geometry *g = &ino->v->g;
    int rc = vmci_fs_inode_dirty(ino, 0, g->fd_resident + what->bytes, err);

    if (rc == VMC_OK) {
        memcpy(ino->md + g->fd_resident, what->data, what->bytes);
        vmci_st_le64(ino->md + FD_LENGTH, what->length);
    }
    return rc;
}

static int create_in(struct fs_inode *dir, const char *name, size_t len, const struct fs_new *what,
                     struct vmc_error *err)
{
    struct vmc_vmfs *v = dir->v;
    struct fs_inode *ino = NULL;
    uint32_t type = what->type;
    struct fs_entry e;
    int rc = vmci_fs_txn_begin(v, err);

    if (rc != VMC_OK)
        return rc;
    rc = vmci_fs_txn_inode(v, dir, err);
    if (rc == VMC_OK)
        rc = writable_dir(dir, err);
    if (rc == VMC_OK) {
        rc = vmci_fs_dir_find(dir, name, len, &e, NULL);
        if (rc == VMC_OK)
            rc = vmci_error(err, VMC_EEXIST, site, "\"%s\" exists", e.name);
        else if (rc == VMC_ENOENT)
            rc = VMC_OK;
        else
            (void)vmci_error(err, rc, site, "the directory cannot be read");
    }
    if (rc == VMC_OK)
        rc = vmci_fs_inode_new(v, type, what->mode & 07777, &ino, err);
    if (rc == VMC_OK && v->g.version == 6) {
        /* The descriptor is dirty already. */
        vmci_st_le32(ino->md + FD_AFFINITY, dir->addr);
        vmci_st_le32(ino->md + FD_PARENT, dir->addr);
    }
    if (rc == VMC_OK && type == VMC_VMFS_DIR)
        rc = vmci_fs_dir_init(ino, dir, err);
    if (rc == VMC_OK && type == VMC_VMFS_DIR)
        rc = add_links(dir, 1, err);
    if (rc == VMC_OK && type == VMC_VMFS_RDM)
        rc = fill_mapping(ino, what, err);
    else if (rc == VMC_OK && what->data != NULL)
        rc = vmci_fs_write_first(ino, what->data, what->bytes, err);
    if (rc == VMC_OK)
        rc = vmci_fs_dir_add(dir, name, len, ino, err);
    if (rc == VMC_OK)
        rc = vmci_fs_txn_commit(v, err);
    else
        vmci_fs_txn_abort(v);
    if (ino != NULL)
        vmci_fs_inode_put(ino);
    return rc;
}

int vmci_fs_create(struct vmc_vmfs *v, const char *path, const struct fs_new *what,
                   struct vmc_error *err)
{
    struct fs_inode *dir;
    const char *name;
    size_t len;
    int rc = walk(v, path, &dir, &name, &len, err);

    if (rc != VMC_OK)
        return rc;
    if (len == 0 || dots(name, len))
        rc = vmci_error(err, VMC_EEXIST, site, "\"%s\" exists", path);
    if (rc == VMC_OK)
        rc = vmci_fs_inode_validate(dir, true, err);
    if (rc == VMC_OK)
        rc = create_in(dir, name, len, what, err);
    vmci_fs_inode_put(dir);
    return rc;
}

static int check_empty(struct fs_inode *ino, struct vmc_error *err)
{
    uint64_t cookie = 0;
    struct fs_entry e;
    int rc;

    while ((rc = vmci_fs_dir_next(ino, &cookie, &e, err)) == 1)
        if (!dots(e.name, vmci_strlen(e.name)))
            return vmci_error(err, VMC_ESTATE, site, "the directory is not empty (\"%s\")", e.name);
    return rc;
}

/* The file behind an entry, locked in the transaction, and fit to be removed. */
static int victim(struct vmc_vmfs *v, const struct fs_entry *e, struct fs_inode **out,
                  struct vmc_error *err)
{
    struct fs_inode *ino;
    int rc = vmci_fs_inode_get(v, e->fd, &ino, err);

    if (rc != VMC_OK)
        return rc;
    if (ino->opens > 0)
        rc = vmci_error(err, VMC_EBUSY, site, "\"%s\" is open", e->name);
    else if (e->type == VMC_VMFS_SYSTEM)
        rc = vmci_error(err, VMC_EPERM, site, "\"%s\" is a system file", e->name);
    if (rc == VMC_OK)
        rc = vmci_fs_txn_inode(v, ino, err);
    if (rc == VMC_OK)
        rc = check_entry(ino, e, err);
    if (rc == VMC_OK && e->type == VMC_VMFS_DIR)
        rc = check_empty(ino, err);
    if (rc == VMC_OK)
        *out = ino;
    else
        vmci_fs_inode_put(ino);
    return rc;
}

/* Blocks and descriptor of a file that no longer has a name. */
static int destroy(struct fs_inode *ino, struct vmc_error *err)
{
    uint64_t block = vmci_fs_md64(ino, FD_BLOCK), len = vmci_fs_md64(ino, FD_LENGTH), left = 0;
    int rc = VMC_OK;

    if (vmci_fs_md32(ino, FD_ZLA) != ZLA_RESIDENT && !ino->mapping)
        rc = vmci_fs_map_free(ino, 0, (len + block - 1) / block, UINT32_MAX, &left, err);
    if (rc == VMC_OK && left != 0)
        rc = vmci_error(err, VMC_EAGAIN, site, "the file is too large for one transaction");
    return rc == VMC_OK ? vmci_fs_inode_free(ino, err) : rc;
}

static int remove_once(struct fs_inode *dir, const char *name, size_t len, bool *too_big,
                       struct vmc_error *err)
{
    struct vmc_vmfs *v = dir->v;
    struct fs_inode *ino = NULL;
    struct fs_entry e;
    int rc = vmci_fs_txn_begin(v, err);

    *too_big = false;
    if (rc != VMC_OK)
        return rc;
    rc = vmci_fs_txn_inode(v, dir, err);
    if (rc == VMC_OK)
        rc = writable_dir(dir, err);
    if (rc == VMC_OK)
        rc = vmci_fs_dir_find(dir, name, len, &e, err);
    if (rc == VMC_OK)
        rc = victim(v, &e, &ino, err);
    if (rc == VMC_OK)
        rc = vmci_fs_dir_remove(dir, &e, err);
    if (rc == VMC_OK && e.type == VMC_VMFS_DIR)
        rc = add_links(dir, -1, err);
    if (rc == VMC_OK)
        rc = destroy(ino, err);
    if (rc == VMC_OK)
        rc = vmci_fs_txn_commit(v, err);
    else
        vmci_fs_txn_abort(v);
    *too_big = rc == VMC_EAGAIN;
    if (ino != NULL)
        vmci_fs_inode_put(ino);
    return rc;
}

/* Free a large file's blocks first, in as many transactions as it takes. */
static int shorten(struct fs_inode *dir, const char *name, size_t len, struct vmc_error *err)
{
    struct fs_inode *ino;
    struct fs_entry e;
    int rc = find_stable(dir, name, len, &e, err);

    if (rc != VMC_OK || e.type != VMC_VMFS_FILE)
        return rc;
    rc = vmci_fs_inode_get(dir->v, e.fd, &ino, err);
    if (rc != VMC_OK)
        return rc;
    rc = vmci_fs_inode_validate(ino, false, err);
    if (rc == VMC_OK && ino->opens == 0)
        rc = vmci_fs_truncate(ino, 0, err);
    vmci_fs_inode_put(ino);
    return rc;
}

static int remove_path(struct vmc_vmfs *v, const char *path, struct vmc_error *err)
{
    struct fs_inode *dir;
    const char *name;
    size_t len;
    bool too_big;
    int rc = walk(v, path, &dir, &name, &len, err);

    if (rc != VMC_OK)
        return rc;
    if (len == 0 || dots(name, len))
        rc = vmci_error(err, VMC_EINVAL, site, "%s cannot be removed", path);
    if (rc == VMC_OK)
        rc = vmci_fs_inode_validate(dir, true, err);
    if (rc == VMC_OK)
        rc = remove_once(dir, name, len, &too_big, err);
    if (rc == VMC_EAGAIN && too_big) {
        rc = shorten(dir, name, len, err);
        if (rc == VMC_OK)
            rc = remove_once(dir, name, len, &too_big, err);
    }
    vmci_fs_inode_put(dir);
    return rc;
}

int vmc_vmfs_remove(struct vmc_vmfs *v, const char *path, struct vmc_error *err)
{
    uint64_t deadline = 0;
    int rc;

    vmci_lock(&v->lock);
    do
        rc = remove_path(v, path, err);
    while (vmci_fs_op_end(v, rc, &deadline));
    vmci_unlock(&v->lock);
    return rc;
}

/* ---- rename ------------------------------------------------------------------------------------
 */

#define ASIDE_PREFIX ".vmcore-" /* a name that nobody uses; the checker's report knows it, too */
#define ASIDE_LEN    24u
#define ASIDE_TRIES  16u

struct move {
    struct fs_inode *from, *to; /* directories */
    const char *from_name, *to_name;
    size_t from_len, to_len;
    bool keep;                 /* what is replaced is too large to be freed at once, and */
    char aside[ASIDE_LEN + 1]; /* has this name until it is freed; empty: there is none */
};

/*
 * Would a directory become its own ancestor? Two hosts that move two directories into each other
 * hold no lock in common and would both find that they may. So the root's lock, held over every
 * move of a directory to another one, makes one of them wait; after it ".." is what the other made
 * of it.
 */
static int check_loop(struct vmc_vmfs *v, uint32_t moved, struct fs_inode *to,
                      struct vmc_error *err)
{
    uint32_t at = to->addr;
    struct fs_inode *dir;
    struct fs_entry e;

    int rc = vmci_fs_inode_get(v, FD_ADDR_ROOT, &dir, err);
    if (rc != VMC_OK)
        return rc;
    rc = vmci_fs_txn_inode(v, dir, err);
    vmci_fs_inode_put(dir);
    for (unsigned i = 0; rc == VMC_OK && i < VMC_VMFS_PATH_MAX; i++) {
        if (at == moved)
            return vmci_error(err, VMC_EINVAL, site, "a directory cannot move into itself");
        if (at == FD_ADDR_ROOT)
            return VMC_OK;
        rc = vmci_fs_inode_get(v, at, &dir, err);
        if (rc != VMC_OK)
            return rc;
        rc = find_stable(dir, "..", 2, &e, err);
        vmci_fs_inode_put(dir);
        at = e.fd;
    }
    return rc != VMC_OK ? rc : vmci_error(err, VMC_EFORMAT, site, "directories form a loop");
}

static bool may_replace(const struct fs_inode *moved, const struct fs_entry *old)
{
    bool a = vmci_fs_md32(moved, FD_TYPE) == VMC_VMFS_DIR, b = old->type == VMC_VMFS_DIR;
    return a == b;
}

static int fix_dotdot(const struct move *m, struct fs_inode *ino, struct vmc_error *err)
{
    struct fs_entry e;
    int rc = VMC_OK;

    if (vmci_fs_md32(ino, FD_TYPE) != VMC_VMFS_DIR || m->from == m->to)
        return VMC_OK;
    rc = vmci_fs_dir_find(ino, "..", 2, &e, err);
    if (rc == VMC_OK)
        rc = vmci_fs_dir_set(ino, e.pos, m->to, err);
    if (rc == VMC_OK && ino->v->g.version == 6) {
        rc = vmci_fs_inode_dirty(ino, FD_PARENT, 4, err);
        if (rc == VMC_OK)
            vmci_st_le32(ino->md + FD_PARENT, m->to->addr);
    }
    if (rc == VMC_OK)
        rc = add_links(m->from, -1, err);
    return rc == VMC_OK ? add_links(m->to, 1, err) : rc;
}

/* Give what is replaced a name of its own: a crash from here on costs space, and no contents. */
static int set_aside(struct move *m, const struct fs_inode *old, struct vmc_error *err)
{
    uint64_t number = (uint64_t)old->addr << 32 | vmci_fs_md32(old, FD_GENERATION);
    struct fs_entry e;

    for (unsigned i = 0; i < ASIDE_TRIES; i++, number++) {
        char name[ASIDE_LEN + 1] = ASIDE_PREFIX;
        for (unsigned k = 0; k < 16; k++)
            name[sizeof(ASIDE_PREFIX) - 1 + k] = "0123456789abcdef"[number >> (60 - 4 * k) & 15];
        int rc = vmci_fs_dir_find(m->to, name, ASIDE_LEN, &e, NULL);
        if (rc == VMC_OK)
            continue;
        if (rc == VMC_ENOENT)
            rc = vmci_fs_dir_add(m->to, name, ASIDE_LEN, old, err);
        if (rc == VMC_OK)
            memcpy(m->aside, name, sizeof(name));
        return rc;
    }
    return vmci_error(err, VMC_EEXIST, site, "no name is left for the file that is replaced");
}

static int rename_txn(struct move *m, uint32_t flags, struct vmc_error *err)
{
    struct vmc_vmfs *v = m->from->v;
    struct fs_inode *ino = NULL, *old = NULL;
    struct fs_inode *first = m->from->addr < m->to->addr ? m->from : m->to;
    struct fs_entry src, dst;

    int rc = vmci_fs_txn_inode(v, first, err);
    if (rc == VMC_OK)
        rc = vmci_fs_txn_inode(v, first == m->from ? m->to : m->from, err);
    if (rc == VMC_OK)
        rc = writable_dir(m->from, err);
    if (rc == VMC_OK)
        rc = writable_dir(m->to, err);
    if (rc == VMC_OK)
        rc = vmci_fs_dir_find(m->from, m->from_name, m->from_len, &src, err);
    if (rc == VMC_OK && src.type == VMC_VMFS_SYSTEM)
        rc = vmci_error(err, VMC_EPERM, site, "\"%s\" is a system file", src.name);
    if (rc == VMC_OK)
        rc = vmci_fs_inode_get(v, src.fd, &ino, err);
    if (rc == VMC_OK)
        rc = vmci_fs_inode_validate(ino, false, err);
    if (rc == VMC_OK)
        rc = check_entry(ino, &src, err);
    /* A file stays where it is; only a directory's ".." has to change with it. */
    if (rc == VMC_OK && src.type == VMC_VMFS_DIR)
        rc = vmci_fs_txn_inode(v, ino, err);
    if (rc == VMC_OK && src.type == VMC_VMFS_DIR && m->from != m->to)
        rc = check_loop(v, src.fd, m->to, err);
    if (rc != VMC_OK)
        goto out;
    rc = vmci_fs_dir_find(m->to, m->to_name, m->to_len, &dst, NULL);
    if (rc == VMC_OK && dst.fd == src.fd)
        goto out; /* the same file: nothing to do */
    if (rc == VMC_OK && (flags & VMC_VMFS_RENAME_NOREPLACE || !may_replace(ino, &dst))) {
        rc = vmci_error(err, VMC_EEXIST, site, "\"%s\" exists", dst.name);
    } else if (rc == VMC_OK) {
        rc = victim(v, &dst, &old, err);
        if (rc == VMC_OK)
            rc = vmci_fs_dir_set(m->to, dst.pos, ino, err);
        if (rc == VMC_OK && dst.type == VMC_VMFS_DIR)
            rc = add_links(m->to, -1, err);
        if (rc == VMC_OK)
            rc = m->keep && dst.type == VMC_VMFS_FILE ? set_aside(m, old, err) : destroy(old, err);
    } else if (rc == VMC_ENOENT) {
        rc = vmci_fs_dir_add(m->to, m->to_name, m->to_len, ino, err);
    }
    /* Adding or removing may have moved the source's entry. */
    if (rc == VMC_OK)
        rc = vmci_fs_dir_find(m->from, m->from_name, m->from_len, &src, err);
    if (rc == VMC_OK)
        rc = vmci_fs_dir_remove(m->from, &src, err);
    if (rc == VMC_OK)
        rc = fix_dotdot(m, ino, err);
out:
    if (ino != NULL)
        vmci_fs_inode_put(ino);
    if (old != NULL)
        vmci_fs_inode_put(old);
    return rc;
}

static int rename_once(struct move *m, uint32_t flags, struct vmc_error *err)
{
    struct vmc_vmfs *v = m->from->v;
    int rc = vmci_fs_txn_begin(v, err);

    m->aside[0] = '\0';
    if (rc != VMC_OK)
        return rc;
    rc = rename_txn(m, flags, err);
    if (rc == VMC_OK)
        return vmci_fs_txn_commit(v, err);
    vmci_fs_txn_abort(v);
    return rc;
}

/* The rename has happened: what cannot be freed now is left to be found by its name. */
static void free_aside(const struct move *m)
{
    struct vmc_vmfs *v = m->to->v;
    uint64_t deadline = 0;
    struct vmc_error why;
    bool too_big;
    int rc;

    do {
        rc = shorten(m->to, m->aside, ASIDE_LEN, &why);
        if (rc == VMC_OK)
            rc = remove_once(m->to, m->aside, ASIDE_LEN, &too_big, &why);
    } while (vmci_fs_op_end(v, rc, &deadline));
    if (rc != VMC_OK && rc != VMC_ENOENT)
        vmci_log(v->pf, VMC_LOG_WARN, "vmfs", "the file that was replaced is left as %s: %s",
                 m->aside, why.text);
}

static int rename_path(struct vmc_vmfs *v, const char *from, const char *to, uint32_t flags,
                       struct vmc_error *err)
{
    struct move m = {0};
    int rc = walk(v, from, &m.from, &m.from_name, &m.from_len, err);

    if (rc != VMC_OK)
        return rc;
    rc = walk(v, to, &m.to, &m.to_name, &m.to_len, err);
    if (rc != VMC_OK) {
        vmci_fs_inode_put(m.from);
        return rc;
    }
    if (m.from_len == 0 || m.to_len == 0 || dots(m.from_name, m.from_len) ||
        dots(m.to_name, m.to_len))
        rc = vmci_error(err, VMC_EINVAL, site, "%s cannot become %s", from, to);
    if (rc == VMC_OK)
        rc = vmci_fs_inode_validate(m.from, true, err);
    if (rc == VMC_OK)
        rc = vmci_fs_inode_validate(m.to, true, err);
    if (rc == VMC_OK)
        rc = rename_once(&m, flags, err);
    if (rc == VMC_EAGAIN) {
        m.keep = true;
        rc = rename_once(&m, flags, err);
    }
    if (rc == VMC_OK && m.aside[0] != '\0')
        free_aside(&m);
    vmci_fs_inode_put(m.from);
    vmci_fs_inode_put(m.to);
    return rc;
}

int vmc_vmfs_rename(struct vmc_vmfs *v, const char *from, const char *to, uint32_t flags,
                    struct vmc_error *err)
{
    uint64_t deadline = 0;
    int rc;

    vmci_lock(&v->lock);
    do
        rc = rename_path(v, from, to, flags, err);
    while (vmci_fs_op_end(v, rc, &deadline));
    vmci_unlock(&v->lock);
    return rc;
}
