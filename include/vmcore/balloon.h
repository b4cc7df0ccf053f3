/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Memory policy: how much memory each VM should have, when the host has to take some back, and by
 * which means.
 *
 * Allocation is by shares with reservations, limits and a tax on idle memory, computed as the fixed
 * point of min-funding revocation (Waldspurger, OSDI 2002, section 5): the price that a VM pays
 * for its pages, shares divided by tax-weighted pages, is equal for all VMs that are at none of
 * their bounds. Everything here is pure: no clock, no allocation, no state but what is passed in.
 *
 * Threads: [any] as long as nobody changes what is passed.
 */
#ifndef VMCORE_BALLOON_H
#define VMCORE_BALLOON_H

#include <vmcore/status.h>

VMC_BEGIN_DECLS

/* ---- allocation ------------------------------------------------------------------------------ */

#define VMC_BALLOON_MAX_SHARES 1000000u
#define VMC_BALLOON_MAX_PAGES  (1ull << 40) /**< of one VM, and of the host */
#define VMC_BALLOON_MAX_TAX    99u          /**< percent; the customary rate is 75 */
#define VMC_BALLOON_MAX_VMS    (1u << 20)

/** One VM as the policy sees it. All sizes are in 4 KiB pages. */
struct vmc_balloon_vm {
    uint64_t reservation; /**< guaranteed, at most limit */
    uint64_t limit;       /**< never more than this; 0: configured */
    uint64_t configured;  /**< what the guest believes it has */
    uint64_t overhead;    /**< taken by the VM besides guest memory; always granted, never taxed */
    uint64_t active;      /**< estimated working set; more than configured counts as configured */
    uint32_t shares;      /**< 1 to VMC_BALLOON_MAX_SHARES */
    uint32_t pad;
    uint64_t target;      /**< result: guest memory the VM should have */
    uint64_t scratch;     /**< used while planning */
};

/**
 * Divide host_pages among n VMs; sets target of each. The sum of targets and overheads is
 * host_pages, or less when all VMs are at their limits. Targets are the exact fixed point, rounded
 * down to pages; pages left over by rounding go one each to the largest fractions, then to the
 * lower index. O(n) passes over the array, without allocation: a fraction of a millisecond for
 * 10,000 VMs.
 *
 * VMC_EINVAL: a member out of range, *err says whose. VMC_ENOSPC: reservations and overheads exceed
 * host_pages; targets are then the reservations scaled down to what there is.
 */
VMC_API VMC_MUST_CHECK int vmc_balloon_plan(struct vmc_balloon_vm *vms, size_t n,
                                            uint64_t host_pages, uint32_t idle_tax_percent,
                                            struct vmc_error *err);

/** What a VM needs to be powered on. */
struct vmc_balloon_admission {
    uint64_t host_pages;  /**< memory for VMs */
    uint64_t swap_pages;  /**< room in swap files for all VMs together */
};

/**
 * May vms[n - 1] join the others? Its reservation and overhead must fit beside those of the others,
 * and configured minus reservation must fit into the swap space beside theirs, so that every page
 * always has a place. VMC_ENOSPC says in *err how much is missing; VMC_EINVAL.
 */
VMC_API VMC_MUST_CHECK int vmc_balloon_admit(const struct vmc_balloon_vm *vms, size_t n,
                                             const struct vmc_balloon_admission *host,
                                             struct vmc_error *err);

/* ---- working sets ---------------------------------------------------------------------------- */

#define VMC_ACTIVE_ONE (1u << 24) /**< the whole VM, in the unit of estimates */

/**
 * Working-set estimate from samples: the largest of a slow moving average, a fast one, and a
 * version of the fast one that includes the period under way, so that growth is seen at once and
 * shrinking only after a while. Caller memory.
 */
struct vmc_active {
    uint32_t slow, fast, current; /**< fractions of VMC_ACTIVE_ONE */
    uint32_t slow_shift;          /**< weight of a new sample: 1 / 2^shift */
    uint32_t fast_shift;
    uint32_t primed;
};

/** slow and fast: about how many periods each average remembers, 1 to 1024; 0: 16 and 2. */
VMC_API void vmc_active_init(struct vmc_active *a, uint32_t slow, uint32_t fast);
/** A period ended: of sampled pages, touched were accessed. sampled 0 is ignored. */
VMC_API void vmc_active_sample(struct vmc_active *a, uint64_t sampled, uint64_t touched);
/** The period under way: of sampled pages, touched were accessed so far. */
VMC_API void vmc_active_peek(struct vmc_active *a, uint64_t sampled, uint64_t touched);
/** Estimate for a VM of so many pages. */
VMC_API uint64_t vmc_active_pages(const struct vmc_active *a, uint64_t pages);
/**
 * For providers without accessed bits: pages to sample this period, count distinct ones of pages,
 * ascending, chosen by seed. Returns how many were written to out. Revoke them, and see at the
 * end of the period which were asked for again.
 */
VMC_API size_t vmc_active_pick(uint64_t pages, uint64_t seed, uint64_t *out, size_t count);

/* ---- a guest's balloon ----------------------------------------------------------------------- */

/** What a balloon device shows of its driver. The guest's word is marked as such. */
struct vmc_balloon_seen {
    bool driver;          /**< there is one, and it finished its set-up */
    bool said;            /**< total and available are valid */
    uint8_t pad[6];
    uint64_t held;        /**< pages in the balloon, counted by the device */
    uint64_t total;       /**< pages the guest says it has */
    uint64_t available;   /**< pages it says it could use without swapping */
};

/**
 * One VM's balloon over time: how much the guest can be asked for, how fast it delivers, and
 * whether it does at all. Nothing the guest says can do more than make its own balloon smaller or
 * larger. Caller memory; one thread at a time.
 */
struct vmc_balloon_guest {
    uint64_t configured;
    uint64_t target;     /**< last asked for */
    uint64_t held;       /**< last seen */
    uint64_t most;       /**< largest balloon to ask for, by what the guest said */
    uint64_t rate;       /**< pages a second that it delivered lately */
    uint64_t seen_ns;    /**< time of the last look */
    uint64_t moved_ns;   /**< time it last came nearer to its target, or was there */
    uint64_t calm_ns;    /**< until then it is not asked for more: it took pages back unasked */
    uint64_t broken;     /**< times its statistics made no sense */
    bool driver, stuck;
    uint8_t pad[6];
};

#define VMC_BALLOON_MOST_PERCENT 65u            /**< of a VM's memory that its balloon may hold */
#define VMC_BALLOON_STUCK_NS     5000000000ull  /**< without progress: it does not deliver */
#define VMC_BALLOON_CALM_NS      30000000000ull /**< of peace after a guest ran out of memory */

/** Begin with a guest of so many 4 KiB pages (VMC_BALLOON_MAX_PAGES at most count). [one] */
VMC_API void vmc_balloon_guest_init(struct vmc_balloon_guest *g, uint64_t configured);
/** Look at the balloon, about once a second. now_ns: of a clock that does not go back. */
VMC_API void vmc_balloon_guest_look(struct vmc_balloon_guest *g,
                                    const struct vmc_balloon_seen *seen, uint64_t now_ns);
/** The target to give the device for a balloon of pages: clamped to what can be asked. */
VMC_API uint64_t vmc_balloon_guest_ask(struct vmc_balloon_guest *g, uint64_t pages,
                                       uint64_t now_ns);

/* ---- host state ------------------------------------------------------------------------------ */

/** How short of memory the host is, from not at all to desperately. */
enum vmc_reclaim_state {
    VMC_RECLAIM_HIGH,  /**< enough: nothing is taken; large pages stay */
    VMC_RECLAIM_CLEAR, /**< large pages are broken so that sharing can find more */
    VMC_RECLAIM_SOFT,  /**< balloons */
    VMC_RECLAIM_HARD,  /**< and compression and swap by the host */
    VMC_RECLAIM_LOW,   /**< and VMs above their targets wait */
    VMC_RECLAIM_STATES
};

/** Below which number of free pages each state begins. Filled by vmc_reclaim_defaults. */
struct vmc_reclaim_config {
    uint64_t below[VMC_RECLAIM_STATES]; /**< [HIGH] is ignored; descending from CLEAR to LOW */
    uint64_t hysteresis; /**< pages above a state's threshold at which it is left again */
};

/**
 * Thresholds for a host: a minimum of free memory on a sliding scale (6 % of the first 4 GiB, 4 %
 * up to 12, 2 % up to 28, 1 % of the rest), of which CLEAR begins at 100 %, SOFT at 64 %, HARD at
 * 32 % and LOW at 16 %; hysteresis is an eighth of that minimum.
 */
VMC_API void vmc_reclaim_defaults(struct vmc_reclaim_config *cfg, uint64_t host_pages);
/** The state that follows from the present one and the number of free pages. */
VMC_API enum vmc_reclaim_state vmc_reclaim_next(const struct vmc_reclaim_config *cfg,
                                                enum vmc_reclaim_state now, uint64_t free_pages);

/* ---- means ----------------------------------------------------------------------------------- */

/** A VM and what it takes to get memory from it. Rates are 0 while unknown. */
struct vmc_reclaim_vm {
    uint64_t configured, target; /**< as in struct vmc_balloon_vm */
    uint64_t consumed;      /**< frames it holds now, its part of shared ones included */
    uint64_t ballooned;     /**< pages in its balloon */
    uint64_t balloon_max;   /**< most its guest lets go: 0 without a driver */
    uint64_t balloon_rate;  /**< pages a second that the driver gave lately */
    bool balloon_stuck;     /**< it was asked and did not deliver for a while */
    bool can_swap, can_pack, can_share;
    uint8_t pad[4];
    uint32_t pack_percent;  /**< of a compressed page's memory is freed: estimate, 0 to 100 */
    uint32_t pad2;
};

/** What to do with one VM until the next decision. */
struct vmc_reclaim_action {
    uint64_t balloon_target; /**< pages the balloon should hold */
    uint64_t pack;           /**< frames to gain by compression */
    uint64_t swap;           /**< frames to gain by swapping */
    bool scan;               /**< look for pages to share */
    bool break_large;        /**< large pages may be split */
    bool block;              /**< its vCPUs wait until it is at its target */
    bool hot;                /**< cold pages do not suffice: take recently used ones as well */
    uint8_t pad[4];
};

/** Fill in the members of *out that are about the balloon. */
VMC_API void vmc_balloon_guest_report(const struct vmc_balloon_guest *g, struct vmc_reclaim_vm *out);

/**
 * Choose means for every VM, cheapest first: sharing always, balloons from SOFT (the guest knows
 * best what it can spare), compression then swap from HARD or when a balloon is stuck, and waiting
 * in LOW. need: frames that the host should gain in all; more is asked of VMs far above target.
 */
VMC_API VMC_MUST_CHECK int vmc_reclaim_choose(enum vmc_reclaim_state state,
                                              const struct vmc_reclaim_vm *vms, size_t n,
                                              uint64_t need, struct vmc_reclaim_action *out);

/* ---- turns ----------------------------------------------------------------------------------- */

/** What is to be known of a VM beside struct vmc_balloon_vm. */
struct vmc_turns_vm {
    uint64_t footprint; /**< pages that it has, in memory or elsewhere */
    uint64_t ran_ns;    /**< execution so far, which may include waiting for pages */
    bool rests;         /**< does it? Changed by vmc_turns_look */
    uint8_t pad[7];
};

/**
 * Load control: who runs while the working sets do not all fit (P. J. Denning, "The working set
 * model for program behavior", CACM 11(5), 1968). Zero it to begin. Caller memory; one thread at a
 * time.
 */
struct vmc_turns {
    uint64_t count; /**< turns so far */
    bool on;
    uint8_t pad[3];
    uint32_t next, vms, most;      /**< who begins the next turn; how many there are; may run */
    uint64_t seen_ns, short_ns;    /**< the last look; how long memory has been short */
    uint64_t since_ns, moved_ns;   /**< the turn began; somebody was last seen to run */
    uint64_t ran_before, ran_seen; /**< execution of those whose turn it is: then, and last */
};

/**
 * Look at the host, at least several times a second. Once state has been HARD or LOW for a second,
 * as many VMs as fit into pages (by vms[].active) run for two seconds of execution, and the others
 * rest; VMs whose footprint is within their reservation always run. Turns end when memory has not
 * been short for a while. n: of vms and who, the same VMs in the same order each time, or turns
 * begin anew.
 */
VMC_API void vmc_turns_look(struct vmc_turns *t, uint64_t now_ns, enum vmc_reclaim_state state,
                            const struct vmc_balloon_vm *vms, struct vmc_turns_vm *who, size_t n,
                            uint64_t pages);
/** Nobody rests any more. */
VMC_API void vmc_turns_end(struct vmc_turns *t, struct vmc_turns_vm *who, size_t n);

VMC_END_DECLS

#endif
