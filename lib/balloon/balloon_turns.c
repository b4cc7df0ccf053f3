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
#include "base/base_int.h"
#include <vmcore/balloon.h>

#define MS 1000000ull

#define SHORT_ENTER_NS (1000 * MS) /* of time in HARD and LOW before turns begin */
#define SHORT_MOST_NS  (2000 * MS)
#define SHORT_FADE     4u          /* so many times longer without, and they end */
#define TURN_RUN_NS    (2000 * MS) /* of execution by the VMs of a turn */
#define TURN_MOST_NS   (10000 * MS)
#define TURN_IDLE_NS   (200 * MS) /* nobody ran: the next, please */

/* Pages without which the VM would only wait: its working set, and an eighth for what is new. */
static uint64_t needs(const struct vmc_balloon_vm *v)
{
    uint64_t pages = VMCI_MAX(v->active + v->active / 8, v->reservation);

    return VMCI_MIN(pages, v->configured);
}

/* Does its reservation suffice for all that it has? */
static bool guaranteed(const struct vmc_balloon_vm *v, const struct vmc_turns_vm *w)
{
    return v->reservation != 0 && w->footprint <= v->reservation;
}

/* Execution by those whose turn it is. */
static uint64_t ran(const struct vmc_balloon_vm *vms, const struct vmc_turns_vm *who, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        if (!who[i].rests && !guaranteed(&vms[i], &who[i]))
            sum += who[i].ran_ns;
    return sum;
}

/* What the guaranteed ones take; how many others there are. */
static uint64_t set_aside(const struct vmc_balloon_vm *vms, const struct vmc_turns_vm *who,
                          size_t n, uint32_t *others)
{
    uint64_t sum = 0;

    *others = 0;
    for (size_t i = 0; i < n; i++) {
        if (guaranteed(&vms[i], &who[i]))
            sum += vms[i].reservation;
        else
            ++*others;
    }
    return sum;
}

/*
 * From the VM whose turn it is on, all that fit beside those before them. The working set of a VM
 * that mostly waited for pages looks smaller than it is: while memory stays short, fewer may run.
 */
static void next_turn(struct vmc_turns *t, uint64_t now, const struct vmc_balloon_vm *vms,
                      struct vmc_turns_vm *who, size_t n, uint64_t pages)
{
    uint32_t first = t->next % (uint32_t)n, count = 0, others;
    uint64_t sum = set_aside(vms, who, n, &others);
    bool moved = false;

    if (!t->on)
        t->most = (others + 1) / 2;
    else if (t->short_ns == SHORT_MOST_NS && t->most > 1)
        t->most--;
    for (size_t i = 0; i < n; i++) {
        uint32_t at = (uint32_t)((first + i) % n);
        uint64_t need = needs(&vms[at]);
        bool runs = guaranteed(&vms[at], &who[at]);
        if (!runs && (count == 0 || (count < t->most && sum + need <= pages))) {
            runs = true;
            sum += need;
            count++;
        }
        who[at].rests = !runs;
        if (!runs && !moved) {
            t->next = at; /* the first who has to wait comes first next time */
            moved = true;
        }
    }
    t->since_ns = t->moved_ns = now;
    t->ran_before = t->ran_seen = ran(vms, who, n);
    t->count++;
}

static bool over(struct vmc_turns *t, uint64_t now, uint64_t sum)
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
static void note_state(struct vmc_turns *t, enum vmc_reclaim_state state, uint64_t now)
{
    uint64_t past = t->seen_ns != 0 ? now - t->seen_ns : 0;

    t->seen_ns = now;
    if (state >= VMC_RECLAIM_HARD)
        t->short_ns += past;
    else
        t->short_ns -= VMCI_MIN(past / SHORT_FADE, t->short_ns);
    t->short_ns = VMCI_MIN(t->short_ns, SHORT_MOST_NS);
}

void vmc_turns_end(struct vmc_turns *t, struct vmc_turns_vm *who, size_t n)
{
    for (size_t i = 0; i < n; i++)
        who[i].rests = false;
    if (t->on)
        t->short_ns = 0;
    t->on = false;
}

void vmc_turns_look(struct vmc_turns *t, uint64_t now_ns, enum vmc_reclaim_state state,
                    const struct vmc_balloon_vm *vms, struct vmc_turns_vm *who, size_t n,
                    uint64_t pages)
{
    note_state(t, state, now_ns);
    if (n < 2 || (t->on && t->short_ns == 0)) {
        vmc_turns_end(t, who, n);
        return;
    }
    if (!t->on && t->short_ns < SHORT_ENTER_NS)
        return;
    if (!t->on || n != t->vms || over(t, now_ns, ran(vms, who, n)))
        next_turn(t, now_ns, vms, who, n, pages);
    for (size_t i = 0; i < n; i++)
        if (guaranteed(&vms[i], &who[i])) /* since the turn began */
            who[i].rests = false;
    t->on = true;
    t->vms = (uint32_t)n;
}
