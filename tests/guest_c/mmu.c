/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random page tables without PAE and with it, under random control bits: one access each at level 0
 * or 3, and the entries it leaves, A and D included. All of that makes one sum, which Bochs 2.7
 * has, too (corei7_skylake_x). With -DVERBOSE=1 a line for each case.
 */
#include "kern.h"

#ifndef SEED
#define SEED    1u
#define CASES   2500u
#define SUM     0x6d1cdde0u
#define VERBOSE 0
#endif
#include "sum.h"

#define LA     0x40000000u /* what is looked at: the end of one page, and the next one */
#define TABLES 0x600000u
#define PDPT   TABLES
#define DIR(i) (TABLES + 0x1000 + 0x1000 * (i)) /* with PAE one for each GiB; without, DIR(0) */
#define PT     (TABLES + 0x8000)
#define FRAME  0x800000u /* 2 or 4 MiB, aligned to 4 MiB */
#define UCODE  (USER_AREA + 0x1000)

static bool pae, pse;
static unsigned long cr0, cr4;
static uint64_t efer;

static void put(uint32_t table, unsigned i, uint64_t e)
{
    if (pae)
        *(volatile uint64_t *)(table + 8 * i) = e;
    else
        *(volatile uint32_t *)(table + 4 * i) = (uint32_t)e;
}
static uint64_t get(uint32_t table, unsigned i)
{
    return pae ? *(volatile uint64_t *)(table + 8 * i) : *(volatile uint32_t *)(table + 4 * i);
}
static uint32_t dir(void)
{
    return pae ? DIR(1) : DIR(0);
}
static unsigned dir_index(uint32_t la)
{
    return pae ? la >> 21 & 511 : la >> 22;
}

/* Low memory one to one, the user's area for the user; not global, by pages of 4 KiB. */
static void map_low(void)
{
    memset((void *)TABLES, 0, 0x8000);
    if (pae)
        for (unsigned i = 0; i < 4; i++)
            *(volatile uint64_t *)(PDPT + 8 * i) = DIR(i) | 1;
    for (uint32_t la = 0; la < 0x1000000; la += 4096) {
        uint32_t table = TABLES + 0x10000 + (pae ? la >> 21 : la >> 22) * 0x1000;
        put(DIR(0), dir_index(la), table | 7);
        put(table, pae ? la >> 12 & 511 : la >> 12 & 1023,
            la | 3 | (la >= USER_AREA && la < USER_AREA + 0x200000 ? 4 : 0));
    }
}

static uint64_t flags(bool good)
{
    uint64_t f = (rnd(12) != 0 || good ? 1 : 0) | (rnd(3) != 0 ? 2 : 0) | (rnd(3) != 0 ? 4 : 0);

    f |= (rnd(4) == 0 ? 0x20 : 0) | (rnd(4) == 0 ? 0x40 : 0) | (rnd(4) == 0 ? 0x100 : 0) |
         rnd(4) << 10;
    if (pae && rnd(4) == 0)
        f |= 1ull << 63;
    if (pae && rnd(30) == 0)
        f |= 1ull << (52 + rnd(11));
    return f;
}

/* MOV, ADD, CMP, CALL, XCHG, CMPXCHG, FLD, FST, BT: the operand's address is in ebx. */
static const uint8_t kinds[][4] = {
    {0x8b, 0x03, 0x90, 0x90}, {0x89, 0x03, 0x90, 0x90}, {0x01, 0x03, 0x90, 0x90},
    {0x39, 0x03, 0x90, 0x90}, {0xff, 0xd3, 0x90, 0x90}, {0x87, 0x03, 0x90, 0x90},
    {0x0f, 0xb1, 0x03, 0x90}, {0xdd, 0x03, 0x90, 0x90}, {0xdd, 0x13, 0x90, 0x90},
    {0x0f, 0xba, 0x23, 0x07},
};
static uint32_t kcode;
static void kernel_access(void *la)
{
    __asm__ volatile("call *%1" : : "b"(la), "r"(kcode), "a"(0x1234) : "memory", "ecx");
}
static void paging_on(void *p)
{
    (void)p;
    wr_cr0((rd_cr0() & ~CR0_WP) | cr0 | CR0_PG);
}

static void one(unsigned n)
{
    static uint8_t code[16] __attribute__((aligned(16)));
    bool user = rnd(2) != 0, big = false;
    unsigned k = rnd(sizeof(kinds) / sizeof(kinds[0]));
    uint32_t la = LA + 0x1000 - (rnd(2) != 0 ? 0x800 : rnd(8));
    uint64_t pde, pte0 = 0, pte1 = 0;
    uint8_t *p = user ? (uint8_t *)UCODE : code;

    pae = rnd(2) != 0;
    pse = rnd(2) != 0;
    wr_cr4(rd_cr4() & ~(CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP | CR4_SMAP));
    map_low();
    pde = flags(true) & ~0x100ull;
    if (rnd(12) == 0)
        pde &= ~1ull;
    big = rnd(4) == 0;
    if (big && (pae || pse)) {
        pde |= 0x80 | FRAME | (rnd(2) != 0 ? 0x100 : 0) | (rnd(16) == 0 ? 0x1000 : 0);
        if (rnd(12) == 0)
            pde |= pae ? 1u << (13 + rnd(8)) : 1u << 21;
    } else {
        pde |= PT | (big ? 0x80 : 0); /* without PSE that bit means nothing */
        pte0 = flags(false) | FRAME;
        pte1 = flags(false) | (FRAME + 0x1000);
    }
    if ((pde & 0x80) != 0 && !pae && pse && rnd(4) == 0)
        pde &= ~0x1000ull;
    put(dir(), dir_index(LA), pde);
    memset((void *)PT, 0, 0x1000);
    put(PT, 0, pte0), put(PT, 1, pte1);
    memset((void *)FRAME, 0xc3, 0x2000); /* ret */
    memcpy(p, kinds[k], 4);
    if (user)
        p[4] = 0xcd, p[5] = 0x80;
    else
        p[4] = 0xc3;
    kcode = (uint32_t)code;
    cr4 = (pae ? CR4_PAE : 0) | (pse ? CR4_PSE : 0) | (rnd(2) ? CR4_PGE : 0) |
          (rnd(4) == 0 ? CR4_SMEP : 0) | (rnd(4) == 0 ? CR4_SMAP : 0);
    cr0 = rnd(2) ? CR0_WP : 0;
    efer = rnd(2) ? EFER_NXE : 0;
    wr_cr3(pae ? PDPT : DIR(0));
    wr_cr4((rd_cr4() & ~(CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP | CR4_SMAP)) | cr4);
    wrmsr(MSR_EFER, (rdmsr(MSR_EFER) & ~EFER_NXE) | efer);
    uint64_t pdpte = pae && rnd(16) == 0 ? DIR(1) | 1ull << rnd(12) : DIR(1) | 1;
    if (pae)
        *(volatile uint64_t *)(PDPT + 8) = pdpte;
#if VERBOSE
    print("%u %s%s cr4 %lx wp %d nx %d %s k %u la %x pde %lx:%lx pte %lx:%lx %lx:%lx |", n,
          pae ? "pae" : "", pse ? "pse" : "", cr4, cr0 != 0, efer != 0, user ? "user" : "kern", k,
          la, (unsigned long)(pde >> 32), (unsigned long)pde, (unsigned long)(pte0 >> 32),
          (unsigned long)pte0, (unsigned long)(pte1 >> 32), (unsigned long)pte1);
#endif
    __asm__ volatile("fninit\n\tfld1");
    long r = try_call(paging_on, NULL);
    add((uint32_t)pdpte), add((uint32_t)r);
    if (r >= 0) /* reserved bits of PDPTEs */
        return;
    if (pae && rnd(4) == 0) /* they have been loaded: no effect */
        *(volatile uint64_t *)(PDPT + 8) = 0, invlpg(LA);
    bool ac = rnd(4) == 0;
    if (ac)
        __asm__ volatile("pushf\n\torl $0x40000, (%esp)\n\tpopf");
    r = user ? try_user(UCODE, la) : try_call(kernel_access, (void *)la);
    __asm__ volatile("pushf\n\tandl $~0x40000, (%esp)\n\tpopf");
    wr_cr0(rd_cr0() & ~CR0_PG);
    add(n), add((uint32_t)r);
    if (r >= 0)
        add((uint32_t)fault.code);
    if (r == 14)
        add((uint32_t)fault.cr2);
    uint64_t e[3] = {get(dir(), dir_index(LA)), get(PT, 0), get(PT, 1)};
    for (unsigned i = 0; i < 3; i++)
        add((uint32_t)e[i]), add((uint32_t)(e[i] >> 32));
    add(*(volatile uint32_t *)(FRAME + 0x7fe)), add(*(volatile uint32_t *)(FRAME + 0x800));
    if (r == -1)
        for (unsigned i = 0; i < 4; i++)
            add(*(volatile uint32_t *)(FRAME + 0xff8 + 4 * i));
#if VERBOSE
    print("\n");
#endif
}

void test_main(void)
{
    for (unsigned n = 0; n < CASES; n++)
        one(n);
#if VERBOSE
    print("seed %u: %x\n", SEED, sum);
#else
    CHECK(sum == SUM, "the sum is %x, not %x", sum, SUM);
#endif
}
