/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The scheduler's trace rings as Chrome trace events. What is left of a slice whose end is not in
 * the rings yet is kept for the next time they are written.
 */
#include "host_priv.h"
#include "host_runner_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* A CPU's slice that has not ended. */
struct open_slice {
    uint64_t since;
    uint32_t vm, index;
    bool open;
};

struct runner_trace {
    FILE *f;
    struct open_slice cpu[];
};

static const char *const event_names[] = {"run",     "stop",  "block", "wake",
                                          "co-stop", "yield", "idle"};

static bool ends_slice(const struct vmc_sched_event *e)
{
    return e->type != VMC_SCHED_EV_YIELD && e->type != VMC_SCHED_EV_COSTOP &&
           e->type != VMC_SCHED_EV_WAKE;
}

static void write_event(FILE *f, const struct vmc_sched_event *e, struct open_slice *o)
{
    if (o->open && ends_slice(e)) {
        fprintf(f,
                "{\"name\":\"vm%" PRIu32 ".%" PRIu32 "\",\"cat\":\"run\",\"ph\":\"X\",\"pid\":1,"
                "\"tid\":%" PRIu32 ",\"ts\":%.3f,\"dur\":%.3f},\n",
                o->vm, o->index, e->cpu, (double)o->since / 1e3, (double)(e->ns - o->since) / 1e3);
        o->open = false;
    }
    if (e->type == VMC_SCHED_EV_RUN)
        *o = (struct open_slice){.since = e->ns, .vm = e->vm, .index = e->index, .open = true};
    else if (e->type < sizeof(event_names) / sizeof(event_names[0]))
        fprintf(f,
                "{\"name\":\"%s\",\"cat\":\"sched\",\"ph\":\"i\",\"s\":\"t\",\"pid\":1,"
                "\"tid\":%" PRIu32 ",\"ts\":%.3f,\"args\":{\"vm\":%" PRIu32 ",\"vcpu\":%u}},\n",
                event_names[e->type], e->cpu, (double)e->ns / 1e3, e->vm, e->index);
}

int vmc_runner_trace_begin(struct vmc_runner *r, const char *path, struct vmc_error *err)
{
    if (r->trace != NULL)
        return VMC_ESTATE;
    struct runner_trace *t = calloc(1, sizeof(*t) + r->ncpus * sizeof(t->cpu[0]));
    if (t == NULL)
        return VMC_ENOMEM;
    t->f = fopen(path, "we");
    if (t->f == NULL) {
        free(t);
        return vmci_host_error(err, VMC_EIO, errno, "host/runner", "cannot write %s", path);
    }
    fprintf(t->f, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
    for (uint32_t c = 0; c < r->ncpus; c++)
        fprintf(t->f,
                "{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":%" PRIu32
                ",\"args\":{\"name\":\"CPU %" PRIu32 "\"}},\n",
                c, c);
    r->trace = t;
    return VMC_OK;
}

void vmc_runner_trace_flush(struct vmc_runner *r)
{
    struct vmc_sched_event e[64];
    uint32_t n;

    for (uint32_t c = 0; r->trace != NULL && c < r->ncpus; c++)
        while ((n = vmc_sched_trace_read(r->sched, c, e, 64, NULL)) != 0)
            for (uint32_t i = 0; i < n; i++)
                write_event(r->trace->f, &e[i], &r->trace->cpu[c]);
}

int vmc_runner_trace_end(struct vmc_runner *r, struct vmc_error *err)
{
    struct runner_trace *t = r->trace;

    if (t == NULL)
        return VMC_OK;
    vmc_runner_trace_flush(r);
    r->trace = NULL;
    fprintf(t->f, "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,"
                  "\"args\":{\"name\":\"vmcore runner\"}}\n]}\n");
    bool bad = ferror(t->f) != 0;
    bad |= fclose(t->f) != 0;
    free(t);
    if (bad)
        return vmci_host_error(err, VMC_EIO, errno, "host/runner", "cannot write the trace");
    return VMC_OK;
}

int vmc_runner_write_trace(struct vmc_runner *r, const char *path, struct vmc_error *err)
{
    int rc = vmc_runner_trace_begin(r, path, err);

    return rc == VMC_OK ? vmc_runner_trace_end(r, err) : rc;
}
