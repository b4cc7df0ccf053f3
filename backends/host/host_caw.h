/* SPDX-License-Identifier: BSD-2-Clause */
/* How a file or device compares and writes atomically, for all who can reach it. */
#ifndef HOST_CAW_H
#define HOST_CAW_H

#include <scsi/sg.h>
#include <stdbool.h>
#include <stdint.h>

enum vmci_caw_kind {
    VMCI_CAW_NONE,
    VMCI_CAW_LOCK, /* only programs of this kernel can reach it: a lock on the bytes is enough */
    VMCI_CAW_SCSI, /* the device does it: computers that share it exclude each other */
};

struct vmci_caw {
    enum vmci_caw_kind kind;
    int fd;
    bool no_abort; /* it hangs itself up by PREEMPT AND ABORT (vmci_reserve_offered) */
    bool whole; /* a disk, not a part of one or something that is mapped to some */
    uint64_t first; /* 512-byte block of the disk where the device (a partition) begins */
    /* SG_IO; of tests: something else */
    int (*sg)(void *ctx, struct sg_io_hdr *h);
    void *ctx;
};

/* fd is open for reading and writing. On a device of several computers that cannot: VMCI_CAW_NONE. */
void vmci_caw_find(struct vmci_caw *c, int fd);
/* Does the disk say that it has the command? */
bool vmci_caw_scsi_offered(struct vmci_caw *c);
/* Is a sector of the device, as it was read, where the commands would go? */
bool vmci_caw_scsi_there(struct vmci_caw *c, uint64_t off, const void *sector);
/*
 * A SCSI command, sent again while it was not begun. VMC_OK; above 0: the sense key; VMC_EPERM: the
 * disk is reserved by others, or this process may not send it; other VMC_E*.
 */
int vmci_scsi_command(struct vmci_caw *c, uint8_t *cdb, uint8_t cdb_bytes, int direction, void *data,
                      uint32_t bytes);
/* VMC_EAGAIN: the sector is not expect. */
int vmci_caw_scsi(struct vmci_caw *c, uint64_t off, const void *expect, const void *data);
/* By the way that was found. */
int vmci_caw(struct vmci_caw *c, uint64_t off, const void *expect, const void *data, size_t bytes);

#endif
