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
    unsigned char *data;
    uint64_t bytes;
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
static int m_open(void *ctx, const char *name, bool write, void **out, struct vmc_error *err)
{
    (void)write;
    *out = find(ctx, name);
    if (*out == NULL)
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
    memset(f, 0, sizeof(*f));
    return VMC_OK;
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
    (void)ctx;
    (void)file;
    return VMC_OK;
}
static const struct vmc_disk_files_ops ops = {
    .open = m_open, .create = m_create, .close = m_close, .remove = m_remove, .size = m_size,
    .read = m_read, .write = m_write, .resize = m_resize, .allocate = m_allocate, .flush = m_flush};

static void env_init(struct env *e)
{
    memset(e, 0, sizeof(*e));
    test_platform_init(&e->tp);
    e->files = (struct vmc_disk_files){.ops = &ops, .ctx = e};
}
static void env_fini(struct env *e)
{
    for (int i = 0; i < FILES; i++)
        free(e->file[i].data);
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
    struct vmc_block_req r = {.op = op, .offset = off, .bytes = n, .iov = &iov, .iov_count = buf != NULL};
    assert_int_equal(bd.ops->submit(bd.ctx, &r), VMC_BLOCK_COMPLETE);
    return r.status;
}

/* Random writes to the disk and to the model; then both are the same. */
static void scribble(struct env *e, const char *name, unsigned char *model, uint64_t *rng, unsigned n)
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

static void snapshots_commit_and_revert(void **state)
{
    (void)state;
    struct env e;
    uint64_t rng = 42;
    unsigned char *base = calloc(1, SIZE), *one = malloc(SIZE), *two = malloc(SIZE);
    env_init(&e);
    ok(&e, vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err));
    scribble(&e, "a.vmdk", base, &rng, 50);
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "a-000001.vmdk", &e.err));
    memcpy(one, base, SIZE);
    same(&e, "a-000001.vmdk", one, 2);
    scribble(&e, "a-000001.vmdk", one, &rng, 60);
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a-000001.vmdk", "a-000002.vmdk", &e.err));
    memcpy(two, one, SIZE);
    scribble(&e, "a-000002.vmdk", two, &rng, 60);
    same(&e, "a.vmdk", base, 1);
    same(&e, "a-000001.vmdk", one, 2);
    same(&e, "a-000002.vmdk", two, 3);
    ok(&e, vmc_disk_clone(&e.tp.pf, &e.files, "a-000002.vmdk", "copy.vmdk", &e.err));
    same(&e, "copy.vmdk", two, 1);
    ok(&e, vmc_disk_revert(&e.tp.pf, &e.files, "a-000002.vmdk", &e.err));
    same(&e, "a-000002.vmdk", one, 3);
    scribble(&e, "a-000002.vmdk", one, &rng, 40);
    ok(&e, vmc_disk_commit(&e.tp.pf, &e.files, "a-000002.vmdk", &e.err));
    same(&e, "a-000001.vmdk", one, 2);
    same(&e, "a-000002.vmdk", one, 3);
    ok(&e, vmc_disk_commit(&e.tp.pf, &e.files, "a-000001.vmdk", &e.err));
    same(&e, "a.vmdk", one, 1);
    assert_int_equal(vmc_disk_commit(&e.tp.pf, &e.files, "a.vmdk", &e.err), VMC_EINVAL);
    free(base);
    free(one);
    free(two);
    env_fini(&e);
}

/* Every byte of the header, the directory and the descriptor changed: errors, no crash. */
static void hostile_files(void **state)
{
    (void)state;
    struct env e;
    uint64_t rng = 7;
    unsigned char *model = calloc(1, SIZE), *buf = malloc(SIZE);
    env_init(&e);
    ok(&e, vmc_disk_create(&e.tp.pf, &e.files, "a.vmdk", SIZE, VMC_DISK_THIN, &e.err));
    ok(&e, vmc_disk_snapshot(&e.tp.pf, &e.files, "a.vmdk", "b.vmdk", &e.err));
    scribble(&e, "b.vmdk", model, &rng, 10);
    const char *const names[] = {"b.vmdk", "b-delta.vmdk"};
    unsigned refused = 0;
    for (unsigned k = 0; k < 2; k++) {
        struct mem_file *f = find(&e, names[k]);
        uint64_t n = f->bytes < 2560 ? f->bytes : 2560;
        for (uint64_t i = 0; i < n; i++) {
            struct vmc_disk *d;
            unsigned char old = f->data[i];
            f->data[i] ^= 0xFF;
            if (vmc_disk_open(&e.tp.pf, &e.files, "b.vmdk", false, &d, &e.err) != VMC_OK) {
                refused++;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(snapshots_commit_and_revert),
        cmocka_unit_test(hostile_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
