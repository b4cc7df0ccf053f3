/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The multiprocessor guest program on simulated CPUs: the software CPU executes its instructions,
 * each of which takes SMP_SIM_INSN_NS, and the simulator's clock counts them. So the time that a
 * program takes under a policy does not depend on the machine, nor on what else that does.
 */
#ifndef SMP_SIM_H
#define SMP_SIM_H

#include "sim_sched.h"
#include "smp_guest.h"

#define SMP_SIM_INSN_NS 5
#define SMP_SIM_LOOP_NS (2 * SMP_SIM_INSN_NS) /* of smp_shared.work and critical */

/*
 * Programs with locks, barriers and TLB shootdowns, each with the time that it works for before it
 * asks for the lock, and the one for which it holds it. docs/scheduling.md says why these.
 */
struct smp_sim_program {
    const char *name;
    uint32_t cpus; /* to run it on: as many as it has vCPUs, or half of them */
    struct smp_shared shared;
};

extern const struct smp_sim_program smp_sim_programs[];
extern const unsigned smp_sim_nprograms;

struct smp_sim_config {
    const struct smp_shared *program;
    const char *policy;    /* of the simulator */
    uint32_t coscheduling; /* where the policy is this library's and leaves it to the VM */
    bool spin;             /* are loops that wait noticed? */
    uint32_t cpus;
    uint32_t others;  /* VMs of one vCPU that want all they can get: 0: the program is alone */
    uint64_t late_ns; /* slices end late, by up to this */
    uint64_t most_ns; /* give up */
};

struct smp_sim_result {
    uint64_t ns;     /* that the program took, or most_ns */
    uint64_t worked; /* ns of it, over all vCPUs, that were not spent waiting */
    uint64_t used;   /* ns that its vCPUs had */
    bool done;
};

/* The others together have as many shares as the program. 0 or -1 after a message. */
int smp_sim_run(const struct smp_sim_config *cfg, struct smp_sim_result *out);

#endif
