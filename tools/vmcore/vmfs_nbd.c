/* SPDX-License-Identifier: BSD-2-Clause */
/* "vmcore vmfs nbd": serve one file over a Unix socket, fixed newstyle NBD. */
#define _GNU_SOURCE
#include "vmfs_tool.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md */
#define NBD_MAGIC        0x4e42444d41474943ull
#define NBD_OPTS         0x49484156454f5054ull
#define NBD_OPT_REPLY    0x0003e889045565a9ull
#define NBD_REQUEST      0x25609513u
#define NBD_REPLY        0x67446698u
#define OPT_EXPORT_NAME  1u
#define OPT_ABORT        2u
#define OPT_LIST         3u
#define OPT_GO           7u
#define REP_ACK          1u
#define REP_SERVER       2u
#define REP_INFO         3u
#define REP_ERR_UNSUP    0x80000001u
#define HANDSHAKE_FLAGS  3u /* fixed newstyle, no zeroes */
#define EXPORT_FLAGS     (1u | 4u | 8u | 32u | 64u) /* flags, flush, FUA, trim, write zeroes */
#define MAX_REQUEST      (32u << 20)
enum { CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_ZEROES };
#define CMD_FLAG_FUA     1u

struct nbd {
    struct vt *t;
    struct vmc_vmfs_file *f;
    uint64_t size;
    int fd;
    int signals; /* readable: stop */
    bool stop;
    char *buf;
};

/* Until something can be done with fd. False: a signal says stop. */
static bool wait_for(struct nbd *s, int fd, short events)
{
    struct pollfd p[2] = {{.fd = fd, .events = events}, {.fd = s->signals, .events = POLLIN}};

    while (!s->stop && poll(p, 2, -1) < 0 && errno == EINTR)
        ;
    s->stop = s->stop || p[1].revents != 0;
    return !s->stop;
}

static bool would_block(ssize_t r)
{
    return r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
}

static int get(struct nbd *s, void *p, size_t n)
{
    char *b = p;
    while (n > 0) {
        ssize_t r = recv(s->fd, b, n, MSG_DONTWAIT);
        if (would_block(r)) {
            if (!wait_for(s, s->fd, POLLIN))
                return -1;
            continue;
        }
        if (r <= 0)
            return -1;
        b += r;
        n -= (size_t)r;
    }
    return 0;
}

static int put(struct nbd *s, const void *p, size_t n)
{
    const char *b = p;
    while (n > 0) {
        ssize_t r = send(s->fd, b, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (would_block(r)) {
            if (!wait_for(s, s->fd, POLLOUT))
                return -1;
            continue;
        }
        if (r <= 0)
            return -1;
        b += r;
        n -= (size_t)r;
    }
    return 0;
}

static int opt_reply(struct nbd *s, uint32_t opt, uint32_t type, const void *data, uint32_t n)
{
    struct {
        uint64_t magic;
        uint32_t opt, type, len;
    } __attribute__((packed)) r = {htobe64(NBD_OPT_REPLY), htobe32(opt), htobe32(type), htobe32(n)};

    if (put(s, &r, sizeof(r)) != 0)
        return -1;
    return n > 0 ? put(s, data, n) : 0;
}

static int send_info(struct nbd *s, uint32_t opt)
{
    struct {
        uint16_t type;
        uint64_t size;
        uint16_t flags;
    } __attribute__((packed)) info = {0, htobe64(s->size), htobe16(EXPORT_FLAGS)};

    if (opt_reply(s, opt, REP_INFO, &info, sizeof(info)) != 0)
        return -1;
    return opt_reply(s, opt, REP_ACK, NULL, 0);
}

/* 0: go on to transmission; -1: the connection is over. */
static int handshake(struct nbd *s)
{
    struct {
        uint64_t magic, opts;
        uint16_t flags;
    } __attribute__((packed)) hello = {htobe64(NBD_MAGIC), htobe64(NBD_OPTS),
                                       htobe16(HANDSHAKE_FLAGS)};
    uint32_t client;

    if (put(s, &hello, sizeof(hello)) != 0 || get(s, &client, 4) != 0)
        return -1;
    for (;;) {
        struct {
            uint64_t magic;
            uint32_t opt, len;
        } __attribute__((packed)) o;
        if (get(s, &o, sizeof(o)) != 0 || be64toh(o.magic) != NBD_OPTS)
            return -1;
        uint32_t opt = be32toh(o.opt), len = be32toh(o.len);
        if (len > 4096 || get(s, s->buf, len) != 0)
            return -1;
        int rc;
        switch (opt) {
        case OPT_EXPORT_NAME: {
            struct {
                uint64_t size;
                uint16_t flags;
                char zeroes[124];
            } __attribute__((packed)) e = {htobe64(s->size), htobe16(EXPORT_FLAGS), {0}};
            return put(s, &e, be32toh(client) & 2 ? 10 : sizeof(e));
        }
        case OPT_GO:
            return send_info(s, opt);
        case OPT_LIST: {
            uint32_t zero = 0;
            rc = opt_reply(s, opt, REP_SERVER, &zero, 4);
            if (rc == 0)
                rc = opt_reply(s, opt, REP_ACK, NULL, 0);
            break;
        }
        case OPT_ABORT:
            (void)!opt_reply(s, opt, REP_ACK, NULL, 0);
            return -1;
        default:
            rc = opt_reply(s, opt, REP_ERR_UNSUP, NULL, 0);
            break;
        }
        if (rc != 0)
            return -1;
    }
}

static int one(struct nbd *s, uint16_t flags, uint16_t cmd, uint64_t off, uint32_t len)
{
    struct vmc_error *err = &s->t->err;
    int64_t rc = VMC_OK;

    switch (cmd) {
    case CMD_READ:
        rc = vmc_vmfs_pread(s->f, s->buf, len, off, err);
        break;
    case CMD_WRITE:
        rc = vmc_vmfs_pwrite(s->f, s->buf, len, off, err);
        break;
    case CMD_FLUSH:
        rc = vmc_vmfs_fsync(s->f, err);
        break;
    case CMD_TRIM:
    case CMD_ZEROES:
        rc = vmc_vmfs_punch(s->f, off, len, err);
        break;
    default:
        return EINVAL;
    }
    if (rc >= 0 && flags & CMD_FLAG_FUA && cmd != CMD_READ)
        rc = vmc_vmfs_fsync(s->f, err);
    if (rc < 0)
        fprintf(stderr, "%s: %s\n", s->t->name, err->text);
    return rc == VMC_ENOSPC ? ENOSPC : rc < 0 ? EIO : 0;
}

static void serve(struct nbd *s)
{
    if (handshake(s) != 0)
        return;
    while (!s->stop) {
        struct {
            uint32_t magic;
            uint16_t flags, type;
            uint64_t handle, off;
            uint32_t len;
        } __attribute__((packed)) q;
        struct {
            uint32_t magic, error;
            uint64_t handle;
        } __attribute__((packed)) r;
        if (get(s, &q, sizeof(q)) != 0 || be32toh(q.magic) != NBD_REQUEST)
            return;
        uint16_t cmd = be16toh(q.type);
        uint64_t off = be64toh(q.off);
        uint32_t len = be32toh(q.len);
        if (cmd == CMD_DISC)
            return;
        bool data = cmd == CMD_READ || cmd == CMD_WRITE;
        if (data && len > MAX_REQUEST)
            return;
        if (cmd == CMD_WRITE && get(s, s->buf, len) != 0)
            return;
        int e = off > s->size || len > s->size - off ? EINVAL
                                                     : one(s, be16toh(q.flags), cmd, off, len);
        r.magic = htobe32(NBD_REPLY);
        r.error = htobe32((uint32_t)e);
        r.handle = q.handle;
        if (put(s, &r, sizeof(r)) != 0 ||
            (cmd == CMD_READ && e == 0 && put(s, s->buf, len) != 0))
            return;
    }
}

static int listen_on(struct vt *t, const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (strlen(path) >= sizeof(a.sun_path)) {
        fprintf(stderr, "%s: %s: too long a name for a socket\n", t->name, path);
        close(fd);
        return -1;
    }
    strcpy(a.sun_path, path);
    unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(fd, 4) != 0) {
        fprintf(stderr, "%s: %s: %s\n", t->name, path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

/* SIGINT and SIGTERM as something to poll, so that none is missed between two waits; -1. */
static int take_signals(struct vt *t)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    if (fd < 0)
        fprintf(stderr, "%s: signalfd: %s\n", t->name, strerror(errno));
    return fd;
}

int vt_nbd(struct vt *t)
{
    struct nbd s = {.t = t};
    struct vmc_vmfs_stat st;

    s.signals = take_signals(t); /* before there are threads */
    if (s.signals < 0)
        return EXIT_ERROR;
    int rc = vt_mount(t, t->arg[0], 0);
    if (rc != 0)
        return rc;
    if (vmc_vmfs_open(t->v, t->arg[1], VMC_VMFS_READ | VMC_VMFS_WRITE, &s.f, &t->err) != VMC_OK)
        return vt_close(t, vt_fail(t, t->arg[1]));
    if (vmc_vmfs_fstat(s.f, &st, &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[1]);
    s.size = st.bytes;
    s.buf = aligned_alloc(4096, MAX_REQUEST);
    int fd = rc == 0 && s.buf != NULL ? listen_on(t, t->arg[2]) : -1;
    if (fd < 0)
        rc = EXIT_ERROR;
    while (fd >= 0 && wait_for(&s, fd, POLLIN)) {
        s.fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (s.fd < 0)
            continue;
        serve(&s);
        close(s.fd);
    }
    if (fd >= 0) {
        close(fd);
        unlink(t->arg[2]);
    }
    free(s.buf);
    if (vmc_vmfs_close(s.f, &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[1]);
    return vt_close(t, rc);
}
