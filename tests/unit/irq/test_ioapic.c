/* SPDX-License-Identifier: BSD-2-Clause */
#include "irq_fixture.h"

#define LEVEL  VMCI_RTE_LEVEL
#define MASKED VMCI_RTE_MASKED

static uint64_t to(unsigned cpu, uint64_t low)
{
    return (uint64_t)cpu << 56 | low;
}

static struct vmc_irq_line line(struct irq_fx *f, unsigned gsi)
{
    return vmci_irqchip_line(&f->chip, gsi);
}

static int take(struct irq_fx *f, unsigned cpu)
{
    struct vmci_lapic *l = &f->chip.lapic[cpu];
    return vmci_lapic_pending(l) < 0 ? -1 : vmci_lapic_ack(l);
}

static void registers(void **state)
{
    struct irq_fx *f = *state;
    uint64_t v;

    assert_int_equal(ioapic_rd(f, 1), 0x00170020);
    assert_int_equal(ioapic_rd(f, 0x10), 0x10000);
    ioapic_wr(f, 0, 0xffffffff);
    assert_int_equal(ioapic_rd(f, 0), 0x0f000000);
    assert_int_equal(ioapic_rd(f, 2), 0x0f000000);
    ioapic_wr(f, 1, 0);
    assert_int_equal(ioapic_rd(f, 1), 0x00170020);
    ioapic_wr(f, 0x10 + 2 * 23, 0xffffffff); /* read-only and reserved bits do not stick */
    assert_int_equal(ioapic_rd(f, 0x10 + 2 * 23), 0x0001afff);
    ioapic_wr(f, 0x10 + 2 * 24, 0x1234); /* there is no pin 24 */
    assert_int_equal(ioapic_rd(f, 0x10 + 2 * 24), 0);
    assert_true(vmc_bus_read(f->board.mmio, VMCI_IOAPIC_GPA, 4, &v));
    assert_int_equal(v, 0x40);
    assert_true(vmc_bus_read(f->board.mmio, VMCI_IOAPIC_GPA + 0x80, 4, &v));
    assert_int_equal(v, 0);
}

static void edge_is_sent_once(void **state)
{
    struct irq_fx *f = *state;
    struct vmc_irq_line l = line(f, 4);

    apic_enable_all(f);
    ioapic_rte(f, 4, to(1, 0x44));
    vmc_irq_set(&l, true);
    assert_int_equal(take(f, 1), 0x44);
    apic_wr(f, 1, VMCI_APIC_EOI, 0);
    assert_int_equal(take(f, 1), -1);
    vmc_irq_set(&l, false);
    ioapic_rte(f, 4, to(1, 0x44 | MASKED));
    vmc_irq_set(&l, true); /* an edge on a masked pin is lost */
    ioapic_rte(f, 4, to(1, 0x44));
    assert_int_equal(take(f, 1), -1);
}

static void level_waits_for_eoi(void **state)
{
    struct irq_fx *f = *state;
    struct vmc_irq_line l = line(f, 20);

    apic_enable_all(f);
    ioapic_rte(f, 20, to(2, 0x55 | LEVEL));
    vmc_irq_set(&l, true);
    assert_int_equal(ioapic_rd(f, 0x10 + 40), 0x55 | LEVEL | VMCI_RTE_REMOTE_IRR);
    assert_int_equal(take(f, 2), 0x55);
    assert_int_equal(apic_rd(f, 2, VMCI_APIC_TMR + 0x20), 1u << 21);
    assert_int_equal(take(f, 2), -1);
    apic_wr(f, 2, VMCI_APIC_EOI, 0); /* still up: again */
    assert_int_equal(take(f, 2), 0x55);
    vmc_irq_set(&l, false);
    apic_wr(f, 2, VMCI_APIC_EOI, 0);
    assert_int_equal(take(f, 2), -1);
    assert_int_equal(ioapic_rd(f, 0x10 + 40), 0x55 | LEVEL);
    /* masked while up, then unmasked */
    ioapic_rte(f, 20, to(2, 0x55 | LEVEL | MASKED));
    vmc_irq_set(&l, true);
    assert_int_equal(take(f, 2), -1);
    ioapic_rte(f, 20, to(2, 0x55 | LEVEL));
    assert_int_equal(take(f, 2), 0x55);
}

static void level_waits_for_somebody_to_take_it(void **state)
{
    struct irq_fx *f = *state;
    struct vmc_irq_line l = line(f, 5);

    apic_enable_all(f);
    ioapic_rte(f, 5, to(9, 0x41 | LEVEL)); /* there is no processor 9 */
    vmc_irq_set(&l, true);
    assert_int_equal(ioapic_rd(f, 0x10 + 10), 0x41 | LEVEL);
    ioapic_rte(f, 5, to(1, 0x41 | LEVEL));
    assert_int_equal(ioapic_rd(f, 0x10 + 10), 0x41 | LEVEL | VMCI_RTE_REMOTE_IRR);
    assert_int_equal(take(f, 1), 0x41);
    vmc_irq_set(&l, false);
    apic_wr(f, 1, VMCI_APIC_EOI, 0);
    apic_wr(f, 1, VMCI_APIC_SVR, 0xff); /* its APIC is off */
    vmc_irq_set(&l, true);
    assert_int_equal(ioapic_rd(f, 0x10 + 10), 0x41 | LEVEL);
    apic_wr(f, 1, VMCI_APIC_SVR, VMCI_SVR_ENABLE | 0xff);
    ioapic_rte(f, 5, to(1, 0x41 | LEVEL));
    assert_int_equal(take(f, 1), 0x41);
}

static void switch_to_edge_is_an_eoi(void **state)
{
    struct irq_fx *f = *state;
    struct vmc_irq_line l = line(f, 20);

    apic_enable_all(f);
    ioapic_rte(f, 20, to(0, 0x55 | LEVEL));
    vmc_irq_set(&l, true);
    ioapic_wr(f, 0x10 + 40, 0x55 | MASKED);
    assert_int_equal(ioapic_rd(f, 0x10 + 40), 0x55 | MASKED);
}

static void eoi_register_and_suppressed_broadcast(void **state)
{
    struct irq_fx *f = *state;
    struct vmc_irq_line l = line(f, 20);

    apic_enable_all(f);
    assert_true(apic_rd(f, 0, VMCI_APIC_VERSION) & 1u << 24);
    apic_wr(f, 0, VMCI_APIC_SVR, 0x1ff | VMCI_SVR_NO_BROADCAST);
    ioapic_rte(f, 20, to(0, 0x55 | LEVEL));
    vmc_irq_set(&l, true);
    assert_int_equal(take(f, 0), 0x55);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    assert_int_equal(take(f, 0), -1); /* the IOAPIC has not heard of it */
    assert_true(vmc_bus_write(f->board.mmio, VMCI_IOAPIC_GPA + 0x40, 4, 0x55));
    assert_int_equal(take(f, 0), 0x55);
}

static void sources_share_a_wire(void **state)
{
    struct irq_fx *f = *state;
    struct vmc_irq_line a = line(f, 17), b = line(f, 17);

    apic_enable_all(f);
    ioapic_rte(f, 17, to(0, 0x60 | LEVEL));
    vmc_irq_set(&a, true);
    vmc_irq_set(&b, true);
    assert_int_equal(take(f, 0), 0x60);
    vmc_irq_set(&a, false);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    assert_int_equal(take(f, 0), 0x60); /* b still asserts */
    vmc_irq_set(&b, false);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    assert_int_equal(take(f, 0), -1);
}

static void pit_wire_is_pin_2(void **state)
{
    struct irq_fx *f = *state;
    struct vmc_irq_line l = line(f, 0);

    apic_enable_all(f);
    ioapic_rte(f, 2, to(0, 0x30));
    ioapic_rte(f, 0, to(0, 0x31));
    vmc_irq_set(&l, true);
    assert_int_equal(take(f, 0), 0x30);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    struct vmc_irq_line none = line(f, 24);
    assert_null(none.set);
    vmc_irq_set(&none, true); /* goes nowhere */
}

static void pin_0_carries_the_8259(void **state)
{
    struct irq_fx *f = *state;
    struct vmc_irq_line l = line(f, 1);

    apic_enable_all(f);
    outb(f, 0x20, 0x11);
    outb(f, 0x21, 0x30);
    outb(f, 0x21, 0x04);
    outb(f, 0x21, 0x01);
    outb(f, 0x21, 0x00);
    ioapic_rte(f, 0, to(3, 0x700)); /* ExtINT */
    vmc_irq_set(&l, true);
    assert_int_equal(take(f, 0), -1);
    assert_int_equal(take(f, 3), 0x31);
}

static void other_delivery_modes(void **state)
{
    struct irq_fx *f = *state;
    struct vmc_irq_line l = line(f, 16);

    apic_enable_all(f);
    ioapic_rte(f, 16, to(1, 0x400));
    vmc_irq_set(&l, true);
    assert_int_equal(f->nmis[1], 1);
    vmc_irq_set(&l, false);
    ioapic_rte(f, 16, to(1, 0x500));
    vmc_irq_set(&l, true);
    assert_int_equal(f->inits[1], 1);
    vmc_irq_set(&l, false);
    ioapic_rte(f, 16, to(1, 0x200 | 0x40)); /* SMI: nobody handles it */
    vmc_irq_set(&l, true);
    assert_int_equal(take(f, 1), -1);
}

static void isa_wires_reach_both(void **state)
{
    struct irq_fx *f = *state;
    struct vmc_irq_line l = line(f, 4);

    outb(f, 0x20, 0x11);
    outb(f, 0x21, 0x30);
    outb(f, 0x21, 0x04);
    outb(f, 0x21, 0x01);
    outb(f, 0x21, 0x00);
    apic_wr(f, 1, VMCI_APIC_SVR, 0x1ff);
    ioapic_rte(f, 4, to(1, 0x44));
    vmc_irq_set(&l, true);
    assert_int_equal(take(f, 1), 0x44);
    assert_int_equal(take(f, 0), 0x34);
}

static void state_survives_save_and_load(void **state)
{
    struct irq_fx *f = *state;
    struct vmc_irq_line l = line(f, 20);
    uint8_t buf[1024];

    apic_enable_all(f);
    ioapic_rte(f, 20, to(0, 0x55 | LEVEL));
    vmc_irq_set(&l, true);
    const struct vmc_device *d = &f->chip.dev_ioapic;
    size_t n = d->ops->save(d->dev, buf, sizeof(buf));
    assert_true(n <= sizeof(buf));
    d->ops->reset(d->dev);
    assert_int_equal(ioapic_rd(f, 0x10 + 40), MASKED);
    assert_int_equal(d->ops->load(d->dev, buf, n + 1, NULL), VMC_EFORMAT);
    assert_int_equal(d->ops->load(d->dev, buf, n, NULL), VMC_OK);
    assert_int_equal(ioapic_rd(f, 0x10 + 40), 0x55 | LEVEL | VMCI_RTE_REMOTE_IRR);
    assert_int_equal(take(f, 0), 0x55);
    vmc_irq_set(&l, false);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    assert_int_equal(ioapic_rd(f, 0x10 + 40), 0x55 | LEVEL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        irq_test(registers),
        irq_test(edge_is_sent_once),
        irq_test(level_waits_for_eoi),
        irq_test(level_waits_for_somebody_to_take_it),
        irq_test(switch_to_edge_is_an_eoi),
        irq_test(eoi_register_and_suppressed_broadcast),
        irq_test(sources_share_a_wire),
        irq_test(pit_wire_is_pin_2),
        irq_test(pin_0_carries_the_8259),
        irq_test(other_delivery_modes),
        irq_test(isa_wires_reach_both),
        irq_test(state_survives_save_and_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
