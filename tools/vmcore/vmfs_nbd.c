/* SPDX-License-Identifier: BSD-2-Clause */
/* "vmcore vmfs nbd": serve one file over a Unix socket. */
#define _GNU_SOURCE
#include "nbd_server.h"
#include "unix_socket.h"
#include "vmfs_tool.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

struct nbd {
    struct vt *t;
    struct vmc_vmfs_file *f;
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

static int get(void *ctx, void *p, size_t n)
{
    struct nbd *s = ctx;
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

static int put(void *ctx, const void *p, size_t n)
{
    struct nbd *s = ctx;
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

/* Zeros that keep their space: holes get blocks that read as zeros, the rest is overwritten. */
static int64_t zero(struct nbd *s, uint64_t off, uint32_t len)
{
    struct vmc_error *err = &s->t->err;
    int64_t rc = len != 0 ? vmc_vmfs_allocate(s->f, off, len, VMC_VMFS_ALLOC_LAZY, err) : VMC_OK;

    memset(s->buf, 0, len < NBD_MAX_REQUEST ? len : NBD_MAX_REQUEST);
    while (rc >= 0 && len > 0) {
        struct vmc_vmfs_extent x = {0};
        rc = vmc_vmfs_extent(s->f, off, &x, err);
        uint32_t n = x.bytes < len ? (uint32_t)x.bytes : len;
        if (rc == VMC_OK && (x.has_data || !x.allocated)) { /* small files have no such blocks */
            n = n < NBD_MAX_REQUEST ? n : NBD_MAX_REQUEST;
            rc = vmc_vmfs_pwrite(s->f, s->buf, n, off, err);
        }
        off += n;
        len -= n;
    }
    return rc < 0 ? rc : 0;
}

static int64_t act(void *ctx, enum nbd_cmd cmd, uint64_t off, uint32_t len, unsigned flags)
{
    struct nbd *s = ctx;
    struct vmc_error *err = &s->t->err;
    int64_t rc = VMC_OK;

    switch (cmd) {
    case NBD_READ:
        rc = vmc_vmfs_pread(s->f, s->buf, len, off, err);
        break;
    case NBD_WRITE:
        rc = vmc_vmfs_pwrite(s->f, s->buf, len, off, err);
        break;
    case NBD_FLUSH:
        rc = vmc_vmfs_fsync(s->f, err);
        break;
    default: /* trim, zeroes */
        rc = (flags & NBD_NO_HOLE) != 0 ? zero(s, off, len) : vmc_vmfs_punch(s->f, off, len, err);
        break;
    }
    int64_t done = rc;
    if (rc >= 0 && (flags & NBD_FUA) != 0)
        rc = vmc_vmfs_fsync(s->f, err);
    if (rc >= 0)
        return done;
    fprintf(stderr, "%s: %s\n", s->t->name, err->text);
    return rc == VMC_ENOSPC ? -ENOSPC : -EIO;
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
    struct vmc_vmfs_stat st = {0};

    s.signals = take_signals(t); /* before there are threads */
    if (s.signals < 0)
        return EXIT_ERROR;
    t->may_read_only = true;
    int rc = vt_mount(t, t->arg[0], 0);
    if (rc != 0)
        return rc;
    uint32_t how = t->read_only ? VMC_VMFS_READ : VMC_VMFS_READ | VMC_VMFS_WRITE;
    if (vmc_vmfs_open(t->v, t->arg[1], how, &s.f, &t->err) != VMC_OK)
        return vt_close(t, vt_fail(t, t->arg[1]));
    if (vmc_vmfs_fstat(s.f, &st, &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[1]);
    s.buf = aligned_alloc(4096, NBD_MAX_REQUEST);
    struct nbd_server server = {.size = st.bytes,
                                .read_only = t->read_only,
                                .buf = s.buf,
                                .ctx = &s,
                                .get = get,
                                .put = put,
                                .act = act};
    int fd = rc == 0 && s.buf != NULL ? unix_socket_listen(t->name, t->arg[2], 4) : -1;
    if (fd < 0)
        rc = EXIT_ERROR;
    while (fd >= 0 && wait_for(&s, fd, POLLIN)) {
        s.fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (s.fd < 0)
            continue;
        nbd_serve(&server);
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
