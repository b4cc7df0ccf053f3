/* SPDX-License-Identifier: BSD-2-Clause */
/* The server's side of one NBD connection, fixed newstyle, over any transport and any image. */
#ifndef NBD_SERVER_H
#define NBD_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_MAX_REQUEST (32u << 20)

/* Of a command: durable when done; zeros that keep their blocks. */
#define NBD_FUA     1u
#define NBD_NO_HOLE 2u

enum nbd_cmd { NBD_READ, NBD_WRITE, NBD_DISC, NBD_FLUSH, NBD_TRIM, NBD_CACHE, NBD_ZEROES };

struct nbd_server {
    uint64_t size;  /* of the image, bytes */
    uint32_t least; /* bytes of which every offset and length is a multiple; 0: 1 */
    bool read_only;
    char *buf;     /* NBD_MAX_REQUEST bytes: what is read and written */
    void *ctx;
    /* All of the bytes, or -1: the connection is over. */
    int (*get)(void *ctx, void *p, size_t bytes);
    int (*put)(void *ctx, const void *p, size_t bytes);
    /*
     * Read to buf, write from it, flush, trim or zero; the range is in the image. Returns the bytes
     * that were read or written, 0 for the others, -EIO or -ENOSPC.
     */
    int64_t (*act)(void *ctx, enum nbd_cmd cmd, uint64_t offset, uint32_t bytes, unsigned flags);
};

/* Until the client leaves, says what is no NBD, or the connection is over. */
void nbd_serve(const struct nbd_server *s);

#endif
