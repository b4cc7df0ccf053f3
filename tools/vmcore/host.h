/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "vmcore host": several VMs in one process, on one pool of memory and one scheduler.
 *
 * Threads: the main thread builds VMs and answers the control socket; one for each VM drives its
 * timers, which may wait for a page of the guest; one takes signals, so that a second one ends the
 * process even if the main thread waits; workers of the runner execute vCPUs; the policy thread moves
 * memory between VMs. Whatever the policy
 * thread looks at is guarded by host.lock, which nobody holds while touching guest memory.
 */
#ifndef HOST_H
#define HOST_H

#include "host_config.h"
#include "run_vm.h"

#include <stdatomic.h>

#include <vmcore/balloon.h>
#include <vmcore/host_block.h>
#include <vmcore/host_runner.h>
#include <vmcore/pages.h>
#include <vmcore/sharing.h>

struct host;
struct host_vm;

/* Why the vCPUs of a VM do not run: bits of host_vm.held. */
enum { HOST_HELD_USER = 1, HOST_HELD_POLICY = 2, HOST_HELD_STOPPED = 4, HOST_HELD_TURN = 8 };

enum host_vm_state { HOST_VM_NEW, HOST_VM_RUNNING, HOST_VM_ENDED };
/* What becomes of a VM once its vCPUs and its requests in flight have come to rest. */
enum host_vm_then { HOST_VM_GO_ON, HOST_VM_END, HOST_VM_REBOOT };

/* What went through a disk. */
struct host_disk {
    struct vmc_blockdev below;
    atomic_ullong reads, writes, read_bytes, write_bytes, others;
};

/* What a VM allocates besides guest memory (host_overhead.c). */
struct host_overhead {
    struct vmc_platform below;
    atomic_llong bytes;
};

struct host_vm {
    struct host *h;
    const struct host_vm_config *cfg;
    struct run_vm run;
    struct host_overhead overhead;
    struct vmc_host_disk *swap;
    struct host_disk disks[RUN_MAX_DISKS];
    uint32_t sched_vm;
    atomic_bool scheduled;
    bool user_paused;
    enum host_vm_then then;
    uint64_t slow_at_ns; /* when the user hears that a disk is awaited; UINT64_MAX: he has */
    bool at_rest;        /* no vCPU runs any more */
    int timer_fd;
    pthread_t timer_thread;
    bool has_timer_thread;
    int timer_stop;         /* eventfd: the thread ends */
    pthread_mutex_t timers; /* held while some are served */
    pthread_mutex_t arming; /* of timer_fd; nothing is locked inside */
    atomic_uint held;
    atomic_bool failed;
    enum host_vm_state state; /* main thread */
    const char *end_reason;   /* static text, once ended */

    /* Policy, under host.lock. */
    bool managed;           /* its memory exists */
    bool ready;             /* so do its devices */
    bool ended;             /* it will not run again */
    bool blocked;           /* waits for memory */
    bool lost;              /* a page could not be read back from its swap file */
    bool resting;           /* waits for its turn */
    uint64_t sampled_at_ns; /* host_vm_ran_ns at the last sample */
    struct host_share mem;
    struct host_cpu cpu;
    struct vmc_active active;
    uint64_t sampled;     /* most pages seen in use in one sample of the period */
    uint64_t target;      /* pages */
    uint64_t footprint;   /* pages that it has, in memory or elsewhere, at the last look */
    uint64_t balloon_set; /* by the user, pages; UINT64_MAX: by policy */
    struct vmc_balloon_guest balloon; /* what its driver can be expected to do */
    struct vmc_reclaim_action action;
};

/* Counts of the policy thread, since the start. */
struct host_policy_stats {
    uint64_t samples, scanned, zeroed, merged, packed, deltas, swapped, blocked, compacted, turns;
    uint64_t entered[VMC_RECLAIM_STATES];
};

struct host_cpu_pool {
    uint32_t group; /* of the scheduler */
    struct host_share share;
};

struct host {
    struct host_config cfg;
    struct vmc_host_log log;
    struct vmc_platform pf;
    void *memory;
    struct vmc_kvm_frames *kvm_frames; /* the memory, when there are VMs on KVM */
    uint64_t max_mappings;             /* that each piece of memory of such a VM may use */
    uint64_t frames;
    struct vmc_pool *pool;
    struct vmc_share *share;
    struct vmc_runner *runner;
    struct host_cpu_pool *cpu_pools; /* as many as cfg.cpu_pools */
    const char *trace;               /* file for what the scheduler does, or NULL */
    struct host_vm **vms;
    unsigned count;
    int wake_fd;
    uint64_t secret; /* salts of trust groups are made from it */
    uint64_t start_ns;
    int status; /* the worst exit status of a VM */
    atomic_uint quits; /* how often somebody asked for the end */
    atomic_bool told;  /* ... and heard what it waits for */
    bool left;         /* with requests in flight on a disk that does not answer */
    pthread_t signal_thread;
    bool has_signal_thread;
    int signal_stop; /* eventfd: the thread ends */

    /* The policy thread. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t policy;
    bool policy_runs, policy_quit;
    struct vmc_reclaim_config thresholds;
    enum vmc_reclaim_state state;
    unsigned idle_tax;
    uint64_t scan_budget;
    uint64_t period_end_ns, sample_due_ns;
    struct host_policy_stats stats;
    struct vmc_turns turns;
};

/* host_vm.c. NULL: out of memory. */
struct host_vm *host_vm_new(struct host *h, const struct host_vm_config *cfg);
/* Build and load it, without running it: host_vm_begin. Returns 0 or an exit status. */
int host_vm_create(struct host_vm *vm);
void host_vm_begin(struct host_vm *vm);
/* After it ended and the policy thread stopped. */
void host_vm_destroy(struct host_vm *vm);
void host_vm_pause(struct host_vm *vm);
void host_vm_resume(struct host_vm *vm);
/* It cannot go on; the main thread ends it. Any thread. */
void host_vm_fail(struct host_vm *vm);
/* No vCPU runs again. Main thread; like host_vm_reboot it does not wait: host_vm_settle. */
void host_vm_end(struct host_vm *vm, const char *reason);
/*
 * The same for every VM, and wait for it. The memory of those that stop first is there for vCPUs that
 * cannot stop before they have got a page.
 */
void host_vms_end(struct host *h, const char *reason);
/* The same, without waiting: host_vm_settle says when one has ended. */
void host_vms_begin_end(struct host *h, const char *reason);
/* Was the user told that a VM waits for a disk? */
bool host_vms_slow(const struct host *h);
/* A reset that the guest asked for. */
void host_vm_reboot(struct host_vm *vm);
/* Do what is due once the VM is at rest. false: ask again soon. Main thread. */
bool host_vm_settle(struct host_vm *vm);
/* Set or clear a reason not to run. Any thread. */
void host_vm_hold(struct host_vm *vm, unsigned why);
void host_vm_release(struct host_vm *vm, unsigned why);
/* Arm timer_fd for the VM's next timer. */
void host_vm_arm_timer(struct host_vm *vm);
const char *host_vm_state_name(const struct host_vm *vm);
/* Execution by all its vCPUs in slices that are over, ns, waiting included; 0 after the end. */
uint64_t host_vm_ran_ns(const struct host_vm *vm);
uint64_t host_vm_pages(const struct host_vm *vm);

/* host_kvm.c: does any VM run on KVM? */
bool host_kvm_wanted(const struct host *h);
/* Memory that such VMs can run on, for a pool. 0, or an exit status after a message. */
int host_kvm_memory(struct host *h, struct vmc_pool_config *pc);
void host_kvm_memory_free(struct host *h);

/* host_cpu.c. The pools of the configuration, once there is a runner; VMC_E*. */
int host_cpu_pools_make(struct host *h, struct vmc_error *err);
/* The scheduler's number of a pool, or of what is above them all. */
uint32_t host_cpu_group(const struct host *h, unsigned pool);
int host_cpu_pool_set(struct host *h, unsigned pool, const struct host_share *s,
                      struct vmc_error *err);
/* How the runner is to schedule a VM; *cpu is borrowed. */
void host_cpu_describe(const struct host *h, const struct host_cpu *cpu, unsigned pool,
                       struct vmc_runner_guest_config *out);
/* All of it changes, or nothing. */
int host_cpu_set(struct host_vm *vm, const struct host_cpu *cpu, struct vmc_error *err);

/* host_overhead.c */
void host_overhead_wrap(struct host_overhead *o, struct vmc_platform *pf);

/* host_policy.c */
int host_policy_start(struct host *h);
void host_policy_stop(struct host *h);
/* Look at the VMs now: something changed. */
void host_policy_wake(struct host *h);
/* Does every page of these VMs have a place, with so many pages of swap? VMC_E*. */
int host_policy_fits(const struct host *h, const struct vmc_balloon_vm *vms, unsigned n,
                     uint64_t swap, struct vmc_error *err);
/* The same for the VMs there are, vm with *mem in place of its own. Under host.lock. */
int host_policy_admit(struct host *h, const struct host_vm *vm, const struct host_share *mem,
                      struct vmc_error *err);

/* host_turns.c: who runs while the working sets do not fit into so many pages. Under host.lock. */
void host_turns_look(struct host *h, uint64_t now, const struct vmc_balloon_vm *vms,
                     struct host_vm **who, unsigned n, uint64_t pages);

/* host_stats.c. All of them on the main thread. */
struct json_object *host_status_json(struct host *h);
struct json_object *host_stats_json(struct host *h);

/* host_rpc.c: what the control socket can do. The server is valid as long as *h. */
struct rpc_server;
struct rpc_server host_rpc_server(struct host *h);

/* host_loop.c: until no VM is left or somebody ends it; returns the exit status. */
int host_loop(struct host *h);
void host_wake_loop(const struct host *h);

/* host_signals.c: a thread for them, with all of them blocked; 0 or an exit status after a message. */
int host_signals_start(struct host *h);
void host_signals_stop(struct host *h);

#endif
