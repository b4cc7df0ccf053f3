/* SPDX-License-Identifier: BSD-2-Clause */
/* How short of memory the host is, and which means to use on which VM. */
#include "base/base_int.h"
#include <vmcore/balloon.h>

#define PAGES_PER_GIB (1ull << 18)

/* The sliding scale: of the first so many GiB, that many percent must stay free. */
struct step {
    uint64_t gib;
    uint32_t percent;
};
static const struct step scale[] = {{4, 6}, {8, 4}, {16, 2}, {UINT64_MAX / PAGES_PER_GIB, 1}};

void vmc_reclaim_defaults(struct vmc_reclaim_config *cfg, uint64_t host_pages)
{
    uint64_t left = host_pages, min_free = 0;

    for (unsigned i = 0; i < VMCI_ARRAY_SIZE(scale) && left > 0; i++) {
        uint64_t part = VMCI_MIN(left, scale[i].gib * PAGES_PER_GIB);
        min_free += part / 100 * scale[i].percent + part % 100 * scale[i].percent / 100;
        left -= part;
    }
    *cfg = (struct vmc_reclaim_config){.below = {[VMC_RECLAIM_HIGH] = UINT64_MAX,
                                                 [VMC_RECLAIM_CLEAR] = min_free,
                                                 [VMC_RECLAIM_SOFT] = min_free * 64 / 100,
                                                 [VMC_RECLAIM_HARD] = min_free * 32 / 100,
                                                 [VMC_RECLAIM_LOW] = min_free * 16 / 100},
                                       .hysteresis = min_free / 8};
}

enum vmc_reclaim_state vmc_reclaim_next(const struct vmc_reclaim_config *cfg,
                                        enum vmc_reclaim_state now, uint64_t free_pages)
{
    unsigned state = VMCI_MIN((unsigned)now, (unsigned)VMC_RECLAIM_LOW);

    while (state < VMC_RECLAIM_LOW && free_pages < cfg->below[state + 1])
        state++;
    if (state > (unsigned)now)
        return (enum vmc_reclaim_state)state;
    /* Better only when well clear of the threshold that was passed on the way down. */
    while (state > VMC_RECLAIM_HIGH && free_pages >= cfg->below[state] &&
           free_pages - cfg->below[state] >= cfg->hysteresis)
        state--;
    return (enum vmc_reclaim_state)state;
}

/* ---- means ----------------------------------------------------------------------------------- */

static uint64_t excess(const struct vmc_reclaim_vm *v)
{
    return v->consumed > v->target ? v->consumed - v->target : 0;
}

/* The part of need that falls on one VM, in proportion to what it holds beyond its target. */
static uint64_t part_of(uint64_t need, uint64_t mine, uint64_t total)
{
    if (total == 0)
        return 0;
    need = VMCI_MIN(need, total);
    __extension__ unsigned __int128 p = (unsigned __int128)need * mine + total - 1;
    return (uint64_t)(p / total);
}

/* A balloon that will not deliver its part now: no driver, or it was asked and did not. */
static uint64_t balloon_room(const struct vmc_reclaim_vm *v)
{
    return v->balloon_max > v->ballooned && !v->balloon_stuck ? v->balloon_max - v->ballooned : 0;
}

static void by_force(const struct vmc_reclaim_vm *v, uint64_t part, struct vmc_reclaim_action *a)
{
    if (v->can_pack && v->pack_percent > 0) {
        /* No more than compressing everything would give. */
        a->pack = VMCI_MIN(part, v->consumed / 100 * v->pack_percent);
        part -= a->pack;
    }
    if (v->can_swap)
        a->swap = part;
}

static void choose_one(enum vmc_reclaim_state state, const struct vmc_reclaim_vm *v, uint64_t part,
                       struct vmc_reclaim_action *a)
{
    uint64_t over = excess(v);

    *a = (struct vmc_reclaim_action){.scan = v->can_share, .balloon_target = v->ballooned};
    a->break_large = state >= VMC_RECLAIM_CLEAR;
    if (over == 0) { /* below its target: let it grow there */
        uint64_t back = VMCI_MIN(v->ballooned, v->target - v->consumed);
        a->balloon_target = v->ballooned - back;
        return;
    }
    if (state < VMC_RECLAIM_SOFT)
        return;
    uint64_t room = balloon_room(v);
    uint64_t gentle = VMCI_MIN(VMCI_MAX(part, over), room);
    a->balloon_target = v->ballooned + gentle;
    /* A guest that gives pages at its own pace is waited for in SOFT, and not beyond. */
    if (state >= VMC_RECLAIM_HARD)
        by_force(v, VMCI_MIN(part, over), a);
    else if (part > room)
        by_force(v, VMCI_MIN(part - room, over), a);
    a->block = state >= VMC_RECLAIM_LOW;
    a->hot = state >= VMC_RECLAIM_LOW;
}

int vmc_reclaim_choose(enum vmc_reclaim_state state, const struct vmc_reclaim_vm *vms, size_t n,
                       uint64_t need, struct vmc_reclaim_action *out)
{
    uint64_t total = 0;

    if ((unsigned)state >= VMC_RECLAIM_STATES || n > VMC_BALLOON_MAX_VMS)
        return VMC_EINVAL;
    for (size_t i = 0; i < n; i++) {
        if (vms[i].configured > VMC_BALLOON_MAX_PAGES || vms[i].consumed > VMC_BALLOON_MAX_PAGES ||
            vms[i].pack_percent > 100)
            return VMC_EINVAL;
        total += excess(&vms[i]);
    }
    for (size_t i = 0; i < n; i++)
        choose_one(state, &vms[i], part_of(need, excess(&vms[i]), total), &out[i]);
    return VMC_OK;
}
