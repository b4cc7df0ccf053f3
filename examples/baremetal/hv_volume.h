/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files about VMFS volumes share. */
#ifndef HV_VOLUME_H
#define HV_VOLUME_H

#include "hv.h"

#include <vmcore/disk.h>
#include <vmcore/vmfs.h>

struct hv_volume {
    const char *name;    /* label, or UUID where there is none */
    struct vmc_vmfs *fs; /* NULL: not mounted */
    struct vmc_vmfs_info info;
    uint32_t disk[VMC_VMFS_MAX_EXTENTS]; /* numbers of the machine's */
    struct vmc_blockdev dev[VMC_VMFS_MAX_EXTENTS];
    uint32_t disks;
    struct vmc_vmfs_uuid lvm_uuid;
    struct vmc_bm_domain *domain;
    struct vmc_platform pf;
    struct vmc_bm_fiber *fiber;
    uint64_t wake_ns;        /* the fiber wants to go on then */
    volatile uint32_t woken; /* ... or now */
    bool idle;               /* it waits for something to do */
    uint64_t beat_ns;        /* when the next heartbeat is due */
    uint64_t lease_ns;       /* its disks take writes until then; 0: for ever */
    bool fenced;             /* said so */
    /* something that the hypervisor waits for */
    int (*call)(void *arg);
    void *call_arg;
    int call_rc;
    /* requests of guests that have to wait: the newest, backend[0] the one before it; any processor
     */
    struct vmc_block_req *volatile deferred;
    struct vmc_block_req *queue; /* taken from there, oldest first */
    uint64_t served;             /* by the fiber */
    char label[128];
};

/* NULL past the last; some are not mounted. */
struct hv_volume *hv_volume_number(uint32_t i);
/* "vmfs:VOLUME:/PATH": the volume and *path, or NULL after a message that begins with who. */
struct hv_volume *hv_volume_of(const char *who, const char *spec, const char **path);
/* Have the volume's fiber call fn, and wait for what it returns. On processor 0. */
int hv_volume_call(struct hv_volume *v, int (*fn)(void *arg), void *arg);
/* The fiber gives the request to below and calls its done. Any processor. */
void hv_volume_defer(struct hv_volume *v, struct vmc_block_req *r, struct vmc_blockdev *below);

#endif
