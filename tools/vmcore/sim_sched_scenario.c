/* SPDX-License-Identifier: BSD-2-Clause */
/* Scenarios: read from JSON, or made at random for property runs. */
#include "sim_sched.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#define MAX_VMS   16384
#define MAX_POOLS 4096

static const char *const models[] = {"cpu", "interactive", "bursty", "spinlock", "barrier"};
static const char *const modes[] = {"none", "relaxed", "strict"};

struct reader {
    const char *path;
    bool bad;
};

static void complain(struct reader *r, const char *where, const char *what)
{
    if (!r->bad)
        fprintf(stderr, "vmcore sim sched: %s: %s: %s\n", r->path, where, what);
    r->bad = true;
}

/* An integer member in [lo, hi]; fallback when absent. */
static uint64_t number(struct reader *r, json_object *o, const char *key, uint64_t lo, uint64_t hi,
                       uint64_t fallback)
{
    json_object *v;

    if (!json_object_object_get_ex(o, key, &v))
        return fallback;
    int64_t n = json_object_get_int64(v);
    if (!json_object_is_type(v, json_type_int) || n < 0 || (uint64_t)n < lo || (uint64_t)n > hi) {
        complain(r, key, "not a whole number in its range");
        return fallback;
    }
    return (uint64_t)n;
}

static unsigned choice(struct reader *r, json_object *o, const char *key, const char *const *names,
                       unsigned n, unsigned fallback)
{
    json_object *v;

    if (!json_object_object_get_ex(o, key, &v))
        return fallback;
    for (unsigned i = 0; i < n; i++)
        if (json_object_is_type(v, json_type_string) &&
            strcmp(json_object_get_string(v), names[i]) == 0)
            return i;
    complain(r, key, "unknown value");
    return fallback;
}

static void text(struct reader *r, json_object *o, const char *key, char *dst, size_t bytes,
                 const char *fallback)
{
    json_object *v;
    bool have = json_object_object_get_ex(o, key, &v);

    if (have && (!json_object_is_type(v, json_type_string) ||
                 (size_t)json_object_get_string_len(v) >= bytes))
        complain(r, key, "not a string, or too long");
    snprintf(dst, bytes, "%s",
             have && json_object_is_type(v, json_type_string) ? json_object_get_string(v)
                                                              : fallback);
}

/* Names go into CSV, SVG and JSON as they are. */
static void name(struct reader *r, json_object *o, char *dst, size_t bytes, const char *fallback)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

    text(r, o, "name", dst, bytes, fallback);
    if (dst[strspn(dst, allowed)] != '\0')
        complain(r, "name", "not made of letters, digits, '.', '_' and '-'");
}

/* A misspelt member would silently be its default. */
static void only_known(struct reader *r, json_object *o, const char *what, const char *const *known,
                       size_t n)
{
    if (!json_object_is_type(o, json_type_object)) {
        complain(r, what, "not an object");
        return;
    }
    json_object_object_foreach(o, key, value)
    {
        size_t i = 0;
        (void)value;
        while (i < n && strcmp(known[i], key) != 0)
            i++;
        if (i == n)
            complain(r, key, "no such member here");
    }
}
#define ONLY_KNOWN(r, o, what, known)                                                              \
    only_known((r), (o), (what), (known), sizeof(known) / sizeof((known)[0]))

/* A list that may be absent; NULL: it is, or it is none. */
static json_object *list_of(struct reader *r, json_object *o, const char *key)
{
    json_object *v = NULL;

    if (!json_object_object_get_ex(o, key, &v))
        return NULL;
    if (!json_object_is_type(v, json_type_array)) {
        complain(r, key, "not a list");
        return NULL;
    }
    return v;
}

static void read_share(struct reader *r, json_object *o, struct vmc_sched_share *sh)
{
    uint64_t most = (uint64_t)VMC_SCHED_MAX_CPUS * 100;

    /* in percent of one CPU */
    sh->shares = (uint32_t)number(r, o, "shares", 1, VMC_SCHED_MAX_SHARES, 1000);
    sh->reservation = number(r, o, "reservation", 0, most, 0) * (VMC_SCHED_WHOLE_CPU / 100);
    sh->limit = number(r, o, "limit", 1, most, 0) * (VMC_SCHED_WHOLE_CPU / 100);
}

static uint32_t find_pool(struct reader *r, const struct sim_scenario *sc, json_object *o,
                          const char *key, uint32_t upto)
{
    char name[32];

    text(r, o, key, name, sizeof(name), "");
    if (name[0] == '\0')
        return SIM_NONE;
    for (uint32_t i = 0; i < upto; i++)
        if (strcmp(sc->pools[i].name, name) == 0)
            return i;
    complain(r, key, "names no pool that stands before it");
    return SIM_NONE;
}

static void read_pools(struct reader *r, struct sim_scenario *sc, json_object *list)
{
    size_t n = json_object_array_length(list);

    if (n > MAX_POOLS) {
        complain(r, "pools", "too many");
        return;
    }
    sc->pools = calloc(n + 1, sizeof(*sc->pools));
    if (sc->pools == NULL)
        complain(r, "pools", "out of memory");
    for (size_t i = 0; i < n && !r->bad; i++) {
        static const char *const known[] = {"name", "parent", "shares", "reservation", "limit"};
        json_object *o = json_object_array_get_idx(list, i);
        struct sim_pool *p = &sc->pools[i];
        ONLY_KNOWN(r, o, "pools", known);
        name(r, o, p->name, sizeof(p->name), "pool");
        read_share(r, o, &p->share);
        p->parent = find_pool(r, sc, o, "parent", (uint32_t)i);
        sc->npools++;
    }
}

static void read_guest(struct reader *r, json_object *o, struct sim_guest *g)
{
    static const char *const known[] = {"model", "work_us", "sleep_us", "critical_us"};
    uint64_t most = 10000000;

    ONLY_KNOWN(r, o, "guest", known);
    g->model = choice(r, o, "model", models, 5, SIM_CPU);
    uint64_t work = g->model == SIM_INTERACTIVE ? 200 : g->model == SIM_BURSTY ? 50000 : 50;
    uint64_t sleep = g->model == SIM_BURSTY ? 50000 : 5000;
    g->work = number(r, o, "work_us", 1, most, work) * 1000;
    g->sleep = number(r, o, "sleep_us", 1, most, sleep) * 1000;
    g->critical = number(r, o, "critical_us", 1, most, 5) * 1000;
}

static void read_vms(struct reader *r, struct sim_scenario *sc, json_object *list)
{
    size_t n = json_object_array_length(list);

    sc->vms = calloc(MAX_VMS, sizeof(*sc->vms));
    if (sc->vms == NULL)
        complain(r, "vms", "out of memory");
    for (size_t i = 0; i < n && !r->bad; i++) {
        json_object *o = json_object_array_get_idx(list, i);
        static const char *const known[] = {"name",         "count",    "vcpus",      "pool",
                                            "coscheduling", "vcpu_cap", "start_ms",   "guest",
                                            "shares",       "limit",    "reservation"};
        json_object *guest;
        struct sim_vm_spec v = {0};
        ONLY_KNOWN(r, o, "vms", known);
        uint64_t count = number(r, o, "count", 1, MAX_VMS, 1);
        char stem[20];
        name(r, o, stem, sizeof(stem), "vm");
        v.vcpus = (uint32_t)number(r, o, "vcpus", 1, VMC_SCHED_MAX_WIDTH, 1);
        v.coscheduling = choice(r, o, "coscheduling", modes, 3, VMC_SCHED_CO_RELAXED);
        v.vcpu_cap = (uint32_t)number(r, o, "vcpu_cap", 1, 100, 0) * (VMC_SCHED_WHOLE_CPU / 100);
        v.start_ns = number(r, o, "start_ms", 0, 1000000, 0) * 1000000;
        read_share(r, o, &v.share);
        v.pool = find_pool(r, sc, o, "pool", sc->npools);
        if (json_object_object_get_ex(o, "guest", &guest))
            read_guest(r, guest, &v.guest);
        if (sc->nvms + count > MAX_VMS) {
            complain(r, "vms", "too many");
            return;
        }
        for (uint64_t k = 0; k < count; k++) {
            snprintf(v.name, sizeof(v.name), count == 1 ? "%s" : "%s-%u", stem, (unsigned)k);
            sc->vms[sc->nvms++] = v;
        }
    }
}

int sim_scenario_load(struct sim_scenario *sc, const char *path)
{
    static const char *const known[] = {
        "cpus",    "threads_per_core", "quantum_us", "duration_ms", "seed", "switch_ns",
        "kick_ns", "late_ns",          "ple_us",     "pools",       "vms",  "comment"};
    struct reader r = {.path = path};
    json_object *list;
    json_object *root = json_object_from_file(path);

    memset(sc, 0, sizeof(*sc));
    if (root == NULL || !json_object_is_type(root, json_type_object)) {
        /* json-c's own sentence names the file, and ends with a newline. */
        if (root == NULL)
            fprintf(stderr, "vmcore sim sched: %s", json_util_get_last_err());
        else
            fprintf(stderr, "vmcore sim sched: %s: not a JSON object\n", path);
        json_object_put(root);
        return -1;
    }
    ONLY_KNOWN(&r, root, "scenario", known);
    sc->cpus = (uint32_t)number(&r, root, "cpus", 1, VMC_SCHED_MAX_CPUS, 2);
    sc->threads_per_core = (uint32_t)number(&r, root, "threads_per_core", 1, 16, 1);
    if (sc->cpus % sc->threads_per_core != 0)
        complain(&r, "threads_per_core", "does not divide cpus");
    sc->quantum_ns = number(&r, root, "quantum_us", VMC_SCHED_MIN_QUANTUM / 1000,
                            VMC_SCHED_MAX_QUANTUM / 1000, 2000) *
                     1000;
    sc->duration_ns = number(&r, root, "duration_ms", 1, 100000000, 10000) * 1000000;
    sc->seed = number(&r, root, "seed", 0, INT64_MAX, 1);
    sc->switch_ns = number(&r, root, "switch_ns", 0, 1000000, 2000);
    sc->kick_ns = number(&r, root, "kick_ns", 0, 1000000, 2000);
    sc->late_ns = number(&r, root, "late_ns", 0, 1000000, 0);
    sc->ple_ns = number(&r, root, "ple_us", 0, 1000000, 0) * 1000;
    if ((list = list_of(&r, root, "pools")) != NULL)
        read_pools(&r, sc, list);
    if ((list = list_of(&r, root, "vms")) != NULL)
        read_vms(&r, sc, list);
    if (sc->nvms == 0)
        complain(&r, "vms", "there are none");
    json_object_put(root);
    if (r.bad)
        sim_scenario_free(sc);
    return r.bad ? -1 : 0;
}

void sim_scenario_free(struct sim_scenario *sc)
{
    free(sc->pools);
    free(sc->vms);
    memset(sc, 0, sizeof(*sc));
}

/* ---- random ---------------------------------------------------------------------------------- */

static uint64_t next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint32_t between(uint64_t *st, uint32_t lo, uint32_t hi)
{
    return lo + (uint32_t)(next(st) % (hi - lo + 1));
}

/* 1, 2, 5, 10 ... 10000: what people set */
static uint32_t some_shares(uint64_t *st)
{
    static const uint32_t steps[] = {1, 2, 5};
    uint32_t v = steps[next(st) % 3];

    for (uint32_t k = between(st, 0, 3); k > 0; k--)
        v *= 10;
    return v;
}

static void random_pools(struct sim_scenario *sc, uint64_t *st, uint64_t *room)
{
    uint32_t n = between(st, 0, 4);

    sc->pools = calloc(n + 1, sizeof(*sc->pools));
    for (uint32_t i = 0; i < n; i++) {
        struct sim_pool *p = &sc->pools[i];
        snprintf(p->name, sizeof(p->name), "pool%u", i);
        p->parent = i > 0 && next(st) % 2 == 0 ? between(st, 0, i - 1) : SIM_NONE;
        p->share.shares = some_shares(st);
        if (p->parent == SIM_NONE && next(st) % 3 == 0) {
            p->share.reservation = *room / between(st, 2, 6);
            *room -= p->share.reservation;
        }
        if (next(st) % 4 == 0)
            p->share.limit =
                p->share.reservation + (uint64_t)between(st, 50, 100 * sc->cpus) * 10000;
    }
    sc->npools = n;
}

static void random_guest(struct sim_guest *g, uint64_t *st, uint32_t vcpus)
{
    uint32_t r = between(st, 0, 9);

    if (r < 5) {
        g->model = SIM_CPU;
    } else if (r < 7) {
        g->model = SIM_INTERACTIVE;
        g->work = (uint64_t)between(st, 20, 1000) * 1000;
        g->sleep = (uint64_t)between(st, 500, 20000) * 1000;
    } else if (r < 8) {
        g->model = SIM_BURSTY;
        g->work = (uint64_t)between(st, 2, 50) * 1000000;
        g->sleep = (uint64_t)between(st, 2, 50) * 1000000;
    } else {
        g->model = vcpus > 1 && r == 8 ? SIM_BARRIER : vcpus > 1 ? SIM_SPINLOCK : SIM_CPU;
        g->work = (uint64_t)between(st, 20, 200) * 1000;
        g->critical = (uint64_t)between(st, 2, 20) * 1000;
    }
}

/* Small hosts, 1 to 8 times overcommitted, with every kind of guest and of entitlement. */
void sim_scenario_random(struct sim_scenario *sc, uint64_t seed)
{
    uint64_t st = seed * 2 + 1;
    static const uint32_t hosts[] = {1, 2, 2, 3, 4, 4, 6, 8, 12, 16};

    memset(sc, 0, sizeof(*sc));
    sc->cpus = hosts[next(&st) % 10];
    sc->threads_per_core = 1;
    sc->quantum_ns = 2000000;
    sc->seed = seed;
    sc->switch_ns = 2000;
    sc->kick_ns = 2000;
    sc->ple_ns = next(&st) % 2 == 0 ? 25000 : 0;
    uint64_t room = (uint64_t)sc->cpus * VMC_SCHED_WHOLE_CPU;
    random_pools(sc, &st, &room);
    uint32_t want = sc->cpus * between(&st, 1, 8);
    sc->vms = calloc(want + 1, sizeof(*sc->vms));
    for (uint32_t have = 0; have < want || sc->nvms == 0;) {
        struct sim_vm_spec *v = &sc->vms[sc->nvms++];
        uint32_t most = sc->cpus < 8 ? sc->cpus : 8;
        snprintf(v->name, sizeof(v->name), "vm%u", sc->nvms - 1);
        v->vcpus = next(&st) % 2 == 0 ? 1 : between(&st, 1, most);
        v->coscheduling = between(&st, VMC_SCHED_CO_NONE, VMC_SCHED_CO_RELAXED);
        v->share.shares = some_shares(&st);
        v->pool =
            sc->npools != 0 && next(&st) % 2 == 0 ? between(&st, 0, sc->npools - 1) : SIM_NONE;
        if (v->pool == SIM_NONE && next(&st) % 5 == 0) {
            v->share.reservation = room / between(&st, 4, 10);
            uint64_t top = (uint64_t)v->vcpus * VMC_SCHED_WHOLE_CPU;
            v->share.reservation = v->share.reservation < top ? v->share.reservation : top;
            room -= v->share.reservation;
        }
        if (next(&st) % 6 == 0)
            v->share.limit =
                v->share.reservation + (uint64_t)between(&st, 5, 100 * v->vcpus) * 10000;
        if (next(&st) % 10 == 0)
            v->vcpu_cap = between(&st, 10, 100) * 10000;
        random_guest(&v->guest, &st, v->vcpus);
        v->start_ns = next(&st) % 4 == 0 ? (uint64_t)between(&st, 0, 50) * 1000000 : 0;
        have += v->vcpus;
    }
}
