/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a decision of other schedulers costs, with the data structures that they are known for, in
 * the harness in which the library's is measured. (How they schedule is compared in the simulator.)
 */
#ifndef BENCH_PORTS_H
#define BENCH_PORTS_H

#include <stdint.h>

struct port {
    const char *name, *about;
    /* All vCPUs runnable, shares of 1 to 4. */
    void *(*make)(uint32_t vcpus, uint32_t cpus);
    /* Charge what ran on the CPU, choose what runs now, and until when. */
    uint32_t (*pick)(void *port, uint32_t cpu, uint64_t now, uint64_t *end);
    void (*destroy)(void *port);
};

extern const struct port bench_ports[];
extern const unsigned bench_nports;

#endif
