/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files on VMFS volumes: disks of guests, and what they boot from. A request for allocated space of
 * a flat disk is one look-up and goes to the machine's disk with the guest's own memory, on the
 * processor of the guest; everything else is left to the fiber of the volume.
 */
#include "hv_volume.h"

#define CONFIG_MAX (256u << 10)

struct hv_vmdk {
    struct hv_volume *v;
    const struct hv_guest *g;
    const char *spec, *path;
    struct vmc_disk *disk;
    struct vmc_blockdev below;
    struct vmc_disk_vmfs folder;
    uint32_t id[VMC_DISK_DEPTH_MAX]; /* of the files of its chain; the first is the one written */
    uint32_t ids;
    bool read_only;
    struct vmc_error err;
    char dir[HV_TEXT];
};

/* ---- the device ---------------------------------------------------------------------------------
 */

static int vmdk_info(void *ctx, struct vmc_block_info *out)
{
    struct hv_vmdk *d = ctx;
    return d->below.ops->info(d->below.ctx, out);
}

static int vmdk_submit(void *ctx, struct vmc_block_req *r)
{
    struct hv_vmdk *d = ctx;

    r->flags |= VMC_BLOCK_NOWAIT;
    if (d->below.ops->submit(d->below.ctx, r) == VMC_BLOCK_PENDING)
        return VMC_BLOCK_PENDING;
    if (r->status != VMC_EAGAIN)
        return VMC_BLOCK_COMPLETE;
    r->flags &= ~VMC_BLOCK_NOWAIT;
    hv_volume_defer(d->v, r, &d->below);
    return VMC_BLOCK_PENDING;
}

static void vmdk_kick(void *ctx)
{
    struct hv_vmdk *d = ctx;

    if (d->below.ops->kick != NULL)
        d->below.ops->kick(d->below.ctx);
}

static const struct vmc_blockdev_ops vmdk_ops = {
    .info = vmdk_info, .submit = vmdk_submit, .kick = vmdk_kick};

/* ---- opening ------------------------------------------------------------------------------------
 */

/* "/a/b.vmdk": "/a" into dir, "b.vmdk" returned. */
static const char *split(const char *path, char *dir, size_t room)
{
    size_t n = 0;

    for (size_t i = 0; path[i] != 0; i++)
        if (path[i] == '/')
            n = i;
    hv_strcpy(dir, room, path);
    if (n < room)
        dir[n > 0 ? n : 1] = 0;
    return path + n + 1;
}

/* The path of a layer's extent, which is named as seen from its descriptor. */
static void extent_path(const struct hv_vmdk *d, const struct vmc_disk_layer *l, char *out,
                        size_t room)
{
    size_t n = 0;

    if (l->extent[0] == '/') {
        hv_strcpy(out, room, l->extent);
        return;
    }
    vmc_bm_snprintf(out, room, "%s/%s", l->name[0] == '/' ? "" : d->dir, l->name);
    for (size_t i = 0; out[i] != 0; i++)
        if (out[i] == '/')
            n = i + 1;
    hv_strcpy(out + n, room - n, l->extent);
}

static int find_ids(struct hv_vmdk *d)
{
    struct vmc_disk_layer l;
    struct vmc_vmfs_stat st;
    char path[HV_TEXT + 2 * VMC_DISK_NAME_MAX];
    int rc = VMC_OK;

    for (; rc == VMC_OK && d->ids < vmc_disk_depth(d->disk); d->ids++) {
        rc = vmc_disk_layer(d->disk, d->ids, &l);
        extent_path(d, &l, path, sizeof(path));
        if (rc == VMC_OK)
            rc = vmc_vmfs_stat(d->v->fs, path, &st, &d->err);
        d->id[d->ids] = st.id;
    }
    return rc;
}

static int do_close(void *arg)
{
    struct hv_vmdk *d = arg;
    return vmc_disk_close(d->disk);
}

static int do_open(void *arg)
{
    struct hv_vmdk *d = arg;

    if (hv_strlen(d->path) >= sizeof(d->dir)) {
        hv_strcpy(d->err.text, sizeof(d->err.text), "its path is too long");
        return VMC_ELIMIT;
    }
    const char *name = split(d->path, d->dir, sizeof(d->dir));
    d->folder = (struct vmc_disk_vmfs){.volume = d->v->fs, .folder = d->dir};
    struct vmc_disk_files files = vmc_disk_vmfs_files(&d->folder);
    int rc = vmc_disk_open(&d->v->pf, &files, name, !d->read_only, &d->disk, &d->err);
    if (rc != VMC_OK)
        return rc;
    d->below = vmc_disk_blockdev(d->disk);
    rc = find_ids(d);
    if (rc != VMC_OK)
        (void)do_close(d); /* already failing */
    return rc;
}

/* One of them writes a file that the other one has. */
static bool clash(const struct hv_vmdk *writer, const struct hv_vmdk *other)
{
    for (uint32_t i = 0; !writer->read_only && i < other->ids; i++)
        if (writer->v == other->v && writer->id[0] == other->id[i])
            return true;
    return false;
}

/* A disk of ours has the same files, by whatever names. What other hosts have the library knows. */
static const struct hv_guest *taken(const struct hv_vmdk *d)
{
    for (uint32_t i = 0; i < hv_config.guests; i++)
        for (uint32_t k = 0; k < HV_MAX_DISKS; k++) {
            const struct hv_vmdk *o = hv_guests[i].vmdk[k];
            if (o != NULL && (clash(d, o) || clash(o, d)))
                return &hv_guests[i];
        }
    return NULL;
}

int hv_vmdk_open(struct hv_guest *g, uint32_t i, const char *spec, bool read_only,
                 struct vmc_blockdev *out)
{
    const char *path;
    struct hv_volume *v = hv_volume_of(g->cfg->name, spec, &path);
    struct hv_vmdk *d = v != NULL ? g->pf->alloc(g->pf->ctx, sizeof(*d), 16) : NULL;

    if (v == NULL || d == NULL)
        return v == NULL ? VMC_ENOENT : VMC_ENOMEM;
    *d = (struct hv_vmdk){.v = v, .g = g, .spec = spec, .path = path, .read_only = read_only};
    int rc = hv_volume_call(v, do_open, d);
    if (rc != VMC_OK) {
        hv_print("%s: disk %s: %s\n", g->cfg->name, spec, d->err.text);
    } else if (taken(d) != NULL) {
        hv_print("%s: disk %s is in use by guest %s\n", g->cfg->name, spec, taken(d)->cfg->name);
        (void)hv_volume_call(v, do_close, d); /* nothing was written */
        rc = VMC_EBUSY;
    }
    if (rc != VMC_OK) {
        g->pf->free(g->pf->ctx, d, sizeof(*d), 16);
        return rc;
    }
    g->vmdk[i] = d;
    *out = (struct vmc_blockdev){.ops = &vmdk_ops, .ctx = d};
    return VMC_OK;
}

void hv_vmdk_close(struct hv_guest *g, uint32_t i)
{
    struct hv_vmdk *d = g->vmdk[i];

    if (d == NULL)
        return;
    int rc = hv_volume_call(d->v, do_close, d);
    if (rc != VMC_OK)
        hv_print("%s: disk %s: closing it: %s\n", g->cfg->name, d->spec, vmc_strerror(rc));
    g->vmdk[i] = NULL;
    g->pf->free(g->pf->ctx, d, sizeof(*d), 16);
}

/* ---- files to boot from -------------------------------------------------------------------------
 */

struct hv_file {
    struct hv_volume *v;
    const char *path;
    struct vmc_vmfs_file *f;
    uint64_t bytes;
    /* the call under way */
    uint64_t offset;
    uint8_t *dst;
    size_t count;
    struct vmc_error err;
};

static int do_file_open(void *arg)
{
    struct hv_file *f = arg;
    struct vmc_vmfs_stat st;
    int rc = vmc_vmfs_open(f->v->fs, f->path, VMC_VMFS_READ, &f->f, &f->err);

    if (rc != VMC_OK)
        return rc;
    rc = vmc_vmfs_fstat(f->f, &st, &f->err);
    f->bytes = st.bytes;
    if (rc != VMC_OK)
        (void)vmc_vmfs_close(f->f, NULL); /* already failing */
    return rc;
}

static int do_file_read(void *arg)
{
    struct hv_file *f = arg;
    int64_t n = vmc_vmfs_pread(f->f, f->dst, f->count, f->offset, &f->err);

    return n < 0 ? (int)n : (uint64_t)n == f->count ? VMC_OK : VMC_EIO;
}

static int do_file_close(void *arg)
{
    struct hv_file *f = arg;
    return vmc_vmfs_close(f->f, &f->err);
}

/* In pieces: between two of them the volume has its heartbeat. */
static int file_read(void *ctx, uint64_t offset, void *dst, size_t bytes)
{
    struct hv_file *f = ctx;
    uint8_t *to = dst;

    while (bytes > 0) {
        f->offset = offset;
        f->dst = to;
        f->count = bytes < 1u << 20 ? bytes : 1u << 20;
        int rc = hv_volume_call(f->v, do_file_read, f);
        if (rc != VMC_OK)
            return rc;
        offset += f->count;
        to += f->count;
        bytes -= f->count;
    }
    return VMC_OK;
}

static const struct vmc_image_ops file_ops = {.read = file_read};

int hv_file_open(const char *who, const char *spec, struct hv_file **out, struct vmc_image_src *src)
{
    const struct vmc_platform *pf = vmc_bm_platform();
    const char *path;
    struct hv_volume *v = hv_volume_of(who, spec, &path);
    struct hv_file *f = v != NULL ? pf->alloc(pf->ctx, sizeof(*f), 16) : NULL;

    if (v == NULL || f == NULL)
        return v == NULL ? VMC_ENOENT : VMC_ENOMEM;
    *f = (struct hv_file){.v = v, .path = path};
    int rc = hv_volume_call(v, do_file_open, f);
    if (rc != VMC_OK) {
        hv_print("%s: %s: %s\n", who, spec, f->err.text);
        pf->free(pf->ctx, f, sizeof(*f), 16);
        return rc;
    }
    *src = (struct vmc_image_src){.ops = &file_ops, .ctx = f, .bytes = f->bytes};
    *out = f;
    return VMC_OK;
}

void hv_file_close(struct hv_file *f)
{
    const struct vmc_platform *pf = vmc_bm_platform();

    if (f == NULL)
        return;
    if (hv_volume_call(f->v, do_file_close, f) != VMC_OK)
        hv_print("volume %s: %s: %s\n", f->v->name, f->path, f->err.text);
    pf->free(pf->ctx, f, sizeof(*f), 16);
}

/* ---- the configuration --------------------------------------------------------------------------
 */

struct look {
    struct hv_volume *v;
    const char *path;
};

static int do_look(void *arg)
{
    struct look *l = arg;
    struct vmc_vmfs_stat st;

    return vmc_vmfs_stat(l->v->fs, l->path, &st, NULL);
}

static const char *read_whole(const char *spec, size_t *bytes)
{
    const struct vmc_platform *pf = vmc_bm_platform();
    struct vmc_image_src src;
    struct hv_file *f;
    char *text = NULL;

    if (hv_file_open("configuration", spec, &f, &src) != VMC_OK)
        return NULL;
    if (src.bytes == 0 || src.bytes > CONFIG_MAX)
        hv_print("configuration: %s has %llu bytes, not 1 to %u\n", spec,
                 (unsigned long long)src.bytes, CONFIG_MAX);
    else if ((text = pf->alloc(pf->ctx, src.bytes, 16)) == NULL ||
             src.ops->read(src.ctx, 0, text, src.bytes) != VMC_OK)
        hv_print("configuration: %s cannot be read: %s\n", spec,
                 text == NULL ? "out of memory" : f->err.text);
    else
        *bytes = src.bytes;
    hv_file_close(f);
    if (*bytes == 0 && text != NULL)
        pf->free(pf->ctx, text, src.bytes, 16);
    return *bytes != 0 ? text : NULL;
}

const char *hv_volumes_config(size_t *bytes, char *where, size_t room)
{
    struct hv_volume *v;
    const char *text = NULL;

    *bytes = 0;
    where[0] = 0;
    for (uint32_t i = 0; (v = hv_volume_number(i)) != NULL; i++) {
        struct look l = {.v = v, .path = "/" HV_CONFIG_NAME};
        if (v->fs == NULL || hv_volume_call(v, do_look, &l) != VMC_OK)
            continue;
        if (where[0] != 0) {
            hv_print("configuration: that of volume %s is not used\n", v->name);
            continue;
        }
        vmc_bm_snprintf(where, room, HV_VMFS "%s:/" HV_CONFIG_NAME, v->name);
        text = read_whole(where, bytes);
    }
    return text;
}

/* ---- the monitor --------------------------------------------------------------------------------
 */

struct look_at {
    struct hv_volume *v;
    struct vmc_vmfs_space space;
    struct vmc_error err;
};

static int do_space(void *arg)
{
    struct look_at *l = arg;
    return vmc_vmfs_space(l->v->fs, &l->space, &l->err);
}

static int do_hosts(void *arg)
{
    struct look_at *l = arg;
    struct vmc_vmfs_heartbeat hb;
    uint32_t cookie = 0;
    int rc;

    while ((rc = vmc_vmfs_heartbeats(l->v->fs, &cookie, &hb, &l->err)) == 1)
        if (hb.in_use)
            hv_print("  heartbeat slot %u: %s%s\n", hb.slot,
                     hb.host_name[0] != 0 ? hb.host_name : "unnamed", hb.self ? ", this host" : "");
    return rc;
}

static void show_disks(const struct hv_volume *v)
{
    for (uint32_t i = 0; i < hv_config.guests; i++)
        for (uint32_t k = 0; k < HV_MAX_DISKS; k++) {
            const struct hv_vmdk *d = hv_guests[i].vmdk[k];
            struct vmc_disk_layer top;
            if (d == NULL || d->v != v || vmc_disk_layer(d->disk, 0, &top) != VMC_OK)
                continue;
            hv_print("  %s has %s: %s, %u files in its chain%s\n", d->g->cfg->name, d->path,
                     top.format != VMC_DISK_FLAT ? "redo log"
                     : top.thin                  ? "thin"
                                                 : "thick",
                     vmc_disk_depth(d->disk), d->read_only ? ", read-only" : "");
        }
}

void hv_volumes_show(void)
{
    struct hv_volume *v;

    if (hv_volume_number(0) == NULL)
        hv_print("no volumes\n");
    for (uint32_t i = 0; (v = hv_volume_number(i)) != NULL; i++) {
        struct look_at l = {.v = v, .err = {.text = ""}};
        if (v->fs == NULL) {
            hv_print("volume on %s: not mounted\n", vmc_bm_disk(v->disk[0])->name);
            continue;
        }
        int rc = hv_volume_call(v, do_space, &l);
        hv_print("volume %s: VMFS-%u.%02u on", v->name, v->info.version, v->info.minor);
        for (uint32_t k = 0; k < v->disks; k++)
            vmc_bm_printf(" %s", vmc_bm_disk(v->disk[k])->name);
        vmc_bm_printf(", %llu MiB%s%s\n", (unsigned long long)(v->info.total_bytes >> 20),
                      v->info.read_only ? ", read-only" : "", v->fenced ? ", FENCED" : "");
        if (rc == VMC_OK)
            hv_print("  %llu of %llu MiB are free, %llu of %llu files\n",
                     (unsigned long long)(l.space.blocks.free * v->info.block_bytes >> 20),
                     (unsigned long long)(l.space.blocks.total * v->info.block_bytes >> 20),
                     (unsigned long long)l.space.fds.free, (unsigned long long)l.space.fds.total);
        if (rc == VMC_OK)
            rc = hv_volume_call(v, do_hosts, &l);
        if (rc != VMC_OK)
            hv_print("  %s\n", l.err.text);
        show_disks(v);
        hv_print("  requests that had to wait for it: %llu\n", (unsigned long long)v->served);
    }
}
