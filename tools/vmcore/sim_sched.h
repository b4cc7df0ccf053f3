/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Discrete-event simulator of CPU scheduling: CPUs, VMs with guest models, and a scheduling policy
 * behind one interface. Deterministic: the same scenario and seed give the same run everywhere.
 */
#ifndef SIM_SCHED_H
#define SIM_SCHED_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <vmcore/sched.h>

#define SIM_NEVER UINT64_MAX
#define SIM_NONE  UINT32_MAX

/* ---- scenario -------------------------------------------------------------------------------- */

enum sim_model { SIM_CPU, SIM_INTERACTIVE, SIM_BURSTY, SIM_SPINLOCK, SIM_BARRIER, SIM_CODE };

/* Times in ns. A work phase lasts "work" on average (exponential), a sleep "sleep". */
struct sim_guest {
    enum sim_model model;
    uint64_t work;     /* between sleeps, locks or barriers */
    uint64_t sleep;    /* interactive, bursty */
    uint64_t critical; /* spinlock: time with the lock held */
};

struct sim_pool {
    char name[32];
    uint32_t parent; /* index of a pool, or SIM_NONE: the root */
    struct vmc_sched_share share;
};

struct sim_vm_spec {
    char name[32];
    uint32_t pool; /* index, or SIM_NONE */
    uint32_t vcpus;
    uint32_t coscheduling;
    uint32_t vcpu_cap;
    struct vmc_sched_share share;
    struct sim_guest guest;
    uint64_t start_ns;
};

struct sim_scenario {
    uint32_t cpus;
    uint32_t threads_per_core; /* CPUs of one core, numbered one after the other */
    uint64_t quantum_ns, duration_ns, seed;
    uint64_t switch_ns;     /* lost at every switch between vCPUs */
    uint64_t kick_ns;       /* from a kick to the pick */
    uint64_t late_ns;       /* slices end late, by up to this */
    uint64_t ple_ns;        /* spinning this long tells the policy; 0: never */
    uint64_t max_decisions; /* stop early; 0: no bound */
    struct sim_pool *pools;
    uint32_t npools;
    struct sim_vm_spec *vms;
    uint32_t nvms;
};

int sim_scenario_load(struct sim_scenario *sc, const char *path);
void sim_scenario_random(struct sim_scenario *sc, uint64_t seed);
void sim_scenario_free(struct sim_scenario *sc);

/* ---- guests that are real code --------------------------------------------------------------- */

enum sim_code_result { SIM_CODE_RUNS, SIM_CODE_SPINS, SIM_CODE_ENDED };

/*
 * Whoever sets sim.code executes the vCPUs of VMs whose model is SIM_CODE, in steps, those of
 * different CPUs in turn. The run ends when all of them have ended.
 */
struct sim_code {
    void *ctx;
    uint64_t step_ns;
    /* What the vCPU did in the time that it was given. */
    enum sim_code_result (*run)(void *ctx, uint32_t vm, uint32_t index, uint64_t ns);
};

/* ---- the world, as a policy sees it ---------------------------------------------------------- */

enum sim_state { SIM_BLOCKED, SIM_READY, SIM_RUNNING };

struct sim_vcpu {
    uint32_t vm, index;
    enum sim_state state;
    uint32_t cpu; /* where it runs or ran */

    /* guest */
    int phase;
    uint64_t rem;     /* work left in the phase */
    uint64_t penalty; /* cost of the last switch not yet paid */
    bool spinning;
    uint64_t spun; /* since the policy was last told */
    int did;       /* enum sim_code_result of the last step */
    uint64_t wake_at;

    /* measures */
    uint64_t served, adj; /* progress for skew is their sum */
    uint64_t woke;        /* SIM_NEVER: has run since */
};

struct sim_vm {
    const struct sim_vm_spec *spec;
    uint32_t first, n, runnable;
    bool unlimited;                               /* neither it nor a pool above it has a limit */
    uint32_t lock_holder;                         /* index of a vCPU in the VM, or SIM_NONE */
    uint32_t queue[VMC_SCHED_MAX_WIDTH], queue_n; /* waiters of the ticket lock */
    uint32_t arrived;                             /* at the barrier */
    uint64_t iterations;
    uint64_t served;
    uint64_t max_delay, sum_delay, delays;
    uint64_t max_skew;
};

struct sim_seg {
    uint32_t cpu, vcpu;
    uint64_t start, end;
};

struct sim_fluid;
struct sim_policy;

struct sim {
    const struct sim_scenario *sc;
    const struct sim_policy *policy;
    void *pol; /* the policy's own */
    uint64_t now;
    uint64_t rng;
    struct sim_vcpu *vcpu;
    struct sim_vm *vm;
    uint32_t nvcpus, nvms, ncpus;
    uint32_t *cur;       /* by CPU: vCPU or SIM_NONE */
    uint64_t *last;      /* by CPU: accounted until */
    uint64_t *slice_end; /* by CPU */
    uint32_t *last_vcpu; /* by CPU */
    uint64_t *run_from;  /* by CPU */
    struct sim_fluid *fluid;
    const struct sim_code *code; /* set between sim_init and sim_run; NULL: no VM needs it */
    uint32_t code_vms;           /* that have not ended */
    bool over;
    /* measures */
    uint64_t decisions, switches, idle_ns, loss_ns, waiting;
    uint64_t crowded_ns; /* cores that are shared while others idle */
    uint32_t idle_cpus;
    uint64_t acc_at;
    bool record;
    struct sim_seg *seg; /* who ran where */
    size_t nseg, seg_cap;
    struct sim_seg *hold; /* who was held back for its siblings: cpu says where that was decided */
    size_t nhold, hold_cap;
    /* event heap */
    uint32_t *heap, *pos;
    uint64_t *key;
    uint32_t heap_n;
};

/* ---- policies -------------------------------------------------------------------------------- */

struct sim_policy {
    const char *name, *about;
    void *(*create)(struct sim *s, const struct sim_policy *p);
    void (*destroy)(struct sim *s, void *pol);
    /* what runs on the CPU from now until *end; SIM_NONE: idle */
    uint32_t (*pick)(struct sim *s, void *pol, uint32_t cpu, uint64_t *end);
    /* the vCPU that ran on the CPU has blocked; a pick follows */
    void (*block)(struct sim *s, void *pol, uint32_t cpu, uint32_t vcpu);
    void (*wake)(struct sim *s, void *pol, uint32_t vcpu);
    /* time dt was used by the vCPU on the CPU; may be NULL */
    void (*charge)(struct sim *s, void *pol, uint32_t cpu, uint32_t vcpu, uint64_t dt);
    /* the vCPU spins; true: pick again. NULL: spinning is not noticed */
    bool (*spin)(struct sim *s, void *pol, uint32_t cpu, uint32_t vcpu);
    /* when timer is next due, and what then happens; may be NULL */
    uint64_t (*next_timer)(struct sim *s, void *pol);
    void (*timer)(struct sim *s, void *pol);
    int variant;
};

extern const struct sim_policy *const sim_policies[];
extern const unsigned sim_npolicies;
const struct sim_policy *sim_policy_find(const char *name);
struct vmc_sched *sim_ours_sched(struct sim *s);

/* ---- the engine ------------------------------------------------------------------------------ */

int sim_init(struct sim *s, const struct sim_scenario *sc, const struct sim_policy *policy,
             bool check_fluid, bool record);
/* Run to the end of the scenario. */
void sim_run(struct sim *s);
void sim_fini(struct sim *s);

/* For policies: make a CPU pick again. */
void sim_kick(struct sim *s, uint32_t cpu);
/* The vCPU was co-stopped; kept for the timeline, if there is to be one. */
void sim_held(struct sim *s, struct sim_seg held);
uint64_t sim_random(struct sim *s);
static inline bool sim_runnable(const struct sim *s, uint32_t vcpu)
{
    return s->vcpu[vcpu].state != SIM_BLOCKED;
}

/* Progress for skew: time received, and time asleep while siblings received it. */
static inline uint64_t sim_progress(const struct sim *s, uint32_t vcpu)
{
    const struct sim_vcpu *v = &s->vcpu[vcpu];

    return v->served + v->adj + (v->state == SIM_RUNNING ? s->now - s->last[v->cpu] : 0);
}

/* ---- the ideal: a fluid server --------------------------------------------------------------- */

struct sim_fluid_report {
    double max_lag;    /* ns, |ideal - received| of a VM at an instant, per vCPU */
    double max_window; /* the same over any window of uninterrupted backlog */
    double max_vm_lag; /* of all its vCPUs together */
    double max_vm_window;
    double lost; /* ns of CPU time that the ideal would have used, and nobody had */
    uint32_t worst_vm;
};

struct sim_fluid *sim_fluid_create(const struct sim *s);
void sim_fluid_destroy(struct sim_fluid *f);
/* Time passes; running[vm] CPUs served each VM since the last call. */
void sim_fluid_advance(struct sim_fluid *f, const struct sim *s, uint64_t now);
void sim_fluid_changed(struct sim_fluid *f, const struct sim *s, uint32_t vcpu);
/* Ideal less received, ns, of all the VM's vCPUs. */
double sim_fluid_lag(const struct sim_fluid *f, uint32_t vm);
void sim_fluid_report(const struct sim_fluid *f, struct sim_fluid_report *out);

/* ---- output ---------------------------------------------------------------------------------- */

int sim_write_csv(const struct sim *s, const char *path);
int sim_write_svg(const struct sim *s, const char *path, uint64_t from, uint64_t to);
int sim_write_trace(const struct sim *s, const char *path);
void sim_print_summary(const struct sim *s, FILE *to);

/* ---- property mode --------------------------------------------------------------------------- */

struct sim_property_result {
    uint64_t decisions, scenarios, failures, first_bad_seed;
    uint64_t beyond_quantum; /* scenarios in which some VM was over a quantum off its ideal */
    double max_error;        /* quanta; more is a failure; 0: it is only reported */
    double max_lag_quanta, max_window_quanta, max_vm_lag_quanta, max_vm_window_quanta;
    double max_skew_ns_over_bound; /* > 1: beyond the bound */
    double max_idle_loss;
    char why[256];
};

/*
 * Run random scenarios until both numbers are reached; 0 or the number of failures: broken
 * invariants, skew of more than a quantum, errors of more than max_error quanta.
 */
int sim_property(uint64_t seed, uint64_t scenarios, uint64_t decisions, bool verbose,
                 double max_error, struct sim_property_result *out);

int cmd_sim_sched(int argc, char **argv);

#endif
