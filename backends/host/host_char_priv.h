/* SPDX-License-Identifier: BSD-2-Clause */
/* A character channel, and its kinds. */
#ifndef HOST_CHAR_PRIV_H
#define HOST_CHAR_PRIV_H

#include <vmcore/host_char.h>

#include <pthread.h>
#include <stdatomic.h>
#include <termios.h>

#include "host_priv.h"

#define VMCI_CHAR_OUT  65536u /* bytes of output that may wait; a power of two */
#define VMCI_CHAR_IN   4096u
#define VMCI_CHAR_PATH 108u
#define VMCI_CHAR_RETRY_MS 200 /* is there somebody at the pseudo-terminal, a descriptor now? */

struct vmc_host_char {
    uint32_t kind;
    bool escape;
    char path[VMCI_CHAR_PATH];
    int in, out;  /* descriptors, -1: none now; the thread's after start */
    int listener; /* of a socket */
    uint64_t accept_at; /* CLOCK_MONOTONIC: not before, as nobody could be accepted */
    int wake;     /* eventfd */
    bool raw_tty; /* saved is valid */
    struct termios saved;

    pthread_t thread;
    bool started;
    atomic_bool stop;
    struct vmc_host_char_events ev;
    void *ctx;

    pthread_mutex_t lock;
    unsigned char ring[VMCI_CHAR_OUT]; /* (l) */
    uint32_t head, tail;               /* (l) free running: written at head, sent from tail */
    bool starved;                      /* (l) write took less than offered */
    bool dropping;                     /* (l) nobody reads */

    unsigned char held[VMCI_CHAR_IN]; /* input the guest has not taken; the thread's */
    size_t held_from, held_to;
    atomic_bool guest_full;
    bool after_escape; /* Ctrl-A was typed */
};

/* Open the descriptors of a kind. */
int vmci_host_char_setup(struct vmc_host_char *c, struct vmc_error *err);
/* CLOCK_MONOTONIC, ns */
uint64_t vmci_host_char_now(void);
/* A socket's listener is readable. */
void vmci_host_char_accept(struct vmc_host_char *c);
/* The far end is gone: a socket waits for the next client. */
void vmci_host_char_hangup(struct vmc_host_char *c);
/* Switch a terminal to raw mode and back. */
void vmci_host_char_raw(struct vmc_host_char *c);
void vmci_host_char_restore(struct vmc_host_char *c);
/* Take the escapes out of what was typed, in place; returns the bytes left for the guest. */
size_t vmci_host_char_filter(struct vmc_host_char *c, unsigned char *p, size_t n);
/* Append to the output as a device would; returns how many bytes fitted. */
size_t vmci_host_char_put(struct vmc_host_char *c, const void *data, size_t bytes);

#endif
