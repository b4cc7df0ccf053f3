/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The memory simulator: what the policy of vmcore/balloon.h does with VMs whose working sets follow
 * a trace. docs/memory.md describes the trace and the model. All sizes are in pages.
 */
#ifndef SIM_MEMORY_H
#define SIM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <vmcore/balloon.h>

#define SIM_MEM_MAX_VMS    64
#define SIM_MEM_MAX_EVENTS 65536
#define SIM_MEM_MAX_SECOND 1000000u
#define SIM_MEM_MIB        256u /* pages */

/* From that second on. */
struct sim_mem_event {
    uint64_t second;
    unsigned vm;
    uint64_t active;    /* in use in every period */
    uint64_t allocated; /* used at least once */
};

struct sim_mem_vm {
    char name[32];
    uint64_t configured, reservation, limit;
    uint32_t shares;
    bool has_balloon;
    /* State. */
    struct vmc_active estimate;
    uint64_t active, allocated;
    uint64_t resident; /* pages of its own in memory */
    uint64_t balloon, packed, swapped;
    uint64_t target, asked; /* by plan; of the balloon */
    uint64_t missing;       /* of its working set, not in memory at the end of the period */
    uint64_t missing_sum;
    bool rested, rests; /* in this second; in the next one */
    uint64_t wait_us, work_us; /* of this second: for pages; getting something done */
    uint64_t ran_ns, work_sum_us, rest_sum;
};

struct sim_mem {
    uint64_t host, seconds;
    unsigned tax, pack_percent;
    uint64_t balloon_rate, fault_rate; /* pages a second */
    uint64_t passes;                   /* through its working set that a guest makes a second */
    bool with_turns;
    uint64_t unpack_us, swap_in_us, pack_us, swap_out_us; /* what moving a page takes */
    struct sim_mem_vm vm[SIM_MEM_MAX_VMS];
    unsigned vms;
    struct sim_mem_event *event;
    size_t events;
    /* State. */
    uint64_t now;
    size_t next;
    struct vmc_reclaim_config thresholds;
    enum vmc_reclaim_state state;
    struct vmc_turns turns;
    uint64_t host_us; /* spent on compressing and swapping so far */
};

/* sim_memory_trace.c. 0, or -1 with a message on standard error. */
int sim_mem_load(struct sim_mem *s, const char *path);
void sim_mem_free(struct sim_mem *s);
/* Write a trace of so many VMs that grow, shrink and rest at random. false: out of memory. */
bool sim_mem_generate(uint64_t seed, unsigned vms, FILE *f);
/* The same in memory. false: out of memory. */
bool sim_mem_random(struct sim_mem *s, uint64_t seed, unsigned vms);

/* sim_memory_model.c */
void sim_mem_start(struct sim_mem *s);
/* One second. */
void sim_mem_step(struct sim_mem *s);
uint64_t sim_mem_used(const struct sim_mem *s);
/* NULL, or what is wrong with the present state. */
const char *sim_mem_check(const struct sim_mem *s);

/* cmd_sim_memory.c */
int cmd_sim_memory(int argc, char **argv);

#endif
