/* SPDX-License-Identifier: BSD-2-Clause */
/* What the platform devices share: their common part, saved state, byte-wide registers. */
#ifndef DEV_PRIV_H
#define DEV_PRIV_H

#include <vmcore/devices.h>

#include "base/base_int.h"

#define NS_PER_S 1000000000ull

/* First member of every device. */
struct dev_base {
    struct vmc_board *bd;
    struct vmci_lock lock;
    struct vmc_device device;
    size_t bytes; /* of the whole allocation */
};

/* Zeroed storage with lock and board set; not yet on the board's list. */
void *vmci_dev_alloc(struct vmc_board *bd, size_t bytes, const struct vmc_device_ops *ops,
                     struct vmc_error *err);
/* Put it on the list; nothing can fail afterwards. */
void vmci_dev_publish(struct dev_base *d);
/* Off the list, lock and storage gone. */
void vmci_dev_free(struct dev_base *d);

static inline uint64_t dev_now(const struct dev_base *d)
{
    return vmc_timerq_now(d->bd->timers);
}

/* Take a range that was attached back from a bus. */
void vmci_dev_detach(struct dev_base *d, struct vmc_bus *bus, uint64_t base);

/*
 * Saved form: the clock's reading in front (so that times can be moved to another clock), a
 * version, and the state as it is. Call vmci_dev_save with the device's lock held.
 */
struct dev_saved {
    uint64_t now_ns;
    uint32_t version;
    uint32_t bytes;
};
size_t vmci_dev_save(struct dev_base *d, uint32_t version, const void *state, size_t state_bytes,
                     void *dst, size_t bytes);
/* Copies to tmp (state_bytes) and says by how much times have to be moved. */
int vmci_dev_load(struct dev_base *d, uint32_t version, const void *src, size_t bytes, void *tmp,
                  size_t state_bytes, uint64_t *shift_ns, struct vmc_error *err);

/* Registers are bytes: a wider access is a sequence of byte accesses, as on the ISA bus. */
#define DEV_BYTE_HANDLERS(prefix)                                                                  \
    static uint64_t prefix##_read(void *dev, uint64_t offset, unsigned bytes)                      \
    {                                                                                              \
        uint64_t v = 0;                                                                            \
        for (unsigned i = 0; i < bytes; i++)                                                       \
            v |= (uint64_t)prefix##_read8(dev, offset + i) << (8 * i);                             \
        return v;                                                                                  \
    }                                                                                              \
    static void prefix##_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)         \
    {                                                                                              \
        for (unsigned i = 0; i < bytes; i++)                                                       \
            prefix##_write8(dev, offset + i, (uint8_t)(value >> (8 * i)));                         \
    }                                                                                              \
    struct vmc_bus_ops

#define DEV_BYTE_OPS(prefix)                                                                       \
    DEV_BYTE_HANDLERS(prefix);                                                                     \
    static const struct vmc_bus_ops prefix##_ops = {.read = prefix##_read, .write = prefix##_write}

/* a * b / c without overflow in between. */
static inline uint64_t muldiv(uint64_t a, uint64_t b, uint64_t c)
{
    return (uint64_t)((unsigned __int128)a * b / c);
}

/* The same, rounded up. */
static inline uint64_t muldiv_up(uint64_t a, uint64_t b, uint64_t c)
{
    return (uint64_t)(((unsigned __int128)a * b + c - 1) / c);
}

static inline void dev_stop(const struct vmc_stop_sink *s, uint32_t why, uint64_t detail)
{
    if (s->stop != NULL)
        s->stop(s->ctx, why, detail);
}

#endif
