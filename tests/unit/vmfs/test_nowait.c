/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests that must not wait: done where the space is allocated and its place known, otherwise
 * refused without touching the device. And what a device says of the volume on it, without mounting
 * it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "test_disk.h"
#include "test_platform.h"
#include <vmcore/disk.h>
#include <vmcore/vmfs.h>

#include <cmocka.h>

#define MIB (1ull << 20)

struct world {
    struct test_platform tp;
    struct test_disk disk;
    struct test_path path;
    struct vmc_vmfs *v;
    struct vmc_error err;
};

static void ok(struct world *w, int64_t rc)
{
    if (rc < 0)
        fail_msg("%s: %s", vmc_status_name((int)rc), w->err.text);
}

static void format(struct world *w, uint64_t bytes)
{
    memset(w, 0, sizeof(*w));
    test_platform_init(&w->tp);
    test_disk_init(&w->disk, bytes);
    test_path_init(&w->path, &w->disk);
    struct vmc_vmfs_mkfs_config mk = {
        .size = sizeof(mk), .devs = &w->path.bd, .dev_count = 1, .time_s = 1, .partition = true};
    ok(w, vmc_vmfs_mkfs(&w->tp.pf, &mk, &w->err));
}

static void begin(struct world *w)
{
    format(w, 400 * MIB);
    struct vmc_vmfs_mount_config mc = {
        .size = sizeof(mc), .devs = &w->path.bd, .dev_count = 1, .flags = VMC_VMFS_EXCLUSIVE};
    ok(w, vmc_vmfs_mount(&w->tp.pf, &mc, &w->v, &w->err));
}

static void end(struct world *w)
{
    if (w->v != NULL)
        ok(w, vmc_vmfs_unmount(w->v, &w->err));
    test_disk_fini(&w->disk);
    test_platform_check(&w->tp);
}

static int request(struct vmc_blockdev bd, uint32_t op, uint32_t flags, uint64_t off, void *buf,
                   uint64_t bytes)
{
    struct vmc_iovec iov = {.base = buf, .bytes = bytes};
    struct vmc_block_req r = {.op = op,
                              .flags = flags,
                              .offset = off,
                              .bytes = bytes,
                              .iov = &iov,
                              .iov_count = buf != NULL};

    assert_int_equal(bd.ops->submit(bd.ctx, &r), VMC_BLOCK_COMPLETE);
    return r.status;
}

/* The request is refused, and nothing at all has happened; without the flag it is done. */
static void refused(struct world *w, struct vmc_blockdev bd, uint32_t op, uint64_t off, void *buf,
                    uint64_t bytes)
{
    uint64_t before = w->disk.reads + w->disk.writes + w->disk.flushes;

    assert_int_equal(request(bd, op, VMC_BLOCK_NOWAIT, off, buf, bytes), VMC_EAGAIN);
    assert_int_equal(w->disk.reads + w->disk.writes + w->disk.flushes, before);
    ok(w, request(bd, op, 0, off, buf, bytes));
}

static void served(struct world *w, struct vmc_blockdev bd, uint32_t op, uint64_t off, void *buf,
                   uint64_t bytes)
{
    ok(w, request(bd, op, VMC_BLOCK_NOWAIT, off, buf, bytes));
}

static void *open_disk(struct world *w, struct vmc_disk_vmfs *folder, const char *name)
{
    struct vmc_disk *d;

    *folder = (struct vmc_disk_vmfs){.volume = w->v, .folder = "/"};
    struct vmc_disk_files files = vmc_disk_vmfs_files(folder);
    ok(w, vmc_disk_open(&w->tp.pf, &files, name, true, &d, &w->err));
    return d;
}

static void thin_disks(void **state)
{
    struct world w;
    struct vmc_disk_vmfs folder;
    static unsigned char a[2 * MIB], b[2 * MIB];

    (void)state;
    begin(&w);
    folder = (struct vmc_disk_vmfs){.volume = w.v, .folder = "/"};
    struct vmc_disk_files files = vmc_disk_vmfs_files(&folder);
    ok(&w, vmc_disk_create(&w.tp.pf, &files, "t.vmdk", 64 * MIB, VMC_DISK_THIN, &w.err));
    struct vmc_disk *d = open_disk(&w, &folder, "t.vmdk");
    struct vmc_blockdev bd = vmc_disk_blockdev(d);
    memset(a, 0x5a, sizeof(a));
    refused(&w, bd, VMC_BLOCK_WRITE, MIB, a, MIB);            /* a block has to be found */
    served(&w, bd, VMC_BLOCK_WRITE, MIB + 512, a, MIB - 512); /* it has been */
    served(&w, bd, VMC_BLOCK_READ, MIB, b, MIB);
    assert_memory_equal(a, b, MIB);
    refused(&w, bd, VMC_BLOCK_WRITE, MIB + 4096, a, MIB); /* half of it */
    served(&w, bd, VMC_BLOCK_READ, 2 * MIB, b, 2 * MIB);  /* a block and a hole */
    assert_memory_equal(a, b, 4096);
    assert_int_equal(b[MIB], 0);
    refused(&w, bd, VMC_BLOCK_DISCARD, 2 * MIB, NULL, MIB);
    refused(&w, bd, VMC_BLOCK_WRITE_ZEROES, MIB, NULL, 4096);
    refused(&w, bd, VMC_BLOCK_FLUSH, 0, NULL, 0);
    assert_int_equal(request(bd, VMC_BLOCK_READ, VMC_BLOCK_NOWAIT, 64 * MIB, b, 512), VMC_ERANGE);
    ok(&w, vmc_disk_close(d));
    d = open_disk(&w, &folder, "t.vmdk"); /* its map is not in memory */
    refused(&w, vmc_disk_blockdev(d), VMC_BLOCK_READ, MIB, b, MIB);
    served(&w, vmc_disk_blockdev(d), VMC_BLOCK_READ, MIB, b, MIB);
    ok(&w, vmc_disk_close(d));
    end(&w);
}

static void snapshots(void **state)
{
    struct world w;
    struct vmc_disk_vmfs folder;
    unsigned char a[4096] = {1};

    (void)state;
    begin(&w);
    folder = (struct vmc_disk_vmfs){.volume = w.v, .folder = "/"};
    struct vmc_disk_files files = vmc_disk_vmfs_files(&folder);
    ok(&w, vmc_disk_create(&w.tp.pf, &files, "t.vmdk", 16 * MIB, VMC_DISK_LAZY, &w.err));
    ok(&w, vmc_disk_snapshot(&w.tp.pf, &files, "t.vmdk", "s.vmdk", 0, &w.err));
    struct vmc_disk *d = open_disk(&w, &folder, "s.vmdk");
    for (unsigned i = 0; i < 2; i++) { /* tables may have to be read at any time */
        refused(&w, vmc_disk_blockdev(d), VMC_BLOCK_WRITE, 0, a, sizeof(a));
        refused(&w, vmc_disk_blockdev(d), VMC_BLOCK_READ, 0, a, sizeof(a));
    }
    refused(&w, vmc_disk_blockdev(d), VMC_BLOCK_FLUSH, 0, NULL, 0);
    ok(&w, vmc_disk_close(d));
    end(&w);
}

static void probe(void **state)
{
    struct world w;
    struct test_disk other;
    struct test_path there;
    struct vmc_vmfs_probe p, q;

    (void)state;
    format(&w, 400 * MIB);
    ok(&w, vmc_vmfs_probe(&w.tp.pf, &w.path.bd, &p, &w.err));
    assert_int_equal(p.extents, 1);
    /* A copy has the same ids, an empty disk none. */
    test_disk_init(&other, 400 * MIB);
    test_path_init(&there, &other);
    assert_int_equal(vmc_vmfs_probe(&w.tp.pf, &there.bd, &q, &w.err), VMC_ENOENT);
    assert_int_equal(w.err.code, VMC_ENOENT);
    assert_int_equal(vmc_vmfs_probe(&w.tp.pf, &there.bd, &q, NULL), VMC_ENOENT);
    memcpy(other.data, w.disk.data, 400 * MIB);
    ok(&w, vmc_vmfs_probe(&w.tp.pf, &there.bd, &q, &w.err));
    assert_memory_equal(&p, &q, sizeof(p));
    /* Damage: the version of the volume manager, behind the magic number. */
    memset(other.data + MIB + 0x100000 + 4, 0xee, 4);
    assert_int_equal(vmc_vmfs_probe(&w.tp.pf, &there.bd, &q, &w.err), VMC_EVERSION);
    /* Two extents of one volume. */
    struct vmc_blockdev both[2] = {w.path.bd, there.bd};
    struct vmc_vmfs_mkfs_config mk = {
        .size = sizeof(mk), .devs = both, .dev_count = 2, .time_s = 1, .partition = true};
    ok(&w, vmc_vmfs_mkfs(&w.tp.pf, &mk, &w.err));
    ok(&w, vmc_vmfs_probe(&w.tp.pf, &both[0], &p, &w.err));
    ok(&w, vmc_vmfs_probe(&w.tp.pf, &both[1], &q, &w.err));
    assert_int_equal(p.extents, 2);
    assert_int_equal(q.extents, 2);
    assert_memory_equal(&p.lvm_uuid, &q.lvm_uuid, sizeof(p.lvm_uuid));
    assert_memory_not_equal(&p.dev_uuid, &q.dev_uuid, sizeof(p.dev_uuid));
    test_disk_fini(&other);
    end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thin_disks),
        cmocka_unit_test(snapshots),
        cmocka_unit_test(probe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
