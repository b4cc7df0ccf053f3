/* SPDX-License-Identifier: BSD-2-Clause */
/* Where a serial line or debug console leads: terminal, file, Unix socket, pseudo terminal. */
#ifndef RUN_CHR_H
#define RUN_CHR_H

#include "run_options.h"

#include <poll.h>
#include <pthread.h>
#include <stddef.h>

#include <vmcore/io.h>

#define CHR_MAX_POLL 2

/* What the keys after Ctrl-A ask for. */
enum chr_key { CHR_KEY_NONE, CHR_KEY_QUIT, CHR_KEY_HELP };

struct chr {
    enum run_chr_kind kind;
    const char *what; /* "serial" or "debugcon", for messages */
    int in_fd, out_fd, listen_fd;
    bool tty;         /* stdin is a terminal in raw mode: Ctrl-A escapes */
    bool escaped;     /* Ctrl-A was typed */
    bool out_blocked; /* (a) output was refused: tell the device when there is room */
    char path[108];
    int wake_fd; /* an eventfd of the poll loop, borrowed */
    /* Input that the device has not taken yet. */
    unsigned char pending[256];
    size_t pending_len;
    size_t (*input)(void *ctx, const void *data, size_t bytes);
    void (*output_ready)(void *ctx);
    void *ctx;
};

/* 0, or -1 with a message on standard error. */
int chr_open(struct chr *c, const struct run_chr *spec, const char *what, int wake_fd);
void chr_close(struct chr *c);
struct vmc_chardev chr_device(struct chr *c);
nfds_t chr_poll_fds(struct chr *c, struct pollfd *fds);
enum chr_key chr_handle(struct chr *c, const struct pollfd *fds, nfds_t count);

#endif
