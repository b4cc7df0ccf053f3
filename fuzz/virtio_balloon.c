/* SPDX-License-Identifier: BSD-2-Clause */
/* Besides surviving, the device keeps its promises to the policy behind it. */
#include "virtio_fuzz.h"

#include <vmcore/virtio_balloon.h>

static unsigned char held[VD_RAM_END / 4096];

static void check(uint64_t gpa, uint64_t bytes)
{
    if (gpa % 4096 != 0 || bytes % 4096 != 0 || bytes == 0 || gpa > VD_RAM_END ||
        bytes > VD_RAM_END - gpa || (gpa < VD_RAM_BYTES && gpa + bytes > VD_RAM_BYTES))
        abort();
}

static void on_inflate(void *ctx, uint64_t gpa, uint64_t bytes)
{
    (void)ctx;
    check(gpa, bytes);
    for (uint64_t p = gpa / 4096; p < (gpa + bytes) / 4096; p++)
        if (held[p]++ != 0 && !fz_state_forged)
            abort();
}

static void on_deflate(void *ctx, uint64_t gpa, uint64_t bytes)
{
    (void)ctx;
    check(gpa, bytes);
    for (uint64_t p = gpa / 4096; p < (gpa + bytes) / 4096; p++)
        if (--held[p] != 0 && !fz_state_forged)
            abort();
}

static void on_free(void *ctx, uint64_t gpa, uint64_t bytes)
{
    (void)ctx;
    check(gpa, bytes);
}


static struct vmc_virtio *create(struct vd_board *b)
{
    static const struct vmc_balloon_ops ops = {
        .inflate = on_inflate, .deflate = on_deflate, .report = on_free, .hint = on_free};
    struct vmc_virtio *dev = NULL;
    const struct vmc_virtio_balloon_config cfg = {.virtio = FUZZ_CONFIG(b), .ops = &ops,
                                                  .deflate_on_oom = true,
                                                  .free_page_reporting = true,
                                                  .free_page_hinting = true};

    memset(held, 0, sizeof(held));
    return vmc_virtio_balloon_create(&b->bd, &cfg, &dev, NULL) == VMC_OK ? dev : NULL;
}

static void event(struct vd *v, struct fuzz_in *in)
{
    uint8_t what = in8(in);

    if ((what & 1) != 0)
        vmc_virtio_balloon_set_target(v->dev, in_bytes(in, 4));
    if ((what & 2) != 0)
        (void)!vmc_virtio_balloon_request_stats(v->dev);
    if ((what & 4) != 0)
        (void)!vmc_virtio_balloon_hint_start(v->dev);
    if ((what & 8) != 0)
        vmc_virtio_balloon_hint_stop(v->dev);
    if ((what & 16) != 0)
        vmc_virtio_balloon_hint_release(v->dev);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzz_device dev = {
        .create = create, .queues = 5, .features = 63, .event = event};

    return fuzz_virtio(data, size, &dev);
}
