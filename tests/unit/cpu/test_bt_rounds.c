/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Loops of many rounds over pages that lie elsewhere in memory than side by side, for hundreds of
 * thousands of instructions at a time, so that rounds are counted page by page and parts of the
 * budget are used up and made full again in the middle; strings and operands that lie across such
 * pages. Random programs in translator and interpreter: registers, flags, memory and the count of
 * instructions are the same wherever they stop, also where a page is missing or cannot be written.
 * And a kick takes effect within a part of the budget.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "cpu_pair.h"

#define PROGRAMS 120u
#define BEGIN    0x200000u /* 2 MiB, mapped by pages of 4 KiB */
#define PAGES    512u
#define MIDDLE   0x300000u
#define REACH    0x100000u
#define PT       0x400000u
#define PART     8192u /* instructions until a request is seen, at most, and those of a trace */
#define TRACE    384u

struct program {
    uint8_t code[1024];
    size_t n;
};

static void put(struct program *p, const void *bytes, size_t n)
{
    memcpy(p->code + p->n, bytes, n);
    p->n += n;
}

static void put_jump(struct program *p, uint8_t cond, size_t to)
{
    int32_t by = (int32_t)to - (int32_t)(p->n + 6);
    uint8_t jcc[6] = {0x0f, (uint8_t)(0x80 | cond)};

    memcpy(jcc + 2, &by, 4);
    put(p, jcc, sizeof(jcc));
}

static void put_imm(struct program *p, uint8_t rex, uint8_t op, uint32_t imm)
{
    uint8_t b[7] = {rex, 0xc7, op};

    memcpy(b + 3, &imm, 4);
    put(p, b, sizeof(b));
}

/* Pointers are RSI, RDI and RDX, the index RAX; what counts is RCX or R12. */
static void put_step(struct program *p)
{
    static const struct {
        uint8_t bytes[9], n;
        bool disp;
    } t[] = {
        {{0x48, 0x8b, 0x5e, 0}, 4, true},           /* mov rbx, [rsi + d] */
        {{0x48, 0x89, 0x5f, 0}, 4, true},           /* mov [rdi + d], rbx */
        {{0x4c, 0x03, 0x47, 0}, 4, true},           /* add r8, [rdi + d] */
        {{0x48, 0x01, 0x5a, 0}, 4, true},           /* add [rdx + d], rbx */
        {{0x66, 0x0f, 0x6f, 0x04, 0x06}, 5, false}, /* movdqa xmm0, [rsi + rax] */
        {{0x66, 0x0f, 0xfe, 0x04, 0x07}, 5, false}, /* paddd xmm0, [rdi + rax] */
        {{0x66, 0x0f, 0x7f, 0x04, 0x02}, 5, false}, /* movdqa [rdx + rax], xmm0 */
        {{0xf3, 0x0f, 0x7f, 0x42, 0}, 5, true},     /* movdqu [rdx + d], xmm0 */
        {{0x48, 0x89, 0x5c, 0x06, 0}, 5, true},     /* mov [rsi + rax + d], rbx */
        {{0x49, 0x83, 0xd3, 1}, 4, false},          /* adc r11, 1 */
        {{0x4d, 0x31, 0xc1}, 3, false},             /* xor r9, r8 */
        {{0x4d, 0x8d, 0x48, 5}, 4, false},          /* lea r9, [r8 + 5] */
        {{0x41, 0xff, 0xc2}, 3, false},             /* inc r10d */
        {{0xf2, 0x0f, 0x10, 0x0e}, 4, false},       /* movsd xmm1, [rsi] */
        {{0x48, 0x39, 0x1f}, 3, false},             /* cmp [rdi], rbx */
    };
    unsigned k = rnd(sizeof(t) / sizeof(t[0]));
    uint8_t b[9];

    memcpy(b, t[k].bytes, sizeof(b));
    if (t[k].disp)
        b[t[k].n - 1] = (uint8_t)(8 * rnd(12));
    put(p, b, t[k].n);
}

/* add reg, by, or lea reg, [reg + by]: reg is 6, 7, 2 or 0 */
static void put_move(struct program *p, bool lea, unsigned reg, int32_t by)
{
    uint8_t b[7] = {0x48, lea ? 0x8d : 0x81, (uint8_t)(lea ? 0x80 | reg << 3 | reg : 0xc0 | reg)};

    memcpy(b + 3, &by, 4);
    put(p, b, sizeof(b));
}

/* A loop of count rounds, from where the pointers are now; some move. In some no instruction writes
   all flags. */
static void put_loop(struct program *p, unsigned count)
{
    static const int16_t by[] = {8, 16, 16, 16, 32, 64, 128, -8, -16, -128, 384, 0, 256, -384};
    static const uint8_t dec[] = {0xff, 0xc9};               /* dec ecx */
    static const uint8_t sub[] = {0x83, 0xe9, 0x01};         /* sub ecx, 1 */
    static const uint8_t cmp[] = {0x4c, 0x39, 0xe6};         /* cmp rsi, r12 */
    static const uint8_t lea[] = {0x4c, 0x8d, 0xa6};         /* lea r12, [rsi + ...] */
    static const uint8_t zero[] = {0x31, 0xc0};              /* xor eax, eax */
    static const uint8_t flags[] = {0x49, 0x83, 0xd3, 0,     /* adc r11, 0 */
                                    0x41, 0x0f, 0x9a, 0xc2}; /* setp r10b */
    bool lea_moves = rnd(3) == 0;
    unsigned kind = rnd(3), index = rnd(2), steps = 1 + rnd(6);
    int32_t s[3];

    for (unsigned k = 0; k < 3; k++)
        s[k] = index == 0 ? by[rnd(sizeof(by) / sizeof(by[0]))] : 0;
    if (kind == 2 && s[0] == 0)
        kind = 1;
    put(p, zero, sizeof(zero));
    put_imm(p, 0x40, 0xc1, count); /* mov ecx, count */
    if (kind == 2) {
        int32_t end = s[0] * (int32_t)count;
        put(p, lea, sizeof(lea));
        put(p, &end, 4);
    }
    size_t top = p->n;
    unsigned moves = rnd(steps + 1);
    for (unsigned k = 0; k <= steps; k++) {
        if (k == moves)
            for (unsigned m = 0; m < 3; m++)
                if (s[m] != 0)
                    put_move(p, lea_moves, (const unsigned[]){6, 7, 2}[m], s[m]);
        if (k < steps)
            put_step(p);
    }
    if (index == 1)
        put_move(p, lea_moves, 0, 16 << rnd(3));
    if (kind == 0)
        put(p, dec, sizeof(dec));
    else if (kind == 1)
        put(p, sub, sizeof(sub));
    else
        put(p, cmp, sizeof(cmp));
    put_jump(p, 5, top);
    put(p, flags, sizeof(flags));
}

/* Loops around loops: R13 counts the outer rounds, which set the pointers. */
static void make(struct program *p)
{
    static const uint8_t dec[] = {0x49, 0x83, 0xed, 1}; /* sub r13, 1 */
    static const uint8_t hlt[] = {0xf4};

    p->n = 0;
    for (unsigned k = 1 + rnd(3); k > 0; k--) {
        unsigned near = rnd(2);
        for (unsigned reg = 0; reg < 3; reg++)
            put_imm(p, 0x48, (uint8_t)(0xc0 | (const unsigned[]){6, 7, 2}[reg]),
                    MIDDLE + (near != 0 ? 16 * rnd(4096) : 16 * rnd(512) + 4096 * rnd(64)));
        put_loop(p, rnd(3) == 0 ? 1 + rnd(60) : 100 + rnd(1500));
    }
    put(p, dec, sizeof(dec));
    put_jump(p, 5, 0);
    put(p, hlt, sizeof(hlt));
}

/* Pages in a random order; of every other program a few are missing or cannot be written. */
static void begin_both(const struct program *p, bool holes)
{
    static uint64_t pt[PAGES];
    static uint8_t memory[2 * REACH];
    uint64_t v = PT | 7;

    for (unsigned k = 0; k < PAGES; k++)
        pt[k] = (BEGIN + 4096ull * k) | 0x67;
    for (unsigned k = PAGES - 1; k > 0; k--) {
        unsigned m = rnd(k + 1);
        uint64_t e = pt[k];
        pt[k] = pt[m];
        pt[m] = e;
    }
    for (unsigned k = 0; holes && k < 3; k++)
        pt[rnd(PAGES)] &= ~(uint64_t)(rnd(2) == 0 ? 1 : 2);
    for (size_t k = 0; k < sizeof(memory); k++)
        memory[k] = (uint8_t)rnd(256);
    for (unsigned r = 0; r < 2; r++) {
        cpu_rig_mode(&rig[r], 64, 0);
        cpu_rig_code(&rig[r], BEGIN, memory, sizeof(memory));
        cpu_rig_code(&rig[r], PT, pt, sizeof(pt));
        cpu_rig_code(&rig[r], CPU_RIG_PML4 + 0x2000 + 8, &v, 8);
        cpu_rig_code(&rig[r], CPU_RIG_TEXT, p->code, p->n);
        memset(rig[r].st.gpr, 0, sizeof(rig[r].st.gpr));
        rig[r].st.gpr[VMC_RSP] = CPU_RIG_STACK;
        rig[r].st.gpr[VMC_R13] = 1000000;
    }
}

static void test_rounds(void **state)
{
    unsigned first = number("VMC_BT_SEED", 0), times = number("VMC_BT_TIMES", PROGRAMS);
    unsigned faults = 0;
    struct program p;

    (void)state;
    for (unsigned k = first; k < first + times; k++) {
        seed = 0x9e3779b9u * (k + 1);
        make(&p);
        begin_both(&p, k % 2 == 1);
        uint32_t why[2] = {VMC_EXIT_BUDGET, 0};
        for (unsigned turn = 0; turn < 4 && why[0] == VMC_EXIT_BUDGET; turn++) {
            uint64_t most = rnd(4) == 0 ? some_budget() : 100000 + rnd(200000);
            for (unsigned r = 0; r < 2; r++)
                why[r] = turn == 0 ? cpu_rig_run(&rig[r], most) : cpu_rig_resume(&rig[r], most);
            assert_int_equal(why[0], why[1]);
            compare_pair(k, MIDDLE, REACH);
        }
        faults += why[0] != VMC_EXIT_BUDGET;
    }
    assert_in_range(faults, times / 20, times / 2);
#ifndef VMC_SANITIZED /* such builds have no translator */
    assert_true(cpu_rig_stat(&rig[1], "bt.slices") > 2 * times);
#endif
}

/* ---- strings, and operands across pages ------------------------------------------------------ */

/* A string instruction between addresses that differ each time, and accesses to what follows. */
static void put_string(struct program *p)
{
    static const uint8_t from[] = {0x4a, 0x8d, 0x34, 0x26}; /* lea rsi, [rsi + r12] */
    static const uint8_t to[] = {0x4a, 0x8d, 0x3c, 0x67};   /* lea rdi, [rdi + 2 * r12] */
    static const uint8_t std[] = {0xfd}, cld[] = {0xfc}, word[] = {0x66};
    static const uint8_t vectors[][5] = {
        {0xf3, 0x0f, 0x6f, 0x46, 0}, /* movdqu xmm0, [rsi + d] */
        {0xf3, 0x0f, 0x7f, 0x47, 0}, /* movdqu [rdi + d], xmm0 */
        {0xf2, 0x0f, 0x10, 0x4f, 0}, /* movsd xmm1, [rdi + d] */
        {0x66, 0x0f, 0x13, 0x4e, 0}, /* movlpd [rsi + d], xmm1 */
    };
    static const uint32_t most[] = {3, 100, 5000, 20000, 70000};
    uint32_t bytes = rnd(most[rnd(5)]);
    unsigned size = rnd(4);
    bool down = rnd(6) == 0;
    uint8_t rep[3] = {0xf3, 0x48, (uint8_t)((rnd(2) == 0 ? 0xa4 : 0xaa) | (size > 0))};

    put_imm(p, 0x48, 0xc6, MIDDLE - 0x60000 + rnd(0xc0000));
    put_imm(p, 0x48, 0xc7, MIDDLE - 0x60000 + rnd(0xc0000));
    put_imm(p, 0x48, 0xc1, bytes >> size);
    put(p, from, sizeof(from));
    put(p, to, sizeof(to));
    if (down)
        put(p, std, sizeof(std));
    if (size == 1)
        put(p, word, sizeof(word));
    put(p, rep, size == 3 ? 2 : 1);
    put(p, rep + 2, 1);
    if (down)
        put(p, cld, sizeof(cld));
    for (unsigned k = rnd(4); k > 0; k--) {
        uint8_t b[5];
        memcpy(b, vectors[rnd(4)], sizeof(b));
        b[4] = (uint8_t)rnd(256);
        put(p, b, sizeof(b));
    }
}

/* Translated code is only entered with thousands of instructions to go: most of them are in a short
   loop between the strings. */
static void make_strings(struct program *p)
{
    static const uint8_t next[] = {
        0xb9, 0x2c, 0x01, 0x00, 0x00,             /* mov ecx, 300 */
        0xff, 0xc9,                               /* dec ecx */
        0x75, 0xfc,                               /* jnz */
        0x4d, 0x8d, 0x64, 0x24, 0x3b,             /* lea r12, [r12 + 59] */
        0x41, 0x81, 0xe4, 0xff, 0xff, 0x00, 0x00, /* and r12d, 0xffff */
        0x4c, 0x01, 0xe0,                         /* add rax, r12 */
        0x49, 0x83, 0xed, 0x01,                   /* sub r13, 1 */
    };

    p->n = 0;
    for (unsigned k = 1 + rnd(4); k > 0; k--)
        put_string(p);
    put(p, next, sizeof(next));
    put_jump(p, 5, 0);
}

static void test_strings(void **state)
{
    unsigned first = number("VMC_BT_SEED", 0), times = number("VMC_BT_TIMES", PROGRAMS);
    unsigned faults = 0;
    struct program p;

    (void)state;
    for (unsigned k = first; k < first + times; k++) {
        seed = 0x85ebca6bu * (k + 1);
        make_strings(&p);
        begin_both(&p, k % 2 == 1);
        uint32_t why[2] = {VMC_EXIT_BUDGET, 0};
        for (unsigned turn = 0; turn < 4 && why[0] == VMC_EXIT_BUDGET; turn++) {
            uint64_t most = 100000 + rnd(100000);
            for (unsigned r = 0; r < 2; r++)
                why[r] = turn == 0 ? cpu_rig_run(&rig[r], most) : cpu_rig_resume(&rig[r], most);
            assert_int_equal(why[0], why[1]);
            compare_pair(k, MIDDLE, REACH);
        }
        faults += why[0] != VMC_EXIT_BUDGET;
    }
    assert_in_range(faults, times / 40, times / 2);
#ifndef VMC_SANITIZED
    assert_true(cpu_rig_stat(&rig[1], "bt.callout.MOVS") > times);
#endif
}

/* ---- entering -------------------------------------------------------------------------------- */

/*
 * The page that a loop reads is missing each second time that control comes there, with other flags
 * each time; the handler of page faults sees them, maps the page and goes back.
 */
static void test_entry(void **state)
{
    static const uint8_t outer[] = {
        0x4c, 0x89, 0xfa,                         /* mov rdx, r15 */
        0x4c, 0x89, 0xf6,                         /* mov rsi, r14 */
        0x41, 0xf6, 0xc5, 0x01,                   /* test r13b, 1 */
        0x74, 0x09,                               /* jz there */
        0x49, 0x83, 0x24, 0x24, 0xfe,             /* and qword [r12], -2 */
        0x41, 0x0f, 0x01, 0x3e,                   /* invlpg [r14] */
        0xb9, 0x14, 0x00, 0x00, 0x00,             /* there: mov ecx, 20 */
        0x4d, 0x69, 0xc9, 0x0d, 0x01, 0x00, 0x00, /* imul r9, r9, 269 */
        0x4d, 0x01, 0xe9,                         /* add r9, r13 */
        0xe9, 0xd7, 0x0f, 0x00, 0x00,             /* jmp CPU_RIG_TEXT + 0x1000 */
    };
    static const uint8_t handler[] = {
        0x48, 0x83, 0xc4, 0x08,       /* add rsp, 8 */
        0x4c, 0x8b, 0x54, 0x24, 0x10, /* mov r10, [rsp + 16]: flags */
        0x49, 0xc1, 0xc3, 0x07,       /* rol r11, 7 */
        0x4d, 0x31, 0xd3,             /* xor r11, r10 */
        0x49, 0x83, 0x0c, 0x24, 0x01, /* or qword [r12], 1 */
        0x48, 0xcf,                   /* iretq */
    };
    static const uint8_t jump[] = {0xe9, 0xed, 0x87, 0x00, 0x00}; /* to CPU_RIG_TEXT + 0x800 */
    static const struct {
        uint8_t bytes[16], n;
        bool leaves; /* by a branch in its middle, never */
    } loads[] = {
        {{0x48, 0x8b, 0x1e}, 3, false},                   /* mov rbx, [rsi] */
        {{0x49, 0x8b, 0x17, 0x48, 0x8b, 0x1a}, 6, false}, /* mov rdx, [r15]; mov rbx, [rdx] */
        {{0x48, 0x8b, 0x1e}, 3, true},
    };

    (void)state;
    for (unsigned k = 0; k < sizeof(loads) / sizeof(loads[0]); k++) {
        /* The loop is in another page, so that no trace comes to it from outside. */
        static const uint8_t add[] = {0x49, 0x01, 0xd8}, test[] = {0x85, 0xc9};
        static const uint8_t dec[] = {0x48, 0x83, 0xc6, 0x08, 0x83, 0xe9, 0x01};
        static const uint8_t end[] = {0x49, 0x83, 0xed, 0x01}, hlt[] = {0xf4};
        const uint64_t pointer = MIDDLE;
        struct program p = {.n = 0}, q = {.n = 0};
        put(&p, outer, sizeof(outer));
        put(&q, loads[k].bytes, loads[k].n);
        put(&q, add, sizeof(add)); /* add r8, rbx */
        if (loads[k].leaves) {
            put(&q, test, sizeof(test));         /* test ecx, ecx */
            put_jump(&q, 8, (size_t)0 - 0x1000); /* js outer */
        }
        put(&q, dec, sizeof(dec));           /* add rsi, 8; sub ecx, 1 */
        put_jump(&q, 5, 0);                  /* jnz to the loop */
        put(&q, end, sizeof(end));           /* sub r13, 1 */
        put_jump(&q, 5, (size_t)0 - 0x1000); /* jnz outer */
        put(&q, hlt, sizeof(hlt));
        seed = 1;
        begin_both(&p, false);
        for (unsigned r = 0; r < 2; r++) {
            cpu_rig_code(&rig[r], CPU_RIG_TEXT + 0x1000, q.code, q.n);
            cpu_rig_code(&rig[r], CPU_RIG_TEXT + 0x800, handler, sizeof(handler));
            cpu_rig_code(&rig[r], CPU_RIG_TRAPS + 14, jump, sizeof(jump));
            cpu_rig_code(&rig[r], CPU_RIG_DATA, &pointer, sizeof(pointer));
            rig[r].st.gpr[VMC_R12] = PT + (MIDDLE - BEGIN) / 4096 * 8;
            rig[r].st.gpr[VMC_R14] = MIDDLE;
            rig[r].st.gpr[VMC_R15] = CPU_RIG_DATA;
            rig[r].st.gpr[VMC_R13] = 20000;
            assert_int_equal(cpu_rig_run(&rig[r], 10000000), VMC_EXIT_IDLE);
            assert_int_equal(rig[r].st.gpr[VMC_R13], 0);
            assert_int_not_equal(rig[r].st.gpr[VMC_R11], 0);
        }
        compare_pair(k, MIDDLE, REACH);
    }
}

/* ---- kicks ----------------------------------------------------------------------------------- */

struct kicker {
    struct cpu_rig *r;
    uint64_t *count;
    uint64_t seen;
};

static void *kick_soon(void *arg)
{
    struct kicker *k = arg;
    const struct timespec ms = {0, 2000000};

    nanosleep(&ms, NULL);
    k->r->ops->kick(k->r->ev);
    k->seen = __atomic_load_n(k->count, __ATOMIC_ACQUIRE);
    return NULL;
}

/* A loop counts its rounds in memory; after a kick no more are done than a part of the budget has.
 */
static void test_kick(void **state)
{
    static const uint8_t loops[][20] = {
        /* add qword [rdi], 1; add rsi, 0; jmp: its page is looked up each round */
        {0x48, 0x83, 0x07, 0x01, 0x48, 0x83, 0xc6, 0x00, 0xeb, 0xf6},
        /* mov rax, [rdi]; inc rax; mov [rdi], rax; jnz: flags are live everywhere */
        {0x48, 0x8b, 0x07, 0x48, 0xff, 0xc0, 0x48, 0x89, 0x07, 0x75, 0xf5},
    };
    static const unsigned insns[] = {3, 4};

    (void)state;
    for (unsigned n = 0; n < 30; n++) {
        struct cpu_rig *r = &rig[1];
        const uint8_t *code = loops[n % 2];
        struct kicker k = {.r = r, .count = (uint64_t *)(void *)(r->ram + MIDDLE)};
        pthread_t thread;

        cpu_rig_mode(r, 64, 0);
        *k.count = 1;
        cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(loops[0]));
        r->st.gpr[VMC_RDI] = MIDDLE;
        assert_int_equal(pthread_create(&thread, NULL, kick_soon, &k), 0);
        assert_int_equal(cpu_rig_run(r, 0), VMC_EXIT_KICKED);
        assert_int_equal(pthread_join(thread, NULL), 0);
        uint64_t after = __atomic_load_n(k.count, __ATOMIC_ACQUIRE) - k.seen;
        assert_true(after * insns[n % 2] <= PART + TRACE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_entry, setup, teardown),
        cmocka_unit_test_setup_teardown(test_kick, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
