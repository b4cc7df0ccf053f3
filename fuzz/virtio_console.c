/* SPDX-License-Identifier: BSD-2-Clause */
#include "virtio_fuzz.h"

#include <vmcore/virtio_console.h>

static size_t room;

static int on_write(void *ctx, const void *data, size_t n)
{
    uint64_t sum = 0;

    (void)ctx;
    for (size_t i = 0; i < n; i++)
        sum += ((const unsigned char *)data)[i];
    if (sum == 7)
        return VMC_EIO;
    n = n < room ? n : room;
    room -= n;
    return (int)n;
}

static struct vmc_virtio *create(struct vd_board *b)
{
    static const struct vmc_chardev_ops ops = {.write = on_write};
    static const struct vmc_virtio_console_port port[2] = {
        {.out = {.ops = &ops}, .console = true}, {.name = "fuzz.port", .out = {.ops = &ops}}};
    struct vmc_virtio *dev = NULL;
    const struct vmc_virtio_console_config cfg = {
        .virtio = FUZZ_CONFIG(b), .port_count = 2, .cols = 80, .rows = 25, .ports = port};

    room = 100000;
    return vmc_virtio_console_create(&b->bd, &cfg, &dev, NULL) == VMC_OK ? dev : NULL;
}

static void event(struct vd *v, struct fuzz_in *in)
{
    static const char text[300] = "input";
    uint8_t what = in8(in);

    room = (what & 1) != 0 ? in8(in) : 100000;
    if ((what & 2) != 0)
        vmc_virtio_console_output_ready(v->dev, in8(in) & 3);
    if ((what & 4) != 0)
        vmc_virtio_console_resize(v->dev, in8(in), in8(in));
    (void)!vmc_virtio_console_input(v->dev, what >> 7, text, in_bytes(in, 2) % sizeof(text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_device dev = {
        .create = create, .queues = 6, .features = 7, .event = event};

    return fuzz_virtio(data, size, &dev);
}
