/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE
#include "nbd_server.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md */
#define NBD_MAGIC       0x4e42444d41474943ull
#define NBD_OPTS        0x49484156454f5054ull
#define NBD_OPT_REPLY   0x0003e889045565a9ull
#define NBD_REQUEST     0x25609513u
#define NBD_REPLY       0x67446698u
#define OPT_EXPORT_NAME 1u
#define OPT_ABORT       2u
#define OPT_LIST        3u
#define OPT_INFO        6u
#define OPT_GO          7u
#define REP_ACK         1u
#define REP_SERVER      2u
#define REP_INFO        3u
#define REP_ERR_UNSUP   0x80000001u
#define REP_ERR_INVALID 0x80000003u
#define REP_ERR_TOO_BIG 0x80000009u
#define INFO_EXPORT     0u
#define INFO_BLOCK_SIZE 3u
#define HANDSHAKE_FLAGS 3u /* fixed newstyle, no zeroes */
/* flags, flush, FUA, trim, write zeroes, several connections */
#define EXPORT_FLAGS (1u | 4u | 8u | 32u | 64u | 256u)
#define READ_ONLY    2u
#define MAX_OPTION   4096u /* more is skipped */

static uint16_t export_flags(const struct nbd_server *s)
{
    return htobe16(EXPORT_FLAGS | (s->read_only ? READ_ONLY : 0));
}

static uint32_t least(const struct nbd_server *s)
{
    return s->least != 0 ? s->least : 1;
}

static int opt_reply(const struct nbd_server *s, uint32_t opt, uint32_t type, const void *data,
                     uint32_t n)
{
    struct {
        uint64_t magic;
        uint32_t opt, type, len;
    } __attribute__((packed)) r = {htobe64(NBD_OPT_REPLY), htobe32(opt), htobe32(type), htobe32(n)};

    if (s->put(s->ctx, &r, sizeof(r)) != 0)
        return -1;
    return n > 0 ? s->put(s->ctx, data, n) : 0;
}

/*
 * INFO and GO: a name's length, the name, a count, as many kinds of information that are wanted.
 * False: that is not what is there.
 */
static bool parse_info(const struct nbd_server *s, uint32_t len, bool *block_size)
{
    const uint8_t *p = (const uint8_t *)s->buf;
    uint32_t name;
    uint16_t kinds, kind;

    *block_size = false;
    if (len < 6)
        return false;
    memcpy(&name, p, 4);
    if (be32toh(name) > len - 6)
        return false;
    p += 4 + be32toh(name);
    memcpy(&kinds, p, 2);
    if (be16toh(kinds) * 2u != len - 6 - be32toh(name))
        return false;
    for (unsigned i = 0; i < be16toh(kinds); i++) {
        memcpy(&kind, p + 2 + 2 * i, 2);
        *block_size = *block_size || be16toh(kind) == INFO_BLOCK_SIZE;
    }
    return true;
}

/* 0: done; 1: refused, the client may ask for something else; -1: the connection is over. */
static int send_info(const struct nbd_server *s, uint32_t opt, uint32_t len)
{
    struct {
        uint16_t type;
        uint64_t size;
        uint16_t flags;
    } __attribute__((packed)) info = {htobe16(INFO_EXPORT), htobe64(s->size), export_flags(s)};
    struct {
        uint16_t type;
        uint32_t least, best, most;
    } __attribute__((packed))
    block = {htobe16(INFO_BLOCK_SIZE), htobe32(least(s)), htobe32(4096), htobe32(NBD_MAX_REQUEST)};
    bool block_size;

    if (!parse_info(s, len, &block_size))
        return opt_reply(s, opt, REP_ERR_INVALID, NULL, 0) != 0 ? -1 : 1;
    if (opt_reply(s, opt, REP_INFO, &info, sizeof(info)) != 0)
        return -1;
    if (block_size && opt_reply(s, opt, REP_INFO, &block, sizeof(block)) != 0)
        return -1;
    return opt_reply(s, opt, REP_ACK, NULL, 0);
}

static int send_export(const struct nbd_server *s, bool zeroes)
{
    struct {
        uint64_t size;
        uint16_t flags;
        char zeroes[124];
    } __attribute__((packed)) e = {htobe64(s->size), export_flags(s), {0}};

    return s->put(s->ctx, &e, zeroes ? sizeof(e) : 10);
}

/* There is one export, whatever it is called. */
static int send_list(const struct nbd_server *s, uint32_t opt, uint32_t len)
{
    uint32_t no_name = 0;

    if (len != 0)
        return opt_reply(s, opt, REP_ERR_INVALID, NULL, 0);
    if (opt_reply(s, opt, REP_SERVER, &no_name, sizeof(no_name)) != 0)
        return -1;
    return opt_reply(s, opt, REP_ACK, NULL, 0);
}

/* More than any option needs. 1, or -1: the connection is over. */
static int skip(const struct nbd_server *s, uint32_t opt, uint32_t len)
{
    while (len > 0) {
        uint32_t n = len < MAX_OPTION ? len : MAX_OPTION;
        if (s->get(s->ctx, s->buf, n) != 0)
            return -1;
        len -= n;
    }
    return opt_reply(s, opt, REP_ERR_TOO_BIG, NULL, 0) != 0 ? -1 : 1;
}

/* 0: go on to transmission; 1: with the next option; -1: the connection is over. */
static int option(const struct nbd_server *s, uint32_t opt, uint32_t len, bool zeroes)
{
    int rc;

    switch (opt) {
    case OPT_EXPORT_NAME:
        return send_export(s, zeroes);
    case OPT_GO:
        return send_info(s, opt, len);
    case OPT_INFO:
        rc = send_info(s, opt, len);
        break;
    case OPT_LIST:
        rc = send_list(s, opt, len);
        break;
    case OPT_ABORT:
        (void)!opt_reply(s, opt, REP_ACK, NULL, 0);
        return -1;
    default:
        rc = opt_reply(s, opt, REP_ERR_UNSUP, NULL, 0);
        break;
    }
    return rc < 0 ? -1 : 1;
}

/* 0: go on to transmission; -1: the connection is over. */
static int handshake(const struct nbd_server *s)
{
    struct {
        uint64_t magic, opts;
        uint16_t flags;
    } __attribute__((packed))
    hello = {htobe64(NBD_MAGIC), htobe64(NBD_OPTS), htobe16(HANDSHAKE_FLAGS)};
    uint32_t client;

    if (s->put(s->ctx, &hello, sizeof(hello)) != 0 || s->get(s->ctx, &client, 4) != 0)
        return -1;
    if ((be32toh(client) & ~HANDSHAKE_FLAGS) != 0) /* it wants more than was offered */
        return -1;
    for (;;) {
        struct {
            uint64_t magic;
            uint32_t opt, len;
        } __attribute__((packed)) o;
        if (s->get(s->ctx, &o, sizeof(o)) != 0 || be64toh(o.magic) != NBD_OPTS)
            return -1;
        uint32_t opt = be32toh(o.opt), len = be32toh(o.len);
        int rc;
        if (len > MAX_OPTION)
            rc = opt == OPT_EXPORT_NAME ? -1 : skip(s, opt, len); /* the one without an answer */
        else if (s->get(s->ctx, s->buf, len) != 0)
            rc = -1;
        else
            rc = option(s, opt, len, (be32toh(client) & 2) == 0);
        if (rc <= 0)
            return rc;
    }
}

struct request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t handle, off;
    uint32_t len;
} __attribute__((packed));

/* What is to be answered to a request, and for a write its data. -1: the connection is over. */
static int request(const struct nbd_server *s, const struct request *q)
{
    uint16_t cmd = be16toh(q->type);
    uint64_t off = be64toh(q->off);
    uint32_t len = be32toh(q->len);
    unsigned flags = be16toh(q->flags);

    if (cmd == NBD_WRITE && (len > NBD_MAX_REQUEST || s->get(s->ctx, s->buf, len) != 0))
        return -1;
    /* FUA may stand at every command; what else is not known asks for what nobody would do. */
    unsigned known = NBD_FUA | (cmd == NBD_ZEROES ? NBD_NO_HOLE : 0);
    if (cmd > NBD_ZEROES || cmd == NBD_CACHE || (flags & ~known) != 0 ||
        (cmd == NBD_READ && len > NBD_MAX_REQUEST) || off % least(s) != 0 || len % least(s) != 0)
        return EINVAL;
    bool changes = cmd == NBD_WRITE || cmd == NBD_TRIM || cmd == NBD_ZEROES;
    if (s->read_only && changes)
        return EPERM;
    if (off > s->size || len > s->size - off)
        return cmd == NBD_WRITE || cmd == NBD_ZEROES ? ENOSPC : EINVAL;
    int64_t done = s->act(s->ctx, cmd, off, len, changes ? flags : 0);
    if (done < 0)
        return (int)-done;
    /* All or nothing: the rest of the buffer holds older data. */
    return (cmd == NBD_READ || cmd == NBD_WRITE) && done != len ? EIO : 0;
}

void nbd_serve(const struct nbd_server *s)
{
    struct request q;

    if (handshake(s) != 0)
        return;
    while (s->get(s->ctx, &q, sizeof(q)) == 0 && be32toh(q.magic) == NBD_REQUEST &&
           be16toh(q.type) != NBD_DISC) {
        int e = request(s, &q);
        if (e < 0)
            return;
        struct {
            uint32_t magic, error;
            uint64_t handle;
        } __attribute__((packed)) r = {htobe32(NBD_REPLY), htobe32((uint32_t)e), q.handle};
        if (s->put(s->ctx, &r, sizeof(r)) != 0)
            return;
        if (be16toh(q.type) == NBD_READ && e == 0 && s->put(s->ctx, s->buf, be32toh(q.len)) != 0)
            return;
    }
}
