/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Faults whose delivery faults, in long mode: random gates (not present, of wrong types, with bad
 * selectors, addresses and stacks), limits and places of the IDT, and stacks, then an exception of
 * each kind at level 0 and 3. Which handler gets it in the end, with what error code, address and
 * frame, makes one sum, which Bochs 2.7 has, too (corei7_skylake_x).
 */
#include "kern.h"

#ifndef SEED
#define SEED    1u
#define CASES   20000u
#define SUM     0xfd32bafbu
#define VERBOSE 0
#endif
#include "code.h"
#include "sum.h"

#define CODE   (USER_AREA + 0x1000ul)
#define HOLE   0x600000ul               /* 2 MiB that are not mapped */
#define BAD    0x1000000000000000ul     /* not canonical */
#define STACKS (USER_AREA + 0x180000ul) /* 0x800 each; the first is that of level 0 */
#define DF     8
#define SEL_T  SEL_FREE /* segments to choose from */
#define CR0_TS 8ul

enum { PLAIN, DOUBLE, OTHER, AWAY, BROKEN }; /* stacks: by number of the IST, 0: RSP0 */

extern uint8_t exc_stubs[];
static uint64_t tss64[13];
static uint64_t idt[256][2] __attribute__((aligned(16)));

static uint64_t bad_or(uint64_t good)
{
    switch (rnd(6)) {
    case 0:
        return HOLE + 0x800;
    case 1:
        return BAD + 0x800;
    case 2:
        return HOLE + 16; /* some of it is mapped, but not enough, or just enough */
    default:
        return good - 8 * rnd(2);
    }
}

/* ---- tables ---------------------------------------------------------------------------------- */

static void segments(void)
{
    static const uint64_t s[] = {
        0x00af9b000000ffff, /* +0: 64-bit code */
        0x00af1b000000ffff, /* +8: not present */
        0x00cf9b000000ffff, /* +10: 32-bit code */
        0x00affb000000ffff, /* +18: of level 3 */
        0x00af98000000ffff, /* +20: 64-bit code that cannot be read */
        0x00cf93000000ffff, /* +28: data */
        0x00cf13000000ffff, /* +30: data, not present */
        0x00ef9b000000ffff, /* +38: L and D */
        0x0000890000000067, /* +40: a TSS */
    };
    for (unsigned i = 0; i < sizeof(s) / sizeof(s[0]); i++)
        gdt[SEL_T / 8 + i] = s[i];
}

static uint64_t selector(void)
{
    if (rnd(8) == 0)
        return rnd(2) != 0 ? rnd(4) : 0x1000 + rnd(64);
    return SEL_T + 8 * rnd(9) + (rnd(4) == 0 ? rnd(4) : 0) + (rnd(12) == 0 ? 4 : 0);
}

static void make_gate(unsigned vector)
{
    uint64_t off = (uint64_t)exc_stubs + 16 * vector, type = 14, p = 1, dpl = 3, ist = 0;
    uint64_t sel = SEL_CODE64, hi = 0;

    if (vector == DF) {
        ist = DOUBLE;
    } else {
        switch (rnd(10)) {
        case 0:
            p = 0;
            break;
        case 1:
            type = rnd(16);
            break;
        case 2:
        case 3:
            sel = selector();
            break;
        case 4:
            type = 15;
            break;
        case 5:
            ist = AWAY;
            break;
        case 6:
            ist = OTHER;
            break;
        case 7:
            dpl = rnd(4);
            break;
        default:
            break;
        }
    }
    idt[vector][0] = (off & 0xffff) | sel << 16 | ist << 32 | (type | dpl << 5 | p << 7) << 40 |
                     (off >> 16 & 0xffff) << 48;
    idt[vector][1] = hi;
}

static void load_idt(uint64_t base, uint16_t limit)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = {limit, base};
    __asm__ volatile("lidt %0" : : "m"(idtr));
}

static void load_tables(void)
{
    static const uint8_t cut[] = {10, 10, 11, 12, 13, 14, 15, 0x90};
    uint64_t base = (uint64_t)idt;
    uint16_t limit = 0xfff;
    unsigned k = cut[rnd(8)];

    for (unsigned v = 0; v < 32; v++)
        make_gate(v);
    make_gate(0x90);
    if (rnd(8) == 0) {
        base = HOLE - 16 * k;
        memcpy((void *)base, idt, 16 * k);
    }
    if (rnd(8) == 0)
        limit = (uint16_t)(16 * k - (rnd(2) != 0 ? 1 : 5));
    uint64_t sp[5] = {bad_or(STACKS + 0x1000), STACKS + 0x1800, STACKS + 0x2000, HOLE + 0x800,
                      BAD + 0x800};
    uint32_t *t = (uint32_t *)tss64;
    if (sp[0] == BAD + 0x800) /* Bochs has the old SS in the error code */
        sp[0] = 0;
    memcpy(t + 1, &sp[0], 8);
    for (unsigned i = 1; i < 5; i++)
        memcpy(t + 7 + 2 * i, &sp[i], 8);
    load_idt(base, limit);
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

static void program(void)
{
    at = (uint8_t *)CODE;
    b(0x48), b(0xbc), q(bad_or(STACKS + 0x800)); /* mov rsp */
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
        b(0x8b), b(0x04), b(0x25), d(HOLE + 4 * rnd(1000)); /* mov eax, [] */
        break;
    case 5:
        b(0x48), b(0xb8), q(BAD), b(0x8b), b(0x18); /* mov rax; mov ebx, [rax] */
        break;
    case 6:
        b(0x48), b(0xbd), q(BAD), b(0x8b), b(0x5d), b(0); /* mov rbp; mov ebx, [rbp] */
        break;
    case 7:
        b(0xb8), d((uint32_t)selector()), b(0x8e), b(0xd0); /* mov ss */
        break;
    case 8:
        b(0x50); /* push */
        break;
    case 9: /* push 0, rsp, 2, selector, 0; iretq */
        b(0x6a), b(0), b(0x54), b(0x6a), b(2);
        b(0x68), d((uint32_t)selector()), b(0x6a), b(0), b(0x48), b(0xcf);
        break;
    case 10:
        b(0xd9), b(0xc0); /* fld st */
        break;
    case 11:
        b(0xf1); /* int1 */
        break;
    case 12:
        b(0x0f), b(0x01), b(0xf8); /* swapgs, which level 3 may not */
        b(0x0f), b(0x01), b(0xf8);
        break;
    case 13:
        b(0xb8), d((uint32_t)selector()), b(0x8e), b(0xe0); /* mov fs */
        break;
    default:
        b(0xff), b(0x14), b(0x25), d((uint32_t)(HOLE - rnd(8))); /* call [] */
    }
    b(0x0f), b(0x0b);
}

/* Where handlers are depends on the compiler. */
static uint32_t place(uint64_t la)
{
    return la - (uint64_t)exc_stubs < 0x1000 ? 0xffff : (uint32_t)la;
}

static bool on_event(struct regs *r)
{
    uint64_t frame = (uint64_t)r;

    add((uint32_t)r->vector), add((uint32_t)r->code);
    add(place(r->rip)), add((uint32_t)r->cs), add((uint32_t)r->ss);
    add((uint32_t)r->rsp), add((uint32_t)r->flags & 0x10300), add((uint32_t)frame);
    add(place(rd_cr2()));
    return false;
}

void test_main(void)
{
    uint64_t base = (uint64_t)tss64;

    segments();
    tss64[12] = 104ull << 48;
    gdt[SEL_LDT / 8] = 103 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[SEL_LDT / 8 + 1] = base >> 32;
    __asm__ volatile("ltr %w0" : : "r"(SEL_LDT));
    *(volatile uint64_t *)(PT_BASE + 0x2000 + 8 * (HOLE >> 21)) = 0;
    invlpg(HOLE);
    wr_cr0(rd_cr0() | CR0_TS);
    exc_hook = on_event;
    for (unsigned n = 0; n < CASES; n++) {
        load_tables();
        program();
        __asm__ volatile("mov %0, %%cr2" : : "r"(0ul));
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
