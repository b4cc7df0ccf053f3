/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The runner with real guest code on real threads: what co-scheduling is worth to guests with spin
 * locks and barriers, and how fair the CPU time is beside Linux's scheduler.
 *
 * Everything is measured in CPU time that the VMs received, not in time of the clock, so that it
 * does not matter what else the machine does.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <getopt.h>
#include <sched.h>
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
static bool realtime;
static unsigned ways = ~0u; /* bits of enum how */

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

/*
 * The real-time class: what else the machine does then happens in the pauses between two runs.
 * Linux gives the others a twentieth of each second that has none.
 */
#define PAUSE_US 150000

static void set_class(int tid, int policy, int priority)
{
    struct sched_param sp = {.sched_priority = priority};

    if (sched_setscheduler(tid, policy, &sp) != 0)
        die("no right to the real-time class");
}

/* Every thread of this process; the workers, which are tied to a CPU each, after the others. */
static void into_real_time(void)
{
    DIR *tasks = opendir("/proc/self/task");
    const struct dirent *e;
    cpu_set_t set;

    if (tasks == NULL)
        die("no /proc/self/task");
    while ((e = readdir(tasks)) != NULL) {
        int tid = atoi(e->d_name);
        if (tid != 0 && sched_getaffinity(tid, sizeof(set), &set) == 0)
            set_class(tid, SCHED_FIFO, CPU_COUNT(&set) == 1 ? 1 : 2);
    }
    closedir(tasks);
}

/* A VM on the runner; co-scheduled or not, its waiting loops noticed or not. */
static void start_vm(struct smp_vm *s, struct vmc_runner *r, uint32_t shares, uint32_t coscheduling,
                     bool spin)
{
    struct vmc_sched_vm_config sc = {
        .size = sizeof(sc), .share = {.shares = shares}, .coscheduling = coscheduling};

    if (smp_vm_start(s, r, &sc, spin ? 0 : UINT32_MAX, 0) != 0)
        die("no VM");
}

static void add_vm(struct smp_vm *s, struct vmc_runner *r, const struct smp_shared *p,
                   uint32_t shares, uint32_t coscheduling, bool spin)
{
    if (smp_vm_create(s, &pf, vmc_engine_soft(), p) != 0)
        die("no VM");
    start_vm(s, r, shares, coscheduling, spin);
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

/* A run: its time in ms, and the part of the workers' time that the host took meanwhile. */
struct run {
    double ms, taken;
};

static void add_times(const struct smp_vm *s, uint64_t *used, uint64_t *stolen)
{
    struct vmc_sched *sched = vmc_runner_sched(s->r);
    struct vmc_sched_vcpu_stats st;

    for (uint32_t i = 0; i < s->cpus; i++) {
        uint32_t v = vmc_sched_vcpu(sched, s->id, i);
        if (vmc_sched_vcpu_stats(sched, v, vmc_runner_now_ns(), &st) != VMC_OK)
            die("no statistics");
        *used += st.used_ns;
        *stolen += st.stolen_ns;
    }
}

/*
 * Run the program once: the time that the workers gave to VMs until it was done, divided by their
 * number: what the clock would have said on a machine without anything else. Given up when that is
 * more than most.
 */
static struct run run_once(const struct smp_shared *p, enum how how, double most)
{
    struct smp_shared load = {.mode = SMP_COUNT, .cpus = 1};
    bool traced = trace_path != NULL && how == TOGETHER;
    struct vmc_runner *r =
        make_runner(how == LINUX ? VMC_RUNNER_THREADS : 0, traced ? TRACE_EVENTS : 0);
    unsigned others = how == SOLO ? 0 : OTHERS;
    struct smp_vm guest, other[OTHERS];
    uint64_t before = 0;
    uint64_t had = 0;
    uint64_t stolen = 0;
    double ms = 0;

    if (smp_vm_create(&guest, &pf, vmc_engine_soft(), p) != 0)
        die("no VM");
    for (unsigned i = 0; i < others; i++)
        add_vm(&other[i], r, &load, 1000, VMC_SCHED_CO_NONE, false);
    nap_us(20000);
    for (unsigned i = 0; i < others; i++)
        before += smp_vm_used_ns(&other[i]);
    start_vm(&guest, r, OTHERS * 1000, way[how].coscheduling, way[how].spin);
    if (realtime && how != LINUX)
        into_real_time();
    bool done = false;
    while (!done && ms < most) {
        nap_us(2000);
        uint64_t now = vmc_runner_now_ns();
        done = __atomic_load_n(&guest.done, __ATOMIC_SEQ_CST) == p->cpus;
        uint64_t used = smp_vm_used_ns(&guest) - before;
        for (unsigned i = 0; i < others; i++)
            used += smp_vm_used_ns(&other[i]);
        ms = (double)used / WORKERS / 1e6;
        if (done) /* what the workers have given since; alone, the guest sleeps then */
            ms -= how == SOLO ? 0 : (double)(now - guest.end_ns) / 1e6;
    }
    if (guest.bad != 0 || (done && guest.sh->sum != (uint64_t)p->cpus * p->rounds))
        die("the guest went wrong");
    if (how != LINUX)
        add_times(&guest, &had, &stolen);
    smp_vm_destroy(&guest);
    for (unsigned i = 0; i < others; i++) {
        if (how != LINUX)
            add_times(&other[i], &had, &stolen);
        smp_vm_destroy(&other[i]);
    }
    vmc_runner_stop(r);
    if (traced && vmc_runner_write_trace(r, trace_path, NULL) != VMC_OK)
        die("cannot write the trace");
    vmc_runner_destroy(r);
    if (realtime) {
        set_class(0, SCHED_OTHER, 0);
        nap_us(PAUSE_US);
    }
    return (struct run){.ms = ms, .taken = had == 0 ? 0 : (double)stolen / (double)(had + stolen)};
}

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

/* What the repeats of one program gave. */
struct samples {
    double ms[HOWS][16];
    double over[16]; /* each "together" against the "alone" right before it, in percent */
    double gain[16]; /* "plain" against it */
    double taken;    /* the most of "alone" or "together" */
};

static void sample(const struct smp_shared *p, unsigned n, struct samples *s)
{
    /* those that are compared come one after the other: a virtual machine's CPUs change speed */
    static const enum how order[HOWS] = {SOLO, TOGETHER, PLAIN, YIELD, GANG, LINUX};

    for (unsigned k = 0; k < HOWS; k++) {
        enum how how = order[k];
        if (!(ways >> how & 1))
            continue;
        struct run r = run_once(p, how, how == SOLO ? 1e9 : MOST_TIMES * 2 * s->ms[SOLO][n]);
        s->ms[how][n] = r.ms;
        if ((how == SOLO || how == TOGETHER) && r.taken > s->taken)
            s->taken = r.taken;
    }
    s->over[n] = 100 * (s->ms[TOGETHER][n] / (2 * s->ms[SOLO][n]) - 1);
    s->gain[n] = s->ms[PLAIN][n] / s->ms[TOGETHER][n];
}

static void cosched(unsigned repeats, unsigned only)
{
    double least = 1e9;
    double loss = -1e9;

    printf("%u workers, half of them for the guest, %u other VMs; median of %u, ms; given up at %u "
           "times \"alone\"; the repeats' times over \"alone\", and what the host took:\n",
           WORKERS, OTHERS, repeats, 2 * MOST_TIMES);
    printf("%-20s", "");
    for (unsigned how = 0; how < HOWS; how++)
        printf(" %9s", way[how].name);
    printf(" %7s %26s %6s\n", "gain", "over alone", "taken");
    for (unsigned i = 0; i < sizeof(program) / sizeof(program[0]); i++) {
        struct samples s = {0};
        if (only != 0 && only != i + 1)
            continue;
        for (unsigned n = 0; n < repeats; n++)
            sample(&program[i].p, n, &s);
        printf("%-20s", program[i].name);
        for (unsigned how = 0; how < HOWS; how++)
            printf(" %9.0f", (how == SOLO ? 2 : 1) * median(s.ms[how], repeats));
        double gain = median(s.gain, repeats);
        double over = median(s.over, repeats); /* sorts them */
        printf(" %7.2f %6.1f %% (%5.1f to %5.1f) %4.1f %%\n", gain, over, s.over[0],
               s.over[repeats - 1], 100 * s.taken);
        fflush(stdout);
        if (i + 1 == CONTROL)
            continue;
        least = gain < least ? gain : least;
        loss = over > loss ? over : loss;
    }
    if (only == CONTROL)
        return;
    if (ways >> PLAIN & 1)
        printf("result sched.cosched_real_speedup %.2f x\n", least);
    printf("result sched.cosched_real_over_solo_pct %.1f %%\n", loss);
}

/* ---- fairness -------------------------------------------------------------------------------- */

#define FAIR_VMS 6

#define SAMPLE_US  1000
#define UNSEEN_NS  250000. /* signals and switches, for which a guest does not count, take less */
#define AT_ONCE_NS 100000u /* a sample that took longer says nothing: the VMs went on meanwhile */

/*
 * What one VM has had. Linux charges a thread for time in which its CPU stood still, where the
 * machine is a virtual one whose own host says nothing of it. Nobody had that time, so it is not in
 * the ideal either (docs/scheduling.md), and the guest is the witness: it counts. What its thread
 * is charged for, beyond twice the time that it usually takes to count so far, it did not have.
 */
struct tally {
    uint64_t used, count; /* at the last sample */
    uint64_t used0, count0;
    double had;
};

static uint64_t counted(const struct smp_vm *s)
{
    return *(volatile unsigned long long *)&s->sh->cpu[0].progress;
}

static void tally_start(struct tally *t, const struct smp_vm *s)
{
    *t = (struct tally){.used0 = smp_vm_used_ns(s), .count0 = counted(s)};
    t->used = t->used0;
    t->count = t->count0;
}

static void tally_add(struct tally *t, uint64_t used, uint64_t count, double ns_each)
{
    double took = (double)(count - t->count) * ns_each;
    double charged = (double)used - (double)t->used;

    /* far less than nothing: the runner has taken back what a slice had too much */
    bool witnessed = charged < -UNSEEN_NS || charged > 2 * took + UNSEEN_NS;
    t->had += witnessed ? took : charged;
    t->used = used;
    t->count = count;
}

/* How long a guest takes to count by one, ns. */
static double counting_ns(const struct tally *t)
{
    double used = 0;
    double count = 0;

    for (unsigned i = 0; i < FAIR_VMS; i++) {
        used += (double)(t[i].used - t[i].used0);
        count += (double)(t[i].count - t[i].count0);
    }
    return count > 0 ? used / count : 0;
}

/* Largest difference between what a VM has and its equal part of what all have. */
static double furthest(const double *v)
{
    double sum = 0;
    double worst = 0;

    for (unsigned i = 0; i < FAIR_VMS; i++)
        sum += v[i];
    for (unsigned i = 0; i < FAIR_VMS; i++) {
        double off = v[i] - sum / FAIR_VMS;
        worst = off > worst ? off : -off > worst ? -off : worst;
    }
    return worst;
}

/* Of a run: the largest errors, in ns, of what the VMs had and of what was charged to threads. */
struct fairness {
    double had, charged;
    double unseen; /* ns that were charged and that nobody had */
    unsigned samples;
};

static void sample_all(const struct smp_vm *vm, struct tally *t, struct fairness *f)
{
    uint64_t used[FAIR_VMS], count[FAIR_VMS];
    double had[FAIR_VMS], charged[FAIR_VMS];
    double ns_each = counting_ns(t);
    uint64_t before = vmc_runner_now_ns();

    for (unsigned i = 0; i < FAIR_VMS; i++) {
        used[i] = smp_vm_used_ns(&vm[i]);
        count[i] = counted(&vm[i]);
    }
    if (vmc_runner_now_ns() > before + AT_ONCE_NS)
        return;
    f->unseen = 0;
    for (unsigned i = 0; i < FAIR_VMS; i++) {
        tally_add(&t[i], used[i], count[i], ns_each);
        had[i] = t[i].had;
        charged[i] = (double)used[i] - (double)t[i].used0;
        f->unseen += charged[i] - had[i];
    }
    double worst = furthest(had);
    f->had = worst > f->had ? worst : f->had;
    worst = furthest(charged);
    f->charged = worst > f->charged ? worst : f->charged;
    f->samples++;
}

/* Several VMs that count, for so long, with all entitled to the same. */
static struct fairness measure_fairness(uint32_t flags, double seconds)
{
    struct smp_shared p = {.mode = SMP_COUNT, .cpus = 1};
    struct vmc_runner *r = make_runner(flags, 0);
    struct smp_vm vm[FAIR_VMS];
    struct tally t[FAIR_VMS];
    struct fairness f = {0};

    for (unsigned i = 0; i < FAIR_VMS; i++)
        add_vm(&vm[i], r, &p, 1000, VMC_SCHED_CO_RELAXED, true);
    nap_us(200000);
    for (unsigned i = 0; i < FAIR_VMS; i++)
        tally_start(&t[i], &vm[i]);
    nap_us(200000);
    for (unsigned i = 0; i < FAIR_VMS; i++) { /* now it is known how fast they count */
        tally_add(&t[i], smp_vm_used_ns(&vm[i]), counted(&vm[i]), 1e9);
        t[i].had = (double)(t[i].used - t[i].used0);
    }
    uint64_t end = vmc_runner_now_ns() + (uint64_t)(seconds * 1e9);
    while (vmc_runner_now_ns() < end) {
        nap_us(SAMPLE_US);
        sample_all(vm, t, &f);
    }
    for (unsigned i = 0; i < FAIR_VMS; i++)
        smp_vm_destroy(&vm[i]);
    vmc_runner_destroy(r);
    return f;
}

static void print_fairness(const char *who, const char *result, const struct fairness *f)
{
    printf("%s: largest error of what they had %.2f ms, of what their threads were charged for "
           "%.2f ms, %u samples; charged though nobody had it: %.1f ms\n",
           who, f->had / 1e6, f->charged / 1e6, f->samples, f->unseen / 1e6);
    printf("result %s_ms %.3f ms\n", result, f->had / 1e6);
    printf("result %s_charged_ms %.3f ms\n", result, f->charged / 1e6);
}

static void fairness(double seconds)
{
    printf("%u equal VMs on %u CPUs for %.0f s\n", FAIR_VMS, WORKERS, seconds);
    struct fairness f = measure_fairness(0, seconds);
    print_fairness("this library", "sched.real_error", &f);
    if ((ways >> LINUX & 1) == 0)
        return;
    f = measure_fairness(VMC_RUNNER_THREADS, seconds);
    print_fairness("Linux", "sched.real_error_linux", &f);
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"seconds", required_argument, NULL, 's'}, {"repeats", required_argument, NULL, 'r'},
        {"only", required_argument, NULL, 'o'},    {"trace", required_argument, NULL, 't'},
        {"realtime", no_argument, NULL, 'R'},      {"quick", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0}};
    double seconds = 60;
    unsigned repeats = 3;
    unsigned only = 0;
    int c;

    while ((c = getopt_long(argc, argv, "s:r:o:t:Rqh", longs, NULL)) != -1) {
        if (c == 's')
            seconds = strtod(optarg, NULL);
        else if (c == 'r')
            repeats = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == 'o')
            only = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == 't')
            trace_path = optarg;
        else if (c == 'R')
            realtime = true;
        else if (c == 'q')
            ways = 1u << SOLO | 1u << TOGETHER;
        else {
            printf(
                "usage: bench_guests [--repeats N] [--only PROGRAM] [--seconds S] [--trace FILE]\n"
                "                    [--realtime] [--quick]\n"
                "  -r, --repeats  runs of each program of which the median counts, up to 15;"
                " 0: none\n"
                "  -o, --only     one of the programs, 1 to 5\n"
                "  -s, --seconds  of the measurement of fairness, each scheduler; 0: none\n"
                "  -t, --trace    write what happened in the last run of \"together\"\n"
                "  -R, --realtime run in Linux's real-time class (needs root), but for the way\n"
                "                 called Linux: on a machine that does other things too\n"
                "  -q, --quick    only alone and together; fairness only of this library\n");
            return c == 'h' ? 0 : 2;
        }
    }
    if (repeats > 15 || seconds < 0 || only > sizeof(program) / sizeof(program[0]))
        return 2;
    if (vmc_host_platform_init(&pf, NULL, NULL) != VMC_OK)
        die("no platform");
    if (seconds > 0)
        fairness(seconds);
    if (repeats > 0)
        cosched(repeats, only);
    return 0;
}
