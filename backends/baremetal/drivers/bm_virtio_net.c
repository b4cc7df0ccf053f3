/* SPDX-License-Identifier: BSD-2-Clause */
/* Virtio network card (virtio 1.2, 5.1): one queue pair, no offloads. */
#include "bm_virtio.h"

#define F_MAC     (1ull << 5)
#define HEADER    12u
#define BUFFERS   64u
#define BUF_BYTES 2048u
#define FRAME_MAX (BUF_BYTES - HEADER)

struct vnet {
    struct bm_virtio v;
    struct bm_vq rx, tx;
    struct bm_lock tx_lock;
    struct bm_lock rx_lock;
    volatile uint32_t irq;
    char *rx_buf[BUFFERS], *tx_buf[BUFFERS];
    char *tx_free[BUFFERS];
    unsigned tx_free_count;
    struct vmc_bm_nic nic;
    char name[8];
};

static unsigned number;

static void give(struct vnet *n, char *buf)
{
    struct vq_desc d = {.pa = bm_virt_to_phys(buf), .bytes = BUF_BYTES, .flags = VQ_WRITE};

    (void)bm_vq_add(&n->rx, &d, 1, buf); /* there are no more buffers than descriptors */
}

static void vnet_poll(void *ctx)
{
    struct vnet *n = ctx;
    char *buf;
    uint32_t bytes;

    n->irq = 0;
    bm_lock(&n->tx_lock);
    while ((buf = bm_vq_get(&n->tx, &bytes)) != NULL)
        n->tx_free[n->tx_free_count++] = buf;
    bm_unlock(&n->tx_lock);
    for (;;) {
        bm_lock(&n->rx_lock);
        buf = bm_vq_get(&n->rx, &bytes);
        bm_unlock(&n->rx_lock);
        if (buf == NULL)
            return;
        if (n->nic.receive != NULL && bytes > HEADER && bytes <= BUF_BYTES)
            n->nic.receive(n->nic.receive_ctx, buf + HEADER, bytes - HEADER);
        bm_lock(&n->rx_lock);
        give(n, buf);
        bm_vq_kick(&n->rx);
        bm_unlock(&n->rx_lock);
    }
}

static int vnet_send(void *ctx, const struct vmc_iovec *iov, uint32_t count)
{
    struct vnet *n = ctx;
    uint32_t bytes;
    size_t len = HEADER;
    char *buf;
    int rc = VMC_EAGAIN;

    for (uint32_t i = 0; i < count; i++) {
        if (iov[i].bytes > BUF_BYTES - len)
            return VMC_ERANGE; /* half a frame is none */
        len += iov[i].bytes;
    }
    len = HEADER;
    bm_lock(&n->tx_lock);
    while ((buf = bm_vq_get(&n->tx, &bytes)) != NULL)
        n->tx_free[n->tx_free_count++] = buf;
    if (n->tx_free_count > 0) {
        buf = n->tx_free[--n->tx_free_count];
        memset(buf, 0, HEADER);
        for (uint32_t i = 0; i < count; i++) {
            memcpy(buf + len, iov[i].base, iov[i].bytes);
            len += iov[i].bytes;
        }
        struct vq_desc d = {.pa = bm_virt_to_phys(buf), .bytes = (uint32_t)len};
        (void)bm_vq_add(&n->tx, &d, 1, buf);
        bm_vq_kick(&n->tx);
        rc = VMC_OK;
    }
    bm_unlock(&n->tx_lock);
    return rc;
}

static void on_irq(void *ctx)
{
    ((struct vnet *)ctx)->irq = 1;
}

static char *buffers(char **list, unsigned count)
{
    uint64_t pa = bm_pages_alloc(PAGES(count * BUF_BYTES), 1, OWNER_KERNEL);

    if (pa == 0)
        bm_panic("out of memory for a network card");
    for (unsigned i = 0; i < count; i++)
        list[i] = (char *)phys_ptr(pa) + i * BUF_BYTES;
    return list[0];
}

void bm_virtio_net_probe(const struct bm_pci *p)
{
    static const struct vmc_netdev_ops ops = {.send = vnet_send};
    struct vnet *n = bm_zalloc(sizeof(*n));

    if (n == NULL)
        bm_panic("out of memory for a network card");
    if (!bm_virtio_start(&n->v, p, F_MAC) || !bm_pci_msi(p, on_irq, n) ||
        !bm_virtio_queue(&n->v, &n->rx, 0) || !bm_virtio_queue(&n->v, &n->tx, 1)) {
        bm_printf("virtio-net at %02x:%02x.%u: not usable\n", p->bus, p->dev, p->fn);
        return;
    }
    (void)buffers(n->rx_buf, BUFFERS);
    (void)buffers(n->tx_buf, BUFFERS);
    for (unsigned i = 0; i < BUFFERS; i++) {
        give(n, n->rx_buf[i]);
        n->tx_free[n->tx_free_count++] = n->tx_buf[i];
    }
    if (n->v.features & F_MAC)
        for (unsigned i = 0; i < 6; i++)
            n->nic.mac[i] = *(volatile uint8_t *)(n->v.device + i);
    bm_virtio_live(&n->v);
    bm_vq_kick(&n->rx);
    bm_snprintf(n->name, sizeof(n->name), "vnet%u", number++);
    n->nic.name = n->name;
    n->nic.dev = (struct vmc_netdev){.ops = &ops, .ctx = n};
    bm_poll_add(vnet_poll, n, &n->irq);
    bm_nic_add(&n->nic);
}
