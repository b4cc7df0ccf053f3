/* SPDX-License-Identifier: BSD-2-Clause */
/* vmcore host: several VMs in one process. */
#define _GNU_SOURCE
#include "host.h"

#include "vmcore_cmd.h"

#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ---- arguments ---------------------------------------------------------------------------------
 */

enum key { KEY_MEMORY = 0x100, KEY_CONTROL, KEY_NO_SANDBOX, KEY_CHECK, KEY_TRACE, KEY_VERBOSE };

static const struct argp_option option_table[] = {
    {"host-memory", KEY_MEMORY, "SIZE", 0, "Memory for the pages of all VMs (host_memory)", 0},
    {"control", KEY_CONTROL, "SOCKET", 0, "Where vmcore ctl and vmcore top connect (control)", 0},
    {"check", KEY_CHECK, NULL, 0, "Read the configuration, and do nothing else", 0},
    {"trace", KEY_TRACE, "FILE", 0,
     "Write what the scheduler does as Chrome trace events (for ui.perfetto.dev)", 0},
    {"no-sandbox", KEY_NO_SANDBOX, NULL, 0, "Do not confine the process (for debugging)", 0},
    {"verbose", KEY_VERBOSE, NULL, 0, "Say more on standard error", 0},
    {NULL, 0, NULL, 0, NULL, 0},
};

static const char doc[] =
    "Run the virtual machines of a configuration file in one process, on shared memory.\v"
    "Exit status: 0 every VM powered off, or the host was told to end; 2 bad arguments or "
    "configuration; 4 an error, or a VM failed; 6 a guest crashed.";

struct arguments {
    const char *config, *memory, *control, *trace;
    bool check, no_sandbox, verbose;
};

static error_t parse_opt(int key, char *arg, struct argp_state *st)
{
    struct arguments *a = st->input;

    switch (key) {
    case KEY_MEMORY:
        a->memory = arg;
        break;
    case KEY_CONTROL:
        a->control = arg;
        break;
    case KEY_CHECK:
        a->check = true;
        break;
    case KEY_NO_SANDBOX:
        a->no_sandbox = true;
        break;
    case KEY_TRACE:
        a->trace = arg;
        break;
    case KEY_VERBOSE:
        a->verbose = true;
        break;
    case ARGP_KEY_ARG:
        if (a->config != NULL)
            argp_error(st, "one configuration file only");
        a->config = arg;
        break;
    case ARGP_KEY_END:
        if (a->config == NULL)
            argp_error(st, "give a configuration file");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- the host ----------------------------------------------------------------------------------
 */

static int fail(const char *what, const struct vmc_error *err)
{
    fprintf(stderr, "vmcore host: %s: %s\n", what, err->text);
    return EXIT_ERROR;
}

/* The kernel may have it back; what fails costs memory, nothing else. */
static void discard(void *ctx, void *base, size_t bytes)
{
    (void)ctx;
    madvise(base, bytes, MADV_DONTNEED);
}

#define POOL_ROUNDING 4096u /* pages to which a pool rounds each VM up */

static int make_pool(struct host *h)
{
    struct vmc_error err = {0};
    uint64_t pages = 0;

    h->frames = h->cfg.memory / VMC_PAGE_SIZE;
    for (unsigned i = 0; i < h->cfg.vm_count; i++)
        pages += h->cfg.vms[i].run.mem_bytes / VMC_PAGE_SIZE + POOL_ROUNDING;
    struct vmc_pool_config pc = {
        .size = sizeof(pc), .frames = h->frames, .max_pages = pages, .discard = discard};
    if (host_kvm_wanted(h)) {
        int rc = host_kvm_memory(h, &pc);
        if (rc != 0)
            return rc;
    } else if (vmc_host_guest_memory(h->cfg.memory, NULL, &h->memory, &err) != VMC_OK) {
        return fail("host_memory", &err);
    } else {
        pc.base = h->memory;
    }
    if (vmc_pool_create(&h->pf, &pc, &h->pool, &err) != VMC_OK)
        return fail("host_memory", &err);
    struct vmc_share_config sc = {.size = sizeof(sc)};
    if (vmc_share_create(h->pool, &sc, &h->share, &err) != VMC_OK)
        return fail("sharing", &err);
    return 0;
}

#define TRACE_EVENTS 16384u /* of each CPU, between two looks of host_loop */

static int make_runner(struct host *h)
{
    struct vmc_error err = {0};
    struct vmc_runner_config rc = {.size = sizeof(rc),
                                   .cpus = h->cfg.cpus,
                                   .max_groups = h->cfg.cpu_pool_count,
                                   .max_vms = h->cfg.vm_count,
                                   .quantum_ns = h->cfg.quantum_us * 1000ull,
                                   .trace_events = h->trace != NULL ? TRACE_EVENTS : 0};

    for (unsigned i = 0; i < h->cfg.vm_count; i++)
        rc.max_vcpus += h->cfg.vms[i].run.cpus;
    if (vmc_runner_create(&h->pf, &rc, &h->runner, &err) != VMC_OK ||
        host_cpu_pools_make(h, &err) != VMC_OK || vmc_runner_start(h->runner, &err) != VMC_OK)
        return fail("scheduler", &err);
    if (h->trace != NULL && vmc_runner_trace_begin(h->runner, h->trace, &err) != VMC_OK)
        return fail("trace", &err);
    return 0;
}

/* Every page of every VM has a place: checked before anything is started. */
static int admit_all(struct host *h)
{
    struct vmc_balloon_vm vms[HOST_MAX_VMS];
    struct vmc_error err = {0};
    uint64_t swap = 0;

    for (unsigned i = 0; i < h->cfg.vm_count; i++) {
        const struct host_vm_config *c = &h->cfg.vms[i];
        vms[i] = (struct vmc_balloon_vm){.configured = c->run.mem_bytes / VMC_PAGE_SIZE,
                                         .reservation = c->mem.reservation / VMC_PAGE_SIZE,
                                         .limit = c->mem.limit / VMC_PAGE_SIZE,
                                         .shares = c->mem.shares};
        if (h->cfg.swap_dir != NULL)
            swap += vms[i].configured;
        if (host_policy_fits(h, vms, i + 1, swap, &err) == VMC_OK)
            continue;
        fprintf(stderr, "vmcore host: VM '%s' does not fit: %s%s\n", c->run.name, err.text,
                h->cfg.swap_dir == NULL ? " (no folder for swap files: swap)" : "");
        return EXIT_ERROR;
    }
    return 0;
}

static int make_vms(struct host *h)
{
    int rc = admit_all(h);

    h->vms = calloc(h->cfg.vm_count, sizeof(struct host_vm *));
    if (h->vms == NULL)
        return EXIT_ERROR;
    for (unsigned i = 0; rc == 0 && i < h->cfg.vm_count; i++) {
        struct host_vm *vm = host_vm_new(h, &h->cfg.vms[i]);
        if (vm == NULL)
            return EXIT_ERROR;
        pthread_mutex_lock(&h->lock);
        h->vms[h->count++] = vm;
        pthread_mutex_unlock(&h->lock);
        rc = host_vm_create(vm);
    }
    snprintf(run_who, sizeof(run_who), "vmcore host");
    return rc;
}

static void destroy(struct host *h)
{
    /* Until no VM runs, somebody may wait for memory. */
    host_vms_end(h, "the host ends");
    host_policy_stop(h);
    for (unsigned i = h->count; i-- > 0;)
        host_vm_destroy(h->vms[i]);
    if (h->runner != NULL) {
        struct vmc_error err = {0};
        if (vmc_runner_trace_end(h->runner, &err) != VMC_OK)
            (void)fail("trace", &err);
        vmc_runner_destroy(h->runner);
    }
    vmc_share_destroy(h->share);
    vmc_pool_destroy(h->pool);
    if (h->memory != NULL)
        vmc_host_guest_memory_free(h->memory, h->cfg.memory);
    host_kvm_memory_free(h);
    free(h->vms);
    free(h->cpu_pools);
}

static int run(struct host *h)
{
    struct vmc_error err = {0};
    pthread_condattr_t attr;
    sigset_t set;

    run_loop_block_signals(&set);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&h->changed, &attr);
    pthread_condattr_destroy(&attr);
    h->idle_tax = h->cfg.idle_tax;
    h->log.max_level = h->cfg.verbose ? VMC_LOG_INFO : VMC_LOG_WARN;
    h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->wake_fd < 0) {
        fprintf(stderr, "vmcore host: eventfd: %s\n", strerror(errno));
        return EXIT_ERROR;
    }
    int rc = vmc_host_platform_init(&h->pf, &h->log, &err) != VMC_OK ? fail("platform", &err) : 0;
    if (rc == 0 && h->pf.entropy->fill(h->pf.ctx, &h->secret, sizeof(h->secret)) != VMC_OK)
        rc = EXIT_ERROR;
    if (rc == 0)
        rc = make_pool(h);
    if (rc == 0)
        rc = make_runner(h);
    if (rc == 0)
        rc = host_policy_start(h);
    if (rc == 0)
        rc = host_signals_start(h);
    if (rc == 0)
        rc = make_vms(h);
    if (rc == 0)
        rc = host_loop(h);
    if (h->left) { /* memory must stay what it is for as long as there is a process */
        fflush(NULL);
        _exit(rc > EXIT_ERROR ? rc : EXIT_ERROR);
    }
    destroy(h);
    host_signals_stop(h); /* it wakes the loop */
    close(h->wake_fd);
    pthread_cond_destroy(&h->changed);
    return rc;
}

int cmd_host(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_table, .parser = parse_opt, .args_doc = "CONFIG", .doc = doc};
    static struct host h = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake_fd = -1, .signal_stop = -1};
    static char name[] = "vmcore host";
    struct arguments a = {0};

    argp_err_exit_status = EXIT_BAD_ARGS;
    argv[0] = name;
    if (argp_parse(&argp, argc, argv, 0, NULL, &a) != 0)
        return EXIT_BAD_ARGS;
    int rc = host_config_load(a.config, a.memory, &h.cfg);
    if (rc == 0 && a.control != NULL) {
        free(h.cfg.control);
        h.cfg.control = strdup(a.control);
    }
    h.trace = a.trace;
    h.cfg.no_sandbox = a.no_sandbox;
    h.cfg.verbose = a.verbose;
    if (rc == 0 && !a.check)
        rc = run(&h);
    host_config_free(&h.cfg);
    return rc;
}
