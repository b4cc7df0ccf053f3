/* SPDX-License-Identifier: BSD-2-Clause */
/* A VM on the null engine. */
#ifndef VM_FIXTURE_H
#define VM_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "engine_null.h"
#include "test_platform.h"
#include "vm/vm_priv.h"
#include <vmcore/vm.h>

#include <cmocka.h>

#define CPUS_MAX 4

struct vm_fx {
    struct test_platform tp;
    struct null_config cfg;
    struct vmc_vm *vm;
    struct vmc_vcpu *v[CPUS_MAX];
    struct null_vcpu *e[CPUS_MAX]; /* their engines */
    struct vmc_exit x;
    uint64_t seen[16]; /* the program's notes */
};

/* Create and start. */
static inline void vm_up(struct vm_fx *f, const struct vmc_engine_ops *ops, unsigned cpus,
                         uint32_t flags, null_program *program)
{
    struct vmc_error err = {.text = ""};
    f->cfg.program = program;
    f->cfg.ctx = f;
    struct vmc_vm_config c = {
        .size = sizeof(c),
        .max_vcpus = cpus,
        .platform = &f->tp.pf,
        .engine = ops,
        .engine_config = &f->cfg,
        .flags = flags,
    };
    if (vmc_vm_create(&c, &f->vm, &err) != VMC_OK)
        fail_msg("create: %s", err.text);
    for (unsigned i = 0; i < cpus; i++) {
        assert_int_equal(vmc_vcpu_create(f->vm, i, &f->v[i], &err), VMC_OK);
        f->e[i] = f->v[i]->ev;
    }
    struct vmc_mem_slot ram = {.size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = 1 << 20};
    assert_int_equal(vmc_mem_add(vmc_vm_mem(f->vm), &ram, &err), VMC_OK);
    assert_int_equal(vmc_vm_start(f->vm, &err), VMC_OK);
}

static inline int vm_fx_setup(void **state)
{
    struct vm_fx *f = calloc(1, sizeof(*f));
    test_platform_init(&f->tp);
    *state = f;
    return 0;
}

static inline int vm_fx_setup_threads(void **state)
{
    struct vm_fx *f = calloc(1, sizeof(*f));
    test_platform_init_threads(&f->tp);
    *state = f;
    return 0;
}

static inline int vm_fx_teardown(void **state)
{
    struct vm_fx *f = *state;
    vmc_vm_destroy(f->vm);
    test_platform_check(&f->tp);
    free(f);
    return 0;
}

/* Run a vCPU and expect one kind of exit. */
static inline void run_to(struct vm_fx *f, unsigned cpu, uint32_t flags, uint32_t kind)
{
    struct vmc_run_limits lim = {.size = sizeof(lim), .flags = flags};
    assert_int_equal(vmc_vcpu_run(f->v[cpu], &lim, &f->x), VMC_OK);
    assert_string_equal(vmc_exit_name(f->x.kind), vmc_exit_name(kind));
}

/* Fill an exit record of a program. */
static inline int leave(struct null_vcpu *v, struct vmc_exit *out, uint32_t kind)
{
    memset(out, 0, sizeof(*out));
    out->kind = kind;
    out->retired = v->retired - v->run_start;
    return 0;
}

#define vm_test(fn)      cmocka_unit_test_setup_teardown(fn, vm_fx_setup, vm_fx_teardown)
#define vm_test_mt(fn)   cmocka_unit_test_setup_teardown(fn, vm_fx_setup_threads, vm_fx_teardown)

#endif
