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
#include <vmcore/vm.h>

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
     * Run for about slice_ns (UINT64_MAX or so: without end), or until kicked. Called on one thread
     * at a time, not always the same. Returns enum vmc_runner_result.
     */
    int (*run)(void *ctx, uint64_t slice_ns);
    /**
     * Make run return soon. From any thread, and from a signal handler on the thread inside run;
     * also when run is not active: then the next run returns at once, or the kick may be forgotten
     * if no run began since.
     */
    void (*kick)(void *ctx);
};

/** struct vmc_runner_task.flags: run keeps to slice_ns, so a kick need only come when it is late.
 */
#define VMC_RUNNER_ENDS_ITSELF 1u

struct vmc_runner_task {
    const struct vmc_runner_task_ops *ops;
    void *ctx;
    uint32_t flags; /**< VMC_RUNNER_ENDS_ITSELF */
};

#define VMC_RUNNER_THREADS 1u /**< one thread per task, Linux schedules */

struct vmc_runner_config {
    uint32_t size;  /**< sizeof(struct vmc_runner_config) */
    uint32_t flags; /**< VMC_RUNNER_THREADS */
    uint32_t cpus;  /**< workers; 0: one for each CPU this process may use */
    uint32_t max_groups, max_vms, max_vcpus;
    uint64_t quantum_ns;   /**< 0: the scheduler's default */
    uint32_t trace_events; /**< see struct vmc_sched_config */
    /**
     * Signal by which a worker's timer ends its slices; 0: SIGRTMIN. vmc_runner_start sets what it
     * does in the process; only workers take it, so it should not be sent by anybody else.
     */
    uint32_t slice_signal;
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

/* ---- virtual machines ------------------------------------------------------------------------ */

/** struct vmc_runner_guest_config.flags: the embedder advances the VM's timer queue. */
#define VMC_RUNNER_OWN_TIMERS 1u

struct vmc_runner_guest_config {
    uint32_t size;  /**< sizeof(struct vmc_runner_guest_config) */
    uint32_t flags; /**< VMC_RUNNER_OWN_TIMERS */
    uint32_t group; /**< of the scheduler: VMC_SCHED_ROOT or a pool */
    /**
     * PAUSE instructions of one waiting loop after which a vCPU gives the rest of its slice to a
     * sibling that waits for a CPU; 0: the runner's choice, UINT32_MAX: never.
     */
    uint32_t pause_limit;
    struct vmc_sched_vm_config sched; /**< sched.vcpus: all that the VM has */
    struct vmc_vm *vm;                /**< borrowed until detach */
    /**
     * vmc_vcpu_run of vCPU index returned rc; with VMC_OK, *x is not one of those that the runner
     * handles (BUDGET, KICKED, IDLE, PAUSE). On the thread that ran it. Complete what is owed, and
     * return enum vmc_runner_result; VMC_RUNNER_IDLE after vmc_vm_pause, and after a failure.
     */
    int (*exit)(void *ctx, uint32_t index, int rc, struct vmc_exit *x);
    /**
     * Is the VM not to run now, though it is not paused? Asked before each slice; kick the vCPUs
     * (vmc_vcpu_kick) when it begins, and wake them (vmc_runner_wake) when it ends. NULL: never.
     */
    bool (*held)(void *ctx);
    void *ctx;
};

/**
 * Run a VM's vCPUs here. The VM, whose vCPUs must exist, is paused by this; vmc_vm_resume starts
 * it, and it can be paused and resumed with the functions of vm.h at any time. The runner takes the
 * VM's wake hook and, unless VMC_RUNNER_OWN_TIMERS is set, serves its timer queue. Guests are told
 * how much time was stolen from them if the VM is attached before vmc_vm_start. VMC_ENOTSUP: the
 * engine keeps halted vCPUs inside run (take vmc_engine_kvm_user_apic). VMC_EBUSY, VMC_EINVAL,
 * VMC_ENOENT, VMC_ENOMEM, and those of vmc_sched_vm_add. [any]
 */
VMC_API VMC_MUST_CHECK int vmc_runner_attach(struct vmc_runner *r,
                                             const struct vmc_runner_guest_config *cfg,
                                             uint32_t *id, struct vmc_error *err);
/**
 * Pause the VM and take it off the runner; no vCPU of it is inside run then, and its timers are
 * served no more. Not from a task, an exit callback or a timer. VMC_ENOENT. [any]
 */
VMC_API VMC_MUST_CHECK int vmc_runner_detach(struct vmc_runner *r, uint32_t id);

/**
 * From now on what the scheduler does (vmc_runner_config.trace_events must not be 0) goes to a
 * file, as Chrome trace events, which ui.perfetto.dev opens, whenever vmc_runner_trace_flush is
 * called: what a ring has no room for until then is left out. VMC_EIO, VMC_ENOMEM, VMC_ESTATE:
 * there is one already. These three are for one thread; end may come before or after stop, and
 * comes before destroy.
 */
VMC_API VMC_MUST_CHECK int vmc_runner_trace_begin(struct vmc_runner *r, const char *path,
                                                  struct vmc_error *err);
/** Write what the rings have gathered since the last flush. Errors show at the end. */
VMC_API void vmc_runner_trace_flush(struct vmc_runner *r);
/** Flush, and close the file. VMC_EIO; VMC_OK where there is none. */
VMC_API VMC_MUST_CHECK int vmc_runner_trace_end(struct vmc_runner *r, struct vmc_error *err);

/** Both at once: write what the rings hold. After stop. VMC_EIO, VMC_ENOMEM. [one] */
VMC_API VMC_MUST_CHECK int vmc_runner_write_trace(struct vmc_runner *r, const char *path,
                                                  struct vmc_error *err);

VMC_END_DECLS

#endif
