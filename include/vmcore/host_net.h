/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Networks for guests on a Linux host: a TAP interface, or user-mode networking without privileges.
 * Library: vmcore_host.
 *
 * Order: open, give vmc_host_net_dev to the network card, start with the card's receive function,
 * connect the card's rx_ready to vmc_host_net_rx_ready; close before the card is destroyed.
 */
#ifndef VMCORE_HOST_NET_H
#define VMCORE_HOST_NET_H

#include <vmcore/io.h>

VMC_BEGIN_DECLS

struct vmc_host_net;

/**
 * Takes one frame for the guest: 0 taken, VMC_EAGAIN not now (the frame waits until
 * vmc_host_net_rx_ready), other VMC_E*: dropped. Called from the network's thread.
 */
typedef int vmc_host_net_receive_fn(void *ctx, const struct vmc_iovec *iov, uint32_t iov_count);

struct vmc_host_tap_config {
    uint32_t size;
    const char *ifname; /**< an existing or new TAP interface, at most 15 characters */
};

/**
 * Attach to a TAP interface. VMC_EPERM without the right to it, VMC_EBUSY when another program has
 * it, VMC_ENOENT without /dev/net/tun, VMC_EINVAL. Any thread.
 */
VMC_API VMC_MUST_CHECK int vmc_host_tap_open(const struct vmc_host_tap_config *cfg,
                                             struct vmc_host_net **out, struct vmc_error *err);

/** A port of the host that leads to the guest. Connections beyond 256 at a time wait. */
struct vmc_host_forward {
    bool udp;
    uint32_t host_addr;   /**< IPv4 in host byte order; 0: 127.0.0.1 */
    uint16_t host_port;
    uint16_t guest_port;  /**< of the guest's DHCP address */
};

/**
 * User-mode networking: the guest is 10.0.2.15 by DHCP, the host is 10.0.2.2, DNS 10.0.2.3. The
 * guest opens connections as this process does; nobody reaches it but through forwards.
 */
struct vmc_host_user_net_config {
    uint32_t size;
    bool restricted; /**< the guest reaches nothing but DHCP */
    uint8_t pad[3];
    const char *hostname; /**< of the guest, by DHCP; NULL: none */
    const struct vmc_host_forward *forwards;
    uint32_t forward_count;
    uint32_t mtu; /**< 0: 1500 */
};

/** VMC_EBUSY: a forwarded port is taken. VMC_ENOMEM, VMC_EHOST, VMC_EINVAL. Any thread. */
VMC_API VMC_MUST_CHECK int vmc_host_user_net_open(const struct vmc_host_user_net_config *cfg,
                                                  struct vmc_host_net **out,
                                                  struct vmc_error *err);

/** What the card sends to. Its send copies the frame and does not block. */
VMC_API struct vmc_netdev vmc_host_net_dev(struct vmc_host_net *n);
/** Begin: starts the network's thread. Once. VMC_EHOST, VMC_ESTATE. */
VMC_API VMC_MUST_CHECK int vmc_host_net_start(struct vmc_host_net *n,
                                              vmc_host_net_receive_fn *receive, void *ctx,
                                              struct vmc_error *err);
/** The guest has room for frames again. Any thread, also from inside receive. */
VMC_API void vmc_host_net_rx_ready(struct vmc_host_net *n);
/** Ends the thread; receive is not called any more on return. NULL is allowed. */
VMC_API void vmc_host_net_close(struct vmc_host_net *n);

VMC_END_DECLS

#endif
