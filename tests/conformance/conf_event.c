/* SPDX-License-Identifier: BSD-2-Clause */
/* Interrupts, NMIs and exceptions: when they may come, and that they come. */
#include "conf.h"

GUEST(g_wait, 64, "1: cmp byte ptr [0x20000], 0; jne 2f; mov dx, 0x500; out dx, al; jmp 1b;"
                  "2: out 0x7e, al");
GUEST(g_sti, 64, "mov dx, 0x500; out dx, al; sti; nop; nop; cli; out 0x7e, al");

static void request(struct conf *c, int vector)
{
    __atomic_store_n(&c->irq, vector, __ATOMIC_RELEASE);
    c->ops->irq_notify(c->ev[0]);
}

static void pulled_interrupts_wait_for_sti(struct conf *c)
{
    NEED(VMC_CAP_IRQ_PULL);
    LOAD(LONG64, g_sti);
    request(c, 0x45);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, DEV_PORT)); /* interrupts are off: the guest goes on */
    CHECK_EQ(c->irq_taken, 0);
    conf_complete(c);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, VECTOR));
    CHECK_EQ(c->x.u.io.data, 0x45);
    CHECK_EQ(c->irq_taken, 1);
    conf_complete(c);
    uint64_t ret;
    CHECK_EQ(vmc_mem_read(c->mem, STACK - 40, &ret, 8), VMC_OK);
    CHECK_EQ(ret, CODE + 7); /* after the instruction that follows STI */
    if (!conf_serve(c))
        return;
    CHECK(conf_is_out(c, END));
}

static void injected_interrupts_wait_for_the_window(struct conf *c)
{
    struct vmc_event e = {.type = VMC_EV_IRQ, .vector = 0x45};

    if (c->info.caps & (VMC_CAP_IRQ_PULL | VMC_CAP_IRQCHIP))
        SKIP("the engine takes interrupts in another way");
    LOAD(LONG64, g_sti);
    if (!conf_run(c))
        return;
    conf_complete(c);
    CHECK_EQ(c->ops->can_inject(c->ev[0], &e), VMC_EAGAIN);
    CHECK_EQ(c->ops->want_window(c->ev[0], true), VMC_OK);
    if (!conf_run(c))
        return;
    if (c->emulated && conf_is_out(c, END))
        SKIP("this emulated KVM looks for a window only now and then");
    CHECK_EQ(c->x.kind, VMC_EXIT_IRQ_WINDOW);
    CHECK_EQ(c->ops->can_inject(c->ev[0], &e), VMC_OK);
    CHECK_EQ(c->ops->inject(c->ev[0], &e), VMC_OK);
    CHECK_EQ(c->ops->want_window(c->ev[0], false), VMC_OK);
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, VECTOR));
    CHECK_EQ(c->x.u.io.data, 0x45);
    conf_complete(c);
    if (!conf_serve(c))
        return;
    CHECK(conf_is_out(c, END));
}

GUEST(g_hlt_irq, 64, "sti; hlt; cli; out 0x7e, al");

static void an_interrupt_ends_halt(struct conf *c)
{
    struct vmc_event e = {.type = VMC_EV_IRQ, .vector = 0x51};

    if (c->info.caps & VMC_CAP_IRQCHIP)
        SKIP("the engine handles HLT itself");
    LOAD(LONG64, g_hlt_irq);
    if (!conf_run(c))
        return;
    CHECK_EQ(c->x.kind, VMC_EXIT_IDLE);
    CHECK(c->x.u.idle.irqs_on);
    if (c->info.caps & VMC_CAP_IRQ_PULL) {
        request(c, 0x51);
    } else {
        CHECK_EQ(c->ops->can_inject(c->ev[0], &e), VMC_OK);
        CHECK_EQ(c->ops->inject(c->ev[0], &e), VMC_OK);
    }
    if (!conf_run(c))
        return;
    CHECK(conf_is_out(c, VECTOR));
    CHECK_EQ(c->x.u.io.data, 0x51);
    conf_complete(c);
    if (!conf_serve(c))
        return;
    CHECK(conf_is_out(c, END));
}

static void nmi_is_taken_with_interrupts_off(struct conf *c)
{
    struct vmc_event e = {.type = VMC_EV_NMI, .vector = VMC_VEC_NMI};

    LOAD(LONG64, g_wait);
    if (!conf_run(c) || !conf_answer(c))
        return;
    CHECK_EQ(c->ops->can_inject(c->ev[0], &e), VMC_OK);
    CHECK_EQ(c->ops->inject(c->ev[0], &e), VMC_OK);
    if (!conf_serve(c))
        return;
    CHECK(conf_is_out(c, VECTOR));
    CHECK_EQ(c->x.u.io.data, VMC_VEC_NMI);
    conf_complete(c);
    if (!conf_get(c, VMC_ST_EVENT))
        return;
    CHECK_EQ(c->st->nmi_blocked, 1); /* until IRET */
    if (!conf_run(c)) /* the stub returns */
        return;
    CHECK(conf_is_out(c, DEV_PORT));
    conf_complete(c);
    if (!conf_get(c, VMC_ST_EVENT))
        return;
    CHECK_EQ(c->st->nmi_blocked, 0);
}

static void injected_exceptions_carry_their_code(struct conf *c)
{
    struct vmc_event e = {
        .type = VMC_EV_EXCEPTION, .vector = VMC_VEC_GP, .has_code = true, .code = 0x1238};
    uint64_t frame[2];

    LOAD(LONG64, g_wait);
    if (!conf_run(c) || !conf_answer(c))
        return;
    CHECK_EQ(c->ops->can_inject(c->ev[0], &e), VMC_OK);
    CHECK_EQ(c->ops->inject(c->ev[0], &e), VMC_OK);
    if (!conf_serve(c))
        return;
    CHECK(conf_is_out(c, VECTOR));
    CHECK_EQ(c->x.u.io.data, VMC_VEC_GP);
    CHECK_EQ(vmc_mem_read(c->mem, STACK - 48, frame, sizeof(frame)), VMC_OK);
    CHECK_EQ(frame[0], 0x1238);
}

GUEST(g_ud, 64, "ud2");
GUEST(g_pf, 64, "mov rbx, 0x123456789000; mov byte ptr [rbx + 5], 1");
GUEST(g_de, 64, "xor ecx, ecx; xor edx, edx; mov eax, 1; div ecx");
GUEST(g_gp, 64, "mov rbx, 0x8000000000000000; mov al, [rbx]");
GUEST(g_int, 64, "int 0x90; out 0x7e, al");

static void expect_vector(struct conf *c, const uint8_t *code, const uint8_t *end, unsigned vector)
{
    conf_load(c, LONG64, code, end);
    if (!conf_serve(c))
        return;
    CHECK(conf_is_out(c, VECTOR));
    CHECK_EQ(c->x.u.io.data, vector);
    conf_complete(c);
}

static void guests_fault_by_themselves(struct conf *c)
{
    uint64_t code;

    expect_vector(c, g_ud, g_ud_end, VMC_VEC_UD);
    if (!STOPPED(c))
        expect_vector(c, g_de, g_de_end, VMC_VEC_DE);
    if (!STOPPED(c))
        expect_vector(c, g_gp, g_gp_end, VMC_VEC_GP);
    if (!STOPPED(c))
        expect_vector(c, g_pf, g_pf_end, VMC_VEC_PF);
    if (STOPPED(c) || !conf_get(c, VMC_ST_CTRL))
        return;
    CHECK_EQ(c->st->cr2, 0x123456789005ull);
    CHECK_EQ(vmc_mem_read(c->mem, STACK - 48, &code, 8), VMC_OK);
    CHECK_EQ(code, VMC_PF_WRITE);
}

static void software_interrupts_return(struct conf *c)
{
    expect_vector(c, g_int, g_int_end, 0x90);
    if (STOPPED(c) || !conf_serve(c))
        return;
    CHECK(conf_is_out(c, END));
}

const struct conf_test conf_event_tests[] = {
    {"pulled_interrupts_wait_for_sti", pulled_interrupts_wait_for_sti},
    {"injected_interrupts_wait_for_the_window", injected_interrupts_wait_for_the_window},
    {"an_interrupt_ends_halt", an_interrupt_ends_halt},
    {"nmi_is_taken_with_interrupts_off", nmi_is_taken_with_interrupts_off},
    {"injected_exceptions_carry_their_code", injected_exceptions_carry_their_code},
    {"guests_fault_by_themselves", guests_fault_by_themselves},
    {"software_interrupts_return", software_interrupts_return},
    {NULL, NULL},
};
