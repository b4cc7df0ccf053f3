/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Software interrupts through gates that are not as they should be, the segment that an operand
 * belongs to, INVLPG of what cannot be accessed, code across the end of the address space, code of
 * 16-bit segments beyond 64 KiB, stacks of a TSS that is too short.
 */
#include "kern.h"

#define UD 6
#define TS 10
#define NP 11
#define SS 12
#define GP 13
#define PF 14

static const char *level(bool user)
{
    return user ? "level 3" : "level 0";
}

static void jump(void *p)
{
    __asm__ volatile("jmp *%0" : : "r"(p) : "memory");
}

/* Put code at USER_AREA, INT 80h behind it, and run it. */
static long run(const uint8_t *code, size_t bytes, bool user)
{
    static const uint8_t end[] = {0xcd, 0x80};
    uint8_t *at = (uint8_t *)USER_AREA;

    memcpy(at, code, bytes);
    memcpy(at + bytes, end, sizeof(end));
    return user ? try_user(USER_AREA, 0) : try_call(jump, at);
}

/* ---- software interrupts --------------------------------------------------------------------- */

extern uint8_t exc_stubs[];

static void gate(unsigned vector, unsigned dpl, bool present)
{
    uint64_t at = (unsigned long)exc_stubs + 16 * vector;
    uint64_t sel = sizeof(long) == 8 ? SEL_CODE64 : SEL_CODE32;

    set_raw_gate(vector, (at & 0xffff) | sel << 16 |
                             (uint64_t)(0x0e | dpl << 5 | present << 7) << 40 |
                             (at >> 16 & 0xffff) << 48);
}

struct soft {
    const char *name;
    uint8_t code[2], bytes, vector;
    bool icebp, into; /* not checked as INT n is; not in 64-bit mode */
};
static const struct soft softs[] = {
    {"INT3", {0xcc}, 1, 3, false, false}, {"INT 3", {0xcd, 3}, 2, 3, false, false},
    {"INT1", {0xf1}, 1, 1, true, false},  {"INT 1", {0xcd, 1}, 2, 1, false, false},
    {"INTO", {0xce}, 1, 4, false, true},
};

/* One of them, behind a prefix that changes nothing, with the gate as gate() has made it. */
static void soft(const struct soft *s, unsigned prefixes, bool user, unsigned dpl, bool present)
{
    static const uint8_t overflow[] = {0xb0, 0x7f, 0x04, 0x7f}; /* MOV AL, ADD AL */
    uint8_t code[8];
    size_t n = sizeof(overflow);
    long want = s->vector;
    unsigned long err = 0, rip = USER_AREA;

    memcpy(code, overflow, n);
    for (unsigned i = 0; i < prefixes; i++)
        code[n++] = 0x67;
    memcpy(code + n, s->code, s->bytes);
    n += s->bytes;
    if (s->into && sizeof(long) == 8) {
        want = UD;
    } else if (user && dpl < 3 && !s->icebp) {
        want = GP;
        err = 8u * s->vector + 2;
    } else if (!present) {
        want = NP;
        err = 8u * s->vector + 2 + s->icebp;
    }
    rip += want == s->vector ? n : sizeof(overflow);
    long r = run(code, n, user);
    CHECK(r == want && fault.code == err && fault.rip == rip,
          "%s at %s, gate of level %u%s: exception %ld, code %lx, at %lx", s->name, level(user),
          dpl, present ? "" : ", not present", r, fault.code, fault.rip - USER_AREA);
}

static void software_interrupts(void)
{
    for (unsigned i = 0; i < sizeof(softs) / sizeof(softs[0]); i++)
        for (unsigned k = 0; k < 16; k++) {
            unsigned dpl = (k & 2) != 0 ? 3 : 0;
            bool present = (k & 4) != 0;
            gate(softs[i].vector, dpl, present);
            soft(&softs[i], k >> 3, (k & 1) != 0, dpl, present);
            gate(softs[i].vector, 0, true);
        }
}

/* ---- segments of operands -------------------------------------------------------------------- */

/* MOV AL, [base] with a prefix and an address that no segment takes: #SS tells that it was SS. */
static void operand_segments(void)
{
    static const uint8_t prefix[] = {0, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    bool wide = sizeof(long) == 8;
    unsigned long bad = wide ? (unsigned long)(1ull << 63 | 1u << 30) : 0x80000001ul;

    for (unsigned p = 0; p < sizeof(prefix); p++)
        for (unsigned base = 0; base < (wide ? 16 : 8); base++) {
            uint8_t code[32];
            size_t n = 0;
            bool stack = base == 4 || base == 5;
            long want = stack ? SS : GP;

            if (p >= 5 || (p > 0 && !wide)) /* 64-bit mode ignores the first four */
                want = prefix[p] == 0x36 ? SS : GP;
            if (wide)
                code[n++] = 0x48 | (base >= 8);
            code[n++] = (uint8_t)(0xb8 + (base & 7));
            memcpy(code + n, &bad, sizeof(bad));
            n += sizeof(bad);
            if (p > 0)
                code[n++] = prefix[p];
            if (base >= 8)
                code[n++] = 0x41;
            code[n++] = 0x8a;
            code[n++] = (uint8_t)(0x40 | (base & 7));
            if ((base & 7) == 4)
                code[n++] = 0x24;
            code[n++] = 0;
            long r = run(code, n, true);
            CHECK(r == want && fault.code == 0, "prefix %x, base %u: exception %ld, code %lx",
                  prefix[p], base, r, fault.code);
        }
}

/* 32-bit: segments of 2 GiB, of which those of level 3 are made for a while. */
static void in_short_segments(void (*fn)(void))
{
    uint64_t code = gdt[SEL_UCODE32 / 8], data = gdt[SEL_UDATA / 8];

    if (sizeof(long) == 4) {
        gdt[SEL_UCODE32 / 8] = 0x00c7fb000000ffff;
        gdt[SEL_UDATA / 8] = 0x00c7f3000000ffff;
        __asm__ volatile("mov %w0, %%fs\n\tmov %w0, %%gs" : : "r"(SEL_UDATA));
    }
    fn();
    gdt[SEL_UCODE32 / 8] = code;
    gdt[SEL_UDATA / 8] = data;
    __asm__ volatile("mov %w0, %%fs\n\tmov %w0, %%gs" : : "r"(SEL_DATA));
}

/* ---- INVLPG ---------------------------------------------------------------------------------- */

static void invlpg_at(void *p)
{
    invlpg((unsigned long)p);
}
static void invlpg_fs(void *p)
{
    __asm__ volatile("invlpg %%fs:(%0)" : : "r"(p) : "memory");
}

static void load_fs(unsigned sel)
{
    __asm__ volatile("mov %w0, %%fs" : : "r"(sel));
}

/* It faults for no segment and no address; a memory operand there is demanded. */
static void invlpgs(void)
{
    static const uint8_t reg[] = {0x0f, 0x01, 0xfb}; /* reads as INVLPG EBX */

    CHECK(try_call(invlpg_at, (void *)0x1000) == -1, "INVLPG");
    load_fs(0);
    CHECK(try_call(invlpg_fs, NULL) == -1, "INVLPG with a NULL segment: %ld", fault.vector);
    gdt[SEL_FREE / 8] = 0x0040930000000001;
    load_fs(SEL_FREE);
    CHECK(try_call(invlpg_fs, (void *)0x2000) == -1, "INVLPG beyond the limit: %ld", fault.vector);
    gdt[SEL_FREE / 8] = 0x0040970000000001; /* expands down */
    load_fs(SEL_FREE);
    CHECK(try_call(invlpg_fs, NULL) == -1, "INVLPG below the limit: %ld", fault.vector);
    gdt[SEL_FREE / 8] = 0x0040990000000001; /* not readable */
    load_fs(0);
    if (sizeof(long) == 8) {
        unsigned long edge = (unsigned long)(1ull << 47);
        CHECK(try_call(invlpg_at, (void *)edge) == -1, "INVLPG, not canonical: %ld", fault.vector);
        wrmsr(0xc0000100u, edge - 1);
        CHECK(try_call(invlpg_fs, (void *)(edge - 1)) == -1, "INVLPG, base: %ld", fault.vector);
        wrmsr(0xc0000100u, 0);
    }
    CHECK(run(reg, sizeof(reg), false) == UD, "INVLPG of a register: %ld", fault.vector);
    load_fs(SEL_DATA);
}

/* ---- code at the edges ----------------------------------------------------------------------- */

#ifdef __x86_64__
static uint64_t top_pdpt[512] __attribute__((aligned(4096)));
static uint64_t top_pd[512] __attribute__((aligned(4096)));

static void call_it(void *p)
{
    unsigned r;
    __asm__ volatile("call *%1" : "=&a"(r) : "r"(*(void **)p) : "memory");
    *(unsigned long *)p = r;
}

/* RIP goes from the last byte of the address space to the first, within an instruction, too. */
static void wrap_around(void)
{
    static const uint8_t code[] = {0xb8, 0xde, 0xc0, 0xad,
                                   0x0b, 0x90, 0xc3}; /* MOV EAX; NOP; RET */
    uint64_t *root = (uint64_t *)(rd_cr3() & ~0xffful);
    uint8_t *top = (uint8_t *)0x600000 + 0x200000, *bottom = NULL;

    __asm__("" : "+r"(bottom)); /* there is memory at 0 */
    top_pd[511] = 0x600083;
    top_pdpt[511] = (unsigned long)top_pd | 3;
    root[511] = (unsigned long)top_pdpt | 3;
    for (unsigned before = 1; before < sizeof(code); before++) {
        memcpy(top - before, code, before);
        memcpy(bottom, code + before, sizeof(code) - before);
        for (unsigned i = 0; i < 40; i++) { /* often enough to be translated */
            unsigned long r = -(unsigned long)before;
            CHECK(try_call(call_it, &r) == -1 && r == 0x0badc0de,
                  "%u bytes before the end: exception %ld at %lx, %lx", before, fault.vector,
                  fault.rip, r);
        }
    }
    root[511] = 0;
    wr_cr3(rd_cr3());
}

/* An interrupt to level 1, whose stack lies beyond the TSS. */
static void short_tss(void)
{
    static const uint8_t code[] = {0xcd, 0x50};
    uint64_t good = gdt[SEL_TSS / 8];

    gdt[SEL_TSS / 8] = (good & ~(0xffffull | 2ull << 40)) | 11; /* RSP0 and no more */
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
    gdt[SEL_FREE / 8] = 0x00afbb000000ffff;
    set_raw_gate(0x50, 0x0000ee0000000000 | (uint64_t)(SEL_FREE | 1) << 16);
    long r = run(code, sizeof(code), true);
    CHECK(r == TS && fault.code == SEL_TSS && fault.rip == USER_AREA,
          "interrupt to level 1 with a short TSS: exception %ld, code %lx", r, fault.code);
    gdt[SEL_TSS / 8] = good & ~(2ull << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}
#endif

/*
 * Code of a 16-bit segment whose limit is 4 GiB: EIP is not cut to 16 bits from one instruction to
 * the next, but by jumps. Entered at EIP, it ends by INT 80h.
 */
static void enter16(void *p)
{
    unsigned long to[2] = {(unsigned long)p, SEL_FREE};
#ifdef __x86_64__
    __asm__ volatile("push %1\n\tpush %0\n\tlretq" : : "r"(to[0]), "r"(to[1]) : "memory");
#else
    __asm__ volatile("push %1\n\tpush %0\n\tlret" : : "r"(to[0]), "r"(to[1]) : "memory");
#endif
}

static void beyond_64k(void)
{
    uint8_t *base = (uint8_t *)USER_AREA;

    gdt[SEL_FREE / 8] = 0x008f9b000000ffff | (uint64_t)USER_AREA << 16;
    memset(base, 0x90, 0x20000);
    base[0x10010] = 0xcd, base[0x10011] = 0x80;
    base[0x0123] = 0x0f, base[0x0124] = 0x0b; /* UD2 */
    memcpy(base + 0x10100, (const uint8_t[]){0xe9, 0x20, 0x00},
           3); /* JMP to 123h of the lower 64 KiB */
    CHECK(try_call(enter16, (void *)0xfff0) == -1, "over 64 KiB: exception %ld at %lx",
          fault.vector, fault.rip);
    CHECK(fault.rip == 0x10012, "over 64 KiB: at %lx", fault.rip);
    CHECK(try_call(enter16, (void *)0x10000) == -1, "above 64 KiB: exception %ld at %lx",
          fault.vector, fault.rip);
    CHECK(try_call(enter16, (void *)0x10100) == UD && fault.rip == 0x123,
          "a 16-bit jump above 64 KiB: exception %ld at %lx", fault.vector, fault.rip);
    base[0xffff] = 0xb8; /* MOV AX, imm16 across the border */
    memcpy(base + 0x10000, (const uint8_t[]){0x34, 0x12, 0xcd, 0x80}, 4);
    CHECK(try_call(enter16, (void *)0xffff) == -1 && fault.rip == 0x10004,
          "across 64 KiB: %ld at %lx", fault.vector, fault.rip);
}

void test_main(void)
{
    software_interrupts();
    in_short_segments(operand_segments);
    invlpgs();
    beyond_64k();
#ifdef __x86_64__
    wrap_around();
    short_tss();
#endif
}
