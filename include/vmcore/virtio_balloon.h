/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Virtio memory balloon (virtio 1.2, 5.5): inflate and deflate, statistics, free-page hinting and
 * reporting, page poison, deflate on out-of-memory.
 *
 * The device is mechanism only. It says which guest-physical ranges the guest gave up or wants
 * back, and passes on targets; what to do with the pages and how large the balloon shall be is the
 * embedder's policy.
 */
#ifndef VMCORE_VIRTIO_BALLOON_H
#define VMCORE_VIRTIO_BALLOON_H

#include <vmcore/balloon.h>
#include <vmcore/virtio.h>

VMC_BEGIN_DECLS

/** Tags of guest statistics (5.5.6.4). */
enum vmc_balloon_stat_tag {
    VMC_BALLOON_SWAP_IN,      /**< bytes swapped in */
    VMC_BALLOON_SWAP_OUT,     /**< bytes swapped out */
    VMC_BALLOON_MAJOR_FAULTS, /**< page faults that needed I/O */
    VMC_BALLOON_MINOR_FAULTS,
    VMC_BALLOON_FREE,       /**< bytes free */
    VMC_BALLOON_TOTAL,      /**< bytes of memory */
    VMC_BALLOON_AVAILABLE,  /**< bytes that could be used without swapping */
    VMC_BALLOON_DISK_CACHE, /**< bytes of page cache */
    VMC_BALLOON_HUGE_ALLOC, /**< successful huge-page allocations */
    VMC_BALLOON_HUGE_FAIL,
    VMC_BALLOON_STATS, /**< number of tags known */
};

/** What the guest said about itself; values are the guest's word. */
struct vmc_balloon_stats {
    uint32_t valid;                    /**< bit per tag that was present */
    uint32_t pad;
    uint64_t value[VMC_BALLOON_STATS]; /**< by enum vmc_balloon_stat_tag */
    uint64_t when_ns;                  /**< platform time of arrival; 0: never */
};

/**
 * Called with no lock held from the thread that works off a queue, one call at a time per queue.
 * Ranges are page-aligned and lie inside one slot of guest RAM. A page is never inflated twice nor
 * deflated without having been inflated. Any member may be NULL.
 */
struct vmc_balloon_ops {
    /** The guest gave the range up: contents are gone, storage may be released. */
    void (*inflate)(void *ctx, uint64_t gpa, uint64_t bytes);
    /** The guest takes the range back and will use it once this returns. */
    void (*deflate)(void *ctx, uint64_t gpa, uint64_t bytes);
    /** Free-page reporting: contents may be dropped; the guest may use the range any time later. */
    void (*report)(void *ctx, uint64_t gpa, uint64_t bytes);
    /**
     * Free-page hinting: the range was free at some time after vmc_virtio_balloon_hint_start and
     * is not written unless the write is seen by the dirty log.
     */
    void (*hint)(void *ctx, uint64_t gpa, uint64_t bytes);
    /** The guest has hinted everything it had for this round. */
    void (*hint_done)(void *ctx);
    /** Fresh statistics after vmc_virtio_balloon_request_stats. */
    void (*stats)(void *ctx, const struct vmc_balloon_stats *st);
    /** The driver says how many pages are in the balloon now. */
    void (*actual)(void *ctx, uint64_t pages);
};

struct vmc_virtio_balloon_config {
    struct vmc_virtio_config virtio;
    const struct vmc_balloon_ops *ops; /**< borrowed; may be NULL */
    void *ctx;
    bool deflate_on_oom; /**< the guest may take pages back when it runs out of memory */
    bool free_page_reporting;
    bool free_page_hinting;
    uint8_t pad;
};

/** State of the balloon; see vmc_virtio_balloon_info. */
struct vmc_balloon_info {
    uint32_t size;
    uint32_t pad;
    uint64_t target_pages; /**< what the guest was asked for */
    uint64_t actual_pages; /**< what the driver last claimed */
    uint64_t held_pages;   /**< inflated and not deflated, counted by the device */
    uint64_t reported_bytes, hinted_bytes;
    uint64_t rejected; /**< page numbers out of range, given twice or taken back without being held */
    bool stats_supported, reporting, hinting; /**< negotiated */
    uint8_t pad2[5];
};

/** Memory slots must have been added to the board before. While quiesced. */
VMC_API VMC_MUST_CHECK int vmc_virtio_balloon_create(struct vmc_board *bd,
                                                     const struct vmc_virtio_balloon_config *cfg,
                                                     struct vmc_virtio **out,
                                                     struct vmc_error *err);
/** Ask the guest for a balloon of that many 4 KiB pages (clamped to guest RAM). Any thread. */
VMC_API void vmc_virtio_balloon_set_target(struct vmc_virtio *dev, uint64_t pages);
/**
 * Ask for statistics; VMC_EAGAIN: asked already, VMC_ENOTSUP: not negotiated. Any thread: on a
 * board with timers the guest is told by the thread that runs those, and the caller does not touch
 * guest memory. So it may be the one that makes room for pages others wait for.
 */
VMC_API VMC_MUST_CHECK int vmc_virtio_balloon_request_stats(struct vmc_virtio *dev);
/** Last statistics. Any thread. */
VMC_API void vmc_virtio_balloon_stats(struct vmc_virtio *dev, struct vmc_balloon_stats *out);
/** Start a round of free-page hints. VMC_ENOTSUP: not negotiated. Any thread. */
VMC_API VMC_MUST_CHECK int vmc_virtio_balloon_hint_start(struct vmc_virtio *dev);
/** End it early. Any thread. */
VMC_API void vmc_virtio_balloon_hint_stop(struct vmc_virtio *dev);
/** Tell the guest that it may use the hinted pages again. Any thread. */
VMC_API void vmc_virtio_balloon_hint_release(struct vmc_virtio *dev);
/** State of the balloon. Any thread. */
VMC_API void vmc_virtio_balloon_info(struct vmc_virtio *dev, struct vmc_balloon_info *out);

/* ---- joined to spaces and policy ------------------------------------------------------------- */

/**
 * Operations for VMs whose RAM is pages of a space (vmcore/pages.h); pass the board's memory map
 * (struct vmc_mem *) as ctx. Inflated and reported pages lose contents and memory at once
 * (vmc_mem_drop), and are zero when the guest or anybody else gets that memory again.
 */
VMC_API const struct vmc_balloon_ops *vmc_virtio_balloon_space_ops(void);
/** What vmc_balloon_guest_look wants to know; asks as vmc_virtio_balloon_request_stats does. */
VMC_API void vmc_virtio_balloon_look(struct vmc_virtio *dev, struct vmc_balloon_seen *out);

VMC_END_DECLS

#endif
