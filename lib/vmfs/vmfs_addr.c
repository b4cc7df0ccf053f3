/* SPDX-License-Identifier: BSD-2-Clause */
/* Block addresses: 32 bits on VMFS3 and VMFS5, 64 on VMFS6 (file descriptors: 32 everywhere). */
#include "vmfs/vmfs_priv.h"

uint32_t vmci_fs_sfb_per_cluster(const struct fs_geometry *g)
{
    return VMCI_MIN(0x2000u, (uint32_t)((512 * FS_MIB) >> g->fb_shift));
}

static struct fs_addr decode6(const struct fs_geometry *g, uint64_t raw)
{
    struct fs_addr a = {.type = (uint32_t)raw & 7, .cow = (raw & 0x20) != 0};

    switch (a.type) {
    case AD_FB:
        a.tbz = ((raw >> 7) & 0xFF) != 0;
        a.cluster = (raw >> 15) & 0x7FFFFFFF;
        a.item = (uint32_t)(raw >> 51);
        a.block = a.cluster * vmci_fs_sfb_per_cluster(g) + a.item;
        break;
    case AD_LFB:
        a.tbz = ((raw >> 7) & 0xFF) != 0;
        a.block = (raw >> 15) & 0x7FFFFFFF;
        break;
    case AD_SB:
    case AD_PB:
    case AD_PB2:
        a.cluster = (raw >> 6) & 0xFFFFFFFFFull;
        a.item = (uint32_t)(raw >> 56);
        break;
    default:
        break;
    }
    return a;
}

struct fs_addr vmci_fs_addr_decode(const struct fs_geometry *g, uint64_t raw)
{
    struct fs_addr a = {.type = (uint32_t)raw & 7};

    if (a.type == AD_FD) {
        a.cluster = (raw >> 6) & 0xFFFF;
        a.item = (uint32_t)(raw >> 22) & 0x3FF;
        return a;
    }
    if (g->version == 6)
        return decode6(g, raw);
    switch (a.type) {
    case AD_FB:
        a.cow = (raw & AD_COW) != 0;
        a.tbz = (raw & AD_TBZ) != 0;
        a.block = (uint32_t)raw >> 6;
        break;
    case AD_SB:
        a.cow = (raw & 0x20) != 0;
        a.cluster = (raw >> 6) & 0x3FFFFF;
        a.item = ((uint32_t)raw >> 28) | (g->dense ? ((uint32_t)raw & 0x18) << 1 : 0);
        break;
    case AD_PB:
    case AD_PB2:
        a.cow = (raw & 0x20) != 0;
        a.cluster = (raw >> 6) & 0x3FFFFF;
        a.item = (uint32_t)raw >> 28;
        break;
    default:
        break;
    }
    return a;
}

uint64_t vmci_fs_addr_encode(const struct fs_geometry *g, uint32_t type, uint64_t where,
                             uint32_t item)
{
    bool six = g->version == 6;

    switch (type) {
    case AD_FD:
        return AD_FD | (uint32_t)where << 6 | item << 22;
    case AD_FB:
        return six ? AD_FB | (where / vmci_fs_sfb_per_cluster(g)) << 15 |
                         (where % vmci_fs_sfb_per_cluster(g)) << 51
                   : AD_FB | (uint32_t)where << 6;
    case AD_SB:
        return six ? AD_SB | where << 6 | (uint64_t)item << 56
                   : AD_SB | (item >> 4 & 3) << 3 | (uint32_t)where << 6 | (item & 0xF) << 28;
    case AD_LFB:
        return AD_LFB | where << 15;
    default:
        return six ? type | where << 6 | (uint64_t)item << 56
                   : type | (uint32_t)where << 6 | item << 28;
    }
}

int vmci_fs_addr_lv(struct vmc_vmfs *v, uint64_t raw, uint64_t *lv, uint64_t *bytes,
                    struct vmc_error *err)
{
    struct fs_addr a = vmci_fs_addr_decode(&v->g, raw);
    struct fs_res *r;

    switch (a.type) {
    case AD_FB:
    case AD_LFB: {
        uint32_t shift = a.type == AD_FB ? v->g.fb_shift : v->g.lfb_shift;
        if (a.block >= (v->g.lv_bytes >> shift) || (a.type == AD_LFB && v->g.version != 6))
            break;
        *lv = a.block << shift;
        *bytes = 1ull << shift;
        return VMC_OK;
    }
    case AD_SB:
    case AD_PB:
    case AD_PB2:
        r = vmci_fs_res_of(v, a.type);
        /* Pointer blocks of VMFS6 files live in sub-blocks when .pbc.sf is empty. */
        if (v->g.version == 6 && a.type == AD_PB && r->clusters == 0)
            r = &v->sbc;
        if (r->ino == NULL || r->clusters == 0)
            break;
        *bytes = r->rs;
        return vmci_fs_res_item_lv(v, r, a.cluster, a.item, lv, err);
    default:
        break;
    }
    return vmci_error(err, VMC_EFORMAT, SITE("address"),
                      "block address 0x%llx (type %u) is invalid or outside of the volume",
                      (unsigned long long)raw, a.type);
}
