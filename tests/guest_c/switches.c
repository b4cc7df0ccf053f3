/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random task switches: by JMP, CALL, INT and IRET, to 32-bit and 16-bit tasks, through gates and
 * without, with random descriptors, registers and selectors in the new task, at levels 0 and 3. The
 * faults that come of it are taken by tasks of their own, so that what was saved of the faulting
 * task can be looked at. All that was left in registers, task state segments and descriptors makes
 * one sum, which Bochs 2.7 has, too (corei7_skylake_x). With -DVERBOSE=1 a line for each case.
 */
#include "kern.h"

#ifndef SEED
#define SEED    1u
#define CASES   6000u
#define SUM     0x17997860u
#define VERBOSE 0
#endif
#include "code.h"
#include "sum.h"

#define CODE     USER_AREA /* what runs */
#define LAND     0x1000u   /* from here on, behind 0 and USER_AREA, everything is INT 80h */
#define LAND_END 0xf000u
/* Stacks, also by their lower 16 bits, are above that. */
#define STACK0    0x9ff00u
#define STACK3    (USER_AREA + 0x1eff00u)
#define FIRST_INT 0x90u
#define INTS      4u

/* Descriptors: the task that all begins in, tasks to switch to, a gate, those that take faults. */
#define SEL_MAIN  SEL_LDT
#define SEL_A     (SEL_FREE + 0u)
#define SEL_B     (SEL_FREE + 8u)
#define SEL_C     (SEL_FREE + 16u)
#define SEL_GATE  (SEL_FREE + 24u)
#define SEL_FAULT (SEL_FREE + 32u)
#define FAULTS    8u
#define SEL_SS16  (SEL_FAULT + 8 * FAULTS) /* for level 0, then for level 3 */
#define SEL_SEG   (SEL_SS16 + 16u)
#define SEGS      6u
#define TASKS     3u

#define TYPE_TSS16 1u
#define TYPE_TSS32 9u
#define BUSY       2u

/* Words of a 32-bit TSS; of a 16-bit one, half of them. */
enum {
    LINK,
    ESP0,
    SS0,
    CR3 = 7,
    EIP,
    EFLAGS,
    EAX,
    ECX,
    EDX,
    EBX,
    ESP,
    EBP,
    ESI,
    EDI,
    ES,
    CS,
    SS,
    DS,
    FS,
    GS,
    LDT,
    MAP,
    TSS_WORDS
};
static uint32_t tss_main[TSS_WORDS], task[TASKS][TSS_WORDS], fault_task[FAULTS][TSS_WORDS];
static uint32_t fault_stack[64];
static const uint8_t fault_vector[FAULTS] = {1, 6, 8, 10, 11, 12, 13, 0x80};

/* ---- how a case ends ------------------------------------------------------------------------- */

/* Back to the first task, whatever the present one is. */
static void load_main(void)
{
    gdt[SEL_MAIN / 8] = 103 | (uint64_t)((uint32_t)tss_main & 0xffffff) << 16 | 0x89ull << 40 |
                        (uint64_t)((uint32_t)tss_main >> 24) << 56;
    __asm__ volatile("clts\n\tltr %w0\n\tlldt %w1\n\t"
                     "pushfl\n\tandl $0xffffbfff, (%%esp)\n\tpopfl" /* no NT */
                     :
                     : "r"(SEL_MAIN), "r"(0)
                     : "memory", "cc");
}

static struct {
    uint32_t vector, code, tr, cr0;
} seen;

/* These tasks begin with the vector in EAX, and an error code, if there is one, on the stack. */
void faulted(uint32_t vector, uint32_t code);
void faulted(uint32_t vector, uint32_t code)
{
    seen.vector = vector;
    seen.code = code;
    seen.cr0 = rd_cr0();
    __asm__ volatile("str %0" : "=r"(seen.tr));
    try_abandon((long)vector);
}
__asm__(".globl faulted_entry\nfaulted_entry:\n\tcld\n\tpushl %eax\n\tpushl $0\n\tjmp faulted\n");
extern uint8_t faulted_entry[];

static void fault_tasks(void)
{
    for (unsigned i = 0; i < FAULTS; i++) {
        uint32_t *t = fault_task[i], base = (uint32_t)t;
        memset(t, 0, sizeof(fault_task[i]));
        t[EIP] = (uint32_t)faulted_entry;
        t[EFLAGS] = 2;
        t[EAX] = fault_vector[i];
        t[ESP] = (uint32_t)(fault_stack + 60);
        t[CS] = SEL_CODE32;
        t[SS] = t[DS] = t[ES] = SEL_DATA;
        t[MAP] = 104u << 16;
        gdt[SEL_FAULT / 8 + i] =
            103 | (uint64_t)(base & 0xffffff) << 16 | 0x89ull << 40 | (uint64_t)(base >> 24) << 56;
        uint64_t type = fault_vector[i] == 0x80 ? 0xe5 : 0x85;
        set_raw_gate(fault_vector[i], (uint64_t)(SEL_FAULT + 8 * i) << 16 | type << 40);
    }
}

/* ---- tables ---------------------------------------------------------------------------------- */

static uint32_t level(void)
{
    return rnd(3) == 0 ? rnd(4) : rnd(2) * 3;
}

static uint32_t selector(void)
{
    static const uint16_t fixed[] = {0,         SEL_CODE32, SEL_DATA, SEL_UCODE32,
                                     SEL_UDATA, SEL_FAULT,  SEL_MAIN, SEL_A};

    if (rnd(8) == 0) {
        uint32_t one = fixed[rnd(8)] & ~3u;
        return one | level();
    }
    if (rnd(40) == 0)
        return rnd(0x10000);
    uint32_t sel = SEL_SEG + 8 * rnd(SEGS);
    return sel | level();
}

static uint64_t segment(void)
{
    static const uint32_t limits[] = {0xfffff, 0x7fff, 0xffff, 0xfffff, 0x4ffff, 0x10};
    uint32_t limit = limits[rnd(6)];
    uint64_t base = rnd(4) == 0 ? USER_AREA : 0;
    uint64_t type = 0x10 | rnd(16), dpl = rnd(4) == 0 ? rnd(4) : rnd(2) * 3;
    uint64_t flags = rnd(4) << 2; /* G, D */

    if (rnd(6) == 0)
        type = rnd(3) != 0 ? 2 : rnd(16); /* LDT */
    uint64_t p = rnd(10) != 0;
    return (limit & 0xffff) | (uint64_t)(limit >> 16) << 48 | (base & 0xffffff) << 16 |
           (base >> 24) << 56 | (type | dpl << 5 | p << 7) << 40 | flags << 52;
}

static uint32_t task_selector(void)
{
    uint32_t sel = rnd(16) == 0 ? selector() : SEL_A + 8 * rnd(TASKS);
    return (sel & ~3u) | (rnd(3) == 0 ? rnd(4) : 0);
}

static uint64_t task_gate(void)
{
    uint64_t sel = task_selector(), dpl = rnd(3) == 0 ? rnd(4) : 3, p = rnd(12) != 0;
    return sel << 16 | (5 | dpl << 5 | p << 7) << 40;
}

static uint32_t target(void)
{
    return LAND + (rnd(LAND_END - LAND) & ~1u);
}

/* A value of each register, most of which work. */
static void fill_task(uint32_t *t, bool vm)
{
    uint32_t rpl = rnd(2) * 3, flags = 2 | (rnd(0x10000) & 0x7cd5);
    unsigned odd = rnd(3) == 0 ? TSS_WORDS : ES + rnd(7); /* none, or one of ES to LDT */

    if (rnd(3) != 0)
        flags &= ~0x4100u; /* NT, TF */
    if (vm)
        flags |= 0x20000;
    flags |= rnd(4) == 0 ? 0x240000 & rnd(0x400000) : 0;
    for (unsigned i = 0; i < TSS_WORDS; i++)
        t[i] = rnd(0xffffffff);
    t[ESP0] = STACK0;
    t[SS0] = SEL_DATA;
    t[CR3] = 0;
    t[EIP] = rnd(2) != 0 ? USER_AREA : 0;
    t[EIP] += target();
    t[EFLAGS] = flags;
    t[ESP] = rpl != 0 ? STACK3 : STACK0;
    t[CS] = rpl != 0 ? SEL_UCODE32 : SEL_CODE32;
    t[SS] = rpl != 0 ? SEL_UDATA : SEL_DATA;
    /* One that is random: which of several bad ones is met first is not said anywhere. */
    for (unsigned r = ES; r <= LDT; r++) {
        if (r == odd)
            t[r] = r == CS ? (selector() & ~3u) | rpl : selector();
        else if (r != CS && r != SS)
            t[r] = r == LDT || rnd(4) == 0 ? 0 : SEL_UDATA;
        t[r] |= rnd(0x10000) << 16; /* is not looked at */
    }
    uint32_t ss = t[SS] & 0xfffc; /* where it is known, so that handlers find what they push */
    if (ss >= SEL_SEG && ss < SEL_SEG + 8 * SEGS)
        gdt[ss / 8] &= ~(0xffull << 56 | 0xffffffull << 16);
    t[MAP] = 104u << 16 | (rnd(16) == 0); /* T */
    if ((flags & 0x20000) != 0) {
        t[CS] = 0x10;
        t[EIP] = target() & 0xffff;
    }
}

/*
 * The same for a 16-bit task, whose registers are words in another order. Its stacks are 16-bit
 * ones: the upper half of ESP is not defined.
 */
static void pack16(uint32_t *t)
{
    static const uint8_t order[] = {EIP, EFLAGS, EAX, ECX, EDX, EBX, ESP, EBP,
                                    ESI, EDI,    ES,  CS,  SS,  DS,  LDT};
    uint16_t w[22] = {0};
    uint32_t ss = t[SS] & 0xfffc;

    w[0] = (uint16_t)t[LINK];
    w[1] = (uint16_t)STACK0;
    w[2] = SEL_SS16;
    if (ss == SEL_DATA || ss == (SEL_UDATA & ~3u))
        t[SS] = ss == SEL_DATA ? SEL_SS16 : SEL_SS16 + 11;
    else if (ss >= SEL_SEG && ss < SEL_SEG + 8 * SEGS)
        gdt[ss / 8] &= ~(1ull << 54);
    for (unsigned i = 0; i < sizeof(order); i++)
        w[7 + i] = (uint16_t)t[order[i]];
    memcpy(t, w, sizeof(w));
}

static void tables(void)
{
    static const uint32_t limits[] = {103, 103, 103, 103, 43, 43, 42, 102, 0xffff};

    gdt[SEL_SS16 / 8] = 0x000093000000ffff;
    gdt[SEL_SS16 / 8 + 1] = 0x0000f3000000ffff;
    for (unsigned i = 0; i < SEGS; i++)
        gdt[SEL_SEG / 8 + i] = segment();
    for (unsigned i = 0; i < TASKS; i++) {
        uint32_t type = rnd(3) != 0 ? TYPE_TSS32 : TYPE_TSS16, base = (uint32_t)task[i];
        uint64_t p = rnd(16) != 0, dpl = rnd(3) == 0 ? rnd(4) : 3;
        fill_task(task[i], type == TYPE_TSS32 && rnd(8) == 0);
        if (type == TYPE_TSS16)
            pack16(task[i]);
        uint32_t limit = limits[rnd(9)];
        if (type == TYPE_TSS32 && rnd(4) != 0)
            limit = 103;
        type |= rnd(i == 2 ? 2 : 6) == 0 ? BUSY : 0;
        gdt[SEL_A / 8 + i] = limit | (uint64_t)(base & 0xffffff) << 16 |
                             (type | dpl << 5 | p << 7) << 40 | (uint64_t)(base >> 24) << 56;
    }
    gdt[SEL_GATE / 8] = task_gate();
    for (unsigned i = 0; i < INTS; i++)
        set_raw_gate(FIRST_INT + i, task_gate());
}

/* ---- code ------------------------------------------------------------------------------------ */

static const char *emit(bool user)
{
    uint32_t n = rnd(8);

    if (n >= 6 && !user) { /* pushfd; or [esp], NT; popfd; iret */
        tss_main[LINK] = task_selector();
        tss_main[LINK] |= rnd(0x10000) << 16;
        b(0x9c), b(0x81), b(0x0c), b(0x24), d(0x4000), b(0x9d);
        if (rnd(4) == 0)
            b(0x66);
        b(0xcf);
        return "iret";
    }
    if (n >= 4) {
        b(0xcd), b(FIRST_INT + rnd(INTS));
        return "int";
    }
    uint32_t sel = rnd(3) == 0 ? SEL_GATE | level() : task_selector();
    b(n < 2 ? 0x9a : 0xea);
    d(target());
    b(sel), b(sel >> 8);
    return n < 2 ? "call" : "jump";
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void run0(void *p)
{
    __asm__ volatile(
        "mov %1, %%ds\n\tmov %1, %%es\n\tmov %1, %%fs\n\tmov %1, %%gs\n\t"
        "mov $0x11111111, %%eax\n\tmov $0x22222222, %%ecx\n\tmov $0x33333333, %%edx\n\t"
        "mov $0x44444444, %%ebx\n\tjmp *%0"
        :
        : "D"(p), "S"(SEL_DATA)
        : "memory", "eax", "ecx", "edx", "ebx");
}

static void fill(uint32_t from, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 2)
        *(volatile uint16_t *)(from + i) = 0x80cd; /* int 80h */
}

static void one(unsigned n)
{
    bool user = rnd(3) == 0;

    memset(fault_stack, 0, sizeof(fault_stack));
    fault_tasks();
    tables();
    memset(tss_main, 0, sizeof(tss_main));
    tss_main[ESP0] = TSS_STACK;
    tss_main[SS0] = SEL_DATA;
    __asm__ volatile("mov %0, %%gs"
                     :
                     : "r"(0)); /* a null selector with a level stays one in Bochs */
    tss_main[MAP] = 104u << 16;
    load_main();
    at = (uint8_t *)CODE;
    const char *name = emit(user);
    b(0xcd), b(0x80);
#if VERBOSE
    print("%u %s %d:", n, name, user ? 3 : 0);
#else
    (void)name;
#endif
    (void)(user ? try_user(CODE, 0) : try_call(run0, (void *)CODE));
    uint64_t main_type = gdt[SEL_MAIN / 8] >> 40 & 0xff;
    load_main();
    add(n);
    add(seen.vector);
    add(seen.code);
    add(seen.tr & 0xffff);
    add(seen.cr0 & 8); /* TS */
    add((uint32_t)main_type);
    for (unsigned i = 0; i < SEGS; i++)
        add((uint32_t)(gdt[SEL_SEG / 8 + i] >> 40) & 0xff);
#if VERBOSE
    print(" main");
#endif
    for (unsigned i = 0; i < TSS_WORDS; i++) {
        if (i < ESP || i > EDI) /* which are the compiler's, as the arithmetic flags are */
            add(i == EFLAGS ? tss_main[i] & ~0x8d5u : tss_main[i]);
    }
    for (unsigned k = 0; k < TASKS; k++) {
#if VERBOSE
        print(" task %x 0", k);
#endif
        add((uint32_t)(gdt[SEL_A / 8 + k] >> 40) & 0xff);
        for (unsigned i = 0; i < TSS_WORDS; i++)
            add(task[k][i]);
    }
#if VERBOSE
    print(" fault");
#endif
    for (unsigned k = 0; k < FAULTS; k++)
        add(fault_task[k][LINK]);
#if VERBOSE
    print("\n");
#endif
}

void test_main(void)
{
    fill(LAND, LAND_END - LAND);
    fill(USER_AREA + LAND, LAND_END - LAND);
    fill(2 * USER_AREA + LAND, LAND_END - LAND);
    for (unsigned n = 0; n < CASES; n++)
        one(n);
#ifdef SUM
    CHECK(sum == SUM, "the sum is %x, not %x", sum, SUM);
#else
    print("seed %u: %x\n", SEED, sum);
#endif
}
