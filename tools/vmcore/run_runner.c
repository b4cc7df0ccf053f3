/* SPDX-License-Identifier: BSD-2-Clause */
/* --workers: the vCPUs share a number of threads under the library's own scheduler. */
#define _GNU_SOURCE
#include "run_vm.h"

#include "vmcore_cmd.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include <vmcore/host_runner.h>

struct run_runner {
    struct vmc_runner *runner;
    uint32_t id;
    bool attached;
    atomic_bool held; /* no worker runs a vCPU, though the VM is not paused */
};

static int on_exit_of_vcpu(void *ctx, uint32_t index, int rc, struct vmc_exit *x)
{
    return run_vcpu_left(ctx, index, rc, x) ? VMC_RUNNER_AGAIN : VMC_RUNNER_IDLE;
}

static bool is_held(void *ctx)
{
    const struct run_vm *r = ctx;

    return atomic_load(&r->runner->held);
}

void run_runner_hold(struct run_vm *r, bool hold)
{
    if (r->runner != NULL)
        atomic_store(&r->runner->held, hold);
}

int run_runner_attach(struct run_vm *r)
{
    struct vmc_runner_config rc = {
        .size = sizeof(rc), .cpus = r->opt.workers, .max_vms = 1, .max_vcpus = r->opt.cpus};
    struct vmc_runner_guest_config gc = {.size = sizeof(gc),
                                         .flags = VMC_RUNNER_OWN_TIMERS,
                                         .group = VMC_SCHED_ROOT,
                                         .sched = {.size = sizeof(gc.sched),
                                                   .vcpus = r->opt.cpus,
                                                   .coscheduling = VMC_SCHED_CO_RELAXED,
                                                   .share = {.shares = 1000}},
                                         .vm = r->vm,
                                         .exit = on_exit_of_vcpu,
                                         .held = is_held,
                                         .ctx = r};
    struct vmc_error err = {0};

    r->runner = calloc(1, sizeof(*r->runner));
    if (r->runner == NULL)
        return EXIT_ERROR;
    if (vmc_runner_create(&r->pf, &rc, &r->runner->runner, &err) != VMC_OK ||
        vmc_runner_attach(r->runner->runner, &gc, &r->runner->id, &err) != VMC_OK) {
        run_runner_stop(r);
        return run_vm_fail("--workers", &err);
    }
    r->runner->attached = true;
    return 0;
}

int run_runner_start(struct run_vm *r)
{
    struct vmc_error err = {0};

    if (vmc_runner_start(r->runner->runner, &err) != VMC_OK) {
        run_runner_stop(r);
        return run_vm_fail("--workers", &err);
    }
    return 0;
}

/* The VM is paused: until no vCPU is inside run. */
void run_runner_wait(struct run_vm *r)
{
    while (!vmc_vm_quiesced(r->vm)) {
        struct timespec nap = {.tv_nsec = 100000};
        nanosleep(&nap, NULL);
    }
}

void run_runner_stop(struct run_vm *r)
{
    struct run_runner *rr = r->runner;

    if (rr == NULL)
        return;
    if (rr->attached && vmc_runner_detach(rr->runner, rr->id) != VMC_OK)
        fprintf(stderr, "%s: the runner does not know the VM\n", run_who);
    vmc_runner_destroy(rr->runner);
    free(rr);
    r->runner = NULL;
}
