/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Local APIC, its timer, x2APIC mode, the PIC and PIT behind it, start-up of other processors (SDM
 * 3A chapter 11, 8.4). For a whole machine: vmcore run, or QEMU.
 */
#include "kern.h"

#include "lapic.h"

#define MSR_APIC     0x1bu
#define MSR_DEADLINE 0x6e0u
#define X2(reg)      (0x800u + (reg) / 16)

static volatile unsigned hits[256];
static volatile unsigned order[16], orders;
static volatile bool no_eoi, nest, nmi_again, keep_rip;
static volatile unsigned long rips[2];

static uint32_t rd(unsigned reg)
{
    return *(volatile uint32_t *)(LAPIC + reg);
}
static void wr(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(LAPIC + reg) = v;
}
static bool bit(unsigned base, unsigned vector)
{
    return (rd(base + 16 * (vector / 32)) >> (vector % 32) & 1) != 0;
}
static void self_ipi(unsigned vector)
{
    wr(ICR2, 0);
    wr(ICR, 0x44000 | vector);
}
static void sti_nop(void)
{
    __asm__ volatile("sti\n\tnop\n\tnop\n\tcli" : : : "memory");
}
static void halt(void)
{
    __asm__ volatile("sti\n\thlt\n\tcli" : : : "memory");
}
static uint64_t tsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return lo | (uint64_t)hi << 32;
}

static bool on_event(struct regs *r)
{
    unsigned v = (unsigned)r->vector;

    if (v == 2) {
        hits[2]++;
        if (nmi_again) { /* two more while blocked: one is kept */
            nmi_again = false;
            wr(ICR2, rd(ID));
            wr(ICR, 0x4400);
            wr(ICR2, rd(ID));
            wr(ICR, 0x4400);
            hits[3] = hits[2];
        }
        return true;
    }
    if (v < 32)
        return false;
    hits[v]++;
    if (keep_rip && orders < 2)
        rips[orders] = r->rip;
    if (orders < 16)
        order[orders++] = v;
    if (nest && v == 0x61) {
        nest = false;
        CHECK(bit(ISR, 0x61) && !bit(IRR, 0x61), "in service");
        CHECK(rd(PPR) == 0x60, "PPR is %x in service", rd(PPR));
        self_ipi(0x6f); /* same class: waits */
        sti_nop();
        CHECK(hits[0x6f] == 0 && bit(IRR, 0x6f), "a vector of the same class waits");
        self_ipi(0x71); /* higher: nests */
        sti_nop();
        CHECK(hits[0x71] == 1, "a higher vector nests");
    }
    if (v >= 0x30 && !no_eoi && v != 0xff)
        wr(EOI, 0);
    return true;
}

static void clear(void)
{
    for (unsigned i = 0; i < 256; i++)
        hits[i] = 0;
    orders = 0;
}

/* ---- registers, interrupts ------------------------------------------------------------------- */

static void registers(void)
{
    CHECK((rdmsr(MSR_APIC) & 0xfffffffffffff000) == LAPIC, "base");
    CHECK((rdmsr(MSR_APIC) & 0x900) == 0x900, "enabled, boot processor: %lx", rdmsr(MSR_APIC));
    CHECK(rd(SVR) == 0xff, "SVR after reset: %x", rd(SVR));
    CHECK(rd(DFR) == 0xffffffff && rd(LDR) == 0 && rd(TPR) == 0, "DFR, LDR, TPR after reset");
    CHECK(rd(LVTT) == MASKED && rd(LVTE) == MASKED, "LVTs after reset");
    wr(LVTT, 0x33);
    CHECK(rd(LVTT) == (MASKED | 0x33), "a disabled APIC masks its LVTs");
    wr(SVR, 0x1ff);
    wr(LVTT, MASKED);
    CHECK((rd(VERSION) & 0xff) >= 0x10 && (rd(VERSION) >> 16 & 0xff) >= 3, "version");
    wr(DFR, 0);
    CHECK(rd(DFR) == 0x0fffffff, "DFR: only the model can be written");
    wr(DFR, 0xffffffff);
    wr(LDR, 0x01ffffff);
    CHECK(rd(LDR) == 0x01000000, "LDR: only the ID can be written");
}

static void priorities(void)
{
    clear();
    self_ipi(0x45);
    CHECK(bit(IRR, 0x45) && hits[0x45] == 0, "IF holds an interrupt back");
    sti_nop();
    CHECK(hits[0x45] == 1 && !bit(IRR, 0x45) && !bit(ISR, 0x45), "and STI lets it in");
    wr(TPR, 0x50);
    CHECK(rd(PPR) == 0x50, "PPR follows TPR");
    self_ipi(0x4f);
    self_ipi(0x5f);
    self_ipi(0x60);
    sti_nop();
    CHECK(hits[0x60] == 1 && hits[0x5f] == 0 && hits[0x4f] == 0,
          "TPR holds back its class and below");
    unsigned long cr8;
    __asm__ volatile("mov %%cr8, %0" : "=r"(cr8));
    CHECK(cr8 == 5, "CR8 is TPR[7:4]");
    __asm__ volatile("mov %0, %%cr8" : : "r"(4ul));
    sti_nop();
    CHECK(rd(TPR) == 0x40 && hits[0x5f] == 1 && hits[0x4f] == 0, "a lower CR8 lets them in");
    wr(TPR, 0);
    sti_nop();
    CHECK(hits[0x4f] == 1, "all of them");

    clear();
    self_ipi(0x41);
    self_ipi(0x91);
    self_ipi(0x62);
    sti_nop();
    sti_nop();
    CHECK(order[0] == 0x91 && order[1] == 0x62 && order[2] == 0x41, "the highest comes first");
    clear();
    nest = true;
    self_ipi(0x61);
    sti_nop();
    sti_nop();
    CHECK(hits[0x6f] == 1 && order[0] == 0x61 && order[1] == 0x71 && order[2] == 0x6f, "nesting");
    clear();
    no_eoi = true;
    self_ipi(0x55);
    sti_nop();
    no_eoi = false;
    CHECK(bit(ISR, 0x55) && rd(PPR) == 0x50, "in service until EOI");
    self_ipi(0x55);
    sti_nop();
    CHECK(hits[0x55] == 1 && bit(IRR, 0x55), "again: waits");
    wr(EOI, 0);
    sti_nop();
    CHECK(hits[0x55] == 2 && rd(PPR) == 0, "delivered after EOI");
}

static void nmis(void)
{
    clear();
    nmi_again = true;
    wr(ICR2, rd(ID));
    wr(ICR, 0x4400);
    for (unsigned i = 0; i < 100 && hits[2] < 2; i++)
        __asm__ volatile("nop");
    CHECK(hits[3] == 1 && hits[2] == 2, "NMI: %u, in the handler %u", hits[2], hits[3]);
}

static void destinations(void)
{
    clear();
    wr(LDR, 0x02000000);
    wr(DFR, 0xffffffff);
    wr(ICR2, 0x02000000);
    wr(ICR, 0x4800 | 0x51); /* logical, flat */
    wr(ICR2, 0x04000000);
    wr(ICR, 0x4800 | 0x52);
    wr(ICR2, rd(ID));
    wr(ICR, 0x4000 | 0x53); /* physical */
    wr(ICR2, 0);
    wr(ICR, 0x84000 | 0x54); /* all */
    wr(ICR, 0xc4000 | 0x55); /* all others */
    wr(DFR, 0x0fffffff);
    wr(LDR, 0x31000000);
    wr(ICR2, 0x31000000);
    wr(ICR, 0x4800 | 0x56); /* logical, cluster */
    wr(ICR2, 0x21000000);
    wr(ICR, 0x4800 | 0x57);
    sti_nop();
    sti_nop();
    CHECK(hits[0x51] == 1 && hits[0x52] == 0, "flat logical destination");
    CHECK(hits[0x53] == 1 && hits[0x54] == 1 && hits[0x55] == 0, "physical, all, others");
    CHECK(hits[0x56] == 1 && hits[0x57] == 0, "cluster destination");
    wr(DFR, 0xffffffff);
    wr(LDR, 0);
}

static void errors(void)
{
    clear();
    wr(ESR, 0);
    wr(LVTE, 0x77);
    self_ipi(0x05);
    wr(ESR, 0);
    CHECK((rd(ESR) & 0x60) != 0, "an illegal vector is an error: %x", rd(ESR));
    sti_nop();
    CHECK(hits[0x77] == 1, "and interrupts: %u", hits[0x77]);
    wr(ESR, 0);
    wr(ESR, 0);
    CHECK(rd(ESR) == 0, "ESR is cleared");
    static const uint16_t read_only[] = {ID, VERSION, 0x90, PPR, 0xc0, ISR, TMR, IRR, TMCCT};
    for (unsigned i = 0; i < sizeof(read_only) / sizeof(read_only[0]); i++)
        wr(read_only[i], 0);
    wr(ESR, 0);
    CHECK(rd(ESR) == 0, "writing what can only be read: %x", rd(ESR));
    wr(0x40, 0);
    wr(ESR, 0);
    CHECK(rd(ESR) == 0x80, "a reserved register: %x", rd(ESR));
    wr(LVTE, MASKED);
}

/* ---- timer ----------------------------------------------------------------------------------- */

static void wait_for(unsigned vector, unsigned n)
{
    uint64_t end = tsc() + 4000000000ull;

    while (hits[vector] < n && tsc() < end)
        sti_nop();
}

static void timer(void)
{
    clear();
    wr(TDCR, 0xb); /* divide by 1 */
    wr(LVTT, 0x41);
    wr(TMICT, 10000000);
    uint32_t a = rd(TMCCT);
    uint32_t b = rd(TMCCT);
    CHECK(a <= 10000000 && b <= a && b != 0, "the count goes down: %u %u", a, b);
    wait_for(0x41, 1);
    CHECK(hits[0x41] == 1 && rd(TMCCT) == 0, "one shot: %u, %u left", hits[0x41], rd(TMCCT));
    wait_for(0x41, 2);
    CHECK(hits[0x41] == 1, "just one: %u", hits[0x41]);

    wr(LVTT, 0x20042);
    wr(TMICT, 1000000);
    wait_for(0x42, 4);
    CHECK(hits[0x42] >= 4 && rd(TMCCT) <= 1000000, "periodic: %u", hits[0x42]);
    wr(TMICT, 0);
    CHECK(rd(TMCCT) == 0, "an initial count of 0 stops it");
    sti_nop();
    unsigned n = hits[0x42];
    wait_for(0x42, n + 1);
    CHECK(hits[0x42] == n, "stopped");

    clear();
    wr(LVTT, MASKED | 0x43);
    wr(TMICT, 1000);
    for (unsigned i = 0; i < 1000 && rd(TMCCT) != 0; i++)
        sti_nop();
    sti_nop();
    CHECK(hits[0x43] == 0 && !bit(IRR, 0x43), "masked");
    wr(LVTT, 0x44);
    wr(TMICT, 2000000);
    halt();
    CHECK(hits[0x44] == 1, "wakes HLT");
    wr(LVTT, MASKED);
}

/* The mode changes while the timer counts: the count goes on (SDM 3A 11.5.4). Nothing here depends
   on how fast: the count lasts for seconds. */
static void timer_modes(void)
{
    static const uint32_t next[] = {0x20047, 0x47, 0x20047};
    uint32_t was = 0;

    clear();
    wr(TDCR, 0xb);
    wr(LVTT, MASKED | 0x47);
    wr(TMICT, 0xffffffff);
    do
        was = rd(TMCCT);
    while (was > 0xffff0000);
    for (unsigned i = 0; i < sizeof(next) / sizeof(next[0]); i++) {
        wr(LVTT, MASKED | next[i]);
        uint32_t now = rd(TMCCT);
        CHECK(now != 0 && now <= was, "change %u: %x, then %x", i, was, now);
        CHECK(rd(TMICT) == 0xffffffff, "the initial count stays");
        was = now;
    }
    wr(LVTT, 0x47);
    wr(TMICT, 1000);
    wait_for(0x47, 1);
    CHECK(hits[0x47] == 1 && rd(TMCCT) == 0, "over: %u", hits[0x47]);
    wr(LVTT, 0x20047);
    CHECK(rd(TMCCT) == 0, "periodic does not start what is over: %u", rd(TMCCT));
    sti_nop();
    CHECK(hits[0x47] == 1, "nor fires");
    wr(TMICT, 0);
    for (unsigned i = 0; i < 16; i++) { /* bit 2 is not part of the divisor */
        wr(TDCR, i);
        CHECK(rd(TDCR) == (i & 0xb), "TDCR %x", rd(TDCR));
    }
    wr(TDCR, 0xb);
    if (!cpu_has(1, 2, 24))
        return;
    wr(LVTT, MASKED | 0x47);
    wr(TMICT, 0xffffffff);
    wr(LVTT, MASKED | 0x40047);
    CHECK(rd(TMCCT) == 0, "a deadline timer has no count: %x", rd(TMCCT));
    wrmsr(MSR_DEADLINE, tsc() + 100000000000ull);
    wr(LVTT, MASKED | 0x47);
    CHECK(rd(TMCCT) == 0, "the change of mode disarmed the count: %x", rd(TMCCT));
    wr(LVTT, MASKED | 0x40047);
    CHECK(rdmsr(MSR_DEADLINE) == 0, "and the deadline");
    wr(LVTT, MASKED);
}

#define FAR 1000000000000ull

/* The deadline is a value of the TSC, which may be written (SDM 3A 11.5.4.1). */
static void deadline_and_tsc(void)
{
    clear();
    wr(LVTT, 0x40048);
    wrmsr(MSR_DEADLINE, tsc() + FAR);
    wrmsr(0x10, tsc() + 2 * FAR);
    wait_for(0x48, 1);
    CHECK(hits[0x48] == 1 && rdmsr(MSR_DEADLINE) == 0, "the TSC was set past the deadline");
    wrmsr(MSR_DEADLINE, tsc() + 300000000);
    wrmsr(0x10, tsc() - 2 * FAR);
    uint64_t end = tsc() + 600000000;
    while (tsc() < end)
        sti_nop();
    CHECK(hits[0x48] == 1 && rdmsr(MSR_DEADLINE) != 0, "the TSC was set back: %u", hits[0x48]);
    if (!cpu_has(7, 1, 1)) {
        wr(LVTT, MASKED);
        return;
    }
    wrmsr(MSR_DEADLINE, tsc() + FAR);
    wrmsr(0x3b, rdmsr(0x3b) + 2 * FAR);
    wait_for(0x48, 2);
    CHECK(hits[0x48] == 2, "TSC_ADJUST");
    wrmsr(0x3b, rdmsr(0x3b) - 2 * FAR);
    wr(LVTT, MASKED);
}

static void deadline(void)
{
    if (!cpu_has(1, 2, 24)) {
        print("no TSC deadline timer\n");
        return;
    }
    clear();
    wr(LVTT, 0x40046);
    wrmsr(MSR_DEADLINE, tsc() + 1000000);
    CHECK(rdmsr(MSR_DEADLINE) != 0, "armed");
    wr(TMICT, 1000);
    CHECK(rd(TMCCT) == 0, "TMICT means nothing in this mode");
    wait_for(0x46, 1);
    CHECK(hits[0x46] == 1 && rdmsr(MSR_DEADLINE) == 0, "fired");
    wrmsr(MSR_DEADLINE, 1);
    sti_nop();
    sti_nop();
    CHECK(hits[0x46] == 2, "a deadline in the past fires at once");
    wrmsr(MSR_DEADLINE, tsc() + 100000000000ull);
    wrmsr(MSR_DEADLINE, 0);
    CHECK(rdmsr(MSR_DEADLINE) == 0, "disarmed");
    wr(LVTT, 0x46);
    wrmsr(MSR_DEADLINE, 12345);
    CHECK(rdmsr(MSR_DEADLINE) == 0, "other modes ignore it");
    wr(LVTT, MASKED);
}

/* ---- PIC and PIT through LVT0 ---------------------------------------------------------------- */

static void legacy(void)
{
    clear();
    outb(0x20, 0x11);
    outb(0x21, 0x20);
    outb(0x21, 4);
    outb(0x21, 1);
    outb(0x21, 0xfe);
    wr(LVT0, 0x700);
    outb(0x43, 0x34);
    outb(0x40, 0xff);
    outb(0x40, 0x10);
    uint64_t end = tsc() + 8000000000ull;
    while (hits[0x20] < 3 && tsc() < end) {
        unsigned n = hits[0x20];
        sti_nop();
        if (hits[0x20] != n)
            outb(0x20, 0x20);
    }
    CHECK(hits[0x20] >= 3, "PIT, PIC, ExtINT: %u", hits[0x20]);
    outb(0x21, 0xff);
    outb(0x43, 0x30);
    wr(LVT0, MASKED);
    outb(0x20, 0x20);
}

/* ---- modes ----------------------------------------------------------------------------------- */

struct msr {
    uint32_t index;
    uint64_t value;
};
static void write_msr(void *p)
{
    const struct msr *m = p;
    wrmsr(m->index, m->value);
}
static void read_msr(void *p)
{
    (void)rdmsr(((const struct msr *)p)->index);
}
static bool faults_wr(uint32_t index, uint64_t v)
{
    struct msr m = {index, v};
    return try_call(write_msr, &m) == 13;
}
static bool faults_rd(uint32_t index)
{
    struct msr m = {index, 0};
    return try_call(read_msr, &m) == 13;
}

static void modes(void)
{
    uint64_t base = rdmsr(MSR_APIC);

    wrmsr(MSR_APIC, base & ~0x800ull);
    CHECK(!cpu_has(1, 3, 9), "a disabled APIC is not in CPUID");
    wrmsr(MSR_APIC, base);
    CHECK(cpu_has(1, 3, 9), "and is there again");
    wrmsr(MSR_APIC, base & ~0x800ull);
    wr(TPR, 0xffffffff);
    CHECK(rd(VERSION) == 0xffffffff, "nothing answers for a disabled APIC: %x", rd(VERSION));
    __asm__ volatile("mov %0, %%cr8" : : "r"(5ul) : "memory");
    unsigned long cr8;
    __asm__ volatile("mov %%cr8, %0" : "=r"(cr8) : : "memory");
    CHECK(cr8 == 5, "CR8 without an APIC: %lx", cr8);
    __asm__ volatile("mov %0, %%cr8" : : "r"(0ul) : "memory");
    wrmsr(MSR_APIC, base);
    CHECK(rd(SVR) == 0xff && rd(LVTT) == MASKED, "in its state after reset");
    wr(SVR, 0x1ff);
    uint32_t sizes[4];
    cpuid(0x80000008u, 0, sizes);
    CHECK(faults_wr(MSR_APIC, base | 1ull << 52), "reserved bits of the base");
    CHECK(faults_wr(MSR_APIC, base | 1ull << (sizes[0] & 0xff)), "base beyond physical memory");
    CHECK(faults_wr(MSR_APIC, base | 1), "low reserved bits of the base");
    uint32_t version = rd(VERSION);
    wrmsr(MSR_APIC, (base & 0xfff) | 0xfed40000);
    CHECK(*(volatile uint32_t *)(0xfed40000ul + VERSION) == version, "moved");
    CHECK(rd(VERSION) != version, "and gone from where it was");
    wrmsr(MSR_APIC, base);
    if (!cpu_has(1, 2, 21)) {
        print("no x2APIC\n");
        return;
    }
    CHECK(faults_rd(X2(ID)), "x2APIC registers need its mode");
    wrmsr(MSR_APIC, base & ~0x800ull);
    CHECK(faults_wr(MSR_APIC, (base & ~0x800ull) | 0x400), "disabled to EXTD without EN");
    CHECK(faults_wr(MSR_APIC, base | 0x400), "disabled to x2APIC");
    wrmsr(MSR_APIC, base);
    wrmsr(MSR_APIC, base | 0x400);
    CHECK(faults_wr(MSR_APIC, base), "x2APIC to xAPIC");
    wrmsr(X2(SVR), 0x1ff);
    CHECK(rdmsr(X2(ID)) == 0 && rdmsr(X2(LDR)) == 1, "ID, LDR");
    CHECK(faults_wr(X2(ID), 0) && faults_wr(X2(LDR), 0) && faults_wr(X2(VERSION), 0), "read-only");
    CHECK(faults_rd(X2(DFR)) && faults_rd(X2(ICR2)) && faults_rd(X2(EOI)), "no such register");
    CHECK(faults_wr(X2(EOI), 1) && faults_wr(X2(ESR), 1) && faults_wr(X2(TPR), 0x100),
          "reserved bits");
    CHECK(faults_rd(0x8ff) && faults_wr(X2(LVTT), 1u << 31), "unknown, reserved");
    for (unsigned at = ID; at < 4096; at += 4)
        wr(at, 0xffffffff);
    CHECK(rd(VERSION) == 0xffffffff && rd(TPR) == 0xffffffff && rdmsr(X2(TPR)) == 0,
          "memory instead of x2APIC: %x", rd(VERSION));
    clear();
    wrmsr(0x83f, 0x4b);
    wrmsr(X2(ICR), 0x4c | 0x44000);
    wrmsr(X2(ICR), 0x4d | 0ull << 32);
    exc_hook = NULL;
    bool irr = (rdmsr(X2(IRR) + 2) >> 11 & 7) == 7;
    CHECK(irr, "self IPI, ICR: %lx", (unsigned long)rdmsr(X2(IRR) + 2));
    wrmsr(MSR_APIC, base & ~0x800ull);
    wrmsr(MSR_APIC, base);
    wr(SVR, 0x1ff);
    exc_hook = on_event;
    sti_nop();
    CHECK(hits[0x4b] == 0, "disabling it drops what was pending");
}

/* ---- IOAPIC ---------------------------------------------------------------------------------- */

#define IOAPIC     0xfec00000ul
#define RTE_LEVEL  0x8000u
#define RTE_MASKED 0x10000u
#define RTE_REMOTE 0x4000u

static uint32_t io_rd(unsigned index)
{
    *(volatile uint32_t *)IOAPIC = index;
    return *(volatile uint32_t *)(IOAPIC + 0x10);
}
static void io_wr(unsigned index, uint32_t v)
{
    *(volatile uint32_t *)IOAPIC = index;
    *(volatile uint32_t *)(IOAPIC + 0x10) = v;
}
static void route(unsigned pin, uint32_t low)
{
    io_wr(0x11 + 2 * pin, 0);
    io_wr(0x10 + 2 * pin, low);
}
static void wire(unsigned pin, uint8_t level)
{
    outb((uint16_t)(0x2000 + pin), level);
}

/* The wires are those of the device for tests, where there is one. */
static void ioapic(void)
{
    outb(0xe0, 0x5a);
    if (inb(0xe0) != 0x5a) {
        print("no device to drive wires\n");
        return;
    }
    CHECK((io_rd(1) >> 16 & 0xff) == 23, "inputs: %x", io_rd(1));
    clear();
    route(14, 0x78);
    route(15, 0x66);
    wire(15, 1);
    wire(15, 0);
    wire(14, 1);
    wire(14, 1); /* no edge */
    sti_nop();
    CHECK(hits[0x78] == 1 && hits[0x66] == 1 && order[0] == 0x78, "two edges, by priority");
    wire(14, 0);
    route(14, RTE_MASKED | 0x78);
    wire(14, 1);
    route(14, 0x78);
    sti_nop();
    CHECK(hits[0x78] == 1, "a masked edge is lost");
    wire(14, 0);

    route(14, RTE_LEVEL | RTE_MASKED | 0x79);
    wire(14, 1);
    sti_nop();
    CHECK(hits[0x79] == 0, "a masked level");
    no_eoi = true;
    route(14, RTE_LEVEL | 0x79);
    sti_nop();
    CHECK(hits[0x79] == 1, "an unmasked level is there: %u", hits[0x79]);
    CHECK((io_rd(0x10 + 2 * 14) & RTE_REMOTE) != 0, "remote IRR until EOI");
    CHECK(bit(TMR, 0x79), "TMR of a level");
    wr(EOI, 0);
    sti_nop();
    CHECK(hits[0x79] == 2, "again after EOI while it is up");
    wire(14, 0);
    wr(EOI, 0);
    no_eoi = false;
    sti_nop();
    CHECK(hits[0x79] == 2 && (io_rd(0x10 + 2 * 14) & RTE_REMOTE) == 0, "down: over");
    wr(LDR, 0x02000000);
    io_wr(0x11 + 2 * 14, 0x02000000);
    io_wr(0x10 + 2 * 14, 0x900 | 0x7a); /* logical, lowest priority */
    wire(14, 1);
    wire(14, 0);
    sti_nop();
    CHECK(hits[0x7a] == 1, "logical destination");
    wr(LDR, 0);
    route(14, RTE_MASKED);
    route(15, RTE_MASKED);
}

/* ---- no delay -------------------------------------------------------------------------------- */

/* What an instruction causes at one's own processor comes before the next but one. */
static void immediate(void)
{
    static volatile unsigned at_once[4];
    bool wires, deadlines = cpu_has(1, 2, 24);

    outb(0xe0, 0xa5);
    wires = inb(0xe0) == 0xa5;
    clear();
    wr(LVTT, 0x40048);
    route(14, 0x49);
    wr(ICR2, 0);
    for (unsigned i = 1; i <= 100; i++) {
        __asm__ volatile("sti\n\tnop");
        wr(ICR, 0x44000 | 0x47);
        __asm__ volatile("nop" : : : "memory");
        at_once[0] = hits[0x47];
        if (deadlines)
            wrmsr(MSR_DEADLINE, tsc());
        __asm__ volatile("nop" : : : "memory");
        at_once[1] = hits[0x48];
        if (wires)
            wire(14, 1);
        __asm__ volatile("nop" : : : "memory");
        at_once[2] = hits[0x49];
        __asm__ volatile("cli" : : : "memory");
        CHECK(at_once[0] == i, "self IPI: %u of %u", at_once[0], i);
        CHECK(at_once[1] == i || !deadlines, "deadline: %u of %u", at_once[1], i);
        CHECK(at_once[2] == i || !wires, "wire: %u of %u", at_once[2], i);
        if (wires)
            wire(14, 0);
    }
    wr(LVTT, MASKED);
    route(14, RTE_MASKED);
    /* Two at the same boundary: the second comes when the first returns, before any instruction. */
    clear();
    keep_rip = true;
    self_ipi(0x46);
    self_ipi(0x96);
    sti_nop();
    keep_rip = false;
    CHECK(orders == 2 && rips[0] == rips[1], "two at %lx and %lx", rips[0], rips[1]);
}

/* ---- other processors ------------------------------------------------------------------------ */

static void others(void)
{
    /* lock inc word [cs:100h]; 1: cli; pause; mov ax, [cs:104h]; mov [cs:106h], ax; jmp 1b */
    static const uint8_t code[] = {0x2e, 0xf0, 0xff, 0x06, 0x00, 0x01, 0xfa, 0xf3, 0x90, 0x2e,
                                   0xa1, 0x04, 0x01, 0x2e, 0xa3, 0x06, 0x01, 0xeb, 0xf3};
    /* NMI: inc word [cs:104h]; iret */
    static const uint8_t on_nmi[] = {0x2e, 0xff, 0x06, 0x04, 0x01, 0xcf};
    volatile uint8_t *low = (volatile uint8_t *)0x8000;
    volatile uint16_t *count = (volatile uint16_t *)0x8100;

    for (unsigned i = 0; i < sizeof(code); i++)
        low[i] = code[i];
    *count = 0;
    wr(ICR2, 0);
    wr(ICR, 0xc4500); /* INIT */
    wr(ICR, 0xc4608); /* SIPI 08 */
    wr(ICR, 0xc4608); /* once more: ignored by those that run */
    uint64_t end = tsc() + 500000000ull;
    while (tsc() < end)
        __asm__ volatile("pause");
    print("%u others\n", *count);
    if (*count != 1)
        return;
    /* Of NMIs in quick succession one is taken and one is latched: none of two is lost. */
    volatile uint16_t *nmis = (volatile uint16_t *)0x8104, *done = nmis + 1;
    *(volatile uint32_t *)8 = 0x08000040;
    for (unsigned i = 0; i < sizeof(on_nmi); i++)
        low[0x40 + i] = on_nmi[i];
    *nmis = *done = 0;
    wr(ICR2, 1u << 24);
    bool lost = false;
    for (unsigned i = 1; i <= 500 && !lost; i++) {
        wr(ICR, 0x4400);
        wr(ICR, 0x4400);
        end = tsc() + 20000000000ull;
        while (*done != 2 * i && tsc() < end) /* seen outside of the handler */
            __asm__ volatile("pause");
        lost = *done != 2 * i;
    }
    CHECK(!lost, "an NMI was lost: %u", *nmis);
}

/* ---- hypercalls ------------------------------------------------------------------------------ */

/* KVM's interface has no call here: each is answered by -KVM_ENOSYS, and nothing else changes. */
static void hypercalls(void)
{
    static const uint64_t calls[] = {0, 1, 5, 9, 10, 11, 12, 0xffffffff, ~0ull};

    for (unsigned i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        for (unsigned amd = 0; amd < 2; amd++) {
            uint64_t a = calls[i], b = 1, c = 2, d = 3, s = 4;
            if (amd)
                __asm__ volatile("vmmcall"
                                 : "+a"(a), "+b"(b), "+c"(c), "+d"(d), "+S"(s)
                                 :
                                 : "memory");
            else
                __asm__ volatile("vmcall"
                                 : "+a"(a), "+b"(b), "+c"(c), "+d"(d), "+S"(s)
                                 :
                                 : "memory");
            CHECK(a == (uint64_t)-1000, "hypercall %lx: %lx", calls[i], a);
            CHECK(b == 1 && c == 2 && d == 3 && s == 4, "its arguments stay");
        }
    }
}

void test_main(void)
{
    exc_hook = on_event;
    registers();
    priorities();
    nmis();
    destinations();
    errors();
    timer();
    timer_modes();
    deadline();
    if (cpu_has(1, 2, 24))
        deadline_and_tsc();
    legacy();
    ioapic();
    immediate();
    modes();
    hypercalls();
    others();
    exc_hook = NULL;
}
