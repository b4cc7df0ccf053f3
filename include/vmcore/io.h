/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Back ends that the embedder gives to devices: block, network, character.
 */
#ifndef VMCORE_IO_H
#define VMCORE_IO_H

#include <vmcore/status.h>

VMC_BEGIN_DECLS

/** A piece of host memory. */
struct vmc_iovec {
    void *base;
    size_t bytes;
};

enum vmc_block_op {
    VMC_BLOCK_READ,
    VMC_BLOCK_WRITE,
    VMC_BLOCK_FLUSH,        /**< every completed write is durable when this completes */
    VMC_BLOCK_DISCARD,      /**< contents become undefined, storage may be released */
    VMC_BLOCK_WRITE_ZEROES, /**< contents become zero */
};

/**
 * One request. The issuer owns it and everything it points to until it is complete.
 * offset and the sum of iov bytes (or bytes, for discard and zeroes) are multiples of
 * vmc_block_info.sector_bytes.
 */
struct vmc_block_req {
    uint32_t op;    /**< enum vmc_block_op */
    uint32_t flags; /**< VMC_BLOCK_* below, or 0 */
    uint64_t offset; /**< bytes from the start of the device */
    uint64_t bytes;  /**< total length; equals the sum of iov for read and write */
    const struct vmc_iovec *iov;
    uint32_t iov_count;
    int32_t status; /**< result once complete: 0 or VMC_E* */
    /** Called once for a pending request, from any thread, never from inside submit. */
    void (*done)(struct vmc_block_req *req);
    void *opaque;     /**< the issuer's */
    void *backend[6]; /**< the back end's scratch while pending */
};

struct vmc_block_info {
    uint64_t bytes;        /**< capacity */
    uint32_t sector_bytes; /**< smallest addressable unit, a power of two from 512 to 4096 */
    uint32_t optimal_bytes; /**< preferred request size, or 0 */
    bool read_only;
    bool can_discard;
    bool can_write_zeroes;
    bool can_compare_write; /**< compare_write is atomic against every other host */
    bool synchronous;       /**< submit never answers VMC_BLOCK_PENDING */
};

/** Request flag: the issuer waits for it, so it may as well be done inside submit. A hint. */
#define VMC_BLOCK_WAITED 1u
/**
 * Request flag: submit must not wait for other work. Where it would have to, it does nothing and
 * completes the request with VMC_EAGAIN; without the flag, from a place that may wait, it is done.
 * Back ends that never wait ignore it.
 */
#define VMC_BLOCK_NOWAIT 2u

#define VMC_BLOCK_COMPLETE 0 /**< submit: finished, req->status says how; done is not called */
#define VMC_BLOCK_PENDING  1 /**< submit: done will be called */

/** A part of a device that is in memory. */
struct vmc_block_window {
    uint64_t start, bytes; /**< on the device */
    unsigned char *data;   /**< its first byte */
};

/** Who moves data between open and close of vmc_block_direct_ops. */
struct vmc_block_mover {
    /**
     * Copy bytes from data, in a window, to buf, or the other way round. soon is a hint: data of a
     * later call, which may be fetched from memory meanwhile, or NULL. bytes 0: the hint only.
     */
    void (*move)(void *ctx, unsigned char *data, unsigned char *buf, size_t bytes, bool write,
                 const unsigned char *soon);
    void *ctx;
    bool writable;     /**< moves may write */
    bool fetch_writes; /**< soon may be data that is going to be written, too */
};

/**
 * Reading and writing of a device whose data is in memory, without requests. Between open and close
 * the calling thread uses nothing else of the device.
 */
struct vmc_block_direct_ops {
    /** False: not now; submit does it. close is only called after true. */
    bool (*open)(void *ctx, struct vmc_block_mover *out);
    /**
     * A window that holds at least these bytes, good until close. wide: it should hold much more,
     * as it is used for what comes after, too. False: submit has to do it, after close.
     */
    bool (*window)(void *ctx, uint64_t offset, uint64_t bytes, bool wide,
                   struct vmc_block_window *out);
    /** Other threads see what was moved. */
    void (*close)(void *ctx);
};

struct vmc_blockdev_ops {
    int (*info)(void *ctx, struct vmc_block_info *out);
    /** VMC_BLOCK_COMPLETE or VMC_BLOCK_PENDING; failures are reported in req->status. */
    int (*submit)(void *ctx, struct vmc_block_req *req);
    /** Push what submit may have batched. May be NULL. */
    void (*kick)(void *ctx);
    /**
     * Atomically: if the sector at offset equals expect, replace it by data.
     * 0 done, VMC_EAGAIN it differs, other VMC_E* on failure. NULL unless can_compare_write.
     */
    int (*compare_write)(void *ctx, uint64_t offset, const void *expect, const void *data,
                         size_t bytes);
    /**
     * Look for completions and call their done; how a caller without threads waits. NULL when
     * completions come by themselves. Any thread.
     */
    void (*poll)(void *ctx);
    const struct vmc_block_direct_ops *direct; /**< NULL: none */
};

/** A block device: operations and their context, by value. */
struct vmc_blockdev {
    const struct vmc_blockdev_ops *ops;
    void *ctx;
};

struct vmc_chardev_ops {
    /** Take up to bytes; returns how many were taken (fewer when the far end is slow) or VMC_E*. */
    int (*write)(void *ctx, const void *data, size_t bytes);
};

/** Where a serial line or console sends its output. Input is pushed into the device. */
struct vmc_chardev {
    const struct vmc_chardev_ops *ops;
    void *ctx;
};

struct vmc_netdev_ops {
    /** Send one Ethernet frame; VMC_EAGAIN when the queue is full (the frame is dropped). */
    int (*send)(void *ctx, const struct vmc_iovec *iov, uint32_t iov_count);
};

/** Where a network card sends frames. Received frames are pushed into the device. */
struct vmc_netdev {
    const struct vmc_netdev_ops *ops;
    void *ctx;
};

VMC_END_DECLS

#endif
