/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compare-and-write. A file of this computer is locked for a moment. Locks mean nothing to another
 * computer with the same disk (iSCSI, Fibre Channel, a shared virtual disk): there the disk has to
 * do it, by the SCSI command COMPARE AND WRITE (SBC-3, 5.2), or nobody does.
 */
#define _GNU_SOURCE
#include "host_caw.h"

#include "host_priv.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/major.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define SECTOR        512u
#define INQUIRY       0x12
#define BLOCK_LIMITS  0xb0
#define COMPARE_WRITE 0x89
#define READ_16       0x88
#define TIMEOUT_MS    8000u
#define TRIES         8u
#define NAP_NS        5000000l /* doubled with each try: 0.6 s together */

/* Sense keys (SPC-4, 4.5.6), and one of ours for a disk that has no time */
#define NOT_READY      0x2
#define UNIT_ATTENTION 0x6
#define ABORTED        0xb
#define MISCOMPARE     0xe
#define BUSY           0x10

/* Status (SAM-5, 5.3) */
#define CHECK_CONDITION      0x02
#define STATUS_BUSY          0x08
#define RESERVATION_CONFLICT 0x18
#define TASK_SET_FULL        0x28

static int sg_io(void *ctx, struct sg_io_hdr *h)
{
    const struct vmci_caw *c = ctx;

    return ioctl(c->fd, SG_IO, h) == 0 ? 0 : -errno;
}

/* 0, the sense key of what the disk refused, BUSY, or VMC_E*. */
static int command_once(struct vmci_caw *c, uint8_t *cdb, uint8_t cdb_bytes, int direction,
                        void *data, uint32_t bytes)
{
    uint8_t sense[64] = {0};
    struct sg_io_hdr h = {.interface_id = 'S',
                          .dxfer_direction = direction,
                          .cmd_len = cdb_bytes,
                          .mx_sb_len = sizeof(sense),
                          .dxfer_len = bytes,
                          .dxferp = data,
                          .cmdp = cdb,
                          .sbp = sense,
                          .timeout = TIMEOUT_MS};
    int rc = c->sg(c->ctx, &h);

    if (rc != 0)
        return vmci_host_status(-rc);
    if ((h.info & SG_INFO_OK_MASK) == SG_INFO_OK)
        return 0;
    if (h.status == RESERVATION_CONFLICT)
        return VMC_EPERM;
    if (h.status == STATUS_BUSY || h.status == TASK_SET_FULL)
        return BUSY;
    if (h.status != CHECK_CONDITION || h.sb_len_wr < 3)
        return VMC_EIO;
    /* Fixed format, or descriptors. */
    int key = (sense[0] & 0x7e) == 0x70 ? sense[2] & 0xf : sense[1] & 0xf;
    return key != 0 ? key : VMC_EIO;
}

/*
 * Again as long as nothing was begun ("unit attention" tells what happened before, and comes once
 * for each event; a path of a storage array that changes sides is not ready), or what was begun
 * was ended. A disk that had carried it out before it ended it answers MISCOMPARE the second time.
 */
int vmci_scsi_command(struct vmci_caw *c, uint8_t *cdb, uint8_t cdb_bytes, int direction,
                      void *data, uint32_t bytes)
{
    struct timespec nap = {.tv_nsec = NAP_NS};
    int rc = UNIT_ATTENTION;

    for (unsigned i = 0; i < TRIES; i++) {
        rc = command_once(c, cdb, cdb_bytes, direction, data, bytes);
        if (rc != UNIT_ATTENTION && rc != BUSY && rc != NOT_READY && rc != ABORTED)
            break;
        if (rc != UNIT_ATTENTION && i + 1 < TRIES) {
            nanosleep(&nap, NULL);
            nap.tv_nsec *= 2;
        }
    }
    return rc;
}

bool vmci_caw_scsi_offered(struct vmci_caw *c)
{
    uint8_t cdb[6] = {INQUIRY, 1, BLOCK_LIMITS, 0, 64, 0}, page[64];

    memset(page, 0, sizeof(page));
    int rc = vmci_scsi_command(c, cdb, sizeof(cdb), SG_DXFER_FROM_DEV, page, sizeof(page));
    /* Byte 5: blocks that one command compares; 0: there is no such command. */
    return rc == 0 && (page[0] & 0x1f) == 0 && page[1] == BLOCK_LIMITS &&
           (page[2] << 8 | page[3]) >= 2 && page[5] != 0;
}

bool vmci_caw_scsi_there(struct vmci_caw *c, uint64_t off, const void *sector)
{
    _Alignas(4096) uint8_t now[SECTOR];
    uint8_t cdb[16] = {READ_16};
    uint64_t lba = htobe64(c->first + off / SECTOR);

    memcpy(cdb + 2, &lba, sizeof(lba));
    cdb[13] = 1; /* the last byte of the length */
    int rc = vmci_scsi_command(c, cdb, sizeof(cdb), SG_DXFER_FROM_DEV, now, sizeof(now));
    return rc == 0 && memcmp(now, sector, SECTOR) == 0;
}

int vmci_caw_scsi(struct vmci_caw *c, uint64_t off, const void *expect, const void *data)
{
    _Alignas(4096) uint8_t both[2 * SECTOR];
    uint8_t cdb[16] = {COMPARE_WRITE};
    uint64_t lba = htobe64(c->first + off / SECTOR);

    memcpy(both, expect, SECTOR);
    memcpy(both + SECTOR, data, SECTOR);
    memcpy(cdb + 2, &lba, sizeof(lba));
    cdb[13] = 1;
    int rc = vmci_scsi_command(c, cdb, sizeof(cdb), SG_DXFER_TO_DEV, both, sizeof(both));
    return rc == MISCOMPARE ? VMC_EAGAIN : rc > 0 ? VMC_EIO : rc;
}

/* A number from a file of a device's folder in sysfs. */
static bool sysfs_number(dev_t dev, const char *name, uint64_t *out)
{
    char path[96], text[32] = "";
    int n;

    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(dev), minor(dev), name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    n = (int)read(fd, text, sizeof(text) - 1);
    close(fd);
    return n > 0 && sscanf(text, "%lu", out) == 1;
}

static bool sysfs_has(dev_t dev, const char *name)
{
    char path[96];

    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(dev), minor(dev), name);
    return access(path, F_OK) == 0;
}

/* A command names blocks of the disk: those of a partition are what was thought, or there is no
 * command. */
static bool is_there(struct vmci_caw *c)
{
    static const uint64_t stable[] = {0, 0x100000}; /* a boot sector; the volume manager's header */
    _Alignas(4096) uint8_t sector[SECTOR];

    for (unsigned i = 0; i < sizeof(stable) / sizeof(stable[0]); i++)
        if (pread(c->fd, sector, SECTOR, (off_t)stable[i]) != SECTOR ||
            !vmci_caw_scsi_there(c, stable[i], sector))
            return false;
    return true;
}

void vmci_caw_find(struct vmci_caw *c, int fd)
{
    struct stat st;
    int logical = 0;

    *c = (struct vmci_caw){.fd = fd, .sg = sg_io, .ctx = c};
    if (fstat(fd, &st) != 0)
        return;
    if (!S_ISBLK(st.st_mode) || major(st.st_rdev) == LOOP_MAJOR ||
        major(st.st_rdev) == RAMDISK_MAJOR) {
        c->kind = VMCI_CAW_LOCK;
        return;
    }
    c->whole = sysfs_has(st.st_rdev, "size") && !sysfs_has(st.st_rdev, "dm") &&
               !sysfs_has(st.st_rdev, "partition");
    /* A mapped device would take the command to some place of one of its disks. */
    if (!sysfs_has(st.st_rdev, "size") || sysfs_has(st.st_rdev, "dm") ||
        ioctl(fd, BLKSSZGET, &logical) != 0 || logical != (int)SECTOR ||
        (sysfs_has(st.st_rdev, "partition") && !sysfs_number(st.st_rdev, "start", &c->first)))
        return;
    if (vmci_caw_scsi_offered(c) && is_there(c))
        c->kind = VMCI_CAW_SCSI;
}

static int lock_range(int fd, short type, uint64_t off, size_t bytes)
{
    struct flock fl = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)off, .l_len = (off_t)bytes};
    int rc;

    do
        rc = fcntl(fd, F_OFD_SETLKW, &fl);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? VMC_OK : vmci_host_status(errno);
}

static int with_lock(int fd, uint64_t off, const void *expect, const void *data, size_t bytes)
{
    /* Aligned as O_DIRECT wants it. */
    _Alignas(4096) char now[4096];

    if (bytes > sizeof(now))
        return VMC_EINVAL;
    int rc = lock_range(fd, F_WRLCK, off, bytes);
    if (rc != VMC_OK)
        return rc;
    if (pread(fd, now, bytes, (off_t)off) != (ssize_t)bytes) {
        rc = VMC_EIO;
    } else if (memcmp(now, expect, bytes) != 0) {
        rc = VMC_EAGAIN;
    } else {
        memcpy(now, data, bytes);
        if (pwrite(fd, now, bytes, (off_t)off) != (ssize_t)bytes)
            rc = VMC_EIO;
    }
    int rc2 = lock_range(fd, F_UNLCK, off, bytes);
    return rc != VMC_OK ? rc : rc2;
}

int vmci_caw(struct vmci_caw *c, uint64_t off, const void *expect, const void *data, size_t bytes)
{
    switch (c->kind) {
    case VMCI_CAW_LOCK:
        return with_lock(c->fd, off, expect, data, bytes);
    case VMCI_CAW_SCSI:
        return bytes == SECTOR && off % SECTOR == 0 ? vmci_caw_scsi(c, off, expect, data)
                                                    : VMC_EINVAL;
    default:
        return VMC_ENOTSUP;
    }
}
