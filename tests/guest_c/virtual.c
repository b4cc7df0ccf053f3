/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random programs in virtual-8086 mode and at level 3, of what IOPL, VME, PVI and the maps of the
 * TSS decide: CLI, STI, PUSHF, POPF, IRET, INT n through random gates or the program's own vectors,
 * IN, OUT, INS, OUTS at the edges of the map and of the segment. How each ends, with the frame that
 * the exception leaves and the program's stack, makes one sum, which Bochs 2.7 has, too
 * (corei7_skylake_x). With -DVERBOSE=1 a line for each case.
 */
#include "kern.h"

#ifndef SEED
#define SEED    1u
#define CASES   20000u
#define SUM     0xce1b9c7fu
#define VERBOSE 0
#endif
#include "code.h"
#include "sum.h"

#define V86_CS   0x3000u
#define V86_SS   0x2000u
#define SP_START 0xff00u
#define CODE     (V86_CS * 16)
#define STACK    (V86_SS * 16)
#define VECTOR   0x800u /* in CODE: where all vectors of the program lead */
#define STRINGS  0x20800u
#define PORT     0x1000u /* nothing is there, nor at the next ones */

#define SEL_CONF  (SEL_FREE + 0u) /* conforming */
#define SEL_HIGH  (SEL_FREE + 8u) /* DPL 0, not present */
#define FIRST_INT 0x90u
#define INTS      8u

#define FLAG_VM 0x20000u

/* ---- tables ---------------------------------------------------------------------------------- */

static struct {
    uint32_t word[26];
    uint8_t maps[0x500 - 104];
} tss __attribute__((aligned(16)));

static void load_tss(void)
{
    static const uint16_t bases[] = {104 + 32, 104 + 32, 104 + 32, 104,
                                     104 + 31, 0x200,    20,       0xffff};
    uint32_t base = bases[rnd(8)], limit = sizeof(tss) - 1, la = (uint32_t)&tss;

    for (unsigned i = 0; i < sizeof(tss.maps); i++)
        tss.maps[i] = (uint8_t)(rnd(2) != 0 ? 0 : rnd(256));
    tss.word[1] = TSS_STACK;
    tss.word[2] = SEL_DATA;
    tss.word[25] = base << 16;
    if (rnd(3) == 0) /* the map's byte of PORT is the last one, or nearly */
        limit = base + PORT / 8 + rnd(4) - 1;
    if (rnd(8) == 0)
        limit = 103 + rnd(3);
    if (limit < 103 || limit >= sizeof(tss))
        limit = 103;
    gdt[SEL_TSS / 8] =
        limit | (uint64_t)(la & 0xffffff) << 16 | 0x89ull << 40 | (uint64_t)(la >> 24) << 56;
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS) : "memory");
}

extern uint8_t exc_stubs[];

static void gates(void)
{
    static const uint16_t code[] = {SEL_CODE32,  SEL_CODE32, SEL_CODE32, SEL_CODE32, SEL_CONF,
                                    SEL_UCODE32, SEL_DATA,   0,          SEL_HIGH};

    for (unsigned i = 0; i < INTS; i++) {
        uint32_t to = (uint32_t)exc_stubs + 16 * (FIRST_INT + i);
        uint64_t type = 14 | rnd(2), dpl = rnd(3) != 0 ? 3 : rnd(4), p = rnd(10) != 0;
        uint64_t sel = code[rnd(9)];
        set_raw_gate(FIRST_INT + i, (to & 0xffff) | sel << 16 | (type | dpl << 5 | p << 7) << 40 |
                                        (uint64_t)(to >> 16) << 48);
    }
    for (unsigned v = 3; v < 5; v++) { /* INT3, INTO */
        uint32_t dpl = rnd(2) * 3;
        set_gate(v, dpl, rnd(2) != 0);
    }
}

/* ---- code ------------------------------------------------------------------------------------ */

/* Flags that a program would like to have. */
static uint32_t image(void)
{
    uint32_t f = rnd(0x400000);
    if (rnd(3) != 0)
        f &= ~0x100u; /* TF */
    if (rnd(3) != 0)
        f &= ~0x4000u; /* NT */
    return f;
}

/* Push a constant with the other operand size than the mode's, or with its own. */
static void push(bool v86, bool wide, uint32_t v)
{
    if (v86 == wide)
        b(0x66);
    b(0x68);
    if (wide)
        d(v);
    else
        w(v);
}

static void emit(bool v86)
{
    bool wide = rnd(2) != 0; /* 32-bit operands */
    uint32_t to;

    switch (rnd(16)) {
    case 0:
        b(0xfa);
        break;
    case 1:
        b(0xfb);
        break;
    case 2:
    case 3: /* pushf */
        if (v86 == wide)
            b(0x66);
        b(0x9c);
        break;
    case 4:
    case 5: /* popf */
        push(v86, wide, image());
        if (v86 == wide)
            b(0x66);
        b(0x9d);
        break;
    case 6:
    case 7: /* iret to the instruction behind it, mostly */
        push(v86, wide, image());
        push(v86, wide, v86 ? V86_CS : SEL_UCODE32 | rnd(0x10000) << 16);
        to = (uint32_t)at - (v86 ? CODE : 0) + (v86 == wide ? 6 : 5) - (wide ? 0 : 2) + 1u +
             (v86 == wide);
        push(v86, wide, rnd(16) == 0 ? rnd(0x10000) : to);
        if (v86 == wide)
            b(0x66);
        b(0xcf);
        break;
    case 8:
    case 9:
        b(0xcd), b(FIRST_INT + rnd(INTS));
        break;
    case 10:
        b(rnd(2) != 0 ? 0xcc : 0xce);
        break;
    case 11: /* mov dx, port; in or out */
        if (!v86)
            b(0x66);
        b(0xba), w(PORT + rnd(20));
        if (wide)
            b(0x66);
        b(0xec + rnd(4));
        break;
    case 12: /* the same from memory: around the end of the segment, too */
        if (!v86)
            b(0x66);
        b(0xba), w(PORT + rnd(20));
        b(0xbe + rnd(2)); /* mov si or di, STRINGS */
        to = rnd(4) != 0 ? 0x800 + rnd(8) : 0xfff8 + rnd(8);
        if (v86)
            w(to);
        else
            d(STRINGS + to);
        if (wide)
            b(0x66);
        b(0x6e + rnd(2));
        break;
    case 13:
        b(0x8e), b(0xd0), b(0x90);
        break; /* mov ss, ax; nop: two MOV SS differ among processors */
    case 14:
        b(0xb0), b(0x7f), b(0x04), b(0x01 + rnd(2));
        break; /* mov al, 7fh; add al, 1 */
    default:
        b(0x90);
        break;
    }
}

/* ---- cases ----------------------------------------------------------------------------------- */

static uint32_t frame[12];

static bool keep(struct regs *r)
{
    const uint32_t *more = &r->ss + 1;
    uint32_t *f = frame;

    *f++ = r->vector;
    *f++ = r->code;
    *f++ = r->rip;
    *f++ = r->cs & 0xffff;
    *f++ = r->flags;
    *f++ = r->rsp;
    *f++ = r->ss & 0xffff;
    for (unsigned i = 0; i < 4; i++)
        *f++ = (r->flags & FLAG_VM) != 0 ? more[i] & 0xffff : 0;
    try_abandon((long)r->vector);
}

static struct {
    uint32_t eip, cs, flags, esp, ss, es, ds, fs, gs;
} start;

static void enter(void *unused)
{
    (void)unused;
    __asm__ volatile("sub $36, %%esp\n\tmov %%esp, %%edi\n\tmov $9, %%ecx\n\trep movsl\n\t"
                     "mov %1, %%ds\n\tmov %1, %%es\n\tmov -20(%%esi), %%eax\n\txor %%edx, %%edx\n\t"
                     "xor %%ecx, %%ecx\n\tiretl"
                     :
                     : "S"(&start), "b"(SEL_UDATA)
                     : "memory", "eax", "ecx", "edx", "edi");
}

static void one(unsigned n)
{
    bool v86 = rnd(3) != 0;
    uint32_t flags = image() | 2;

    if (rnd(2) != 0)
        flags &= ~0x4100u;
    load_tss();
    gates();
    wr_cr4((rd_cr4() & ~3ul) | rnd(4)); /* VME, PVI */
    memset((void *)CODE, 0xf4, 0x100);  /* hlt */
    for (unsigned i = 0; i < 256; i++)  /* the program's vectors; or code, for 16-bit IRET */
        *(volatile uint32_t *)(4 * i) = v86 ? V86_CS << 16 | VECTOR : 0xf4f4f4f4;
    memset((void *)(STACK + SP_START - 64), 0, 96);
    at = (uint8_t *)CODE;
    for (unsigned i = 1 + rnd(4); i > 0; i--)
        emit(v86);
    b(0xf4);
    start.flags = v86 ? flags | FLAG_VM : flags & ~FLAG_VM;
    /* Bochs looks at VIF and VIP where they are not in use, too. */
    if ((flags & 0x3000) == 0x3000 || (rd_cr4() & (v86 ? 1 : 2)) == 0)
        start.flags &= ~0x80000u;
    start.cs = v86 ? V86_CS : SEL_UCODE32;
    start.eip = v86 ? 0 : CODE;
    start.ss = v86 ? V86_SS : SEL_UDATA;
    start.esp = SP_START + (v86 ? 0 : STACK);
    if (v86 && rnd(8) == 0)
        start.esp = rnd(12);
    start.es = 0x2345, start.ds = 0x1234, start.fs = 0x4000, start.gs = 0x5000;
#if VERBOSE
    print("%u %s cr4 %lx flags %x map %x limit %lx:", n, v86 ? "v86" : "prot", rd_cr4() & 3,
          start.flags, tss.word[25] >> 16, (unsigned long)gdt[SEL_TSS / 8] & 0xffff);
    for (const uint8_t *p = (const uint8_t *)CODE; p < at; p++)
        print(" %x", *p);
    print(" |");
#endif
    memset(frame, 0, sizeof(frame));
    exc_hook = keep;
    (void)try_call(enter, NULL);
    exc_hook = NULL;
    add(n);
    for (unsigned i = 0; i < 11; i++)
        add(frame[i]);
    const uint32_t *s = (const uint32_t *)(STACK + SP_START - 32);
    for (unsigned i = 0; i < 8; i++)
        add(s[i]);
#if VERBOSE
    print("\n");
#endif
}

void test_main(void)
{
    gdt[SEL_CONF / 8] = 0x00cf9f000000ffffull;
    gdt[SEL_HIGH / 8] = 0x00cf1b000000ffffull;
    for (uint32_t la = 0x400; la < 0x10000; la += 4) {
        *(volatile uint32_t *)la = 0xf4f4f4f4;
        *(volatile uint32_t *)(CODE + la) = 0xf4f4f4f4;
    }
    for (unsigned n = 0; n < CASES; n++)
        one(n);
#ifdef SUM
    CHECK(sum == SUM, "the sum is %x, not %x", sum, SUM);
#else
    print("seed %u: %x\n", SEED, sum);
#endif
}
