/* SPDX-License-Identifier: BSD-2-Clause */
/* The disk object, and what its two ways of doing I/O share. */
#ifndef HOST_BLOCK_PRIV_H
#define HOST_BLOCK_PRIV_H

#include <vmcore/host_block.h>

#include <stdatomic.h>

#include "host_caw.h"
#include "host_priv.h"

struct vmci_host_engine {
    const char *name;
    /* Make d->engine_data; VMC_ENOTSUP when the host does not have it. */
    int (*open)(struct vmc_host_disk *d, struct vmc_error *err);
    /* Finish what is under way, then free. */
    void (*close)(struct vmc_host_disk *d);
    /* VMC_BLOCK_PENDING, or VMC_BLOCK_COMPLETE with r->status set. */
    int (*submit)(struct vmc_host_disk *d, struct vmc_block_req *r);
    void (*kick)(struct vmc_host_disk *d);
    /* Memory of fixed buffers; NULL: not offered. */
    int (*register_memory)(struct vmc_host_disk *d, void *base, size_t bytes);
    /* Complete what is done; NULL: the engine does it by itself. */
    void (*poll)(struct vmc_host_disk *d);
};

extern const struct vmci_host_engine vmci_host_engine_uring;
extern const struct vmci_host_engine vmci_host_engine_threads;

/* Which call writes zeroes here; the first that works is remembered. */
enum zero_mode { ZERO_RANGE, ZERO_PUNCH, ZERO_WRITE };

struct vmc_host_disk {
    struct vmc_host_disk_config cfg;
    int fd;
    bool is_device;
    uint32_t sector_bytes;
    uint32_t mem_align; /* of buffers, with O_DIRECT; else 1 */
    bool can_discard;
    struct vmci_caw caw; /* if it is shared */
    atomic_int zero_mode; /* enum zero_mode */
    const struct vmci_host_engine *engine;
    void *engine_data;
};

/* Carry out a request on this thread, or what is left of a transfer after done bytes. */
int vmci_host_disk_sync(struct vmc_host_disk *d, const struct vmc_block_req *r, uint64_t done);
/* May the kernel transfer this request directly (O_DIRECT alignment)? */
bool vmci_host_disk_aligned(const struct vmc_host_disk *d, const struct vmc_block_req *r);
/* The fallocate mode for a discard or write zeroes; false: there is none, use sync. */
bool vmci_host_disk_fallocate_mode(struct vmc_host_disk *d, uint32_t op, int *mode);

#endif
