/* SPDX-License-Identifier: BSD-2-Clause */
/** @file
 * Running virtual CPUs in a Linux process: M tasks over N worker threads, scheduled by the library
 * (sched.h), or one thread per task under Linux's scheduler, for comparison. Library: vmcore_host.
 *
 * A task is anything that can run for a while and be told to stop: a vCPU of any engine, or the
 * synthetic load of a test.
 */
#ifndef VMCORE_HOST_RUNNER_H
#define VMCORE_HOST_RUNNER_H

#include <vmcore/sched.h>

VMC_BEGIN_DECLS

struct vmc_runner;

/** What a task's run says when it returns. */
enum vmc_runner_result {
    VMC_RUNNER_AGAIN, /**< it could go on: its time was over, or it was kicked */
    VMC_RUNNER_IDLE,  /**< nothing to do until vmc_runner_wake */
    VMC_RUNNER_SPIN,  /**< it waits busily for a sibling (pause-loop exit) */
    VMC_RUNNER_DONE,  /**< finished for good */
};

struct vmc_runner_task_ops {
    /**
     * Run for about slice_ns, or until kicked. Called on one thread at a time, not always the same.
     * Returns enum vmc_runner_result.
     */
    int (*run)(void *ctx, uint64_t slice_ns);
    /**
     * Make run return soon. From any thread, also when run is not active: then the next run
     * returns at once, or the kick may be forgotten if no run began since.
     */
    void (*kick)(void *ctx);
};

struct vmc_runner_task {
    const struct vmc_runner_task_ops *ops;
    void *ctx;
};

#define VMC_RUNNER_THREADS 1u /**< one thread per task, Linux schedules */

struct vmc_runner_config {
    uint32_t size;  /**< sizeof(struct vmc_runner_config) */
    uint32_t flags; /**< VMC_RUNNER_THREADS */
    uint32_t cpus;  /**< workers; 0: one for each CPU this process may use */
    uint32_t max_groups, max_vms, max_vcpus;
    uint64_t quantum_ns;   /**< 0: the scheduler's default */
    uint32_t trace_events; /**< see struct vmc_sched_config */
};

/**
 * Create a runner; no thread runs yet. *pf needs sync and is borrowed. VMC_EINVAL, VMC_ENOMEM,
 * VMC_EHOST. [any]
 */
VMC_API VMC_MUST_CHECK int vmc_runner_create(const struct vmc_platform *pf,
                                             const struct vmc_runner_config *cfg,
                                             struct vmc_runner **out, struct vmc_error *err);
/** Stop, if that is still to be done, and destroy. */
VMC_API void vmc_runner_destroy(struct vmc_runner *r);
/** Start the threads. VMC_EHOST, VMC_ESTATE. [one] */
VMC_API VMC_MUST_CHECK int vmc_runner_start(struct vmc_runner *r, struct vmc_error *err);
/** Kick every task and join the threads; no run is active afterwards. [one] */
VMC_API void vmc_runner_stop(struct vmc_runner *r);

/** The scheduler, for groups, shares and statistics. Owned by the runner. */
VMC_API struct vmc_sched *vmc_runner_sched(struct vmc_runner *r);
/** The runner's clock: CLOCK_MONOTONIC, ns. */
VMC_API uint64_t vmc_runner_now_ns(void);

/**
 * Add a VM; tasks (cfg->vcpus of them, copied; their ctx borrowed until removal) are runnable at
 * once. Errors as vmc_sched_vm_add. [any]
 */
VMC_API VMC_MUST_CHECK int vmc_runner_vm_add(struct vmc_runner *r, uint32_t group,
                                             const struct vmc_sched_vm_config *cfg,
                                             const struct vmc_runner_task *tasks, uint32_t *vm,
                                             struct vmc_error *err);
/** Remove a VM; returns when none of its tasks is inside run. Not from a task. [any] */
VMC_API VMC_MUST_CHECK int vmc_runner_vm_remove(struct vmc_runner *r, uint32_t vm);
/** The task has something to do. [any] */
VMC_API void vmc_runner_wake(struct vmc_runner *r, uint32_t vm, uint32_t index);
/** CPU time of a task, ns. [any] */
VMC_API uint64_t vmc_runner_used_ns(struct vmc_runner *r, uint32_t vm, uint32_t index);

/**
 * Write the trace so far as Chrome trace events, which ui.perfetto.dev opens. After stop.
 * VMC_EIO. [one]
 */
VMC_API VMC_MUST_CHECK int vmc_runner_write_trace(struct vmc_runner *r, const char *path,
                                                  struct vmc_error *err);

VMC_END_DECLS

#endif
