/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VMFS on disk: offsets, sizes, magic numbers. All integers are little-endian and packed; fields
 * are read and written through vmci_ld_le*() and vmci_st_le*() at these offsets. What is ours and
 * not VMware's (host records, journals) is described in docs/vmfs-format.md.
 */
#ifndef VMFS_FORMAT_H
#define VMFS_FORMAT_H

#include "base/base_int.h"

#define FS_SECTOR 512u
#define FS_MIB    0x100000ull

/* ---- volume manager, offsets from the start of the partition -------------------------------- */

#define LVM_META_OFF       0x100000ull
#define LVM_MAGIC          0xC001D00Du
#define LVM_DATA_START     0x1100000ull
#define LVM_PE_BYTES       0x10000000ull /* 256 MiB */
#define LVM_PES_PER_MAP    8192u
#define LVM_MAX_MAPS       8u
#define LVM_MAX_PES        0x40000u /* 64 TiB */
#define LVM_PE_MAX         0x100000000000ull /* VMFS6: 16 TiB */
#define LVM_PE_ENTRY       128u
#define LVM_NAMES_OFF      0x17E200ull
#define LVM6_NAMES_OFF     0x17F000ull
#define LVM_NAME_BYTES     256u
#define LVM_PE_BITMAP_OFF  0x180200ull
#define LVM6_PE_BITMAP_OFF 0x181000ull
#define LVM_PE_BITMAP      1024u

#define LVM_MAJOR      0x04
#define LVM_MINOR      0x08
#define LVM_DISKID     0x0C /* 78 bytes: SCSI identity */
#define LVM_DISK_BLOCK 0x5A
#define LVM_TOTAL      0x5E
#define LVM_NUM_VOLS   0x66
#define LVM_NUM_PES    0x6A
#define LVM_LAST_PE    0x6E
#define LVM_GENERATION 0x72
#define LVM_DATA       0x7A
#define LVM_DEV_UUID   0x82
#define LVM_INIT_US    0x92
#define LVM_MOD_US     0x9A
#define LVM_PE_MAPS    0xBE
#define LVM_MORE       0xC2 /* further table of physical extents */
#define LVM_MD_ALIGN   0xCA
#define LVM6_UNITS     0xCE

/* volume table entry */
#define LVT_BYTES      0x00
#define LVT_GENERATION 0x08
#define LVT_STATE      0x10
#define LVT_NAME       0x14
#define LVT_UUID       0x54
#define LVT_SNAP       0x64
#define LVT_CREATED_US 0x68
#define LVT_INDEX      0x70
#define LVT_NUM_PES    0x74
#define LVT_FIRST_PE   0x78
#define LVT_LAST_PE    0x80
#define LVT_MOD_US     0x88
#define LVT_NUM_DEVS   0x90
#define LVT_CONSUMED   0x110

/* physical extent table entry */
#define LVP_USED    0x00
#define LVP_ID      0x01
#define LVP_VOLUME  0x05
#define LVP_PHYS    0x09
#define LVP_LOGICAL 0x11
#define LVP_LENGTH  0x19
#define LVP_VERSION 0x21

/* further table of physical extents: maps follow where those of the first one do */
#define LVX_MAPS 0x04
#define LVX_MORE 0x10

/* ---- file system descriptor, offsets on the logical volume (LV) ----------------------------- */

#define FS_DESC_LV  0x200000ull
#define FS_HB_LV    0x300000ull
#define FS_LEASE_MS 16000u /* of sessions that do not say */
#define FS_MAGIC    0x2FABF15Eu
#define FS_MAGIC_L  0x2FABF15Fu /* local; the next two: VMFS6 as symbols of its makers name them */
#define FS_MAGIC_6  0x2FABF160u
#define FS_MAGIC_6L 0x2FABF161u

#define FSD_MAJOR         0x04
#define FSD_MINOR         0x08
#define FSD_UUID          0x09
#define FSD_CONFIG        0x19
#define FSD_LABEL         0x1D
#define FSD_LABEL_BYTES   128u
#define FSD_DISK_BLOCK    0x9D
#define FSD_BLOCK         0xA1
#define FSD_CREATED       0xA9
#define FSD_SNAP          0xAD
#define FSD_LVM_UUID      0xB1
#define FSD_LVM_SNAP      0xC1
#define FSD_FDC_OFF       0xD1
#define FSD_FDC_CPG       0xD5
#define FSD_SB            0xD9
#define FSD_JOURNAL_SLOTS 0xDD
#define FSD_PB2_LV        0xE1
#define FSD_PB2_FD        0xE9
#define FSD_HOST          0xED
#define FSD_GENERATION    0xFD
#define FSD_SDD_LV        0x105
#define FSD_SDD_FD        0x10D
#define FSD_UNMAP         0x112
#define FSD_PHYS_BLOCK    0x130
#define FSD_MD_ALIGN      0x134
#define FSD_LFB_SHIFT     0x138
#define FSD_PB_SHIFT      0x13E
#define FSD_SFB_BITS      0x140
#define FSD_TBZ_GRAN      0x144
#define FSD_JB_BYTES      0x148
#define FSD_LEASE_MS      0x14C
#define FSD_WINDOW_MS     0x150
#define FSD_CONFIG_PUBLIC 0x2u
#define FSD_CONFIG_DENSE  0x4u

#define FS_MAJOR_3 4u
#define FS_MAJOR_5 14u
#define FS_MAJOR_6 24u

/* ---- heartbeat slot -------------------------------------------------------------------------- */

#define HB_FREE       0xABCDEF01u
#define HB_USED       0xABCDEF02u
#define HB_STATE      0x00
#define HB_SELF       0x04
#define HB_GENERATION 0x0C
#define HB_STAMP      0x14
#define HB_OWNER      0x1C
#define HB_JOURNAL    0x2C
#define HB_MAJOR      0x30
#define HB_MINOR      0x34
#define HB_LOCK_IMPL  0x35
#define HB_NAME       0x36
#define HB_NAME_BYTES 46u
#define HB_JOURNAL_LV 0x64
#define HB_REPLAYER   0x6C
#define HB_REPLAY_HB  0x94
#define HB_REPLAY_GEN 0x9C
#define HB_KEY        0x1F8 /* ours: with which the devices know the session; 0: they do not */

/* ---- lock sector ----------------------------------------------------------------------------- */

#define LK_TYPE       0x00
#define LK_SELF       0x04
#define LK_HB         0x0C
#define LK_HB_GEN     0x14
#define LK_TOKEN      0x1C
#define LK_MODE       0x24
#define LK_OWNER      0x28
#define LK_STAMP      0x38
#define LK_HOLDERS    0x40
#define LK_HOLDER     0x44
#define LK_HOLDER_LEN 32u
#define LK_HOLDER_MAX 8u

#define LK_TYPE_BASE 0x10C00000u
enum fs_lock_type {
    LK_FD = LK_TYPE_BASE + 1,
    LK_FBB = LK_TYPE_BASE + 2, /* on VMFS6 the small-block clusters */
    LK_SBC = LK_TYPE_BASE + 3,
    LK_PBC = LK_TYPE_BASE + 4,
    LK_FDC = LK_TYPE_BASE + 5,
    LK_PB2 = LK_TYPE_BASE + 6,
    LK_JBC = LK_TYPE_BASE + 7,
    LK_LFB = LK_TYPE_BASE + 8,
};
enum fs_lock_mode { LK_MODE_FREE, LK_MODE_EXCL, LK_MODE_RO, LK_MODE_MULTI };

/* ---- resource files ------------------------------------------------------------------------- */

#define RF_RPC       0x00
#define RF_CPG       0x04
#define RF_GROUP_OFF 0x08
#define RF_RS        0x0C
#define RF_GS        0x10
#define RF_N         0x14
#define RF_GROUPS    0x18
#define RF_N_HIGH    0x1C
#define RF_HEADER    0x10000u /* the first group starts here */
/* VMFS6 */
#define RF6_MAGIC_OFF  0x20
#define RF6_MAGIC      0x72666D64u /* "dmfr" */
#define RF6_VERSION    0x24
#define RF6_FLAGS      0x28
#define RF6_AFF_CL     0x2C
#define RF6_AFF_RES    0x2E
#define RF6_BITS       0x30
#define RF6_CHILD_OFF  0x34
#define RF6_PARENT_RPC 0x38
#define RF6_PARENT_CPG 0x3C
#define RF6_PARENT_GS  0x40
#define RF6_CONVERTED  0x54

/* cluster header, after the lock sector */
#define CL_NUMBER    0x00
#define CL_TOTAL     0x04
#define CL_FREE      0x08
#define CL_NEXT      0x0C
#define CL_BITMAP    0x10
#define CL_BITMAP_MAX 512u
#define CL_FD_GEN    0x50
/* VMFS6 cluster metadata */
#define CL6_MAGIC_OFF 0x10
#define CL6_MAGIC     0x72636D64u /* "dmcr" */
#define CL6_NUMBER    0x18
#define CL6_TOTAL     0x20
#define CL6_FREE      0x22
#define CL6_AFFINITY  0x26
#define CL6_KIND      0x2A
#define CL6_ONE       0x30
#define CL6_FD_GEN    0x68
#define CL6_NEXT      0x7C
#define CL6_BITMAP    0x80

/* ---- addresses ------------------------------------------------------------------------------- */

enum fs_addr_type {
    AD_NONE = 0,
    AD_FB = 1,
    AD_SB = 2,
    AD_PB = 3,
    AD_FD = 4,
    AD_PB2 = 5,
    AD_JB = 6,
    AD_LFB = 7,
};
#define AD_TBZ 0x20u /* of a file block: allocated, reads as zeros */
#define AD_COW 0x10u /* of a file block */
#define AD6_TBZ 0x7F80ull /* VMFS6: one bit for each eighth of a block */

#define FD_ADDR_ROOT 0x00000004u
#define FD_ADDR_FBB  0x00400004u
#define FD_ADDR_FDC  0x00800004u
#define FD_ADDR_PBC  0x00C00004u
#define FD_ADDR_SBC  0x01000004u
#define FD_ADDR_VH   0x01400004u
#define FD_ADDR_PB2  0x01800004u
#define FD_ADDR_SDD  0x01C00004u
#define FD_ADDR_JBC  0x02000004u

/* ---- file descriptor metadata ----------------------------------------------------------------- */

#define FD_SELF       0x00
#define FD_GENERATION 0x04
#define FD_LINKS      0x08
#define FD_TYPE       0x0C
#define FD_FLAGS      0x10
#define FD_LENGTH     0x14
#define FD_BLOCK      0x1C
#define FD_BLOCKS     0x24
#define FD_MTIME      0x2C
#define FD_CTIME      0x30
#define FD_ATIME      0x34
#define FD_UID        0x38
#define FD_GID        0x3C
#define FD_MODE       0x40
#define FD_ZLA        0x44
#define FD_TBZ        0x48
#define FD_COW        0x4C
#define FD_NEW_BLOCKS 0x50
#define FD_PBS        0x5C
#define FD_SIGNATURE  0x64
#define FD_SIG6       0x66646D64u /* "dmdf" */
#define FD_AFFINITY   0x68
#define FD_TBZ_SHIFT  0x6C
#define FD_PARENT     0x70
#define FD_LOG2       0x89
#define FD_LFBS       0x8C /* VMFS6: large blocks */

enum fs_zla {
    ZLA_FB = 1,
    ZLA_SB = 2,
    ZLA_PB = 3,
    ZLA_PB2 = 5,
    ZLA_DOUBLE = 4304,
    ZLA_RESIDENT = 4305,
};

/* ---- directories ------------------------------------------------------------------------------ */

#define DE_BYTES   140u /* VMFS3, VMFS5 */
#define DE_TYPE    0x00
#define DE_FD      0x04
#define DE_GEN     0x08
#define DE_NAME    0x0C
#define DE_NAME_BYTES 128u

#define D6_HEADER   0x10000u /* VMFS6 */
#define D6_VERSION  0x00F50001u
#define D6_VERSION_DEBUG 0x00FDC001u
#define D6_ENTRIES  0x004
#define D6_ALLOCATED 0x008
#define D6_MAPS     0x00C
#define D6_MAP_BLOCKS 0x010
#define D6_DOT      0x3B8
#define D6_DOTDOT   0x4D8
#define D6_HASH     0x5F8
#define D6_HASH_SLOTS 16001u
#define D6_ROOT_SLOTS 15973u
#define D6_SYSTEM_SLOT 0x3E66u
#define D6_ENTRY    0x120u
#define D6_E_FD     0x04
#define D6_E_GEN    0x08
#define D6_E_HASH   0x0C
#define D6_E_OFFSET 0x10
#define D6_E_NAME   0x18
#define D6_BLOCK_HEADER 64u
/* header of a block */
#define D6_B_VERSION 0x00
#define D6_B_TYPE    0x02
#define D6_B_SLOTS   0x04
#define D6_B_FREE    0x06
#define D6_B_BITMAP  0x08
/* group of links: names that share a slot of the hash table */
#define D6_GROUP       0x54u
#define D6_G_INDEX     0x00
#define D6_G_TOTAL     0x02
#define D6_G_FREE      0x03
#define D6_G_NEXT_FREE 0x04
#define D6_G_LINK      0x06
#define D6_G_LINK_LEN  6u
#define D6_G_LINKS     12u
#define D6_G_NEXT      0x4E

/* ---- what says that the allocation maps of a VMFS6 volume are ours (docs/vmfs-format.md) ------- */

#define FS6_MARK_LV    0x1FF000ull
#define FS6_MARK       0x3650414d36434d56ull /* "VMC6MAP6" */
#define FS6_MARK_SUM   0x10
#define MAP6_FREE      1u /* a small block in the 2-bit map, a large one in the 3-bit map */
#define MAP6_USED      0u
#define MAP6_CONVERTED 4u /* a large block that is divided into small ones */

/* ---- identity of a SCSI device: in the LVM header, and in raw device mappings ------------------ */

#define SCSI_ID_LENGTH 0x01 /* u8: of the name */
#define SCSI_ID_VENDOR 0x06 /* vendor 8, model 16, revision 4 */
#define SCSI_ID_NAME   0x22
#define SCSI_ID_BYTES  78u

#endif
