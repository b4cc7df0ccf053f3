/* SPDX-License-Identifier: BSD-2-Clause */
/* The network object: two queues of frames and a thread, around one way to the outside. */
#ifndef HOST_NET_PRIV_H
#define HOST_NET_PRIV_H

#include <vmcore/host_net.h>

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "host_priv.h"

#define VMCI_NET_FRAME_MAX 65550u

/* A way to the outside. All but open run on the network's thread, close when it has ended. */
struct vmci_net_port_ops {
    /* Fill fds (room for max, one is in use already) and lower *timeout_ms; returns how many. */
    unsigned (*fill)(void *port, struct pollfd *fds, unsigned max, int *timeout_ms, bool read);
    /* Handle what poll found. Frames for the guest go to vmci_host_net_to_guest. */
    void (*handle)(void *port, struct pollfd *fds, unsigned n, bool failed);
    /* A frame of the guest. */
    void (*output)(void *port, const void *frame, size_t bytes);
    void (*close)(void *port);
};

struct vmci_frame {
    struct vmci_frame *next;
    size_t bytes;
    unsigned char data[];
};

struct vmci_frame_queue {
    struct vmci_frame *head, *tail;
    unsigned count;
};

struct vmc_host_net {
    const struct vmci_net_port_ops *ops;
    void *port;
    int wake; /* eventfd */
    pthread_t thread;
    bool started;
    atomic_bool stop;
    vmc_host_net_receive_fn *receive;
    void *ctx;

    pthread_mutex_t lock;
    struct vmci_frame_queue out; /* (l) from the guest */
    atomic_bool guest_full;      /* receive answered VMC_EAGAIN */
    struct vmci_frame_queue in;  /* for the guest; the thread's */
    uint64_t dropped;
};

/* Make the object around a port; the port is closed on failure. */
int vmci_host_net_create(const struct vmci_net_port_ops *ops, void *port,
                         struct vmc_host_net **out, struct vmc_error *err);
/* A frame for the guest, now or when it has room. On the network's thread. */
void vmci_host_net_to_guest(struct vmc_host_net *n, const void *frame, size_t bytes);

#endif
