/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decisions of other schedulers, written from their published descriptions. None of them takes a
 * lock here, which the real ones do, and none knows pools or co-scheduling.
 *
 *   eevdf    a queue for each CPU; the eligible by deadline, the others by virtual time
 *   credit   a queue for each CPU, UNDER before OVER, round robin, slices of 30 ms; credit is
 * handed out to everybody every 30 ms credit2  a queue for each 16 CPUs, by credit rtds     one
 * queue, by deadline, with budgets
 */
#include "bench_ports.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOBODY UINT32_MAX

struct entity {
    uint64_t since;       /* on its CPU */
    uint64_t vt, dl;      /* eevdf */
    int64_t credit;       /* credit, credit2 */
    uint64_t end, budget; /* rtds */
    uint32_t w;
};

struct item {
    uint64_t key;
    uint32_t id;
};

/* A binary heap, the least key first. */
struct queue {
    struct item *e;
    uint32_t n;
    uint64_t weight, sum; /* eevdf: of all, and of weight * (virtual time - base) */
};

struct sched {
    struct entity *v;
    struct queue *q, *later; /* later: eevdf: not eligible; credit: OVER */
    uint32_t *cur;
    uint32_t vcpus, cpus;
    uint64_t seq, next_account;
};

static void *get(size_t n, size_t bytes)
{
    void *p = calloc(n, bytes);

    if (p == NULL) {
        fprintf(stderr, "bench_sched: out of memory\n");
        exit(1);
    }
    return p;
}

static void push(struct queue *q, uint64_t key, uint32_t id)
{
    uint32_t at = q->n++;

    for (; at > 0 && q->e[(at - 1) / 2].key > key; at = (at - 1) / 2)
        q->e[at] = q->e[(at - 1) / 2];
    q->e[at] = (struct item){key, id};
}

static struct item pop(struct queue *q)
{
    struct item top = q->e[0];
    struct item last = q->e[--q->n];
    uint32_t at = 0;

    for (uint32_t k = 1; k < q->n; k = 2 * at + 1) {
        k += k + 1 < q->n && q->e[k + 1].key < q->e[k].key;
        if (q->e[k].key >= last.key)
            break;
        q->e[at] = q->e[k];
        at = k;
    }
    q->e[at] = last;
    return top;
}

static struct sched *make(uint32_t vcpus, uint32_t cpus)
{
    struct sched *s = get(1, sizeof(*s));

    s->vcpus = vcpus;
    s->cpus = cpus;
    s->v = get(vcpus, sizeof(*s->v));
    s->cur = get(cpus, sizeof(*s->cur));
    s->q = get(cpus, sizeof(*s->q));
    s->later = get(cpus, sizeof(*s->later));
    memset(s->cur, 0xff, cpus * sizeof(*s->cur));
    for (uint32_t c = 0; c < cpus; c++) {
        s->q[c].e = get(vcpus, sizeof(struct item));
        s->later[c].e = get(vcpus, sizeof(struct item));
    }
    for (uint32_t i = 0; i < vcpus; i++)
        s->v[i].w = 1 + i / 4 % 4;
    return s;
}

static void destroy(void *port)
{
    struct sched *s = port;

    for (uint32_t c = 0; c < s->cpus; c++) {
        free(s->q[c].e);
        free(s->later[c].e);
    }
    free(s->q);
    free(s->later);
    free(s->cur);
    free(s->v);
    free(s);
}

/* ---- eevdf ----------------------------------------------------------------------------------- */

#define SLICE_NS 3000000u

static void *eevdf_make(uint32_t vcpus, uint32_t cpus)
{
    struct sched *s = make(vcpus, cpus);

    for (uint32_t i = 0; i < vcpus; i++) {
        s->v[i].dl = SLICE_NS / s->v[i].w;
        s->q[i % cpus].weight += s->v[i].w;
        push(&s->q[i % cpus], s->v[i].dl, i);
    }
    return s;
}

static uint32_t eevdf_pick(void *port, uint32_t cpu, uint64_t now, uint64_t *end)
{
    struct sched *s = port;
    struct queue *q = &s->q[cpu], *later = &s->later[cpu];
    uint32_t cur = s->cur[cpu];

    if (cur != NOBODY) {
        struct entity *v = &s->v[cur];
        uint64_t dt = now - v->since;
        v->vt += dt / v->w;
        q->sum += dt; /* weight * dt / weight */
        if (v->vt >= v->dl)
            v->dl = v->vt + SLICE_NS / v->w;
        if (v->vt <= q->sum / q->weight)
            push(q, v->dl, cur);
        else
            push(later, v->vt, cur);
    }
    uint64_t avg = q->sum / q->weight;
    while (later->n != 0 && (later->e[0].key <= avg || q->n == 0)) {
        uint32_t id = pop(later).id;
        push(q, s->v[id].dl, id);
    }
    uint32_t best = pop(q).id;
    s->v[best].since = now;
    s->cur[cpu] = best;
    *end = now + (s->v[best].dl - s->v[best].vt) * s->v[best].w;
    return best;
}

/* ---- credit ---------------------------------------------------------------------------------- */

static void *credit_make(uint32_t vcpus, uint32_t cpus)
{
    struct sched *s = make(vcpus, cpus);

    for (uint32_t i = 0; i < vcpus; i++)
        push(&s->q[i % cpus], ++s->seq, i);
    s->next_account = 30000000;
    return s;
}

/* Everybody gets its part of 30 ms of all CPUs. */
static void credit_account(struct sched *s)
{
    uint64_t all = 0;

    for (uint32_t i = 0; i < s->vcpus; i++)
        all += s->v[i].w;
    for (uint32_t i = 0; i < s->vcpus; i++) {
        s->v[i].credit += (int64_t)(30000000ull * s->cpus * s->v[i].w / all);
        if (s->v[i].credit > 30000000)
            s->v[i].credit = 30000000;
    }
    s->next_account += 30000000;
}

static uint32_t credit_pick(void *port, uint32_t cpu, uint64_t now, uint64_t *end)
{
    struct sched *s = port;
    uint32_t cur = s->cur[cpu];

    if (now >= s->next_account)
        credit_account(s);
    if (cur != NOBODY) { /* to the tail of its priority */
        s->v[cur].credit -= (int64_t)(now - s->v[cur].since);
        push(s->v[cur].credit > 0 ? &s->q[cpu] : &s->later[cpu], ++s->seq, cur);
    }
    uint32_t best = pop(s->q[cpu].n != 0 ? &s->q[cpu] : &s->later[cpu]).id;
    s->v[best].since = now;
    s->cur[cpu] = best;
    *end = now + 30000000;
    return best;
}

/* ---- credit2 --------------------------------------------------------------------------------- */

#define PER_QUEUE   16u
#define CREDIT2_NEW 10500000

static void *credit2_make(uint32_t vcpus, uint32_t cpus)
{
    struct sched *s = make(vcpus, cpus);

    for (uint32_t i = 0; i < vcpus; i++) {
        s->v[i].credit = CREDIT2_NEW;
        push(&s->q[i % cpus / PER_QUEUE], INT64_MAX - CREDIT2_NEW, i);
    }
    return s;
}

static uint32_t credit2_pick(void *port, uint32_t cpu, uint64_t now, uint64_t *end)
{
    struct sched *s = port;
    struct queue *q = &s->q[cpu / PER_QUEUE];
    uint32_t cur = s->cur[cpu];

    if (cur != NOBODY) { /* the heavier, the slower it burns */
        s->v[cur].credit -= (int64_t)((now - s->v[cur].since) * 4 / s->v[cur].w);
        push(q, (uint64_t)(INT64_MAX - s->v[cur].credit), cur);
    }
    uint32_t best = pop(q).id;
    if (s->v[best].credit <= 0) { /* a new round: the order stays, as all get the same */
        for (uint32_t i = 0; i < q->n; i++) {
            s->v[q->e[i].id].credit += CREDIT2_NEW;
            q->e[i].key -= CREDIT2_NEW;
        }
        s->v[best].credit += CREDIT2_NEW;
    }
    s->v[best].since = now;
    s->cur[cpu] = best;
    uint64_t slice = (uint64_t)s->v[best].credit * s->v[best].w / 4;
    *end = now + (slice < 500000 ? 500000 : slice > 10000000 ? 10000000 : slice);
    return best;
}

/* ---- rtds ------------------------------------------------------------------------------------ */

#define PERIOD 10000000u

static void *rtds_make(uint32_t vcpus, uint32_t cpus)
{
    struct sched *s = make(vcpus, cpus);
    uint64_t all = 0;

    for (uint32_t i = 0; i < vcpus; i++)
        all += s->v[i].w;
    for (uint32_t i = 0; i < vcpus; i++) {
        s->v[i].budget = (uint64_t)PERIOD * cpus * s->v[i].w / all;
        s->v[i].end = PERIOD + i; /* not all at once */
        push(&s->q[0], s->v[i].end, i);
    }
    return s;
}

static uint32_t rtds_pick(void *port, uint32_t cpu, uint64_t now, uint64_t *end)
{
    struct sched *s = port;
    uint32_t cur = s->cur[cpu];

    if (cur != NOBODY) { /* its budget is used up: the next one comes with the next period */
        s->v[cur].end += PERIOD;
        push(&s->q[0], s->v[cur].end, cur);
    }
    uint32_t best = pop(&s->q[0]).id;
    s->cur[cpu] = best;
    *end = now + s->v[best].budget;
    return best;
}

const struct port bench_ports[] = {
    {"eevdf", "per-CPU queues", eevdf_make, eevdf_pick, destroy},
    {"credit", "per-CPU queues", credit_make, credit_pick, destroy},
    {"credit2", "a queue for 16 CPUs", credit2_make, credit2_pick, destroy},
    {"rtds", "one queue", rtds_make, rtds_pick, destroy},
};
const unsigned bench_nports = sizeof(bench_ports) / sizeof(bench_ports[0]);
