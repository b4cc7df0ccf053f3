/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands on disks. */
#define _GNU_SOURCE
#include "disk_cmd.h"
#include "json_add.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK (4u << 20)

static int open_place(struct disk_cmd *c, struct disk_place *p, unsigned arg)
{
    return disk_place_open(p, &c->volumes, c->vt.name, c->vt.arg[arg], &c->vt);
}

/* What a library call said, or nothing. */
static int done(struct disk_cmd *c, struct disk_place *p, int rc)
{
    if (rc != VMC_OK && c->vt.err.text[0] == '\0')
        snprintf(c->vt.err.text, sizeof(c->vt.err.text), "%s", vmc_strerror(rc));
    if (rc != VMC_OK)
        rc = vt_fail(&c->vt, NULL);
    disk_place_close(p);
    return rc;
}

static int size_arg(struct disk_cmd *c, uint64_t *bytes)
{
    if (vt_parse_size(c->vt.arg[1], bytes) && *bytes > 0)
        return 0;
    fprintf(stderr, "%s: '%s' is no size; write it as 10G, 512M or in bytes\n", c->vt.name,
            c->vt.arg[1]);
    return EXIT_BAD_ARGS;
}

static void report(void *ctx, uint64_t at, uint64_t total)
{
    struct disk_cmd *c = ctx;

    vt_progress(&c->vt, strrchr(c->vt.name, ' ') + 1, at, total, c->since);
}

int disk_create(struct disk_cmd *c)
{
    struct disk_place p;
    uint64_t bytes;
    int rc = size_arg(c, &bytes);

    if (rc == 0)
        rc = open_place(c, &p, 0);
    if (rc != 0)
        return rc;
    return done(c, &p, vmc_disk_create(&c->vt.pf, &p.files, p.name, bytes, c->kind, &c->vt.err));
}

int disk_snapshot(struct disk_cmd *c)
{
    struct disk_place p;
    int rc = open_place(c, &p, 0);

    if (rc != 0)
        return rc;
    return done(c, &p,
                vmc_disk_snapshot(&c->vt.pf, &p.files, p.name, c->vt.arg[1], c->log, &c->vt.err));
}

int disk_revert(struct disk_cmd *c)
{
    struct disk_place p;
    int rc = open_place(c, &p, 0);

    if (rc != 0)
        return rc;
    return done(c, &p, vmc_disk_revert(&c->vt.pf, &p.files, p.name, &c->vt.err));
}

int disk_clone(struct disk_cmd *c)
{
    struct vmc_disk_progress progress = {.report = report, .ctx = c};
    struct disk_place p, q;
    int rc = open_place(c, &p, 0);

    if (rc == 0 && (rc = open_place(c, &q, 1)) != 0)
        disk_place_close(&p);
    if (rc != 0)
        return rc;
    c->since = vt_now();
    rc = vmc_disk_clone(&c->vt.pf, &p.files, p.name, &q.files, q.name, c->kind, &progress,
                        &c->vt.err);
    rc = done(c, &q, rc);
    disk_place_close(&p);
    return rc;
}

int disk_grow(struct disk_cmd *c)
{
    struct disk_place p;
    uint64_t bytes;
    int rc = size_arg(c, &bytes);

    if (rc == 0)
        rc = open_place(c, &p, 0);
    if (rc != 0)
        return rc;
    return done(c, &p, vmc_disk_grow(&c->vt.pf, &p.files, p.name, bytes, &c->vt.err));
}

/* Whatever rewrites a whole disk, with progress. */
static int rewrite(struct disk_cmd *c,
                   int (*fn)(const struct vmc_platform *, const struct vmc_disk_files *,
                             const char *, const struct vmc_disk_progress *, struct vmc_error *))
{
    struct vmc_disk_progress progress = {.report = report, .ctx = c};
    struct disk_place p;
    int rc = open_place(c, &p, 0);

    if (rc != 0)
        return rc;
    c->since = vt_now();
    return done(c, &p, fn(&c->vt.pf, &p.files, p.name, &progress, &c->vt.err));
}

int disk_commit(struct disk_cmd *c)
{
    return rewrite(c, vmc_disk_commit);
}

int disk_compress(struct disk_cmd *c)
{
    return rewrite(c, vmc_disk_compress);
}

int disk_expand(struct disk_cmd *c)
{
    return rewrite(c, vmc_disk_expand);
}

int disk_check(struct disk_cmd *c)
{
    struct vmc_disk_progress progress = {.report = report, .ctx = c};
    struct disk_place p;
    struct vmc_disk *d;
    uint64_t bad = 0;
    int rc = open_place(c, &p, 0);

    if (rc != 0)
        return rc;
    c->since = vt_now();
    rc = vmc_disk_open(&c->vt.pf, &p.files, p.name, false, &d, &c->vt.err);
    if (rc != VMC_OK)
        return done(c, &p, rc);
    rc = vmc_disk_check(d, &bad, &progress);
    int rc2 = vmc_disk_close(d);
    rc = done(c, &p, rc != VMC_OK ? rc : rc2);
    if (rc == 0)
        printf("%s: %llu damaged\n", c->vt.arg[0], (unsigned long long)bad);
    return rc == 0 && bad != 0 ? EXIT_ERROR : rc;
}

int disk_rm(struct disk_cmd *c)
{
    struct disk_place p;
    int rc = open_place(c, &p, 0);

    if (rc != 0)
        return rc;
    return done(c, &p, vmc_disk_remove(&c->vt.pf, &p.files, p.name, &c->vt.err));
}

int disk_rdm(struct disk_cmd *c)
{
    struct disk_place p;
    char *device = realpath(c->vt.arg[1], NULL);

    if (device == NULL) {
        fprintf(stderr, "%s: %s: %s\n", c->vt.name, c->vt.arg[1], strerror(errno));
        return EXIT_ERROR;
    }
    c->vt.rdm = device;
    int rc = open_place(c, &p, 0);
    if (rc == 0)
        rc = done(c, &p,
                  vmc_disk_map_raw(&c->vt.pf, &p.files, p.name, device, c->physical, &c->vt.err));
    free(device);
    return rc;
}

/* ---- what there is -----------------------------------------------------------------------------
 */

static const char *format_name(uint32_t format)
{
    static const char *const names[] = {"",    "flat",         "cowd",  "sesparse",
                                        "rdm", "rdm-physical", "packed"};

    return format < sizeof(names) / sizeof(names[0]) ? names[format] : "?";
}

static void add_string(struct json_object *o, const char *key, const char *value)
{
    add_text(o, key, value);
}

static struct json_object *layer_json(const struct vmc_disk_layer *l)
{
    struct json_object *o = json_object_new_object();
    char cid[16];

    add_string(o, "name", l->name);
    add_string(o, "format", format_name(l->format));
    add_string(o, "extent", l->extent);
    json_object_object_add(o, "file_bytes", json_object_new_int64((int64_t)l->file_bytes));
    json_object_object_add(o, "thin", json_object_new_boolean(l->thin));
    snprintf(cid, sizeof(cid), "%08x", l->cid);
    add_string(o, "cid", cid);
    snprintf(cid, sizeof(cid), "%08x", l->parent_cid);
    add_string(o, "parent_cid", cid);
    if (l->device[0] != '\0')
        add_string(o, "device", l->device);
    return o;
}

/* Its names come from the descriptor. */
static void layer_text(struct vmc_disk_layer *l)
{
    char bytes[32];

    printf("  %-24s %-12s %-28s %s%s%s%s\n", vt_plain(l->name), format_name(l->format),
           vt_plain(l->extent), vt_bytes(l->file_bytes, bytes, sizeof(bytes)),
           l->thin ? ", thin" : "", l->device[0] != '\0' ? ", device " : "", vt_plain(l->device));
}

int disk_info(struct disk_cmd *c)
{
    struct disk_place p;
    struct vmc_disk *d;
    struct vmc_block_info info = {0};
    struct vmc_disk_layer l;
    char bytes[32], holder[sizeof(c->vt.err.text)];
    int rc = open_place(c, &p, 0);

    if (rc != 0)
        return rc;
    rc = vmc_disk_open(&c->vt.pf, &p.files, p.name, false, &d, &c->vt.err);
    bool in_use = rc == VMC_EBUSY;
    if (in_use)
        memcpy(holder, c->vt.err.text, sizeof(holder));
    if (in_use || rc == VMC_EPERM) /* a mapping of a device that nobody needs for this */
        rc = vmc_disk_peek(&c->vt.pf, &p.files, p.name, &d, &c->vt.err);
    if (rc != VMC_OK)
        return done(c, &p, rc);
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    rc = bd.ops->info(bd.ctx, &info);
    struct json_object *o = json_object_new_object(), *chain = json_object_new_array();
    json_object_object_add(o, "bytes", json_object_new_int64((int64_t)info.bytes));
    json_object_object_add(o, "in_use", json_object_new_boolean(in_use));
    if (in_use)
        add_string(o, "holder", holder);
    json_object_object_add(o, "chain", chain);
    if (!c->vt.json)
        printf("%s: %s (%llu bytes), %u file%s in the chain\n", p.name,
               vt_bytes(info.bytes, bytes, sizeof(bytes)), (unsigned long long)info.bytes,
               vmc_disk_depth(d), vmc_disk_depth(d) == 1 ? "" : "s");
    if (in_use && !c->vt.json)
        printf("  in use: %s\n", vt_plain(holder));
    for (uint32_t i = 0; vmc_disk_layer(d, i, &l) == VMC_OK; i++) {
        if (c->vt.json)
            json_object_array_add(chain, layer_json(&l));
        else
            layer_text(&l);
    }
    if (c->vt.json)
        vt_json(o);
    else
        json_object_put(o);
    int rc2 = vmc_disk_close(d);
    return done(c, &p, rc != VMC_OK ? rc : rc2);
}

/* ---- images of the host ------------------------------------------------------------------------
 */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
};

static void finished(struct vmc_block_req *r)
{
    struct waiter *w = r->opaque;

    pthread_mutex_lock(&w->lock);
    w->done = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static int io(struct disk_cmd *c, struct vmc_blockdev bd, uint32_t op, uint64_t at, void *buf,
              size_t n)
{
    struct waiter w = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct vmc_iovec iov = {.base = buf, .bytes = n};
    struct vmc_block_req r = {.op = op,
                              .flags = VMC_BLOCK_WAITED,
                              .offset = at,
                              .bytes = n,
                              .iov = &iov,
                              .iov_count = buf != NULL,
                              .done = finished,
                              .opaque = &w};

    if (bd.ops->submit(bd.ctx, &r) == VMC_BLOCK_PENDING) {
        if (bd.ops->kick != NULL)
            bd.ops->kick(bd.ctx);
        pthread_mutex_lock(&w.lock);
        while (!w.done)
            pthread_cond_wait(&w.changed, &w.lock);
        pthread_mutex_unlock(&w.lock);
    }
    if (r.status == VMC_OK)
        return 0;
    fprintf(stderr, "%s: %s at offset %llu: %s\n", c->vt.name,
            op == VMC_BLOCK_READ ? "read" : "write", (unsigned long long)at,
            vmc_strerror(r.status));
    return EXIT_ERROR;
}

/* Zeros over what an image has holes for. */
static int erase(struct disk_cmd *c, struct vmc_blockdev bd, uint64_t at, uint64_t bytes)
{
    uint64_t whole = (bytes + 511) / 512 * 512;

    return bytes == 0 ? 0 : io(c, bd, VMC_BLOCK_WRITE_ZEROES, at, NULL, whole);
}

/* fresh: the disk is all zeros. */
static int import_data(struct disk_cmd *c, int fd, uint64_t size, struct vmc_blockdev bd,
                       bool fresh)
{
    char *buf = aligned_alloc(4096, CHUNK);
    off_t at = 0, end, was = 0;
    int rc = buf == NULL ? EXIT_ERROR : 0;

    c->since = vt_now();
    while (rc == 0 && vt_next_data(fd, &at, &end, (off_t)size)) {
        if (!fresh)
            rc = erase(c, bd, (uint64_t)was, (uint64_t)(at - was));
        was = end;
        for (; rc == 0 && at < end;) {
            size_t want = (size_t)(end - at < (off_t)CHUNK ? end - at : (off_t)CHUNK);
            ssize_t n = pread(fd, buf, want, at);
            if (n < 0 || (n == 0 && at < (off_t)size)) {
                fprintf(stderr, "%s: read: %s\n", c->vt.name,
                        n < 0 ? strerror(errno) : "short file");
                rc = EXIT_ERROR;
                break;
            }
            size_t whole = ((size_t)n + 511) / 512 * 512; /* the disk ends with a whole sector */
            memset(buf + n, 0, whole - (size_t)n);
            if (!fresh || !vt_all_zero(buf, (size_t)n))
                rc = io(c, bd, VMC_BLOCK_WRITE, (uint64_t)at, buf, whole);
            at += n;
            report(c, (uint64_t)at, size);
            if (rc == 0 && vt_stopped(&c->vt))
                rc = EXIT_ERROR;
        }
    }
    free(buf);
    if (rc == 0 && !fresh && (uint64_t)was < size)
        rc = erase(c, bd, (uint64_t)was, size - (uint64_t)was);
    return rc == 0 ? io(c, bd, VMC_BLOCK_FLUSH, 0, NULL, 0) : rc;
}

static int import_raw(struct disk_cmd *c, const char *path)
{
    struct disk_place p;
    struct vmc_disk *d;
    off_t end;
    int fd, rc = vt_open_host(&c->vt, path, &fd, &end);

    if (rc != 0)
        return rc;
    rc = open_place(c, &p, 1);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    uint64_t size = (uint64_t)end;
    vt_stop_watch();
    rc =
        vmc_disk_create(&c->vt.pf, &p.files, p.name, (size + 511) / 512 * 512, c->kind, &c->vt.err);
    bool made = rc == VMC_OK;
    if (rc == VMC_OK)
        rc = vmc_disk_open(&c->vt.pf, &p.files, p.name, true, &d, &c->vt.err);
    int status = rc == VMC_OK ? import_data(c, fd, size, vmc_disk_blockdev(d), true) : 0;
    if (rc == VMC_OK)
        rc = vmc_disk_close(d);
    close(fd);
    if (made && (rc != VMC_OK || status != 0))
        (void)!vmc_disk_remove(&c->vt.pf, &p.files, p.name, NULL); /* already failing */
    rc = done(c, &p, rc);
    return status != 0 ? status : rc;
}

static int write_raw(struct disk_cmd *c, const char *path)
{
    struct vmc_block_info info = {0};
    struct disk_place p;
    struct vmc_disk *d;
    off_t end;
    int fd, rc = vt_open_host(&c->vt, path, &fd, &end);

    if (rc != 0)
        return rc;
    rc = open_place(c, &p, 1);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    uint64_t size = (uint64_t)end;
    rc = vmc_disk_open(&c->vt.pf, &p.files, p.name, true, &d, &c->vt.err);
    int status = 0;
    if (rc == VMC_OK) {
        struct vmc_blockdev bd = vmc_disk_blockdev(d);
        if (bd.ops->info(bd.ctx, &info) != VMC_OK || info.bytes < size) {
            fprintf(stderr, "%s: %s does not fit the disk of %llu bytes\n", c->vt.name,
                    c->vt.arg[0], (unsigned long long)info.bytes);
            status = EXIT_ERROR;
        } else {
            status = import_data(c, fd, size, bd, false);
        }
        rc = vmc_disk_close(d);
    }
    close(fd);
    rc = done(c, &p, rc);
    return status != 0 ? status : rc;
}

/* What use does with an image, in whatever format it is. */
static int with_raw(struct disk_cmd *c, int (*use)(struct disk_cmd *c, const char *path))
{
    char temp[512];

    int rc = c->vt.format == NULL ? disk_refuse_format(c->vt.name, c->vt.arg[0], "'-O raw'") : 0;
    if (rc != 0)
        return rc;
    if (c->vt.format == NULL || strcmp(c->vt.format, "raw") == 0)
        return use(c, c->vt.arg[0]);
    rc = vt_temp_name(&c->vt, temp, sizeof(temp));
    if (rc != 0)
        return rc;
    rc = vt_convert(&c->vt, c->vt.format, c->vt.arg[0], "raw", temp);
    if (rc == 0)
        rc = use(c, temp);
    unlink(temp);
    return rc;
}

int disk_import(struct disk_cmd *c)
{
    return with_raw(c, import_raw);
}

int disk_write(struct disk_cmd *c)
{
    return with_raw(c, write_raw);
}

static int export_data(struct disk_cmd *c, struct vmc_disk *d, uint64_t bytes, int fd, bool device)
{
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    char *buf = aligned_alloc(4096, CHUNK);
    int rc = buf == NULL ? EXIT_ERROR : 0;

    c->since = vt_now();
    for (uint64_t at = 0, data = 1; rc == 0 && data != 0 && at < bytes;) {
        uint64_t from = at;
        int status = vmc_disk_next_data(d, &at, &data);
        if (status != VMC_OK) {
            fprintf(stderr, "%s: %s at offset %llu: %s\n", c->vt.name, c->vt.arg[0],
                    (unsigned long long)at, vmc_strerror(status));
            rc = EXIT_ERROR;
            break;
        }
        if (device)
            rc = vt_out_zeros(&c->vt, fd, from, at);
        size_t n = (size_t)(data < CHUNK ? data : CHUNK);
        if (rc == 0 && n != 0)
            rc = io(c, bd, VMC_BLOCK_READ, at, buf, n);
        if (rc == 0 && (device || !vt_all_zero(buf, n)))
            rc = vt_write_all(&c->vt, fd, buf, n, (off_t)at, true);
        at += n;
        report(c, at, bytes);
        if (rc == 0 && vt_stopped(&c->vt))
            rc = EXIT_ERROR;
    }
    free(buf);
    return rc;
}

static int export_raw(struct disk_cmd *c, const char *to)
{
    struct disk_place p;
    struct vmc_disk *d;
    struct vmc_block_info info;
    bool device;
    int status = open_place(c, &p, 0);

    if (status != 0)
        return status;
    int rc = vmc_disk_open(&c->vt.pf, &p.files, p.name, false, &d, &c->vt.err);
    if (rc != VMC_OK)
        return done(c, &p, rc);
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    rc = bd.ops->info(bd.ctx, &info);
    if (rc == VMC_OK) {
        int fd = vt_out_open(&c->vt, to, info.bytes, &device);
        status = fd < 0 ? EXIT_ERROR
                        : vt_out_close(&c->vt, to, fd, device,
                                       export_data(c, d, info.bytes, fd, device));
    }
    int closed = vmc_disk_close(d);
    rc = done(c, &p, rc != VMC_OK ? rc : closed);
    return status != 0 ? status : rc;
}

int disk_export(struct disk_cmd *c)
{
    char temp[512];
    struct vt_new_host out;
    int rc = vt_new_host(&c->vt, &out, c->vt.arg[1]);

    if (rc != 0)
        return rc;
    if (c->vt.format == NULL || strcmp(c->vt.format, "raw") == 0)
        return vt_new_host_end(&c->vt, &out, export_raw(c, out.path));
    rc = vt_temp_name(&c->vt, temp, sizeof(temp));
    if (rc == 0) {
        rc = export_raw(c, temp);
        if (rc == 0)
            rc = vt_convert(&c->vt, "raw", temp, c->vt.format, out.path);
        unlink(temp);
    }
    return vt_new_host_end(&c->vt, &out, rc);
}
