/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Virtio console (virtio 1.2, 5.3): one console, or several ports with names.
 */
#ifndef VMCORE_VIRTIO_CONSOLE_H
#define VMCORE_VIRTIO_CONSOLE_H

#include <vmcore/virtio.h>

VMC_BEGIN_DECLS

#define VMC_VIRTIO_CONSOLE_PORTS_MAX 16u
#define VMC_VIRTIO_CONSOLE_NAME      64u

/** One port. Copied; what the chardev points to is borrowed until destroy. */
struct vmc_virtio_console_port {
    const char *name;       /**< /dev/virtio-ports/NAME in a Linux guest; NULL: none; copied */
    struct vmc_chardev out; /**< where its output goes; ops NULL: nowhere */
    bool console;           /**< the guest shall use it as a console (hvcN), not as a byte pipe */
};

struct vmc_virtio_console_config {
    struct vmc_virtio_config virtio;
    /** 0 is taken as 1. More than one, or one that is not a console, offers MULTIPORT. */
    uint32_t port_count;
    uint16_t cols, rows; /**< size of the terminal; 0: not offered */
    const struct vmc_virtio_console_port *ports;
    /** The guest gave buffers for input after input took less than offered. May be NULL. */
    void (*rx_ready)(void *ctx, unsigned port);
    /** The guest opened or closed a port. May be NULL. */
    void (*port_open)(void *ctx, unsigned port, bool open);
    void *ctx;
};

/**
 * A console or serial device; the board owns it. VMC_EINVAL, VMC_ENOMEM; vmc_virtio_config's
 * errors.
 */
VMC_API VMC_MUST_CHECK int vmc_virtio_console_create(struct vmc_board *bd,
                                                     const struct vmc_virtio_console_config *cfg,
                                                     struct vmc_virtio **out,
                                                     struct vmc_error *err);
/** Bytes for the guest. Returns how many were taken (0: no buffers now) or VMC_EINVAL. Any thread. */
VMC_API VMC_MUST_CHECK int vmc_virtio_console_input(struct vmc_virtio *dev, unsigned port,
                                                    const void *data, size_t bytes);
/** The chardev of a port, which had taken less than offered, can take more. Any thread. */
VMC_API void vmc_virtio_console_output_ready(struct vmc_virtio *dev, unsigned port);
/** The terminal has a new size. Any thread. */
VMC_API void vmc_virtio_console_resize(struct vmc_virtio *dev, uint16_t cols, uint16_t rows);

VMC_END_DECLS

#endif
