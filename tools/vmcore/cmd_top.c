/* SPDX-License-Identifier: BSD-2-Clause */
/* vmcore top: what a host and its VMs do, in the manner of esxtop(1): live, or as CSV. */
#include "ctl_client.h"
#include "top_view.h"
#include "vmcore_cmd.h"

#include <getopt.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WHO "vmcore top"

struct options {
    const char *socket;
    double delay_s;
    unsigned long count; /* samples; 0: no end */
    bool batch;
};

static void usage(FILE *to)
{
    fprintf(to,
            "Usage: vmcore top [OPTION...] SOCKET\n\n"
            "Shows the VMs of a vmcore host. Keys: c processors, m memory, d disks, q leave.\n\n"
            "  -b           batch mode: CSV on standard output\n"
            "  -n COUNT     leave after so many samples\n"
            "  -d SECONDS   time between samples (default 2)\n"
            "Exit status: 0 done, or the host ended; 2 bad arguments; 4 no host.\n");
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    char *end = NULL;
    int c;

    optind = 1;
    while ((c = getopt_long(argc, argv, "bn:d:h", longs, NULL)) != -1) {
        switch (c) {
        case 'b':
            o->batch = true;
            break;
        case 'n':
            o->count = strtoul(optarg, &end, 10);
            if (*end != '\0' || optarg[0] < '0' || optarg[0] > '9' || o->count == 0)
                return EXIT_BAD_ARGS;
            break;
        case 'd':
            o->delay_s = strtod(optarg, &end);
            if (end == optarg || *end != '\0' || !(o->delay_s >= 0.05 && o->delay_s <= 3600))
                return EXIT_BAD_ARGS;
            break;
        case 'h':
            usage(stdout);
            exit(EXIT_OK);
        default:
            return EXIT_BAD_ARGS;
        }
    }
    if (optind + 1 != argc)
        return EXIT_BAD_ARGS;
    o->socket = argv[optind];
    return 0;
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static bool take(struct ctl *ctl, struct top_sample *s)
{
    json_object_put(s->before);
    s->before = s->now;
    s->before_ns = s->now_ns;
    s->now = ctl_call(ctl, "stats", NULL);
    s->now_ns = now_ns();
    return s->now != NULL;
}

/* The first sample has nothing to compare with: rates count from the VMs' start there. */
static int batch(struct ctl *ctl, const struct options *o)
{
    struct top_sample s = {0};
    bool ok = true;

    top_csv_header(stdout);
    for (unsigned long i = 0; ok && (o->count == 0 || i < o->count); i++) {
        if (i != 0)
            (void)poll(NULL, 0, (int)(o->delay_s * 1000));
        ok = take(ctl, &s);
        if (ok)
            top_csv(&s, stdout);
        ok = ok && fflush(stdout) == 0;
    }
    json_object_put(s.before);
    json_object_put(s.now);
    return ok ? EXIT_OK : EXIT_ERROR;
}

static int live(struct ctl *ctl, const struct options *o)
{
    struct top_sample s = {0};
    enum top_page page = TOP_MEMORY;
    bool ok = true;

    const char *why = top_screen_open(o->delay_s);
    if (why != NULL) {
        fprintf(stderr, WHO ": %s (batch mode is -b)\n", why);
        return EXIT_ERROR;
    }
    for (unsigned long i = 0; ok && (o->count == 0 || i < o->count); i++) {
        ok = take(ctl, &s);
        if (ok && !top_screen_show(&s, &page))
            break;
    }
    top_screen_close();
    if (!ok)
        fprintf(stderr, WHO ": the host does not answer any more\n");
    json_object_put(s.before);
    json_object_put(s.now);
    return EXIT_OK; /* the host ended, or the user left */
}

int cmd_top(int argc, char **argv)
{
    struct options o = {.delay_s = 2};
    struct ctl ctl;

    if (parse(argc, argv, &o) != 0) {
        usage(stderr);
        return EXIT_BAD_ARGS;
    }
    if (ctl_open(&ctl, WHO, o.socket) != 0)
        return EXIT_ERROR;
    int rc = o.batch ? batch(&ctl, &o) : live(&ctl, &o);
    ctl_close(&ctl);
    return rc;
}
