/* SPDX-License-Identifier: BSD-2-Clause */
#include "smp_vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmcore/x86.h>

/* The program, put here by smp_image.S. */
extern const unsigned char smp_image[], smp_image_end[];

static int fail(const char *what, int rc, const struct vmc_error *err)
{
    fprintf(stderr, "smp_vm: %s: %s %s\n", what, vmc_strerror(rc), err->text);
    return -1;
}

static void flat(struct vmc_segment *s, uint16_t selector, uint32_t type)
{
    *s = (struct vmc_segment){.selector = selector,
                              .limit = UINT32_MAX,
                              .attr = VMC_SEG_G | VMC_SEG_DB | VMC_SEG_P | VMC_SEG_S | type};
}

static int set_state(struct vmc_vcpu *v, uint32_t index)
{
    static const uint32_t groups = VMC_ST_GPR | VMC_ST_RIP | VMC_ST_SEG | VMC_ST_CTRL | VMC_ST_RUN;
    struct vmc_x86_state *st = aligned_alloc(64, sizeof(*st));

    if (st == NULL)
        return VMC_ENOMEM;
    int rc = vmc_vcpu_get_state(v, groups, st);
    st->cr0 = VMC_CR0_PE | VMC_CR0_ET;
    st->rip = SMP_CODE;
    st->gpr[VMC_RAX] = index;
    st->gpr[VMC_RSP] = SMP_STACKS + (index + 1) * SMP_STACK_BYTES;
    st->activity = VMC_RUN_RUNNING;
    for (unsigned i = 0; i <= VMC_GS; i++)
        flat(&st->seg[i], i == VMC_CS ? 8 : 16, i == VMC_CS ? 0xb : 3);
    if (rc == VMC_OK)
        rc = vmc_vcpu_set_state(v, groups, st);
    free(st);
    return rc;
}

static int add_vcpus(struct smp_vm *s, struct vmc_error *err)
{
    int rc = VMC_OK;

    for (uint32_t i = 0; rc == VMC_OK && i < s->cpus; i++) {
        struct vmc_vcpu *v;
        rc = vmc_vcpu_create(s->vm, i, &v, err);
        if (rc == VMC_OK)
            rc = set_state(v, i);
    }
    return rc;
}

int smp_vm_create(struct smp_vm *s, const struct vmc_platform *pf,
                  const struct vmc_engine_ops *engine, const struct smp_shared *params)
{
    static const struct vmc_soft_config soft = {.size = sizeof(soft), .flags = VMC_SOFT_TRANSLATE};
    struct vmc_vm_config cfg = {.size = sizeof(cfg),
                                .max_vcpus = params->cpus,
                                .platform = pf,
                                .engine = engine,
                                .flags = VMC_VM_PIO_EXITS};
    struct vmc_error err = {0};

    *s = (struct smp_vm){.cpus = params->cpus, .id = VMC_SCHED_NONE};
    if (engine == vmc_engine_soft())
        cfg.engine_config = &soft;
    s->ram = aligned_alloc(4096, SMP_RAM_BYTES);
    if (s->ram == NULL)
        return fail("memory", VMC_ENOMEM, &err);
    memset(s->ram, 0, SMP_RAM_BYTES);
    s->sh = (struct smp_shared *)(void *)((char *)s->ram + SMP_SHARED);
    *s->sh = *params;
    memcpy((char *)s->ram + SMP_CODE, smp_image, (size_t)(smp_image_end - smp_image));
    struct vmc_mem_slot ram = {
        .size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = SMP_RAM_BYTES, .backing = s->ram};
    int rc = vmc_vm_create(&cfg, &s->vm, &err);
    if (rc == VMC_OK)
        rc = vmc_mem_add(vmc_vm_mem(s->vm), &ram, &err);
    if (rc == VMC_OK)
        rc = add_vcpus(s, &err);
    return rc == VMC_OK ? 0 : fail("create", rc, &err);
}

int smp_vm_exit(void *ctx, uint32_t index, int rc, struct vmc_exit *x)
{
    struct smp_vm *s = ctx;

    if (rc == VMC_OK && x->kind == VMC_EXIT_SHUTDOWN && x->u.stop.why == VMC_STOP_HALT_FOREVER)
        return VMC_RUNNER_IDLE;
    if (rc == VMC_OK && x->kind == VMC_EXIT_IO && x->u.io.port == SMP_PORT && x->u.io.write &&
        x->u.io.data == index) {
        x->answer = VMC_ANSWER_DONE;
        rc = vmc_vcpu_complete(vmc_vm_vcpu(s->vm, index), x);
        __atomic_store_n(&s->end_ns, vmc_runner_now_ns(), __ATOMIC_SEQ_CST);
        if (rc == VMC_OK) {
            __atomic_add_fetch(&s->done, 1, __ATOMIC_SEQ_CST);
            return VMC_RUNNER_AGAIN;
        }
    }
    fprintf(stderr, "smp_vm: vCPU %u: %s exit, %s\n", index, vmc_exit_name(x->kind),
            vmc_strerror(rc));
    __atomic_add_fetch(&s->bad, 1, __ATOMIC_SEQ_CST);
    return VMC_RUNNER_DONE;
}

int smp_vm_start(struct smp_vm *s, struct vmc_runner *r, const struct vmc_sched_vm_config *sched,
                 uint32_t pause_limit, uint32_t flags)
{
    struct vmc_error err = {0};
    struct vmc_runner_guest_config cfg = {.size = sizeof(cfg),
                                          .flags = flags,
                                          .group = VMC_SCHED_ROOT,
                                          .pause_limit = pause_limit,
                                          .sched = *sched,
                                          .vm = s->vm,
                                          .exit = smp_vm_exit,
                                          .ctx = s};

    cfg.sched.vcpus = s->cpus;
    int rc = vmc_runner_attach(r, &cfg, &s->id, &err);
    if (rc != VMC_OK)
        return fail("attach", rc, &err);
    s->r = r;
    rc = vmc_vm_start(s->vm, &err);
    if (rc != VMC_OK)
        return fail("start", rc, &err);
    vmc_vm_resume(s->vm);
    return 0;
}

uint64_t smp_vm_used_ns(const struct smp_vm *s)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < s->cpus; i++)
        sum += vmc_runner_used_ns(s->r, s->id, i);
    return sum;
}

void smp_vm_destroy(struct smp_vm *s)
{
    if (s->r != NULL && vmc_runner_detach(s->r, s->id) != VMC_OK)
        fprintf(stderr, "smp_vm: cannot detach\n");
    vmc_vm_destroy(s->vm);
    free(s->ram);
    *s = (struct smp_vm){0};
}
