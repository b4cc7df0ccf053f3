/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "test_disk.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SECTOR 512u

uint32_t test_rand(uint64_t *s)
{
    /* xorshift64*, Vigna 2016 */
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return (uint32_t)((*s * 0x2545F4914F6CDD1Dull) >> 32);
}

static void forget(struct test_disk *d)
{
    for (size_t i = 0; i < d->log_count; i++) {
        free(d->log[i].before);
        free(d->log[i].after);
    }
    d->log_count = 0;
}

static unsigned char *copy(const void *p, size_t n)
{
    unsigned char *c = malloc(n);
    if (c == NULL)
        abort();
    memcpy(c, p, n);
    return c;
}

static struct test_disk_write *append(struct test_disk_write **list, size_t *count, size_t *cap)
{
    if (*count == *cap) {
        *cap = *cap ? *cap * 2 : 256;
        *list = realloc(*list, *cap * sizeof(**list));
        if (*list == NULL)
            abort();
    }
    return &(*list)[(*count)++];
}

static void disk_write(struct test_disk *d, uint64_t off, const void *src, size_t bytes)
{
    d->writes++;
    if (d->track)
        *append(&d->log, &d->log_count, &d->log_cap) =
            (struct test_disk_write){.offset = off,
                                     .bytes = (uint32_t)bytes,
                                     .before = copy(d->data + off, bytes),
                                     .after = copy(src, bytes)};
    memcpy(d->data + off, src, bytes);
}

static size_t find_lost(const struct test_disk *d, uint64_t off)
{
    size_t i = 0;

    while (i < d->lost_count && d->lost[i].offset != off)
        i++;
    return i;
}

/* A flush. It fails: the medium keeps what it had before the first write to each sector. */
static void flush(struct test_disk *d, bool fails)
{
    for (size_t i = 0; i < d->log_count; i++) {
        const struct test_disk_write *w = &d->log[i];
        for (uint32_t s = 0; s < w->bytes; s += SECTOR) {
            size_t at = find_lost(d, w->offset + s);
            if (fails && at == d->lost_count) {
                *append(&d->lost, &d->lost_count, &d->lost_cap) = (struct test_disk_write){
                    .offset = w->offset + s, .bytes = SECTOR, .before = copy(w->before + s, SECTOR)};
            } else if (!fails && at < d->lost_count) {
                free(d->lost[at].before);
                d->lost[at] = d->lost[--d->lost_count];
            }
        }
    }
    forget(d);
}

void test_disk_power_cut(struct test_disk *d, uint64_t seed)
{
    uint64_t state = seed * 0x9E3779B97F4A7C15ull | 1;

    for (size_t i = d->log_count; i > 0; i--)
        memcpy(d->data + d->log[i - 1].offset, d->log[i - 1].before, d->log[i - 1].bytes);
    for (size_t i = 0; i < d->log_count && seed != 0; i++) {
        const struct test_disk_write *w = &d->log[i];
        uint32_t fate = seed == 1 ? 0 : test_rand(&state) % 4;
        if (fate == 1)
            continue;
        for (uint32_t s = 0; s < w->bytes; s += SECTOR)
            if (fate != 2 || test_rand(&state) % 2)
                memcpy(d->data + w->offset + s, w->after + s, SECTOR);
    }
    forget(d);
    while (d->lost_count > 0) {
        const struct test_disk_write *w = &d->lost[--d->lost_count];
        memcpy(d->data + w->offset, w->before, SECTOR);
        free(w->before);
    }
}

static int path_info(void *ctx, struct vmc_block_info *out)
{
    struct test_path *p = ctx;

    *out = (struct vmc_block_info){
        .bytes = p->disk->bytes,
        .sector_bytes = SECTOR,
        .can_compare_write = !p->disk->no_caw,
        .can_discard = p->disk->can_discard,
        .can_write_zeroes = p->disk->can_zero,
    };
    return VMC_OK;
}

/* May this write happen? The last one before a cut may be torn. */
static bool allow_write(struct test_path *p, uint64_t off, const void *src, size_t bytes)
{
    if (p->cut)
        return false;
    if (p->cut_after == UINT64_MAX || p->cut_after-- > 0)
        return true;
    p->cut = true;
    if (p->torn && bytes > SECTOR) {
        uint64_t state = (p->seed + 1) * 0x9E3779B97F4A7C15ull;
        size_t n = (1 + test_rand(&state) % (bytes / SECTOR - 1)) * SECTOR;
        disk_write(p->disk, off, src, n);
    }
    return false;
}

static int zeroes(struct test_path *p, struct vmc_block_req *r)
{
    static const unsigned char zero[65536];
    uint64_t off = r->offset, left = r->bytes;

    if (!allow_write(p, off, zero, SECTOR))
        return VMC_EIO;
    if (!p->disk->track) {
        uint64_t a = (off + 4095) & ~4095ull, b = (off + left) & ~4095ull;
        if (b > a) {
            memset(p->disk->data + off, 0, a - off);
            madvise(p->disk->data + a, b - a, MADV_DONTNEED);
            memset(p->disk->data + b, 0, off + left - b);
            return VMC_OK;
        }
    }
    while (left > 0) {
        size_t n = left < sizeof(zero) ? left : sizeof(zero);
        disk_write(p->disk, off, zero, n);
        off += n;
        left -= n;
    }
    return VMC_OK;
}

static int rw(struct test_path *p, struct vmc_block_req *r)
{
    uint64_t off = r->offset;

    for (uint32_t i = 0; i < r->iov_count; i++) {
        if (r->op == VMC_BLOCK_READ) {
            p->disk->reads++;
            memcpy(r->iov[i].base, p->disk->data + off, r->iov[i].bytes);
        } else if (p->fail_write > 0 && --p->fail_write == 0) {
            size_t n = r->iov[i].bytes / SECTOR * p->fail_fate / 2 * SECTOR;
            if (n > 0)
                disk_write(p->disk, off, r->iov[i].base, n);
            return VMC_EIO;
        } else if (allow_write(p, off, r->iov[i].base, r->iov[i].bytes)) {
            disk_write(p->disk, off, r->iov[i].base, r->iov[i].bytes);
        } else {
            return VMC_EIO;
        }
        off += r->iov[i].bytes;
    }
    return VMC_OK;
}

static int path_submit(void *ctx, struct vmc_block_req *r)
{
    struct test_path *p = ctx;

    r->status = VMC_OK;
    if (p->cut) {
        r->status = VMC_EIO;
    } else if (r->op == VMC_BLOCK_FLUSH) {
        p->disk->flushes++;
        bool fails = p->fail_flush > 0 && --p->fail_flush == 0;
        flush(p->disk, fails);
        p->flush_failed = p->flush_failed || fails;
        r->status = fails ? VMC_EIO : VMC_OK;
    } else if (r->offset % SECTOR != 0 || r->bytes % SECTOR != 0 || r->offset > p->disk->bytes ||
               r->bytes > p->disk->bytes - r->offset) {
        r->status = VMC_EINVAL;
    } else if (r->op == VMC_BLOCK_WRITE_ZEROES || r->op == VMC_BLOCK_DISCARD) {
        r->status = zeroes(p, r);
    } else {
        r->status = rw(p, r);
    }
    return VMC_BLOCK_COMPLETE;
}

static int path_caw(void *ctx, uint64_t off, const void *expect, const void *data, size_t bytes)
{
    struct test_path *p = ctx;

    if (p->cut)
        return VMC_EIO;
    if (off % SECTOR != 0 || bytes != SECTOR || off + bytes > p->disk->bytes)
        return VMC_EINVAL;
    if (memcmp(p->disk->data + off, expect, bytes) != 0)
        return VMC_EAGAIN;
    if (!allow_write(p, off, data, bytes))
        return VMC_EIO;
    disk_write(p->disk, off, data, bytes);
    return VMC_OK;
}

static const struct vmc_blockdev_ops path_ops = {
    .info = path_info,
    .submit = path_submit,
    .compare_write = path_caw,
};

void test_disk_init(struct test_disk *d, uint64_t bytes)
{
    memset(d, 0, sizeof(*d));
    d->bytes = bytes;
    d->data = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (d->data == MAP_FAILED)
        abort();
    d->can_zero = true;
}

void test_disk_fini(struct test_disk *d)
{
    forget(d);
    free(d->log);
    while (d->lost_count > 0)
        free(d->lost[--d->lost_count].before);
    free(d->lost);
    munmap(d->data, d->bytes);
}

void test_path_init(struct test_path *p, struct test_disk *d)
{
    memset(p, 0, sizeof(*p));
    p->disk = d;
    p->cut_after = UINT64_MAX;
    p->bd = (struct vmc_blockdev){.ops = &path_ops, .ctx = p};
}
