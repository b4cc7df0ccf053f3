/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Faults whose delivery faults, 32-bit: random gates, handlers' segments, stacks of level 0 and IDT
 * limits, then an exception of each kind at level 0 and 3; double faults go through a task gate.
 * Which handler gets it in the end, with what error code, address and frame, or what the task
 * switch saved, makes one sum, which Bochs 2.7 has, too.
 */
#include "kern.h"

#ifndef SEED
#define SEED    1u
#define CASES   20000u
#define SUM     0xcbe386adu
#define VERBOSE 0
#endif
#include "code.h"
#include "sum.h"

#define CODE    (USER_AREA + 0x1000u)
#define HOLE    0x800000u /* 4 MiB that are not mapped */
#define STACKS  (USER_AREA + 0x180000u)
#define TABLE   0x70000u /* page directory */
#define DF      8
#define CR0_TS  8u
#define SEL_DF  SEL_FREE           /* TSS of double faults */
#define SEL_NOW (SEL_FREE + 8)     /* TSS of the cases */
#define SEL_T   (SEL_FREE + 0x10u) /* segments to choose from */
#define SEGS    12u

extern uint8_t exc_stubs[];
static uint32_t tss_now[26], tss_df[26];
static uint64_t idt[256] __attribute__((aligned(16)));

/* ---- tables ---------------------------------------------------------------------------------- */

static void segments(void)
{
    static const uint64_t s[SEGS] = {
        0x00cf9b000000ffff, /* code */
        0x00cf1b000000ffff, /* code, not present */
        0x00cffb000000ffff, /* code of level 3 */
        0x00009b000000ffff, /* 16-bit code: the handler is not in it */
        0x00cf98000000ffff, /* code that cannot be read */
        0x00cf93000000ffff, /* data */
        0x00cf13000000ffff, /* data, not present */
        0x00cff3000000ffff, /* data of level 3 */
        0x00cf91000000ffff, /* data that cannot be written */
        0x004093000000000f, /* data of 16 bytes */
        0x00cf97000000ffff, /* data that expands down: nothing */
        0x0000090000000067, /* a TSS, not present */
    };
    for (unsigned i = 0; i < SEGS; i++)
        gdt[SEL_T / 8 + i] = s[i];
}

static uint32_t selector(void)
{
    if (rnd(8) == 0)
        return rnd(2) != 0 ? rnd(4) : 0x1000 + rnd(64);
    return SEL_T + 8 * rnd(SEGS) + (rnd(4) == 0 ? rnd(4) : 0) + (rnd(12) == 0 ? 4 : 0);
}

static void make_gate(unsigned vector)
{
    uint64_t off = (uint64_t)(unsigned long)exc_stubs + 16 * vector;
    uint64_t sel = SEL_CODE32, type = 14, p = 1, dpl = 3;

    if (vector == DF) {
        idt[DF] = (uint64_t)SEL_DF << 16 | 0x85ull << 40;
        return;
    }
    switch (rnd(8)) {
    case 0:
        p = 0;
        break;
    case 1: /* not those of 16 bits: they cut the handler's address */
        type = rnd(2) != 0 ? 15 : rnd(4);
        break;
    case 2:
    case 3:
        sel = selector();
        break;
    case 4:
        dpl = rnd(4);
        break;
    default:
        break;
    }
    idt[vector] = (off & 0xffff) | sel << 16 | (type | dpl << 5 | p << 7) << 40 | (off >> 16) << 48;
}

static void load_idt(uint32_t base, uint16_t limit)
{
    struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) idtr = {limit, base};
    __asm__ volatile("lidt %0" : : "m"(idtr));
}

static uint32_t stack(uint32_t good)
{
    uint32_t n = rnd(8);
    return n == 0 ? HOLE + 0x800 : n == 1 ? HOLE + 8 : n == 2 ? 4 * rnd(8) : good - rnd(2);
}

static void load_tables(void)
{
    static const uint8_t cut[] = {9, 10, 11, 12, 13, 14, 15, 0x90};
    uint32_t base = (uint32_t)(unsigned long)idt;
    uint16_t limit = 0x7ff;
    unsigned k = cut[rnd(8)];

    for (unsigned v = 0; v < 32; v++)
        make_gate(v);
    make_gate(0x90);
    if (rnd(8) == 0) {
        base = HOLE - 8 * k;
        memcpy((void *)(unsigned long)base, idt, 8 * k);
    }
    if (rnd(8) == 0)
        limit = (uint16_t)(8 * k - (k == 9 || rnd(2) != 0 ? 1 : 5));
    memset(tss_now, 0, sizeof(tss_now));
    tss_now[1] = stack(STACKS + 0x1000);
    tss_now[2] = rnd(3) == 0 ? selector() : SEL_DATA;
    tss_now[7] = TABLE;
    tss_now[25] = 104 << 16;
    gdt[SEL_NOW / 8] &= ~(2ull << 40);
    gdt[SEL_DF / 8] &= ~(2ull << 40);
    memset(tss_df, 0, sizeof(tss_df));
    tss_df[7] = TABLE;
    tss_df[8] = (uint32_t)(unsigned long)exc_stubs + 16 * DF;
    tss_df[9] = 2;
    tss_df[14] = STACKS + 0x2000;
    tss_df[18] = tss_df[20] = tss_df[21] = SEL_DATA;
    tss_df[19] = SEL_CODE32;
    tss_df[25] = 104 << 16;
    __asm__ volatile("pushf\n\tandl $~0x4000, (%%esp)\n\tpopf\n\tltr %w0" : : "r"(SEL_NOW));
    load_idt(base, limit);
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

static void program(void)
{
    uint32_t sel;

    at = (uint8_t *)(unsigned long)CODE;
    b(0xbc), d(stack(STACKS + 0x800)); /* mov esp */
    switch (rnd(15)) {
    case 0:
        b(0x0f), b(0x0b); /* ud2 */
        break;
    case 1:
        b(0x31), b(0xc9), b(0xf7), b(0xf1); /* xor ecx, ecx; div ecx */
        break;
    case 2:
        b(0xcc); /* int3 */
        break;
    case 3:
        b(0xcd), b(0x90); /* int */
        break;
    case 4:
        b(0xa1), d(HOLE + 4 * rnd(1000)); /* mov eax, [] */
        break;
    case 5: /* mov es; mov eax, es:[] */
        b(0xb8), d(selector()), b(0x8e), b(0xc0), b(0x26), b(0xa1), d(rnd(24));
        break;
    case 6:
        b(0xb8), d(selector()), b(0x8e), b(0xd0), b(0x50); /* mov ss; push */
        break;
    case 7:
        b(0xb8), d(selector()), b(0x8e), b(0xd0), b(0x0f), b(0x0b); /* mov ss; ud2 */
        break;
    case 8:
        b(0x50); /* push */
        break;
    case 9: /* push 2, selector, 0; iret */
        b(0x6a), b(2), b(0x68), d(selector()), b(0x68), d(CODE + 0x900), b(0xcf);
        break;
    case 10:
        b(0xd9), b(0xc0); /* fld st */
        break;
    case 11:
        b(0xf1); /* int1 */
        break;
    case 12:
        b(0x62), b(0x05), d(CODE + 0x800); /* bound eax */
        break;
    case 13:
        sel = selector(); /* Bochs pushes before it looks at the limit */
        b(0x9a), d(CODE + 0x900), b((sel & 0xfff8) == SEL_T + 0x18 ? SEL_CODE32 : sel), b(0);
        break;
    default:
        b(0x68), d(0x100 | 2), b(0x9d), b(0x90); /* push TF; popf; nop */
    }
    b(0x0f), b(0x0b);
}

/* Where handlers are depends on the compiler. */
static uint32_t place(uint32_t la)
{
    return la - (uint32_t)(unsigned long)exc_stubs < 0x1000 ? 0xffff : la;
}

static bool on_event(struct regs *r)
{
    add(r->vector), add(r->code), add((uint32_t)(unsigned long)r), add(place(rd_cr2()));
    if (r->vector == DF) {
        add(place(tss_now[8])), add(tss_now[9] & 0x10300), add(tss_now[14]);
        add(tss_now[19]), add(tss_now[20]);
        return false;
    }
    add(place(r->rip)), add(r->cs), add(r->flags & 0x10300);
    if ((r->cs & 3) != 0)
        add(r->rsp), add(r->ss);
    return false;
}

void test_main(void)
{
    uint32_t base = (uint32_t)(unsigned long)tss_now, df = (uint32_t)(unsigned long)tss_df;
    volatile uint32_t *pd = (volatile uint32_t *)TABLE;

    segments();
    gdt[SEL_NOW / 8] = 103 | (uint64_t)(base & 0xffffff) << 16 | 0x89ull << 40;
    gdt[SEL_DF / 8] = 103 | (uint64_t)(df & 0xffffff) << 16 | 0x89ull << 40;
    for (uint32_t n = 0; n < 1024; n++)
        pd[n] = n == HOLE >> 22 || n == 1023 ? 0 : n << 22 | (n == USER_AREA >> 22 ? 0x87 : 0x83);
    wr_cr4(rd_cr4() | CR4_PSE);
    wr_cr3(TABLE);
    wr_cr0(rd_cr0() | CR0_PG);
    exc_hook = on_event;
    for (unsigned n = 0; n < CASES; n++) {
        wr_cr0(rd_cr0() | CR0_TS);
        load_tables();
        program();
        memset((void *)(CODE + 0x800ul), 0xff, 8); /* bounds: -1 to -1 */
        memcpy((void *)(CODE + 0x900ul), "\x0f\x0b", 2);
        wr_cr2(0);
#if VERBOSE
        print("%u:", n);
#endif
        if (rnd(2) != 0)
            (void)try_user(CODE, 0);
        else
            (void)try_call((void (*)(void *))CODE, NULL);
#if VERBOSE
        print("\n");
#endif
    }
    CHECK(sum == SUM, "sum is %x", sum);
}
