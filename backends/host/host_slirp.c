/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * User-mode networking with libslirp. Its state belongs to the network's thread; the guest's frames
 * reach it through the queue of host_net.c.
 */
#include "host_net_priv.h"

#include <errno.h>
#include <libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NET_ADDR   0x0a000200u /* 10.0.2.0/24 */
#define NET_MASK   0xffffff00u
#define HOST_ADDR  0x0a000202u
#define DNS_ADDR   0x0a000203u
#define GUEST_ADDR 0x0a00020fu
#define MTU_MIN    576u
#define MTU_MAX    65521u

struct slirp_timer {
    struct slirp_timer *next;
    SlirpTimerCb fn;
    void *opaque;
    int64_t expire_ms; /* INT64_MAX: not armed */
};

struct user_net {
    struct vmc_host_net *net;
    Slirp *slirp;
    struct slirp_timer *timers;
    struct pollfd *fds; /* of the current round */
    unsigned used, max;
    bool filled;
};

/* ---- callbacks of libslirp ----------------------------------------------------------------- */

static ssize_t cb_send_packet(const void *buf, size_t len, void *opaque)
{
    struct user_net *u = opaque;

    if (u->net != NULL)
        vmci_host_net_to_guest(u->net, buf, len);
    return (ssize_t)len;
}

static void cb_guest_error(const char *msg, void *opaque)
{
    (void)msg; /* what a guest does wrong on its own network is its own business */
    (void)opaque;
}

static int64_t cb_clock_ns(void *opaque)
{
    struct timespec ts;

    (void)opaque;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void *cb_timer_new(SlirpTimerCb fn, void *cb_opaque, void *opaque)
{
    struct user_net *u = opaque;
    struct slirp_timer *t = calloc(1, sizeof(*t));

    if (t == NULL)
        abort(); /* libslirp has no way to be told; glib under it does the same */
    *t = (struct slirp_timer){
        .next = u->timers, .fn = fn, .opaque = cb_opaque, .expire_ms = INT64_MAX};
    u->timers = t;
    return t;
}

static void cb_timer_free(void *timer, void *opaque)
{
    struct user_net *u = opaque;

    for (struct slirp_timer **p = &u->timers; *p != NULL; p = &(*p)->next) {
        if (*p == timer) {
            *p = (*p)->next;
            break;
        }
    }
    free(timer);
}

static void cb_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    (void)opaque;
    ((struct slirp_timer *)timer)->expire_ms = expire_ms;
}

static void cb_poll_fd(int fd, void *opaque)
{
    (void)fd; /* each round asks for the descriptors anew */
    (void)opaque;
}

static void cb_notify(void *opaque)
{
    (void)opaque; /* only the network's own thread calls libslirp */
}

static const SlirpCb callbacks = {
    .send_packet = cb_send_packet,
    .guest_error = cb_guest_error,
    .clock_get_ns = cb_clock_ns,
    .timer_new = cb_timer_new,
    .timer_free = cb_timer_free,
    .timer_mod = cb_timer_mod,
    .register_poll_fd = cb_poll_fd,
    .unregister_poll_fd = cb_poll_fd,
    .notify = cb_notify,
};

/* ---- the thread's round -------------------------------------------------------------------- */

static int add_poll(int fd, int events, void *opaque)
{
    struct user_net *u = opaque;
    short want = 0;

    if (u->used == u->max)
        return -1;
    if ((events & SLIRP_POLL_IN) != 0)
        want |= POLLIN;
    if ((events & SLIRP_POLL_OUT) != 0)
        want |= POLLOUT;
    if ((events & SLIRP_POLL_PRI) != 0)
        want |= POLLPRI;
    u->fds[u->used] = (struct pollfd){.fd = fd, .events = want};
    return (int)u->used++;
}

static int get_revents(int index, void *opaque)
{
    struct user_net *u = opaque;
    int got = 0;

    if (index < 0 || (unsigned)index >= u->used)
        return 0;
    short r = u->fds[index].revents;
    if ((r & POLLIN) != 0)
        got |= SLIRP_POLL_IN;
    if ((r & POLLOUT) != 0)
        got |= SLIRP_POLL_OUT;
    if ((r & POLLPRI) != 0)
        got |= SLIRP_POLL_PRI;
    if ((r & POLLERR) != 0)
        got |= SLIRP_POLL_ERR;
    if ((r & POLLHUP) != 0)
        got |= SLIRP_POLL_HUP;
    return got;
}

static unsigned user_fill(void *port, struct pollfd *fds, unsigned max, int *timeout_ms, bool read)
{
    struct user_net *u = port;
    uint32_t timeout = (uint32_t)*timeout_ms;

    u->fds = fds;
    u->used = 0;
    u->max = max;
    u->filled = read;
    if (read)
        slirp_pollfds_fill(u->slirp, &timeout, add_poll, u);
    int64_t now = cb_clock_ns(u) / 1000000;
    for (const struct slirp_timer *t = u->timers; t != NULL; t = t->next) {
        int64_t left = t->expire_ms <= now ? 0 : t->expire_ms - now;
        if (left < (int64_t)timeout)
            timeout = (uint32_t)left;
    }
    if (timeout < (uint32_t)*timeout_ms)
        *timeout_ms = (int)timeout;
    return u->used;
}

static void run_timers(struct user_net *u)
{
    int64_t now = cb_clock_ns(u) / 1000000;

    for (struct slirp_timer *t = u->timers; t != NULL; t = t->next) {
        if (t->expire_ms > now)
            continue;
        t->expire_ms = INT64_MAX;
        t->fn(t->opaque);
    }
}

static void user_handle(void *port, struct pollfd *fds, unsigned n, bool failed)
{
    struct user_net *u = port;

    (void)fds;
    (void)n;
    if (u->filled)
        slirp_pollfds_poll(u->slirp, failed, get_revents, u);
    run_timers(u);
}

static void user_output(void *port, const void *frame, size_t bytes)
{
    struct user_net *u = port;

    slirp_input(u->slirp, frame, (int)bytes);
}

static void user_close(void *port)
{
    struct user_net *u = port;

    u->net = NULL;
    if (u->slirp != NULL)
        slirp_cleanup(u->slirp);
    while (u->timers != NULL)
        cb_timer_free(u->timers, u);
    free(u);
}

static const struct vmci_net_port_ops user_ops = {
    .fill = user_fill,
    .handle = user_handle,
    .output = user_output,
    .close = user_close,
};

/* ---- open ---------------------------------------------------------------------------------- */

static struct in_addr ipv4(uint32_t host_order)
{
    return (struct in_addr){.s_addr = htonl(host_order)};
}

static int add_forwards(struct user_net *u, const struct vmc_host_user_net_config *cfg,
                        struct vmc_error *err)
{
    for (uint32_t i = 0; i < cfg->forward_count; i++) {
        const struct vmc_host_forward *f = &cfg->forwards[i];
        struct in_addr host = ipv4(f->host_addr != 0 ? f->host_addr : INADDR_LOOPBACK);
        errno = 0;
        if (slirp_add_hostfwd(u->slirp, f->udp, host, f->host_port, ipv4(GUEST_ADDR),
                              f->guest_port) != 0)
            return vmci_host_error(err, VMC_EBUSY, errno, "host-slirp/open",
                                   "cannot listen on %s port %u for the guest: %s",
                                   f->udp ? "UDP" : "TCP", f->host_port, strerror(errno));
    }
    return VMC_OK;
}

int vmc_host_user_net_open(const struct vmc_host_user_net_config *cfg, struct vmc_host_net **out,
                           struct vmc_error *err)
{
    const char *site = "host-slirp/open";

    if (cfg->size < sizeof(*cfg) || (cfg->forward_count != 0 && cfg->forwards == NULL) ||
        (cfg->mtu != 0 && (cfg->mtu < MTU_MIN || cfg->mtu > MTU_MAX)))
        return vmci_host_error(err, VMC_EINVAL, 0, site, "the configuration is not complete");
    struct user_net *u = calloc(1, sizeof(*u));
    if (u == NULL)
        return vmci_host_error(err, VMC_ENOMEM, 0, site, "no memory");
    const SlirpConfig sc = {
        .version = 1,
        .restricted = cfg->restricted,
        .in_enabled = true,
        .vnetwork = ipv4(NET_ADDR),
        .vnetmask = ipv4(NET_MASK),
        .vhost = ipv4(HOST_ADDR),
        .vhostname = cfg->hostname,
        .vdhcp_start = ipv4(GUEST_ADDR),
        .vnameserver = ipv4(DNS_ADDR),
        .if_mtu = cfg->mtu,
        .if_mru = cfg->mtu,
    };
    u->slirp = slirp_new(&sc, &callbacks, u);
    if (u->slirp == NULL) {
        user_close(u);
        return vmci_host_error(err, VMC_EHOST, 0, site, "libslirp cannot start");
    }
    int rc = add_forwards(u, cfg, err);
    if (rc != VMC_OK) {
        user_close(u);
        return rc;
    }
    rc = vmci_host_net_create(&user_ops, u, out, err);
    if (rc == VMC_OK)
        u->net = *out;
    return rc;
}
