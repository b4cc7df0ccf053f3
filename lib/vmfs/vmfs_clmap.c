/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the header of a cluster says: which resources are free, how many, where to look first.
 * VMFS3 and VMFS5 have one bit for each, set when it is free. VMFS6 has one to three bits; free is
 * the value 1 (a bit alone: the same; for file blocks on our own volumes: docs/vmfs-format.md).
 */
#include "vmfs/vmfs_priv.h"

static inline uint32_t base(const struct fs_res *r)
{
    return r->six ? CL6_BITMAP : CL_BITMAP;
}

uint32_t vmci_fs_cl_value(const struct fs_res *r, const uint8_t *md, uint32_t i)
{
    uint32_t at = i * r->bits, value = 0;

    for (uint32_t b = 0; b < r->bits; b++)
        value |= (uint32_t)(md[base(r) + (at + b) / 8] >> ((at + b) % 8) & 1) << b;
    return value;
}

void vmci_fs_cl_put(const struct fs_res *r, uint8_t *md, uint32_t i, uint32_t value)
{
    uint32_t at = i * r->bits;

    for (uint32_t b = 0; b < r->bits; b++) {
        uint8_t *p = &md[base(r) + (at + b) / 8], bit = (uint8_t)(1u << ((at + b) % 8));
        *p = (uint8_t)((*p & ~bit) | (value >> b & 1 ? bit : 0));
    }
}

bool vmci_fs_cl_is_free(const struct fs_res *r, const uint8_t *md, uint32_t i)
{
    return r->bits == 1 ? md[base(r) + i / 8] >> (i % 8) & 1 : vmci_fs_cl_value(r, md, i) == 1;
}

uint32_t vmci_fs_cl_first(const struct fs_res *r, const uint8_t *md, uint32_t from, uint32_t total)
{
    uint32_t per = 8 / r->bits; /* whole ones in a byte, of one or two bits */

    for (uint32_t i = from; i < total; i++) {
        if (r->bits < 3 && i % per == 0 && md[base(r) + i / per] == 0) {
            i += per - 1;
            continue;
        }
        if (vmci_fs_cl_is_free(r, md, i))
            return i;
    }
    return total;
}

uint32_t vmci_fs_cl_free(const struct fs_res *r, const uint8_t *md)
{
    return r->six ? vmci_ld_le16(md + CL6_FREE) : vmci_ld_le32(md + CL_FREE);
}

void vmci_fs_cl_counts(const struct fs_res *r, uint8_t *md, uint32_t free, uint32_t next)
{
    if (r->six) {
        vmci_st_le16(md + CL6_FREE, (uint16_t)free);
        vmci_st_le32(md + CL6_NEXT, next);
    } else {
        vmci_st_le32(md + CL_FREE, free);
        vmci_st_le32(md + CL_NEXT, next);
    }
}

void vmci_fs_cl_mark(const struct fs_res *r, uint8_t *md, uint32_t first, uint32_t n,
                     uint32_t total, bool free)
{
    uint32_t count = vmci_fs_cl_free(r, md);

    for (uint32_t i = first; i < first + n; i++)
        vmci_fs_cl_put(r, md, i, free);
    uint32_t next = vmci_fs_cl_first(r, md, 0, total);
    vmci_fs_cl_counts(r, md, free ? count + n : count - n, next == total ? 0 : next);
}

void vmci_fs_cl_init6(const struct fs_res *r, uint8_t *md, uint64_t number, uint32_t total,
                      bool free)
{
    memset(md, 0, FS_PAGE);
    vmci_st_le32(md + CL6_MAGIC_OFF, CL6_MAGIC);
    vmci_st_le64(md + CL6_NUMBER, number);
    vmci_st_le16(md + CL6_TOTAL, (uint16_t)total);
    vmci_st_le16(md + CL6_KIND, r->child ? 0x100 : 0);
    vmci_st_le32(md + CL6_ONE, 1);
    if (free)
        vmci_fs_cl_mark(r, md, 0, total, total, true);
}

const char *vmci_fs_cl_fault(const struct fs_res *r, const uint8_t *md, uint64_t number,
                             uint32_t total)
{
    if (r->six && vmci_ld_le32(md + CL6_MAGIC_OFF) != CL6_MAGIC)
        return "signature";
    if ((r->six ? vmci_ld_le64(md + CL6_NUMBER) : vmci_ld_le32(md + CL_NUMBER)) != number)
        return "own number";
    if ((r->six ? vmci_ld_le16(md + CL6_TOTAL) : vmci_ld_le32(md + CL_TOTAL)) != total)
        return "number of resources";
    return vmci_fs_cl_free(r, md) > total ? "free count" : NULL;
}
