/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random sequences of register accesses to the local APIC with its timer, the IOAPIC with the
 * serial port's wire, a PIT channel whose gate is low, and the RTC while it is set: what each
 * register reads, and which interrupts come. Nothing here hangs on how fast time goes by. One sum
 * for each device, which Bochs 2.7 (local APIC, PIT) or QEMU 7.2 (IOAPIC, RTC) has, too. For a
 * whole machine.
 */
#include "kern.h"

#ifndef SEED
#define SEED       1u
#define STEPS      3000u
#define SUM_APIC   0x47baab72u
#define SUM_IOAPIC 0x280cb31eu
#define SUM_PIT    0x52834543u
#define SUM_RTC    0x810518c7u
#define VERBOSE    0
#endif
#include "lapic.h"
#include "sum.h"

#define IOAPIC   0xfec00000ul
#define PERIODIC 0x20000u
#define DEADLINE 0x40000u
#if VERBOSE
#define OP(...) (print(" "), print(__VA_ARGS__))
#else
#define OP(...)
#endif

#define PIN      4u /* of the IOAPIC, where the serial port's wire is */
#define COM1     0x3f8
#define SPURIOUS 0x2fu

static volatile unsigned events, keep; /* interrupts of a window; bits of those without an EOI */

static uint32_t rd(unsigned reg)
{
    return *(volatile uint32_t *)(LAPIC + reg);
}
static void wr(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(LAPIC + reg) = v;
}
static uint32_t io_rd(unsigned i)
{
    *(volatile uint32_t *)IOAPIC = i;
    return *(volatile uint32_t *)(IOAPIC + 0x10);
}
static void io_wr(unsigned i, uint32_t v)
{
    *(volatile uint32_t *)IOAPIC = i;
    *(volatile uint32_t *)(IOAPIC + 0x10) = v;
}

static bool on_event(struct regs *r)
{
    if (r->vector == SPURIOUS) /* whether there are any is nobody's business */
        return true;
    if (r->vector < 0x20)
        return false;
    add((uint32_t)r->vector | 0x10000);
    if (events++ == 4) /* a wire that stays up */
        io_wr(0x10 + 2 * PIN, io_rd(0x10 + 2 * PIN) | MASKED);
    if (events > 4 || (keep >> events & 1) == 0)
        wr(EOI, 0);
    return true;
}

static void window(void)
{
    events = 0;
    keep = rnd(3) == 0 ? rnd(256) : 0;
    __asm__ volatile("sti\n\tnop\n\tnop\n\tcli" : : : "memory");
}

static void add_vectors(unsigned base)
{
    for (unsigned n = 0; n < 8; n++)
        add(rd(base + 16 * n));
}

static bool pending(unsigned vector)
{
    return (rd(IRR + 16 * (vector / 32)) >> (vector % 32) & 1) != 0;
}

/* ---- the local APIC -------------------------------------------------------------------------- */

static void apic_timer(void)
{
    uint32_t lvt = rd(LVTT), limit = 10000000;

    wr(TMICT, 1 + rnd(2000));
    add(rd(TMICT));
    if ((lvt & (MASKED | DEADLINE)) == 0)
        while (!pending(lvt & 0xff) && --limit != 0)
            ;
    else if ((lvt & (PERIODIC | DEADLINE)) == 0)
        while (rd(TMCCT) != 0 && --limit != 0)
            ;
    CHECK(limit != 0, "the timer does not end");
    wr(TMICT, 0);
    add(rd(TMCCT));
}

static void step_apic(void)
{
    uint32_t lvt = LVTT + 16 * rnd(6);

    uint32_t o = rnd(16);

    if (o >= 3 && o <= 6 && (rd(SVR) & 0x100) == 0) /* who takes its own while it is off? */
        o = 12;
    OP("op%x", o);
    switch (o) {
    case 0:
    case 1:
        wr(TPR, rnd(256));
        break;
    case 2:
        __asm__ volatile("mov %0, %%cr8" : : "r"((uint64_t)rnd(16)));
        break;
    case 3:
    case 4:
    case 5:
        wr(ICR2, 0);
        wr(ICR, 0x4000 | (1 + rnd(2)) << 18 | (0x30 + rnd(0xd0)));
        break;
    case 6: /* by number or by logical number; lowest priority */
        wr(ICR2, rnd(2) != 0 ? 0 : rnd(256) << 24);
        wr(ICR, 0x4800 | rnd(2) << 8 | (0x30 + rnd(0xd0)));
        break;
    case 7:
        wr(LDR, rnd(256) << 24 | rnd(0x1000000));
        wr(DFR, rnd(2) != 0 ? 0xffffffff : 0x0fffffff);
        break;
    case 8: /* not to be an NMI, SMI or INIT by itself */
        wr(lvt, (lvt == LVT0 || lvt == LVT1 ? rnd(2) << 13 | rnd(2) << 15
                 : lvt == LVTT              ? rnd(3) << 17
                                            : 0) |
                    rnd(2) << 16 | (0x30 + rnd(0xd0)));
        break;
    case 9:
        wr(SVR, (rnd(8) != 0) << 8 | SPURIOUS);
        break;
    case 10:
        wr(TDCR, rnd(16));
        break;
    case 11:
        apic_timer();
        break;
    case 12:
        wr(EOI, 0);
        break;
    case 13:
        wr(ESR, 0);
        break;
    default:
        window();
    }
    add(rd(TPR)), add(rd(PPR)), add(rd(LDR)), add(rd(DFR)), add(rd(SVR)), add(rd(ESR) & ~0xcu);
    add_vectors(ISR), add_vectors(IRR), add_vectors(TMR);
    for (unsigned n = 0; n < 6; n++)
        add(rd(LVTT + 16 * n));
    add(rd(ICR) & ~0x1000u), add(rd(TDCR));
}

static void apic_quiet(void)
{
    wr(SVR, 0x100 | SPURIOUS);
    wr(TMICT, 0);
    for (unsigned n = 0; n < 6; n++)
        wr(LVTT + 16 * n, MASKED);
    wr(LDR, 0x1000000), wr(DFR, 0xffffffff);
    wr(TPR, 0);
    for (unsigned n = 0; n < 256; n++) {
        wr(EOI, 0);
        events = 100;
        __asm__ volatile("sti\n\tnop\n\tnop\n\tcli" : : : "memory");
    }
    wr(ESR, 0), wr(ESR, 0);
}

/* ---- the IOAPIC ------------------------------------------------------------------------------ */

static void step_ioapic(void)
{
    uint32_t o = rnd(12);

    OP("op%x", o);
    switch (o) {
    case 0:
    case 1:
    case 2: /* with the wire down; fixed or lowest priority */
        outb(COM1 + 1, 0);
        io_wr(0x10 + 2 * PIN, (rnd(4) == 0 ? MASKED : 0) | rnd(2) << 15 | (rnd(4) == 0) << 13 |
                                  rnd(2) << 11 | rnd(2) << 8 | (0x30 + rnd(0xc0)));
        io_wr(0x11 + 2 * PIN, 0xff000000);
        break;
    case 4:
    case 5:
    case 6:
        outb(COM1 + 1, 2 * (rnd(2) != 0)); /* an empty transmitter asks for an interrupt */
        break;
    case 7:
        add(inb(COM1 + 2)); /* and is told so */
        break;
    case 8:
        wr(EOI, 0);
        break;
    case 9:
        wr(TPR, rnd(3) == 0 ? rnd(256) : 0);
        break;
    default:
        window();
    }
    add(io_rd(0x10 + 2 * PIN)), add(io_rd(0x11 + 2 * PIN));
    add(rd(PPR));
    add_vectors(ISR), add_vectors(IRR);
}

/* ---- the PIT's channel 2 --------------------------------------------------------------------- */

static unsigned channel0(void)
{
    outb(0x43, 0);
    unsigned low = inb(0x40);
    return low | (unsigned)inb(0x40) << 8;
}

static void clocks(void) /* some, for a count to be loaded */
{
    unsigned from = channel0();

    while (((from - channel0()) & 0xffff) < 4)
        ;
}

static void step_pit(void)
{
    static uint32_t control = 0xb0; /* word of now */
    static unsigned bytes;          /* of the count since then, which both bytes make */
    unsigned mode = control >> 1 & 7, needed = (control & 0x30) == 0x30 ? 2 : 1;
    static bool status; /* is what is read next */
    static bool half;   /* of the count was read */
    /* Without the gate; that of mode 2 goes on in Bochs. */
    bool loads = mode == 0 || mode == 3 || mode == 4;
    uint8_t v;

    switch (rnd(8)) {
    case 0:
        control = 0x80 | (1 + rnd(3)) << 4 | rnd(6) << 1 | (rnd(4) == 0);
        outb(0x43, (uint8_t)control);
        bytes = 0;
        status = half = false;
        OP("control %x", control);
        break;
    case 1:
    case 2: /* of second counts, and odd ones in mode 3, Bochs thinks otherwise */
        if (bytes == needed)
            break;
        v = (uint8_t)((rnd(10) << 4) + (mode == 3 ? 2 * rnd(5) : rnd(10)));
        outb(0x42, v);
        bytes++;
        OP("write %x", v);
        clocks();
        break;
    case 3:
        if (bytes == needed && !half)
            outb(0x43, 0x80); /* latch */
        OP("latch");
        break;
    case 4: /* read back: count, status */
        v = (uint8_t)(0xc8 | rnd(4) << 4);
        if (half)
            v |= 0x10;
        if (bytes != needed || half)
            v |= 0x20;
        outb(0x43, v);
        status = status || (v & 0x10) == 0;
        OP("back %x", v);
        break;
    default:
        v = inb(0x42);
        if (status)
            v &= 0xbf; /* whether it is loaded hangs on time */
        else if (!loads || bytes != needed)
            v = 0;
        add(v);
        half = !status && needed == 2 && !half;
        status = false;
    }
    add(inb(0x61) & 0x2f);
}

/* ---- the RTC --------------------------------------------------------------------------------- */

static void rtc_wr(unsigned i, unsigned v)
{
    outb(0x70, (uint8_t)(0x80 | i));
    outb(0x71, (uint8_t)v);
}
static uint8_t rtc_rd(unsigned i)
{
    outb(0x70, (uint8_t)(0x80 | i));
    return inb(0x71);
}

static void step_rtc(void)
{
    unsigned i = rnd(14), v = rnd(256);

    if (i == 10)
        v = (v & 0x8f) | 0x20;
    if (i == 11)
        v |= 0x80; /* the time stands still */
    if (i == 12)
        v = rtc_rd(12) & 0x20;
    rtc_wr(i, v);
    for (i = 0; i < 14; i++)
        if (i != 12)
            add(rtc_rd(i));
}

/* ---------------------------------------------------------------------------------------------- */

static void run(const char *name, void (*step)(void), uint32_t expected)
{
    rng = SEED * 2654435761u + 1;
    sum = 0;
    for (unsigned n = 0; n < STEPS; n++) {
#if VERBOSE
        print("%s.%u:", name, n);
#endif
        step();
#if VERBOSE
        print("\n");
#endif
    }
    CHECK(sum == expected, "%s: sum is %x", name, sum);
}

void test_main(void)
{
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    exc_hook = on_event;
    apic_quiet();
    run("apic", step_apic, SUM_APIC);
    apic_quiet();
    outb(COM1 + 4, 8); /* OUT2 lets interrupts out */
    run("ioapic", step_ioapic, SUM_IOAPIC);
    outb(COM1 + 1, 0);
    io_wr(0x10 + 2 * PIN, MASKED);
    apic_quiet();
    outb(0x43, 0x34), outb(0x40, 0), outb(0x40, 0);
    outb(0x61, 0);
    outb(0x43, 0xb0), outb(0x42, 0), outb(0x42, 0);
    run("pit", step_pit, SUM_PIT);
    rtc_wr(11, 0x82);
    for (unsigned i = 0; i < 10; i++)
        rtc_wr(i, 0);
    run("rtc", step_rtc, SUM_RTC);
}
