/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which exceptions x87, MMX, SSE and AVX instructions make: by CR0.EM, MP and TS, CR4.OSFXSR and
 * OSXSAVE, XCR0 (SDM 3A 2.5, 13.1, 2A 2.8), with an x87 error pending, with unmasked SIMD
 * exceptions; and what FXSAVE sees of the x87 and MMX state.
 */
#include "kern.h"

#define UD 6
#define NM 7
#define GP 13
#define MF 16
#define XM 19

#define CR0_MP         2ul
#define CR0_EM         4ul
#define CR0_TS         8ul
#define CR4_OSFXSR     (1ul << 9)
#define CR4_OSXMMEXCPT (1ul << 10)
#define CR4_OSXSAVE    (1ul << 18)

static uint8_t area[4096] __attribute__((aligned(64)));

enum kind { X87, WAIT, MMX, SSE, AVX, FXSR, XSV, FREE };
struct insn {
    const char *name;
    void (*run)(void *);
    enum kind kind;
    bool waits; /* for a pending x87 error */
};
#define INSN(fn, text)                                                                             \
    static void fn(void *p)                                                                        \
    {                                                                                              \
        __asm__ volatile(text : : "r"(p), "a"(3), "d"(0) : "memory");                              \
    }
INSN(i_fld1, "fld1\n\tfstp %%st(0)")
INSN(i_fnop, "fnop")
INSN(i_fninit, "fninit")
INSN(i_fnstsw, "fnstsw %%ax")
INSN(i_fnclex, "fnclex")
INSN(i_fstcw, "fnstcw (%0)")
INSN(i_fldcw, "fnstcw (%0)\n\tfldcw (%0)")
INSN(i_fcmov, "fcmove %%st(0), %%st")
INSN(i_wait, "fwait")
INSN(i_paddb, "paddb %%mm1, %%mm0")
INSN(i_movq, "movq (%0), %%mm3")
INSN(i_emms, "emms")
INSN(i_cvtpi2ps, "cvtpi2ps %%mm1, %%xmm0")
INSN(i_movq2dq, "movq2dq %%mm1, %%xmm0")
INSN(i_pshufw, "pshufw $1, %%mm1, %%mm0")
INSN(i_addps, "addps %%xmm1, %%xmm0")
INSN(i_paddd, "paddd %%xmm1, %%xmm0")
INSN(i_movups, "movups (%0), %%xmm0")
INSN(i_stmxcsr, "stmxcsr (%0)")
INSN(i_vaddps, "vaddps %%xmm1, %%xmm0, %%xmm0")
INSN(i_vzeroall, "vzeroall")
INSN(i_vmovups, "vmovups (%0), %%ymm0")
INSN(i_fxsave, "fxsave (%0)")
INSN(i_fxrstor, "fxrstor 1024(%0)")
INSN(i_xsave, "xsave 2048(%0)")
INSN(i_xrstor, "xrstor 2048(%0)")
INSN(i_sfence, "sfence")
INSN(i_movnti, "movnti %%eax, (%0)")
INSN(i_prefetch, "prefetcht0 (%0)")
INSN(i_clflush, "clflush (%0)")
INSN(i_pause, "pause")

static const struct insn insns[] = {
    {"fld1", i_fld1, X87, true},           {"fnop", i_fnop, X87, true},
    {"fninit", i_fninit, X87, false},      {"fnstsw", i_fnstsw, X87, false},
    {"fnclex", i_fnclex, X87, false},      {"fnstcw", i_fstcw, X87, false},
    {"fldcw", i_fldcw, X87, true},         {"fcmov", i_fcmov, X87, true},
    {"wait", i_wait, WAIT, true},          {"paddb", i_paddb, MMX, true},
    {"movq", i_movq, MMX, true},           {"emms", i_emms, MMX, true},
    {"pshufw", i_pshufw, MMX, true},       {"cvtpi2ps", i_cvtpi2ps, SSE, true},
    {"movq2dq", i_movq2dq, SSE, true},     {"addps", i_addps, SSE, false},
    {"paddd", i_paddd, SSE, false},        {"movups", i_movups, SSE, false},
    {"stmxcsr", i_stmxcsr, SSE, false},    {"vaddps", i_vaddps, AVX, false},
    {"vzeroall", i_vzeroall, AVX, false},  {"vmovups", i_vmovups, AVX, false},
    {"fxsave", i_fxsave, FXSR, false},     {"fxrstor", i_fxrstor, FXSR, false},
    {"xsave", i_xsave, XSV, false},        {"xrstor", i_xrstor, XSV, false},
    {"sfence", i_sfence, FREE, false},     {"movnti", i_movnti, FREE, false},
    {"prefetch", i_prefetch, FREE, false}, {"clflush", i_clflush, FREE, false},
    {"pause", i_pause, FREE, false},
};
#define COUNT (sizeof(insns) / sizeof(insns[0]))

static void xsetbv(uint64_t v)
{
    __asm__ volatile("xsetbv" : : "a"((uint32_t)v), "d"((uint32_t)(v >> 32)), "c"(0));
}

/* What the manual says: tables 2-2, 13-1, and the exception classes of AVX. */
static long expected(const struct insn *in, unsigned long cr0, bool fxsr, bool xsave, bool avx,
                     bool error)
{
    bool em = (cr0 & CR0_EM) != 0, mp = (cr0 & CR0_MP) != 0, ts = (cr0 & CR0_TS) != 0;
    long r = -1;

    switch (in->kind) {
    case X87:
    case FXSR:
        r = em || ts ? NM : -1;
        break;
    case WAIT:
        r = mp && ts ? NM : -1;
        break;
    case MMX:
        r = em ? UD : ts ? NM : -1;
        break;
    case SSE:
        r = em || !fxsr ? UD : ts ? NM : -1;
        break;
    case AVX:
        r = !xsave || !avx ? UD : ts ? NM : -1;
        break;
    case XSV:
        r = !xsave ? UD : ts ? NM : -1;
        break;
    case FREE:
        break;
    }
    return r == -1 && error && in->waits ? MF : r;
}

static void make_error(void)
{
    static const uint16_t unmasked = 0x37b;
    __asm__ volatile("fninit\n\tfldcw %0\n\tfldz\n\tfld1\n\tfdiv %%st(1), %%st" : : "m"(unmasked));
}

static void matrix(void)
{
    bool has_xsave = cpu_has(1, 2, 26), has_avx = has_xsave && cpu_has(1, 2, 28);
    unsigned long cr0 = rd_cr0() & ~(CR0_MP | CR0_EM | CR0_TS), cr4 = rd_cr4();

    __asm__ volatile("fninit\n\tfxsave 1024(%0)" : : "r"(area) : "memory");
    for (unsigned i = 0; i < COUNT; i++) {
        const struct insn *in = &insns[i];
        if ((in->kind == AVX && !has_avx) || (in->kind == XSV && !has_xsave))
            continue;
        for (unsigned c = 0; c < 64; c++) {
            unsigned long bits = (c & 7) << 1;
            bool error = (c & 8) != 0, fxsr = (c & 16) != 0, xsave = (c & 32) != 0;
            if (xsave && !has_xsave)
                continue;
            for (unsigned avx = 0; avx <= (xsave && has_avx); avx++) {
                wr_cr0(cr0);
                wr_cr4(cr4 | (has_xsave ? CR4_OSXSAVE : 0));
                if (has_xsave)
                    xsetbv(avx ? 7 : 3);
                if (error)
                    make_error();
                else
                    __asm__ volatile("fninit");
                memset(area + 2048 + 512, 0, 64);
                wr_cr4((cr4 & ~CR4_OSFXSR) | (fxsr ? CR4_OSFXSR : 0) | (xsave ? CR4_OSXSAVE : 0));
                wr_cr0(cr0 | bits);
                long got = try_call(in->run, area);
                wr_cr0(cr0);
                long want = expected(in, bits, fxsr, xsave, avx, error);
                CHECK(got == want, "%s: %ld, not %ld; CR0 %lx, OSFXSR %u, OSXSAVE %u, AVX %u, %s",
                      in->name, got, want, bits, fxsr, xsave, avx, error ? "error" : "no error");
            }
        }
    }
    wr_cr4(cr4);
    wr_cr0(cr0);
    __asm__ volatile("fninit");
}

/* ---- SIMD exceptions ------------------------------------------------------------------------- */

static void divide(void *p)
{
    static const float one[4] __attribute__((aligned(16))) = {1, 1, 1, 1};
    __asm__ volatile("ldmxcsr (%0)\n\txorps %%xmm0, %%xmm0\n\tmovaps %1, %%xmm1\n\t"
                     "divps %%xmm0, %%xmm1\n\tstmxcsr 4(%0)"
                     :
                     : "r"(p), "m"(*one)
                     : "memory");
}
static void load_mxcsr(void *p)
{
    __asm__ volatile("ldmxcsr (%0)" : : "r"(p) : "memory");
}
INSN(i_movaps, "movaps 8(%0), %%xmm0")
INSN(i_addps_m, "addps 8(%0), %%xmm0")
INSN(i_vmovaps, "vmovaps 16(%0), %%ymm0")
INSN(i_vaddps_m, "vaddps 8(%0), %%xmm0, %%xmm0")
INSN(i_fxsave_8, "fxsave 8(%0)")
INSN(i_fxrstor_8, "fxrstor 8(%0)")
INSN(i_fxrstor_0, "fxrstor (%0)")
INSN(i_movntdq, "movntdq %%xmm0, 8(%0)")

static void simd(void)
{
    uint32_t mxcsr[2] = {0x1f80 & ~0x200u, 0};

    CHECK(try_call(divide, mxcsr) == XM, "division by zero, unmasked");
    wr_cr4(rd_cr4() & ~CR4_OSXMMEXCPT);
    CHECK(try_call(divide, mxcsr) == UD, "the same without OSXMMEXCPT");
    wr_cr4(rd_cr4() | CR4_OSXMMEXCPT);
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr[1]));
    CHECK(mxcsr[1] == (0x1d80 | 4), "MXCSR after a fault: %x", mxcsr[1]);
    mxcsr[0] = 0x1f80;
    CHECK(try_call(divide, mxcsr) == -1 && mxcsr[1] == 0x1f84, "masked: %x", mxcsr[1]);
    mxcsr[0] = 0x1f80 | 1u << 16;
    CHECK(try_call(load_mxcsr, mxcsr) == GP, "reserved bits of MXCSR");
    CHECK(try_call(i_movaps, area) == GP, "MOVAPS at 8");
    CHECK(try_call(i_addps_m, area) == GP, "ADDPS at 8");
    CHECK(try_call(i_movntdq, area) == GP, "MOVNTDQ at 8");
    CHECK(try_call(i_fxsave_8, area) == GP && try_call(i_fxrstor_8, area) == GP, "FXSAVE at 8");
    if (cpu_has(1, 2, 26) && cpu_has(1, 2, 28)) {
        wr_cr4(rd_cr4() | CR4_OSXSAVE);
        xsetbv(7);
        CHECK(try_call(i_vmovaps, area) == GP, "VMOVAPS at 16");
        CHECK(try_call(i_vaddps_m, area) == -1, "VADDPS at 8");
        wr_cr4(rd_cr4() & ~CR4_OSXSAVE);
    }
    __asm__ volatile("fxsave (%0)" : : "r"(area) : "memory");
    CHECK(*(uint32_t *)(void *)(area + 28) == 0xffff || *(uint32_t *)(void *)(area + 28) == 0x2ffff,
          "MXCSR_MASK: %x", *(uint32_t *)(void *)(area + 28));
    *(uint32_t *)(void *)(area + 24) = 0x80000000;
    CHECK(try_call(i_fxrstor_0, area) == GP, "FXRSTOR of reserved bits of MXCSR");
    *(uint32_t *)(void *)(area + 24) = 0x1f80;
    CHECK(try_call(i_fxrstor_0, area) == -1, "FXRSTOR");
}

/* ---- state ----------------------------------------------------------------------------------- */

static void fxsave(void)
{
    __asm__ volatile("fxsave (%0)" : : "r"(area) : "memory");
}

static void state(void)
{
    uint16_t *h = (uint16_t *)(void *)area;

    __asm__ volatile("fninit");
    fxsave();
    CHECK(h[0] == 0x37f && h[1] == 0 && area[4] == 0, "after FNINIT: %x %x %x", h[0], h[1],
          area[4]);
    __asm__ volatile("fld1\n\tfldz");
    fxsave();
    CHECK(area[4] == 0xc0 && (h[1] & 0x3800) == 0x3000, "two values: %x %x", area[4], h[1]);
    __asm__ volatile("movq %0, %%mm3" : : "m"(*"12345678"));
    fxsave();
    CHECK(area[4] == 0xff && (h[1] & 0x3800) == 0, "MMX: %x %x", area[4], h[1]);
    CHECK(*(uint16_t *)(void *)(area + 32 + 3 * 16 + 8) == 0xffff, "exponent of an MMX register");
    CHECK(area[32 + 3 * 16] == '1', "its value");
    __asm__ volatile("emms");
    fxsave();
    CHECK(area[4] == 0, "EMMS: %x", area[4]);
    __asm__ volatile("fninit\n\tfincstp\n\tfld1");
    fxsave();
    CHECK((h[1] & 0x3800) == 0 && area[4] == 1, "TOP 0: %x %x", h[1], area[4]);
    __asm__ volatile("movd %%mm0, %%eax" : : : "rax");
    fxsave();
    CHECK(area[4] == 0xff, "reading an MMX register fills the tags, too: %x", area[4]);
    /* Stack faults: C1 says which. */
    __asm__ volatile("fninit\n\tfldpi\n\tfstp %%st(0)\n\tfstp %%st(0)" : : : "memory");
    fxsave();
    CHECK((h[1] & 0x241) == 0x41, "underflow: %x", h[1]);
    __asm__ volatile("fninit");
    for (unsigned i = 0; i < 9; i++)
        __asm__ volatile("fld1");
    fxsave();
    CHECK((h[1] & 0x241) == 0x241, "overflow: %x", h[1]);
    __asm__ volatile("fninit");
    /* The summary bit follows the masks. */
    uint16_t cw = 0x37f, sw;
    __asm__ volatile("fldz\n\tfld1\n\tfdiv %%st(1), %%st\n\tfnstsw %0" : "=m"(sw));
    CHECK((sw & 0x8084) == 4, "masked: %x", sw);
    cw = 0x37b;
    __asm__ volatile("fldcw %1\n\tfnstsw %0" : "=m"(sw) : "m"(cw));
    CHECK((sw & 0x8084) == 0x8084, "unmasked later: %x", sw);
    CHECK(try_call(i_wait, area) == MF, "and pending");
    __asm__ volatile("fnclex\n\tfnstsw %0\n\tfninit" : "=m"(sw));
    CHECK((sw & 0x80ff) == 0, "FNCLEX: %x", sw);
}

void test_main(void)
{
    matrix();
    simd();
    state();
}
