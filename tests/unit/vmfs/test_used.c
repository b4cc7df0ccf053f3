/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What volumes of other hosts hold and ours never do: sessions of dead hosts with journals and
 * locks, tables that differ from the linear rule, copies with another volume's UUID, holes in
 * directories, .pb2.sf and .sdd.sf at other places (after an upgrade). Such volumes are read; they are written
 * to only where that is safe.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_int.h"
#include "vmfs/vmfs_format.h"
#include "test_disk.h"
#include "test_platform.h"
#include <vmcore/vmfs.h>

#include <cmocka.h>

#define MIB   (1ull << 20)
#define LV    0x1100000ull
#define FD0   (LV + 0x420000)
#define FD(i) (FD0 + (i)*0x800ull)
#define DEPTH 24u

struct world {
    struct test_platform tp;
    struct test_disk disk;
    struct test_path path;
    struct vmc_error err;
    char report[400];
};

static const struct {
    const char *name;
    uint64_t offset;
    uint32_t bytes;
} files[] = {
    {"resident", 0, 700},          {"sub-block", 0, 8000},         {"blocks", 0, 3 * MIB + 17},
    {"far", 300ull << 30, 100000}, {"pointers", 290 * MIB, 70000},
};

static void ok(struct world *w, int64_t rc)
{
    if (rc < 0)
        fail_msg("%s: %s", vmc_status_name((int)rc), w->err.text);
}

static void sleep_ns(void *ctx, uint64_t ns)
{
    ((struct world *)ctx)->tp.now_ns += ns;
}

static int mount(struct world *w, uint32_t flags, struct vmc_vmfs **v)
{
    struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                      .flags = flags,
                                      .devs = &w->path.bd,
                                      .dev_count = 1,
                                      .sleep_ns = sleep_ns,
                                      .sleep_ctx = w};
    w->err.text[0] = '\0';
    return vmc_vmfs_mount(&w->tp.pf, &c, v, &w->err);
}

static void deep_path(char *path, size_t bytes)
{
    size_t at = 0;
    for (unsigned i = 0; i < DEPTH; i++)
        at += (size_t)snprintf(path + at, bytes - at, "/level%u", i);
}

static void fill(unsigned char *p, uint32_t n, unsigned seed)
{
    for (uint32_t i = 0; i < n; i++)
        p[i] = (unsigned char)(seed * 31 + i * 7 + (i >> 9));
}

static void setup(struct world *w)
{
    struct vmc_vmfs *v;
    struct vmc_vmfs_file *f;
    unsigned char *buf = malloc(4 * MIB);
    char path[600], deep[400] = "";

    memset(w, 0, sizeof(*w));
    assert_non_null(buf);
    test_platform_init(&w->tp);
    test_disk_init(&w->disk, LV + 512 * MIB);
    test_path_init(&w->path, &w->disk);
    struct vmc_vmfs_mkfs_config c = {.size = sizeof(c),
                                     .devs = &w->path.bd,
                                     .dev_count = 1,
                                     .pointer_blocks = 64,
                                     .pointer_blocks2 = 16,
                                     .time_s = 1};
    ok(w, vmc_vmfs_mkfs(&w->tp.pf, &c, &w->err));
    ok(w, mount(w, VMC_VMFS_EXCLUSIVE, &v));
    for (unsigned i = 0; i < DEPTH; i++) {
        size_t at = strlen(deep);
        snprintf(deep + at, sizeof(deep) - at, "/level%u", i);
        ok(w, vmc_vmfs_mkdir(v, deep, 0755, &w->err));
    }
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", deep, files[i].name);
        fill(buf, files[i].bytes, i);
        ok(w, vmc_vmfs_open(v, path, VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &w->err));
        ok(w, vmc_vmfs_pwrite(f, buf, files[i].bytes, files[i].offset, &w->err));
        ok(w, vmc_vmfs_close(f, &w->err));
    }
    ok(w, vmc_vmfs_unmount(v, &w->err));
    free(buf);
}

/* The files that bits say, read-only, without waiting for anybody; the others cannot be read. */
static void read_some(struct world *w, unsigned which)
{
    struct vmc_vmfs *v;
    struct vmc_vmfs_file *f;
    unsigned char *buf = malloc(4 * MIB), *want = malloc(4 * MIB);
    char path[600], deep[400];
    uint64_t start = w->tp.now_ns;

    assert_true(buf != NULL && want != NULL);
    deep_path(deep, sizeof(deep));
    ok(w, mount(w, VMC_VMFS_RDONLY, &v));
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", deep, files[i].name);
        fill(want, files[i].bytes, i);
        ok(w, vmc_vmfs_open(v, path, VMC_VMFS_READ, &f, &w->err));
        int64_t n = vmc_vmfs_pread(f, buf, 4 * MIB, files[i].offset, &w->err);
        if (which >> i & 1) {
            assert_int_equal(n, files[i].bytes);
            assert_memory_equal(buf, want, files[i].bytes);
        } else {
            assert_int_equal(n, VMC_EFORMAT);
        }
        ok(w, vmc_vmfs_close(f, &w->err));
    }
    ok(w, vmc_vmfs_unmount(v, &w->err));
    assert_true(w->tp.now_ns - start < 1000000000ull);
    free(buf);
    free(want);
}

static void read_all(struct world *w)
{
    read_some(w, (1u << VMCI_ARRAY_SIZE(files)) - 1);
}

static void refused(struct world *w, int rc, const char *word)
{
    struct vmc_vmfs *v;

    assert_int_equal(mount(w, 0, &v), rc);
    if (strstr(w->err.text, word) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", w->err.text, word);
}

static void report(void *ctx, const char *text, bool repaired)
{
    struct world *w = ctx;

    (void)repaired;
    if (w->report[0] == '\0')
        snprintf(w->report, sizeof(w->report), "%s", text);
}

static uint64_t errors(struct world *w)
{
    struct vmc_vmfs *v;
    struct vmc_vmfs_fsck_config c = {.size = sizeof(c), .report = report, .ctx = w};
    struct vmc_vmfs_fsck_result r;

    w->report[0] = '\0';
    ok(w, mount(w, VMC_VMFS_RDONLY, &v));
    ok(w, vmc_vmfs_fsck(v, &c, &r, &w->err));
    ok(w, vmc_vmfs_unmount(v, &w->err));
    return r.errors;
}

static void teardown(struct world *w)
{
    test_disk_fini(&w->disk);
    test_platform_check(&w->tp);
}

/* Hosts that died: slots in use, journals with contents, files still locked by them. */
static void dead_hosts(void **state)
{
    (void)state;
    struct world w;
    static const unsigned slots[] = {120, 984, 1795};

    setup(&w);
    for (unsigned i = 0; i < 3; i++) {
        unsigned char *hb = w.disk.data + LV + FS_HB_LV + slots[i] * 512ull;
        uint32_t journal = 300 + i; /* a free block */
        vmci_st_le32(hb + HB_STATE, HB_USED);
        vmci_st_le64(hb + HB_GENERATION, 0x0B + i);
        vmci_st_le64(hb + HB_STAMP, 123456789 + i);
        memset(hb + HB_OWNER, 0x40 + (int)i, 16);
        vmci_st_le32(hb + HB_JOURNAL, journal << 6 | AD_FB);
        vmci_st_le32(hb + HB_MAJOR, 14);
        hb[HB_MINOR] = 81;
        hb[HB_LOCK_IMPL] = 3;
        memcpy(hb + HB_NAME, "192.0.2.1", 10);
        vmci_st_le64(hb + HB_JOURNAL_LV, journal * MIB);
        memset(w.disk.data + LV + journal * MIB, 0xA5, 512); /* an open transaction */
        /* The last files made are locked, one by each: exclusively, for reading, by many. */
        unsigned char *lock = w.disk.data + FD(8 + DEPTH + i);
        assert_int_equal(vmci_ld_le32(lock + 0x200 + 0x0C), VMC_VMFS_FILE);
        vmci_st_le64(lock + 0x0C, FS_HB_LV + slots[i] * 512ull);
        vmci_st_le64(lock + 0x14, 0x0B + i);
        vmci_st_le32(lock + 0x24, 1 + i);
        memset(lock + 0x28, 0x40 + (int)i, 16);
        vmci_st_le32(lock + 0x40, i == 0 ? 0 : 1);
    }
    read_all(&w);
    refused(&w, VMC_EPERM, "journal");
    teardown(&w);
}

static uint64_t stale_locks(struct world *w)
{
    struct vmc_vmfs *v;
    struct vmc_vmfs_fsck_config c = {.size = sizeof(c)};
    struct vmc_vmfs_fsck_result r;

    ok(w, mount(w, VMC_VMFS_RDONLY, &v));
    ok(w, vmc_vmfs_fsck(v, &c, &r, &w->err));
    ok(w, vmc_vmfs_unmount(v, &w->err));
    assert_int_equal(r.errors, 0);
    return r.stale_locks;
}

/* A lock that several hosts share lives for as long as one of them does, whoever took it last. */
static void shared_lock(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    unsigned char *hb = w.disk.data + LV + FS_HB_LV + 120 * 512ull;
    unsigned char *lock = w.disk.data + FD(8 + DEPTH);
    vmci_st_le32(hb + HB_STATE, HB_USED);
    vmci_st_le64(hb + HB_GENERATION, 5);
    vmci_st_le64(lock + LK_HB, FS_HB_LV + 984 * 512ull); /* free */
    vmci_st_le64(lock + LK_HB_GEN, 3);
    vmci_st_le32(lock + LK_MODE, LK_MODE_RO);
    vmci_st_le32(lock + LK_HOLDERS, 2);
    vmci_st_le64(lock + LK_HOLDER, FS_HB_LV + 984 * 512ull);
    vmci_st_le64(lock + LK_HOLDER + LK_HOLDER_LEN, FS_HB_LV + 120 * 512ull);
    vmci_st_le64(lock + LK_HOLDER + LK_HOLDER_LEN + 8, 5);
    assert_int_equal(stale_locks(&w), 0);
    vmci_st_le64(hb + HB_GENERATION, 6); /* another session in the slot */
    assert_int_equal(stale_locks(&w), 1);
    vmci_st_le32(lock + LK_HOLDERS, LK_HOLDER_MAX + 1);
    assert_int_equal(stale_locks(&w), 0);
    teardown(&w);
}

static void other_tables_of_extents(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    unsigned char *second = w.disk.data + LVM_PE_BITMAP_OFF + LVM_PE_BITMAP + LVM_PE_ENTRY;
    assert_int_equal(second[LVP_USED], 1);
    second[LVP_USED] = 3;
    read_all(&w);
    refused(&w, VMC_EFORMAT, "physical extent 1");
    assert_int_equal(errors(&w), 1);
    assert_non_null(strstr(w.report, "physical extent 1"));
    teardown(&w);
}

static void copy_that_was_not_resignatured(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    w.disk.data[LV + FS_DESC_LV + FSD_LVM_UUID + 3] ^= 1;
    read_all(&w);
    refused(&w, VMC_EFORMAT, "LVM UUID");
    assert_int_equal(errors(&w), 1);
    teardown(&w);
}

static void hole_in_a_directory(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    /* .pb2.sf in the root's directory: nobody looks it up by name. */
    uint32_t block = vmci_ld_le32(w.disk.data + FD(0) + 0x400) >> 6;
    unsigned char *e = w.disk.data + LV + block * MIB + 7 * DE_BYTES;
    assert_string_equal((char *)e + DE_NAME, ".pb2.sf");
    memset(e, 0, DE_BYTES);
    read_all(&w);
    teardown(&w);
}

static void pb2_after_an_upgrade(void **state)
{
    (void)state;
    struct world w;
    struct vmc_vmfs *v;
    struct vmc_vmfs_space space;
    uint32_t addr = 18u << 22 | 1u << 6 | AD_FD; /* the 50th: 32 are in a cluster */
    uint64_t blocks;

    setup(&w);
    ok(&w, mount(&w, VMC_VMFS_RDONLY, &v));
    ok(&w, vmc_vmfs_space(v, &space, &w.err));
    blocks = space.pointer_blocks2.total;
    assert_true(blocks > 0);
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    memcpy(w.disk.data + FD(50), w.disk.data + FD(6), 0x800);
    vmci_st_le64(w.disk.data + FD(50) + LK_SELF, 0x420000 + 50 * 0x800);
    vmci_st_le32(w.disk.data + FD(50) + 0x200 + FD_SELF, addr);
    vmci_st_le32(w.disk.data + FD(6) + 0x200 + 8, 0); /* its old place is free */
    unsigned char *d = w.disk.data + LV + FS_DESC_LV;
    vmci_st_le32(d + FSD_PB2_FD, addr);
    vmci_st_le64(d + FSD_PB2_LV, 0x420000 + 50 * 0x800);
    read_all(&w);
    ok(&w, mount(&w, VMC_VMFS_RDONLY, &v));
    ok(&w, vmc_vmfs_space(v, &space, &w.err));
    assert_int_equal(space.pointer_blocks2.total, blocks);
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    /* Named, but not there: the rest can be read. */
    vmci_st_le32(d + FSD_PB2_FD, 28u << 22 | 1u << 6 | AD_FD);
    read_all(&w);
    teardown(&w);
}

static void sdd_after_an_upgrade(void **state)
{
    (void)state;
    struct world w;
    struct vmc_vmfs *v;
    struct vmc_vmfs_dirent e;
    uint32_t addr = 18u << 22 | 1u << 6 | AD_FD; /* the 50th: 32 are in a cluster */
    uint64_t cookie = 0;

    setup(&w);
    memcpy(w.disk.data + FD(50), w.disk.data + FD(7), 0x800);
    vmci_st_le64(w.disk.data + FD(50) + LK_SELF, 0x420000 + 50 * 0x800);
    vmci_st_le32(w.disk.data + FD(50) + 0x200 + FD_SELF, addr);
    vmci_st_le32(w.disk.data + FD(7) + 0x200 + 8, 0); /* its old place is free */
    unsigned char *d = w.disk.data + LV + FS_DESC_LV;
    vmci_st_le32(d + FSD_SDD_FD, addr);
    vmci_st_le64(d + FSD_SDD_LV, 0x420000 + 50 * 0x800);
    uint32_t root = vmci_ld_le32(w.disk.data + FD(0) + 0x400) >> 6;
    unsigned char *name = w.disk.data + LV + root * MIB + 8 * DE_BYTES;
    assert_string_equal((char *)name + DE_NAME, ".sdd.sf");
    vmci_st_le32(name + DE_FD, addr);
    uint32_t own = vmci_ld_le32(w.disk.data + FD(50) + 0x400) >> 6;
    vmci_st_le32(w.disk.data + LV + own * MIB + DE_FD, addr);
    read_all(&w);
    ok(&w, mount(&w, VMC_VMFS_RDONLY, &v));
    assert_int_equal(vmc_vmfs_readdir(v, "/.sdd.sf", &cookie, &e, &w.err), 1);
    assert_string_equal(e.name, ".");
    assert_int_equal(e.id, addr);
    assert_int_equal(vmc_vmfs_readdir(v, "/.sdd.sf", &cookie, &e, &w.err), 1);
    assert_int_equal(vmc_vmfs_readdir(v, "/.sdd.sf", &cookie, &e, &w.err), 0);
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    /* A system file that is none is not made one by being named so. */
    vmci_st_le32(d + FSD_SDD_FD, FD_ADDR_FBB);
    ok(&w, mount(&w, VMC_VMFS_RDONLY, &v));
    cookie = 0;
    assert_int_equal(vmc_vmfs_readdir(v, "/.fbb.sf", &cookie, &e, &w.err), VMC_EINVAL);
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    teardown(&w);
}

/* An entry of 140 bytes for the file of a descriptor. */
static void entry(unsigned char *e, const unsigned char *fd, const char *name)
{
    memset(e, 0, 140);
    vmci_st_le32(e, vmci_ld_le32(fd + 0x200 + 0x0C));
    vmci_st_le32(e + 4, vmci_ld_le32(fd + 0x200));
    vmci_st_le32(e + 8, vmci_ld_le32(fd + 0x200 + 0x04));
    memcpy(e + 12, name, strlen(name));
}

/* A directory whose entries are in its descriptor, like the contents of a small file. */
static void directory_without_blocks(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    unsigned char *dir = w.disk.data + FD(8), *sub = w.disk.data + FD(9);
    assert_int_equal(vmci_ld_le32(dir + 0x200 + 0x0C), VMC_VMFS_DIR);
    memset(dir + 0x400, 0, 0x400);
    entry(dir + 0x400, dir, ".");
    entry(dir + 0x400 + 140, w.disk.data + FD(0), "..");
    entry(dir + 0x400 + 280, sub, "level1");
    vmci_st_le64(dir + 0x200 + 0x14, 420);
    vmci_st_le64(dir + 0x200 + 0x24, 0);
    vmci_st_le32(dir + 0x200 + 0x44, 4305);
    read_all(&w);
    teardown(&w);
}

/* A mapping of a raw device: its length is the device's; what is said of blocks means nothing. */
static void raw_device(void **state)
{
    (void)state;
    struct world w;
    struct vmc_vmfs *v;
    struct vmc_vmfs_stat st;
    struct vmc_vmfs_file *f;
    char path[600], deep[400], c;

    setup(&w);
    unsigned char *fd = w.disk.data + FD(8 + DEPTH);
    assert_int_equal(vmci_ld_le32(fd + 0x200 + 0x0C), VMC_VMFS_FILE);
    memset(fd + 0x400, 0, 0x400);
    memcpy(fd + 0x400,
           "\x01\x1a\0\0\0\x05"
           "QEMU    QEMU HARDDISK   2.5+QM00015",
           41);
    vmci_st_le32(fd + 0x200 + 0x0C, 6);
    vmci_st_le64(fd + 0x200 + 0x14, 6969ull << 30);
    vmci_st_le64(fd + 0x200 + 0x1C, 0);
    vmci_st_le32(fd + 0x200 + 0x44, 0);
    deep_path(deep, sizeof(deep));
    snprintf(path, sizeof(path), "%s/%s", deep, files[0].name);
    /* Its entry has to say so too; a copy of it is in the journal. */
    for (unsigned char *p = w.disk.data; p < w.disk.data + w.disk.bytes - 140; p += 4)
        if (vmci_ld_le32(p) == 3 && memcmp(p + 12, "resident", 9) == 0)
            vmci_st_le32(p, 6);
    ok(&w, mount(&w, VMC_VMFS_RDONLY, &v));
    ok(&w, vmc_vmfs_stat(v, path, &st, &w.err));
    assert_int_equal(st.type, VMC_VMFS_RDM);
    assert_true(st.bytes == 6969ull << 30);
    ok(&w, vmc_vmfs_open(v, path, VMC_VMFS_READ | VMC_VMFS_NOLOCK, &f, &w.err));
    assert_int_equal(vmc_vmfs_pread(f, &c, 1, 0, &w.err), VMC_ENOTSUP);
    ok(&w, vmc_vmfs_close(f, &w.err));
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    assert_int_equal(errors(&w), 0);
    ok(&w, mount(&w, VMC_VMFS_EXCLUSIVE, &v));
    ok(&w, vmc_vmfs_remove(v, path, &w.err));
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    teardown(&w);
}

/* System files that cannot be used: what does not need them is read. */
static void damaged_system_files(void **state)
{
    (void)state;
    struct world w;
    struct vmc_vmfs *v;
    struct vmc_vmfs_space space;
    struct vmc_vmfs_fsck_config c = {.size = sizeof(c)};
    struct vmc_vmfs_fsck_result r;

    setup(&w);
    vmci_st_le32(w.disk.data + FD(1) + 0x200 + FD_LINKS, 0); /* .fbb.sf */
    vmci_st_le32(w.disk.data + FD(2) + 0x200 + FD_TYPE, VMC_VMFS_FILE);
    read_all(&w);
    refused(&w, VMC_EFORMAT, "has type 3");
    vmci_st_le32(w.disk.data + FD(2) + 0x200 + FD_TYPE, VMC_VMFS_SYSTEM);
    refused(&w, VMC_ENOENT, "not in use");
    ok(&w, mount(&w, VMC_VMFS_RDONLY, &v));
    ok(&w, vmc_vmfs_space(v, &space, &w.err));
    assert_int_equal(space.blocks.total, 0); /* nobody knows */
    assert_true(space.fds.total > 0);
    assert_int_equal(vmc_vmfs_fsck(v, &c, &r, &w.err), VMC_ENOTSUP);
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    vmci_st_le32(w.disk.data + FD(1) + 0x200 + FD_LINKS, 1);
    read_all(&w);
    /* Pointer blocks: files of few blocks, and the tree, need none. */
    uint32_t block = vmci_ld_le32(w.disk.data + FD(3) + 0x400) >> 6;
    unsigned char *pbc = w.disk.data + LV + block * MIB;
    vmci_st_le32(pbc + RF_RPC, 0);
    read_some(&w, 7);
    refused(&w, VMC_EFORMAT, ".pbc.sf");
    vmci_st_le32(pbc + RF_RPC, 16);
    vmci_st_le32(pbc + RF_GROUPS, 77);
    read_all(&w);
    refused(&w, VMC_EFORMAT, "77 groups");
    teardown(&w);
}

/* A cluster whose header cannot be used does not keep the others from being counted. */
static void space_of_a_damaged_cluster(void **state)
{
    (void)state;
    struct world w;
    struct vmc_vmfs *v;
    struct vmc_vmfs_space before, after;

    setup(&w);
    ok(&w, mount(&w, VMC_VMFS_RDONLY, &v));
    ok(&w, vmc_vmfs_space(v, &before, &w.err));
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    vmci_st_le32(w.disk.data + LV + 0x610000 + 0x400, 0); /* type of the second lock of .fbb.sf */
    ok(&w, mount(&w, VMC_VMFS_RDONLY, &v));
    ok(&w, vmc_vmfs_space(v, &after, &w.err));
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    assert_int_equal(after.blocks.total, before.blocks.total);
    assert_in_range(after.blocks.free, before.blocks.free - 200, before.blocks.free - 1);
    teardown(&w);
}

/* The checker goes on behind a header that is wrong, and takes files from before an upgrade as they
 * are. */
static void check_of_others(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    for (unsigned i = 0; i < 8 + DEPTH; i++)
        w.disk.data[FD(i) + 0x200 + FD_LOG2] = 0;
    assert_int_equal(errors(&w), 0);
    vmci_st_le32(w.disk.data + LV + 0x410000 + 0x400, 0); /* type of the second lock of .fdc.sf */
    assert_int_equal(errors(&w), 1);
    assert_non_null(strstr(w.report, ".fdc.sf 1: lock"));
    teardown(&w);
}

/* The descriptor says another size of sub-blocks than their file, as if it had been upgraded. */
static void other_sub_blocks(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    unsigned char *d = w.disk.data + LV + FS_DESC_LV;
    vmci_st_le32(d + FSD_SB, 0x10000);
    vmci_st_le32(d + FSD_CONFIG, 2);
    read_all(&w);
    refused(&w, VMC_EFORMAT, ".sbc.sf");
    teardown(&w);
}

/* What an entry says of its file is not what the file says: the file is read. */
static void entry_of_another_generation(void **state)
{
    (void)state;
    struct world w;
    struct vmc_vmfs *v;
    struct vmc_vmfs_stat st;

    setup(&w);
    uint32_t block = vmci_ld_le32(w.disk.data + FD(0) + 0x400) >> 6;
    unsigned char *e = w.disk.data + LV + block * MIB;
    while (strcmp((char *)e + DE_NAME, "level0") != 0)
        e += DE_BYTES;
    vmci_st_le32(e + DE_GEN, 4711);
    read_all(&w);
    ok(&w, mount(&w, VMC_VMFS_EXCLUSIVE, &v));
    assert_int_equal(vmc_vmfs_stat(v, "/level0", &st, &w.err), VMC_EFORMAT);
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    teardown(&w);
}

/* Sizes of blocks that we never make. */
static void other_blocks_of_files(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    unsigned char *fd = w.disk.data + FD(8 + DEPTH);
    assert_int_equal(vmci_ld_le32(fd + 0x200 + FD_ZLA), ZLA_RESIDENT);
    vmci_st_le64(fd + 0x200 + FD_BLOCK, 0);
    fd += 0x800;
    assert_int_equal(vmci_ld_le32(fd + 0x200 + FD_ZLA), ZLA_SB);
    vmci_st_le64(fd + 0x200 + FD_BLOCK, 0x4000); /* one, and it is not all of it */
    vmci_st_le64(fd + 0x200 + FD_LENGTH, 8000);
    read_all(&w);
    teardown(&w);
}

/* A system file whose contents are in its descriptor has a header, but no place for what it is of. */
static void system_file_without_blocks(void **state)
{
    (void)state;
    struct world w;
    struct vmc_vmfs *v;
    struct vmc_vmfs_stat st;

    setup(&w);
    unsigned char *fd = w.disk.data + FD(4); /* .sbc.sf */
    uint32_t block = vmci_ld_le32(fd + 0x400) >> 6;
    memcpy(fd + 0x400, w.disk.data + LV + block * MIB, 0x400);
    vmci_st_le32(fd + 0x200 + FD_ZLA, ZLA_RESIDENT);
    vmci_st_le64(fd + 0x200 + FD_LENGTH, 0x400);
    vmci_st_le64(fd + 0x200 + FD_BLOCK, 0);
    ok(&w, mount(&w, VMC_VMFS_RDONLY, &v));
    ok(&w, vmc_vmfs_stat(v, "/level0", &st, &w.err));
    /* The entries of that directory are in a sub-block. */
    assert_int_equal(vmc_vmfs_stat(v, "/level0/level1", &st, &w.err), VMC_EFORMAT);
    assert_non_null(strstr(w.err.text, "has no blocks"));
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dead_hosts),
        cmocka_unit_test(shared_lock),
        cmocka_unit_test(other_tables_of_extents),
        cmocka_unit_test(copy_that_was_not_resignatured),
        cmocka_unit_test(hole_in_a_directory),
        cmocka_unit_test(pb2_after_an_upgrade),
        cmocka_unit_test(sdd_after_an_upgrade),
        cmocka_unit_test(directory_without_blocks),
        cmocka_unit_test(raw_device),
        cmocka_unit_test(damaged_system_files),
        cmocka_unit_test(space_of_a_damaged_cluster),
        cmocka_unit_test(check_of_others),
        cmocka_unit_test(other_sub_blocks),
        cmocka_unit_test(entry_of_another_generation),
        cmocka_unit_test(other_blocks_of_files),
        cmocka_unit_test(system_file_without_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
