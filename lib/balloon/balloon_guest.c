/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a guest's balloon can be expected to do, from what it did.
 *
 * Threats (tests/unit/balloon/test_guest.c)
 *
 * | what a driver may do                 | what comes of it                                       |
 * |--------------------------------------|--------------------------------------------------------|
 * | say that it has more than there is   | what it says is not used                               |
 * | say that it can spare nothing        | its pages are compressed and swapped by the host       |
 * | say that it can spare all            | at most VMC_BALLOON_MOST_PERCENT is asked for          |
 * | never inflate                        | it is stuck: the host takes pages by itself            |
 * | never deflate                        | it does without memory that it could have              |
 * | take pages back without being told   | it is left in peace for a while, the host takes pages  |
 */
#include "base/base_int.h"
#include <vmcore/balloon.h>

#define SPARE_SHIFT 6 /* a guest keeps 1/64 of its memory beyond what it needs */
#define RATE_SHIFT  2 /* weight of a new look in the rate */
#define SECOND      1000000000ull

static uint64_t most_of(uint64_t configured)
{
    return configured / 100 * VMC_BALLOON_MOST_PERCENT +
           configured % 100 * VMC_BALLOON_MOST_PERCENT / 100;
}

void vmc_balloon_guest_init(struct vmc_balloon_guest *g, uint64_t configured)
{
    configured = VMCI_MIN(configured, VMC_BALLOON_MAX_PAGES);
    *g = (struct vmc_balloon_guest){.configured = configured, .most = most_of(configured)};
}

/* What is in the balloon and what could join it without making the guest swap. */
static void believe(struct vmc_balloon_guest *g, const struct vmc_balloon_seen *seen)
{
    g->most = most_of(g->configured);
    if (!seen->said)
        return;
    if (seen->total > g->configured || seen->available > seen->total) {
        g->broken++;
        return;
    }
    uint64_t keep = g->configured >> SPARE_SHIFT;
    uint64_t spare = seen->available > keep ? seen->available - keep : 0;
    g->most = VMCI_MIN(g->most, g->held + spare);
}

static void measure(struct vmc_balloon_guest *g, uint64_t held, uint64_t now_ns)
{
    uint64_t ns = now_ns > g->seen_ns ? now_ns - g->seen_ns : 1;
    uint64_t got = VMCI_MIN(held > g->held ? held - g->held : 0, VMC_BALLOON_MAX_PAGES);
    uint64_t rate = got * (SECOND / 1000) / VMCI_MAX(ns / 1000, 1ull); /* got is below 2^41 */

    g->rate = g->rate - (g->rate >> RATE_SHIFT) + (rate >> RATE_SHIFT);
}

void vmc_balloon_guest_look(struct vmc_balloon_guest *g, const struct vmc_balloon_seen *seen,
                            uint64_t now_ns)
{
    uint64_t held = VMCI_MIN(seen->held, g->configured);

    if (!g->driver || !seen->driver) { /* a driver begins, or there is none */
        g->driver = seen->driver;
        g->rate = 0;
        g->stuck = false;
        g->moved_ns = now_ns;
        g->calm_ns = 0;
    } else {
        if (held < g->held && g->target >= g->held)
            g->calm_ns = now_ns + VMC_BALLOON_CALM_NS;
        if (held < g->target && held > g->held)
            measure(g, held, now_ns);
        if (held >= g->target || held > g->held)
            g->moved_ns = now_ns;
        g->stuck = now_ns - g->moved_ns >= VMC_BALLOON_STUCK_NS;
    }
    g->held = held;
    g->seen_ns = now_ns;
    believe(g, seen);
    if (now_ns < g->calm_ns)
        g->most = VMCI_MIN(g->most, held);
}

uint64_t vmc_balloon_guest_ask(struct vmc_balloon_guest *g, uint64_t pages, uint64_t now_ns)
{
    uint64_t before = g->target;

    g->target = g->driver ? VMCI_MIN(pages, g->most) : 0;
    /* The time to deliver begins with the first question. */
    if (g->held >= before && g->target > g->held)
        g->moved_ns = now_ns;
    return g->target;
}

void vmc_balloon_guest_report(const struct vmc_balloon_guest *g, struct vmc_reclaim_vm *out)
{
    out->ballooned = g->held;
    out->balloon_max = g->driver ? VMCI_MAX(g->most, g->held) : 0;
    out->balloon_rate = g->rate;
    out->balloon_stuck = g->stuck;
}
