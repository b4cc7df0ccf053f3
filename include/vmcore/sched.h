/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * CPU scheduling: which virtual CPU runs on which physical CPU, and for how long.
 *
 * Time is cut into frames of an eighth of a quantum. While one frame is executed, vmc_sched_plan
 * lays out the next: every runnable vCPU that is due gets, inside the frame, exactly the CPU time
 * that an ideal fluid server would have given it, and the vCPUs of one VM get theirs at the same
 * moments.
 * vmc_sched_pick only walks the plan of its own CPU: it takes no lock and touches no other CPU.
 * docs/scheduling.md states and proves the bounds.
 *
 * The scheduler never asks for the time and starts no thread: the embedder passes the time, in
 * nanoseconds of any monotonic clock, and calls
 *
 *   - vmc_sched_pick on a CPU whenever it is free or the slice it was given has ended,
 *   - vmc_sched_plan when pick says VMC_SCHED_PLAN_DUE (on any CPU, outside interrupt context),
 *   - vmc_sched_block when the running vCPU halts, vmc_sched_wake when it has work again.
 *
 * An entity is known by a small number. Threads: [any], [irq] (also safe in interrupt context),
 * [cpu] (only on the CPU, or the worker thread, with that number; safe in interrupt context).
 * A vCPU's state is changed only by atomic operations, so [cpu] calls on different CPUs,
 * vmc_sched_wake and vmc_sched_plan may all run at once.
 */
#ifndef VMCORE_SCHED_H
#define VMCORE_SCHED_H

#include <vmcore/platform.h>

VMC_BEGIN_DECLS

struct vmc_sched;

#define VMC_SCHED_NONE        UINT32_MAX  /**< no entity, no CPU */
#define VMC_SCHED_ROOT        0u          /**< the group that holds everything */
#define VMC_SCHED_MAX_CPUS    1024u
#define VMC_SCHED_MAX_SHARES  1000000u
#define VMC_SCHED_MAX_WIDTH   64u         /**< vCPUs of one VM */
#define VMC_SCHED_MAX_DEPTH   16u         /**< nesting of groups */
#define VMC_SCHED_WHOLE_CPU   1000000u    /**< one CPU, in the unit of reservations and limits */
#define VMC_SCHED_MIN_QUANTUM 400000u     /**< ns */
#define VMC_SCHED_MAX_QUANTUM 60000000u   /**< ns */

/** Where a physical CPU sits; neighbours share more. Numbers are arbitrary identifiers. */
struct vmc_sched_cpu_topo {
    uint32_t core; /**< hardware threads with the same core share it */
    uint32_t llc;  /**< CPUs below one last-level cache */
    uint32_t node; /**< NUMA node */
};

struct vmc_sched_config {
    uint32_t size;        /**< sizeof(struct vmc_sched_config) */
    uint32_t flags;       /**< must be 0 */
    uint32_t cpus;        /**< physical CPUs, numbered from 0; all on line at first */
    uint32_t max_groups;  /**< resource pools, besides the root */
    uint32_t max_vms;
    uint32_t max_vcpus;   /**< of all VMs together */
    uint64_t quantum_ns;  /**< 0: 3 ms; with more than 256 CPUs, 3 ms for every 128 */
    uint64_t start_ns;    /**< the time at which frame 0 starts; later times only */
    uint64_t costop_ns;   /**< skew at which a leading sibling is stopped; 0: one frame */
    uint64_t costart_ns;  /**< skew below which it starts again; 0: half of costop_ns */
    uint32_t trace_events; /**< size of each CPU's trace ring, a power of two; 0: no trace */
    /** cpus entries, copied; NULL: every CPU is a core of one cache and node. */
    const struct vmc_sched_cpu_topo *topo;
};

/** Create a scheduler. *pf is borrowed until destroy. VMC_EINVAL, VMC_ENOMEM. [any] */
VMC_API VMC_MUST_CHECK int vmc_sched_create(const struct vmc_platform *pf,
                                            const struct vmc_sched_config *cfg,
                                            struct vmc_sched **out, struct vmc_error *err);
/** Destroy; nobody may be inside another call. NULL is fine. */
VMC_API void vmc_sched_destroy(struct vmc_sched *s);

/* ---- groups, VMs ----------------------------------------------------------------------------- */

/** What a group or VM is entitled to, relative to its siblings in the same parent. */
struct vmc_sched_share {
    uint32_t shares;      /**< 1 to VMC_SCHED_MAX_SHARES: proportion in contention */
    uint64_t reservation; /**< guaranteed rate; VMC_SCHED_WHOLE_CPU is one CPU */
    uint64_t limit;       /**< rate never exceeded; 0: none */
};

/** How the vCPUs of a VM are kept together. */
enum vmc_sched_coscheduling {
    VMC_SCHED_CO_NONE,    /**< equal progress per frame, at any moment in it */
    VMC_SCHED_CO_RELAXED, /**< at the same moments where CPUs allow, skew bounded always */
    VMC_SCHED_CO_STRICT,  /**< all runnable siblings or none */
};

struct vmc_sched_vm_config {
    uint32_t size; /**< sizeof(struct vmc_sched_vm_config) */
    uint32_t vcpus;
    uint32_t coscheduling; /**< enum vmc_sched_coscheduling */
    uint32_t vcpu_cap;     /**< most of one CPU that each vCPU may use; 0: all of it */
    struct vmc_sched_share share;
    /** Bit c: may run on CPU c; affinity_words words of 64 bits, copied; NULL: anywhere. */
    const uint64_t *affinity;
    uint32_t affinity_words;
};

/** Make a resource pool below parent. VMC_EINVAL, VMC_ELIMIT, VMC_ENOENT. [any] */
VMC_API VMC_MUST_CHECK int vmc_sched_group_add(struct vmc_sched *s, uint32_t parent,
                                               const struct vmc_sched_share *share,
                                               uint32_t *group, struct vmc_error *err);
/** Remove an empty pool. VMC_EBUSY, VMC_ENOENT. [any] */
VMC_API VMC_MUST_CHECK int vmc_sched_group_remove(struct vmc_sched *s, uint32_t group);
/** Change a pool's share. VMC_EINVAL, VMC_ENOENT, VMC_ENOSPC: reservations do not fit. [any] */
VMC_API VMC_MUST_CHECK int vmc_sched_group_set(struct vmc_sched *s, uint32_t group,
                                               const struct vmc_sched_share *share,
                                               struct vmc_error *err);
/**
 * Add a VM, its vCPUs blocked. Reservations that the parent or the CPUs cannot honour are refused
 * (VMC_ENOSPC). vCPU i of the VM is entity vmc_sched_vcpu(s, vm, i). [any]
 */
VMC_API VMC_MUST_CHECK int vmc_sched_vm_add(struct vmc_sched *s, uint32_t group,
                                            const struct vmc_sched_vm_config *cfg, uint32_t *vm,
                                            struct vmc_error *err);
/**
 * Remove a VM at any moment: pick never returns its vCPUs again. Where one is running
 * (vmc_sched_vcpu_cpu), kick that CPU. The number is reused once none runs. [any]
 */
VMC_API VMC_MUST_CHECK int vmc_sched_vm_remove(struct vmc_sched *s, uint32_t vm);
/** Change a VM's share. VMC_EINVAL, VMC_ENOENT, VMC_ENOSPC: the reservation does not fit. [any] */
VMC_API VMC_MUST_CHECK int vmc_sched_vm_set(struct vmc_sched *s, uint32_t vm,
                                            const struct vmc_sched_share *share,
                                            struct vmc_error *err);
/** Change vmc_sched_vm_config.vcpu_cap. VMC_EINVAL, VMC_ENOENT. [any] */
VMC_API VMC_MUST_CHECK int vmc_sched_vm_set_cap(struct vmc_sched *s, uint32_t vm, uint32_t vcpu_cap,
                                                struct vmc_error *err);
/** Change where a VM may run; NULL: anywhere. [any] */
VMC_API VMC_MUST_CHECK int vmc_sched_vm_set_affinity(struct vmc_sched *s, uint32_t vm,
                                                     const uint64_t *mask, uint32_t words);
/** Entity of vCPU index of a VM; VMC_SCHED_NONE if there is none. [any] */
VMC_API uint32_t vmc_sched_vcpu(const struct vmc_sched *s, uint32_t vm, uint32_t index);
/** The CPU that runs the vCPU now, or VMC_SCHED_NONE. [irq] */
VMC_API uint32_t vmc_sched_vcpu_cpu(const struct vmc_sched *s, uint32_t vcpu);
/** Take a CPU out of or back into use; kick it afterwards. The last one stays (VMC_EBUSY). [any] */
VMC_API VMC_MUST_CHECK int vmc_sched_cpu_set_online(struct vmc_sched *s, uint32_t cpu, bool online);

/* ---- running --------------------------------------------------------------------------------- */

#define VMC_SCHED_PLAN_DUE 1u /**< call vmc_sched_plan soon, outside interrupt context */

/** What pick decided. */
struct vmc_sched_slice {
    uint32_t vcpu;   /**< run this one; VMC_SCHED_NONE: idle */
    uint32_t flags;  /**< VMC_SCHED_PLAN_DUE */
    uint64_t end_ns; /**< pick again at this time; UINT64_MAX: when kicked */
};

/**
 * Charge what ran on this CPU until now_ns and choose what runs next. A clock that goes back is
 * taken as standing still; one that leaps forward charges no more than one frame beyond the slice.
 * No lock; bounded time. [cpu]
 */
VMC_API void vmc_sched_pick(struct vmc_sched *s, uint32_t cpu, uint64_t now_ns,
                            struct vmc_sched_slice *out);
/**
 * Charge what ran until now_ns, less stolen_ns in which the host had taken the CPU away; the vCPU
 * stays current. Call it before pick or block when there was such time. [cpu]
 */
VMC_API void vmc_sched_account(struct vmc_sched *s, uint32_t cpu, uint64_t now_ns,
                               uint64_t stolen_ns);
/**
 * The current vCPU of the CPU has nothing to do (HLT). VMC_EAGAIN: it was woken meanwhile and is
 * still runnable. Call pick next in either case. VMC_ESTATE: none is current. [cpu]
 */
VMC_API VMC_MUST_CHECK int vmc_sched_block(struct vmc_sched *s, uint32_t cpu, uint64_t now_ns);
/**
 * The vCPU has work. *kick_cpu: the CPU to interrupt so that it picks, or VMC_SCHED_NONE.
 * Waking a runnable vCPU is harmless. VMC_ENOENT. [irq]
 */
VMC_API VMC_MUST_CHECK int vmc_sched_wake(struct vmc_sched *s, uint32_t vcpu, uint64_t now_ns,
                                          uint32_t *kick_cpu);
/**
 * The current vCPU spins (pause-loop exit, PAUSE count): give the rest of its slice to the sibling
 * that is runnable, not running, and furthest behind. VMC_OK: done, pick now returns it;
 * VMC_ENOENT: every sibling runs or sleeps, so spinning on is right. [cpu]
 */
VMC_API VMC_MUST_CHECK int vmc_sched_spin(struct vmc_sched *s, uint32_t cpu, uint64_t now_ns);
/** Give the rest of the slice to that vCPU; as vmc_sched_spin. VMC_ENOENT, VMC_EBUSY. [cpu] */
VMC_API VMC_MUST_CHECK int vmc_sched_yield_to(struct vmc_sched *s, uint32_t cpu, uint32_t vcpu,
                                              uint64_t now_ns);
/**
 * Lay out the next frame if that is due; returns whether it did. Calls are serialised by a lock of
 * the platform that pick, wake and block never take. [any]
 */
VMC_API bool vmc_sched_plan(struct vmc_sched *s, uint64_t now_ns);
/**
 * After plan (or a removal, or a change of CPUs): a CPU that has to be kicked because it sleeps and
 * has work now, or VMC_SCHED_NONE. Call until it returns that. [irq]
 */
VMC_API uint32_t vmc_sched_take_kick(struct vmc_sched *s);
/** The earliest time at which vmc_sched_plan has work. [any] */
VMC_API uint64_t vmc_sched_plan_ns(const struct vmc_sched *s);
/** The frame, in ns: an eighth of the quantum. [any] */
VMC_API uint64_t vmc_sched_frame_ns(const struct vmc_sched *s);

/* ---- seeing ---------------------------------------------------------------------------------- */

/** Times of one vCPU, in ns. They add up to the time since it was added. */
struct vmc_sched_vcpu_stats {
    uint64_t used_ns;   /**< ran */
    uint64_t ready_ns;  /**< could have run; what a guest sees as stolen time, with costop */
    uint64_t costop_ns; /**< was held back for its siblings */
    uint64_t wait_ns;   /**< had nothing to do */
    uint64_t stolen_ns; /**< taken away by the host while current */
    uint64_t extra_ns;  /**< part of used_ns beyond the plan, on CPUs otherwise idle */
    uint64_t max_wake_ns; /**< longest delay from wake to run */
    uint64_t switches, wakes, migrations, costops, yields;
};

struct vmc_sched_vm_stats {
    uint64_t used_ns;
    uint64_t entitled_per_frame_ns; /**< of all its vCPUs, by the last plan */
    uint64_t skew_ns;               /**< progress of the leading less that of the last sibling */
    uint64_t max_skew_ns;
    int64_t lag_ns;                 /**< ideal less received, mean per vCPU, at the last plan */
    uint32_t runnable;
};

struct vmc_sched_cpu_stats {
    uint64_t busy_ns, idle_ns, picks, switches, boosts, fills, late_plans;
};

/** Times of a vCPU up to now_ns. VMC_ENOENT. [any] */
VMC_API VMC_MUST_CHECK int vmc_sched_vcpu_stats(const struct vmc_sched *s, uint32_t vcpu,
                                                uint64_t now_ns, struct vmc_sched_vcpu_stats *out);
/** What the last plan knew of a VM. VMC_ENOENT. [any] */
VMC_API VMC_MUST_CHECK int vmc_sched_vm_stats(const struct vmc_sched *s, uint32_t vm,
                                              struct vmc_sched_vm_stats *out);
/** Counts of a CPU. VMC_ENOENT. [any] */
VMC_API VMC_MUST_CHECK int vmc_sched_cpu_stats(const struct vmc_sched *s, uint32_t cpu,
                                               struct vmc_sched_cpu_stats *out);
/** Time stolen from the vCPU since it was added: ready, co-stopped, taken by the host. [any] */
VMC_API uint64_t vmc_sched_steal_ns(const struct vmc_sched *s, uint32_t vcpu, uint64_t now_ns);

enum vmc_sched_event_type {
    VMC_SCHED_EV_RUN,    /**< a vCPU starts on a CPU */
    VMC_SCHED_EV_STOP,   /**< it leaves the CPU, runnable */
    VMC_SCHED_EV_BLOCK,  /**< it leaves the CPU, with nothing to do */
    VMC_SCHED_EV_WAKE,   /**< it is about to run for the first time since it was woken */
    VMC_SCHED_EV_COSTOP, /**< held back for its siblings from now on */
    VMC_SCHED_EV_YIELD,  /**< it gives the CPU to another vCPU that is named to it */
    VMC_SCHED_EV_IDLE,   /**< the CPU has nothing to run */
};

struct vmc_sched_event {
    uint64_t ns;
    uint32_t vcpu, vm;
    uint16_t type; /**< enum vmc_sched_event_type */
    uint16_t index; /**< vCPU's number in its VM */
    uint32_t cpu;
};

/**
 * Take up to max events of a CPU's ring, oldest first; returns how many. *lost counts those for
 * which there was no room, ever (may be NULL). One reader a CPU at a time. [any]
 */
VMC_API uint32_t vmc_sched_trace_read(struct vmc_sched *s, uint32_t cpu,
                                      struct vmc_sched_event *out, uint32_t max, uint64_t *lost);

/** Check every internal invariant; nobody may be inside another call. VMC_EINTERNAL. */
VMC_API VMC_MUST_CHECK int vmc_sched_check(struct vmc_sched *s, struct vmc_error *err);

VMC_END_DECLS

#endif
