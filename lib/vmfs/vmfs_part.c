/* SPDX-License-Identifier: BSD-2-Clause */
/* Finding and making the partition: GPT (UEFI 2.10, chapter 5) and MBR. */
#include "vmfs/vmfs_priv.h"

#define MBR_TABLE       446u
#define MBR_ENTRY       16u
#define MBR_TYPE_VMFS   0xFBu
#define MBR_TYPE_GPT    0xEEu
#define MBR_CHAIN_MAX   64u
#define GPT_ENTRIES_MAX 128u
#define GPT_FIRST_LBA   2048u
#define MBR_FIRST_LBA   128u

static const uint8_t vmfs_guid[16] = {0x2a, 0xe0, 0x31, 0xaa, 0x0f, 0x40, 0xdb, 0x11,
                                      0x95, 0x90, 0x00, 0x0c, 0x29, 0x11, 0xd1, 0xb8};

/* The partition of a host's own system, which holds a local VMFS volume. */
static const uint8_t osdata_guid[16] = {0x39, 0xea, 0xb2, 0x4e, 0x55, 0x78, 0x90, 0x47,
                                        0xa7, 0x9e, 0xfa, 0xe4, 0x95, 0xe2, 0x1f, 0x8d};

/* CRC-32 as GPT has it (reflected polynomial 0xEDB88320). */
static uint32_t crc32(uint32_t crc, const uint8_t *p, size_t n)
{
    crc = ~crc;
    for (; n > 0; n--, p++) {
        crc ^= *p;
        for (unsigned k = 0; k < 8; k++)
            crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1)));
    }
    return ~crc;
}

static bool is_lvm(const struct vmc_platform *pf, const struct vmc_blockdev *bd,
                   const struct vmc_block_info *info, uint64_t off)
{
    uint8_t buf[FS_PAGE];

    if (!vmci_range_ok(off + LVM_META_OFF, FS_PAGE, info->bytes))
        return false;
    if (vmci_fs_dev_io(pf, bd, VMC_BLOCK_READ, off + LVM_META_OFF, buf, FS_PAGE, NULL) != VMC_OK)
        return false;
    return vmci_ld_le32(buf) == LVM_MAGIC;
}

/* Any bytes of a device, at most FS_SECTOR of them inside one of its sectors. */
static bool read_bytes(const struct vmc_platform *pf, const struct vmc_blockdev *bd,
                       const struct vmc_block_info *info, uint64_t off, uint8_t *out, uint32_t n)
{
    uint8_t buf[FS_PAGE];
    uint32_t unit = info->sector_bytes;
    uint64_t at = vmci_align_down(off, unit);

    if (!vmci_range_ok(at, unit, info->bytes) || off + n > at + unit ||
        vmci_fs_dev_io(pf, bd, VMC_BLOCK_READ, at, buf, unit, NULL) != VMC_OK)
        return false;
    memcpy(out, buf + (off - at), n);
    return true;
}

/* A partition that may hold a volume. What an image lacks at its end is found out later. */
static bool take(const struct vmc_platform *pf, const struct vmc_blockdev *bd,
                 const struct vmc_block_info *info, uint64_t start, uint64_t n, uint64_t *off,
                 uint64_t *bytes)
{
    if (start >= info->bytes || n == 0 || !is_lvm(pf, bd, info, start))
        return false;
    *off = start;
    *bytes = VMCI_MIN(n, info->bytes - start);
    return true;
}

/*
 * lba: as the disk had it; an image of a disk with sectors of 4 KiB does not say so. at: of the
 * header, in bytes. any: partitions of other types, too.
 */
static bool find_gpt(const struct vmc_platform *pf, const struct vmc_blockdev *bd,
                     const struct vmc_block_info *info, uint32_t lba, uint64_t at, bool any,
                     uint64_t *off, uint64_t *bytes)
{
    uint8_t h[92], e[48];

    if (!read_bytes(pf, bd, info, at, h, sizeof(h)) || memcmp(h, "EFI PART", 8) != 0)
        return false;
    uint64_t table = vmci_ld_le64(h + 72);
    uint32_t count = VMCI_MIN(vmci_ld_le32(h + 80), GPT_ENTRIES_MAX);
    uint32_t len = vmci_ld_le32(h + 84);
    if (len < 128 || len > 512 || !vmci_is_pow2(len) || table > info->bytes / lba)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        if (!read_bytes(pf, bd, info, table * lba + (uint64_t)i * len, e, sizeof(e)))
            return false;
        uint64_t first = vmci_ld_le64(e + 32), last = vmci_ld_le64(e + 40);
        bool ours = any || memcmp(e, vmfs_guid, 16) == 0 || memcmp(e, osdata_guid, 16) == 0;
        if (ours && last >= first && last < UINT64_MAX / lba &&
            take(pf, bd, info, first * lba, (last - first + 1) * lba, off, bytes))
            return true;
    }
    return false;
}

static bool is_extended(uint8_t type)
{
    return type == 0x05 || type == 0x0F || type == 0x85;
}

/* Primary partitions, then the chain of logical ones, as hosts up to ESX 4 made them for
 * themselves. */
static bool find_mbr(const struct vmc_platform *pf, const struct vmc_blockdev *bd,
                     const struct vmc_block_info *info, const uint8_t *mbr, bool any, uint64_t *off,
                     uint64_t *bytes)
{
    uint8_t table[66];
    uint64_t unit = info->sector_bytes, extended = 0, at = 0;

    memcpy(table, mbr + MBR_TABLE, sizeof(table));
    for (uint32_t n = 0; n < MBR_CHAIN_MAX; n++) {
        uint64_t next = 0;
        for (uint32_t i = 0; i < 4; i++) {
            const uint8_t *e = table + i * MBR_ENTRY;
            uint64_t start = vmci_ld_le32(e + 8) * unit, size = vmci_ld_le32(e + 12) * unit;
            if ((e[4] == MBR_TYPE_VMFS || (any && start != 0)) &&
                take(pf, bd, info, at + start, size, off, bytes))
                return true;
            if (is_extended(e[4]) && next == 0 && start != 0)
                next = extended + start;
        }
        if (next == 0 || !read_bytes(pf, bd, info, next + MBR_TABLE, table, sizeof(table)) ||
            vmci_ld_le16(table + 64) != 0xAA55)
            return false;
        extended = extended != 0 ? extended : next;
        at = next;
    }
    return false;
}

bool vmci_fs_guess_partition(const struct vmc_platform *pf, const struct vmc_blockdev *bd,
                             const struct vmc_block_info *info, uint64_t *off, uint64_t *bytes)
{
    static const uint32_t lbas[] = {FS_SECTOR, FS_PAGE};
    static const uint32_t starts[] = {GPT_FIRST_LBA, MBR_FIRST_LBA,
                                      63}; /* of ESX from 5 on, 3 and 4 */
    uint8_t mbr[FS_SECTOR];

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(lbas); i++)
        if (info->bytes > lbas[i] &&
            (find_gpt(pf, bd, info, lbas[i], vmci_align_down(info->bytes, lbas[i]) - lbas[i], false,
                      off, bytes) ||
             find_gpt(pf, bd, info, lbas[i], lbas[i], true, off, bytes)))
            return true;
    if (read_bytes(pf, bd, info, 0, mbr, sizeof(mbr)) && vmci_ld_le16(mbr + 510) == 0xAA55 &&
        find_mbr(pf, bd, info, mbr, true, off, bytes))
        return true;
    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(starts); i++)
        if (take(pf, bd, info, starts[i] * (uint64_t)FS_SECTOR, UINT64_MAX, off, bytes))
            return true;
    return false;
}

int vmci_fs_find_partition(const struct vmc_platform *pf, const struct vmc_blockdev *bd,
                           const struct vmc_block_info *info, uint64_t *off, uint64_t *bytes,
                           struct vmc_error *err)
{
    uint8_t mbr[FS_PAGE];
    uint32_t other = info->sector_bytes == FS_PAGE ? FS_SECTOR : FS_PAGE;

    if (is_lvm(pf, bd, info, 0)) {
        *off = 0;
        *bytes = info->bytes;
        return VMC_OK;
    }
    if (info->bytes < LVM_META_OFF)
        return vmci_error(err, VMC_EFORMAT, SITE("partition"),
                          "device of %llu bytes is too small for a VMFS volume",
                          (unsigned long long)info->bytes);
    int rc = vmci_fs_dev_io(pf, bd, VMC_BLOCK_READ, 0, mbr, info->sector_bytes, err);
    if (rc != VMC_OK)
        return rc;
    if (vmci_ld_le16(mbr + 510) == 0xAA55 &&
        (find_gpt(pf, bd, info, info->sector_bytes, info->sector_bytes, false, off, bytes) ||
         find_gpt(pf, bd, info, other, other, false, off, bytes) ||
         find_mbr(pf, bd, info, mbr, false, off, bytes)))
        return VMC_OK;
    return vmci_error(err, VMC_EFORMAT, SITE("partition"),
                      "no VMFS: no LVM magic 0x%08x at 0x%llx, and no VMFS partition that has it",
                      LVM_MAGIC, (unsigned long long)LVM_META_OFF);
}

static void put_utf16(uint8_t *dst, const char *s)
{
    for (; *s != '\0'; s++, dst += 2)
        *dst = (uint8_t)*s;
}

static void gpt_header(uint8_t *h, uint64_t self, uint64_t other, uint64_t table, uint64_t lbas,
                       const struct vmc_vmfs_uuid *seed, uint32_t table_crc, uint32_t lba_bytes)
{
    uint64_t table_lbas = 16384 / lba_bytes;

    memset(h, 0, lba_bytes);
    memcpy(h, "EFI PART", 8);
    vmci_st_le32(h + 8, 0x10000);
    vmci_st_le32(h + 12, 92);
    vmci_st_le64(h + 24, self);
    vmci_st_le64(h + 32, other);
    vmci_st_le64(h + 40, 2 + table_lbas);
    vmci_st_le64(h + 48, lbas - table_lbas - 2);
    memcpy(h + 56, seed->b, 16);
    h[56] ^= 0x5a; /* the disk's GUID; the partition has the seed itself */
    vmci_st_le64(h + 72, table);
    vmci_st_le32(h + 80, 128);
    vmci_st_le32(h + 84, 128);
    vmci_st_le32(h + 88, table_crc);
    vmci_st_le32(h + 16, crc32(0, h, 92));
}

static int write_gpt(const struct vmc_platform *pf, const struct vmc_blockdev *bd,
                     const struct vmc_block_info *info, const struct vmc_vmfs_uuid *seed,
                     uint64_t off, uint64_t bytes, struct vmc_error *err)
{
    uint32_t lb = info->sector_bytes;
    uint64_t lbas = info->bytes / lb, table_lbas = 16384 / lb;
    uint64_t first = off / lb, last = first + bytes / lb - 1;
    uint8_t *table = vmci_zalloc(pf, 16384);
    uint8_t head[FS_PAGE];

    if (table == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE("partition"), "no memory for a partition table");
    memcpy(table, vmfs_guid, 16);
    memcpy(table + 16, seed->b, 16);
    vmci_st_le64(table + 32, first);
    vmci_st_le64(table + 40, last);
    put_utf16(table + 56, "VMFS");
    uint32_t tcrc = crc32(0, table, 16384);

    memset(head, 0, sizeof(head));
    uint8_t *e = head + MBR_TABLE;
    e[2] = 2;
    e[4] = MBR_TYPE_GPT;
    memset(e + 5, 0xFF, 3);
    vmci_st_le32(e + 8, 1);
    vmci_st_le32(e + 12, (uint32_t)VMCI_MIN(lbas - 1, UINT32_MAX));
    vmci_st_le16(head + 510, 0xAA55);
    int rc = vmci_fs_dev_io(pf, bd, VMC_BLOCK_WRITE, 0, head, lb, err);
    if (rc == VMC_OK)
        rc = vmci_fs_dev_io(pf, bd, VMC_BLOCK_WRITE, 2ull * lb, table, 16384, err);
    if (rc == VMC_OK)
        rc = vmci_fs_dev_io(pf, bd, VMC_BLOCK_WRITE, (lbas - table_lbas - 1) * lb, table, 16384,
                            err);
    vmci_free(pf, table, 16384);
    if (rc != VMC_OK)
        return rc;
    gpt_header(head, 1, lbas - 1, 2, lbas, seed, tcrc, lb);
    rc = vmci_fs_dev_io(pf, bd, VMC_BLOCK_WRITE, lb, head, lb, err);
    if (rc != VMC_OK)
        return rc;
    gpt_header(head, lbas - 1, 1, lbas - table_lbas - 1, lbas, seed, tcrc, lb);
    return vmci_fs_dev_io(pf, bd, VMC_BLOCK_WRITE, (lbas - 1) * lb, head, lb, err);
}

static int write_mbr(const struct vmc_platform *pf, const struct vmc_blockdev *bd, uint64_t off,
                     uint64_t bytes, struct vmc_error *err)
{
    uint8_t mbr[FS_PAGE];
    uint8_t *e = mbr + MBR_TABLE;

    memset(mbr, 0, sizeof(mbr));
    memset(e + 1, 0xFE, 3);
    e[4] = MBR_TYPE_VMFS;
    memset(e + 5, 0xFE, 3);
    vmci_st_le32(e + 8, (uint32_t)(off / 512));
    vmci_st_le32(e + 12, (uint32_t)(bytes / 512));
    vmci_st_le16(mbr + 510, 0xAA55);
    return vmci_fs_dev_io(pf, bd, VMC_BLOCK_WRITE, 0, mbr, 512, err);
}

int vmci_fs_plan_partition(const struct vmc_block_info *info, bool gpt, uint64_t *off,
                           uint64_t *bytes, struct vmc_error *err)
{
    uint32_t lb = info->sector_bytes;

    if (info->bytes < 4 * FS_MIB)
        return vmci_error(err, VMC_EINVAL, SITE("partition"), "device of %llu bytes is too small",
                          (unsigned long long)info->bytes);
    *off = gpt ? GPT_FIRST_LBA * 512ull : MBR_FIRST_LBA * 512ull;
    *bytes = gpt ? (info->bytes / lb - 1) * lb - 16384 - *off
                 : VMCI_MIN(info->bytes / 512 - MBR_FIRST_LBA, UINT32_MAX) * 512;
    return VMC_OK;
}

int vmci_fs_write_partition(const struct vmc_platform *pf, const struct vmc_blockdev *bd,
                            const struct vmc_block_info *info, bool gpt,
                            const struct vmc_vmfs_uuid *seed, uint64_t off, uint64_t bytes,
                            struct vmc_error *err)
{
    return gpt ? write_gpt(pf, bd, info, seed, off, bytes, err)
               : write_mbr(pf, bd, off, bytes, err);
}
