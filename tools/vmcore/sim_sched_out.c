/* SPDX-License-Identifier: BSD-2-Clause */
/* What a run leaves behind: a summary, CSV, an SVG timeline, a trace for the Perfetto viewer. */
#include "sim_sched.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
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

#define SVG_WIDTH 1600.0
#define SVG_ROW   18.0
#define SVG_HELD  64u /* rows of vCPUs that were co-stopped */

/* The part of the time that is drawn. */
struct drawing {
    FILE *f;
    const struct sim *s;
    uint64_t from, to;
};

/* A box, if any of it is to be seen. */
static void draw_box(const struct drawing *d, const struct sim_seg *g, unsigned row,
                     const char *style, const char *what)
{
    if (g->end <= d->from || g->start >= d->to)
        return;
    const struct sim_vcpu *v = &d->s->vcpu[g->vcpu];
    const char *name = d->s->vm[v->vm].spec->name;
    double scale = SVG_WIDTH / (double)(d->to - d->from);
    uint64_t a = g->start > d->from ? g->start : d->from;
    uint64_t b = g->end < d->to ? g->end : d->to;
    double x = 50 + (double)(a - d->from) * scale;
    double w = (double)(b - a) * scale;

    fprintf(d->f,
            "<rect x=\"%.2f\" y=\"%g\" width=\"%.2f\" height=\"%g\" %s>"
            "<title>%s.%u %s%.3f-%.3f ms</title></rect>\n",
            x, SVG_ROW * (row + 1), fmax(w, 0.2), SVG_ROW - 3, style, name, v->index, what,
            (double)g->start / 1e6, (double)g->end / 1e6);
    if (w > 30)
        fprintf(d->f, "<text x=\"%.2f\" y=\"%g\">%.12s.%u</text>\n", x + 2, SVG_ROW * (row + 2) - 7,
                name, v->index);
}

/* Which row below the CPUs shows the vCPU's co-stops; SIM_NONE: it had none, or too many had. */
static uint32_t held_rows(const struct drawing *d, uint32_t *row)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < d->s->nvcpus; i++)
        row[i] = SIM_NONE;
    for (size_t i = 0; i < d->s->nhold && n < SVG_HELD; i++) {
        const struct sim_seg *g = &d->s->hold[i];
        if (g->end > d->from && g->start < d->to && row[g->vcpu] == SIM_NONE)
            row[g->vcpu] = d->s->ncpus + n++;
    }
    return n;
}

static void draw(const struct drawing *d, uint32_t *row)
{
    const struct sim *s = d->s;
    uint32_t held = held_rows(d, row);
    char style[64];

    fprintf(d->f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" "
            "font-family=\"sans-serif\" font-size=\"10\">\n",
            SVG_WIDTH + 60, SVG_ROW * (s->ncpus + held + 2));
    fprintf(d->f, "<text x=\"4\" y=\"12\">%s: %.3f to %.3f ms</text>\n", s->policy->name,
            (double)d->from / 1e6, (double)d->to / 1e6);
    for (uint32_t c = 0; c < s->ncpus; c++)
        fprintf(d->f, "<text x=\"4\" y=\"%g\">CPU %u</text>\n", SVG_ROW * (c + 2) - 5, c);
    for (uint32_t c = s->ncpus; c < s->ncpus + held; c++)
        fprintf(d->f, "<text x=\"4\" y=\"%g\">co-stop</text>\n", SVG_ROW * (c + 2) - 5);
    for (size_t i = 0; i < s->nseg; i++) {
        const struct sim_seg *g = &s->seg[i];
        snprintf(style, sizeof(style), "fill=\"hsl(%u,70%%,%u%%)\"",
                 s->vcpu[g->vcpu].vm * 137 % 360, 45 + s->vcpu[g->vcpu].index * 9 % 36);
        draw_box(d, g, g->cpu, style, "");
    }
    for (size_t i = 0; i < s->nhold; i++) {
        const struct sim_seg *g = &s->hold[i];
        snprintf(style, sizeof(style), "stroke=\"red\" fill=\"hsl(%u,70%%,85%%)\"",
                 s->vcpu[g->vcpu].vm * 137 % 360);
        if (row[g->vcpu] != SIM_NONE)
            draw_box(d, g, row[g->vcpu], style, "co-stopped ");
    }
    fprintf(d->f, "</svg>\n");
}

/*
 * A row for each CPU, a box for each time a vCPU ran, a colour for each VM; below, a row for each
 * vCPU that was co-stopped, a box with a red border for each time.
 */
int sim_write_svg(const struct sim *s, const char *path, uint64_t from, uint64_t to)
{
    uint32_t *row = malloc((s->nvcpus + 1) * sizeof(*row));
    FILE *f = row != NULL ? create(path) : NULL;

    if (f != NULL)
        draw(&(struct drawing){.f = f, .s = s, .from = from, .to = to}, row);
    free(row);
    return f != NULL ? finish(f, path) : -1;
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
        fprintf(f,
                "{\"name\":\"%s.%u\",\"cat\":\"run\",\"ph\":\"X\",\"pid\":1,\"tid\":%u,\"ts\":%.3f,"
                "\"dur\":%.3f,\"args\":{\"vm\":%u,\"vcpu\":%u}},\n",
                s->vm[v->vm].spec->name, v->index, g->cpu, (double)g->start / 1e3,
                (double)(g->end - g->start) / 1e3, v->vm, v->index);
    }
    for (size_t i = 0; i < s->nhold; i++) {
        const struct sim_seg *g = &s->hold[i];
        const struct sim_vcpu *v = &s->vcpu[g->vcpu];
        fprintf(f,
                "{\"name\":\"co-stop %s.%u\",\"cat\":\"co-stop\",\"ph\":\"X\",\"pid\":2,\"tid\":%u,"
                "\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"vm\":%u,\"vcpu\":%u}},\n",
                s->vm[v->vm].spec->name, v->index, g->vcpu, (double)g->start / 1e3,
                (double)(g->end - g->start) / 1e3, v->vm, v->index);
    }
    if (s->nhold != 0)
        fprintf(f, "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":2,"
                   "\"args\":{\"name\":\"co-stops\"}},\n");
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
