/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two processors and one memory: locked instructions of each kind, width and place, the order that
 * others see stores in (SDM 3A 9.2), mappings taken away and code changed under the other one's
 * feet. For a whole machine.
 */
#include "kern.h"

#define LAPIC   0xfee00000ul
#define SVR     0xf0
#define EOI     0xb0
#define ICR     0x300
#define ICR2    0x310
#define VECTOR  0x40
#define START   0x8000 /* where the other processor begins */
#define ROUNDS  20000u
#define FENCES  25u
#define SWAPS   20u
#define WINDOW  (USER_AREA + 0x100000ul) /* a page of it is mapped by a table of its own */
#define PAGE_AT 0x800000ul

static void wr(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(LAPIC + reg) = v;
}

/* From real to 64-bit mode with the tables of the first processor, then second(). */
extern const char ap_start[], ap_end[];
void second(void);
__asm__(".pushsection .rodata\n"
        ".code16\n"
        "ap_start: cli\n"
        "lgdtl %cs:ap_gdtr - ap_start\n"
        "mov $0x620, %eax\n"
        "mov %eax, %cr4\n"
        "mov $0x10000, %eax\n" /* PT_BASE */
        "mov %eax, %cr3\n"
        "mov $0xc0000080, %ecx\n"
        "mov $0x901, %eax\n"
        "xor %edx, %edx\n"
        "wrmsr\n"
        "mov $0x80010033, %eax\n"
        "mov %eax, %cr0\n"
        "ljmpl $0x18, $ap_64\n"
        "ap_gdtr: .word 255\n"
        ".long gdt\n"
        "ap_end: .popsection\n"
        ".pushsection .text\n"
        ".code64\n"
        "ap_64: mov $0x10, %eax\n"
        "mov %eax, %ds\n"
        "mov %eax, %es\n"
        "mov %eax, %ss\n"
        "lidt idtr_of_first(%rip)\n"
        "mov $0x78000, %esp\n"
        "call second\n"
        ".popsection");

struct {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed)) idtr_of_first;

/* ---- together ---------------------------------------------------------------------------------
 */

static void (*volatile work)(unsigned me);
static volatile unsigned step[2] __attribute__((aligned(64)));

static void pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

/* Both wait here for the other one. */
static void meet(unsigned me)
{
    unsigned n = step[me] + 1;

    __asm__ volatile("mfence" : : : "memory");
    step[me] = n;
    while ((int)(step[!me] - n) < 0)
        pause();
}

void second(void)
{
    wr(SVR, 0x1ff);
    for (;;) {
        meet(1);
        work(1);
        meet(1);
    }
}

static void both(void (*fn)(unsigned me))
{
    work = fn;
    meet(0);
    fn(0);
    meet(0);
}

/* ---- locked instructions ----------------------------------------------------------------------
 */

static uint8_t *place; /* of the operand */
static unsigned width;

#define LOCKED(insn, v)                                                                            \
    do {                                                                                           \
        if (width == 1)                                                                            \
            __asm__ volatile(insn "b %b0, %1" : "+q"(v), "+m"(*place) : : "memory", "cc");         \
        else if (width == 2)                                                                       \
            __asm__ volatile(insn "w %w0, %1" : "+r"(v), "+m"(*place) : : "memory", "cc");         \
        else if (width == 4)                                                                       \
            __asm__ volatile(insn "l %k0, %1" : "+r"(v), "+m"(*place) : : "memory", "cc");         \
        else                                                                                       \
            __asm__ volatile(insn "q %0, %1" : "+r"(v), "+m"(*place) : : "memory", "cc");          \
    } while (0)

static void count_add(unsigned me)
{
    (void)me;
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned long one = 1;
        LOCKED("lock add", one);
    }
}
static void count_xadd(unsigned me)
{
    (void)me;
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned long one = 1;
        LOCKED("lock xadd", one);
    }
}
/* Even and odd bits by one processor each; an even number of changes leaves them as they were. */
static void flip(unsigned me)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned long bits = (me != 0 ? 0xaaaaaaaaaaaaaaaa : 0x5555555555555555);
        LOCKED("lock xor", bits);
    }
}
/* What is taken out by XCHG is put back by ADD: nothing gets lost. */
static void take(unsigned me)
{
    (void)me;
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned long v = 0;
        LOCKED("xchg", v);
        LOCKED("lock add", v);
    }
}
static void count_cmpxchg(unsigned me)
{
    (void)me;
    for (unsigned i = 0; i < ROUNDS / 4; i++) {
        bool done = false;
        while (!done) {
            uint64_t old = *(volatile uint64_t *)place, new = old + 1;
            __asm__ volatile("lock cmpxchgq %3, %1\n\tsetz %0"
                             : "=q"(done), "+m"(*(uint64_t *)place), "+a"(old)
                             : "r"(new)
                             : "memory", "cc");
        }
    }
}
static void count_16(unsigned me)
{
    (void)me;
    for (unsigned i = 0; i < ROUNDS / 4; i++) {
        bool done = false;
        uint64_t lo = 0, hi = 0;
        while (!done)
            __asm__ volatile("mov %2, %%rbx\n\tadd $1, %%rbx\n\tmov %3, %%rcx\n\tadc $0, %%rcx\n\t"
                             "lock cmpxchg16b %1\n\tsetz %0"
                             : "=q"(done), "+m"(*(uint64_t(*)[2])place), "+a"(lo), "+d"(hi)
                             :
                             : "rbx", "rcx", "memory", "cc");
    }
}

static uint64_t value(void)
{
    uint64_t v = 0;
    memcpy(&v, place, width);
    return v;
}

static uint64_t cut(uint64_t v)
{
    return width == 8 ? v : v & ((1ull << (8 * width)) - 1);
}

/* Operands that are aligned, across lines of the cache, across pages. */
static void locked(void)
{
    static const unsigned at[] = {0x100, 0x17f, 0x0fff};

    for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++)
        for (width = 1; width <= 8; width *= 2) {
            place = (uint8_t *)PAGE_AT + at[i];
            memset(place, 0, 8);
            both(count_add);
            CHECK(value() == cut(2 * ROUNDS), "ADD, %u at %x: %lx", width, at[i], value());
            memset(place, 0, 8);
            both(count_xadd);
            CHECK(value() == cut(2 * ROUNDS), "XADD, %u at %x: %lx", width, at[i], value());
            memset(place, 0x3c, 8);
            both(flip);
            CHECK(value() == cut(0x3c3c3c3c3c3c3c3c), "XOR, %u at %x: %lx", width, at[i], value());
            memset(place, 0x3c, 8);
            both(take);
            CHECK(value() == cut(0x3c3c3c3c3c3c3c3c), "XCHG, %u at %x: %lx", width, at[i], value());
        }
    width = 8;
    for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        place = (uint8_t *)PAGE_AT + at[i];
        memset(place, 0, 8);
        both(count_cmpxchg);
        CHECK(value() == 2 * (ROUNDS / 4), "CMPXCHG at %x: %lx", at[i], value());
    }
    place = (uint8_t *)PAGE_AT + 0x200;
    memset(place, 0, 16);
    *(uint64_t *)place = ~0ull - 10;
    both(count_16);
    CHECK(((uint64_t *)place)[1] == 1 && value() == 2 * (ROUNDS / 4) - 11, "CMPXCHG16B: %lx",
          value());
}

/* ---- order ------------------------------------------------------------------------------------
 */

static volatile uint64_t data __attribute__((aligned(64))), flag __attribute__((aligned(64)));
static volatile uint64_t seen[2] __attribute__((aligned(64)));
static volatile unsigned wrong;

/* Stores are seen in the order they were made in; loads do not overtake each other. */
static void message(unsigned me)
{
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        if (me == 0) {
            data = i;
            flag = i;
        } else {
            uint64_t f = flag, d = data;
            if (d < f)
                wrong++;
        }
    }
}

/* With MFENCE between its store and its load not both can miss the other's store. */
static void fenced(unsigned me)
{
    volatile uint64_t *mine = me == 0 ? &data : &flag, *other = me == 0 ? &flag : &data;

    for (unsigned i = 1; i <= FENCES; i++) {
        meet(me);
        *mine = i;
        __asm__ volatile("mfence" : : : "memory");
        seen[me] = *other;
        meet(me);
        if (me == 0 && seen[0] != i && seen[1] != i)
            wrong++;
    }
}

static void order(void)
{
    wrong = 0;
    data = flag = 0;
    both(message);
    CHECK(wrong == 0, "stores seen out of order: %u", wrong);
    data = flag = 0;
    both(fenced);
    CHECK(wrong == 0, "MFENCE: %u", wrong);
}

/* ---- mappings and code ------------------------------------------------------------------------
 */

static uint64_t table[512] __attribute__((aligned(4096)));
static volatile unsigned acks, stop;

/* The other processor's handler: forget the page; IRET serializes. */
static bool on_vector(struct regs *r)
{
    if (r->vector != VECTOR)
        return false;
    invlpg(WINDOW);
    acks++;
    wr(EOI, 0);
    return true;
}

static void tell(void)
{
    unsigned a = acks;

    wr(ICR2, 1u << 24);
    wr(ICR, 0x4000 | VECTOR);
    while (acks == a)
        pause();
}

/* The other one reads the page, and calls what is in it, all the time. */
static void mapped(unsigned me)
{
    volatile uint64_t *shown = (uint64_t *)(WINDOW + 8);

    if (me != 0) {
        __asm__ volatile("sti");
        while (stop == 0) {
            uint64_t v = *shown, r;
            __asm__ volatile("call *%1" : "=a"(r) : "r"(WINDOW) : "memory");
            seen[1] = v;
            data = r;
            flag++;
        }
        __asm__ volatile("cli");
        return;
    }
    for (unsigned i = 0; i < SWAPS; i++) {
        /* MOV EAX, i; RET in the one of two pages that is not mapped, or in the one that is. */
        unsigned page = i / 2 & 1;
        uint8_t *p = (uint8_t *)(PAGE_AT + 0x4000 + 0x1000 * page);

        p[1] = (uint8_t)i;
        *(volatile uint64_t *)(p + 8) = i;
        table[(WINDOW >> 12) & 511] = (unsigned long)p | 3;
        tell();
        for (uint64_t f = flag + 2; (int64_t)(flag - f) < 0;)
            pause();
        if (seen[1] != i || data != i)
            wrong++;
    }
    stop = 1;
}

static void mappings(void)
{
    uint64_t *pd = (uint64_t *)(PT_BASE + 0x2000);

    for (unsigned i = 0; i < 512; i++)
        table[i] = ((WINDOW & ~0x1ffffful) + 0x1000 * i) | 3;
    for (unsigned k = 0; k < 2; k++)
        memcpy((void *)(PAGE_AT + 0x4000 + 0x1000 * k), (const uint8_t[]){0xb8, 0, 0, 0, 0, 0xc3},
               6);
    table[(WINDOW >> 12) & 511] = (PAGE_AT + 0x4000) | 3;
    pd[WINDOW >> 21] = (unsigned long)table | 3;
    wr_cr3(rd_cr3());
    wrong = stop = 0;
    exc_hook = on_vector;
    both(mapped);
    exc_hook = NULL;
    CHECK(wrong == 0 && acks == SWAPS, "pages and code of the other processor: %u, %u acknowledged",
          wrong, acks);
}

void test_main(void)
{
    __asm__ volatile("sidt %0" : "=m"(idtr_of_first));
    memcpy((void *)START, ap_start, (size_t)(ap_end - ap_start));
    wr(SVR, 0x1ff);
    wr(ICR, 0xc4500);
    wr(ICR, 0xc4600 | START >> 12);
    locked();
    order();
    mappings();
}
