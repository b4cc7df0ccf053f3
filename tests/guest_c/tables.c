/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random descriptors and gates of long mode, and random instructions that use them, in 64-bit and
 * in compatibility code at levels 0 and 3: segment loads, far transfers in each operand size,
 * interrupts by IST, IRET, SYSCALL, SYSRET, SYSENTER, SYSEXIT, LLDT, LTR, LAR to VERW. What came of
 * all cases makes one sum, which Bochs 2.7 has, too (corei7_skylake_x). With -DVERBOSE=1 a line for
 * each case, to be compared with another emulator's.
 */
#include "kern.h"
#include "code.h"

#ifndef SEED
#define SEED    1u
#define CASES   6000u
#define SUM     0xf4c93f95u
#define VERBOSE 0
#endif

#define SLOTS      20u       /* descriptors that change */
#define CODE       USER_AREA /* what runs */
#define FRAME      (USER_AREA + 0x1f0000u)
#define POINTER    (USER_AREA + 0x1f1000u)
#define STACKS     (USER_AREA + 0x1e0000u) /* open to a conforming handler at level 3, too */
#define LAND       0x1000u /* from here on, behind 0 and USER_AREA, everything is INT 80h */
#define LAND_END   0xf000u
#define FIRST_INT  0x90u
#define INTS       16u
#define SEL_MY_TSS SEL_LDT
#define BAD        0x1000000000000000ull /* not canonical */

static uint32_t rng = SEED * 2654435761u + 1;
static struct regs last;
static uint16_t sel_seen[4]; /* DS, ES, FS, GS */
static bool wide;            /* 64-bit code */
static bool user;
static uint64_t tss[13];

static uint64_t (*idt)[2];

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
    __asm__ volatile("mov %%ds, %0\n\tmov %%es, %1\n\tmov %%fs, %2\n\tmov %%gs, %3"
                     : "=m"(sel_seen[0]), "=m"(sel_seen[1]), "=m"(sel_seen[2]), "=m"(sel_seen[3]));
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
    static const uint16_t fixed[] = {0,         SEL_CODE32, SEL_DATA,   SEL_UCODE32,
                                     SEL_UDATA, SEL_TSS,    SEL_CODE64, SEL_UCODE64};

    if (rnd(6) == 0) {
        uint32_t sel = fixed[rnd(8)] & ~3u;
        return (uint16_t)(sel | rnd(4));
    }
    if (rnd(40) == 0)
        return (uint16_t)rnd(0x10000);
    uint32_t sel = SEL_FREE + 8 * rnd(SLOTS);
    return (uint16_t)(sel | level());
}

/* Half of the time of code that is always good. */
static uint16_t code_selector(void)
{
    static const uint16_t fixed[] = {SEL_CODE32, SEL_CODE64, SEL_UCODE32, SEL_UCODE64};

    if (rnd(2) != 0)
        return selector();
    uint32_t sel = fixed[rnd(4)] & ~3u;
    return (uint16_t)(sel | level());
}

/* Where code lands: in a segment with base 0 or with base USER_AREA. */
static uint32_t target(void)
{
    uint32_t off = LAND + (rnd(LAND_END - LAND) & ~1u);
    return rnd(3) == 0 ? off : USER_AREA + off;
}

static uint64_t segment(void)
{
    static const uint32_t limits[] = {0xfff, 0x7fff, 0xffff, 0xfffff, 0x4ffff, 0x10, 0x67, 0x66};
    uint32_t limit = rnd(4) == 0 ? rnd(0x100000) : limits[rnd(8)];
    uint64_t base = rnd(3) == 0 ? USER_AREA : 0;
    uint64_t type = 0x10 | rnd(16), dpl = rnd(4) == 0 ? rnd(4) : rnd(2) * 3;
    uint64_t flags = rnd(5) == 0; /* AVL */

    flags |= (uint64_t)rnd(2) << 3; /* G */
    if ((type & 8) != 0)
        flags |= rnd(3) != 0 ? 2 : 0; /* L */
    flags |= rnd((flags & 2) != 0 ? 8 : 2) == 1 ? 4 : 0;
    uint64_t p = rnd(12) != 0;
    return (limit & 0xffff) | (uint64_t)(limit >> 16 & 15) << 48 | (base & 0xffffff) << 16 |
           (base >> 24) << 56 | (type | dpl << 5 | p << 7) << 40 | (flags & 15) << 52;
}

/* 16 bytes, of a call gate or of the IDT; low is bits 32 to 39. */
static void gate(uint64_t g[2], uint64_t type, uint64_t low)
{
    uint32_t off = target();
    uint64_t sel = rnd(3) == 0 ? selector() : rnd(3) != 0 ? SEL_CODE64 : SEL_UCODE64;
    uint64_t dpl = rnd(3) == 0 ? rnd(4) : 3, p = rnd(12) != 0;

    g[0] = (off & 0xffff) | sel << 16 | low << 32 | (type | dpl << 5 | p << 7) << 40 |
           (uint64_t)(off >> 16) << 48;
    g[1] = rnd(16) == 0 ? BAD >> 32 : 0;
}

static void tables(void)
{
    static const uint8_t kinds[] = {12, 12, 12, 2, 2, 9, 9, 11, 0, 1, 3, 4, 5, 6, 8, 14};

    for (unsigned i = 0; i < SLOTS; i++)
        gdt[SEL_FREE / 8 + i] = segment();
    for (unsigned i = 0; i + 1 < SLOTS; i += 2) {
        if (rnd(3) != 0)
            continue;
        uint64_t *d = &gdt[SEL_FREE / 8 + i];
        uint8_t type = kinds[rnd(sizeof(kinds))];
        if (type == 12) {
            gate(d, type, rnd(3) == 0 ? rnd(256) : 0);
        } else {
            d[0] = (d[0] & ~(0x1full << 40)) | (uint64_t)type << 40;
            d[1] = rnd(12) == 0 ? BAD >> 32 : 0;
        }
    }
    for (unsigned i = 0; i < INTS; i++) {
        static const uint8_t types[] = {14, 15, 14, 15, 14, 15, 14, 15, 6, 7, 5, 12};
        uint64_t g[2], type = types[rnd(12)];
        gate(g, type, rnd(2) != 0 ? 0 : rnd(8));
        idt[FIRST_INT + i][0] = g[0];
        idt[FIRST_INT + i][1] = g[1];
    }
}

/* Two LDT-sized tables do not hold what is loaded; the TSS of the cases has its own entry. */
static void load_tss(void)
{
    uint64_t base = (uint64_t)tss;

    gdt[SEL_MY_TSS / 8] = 103 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[SEL_MY_TSS / 8 + 1] = base >> 32;
    __asm__ volatile("ltr %w0\n\tlldt %w1" : : "r"(SEL_MY_TSS), "r"(0));
}

static void stacks(void)
{
    uint32_t *t = (uint32_t *)tss;

    for (unsigned i = 0; i < 11; i++) { /* RSP0 to 2, -, IST1 to 7 */
        uint64_t sp = STACKS + 0x200 * i + (i >= 6 ? rnd(16) : 0);
        t[1 + 2 * i] = (uint32_t)sp;
        t[2 + 2 * i] = (uint32_t)(sp >> 32);
    }
}

/* ---- code ------------------------------------------------------------------------------------ */

static void mov_eax(uint32_t v)
{
    b(0xb8);
    d(v);
}
static void mov_esp(uint32_t v)
{
    b(0xbc);
    d(v);
}
/* [disp32] with a register field, in 64-bit and in 32-bit code. */
static void absolute(unsigned reg, uint32_t disp)
{
    b(reg << 3 | 4);
    b(0x25);
    d(disp);
}

enum { ES, CS, SS, DS, FS, GS };

/* Operand size 2, 4 or, in 64-bit code, 8; emits its prefix. */
static unsigned size_prefix(void)
{
    unsigned n = wide ? rnd(4) : rnd(3);

    if (n == 0)
        b(0x66);
    else if (n == 3)
        b(0x48);
    return n == 0 ? 2 : n == 3 ? 8 : 4;
}

static uint8_t *store;
static void put(uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        *store++ = (uint8_t)(v >> (8 * i));
}

static uint64_t offset(unsigned bytes)
{
    uint64_t v = target();
    return bytes == 8 && rnd(20) == 0 ? v | BAD : v;
}

static const char *op_load(void)
{
    static const uint8_t segs[] = {ES, DS, FS, GS, SS};
    unsigned seg = segs[rnd(5)];

    mov_eax(selector());
    if (rnd(8) == 0)
        b(0x66);
    b(0x8e);
    b(0xc0 | seg << 3);
    b(0x90);
    return "load";
}

static const char *op_load_far(void)
{
    static const uint8_t ops[] = {0xb2, 0xb4, 0xb5}; /* LSS, LFS, LGS */
    unsigned bytes = size_prefix();

    store = (uint8_t *)POINTER;
    put(rnd(2) != 0 ? USER_STACK : 0x1234567890ull, bytes);
    put(selector(), 2);
    b(0x0f), b(ops[rnd(3)]);
    absolute(0, POINTER); /* eax */
    b(0x90);
    return "load far";
}

static const char *op_jump(void)
{
    unsigned call = rnd(2);

    if (!wide && rnd(2) != 0) {
        bool small = rnd(4) == 0;
        if (small)
            b(0x66);
        b(call ? 0x9a : 0xea);
        uint32_t off = target();
        if (small)
            w(off);
        else
            d(off);
        w(code_selector());
        return "far";
    }
    unsigned bytes = size_prefix();
    store = (uint8_t *)POINTER;
    put(offset(bytes), bytes);
    put(code_selector(), 2);
    b(0xff);
    absolute(call ? 3 : 5, POINTER);
    return "far []";
}

static const char *op_retf(void)
{
    unsigned skip = rnd(2);

    mov_esp(FRAME);
    unsigned bytes = size_prefix();
    store = (uint8_t *)FRAME;
    put(offset(bytes), bytes);
    put(code_selector(), bytes);
    if (skip)
        put(0, bytes);
    put(rnd(8) == 0 && bytes == 8 ? BAD : USER_STACK, bytes);
    put(rnd(2) != 0 ? SEL_UDATA : selector(), bytes);
    b(skip ? 0xca : 0xcb);
    if (skip)
        w(bytes);
    return "retf";
}

static const char *op_iret(void)
{
    uint32_t flags = 2 | (rnd(0x10000) & 0x7cd5); /* with NT */

    flags |= rnd(4) == 0 ? 0x260000 & rnd(0x400000) : 0;
    if (rnd(4) != 0)
        flags &= ~0x4000u;
    mov_esp(FRAME);
    unsigned bytes = 8;
    if (wide && user) /* Bochs returns to the same level without SS:RSP for the other sizes */
        b(0x48);
    else
        bytes = size_prefix();
    store = (uint8_t *)FRAME;
    put(offset(bytes), bytes);
    put(code_selector() | (wide && bytes != 8 ? 3 : 0), bytes);
    put(flags, bytes);
    put(USER_STACK, bytes);
    put(rnd(2) != 0 ? SEL_UDATA : selector(), bytes);
    put(0, 8), put(0, 8), put(0, 8), put(0, 8);
    b(0xcf);
    return "iret";
}

static const char *op_int(void)
{
    b(0xcd);
    b(FIRST_INT + rnd(INTS));
    return "int";
}

static const char *op_query(void)
{
    unsigned n = rnd(4);

    mov_eax(selector());
    b(0xb9), d(0x12345678); /* mov ecx */
    b(0x31), b(0xd2);       /* xor edx, edx */
    (void)size_prefix();
    b(0x0f);
    if (n < 2)
        b(0x00), b(0xe0 | n << 3); /* verr, verw */
    else
        b(n), b(0xc8);         /* lar, lsl ecx, eax */
    b(0x0f), b(0x94), b(0xc2); /* setz dl */
    return "query";
}

static const char *op_system(void)
{
    unsigned n = rnd(8);

    if (!wide) /* Bochs leaves the upper halves of descriptors alone */
        return op_query();
    mov_eax(selector());
    b(0x0f), b(0x00);
    b((n < 3 ? 0xd0 : 0xd8)); /* lldt, ltr */
    if (n < 2) {              /* and use it */
        mov_eax(rnd(0x80) | 4);
        b(0x0f), b(0x02), b(0xc8);
    }
    return n < 3 ? "lldt" : "ltr";
}

static const char *op_call(void)
{
    unsigned n = rnd(4);
    /* What Bochs has otherwise: SYSCALL clears the requested level of SS, and SYSRET with TF runs
       an instruction before it traps. */
    uint64_t star = target();
    star |= (uint64_t)(code_selector() & ~3u) << 32;
    star |= (uint64_t)code_selector() << 48;

    wrmsr(0xc0000081, star);
    wrmsr(0xc0000082, target());
    wrmsr(0xc0000083, target());
    wrmsr(0xc0000084, rnd(0x10000));
    wrmsr(0x174, rnd(6) == 0 ? 0 : (uint32_t)code_selector());
    wrmsr(0x175, TSS_STACK + 0x1800);
    wrmsr(0x176, target());
    b(0xb9), d(target()); /* mov ecx */
    b(0xba), d(target()); /* mov edx */
    if (wide)
        b(0x41), b(0xbb), d(rnd(0x400000) & ~0x100u); /* mov r11d */
    mov_esp(USER_STACK);
    if (wide && rnd(2) != 0)
        b(0x48);
    static const uint8_t ops[] = {0x05, 0x07, 0x34, 0x35};
    b(0x0f), b(ops[n]); /* syscall, sysret, sysenter, sysexit */
    return "system call";
}

/* ---- cases ----------------------------------------------------------------------------------- */

/* To CODE in the segment, at its level. */
static void enter(void *cs)
{
    uint64_t sel = (uint64_t)cs;
    uint64_t data = (sel & 3) != 0 ? SEL_UDATA : SEL_DATA;
    uint64_t sp = (sel & 3) != 0 ? USER_STACK : TSS_STACK + 0x1f00;

    __asm__ volatile("mov %w1, %%ds\n\tmov %w1, %%es\n\tmov %w1, %%fs\n\tmov %w1, %%gs\n\t"
                     "pushq %1\n\tpushq %2\n\tpushq $2\n\tpushq %0\n\tpushq %3\n\t"
                     "xor %%eax, %%eax\n\txor %%ecx, %%ecx\n\txor %%edx, %%edx\n\t"
                     "iretq"
                     :
                     : "b"(sel), "S"(data), "D"(sp), "r"((uint64_t)CODE)
                     : "memory", "rax", "rcx", "rdx");
}

static void fill(uint32_t from, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 2)
        *(volatile uint16_t *)(uint64_t)(from + i) = 0x80cd; /* int 80h */
}

static uint32_t sum;
static void add(uint64_t v)
{
    sum = (sum << 7 | sum >> 25) * 31 + (uint32_t)v;
    sum = (sum << 7 | sum >> 25) * 31 + (uint32_t)(v >> 32);
}

static void one(unsigned n)
{
    static const char *(*const ops[])(void) = {op_load, op_load_far, op_jump,  op_jump, op_retf,
                                               op_iret, op_int,      op_query, op_call, op_system};
    static const uint16_t segs[] = {SEL_CODE64, SEL_CODE32, SEL_UCODE64, SEL_UCODE32};
    unsigned seg = rnd(4);

    wide = seg % 2 == 0;
    user = seg >= 2;
    tables();
    stacks();
    load_tss();
    at = (uint8_t *)CODE;
    const char *name = ops[rnd(10)]();
    b(0xcd), b(0x80);
    long v = try_call(enter, (void *)(uint64_t)segs[seg]);
    uint64_t types = 0;
    for (unsigned i = 0; i < SLOTS; i++)
        types = types * 3 + (gdt[SEL_FREE / 8 + i] >> 40 & 0xff);
    /* The processors differ in whether a base stays where a null selector is loaded. */
    uint64_t f[] = {(uint64_t)v,
                    last.code,
                    last.rip,
                    last.cs & 0xffff,
                    last.flags & 0x267000, /* IOPL, NT, VM, AC, ID */
                    last.rsp,
                    last.ss & 0xffff,
                    v == 14 ? fault.cr2 : 0,
                    sel_seen[0],
                    sel_seen[1],
                    sel_seen[2],
                    sel_seen[3],
                    rdmsr(0xc0000100),
                    rdmsr(0xc0000101),
                    last.rax,
                    last.rcx,
                    last.rdx,
                    types};
    add(n);
    for (unsigned i = 0; i < sizeof(f) / sizeof(f[0]); i++)
        add(f[i]);
#if VERBOSE
    print("%u %s %x:", n, name, segs[seg]);
    for (unsigned i = 0; i < sizeof(f) / sizeof(f[0]); i++)
        print(" %lx", f[i]);
    print(" |");
    for (uint8_t *p = (uint8_t *)CODE; p < at; p++)
        print(" %x", *p);
    uint64_t *g = &gdt[(last.rax & 0xf8) / 8];
    print(" | %lx %lx\n", g[0], g[1]);
#else
    (void)name;
#endif
}

void test_main(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr;

    __asm__ volatile("sidt %0" : "=m"(idtr));
    idt = (uint64_t(*)[2])idtr.base;
    fill(LAND, LAND_END - LAND);
    fill(USER_AREA + LAND, LAND_END - LAND);
    fill(2 * USER_AREA + LAND, LAND_END - LAND);
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
