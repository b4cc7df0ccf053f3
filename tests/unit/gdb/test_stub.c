/* SPDX-License-Identifier: BSD-2-Clause */
/* Packets to the GDB stub of a VM on the software engine, and what the VM does then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test_platform.h"
#include <vmcore/engine.h>
#include <vmcore/gdb.h>
#include <vmcore/vm.h>

#include <cmocka.h>

#define CODE 0x1000u

struct fx {
    struct test_platform tp;
    struct vmc_vm *vm;
    struct vmc_vcpu *v;
    struct vmc_gdb *g;
    char out[1024];
    size_t out_len;
};

static void send_out(void *ctx, const void *data, size_t bytes)
{
    struct fx *f = ctx;

    assert_true(f->out_len + bytes < sizeof(f->out));
    memcpy(f->out + f->out_len, data, bytes);
    f->out_len += bytes;
    f->out[f->out_len] = '\0';
}

/* A loop of four instructions at CODE, in real mode. */
static int setup(void **state)
{
    static const uint8_t loop[] = {0x90, 0x90, 0x90, 0xeb, 0xfb};
    struct fx *f = calloc(1, sizeof(*f));
    struct vmc_error err;
    struct vmc_mem_slot ram = {.size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = 1 << 16};
    struct vmc_x86_state *st = calloc(1, sizeof(*st));

    test_platform_init(&f->tp);
    struct vmc_vm_config cfg = {.size = sizeof(cfg),
                                .max_vcpus = 1,
                                .platform = &f->tp.pf,
                                .engine = vmc_engine_soft(),
                                .flags = VMC_VM_NO_IRQCHIP};
    struct vmc_gdb_config gc = {.size = sizeof(gc), .vcpus = 1, .send = send_out, .ctx = f};
    assert_int_equal(vmc_vm_create(&cfg, &f->vm, &err), VMC_OK);
    assert_int_equal(vmc_mem_add(vmc_vm_mem(f->vm), &ram, &err), VMC_OK);
    assert_int_equal(vmc_vcpu_create(f->vm, 0, &f->v, &err), VMC_OK);
    assert_int_equal(vmc_vm_start(f->vm, &err), VMC_OK);
    assert_int_equal(vmc_mem_write(vmc_vm_mem(f->vm), CODE, loop, sizeof(loop)), VMC_OK);
    assert_int_equal(vmc_vcpu_get_state(f->v, VMC_ST_RIP | VMC_ST_SEG, st), VMC_OK);
    st->rip = CODE;
    st->seg[VMC_CS].base = 0;
    st->seg[VMC_CS].selector = 0;
    assert_int_equal(vmc_vcpu_set_state(f->v, VMC_ST_RIP | VMC_ST_SEG, st), VMC_OK);
    free(st);
    gc.vm = f->vm;
    assert_int_equal(vmc_gdb_create(&f->tp.pf, &gc, &f->g, &err), VMC_OK);
    vmc_gdb_connected(f->g);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fx *f = *state;

    vmc_gdb_destroy(f->g);
    vmc_vm_destroy(f->vm);
    test_platform_check(&f->tp);
    free(f);
    return 0;
}

/* One packet; its answer is to be found in the text that the stub sends. */
static void packet(struct fx *f, const char *text, const char *answer)
{
    char line[256], want[64];
    uint8_t sum = 0;
    size_t used = 0;

    for (const char *p = text; *p != '\0'; p++)
        sum = (uint8_t)(sum + (uint8_t)*p);
    int n = snprintf(line, sizeof(line), "$%s#%02x", text, sum);
    f->out_len = 0;
    assert_int_equal(vmc_gdb_input(f->g, line, (size_t)n, &used), VMC_GDB_NONE);
    assert_int_equal(used, n);
    snprintf(want, sizeof(want), "+$%s#", answer);
    if (strncmp(f->out, want, strlen(want)) != 0)
        fail_msg("%s: answer %s, expected %s", text, f->out, want);
}

/* A thousand instructions at most; where a breakpoint stopped it, 0: nowhere. */
static uint64_t run(struct fx *f)
{
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = 1000};
    struct vmc_exit x;

    assert_int_equal(vmc_vcpu_run(f->v, &lim, &x), VMC_OK);
    if (x.kind == VMC_EXIT_BUDGET)
        return 0;
    assert_int_equal(x.kind, VMC_EXIT_DEBUG);
    return x.rip;
}

static void a_refused_watchpoint_costs_no_breakpoint(void **state)
{
    struct fx *f = *state;

    packet(f, "Z0,1001,1", "OK");
    packet(f, "Z2,2000,0", "E02"); /* of no bytes */
    assert_int_equal(run(f), CODE + 1);
    packet(f, "z0,1001,1", "OK");
    packet(f, "Z0,1002,1", "OK");
    assert_int_equal(run(f), CODE + 2);
    packet(f, "z0,1002,1", "OK");
    assert_int_equal(run(f), 0);
}

static void more_breakpoints_than_the_engine_has_are_refused_one_by_one(void **state)
{
    struct fx *f = *state;
    char text[32];
    unsigned taken = 0;

    for (unsigned i = 0; i < 100; i++) {
        size_t used;
        uint8_t sum = 0;
        char line[64];
        snprintf(text, sizeof(text), "Z0,%x,1", CODE + 0x800 + i);
        for (const char *p = text; *p != '\0'; p++)
            sum = (uint8_t)(sum + (uint8_t)*p);
        int n = snprintf(line, sizeof(line), "$%s#%02x", text, sum);
        f->out_len = 0;
        (void)vmc_gdb_input(f->g, line, (size_t)n, &used);
        taken += strstr(f->out, "$OK") != NULL;
    }
    assert_in_range(taken, 16, 99);
    packet(f, "z0,1800,1", "OK"); /* room for one */
    packet(f, "Z0,1002,1", "OK");
    assert_int_equal(run(f), CODE + 2);
}

static void breakpoints_go_with_the_debugger(void **state)
{
    struct fx *f = *state;

    packet(f, "Z0,1001,1", "OK");
    assert_int_equal(run(f), CODE + 1);
    vmc_gdb_connected(f->g); /* the connection broke, or is another one */
    assert_int_equal(run(f), 0);
    packet(f, "Z0,1002,1", "OK");
    assert_int_equal(run(f), CODE + 2);
}

static void memory_is_seen_with_address_line_20_off(void **state)
{
    struct fx *f = *state;
    struct vmc_irq_line line = vmc_vm_a20(f->vm);

    packet(f, "m101000,4", "E14"); /* nothing is there */
    vmc_irq_set(&line, false);
    packet(f, "m101000,4", "909090eb");
    packet(f, "M101001,1:cc", "OK");
    packet(f, "m1000,4", "90cc90eb");
    vmc_irq_set(&line, true);
    packet(f, "m101000,4", "E14");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(a_refused_watchpoint_costs_no_breakpoint),
        T(more_breakpoints_than_the_engine_has_are_refused_one_by_one),
        T(breakpoints_go_with_the_debugger),
        T(memory_is_seen_with_address_line_20_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
