/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The policy thread: samples working sets, computes targets, and moves memory by the means that the
 * host's state calls for. Everything it decides comes from vmcore/balloon.h; here is only when.
 *
 * Nothing here touches guest memory, which could mean waiting for this very thread.
 */
#define _GNU_SOURCE
#include "host.h"

#include "vmcore_cmd.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define MS 1000000ull

/* Between looks, and between samples, while memory is plenty and while it is not. */
#define CALM_NS        (50 * MS)
#define BUSY_NS        (5 * MS)
#define BUSY_SAMPLE_NS (200 * MS)
/* What a VM has to have run for, to be sampled that early: pages of those who wait stay in use. */
#define SAMPLE_RUN_NS (50 * MS)
/* How long sharing may take in one look. */
#define SCAN_NS      (4 * MS)
#define BUSY_SCAN_NS (8 * MS)
/*
 * Pages of a VM compressed in one look: some milliseconds. Not by the clock, which runs on while
 * others have the processor: a busy host would free nothing.
 */
#define PACK_PAGES     512u
#define SWAP_BUDGET    8192u /* pages looked at for a VM to swap out */
#define COMPACT_BUDGET 2048u
#define LOST_TRIES     3u  /* to bring a page back */
#define PACK_GUESS     60u /* percent saved by compression, before it was measured */

static uint64_t now_ns(const struct host *h)
{
    return h->pf.now_ns(h->pf.ctx);
}

/* ---- what VMs are like -------------------------------------------------------------------------
 */

static void describe_one(const struct host_vm *vm, const struct host_share *mem,
                         struct vmc_balloon_vm *out)
{
    *out = (struct vmc_balloon_vm){
        .configured = host_vm_pages(vm),
        .reservation = mem->reservation / VMC_PAGE_SIZE,
        .limit = mem->limit / VMC_PAGE_SIZE,
        .active = vmc_active_pages(&vm->active, host_vm_pages(vm)),
        .shares = mem->shares,
    };
    if (out->limit > out->configured)
        out->limit = out->configured;
}

/* The VMs that count, in order; returns how many. */
static unsigned describe(struct host *h, struct vmc_balloon_vm *out, struct host_vm **who)
{
    unsigned n = 0;

    for (unsigned i = 0; i < h->count; i++) {
        struct host_vm *vm = h->vms[i];
        if (vm == NULL || !vm->managed || vm->ended)
            continue;
        describe_one(vm, &vm->mem, &out[n]);
        who[n++] = vm;
    }
    return n;
}

/* What VMs may have: the rest is what should be free. */
static uint64_t plannable(const struct host *h)
{
    uint64_t keep = h->thresholds.below[VMC_RECLAIM_CLEAR];

    return h->frames > 2 * keep ? h->frames - keep : h->frames / 2;
}

int host_policy_fits(const struct host *h, const struct vmc_balloon_vm *vms, unsigned n,
                     uint64_t swap, struct vmc_error *err)
{
    struct vmc_balloon_admission host = {.host_pages = plannable(h), .swap_pages = swap};
    uint64_t reserved = 0;

    /* Memory that nobody reserved is as good a place as swap. */
    for (unsigned i = 0; i < n; i++)
        reserved += vms[i].reservation + vms[i].overhead;
    if (host.host_pages > reserved)
        host.swap_pages += host.host_pages - reserved;
    return vmc_balloon_admit(vms, n, &host, err);
}

int host_policy_admit(struct host *h, const struct host_vm *vm, const struct host_share *mem,
                      struct vmc_error *err)
{
    struct vmc_balloon_vm vms[HOST_MAX_VMS];
    struct host_vm *who[HOST_MAX_VMS];
    unsigned n = describe(h, vms, who);
    uint64_t swap = 0;

    for (unsigned i = 0; i < n; i++) {
        if (who[i] == vm)
            describe_one(vm, mem, &vms[i]);
        if (who[i]->swap != NULL)
            swap += vms[i].configured;
    }
    return host_policy_fits(h, vms, n, swap, err);
}

/* ---- samples -----------------------------------------------------------------------------------
 */

static void end_period(struct host *h, struct host_vm *vm)
{
    vmc_active_sample(&vm->active, host_vm_pages(vm), vm->sampled);
    vm->sampled = 0;
    if (vm->ready) {
        struct vmc_balloon_seen seen;
        run_io_balloon_look(&vm->run, &seen);
        vmc_balloon_guest_look(&vm->balloon, &seen, now_ns(h));
    }
    h->stats.samples++;
}

/* A VM that rests is sampled as often as can be: what it has been using may go. */
static void sample_one(struct host_vm *vm, bool full)
{
    uint64_t ran = host_vm_ran_ns(vm), accessed;

    if (!full && !vm->ended && !vm->resting && ran - vm->sampled_at_ns < SAMPLE_RUN_NS)
        return;
    if (vmc_space_sample(vm->run.space, &accessed) != VMC_OK)
        return;
    vm->sampled_at_ns = ran;
    if (accessed > vm->sampled && !vm->resting)
        vm->sampled = accessed;
}

/*
 * Shorter samples, which free what waits for pointers to go, see fewer pages in use: the largest of
 * a period counts.
 */
static void sample(struct host *h, uint64_t now)
{
    bool full = now >= h->period_end_ns;

    if (!full && (h->state < VMC_RECLAIM_SOFT || now < h->sample_due_ns))
        return;
    for (unsigned i = 0; i < h->count; i++) {
        struct host_vm *vm = h->vms[i];
        if (vm == NULL || !vm->managed)
            continue;
        sample_one(vm, full);
        if (full && !vm->ended && !vm->resting)
            end_period(h, vm);
    }
    h->sample_due_ns = now + BUSY_SAMPLE_NS;
    if (full)
        h->period_end_ns = now + h->cfg.period_ms * MS;
}

/* ---- means -------------------------------------------------------------------------------------
 */

static uint32_t pack_percent(const struct vmc_pool_stats *st)
{
    uint64_t full = st->packed_objects * VMC_PAGE_SIZE;

    if (st->packed_objects < 64 || st->packed_bytes >= full)
        return PACK_GUESS;
    return (uint32_t)(100 - st->packed_bytes * 100 / full);
}

/*
 * A vCPU asks again at once for a page that cannot be read; so when it has failed some times, it is
 * not going to work. The VM has lost memory and ends; the others go on.
 */
static void look_for_loss(struct host_vm *vm, const struct vmc_space_stats *st)
{
    bool swap = st->swap_lost >= LOST_TRIES;

    if (vm->lost || vm->ended || (!swap && st->unpack_lost < LOST_TRIES))
        return;
    vm->lost = true;
    fprintf(stderr, "vmcore host: VM '%s': page %llu of its memory is lost: %s\n", vm->run.opt.name,
            (unsigned long long)st->lost_page,
            swap ? "it cannot be read back from the swap file"
                 : "what it was compressed to does not decode");
    vmc_space_abandon(vm->run.space);
    host_vm_fail(vm);
}

static void means(struct host *h, struct host_vm *vm, const struct vmc_pool_stats *pool,
                  struct vmc_reclaim_vm *out)
{
    struct vmc_space_stats st;

    vmc_space_stats(vm->run.space, &st);
    look_for_loss(vm, &st);
    vm->footprint = st.pages - st.state[VMC_PAGE_ZERO] - st.state[VMC_PAGE_BALLOON];
    *out = (struct vmc_reclaim_vm){
        .configured = host_vm_pages(vm),
        .target = vm->target,
        .consumed = st.consumed_bytes / VMC_PAGE_SIZE,
        .can_swap = vm->swap != NULL && !st.swap_paused,
        .can_pack = !h->cfg.no_compression,
        .can_share = !h->cfg.no_sharing,
        .pack_percent = pack_percent(pool),
    };
    vmc_balloon_guest_report(&vm->balloon, out);
    if (vm->resting) /* its driver does not run */
        out->balloon_max = out->ballooned;
}

static void hold_or_release(struct host *h, struct host_vm *vm, bool block)
{
    if (block == vm->blocked)
        return;
    vm->blocked = block;
    if (block) {
        h->stats.blocked++;
        host_vm_hold(vm, HOST_HELD_POLICY);
    } else {
        host_vm_release(vm, HOST_HELD_POLICY);
    }
}

static void act(struct host *h, struct host_vm *vm, const struct vmc_reclaim_action *a)
{
    struct vmc_share_budget budget = {.pages = PACK_PAGES};
    struct vmc_share_pack_result packed = {0};
    uint64_t swapped = 0;

    vm->action = *a;
    if (vm->ready) {
        uint64_t target = vmc_balloon_guest_ask(&vm->balloon, a->balloon_target, now_ns(h));
        if (vm->balloon_set != UINT64_MAX)
            target = vm->balloon_set;
        run_io_balloon_target(&vm->run, target);
    }
    if (a->pack != 0 &&
        vmc_share_pack(h->share, vm->run.space, &budget, a->pack, &packed) == VMC_OK) {
        h->stats.packed += packed.packed;
        h->stats.deltas += packed.deltas;
    }
    /* Swap takes what compression could not. */
    uint64_t rest = a->pack > packed.freed ? a->pack - packed.freed : 0;
    if (!a->hot && !packed.pass_done && rest > packed.incompressible)
        rest = packed.incompressible;
    uint64_t want = a->swap + rest;
    if (vm->swap != NULL && want != 0 &&
        vmc_space_swap_out(vm->run.space, want, SWAP_BUDGET, a->hot, &swapped) == VMC_OK)
        h->stats.swapped += swapped;
    hold_or_release(h, vm, a->block);
}

/* Shared contents are nobody's in particular: those that nobody touches are compressed last. */
static void pack_shared(struct host *h, uint64_t want)
{
    struct vmc_share_budget budget = {.pages = PACK_PAGES};
    struct vmc_share_pack_result packed;

    if (want == 0 || h->state < VMC_RECLAIM_HARD || h->cfg.no_compression ||
        vmc_share_pack_shared(h->share, &budget, want, &packed) != VMC_OK)
        return;
    h->stats.packed += packed.packed;
    h->stats.deltas += packed.deltas;
}

static void reclaim(struct host *h, struct vmc_balloon_vm *vms, struct host_vm **who, unsigned n)
{
    struct vmc_reclaim_vm mean[HOST_MAX_VMS];
    struct vmc_reclaim_action todo[HOST_MAX_VMS];
    struct vmc_pool_stats pool;
    uint64_t keep = h->thresholds.below[VMC_RECLAIM_CLEAR] + h->thresholds.hysteresis;

    vmc_pool_stats(h->pool, &pool);
    for (unsigned i = 0; i < n; i++) {
        who[i]->target = vms[i].target;
        means(h, who[i], &pool, &mean[i]);
    }
    /* What is in limbo comes by itself. */
    uint64_t coming = pool.free + pool.limbo_frames;
    uint64_t need = coming < keep ? keep - coming : 0;
    if (vmc_reclaim_choose(h->state, mean, n, need, todo) != VMC_OK)
        return;
    for (unsigned i = 0; i < n; i++) {
        if (h->turns.on && !who[i]->resting) { /* its working set is what the others rest for */
            todo[i].hot = false;
            todo[i].block = false;
        }
        act(h, who[i], &todo[i]);
    }
    uint64_t now_free = vmc_pool_free(h->pool);
    pack_shared(h, now_free < keep ? keep - now_free : 0);
    if (h->state >= VMC_RECLAIM_SOFT)
        h->stats.compacted += vmc_pool_compact(h->pool, COMPACT_BUDGET);
}

static void scan(struct host *h)
{
    struct vmc_share_budget b = {.pages = h->scan_budget,
                                 .ns = h->state >= VMC_RECLAIM_SOFT ? BUSY_SCAN_NS : SCAN_NS};
    struct vmc_share_result r;

    if (h->cfg.no_sharing || vmc_share_scan(h->share, &b, &r) != VMC_OK)
        return;
    h->scan_budget = vmc_share_next_budget(h->share, h->scan_budget, &r);
    h->stats.scanned += r.visited;
    h->stats.zeroed += r.zeroed;
    h->stats.merged += r.merged;
}

/*
 * Frames that are in use and that no VM is charged with: gaps in the compressed store, contents
 * that nobody refers to any more. VMs have to make do without them.
 */
static uint64_t charged_to_nobody(struct host *h, struct host_vm **who, unsigned n)
{
    struct vmc_pool_stats pool;
    uint64_t charged = 0;

    vmc_pool_stats(h->pool, &pool);
    for (unsigned i = 0; i < n; i++) {
        struct vmc_space_stats st;
        vmc_space_stats(who[i]->run.space, &st);
        charged += st.consumed_bytes / VMC_PAGE_SIZE;
    }
    uint64_t used = pool.frames - pool.free - pool.limbo_frames;
    return used > charged ? used - charged : 0;
}

static uint64_t to_divide(struct host *h, struct host_vm **who, unsigned n)
{
    uint64_t most = plannable(h), lost = charged_to_nobody(h, who, n);

    return lost < most / 2 ? most - lost : most / 2;
}

/* ---- the thread --------------------------------------------------------------------------------
 */

static void look(struct host *h)
{
    struct vmc_balloon_vm vms[HOST_MAX_VMS];
    struct host_vm *who[HOST_MAX_VMS];
    uint64_t now = now_ns(h);

    for (unsigned i = 0; i < h->count; i++)
        if (h->vms[i] != NULL && h->vms[i]->managed)
            vmc_space_poll(h->vms[i]->run.space);
    enum vmc_reclaim_state next =
        vmc_reclaim_next(&h->thresholds, h->state, vmc_pool_free(h->pool));
    if (next != h->state)
        h->stats.entered[next]++;
    h->state = next;
    sample(h, now);
    unsigned n = describe(h, vms, who);
    uint64_t pages = to_divide(h, who, n);
    host_turns_look(h, now, vms, who, n, pages);
    for (unsigned i = 0; i < n; i++)
        if (who[i]->resting)
            vms[i].limit = vms[i].reservation != 0 ? vms[i].reservation : 1;
    /* VMC_ENOSPC: cannot be while admission is kept, and the targets say what to do then. */
    if (n != 0 && vmc_balloon_plan(vms, n, pages, h->idle_tax, NULL) != VMC_EINVAL)
        reclaim(h, vms, who, n);
    scan(h);
    (void)vmc_pool_trim(h->pool, h->thresholds.below[VMC_RECLAIM_CLEAR]);
}

static void *policy_main(void *arg)
{
    struct host *h = arg;

    pthread_setname_np(pthread_self(), "policy");
    pthread_mutex_lock(&h->lock);
    while (!h->policy_quit) {
        struct timespec until;
        look(h);
        uint64_t at = now_ns(h) + (h->state >= VMC_RECLAIM_SOFT ? BUSY_NS : CALM_NS);
        until.tv_sec = (time_t)(at / 1000000000u);
        until.tv_nsec = (long)(at % 1000000000u);
        pthread_cond_timedwait(&h->changed, &h->lock, &until);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

int host_policy_start(struct host *h)
{
    sigset_t all, old;

    vmc_reclaim_defaults(&h->thresholds, h->frames);
    h->state = VMC_RECLAIM_HIGH;
    h->scan_budget = 256;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    h->policy_runs = pthread_create(&h->policy, NULL, policy_main, h) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (h->policy_runs)
        return 0;
    fprintf(stderr, "vmcore host: cannot start the policy thread\n");
    return EXIT_ERROR;
}

void host_policy_wake(struct host *h)
{
    pthread_cond_signal(&h->changed);
}

void host_policy_stop(struct host *h)
{
    if (!h->policy_runs)
        return;
    pthread_mutex_lock(&h->lock);
    h->policy_quit = true;
    pthread_cond_signal(&h->changed);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->policy, NULL);
    h->policy_runs = false;
}
