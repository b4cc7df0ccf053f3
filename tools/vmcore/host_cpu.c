/* SPDX-License-Identifier: BSD-2-Clause */
/* What VMs and pools of a host are entitled to of its processors. */
#include "host.h"

#include <stdlib.h>

/* ---- pools ------------------------------------------------------------------------------------
 */

static struct vmc_sched_share sched_share(const struct host_share *s)
{
    return (struct vmc_sched_share){
        .shares = s->shares, .reservation = s->reservation, .limit = s->limit};
}

int host_cpu_pools_make(struct host *h, struct vmc_error *err)
{
    int rc = VMC_OK;

    h->cpu_pools = calloc(h->cfg.cpu_pool_count + 1u, sizeof(*h->cpu_pools));
    if (h->cpu_pools == NULL)
        return VMC_ENOMEM;
    for (unsigned i = 0; rc == VMC_OK && i < h->cfg.cpu_pool_count; i++) {
        const struct host_cpu_pool_config *c = &h->cfg.cpu_pools[i];
        struct vmc_sched_share share = sched_share(&c->share);
        h->cpu_pools[i].share = c->share;
        rc = vmc_sched_group_add(vmc_runner_sched(h->runner), host_cpu_group(h, c->parent), &share,
                                 &h->cpu_pools[i].group, err);
    }
    return rc;
}

uint32_t host_cpu_group(const struct host *h, unsigned pool)
{
    return pool == HOST_NO_POOL ? VMC_SCHED_ROOT : h->cpu_pools[pool].group;
}

int host_cpu_pool_set(struct host *h, unsigned pool, const struct host_share *s,
                      struct vmc_error *err)
{
    struct vmc_sched_share share = sched_share(s);
    int rc =
        vmc_sched_group_set(vmc_runner_sched(h->runner), h->cpu_pools[pool].group, &share, err);

    if (rc == VMC_OK)
        h->cpu_pools[pool].share = *s;
    return rc;
}

/* ---- VMs --------------------------------------------------------------------------------------
 */

void host_cpu_describe(const struct host *h, const struct host_cpu *cpu, unsigned pool,
                       struct vmc_runner_guest_config *out)
{
    out->group = host_cpu_group(h, pool);
    out->sched.share = sched_share(&cpu->share);
    out->sched.vcpu_cap = cpu->cap;
    out->sched.affinity = cpu->set.any ? NULL : cpu->set.bits;
    out->sched.affinity_words = HOST_MAX_CPUS / 64;
}

static int set_affinity(struct vmc_sched *s, uint32_t vm, const struct host_cpu_set *set)
{
    return vmc_sched_vm_set_affinity(s, vm, set->any ? NULL : set->bits, HOST_MAX_CPUS / 64);
}

int host_cpu_set(struct host_vm *vm, const struct host_cpu *cpu, struct vmc_error *err)
{
    struct vmc_sched *s = vmc_runner_sched(vm->h->runner);
    struct vmc_sched_share share = sched_share(&cpu->share);
    int rc = set_affinity(s, vm->sched_vm, &cpu->set);

    if (rc != VMC_OK) {
        snprintf(err->text, sizeof(err->text), "the host has none of these processors");
        return rc;
    }
    rc = vmc_sched_vm_set(s, vm->sched_vm, &share, err);
    if (rc == VMC_OK)
        rc = vmc_sched_vm_set_cap(s, vm->sched_vm, cpu->cap, err);
    if (rc == VMC_OK) {
        vm->cpu = *cpu;
        return VMC_OK;
    }
    share = sched_share(&vm->cpu.share); /* as it was, which the scheduler had accepted */
    if (vmc_sched_vm_set(s, vm->sched_vm, &share, NULL) != VMC_OK ||
        set_affinity(s, vm->sched_vm, &vm->cpu.set) != VMC_OK)
        fprintf(stderr, "vmcore host: VM '%s' is no longer scheduled as it was\n",
                vm->run.opt.name);
    return rc;
}
