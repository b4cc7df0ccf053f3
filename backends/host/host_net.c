/* SPDX-License-Identifier: BSD-2-Clause */
/* Networks: the queues between a guest's card and the thread that talks to the outside. */
#define _GNU_SOURCE
#include "host_net_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define OUT_MAX 1024u /* frames of the guest that may wait; a full network drops */
#define IN_MAX  4096u /* frames for the guest that may wait */
#define FDS_MAX 1024u
#define IDLE_MS 60000

/* ---- frames -------------------------------------------------------------------------------- */

static void put(struct vmci_frame_queue *q, struct vmci_frame *f)
{
    f->next = NULL;
    if (q->tail != NULL)
        q->tail->next = f;
    else
        q->head = f;
    q->tail = f;
    q->count++;
}

static struct vmci_frame *take(struct vmci_frame_queue *q)
{
    struct vmci_frame *f = q->head;

    if (f == NULL)
        return NULL;
    q->head = f->next;
    if (q->head == NULL)
        q->tail = NULL;
    q->count--;
    return f;
}

static void drop_all(struct vmci_frame_queue *q)
{
    struct vmci_frame *f;

    while ((f = take(q)) != NULL)
        free(f);
}

static void wake(struct vmc_host_net *n)
{
    uint64_t one = 1;

    /* A full counter means that it is awake already. */
    while (write(n->wake, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* ---- from the guest ------------------------------------------------------------------------ */

static int net_send(void *ctx, const struct vmc_iovec *iov, uint32_t iov_count)
{
    struct vmc_host_net *n = ctx;
    size_t bytes = 0;
    size_t at = 0;

    for (uint32_t i = 0; i < iov_count; i++)
        bytes += iov[i].bytes;
    if (bytes == 0 || bytes > VMCI_NET_FRAME_MAX)
        return VMC_EINVAL;
    struct vmci_frame *f = malloc(sizeof(*f) + bytes);
    if (f == NULL)
        return VMC_ENOMEM;
    f->bytes = bytes;
    for (uint32_t i = 0; i < iov_count; i++) {
        memcpy(f->data + at, iov[i].base, iov[i].bytes);
        at += iov[i].bytes;
    }
    pthread_mutex_lock(&n->lock);
    bool first = n->out.count == 0;
    bool full = n->out.count >= OUT_MAX;
    if (!full)
        put(&n->out, f);
    pthread_mutex_unlock(&n->lock);
    if (full) {
        free(f);
        return VMC_EAGAIN;
    }
    if (first)
        wake(n);
    return VMC_OK;
}

static void flush_out(struct vmc_host_net *n)
{
    pthread_mutex_lock(&n->lock);
    struct vmci_frame_queue batch = n->out;
    n->out = (struct vmci_frame_queue){0};
    pthread_mutex_unlock(&n->lock);
    struct vmci_frame *f;
    while ((f = take(&batch)) != NULL) {
        n->ops->output(n->port, f->data, f->bytes);
        free(f);
    }
}

/* ---- to the guest -------------------------------------------------------------------------- */

/* True: the frame is done with. */
static bool offer(struct vmc_host_net *n, const void *frame, size_t bytes)
{
    /* The card only reads it. */
    const struct vmc_iovec iov = {.base = (void *)(uintptr_t)frame, .bytes = bytes};

    atomic_store(&n->guest_full, true); /* before asking: rx_ready may come at once */
    if (n->receive(n->ctx, &iov, 1) == VMC_EAGAIN)
        return false;
    atomic_store(&n->guest_full, false);
    return true;
}

void vmci_host_net_to_guest(struct vmc_host_net *n, const void *frame, size_t bytes)
{
    if (bytes == 0 || bytes > VMCI_NET_FRAME_MAX)
        return;
    if (n->in.count == 0 && offer(n, frame, bytes))
        return;
    struct vmci_frame *f = n->in.count < IN_MAX ? malloc(sizeof(*f) + bytes) : NULL;
    if (f == NULL) {
        n->dropped++;
        return;
    }
    f->bytes = bytes;
    memcpy(f->data, frame, bytes);
    put(&n->in, f);
}

static void flush_in(struct vmc_host_net *n)
{
    while (n->in.head != NULL && offer(n, n->in.head->data, n->in.head->bytes))
        free(take(&n->in));
}

void vmc_host_net_rx_ready(struct vmc_host_net *n)
{
    if (atomic_exchange(&n->guest_full, false))
        wake(n);
}

/* ---- the thread ---------------------------------------------------------------------------- */

static void *net_thread(void *arg)
{
    struct vmc_host_net *n = arg;
    struct pollfd *fds = calloc(FDS_MAX, sizeof(*fds));

    while (fds != NULL && !atomic_load(&n->stop)) {
        int timeout = IDLE_MS;
        uint64_t count;
        if (!atomic_load(&n->guest_full))
            flush_in(n);
        fds[0] = (struct pollfd){.fd = n->wake, .events = POLLIN};
        /* While frames wait for the guest nothing more is read: that slows down who sends. */
        unsigned used = 1 + n->ops->fill(n->port, fds + 1, FDS_MAX - 1, &timeout, n->in.count == 0);
        if (n->in.count != 0 && !atomic_load(&n->guest_full))
            timeout = 0;
        int rc = poll(fds, used, timeout);
        if (rc > 0 && (fds[0].revents & POLLIN) != 0)
            (void)!read(n->wake, &count, sizeof(count)); /* only empties it */
        n->ops->handle(n->port, fds + 1, used - 1, rc < 0);
        flush_out(n);
    }
    free(fds);
    return NULL;
}

int vmci_host_net_create(const struct vmci_net_port_ops *ops, void *port, struct vmc_host_net **out,
                         struct vmc_error *err)
{
    struct vmc_host_net *n = calloc(1, sizeof(*n));

    if (n == NULL) {
        ops->close(port);
        return vmci_host_error(err, VMC_ENOMEM, 0, "host-net/open", "no memory");
    }
    n->ops = ops;
    n->port = port;
    n->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (n->wake < 0) {
        ops->close(port);
        free(n);
        return vmci_host_error(err, VMC_EHOST, errno, "host-net/open", "cannot make an eventfd: %s",
                               strerror(errno));
    }
    pthread_mutex_init(&n->lock, NULL);
    *out = n;
    return VMC_OK;
}

struct vmc_netdev vmc_host_net_dev(struct vmc_host_net *n)
{
    static const struct vmc_netdev_ops ops = {.send = net_send};

    return (struct vmc_netdev){.ops = &ops, .ctx = n};
}

int vmc_host_net_start(struct vmc_host_net *n, vmc_host_net_receive_fn *receive, void *ctx,
                       struct vmc_error *err)
{
    if (n->started)
        return vmci_host_error(err, VMC_ESTATE, 0, "host-net/start", "started already");
    n->receive = receive;
    n->ctx = ctx;
    int e = pthread_create(&n->thread, NULL, net_thread, n);
    if (e != 0)
        return vmci_host_error(err, VMC_EHOST, e, "host-net/start", "cannot start a thread: %s",
                               strerror(e));
    n->started = true;
    return VMC_OK;
}

void vmc_host_net_close(struct vmc_host_net *n)
{
    if (n == NULL)
        return;
    atomic_store(&n->stop, true);
    wake(n);
    if (n->started)
        pthread_join(n->thread, NULL);
    n->ops->close(n->port);
    drop_all(&n->out);
    drop_all(&n->in);
    pthread_mutex_destroy(&n->lock);
    close(n->wake);
    free(n);
}
