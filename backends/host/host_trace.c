/* SPDX-License-Identifier: BSD-2-Clause */
/* Chrome trace events (JSON array format) of what vCPUs do. */
#define _GNU_SOURCE
#include <vmcore/host_trace.h>

#include "host_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct traced_vcpu {
    uint64_t entered, slept; /* ns; 0: not there */
};

struct traced_vm {
    struct vmc_host_trace *t;
    struct traced_vm *next;
    uint32_t pid;
    struct traced_vcpu vcpu[];
};

struct vmc_host_trace {
    pthread_mutex_t lock; /* the file, and the list */
    FILE *f;
    uint64_t start;
    uint32_t vms;
    struct traced_vm *list;
};

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A name in JSON: what would need an escape is left out. */
static void put_name(FILE *f, const char *name)
{
    for (; *name != 0; name++)
        if ((unsigned char)*name >= ' ' && (unsigned char)*name < 0x7f && *name != '"' &&
            *name != '\\')
            fputc(*name, f);
}

/* From since (or, 0, at the moment) to now; detail is a string of ours or NULL. */
static void put_event(struct traced_vm *m, uint32_t index, const char *name, const char *key,
                      const char *text, uint64_t number, uint64_t since)
{
    struct vmc_host_trace *t = m->t;
    uint64_t now = now_ns();
    uint64_t ts = (since != 0 ? since : now) - t->start;

    pthread_mutex_lock(&t->lock);
    fprintf(t->f,
            ",\n{\"name\":\"%s\",\"cat\":\"vcpu\",\"ph\":\"%s\",\"pid\":%" PRIu32
            ",\"tid\":%" PRIu32 ",\"ts\":%" PRIu64 ".%03" PRIu64,
            name, since != 0 ? "X" : "i", m->pid, index, ts / 1000, ts % 1000);
    if (since != 0)
        fprintf(t->f, ",\"dur\":%" PRIu64 ".%03" PRIu64, (now - since) / 1000,
                (now - since) % 1000);
    else
        fprintf(t->f, ",\"s\":\"t\"");
    if (key != NULL && text != NULL)
        fprintf(t->f, ",\"args\":{\"%s\":\"%s\"}", key, text);
    else if (key != NULL)
        fprintf(t->f, ",\"args\":{\"%s\":%" PRIu64 "}", key, number);
    fputs("}", t->f);
    pthread_mutex_unlock(&t->lock);
}

/* On the vCPU's thread. */
static void on_trace(void *ctx, uint32_t index, enum vmc_vm_trace what, uint64_t detail)
{
    struct traced_vm *m = ctx;
    struct traced_vcpu *v = &m->vcpu[index];

    switch (what) {
    case VMC_TRACE_ENTER:
        v->entered = now_ns();
        break;
    case VMC_TRACE_EXIT:
        if (v->entered != 0)
            put_event(m, index, "run", "exit", vmc_exit_name((uint32_t)detail), 0, v->entered);
        v->entered = 0;
        break;
    case VMC_TRACE_IRQ:
        put_event(m, index, "interrupt", "vector", NULL, detail, 0);
        break;
    case VMC_TRACE_SLEEP:
        v->slept = now_ns();
        break;
    case VMC_TRACE_WAKE:
        if (v->slept != 0)
            put_event(m, index, "halted", NULL, NULL, 0, v->slept);
        v->slept = 0;
        break;
    }
}

int vmc_host_trace_open(const char *path, struct vmc_host_trace **out, struct vmc_error *err)
{
    struct vmc_host_trace *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return vmci_host_error(err, VMC_ENOMEM, 0, "host/trace", "no memory");
    t->f = fopen(path, "we");
    if (t->f == NULL) {
        free(t);
        return vmci_host_error(err, VMC_EIO, errno, "host/trace", "cannot create %s", path);
    }
    pthread_mutex_init(&t->lock, NULL);
    t->start = now_ns();
    fputs("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n"
          "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":0,\"args\":{\"name\":\"vmcore\"}}",
          t->f);
    *out = t;
    return VMC_OK;
}

int vmc_host_trace_vm(struct vmc_host_trace *t, struct vmc_vm *vm, const char *name)
{
    uint32_t n = 0;

    while (vmc_vm_vcpu(vm, n) != NULL)
        n++;
    struct traced_vm *m = calloc(1, sizeof(*m) + n * sizeof(m->vcpu[0]));
    if (m == NULL)
        return VMC_ENOMEM;
    m->t = t;
    pthread_mutex_lock(&t->lock);
    m->pid = ++t->vms;
    m->next = t->list;
    t->list = m;
    fprintf(t->f,
            ",\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%" PRIu32
            ",\"args\":{\"name\":\"VM ",
            m->pid);
    put_name(t->f, name);
    fputs("\"}}", t->f);
    for (uint32_t i = 0; i < n; i++)
        fprintf(t->f,
                ",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":%" PRIu32 ",\"tid\":%" PRIu32
                ",\"args\":{\"name\":\"vCPU %" PRIu32 "\"}}",
                m->pid, i, i);
    pthread_mutex_unlock(&t->lock);
    vmc_vm_set_trace(vm, on_trace, m);
    return VMC_OK;
}

int vmc_host_trace_close(struct vmc_host_trace *t)
{
    if (t == NULL)
        return VMC_OK;
    fputs("\n]}\n", t->f);
    bool bad = ferror(t->f) != 0;
    bad = fclose(t->f) != 0 || bad;
    while (t->list != NULL) {
        struct traced_vm *next = t->list->next;
        free(t->list);
        t->list = next;
    }
    pthread_mutex_destroy(&t->lock);
    free(t);
    return bad ? VMC_EIO : VMC_OK;
}
