/* SPDX-License-Identifier: BSD-2-Clause */
/* The main thread: timers, signals, consoles, the control socket, the debugger, the end. */
#define _GNU_SOURCE
#include "run_vm.h"

#include "control_socket.h"
#include "sandbox.h"
#include "vmcore_cmd.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define SLOW_DISK_NS 5000000000ull
#define LOOK_MS      2 /* between two looks at vCPUs and requests in flight */

/* What is done as soon as no vCPU runs and no request is in flight. */
enum then { GO_ON, THEN_REBOOT, THEN_WAKE, THEN_END };

struct loop {
    struct run_vm *r;
    int timer_fd, limit_fd, signal_fd;
    pthread_mutex_t arming; /* of timer_fd; nothing is locked inside */
    struct control *control;
    struct run_gdb *gdb;
    bool suspended; /* ACPI S3 */
    enum then then;
    uint64_t slow_at_ns; /* from then on a disk is slow */
    bool slow;           /* and that was said */
    bool failing;        /* writes that wait for space fail */
    bool ending;
    bool alone; /* nobody is there to decide whether to wait on */
    bool done;
    int status;
};

static void end(struct loop *l, int status)
{
    if (!l->ending)
        l->status = status;
    l->ending = true;
}

/* Somebody wants it to end: who says so twice does not want to wait for a dead disk. */
static void leave(struct loop *l, int status)
{
    if (l->ending && l->slow)
        l->r->left = l->done = true;
    end(l, status);
}

/* ---- timers -------------------------------------------------------------------------------- */

static void arm(int fd, uint64_t deadline_ns)
{
    struct itimerspec its = {.it_value = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                                          .tv_nsec = (long)(deadline_ns % 1000000000u)}};
    if (deadline_ns == 0)
        its.it_value.tv_nsec = 1; /* zero would disarm */
    timerfd_settime(fd, TFD_TIMER_ABSTIME, &its, NULL);
}

/* An earlier timer was armed, on whatever thread: the descriptor is enough to tell the loop. */
static void timer_notify(void *ctx)
{
    struct loop *l = ctx;
    uint64_t deadline;

    /* Whoever read an earlier deadline arms it earlier, too. */
    pthread_mutex_lock(&l->arming);
    if (vmc_timerq_next(vmc_vm_board(l->r->vm)->timers, &deadline))
        arm(l->timer_fd, deadline);
    pthread_mutex_unlock(&l->arming);
}

static void run_timers(struct loop *l)
{
    uint64_t count;

    if (read(l->timer_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
        return;
    vmc_timerq_advance(vmc_vm_board(l->r->vm)->timers, l->r->pf.now_ns(l->r->pf.ctx));
    timer_notify(l);
}

/* ---- what the control socket can do ---------------------------------------------------------- */

static struct json_object *rpc_status(void *ctx, struct json_object *params, const char **message)
{
    struct loop *l = ctx;
    struct json_object *o = json_object_new_object();

    (void)params;
    (void)message;
    json_object_object_add(o, "name", json_object_new_string(l->r->opt.name));
    json_object_object_add(o, "engine", json_object_new_string(l->r->engine->name));
    json_object_object_add(o, "state",
                           json_object_new_string(l->ending                ? "ending"
                                                  : l->then == THEN_REBOOT ? "resetting"
                                                  : l->r->user_paused      ? "paused"
                                                  : l->suspended           ? "suspended"
                                                                           : "running"));
    json_object_object_add(o, "cpus", json_object_new_int((int)l->r->opt.cpus));
    json_object_object_add(o, "memory_bytes", json_object_new_uint64(l->r->opt.mem_bytes));
    json_object_object_add(o, "waits_for_space", json_object_new_boolean(run_io_waits(l->r)));
    return o;
}

static struct json_object *rpc_pause(void *ctx, struct json_object *params, const char **message)
{
    struct loop *l = ctx;

    (void)params;
    if (l->then != GO_ON) {
        *message = "the machine is being reset, or ends";
        return NULL;
    }
    if (!l->r->user_paused)
        run_threads_pause_soon(l->r);
    l->r->user_paused = true;
    return json_object_new_boolean(true);
}

static struct json_object *rpc_resume(void *ctx, struct json_object *params, const char **message)
{
    struct loop *l = ctx;

    (void)params;
    (void)message;
    if (l->r->user_paused && l->then == GO_ON && !l->suspended && !run_gdb_holds(l->gdb))
        run_threads_resume(l->r);
    l->r->user_paused = false;
    return json_object_new_boolean(true);
}

static struct json_object *rpc_stats(void *ctx, struct json_object *params, const char **message)
{
    struct loop *l = ctx;

    (void)params;
    (void)message;
    return run_stats_json(l->r);
}

static struct json_object *rpc_quit(void *ctx, struct json_object *params, const char **message)
{
    (void)params;
    (void)message;
    leave(ctx, EXIT_OK);
    return json_object_new_boolean(true);
}

static struct json_object *rpc_powerdown(void *ctx, struct json_object *params,
                                         const char **message)
{
    struct loop *l = ctx;

    (void)params;
    (void)message;
    vmc_pc_power_button(l->r->pc);
    return json_object_new_boolean(true);
}

static const struct rpc_method methods[] = {
    {"status", rpc_status}, {"pause", rpc_pause}, {"resume", rpc_resume},
    {"stats", rpc_stats},   {"quit", rpc_quit},   {"powerdown", rpc_powerdown},
};

/* ---- the end of a run, or of one boot ---------------------------------------------------------
 *
 * Requests in flight go to the memory of now, so all of this waits for them. A disk may take its
 * time, or be dead: signals and the control socket are answered meanwhile.
 */

static void finish_reboot(struct loop *l)
{
    if (vmc_vm_reset(l->r->vm) != VMC_OK || run_vm_boot(l->r) != 0) {
        fprintf(stderr, "\r\nvmcore: the reset failed\r\n");
        end(l, EXIT_ERROR);
        return;
    }
    run_io_fail_waiting(l->r, false);
    if (!l->r->user_paused && !run_gdb_holds(l->gdb))
        run_threads_resume(l->r);
}

/* Timers go on; one of them, or the power button, ends it. */
static void suspend(struct loop *l)
{
    run_threads_pause_soon(l->r);
    l->suspended = true;
}

static void finish_wake(struct loop *l)
{
    struct vmc_error err = {0};

    l->suspended = false;
    if (vmc_vm_reset(l->r->vm) != VMC_OK || vmc_pc_wake(l->r->pc, &err) != VMC_OK) {
        fprintf(stderr, "\r\nvmcore: the guest cannot be woken: %s\r\n", err.text);
        end(l, EXIT_ERROR);
        return;
    }
    run_io_fail_waiting(l->r, false);
    if (!l->r->user_paused && !run_gdb_holds(l->gdb))
        run_threads_resume(l->r);
}

static void slow_disk(struct loop *l, uint64_t now)
{
    if (now < l->slow_at_ns)
        return;
    if (!l->slow)
        fprintf(stderr, "%s: waiting for a disk that does not answer%s\r\n", run_who,
                l->ending && !l->alone ? " (another signal or quit leaves it)" : "");
    l->slow = true;
    if (l->ending && l->alone)
        l->r->left = l->done = true;
}

static void settle(struct loop *l)
{
    enum then then = l->then;

    if (then == GO_ON)
        return;
    bool halted = run_threads_halted(l->r);
    if (halted && !l->failing) {
        run_io_fail_waiting(l->r, true); /* no vCPU is left to see it */
        l->failing = true;
    }
    if (!halted || !run_io_settled(l->r)) {
        slow_disk(l, l->r->pf.now_ns(l->r->pf.ctx));
        return;
    }
    l->then = GO_ON;
    if (then == THEN_REBOOT)
        finish_reboot(l);
    else if (then == THEN_WAKE)
        finish_wake(l);
    else
        l->done = true;
}

static void stop_and(struct loop *l, enum then then)
{
    run_threads_halt(l->r); /* a debugger may have let it go on, into the same stop */
    if (l->then == GO_ON)
        l->slow_at_ns = l->r->pf.now_ns(l->r->pf.ctx) + SLOW_DISK_NS;
    l->then = then;
    l->slow = l->failing = false;
    settle(l);
}

static void guest_stopped(struct loop *l, uint32_t why, uint64_t detail)
{
    struct vmc_exit x = {.kind = VMC_EXIT_SHUTDOWN, .u.stop = {.why = why, .detail = detail}};

    if (why != VMC_STOP_RESET && why != VMC_STOP_SUSPEND)
        run_gdb_stopped(l->gdb, 0, &x);
    switch (why) {
    case VMC_STOP_RESET:
        stop_and(l, THEN_REBOOT);
        break;
    case VMC_STOP_SUSPEND:
        suspend(l);
        break;
    case VMC_STOP_POWER_OFF:
        end(l, EXIT_OK);
        break;
    case VMC_STOP_EXIT_PORT:
        end(l, (int)((detail << 1) | 1) & 0xff);
        break;
    case VMC_STOP_TRIPLE_FAULT:
        fprintf(stderr, "\r\nvmcore: the guest crashed (triple fault)\r\n");
        end(l, EXIT_GUEST_CRASH);
        break;
    case VMC_STOP_HALT_FOREVER:
        fprintf(stderr, "\r\nvmcore: the guest halted with interrupts off\r\n");
        end(l, EXIT_ERROR);
        break;
    default:
        end(l, EXIT_ERROR);
        break;
    }
}

static void look_at_threads(struct loop *l)
{
    struct run_vm *r = l->r;
    uint64_t count;
    uint32_t why;
    uint64_t detail;

    if (read(r->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
        return;
    pthread_mutex_lock(&r->lock);
    bool failed = r->failed;
    bool debug = r->debug_stop;
    bool quit = r->quit_key;
    r->quit_key = false;
    pthread_mutex_unlock(&r->lock);
    if (quit)
        leave(l, EXIT_OK);
    if (failed)
        end(l, EXIT_ERROR);
    if (failed || l->then != GO_ON)
        return;
    if (!l->suspended && vmc_vm_stopped(r->vm, &why, &detail)) {
        guest_stopped(l, why, detail);
    } else if (debug && l->gdb != NULL) {
        run_threads_pause(r);
        pthread_mutex_lock(&r->lock);
        bool stopped = r->debug_stop;
        r->debug_stop = false;
        pthread_mutex_unlock(&r->lock);
        if (stopped)
            run_gdb_stopped(l->gdb, r->debug_vcpu, &r->debug_exit);
    }
}

/* ---- poll ---------------------------------------------------------------------------------- */

static void timed_out(struct loop *l)
{
    uint64_t count;

    if (read(l->limit_fd, &count, sizeof(count)) < 0)
        return;
    fprintf(stderr, "\r\nvmcore: timeout after %g s\r\n", l->r->opt.timeout_s);
    l->alone = true;
    end(l, EXIT_TIMEOUT);
}

static void signalled(struct loop *l)
{
    struct signalfd_siginfo which;

    if (read(l->signal_fd, &which, sizeof(which)) == sizeof(which))
        leave(l, EXIT_ERROR);
}

#define MAX_POLL (4 + CONTROL_MAX_CLIENTS + 1 + RUN_GDB_MAX_POLL)

static void turn(struct loop *l)
{
    struct run_vm *r = l->r;
    struct pollfd fds[MAX_POLL];
    nfds_t n = 0;

    fds[n++] = (struct pollfd){.fd = r->wake_fd, .events = POLLIN};
    fds[n++] = (struct pollfd){.fd = l->timer_fd, .events = POLLIN};
    fds[n++] = (struct pollfd){.fd = l->signal_fd, .events = POLLIN};
    fds[n++] = (struct pollfd){.fd = l->limit_fd, .events = POLLIN};
    nfds_t control = n;
    n += control_poll_fds(l->control, fds + n);
    nfds_t gdb = n;
    if (l->then == GO_ON) /* the machine does not stop or go on by a debugger's word else */
        n += run_gdb_poll_fds(l->gdb, fds + n);

    if (poll(fds, n, l->then == GO_ON ? -1 : LOOK_MS) < 0)
        return;
    if (fds[1].revents != 0)
        run_timers(l);
    if (l->control != NULL)
        control_handle(l->control, fds + control, gdb - control);
    if (n > gdb && run_gdb_handle(l->gdb, fds + gdb, n - gdb))
        end(l, EXIT_OK);
    if (fds[0].revents != 0)
        look_at_threads(l);
    if (l->suspended && l->then == GO_ON && vmc_pc_wake_event(r->pc))
        stop_and(l, THEN_WAKE);
    if (fds[3].revents != 0)
        timed_out(l);
    if (fds[2].revents != 0)
        signalled(l);
    if (l->ending && l->then != THEN_END)
        stop_and(l, THEN_END);
    else
        settle(l);
}

void run_loop_block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static int open_fds(struct loop *l)
{
    sigset_t set;

    run_loop_block_signals(&set);
    l->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    l->limit_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (l->signal_fd < 0 || l->timer_fd < 0 || l->limit_fd < 0) {
        fprintf(stderr, "vmcore run: cannot create descriptors: %s\n", strerror(errno));
        return EXIT_ERROR;
    }
    if (l->r->opt.timeout_s > 0)
        arm(l->limit_fd, l->r->start_ns + (uint64_t)(l->r->opt.timeout_s * 1e9));
    return 0;
}

static void write_stats(struct run_vm *r, int fd)
{
    struct json_object *o = run_stats_json(r);
    const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY);

    if (dprintf(fd, "%s\n", text) < 0)
        fprintf(stderr, "vmcore run: --stats %s: %s\n", r->opt.stats_path, strerror(errno));
    json_object_put(o);
}

int run_loop(struct run_vm *r, int stats_fd)
{
    struct loop l = {.r = r,
                     .timer_fd = -1,
                     .limit_fd = -1,
                     .signal_fd = -1,
                     .arming = PTHREAD_MUTEX_INITIALIZER};
    struct rpc_server server = {
        .methods = methods, .count = sizeof(methods) / sizeof(methods[0]), .ctx = &l};

    r->start_ns = r->pf.now_ns(r->pf.ctx);
    int rc = open_fds(&l);
    if (rc == 0 && r->opt.control_path != NULL) {
        l.control = control_open(r->opt.control_path, &server);
        rc = l.control == NULL ? EXIT_ERROR : 0;
    }
    if (rc == 0 && r->opt.gdb)
        rc = run_gdb_create(r, &l.gdb);
    if (rc == 0)
        rc = run_console_start(r);
    if (rc == 0)
        rc = run_threads_start(r, true);
    struct sandbox_needs needs = {.network = run_io_uses_network(r),
                                  .volumes = run_io_uses_volumes(r),
                                  .kvm = strncmp(r->engine->name, "kvm", 3) == 0}; /* any of them */
    if (rc == 0 && !r->opt.no_sandbox && sandbox_enter(&needs) != 0)
        rc = EXIT_ERROR;
    if (rc == 0) {
        if (!r->opt.deterministic) {
            vmc_timerq_set_notify(vmc_vm_board(r->vm)->timers, timer_notify, &l);
            timer_notify(&l);
        }
        if (l.gdb == NULL)
            run_threads_resume(r);
        while (!l.done)
            turn(&l);
        rc = l.status;
    }
    if (run_threads_exist(r) && !r->left) /* one of them may be inside of a disk */
        run_threads_stop(r);
    if (!r->opt.deterministic)
        vmc_timerq_set_notify(vmc_vm_board(r->vm)->timers, NULL, NULL);
    if (stats_fd >= 0)
        write_stats(r, stats_fd);
    run_gdb_destroy(l.gdb);
    control_close(l.control);
    if (l.timer_fd >= 0)
        close(l.timer_fd);
    if (l.limit_fd >= 0)
        close(l.limit_fd);
    if (l.signal_fd >= 0)
        close(l.signal_fd);
    return rc;
}
