/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * The board that devices are built on, and the life cycle that all devices share.
 */
#ifndef VMCORE_DEVICE_H
#define VMCORE_DEVICE_H

#include <vmcore/bus.h>
#include <vmcore/io.h>
#include <vmcore/irq.h>
#include <vmcore/memory.h>
#include <vmcore/timer.h>

VMC_BEGIN_DECLS

struct vmc_device;
struct vmc_board;

/** What a machine asks of every device. Any member may be NULL. */
struct vmc_device_ops {
    const char *name; /**< static; also the snapshot section name */
    /** Back to the state after power-on. While quiesced. */
    void (*reset)(void *dev);
    /** Start draining; VMC_EAGAIN while I/O is in flight, VMC_OK when idle. */
    int (*quiesce)(void *dev);
    void (*resume)(void *dev);
    void (*destroy)(void *dev);
    /**
     * Saved state is plain data without pointers. save writes at most bytes and returns the
     * length (call with bytes 0 to learn it); load checks everything before it changes anything.
     */
    size_t (*save)(void *dev, void *dst, size_t bytes);
    int (*load)(void *dev, const void *src, size_t bytes, struct vmc_error *err);
};

/** A device as the board lists it. Embedded in the device's own struct. */
struct vmc_device {
    const struct vmc_device_ops *ops;
    void *dev;
    uint32_t instance; /**< numbers devices of the same name, set by vmc_board_add */
    struct vmc_device *next;
};

/** What a device needs to exist; a unit test makes its own in ten lines. */
struct vmc_board {
    const struct vmc_platform *platform;
    struct vmc_mem *mem;
    struct vmc_bus *pio;
    struct vmc_bus *mmio;
    struct vmc_timerq *timers;
    struct vmc_msi_sink msi;
    struct vmc_device *devices; /**< in order of creation */
};

/** Put a device on the board's list. While quiesced. */
VMC_API void vmc_board_add(struct vmc_board *bd, struct vmc_device *d);
/** Take it off the list; nothing happens when it is not there. While quiesced. */
VMC_API void vmc_board_remove(struct vmc_board *bd, struct vmc_device *d);
/** Put every device into its state after power-on. While quiesced. */
VMC_API void vmc_board_reset(struct vmc_board *bd);
/** VMC_EAGAIN until every device is idle. */
VMC_API VMC_MUST_CHECK int vmc_board_quiesce(struct vmc_board *bd);
/** Let devices start requests again after vmc_board_quiesce. */
VMC_API void vmc_board_resume(struct vmc_board *bd);
/** Destroy every device on the list, last first. */
VMC_API void vmc_board_destroy_devices(struct vmc_board *bd);

VMC_END_DECLS

#endif
