/* SPDX-License-Identifier: BSD-2-Clause */
/* VM disks on files in memory: chains against a model, flush before a crash, hostile headers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/disk.h>
#include "test_disk.h"
#include "test_platform.h"

#include <cmocka.h>

#define FILES 32
#define SIZE  (5u << 20)

struct mem_file {
    char name[64];
    unsigned char *data, *durable; /* what a power cut leaves, but for sectors since the flush */
    uint64_t bytes, durable_bytes;
    bool used;
};
struct env {
    struct test_platform tp;
    struct mem_file file[FILES];
    struct vmc_disk_files files;
    struct vmc_error err;
};

static struct mem_file *find(struct env *e, const char *name)
{
    for (int i = 0; i < FILES; i++)
        if (e->file[i].used && strcmp(e->file[i].name, name) == 0)
            return &e->file[i];
    return NULL;
}
static int m_open(void *ctx, const char *name, uint32_t how, void **out, struct vmc_error *err)
{
    (void)how;
    *out = find(ctx, name);
    if (*out == NULL && err != NULL)
        snprintf(err->text, sizeof(err->text), "no %s", name);
    return *out != NULL ? VMC_OK : VMC_ENOENT;
}
static int m_create(void *ctx, const char *name, void **out, struct vmc_error *err)
{
    struct env *e = ctx;
    (void)err;
    if (find(e, name) != NULL)
        return VMC_EEXIST;
    for (int i = 0; i < FILES; i++)
        if (!e->file[i].used) {
            e->file[i].used = true;
            snprintf(e->file[i].name, sizeof(e->file[i].name), "%s", name);
            *out = &e->file[i];
            return VMC_OK;
        }
    return VMC_ENOSPC;
}
static int m_close(void *ctx, void *file)
{
    (void)ctx;
    (void)file;
    return VMC_OK;
}
static int m_remove(void *ctx, const char *name, struct vmc_error *err)
{
    struct mem_file *f = find(ctx, name);
    (void)err;
    if (f == NULL)
        return VMC_ENOENT;
    free(f->data);
    free(f->durable);
    memset(f, 0, sizeof(*f));
    return VMC_OK;
}
/* Names are durable at once, as on a journaled file system. */
static int m_rename(void *ctx, const char *from, const char *to, struct vmc_error *err)
{
    struct mem_file *f = find(ctx, from);
    assert_non_null(f);
    (void)m_remove(ctx, to, err);
    snprintf(f->name, sizeof(f->name), "%s", to);
    return VMC_OK;
}
static int m_list(void *ctx, uint64_t *cookie, char *name, size_t bytes, struct vmc_error *err)
{
    struct env *e = ctx;
    (void)err;
    while (*cookie < FILES && !e->file[*cookie].used)
        (*cookie)++;
    if (*cookie == FILES)
        return 0;
    snprintf(name, bytes, "%s", e->file[(*cookie)++].name);
    return 1;
}
static int m_size(void *ctx, void *file, uint64_t *bytes)
{
    (void)ctx;
    *bytes = ((struct mem_file *)file)->bytes;
    return VMC_OK;
}
static int m_resize(void *ctx, void *file, uint64_t bytes)
{
    struct mem_file *f = file;
    (void)ctx;
    f->data = realloc(f->data, bytes ? bytes : 1);
    if (bytes > f->bytes)
        memset(f->data + f->bytes, 0, bytes - f->bytes);
    f->bytes = bytes;
    return VMC_OK;
}
static int m_read(void *ctx, void *file, void *dst, size_t n, uint64_t off)
{
    struct mem_file *f = file;
    (void)ctx;
    if (off > f->bytes || n > f->bytes - off)
        return VMC_EIO;
    memcpy(dst, f->data + off, n);
    return VMC_OK;
}
static int m_write(void *ctx, void *file, const void *src, size_t n, uint64_t off)
{
    struct mem_file *f = file;
    if (off + n > f->bytes)
        m_resize(ctx, file, off + n);
    memcpy(f->data + off, src, n);
    return VMC_OK;
}
static int m_allocate(void *ctx, void *file, uint64_t off, uint64_t n, uint32_t kind)
{
    (void)ctx;
    (void)file;
    (void)off;
    (void)n;
    (void)kind;
    return VMC_OK;
}
static int m_flush(void *ctx, void *file)
{
    struct mem_file *f = file;
    (void)ctx;
    f->durable = realloc(f->durable, f->bytes ? f->bytes : 1);
    memcpy(f->durable, f->data, f->bytes);
    f->durable_bytes = f->bytes;
    return VMC_OK;
}

/* Power is lost: of what was written since the flush, any sectors may have arrived. */
static void crash(struct env *e, uint64_t *rng)
{
    for (int i = 0; i < FILES; i++) {
        struct mem_file *f = &e->file[i];
        for (uint64_t at = 0; f->used && at < f->bytes; at += 512) {
            size_t n = f->bytes - at < 512 ? f->bytes - at : 512;
            if (test_rand(rng) % 2 == 0)
                continue;
            memset(f->data + at, 0, n);
            if (at < f->durable_bytes)
                memcpy(f->data + at, f->durable + at,
                       f->durable_bytes - at < n ? f->durable_bytes - at : n);
        }
        if (f->used)
            m_flush(e, f); /* what is there now stays */
    }
}
static const struct vmc_disk_files_ops ops = {.open = m_open,
                                              .create = m_create,
                                              .close = m_close,
                                              .remove = m_remove,
                                              .rename = m_rename,
                                              .list = m_list,
                                              .size = m_size,
                                              .read = m_read,
                                              .write = m_write,
                                              .resize = m_resize,
                                              .allocate = m_allocate,
                                              .flush = m_flush};

static void env_init(struct env *e)
{
    memset(e, 0, sizeof(*e));
    test_platform_init(&e->tp);
    e->files = (struct vmc_disk_files){.ops = &ops, .ctx = e};
}
static void env_fini(struct env *e)
{
    for (int i = 0; i < FILES; i++) {
        free(e->file[i].data);
        free(e->file[i].durable);
    }
    test_platform_check(&e->tp);
}
static void ok(struct env *e, int rc)
{
    if (rc != VMC_OK)
        fail_msg("%s: %s", vmc_status_name(rc), e->err.text);
}

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
    snprintf(find(&e, "b.vmdk")->name, 64, "hidden");
    scribble(&e, "a.vmdk", model, &rng, 3);
    snprintf(find(&e, "hidden")->name, 64, "b.vmdk");
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
    for (int i = 0; i < FILES; i++)
        assert_false(e.file[i].used);
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
            struct mem_file saved[FILES];
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
            for (int i = 0; i < FILES; i++) {
                saved[i] = e.file[i];
                saved[i].data = NULL;
                if (e.file[i].data != NULL) {
                    saved[i].data = malloc(e.file[i].bytes ? e.file[i].bytes : 1);
                    memcpy(saved[i].data, e.file[i].data, e.file[i].bytes);
                }
                saved[i].durable = NULL;
                if (e.file[i].durable != NULL) {
                    saved[i].durable =
                        malloc(e.file[i].durable_bytes ? e.file[i].durable_bytes : 1);
                    memcpy(saved[i].durable, e.file[i].durable, e.file[i].durable_bytes);
                }
            }
            ok(&e, vmc_disk_close(d));
            for (int i = 0; i < FILES; i++) {
                free(e.file[i].data);
                free(e.file[i].durable);
                e.file[i] = saved[i];
            }
            crash(&e, &rng);
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
        struct mem_file *f = find(&e, names[k]);
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
    struct mem_file *f = find(&e, "b.vmdk");
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
        cmocka_unit_test(mixed_snapshots),       cmocka_unit_test(parents_are_protected),
        cmocka_unit_test(discards_in_redo_logs), cmocka_unit_test(power_cuts),
        cmocka_unit_test(hostile_cowd),          cmocka_unit_test(hostile_sesparse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
