/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The checker: what only directories of VMFS6 have. Entries are what counts: block headers, the
 * allocation map, the number of entries and the hash table have to agree with them.
 */
#include "vmfs/vmfs_fsck.h"

#define BLOCK   FS_PAGE
#define SLOTS   ((BLOCK - D6_BLOCK_HEADER) / D6_ENTRY)
#define ENTRIES 1u

static int set_count(struct fsck *f, struct fs_inode *dir, const void *arg, struct vmc_error *err)
{
    uint8_t b[8];

    (void)f;
    vmci_st_le32(b, *(const uint32_t *)arg);
    vmci_st_le32(b + 4, *(const uint32_t *)arg);
    return vmci_fs_file_meta(dir, D6_ENTRIES, b, sizeof(b), true, err);
}

static int rehash(struct fsck *f, struct fs_inode *dir, const void *arg, struct vmc_error *err)
{
    (void)f;
    return vmci_fs_dir6_rehash(dir, arg, err);
}

struct fixed_block {
    uint64_t block;
    uint16_t free;
};

static int set_free(struct fsck *f, struct fs_inode *dir, const void *arg, struct vmc_error *err)
{
    const struct fixed_block *x = arg;
    uint8_t b[2];

    (void)f;
    vmci_st_le16(b, x->free);
    return vmci_fs_file_meta(dir, D6_HEADER + x->block * BLOCK + D6_B_FREE, b, sizeof(b), true,
                             err);
}

/* The free count of the block that holds an entry. */
static int check_block(struct fsck *f, struct fs_inode *dir, uint64_t block, struct vmc_error *err)
{
    uint8_t b[D6_BLOCK_HEADER];
    struct fixed_block x = {.block = block};
    int rc = vmci_fs_file_meta(dir, D6_HEADER + block * BLOCK, b, sizeof(b), false, err);

    if (rc != VMC_OK)
        return rc;
    for (uint32_t i = 0; i < SLOTS; i++)
        x.free = (uint16_t)(x.free + (b[D6_B_BITMAP + i / 8] >> (i % 8) & 1));
    if (vmci_ld_le16(b + D6_B_FREE) == x.free)
        return VMC_OK;
    vmci_fs_ck_report(f, f->cfg->repair,
                      "directory 0x%08x block %llu: %u slots are free, it has %u", dir->addr,
                      (unsigned long long)block, vmci_ld_le16(b + D6_B_FREE), x.free);
    return f->cfg->repair ? vmci_fs_ck_fix(f, dir, set_free, &x, err) : VMC_OK;
}

int vmci_fs_ck_dir6(struct fsck *f, struct fs_inode *dir, struct vmc_error *err)
{
    uint64_t cookie = 0, seen = UINT64_MAX;
    uint32_t n = 0;
    uint8_t b[4];
    struct fs_entry e;
    int rc = VMC_OK, more;

    while (rc == VMC_OK && (more = vmci_fs_dir_next(dir, &cookie, &e, &f->err)) == 1) {
        n++;
        if (e.pos < 2)
            continue;
        if ((e.pos - 2) / SLOTS != seen) {
            seen = (e.pos - 2) / SLOTS;
            rc = check_block(f, dir, seen, err);
        }
        if (rc != VMC_OK || vmci_fs_dir6_hashed(dir, &e))
            continue;
        vmci_fs_ck_report(f, f->cfg->repair,
                          "directory 0x%08x: the hash table does not lead to \"%s\"", dir->addr,
                          e.name);
        if (f->cfg->repair)
            rc = vmci_fs_ck_fix(f, dir, rehash, &e, err);
    }
    if (rc != VMC_OK || more < 0)
        return rc; /* what cannot be read is reported by the walk that follows */
    rc = vmci_fs_file_meta(dir, D6_ENTRIES, b, sizeof(b), false, err);
    if (rc != VMC_OK || vmci_ld_le32(b) == n)
        return rc;
    vmci_fs_ck_report(f, f->cfg->repair, "directory 0x%08x: number of entries is %u, it has %u",
                      dir->addr, vmci_ld_le32(b), n);
    return f->cfg->repair ? vmci_fs_ck_fix(f, dir, set_count, &n, err) : VMC_OK;
}
