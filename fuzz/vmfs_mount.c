/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fresh volumes of VMFS5 and VMFS6 with a few files are made in memory, then the input changes one
 * of them: records of 8 bytes, {u8 area, u8 how, u16 offset, u32 value}, so that mutations land in
 * metadata; bit 7 of the first area chooses VMFS6. Then everything is read, checked, repaired and
 * written to.
 */
#include <stdlib.h>
#include <string.h>

#include <vmcore/vmfs.h>

#include "base/base_int.h"
#include "fuzz_platform.h"
#include "../tests/support/test_disk.c" /* the targets link with the library only */

#define MIB  (1ull << 20)
#define USED (40 * MIB)
#define LV   0x1100000ull

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint64_t areas[2][16] = {
    {
        0x100000,
        0x180200,
        LV,
        LV + 0x200000,
        LV + 0x210000,
        LV + 0x300000,
        LV + 0x400000,
        LV + 0x410000,
        LV + 0x420000,
        LV + 0x422000,
        LV + 0x424000,
        LV + 0x500000,
        LV + 0x600000,
        LV + 0x610000,
        LV + 0x700000,
        LV + 0x800000,
    },
    {
        0x100000,
        0x181000,
        LV,
        LV + 0x200000,
        LV + 0x210000,
        LV + 0x300000,
        LV + 0x700000,
        LV + 0x710000,
        LV + 0x720000,
        LV + 0x730000,
        LV + 0x800000,
        LV + 0x810000,
        LV + 0x900000,
        LV + 0x910000,
        LV + 0x920000,
        LV + 0x1FF000,
    },
};

#define CHUNK 65536u

struct volume {
    struct test_disk disk;
    struct test_path path;
    struct vmc_blockdev bd;
    unsigned char *good;
    bool dirty[USED / CHUNK]; /* to be put back */
};
static struct volume volumes[2]; /* VMFS5, VMFS6 */
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

static const struct vmc_platform pf = {
    .size = sizeof(pf), .alloc = f_alloc, .free = fuzz_free, .now_ns = f_now, .bug = fuzz_bug};

static void touched(struct volume *x, uint64_t off, uint64_t bytes)
{
    for (uint64_t c = off / CHUNK; c * CHUNK < off + bytes && c < USED / CHUNK; c++)
        x->dirty[c] = true;
}

/* The disk, but for a note of what is written. */
static int w_info(void *ctx, struct vmc_block_info *out)
{
    struct volume *x = ctx;
    return x->path.bd.ops->info(x->path.bd.ctx, out);
}
static int w_submit(void *ctx, struct vmc_block_req *r)
{
    struct volume *x = ctx;
    if (r->op != VMC_BLOCK_READ)
        touched(x, r->offset, r->bytes);
    return x->path.bd.ops->submit(x->path.bd.ctx, r);
}
static int w_caw(void *ctx, uint64_t off, const void *expect, const void *data, size_t bytes)
{
    struct volume *x = ctx;
    touched(x, off, bytes);
    return x->path.bd.ops->compare_write(x->path.bd.ctx, off, expect, data, bytes);
}
static const struct vmc_blockdev_ops w_ops = {
    .info = w_info, .submit = w_submit, .compare_write = w_caw};

static struct vmc_vmfs *mount(struct volume *x, uint32_t flags)
{
    struct vmc_vmfs *v;
    struct vmc_vmfs_mount_config c = {.size = sizeof(c),
                                      .flags = flags | VMC_VMFS_EXCLUSIVE | VMC_VMFS_EXPERIMENTAL,
                                      .devs = &x->bd,
                                      .dev_count = 1};
    return vmc_vmfs_mount(&pf, &c, &v, NULL) == VMC_OK ? v : NULL;
}

static void setup(struct volume *x, uint32_t version)
{
    bool six = version == 6;
    struct vmc_vmfs_mkfs_config c = {.size = sizeof(c),
                                     .version = version,
                                     .devs = &x->bd,
                                     .dev_count = 1,
                                     .fds = six ? 512 : 0,
                                     .sub_blocks = six ? 64 : 0,
                                     .experimental = six,
                                     .time_s = 1};
    struct vmc_vmfs_file *f;
    char buf[9000];

    test_disk_init(&x->disk, LV + (six ? 512 : 256) * MIB);
    test_path_init(&x->path, &x->disk);
    x->bd = (struct vmc_blockdev){.ops = &w_ops, .ctx = x};
    if (vmc_vmfs_mkfs(&pf, &c, NULL) != VMC_OK)
        abort();
    struct vmc_vmfs *v = mount(x, 0);
    if (v == NULL || vmc_vmfs_mkdir(v, "/d", 0755, NULL) != VMC_OK)
        abort();
    memset(buf, 7, sizeof(buf));
    static const char *const names[] = {"/d/a", "/d/b", "/c", "/e"};
    for (unsigned i = 0; i < 4; i++) {
        if (vmc_vmfs_open(v, names[i], VMC_VMFS_WRITE | VMC_VMFS_CREATE, &f, NULL) != VMC_OK ||
            vmc_vmfs_pwrite(f, buf, 40 + i * 2900, i == 3 ? 400 * MIB : 0, NULL) < 0 ||
            vmc_vmfs_close(f, NULL) != VMC_OK)
            abort();
    }
    if (vmc_vmfs_unmount(v, NULL) != VMC_OK)
        abort();
    x->good = malloc(USED);
    memcpy(x->good, x->disk.data, USED);
    memset(x->dirty, 0, sizeof(x->dirty));
}

static void look(struct vmc_vmfs *v, const char *dir)
{
    struct vmc_vmfs_dirent d;
    struct vmc_vmfs_file *f;
    struct vmc_vmfs_extent x;
    uint64_t cookie = 0;
    char name[512], buf[4096];

    for (unsigned n = 0; n < 64 && vmc_vmfs_readdir(v, dir, &cookie, &d, NULL) == 1; n++) {
        vmci_snprintf(name, sizeof(name), "%s/%s", dir[1] ? dir : "", d.name);
        if (vmc_vmfs_open(v, name, VMC_VMFS_READ, &f, NULL) != VMC_OK)
            continue;
        (void)!vmc_vmfs_pread(f, buf, sizeof(buf), 0, NULL);
        (void)!vmc_vmfs_pread(f, buf, sizeof(buf), 400 * MIB, NULL);
        (void)!vmc_vmfs_extent(f, 0, &x, NULL);
        (void)!vmc_vmfs_close(f, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vmc_vmfs_fsck_result r;
    struct vmc_vmfs_fsck_config only = {.size = sizeof(only)};
    struct vmc_vmfs_fsck_config fix = {.size = sizeof(fix), .repair = true};
    struct vmc_vmfs_space space;
    struct vmc_vmfs *v;

    unsigned six = size > 0 && data[0] & 0x80;
    struct volume *x = &volumes[six];
    if (x->good == NULL)
        setup(x, six ? 6 : 5);
    for (size_t i = 0; i + 8 <= size && i < 512; i += 8) {
        uint64_t off = areas[six][data[i] & 15] + vmci_ld_le16(data + i + 2);
        unsigned char *at = x->disk.data + off;
        touched(x, off, 4);
        if (data[i + 1] & 1)
            vmci_st_le32(at, vmci_ld_le32(at) + vmci_ld_le32(data + i + 4));
        else
            vmci_st_le32(at, vmci_ld_le32(data + i + 4));
    }
    v = mount(x, VMC_VMFS_RDONLY);
    if (v != NULL) {
        look(v, "/");
        look(v, "/d");
        (void)!vmc_vmfs_space(v, &space, NULL);
        (void)!vmc_vmfs_fsck(v, &only, &r, NULL);
        (void)!vmc_vmfs_unmount(v, NULL);
    }
    v = mount(x, VMC_VMFS_REPAIR);
    if (v != NULL) {
        (void)!vmc_vmfs_fsck(v, &fix, &r, NULL);
        (void)!vmc_vmfs_mkdir(v, "/n", 0700, NULL);
        (void)!vmc_vmfs_remove(v, "/c", NULL);
        (void)!vmc_vmfs_remove(v, "/e", NULL);
        (void)!vmc_vmfs_unmount(v, NULL);
    }
    for (size_t c = 0; c < USED / CHUNK; c++)
        if (x->dirty[c])
            memcpy(x->disk.data + c * CHUNK, x->good + c * CHUNK, CHUNK);
    memset(x->dirty, 0, sizeof(x->dirty));
    return 0;
}
