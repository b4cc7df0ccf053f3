/* SPDX-License-Identifier: BSD-2-Clause */
/* The NBD server against a client in memory: what is answered to transfers that fail or end early.
 */
#include <endian.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "nbd_server.h"

#define DISK 65536u

struct request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t handle, offset;
    uint32_t bytes;
} __attribute__((packed));

struct reply {
    uint32_t magic, error;
    uint64_t handle;
} __attribute__((packed));

struct fx {
    struct nbd_server s;
    char buf[DISK];
    unsigned char sent[2 * DISK], got[2 * DISK];
    size_t sent_bytes, at, got_bytes;
    int64_t result;   /* of the next command */
    enum nbd_cmd cmd; /* the last one */
    unsigned flags, cmds;
};

static int get(void *ctx, void *p, size_t bytes)
{
    struct fx *f = ctx;

    if (bytes > f->sent_bytes - f->at)
        return -1;
    memcpy(p, f->sent + f->at, bytes);
    f->at += bytes;
    return 0;
}

static int put(void *ctx, const void *p, size_t bytes)
{
    struct fx *f = ctx;

    assert_true(bytes <= sizeof(f->got) - f->got_bytes);
    memcpy(f->got + f->got_bytes, p, bytes);
    f->got_bytes += bytes;
    return 0;
}

static int64_t act(void *ctx, enum nbd_cmd cmd, uint64_t offset, uint32_t bytes, unsigned flags)
{
    struct fx *f = ctx;

    assert_true(offset <= DISK && bytes <= DISK - offset);
    f->cmd = cmd;
    f->flags = flags;
    f->cmds++;
    return f->result;
}

static void send(struct fx *f, const void *p, size_t bytes)
{
    memcpy(f->sent + f->sent_bytes, p, bytes);
    f->sent_bytes += bytes;
}

/* One connection with one command. Returns the error that is answered; *data: bytes behind it. */
static uint32_t command(struct fx *f, enum nbd_cmd cmd, unsigned flags, uint32_t bytes,
                        int64_t result, size_t *data)
{
    const uint32_t client = htobe32(3);
    const struct {
        uint64_t magic;
        uint32_t option, bytes;
    } name = {htobe64(0x49484156454f5054ull), htobe32(1), 0};
    const struct request q = {.magic = htobe32(0x25609513u),
                              .flags = htobe16((uint16_t)flags),
                              .type = htobe16((uint16_t)cmd),
                              .handle = 0x1122334455667788ull,
                              .bytes = htobe32(bytes)};
    static const unsigned char contents[DISK];
    struct reply r;

    memset(f, 0, sizeof(*f));
    memset(f->buf, 0xee, sizeof(f->buf)); /* older data */
    f->s = (struct nbd_server){
        .size = DISK, .buf = f->buf, .ctx = f, .get = get, .put = put, .act = act};
    f->result = result;
    send(f, &client, sizeof(client));
    send(f, &name, sizeof(name));
    send(f, &q, sizeof(q));
    if (cmd == NBD_WRITE)
        send(f, contents, bytes);
    nbd_serve(&f->s);
    const size_t before = 18 + 10; /* greeting, export */
    assert_true(f->got_bytes >= before + sizeof(r));
    memcpy(&r, f->got + before, sizeof(r));
    assert_int_equal(be32toh(r.magic), 0x67446698u);
    assert_true(r.handle == q.handle);
    *data = f->got_bytes - before - sizeof(r);
    assert_int_equal(f->cmds, 1);
    assert_int_equal(f->cmd, cmd);
    return be32toh(r.error);
}

/* A command that never gets to the image, and a flush behind it. Returns the error of the first. */
static uint32_t refused(struct fx *f, unsigned cmd, unsigned flags, uint64_t offset, uint32_t bytes)
{
    const uint32_t client = htobe32(3);
    const struct {
        uint64_t magic;
        uint32_t option, bytes;
    } name = {htobe64(0x49484156454f5054ull), htobe32(1), 0};
    const struct request q = {.magic = htobe32(0x25609513u),
                              .flags = htobe16((uint16_t)flags),
                              .type = htobe16((uint16_t)cmd),
                              .handle = 1,
                              .offset = htobe64(offset),
                              .bytes = htobe32(bytes)},
                         flush = {.magic = q.magic, .type = htobe16(NBD_FLUSH), .handle = 2};
    static const unsigned char contents[512];
    struct reply r[2];

    memset(f, 0, sizeof(*f));
    f->s = (struct nbd_server){
        .size = DISK, .buf = f->buf, .ctx = f, .get = get, .put = put, .act = act};
    send(f, &client, sizeof(client));
    send(f, &name, sizeof(name));
    send(f, &q, sizeof(q));
    if (cmd == NBD_WRITE)
        send(f, contents, bytes);
    send(f, &flush, sizeof(flush));
    nbd_serve(&f->s);
    assert_int_equal(f->got_bytes, 18 + 10 + sizeof(r));
    memcpy(r, f->got + 18 + 10, sizeof(r));
    assert_true(r[0].handle == q.handle && r[1].handle == flush.handle);
    assert_int_equal(r[1].error, 0);
    assert_int_equal(f->cmds, 1);
    assert_int_equal(f->cmd, NBD_FLUSH);
    return be32toh(r[0].error);
}

static void test_transfers(void **state)
{
    static struct fx f;
    size_t data;

    (void)state;
    assert_int_equal(command(&f, NBD_READ, 0, 8192, 8192, &data), 0);
    assert_int_equal(data, 8192);
    assert_int_equal(command(&f, NBD_READ, 0, 8192, 8191, &data), EIO);
    assert_int_equal(data, 0);
    assert_int_equal(command(&f, NBD_READ, 0, 8192, 0, &data), EIO);
    assert_int_equal(data, 0);
    assert_int_equal(command(&f, NBD_READ, 0, 8192, -EIO, &data), EIO);
    assert_int_equal(data, 0);
    assert_int_equal(command(&f, NBD_WRITE, 0, 8192, 8192, &data), 0);
    assert_int_equal(command(&f, NBD_WRITE, 0, 8192, 4096, &data), EIO);
    assert_int_equal(command(&f, NBD_WRITE, 0, 8192, -ENOSPC, &data), ENOSPC);
    assert_int_equal(data, 0);
}

static void test_flags(void **state)
{
    static struct fx f;
    size_t data;

    (void)state;
    assert_int_equal(command(&f, NBD_ZEROES, NBD_NO_HOLE | NBD_FUA, 512, 0, &data), 0);
    assert_int_equal(f.flags, NBD_NO_HOLE | NBD_FUA);
    assert_int_equal(command(&f, NBD_ZEROES, 0, 512, 0, &data), 0);
    assert_int_equal(f.flags, 0);
    /* FUA may stand anywhere, and means nothing where nothing is written. */
    assert_int_equal(command(&f, NBD_TRIM, NBD_FUA, 512, 0, &data), 0);
    assert_int_equal(f.flags, NBD_FUA);
    assert_int_equal(command(&f, NBD_READ, NBD_FUA, 512, 512, &data), 0);
    assert_int_equal(f.flags, 0);
    assert_int_equal(command(&f, NBD_FLUSH, NBD_FUA, 0, 0, &data), 0);
    assert_int_equal(f.flags, 0);
}

/* What was not offered is refused, and the connection goes on. */
static void test_refused(void **state)
{
    static struct fx f;

    (void)state;
    for (unsigned bit = 1; bit < 16; bit++)
        for (unsigned cmd = NBD_READ; cmd <= NBD_ZEROES; cmd++) {
            if (cmd == NBD_DISC || (cmd == NBD_ZEROES && bit == 1))
                continue;
            assert_int_equal(refused(&f, cmd, 1u << bit, 0, 512), EINVAL);
        }
    assert_int_equal(refused(&f, NBD_CACHE, 0, 0, 512), EINVAL);
    assert_int_equal(refused(&f, 7, 0, 0, 512), EINVAL);
    assert_int_equal(refused(&f, 0xffff, 0, 0, 512), EINVAL);
    assert_int_equal(refused(&f, NBD_READ, 0, DISK - 511, 512), EINVAL);
    assert_int_equal(refused(&f, NBD_READ, 0, UINT64_MAX, 512), EINVAL);
    assert_int_equal(refused(&f, NBD_READ, 0, 0, NBD_MAX_REQUEST + 1), EINVAL);
    assert_int_equal(refused(&f, NBD_TRIM, 0, DISK, 1), EINVAL);
    assert_int_equal(refused(&f, NBD_WRITE, 0, DISK - 511, 512), ENOSPC);
    assert_int_equal(refused(&f, NBD_ZEROES, 0, DISK - 511, 512), ENOSPC);
}

/* ---- options ------------------------------------------------------------------------------- */

#define NBD_IHAVEOPT 0x49484156454f5054ull
#define GREETING     18u

static void greet(struct fx *f, uint32_t client)
{
    memset(f, 0, sizeof(*f));
    f->s = (struct nbd_server){
        .size = DISK, .buf = f->buf, .ctx = f, .get = get, .put = put, .act = act};
    client = htobe32(client);
    send(f, &client, sizeof(client));
}

static void option(struct fx *f, uint32_t number, const void *data, uint32_t bytes)
{
    const struct {
        uint64_t magic;
        uint32_t option, bytes;
    } o = {htobe64(NBD_IHAVEOPT), htobe32(number), htobe32(bytes)};

    send(f, &o, sizeof(o));
    send(f, data, bytes);
}

/* The next answer to an option, from *at on; its data's length. */
static uint32_t answer(const struct fx *f, size_t *at, uint32_t *bytes)
{
    struct {
        uint64_t magic;
        uint32_t option, type, bytes;
    } __attribute__((packed)) r;

    assert_true(f->got_bytes >= *at + sizeof(r));
    memcpy(&r, f->got + *at, sizeof(r));
    assert_true(be64toh(r.magic) == 0x0003e889045565a9ull);
    *bytes = be32toh(r.bytes);
    *at += sizeof(r) + *bytes;
    assert_true(f->got_bytes >= *at);
    return be32toh(r.type);
}

static void test_options(void **state)
{
    static struct fx f;
    static const unsigned char go[] = {0, 0, 0, 1, 'x',
                                       0, 1, 0, 3}, /* of "x", with its block sizes */
        long_name[] = {0, 0, 0, 9, 'x', 0, 0},      /* more than there is */
        too_many[] = {0, 0, 0, 0, 0, 9, 0, 3},      /* kinds */
        short_one[] = {0, 0, 0}, large[5000] = {0};
    static const unsigned char sizes[] = {0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0};
    size_t at = GREETING;
    uint32_t n;

    (void)state;
    greet(&f, 3);
    option(&f, 7, long_name, sizeof(long_name));
    option(&f, 7, too_many, sizeof(too_many));
    option(&f, 6, short_one, sizeof(short_one));
    option(&f, 3, "x", 1);
    option(&f, 5, "", 0);
    option(&f, 7, large, sizeof(large));
    option(&f, 7, go, sizeof(go));
    nbd_serve(&f.s);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(answer(&f, &at, &n), 0x80000003u); /* invalid */
    assert_int_equal(answer(&f, &at, &n), 0x80000001u);     /* STARTTLS: unsupported */
    assert_int_equal(answer(&f, &at, &n), 0x80000009u);     /* too big */
    assert_int_equal(answer(&f, &at, &n), 3);
    assert_int_equal(n, 12);
    assert_int_equal(answer(&f, &at, &n), 3);
    assert_int_equal(n, sizeof(sizes));
    assert_memory_equal(f.got + at - n, sizes, n);
    assert_int_equal(answer(&f, &at, &n), 1); /* and transmission begins */
    assert_int_equal(f.got_bytes, at);

    /* A client that asks for what was not offered. */
    greet(&f, 3 | 4);
    option(&f, 7, go, sizeof(go));
    nbd_serve(&f.s);
    assert_int_equal(f.got_bytes, GREETING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_transfers),
                                       cmocka_unit_test(test_flags), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_options)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
