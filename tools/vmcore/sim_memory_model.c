/* SPDX-License-Identifier: BSD-2-Clause */
#include "sim_memory.h"

#define SECOND_US 1000000u

static uint64_t min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* What a compressed page still takes. */
static uint64_t pack_cost(const struct sim_mem *s, uint64_t packed)
{
    return (packed * (100 - s->pack_percent) + 99) / 100;
}

static uint64_t consumed(const struct sim_mem *s, const struct sim_mem_vm *v)
{
    return v->resident + pack_cost(s, v->packed);
}

uint64_t sim_mem_used(const struct sim_mem *s)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < s->vms; i++)
        sum += consumed(s, &s->vm[i]);
    return sum;
}

void sim_mem_start(struct sim_mem *s)
{
    vmc_reclaim_defaults(&s->thresholds, s->host);
    s->state = VMC_RECLAIM_HIGH;
    s->turns = (struct vmc_turns){0};
    s->now = 0;
    s->next = 0;
    for (unsigned i = 0; i < s->vms; i++)
        vmc_active_init(&s->vm[i].estimate, 0, 0);
}

/* ---- the guests --------------------------------------------------------------------------------
 */

static void events(struct sim_mem *s)
{
    for (; s->next < s->events && s->event[s->next].second <= s->now; s->next++) {
        struct sim_mem_vm *v = &s->vm[s->event[s->next].vm];
        v->active = s->event[s->next].active;
        v->allocated = s->event[s->next].allocated;
        /* Freed: the guest's own pages first, in memory, then elsewhere. */
        uint64_t room = v->allocated;
        v->resident = min64(v->resident, room);
        room -= v->resident;
        v->packed = min64(v->packed, room);
        v->swapped = min64(v->swapped, room - v->packed);
    }
}

/* What a guest may use: the balloon holds the rest, at the expense of pages that are idle. */
static uint64_t usable(const struct sim_mem_vm *v)
{
    return less(v->configured, v->balloon);
}

/*
 * A guest brings in what it uses and has not got, as fast as it faults, as its time allows and as
 * there is memory. What was never used before comes last, and costs no fault.
 */
static void touch(struct sim_mem *s, struct sim_mem_vm *v)
{
    uint64_t want = less(min64(v->active, usable(v)), v->resident);
    uint64_t fresh = less(min64(v->allocated, usable(v)), v->resident + v->packed + v->swapped);
    uint64_t room = less(s->host, sim_mem_used(s));
    uint64_t old = min64(want, v->packed + v->swapped);
    uint64_t in = min64(min64(old, s->fault_rate), room);
    uint64_t unpacked = min64(in, v->packed);
    uint64_t left = less(SECOND_US, unpacked * s->unpack_us);
    uint64_t read = s->swap_in_us != 0 ? min64(in - unpacked, left / s->swap_in_us) : in - unpacked;

    v->packed -= unpacked;
    v->swapped -= read;
    v->resident += unpacked + read;
    room = less(s->host, sim_mem_used(s));
    v->resident += min64(fresh, room);
    v->wait_us = min64(unpacked * s->unpack_us + read * s->swap_in_us, SECOND_US);
    v->ran_ns += SECOND_US * 1000ull;
}

static void second(struct sim_mem *s, struct sim_mem_vm *v)
{
    v->rested = v->rests;
    v->wait_us = 0;
    if (!v->rests)
        touch(s, v);
}

/*
 * How much of the second it got something done: what the waits for pages left of it; and when pages
 * are missing in the end, since others took them, it waits for as many each time that it goes
 * through its working set.
 */
static void account(const struct sim_mem *s, struct sim_mem_vm *v)
{
    uint64_t pass_us = SECOND_US / s->passes;

    v->missing = less(v->active, v->resident);
    v->missing_sum += v->missing;
    v->rest_sum += v->rested;
    uint64_t again_us = v->missing * (v->swapped != 0 ? s->swap_in_us : s->unpack_us);
    v->work_us = v->rested ? 0 : (SECOND_US - v->wait_us) * pass_us / (pass_us + again_us);
    v->work_sum_us += v->work_us;
}

/* ---- the host ----------------------------------------------------------------------------------
 */

static void move_balloon(struct sim_mem *s, struct sim_mem_vm *v)
{
    if (v->asked < v->balloon) {
        v->balloon -= min64(v->balloon - v->asked, s->balloon_rate);
        return;
    }
    v->balloon += min64(v->asked - v->balloon, s->balloon_rate);
    /* The guest gives what is free first, then resident pages; what is elsewhere it drops too. */
    uint64_t over = less(v->resident + v->packed + v->swapped, usable(v));
    uint64_t part = min64(over, v->resident);
    v->resident -= part;
    over -= part;
    part = min64(over, v->packed);
    v->packed -= part;
    v->swapped -= min64(over - part, v->swapped);
}

/* Of a guest, as vmcore host. */
static uint64_t most_balloon(const struct sim_mem_vm *v)
{
    return v->configured * VMC_BALLOON_MOST_PERCENT / 100;
}

static void by_force(struct sim_mem *s, struct sim_mem_vm *v, const struct vmc_reclaim_action *a)
{
    uint64_t idle = a->hot ? v->resident : less(v->resident, v->active);
    /* A compressed page gains pack_percent of a page. */
    uint64_t pack =
        s->pack_percent != 0 ? (a->pack * 100 + s->pack_percent - 1) / s->pack_percent : 0;
    pack = min64(pack, idle);
    v->resident -= pack;
    v->packed += pack;
    idle -= pack;
    uint64_t out = min64(a->swap, idle);
    v->resident -= out;
    v->swapped += out;
    s->host_us += pack * s->pack_us + out * s->swap_out_us;
    if (a->swap > out && a->hot) { /* what is compressed has to go as well */
        uint64_t more = min64(a->swap - out, v->packed);
        v->packed -= more;
        v->swapped += more;
        s->host_us += more * s->swap_out_us;
    }
}

/* Who runs in the next second. */
static void take_turns(struct sim_mem *s, const struct vmc_balloon_vm *vm)
{
    struct vmc_turns_vm who[SIM_MEM_MAX_VMS];

    for (unsigned i = 0; i < s->vms; i++) {
        const struct sim_mem_vm *v = &s->vm[i];
        who[i] = (struct vmc_turns_vm){.footprint = v->resident + v->packed + v->swapped,
                                       .ran_ns = v->ran_ns,
                                       .rests = v->rests};
    }
    vmc_turns_look(&s->turns, (s->now + 1) * SECOND_US * 1000, s->state, vm, who, s->vms,
                   s->host - s->thresholds.below[VMC_RECLAIM_CLEAR]);
    for (unsigned i = 0; i < s->vms; i++)
        s->vm[i].rests = who[i].rests;
}

static void plan(struct sim_mem *s)
{
    uint64_t keep = s->thresholds.below[VMC_RECLAIM_CLEAR];
    struct vmc_balloon_vm vm[SIM_MEM_MAX_VMS];

    for (unsigned i = 0; i < s->vms; i++) {
        const struct sim_mem_vm *v = &s->vm[i];
        vm[i] = (struct vmc_balloon_vm){.configured = v->configured,
                                        .reservation = v->reservation,
                                        .limit = v->limit,
                                        .shares = v->shares,
                                        .active = vmc_active_pages(&v->estimate, v->configured)};
    }
    if (s->with_turns)
        take_turns(s, vm);
    for (unsigned i = 0; i < s->vms; i++)
        if (s->vm[i].rests)
            vm[i].limit = vm[i].reservation != 0 ? vm[i].reservation : 1;
    if (vmc_balloon_plan(vm, s->vms, s->host - keep, s->tax, NULL) == VMC_EINVAL)
        return;
    for (unsigned i = 0; i < s->vms; i++)
        s->vm[i].target = vm[i].target;
}

static void reclaim(struct sim_mem *s)
{
    struct vmc_reclaim_vm vm[SIM_MEM_MAX_VMS];
    struct vmc_reclaim_action todo[SIM_MEM_MAX_VMS];
    uint64_t keep = s->thresholds.below[VMC_RECLAIM_CLEAR] + s->thresholds.hysteresis;
    uint64_t free = less(s->host, sim_mem_used(s));

    for (unsigned i = 0; i < s->vms; i++) {
        const struct sim_mem_vm *v = &s->vm[i];
        vm[i] = (struct vmc_reclaim_vm){.configured = v->configured,
                                        .target = v->target,
                                        .consumed = consumed(s, v),
                                        .ballooned = v->balloon,
                                        .balloon_rate = s->balloon_rate,
                                        .can_swap = true,
                                        .can_pack = s->pack_percent != 0,
                                        .pack_percent = s->pack_percent};
        if (v->has_balloon && v->rests) /* its driver does not run */
            vm[i].balloon_max = v->balloon;
        else if (v->has_balloon)
            vm[i].balloon_max = most_balloon(v);
    }
    s->state = vmc_reclaim_next(&s->thresholds, s->state, free);
    if (vmc_reclaim_choose(s->state, vm, s->vms, less(keep, free), todo) != VMC_OK)
        return;
    for (unsigned i = 0; i < s->vms; i++) {
        s->vm[i].asked = todo[i].balloon_target;
        if (!s->vm[i].rests)
            move_balloon(s, &s->vm[i]);
        if (s->turns.on && !s->vm[i].rests) /* its working set is what the others rest for */
            todo[i].hot = false;
        by_force(s, &s->vm[i], &todo[i]);
    }
}

void sim_mem_step(struct sim_mem *s)
{
    events(s);
    for (unsigned k = 0; k < s->vms; k++) /* another one is the first each time */
        second(s, &s->vm[(k + s->now) % s->vms]);
    for (unsigned i = 0; i < s->vms; i++)
        if (!s->vm[i].rests)
            vmc_active_sample(&s->vm[i].estimate, s->vm[i].configured, s->vm[i].active);
    plan(s);
    reclaim(s);
    for (unsigned i = 0; i < s->vms; i++)
        account(s, &s->vm[i]);
    s->now++;
}

const char *sim_mem_check(const struct sim_mem *s)
{
    uint64_t targets = 0;
    unsigned running = 0;

    for (unsigned i = 0; i < s->vms; i++) {
        const struct sim_mem_vm *v = &s->vm[i];
        targets += v->target;
        running += !v->rests;
        if (v->target < v->reservation)
            return "a target below the reservation";
        if (v->rests && v->target > (v->reservation != 0 ? v->reservation : 1))
            return "a VM at rest with a target above its reservation";
        if (v->target > (v->limit != 0 ? v->limit : v->configured))
            return "a target above the limit";
        if (v->resident + v->packed + v->swapped > v->configured)
            return "a VM with more pages than it was configured with";
        if (v->resident + v->packed + v->swapped > v->allocated)
            return "a VM with pages that it never used";
        if (v->balloon > most_balloon(v))
            return "a balloon that leaves the guest too little";
    }
    if (running == 0)
        return "nobody runs";
    if (targets > s->host)
        return "targets that exceed the host";
    if (sim_mem_used(s) > s->host)
        return "more memory in use than there is";
    return NULL;
}
