/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Load control. When the working sets of all VMs do not fit into memory, every VM that runs takes
 * pages away that another needs at once, and nobody gets anything done. Then VMs take turns: as
 * many as fit run, and the others rest until their turn comes, with their pages compressed or
 * swapped. (P. J. Denning, "The working set model for program behavior", CACM 11(5), 1968: a
 * program runs only while its working set is in memory.)
 *
 * A VM whose pages all fit into what is reserved for it never rests: its memory is not what the
 * others wait for. (Its working set would not do as a measure: that of a VM that mostly waits for
 * pages looks small.)
 *
 * A turn lasts for so much execution that bringing the pages of the next VMs in is a small part of
 * it.
 */
#define _GNU_SOURCE
#include "host.h"

#define MS 1000000ull

#define SHORT_ENTER_NS (1000 * MS) /* of time in HARD and LOW before turns begin */
#define SHORT_MOST_NS  (2000 * MS)
#define SHORT_FADE     4u          /* so many times longer without, and they end */
#define TURN_RUN_NS    (2000 * MS) /* of execution by the VMs of a turn */
#define TURN_MOST_NS   (10000 * MS)
#define TURN_IDLE_NS   (200 * MS) /* nobody ran: the next, please */

static void rest(struct host_vm *vm, bool yes)
{
    if (vm->resting == yes)
        return;
    vm->resting = yes;
    if (yes)
        host_vm_hold(vm, HOST_HELD_TURN);
    else
        host_vm_release(vm, HOST_HELD_TURN);
}

static void everybody_runs(struct host *h)
{
    for (unsigned i = 0; i < h->count; i++)
        if (h->vms[i] != NULL)
            rest(h->vms[i], false);
    h->turns.on = false;
    h->turns.short_ns = 0;
}

/* Pages without which the VM would only wait: its working set, and an eighth for what is new. */
static uint64_t needs(const struct vmc_balloon_vm *v)
{
    uint64_t pages = v->active + v->active / 8;

    if (pages < v->reservation)
        pages = v->reservation;
    return pages < v->configured ? pages : v->configured;
}

/* Does its reservation suffice for all that it has? */
static bool guaranteed(const struct vmc_balloon_vm *v, const struct host_vm *vm)
{
    return v->reservation != 0 && vm->footprint <= v->reservation;
}

/* Execution by those whose turn it is. */
static uint64_t ran(const struct vmc_balloon_vm *vms, struct host_vm **who, unsigned n)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i++)
        if (!who[i]->resting && !guaranteed(&vms[i], who[i]))
            sum += host_vm_ran_ns(who[i]);
    return sum;
}

/*
 * From the VM whose turn it is on, all that fit beside those before them. The working set of a VM
 * that mostly waited for pages looks smaller than it is: while memory stays short, fewer may run.
 */
static void next_turn(struct host *h, uint64_t now, const struct vmc_balloon_vm *vms,
                      struct host_vm **who, unsigned n, uint64_t pages)
{
    struct host_turns *t = &h->turns;
    unsigned first = t->next % n, count = 0, others = 0;
    uint64_t sum = 0;
    bool moved = false;

    for (unsigned i = 0; i < n; i++) {
        if (guaranteed(&vms[i], who[i]))
            sum += vms[i].reservation;
        else
            others++;
    }
    if (!t->on)
        t->most = (others + 1) / 2;
    else if (t->short_ns == SHORT_MOST_NS && t->most > 1)
        t->most--;

    for (unsigned i = 0; i < n; i++) {
        unsigned at = (first + i) % n;
        uint64_t need = needs(&vms[at]);
        if (guaranteed(&vms[at], who[at])) {
            rest(who[at], false);
            continue;
        }
        bool fits = count == 0 || (count < t->most && sum + need <= pages);
        if (fits) {
            sum += need;
            count++;
        }
        rest(who[at], !fits);
        if (!fits && !moved) {
            t->next = at; /* the first who has to wait comes first next time */
            moved = true;
        }
    }
    t->since_ns = t->moved_ns = now;
    t->ran_before = t->ran_seen = ran(vms, who, n);
    h->stats.turns++;
}

static bool over(struct host_turns *t, uint64_t now, uint64_t sum)
{
    if (sum < t->ran_before) /* one of them is guaranteed its memory by now */
        t->ran_before = sum;
    if (sum != t->ran_seen) {
        t->ran_seen = sum;
        t->moved_ns = now;
    }
    return sum - t->ran_before >= TURN_RUN_NS || now - t->since_ns >= TURN_MOST_NS ||
           now - t->moved_ns >= TURN_IDLE_NS;
}

/* How long memory has been short, fading. */
static void note_state(struct host_turns *t, enum vmc_reclaim_state state, uint64_t now)
{
    uint64_t past = t->seen_ns != 0 ? now - t->seen_ns : 0;

    t->seen_ns = now;
    if (state >= VMC_RECLAIM_HARD)
        t->short_ns += past;
    else
        t->short_ns -= past / SHORT_FADE < t->short_ns ? past / SHORT_FADE : t->short_ns;
    if (t->short_ns > SHORT_MOST_NS)
        t->short_ns = SHORT_MOST_NS;
}

void host_turns_look(struct host *h, uint64_t now, const struct vmc_balloon_vm *vms,
                     struct host_vm **who, unsigned n, uint64_t pages)
{
    struct host_turns *t = &h->turns;
    bool loading = false;

    note_state(t, h->state, now);
    for (unsigned i = 0; i < n; i++)
        loading = loading || !who[i]->ready;
    if (n < 2 || loading || (t->on && t->short_ns == 0)) {
        if (t->on)
            everybody_runs(h);
        return;
    }
    if (!t->on && t->short_ns < SHORT_ENTER_NS)
        return;
    if (!t->on || n != t->vms || over(t, now, ran(vms, who, n)))
        next_turn(h, now, vms, who, n, pages);
    for (unsigned i = 0; i < n; i++)
        if (guaranteed(&vms[i], who[i])) /* since the turn began */
            rest(who[i], false);
    t->on = true;
    t->vms = n;
}
