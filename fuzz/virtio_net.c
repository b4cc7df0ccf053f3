/* SPDX-License-Identifier: BSD-2-Clause */
#include "virtio_fuzz.h"

#include <vmcore/virtio_net.h>

static struct vmc_virtio *card;
static bool loop_back;

static int on_send(void *ctx, const struct vmc_iovec *iov, uint32_t n)
{
    uint64_t sum = 0;

    (void)ctx;
    for (uint32_t i = 0; i < n; i++) /* every byte is there */
        for (size_t k = 0; k < iov[i].bytes; k++)
            sum += ((const unsigned char *)iov[i].base)[k];
    if (sum == 1)
        return VMC_EAGAIN;
    if (loop_back)
        (void)!vmc_virtio_net_receive(card, iov, n);
    return VMC_OK;
}

static struct vmc_virtio *create(struct vd_board *b)
{
    static const struct vmc_netdev_ops ops = {.send = on_send};
    const struct vmc_virtio_net_config cfg = {.virtio = FUZZ_CONFIG(b),
                                              .net = {.ops = &ops},
                                              .mac = {2, 0, 0, 0, 0, 1},
                                              .mtu = 1500,
                                              .pairs = 2};

    loop_back = false;
    return vmc_virtio_net_create(&b->bd, &cfg, &card, NULL) == VMC_OK ? card : NULL;
}

static void event(struct vd *v, struct fuzz_in *in)
{
    static unsigned char frame[VMC_VIRTIO_NET_FRAME_MAX];
    uint8_t what = in8(in);
    struct vmc_iovec iov[2];

    loop_back = (what & 1) != 0;
    if ((what & 2) != 0)
        vmc_virtio_net_set_link(v->dev, (what & 4) != 0);
    for (unsigned i = 0; i < 6; i++)
        frame[i] = in8(in);
    size_t n = 14 + in_bytes(in, 2) % (sizeof(frame) - 14);
    iov[0] = (struct vmc_iovec){frame, 14};
    iov[1] = (struct vmc_iovec){frame + 14, n - 14};
    (void)!vmc_virtio_net_receive(v->dev, iov, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_device dev = {
        .create = create,
        .queues = 5,
        .features = 1ull << 5 | 1ull << 15 | 1ull << 16 | 1ull << 17 | 1ull << 18 | 1ull << 20 |
                    1ull << 22 | 1ull << 23,
        .event = event};

    return fuzz_virtio(data, size, &dev);
}
