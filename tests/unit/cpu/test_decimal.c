/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * AAA to AAD with all values of AX and many flags. The sums of results and flags are what the same
 * loops in a 32-bit process on an EPYC 9004 made, those flags included that the manual leaves undefined.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/interp/exec.h"

static const uint32_t flags[] = {0, 1, 0x10, 0x11, 0x8d5, 0x8c4};
static struct vmci_soft_cpu *soft;
static uint32_t sum;

static void add(uint32_t v)
{
    sum = (sum << 7 | sum >> 25) * 31 + v;
}

/* EAX, ECX and EDX (which stay 0), and the arithmetic flags. */
static void run(const struct vmci_insn *in, vmci_exec_fn fn, uint32_t eax, uint32_t fl)
{
    struct vmci_cpu *cpu = (struct vmci_cpu *)(void *)soft;

    cpu->gpr[VMC_RAX] = eax;
    cpu->rflags = fl | 2;
    assert_int_equal(fn(cpu, in), 0);
    add((uint32_t)cpu->gpr[VMC_RAX]);
    add(0);
    add(0);
    add((uint32_t)(cpu->rflags & VMC_FLAG_ARITH));
}

static uint32_t of_all(unsigned op)
{
    struct vmci_insn in = {.op = (uint16_t)op, .opsize = 4};
    bool base = op == VMCI_OP_AAM || op == VMCI_OP_AAD;

    sum = 1;
    for (unsigned i = op == VMCI_OP_AAM; i < (base ? 256u : 6u); i++) {
        in.imm = (int64_t)i;
        vmci_exec_fn fn = mul_handler(&in);
        assert_non_null(fn);
        unsigned end = op == VMCI_OP_AAM ? 256 : 0x10000, step = op == VMCI_OP_AAD ? 7 : 1;
        for (unsigned x = 0; x < end; x += step)
            run(&in, fn, (base ? 0x77770000u : 0xabcd0000u) | x, flags[i % 6]);
    }
    return sum;
}

static void all_inputs_are_as_on_silicon(void **state)
{
    (void)state;
    assert_int_equal(of_all(VMCI_OP_AAA), 0x9927e7f6);
    assert_int_equal(of_all(VMCI_OP_AAS), 0x13656fc5);
    assert_int_equal(of_all(VMCI_OP_DAA), 0xd19d0510);
    assert_int_equal(of_all(VMCI_OP_DAS), 0x9f47ded0);
    assert_int_equal(of_all(VMCI_OP_AAM), 0x725e0a46);
    assert_int_equal(of_all(VMCI_OP_AAD), 0xcc23fcdf);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(all_inputs_are_as_on_silicon)};

    soft = calloc(1, sizeof(*soft));
    if (soft == NULL)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(soft);
    return failed;
}
