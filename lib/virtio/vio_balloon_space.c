/* SPDX-License-Identifier: BSD-2-Clause */
/* The balloon of a VM whose pages are those of a space, as the memory policy sees it. */
#include "base/base_int.h"
#include <vmcore/memory.h>
#include <vmcore/virtio_balloon.h>

static void inflate(void *ctx, uint64_t gpa, uint64_t bytes)
{
    (void)vmc_mem_drop(ctx, gpa, bytes, true);
}

static void deflate(void *ctx, uint64_t gpa, uint64_t bytes)
{
    vmc_mem_return(ctx, gpa, bytes);
}

static void report(void *ctx, uint64_t gpa, uint64_t bytes)
{
    (void)vmc_mem_drop(ctx, gpa, bytes, false);
}

const struct vmc_balloon_ops *vmc_virtio_balloon_space_ops(void)
{
    static const struct vmc_balloon_ops ops = {
        .inflate = inflate, .deflate = deflate, .report = report};
    return &ops;
}

void vmc_virtio_balloon_look(struct vmc_virtio *dev, struct vmc_balloon_seen *out)
{
    const uint32_t needed = 1u << VMC_BALLOON_TOTAL | 1u << VMC_BALLOON_AVAILABLE;
    struct vmc_balloon_info info = {.size = sizeof(info)};
    struct vmc_balloon_stats st;

    vmc_virtio_balloon_info(dev, &info);
    vmc_virtio_balloon_stats(dev, &st);
    *out = (struct vmc_balloon_seen){
        .driver = vmc_virtio_live(dev),
        .said = info.stats_supported && (st.valid & needed) == needed,
        .held = info.held_pages,
        .total = st.value[VMC_BALLOON_TOTAL] >> VMC_PAGE_SHIFT,
        .available = st.value[VMC_BALLOON_AVAILABLE] >> VMC_PAGE_SHIFT,
    };
    int rc = vmc_virtio_balloon_request_stats(dev);
    (void)rc; /* asked already, or there are none */
}
