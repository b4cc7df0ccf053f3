/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Address line 20: random programs that switch it by port 92h and the keyboard controller, and
 * read, write, copy, execute and change code at addresses with bit 20, load descriptors and walk
 * page tables that lie there. Registers and memory after each make one sum, which QEMU 7.2 and
 * Bochs 2.7 have, too. Then real mode, where addresses wrap at 1 MiB, and large pages. For a whole
 * machine.
 */
#include "kern.h"

#ifndef SEED
#define SEED    1u
#define CASES   3000u
#define SUM     0xacbc3877u
#define VERBOSE 0
#endif
#include "code.h"
#include "sum.h"

#define CODE   0x60000u  /* the program: it runs whatever the line is */
#define EVEN   0x200000u /* what bit 20 is 0 in, and ... */
#define ODD    0x300000u /* ... the same with the bit */
#define FUNCS  0x4000u   /* from there on: functions */
#define WORDS  32u       /* looked at of each page */
#define TABLES 0x400000u /* a directory and two tables; others with bit 20 */
#define A20    0x100000u
#define LINEAR 0x800000u /* pages that only the tables know */
#define PAGES  4u

#define P92 0x92
#define KBD 0x64

static volatile uint32_t *word(uint32_t pa)
{
    __asm__("" : "+r"(pa)); /* compilers have opinions about low addresses */
    return (volatile uint32_t *)(unsigned long)pa;
}

/* ---- a program ------------------------------------------------------------------------------- */

static void port(unsigned p, unsigned v)
{
    b(0xb0), b(v); /* mov al, v */
    b(0xe6), b(p); /* out p, al */
}

static void gate(bool on)
{
    switch (rnd(3)) {
    case 0:
        port(P92, on ? 2 : 0);
        break;
    case 1:
        port(KBD, 0xd1);
        port(0x60, on ? 0xdf : 0xdd);
        break;
    default:
        port(KBD, on ? 0xdf : 0xdd);
        break;
    }
}

static void mix(void)
{
    b(0xc1), b(0xc3), b(7); /* rol ebx, 7 */
    b(0x01), b(0xc3);       /* add ebx, eax */
}

/* Of a word; at times its bytes are in two pages, and in two megabytes. */
static uint32_t address(bool paged)
{
    uint32_t page = rnd(3), half = rnd(2), n = rnd(WORDS - 1);

    if (paged && rnd(2) != 0)
        return LINEAR + 0x1000 * rnd(PAGES) + 4 * n;
    if (rnd(12) == 0)
        return ODD - 1 - rnd(3);
    return (half != 0 ? ODD : EVEN) + 0x1000 * page + 4 * n + (rnd(4) == 0 ? rnd(4) : 0);
}

static void call(uint32_t to)
{
    b(0xb8), d(to);   /* mov eax, to */
    b(0xff), b(0xd0); /* call eax */
    mix();
}

static void function(void)
{
    uint32_t f = (rnd(2) != 0 ? ODD : EVEN) + FUNCS + 16 * rnd(4);

    if (rnd(2) != 0) {
        b(0xc7), b(0x05), d(f + 1); /* mov dword [f + 1], v: its immediate */
        d(rnd(0x10000));
    }
    call(rnd(2) != 0 ? f : f ^ A20);
}

static void step(bool paged)
{
    switch (rnd(9)) {
    case 0:
    case 1:
        gate(rnd(2) != 0);
        break;
    case 2:
    case 3:
        b(0xa1), d(address(paged)); /* mov eax, [] */
        mix();
        break;
    case 4:
        b(0xc7), b(0x05), d(address(paged)); /* mov dword [], v */
        d(rnd(0x1000000));
        break;
    case 5:
        if (rnd(2) != 0)
            b(0xf0);
        b(0x81), b(0x05), d(address(paged)); /* add dword [], v */
        d(rnd(0x1000000));
        break;
    case 6:
        b(0xbe), d(address(paged) & ~3u); /* mov esi, edi, ecx; rep movsd */
        b(0xbf), d(rnd(3) == 0 ? ODD - 8 : address(false) & ~3u);
        b(0xb9), d(1 + rnd(4));
        b(0xf3), b(0xa5);
        break;
    case 7: /* mov es, SEL_FREE + 8n; mov eax, es:[]; mov es, SEL_DATA */
        b(0xb8), d(SEL_FREE + 8 * rnd(2));
        b(0x8e), b(0xc0), b(0x26), b(0xa1), d(4 * rnd(WORDS));
        mix();
        b(0xb8), d(SEL_DATA), b(0x8e), b(0xc0);
        break;
    default:
        function();
    }
}

static void paging(bool on)
{
    if (on) {
        b(0xb8), d(TABLES + (rnd(2) != 0 ? A20 : 0)); /* mov cr3, the directory */
        b(0x0f), b(0x22), b(0xd8);
    }
    b(0x0f), b(0x20), b(0xc0); /* mov eax, cr0 */
    if (on)
        b(0x0d), d(CR0_PG); /* or eax */
    else
        b(0x25), d(~CR0_PG); /* and eax */
    b(0x0f), b(0x22), b(0xc0);
}

static void program(void)
{
    bool paged = rnd(2) != 0;
    uint32_t steps = 3 + rnd(14);

    at = (uint8_t *)CODE;
    b(0x60);          /* pusha */
    b(0x31), b(0xdb); /* xor ebx, ebx */
    gate(rnd(2) != 0);
    if (paged)
        paging(true);
    while (steps-- != 0)
        step(paged);
    if (paged)
        paging(false);
    gate(true);
    b(0x89), b(0x1d), d(CODE + 0x2000); /* mov [], ebx */
    b(0x61), b(0xc3);                   /* popa; ret */
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void put_tables(uint32_t base, uint32_t salt)
{
    *word(base) = (base + 0x2000) | 0x27; /* when code is fetched is not the question */
    *word(base + 4 * (LINEAR >> 22)) = (base + 0x1000) | 7;
    for (uint32_t n = 0; n < PAGES; n++)
        *word(base + 0x1000 + 4 * n) =
            ((((n + salt) & 1) != 0 ? ODD : EVEN) + 0x1000 * ((n + salt) % 3)) | 7;
    for (uint32_t n = 0; n < 1024; n++)
        *word(base + 0x2000 + 4 * n) = n << 12 | 7;
}

static void prepare(void)
{
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t base = half != 0 ? ODD : EVEN;

        for (uint32_t page = 0; page < 3; page++)
            for (uint32_t n = 0; n < WORDS; n++)
                *word(base + 0x1000 * page + 4 * n) = half << 28 | page << 20 | n;
        for (uint32_t n = 0; n < 4; n++) {
            at = (uint8_t *)(unsigned long)(base + FUNCS + 16 * n);
            b(0xb8), d(half << 8 | n), b(0xc3); /* mov eax, v; ret */
        }
        *word(base + 0xffffc) = *word(base + 0xffff8) = half << 24;
    }
    put_tables(TABLES, 0);
    put_tables(TABLES + A20, 1);
}

static void add_memory(void)
{
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t base = half != 0 ? ODD : EVEN, t = TABLES + half * A20;

        for (uint32_t page = 0; page < 3; page++)
            for (uint32_t n = 0; n < WORDS; n++)
                sum = (sum << 7 | sum >> 25) * 31 + *word(base + 0x1000 * page + 4 * n);
        for (uint32_t n = 0; n < 4; n++)
            add(*word(base + FUNCS + 16 * n + 1));
        add(*word(base + 0xffff8)), add(*word(base + 0xffffc));
        add(*word(t)), add(*word(t + 4 * (LINEAR >> 22)));
        for (uint32_t n = 0; n < PAGES; n++)
            add(*word(t + 0x1000 + 4 * n));
    }
    add(sum);
}

static void run_cases(void)
{
    /* The table of descriptors has bit 20; without it: */
    uint64_t *alias = (uint64_t *)((unsigned long)gdt & ~(unsigned long)A20);

    gdt[SEL_FREE / 8] = 0x00cf93200000ffffull; /* EVEN */
    gdt[SEL_FREE / 8 + 1] = 0x00cf93300000ffffull;
    memcpy(alias, gdt, 31 * 8);
    alias[SEL_FREE / 8] = 0x00cf93201000ffffull; /* EVEN + 0x1000 */
    alias[SEL_FREE / 8 + 1] = 0x00cf93302000ffffull;
    for (uint32_t n = 0; n < CASES; n++) {
        prepare();
        program();
        ((void (*)(void))CODE)();
#if VERBOSE
        print("%u:", n);
#endif
        add(*word(CODE + 0x2000));
        add_memory();
#if VERBOSE
        print("\n");
#endif
    }
    CHECK(sum == SUM, "sum is %x", sum);
}

/* ---- real mode ------------------------------------------------------------------------------- */

/*
 * Copied to CODE: with the line as it is writes 1234h to FFFF:0500, calls FFFF:0600, which is mov
 * ax, n; retf at 1 MiB + 5f0h or at 5f0h, and comes back with [0:4f0h] and what AX was.
 */
uint32_t go_real(void);
extern uint8_t real_code[], real_end[];
__asm__(".text\n.globl go_real\ngo_real:\n"
        "  pushl %ebx\n pushl %ebp\n pushl %esi\n pushl %edi\n pushfl\n"
        "  movl %esp, 0x6f000\n"
        "  ljmpl $0x68, $0\n"
        "back32:\n"
        "  movw $0x10, %ax\n movw %ax, %ds\n movw %ax, %es\n movw %ax, %ss\n"
        "  movl 0x6f000, %esp\n movl 0x6f004, %eax\n"
        "  popfl\n popl %edi\n popl %esi\n popl %ebp\n popl %ebx\n ret\n"
        ".globl real_code, real_end\n"
        ".code16\nreal_code:\n"
        "  movw $0x70, %ax\n movw %ax, %ds\n movw %ax, %ss\n"
        "  movl %cr0, %eax\n andb $0xfe, %al\n movl %eax, %cr0\n"
        "  ljmp $0x6000, $(1f - real_code)\n"
        "1: movw $0x6000, %ax\n movw %ax, %ss\n movw $0x8000, %sp\n"
        "  movb $0, %al\n outb %al, $0x92\n"
        "  movw $0xffff, %ax\n movw %ax, %ds\n"
        "  movw $0x1234, 0x500\n"
        "  lcall $0xffff, $0x600\n"
        "  movw %ax, %cx\n"
        "  movb $2, %al\n outb %al, $0x92\n"
        "  shll $16, %ecx\n xorw %ax, %ax\n movw %ax, %ds\n movw 0x4f0, %cx\n"
        "  movl %ecx, %ss:0xf004\n"
        "  movl %cr0, %eax\n orb $1, %al\n movl %eax, %cr0\n"
        "  ljmpl $0x08, $back32\n"
        "real_end:\n.code32\n");

static void test_real(void)
{
    static const uint8_t low[] = {0xb8, 0x11, 0, 0xcb}, high[] = {0xb8, 0x22, 0, 0xcb};
    uint8_t kept[4];

    memcpy((void *)CODE, real_code, (size_t)(real_end - real_code));
    gdt[SEL_FREE / 8 + 2] = 0x00009b060000ffffull; /* 16-bit, CODE */
    gdt[SEL_FREE / 8 + 3] = 0x000093060000ffffull;
    memcpy((void *)word(0x5f0), low, 4);
    memcpy(kept, (void *)word(A20 + 0x5f0), 4); /* it may be ours */
    memcpy((void *)word(A20 + 0x5f0), high, 4);
    *word(0x4f0) = 0;
    uint32_t r = go_real();
    memcpy((void *)word(A20 + 0x5f0), kept, 4);
    CHECK(r == 0x111234, "real mode: %x", r);
}

/* ---- registers, large pages ------------------------------------------------------------------ */

static uint8_t output_port(void)
{
    outb(KBD, 0xd0);
    return inb(0x60);
}

static void test_gates(void)
{
    outb(P92, 2);
    outb(KBD, 0xd1);
    outb(0x60, 0xdf);
    CHECK((inb(P92) & 2) != 0 && (output_port() & 2) != 0, "on");
}

/* 4 MiB pages: bit 20 is in the offset, then in an address behind 4 MiB. */
static void test_large(void)
{
    *word(TABLES) = 0x83, *word(TABLES + 4) = 0x83; /* 0 and 4 MiB: the first 4 MiB */
    *word(EVEN) = 0x11, *word(ODD) = 0x22;
    at = (uint8_t *)CODE;
    b(0x60);
    port(P92, 0);
    paging(true);
    b(0xa1), d(0x400000 + ODD); /* mov eax, [] */
    b(0x89), b(0xc3);           /* mov ebx, eax */
    paging(false);
    port(P92, 2);
    b(0x89), b(0x1d), d(CODE + 0x2000);
    b(0x61), b(0xc3);
    wr_cr4(rd_cr4() | CR4_PSE);
    ((void (*)(void))CODE)();
    wr_cr4(rd_cr4() & ~CR4_PSE);
    CHECK(*word(CODE + 0x2000) == 0x11, "large page: %x", *word(CODE + 0x2000));
}

void test_main(void)
{
    run_cases();
    test_real();
    test_gates();
    test_large();
}
