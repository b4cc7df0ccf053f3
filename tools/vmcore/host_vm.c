/* SPDX-License-Identifier: BSD-2-Clause */
/* One VM of a host: its memory space, its vCPUs as tasks of the runner, its life. */
#define _GNU_SOURCE
#include "host.h"

#include "vmcore_cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <vmcore/log.h>

#define PAUSE_NS        2000000000u   /* the main thread waits no longer for vCPUs */
#define SLOW_DISK_NS    5000000000u   /* the user hears of a wait that is longer */
#define HOST_CODE_BYTES (32ull << 20) /* of translated code for each vCPU, unless configured */

uint64_t host_vm_pages(const struct host_vm *vm)
{
    return vm->run.opt.mem_bytes / VMC_PAGE_SIZE;
}

const char *host_vm_state_name(const struct host_vm *vm)
{
    if (vm->state == HOST_VM_ENDED)
        return "ended";
    if (vm->then != HOST_VM_GO_ON)
        return vm->then == HOST_VM_END ? "ending" : "resetting";
    return vm->user_paused ? "paused" : "running";
}

/* ---- pages that the guest gives up -------------------------------------------------------------
 */

static void inflate(void *ctx, uint64_t gpa, uint64_t bytes)
{
    struct host_vm *vm = ctx;
    (void)vmc_mem_drop(vmc_vm_mem(vm->run.vm), gpa, bytes, true);
}

static void deflate(void *ctx, uint64_t gpa, uint64_t bytes)
{
    struct host_vm *vm = ctx;
    vmc_mem_return(vmc_vm_mem(vm->run.vm), gpa, bytes);
}

static void report(void *ctx, uint64_t gpa, uint64_t bytes)
{
    struct host_vm *vm = ctx;
    (void)vmc_mem_drop(vmc_vm_mem(vm->run.vm), gpa, bytes, false);
}

static const struct vmc_balloon_ops balloon_ops = {
    .inflate = inflate, .deflate = deflate, .report = report};

/* ---- disks, counted ----------------------------------------------------------------------------
 */

static int disk_info(void *ctx, struct vmc_block_info *out)
{
    struct host_disk *d = ctx;
    return d->below.ops->info(d->below.ctx, out);
}

static int disk_submit(void *ctx, struct vmc_block_req *req)
{
    struct host_disk *d = ctx;

    if (req->op == VMC_BLOCK_READ) {
        atomic_fetch_add(&d->reads, 1);
        atomic_fetch_add(&d->read_bytes, req->bytes);
    } else if (req->op == VMC_BLOCK_WRITE) {
        atomic_fetch_add(&d->writes, 1);
        atomic_fetch_add(&d->write_bytes, req->bytes);
    } else {
        atomic_fetch_add(&d->others, 1);
    }
    return d->below.ops->submit(d->below.ctx, req);
}

static void disk_kick(void *ctx)
{
    struct host_disk *d = ctx;

    if (d->below.ops->kick != NULL)
        d->below.ops->kick(d->below.ctx);
}

static struct vmc_blockdev count_disk(void *ctx, unsigned index, struct vmc_blockdev dev)
{
    static const struct vmc_blockdev_ops ops = {
        .info = disk_info, .submit = disk_submit, .kick = disk_kick};
    struct host_vm *vm = ctx;

    vm->disks[index].below = dev;
    return (struct vmc_blockdev){.ops = &ops, .ctx = &vm->disks[index]};
}

/* ---- what the library says ---------------------------------------------------------------------
 */

/* Which VM it is about is to be seen. */
static void log_line(void *ctx, int level, const char *module, const char *text)
{
    const struct host_vm *vm = ctx;

    fprintf(stderr, "vmcore host: VM '%s': %s: %s: %s\n", vm->run.opt.name,
            vmc_log_level_name(level), module, text);
}

/* ---- memory ------------------------------------------------------------------------------------
 */

/*
 * A file without a name, so that nothing is left of it however the host ends; where the file system
 * has no such files, one that has a name for a moment.
 */
static int nameless(const char *dir, char *path, size_t room, bool *named)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    *named = fd < 0;
    int n = *named ? snprintf(path, room, "%s/vmcore-swap-XXXXXX", dir)
                   : snprintf(path, room, "/proc/self/fd/%d", fd);
    if (*named && n > 0 && (size_t)n < room)
        fd = mkostemp(path, O_CLOEXEC);
    return fd;
}

static int open_swap(struct host_vm *vm, struct vmc_blockdev *out)
{
    struct vmc_error err = {0};
    char path[4096];
    bool named;

    if (vm->h->cfg.swap_dir == NULL)
        return 0;
    int fd = nameless(vm->h->cfg.swap_dir, path, sizeof(path), &named);
    int rc = fd < 0 ? -1 : ftruncate(fd, (off_t)vm->run.opt.mem_bytes);
    if (rc != 0)
        fprintf(stderr, "%s: swap file in %s: %s\n", run_who, vm->h->cfg.swap_dir, strerror(errno));
    struct vmc_host_disk_config hc = {.size = sizeof(hc), .path = path};
    if (rc == 0 && vmc_host_disk_open(&hc, &vm->swap, &err) != VMC_OK)
        rc = run_vm_fail("swap file", &err);
    if (fd >= 0 && named)
        unlink(path);
    if (fd >= 0)
        close(fd);
    if (rc != 0)
        return EXIT_ERROR;
    *out = vmc_host_disk_blockdev(vm->swap);
    return 0;
}

/* FNV-1a over a secret and the group's name: equal for VMs of a group, unknown to guests. */
static uint64_t salt_of(const struct host_vm *vm)
{
    uint64_t salt = 0;

    if (vm->cfg->trust == NULL) {
        if (vm->h->pf.entropy->fill(vm->h->pf.ctx, &salt, sizeof(salt)) != VMC_OK)
            salt = (uint64_t)(uintptr_t)vm; /* still one of its own */
        return salt;
    }
    salt = 0xcbf29ce484222325ull ^ vm->h->secret;
    for (const char *p = vm->cfg->trust; *p != '\0'; p++)
        salt = (salt ^ (unsigned char)*p) * 0x100000001b3ull;
    return salt;
}

static void wrap_platform(void *ctx, struct vmc_platform *pf)
{
    struct host_vm *vm = ctx;

    host_overhead_wrap(&vm->overhead, pf);
}

static int make_memory(void *ctx)
{
    struct host_vm *vm = ctx;
    struct vmc_error err = {0};
    struct vmc_space_config sc = {.size = sizeof(sc),
                                  .flags = vm->cfg->large ? VMC_SPACE_LARGE : 0,
                                  .pages = host_vm_pages(vm),
                                  .salt = salt_of(vm),
                                  .provider = vmc_mem_provider(),
                                  .provider_ctx = vmc_vm_mem(vm->run.vm)};
    int rc = open_swap(vm, &sc.swap);

    if (rc == 0 && vmc_space_create(vm->h->pool, &sc, &vm->run.space, &err) != VMC_OK)
        rc = run_vm_fail("memory", &err);
    if (rc != 0)
        return rc;
    /* From now on the policy thread makes room while the guest is loaded. */
    pthread_mutex_lock(&vm->h->lock);
    vm->managed = true;
    pthread_mutex_unlock(&vm->h->lock);
    host_policy_wake(vm->h);
    return 0;
}

/* ---- vCPUs -------------------------------------------------------------------------------------
 */

/* The VM cannot go on by itself; the main thread finds out why. */
static void stop_here(struct host_vm *vm, bool failed)
{
    if (failed)
        atomic_store(&vm->failed, true);
    host_vm_hold(vm, HOST_HELD_STOPPED);
    host_wake_loop(vm->h);
}

void host_vm_fail(struct host_vm *vm)
{
    stop_here(vm, true);
}

static int on_exit_of_vcpu(void *ctx, uint32_t index, int rc, struct vmc_exit *x)
{
    struct host_vm *vm = ctx;

    if (rc < 0)
        fprintf(stderr, "vmcore host: VM '%s', vCPU %u: the engine failed: %s\n", vm->run.opt.name,
                index, vmc_strerror(rc));
    else if (x->kind != VMC_EXIT_SHUTDOWN)
        fprintf(stderr,
                "vmcore host: VM '%s', vCPU %u stopped at rip 0x%llx: %s exit that nothing "
                "handles\n",
                vm->run.opt.name, index, (unsigned long long)x->rip, vmc_exit_name(x->kind));
    stop_here(vm, rc < 0 || x->kind != VMC_EXIT_SHUTDOWN);
    return VMC_RUNNER_IDLE;
}

static bool is_held(void *ctx)
{
    struct host_vm *vm = ctx;

    return atomic_load(&vm->held) != 0; /* host_vm_release wakes */
}

/* The runner has the vCPUs from here on; they stay idle until the VM is released. */
static int schedule(void *ctx)
{
    struct host_vm *vm = ctx;
    struct vmc_error err = {0};
    struct vmc_runner_guest_config gc = {.size = sizeof(gc),
                                         .flags = VMC_RUNNER_OWN_TIMERS,
                                         .sched = {.size = sizeof(gc.sched),
                                                   .vcpus = vm->run.opt.cpus,
                                                   .coscheduling = VMC_SCHED_CO_RELAXED},
                                         .vm = vm->run.vm,
                                         .exit = on_exit_of_vcpu,
                                         .held = is_held,
                                         .ctx = vm};

    host_cpu_describe(vm->h, &vm->cpu, vm->cfg->cpu_pool, &gc);
    if (vmc_runner_attach(vm->h->runner, &gc, &vm->sched_vm, &err) != VMC_OK)
        return run_vm_fail("scheduler", &err);
    vm->scheduled = true;
    return 0;
}

static void unschedule(struct host_vm *vm)
{
    if (!vm->scheduled)
        return;
    vm->scheduled = false;
    int rc = vmc_runner_detach(vm->h->runner, vm->sched_vm);
    if (rc != VMC_OK)
        fprintf(stderr, "vmcore host: VM '%s': %s\n", vm->run.opt.name, vmc_strerror(rc));
}

uint64_t host_vm_ran_ns(const struct host_vm *vm)
{
    struct vmc_sched *sched = vmc_runner_sched(vm->h->runner);
    uint64_t sum = 0;

    for (unsigned i = 0; vm->scheduled && i < vm->run.opt.cpus; i++) {
        struct vmc_sched_vcpu_stats st;
        uint32_t v = vmc_sched_vcpu(sched, vm->sched_vm, i);
        if (v != VMC_SCHED_NONE && vmc_sched_vcpu_stats(sched, v, 0, &st) == VMC_OK)
            sum += st.used_ns + st.stolen_ns; /* of slices that are over */
    }
    return sum;
}

void host_vm_hold(struct host_vm *vm, unsigned why)
{
    if (atomic_fetch_or(&vm->held, why) != 0)
        return;
    for (unsigned i = 0; vm->scheduled && i < vm->run.opt.cpus; i++)
        vmc_vcpu_kick(vmc_vm_vcpu(vm->run.vm, i));
}

void host_vm_release(struct host_vm *vm, unsigned why)
{
    if ((atomic_fetch_and(&vm->held, ~why) & ~why) != 0)
        return;
    for (unsigned i = 0; vm->scheduled && i < vm->run.opt.cpus; i++)
        vmc_runner_wake(vm->h->runner, vm->sched_vm, i);
}

/* ---- timers ------------------------------------------------------------------------------------
 */

void host_vm_arm_timer(struct host_vm *vm)
{
    struct itimerspec its = {0};
    uint64_t deadline;

    /* Whoever read an earlier deadline arms it earlier, too. */
    pthread_mutex_lock(&vm->arming);
    if (vmc_timerq_next(vmc_vm_board(vm->run.vm)->timers, &deadline)) {
        its.it_value.tv_sec = (time_t)(deadline / 1000000000u);
        its.it_value.tv_nsec = (long)(deadline % 1000000000u);
        if (deadline == 0)
            its.it_value.tv_nsec = 1; /* zero would disarm */
        timerfd_settime(vm->timer_fd, TFD_TIMER_ABSTIME, &its, NULL);
    }
    pthread_mutex_unlock(&vm->arming);
}

static void timer_notify(void *ctx)
{
    host_vm_arm_timer(ctx);
}

/*
 * A thread for each VM: what a timer does may need a page of the guest, and that may have to be
 * read from a swap file, for however long that takes.
 */
static void *serve_timers(void *arg)
{
    struct host_vm *vm = arg;
    struct pollfd fds[] = {{.fd = vm->timer_fd, .events = POLLIN},
                           {.fd = vm->timer_stop, .events = POLLIN}};
    uint64_t count;

    pthread_setname_np(pthread_self(), "timers");
    while (fds[1].revents == 0) {
        if (poll(fds, 2, -1) <= 0 || fds[1].revents != 0)
            continue;
        if (read(vm->timer_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
            break;
        pthread_mutex_lock(&vm->timers);
        vmc_timerq_advance(vmc_vm_board(vm->run.vm)->timers, vm->h->pf.now_ns(vm->h->pf.ctx));
        pthread_mutex_unlock(&vm->timers);
        host_vm_arm_timer(vm);
    }
    return NULL;
}

static int start_timers(struct host_vm *vm)
{
    vm->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    vm->timer_stop = eventfd(0, EFD_CLOEXEC);
    int e = vm->timer_fd < 0 || vm->timer_stop < 0
                ? errno
                : pthread_create(&vm->timer_thread, NULL, serve_timers, vm);
    if (e != 0) {
        fprintf(stderr, "%s: timers: %s\n", run_who, strerror(e));
        return EXIT_ERROR;
    }
    vm->has_timer_thread = true;
    vmc_timerq_set_notify(vmc_vm_board(vm->run.vm)->timers, timer_notify, vm);
    host_vm_arm_timer(vm);
    return 0;
}

/* The thread ends soon: a guest's clock may be periodic, and would go on for ever. */
static void end_timers(const struct host_vm *vm)
{
    uint64_t one = 1;

    if (vm->timer_stop >= 0)
        (void)!write(vm->timer_stop, &one, sizeof(one)); /* full: it has been told */
}

static void stop_timers(struct host_vm *vm)
{
    end_timers(vm);
    if (vm->has_timer_thread)
        pthread_join(vm->timer_thread, NULL);
    vm->has_timer_thread = false;
    if (vm->timer_fd >= 0)
        close(vm->timer_fd);
    if (vm->timer_stop >= 0)
        close(vm->timer_stop);
    vm->timer_fd = vm->timer_stop = -1;
}

/* ---- life --------------------------------------------------------------------------------------
 */

static int start(struct host_vm *vm)
{
    int rc = run_console_start(&vm->run);
    if (rc == 0)
        rc = start_timers(vm);
    if (rc != 0)
        return rc;
    vmc_vm_resume(vm->run.vm); /* it is held */
    vm->state = HOST_VM_RUNNING;
    return 0;
}

struct host_vm *host_vm_new(struct host *h, const struct host_vm_config *cfg)
{
    static const struct run_hooks hooks = {.platform = wrap_platform,
                                           .memory = make_memory,
                                           .balloon = &balloon_ops,
                                           .disk = count_disk,
                                           .schedule = schedule};
    struct host_vm *vm = calloc(1, sizeof(*vm));

    if (vm == NULL)
        return NULL;
    vm->h = h;
    vm->cfg = cfg;
    vm->mem = cfg->mem;
    vm->cpu = cfg->cpu;
    vm->timer_fd = vm->timer_stop = -1;
    pthread_mutex_init(&vm->timers, NULL);
    pthread_mutex_init(&vm->arming, NULL);
    vm->balloon_set = UINT64_MAX;
    atomic_store(&vm->held, HOST_HELD_STOPPED);
    vmc_active_init(&vm->active, 0, 0);
    vm->run.opt = cfg->run;
    if (vm->run.opt.code_bytes == 0) /* all of it counts as memory of the host */
        vm->run.opt.code_bytes = HOST_CODE_BYTES;
    vmc_balloon_guest_init(&vm->balloon, host_vm_pages(vm));
    vm->run.frames = h->kvm_frames;
    vm->run.max_mappings = h->max_mappings;
    vm->run.opt.verbose = h->cfg.verbose;
    vm->run.log = (struct vmc_host_log){.line = log_line, .ctx = vm};
    vm->run.hooks = &hooks;
    vm->run.hooks_ctx = vm;
    vm->run.kernel.fd = vm->run.initrd.fd = vm->run.firmware.fd = -1;
    for (unsigned i = 0; i < RUN_MAX_MODULES; i++)
        vm->run.modules[i].fd = -1;
    pthread_mutex_init(&vm->run.lock, NULL);
    pthread_cond_init(&vm->run.changed, NULL);
    vm->run.wake_fd = h->wake_fd;
    return vm;
}

int host_vm_create(struct host_vm *vm)
{
    snprintf(run_who, sizeof(run_who), "vmcore host: VM '%.80s'", vm->cfg->run.name);
    int rc = run_console_open(&vm->run);
    if (rc == 0)
        rc = run_vm_create(&vm->run);
    if (rc == 0)
        rc = start(vm);
    if (rc == 0) {
        pthread_mutex_lock(&vm->h->lock);
        vm->ready = true;
        pthread_mutex_unlock(&vm->h->lock);
    }
    return rc;
}

void host_vm_begin(struct host_vm *vm)
{
    host_vm_release(vm, HOST_HELD_STOPPED);
}

/* One that waits for a page stops when it has got it; whoever asked is not kept for so long. */
static void stop_vcpus(struct host_vm *vm)
{
    uint64_t end = vm->h->pf.now_ns(vm->h->pf.ctx) + PAUSE_NS;
    struct timespec nap = {.tv_nsec = 100000};

    vmc_vm_pause(vm->run.vm);
    while (!vmc_vm_quiesced(vm->run.vm) && vm->h->pf.now_ns(vm->h->pf.ctx) < end)
        nanosleep(&nap, NULL);
}

void host_vm_pause(struct host_vm *vm)
{
    host_vm_hold(vm, HOST_HELD_USER);
    stop_vcpus(vm);
    run_io_quiesce(&vm->run);
    vm->user_paused = true;
}

void host_vm_resume(struct host_vm *vm)
{
    vmc_board_resume(vmc_vm_board(vm->run.vm));
    vmc_vm_resume(vm->run.vm);
    vm->user_paused = false;
    host_vm_release(vm, HOST_HELD_USER);
}

/* ---- the end, and a reset ----------------------------------------------------------------------
 *
 * Both wait for the vCPUs and for requests in flight, which go to the memory of now: a disk may
 * take its time, and the other VMs must not wait for it.
 */

static void finish_end(struct host_vm *vm)
{
    unschedule(vm);
    vmc_timerq_set_notify(vmc_vm_board(vm->run.vm)->timers, NULL, NULL);
    end_timers(vm);
    vm->state = HOST_VM_ENDED;
    pthread_mutex_lock(&vm->h->lock);
    vm->ended = true;
    vm->ready = false;
    pthread_mutex_unlock(&vm->h->lock);
    /* Its memory is free at once. */
    (void)vmc_space_drop(vm->run.space, 0, host_vm_pages(vm), false);
}

static void finish_reboot(struct host_vm *vm)
{
    snprintf(run_who, sizeof(run_who), "vmcore host: VM '%.80s'", vm->run.opt.name);
    if (vmc_vm_reset(vm->run.vm) != VMC_OK || run_vm_boot(&vm->run) != 0) {
        vm->end_reason = "the reset failed";
        vm->h->status = EXIT_ERROR;
        finish_end(vm);
        return;
    }
    run_io_fail_waiting(&vm->run, false);
    vmc_board_resume(vmc_vm_board(vm->run.vm));
    vmc_vm_resume(vm->run.vm);
    host_vm_release(vm, HOST_HELD_STOPPED);
}

/* vCPUs, devices or timers are still on their way: the user hears of it once. Returns false. */
static bool not_yet(struct host_vm *vm, const char *what)
{
    if (vm->h->pf.now_ns(vm->h->pf.ctx) < vm->slow_at_ns || vm->slow_at_ns == UINT64_MAX)
        return false;
    vm->slow_at_ns = UINT64_MAX;
    unsigned quits = atomic_load(&vm->h->quits);
    if (quits == 1)
        atomic_store(&vm->h->told, true);
    fprintf(stderr, "vmcore host: VM '%s': waiting for a %s that does not answer%s\n",
            vm->run.opt.name, what, quits == 1 ? " (another signal or quit leaves it)" : "");
    return false;
}

bool host_vm_settle(struct host_vm *vm)
{
    enum host_vm_then then = vm->then;

    if (then == HOST_VM_GO_ON)
        return true;
    if (!vmc_vm_quiesced(vm->run.vm))
        return not_yet(vm, "virtual processor, or the swap disk that it needs a page from,");
    if (!vm->at_rest)
        run_io_fail_waiting(&vm->run, true); /* no vCPU is left to see it */
    vm->at_rest = true;
    if (vmc_board_quiesce(vmc_vm_board(vm->run.vm)) == VMC_EAGAIN)
        return not_yet(vm, "disk");
    if (pthread_mutex_trylock(&vm->timers) != 0)
        return not_yet(vm, "timer, or the swap disk that it needs a page from,");
    vm->then = HOST_VM_GO_ON;
    if (then == HOST_VM_END)
        finish_end(vm);
    else
        finish_reboot(vm);
    pthread_mutex_unlock(&vm->timers);
    return true;
}

static void hear_of_slow(struct host_vm *vm)
{
    vm->slow_at_ns = vm->h->pf.now_ns(vm->h->pf.ctx) + SLOW_DISK_NS;
}

/* The guest does not see that writes fail which wait for space. */
static void begin_to_stop(struct host_vm *vm, enum host_vm_then then)
{
    host_vm_hold(vm, HOST_HELD_STOPPED);
    vmc_vm_pause(vm->run.vm);
    if (vm->then == HOST_VM_GO_ON) {
        vm->at_rest = false;
        hear_of_slow(vm);
    }
    vm->then = then;
    (void)host_vm_settle(vm);
}

void host_vm_end(struct host_vm *vm, const char *reason)
{
    if (vm->state != HOST_VM_RUNNING || vm->then == HOST_VM_END)
        return;
    vm->end_reason = reason;
    begin_to_stop(vm, HOST_VM_END);
}

void host_vm_reboot(struct host_vm *vm)
{
    begin_to_stop(vm, HOST_VM_REBOOT);
}

void host_vms_begin_end(struct host *h, const char *reason)
{
    for (unsigned i = 0; i < h->count; i++) {
        if (h->vms[i]->state != HOST_VM_RUNNING)
            continue;
        vmc_space_finish(h->vms[i]->run.space);
        hear_of_slow(h->vms[i]); /* who asked for the end is to hear of it, too */
        host_vm_end(h->vms[i], reason);
    }
}

bool host_vms_slow(const struct host *h)
{
    for (unsigned i = 0; i < h->count; i++)
        if (h->vms[i]->then != HOST_VM_GO_ON && h->vms[i]->slow_at_ns == UINT64_MAX)
            return true;
    return false;
}

void host_vms_end(struct host *h, const char *reason)
{
    const struct timespec nap = {.tv_nsec = 1000000};
    unsigned left;

    host_vms_begin_end(h, reason);
    do {
        left = 0;
        for (unsigned i = 0; i < h->count; i++)
            left += !host_vm_settle(h->vms[i]);
        if (left != 0)
            nanosleep(&nap, NULL);
    } while (left != 0);
}

void host_vm_destroy(struct host_vm *vm)
{
    if (vm == NULL)
        return;
    unschedule(vm);
    stop_timers(vm);
    run_vm_destroy(&vm->run);
    vmc_space_destroy(vm->run.space);
    vmc_host_disk_close(vm->swap);
    pthread_mutex_destroy(&vm->timers);
    pthread_mutex_destroy(&vm->arming);
    pthread_cond_destroy(&vm->run.changed);
    pthread_mutex_destroy(&vm->run.lock);
    free(vm);
}
