/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Content-based page sharing: finds pages with equal contents and stores them once; compresses
 * what is left, alone or as a difference to a similar page.
 *
 * The scanner is hint-driven as described by Waldspurger (Memory Resource Management in VMware ESX
 * Server, OSDI 2002): a hash of a page's contents finds a candidate, and only a full comparison of
 * both pages, while neither can be written, makes them one. Deltas against similar pages follow the
 * idea of Difference Engine (Gupta et al., OSDI 2008).
 *
 * Nothing runs by itself: the embedder calls vmc_share_scan with a budget whenever it has time to
 * spare. Metadata: 4.5 to 6.1 bytes for each distinct page in the hint table.
 */
#ifndef VMCORE_SHARING_H
#define VMCORE_SHARING_H

#include <vmcore/pages.h>

VMC_BEGIN_DECLS

struct vmc_share;

/** Order in which pages are visited. */
enum vmc_share_order {
    VMC_SHARE_ADAPTIVE,   /**< what yields more, measured all the time */
    VMC_SHARE_SEQUENTIAL, /**< by address, space after space */
    VMC_SHARE_RANDOM,     /**< runs of 64 pages in pseudo-random order */
};

struct vmc_share_config {
    uint32_t size;       /**< sizeof(struct vmc_share_config) */
    uint32_t order;      /**< enum vmc_share_order */
    uint64_t seed;       /**< secret that keys the hashes; 0: from the platform's entropy */
    int32_t level;       /**< zstd level of the compressed store, -7 to 19; 0: 3 */
    uint32_t max_packed; /**< largest compressed size worth keeping, bytes; 0: 3072 */
};

/** Create the scanner of a pool. *pool is borrowed. VMC_EINVAL, VMC_ENOMEM; VMC_EEXIST: it has one. [any] */
VMC_API VMC_MUST_CHECK int vmc_share_create(struct vmc_pool *pool,
                                            const struct vmc_share_config *cfg,
                                            struct vmc_share **out, struct vmc_error *err);
/** Destroy the scanner; pages stay shared and compressed. NULL is fine. [one] */
VMC_API void vmc_share_destroy(struct vmc_share *sh);

/** How much work a call may do; members that are 0 do not limit. */
struct vmc_share_budget {
    uint64_t pages; /**< visited; skipped ones that cost next to nothing do not count */
    uint64_t ns;    /**< by the platform's clock, checked every 64 pages */
};

/** What one call did. */
struct vmc_share_result {
    uint64_t visited; /**< pages hashed or compared */
    uint64_t zeroed;  /**< found to be all zero */
    uint64_t merged;  /**< pages that now refer to an object, firsts included */
    uint64_t freed;   /**< frames that became free by it */
    uint64_t busy;    /**< passed over because they were being written or pinned */
    bool pass_done;   /**< every page of every space was considered since the last such result */
};

/**
 * Look for zero and identical pages among those written since they were last looked at.
 * Interruptible: the next call goes on where this one stopped. [one]
 */
VMC_API VMC_MUST_CHECK int vmc_share_scan(struct vmc_share *sh, const struct vmc_share_budget *b,
                                          struct vmc_share_result *out);

/** What compression did. */
struct vmc_share_pack_result {
    uint64_t visited;
    uint64_t packed;         /**< stored compressed */
    uint64_t deltas;         /**< stored as a difference */
    uint64_t incompressible; /**< left alone */
    uint64_t freed;          /**< frames */
    bool pass_done;
};

/**
 * Compress cold pages, those not accessed since the last sample of their space (vmc_space_sample),
 * whether private or shared. s: only of this space; NULL: of all. want: stop when that many frames
 * are free; 0: no limit. [one]
 */
VMC_API VMC_MUST_CHECK int vmc_share_pack(struct vmc_share *sh, struct vmc_space *s,
                                          const struct vmc_share_budget *b, uint64_t want,
                                          struct vmc_share_pack_result *out);

/**
 * Compress only contents that several pages share, wherever they are, once nobody in any VM has
 * touched them for a few samples. pass_done: all of them were looked at. [one]
 */
VMC_API VMC_MUST_CHECK int vmc_share_pack_shared(struct vmc_share *sh,
                                                 const struct vmc_share_budget *b, uint64_t want,
                                                 struct vmc_share_pack_result *out);

struct vmc_share_stats {
    uint64_t scanned;       /**< pages hashed */
    uint64_t merged;        /**< since creation */
    uint64_t zeroed;
    uint64_t false_hints;   /**< same hash bits, contents differ: costs a comparison, harms nothing */
    uint64_t stale_hints;   /**< dropped because the page had changed */
    uint64_t lost_hints;    /**< displaced from a full table */
    uint64_t hints;         /**< entries now */
    uint64_t passes;
    uint64_t groups;        /**< distinct salts */
    uint64_t meta_bytes;    /**< tables and scratch */
    uint64_t delta_tried, delta_won;
};
/** Counts since creation, and sizes now. [one] */
VMC_API void vmc_share_stats(struct vmc_share *sh, struct vmc_share_stats *out);

/**
 * How often to scan: given what the last call yielded, how many pages the next should take. Rises
 * while scanning pays, falls to a trickle while it does not. [one]
 */
VMC_API uint64_t vmc_share_next_budget(struct vmc_share *sh, uint64_t last_budget,
                                       const struct vmc_share_result *last);

VMC_END_DECLS

#endif
