/* SPDX-License-Identifier: BSD-2-Clause */
/* Moves, exchanges and conditional jumps of the bare-metal image against those of the other builds.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/interp/exec.h"
vmci_exec_fn width_handler_small(const struct vmci_insn *in);
#define width_handler width_handler_small
#include "cpu/interp/exec_width_small.c"
#undef width_handler

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
static uint64_t mem_one[2], mem_other[2]; /* what the guest's page at PAGE begins with, for each */
enum { PAGE = 0x5000 };

/* The page is in both TLBs, at the host's address of the cell. */
static void map_cell(struct vmci_soft_cpu *sc, uint64_t *cell)
{
    struct vmci_tlb *t = tlb_now(&sc->cpu);
    unsigned i = vmci_tlb_index(PAGE);

    t->rd[i] = t->wr[i] = 0 - (uint64_t)PAGE; /* a tag is what makes an address an offset */
    t->addend[i] = (uintptr_t)cell - PAGE;
}

static void both(const struct vmci_insn *in)
{
    struct vmci_cpu *a = &one->cpu, *b = &other->cpu;
    vmci_exec_fn fast = width_handler(in), small = width_handler_small(in);

    assert_non_null(fast);
    assert_non_null(small);
    for (unsigned r = 0; r < 16; r++)
        a->gpr[r] = b->gpr[r] = number();
    for (unsigned i = 0; i < 2; i++)
        mem_one[i] = mem_other[i] = number();
    if ((number() & 1) != 0) { /* CMPXCHG finds what it expects */
        a->gpr[VMC_RAX] = b->gpr[VMC_RAX] = mem_one[0];
        a->gpr[3] = b->gpr[3] = mem_one[0];
    }
    a->rflags = b->rflags = 0x202 | (number() & VMC_FLAG_ARITH);
    a->rip = b->rip = 0x1000;
    assert_int_equal(fast(a, in), 0);
    assert_int_equal(small(b, in), 0);
    assert_memory_equal(a->gpr, b->gpr, sizeof(a->gpr));
    assert_memory_equal(mem_one, mem_other, sizeof(mem_one));
    assert_int_equal(a->rflags, b->rflags);
    assert_int_equal(a->rip, b->rip);
}

static void reg_operand(struct vmci_opnd *o, unsigned size)
{
    o->size = (uint8_t)size;
    o->kind = size == 1 && (number() & 8) != 0 ? VMCI_OPND_GPR_HI : VMCI_OPND_GPR;
    o->reg = (uint8_t)(number() >> 8 & (o->kind == VMCI_OPND_GPR_HI ? 3 : 15));
}

/* An address that is PAGE whatever the registers hold: base and index are the slot that is 0. */
static void mem_operand(struct vmci_insn *in, unsigned n, unsigned size)
{
    in->opnd[n] = (struct vmci_opnd){.kind = VMCI_OPND_MEM, .size = (uint8_t)size};
    in->flags |= VMCI_IF_LINEAR;
    in->base = in->index = VMCI_REG_ZERO;
    in->disp = PAGE;
}

static void every_operation(void **state)
{
    static const uint16_t ops[] = {VMCI_OP_MOV,  VMCI_OP_MOVZX, VMCI_OP_MOVSX,
                                   VMCI_OP_XCHG, VMCI_OP_XADD,  VMCI_OP_CMPXCHG};
    unsigned with_memory = 0;

    (void)state;
    map_cell(one, mem_one);
    map_cell(other, mem_other);
    for (unsigned i = 0; i < 120000; i++) {
        struct vmci_insn in = {.op = ops[i % 6], .addrsize = 8};
        bool extends = in.op == VMCI_OP_MOVZX || in.op == VMCI_OP_MOVSX;
        unsigned shape = number() & 7, size = 1u << (number() >> 3 & 3), from = size;

        if (extends) {
            size = size == 1 ? 2 : size;
            from = 1u << (number() >> 5) % (size == 2 ? 2 : in.op == VMCI_OP_MOVSX ? 3 : 2);
        }
        in.opsize = (uint8_t)size;
        reg_operand(&in.opnd[0], size);
        reg_operand(&in.opnd[1], from);
        if (shape < 3 && !extends)
            mem_operand(&in, 0, size);
        else if (shape < 5 && in.op != VMCI_OP_XADD && in.op != VMCI_OP_CMPXCHG)
            mem_operand(&in, 1, from);
        if (in.op == VMCI_OP_MOV && in.opnd[1].kind != VMCI_OPND_MEM && (number() & 1) != 0) {
            in.opnd[1].kind = VMCI_OPND_IMM;
            in.imm = (int64_t)number();
        }
        if (in.opnd[0].kind == VMCI_OPND_MEM && in.op >= VMCI_OP_XCHG && (number() & 1) != 0)
            in.flags |= VMCI_IF_LOCK;
        with_memory += (in.flags & VMCI_IF_LINEAR) != 0;
        both(&in);
    }
    assert_in_range(with_memory, 30000, 100000);
}

static void every_condition(void **state)
{
    (void)state;
    one->cpu.code_bits = other->cpu.code_bits = 64;
    for (unsigned i = 0; i < 4096; i++) {
        struct vmci_insn in = {.op = VMCI_OP_JCC, .cond = i & 15, .opsize = 8, .len = 6};
        in.opnd[0].kind = VMCI_OPND_REL;
        in.imm = (int32_t)number();
        both(&in);
    }
}

static void nothing_else(void **state)
{
    (void)state;
    struct vmci_insn in = {.opsize = 4, .opnd = {{.size = 4}, {.size = 1}}};
    for (unsigned op = 0; op < VMCI_OP_COUNT; op++) {
        in.op = (uint16_t)op;
        assert_int_equal(width_handler(&in) != NULL, width_handler_small(&in) != NULL);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation),
        cmocka_unit_test(every_condition),
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
