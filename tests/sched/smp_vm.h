/* SPDX-License-Identifier: BSD-2-Clause */
/* VMs that run the multiprocessor guest program, on a runner. */
#ifndef SMP_VM_H
#define SMP_VM_H

#include <vmcore/engine.h>
#include <vmcore/host_runner.h>
#include <vmcore/vm.h>

#include "smp_guest.h"

struct smp_vm {
    struct vmc_vm *vm;
    struct smp_shared *sh; /* in the guest's memory */
    void *ram;
    struct vmc_runner *r;
    uint32_t id; /* on the runner */
    uint32_t cpus;
    uint32_t done;   /* (a) vCPUs that have finished */
    uint32_t bad;    /* (a) exits that nobody expects */
    uint64_t end_ns; /* (a) when the last one finished, of the runner's clock */
};

/* A VM whose shared page begins as *params; not started. 0 or -1 after a message. */
int smp_vm_create(struct smp_vm *s, const struct vmc_platform *pf,
                  const struct vmc_engine_ops *engine, const struct smp_shared *params);
/* Attach it, start it and let it run. */
int smp_vm_start(struct smp_vm *s, struct vmc_runner *r, const struct vmc_sched_vm_config *sched,
                 uint32_t pause_limit, uint32_t flags);
/* What vmc_runner_guest_config.exit is to do; *ctx is a struct smp_vm. */
int smp_vm_exit(void *ctx, uint32_t index, int rc, struct vmc_exit *x);
/* CPU time of all its vCPUs, in ns. */
uint64_t smp_vm_used_ns(const struct smp_vm *s);
/* Detach and free. */
void smp_vm_destroy(struct smp_vm *s);

#endif
