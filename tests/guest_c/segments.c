/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random programs at level 3 of protected mode at the limits of segments of all kinds: 16- and
 * 32-bit code and stacks, expand-down, bytes and pages, bases anywhere. What they push, pop, call
 * and copy, with which of SP and ESP, and how each ends makes one sum, which Bochs 2.7 has, too
 * (corei7_skylake_x). With -DVERBOSE=1 a line for each case.
 */
#include "kern.h"

#ifndef SEED
#define SEED    1u
#define CASES   4000u
#define SUM     0x83afa227u
#define VERBOSE 0
#endif
#include "code.h"
#include "sum.h"

#define AREA   0x200000u /* of data and stack segments, 128 KiB each */
#define AREAS  0x6c000u
#define CODE   0x280000u
#define COPY   0x300000u /* of the areas before any program */
#define SEL_CS 0x0fu     /* of the LDT */
#define SEL_SS 0x17u
#define SEL_DS 0x1fu
#define SEL_ES 0x27u
#define BIG    0x5a000000u /* in the upper halves of registers */

struct segment {
    uint32_t base, limit; /* in bytes */
    bool down, wide;
};

static struct {
    uint32_t edi, esi, ebp, esp0, ebx, edx, ecx, eax;
    uint32_t ds, es;
    uint32_t eip, cs, flags, esp, ss;
} start;
static struct regs ended;
static uint64_t ldt[8];
static bool code32;
static struct segment ss, ds, es;

static void num(uint32_t v, bool four)
{
    if (four)
        d(v);
    else
        w(v);
}

/* ---- segments -------------------------------------------------------------------------------- */

static void describe(unsigned sel, uint32_t base, uint32_t limit, unsigned type, bool wide,
                     bool pages)
{
    uint32_t l = pages ? limit >> 12 : limit;
    ldt[sel / 8] = (l & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
                   (uint64_t)(0xf0u | type) << 40 | (uint64_t)(l >> 16 & 15) << 48 |
                   (uint64_t)wide << 54 | (uint64_t)pages << 55 | (uint64_t)(base >> 24) << 56;
}

static struct segment data_segment(unsigned sel, uint32_t area, bool stack)
{
    static const uint32_t limits[] = {0x1f,   0x100,   0x103,   0xffe, 0x1003, 0x7fff, 0xfffe,
                                      0xffff, 0x10003, 0x1ffff, 0xfff, 0x1fff, 0xffff};
    unsigned k = rnd(13), type = stack ? 3 : 1 | rnd(2) << 1;
    struct segment s = {.base = area + rnd(3) * 0x804, .limit = limits[k]};
    s.base += rnd(4);
    s.down = rnd(4) == 0;
    s.wide = rnd(2) != 0;
    if (stack && !s.wide)
        s.limit &= 0xffff;
    bool pages = (s.limit & 0xfff) == 0xfff && rnd(2) != 0;

    if (s.down)
        type |= 4;
    else if (!stack && rnd(6) == 0)
        type = 0xb; /* code that may be read */
    describe(sel, s.base, s.limit, type, s.wide, pages);
    return s;
}

/* An offset at one of the ends of what may be reached, often within. */
static uint32_t edge(const struct segment *s)
{
    uint32_t top = s->wide ? 0u - 16 : 0x10000u - 16;

    switch (rnd(6)) {
    case 0:
        return rnd(16);
    case 1:
        return s->limit - 8 + rnd(16);
    case 2:
        return s->down ? top + rnd(17) : s->limit - 12 + rnd(16);
    case 3:
        return 0xfff0 + rnd(18);
    default:
        return s->down ? s->limit + 1 + 4 * rnd(40) : 4 * rnd(s->limit / 4 + 1);
    }
}

/* ---- code ------------------------------------------------------------------------------------ */

static bool o32, a32;
static bool calls; /* whether target or stack are looked at first is not said */

static void prefixes(bool with_address)
{
    bool o = rnd(4) == 0, a = with_address && rnd(5) == 0;

    if (o)
        b(0x66);
    if (a)
        b(0x67);
    o32 = code32 != o;
    a32 = code32 != a;
}

/* An operand in DS, ES or SS; behind prefixes(true) and a segment prefix of its own. */
static void mem(unsigned op, unsigned reg)
{
    unsigned k = rnd(3);
    uint32_t disp = edge(k == 0 ? &ds : k == 1 ? &es : &ss);

    if (k != 0)
        b(k == 1 ? 0x26 : 0x36);
    if (op > 0xff)
        b(0x0f);
    b(op);
    switch (rnd(4)) {
    case 0:
        b((a32 ? 3 : 7) | reg << 3); /* [ebx], [bx] */
        break;
    case 1:
        if (a32)
            b(0x44 | reg << 3), b(0x33), b(rnd(16)); /* [ebx + esi + n] */
        else
            b(0x40 | reg << 3), b(rnd(16)); /* [bx + si + n] */
        break;
    default:
        b((a32 ? 5 : 6) | reg << 3);
        num(disp, a32);
    }
}

static void push_imm(uint32_t v)
{
    b(0x68);
    num(v, o32);
}

/* push ...; ret n, retf n, iret: to what follows */
static void come_back(void)
{
    unsigned k = rnd(3);
    bool pop = k < 2 && rnd(2) != 0, o = rnd(4) == 0;
    unsigned len, each;
    uint32_t here;

    o32 = code32 != o;
    each = (o ? 2 : 1) + (o32 ? 4 : 2); /* push */
    if (k == 2)
        o ? b(0x66) : (void)0, push_imm(0x202 | (rnd(0x1000) & 0x8d5));
    if (k >= 1)
        o ? b(0x66) : (void)0, push_imm(SEL_CS);
    len = each + (o ? 2 : 1) + (pop ? 2 : 0);
    here = (uint32_t)at - CODE + len;
    o ? b(0x66) : (void)0, push_imm(here);
    o ? b(0x66) : (void)0;
    b(k == 2 ? 0xcf : (k == 1 ? 0xcb : 0xc3) - pop);
    if (pop)
        w(4 * rnd(4));
}

static void emit(void)
{
    static const uint8_t alu[] = {0x00, 0x01, 0x02, 0x03, 0x11, 0x29, 0x2b, 0x38, 0x39,
                                  0x3b, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8b, 0x89};
    static const uint8_t string[] = {0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
    static const uint8_t seg[] = {0x06, 0x0e, 0x16, 0x1e};
    uint32_t k = rnd(26), v;

    if (k == 15) {
        come_back();
        return;
    }
    prefixes(k <= 6 || k == 16 || k == 17);
    switch (k) {
    case 0:
    case 1:
        v = rnd(4);
        mem(alu[rnd(18)], v);
        break;
    case 2:
        mem(0xff, rnd(2) != 0 ? 6 : rnd(2)); /* push, inc, dec */
        break;
    case 3:
        mem(0x8f, 0); /* pop */
        break;
    case 4: /* bts and so on: a string of bits */
        mem(0x1a3 + 8 * rnd(4), 2);
        break;
    case 5:
        mem(0x1b1 + 0x10 * rnd(2), 1); /* cmpxchg, xadd */
        break;
    case 6:
        v = rnd(2) * 3;
        mem(rnd(2) != 0 ? 0xd9 : 0xdd, v); /* fld, fstp of 4 and 8 bytes */
        break;
    case 7:
        b(0x50 | rnd(4));
        break;
    case 8:
        b(0x58 | rnd(3));
        break;
    case 9:
        b(0x60 + rnd(2)); /* pusha, popa */
        break;
    case 10:
        b(0x9c); /* pushf */
        break;
    case 11:
        b(0xc8), w(rnd(3) == 0 ? rnd(0x200) : 8 * rnd(4)), b(rnd(3) == 0 ? rnd(40) : 0);
        break; /* enter */
    case 12:
        b(0xc9); /* leave */
        break;
    case 13:
        calls = true;
        b(0xe8), num(0, o32); /* call */
        break;
    case 14: /* from SP 0 Bochs cannot do it */
        calls = true;
        if (!ss.wide)
            b(0x90);
        else
            b(0x9a), num((uint32_t)at - CODE + (o32 ? 6 : 4), o32), w(SEL_CS);
        break;
    case 16:
    case 17:
        if (rnd(2) != 0)
            b(0xf2 + rnd(2));
        b(string[rnd(10)]);
        break;
    case 18:
        b(0x6a), b(rnd(256)); /* push, sign-extended */
        break;
    case 19:
        push_imm(rnd(0xffffffff));
        break;
    case 20: /* Bochs writes two bytes of four, as Intel's processors do */
        if (o32) {
            b(0x90);
            break;
        }
        v = rnd(4); /* push sreg; pop of it, but for CS into ES */
        b(seg[v]), v = v == 1 ? 0 : v;
        if (code32)
            b(0x66);
        b(seg[v] + 1);
        break;
    case 21:
        if (o32)
            b(0x0f), b(0xc8); /* bswap eax */
        else
            b(0x0f), b(0xa0 + 8 * rnd(2)); /* push fs, gs */
        break;
    case 22:
        b(0x89), b(0xe0 | rnd(4)); /* mov reg, (e)sp */
        break;
    case 23:
        b(0x83), b(0xc4 | 5 * rnd(2) << 3), b(4 * rnd(8)); /* add, sub (e)sp */
        break;
    case 24:
        b(0xbc + rnd(2)), num(edge(&ss), o32); /* mov (e)sp, (e)bp */
        break;
    default:
        b(0x54), b(0x90); /* push (e)sp */
    }
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void enter(void *p)
{
    (void)p;
    __asm__ volatile("movl %0, %%esp\n\tpopal\n\tpopl %%ds\n\tpopl %%es\n\tiretl" : : "r"(&start));
}

static bool see(struct regs *r)
{
    ended = *r;
    return false;
}

static uint32_t upper(void)
{
    return rnd(3) == 0 ? BIG : 0;
}

/* What the program has written at the ends and the middle of a segment. */
static uint32_t written(const struct segment *s, uint32_t around)
{
    const uint32_t from[] = {0, s->limit - 0x80, 0xff80, 0u - 0x80, around - 0x80};
    uint32_t sum_of = 0;

    for (unsigned i = 0; i < 5; i++) {
        if (from[i] > 0x20000 && from[i] < 0u - 0x80)
            continue;
        for (unsigned k = 0; k < 64; k++) {
            volatile uint32_t *p = (volatile uint32_t *)(s->base + from[i] + 4 * k);
            sum_of = (sum_of << 5 | sum_of >> 27) + *p * (k | 1);
        }
    }
    return sum_of;
}

/* After an instruction that faults: what it has written before is not said. */
static bool clean;
static void refill(void)
{
    uint32_t from = COPY, to = AREA - 0x1000, n = AREAS / 4;

    __asm__ volatile("rep movsl" : "+S"(from), "+D"(to), "+c"(n) : : "memory");
    clean = true;
}

static void one(unsigned n)
{
    uint32_t base = CODE, off = 0, limit;

    code32 = rnd(2) != 0;
    ss = data_segment(SEL_SS, AREA, true);
    ds = data_segment(SEL_DS, AREA + 0x24000, false);
    es = rnd(4) == 0 ? ds : data_segment(SEL_ES, AREA + 0x48000, false);
    if (es.base == ds.base)
        ldt[SEL_ES / 8] = ldt[SEL_DS / 8];
    at = (uint8_t *)(base + off);
    calls = false;
    for (unsigned i = 1 + rnd(5); i > 0; i--)
        emit();
    b(0xcd), b(0x80);
    limit = (uint32_t)at - CODE - 1;
    if (rnd(12) == 0 && !calls)
        limit -= rnd(8);
    else
        limit = rnd(2) != 0 ? 0xffff : 0x1ffff;
    describe(SEL_CS, CODE, limit, 0xb, code32, false);
    start.ds = SEL_DS, start.es = SEL_ES, start.cs = SEL_CS, start.ss = SEL_SS;
    start.eip = 0;
    start.flags = 0x202 | (rnd(0x1000) & 0x8d5);
    start.flags |= rnd(12) == 0 ? 0x400 : 0;
    start.eax = rnd(0xffffffff), start.ecx = rnd(12), start.edx = rnd(0x400) - 0x200;
    start.ebx = edge(&ds), start.ebx |= upper();
    start.esi = edge(&ds), start.esi |= upper();
    start.edi = edge(&es), start.edi |= upper();
    start.ebp = edge(&ss), start.ebp |= ss.wide ? 0 : upper();
    start.esp = edge(&ss), start.esp &= rnd(8) == 0 ? ~0u : ~3u;
    if (!ss.wide) /* IRET leaves the rest of ESP alone, here the address of `start` */
        start.esp = (start.esp & 0xffff) | 0x100000;
    if (!clean)
        refill();
#if VERBOSE
    print(
        "%u code%d ss %x+%x%s%s ds %x+%x%s es %x+%x%s esp %x ebp %x ebx %x esi %x edi %x ecx %x |",
        n, code32 ? 32 : 16, ss.base, ss.limit, ss.down ? "down" : "", ss.wide ? "" : "16", ds.base,
        ds.limit, ds.down ? "down" : "", es.base, es.limit, es.down ? "down" : "", start.esp,
        start.ebp, start.ebx, start.esi, start.edi, start.ecx);
    for (const uint8_t *p = (const uint8_t *)CODE; p < at; p++)
        print(" %x", *p);
    print(" | limit %x |", limit);
#endif
    __asm__ volatile("fninit\n\tfld1\n\tfldpi\n\tfld1");
    exc_hook = see;
    (void)try_call(enter, NULL);
    exc_hook = NULL;
    add(n), add(ended.vector), add(ended.code), add(ended.rip), add(ended.cs),
        add(ended.flags & 0xcd5);
    add(ended.rsp), add(ended.ss & 0xffff), add(ended.ds & 0xffff), add(ended.es & 0xffff);
    const uint8_t *last = (const uint8_t *)(CODE + ended.rip);
    /* It is not said what a POPA that faults has popped before. */
    bool popa = last[*last == 0x66] == 0x61;
    for (unsigned i = 0; i < 7 && (ended.vector == 0x80 || !popa); i++)
        add((&ended.rdi)[i]);
#if VERBOSE
    print(" mem");
#endif
    clean = ended.vector == 0x80;
    if (clean)
        add(written(&ss, ss.wide ? start.esp : start.esp & 0xffff)), add(written(&ds, start.ebx)),
            add(written(&es, start.edi));
#if VERBOSE
    print("\n");
#endif
}

void test_main(void)
{
    uint32_t base = (uint32_t)ldt;

    wr_cr0((rd_cr0() & ~0xcul) | 0x20);
    gdt[SEL_LDT / 8] = (sizeof(ldt) - 1) | (uint64_t)(base & 0xffffff) << 16 | 0x82ull << 40 |
                       (uint64_t)(base >> 24) << 56;
    __asm__ volatile("lldt %w0" : : "r"(SEL_LDT));
    for (uint32_t i = 0; i < AREAS; i += 4)
        *(volatile uint32_t *)(COPY + i) = i * 0x9e3779b1u;
    for (unsigned n = 0; n < CASES; n++)
        one(n);
#if VERBOSE
    print("seed %u: %x\n", SEED, sum);
#else
    CHECK(sum == SUM, "the sum is %x, not %x", sum, SUM);
#endif
}
