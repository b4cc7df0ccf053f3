/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random programs of STI, CLI, POPF, IRET, MOV SS, POP SS, MOV CR8 and writes to the local APIC,
 * which ask for interrupts and NMIs, change the priority and end interrupts, with and without TF:
 * between which two instructions each interrupt comes, and what the APIC holds then. One sum, which
 * Bochs 2.7 has, too.
 */
#include "kern.h"

#ifndef SEED
#define SEED    1u
#define CASES   6000u
#define SUM     0x2be9893bu
#define VERBOSE 0
#endif
#include "code.h"
#include "sum.h"

#define LAPIC 0xfee00000ul
#define CODE  0x60000ul
enum {
    TPR = 0x80,
    PPR = 0xa0,
    EOI = 0xb0,
    SVR = 0xf0,
    ISR = 0x100,
    IRR = 0x200,
    ICR = 0x300,
    ICR2 = 0x310,
};
#define FLAG_TF 0x100u
#define FLAG_IF 0x200u

static unsigned events;

static uint32_t rd(unsigned reg)
{
    return *(volatile uint32_t *)(LAPIC + reg);
}
static void wr(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(LAPIC + reg) = v;
}

/* What of it is pending, or in service. */
static void add_vectors(unsigned base)
{
    for (unsigned n = 3; n < 8; n++)
        add(rd(base + 16 * n));
}

static bool on_event(struct regs *r)
{
    if (r->vector == 13 || r->vector == 14 || r->vector == 6 || r->vector == 8)
        return false;
    if (r->vector == 0xff) /* spurious, where the priority rises as one is on its way */
        return true;
    if (++events > 60) { /* enough of it */
        r->flags &= ~(unsigned long)(FLAG_IF | FLAG_TF);
        return true;
    }
    add((uint32_t)r->vector);
    add(r->rip - CODE < 0x1000 ? (uint32_t)(r->rip - CODE) : 0xffff); /* or a handler's start */
    add((uint32_t)r->flags & 0x10300);
    if (r->vector >= 0x60) {
        add(rd(PPR));
        if (r->vector % 4 != 0)
            wr(EOI, 0);
    }
    if (r->vector % 4 == 3) /* it ends single steps, and interrupts */
        r->flags &= ~(unsigned long)(r->vector == 3 ? FLAG_TF : FLAG_IF);
    return true;
}

/* ---- a program: RDI is LAPIC, RAX a selector for SS ------------------------------------------ */

static void reg_write(unsigned reg, uint32_t v)
{
    b(0xc7), b(0x87), d(reg), d(v); /* mov dword [rdi + reg], v */
}

static uint32_t any_vector(void)
{
    return 0x60 + 16 * rnd(5) + rnd(8);
}

static uint32_t any_flags(void)
{
    return 2 | (rnd(3) != 0 ? FLAG_IF : 0) | (rnd(6) == 0 ? FLAG_TF : 0);
}

static void step(void)
{
    switch (rnd(20)) {
    case 0:
    case 1:
    case 2:
        b(0xfb); /* sti */
        break;
    case 3:
        b(0xfa); /* cli */
        break;
    case 4:
    case 5:
        b(0x8e), b(0xd0); /* mov ss, ax */
        break;
    case 6:
        b(0x68), d(any_flags()), b(0x9d); /* push; popf */
        break;
    case 7:
    case 8:
    case 9:
        reg_write(ICR, 0x44000 | any_vector());
        break;
    case 10:
        reg_write(ICR, 0x4400); /* NMI */
        break;
    case 11:
        reg_write(TPR, 16 * (5 + rnd(7)) + rnd(2) * rnd(16));
        break;
    case 12:
        reg_write(EOI, 0);
        break;
    case 13:                    /* mov cr8 */
        b(0xbb), d(5 + rnd(7)); /* mov ebx */
        b(0x44), b(0x0f), b(0x22), b(0xc3);
        break;
    case 14:                       /* iretq behind itself */
        b(0x48), b(0x89), b(0xe3); /* mov rbx, rsp */
        b(0x6a), b(SEL_DATA), b(0x53), b(0x68), d(any_flags());
        b(0x6a), b(SEL_CODE64), b(0x48), b(0x8d), b(0x0d), d(3); /* lea rcx, [rip + 3] */
        b(0x51), b(0x48), b(0xcf);
        break;
    case 15:
        b(0xcc); /* int3 */
        break;
    case 16:
        b(0xcd), b(0x21 + rnd(2) * 2); /* int */
        break;
    case 17:
        b(0x9c), b(0x5b); /* pushf; pop rbx */
        break;
    default:
        b(0x90);
    }
}

static void program(void)
{
    uint32_t n = 6 + rnd(20);

    at = (uint8_t *)CODE;
    b(0x53), b(0x57); /* push rbx, rdi */
    b(0xbf), d((uint32_t)LAPIC);
    b(0xb8), d(SEL_DATA);
    while (n-- != 0)
        step();
    b(0x68), d(2), b(0x9d);
    b(0x5f), b(0x5b), b(0xc3);
}

static void settle(void)
{
    events = 1000; /* nothing more is told */
    for (unsigned n = 0; n < 64; n++) {
        wr(EOI, 0);
        wr(TPR, 0);
        __asm__ volatile("sti\n\tnop\n\tnop\n\tcli" : : : "memory");
    }
}

void test_main(void)
{
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    wr(SVR, 0x1ff);
    exc_hook = on_event;
    for (unsigned n = 0; n < CASES; n++) {
        program();
        wr(ICR2, 0);
        wr(TPR, 16 * rnd(8));
        events = 0;
#if VERBOSE
        print("%u:", n);
#endif
        add((uint32_t)try_call((void (*)(void *))CODE, NULL));
        add_vectors(ISR), add_vectors(IRR), add(rd(PPR));
        settle();
#if VERBOSE
        print("\n");
#endif
    }
    CHECK(sum == SUM, "sum is %x", sum);
}
