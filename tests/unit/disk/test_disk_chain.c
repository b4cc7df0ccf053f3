/* SPDX-License-Identifier: BSD-2-Clause */
/* VM disks on files in memory: chains against a model, flush before a crash, hostile headers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/disk.h>
#include "disk_rig.h"
#include "test_disk.h"
#include "test_platform.h"

#include <cmocka.h>

#define SIZE   (5u << 20)
#define PIECES 8u

static int io(struct vmc_blockdev bd, uint32_t op, uint64_t off, void *buf, size_t n)
{
    struct vmc_iovec iov = {.base = buf, .bytes = n};
    struct vmc_block_req r = {
        .op = op, .offset = off, .bytes = n, .iov = &iov, .iov_count = buf != NULL};
    assert_int_equal(bd.ops->submit(bd.ctx, &r), VMC_BLOCK_COMPLETE);
    return r.status;
}

/* Random writes to the disk and to the model; then both are the same. */
static void scribble(struct env *e, const char *name, unsigned char *model, uint64_t *rng,
                     unsigned n)
{
    struct vmc_disk *d;
    unsigned char *buf = malloc(SIZE);
    ok(e, vmc_disk_open(&e->tp.pf, &e->files, name, true, &d, &e->err));
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    for (unsigned i = 0; i < n; i++) {
        uint64_t off = test_rand(rng) % (SIZE / 512) * 512;
        size_t len = (1 + test_rand(rng) % 64) * 512;
        if (len > SIZE - off)
            len = SIZE - off;
        memset(buf, (int)test_rand(rng), len);
        ok(e, io(bd, VMC_BLOCK_WRITE, off, buf, len));
        memcpy(model + off, buf, len);
    }
    ok(e, io(bd, VMC_BLOCK_FLUSH, 0, NULL, 0));
    ok(e, io(bd, VMC_BLOCK_READ, 0, buf, SIZE));
    assert_memory_equal(buf, model, SIZE);
    free(buf);
    ok(e, vmc_disk_close(d));
}

static void same(struct env *e, const char *name, const unsigned char *model, uint32_t depth)
{
    struct vmc_disk *d;
    unsigned char *buf = malloc(SIZE);
    ok(e, vmc_disk_open(&e->tp.pf, &e->files, name, false, &d, &e->err));
    assert_int_equal(vmc_disk_depth(d), depth);
    ok(e, io(vmc_disk_blockdev(d), VMC_BLOCK_READ, 0, buf, SIZE));
    assert_memory_equal(buf, model, SIZE);
    assert_int_equal(io(vmc_disk_blockdev(d), VMC_BLOCK_WRITE, 0, buf, 512), VMC_EPERM);
    free(buf);
    ok(e, vmc_disk_close(d));
}

static void chain(uint32_t first, uint32_t second)
{
    struct env e;
    uint64_t rng = 42;
    unsigned char *base = calloc(1, SIZE), *one = malloc(SIZE), *two = malloc(SIZE);
    env_init(&e);
    ok(&e, vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err));
    scribble(&e, "a.vmdk", base, &rng, 50);
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "a-000001.vmdk", first, &e.err));
    memcpy(one, base, SIZE);
    same(&e, "a-000001.vmdk", one, 2);
    scribble(&e, "a-000001.vmdk", one, &rng, 60);
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a-000001.vmdk", "a-000002.vmdk", second, &e.err));
    memcpy(two, one, SIZE);
    scribble(&e, "a-000002.vmdk", two, &rng, 60);
    same(&e, "a.vmdk", base, 1);
    same(&e, "a-000001.vmdk", one, 2);
    same(&e, "a-000002.vmdk", two, 3);
    ok(&e, vmc_disk_clone(&e.tp.pf, &e.files, "a-000002.vmdk", &e.files, "copy.vmdk", VMC_DISK_THIN,
                          NULL, &e.err));
    same(&e, "copy.vmdk", two, 1);
    ok(&e, vmc_disk_revert(&e.tp.pf, &e.files, "a-000002.vmdk", &e.err));
    same(&e, "a-000002.vmdk", one, 3);
    scribble(&e, "a-000002.vmdk", one, &rng, 40);
    ok(&e, vmc_disk_commit(&e.tp.pf, &e.files, "a-000002.vmdk", NULL, &e.err));
    same(&e, "a-000001.vmdk", one, 2);
    same(&e, "a-000002.vmdk", one, 3);
    ok(&e, vmc_disk_commit(&e.tp.pf, &e.files, "a-000001.vmdk", NULL, &e.err));
    same(&e, "a.vmdk", one, 1);
    assert_int_equal(vmc_disk_commit(&e.tp.pf, &e.files, "a.vmdk", NULL, &e.err), VMC_EINVAL);
    free(base);
    free(one);
    free(two);
    env_fini(&e);
}

static void cowd_snapshots(void **state)
{
    (void)state;
    chain(0, VMC_DISK_COWD);
}
static void sesparse_snapshots(void **state)
{
    (void)state;
    chain(VMC_DISK_SESPARSE, VMC_DISK_SESPARSE);
}
static void mixed_snapshots(void **state)
{
    (void)state;
    chain(VMC_DISK_SESPARSE, VMC_DISK_COWD);
}

/* An extent whose descriptor is missing is named, and is left as it is. */
static void leftovers_are_named(void **state)
{
    (void)state;
    struct env e;
    env_init(&e);
    ok(&e, vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err));
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "b.vmdk", VMC_DISK_COWD, &e.err));
    ok(&e, e.files.ops->remove(e.files.ctx, "b.vmdk", &e.err));
    assert_int_equal(
        vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "b.vmdk", VMC_DISK_COWD, &e.err), VMC_EEXIST);
    assert_non_null(strstr(e.err.text, "b-delta.vmdk is there without its descriptor"));
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "c.vmdk", VMC_DISK_COWD, &e.err));
    assert_int_equal(vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err),
                     VMC_EEXIST);
    assert_string_equal(e.err.text, "a.vmdk exists");
    ok(&e, vmc_disk_remove(&e.tp.pf, &e.files, "c.vmdk", &e.err));
    ok(&e, e.files.ops->remove(e.files.ctx, "a.vmdk", &e.err));
    assert_int_equal(vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err),
                     VMC_EEXIST);
    assert_non_null(strstr(e.err.text, "a-flat.vmdk is there without its descriptor"));
    assert_int_equal(mem_files_find(&e.mem, "a-flat.vmdk")->bytes, SIZE);
    env_fini(&e);
}

/* Files as devices that take whole sectors only, as those of hosts do. */
static struct env *sectors_env;

static int sectors_info(void *ctx, struct vmc_block_info *out)
{
    (void)ctx;
    *out = (struct vmc_block_info){.bytes = SIZE, .sector_bytes = 512};
    return VMC_OK;
}

static int sectors_submit(void *ctx, struct vmc_block_req *r)
{
    const struct vmc_disk_files *f = &sectors_env->files;
    uint64_t off = r->offset;

    r->status = (r->offset | r->bytes) % 512 == 0 ? VMC_OK : VMC_EINVAL;
    for (uint32_t i = 0; i < r->iov_count && r->status == VMC_OK; i++) {
        r->status =
            r->op == VMC_BLOCK_READ
                ? f->ops->read(f->ctx, ctx, r->iov[i].base, r->iov[i].bytes, off)
                : f->ops->write(f->ctx, ctx, r->iov[i].base, r->iov[i].bytes, off);
        off += r->iov[i].bytes;
    }
    return VMC_BLOCK_COMPLETE;
}

static int sectors_blockdev(void *ctx, void *file, struct vmc_blockdev *out)
{
    static const struct vmc_blockdev_ops ops = {.info = sectors_info, .submit = sectors_submit};

    (void)ctx;
    *out = (struct vmc_blockdev){.ops = &ops, .ctx = file};
    return VMC_OK;
}

/* A guest's buffers may begin and end anywhere: only a request as a whole is of sectors. */
static void requests_in_odd_pieces(void **state)
{
    static const size_t piece[PIECES] = {4080, 16, 1, 511, 100, 412, 3, 1533};
    struct vmc_iovec iov[PIECES];
    struct vmc_block_req r = {.offset = 4096 - 512, .iov = iov, .iov_count = PIECES};
    struct env e;
    struct vmc_disk *d;
    uint64_t rng = 11;
    unsigned char *model = calloc(1, SIZE), *buf = calloc(1, SIZE);

    (void)state;
    env_init(&e);
    ok(&e, vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err));
    scribble(&e, "a.vmdk", model, &rng, 200);
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "b.vmdk", VMC_DISK_SESPARSE, &e.err));
    scribble(&e, "b.vmdk", model, &rng, 5);
    sectors_env = &e;
    struct vmc_disk_files_ops ops = *e.files.ops;
    ops.blockdev = sectors_blockdev;
    e.files.ops = &ops;
    ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "b.vmdk", true, &d, &e.err));
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    for (unsigned i = 0; i < PIECES; i++) {
        iov[i] = (struct vmc_iovec){.base = buf + r.bytes, .bytes = piece[i]};
        r.bytes += piece[i];
    }
    for (unsigned i = 0; i < 300; i++) {
        r.op = i % 8 == 7 ? VMC_BLOCK_WRITE : VMC_BLOCK_READ;
        r.offset = test_rand(&rng) % ((SIZE - r.bytes) / 512) * 512;
        if (r.op == VMC_BLOCK_WRITE) {
            memset(buf, (int)i, r.bytes);
            memcpy(model + r.offset, buf, r.bytes);
        }
        assert_int_equal(bd.ops->submit(bd.ctx, &r), VMC_BLOCK_COMPLETE);
        ok(&e, r.status);
        assert_memory_equal(buf, model + r.offset, r.bytes);
    }
    ok(&e, vmc_disk_close(d));
    same(&e, "b.vmdk", model, 2);
    free(model);
    free(buf);
    env_fini(&e);
}

/* Another disk may have the name that the packed part of a compressed disk would get. */
static void other_disks_called_cold(void **state)
{
    (void)state;
    struct env e;
    uint64_t rng = 5;
    unsigned char *model = calloc(1, SIZE), *cold = calloc(1, SIZE);
    env_init(&e);
    ok(&e, vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err));
    scribble(&e, "a.vmdk", model, &rng, 20);
    ok(&e, vmc_disk_create(&e.tp.pf, &e.files, "b.vmdk", SIZE, VMC_DISK_THIN, &e.err));
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "b.vmdk", "a-cold.vmdk", VMC_DISK_SESPARSE, &e.err));
    scribble(&e, "a-cold.vmdk", cold, &rng, 20);
    assert_int_equal(vmc_disk_compress(&e.tp.pf, &e.files, "a.vmdk", NULL, &e.err), VMC_EEXIST);
    assert_non_null(strstr(e.err.text, "a-cold.vmdk is another disk"));
    same(&e, "a.vmdk", model, 1);
    same(&e, "a-cold.vmdk", cold, 2);
    ok(&e, vmc_disk_remove(&e.tp.pf, &e.files, "a.vmdk", &e.err));
    same(&e, "a-cold.vmdk", cold, 2);
    free(model);
    free(cold);
    env_fini(&e);
}

/* A disk that somebody else writes: its chain can be asked for, its contents cannot. */
static void peeking(void **state)
{
    (void)state;
    struct env e;
    struct vmc_disk *d, *p;
    struct vmc_disk_layer l;
    struct vmc_block_info info;
    unsigned char buf[512];

    env_init(&e);
    ok(&e, vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err));
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "b.vmdk", VMC_DISK_SESPARSE, &e.err));
    ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "b.vmdk", true, &d, &e.err));
    ok(&e, vmc_disk_peek(&e.tp.pf, &e.files, "b.vmdk", &p, &e.err));
    assert_int_equal(vmc_disk_depth(p), 2);
    ok(&e, vmc_disk_layer(p, 0, &l));
    assert_int_equal(l.format, VMC_DISK_SESPARSE);
    ok(&e, vmc_disk_layer(p, 1, &l));
    assert_string_equal(l.name, "a.vmdk");
    struct vmc_blockdev bd = vmc_disk_blockdev(p);
    ok(&e, bd.ops->info(bd.ctx, &info));
    assert_int_equal(info.bytes, SIZE);
    assert_true(info.read_only);
    struct vmc_iovec iov = {.base = buf, .bytes = sizeof(buf)};
    struct vmc_block_req r = {
        .op = VMC_BLOCK_READ, .bytes = sizeof(buf), .iov = &iov, .iov_count = 1};
    assert_int_equal(bd.ops->submit(bd.ctx, &r), VMC_BLOCK_COMPLETE);
    assert_int_equal(r.status, VMC_ESTATE);
    ok(&e, vmc_disk_close(p));
    ok(&e, vmc_disk_close(d));
    assert_int_equal(vmc_disk_peek(&e.tp.pf, &e.files, "none.vmdk", &p, &e.err), VMC_ENOENT);
    env_fini(&e);
}

/* A parent is not changed behind its child's back; a chain that does not fit is refused. */
static void parents_are_protected(void **state)
{
    (void)state;
    struct env e;
    struct vmc_disk *d;
    uint64_t rng = 3;
    unsigned char *model = calloc(1, SIZE);
    env_init(&e);
    ok(&e, vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err));
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "b.vmdk", 0, &e.err));
    assert_int_equal(vmc_disk_open(&e.tp.pf, &e.files, "a.vmdk", true, &d, &e.err), VMC_EBUSY);
    assert_non_null(strstr(e.err.text, "b.vmdk"));
    assert_int_equal(vmc_disk_grow(&e.tp.pf, &e.files, "a.vmdk", 2 * SIZE, &e.err), VMC_EBUSY);
    assert_int_equal(vmc_disk_remove(&e.tp.pf, &e.files, "a.vmdk", &e.err), VMC_EBUSY);
    assert_int_equal(vmc_disk_grow(&e.tp.pf, &e.files, "b.vmdk", 2 * SIZE, &e.err), VMC_EINVAL);
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "c.vmdk", 0, &e.err));
    assert_int_equal(vmc_disk_commit(&e.tp.pf, &e.files, "b.vmdk", NULL, &e.err), VMC_EBUSY);
    assert_int_equal(vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "c.vmdk", 0, &e.err),
                     VMC_EEXIST);
    ok(&e, vmc_disk_remove(&e.tp.pf, &e.files, "c.vmdk", &e.err));
    /* The child is out of sight while its parent is written; then it notices. */
    snprintf(mem_files_find(&e.mem, "b.vmdk")->name, 64, "hidden");
    scribble(&e, "a.vmdk", model, &rng, 3);
    snprintf(mem_files_find(&e.mem, "hidden")->name, 64, "b.vmdk");
    assert_int_equal(vmc_disk_open(&e.tp.pf, &e.files, "b.vmdk", false, &d, &e.err), VMC_EFORMAT);
    assert_non_null(strstr(e.err.text, "changed"));
    ok(&e, vmc_disk_remove(&e.tp.pf, &e.files, "b.vmdk", &e.err));
    ok(&e, vmc_disk_grow(&e.tp.pf, &e.files, "a.vmdk", 2 * SIZE, &e.err));
    ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "a.vmdk", false, &d, &e.err));
    struct vmc_block_info info;
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    ok(&e, bd.ops->info(bd.ctx, &info));
    assert_int_equal(info.bytes, 2 * SIZE);
    ok(&e, vmc_disk_close(d));
    ok(&e, vmc_disk_remove(&e.tp.pf, &e.files, "a.vmdk", &e.err));
    for (int i = 0; i < MEM_FILES; i++)
        assert_false(e.mem.file[i].used);
    free(model);
    env_fini(&e);
}

/* Discarded ranges of an SE-sparse log read as zeros, and a commit carries them down. */
static void discards_in_redo_logs(void **state)
{
    (void)state;
    struct env e;
    struct vmc_disk *d;
    uint64_t rng = 9;
    unsigned char *model = calloc(1, SIZE), *buf = malloc(SIZE);
    for (unsigned k = 0; k < 2; k++) {
        uint32_t op = k ? VMC_BLOCK_WRITE_ZEROES : VMC_BLOCK_DISCARD;
        env_init(&e);
        memset(model, 0, SIZE);
        ok(&e, vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err));
        scribble(&e, "a.vmdk", model, &rng, 100);
        ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "b.vmdk",
                                 k ? VMC_DISK_COWD : VMC_DISK_SESPARSE, &e.err));
        for (unsigned round = 0; round < 5; round++) {
            ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "b.vmdk", true, &d, &e.err));
            struct vmc_blockdev bd = vmc_disk_blockdev(d);
            for (unsigned i = 0; i < 20; i++) {
                uint64_t off = test_rand(&rng) % (SIZE / 512) * 512;
                uint64_t len = (1 + test_rand(&rng) % 300) * 512;
                len = len > SIZE - off ? SIZE - off : len;
                struct vmc_block_req r = {.op = op, .offset = off, .bytes = len};
                assert_int_equal(bd.ops->submit(bd.ctx, &r), VMC_BLOCK_COMPLETE);
                ok(&e, r.status);
                memset(model + off, 0, len);
            }
            ok(&e, vmc_disk_close(d));
            scribble(&e, "b.vmdk", model, &rng, 20);
        }
        same(&e, "b.vmdk", model, 2);
        ok(&e, vmc_disk_commit(&e.tp.pf, &e.files, "b.vmdk", NULL, &e.err));
        same(&e, "a.vmdk", model, 1);
        env_fini(&e);
    }
    free(model);
    free(buf);
}

/* What was flushed is there after a power cut; the rest is old or new, sector by sector. */
static void power_cuts(void **state)
{
    (void)state;
    unsigned char *flushed = malloc(SIZE), *now = malloc(SIZE), *buf = malloc(SIZE);
    for (uint64_t seed = 1; seed <= 16; seed++) {
        struct env e;
        struct vmc_disk *d;
        uint64_t rng = seed;
        env_init(&e);
        memset(flushed, 0, SIZE);
        ok(&e, vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err));
        scribble(&e, "a.vmdk", flushed, &rng, 20);
        ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "b.vmdk",
                                 seed % 2 ? VMC_DISK_COWD : VMC_DISK_SESPARSE, &e.err));
        for (unsigned cut = 0; cut < 4; cut++) {
            struct mem_files saved;
            ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "b.vmdk", true, &d, &e.err));
            struct vmc_blockdev bd = vmc_disk_blockdev(d);
            memcpy(now, flushed, SIZE);
            for (unsigned i = 0; i < 40; i++) {
                uint64_t off = test_rand(&rng) % (SIZE / 512) * 512;
                size_t len = (1 + test_rand(&rng) % 40) * 512;
                len = len > SIZE - off ? SIZE - off : len;
                memset(buf, (int)(1 + test_rand(&rng) % 255), len);
                ok(&e, io(bd, VMC_BLOCK_WRITE, off, buf, len));
                memcpy(now + off, buf, len);
                if (test_rand(&rng) % 8 == 0) {
                    ok(&e, io(bd, VMC_BLOCK_FLUSH, 0, NULL, 0));
                    memcpy(flushed, now, SIZE);
                }
            }
            /* Closing writes more; the files are put back to where the power went. */
            mem_files_copy(&saved, &e.mem);
            ok(&e, vmc_disk_close(d));
            mem_files_fini(&e.mem);
            e.mem = saved;
            mem_files_power_cut(&e.mem, &rng);
            ok(&e, vmc_disk_open(&e.tp.pf, &e.files, "b.vmdk", false, &d, &e.err));
            ok(&e, io(vmc_disk_blockdev(d), VMC_BLOCK_READ, 0, buf, SIZE));
            for (uint64_t at = 0; at < SIZE; at += 512)
                if (memcmp(flushed + at, now + at, 512) == 0)
                    assert_memory_equal(buf + at, flushed + at, 512);
            ok(&e, vmc_disk_close(d));
            memcpy(flushed, buf, SIZE); /* whatever it is now */
        }
        env_fini(&e);
    }
    free(flushed);
    free(now);
    free(buf);
}

/* Every byte of the header, the directory and the descriptor changed: errors, no crash. */
static void hostile(uint32_t format, const char *extent)
{
    struct env e;
    uint64_t rng = 7;
    unsigned char *model = calloc(1, SIZE), *buf = malloc(SIZE);
    env_init(&e);
    ok(&e, vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err));
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "b.vmdk", format, &e.err));
    scribble(&e, "b.vmdk", model, &rng, 10);
    const char *const names[] = {"b.vmdk", extent, extent};
    unsigned refused = 0;
    for (unsigned k = 0; k < 3; k++) {
        struct mem_file *f = mem_files_find(&e.mem, names[k]);
        /* Headers; for SE-sparse also the directory, at 2 MiB. */
        uint64_t first = k == 2 ? 4096 * 512 : 0, n = f->bytes < 2560 ? f->bytes : 2560;
        if (first + n > f->bytes)
            continue;
        for (uint64_t i = first; i < first + n; i++) {
            struct vmc_disk *d;
            unsigned char old = f->data[i];
            f->data[i] ^= 0xFF;
            e.err.text[0] = '\0';
            if (vmc_disk_open(&e.tp.pf, &e.files, "b.vmdk", false, &d, &e.err) != VMC_OK) {
                refused++;
                assert_true(e.err.text[0] != '\0');
            } else {
                if (io(vmc_disk_blockdev(d), VMC_BLOCK_READ, 0, buf, 65536) != VMC_OK)
                    refused++;
                ok(&e, vmc_disk_close(d));
            }
            f->data[i] = old;
        }
    }
    assert_true(refused > 100);
    /* A disk that is its own parent. */
    struct mem_file *f = mem_files_find(&e.mem, "b.vmdk");
    char *hint = strstr((char *)f->data, "\"a.vmdk\"");
    hint[1] = 'b';
    struct vmc_disk *d;
    assert_true(vmc_disk_open(&e.tp.pf, &e.files, "b.vmdk", false, &d, &e.err) < 0);
    free(model);
    free(buf);
    env_fini(&e);
}

static void hostile_cowd(void **state)
{
    (void)state;
    hostile(VMC_DISK_COWD, "b-delta.vmdk");
}
static void hostile_sesparse(void **state)
{
    (void)state;
    hostile(VMC_DISK_SESPARSE, "b-sesparse.vmdk");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cowd_snapshots),        cmocka_unit_test(sesparse_snapshots),
        cmocka_unit_test(mixed_snapshots),       cmocka_unit_test(leftovers_are_named),
        cmocka_unit_test(other_disks_called_cold), cmocka_unit_test(requests_in_odd_pieces),
        cmocka_unit_test(peeking),               cmocka_unit_test(parents_are_protected),
        cmocka_unit_test(discards_in_redo_logs), cmocka_unit_test(power_cuts),
        cmocka_unit_test(hostile_cowd),          cmocka_unit_test(hostile_sesparse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
