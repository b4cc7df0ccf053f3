/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Guest-physical memory: slots, accessors, dirty log.
 *
 * The map is edited while the VM is quiesced; everything else may be called from any thread.
 * Accessors are the only way to touch guest memory: they check bounds, mark pages dirty and keep
 * translated code coherent.
 */
#ifndef VMCORE_MEMORY_H
#define VMCORE_MEMORY_H

#include <vmcore/platform.h>

VMC_BEGIN_DECLS

struct vmc_mem;
struct vmc_space;
struct vmc_provider_ops;

enum vmc_mem_attr {
    VMC_MEM_RAM = 1u << 0, /**< readable, writable */
    VMC_MEM_ROM = 1u << 1, /**< readable; guest writes have no effect, vmc_mem_load may fill it */
};

/** A range of guest-physical memory. gpa and bytes are multiples of the page size. */
struct vmc_mem_slot {
    uint32_t size; /**< sizeof(struct vmc_mem_slot) */
    uint32_t attr; /**< VMC_MEM_RAM or VMC_MEM_ROM */
    uint64_t gpa;
    uint64_t bytes;
    void *backing; /**< page-aligned host memory, borrowed until removed; NULL: the library allocates */
    /**
     * Pages of a space (vmcore/pages.h) instead, borrowed: RAM without backing whose pages are
     * where the space says, from its page space_page on. The space's provider must be
     * vmc_mem_provider() with this map as context. Only engines that ask for every page they touch
     * can use it: the software CPU, and KVM with vmc_kvm_config.frames (VMC_ENOTSUP elsewhere).
     */
    struct vmc_space *space;
    uint64_t space_page;
};

#define VMC_MEM_MAX_SLOTS 32
#define VMC_GPA_BITS      46 /**< guest-physical addresses are below 2^46 */

/** Create an empty map. VMC_ENOMEM, VMC_EINVAL. */
VMC_API VMC_MUST_CHECK int vmc_mem_create(const struct vmc_platform *pf, struct vmc_mem **out,
                                          struct vmc_error *err);
/** Destroy the map and the memory that the library allocated for it. NULL is allowed. */
VMC_API void vmc_mem_destroy(struct vmc_mem *mem);

/**
 * Add a slot. While quiesced. VMC_EEXIST overlap, VMC_ELIMIT too many slots, VMC_EINVAL alignment
 * or attributes, VMC_ERANGE beyond VMC_GPA_BITS, VMC_ENOMEM.
 */
VMC_API VMC_MUST_CHECK int vmc_mem_add(struct vmc_mem *mem, const struct vmc_mem_slot *slot,
                                       struct vmc_error *err);
/** Remove the slot that starts at gpa. While quiesced. VMC_ENOENT. */
VMC_API VMC_MUST_CHECK int vmc_mem_remove(struct vmc_mem *mem, uint64_t gpa);
/** Describe slot number index in ascending order of gpa. VMC_ENOENT past the last. */
VMC_API VMC_MUST_CHECK int vmc_mem_slot_at(const struct vmc_mem *mem, unsigned index,
                                           struct vmc_mem_slot *out);

/**
 * The page provider that a map is to the spaces behind its slots: pass it with the map as context to
 * vmc_space_create. Pointers that vCPUs hold are taken back without stopping them.
 */
VMC_API const struct vmc_provider_ops *vmc_mem_provider(void);

/**
 * Somebody outside the library who maps pages of slots with a space: an engine of the embedder's.
 * Nobody may reach the range through such a mapping when revoke returns; it is called with locks
 * held, must not call back into the library, and comes from any thread.
 */
struct vmc_mem_watch {
    void (*revoke)(void *ctx, uint64_t gpa, uint64_t bytes);
    void *ctx;
    void *reserved[8]; /**< the library's */
};
/** Begin to tell *w, which stays borrowed until vmc_mem_unwatch. Both while quiesced. */
VMC_API void vmc_mem_watch(struct vmc_mem *mem, struct vmc_mem_watch *w);
/** Tell it no more. While quiesced. */
VMC_API void vmc_mem_unwatch(struct vmc_mem *mem, struct vmc_mem_watch *w);

/** Copy from guest memory. VMC_ERANGE when any byte is not RAM or ROM (dst then undefined). */
VMC_API VMC_MUST_CHECK int vmc_mem_read(struct vmc_mem *mem, uint64_t gpa, void *dst, size_t bytes);
/** Copy to guest RAM and mark dirty. VMC_ERANGE when any byte is not RAM: nothing is written. */
VMC_API VMC_MUST_CHECK int vmc_mem_write(struct vmc_mem *mem, uint64_t gpa, const void *src,
                                         size_t bytes);
/** Like vmc_mem_write, but fills ROM too: for loaders. */
VMC_API VMC_MUST_CHECK int vmc_mem_load(struct vmc_mem *mem, uint64_t gpa, const void *src,
                                        size_t bytes);
/** Fill guest RAM or ROM with a byte. VMC_ERANGE. */
VMC_API VMC_MUST_CHECK int vmc_mem_set(struct vmc_mem *mem, uint64_t gpa, int byte, uint64_t bytes);

/**
 * A direct window onto guest memory, for I/O without a copy.
 * On success *hva points at gpa and *got (1..bytes) says how much is contiguous in the host; a
 * longer transfer takes several windows. A writable window is marked dirty now and again by
 * vmc_mem_unref. The pointer is valid until then. VMC_ERANGE; slots with a space: VMC_EIO as well.
 */
VMC_API VMC_MUST_CHECK int vmc_mem_ref(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes,
                                       bool write, void **hva, uint64_t *got);
/** End a window of vmc_mem_ref, with the same gpa, the length that it gave, and write. */
VMC_API void vmc_mem_unref(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes, bool write);

/**
 * The guest gave pages up (balloon) or said that they are free: RAM of slots with a space loses its
 * contents and its memory, and reads as zero from now on. Whole pages; pinned ones and slots without
 * a space stay as they are. Returns the number of pages dropped. Waits for vCPUs to let go: not on
 * the thread of one, except in its device callbacks.
 */
VMC_API uint64_t vmc_mem_drop(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes, bool balloon);
/** The guest takes pages out of its balloon. Slots without a space need nothing. */
VMC_API void vmc_mem_return(struct vmc_mem *mem, uint64_t gpa, uint64_t bytes);

/* ---- dirty log ----------------------------------------------------------------------------- */

#define VMC_DIRTY_CLIENTS 4

/** Start logging for a client (0..VMC_DIRTY_CLIENTS-1); every page starts dirty. VMC_EBUSY. */
VMC_API VMC_MUST_CHECK int vmc_mem_dirty_start(struct vmc_mem *mem, unsigned client);
/** End a client's log; nothing happens when it has none. While quiesced. */
VMC_API void vmc_mem_dirty_stop(struct vmc_mem *mem, unsigned client);
/**
 * Take and clear one client's dirty bits of a range (multiple of 64 pages from a slot's start).
 * bitmap gets one bit a page, words is its length in uint64_t. Writes of vCPUs, devices and
 * loaders all count. VMC_ERANGE, VMC_ESTATE when the client is not started.
 */
VMC_API VMC_MUST_CHECK int vmc_mem_dirty_take(struct vmc_mem *mem, unsigned client, uint64_t gpa,
                                              uint64_t pages, uint64_t *bitmap, size_t words);
/** Put bits back that were taken but not used (an aborted migration pass). */
VMC_API VMC_MUST_CHECK int vmc_mem_dirty_merge(struct vmc_mem *mem, unsigned client, uint64_t gpa,
                                               uint64_t pages, const uint64_t *bitmap,
                                               size_t words);

VMC_END_DECLS

#endif
