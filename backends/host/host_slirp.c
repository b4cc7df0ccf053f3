/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * User-mode networking with libslirp. Its state belongs to the network's thread; the guest's frames
 * reach it through the queue of host_net.c.
 *
 * Threats (the guest's frames, connections from outside; tests/unit/host/test_net.c)
 *
 * | input                         | bound                                                |
 * |-------------------------------|------------------------------------------------------|
 * | every packet opens a socket   | 256 at a time; a reserve stays for the process       |
 * | connections to forwarded ports| 256 at a time, besides the guest's own; the same     |
 * |                               | reserve; more wait in the kernel's queue             |
 * | what libslirp makes of frames | its own matter; lengths are checked here             |
 */
#include "host_net_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <libslirp.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define NET_ADDR    0x0a000200u /* 10.0.2.0/24 */
#define NET_MASK    0xffffff00u
#define HOST_ADDR   0x0a000202u
#define DNS_ADDR    0x0a000203u
#define GUEST_ADDR  0x0a00020fu
#define MTU_MIN     576u
#define MTU_MAX     65521u
#define SOCKETS_MAX 256u /* at a time, of one guest; and as many that others opened to it */
#define RESERVE     64u  /* descriptors of the process that guests leave alone */
#define RETRY_MS    100  /* until the next look when there is no descriptor for a connection */

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
    int open[2 * SOCKETS_MAX]; /* sockets that libslirp has */
    bool from_outside[2 * SOCKETS_MAX];
    unsigned sockets, outside; /* all of them; those that others opened to forwarded ports */
    bool polling;              /* what is opened now is opened by others */
    int *listener;             /* of forwarded ports, ascending */
    unsigned listeners;
    int64_t accept_at_ms; /* not before that */
    int line; /* a descriptor from here on: few are left, since the lowest free one is taken */
    unsigned beyond; /* sockets that are over the line */
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

/* Each round asks for the descriptors anew: these two only count. */
static void cb_register_fd(int fd, void *opaque)
{
    struct user_net *u = opaque;

    for (unsigned i = 0; i < u->sockets; i++)
        if (u->open[i] == fd)
            return;
    if (fd < 0 || u->sockets == 2 * SOCKETS_MAX)
        return;
    u->from_outside[u->sockets] = u->polling;
    u->open[u->sockets++] = fd;
    u->outside += u->polling;
    u->beyond += fd >= u->line;
}

static void cb_unregister_fd(int fd, void *opaque)
{
    struct user_net *u = opaque;

    for (unsigned i = 0; i < u->sockets; i++) {
        if (u->open[i] != fd)
            continue;
        u->outside -= u->from_outside[i];
        u->open[i] = u->open[--u->sockets];
        u->from_outside[i] = u->from_outside[u->sockets];
        u->beyond -= fd >= u->line;
        return;
    }
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
    .register_poll_fd = cb_register_fd,
    .unregister_poll_fd = cb_unregister_fd,
    .notify = cb_notify,
};

/* ---- the thread's round -------------------------------------------------------------------- */

static bool is_listener(const struct user_net *u, int fd)
{
    unsigned from = 0, to = u->listeners;

    while (from < to) {
        unsigned mid = (from + to) / 2;
        if (u->listener[mid] < fd)
            from = mid + 1;
        else
            to = mid;
    }
    return from < u->listeners && u->listener[from] == fd;
}

/* May others connect to forwarded ports? Otherwise they wait in the kernel's queue. */
static bool accepting(const struct user_net *u)
{
    return u->outside < SOCKETS_MAX && u->beyond == 0 && u->accept_at_ms == 0;
}

static int add_poll(int fd, int events, void *opaque)
{
    struct user_net *u = opaque;
    short want = 0;

    if (u->used == u->max || (!accepting(u) && is_listener(u, fd)))
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
    int64_t now = cb_clock_ns(u) / 1000000;
    if (u->accept_at_ms != 0 && u->accept_at_ms <= now)
        u->accept_at_ms = 0;
    if (read)
        slirp_pollfds_fill(u->slirp, &timeout, add_poll, u);
    if (u->accept_at_ms != 0 && timeout > RETRY_MS)
        timeout = RETRY_MS;
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

/* Is there a descriptor for a connection? */
static bool can_accept(struct user_net *u)
{
    int fd = eventfd(0, EFD_CLOEXEC); /* ThreadSanitizer does not know of those that fcntl makes */

    if (fd < 0)
        u->accept_at_ms = cb_clock_ns(u) / 1000000 + RETRY_MS;
    else
        close(fd);
    return fd >= 0;
}

static void user_handle(void *port, struct pollfd *fds, unsigned n, bool failed)
{
    struct user_net *u = port;

    unsigned room = u->outside < SOCKETS_MAX ? SOCKETS_MAX - u->outside : 0;
    for (unsigned i = 0; i < n && u->listeners != 0 && u->filled && !failed; i++) {
        if (fds[i].revents == 0 || !is_listener(u, fds[i].fd))
            continue;
        if (room != 0 && can_accept(u))
            room--;
        else
            fds[i].revents = 0; /* libslirp would ask at once again for what it did not get */
    }
    u->polling = true;
    if (u->filled)
        slirp_pollfds_poll(u->slirp, failed, get_revents, u);
    u->polling = false;
    run_timers(u);
}

/*
 * May libslirp open a socket for this frame? Not for ARP, nor for a TCP segment without SYN in one
 * piece: those go on when the guest has all the sockets that it may have, and the rest is dropped.
 */
static bool may_open(const unsigned char *f, size_t bytes)
{
    if (bytes < 14 || (f[12] == 0x08 && f[13] == 0x06))
        return false;
    if (bytes < 34 || f[12] != 0x08 || f[13] != 0x00)
        return true;
    size_t tcp = 14 + (f[14] & 15u) * 4u;
    bool whole = ((f[20] & 0x3fu) | f[21]) == 0; /* neither more fragments nor an offset */
    return !whole || f[23] != 6 || bytes < tcp + 20 || (f[tcp + 13] & 2u) != 0;
}

static void user_output(void *port, const void *frame, size_t bytes)
{
    struct user_net *u = port;

    if ((u->sockets - u->outside >= SOCKETS_MAX || u->beyond != 0) && may_open(frame, bytes))
        return;
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
    free(u->listener);
    free(u);
}

static const struct vmci_net_port_ops user_ops = {
    .fill = user_fill,
    .handle = user_handle,
    .output = user_output,
    .close = user_close,
};

/* Where the descriptors begin that are for the process itself. */
static int reserve_line(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur > INT_MAX)
        return INT_MAX;
    return (int)(r.rlim_cur > 2 * RESERVE ? r.rlim_cur - RESERVE : r.rlim_cur / 2);
}

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

/* The sockets that wait for connections: all that there is before the guest has sent anything. */
static int learn(int fd, int events, void *opaque)
{
    struct user_net *u = opaque;
    int on = 0;
    socklen_t len = sizeof(on);
    unsigned i;

    (void)events;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) != 0 || on == 0)
        return -1;
    for (i = u->listeners++; i > 0 && u->listener[i - 1] > fd; i--)
        u->listener[i] = u->listener[i - 1];
    u->listener[i] = fd;
    return -1;
}

static int learn_listeners(struct user_net *u, uint32_t forwards, struct vmc_error *err)
{
    uint32_t timeout = 0;

    if (forwards == 0)
        return VMC_OK;
    u->listener = calloc(forwards, sizeof(*u->listener));
    if (u->listener == NULL)
        return vmci_host_error(err, VMC_ENOMEM, 0, "host-slirp/open", "no memory");
    slirp_pollfds_fill(u->slirp, &timeout, learn, u);
    u->sockets = u->outside = u->beyond = 0; /* those are the embedder's */
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
    u->line = reserve_line();
    u->slirp = slirp_new(&sc, &callbacks, u);
    if (u->slirp == NULL) {
        user_close(u);
        return vmci_host_error(err, VMC_EHOST, 0, site, "libslirp cannot start");
    }
    int rc = add_forwards(u, cfg, err);
    if (rc == VMC_OK)
        rc = learn_listeners(u, cfg->forward_count, err);
    if (rc != VMC_OK) {
        user_close(u);
        return rc;
    }
    rc = vmci_host_net_create(&user_ops, u, out, err);
    if (rc == VMC_OK)
        u->net = *out;
    return rc;
}
