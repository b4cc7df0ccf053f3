/* SPDX-License-Identifier: BSD-2-Clause */
/* vmcore sim memory: run a trace, write what happened as CSV and SVG; search for broken promises.
 */
#include "sim_memory.h"
#include "vmcore_cmd.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

struct options {
    const char *csv, *svg;
    uint64_t seed, traces, vms;
    bool generate, property;
};

static void usage(FILE *to)
{
    fprintf(to, "Usage: vmcore sim memory [--csv FILE] [--svg FILE] TRACE\n"
                "       vmcore sim memory --generate [--seed N] [--vms N] >TRACE\n"
                "       vmcore sim memory --property [--seed N] [--traces N]\n\n"
                "Simulates how memory is divided among VMs whose working sets follow a trace.\n\n"
                "      --csv FILE   a line for each second and VM, sizes in MiB\n"
                "      --svg FILE   memory of each VM, its target and working set over time\n"
                "      --generate   make a trace\n"
                "      --property   run random traces and look for broken promises\n"
                "      --seed N, --vms N, --traces N   (1, 4, 200)\n");
}

static double mib(uint64_t pages)
{
    return (double)pages / SIM_MEM_MIB;
}

/* Of its time, in which it got something done. */
static double work_percent(const struct sim_mem *s, const struct sim_mem_vm *v)
{
    return (double)v->work_sum_us / 10000 / (double)s->seconds;
}

static const char *state_name(enum vmc_reclaim_state s)
{
    static const char *const names[VMC_RECLAIM_STATES] = {"high", "clear", "soft", "hard", "low"};
    return names[s];
}

/* ---- output ------------------------------------------------------------------------------------
 */

static void csv_line(const struct sim_mem *s, FILE *f)
{
    for (unsigned i = 0; i < s->vms; i++) {
        const struct sim_mem_vm *v = &s->vm[i];
        fprintf(f, "%llu,%s,%.2f,%s,%.2f,%.2f,%.2f,%.2f,%.2f,%.2f,%.2f,%.2f,%d,%.2f,%.2f\n",
                (unsigned long long)s->now, state_name(s->state), mib(s->host - sim_mem_used(s)),
                v->name, mib(v->active), mib(vmc_active_pages(&v->estimate, v->configured)),
                mib(v->target), mib(v->resident), mib(v->balloon), mib(v->packed), mib(v->swapped),
                mib(v->missing), v->rested, (double)v->wait_us / 10000, (double)v->work_us / 10000);
    }
}

/* A point of the plot: resident, target, active of each VM; and whether it rested. */
struct point {
    uint64_t y[3];
    bool rested;
};

#define WIDTH  760.0
#define HEIGHT 110.0
#define LEFT   80.0

static void svg_curve(const struct sim_mem *s, const struct point *p, unsigned vm, unsigned which,
                      double top, const char *style, FILE *f)
{
    fprintf(f, "<polyline fill='none' %s points='", style);
    for (uint64_t t = 0; t < s->seconds; t++) {
        double x = LEFT + WIDTH * (double)t / (double)s->seconds;
        double part = (double)p[t * s->vms + vm].y[which] / (double)s->vm[vm].configured;
        fprintf(f, "%.1f,%.1f ", x, top + HEIGHT * (1 - part));
    }
    fprintf(f, "'/>\n");
}

/* Grey where the VM rested. */
static void svg_rests(const struct sim_mem *s, const struct point *p, unsigned vm, double top,
                      FILE *f)
{
    for (uint64_t t = 0, end; t < s->seconds; t = end) {
        for (end = t; end < s->seconds && p[end * s->vms + vm].rested; end++) {
        }
        if (end > t)
            fprintf(f, "<rect x='%.1f' y='%.0f' width='%.1f' height='%.0f' fill='#ddd'/>\n",
                    LEFT + WIDTH * (double)t / (double)s->seconds, top,
                    WIDTH * (double)(end - t) / (double)s->seconds, HEIGHT);
        else
            end++;
    }
}

static void svg(const struct sim_mem *s, const struct point *p, FILE *f)
{
    static const char *const styles[] = {"stroke='#1f77b4' stroke-width='1.8'",
                                         "stroke='#d62728' stroke-dasharray='5 3'",
                                         "stroke='#2ca02c' stroke-dasharray='1 2'"};

    fprintf(
        f,
        "<svg xmlns='http://www.w3.org/2000/svg' width='%.0f' height='%.0f' "
        "font-family='sans-serif' font-size='12'>\n<rect width='100%%' height='100%%' "
        "fill='white'/>\n<text x='%.0f' y='16'>host %.0f MiB, idle tax %u %%: in memory (blue), "
        "target (red), working set (green), at rest (grey)</text>\n",
        LEFT + WIDTH + 20, 40 + s->vms * (HEIGHT + 20), LEFT, mib(s->host), s->tax);
    for (unsigned i = 0; i < s->vms; i++) {
        double top = 30 + i * (HEIGHT + 20);
        svg_rests(s, p, i, top, f);
        fprintf(f,
                "<rect x='%.0f' y='%.0f' width='%.0f' height='%.0f' fill='none' stroke='#999'/>\n"
                "<text x='4' y='%.0f'>%.8s</text><text x='4' y='%.0f'>%.0f MiB</text>"
                "<text x='4' y='%.0f'>works</text><text x='4' y='%.0f'>%.1f %%</text>\n",
                LEFT, top, WIDTH, HEIGHT, top + 20, s->vm[i].name, top + 36,
                mib(s->vm[i].configured), top + 56, top + 72, work_percent(s, &s->vm[i]));
        for (unsigned k = 0; k < 3; k++)
            svg_curve(s, p, i, k, top, styles[k], f);
    }
    fprintf(f,
            "<text x='%.0f' y='%.0f'>0</text>\n"
            "<text x='%.0f' y='%.0f' text-anchor='end'>%llu s</text>\n</svg>\n",
            LEFT, 26 + s->vms * (HEIGHT + 20), LEFT + WIDTH, 26 + s->vms * (HEIGHT + 20),
            (unsigned long long)s->seconds);
}

static int finish(FILE *f, const char *path)
{
    if (f == NULL || (ferror(f) | fclose(f)) == 0)
        return EXIT_OK;
    fprintf(stderr, "vmcore sim memory: %s: cannot be written\n", path);
    return EXIT_ERROR;
}

static FILE *create(const char *path, int *rc)
{
    FILE *f = path != NULL ? fopen(path, "we") : NULL;

    if (path != NULL && f == NULL) {
        perror(path);
        *rc = EXIT_ERROR;
    }
    return f;
}

static void summary(const struct sim_mem *s)
{
    for (unsigned i = 0; i < s->vms; i++) {
        const struct sim_mem_vm *v = &s->vm[i];
        printf("%-16s target %8.1f in memory %8.1f balloon %8.1f compressed %8.1f swapped %8.1f "
               "missing %.2f at rest %.1f %% works %.1f %%\n",
               v->name, mib(v->target), mib(v->resident), mib(v->balloon), mib(v->packed),
               mib(v->swapped), mib(v->missing_sum) / (double)s->seconds,
               100.0 * (double)v->rest_sum / (double)s->seconds, work_percent(s, v));
    }
    printf("%llu turns; the host spent %.1f s on compressing and swapping out\n",
           (unsigned long long)s->turns.count, (double)s->host_us / 1e6);
}

static int run(const struct options *o, const char *path)
{
    struct sim_mem s;
    int rc = EXIT_OK;

    if (sim_mem_load(&s, path) != 0)
        return EXIT_ERROR;
    struct point *p = calloc(s.seconds * s.vms + 1, sizeof(*p));
    if (p == NULL) {
        fprintf(stderr, "vmcore sim memory: no memory for %llu seconds of %u VMs\n",
                (unsigned long long)s.seconds, s.vms);
        rc = EXIT_ERROR;
    }
    FILE *csv = create(o->csv, &rc), *plot = create(o->svg, &rc);
    if (csv != NULL)
        fprintf(csv, "second,host_state,free_mib,vm,active_mib,estimate_mib,target_mib,"
                     "resident_mib,balloon_mib,compressed_mib,swapped_mib,missing_mib,rests,"
                     "wait_percent,work_percent\n");
    sim_mem_start(&s);
    for (uint64_t t = 0; rc == EXIT_OK && t < s.seconds; t++) {
        sim_mem_step(&s);
        for (unsigned i = 0; i < s.vms; i++)
            p[t * s.vms + i] =
                (struct point){{s.vm[i].resident, s.vm[i].target, s.vm[i].active}, s.vm[i].rested};
        if (csv != NULL)
            csv_line(&s, csv);
    }
    if (plot != NULL && p != NULL)
        svg(&s, p, plot);
    if (rc == EXIT_OK)
        summary(&s);
    rc |= finish(csv, o->csv) | finish(plot, o->svg);
    free(p);
    sim_mem_free(&s);
    return rc;
}

static int property(const struct options *o)
{
    uint64_t steps = 0;

    for (uint64_t i = 0; i < o->traces; i++) {
        struct sim_mem s;
        const char *wrong = NULL;
        unsigned vms = 1 + (unsigned)((o->seed + i) % 12);
        if (!sim_mem_random(&s, o->seed + i, vms))
            return EXIT_ERROR;
        sim_mem_start(&s);
        while (wrong == NULL && s.now < s.seconds) {
            sim_mem_step(&s);
            wrong = sim_mem_check(&s);
        }
        steps += s.now;
        if (wrong != NULL)
            printf("seed %llu, %u VMs, second %llu: %s\n", (unsigned long long)(o->seed + i), vms,
                   (unsigned long long)s.now, wrong);
        sim_mem_free(&s);
        if (wrong != NULL)
            return EXIT_ERROR;
    }
    printf("%llu traces, %llu seconds: every promise was kept\n", (unsigned long long)o->traces,
           (unsigned long long)steps);
    return EXIT_OK;
}

static bool number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    char *end;
    unsigned long long v = strtoull(text, &end, 10);

    *out = v;
    return *text >= '0' && *text <= '9' && *end == '\0' && v >= min && v <= max;
}

int cmd_sim_memory(int argc, char **argv)
{
    enum { CSV = 256, SVG, GENERATE, PROPERTY, SEED, VMS, TRACES };
    static const struct option longs[] = {{"csv", required_argument, NULL, CSV},
                                          {"svg", required_argument, NULL, SVG},
                                          {"generate", no_argument, NULL, GENERATE},
                                          {"property", no_argument, NULL, PROPERTY},
                                          {"seed", required_argument, NULL, SEED},
                                          {"vms", required_argument, NULL, VMS},
                                          {"traces", required_argument, NULL, TRACES},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    struct options o = {.seed = 1, .vms = 4, .traces = 200};
    bool ok = true;
    int c;

    optind = 1;
    while (ok && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (c) {
        case CSV:
            o.csv = optarg;
            break;
        case SVG:
            o.svg = optarg;
            break;
        case GENERATE:
            o.generate = true;
            break;
        case PROPERTY:
            o.property = true;
            break;
        case SEED:
            ok = number(optarg, 0, UINT64_MAX / 2, &o.seed);
            break;
        case VMS:
            ok = number(optarg, 1, SIM_MEM_MAX_VMS, &o.vms);
            break;
        case TRACES:
            ok = number(optarg, 1, 100000000, &o.traces);
            break;
        case 'h':
            usage(stdout);
            return EXIT_OK;
        default:
            ok = false;
        }
    }
    if (!ok || (o.generate && o.property) || argc - optind != !(o.generate || o.property)) {
        usage(stderr);
        return EXIT_BAD_ARGS;
    }
    if (o.property)
        return property(&o);
    if (!o.generate)
        return run(&o, argv[optind]);
    return sim_mem_generate(o.seed, (unsigned)o.vms, stdout) ? EXIT_OK : EXIT_ERROR;
}
