/* SPDX-License-Identifier: BSD-2-Clause */
/* What a run leaves behind: a summary, CSV, an SVG timeline, a trace for the Perfetto viewer. */
#include "sim_sched.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static FILE *create(const char *path)
{
    FILE *f = fopen(path, "w");

    if (f == NULL)
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
    return f;
}

static int finish(FILE *f, const char *path)
{
    bool bad = ferror(f) != 0;

    if (fclose(f) != 0 || bad) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -1;
    }
    return 0;
}

/* One line a VM. */
int sim_write_csv(const struct sim *s, const char *path)
{
    FILE *f = create(path);

    if (f == NULL)
        return -1;
    fprintf(f, "policy,vm,vcpus,shares,used_ns,used_cpus,iterations,mean_wake_us,max_wake_us,"
               "max_skew_us,lag_us\n");
    for (uint32_t i = 0; i < s->nvms; i++) {
        const struct sim_vm *m = &s->vm[i];
        fprintf(f, "%s,%s,%u,%u,%llu,%.5f,%llu,%.3f,%.3f,%.3f,%.3f\n", s->policy->name,
                m->spec->name, m->n, m->spec->share.shares, (unsigned long long)m->served,
                (double)m->served / (double)s->now, (unsigned long long)m->iterations,
                m->delays == 0 ? 0.0 : (double)m->sum_delay / (double)m->delays / 1e3,
                (double)m->max_delay / 1e3, (double)m->max_skew / 1e3,
                s->fluid == NULL ? 0.0 : sim_fluid_lag(s->fluid, i) / 1e3);
    }
    return finish(f, path);
}

/* A row for each CPU, a box for each time a vCPU ran, a colour for each VM. */
int sim_write_svg(const struct sim *s, const char *path, uint64_t from, uint64_t to)
{
    FILE *f = create(path);
    double width = 1600;
    double row = 18;

    if (f == NULL)
        return -1;
    double scale = width / (double)(to - from);
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" "
            "font-family=\"sans-serif\" font-size=\"10\">\n",
            width + 60, row * (s->ncpus + 2));
    fprintf(f, "<text x=\"4\" y=\"12\">%s: %.3f to %.3f ms</text>\n", s->policy->name,
            (double)from / 1e6, (double)to / 1e6);
    for (uint32_t c = 0; c < s->ncpus; c++)
        fprintf(f, "<text x=\"4\" y=\"%g\">CPU %u</text>\n", row * (c + 2) - 5, c);
    for (size_t i = 0; i < s->nseg; i++) {
        const struct sim_seg *g = &s->seg[i];
        if (g->end <= from || g->start >= to)
            continue;
        uint64_t a = g->start > from ? g->start : from;
        uint64_t b = g->end < to ? g->end : to;
        uint32_t vm = s->vcpu[g->vcpu].vm;
        double x = 50 + (double)(a - from) * scale;
        double w = (double)(b - a) * scale;
        fprintf(f,
                "<rect x=\"%.2f\" y=\"%g\" width=\"%.2f\" height=\"%g\" "
                "fill=\"hsl(%u,70%%,%u%%)\"><title>%s.%u %.3f-%.3f ms</title></rect>\n",
                x, row * (g->cpu + 1), fmax(w, 0.2), row - 3, vm * 137 % 360,
                45 + s->vcpu[g->vcpu].index * 9 % 36, s->vm[vm].spec->name, s->vcpu[g->vcpu].index,
                (double)g->start / 1e6, (double)g->end / 1e6);
        if (w > 30)
            fprintf(f, "<text x=\"%.2f\" y=\"%g\">%.12s.%u</text>\n", x + 2, row * (g->cpu + 2) - 7,
                    s->vm[vm].spec->name, s->vcpu[g->vcpu].index);
    }
    fprintf(f, "</svg>\n");
    return finish(f, path);
}

/* Names come from a scenario file: keep them from ending a JSON string. */
static void json_name(FILE *f, const char *name)
{
    for (; *name != '\0'; name++)
        if (*name != '"' && *name != '\\' && (unsigned char)*name >= ' ')
            fputc(*name, f);
}

/* Trace Event Format, which ui.perfetto.dev and chrome://tracing open. */
int sim_write_trace(const struct sim *s, const char *path)
{
    FILE *f = create(path);

    if (f == NULL)
        return -1;
    fprintf(f, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
    for (uint32_t c = 0; c < s->ncpus; c++)
        fprintf(f,
                "{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":%u,"
                "\"args\":{\"name\":\"CPU %u\"}},\n",
                c, c);
    for (size_t i = 0; i < s->nseg; i++) {
        const struct sim_seg *g = &s->seg[i];
        const struct sim_vcpu *v = &s->vcpu[g->vcpu];
        fprintf(f, "{\"name\":\"");
        json_name(f, s->vm[v->vm].spec->name);
        fprintf(f,
                ".%u\",\"cat\":\"run\",\"ph\":\"X\",\"pid\":1,\"tid\":%u,\"ts\":%.3f,"
                "\"dur\":%.3f,\"args\":{\"vm\":%u,\"vcpu\":%u}},\n",
                v->index, g->cpu, (double)g->start / 1e3, (double)(g->end - g->start) / 1e3, v->vm,
                v->index);
    }
    fprintf(f,
            "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"args\":{\"name\":\"%s\"}}\n]}\n",
            s->policy->name);
    return finish(f, path);
}

void sim_print_summary(const struct sim *s, FILE *to)
{
    uint64_t skew = 0;
    uint64_t delay = 0;
    uint64_t iterations = 0;
    struct sim_fluid_report rep = {0};
    double time = (double)s->now * s->ncpus;

    for (uint32_t i = 0; i < s->nvms; i++) {
        const struct sim_vm *m = &s->vm[i];
        skew = m->n > 1 && m->max_skew > skew ? m->max_skew : skew;
        delay =
            m->spec->guest.model == SIM_INTERACTIVE && m->max_delay > delay ? m->max_delay : delay;
        if (m->spec->guest.model == SIM_SPINLOCK || m->spec->guest.model == SIM_BARRIER)
            iterations += m->iterations;
    }
    if (s->fluid != NULL)
        sim_fluid_report(s->fluid, &rep);
    fprintf(to,
            "%-14s window %9.3f ms  lag %9.3f ms  skew %9.3f ms  idle-loss %6.3f %%  "
            "max-wake %9.3f ms  parallel-iterations %10llu  switches/s/cpu %6.0f",
            s->policy->name, rep.max_window / 1e6, rep.max_lag / 1e6, (double)skew / 1e6,
            100.0 * (double)s->loss_ns / time, (double)delay / 1e6, (unsigned long long)iterations,
            (double)s->switches / (time / 1e9));
    if (s->sc->threads_per_core > 1)
        fprintf(to, "  crowded cores %.3f %%",
                100.0 * (double)s->crowded_ns * s->sc->threads_per_core / time);
    fprintf(to, "\n");
}
