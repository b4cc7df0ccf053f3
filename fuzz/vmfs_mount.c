/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A fresh volume with a few files is made in memory, then the input changes it: records of 8 bytes,
 * {u8 area, u8 how, u16 offset, u32 value}, so that mutations land in metadata. Then everything is
 * read, checked, repaired and written to.
 */
#include <stdlib.h>
#include <string.h>

#include <vmcore/vmfs.h>

#include "base/base_int.h"
#include "fuzz_platform.h"
#include "../tests/support/test_disk.c" /* the targets link with the library only */

#define MIB   (1ull << 20)
#define BYTES (0x1100000ull + 256 * MIB)
#define USED  (40 * MIB)
#define LV    0x1100000ull

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint64_t areas[16] = {
    0x100000,      0x180200,      LV,            LV + 0x200000, LV + 0x210000, LV + 0x300000,
    LV + 0x400000, LV + 0x410000, LV + 0x420000, LV + 0x422000, LV + 0x424000, LV + 0x500000,
    LV + 0x600000, LV + 0x610000, LV + 0x700000, LV + 0x800000,
};

static struct test_disk disk;
static struct test_path path;
static unsigned char *good;
static uint64_t clock_ns;

static void *f_alloc(void *ctx, size_t n, size_t align)
{
    void *p = NULL;
    (void)ctx;
    /* Nothing here may need more than this: an allocation sized by the image would. */
    if (n > 64 * MIB || posix_memalign(&p, align < 8 ? 8 : align, n ? n : 1) != 0)
        return NULL;
    return p;
}
static uint64_t f_now(void *ctx)
{
    (void)ctx;
    return clock_ns += 1000000;
}

static const struct vmc_platform pf = {.size = sizeof(pf), .alloc = f_alloc,
                                       .free = fuzz_free, .now_ns = f_now, .bug = fuzz_bug};

static struct vmc_vmfs *mount(uint32_t flags)
{
    struct vmc_vmfs *v;
    struct vmc_vmfs_mount_config c = {.size = sizeof(c), .flags = flags | VMC_VMFS_EXCLUSIVE,
                                      .devs = &path.bd, .dev_count = 1};
    return vmc_vmfs_mount(&pf, &c, &v, NULL) == VMC_OK ? v : NULL;
}

static void setup(void)
{
    struct vmc_vmfs_mkfs_config c = {.size = sizeof(c), .devs = &path.bd, .dev_count = 1,
                                     .time_s = 1};
    struct vmc_vmfs_file *f;
    char buf[9000];

    test_disk_init(&disk, BYTES);
    test_path_init(&path, &disk);
    path.bd.ctx = &path;
    if (vmc_vmfs_mkfs(&pf, &c, NULL) != VMC_OK)
        abort();
    struct vmc_vmfs *v = mount(0);
    if (v == NULL || vmc_vmfs_mkdir(v, "/d", 0755, NULL) != VMC_OK)
        abort();
    memset(buf, 7, sizeof(buf));
    static const char *const names[] = {"/d/a", "/d/b", "/c", "/e"};
    for (unsigned i = 0; i < 4; i++) {
        if (vmc_vmfs_open(v, names[i], VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, NULL) != VMC_OK ||
            vmc_vmfs_pwrite(f, buf, 40 + i * 2900, i == 3 ? 300 * MIB : 0, NULL) < 0 ||
            vmc_vmfs_close(f, NULL) != VMC_OK)
            abort();
    }
    if (vmc_vmfs_unmount(v, NULL) != VMC_OK)
        abort();
    good = malloc(USED);
    memcpy(good, disk.data, USED);
}

static void look(struct vmc_vmfs *v, const char *dir)
{
    struct vmc_vmfs_dirent d;
    struct vmc_vmfs_file *f;
    uint64_t cookie = 0;
    char name[512], buf[4096];

    for (unsigned n = 0; n < 64 && vmc_vmfs_readdir(v, dir, &cookie, &d, NULL) == 1; n++) {
        vmci_snprintf(name, sizeof(name), "%s/%s", dir[1] ? dir : "", d.name);
        if (vmc_vmfs_open(v, name, VMC_VMFS_READ, &f, NULL) != VMC_OK)
            continue;
        (void)!vmc_vmfs_pread(f, buf, sizeof(buf), 0, NULL);
        (void)!vmc_vmfs_pread(f, buf, sizeof(buf), 300 * MIB, NULL);
        (void)!vmc_vmfs_close(f, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vmc_vmfs_fsck_result r;
    struct vmc_vmfs_fsck_config fix = {.size = sizeof(fix), .repair = true};
    struct vmc_vmfs *v;

    if (good == NULL)
        setup();
    for (size_t i = 0; i + 8 <= size && i < 512; i += 8) {
        unsigned char *at = disk.data + areas[data[i] & 15] + vmci_ld_le16(data + i + 2);
        if (data[i + 1] & 1)
            vmci_st_le32(at, vmci_ld_le32(at) + vmci_ld_le32(data + i + 4));
        else
            vmci_st_le32(at, vmci_ld_le32(data + i + 4));
    }
    v = mount(VMC_VMFS_RDONLY);
    if (v != NULL) {
        look(v, "/");
        look(v, "/d");
        (void)!vmc_vmfs_unmount(v, NULL);
    }
    v = mount(VMC_VMFS_REPAIR);
    if (v != NULL) {
        (void)!vmc_vmfs_fsck(v, &fix, &r, NULL);
        (void)!vmc_vmfs_mkdir(v, "/n", 0700, NULL);
        (void)!vmc_vmfs_remove(v, "/c", NULL);
        (void)!vmc_vmfs_unmount(v, NULL);
    }
    memcpy(disk.data, good, USED);
    return 0;
}
