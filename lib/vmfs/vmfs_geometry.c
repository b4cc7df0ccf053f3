/* SPDX-License-Identifier: BSD-2-Clause */
/* From the file system descriptor to sizes, and opening of the system files. */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("geometry");

/* The sizes that follow from version, metadata alignment and block size. */
void vmci_fs_geometry_sizes(struct fs_geometry *g)
{
    bool six = g->version == 6;

    g->fd_bytes = six ? 2 * g->md_align : 0x800;
    g->fd_md = six ? g->md_align : 0x200;
    g->fd_ptrs = six ? g->md_align - 2560 : 0x200;
    g->fd_resident = 0x200;
    g->resident_max = six ? g->md_align - 512 : g->version == 5 ? 1024 : 0;
    g->nptr = six ? 320 : 256;
    g->ptr_bytes = six ? 8 : 4;
    g->pb_bytes = six ? 0x10000 : 0x1000;
    g->pb_ptrs = g->pb_bytes / g->ptr_bytes;
    g->ch_bytes = six ? 2 * g->md_align : 0x400;
    g->ch_md = six ? g->md_align : 0x200;
    g->hb_bytes = g->md_align;
    g->hb_slots = six ? 1024 : FS_HB_SLOTS;
    g->blocks = g->lv_bytes / g->fb_bytes;
    g->fdc_base = six ? (((uint64_t)g->md_align << 10) + 0x3FFFFF) & ~0xFFFFFull
                      : g->fb_bytes * ((4 * FS_MIB + g->fb_bytes - 1) / g->fb_bytes);
}

int vmci_fs_geometry(struct fs_geometry *g, const uint8_t *d, uint64_t lv_bytes,
                     struct vmc_error *err)
{
    uint32_t magic = vmci_ld_le32(d);

    if (magic < FS_MAGIC || magic > FS_MAGIC_6L)
        return vmci_error(
            err, VMC_EFORMAT, site,
            "file system descriptor at volume offset 0x%llx: magic is 0x%08x, not 0x%08x",
            (unsigned long long)FS_DESC_LV, magic, FS_MAGIC);
    g->lv_bytes = lv_bytes;
    g->major = vmci_ld_le32(d + FSD_MAJOR);
    g->minor = d[FSD_MINOR];
    if (g->major >= FS_MAJOR_6)
        g->version = 6;
    else if (g->major >= 12) /* VMFS5 from its first release on */
        g->version = 5;
    else if (g->major >= 2 && g->major <= FS_MAJOR_3)
        g->version = 3;
    else
        return vmci_error(err, VMC_EVERSION, site, "file system major version %u is not known",
                          g->major);
    g->md_align = g->version == 6 ? vmci_ld_le32(d + FSD_MD_ALIGN) : FS_SECTOR;
    if (g->md_align != (g->version == 6 ? FS_PAGE : FS_SECTOR))
        return vmci_error(err, VMC_ENOTSUP, site, "metadata alignment %u is not supported",
                          g->md_align);
    g->fb_bytes = vmci_ld_le64(d + FSD_BLOCK);
    if (!vmci_is_pow2(g->fb_bytes) || g->fb_bytes < FS_MIB || g->fb_bytes > 8 * FS_MIB)
        return vmci_error(err, VMC_EFORMAT, site,
                          "file block size is 0x%llx, not a power of two from 1 to 8 MiB",
                          (unsigned long long)g->fb_bytes);
    g->fb_shift = (uint32_t)__builtin_ctzll(g->fb_bytes);
    g->sb_bytes = vmci_ld_le32(d + FSD_SB);
    if (!vmci_is_pow2(g->sb_bytes) || g->sb_bytes < FS_PAGE || g->sb_bytes > 0x40000)
        return vmci_error(err, VMC_EFORMAT, site, "sub-block size is 0x%x", g->sb_bytes);
    g->dense = (vmci_ld_le32(d + FSD_CONFIG) & FSD_CONFIG_DENSE) != 0;
    g->lfb_shift = g->fb_shift + (g->version == 6 ? vmci_ld_le16(d + FSD_LFB_SHIFT) : 0);
    if (g->lfb_shift > 40)
        return vmci_error(err, VMC_EFORMAT, site, "large file blocks of 2^%u bytes", g->lfb_shift);
    vmci_fs_geometry_sizes(g);
    uint32_t pb_shift = g->version == 6 ? vmci_ld_le16(d + FSD_PB_SHIFT) : 0;
    if (pb_shift >= 12 && pb_shift < 16) { /* 64 KiB is usual */
        g->pb_bytes = 1u << pb_shift;
        g->pb_ptrs = g->pb_bytes / g->ptr_bytes;
    }
    uint64_t max_blocks = 1ull << (g->version == 6 ? 30 : 26);
    if (g->blocks > max_blocks || lv_bytes < 64 * FS_MIB)
        return vmci_error(err, VMC_EFORMAT, site, "a volume of 0x%llx bytes is out of range",
                          (unsigned long long)lv_bytes);
    uint32_t cpg = vmci_ld_le32(d + FSD_FDC_CPG), off = vmci_ld_le32(d + FSD_FDC_OFF);
    if (off != RF_HEADER || cpg == 0 || cpg > 1024)
        return vmci_error(err, VMC_EFORMAT, site,
                          "file descriptor file: groups at 0x%x, %u clusters each", off, cpg);
    g->fd0_lv = g->fdc_base + RF_HEADER + (uint64_t)cpg * g->ch_bytes;
    return VMC_OK;
}

static int sys_inode(struct vmc_vmfs *v, uint32_t i, struct vmc_error *err)
{
    struct vmc_error why;
    int rc = vmci_fs_inode_get(v, i << 22 | AD_FD, &v->sys[i], err);

    if (rc != VMC_OK || i == 0 || vmci_fs_md32(v->sys[i], FD_TYPE) == VMC_VMFS_SYSTEM)
        return rc;
    vmci_error(&why, VMC_EFORMAT, site, "system file descriptor %u has type %u, not %u", i,
               vmci_fs_md32(v->sys[i], FD_TYPE), VMC_VMFS_SYSTEM);
    return vmci_fs_doubt(v, &why, err);
}

/* A system file whose resources some files have: the others can be read without it. */
static int open_some(struct vmc_vmfs *v, struct fs_res *r, uint32_t i, uint32_t lock_type,
                     uint32_t addr_type, struct vmc_error *err)
{
    struct vmc_error why;
    int rc = sys_inode(v, i, &why);

    if (rc == VMC_OK)
        rc = vmci_fs_res_open(v, r, v->sys[i], lock_type, addr_type, 0, &why);
    if (rc == VMC_EFORMAT || rc == VMC_ENOENT) {
        vmci_fs_res_close(v, r);
        return vmci_fs_doubt(v, &why, err);
    }
    if (rc != VMC_OK && err != NULL)
        *err = why;
    return rc;
}

/*
 * File blocks, small and large. Their maps say what is free, not where files are: they must not
 * stand in the way of files.
 */
static int load_blocks(struct vmc_vmfs *v, struct vmc_error *err)
{
    bool six = v->g.version == 6;
    struct vmc_error why;
    int rc = sys_inode(v, 1, &why);

    if (rc == VMC_OK)
        rc = vmci_fs_res_open(v, &v->fbb, v->sys[1], LK_FBB, AD_FB, six ? FS_PAGE : 0, &why);
    if (rc == VMC_OK && six)
        rc = vmci_fs_res_open(v, &v->lfb, v->sys[1], LK_LFB, AD_LFB, 0, &why);
    if (rc == VMC_OK && six &&
        (v->fbb.rpc != vmci_fs_sfb_per_cluster(&v->g) || v->fbb.n > v->g.blocks ||
         v->fbb.clusters > v->lfb.n))
        rc = vmci_error(&why, VMC_EFORMAT, site,
                        ".fbb.sf has %llu small blocks, %u in each of %llu large ones",
                        (unsigned long long)v->fbb.n, v->fbb.rpc, (unsigned long long)v->lfb.n);
    if (rc == VMC_EFORMAT || rc == VMC_ENOENT) {
        vmci_fs_res_close(v, &v->fbb);
        vmci_fs_res_close(v, &v->lfb);
        return vmci_fs_doubt(v, &why, err);
    }
    if (rc != VMC_OK && err != NULL)
        *err = why;
    return rc;
}

/*
 * On a volume that was upgraded from VMFS3, .pb2.sf came later and has any file descriptor. The
 * files that it has pointer blocks of are few: others can be read without it.
 */
static int open_pb2(struct vmc_vmfs *v, uint32_t fd, struct vmc_error *err)
{
    struct vmc_error why;
    int rc = vmci_fs_inode_get(v, fd, &v->sys[6], &why);

    if (rc == VMC_OK && vmci_fs_md32(v->sys[6], FD_TYPE) != VMC_VMFS_SYSTEM)
        rc = vmci_error(&why, VMC_EFORMAT, site,
                        "the descriptor names 0x%08x as .pb2.sf, which has type %u, not %u", fd,
                        vmci_fs_md32(v->sys[6], FD_TYPE), VMC_VMFS_SYSTEM);
    if (rc == VMC_OK)
        rc = vmci_fs_res_open(v, &v->pb2, v->sys[6], LK_PB2, AD_PB2, 0, &why);
    if (rc == VMC_EFORMAT || rc == VMC_ENOENT) {
        vmci_fs_res_close(v, &v->pb2);
        return vmci_fs_doubt(v, &why, err);
    }
    if (rc != VMC_OK && err != NULL)
        *err = why;
    return rc;
}

/*
 * The order matters: .pbc.sf resolves pointer blocks, so it and .pb2.sf come before .fdc.sf and
 * .fbb.sf, whose own maps may need them.
 */
int vmci_fs_load_system(struct vmc_vmfs *v, struct vmc_error *err)
{
    uint32_t pb2_fd = vmci_ld_le32(v->desc + FSD_PB2_FD);
    bool six = v->g.version == 6;
    int rc = open_some(v, &v->pbc, 3, LK_PBC, AD_PB, err);

    if (rc == VMC_OK && pb2_fd == FD_ADDR_PB2)
        rc = open_pb2(v, pb2_fd, err);
    if (rc == VMC_OK)
        rc = open_some(v, &v->sbc, 4, LK_SBC, AD_SB, err);
    if (rc == VMC_OK)
        rc = sys_inode(v, 2, err);
    if (rc == VMC_OK)
        rc = vmci_fs_res_open(v, &v->fdc, v->sys[2], LK_FDC, AD_FD, 0, err);
    if (rc == VMC_OK)
        rc = load_blocks(v, err);
    if (rc == VMC_OK && pb2_fd != 0 && pb2_fd != FD_ADDR_PB2)
        rc = open_pb2(v, pb2_fd, err);
    if (rc == VMC_OK)
        rc = sys_inode(v, 0, err);
    if (rc != VMC_OK)
        return rc;
    v->root = v->sys[0];
    if (vmci_fs_md32(v->root, FD_TYPE) != VMC_VMFS_DIR)
        return vmci_error(err, VMC_EFORMAT, site, "the root's file descriptor has type %u, not %u",
                          vmci_fs_md32(v->root, FD_TYPE), VMC_VMFS_DIR);
    if (v->fdc.cpg != vmci_ld_le32(v->desc + FSD_FDC_CPG))
        return vmci_error(err, VMC_EFORMAT, site,
                          ".fdc.sf has %u clusters in a group, the descriptor says %u", v->fdc.cpg,
                          vmci_ld_le32(v->desc + FSD_FDC_CPG));
    if (six || v->fbb.n <= v->g.blocks)
        return VMC_OK;
    struct vmc_error why;
    vmci_error(&why, VMC_EFORMAT, site, ".fbb.sf has %llu blocks, the volume %llu",
               (unsigned long long)v->fbb.n, (unsigned long long)v->g.blocks);
    return vmci_fs_doubt(v, &why, err); /* the end of a volume may be missing in a copy of it */
}

void vmci_fs_unload_system(struct vmc_vmfs *v)
{
    struct fs_res *res[] = {&v->fbb, &v->fdc, &v->pbc, &v->sbc, &v->pb2, &v->lfb};

    for (uint32_t i = 0; i < VMCI_ARRAY_SIZE(res); i++)
        vmci_fs_res_close(v, res[i]);
    for (uint32_t i = 0; i < VMCI_ARRAY_SIZE(v->sys); i++) {
        if (v->sys[i] != NULL)
            vmci_fs_inode_put(v->sys[i]);
        v->sys[i] = NULL;
    }
    v->root = NULL;
}
