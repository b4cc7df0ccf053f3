/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The shadow of STI in translated code: no interrupt comes between STI and the next instruction.
 * In "sti; X; cli" there is one boundary where it may come, whatever X is, wherever the translator
 * ends a trace, and whenever the interrupt is raised: while the interpreter has executed STI, and X
 * is translated; before the translated loop runs, which looks when its part of the budget is used
 * up; while the vCPU stands between two instructions. X may also be the jump back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_rig.h"

#define VECTOR 0x41u
#define ENOUGH 20000u /* instructions; the translator does not begin with few */
#define PAGE   0x1000u

/* Loads of MXCSR and FCW, with exceptions masked or not, that X cannot run natively then. */
static const uint8_t head[] = {0x0f, 0xae, 0x16,
                               0xd9, 0x6e, 0x08, /* ldmxcsr [rsi]; fldcw [rsi+8] */
                               0xd9, 0xee};      /* fldz */
static const struct {
    uint8_t bytes[8], n;
} follower[] = {
    {{0xff, 0xc0}, 2},             /* inc eax */
    {{0x01, 0xd0}, 2},             /* add eax, edx */
    {{0x48, 0x89, 0x46, 0x10}, 4}, /* mov [rsi + 16], rax */
    {{0x50}, 1},                   /* push rax */
    {{0x0f, 0x58, 0xc0}, 3},       /* addps xmm0, xmm0 */
    {{0x0f, 0x28, 0x46, 0x20}, 4}, /* movaps xmm0, [rsi + 32] */
    {{0xd9, 0xe0}, 2},             /* fchs */
    {{0x0f, 0xa2}, 2},             /* cpuid */
    {{0x0f, 0x01, 0xf8}, 3},       /* swapgs */
    {{0xeb, 0x00}, 2},             /* jmp to the next one */
    {{0xe9}, 5},                   /* jmp to the top, where CLI is */
};
#define FOLLOWERS (sizeof(follower) / sizeof(follower[0]))

struct shadow {
    struct cpu_rig r;
    uint64_t at, end; /* of X, and behind it */
    uint64_t when;    /* the interrupt is raised when this is translated for the first time */
    unsigned raised;  /* ... so often */
};

static void raise_irq(struct shadow *s)
{
    s->r.irq = VECTOR;
    s->r.ops->irq_notify(s->r.ev);
}

static void translated(void *ctx, uint32_t vcpu, const struct vmc_translation *t)
{
    struct shadow *s = ctx;

    (void)vcpu;
    if (t->gva != s->when || s->raised != 0)
        return;
    s->raised++;
    raise_irq(s);
}

/*
 * head; l: cli; nop; sti; X; cli; nop; jmp l. With split, STI ends its page. The interrupt is
 * raised when X is translated, or with early when l is.
 */
static void begin(struct shadow *s, unsigned k, unsigned way)
{
    static const uint8_t top[] = {0xfa, 0x90, 0xfb};
    uint8_t tail[] = {0xfa, 0x90, 0xe9, 0, 0, 0, 0};
    static const uint32_t control[2][2] = {{0x1b80, 0x377},
                                           {0x1f80, 0x37f}}; /* but overflow; all */
    bool masked = (way & 1) != 0, split = (way & 2) != 0, early = (way & 4) != 0;
    uint8_t code[64];
    uint64_t start = CPU_RIG_TEXT + (split ? PAGE - sizeof(head) - sizeof(top) : 0);
    size_t n = sizeof(head);

    cpu_rig_mode(&s->r, 64, 0);
    memcpy(code, head, n);
    memcpy(code + n, top, sizeof(top));
    n += sizeof(top);
    s->at = start + n;
    memcpy(code + n, follower[k].bytes, follower[k].n);
    n += follower[k].n;
    s->end = start + n;
    if (follower[k].bytes[0] == 0xe9) {
        int32_t by = (int32_t)(sizeof(head) - n);
        memcpy(code + n - 4, &by, 4);
        s->end = start + sizeof(head);
    }
    int32_t by = (int32_t)(sizeof(head) - (n + sizeof(tail)));
    memcpy(tail + 3, &by, 4);
    memcpy(code + n, tail, sizeof(tail));
    cpu_rig_code(&s->r, start, code, n + sizeof(tail));
    s->r.st.rip = start;
    s->r.st.gpr[VMC_RSI] = CPU_RIG_DATA;
    memset(s->r.ram + CPU_RIG_DATA, 0, 64);
    memcpy(s->r.ram + CPU_RIG_DATA, &control[masked][0], 4);
    memcpy(s->r.ram + CPU_RIG_DATA + 8, &control[masked][1], 2);
    s->r.st.rflags &= ~(uint64_t)VMC_FLAG_IF;
    s->r.irq = -1;
    s->when = early ? start + sizeof(head) : s->at;
    s->raised = 0;
}

/* The handler has stopped: where was the program interrupted? */
static void check(const struct shadow *s, unsigned k, uint32_t why)
{
    uint64_t rip;

    assert_int_equal(why, VMC_EXIT_IDLE);
    assert_int_equal(s->r.st.rip, CPU_RIG_TRAPS + VECTOR + 1);
    memcpy(&rip, s->r.ram + s->r.st.gpr[VMC_RSP], sizeof(rip));
    if (rip != s->end)
        fail_msg("instruction %u: interrupted at 0x%llx, not 0x%llx", k, (unsigned long long)rip,
                 (unsigned long long)s->end);
}

static void with_rig(struct shadow *s, uint32_t flags)
{
    struct vmc_soft_config soft = {.size = sizeof(soft),
                                   .flags = flags,
                                   .translated = flags != 0 ? translated : NULL,
                                   .translated_ctx = s};

    memset(s, 0, sizeof(*s));
    cpu_rig_create_with(&s->r, 0, &soft);
}

static void test_translated(void **state)
{
    static struct shadow s;
    unsigned raised = 0;

    (void)state;
    for (unsigned k = 0; k < FOLLOWERS; k++)
        for (unsigned way = 0; way < 8; way++) {
            with_rig(&s, VMC_SOFT_TRANSLATE_ALL);
            begin(&s, k, way);
            uint32_t why = cpu_rig_run(&s.r, ENOUGH);
            raised += s.raised;
            if (s.raised == 0) { /* it is in the same trace as what was before it */
                assert_int_equal(why, VMC_EXIT_BUDGET);
                raise_irq(&s);
                why = cpu_rig_resume(&s.r, ENOUGH);
            }
            check(&s, k, why);
            cpu_rig_destroy(&s.r);
        }
#ifndef VMC_SANITIZED /* such builds have no translator */
    assert_true(raised > 3 * FOLLOWERS);
#else
    assert_int_equal(raised, 0);
#endif
}

/* The loop was run for long, and the vCPU stands at any of its boundaries. */
static void test_stopped(void **state)
{
    static struct shadow s;

    (void)state;
    for (unsigned translate = 0; translate < 2; translate++) {
        with_rig(&s, translate != 0 ? VMC_SOFT_TRANSLATE_ALL : 0);
        for (unsigned k = 0; k < FOLLOWERS; k++)
            for (unsigned way = 0; way < 4; way++)
                for (unsigned more = 0; more < 8; more++) {
                    begin(&s, k, way);
                    s.when = 0;
                    assert_int_equal(cpu_rig_run(&s.r, ENOUGH + more), VMC_EXIT_BUDGET);
                    raise_irq(&s);
                    check(&s, k, cpu_rig_resume(&s.r, ENOUGH));
                }
        cpu_rig_destroy(&s.r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_translated),
        cmocka_unit_test(test_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
