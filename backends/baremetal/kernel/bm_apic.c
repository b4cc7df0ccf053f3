/* SPDX-License-Identifier: BSD-2-Clause */
/* Local APIC (memory or x2APIC), IOAPIC, vectors of devices. */
#include "bm_int.h"

#define REG_ID             0x20u
#define REG_TPR            0x80u
#define REG_EOI            0xb0u
#define REG_SVR            0xf0u
#define REG_ICR            0x300u
#define REG_ICR_HIGH       0x310u
#define REG_LVT_TIMER      0x320u
#define REG_LVT_LINT0      0x350u
#define REG_LVT_LINT1      0x360u
#define REG_LVT_ERROR      0x370u
#define REG_TIMER_INIT     0x380u
#define REG_TIMER_NOW      0x390u
#define REG_TIMER_DIV      0x3e0u
#define LVT_MASKED         (1u << 16)
#define TIMER_PERIODIC     (1u << 17)
#define TIMER_TSC_DEADLINE (2u << 17)
#define TIMER_SHORTEST_US  5u
#define APIC_X2            (1u << 10)
#define APIC_ON            (1u << 11)

static volatile char *lapic;
static bool x2apic, tsc_deadline;
static uint64_t timer_hz;
static uint32_t lose;

static uint32_t rd(unsigned reg)
{
    if (x2apic)
        return (uint32_t)rdmsr(MSR_X2APIC + reg / 16);
    return mmio_rd32(lapic + reg);
}

static void wr(unsigned reg, uint32_t v)
{
    if (x2apic)
        wrmsr(MSR_X2APIC + reg / 16, v);
    else
        mmio_wr32(lapic + reg, v);
}

uint32_t bm_lapic_id(void)
{
    return x2apic ? rd(REG_ID) : rd(REG_ID) >> 24;
}

void bm_lapic_eoi(void)
{
    wr(REG_EOI, 0);
}

/* Also from NMI-like places: the two halves must not be torn apart. */
void bm_lapic_send(uint32_t apic_id, uint32_t icr_low)
{
    if (x2apic) {
        wrmsr(MSR_X2APIC + REG_ICR / 16, (uint64_t)apic_id << 32 | icr_low);
        return;
    }
    bool on = irq_save();
    while (rd(REG_ICR) & (1u << 12))
        cpu_relax();
    wr(REG_ICR_HIGH, apic_id << 24);
    wr(REG_ICR, icr_low);
    irq_restore(on);
}

bool bm_lapic_reaches(uint32_t apic_id)
{
    return x2apic ? apic_id != UINT32_MAX : apic_id < 0xff;
}

void vmc_bm_interrupt(uint32_t cpu)
{
    if (cpu < bm_cpu_count && bm_cpus[cpu]->online)
        bm_lapic_send(bm_cpus[cpu]->apic_id, VEC_IPI | 0x4000);
}

/* ---- timer --------------------------------------------------------------------------------------
 */

static void calibrate(void)
{
    wr(REG_TIMER_DIV, 0xb); /* by 1 */
    wr(REG_LVT_TIMER, LVT_MASKED | VEC_TIMER);
    wr(REG_TIMER_INIT, UINT32_MAX);
    uint64_t t0 = rdtsc();
    uint32_t c0 = rd(REG_TIMER_NOW);
    bm_delay_us(5000);
    uint32_t c1 = rd(REG_TIMER_NOW);
    uint64_t t1 = rdtsc();
    wr(REG_TIMER_INIT, 0);
    timer_hz = (uint64_t)((unsigned __int128)(c0 - c1) * bm_tsc_hz() / (t1 - t0));
    if (timer_hz == 0)
        bm_panic("the local APIC's timer does not count");
}

/*
 * Once, by the TSC where possible. What counts down starts anew by itself, and is set or stopped by
 * every interrupt of it: should one be lost (machines that are emulated lose one now and then), the
 * next makes up for it.
 */
void bm_lapic_timer(uint64_t deadline_ns)
{
    struct bm_cpu *c = this_cpu();
    bool on = irq_save();

    c->timer_ns = deadline_ns;
    if (tsc_deadline) {
        wrmsr(MSR_TSC_DEADLINE, deadline_ns == UINT64_MAX ? 0 : bm_ns_to_tsc(deadline_ns));
    } else if (deadline_ns == UINT64_MAX) {
        wr(REG_TIMER_INIT, 0);
    } else {
        uint64_t now = bm_now_ns();
        uint64_t ns = deadline_ns > now ? deadline_ns - now : 0;
        unsigned __int128 n = (unsigned __int128)ns * timer_hz / 1000000000u;
        uint64_t least = timer_hz * TIMER_SHORTEST_US / 1000000u + 1;
        wr(REG_TIMER_INIT, n > UINT32_MAX ? UINT32_MAX : n < least ? (uint32_t)least : (uint32_t)n);
    }
    irq_restore(on);
}

bool bm_lapic_timer_lost(uint64_t count)
{
    return lose != 0 && count % lose == 0;
}

void vmc_bm_timer(uint64_t deadline_ns)
{
    bm_lapic_timer(deadline_ns);
}

void bm_lapic_init(bool first)
{
    uint64_t base = rdmsr(MSR_APIC_BASE);
    uint32_t r[4];

    if (first) {
        cpuid(1, 0, r);
        tsc_deadline = (r[2] & (1u << 24)) != 0;
        bool wide = false;
        for (unsigned i = 0; i < bm_acpi.cpus; i++)
            wide = wide || bm_acpi.cpu_apic[i] > 254;
        x2apic = (r[2] & (1u << 21)) != 0 && (wide || (base & APIC_X2) != 0);
        char opt[4];
        if (!tsc_deadline && bm_boot_option("lose", opt, sizeof(opt)) && opt[0] >= '2' &&
            opt[0] <= '9')
            lose = (uint32_t)(opt[0] - '0');
        if (!x2apic)
            lapic = bm_mmio_map(base & 0x000ffffffffff000ull, PAGE);
    }
    wrmsr(MSR_APIC_BASE, base | APIC_ON | (x2apic ? APIC_X2 : 0));
    wr(REG_TPR, 0);
    wr(REG_LVT_LINT0, LVT_MASKED);
    wr(REG_LVT_LINT1, 0x400); /* NMI */
    wr(REG_LVT_ERROR, LVT_MASKED);
    wr(REG_SVR, 0x100 | VEC_SPURIOUS);
    if (first && !tsc_deadline)
        calibrate();
    wr(REG_TIMER_DIV, 0xb);
    wr(REG_LVT_TIMER, VEC_TIMER | (tsc_deadline ? TIMER_TSC_DEADLINE : TIMER_PERIODIC));
    /* SDM 3A 10.5.4.1: the mode must be in force before the deadline is written. */
    __asm__ volatile("mfence" : : : "memory");
    this_cpu()->apic_id = bm_lapic_id();
    bm_lapic_eoi();
}

uint64_t bm_lapic_msi_addr(void)
{
    return 0xfee00000u | (uint64_t)(bm_cpus[0]->apic_id & 0xff) << 12;
}

/* ---- devices ------------------------------------------------------------------------------------
 */

static struct {
    bm_irq_fn *fn;
    void *ctx;
} device[VEC_DEVICES];
static unsigned devices;

unsigned bm_irq_vector(bm_irq_fn *fn, void *ctx)
{
    if (devices == VEC_DEVICES)
        return 0;
    device[devices].ctx = ctx;
    device[devices].fn = fn;
    return VEC_DEVICE + devices++;
}

void bm_irq_dispatch(unsigned vector)
{
    unsigned i = vector - VEC_DEVICE;

    if (i < devices && device[i].fn != NULL)
        device[i].fn(device[i].ctx);
}

void bm_pic_off(void)
{
    outb(0x20, 0x11); /* away from the exceptions, in case of a spurious one */
    outb(0xa0, 0x11);
    outb(0x21, 0x20);
    outb(0xa1, 0x28);
    outb(0x21, 4);
    outb(0xa1, 2);
    outb(0x21, 1);
    outb(0xa1, 1);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

static uint32_t io_rd(volatile char *io, uint32_t reg)
{
    mmio_wr32(io, reg);
    return mmio_rd32(io + 0x10);
}

static void io_wr(volatile char *io, uint32_t reg, uint32_t v)
{
    mmio_wr32(io, reg);
    mmio_wr32(io + 0x10, v);
}

bool bm_irq_isa(unsigned irq, bm_irq_fn *fn, void *ctx)
{
    uint32_t gsi = bm_acpi.isa[irq].set ? bm_acpi.isa[irq].gsi : irq;
    uint16_t flags = bm_acpi.isa[irq].set ? bm_acpi.isa[irq].flags : 0;

    for (unsigned i = 0; i < bm_acpi.ioapics; i++) {
        volatile char *io = bm_mmio_map(bm_acpi.ioapic[i].pa, 32);
        uint32_t pins = (io_rd(io, 1) >> 16 & 0xff) + 1;
        uint32_t pin = gsi - bm_acpi.ioapic[i].gsi;
        if (gsi < bm_acpi.ioapic[i].gsi || pin >= pins) {
            bm_vunmap((void *)((uint64_t)io & ~(PAGE - 1)), 1);
            continue;
        }
        unsigned vec = bm_irq_vector(fn, ctx);
        if (vec == 0)
            return false;
        uint32_t low = vec;
        if ((flags & 3) == 3)
            low |= 1u << 13; /* active low */
        if ((flags >> 2 & 3) == 3)
            low |= 1u << 15; /* level */
        io_wr(io, 0x10 + 2 * pin + 1, bm_cpus[0]->apic_id << 24);
        io_wr(io, 0x10 + 2 * pin, low);
        return true;
    }
    return false;
}
