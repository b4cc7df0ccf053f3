/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Operands of x87, FXSAVE and XSAVE that go round the end of what 16-bit addresses reach: in which
 * pieces an EPYC 9004 accesses them, by experiments with segments of an LDT of Linux. In loops,
 * interpreted and translated.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_rig.h"

#define BASE                                                                                       \
    (CPU_RIG_DATA + 0x800) /* what is behind the end is in the page of what is before it           \
                            */
#define PLAIN      0x1000u /* where operands are in one piece */
#define RESULT     0x4000u
#define OTHER      0x3ff000u /* a page directory, */
#define OTHER_PAGE 0x200000u /* ... and a large page */
#define NONE       (-1)

static struct cpu_rig rig;

struct form {
    const char *insn; /* without address size and displacement */
    uint8_t len;
    uint16_t bytes;
    uint8_t env; /* of this size is each of the seven numbers in front */
    bool load;
};

static const struct form forms[] = {
    {"\xd9\x36", 2, 28, 4, false},     /* fnstenv */
    {"\x66\xd9\x36", 3, 14, 2, false}, /* fnstenv, 16 bits */
    {"\xdd\x36", 2, 108, 4, false},    /* fnsave */
    {"\x66\xdd\x36", 3, 94, 2, false}, /* fnsave, 16 bits */
    {"\xd9\x26", 2, 28, 4, true},      /* fldenv */
    {"\x66\xd9\x26", 3, 14, 2, true},  /* fldenv, 16 bits */
    {"\xdd\x26", 2, 108, 4, true},     /* frstor */
    {"\x66\xdd\x26", 3, 94, 2, true},  /* frstor, 16 bits */
    {"\xdb\x2e", 2, 10, 0, true},      /* fld m80 */
    {"\xdb\x3e", 2, 10, 0, false},     /* fstp m80 */
    {"\xdf\x26", 2, 10, 0, true},      /* fbld */
    {"\xdf\x36", 2, 10, 0, false},     /* fbstp */
};

/* The length of the number at this place of the operand. */
static unsigned number(const struct form *f, unsigned at)
{
    unsigned env = 7u * f->env;
    return at < env ? f->env : (at - env) % 10 == 0 ? 8 : 2;
}

/* Does a number begin at this place? */
static bool begins(const struct form *f, unsigned place)
{
    unsigned at = 0;
    while (at < place)
        at += number(f, at);
    return at == place;
}

/* 300 rounds of: fninit; fldpi; fldl2e; insn [off]; for loads, fnsave [RESULT]. NONE or the vector.
 */
static int run(const char *insn, unsigned len, uint16_t off, bool load, uint32_t limit,
               uint32_t addr_bytes, uint32_t base)
{
    uint8_t code[64] = {0xb9, 0x2c, 0x01, 0, 0, 0xdb, 0xe3, 0xd9, 0xeb, 0xd9, 0xea};
    unsigned n = 11;

    if (addr_bytes == 2)
        code[n++] = 0x67;
    memcpy(code + n, insn, len);
    n += len;
    if (addr_bytes == 4)
        code[n - 1] = (uint8_t)(code[n - 1] - 1); /* disp32 */
    code[n++] = (uint8_t)off;
    code[n++] = (uint8_t)(off >> 8);
    if (addr_bytes == 4) {
        code[n++] = off >= 0x8000 ? 0xff : 0;
        code[n++] = off >= 0x8000 ? 0xff : 0;
    }
    if (load) {
        memcpy(code + n, "\xdd\x35\x00\x40\x00\x00", 6);
        n += 6;
    }
    memcpy(code + n, "\xe2", 1);
    code[n + 1] = (uint8_t)(5 - (n + 2));
    code[n + 2] = 0xf4;
    cpu_rig_mode(&rig, 32, 0);
    rig.st.cr4 |= VMC_CR4_OSFXSR | VMC_CR4_OSXSAVE;
    rig.st.xcr0 = 3;
    rig.st.gpr[VMC_RAX] = 3;
    cpu_rig_code(&rig, CPU_RIG_TEXT, code, n + 3);
    rig.st.seg[VMC_DS].base = base;
    rig.st.seg[VMC_DS].limit = limit;
    assert_int_equal(cpu_rig_run(&rig, 100000), VMC_EXIT_IDLE);
    uint64_t at = rig.st.rip - 1 - CPU_RIG_TRAPS;
    return at < 32 ? (int)at : NONE;
}

/* To or from an operand that begins at off; its bytes from `end` on have addresses that wrap. */
static void transfer(const uint8_t *image, unsigned bytes, uint16_t off, unsigned end,
                     uint8_t *to_image)
{
    for (unsigned i = 0; i < bytes; i++) {
        uint8_t *m = rig.ram + BASE + (i < end ? off + i : (uint16_t)(off + i));
        if (image != NULL)
            *m = image[i];
        else
            to_image[i] = *m;
    }
}

static void check_form(const struct form *f, uint32_t limit)
{
    uint8_t want[108], image[108], got[108];

    /* What it does with an operand in one piece; what is loaded is e in the place of pi. */
    memset(rig.ram + CPU_RIG_DATA, 0xcc, 0x20000);
    if (f->load)
        assert_int_equal(run(f->env == 0   ? "\xdf\x36"
                             : f->env == 4 ? "\xdd\x36"
                                           : "\x66\xdd\x36",
                             f->env == 2 ? 3 : 2, PLAIN, false, limit, 2, BASE),
                         NONE);
    memcpy(image, rig.ram + BASE + PLAIN, f->bytes);
    assert_int_equal(run(f->insn, f->len, PLAIN, f->load, limit, 2, BASE), NONE);
    memcpy(want, rig.ram + BASE + (f->load ? RESULT : PLAIN), f->load ? 108 : f->bytes);

    for (unsigned d = 1; d < f->bytes; d++) {
        uint16_t off = (uint16_t)(0x10000 - d);
        unsigned end = 0; /* the first number that begins at or behind the end of addresses */
        while (end < d)
            end += number(f, end);
        memset(rig.ram + CPU_RIG_DATA, 0xcc, 0x20000);
        if (f->load)
            transfer(image, f->bytes, off, end, NULL);
        int r = run(f->insn, f->len, off, f->load, limit, 2, BASE);
        if (limit == 0xffff && !begins(f, d)) {
            assert_int_equal(r, VMC_VEC_GP);
            continue;
        }
        assert_int_equal(r, NONE);
        if (f->load) /* but for the data pointer */
            memcpy(got, rig.ram + BASE + RESULT, 108);
        else
            transfer(NULL, f->bytes, off, end, got);
        if (f->load && f->env == 0)
            memcpy(got + 20, want + 20, 4);
        assert_memory_equal(got, want, f->load ? 108 : f->bytes);
        if (!f->load)
            assert_int_equal(rig.ram[BASE + f->bytes - d], 0xcc);
    }
}

static void numbers_wrap(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2 * sizeof(forms) / sizeof(forms[0]); i++) {
        cpu_rig_create_soft(&rig, 0, i & 1 ? VMC_SOFT_TRANSLATE : 0);
        check_form(&forms[i / 2], 0xffff);
        check_form(&forms[i / 2], 0x1ffff);
        cpu_rig_destroy(&rig);
    }
}

/* 32-bit addresses: the segment has no byte behind the end, and its base is at offset 0 again. */
static void numbers_wrap_at_4_gib(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2 * sizeof(forms) / sizeof(forms[0]); i++) {
        const struct form *f = &forms[i / 2];
        cpu_rig_create_soft(&rig, 0, i & 1 ? VMC_SOFT_TRANSLATE : 0);
        memset(rig.ram + CPU_RIG_DATA, 0, 0x20000);
        for (unsigned d = 1; d < f->bytes; d++)
            assert_int_equal(run(f->insn, f->len, (uint16_t)(0 - d), f->load, UINT32_MAX, 4,
                                 CPU_RIG_DATA + 0x8000),
                             begins(f, d) ? NONE : VMC_VEC_GP);
        cpu_rig_destroy(&rig);
    }
}

/* FXSAVE and XSAVE: what is behind the end is at offset 0. */
static void areas_wrap(void **state)
{
    static const struct {
        const char *save, *load;
        uint16_t bytes;
    } areas[] = {{"\x0f\xae\x06", "\x0f\xae\x0e", 512}, {"\x0f\xae\x26", "\x0f\xae\x2e", 576}};
    uint8_t want[576], was[108];

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        cpu_rig_create_soft(&rig, 0, 0);
        for (unsigned d = 64; d < areas[i].bytes; d += 64) {
            uint16_t off = (uint16_t)(0x10000 - d);
            memset(rig.ram + CPU_RIG_DATA, 0, 0x20000);
            assert_int_equal(run(areas[i].save, 3, PLAIN, false, 0xffff, 2, BASE), NONE);
            memcpy(want, rig.ram + BASE + PLAIN, areas[i].bytes);
            assert_int_equal(run(areas[i].load, 3, PLAIN, true, 0xffff, 2, BASE), NONE);
            memcpy(was, rig.ram + BASE + RESULT, 108);
            assert_int_equal(run(areas[i].save, 3, off, false, 0xffff, 2, BASE), NONE);
            assert_memory_equal(rig.ram + BASE + off, want, d);
            assert_memory_equal(rig.ram + BASE, want + d, areas[i].bytes - d);
            memset(rig.ram + BASE + RESULT, 0, 108);
            assert_int_equal(run(areas[i].load, 3, off, true, 0xffff, 2, BASE), NONE);
            assert_memory_equal(rig.ram + BASE + RESULT, was, 108);
        }
        cpu_rig_destroy(&rig);
    }
}

/* FLD dword [EIP + disp] beyond 4 GiB: the data pointer is where it was read. */
static void data_pointer_of_a_short_rip_relative_operand(void **state)
{
    /* fninit; fldz; fdiv st, st(0); mov ecx, 300; 1: fld dword [eip + ffeeh]; fstp st(0); loop 1b;
       fldcw [rbx + 200h], which makes the invalid operation pending; fxsave64 [rbx]; hlt */
    static const uint8_t code[] =
        "\xdb\xe3\xd9\xee\xd8\xf0\xb9\x2c\x01\0\0\x67\xd9\x05\xee\xff\0\0\xdd\xd8\xe2\xf5"
        "\xd9\xab\0\x02\0\0\x48\x0f\xae\x03\xf4";
    uint64_t pdpt, fdp;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        cpu_rig_create_soft(&rig, 0, i != 0 ? VMC_SOFT_TRANSLATE : 0);
        cpu_rig_mode(&rig, 64, 0);
        memcpy(&pdpt, rig.ram + CPU_RIG_PML4, 8);
        memcpy(rig.ram + CPU_RIG_PML4 + 8, &pdpt, 8); /* 512 GiB higher the same again */
        cpu_rig_code(&rig, CPU_RIG_TEXT, code, sizeof(code) - 1);
        rig.st.rip = CPU_RIG_TEXT | 1ull << 39;
        rig.st.gpr[VMC_RBX] = CPU_RIG_DATA;
        rig.ram[CPU_RIG_DATA + 0x200] = 0x7e;
        rig.ram[CPU_RIG_DATA + 0x201] = 3;
        assert_int_equal(cpu_rig_run(&rig, 100000), VMC_EXIT_IDLE);
        assert_int_equal(rig.st.rip, (CPU_RIG_TEXT | 1ull << 39) + sizeof(code) - 1);
        memcpy(&fdp, rig.ram + CPU_RIG_DATA + 16, 8);
        assert_int_equal(fdp, CPU_RIG_TEXT + 0x10000);
        cpu_rig_destroy(&rig);
    }
}

/*
 * 32-bit addresses in 64-bit mode, where the base of FS makes of two pieces, which are 4 GiB apart,
 * what looks like one within a page.
 */
static void numbers_wrap_at_4_gib_in_64_bit_mode(void **state)
{
    /* fninit; mov ecx, 300; 1: mov byte fs:[ebx - 16], 0, so that the TLB has the page; fld1;
       fstp tword fs:[ebx]; fld tword fs:[ebx]; fstp tword [rsi]; loop 1b; hlt */
    static const uint8_t code[] = "\xdb\xe3\xb9\x2c\x01\0\0\x64\x67\xc6\x43\xf0\0\xd9\xe8"
                                  "\x64\x67\xdb\x3b\x64\x67\xdb\x2b\xdb\x3e\xe2\xec\xf4";
    static const uint8_t one[10] = {0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f};
    const uint64_t pd = OTHER | 3, page = OTHER_PAGE | 0x83;
    uint64_t pdpt;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        cpu_rig_create_soft(&rig, 0, i != 0 ? VMC_SOFT_TRANSLATE : 0);
        cpu_rig_mode(&rig, 64, 0);
        memcpy(&pdpt, rig.ram + CPU_RIG_PML4, 8);
        memcpy(rig.ram + (pdpt & ~0xfffull) + 4 * 8, &pd, 8); /* at 4 GiB there is another page */
        memcpy(rig.ram + OTHER, &page, 8);
        memset(rig.ram + CPU_RIG_DATA, 0xcc, 0x2000);
        memset(rig.ram + OTHER_PAGE + CPU_RIG_DATA, 0xcc, 0x2000);
        cpu_rig_code(&rig, CPU_RIG_TEXT, code, sizeof(code) - 1);
        rig.st.seg[VMC_FS].base = BASE;
        rig.st.gpr[VMC_RBX] = 0xfffffff8;
        rig.st.gpr[VMC_RSI] = CPU_RIG_DATA + 0x1000;
        assert_int_equal(cpu_rig_run(&rig, 100000), VMC_EXIT_IDLE);
        assert_int_equal(rig.st.rip, CPU_RIG_TEXT + sizeof(code) - 1);
        assert_memory_equal(rig.ram + CPU_RIG_DATA + 0x1000, one, 10);
        assert_memory_equal(rig.ram + OTHER_PAGE + BASE - 8, one, 8);
        assert_memory_equal(rig.ram + BASE, one + 8, 2);
        assert_int_equal(rig.ram[OTHER_PAGE + BASE], 0xcc);
        cpu_rig_destroy(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_wrap),
        cmocka_unit_test(numbers_wrap_at_4_gib),
        cmocka_unit_test(numbers_wrap_at_4_gib_in_64_bit_mode),
        cmocka_unit_test(areas_wrap),
        cmocka_unit_test(data_pointer_of_a_short_rip_relative_operand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
