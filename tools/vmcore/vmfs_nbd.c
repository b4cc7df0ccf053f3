/* SPDX-License-Identifier: BSD-2-Clause */
/* "vmcore vmfs nbd": serve one file, or the disk that a descriptor stands for, over a Unix socket.
 */
#define _GNU_SOURCE
#include "nbd_server.h"
#include "unix_socket.h"
#include "vmfs_tool.h"

#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vmcore/disk.h>

#define CLIENTS        8u /* at a time; more wait until one has left */
#define DESCRIPTOR_MAX 65536u
#define SHORT_MS       500 /* until descriptors or memory, which had run out, are asked for again */

struct nbd;

struct client {
    struct nbd *n;
    pthread_t thread;
    int fd;
    bool used, done; /* done: with lock */
    bool stop;
    char *buf;
    struct vmc_error err;
};

struct nbd {
    struct vt *t;
    struct vmc_vmfs_file *f; /* one file, or */
    struct vmc_disk *disk;   /* a disk of several */
    struct vmc_blockdev bd;
    struct vmc_block_info info;
    uint64_t bytes;
    int signals; /* readable: stop */
    int left;    /* readable: a client has gone */
    atomic_bool stop;
    pthread_mutex_t lock;
    struct client client[CLIENTS];
};

/* Until something can be done with fd. False: a signal says stop. */
static bool wait_for(struct client *c, short events)
{
    struct pollfd p[2] = {{.fd = c->fd, .events = events}, {.fd = c->n->signals, .events = POLLIN}};

    while (!c->stop && poll(p, 2, -1) < 0 && errno == EINTR)
        ;
    c->stop = c->stop || p[1].revents != 0;
    return !c->stop;
}

static bool would_block(ssize_t r)
{
    return r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
}

static int get(void *ctx, void *p, size_t n)
{
    struct client *s = ctx;
    char *b = p;
    if (atomic_load(&s->n->stop)) /* a client with ever more requests never makes us wait */
        return -1;
    while (n > 0) {
        ssize_t r = recv(s->fd, b, n, MSG_DONTWAIT);
        if (would_block(r)) {
            if (!wait_for(s, POLLIN))
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
    struct client *s = ctx;
    const char *b = p;
    while (n > 0) {
        ssize_t r = send(s->fd, b, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (would_block(r)) {
            if (!wait_for(s, POLLOUT))
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

/* ---- one file ------------------------------------------------------------------------------ */

/* Zeros that keep their space: holes get blocks that read as zeros, the rest is overwritten. */
static int64_t zero(struct client *c, uint64_t off, uint32_t len)
{
    struct vmc_vmfs_file *f = c->n->f;
    int64_t rc = len != 0 ? vmc_vmfs_allocate(f, off, len, VMC_VMFS_ALLOC_LAZY, &c->err) : VMC_OK;

    memset(c->buf, 0, len < NBD_MAX_REQUEST ? len : NBD_MAX_REQUEST);
    while (rc >= 0 && len > 0) {
        struct vmc_vmfs_extent x = {0};
        rc = vmc_vmfs_extent(f, off, &x, &c->err);
        uint32_t n = x.bytes < len ? (uint32_t)x.bytes : len;
        if (rc == VMC_OK && (x.has_data || !x.allocated)) { /* small files have no such blocks */
            n = n < NBD_MAX_REQUEST ? n : NBD_MAX_REQUEST;
            rc = vmc_vmfs_pwrite(f, c->buf, n, off, &c->err);
        }
        off += n;
        len -= n;
    }
    return rc < 0 ? rc : 0;
}

static int64_t act_on_file(struct client *c, enum nbd_cmd cmd, uint64_t off, uint32_t len,
                           unsigned flags)
{
    struct vmc_vmfs_file *f = c->n->f;

    switch (cmd) {
    case NBD_READ:
        return vmc_vmfs_pread(f, c->buf, len, off, &c->err);
    case NBD_WRITE:
        return vmc_vmfs_pwrite(f, c->buf, len, off, &c->err);
    case NBD_FLUSH:
        return vmc_vmfs_fsync(f, &c->err);
    default: /* trim, zeroes */
        return (flags & NBD_NO_HOLE) != 0 ? zero(c, off, len)
                                          : vmc_vmfs_punch(f, off, len, &c->err);
    }
}

/* ---- a disk -------------------------------------------------------------------------------- */

static void finished(struct vmc_block_req *r)
{
    sem_post(r->opaque);
}

static int64_t io(struct client *c, uint32_t op, uint64_t off, void *buf, uint32_t len)
{
    const struct vmc_blockdev *bd = &c->n->bd;
    sem_t done;
    struct vmc_iovec iov = {.base = buf, .bytes = len};
    struct vmc_block_req r = {.op = op,
                              .flags = VMC_BLOCK_WAITED,
                              .offset = off,
                              .bytes = len,
                              .iov = &iov,
                              .iov_count = buf != NULL,
                              .done = finished,
                              .opaque = &done};

    sem_init(&done, 0, 0);
    if (bd->ops->submit(bd->ctx, &r) == VMC_BLOCK_PENDING) {
        if (bd->ops->kick != NULL)
            bd->ops->kick(bd->ctx);
        while (sem_wait(&done) != 0)
            ;
    }
    sem_destroy(&done);
    if (r.status != VMC_OK)
        snprintf(c->err.text, sizeof(c->err.text), "request at offset %llu: %s",
                 (unsigned long long)off, vmc_strerror(r.status));
    return r.status == VMC_OK ? (int64_t)len : r.status;
}

static int64_t zero_disk(struct client *c, uint64_t off, uint32_t len)
{
    int64_t rc = VMC_OK;

    if (c->n->info.can_write_zeroes)
        return len != 0 ? io(c, VMC_BLOCK_WRITE_ZEROES, off, NULL, len) : VMC_OK;
    memset(c->buf, 0, len < NBD_MAX_REQUEST ? len : NBD_MAX_REQUEST);
    while (rc >= 0 && len > 0) {
        uint32_t n = len < NBD_MAX_REQUEST ? len : NBD_MAX_REQUEST;
        rc = io(c, VMC_BLOCK_WRITE, off, c->buf, n);
        off += n;
        len -= n;
    }
    return rc;
}

static int64_t act_on_disk(struct client *c, enum nbd_cmd cmd, uint64_t off, uint32_t len)
{
    switch (cmd) {
    case NBD_READ:
        return len != 0 ? io(c, VMC_BLOCK_READ, off, c->buf, len) : 0;
    case NBD_WRITE:
        return len != 0 ? io(c, VMC_BLOCK_WRITE, off, c->buf, len) : 0;
    case NBD_FLUSH:
        return io(c, VMC_BLOCK_FLUSH, 0, NULL, 0);
    case NBD_TRIM: /* a wish */
        return c->n->info.can_discard && len != 0 ? io(c, VMC_BLOCK_DISCARD, off, NULL, len) : 0;
    default:
        return zero_disk(c, off, len);
    }
}

/* ---- clients ------------------------------------------------------------------------------- */

static int64_t act(void *ctx, enum nbd_cmd cmd, uint64_t off, uint32_t len, unsigned flags)
{
    struct client *c = ctx;
    bool disk = c->n->disk != NULL;
    int64_t done = disk ? act_on_disk(c, cmd, off, len) : act_on_file(c, cmd, off, len, flags);
    int64_t rc = done;

    if (rc >= 0 && (flags & NBD_FUA) != 0)
        rc = disk ? act_on_disk(c, NBD_FLUSH, 0, 0) : act_on_file(c, NBD_FLUSH, 0, 0, 0);
    if (rc >= 0)
        return cmd == NBD_READ || cmd == NBD_WRITE ? done : 0;
    fprintf(stderr, "%s: %s\n", c->n->t->name, vt_plain(c->err.text));
    return rc == VMC_ENOSPC ? -ENOSPC : -EIO;
}

static void *serve(void *arg)
{
    struct client *c = arg;
    struct nbd *n = c->n;
    const struct nbd_server server = {.size = n->bytes,
                                      .least = n->disk != NULL ? 512 : 1,
                                      .read_only = n->t->read_only,
                                      .buf = c->buf,
                                      .ctx = c,
                                      .get = get,
                                      .put = put,
                                      .act = act};
    uint64_t one = 1;

    nbd_serve(&server);
    close(c->fd);
    pthread_mutex_lock(&n->lock);
    c->done = true;
    pthread_mutex_unlock(&n->lock);
    (void)!write(n->left, &one, sizeof(one)); /* full: there is enough to read */
    return NULL;
}

static void reap(struct nbd *n, bool all)
{
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *c = &n->client[i];
        pthread_mutex_lock(&n->lock);
        bool gone = c->used && (c->done || all);
        pthread_mutex_unlock(&n->lock);
        if (!gone)
            continue;
        pthread_join(c->thread, NULL);
        free(c->buf);
        *c = (struct client){0};
    }
}

static struct client *unused(struct nbd *n)
{
    for (unsigned i = 0; i < CLIENTS; i++)
        if (!n->client[i].used)
            return &n->client[i];
    return NULL;
}

/* False: there is no descriptor or memory for one who waits. */
static bool admit(struct nbd *n, int listener)
{
    struct client *c = unused(n);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM;
    *c = (struct client){.n = n, .fd = fd, .buf = aligned_alloc(4096, NBD_MAX_REQUEST)};
    c->used = c->buf != NULL && pthread_create(&c->thread, NULL, serve, c) == 0;
    if (c->used)
        return true;
    fprintf(stderr, "%s: no memory or thread for another client\n", n->t->name);
    free(c->buf);
    close(fd);
    return true;
}

/* Until a signal says stop. */
static void run(struct nbd *n, int listener)
{
    for (bool room = true;;) {
        bool look = room && unused(n) != NULL;
        struct pollfd p[3] = {{.fd = n->signals, .events = POLLIN},
                              {.fd = n->left, .events = POLLIN},
                              {.fd = look ? listener : -1, .events = POLLIN}};
        uint64_t count;
        if (poll(p, 3, room ? -1 : SHORT_MS) < 0 && errno != EINTR)
            break;
        room = true;
        if (p[0].revents != 0)
            break;
        if (p[1].revents != 0 && read(n->left, &count, sizeof(count)) > 0)
            reap(n, false);
        if (p[2].revents != 0)
            room = admit(n, listener);
    }
    atomic_store(&n->stop, true);
    reap(n, true); /* the signal is there for those that wait, too */
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

/* ---- the image ----------------------------------------------------------------------------- */

/*
 * A descriptor stands for a disk in other files. The contents of a disk are its guest's, who may
 * write what looks like one: it is a descriptor only if it is as short as they are.
 */
static bool is_descriptor(struct nbd *n)
{
    static const char magic[] = "# Disk Descriptor";
    char head[sizeof(magic) - 1];

    return n->bytes <= DESCRIPTOR_MAX &&
           vmc_vmfs_pread(n->f, head, sizeof(head), 0, &n->t->err) == sizeof(head) &&
           memcmp(head, magic, sizeof(head)) == 0;
}

static int open_disk(struct nbd *n, struct vmc_disk_vmfs *folder, char *path)
{
    struct vt *t = n->t;
    char *slash = strrchr(path, '/');

    if (vmc_vmfs_close(n->f, &t->err) != VMC_OK)
        return vt_fail(t, path);
    n->f = NULL;
    *slash = '\0';
    *folder = (struct vmc_disk_vmfs){.volume = t->v,
                                     .folder = slash == path ? "/" : path,
                                     .raw_open = vmc_host_raw_open,
                                     .raw_close = vmc_host_raw_close,
                                     .raw_ctx = t->rdm};
    const struct vmc_disk_files files = vmc_disk_vmfs_files(folder);
    if (vmc_disk_open(&t->pf, &files, slash + 1, !t->read_only, &n->disk, &t->err) != VMC_OK)
        return vt_fail(t, t->arg[1]);
    n->bd = vmc_disk_blockdev(n->disk);
    if (n->bd.ops->info(n->bd.ctx, &n->info) != VMC_OK)
        return vt_fail(t, t->arg[1]);
    n->bytes = n->info.bytes;
    return 0;
}

/* path: may be changed, and stays. */
static int open_image(struct nbd *n, struct vmc_disk_vmfs *folder, char *path)
{
    struct vt *t = n->t;
    struct vmc_vmfs_stat st = {0};
    uint32_t how = t->read_only ? VMC_VMFS_READ : VMC_VMFS_READ | VMC_VMFS_WRITE;

    if (vmc_vmfs_open(t->v, path, how, &n->f, &t->err) != VMC_OK ||
        vmc_vmfs_fstat(n->f, &st, &t->err) != VMC_OK)
        return vt_fail(t, path);
    n->bytes = st.bytes;
    return is_descriptor(n) ? open_disk(n, folder, path) : 0;
}

static int close_image(struct nbd *n, int rc)
{
    struct vt *t = n->t;

    if (n->f != NULL && vmc_vmfs_close(n->f, &t->err) != VMC_OK)
        rc = vt_fail(t, t->arg[1]);
    int closed = n->disk != NULL ? vmc_disk_close(n->disk) : VMC_OK;
    if (closed == VMC_OK)
        return rc;
    fprintf(stderr, "%s: %s: %s\n", t->name, t->arg[1], vmc_strerror(closed));
    return EXIT_ERROR;
}

int vt_nbd(struct vt *t)
{
    struct nbd n = {.t = t, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct vmc_disk_vmfs folder;

    n.signals = take_signals(t); /* before there are threads */
    if (n.signals < 0)
        return EXIT_ERROR;
    t->may_read_only = true;
    int rc = vt_mount(t, t->arg[0], 0);
    if (rc != 0)
        return rc;
    char *path = strdup(t->arg[1]);
    n.left = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rc = path != NULL && n.left >= 0 ? open_image(&n, &folder, path) : EXIT_ERROR;
    int fd = rc == 0 ? unix_socket_listen(t->name, t->arg[2], CLIENTS) : -1;
    if (fd < 0) {
        rc = EXIT_ERROR;
    } else {
        run(&n, fd);
        close(fd);
        unlink(t->arg[2]);
    }
    rc = close_image(&n, rc);
    if (n.left >= 0)
        close(n.left);
    free(path);
    return vt_close(t, rc);
}
