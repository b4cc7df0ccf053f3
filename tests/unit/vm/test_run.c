/* SPDX-License-Identifier: BSD-2-Clause */
/* The run loop on one thread: exits, completions, kicks, interrupts, limits, start-up, reset. */
#include "vm_fixture.h"

/* A device whose registers are one byte array. */
static uint8_t reg[16];
static uint64_t reg_read(void *d, uint64_t o, unsigned n)
{
    uint64_t v = 0;
    (void)d;
    memcpy(&v, reg + o, n);
    return v;
}
static void reg_write(void *d, uint64_t o, unsigned n, uint64_t v)
{
    (void)d;
    memcpy(reg + o, &v, n);
}
static const struct vmc_bus_ops reg_ops = {reg_read, reg_write};

/* The program in scratch[0] chooses what happens next. */
enum { P_IO_W, P_IO_R, P_MMIO_R, P_MSR, P_CPUID, P_HYPERCALL, P_HLT, P_SHUTDOWN, P_FAIL, P_WEIRD,
       P_DEBUG, P_EOI, P_BURN, P_LAPIC, P_MSR_CALL };

static int program(struct null_vcpu *v, const struct vmc_run_limits *lim, struct vmc_exit *out)
{
    struct vm_fx *f = v->ctx;
    uint64_t what = v->scratch[0];
    uint64_t data = v->scratch[1];

    for (int vec; (vec = null_take_irq(v)) >= 0;)
        f->seen[v->index] = (uint64_t)vec;
    leave(v, out, VMC_EXIT_NONE);
    switch (what) {
    case P_IO_W:
    case P_IO_R:
        out->kind = VMC_EXIT_IO;
        out->u.io.port = 0x500;
        out->u.io.bytes = 2;
        out->u.io.write = what == P_IO_W;
        out->u.io.data = 0x1234;
        break;
    case P_MMIO_R:
        out->kind = VMC_EXIT_MMIO;
        out->u.mmio.gpa = data;
        out->u.mmio.bytes = 4;
        break;
    case P_LAPIC:
        (void)v->io->mmio(v->io->ctx, true, data, 4, &v->scratch[2]);
        v->scratch[0] = P_HLT;
        return null_hlt(v, out);
    case P_MSR_CALL:
        f->seen[8] = (uint64_t)v->io->msr(v->io->ctx, v->scratch[3] != 0, (uint32_t)data,
                                          &v->scratch[2]);
        out->kind = VMC_EXIT_DEBUG;
        break;
    case P_MSR:
        out->kind = VMC_EXIT_MSR;
        out->u.msr.index = (uint32_t)data;
        break;
    case P_CPUID:
        out->kind = VMC_EXIT_CPUID;
        out->u.cpuid.leaf = (uint32_t)data;
        break;
    case P_HYPERCALL:
        out->kind = VMC_EXIT_HYPERCALL;
        break;
    case P_SHUTDOWN:
        out->kind = VMC_EXIT_SHUTDOWN;
        out->u.stop.why = VMC_STOP_TRIPLE_FAULT;
        break;
    case P_DEBUG:
        out->kind = VMC_EXIT_DEBUG;
        break;
    case P_EOI:
        out->kind = VMC_EXIT_EOI;
        out->u.eoi.vector = (uint8_t)data;
        v->scratch[0] = P_HLT;
        break;
    case P_FAIL:
        return VMC_EHOST;
    case P_WEIRD:
        out->kind = 99;
        break;
    case P_BURN:
        while (!null_poll(v, lim, out)) {
            struct test_platform *tp = (struct test_platform *)v->vm->vm.platform->ctx;
            null_retire(v, 1);
            tp->now_ns += 10;
            if (null_take_irq(v) >= 0)
                f->seen[v->index]++;
        }
        break;
    default:
        return null_hlt(v, out);
    }
    if (out->kind >= VMC_EXIT_IO && out->kind <= VMC_EXIT_HYPERCALL)
        v->scratch[0] = P_HLT;
    return 0;
}

static void one(struct vm_fx *f, uint32_t flags)
{
    vm_up(f, engine_null_pull(), 1, flags, program);
}

/* ---- exits --------------------------------------------------------------------------------- */

static void io_reaches_the_bus(void **state)
{
    struct vm_fx *f = *state;
    one(f, 0);
    assert_int_equal(vmc_bus_attach(vmc_vm_board(f->vm)->pio, 0x500, 4, &reg_ops, NULL, NULL), 0);
    f->e[0]->scratch[0] = P_IO_W;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(reg[0], 0x34);
    assert_int_equal(reg[1], 0x12);
    f->e[0]->scratch[0] = P_IO_R;
    reg[0] = 0x77;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(f->e[0]->completed.u.io.data, 0x1277);
    assert_int_equal(f->e[0]->completed.answer, VMC_ANSWER_DONE);
    struct vmc_vcpu_stats st;
    vmc_vcpu_get_stats(f->v[0], &st);
    assert_int_equal(st.pio, 2);
    assert_int_equal(st.exits[VMC_EXIT_IO], 2);
    const char *name;
    uint64_t value;
    assert_int_equal(vmc_vcpu_engine_stats(f->v[0], &name, &value, 1), 1);
    assert_int_equal(value, 4);
}

static void unclaimed_floats_or_exits(void **state)
{
    struct vm_fx *f = *state;
    one(f, 0);
    f->e[0]->scratch[0] = P_IO_R;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(f->e[0]->completed.u.io.data, 0xffff);
    f->e[0]->scratch[0] = P_MMIO_R;
    f->e[0]->scratch[1] = 0xe0000000;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(f->e[0]->completed.u.mmio.data, 0xffffffff);
}

static void embedder_owes_a_completion(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    struct vmc_x86_state *st = calloc(1, sizeof(*st));
    one(f, VMC_VM_PIO_EXITS | VMC_VM_MMIO_EXITS);
    assert_int_equal(vmc_vcpu_complete(f->v[0], &f->x), VMC_ESTATE);
    f->e[0]->scratch[0] = P_IO_R;
    run_to(f, 0, 0, VMC_EXIT_IO);
    assert_int_equal(f->x.u.io.port, 0x500);
    struct vmc_exit again;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &again), VMC_ESTATE);
    assert_int_equal(vmc_vcpu_set_state(f->v[0], VMC_ST_GPR, st), VMC_ESTATE);
    assert_int_equal(vmc_vcpu_get_state(f->v[0], VMC_ST_GPR, st), VMC_OK);
    struct vmc_event e = {.type = VMC_EV_NMI};
    assert_int_equal(vmc_vcpu_inject(f->v[0], &e), VMC_ESTATE);
    struct vmc_exit wrong = f->x;
    wrong.kind = VMC_EXIT_MMIO;
    assert_int_equal(vmc_vcpu_complete(f->v[0], &wrong), VMC_EINVAL);
    wrong = f->x;
    wrong.answer = 17;
    assert_int_equal(vmc_vcpu_complete(f->v[0], &wrong), VMC_EINVAL);
    f->x.u.io.data = 0x42;
    f->x.answer = VMC_ANSWER_GP;
    assert_int_equal(vmc_vcpu_complete(f->v[0], &f->x), VMC_OK);
    assert_int_equal(f->e[0]->completed.answer, VMC_ANSWER_GP);
    assert_int_equal(vmc_vcpu_complete(f->v[0], &f->x), VMC_ESTATE);
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    f->e[0]->scratch[0] = P_MMIO_R;
    f->e[0]->scratch[1] = 0xe0000000;
    run_to(f, 0, 0, VMC_EXIT_MMIO);
    f->x.answer = VMC_ANSWER_DEFAULT; /* nobody has it: floats */
    assert_int_equal(vmc_vcpu_complete(f->v[0], &f->x), VMC_OK);
    assert_int_equal(f->e[0]->completed.u.mmio.data, UINT64_MAX);
    assert_int_equal(f->e[0]->completed.answer, VMC_ANSWER_DONE);
    free(st);
}

static void exit_mask_shows_what_would_be_handled(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_run_limits lim = {.size = sizeof(lim), .exit_mask = 1u << VMC_EXIT_IO};
    one(f, 0);
    assert_int_equal(vmc_bus_attach(vmc_vm_board(f->vm)->pio, 0x500, 4, &reg_ops, NULL, NULL), 0);
    f->e[0]->scratch[0] = P_IO_W;
    memset(reg, 0, sizeof(reg));
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_OK);
    assert_int_equal(f->x.kind, VMC_EXIT_IO);
    assert_int_equal(reg[0], 0);
    f->x.answer = VMC_ANSWER_DEFAULT;
    assert_int_equal(vmc_vcpu_complete(f->v[0], &f->x), VMC_OK);
    assert_int_equal(reg[0], 0x34);
    run_to(f, 0, 0, VMC_EXIT_IDLE);
}

static void msr_cpuid_and_hypercalls(void **state)
{
    struct vm_fx *f = *state;
    struct null_vcpu *e;
    one(f, 0);
    e = f->e[0];
    e->scratch[0] = P_MSR;
    e->scratch[1] = 0x12345;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(e->completed.answer, VMC_ANSWER_GP);
    e->scratch[0] = P_MSR;
    e->scratch[1] = VMC_MSR_APIC_BASE;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(e->completed.answer, VMC_ANSWER_DONE);
    assert_int_equal(e->completed.u.msr.value, 0xfee00900);
    e->scratch[0] = P_CPUID;
    e->scratch[1] = 1;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(e->completed.u.cpuid.eax, 0x000306a9);
    assert_true(e->completed.u.cpuid.ecx & 1u << 31);
    e->scratch[0] = P_CPUID;
    e->scratch[1] = 0x40000000;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(e->completed.u.cpuid.ebx, 0x4b4d564b);
    e->scratch[0] = P_CPUID;
    e->scratch[1] = 0x40000010;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(e->completed.u.cpuid.eax, 1000000);
    e->scratch[0] = P_CPUID;
    e->scratch[1] = 0x77777777;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(e->completed.u.cpuid.eax, 0);
    e->scratch[0] = P_HYPERCALL;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(e->completed.u.hypercall.ret, (uint64_t)-1000);
}

static void unknown_msrs_exit_when_asked(void **state)
{
    struct vm_fx *f = *state;
    one(f, VMC_VM_MSR_EXITS | VMC_VM_NO_PARAVIRT);
    f->e[0]->scratch[0] = P_MSR;
    f->e[0]->scratch[1] = 0x12345;
    run_to(f, 0, 0, VMC_EXIT_MSR);
    f->x.answer = VMC_ANSWER_DEFAULT;
    assert_int_equal(vmc_vcpu_complete(f->v[0], &f->x), VMC_OK);
    assert_int_equal(f->e[0]->completed.answer, VMC_ANSWER_GP);
    assert_null(vmc_cpu_policy_find(&f->vm->policy, 0x40000000, 0));
}

static void host_failure_kills_the_vcpu(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    one(f, 0);
    f->e[0]->scratch[0] = P_FAIL;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_EHOST);
    f->e[0]->scratch[0] = P_HLT;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_EHOST);
    assert_int_equal(vmc_vm_reset(f->vm), VMC_OK);
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    f->e[0]->scratch[0] = P_WEIRD;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_EINTERNAL);
    assert_int_equal(f->tp.bugs, 1);
    f->tp.bugs = 0;
}

static void triple_fault_stops_the_machine(void **state)
{
    struct vm_fx *f = *state;
    uint32_t why;
    uint64_t detail;
    vm_up(f, engine_null_pull(), 2, 0, program);
    f->e[0]->scratch[0] = P_SHUTDOWN;
    assert_false(vmc_vm_stopped(f->vm, NULL, NULL));
    run_to(f, 0, 0, VMC_EXIT_SHUTDOWN);
    assert_true(vmc_vm_stopped(f->vm, &why, &detail));
    assert_int_equal(why, VMC_STOP_TRIPLE_FAULT);
    run_to(f, 1, 0, VMC_EXIT_SHUTDOWN);
    vmc_vm_request_stop(f->vm, VMC_STOP_POWER_OFF, 0); /* the first reason counts */
    run_to(f, 1, 0, VMC_EXIT_SHUTDOWN);
    assert_int_equal(f->x.u.stop.why, VMC_STOP_TRIPLE_FAULT);
    f->e[0]->scratch[0] = P_HLT;
    assert_int_equal(vmc_vm_reset(f->vm), VMC_OK);
    run_to(f, 0, 0, VMC_EXIT_IDLE);
}

/* ---- kicks, limits ------------------------------------------------------------------------- */

static void kicks_are_sticky_and_collapse(void **state)
{
    struct vm_fx *f = *state;
    one(f, 0);
    f->e[0]->scratch[0] = P_DEBUG;
    vmc_vcpu_kick(f->v[0]);
    vmc_vcpu_kick(f->v[0]);
    run_to(f, 0, 0, VMC_EXIT_KICKED);
    assert_int_equal(f->e[0]->runs, 0);
    run_to(f, 0, 0, VMC_EXIT_DEBUG);
}

static void engine_kicks_of_nobody_are_swallowed(void **state)
{
    struct vm_fx *f = *state;
    one(f, 0);
    f->e[0]->kicked = 1;
    f->e[0]->scratch[0] = P_DEBUG;
    run_to(f, 0, 0, VMC_EXIT_DEBUG);
}

static void instruction_budget_is_exact(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_run_limits lim = {.size = sizeof(lim), .max_insns = 12345};
    one(f, 0);
    f->e[0]->scratch[0] = P_BURN;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_OK);
    assert_int_equal(f->x.kind, VMC_EXIT_BUDGET);
    assert_int_equal(f->x.retired, 12345);
    assert_int_equal(f->e[0]->retired, 12345);
    lim.max_insns = 1;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_OK);
    assert_int_equal(f->e[0]->retired, 12346);
}

static void deadline_ends_a_run(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    one(f, 0);
    f->e[0]->scratch[0] = P_BURN;
    lim.deadline_ns = f->tp.now_ns + 1000;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_OK);
    assert_int_equal(f->x.kind, VMC_EXIT_BUDGET);
    assert_true(f->tp.now_ns >= lim.deadline_ns && f->tp.now_ns < lim.deadline_ns + 100);
}

static void missing_abilities_are_refused(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    struct vmc_vcpu *who;
    vm_up(f, engine_null_inject(), 1, 0, program);
    lim.max_insns = 2;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_ENOTSUP);
    lim.max_insns = 1;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_ENOTSUP);
    lim.max_insns = 0;
    lim.deadline_ns = 1;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_ENOTSUP);
    lim.deadline_ns = 0;
    lim.flags = VMC_RUN_SELF_TIMED;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_ENOTSUP);
    lim.flags = VMC_RUN_PARK; /* the platform has no sync */
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_ENOTSUP);
    lim.flags = 0x80;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_EINVAL);
    lim.flags = 0;
    assert_int_equal(vmc_vm_run(f->vm, &lim, &who, &f->x), VMC_ENOTSUP);
    lim.size = 4;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_EINVAL);
    assert_int_equal(vmc_vcpu_set_debug(f->v[0], NULL, 0), VMC_ENOTSUP);
}

/* ---- interrupts ---------------------------------------------------------------------------- */

static void pulled_interrupts_wake_hlt(void **state)
{
    struct vm_fx *f = *state;
    one(f, 0);
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(f->x.u.idle.why, VMC_IDLE_HLT);
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_SVR, 4, 0x1ff);
    vmc_msi_send(&vmc_vm_board(f->vm)->msi, 0xfee00000, 0x55);
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(f->seen[0], 0x55);
    struct vmc_vcpu_stats st;
    vmc_vcpu_get_stats(f->v[0], &st);
    assert_int_equal(st.irqs, 1);
}

static void note_wake(void *ctx, uint32_t index)
{
    uint64_t *wakes = ctx;
    wakes[index]++;
}

static void an_idle_vcpu_is_announced_when_it_has_work(void **state)
{
    struct vm_fx *f = *state;
    uint64_t wakes[CPUS_MAX] = {0};
    one(f, 0);
    vmc_vm_set_wake_hook(f->vm, note_wake, wakes);
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_SVR, 4, 0x1ff);
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(wakes[0], 0);
    vmc_msi_send(&vmc_vm_board(f->vm)->msi, 0xfee00000, 0x55);
    assert_int_equal(wakes[0], 1);
    vmc_vcpu_kick(f->v[0]);
    assert_int_equal(wakes[0], 2);
    run_to(f, 0, 0, VMC_EXIT_KICKED);
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(f->seen[0], 0x55);
    assert_int_equal(wakes[0], 2);
    vmc_vm_set_wake_hook(f->vm, NULL, NULL);
    vmc_vcpu_kick(f->v[0]);
    assert_int_equal(wakes[0], 2);
}

static void injected_interrupts_wait_for_the_window(void **state)
{
    struct vm_fx *f = *state;
    struct null_vcpu *e;
    vm_up(f, engine_null_inject(), 1, 0, program);
    e = f->e[0];
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_SVR, 4, 0x1ff);
    e->irq_on = false;
    e->scratch[0] = P_DEBUG;
    vmc_msi_send(&vmc_vm_board(f->vm)->msi, 0xfee00000, 0x55);
    run_to(f, 0, 0, VMC_EXIT_DEBUG);
    assert_true(e->window);
    assert_int_equal(e->injections, 0);
    e->irq_on = true;
    vmc_msi_send(&vmc_vm_board(f->vm)->msi, 0xfee00000, 0x65);
    run_to(f, 0, 0, VMC_EXIT_DEBUG);
    assert_int_equal(e->injections, 1);
    assert_int_equal(e->injected[0].vector, 0x65);
    assert_int_equal(e->injected[0].type, VMC_EV_IRQ);
    assert_false(e->window); /* 0x55 is below what is in service */
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_EOI, 4, 0);
    run_to(f, 0, 0, VMC_EXIT_DEBUG);
    assert_int_equal(e->injected[1].vector, 0x55);
}

static void engine_owned_apics_get_messages(void **state)
{
    struct vm_fx *f = *state;
    struct null_vm *vm;
    vm_up(f, engine_null_irqchip(), 1, 0, program);
    vm = f->vm->evm;
    assert_int_equal(vm->routes, 24); /* published at start */
    struct vmc_irq_line l = vmc_vm_gsi(f->vm, 20);
    struct vmc_bus *mmio = vmc_vm_board(f->vm)->mmio;
    assert_true(vmc_bus_write(mmio, 0xfec00000, 4, 0x10 + 40));
    assert_true(vmc_bus_write(mmio, 0xfec00010, 4, 0x8000 | 0x77));
    assert_int_equal(vm->routes, 25);
    vmc_irq_set(&l, true);
    assert_int_equal(vm->msis, 1);
    assert_int_equal((uint32_t)vm->last_msi & 0xff, 0x77);
    f->e[0]->scratch[0] = P_EOI; /* still up: sent again */
    f->e[0]->scratch[1] = 0x77;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(vm->msis, 2);
    vmc_msi_send(&vmc_vm_board(f->vm)->msi, 0xfee01000, 0x31);
    assert_int_equal(vm->msis, 3);
}

/* Let the watch look once at vCPUs that each ran since its last look. */
static bool stopped_after_a_look(struct vm_fx *f)
{
    f->tp.now_ns += 300000000;
    vmc_timerq_advance(vmc_vm_board(f->vm)->timers, f->tp.now_ns);
    return vmc_vm_stopped(f->vm, NULL, NULL);
}

static void vcpus_that_halt_for_ever_inside_the_engine_are_noticed(void **state)
{
    struct vm_fx *f = *state;
    uint32_t why = 0;

    vm_up(f, engine_null_irqchip(), 2, 0, program);
    for (unsigned i = 0; i < 2; i++) {
        f->e[i]->scratch[0] = P_HLT;
        f->e[i]->irq_on = false;
    }
    for (unsigned i = 0; i < 12; i++) { /* one of the two is busy now and then */
        run_to(f, 0, 0, VMC_EXIT_IDLE);
        if (i % 3 == 2) {
            f->e[1]->scratch[0] = P_DEBUG;
            run_to(f, 1, 0, VMC_EXIT_DEBUG);
        } else {
            f->e[1]->scratch[0] = P_HLT;
            run_to(f, 1, 0, VMC_EXIT_IDLE);
        }
        assert_false(stopped_after_a_look(f));
    }
    unsigned looks = 0;
    f->e[1]->scratch[0] = P_HLT;
    do {
        run_to(f, 0, 0, VMC_EXIT_IDLE);
        run_to(f, 1, 0, VMC_EXIT_IDLE);
        assert_in_range(++looks, 1, 8);
    } while (!stopped_after_a_look(f));
    assert_in_range(looks, 3, 8);
    assert_true(vmc_vm_stopped(f->vm, &why, NULL));
    assert_int_equal(why, VMC_STOP_HALT_FOREVER);
    run_to(f, 0, 0, VMC_EXIT_SHUTDOWN);
}

static void engine_owned_apics_take_the_8259_by_injection(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_bus *pio;
    vm_up(f, engine_null_irqchip(), 1, 0, program);
    pio = vmc_vm_board(f->vm)->pio;
    static const struct {
        uint16_t port;
        uint8_t v;
    } init[] = {{0x20, 0x11}, {0x21, 0x30}, {0x21, 4}, {0x21, 1}, {0x21, 0}};
    for (unsigned i = 0; i < 5; i++)
        assert_true(vmc_bus_write(pio, init[i].port, 1, init[i].v));
    struct vmc_irq_line l = vmc_vm_gsi(f->vm, 1);
    vmc_irq_set(&l, true);
    f->e[0]->scratch[0] = P_DEBUG;
    run_to(f, 0, 0, VMC_EXIT_DEBUG);
    assert_int_equal(f->e[0]->injections, 1);
    assert_int_equal(f->e[0]->injected[0].vector, 0x31);
}

static void nmi_is_injected(void **state)
{
    struct vm_fx *f = *state;
    vm_up(f, engine_null_pull(), 2, 0, program);
    f->e[0]->scratch[0] = P_LAPIC;
    f->e[0]->scratch[1] = 0xfee00300;
    f->e[0]->scratch[2] = 0x40400; /* NMI to self */
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    f->e[0]->scratch[0] = P_DEBUG;
    run_to(f, 0, 0, VMC_EXIT_DEBUG);
    assert_int_equal(f->e[0]->injections, 1);
    assert_int_equal(f->e[0]->injected[0].type, VMC_EV_NMI);
    struct vmc_event e = {.vector = 13, .type = VMC_EV_EXCEPTION, .has_code = true};
    assert_int_equal(vmc_vcpu_inject(f->v[0], &e), VMC_OK);
    assert_int_equal(f->e[0]->injected[1].vector, 13);
}

static void application_processors_start_by_ipi(void **state)
{
    struct vm_fx *f = *state;
    vm_up(f, engine_null_pull(), 2, 0, program);
    run_to(f, 1, 0, VMC_EXIT_IDLE);
    assert_int_equal(f->x.u.idle.why, VMC_IDLE_WAIT_SIPI);
    assert_int_equal(f->e[1]->runs, 0);
    struct vmc_x86_state *st = calloc(1, sizeof(*st));
    assert_int_equal(vmc_vcpu_get_state(f->v[1], VMC_ST_RUN, st), VMC_OK);
    assert_int_equal(st->activity, VMC_RUN_WAIT_SIPI);
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_ICR2, 4, 1u << 24);
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_ICR, 4, 0x4500);
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_ICR, 4, 0x4609);
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_ICR, 4, 0x4609);
    f->e[1]->scratch[0] = P_DEBUG;
    run_to(f, 1, 0, VMC_EXIT_DEBUG);
    assert_int_equal(f->e[1]->st.seg[VMC_CS].selector, 0x900);
    assert_int_equal(f->e[1]->st.seg[VMC_CS].base, 0x9000);
    assert_int_equal(f->e[1]->st.rip, 0);
    /* one that runs ignores SIPI, and obeys INIT */
    f->e[1]->st.rip = 0x1234;
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_ICR, 4, 0x460a);
    run_to(f, 1, 0, VMC_EXIT_DEBUG);
    assert_int_equal(f->e[1]->st.rip, 0x1234);
    f->e[1]->st.cr0 = 0x80000011 | VMC_CR0_CD;
    f->e[1]->st.xcr0 = 7;
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_ICR, 4, 0x4500);
    run_to(f, 1, 0, VMC_EXIT_IDLE);
    assert_int_equal(f->e[1]->st.rip, 0xfff0);
    assert_int_equal(f->e[1]->st.cr0, VMC_CR0_CD | VMC_CR0_ET);
    assert_int_equal(f->e[1]->st.xcr0, 7);
    assert_int_equal(f->e[1]->st.gpr[VMC_RDX], 0x000306a9);
    /* INIT to the boot processor starts it at the reset vector */
    f->e[0]->st.rip = 1;
    vmci_lapic_write(f->v[1]->lapic, VMCI_APIC_ICR2, 4, 0);
    vmci_lapic_write(f->v[1]->lapic, VMCI_APIC_ICR, 4, 0x4500);
    f->e[0]->scratch[0] = P_DEBUG;
    run_to(f, 0, 0, VMC_EXIT_DEBUG);
    assert_int_equal(f->e[0]->st.rip, 0xfff0);
    free(st);
}

static void halt_without_a_way_out_is_reported(void **state)
{
    struct vm_fx *f = *state;
    vm_up(f, engine_null_pull(), 2, 0, program);
    f->e[0]->irq_on = false;
    run_to(f, 0, 0, VMC_EXIT_SHUTDOWN);
    assert_int_equal(f->x.u.stop.why, VMC_STOP_HALT_FOREVER);
}

static void apic_page_and_msrs_belong_to_the_vcpu(void **state)
{
    struct vm_fx *f = *state;
    vm_up(f, engine_null_pull(), 2, 0, program);
    struct null_vcpu *e = f->e[0];
    e->scratch[0] = P_MMIO_R;
    e->scratch[1] = 0xfee00030;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(e->completed.u.mmio.data, 0x01050014);
    e->scratch[0] = P_MSR_CALL; /* move the page */
    e->scratch[1] = VMC_MSR_APIC_BASE;
    e->scratch[2] = 0xd0000900;
    e->scratch[3] = 1;
    run_to(f, 0, 0, VMC_EXIT_DEBUG);
    assert_int_equal(f->seen[8], VMC_IO_DONE);
    e->scratch[0] = P_MMIO_R;
    e->scratch[1] = 0xfee00030;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(e->completed.u.mmio.data, 0xffffffff);
    e->scratch[0] = P_MMIO_R;
    e->scratch[1] = 0xd0000030;
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    assert_int_equal(e->completed.u.mmio.data, 0x01050014);
    assert_int_equal(e->io->get_tpr(e->io->ctx), 0);
    e->io->set_tpr(e->io->ctx, 5);
    assert_int_equal(vmci_lapic_read(f->v[0]->lapic, VMCI_APIC_TPR, 4), 0x50);
}

/* Whoever runs the timers is late: the interrupt is saved all the same. */
static void state_has_the_end_of_a_deadline(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_x86_state *st = calloc(1, sizeof(*st));
    vm_up(f, engine_null_pull(), 1, 0, program);
    struct vmci_lapic *l = f->v[0]->lapic;
    uint64_t tsc, hz;

    l->chip->ops->tsc(l->chip->ctx, 0, &tsc, &hz);
    vmci_lapic_write(l, VMCI_APIC_SVR, 4, 0x1ff);
    vmci_lapic_write(l, VMCI_APIC_LVT_TIMER, 4, 0x40041);
    vmci_apic_timer_set_deadline(l, tsc + 1000000);
    f->tp.now_ns = l->timer_due;
    assert_int_equal(vmc_vcpu_get_state(f->v[0], VMC_ST_ALL, st), VMC_OK);
    vmci_lapic_reset(l, false);
    assert_int_equal(vmc_vcpu_set_state(f->v[0], VMC_ST_ALL, st), VMC_OK);
    assert_int_equal(vmci_ld_le32(st->lapic + VMCI_APIC_IRR + 0x20), 1u << 1);
    assert_int_equal(vmci_lapic_read(l, VMCI_APIC_IRR + 0x20, 4), 1u << 1);
    free(st);
}

static void without_controllers_the_embedder_injects(void **state)
{
    struct vm_fx *f = *state;
    one(f, VMC_VM_NO_IRQCHIP);
    assert_null(vmc_vm_gsi(f->vm, 4).set);
    struct null_vcpu *e = f->e[0];
    assert_int_equal(e->io->irq_pending(e->io->ctx), -1);
    assert_int_equal(e->io->irq_ack(e->io->ctx), -1);
    e->io->set_tpr(e->io->ctx, 0x1f);
    assert_int_equal(e->io->get_tpr(e->io->ctx), 0xf);
    run_to(f, 0, 0, VMC_EXIT_IDLE);
    struct vmc_event ev = {.vector = 0x20, .type = VMC_EV_IRQ};
    assert_int_equal(vmc_vcpu_inject(f->v[0], &ev), VMC_OK);
    e->irq_on = false;
    assert_int_equal(vmc_vcpu_inject(f->v[0], &ev), VMC_EAGAIN);
}

/* ---- self-timing --------------------------------------------------------------------------- */

static void self_timed_runs_advance_timers(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_run_limits lim = {.size = sizeof(lim), .flags = VMC_RUN_SELF_TIMED};
    one(f, 0);
    struct vmci_lapic *l = f->v[0]->lapic;
    vmci_lapic_write(l, VMCI_APIC_SVR, 4, 0x1ff);
    vmci_lapic_write(l, VMCI_APIC_TIMER_DIVIDE, 4, 0xb);
    vmci_lapic_write(l, VMCI_APIC_LVT_TIMER, 4, 0x40);
    vmci_lapic_write(l, VMCI_APIC_TIMER_INIT, 4, 5000);
    f->e[0]->scratch[0] = P_BURN;
    lim.deadline_ns = f->tp.now_ns + 20000;
    assert_int_equal(vmc_vcpu_run(f->v[0], &lim, &f->x), VMC_OK);
    assert_int_equal(f->x.kind, VMC_EXIT_BUDGET);
    assert_int_equal(f->seen[0], 0x40);
    /* idle: the deadline of the next timer is told */
    f->e[0]->scratch[0] = P_HLT;
    vmci_lapic_write(l, VMCI_APIC_EOI, 4, 0);
    vmci_lapic_write(l, VMCI_APIC_TIMER_INIT, 4, 5000);
    run_to(f, 0, VMC_RUN_SELF_TIMED, VMC_EXIT_IDLE);
    assert_int_equal(f->x.u.idle.deadline_ns, f->tp.now_ns + 5000);
    f->tp.now_ns += 5000;
    run_to(f, 0, VMC_RUN_SELF_TIMED, VMC_EXIT_IDLE);
    assert_int_equal(f->seen[0], 0x40);
    assert_int_equal(f->x.u.idle.deadline_ns, UINT64_MAX);
}

/* ---- pause, life --------------------------------------------------------------------------- */

static void pause_keeps_vcpus_out(void **state)
{
    struct vm_fx *f = *state;
    one(f, 0);
    f->e[0]->scratch[0] = P_DEBUG;
    vmc_vm_pause(f->vm);
    assert_true(vmc_vm_quiesced(f->vm));
    assert_int_equal(vmc_vm_pause_wait(f->vm, 0), VMC_OK);
    run_to(f, 0, 0, VMC_EXIT_KICKED);
    run_to(f, 0, 0, VMC_EXIT_KICKED);
    assert_int_equal(f->e[0]->runs, 0);
    vmc_vm_resume(f->vm);
    run_to(f, 0, 0, VMC_EXIT_DEBUG);
}

static void reset_restores_power_on_state(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_x86_state *st = calloc(1, sizeof(*st));
    vm_up(f, engine_null_pull(), 2, 0, program);
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_SVR, 4, 0x1ff);
    f->e[0]->st.rip = 5;
    vmc_vm_request_stop(f->vm, VMC_STOP_RESET, 0);
    run_to(f, 0, 0, VMC_EXIT_SHUTDOWN);
    assert_int_equal(vmc_vm_reset(f->vm), VMC_OK);
    assert_int_equal(vmc_vcpu_get_state(f->v[0], VMC_ST_RIP | VMC_ST_GPR | VMC_ST_MSR, st), 0);
    assert_int_equal(st->rip, 0xfff0);
    assert_int_equal(st->gpr[VMC_RDX], 0x000306a9);
    assert_int_equal(st->msr.apic_base, 0xfee00900);
    assert_int_equal(vmci_lapic_read(f->v[0]->lapic, VMCI_APIC_SVR, 4), 0xff);
    assert_int_equal(vmc_vcpu_get_state(f->v[0], 1u << 20, st), VMC_EINVAL);
    /* the whole state, local APIC included, goes out and in */
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_SVR, 4, 0x1ff);
    vmci_lapic_write(f->v[0]->lapic, VMCI_APIC_TPR, 4, 0x30);
    assert_int_equal(vmc_vcpu_get_state(f->v[0], VMC_ST_ALL, st), VMC_OK);
    assert_int_equal(st->cr8, 3);
    assert_int_equal(vmc_vm_reset(f->vm), VMC_OK);
    assert_int_equal(vmc_vcpu_set_state(f->v[0], VMC_ST_ALL, st), VMC_OK);
    assert_int_equal(vmci_lapic_read(f->v[0]->lapic, VMCI_APIC_SVR, 4), 0x1ff);
    assert_int_equal(vmci_lapic_read(f->v[0]->lapic, VMCI_APIC_TPR, 4), 0x30);
    st->msr.apic_base = 0xfee00400;
    assert_int_equal(vmc_vcpu_set_state(f->v[0], VMC_ST_MSR, st), VMC_EINVAL);
    free(st);
}

static void engine_and_device_writes_share_a_log(void **state)
{
    struct vm_fx *f = *state;
    struct null_vm *vm;
    uint64_t a[4], b[4];
    vm_up(f, engine_null_irqchip(), 1, 0, program);
    vm = f->vm->evm;
    assert_int_equal(vmc_vm_dirty_start(f->vm, 0), VMC_OK);
    assert_true(vm->logging);
    assert_int_equal(vmc_vm_dirty_start(f->vm, 1), VMC_OK);
    assert_int_equal(vmc_vm_dirty_take(f->vm, 0, 0, 256, a, 4), VMC_OK);
    assert_int_equal(vmc_vm_dirty_take(f->vm, 1, 0, 256, b, 4), VMC_OK);
    vm->dirty = 0x8000000000000006ull; /* the processor's writes */
    assert_int_equal(vmc_mem_write(vmc_vm_mem(f->vm), 0x8000, "x", 1), VMC_OK); /* a device's */
    assert_int_equal(vmc_vm_dirty_take(f->vm, 0, 0, 256, a, 4), VMC_OK);
    assert_int_equal(a[0], 0x8000000000000106ull);
    assert_int_equal(a[1] | a[2] | a[3], 0);
    assert_int_equal(vmc_vm_dirty_take(f->vm, 1, 0, 256, b, 4), VMC_OK);
    assert_int_equal(b[0], a[0]); /* the other client misses nothing */
    assert_int_equal(vmc_vm_dirty_take(f->vm, 0, 0, 256, a, 4), VMC_OK);
    assert_int_equal(a[0], 0);
    assert_int_equal(vmc_vm_dirty_stop(f->vm, 0), VMC_OK);
    assert_true(vm->logging);
    assert_int_equal(vmc_vm_dirty_stop(f->vm, 1), VMC_OK);
    assert_false(vm->logging);
}

static void bad_configurations_are_explained(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_error err;
    struct vmc_vcpu *v;
    struct vmc_engine_ops old = *engine_null_pull();
    struct vmc_vm_config good = {.size = sizeof(good), .max_vcpus = 2, .platform = &f->tp.pf,
                                 .engine = engine_null_pull(), .engine_config = &f->cfg};
    struct vmc_vm_config c = good;
    c.size = 3;
    assert_int_equal(vmc_vm_create(&c, &f->vm, &err), VMC_EINVAL);
    c = good;
    c.engine = NULL;
    assert_int_equal(vmc_vm_create(&c, &f->vm, &err), VMC_EINVAL);
    c = good;
    c.max_vcpus = 0;
    assert_int_equal(vmc_vm_create(&c, &f->vm, &err), VMC_EINVAL);
    c.max_vcpus = 65;
    assert_int_equal(vmc_vm_create(&c, &f->vm, &err), VMC_ELIMIT);
    assert_non_null(strstr(err.text, "64"));
    c = good;
    c.flags = 1u << 30;
    assert_int_equal(vmc_vm_create(&c, &f->vm, &err), VMC_EINVAL);
    c = good;
    old.abi++;
    c.engine = &old;
    assert_int_equal(vmc_vm_create(&c, &f->vm, &err), VMC_EVERSION);
    c = good;
    c.engine = engine_null_inject();
    c.flags = VMC_VM_DETERMINISTIC;
    assert_int_equal(vmc_vm_create(&c, &f->vm, &err), VMC_ENOTSUP);
    f->cfg.fail_vm_init = VMC_EHOST;
    assert_int_equal(vmc_vm_create(&good, &f->vm, &err), VMC_EHOST);
    f->cfg.fail_vm_init = 0;
    assert_int_equal(vmc_vm_create(&good, &f->vm, &err), VMC_OK);
    assert_int_equal(vmc_vm_start(f->vm, &err), VMC_ESTATE); /* no vCPU 0 */
    assert_int_equal(vmc_vcpu_create(f->vm, 2, &v, &err), VMC_ERANGE);
    f->cfg.fail_vcpu_init = VMC_EPERM;
    assert_int_equal(vmc_vcpu_create(f->vm, 0, &v, &err), VMC_EPERM);
    f->cfg.fail_vcpu_init = 0;
    assert_int_equal(vmc_vcpu_create(f->vm, 0, &v, &err), VMC_OK);
    assert_int_equal(vmc_vcpu_create(f->vm, 0, &v, &err), VMC_EEXIST);
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    assert_int_equal(vmc_vcpu_run(v, &lim, &f->x), VMC_ESTATE); /* not started */
    f->cfg.fail_policy = VMC_ENOTSUP;
    assert_int_equal(vmc_vm_start(f->vm, &err), VMC_ENOTSUP);
    f->cfg.fail_policy = 0;
    assert_int_equal(vmc_vm_start(f->vm, &err), VMC_OK);
    assert_int_equal(vmc_vm_start(f->vm, &err), VMC_ESTATE);
    assert_int_equal(vmc_vcpu_create(f->vm, 1, &v, &err), VMC_ESTATE);
    assert_int_equal(vmc_vm_memory_changed(f->vm), VMC_OK);
    assert_null(vmc_vm_vcpu(f->vm, 9));
    assert_ptr_equal(vmc_vm_vcpu(f->vm, 0), f->vm->vcpu[0]);
}

static void creation_fails_cleanly_without_memory(void **state)
{
    struct vm_fx *f = *state;
    struct vmc_vm_config c = {.size = sizeof(c), .max_vcpus = 2, .platform = &f->tp.pf,
                              .engine = engine_null_pull(), .engine_config = &f->cfg};
    unsigned failures = 0;
    for (uint64_t n = 1;; n++, failures++) {
        struct vmc_vcpu *v;
        f->tp.fail_after = f->tp.allocs + n;
        int rc = vmc_vm_create(&c, &f->vm, NULL);
        if (rc == VMC_OK)
            rc = vmc_vcpu_create(f->vm, 1, &v, NULL);
        f->tp.fail_after = 0;
        if (rc == VMC_OK)
            break;
        assert_int_equal(rc, VMC_ENOMEM);
        vmc_vm_destroy(f->vm);
        f->vm = NULL;
        assert_int_equal(f->tp.live, 0);
    }
    assert_true(failures > 8);
}

static void every_exit_has_a_name(void **state)
{
    (void)state;
    for (uint32_t k = 0; k < VMC_EXIT_KINDS; k++)
        assert_true(strlen(vmc_exit_name(k)) > 1);
    assert_string_equal(vmc_exit_name(VMC_EXIT_KINDS), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        vm_test(io_reaches_the_bus),
        vm_test(unclaimed_floats_or_exits),
        vm_test(embedder_owes_a_completion),
        vm_test(exit_mask_shows_what_would_be_handled),
        vm_test(msr_cpuid_and_hypercalls),
        vm_test(unknown_msrs_exit_when_asked),
        vm_test(host_failure_kills_the_vcpu),
        vm_test(triple_fault_stops_the_machine),
        vm_test(kicks_are_sticky_and_collapse),
        vm_test(engine_kicks_of_nobody_are_swallowed),
        vm_test(instruction_budget_is_exact),
        vm_test(deadline_ends_a_run),
        vm_test(missing_abilities_are_refused),
        vm_test(pulled_interrupts_wake_hlt),
        vm_test(an_idle_vcpu_is_announced_when_it_has_work),
        vm_test(injected_interrupts_wait_for_the_window),
        vm_test(engine_owned_apics_get_messages),
        vm_test(vcpus_that_halt_for_ever_inside_the_engine_are_noticed),
        vm_test(engine_owned_apics_take_the_8259_by_injection),
        vm_test(nmi_is_injected),
        vm_test(application_processors_start_by_ipi),
        vm_test(halt_without_a_way_out_is_reported),
        vm_test(apic_page_and_msrs_belong_to_the_vcpu),
        vm_test(state_has_the_end_of_a_deadline),
        vm_test(without_controllers_the_embedder_injects),
        vm_test(self_timed_runs_advance_timers),
        vm_test(pause_keeps_vcpus_out),
        vm_test(reset_restores_power_on_state),
        vm_test(engine_and_device_writes_share_a_log),
        vm_test(bad_configurations_are_explained),
        vm_test(creation_fails_cleanly_without_memory),
        cmocka_unit_test(every_exit_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
