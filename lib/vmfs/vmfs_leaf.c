/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The map of a file for I/O that takes no lock: one word for FS_LEAF_BLOCKS blocks, see
 * struct fs_map. Writers hold the volume's lock; readers hold an I/O slot (vmfs_io.c), and what
 * they might still be looking at is only freed after the slots have drained.
 */
#include "vmfs/vmfs_priv.h"

#define LEAF_BYTES (FS_LEAF_BLOCKS * sizeof(uint32_t))

static size_t map_bytes(uint64_t words)
{
    return sizeof(struct fs_map) + words * sizeof(uintptr_t);
}

int vmci_fs_leaf_room(struct fs_inode *ino, uint64_t blocks, struct vmc_error *err)
{
    const struct vmc_platform *pf = ino->v->pf;
    uint64_t words = (blocks + FS_LEAF_BLOCKS - 1) / FS_LEAF_BLOCKS;
    struct fs_map *old = ino->map;

    if (old != NULL && words <= old->words)
        return VMC_OK;
    if (old != NULL)
        words = VMCI_MAX(words, old->words * 2);
    struct fs_map *m = vmci_zalloc(pf, map_bytes(words));
    if (m == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE("map"), "no memory for the map of a file");
    m->words = words;
    if (old != NULL)
        memcpy(m->w, old->w, old->words * sizeof(uintptr_t));
    vmci_store_release(&ino->map, m);
    if (old != NULL) {
        vmci_fs_ios_drain(ino);
        vmci_free(pf, old, map_bytes(old->words));
    }
    return VMC_OK;
}

static uint32_t entry_of(const struct fs_geometry *g, uint64_t blk, uint64_t raw)
{
    struct fs_addr a = vmci_fs_addr_decode(g, raw);
    uint32_t more = g->lfb_shift - g->fb_shift;

    if (raw == 0)
        return MAP_HOLE;
    if (a.type == AD_LFB && g->version == 6) {
        /* The place in a large block is the place in the file, modulo its size. */
        a.type = AD_FB;
        a.block = (a.block << more) + (blk & ((1u << more) - 1));
    }
    if (a.type != AD_FB || a.cow || a.block >= g->blocks || a.block >= 1u << 30)
        return MAP_OTHER;
    return (a.tbz ? MAP_TBZ : MAP_BLOCK) | (uint32_t)a.block << 2;
}

static uintptr_t as_run(const uint32_t *e)
{
    if ((e[0] & 3) != MAP_BLOCK)
        return 0;
    for (uint32_t i = 1; i < FS_LEAF_BLOCKS; i++)
        if (e[i] != e[0] + (i << 2))
            return 0;
    return (uintptr_t)(e[0] >> 2) << 1 | 1;
}

int vmci_fs_leaf_load(struct fs_inode *ino, uint64_t blk, struct vmc_error *err)
{
    const struct fs_geometry *g = &ino->v->g;
    uint64_t blocks = (vmci_fs_md64(ino, FD_LENGTH) + g->fb_bytes - 1) >> g->fb_shift;
    uint64_t i = blk / FS_LEAF_BLOCKS, first = i * FS_LEAF_BLOCKS;
    int rc = vmci_fs_leaf_room(ino, VMCI_MAX(blocks, blk + 1), err);

    if (rc != VMC_OK)
        return rc;
    if (ino->map->w[i] != 0)
        return VMC_OK;
    uint32_t *e = vmci_zalloc(ino->v->pf, LEAF_BYTES);
    if (e == NULL)
        return vmci_error(err, VMC_ENOMEM, SITE("map"), "no memory for the map of a file");
    for (uint32_t k = 0; k < FS_LEAF_BLOCKS && first + k < blocks; k++) {
        uint64_t raw;
        rc = vmci_fs_map_get(ino, first + k, &raw, err);
        if (rc != VMC_OK) {
            vmci_free(ino->v->pf, e, LEAF_BYTES);
            return rc;
        }
        e[k] = entry_of(g, first + k, raw);
    }
    uintptr_t run = as_run(e);
    if (run != 0)
        vmci_free(ino->v->pf, e, LEAF_BYTES);
    vmci_store_release(&ino->map->w[i], run != 0 ? run : (uintptr_t)e);
    return VMC_OK;
}

void vmci_fs_leaf_set(struct fs_inode *ino, uint64_t blk, uint32_t entry)
{
    struct fs_map *m = ino->map;
    uint64_t i = blk / FS_LEAF_BLOCKS;

    if (m == NULL || i >= m->words || m->w[i] == 0)
        return;
    if (m->w[i] & 1) {
        /* No longer a run: load it again when it is needed. */
        vmci_store_release(&m->w[i], (uintptr_t)0);
        return;
    }
    vmci_store_release((uint32_t *)m->w[i] + blk % FS_LEAF_BLOCKS, entry);
}

void vmci_fs_leaf_free(struct fs_inode *ino)
{
    struct fs_map *m = ino->map;

    if (m == NULL)
        return;
    vmci_store_release(&ino->map, NULL);
    vmci_fs_ios_drain(ino);
    for (uint64_t i = 0; i < m->words; i++)
        if (m->w[i] != 0 && !(m->w[i] & 1))
            vmci_free(ino->v->pf, (void *)m->w[i], LEAF_BYTES);
    vmci_free(ino->v->pf, m, map_bytes(m->words));
}
