/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random programs in real mode: operands, stack and code at the ends of segments, strings with both
 * address sizes, far transfers, loads of pointers, interrupts beyond the limit of the table, flags,
 * LMSW, the x87's environment, prefixes that are not allowed. Registers and memory after each make
 * one sum, which Bochs 2.7 has, too (ryzen: others keep no x87 pointers). With -DVERBOSE=1 a line
 * for each case.
 */
#include "kern.h"

#ifndef SEED
#define SEED    1u
#define CASES   6000u
#define SUM     0x27e0e239u
#define VERBOSE 0
#endif
#include "code.h"
#include "sum.h"

/* The way there and back lies at LOW, which is segment LOW_CS; so do its variables. */
#define LOW    0x8000u
#define LOW_CS 0x800u
#define STUBS  0x9000u
#define STUB   9u /* bytes each */

#define SEL_C16 (SEL_FREE + 0u)
#define SEL_D16 (SEL_FREE + 8u)

#define CS_PROG 0x3000u
#define SS_PROG 0x2000u
#define DS_PROG 0x4000u
#define ES_PROG 0x5000u
#define GS_PROG 0x5800u
#define TABLES  0x2000u /* in GS: what LIDT and LMSW load */

/* At LOW + E00H: what the program begins and ends with. The assembly below knows the offsets. */
struct real_state {
    uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi; /* 0 */
    uint16_t es, cs, ss, ds, fs, gs;                 /* 32 */
    uint16_t ip, flags;                              /* 44 */
    uint32_t cr0;                                    /* 48 */
    uint8_t vector;                                  /* 52 */
};
#define ST ((volatile struct real_state *)(LOW + 0xe00))

/* ---- there and back -------------------------------------------------------------------------- */

void go_real(void);
extern uint8_t low_code[], low_end[], low_common[];
__asm__(".text\n.globl go_real\ngo_real:\n"
        "  pushl %ebx\n pushl %ebp\n pushl %esi\n pushl %edi\n pushfl\n"
        "  movl %esp, 0x8f00\n sgdtl 0x8f10\n sidtl 0x8f20\n"
        "  ljmpl $0x58, $(low_code - low_code)\n"
        "back32:\n"
        "  movw $0x10, %ax\n movw %ax, %ds\n movw %ax, %es\n movw %ax, %fs\n movw %ax, %gs\n"
        "  movw %ax, %ss\n lidtl 0x8f20\n movl 0x8f00, %esp\n"
        "  popfl\n popl %edi\n popl %esi\n popl %ebp\n popl %ebx\n ret\n"
        ".globl low_code, low_end, low_common\n"
        ".code16\nlow_code:\n"
        "  movw $0x60, %ax\n movw %ax, %ds\n movw %ax, %es\n movw %ax, %fs\n movw %ax, %gs\n"
        "  movw %ax, %ss\n"
        "  movl %cr0, %eax\n andb $0xfe, %al\n movl %eax, %cr0\n"
        "  ljmp $0x800, $(1f - low_code)\n"
        "1: movw %cs, %ax\n movw %ax, %ds\n"
        "  lidtw 0xf30\n"
        "  movw 0xe24, %ss\n movl 0xe10, %esp\n"
        "  pushw 0xe2e\n pushw 0xe22\n pushw 0xe2c\n"
        "  movl 0xe00, %eax\n movl 0xe04, %ecx\n movl 0xe08, %edx\n movl 0xe0c, %ebx\n"
        "  movl 0xe14, %ebp\n movl 0xe18, %esi\n movl 0xe1c, %edi\n"
        "  movw 0xe20, %es\n movw 0xe28, %fs\n movw 0xe2a, %gs\n movw 0xe26, %ds\n"
        "  iretw\n"
        "low_common:\n"
        "  movl %eax, %cs:0xe00\n movl %ecx, %cs:0xe04\n movl %edx, %cs:0xe08\n"
        "  movl %ebx, %cs:0xe0c\n movl %esp, %cs:0xe10\n movl %ebp, %cs:0xe14\n"
        "  movl %esi, %cs:0xe18\n movl %edi, %cs:0xe1c\n"
        "  movw %es, %cs:0xe20\n movw %ss, %cs:0xe24\n movw %ds, %cs:0xe26\n"
        "  movw %fs, %cs:0xe28\n movw %gs, %cs:0xe2a\n"
        "  movl %cr0, %eax\n movl %eax, %cs:0xe30\n"
        "  lgdtl %cs:0xf10\n"
        "  andb $0xf0, %al\n orb $1, %al\n movl %eax, %cr0\n"
        "  ljmpl $0x08, $back32\n"
        "low_end:\n.code32\n");

static void prepare(void)
{
    static const uint8_t idtr[6] = {0xff, 3, 0, 0, 0, 0};

    memcpy((void *)LOW, low_code, (size_t)(low_end - low_code));
    memcpy((void *)(LOW + 0xf30), idtr, 6);
    gdt[SEL_C16 / 8] = 0x00009b008000ffffull;
    gdt[SEL_D16 / 8] = 0x000093000000ffffull;
    for (unsigned n = 0; n < 256; n++) {
        at = (uint8_t *)STUBS + STUB * n;
        b(0x2e), b(0xc6), b(0x06), w(0xe34), b(n); /* mov byte cs:[vector], n */
        b(0xe9), w(LOW + (uint32_t)(low_common - low_code) - (uint32_t)at - 2);
        *(volatile uint32_t *)(4 * n) = LOW_CS << 16 | (STUBS - LOW + STUB * n);
    }
}

/* ---- code ------------------------------------------------------------------------------------ */

static uint32_t edge(void)
{
    return rnd(3) == 0 ? 0x100 + rnd(0x40) : rnd(2) != 0 ? 0xfff4 + rnd(12) : rnd(8);
}

/* Memory with 16-bit addresses, or (a32) with 32-bit ones, which may be beyond the segment. */
static void mem(bool a32, unsigned reg)
{
    uint32_t n = rnd(4);

    if (a32) {
        if (n == 0)
            b(0x05 | reg << 3), d(rnd(6) == 0 ? 0x10000 + rnd(4) : edge());
        else
            b(0x80 | reg << 3 | (rnd(2) != 0 ? 3 : 6)), d(rnd(16)); /* [ebx, esi + n] */
    } else if (n == 0) {
        b(0x06 | reg << 3), w(edge());
    } else {
        b(0x40 | reg << 3 | rnd(8)), b(rnd(16) - 8);
    }
}

static void push(bool o32, uint32_t v)
{
    if (o32)
        b(0x66);
    b(0x68);
    if (o32)
        d(v);
    else
        w(v);
}

static void restore_segment(unsigned s)
{
    static const uint16_t to[] = {ES_PROG, 0, 0, DS_PROG, 0x4800, GS_PROG};

    b(0x8c), b(0xc2 | s << 3); /* mov dx, sreg */
    b(0x68), w(to[s]);         /* push */
    if (s < 4)
        b(0x07 | s << 3);
    else
        b(0x0f), b(s == 4 ? 0xa1 : 0xa9);
}

static void emit(uint32_t sp)
{
    static const uint8_t alu[] = {0x00, 0x01, 0x02, 0x03, 0x28, 0x29, 0x2a, 0x2b, 0x38, 0x39,
                                  0x3b, 0x10, 0x19, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b};
    static const uint8_t string[] = {0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
    bool o32 = rnd(3) == 0, a32 = rnd(4) == 0, lock = rnd(16) == 0;
    uint32_t k = rnd(28), v;

    if (k == 3) { /* mov ecx, n: rep */
        b(0x66), b(0xb9), d(rnd(12));
        b(rnd(2) != 0 ? 0xf2 : 0xf3);
    }
    if (k == 26) /* mov cx, n */
        b(0xb9), w(DS_PROG + 0x10 * rnd(4));
    if (lock && k < 10)
        b(0xf0);
    if (o32)
        b(0x66);
    a32 = a32 && k != 18 && k != 19;
    if (a32)
        b(0x67);
    switch (k) {
    case 0:
    case 1:
        b(alu[rnd(19)]), mem(a32, rnd(4));
        break;
    case 2:
    case 3:
        b(string[rnd(10)]);
        break;
    case 4:
        b(0xff), mem(a32, rnd(2) != 0 ? 6 : rnd(2));
        break; /* push, inc, dec */
    case 5:
        b(0x8f), mem(a32, 0);
        break; /* pop */
    case 6:
        b(rnd(2) != 0 || sp != 0xff00 ? 0x60 : 0x61);
        break; /* pusha, popa */
    case 7:    /* enter n, 0 to 3; leave */
        if (rnd(2) != 0)
            b(0xc8), w(rnd(4) == 0 ? rnd(0x10000) & ~1u : 8), b(rnd(4));
        else
            b(0xc9);
        break;
    case 8:
        b(0x0f), b(rnd(2) != 0 ? 0xb1 : 0xc1), mem(a32, 1);
        break; /* cmpxchg, xadd */
    case 9:
        b(0x0f), b(0xc7), mem(a32, 1);
        break;
    case 10:
        b(rnd(2) != 0 ? 0xc4 : 0xc5), v = at[-1] == 0xc4 ? 0 : 3, mem(a32, 0), restore_segment(v);
        break;
    case 11:
        v = rnd(2), b(0x0f), b(0xb4 + v), mem(a32, 1), restore_segment(4 + v);
        break; /* lfs, lgs */
    case 12:
        b(0x62), mem(a32, 0);
        break; /* bound */
    case 13:   /* jmp, call far to what follows */
        k = rnd(2);
        b(k != 0 ? 0xea : 0x9a);
        v = (uint32_t)at - CS_PROG * 16 + (o32 ? 6 : 4);
        if (o32) /* of CALL it is not said whether target or stack are looked at first */
            d(k != 0 && rnd(8) == 0 ? v | 0x10000 : v);
        else
            w(v);
        w(CS_PROG);
        break;
    case 14: /* call, jmp near */
        k = rnd(2);
        b(0xe8 + k);
        if (o32)
            d(k != 0 && rnd(8) == 0 ? 0x10000 : 0);
        else
            w(0);
        break;
    case 15: /* push flags, cs, ip; iret, retf or ret, each with the prefix of its own */
        at -= o32 + a32;
        k = rnd(3);
        if (k == 0)
            push(o32, rnd(0x10000) & 0x4ed5);
        if (k <= 1)
            push(o32, CS_PROG);
        v = (uint32_t)at - CS_PROG * 16 + (o32 ? 8 : 4);
        push(o32, o32 && rnd(8) == 0 ? v | 0x10000 : v);
        if (o32)
            b(0x66);
        b(k == 0 ? 0xcf : k == 1 ? 0xcb : 0xc3);
        break;
    case 16:
        b(0xcd), b(rnd(4) == 0 ? 0x90 : 0x10 + rnd(4));
        break;
    case 17:
        b(0xcc + 2 * rnd(2));
        break; /* int3, into */
    case 18:
        b(0x65), b(0x0f), b(0x01), b(0x1e), w(TABLES + 8 * rnd(4));
        break; /* lidt */
    case 19:
        b(0x65), b(0x0f), b(0x01), b(0x36), w(TABLES + 0x20 + 2 * rnd(8));
        break; /* lmsw */
    case 20:
        b(0x0f), b(0x01), mem(a32, 4);
        break; /* smsw */
    case 21:
        b(rnd(2) != 0 ? 0x9c : 0x9d);
        break; /* pushf, popf */
    case 22:   /* fnstenv, fnsave, fldenv: within the segment, since they may be written in parts */
        v = rnd(3);
        b(v == 0 ? 0xdd : 0xd9), b((a32 ? 5 : 6) | (v == 2 ? 4 : 6) << 3);
        if (a32)
            d(0x110 + rnd(16));
        else
            w(0x110 + rnd(16));
        break;
    case 23:
        b(0xd9 + 2 * rnd(3)), mem(a32, 0);
        break; /* fld, fild */
    case 24:
        b(0xe0 + rnd(4)), b(0);
        break; /* loop, jcxz */
    case 25:
        v = rnd(3), b(0x0f), b(v + (v != 0)), b(0xc0 | rnd(64));
        break; /* sldt ... lsl: most are #UD */
    case 26:
        b(0x8e), v = rnd(5), b(0xc1 | (v == 4 ? 6 : v) << 3), b(0x90);
        break; /* mov sreg, cx: cs, 6: #UD */
    default:
        b(0x63), mem(a32, 0);
        break; /* arpl: #UD */
    }
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void words(uint32_t from, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        add(*(volatile uint32_t *)(from + 4 * i));
}

static void one(unsigned n)
{
    static const uint16_t limits[] = {0x3ff, 0x3f, 0x37, 0x1ff};
    static const uint16_t sps[] = {0xff00, 0xff00, 0xff00, 0xff00, 0, 4, 8, 0x10};
    uint32_t code = rnd(6) != 0 ? 0 : 0xffe0 + rnd(0x1e), sp = sps[rnd(8)];

    memset((void *)(CS_PROG * 16), 0xcc, 0x80);
    memset((void *)(CS_PROG * 16 + 0xff80), 0x90, 0x80);
    for (uint32_t i = 0; i < 0x140; i += 4) {
        *(volatile uint32_t *)(DS_PROG * 16 + i) = rnd(0xffffffff);
        *(volatile uint32_t *)(SS_PROG * 16 + i) = rnd(0xffffffff);
        *(volatile uint32_t *)(ES_PROG * 16 + i) = i;
    }
    for (uint32_t i = 0xff00; i < 0x10000; i += 4)
        *(volatile uint32_t *)(DS_PROG * 16 + i) = *(volatile uint32_t *)(SS_PROG * 16 + i) =
            *(volatile uint32_t *)(ES_PROG * 16 + i) = rnd(0xffffffff);
    for (unsigned i = 0; i < 4; i++) {
        *(volatile uint32_t *)(GS_PROG * 16 + TABLES + 8 * i) = limits[i];
        *(volatile uint32_t *)(GS_PROG * 16 + TABLES + 8 * i + 4) = 0;
        *(volatile uint32_t *)(GS_PROG * 16 + TABLES + 0x20 + 4 * i) =
            0xa0004 * i; /* of MP, EM, TS */
    }
    at = (uint8_t *)(CS_PROG * 16 + code);
    for (unsigned i = 1 + rnd(4); i > 0; i--)
        emit(sp);
    b(0xcd), b(0x80);
    uint8_t *end = at;
    if (code != 0) /* what does not fit is where code that wraps would be */
        memset((void *)(CS_PROG * 16 + 0x10000), 0, 0x100);
    ST->eax = rnd(0x10000) & 0xe, ST->ecx = DS_PROG, ST->edx = rnd(0xffffffff);
    ST->ebx = edge(), ST->ebp = edge() & ~1u, ST->esi = edge(), ST->edi = edge();
    if (rnd(8) == 0)
        ST->ebx |= 0x10000;
    if (rnd(8) == 0)
        ST->esi |= 0x10000;
    ST->esp = sp;
    ST->es = ES_PROG, ST->cs = CS_PROG, ST->ss = SS_PROG, ST->ds = DS_PROG;
    ST->fs = 0x4800, ST->gs = GS_PROG;
    ST->ip = (uint16_t)code;
    ST->flags = (uint16_t)(2 | (rnd(0x10000) & 0x4cd5) | (rnd(8) == 0 ? 0x100 : 0));
    __asm__ volatile("fninit");
#if VERBOSE
    print("%u real: sp %x flags %x bx %x bp %x si %x di %x ip %x |", n, ST->esp, ST->flags, ST->ebx,
          ST->ebp, ST->esi, ST->edi, code);
    for (const uint8_t *p = (const uint8_t *)(CS_PROG * 16 + code); p < end; p++)
        print(" %x", *p);
    print(" |");
#else
    (void)end;
#endif
    go_real();
    add(n);
    add(ST->vector);
    for (unsigned i = 0; i < 6; i += 2)
        add(*(volatile uint16_t *)(ST->ss * 16u + ((ST->esp + i) & 0xffff)));
    add(ST->eax), add(ST->ecx), add(ST->edx), add(ST->ebx), add(ST->esp), add(ST->ebp);
    add(ST->esi), add(ST->edi), add(ST->es), add(ST->ss), add(ST->ds), add(ST->fs), add(ST->gs);
    add(ST->cr0);
#if VERBOSE
    print(" mem");
#endif
    words(DS_PROG * 16, 4), words(DS_PROG * 16 + 0xfff0, 4), words(DS_PROG * 16 + 0x100, 40);
    words(SS_PROG * 16, 4), words(SS_PROG * 16 + 0xffd0, 12), words(SS_PROG * 16 + 0xfef0, 6);
    words(ES_PROG * 16, 4), words(ES_PROG * 16 + 0xfff0, 4);
#if VERBOSE
    print("\n");
#endif
}

void test_main(void)
{
    prepare();
    wr_cr0((rd_cr0() & ~0xcul) | 0x30);
    for (unsigned n = 0; n < CASES; n++)
        one(n);
#ifdef SUM
    CHECK(sum == SUM, "the sum is %x, not %x", sum, SUM);
#else
    print("seed %u: %x\n", SEED, sum);
#endif
}
