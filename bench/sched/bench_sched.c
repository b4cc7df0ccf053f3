/* SPDX-License-Identifier: BSD-2-Clause */
/* Cost of a decision, and the quality of the schedule, measured. */
#define _GNU_SOURCE
#include "bench_ports.h"
#include "sim_sched.h"

#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include <vmcore/host.h>

/* ---- cost ------------------------------------------------------------------------------------ */

static struct vmc_platform platform;

static void die(const char *what)
{
    fprintf(stderr, "bench_sched: %s\n", what);
    exit(1);
}

static double ns_per_tick(void)
{
    struct timespec a, b;
    uint64_t t0 = __rdtsc();
    clock_gettime(CLOCK_MONOTONIC, &a);
    do {
        clock_gettime(CLOCK_MONOTONIC, &b);
    } while ((b.tv_sec - a.tv_sec) * 1000000000ll + (b.tv_nsec - a.tv_nsec) < 50000000);
    return (double)((b.tv_sec - a.tv_sec) * 1000000000ll + (b.tv_nsec - a.tv_nsec)) /
           (double)(__rdtsc() - t0);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

struct cost {
    double mean_ns, pick_ns, p999_ns, plan_us, frame_us;
    uint64_t decisions;
};

/* Four vCPUs a VM, VMs in eight pools, shares of 1 to 4, everybody runnable. */
static struct vmc_sched *make(uint32_t vcpus, uint32_t cpus)
{
    struct vmc_sched_config cfg = {.size = sizeof(cfg),
                                   .cpus = cpus,
                                   .max_groups = 8,
                                   .max_vms = vcpus / 4,
                                   .max_vcpus = vcpus};
    struct vmc_sched *s;
    uint32_t pool[8];

    if (vmc_host_platform_init(&platform, NULL, NULL) != VMC_OK ||
        vmc_sched_create(&platform, &cfg, &s, NULL) != VMC_OK)
        die("create failed");
    for (uint32_t i = 0; i < 8; i++) {
        struct vmc_sched_share sh = {.shares = 1000 * (1 + i % 4)};
        if (vmc_sched_group_add(s, VMC_SCHED_ROOT, &sh, &pool[i], NULL) != VMC_OK)
            die("group refused");
    }
    for (uint32_t i = 0; i < vcpus / 4; i++) {
        struct vmc_sched_vm_config vc = {.size = sizeof(vc),
                                         .vcpus = 4,
                                         .coscheduling = VMC_SCHED_CO_RELAXED,
                                         .share = {.shares = 1000 * (1 + i % 4)}};
        uint32_t vm, kick;
        if (vmc_sched_vm_add(s, pool[i % 8], &vc, &vm, NULL) != VMC_OK)
            die("VM refused");
        for (uint32_t k = 0; k < 4; k++)
            if (vmc_sched_wake(s, vmc_sched_vcpu(s, vm, k), 0, &kick) != VMC_OK)
                die("wake refused");
    }
    return s;
}

static int by_double(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/*
 * What two time stamps add to each interval, in ticks. The counter moves in steps of many ticks on
 * some machines, so that the least difference says nothing: it is the mean of a batch, of which the
 * median is taken, because some were interrupted.
 */
#define BATCHES 101u
#define BATCH   1000u

static double stamp_ticks(void)
{
    double mean[BATCHES];

    for (unsigned k = 0; k < BATCHES; k++) {
        uint64_t sum = 0;
        for (unsigned i = 0; i < BATCH; i++) {
            uint64_t a = __rdtsc();
            sum += __rdtsc() - a;
        }
        mean[k] = (double)sum / BATCH;
    }
    qsort(mean, BATCHES, sizeof(mean[0]), by_double);
    return mean[BATCHES / 2];
}

#define PHASES 64u /* what the planner does once in so many frames, it does in one of these */

/* When each CPU picks next: the earliest first, a binary heap. */
struct turn {
    uint64_t at;
    uint32_t cpu;
};

static bool before(struct turn a, struct turn b)
{
    return a.at != b.at ? a.at < b.at : a.cpu < b.cpu;
}

/* The CPU whose turn it was, heap[0], picks again at its new time. */
static void requeue(struct turn *heap, uint32_t n, uint64_t at)
{
    struct turn t = {.at = at, .cpu = heap[0].cpu};
    uint32_t i = 0;

    for (;;) {
        uint32_t k = 2 * i + 1;
        k += k + 1 < n && before(heap[k + 1], heap[k]);
        if (k >= n || !before(heap[k], t))
            break;
        heap[i] = heap[k];
        i = k;
    }
    heap[i] = t;
}

/*
 * Every CPU picks when its slice ends, in the order of time. A decision costs its pick and its part
 * of the planning; the time stamps' own cost is measured and taken off. The mean is taken over the
 * frames of 64 in a row, of which each is the median of all that stand in its place: what else the
 * machine does is left out, but nothing that the planner does once in so many frames.
 */
static struct cost measure_cost(uint32_t vcpus, uint32_t cpus, uint64_t frames)
{
    struct vmc_sched *s = make(vcpus, cpus);
    double tick = ns_per_tick();
    struct turn *turn = calloc(cpus, sizeof(*turn));
    uint64_t cap = 1u << 22;
    uint32_t *sample = malloc(cap * sizeof(*sample));
    uint64_t frame = vmc_sched_frame_ns(s);
    uint64_t n = 0, picks = 0, plans = 0, pick_ticks = 0, plan_ticks = 0;
    double stamp = stamp_ticks();
    struct vmc_sched_slice sl;
    double *per_frame = calloc(frames + PHASES, sizeof(*per_frame));
    double *per_plan = calloc(frames + 1, sizeof(*per_plan));
    uint64_t nframes[PHASES] = {0};

    if (per_frame == NULL || per_plan == NULL || turn == NULL || sample == NULL)
        die("out of memory");
    for (uint32_t c = 0; c < cpus; c++)
        turn[c] = (struct turn){.cpu = c};
    for (uint64_t f = 0; f < frames; f++) {
        uint64_t ticks0 = pick_ticks + plan_ticks;
        uint64_t picks0 = picks;
        while (turn[0].at < (f + 1) * frame) {
            uint64_t now = turn[0].at;
            uint64_t a = __rdtsc();
            vmc_sched_pick(s, turn[0].cpu, now, &sl);
            uint64_t b = __rdtsc();
            uint64_t cost = b - a;
            if (f > frames / 10) {
                pick_ticks += cost;
                picks++;
                if (n < cap)
                    sample[n++] = (uint32_t)(cost < UINT32_MAX ? cost : UINT32_MAX);
            }
            requeue(turn, cpus, sl.end_ns > now ? sl.end_ns : now + 1);
            if ((sl.flags & VMC_SCHED_PLAN_DUE) == 0)
                continue;
            a = __rdtsc();
            bool done = vmc_sched_plan(s, now);
            b = __rdtsc();
            if (done && f > frames / 10) {
                plan_ticks += b - a;
                per_plan[plans < frames ? plans++ : frames] = (double)(b - a);
            }
        }
        if (picks != picks0)
            per_frame[f % PHASES * (frames / PHASES + 1) + nframes[f % PHASES]++] =
                (double)(pick_ticks + plan_ticks - ticks0) / (double)(picks - picks0) - stamp;
    }
    qsort(sample, n, sizeof(*sample), by_value);
    struct cost r = {.decisions = picks};
    r.pick_ns = ((double)pick_ticks / (double)picks - stamp) * tick;
    for (uint64_t k = 0; k < PHASES; k++) {
        double *phase = per_frame + k * (frames / PHASES + 1);
        qsort(phase, nframes[k], sizeof(*phase), by_double);
        r.mean_ns += phase[nframes[k] / 2] * tick / PHASES;
    }
    r.p999_ns = (sample[n - 1 - n / 1000] - stamp) * tick;
    qsort(per_plan, plans, sizeof(*per_plan), by_double);
    r.plan_us = plans == 0 ? 0 : per_plan[plans / 2] * tick / 1e3;
    r.frame_us = (double)frame / 1e3;
    vmc_sched_destroy(s);
    free(turn);
    free(sample);
    free(per_frame);
    free(per_plan);
    return r;
}

/*
 * The same for a port: each decision, with what it charges and puts back. The mean of each thousand
 * decisions in a row is a sample, of which the median is taken.
 */
static double measure_port(const struct port *port, uint32_t vcpus, uint32_t cpus)
{
    double tick = ns_per_tick();
    double stamp = stamp_ticks();
    struct turn *turn = calloc(cpus, sizeof(*turn));
    void *p = port->make(vcpus, cpus);
    double mean[200];

    if (turn == NULL)
        die("out of memory");
    for (uint32_t c = 0; c < cpus; c++)
        turn[c] = (struct turn){.cpu = c};
    for (unsigned k = 0; k < 200; k++) {
        uint64_t sum = 0;
        for (unsigned i = 0; i < 1000; i++) {
            uint64_t end;
            uint64_t now = turn[0].at;
            uint64_t a = __rdtsc();
            port->pick(p, turn[0].cpu, now, &end);
            sum += __rdtsc() - a;
            requeue(turn, cpus, end > now ? end : now + 1);
        }
        mean[k] = (double)sum / 1000 - stamp;
    }
    port->destroy(p);
    free(turn);
    qsort(mean + 20, 180, sizeof(mean[0]), by_double);
    return mean[20 + 90] * tick;
}

/* ---- plans where vCPUs sleep and wake all the time ------------------------------------------- */

#define MOST_PLANS 65536u

static double plan_cost[MOST_PLANS];
static uint32_t nplans;

/* The linker sends every call here (--wrap). */
bool __real_vmc_sched_plan(struct vmc_sched *s, uint64_t now);
bool __wrap_vmc_sched_plan(struct vmc_sched *s, uint64_t now);

bool __wrap_vmc_sched_plan(struct vmc_sched *s, uint64_t now)
{
    uint64_t a = __rdtsc();
    bool done = __real_vmc_sched_plan(s, now);
    uint64_t b = __rdtsc();

    if (done && nplans < MOST_PLANS)
        plan_cost[nplans++] = (double)(b - a);
    return done;
}

/* ---- quality --------------------------------------------------------------------------------- */

struct quality {
    uint64_t skew, delay, iterations, now;
    double loss;
};

static struct quality run(const char *dir, const char *name, const char *policy)
{
    struct sim_scenario sc;
    struct sim s;
    struct quality q = {0};
    char path[4096];

    snprintf(path, sizeof(path), "%s/%s.json", dir, name);
    if (sim_scenario_load(&sc, path) != 0 ||
        sim_init(&s, &sc, sim_policy_find(policy), false, false) != 0)
        die("the scenario cannot be run");
    sim_run(&s);
    for (uint32_t i = 0; i < s.nvms; i++) {
        const struct sim_vm *m = &s.vm[i];
        q.skew = m->max_skew > q.skew ? m->max_skew : q.skew;
        if (m->spec->guest.model == SIM_INTERACTIVE && m->max_delay > q.delay)
            q.delay = m->max_delay;
        q.iterations += m->iterations;
    }
    q.loss = 100.0 * (double)s.loss_ns / ((double)s.now * s.ncpus);
    q.now = s.now;
    sim_fini(&s);
    sim_scenario_free(&sc);
    return q;
}

/* Median and 99th percentile of a plan, us. */
static void churn(const char *dir, double *p50, double *p99)
{
    double tick = ns_per_tick();

    nplans = 0;
    run(dir, "churn", "vmcore");
    if (nplans == 0)
        die("nothing was planned");
    qsort(plan_cost, nplans, sizeof(plan_cost[0]), by_double);
    *p50 = plan_cost[nplans / 2] * tick / 1e3;
    *p99 = plan_cost[nplans - 1 - nplans / 100] * tick / 1e3;
}

#define MOST_ROUNDS 31u

static double median_of(double *v, unsigned n)
{
    qsort(v, n, sizeof(*v), by_double);
    return v[n / 2];
}

/*
 * Each size once in every round, and with 1,024 vCPUs the ports beside it, so that what else goes
 * on meets all alike; the median of the rounds counts.
 */
static void measure_all(const uint32_t (*size)[2], unsigned n, const unsigned *only,
                        unsigned rounds, struct cost *med)
{
    static double mean[8][MOST_ROUNDS], p999[8][MOST_ROUNDS], plan[8][MOST_ROUNDS];
    static double port[8][8][MOST_ROUNDS];
    double frame_us[8] = {0};

    for (unsigned k = 0; k < rounds; k++) {
        for (unsigned i = 0; i < n; i++) {
            if (only[0] != 0 && (only[0] != size[i][0] || only[1] != size[i][1]))
                continue;
            struct cost r = measure_cost(size[i][0], size[i][1], 160000 / size[i][1] + 1000);
            mean[i][k] = r.mean_ns;
            p999[i][k] = r.p999_ns;
            plan[i][k] = r.plan_us;
            frame_us[i] = r.frame_us;
            for (unsigned p = 0; size[i][0] == 1024 && p < bench_nports; p++)
                port[i][p][k] = measure_port(&bench_ports[p], size[i][0], size[i][1]);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        if (frame_us[i] == 0)
            continue;
        med[i] = (struct cost){.mean_ns = median_of(mean[i], rounds),
                               .p999_ns = median_of(p999[i], rounds),
                               .plan_us = median_of(plan[i], rounds)};
        printf(
            "%6u vCPUs on %4u CPUs: %6.1f ns per decision (%.1f to %.1f in %u rounds), pick p99.9 "
            "%.0f ns (%.0f to %.0f), one plan %.1f us of a frame of %.0f us",
            size[i][0], size[i][1], med[i].mean_ns, mean[i][0], mean[i][rounds - 1], rounds,
            med[i].p999_ns, p999[i][0], p999[i][rounds - 1], med[i].plan_us, frame_us[i]);
        for (unsigned p = 0; size[i][0] == 1024 && p < bench_nports; p++)
            printf("%s %s %.0f", p == 0 ? "; ports:" : ",", bench_ports[p].name,
                   median_of(port[i][p], rounds));
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    unsigned rounds = 5;
    uint64_t scenarios = 400;
    uint64_t decisions = 4000000;
    bool cost_only = false;
    unsigned only[2] = {0, 0};
    int c;
    static const struct option longs[] = {{"scenarios", required_argument, NULL, 's'},
                                          {"decisions", required_argument, NULL, 'd'},
                                          {"cost", no_argument, NULL, 'c'},
                                          {"only", required_argument, NULL, 'o'},
                                          {"rounds", required_argument, NULL, 'r'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};

    while ((c = getopt_long(argc, argv, "s:d:co:r:h", longs, NULL)) != -1) {
        if (c == 's')
            scenarios = strtoull(optarg, NULL, 0);
        else if (c == 'd')
            decisions = strtoull(optarg, NULL, 0);
        else if (c == 'c')
            cost_only = true;
        else if (c == 'r')
            rounds = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == 'o' && sscanf(optarg, "%ux%u", &only[0], &only[1]) == 2)
            cost_only = true;
        else {
            printf("usage: bench_sched [--cost] [--only VCPUSxCPUS] [--rounds N] "
                   "[--scenarios N] [--decisions N] SCENARIO-FOLDER\n");
            return c == 'h' ? 0 : 2;
        }
    }
    if (optind + 1 != argc || scenarios == 0 || rounds == 0 || rounds > MOST_ROUNDS)
        return 2;
    const char *dir = argv[optind];

    static const uint32_t sizes[][2] = {{1024, 8},   {1024, 64},  {1024, 256},
                                        {4096, 256}, {16384, 64}, {16384, 1024}};
    enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };
    struct cost med[SIZES] = {{0}};
    measure_all(sizes, SIZES, only, rounds, med);
    struct cost base = med[1];
    struct cost big = med[SIZES - 1];
    if (only[0] != 0)
        return 0;
    double p50, p99;
    churn(dir, &p50, &p99);
    printf("one plan where 256 vCPUs sleep 100,000 times a second: %.0f us, p99 %.0f us\n", p50,
           p99);
    if (cost_only)
        return 0;
    struct sim_property_result p;
    int failures = sim_property(1, scenarios, decisions, false, 0, &p);
    printf("%llu random scenarios, %llu decisions: %d break a bound, %llu are beyond one quantum\n",
           (unsigned long long)p.scenarios, (unsigned long long)p.decisions, failures,
           (unsigned long long)p.beyond_quantum);
    struct quality ours = run(dir, "parallel", "vmcore");
    struct quality none = run(dir, "parallel", "vmcore-none");
    struct quality linux_like = run(dir, "parallel", "eevdf");
    struct quality mixed = run(dir, "mixed", "vmcore");
    struct quality lat = run(dir, "latency", "vmcore");
    struct quality credit = run(dir, "latency", "credit");
    printf("longest wake: %.0f us, credit port %.0f us: %.0f times\n", (double)lat.delay / 1e3,
           (double)credit.delay / 1e3, (double)credit.delay / (double)lat.delay);
    printf("parallel iterations: %llu, without co-scheduling %llu, eevdf port %llu\n",
           (unsigned long long)ours.iterations, (unsigned long long)none.iterations,
           (unsigned long long)linux_like.iterations);

    printf("result sched.decision_ns_1024 %.1f ns\n", base.mean_ns);
    printf("result sched.decision_p999_ns_1024 %.0f ns\n", base.p999_ns);
    printf("result sched.decision_ns_16384 %.1f ns\n", big.mean_ns);
    printf("result sched.plan_churn_us %.1f us\n", p50);
    printf("result sched.max_error_quanta %.3f quanta\n", p.max_window_quanta);
    printf("result sched.max_skew_us %.1f us\n",
           fmax((double)(ours.skew > mixed.skew ? ours.skew : mixed.skew) / 1e3,
                p.max_skew_ns_over_bound * 2000.0));
    printf("result sched.idle_loss_pct %.4f %%\n", fmax(ours.loss, mixed.loss));
    printf("result sched.wake_delay_us %.1f us\n", (double)lat.delay / 1e3);
    printf("result sched.wake_gain_over_credit %.1f x\n", (double)credit.delay / (double)lat.delay);
    printf("result sched.cosched_speedup %.2f x\n",
           (double)ours.iterations / (double)none.iterations);
    return 0;
}
