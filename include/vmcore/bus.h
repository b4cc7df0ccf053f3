/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Port and memory-mapped I/O buses: who answers at which address.
 */
#ifndef VMCORE_BUS_H
#define VMCORE_BUS_H

#include <vmcore/platform.h>

VMC_BEGIN_DECLS

struct vmc_bus;

/**
 * Register handlers. offset is relative to the start of the range; bytes is 1, 2, 4 or 8. A bus
 * calls them with no lock of its own held; vCPUs call concurrently. They never fail: an access
 * that the device does not decode reads all ones and ignores writes.
 */
struct vmc_bus_ops {
    uint64_t (*read)(void *dev, uint64_t offset, unsigned bytes);
    void (*write)(void *dev, uint64_t offset, unsigned bytes, uint64_t value);
};

/** name is a static string for logs. */
VMC_API VMC_MUST_CHECK int vmc_bus_create(const struct vmc_platform *pf, const char *name,
                                          uint64_t limit, struct vmc_bus **out);
VMC_API void vmc_bus_destroy(struct vmc_bus *bus);

/** Give [base, base+bytes) to a device. Any thread. VMC_EEXIST overlap, VMC_ERANGE, VMC_ELIMIT. */
VMC_API VMC_MUST_CHECK int vmc_bus_attach(struct vmc_bus *bus, uint64_t base, uint64_t bytes,
                                          const struct vmc_bus_ops *ops, void *dev,
                                          struct vmc_error *err);
/** Take the range that starts at base back. On return no handler of it is running. */
VMC_API VMC_MUST_CHECK int vmc_bus_detach(struct vmc_bus *bus, uint64_t base);

/** True when a device claims the first byte; the access is split at range ends. Any thread. */
VMC_API bool vmc_bus_read(struct vmc_bus *bus, uint64_t addr, unsigned bytes, uint64_t *value);
VMC_API bool vmc_bus_write(struct vmc_bus *bus, uint64_t addr, unsigned bytes, uint64_t value);

VMC_END_DECLS

#endif
