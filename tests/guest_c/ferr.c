/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * x87 errors with CR0.NE clear: FERR#, IRQ 13, port F0h and IGNNE# of a PC (SDM 1 appendix D). For
 * a whole machine: vmcore run, or QEMU.
 */
#include "kern.h"

#define CR0_NE 0x20ul

static volatile unsigned irq13, errors16;
static volatile uint16_t status_seen;
static volatile unsigned long irq_at;
static volatile bool ignore_only; /* the handler acknowledges but leaves the error pending */

static bool on_event(struct regs *r)
{
    uint16_t sw;

    if (r->vector == 16) {
        errors16++;
        __asm__ volatile("fnclex");
        return true;
    }
    if (r->vector != 0x2d)
        return false;
    irq13++;
    irq_at = r->rip;
    __asm__ volatile("fnstsw %0" : "=a"(sw));
    status_seen = sw;
    outb(0xf0, 0);
    if (ignore_only)
        __asm__ volatile("fld1\n\tfstp %%st(0)" : : : "memory"); /* IGNNE#: not stopped */
    else
        __asm__ volatile("fnclex");
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    return true;
}

static void pic(void)
{
    outb(0x20, 0x11);
    outb(0xa0, 0x11);
    outb(0x21, 0x20);
    outb(0xa1, 0x28);
    outb(0x21, 4);
    outb(0xa1, 2);
    outb(0x21, 1);
    outb(0xa1, 1);
    outb(0x21, 0xfb);
    outb(0xa1, 0xdf);                         /* IRQ 2 and 13 */
    *(volatile uint32_t *)0xfee000f0 = 0x1ff; /* the APIC passes the PIC's output on */
    *(volatile uint32_t *)0xfee00350 = 0x700;
}

static void unmask(void)
{
    uint16_t cw = 0x037b; /* division by zero */
    __asm__ volatile("fninit\n\tfldcw %0" : : "m"(cw));
}

/* 1 / 0, and then a waiting instruction whose address is noted. */
static unsigned long divide(void)
{
    unsigned long at;

    __asm__ volatile("sti\n\tfld1\n\tfldz\n\tfdivrp\n\tnop\n\tnop\n"
                     "1:\tfwait\n\tnop\n\tcli\n\tlea 1b, %0"
                     : "=r"(at)
                     :
                     : "memory");
    return at;
}

void test_main(void)
{
    exc_hook = on_event;
    pic();
    wr_cr0(rd_cr0() | CR0_NE);
    unmask();
    (void)divide();
    CHECK(errors16 == 1 && irq13 == 0, "NE set: #MF %u, IRQ13 %u", errors16, irq13);

    wr_cr0(rd_cr0() & ~CR0_NE);
    unmask();
    unsigned long at = divide();
    CHECK(errors16 == 1 && irq13 == 1, "NE clear: #MF %u, IRQ13 %u", errors16, irq13);
    CHECK((status_seen & 0x8084) == 0x8084, "status %x: ES, B, ZE", status_seen);
    print("interrupted %s the waiting instruction\n",
          irq_at == at ? "in front of" : "elsewhere than");
    unmask();
    (void)divide();
    CHECK(irq13 == 2, "a second error: %u", irq13);
    unmask();
    ignore_only = true;
    (void)divide();
    uint16_t sw;
    __asm__ volatile("fnstsw %0" : "=a"(sw));
    CHECK(irq13 == 3 && (sw & 0x84) == 0x84, "IGNNE#: %u, status %x", irq13, sw);
    __asm__ volatile("sti\n\tfwait\n\tnop\n\tcli");
    CHECK(irq13 == 3, "ignored until the error is cleared: %u", irq13);
    ignore_only = false;
    __asm__ volatile("fnclex");
    unmask();
    (void)divide();
    CHECK(irq13 == 4, "and then reported again: %u", irq13);
    exc_hook = NULL;
}
