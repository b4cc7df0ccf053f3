/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Power cuts while VM disks on a volume are written, snapshotted, committed, reverted, cloned,
 * grown, compressed and expanded: the operation stops at a random write (which may be torn), and of
 * what was not flushed each write survives, is torn, or is lost. After that the volume is mounted
 * again, and the disk holds what it held. VMC_DISK_CUTS sets how many, VMC_VMFS_SEED where it
 * begins.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/disk.h>
#include <vmcore/vmfs.h>
#include "test_disk.h"
#include "test_platform.h"

#include <cmocka.h>

#define MIB  (1u << 20)
#define MOST (6 * MIB)

enum op {
    OP_WRITE,
    OP_SNAPSHOT,
    OP_COMMIT,
    OP_REVERT,
    OP_CLONE,
    OP_GROW,
    OP_COMPRESS,
    OP_EXPAND,
    OPS
};
static const char *const op_name[] = {"write", "snapshot", "commit",   "revert",
                                      "clone", "grow",     "compress", "expand"};

struct env {
    struct test_platform tp;
    struct test_disk disk;
    struct test_path path;
    struct vmc_vmfs *v;
    struct vmc_disk_vmfs folder;
    struct vmc_disk_files files;
    struct vmc_error err;
    uint64_t rng;
    bool snap, cold; /* b.vmdk over a.vmdk; a.vmdk is compressed */
    uint32_t kind, bytes;
    /* What a.vmdk and the top of the chain hold; what the top held at the last flush. */
    unsigned char *base, *top, *flushed;
    unsigned char pending[MOST / 512]; /* sectors that were written since */
    uint64_t writes[OPS];              /* of the last run to the end */
    uint64_t cut[OPS], whole[OPS];     /* how often */
};

static uint64_t setting(const char *name, uint64_t usual)
{
    const char *s = getenv(name);
    return s != NULL ? strtoull(s, NULL, 0) : usual;
}

static uint32_t rnd(struct env *e, uint32_t below)
{
    return test_rand(&e->rng) % below;
}

static void ok(struct env *e, int rc)
{
    if (rc < 0)
        fail_msg("%s: %s (last logged: %s)", vmc_status_name(rc), e->err.text, e->tp.last_log);
}

static const char *top_name(const struct env *e)
{
    return e->snap ? "b.vmdk" : "a.vmdk";
}

/* ---- the volume --------------------------------------------------------------------------------
 */

static void sleep_ns(void *ctx, uint64_t ns)
{
    ((struct env *)ctx)->tp.now_ns += ns;
}

static void mount(struct env *e)
{
    struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                      .devs = &e->path.bd,
                                      .dev_count = 1,
                                      .flags = VMC_VMFS_EXPERIMENTAL,
                                      .host_name = "host",
                                      .sleep_ns = sleep_ns,
                                      .sleep_ctx = e,
                                      .cache_bytes = 1 << 20};
    e->path.cut = false;
    e->path.cut_after = UINT64_MAX;
    ok(e, vmc_vmfs_mount(&e->tp.pf, &c, &e->v, &e->err));
    e->folder = (struct vmc_disk_vmfs){.volume = e->v, .folder = "/vm"};
    e->files = vmc_disk_vmfs_files(&e->folder);
}

static void check_volume(struct env *e)
{
    struct vmc_vmfs_fsck_config c = {.size = sizeof(c)};
    struct vmc_vmfs_fsck_result r;

    ok(e, vmc_vmfs_fsck(e->v, &c, &r, &e->err));
    assert_int_equal(r.errors, 0);
}

static void env_init(struct env *e, uint32_t version, uint64_t seed)
{
    memset(e, 0, sizeof(*e));
    test_platform_init(&e->tp);
    test_disk_init(&e->disk, version == 6 ? 700ull * MIB : 350ull * MIB);
    test_path_init(&e->path, &e->disk);
    e->disk.can_discard = true;
    e->rng = seed * 0x9E3779B97F4A7C15ull | 1;
    struct vmc_vmfs_mkfs_config c = {.size = sizeof(c),
                                     .version = version,
                                     .devs = &e->path.bd,
                                     .dev_count = 1,
                                     .experimental = version == 6,
                                     .fds = version == 6 ? 512 : 0,
                                     .sub_blocks = version == 6 ? 64 : 0,
                                     .time_s = 1};
    ok(e, vmc_vmfs_mkfs(&e->tp.pf, &c, &e->err));
    mount(e);
    ok(e, vmc_vmfs_mkdir(e->v, "/vm", 0700, &e->err));
    e->base = calloc(1, MOST);
    e->top = calloc(1, MOST);
    e->flushed = calloc(1, MOST);
    assert_true(e->base != NULL && e->top != NULL && e->flushed != NULL);
}

static void env_fini(struct env *e)
{
    ok(e, vmc_vmfs_unmount(e->v, &e->err));
    free(e->base);
    free(e->top);
    free(e->flushed);
    test_disk_fini(&e->disk);
    test_platform_check(&e->tp);
}

/* ---- contents ----------------------------------------------------------------------------------
 */

static int io(struct vmc_disk *d, uint32_t op, uint64_t off, void *buf, size_t n)
{
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    struct vmc_iovec iov = {.base = buf, .bytes = n};
    struct vmc_block_req r = {
        .op = op, .offset = off, .bytes = n, .iov = &iov, .iov_count = buf != NULL};

    assert_int_equal(bd.ops->submit(bd.ctx, &r), VMC_BLOCK_COMPLETE);
    return r.status;
}

static int flush(struct env *e, struct vmc_disk *d)
{
    int rc = io(d, VMC_BLOCK_FLUSH, 0, NULL, 0);

    if (rc == VMC_OK) {
        memcpy(e->flushed, e->top, MOST);
        memset(e->pending, 0, sizeof(e->pending));
    }
    return rc;
}

static int guest_write(struct env *e, struct vmc_disk *d)
{
    static unsigned char buf[64 * 512];
    uint64_t off = rnd(e, e->bytes / 512) * 512ull;
    bool zero = rnd(e, 12) == 0;
    size_t n = (1 + rnd(e, zero ? 3000 : 64)) * 512;

    n = n > e->bytes - off ? e->bytes - off : n;
    /* Between two flushes no sector is written twice: what may be there has two values. */
    if (memchr(e->pending + off / 512, 1, n / 512) != NULL && flush(e, d) != VMC_OK)
        return VMC_EIO;
    memset(e->pending + off / 512, 1, n / 512);
    if (zero) {
        memset(e->top + off, 0, n);
        return io(d, VMC_BLOCK_WRITE_ZEROES, off, NULL, n);
    }
    memset(buf, (int)(1 + rnd(e, 255)), n);
    memcpy(e->top + off, buf, n);
    return io(d, VMC_BLOCK_WRITE, off, buf, n);
}

static int guest_writes(struct env *e)
{
    struct vmc_disk *d;
    int rc = vmc_disk_open(&e->tp.pf, &e->files, top_name(e), true, &d, &e->err);

    if (rc != VMC_OK)
        return rc;
    memset(e->pending, 0, sizeof(e->pending));
    for (unsigned i = 0; i < 12 && rc == VMC_OK; i++) {
        rc = guest_write(e, d);
        if (rc == VMC_OK && rnd(e, 3) == 0)
            rc = flush(e, d);
    }
    int rc2 = vmc_disk_close(d);
    return rc != VMC_OK ? rc : rc2;
}

/* Every sector is as it was to be, or as it was at the last flush where that is allowed. */
static void compare(struct env *e, const char *name, unsigned char *want, const unsigned char *also)
{
    struct vmc_disk *d;
    unsigned char *got = malloc(MOST);
    struct vmc_block_info info;
    uint64_t bad;

    assert_non_null(got);
    ok(e, vmc_disk_open(&e->tp.pf, &e->files, name, false, &d, &e->err));
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    ok(e, bd.ops->info(bd.ctx, &info));
    assert_int_equal(info.bytes, e->bytes);
    ok(e, io(d, VMC_BLOCK_READ, 0, got, e->bytes));
    for (uint32_t at = 0; at < e->bytes; at += 512) {
        if (memcmp(got + at, want + at, 512) != 0 &&
            (also == NULL || memcmp(got + at, also + at, 512) != 0))
            fail_msg("%s: sector %u is wrong (0x%02x, not 0x%02x)", name, at / 512, got[at],
                     want[at]);
    }
    memcpy(want, got, e->bytes); /* whatever it is now */
    ok(e, vmc_disk_check(d, &bad, NULL));
    assert_int_equal(bad, 0);
    ok(e, vmc_disk_close(d));
    free(got);
}

/* ---- operations --------------------------------------------------------------------------------
 */

static bool possible(const struct env *e, enum op op)
{
    switch (op) {
    case OP_SNAPSHOT:
    case OP_COMPRESS:
        return !e->snap;
    case OP_COMMIT:
    case OP_REVERT:
        return e->snap;
    case OP_GROW:
        return !e->snap && !e->cold && e->bytes < MOST;
    case OP_EXPAND:
        return !e->snap && e->cold;
    default:
        return true;
    }
}

static int run(struct env *e, enum op op)
{
    const struct vmc_platform *pf = &e->tp.pf;

    switch (op) {
    case OP_SNAPSHOT:
        return vmc_disk_snapshot(pf, &e->files, "a.vmdk", "b.vmdk",
                                 rnd(e, 2) ? VMC_DISK_COWD : VMC_DISK_SESPARSE, &e->err);
    case OP_COMMIT:
        return vmc_disk_commit(pf, &e->files, "b.vmdk", NULL, &e->err);
    case OP_REVERT:
        return vmc_disk_revert(pf, &e->files, "b.vmdk", &e->err);
    case OP_CLONE:
        return vmc_disk_clone(pf, &e->files, top_name(e), &e->files, "c.vmdk", VMC_DISK_THIN, NULL,
                              &e->err);
    case OP_GROW:
        return vmc_disk_grow(pf, &e->files, "a.vmdk", e->bytes + MIB / 2, &e->err);
    case OP_COMPRESS:
        return vmc_disk_compress(pf, &e->files, "a.vmdk", NULL, &e->err);
    case OP_EXPAND:
        return vmc_disk_expand(pf, &e->files, "a.vmdk", NULL, &e->err);
    default:
        return guest_writes(e);
    }
}

static bool there(struct env *e, const char *path)
{
    struct vmc_vmfs_stat st;
    int rc = vmc_vmfs_stat(e->v, path, &st, &e->err);

    if (rc != VMC_ENOENT)
        ok(e, rc);
    return rc == VMC_OK;
}

static void remove_file(struct env *e, const char *path)
{
    if (there(e, path))
        ok(e, vmc_vmfs_remove(e->v, path, &e->err));
}

/* A copy that is there is whole; one that was interrupted can be made again. */
static void settle_clone(struct env *e, bool done)
{
    assert_true(!done || there(e, "/vm/c.vmdk"));
    if (there(e, "/vm/c.vmdk")) {
        compare(e, "c.vmdk", e->top, NULL);
        ok(e, vmc_disk_remove(&e->tp.pf, &e->files, "c.vmdk", &e->err));
    }
    remove_file(e, "/vm/c-flat.vmdk");
}

static void settle_snapshot(struct env *e, bool done)
{
    e->snap = there(e, "/vm/b.vmdk");
    assert_true(!done || e->snap);
    if (!e->snap) {
        remove_file(e, "/vm/b-delta.vmdk");
        remove_file(e, "/vm/b-sesparse.vmdk");
    }
}

static uint32_t size_of(struct env *e)
{
    struct vmc_disk *d;
    struct vmc_block_info info;

    ok(e, vmc_disk_open(&e->tp.pf, &e->files, "a.vmdk", false, &d, &e->err));
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    ok(e, bd.ops->info(bd.ctx, &info));
    ok(e, vmc_disk_close(d));
    return (uint32_t)info.bytes;
}

static uint32_t depth_of(struct env *e)
{
    struct vmc_disk *d;

    ok(e, vmc_disk_open(&e->tp.pf, &e->files, "a.vmdk", false, &d, &e->err));
    uint32_t depth = vmc_disk_depth(d);
    ok(e, vmc_disk_close(d));
    return depth;
}

/* What the operation may have changed; contents are compared by the caller. */
static void settle(struct env *e, enum op op, bool done)
{
    uint32_t old = e->bytes;

    switch (op) {
    case OP_SNAPSHOT:
        settle_snapshot(e, done);
        break;
    case OP_COMMIT:
        compare(e, "a.vmdk", e->base, e->top);
        if (done)
            assert_memory_equal(e->base, e->top, e->bytes);
        break;
    case OP_CLONE:
        settle_clone(e, done);
        break;
    case OP_GROW:
        e->bytes = size_of(e);
        assert_true(e->bytes == old + MIB / 2 || (!done && e->bytes == old));
        break;
    case OP_COMPRESS:
    case OP_EXPAND:
        e->cold = depth_of(e) == 2;
        assert_true(!done || e->cold == (op == OP_COMPRESS));
        break;
    default:
        break;
    }
}

/* Reverted: the old contents or the parent's, as a whole. */
static void compare_reverted(struct env *e, bool done)
{
    struct vmc_disk *d;
    unsigned char *got = malloc(MOST);

    assert_non_null(got);
    ok(e, vmc_disk_open(&e->tp.pf, &e->files, "b.vmdk", false, &d, &e->err));
    ok(e, io(d, VMC_BLOCK_READ, 0, got, e->bytes));
    ok(e, vmc_disk_close(d));
    if (memcmp(got, e->base, e->bytes) != 0 && (done || memcmp(got, e->top, e->bytes) != 0))
        fail_msg("reverted to neither the old contents nor the parent's");
    memcpy(e->top, got, e->bytes);
    free(got);
}

/* One operation that may be cut; then the power is off and on again. */
static void one(struct env *e, enum op op, uint64_t seed)
{
    uint64_t before = e->disk.writes, most = e->writes[op] + e->writes[op] / 8 + 20;
    bool whole = rnd(e, 4) == 0; /* the power goes after it */

    e->disk.track = true;
    memcpy(e->flushed, e->top, MOST);
    e->path.torn = true;
    e->path.seed = test_rand(&e->rng);
    e->path.cut_after = whole ? UINT64_MAX : test_rand(&e->rng) % most;
    int rc = run(e, op);
    bool cut = e->path.cut;
    if (!cut)
        ok(e, rc);
    bool done = rc == VMC_OK;
    if (done)
        e->writes[op] = e->disk.writes - before;
    e->cut[op] += cut;
    e->whole[op] += !cut;
    vmc_vmfs_abandon(e->v);
    test_disk_power_cut(&e->disk, seed);
    e->disk.track = false;
    mount(e);
    settle(e, op, done);
    if (op == OP_REVERT)
        compare_reverted(e, done);
    else
        compare(e, top_name(e), e->top, op == OP_WRITE && !done ? e->flushed : NULL);
    if (!e->snap)
        memcpy(e->base, e->top, MOST);
}

static void start_over(struct env *e)
{
    if (e->bytes != 0) {
        if (e->snap)
            ok(e, vmc_disk_remove(&e->tp.pf, &e->files, "b.vmdk", &e->err));
        ok(e, vmc_disk_remove(&e->tp.pf, &e->files, "a.vmdk", &e->err));
    }
    e->snap = e->cold = false;
    e->bytes = 2 * MIB;
    e->kind = VMC_DISK_THIN + rnd(e, 4) / 2;
    memset(e->base, 0, MOST);
    memset(e->top, 0, MOST);
    ok(e, vmc_disk_create(&e->tp.pf, &e->files, "a.vmdk", e->bytes, e->kind, &e->err));
}

static void cuts(uint32_t version, uint64_t count)
{
    struct env e;
    uint64_t seed = setting("VMC_VMFS_SEED", 1) + version;

    print_message("VMFS%u, seed %llu, %llu power cuts\n", version, (unsigned long long)seed,
                  (unsigned long long)count);
    env_init(&e, version, seed);
    for (uint64_t n = 0; n < count; n++) {
        if (n % 50 == 0) {
            start_over(&e);
            check_volume(&e);
        }
        enum op op = OP_WRITE;
        if (n % 2 != 0)
            while (!possible(&e, op = rnd(&e, OPS)))
                ;
        one(&e, op, n % 8 == 0 ? 0 : n % 8 == 1 ? 1 : test_rand(&e.rng) | 2);
    }
    check_volume(&e);
    for (unsigned i = 0; i < OPS; i++)
        print_message("%-9s %6llu cut, %6llu to the end\n", op_name[i],
                      (unsigned long long)e.cut[i], (unsigned long long)e.whole[i]);
    env_fini(&e);
}

static void vmfs5(void **state)
{
    (void)state;
    cuts(5, setting("VMC_DISK_CUTS", 300));
}
static void vmfs6(void **state)
{
    (void)state;
    cuts(6, setting("VMC_DISK_CUTS", 300) / 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(vmfs5), cmocka_unit_test(vmfs6)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
