/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Where consoles and serial lines end on a Linux host: the terminal, a file, a Unix socket, a
 * pseudo-terminal. Library: vmcore_host.
 *
 * Order: open, give vmc_host_char_dev to the device, start with the device's input function; close
 * before the device is destroyed.
 */
#ifndef VMCORE_HOST_CHAR_H
#define VMCORE_HOST_CHAR_H

#include <vmcore/io.h>

VMC_BEGIN_DECLS

struct vmc_host_char;

enum vmc_host_char_kind {
    VMC_HOST_CHAR_STDIO, /**< standard input and output; a terminal is switched to raw mode */
    VMC_HOST_CHAR_FILE,  /**< output into a file, which is truncated */
    VMC_HOST_CHAR_UNIX,  /**< listen on a Unix socket, one client at a time */
    VMC_HOST_CHAR_PTY,   /**< a new pseudo-terminal, see vmc_host_char_name */
};

struct vmc_host_char_config {
    uint32_t size;
    uint32_t kind;    /**< enum vmc_host_char_kind */
    const char *path; /**< of the file or socket */
    /**
     * Ctrl-A is an escape: Ctrl-A x asks to quit, Ctrl-A h prints help, Ctrl-A Ctrl-A sends one.
     * Only for VMC_HOST_CHAR_STDIO.
     */
    bool escape;
    uint8_t pad[7];
};

/** What happens on the far end. Called from the channel's thread. Members may be NULL. */
struct vmc_host_char_events {
    /**
     * Bytes for the guest; returns how many were taken. The rest waits for input_ready. NULL: input
     * is dropped, or left alone where it is standard input.
     */
    int (*input)(void *ctx, const void *data, size_t bytes);
    /** Room for output again, after write took less than offered. */
    void (*writable)(void *ctx);
    /** The user typed Ctrl-A x. */
    void (*quit)(void *ctx);
};

/** VMC_ENOENT, VMC_EPERM, VMC_EBUSY (socket in use), VMC_ENOMEM, VMC_EINVAL, VMC_EHOST. */
VMC_API VMC_MUST_CHECK int vmc_host_char_open(const struct vmc_host_char_config *cfg,
                                              struct vmc_host_char **out, struct vmc_error *err);
/** Where a device writes to. Does not block; output without a reader is dropped. */
VMC_API struct vmc_chardev vmc_host_char_dev(struct vmc_host_char *c);
/** Path of the pseudo-terminal or socket, or a description. Valid until close. */
VMC_API const char *vmc_host_char_name(const struct vmc_host_char *c);
/** Begin: raw mode and the thread. *ev is copied. Once. VMC_EHOST, VMC_ESTATE. */
VMC_API VMC_MUST_CHECK int vmc_host_char_start(struct vmc_host_char *c,
                                               const struct vmc_host_char_events *ev, void *ctx,
                                               struct vmc_error *err);
/** The guest takes input again. Any thread, also from inside input. */
VMC_API void vmc_host_char_input_ready(struct vmc_host_char *c);
/** Writes out what waits (for at most a second), restores the terminal. NULL is allowed. */
VMC_API void vmc_host_char_close(struct vmc_host_char *c);

VMC_END_DECLS

#endif
