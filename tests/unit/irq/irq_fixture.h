/* SPDX-License-Identifier: BSD-2-Clause */
/* Interrupt controllers on a board of their own, with an owner that only counts. */
#ifndef IRQ_FIXTURE_H
#define IRQ_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "irq/irq_int.h"
#include "test_platform.h"

#include <cmocka.h>

#define FX_CPUS 4

struct irq_fx {
    struct test_platform tp;
    struct vmc_board board;
    struct vmci_irqchip chip;
    unsigned notified[FX_CPUS], nmis[FX_CPUS], inits[FX_CPUS], sipis[FX_CPUS];
    uint8_t sipi_vector[FX_CPUS];
    uint64_t tsc_offset, tsc_hz;
};

static inline void fx_notify(void *ctx, uint32_t i)
{
    ((struct irq_fx *)ctx)->notified[i]++;
}
static inline void fx_nmi(void *ctx, uint32_t i)
{
    ((struct irq_fx *)ctx)->nmis[i]++;
}
static inline void fx_init(void *ctx, uint32_t i)
{
    ((struct irq_fx *)ctx)->inits[i]++;
}
static inline void fx_sipi(void *ctx, uint32_t i, uint8_t vector)
{
    struct irq_fx *f = ctx;
    f->sipis[i]++;
    f->sipi_vector[i] = vector;
}
static inline void fx_tsc(void *ctx, uint32_t i, uint64_t *tsc, uint64_t *hz)
{
    struct irq_fx *f = ctx;
    (void)i;
    *hz = f->tsc_hz;
    *tsc = f->tp.now_ns * (f->tsc_hz / 1000000000u) + f->tsc_offset;
}

static const struct vmci_irqchip_ops fx_ops = {
    .notify = fx_notify, .nmi = fx_nmi, .init = fx_init, .sipi = fx_sipi, .tsc = fx_tsc};

static inline int irq_fx_setup(void **state)
{
    struct irq_fx *f = calloc(1, sizeof(*f));

    test_platform_init(&f->tp);
    f->tsc_hz = 3000000000u;
    f->board.platform = &f->tp.pf;
    assert_int_equal(vmc_bus_create(&f->tp.pf, "port", 0x10000, &f->board.pio), VMC_OK);
    assert_int_equal(vmc_bus_create(&f->tp.pf, "mem", 1ull << 46, &f->board.mmio), VMC_OK);
    assert_int_equal(vmc_timerq_create(&f->tp.pf, &f->board.timers), VMC_OK);
    assert_int_equal(vmci_irqchip_init(&f->chip, &f->board, FX_CPUS, &fx_ops, f, NULL), VMC_OK);
    *state = f;
    return 0;
}

static inline int irq_fx_teardown(void **state)
{
    struct irq_fx *f = *state;

    vmci_irqchip_fini(&f->chip);
    vmc_timerq_destroy(f->board.timers);
    vmc_bus_destroy(f->board.mmio);
    vmc_bus_destroy(f->board.pio);
    test_platform_check(&f->tp);
    free(f);
    return 0;
}

/* Ports and registers as a guest uses them. */
static inline void outb(struct irq_fx *f, uint16_t port, uint8_t v)
{
    assert_true(vmc_bus_write(f->board.pio, port, 1, v));
}
static inline uint8_t inb(struct irq_fx *f, uint16_t port)
{
    uint64_t v;
    assert_true(vmc_bus_read(f->board.pio, port, 1, &v));
    return (uint8_t)v;
}
static inline void ioapic_wr(struct irq_fx *f, uint8_t index, uint32_t v)
{
    assert_true(vmc_bus_write(f->board.mmio, VMCI_IOAPIC_GPA, 4, index));
    assert_true(vmc_bus_write(f->board.mmio, VMCI_IOAPIC_GPA + 0x10, 4, v));
}
static inline uint32_t ioapic_rd(struct irq_fx *f, uint8_t index)
{
    uint64_t v;
    assert_true(vmc_bus_write(f->board.mmio, VMCI_IOAPIC_GPA, 4, index));
    assert_true(vmc_bus_read(f->board.mmio, VMCI_IOAPIC_GPA + 0x10, 4, &v));
    return (uint32_t)v;
}
static inline void ioapic_rte(struct irq_fx *f, unsigned pin, uint64_t rte)
{
    ioapic_wr(f, (uint8_t)(0x11 + 2 * pin), (uint32_t)(rte >> 32));
    ioapic_wr(f, (uint8_t)(0x10 + 2 * pin), (uint32_t)rte);
}
static inline void apic_wr(struct irq_fx *f, unsigned cpu, uint32_t reg, uint32_t v)
{
    vmci_lapic_write(&f->chip.lapic[cpu], reg, 4, v);
}
static inline uint32_t apic_rd(struct irq_fx *f, unsigned cpu, uint32_t reg)
{
    return (uint32_t)vmci_lapic_read(&f->chip.lapic[cpu], reg, 4);
}
static inline void apic_enable_all(struct irq_fx *f)
{
    for (unsigned i = 0; i < FX_CPUS; i++)
        apic_wr(f, i, VMCI_APIC_SVR, 0x1ff);
    apic_wr(f, 0, VMCI_APIC_LVT_LINT0, VMCI_LVT_MASKED);
}
static inline void pass(struct irq_fx *f, uint64_t ns)
{
    f->tp.now_ns += ns;
    vmc_timerq_advance(f->board.timers, f->tp.now_ns);
}

#define irq_test(fn) cmocka_unit_test_setup_teardown(fn, irq_fx_setup, irq_fx_teardown)

#endif
