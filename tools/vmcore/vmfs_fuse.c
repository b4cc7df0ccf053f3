/* SPDX-License-Identifier: BSD-2-Clause */
/* "vmcore vmfs mount": FUSE 3, path based. */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 35
#include "vmfs_tool.h"

#include <errno.h>
#include <fuse.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

/* Of a directory: a volume has fewer files, a damaged one may show more. */
#define MOST_NAMES (1u << 20)

/* What the library said last on this thread. */
static __thread struct vmc_error why;

/* An open file. They are listed, so that all are closed when the mount ends with some open. */
struct handle {
    struct vmc_vmfs_file *f;
    struct handle *prev, *next;
};

static struct handle handles = {.prev = &handles, .next = &handles};
static pthread_mutex_t handles_lock = PTHREAD_MUTEX_INITIALIZER;

static struct vmc_vmfs_file *file_of(const struct fuse_file_info *fi)
{
    return ((struct handle *)(uintptr_t)fi->fh)->f;
}

static int close_handle(struct handle *h)
{
    pthread_mutex_lock(&handles_lock);
    h->prev->next = h->next;
    h->next->prev = h->prev;
    pthread_mutex_unlock(&handles_lock);
    int rc = vmc_vmfs_close(h->f, &why);
    free(h);
    return rc;
}

static struct vmc_vmfs *volume(void)
{
    return ((struct vt *)fuse_get_context()->private_data)->v;
}

static int err_of(int64_t rc)
{
    switch (rc) {
    case VMC_ENOENT:
        return -ENOENT;
    case VMC_EEXIST:
        return -EEXIST;
    case VMC_ENOMEM:
        return -ENOMEM;
    case VMC_ENOSPC:
        return -ENOSPC;
    case VMC_EBUSY:
        return -EBUSY;
    case VMC_EPERM:
        return -EROFS;
    case VMC_ERANGE:
        return -ENAMETOOLONG;
    case VMC_ELIMIT:
        return -EFBIG;
    case VMC_EINVAL:
        return -EINVAL;
    case VMC_ESTATE:
        return -ENOTEMPTY;
    case VMC_ENOTSUP:
        return -EOPNOTSUPP;
    default:
        if (rc >= 0)
            return 0;
        /* The number says nothing: whoever looks after the mount is told what happened. */
        fprintf(stderr, "vmcore vmfs mount: %s\n", vt_plain(why.text));
        return -EIO;
    }
}

static mode_t type_of(uint32_t type, uint32_t id)
{
    /* .sdd.sf; VMFS3 has none, and gives its number to any file. */
    bool folder = type == VMC_VMFS_SYSTEM && id == 0x01C00004;

    return type == VMC_VMFS_DIR || folder ? S_IFDIR : type == VMC_VMFS_SYMLINK ? S_IFLNK : S_IFREG;
}

static void to_stat(const struct vmc_vmfs_stat *s, struct stat *st)
{
    memset(st, 0, sizeof(*st));
    st->st_ino = s->id;
    st->st_mode = s->mode | type_of(s->type, s->id);
    st->st_nlink = s->links;
    st->st_uid = s->uid;
    st->st_gid = s->gid;
    st->st_size = (off_t)s->bytes;
    st->st_blksize = 4096;
    st->st_blocks = (blkcnt_t)(s->blocks * s->block_bytes / 512);
    st->st_mtime = s->mtime_s;
    st->st_ctime = s->ctime_s;
    st->st_atime = s->atime_s;
}

static int f_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
    struct vmc_vmfs_stat s;
    int rc = fi != NULL && fi->fh != 0 ? vmc_vmfs_fstat(file_of(fi), &s, &why)
                                       : vmc_vmfs_stat(volume(), path, &s, &why);

    if (rc == VMC_OK)
        to_stat(&s, st);
    return err_of(rc);
}

/*
 * All at once, which libfuse keeps until the directory is closed or rewound: a removed entry gives
 * its place to another one, which whoever removes what he reads would never see.
 */
static int f_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t off,
                     struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
    struct vmc_vmfs_dirent d;
    uint64_t cookie = 0;
    uint32_t n = 0;
    int rc;

    (void)off;
    (void)fi;
    (void)flags;
    while ((rc = vmc_vmfs_readdir(volume(), path, &cookie, &d, &why)) == 1) {
        /* Number and type, which are all that is used of it. */
        struct stat st = {.st_ino = d.id, .st_mode = type_of(d.type, d.id)};
        if (n++ == MOST_NAMES || fill(buf, d.name, &st, 0, 0) != 0)
            return -ENOMEM;
    }
    return err_of(rc);
}

static int f_mkdir(const char *path, mode_t mode)
{
    return err_of(vmc_vmfs_mkdir(volume(), path, mode & 07777, &why));
}

static int f_remove(const char *path)
{
    return err_of(vmc_vmfs_remove(volume(), path, &why));
}

static int f_unlink(const char *path)
{
    struct vmc_vmfs_stat s;
    int rc = vmc_vmfs_stat(volume(), path, &s, &why);

    if (rc == VMC_OK && s.type == VMC_VMFS_DIR)
        return -EISDIR;
    return rc == VMC_OK ? f_remove(path) : err_of(rc);
}

static int f_rename(const char *from, const char *to, unsigned flags)
{
    if (flags & ~1u) /* RENAME_NOREPLACE only */
        return -EINVAL;
    return err_of(
        vmc_vmfs_rename(volume(), from, to, flags & 1 ? VMC_VMFS_RENAME_NOREPLACE : 0, &why));
}

static int f_symlink(const char *target, const char *path)
{
    return err_of(vmc_vmfs_symlink(volume(), target, path, &why));
}

static int f_readlink(const char *path, char *buf, size_t bytes)
{
    int rc = vmc_vmfs_readlink(volume(), path, buf, bytes, &why);
    return rc < 0 ? err_of(rc) : 0;
}

static int f_chmod(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    struct vmc_vmfs_stat s = {.mode = mode & 07777};

    (void)fi;
    return err_of(vmc_vmfs_setattr(volume(), path, VMC_VMFS_SET_MODE, &s, &why));
}

static int f_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *fi)
{
    struct vmc_vmfs_stat s;
    int rc = vmc_vmfs_stat(volume(), path, &s, &why);

    (void)fi;
    if (rc != VMC_OK)
        return err_of(rc);
    s.uid = uid == (uid_t)-1 ? s.uid : uid;
    s.gid = gid == (gid_t)-1 ? s.gid : gid;
    return err_of(vmc_vmfs_setattr(volume(), path, VMC_VMFS_SET_OWNER, &s, &why));
}

static uint32_t time_of(const struct timespec *ts, uint32_t old)
{
    if (ts->tv_nsec == UTIME_OMIT)
        return old;
    int64_t s = ts->tv_nsec == UTIME_NOW ? time(NULL) : ts->tv_sec;
    /* From 1970 to 2106: other times become the nearest one. */
    return s < 0 ? 0 : s > UINT32_MAX ? UINT32_MAX : (uint32_t)s;
}

static int f_utimens(const char *path, const struct timespec tv[2], struct fuse_file_info *fi)
{
    struct vmc_vmfs_stat s;
    int rc = vmc_vmfs_stat(volume(), path, &s, &why);

    (void)fi;
    if (rc != VMC_OK)
        return err_of(rc);
    s.atime_s = time_of(&tv[0], s.atime_s);
    s.mtime_s = time_of(&tv[1], s.mtime_s);
    return err_of(vmc_vmfs_setattr(volume(), path, VMC_VMFS_SET_TIMES, &s, &why));
}

static int open_as(const char *path, struct fuse_file_info *fi, uint32_t flags)
{
    struct handle *h = malloc(sizeof(*h));

    if (h == NULL)
        return -ENOMEM;
    int rc = vmc_vmfs_open(volume(), path, flags, &h->f, &why);
    if (rc != VMC_OK) {
        free(h);
        return err_of(rc);
    }
    pthread_mutex_lock(&handles_lock);
    h->next = handles.next;
    h->prev = &handles;
    h->next->prev = handles.next = h;
    pthread_mutex_unlock(&handles_lock);
    fi->fh = (uintptr_t)h;
    fi->direct_io = (fi->flags & O_APPEND) != 0; /* see f_write */
    return 0;
}

static int f_open(const char *path, struct fuse_file_info *fi)
{
    bool cut = (fi->flags & O_TRUNC) != 0; /* nobody cuts it before */
    bool write = cut || (fi->flags & O_ACCMODE) != O_RDONLY;
    int rc =
        open_as(path, fi, write ? VMC_VMFS_READ | VMC_VMFS_WRITE : VMC_VMFS_READ | VMC_VMFS_NOLOCK);

    if (rc != 0 || !cut)
        return rc;
    rc = err_of(vmc_vmfs_truncate(file_of(fi), 0, &why));
    if (rc != 0)
        (void)close_handle((struct handle *)(uintptr_t)fi->fh); /* already failing */
    return rc;
}

static int f_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    int rc = vmc_vmfs_create(volume(), path, mode & 07777, &why);

    /* Another host may have made it since the kernel looked. */
    if (rc == VMC_EEXIST && (fi->flags & O_EXCL) == 0)
        return f_open(path, fi);
    return rc == VMC_OK ? open_as(path, fi, VMC_VMFS_READ | VMC_VMFS_WRITE) : err_of(rc);
}

static int f_release(const char *path, struct fuse_file_info *fi)
{
    (void)path;
    return err_of(close_handle((struct handle *)(uintptr_t)fi->fh));
}

static int f_read(const char *path, char *buf, size_t n, off_t off, struct fuse_file_info *fi)
{
    int64_t got = vmc_vmfs_pread(file_of(fi), buf, n, (uint64_t)off, &why);
    (void)path;
    return got < 0 ? err_of(got) : (int)got;
}

static int f_write(const char *path, const char *buf, size_t n, off_t off,
                   struct fuse_file_info *fi)
{
    int64_t got = VMC_OK;
    struct vmc_vmfs_stat s;

    (void)path;
    /*
     * The kernel's end of the file is of before the open, which may have waited for a host that
     * wrote; nor may it keep pages of where it took the data to go. From the open on no other host
     * writes, and the kernel lets one thread at a time append.
     */
    if ((fi->flags & O_APPEND) != 0 && !fi->writepage) {
        got = vmc_vmfs_fstat(file_of(fi), &s, &why);
        off = got == VMC_OK ? (off_t)s.bytes : off;
    }
    if (got == VMC_OK)
        got = vmc_vmfs_pwrite(file_of(fi), buf, n, (uint64_t)off, &why);
    return got < 0 ? err_of(got) : (int)got;
}

static int f_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
    struct vmc_vmfs_file *f;

    if (fi != NULL && fi->fh != 0)
        return err_of(vmc_vmfs_truncate(file_of(fi), (uint64_t)size, &why));
    int rc = vmc_vmfs_open(volume(), path, VMC_VMFS_WRITE, &f, &why);
    if (rc != VMC_OK)
        return err_of(rc);
    rc = vmc_vmfs_truncate(f, (uint64_t)size, &why);
    int rc2 = vmc_vmfs_close(f, &why);
    return err_of(rc != VMC_OK ? rc : rc2);
}

static int f_fallocate(const char *path, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
    struct vmc_vmfs_file *f = file_of(fi);

    (void)path;
    if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
        return err_of(vmc_vmfs_punch(f, (uint64_t)off, (uint64_t)len, &why));
    if (mode != 0)
        return -EOPNOTSUPP;
    return err_of(vmc_vmfs_allocate(f, (uint64_t)off, (uint64_t)len, VMC_VMFS_ALLOC_LAZY, &why));
}

static int f_fsync(const char *path, int data, struct fuse_file_info *fi)
{
    (void)path;
    (void)data;
    return err_of(vmc_vmfs_fsync(file_of(fi), &why));
}

/* Names are in the journal once their calls are back; whether it is on the disk, a flush says. */
static int f_fsyncdir(const char *path, int data, struct fuse_file_info *fi)
{
    (void)path;
    (void)data;
    (void)fi;
    return err_of(vmc_vmfs_sync(volume(), &why));
}

static int f_statfs(const char *path, struct statvfs *out)
{
    struct vmc_vmfs_space s;
    struct vmc_vmfs_info i;
    int rc = vmc_vmfs_space(volume(), &s, &why);

    (void)path;
    vmc_vmfs_info(volume(), &i);
    memset(out, 0, sizeof(*out));
    out->f_bsize = out->f_frsize = i.block_bytes;
    out->f_blocks = s.blocks.total;
    out->f_bfree = out->f_bavail = s.blocks.free;
    out->f_files = s.fds.total;
    out->f_ffree = out->f_favail = s.fds.free;
    out->f_namemax = VMC_VMFS_NAME_MAX;
    return err_of(rc);
}

static void *f_init(struct fuse_conn_info *conn, struct fuse_config *cfg)
{
    (void)conn;
    /* Other hosts may change the volume: nothing is cached above us. */
    cfg->kernel_cache = 0;
    cfg->attr_timeout = cfg->entry_timeout = 0;
    cfg->use_ino = 1;
    cfg->nullpath_ok = 0;
    return fuse_get_context()->private_data;
}

static const struct fuse_operations operations = {
    .init = f_init,
    .getattr = f_getattr,
    .readdir = f_readdir,
    .mkdir = f_mkdir,
    .unlink = f_unlink,
    .rmdir = f_remove,
    .rename = f_rename,
    .symlink = f_symlink,
    .readlink = f_readlink,
    .chmod = f_chmod,
    .chown = f_chown,
    .utimens = f_utimens,
    .open = f_open,
    .create = f_create,
    .release = f_release,
    .read = f_read,
    .write = f_write,
    .truncate = f_truncate,
    .fallocate = f_fallocate,
    .fsync = f_fsync,
    .fsyncdir = f_fsyncdir,
    .statfs = f_statfs,
};

#define MOUNT_OPTIONS "fsname=vmfs,subtype=vmcore,default_permissions"

/*
 * What fuse_main() does, but for the files that are still open: they are closed before libfuse
 * removes those of them that have lost their names, which it keeps under hidden ones until then.
 */
static int serve(struct vt *t, const char *folder)
{
    const char *argv[] = {t->name, "-o", t->read_only ? MOUNT_OPTIONS ",ro" : MOUNT_OPTIONS, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, (char **)(uintptr_t)argv);
    struct fuse_loop_config threads = {.max_idle_threads = 10};
    struct fuse *f = fuse_new(&args, &operations, sizeof(operations), t);
    int rc = EXIT_ERROR;

    if (f != NULL && fuse_mount(f, folder) == 0) {
        /* In the foreground: the process that keeps the lease is the one that was started. */
        if (fuse_daemonize(1) == 0 && fuse_set_signal_handlers(fuse_get_session(f)) == 0) {
            rc = fuse_loop_mt(f, &threads) == 0 ? 0 : EXIT_ERROR;
            fuse_remove_signal_handlers(fuse_get_session(f));
        }
        fuse_unmount(f);
    }
    while (handles.next != &handles)
        (void)close_handle(handles.next); /* their data are written */
    if (f != NULL)
        fuse_destroy(f);
    fuse_opt_free_args(&args);
    return rc;
}

int vt_mount_fuse(struct vt *t)
{
    t->may_read_only = true;
    int rc = vt_mount(t, t->arg[0], 0);
    if (rc != 0)
        return rc;
    char *folder = realpath(t->arg[1], NULL);
    if (folder == NULL) {
        fprintf(stderr, "vmcore vmfs mount: %s: %s\n", t->arg[1], strerror(errno));
        return vt_close(t, EXIT_ERROR);
    }
    rc = serve(t, folder);
    free(folder);
    return vt_close(t, rc);
}
