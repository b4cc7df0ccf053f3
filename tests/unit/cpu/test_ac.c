/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Alignment checks of instructions that are not plain loads and stores. What far transfers do on a
 * stack that is not aligned is what an EPYC 9004 did.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_rig_one.h"

/* Runs to the HLT of a handler; returns its vector. HLT at level 3 is #GP. */
static int outcome(void)
{
    assert_int_equal(cpu_rig_run(&rig, 1000), VMC_EXIT_IDLE);
    uint64_t at = rig.st.rip - 1 - CPU_RIG_TRAPS;
    assert_true(at < 32);
    return (int)at;
}

static uint64_t ld64(uint64_t gpa)
{
    uint64_t v;
    memcpy(&v, rig.ram + gpa, 8);
    return v;
}

static void begin(unsigned bits, const void *code, size_t n, uint64_t rsp, bool check)
{
    cpu_rig_mode(&rig, bits, 3);
    if (check) {
        rig.st.cr0 |= VMC_CR0_AM;
        rig.st.rflags |= VMC_FLAG_AC;
    }
    rig.st.gpr[VMC_RSP] = rsp;
    cpu_rig_code(&rig, CPU_RIG_TEXT, code, n);
}

#define DONE (CPU_RIG_TEXT + 0x100) /* HLT */

static void put(uint64_t gpa, unsigned bytes, const uint64_t *v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        memcpy(rig.ram + gpa + i * bytes, &v[i], bytes);
}

/* Items of that many bytes on a stack that is off by 0 to 15. */
static void far_transfers_check_the_stack(void **state)
{
    static const struct {
        const char *what;
        uint8_t code[4];
        unsigned bits, bytes, items;
    } t[] = {
        {"iretq", {0x48, 0xcf}, 64, 8, 5},
        {"iretd, 64-bit code", {0xcf}, 64, 4, 5},
        {"iret, 64-bit code", {0x66, 0xcf}, 64, 2, 5},
        {"retfq", {0x48, 0xcb}, 64, 8, 2},
        {"retf, 64-bit code", {0xcb}, 64, 4, 2},
        {"call m16:32, 64-bit code", {0xff, 0x1e}, 64, 4, 0},
        {"iretd", {0xcf}, 32, 4, 3},
        {"iretw", {0x66, 0xcf}, 32, 2, 3},
        {"retf", {0xcb}, 32, 4, 2},
        {"o16 retf", {0x66, 0xcb}, 32, 2, 2},
        {"call m16:32", {0xff, 0x1e}, 32, 4, 0},
        {"call m16:16", {0x66, 0xff, 0x1e}, 32, 2, 0},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        for (unsigned k = 0; k < 32; k++) {
            unsigned off = k / 2;
            bool check = k % 2 != 0, low = t[i].bytes == 2; /* two bytes hold no address of DONE */
            uint64_t sp = CPU_RIG_STACK - 64 + off, to = low ? DONE & 0xffff : DONE;
            uint64_t frame[5] = {to, CPU_RIG_CS3, VMC_FLAG_1, sp & (low ? 0xffff : ~0ull),
                                 CPU_RIG_DS3};
            begin(t[i].bits, t[i].code, sizeof(t[i].code), sp, check);
            rig.ram[to] = 0xf4;
            put(sp, t[i].bytes, frame, t[i].items);
            rig.st.gpr[VMC_RSI] = CPU_RIG_DATA;
            memset(rig.ram + CPU_RIG_DATA, 0, 16);
            memcpy(rig.ram + CPU_RIG_DATA, &to, low ? 2 : 4);
            rig.ram[CPU_RIG_DATA + (low ? 2 : 4)] = CPU_RIG_CS3;
            int want = check && off % t[i].bytes != 0 ? VMC_VEC_AC : VMC_VEC_GP, got = outcome();
            const uint64_t sp0 = rig.st.gpr[VMC_RSP];
            uint64_t rip = t[i].bits == 64 ? ld64(sp0 + 8) : (uint32_t)ld64(sp0 + 4);
            uint64_t at = want == VMC_VEC_AC ? CPU_RIG_TEXT : to;
            if (got != want || rip != at)
                fail_msg("%s, stack off by %u, checked: %d: vector %d at %llx", t[i].what, off,
                         check, got, (unsigned long long)rip);
            assert_int_equal((uint32_t)ld64(sp0), 0); /* error code */
        }
    }
}

/* What SGDT and SIDT store wants to be aligned to four bytes as a whole (SDM 3A table 6-7). */
static void descriptor_tables_are_one_operand(void **state)
{
    static const uint8_t code[][4] = {{0x0f, 0x01, 0x06, 0xf4}, {0x0f, 0x01, 0x0e, 0xf4}};
    (void)state;
    for (unsigned bits = 32; bits <= 64; bits += 32) {
        for (unsigned i = 0; i < 2; i++) {
            for (unsigned off = 0; off < 16; off++) {
                uint64_t at = CPU_RIG_DATA + 0xff8 + off; /* across pages, too */
                uint8_t want[16];
                begin(bits, code[i], sizeof(code[i]), CPU_RIG_STACK, true);
                memset(rig.ram + at, 0xcc, 16);
                rig.st.gpr[VMC_RSI] = at;
                int got = outcome();
                if (got != (off % 4 != 0 ? VMC_VEC_AC : VMC_VEC_GP))
                    fail_msg("%s off by %u: vector %d", i ? "sidt" : "sgdt", off, got);
                struct vmc_table *table = i ? &rig.st.idtr : &rig.st.gdtr;
                memset(want, 0xcc, sizeof(want));
                if (off % 4 == 0) {
                    memcpy(want, &table->limit, 2);
                    memcpy(want + 2, &table->base, bits / 8);
                }
                assert_memory_equal(rig.ram + at, want, 16);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(far_transfers_check_the_stack, setup, teardown),
        cmocka_unit_test_setup_teardown(descriptor_tables_are_one_operand, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
