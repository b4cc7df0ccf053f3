/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changing directories of VMFS6 (inside a transaction that has the directory). A name is an entry
 * in an entry block, and a location in the hash table: of the entry itself, or, where several names
 * share a slot of the table, of the first of a chain of link groups. New groups go to the front.
 */
#include "vmfs/vmfs_priv.h"

static const char site[] = SITE("directory");

#define BLOCK    FS_PAGE
#define SLOTS    ((BLOCK - D6_BLOCK_HEADER) / D6_ENTRY)
#define GROUPS   ((BLOCK - D6_BLOCK_HEADER) / D6_GROUP)
#define PER_MAP  (2u * (BLOCK - D6_BLOCK_HEADER))
#define MAPS_MAX 128u

enum { BT_NONE, BT_ENTRY, BT_LINK, BT_MAP };
#define NIBBLE_ROOM   4u
#define NIBBLE_UNUSED 8u

/* ---- locations: type in bits 0..1, block in 2..23, slot in 24..31
 * --------------------------------- */

static uint32_t location(uint32_t type, uint64_t block, uint32_t slot)
{
    return type | (uint32_t)block << 2 | slot << 24;
}

static uint64_t block_off(uint64_t block)
{
    return D6_HEADER + block * BLOCK;
}

static uint64_t entry_off(uint64_t pos)
{
    if (pos < 2)
        return pos == 0 ? D6_DOT : D6_DOTDOT;
    return block_off((pos - 2) / SLOTS) + D6_BLOCK_HEADER + (pos - 2) % SLOTS * D6_ENTRY;
}

static uint64_t group_off(uint32_t loc)
{
    return block_off(loc >> 2 & 0x3FFFFF) + D6_BLOCK_HEADER + (uint64_t)(loc >> 24) * D6_GROUP;
}

static int get32(struct fs_inode *dir, uint64_t off, uint32_t *out, struct vmc_error *err)
{
    uint8_t b[4];
    int rc = vmci_fs_file_meta(dir, off, b, sizeof(b), false, err);

    *out = vmci_ld_le32(b);
    return rc;
}

static int put32(struct fs_inode *dir, uint64_t off, uint32_t value, struct vmc_error *err)
{
    uint8_t b[4];

    vmci_st_le32(b, value);
    return vmci_fs_file_meta(dir, off, b, sizeof(b), true, err);
}

/* ---- blocks
 * ---------------------------------------------------------------------------------------- */

static int map_of(struct fs_inode *dir, uint32_t i, uint64_t *off, struct vmc_error *err)
{
    uint32_t block;
    int rc = get32(dir, D6_MAP_BLOCKS + i * 4ull, &block, err);

    *off = block_off(block) + D6_BLOCK_HEADER;
    return rc;
}

static int put_nibble(struct fs_inode *dir, uint64_t block, uint32_t value, struct vmc_error *err)
{
    uint64_t off;
    uint8_t byte;
    int rc = map_of(dir, (uint32_t)(block / PER_MAP), &off, err);

    off += block % PER_MAP / 2;
    if (rc == VMC_OK)
        rc = vmci_fs_file_meta(dir, off, &byte, 1, false, err);
    if (rc != VMC_OK)
        return rc;
    byte = (uint8_t)(block % 2 == 0 ? value << 4 | (byte & 0xF) : (byte & 0xF0) | value);
    return vmci_fs_file_meta(dir, off, &byte, 1, true, err);
}

/* The first block of a type with room; BT_NONE: the first that is not in use. UINT64_MAX: none. */
static int find_block(struct fs_inode *dir, uint32_t maps, uint32_t type, uint64_t *block,
                      struct vmc_error *err)
{
    uint8_t map[BLOCK - D6_BLOCK_HEADER];

    *block = UINT64_MAX;
    for (uint32_t i = 0; i < maps; i++) {
        uint64_t off;
        int rc = map_of(dir, i, &off, err);
        if (rc == VMC_OK)
            rc = vmci_fs_file_meta(dir, off, map, sizeof(map), false, err);
        if (rc != VMC_OK)
            return rc;
        for (uint32_t k = 0; k < PER_MAP; k++) {
            uint32_t nibble = k % 2 == 0 ? map[k / 2] >> 4 : map[k / 2] & 0xF;
            if (type == BT_NONE ? (nibble & 3) == 0 : nibble == (type | NIBBLE_ROOM)) {
                *block = (uint64_t)i * PER_MAP + k;
                return VMC_OK;
            }
        }
    }
    return VMC_OK;
}

static void block_header(uint8_t *b, uint32_t type, uint32_t slots)
{
    memset(b, 0, D6_BLOCK_HEADER);
    vmci_st_le16(b + D6_B_VERSION, type == BT_MAP ? 0 : 1);
    vmci_st_le16(b + D6_B_TYPE, (uint16_t)type);
    vmci_st_le16(b + D6_B_SLOTS, (uint16_t)slots);
    vmci_st_le16(b + D6_B_FREE, (uint16_t)slots);
    for (uint32_t i = 0; i < slots; i++)
        b[D6_B_BITMAP + i / 8] |= (uint8_t)(1u << i % 8);
}

static int reach(struct fs_inode *dir, uint64_t block, struct vmc_error *err)
{
    uint64_t need = block_off(block + 1), len = vmci_fs_md64(dir, FD_LENGTH);
    int rc = vmci_fs_dir_extend(dir, need, err);

    return rc == VMC_OK ? vmci_fs_dir_set_length(dir, VMCI_MAX(need, len), err) : rc;
}

/* An allocation map that has itself as its first block. */
static int new_map(struct fs_inode *dir, uint32_t maps, struct vmc_error *err)
{
    uint8_t b[BLOCK];
    uint64_t block = (uint64_t)maps * PER_MAP;

    if (maps >= MAPS_MAX)
        return vmci_error(err, VMC_ELIMIT, site, "directory 0x%08x is full", dir->addr);
    int rc = reach(dir, block, err);
    if (rc != VMC_OK)
        return rc;
    block_header(b, BT_MAP, 0);
    memset(b + D6_BLOCK_HEADER, 0x88, BLOCK - D6_BLOCK_HEADER);
    b[D6_BLOCK_HEADER] = 0x38;
    rc = vmci_fs_file_meta(dir, block_off(block), b, BLOCK, true, err);
    if (rc == VMC_OK)
        rc = put32(dir, D6_MAP_BLOCKS + maps * 4ull, (uint32_t)block, err);
    return rc == VMC_OK ? put32(dir, D6_MAPS, maps + 1, err) : rc;
}

/* A free slot in a block of a type, taken. */
static int take_slot(struct fs_inode *dir, uint32_t type, uint64_t *block, uint32_t *slot,
                     struct vmc_error *err)
{
    uint32_t maps, slots = type == BT_ENTRY ? SLOTS : GROUPS, i = 0;
    uint8_t b[D6_BLOCK_HEADER];
    int rc = get32(dir, D6_MAPS, &maps, err);

    if (rc == VMC_OK && (maps == 0 || maps > MAPS_MAX))
        rc = vmci_error(err, VMC_EFORMAT, site, "directory 0x%08x has %u allocation maps",
                        dir->addr, maps);
    if (rc == VMC_OK)
        rc = find_block(dir, maps, type, block, err);
    if (rc != VMC_OK)
        return rc;
    if (*block != UINT64_MAX) {
        rc = vmci_fs_file_meta(dir, block_off(*block), b, sizeof(b), false, err);
        if (rc == VMC_OK &&
            (vmci_ld_le16(b + D6_B_TYPE) != type || vmci_ld_le16(b + D6_B_SLOTS) != slots ||
             vmci_ld_le16(b + D6_B_FREE) == 0))
            rc = vmci_error(err, VMC_EFORMAT, site,
                            "directory 0x%08x block %llu is not as its allocation map says",
                            dir->addr, (unsigned long long)*block);
    } else {
        rc = find_block(dir, maps, BT_NONE, block, err);
        if (rc == VMC_OK && *block == UINT64_MAX) {
            rc = new_map(dir, maps, err);
            *block = (uint64_t)maps * PER_MAP + 1;
        }
        if (rc == VMC_OK)
            rc = reach(dir, *block, err);
        block_header(b, type, slots);
    }
    if (rc != VMC_OK)
        return rc;
    while (i < slots && !(b[D6_B_BITMAP + i / 8] >> (i % 8) & 1))
        i++;
    if (i == slots)
        return vmci_error(err, VMC_EFORMAT, site, "directory 0x%08x block %llu: no free slot",
                          dir->addr, (unsigned long long)*block);
    uint32_t left = vmci_ld_le16(b + D6_B_FREE) - 1u;
    b[D6_B_BITMAP + i / 8] &= (uint8_t) ~(1u << i % 8);
    vmci_st_le16(b + D6_B_FREE, (uint16_t)left);
    rc = vmci_fs_file_meta(dir, block_off(*block), b, sizeof(b), true, err);
    *slot = i;
    return rc == VMC_OK ? put_nibble(dir, *block, left > 0 ? type | NIBBLE_ROOM : type, err) : rc;
}

static int give_slot(struct fs_inode *dir, uint32_t type, uint64_t block, uint32_t slot,
                     struct vmc_error *err)
{
    uint8_t b[D6_BLOCK_HEADER];
    int rc = vmci_fs_file_meta(dir, block_off(block), b, sizeof(b), false, err);

    if (rc != VMC_OK)
        return rc;
    if (vmci_ld_le16(b + D6_B_TYPE) != type || slot >= vmci_ld_le16(b + D6_B_SLOTS) ||
        slot >= 8 * (D6_BLOCK_HEADER - D6_B_BITMAP) ||
        (b[D6_B_BITMAP + slot / 8] >> (slot % 8) & 1))
        return vmci_error(err, VMC_EFORMAT, site,
                          "directory 0x%08x block %llu slot %u is not in use", dir->addr,
                          (unsigned long long)block, slot);
    b[D6_B_BITMAP + slot / 8] |= (uint8_t)(1u << slot % 8);
    vmci_st_le16(b + D6_B_FREE, (uint16_t)(vmci_ld_le16(b + D6_B_FREE) + 1));
    rc = vmci_fs_file_meta(dir, block_off(block), b, sizeof(b), true, err);
    return rc == VMC_OK ? put_nibble(dir, block, type | NIBBLE_ROOM, err) : rc;
}

/* ---- the hash table
 * -------------------------------------------------------------------------------- */

static uint64_t table_off(const struct fs_inode *dir, uint64_t hash)
{
    return D6_HASH + hash % (dir->addr == FD_ADDR_ROOT ? D6_ROOT_SLOTS : D6_HASH_SLOTS) * 4;
}

static uint32_t index_of(uint64_t table)
{
    return (uint32_t)((table - D6_HASH) / 4);
}

static int group_read(struct fs_inode *dir, uint32_t loc, uint32_t index, uint8_t *g,
                      struct vmc_error *err)
{
    int rc = VMC_EFORMAT;

    if ((loc & 3) == BT_LINK && loc >> 24 < GROUPS &&
        group_off(loc) + D6_GROUP <= vmci_fs_md64(dir, FD_LENGTH))
        rc = vmci_fs_file_meta(dir, group_off(loc), g, D6_GROUP, false, err);
    if (rc == VMC_OK && (vmci_ld_le16(g + D6_G_INDEX) != index || g[D6_G_TOTAL] != D6_G_LINKS ||
                         g[D6_G_FREE] > D6_G_LINKS))
        rc = VMC_EFORMAT;
    return rc == VMC_EFORMAT
               ? vmci_error(err, rc, site, "directory 0x%08x: link group 0x%x of slot %u is broken",
                            dir->addr, loc, index)
               : rc;
}

static void group_add(uint8_t *g, uint32_t loc, uint32_t hash)
{
    uint32_t used = D6_G_LINKS - g[D6_G_FREE];

    vmci_st_le32(g + D6_G_LINK + used * D6_G_LINK_LEN, loc);
    vmci_st_le16(g + D6_G_LINK + used * D6_G_LINK_LEN + 4, (uint16_t)hash);
    g[D6_G_FREE]--;
    g[D6_G_NEXT_FREE] = (uint8_t)(used + 1);
}

/* hash: what tells names of one slot apart, 16 bits. */
static int hash_add(struct fs_inode *dir, uint64_t table, uint32_t hash, uint32_t loc,
                    struct vmc_error *err)
{
    uint32_t head, slot = 0, old;
    uint64_t block = 0;
    uint8_t g[D6_GROUP];
    int rc = get32(dir, table, &head, err);

    if (rc == VMC_OK && head == 0)
        return put32(dir, table, loc, err);
    if (rc == VMC_OK && (head & 3) == BT_LINK) {
        rc = group_read(dir, head, index_of(table), g, err);
        if (rc == VMC_OK && g[D6_G_FREE] > 0) {
            group_add(g, loc, hash);
            return vmci_fs_file_meta(dir, group_off(head), g, D6_GROUP, true, err);
        }
    }
    if (rc == VMC_OK)
        rc = take_slot(dir, BT_LINK, &block, &slot, err);
    if (rc != VMC_OK)
        return rc;
    memset(g, 0, sizeof(g));
    vmci_st_le16(g + D6_G_INDEX, (uint16_t)index_of(table));
    g[D6_G_TOTAL] = g[D6_G_FREE] = D6_G_LINKS;
    if ((head & 3) == BT_LINK) {
        vmci_st_le32(g + D6_G_NEXT, head);
    } else {
        /* The name that had the slot to itself comes along. */
        uint64_t pos = 2 + (uint64_t)(head >> 2 & 0x3FFFFF) * SLOTS + (head >> 24);
        rc = get32(dir, entry_off(pos) + D6_E_HASH, &old, err);
        group_add(g, head, old >> 16);
    }
    group_add(g, loc, hash);
    uint32_t at = location(BT_LINK, block, slot);
    if (rc == VMC_OK)
        rc = vmci_fs_file_meta(dir, group_off(at), g, D6_GROUP, true, err);
    return rc == VMC_OK ? put32(dir, table, at, err) : rc;
}

/* Take link i out of a group, whose place is loc and whose predecessor's pointer is at prev. */
static int link_remove(struct fs_inode *dir, uint32_t loc, uint8_t *g, uint32_t i, uint64_t prev,
                       struct vmc_error *err)
{
    uint32_t last = D6_G_LINKS - g[D6_G_FREE] - 1u;

    memmove(g + D6_G_LINK + i * D6_G_LINK_LEN, g + D6_G_LINK + last * D6_G_LINK_LEN, D6_G_LINK_LEN);
    memset(g + D6_G_LINK + last * D6_G_LINK_LEN, 0, D6_G_LINK_LEN);
    g[D6_G_FREE]++;
    g[D6_G_NEXT_FREE] = (uint8_t)last;
    int rc = vmci_fs_file_meta(dir, group_off(loc), g, D6_GROUP, true, err);
    if (rc != VMC_OK || last > 0)
        return rc;
    rc = put32(dir, prev, vmci_ld_le32(g + D6_G_NEXT), err);
    return rc == VMC_OK ? give_slot(dir, BT_LINK, loc >> 2 & 0x3FFFFF, loc >> 24, err) : rc;
}

static int hash_remove(struct fs_inode *dir, uint64_t table, uint32_t loc, struct vmc_error *err)
{
    uint64_t prev = table, most = vmci_fs_md64(dir, FD_LENGTH) / D6_GROUP;
    uint32_t at;
    uint8_t g[D6_GROUP];
    int rc = get32(dir, table, &at, err);

    if (rc == VMC_OK && at == loc)
        return put32(dir, table, 0, err);
    for (uint64_t n = 0; rc == VMC_OK && at != 0 && n < most; n++) {
        rc = group_read(dir, at, index_of(table), g, err);
        for (uint32_t i = 0; rc == VMC_OK && i < D6_G_LINKS - (uint32_t)g[D6_G_FREE]; i++)
            if (vmci_ld_le32(g + D6_G_LINK + i * D6_G_LINK_LEN) == loc)
                return link_remove(dir, at, g, i, prev, err);
        prev = group_off(at) + D6_G_NEXT;
        at = vmci_ld_le32(g + D6_G_NEXT);
    }
    if (rc == VMC_OK || (dir->v->flags & VMC_VMFS_REPAIR))
        return dir->v->flags & VMC_VMFS_REPAIR
                   ? VMC_OK
                   : vmci_error(err, VMC_EFORMAT, site,
                                "directory 0x%08x: its hash table does not have 0x%x", dir->addr,
                                loc);
    return rc;
}

bool vmci_fs_dir6_hashed(struct fs_inode *dir, const struct fs_entry *e)
{
    uint64_t table = table_off(dir, vmci_fs_dir6_hash(e->name, vmci_strlen(e->name)));
    uint64_t most = vmci_fs_md64(dir, FD_LENGTH) / D6_GROUP, block = (e->pos - 2) / SLOTS;
    uint32_t at, loc = location(BT_ENTRY, block, (uint32_t)((e->pos - 2) % SLOTS));
    uint8_t g[D6_GROUP];

    if (e->type == VMC_VMFS_SYSTEM && dir->addr == FD_ADDR_ROOT)
        return true; /* in slots of their own */
    if (get32(dir, table, &at, NULL) != VMC_OK || at == loc)
        return at == loc;
    for (uint64_t n = 0; at != 0 && n < most; n++) {
        if (group_read(dir, at, index_of(table), g, NULL) != VMC_OK)
            return false;
        for (uint32_t i = 0; i < D6_G_LINKS - (uint32_t)g[D6_G_FREE]; i++)
            if (vmci_ld_le32(g + D6_G_LINK + i * D6_G_LINK_LEN) == loc)
                return true;
        at = vmci_ld_le32(g + D6_G_NEXT);
    }
    return false;
}

int vmci_fs_dir6_rehash(struct fs_inode *dir, const struct fs_entry *e, struct vmc_error *err)
{
    uint64_t hash = vmci_fs_dir6_hash(e->name, vmci_strlen(e->name));
    uint32_t head, loc = location(BT_ENTRY, (e->pos - 2) / SLOTS, (uint32_t)((e->pos - 2) % SLOTS));
    uint8_t g[D6_GROUP];
    uint64_t table = table_off(dir, hash);
    int rc = get32(dir, table, &head, err);

    /* A slot that leads to nowhere is emptied first; its other names follow when they are looked
     * at. */
    if (rc == VMC_OK && head != 0 && (head & 3) != BT_ENTRY &&
        group_read(dir, head, index_of(table), g, NULL) != VMC_OK)
        rc = put32(dir, table, 0, err);
    else if (rc == VMC_OK && (head & 3) == BT_ENTRY &&
             block_off((head >> 2 & 0x3FFFFF) + 1ull) > vmci_fs_md64(dir, FD_LENGTH))
        rc = put32(dir, table, 0, err);
    if (rc == VMC_OK)
        rc = put32(dir, entry_off(e->pos) + D6_E_HASH, (uint32_t)hash, err);
    return rc == VMC_OK ? hash_add(dir, table, (uint32_t)hash >> 16, loc, err) : rc;
}

/* ---- names
 * ----------------------------------------------------------------------------------------- */

static void entry(uint8_t *b, uint64_t off, const struct fs_inode *ino, const char *name,
                  size_t len, uint32_t hash)
{
    memset(b, 0, D6_ENTRY);
    vmci_st_le32(b, vmci_fs_md32(ino, FD_TYPE));
    vmci_st_le32(b + D6_E_FD, ino->addr);
    vmci_st_le32(b + D6_E_GEN, vmci_fs_md32(ino, FD_GENERATION));
    vmci_st_le32(b + D6_E_HASH, hash);
    vmci_st_le64(b + D6_E_OFFSET, off);
    memcpy(b + D6_E_NAME, name, len);
}

static int count(struct fs_inode *dir, int32_t n, struct vmc_error *err)
{
    uint8_t b[8];
    int rc = vmci_fs_file_meta(dir, D6_ENTRIES, b, sizeof(b), false, err);

    if (rc != VMC_OK)
        return rc;
    vmci_st_le32(b, vmci_ld_le32(b) + (uint32_t)n);
    vmci_st_le32(b + 4, vmci_ld_le32(b + 4) + (uint32_t)n);
    return vmci_fs_file_meta(dir, D6_ENTRIES, b, sizeof(b), true, err);
}

int vmci_fs_dir6_add(struct fs_inode *dir, const char *name, size_t len, const struct fs_inode *ino,
                     uint64_t *pos, struct vmc_error *err)
{
    uint64_t hash = vmci_fs_dir6_hash(name, len), block = 0;
    uint32_t slot = 0;
    uint8_t b[D6_ENTRY];
    int rc = take_slot(dir, BT_ENTRY, &block, &slot, err);

    if (rc != VMC_OK)
        return rc;
    *pos = 2 + block * SLOTS + slot;
    entry(b, entry_off(*pos), ino, name, len, (uint32_t)hash);
    rc = vmci_fs_file_meta(dir, entry_off(*pos), b, sizeof(b), true, err);
    if (rc == VMC_OK)
        rc = hash_add(dir, table_off(dir, hash), (uint32_t)hash >> 16,
                      location(BT_ENTRY, block, slot), err);
    if (rc == VMC_OK)
        rc = count(dir, 1, err);
    return rc == VMC_OK ? vmci_fs_dir_set_length(dir, vmci_fs_md64(dir, FD_LENGTH), err) : rc;
}

int vmci_fs_dir6_remove(struct fs_inode *dir, const struct fs_entry *e, struct vmc_error *err)
{
    uint64_t hash = vmci_fs_dir6_hash(e->name, vmci_strlen(e->name)), block = (e->pos - 2) / SLOTS;
    uint32_t slot = (uint32_t)((e->pos - 2) % SLOTS);

    if (e->pos < 2)
        return vmci_error(err, VMC_EINVAL, site, "\"%s\" stays", e->name);
    int rc = hash_remove(dir, table_off(dir, hash), location(BT_ENTRY, block, slot), err);
    if (rc == VMC_OK)
        rc = vmci_fs_dir6_set(dir, e->pos, 0, 0, 0, err);
    if (rc == VMC_OK)
        rc = give_slot(dir, BT_ENTRY, block, slot, err);
    if (rc == VMC_OK)
        rc = count(dir, -1, err);
    return rc == VMC_OK ? vmci_fs_dir_set_length(dir, vmci_fs_md64(dir, FD_LENGTH), err) : rc;
}

int vmci_fs_dir6_set(struct fs_inode *dir, uint64_t pos, uint32_t type, uint32_t fd, uint32_t gen,
                     struct vmc_error *err)
{
    uint8_t b[12];

    vmci_st_le32(b, type);
    vmci_st_le32(b + D6_E_FD, fd);
    vmci_st_le32(b + D6_E_GEN, gen);
    return vmci_fs_file_meta(dir, entry_off(pos), b, sizeof(b), true, err);
}

int vmci_fs_dir6_init(struct fs_inode *dir, const struct fs_inode *parent, struct vmc_error *err)
{
    uint8_t b[D6_ENTRY];
    int rc = reach(dir, 0, err);

    if (rc == VMC_OK)
        rc = put32(dir, 0, D6_VERSION, err);
    if (rc == VMC_OK)
        rc = count(dir, 2, err);
    if (rc == VMC_OK)
        rc = new_map(dir, 0, err);
    entry(b, D6_DOT, dir, ".", 1, 0);
    if (rc == VMC_OK)
        rc = vmci_fs_file_meta(dir, D6_DOT, b, sizeof(b), true, err);
    entry(b, D6_DOTDOT, parent, "..", 2, 0);
    return rc == VMC_OK ? vmci_fs_file_meta(dir, D6_DOTDOT, b, sizeof(b), true, err) : rc;
}
