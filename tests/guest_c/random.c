/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random descriptors and gates, and random instructions that use them, at levels 0 and 3: segment
 * loads, far transfers in both operand sizes, interrupts, IRET, accesses near limits, LAR to VERW.
 * What came of all cases makes one sum, which Bochs 2.7 has, too (corei7_skylake_x). With
 * -DVERBOSE=1 a line for each case, to be compared with another emulator's.
 */
#include "kern.h"
#include "code.h"

#ifndef SEED
#define SEED    1u
#define CASES   6000u
#define SUM     0x418ab460u
#define VERBOSE 0
#endif

#define SLOTS     20u       /* descriptors that change */
#define CODE      USER_AREA /* what runs */
#define FIRST_INT 0x90u
#define INTS      16u

static uint32_t rng = SEED * 2654435761u + 1;
static struct regs last;
/* Where code lands is full of INT 80h: 60 KiB from here on. */
static const uint32_t land[] = {0x1000, 0x31000, USER_AREA + 0x1000, 2 * USER_AREA + 0x1000};
#define LAND_BYTES 0xf000u

static uint32_t rnd(uint32_t n)
{
    rng ^= rng << 13;
    rng ^= rng >> 17;
    rng ^= rng << 5;
    return (uint32_t)((uint64_t)rng * n >> 32);
}

static bool keep(struct regs *r)
{
    last = *r;
    return false;
}

/* ---- tables ---------------------------------------------------------------------------------- */

/* Mostly 0 or 3. */
static uint32_t level(void)
{
    return rnd(3) == 0 ? rnd(4) : rnd(2) * 3;
}

static uint16_t selector(void)
{
    static const uint16_t fixed[] = {0, SEL_CODE32, SEL_DATA, SEL_UCODE32, SEL_UDATA, SEL_TSS};

    if (rnd(8) == 0) {
        uint32_t sel = fixed[rnd(6)];
        return (uint16_t)(sel | rnd(4));
    }
    if (rnd(40) == 0)
        return (uint16_t)rnd(0x10000);
    uint32_t sel = SEL_FREE + 8 * rnd(SLOTS);
    return (uint16_t)(sel | level());
}

/* Where code lands: in a segment with base 0 or with base USER_AREA. */
static uint32_t target(void)
{
    uint32_t off = 0x1000 + (rnd(0xe000) & ~1u);
    return rnd(3) == 0 ? USER_AREA + off : off;
}

static uint64_t segment(void)
{
    static const uint32_t limits[] = {0, 1, 0xfff, 0x7fff, 0xffff, 0xfffff, 0x4ffff, 0x10};
    uint32_t limit = rnd(4) == 0 ? rnd(0x100000) : limits[rnd(8)];
    uint64_t base = rnd(3) == 0 ? 0 : USER_AREA;
    uint64_t type = 0x10 | rnd(16), dpl = rnd(4) == 0 ? rnd(4) : rnd(2) * 3;
    uint64_t flags = rnd(4); /* G, D; then AVL */

    flags = flags << 2 | (rnd(4) == 0);
    uint64_t p = rnd(12) != 0;
    return (limit & 0xffff) | (uint64_t)(limit >> 16 & 15) << 48 | (base & 0xffffff) << 16 |
           (base >> 24) << 56 | (type | dpl << 5 | p << 7) << 40 | (flags & 13) << 52;
}

static uint64_t gate(uint64_t type)
{
    uint32_t off = target();
    uint64_t sel = rnd(2) != 0 ? SEL_CODE32 : rnd(2) != 0 ? SEL_UCODE32 : selector();

    if (sel == SEL_CODE32 || sel == SEL_UCODE32) /* flat */
        off = off < USER_AREA ? off + USER_AREA : off;
    uint64_t words = rnd(rnd(2) != 0 ? 1 : 8), dpl = rnd(3) == 0 ? rnd(4) : 3, p = rnd(12) != 0;
    return (off & 0xffff) | sel << 16 | words << 32 | (type | dpl << 5 | p << 7) << 40 |
           (uint64_t)(off >> 16) << 48;
}

static void tables(void)
{
    static const uint8_t kinds[] = {4, 12, 4, 12, 2, 0, 8, 10, 13, 6, 14, 15};

    for (unsigned i = 0; i < SLOTS; i++) {
        uint64_t d = segment();
        if (rnd(4) == 0) {
            uint8_t type = kinds[rnd(sizeof(kinds))];
            d = type >= 4 && type != 10 && type != 8 && type != 13
                    ? gate(type)
                    : (d & ~(0x1full << 40)) | (uint64_t)type << 40;
        }
        gdt[SEL_FREE / 8 + i] = d;
    }
    for (unsigned i = 0; i < INTS; i++) {
        static const uint8_t types[] = {6, 7, 14, 15, 14, 15, 4, 12};
        uint64_t g = gate(types[rnd(8)]);
        set_raw_gate(FIRST_INT + i, g);
    }
}

/* ---- code ------------------------------------------------------------------------------------ */

static void mov_eax(uint32_t v)
{
    b(0xb8);
    d(v);
}
static void load(unsigned seg, uint16_t sel)
{
    mov_eax(sel);
    b(0x8e);
    b(0xc0 | seg << 3);
}
static void push(uint32_t v, bool small)
{
    if (small)
        b(0x66);
    b(0x68);
    if (small)
        w(v);
    else
        d(v);
}

enum { ES, CS, SS, DS, FS, GS };

static const char *op_load(bool user)
{
    static const uint8_t segs[] = {ES, DS, FS, GS, SS};
    unsigned seg = segs[rnd(user ? 5 : 4)];

    load(seg, selector());
    if (seg == SS)
        b(0x90);
    return "load";
}

/* At level 0 the stack must stay good. */
static const char *op_ss0(bool user)
{
    (void)user;
    b(0x8c), b(0xd2); /* mov edx, ss */
    load(SS, selector());
    b(0x8e), b(0xd2);
    return "load ss";
}

static const char *op_far(bool user)
{
    bool small = rnd(3) == 0;
    uint32_t off = target();
    uint16_t sel = selector();

    (void)user;
    switch (rnd(3)) {
    case 0:
    case 1:
        if (small)
            b(0x66);
        b(rnd(2) != 0 ? 0x9a : 0xea);
        if (small)
            w(off);
        else
            d(off);
        w(sel);
        return "jump";
    default:
        push(USER_STACK & 0xffff, small);
        push(USER_STACK, small);
        push(SEL_UDATA, small);
        push(USER_STACK, small);
        push(sel, small);
        push(off, small);
        if (small)
            b(0x66);
        if (rnd(2) != 0) {
            b(0xcb);
        } else {
            b(0xca);
            w(4 * (rnd(3) & 1)); /* what is popped was pushed */
        }
        return "retf";
    }
}

static const char *op_iret(bool user)
{
    bool small = rnd(3) == 0;
    uint32_t flags = 2 | (rnd(0x10000) & 0x3cd5);

    flags |= rnd(16) == 0 ? 0x20000 : 0;
    flags |= rnd(4) == 0 ? 0x240000 & rnd(0x400000) : 0;

    if (user)
        flags &= ~0x20000u;
    push(SEL_UDATA, small); /* of virtual-8086 mode */
    push(SEL_UDATA, small);
    push(0x1234, small);
    push(0x100, small);
    push(rnd(2) != 0 ? SEL_UDATA : selector(), small);
    push((flags & 0x20000) != 0 ? 0x2000 : USER_STACK, small);
    push(flags, small);
    push((flags & 0x20000) != 0 ? 0x3000 : selector(), small);
    push((flags & 0x20000) != 0 ? 0x1000 : target(), small);
    if (small)
        b(0x66);
    b(0xcf);
    return "iret";
}

static const char *op_int(bool user)
{
    (void)user;
    b(0xcd);
    b(FIRST_INT + rnd(INTS));
    return "int";
}

static const char *op_query(bool user)
{
    static const uint8_t ops[] = {0x02, 0x03};

    (void)user;
    mov_eax(selector());
    b(0xb9), d(0x12345678); /* mov ecx */
    if (rnd(5) == 0)
        b(0x66);
    switch (rnd(4)) {
    case 0:
        b(0x0f), b(0x00), b(0xe0 | rnd(2) << 3); /* verr, verw */
        return "verify";
    case 1:
        b(0x63), b(0xc1); /* arpl cx, ax */
        return "arpl";
    default:
        b(0x0f), b(ops[rnd(2)]), b(0xc8); /* lar, lsl ecx, eax */
        return "query";
    }
}

/* Usual limits. None at 0: what crosses 4 GiB may fault or not (SDM 3A 5.3). */
static const uint32_t ends[] = {0x10,   0x18,   0xfff,   0x1000, 0x7fff,
                                0x8000, 0xffff, 0x10000, 0x4ffff};

/* An access to a segment with a random selector, around one of the usual limits. */
static const char *op_access(bool user)
{
    static const uint8_t segs[] = {ES, DS, FS, GS}, prefix[] = {0x26, 0, 0, 0x3e, 0x64, 0x65};
    unsigned seg = segs[rnd(4)];
    uint32_t off = ends[rnd(9)];

    off += rnd(12) - 6;

    (void)user;
    load(seg, selector());
    b(0xb9), d(0xcafe0000);
    b(prefix[seg]);
    switch (rnd(5)) {
    case 0:
        b(0x8a), b(0x0d); /* mov cl, [] */
        break;
    case 1:
        b(0x66), b(0x8b), b(0x0d);
        break;
    case 2:
        b(0x8b), b(0x0d);
        break;
    case 3:
        b(0x0f), b(0xb0), b(0x0d); /* cmpxchg [], cl: a write access that changes nothing known */
        break;
    default:
        b(0x85), b(0x0d); /* test */
        break;
    }
    d(off);
    return "access";
}

/* PUSH, POP, CALL, ENTER on a random stack of level 3. */
static const char *op_stack(bool user)
{
    (void)user;
    uint32_t top = ends[rnd(9)];
    b(0xbb), d(top + rnd(8)); /* mov ebx */
    load(SS, selector());
    b(0x89), b(0xdc); /* mov esp, ebx */
    if (rnd(3) == 0)
        b(0x66);
    switch (rnd(7)) {
    case 0:
        b(0x50);
        break;
    case 1:
        b(0x59);
        break;
    case 2:
        b(0x60);
        break;
    case 3:
        b(0x61);
        break;
    case 4:
        b(0xc8), w(rnd(16)), b(rnd(3));
        break;
    case 5:
        b(0x9c);
        break;
    default:
        b(0x6a), b(0x11);
        break;
    }
    return "stack";
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void jump(void *p)
{
    __asm__ volatile("mov $0, %%eax\n\tmov $0, %%ecx\n\tmov $0, %%edx\n\tmov $0, %%ebx\n\t"
                     "mov $0x2b, %%si\n\tmov %%si, %%fs\n\tmov %%si, %%gs\n\tjmp *%0"
                     :
                     : "D"(p)
                     : "memory", "eax", "ecx", "edx", "ebx", "esi");
}

static void fill(uint32_t from, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 2)
        *(volatile uint16_t *)(from + i) = 0x80cd; /* int 80h */
}

/* What accesses and stacks of the last case overwrote. */
static void mend(void)
{
    for (unsigned i = 2; i < 8; i++) {
        fill((ends[i] & ~0xfffu) - 64, 96);
        fill(USER_AREA + (ends[i] & ~0xfffu) - 64, 96);
        fill((ends[i] & ~0xfffu) + 0x1000 - 64, 96);
        fill(USER_AREA + (ends[i] & ~0xfffu) + 0x1000 - 64, 96);
    }
}

static uint32_t sum;
static void add(uint32_t v)
{
    sum = (sum << 7 | sum >> 25) * 31 + v;
}

static void one(unsigned n)
{
    static const char *(*const ops0[])(bool) = {op_load, op_ss0, op_far,   op_far,
                                                op_iret, op_int, op_query, op_access};
    static const char *(*const ops3[])(bool) = {op_load, op_stack, op_far,   op_far,
                                                op_iret, op_int,   op_query, op_access};
    bool user = rnd(2) != 0;
    unsigned op = rnd(8);

    mend();
    tables();
    at = (uint8_t *)CODE;
    const char *name = (user ? ops3 : ops0)[op](user);
    b(0xcd), b(0x80);
    long v = user ? try_user(CODE, 0) : try_call(jump, (void *)CODE);
    uint32_t types = 0;
    for (unsigned i = 0; i < SLOTS; i++)
        types = types * 3 + (uint32_t)(gdt[SEL_FREE / 8 + i] >> 40 & 0xff);
    /* Where a level 0 stack is, depends on what was called; what matters is the outer one. */
    uint32_t sp = (last.cs & 3) != 0 || (last.flags & 0x20000) != 0 ? last.rsp : 0;
    uint32_t ss = sp != 0 ? last.ss & 0xffff : 0;
    uint32_t flags = last.flags & 0x67000; /* IOPL, NT, VM, AC */
    last.rcx &= ~0xf0000u;                 /* undefined after LAR */
    uint32_t f[] = {(uint32_t)v,
                    last.code,
                    last.rip,
                    last.cs & 0xffff,
                    flags,
                    sp,
                    ss,
                    last.ds & 0xffff,
                    last.es & 0xffff,
                    last.fs & 0xffff,
                    last.gs & 0xffff,
                    last.rax,
                    last.rcx,
                    last.rdx & 0xffff,
                    types};
    add(n);
    for (unsigned i = 0; i < sizeof(f) / sizeof(f[0]); i++)
        add(f[i]);
#if VERBOSE
    print("%u %s %d:", n, name, user ? 3 : 0);
    for (unsigned i = 0; i < sizeof(f) / sizeof(f[0]); i++)
        print(" %x", f[i]);
    print("\n");
#else
    (void)name;
#endif
}

void test_main(void)
{
    for (unsigned i = 0; i < sizeof(land) / sizeof(land[0]); i++)
        fill(land[i], LAND_BYTES);
    exc_hook = keep;
    for (unsigned n = 0; n < CASES; n++)
        one(n);
    exc_hook = NULL;
#ifdef SUM
    CHECK(sum == SUM, "the sum is %x, not %x", sum, SUM);
#else
    print("seed %u: %x\n", SEED, sum);
#endif
}
