/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VM disks in memory: a flat one with redo logs of both formats over it, and a compressed one. The
 * input changes their files. Byte 0 says which disk is used; with its bit 7 the rest of the input
 * takes the place of that disk's descriptor, else records of 8 bytes follow, {u8 file, u8 how,
 * u16 offset, u32 value}; bits 4 to 6 of "how" say by how much the offset is shifted left. Then the
 * disk is read, checked, written to, committed, expanded and compressed.
 */
#include <stdlib.h>
#include <string.h>

#include <vmcore/disk.h>

#include "base/base_int.h"
#include "fuzz_platform.h"
#include "../tests/support/mem_files.c" /* the targets link with the library only */
#include "../tests/support/test_disk.c"

#define SIZE  (1u << 20)
#define MOST  (64u << 20)
#define READS 32u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mem_files good, now;

static void *f_alloc(void *ctx, size_t n, size_t align)
{
    /* Nothing here may need more than this: an allocation sized by a file's fields would. */
    return n <= MOST ? fuzz_alloc(ctx, n ? n : 1, align) : NULL;
}

static const struct vmc_platform pf = {
    .size = sizeof(pf), .alloc = f_alloc, .free = fuzz_free, .now_ns = fuzz_now, .bug = fuzz_bug};

static int io(struct vmc_disk *d, uint32_t op, uint64_t off, void *buf, size_t n)
{
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    struct vmc_iovec iov = {.base = buf, .bytes = n};
    struct vmc_block_req r = {
        .op = op, .offset = off, .bytes = n, .iov = &iov, .iov_count = buf != NULL};

    if (bd.ops->submit(bd.ctx, &r) != VMC_BLOCK_COMPLETE)
        abort();
    return r.status;
}

static void need(int rc)
{
    if (rc != VMC_OK)
        abort();
}

static void scribble(const struct vmc_disk_files *files, const char *name, unsigned seed)
{
    struct vmc_disk *d;
    unsigned char buf[12288];

    need(vmc_disk_open(&pf, files, name, true, &d, NULL));
    for (unsigned i = 0; i < 12; i++) {
        memset(buf, (int)(seed * 16 + i), sizeof(buf));
        need(io(d, VMC_BLOCK_WRITE, (seed * 37 + i * 81) % 240 * 4096u, buf, sizeof(buf)));
    }
    need(vmc_disk_close(d));
}

static void setup(void)
{
    struct vmc_disk_files files = mem_files_ops(&good);

    need(vmc_disk_create(&pf, &files, "a.vmdk", SIZE, VMC_DISK_THIN, NULL));
    scribble(&files, "a.vmdk", 1);
    need(vmc_disk_snapshot(&pf, &files, "a.vmdk", "b.vmdk", VMC_DISK_COWD, NULL));
    scribble(&files, "b.vmdk", 2);
    need(vmc_disk_snapshot(&pf, &files, "b.vmdk", "c.vmdk", VMC_DISK_SESPARSE, NULL));
    scribble(&files, "c.vmdk", 3);
    need(vmc_disk_create(&pf, &files, "d.vmdk", SIZE, VMC_DISK_THIN, NULL));
    scribble(&files, "d.vmdk", 4);
    need(vmc_disk_compress(&pf, &files, "d.vmdk", NULL, NULL));
    scribble(&files, "d.vmdk", 5);
    good.limit = MOST;
}

/* As they were. Files that kept their length keep their memory too: it is what costs most. */
static void put_back(void)
{
    for (int i = 0; i < MEM_FILES; i++) {
        struct mem_file *to = &now.file[i];
        const struct mem_file *from = &good.file[i];
        unsigned char *data = to->data;
        if (to->used && (!from->used || to->bytes != from->bytes)) {
            free(data);
            data = NULL;
        }
        *to = *from;
        to->data = data;
        if (from->used && data == NULL && (to->data = malloc(from->bytes + 1)) == NULL)
            abort();
        if (from->used)
            memcpy(to->data, from->data, from->bytes);
    }
    now.limit = good.limit;
    now.no_power_cuts = true;
}

static void change(const char *name, const uint8_t *data, size_t size, bool text)
{
    if (text) {
        struct mem_file *f = mem_files_find(&now, name);
        f->data = realloc(f->data, size ? size : 1);
        if (size > 0)
            memcpy(f->data, data, size);
        f->bytes = size;
        return;
    }
    for (size_t i = 0; i + 8 <= size && i < 512; i += 8) {
        struct mem_file *f = &now.file[data[i] % MEM_FILES];
        uint64_t at = (uint64_t)vmci_ld_le16(data + i + 2) << (data[i + 1] >> 4 & 7);
        if (!f->used || at + 4 > f->bytes)
            continue;
        uint32_t value = vmci_ld_le32(data + i + 4);
        if (data[i + 1] & 2)
            f->bytes = at; /* cut short */
        else
            vmci_st_le32(f->data + at,
                         data[i + 1] & 1 ? vmci_ld_le32(f->data + at) + value : value);
    }
}

static void look(const struct vmc_disk_files *files, const char *name)
{
    static unsigned char buf[65536];
    struct vmc_disk *d;
    struct vmc_disk_layer layer;
    uint64_t off = 0, n = 1, bad;

    if (vmc_disk_open(&pf, files, name, false, &d, NULL) != VMC_OK)
        return;
    for (uint32_t i = 0; vmc_disk_layer(d, i, &layer) == VMC_OK; i++)
        ;
    for (unsigned i = 0; i < READS; i++)
        (void)!io(d, VMC_BLOCK_READ, i * 32768ull, buf, sizeof(buf));
    for (unsigned i = 0; i < READS && n != 0; i++, off += n)
        if (vmc_disk_next_data(d, &off, &n) != VMC_OK)
            break;
    (void)!vmc_disk_check(d, &bad, NULL);
    (void)!vmc_disk_close(d);
}

static void use(const struct vmc_disk_files *files, const char *name)
{
    static unsigned char buf[10240];
    struct vmc_disk *d;

    if (vmc_disk_open(&pf, files, name, true, &d, NULL) != VMC_OK)
        return;
    for (unsigned i = 0; i < 6; i++) {
        (void)!io(d, VMC_BLOCK_WRITE, i * 150528ull, buf, sizeof(buf));
        (void)!io(d, i & 1 ? VMC_BLOCK_DISCARD : VMC_BLOCK_WRITE_ZEROES, i * 90112ull, NULL, 9216);
    }
    (void)!io(d, VMC_BLOCK_FLUSH, 0, NULL, 0);
    (void)!vmc_disk_close(d);
}

/* A disk may be described as huge, and copying it takes its time: only sane sizes are copied. */
static bool small(const struct vmc_disk_files *files, const char *name)
{
    struct vmc_block_info info = {0};
    struct vmc_disk *d;

    if (vmc_disk_open(&pf, files, name, false, &d, NULL) != VMC_OK)
        return false;
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    int rc = bd.ops->info(bd.ctx, &info);
    (void)!vmc_disk_close(d);
    return rc == VMC_OK && info.bytes <= 4 * SIZE;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"a.vmdk", "b.vmdk", "c.vmdk", "d.vmdk"};

    if (good.limit == 0) {
        good.no_power_cuts = true;
        setup();
    }
    if (size == 0)
        return 0;
    const char *name = names[data[0] & 3];
    put_back();
    struct vmc_disk_files files = mem_files_ops(&now);
    change(name, data + 1, size - 1, data[0] & 0x80);
    look(&files, name);
    use(&files, name);
    if (small(&files, name)) {
        (void)!vmc_disk_commit(&pf, &files, name, NULL, NULL);
        (void)!vmc_disk_expand(&pf, &files, name, NULL, NULL);
        (void)!vmc_disk_compress(&pf, &files, name, NULL, NULL);
        look(&files, name);
        (void)!vmc_disk_grow(&pf, &files, name, 2 * SIZE, NULL);
        (void)!vmc_disk_remove(&pf, &files, name, NULL);
    }
    return 0;
}
