/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Devices as hosts of others leave them: extents that were enlarged after another one had been
 * added, tables in several regions, older volume managers, copies that end too early, volumes
 * without a volume manager, logical partitions, disks with sectors of 4 KiB. The headers are
 * written here, byte by byte; only the contents of the volume come from the formatter.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_int.h"
#include "test_disk.h"
#include "test_platform.h"
#include <vmcore/vmfs.h>

#include <cmocka.h>

#define MIB   (1ull << 20)
#define PE    (256 * MIB)
#define DATA  0x1100000ull /* of a device */
#define TABLE 0x180600ull  /* of physical extents */
#define MAP   (8192ull * 128 + 1024)
#define BIG   (200 * MIB) /* of each of the files that reach through the volume */
#define STEP  (8 * MIB)   /* from one piece of data in a file to the next */
#define PIECE 4096ull

struct world {
    struct test_platform tp;
    struct test_disk volume;  /* as formatted: one device, three extents */
    struct test_disk disk[2]; /* what is mounted */
    struct test_path path[2];
    struct vmc_error err;
};

static void ok(struct world *w, int64_t rc)
{
    if (rc < 0)
        fail_msg("%s: %s", vmc_status_name((int)rc), w->err.text);
}

static unsigned char at(uint64_t i)
{
    return (unsigned char)(i * 7 + (i >> 12) * 13 + (i >> 20));
}

static int mount(struct world *w, unsigned devices, uint32_t flags, struct vmc_vmfs **v)
{
    struct vmc_blockdev bd[2];

    for (unsigned i = 0; i < devices; i++) {
        test_path_init(&w->path[i], &w->disk[i]);
        bd[i] = w->path[i].bd;
    }
    struct vmc_vmfs_mount_config c = {
        .size = sizeof(c), .flags = flags, .devs = bd, .dev_count = devices};
    return vmc_vmfs_mount(&w->tp.pf, &c, v, &w->err);
}

/* Pages of zeros stay what they are: not there. */
static void copy(unsigned char *to, const unsigned char *from, uint64_t bytes)
{
    static const unsigned char zeros[4096];

    for (uint64_t n; bytes > 0; to += n, from += n, bytes -= n) {
        n = bytes < sizeof(zeros) ? bytes : sizeof(zeros);
        if (memcmp(from, zeros, n) != 0)
            memcpy(to, from, n);
    }
}

/* A volume of 768 MiB with three files of 200 MiB, one behind the other. */
static void setup(struct world *w)
{
    unsigned char buf[PIECE];
    struct vmc_vmfs *v;
    struct vmc_vmfs_file *f;
    struct test_path path;

    memset(w, 0, sizeof(*w));
    test_platform_init(&w->tp);
    test_disk_init(&w->volume, DATA + 3 * PE);
    test_path_init(&path, &w->volume);
    struct vmc_vmfs_mkfs_config c = {
        .size = sizeof(c), .devs = &path.bd, .dev_count = 1, .time_s = 1};
    ok(w, vmc_vmfs_mkfs(&w->tp.pf, &c, &w->err));
    struct vmc_vmfs_mount_config m = {
        .size = sizeof(m), .flags = VMC_VMFS_EXCLUSIVE, .devs = &path.bd, .dev_count = 1};
    ok(w, vmc_vmfs_mount(&w->tp.pf, &m, &v, &w->err));
    for (unsigned i = 0; i < 3; i++) {
        char name[8];
        snprintf(name, sizeof(name), "/%u", i);
        ok(w, vmc_vmfs_open(v, name, VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &w->err));
        ok(w, vmc_vmfs_allocate(f, 0, BIG, VMC_VMFS_ALLOC_LAZY, &w->err));
        for (uint64_t off = 0; off < BIG; off += STEP) {
            for (uint64_t k = 0; k < PIECE; k++)
                buf[k] = at(i * BIG + off + k);
            ok(w, vmc_vmfs_pwrite(f, buf, PIECE, off, &w->err));
        }
        ok(w, vmc_vmfs_close(f, &w->err));
    }
    ok(w, vmc_vmfs_unmount(v, &w->err));
}

static void teardown(struct world *w)
{
    for (unsigned i = 0; i < 2; i++)
        if (w->disk[i].data != NULL)
            test_disk_fini(&w->disk[i]);
    test_disk_fini(&w->volume);
    test_platform_check(&w->tp);
}

/* Device metadata at 1 MiB, and the entry of the volume behind them. */
static void header(struct world *w, unsigned i, uint32_t major, uint32_t pes, uint64_t first,
                   uint64_t last, uint32_t devices)
{
    unsigned char *h = w->disk[i].data + 0x100000, *t = h + 0x200;

    vmci_st_le32(h, 0xC001D00D);
    vmci_st_le32(h + 0x04, major);
    vmci_st_le32(h + 0x08, 0x15);
    vmci_st_le32(h + 0x5A, 512);
    vmci_st_le64(h + 0x5E, w->disk[i].bytes);
    vmci_st_le32(h + 0x66, 1);
    vmci_st_le32(h + 0x6A, pes);
    vmci_st_le32(h + 0x6E, pes - 1);
    vmci_st_le64(h + 0x7A, DATA);
    memset(h + 0x82, 0x11 + (int)i, 16);
    vmci_st_le64(t, 3 * PE);
    vmci_st_le32(t + 0x10, 1);
    memcpy(t + 0x54, w->volume.data + 0x100254, 16); /* the file system names it as well */
    vmci_st_le32(t + 0x64, 1);
    vmci_st_le32(t + 0x74, pes);
    vmci_st_le64(t + 0x78, first);
    vmci_st_le64(t + 0x80, last);
    vmci_st_le32(t + 0x90, devices);
}

/* An entry of a table, and the 256 MiB that it stands for. */
static void extent(struct world *w, unsigned i, uint64_t table, uint32_t entry, uint32_t id,
                   uint64_t phys, uint64_t logical)
{
    unsigned char *e = w->disk[i].data + table + entry * 128ull;

    e[0] = 1;
    vmci_st_le32(e + 0x01, id);
    vmci_st_le64(e + 0x09, phys);
    vmci_st_le64(e + 0x11, logical);
    vmci_st_le64(e + 0x19, PE);
    vmci_st_le32(e + 0x21, 1);
    copy(w->disk[i].data + phys, w->volume.data + DATA + logical, PE);
}

/* A range of a file; true: it could be read. */
static bool read_back(struct world *w, struct vmc_vmfs *v, unsigned file, uint64_t from,
                      uint64_t to)
{
    unsigned char buf[PIECE];
    struct vmc_vmfs_file *f;
    char name[8];
    bool good = true;

    snprintf(name, sizeof(name), "/%u", file);
    ok(w, vmc_vmfs_open(v, name, VMC_VMFS_READ | VMC_VMFS_NOLOCK, &f, &w->err));
    for (uint64_t off = from; off < to && good; off += STEP) {
        good = vmc_vmfs_pread(f, buf, PIECE, off, &w->err) == (int64_t)PIECE;
        for (uint64_t k = 0; k < PIECE && good; k++)
            if (buf[k] != at(file * BIG + off + k))
                fail_msg("file %u differs at %llu", file, (unsigned long long)(off + k));
    }
    ok(w, vmc_vmfs_close(f, &w->err));
    return good;
}

static void read_all(struct world *w, unsigned devices)
{
    struct vmc_vmfs *v;

    ok(w, mount(w, devices, VMC_VMFS_RDONLY, &v));
    for (unsigned i = 0; i < 3; i++)
        assert_true(read_back(w, v, i, 0, BIG));
    ok(w, vmc_vmfs_unmount(v, &w->err));
}

static void refused(struct world *w, unsigned devices, const char *word)
{
    struct vmc_vmfs *v;

    assert_int_equal(mount(w, devices, 0, &v), VMC_EFORMAT);
    if (strstr(w->err.text, word) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", w->err.text, word);
}

/* The first device had one extent, the second was added, then the first one grew. */
static void enlarged_extent(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    test_disk_init(&w.disk[0], DATA + 2 * PE);
    test_disk_init(&w.disk[1], DATA + PE);
    header(&w, 0, 5, 2, 0, 2, 2);
    extent(&w, 0, TABLE, 0, 0, DATA, 0);
    extent(&w, 0, TABLE, 1, 1, DATA + PE, 2 * PE);
    header(&w, 1, 5, 1, 1, 1, 2);
    extent(&w, 1, TABLE, 0, 0, DATA, PE);
    read_all(&w, 2);
    refused(&w, 2, "do not make 2");
    teardown(&w);
}

/* More than 65536 entries: a further region, here with the one that is used. */
static void second_region_of_tables(void **state)
{
    (void)state;
    struct world w;
    uint64_t more = DATA + 3 * PE;

    setup(&w);
    test_disk_init(&w.disk[0], more + 2 * MIB);
    header(&w, 0, 5, 65538, 0, 2, 1);
    vmci_st_le32(w.disk[0].data + 0x1000BE, 8);
    vmci_st_le64(w.disk[0].data + 0x1000C2, more);
    extent(&w, 0, TABLE, 0, 0, DATA, 0);
    extent(&w, 0, TABLE + 7 * MAP, 8191, 65535, DATA + PE, PE);
    vmci_st_le32(w.disk[0].data + more, 0xC001D00D);
    vmci_st_le32(w.disk[0].data + more + 4, 1);
    vmci_st_le64(w.disk[0].data + more + 8, DATA + 2 * PE);
    extent(&w, 0, more + TABLE - 0x100000, 1, 65537, DATA + 2 * PE, 2 * PE);
    read_all(&w, 1);
    /* Its header is no header: what it names is not read. */
    vmci_st_le32(w.disk[0].data + more, 0xC001D00E);
    struct vmc_vmfs *v;
    assert_int_equal(mount(&w, 1, VMC_VMFS_RDONLY, &v), VMC_EFORMAT);
    teardown(&w);
}

/* A header of a version between the known ones; the order of the devices does not matter. */
static void version_4(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    test_disk_init(&w.disk[1], DATA + PE);
    test_disk_init(&w.disk[0], DATA + 2 * PE);
    header(&w, 1, 4, 1, 0, 0, 2);
    extent(&w, 1, TABLE, 0, 0, DATA, 0);
    header(&w, 0, 4, 2, 1, 2, 2);
    extent(&w, 0, TABLE, 0, 0, DATA, PE);
    extent(&w, 0, TABLE, 1, 1, DATA + PE, 2 * PE);
    read_all(&w, 2);
    teardown(&w);
}

/*
 * An older volume with a device that a newer host added: versions differ, and the first device has
 * not heard of the second.
 */
static void device_of_another_version(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    test_disk_init(&w.disk[0], DATA + 2 * PE);
    test_disk_init(&w.disk[1], DATA + PE);
    header(&w, 0, 3, 2, 0, 1, 1);
    extent(&w, 0, TABLE, 0, 0, DATA, 0);
    extent(&w, 0, TABLE, 1, 1, DATA + PE, PE);
    header(&w, 1, 5, 1, 2, 2, 2);
    extent(&w, 1, TABLE, 0, 0, DATA, 2 * PE);
    vmci_st_le64(w.disk[0].data + 0x100200, 2 * PE);
    read_all(&w, 2);
    refused(&w, 2, "version 5");
    /* Another volume's is not taken. */
    w.disk[1].data[0x100254] ^= 1;
    struct vmc_vmfs *v;
    assert_int_equal(mount(&w, 2, VMC_VMFS_RDONLY, &v), VMC_EFORMAT);
    assert_non_null(strstr(w.err.text, "another volume"));
    teardown(&w);
}

/* A table in as many pieces as can be, then a device that goes by the linear rule. */
static void too_many_pieces(void **state)
{
    (void)state;
    struct world w;
    struct vmc_vmfs *v;

    setup(&w);
    test_disk_init(&w.disk[0], DATA + 3 * PE);
    test_disk_init(&w.disk[1], DATA + PE);
    header(&w, 0, 5, 1024, 0, 1023, 2);
    header(&w, 1, 5, 1, 1024, 1024, 2);
    vmci_st_le64(w.disk[0].data + 0x100200, 2048 * PE);
    vmci_st_le64(w.disk[1].data + 0x100200, 2048 * PE);
    for (uint32_t i = 0; i < 1024; i++) {
        unsigned char *e = w.disk[0].data + TABLE + i * 128ull;
        e[0] = 1;
        vmci_st_le64(e + 0x09, DATA);
        vmci_st_le64(e + 0x11, 2ull * i * MIB);
        vmci_st_le64(e + 0x19, MIB);
    }
    assert_int_equal(mount(&w, 2, VMC_VMFS_RDONLY, &v), VMC_ELIMIT);
    teardown(&w);
}

/* Without its second device, a volume is read as far as it is there. */
static void missing_device(void **state)
{
    (void)state;
    struct world w;
    struct vmc_vmfs *v;

    setup(&w);
    test_disk_init(&w.disk[0], DATA + 2 * PE);
    header(&w, 0, 5, 2, 0, 1, 2);
    extent(&w, 0, TABLE, 0, 0, DATA, 0);
    extent(&w, 0, TABLE, 1, 1, DATA + PE, PE);
    ok(&w, mount(&w, 1, VMC_VMFS_RDONLY, &v));
    assert_true(read_back(&w, v, 0, 0, BIG));
    assert_true(read_back(&w, v, 1, 0, 100 * MIB));
    assert_false(read_back(&w, v, 2, BIG - STEP, BIG));
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    refused(&w, 1, "2 extents, 1 given");
    teardown(&w);
}

static void copy_that_ends_early(void **state)
{
    (void)state;
    struct world w;
    struct vmc_vmfs *v;

    setup(&w);
    test_disk_init(&w.disk[0], DATA + 2 * PE + 512);
    copy(w.disk[0].data, w.volume.data, w.disk[0].bytes);
    ok(&w, mount(&w, 1, VMC_VMFS_RDONLY, &v));
    assert_true(read_back(&w, v, 0, 0, BIG));
    assert_false(read_back(&w, v, 2, BIG - STEP, BIG));
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    refused(&w, 1, "its partition has");
    teardown(&w);
}

/* The logical volume alone, as a host shows it under /dev/lvm, with each magic that is known. */
static void without_volume_manager(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    test_disk_init(&w.disk[0], 3 * PE);
    copy(w.disk[0].data, w.volume.data + DATA, 3 * PE);
    for (uint32_t magic = 0x2FABF15E; magic <= 0x2FABF161; magic++) {
        vmci_st_le32(w.disk[0].data + 0x200000, magic);
        read_all(&w, 1);
    }
    refused(&w, 1, "no VMFS");
    teardown(&w);
}

static void partition_at(struct world *w, uint64_t off)
{
    test_disk_init(&w->disk[0], off + w->volume.bytes + MIB);
    copy(w->disk[0].data + off, w->volume.data, w->volume.bytes);
    vmci_st_le16(w->disk[0].data + 510, 0xAA55);
}

/* One entry of a partition table: type, first sector, sectors. */
static void entry(unsigned char *sector, unsigned i, unsigned type, uint32_t first, uint32_t n)
{
    unsigned char *e = sector + 446 + 16 * i;

    e[4] = (unsigned char)type;
    vmci_st_le32(e + 8, first);
    vmci_st_le32(e + 12, n);
    vmci_st_le16(sector + 510, 0xAA55);
}

/* /boot, then an extended partition: swap, then the volume, in a chain of tables. */
static void logical_partition(void **state)
{
    (void)state;
    struct world w;
    uint32_t sectors;

    setup(&w);
    partition_at(&w, 4 * MIB + 64 * 512);
    sectors = (uint32_t)(w.volume.bytes / 512);
    unsigned char *d = w.disk[0].data;
    entry(d, 0, 0x83, 63, 2000);
    entry(d, 2, 0x0F, 4096, sectors + 8192);
    entry(d + 4096 * 512, 0, 0x82, 63, 1000);
    entry(d + 4096 * 512, 1, 0x05, 4096, sectors + 64);
    entry(d + 8192 * 512, 0, 0xFB, 64, sectors);
    read_all(&w, 1);
    /* A chain that leads to its own beginning ends all the same. */
    entry(d + 8192 * 512, 0, 0x82, 64, sectors);
    entry(d + 8192 * 512, 1, 0x05, 4096, sectors);
    refused(&w, 1, "no VMFS");
    teardown(&w);
}

static const unsigned char vmfs[16] = {0x2a, 0xe0, 0x31, 0xaa, 0x0f, 0x40, 0xdb, 0x11,
                                       0x95, 0x90, 0x00, 0x0c, 0x29, 0x11, 0xd1, 0xb8};

/* Somebody cleared the beginning of the disk: the partition is where it always is, or where the
 * copy of its table says. */
static void table_that_is_gone(void **state)
{
    (void)state;
    struct world w;
    struct vmc_vmfs *v;

    setup(&w);
    partition_at(&w, MIB);
    read_all(&w, 1);
    refused(&w, 1, "no VMFS");
    test_disk_fini(&w.disk[0]);
    partition_at(&w, 3 * MIB);
    assert_int_equal(mount(&w, 1, VMC_VMFS_RDONLY, &v), VMC_EFORMAT);
    uint64_t last = w.disk[0].bytes / 512 - 1;
    unsigned char *h = w.disk[0].data + last * 512, *e = h - 32 * 512;
    memcpy(h, "EFI PART", 8);
    vmci_st_le64(h + 72, last - 32);
    vmci_st_le32(h + 80, 128);
    vmci_st_le32(h + 84, 128);
    memcpy(e, vmfs, 16);
    vmci_st_le64(e + 32, 3 * MIB / 512);
    vmci_st_le64(e + 40, last - 33);
    ok(&w, mount(&w, 1, VMC_VMFS_RDONLY, &v));
    assert_true(read_back(&w, v, 0, 0, BIG));
    ok(&w, vmc_vmfs_unmount(v, &w.err));
    refused(&w, 1, "no VMFS");
    teardown(&w);
}

/* Partitions that say they are something else, at odd places: what they hold is read. */
static void partition_of_another_type(void **state)
{
    (void)state;
    struct world w;
    struct vmc_vmfs *v;

    setup(&w);
    uint32_t sectors = (uint32_t)(w.volume.bytes / 512);
    for (unsigned gpt = 0; gpt < 3; gpt++) {
        partition_at(&w, 5 * MIB + 7 * 4096);
        unsigned char *d = w.disk[0].data;
        uint32_t first = 5 * MIB / 512 + 7 * 8;
        if (gpt == 0) { /* in the chain of logical ones */
            entry(d, 1, 0x07, 63, 1000);
            entry(d, 3, 0x05, 4096, sectors + 8192);
            entry(d + 4096 * 512, 0, 0x83, first - 4096, sectors);
        } else { /* in sectors of 512 bytes and of 4 KiB */
            uint32_t lba = gpt == 1 ? 512 : 4096;
            unsigned char *e = d + 2 * lba + 3 * 128;
            entry(d, 0, 0xEE, 1, 0xFFFFFFFF);
            memcpy(d + lba, "EFI PART", 8);
            vmci_st_le64(d + lba + 72, 2);
            vmci_st_le32(d + lba + 80, 128);
            vmci_st_le32(d + lba + 84, 128);
            memset(e, 0x33, 16);
            vmci_st_le64(e + 32, first * 512ull / lba);
            vmci_st_le64(e + 40, (first * 512ull + w.volume.bytes) / lba - 1);
        }
        ok(&w, mount(&w, 1, VMC_VMFS_RDONLY, &v));
        assert_true(read_back(&w, v, 0, 0, BIG));
        ok(&w, vmc_vmfs_unmount(v, &w.err));
        refused(&w, 1, "no VMFS");
        if (gpt < 2)
            test_disk_fini(&w.disk[0]);
    }
    teardown(&w);
}

/* An image of a disk with sectors of 4 KiB, looked at in sectors of 512 bytes. */
static void large_sectors(void **state)
{
    (void)state;
    struct world w;

    setup(&w);
    partition_at(&w, 8 * MIB);
    unsigned char *d = w.disk[0].data, *e = d + 2 * 4096 + 128;
    entry(d, 0, 0xEE, 1, 0xFFFFFFFF);
    memcpy(d + 4096, "EFI PART", 8);
    vmci_st_le64(d + 4096 + 72, 2);
    vmci_st_le32(d + 4096 + 80, 128);
    vmci_st_le32(d + 4096 + 84, 128);
    memset(d + 2 * 4096, 0x55, 16); /* somebody else's */
    memcpy(e, vmfs, 16);
    vmci_st_le64(e + 32, 8 * MIB / 4096);
    vmci_st_le64(e + 40, (8 * MIB + w.volume.bytes) / 4096 - 1);
    read_all(&w, 1);
    teardown(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(enlarged_extent),
        cmocka_unit_test(second_region_of_tables),
        cmocka_unit_test(version_4),
        cmocka_unit_test(device_of_another_version),
        cmocka_unit_test(too_many_pieces),
        cmocka_unit_test(missing_device),
        cmocka_unit_test(copy_that_ends_early),
        cmocka_unit_test(without_volume_manager),
        cmocka_unit_test(logical_partition),
        cmocka_unit_test(table_that_is_gone),
        cmocka_unit_test(partition_of_another_type),
        cmocka_unit_test(large_sectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
