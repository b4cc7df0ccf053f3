/* SPDX-License-Identifier: BSD-2-Clause */
/* User-mode networking with a tiny guest stack: ARP, DHCP, ping, and TCP to a server on the host.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <vmcore/host_net.h>

#include <cmocka.h>

static const unsigned char guest_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
static const unsigned char host_ip[4] = {10, 0, 2, 2};
static const unsigned char guest_ip[4] = {10, 0, 2, 15};

struct guest {
    struct vmc_host_net *net;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned char frame[256][2048]; /* received */
    size_t bytes[256];
    unsigned n, taken;
    bool full; /* answer EAGAIN */
    unsigned refused;
    unsigned char gw_mac[6];
};

static int receive(void *ctx, const struct vmc_iovec *iov, uint32_t count)
{
    struct guest *g = ctx;
    int rc = VMC_OK;

    pthread_mutex_lock(&g->lock);
    if (g->full) {
        g->refused++;
        rc = VMC_EAGAIN;
    } else if (count == 1 && iov[0].bytes <= 2048 && g->n < 256) {
        memcpy(g->frame[g->n], iov[0].base, iov[0].bytes);
        g->bytes[g->n++] = iov[0].bytes;
    }
    pthread_cond_broadcast(&g->cond);
    pthread_mutex_unlock(&g->lock);
    return rc;
}

/* The next frame that matches, or NULL after two minutes, which only a bug takes. */
static unsigned char *next_frame(struct guest *g, bool (*match)(const unsigned char *f, size_t n))
{
    struct timespec until;
    unsigned char *found = NULL;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 120;
    pthread_mutex_lock(&g->lock);
    for (;;) {
        while (g->taken < g->n && found == NULL) {
            unsigned i = g->taken++;
            if (match(g->frame[i], g->bytes[i]))
                found = g->frame[i];
        }
        if (found != NULL || pthread_cond_timedwait(&g->cond, &g->lock, &until) != 0)
            break;
    }
    pthread_mutex_unlock(&g->lock);
    return found;
}

static void send_frame(struct guest *g, unsigned char *f, size_t n)
{
    struct vmc_netdev d = vmc_host_net_dev(g->net);
    struct vmc_iovec iov[2] = {{f, 14}, {f + 14, n - 14}};
    assert_int_equal(d.ops->send(d.ctx, iov, 2), VMC_OK);
}

static uint16_t checksum(const unsigned char *p, size_t n, uint32_t sum)
{
    for (size_t i = 0; i + 1 < n; i += 2)
        sum += (uint32_t)(p[i] << 8 | p[i + 1]);
    if ((n & 1) != 0)
        sum += (uint32_t)(p[n - 1] << 8);
    while ((sum >> 16) != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void put16(unsigned char *p, unsigned v)
{
    p[0] = (unsigned char)(v >> 8);
    p[1] = (unsigned char)v;
}

static void put32(unsigned char *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

static uint32_t get32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Ethernet and IPv4 headers in front of n bytes at f + 34; returns the frame's length. */
static size_t ip_frame(unsigned char *f, const unsigned char *dst_mac, const unsigned char *src,
                       const unsigned char *dst, unsigned proto, size_t n)
{
    memcpy(f, dst_mac, 6);
    memcpy(f + 6, guest_mac, 6);
    put16(f + 12, 0x0800);
    memset(f + 14, 0, 20);
    f[14] = 0x45;
    put16(f + 16, (unsigned)(20 + n));
    f[22] = 64;
    f[23] = (unsigned char)proto;
    memcpy(f + 26, src, 4);
    memcpy(f + 30, dst, 4);
    put16(f + 24, checksum(f + 14, 20, 0));
    return 34 + n;
}

static uint32_t pseudo(const unsigned char *f, unsigned proto, size_t n)
{
    uint32_t s = (uint32_t)proto + (uint32_t)n;
    for (unsigned i = 26; i < 34; i += 2)
        s += (uint32_t)(f[i] << 8 | f[i + 1]);
    return s;
}

static bool is_arp_reply(const unsigned char *f, size_t n)
{
    return n >= 42 && f[12] == 0x08 && f[13] == 0x06 && f[21] == 2 &&
           memcmp(f + 28, host_ip, 4) == 0;
}

static bool is_dhcp(const unsigned char *f, size_t n)
{
    return n > 300 && f[23] == 17 && f[36] == 0 && f[37] == 68;
}

static bool is_echo_reply(const unsigned char *f, size_t n)
{
    return n >= 42 && f[12] == 0x08 && f[13] == 0 && f[23] == 1 && f[34] == 0;
}

static bool is_tcp(const unsigned char *f, size_t n)
{
    return n >= 54 && f[12] == 0x08 && f[13] == 0 && f[23] == 6;
}

static void resolve_gateway(struct guest *g)
{
    unsigned char f[42] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    memcpy(f + 6, guest_mac, 6);
    put16(f + 12, 0x0806);
    put16(f + 14, 1);
    put16(f + 16, 0x0800);
    f[18] = 6;
    f[19] = 4;
    put16(f + 20, 1);
    memcpy(f + 22, guest_mac, 6);
    memcpy(f + 28, guest_ip, 4);
    memcpy(f + 38, host_ip, 4);
    send_frame(g, f, sizeof(f));
    unsigned char *r = next_frame(g, is_arp_reply);
    assert_non_null(r);
    memcpy(g->gw_mac, r + 22, 6);
}

static void start(struct guest *g, const struct vmc_host_user_net_config *cfg)
{
    struct vmc_error err;
    memset(g, 0, sizeof(*g));
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->cond, NULL);
    assert_int_equal(vmc_host_user_net_open(cfg, &g->net, &err), VMC_OK);
    assert_int_equal(vmc_host_net_start(g->net, receive, g, &err), VMC_OK);
}

static struct guest guest;

static void dhcp_gives_the_documented_address(void **state)
{
    (void)state;
    struct guest *g = &guest;
    const struct vmc_host_user_net_config cfg = {.size = sizeof(cfg), .hostname = "testguest"};
    static const unsigned char any[4];
    static const unsigned char all[4] = {255, 255, 255, 255};
    static const unsigned char bcast[6] = {255, 255, 255, 255, 255, 255};
    unsigned char f[400] = {0};
    unsigned char *udp = f + 34;
    unsigned char *dhcp = udp + 8;
    start(g, &cfg);
    put16(udp, 68);
    put16(udp + 2, 67);
    put16(udp + 4, 8 + 300);
    dhcp[0] = dhcp[1] = 1;
    dhcp[2] = 6;
    put32(dhcp + 4, 0x12345678);
    memcpy(dhcp + 28, guest_mac, 6);
    put32(dhcp + 236, 0x63825363);
    memcpy(dhcp + 240, "\x35\x01\x01\xff", 4); /* discover */
    send_frame(g, f, ip_frame(f, bcast, any, all, 17, 308));
    unsigned char *r = next_frame(g, is_dhcp);
    assert_non_null(r);
    assert_memory_equal(r + 42 + 16, guest_ip, 4); /* your address */
    vmc_host_net_close(g->net);
}

static void host_answers_arp_and_ping(void **state)
{
    (void)state;
    struct guest *g = &guest;
    const struct vmc_host_user_net_config cfg = {.size = sizeof(cfg)};
    unsigned char f[100] = {0};
    start(g, &cfg);
    resolve_gateway(g);
    f[34] = 8; /* echo request */
    memcpy(f + 42, "payload", 7);
    put16(f + 36, checksum(f + 34, 16, 0));
    send_frame(g, f, ip_frame(f, g->gw_mac, guest_ip, host_ip, 1, 16));
    unsigned char *r = next_frame(g, is_echo_reply);
    assert_non_null(r);
    assert_memory_equal(r + 42, "payload", 7);
    vmc_host_net_close(g->net);
}

static void *server(void *arg)
{
    int fd = accept(*(int *)arg, NULL, NULL);
    char buf[64];
    ssize_t n = read(fd, buf, sizeof(buf));
    if (n == 4 && memcmp(buf, "ping", 4) == 0)
        n = write(fd, "pong", 4);
    close(fd);
    return NULL;
}

/* A TCP segment to the host. */
static void tcp(struct guest *g, unsigned port, uint32_t seq, uint32_t ack, unsigned flags,
                const char *data)
{
    unsigned char f[128] = {0};
    size_t n = strlen(data);
    unsigned char *t = f + 34;
    put16(t, 40000);
    put16(t + 2, port);
    put32(t + 4, seq);
    put32(t + 8, ack);
    t[12] = 0x50;
    t[13] = (unsigned char)flags;
    put16(t + 14, 8192);
    memcpy(t + 20, data, n);
    size_t len = ip_frame(f, g->gw_mac, guest_ip, host_ip, 6, 20 + n);
    put16(t + 16, checksum(t, 20 + n, pseudo(f, 6, 20 + n)));
    send_frame(g, f, len);
}

static void tcp_reaches_a_server_on_the_host(void **state)
{
    (void)state;
    struct guest *g = &guest;
    const struct vmc_host_user_net_config cfg = {.size = sizeof(cfg)};
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sa);
    pthread_t thread;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    assert_int_equal(pthread_create(&thread, NULL, server, &fd), 0);
    unsigned port = ntohs(sa.sin_port);

    start(g, &cfg);
    resolve_gateway(g);
    tcp(g, port, 1000, 0, 2 /* SYN */, "");
    unsigned char *r = next_frame(g, is_tcp);
    assert_non_null(r);
    assert_int_equal(r[47] & 0x12, 0x12); /* SYN, ACK */
    uint32_t theirs = get32(r + 38) + 1;
    tcp(g, port, 1001, theirs, 0x10, "");
    tcp(g, port, 1001, theirs, 0x18, "ping");
    bool answered = false;
    for (unsigned i = 0; i < 10 && !answered; i++) {
        r = next_frame(g, is_tcp);
        assert_non_null(r);
        size_t head = 34 + (size_t)(r[46] >> 4) * 4;
        size_t total = 14 + (size_t)(r[16] << 8 | r[17]);
        answered = total == head + 4 && memcmp(r + head, "pong", 4) == 0;
    }
    assert_true(answered);
    pthread_join(thread, NULL);
    close(fd);
    vmc_host_net_close(g->net);
}

static void frames_wait_while_the_guest_is_full(void **state)
{
    (void)state;
    struct guest *g = &guest;
    const struct vmc_host_user_net_config cfg = {.size = sizeof(cfg)};
    unsigned char f[100] = {0};
    start(g, &cfg);
    resolve_gateway(g);
    pthread_mutex_lock(&g->lock);
    g->full = true;
    pthread_mutex_unlock(&g->lock);
    for (unsigned i = 0; i < 3; i++) {
        memset(f, 0, sizeof(f));
        f[34] = 8;
        f[41] = (unsigned char)i; /* sequence */
        put16(f + 36, checksum(f + 34, 8, 0));
        send_frame(g, f, ip_frame(f, g->gw_mac, guest_ip, host_ip, 1, 8));
    }
    pthread_mutex_lock(&g->lock);
    while (g->refused == 0)
        pthread_cond_wait(&g->cond, &g->lock);
    g->full = false;
    pthread_mutex_unlock(&g->lock);
    vmc_host_net_rx_ready(g->net);
    for (unsigned i = 0; i < 3; i++) {
        unsigned char *r = next_frame(g, is_echo_reply);
        assert_non_null(r);
        assert_int_equal(r[41], i);
    }
    vmc_host_net_close(g->net);
}

static unsigned sockets_open(void)
{
    unsigned n = 0;
    struct stat st;

    for (int fd = 0; fd < 4096; fd++)
        n += fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
    return n;
}

/* Datagrams from that many ports of the guest, to a socket that never answers. */
static void flood(struct guest *g, unsigned to, unsigned ports)
{
    for (unsigned i = 0; i < ports; i++) {
        unsigned char f[64] = {0};
        unsigned char *udp = f + 34;
        put16(udp, 10000 + i);
        put16(udp + 2, to);
        put16(udp + 4, 8);
        struct vmc_netdev d = vmc_host_net_dev(g->net);
        struct vmc_iovec iov = {f, ip_frame(f, g->gw_mac, guest_ip, host_ip, 17, 8)};
        while (d.ops->send(d.ctx, &iov, 1) != VMC_OK)
            sched_yield();
    }
}

static int silent_socket(unsigned *port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    *port = ntohs(sa.sin_port);
    return fd;
}

static void sockets_of_a_guest_are_bounded(void **state)
{
    (void)state;
    struct guest *g = &guest;
    const struct vmc_host_user_net_config cfg = {.size = sizeof(cfg)};
    unsigned to;
    struct rlimit usual;
    int fd = silent_socket(&to);

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
    struct rlimit few = {.rlim_max = usual.rlim_max};
    for (unsigned round = 0; round < 2; round++) { /* the guest's bound, the process's reserve */
        few.rlim_cur = round == 0 ? 512 : 200;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        unsigned before = sockets_open();
        start(g, &cfg);
        resolve_gateway(g);
        flood(g, to, 600);
        resolve_gateway(g); /* answered: all before it is through */
        unsigned now = sockets_open() - before;
        int spare = dup(fd);
        assert_true(spare >= 0);
        assert_true(spare <= (int)few.rlim_cur - 60);
        close(spare);
        assert_true(now > 100);
        assert_true(now <= 256);
        vmc_host_net_close(g->net);
        assert_int_equal(sockets_open(), before);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
    close(fd);
}

/* Ports that are free now; taken until all are known, so that they differ. */
static void free_ports(uint16_t *port, unsigned count)
{
    int fd[64];

    assert_in_range(count, 1, sizeof(fd) / sizeof(fd[0]));
    for (unsigned i = 0; i < count; i++) {
        struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof(sa);
        fd[i] = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(bind(fd[i], (struct sockaddr *)&sa, sizeof(sa)), 0);
        assert_int_equal(getsockname(fd[i], (struct sockaddr *)&sa, &len), 0);
        port[i] = ntohs(sa.sin_port);
    }
    for (unsigned i = 0; i < count; i++)
        close(fd[i]);
}

/* Connections begun from outside, which need not be through. */
static void knock(int *fd, unsigned count, uint16_t port)
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};

    for (unsigned i = 0; i < count; i++) {
        fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        assert_true(fd[i] >= 0);
        (void)!connect(fd[i], (struct sockaddr *)&sa, sizeof(sa)); /* it is under way */
    }
}

/* As many as the network has taken are open besides ours; they come over time. */
static unsigned taken(unsigned before, unsigned wanted)
{
    unsigned now = 0;

    for (unsigned i = 0; i < 1200 && now < wanted; i++) {
        usleep(100000);
        now = sockets_open() - before;
    }
    return now;
}

static void connections_to_a_guest_are_bounded(void **state)
{
    (void)state;
    enum { PORTS = 64, EACH = 8 }; /* few fit into the kernel's queue of each */
    struct guest *g = &guest;
    struct vmc_host_forward forward[PORTS];
    struct vmc_host_user_net_config cfg = {
        .size = sizeof(cfg), .forwards = forward, .forward_count = PORTS};
    static int fd[PORTS * EACH];
    uint16_t port[PORTS];
    unsigned to;
    int silent = silent_socket(&to);

    free_ports(port, PORTS);
    for (unsigned i = 0; i < PORTS; i++)
        forward[i] = (struct vmc_host_forward){.host_port = port[i], .guest_port = 80};
    start(g, &cfg);
    resolve_gateway(g);
    unsigned base = sockets_open() + PORTS * EACH;
    for (unsigned i = 0; i < PORTS; i++)
        knock(fd + i * EACH, EACH, forward[i].host_port);
    assert_int_equal(taken(base, 256), 256);
    usleep(300000); /* whoever takes more does so meanwhile */
    assert_int_equal(taken(base, 256), 256);
    flood(g, to, 600); /* the guest opens as many as without them */
    pthread_mutex_lock(&g->lock);
    g->n = g->taken = 0; /* it has heard of many connections */
    pthread_mutex_unlock(&g->lock);
    resolve_gateway(g);
    assert_in_range(sockets_open() - base, 256 + 100, 512);
    vmc_host_net_close(g->net);
    for (unsigned i = 0; i < PORTS * EACH; i++)
        close(fd[i]);
    close(silent);
}

/* The C library's accept, counted; for libslirp, which is another shared object. */
static atomic_uint accepts;

__attribute__((visibility("default"))) int accept(int fd, struct sockaddr *addr, socklen_t *bytes)
{
    atomic_fetch_add(&accepts, 1);
    return (int)syscall(SYS_accept, fd, addr, bytes);
}

static void connections_wait_for_descriptors(void **state)
{
    (void)state;
    struct guest *g = &guest;
    struct vmc_host_forward forward = {.guest_port = 80};
    struct vmc_host_user_net_config cfg = {
        .size = sizeof(cfg), .forwards = &forward, .forward_count = 1};
    static int spare[4096];
    unsigned spares = 0;
    int fd;

    free_ports(&forward.host_port, 1);
    struct rlimit usual;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
    struct rlimit few = {.rlim_cur = 256, .rlim_max = usual.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    start(g, &cfg);
    resolve_gateway(g);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    while ((spare[spares] = dup(2)) >= 0)
        spares++;
    unsigned before = sockets_open();
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons(forward.host_port)};
    atomic_store(&accepts, 0);
    (void)!connect(fd, (struct sockaddr *)&sa, sizeof(sa)); /* it is under way */
    usleep(1000000);
    assert_in_range(atomic_load(&accepts), 0, 20);
    while (spares > 0)
        close(spare[--spares]);
    assert_int_equal(taken(before, 1), 1);
    assert_true(atomic_load(&accepts) > 0); /* they are counted */
    vmc_host_net_close(g->net);
    close(fd);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
}

static void hostile_frames_do_no_harm(void **state)
{
    (void)state;
    struct guest *g = &guest;
    const struct vmc_host_user_net_config cfg = {.size = sizeof(cfg), .restricted = true};
    static unsigned char f[70000];
    uint32_t seed = 12345;
    start(g, &cfg);
    struct vmc_netdev d = vmc_host_net_dev(g->net);
    for (unsigned i = 0; i < 2000; i++) {
        size_t n = 1 + (seed >> 8) % (i % 50 == 0 ? 65000 : 200);
        for (size_t k = 0; k < n; k++) {
            seed = seed * 1664525 + 1013904223;
            f[k] = (unsigned char)(seed >> 24);
        }
        if (n > 34 && i % 2 == 0) {
            f[12] = 8;
            f[13] = 0;
            f[14] = 0x45;
        }
        struct vmc_iovec iov = {f, n};
        int rc = d.ops->send(d.ctx, &iov, 1);
        assert_true(rc == VMC_OK || rc == VMC_EAGAIN);
    }
    struct vmc_iovec big = {f, sizeof(f)};
    assert_int_equal(d.ops->send(d.ctx, &big, 1), VMC_EINVAL);
    vmc_host_net_close(g->net);
}

/* A raw socket on the interface is the other end. */
static int raw_socket(const char *ifname)
{
    struct ifreq ifr = {0};
    int fd = socket(AF_PACKET, SOCK_RAW, htons(0x88b5));
    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", ifname);
    if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &ifr) != 0)
        return -1;
    ifr.ifr_flags |= IFF_UP;
    if (ioctl(fd, SIOCSIFFLAGS, &ifr) != 0)
        return -1;
    struct sockaddr_ll sa = {.sll_family = AF_PACKET,
                             .sll_protocol = htons(0x88b5),
                             .sll_ifindex = (int)if_nametoindex(ifname)};
    return bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 ? fd : -1;
}

static bool is_experiment(const unsigned char *f, size_t n)
{
    return n == 60 && f[12] == 0x88 && f[13] == 0xb5;
}

static void tap_carries_frames_both_ways(void **state)
{
    (void)state;
    struct guest *g = &guest;
    char name[16]; /* of this run alone */
    snprintf(name, sizeof(name), "vmct%d", (int)getpid());
    struct vmc_host_tap_config cfg = {.size = sizeof(cfg), .ifname = name};
    struct vmc_error err;
    memset(g, 0, sizeof(*g));
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->cond, NULL);
    int rc = vmc_host_tap_open(&cfg, &g->net, &err);
    if (rc == VMC_EPERM || rc == VMC_ENOENT || rc == VMC_EHOST) {
        print_message("no TAP here: %s\n", err.text);
        skip();
    }
    assert_int_equal(rc, VMC_OK);
    struct vmc_host_net *second;
    assert_int_equal(vmc_host_tap_open(&cfg, &second, &err), VMC_EBUSY);
    assert_int_equal(vmc_host_net_start(g->net, receive, g, &err), VMC_OK);
    int fd = raw_socket(cfg.ifname);
    if (fd < 0) {
        vmc_host_net_close(g->net);
        print_message("no raw sockets here\n");
        skip();
    }
    unsigned char f[60] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5, 'o', 'u', 't'};
    unsigned char back[100];
    struct timeval patience = {.tv_sec = 120};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    send_frame(g, f, sizeof(f));
    assert_int_equal(recv(fd, back, sizeof(back), 0), sizeof(f));
    assert_memory_equal(back, f, sizeof(f));
    memcpy(f + 14, "in!", 3);
    assert_int_equal(send(fd, f, sizeof(f), 0), sizeof(f));
    unsigned char *r = next_frame(g, is_experiment);
    assert_non_null(r);
    assert_memory_equal(r + 14, "in!", 3);
    close(fd);
    vmc_host_net_close(g->net);
}

static void bad_configurations_are_explained(void **state)
{
    (void)state;
    struct vmc_host_net *n;
    struct vmc_error err;
    struct vmc_host_tap_config tap = {.size = sizeof(tap), .ifname = "name-longer-than-15-chars"};
    assert_int_equal(vmc_host_tap_open(&tap, &n, &err), VMC_EINVAL);
    tap.ifname = "a/b";
    assert_int_equal(vmc_host_tap_open(&tap, &n, &err), VMC_EINVAL);
    struct vmc_host_user_net_config cfg = {.size = sizeof(cfg), .mtu = 10};
    assert_int_equal(vmc_host_user_net_open(&cfg, &n, &err), VMC_EINVAL);
    /* a port that is taken */
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    struct vmc_host_forward fw = {.host_port = ntohs(sa.sin_port), .guest_port = 22};
    cfg =
        (struct vmc_host_user_net_config){.size = sizeof(cfg), .forwards = &fw, .forward_count = 1};
    assert_int_equal(vmc_host_user_net_open(&cfg, &n, &err), VMC_EBUSY);
    assert_non_null(strstr(err.text, "cannot listen"));
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dhcp_gives_the_documented_address),
        cmocka_unit_test(host_answers_arp_and_ping),
        cmocka_unit_test(tcp_reaches_a_server_on_the_host),
        cmocka_unit_test(frames_wait_while_the_guest_is_full),
        cmocka_unit_test(sockets_of_a_guest_are_bounded),
        cmocka_unit_test(connections_to_a_guest_are_bounded),
        cmocka_unit_test(connections_wait_for_descriptors),
        cmocka_unit_test(hostile_frames_do_no_harm),
        cmocka_unit_test(tap_carries_frames_both_ways),
        cmocka_unit_test(bad_configurations_are_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
