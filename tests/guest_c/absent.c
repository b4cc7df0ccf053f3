/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What CPUID says is missing must be missing: control bits, model-specific registers, instructions.
 * And the values that architectural registers take and refuse (SDM 3A 2.5, 4; APM 2 3.1, appendix
 * A).
 */
#include "kern.h"

#define UD              6
#define GP              13
#define MSR_MISC_ENABLE 0x1a0u
#define MSR_PAT         0x277u
#define MSR_MCG_CAP     0x179u
#define MSR_MTRR_DEF    0x2ffu
#define MSR_MTRR_CAP    0xfeu
#define MSR_XSS         0xda0u
#define NOT_CANONICAL   0xaaaaaaaaaaaaaaaaull

static uint64_t arg[2];

static void do_cr0(void *p)
{
    __asm__ volatile("mov %0, %%cr0" : : "r"(p) : "memory");
}
static void do_cr3(void *p)
{
    __asm__ volatile("mov %0, %%cr3" : : "r"(p) : "memory");
}
static void do_cr4(void *p)
{
    __asm__ volatile("mov %0, %%cr4" : : "r"(p) : "memory");
}
static void do_cr8(void *p)
{
    __asm__ volatile("mov %0, %%cr8" : : "r"(p) : "memory");
}
static void do_rdmsr(void *p)
{
    (void)p;
    arg[1] = rdmsr((uint32_t)arg[0]);
}
static void do_wrmsr(void *p)
{
    (void)p;
    wrmsr((uint32_t)arg[0], arg[1]);
}
static long read_msr(uint32_t index)
{
    arg[0] = index;
    return try_call(do_rdmsr, NULL);
}
static long write_msr(uint32_t index, uint64_t v)
{
    arg[0] = index;
    arg[1] = v;
    return try_call(do_wrmsr, NULL);
}

/* ---- control registers ----------------------------------------------------------------------- */

struct feature {
    uint8_t bit;
    uint32_t leaf;
    uint8_t reg, leaf_bit;
};

static bool offered(const struct feature *f, unsigned n, unsigned bit)
{
    for (unsigned i = 0; i < n; i++)
        if (f[i].bit == bit)
            return cpu_has(f[i].leaf, f[i].reg, f[i].leaf_bit);
    return false;
}

static void control_registers(void)
{
    static const struct feature cr4_bits[] = {
        {0, 1, 3, 1},   {1, 1, 3, 1},   {2, 1, 3, 4},   {3, 1, 3, 2},  {4, 1, 3, 3},
        {5, 1, 3, 6},   {6, 1, 3, 7},   {7, 1, 3, 13},  {8, 1, 3, 5},  {9, 1, 3, 24},
        {10, 1, 3, 25}, {11, 7, 2, 2},  {12, 7, 2, 16}, {13, 1, 2, 5}, {14, 1, 2, 6},
        {16, 7, 1, 0},  {17, 1, 2, 17}, {18, 1, 2, 26}, {20, 7, 1, 7}, {21, 7, 1, 20},
        {22, 7, 2, 3},  {23, 7, 2, 7},  {24, 7, 2, 31}};
    unsigned long cr0 = rd_cr0(), cr3 = rd_cr3(), cr4 = rd_cr4();

    for (unsigned i = 0; i < 64; i++) {
        if (i == 5 || i == 12) /* not while paging is on */
            continue;
        bool ok = offered(cr4_bits, sizeof(cr4_bits) / sizeof(cr4_bits[0]), i);
        CHECK(try_call(do_cr4, (void *)(cr4 | 1ul << i)) == (ok ? -1 : GP), "CR4 bit %u", i);
        wr_cr4(cr4);
    }
    for (unsigned i = 32; i < 64; i++)
        CHECK(try_call(do_cr0, (void *)(cr0 | 1ul << i)) == GP, "CR0 bit %u", i);
    CHECK(try_call(do_cr0, (void *)(cr0 & ~1ul)) == GP, "PG without PE");
    CHECK(try_call(do_cr0, (void *)((cr0 | 1ul << 29) & ~(1ul << 30))) == GP, "NW without CD");
    CHECK(try_call(do_cr0, (void *)(cr0 | 0x1ffaffc0ul)) == -1, "reserved bits of CR0");
    CHECK(rd_cr0() == cr0, "and are ignored: %lx", rd_cr0());
    for (unsigned i = 61; i < 64; i++) /* LAM, and the bit that only PCIDs have */
        CHECK(try_call(do_cr3, (void *)(cr3 | 1ul << i)) == GP, "CR3 bit %u", i);
    CHECK(try_call(do_cr8, (void *)16) == GP, "CR8 has 4 bits");
    wr_cr0(cr0);
    wr_cr3(cr3);
}

/* ---- model-specific registers ---------------------------------------------------------------- */

static void efer(void)
{
    static const struct feature bits[] = {
        {0, 0x80000001, 3, 11}, {11, 0x80000001, 3, 20}, {14, 0x80000001, 3, 25}};
    uint64_t was = rdmsr(MSR_EFER);

    for (unsigned i = 0; i < 64; i++) {
        if (i == 8 || i == 10)
            continue;
        bool ok = offered(bits, sizeof(bits) / sizeof(bits[0]), i);
        CHECK(write_msr(MSR_EFER, was | 1ull << i) == (ok ? -1 : GP), "EFER bit %u", i);
        wrmsr(MSR_EFER, was);
    }
    CHECK(write_msr(MSR_EFER, was & ~0x100ull) == GP, "LME while paging is on");
    CHECK(write_msr(MSR_EFER, was ^ 0x400) == -1 && rdmsr(MSR_EFER) == was, "LMA is read-only");
}

static void holds(uint32_t index, uint64_t v)
{
    uint64_t was = rdmsr(index), is;

    CHECK(write_msr(index, v) == -1, "MSR %x takes %lx", index, v);
    is = rdmsr(index);
    CHECK(is == v, "MSR %x: %lx, not %lx", index, is, v);
    wrmsr(index, was);
}

static void registers(void)
{
    static const uint32_t addresses[] = {0xc0000082, 0xc0000083, 0xc0000100, 0xc0000101,
                                         0xc0000102};
    static const uint32_t sysenter[] = {0x175, 0x176};
    static const uint64_t bad_pat[] = {2, 3, 8, 0x0700000000000002, 0x80};

    for (unsigned i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
        holds(addresses[i], 0x123456789abc);
        CHECK(write_msr(addresses[i], NOT_CANONICAL) == GP, "MSR %x is an address", addresses[i]);
    }
    if (cpu_has(1, 3, 11)) {
        holds(0x174, 0x1234);
        for (unsigned i = 0; i < 2; i++)
            holds(sysenter[i], 0x123456789abc);
    }
    holds(0xc0000084, 0xffffffff);
    holds(0xc0000081, 0x0123456789abcdef);
    if (cpu_has(1, 3, 16)) {
        holds(MSR_PAT, 0x07070707);
        for (unsigned i = 0; i < sizeof(bad_pat) / sizeof(bad_pat[0]); i++)
            CHECK(write_msr(MSR_PAT, bad_pat[i]) == GP, "PAT %lx", bad_pat[i]);
    }
    if (cpu_has(0x80000001, 3, 27) || cpu_has(7, 2, 22)) {
        holds(0xc0000103, 0xffffffff);
        CHECK(write_msr(0xc0000103, 1ull << 32) == GP, "TSC_AUX has 32 bits");
    }
    if (read_msr(MSR_MISC_ENABLE) == -1) { /* Intel's: fast strings, MWAIT, no NX */
        uint64_t was = arg[1], keep = 0x1880;
        holds(MSR_MISC_ENABLE, (0x400c50809 & ~keep) | (was & keep));
        CHECK(write_msr(MSR_MISC_ENABLE, was | 1ull << 34) == -1, "XD disable");
        CHECK(!cpu_has(0x80000001, 3, 20), "NX is gone from CPUID");
        wrmsr(MSR_MISC_ENABLE, was & ~(1ull << 34));
        CHECK(write_msr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE) == -1, "and is back");
    }
}

static void machine_check(void)
{
    if (!cpu_has(1, 3, 14))
        return;
    unsigned banks = rdmsr(MSR_MCG_CAP) & 0xff;
    CHECK(write_msr(MSR_MCG_CAP, 0) == GP, "MCG_CAP is read-only");
    for (unsigned i = 0; i < 32; i++) {
        uint32_t at = 0x400 + 4 * i;
        for (unsigned k = 0; k < 4 && i >= banks; k++) {
            CHECK(read_msr(at + k) == GP, "bank %u, register %u", i, k);
            CHECK(write_msr(at + k, 0) == GP, "bank %u, write of register %u", i, k);
        }
        if (i >= banks)
            continue;
        holds(at, 0);
        holds(at, ~0ull);
        CHECK(write_msr(at + 1, 0) == -1 && write_msr(at + 1, 1) == GP, "status of bank %u", i);
    }
}

static void mtrrs(void)
{
    if (!cpu_has(1, 3, 12))
        return;
    unsigned variable = rdmsr(MSR_MTRR_CAP) & 0xff;
    uint32_t r[4];
    cpuid(0x80000008, 0, r);
    uint64_t top = 1ull << (r[0] & 0xff);

    CHECK(write_msr(MSR_MTRR_CAP, 0) == GP, "MTRRCAP is read-only");
    holds(MSR_MTRR_DEF, 0xc06);
    CHECK(write_msr(MSR_MTRR_DEF, 2) == GP && write_msr(MSR_MTRR_DEF, 0x1006) == GP,
          "default type");
    for (unsigned i = 0; i < variable; i++) {
        holds(0x200 + 2 * i, (top - 0x1000) | 6);
        holds(0x201 + 2 * i, (top - 0x1000) | 0x800);
        CHECK(write_msr(0x200 + 2 * i, 2) == GP && write_msr(0x200 + 2 * i, top) == GP,
              "base of range %u", i);
        CHECK(write_msr(0x201 + 2 * i, 0x400) == GP && write_msr(0x201 + 2 * i, top) == GP,
              "mask of range %u", i);
    }
    holds(0x250, 0x0605040100010406);
    CHECK(write_msr(0x250, 2) == GP && write_msr(0x26f, 0x0700000000000000) == GP, "fixed ranges");
}

/* Registers of features: index, and where CPUID has the feature. */
static void missing_registers(void)
{
    static const struct {
        uint32_t index, leaf;
        uint8_t reg, bit;
    } t[] = {
        {0x122, 7, 3, 11}, /* TSX_CTRL */
        {0x6a0, 7, 2, 7},
        {0x6a2, 7, 2, 7},
        {0x6a4, 7, 2, 7},
        {0x6a8, 7, 2, 7},  /* CET */
        {0x6e1, 7, 2, 31}, /* PKS */
        {0x1c4, 7, 3, 24},
        {0x1c5, 7, 3, 24}, /* XFD */
        {0x560, 7, 1, 25},
        {0x570, 7, 1, 25}, /* processor trace */
        {0x985, 7, 3, 5},
        {0x986, 7, 3, 5}, /* user interrupts */
        {0x3a, 1, 2, 5},
        {0x480, 1, 2, 5}, /* VMX */
        {0xc0010114, 0x80000001, 2, 2},
        {0xc0010117, 0x80000001, 2, 2}, /* SVM */
        {0x6e0, 1, 2, 24},              /* deadline */
        {0x48, 7, 3, 26},               /* SPEC_CTRL */
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        bool there = cpu_has(t[i].leaf, t[i].reg, t[i].bit);
        bool other = t[i].index == 0x48 && cpu_has(0x80000008, 1, 14);
        if (t[i].index == 0x3a) /* locked, without VMX, is Intel's way of saying so */
            there = read_msr(0x3a) == -1;
        if (there || other)
            continue;
        CHECK(read_msr(t[i].index) == GP, "RDMSR %x", t[i].index);
        CHECK(write_msr(t[i].index, 0) == GP, "WRMSR %x", t[i].index);
    }
    CHECK(read_msr(0x12345678) == GP && write_msr(0x12345678, 0) == GP, "no such register");
    CHECK(read_msr(0x49) == GP, "PRED_CMD cannot be read");
    if (read_msr(MSR_XSS) == -1)
        for (unsigned i = 0; i < 64; i++)
            CHECK(write_msr(MSR_XSS, 1ull << i) == GP, "XSS bit %u", i);
}

/* ---- instructions ---------------------------------------------------------------------------- */

struct insn {
    const char *name;
    uint8_t bytes[8], n;
    uint32_t leaf; /* 0: never there */
    uint8_t reg, bit;
    long without; /* -1: it does nothing then */
};

static void run_bytes(void *p)
{
    __asm__ volatile("call *%0"
                     :
                     : "r"(p), "a"(0), "b"(USER_AREA + 0x1000), "c"(0), "d"(0)
                     : "memory", "cc", "rsi", "rdi", "r8", "r9", "r10", "r11");
}

static void instructions(void)
{
    static const struct insn t[] = {
        {"ENDBR64", {0xf3, 0x0f, 0x1e, 0xfa}, 4, 0, 0, 0, -1},
        {"ENDBR32", {0xf3, 0x0f, 0x1e, 0xfb}, 4, 0, 0, 0, -1},
        {"RDSSPQ", {0xf3, 0x48, 0x0f, 0x1e, 0xc8}, 5, 0, 0, 0, -1},
        {"INCSSPQ", {0xf3, 0x48, 0x0f, 0xae, 0xe8}, 5, 7, 2, 7, UD},
        {"SAVEPREVSSP", {0xf3, 0x0f, 0x01, 0xea}, 4, 7, 2, 7, UD},
        {"RSTORSSP", {0xf3, 0x0f, 0x01, 0x2b}, 4, 7, 2, 7, UD},
        {"SETSSBSY", {0xf3, 0x0f, 0x01, 0xe8}, 4, 7, 2, 7, UD},
        {"CLRSSBSY", {0xf3, 0x0f, 0xae, 0x33}, 4, 7, 2, 7, UD},
        {"WRSSQ", {0x48, 0x0f, 0x38, 0xf6, 0x03}, 5, 7, 2, 7, UD},
        {"WRUSSQ", {0x66, 0x48, 0x0f, 0x38, 0xf5, 0x03}, 6, 7, 2, 7, UD},
        {"XBEGIN", {0xc7, 0xf8, 0, 0, 0, 0}, 6, 7, 1, 11, UD},
        {"XEND", {0x0f, 0x01, 0xd5}, 3, 7, 1, 11, UD},
        {"XTEST", {0x0f, 0x01, 0xd6}, 3, 7, 1, 11, UD},
        {"XABORT", {0xc6, 0xf8, 0}, 3, 7, 1, 11, UD},
        {"RDPRU", {0x0f, 0x01, 0xfd}, 3, 0x80000008, 1, 4, UD},
        {"CLZERO", {0x0f, 0x01, 0xfc}, 3, 0x80000008, 1, 0, UD},
        {"MONITORX", {0x0f, 0x01, 0xfa}, 3, 0x80000001, 2, 29, UD},
        {"VMLAUNCH", {0x0f, 0x01, 0xc2}, 3, 1, 2, 5, UD},
        {"VMXOFF", {0x0f, 0x01, 0xc4}, 3, 1, 2, 5, UD},
        {"VMPTRLD", {0x0f, 0xc7, 0x33}, 3, 1, 2, 5, UD},
        {"VMREAD", {0x0f, 0x78, 0xc0}, 3, 1, 2, 5, UD},
        {"INVEPT", {0x66, 0x0f, 0x38, 0x80, 0x03}, 5, 1, 2, 5, UD},
        {"VMFUNC", {0x0f, 0x01, 0xd4}, 3, 1, 2, 5, UD},
        {"VMRUN", {0x0f, 0x01, 0xd8}, 3, 0x80000001, 2, 2, UD},
        {"VMLOAD", {0x0f, 0x01, 0xda}, 3, 0x80000001, 2, 2, UD},
        {"STGI", {0x0f, 0x01, 0xdc}, 3, 0x80000001, 2, 2, UD},
        {"CLGI", {0x0f, 0x01, 0xdd}, 3, 0x80000001, 2, 2, UD},
        {"SKINIT", {0x0f, 0x01, 0xde}, 3, 0x80000001, 2, 2, UD},
        {"INVLPGA", {0x0f, 0x01, 0xdf}, 3, 0x80000001, 2, 2, UD},
        {"INVLPGB", {0x0f, 0x01, 0xfe}, 3, 0x80000008, 1, 3, UD},
        {"ENCLS", {0x0f, 0x01, 0xcf}, 3, 7, 1, 2, UD},
        {"ENCLU", {0x0f, 0x01, 0xd7}, 3, 7, 1, 2, UD},
        {"PCONFIG", {0x0f, 0x01, 0xc5}, 3, 7, 3, 18, UD},
        {"WRMSRNS", {0x0f, 0x01, 0xc6}, 3, 0, 0, 0, UD},
        {"GETSEC", {0x0f, 0x37}, 2, 1, 2, 6, UD},
        {"RSM", {0x0f, 0xaa}, 2, 0, 0, 0, UD},
        {"UMONITOR", {0xf3, 0x0f, 0xae, 0xf0}, 4, 7, 2, 5, UD},
        {"TPAUSE", {0x66, 0x0f, 0xae, 0xf0}, 4, 7, 2, 5, UD},
        {"SERIALIZE", {0x0f, 0x01, 0xe8}, 3, 7, 3, 14, UD},
        {"XSUSLDTRK", {0xf2, 0x0f, 0x01, 0xe8}, 4, 7, 3, 16, UD},
        {"CLUI", {0xf3, 0x0f, 0x01, 0xee}, 4, 7, 3, 5, UD},
        {"SENDUIPI", {0xf3, 0x0f, 0xc7, 0xf0}, 4, 7, 3, 5, UD},
        {"ENQCMD", {0xf2, 0x0f, 0x38, 0xf8, 0x03}, 5, 7, 2, 29, UD},
        {"MOVDIRI", {0x0f, 0x38, 0xf9, 0x03}, 4, 7, 2, 27, UD},
        {"MOVDIR64B", {0x66, 0x0f, 0x38, 0xf8, 0x03}, 5, 7, 2, 28, UD},
        {"PTWRITE", {0xf3, 0x48, 0x0f, 0xae, 0xe0}, 5, 0, 0, 0, UD},
        {"CLDEMOTE", {0x0f, 0x1c, 0x03}, 3, 0, 0, 0, -1},
        {"PREFETCHIT0", {0x0f, 0x18, 0x3d, 0, 0, 0, 0}, 7, 0, 0, 0, -1},
        {"LOADIWKEY", {0xf3, 0x0f, 0x38, 0xdc, 0xc1}, 5, 7, 2, 23, UD},
        {"HRESET", {0xf3, 0x0f, 0x3a, 0xf0, 0xc0, 0}, 6, 0, 0, 0, UD},
        {"TILERELEASE", {0xc4, 0xe2, 0x78, 0x49, 0xc0}, 5, 7, 3, 24, UD},
        {"KADDB", {0xc5, 0xed, 0x4a, 0xd9}, 4, 7, 1, 16, UD},
        {"EVEX VADDPS", {0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2}, 6, 7, 1, 16, UD},
        {"VFMADDPS, FMA4", {0xc4, 0xe3, 0x79, 0x68, 0xc1, 0x20}, 6, 0x80000001, 2, 16, UD},
        {"XOP VPCOMB", {0x8f, 0xe8, 0x78, 0xcc, 0xc1, 0}, 6, 0x80000001, 2, 11, UD},
        {"LLWPCB", {0x8f, 0xe9, 0x78, 0x12, 0xc0}, 5, 0x80000001, 2, 15, UD},
        {"BEXTR, TBM", {0x8f, 0xea, 0x78, 0x10, 0xc0, 0, 0, 0}, 8, 0x80000001, 2, 21, UD},
        {"PFADD", {0x0f, 0x0f, 0xc1, 0x9e}, 4, 0x80000001, 3, 31, UD},
        {"FEMMS", {0x0f, 0x0e}, 2, 0x80000001, 3, 31, UD},
        {"EXTRQ", {0x66, 0x0f, 0x79, 0xc1}, 4, 0x80000001, 2, 6, UD},
        {"MOVNTSS", {0xf3, 0x0f, 0x2b, 0x03}, 4, 0x80000001, 2, 6, UD},
        {"UD0", {0x0f, 0xff, 0xc0}, 3, 0, 0, 0, UD},
        {"UD1", {0x0f, 0xb9, 0xc0}, 3, 0, 0, 0, UD},
        {"UD2", {0x0f, 0x0b}, 2, 0, 0, 0, UD},
        {"MOV to CR1", {0x0f, 0x22, 0xc8}, 3, 0, 0, 0, UD},
        {"MOV to CR5", {0x0f, 0x22, 0xe8}, 3, 0, 0, 0, UD},
        {"MOV to CR9", {0x44, 0x0f, 0x22, 0xc8}, 4, 0, 0, 0, UD},
        {"MOV to DR8", {0x44, 0x0f, 0x23, 0xc0}, 4, 0, 0, 0, UD},
        {"MOV from TR6", {0x0f, 0x24, 0xf0}, 3, 0, 0, 0, UD},
        {"SALC", {0xd6}, 1, 0, 0, 0, UD},
        {"AAM", {0xd4, 0x0a}, 2, 0, 0, 0, UD},
        {"DAA", {0x27}, 1, 0, 0, 0, UD},
        {"PUSHA", {0x60}, 1, 0, 0, 0, UD},
        {"far CALL", {0x9a, 0, 0, 0, 0, 0, 0}, 7, 0, 0, 0, UD},
        {"82h", {0x82, 0xc0, 0}, 3, 0, 0, 0, UD},
        {"F1 with LOCK", {0xf0, 0xf1}, 2, 0, 0, 0, UD},
        {"RDPID", {0xf3, 0x0f, 0xc7, 0xf8}, 4, 7, 2, 22, UD},
        {"RDTSCP", {0x0f, 0x01, 0xf9}, 3, 0x80000001, 3, 27, UD},
        {"RDRAND", {0x0f, 0xc7, 0xf0}, 3, 1, 2, 30, UD},
        {"RDSEED", {0x0f, 0xc7, 0xf8}, 3, 7, 1, 18, UD},
        {"STAC", {0x0f, 0x01, 0xcb}, 3, 7, 1, 20, UD},
        {"CLFLUSHOPT", {0x66, 0x0f, 0xae, 0x3b}, 4, 7, 1, 23, UD},
        {"CLWB", {0x66, 0x0f, 0xae, 0x33}, 4, 7, 1, 24, UD},
        {"MOVBE", {0x0f, 0x38, 0xf0, 0x03}, 4, 1, 2, 22, UD},
        {"ADCX", {0x66, 0x0f, 0x38, 0xf6, 0xc1}, 5, 7, 1, 19, UD},
    };
    uint8_t *code = (uint8_t *)(USER_AREA + 0x100);
    unsigned long cr4 = rd_cr4();

    wr_cr4(cr4 & ~CR4_SMEP);
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        if (t[i].leaf != 0 && cpu_has(t[i].leaf, t[i].reg, t[i].bit))
            continue;
        memcpy(code, t[i].bytes, t[i].n);
        code[t[i].n] = 0xc3;
        long r = try_call(run_bytes, code);
        CHECK(r == t[i].without, "%s: %d", t[i].name, (int)r);
    }
    wr_cr4(cr4);
}

void test_main(void)
{
    control_registers();
    efer();
    registers();
    machine_check();
    mtrrs();
    missing_registers();
    instructions();
}
