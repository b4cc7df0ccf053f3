/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Disk I/O through io_uring. Submitters fill entries under a lock, kick hands a whole batch to the
 * kernel with one system call, and one thread completes requests. The file is registered, so that
 * a request costs no reference to it.
 */
#define _GNU_SOURCE
#include "host_block_priv.h"

#include <errno.h>
#include <liburing.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAP_BATCH 64u
#define PIECES_MAX 1024u /* of one call (IOV_MAX) */

struct uring {
    struct vmc_host_disk *disk;
    struct io_uring ring;
    pthread_mutex_t lock; /* the submission side of ring */
    pthread_t reaper;
    bool queued;            /* (l) entries wait for kick */
    atomic_bool kick_again; /* polled: the kernel took no more until completions are taken */
    /*
     * Requests pass from submitter to reaper through the kernel, which orders memory but is unknown
     * to the C memory model (and to ThreadSanitizer): this counter says it in their terms.
     */
    atomic_uint handed_over;
    bool fixed_file;   /* (c) */
    const char *fixed; /* (c) registered memory */
    size_t fixed_bytes;
    atomic_bool polling;
    bool ended; /* under polling */
};

/* (l). Free entries come back when the kernel takes a batch; NULL: it does not, for now. */
static struct io_uring_sqe *entry(struct uring *u)
{
    struct io_uring_sqe *e = io_uring_get_sqe(&u->ring);

    if (e == NULL && io_uring_submit(&u->ring) >= 0)
        e = io_uring_get_sqe(&u->ring);
    return e;
}

static bool in_fixed(const struct uring *u, const struct iovec *v)
{
    size_t at = (size_t)((const char *)v->iov_base - u->fixed);

    return u->fixed != NULL && at < u->fixed_bytes && v->iov_len <= u->fixed_bytes - at;
}

/* (l) */
static void prepare(struct uring *u, struct io_uring_sqe *e, const struct vmc_block_req *r)
{
    int fd = u->fixed_file ? 0 : u->disk->fd;
    const struct iovec *iov = (const struct iovec *)(const void *)r->iov;
    int mode;

    switch (r->op) {
    case VMC_BLOCK_READ:
        if (r->iov_count == 1 && in_fixed(u, iov))
            io_uring_prep_read_fixed(e, fd, iov->iov_base, (unsigned)iov->iov_len, r->offset, 0);
        else if (r->iov_count == 1 && iov->iov_len <= INT_MAX)
            io_uring_prep_read(e, fd, iov->iov_base, (unsigned)iov->iov_len, r->offset);
        else
            io_uring_prep_readv(e, fd, iov, r->iov_count, r->offset);
        break;
    case VMC_BLOCK_WRITE:
        if (r->iov_count == 1 && in_fixed(u, iov))
            io_uring_prep_write_fixed(e, fd, iov->iov_base, (unsigned)iov->iov_len, r->offset, 0);
        else if (r->iov_count == 1 && iov->iov_len <= INT_MAX)
            io_uring_prep_write(e, fd, iov->iov_base, (unsigned)iov->iov_len, r->offset);
        else
            io_uring_prep_writev(e, fd, iov, r->iov_count, r->offset);
        break;
    case VMC_BLOCK_FLUSH:
        io_uring_prep_fsync(e, fd, IORING_FSYNC_DATASYNC);
        break;
    default:
        /* The range was checked to have some mode before. */
        (void)vmci_host_disk_fallocate_mode(u->disk, r->op, &mode);
        io_uring_prep_fallocate(e, fd, mode, (off_t)r->offset, (off_t)r->bytes);
        break;
    }
    if (u->fixed_file)
        e->flags |= IOSQE_FIXED_FILE;
}

/* Requests that are better done by plain calls, on this thread: rare by construction. */
static bool needs_sync(struct vmc_host_disk *d, const struct vmc_block_req *r)
{
    int mode;

    if (r->op == VMC_BLOCK_READ || r->op == VMC_BLOCK_WRITE)
        return r->iov_count > PIECES_MAX || !vmci_host_disk_aligned(d, r);
    return r->op != VMC_BLOCK_FLUSH && !vmci_host_disk_fallocate_mode(d, r->op, &mode);
}

static int uring_submit(struct vmc_host_disk *d, struct vmc_block_req *r)
{
    struct uring *u = d->engine_data;

    if (!needs_sync(d, r)) {
        pthread_mutex_lock(&u->lock);
        struct io_uring_sqe *e = entry(u);
        if (e != NULL) {
            prepare(u, e, r);
            io_uring_sqe_set_data(e, r);
            u->queued = true;
            atomic_fetch_add_explicit(&u->handed_over, 1, memory_order_release);
            pthread_mutex_unlock(&u->lock);
            return VMC_BLOCK_PENDING;
        }
        pthread_mutex_unlock(&u->lock);
    }
    r->status = vmci_host_disk_sync(d, r, 0);
    return VMC_BLOCK_COMPLETE;
}

static void uring_kick(struct vmc_host_disk *d)
{
    struct uring *u = d->engine_data;

    pthread_mutex_lock(&u->lock);
    while (u->queued) {
        int rc = io_uring_submit(&u->ring);
        if (rc >= 0 && io_uring_sq_ready(&u->ring) == 0)
            u->queued = false;
        else if ((rc == -EAGAIN || rc == -EBUSY) && d->cfg.polled) {
            atomic_store(&u->kick_again, true); /* whoever polls, maybe this thread, makes room */
            break;
        } else if (rc == -EAGAIN || rc == -EBUSY) { /* the reaper has to make room first */
            pthread_mutex_unlock(&u->lock);
            sched_yield();
            pthread_mutex_lock(&u->lock);
        } else if (rc < 0 && rc != -EINTR) {
            break; /* the ring is gone; cannot happen while it is open */
        }
    }
    pthread_mutex_unlock(&u->lock);
}

/* The kernel's answer becomes a status; what it left undone is done here. */
static void complete(struct vmc_host_disk *d, struct vmc_block_req *r, int res)
{
    bool moves = r->op == VMC_BLOCK_READ || r->op == VMC_BLOCK_WRITE;

    if (res == -EINTR || res == -EAGAIN)
        r->status = vmci_host_disk_sync(d, r, 0);
    else if (moves && res >= 0)
        r->status = (uint64_t)res == r->bytes ? VMC_OK : vmci_host_disk_sync(d, r, (uint64_t)res);
    else if (!moves && r->op != VMC_BLOCK_FLUSH && (res == -EOPNOTSUPP || res == -ENOSYS))
        r->status = vmci_host_disk_sync(d, r, 0); /* finds a call that works */
    else
        r->status = res >= 0 ? VMC_OK : vmci_host_status(-res);
    r->done(r);
}

/* What is done by now. False: the last request of all, by close, was among it. */
static bool reap(struct uring *u)
{
    struct io_uring_cqe *cqe[REAP_BATCH];
    struct vmc_block_req *req[REAP_BATCH];
    int res[REAP_BATCH];
    bool more = true;

    unsigned n = io_uring_peek_batch_cqe(&u->ring, cqe, REAP_BATCH);
    for (unsigned i = 0; i < n; i++) {
        req[i] = io_uring_cqe_get_data(cqe[i]);
        res[i] = cqe[i]->res;
    }
    io_uring_cq_advance(&u->ring, n);
    (void)atomic_load_explicit(&u->handed_over, memory_order_acquire);
    for (unsigned i = 0; i < n; i++) {
        if (req[i] == NULL)
            more = false;
        else
            complete(u->disk, req[i], res[i]);
    }
    return more;
}

static void *reaper(void *arg)
{
    struct uring *u = arg;
    struct io_uring_cqe *cqe;
    int rc;

    do
        rc = io_uring_wait_cqe(&u->ring, &cqe);
    while ((rc == 0 || rc == -EINTR) && reap(u));
    return NULL;
}

/* One thread at a time takes completions; whoever finds it busy is served by it. */
static void uring_poll(struct vmc_host_disk *d)
{
    struct uring *u = d->engine_data;

    if (atomic_exchange_explicit(&u->polling, true, memory_order_acquire))
        return;
    if (!reap(u))
        u->ended = true;
    atomic_store_explicit(&u->polling, false, memory_order_release);
    if (atomic_exchange(&u->kick_again, false))
        uring_kick(d);
}

static void uring_close(struct vmc_host_disk *d)
{
    struct uring *u = d->engine_data;

    uring_kick(d);
    while (atomic_load(&u->kick_again))
        uring_poll(d);
    pthread_mutex_lock(&u->lock);
    struct io_uring_sqe *e = entry(u);
    if (e != NULL) {
        io_uring_prep_nop(e);
        e->flags |= IOSQE_IO_DRAIN; /* after everything that is under way */
        io_uring_sqe_set_data(e, NULL);
        u->queued = true;
    }
    pthread_mutex_unlock(&u->lock);
    uring_kick(d);
    if (d->cfg.polled) {
        while (!u->ended)
            uring_poll(d);
    } else {
        pthread_join(u->reaper, NULL);
    }
    io_uring_queue_exit(&u->ring);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

static const int operations[] = {IORING_OP_READ,   IORING_OP_WRITE,      IORING_OP_READV,
                                 IORING_OP_WRITEV, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED,
                                 IORING_OP_FSYNC,  IORING_OP_FALLOCATE,  IORING_OP_NOP};
#define OPERATIONS (sizeof(operations) / sizeof(operations[0]))

/* Old kernels lack operations; without all that we use, threads are the better choice. */
static bool has_operations(struct uring *u)
{
    struct io_uring_probe *p = io_uring_get_probe_ring(&u->ring);
    bool all = p != NULL;

    for (size_t i = 0; all && i < OPERATIONS; i++)
        all = io_uring_opcode_supported(p, operations[i]);
    io_uring_free_probe(p);
    return all;
}

/*
 * What a ring is asked to do passes by a filter of system calls: a process that confines itself
 * could still open files and sockets through it. So the ring is made without (Linux 5.10) before
 * it takes its first request; of the calls on it only the one that registers memory is left.
 */
static int restrict_and_enable(struct uring *u)
{
    struct io_uring_restriction r[OPERATIONS + 2] = {0};
    unsigned n = 0;

    for (; n < OPERATIONS; n++) {
        r[n].opcode = IORING_RESTRICTION_SQE_OP;
        r[n].sqe_op = (uint8_t)operations[n];
    }
    r[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    r[n++].sqe_flags = IOSQE_FIXED_FILE | IOSQE_IO_DRAIN;
    r[n].opcode = IORING_RESTRICTION_REGISTER_OP;
    r[n++].register_op = IORING_REGISTER_BUFFERS;
    if (syscall(SYS_io_uring_register, u->ring.ring_fd, IORING_REGISTER_RESTRICTIONS, r, n) < 0 ||
        syscall(SYS_io_uring_register, u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
        return -errno;
    return 0;
}

static int uring_open(struct vmc_host_disk *d, struct vmc_error *err)
{
    const char *site = "host-disk/io_uring";
    struct uring *u = calloc(1, sizeof(*u));
    int rc;

    if (u == NULL)
        return vmci_host_error(err, VMC_ENOMEM, 0, site, "no memory");
    u->disk = d;
    rc = io_uring_queue_init(d->cfg.depth, &u->ring, IORING_SETUP_R_DISABLED);
    if (rc != 0) {
        free(u);
        return vmci_host_error(err, VMC_ENOTSUP, -rc, site, "io_uring is not available: %s",
                               strerror(-rc));
    }
    if (!has_operations(u)) {
        io_uring_queue_exit(&u->ring);
        free(u);
        return vmci_host_error(err, VMC_ENOTSUP, 0, site, "io_uring lacks operations here");
    }
    u->fixed_file = io_uring_register_files(&u->ring, &d->fd, 1) == 0;
    rc = restrict_and_enable(u);
    if (rc != 0) {
        io_uring_queue_exit(&u->ring);
        free(u);
        return vmci_host_error(err, VMC_ENOTSUP, -rc, site, "io_uring cannot be restricted: %s",
                               strerror(-rc));
    }
    pthread_mutex_init(&u->lock, NULL);
    rc = d->cfg.polled ? 0 : pthread_create(&u->reaper, NULL, reaper, u);
    if (rc != 0) {
        io_uring_queue_exit(&u->ring);
        pthread_mutex_destroy(&u->lock);
        free(u);
        return vmci_host_error(err, VMC_EHOST, rc, site, "cannot start a thread: %s", strerror(rc));
    }
    d->engine_data = u;
    return VMC_OK;
}

static int uring_register(struct vmc_host_disk *d, void *base, size_t bytes)
{
    struct uring *u = d->engine_data;
    struct iovec iov = {.iov_base = base, .iov_len = bytes};
    int rc = bytes <= 1u << 30 ? io_uring_register_buffers(&u->ring, &iov, 1) : -EINVAL;

    if (rc == 0) {
        u->fixed = base;
        u->fixed_bytes = bytes;
    }
    return rc;
}

const struct vmci_host_engine vmci_host_engine_uring = {
    .name = "io_uring",
    .open = uring_open,
    .close = uring_close,
    .submit = uring_submit,
    .kick = uring_kick,
    .poll = uring_poll,
    .register_memory = uring_register,
};
