/* SPDX-License-Identifier: BSD-2-Clause */
#include "mem_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test_disk.h"

struct mem_file *mem_files_find(struct mem_files *m, const char *name)
{
    for (int i = 0; i < MEM_FILES; i++)
        if (m->file[i].used && strcmp(m->file[i].name, name) == 0)
            return &m->file[i];
    return NULL;
}

static int m_open(void *ctx, const char *name, uint32_t how, void **out, struct vmc_error *err)
{
    (void)how;
    *out = mem_files_find(ctx, name);
    if (*out == NULL && err != NULL)
        snprintf(err->text, sizeof(err->text), "no %s", name);
    return *out != NULL ? VMC_OK : VMC_ENOENT;
}

static int m_create(void *ctx, const char *name, void **out, struct vmc_error *err)
{
    struct mem_files *m = ctx;

    (void)err;
    if (mem_files_find(m, name) != NULL)
        return VMC_EEXIST;
    for (int i = 0; i < MEM_FILES; i++)
        if (!m->file[i].used) {
            m->file[i].used = true;
            snprintf(m->file[i].name, sizeof(m->file[i].name), "%s", name);
            *out = &m->file[i];
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
    struct mem_file *f = mem_files_find(ctx, name);

    (void)err;
    if (f == NULL)
        return VMC_ENOENT;
    free(f->data);
    free(f->durable);
    memset(f, 0, sizeof(*f));
    return VMC_OK;
}

static int m_rename(void *ctx, const char *from, const char *to, struct vmc_error *err)
{
    struct mem_file *f = mem_files_find(ctx, from);

    if (f == NULL)
        return VMC_ENOENT;
    (void)m_remove(ctx, to, err); /* there may be none */
    snprintf(f->name, sizeof(f->name), "%s", to);
    return VMC_OK;
}

static int m_list(void *ctx, uint64_t *cookie, char *name, size_t bytes, struct vmc_error *err)
{
    struct mem_files *m = ctx;

    (void)err;
    while (*cookie < MEM_FILES && !m->file[*cookie].used)
        (*cookie)++;
    if (*cookie >= MEM_FILES)
        return 0;
    snprintf(name, bytes, "%s", m->file[(*cookie)++].name);
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
    struct mem_files *m = ctx;
    struct mem_file *f = file;

    if (m->limit != 0 && bytes > m->limit)
        return VMC_ENOSPC;
    f->data = realloc(f->data, bytes ? bytes : 1);
    if (f->data == NULL)
        abort();
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
    struct mem_files *m = ctx;
    struct mem_file *f = file;
    int rc = VMC_OK;

    if (m->no_space > 0) {
        m->no_space--;
        return VMC_ENOSPC;
    }
    if (off > UINT64_MAX - n)
        return VMC_EIO;
    if (off + n > f->bytes)
        rc = m_resize(ctx, file, off + n);
    if (rc == VMC_OK)
        memcpy(f->data + off, src, n);
    return rc;
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
    struct mem_files *m = ctx;
    struct mem_file *f = file;
    int rc = m->flush_status;

    m->flush_status = VMC_OK;
    if (rc != VMC_OK || m->no_power_cuts)
        return rc;
    f->durable = realloc(f->durable, f->bytes ? f->bytes : 1);
    if (f->durable == NULL)
        abort();
    if (f->bytes > 0)
        memcpy(f->durable, f->data, f->bytes);
    f->durable_bytes = f->bytes;
    return VMC_OK;
}

void mem_files_power_cut(struct mem_files *m, uint64_t *rng)
{
    for (int i = 0; i < MEM_FILES; i++) {
        struct mem_file *f = &m->file[i];
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
            m_flush(m, f); /* what is there now stays */
    }
}

static unsigned char *duplicate(const unsigned char *p, uint64_t n)
{
    unsigned char *c = p != NULL ? malloc(n ? n : 1) : NULL;

    if (p != NULL && c == NULL)
        abort();
    if (p != NULL && n > 0)
        memcpy(c, p, n);
    return c;
}

void mem_files_copy(struct mem_files *to, const struct mem_files *from)
{
    *to = *from;
    for (int i = 0; i < MEM_FILES; i++) {
        to->file[i].data = duplicate(from->file[i].data, from->file[i].bytes);
        to->file[i].durable = duplicate(from->file[i].durable, from->file[i].durable_bytes);
    }
}

void mem_files_fini(struct mem_files *m)
{
    for (int i = 0; i < MEM_FILES; i++) {
        free(m->file[i].data);
        free(m->file[i].durable);
    }
    memset(m->file, 0, sizeof(m->file));
}

struct vmc_disk_files mem_files_ops(struct mem_files *m)
{
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

    return (struct vmc_disk_files){.ops = &ops, .ctx = m};
}
