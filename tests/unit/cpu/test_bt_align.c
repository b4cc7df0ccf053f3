/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Loops over operands that must be aligned, in translated code. Where their addresses move by a
 * multiple of 16, alignment is looked at on the way into the loop and not in each round. After many
 * aligned passes or rounds one is misaligned: that is #GP at its first such operand, with all that
 * was done before it, as in the interpreter.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_pair.h"

#define PROGRAMS 400u
#define PASSES   24u
#define TABLE    0x300000u /* of the addresses where the passes begin */
#define STRIDES  0x301000u /* of rounds, last round first */
#define ROUNDS   40u
#define MIDDLE   0x200000u
#define REACH    0x80000u

struct program {
    uint8_t code[128];
    size_t n;
};

static void put(struct program *p, const void *bytes, size_t n)
{
    memcpy(p->code + p->n, bytes, n);
    p->n += n;
}

/* The last byte is the displacement of a jump back to place to. */
static void put_back(struct program *p, const void *bytes, size_t n, size_t to)
{
    put(p, bytes, n);
    p->code[p->n - 1] = (uint8_t)(to - p->n);
}

static void make(struct program *p)
{
    static const uint8_t take[] = {0x48, 0x8b,   0x75, 0,          /* mov rsi, [rbp] */
                                   0x48, 0x8b,   0x7d, 8,          /* mov rdi, [rbp + 8] */
                                   0x48, 0x83,   0xc5, 0x10,       /* add rbp, 16 */
                                   0xb9, ROUNDS, 0,    0,    0};   /* mov ecx, ROUNDS */
    static const uint8_t plain[] = {0x66, 0x0f, 0x6f, 0x06,        /* movdqa xmm0, [rsi] */
                                    0x66, 0x0f, 0xd4, 0x46, 0x10,  /* paddq xmm0, [rsi + 16] */
                                    0x66, 0x0f, 0x7f, 0x46, 0x20}; /* movdqa [rsi + 32], xmm0 */
    static const uint8_t sum[] = {0x66, 0x0f, 0x6f, 0x04, 0x37,    /* movdqa xmm0, [rdi + rsi] */
                                  0x66, 0x0f, 0xd4, 0x44, 0x37,
                                  16,                            /* paddq xmm0, [rdi + rsi + 16] */
                                  0x66, 0x0f, 0x7f, 0x04, 0x37}; /* movdqa [rdi + rsi], xmm0 */
    static const uint8_t live[] = {0x48, 0x85, 0xff};            /* test rdi, rdi */
    uint8_t add[] = {0x48, 0x81, 0xc6, 0, 0, 0, 0};              /* add rsi, k */
    static const uint8_t vary[] = {0x48, 0x03, 0x34, 0xcb};      /* add rsi, [rbx + rcx * 8] */
    static const uint8_t sub[] = {0x83, 0xe9, 1, 0x75, 0};       /* sub ecx, 1; jnz */
    static const uint8_t dec[] = {0xff, 0xc9, 0x75, 0};          /* dec ecx; jnz */
    static const uint8_t end[] = {0x41, 0xff, 0xcd, 0x75, 0};    /* dec r13d; jnz */
    static const uint8_t hlt[] = {0xf4};
    int32_t by = 16 * ((int32_t)rnd(60) - 30);

    p->n = 0;
    put(p, take, sizeof(take));
    size_t top = p->n;
    if (rnd(2) == 0)
        put(p, live, sizeof(live));
    if (rnd(2) == 0)
        put(p, plain, sizeof(plain));
    else
        put(p, sum, sizeof(sum));
    memcpy(add + 3, &by, 4);
    if (rnd(2) == 0)
        put(p, add, sizeof(add));
    else
        put(p, vary, sizeof(vary));
    if (rnd(2) == 0)
        put_back(p, sub, sizeof(sub), top);
    else
        put_back(p, dec, sizeof(dec), top);
    put_back(p, end, sizeof(end), 0);
    put(p, hlt, sizeof(hlt));
}

struct data {
    uint64_t at[2 * PASSES], stride[ROUNDS + 1];
};

/* A pass near the end is misaligned, or one of the strides makes it so. */
static void make_data(struct data *d)
{
    for (unsigned n = 0; n < 2 * PASSES; n += 2) {
        d->at[n] = MIDDLE + 16 * rnd(512);
        d->at[n + 1] = 16 * rnd(512);
    }
    for (unsigned n = 0; n <= ROUNDS; n++)
        d->stride[n] = (uint64_t)(int64_t)(16 * ((int)rnd(60) - 30));
    if (rnd(2) == 0)
        d->at[2 * (PASSES - 1 - rnd(4)) + rnd(2)] += 1 + rnd(15);
    else if (rnd(2) == 0)
        d->stride[1 + rnd(ROUNDS)] += 8;
}

static void begin(struct cpu_rig *r, const struct program *p, const struct data *d)
{
    cpu_rig_mode(r, 64, 0);
    memset(r->ram + MIDDLE - REACH, 0x5a, 2 * REACH);
    memcpy(r->ram + TABLE, d->at, sizeof(d->at));
    memcpy(r->ram + STRIDES, d->stride, sizeof(d->stride));
    cpu_rig_code(r, CPU_RIG_TEXT, p->code, p->n);
    memset(r->st.gpr, 0, sizeof(r->st.gpr));
    r->st.gpr[VMC_RSP] = CPU_RIG_STACK;
    r->st.gpr[VMC_RBP] = TABLE;
    r->st.gpr[VMC_RBX] = STRIDES;
    r->st.gpr[VMC_R13] = PASSES;
}

static void test_aligned_loops(void **state)
{
    unsigned faults = 0;
    struct program p;
    struct data d;

    (void)state;
    for (unsigned k = 0; k < PROGRAMS; k++) {
        seed = 0x9e3779b9u * (k + 1);
        make(&p);
        make_data(&d);
        for (unsigned r = 0; r < 2; r++) {
            begin(&rig[r], &p, &d);
            assert_int_equal(cpu_rig_run(&rig[r], 0), VMC_EXIT_IDLE);
        }
        assert_memory_equal(rig[0].st.gpr, rig[1].st.gpr, sizeof(rig[0].st.gpr));
        assert_int_equal(rig[0].st.rip, rig[1].st.rip);
        assert_int_equal(rig[0].st.rflags, rig[1].st.rflags);
        assert_int_equal(rig[0].exit.retired, rig[1].exit.retired);
        assert_memory_equal(rig[0].ram + MIDDLE - REACH, rig[1].ram + MIDDLE - REACH, 2 * REACH);
        assert_memory_equal(rig[0].ram + CPU_RIG_STACK - 64, rig[1].ram + CPU_RIG_STACK - 64, 64);
        faults += rig[0].st.rip < CPU_RIG_TEXT;
    }
    assert_in_range(faults, PROGRAMS / 8, PROGRAMS * 7 / 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_aligned_loops, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
