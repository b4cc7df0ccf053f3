/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What co-scheduling is worth to real guest code, on simulated CPUs: a program with locks, barriers
 * or TLB shootdowns has half of the CPUs, and VMs that compute have the other half.
 */
#include "smp_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_TIMES 8u /* the time of the program alone: given up */

static const struct {
    const char *name, *policy;
    uint32_t coscheduling;
    bool spin;
} way[] = {
    {"plain", "vmcore-none", VMC_SCHED_CO_NONE, false},
    {"yield", "vmcore-none", VMC_SCHED_CO_NONE, true},
    {"gang", "vmcore-strict", VMC_SCHED_CO_STRICT, false},
    {"together", "vmcore-relaxed", VMC_SCHED_CO_RELAXED, true},
    {"slots", "gang", 0, false},
    {"balance", "balance", 0, false},
    {"demand", "demand", 0, true},
    {"eevdf", "eevdf", 0, false},
    {"credit", "credit", 0, false},
    {"credit2", "credit2", 0, false},
};
enum { WAYS = sizeof(way) / sizeof(way[0]), PLAIN = 0, TOGETHER = 3 };

struct measure {
    double ms, waiting_pct;
};

static struct measure measure(const struct smp_sim_config *cfg)
{
    struct smp_sim_result r;

    if (smp_sim_run(cfg, &r) != 0)
        exit(1);
    return (struct measure){.ms = (double)r.ns / 1e6,
                            .waiting_pct =
                                100 * (1 - (double)r.worked / (double)(r.used != 0 ? r.used : 1))};
}

/* Value of an option that comes first, and is then gone; NULL: it does not come first. */
static const char *take_option(int *argc, char ***argv, const char *name)
{
    const char *value;

    if (*argc < 3 || strcmp((*argv)[1], name) != 0)
        return NULL;
    value = (*argv)[2];
    *argc -= 2;
    *argv += 2;
    return value;
}

int main(int argc, char **argv)
{
    double least = 1e9; /* of programs with a CPU for each vCPU that wait for a certain sibling */
    double worst = -1e9;
    unsigned shown = 0;
    unsigned judged = 0;
    const char *late = take_option(&argc, &argv, "--late");
    const char *part = argc == 2 ? argv[1] : "";

    if (argc > 2 || part[0] == '-') {
        printf("usage: bench_cosched [--late US] [PART-OF-A-PROGRAM'S-NAME]\n"
               "  --late  slices end late, by up to so much at random, as they do on threads\n"
               "The results are the worst of the programs shown in which each vCPU has a CPU and "
               "waits for a certain sibling.\n");
        return strcmp(part, "--help") == 0 ? 0 : 2;
    }
    printf("ms (percent of its CPU time that the program waits)\n%-34s %10s", "", "alone x 2");
    for (unsigned k = 0; k < WAYS; k++)
        printf(" %10s", way[k].name);
    printf("\n");
    for (unsigned i = 0; i < smp_sim_nprograms; i++) {
        const struct smp_sim_program *p = &smp_sim_programs[i];
        struct smp_sim_config cfg = {.program = &p->shared,
                                     .policy = "vmcore",
                                     .coscheduling = VMC_SCHED_CO_RELAXED,
                                     .spin = true,
                                     .cpus = p->cpus,
                                     .late_ns = late != NULL ? strtoull(late, NULL, 10) * 1000 : 0,
                                     .most_ns = 100000000000};
        if (strstr(p->name, part) == NULL)
            continue;
        shown++;
        struct measure alone = measure(&cfg);
        struct measure m[WAYS];
        printf("%-34s %5.0f (%2.0f)", p->name, 2 * alone.ms, alone.waiting_pct);
        cfg.others = p->cpus + 1; /* so that not each has a CPU of its own */
        cfg.most_ns = (uint64_t)(MOST_TIMES * alone.ms * 1e6);
        for (unsigned k = 0; k < WAYS; k++) {
            cfg.policy = way[k].policy;
            cfg.coscheduling = way[k].coscheduling;
            cfg.spin = way[k].spin;
            m[k] = measure(&cfg);
            printf(" %5.0f (%2.0f)", m[k].ms, m[k].waiting_pct);
            fflush(stdout);
        }
        double gain = m[PLAIN].ms / m[TOGETHER].ms;
        double over = 100 * (m[TOGETHER].ms / (2 * alone.ms) - 1);
        if (p->cpus == p->shared.cpus && p->shared.mode != SMP_TAS) {
            least = gain < least ? gain : least;
            worst = over > worst ? over : worst;
            judged++;
        }
        printf("  %.1f times, %+.1f %%\n", gain, over);
    }
    if (shown == 0) {
        fprintf(stderr, "bench_cosched: no program's name has \"%s\" in it\n", part);
        return 2;
    }
    if (judged == 0) /* none of those that the results are about */
        return 0;
    printf("result sched.cosched_code_speedup %.2f x\n", least);
    printf("result sched.cosched_code_over_solo_pct %.1f %%\n", worst);
    return 0;
}
