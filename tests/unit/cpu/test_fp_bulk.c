/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Copying and filling through vector registers: every length, what lies around it, overlaps both
 * ways, and the registers, which may hold a guest's state.
 */
#include <cpuid.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/fpu/fp_bulk.h"

#define BYTES 2048u
#define MOST  700u

/* With AVX usable, as vmci_fp_bulk has it. */
static void need_avx(void)
{
    unsigned a, b, c = 0, d;

    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & 1u << 27) == 0 || (c & 1u << 28) == 0) {
        print_message("this processor has no AVX\n");
        skip();
    }
}

static void fill_random(uint8_t *p, size_t n, uint32_t seed)
{
    for (size_t k = 0; k < n; k++) {
        seed = seed * 1664525u + 1013904223u;
        p[k] = (uint8_t)(seed >> 24);
    }
}

static void test_copy(void **state)
{
    static uint8_t was[BYTES], now[BYTES], want[BYTES];
    static const int ahead[] = {128, 129, 200, 1000, -1, -7, -31, -64, -127, -128, -300};

    (void)state;
    need_avx();
    fill_random(was, BYTES, 7);
    for (unsigned k = 0; k < sizeof(ahead) / sizeof(ahead[0]); k++)
        for (unsigned n = 0; n <= MOST; n++) {
            unsigned from = 301 + n % 33, to = (unsigned)((int)from + ahead[k]);
            memcpy(now, was, BYTES);
            memcpy(want, was, BYTES);
            for (unsigned i = 0; i < n; i++)
                want[to + i] = want[from + i];
            vmci_fp_bulk_copy(now + to, now + from, n);
            assert_memory_equal(now, want, BYTES);
        }
}

static void test_fill(void **state)
{
    static uint8_t now[BYTES], want[BYTES];
    static const uint64_t element[] = {0x5a, 0x1234, 0xdeadbeef, 0x0123456789abcdef};

    (void)state;
    need_avx();
    for (unsigned size = 0; size < 4; size++) {
        unsigned bytes = 1u << size;
        uint64_t pattern = 0;
        for (unsigned at = 0; at < 64; at += 8 * bytes)
            pattern |= element[size] << at;
        for (unsigned n = 0; n <= MOST; n += bytes) {
            unsigned to = 100 + n % 35;
            fill_random(now, BYTES, n + 1);
            memcpy(want, now, BYTES);
            for (unsigned i = 0; i < n; i += bytes)
                memcpy(want + to + i, &element[size], bytes);
            vmci_fp_bulk_fill(now + to, pattern, n);
            assert_memory_equal(now, want, BYTES);
        }
    }
}

/* ymm0-3 as they were set just before, and just behind the call; RBX survives it. */
static void call_between(const uint8_t set[128], uint8_t got[128], void *to, uint64_t from,
                         size_t bytes, uintptr_t fn)
{
    __asm__ volatile("vmovdqu (%[set]), %%ymm0\n\t"
                     "vmovdqu 32(%[set]), %%ymm1\n\t"
                     "vmovdqu 64(%[set]), %%ymm2\n\t"
                     "vmovdqu 96(%[set]), %%ymm3\n\t"
                     "mov %%rsp, %%r12\n\t"
                     "sub $256, %%rsp\n\t" /* what is below may be the caller's */
                     "and $-64, %%rsp\n\t"
                     "call *%%rax\n\t"
                     "mov %%r12, %%rsp\n\t"
                     "vmovdqu %%ymm0, (%[got])\n\t"
                     "vmovdqu %%ymm1, 32(%[got])\n\t"
                     "vmovdqu %%ymm2, 64(%[got])\n\t"
                     "vmovdqu %%ymm3, 96(%[got])\n\t"
                     "vzeroupper"
                     : "+D"(to), "+S"(from), "+d"(bytes), "+a"(fn)
                     : [set] "r"(set), [got] "b"(got)
                     : "rcx", "r8", "r9", "r10", "r11", "r12", "xmm0", "xmm1", "xmm2", "xmm3",
                       "memory", "cc");
}

static void test_registers(void **state)
{
    static uint8_t set[128], got[128], memory[BYTES];

    (void)state;
    need_avx();
#ifdef VMC_SANITIZED
    print_message(
        "with sanitizers compiled code uses vector registers itself: none is a guest's\n");
    skip();
#endif
    for (unsigned n = 0; n <= MOST; n++) {
        fill_random(set, sizeof(set), n + 99);
        call_between(set, got, memory + 1000, (uintptr_t)memory, n, (uintptr_t)vmci_fp_bulk_copy);
        assert_memory_equal(got, set, sizeof(set));
        call_between(set, got, memory, n, n, (uintptr_t)vmci_fp_bulk_fill);
        assert_memory_equal(got, set, sizeof(set));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_fill),
        cmocka_unit_test(test_registers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
