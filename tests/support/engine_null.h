/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An engine without a processor: what it "executes" is a function of the test. It keeps every rule
 * of engine.h (sticky kicks, completions, windows), so tests of the VM layer run against it, and it
 * is the smallest engine to copy when a new one is written.
 */
#ifndef ENGINE_NULL_H
#define ENGINE_NULL_H

#include <vmcore/engine.h>

struct null_vcpu;

/*
 * Executes until an exit: fills *out and returns 0, or negative for a host failure. It should call
 * null_poll now and then, and return when that is true (*out is filled).
 */
typedef int null_program(struct null_vcpu *v, const struct vmc_run_limits *lim,
                         struct vmc_exit *out);

/* engine_config: what every vCPU executes. */
struct null_config {
    null_program *program;
    void *ctx;
    int fail_vm_init, fail_vcpu_init, fail_policy; /* what these operations return */
};

#define NULL_EVENTS 32

struct null_vm {
    const struct null_config *cfg;
    struct vmc_engine_vm_config vm;
    struct vmc_cpu_policy policy;
    unsigned policies, mem_changes, msis, routes;
    uint64_t last_msi;
    bool logging;
    uint64_t dirty; /* pages 0-63 that "the processor" wrote */
};

struct null_vcpu {
    struct null_vm *vm;
    const struct vmc_engine_io *io;
    void *ctx; /* of the config */
    uint32_t index;
    uint32_t kicked;   /* atomic */
    uint32_t notified; /* atomic */
    bool owed, irq_on, shadow, window;
    struct vmc_exit owed_exit, completed; /* what was asked, what came back */
    unsigned completions, runs;
    struct vmc_event injected[NULL_EVENTS];
    unsigned injections;
    uint64_t tsc_base, retired; /* instructions retired in all */
    uint64_t run_virtual, run_start;
    struct vmc_x86_state st;
    uint64_t scratch[8]; /* the program's */
};

/* Pulls interrupts, counts instructions, keeps deadlines. */
const struct vmc_engine_ops *engine_null_pull(void);
/* Must be injected into; no counting, no deadlines. */
const struct vmc_engine_ops *engine_null_inject(void);
/* Owns the local APICs. */
const struct vmc_engine_ops *engine_null_irqchip(void);

/* Time to leave? Kicks, the deadline and spent instructions fill *out. */
bool null_poll(struct null_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *out);
/* Retire n instructions. */
void null_retire(struct null_vcpu *v, uint64_t n);
/* Take an interrupt as an engine with IRQ_PULL does; -1: none, or interrupts are off. */
int null_take_irq(struct null_vcpu *v);
/* End the program with HLT: fills *out. */
int null_hlt(struct null_vcpu *v, struct vmc_exit *out);
/* A port write through the machine: 0, or 1 when *out is an exit to return. */
int null_out(struct null_vcpu *v, uint16_t port, unsigned bytes, uint32_t data,
             struct vmc_exit *out);

#endif
