/* SPDX-License-Identifier: BSD-2-Clause */
#include <pthread.h>
#include <sched.h>

#include "irq_fixture.h"

static struct vmci_lapic *apic(struct irq_fx *f, unsigned cpu)
{
    return &f->chip.lapic[cpu];
}

static int take(struct irq_fx *f, unsigned cpu)
{
    return vmci_lapic_pending(apic(f, cpu)) < 0 ? -1 : vmci_lapic_ack(apic(f, cpu));
}

static void ipi(struct irq_fx *f, unsigned from, uint32_t dest, uint32_t low)
{
    apic_wr(f, from, VMCI_APIC_ICR2, dest << 24);
    apic_wr(f, from, VMCI_APIC_ICR, low);
}

static void x2_on(struct irq_fx *f, unsigned cpu)
{
    uint64_t base;
    assert_true(vmci_lapic_rdmsr(apic(f, cpu), VMC_MSR_APIC_BASE, &base));
    assert_true(vmci_lapic_wrmsr(apic(f, cpu), VMC_MSR_APIC_BASE, base | VMC_APIC_BASE_X2APIC));
}

static bool wr(struct irq_fx *f, unsigned cpu, uint32_t reg, uint64_t v)
{
    return vmci_lapic_wrmsr(apic(f, cpu), 0x800 + reg / 16, v);
}

static bool rd(struct irq_fx *f, unsigned cpu, uint32_t reg, uint64_t *v)
{
    return vmci_lapic_rdmsr(apic(f, cpu), 0x800 + reg / 16, v);
}

/* ---- registers ----------------------------------------------------------------------------- */

static void reset_values(void **state)
{
    struct irq_fx *f = *state;

    for (unsigned i = 0; i < FX_CPUS; i++) {
        assert_int_equal(apic_rd(f, i, VMCI_APIC_ID), i << 24);
        assert_int_equal(apic_rd(f, i, VMCI_APIC_VERSION), 0x01050014);
        assert_int_equal(apic_rd(f, i, VMCI_APIC_DFR), 0xffffffff);
        assert_int_equal(apic_rd(f, i, VMCI_APIC_SVR), 0xff);
        assert_int_equal(apic_rd(f, i, VMCI_APIC_LDR), 0);
        assert_int_equal(apic_rd(f, i, VMCI_APIC_LVT_LINT0), i == 0 ? 0x700 : 0x10000);
        assert_int_equal(apic_rd(f, i, VMCI_APIC_LVT_TIMER), 0x10000);
        assert_int_equal(apic(f, i)->base, 0xfee00800 | (i == 0 ? 0x100 : 0));
    }
}

static void access_widths(void **state)
{
    struct irq_fx *f = *state;
    struct vmci_lapic *l = apic(f, 1);

    vmci_lapic_write(l, VMCI_APIC_TPR, 4, 0x42);
    assert_int_equal(vmci_lapic_read(l, VMCI_APIC_TPR, 1), 0x42);
    assert_int_equal(vmci_lapic_read(l, VMCI_APIC_VERSION + 2, 1) & 0xff, 5);
    assert_int_equal(vmci_lapic_read(l, VMCI_APIC_TPR, 8), 0x42);
    assert_int_equal(vmci_lapic_read(l, VMCI_APIC_TPR + 4, 4), 0);
    vmci_lapic_write(l, VMCI_APIC_TPR, 1, 0x10); /* not a doubleword: no effect */
    vmci_lapic_write(l, VMCI_APIC_TPR + 2, 4, 0x10);
    vmci_lapic_write(l, VMCI_APIC_TPR + 4, 4, 0x10);
    assert_int_equal(apic_rd(f, 1, VMCI_APIC_TPR), 0x42);
}

static void errors_show_after_a_write_to_esr(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    apic_wr(f, 0, VMCI_APIC_LVT_ERROR, 0x71);
    (void)apic_rd(f, 0, 0x3f0); /* reserved */
    assert_int_equal(take(f, 0), 0x71);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_ESR), 0);
    apic_wr(f, 0, VMCI_APIC_ESR, 0);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_ESR), VMCI_ESR_REGISTER);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    ipi(f, 0, 1, 0x0f); /* vector below 16 */
    assert_int_equal(take(f, 0), 0x71);
    apic_wr(f, 0, VMCI_APIC_ESR, 0);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_ESR), VMCI_ESR_SEND_VECTOR);
    struct vmci_irq_msg bad = {.dest = 0, .vector = 3};
    vmci_irqchip_deliver(&f->chip, &bad);
    apic_wr(f, 0, VMCI_APIC_ESR, 0);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_ESR), VMCI_ESR_RECV_VECTOR);
    apic_wr(f, 0, VMCI_APIC_ESR, 0);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_ESR), 0);
}

static void read_only_registers_are_no_error(void **state)
{
    struct irq_fx *f = *state;
    static const uint32_t regs[] = {
        VMCI_APIC_ID,  VMCI_APIC_VERSION,    VMCI_APIC_APR,        VMCI_APIC_PPR,
        VMCI_APIC_RRD, VMCI_APIC_ISR,        VMCI_APIC_TMR + 0x30, VMCI_APIC_IRR + 0x70,
        0x390,         VMCI_APIC_ESR - 0x10,
    };

    apic_enable_all(f);
    for (unsigned i = 0; i < sizeof(regs) / sizeof(regs[0]); i++) {
        uint32_t before = apic_rd(f, 1, regs[i]);
        apic_wr(f, 1, regs[i], ~0u);
        apic_wr(f, 1, VMCI_APIC_ESR, 0);
        assert_int_equal(apic_rd(f, 1, VMCI_APIC_ESR), 0);
        assert_int_equal(apic_rd(f, 1, regs[i]), before);
    }
    apic_wr(f, 1, 0x40, 0); /* reserved */
    apic_wr(f, 1, VMCI_APIC_ESR, 0);
    assert_int_equal(apic_rd(f, 1, VMCI_APIC_ESR), VMCI_ESR_REGISTER);
    x2_on(f, 1);
    for (unsigned i = 0; i < sizeof(regs) / sizeof(regs[0]); i++)
        assert_false(wr(f, 1, regs[i], 0));
}

static void software_disable_masks_the_lvt(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x20030);
    apic_wr(f, 0, VMCI_APIC_SVR, 0xff);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_LVT_TIMER), 0x30030);
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x30);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_LVT_TIMER), 0x10030); /* cannot be unmasked */
    ipi(f, 1, 0, 0x50);
    assert_int_equal(take(f, 0), -1);
    ipi(f, 1, 0, 0x400); /* NMI, INIT, SIPI still arrive */
    assert_int_equal(f->nmis[0], 1);
    apic_wr(f, 0, VMCI_APIC_SVR, 0x1ff);
    apic_wr(f, 0, VMCI_APIC_LVT_PERF, 0xffffffff);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_LVT_PERF), 0x107ff);
    apic_wr(f, 0, VMCI_APIC_LVT_LINT1, 0xffffffff);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_LVT_LINT1), 0x1a7ff);
}

/* ---- priorities ---------------------------------------------------------------------------- */

static void priorities_nest(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    ipi(f, 1, 0, 0x41);
    ipi(f, 1, 0, 0x93);
    ipi(f, 1, 0, 0x91);
    assert_int_equal(take(f, 0), 0x93);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_PPR), 0x90);
    assert_int_equal(take(f, 0), -1); /* 0x91 is of the same class */
    ipi(f, 1, 0, 0xa0);
    assert_int_equal(take(f, 0), 0xa0);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    assert_int_equal(take(f, 0), -1);
    unsigned before = f->notified[0];
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    assert_true(f->notified[0] > before); /* told that 0x91 can come */
    assert_int_equal(take(f, 0), 0x91);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    assert_int_equal(take(f, 0), 0x41);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    apic_wr(f, 0, VMCI_APIC_EOI, 0); /* one too many is harmless */
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_PPR), 0);
}

static void task_priority_blocks(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    apic_wr(f, 0, VMCI_APIC_TPR, 0x45);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_PPR), 0x45);
    assert_int_equal(vmci_lapic_get_tpr(apic(f, 0)), 4);
    ipi(f, 1, 0, 0x4f);
    assert_int_equal(take(f, 0), -1);
    ipi(f, 1, 0, 0x50);
    assert_int_equal(take(f, 0), 0x50);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    unsigned before = f->notified[0];
    vmci_lapic_set_tpr(apic(f, 0), 3);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TPR), 0x30);
    assert_true(f->notified[0] > before);
    assert_int_equal(take(f, 0), 0x4f);
}

static void all_vectors_arrive_highest_first(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    for (unsigned v = 16; v < 256; v++)
        ipi(f, 1, 0, v);
    for (int v = 255; v >= 16; v--) {
        assert_int_equal(take(f, 0), v);
        apic_wr(f, 0, VMCI_APIC_EOI, 0);
    }
    assert_int_equal(take(f, 0), -1);
}

/* ---- destinations -------------------------------------------------------------------------- */

static unsigned taken(struct irq_fx *f)
{
    unsigned mask = 0;
    for (unsigned i = 0; i < FX_CPUS; i++) {
        if (take(f, i) >= 0) {
            mask |= 1u << i;
            apic_wr(f, i, VMCI_APIC_EOI, 0);
        }
    }
    return mask;
}

static void shorthands_and_broadcast(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    ipi(f, 2, 0, 0x40050);
    assert_int_equal(taken(f), 0x4);
    ipi(f, 2, 0, 0x80050);
    assert_int_equal(taken(f), 0xf);
    ipi(f, 2, 0, 0xc0050);
    assert_int_equal(taken(f), 0xb);
    ipi(f, 2, 0xff, 0x50);
    assert_int_equal(taken(f), 0xf);
    ipi(f, 2, 9, 0x50); /* nobody there */
    assert_int_equal(taken(f), 0);
    assert_int_equal(apic_rd(f, 2, VMCI_APIC_ICR) & 0x1000, 0);
}

static void logical_flat_and_cluster(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    for (unsigned i = 0; i < FX_CPUS; i++)
        apic_wr(f, i, VMCI_APIC_LDR, 1u << (24 + i));
    ipi(f, 0, 0x0a, 0x850);
    assert_int_equal(taken(f), 0xa);
    ipi(f, 0, 0xff, 0x850);
    assert_int_equal(taken(f), 0xf);
    for (unsigned i = 0; i < FX_CPUS; i++) { /* two clusters of two */
        apic_wr(f, i, VMCI_APIC_DFR, 0x0fffffff);
        apic_wr(f, i, VMCI_APIC_LDR, ((i / 2) << 4 | 1u << (i % 2)) << 24);
    }
    ipi(f, 0, 0x03, 0x850);
    assert_int_equal(taken(f), 0x3);
    ipi(f, 0, 0x12, 0x850);
    assert_int_equal(taken(f), 0x8);
    ipi(f, 0, 0x21, 0x850);
    assert_int_equal(taken(f), 0);
}

static void lowest_priority_is_chosen(void **state)
{
    struct irq_fx *f = *state;
    unsigned seen = 0;

    apic_enable_all(f);
    for (unsigned i = 0; i < FX_CPUS; i++) {
        apic_wr(f, i, VMCI_APIC_LDR, 1u << (24 + i));
        apic_wr(f, i, VMCI_APIC_TPR, i == 2 ? 0x20 : 0x30);
    }
    for (unsigned n = 0; n < 3; n++) {
        ipi(f, 0, 0xf, 0x950);
        assert_int_equal(taken(f), 0x4);
    }
    apic_wr(f, 2, VMCI_APIC_TPR, 0x30);
    for (unsigned n = 0; n < 4; n++) { /* equal ones take turns */
        ipi(f, 0, 0xf, 0x950);
        unsigned who = taken(f);
        assert_int_equal(who & (who - 1), 0);
        seen |= who;
    }
    assert_int_equal(seen, 0xf);
    apic_wr(f, 1, VMCI_APIC_SVR, 0xff);
    ipi(f, 0, 0x2, 0x950); /* disabled: not a candidate */
    assert_int_equal(taken(f), 0);
}

static void startup_messages(void **state)
{
    struct irq_fx *f = *state;

    ipi(f, 0, 1, 0x4500);
    assert_int_equal(f->inits[1], 1);
    ipi(f, 0, 1, 0x8500); /* INIT level de-assert: nothing */
    assert_int_equal(f->inits[1], 1);
    ipi(f, 0, 1, 0x4608);
    assert_int_equal(f->sipis[1], 1);
    assert_int_equal(f->sipi_vector[1], 8);
    ipi(f, 0, 0, 0xc4500);
    assert_int_equal(f->inits[0], 0);
    assert_int_equal(f->inits[3], 1);
}

static void msi_decoding(void **state)
{
    struct irq_fx *f = *state;
    struct vmci_irq_msg m;

    apic_enable_all(f);
    vmci_irqchip_msi(&f->chip, 0xfee03000, 0x4061);
    assert_int_equal(take(f, 3), 0x61);
    assert_false(vmci_msi_decode(0xfed00000, 0, &m));
    assert_true(vmci_msi_decode(0xfee01004 | 1 << 5, 0xc161, &m));
    assert_int_equal(m.dest, 0x101);
    assert_true(m.logical && m.level);
    assert_int_equal(m.mode, VMCI_IRQ_LOWEST);
    vmci_irqchip_msi(&f->chip, 0x1000, 0x61); /* a write to memory, logged and dropped */
    assert_int_equal(take(f, 3), -1);
    vmc_msi_send(&f->board.msi, 0xfee01000, 0x62);
    assert_int_equal(take(f, 1), 0x62);
}

/* ---- x2APIC and the base register ---------------------------------------------------------- */

static void base_register_transitions(void **state)
{
    struct irq_fx *f = *state;
    struct vmci_lapic *l = apic(f, 1);

    assert_false(vmci_lapic_wrmsr(l, VMC_MSR_APIC_BASE, 0xfee00c00 | 1)); /* reserved bit */
    assert_false(vmci_lapic_wrmsr(l, VMC_MSR_APIC_BASE, 0xfee00c00 | 1ull << 60));
    assert_false(vmci_lapic_wrmsr(l, VMC_MSR_APIC_BASE, 0xfee00400)); /* x2 without enable */
    assert_true(vmci_lapic_wrmsr(l, VMC_MSR_APIC_BASE, 0xfee00c00));
    assert_false(vmci_lapic_wrmsr(l, VMC_MSR_APIC_BASE, 0xfee00800)); /* x2 to xAPIC */
    assert_true(vmci_lapic_wrmsr(l, VMC_MSR_APIC_BASE, 0xfee00000)); /* off */
    assert_false(vmci_lapic_wrmsr(l, VMC_MSR_APIC_BASE, 0xfee00c00)); /* off to x2 */
    assert_true(vmci_lapic_wrmsr(l, VMC_MSR_APIC_BASE, 0xfee00800));
    assert_int_equal(apic_rd(f, 1, VMCI_APIC_SVR), 0xff); /* came back as after reset */
    l->has_x2apic = false;
    assert_false(vmci_lapic_wrmsr(l, VMC_MSR_APIC_BASE, 0xfee00c00));
}

static void page_follows_the_base(void **state)
{
    struct irq_fx *f = *state;
    struct vmci_lapic *l = apic(f, 1);

    assert_true(vmci_lapic_claims(l, 0xfee00ff0));
    assert_false(vmci_lapic_claims(l, 0xfee01000));
    assert_true(vmci_lapic_wrmsr(l, VMC_MSR_APIC_BASE, 0xd0000000 | 0x800));
    assert_true(vmci_lapic_claims(l, 0xd0000080));
    assert_false(vmci_lapic_claims(l, 0xfee00080));
    assert_true(vmci_lapic_wrmsr(l, VMC_MSR_APIC_BASE, 0xd0000000));
    assert_false(vmci_lapic_claims(l, 0xd0000080));
    assert_true(vmci_lapic_wrmsr(l, VMC_MSR_APIC_BASE, 0xfee00800));
    x2_on(f, 1);
    assert_false(vmci_lapic_claims(l, 0xfee00080));
}

static void disabled_apic_is_deaf(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    ipi(f, 0, 1, 0x50);
    assert_true(vmci_lapic_wrmsr(apic(f, 1), VMC_MSR_APIC_BASE, 0xfee00000));
    assert_int_equal(take(f, 1), -1);
    ipi(f, 0, 1, 0x400);
    assert_int_equal(f->nmis[1], 0);
}

static void x2apic_registers(void **state)
{
    struct irq_fx *f = *state;
    uint64_t v;

    assert_false(rd(f, 3, VMCI_APIC_ID, &v)); /* not in x2APIC mode */
    x2_on(f, 3);
    assert_true(rd(f, 3, VMCI_APIC_ID, &v));
    assert_int_equal(v, 3);
    assert_true(rd(f, 3, VMCI_APIC_LDR, &v));
    assert_int_equal(v, 1u << 3);
    assert_false(wr(f, 3, VMCI_APIC_LDR, 1));
    assert_false(wr(f, 3, VMCI_APIC_ID, 1));
    assert_false(rd(f, 3, VMCI_APIC_DFR, &v));
    assert_false(wr(f, 3, VMCI_APIC_DFR, 0));
    assert_false(rd(f, 3, VMCI_APIC_ICR2, &v));
    assert_false(wr(f, 3, VMCI_APIC_ICR2, 0));
    assert_false(rd(f, 3, VMCI_APIC_EOI, &v));
    assert_false(rd(f, 3, VMCI_APIC_SELF_IPI, &v));
    assert_false(rd(f, 3, VMCI_APIC_APR, &v));
    assert_false(wr(f, 3, VMCI_APIC_PPR, 0));
    assert_false(wr(f, 3, VMCI_APIC_VERSION, 0));
    assert_false(wr(f, 3, VMCI_APIC_TIMER_CURRENT, 0));
    assert_false(rd(f, 3, 0xff0, &v));
    assert_false(wr(f, 3, VMCI_APIC_EOI, 1));
    assert_true(wr(f, 3, VMCI_APIC_EOI, 0));
    assert_false(wr(f, 3, VMCI_APIC_ESR, 1));
    assert_false(wr(f, 3, VMCI_APIC_TPR, 0x100));
    assert_true(wr(f, 3, VMCI_APIC_TPR, 0x20));
    assert_true(rd(f, 3, VMCI_APIC_TPR, &v));
    assert_int_equal(v, 0x20);
    assert_false(wr(f, 3, VMCI_APIC_SVR, 1ull << 32));
    assert_false(wr(f, 3, VMCI_APIC_LVT_TIMER, 1u << 20));
    assert_false(wr(f, 3, VMCI_APIC_ICR, 1u << 20));
}

static void x2apic_messages(void **state)
{
    struct irq_fx *f = *state;
    uint64_t v;

    apic_enable_all(f);
    for (unsigned i = 0; i < FX_CPUS; i++)
        x2_on(f, i);
    assert_true(wr(f, 0, VMCI_APIC_ICR, 2ull << 32 | 0x50));
    assert_true(rd(f, 0, VMCI_APIC_ICR, &v));
    assert_int_equal(v, 2ull << 32 | 0x50);
    assert_int_equal(take(f, 2), 0x50);
    assert_true(wr(f, 2, VMCI_APIC_EOI, 0));
    assert_true(wr(f, 0, VMCI_APIC_ICR, 0xffull << 32 | 0x50)); /* ID 255, not a broadcast */
    for (unsigned i = 0; i < FX_CPUS; i++)
        assert_int_equal(take(f, i), -1);
    assert_true(wr(f, 0, VMCI_APIC_ICR, 0x0aull << 32 | 0x850)); /* cluster 0, members 1 and 3 */
    assert_int_equal(take(f, 1), 0x50);
    assert_int_equal(take(f, 3), 0x50);
    assert_int_equal(take(f, 0), -1);
    assert_true(wr(f, 0, VMCI_APIC_ICR, 0x10001ull << 32 | 0x851)); /* cluster 1: nobody */
    assert_int_equal(take(f, 0), -1);
    assert_true(wr(f, 0, VMCI_APIC_ICR, 0xffffffffull << 32 | 0x60));
    assert_int_equal(take(f, 0), 0x60);
    assert_true(wr(f, 0, VMCI_APIC_EOI, 0));
    assert_true(wr(f, 0, VMCI_APIC_SELF_IPI, 0x77));
    assert_int_equal(take(f, 0), 0x77);
    vmci_irqchip_msi(&f->chip, 0xfee02000, 0x62); /* 8-bit destinations still work */
    assert_int_equal(take(f, 2), 0x62);
}

/* ---- timer --------------------------------------------------------------------------------- */

static void one_shot_counts_exactly(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    apic_wr(f, 0, VMCI_APIC_TIMER_DIVIDE, 0xb); /* by 1 */
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x40);
    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 1000);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 1000);
    pass(f, 400);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 600);
    pass(f, 599);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 1);
    assert_int_equal(take(f, 0), -1);
    pass(f, 1);
    assert_int_equal(take(f, 0), 0x40);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 0);
    pass(f, 100000);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    assert_int_equal(take(f, 0), -1);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_INIT), 1000);
}

static void divider_codes(void **state)
{
    struct irq_fx *f = *state;
    static const struct {
        uint32_t code, div;
    } row[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};

    apic_enable_all(f);
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x40);
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        apic_wr(f, 0, VMCI_APIC_TIMER_DIVIDE, row[i].code | 4); /* bit 2 is not there */
        assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_DIVIDE), row[i].code);
        apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 100);
        pass(f, row[i].div * 30);
        assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 70);
        pass(f, row[i].div * 70);
        assert_int_equal(take(f, 0), 0x40);
        apic_wr(f, 0, VMCI_APIC_EOI, 0);
    }
    apic_wr(f, 0, VMCI_APIC_TIMER_DIVIDE, 0xb);
    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 1000);
    pass(f, 500);
    apic_wr(f, 0, VMCI_APIC_TIMER_DIVIDE, 0); /* the count goes on at half the speed */
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 500);
    pass(f, 500);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 250);
}

static void periodic_keeps_its_phase(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    apic_wr(f, 0, VMCI_APIC_TIMER_DIVIDE, 0xb);
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x20041);
    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 100000);
    for (unsigned i = 0; i < 5; i++) {
        pass(f, 99999);
        assert_int_equal(take(f, 0), -1);
        pass(f, 1);
        assert_int_equal(take(f, 0), 0x41);
        apic_wr(f, 0, VMCI_APIC_EOI, 0);
    }
    pass(f, 350000); /* late: one interrupt, and the phase is kept */
    assert_int_equal(take(f, 0), 0x41);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    assert_int_equal(take(f, 0), -1);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 50000);
    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 0);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 0);
    pass(f, 1000000);
    assert_int_equal(take(f, 0), -1);
}

static void tiny_period_does_not_flood(void **state)
{
    struct irq_fx *f = *state;
    uint64_t next;

    apic_enable_all(f);
    apic_wr(f, 0, VMCI_APIC_TIMER_DIVIDE, 0xb);
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x20041);
    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 1);
    pass(f, 1);
    assert_int_equal(take(f, 0), 0x41);
    assert_true(vmc_timerq_next(f->board.timers, &next));
    assert_true(next >= f->tp.now_ns + 10000);
}

static void masked_timer_runs_silently(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    apic_wr(f, 0, VMCI_APIC_TIMER_DIVIDE, 0xb);
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x10041);
    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 1000);
    pass(f, 600);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 400);
    pass(f, 400);
    assert_int_equal(take(f, 0), -1);
}

/* Whoever runs the timers is behind the guest, which sees the count at its end. */
static void an_expiry_is_not_lost_when_timers_are_late(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    apic_wr(f, 0, VMCI_APIC_TIMER_DIVIDE, 0xb);
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x41);
    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 1000);
    f->tp.now_ns += 1500;
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x20042); /* a count that is over stays so */
    assert_int_equal(take(f, 0), 0x41);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 0);
    pass(f, 5000);
    assert_int_equal(take(f, 0), -1);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);

    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 1000);
    f->tp.now_ns += 1300;
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 700);
    assert_int_equal(take(f, 0), 0x42);
    f->tp.now_ns += 1000;
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x43); /* the period that has begun is the last */
    assert_int_equal(take(f, 0), 0x42);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_CURRENT), 700);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    pass(f, 700);
    assert_int_equal(take(f, 0), 0x43);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    pass(f, 5000);
    assert_int_equal(take(f, 0), -1);

    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 1000);
    f->tp.now_ns += 1000;
    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 0);
    assert_int_equal(take(f, 0), 0x43);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);

    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x40044);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t tsc = f->tp.now_ns * 3 + 3000;
        uint64_t v = 1;
        assert_true(vmci_lapic_wrmsr(apic(f, 0), VMC_MSR_TSC_DEADLINE, tsc));
        f->tp.now_ns += 1000;
        if (i == 0)
            assert_true(vmci_lapic_rdmsr(apic(f, 0), VMC_MSR_TSC_DEADLINE, &v));
        else
            assert_true(vmci_lapic_wrmsr(apic(f, 0), VMC_MSR_TSC_DEADLINE, 0));
        assert_int_equal(v, i);
        assert_int_equal(take(f, 0), 0x44);
        apic_wr(f, 0, VMCI_APIC_EOI, 0);
    }
    pass(f, 5000);
    assert_int_equal(take(f, 0), -1);
}

static void tsc_deadline(void **state)
{
    struct irq_fx *f = *state;
    struct vmci_lapic *l = apic(f, 0);
    uint64_t tsc, hz, v;

    apic_enable_all(f);
    fx_tsc(f, 0, &tsc, &hz);
    assert_true(vmci_lapic_wrmsr(l, VMC_MSR_TSC_DEADLINE, tsc + 3000));
    assert_true(vmci_lapic_rdmsr(l, VMC_MSR_TSC_DEADLINE, &v));
    assert_int_equal(v, 0); /* not in that mode: ignored */
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x40042);
    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 100); /* ignored in this mode */
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_TIMER_INIT), 0);
    assert_true(vmci_lapic_wrmsr(l, VMC_MSR_TSC_DEADLINE, tsc + 3001)); /* 1000.3 ns */
    assert_true(vmci_lapic_rdmsr(l, VMC_MSR_TSC_DEADLINE, &v));
    assert_int_equal(v, tsc + 3001);
    pass(f, 1000);
    assert_int_equal(take(f, 0), -1); /* never early */
    pass(f, 1);
    assert_int_equal(take(f, 0), 0x42);
    assert_true(vmci_lapic_rdmsr(l, VMC_MSR_TSC_DEADLINE, &v));
    assert_int_equal(v, 0);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    assert_true(vmci_lapic_wrmsr(l, VMC_MSR_TSC_DEADLINE, 1)); /* past: at once */
    assert_int_equal(take(f, 0), 0x42);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    assert_true(vmci_lapic_wrmsr(l, VMC_MSR_TSC_DEADLINE, UINT64_MAX)); /* far away */
    pass(f, 1000000000);
    assert_int_equal(take(f, 0), -1);
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x42); /* leaving the mode disarms */
    assert_true(vmci_lapic_rdmsr(l, VMC_MSR_TSC_DEADLINE, &v));
    assert_int_equal(v, 0);
    l->has_deadline = false;
    assert_false(vmci_lapic_rdmsr(l, VMC_MSR_TSC_DEADLINE, &v));
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x40042);
    assert_int_equal(apic_rd(f, 0, VMCI_APIC_LVT_TIMER), 0x42);
}

static void deadline_follows_the_tsc(void **state)
{
    struct irq_fx *f = *state;
    struct vmci_lapic *l = apic(f, 0);
    uint64_t tsc, hz, v;

    apic_enable_all(f);
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x40042);
    f->tsc_offset += 5000;
    vmci_apic_timer_tsc_moved(l); /* nothing is armed */
    assert_int_equal(take(f, 0), -1);
    fx_tsc(f, 0, &tsc, &hz);
    assert_true(vmci_lapic_wrmsr(l, VMC_MSR_TSC_DEADLINE, tsc + 3000));
    f->tsc_offset -= 3000; /* farther by 1 us */
    vmci_apic_timer_tsc_moved(l);
    pass(f, 1999);
    assert_int_equal(take(f, 0), -1);
    assert_true(vmci_lapic_rdmsr(l, VMC_MSR_TSC_DEADLINE, &v));
    assert_int_equal(v, tsc + 3000);
    pass(f, 1);
    assert_int_equal(take(f, 0), 0x42);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    fx_tsc(f, 0, &tsc, &hz);
    assert_true(vmci_lapic_wrmsr(l, VMC_MSR_TSC_DEADLINE, tsc + 3000000));
    f->tsc_offset += 3000000; /* reached */
    vmci_apic_timer_tsc_moved(l);
    assert_int_equal(take(f, 0), 0x42);
    assert_true(vmci_lapic_rdmsr(l, VMC_MSR_TSC_DEADLINE, &v));
    assert_int_equal(v, 0);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    pass(f, 10000000);
    assert_int_equal(take(f, 0), -1);
}

/* ---- life ---------------------------------------------------------------------------------- */

static void init_keeps_the_base(void **state)
{
    struct irq_fx *f = *state;

    apic_enable_all(f);
    x2_on(f, 1);
    ipi(f, 0, 1, 0x50);
    vmci_lapic_reset(apic(f, 1), true);
    assert_true(vmci_lapic_x2(apic(f, 1)));
    assert_int_equal(take(f, 1), -1);
    uint64_t v;
    assert_true(rd(f, 1, VMCI_APIC_LDR, &v));
    assert_int_equal(v, 2);
    vmci_lapic_reset(apic(f, 1), false);
    assert_false(vmci_lapic_x2(apic(f, 1)));
}

/* ---- resets beside requests ---------------------------------------------------------------- */

#define ROUNDS 5000u

struct sender {
    struct vmci_lapic *l;
    uint32_t round; /* set by the one that resets, then by the sender when its request is made */
};

static void await(const uint32_t *word, uint32_t value)
{
    while (vmci_load_acquire(word) != value)
        sched_yield();
}

static void *send_rounds(void *arg)
{
    struct sender *s = arg;
    const struct vmci_irq_msg m = {.mode = VMCI_IRQ_FIXED, .vector = 0x51};

    for (uint32_t i = 0; i < ROUNDS; i++) {
        await(&s->round, 2 * i + 1);
        vmci_lapic_accept(s->l, &m);
        vmci_store_release(&s->round, 2 * i + 2);
    }
    return NULL;
}

static void a_request_during_reset_is_gone_or_found(void **state)
{
    struct irq_fx *f = *state;
    struct sender s = {.l = apic(f, 1)};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, send_rounds, &s), 0);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        apic_wr(f, 1, VMCI_APIC_SVR, 0x1ff);
        vmci_store_release(&s.round, 2 * i + 1);
        for (volatile unsigned wait = i % 64; wait > 0; wait--)
            ;
        vmci_lapic_reset(apic(f, 1), true);
        await(&s.round, 2 * i + 2);
        if (vmci_load_relaxed(&apic(f, 1)->irr[2]) != 0)
            assert_int_not_equal(vmci_load_relaxed(&apic(f, 1)->irr_words), 0);
        vmci_lapic_reset(apic(f, 1), true);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void page_round_trip(void **state)
{
    struct irq_fx *f = *state;
    uint8_t a[1024], b[1024];

    apic_enable_all(f);
    ipi(f, 1, 0, 0x93);
    assert_int_equal(take(f, 0), 0x93);
    ipi(f, 1, 0, 0xa5);
    ipi(f, 1, 0, 0x33);
    apic_wr(f, 0, VMCI_APIC_TIMER_DIVIDE, 0xb);
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x20041);
    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 100000);
    apic_wr(f, 0, VMCI_APIC_ICR2, 0x03000000);
    apic_wr(f, 0, VMCI_APIC_TPR, 0x11);
    pass(f, 30000);
    vmci_lapic_get_page(apic(f, 0), a);
    vmci_lapic_reset(apic(f, 0), false);
    vmci_lapic_set_page(apic(f, 0), a);
    vmci_lapic_get_page(apic(f, 0), b);
    assert_memory_equal(a, b, sizeof(a));
    assert_int_equal(take(f, 0), 0xa5);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    pass(f, 70000);
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    assert_int_equal(take(f, 0), 0x41);
    /* A count that is over although no callback has said so: its interrupt is in the page. */
    apic_wr(f, 0, VMCI_APIC_EOI, 0);
    apic_wr(f, 0, VMCI_APIC_LVT_TIMER, 0x42);
    apic_wr(f, 0, VMCI_APIC_TIMER_INIT, 1000);
    while (take(f, 0) >= 0)
        apic_wr(f, 0, VMCI_APIC_EOI, 0);
    f->tp.now_ns += 1000;
    vmci_lapic_get_page(apic(f, 0), a);
    vmci_lapic_reset(apic(f, 0), false);
    vmci_lapic_set_page(apic(f, 0), a);
    assert_int_equal(take(f, 0), 0x42);
    memset(a, 0xff, sizeof(a)); /* anything may be loaded */
    vmci_lapic_set_page(apic(f, 0), a);
    for (unsigned i = 0; i < 300 && take(f, 0) >= 0; i++)
        apic_wr(f, 0, VMCI_APIC_EOI, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        irq_test(reset_values),
        irq_test(access_widths),
        irq_test(errors_show_after_a_write_to_esr),
        irq_test(read_only_registers_are_no_error),
        irq_test(software_disable_masks_the_lvt),
        irq_test(priorities_nest),
        irq_test(task_priority_blocks),
        irq_test(all_vectors_arrive_highest_first),
        irq_test(shorthands_and_broadcast),
        irq_test(logical_flat_and_cluster),
        irq_test(lowest_priority_is_chosen),
        irq_test(startup_messages),
        irq_test(msi_decoding),
        irq_test(base_register_transitions),
        irq_test(page_follows_the_base),
        irq_test(disabled_apic_is_deaf),
        irq_test(x2apic_registers),
        irq_test(x2apic_messages),
        irq_test(one_shot_counts_exactly),
        irq_test(divider_codes),
        irq_test(periodic_keeps_its_phase),
        irq_test(tiny_period_does_not_flood),
        irq_test(masked_timer_runs_silently),
        irq_test(an_expiry_is_not_lost_when_timers_are_late),
        irq_test(tsc_deadline),
        irq_test(deadline_follows_the_tsc),
        irq_test(init_keeps_the_base),
        irq_test(page_round_trip),
        irq_test(a_request_during_reset_is_gone_or_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
