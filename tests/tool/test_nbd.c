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
    /* Flags that mean nothing to a command, or to us, are not handed on. */
    assert_int_equal(command(&f, NBD_TRIM, 0xffff, 512, 0, &data), 0);
    assert_int_equal(f.flags, NBD_FUA);
    assert_int_equal(command(&f, NBD_READ, 0xffff, 512, 512, &data), 0);
    assert_int_equal(f.flags, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_transfers),
                                       cmocka_unit_test(test_flags)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
