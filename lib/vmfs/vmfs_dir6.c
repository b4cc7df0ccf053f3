/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading directories of VMFS6: a 64 KiB header with "." and "..", then blocks of entries that an
 * allocation map lists. The hash table is for finding names; a listing does without, and so do we.
 */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("directory");

#define BLOCK        FS_PAGE
#define SLOTS        ((BLOCK - D6_BLOCK_HEADER) / D6_ENTRY)
#define PER_MAP      (2u * (BLOCK - D6_BLOCK_HEADER))
#define BLOCK_ENTRY  1u
#define NIBBLE_TYPE  3u
#define NIBBLE_UNUSED 8u
#define MAPS_MAX     128u

static int take(const struct fs_inode *dir, const uint8_t *b, uint64_t pos, struct fs_entry *e,
                struct vmc_error *err)
{
    e->type = vmci_ld_le32(b);
    e->fd = vmci_ld_le32(b + 4);
    e->gen = vmci_ld_le32(b + 8);
    e->pos = pos;
    memcpy(e->name, b + D6_E_NAME, DE_NAME_BYTES);
    if (e->name[DE_NAME_BYTES - 1] != '\0' && (dir->v->ro || dir->v->flags & VMC_VMFS_REPAIR))
        e->name[DE_NAME_BYTES - 1] = '\0';
    if (e->name[DE_NAME_BYTES - 1] != '\0')
        return vmci_error(err, VMC_EFORMAT, site, "directory 0x%08x entry %llu: the name has no end",
                          dir->addr, (unsigned long long)pos);
    return 1;
}

/* Type nibble of a directory block. */
static int nibble(struct fs_inode *dir, uint64_t block, uint32_t *out, struct vmc_error *err)
{
    uint32_t i = (uint32_t)(block / PER_MAP), in = (uint32_t)(block % PER_MAP);
    uint8_t b[4], byte;
    int rc = vmci_fs_file_meta(dir, D6_MAP_BLOCKS + i * 4ull, b, sizeof(b), false, err);

    if (rc == VMC_OK)
        rc = vmci_fs_file_meta(dir,
                               D6_HEADER + (uint64_t)vmci_ld_le32(b) * BLOCK + D6_BLOCK_HEADER + in / 2,
                               &byte, 1, false, err);
    if (rc == VMC_OK)
        *out = in % 2 == 0 ? byte >> 4 : byte & 0xF;
    return rc;
}

/* Entry pos: 0 ".", 1 "..", then 2 + block * SLOTS + slot. Returns 1. */
static int read_at(struct fs_inode *dir, uint64_t pos, struct fs_entry *out, struct vmc_error *err)
{
    uint8_t e[D6_ENTRY];
    uint64_t at = pos == 0   ? D6_DOT
                  : pos == 1 ? D6_DOTDOT
                             : D6_HEADER + (pos - 2) / SLOTS * BLOCK + D6_BLOCK_HEADER +
                                   (pos - 2) % SLOTS * D6_ENTRY;
    int rc = vmci_fs_file_meta(dir, at, e, sizeof(e), false, err);

    return rc == VMC_OK ? take(dir, e, pos, out, err) : rc;
}

int vmci_fs_dir6_read(struct fs_inode *dir, uint64_t pos, struct fs_entry *out,
                      struct vmc_error *err)
{
    int rc = read_at(dir, pos, out, err);
    return rc < 0 ? rc : VMC_OK;
}

/* The cookie is the number of the next entry. */
int vmci_fs_dir6_next(struct fs_inode *dir, uint64_t *cookie, struct fs_entry *out,
                      struct vmc_error *err)
{
    uint8_t head[D6_MAP_BLOCKS], e[D6_ENTRY], bh[D6_BLOCK_HEADER];
    uint64_t len = vmci_fs_md64(dir, FD_LENGTH);

    if (len < D6_HEADER)
        return vmci_error(err, VMC_EFORMAT, site, "directory 0x%08x has only 0x%llx bytes", dir->addr,
                          (unsigned long long)len);
    int rc = vmci_fs_file_meta(dir, 0, head, sizeof(head), false, err);
    if (rc != VMC_OK)
        return rc;
    uint32_t version = vmci_ld_le32(head), maps = vmci_ld_le32(head + D6_MAPS);
    if ((version != D6_VERSION && version != D6_VERSION_DEBUG) || maps == 0 || maps > MAPS_MAX)
        return vmci_error(err, VMC_EFORMAT, site,
                          "directory 0x%08x: version 0x%x, %u allocation maps", dir->addr, version,
                          maps);
    if (*cookie < 2)
        return read_at(dir, (*cookie)++, out, err);
    uint64_t blocks = VMCI_MIN((len - D6_HEADER) / BLOCK, (uint64_t)maps * PER_MAP);
    while ((*cookie - 2) / SLOTS < blocks) {
        uint64_t block = (*cookie - 2) / SLOTS;
        uint32_t slot = (uint32_t)((*cookie - 2) % SLOTS), type = 0;
        if (slot == 0) {
            rc = nibble(dir, block, &type, err);
            if (rc != VMC_OK)
                return rc;
            if ((type & NIBBLE_TYPE) != BLOCK_ENTRY) {
                *cookie += SLOTS;
                continue;
            }
        }
        rc = vmci_fs_file_meta(dir, D6_HEADER + block * BLOCK, bh, sizeof(bh), false, err);
        if (rc != VMC_OK)
            return rc;
        (*cookie)++;
        if (vmci_ld_le16(bh + 2) != BLOCK_ENTRY || slot >= vmci_ld_le16(bh + 4) ||
            (bh[8 + slot / 8] >> (slot % 8) & 1))
            continue;
        rc = vmci_fs_file_meta(dir, D6_HEADER + block * BLOCK + D6_BLOCK_HEADER + slot * D6_ENTRY, e,
                               sizeof(e), false, err);
        if (rc != VMC_OK)
            return rc;
        if (vmci_ld_le32(e + 4) != 0)
            return take(dir, e, *cookie - 1, out, err);
    }
    return 0;
}

/* Bob Jenkins' 64-bit mix. */
static void mix(uint64_t *x)
{
    static const uint8_t shift[12] = {43, 9, 8, 38, 23, 5, 35, 49, 11, 12, 18, 22};

    for (unsigned i = 0; i < 12; i++) {
        unsigned a = i % 3, b = (i + 1) % 3, c = (i + 2) % 3;
        x[a] -= x[b];
        x[a] -= x[c];
        x[a] ^= i % 3 == 1 ? x[c] << shift[i] : x[c] >> shift[i];
    }
}

uint64_t vmci_fs_dir6_hash(const char *name, size_t len)
{
    uint8_t key[256] = {0};
    uint64_t x[3] = {42, 42, 0x9E3779B97F4A7C13ull};

    memcpy(key, name, VMCI_MIN(len, 127u));
    for (size_t at = (len + 8) & ~(size_t)7; at < 127; at += 8)
        vmci_st_le64(key + at, 0x739A75C28E61B017ull);
    for (unsigned i = 0; i < 30; i += 3) {
        for (unsigned k = 0; k < 3; k++)
            x[k] += vmci_ld_le64(key + (i + k) * 8);
        mix(x);
    }
    x[2] += 32;
    x[0] += vmci_ld_le64(key + 240);
    x[1] += vmci_ld_le64(key + 248);
    mix(x);
    return x[2];
}
