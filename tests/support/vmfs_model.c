/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmfs_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define MAX_IO (3 * MIB)
#define BLOCKS_MAX 200u

void model_ok(struct model_env *e, int rc)
{
    if (rc < 0)
        fail_msg("%s: %s (last logged: %s)", vmc_status_name(rc), e->err.text, e->tp.last_log);
}

/* ---- environment --------------------------------------------------------------------------------- */

static void sleep_ns(void *ctx, uint64_t ns)
{
    struct model_env *e = ctx;

    /* While one host waits, the others live on. */
    e->tp.now_ns += ns;
    for (uint32_t h = 0; h < e->hosts; h++)
        if (e->host[h].v != NULL && !e->host[h].waiting && !e->host[h].path[0].cut) {
            e->host[h].waiting = true;
            bool gone = vmc_vmfs_beat(e->host[h].v, NULL) != VMC_OK;
            (void)gone; /* a host that is fenced will notice by itself */
            e->host[h].waiting = false;
        }
}

void model_env_init(struct model_env *e, uint32_t disks, uint64_t bytes, uint32_t version,
                    uint32_t block_mib, uint32_t hosts)
{
    struct vmc_blockdev bd[MODEL_DISKS];

    memset(e, 0, sizeof(*e));
    test_platform_init(&e->tp);
    e->disks = disks;
    e->hosts = hosts;
    e->version = version;
    if (version == 6)
        bytes += 350 * MIB; /* its journals alone take 257 */
    for (uint32_t i = 0; i < disks; i++) {
        test_disk_init(&e->disk[i], bytes);
        e->disk[i].can_discard = true;
        for (uint32_t h = 0; h < MODEL_HOSTS; h++) {
            test_path_init(&e->host[h].path[i], &e->disk[i]);
            e->host[h].bd[i] = e->host[h].path[i].bd;
        }
        bd[i] = e->host[0].bd[i];
    }
    struct vmc_vmfs_mkfs_config c = {.size = sizeof(c), .version = version,
                                     .block_bytes = block_mib << 20, .devs = bd, .dev_count = disks,
                                     .label = "model", .time_s = 1,
                                     .experimental = version == 6,
                                     .fds = version == 6 ? 2048 : 0,
                                     .pointer_blocks = 2000, .sub_blocks = 400};
    model_ok(e, vmc_vmfs_mkfs(&e->tp.pf, &c, &e->err));
}

void model_env_fini(struct model_env *e)
{
    for (uint32_t i = 0; i < e->disks; i++)
        test_disk_fini(&e->disk[i]);
    test_platform_check(&e->tp);
}

void model_init(struct model *m, uint64_t seed)
{
    memset(m, 0, sizeof(*m));
    m->rng = seed * 0x9E3779B97F4A7C15ull | 1;
}

void model_mount(struct model_env *e, uint32_t h)
{
    struct model_host *host = &e->host[h];
    char name[16];

    for (uint32_t i = 0; i < e->disks; i++) {
        host->path[i].cut = false;
        host->path[i].cut_after = UINT64_MAX;
        host->path[i].fail_flush = 0;
        host->path[i].fail_write = 0;
        host->path[i].flush_failed = false;
    }
    snprintf(name, sizeof(name), "host%u", h);
    struct vmc_vmfs_mount_config c = {.size = sizeof(c), .devs = host->bd, .dev_count = e->disks,
                                      .flags = VMC_VMFS_EXPERIMENTAL, .host_name = name, .sleep_ns = sleep_ns, .sleep_ctx = e,
                                      .cache_bytes = 1 << 20};
    model_ok(e, vmc_vmfs_mount(&e->tp.pf, &c, &host->v, &e->err));
}

static bool alive(const struct model_host *h)
{
    return h->v != NULL && !h->path[0].cut;
}

/* A dead host's locks are free after its lease: let time pass, and the living beat. */
static void let_time_pass(struct model_env *e)
{
    e->busy_waits++;
    for (unsigned s = 0; s < 11; s++) {
        e->tp.now_ns += 1000000000ull;
        for (uint32_t h = 0; h < e->hosts; h++)
            if (alive(&e->host[h]) && vmc_vmfs_beat(e->host[h].v, NULL) != VMC_OK)
                continue; /* it will notice by itself */
    }
}

#define RETRY(e, rc, call)                                                                         \
    do {                                                                                           \
        unsigned tries_ = 0;                                                                       \
        while (((rc) = (call)) == VMC_EBUSY && tries_++ < 8)                                       \
            let_time_pass(e);                                                                      \
    } while (0)

/* ---- contents ------------------------------------------------------------------------------------ */

static uint64_t word_at(uint64_t seed, uint64_t index)
{
    uint64_t x = seed * 0x9E3779B97F4A7C15ull + index * 0xBF58476D1CE4E5B9ull;
    return x ^ x >> 29;
}

static void fill(unsigned char *dst, uint64_t seed, uint64_t off, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes;) {
        uint64_t w = word_at(seed, (off + i) / 8);
        unsigned in = (unsigned)((off + i) % 8);
        if (in == 0 && bytes - i >= 8) { /* nearly all of it */
            memcpy(dst + i, &w, 8);
            i += 8;
            continue;
        }
        uint64_t n = 8 - in < bytes - i ? 8 - in : bytes - i;
        memcpy(dst + i, (unsigned char *)&w + in, n);
        i += n;
    }
}

static void expect_at(const struct model_node *n, unsigned char *dst, uint64_t off, uint64_t bytes)
{
    memset(dst, 0, bytes);
    for (unsigned i = 0; i < n->pieces; i++) {
        const struct model_piece *p = &n->piece[i];
        uint64_t a = p->offset > off ? p->offset : off;
        uint64_t b = p->offset + p->bytes < off + bytes ? p->offset + p->bytes : off + bytes;
        if (a < b)
            fill(dst + (a - off), p->seed, a, b - a);
    }
}

static void drop_piece(struct model_node *n, unsigned i)
{
    n->piece[i] = n->piece[--n->pieces];
}

/* Bytes become zero. False: no room to split a piece. */
static bool cut_range(struct model_node *n, uint64_t off, uint64_t bytes)
{
    uint64_t end = off + bytes;

    for (unsigned i = 0; i < n->pieces;) {
        struct model_piece *p = &n->piece[i];
        uint64_t pe = p->offset + p->bytes;
        if (p->offset >= end || pe <= off) {
            i++;
        } else if (p->offset >= off && pe <= end) {
            drop_piece(n, i);
        } else if (p->offset < off && pe > end) {
            if (n->pieces == MODEL_PIECES)
                return false;
            n->piece[n->pieces++] =
                (struct model_piece){.offset = end, .bytes = pe - end, .seed = p->seed};
            p->bytes = off - p->offset;
            i++;
        } else if (p->offset < off) {
            p->bytes = off - p->offset;
            i++;
        } else {
            p->bytes = pe - end;
            p->offset = end;
            i++;
        }
    }
    return true;
}

static uint64_t blocks_of(const struct model_node *n)
{
    uint64_t b = n->reserved;
    for (unsigned i = 0; i < n->pieces; i++)
        b += (n->piece[i].bytes + MIB - 1) / MIB + 1;
    return b;
}

static uint64_t all_blocks(const struct model *m)
{
    uint64_t b = 0;
    for (int i = 0; i < MODEL_NODES; i++)
        if (m->node[i].used)
            b += blocks_of(&m->node[i]);
    return b;
}

/* ---- names --------------------------------------------------------------------------------------- */

static void path_of(const struct model *m, int i, char *out, size_t bytes)
{
    char parts[MODEL_NODES][24]; /* a renamed directory takes its tree to any depth */
    unsigned n = 0;
    size_t at = 0;

    for (; i >= 0; i = m->node[i].parent) {
        assert_true(n < MODEL_NODES);
        snprintf(parts[n++], sizeof(parts[0]), "/n%u", m->node[i].name);
    }
    out[0] = '/';
    out[1] = '\0';
    while (n > 0)
        at += (size_t)snprintf(out + at, bytes - at, "%s", parts[--n]);
}

static unsigned depth(const struct model *m, int i)
{
    unsigned d = 0;
    for (; i >= 0; i = m->node[i].parent)
        d++;
    return d;
}

static int find_name(const struct model *m, int parent, unsigned name)
{
    for (int i = 0; i < MODEL_NODES; i++)
        if (m->node[i].used && m->node[i].parent == parent && m->node[i].name == name)
            return i;
    return -1;
}

static bool has_children(const struct model *m, int i)
{
    for (int k = 0; k < MODEL_NODES; k++)
        if (m->node[k].used && m->node[k].parent == i)
            return true;
    return false;
}

static int pick(struct model *m, bool dirs, bool files)
{
    int start = (int)(test_rand(&m->rng) % MODEL_NODES);
    for (int k = 0; k < MODEL_NODES; k++) {
        int i = (start + k) % MODEL_NODES;
        if (m->node[i].used && (m->node[i].dir ? dirs : files))
            return i;
    }
    return -1;
}

static int pick_dir(struct model *m)
{
    return test_rand(&m->rng) % 3 == 0 ? -1 : pick(m, true, false);
}

static bool below(const struct model *m, int i, int top)
{
    for (; i >= 0; i = m->node[i].parent)
        if (i == top)
            return true;
    return false;
}

static bool held(const struct model_env *e, int node)
{
    for (uint32_t h = 0; h < e->hosts; h++)
        if (e->host[h].open != NULL && e->host[h].open_node == node)
            return true;
    return false;
}

/* ---- steps --------------------------------------------------------------------------------------- */

static void begin(struct model *m, enum model_op op, int a, int b)
{
    m->op = op;
    m->a = a;
    m->b = b;
    if (a >= 0)
        m->old_a = m->node[a];
    if (b >= 0)
        m->old_b = m->node[b];
}

/* A status that means "this host is finished". */
static bool lost(const struct model_env *e, uint32_t h, int64_t rc)
{
    const struct test_path *p = &e->host[h].path[0];

    return rc < 0 && (rc == VMC_EFENCED || p->cut || p->flush_failed);
}

static bool step_make(struct model_env *e, uint32_t h, struct model *m)
{
    int parent = pick_dir(m), at = -1, rc;
    unsigned name = test_rand(&m->rng) % 40, kind = test_rand(&m->rng) % 10;
    char path[512];

    if (depth(m, parent) > 6)
        return true;
    for (int i = 0; i < MODEL_NODES; i++)
        if (!m->node[i].used)
            at = i;
    if (at < 0)
        return true;
    int there = find_name(m, parent, name);
    begin(m, there < 0 ? MODEL_MAKE : MODEL_NONE, at, -1);
    struct model_node *n = &m->node[at];
    memset(n, 0, sizeof(*n));
    n->parent = parent;
    n->name = name;
    n->mode = 0600 + test_rand(&m->rng) % 0177;
    n->dir = kind < 3;
    n->link = kind == 3;
    if (n->link) {
        snprintf(n->target, sizeof(n->target), "../some/where-%u", test_rand(&m->rng));
        n->length = strlen(n->target);
        n->mode = 0777;
    }
    struct model_node made = *n;
    path_of(m, at, path, sizeof(path));
    struct vmc_vmfs *v = e->host[h].v;
    RETRY(e, rc,
          made.dir    ? vmc_vmfs_mkdir(v, path, made.mode, &e->err)
          : made.link ? vmc_vmfs_symlink(v, made.target, path, &e->err)
                      : vmc_vmfs_create(v, path, made.mode, &e->err));
    if (lost(e, h, rc))
        return false;
    if (there >= 0) {
        assert_int_equal(rc, VMC_EEXIST);
        return true;
    }
    model_ok(e, rc);
    n->used = true;
    m->op = MODEL_NONE;
    return true;
}

static bool step_remove(struct model_env *e, uint32_t h, struct model *m)
{
    int i = pick(m, true, true), rc;
    char path[512];

    if (i < 0 || held(e, i))
        return true;
    path_of(m, i, path, sizeof(path));
    bool full = has_children(m, i);
    begin(m, full ? MODEL_NONE : MODEL_REMOVE, i, -1);
    RETRY(e, rc, vmc_vmfs_remove(e->host[h].v, path, &e->err));
    if (lost(e, h, rc))
        return false;
    if (full) {
        assert_int_equal(rc, VMC_ESTATE);
        return true;
    }
    model_ok(e, rc);
    m->node[i].used = false;
    m->op = MODEL_NONE;
    return true;
}

static bool step_rename(struct model_env *e, uint32_t h, struct model *m)
{
    int i = pick(m, true, true), parent = pick_dir(m), rc;
    unsigned name = test_rand(&m->rng) % 40;
    char from[512], to[512];

    if (i < 0 || held(e, i) || depth(m, parent) > 6)
        return true;
    int old = find_name(m, parent, name);
    if (old == i || (old >= 0 && held(e, old)))
        return true;
    path_of(m, i, from, sizeof(from));
    path_of(m, parent, to, sizeof(to));
    size_t n = parent < 0 ? 0 : strlen(to);
    snprintf(to + n, sizeof(to) - n, "/n%u", name);
    bool loop = m->node[i].dir && below(m, parent, i);
    bool clash = old >= 0 && (m->node[old].dir != m->node[i].dir || has_children(m, old));
    begin(m, loop || clash ? MODEL_NONE : MODEL_RENAME, i, old);
    struct model_node moved = m->node[i];
    RETRY(e, rc, vmc_vmfs_rename(e->host[h].v, from, to, 0, &e->err));
    if (lost(e, h, rc)) {
        if (loop || clash)
            return false;
        m->node[i].parent = parent; /* where it may be now; old_a has where it was */
        m->node[i].name = name;
        return false;
    }
    if (loop || clash) {
        assert_true(rc == VMC_EINVAL || rc == VMC_EEXIST || rc == VMC_ESTATE);
        return true;
    }
    model_ok(e, rc);
    moved.parent = parent;
    moved.name = name;
    if (old >= 0)
        m->node[old].used = false;
    m->node[i] = moved;
    m->op = MODEL_NONE;
    return true;
}

/* The handle kept open by this host for the file, or a new one. */
static int open_for(struct model_env *e, uint32_t h, struct model *m, int i, uint32_t flags,
                    struct vmc_vmfs_file **f)
{
    struct model_host *host = &e->host[h];
    char path[512];
    int rc;

    if (host->open != NULL && host->open_node == i) {
        *f = host->open;
        return VMC_OK;
    }
    path_of(m, i, path, sizeof(path));
    RETRY(e, rc, vmc_vmfs_open(host->v, path, flags, f, &e->err));
    return rc;
}

static int done_with(struct model_env *e, uint32_t h, struct model *m, int i,
                     struct vmc_vmfs_file *f)
{
    struct model_host *host = &e->host[h];

    if (host->open == f)
        return VMC_OK;
    if (host->open == NULL && test_rand(&m->rng) % 4 == 0) {
        host->open = f;
        host->open_node = i;
        return VMC_OK;
    }
    return vmc_vmfs_close(f, &e->err);
}

static int pick_file(struct model_env *e, uint32_t h, struct model *m)
{
    int i = pick(m, false, true);

    if (i < 0 || m->node[i].link)
        return -1;
    if (held(e, i) && !(e->host[h].open != NULL && e->host[h].open_node == i))
        return -1;
    return i;
}

static uint64_t some_offset(const struct model_env *e, struct model *m, const struct model_node *n)
{
    switch (test_rand(&m->rng) % (e->small ? 7 : 10)) {
    case 0:
    case 1:
        return 0;
    case 2:
    case 3:
        return n->length;
    case 4:
        return test_rand(&m->rng) % 2000;
    case 5:
        return test_rand(&m->rng) % 20000;
    case 6:
        return (test_rand(&m->rng) % (4 * MIB)) & ~511ull;
    case 7:
        return test_rand(&m->rng) % (600 * MIB);
    case 8:
        return (uint64_t)test_rand(&m->rng) * 40;                       /* up to 160 GiB */
    default:
        return e->version == 3 ? 0 : 300 * GIB + test_rand(&m->rng); /* double indirection */
    }
}

static uint64_t some_length(const struct model_env *e, struct model *m)
{
    switch (test_rand(&m->rng) % 8) {
    case 0:
        return 1 + test_rand(&m->rng) % 100;
    case 1:
        return 1 + test_rand(&m->rng) % 2000;
    case 2:
    case 3:
        return 1 + test_rand(&m->rng) % 10000;
    case 4:
        return 4096;
    case 5:
        return 512ull * (1 + test_rand(&m->rng) % 64);
    case 6:
        return 1 + test_rand(&m->rng) % 100000;
    default:
        return 1 + test_rand(&m->rng) % (e->small ? 200000 : MAX_IO);
    }
}

static bool finish_data(struct model_env *e, uint32_t h, struct model *m, int i,
                        struct vmc_vmfs_file *f, int64_t rc)
{
    struct model_host *host = &e->host[h];

    if (rc >= 0 && e->durable)
        rc = vmc_vmfs_fsync(f, &e->err);
    if (lost(e, h, rc)) {
        if (host->open != f)
            (void)vmc_vmfs_close(f, NULL);
        return false;
    }
    model_ok(e, (int)(rc < 0 ? rc : 0));
    rc = done_with(e, h, m, i, f);
    if (lost(e, h, rc))
        return false;
    model_ok(e, (int)rc);
    m->op = MODEL_NONE;
    return true;
}

static bool step_write(struct model_env *e, uint32_t h, struct model *m)
{
    int i = pick_file(e, h, m);
    struct vmc_vmfs_file *f;

    if (i < 0 || all_blocks(m) > BLOCKS_MAX)
        return i < 0 ? true : step_remove(e, h, m);
    struct model_node next = m->node[i];
    uint64_t off = some_offset(e, m, &next), len = some_length(e, m);
    uint64_t seed = test_rand(&m->rng) | 1;
    if (!cut_range(&next, off, len) || next.pieces == MODEL_PIECES)
        return true;
    next.piece[next.pieces++] = (struct model_piece){.offset = off, .bytes = len, .seed = seed};
    if (off + len > next.length)
        next.length = off + len;
    unsigned char *buf = malloc(len);
    fill(buf, seed, off, len);
    begin(m, MODEL_DATA, i, -1);
    m->from = off < m->old_a.length ? off : m->old_a.length;
    m->to = off + len;
    m->node[i] = next;
    int rc = open_for(e, h, m, i, VMC_VMFS_READ | VMC_VMFS_WRITE, &f);
    if (lost(e, h, rc)) {
        free(buf);
        return false;
    }
    model_ok(e, rc);
    int64_t n;
    RETRY(e, n, vmc_vmfs_pwrite(f, buf, len, off, &e->err));
    free(buf);
    if (n >= 0)
        assert_int_equal(n, len);
    return finish_data(e, h, m, i, f, n);
}

static bool step_shape(struct model_env *e, uint32_t h, struct model *m)
{
    int i = pick_file(e, h, m), rc;
    unsigned kind = test_rand(&m->rng) % 6;
    struct vmc_vmfs_file *f;

    if (i < 0)
        return true;
    struct model_node next = m->node[i];
    uint64_t off = some_offset(e, m, &next), len = 1 + test_rand(&m->rng) % (8 * MIB);
    begin(m, MODEL_DATA, i, -1);
    if (kind < 3) { /* truncate */
        if (kind == 0)
            off = 0;
        if (off < next.length && !cut_range(&next, off, next.length - off))
            return true;
        m->from = off < next.length ? off : next.length;
        m->to = off > next.length ? off : next.length;
        next.length = off;
        next.reserved = off == 0 ? 0 : next.reserved;
    } else if (kind < 5) { /* punch */
        if (off >= next.length)
            off = next.length / 2;
        if (!cut_range(&next, off, len))
            return true;
        m->from = off;
        m->to = off + len;
    } else { /* allocate */
        if (off > 600 * MIB || all_blocks(m) > BLOCKS_MAX / 2)
            off = 0;
        len = 1 + test_rand(&m->rng) % (3 * MIB);
        next.reserved += (unsigned)(len / MIB) + 2;
        m->from = m->to = next.length;
        if (off + len > next.length)
            m->to = next.length = off + len;
    }
    m->node[i] = next;
    rc = open_for(e, h, m, i, VMC_VMFS_READ | VMC_VMFS_WRITE, &f);
    if (lost(e, h, rc))
        return false;
    model_ok(e, rc);
    if (kind < 3)
        RETRY(e, rc, vmc_vmfs_truncate(f, off, &e->err));
    else if (kind < 5)
        RETRY(e, rc, vmc_vmfs_punch(f, off, len, &e->err));
    else
        RETRY(e, rc, vmc_vmfs_allocate(f, off, len,
                                       len % 2 ? VMC_VMFS_ALLOC_LAZY : VMC_VMFS_ALLOC_EAGER,
                                       &e->err));
    return finish_data(e, h, m, i, f, rc);
}

/* False: the host was lost while it read. */
static bool compare_range(struct model_env *e, uint32_t h, struct vmc_vmfs_file *f,
                          const struct model_node *n, uint64_t off, uint64_t len)
{
    unsigned char *got = malloc(len), *want = malloc(len);
    uint64_t in = off < n->length ? n->length - off : 0;
    uint64_t expect = in < len ? in : len;

    int64_t rc = vmc_vmfs_pread(f, got, len, off, &e->err);
    if (lost(e, h, rc)) {
        free(got);
        free(want);
        return false;
    }
    model_ok(e, (int)(rc < 0 ? rc : 0));
    if ((uint64_t)rc != expect)
        fail_msg("read %lld bytes at %llu, not %llu", (long long)rc, (unsigned long long)off,
                 (unsigned long long)expect);
    expect_at(n, want, off, expect);
    for (uint64_t i = 0; i < expect && memcmp(got, want, expect) != 0; i++)
        if (got[i] != want[i])
            fail_msg("file n%u: byte %llu is 0x%02x, not 0x%02x", n->name,
                     (unsigned long long)(off + i), got[i], want[i]);
    free(got);
    free(want);
    return true;
}

static bool step_read(struct model_env *e, uint32_t h, struct model *m)
{
    int i = pick_file(e, h, m);
    struct vmc_vmfs_file *f;

    if (i < 0)
        return true;
    m->op = MODEL_NONE;
    int rc = open_for(e, h, m, i, VMC_VMFS_READ | VMC_VMFS_WRITE, &f);
    if (lost(e, h, rc))
        return false;
    model_ok(e, rc);
    uint64_t off = some_offset(e, m, &m->node[i]);
    if (m->node[i].pieces > 0 && test_rand(&m->rng) % 2)
        off = m->node[i].piece[test_rand(&m->rng) % m->node[i].pieces].offset;
    if (!compare_range(e, h, f, &m->node[i], off, some_length(e, m))) {
        if (e->host[h].open != f)
            (void)vmc_vmfs_close(f, NULL);
        return false;
    }
    return finish_data(e, h, m, i, f, 0);
}

static bool compare_node(struct model_env *e, uint32_t h, struct model *m, int i, bool data)
{
    const struct model_node *n = &m->node[i];
    struct vmc_vmfs_stat st;
    char path[512], target[128];
    int rc;

    path_of(m, i, path, sizeof(path));
    RETRY(e, rc, vmc_vmfs_stat(e->host[h].v, path, &st, &e->err));
    if (lost(e, h, rc))
        return false;
    if (rc < 0)
        fail_msg("%s: %s: %s", path, vmc_status_name(rc), e->err.text);
    assert_int_equal(st.type, n->dir ? VMC_VMFS_DIR : n->link ? VMC_VMFS_SYMLINK : VMC_VMFS_FILE);
    if (!n->dir)
        assert_int_equal(st.bytes, n->length);
    if (n->link) {
        rc = vmc_vmfs_readlink(e->host[h].v, path, target, sizeof(target), &e->err);
        if (lost(e, h, rc))
            return false;
        model_ok(e, rc);
        assert_string_equal(target, n->target);
    }
    if (!data || n->dir || n->link)
        return true;
    struct vmc_vmfs_file *f;
    uint32_t flags = held(e, i) ? VMC_VMFS_READ | VMC_VMFS_NOLOCK : VMC_VMFS_READ;
    RETRY(e, rc, vmc_vmfs_open(e->host[h].v, path, flags, &f, &e->err));
    if (lost(e, h, rc))
        return false;
    model_ok(e, rc);
    bool read = true;
    for (unsigned k = 0; k < n->pieces && read; k++) {
        uint64_t off = n->piece[k].offset, len = n->piece[k].bytes;
        off = off > 4096 ? off - 4096 : 0; /* and some of what is around it */
        read = compare_range(e, h, f, n, off, len + 8192 < 2 * MAX_IO ? len + 8192 : 2 * MAX_IO);
    }
    rc = vmc_vmfs_close(f, &e->err);
    if (!read || lost(e, h, rc))
        return false;
    model_ok(e, rc);
    return true;
}

static bool step_look(struct model_env *e, uint32_t h, struct model *m)
{
    int i = pick(m, true, true);

    m->op = MODEL_NONE;
    return i < 0 || compare_node(e, h, m, i, false);
}

static bool step_close(struct model_env *e, uint32_t h, struct model *m)
{
    struct model_host *host = &e->host[h];
    struct vmc_vmfs_file *f = host->open;

    m->op = MODEL_NONE;
    if (f == NULL)
        return true;
    host->open = NULL;
    int rc = vmc_vmfs_close(f, &e->err);
    if (lost(e, h, rc))
        return false;
    model_ok(e, rc);
    return true;
}

bool model_step(struct model_env *e, uint32_t h, struct model *m)
{
    m->steps++;
    e->tp.now_ns += 1000000;
    switch (test_rand(&m->rng) % 20) {
    case 0:
    case 1:
    case 2:
        return step_make(e, h, m);
    case 3:
    case 4:
        return step_remove(e, h, m);
    case 5:
    case 6:
        return step_rename(e, h, m);
    case 7:
    case 8:
    case 9:
    case 10:
    case 11:
        return step_write(e, h, m);
    case 12:
    case 13:
        return step_shape(e, h, m);
    case 14:
    case 15:
    case 16:
        return step_read(e, h, m);
    case 17:
        return step_close(e, h, m);
    default:
        return step_look(e, h, m);
    }
}

void model_unmount(struct model_env *e, struct model *m, uint32_t h)
{
    (void)step_close(e, h, m);
    model_ok(e, vmc_vmfs_unmount(e->host[h].v, &e->err));
    e->host[h].v = NULL;
}

void model_kill(struct model_env *e, uint32_t h)
{
    struct model_host *host = &e->host[h];

    host->open = NULL;
    vmc_vmfs_abandon(host->v);
    host->v = NULL;
}

/* ---- after a cut --------------------------------------------------------------------------------- */

static int stat_node(struct model_env *e, uint32_t h, struct model *m, int i,
                     struct vmc_vmfs_stat *st)
{
    char path[512];
    int rc;

    path_of(m, i, path, sizeof(path));
    RETRY(e, rc, vmc_vmfs_stat(e->host[h].v, path, st, &e->err));
    if (rc != VMC_ENOENT)
        model_ok(e, rc);
    return rc;
}

/* Outside of the range the old contents; inside, each sector is as before or as it was to be. */
static void check_mixed(struct model_env *e, uint32_t h, struct model *m, int i)
{
    struct model_node *now = &m->node[i], *old = &m->old_a;
    struct vmc_vmfs_stat st;
    struct vmc_vmfs_file *f;
    char path[512];
    unsigned char got[512], a[512], b[512];
    uint64_t lo = old->length < now->length ? old->length : now->length;
    uint64_t hi = old->length > now->length ? old->length : now->length;
    int rc;

    path_of(m, i, path, sizeof(path));
    RETRY(e, rc, vmc_vmfs_open(e->host[h].v, path, VMC_VMFS_READ, &f, &e->err));
    model_ok(e, rc);
    assert_int_equal(stat_node(e, h, m, i, &st), VMC_OK);
    if (st.bytes < lo || st.bytes > hi)
        fail_msg("a cut operation left %llu bytes, not %llu to %llu", (unsigned long long)st.bytes,
                 (unsigned long long)lo, (unsigned long long)hi);
    for (unsigned set = 0; set < 2; set++) {
        const struct model_node *n = set ? now : old;
        for (unsigned k = 0; k < n->pieces; k++)
            for (uint64_t off = n->piece[k].offset & ~511ull;
                 off < n->piece[k].offset + n->piece[k].bytes && off < st.bytes; off += 512) {
                int64_t len = vmc_vmfs_pread(f, got, 512, off, &e->err);
                model_ok(e, (int)(len < 0 ? len : 0));
                expect_at(old, a, off, 512);
                expect_at(now, b, off, 512);
                if (old->length < off + 512) /* beyond the old end: zeros until written */
                    memset(a + (old->length > off ? old->length - off : 0), 0,
                           512 - (old->length > off ? old->length - off : 0));
                if (memcmp(got, a, (size_t)len) != 0 && memcmp(got, b, (size_t)len) != 0)
                    fail_msg("%s: sector at %llu is neither old nor new", path,
                             (unsigned long long)off);
            }
    }
    model_ok(e, vmc_vmfs_close(f, &e->err));
}

static void remove_it(struct model_env *e, uint32_t h, struct model *m, int i)
{
    char path[512];
    int rc;

    path_of(m, i, path, sizeof(path));
    RETRY(e, rc, vmc_vmfs_remove(e->host[h].v, path, &e->err));
    model_ok(e, rc);
    m->node[i].used = false;
}

/* A file whose removal was cut is whole, or shorter, or gone. */
static void settle_removed(struct model_env *e, uint32_t h, struct model *m, int i)
{
    struct vmc_vmfs_stat st;

    if (stat_node(e, h, m, i, &st) == VMC_ENOENT) {
        m->node[i].used = false;
        return;
    }
    if (!m->node[i].dir && st.bytes != m->node[i].length) {
        assert_true(st.bytes < m->node[i].length);
        remove_it(e, h, m, i);
    }
}

static void settle_rename(struct model_env *e, uint32_t h, struct model *m)
{
    struct vmc_vmfs_stat st;
    struct model_node moved = m->node[m->a]; /* at its new place */

    m->node[m->a] = m->old_a;
    if (m->b >= 0)
        m->node[m->b] = m->old_b;
    if (stat_node(e, h, m, m->a, &st) == VMC_OK) {
        if (m->b < 0)
            return;
        /* What was to be replaced is whole. */
        assert_int_equal(stat_node(e, h, m, m->b, &st), VMC_OK);
        if (!m->node[m->b].dir)
            assert_int_equal(st.bytes, m->node[m->b].length);
        return;
    }
    if (m->b >= 0)
        m->node[m->b].used = false;
    m->node[m->a] = moved;
    assert_int_equal(stat_node(e, h, m, m->a, &st), VMC_OK);
}

void model_resync(struct model_env *e, uint32_t h, struct model *m)
{
    struct vmc_vmfs_stat st;

    /* Until the dead host's journal has been replayed, its files may show what will not last. */
    for (unsigned i = 0; i < 3; i++)
        let_time_pass(e);
    switch (m->op) {
    case MODEL_NONE:
        break;
    case MODEL_MAKE:
        m->node[m->a].used = true;
        if (stat_node(e, h, m, m->a, &st) == VMC_ENOENT)
            m->node[m->a].used = false;
        break;
    case MODEL_REMOVE:
        settle_removed(e, h, m, m->a);
        break;
    case MODEL_RENAME:
        settle_rename(e, h, m);
        break;
    case MODEL_DATA:
        check_mixed(e, h, m, m->a);
        remove_it(e, h, m, m->a);
        break;
    }
    m->op = MODEL_NONE;
}

/* ---- everything ---------------------------------------------------------------------------------- */

static void compare_dir(struct model_env *e, uint32_t h, struct model *m, int i)
{
    struct vmc_vmfs_dirent d;
    uint64_t cookie = 0;
    char path[512];
    unsigned want = 0, got = 0;
    int rc;

    for (int k = 0; k < MODEL_NODES; k++)
        want += m->node[k].used && m->node[k].parent == i;
    path_of(m, i, path, sizeof(path));
    for (;;) {
        RETRY(e, rc, vmc_vmfs_readdir(e->host[h].v, path, &cookie, &d, &e->err));
        model_ok(e, rc);
        if (rc != 1)
            break;
        if (d.name[0] == '.')
            continue;
        got++;
        if (find_name(m, i, (unsigned)strtoul(d.name + 1, NULL, 10)) < 0)
            fail_msg("%s has %s, which it should not have", path, d.name);
    }
    if (got != want)
        fail_msg("%s has %u entries, not %u", path, got, want);
}

void model_compare(struct model_env *e, uint32_t h, struct model *m)
{
    compare_dir(e, h, m, -1);
    for (int i = 0; i < MODEL_NODES; i++) {
        if (!m->node[i].used)
            continue;
        assert_true(compare_node(e, h, m, i, true));
        if (m->node[i].dir)
            compare_dir(e, h, m, i);
    }
}

static void report(void *ctx, const char *text, bool repaired)
{
    (void)ctx;
    (void)repaired;
    print_error("fsck: %s\n", text);
}

void model_fsck(struct model_env *e)
{
    struct vmc_vmfs *v;
    struct test_path path[MODEL_DISKS];
    struct vmc_blockdev bd[MODEL_DISKS];
    struct vmc_vmfs_fsck_result res;

    for (uint32_t i = 0; i < e->disks; i++) {
        test_path_init(&path[i], &e->disk[i]);
        bd[i] = path[i].bd;
    }
    struct vmc_vmfs_mount_config c = {.size = sizeof(c), .flags = VMC_VMFS_RDONLY, .devs = bd,
                                      .dev_count = e->disks};
    struct vmc_vmfs_fsck_config fc = {.size = sizeof(fc), .report = report};
    model_ok(e, vmc_vmfs_mount(&e->tp.pf, &c, &v, &e->err));
    model_ok(e, vmc_vmfs_fsck(v, &fc, &res, &e->err));
    if (res.errors != 0)
        fail_msg("the checker finds %llu errors", (unsigned long long)res.errors);
    model_ok(e, vmc_vmfs_unmount(v, &e->err));
}
