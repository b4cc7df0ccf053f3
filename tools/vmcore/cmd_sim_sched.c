/* SPDX-License-Identifier: BSD-2-Clause */
/* vmcore sim sched: run a scheduling scenario under one or more policies. */
#include "sim_sched.h"

#include "vmcore_cmd.h"

#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct options {
    const char *policies, *csv, *svg, *trace;
    uint64_t seed, scenarios, decisions, from_ms, to_ms;
    double max_error;
    bool property, verbose, have_seed;
};

static void usage(FILE *to)
{
    fprintf(to,
            "Usage: vmcore sim sched [OPTION...] SCENARIO.json\n"
            "       vmcore sim sched --property [--seed N] [--scenarios N] [--decisions N]\n\n"
            "Simulates how virtual CPUs are scheduled and measures it against the ideal.\n\n"
            "  -p, --policy LIST    comma-separated policies, or 'all' (default: vmcore)\n"
            "      --seed N         seed, instead of the scenario's\n"
            "      --csv FILE       one line per VM\n"
            "      --svg FILE       timeline: which vCPU ran where\n"
            "      --from MS, --to MS  part of the timeline (default: the first 50 ms)\n"
            "      --trace FILE     the same for ui.perfetto.dev\n"
            "      --property       search random scenarios for violations of the bounds\n"
            "      --scenarios N    how many of them (default 1000)\n"
            "      --decisions N    scheduling decisions in all (default 10000000)\n"
            "      --max-error Q    quanta off the ideal that count as a violation (default: none)\n"
            "  -v, --verbose        a line per scenario\n\n"
            "With several policies, files get the policy's name before their suffix.\n\nPolicies:\n");
    for (unsigned i = 0; i < sim_npolicies; i++)
        fprintf(to, "  %-15s %s\n", sim_policies[i]->name, sim_policies[i]->about);
}

static uint64_t to_number(const char *text, bool *bad)
{
    char *end;
    unsigned long long v = strtoull(text, &end, 0);

    if (text[0] < '0' || text[0] > '9' || *end != '\0' || v == ULLONG_MAX)
        *bad = true;
    return v;
}

/* A bound that is none would find nothing. */
static double to_quanta(const char *text, bool *bad)
{
    char *end;
    double v = strtod(text, &end);

    if (end == text || *end != '\0' || !(v > 0)) {
        fprintf(stderr, "vmcore sim sched: --max-error: '%s' is no number above 0\n", text);
        *bad = true;
    }
    return v;
}

static int parse(int argc, char **argv, struct options *o)
{
    enum { SEED = 256, CSV, SVG, FROM, TO, TRACE, PROPERTY, SCENARIOS, DECISIONS, MAX_ERROR };
    static const struct option longs[] = {
        {"policy", required_argument, NULL, 'p'},     {"seed", required_argument, NULL, SEED},
        {"csv", required_argument, NULL, CSV},        {"svg", required_argument, NULL, SVG},
        {"from", required_argument, NULL, FROM},      {"to", required_argument, NULL, TO},
        {"trace", required_argument, NULL, TRACE},    {"property", no_argument, NULL, PROPERTY},
        {"scenarios", required_argument, NULL, SCENARIOS},
        {"decisions", required_argument, NULL, DECISIONS},
        {"max-error", required_argument, NULL, MAX_ERROR},
        {"verbose", no_argument, NULL, 'v'},          {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    bool bad = false;
    int c;

    optind = 1;
    while ((c = getopt_long(argc, argv, "p:vh", longs, NULL)) != -1) {
        switch (c) {
        case 'p': o->policies = optarg; break;
        case 'v': o->verbose = true; break;
        case SEED:
            o->seed = to_number(optarg, &bad);
            o->have_seed = true;
            break;
        case CSV: o->csv = optarg; break;
        case SVG: o->svg = optarg; break;
        case TRACE: o->trace = optarg; break;
        case FROM: o->from_ms = to_number(optarg, &bad); break;
        case TO: o->to_ms = to_number(optarg, &bad); break;
        case PROPERTY: o->property = true; break;
        case SCENARIOS: o->scenarios = to_number(optarg, &bad); break;
        case DECISIONS: o->decisions = to_number(optarg, &bad); break;
        case MAX_ERROR: o->max_error = to_quanta(optarg, &bad); break;
        case 'h': usage(stdout); exit(0);
        default: bad = true;
        }
    }
    return bad ? -1 : 0;
}

static int run_property(const struct options *o)
{
    struct sim_property_result r;
    int failures = sim_property(o->seed, o->scenarios, o->decisions, o->verbose, o->max_error, &r);

    printf("scenarios %llu decisions %llu: largest error %.3f quanta per vCPU over any window, "
           "%.3f at an instant (%.3f and %.3f for whole VMs); skew %.3f quanta; idle though "
           "runnable %.4f %%; %llu scenarios beyond one quantum\n",
           (unsigned long long)r.scenarios, (unsigned long long)r.decisions, r.max_window_quanta,
           r.max_lag_quanta, r.max_vm_window_quanta, r.max_vm_lag_quanta, r.max_skew_ns_over_bound,
           100 * r.max_idle_loss, (unsigned long long)r.beyond_quantum);
    if (failures != 0)
        printf("%d violations, first with --seed %llu: %s\n", failures,
               (unsigned long long)r.first_bad_seed, r.why);
    return failures != 0 ? EXIT_ERROR : 0;
}

/* "a.csv" for one policy, "a-credit.csv" for several. */
static const char *file_for(const char *path, const char *policy, bool several, char *buf,
                            size_t bytes)
{
    const char *dot = strrchr(path, '.');
    size_t stem = dot != NULL ? (size_t)(dot - path) : strlen(path);

    if (!several)
        return path;
    snprintf(buf, bytes, "%.*s-%s%s", (int)stem, path, policy, path + stem);
    return buf;
}

static int run_policy(const struct sim_scenario *sc, const struct sim_policy *policy,
                      const struct options *o, bool several)
{
    struct sim s;
    char buf[4096];
    bool record = o->svg != NULL || o->trace != NULL;
    int bad = sim_init(&s, sc, policy, true, record);

    if (bad == 0) {
        sim_run(&s);
        if (record && !s.record)
            fprintf(stderr, "vmcore sim sched: timeline and trace end early: too long a run\n");
        sim_print_summary(&s, stdout);
        if (o->csv != NULL)
            bad |= sim_write_csv(&s, file_for(o->csv, policy->name, several, buf, sizeof(buf)));
        if (o->svg != NULL)
            bad |= sim_write_svg(&s, file_for(o->svg, policy->name, several, buf, sizeof(buf)),
                                 o->from_ms * 1000000, o->to_ms * 1000000);
        if (o->trace != NULL)
            bad |= sim_write_trace(&s, file_for(o->trace, policy->name, several, buf, sizeof(buf)));
    }
    sim_fini(&s);
    return bad;
}

static int run_scenario(const char *path, const struct options *o)
{
    struct sim_scenario sc;
    bool all = strcmp(o->policies, "all") == 0;
    bool several = all || strchr(o->policies, ',') != NULL;
    int bad = 0;

    if (sim_scenario_load(&sc, path) != 0)
        return EXIT_ERROR;
    if (o->have_seed)
        sc.seed = o->seed;
    for (unsigned i = 0; all && i < sim_npolicies; i++)
        bad |= run_policy(&sc, sim_policies[i], o, several);
    char *list = all ? NULL : strdup(o->policies);
    for (char *p = list == NULL ? NULL : strtok(list, ","); p != NULL; p = strtok(NULL, ",")) {
        const struct sim_policy *policy = sim_policy_find(p);
        if (policy == NULL) {
            fprintf(stderr, "vmcore sim sched: no policy '%s'\n", p);
            bad = 1;
            break;
        }
        bad |= run_policy(&sc, policy, o, several);
    }
    free(list);
    sim_scenario_free(&sc);
    return bad != 0 ? EXIT_ERROR : 0;
}

int cmd_sim_sched(int argc, char **argv)
{
    struct options o = {.policies = "vmcore", .seed = 1, .scenarios = 1000, .decisions = 10000000,
                        .to_ms = 50};

    if (parse(argc, argv, &o) != 0 || o.to_ms <= o.from_ms || o.to_ms > UINT64_MAX / 1000000 ||
        (o.property ? optind != argc || o.scenarios == 0 : optind + 1 != argc)) {
        usage(stderr);
        return EXIT_BAD_ARGS;
    }
    return o.property ? run_property(&o) : run_scenario(argv[optind], &o);
}
