/* SPDX-License-Identifier: BSD-2-Clause */
/* The NBD server: any bytes from its client, over an image in memory whose size byte 0 chooses. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../tools/vmcore/nbd_server.h"

#define MOST (256u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct client {
    const uint8_t *data;
    size_t left;
    struct nbd_server *s;
    unsigned char image[MOST];
    size_t answered;
};

static int get(void *ctx, void *p, size_t bytes)
{
    struct client *c = ctx;

    if (bytes > c->left)
        return -1;
    memcpy(p, c->data, bytes);
    c->data += bytes;
    c->left -= bytes;
    return 0;
}

static int put(void *ctx, const void *p, size_t bytes)
{
    struct client *c = ctx;
    const unsigned char *b = p;

    /* All of it is looked at, so that a sanitizer sees what does not belong to the server. */
    for (size_t i = 0; i < bytes; i++)
        c->answered += b[i];
    return 0;
}

static int64_t act(void *ctx, enum nbd_cmd cmd, uint64_t offset, uint32_t bytes, unsigned flags)
{
    struct client *c = ctx;

    /* The contract. */
    if (offset > c->s->size || bytes > c->s->size - offset || (flags != 0 && cmd == NBD_READ))
        abort();
    switch (cmd) {
    case NBD_READ:
        memcpy(c->s->buf, c->image + offset, bytes);
        return bytes;
    case NBD_WRITE:
        memcpy(c->image + offset, c->s->buf, bytes);
        return bytes;
    case NBD_TRIM:
    case NBD_ZEROES:
        memset(c->image + offset, 0, bytes);
        return bytes == MOST ? -ENOSPC : 0;
    case NBD_FLUSH:
        return 0;
    default:
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct client c;
    static char *buf;

    if (size == 0 || (buf == NULL && (buf = calloc(1, NBD_MAX_REQUEST)) == NULL))
        return 0;
    struct nbd_server s = {.size = data[0] == 0xff ? MOST : data[0] * 512ull,
                           .buf = buf,
                           .ctx = &c,
                           .get = get,
                           .put = put,
                           .act = act};
    c.data = data + 1;
    c.left = size - 1;
    c.s = &s;
    nbd_serve(&s);
    return 0;
}
