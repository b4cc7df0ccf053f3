/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Host memory that several VMs share: a pool of frames, and for each VM a space that says where
 * the contents of each of its pages are.
 *
 * A page is zero (no memory at all), private (a frame of its own), an object (contents stored once
 * for every page that refers to them, resident or compressed), or swapped out. The pool moves pages
 * between these states; what a VM reads never changes by it.
 *
 * Whoever executes or emulates a VM reaches its pages through a *page provider* (struct
 * vmc_provider_ops): slots of a memory map that name a space (vmc_mem_provider), whether the
 * software CPU or KVM (vmc_kvm_frames_create) runs the guest. The provider asks the space for a page
 * it has no pointer to (vmc_space_access), and takes pointers back when told to (revoke).
 *
 * Policy is elsewhere: vmcore/sharing.h finds identical and similar pages, vmcore/balloon.h says
 * how much memory each VM may have.
 *
 * Threads: [any] functions may be called from any thread at any time while the pool and the space
 * live. [one]: one thread at a time for the object. docs/memory.md explains the protocol.
 */
#ifndef VMCORE_PAGES_H
#define VMCORE_PAGES_H

#include <vmcore/io.h>
#include <vmcore/platform.h>

VMC_BEGIN_DECLS

struct vmc_pool;
struct vmc_space;

/* ---- the pool -------------------------------------------------------------------------------- */

#define VMC_POOL_MAX_FRAMES (1u << 28) /**< 1 TiB */
#define VMC_POOL_MAX_PAGES  (1u << 30) /**< of all spaces together: 4 TiB */
#define VMC_POOL_MAX_SPACES 4096u

struct vmc_pool_config {
    uint32_t size;       /**< sizeof(struct vmc_pool_config) */
    uint32_t flags;      /**< must be 0 */
    uint64_t frames;     /**< 4 KiB frames of host memory that VMs and the compressed store may use */
    void *base;          /**< page-aligned memory for them, borrowed; NULL: from the platform */
    uint64_t max_pages;  /**< pages of all spaces together; 0: 8 times frames */
    /**
     * Give unused memory of the pool back to the host until it is used again, or NULL: never. It may
     * read as anything afterwards. Called from vmc_pool_trim, with no lock held.
     */
    void (*discard)(void *ctx, void *base, size_t bytes);
    void *ctx;
};

struct vmc_pool_stats {
    uint64_t frames;          /**< usable frames */
    uint64_t free;            /**< of these, unused */
    uint64_t private_frames;  /**< hold a private page */
    uint64_t object_frames;   /**< hold a resident object */
    uint64_t store_frames;    /**< belong to the compressed store */
    uint64_t limbo_frames;    /**< free once every vCPU has let go of its pointers */
    uint64_t objects;         /**< distinct contents: resident, compressed or delta */
    uint64_t packed_objects;  /**< of these, compressed */
    uint64_t delta_objects;   /**< of these, stored as a difference to another object */
    uint64_t packed_bytes;    /**< payload of the compressed store */
    uint64_t meta_bytes;      /**< everything the pool and its spaces allocated besides frames */
    uint64_t discarded;       /**< frames given back to the host so far */
    uint64_t unpacks;         /**< compressed contents brought back so far */
    uint64_t unpack_bad;      /**< compressed contents that did not decode (each is a bug) */
};

/** Create a pool. *pf is borrowed. VMC_EINVAL, VMC_ENOMEM, VMC_ELIMIT. [any] */
VMC_API VMC_MUST_CHECK int vmc_pool_create(const struct vmc_platform *pf,
                                           const struct vmc_pool_config *cfg,
                                           struct vmc_pool **out, struct vmc_error *err);
/** Destroy a pool without spaces. NULL is fine. [one] */
VMC_API void vmc_pool_destroy(struct vmc_pool *pool);
/** Counts of the whole pool now. [any] */
VMC_API void vmc_pool_stats(struct vmc_pool *pool, struct vmc_pool_stats *out);
/** Give unused 2 MiB blocks back to the host (discard); keep frames that are ready. [one] */
VMC_API uint64_t vmc_pool_trim(struct vmc_pool *pool, uint64_t keep);
/**
 * Frames that are free. The last 64 of a pool of 32 MiB or more are for compressed contents only:
 * compressing takes memory before it gives some back. Costs nothing. [any]
 */
VMC_API uint64_t vmc_pool_free(const struct vmc_pool *pool);
/**
 * Change how many frames may be used, up to the number at creation: the memory budget of the host.
 * Frames beyond it that are in use stay so until reclaimed; nothing new is handed out. [any]
 */
VMC_API void vmc_pool_set_budget(struct vmc_pool *pool, uint64_t frames);

/* ---- page providers -------------------------------------------------------------------------- */

/**
 * How a pool reaches the one who executes a VM. Members may be NULL where said. Called with locks
 * of the pool held: they must not call back into it, nor block.
 */
struct vmc_provider_ops {
    /**
     * Pointers and translations that were handed out for pages [first, first + count) must go;
     * count 0: all of the space. Only asks: returns a ticket, greater than earlier ones, that
     * settled() knows. 0: nobody holds any. NULL: nobody ever does.
     */
    uint64_t (*revoke)(void *ctx, uint64_t first, uint64_t count);
    /** Has everything that was revoked up to the ticket gone? Needed with revoke. */
    bool (*settled)(void *ctx, uint64_t ticket);
    /**
     * Pages were accessed or written (hardware bits): or them into the bitmaps, clear them at the
     * source. The bits of vmc_space_access are kept by the space and need no help. NULL: none.
     */
    void (*harvest)(void *ctx, uint64_t first, uint64_t count, uint64_t *accessed,
                    uint64_t *dirty);
};

enum vmc_page_state {
    VMC_PAGE_ZERO,    /**< reads as zero and takes no memory */
    VMC_PAGE_PRIVATE, /**< has a frame of its own */
    VMC_PAGE_OBJECT,  /**< refers to an object in memory */
    VMC_PAGE_PACKED,  /**< refers to an object that is compressed */
    VMC_PAGE_DELTA,   /**< refers to an object stored as a difference */
    VMC_PAGE_SWAPPED, /**< in the swap file */
    VMC_PAGE_BALLOON, /**< given up by the guest: zero if touched all the same */
    VMC_PAGE_STATES
};

#define VMC_SPACE_SWAP_BATCH 32u /**< pages written or read ahead in one go */

/**
 * Take memory in contiguous blocks of 2 MiB while the pool has plenty, so that second-level tables
 * can map large pages and balloons are cheap. Pages that turn out zero or equal are still found.
 */
#define VMC_SPACE_LARGE 1u

struct vmc_space_config {
    uint32_t size;     /**< sizeof(struct vmc_space_config) */
    uint32_t flags;    /**< VMC_SPACE_* */
    uint64_t pages;
    /**
     * Trust domain. Contents are shared only between spaces of equal salt, and only they can find
     * out, by timing their own writes, that another holds the same page. Give every VM a salt of
     * its own unless their owners trust each other.
     */
    uint64_t salt;
    const struct vmc_provider_ops *provider; /**< borrowed; NULL: nobody holds pointers */
    void *provider_ctx;
    /** Swap file of this space, at least pages x 4 KiB, borrowed; ops NULL: never swapped. */
    struct vmc_blockdev swap;
};

/** Counts of pages by state, and of events. */
struct vmc_space_stats {
    uint64_t pages;
    uint64_t state[VMC_PAGE_STATES]; /**< by enum vmc_page_state */
    uint64_t shared_saved;           /**< frames that its part in shared objects saves */
    uint64_t consumed_bytes;         /**< host memory it takes: its frames, its part of objects */
    uint64_t breaks;                 /**< copies because a shared page was written */
    uint64_t unpacks, swap_ins, swap_outs;
    uint64_t swap_errors;            /**< reads or writes of the swap file that failed */
    uint64_t swap_lost; /**< of these, times that a page which was asked for could not be read */
    uint64_t unpack_lost; /**< times that compressed contents of a page did not decode */
    uint64_t lost_page; /**< the page of the last of either */
    bool swap_paused; /**< a write failed a moment ago (vmc_space_swap_out) */
    uint64_t accessed;               /**< pages in use during the last sample (vmc_space_sample) */
};

/**
 * Add a VM whose pages are all zero. VMC_EINVAL, VMC_ELIMIT, VMC_ENOMEM. [any]
 */
VMC_API VMC_MUST_CHECK int vmc_space_create(struct vmc_pool *pool,
                                            const struct vmc_space_config *cfg,
                                            struct vmc_space **out, struct vmc_error *err);
/** Remove a VM that nobody executes any more, with all its pages. NULL is fine. [one] */
VMC_API void vmc_space_destroy(struct vmc_space *s);
/** Counts of one VM now. [any] */
VMC_API void vmc_space_stats(struct vmc_space *s, struct vmc_space_stats *out);
/** Its length in pages, as created. [any] */
VMC_API uint64_t vmc_space_pages(const struct vmc_space *s);
/** What a page is now; VMC_PAGE_ZERO past the end. [any] */
VMC_API enum vmc_page_state vmc_space_state(struct vmc_space *s, uint64_t page);

#define VMC_ACCESS_WRITE 1u
#define VMC_ACCESS_NOWAIT 2u /**< VMC_EAGAIN instead of waiting (vmc_space_access never waits) */
#define VMC_ACCESS_READY  4u /**< vmc_space_access: VMC_EAGAIN unless the page is at hand as it is */

/** What vmc_space_access found. */
struct vmc_page_ref {
    void *ptr;      /**< 4 KiB */
    bool writable;  /**< may be written through; always so after VMC_ACCESS_WRITE */
};

/**
 * A pointer to a page, for a vCPU. Brings the page into memory, makes it private for a write, and
 * notes it as accessed (and dirty). The pointer is valid until a revoke that covers it has settled,
 * so the caller must count as a holder to its provider before it calls.
 *
 * VMC_EAGAIN: other vCPUs hold read pointers to contents that are about to become two. They were
 * asked to let go; let go yourself (pass a boundary at which revokes are obeyed) and call again.
 * VMC_ERANGE, VMC_ENOSPC (no frame is free: reclaim), VMC_EIO (swap file), VMC_EINTERNAL (compressed
 * contents do not decode). The last two say that this page is lost to this VM, and only that. [any]
 */
VMC_API VMC_MUST_CHECK int vmc_space_access(struct vmc_space *s, uint64_t page, uint32_t flags,
                                            struct vmc_page_ref *out);
/**
 * The same for devices and anybody who is no vCPU: the page is private and stays where it is until
 * vmc_space_unpin, whether it is to be written or not. Waits for other holders where
 * vmc_space_access answers VMC_EAGAIN, unless VMC_ACCESS_NOWAIT. [any], but without
 * VMC_ACCESS_NOWAIT not while counted as a holder by the provider.
 */
VMC_API VMC_MUST_CHECK int vmc_space_pin(struct vmc_space *s, uint64_t page, uint32_t flags,
                                         struct vmc_page_ref *out);
/** dirty: something was written through the pointer. [any] */
VMC_API void vmc_space_unpin(struct vmc_space *s, uint64_t page, bool dirty);
/**
 * Copy bytes of one page, from offset. Reading leaves shared pages shared. Waiting and errors are
 * those of vmc_space_pin. [any]
 */
VMC_API VMC_MUST_CHECK int vmc_space_read(struct vmc_space *s, uint64_t page, uint32_t offset,
                                          void *dst, uint32_t bytes, uint32_t flags);
/**
 * Write bytes of one page, from offset; a shared page becomes private. Errors as vmc_space_read.
 * [any]
 */
VMC_API VMC_MUST_CHECK int vmc_space_write(struct vmc_space *s, uint64_t page, uint32_t offset,
                                           const void *src, uint32_t bytes, uint32_t flags);
/**
 * Sleep until something that vmc_space_access had to wait for may have happened, at most 1 ms. Not
 * while counted as a holder by the provider. [any]
 */
VMC_API void vmc_space_wait(struct vmc_space *s);

/**
 * The guest gave pages up (balloon) or said that they are free (report): their contents are
 * dropped, they read as zero from now on, and their memory is free for others. Pinned pages keep
 * theirs. Returns the number of pages dropped. [any]
 */
VMC_API uint64_t vmc_space_drop(struct vmc_space *s, uint64_t first, uint64_t count, bool balloon);
/** The guest takes ballooned pages back. [any] */
VMC_API void vmc_space_return(struct vmc_space *s, uint64_t first, uint64_t count);

/* ---- samples and reclaim --------------------------------------------------------------------- */

/**
 * End a sampling period: count the pages accessed since the last call (into *accessed unless that is
 * NULL), start anew, and revoke all pointers so that new accesses are seen. VMC_EAGAIN: the last
 * revoke has not settled. [one]
 */
VMC_API VMC_MUST_CHECK int vmc_space_sample(struct vmc_space *s, uint64_t *accessed);

/**
 * Write up to want private pages of a space to its swap file, looking at no more than budget pages:
 * pages not accessed since the sample before the last one first, with hot any that nobody holds a
 * pointer to. Shared and compressed pages stay. The frames are free once the writes are done: see
 * vmc_space_poll. Compression is vmc_share_pack (vmcore/sharing.h). *started: pages handed to the
 * swap file. VMC_ENOTSUP: no swap file. VMC_EAGAIN: all requests are in flight, or a write failed:
 * then the file has a pause, of 50 ms at first and twice as long each time, up to 3.2 s. [one]
 */
VMC_API VMC_MUST_CHECK int vmc_space_swap_out(struct vmc_space *s, uint64_t want, uint64_t budget,
                                              bool hot, uint64_t *started);
/**
 * The VM shall end and must not be executed further than to where it stops: pages that cannot be
 * read from its swap file, or whose compressed contents do not decode, are zero from now on, so that
 * a vCPU which waits for one can leave. [any]
 */
VMC_API void vmc_space_abandon(struct vmc_space *s);
/**
 * The VM is about to stop: until it is destroyed it may take the last frames of the pool too, which
 * are kept for compression otherwise (vmc_pool_free), so that a vCPU or a device which waits for a
 * page can come to where it stops even if no memory can be reclaimed any more. [any]
 */
VMC_API void vmc_space_finish(struct vmc_space *s);
/** Free frames whose revokes have settled, and finish swap requests that are done. [any] */
VMC_API void vmc_space_poll(struct vmc_space *s);
/**
 * Move objects of the compressed store together and free the frames that become empty, at most
 * budget objects. Returns the frames freed. [one]
 */
VMC_API uint64_t vmc_pool_compact(struct vmc_pool *pool, uint64_t budget);

VMC_END_DECLS

#endif
