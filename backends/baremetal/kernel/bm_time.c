/* SPDX-License-Identifier: BSD-2-Clause */
/* Time: the TSC, measured against the PIT or, without one, the ACPI timer; the CMOS clock. */
#include "bm_int.h"

#define PIT_HZ    1193182u
#define PM_HZ     3579545u
#define PIT_LONG  (PIT_HZ / 100) /* 10 ms */
#define PIT_SHORT (PIT_HZ / 400)
#define PIT_TRIES 100u

static uint64_t tsc_hz = 1000000000u;
static uint64_t mult = 1ull << 32; /* ns for a TSC tick, 32.32 */
static bool invariant;

uint64_t bm_now_ns(void)
{
    return (uint64_t)((unsigned __int128)(rdtsc() - bm_boot.entry_tsc) * mult >> 32);
}

uint64_t vmc_bm_now_ns(void)
{
    return bm_now_ns();
}

uint64_t bm_ns_to_tsc(uint64_t ns)
{
    return bm_boot.entry_tsc + (uint64_t)((unsigned __int128)ns * tsc_hz / 1000000000u);
}

uint64_t bm_tsc_hz(void)
{
    return tsc_hz;
}

bool bm_tsc_invariant(void)
{
    return invariant;
}

void bm_delay_us(uint64_t us)
{
    uint64_t end = rdtsc() + us * (tsc_hz / 1000000u);

    while ((int64_t)(rdtsc() - end) < 0)
        cpu_relax();
}

/* ---- calibration -------------------------------------------------------------------------------
 */

/*
 * Channel 2 counts once to zero; its output is bit 5 of port 0x61. When that starts and ends lies
 * between two looks, and they lie far apart when a machine underneath takes us off its CPU: so each
 * try says between which two rates the TSC's is, and what all of them allow counts. Short tries are
 * disturbed less often, long ones are more precise. 0: the PIT does not count.
 */
static uint64_t by_pit(void)
{
    uint8_t old = inb(0x61);
    uint64_t lo = 0, hi = UINT64_MAX;

    for (unsigned i = 0; i < PIT_TRIES && hi - lo > hi / 1000; i++) {
        uint32_t count = i % 4 == 0 ? PIT_LONG : PIT_SHORT;
        uint64_t polls = 0;
        outb(0x61, (uint8_t)((old & ~2u) | 1u));
        outb(0x43, 0xb0);
        outb(0x42, (uint8_t)count);
        uint64_t t0 = rdtsc();
        outb(0x42, (uint8_t)(count >> 8));
        uint64_t t1 = rdtsc();
        uint64_t seen = t1, t2 = t1; /* not yet, and already */
        for (uint64_t before = t1; ++polls < 10000000; seen = before) {
            before = rdtsc();
            bool over = (inb(0x61) & 0x20) != 0;
            t2 = rdtsc();
            if (over)
                break;
        }
        if (polls >= 10000000)
            break;
        if (polls < 16) /* no PIT, whose bit is stuck then; or too long away */
            continue;
        uint64_t least = (seen - t1) * PIT_HZ / count, most = (t2 - t0) * PIT_HZ / count;
        lo = least > lo ? least : lo;
        hi = most < hi ? most : hi;
    }
    outb(0x61, old);
    if (hi == UINT64_MAX)
        return 0;
    return lo < hi ? lo + (hi - lo) / 2 : hi;
}

static uint64_t by_pm_timer(void)
{
    uint32_t mask = bm_acpi.pm_timer_32 ? UINT32_MAX : 0xffffff;
    uint32_t want = PM_HZ / 50;

    if (bm_acpi.pm_timer == 0)
        return 0;
    uint32_t c0 = inl(bm_acpi.pm_timer);
    uint64_t t0 = rdtsc();
    for (uint64_t i = 0; ((inl(bm_acpi.pm_timer) - c0) & mask) < want; i++)
        if (i == 10000000)
            return 0;
    return (rdtsc() - t0) * PM_HZ / want;
}

static uint64_t by_hpet(void)
{
    if (bm_acpi.hpet_pa == 0)
        return 0;
    char *h = bm_mmio_map(bm_acpi.hpet_pa, 1024);
    uint32_t period_fs = mmio_rd32(h + 4);
    uint64_t hz = 0;
    if (period_fs != 0 && period_fs <= 100000000) {
        uint32_t want = (uint32_t)(20000000000000ull / period_fs); /* 20 ms */
        mmio_wr32(h + 0x10, mmio_rd32(h + 0x10) | 1);
        uint32_t c0 = mmio_rd32(h + 0xf0);
        uint64_t t0 = rdtsc();
        uint64_t i = 0;
        while (mmio_rd32(h + 0xf0) - c0 < want && ++i < 10000000)
            ;
        hz = i < 10000000 ? (rdtsc() - t0) * 50 : 0;
    }
    bm_vunmap((void *)((uint64_t)h & ~(PAGE - 1)), 1);
    return hz;
}

void bm_time_init(void)
{
    uint32_t r[4];
    const char *by = "PIT";
    uint64_t hz = by_pit();

    if (hz == 0) {
        by = "HPET";
        hz = by_hpet();
    }
    if (hz == 0) {
        by = "ACPI timer";
        hz = by_pm_timer();
    }
    if (hz < 1000000)
        bm_panic("no clock to measure the TSC with");
    tsc_hz = hz / 1000 * 1000;
    mult = (uint64_t)(((unsigned __int128)1000000000u << 32) / tsc_hz);
    cpuid(0x80000000u, 0, r);
    if (r[0] >= 0x80000007u) {
        cpuid(0x80000007u, 0, r);
        invariant = (r[3] & (1u << 8)) != 0;
    }
    bm_printf("time: TSC %llu.%03llu MHz by %s%s\n", (unsigned long long)(tsc_hz / 1000000),
              (unsigned long long)(tsc_hz / 1000 % 1000), by,
              invariant ? "" : ", not invariant by CPUID");
}

/* ---- wall clock --------------------------------------------------------------------------------
 */

static uint8_t cmos(uint8_t reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

static unsigned field(uint8_t v, bool bcd)
{
    return bcd ? (v >> 4) * 10u + (v & 15u) : v;
}

/* Days since 1970, from then on, of a date in the Gregorian calendar. */
static int64_t days(unsigned y, unsigned m, unsigned d)
{
    static const uint16_t before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int64_t n = 365ll * (y - 1970) + (y - 1969) / 4 - (y - 1901) / 100 + (y - 1601) / 400;
    bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;

    return n + before[(m - 1) % 12] + (leap && m > 2) + d - 1;
}

int64_t bm_wall_s(void)
{
    static struct bm_lock lock;
    uint8_t a[7], b[7] = {0};
    static const uint8_t regs[7] = {0, 2, 4, 7, 8, 9, 0x32};

    bm_lock(&lock);
    for (unsigned tries = 0; tries < 1000; tries++) { /* two equal readings: no update between */
        for (unsigned i = 0; i < 7; i++)
            a[i] = cmos(regs[i]);
        if (memcmp(a, b, 7) == 0 && (cmos(0x0a) & 0x80) == 0)
            break;
        memcpy(b, a, 7);
    }
    uint8_t mode = cmos(0x0b);
    bm_unlock(&lock);
    bool bcd = (mode & 4) == 0;
    unsigned hour = field(a[2] & 0x7f, bcd);
    if ((mode & 2) == 0)
        hour = hour % 12 + ((a[2] & 0x80) != 0 ? 12 : 0);
    unsigned century = field(a[6], bcd);
    unsigned year = field(a[5], bcd) + (century >= 19 && century <= 21 ? century * 100 : 2000);
    if (year < 1970) /* two digits counted on, and nobody cared for the century */
        year += 100;
    return ((days(year, field(a[4], bcd), field(a[3], bcd)) * 24 + hour) * 60 + field(a[1], bcd)) *
               60 +
           field(a[0], bcd);
}
