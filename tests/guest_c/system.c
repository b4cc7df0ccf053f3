/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * System instructions and registers of 64-bit mode at their edges: which faults they make, and what
 * they leave behind. Each feature is tested for what it does where CPUID has it, and for #UD or #GP
 * where it has not.
 */
#include "kern.h"

#define UD 6
#define SS 12
#define GP 13
#define PF 14

#define CR4_UMIP     (1ul << 11)
#define CR4_PCIDE    (1ul << 17)
#define CR4_OSXSAVE  (1ul << 18)
#define MSR_TSC      0x10u
#define MSR_ADJUST   0x3bu
#define MSR_LSTAR    0xc0000082u
#define MSR_FS_BASE  0xc0000100u
#define MSR_GS_BASE  0xc0000101u
#define MSR_KGS_BASE 0xc0000102u

static uint64_t arg[8]; /* of the functions below */
static uint8_t area[4096] __attribute__((aligned(4096)));

#define EXPECT(want, fn, ...)                                                                      \
    do {                                                                                           \
        long got_ = try_call(fn, NULL);                                                            \
        CHECK(got_ == (want), __VA_ARGS__);                                                        \
        if (got_ != (want))                                                                        \
            print("     %d, not %d; code %lx\n", (int)got_, (int)(want), fault.code);              \
    } while (0)
/* A function that is one piece of assembly. */
#define CODE(name, text, ...)                                                                      \
    static void name(void *p)                                                                      \
    {                                                                                              \
        (void)p;                                                                                   \
        __asm__ volatile(text : : __VA_ARGS__);                                                    \
    }

/* ---- canonical addresses --------------------------------------------------------------------- */

CODE(do_load, "mov (%0), %%al", "r"(arg[0]) : "rax", "memory")
CODE(do_load_bp, "push %%rbp; mov %0, %%rbp; mov (%%rbp), %%al; pop %%rbp", "r"(arg[0])
     : "rax", "memory")
CODE(do_jump, "jmp *%0", "r"(arg[0]) : "memory")
CODE(do_wrmsr, "wrmsr", "c"((uint32_t)arg[1]), "a"((uint32_t)arg[0]), "d"((uint32_t)(arg[0] >> 32))
     : "memory")
CODE(do_lgdt, "lgdt (%0)", "r"((char *)arg + 6) : "memory")
CODE(do_cr4, "mov %0, %%cr4", "r"(arg[0]) : "memory")
CODE(do_cr3, "mov %0, %%cr3", "r"(arg[0]) : "memory")
CODE(do_invlpg, "invlpg (%0)", "r"(arg[0]) : "memory")

static void canonical(void)
{
    bool cpu57 = cpu_has(7, 2, 16), now57 = (rd_cr4() & CR4_LA57) != 0;
    static const struct {
        uint64_t at;
        unsigned width; /* canonical from this width on */
    } t[] = {{0x00007ffffffff000, 48}, {0xffff800000000000, 48}, {0x0000800000000000, 57},
             {0x00fffffffffff000, 57}, {0xff00000000000000, 57}, {0x0100000000000000, 64},
             {0xfeffffffffffff00, 64}, {0x8000000000000000, 64}};

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        bool ok = t[i].width <= (now57 ? 57u : 48u), loads = t[i].width <= (cpu57 ? 57u : 48u);
        arg[0] = t[i].at;
        EXPECT(ok ? PF : GP, do_load, "load from %lx", arg[0]);
        EXPECT(ok ? PF : SS, do_load_bp, "load by RBP from %lx", arg[0]);
        EXPECT(ok ? PF : GP, do_jump, "jump to %lx", arg[0]);
        CHECK(!ok || fault.rip == arg[0], "fault of the jump is at its target");
        EXPECT(-1, do_invlpg, "invlpg %lx", arg[0]);
        arg[1] = MSR_KGS_BASE;
        EXPECT(loads ? -1 : GP, do_wrmsr, "KERNEL_GS_BASE = %lx", arg[0]);
        arg[1] = MSR_FS_BASE;
        EXPECT(loads ? -1 : GP, do_wrmsr, "FS_BASE = %lx", arg[0]);
        arg[1] = MSR_LSTAR;
        EXPECT(loads ? -1 : GP, do_wrmsr, "LSTAR = %lx", arg[0]);
    }
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) old;
    __asm__ volatile("sgdt %0" : "=m"(old));
    arg[0] = (uint64_t)0xffff << 48;
    arg[1] = 0x0123000000000000;
    EXPECT(GP, do_lgdt, "lgdt with a base that is not canonical");
    __asm__ volatile("lgdt %0" : : "m"(old));
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_KGS_BASE, 0);
    arg[0] = rd_cr4() ^ CR4_LA57;
    EXPECT(GP, do_cr4, "LA57 changes in long mode");
    arg[0] = rd_cr4() | 1ul << 63;
    EXPECT(GP, do_cr4, "reserved bit of CR4");
}

CODE(do_ltr, "ltr %w0", "r"(SEL_FREE) : "memory")
CODE(do_lldt, "lldt %w0", "r"(SEL_FREE) : "memory")

/* Bases from descriptors: system segments' have 64 bits. */
static void bases(void)
{
    static const uint64_t t[] = {0xffff812345678000, 0x0100000000000000, 0x0000800000000000,
                                 0xff55555555000000};
    bool wide = cpu_has(7, 2, 16);
    volatile uint64_t *d = (volatile uint64_t *)&gdt[SEL_FREE / 8];

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        bool ok = i == 0 || (wide && i >= 2);
        for (unsigned type = 2; type <= 9; type += 7) {
            d[0] =
                0x67 | (t[i] & 0xffffff) << 16 | (0x80ull | type) << 40 | (t[i] >> 24 & 0xff) << 56;
            d[1] = t[i] >> 32;
            EXPECT(ok ? -1 : GP, type == 2 ? do_lldt : do_ltr, "type %u, base %lx", type, t[i]);
            CHECK(ok || fault.code == SEL_FREE, "type %u, base %lx: code %lx", type, t[i],
                  fault.code);
            CHECK(((d[0] >> 40 & 2) != 0) == (type == 2 || ok), "busy");
        }
    }
    __asm__ volatile("lldt %w0" : : "r"(0));
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

/* An instruction that ends where addresses stop being canonical; the next one faults there. */
static void last_page(void)
{
    static const uint8_t code[] = {0x90, 0x90, 0x0f, 0x05}; /* nop; nop; syscall */
    uint64_t *pml4 = (uint64_t *)(rd_cr3() & ~0xffful), *top = pml4;

    if ((rd_cr4() & CR4_LA57) != 0)
        return;
    static uint64_t tables[3][512] __attribute__((aligned(4096)));
    for (unsigned i = 0; i < 3; i++) {
        top[i == 0 ? 255 : 511] = (uint64_t)tables[i] | 7;
        top = tables[i];
    }
    top[511] = (uint64_t)area | 7;
    memcpy(area + 4096 - 2, code, 2);
    arg[0] = 0x7ffffffffffe;
    for (unsigned i = 0; i < 3; i++) {
        EXPECT(GP, do_jump, "beyond the last canonical address");
        CHECK(fault.rip == 0x800000000000 && fault.code == 0, "at %lx", fault.rip);
    }
    CHECK(try_user(arg[0], 0) == GP && fault.rip == 0x800000000000, "at level 3: %lx", fault.rip);
    memcpy(area + 4096 - 2, "\xeb\xfe", 2); /* a jump within */
    area[4095] = 0x00;                      /* to the instruction behind it */
    EXPECT(GP, do_jump, "a jump beyond");
    CHECK(fault.rip == 0x800000000000 || fault.rip == arg[0], "at %lx", fault.rip);
    pml4[255] = 0;
    wr_cr3(rd_cr3());
}

/* ---- protection keys, XSAVE ------------------------------------------------------------------ */

CODE(do_rdpkru, "rdpkru", "c"((uint32_t)arg[0]) : "rax", "rdx")
CODE(do_wrpkru, "wrpkru", "c"((uint32_t)arg[0]), "a"((uint32_t)arg[1]), "d"((uint32_t)arg[2])
     : "memory")
CODE(do_xgetbv, "xgetbv", "c"((uint32_t)arg[0]) : "rax", "rdx")
CODE(do_xsetbv, "xsetbv", "c"((uint32_t)arg[1]), "a"((uint32_t)arg[0]),
     "d"((uint32_t)(arg[0] >> 32))
     : "memory")
CODE(do_xrstor, "xrstor (%0)", "r"(area), "a"((uint32_t)arg[0]), "d"(0) : "memory")
CODE(do_xsave, "xsave (%0)", "r"(area), "a"((uint32_t)arg[0]), "d"(0) : "memory")

static uint32_t pkru(void)
{
    uint32_t v;
    __asm__ volatile("rdpkru" : "=a"(v) : "c"(0) : "rdx");
    return v;
}

static uint64_t xgetbv(uint32_t i)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(i));
    return lo | (uint64_t)hi << 32;
}

static void set_args(uint64_t a, uint64_t b, uint64_t c)
{
    arg[0] = a;
    arg[1] = b;
    arg[2] = c;
}

static void keys(void)
{
    uint32_t r[4];

    if (!cpu_has(7, 2, 3)) {
        EXPECT(UD, do_rdpkru, "RDPKRU without PKU");
        return;
    }
    set_args(0, 0, 0);
    CHECK(!cpu_has(7, 2, 4), "OSPKE is clear");
    EXPECT(UD, do_rdpkru, "RDPKRU with CR4.PKE clear");
    EXPECT(UD, do_wrpkru, "WRPKRU with CR4.PKE clear");
    wr_cr4(rd_cr4() | CR4_PKE);
    CHECK(cpu_has(7, 2, 4), "OSPKE is set");
    EXPECT(-1, do_rdpkru, "RDPKRU");
    set_args(1, 0, 0);
    EXPECT(GP, do_rdpkru, "RDPKRU with ECX 1");
    EXPECT(GP, do_wrpkru, "WRPKRU with ECX 1");
    set_args(0, 0, 1);
    EXPECT(GP, do_wrpkru, "WRPKRU with EDX 1");
    set_args(0, 0xabcdef55, 0);
    EXPECT(-1, do_wrpkru, "WRPKRU");
    CHECK(pkru() == 0xabcdef55, "PKRU holds what was written");
    cpuid(0xd, 0, r);
    if (!cpu_has(1, 2, 26) || (r[0] & 0x200) == 0)
        return;
    wr_cr4(rd_cr4() | CR4_OSXSAVE);
    set_args(0x203, 0, 0);
    EXPECT(-1, do_xsetbv, "XCR0 with PKRU");
    cpuid(0xd, 9, r);
    CHECK(r[0] == 8 && r[2] == 0, "component 9 has 8 bytes");
    unsigned at = r[1];
    memset(area, 0, sizeof(area));
    set_args(0x200, 0, 0);
    EXPECT(-1, do_xsave, "XSAVE of PKRU");
    CHECK(*(uint32_t *)(void *)(area + at) == 0xabcdef55, "PKRU in memory");
    CHECK(area[513] == 2 && area[512] == 0, "XSTATE_BV");
    *(uint32_t *)(void *)(area + at) = 0x55aa;
    EXPECT(-1, do_xrstor, "XRSTOR of PKRU");
    CHECK(pkru() == 0x55aa, "PKRU is loaded");
    area[513] = 0;
    EXPECT(-1, do_xrstor, "XRSTOR of initial PKRU");
    CHECK(pkru() == 0, "PKRU is initial");
    EXPECT(-1, do_xsave, "XSAVE of initial PKRU");
    CHECK((area[513] & 2) == 0, "initial state is not in use");
    set_args(1, 0, 0);
    EXPECT(-1, do_xsetbv, "XCR0 with x87 only");
    wr_cr4(rd_cr4() & ~(CR4_PKE | CR4_OSXSAVE));
}

static void xcr0(void)
{
    static const uint64_t bad[] = {0, 2, 4, 5, 8ull << 60, 0x10, 1ull << 62};

    set_args(0, 0, 0);
    EXPECT(UD, do_xgetbv, "XGETBV with OSXSAVE clear");
    if (!cpu_has(1, 2, 26))
        return;
    wr_cr4(rd_cr4() | CR4_OSXSAVE);
    CHECK(cpu_has(1, 2, 27), "OSXSAVE in CPUID");
    EXPECT(-1, do_xgetbv, "XGETBV");
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        set_args(bad[i], 0, 0);
        EXPECT(GP, do_xsetbv, "XCR0 = %lx", arg[0]);
    }
    set_args(3, 1, 0);
    EXPECT(GP, do_xsetbv, "XSETBV 1");
    set_args(3, 0, 0);
    EXPECT(-1, do_xsetbv, "XCR0 = 3");
    uint32_t r[4];
    cpuid(0xd, 1, r);
    set_args(1, 0, 0);
    EXPECT((r[0] & 4) != 0 ? -1 : GP, do_xgetbv, "XGETBV 1");
    if ((r[0] & 4) != 0) {
        memset(area, 0, 1024);
        set_args(3, 0, 0);
        area[24] = 0x80, area[25] = 0x1f;
        EXPECT(-1, do_xrstor, "XRSTOR of initial state");
        CHECK((xgetbv(1) & 2) == 0, "XMM registers are not in use");
        __asm__ volatile("pcmpeqb %%xmm5, %%xmm5" : : : "memory");
        CHECK((xgetbv(1) & 2) != 0, "XMM registers are in use");
    }
    set_args(2, 0, 0);
    EXPECT(GP, do_xgetbv, "XGETBV 2");
    set_args(1, 0, 0);
    EXPECT(-1, do_xsetbv, "XCR0 = 1");
    wr_cr4(rd_cr4() & ~CR4_OSXSAVE);
}

/* ---- address spaces -------------------------------------------------------------------------- */

CODE(do_invpcid, "invpcid (%0), %1", "r"(&arg[1]), "r"(arg[0]) : "memory")

static void pcids(void)
{
    if (!cpu_has(7, 1, 10)) {
        set_args(0, 0, 0);
        EXPECT(UD, do_invpcid, "INVPCID that is missing");
        return;
    }
    for (unsigned on = 0; on < 2; on++) {
        for (unsigned type = 0; type < 6; type++) {
            set_args(type, 0, (uint64_t)area);
            EXPECT(type < 4 ? -1 : GP, do_invpcid, "type %u, PCIDE %u", type, on);
            set_args(type, 5, (uint64_t)area);
            EXPECT(type < (on ? 4u : 0u) || type == 2 || type == 3 ? -1 : GP, do_invpcid,
                   "type %u, PCID 5, PCIDE %u", type, on);
            set_args(type, 0x1000, (uint64_t)area);
            EXPECT(GP, do_invpcid, "type %u, reserved bit, PCIDE %u", type, on);
            set_args(type, 0, 1ull << 60);
            EXPECT(type == 0 || type > 3 ? GP : -1, do_invpcid, "type %u, address, PCIDE %u", type,
                   on);
        }
        if (on == 0) {
            unsigned long cr3 = rd_cr3();
            wr_cr3(cr3 | 8);
            arg[0] = rd_cr4() | CR4_PCIDE;
            EXPECT(GP, do_cr4, "PCIDE with a PCID in CR3");
            wr_cr3(cr3);
            arg[0] = cr3 | 1ul << 63;
            EXPECT(GP, do_cr3, "bit 63 of CR3 without PCIDE");
            wr_cr4(rd_cr4() | CR4_PCIDE);
            arg[0] = cr3 | 1ul << 63 | 3;
            EXPECT(-1, do_cr3, "bit 63 of CR3 with PCIDE");
            CHECK(rd_cr3() == (cr3 | 3), "CR3 without bit 63");
            wr_cr3(cr3);
        }
    }
    wr_cr4(rd_cr4() & ~CR4_PCIDE);
}

/* ---- time, waiting --------------------------------------------------------------------------- */

CODE(do_monitor, "monitor", "a"(area), "c"((uint32_t)arg[0]), "d"(0) : "memory")
CODE(do_mwait, "mwait", "a"(0), "c"((uint32_t)arg[0]) : "memory")
CODE(do_rdpru, ".byte 0x0f, 0x01, 0xfd", "c"(0) : "rax", "rdx")

static void waiting(void)
{
    bool has = cpu_has(1, 2, 3);

    set_args(0, 0, 0);
    EXPECT(has ? -1 : UD, do_monitor, "MONITOR");
    if (!has)
        EXPECT(UD, do_mwait, "MWAIT");
    set_args(4, 0, 0);
    EXPECT(has ? GP : UD, do_monitor, "MONITOR with hints");
    EXPECT(has ? GP : UD, do_mwait, "MWAIT with hints");
    if (!cpu_has(0x80000008u, 1, 4))
        EXPECT(UD, do_rdpru, "RDPRU");
}

static uint64_t rdtsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
    return lo | (uint64_t)hi << 32;
}

static void clock(void)
{
    if (!cpu_has(7, 1, 1))
        return;
    uint64_t big = 1ull << 50, before = rdmsr(MSR_ADJUST);
    wrmsr(MSR_ADJUST, before + big);
    CHECK(rdtsc() >= big, "TSC_ADJUST moves the TSC");
    CHECK(rdmsr(MSR_ADJUST) == before + big, "TSC_ADJUST holds");
    wrmsr(MSR_TSC, 0);
    CHECK(rdtsc() < big, "the TSC is written");
    CHECK((int64_t)rdmsr(MSR_ADJUST) <= (int64_t)before, "which shows in TSC_ADJUST");
}

/* ---- level 3 --------------------------------------------------------------------------------- */

/* Run code at level 3; it ends by INT 80h. */
static long at_user(const uint8_t *code, unsigned bytes, unsigned long a)
{
    memcpy((void *)USER_AREA, code, bytes);
    return try_user(USER_AREA, a);
}
#define USER(a, ...)                                                                               \
    at_user((const uint8_t[]){__VA_ARGS__, 0xcd, 0x80}, sizeof((uint8_t[]){__VA_ARGS__}) + 2, a)

static void user_mode(void)
{
    unsigned long buf = USER_AREA + 0x1000;

    CHECK(USER(buf, 0x0f, 0x01, 0xe0) == -1, "SMSW at level 3");
    if (cpu_has(7, 2, 2)) {
        wr_cr4(rd_cr4() | CR4_UMIP);
        CHECK(USER(buf, 0x0f, 0x01, 0xe0) == GP, "SMSW with UMIP");
        CHECK(USER(buf, 0x0f, 0x01, 0x03) == GP, "SGDT with UMIP");
        CHECK(USER(buf, 0x0f, 0x01, 0x0b) == GP, "SIDT with UMIP");
        CHECK(USER(buf, 0x0f, 0x00, 0xc0) == GP, "SLDT with UMIP");
        CHECK(USER(buf, 0x0f, 0x00, 0xc8) == GP, "STR with UMIP");
        CHECK(USER(0, 0x0f, 0x01, 0x03) == GP, "SGDT with UMIP to a bad address");
        wr_cr4(rd_cr4() & ~CR4_UMIP);
    }
    CHECK(USER(buf, 0x0f, 0x01, 0x3b) == GP, "INVLPG at level 3");
    CHECK(USER(buf, 0xf4) == GP, "HLT at level 3");
    CHECK(USER(buf, 0x0f, 0x30) == GP, "WRMSR at level 3");
    CHECK(USER(buf, 0x0f, 0x06) == GP, "CLTS at level 3");
    CHECK(USER(buf, 0x0f, 0x20, 0xc0) == GP, "MOV from CR0 at level 3");
    CHECK(USER(buf, 0x0f, 0x21, 0xc0) == GP, "MOV from DR0 at level 3");
    CHECK(USER(buf, 0xfa) == GP, "CLI at level 3");
    CHECK(USER(buf, 0xec) == GP, "IN at level 3");
    CHECK(USER(buf, 0x0f, 0x01, 0xcb) == UD, "STAC at level 3");
    CHECK(USER(buf, 0x0f, 0x01, 0xf8) == GP, "SWAPGS at level 3");
    CHECK(USER(buf, 0x0f, 0x01, 0xc8) == UD, "MONITOR at level 3");
    CHECK(USER(buf, 0x0f, 0x07) == UD || (rdmsr(MSR_EFER) & 1) != 0, "SYSRET without SCE");
    CHECK(USER(buf, 0x48, 0x0f, 0x07) == GP, "SYSRET at level 3");
    CHECK(USER(buf, 0xcd, 0x20) == GP && fault.code == 0x20 * 8 + 2, "INT 20h at level 3");
    CHECK(USER(buf, 0xf0, 0x90) == UD, "LOCK NOP");
    CHECK(USER(buf, 0xf0, 0x0f, 0xc7, 0xc8) == UD, "CMPXCHG8B of a register");
    CHECK(USER(buf + 8, 0x48, 0x0f, 0xc7, 0x0b) == GP || !cpu_has(1, 2, 13),
          "CMPXCHG16B of 8 bytes' alignment");
    CHECK(USER(buf, 0x48, 0x0f, 0xc7, 0x0b) == -1 || !cpu_has(1, 2, 13), "CMPXCHG16B");
    CHECK(USER(buf, 0x06) == UD, "PUSH ES in 64-bit mode");
}

static struct regs last;
static bool keep_regs(struct regs *r)
{
    last = *r;
    return false;
}

/* Selectors of level 0, and NULL ones, on the way to level 3. */
static void outward(void)
{
    static const uint8_t read_gs[] = {0x65, 0x48, 0x8b, 0x1b, /* mov rbx, gs:[rbx] */
                                      0x8c, 0xe9, 0x8c, 0xda, /* mov ecx, gs; mov edx, ds */
                                      0x8c, 0xc6, 0x8c, 0xe7, /* mov esi, es; mov edi, fs */
                                      0xcd, 0x80};
    volatile uint64_t *word = (volatile uint64_t *)(USER_AREA + 0x1008);

    exc_hook = keep_regs;
    *word = 0x1122334455667788;
    for (uint16_t null = 0; null < 4; null++) {
        __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %1, %%gs"
                         :
                         : "r"((uint32_t)null), "r"(SEL_DATA));
        wrmsr(MSR_GS_BASE, USER_AREA + 0x1000);
        CHECK(at_user(read_gs, sizeof(read_gs), 8) == -1, "to level 3 with GS of level 0");
        CHECK(last.rbx == *word, "the base of GS is lost: %lx", last.rbx);
        CHECK((last.rcx & 0xffff) == 0 && rdmsr(MSR_GS_BASE) == USER_AREA + 0x1000, "GS %lx",
              last.rcx);
        CHECK((last.rdx & 0xffff) == 0 && (last.rsi & 0xffff) == 0, "NULL selectors: %lx %lx",
              last.rdx, last.rsi);
        CHECK((last.rdi & 0xffff) == 0, "FS: %lx", last.rdi);
    }
    wrmsr(MSR_GS_BASE, 0);
    exc_hook = NULL;
}

void test_main(void)
{
    canonical();
    bases();
    last_page();
    keys();
    xcr0();
    pcids();
    waiting();
    clock();
    user_mode();
    outward();
}
