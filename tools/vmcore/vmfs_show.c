/* SPDX-License-Identifier: BSD-2-Clause */
/* mkfs, and the commands that only look: info, df, ls, tree, stat, fsck. */
#define _GNU_SOURCE
#include "json_add.h"
#include "vmfs_tool.h"

#include <errno.h>
#include <stdlib.h>
#include <fcntl.h>
#include <search.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- mkfs ----------------------------------------------------------------------------------- */

static struct vmc_vmfs_mkfs_config mkfs_config(const struct vt *t, const struct vmc_blockdev *devs,
                                               uint32_t count)
{
    return (struct vmc_vmfs_mkfs_config){.size = sizeof(struct vmc_vmfs_mkfs_config),
                                         .version = t->version,
                                         .experimental = t->experimental,
                                         .devs = devs,
                                         .dev_count = count,
                                         .label = t->label,
                                         .fds = t->fds,
                                         .block_bytes = (uint32_t)t->block,
                                         .partition = !t->no_partition};
}

/* The files that --size makes, while they are made. */
struct made {
    const char *path[VMC_VMFS_MAX_EXTENTS]; /* in text */
    int fd[VMC_VMFS_MAX_EXTENTS];
    struct stat st[VMC_VMFS_MAX_EXTENTS];
    bool fresh[VMC_VMFS_MAX_EXTENTS]; /* was not there before */
    bool grown[VMC_VMFS_MAX_EXTENTS]; /* is larger than before, and else as it was */
    unsigned count;
    char *text;
};

/* A file that is not there yet: it has a size, and nothing can be written to it. */
struct planned {
    uint64_t bytes;
    bool asked;
};

static int planned_info(void *ctx, struct vmc_block_info *out)
{
    const struct planned *p = ctx;

    *out = (struct vmc_block_info){.bytes = p->bytes, .sector_bytes = 512};
    return VMC_OK;
}

static int planned_submit(void *ctx, struct vmc_block_req *req)
{
    struct planned *p = ctx;

    p->asked = true;
    req->status = VMC_EIO;
    return VMC_BLOCK_COMPLETE;
}

/* Can such a volume be made? Formatting begins to write when it has checked everything. */
static int check_options(struct vt *t, unsigned count)
{
    static const struct vmc_blockdev_ops ops = {.info = planned_info, .submit = planned_submit};
    struct planned p = {.bytes = t->size};
    struct vmc_blockdev bd[VMC_VMFS_MAX_EXTENTS];

    for (unsigned i = 0; i < count; i++)
        bd[i] = (struct vmc_blockdev){.ops = &ops, .ctx = &p};
    struct vmc_vmfs_mkfs_config c = mkfs_config(t, bd, count);
    return vmc_vmfs_mkfs(&t->pf, &c, &t->err) == VMC_OK || p.asked ? 0 : vt_fail(t, t->arg[0]);
}

static int name_files(struct vt *t, struct made *m, const char *spec)
{
    char *save = NULL;

    m->text = strdup(spec);
    if (m->text == NULL)
        return EXIT_ERROR;
    for (char *p = strtok_r(m->text, ",", &save); p != NULL; p = strtok_r(NULL, ",", &save)) {
        if (m->count == VMC_VMFS_MAX_EXTENTS) {
            fprintf(stderr, "%s: more than %u extents\n", t->name, VMC_VMFS_MAX_EXTENTS);
            return EXIT_BAD_ARGS;
        }
        m->fd[m->count] = -1;
        m->path[m->count++] = p;
    }
    return 0;
}

/* What is there is not changed yet. */
static int open_file(const struct vt *t, struct made *m, unsigned i)
{
    struct stat *st = &m->st[i];
    const char *why = NULL;

    m->fd[i] = open(m->path[i], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    m->fresh[i] = m->fd[i] >= 0;
    if (m->fd[i] < 0 && errno == EEXIST && t->force)
        m->fd[i] = open(m->path[i], O_RDWR | O_CLOEXEC);
    if (m->fd[i] < 0)
        why = errno == EEXIST ? "File exists (--force overwrites it)" : strerror(errno);
    else if (fstat(m->fd[i], st) != 0 || !S_ISREG(st->st_mode))
        why = "not a file, its size cannot be set";
    for (unsigned k = 0; k < i && why == NULL; k++)
        if (st->st_dev == m->st[k].st_dev && st->st_ino == m->st[k].st_ino)
            why = "given twice";
    /* One that is too large for the file system is so before the old contents have gone. */
    if (why == NULL && (off_t)t->size > st->st_size) {
        m->grown[i] = ftruncate(m->fd[i], (off_t)t->size) == 0;
        if (!m->grown[i])
            why = strerror(errno);
    }
    if (why != NULL)
        fprintf(stderr, "%s: %s: %s\n", t->name, m->path[i], why);
    return why != NULL ? EXIT_ERROR : 0;
}

static int make_files(struct vt *t, struct made *m)
{
    int rc = name_files(t, m, t->arg[0]);

    if (rc == 0)
        rc = check_options(t, m->count);
    for (unsigned i = 0; i < m->count && rc == 0; i++)
        rc = open_file(t, m, i);
    for (unsigned i = 0; i < m->count && rc == 0; i++) {
        m->grown[i] = false;
        if (ftruncate(m->fd[i], 0) == 0 && ftruncate(m->fd[i], (off_t)t->size) == 0)
            continue;
        fprintf(stderr, "%s: %s: %s\n", t->name, m->path[i], strerror(errno));
        rc = EXIT_ERROR;
    }
    return rc;
}

/* Of a volume that could not be made nothing is left. */
static void end_files(struct made *m, int rc)
{
    for (unsigned i = 0; i < m->count; i++) {
        if (rc != 0 && m->grown[i])
            (void)!ftruncate(m->fd[i], m->st[i].st_size); /* the error was told */
        if (m->fd[i] >= 0)
            close(m->fd[i]);
        if (rc != 0 && m->fresh[i])
            unlink(m->path[i]);
    }
    free(m->text);
}

/* A volume that is there already is not lost by a slip of the hand. */
static int refuse_volume(struct vt *t)
{
    struct vmc_vmfs_mount_config c = {
        .size = sizeof(c), .flags = VMC_VMFS_RDONLY, .devs = t->bd, .dev_count = t->files};
    struct vmc_vmfs_info i;
    struct vmc_vmfs *v;

    if (vmc_vmfs_mount(&t->pf, &c, &v, NULL) != VMC_OK)
        return 0;
    vmc_vmfs_info(v, &i);
    fprintf(stderr, "%s: %s holds a volume, VMFS-%u.%02u \"%s\": --force overwrites it\n", t->name,
            t->arg[0], i.version, i.minor, vt_plain(i.label));
    (void)!vmc_vmfs_unmount(v, NULL); /* nothing was written */
    return EXIT_ERROR;
}

/* File systems and partition tables have something there. */
#define START_BYTES (1u << 20)

/* Nor is another file system, or whatever else begins there. */
static int refuse_contents(const struct vt *t)
{
    static char start[START_BYTES];
    char *text = strdup(t->arg[0]), *save = NULL;
    int rc = text != NULL ? 0 : EXIT_ERROR;

    for (char *p = rc == 0 ? strtok_r(text, ",", &save) : NULL; p != NULL && rc == 0;
         p = strtok_r(NULL, ",", &save)) {
        int fd = open(p, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? pread(fd, start, sizeof(start), 0) : -1, at = 0;
        if (n < 0) {
            fprintf(stderr, "%s: %s: %s\n", t->name, p, strerror(errno));
            rc = EXIT_ERROR;
        }
        while (at < n && start[at] == 0)
            at++;
        if (at < n) {
            fprintf(stderr, "%s: %s is not empty (byte %zd): --force overwrites it\n", t->name, p,
                    at);
            rc = EXIT_ERROR;
        }
        if (fd >= 0)
            close(fd);
    }
    free(text);
    return rc;
}

int vt_mkfs(struct vt *t)
{
    double start = vt_now();
    struct made m = {0};
    int rc = t->size != 0 ? make_files(t, &m) : 0;

    if (rc == 0)
        rc = vt_open_devices(t, t->arg[0], false);
    if (rc == 0 && t->size == 0 && !t->force)
        rc = refuse_volume(t);
    if (rc == 0 && t->size == 0 && !t->force)
        rc = refuse_contents(t);
    struct vmc_vmfs_mkfs_config c = mkfs_config(t, t->bd, t->files);
    if (rc == 0 && vmc_vmfs_mkfs(&t->pf, &c, &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[0]);
    end_files(&m, rc);
    if (rc == 0 && !t->quiet && !t->json)
        printf("VMFS%u on %u extent%s in %.2f s\n", t->version ? t->version : 5, t->files,
               t->files == 1 ? "" : "s", vt_now() - start);
    return vt_close(t, rc);
}

/* ---- info, df, fsck, ls, tree, stat ---------------------------------------------------------- */

static struct json_object *heartbeats(struct vt *t)
{
    struct json_object *a = json_object_new_array();
    struct vmc_vmfs_heartbeat hb;
    uint32_t cookie = 0;
    char uuid[VMC_VMFS_UUID_TEXT];

    while (vmc_vmfs_heartbeats(t->v, &cookie, &hb, &t->err) == 1) {
        if (!hb.in_use)
            continue;
        struct json_object *o = json_object_new_object();
        vmc_vmfs_uuid_text(&hb.owner, uuid);
        json_object_object_add(o, "slot", json_object_new_int((int)hb.slot));
        add_text(o, "host", hb.host_name);
        json_object_object_add(o, "uuid", json_object_new_string(uuid));
        json_object_object_add(o, "generation", json_object_new_int64((int64_t)hb.generation));
        json_object_object_add(o, "vmcore", json_object_new_boolean(hb.ours));
        json_object_object_add(
            o, "locks_by",
            hb.ours ? json_object_new_string(hb.bakery ? "bakery" : "compare-and-write") : NULL);
        json_object_object_add(o, "reserves", hb.ours ? json_object_new_boolean(hb.fenced) : NULL);
        json_object_array_add(a, o);
    }
    return a;
}

/* How hosts on this computer would keep each other out, by what the devices offer. */
struct locking {
    const char *name, *text;
};
static const struct locking by_scsi = {
    "scsi-compare-and-write", "by SCSI COMPARE AND WRITE: among all computers that have the disk"};
static const struct locking by_kernel = {"kernel-locks",
                                         "by locks of this computer's kernel: among its processes"};
static const struct locking by_bakery = {
    "bakery", "by turns of reads and writes: among all computers that have the disk, slow"};

static const struct locking *locking_of(const struct vt *t)
{
    const struct locking *l = &by_kernel;

    for (uint32_t i = 0; i < t->files; i++) {
        const char *how = t->disk[i] != NULL ? vmc_host_disk_compare_write(t->disk[i]) : "lock";
        if (how == NULL)
            return &by_bakery;
        if (strcmp(how, "scsi") == 0)
            l = &by_scsi;
    }
    return l;
}

int vt_info(struct vt *t)
{
    struct vmc_vmfs_info i;
    char fs[VMC_VMFS_UUID_TEXT], lvm[VMC_VMFS_UUID_TEXT], size[32], when[64];
    int rc = vt_mount(t, t->arg[0], VMC_VMFS_RDONLY);

    if (rc != 0)
        return rc;
    vmc_vmfs_info(t->v, &i);
    vmc_vmfs_uuid_text(&i.fs_uuid, fs);
    vmc_vmfs_uuid_text(&i.lvm_uuid, lvm);
    const struct locking *locking = locking_of(t);
    struct json_object *hosts = heartbeats(t);
    if (t->json) {
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "version", json_object_new_int((int)i.version));
        json_object_object_add(o, "major", json_object_new_int((int)i.major));
        json_object_object_add(o, "minor", json_object_new_int((int)i.minor));
        add_text(o, "label", i.label);
        json_object_object_add(o, "uuid", json_object_new_string(fs));
        json_object_object_add(o, "lvm_uuid", json_object_new_string(lvm));
        json_object_object_add(o, "bytes", json_object_new_int64((int64_t)i.total_bytes));
        json_object_object_add(o, "block_bytes", json_object_new_int64((int64_t)i.block_bytes));
        json_object_object_add(o, "sub_block_bytes", json_object_new_int64(i.sub_block_bytes));
        json_object_object_add(o, "extents", json_object_new_int((int)i.extents));
        json_object_object_add(o, "created", json_object_new_int64(i.created_s));
        json_object_object_add(o, "partition_offset",
                               json_object_new_int64((int64_t)i.partition_offset));
        json_object_object_add(o, "locks_by", json_object_new_string(locking->name));
        json_object_object_add(o, "hosts", hosts);
        vt_json(o);
        return vt_close(t, 0);
    }
    time_t created = i.created_s;
    struct tm tm;
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&created, &tm));
    printf("VMFS-%u.%02u \"%s\"\n", i.version, i.minor, vt_plain(i.label));
    printf("  UUID        %s\n  LVM UUID    %s\n  created     %s\n", fs, lvm, when);
    printf("  size        %s in %llu blocks of %s\n", vt_bytes(i.total_bytes, size, sizeof(size)),
           (unsigned long long)i.blocks, vt_bytes(i.block_bytes, when, sizeof(when)));
    printf("  sub-blocks  %s\n", vt_bytes(i.sub_block_bytes, size, sizeof(size)));
    printf("  extents     %u, partition at %llu\n", i.extents,
           (unsigned long long)i.partition_offset);
    printf("  locks       %s\n", locking->text);
    for (size_t k = 0; k < json_object_array_length(hosts); k++) {
        struct json_object *h = json_object_array_get_idx(hosts, k);
        char host[64];
        snprintf(host, sizeof(host), "%s",
                 json_object_get_string(json_object_object_get(h, "host")));
        const char *by = json_object_get_string(json_object_object_get(h, "locks_by"));
        printf("  in use by   %s (%s, slot %d, %s)\n", vt_plain(host),
               json_object_get_string(json_object_object_get(h, "uuid")),
               json_object_get_int(json_object_object_get(h, "slot")),
               by != NULL ? by : "other software");
    }
    json_object_put(hosts);
    return vt_close(t, 0);
}

static void usage_row(struct json_object *o, bool json, const char *name,
                      const struct vmc_vmfs_usage *u, uint64_t each)
{
    char a[32], b[32];

    if (json) {
        struct json_object *x = json_object_new_object();
        json_object_object_add(x, "total", json_object_new_int64((int64_t)u->total));
        json_object_object_add(x, "free", json_object_new_int64((int64_t)u->free));
        json_object_object_add(x, "bytes_each", json_object_new_int64((int64_t)each));
        json_object_object_add(o, name, x);
        return;
    }
    printf("%-17s %12llu %12llu %12llu %4u%%   %s free of %s\n", name, (unsigned long long)u->total,
           (unsigned long long)(u->total - u->free), (unsigned long long)u->free,
           u->total ? (unsigned)((u->total - u->free) * 100 / u->total) : 0,
           vt_bytes(u->free * each, a, sizeof(a)), vt_bytes(u->total * each, b, sizeof(b)));
}

int vt_df(struct vt *t)
{
    struct vmc_vmfs_space s;
    struct vmc_vmfs_info i;
    int rc = vt_mount(t, t->arg[0], VMC_VMFS_RDONLY);

    if (rc != 0)
        return rc;
    if (vmc_vmfs_space(t->v, &s, &t->err) != VMC_OK)
        return vt_close(t, vt_fail(t, NULL));
    vmc_vmfs_info(t->v, &i);
    struct json_object *o = t->json ? json_object_new_object() : NULL;
    if (!t->json)
        printf("%-17s %12s %12s %12s  use\n", "", "total", "used", "free");
    usage_row(o, t->json, "blocks", &s.blocks, i.block_bytes);
    usage_row(o, t->json, "sub_blocks", &s.sub_blocks, i.sub_block_bytes);
    usage_row(o, t->json, "files", &s.fds, i.version == 6 ? 8192 : 2048);
    usage_row(o, t->json, "pointer_blocks", &s.pointer_blocks, i.version == 6 ? 65536 : 4096);
    usage_row(o, t->json, "pointer_blocks2", &s.pointer_blocks2, i.version == 6 ? 65536 : 4096);
    if (t->json)
        vt_json(o);
    return vt_close(t, 0);
}

/* ---- files -------------------------------------------------------------------------------------
 */

static struct json_object *stat_json(const char *name, const struct vmc_vmfs_stat *st)
{
    struct json_object *o = json_object_new_object();

    add_text(o, "name", name);
    json_object_object_add(o, "type", json_object_new_string(vt_type_name(st->type)));
    json_object_object_add(o, "id", json_object_new_int64(st->id));
    json_object_object_add(o, "bytes", json_object_new_int64((int64_t)st->bytes));
    json_object_object_add(o, "mode", json_object_new_int((int)st->mode));
    json_object_object_add(o, "links", json_object_new_int((int)st->links));
    json_object_object_add(o, "uid", json_object_new_int64(st->uid));
    json_object_object_add(o, "gid", json_object_new_int64(st->gid));
    json_object_object_add(o, "mtime", json_object_new_int64(st->mtime_s));
    json_object_object_add(o, "ctime", json_object_new_int64(st->ctime_s));
    json_object_object_add(o, "atime", json_object_new_int64(st->atime_s));
    json_object_object_add(o, "block_bytes", json_object_new_int64((int64_t)st->block_bytes));
    json_object_object_add(o, "blocks", json_object_new_int64((int64_t)st->blocks));
    json_object_object_add(o, "tbz_blocks", json_object_new_int64((int64_t)st->tbz_blocks));
    json_object_object_add(o, "layout", json_object_new_int((int)st->layout));
    if (st->large_blocks != 0)
        json_object_object_add(o, "large_blocks", json_object_new_int64(st->large_blocks));
    json_object_object_add(o, "lv_offset", json_object_new_int64((int64_t)st->lv_offset));
    return o;
}

static void mode_text(const struct vmc_vmfs_stat *st, char *out)
{
    static const char letters[] = "rwxrwxrwx";

    out[0] = st->type == VMC_VMFS_DIR       ? 'd'
             : st->type == VMC_VMFS_SYMLINK ? 'l'
             : st->type == VMC_VMFS_SYSTEM  ? 's'
                                            : '-';
    for (unsigned i = 0; i < 9; i++)
        out[1 + i] = st->mode >> (8 - i) & 1 ? letters[i] : '-';
    out[10] = '\0';
}

static void join(char *out, size_t bytes, const char *dir, const char *name)
{
    snprintf(out, bytes, "%s%s%s", strcmp(dir, "/") == 0 ? "" : dir, "/", name);
}

static int show(struct vt *t, struct json_object *list, const char *dir, const char *name)
{
    struct vmc_vmfs_stat st;
    char path[VMC_VMFS_PATH_MAX + 256], mode[16], when[32], target[VMC_VMFS_PATH_MAX] = "";

    join(path, sizeof(path), dir, name);
    if (vmc_vmfs_stat(t->v, path, &st, &t->err) != VMC_OK)
        return vt_fail(t, path);
    if (st.type == VMC_VMFS_SYMLINK &&
        vmc_vmfs_readlink(t->v, path, target, sizeof(target), &t->err) < 0)
        return vt_fail(t, path);
    if (t->json) {
        struct json_object *o = stat_json(name, &st);
        if (*target)
            add_text(o, "target", target);
        json_object_array_add(list, o);
        return 0;
    }
    time_t mtime = st.mtime_s;
    struct tm tm;
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", gmtime_r(&mtime, &tm));
    mode_text(&st, mode);
    char shown[256];
    snprintf(shown, sizeof(shown), "%s", name);
    if (isatty(STDOUT_FILENO)) {
        vt_plain(shown);
        vt_plain(target);
    }
    printf("%s %3u %5u %5u %15llu %s %s%s%s\n", mode, st.links, st.uid, st.gid,
           (unsigned long long)st.bytes, when, shown, *target ? " -> " : "", target);
    return 0;
}

int vt_ls(struct vt *t)
{
    const char *path = t->args > 1 ? t->arg[1] : "/";
    struct vmc_vmfs_dirent d;
    uint64_t cookie = 0;
    int got, rc = vt_mount(t, t->arg[0], VMC_VMFS_RDONLY);

    if (rc != 0)
        return rc;
    struct json_object *list = t->json ? json_object_new_array() : NULL;
    /* A file that cannot be shown is told; the others are shown all the same. */
    while ((got = vmc_vmfs_readdir(t->v, path, &cookie, &d, &t->err)) == 1)
        if (strcmp(d.name, ".") != 0 && strcmp(d.name, "..") != 0 &&
            show(t, list, path, d.name) != 0)
            rc = EXIT_ERROR;
    if (got < 0)
        rc = vt_fail(t, path);
    if (t->json)
        vt_json(list);
    return vt_close(t, rc);
}

static int by_value(const void *a, const void *b)
{
    return (a > b) - (a < b);
}

/* False: it was there before. On a damaged volume a directory can be in itself, more than once. */
static bool first_time(void **seen, uint32_t dir)
{
    const void *key = (const void *)((uintptr_t)dir + 1);

    return tfind(key, seen, by_value) == NULL && tsearch(key, seen, by_value) != NULL;
}

static int tree(struct vt *t, const char *path, unsigned depth, void **seen,
                struct json_object *list)
{
    struct vmc_vmfs_dirent d;
    uint64_t cookie = 0;
    int got, failed = 0;

    if (depth > 64)
        return 0;
    while ((got = vmc_vmfs_readdir(t->v, path, &cookie, &d, &t->err)) == 1) {
        char *sub = malloc(VMC_VMFS_PATH_MAX + 256);
        int rc = 0;
        if (sub == NULL)
            return vt_fail(t, path);
        if (strcmp(d.name, ".") != 0 && strcmp(d.name, "..") != 0) {
            join(sub, VMC_VMFS_PATH_MAX + 256, path, d.name);
            if (t->json) {
                struct vmc_vmfs_stat st;
                rc = vmc_vmfs_stat(t->v, sub, &st, &t->err) != VMC_OK ? vt_fail(t, sub) : 0;
                if (rc == 0)
                    json_object_array_add(list, stat_json(sub, &st));
            } else {
                printf("%*s%s%s\n", (int)depth * 2, "",
                       isatty(STDOUT_FILENO) ? vt_plain(d.name) : d.name,
                       d.type == VMC_VMFS_DIR ? "/" : "");
            }
            if (rc == 0 && d.type == VMC_VMFS_DIR && !first_time(seen, d.id)) {
                fprintf(stderr, "%s: %s: a directory that is elsewhere too\n", t->name,
                        vt_plain(sub));
                rc = EXIT_ERROR;
            } else if (rc == 0 && d.type == VMC_VMFS_DIR) {
                rc = tree(t, sub, depth + 1, seen, list);
            }
        }
        free(sub);
        failed = rc != 0 ? rc : failed;
    }
    return got < 0 ? vt_fail(t, path) : failed;
}

static void keep(void *key)
{
    (void)key; /* it is a number */
}

int vt_tree(struct vt *t)
{
    int rc = vt_mount(t, t->arg[0], VMC_VMFS_RDONLY);
    void *seen = NULL;

    if (rc != 0)
        return rc;
    struct json_object *list = t->json ? json_object_new_array() : NULL;
    rc = tree(t, t->args > 1 ? t->arg[1] : "/", 0, &seen, list);
    tdestroy(seen, keep);
    if (t->json)
        vt_json(list);
    return vt_close(t, rc);
}

static const char *layout_name(uint32_t layout)
{
    switch (layout) {
    case 1:
        return "blocks";
    case 2:
        return "sub-blocks";
    case 3:
    case 5:
        return "pointer blocks";
    case 4304:
        return "two levels of pointer blocks";
    case 4305:
        return "inside the descriptor";
    default:
        return "none";
    }
}

static void show_time(const char *what, uint32_t s)
{
    time_t t = s;
    struct tm tm;
    char text[32];

    strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&t, &tm));
    printf("%-12s %s\n", what, text);
}

/* The same as --json says, for people. */
static void show_stat(const char *path, const struct vmc_vmfs_stat *st, const char *lock,
                      const char *holder)
{
    char mode[16], size[32], each[32];

    mode_text(st, mode);
    printf("%-12s %s\n%-12s %s, id 0x%08x, generation %u\n", "name", path, "type",
           vt_type_name(st->type), st->id, st->generation);
    printf("%-12s %s (%llu bytes)\n", "size", vt_bytes(st->bytes, size, sizeof(size)),
           (unsigned long long)st->bytes);
    printf("%-12s %llu of %s, %s", "blocks", (unsigned long long)st->blocks,
           vt_bytes(st->block_bytes, each, sizeof(each)), layout_name(st->layout));
    if (st->tbz_blocks != 0)
        printf(", %llu to be zeroed", (unsigned long long)st->tbz_blocks);
    if (st->large_blocks != 0)
        printf(", %u large ones", st->large_blocks);
    printf("\n%-12s %s (%04o), %u links, owner %u:%u\n", "mode", mode, st->mode, st->links, st->uid,
           st->gid);
    show_time("modified", st->mtime_s);
    show_time("changed", st->ctime_s);
    show_time("accessed", st->atime_s);
    printf("%-12s volume offset 0x%llx\n", "descriptor", (unsigned long long)st->lv_offset);
    printf("%-12s %s%s%s\n", "lock", lock, *holder ? ", " : "", holder);
}

int vt_stat(struct vt *t)
{
    struct vmc_vmfs_stat st;
    struct vmc_vmfs_lock lk;
    static const char *const modes[] = {"free", "exclusive", "read-only", "multi-writer"};
    int rc = vt_mount(t, t->arg[0], VMC_VMFS_RDONLY);

    if (rc != 0)
        return rc;
    if (vmc_vmfs_stat(t->v, t->arg[1], &st, &t->err) != VMC_OK ||
        vmc_vmfs_lock_query(t->v, t->arg[1], &lk, &t->err) != VMC_OK)
        return vt_close(t, vt_fail(t, t->arg[1]));
    if (!t->json) {
        show_stat(t->arg[1], &st, modes[lk.mode & 3], lk.mode != 0 ? vt_plain(lk.host_name) : "");
        return vt_close(t, 0);
    }
    struct json_object *o = stat_json(t->arg[1], &st), *l = json_object_new_object();
    json_object_object_add(l, "mode", json_object_new_string(modes[lk.mode & 3]));
    add_text(l, "host", lk.host_name);
    json_object_object_add(l, "token", json_object_new_int64((int64_t)lk.token));
    json_object_object_add(o, "lock", l);
    vt_json(o);
    return vt_close(t, 0);
}

#define FINDINGS_MAX 10000u /* in JSON; all are counted */

struct findings {
    struct json_object *list; /* NULL: print them */
};

static void finding(void *ctx, const char *text, bool repaired)
{
    struct findings *f = ctx;

    if (f->list == NULL) {
        char line[1024];
        snprintf(line, sizeof(line), "%s", text);
        printf("%s%s\n", vt_plain(line), repaired ? " (repaired)" : "");
        return;
    }
    if (json_object_array_length(f->list) >= FINDINGS_MAX)
        return;
    struct json_object *o = json_object_new_object();
    add_text(o, "text", text);
    add_bool(o, "repaired", repaired);
    json_object_array_add(f->list, o);
}

int vt_fsck(struct vt *t)
{
    struct findings f = {.list = t->json ? json_object_new_array() : NULL};
    struct vmc_vmfs_fsck_config c = {
        .size = sizeof(c), .repair = t->repair, .report = finding, .ctx = &f};
    struct vmc_vmfs_fsck_result r;
    double start = vt_now();
    int rc = vt_mount(t, t->arg[0], t->repair ? VMC_VMFS_REPAIR : VMC_VMFS_RDONLY);

    if (rc != 0)
        return rc;
    if (vmc_vmfs_fsck(t->v, &c, &r, &t->err) != VMC_OK)
        return vt_close(t, vt_fail(t, NULL));
    double s = vt_now() - start;
    struct json_object *left = t->json ? json_object_new_array() : NULL;
    vt_left_show(t, r.directories, left);
    if (t->json) {
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "findings", f.list);
        json_object_object_add(o, "left_over", left);
        json_object_object_add(o, "errors", json_object_new_int64((int64_t)r.errors));
        json_object_object_add(o, "repaired", json_object_new_int64((int64_t)r.repaired));
        json_object_object_add(o, "files", json_object_new_int64((int64_t)r.files));
        json_object_object_add(o, "directories", json_object_new_int64((int64_t)r.directories));
        json_object_object_add(o, "blocks_used", json_object_new_int64((int64_t)r.blocks_used));
        json_object_object_add(o, "blocks_lost", json_object_new_int64((int64_t)r.blocks_lost));
        json_object_object_add(o, "stale_locks", json_object_new_int64((int64_t)r.stale_locks));
        json_object_object_add(o, "seconds", json_object_new_double(s));
        vt_json(o);
    } else {
        printf("%llu files, %llu directories, %llu blocks in use, %llu lost, %llu stale locks; "
               "%llu errors, %llu repaired; %.2f s\n",
               (unsigned long long)r.files, (unsigned long long)r.directories,
               (unsigned long long)r.blocks_used, (unsigned long long)r.blocks_lost,
               (unsigned long long)r.stale_locks, (unsigned long long)r.errors,
               (unsigned long long)r.repaired, s);
    }
    return vt_close(t, r.errors > r.repaired ? EXIT_ERROR : 0);
}
