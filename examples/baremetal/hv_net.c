/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A learning switch between the guests and the machine's first network card. A port disappears
 * before its guest does, and every processor passes its loop in between (hv_sync_cpus), so a frame
 * is never given to a device that is gone.
 */
#include "hv.h"

#define LEARN       128u
#define PORT_UPLINK HV_MAX_GUESTS
#define PORT_NONE   UINT32_MAX

static struct {
    uint64_t mac; /* 0: free */
    uint32_t port;
} learned[LEARN];

static uint64_t mac_of(const uint8_t *p)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < 6; i++)
        v = v << 8 | p[i];
    return v;
}

static unsigned slot_of(uint64_t mac)
{
    return (unsigned)((mac ^ mac >> 16 ^ mac >> 32) % LEARN);
}

static void learn(uint64_t mac, uint32_t port)
{
    if (mac == 0 || (mac >> 40 & 1) != 0)
        return;
    unsigned i = slot_of(mac);
    __atomic_store_n(&learned[i].port, port, __ATOMIC_RELAXED);
    __atomic_store_n(&learned[i].mac, mac, __ATOMIC_RELEASE);
}

static uint32_t lookup(uint64_t mac)
{
    unsigned i = slot_of(mac);

    if (__atomic_load_n(&learned[i].mac, __ATOMIC_ACQUIRE) != mac)
        return PORT_NONE;
    return __atomic_load_n(&learned[i].port, __ATOMIC_RELAXED);
}

static void deliver(uint32_t port, const struct vmc_iovec *iov, uint32_t n)
{
    if (port == PORT_UPLINK) {
        struct vmc_bm_nic *nic = vmc_bm_nic(0);
        if (nic != NULL)
            (void)nic->dev.ops->send(nic->dev.ctx, iov, n); /* full: the frame is lost */
        return;
    }
    struct vmc_virtio *dev = __atomic_load_n(&hv_guests[port].nic, __ATOMIC_ACQUIRE);
    int rc = dev != NULL ? vmc_virtio_net_receive(dev, iov, n) : VMC_OK;
    (void)rc; /* no buffer: the frame is lost */
}

static void forward(uint32_t from, const struct vmc_iovec *iov, uint32_t n)
{
    uint8_t head[12];
    size_t got = 0;

    for (uint32_t i = 0; i < n && got < sizeof(head); i++) {
        size_t k = iov[i].bytes < sizeof(head) - got ? iov[i].bytes : sizeof(head) - got;
        memcpy(head + got, iov[i].base, k);
        got += k;
    }
    if (got < sizeof(head))
        return;
    learn(mac_of(head + 6), from);
    uint32_t to = (head[0] & 1) != 0 ? PORT_NONE : lookup(mac_of(head));
    if (to != PORT_NONE) {
        if (to != from)
            deliver(to, iov, n);
        return;
    }
    for (uint32_t p = 0; p <= PORT_UPLINK; p++)
        if (p != from)
            deliver(p, iov, n);
}

static int guest_send(void *ctx, const struct vmc_iovec *iov, uint32_t n)
{
    struct hv_guest *g = ctx;

    forward(g->number, iov, n);
    return VMC_OK;
}

static void uplink_receive(void *ctx, const void *frame, size_t bytes)
{
    struct vmc_iovec iov = {.base = (void *)(uintptr_t)frame, .bytes = bytes};

    (void)ctx;
    forward(PORT_UPLINK, &iov, 1);
}

int hv_net_attach(struct hv_guest *g, struct vmc_error *err)
{
    static const struct vmc_netdev_ops ops = {.send = guest_send};
    struct vmc_virtio *dev;
    struct vmc_virtio_net_config nc = {
        .virtio = {.size = sizeof(nc.virtio), .pci = vmc_pc_pci(g->pc), .slot = VMC_PCI_ANY_SLOT},
        .net = {.ops = &ops, .ctx = g},
        .mac = {0x52, 0x54, 0x00, 0x56, 0x4d, (uint8_t)(0x10 + g->number)},
    };

    int rc = vmc_virtio_net_create(vmc_vm_board(g->vm), &nc, &dev, err);
    if (rc == VMC_OK)
        __atomic_store_n(&g->nic, dev, __ATOMIC_RELEASE);
    return rc;
}

void hv_net_detach(struct hv_guest *g)
{
    __atomic_store_n(&g->nic, NULL, __ATOMIC_RELEASE);
}

void hv_net_init(void)
{
    struct vmc_bm_nic *nic = vmc_bm_nic(0);

    if (nic != NULL)
        nic->receive = uplink_receive;
}
