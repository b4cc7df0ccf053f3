/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What runs the vCPUs: one thread for each, one for all of them in deterministic mode, or the
 * scheduler's workers (run_runner.c); pausing and resuming them.
 */
#define _GNU_SOURCE
#include "run_vm.h"

#include "vmcore_cmd.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct start {
    struct run_vm *r;
    unsigned index;
};

void run_wake(struct run_vm *r)
{
    uint64_t one = 1;
    if (write(r->wake_fd, &one, sizeof(one)) < 0)
        return; /* full: the loop is awake anyway */
}

/* Stay here while the VM is paused; false: the thread must end. */
static bool wait_to_run(struct run_vm *r)
{
    pthread_mutex_lock(&r->lock);
    r->parked++;
    pthread_cond_broadcast(&r->changed);
    while (r->paused && !r->quit)
        pthread_cond_wait(&r->changed, &r->lock);
    bool go = !r->quit;
    if (go)
        r->parked--;
    pthread_mutex_unlock(&r->lock);
    return go;
}

/* Stop the whole VM where it is and let the loop decide. */
static void stop_here(struct run_vm *r, unsigned vcpu, const struct vmc_exit *exit, bool failed)
{
    pthread_mutex_lock(&r->lock);
    if (exit != NULL && exit->kind == VMC_EXIT_DEBUG && !r->debug_stop) {
        r->debug_stop = true;
        r->debug_vcpu = vcpu;
        r->debug_exit = *exit;
    }
    r->failed = r->failed || failed;
    r->paused = true;
    pthread_mutex_unlock(&r->lock);
    vmc_vm_pause(r->vm);
    run_wake(r);
}

static void report_exit(unsigned vcpu, const struct vmc_exit *x)
{
    fprintf(stderr, "\r\nvmcore: vCPU %u stopped at rip 0x%llx: %s exit that nothing handles", vcpu,
            (unsigned long long)x->rip, vmc_exit_name(x->kind));
    if (x->kind == VMC_EXIT_EMULATION) {
        fprintf(stderr, ", instruction bytes");
        for (unsigned i = 0; i < x->u.emulation.len && i < sizeof(x->u.emulation.bytes); i++)
            fprintf(stderr, " %02x", x->u.emulation.bytes[i]);
    }
    fprintf(stderr, " (engine reason 0x%x)\r\n", x->raw.reason);
}

static int run_once(struct run_vm *r, unsigned *vcpu, struct vmc_exit *x)
{
    struct vmc_run_limits lim = {.size = sizeof(lim), .flags = VMC_RUN_PARK};

    if (!r->opt.deterministic)
        return vmc_vcpu_run(vmc_vm_vcpu(r->vm, *vcpu), &lim, x);
    struct vmc_vcpu *who = NULL;
    int rc = vmc_vm_run(r->vm, &lim, &who, x);
    for (unsigned i = 0; i < r->opt.cpus; i++)
        if (vmc_vm_vcpu(r->vm, i) == who)
            *vcpu = i;
    return rc;
}

bool run_vcpu_left(struct run_vm *r, unsigned vcpu, int rc, const struct vmc_exit *x)
{
    if (rc < 0) {
        fprintf(stderr, "\r\nvmcore: vCPU %u: the engine failed: %s\r\n", vcpu, vmc_strerror(rc));
        stop_here(r, vcpu, NULL, true);
    } else if (x->kind == VMC_EXIT_SHUTDOWN || x->kind == VMC_EXIT_DEBUG) {
        stop_here(r, vcpu, x, false);
    } else if (x->kind != VMC_EXIT_KICKED && x->kind != VMC_EXIT_BUDGET &&
               x->kind != VMC_EXIT_IDLE) {
        report_exit(vcpu, x);
        stop_here(r, vcpu, NULL, true);
    } else {
        return true;
    }
    return false;
}

static void *vcpu_main(void *arg)
{
    struct start *s = arg;
    struct run_vm *r = s->r;
    unsigned index = s->index;
    char name[16];

    free(s);
    snprintf(name, sizeof(name), "vcpu%u", index);
    pthread_setname_np(pthread_self(), name);
    while (wait_to_run(r)) {
        struct vmc_exit x;
        unsigned vcpu = index;
        memset(&x, 0, sizeof(x));
        int rc = run_once(r, &vcpu, &x);
        (void)run_vcpu_left(r, vcpu, rc, &x); /* if it is to stop, wait_to_run sees it */
    }
    return NULL;
}

int run_threads_start(struct run_vm *r, bool paused)
{
    unsigned n = r->opt.deterministic ? 1 : r->opt.cpus;

    r->paused = paused;
    if (r->opt.workers != 0)
        return run_runner_start(r);
    /* Signals are the main thread's. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (unsigned i = 0; i < n; i++) {
        struct start *s = malloc(sizeof(*s));
        if (s != NULL)
            *s = (struct start){.r = r, .index = i};
        if (s == NULL || pthread_create(&r->threads[i], NULL, vcpu_main, s) != 0) {
            fprintf(stderr, "vmcore run: cannot start the thread of vCPU %u\n", i);
            free(s);
            pthread_sigmask(SIG_SETMASK, &old, NULL);
            run_threads_stop(r);
            return EXIT_ERROR;
        }
        r->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return 0;
}

void run_threads_halt(struct run_vm *r)
{
    pthread_mutex_lock(&r->lock);
    r->paused = true;
    pthread_mutex_unlock(&r->lock);
    vmc_vm_pause(r->vm);
}

bool run_threads_halted(struct run_vm *r)
{
    pthread_mutex_lock(&r->lock);
    bool yes = r->parked == r->thread_count;
    pthread_mutex_unlock(&r->lock);
    return yes && (r->runner == NULL || vmc_vm_quiesced(r->vm));
}

void run_threads_pause(struct run_vm *r)
{
    run_threads_halt(r);
    pthread_mutex_lock(&r->lock);
    while (r->parked < r->thread_count)
        pthread_cond_wait(&r->changed, &r->lock);
    pthread_mutex_unlock(&r->lock);
    if (r->runner != NULL)
        run_runner_wait(r);
    run_io_quiesce(r);
}

void run_threads_pause_soon(struct run_vm *r)
{
    const struct timespec nap = {.tv_nsec = 100000};

    run_threads_halt(r);
    for (int i = 0; i < 2000 && !run_threads_halted(r); i++)
        nanosleep(&nap, NULL);
    if (run_threads_halted(r))
        run_io_quiesce(r);
}

void run_threads_resume(struct run_vm *r)
{
    /* First: workers run at once, and what stops the VM again must not be forgotten. */
    pthread_mutex_lock(&r->lock);
    r->paused = false;
    r->debug_stop = false;
    pthread_mutex_unlock(&r->lock);
    vmc_board_resume(vmc_vm_board(r->vm));
    vmc_vm_resume(r->vm);
    pthread_mutex_lock(&r->lock);
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

void run_threads_stop(struct run_vm *r)
{
    pthread_mutex_lock(&r->lock);
    r->quit = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    vmc_vm_pause(r->vm);
    for (unsigned i = 0; i < r->thread_count; i++)
        pthread_join(r->threads[i], NULL);
    r->thread_count = 0;
    run_runner_stop(r);
}

bool run_threads_exist(const struct run_vm *r)
{
    return r->thread_count > 0 || r->runner != NULL;
}
