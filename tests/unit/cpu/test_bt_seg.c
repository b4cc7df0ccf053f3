/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 16-bit code and code with segments in translator and interpreter: random programs in real,
 * virtual-8086 and protected mode, with all widths of code and stack, in segments of all kinds
 * whose limits they meet, some of which they load themselves. Stopped again and again; started
 * again with other registers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_pair.h"

#define PROGRAMS 240u
#define STARTS   3u
#define MEMORY   0x10000u /* that programs can reach, and where it ends */
#define END      0x240000u
#define CODE     (CPU_RIG_TEXT + 0x123u * 16) /* not at the beginning of a page */
#define FIRST    8u                           /* of the segments of the GDT that programs load */
#define COUNT    12u

enum mode { REAL, V86, PROT16, PROT32, PROT16_STACK32, PROT32_STACK16, FLAT32, MODES };

struct program {
    enum mode mode;
    uint8_t code[2048];
    size_t n;
    uint32_t cs_limit;
    struct vmc_segment seg[COUNT]; /* of the GDT */
};

/* ---- code ------------------------------------------------------------------------------------ */

static void put8(struct program *p, unsigned b)
{
    if (p->n < sizeof(p->code))
        p->code[p->n++] = (uint8_t)b;
}

static void put_n(struct program *p, uint32_t v, unsigned bytes)
{
    for (unsigned k = 0; k < bytes; k++)
        put8(p, v >> (8 * k));
}

static bool is_32(const struct program *p)
{
    return p->mode == PROT32 || p->mode == PROT32_STACK16 || p->mode == FLAT32;
}

/* Prefixes; address size 2 or 4, operand size 2 or 4. */
static void put_prefixes(struct program *p, unsigned *addr, unsigned *op)
{
    static const uint8_t seg[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};

    *addr = *op = is_32(p) ? 4 : 2;
    if (rnd(4) == 0)
        put8(p, seg[rnd(6)]);
    if (rnd(4) == 0) {
        put8(p, 0x66);
        *op = 6 - *op;
    }
    if (rnd(5) == 0) {
        put8(p, 0x67);
        *addr = 6 - *addr;
    }
}

static uint32_t displacement(void)
{
    static const uint32_t at[] = {0, 0, 0, 4, 0xfff0, 0x7ffe, 0xfffe, 0x1000};
    return rnd(3) == 0 ? at[rnd(8)] + rnd(4) : rnd(256);
}

/* ModR/M with that reg field, and what follows it. */
static void put_modrm(struct program *p, unsigned addr, unsigned reg, bool memory)
{
    unsigned mod = rnd(memory ? 3 : 4), rm = rnd(8);

    if (mod == 3 && rm == 4)
        rm = 0; /* SP seldom survives this */
    put8(p, mod << 6 | reg << 3 | rm);
    if (mod == 3)
        return;
    if (addr == 2) {
        unsigned n = mod == 0 ? (rm == 6 ? 2 : 0) : mod;
        put_n(p, displacement(), n);
        return;
    }
    if (rm == 4) {
        unsigned sib = rnd(256);
        put8(p, sib);
        if (mod == 0 && (sib & 7) == 5)
            put_n(p, displacement(), 4);
    } else if (mod == 0 && rm == 5) {
        put_n(p, displacement(), 4);
    }
    if (mod != 0)
        put_n(p, displacement(), mod == 1 ? 1 : 4);
}

static unsigned any_reg(void)
{
    unsigned r = rnd(8);
    return r == 4 ? 3 : r;
}

/* An instruction with an operand. */
static void put_operand(struct program *p)
{
    static const struct {
        uint8_t map, op, ext, imm; /* ext: 8: a register; imm: bytes, 9: of the operand size */
    } t[] = {
        {0, 0x8b, 8, 0}, {0, 0x89, 8, 0}, {0, 0x8a, 8, 0}, {0, 0x88, 8, 0}, {0, 0x03, 8, 0},
        {0, 0x01, 8, 0}, {0, 0x2b, 8, 0}, {0, 0x29, 8, 0}, {0, 0x33, 8, 0}, {0, 0x39, 8, 0},
        {0, 0x3b, 8, 0}, {0, 0x3a, 8, 0}, {0, 0x21, 8, 0}, {0, 0x0b, 8, 0}, {0, 0x13, 8, 0},
        {0, 0x19, 8, 0}, {0, 0x85, 8, 0}, {0, 0x84, 8, 0}, {0, 0x87, 8, 0}, {0, 0x86, 8, 0},
        {1, 0xb6, 8, 0}, {1, 0xb7, 8, 0}, {1, 0xbe, 8, 0}, {1, 0xbf, 8, 0}, {1, 0xaf, 8, 0},
        {0, 0x80, 7, 1}, {0, 0x83, 0, 1}, {0, 0x81, 5, 9}, {0, 0xc7, 0, 9}, {0, 0xc6, 0, 1},
        {0, 0xd1, 4, 0}, {0, 0xc1, 5, 1}, {0, 0xd3, 1, 0}, {0, 0xff, 0, 0}, {0, 0xff, 1, 0},
        {0, 0xfe, 0, 0}, {0, 0xff, 6, 0}, {0, 0xf7, 3, 0}, {0, 0xf7, 4, 0}, {0, 0xf7, 0, 9},
        {1, 0xba, 4, 1}, {1, 0xab, 8, 0}, {1, 0xa4, 8, 1}, {1, 0x94, 0, 0}, {1, 0x4f, 8, 0},
        {1, 0xc1, 8, 0}, {0, 0xf7, 6, 0}, {0, 0x69, 8, 9}, {0, 0x8f, 0, 0}, {1, 0xbd, 8, 0},
    };
    unsigned k = rnd(sizeof(t) / sizeof(t[0])), addr, op;

    put_prefixes(p, &addr, &op);
    if (t[k].map != 0)
        put8(p, 0x0f);
    put8(p, t[k].op);
    put_modrm(p, addr, t[k].ext < 8 ? t[k].ext : any_reg(), false);
    put_n(p, rnd(1u << 24), t[k].imm == 9 ? op : t[k].imm);
}

/* What touches the stack, the registers or a string. */
static void put_plain(struct program *p)
{
    static const uint8_t one[] = {0x98, 0x99, 0x9f, 0x9e, 0xf5, 0xf8, 0xf9, 0xfc, 0xfc, 0xfd,
                                  0x9c, 0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xa6, 0xa7, 0xae,
                                  0xaf, 0x60, 0x61, 0x06, 0x0e, 0x16, 0x1e, 0xc9, 0xd7};
    unsigned addr, op, k = rnd(12);

    put_prefixes(p, &addr, &op);
    if (k < 2) {
        put8(p, 0x50 + rnd(8));
    } else if (k < 4) {
        put8(p, 0x58 + any_reg());
    } else if (k == 4) {
        put8(p, 0x40 + rnd(2) * 8 + any_reg());
    } else if (k == 5) {
        put8(p, 0x68);
        put_n(p, rnd(1u << 24), op);
    } else if (k == 6) {
        put8(p, 0xb8 + any_reg());
        put_n(p, rnd(2) == 0 ? rnd(0x300) : displacement(), op);
    } else if (k == 7) {
        put8(p, 0x8d);
        put_modrm(p, addr, any_reg(), true);
    } else if (k == 8) {
        put8(p, 0xa0 + rnd(4));
        put_n(p, displacement(), addr);
    } else if (k == 9) { /* enter */
        put8(p, 0xc8);
        put_n(p, rnd(16), 2);
        put8(p, rnd(3));
    } else {
        put8(p, one[rnd(sizeof(one))]);
    }
}

/* mov ax, selector; mov seg, ax. In protected mode mostly one of the GDT. */
static void put_segment(struct program *p)
{
    static const uint8_t seg[] = {0, 3, 4, 5, 0, 3, 2};
    unsigned k = rnd(sizeof(seg));
    bool prot = p->mode != REAL && p->mode != V86;
    unsigned sel = prot ? (rnd(16) == 0 ? 0 : (FIRST + rnd(COUNT)) * 8)
                        : 0x1000 + rnd(0x1000) + (seg[k] == 2 ? 0x5000 : 0);

    if (is_32(p))
        put8(p, 0x66);
    put8(p, 0xb8);
    put_n(p, sel, 2);
    if (rnd(3) != 0 || seg[k] == 2) {
        put8(p, 0x8e);
        put8(p, 0xc0 | seg[k] << 3);
    } else {
        put8(p, 0x50);
        put8(p, seg[k] == 0 ? 0x07 : seg[k] == 3 ? 0x1f : 0x0f);
        if (seg[k] > 3)
            put8(p, seg[k] == 4 ? 0xa1 : 0xa9);
    }
}

static void put_item(struct program *p);

/* A few instructions that are jumped over, called or repeated. */
static void put_flow(struct program *p)
{
    static const uint8_t over[] = {0x72, 0x74, 0x7c, 0x78, 0xeb, 0xe3, 0xe0, 0xe1, 0xe2, 0x75};
    bool wide = is_32(p);
    unsigned kind = rnd(8);
    size_t at;

    if (kind == 0) { /* call of what comes next; add sp, 2 or the return address to a register */
        put8(p, 0xe8);
        put_n(p, 0, wide ? 4 : 2);
        put8(p, 0x58 + any_reg());
    } else if (kind == 1) { /* jmp over a function; the function; call it */
        put8(p, 0xeb);
        at = p->n;
        put8(p, 0);
        size_t f = p->n;
        put_item(p);
        put8(p, rnd(2) == 0 ? 0xc3 : 0xc2);
        if (p->code[p->n - 1] == 0xc2)
            put_n(p, 0, 2);
        p->code[at] = (uint8_t)(p->n - at - 1);
        put8(p, 0xe8);
        put_n(p, (uint32_t)(f - (p->n + (wide ? 4 : 2))), wide ? 4 : 2);
    } else if (kind == 2) { /* mov bx, next; jmp bx or call bx */
        put8(p, 0xbb);
        at = p->n + (wide ? 6 : 4);
        put_n(p, (uint32_t)at + (p->mode == FLAT32 ? CODE : 0), wide ? 4 : 2);
        put8(p, 0xff);
        put8(p, rnd(2) == 0 ? 0xe3 : 0xd3);
    } else if (kind == 3) { /* mov cx, k; a loop */
        put8(p, 0xb9);
        put_n(p, 2 + rnd(6), wide ? 4 : 2);
        at = p->n;
        put_item(p);
        put8(p, 0xe2);
        put8(p, (unsigned)(at - (p->n + 1)));
    } else if (kind == 4 && p->mode <= V86) { /* the same place by another segment */
        unsigned by = rnd(16);
        put8(p, 0xea);
        put_n(p, (uint32_t)p->n + 4 + by * 16, 2);
        put_n(p, CODE / 16 - by, 2);
        put8(p, 0xea);
        put_n(p, (uint32_t)p->n + 4, 2);
        put_n(p, CODE / 16, 2);
    } else { /* a branch over an item; with other sizes, too */
        if (rnd(6) == 0)
            put8(p, rnd(2) == 0 ? 0x66 : 0x67);
        put8(p, over[rnd(sizeof(over))]);
        at = p->n;
        put8(p, 0);
        put_item(p);
        p->code[at] = (uint8_t)(p->n - at - 1);
    }
}

static void put_item(struct program *p)
{
    unsigned k = rnd(20);

    if (k < 10)
        put_operand(p);
    else if (k < 17)
        put_plain(p);
    else if (k < 18)
        put_segment(p);
    else
        put_flow(p);
}

/* ---- segments -------------------------------------------------------------------------------- */

static struct vmc_segment segment(uint32_t base, uint32_t limit, uint32_t attr)
{
    return (struct vmc_segment){.base = base, .limit = limit, .attr = attr};
}

/* A segment of some kind. */
static struct vmc_segment any_segment(void)
{
    uint32_t base = 0x40000 + rnd(0x40000);

    switch (rnd(10)) {
    case 0: /* small */
        return segment(base, 0x40 + rnd(0x2000), 0x93);
    case 1: /* expand-down, 16 and 32 bits */
        return segment(base, rnd(0x8000), 0x97);
    case 2:
        return segment(base, rnd(0x8000), 0x97 | VMC_SEG_DB);
    case 3: /* read-only */
        return segment(base, 0xffff, 0x91);
    case 4: /* code */
        return segment(base, 0xffff, 0x9b);
    case 5: /* large */
        return segment(base, 0x180fff, 0x93 | VMC_SEG_G | VMC_SEG_DB);
    case 6: /* flat but for its base */
        return segment(base, UINT32_MAX, 0x93 | VMC_SEG_G | VMC_SEG_DB);
    default:
        return segment(base, 0xffff, 0x93);
    }
}

static uint64_t descriptor(const struct vmc_segment *s)
{
    uint32_t limit = (s->attr & VMC_SEG_G) != 0 ? s->limit >> 12 : s->limit;

    return (limit & 0xffff) | (s->base & 0xffffff) << 16 | (uint64_t)(s->attr & 0xff) << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(s->attr >> 12 & 15) << 52 |
           (s->base >> 24 & 0xff) << 56;
}

static void make(struct program *p, enum mode mode)
{
    memset(p, 0, sizeof(*p));
    p->mode = mode;
    for (unsigned k = 6 + rnd(30); k > 0; k--)
        put_item(p);
    put8(p, 0xf4); /* hlt */
    p->cs_limit = rnd(4) == 0 ? (uint32_t)p->n - 1 - rnd(40) % (uint32_t)p->n : 0xffff;
    for (unsigned k = 0; k < COUNT; k++)
        p->seg[k] = any_segment();
}

static void real_segments(struct cpu_rig *r, const struct program *p, uint32_t at)
{
    for (unsigned k = 0; k < 6; k++) {
        struct vmc_segment *s = &r->st.seg[k];
        s->base = k == VMC_CS ? CODE : k == VMC_SS ? 0x70000 : 0x10000 * (2 + k) + at % 512 * 16;
        s->limit = 0xffff;
        s->selector = (uint16_t)(s->base >> 4);
        s->attr = p->mode == V86 ? 0xf3 : 0x93;
    }
    if (p->mode == REAL && p->cs_limit != 0xffff) { /* unreal */
        r->st.seg[VMC_DS].limit = UINT32_MAX;
        r->st.seg[VMC_DS].attr |= VMC_SEG_G;
    }
}

static void prot_segments(struct cpu_rig *r, const struct program *p, uint32_t at)
{
    struct vmc_segment *cs = &r->st.seg[VMC_CS];
    bool wide_stack = p->mode == PROT32 || p->mode == PROT16_STACK32;
    uint64_t gdt[COUNT];

    for (unsigned k = 0; k < COUNT; k++)
        gdt[k] = descriptor(&p->seg[k]);
    cpu_rig_code(r, CPU_RIG_GDT + FIRST * 8, gdt, sizeof(gdt));
    for (unsigned k = 0; k < 6; k++) {
        unsigned n = (at >> k) % COUNT;
        if (k == VMC_CS || k == VMC_SS)
            continue;
        r->st.seg[k] = p->seg[n];
        r->st.seg[k].selector = (uint16_t)((FIRST + n) * 8);
    }
    *cs = segment(CODE + (at & 1) * 4, p->cs_limit, is_32(p) ? 0x9b | VMC_SEG_DB : 0x9b);
    cs->selector = CPU_RIG_CS0;
    r->st.seg[VMC_SS] = segment(0x70000 + at % 64, 0xffff, wide_stack ? 0x93 | VMC_SEG_DB : 0x93);
    r->st.seg[VMC_SS].selector = CPU_RIG_DS0;
    if (p->mode != FLAT32)
        return;
    for (unsigned k = 0; k < 4; k++) { /* FS and GS may be anything */
        static const uint8_t flat[] = {VMC_CS, VMC_SS, VMC_DS, VMC_ES};
        r->st.seg[flat[k]] =
            segment(0, UINT32_MAX, (k == 0 ? 0x9b : 0x93) | VMC_SEG_G | VMC_SEG_DB);
        r->st.seg[flat[k]].selector = k == 0 ? CPU_RIG_CS0 : CPU_RIG_DS0;
    }
}

/* Some registers are addresses, some offsets; near 4 GiB, too. */
static void flat_registers(struct cpu_rig *r, uint32_t at)
{
    r->st.rip = CODE;
    for (unsigned k = 0; k < 8; k += 2)
        r->st.gpr[k] += 0x50000;
    r->st.gpr[VMC_RSP] = 0x78000 + at % 4096;
    if (at % 3 == 0)
        r->st.gpr[VMC_RSI] = 0xfffffff0 + at % 16;
    if (at % 5 == 0)
        r->st.gpr[VMC_RBX] = 0xfffffff0 + at / 16 % 16;
}

static void begin(struct cpu_rig *r, const struct program *p, uint32_t at, bool again)
{
    static uint8_t fill[END - MEMORY];
    bool prot = p->mode > V86;

    cpu_rig_mode(r, p->mode == REAL ? 16 : 32, p->mode == V86 ? 3 : 0);
    if (!again) {
        memset(fill, 0x5a, sizeof(fill));
        cpu_rig_code(r, MEMORY, fill, sizeof(fill)); /* programs run into it */
        cpu_rig_code(r, CODE, p->code, sizeof(p->code));
        cpu_rig_code(r, CODE + 4, p->code, sizeof(p->code) - 4);
    }
    if (!prot || p->mode == FLAT32 || (at & 1) == 0)
        cpu_rig_code(r, CODE, p->code, sizeof(p->code));
    else
        cpu_rig_code(r, CODE + 4, p->code, sizeof(p->code));
    if (prot)
        prot_segments(r, p, at);
    else
        real_segments(r, p, at);
    if (p->mode == V86)
        r->st.rflags |= VMC_FLAG_VM | VMC_FLAG_IOPL;
    r->st.rip = 0;
    for (unsigned k = 0; k < 8; k++)
        r->st.gpr[k] = at / (k + 1) * 77 % 0x900;
    if (at % 5 == 0)
        r->st.gpr[VMC_RBX] = r->st.gpr[VMC_RSI] = 0xfff0 + at % 16;
    if (at % 7 == 0)
        r->st.gpr[VMC_RBP] = 0xdead0000 | (at & 0xffff);
    r->st.gpr[VMC_RSP] = (at % 9 == 0 ? at % 12 : 0x8000 + at % 4096) |
                         (p->mode == PROT32_STACK16 ? 0xbeef0000u : 0);
    if (p->mode == FLAT32)
        flat_registers(r, at);
}

/* ---- the test -------------------------------------------------------------------------------- */

static void compare(unsigned k, enum mode mode)
{
    const struct vmc_x86_state *a = &rig[0].st, *b = &rig[1].st;

    for (unsigned r = 0; r < 16; r++)
        if (a->gpr[r] != b->gpr[r])
            fail_msg("program %u, mode %u: register %u: %llx, %llx", k, mode, r,
                     (unsigned long long)a->gpr[r], (unsigned long long)b->gpr[r]);
    if (a->rip != b->rip || a->rflags != b->rflags)
        fail_msg("program %u, mode %u: rip %llx, %llx, flags %llx, %llx", k, mode,
                 (unsigned long long)a->rip, (unsigned long long)b->rip,
                 (unsigned long long)a->rflags, (unsigned long long)b->rflags);
    if (memcmp(a->seg, b->seg, sizeof(a->seg)) != 0)
        fail_msg("program %u, mode %u: segments", k, mode);
    if (rig[0].exit.retired != rig[1].exit.retired)
        fail_msg("program %u, mode %u: instructions retired", k, mode);
    if (memcmp(rig[0].ram + MEMORY, rig[1].ram + MEMORY, END - MEMORY) != 0)
        fail_msg("program %u, mode %u: memory", k, mode);
}

static void run_program(unsigned k, struct program *p)
{
    for (unsigned s = 0; s < STARTS; s++) {
        uint32_t at = seed >> 4;
        uint32_t why[2] = {VMC_EXIT_BUDGET, 0};
        for (unsigned r = 0; r < 2; r++)
            begin(&rig[r], p, at, s != 0);
        (void)rnd(2);
        /* A budget below 4,096 would be the interpreter's; one that is not met ends the program. */
        for (unsigned turn = 0; turn < 3 && why[0] == VMC_EXIT_BUDGET; turn++) {
            uint64_t most = 4097 + rnd(rnd(2) == 0 ? 200 : 4000);
            for (unsigned r = 0; r < 2; r++)
                why[r] = turn == 0 ? cpu_rig_run(&rig[r], most) : cpu_rig_resume(&rig[r], most);
            if (why[0] != why[1])
                fail_msg("program %u, mode %u: exits %u, %u", k, p->mode, why[0], why[1]);
            compare(k, p->mode);
        }
    }
}

static void run_mode(enum mode mode)
{
    uint32_t first = number("VMC_BT_SEED", 0);
    static struct program p;

    for (unsigned k = 0, n = PROGRAMS * number("VMC_BT_TIMES", 1); k < n; k++) {
        seed = 0x9e3779b9u * (first + k + 1) + mode;
        make(&p, mode);
        run_program(k, &p);
    }
#ifndef VMC_SANITIZED /* such builds have no translator */
    assert_true(cpu_rig_stat(&rig[1], mode == FLAT32 ? "bt.translated" : "bt.segmented") >
                PROGRAMS);
#endif
}

static void test_real(void **state)
{
    (void)state;
    run_mode(REAL);
}
static void test_v86(void **state)
{
    (void)state;
    run_mode(V86);
}
static void test_prot16(void **state)
{
    (void)state;
    run_mode(PROT16);
}
static void test_prot32(void **state)
{
    (void)state;
    run_mode(PROT32);
}
static void test_stack32(void **state)
{
    (void)state;
    run_mode(PROT16_STACK32);
}
static void test_stack16(void **state)
{
    (void)state;
    run_mode(PROT32_STACK16);
}

static void test_flat(void **state)
{
    (void)state;
    run_mode(FLAT32);
}

/* ---- FDS ------------------------------------------------------------------------------------- */

/* What FNSTENV tells of the last operand: its selector is that of then, whatever DS has become, and
   instructions without an operand in memory leave it alone. */
static void test_fds(void **state)
{
    static const uint8_t code[] = {
        0xb9, 0x40, 0x00,       /* mov cx, 64 */
        0x8e, 0xd8,             /* again: mov ds, ax */
        0xd9, 0x07,             /* fld dword [bx] */
        0x8e, 0xda,             /* mov ds, dx */
        0xd9, 0x36, 0x40, 0x00, /* fnstenv [64] */
        0xd9, 0xe1,             /* fabs */
        0xd9, 0x46, 0x04,       /* fld dword [bp + 4] */
        0xde, 0xc9,             /* fmulp */
        0xd9, 0x36, 0x60, 0x00, /* fnstenv [96] */
        0xd9, 0xe0,             /* fchs */
        0xd9, 0x36, 0x80, 0x00, /* fnstenv [128] */
        0xd8, 0x46, 0x06,       /* fadd dword [bp + 6] */
        0xd8, 0x47, 0x02,       /* fadd dword [bx + 2] */
        0xd9, 0xe0,             /* fchs */
        0xd9, 0x36, 0xa0, 0x00, /* fnstenv [160] */
        0xdd, 0xd8,             /* fstp st(0) */
        0x42, 0x49,             /* inc dx; dec cx */
        0x75, 0xd3,             /* jnz again */
        0xf4,                   /* hlt */
    };

    (void)state;
    for (unsigned r = 0; r < 2; r++) {
        cpu_rig_mode(&rig[r], 16, 0);
        cpu_rig_code(&rig[r], CPU_RIG_TEXT, code, sizeof(code));
        rig[r].st.gpr[VMC_RAX] = 0x2000;
        rig[r].st.gpr[VMC_RDX] = 0x3000;
        assert_int_equal(cpu_rig_run(&rig[r], 0), VMC_EXIT_IDLE);
    }
    compare_pair(0, 0x30000 + 0x400, 0x400);
}

/* ---- 64-bit code and the targets of others --------------------------------------------------- */

#define COMPAT 0x30u /* selector of a 16-bit code segment at CPU_RIG_TEXT */

/* 64-bit code jumps to what the table of targets has for 16-bit code: no address. */
static void test_other_targets(void **state)
{
    static const uint8_t wide[] = {
        0x6a, COMPAT,                   /* push COMPAT */
        0x68, 0x00,   0x01, 0x00, 0x00, /* push 100h */
        0x48, 0xcb,                     /* retfq */
    };
    static const uint8_t narrow[] = {
        0xb9, 0x00, 0x02,                               /* mov cx, 512 */
        0xbb, 0x08, 0x01,                               /* mov bx, 108h */
        0xff, 0xe3,                                     /* again: jmp bx */
        0x40, 0x49,                                     /* 108h: inc ax; dec cx */
        0x75, 0xfa,                                     /* jnz again */
        0x66, 0xea, 0x00, 0x02, 0x01, 0x00, 0x08, 0x00, /* jmp 8:10200h */
    };
    static const uint8_t back[] = {0xff, 0xe2}; /* jmp rdx */
    const uint64_t descriptor =
        0xffffull | (uint64_t)CPU_RIG_TEXT << 16 | (uint64_t)0x9b << 40; /* 16-bit code */

    (void)state;
    for (unsigned k = 0; k < 32; k++) {
        for (unsigned r = 0; r < 2; r++) {
            cpu_rig_mode(&rig[r], 64, 0);
            memcpy(rig[r].ram + CPU_RIG_GDT + COMPAT, &descriptor, sizeof(descriptor));
            if (k == 0) {
                cpu_rig_code(&rig[r], CPU_RIG_TEXT, wide, sizeof(wide));
                cpu_rig_code(&rig[r], CPU_RIG_TEXT + 0x100, narrow, sizeof(narrow));
                cpu_rig_code(&rig[r], CPU_RIG_TEXT + 0x200, back, sizeof(back));
            }
            /* With the numbers of contexts as they are given: 1, 2, ... */
            rig[r].st.gpr[VMC_RDX] = 1ull << 62 | (uint64_t)(k / 8 + 1) << 32 | 0x10108;
            assert_int_equal(cpu_rig_run(&rig[r], 0), VMC_EXIT_IDLE);
        }
        assert_int_equal(rig[0].st.gpr[VMC_RAX] & 0xffff, 512);
        assert_int_equal(rig[0].st.rip, CPU_RIG_TRAPS + VMC_VEC_GP + 1);
        compare_pair(k, CPU_RIG_STACK, 0x2000);
    }
}

/* ---- flat code, but for FS and GS ------------------------------------------------------------ */

/*
 * An operand that goes round 4 GiB within a segment that has all of it: the base makes bytes side
 * by side of it, and yet it faults. In front of that it is accessed.
 */
static void test_around(void **state)
{
    static const struct {
        uint8_t bytes[6], n, size;
    } t[] = {
        {{0x8b, 0x07}, 2, 4},             /* mov eax, [edi] */
        {{0x89, 0x07}, 2, 4},             /* mov [edi], eax */
        {{0x66, 0x8b, 0x07}, 3, 2},       /* mov ax, [edi] */
        {{0x66, 0x01, 0x07}, 3, 2},       /* add [edi], ax */
        {{0x8a, 0x07}, 2, 1},             /* mov al, [edi] */
        {{0x0f, 0x6f, 0x07}, 3, 8},       /* movq mm0, [edi] */
        {{0x0f, 0x11, 0x07}, 3, 16},      /* movups [edi], xmm0 */
        {{0x8b, 0x44, 0x3f, 0x03}, 4, 4}, /* mov eax, [edi + edi + 3] */
        {{0x0f, 0x7f, 0x07}, 3, 8},       /* movq [edi], mm0 */
        {{0xff, 0x37}, 2, 4},             /* push dword [edi] */
    };
    static const uint8_t more[] = {0x83, 0xc7, 0x01, /* add edi, 1 */
                                   0x49, 0x75, 0,    /* dec ecx; jnz */
                                   0xf4};            /* hlt */
    static const uint8_t prefix[] = {0x64, 0x65};

    (void)state;
    for (unsigned k = 0; k < 2 * sizeof(t) / sizeof(t[0]); k++) {
        unsigned i = k / 2, n = 0, seg = k % 2 == 0 ? VMC_FS : VMC_GS;
        unsigned twice = t[i].n == 4; /* the address moves by 2 each time, and is odd */
        uint8_t code[32];
        code[n++] = prefix[k % 2];
        memcpy(code + n, t[i].bytes, t[i].n);
        n += t[i].n;
        memcpy(code + n, more, sizeof(more));
        code[n + 5] = (uint8_t)(0 - (n + 6));
        for (unsigned r = 0; r < 2; r++) {
            cpu_rig_mode(&rig[r], 32, 0);
            cpu_rig_code(&rig[r], CPU_RIG_TEXT, code, n + sizeof(more));
            memset(rig[r].ram + END - 0x1000, 0x33, 0x2000);
            rig[r].st.seg[seg].base = END + 16;
            rig[r].st.gpr[VMC_RCX] = 64;
            rig[r].st.gpr[VMC_RDI] = twice ? 0xffffffe0u / 2 : 0xffffffe0u;
            assert_int_equal(cpu_rig_run(&rig[r], 0), VMC_EXIT_IDLE);
            assert_int_equal(rig[r].st.rip, t[i].size == 1 ? CPU_RIG_TEXT + n + sizeof(more)
                                                           : CPU_RIG_TRAPS + VMC_VEC_GP + 1);
            if (t[i].size != 1)
                assert_int_equal((uint32_t)rig[r].st.gpr[VMC_RDI],
                                 twice ? 0x7ffffffdu : 0u - t[i].size + 1);
        }
        compare_pair(k, END, 0x1000);
    }
}

/* Such an operand at an address that the translator knows. */
static void test_around_known(void **state)
{
    static const uint8_t load[] = {0x8b, 0x1d, 0x20, 0, END >> 16, 0}; /* mov ebx, [END + 32] */
    static const uint8_t code[][8] = {
        {0x64, 0xa1, 0xfd, 0xff, 0xff, 0xff, 0xf4},       /* mov eax, fs:[-3] */
        {0x64, 0xa1, 0xfc, 0xff, 0xff, 0xff, 0xf4},       /* mov eax, fs:[-4] */
        {0x65, 0x8b, 0x05, 0xff, 0xff, 0xff, 0xff, 0xf4}, /* mov eax, gs:[-1] */
        {0x65, 0x8b, 0x05, 0xfc, 0xff, 0xff, 0xff, 0xf4}, /* mov eax, gs:[-4] */
    };

    (void)state;
    for (unsigned k = 0; k < sizeof(code) / sizeof(code[0]); k++) {
        for (unsigned r = 0; r < 2; r++) {
            cpu_rig_code(&rig[r], CPU_RIG_TEXT, load, sizeof(load));
            cpu_rig_code(&rig[r], CPU_RIG_TEXT + sizeof(load), code[k], sizeof(code[k]));
            memset(rig[r].ram + END - 0x1000, 0x44, 0x2000);
            for (unsigned again = 0; again < 4; again++) { /* the page is known by then */
                cpu_rig_mode(&rig[r], 32, 0);
                rig[r].st.seg[VMC_FS].base = rig[r].st.seg[VMC_GS].base = END + 16;
                assert_int_equal(cpu_rig_run(&rig[r], 0), VMC_EXIT_IDLE);
                assert_int_equal(rig[r].st.rip == CPU_RIG_TRAPS + VMC_VEC_GP + 1, k % 2 == 0);
                assert_int_equal(rig[r].st.gpr[VMC_RAX], k % 2 == 0 ? 0 : 0x44444444);
            }
        }
        compare_pair(k, END, 0x1000);
    }
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_real),    T(test_v86),          T(test_prot16), T(test_prot32),
        T(test_stack32), T(test_stack16),      T(test_fds),    T(test_other_targets),
        T(test_around),  T(test_around_known), T(test_flat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
