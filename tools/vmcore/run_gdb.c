/* SPDX-License-Identifier: BSD-2-Clause */
/* --gdb: a TCP connection of the loopback interface in front of the library's stub. */
#define _GNU_SOURCE
#include "run_vm.h"

#include "vmcore_cmd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <vmcore/gdb.h>

#define SHORT_NS 500000000

struct run_gdb {
    struct run_vm *r;
    struct vmc_gdb *stub;
    int listen_fd, fd;
    int timer;     /* runs while nobody can be accepted */
    bool shortage; /* of descriptors: the timer is polled, not the socket, which stays readable */
    bool holds;    /* the VM is stopped for the debugger, or waits for one */
};

bool run_gdb_holds(const struct run_gdb *g)
{
    return g != NULL && g->holds;
}

/* The VM goes on, unless somebody else has paused it. */
static void let_go(struct run_gdb *g)
{
    g->holds = false;
    if (!g->r->user_paused)
        run_threads_resume(g->r);
}

static void gdb_send(void *ctx, const void *data, size_t bytes)
{
    struct run_gdb *g = ctx;
    const char *p = data;

    while (bytes > 0 && g->fd >= 0) {
        ssize_t n = send(g->fd, p, bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) { /* closed, or nobody reads: the next read finds the end */
            shutdown(g->fd, SHUT_RDWR);
            return;
        }
        p += n;
        bytes -= (size_t)n;
    }
}

/* A debugger refuses a description that does not fit the program it has loaded. */
static bool describe_i386(const struct run_vm *r)
{
    unsigned char id[5];

    if (r->opt.gdb_arch != RUN_GDB_AUTO)
        return r->opt.gdb_arch == RUN_GDB_I386;
    return r->kernel.fd >= 0 && pread(r->kernel.fd, id, sizeof(id), 0) == sizeof(id) &&
           memcmp(id,
                  "\x7f"
                  "ELF\x01",
                  sizeof(id)) == 0;
}

int run_gdb_create(struct run_vm *r, struct run_gdb **out)
{
    struct vmc_error err = {0};
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)r->opt.gdb_port),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct run_gdb *g = calloc(1, sizeof(*g));
    socklen_t addr_bytes = sizeof(addr);
    /* One that does not read what it asked for is let go: the loop has other things to do. */
    struct timeval patience = {.tv_sec = 10};
    int one = 1;

    if (g == NULL)
        return EXIT_ERROR;
    g->r = r;
    g->fd = -1;
    g->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    g->holds = true;
    g->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (g->timer < 0 || g->listen_fd < 0 ||
        setsockopt(g->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
        /* connections inherit these; once confined, the process cannot set them */
        setsockopt(g->listen_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) != 0 ||
        setsockopt(g->listen_fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) != 0 ||
        bind(g->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 ||
        listen(g->listen_fd, 1) != 0 ||
        getsockname(g->listen_fd, (struct sockaddr *)&addr, &addr_bytes) != 0) {
        fprintf(stderr, "vmcore run: --gdb %d: %s\n", r->opt.gdb_port, strerror(errno));
        run_gdb_destroy(g);
        return EXIT_ERROR;
    }
    struct vmc_gdb_config cfg = {.size = sizeof(cfg),
                                 .vcpus = r->opt.cpus,
                                 .vm = r->vm,
                                 .send = gdb_send,
                                 .ctx = g,
                                 .flags = describe_i386(r) ? VMC_GDB_I386 : 0};
    if (vmc_gdb_create(&r->pf, &cfg, &g->stub, &err) != VMC_OK) {
        run_gdb_destroy(g);
        return run_vm_fail("--gdb", &err);
    }
    fprintf(stderr, "vmcore: waiting for gdb: target remote 127.0.0.1:%d\n", ntohs(addr.sin_port));
    *out = g;
    return 0;
}

static void hang_up(struct run_gdb *g)
{
    if (g->fd >= 0)
        close(g->fd);
    g->fd = -1;
}

void run_gdb_destroy(struct run_gdb *g)
{
    if (g == NULL)
        return;
    hang_up(g);
    if (g->listen_fd >= 0)
        close(g->listen_fd);
    if (g->timer >= 0)
        close(g->timer);
    vmc_gdb_destroy(g->stub);
    free(g);
}

nfds_t run_gdb_poll_fds(struct run_gdb *g, struct pollfd *fds)
{
    if (g == NULL)
        return 0;
    int none = g->shortage ? g->timer : g->listen_fd;
    fds[0] = (struct pollfd){.fd = g->fd >= 0 ? g->fd : none, .events = POLLIN};
    return 1;
}

static void accept_debugger(struct run_gdb *g)
{
    const struct itimerspec later = {.it_value.tv_nsec = SHORT_NS};

    g->shortage = false; /* or no longer */
    g->fd = accept4(g->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (g->fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            g->shortage = timerfd_settime(g->timer, 0, &later, NULL) == 0;
        return;
    }
    run_threads_pause(g->r);
    g->holds = true;
    vmc_gdb_connected(g->stub);
}

#define MAX_KICKS 1000u
#define MAX_TURNS 1000000u /* instructions of others before one of a certain vCPU */

/* In deterministic mode the others have their turns first: the run stays the same run. */
static int step_in_turns(struct run_vm *r, unsigned *vcpu, struct vmc_exit *x)
{
    const struct vmc_vcpu *want = vmc_vm_vcpu(r->vm, *vcpu);
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = 1};
    struct vmc_vcpu *who = NULL;
    int rc = VMC_OK;

    x->kind = VMC_EXIT_BUDGET;
    for (unsigned n = 0; n < MAX_TURNS && rc == VMC_OK && x->kind == VMC_EXIT_BUDGET && who != want;
         n++)
        rc = vmc_vm_run(r->vm, &lim, &who, x);
    for (unsigned i = 0; i < r->opt.cpus; i++)
        if (vmc_vm_vcpu(r->vm, i) == who)
            *vcpu = i;
    return rc;
}

/* One instruction of one vCPU, on this thread, while all others stand. */
static void step(struct run_gdb *g)
{
    struct run_vm *r = g->r;
    unsigned vcpu = vmc_gdb_step_vcpu(g->stub);
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = 1};
    struct vmc_exit x = {.kind = VMC_EXIT_KICKED};
    int rc = VMC_OK;

    run_runner_hold(r, true);
    /* What was on its way when the VM stopped, a kick or a pause, ends it before it begins. */
    for (unsigned n = 0; n < MAX_KICKS && rc == VMC_OK && x.kind == VMC_EXIT_KICKED; n++) {
        vmc_vm_resume(r->vm);
        rc = r->opt.deterministic ? step_in_turns(r, &vcpu, &x)
                                  : vmc_vcpu_run(vmc_vm_vcpu(r->vm, vcpu), &lim, &x);
    }
    vmc_vm_pause(r->vm);
    run_runner_hold(r, false);
    if (rc < 0)
        x.kind = VMC_EXIT_BUDGET;
    vmc_gdb_stopped(g->stub, vcpu, &x);
}

static bool act(struct run_gdb *g, enum vmc_gdb_action action)
{
    switch (action) {
    case VMC_GDB_NONE:
        break;
    case VMC_GDB_CONTINUE:
        let_go(g);
        break;
    case VMC_GDB_STEP:
        step(g);
        break;
    case VMC_GDB_INTERRUPT:
        run_threads_pause(g->r);
        g->holds = true;
        vmc_gdb_stopped(g->stub, 0, NULL);
        break;
    case VMC_GDB_DETACH:
        hang_up(g);
        let_go(g);
        break;
    case VMC_GDB_KILL:
        hang_up(g);
        return true;
    }
    return false;
}

bool run_gdb_handle(struct run_gdb *g, const struct pollfd *fds, nfds_t count)
{
    char buf[4096];

    if (g == NULL || count == 0 || fds[0].revents == 0)
        return false;
    if (g->fd < 0) {
        accept_debugger(g);
        return false;
    }
    ssize_t n = recv(g->fd, buf, sizeof(buf), 0);
    if (n < 0 && errno == EINTR)
        return false;
    if (n <= 0) { /* gone without a word: as if it had detached */
        run_threads_pause(g->r);
        vmc_gdb_connected(g->stub);
        hang_up(g);
        let_go(g);
        return false;
    }
    for (size_t at = 0; at < (size_t)n;) {
        size_t used = 0;
        enum vmc_gdb_action a = vmc_gdb_input(g->stub, buf + at, (size_t)n - at, &used);
        at += used;
        if (act(g, a))
            return true;
        if (g->fd < 0)
            break;
    }
    return false;
}

void run_gdb_stopped(struct run_gdb *g, unsigned vcpu, const struct vmc_exit *exit)
{
    if (g == NULL || g->fd < 0)
        return;
    g->holds = true;
    vmc_gdb_stopped(g->stub, vcpu, exit);
}
