/* SPDX-License-Identifier: BSD-2-Clause */
/* The main thread of a host: the control socket, VMs that stop. */
#define _GNU_SOURCE
#include "host.h"

#include "control_socket.h"
#include "sandbox.h"
#include "vmcore_cmd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TRACE_MS  100 /* how often the trace is written */
#define SETTLE_MS 1   /* how often a VM that stops is looked at */
#define MAX_POLL  (1 + CONTROL_MAX_CLIENTS + 1)

/* ---- VMs that stopped --------------------------------------------------------------------------
 */

static void crashed(struct host_vm *vm, const char *reason, int status)
{
    fprintf(stderr, "vmcore host: VM '%s': %s\n", vm->run.opt.name, reason);
    if (status > vm->h->status)
        vm->h->status = status;
    host_vm_end(vm, reason);
}

static void stopped(struct host_vm *vm, uint32_t why)
{
    switch (why) {
    case VMC_STOP_RESET:
        host_vm_reboot(vm);
        break;
    case VMC_STOP_POWER_OFF:
        host_vm_end(vm, "powered off");
        break;
    case VMC_STOP_EXIT_PORT:
        host_vm_end(vm, "wrote to the exit port");
        break;
    case VMC_STOP_TRIPLE_FAULT:
        crashed(vm, "crashed (triple fault)", EXIT_GUEST_CRASH);
        break;
    case VMC_STOP_HALT_FOREVER:
        crashed(vm, "halted with interrupts off", EXIT_ERROR);
        break;
    default:
        crashed(vm, "stopped for an unknown reason", EXIT_ERROR);
        break;
    }
}

static void look_at_vms(struct host *h)
{
    uint64_t count;

    if (read(h->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
        return;
    for (unsigned i = 0; i < h->count; i++) {
        struct host_vm *vm = h->vms[i];
        uint32_t why;
        uint64_t detail;
        if (vm->state != HOST_VM_RUNNING || vm->then == HOST_VM_END)
            continue;
        if (atomic_load(&vm->failed))
            crashed(vm, "failed", EXIT_ERROR);
        else if (vm->then == HOST_VM_GO_ON && vmc_vm_stopped(vm->run.vm, &why, &detail))
            stopped(vm, why);
    }
}

static bool any_left(const struct host *h)
{
    for (unsigned i = 0; i < h->count; i++)
        if (h->vms[i]->state == HOST_VM_RUNNING)
            return true;
    return false;
}

/* ---- poll --------------------------------------------------------------------------------------
 */

void host_wake_loop(const struct host *h)
{
    uint64_t one = 1;

    if (write(h->wake_fd, &one, sizeof(one)) < 0)
        return; /* full: the loop is awake anyway */
}

static void turn(struct host *h, struct control *control)
{
    struct pollfd fds[MAX_POLL];
    nfds_t n = 0;
    int timeout = h->trace != NULL ? TRACE_MS : -1;

    for (unsigned i = 0; i < h->count; i++)
        if (!host_vm_settle(h->vms[i]))
            timeout = SETTLE_MS;
    if (!any_left(h))
        return;
    fds[n++] = (struct pollfd){.fd = h->wake_fd, .events = POLLIN};
    nfds_t clients = n;
    n += control_poll_fds(control, fds + n);
    if (poll(fds, n, timeout) < 0)
        return;
    vmc_runner_trace_flush(h->runner);
    if (control != NULL)
        control_handle(control, fds + clients, n - clients);
    if (fds[0].revents != 0)
        look_at_vms(h);
}

/*
 * Somebody asked for the end: all VMs end, each when its disks have answered. Who asks twice does
 * not want to wait for one that does not answer. False: that is enough.
 */
static bool end_all(struct host *h, bool *ending)
{
    unsigned asked = atomic_load(&h->quits);

    if (asked != 0 && !*ending)
        host_vms_begin_end(h, "the host ends");
    *ending = asked != 0;
    h->left = asked > 1 && host_vms_slow(h);
    return !h->left;
}

static bool uses_network(const struct host *h)
{
    for (unsigned i = 0; i < h->count; i++)
        if (run_io_uses_network(&h->vms[i]->run))
            return true;
    return false;
}

static bool uses_volumes(const struct host *h)
{
    for (unsigned i = 0; i < h->count; i++)
        if (run_io_uses_volumes(&h->vms[i]->run))
            return true;
    return false;
}

int host_loop(struct host *h)
{
    struct rpc_server server = host_rpc_server(h);
    struct control *control = NULL;
    int rc = 0;

    if (h->cfg.control != NULL) {
        control = control_open(h->cfg.control, &server);
        rc = control == NULL ? EXIT_ERROR : 0;
    }
    struct sandbox_needs needs = {.network = uses_network(h),
                                  .volumes = uses_volumes(h),
                                  .kvm = host_kvm_wanted(h),
                                  .paging = host_kvm_wanted(h)};
    if (rc == 0 && !h->cfg.no_sandbox && sandbox_enter(&needs) != 0)
        rc = EXIT_ERROR;
    if (rc == 0) {
        h->start_ns = h->pf.now_ns(h->pf.ctx);
        for (unsigned i = 0; i < h->count; i++)
            host_vm_begin(h->vms[i]);
        bool ending = false;
        while (any_left(h) && end_all(h, &ending))
            turn(h, control);
        rc = h->status;
    }
    control_close(control);
    return rc;
}
