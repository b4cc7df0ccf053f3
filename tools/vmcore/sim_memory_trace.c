/* SPDX-License-Identifier: BSD-2-Clause */
#include "sim_memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MIB    (1u << 24) /* 16 TiB */
#define MAX_US     1000000u
#define NAME_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

/* ---- reading -----------------------------------------------------------------------------------
 */

static bool add_event(struct sim_mem *s, const struct sim_mem_event *e)
{
    if (s->events == SIM_MEM_MAX_EVENTS)
        return false;
    if ((s->events & (s->events - 1)) == 0) {
        size_t room = s->events == 0 ? 1 : 2 * s->events;
        struct sim_mem_event *more = realloc(s->event, room * sizeof(*more));
        if (more == NULL)
            return false;
        s->event = more;
    }
    s->event[s->events++] = *e;
    return true;
}

/* Nothing else on the line, but for a comment? */
static bool ends(const char *rest)
{
    rest += strspn(rest, " \t\r\n");
    return *rest == '\0' || *rest == '#';
}

static const char *read_vm(struct sim_mem *s, const char *line)
{
    struct sim_mem_vm v = {0};
    unsigned long long conf, reservation, limit;
    unsigned shares, balloon;
    int end;

    if (s->vms == SIM_MEM_MAX_VMS)
        return "too many VMs";
    if (sscanf(line, "vm %31s %llu %u %llu %llu %u%n", v.name, &conf, &shares, &reservation, &limit,
               &balloon, &end) != 6 ||
        !ends(line + end))
        return "expected: vm NAME MIB SHARES RESERVATION LIMIT BALLOON";
    if (conf == 0 || conf > MAX_MIB || shares == 0 || shares > VMC_BALLOON_MAX_SHARES ||
        limit > conf || reservation > (limit != 0 ? limit : conf) || balloon > 1)
        return "a value that makes no sense";
    if (v.name[strspn(v.name, NAME_CHARS)] != '\0') /* they go into CSV and SVG as they are */
        return "a name is made of letters, digits, '.', '_' and '-'";
    for (unsigned i = 0; i < s->vms; i++)
        if (strcmp(s->vm[i].name, v.name) == 0)
            return "two VMs of this name";
    v.configured = conf * SIM_MEM_MIB;
    v.reservation = reservation * SIM_MEM_MIB;
    v.limit = limit * SIM_MEM_MIB;
    v.shares = shares;
    v.has_balloon = balloon != 0;
    s->vm[s->vms++] = v;
    return NULL;
}

static const char *read_event(struct sim_mem *s, const char *line)
{
    unsigned long long second, active, allocated;
    struct sim_mem_event e = {0};
    char name[32];
    int end;

    if (sscanf(line, "at %llu %31s %llu %llu%n", &second, name, &active, &allocated, &end) != 4 ||
        !ends(line + end))
        return "expected: at SECOND VM ACTIVE ALLOCATED";
    while (e.vm < s->vms && strcmp(s->vm[e.vm].name, name) != 0)
        e.vm++;
    if (e.vm == s->vms)
        return "no VM of this name";
    if (second > SIM_MEM_MAX_SECOND || (s->events > 0 && second < s->event[s->events - 1].second))
        return "seconds must ascend, to 1000000";
    if (active > allocated || allocated > s->vm[e.vm].configured / SIM_MEM_MIB)
        return "active must be at most allocated, and that at most what the VM has";
    e.second = second;
    e.active = active * SIM_MEM_MIB;
    e.allocated = allocated * SIM_MEM_MIB;
    return add_event(s, &e) ? NULL : "too many events";
}

static const char *read_line(struct sim_mem *s, const char *line)
{
    unsigned long long v;
    char word[32];
    int end;

    if (sscanf(line, "%31s", word) != 1 || word[0] == '#')
        return NULL;
    if (strcmp(word, "vm") == 0)
        return read_vm(s, line);
    if (strcmp(word, "at") == 0)
        return read_event(s, line);
    if (sscanf(line, "%*s %llu%n", &v, &end) != 1 || v > MAX_MIB || !ends(line + end))
        return "expected a number";
    if (strcmp(word, "host") == 0)
        s->host = v * SIM_MEM_MIB;
    else if (strcmp(word, "tax") == 0 && v <= VMC_BALLOON_MAX_TAX)
        s->tax = (unsigned)v;
    else if (strcmp(word, "seconds") == 0 && v != 0 && v <= SIM_MEM_MAX_SECOND)
        s->seconds = v;
    else if (strcmp(word, "balloon_rate") == 0)
        s->balloon_rate = v * SIM_MEM_MIB;
    else if (strcmp(word, "fault_rate") == 0)
        s->fault_rate = v * SIM_MEM_MIB;
    else if (strcmp(word, "turns") == 0 && v <= 1)
        s->with_turns = v != 0;
    else if (strcmp(word, "passes") == 0 && v != 0 && v <= 10000)
        s->passes = v;
    else if (strcmp(word, "unpack_us") == 0 && v <= MAX_US)
        s->unpack_us = v;
    else if (strcmp(word, "swap_in_us") == 0 && v <= MAX_US)
        s->swap_in_us = v;
    else if (strcmp(word, "pack_us") == 0 && v <= MAX_US)
        s->pack_us = v;
    else if (strcmp(word, "swap_out_us") == 0 && v <= MAX_US)
        s->swap_out_us = v;
    else if (strcmp(word, "pack_percent") == 0 && v <= 95)
        s->pack_percent = (unsigned)v;
    else
        return "not known, or out of range";
    return NULL;
}

static void defaults(struct sim_mem *s)
{
    *s = (struct sim_mem){.tax = 75,
                          .pack_percent = 60,
                          .seconds = 300,
                          .balloon_rate = 64 * SIM_MEM_MIB,
                          .fault_rate = 32 * SIM_MEM_MIB,
                          .passes = 10,
                          .with_turns = true,
                          .unpack_us = 6,
                          .swap_in_us = 100,
                          .pack_us = 25,
                          .swap_out_us = 10};
}

static const char *check(const struct sim_mem *s)
{
    uint64_t reserved = 0;

    for (unsigned i = 0; i < s->vms; i++)
        reserved += s->vm[i].reservation;
    if (s->vms == 0)
        return "no VMs";
    if (s->host < 16 * SIM_MEM_MIB)
        return "host must be given, and be 16 or more";
    /* Less the minimum that is to be free, 6 % at most. */
    return reserved > s->host - s->host / 16 ? "reservations do not fit" : NULL;
}

int sim_mem_load(struct sim_mem *s, const char *path)
{
    FILE *f = fopen(path, "re");
    const char *wrong = NULL;
    char line[512];
    unsigned n = 0;

    defaults(s);
    if (f == NULL) {
        fprintf(stderr, "vmcore sim memory: %s: %s\n", path, strerror(errno));
        return -1;
    }
    while (wrong == NULL && fgets(line, sizeof(line), f) != NULL) {
        n++;
        wrong = strchr(line, '\n') == NULL && !feof(f) ? "too long a line" : read_line(s, line);
    }
    if (wrong == NULL && ferror(f))
        wrong = "cannot be read";
    fclose(f);
    if (wrong == NULL)
        wrong = check(s);
    if (wrong == NULL)
        return 0;
    fprintf(stderr, "vmcore sim memory: %s:%u: %s\n", path, n, wrong);
    sim_mem_free(s);
    return -1;
}

void sim_mem_free(struct sim_mem *s)
{
    free(s->event);
    s->event = NULL;
    s->events = 0;
}

/* ---- making ------------------------------------------------------------------------------------
 */

/* splitmix64 */
static uint64_t draw(uint64_t *state, uint64_t below)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (z ^ z >> 31) % below;
}

bool sim_mem_random(struct sim_mem *s, uint64_t seed, unsigned vms)
{
    uint64_t total = 0, reserved = 0, rng = seed;

    defaults(s);
    for (s->vms = 0; s->vms < vms; s->vms++) {
        struct sim_mem_vm *v = &s->vm[s->vms];
        uint64_t mib = 64 + 64 * draw(&rng, 16);
        snprintf(v->name, sizeof(v->name), "vm%u", s->vms + 1);
        v->configured = mib * SIM_MEM_MIB;
        v->shares = (uint32_t)(1 + draw(&rng, 4)) * 500;
        v->reservation = draw(&rng, 3) == 0 ? draw(&rng, mib / 4) * SIM_MEM_MIB : 0;
        v->limit = draw(&rng, 5) == 0 ? (mib / 2 + draw(&rng, mib / 2)) * SIM_MEM_MIB : 0;
        v->has_balloon = draw(&rng, 4) != 0;
        total += v->configured;
        reserved += v->reservation;
    }
    s->host = total * (30 + draw(&rng, 70)) / 100 / SIM_MEM_MIB * SIM_MEM_MIB;
    if (s->host < 2 * reserved)
        s->host = 2 * reserved;
    s->tax = (unsigned)draw(&rng, VMC_BALLOON_MAX_TAX + 1);
    for (uint64_t t = 0; t < s->seconds; t += 1 + draw(&rng, 10)) {
        struct sim_mem_event e = {.second = t, .vm = (unsigned)draw(&rng, vms)};
        uint64_t mib = s->vm[e.vm].configured / SIM_MEM_MIB;
        e.allocated = (1 + draw(&rng, mib)) * SIM_MEM_MIB;
        e.active = draw(&rng, e.allocated / SIM_MEM_MIB + 1) * SIM_MEM_MIB;
        if (!add_event(s, &e))
            return false;
    }
    return true;
}

bool sim_mem_generate(uint64_t seed, unsigned vms, FILE *f)
{
    struct sim_mem s;

    bool made = sim_mem_random(&s, seed, vms);
    if (made) {
        fprintf(f, "# vmcore sim memory --generate --seed %llu --vms %u\nhost %llu\ntax %u\n",
                (unsigned long long)seed, vms, (unsigned long long)s.host / SIM_MEM_MIB, s.tax);
        for (unsigned i = 0; i < s.vms; i++)
            fprintf(f, "vm %s %llu %u %llu %llu %d\n", s.vm[i].name,
                    (unsigned long long)s.vm[i].configured / SIM_MEM_MIB, s.vm[i].shares,
                    (unsigned long long)s.vm[i].reservation / SIM_MEM_MIB,
                    (unsigned long long)s.vm[i].limit / SIM_MEM_MIB, s.vm[i].has_balloon);
        for (size_t i = 0; i < s.events; i++)
            fprintf(f, "at %llu %s %llu %llu\n", (unsigned long long)s.event[i].second,
                    s.vm[s.event[i].vm].name, (unsigned long long)s.event[i].active / SIM_MEM_MIB,
                    (unsigned long long)s.event[i].allocated / SIM_MEM_MIB);
    }
    sim_mem_free(&s);
    return made;
}
