/* SPDX-License-Identifier: BSD-2-Clause */
/* The simulator's engine: events, guest models, measures. */
#include "sim_sched.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- random numbers: splitmix64 (Steele, Lea, Flood, OOPSLA 2014) ---------------------------- */

uint64_t sim_random(struct sim *s)
{
    uint64_t z = (s->rng += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Exponential with that mean, cut at eight times the mean, never 0. */
static uint64_t draw(struct sim *s, uint64_t mean)
{
    double u = (double)(sim_random(s) >> 11) * 0x1p-53;
    double x = -log1p(-u) * (double)mean;
    return 1 + (uint64_t)fmin(x, 8.0 * (double)mean);
}

/* Uniform within a tenth of the mean: loops of a parallel program. */
static uint64_t draw_even(struct sim *s, uint64_t mean)
{
    return mean - mean / 10 + sim_random(s) % (mean / 5 + 1);
}

/* ---- events: one per CPU, one per sleeping vCPU, one timer ----------------------------------- */

static void heap_put(struct sim *s, uint32_t at, uint32_t id)
{
    s->heap[at] = id;
    s->pos[id] = at;
}

static void heap_fix(struct sim *s, uint32_t id)
{
    uint32_t at = s->pos[id];
    uint64_t key = s->key[id];

    while (at > 0 && s->key[s->heap[(at - 1) / 2]] > key) {
        heap_put(s, at, s->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= s->heap_n)
            break;
        if (child + 1 < s->heap_n && s->key[s->heap[child + 1]] < s->key[s->heap[child]])
            child++;
        if (s->key[s->heap[child]] >= key)
            break;
        heap_put(s, at, s->heap[child]);
        at = child;
    }
    heap_put(s, at, id);
}

static void at(struct sim *s, uint32_t id, uint64_t when)
{
    s->key[id] = when;
    heap_fix(s, id);
}

#define EV_CPU(s, cpu) (cpu)
#define EV_VCPU(s, v)  ((s)->ncpus + (v))
#define EV_TIMER(s)    ((s)->ncpus + (s)->nvcpus)

void sim_kick(struct sim *s, uint32_t cpu)
{
    uint64_t when = s->now + s->sc->kick_ns;

    if (s->slice_end[cpu] > when)
        s->slice_end[cpu] = when;
    if (s->key[EV_CPU(s, cpu)] > when)
        at(s, EV_CPU(s, cpu), when);
}

/* ---- measures -------------------------------------------------------------------------------- */

/* Cores on which several threads run, as many as there are others on which none does. */
static uint32_t crowded_cores(const struct sim *s)
{
    uint32_t n = s->sc->threads_per_core;
    uint32_t shared = 0;
    uint32_t idle = 0;

    for (uint32_t core = 0; n > 1 && core + n <= s->ncpus; core += n) {
        uint32_t busy = 0;
        for (uint32_t t = 0; t < n; t++)
            busy += s->cur[core + t] != SIM_NONE;
        shared += busy > 1;
        idle += busy == 0;
    }
    return shared < idle ? shared : idle;
}

static void measure(struct sim *s)
{
    uint64_t dt = s->now - s->acc_at;

    if (dt != 0) {
        uint64_t lost = s->waiting < s->idle_cpus ? s->waiting : s->idle_cpus;
        s->idle_ns += dt * s->idle_cpus;
        s->loss_ns += dt * lost;
        s->crowded_ns += dt * crowded_cores(s);
        s->acc_at = s->now;
    }
    if (s->fluid != NULL)
        sim_fluid_advance(s->fluid, s, s->now);
}

static void measure_skew(struct sim *s, struct sim_vm *m)
{
    uint64_t lo = UINT64_MAX;
    uint64_t hi = 0;

    for (uint32_t i = 0; i < m->n; i++) {
        const struct sim_vcpu *v = &s->vcpu[m->first + i];
        if (v->state == SIM_BLOCKED)
            continue;
        uint64_t p = sim_progress(s, m->first + i);
        lo = p < lo ? p : lo;
        hi = p > hi ? p : hi;
    }
    if (hi > lo && hi - lo > m->max_skew)
        m->max_skew = hi - lo;
}

/* Runnable vCPUs that wait for a CPU, but for those that a limit may hold back. */
static void wait_count(struct sim *s, const struct sim_vcpu *v, int by)
{
    if (s->vm[v->vm].unlimited)
        s->waiting = by > 0 ? s->waiting + 1 : s->waiting - 1;
}

static void keep(struct sim *s, struct sim_seg **list, size_t *n, size_t *cap, struct sim_seg seg)
{
    if (*n == *cap) {
        size_t more = *cap == 0 ? 4096 : 2 * *cap;
        struct sim_seg *p = more > 4000000 ? NULL : realloc(*list, more * sizeof(*p));
        if (p == NULL) {
            s->record = false;
            return;
        }
        *list = p;
        *cap = more;
    }
    (*list)[(*n)++] = seg;
}

static void record(struct sim *s, uint32_t cpu)
{
    if (s->record && s->cur[cpu] != SIM_NONE && s->run_from[cpu] != s->now)
        keep(s, &s->seg, &s->nseg, &s->seg_cap,
             (struct sim_seg){cpu, s->cur[cpu], s->run_from[cpu], s->now});
}

void sim_held(struct sim *s, struct sim_seg held)
{
    if (s->record)
        keep(s, &s->hold, &s->nhold, &s->hold_cap, held);
}

/* ---- guests ---------------------------------------------------------------------------------- */

enum { PH_WORK, PH_CRITICAL, PH_SPIN };

static void cpu_event(struct sim *s, uint32_t cpu);

static void set_blocked(struct sim *s, uint32_t vcpu, uint64_t sleep)
{
    struct sim_vcpu *v = &s->vcpu[vcpu];
    uint32_t cpu = v->cpu;

    measure(s);
    record(s, cpu);
    v->state = SIM_BLOCKED;
    s->vm[v->vm].runnable--;
    s->cur[cpu] = SIM_NONE;
    s->idle_cpus++;
    v->wake_at = s->now + sleep;
    at(s, EV_VCPU(s, vcpu), v->wake_at);
    if (s->fluid != NULL)
        sim_fluid_changed(s->fluid, s, vcpu);
    s->policy->block(s, s->pol, cpu, vcpu);
    s->slice_end[cpu] = s->now;
}

static void do_wake(struct sim *s, uint32_t vcpu)
{
    struct sim_vcpu *v = &s->vcpu[vcpu];
    struct sim_vm *m = &s->vm[v->vm];
    uint64_t lead = 0;

    measure(s);
    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t p = sim_progress(s, m->first + i);
        lead = p > lead ? p : lead;
    }
    if (lead > v->served + v->adj) /* asleep counts as progressing */
        v->adj = lead - v->served;
    v->state = SIM_READY;
    v->woke = s->now;
    wait_count(s, v, 1);
    m->runnable++;
    at(s, EV_VCPU(s, vcpu), SIM_NEVER);
    if (s->fluid != NULL)
        sim_fluid_changed(s->fluid, s, vcpu);
    s->policy->wake(s, s->pol, vcpu);
}

/* The vCPU stops spinning and goes on with work, wherever it is. */
static void resume_work(struct sim *s, uint32_t vcpu, int phase, uint64_t work)
{
    struct sim_vcpu *v = &s->vcpu[vcpu];

    v->spinning = false;
    v->spun = 0;
    v->phase = phase;
    v->rem = work;
    if (v->state == SIM_RUNNING && s->key[EV_CPU(s, v->cpu)] > s->now)
        at(s, EV_CPU(s, v->cpu), s->now); /* its next event has to be computed again */
}

static void unlock(struct sim *s, struct sim_vm *m)
{
    m->lock_holder = SIM_NONE;
    if (m->queue_n == 0)
        return;
    uint32_t next = m->queue[0]; /* a ticket lock hands over in order of arrival */
    memmove(m->queue, m->queue + 1, --m->queue_n * sizeof(m->queue[0]));
    m->lock_holder = next;
    resume_work(s, m->first + next, PH_CRITICAL, draw_even(s, m->spec->guest.critical));
}

static void spinlock_step(struct sim *s, struct sim_vm *m, struct sim_vcpu *v)
{
    const struct sim_guest *g = &m->spec->guest;

    if (v->phase == PH_CRITICAL) {
        m->iterations++;
        v->phase = PH_WORK;
        v->rem = draw_even(s, g->work);
        unlock(s, m);
        return;
    }
    if (m->lock_holder == SIM_NONE) {
        m->lock_holder = v->index;
        v->phase = PH_CRITICAL;
        v->rem = draw_even(s, g->critical);
        return;
    }
    m->queue[m->queue_n++] = v->index;
    v->phase = PH_SPIN;
    v->spinning = true;
    v->spun = 0;
}

static void barrier_step(struct sim *s, struct sim_vm *m, struct sim_vcpu *v)
{
    const struct sim_guest *g = &m->spec->guest;

    if (++m->arrived < m->n) {
        v->phase = PH_SPIN;
        v->spinning = true;
        v->spun = 0;
        return;
    }
    m->arrived = 0;
    m->iterations++;
    for (uint32_t i = 0; i < m->n; i++)
        if (s->vcpu[m->first + i].spinning)
            resume_work(s, m->first + i, PH_WORK, draw_even(s, g->work));
    v->phase = PH_WORK;
    v->rem = draw_even(s, g->work);
}

/* The phase of the vCPU that runs on the CPU has ended. */
static void guest_step(struct sim *s, uint32_t vcpu)
{
    struct sim_vcpu *v = &s->vcpu[vcpu];
    struct sim_vm *m = &s->vm[v->vm];
    const struct sim_guest *g = &m->spec->guest;

    switch (g->model) {
    case SIM_CPU:
        v->rem = SIM_NEVER / 4;
        break;
    case SIM_INTERACTIVE:
    case SIM_BURSTY:
        m->iterations++;
        v->rem = draw(s, g->work);
        set_blocked(s, vcpu, draw(s, g->sleep));
        break;
    case SIM_SPINLOCK:
        spinlock_step(s, m, v);
        break;
    case SIM_BARRIER:
        barrier_step(s, m, v);
        break;
    case SIM_CODE: /* code_step */
        break;
    }
}

/* Real code on the CPU has had a step. */
static void code_step(struct sim *s, uint32_t cpu, uint32_t vcpu)
{
    struct sim_vcpu *v = &s->vcpu[vcpu];
    int did = v->did;

    v->did = SIM_CODE_RUNS;
    if (did == SIM_CODE_ENDED) {
        set_blocked(s, vcpu, SIM_NEVER / 2);
        if (s->vm[v->vm].runnable == 0 && --s->code_vms == 0)
            s->over = true;
    } else if (did == SIM_CODE_SPINS && s->sc->ple_ns != 0 && s->policy->spin != NULL &&
               s->policy->spin(s, s->pol, cpu, vcpu)) {
        s->slice_end[cpu] = s->now;
    }
}

/* ---- CPUs ------------------------------------------------------------------------------------ */

static void account(struct sim *s, uint32_t cpu)
{
    uint32_t vcpu = s->cur[cpu];
    uint64_t dt = s->now - s->last[cpu];

    if (vcpu == SIM_NONE || dt == 0) {
        s->last[cpu] = s->now;
        return;
    }
    struct sim_vcpu *v = &s->vcpu[vcpu];
    measure(s);
    s->last[cpu] = s->now;
    v->served += dt;
    s->vm[v->vm].served += dt;
    if (s->policy->charge != NULL)
        s->policy->charge(s, s->pol, cpu, vcpu, dt);
    uint64_t paid = v->penalty < dt ? v->penalty : dt;
    v->penalty -= paid;
    dt -= paid;
    if (s->vm[v->vm].spec->guest.model == SIM_CODE)
        v->did = dt == 0 ? SIM_CODE_RUNS : s->code->run(s->code->ctx, v->vm, v->index, dt);
    else if (v->spinning)
        v->spun += dt;
    else
        v->rem -= dt < v->rem ? dt : v->rem;
    if (s->vm[v->vm].n > 1)
        measure_skew(s, &s->vm[v->vm]);
}

static void arm_cpu(struct sim *s, uint32_t cpu)
{
    uint64_t when = s->slice_end[cpu];
    uint32_t vcpu = s->cur[cpu];

    if (vcpu != SIM_NONE) {
        const struct sim_vcpu *v = &s->vcpu[vcpu];
        uint64_t need = SIM_NEVER;
        if (s->vm[v->vm].spec->guest.model == SIM_CODE)
            need = s->code->step_ns;
        else if (!v->spinning)
            need = v->rem;
        else if (s->sc->ple_ns != 0 && s->policy->spin != NULL)
            need = s->sc->ple_ns > v->spun ? s->sc->ple_ns - v->spun : 0;
        if (need < SIM_NEVER / 4 && s->now + v->penalty + need < when)
            when = s->now + v->penalty + need;
    }
    at(s, EV_CPU(s, cpu), when);
}

static void start(struct sim *s, uint32_t cpu, uint32_t vcpu)
{
    struct sim_vcpu *v = &s->vcpu[vcpu];

    if (v->state != SIM_READY) {
        fprintf(stderr, "sim: policy %s runs vCPU %u, which is %s, on CPU %u\n", s->policy->name,
                vcpu, v->state == SIM_RUNNING ? "running elsewhere" : "blocked", cpu);
        abort();
    }
    v->state = SIM_RUNNING;
    v->cpu = cpu;
    wait_count(s, v, -1);
    s->idle_cpus--;
    s->cur[cpu] = vcpu;
    s->run_from[cpu] = s->now;
    if (s->last_vcpu[cpu] != vcpu) {
        v->penalty = s->sc->switch_ns;
        s->switches++;
    }
    s->last_vcpu[cpu] = vcpu;
    if (v->woke != SIM_NEVER) {
        struct sim_vm *m = &s->vm[v->vm];
        uint64_t delay = s->now - v->woke;
        m->max_delay = delay > m->max_delay ? delay : m->max_delay;
        m->sum_delay += delay;
        m->delays++;
        v->woke = SIM_NEVER;
    }
}

/* The vCPU that ran leaves the CPU, still runnable. */
static void stop(struct sim *s, uint32_t cpu)
{
    uint32_t vcpu = s->cur[cpu];

    if (vcpu == SIM_NONE)
        return;
    record(s, cpu);
    s->vcpu[vcpu].state = SIM_READY;
    s->cur[cpu] = SIM_NONE;
    wait_count(s, &s->vcpu[vcpu], 1);
    s->idle_cpus++;
}

static void repick(struct sim *s, uint32_t cpu)
{
    uint64_t end = SIM_NEVER;
    uint32_t old = s->cur[cpu];

    measure(s);
    s->decisions++;
    s->slice_end[cpu] = SIM_NEVER;
    uint32_t vcpu = s->policy->pick(s, s->pol, cpu, &end);
    if (vcpu != old) {
        stop(s, cpu);
        if (vcpu != SIM_NONE)
            start(s, cpu, vcpu);
    }
    if (s->sc->late_ns != 0 && end < SIM_NEVER)
        end += sim_random(s) % (s->sc->late_ns + 1);
    if (end < s->slice_end[cpu])
        s->slice_end[cpu] = end;
}

static void cpu_event(struct sim *s, uint32_t cpu)
{
    account(s, cpu);
    uint32_t vcpu = s->cur[cpu];
    if (vcpu != SIM_NONE) {
        struct sim_vcpu *v = &s->vcpu[vcpu];
        if (s->vm[v->vm].spec->guest.model == SIM_CODE)
            code_step(s, cpu, vcpu);
        else if (!v->spinning && v->rem == 0)
            guest_step(s, vcpu);
        else if (v->spinning && s->sc->ple_ns != 0 && v->spun >= s->sc->ple_ns) {
            v->spun = 0;
            if (s->policy->spin != NULL && s->policy->spin(s, s->pol, cpu, vcpu))
                s->slice_end[cpu] = s->now;
        }
    }
    if (s->now >= s->slice_end[cpu])
        repick(s, cpu);
    arm_cpu(s, cpu);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void *array(size_t n, size_t bytes)
{
    void *p = calloc(n == 0 ? 1 : n, bytes);
    if (p == NULL) {
        fprintf(stderr, "sim: out of memory\n");
        exit(1);
    }
    return p;
}

static void init_vms(struct sim *s)
{
    uint32_t v = 0;

    for (uint32_t i = 0; i < s->nvms; i++) {
        struct sim_vm *m = &s->vm[i];
        m->spec = &s->sc->vms[i];
        m->first = v;
        m->n = m->spec->vcpus;
        m->lock_holder = SIM_NONE;
        s->code_vms += m->spec->guest.model == SIM_CODE;
        m->unlimited = m->spec->share.limit == 0 && m->spec->vcpu_cap == 0;
        for (uint32_t p = m->spec->pool; p != SIM_NONE; p = s->sc->pools[p].parent)
            m->unlimited = m->unlimited && s->sc->pools[p].share.limit == 0;
        for (uint32_t k = 0; k < m->n; k++, v++) {
            struct sim_vcpu *c = &s->vcpu[v];
            const struct sim_guest *g = &m->spec->guest;
            c->vm = i;
            c->index = k;
            c->cpu = v % s->ncpus;
            c->woke = SIM_NEVER;
            c->rem = g->model == SIM_CPU ? SIM_NEVER / 4 : draw(s, g->work == 0 ? 1 : g->work);
            s->key[EV_VCPU(s, v)] = m->spec->start_ns;
        }
    }
}

int sim_init(struct sim *s, const struct sim_scenario *sc, const struct sim_policy *policy,
             bool check_fluid, bool record_segments)
{
    memset(s, 0, sizeof(*s));
    s->sc = sc;
    s->policy = policy;
    s->rng = sc->seed;
    s->ncpus = sc->cpus;
    s->nvms = sc->nvms;
    for (uint32_t i = 0; i < sc->nvms; i++)
        s->nvcpus += sc->vms[i].vcpus;
    s->record = record_segments;
    s->vcpu = array(s->nvcpus, sizeof(*s->vcpu));
    s->vm = array(s->nvms, sizeof(*s->vm));
    s->cur = array(s->ncpus, sizeof(*s->cur));
    s->last = array(s->ncpus, sizeof(*s->last));
    s->slice_end = array(s->ncpus, sizeof(*s->slice_end));
    s->last_vcpu = array(s->ncpus, sizeof(*s->last_vcpu));
    s->run_from = array(s->ncpus, sizeof(*s->run_from));
    uint32_t ids = s->ncpus + s->nvcpus + 1;
    s->heap = array(ids, sizeof(*s->heap));
    s->pos = array(ids, sizeof(*s->pos));
    s->key = array(ids, sizeof(*s->key));
    for (uint32_t i = 0; i < s->ncpus; i++) {
        s->cur[i] = SIM_NONE;
        s->last_vcpu[i] = SIM_NONE;
        s->slice_end[i] = 0;
    }
    s->idle_cpus = s->ncpus;
    init_vms(s);
    for (uint32_t i = 0; i < ids; i++) {
        s->heap_n = i + 1;
        heap_put(s, i, i);
        heap_fix(s, i);
    }
    if (check_fluid)
        s->fluid = sim_fluid_create(s);
    s->pol = policy->create(s, policy);
    if (s->pol == NULL) {
        fprintf(stderr, "sim: policy %s refuses the scenario\n", policy->name);
        return -1;
    }
    at(s, EV_TIMER(s), policy->next_timer != NULL ? policy->next_timer(s, s->pol) : SIM_NEVER);
    return 0;
}

void sim_run(struct sim *s)
{
    uint64_t stop_after = s->sc->max_decisions != 0 ? s->sc->max_decisions : UINT64_MAX;

    while (!s->over && s->key[s->heap[0]] < s->sc->duration_ns && s->decisions < stop_after) {
        uint32_t id = s->heap[0];
        if (s->key[id] > s->now)
            s->now = s->key[id];
        if (id < s->ncpus)
            cpu_event(s, id);
        else if (id < s->ncpus + s->nvcpus)
            do_wake(s, id - s->ncpus);
        else
            s->policy->timer(s, s->pol);
        if (s->policy->next_timer != NULL) {
            uint64_t t = s->policy->next_timer(s, s->pol);
            if (t != s->key[EV_TIMER(s)])
                at(s, EV_TIMER(s), t);
        }
    }
    if (!s->over && s->decisions < stop_after)
        s->now = s->sc->duration_ns;
    for (uint32_t i = 0; i < s->ncpus; i++) {
        account(s, i);
        record(s, i);
    }
    measure(s);
}

void sim_fini(struct sim *s)
{
    if (s->pol != NULL)
        s->policy->destroy(s, s->pol);
    sim_fluid_destroy(s->fluid);
    free(s->vcpu);
    free(s->vm);
    free(s->cur);
    free(s->last);
    free(s->slice_end);
    free(s->last_vcpu);
    free(s->run_from);
    free(s->heap);
    free(s->pos);
    free(s->key);
    free(s->seg);
    free(s->hold);
    memset(s, 0, sizeof(*s));
}
