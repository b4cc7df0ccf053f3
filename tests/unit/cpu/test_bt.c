/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The translator against the interpreter where random straight-line code (diff_run) does not go:
 * loops. Pointers walk through pages, forwards and backwards, by steps that let operands and groups
 * of operands lie across page boundaries. And loops without an end, of every shape: each must stop
 * when the instructions that it may execute are used up.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_pair.h"

#define PROGRAMS    6000u
#define ITERATIONS  300u
#define STOPPED     200u
#define MANY_ROUNDS 6000u
#define MIDDLE      0x200000u /* of the memory that the loops use */
#define REACH       0x80000u

static uint32_t first_seed; /* VMC_BT_SEED: of other programs */

/* VMC_BT_TIMES: as many times more. */
static unsigned programs(unsigned n)
{
    return n * number("VMC_BT_TIMES", 1);
}

struct program {
    uint8_t code[256];
    size_t n;
    bool slowly; /* pointers move by little each time */
};

static void put(struct program *p, const void *bytes, size_t n)
{
    memcpy(p->code + p->n, bytes, n);
    p->n += n;
}

static void put_step(struct program *p)
{
    static const struct {
        uint8_t bytes[8], n;
        uint8_t kind; /* 1: the last byte is a displacement; 2: what a pointer moves by */
    } t[] = {
        {{0x8b, 0x47, 0}, 3, 1},                         /* mov eax, [rdi + d] */
        {{0x89, 0x47, 0}, 3, 1},                         /* mov [rdi + d], eax */
        {{0x48, 0x8b, 0x46, 0}, 4, 1},                   /* mov rax, [rsi + d] */
        {{0x48, 0x89, 0x56, 0}, 4, 1},                   /* mov [rsi + d], rdx */
        {{0x0f, 0xb6, 0x14, 0x0e}, 4, 0},                /* movzx edx, byte [rsi + rcx] */
        {{0x01, 0x04, 0x8f}, 3, 0},                      /* add [rdi + rcx * 4], eax */
        {{0x48, 0x01, 0xc3}, 3, 0},                      /* add rbx, rax */
        {{0x48, 0x31, 0xc2}, 3, 0},                      /* xor rdx, rax */
        {{0x48, 0x83, 0xc7, 0}, 4, 2},                   /* add rdi, k */
        {{0x48, 0x8d, 0x76, 0}, 4, 2},                   /* lea rsi, [rsi + k] */
        {{0xff, 0xc1}, 2, 0},                            /* inc ecx */
        {{0x50, 0x5b}, 2, 0},                            /* push rax; pop rbx */
        {{0x48, 0x0f, 0xaf, 0xc3}, 4, 0},                /* imul rax, rbx */
        {{0x11, 0xd0}, 2, 0},                            /* adc eax, edx */
        {{0x83, 0xe1, 0x3f}, 3, 0},                      /* and ecx, 63 */
        {{0x39, 0xd0}, 2, 0},                            /* cmp eax, edx */
        {{0x83, 0xd2, 0}, 3, 0},                         /* adc edx, 0 */
        {{0x48, 0x83, 0xc1, 1}, 4, 0},                   /* add rcx, 1 */
        {{0x48, 0x83, 0xe9, 1}, 4, 0},                   /* sub rcx, 1 */
        {{0x8b, 0x44, 0x8f, 0}, 4, 1},                   /* mov eax, [rdi + rcx * 4 + d] */
        {{0x48, 0x89, 0x54, 0xce, 0}, 5, 1},             /* mov [rsi + rcx * 8 + d], rdx */
        {{0x42, 0x8b, 0x54, 0xb7, 0}, 5, 1},             /* mov edx, [rdi + r14 * 4 + d] */
        {{0x4a, 0x8b, 0x54, 0xf6, 0}, 5, 1},             /* mov rdx, [rsi + r14 * 8 + d] */
        {{0x48, 0x8b, 0x44, 0x24, 0}, 5, 1},             /* mov rax, [rsp + d] */
        {{0x48, 0x89, 0x54, 0x24, 0}, 5, 1},             /* mov [rsp + d], rdx */
        {{0x0f, 0xb6, 0x04, 0x0c}, 4, 0},                /* movzx eax, byte [rsp + rcx] */
        {{0x48, 0x8b, 0x04, 0xcd, 0, 0, 0x20, 0}, 8, 0}, /* mov rax, [rcx * 8 + MIDDLE] */
        {{0x42, 0x02, 0x54, 0x31, 0}, 5, 1},             /* add dl, [rcx + r14 + d] */
        {{0xf3, 0x0f, 0x6f, 0x47, 0}, 5, 1},             /* movdqu xmm0, [rdi + d] */
        {{0xf3, 0x0f, 0x7f, 0x44, 0x0e, 0}, 6, 1},       /* movdqu [rsi + rcx + d], xmm0 */
    };
    static const int8_t by[] = {1, 4, 8, -8, -3, 0, 24, 120, -24, 64};
    unsigned k = rnd(sizeof(t) / sizeof(t[0]));
    uint8_t b[8];

    memcpy(b, t[k].bytes, sizeof(b));
    if (t[k].kind == 1)
        b[t[k].n - 1] = (uint8_t)rnd(48);
    else if (t[k].kind == 2)
        b[t[k].n - 1] = (uint8_t)by[rnd(p->slowly ? 6 : sizeof(by))];
    put(p, b, t[k].n);
}

static void make(struct program *p)
{
    static const uint8_t sub[] = {0x41, 0x83, 0xef, 0x01};                   /* sub r15d, 1 */
    static const uint8_t dec[] = {0x41, 0xff, 0xcf};                         /* dec r15d */
    static const uint8_t cmp[] = {0x49, 0x83, 0xc6, 0x01, 0x4d, 0x39, 0xfe}; /* add, cmp r14, r15 */

    p->n = 0;
    for (unsigned k = 1 + rnd(8); k > 0; k--)
        put_step(p);
    switch (rnd(3)) {
    case 0:
        put(p, sub, sizeof(sub));
        break;
    case 1:
        put(p, dec, sizeof(dec));
        break;
    default:
        put(p, cmp, sizeof(cmp));
        break;
    }
    uint8_t back[3] = {0x75, (uint8_t)(0 - (p->n + 2)), 0xf4}; /* jnz, hlt */
    put(p, back, sizeof(back));
}

static void begin(struct cpu_rig *r, const struct program *p, uint32_t at, unsigned rounds)
{
    cpu_rig_mode(r, 64, 0);
    memset(r->ram + MIDDLE - REACH, 0x5a, 2 * REACH);
    cpu_rig_code(r, CPU_RIG_TEXT, p->code, p->n);
    memset(r->st.gpr, 0, sizeof(r->st.gpr));
    r->st.gpr[VMC_RSP] = CPU_RIG_STACK;
    r->st.gpr[VMC_RDI] = MIDDLE + at % 8192;
    r->st.gpr[VMC_RSI] = MIDDLE + at / 8192 % 8192;
    r->st.gpr[VMC_R15] = rounds;
    r->st.gpr[VMC_RAX] = at;
}

static void test_loops(void **state)
{
    struct program p = {.slowly = false};

    (void)state;
    for (unsigned k = 0, n = programs(PROGRAMS); k < n; k++) {
        seed = first_seed + k;
        make(&p);
        uint32_t at = rnd(8192u * 8192u);
        for (unsigned r = 0; r < 2; r++) {
            begin(&rig[r], &p, at, ITERATIONS);
            assert_int_equal(cpu_rig_run(&rig[r], 0), VMC_EXIT_IDLE);
        }
        compare_pair(k, MIDDLE, REACH);
    }
}

/* Loops of many rounds, stopped after every so many instructions. */
static void test_stops(void **state)
{
    struct program p = {.slowly = true};

    (void)state;
    for (unsigned k = 0, n = programs(STOPPED); k < n; k++) {
        seed = 500000 + first_seed + k;
        make(&p);
        uint32_t at = rnd(8192u * 8192u);
        for (unsigned r = 0; r < 2; r++)
            begin(&rig[r], &p, at, MANY_ROUNDS);
        uint32_t why[2] = {VMC_EXIT_BUDGET, 0};
        for (bool first = true; why[0] == VMC_EXIT_BUDGET; first = false) {
            uint64_t most = some_budget();
            for (unsigned r = 0; r < 2; r++)
                why[r] = first ? cpu_rig_run(&rig[r], most) : cpu_rig_resume(&rig[r], most);
            assert_int_equal(why[0], why[1]);
            compare_pair(k, MIDDLE, REACH);
        }
        assert_int_equal(why[0], VMC_EXIT_IDLE);
    }
}

#define SHAPES 500u
#define PIECES 7u
#define PIECE  24u    /* bytes */
#define ENOUGH 50000u /* instructions; the translator does not begin with few */

/* Pieces of code in any order in memory, each of which jumps to the next one, the last one to the
   first. They never end by themselves. */
static void make_endless(struct program *p)
{
    static const uint8_t pause_[] = {0xf3, 0x90};                    /* the interpreter's */
    static const uint8_t load[] = {0x8b, 0x03};                      /* mov eax, [rbx] */
    static const uint8_t test[] = {0x85, 0xc0};                      /* test eax, eax: zero */
    static const uint8_t drop[] = {0x48, 0xc7, 0xc4, 0, 0, 0x08, 0}; /* mov rsp, 0x80000 */
    unsigned n = 1 + rnd(PIECES), place[PIECES];

    for (unsigned k = 0; k < n; k++)
        place[k] = k;
    for (unsigned k = n - 1; k > 0; k--) {
        unsigned other = rnd(k + 1), t = place[k];
        place[k] = place[other];
        place[other] = t;
    }
    memset(p->code, 0xf4, sizeof(p->code)); /* hlt */
    for (unsigned k = 0; k < n; k++) {
        p->n = place[k] * PIECE;
        unsigned what = rnd(16);
        if ((what & 1) != 0)
            put(p, pause_, sizeof(pause_));
        if ((what & 2) != 0)
            put(p, load, sizeof(load));
        if ((what & 4) != 0)
            put(p, drop, sizeof(drop));
        put(p, test, sizeof(test));
        int32_t to = (int32_t)(place[(k + 1) % n] * PIECE - p->n);
        uint8_t jmp[] = {0xeb, (uint8_t)(to - 2)};
        uint8_t jz[] = {0x0f, 0x84, 0, 0, 0, 0}, call[] = {0xe8, 0, 0, 0, 0};
        to -= 6;
        memcpy(jz + 2, &to, 4);
        to++;
        memcpy(call + 1, &to, 4);
        switch (rnd(3)) {
        case 0:
            to += 3;
            if (to >= -128 && to < 128) {
                put(p, jmp, sizeof(jmp));
                break;
            }
            __attribute__((fallthrough));
        case 1:
            put(p, jz, sizeof(jz));
            break;
        default:
            put(p, (what & 4) != 0 ? call : jz, (what & 4) != 0 ? sizeof(call) : sizeof(jz));
            break;
        }
    }
    p->n = sizeof(p->code);
    p->code[255] = (uint8_t)(place[0] * PIECE);
}

static void test_endless(void **state)
{
    struct program p;

    (void)state;
    for (unsigned k = 0; k < SHAPES; k++) {
        seed = 100000 + k;
        make_endless(&p);
        for (unsigned r = 0; r < 2; r++) {
            cpu_rig_mode(&rig[r], 64, 0);
            cpu_rig_code(&rig[r], CPU_RIG_TEXT, p.code, p.n);
            memset(rig[r].st.gpr, 0, sizeof(rig[r].st.gpr));
            memset(rig[r].ram + MIDDLE, 0, 4);
            rig[r].st.gpr[VMC_RSP] = CPU_RIG_STACK;
            rig[r].st.gpr[VMC_RBX] = MIDDLE;
            rig[r].st.rip = CPU_RIG_TEXT + p.code[255];
            assert_int_equal(cpu_rig_run(&rig[r], ENOUGH), VMC_EXIT_BUDGET);
        }
        if (rig[0].st.rip != rig[1].st.rip)
            fail_msg("shape %u: stopped at 0x%llx, not 0x%llx", k,
                     (unsigned long long)rig[1].st.rip, (unsigned long long)rig[0].st.rip);
    }
}

/* A stack frame that lies across two pages is not interpreted for ever. */
static void test_straddle(void **state)
{
    static const uint8_t code[] = {
        0xb9, 0,    0,    1,    0, /* mov ecx, 65536 */
        0x8b, 0x44, 0x24, 0x60,    /* again: mov eax, [rsp + 96] */
        0x83, 0xc0, 1,             /* add eax, 1 */
        0x89, 0x44, 0x24, 0x60,    /* mov [rsp + 96], eax */
        0x85, 0xc0,                /* test eax, eax */
        0x74, 7,                   /* jz over the call */
        0xe8, 0xe7, 0x0f, 0,    0, /* call 0x11000 */
        0xff, 0xc9,                /* dec ecx */
        0x75, 0xe8,                /* jnz again */
        0xf4,                      /* hlt */
    };
    static const uint8_t ret[] = {0xc3};

    (void)state;
    struct cpu_rig *r = &rig[1];
    cpu_rig_mode(r, 64, 0);
    cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(code));
    cpu_rig_code(r, CPU_RIG_TEXT + 0x1000, ret, sizeof(ret));
    r->st.gpr[VMC_RSP] = CPU_RIG_STACK;
    uint64_t before = cpu_rig_stat(r, "bt.callouts");
    assert_int_equal(cpu_rig_run(r, 0), VMC_EXIT_IDLE);
    assert_int_equal(r->st.gpr[VMC_RAX], 65536);
    assert_true(cpu_rig_stat(r, "bt.callouts") - before < 200);
}

/* The same where a call makes the frame's first access. */
static void test_straddle_call(void **state)
{
    static const uint8_t code[] = {
        0xb9, 0,    0,    1,    0, /* mov ecx, 65536 */
        0xe8, 5,    0,    0,    0, /* again: call add */
        0xff, 0xc9,                /* dec ecx */
        0x75, 0xf7,                /* jnz again */
        0xf4,                      /* hlt */
        0x8b, 0x44, 0x24, 0x10,    /* add: mov eax, [rsp + 16] */
        0x83, 0xc0, 1,             /* add eax, 1 */
        0x89, 0x44, 0x24, 0x10,    /* mov [rsp + 16], eax */
        0xc3,                      /* ret */
    };

    (void)state;
    struct cpu_rig *r = &rig[1];
    cpu_rig_mode(r, 64, 0);
    cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(code));
    r->st.gpr[VMC_RSP] = CPU_RIG_STACK;
    uint64_t before = cpu_rig_stat(r, "bt.callouts");
    assert_int_equal(cpu_rig_run(r, 0), VMC_EXIT_IDLE);
    assert_int_equal(r->st.gpr[VMC_RAX], 65536);
    assert_true(cpu_rig_stat(r, "bt.callouts") - before < 200);
}

/* The same in a loop that is much longer than a translation: each part of it fails rarely. */
#define PARTS  60u
#define ROUNDS 2048u

static void test_straddle_long(void **state)
{
    static const uint8_t head[] = {0xb9, ROUNDS & 0xff, ROUNDS >> 8, 0, 0}; /* mov ecx, ROUNDS */
    static const uint8_t part[] = {
        0x8b, 0x44, 0x24, 0x60,    /* mov eax, [rsp + 96] */
        0x83, 0xc0, 1,             /* add eax, 1 */
        0x89, 0x44, 0x24, 0x60,    /* mov [rsp + 96], eax */
        0xe8, 0,    0,    0,    0, /* call 0x11000 */
    };
    static const uint8_t tail[] = {0xff, 0xc9, 0x0f, 0x85, 0, 0, 0, 0, 0xf4}; /* dec, jnz, hlt */
    static const uint8_t ret[] = {0xc3};
    uint8_t code[sizeof(head) + PARTS * sizeof(part) + sizeof(tail)];
    size_t n = 0;

    (void)state;
    memcpy(code, head, sizeof(head));
    n += sizeof(head);
    for (unsigned k = 0; k < PARTS; k++) {
        memcpy(code + n, part, sizeof(part));
        n += sizeof(part);
        uint32_t to = (uint32_t)(0x1000 - n);
        memcpy(code + n - 4, &to, 4);
    }
    memcpy(code + n, tail, sizeof(tail));
    uint32_t back = (uint32_t)(sizeof(head) - (n + 8));
    memcpy(code + n + 4, &back, 4);
    struct cpu_rig *r = &rig[1];
    cpu_rig_mode(r, 64, 0);
    cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(code));
    cpu_rig_code(r, CPU_RIG_TEXT + 0x1000, ret, sizeof(ret));
    r->st.gpr[VMC_RSP] = CPU_RIG_STACK;
    uint64_t before = cpu_rig_stat(r, "bt.callouts");
    assert_int_equal(cpu_rig_run(r, 0), VMC_EXIT_IDLE);
    assert_int_equal(r->st.gpr[VMC_RAX], PARTS * ROUNDS);
    assert_true(cpu_rig_stat(r, "bt.callouts") - before < PARTS * 20);
}

/*
 * A program that writes a new function before each call, as compilers at run time do: beside
 * itself, in another page, and across two pages. And what changes is its immediate or its first
 * opcode.
 */
#define REWRITES 20000u

static void test_rewriting(void **state)
{
    static const uint32_t places[] = {0x11400, 0x10080, 0x11ffe};
    static const uint8_t func[] = {0x05, 0,    0,   0, 0,
                                   0x01, 0xc3, 0xc3}; /* add eax, n; add ebx, eax;
                                                          ret */
    uint8_t code[] = {
        0x89, 0x4f, 1, /* l: mov [rdi + 1], ecx */
        0x80, 0x37, 0, /* xor byte [rdi], 8 or 0: add or or */
        0xff, 0xd7,    /* call rdi */
        0xff, 0xc9,    /* dec ecx */
        0x75, 0xf4,    /* jnz l */
        0xf4,          /* hlt */
    };

    (void)state;
    for (unsigned k = 0; k < 6; k++) {
        uint32_t at = places[k % 3];
        code[5] = k < 3 ? 0 : 8;
        for (unsigned i = 0; i < 2; i++) {
            struct cpu_rig *r = &rig[i];
            cpu_rig_mode(r, 64, 0);
            cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(code));
            cpu_rig_code(r, at, func, sizeof(func));
            r->st.gpr[VMC_RAX] = r->st.gpr[VMC_RBX] = 0;
            r->st.gpr[VMC_RCX] = REWRITES;
            r->st.gpr[VMC_RDI] = at;
            assert_int_equal(cpu_rig_run(r, 0), VMC_EXIT_IDLE);
            assert_int_equal(r->st.gpr[VMC_RCX], 0);
        }
        assert_int_equal(rig[0].st.gpr[VMC_RAX], rig[1].st.gpr[VMC_RAX]);
        assert_int_equal(rig[0].st.gpr[VMC_RBX], rig[1].st.gpr[VMC_RBX]);
        assert_int_equal(rig[0].exit.retired, rig[1].exit.retired);
    }
}

/* More code than there is room for: a circle of 190,000 blocks of 16 bytes, each of which jumps to
   another page. */
#define MANY    190000u
#define MANY_AT 0x200000u
#define STEP    9473u

static void run_circle(struct cpu_rig *r)
{
    static const uint8_t add[] = {0x48, 0x83, 0xc3, 1, 0xe9}; /* add rbx, 1; jmp */
    uint8_t *code = r->ram + MANY_AT;

    cpu_rig_mode(r, 64, 0);
    for (uint32_t k = 0; k < MANY; k++) {
        uint32_t rel = ((k + STEP) % MANY - k) * 16 - 9;
        memcpy(code + 16 * k, add, sizeof(add));
        memcpy(code + 16 * k + 5, &rel, 4);
    }
    cpu_rig_code(r, MANY_AT, code, 16u * MANY);
    r->st.rip = MANY_AT;
    r->st.gpr[VMC_RBX] = 0;
    assert_int_equal(cpu_rig_run(r, 6 * MANY), VMC_EXIT_BUDGET);
    assert_int_equal(r->st.gpr[VMC_RBX], 3 * MANY);
    assert_int_equal(r->st.rip, MANY_AT);
}

static void test_full(void **state)
{
    static struct cpu_rig small;
    struct vmc_soft_config soft = {
        .size = sizeof(soft), .flags = VMC_SOFT_TRANSLATE_ALL, .code_bytes = 4u << 20};

    (void)state;
    run_circle(&rig[1]);
    cpu_rig_create_with(&small, 0, &soft);
    uint64_t before = cpu_rig_stat(&small, "soft.cache_flushes");
    run_circle(&small);
#ifndef VMC_SANITIZED /* such builds have no translator */
    assert_true(cpu_rig_stat(&rig[1], "bt.code_bytes") > 64u << 20);
    assert_int_equal(cpu_rig_stat(&small, "bt.code_bytes"), 4u << 20);
    assert_true(cpu_rig_stat(&small, "bt.evictions") > 16);
    assert_true(cpu_rig_stat(&small, "soft.cache_flushes") > before);
#else
    (void)before;
#endif
    cpu_rig_destroy(&small);
}

/* Ports that a device claims, which kernels reach by the short way, and that nobody claims. */
static void test_ports(void **state)
{
    static const uint8_t code[] = {
        0xec, 0x01, 0xc3,       /* l: in al, dx; add ebx, eax */
        0x66, 0xed, 0x01, 0xc3, /* in ax, dx; add ebx, eax */
        0xed, 0x48, 0x01, 0xc3, /* in eax, dx; add rbx, rax */
        0x48, 0xed, 0xef,       /* in eax, dx with REX.W; out dx, eax */
        0x48, 0x01, 0xc3,       /* add rbx, rax */
        0x66, 0xef, 0xe6, 0x61, /* out dx, ax; out 0x61, al */
        0x11, 0xd8, 0xff, 0xc9, /* adc eax, ebx; dec ecx */
        0x75, 0xe5, 0xf4,       /* jnz l; hlt */
    };

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct cpu_rig *r = &rig[i];
        cpu_rig_mode(r, 64, 0);
        cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(code));
        r->port_in = 0x89abcdef;
        r->port_writes = 0;
        r->st.gpr[VMC_RAX] = r->st.gpr[VMC_RBX] = 0x1122334455667788;
        r->st.gpr[VMC_RCX] = 1000;
        r->st.gpr[VMC_RDX] = 0x1234;
        assert_int_equal(cpu_rig_run(r, 0), VMC_EXIT_IDLE);
        assert_int_equal(r->port_writes, 3000);
        assert_int_equal(r->last_port, 0x61);
    }
    assert_int_equal(rig[0].st.gpr[VMC_RAX], rig[1].st.gpr[VMC_RAX]);
    assert_int_equal(rig[0].st.gpr[VMC_RBX], rig[1].st.gpr[VMC_RBX]);
    assert_int_equal(rig[0].st.rflags, rig[1].st.rflags);
    assert_int_equal(rig[0].last_data, rig[1].last_data);
    for (unsigned i = 0; i < 2; i++) {
        rig[i].claim = false;
        cpu_rig_mode(&rig[i], 64, 0);
        rig[i].st.gpr[VMC_RCX] = 1000;
        assert_int_equal(cpu_rig_run(&rig[i], 0), VMC_EXIT_IO);
        assert_int_equal(rig[i].st.rip, CPU_RIG_TEXT);
        rig[i].claim = true;
    }
}

#define STRINGS 1000u
#define SPAN    0x20000u

/* REP MOVS and STOS of all sizes, up and down, near the ends of pages and across them, with flags
   that must survive. */
static void test_strings(void **state)
{
    /* or byte [rsi], 0; or byte [rdi], 0: into the TLB */
    static const uint8_t touch[] = {0x80, 0x0e, 0, 0x80, 0x0f, 0};
    static const uint8_t sizes[] = {1, 2, 4, 8};
    static const uint32_t lengths[] = {0, 1, 2, 7, 64, 511, 512, 513, 4095, 4096, 5000};
    static const int32_t places[] = {0, 1, 8, 100, 2048, 4088, 4095};

    (void)state;
    for (unsigned k = 0; k < STRINGS; k++) {
        seed = 200000 + k;
        unsigned size = sizes[rnd(4)];
        struct program p = {.n = 0};
        uint8_t add[] = {0x00, 0xdb};                     /* add bl, bl */
        uint8_t flags[] = {0x9c, 0x41, 0x58, 0xfc, 0xf4}; /* pushf; pop r8; cld; hlt */
        uint8_t op = (uint8_t)((rnd(2) != 0 ? 0xa4 : 0xaa) | (size > 1 ? 1 : 0));
        put(&p, touch, sizeof(touch));
        if (rnd(4) == 0)
            put(&p, "\xfd", 1); /* std */
        put(&p, add, sizeof(add));
        if (size == 2)
            put(&p, "\x66", 1);
        put(&p, "\xf3", 1);
        if (size == 8)
            put(&p, "\x48", 1);
        put(&p, &op, 1);
        put(&p, flags, sizeof(flags));
        uint64_t gpr[4] = {MIDDLE + (uint64_t)places[rnd(7)],
                           MIDDLE + 0x10000u + (uint64_t)places[rnd(7)],
                           rnd(3) == 0 ? rnd(4096) : lengths[rnd(11)], rnd(256)};
        if (rnd(4) == 0)
            gpr[1] = gpr[0] + rnd(16); /* they overlap */
        for (unsigned r = 0; r < 2; r++) {
            cpu_rig_mode(&rig[r], 64, 0);
            cpu_rig_code(&rig[r], CPU_RIG_TEXT, p.code, p.n);
            for (unsigned i = 0; i < 2 * SPAN; i++)
                rig[r].ram[MIDDLE - SPAN + i] = (unsigned char)(i * 7 + (i >> 8));
            rig[r].st.gpr[VMC_RSP] = CPU_RIG_STACK;
            rig[r].st.gpr[VMC_RSI] = gpr[0];
            rig[r].st.gpr[VMC_RDI] = gpr[1];
            rig[r].st.gpr[VMC_RCX] = gpr[2];
            rig[r].st.gpr[VMC_RBX] = gpr[3];
            rig[r].st.gpr[VMC_RAX] = 0x1122334455667788;
            assert_int_equal(cpu_rig_run(&rig[r], 0), VMC_EXIT_IDLE);
        }
        for (unsigned r = 0; r < 16; r++)
            if (rig[0].st.gpr[r] != rig[1].st.gpr[r])
                fail_msg("string %u: register %u", k, r);
        if (rig[0].exit.retired != rig[1].exit.retired)
            fail_msg("string %u: retired", k);
        if (memcmp(rig[0].ram + MIDDLE - SPAN, rig[1].ram + MIDDLE - SPAN, 2 * SPAN) != 0)
            fail_msg("string %u: memory", k);
    }
#ifndef VMC_SANITIZED /* such builds have no translator */
    /* Not all of them were interpreted. */
    assert_true(cpu_rig_stat(&rig[1], "bt.callout.MOVS") +
                    cpu_rig_stat(&rig[1], "bt.callout.STOS") <
                STRINGS * 9 / 10);
#endif
}

int main(void)
{
    first_seed = number("VMC_BT_SEED", 400000);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_loops, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stops, setup, teardown),
        cmocka_unit_test_setup_teardown(test_endless, setup, teardown),
        cmocka_unit_test_setup_teardown(test_straddle, setup, teardown),
        cmocka_unit_test_setup_teardown(test_straddle_call, setup, teardown),
        cmocka_unit_test_setup_teardown(test_straddle_long, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rewriting, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ports, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strings, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
