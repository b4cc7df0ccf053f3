/* SPDX-License-Identifier: BSD-2-Clause */
/* Turns of VMs whose working sets do not all fit (vmc_turns_look): who is held. */
#define _GNU_SOURCE
#include "host.h"

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

void host_turns_look(struct host *h, uint64_t now, const struct vmc_balloon_vm *vms,
                     struct host_vm **who, unsigned n, uint64_t pages)
{
    struct vmc_turns_vm one[HOST_MAX_VMS];
    bool loading = false;

    for (unsigned i = 0; i < n; i++) {
        loading = loading || !who[i]->ready;
        one[i] = (struct vmc_turns_vm){.footprint = who[i]->footprint,
                                       .ran_ns = host_vm_ran_ns(who[i]),
                                       .rests = who[i]->resting};
    }
    vmc_turns_look(&h->turns, now, h->state, vms, one, n, pages);
    if (loading)
        vmc_turns_end(&h->turns, one, n);
    for (unsigned i = 0; i < n; i++)
        rest(who[i], one[i].rests);
    for (unsigned i = 0; i < h->count && !h->turns.on; i++)
        if (h->vms[i] != NULL)
            rest(h->vms[i], false); /* those that have ended, too */
    h->stats.turns = h->turns.count;
}
