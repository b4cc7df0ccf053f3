/* SPDX-License-Identifier: BSD-2-Clause */
#include "irq_fixture.h"

#define M 0x20
#define S 0xa0

/* As a BIOS or a kernel does: vectors base.., slave at base + 8. */
static void init_pair(struct irq_fx *f, uint8_t icw4)
{
    outb(f, M, 0x11);
    outb(f, M + 1, 0x30);
    outb(f, M + 1, 0x04);
    outb(f, M + 1, icw4);
    outb(f, S, 0x11);
    outb(f, S + 1, 0x38);
    outb(f, S + 1, 0x02);
    outb(f, S + 1, icw4);
    outb(f, M + 1, 0);
    outb(f, S + 1, 0);
}

static void wire(struct irq_fx *f, unsigned irq, bool level)
{
    struct vmc_irq_line l = {0};
    l = vmci_irqchip_line(&f->chip, irq);
    l.pin = irq; /* always the first source */
    vmc_irq_set(&l, level);
}

static void pulse(struct irq_fx *f, unsigned irq)
{
    wire(f, irq, true);
    wire(f, irq, false);
}

static int ack(struct irq_fx *f)
{
    struct vmci_lapic *bsp = &f->chip.lapic[0];
    return vmci_lapic_pending(bsp) < 0 ? -1 : vmci_lapic_ack(bsp);
}

static void vectors_and_priority(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 1);
    assert_int_equal(ack(f), -1);
    pulse(f, 5);
    pulse(f, 3);
    assert_true(f->notified[0] > 0);
    assert_int_equal(ack(f), 0x33);
    assert_int_equal(ack(f), -1); /* 5 is below what is in service */
    pulse(f, 1);
    assert_int_equal(ack(f), 0x31); /* nests */
    outb(f, M, 0x20);
    outb(f, M, 0x20);
    assert_int_equal(ack(f), 0x35);
    outb(f, M, 0x65); /* specific EOI */
    outb(f, M, 0x0b);
    assert_int_equal(inb(f, M), 0); /* ISR */
}

static void slave_goes_through_the_cascade(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 1);
    pulse(f, 14);
    pulse(f, 4);
    assert_int_equal(ack(f), 0x3e); /* input 2 of the master is above 4 */
    outb(f, S, 0x0b);
    assert_int_equal(inb(f, S), 0x40);
    outb(f, M, 0x0b);
    assert_int_equal(inb(f, M), 0x04);
    pulse(f, 9);
    assert_int_equal(ack(f), -1); /* the master blocks input 2 until its EOI */
    outb(f, M, 0x20);
    assert_int_equal(ack(f), 0x39); /* higher than 14 on the slave */
    outb(f, S, 0x20);
    outb(f, S, 0x20);
    outb(f, M, 0x20);
    assert_int_equal(ack(f), 0x34);
}

static void special_fully_nested_lets_the_slave_nest(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 0x11);
    pulse(f, 14);
    assert_int_equal(ack(f), 0x3e);
    pulse(f, 9);
    assert_int_equal(ack(f), 0x39);
}

static void masked_requests_wait(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 1);
    outb(f, M + 1, 0xff);
    assert_int_equal(inb(f, M + 1), 0xff);
    pulse(f, 0);
    assert_int_equal(ack(f), -1);
    outb(f, M, 0x0a);
    assert_int_equal(inb(f, M), 1); /* IRR */
    outb(f, M + 1, 0xfe);
    assert_int_equal(ack(f), 0x30);
}

static void edges_need_a_rise(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 1);
    wire(f, 6, true);
    assert_int_equal(ack(f), 0x36);
    outb(f, M, 0x20);
    assert_int_equal(ack(f), -1); /* still up: no new edge */
    wire(f, 6, false);
    wire(f, 6, true);
    assert_int_equal(ack(f), 0x36);
}

static void level_inputs_repeat_until_released(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 1);
    outb(f, 0x4d0, 0xff);
    outb(f, 0x4d1, 0xff);
    assert_int_equal(inb(f, 0x4d0), 0xf8); /* 0-2 and 8, 13 are always edge */
    assert_int_equal(inb(f, 0x4d1), 0xde);
    wire(f, 11, true);
    assert_int_equal(ack(f), 0x3b);
    outb(f, S, 0x20);
    outb(f, M, 0x20);
    assert_int_equal(ack(f), 0x3b);
    wire(f, 11, false);
    outb(f, S, 0x20);
    outb(f, M, 0x20);
    assert_int_equal(ack(f), -1);
    /* a level request that goes away before the acknowledge is gone */
    wire(f, 11, true);
    wire(f, 11, false);
    assert_int_equal(ack(f), -1);
}

static void automatic_eoi_and_rotation(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 3);
    pulse(f, 3);
    assert_int_equal(ack(f), 0x33);
    outb(f, M, 0x0b);
    assert_int_equal(inb(f, M), 0);
    outb(f, M, 0x80); /* rotate in automatic EOI mode */
    pulse(f, 3);
    pulse(f, 5);
    assert_int_equal(ack(f), 0x33); /* 3 becomes the lowest */
    pulse(f, 3);
    assert_int_equal(ack(f), 0x35);
    assert_int_equal(ack(f), 0x33);
    outb(f, M, 0x00);
}

static void rotation_by_command(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 1);
    outb(f, M, 0xc4); /* set priority: 4 lowest, so 5 highest */
    pulse(f, 3);
    pulse(f, 5);
    assert_int_equal(ack(f), 0x35);
    outb(f, M, 0xa0); /* rotate on non-specific EOI: 5 lowest */
    pulse(f, 5);
    assert_int_equal(ack(f), 0x33);
    outb(f, M, 0xe3); /* rotate on specific EOI: 3 lowest, 4 highest */
    pulse(f, 4);
    assert_int_equal(ack(f), 0x34);
}

static void special_mask_opens_lower_levels(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 1);
    pulse(f, 1);
    assert_int_equal(ack(f), 0x31);
    pulse(f, 6);
    assert_int_equal(ack(f), -1);
    outb(f, M + 1, 0x02);
    assert_int_equal(ack(f), -1);
    outb(f, M, 0x68); /* special mask mode on */
    assert_int_equal(ack(f), 0x36);
    outb(f, M, 0x20); /* non-specific EOI passes over the masked level */
    outb(f, M, 0x0b);
    assert_int_equal(inb(f, M), 0x02);
    outb(f, M, 0x48); /* off */
}

static void poll_acknowledges(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 1);
    outb(f, M, 0x0c);
    assert_int_equal(inb(f, M), 0); /* nothing */
    pulse(f, 7);
    outb(f, M, 0x0c);
    assert_int_equal(inb(f, M), 0x87);
    outb(f, M, 0x0b);
    assert_int_equal(inb(f, M), 0x80); /* in service */
    assert_int_equal(ack(f), -1);
    outb(f, M, 0x20);
    pulse(f, 12);
    outb(f, M, 0x0c);
    assert_int_equal(inb(f, M), 0x82);
    outb(f, S, 0x0c);
    assert_int_equal(inb(f, S), 0x84);
}

static void init_sequence_forms(void **state)
{
    struct irq_fx *f = *state;

    outb(f, M, 0x12); /* single, no ICW4 */
    outb(f, M + 1, 0x47);
    outb(f, M + 1, 0xfd); /* OCW1 already */
    assert_int_equal(inb(f, M + 1), 0xfd);
    pulse(f, 1);
    assert_int_equal(ack(f), 0x41); /* low bits of ICW2 come from the input */
    outb(f, M, 0x19); /* level-triggered by ICW1 */
    outb(f, M + 1, 0x30);
    outb(f, M + 1, 0x04);
    outb(f, M + 1, 0x01);
    wire(f, 0, true);
    assert_int_equal(ack(f), 0x30);
    outb(f, M, 0x20);
    assert_int_equal(ack(f), 0x30);
}

static void initialisation_clears_requests(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 1);
    outb(f, M + 1, 0xff);
    pulse(f, 3);
    init_pair(f, 1);
    assert_int_equal(ack(f), -1);
}

static void lint0_decides_who_takes_it(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 1);
    apic_wr(f, 0, VMCI_APIC_SVR, 0x1ff);
    apic_wr(f, 0, VMCI_APIC_LVT_LINT0, VMCI_LVT_MASKED);
    pulse(f, 4);
    assert_int_equal(vmci_lapic_pending(&f->chip.lapic[0]), -1);
    assert_int_equal(vmci_lapic_pending(&f->chip.lapic[1]), -1);
    apic_wr(f, 1, VMCI_APIC_SVR, 0x1ff);
    apic_wr(f, 1, VMCI_APIC_LVT_LINT0, 0x700);
    assert_true(f->notified[1] > 0);
    assert_int_equal(vmci_lapic_ack(&f->chip.lapic[1]), 0x34);
    /* with the APIC switched off the boot processor takes it directly */
    assert_true(vmci_lapic_wrmsr(&f->chip.lapic[0], VMC_MSR_APIC_BASE, 0xfee00100));
    apic_wr(f, 1, VMCI_APIC_LVT_LINT0, VMCI_LVT_MASKED);
    outb(f, M, 0x20);
    pulse(f, 4);
    assert_int_equal(vmci_lapic_ack(&f->chip.lapic[0]), 0x34);
}

static void lint0_as_fixed_or_nmi(void **state)
{
    struct irq_fx *f = *state;

    init_pair(f, 1);
    apic_wr(f, 0, VMCI_APIC_SVR, 0x1ff);
    apic_wr(f, 0, VMCI_APIC_LVT_LINT0, 0x51);
    pulse(f, 4);
    assert_int_equal(ack(f), 0x51);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    outb(f, M, 0x0c);
    (void)inb(f, M); /* poll takes the request away */
    outb(f, M, 0x20);
    apic_wr(f, 0, VMCI_APIC_LVT_LINT0, 0x400);
    pulse(f, 4);
    assert_int_equal(f->nmis[0], 1);
    assert_int_equal(f->nmis[1], 0);
    /* the wire goes to all processors */
    outb(f, M, 0x0c);
    (void)inb(f, M);
    outb(f, M, 0x20);
    apic_wr(f, 1, VMCI_APIC_SVR, 0x1ff);
    apic_wr(f, 1, VMCI_APIC_LVT_LINT0, 0x52);
    pulse(f, 4);
    assert_int_equal(f->nmis[0], 2);
    assert_int_equal(vmci_lapic_ack(&f->chip.lapic[1]), 0x52);
}

static void state_survives_save_and_load(void **state)
{
    struct irq_fx *f = *state;
    uint8_t buf[256];

    init_pair(f, 1);
    pulse(f, 3);
    assert_int_equal(ack(f), 0x33);
    pulse(f, 1);
    const struct vmc_device *d = &f->chip.dev_pic;
    size_t n = d->ops->save(d->dev, NULL, 0);
    assert_true(n <= sizeof(buf));
    assert_int_equal(d->ops->save(d->dev, buf, sizeof(buf)), n);
    d->ops->reset(d->dev);
    assert_int_equal(ack(f), -1);
    assert_int_equal(d->ops->load(d->dev, buf, n - 1, NULL), VMC_EFORMAT);
    assert_int_equal(d->ops->load(d->dev, buf, n, NULL), VMC_OK);
    assert_int_equal(ack(f), 0x31);
    outb(f, M, 0x0b);
    assert_int_equal(inb(f, M), 0x0a);
    memset(buf, 0xff, sizeof(buf));
    assert_int_equal(d->ops->load(d->dev, buf, n, NULL), VMC_EFORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        irq_test(vectors_and_priority),
        irq_test(slave_goes_through_the_cascade),
        irq_test(special_fully_nested_lets_the_slave_nest),
        irq_test(masked_requests_wait),
        irq_test(edges_need_a_rise),
        irq_test(level_inputs_repeat_until_released),
        irq_test(automatic_eoi_and_rotation),
        irq_test(rotation_by_command),
        irq_test(special_mask_opens_lower_levels),
        irq_test(poll_acknowledges),
        irq_test(init_sequence_forms),
        irq_test(initialisation_clears_requests),
        irq_test(lint0_decides_who_takes_it),
        irq_test(lint0_as_fixed_or_nmi),
        irq_test(state_survives_save_and_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
