/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fields that say nothing about where a file's contents are. Other hosts write there what they
 * like, of versions that nobody here has seen: whatever it is, a volume is read as before.
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
#define LV    LVM_DATA_START
#define NAMES 6u

enum place { LVM, TABLE, DESC, FDS, LOCKS };

/* Versions are bits: 1 VMFS3, 2 VMFS5, 4 VMFS6. */
static const struct field {
    enum place place;
    uint32_t offset, bytes, versions;
    const char *what;
} fields[] = {
    {LVM, 0x08, 4, 7, "minor version"},
    {LVM, 0x0C, 78, 7, "SCSI identity"},
    {LVM, 0x5A, 4, 7, "block size of the disk"},
    {LVM, 0x5E, 8, 7, "total bytes"},
    {LVM, 0x66, 4, 7, "number of volumes"},
    {LVM, 0x6A, 8, 7, "number of extents"}, /* the volume table says it again */
    {LVM, 0x72, 8, 7, "generation"},
    {LVM, 0x82, 16, 7, "device UUID"},
    {LVM, 0x92, 16, 7, "times"},
    {LVM, 0xA2, 28, 7, "locked by, when"},
    {LVM, 0xD2, 0x12E, 7, "flags and what follows"},
    {TABLE, 0x00, 8, 7, "size of the volume"},
    {TABLE, 0x08, 8, 7, "generation of the volume"},
    {TABLE, 0x10, 4, 7, "state"},
    {TABLE, 0x14, 64, 7, "name"},
    {TABLE, 0x64, 16, 7, "snapshot, creation, index"},
    {TABLE, 0x88, 8, 7, "time of modification"},
    {TABLE, 0x90, 0x80, 7, "number of devices and what follows"},
    {TABLE, 0x110, 0xF0, 7, "consumed extents and what follows"},
    {DESC, 0x08, 1, 7, "minor version"},
    {DESC, 0x09, 16, 7, "UUID"},
    {DESC, 0x19, 4, 7, "configuration"},
    {DESC, 0x1D, 128, 7, "label"},
    {DESC, 0x9D, 4, 7, "block size of the disk"},
    {DESC, 0xA9, 8, 7, "creation, snapshot"},
    {DESC, 0xC1, 16, 7, "LVM snapshot"},
    {DESC, 0xDD, 12, 7, "journal slots, place of .pb2.sf"},
    {DESC, 0xED, 36, 7, "host, generation, .sdd.sf"},
    {DESC, 0x111, 3, 7, "checksum type, unmap priority"},
    {DESC, 0x114, 32, 7, "checksums"},
    {DESC, 0x134, 0xCC, 3, "what VMFS6 has"},
    {DESC, 0x140, 0x34, 4, "sizes that are not needed, lease, unmap"},
    {FDS, 0x04, 4, 7, "generation"},
    {FDS, 0x10, 4, 7, "flags"},
    {FDS, 0x24, 8, 7, "number of blocks"},
    {FDS, 0x2C, 24, 7, "times, owner, mode"},
    {FDS, 0x48, 0x1C, 7, "counts of blocks"},
    {FDS, 0x64, 0x20, 7, "signature, affinity, parent"},
    {FDS, 0x84, 8, 7, "preallocated blocks, logarithm of the block size, tracked"},
    {FDS, 0x8C, 0x174, 7, "what follows"},
    {LOCKS, 0x00, 0x200, 7, "type, place, holders"},
};

struct world {
    struct test_platform tp;
    struct test_disk disk;
    struct test_path path;
    struct vmc_error err;
    uint32_t version;
    const char *what;       /* has been changed */
    uint64_t fd[NAMES + 9]; /* device offsets: of the files, of the system's */
    unsigned fds;
    unsigned char *buf, *want;
};

static const struct {
    const char *name;
    uint64_t offset;
    uint32_t bytes;
} files[] = {{"/d/small", 0, 700},
             {"/d/sub-block", 0, 8000},
             {"/d/blocks", 0, 3 * MIB + 17},
             {"/d/pointers", 330 * MIB, 70000}};

static void ok(struct world *w, int64_t rc)
{
    if (rc < 0)
        fail_msg("VMFS%u, %s: %s: %s", w->version, w->what, vmc_status_name((int)rc), w->err.text);
}

static struct vmc_vmfs *mount(struct world *w, uint32_t flags)
{
    struct vmc_vmfs_mount_config c = {
        .size = sizeof(c), .flags = flags, .devs = &w->path.bd, .dev_count = 1};
    struct vmc_vmfs *v;

    ok(w, vmc_vmfs_mount(&w->tp.pf, &c, &v, &w->err));
    return v;
}

static void fill(unsigned char *p, uint32_t n, unsigned seed)
{
    for (uint32_t i = 0; i < n; i++)
        p[i] = (unsigned char)(seed * 31 + i * 7 + (i >> 9));
}

static void setup(struct world *w, uint32_t version)
{
    struct vmc_vmfs_file *f;
    struct vmc_vmfs_stat st;

    memset(w, 0, sizeof(*w));
    w->version = version;
    w->what = "nothing";
    w->buf = malloc(4 * MIB);
    w->want = malloc(4 * MIB);
    assert_true(w->buf != NULL && w->want != NULL);
    test_platform_init(&w->tp);
    test_disk_init(&w->disk, LV + 1024 * MIB);
    test_path_init(&w->path, &w->disk);
    struct vmc_vmfs_mkfs_config c = {.size = sizeof(c),
                                     .version = version,
                                     .experimental = version == 6,
                                     .devs = &w->path.bd,
                                     .dev_count = 1,
                                     .pointer_blocks = version == 6 ? 0 : 16,
                                     .time_s = 1};
    ok(w, vmc_vmfs_mkfs(&w->tp.pf, &c, &w->err));
    struct vmc_vmfs *v = mount(w, VMC_VMFS_EXCLUSIVE | VMC_VMFS_EXPERIMENTAL);
    ok(w, vmc_vmfs_mkdir(v, "/d", 0755, &w->err));
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(files); i++) {
        fill(w->want, files[i].bytes, i);
        ok(w, vmc_vmfs_open(v, files[i].name, VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, &w->err));
        ok(w, vmc_vmfs_pwrite(f, w->want, files[i].bytes, files[i].offset, &w->err));
        ok(w, vmc_vmfs_close(f, &w->err));
    }
    ok(w, vmc_vmfs_symlink(v, "blocks", "/d/link", &w->err));
    for (unsigned i = 0; i < NAMES; i++) {
        const char *const path = i == 0 ? "/d" : i == 1 ? "/d/link" : files[i - 2].name;
        ok(w, vmc_vmfs_stat(v, path, &st, &w->err));
        w->fd[w->fds++] = LV + st.lv_offset;
    }
    ok(w, vmc_vmfs_stat(v, "/", &st, &w->err));
    for (unsigned i = 0; i < (version == 6 ? 9 : version == 5 ? 8 : 6); i++)
        w->fd[w->fds++] = LV + st.lv_offset + i * (version == 6 ? 0x2000ull : 0x800);
    ok(w, vmc_vmfs_unmount(v, &w->err));
}

static void read_all(struct world *w)
{
    struct vmc_vmfs *v = mount(w, VMC_VMFS_RDONLY);
    struct vmc_vmfs_file *f;
    struct vmc_vmfs_dirent d;
    uint64_t cookie = 0;
    unsigned n = 0;
    char target[16];

    while (vmc_vmfs_readdir(v, "/d", &cookie, &d, &w->err) == 1)
        n++;
    assert_int_equal(n, 2 + NAMES - 1);
    assert_int_equal(vmc_vmfs_readlink(v, "/d/link", target, sizeof(target), &w->err), 6);
    assert_string_equal(target, "blocks");
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(files); i++) {
        fill(w->want, files[i].bytes, i);
        ok(w, vmc_vmfs_open(v, files[i].name, VMC_VMFS_READ, &f, &w->err));
        assert_int_equal(vmc_vmfs_pread(f, w->buf, 4 * MIB, files[i].offset, &w->err),
                         files[i].bytes);
        assert_memory_equal(w->buf, w->want, files[i].bytes);
        ok(w, vmc_vmfs_close(f, &w->err));
    }
    ok(w, vmc_vmfs_unmount(v, &w->err));
}

/* Where a field is, for each of the descriptors. 0: there are no more. */
static uint64_t at(const struct world *w, const struct field *f, unsigned i)
{
    bool six = w->version == 6;

    if (f->place >= FDS && i < w->fds)
        return w->fd[i] + (f->place == LOCKS ? 0 : six ? 0x1000 : 0x200) + f->offset;
    if (f->place >= FDS || i > 0)
        return 0;
    return f->offset + (f->place == LVM     ? LVM_META_OFF
                        : f->place == TABLE ? LVM_META_OFF + (six ? 0x1000 : 0x200)
                                            : LV + FS_DESC_LV);
}

static void try_fields(struct world *w)
{
    static const unsigned char with[] = {0x00, 0xFF, 0xA5, 0x01};
    static unsigned char before[16][512];

    for (unsigned k = 0; k < VMCI_ARRAY_SIZE(fields); k++) {
        const struct field *f = &fields[k];
        if ((f->versions >> (w->version == 3 ? 0 : w->version - 4) & 1) == 0)
            continue;
        for (unsigned b = 0; b < sizeof(with); b++) {
            uint64_t where;
            for (unsigned i = 0; (where = at(w, f, i)) != 0; i++) {
                memcpy(before[i], w->disk.data + where, f->bytes);
                memset(w->disk.data + where, with[b], f->bytes);
            }
            w->what = f->what;
            read_all(w);
            for (unsigned i = 0; (where = at(w, f, i)) != 0; i++)
                memcpy(w->disk.data + where, before[i], f->bytes);
        }
    }
}

/* Whole regions: heartbeats, names of devices, bitmap of extents, headers of the descriptors'
 * clusters. */
static void try_regions(struct world *w)
{
    bool six = w->version == 6;
    const struct {
        uint64_t offset;
        uint32_t bytes;
        const char *what;
    } regions[] = {{LV + FS_HB_LV, six ? 1024 * 4096 : 2048 * 512, "heartbeats"},
                   {six ? LVM6_NAMES_OFF : LVM_NAMES_OFF, 32 * 256, "names of devices"},
                   {six ? LVM6_PE_BITMAP_OFF : LVM_PE_BITMAP_OFF, 1024, "bitmap of extents"},
                   {LV + (six ? 0x710000 : 0x410000), six ? 8 * 0x2000 : 32 * 0x400,
                    "clusters of descriptors"},
                   {LV + (six ? 0x900000 : 0x600000), 0x10000 + 8 * 0x2000, "map of file blocks"},
                   {0, 0x100000, "what is before the volume manager"},
                   {LV, 0x100000, "the beginning of the volume"}};
    static unsigned char before[1024 * 4096];

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(regions); i++) {
        unsigned char *p = w->disk.data + regions[i].offset;
        memcpy(before, p, regions[i].bytes);
        w->what = regions[i].what;
        for (unsigned b = 1; b < 256; b += 127) {
            memset(p, (int)b, regions[i].bytes);
            read_all(w);
        }
        memcpy(p, before, regions[i].bytes);
    }
}

static void harmless(uint32_t version)
{
    struct world w;

    setup(&w, version);
    read_all(&w);
    try_fields(&w);
    try_regions(&w);
    free(w.buf);
    free(w.want);
    test_disk_fini(&w.disk);
    test_platform_check(&w.tp);
}

static void vmfs3(void **state)
{
    (void)state;
    harmless(3);
}

static void vmfs5(void **state)
{
    (void)state;
    harmless(5);
}

static void vmfs6(void **state)
{
    (void)state;
    harmless(6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(vmfs3), cmocka_unit_test(vmfs5),
                                       cmocka_unit_test(vmfs6)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
