/* SPDX-License-Identifier: BSD-2-Clause */
/* The network device, shared by its data path (vio_net.c) and its control (vio_net_ctrl.c). */
#ifndef VIO_NET_H
#define VIO_NET_H

#include <vmcore/virtio_net.h>

#include "virtio/virtio_int.h"

/* Feature bits (5.1.3). */
#define NET_F_MTU           VMCI_BIT(3)
#define NET_F_MAC           VMCI_BIT(5)
#define NET_F_MRG_RXBUF     VMCI_BIT(15)
#define NET_F_STATUS        VMCI_BIT(16)
#define NET_F_CTRL_VQ       VMCI_BIT(17)
#define NET_F_CTRL_RX       VMCI_BIT(18)
#define NET_F_CTRL_RX_EXTRA VMCI_BIT(20)
#define NET_F_MQ            VMCI_BIT(22)
#define NET_F_CTRL_MAC_ADDR VMCI_BIT(23)

/* Configuration (5.1.4). */
enum net_config_reg {
    NET_CFG_MAC = 0,
    NET_CFG_STATUS = 6,
    NET_CFG_PAIRS = 8,
    NET_CFG_MTU = 10,
    NET_CFG_BYTES = 12,
};
#define NET_S_LINK_UP 1u

#define NET_MAC_BYTES    6u
#define NET_MAC_TABLE    64u /* addresses a filter table holds; more means "all" */
#define NET_PIECES       64u /* of a buffer; Linux uses up to 19 */

/* What the driver wants to receive (5.1.6.5.1, 5.1.6.5.2). */
enum net_rx_mode { NET_RX_PROMISC, NET_RX_ALLMULTI, NET_RX_ALLUNI, NET_RX_NOMULTI, NET_RX_NOUNI,
                   NET_RX_NOBCAST, NET_RX_MODES };

struct net_mac_table {
    uint32_t count;
    uint32_t overflow; /* more were given than fit: take all */
    unsigned char mac[NET_MAC_TABLE][NET_MAC_BYTES];
};

/* Members marked (l) belong to the device's lock. */
struct net_filter {
    uint32_t mode; /* (l) bit per enum net_rx_mode */
    unsigned char mac[NET_MAC_BYTES]; /* (l) our address */
    struct net_mac_table uni, multi;  /* (l) */
};

/* A used entry that waits until the whole frame is stored. */
struct net_used {
    uint16_t id, slots;
    uint32_t bytes;
};

struct net_pair {
    struct vmci_chain first, rest; /* receive; the queue's lock */
    struct vmci_chain tx;          /* its worker's */
    struct net_used *used;         /* one a queue entry; the receive queue's lock */
    uint32_t starving;             /* (a) a frame waits for buffers */
};

struct net_dev {
    struct vmc_virtio v;
    struct vmc_netdev net;
    void (*rx_ready)(void *ctx);
    void *ctx;
    unsigned pairs;        /* (c) */
    unsigned queue_size;   /* (c) */
    uint32_t active_pairs; /* (a) that the driver uses */
    uint32_t link_up;      /* (a) */
    unsigned char mac[NET_MAC_BYTES]; /* (c) at reset */
    struct net_filter filter;
    struct vmci_chain ctl; /* its worker's */
    struct net_pair pair[VMC_VIRTIO_NET_PAIRS_MAX];
    void *sg;
};

static inline struct net_dev *vmci_net(struct vmc_virtio *v)
{
    return VMCI_CONTAINER_OF(v, struct net_dev, v);
}

/* Frames that wait for buffers of any pair are offered again. */
void vmci_net_feed_all(struct net_dev *d);
enum vmci_vwork vmci_net_control_work(struct net_dev *d, struct vmci_vq *q);
/* Does the driver want a frame with this destination? Takes the device's lock. */
bool vmci_net_wanted(struct net_dev *d, const unsigned char *dst);
void vmci_net_filter_reset(struct net_dev *d);
void vmci_net_filter_save(struct net_dev *d, struct vmci_vsave *s);
int vmci_net_filter_load(struct net_dev *d, struct vmci_vload *l, bool commit,
                         struct vmc_error *err);

#endif
