/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Virtio network device (virtio 1.2, 5.1): mergeable receive buffers, receive filter, link status,
 * several queue pairs.
 */
#ifndef VMCORE_VIRTIO_NET_H
#define VMCORE_VIRTIO_NET_H

#include <vmcore/virtio.h>

VMC_BEGIN_DECLS

#define VMC_VIRTIO_NET_PAIRS_MAX 8u
#define VMC_VIRTIO_NET_FRAME_MAX 65550u /**< longest frame in either direction */

struct vmc_virtio_net_config {
    struct vmc_virtio_config virtio;
    struct vmc_netdev net; /**< its context is borrowed until destroy */
    uint8_t mac[6];        /**< all zero: no MAC address is offered, the driver makes one up */
    uint16_t mtu;          /**< 0: not offered */
    uint16_t pairs;        /**< queue pairs, 1 to VMC_VIRTIO_NET_PAIRS_MAX; 0: 1 */
    uint16_t pad;
    /** Receive buffers became available after receive answered VMC_EAGAIN. May be NULL. */
    void (*rx_ready)(void *ctx);
    void *ctx;
};

/** A network card; the board owns it. VMC_EINVAL, VMC_ENOMEM; vmc_virtio_config's errors. */
VMC_API VMC_MUST_CHECK int vmc_virtio_net_create(struct vmc_board *bd,
                                                 const struct vmc_virtio_net_config *cfg,
                                                 struct vmc_virtio **out, struct vmc_error *err);
/**
 * A frame arrives from the network. VMC_OK: taken, or dropped because the guest does not want it;
 * VMC_EAGAIN: no buffer now, rx_ready will be called; VMC_ESTATE: no driver, or draining: drop it;
 * VMC_EINVAL: longer than VMC_VIRTIO_NET_FRAME_MAX or shorter than an Ethernet header. Any thread,
 * also from inside vmc_netdev_ops.send.
 */
VMC_API VMC_MUST_CHECK int vmc_virtio_net_receive(struct vmc_virtio *dev,
                                                  const struct vmc_iovec *iov, uint32_t iov_count);
/** Plug or unplug the cable; the device starts with it plugged. Any thread. */
VMC_API void vmc_virtio_net_set_link(struct vmc_virtio *dev, bool up);

VMC_END_DECLS

#endif
