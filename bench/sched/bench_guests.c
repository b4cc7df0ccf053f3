/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The runner with real guest code on real threads: what co-scheduling is worth to guests with spin
 * locks and barriers, and how fair the CPU time is beside Linux's scheduler.
 *
 * Everything is measured in CPU time that the VMs received, not in time of the clock, so that it
 * does not matter what else the machine does.
 */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vmcore/host.h>

#include "smp_vm.h"

#define WORKERS 2

static struct vmc_platform pf;
static const char *trace_path; /* of the last run with all that the library does; NULL: none */

static void die(const char *what)
{
    fprintf(stderr, "bench_guests: %s\n", what);
    exit(1);
}

static void nap_us(long us)
{
    struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    nanosleep(&ts, NULL);
}

static struct vmc_runner *make_runner(uint32_t flags, uint32_t trace_events)
{
    struct vmc_runner_config cfg = {.size = sizeof(cfg),
                                    .flags = flags,
                                    .cpus = WORKERS,
                                    .max_groups = 1,
                                    .max_vms = 8,
                                    .max_vcpus = 32,
                                    .trace_events = trace_events};
    struct vmc_error err = {0};
    struct vmc_runner *r;

    if (vmc_runner_create(&pf, &cfg, &r, &err) != VMC_OK || vmc_runner_start(r, &err) != VMC_OK) {
        fprintf(stderr, "bench_guests: runner: %s\n", err.text);
        exit(1);
    }
    return r;
}

/* A VM on the runner; co-scheduled or not, its waiting loops noticed or not. */
static void add_vm(struct smp_vm *s, struct vmc_runner *r, const struct smp_shared *p,
                   uint32_t shares, uint32_t coscheduling, bool spin)
{
    struct vmc_sched_vm_config sc = {
        .size = sizeof(sc), .share = {.shares = shares}, .coscheduling = coscheduling};

    if (smp_vm_create(s, &pf, vmc_engine_soft(), p) != 0 ||
        smp_vm_start(s, r, &sc, spin ? 0 : UINT32_MAX, 0) != 0)
        die("no VM");
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, unsigned n)
{
    qsort(v, n, sizeof(*v), by_value);
    return v[n / 2];
}

/* ---- co-scheduling --------------------------------------------------------------------------- */

#define CONTROL      5u /* the program in which nobody waits: what switches between VMs cost */
#define MOST_TIMES   8u /* the entitlement-scaled time of the guest alone */
#define TRACE_EVENTS (1u << 18) /* for each CPU: some 20 s */
#define OTHERS       3u /* VMs of one vCPU that have the other half: not a multiple of the workers */

/*
 * The guest alone; with the others in every way of the library's: plain proportional shares, the
 * same with directed yield where a vCPU spins, strict gangs, and all that the library does; and
 * with a thread per vCPU under Linux's scheduler.
 */
enum how { SOLO, PLAIN, YIELD, GANG, TOGETHER, LINUX, HOWS };

static const struct {
    const char *name;
    uint32_t coscheduling;
    bool spin;
} way[HOWS] = {
    [SOLO] = {"alone x 2", VMC_SCHED_CO_RELAXED, true},
    [PLAIN] = {"plain", VMC_SCHED_CO_NONE, false},
    [YIELD] = {"yield", VMC_SCHED_CO_NONE, true},
    [GANG] = {"gang", VMC_SCHED_CO_STRICT, false},
    [TOGETHER] = {"together", VMC_SCHED_CO_RELAXED, true},
    [LINUX] = {"Linux", VMC_SCHED_CO_NONE, false},
};

/*
 * Run the program once; in ms, the time that the workers gave to VMs until it was done, divided by
 * their number: what the clock would have said on a machine without anything else. Given up when
 * that is more than most.
 */
static double run_once(const struct smp_shared *p, enum how how, double most)
{
    struct smp_shared load = {.mode = SMP_COUNT, .cpus = 1};
    bool traced = trace_path != NULL && how == TOGETHER;
    struct vmc_runner *r =
        make_runner(how == LINUX ? VMC_RUNNER_THREADS : 0, traced ? TRACE_EVENTS : 0);
    struct smp_vm guest, other[OTHERS];
    uint64_t before = 0;
    double ms = 0;

    if (how != SOLO) {
        for (unsigned i = 0; i < OTHERS; i++)
            add_vm(&other[i], r, &load, 1000, VMC_SCHED_CO_NONE, false);
        nap_us(20000);
        for (unsigned i = 0; i < OTHERS; i++)
            before += smp_vm_used_ns(&other[i]);
    }
    add_vm(&guest, r, p, OTHERS * 1000, way[how].coscheduling, way[how].spin);
    bool done = false;
    while (!done && ms < most) {
        nap_us(200);
        done = __atomic_load_n(&guest.done, __ATOMIC_SEQ_CST) == p->cpus;
        uint64_t used = smp_vm_used_ns(&guest) - before;
        for (unsigned i = 0; how != SOLO && i < OTHERS; i++)
            used += smp_vm_used_ns(&other[i]);
        ms = (double)used / WORKERS / 1e6;
    }
    if (guest.bad != 0 || (done && guest.sh->sum != (uint64_t)p->cpus * p->rounds))
        die("the guest went wrong");
    smp_vm_destroy(&guest);
    for (unsigned i = 0; how != SOLO && i < OTHERS; i++)
        smp_vm_destroy(&other[i]);
    vmc_runner_stop(r);
    if (traced && vmc_runner_write_trace(r, trace_path, NULL) != VMC_OK)
        die("cannot write the trace");
    vmc_runner_destroy(r);
    return ms;
}

static void cosched(unsigned repeats, unsigned only)
{
    static const struct {
        const char *name;
        struct smp_shared p; /* a loop of work takes some 2.5 ns */
    } program[] = {
        {"2 vCPUs, spin lock",
         {.mode = SMP_LOCK, .cpus = 2, .rounds = 6000, .work = 10000, .critical = 4000}},
        {"2 vCPUs, barrier", {.mode = SMP_BARRIER, .cpus = 2, .rounds = 10000, .work = 8000}},
        {"4 vCPUs, spin lock",
         {.mode = SMP_LOCK, .cpus = 4, .rounds = 3000, .work = 10000, .critical = 2000}},
        {"4 vCPUs, barrier", {.mode = SMP_BARRIER, .cpus = 4, .rounds = 5000, .work = 8000}},
        {"2 vCPUs, no waiting", {.mode = SMP_BARRIER, .cpus = 2, .rounds = 5, .work = 20000000}},
    };
    double least = 1e9;
    double loss = -1e9;
    double sample[HOWS][16];

    printf("%u workers, half of them for the guest, %u other VMs; median of %u, ms; given up at %u "
           "times \"alone\":\n",
           WORKERS, OTHERS, repeats, 2 * MOST_TIMES);
    printf("%-20s", "");
    for (unsigned how = 0; how < HOWS; how++)
        printf(" %9s", way[how].name);
    printf("\n");
    for (unsigned i = 0; i < sizeof(program) / sizeof(program[0]); i++) {
        double t[HOWS];
        if (only != 0 && only != i + 1)
            continue;
        for (unsigned n = 0; n < repeats; n++)
            for (unsigned how = 0; how < HOWS; how++)
                sample[how][n] = run_once(&program[i].p, (enum how)how,
                                          how == SOLO ? 1e9 : MOST_TIMES * 2 * sample[SOLO][n]);
        printf("%-20s", program[i].name);
        for (unsigned how = 0; how < HOWS; how++) {
            t[how] = median(sample[how], repeats);
            printf(" %9.0f", how == SOLO ? 2 * t[how] : t[how]);
        }
        printf("\n");
        fflush(stdout);
        if (i + 1 == CONTROL)
            continue;
        least = t[PLAIN] / t[TOGETHER] < least ? t[PLAIN] / t[TOGETHER] : least;
        double over = 100 * (t[TOGETHER] / (2 * t[SOLO]) - 1);
        loss = over > loss ? over : loss;
    }
    if (only == CONTROL)
        return;
    printf("result sched.cosched_real_speedup %.2f x\n", least);
    printf("result sched.cosched_real_over_solo_pct %.1f %%\n", loss);
}

/* ---- fairness -------------------------------------------------------------------------------- */

#define FAIR_VMS 6

#define SAMPLE_US  1000
#define AT_ONCE_NS 100000u /* a sample that took longer says nothing: the VMs went on meanwhile */

/*
 * Largest difference between what a VM received and its equal part of what all did, in ms, and how
 * many samples that rests on.
 */
static double unfairness(uint32_t flags, double seconds, unsigned *samples)
{
    struct smp_shared p = {.mode = SMP_COUNT, .cpus = 1};
    struct vmc_runner *r = make_runner(flags, 0);
    struct smp_vm vm[FAIR_VMS];
    uint64_t base[FAIR_VMS];
    double worst = 0;

    for (unsigned i = 0; i < FAIR_VMS; i++)
        add_vm(&vm[i], r, &p, 1000, VMC_SCHED_CO_RELAXED, true);
    nap_us(200000);
    for (unsigned i = 0; i < FAIR_VMS; i++)
        base[i] = smp_vm_used_ns(&vm[i]);
    uint64_t end = vmc_runner_now_ns() + (uint64_t)(seconds * 1e9);
    *samples = 0;
    for (uint64_t before = 0; before < end;) {
        double used[FAIR_VMS];
        double sum = 0;
        nap_us(SAMPLE_US);
        before = vmc_runner_now_ns();
        for (unsigned i = 0; i < FAIR_VMS; i++) {
            uint64_t ns = smp_vm_used_ns(&vm[i]);
            sum += used[i] = ns > base[i] ? (double)(ns - base[i]) : 0;
        }
        if (vmc_runner_now_ns() > before + AT_ONCE_NS)
            continue;
        ++*samples;
        for (unsigned i = 0; i < FAIR_VMS; i++) {
            double off = used[i] - sum / FAIR_VMS;
            worst = off > worst ? off : -off > worst ? -off : worst;
        }
    }
    for (unsigned i = 0; i < FAIR_VMS; i++)
        smp_vm_destroy(&vm[i]);
    vmc_runner_destroy(r);
    return worst / 1e6;
}

static void fairness(double seconds)
{
    unsigned n, m;
    double ours = unfairness(0, seconds, &n);
    double theirs = unfairness(VMC_RUNNER_THREADS, seconds, &m);

    printf(
        "%u equal VMs on %u CPUs for %.0f s, largest error of CPU time: this library %.2f ms (%u "
        "samples), Linux %.2f ms (%u)\n",
        FAIR_VMS, WORKERS, seconds, ours, n, theirs, m);
    printf("result sched.real_error_ms %.3f ms\n", ours);
    printf("result sched.real_error_linux_ms %.3f ms\n", theirs);
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"seconds", required_argument, NULL, 's'}, {"repeats", required_argument, NULL, 'r'},
        {"only", required_argument, NULL, 'o'},    {"trace", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0}};
    double seconds = 60;
    unsigned repeats = 3;
    unsigned only = 0;
    int c;

    while ((c = getopt_long(argc, argv, "s:r:o:t:h", longs, NULL)) != -1) {
        if (c == 's')
            seconds = strtod(optarg, NULL);
        else if (c == 'r')
            repeats = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == 'o')
            only = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == 't')
            trace_path = optarg;
        else {
            printf(
                "usage: bench_guests [--repeats N] [--only PROGRAM] [--seconds S] [--trace FILE]\n"
                "  -r, --repeats  runs of each program of which the median counts, up to 15;"
                " 0: none\n"
                "  -o, --only     one of the programs, 1 to 5\n"
                "  -s, --seconds  of the measurement of fairness, each scheduler; 0: none\n"
                "  -t, --trace    write what happened in the last run of \"together\"\n");
            return c == 'h' ? 0 : 2;
        }
    }
    if (repeats > 15 || seconds < 0)
        return 2;
    if (vmc_host_platform_init(&pf, NULL, NULL) != VMC_OK)
        die("no platform");
    if (seconds > 0)
        fairness(seconds);
    if (repeats > 0)
        cosched(repeats, only);
    return 0;
}
