/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Several hosts on one volume. They take turns, so that the model knows what every one of them has
 * to see; at random one is killed in the middle of an operation, or stalls past its lease.
 * VMC_VMFS_HOST_OPS and VMC_VMFS_SEED set length and beginning.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmfs_model.h"

#include <cmocka.h>

#define MIB (1ull << 20)

static uint64_t setting(const char *name, uint64_t usual)
{
    const char *s = getenv(name);
    return s != NULL ? strtoull(s, NULL, 0) : usual;
}

/* While one host waits, the others live on. */
static void live_on(void *ctx, uint64_t ns)
{
    struct model_env *e = ctx;

    e->tp.now_ns += ns;
    for (uint32_t h = 0; h < e->hosts; h++)
        if (e->host[h].v != NULL && !e->host[h].waiting) {
            e->host[h].waiting = true;
            model_ok(e, vmc_vmfs_beat(e->host[h].v, &e->err));
            e->host[h].waiting = false;
        }
}

static void beat_all(struct model_env *e)
{
    for (uint32_t h = 0; h < e->hosts; h++)
        if (e->host[h].v != NULL && !e->host[h].path[0].cut) {
            int rc = vmc_vmfs_beat(e->host[h].v, &e->err);
            if (!e->host[h].path[0].cut)
                model_ok(e, rc);
        }
}

/* Cut off in the middle of whatever it does next; the others go on. */
static void kill_one(struct model_env *e, struct model *m, uint32_t h)
{
    for (uint32_t i = 0; i < e->disks; i++) {
        e->host[h].path[i].torn = true;
        e->host[h].path[i].cut_after = test_rand(&m->rng) % 30;
    }
    while (model_step(e, h, m))
        beat_all(e);
    model_kill(e, h);
    uint32_t other = (h + 1) % e->hosts;
    model_resync(e, other, m);
    model_mount(e, h);
}

/* Stops beating for longer than its lease. If another host needed its locks, it is out. */
static void stall_one(struct model_env *e, struct model *m, uint32_t h)
{
    struct model_host *stalled = &e->host[h];
    struct vmc_vmfs *v = stalled->v;

    stalled->v = NULL; /* not beaten for while time passes */
    uint32_t other = (h + 1) % e->hosts;
    for (unsigned i = 0; i < 12; i++) {
        e->tp.now_ns += 2500000000ull;
        beat_all(e);
        if (stalled->open == NULL || i % 4 != 3)
            continue;
        /* Its open file is wanted elsewhere. */
        char path[] = "/none";
        struct vmc_vmfs_stat st;
        int rc = vmc_vmfs_stat(e->host[other].v, path, &st, &e->err);
        assert_true(rc == VMC_ENOENT || rc == VMC_EBUSY);
    }
    for (unsigned i = 0; i < 20; i++) {
        bool moved = model_step(e, other, m);
        assert_true(moved);
    }
    stalled->v = v;
    /* Awake again: it may go on only if nobody took its place. */
    int rc = vmc_vmfs_beat(v, &e->err);
    if (rc == VMC_EFENCED) {
        model_kill(e, h);
        model_mount(e, h);
    } else {
        model_ok(e, rc);
    }
}

static void hosts(uint32_t version, uint32_t n, uint64_t ops)
{
    struct model_env e;
    struct model m;
    uint64_t seed = setting("VMC_VMFS_SEED", 5) + n * 10 + version;

    print_message("VMFS%u, %u hosts, seed %llu, %llu operations\n", version, n,
                  (unsigned long long)seed, (unsigned long long)ops);
    model_env_init(&e, 1, 700 * MIB, version, 1, n);
    e.small = true;
    model_init(&m, seed);
    for (uint32_t h = 0; h < n; h++)
        model_mount(&e, h);
    for (uint64_t i = 0; i < ops; i++) {
        uint32_t h = test_rand(&m.rng) % n;
        assert_true(model_step(&e, h, &m));
        beat_all(&e);
        if (n > 1 && i % 300 == 299)
            kill_one(&e, &m, test_rand(&m.rng) % n);
        if (n > 1 && i % 700 == 699)
            stall_one(&e, &m, test_rand(&m.rng) % n);
        if (i % 1000 == 999)
            model_compare(&e, h, &m);
    }
    for (uint32_t h = 0; h < n; h++)
        model_compare(&e, h, &m);
    for (uint32_t h = 0; h < n; h++)
        model_unmount(&e, &m, h);
    model_fsck(&e);
    model_env_fini(&e);
}

static void two(void **state)
{
    (void)state;
    hosts(5, 2, setting("VMC_VMFS_HOST_OPS", 15000) / 3);
}
static void four(void **state)
{
    (void)state;
    hosts(5, 4, setting("VMC_VMFS_HOST_OPS", 15000) / 3);
}
static void two_vmfs6(void **state)
{
    (void)state;
    hosts(6, 2, setting("VMC_VMFS_HOST_OPS", 15000) / 6);
}
static void three_vmfs3(void **state)
{
    (void)state;
    hosts(3, 3, setting("VMC_VMFS_HOST_OPS", 15000) / 3);
}

static void file_is_busy_elsewhere(void **state)
{
    (void)state;
    struct model_env e;
    struct vmc_vmfs_file *f, *g;
    model_env_init(&e, 1, 300 * MIB, 5, 1, 2);
    model_mount(&e, 0);
    model_mount(&e, 1);
    model_ok(&e, vmc_vmfs_open(e.host[0].v, "/disk", VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &e.err));
    /* Writing, reading and removing are refused, and the holder is named. */
    assert_int_equal(vmc_vmfs_open(e.host[1].v, "/disk", VMC_VMFS_WRITE, &g, &e.err), VMC_EBUSY);
    assert_non_null(strstr(e.err.text, "host0"));
    assert_int_equal(vmc_vmfs_open(e.host[1].v, "/disk", VMC_VMFS_READ, &g, &e.err), VMC_EBUSY);
    assert_int_equal(vmc_vmfs_remove(e.host[1].v, "/disk", &e.err), VMC_EBUSY);
    struct vmc_vmfs_lock lock;
    model_ok(&e, vmc_vmfs_lock_query(e.host[1].v, "/disk", &lock, &e.err));
    assert_int_equal(lock.mode, 1);
    assert_string_equal(lock.host_name, "host0");
    model_ok(&e, vmc_vmfs_close(f, &e.err));
    /* Readers share. */
    model_ok(&e, vmc_vmfs_open(e.host[0].v, "/disk", VMC_VMFS_READ, &f, &e.err));
    model_ok(&e, vmc_vmfs_open(e.host[1].v, "/disk", VMC_VMFS_READ, &g, &e.err));
    model_ok(&e, vmc_vmfs_lock_query(e.host[1].v, "/disk", &lock, &e.err));
    assert_int_equal(lock.mode, 2);
    assert_int_equal(lock.holders, 2);
    model_ok(&e, vmc_vmfs_close(f, &e.err));
    model_ok(&e, vmc_vmfs_close(g, &e.err));
    model_ok(&e, vmc_vmfs_open(e.host[1].v, "/disk", VMC_VMFS_WRITE, &g, &e.err));
    model_ok(&e, vmc_vmfs_close(g, &e.err));
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    model_ok(&e, vmc_vmfs_unmount(e.host[1].v, &e.err));
    model_env_fini(&e);
}

/* Renames take a tree deeper than any path that was made; the model has to name all of it. */
static void model_follows_deep_trees(void **state)
{
    (void)state;
    struct model_env e;
    struct model m;
    char path[512] = "";

    model_env_init(&e, 1, 300 * MIB, 5, 1, 1);
    model_init(&m, 1);
    model_mount(&e, 0);
    for (int i = 0; i < MODEL_NODES; i++) {
        m.node[i] = (struct model_node){
            .used = true, .dir = true, .parent = i - 1, .name = (unsigned)i % 40};
        size_t at = strlen(path);
        snprintf(path + at, sizeof(path) - at, "/n%u", m.node[i].name);
        model_ok(&e, vmc_vmfs_mkdir(e.host[0].v, path, 0700, &e.err));
    }
    model_compare(&e, 0, &m);
    model_unmount(&e, &m, 0);
    model_fsck(&e);
    model_env_fini(&e);
}

/*
 * A host that is cut off while it reads is lost like one that writes; its first byte may well be a
 * hole, which needs no disk.
 */
static void model_loses_a_host_that_reads(void **state)
{
    (void)state;
    struct model_env e;
    struct model m;
    unsigned lost = 0, read = 0;

    model_env_init(&e, 1, 300 * MIB, 5, 1, 1);
    e.small = true;
    model_init(&m, 1);
    model_mount(&e, 0);
    m.node[0] = (struct model_node){.used = true, .parent = -1, .name = 1, .length = 2 * MIB};
    struct model_host *host = &e.host[0];
    model_ok(&e, vmc_vmfs_open(host->v, "/n1", VMC_VMFS_READ | VMC_VMFS_WRITE | VMC_VMFS_CREATE,
                               &host->open, &e.err));
    model_ok(&e, vmc_vmfs_truncate(host->open, 2 * MIB, &e.err));
    char *buf = calloc(1, MIB);
    assert_int_equal(vmc_vmfs_pwrite(host->open, buf, MIB, MIB, &e.err), MIB);
    free(buf);
    /* What it holds is never seen: only that it is read from the disk. */
    m.node[0].piece[m.node[0].pieces++] =
        (struct model_piece){.offset = MIB, .bytes = MIB, .seed = 7};
    host->path[0].cut = true;
    for (uint64_t seed = 1; seed < 400; seed++) {
        uint64_t rng = m.rng = seed * 0x9E3779B97F4A7C15ull | 1;
        uint32_t step = test_rand(&rng) % 20;
        if (step < 14 || step > 16)
            continue; /* not a read */
        read++;
        lost += !model_step(&e, 0, &m);
    }
    assert_in_range(lost, 1, read - 1);
    model_kill(&e, 0);
    model_env_fini(&e);
}

/* A host wakes up after its place was taken: nothing it does reaches the disk. */
static void stalled_host_is_fenced(void **state)
{
    (void)state;
    struct model_env e;
    struct vmc_vmfs_file *f, *g;
    char buf[4096], back[4096];
    model_env_init(&e, 1, 300 * MIB, 5, 1, 2);
    model_mount(&e, 0);
    model_mount(&e, 1);
    model_ok(&e, vmc_vmfs_open(e.host[0].v, "/disk", VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &e.err));
    model_ok(&e, vmc_vmfs_allocate(f, 0, 2 * MIB, VMC_VMFS_ALLOC_EAGER, &e.err));
    memset(buf, 1, sizeof(buf));
    assert_int_equal(vmc_vmfs_pwrite(f, buf, sizeof(buf), 0, &e.err), sizeof(buf));
    model_ok(&e, vmc_vmfs_fsync(f, &e.err));
    int rc = VMC_EBUSY;
    struct vmc_vmfs *stalled = e.host[0].v;
    e.host[0].v = NULL; /* does not beat */
    for (unsigned i = 0; i < 30 && rc == VMC_EBUSY; i++) {
        e.tp.now_ns += 1000000000ull;
        model_ok(&e, vmc_vmfs_beat(e.host[1].v, &e.err));
        rc = vmc_vmfs_open(e.host[1].v, "/disk", VMC_VMFS_READ | VMC_VMFS_WRITE, &g, &e.err);
    }
    model_ok(&e, rc);
    memset(buf, 2, sizeof(buf));
    assert_int_equal(vmc_vmfs_pwrite(g, buf, sizeof(buf), 0, &e.err), sizeof(buf));
    /* The first host is back. */
    memset(buf, 3, sizeof(buf));
    assert_int_equal(vmc_vmfs_pwrite(f, buf, sizeof(buf), 0, &e.err), VMC_EFENCED);
    assert_int_equal(vmc_vmfs_create(stalled, "/x", 0600, &e.err), VMC_EFENCED);
    assert_int_equal(vmc_vmfs_pread(g, back, sizeof(back), 0, &e.err), sizeof(back));
    memset(buf, 2, sizeof(buf));
    assert_memory_equal(back, buf, sizeof(buf));
    vmc_vmfs_abandon(stalled);
    model_ok(&e, vmc_vmfs_close(g, &e.err));
    model_ok(&e, vmc_vmfs_unmount(e.host[1].v, &e.err));
    model_fsck(&e);
    model_env_fini(&e);
}

/* A disk whose host is stopped right after a write, while another host takes its file over. */
struct stopping {
    struct vmc_blockdev below;
    struct vmc_blockdev_ops ops;
    struct model_env *e;
    bool armed;
    struct vmc_vmfs_file *taken;
};

static int stopping_submit(void *ctx, struct vmc_block_req *r)
{
    struct stopping *s = ctx;
    int rc = s->below.ops->submit(s->below.ctx, r);
    unsigned char buf[1000];

    if (!s->armed || r->op != VMC_BLOCK_WRITE)
        return rc;
    s->armed = false;
    int opened = VMC_EBUSY;
    for (unsigned i = 0; i < 30 && opened == VMC_EBUSY; i++) {
        s->e->tp.now_ns += 1000000000ull;
        model_ok(s->e, vmc_vmfs_beat(s->e->host[1].v, &s->e->err));
        opened = vmc_vmfs_open(s->e->host[1].v, "/disk", VMC_VMFS_READ | VMC_VMFS_WRITE, &s->taken,
                               &s->e->err);
    }
    model_ok(s->e, opened);
    memset(buf, 2, sizeof(buf));
    assert_int_equal(vmc_vmfs_pwrite(s->taken, buf, sizeof(buf), 0, &s->e->err), sizeof(buf));
    return rc;
}

static int stopping_info(void *ctx, struct vmc_block_info *out)
{
    struct stopping *s = ctx;
    return s->below.ops->info(s->below.ctx, out);
}

static int stopping_compare_write(void *ctx, uint64_t off, const void *expect, const void *data,
                                  size_t bytes)
{
    struct stopping *s = ctx;
    return s->below.ops->compare_write(s->below.ctx, off, expect, data, bytes);
}

/* Sectors, then a part of one: the lease ends between the two. */
static void host_stalled_within_a_write_stops_there(void **state)
{
    (void)state;
    struct model_env e;
    struct vmc_vmfs_file *f;
    unsigned char buf[1000], back[1000];
    model_env_init(&e, 1, 300 * MIB, 5, 1, 2);
    struct stopping s = {.below = e.host[0].bd[0], .e = &e};
    s.ops = (struct vmc_blockdev_ops){.info = stopping_info,
                                      .submit = stopping_submit,
                                      .compare_write = stopping_compare_write};
    e.host[0].bd[0] = (struct vmc_blockdev){.ops = &s.ops, .ctx = &s};
    model_mount(&e, 0);
    model_mount(&e, 1);
    struct vmc_vmfs *stalled = e.host[0].v;
    model_ok(&e, vmc_vmfs_open(stalled, "/disk", VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &e.err));
    model_ok(&e, vmc_vmfs_allocate(f, 0, 2 * MIB, VMC_VMFS_ALLOC_EAGER, &e.err));
    model_ok(&e, vmc_vmfs_fsync(f, &e.err));
    memset(buf, 1, sizeof(buf));
    s.armed = true;
    e.host[0].v = NULL; /* does not beat */
    assert_int_equal(vmc_vmfs_pwrite(f, buf, sizeof(buf), 0, &e.err), VMC_EFENCED);
    assert_non_null(s.taken);
    assert_int_equal(vmc_vmfs_pread(s.taken, back, sizeof(back), 0, &e.err), sizeof(back));
    memset(buf, 2, sizeof(buf));
    assert_memory_equal(back, buf, sizeof(buf));
    vmc_vmfs_abandon(stalled);
    model_ok(&e, vmc_vmfs_close(s.taken, &e.err));
    model_ok(&e, vmc_vmfs_unmount(e.host[1].v, &e.err));
    model_fsck(&e);
    model_env_fini(&e);
}

/* Without compare-and-write the same rules hold, by the bakery. */
static void without_compare_write(void **state)
{
    (void)state;
    struct model_env e;
    struct model m;
    model_env_init(&e, 1, 300 * MIB, 5, 1, 2);
    e.disk[0].no_caw = true;
    e.small = true;
    model_init(&m, 99);
    model_mount(&e, 0);
    model_mount(&e, 1);
    struct vmc_vmfs_info info;
    vmc_vmfs_info(e.host[0].v, &info);
    assert_false(info.compare_write);
    for (unsigned i = 0; i < 150; i++) {
        assert_true(model_step(&e, i % 2, &m));
        beat_all(&e);
    }
    model_compare(&e, 1, &m);
    model_unmount(&e, &m, 0);
    model_unmount(&e, &m, 1);
    model_fsck(&e);
    model_env_fini(&e);
}

/* A disk whose host is stopped right after it read something, and wakes up too late. */
struct waking {
    struct vmc_blockdev below;
    struct vmc_blockdev_ops ops;
    struct model_env *e;
    uint64_t at; /* after a read of this place; 0: never */
    bool recovered;
};

static int waking_submit(void *ctx, struct vmc_block_req *r)
{
    struct waking *w = ctx;
    struct vmc_vmfs_heartbeat hb;
    uint64_t offset = r->offset;
    int rc = w->below.ops->submit(w->below.ctx, r);

    if (w->at == 0 || r->op != VMC_BLOCK_READ || offset != w->at)
        return rc;
    w->at = 0;
    for (unsigned i = 0; i < 30; i++) {
        w->e->tp.now_ns += 1000000000ull;
        model_ok(w->e, vmc_vmfs_beat(w->e->host[1].v, &w->e->err));
    }
    w->recovered = true;
    for (uint32_t c = 0; vmc_vmfs_heartbeats(w->e->host[1].v, &c, &hb, &w->e->err) == 1;)
        w->recovered = w->recovered && (!hb.in_use || hb.self);
    return rc;
}

static int waking_info(void *ctx, struct vmc_block_info *out)
{
    struct waking *w = ctx;
    return w->below.ops->info(w->below.ctx, out);
}

/* Where the first sector is that begins with these eight bytes. */
static uint64_t find_sector(const struct model_env *e, uint64_t from, const char *bytes)
{
    for (uint64_t at = from; at + 512 <= e->disk[0].bytes; at += 512)
        if (memcmp(e->disk[0].data + at, bytes, 8) == 0)
            return at;
    fail_msg("there is no such sector");
    return 0;
}

/* A host stops, is given up and recovered, and wakes up: it is over, and writes nothing. */
static void stall_and_wake(bool in_turn)
{
    struct model_env e;
    unsigned char *disk, before[2][512];
    model_env_init(&e, 1, 300 * MIB, 5, 1, 2);
    e.disk[0].no_caw = true;
    struct waking w = {.below = e.host[0].bd[0], .e = &e};
    w.ops = (struct vmc_blockdev_ops){.info = waking_info, .submit = waking_submit};
    e.host[0].bd[0] = (struct vmc_blockdev){.ops = &w.ops, .ctx = &w};
    model_mount(&e, 0);
    model_mount(&e, 1);
    struct vmc_vmfs *stalled = e.host[0].v;
    model_ok(&e, vmc_vmfs_mkdir(stalled, "/early", 0700, &e.err));
    e.host[0].v = NULL;
    /* Registers are at 1 MiB of the volume, heartbeat slots at 3 MiB; it has the first ones. */
    uint64_t reg = find_sector(&e, 0, "VCMBakry"), slot = reg + 2 * MIB;
    disk = e.disk[0].data;
    w.at = in_turn ? reg : slot;
    assert_int_equal(in_turn ? vmc_vmfs_mkdir(stalled, "/late", 0700, &e.err)
                             : vmc_vmfs_beat(stalled, &e.err),
                     VMC_EFENCED);
    assert_true(w.recovered);
    memcpy(before[0], disk + reg, 512);
    memcpy(before[1], disk + slot, 512);
    assert_int_equal(vmc_vmfs_mkdir(stalled, "/later", 0700, &e.err), VMC_EFENCED);
    assert_memory_equal(before[0], disk + reg, 512);
    assert_memory_equal(before[1], disk + slot, 512);
    vmc_vmfs_abandon(stalled);
    model_ok(&e, vmc_vmfs_unmount(e.host[1].v, &e.err));
    model_fsck(&e);
    model_env_fini(&e);
}
static void host_stalled_within_its_beat_is_over(void **state)
{
    (void)state;
    stall_and_wake(false);
}
/* The other one beats all the same. */
static void host_stalled_within_its_turn_is_over(void **state)
{
    (void)state;
    stall_and_wake(true);
}

/* Late, but alone: nobody can have given it up. */
static void late_host_that_is_alone_goes_on(void **state)
{
    (void)state;
    struct model_env e;
    model_env_init(&e, 1, 300 * MIB, 5, 1, 1);
    e.disk[0].no_caw = true;
    model_mount(&e, 0);
    e.tp.now_ns += 100000000000ull;
    model_ok(&e, vmc_vmfs_mkdir(e.host[0].v, "/late", 0700, &e.err));
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    model_fsck(&e);
    model_env_fini(&e);
}

/* What is left in the register of a session that is over ends no numbers. */
static void last_ticket_number_of_nobody(void **state)
{
    (void)state;
    struct model_env e;
    model_env_init(&e, 1, 300 * MIB, 5, 1, 2);
    e.disk[0].no_caw = true;
    model_mount(&e, 0);
    model_ok(&e, vmc_vmfs_mkdir(e.host[0].v, "/early", 0700, &e.err));
    unsigned char *reg = e.disk[0].data + find_sector(&e, 0, "VCMBakry") + 5 * 512;
    for (unsigned back = 0; back < 3; back++) {
        memcpy(reg, "VCMBakry\7", 9);
        memset(reg + 24, 0xFF, 8);
        reg[24] = (unsigned char)(0xFF - back);
        model_ok(&e, vmc_vmfs_mkdir(e.host[0].v, back == 0 ? "/a" : back == 1 ? "/b" : "/c", 0700,
                                    &e.err));
    }
    model_mount(&e, 1);
    model_ok(&e, vmc_vmfs_mkdir(e.host[1].v, "/d", 0700, &e.err));
    model_ok(&e, vmc_vmfs_unmount(e.host[0].v, &e.err));
    model_ok(&e, vmc_vmfs_unmount(e.host[1].v, &e.err));
    model_fsck(&e);
    model_env_fini(&e);
}

static int try_mount(struct model_env *e, uint32_t h)
{
    struct model_host *host = &e->host[h];
    struct vmc_vmfs_mount_config c = {.size = sizeof(c), .devs = host->bd, .dev_count = e->disks,
                                      .host_name = h == 0 ? "host0" : "host1",
                                      .sleep_ns = live_on, .sleep_ctx = e};
    host->waiting = true;
    int rc = vmc_vmfs_mount(&e->tp.pf, &c, &host->v, &e->err);
    host->waiting = false;
    if (rc != VMC_OK)
        host->v = NULL;
    return rc;
}

/* One has compare-and-write on the disk, the other has none: neither would see the other's locks. */
static void hosts_that_lock_in_two_ways(void **state)
{
    (void)state;
    struct model_env e;
    struct vmc_vmfs_heartbeat hb;
    uint32_t cookie = 0, used = 0;

    model_env_init(&e, 1, 300 * MIB, 5, 1, 2);
    for (uint32_t first = 0; first < 2; first++) {
        e.disk[0].no_caw = first == 1;
        model_mount(&e, 0);
        model_ok(&e, vmc_vmfs_mkdir(e.host[0].v, first == 0 ? "/a" : "/b", 0700, &e.err));
        e.disk[0].no_caw = first == 0;
        assert_int_equal(try_mount(&e, 1), VMC_EBUSY);
        assert_non_null(strstr(e.err.text, "host0"));
        assert_non_null(strstr(e.err.text, "compare-and-write"));
        for (cookie = used = 0; vmc_vmfs_heartbeats(e.host[0].v, &cookie, &hb, &e.err) == 1;)
            used += hb.in_use;
        assert_int_equal(used, 1); /* it left nothing behind */
        /* The first one dies: the second takes over in its own way. */
        model_kill(&e, 0);
        model_ok(&e, try_mount(&e, 1));
        model_ok(&e, vmc_vmfs_mkdir(e.host[1].v, first == 0 ? "/c" : "/d", 0700, &e.err));
        model_ok(&e, vmc_vmfs_unmount(e.host[1].v, &e.err));
        e.host[1].v = NULL;
    }
    e.disk[0].no_caw = false;
    model_fsck(&e);
    model_env_fini(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_is_busy_elsewhere),
        cmocka_unit_test(stalled_host_is_fenced),
        cmocka_unit_test(host_stalled_within_a_write_stops_there),
        cmocka_unit_test(model_follows_deep_trees),
        cmocka_unit_test(model_loses_a_host_that_reads),
        cmocka_unit_test(two),
        cmocka_unit_test(four),
        cmocka_unit_test(three_vmfs3), cmocka_unit_test(two_vmfs6),
        cmocka_unit_test(without_compare_write),
        cmocka_unit_test(host_stalled_within_its_beat_is_over),
        cmocka_unit_test(host_stalled_within_its_turn_is_over),
        cmocka_unit_test(late_host_that_is_alone_goes_on),
        cmocka_unit_test(last_ticket_number_of_nobody),
        cmocka_unit_test(hosts_that_lock_in_two_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
