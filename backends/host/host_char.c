/* SPDX-License-Identifier: BSD-2-Clause */
/* A character channel: a ring of output, some held input, and the thread that moves both. */
#define _GNU_SOURCE
#include "host_char_priv.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define IDLE_MS  60000
#define DRAIN_MS 1000

static void wake(struct vmc_host_char *c)
{
    uint64_t one = 1;

    while (write(c->wake, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* ---- output -------------------------------------------------------------------------------- */

size_t vmci_host_char_put(struct vmc_host_char *c, const void *data, size_t bytes)
{
    const unsigned char *p = data;

    pthread_mutex_lock(&c->lock);
    bool was_empty = c->head == c->tail;
    size_t room = VMCI_CHAR_OUT - (c->head - c->tail);
    size_t n = bytes < room ? bytes : room;
    if (c->dropping) {
        n = bytes;
    } else {
        for (size_t i = 0; i < n; i++)
            c->ring[(c->head + i) % VMCI_CHAR_OUT] = p[i];
        c->head += (uint32_t)n;
        c->starved |= n < bytes;
        if (was_empty && n != 0)
            wake(c);
    }
    pthread_mutex_unlock(&c->lock);
    return n;
}

static int char_write(void *ctx, const void *data, size_t bytes)
{
    return (int)vmci_host_char_put(ctx, data, bytes < INT_MAX ? bytes : INT_MAX);
}

struct vmc_chardev vmc_host_char_dev(struct vmc_host_char *c)
{
    static const struct vmc_chardev_ops ops = {.write = char_write};

    return (struct vmc_chardev){.ops = &ops, .ctx = c};
}

static bool has_output(struct vmc_host_char *c)
{
    pthread_mutex_lock(&c->lock);
    bool some = c->head != c->tail;
    pthread_mutex_unlock(&c->lock);
    return some;
}

/* The descriptor is writable. What a pipe takes without blocking is PIPE_BUF bytes. */
static void send_some(struct vmc_host_char *c)
{
    unsigned char chunk[PIPE_BUF];

    pthread_mutex_lock(&c->lock);
    size_t n = c->head - c->tail;
    if (n > sizeof(chunk))
        n = sizeof(chunk);
    for (size_t i = 0; i < n; i++)
        chunk[i] = c->ring[(c->tail + i) % VMCI_CHAR_OUT];
    pthread_mutex_unlock(&c->lock);
    if (n == 0)
        return;
    /* A client that has gone is no reason for a signal. */
    ssize_t done = c->kind == VMC_HOST_CHAR_UNIX ? send(c->out, chunk, n, MSG_NOSIGNAL)
                                                 : write(c->out, chunk, n);
    if (done < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (done < 0) /* a broken pipe, a full disk: output is lost from here on */
        done = (ssize_t)n;
    pthread_mutex_lock(&c->lock);
    bool tell = c->starved;
    c->starved = false;
    c->tail += (uint32_t)done;
    pthread_mutex_unlock(&c->lock);
    if (tell && c->ev.writable != NULL)
        c->ev.writable(c->ctx);
}

/* ---- input --------------------------------------------------------------------------------- */

/* Offer what is held; true: all of it is gone. */
static bool deliver(struct vmc_host_char *c)
{
    while (c->held_from < c->held_to) {
        size_t n = c->held_to - c->held_from;
        atomic_store(&c->guest_full, true); /* before asking: input_ready may come at once */
        int took = c->ev.input != NULL ? c->ev.input(c->ctx, c->held + c->held_from, n) : (int)n;
        if (took <= 0)
            return false;
        c->held_from += (size_t)took < n ? (size_t)took : n;
    }
    atomic_store(&c->guest_full, false);
    c->held_from = c->held_to = 0;
    return true;
}

static void receive_some(struct vmc_host_char *c)
{
    ssize_t n = read(c->in, c->held, sizeof(c->held));

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        vmci_host_char_hangup(c);
        return;
    }
    c->held_from = 0;
    c->held_to = vmci_host_char_filter(c, c->held, (size_t)n);
    (void)deliver(c); /* what is left waits */
}

void vmc_host_char_input_ready(struct vmc_host_char *c)
{
    if (atomic_exchange(&c->guest_full, false))
        wake(c);
}

/* ---- the thread ---------------------------------------------------------------------------- */

enum slot { S_WAKE, S_LISTEN, S_IN, S_OUT, SLOTS };

/* A pseudo-terminal hangs up while nobody has it open: look again now and then. */
static bool pty_absent(struct vmc_host_char *c)
{
    struct pollfd p = {.fd = c->out, .events = POLLOUT};
    bool absent = c->kind == VMC_HOST_CHAR_PTY && poll(&p, 1, 0) > 0 && (p.revents & POLLHUP) != 0;

    if (c->kind == VMC_HOST_CHAR_PTY) {
        pthread_mutex_lock(&c->lock);
        c->dropping = absent;
        if (absent)
            c->tail = c->head;
        pthread_mutex_unlock(&c->lock);
    }
    return absent;
}

uint64_t vmci_host_char_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int plan(struct vmc_host_char *c, struct pollfd *fds)
{
    bool later = c->accept_at != 0 && vmci_host_char_now() < c->accept_at;
    bool absent = pty_absent(c);
    bool held = c->held_from < c->held_to;
    bool output = !absent && c->out >= 0 && has_output(c);

    fds[S_WAKE] = (struct pollfd){.fd = c->wake, .events = POLLIN};
    fds[S_LISTEN] = (struct pollfd){.fd = later ? -1 : c->listener, .events = POLLIN};
    fds[S_IN] = (struct pollfd){.fd = absent || held ? -1 : c->in, .events = POLLIN};
    fds[S_OUT] = (struct pollfd){.fd = output ? c->out : -1, .events = POLLOUT};
    if (held && !atomic_load(&c->guest_full))
        return 0;
    return absent || later ? VMCI_CHAR_RETRY_MS : IDLE_MS;
}

static void *char_thread(void *arg)
{
    struct vmc_host_char *c = arg;

    while (!atomic_load(&c->stop)) {
        struct pollfd fds[SLOTS];
        uint64_t count;
        int timeout = plan(c, fds);
        int rc = poll(fds, SLOTS, timeout);
        if (c->held_from < c->held_to && !atomic_load(&c->guest_full))
            (void)deliver(c); /* what is left waits */
        if (rc <= 0)
            continue;
        if ((fds[S_WAKE].revents & POLLIN) != 0)
            (void)!read(c->wake, &count, sizeof(count)); /* only empties it */
        if ((fds[S_OUT].revents & (POLLOUT | POLLERR | POLLHUP)) != 0)
            send_some(c);
        if ((fds[S_IN].revents & (POLLIN | POLLERR | POLLHUP)) != 0)
            receive_some(c);
        if ((fds[S_LISTEN].revents & POLLIN) != 0)
            vmci_host_char_accept(c);
    }
    return NULL;
}

/* ---- open and close ------------------------------------------------------------------------ */

int vmc_host_char_open(const struct vmc_host_char_config *cfg, struct vmc_host_char **out,
                       struct vmc_error *err)
{
    const char *site = "host-char/open";
    bool needs_path = cfg->kind == VMC_HOST_CHAR_FILE || cfg->kind == VMC_HOST_CHAR_UNIX;
    size_t len = cfg->size >= sizeof(*cfg) && cfg->path != NULL ? strlen(cfg->path) : 0;

    if (cfg->size < sizeof(*cfg) || (needs_path && len == 0))
        return vmci_host_error(err, VMC_EINVAL, 0, site, "no path, or an unknown configuration");
    if (len >= VMCI_CHAR_PATH)
        return vmci_host_error(err, VMC_EINVAL, 0, site, "the path %.40s... is too long",
                               cfg->path);
    struct vmc_host_char *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return vmci_host_error(err, VMC_ENOMEM, 0, site, "no memory");
    c->kind = cfg->kind;
    c->escape = cfg->escape && cfg->kind == VMC_HOST_CHAR_STDIO;
    c->in = c->out = c->listener = -1;
    memcpy(c->path, needs_path ? cfg->path : "stdio", needs_path ? len : 5);
    c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = c->wake >= 0 ? vmci_host_char_setup(c, err)
                          : vmci_host_error(err, VMC_EHOST, errno, site,
                                            "cannot make an eventfd: %s", strerror(errno));
    if (rc != VMC_OK) {
        if (c->wake >= 0)
            close(c->wake);
        free(c);
        return rc;
    }
    pthread_mutex_init(&c->lock, NULL);
    *out = c;
    return VMC_OK;
}

const char *vmc_host_char_name(const struct vmc_host_char *c)
{
    return c->path;
}

int vmc_host_char_start(struct vmc_host_char *c, const struct vmc_host_char_events *ev, void *ctx,
                        struct vmc_error *err)
{
    if (c->started)
        return vmci_host_error(err, VMC_ESTATE, 0, "host-char/start", "started already");
    c->ev = *ev;
    c->ctx = ctx;
    if (c->kind == VMC_HOST_CHAR_STDIO && ev->input == NULL)
        c->in = -1; /* output only: standard input is somebody else's */
    vmci_host_char_raw(c);
    int e = pthread_create(&c->thread, NULL, char_thread, c);
    if (e != 0) {
        vmci_host_char_restore(c);
        return vmci_host_error(err, VMC_EHOST, e, "host-char/start", "cannot start a thread: %s",
                               strerror(e));
    }
    c->started = true;
    return VMC_OK;
}

/* The last lines of a guest are often the ones that matter. */
static void drain(struct vmc_host_char *c)
{
    struct pollfd p = {.fd = c->out, .events = POLLOUT};

    c->ev = (struct vmc_host_char_events){0};
    while (c->out >= 0 && has_output(c) && poll(&p, 1, DRAIN_MS) > 0 &&
           (p.revents & (POLLERR | POLLHUP | POLLNVAL)) == 0)
        send_some(c);
}

void vmc_host_char_close(struct vmc_host_char *c)
{
    if (c == NULL)
        return;
    atomic_store(&c->stop, true);
    wake(c);
    if (c->started)
        pthread_join(c->thread, NULL);
    drain(c);
    if (c->kind == VMC_HOST_CHAR_STDIO) {
        vmci_host_char_restore(c);
    } else if (c->out >= 0) {
        close(c->out);
    }
    if (c->listener >= 0) {
        close(c->listener);
        unlink(c->path);
    }
    close(c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
