/* SPDX-License-Identifier: BSD-2-Clause */
/* The arithmetic of the bare-metal image against that of the other builds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/interp/exec.h"
vmci_exec_fn alu_handler_small(const struct vmci_insn *in);
#define alu_handler alu_handler_small
#include "cpu/interp/exec_alu_small.c"
#undef alu_handler

static uint64_t seed = 1;
static uint64_t number(void) /* often of one width's size, or a border */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    uint64_t v = seed ^ seed >> 29;
    switch (v & 7) {
    case 0:
        return (uint64_t)0 - (v >> 8 & 1);
    case 1:
        return 1ull << (v >> 8 & 63);
    case 2:
        return (1ull << (v >> 8 & 63)) - 1;
    default:
        return v * 0x9e3779b97f4a7c15u;
    }
}

static struct vmci_soft_cpu *one, *other;

static void both(const struct vmci_insn *in)
{
    struct vmci_cpu *a = (struct vmci_cpu *)(void *)one, *b = (struct vmci_cpu *)(void *)other;
    vmci_exec_fn fast = alu_handler(in), small = alu_handler_small(in);

    assert_non_null(fast);
    assert_non_null(small);
    for (unsigned r = 0; r < 16; r++)
        a->gpr[r] = b->gpr[r] = number();
    a->rflags = b->rflags = 0x202 | (number() & VMC_FLAG_ARITH);
    /* What memory would hold, locked and not: the flags and the value must be the register's. */
    uint64_t mem[2] = {a->gpr[in->opnd[0].reg], a->gpr[in->opnd[0].reg]}, flags = a->rflags;
    uint64_t src = in->opnd[1].kind == VMCI_OPND_IMM ? (uint64_t)in->imm : a->gpr[in->opnd[1].reg];

    assert_int_equal(fast(a, in), 0);
    assert_int_equal(small(b, in), 0);
    assert_memory_equal(a->gpr, b->gpr, sizeof(a->gpr));
    assert_int_equal(a->rflags, b->rflags);
    if (in->op == VMCI_OP_CMP || in->op == VMCI_OP_TEST || in->opnd[0].kind == VMCI_OPND_GPR_HI ||
        in->opnd[1].kind == VMCI_OPND_GPR_HI)
        return;
    for (unsigned lock = 0; lock < 2; lock++) {
        unsigned op =
            in->op <= VMCI_OP_TEST ? in->op - VMCI_OP_ADD : in->op - VMCI_OP_INC + TWO_OPS;
        u32 ax = compute(op, (unsigned)__builtin_ctz(in->opsize), &mem[lock], src, flags, lock);
        assert_memory_equal(&mem[lock], &a->gpr[in->opnd[0].reg], in->opsize);
        if (in->op != VMCI_OP_NOT) {
            b->rflags = flags;
            set_flags(b, ax);
            assert_int_equal(a->rflags, b->rflags);
        }
    }
}

static void every_operation(void **state)
{
    (void)state;
    struct vmci_insn in;

    for (unsigned i = 0; i < 60000; i++) {
        memset(&in, 0, sizeof(in));
        bool two = i % 13 < 9;
        in.op = (uint16_t)(two ? VMCI_OP_ADD + i % 13 : VMCI_OP_INC + i % 13 - 9);
        in.opsize = (uint8_t)(1u << (i / 13 & 3));
        for (unsigned o = 0; o < 2; o++) {
            in.opnd[o].kind =
                in.opsize == 1 && (number() & 8) != 0 ? VMCI_OPND_GPR_HI : VMCI_OPND_GPR;
            in.opnd[o].size = in.opsize;
            in.opnd[o].reg = number() >> 8 & (in.opnd[o].kind == VMCI_OPND_GPR_HI ? 3 : 15);
        }
        if (two && (number() & 16) != 0) {
            in.opnd[1].kind = VMCI_OPND_IMM;
            in.imm = (int64_t)number();
        }
        both(&in);
    }
}

static void nothing_else(void **state)
{
    (void)state;
    struct vmci_insn in = {.opsize = 4};
    for (unsigned op = 0; op < 1024; op++) {
        in.op = (uint16_t)op;
        assert_int_equal(alu_handler(&in) != NULL, alu_handler_small(&in) != NULL);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation),
        cmocka_unit_test(nothing_else),
    };
    one = calloc(1, sizeof(*one));
    other = calloc(1, sizeof(*other));
    if (one == NULL || other == NULL)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(one);
    free(other);
    return failed;
}
