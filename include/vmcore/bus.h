/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Port and memory-mapped I/O buses: who answers at which address.
 */
#ifndef VMCORE_BUS_H
#define VMCORE_BUS_H

#include <vmcore/platform.h>

VMC_BEGIN_DECLS

struct vmc_bus;

#define VMC_BUS_MAX_RANGES 512

/**
 * Register handlers. offset is relative to the start of the range; bytes is 1, 2, 4 or 8. A bus
 * calls them with no lock of its own held; vCPUs call concurrently. They never fail: an access
 * that the device does not decode reads all ones and ignores writes.
 */
struct vmc_bus_ops {
    uint64_t (*read)(void *dev, uint64_t offset, unsigned bytes);
    void (*write)(void *dev, uint64_t offset, unsigned bytes, uint64_t value);
};

/**
 * A bus whose addresses are below limit. name is a static string for logs. Memory for
 * VMC_BUS_MAX_RANGES ranges is allocated here and never again. VMC_ENOMEM, VMC_EINVAL.
 */
VMC_API VMC_MUST_CHECK int vmc_bus_create(const struct vmc_platform *pf, const char *name,
                                          uint64_t limit, struct vmc_bus **out);
/** Free the bus; no handler runs any more, and no range need be detached. NULL is allowed. */
VMC_API void vmc_bus_destroy(struct vmc_bus *bus);

/** Give [base, base+bytes) to a device. Any thread. VMC_EEXIST overlap, VMC_ERANGE, VMC_ELIMIT. */
VMC_API VMC_MUST_CHECK int vmc_bus_attach(struct vmc_bus *bus, uint64_t base, uint64_t bytes,
                                          const struct vmc_bus_ops *ops, void *dev,
                                          struct vmc_error *err);
/**
 * Take the range that starts at base back. Any thread. On return no handler of it is running, so
 * it must not be called from a handler of that range, nor with a lock held that they take.
 * VMC_ENOENT.
 */
VMC_API VMC_MUST_CHECK int vmc_bus_detach(struct vmc_bus *bus, uint64_t base);

/**
 * Access 1, 2, 4 or 8 bytes. True when a device claims any of them; the access is split at the
 * ends of ranges, and bytes that nobody claims read as ones. Lock-free. Any thread.
 */
VMC_API bool vmc_bus_read(struct vmc_bus *bus, uint64_t addr, unsigned bytes, uint64_t *value);
/** As vmc_bus_read; bytes that nobody claims are dropped. Lock-free. Any thread. */
VMC_API bool vmc_bus_write(struct vmc_bus *bus, uint64_t addr, unsigned bytes, uint64_t value);

VMC_END_DECLS

#endif
