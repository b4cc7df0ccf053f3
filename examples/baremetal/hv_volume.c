/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VMFS volumes on the machine's disks. Each has a fiber on processor 0, and whatever may have to
 * wait for the volume is done there: mounting, opening, heartbeats, and those requests of guests
 * that need a change of metadata. The fiber yields while it waits, and the loop of processor 0 runs
 * it again when a request of its is done. Requests of guests in allocated space do not come here
 * (hv_vmdk.c).
 */
#include "hv_volume.h"

#define MAX_VOLUMES 8u
#define STACK_BYTES (128u << 10)
#define BEAT_NS     2500000000ull
#define LOOK_NS     1000000ull /* should a completion have woken nobody */
#define CACHE_BYTES (8u << 20)

static struct hv_volume volumes[MAX_VOLUMES];
static uint32_t volume_count;
static char host_name[40] = "vmcore-baremetal";

static struct hv_volume *current(void)
{
    struct vmc_bm_fiber *f = vmc_bm_fiber_current();

    for (uint32_t i = 0; i < volume_count; i++)
        if (f != NULL && volumes[i].fiber == f)
            return &volumes[i];
    return NULL;
}

/* ---- waiting ------------------------------------------------------------------------------------
 */

static void yield_until(struct hv_volume *v, uint64_t ns)
{
    v->wake_ns = ns;
    vmc_bm_fiber_yield();
}

static void sleep_ns(void *ctx, uint64_t ns)
{
    struct hv_volume *v = ctx;
    uint64_t end = hv_now() + ns;

    while (hv_now() < end)
        yield_until(v, end);
}

/* The platform's: a request of the volume is done, on whatever processor. */
static void wake(void *ctx, const uint32_t *word)
{
    (void)word;
    for (uint32_t i = 0; i < volume_count; i++)
        if (volumes[i].pf.ctx == ctx) {
            __atomic_store_n(&volumes[i].woken, 1, __ATOMIC_SEQ_CST);
            hv_attention();
        }
}

static void log_line(void *ctx, int level, const char *module, const char *text)
{
    if (level > VMC_LOG_WARN)
        return;
    for (uint32_t i = 0; i < volume_count; i++)
        if (volumes[i].pf.ctx == ctx) {
            if (!volumes[i].fenced) /* then every request fails, and says so */
                hv_print("volume %s: %s: %s\n", volumes[i].name, vmc_log_level_name(level), text);
            return;
        }
    hv_print("%s: %s\n", module, text);
}

/* ---- the machine's disks as the library sees them -----------------------------------------------
 */

static const struct vmc_blockdev *disk_of(const void *ctx)
{
    return &((const struct vmc_bm_disk *)ctx)->dev;
}

static int dev_info(void *ctx, struct vmc_block_info *out)
{
    const struct vmc_blockdev *d = disk_of(ctx);
    return d->ops->info(d->ctx, out);
}

static int dev_submit(void *ctx, struct vmc_block_req *r)
{
    const struct vmc_blockdev *d = disk_of(ctx);
    return d->ops->submit(d->ctx, r);
}

static void dev_kick(void *ctx)
{
    const struct vmc_blockdev *d = disk_of(ctx);
    if (d->ops->kick != NULL)
        d->ops->kick(d->ctx);
}

/*
 * How the library waits. In a fiber the drivers are left to the loop: what they complete may be
 * requests of guests, whose devices submit others.
 */
static void dev_poll(void *ctx)
{
    struct hv_volume *v = current();

    (void)ctx;
    if (v == NULL)
        vmc_bm_poll();
    else
        yield_until(v, hv_now() + LOOK_NS);
}

static const struct vmc_blockdev_ops dev_ops = {
    .info = dev_info, .submit = dev_submit, .kick = dev_kick, .poll = dev_poll};

static struct vmc_blockdev device(const struct vmc_bm_disk *d)
{
    return (struct vmc_blockdev){.ops = &dev_ops, .ctx = (void *)(uintptr_t)d};
}

/* ---- the fiber ----------------------------------------------------------------------------------
 */

void hv_volume_defer(struct hv_volume *v, struct vmc_block_req *r, struct vmc_blockdev *below)
{
    struct vmc_block_req *newest = v->deferred;

    r->backend[1] = below;
    do
        r->backend[0] = newest;
    while (!__atomic_compare_exchange_n(&v->deferred, &newest, r, true, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED));
    hv_attention();
}

static struct vmc_block_req *next_request(struct hv_volume *v)
{
    struct vmc_block_req *r;

    if (v->queue == NULL) {
        struct vmc_block_req *newest = __atomic_exchange_n(&v->deferred, NULL, __ATOMIC_SEQ_CST);
        while ((r = newest) != NULL) {
            newest = r->backend[0];
            r->backend[0] = v->queue;
            v->queue = r;
        }
    }
    r = v->queue;
    if (r != NULL)
        v->queue = r->backend[0];
    return r;
}

static void heartbeat(struct hv_volume *v)
{
    struct vmc_error err = {.text = ""};
    int rc = vmc_vmfs_beat(v->fs, &err);

    v->beat_ns = hv_now() + BEAT_NS;
    if (rc == VMC_OK)
        return;
    if (v->lease_ns != 0 && hv_now() >= v->lease_ns) /* its disks take no more writes */
        rc = VMC_EFENCED;
    if (rc != VMC_EFENCED || !v->fenced)
        hv_print("volume %s: heartbeat: %s\n", v->name, err.text);
    if (rc == VMC_EFENCED && !v->fenced)
        hv_print("volume %s: nothing more is written to it: other hosts may have taken over\n",
                 v->name);
    v->fenced = rc == VMC_EFENCED;
}

static void volume_fiber(void *arg)
{
    struct hv_volume *v = arg;
    struct vmc_block_req *r;

    for (;;) {
        if (v->fs != NULL && hv_now() >= v->beat_ns) {
            heartbeat(v);
        } else if (v->call != NULL) {
            v->call_rc = v->call(v->call_arg);
            v->call = NULL;
        } else if ((r = next_request(v)) != NULL) {
            struct vmc_blockdev *below = r->backend[1];
            v->served++;
            if (below->ops->submit(below->ctx, r) == VMC_BLOCK_COMPLETE)
                r->done(r);
            else if (below->ops->kick != NULL)
                below->ops->kick(below->ctx);
        } else {
            v->idle = true;
            yield_until(v, v->fs != NULL ? v->beat_ns : NEVER);
            v->idle = false;
        }
    }
}

uint64_t hv_volumes_poll(uint64_t now)
{
    uint64_t first = NEVER;

    for (uint32_t i = 0; i < volume_count; i++) {
        struct hv_volume *v = &volumes[i];
        bool work = v->idle && (v->call != NULL || v->deferred != NULL);
        if (__atomic_exchange_n(&v->woken, 0, __ATOMIC_SEQ_CST) != 0 || work || now >= v->wake_ns)
            vmc_bm_fiber_run(v->fiber);
        first = v->wake_ns < first ? v->wake_ns : first;
    }
    return first;
}

int hv_volume_call(struct hv_volume *v, int (*fn)(void *arg), void *arg)
{
    v->call_arg = arg;
    v->call = fn;
    while (v->call != NULL) {
        vmc_bm_poll();
        (void)hv_volumes_poll(hv_now());
    }
    return v->call_rc;
}

/* ---- mounting -----------------------------------------------------------------------------------
 */

struct mount {
    struct hv_volume *v;
    uint32_t flags;
    struct vmc_error err;
};

/* The library says until when the volume may be written to; then its disks see to it. */
static int lease_until(void *ctx, uint64_t end_ns)
{
    struct hv_volume *v = ctx;

    v->lease_ns = end_ns == UINT64_MAX ? 0 : end_ns;
    for (uint32_t i = 0; i < v->disks; i++)
        vmc_bm_disk_lease(vmc_bm_disk(v->disk[i]), v->lease_ns);
    return VMC_OK;
}

static int do_mount(void *arg)
{
    struct mount *m = arg;
    struct hv_volume *v = m->v;
    struct vmc_vmfs_mount_config mc = {.size = sizeof(mc),
                                       .flags = m->flags,
                                       .devs = v->dev,
                                       .dev_count = v->disks,
                                       .host_name = host_name,
                                       .cache_bytes = CACHE_BYTES,
                                       .sleep_ns = sleep_ns,
                                       .sleep_ctx = v,
                                       .lease_until = lease_until,
                                       .lease_ctx = v};
    struct vmc_vmfs *fs;
    int rc = vmc_vmfs_mount(&v->pf, &mc, &fs, &m->err);

    if (rc != VMC_OK)
        return rc;
    vmc_vmfs_info(fs, &v->info);
    v->beat_ns = hv_now() + BEAT_NS;
    v->fs = fs;
    return VMC_OK;
}

static int do_unmount(void *arg)
{
    struct mount *m = arg;
    int rc = vmc_vmfs_unmount(m->v->fs, &m->err);

    if (rc != VMC_EBUSY)
        m->v->fs = NULL;
    return rc;
}

static void name_volume(struct hv_volume *v)
{
    if (v->info.label[0] != 0)
        hv_strcpy(v->label, sizeof(v->label), v->info.label);
    else
        vmc_vmfs_uuid_text(&v->info.fs_uuid, v->label);
    v->name = v->label;
}

static void mount(struct hv_volume *v, bool exclusive, bool read_only)
{
    struct mount m = {.v = v, .err = {.text = ""}};

    m.flags = read_only ? VMC_VMFS_RDONLY : exclusive ? VMC_VMFS_EXCLUSIVE : 0;
    int rc = hv_volume_call(v, do_mount, &m);
    if (rc != VMC_OK && !read_only && rc != VMC_EFORMAT && rc != VMC_EIO && rc != VMC_ENOMEM) {
        hv_print("volume on %s is only read: %s\n", v->name, m.err.text);
        m.flags = VMC_VMFS_RDONLY;
        rc = hv_volume_call(v, do_mount, &m);
    }
    if (rc != VMC_OK) {
        hv_print("volume on %s cannot be mounted: %s\n", v->name, m.err.text);
        return;
    }
    const char *disk = v->name;
    name_volume(v);
    hv_print("volume %s: VMFS-%u.%02u on %s%s, %llu MiB%s%s\n", v->name, v->info.version,
             v->info.minor, disk, v->disks > 1 ? " and others" : "",
             (unsigned long long)(v->info.total_bytes >> 20),
             v->info.read_only ? ", read-only" : "", exclusive ? ", not shared" : "");
    for (struct hv_volume *o = volumes; o < v; o++)
        if (o->fs != NULL && hv_streq(o->name, v->name))
            hv_print("volume %s: there are two of this name; the first one is meant by it\n",
                     v->name);
}

void hv_volumes_close(void)
{
    for (uint32_t i = 0; i < volume_count; i++) {
        struct hv_volume *v = &volumes[i];
        struct mount m = {.v = v, .err = {.text = ""}};
        if (v->fs == NULL)
            continue;
        int rc = hv_volume_call(v, do_unmount, &m);
        if (rc != VMC_OK)
            hv_print("volume %s: unmounting: %s\n", v->name, m.err.text);
        else
            hv_print("volume %s: unmounted\n", v->name);
    }
}

/* ---- finding them -------------------------------------------------------------------------------
 */

static bool same(const struct vmc_vmfs_uuid *a, const struct vmc_vmfs_uuid *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

static struct hv_volume *new_volume(const char *disk)
{
    struct hv_volume *v = &volumes[volume_count];

    if (volume_count == MAX_VOLUMES) {
        hv_print("%s: more than %u volumes\n", disk, MAX_VOLUMES);
        return NULL;
    }
    if (vmc_bm_domain_create(&v->domain) != VMC_OK ||
        vmc_bm_fiber_create(STACK_BYTES, volume_fiber, v, &v->fiber) != VMC_OK)
        vmc_bm_panic("out of memory for a volume");
    static struct vmc_sync_ops sync;
    v->pf = *vmc_bm_domain_platform(v->domain);
    sync = *v->pf.sync;
    sync.wake = wake;
    v->pf.sync = &sync;
    v->pf.log = log_line;
    v->name = disk;
    volume_count++;
    return v;
}

/* The disk is an extent of a volume. */
static void add_extent(uint32_t k, const struct vmc_vmfs_probe *p, struct vmc_vmfs_uuid *seen,
                       uint32_t *wanted)
{
    const struct vmc_bm_disk *d = vmc_bm_disk(k);
    struct hv_volume *v = NULL;

    for (uint32_t i = 0; i < k; i++)
        if (same(&seen[i], &p->dev_uuid)) {
            hv_print("%s: a copy of %s, or another way to it: left alone\n", d->name,
                     vmc_bm_disk(i)->name);
            return;
        }
    seen[k] = p->dev_uuid;
    for (uint32_t i = 0; i < volume_count; i++)
        if (same(&volumes[i].lvm_uuid, &p->lvm_uuid))
            v = &volumes[i];
    if (v == NULL && (v = new_volume(d->name)) == NULL)
        return;
    v->lvm_uuid = p->lvm_uuid;
    wanted[v - volumes] = p->extents;
    if (v->disks == VMC_VMFS_MAX_EXTENTS)
        return;
    v->disk[v->disks] = k;
    v->dev[v->disks++] = device(d);
}

/* Value of "name=" on the kernel's command line, or NULL; up to a space. */
static const char *option(const char *name)
{
    size_t n = hv_strlen(name);

    for (const char *p = hv_machine->cmdline; *p != 0; p++)
        if ((p == hv_machine->cmdline || p[-1] == ' ') && hv_strlen(p) >= n &&
            memcmp(p, name, n) == 0)
            return p + n;
    return NULL;
}

static bool is_word(const char *p, const char *word)
{
    size_t n = hv_strlen(word);

    return p != NULL && hv_strlen(p) >= n && memcmp(p, word, n) == 0 && (p[n] == 0 || p[n] == ' ');
}

void hv_volumes_init(void)
{
    static struct vmc_vmfs_uuid seen[VMC_BM_MAX_DISKS];
    const char *how = option("volumes="), *host = option("host=");
    uint32_t wanted[MAX_VOLUMES] = {0};
    const struct vmc_bm_disk *d;

    for (size_t n = 0; host != NULL && host[n] > ' ' && n + 1 < sizeof(host_name); n++) {
        host_name[n] = host[n];
        host_name[n + 1] = 0;
    }
    bool off = is_word(how, "off"), exclusive = is_word(how, "exclusive");
    bool read_only = is_word(how, "ro");
    if (how != NULL && !off && !exclusive && !read_only && !is_word(how, "shared"))
        hv_print("volumes= is shared, exclusive, ro or off\n");
    for (uint32_t k = 0; !off && (d = vmc_bm_disk(k)) != NULL; k++) {
        struct vmc_vmfs_probe p;
        struct vmc_error err;
        struct vmc_blockdev dev = device(d);
        int rc = vmc_vmfs_probe(vmc_bm_platform(), &dev, &p, &err);
        if (rc == VMC_OK)
            add_extent(k, &p, seen, wanted);
        else if (rc != VMC_ENOENT)
            hv_print("volume on %s: %s\n", d->name, err.text);
    }
    for (uint32_t i = 0; i < volume_count; i++) {
        bool whole = volumes[i].disks == wanted[i];
        if (!whole)
            hv_print("volume on %s: %u of its %u extents are here, so it is only read\n",
                     volumes[i].name, volumes[i].disks, wanted[i]);
        mount(&volumes[i], exclusive, read_only || !whole);
    }
}

const char *hv_volume_on_disk(uint32_t k)
{
    for (uint32_t i = 0; i < volume_count; i++)
        for (uint32_t n = 0; volumes[i].fs != NULL && n < volumes[i].disks; n++)
            if (volumes[i].disk[n] == k)
                return volumes[i].name;
    return NULL;
}

/* ---- names --------------------------------------------------------------------------------------
 */

bool hv_on_volume(const char *spec)
{
    return hv_strlen(spec) >= sizeof(HV_VMFS) - 1 &&
           memcmp(spec, HV_VMFS, sizeof(HV_VMFS) - 1) == 0;
}

static bool named(const struct hv_volume *v, const char *name, size_t n)
{
    char uuid[VMC_VMFS_UUID_TEXT];

    if (v->fs == NULL)
        return false;
    vmc_vmfs_uuid_text(&v->info.fs_uuid, uuid);
    return (hv_strlen(v->name) == n && memcmp(v->name, name, n) == 0) ||
           (hv_strlen(uuid) == n && memcmp(uuid, name, n) == 0);
}

struct hv_volume *hv_volume_of(const char *who, const char *spec, const char **path)
{
    const char *name = spec + sizeof(HV_VMFS) - 1, *end = NULL;

    for (const char *p = name; *p != 0; p++) /* a volume's name may hold ":", too */
        if (p[0] == ':' && p[1] == '/')
            end = p;
    if (end == NULL || end == name) {
        hv_print("%s: '%s' is not vmfs:VOLUME:/PATH\n", who, spec);
        return NULL;
    }
    *path = end + 1;
    for (uint32_t i = 0; i < volume_count; i++)
        if (named(&volumes[i], name, (size_t)(end - name)))
            return &volumes[i];
    hv_print("%s: %s: no such volume is mounted\n", who, spec);
    return NULL;
}

struct hv_volume *hv_volume_number(uint32_t i)
{
    return i < volume_count ? &volumes[i] : NULL;
}
