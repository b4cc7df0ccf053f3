/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS, FXSAVE and FXRSTOR: any mask and XCR0,
 * areas whose header is good, compact or wrong, registers in use or not. Faults, areas and
 * registers make one sum, which Bochs 2.7 has, too (corei7_skylake_x).
 */
#include "kern.h"

#ifndef SEED
#define SEED    1u
#define CASES   6000u
#define SUM     0x7348402bu
#define VERBOSE 0
#endif
#include "sum.h"

#define AREA_BYTES 1024u
#define HEADER     512u
#define MXCSR      24u
#define CR0_EM     4ul
#define CR0_TS     8ul
#define CR4_XSAVE  (1ul << 18)

static uint8_t area[AREA_BYTES + 64] __attribute__((aligned(64)));
static uint8_t state[AREA_BYTES] __attribute__((aligned(64)));
static uint64_t mask;
static void *where;

#define OP(name, text)                                                                             \
    static void name(void *p)                                                                      \
    {                                                                                              \
        (void)p;                                                                                   \
        __asm__ volatile(text " (%0)"                                                              \
                         :                                                                         \
                         : "r"(where), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))            \
                         : "memory");                                                              \
    }
OP(do_xsave, "xsave")
OP(do_xsave64, "xsave64")
OP(do_xsaveopt, "xsaveopt")
OP(do_xsaveopt64, "xsaveopt64")
OP(do_xsavec, "xsavec")
OP(do_xsavec64, "xsavec64")
OP(do_xsaves, "xsaves")
OP(do_xsaves64, "xsaves64")
OP(do_xrstor, "xrstor")
OP(do_xrstor64, "xrstor64")
OP(do_xrstors, "xrstors")
OP(do_xrstors64, "xrstors64")
OP(do_fxsave, "fxsave")
OP(do_fxsave64, "fxsave64")
OP(do_fxrstor, "fxrstor")
OP(do_fxrstor64, "fxrstor64")

static void (*const op[])(void *) = {
    do_xsave,  do_xsave64,   do_xsaveopt, do_xsaveopt64, do_xsavec,  do_xsavec64,
    do_xsaves, do_xsaves64,  do_xrstor,   do_xrstor64,   do_xrstors, do_xrstors64,
    do_xrstor, do_xrstors64, do_fxsave,   do_fxsave64,   do_fxrstor, do_fxrstor64,
};

static void xsetbv(uint32_t v)
{
    __asm__ volatile("xsetbv" : : "c"(0), "a"(v), "d"(0) : "memory");
}

static uint32_t xinuse(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(1) : "memory");
    return lo;
}

static void put(uint8_t *p, uint64_t v, unsigned bytes)
{
    memcpy(p, &v, bytes);
}

static uint64_t any_mask(void)
{
    uint64_t m = rnd(8);

    if (rnd(6) == 0)
        m |= 1ull << rnd(64);
    return rnd(5) == 0 ? ~0ull : m;
}

/* Bytes of registers; pointers of the x87 are 0. */
static void fill(uint8_t *a)
{
    for (unsigned n = 0; n < AREA_BYTES; n += 4)
        put(a + n, rnd(4) == 0 ? 0 : rnd(~0u), 4);
    memset(a + 5, 0, 19);
    put(a, rnd(2) != 0 ? 0x37f : 0x340 | rnd(64) | rnd(4) << 10, 2);
    put(a + 2, rnd(8) << 11, 2);
    put(a + MXCSR, rnd(2) != 0 ? 0x1f80 : rnd(0x10000), 4);
    memset(a + MXCSR + 4, 0, 4);
    memset(a + HEADER, 0, 64);
}

/* Models differ in what MXCSR holds. */
static void drop_mask(uint8_t *a)
{
    memset(a + MXCSR + 4, 0, 4);
}

/* n: index of the operation. What Bochs does with compact areas without SSE is not it. */
static void start_state(unsigned n)
{
    uint64_t m = mask;

    fill(state);
    state[HEADER] = (uint8_t)(rnd(8) | (n >= 4 && n < 8 ? 2 : 0));
    if ((state[HEADER] & 2) == 0) /* is MXCSR alone in use? Bochs says it is */
        put(state + MXCSR, 0x1f80, 4);
    where = state, mask = 7;
    do_xrstor(NULL);
    mask = m;
}

static void header(void)
{
    uint64_t bv = rnd(8), comp = 0;

    if (rnd(2) != 0) {
        comp = 1ull << 63 | (rnd(4) != 0 ? bv | rnd(8) : rnd(8));
        if ((bv & 2) == 0) /* it becomes 1F80h; Bochs keeps it */
            put(area + MXCSR, 0x1f80, 4);
    }
    if (rnd(12) == 0)
        bv |= 1ull << rnd(63);
    if (rnd(12) == 0)
        comp ^= 1ull << rnd(64);
    put(area + HEADER, bv, 8);
    put(area + HEADER + 8, comp, 8);
    if (rnd(12) == 0)
        area[HEADER + 16 + rnd(48)] = (uint8_t)(1 + rnd(255));
}

static void add_bytes(const uint8_t *p, unsigned from, unsigned to)
{
    uint32_t h = 0, v;

    for (unsigned n = from; n < to; n += 4) {
        memcpy(&v, p + n, 4);
        h = (h << 5 | h >> 27) * 17 + v;
    }
    add(h);
}

static void one(void)
{
    unsigned n = rnd(sizeof(op) / sizeof(op[0]));
    static const uint8_t components[] = {7, 7, 7, 3, 1};
    uint32_t xcr0 = components[rnd(5)];

    mask = any_mask();
    if (n >= 4 && n < 8) /* Bochs puts YMM registers elsewhere */
        mask &= ~(mask >> 3 == 0 ? 4ull : ~3ull);
    start_state(n);
    fill(area);
    header();
    where = area + (rnd(24) == 0 ? 8 : 0);
    xsetbv(xcr0);
    if (rnd(24) == 0)
        wr_cr0(rd_cr0() | CR0_TS);
    if (rnd(24) == 0)
        wr_cr0(rd_cr0() | CR0_EM);
    if (rnd(24) == 0)
        wr_cr4(rd_cr4() & ~CR4_XSAVE);
    long v = try_call(op[n], NULL);
    wr_cr0(rd_cr0() & ~(CR0_TS | CR0_EM));
    wr_cr4(rd_cr4() | CR4_XSAVE);
    uint64_t m = mask;
#if VERBOSE
    print("%u %x %lx:", n, xcr0, (unsigned long)m);
#endif
    add((uint32_t)v);
    if (v >= 0)
        add((uint32_t)fault.code);
    add(xinuse());
    drop_mask(area);
    add_bytes(area, 0, 32);
    add_bytes(area, 32, 160);
    add_bytes(area, 160, HEADER);
    add_bytes(area, HEADER, HEADER + 64);
    add_bytes(area, HEADER + 64, AREA_BYTES);
    xsetbv(7);
    memset(state, 0, AREA_BYTES);
    where = state, mask = 7;
    do_xsave64(NULL);
    mask = m;
    drop_mask(state);
    state[HEADER] &= (uint8_t)~2;
    for (unsigned i = 160; i < 416; i++)
        state[HEADER] |= state[i] != 0 ? 2 : 0;
    add_bytes(state, 0, 32);
    add_bytes(state, 32, 160);
    add_bytes(state, 160, HEADER);
    add_bytes(state, HEADER, HEADER + 64);
    add_bytes(state, HEADER + 64, AREA_BYTES);
}

void test_main(void)
{
    uint32_t r[4] = {0};

    if (cpu_has(1, 2, 26))
        cpuid(0xd, 1, r);
    if (!cpu_has(1, 2, 26) || (r[0] & 15) != 15) {
        print("no XSAVES\n");
        return;
    }
    wr_cr4(rd_cr4() | CR4_XSAVE);
    xsetbv(7);
    for (unsigned n = 0; n < CASES; n++) {
#if VERBOSE
        print("%u: ", n);
#endif
        one();
#if VERBOSE
        print("\n");
#endif
    }
    CHECK(sum == SUM, "sum is %x", sum);
}
