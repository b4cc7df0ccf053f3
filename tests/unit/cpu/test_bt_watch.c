/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Translations that are made again by what was seen of branches: loops in loops, of few rounds and
 * of many, with branches in them that change their habits. Random programs in translator and
 * interpreter, stopped again and again. With calls, indirect jumps, and flags that are read long
 * after what made them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_pair.h"

#define PROGRAMS 300u
#define ROUNDS   2500u
#define MIDDLE   0x200000u /* of the memory that the programs use */
#define REACH    0x80000u

struct program {
    uint8_t code[3072];
    size_t n;
    size_t call[8]; /* behind calls of the function at the end */
    unsigned calls;
};

static void put(struct program *p, const void *bytes, size_t n)
{
    memcpy(p->code + p->n, bytes, n);
    p->n += n;
}

/* Pointers are RDI, RSI, RBP; R13 counts outer rounds, R15 inner ones, R14 are bits that change. */
static void put_step(struct program *p)
{
    static const struct {
        uint8_t bytes[8], n, kind; /* 1: the last byte is a displacement */
    } t[] = {
        {{0x8b, 0x47, 0}, 3, 1},                 /* mov eax, [rdi + d] */
        {{0x89, 0x47, 0}, 3, 1},                 /* mov [rdi + d], eax */
        {{0x48, 0x8b, 0x46, 0}, 4, 1},           /* mov rax, [rsi + d] */
        {{0x48, 0x01, 0x56, 0}, 4, 1},           /* add [rsi + d], rdx */
        {{0x48, 0x8b, 0x5d, 0}, 4, 1},           /* mov rbx, [rbp + d] */
        {{0x48, 0x89, 0x45, 0}, 4, 1},           /* mov [rbp + d], rax */
        {{0x88, 0x65, 0}, 3, 1},                 /* mov [rbp + d], ah */
        {{0x3b, 0x55, 0}, 3, 1},                 /* cmp edx, [rbp + d] */
        {{0x0f, 0xb6, 0x14, 0x0e}, 4, 0},        /* movzx edx, byte [rsi + rcx] */
        {{0x01, 0x04, 0x8f}, 3, 0},              /* add [rdi + rcx * 4], eax */
        {{0x89, 0x04, 0x39}, 3, 0},              /* mov [rcx + rdi], eax */
        {{0x49, 0x89, 0xc0}, 3, 0},              /* mov r8, rax */
        {{0x4d, 0x01, 0xc1}, 3, 0},              /* add r9, r8 */
        {{0x4d, 0x31, 0xca}, 3, 0},              /* xor r10, r9 */
        {{0x4d, 0x8d, 0x5a, 1}, 4, 0},           /* lea r11, [r10 + 1] */
        {{0x4d, 0x89, 0xdc}, 3, 0},              /* mov r12, r11 */
        {{0x48, 0x31, 0xc2}, 3, 0},              /* xor rdx, rax */
        {{0x48, 0x83, 0xc7, 1}, 4, 0},           /* add rdi, 1 */
        {{0x48, 0x8d, 0x76, 4}, 4, 0},           /* lea rsi, [rsi + 4] */
        {{0x48, 0x83, 0xed, 8}, 4, 0},           /* sub rbp, 8 */
        {{0x11, 0xd0}, 2, 0},                    /* adc eax, edx */
        {{0x83, 0xe1, 0x3f}, 3, 0},              /* and ecx, 63 */
        {{0xff, 0xc1}, 2, 0},                    /* inc ecx */
        {{0x50, 0x5b}, 2, 0},                    /* push rax; pop rbx */
        {{0x48, 0x8b, 0x44, 0x24, 0}, 5, 1},     /* mov rax, [rsp + d] */
        {{0x48, 0x89, 0x54, 0x24, 0}, 5, 1},     /* mov [rsp + d], rdx */
        {{0xf3, 0x0f, 0x6f, 0x47, 0}, 5, 1},     /* movdqu xmm0, [rdi + d] */
        {{0xf3, 0x0f, 0x7f, 0x45, 0}, 5, 1},     /* movdqu [rbp + d], xmm0 */
        {{0x41, 0xd1, 0xce}, 3, 0},              /* ror r14d, 1 */
        {{0x45, 0x69, 0xf6, 13, 0, 0, 0}, 7, 0}, /* imul r14d, r14d, 13 */
    };
    unsigned k = rnd(sizeof(t) / sizeof(t[0]));
    uint8_t b[8];

    memcpy(b, t[k].bytes, sizeof(b));
    if (t[k].kind == 1)
        b[t[k].n - 1] = (uint8_t)rnd(100);
    put(p, b, t[k].n);
}

static void put_steps(struct program *p, unsigned n)
{
    for (unsigned k = 1 + rnd(n); k > 0; k--)
        put_step(p);
}

/* Flags of what moves RSP, read behind pushes and pops. */
static void put_stack(struct program *p)
{
    static const uint8_t frame[] = {0x48, 0x83, 0xec, 0x18, /* sub rsp, 24 */
                                    0x50, 0x5b, 0x52,       /* push rax; pop rbx; push rdx */
                                    0x48, 0x8b, 0x44, 0x24,
                                    0x08, 0x58}; /* mov rax, [rsp + 8]; pop rax */
    static const uint8_t unframe[] = {0x48, 0x83, 0xc4, 0x10, 0x5b}; /* add rsp, 16; pop rbx */
    static const uint8_t reads[][4] = {
        {0x83, 0xd2, 0x00, 0x90}, /* adc edx, 0 */
        {0x0f, 0x9a, 0xc1, 0x90}, /* setp cl */
        {0x0f, 0x98, 0xc2, 0x90}, /* sets dl */
        {0x9f, 0x00, 0xe3, 0x90}, /* lahf; add bl, ah */
    };
    static const uint8_t call[] = {0xe8, 0, 0, 0, 0};
    static const uint8_t nop[] = {0x0f, 0x1f, 0x40, 0x00};

    if (rnd(2) == 0) {
        put(p, frame, sizeof(frame));
        if (rnd(2) == 0)
            put(p, reads[rnd(4)], 4);
        put(p, unframe, sizeof(unframe));
    } else if (p->calls < sizeof(p->call) / sizeof(p->call[0])) {
        put(p, call, sizeof(call));
        p->call[p->calls++] = p->n;
        put(p, nop, sizeof(nop));
    }
    if (rnd(4) != 0)
        put(p, reads[rnd(4)], 4);
}

/* What is called: it saves two registers, and its last flags are those of RSP. Or it changes the
   address that it returns to, at times. */
static void put_function(struct program *p)
{
    static const uint8_t head[] = {0x55, 0x53, 0x48,
                                   0x83, 0xec, 0x28}; /* push rbp, rbx; sub rsp, 40 */
    static const uint8_t tail[] = {0x48, 0x83, 0xc4, 0x28, 0x5b, 0x5d}; /* add rsp, 40; pop; pop */
    static const uint8_t skip[] = {0x41, 0xf6, 0xc6, 0x04,              /* test r14b, 4 */
                                   0x74, 0x05,                          /* jz over the next one */
                                   0x48, 0x83, 0x04, 0x24, 0x04};       /* add qword [rsp], 4 */
    static const uint8_t ret[] = {0xc3};

    for (unsigned k = 0; k < p->calls; k++) {
        uint32_t by = (uint32_t)(p->n - p->call[k]);
        memcpy(p->code + p->call[k] - 4, &by, 4);
    }
    put(p, head, sizeof(head));
    put(p, tail, sizeof(tail));
    if (rnd(2) == 0)
        put(p, skip, sizeof(skip));
    put(p, ret, sizeof(ret));
}

/* An indirect jump, or a return that nobody called, to one of four places that follow it. */
static void put_switch(struct program *p)
{
    static const uint8_t head[] = {0x4c, 0x8d, 0x05, 0,    0, 0, 0, /* lea r8, [rip + d] */
                                   0x45, 0x89, 0xf1,                /* mov r9d, r14d */
                                   0x41, 0x83, 0xe1, 0x18,          /* and r9d, 24 */
                                   0x4d, 0x01, 0xc8};               /* add r8, r9 */
    static const uint8_t inc[] = {0xff, 0xc1};                      /* inc ecx */
    static const uint8_t jmp[] = {0x41, 0xff, 0xe0};                /* jmp r8 */
    static const uint8_t ret[] = {0x41, 0x50, 0xc3};                /* push r8; ret */
    static const uint8_t nop[] = {0x90};
    size_t lea = p->n + 7;

    put(p, head, sizeof(head));
    if (rnd(2) == 0)
        put(p, inc, sizeof(inc));
    if (rnd(2) == 0)
        put(p, jmp, sizeof(jmp));
    else
        put(p, ret, sizeof(ret));
    p->code[lea - 4] = (uint8_t)(p->n - lea);
    for (unsigned k = 0; k < 4; k++) {
        size_t end = p->n + 8;
        put_step(p);
        while (p->n < end)
            put(p, nop, sizeof(nop));
    }
}

/* A branch around some steps: by bits that change, or by the count of outer rounds. */
static void put_branch(struct program *p)
{
    uint8_t bits[] = {0x41, 0xf6, 0xc6, (uint8_t)(1u << rnd(3) | 1u << rnd(3))}; /* test r14b, k */
    uint8_t late[] = {0x41, 0x81, 0xfd, 0, 4, 0, 0}; /* cmp r13d, 1024 */
    uint8_t jcc[] = {0, 0};

    if (rnd(2) == 0)
        put(p, bits, sizeof(bits));
    else
        put(p, late, sizeof(late));
    jcc[0] = (uint8_t)(0x74 + rnd(4)); /* jz, jnz, jbe, ja */
    put(p, jcc, sizeof(jcc));
    size_t from = p->n;
    put_steps(p, 3);
    p->code[from - 1] = (uint8_t)(p->n - from);
}

/* jnz, or jz and jmp. */
static void put_back(struct program *p, size_t to)
{
    uint8_t jnz[] = {0x0f, 0x85, 0, 0, 0, 0}, jz[] = {0x74, 5, 0xe9, 0, 0, 0, 0};
    bool two = rnd(3) == 0;
    size_t n = two ? sizeof(jz) : sizeof(jnz);
    uint8_t *b = two ? jz : jnz;
    uint32_t by = (uint32_t)(to - (p->n + n));

    memcpy(b + n - 4, &by, 4);
    put(p, b, n);
}

static void make(struct program *p)
{
    uint8_t few[] = {0x41, 0xbf, (uint8_t)(1 + rnd(9)), 0, 0, 0}; /* mov r15d, k */
    static const uint8_t vary[] = {
        0x45, 0x89, 0xf7, 0x41, 0x83,
        0xe7, 7,    0x41, 0xff, 0xc7};                  /* mov r15d, r14d; and r15d, 7; inc r15d */
    static const uint8_t sub[] = {0x41, 0x83, 0xef, 1}; /* sub r15d, 1 */
    static const uint8_t dec[] = {0x41, 0xff, 0xcd};    /* dec r13d */
    static const uint8_t hlt[] = {0xf4};

    p->n = p->calls = 0;
    put_steps(p, 3);
    if (rnd(2) == 0)
        put(p, few, sizeof(few));
    else
        put(p, vary, sizeof(vary));
    size_t inner = p->n;
    put_steps(p, 6);
    if (rnd(3) == 0)
        put_stack(p);
    if (rnd(2) == 0)
        put_branch(p);
    if (rnd(3) == 0)
        put_switch(p);
    put(p, sub, sizeof(sub));
    put_back(p, inner);
    if (rnd(2) == 0)
        put_branch(p);
    put_steps(p, 4);
    if (rnd(2) == 0)
        put_stack(p);
    put(p, dec, sizeof(dec));
    put_back(p, 0);
    put(p, hlt, sizeof(hlt));
    put_function(p);
}

static void begin(struct cpu_rig *r, const struct program *p, uint32_t at)
{
    cpu_rig_mode(r, 64, 0);
    memset(r->ram + MIDDLE - REACH, 0x5a, 2 * REACH);
    cpu_rig_code(r, CPU_RIG_TEXT, p->code, p->n);
    memset(r->st.gpr, 0, sizeof(r->st.gpr));
    /* The whole address space thrice: addresses of 32 bits and of more. */
    for (unsigned k = 1; k < 512; k += 510)
        memcpy(r->ram + CPU_RIG_PML4 + 8 * k, r->ram + CPU_RIG_PML4, 8);
    r->st.rip += (uint64_t)(int64_t)(int32_t)(at % 3 - 1) << 39;
    r->st.gpr[VMC_RSP] = CPU_RIG_STACK - at % 4096 / 8 * 8;
    r->st.gpr[VMC_RDI] = MIDDLE + at % 8192;
    r->st.gpr[VMC_RSI] = MIDDLE + at / 64 % 8192;
    r->st.gpr[VMC_RBP] = MIDDLE + at / 4096 % 8192;
    r->st.gpr[VMC_R13] = ROUNDS;
    r->st.gpr[VMC_R14] = at;
}

/* ---- programs that go by a table ------------------------------------------------------------- */

#define OPS_MAX   8u
#define BYTES_MAX 24u
#define BYTECODE  0x300ff0u /* it lies across two pages, */
#define TABLE     0x303fe0u /* ... and so does the table of where the operations are */
#define TABLE_REL 0x304400u /* ... as distances from the beginning of the code */
#define OP_ROUNDS 400

/* Operation k is at at[k]; the last one begins the next round. */
struct bytecode {
    struct program p;
    unsigned ops, n;
    size_t at[OPS_MAX + 1];
    uint8_t byte[BYTES_MAX];
};

/* To what the next byte, at R15, says. */
static void put_dispatch(struct program *p)
{
    static const uint8_t load[] = {0x41, 0x0f, 0xb6, 0x07}; /* movzx eax, byte [r15] */
    static const uint8_t next[][4] = {
        {0x49, 0x83, 0xc7, 1},    /* add r15, 1 */
        {0x4d, 0x8d, 0x7f, 1},    /* lea r15, [r15 + 1] */
        {0x49, 0xff, 0xc7, 0x90}, /* inc r15 */
    };
    static const uint8_t check[] = {0x3c, OPS_MAX, 0x77, 0};  /* cmp al, ops; ja: never */
    static const uint8_t memory[] = {0xff, 0x24, 0xc5};       /* jmp [rax * 8 + table] */
    static const uint8_t direct[] = {0x48, 0x8b, 0x04, 0xc5}; /* mov rax, [rax * 8 + table] */
    static const uint8_t far[] = {0x48, 0x63, 0x04, 0x85};    /* movsxd rax, [rax * 4 + table] */
    static const uint8_t lea[] = {0x4c, 0x8d, 0x05};          /* lea r8, [rip + d] */
    static const uint8_t jmp[][5] = {{0xff, 0xe0},            /* jmp rax */
                                     {0x4c, 0x01, 0xc0, 0xff, 0xe0}}; /* add rax, r8; jmp rax */
    uint32_t table[] = {TABLE, TABLE_REL};

    put(p, load, sizeof(load));
    if (rnd(3) == 0)
        put(p, check, sizeof(check));
    put(p, next[rnd(3)], 4);
    switch (rnd(3)) {
    case 0:
        put(p, memory, sizeof(memory));
        put(p, &table[0], 4);
        return;
    case 1:
        put(p, direct, sizeof(direct));
        put(p, &table[0], 4);
        put(p, jmp[0], 2);
        return;
    default:
        put(p, far, sizeof(far));
        put(p, &table[1], 4);
        put(p, lea, sizeof(lea));
        uint32_t back = 0u - (uint32_t)(p->n + 4);
        put(p, &back, 4);
        put(p, jmp[1], 5);
    }
}

/* To the dispatch that is shared, or one of its own. */
static void put_next(struct program *p, size_t shared)
{
    uint8_t jmp[] = {0xe9, 0, 0, 0, 0};
    uint32_t by = (uint32_t)(shared - (p->n + sizeof(jmp)));

    if (rnd(3) == 0) {
        put_dispatch(p);
        return;
    }
    memcpy(jmp + 1, &by, 4);
    put(p, jmp, sizeof(jmp));
}

/* Change which operation a byte means, to its neighbour and back. */
static void put_toggle(struct bytecode *b)
{
    static const uint8_t xor [] = {0x80, 0x34, 0x25};                /* xor byte [at], 1 */
    static const uint8_t test[] = {0x41, 0xf6, 0xc6, 0x07, 0x75, 8}; /* test r14b, 7; jnz */
    uint32_t at = BYTECODE + rnd(b->n - 1);
    uint8_t one = 1;

    if (rnd(2) == 0)
        put(&b->p, test, sizeof(test));
    put(&b->p, xor, sizeof(xor));
    put(&b->p, &at, 4);
    put(&b->p, &one, 1);
}

static void put_op(struct bytecode *b, size_t shared)
{
    static const uint8_t reads[][4] = {
        {0x83, 0xd2, 0x00, 0x90}, /* adc edx, 0 */
        {0x0f, 0x9a, 0xc1, 0x90}, /* setp cl */
        {0x9f, 0x00, 0xe3, 0x90}, /* lahf; add bl, ah */
    };
    struct program *p = &b->p;

    if (rnd(4) == 0)
        put(p, reads[rnd(3)], 4);
    put_steps(p, 3);
    if (rnd(4) == 0)
        put_branch(p);
    if (rnd(4) == 0)
        put_stack(p);
    if (rnd(6) == 0)
        put_toggle(b);
    put_next(p, shared);
}

static void make_bytecode(struct bytecode *b)
{
    uint8_t begin[] = {0x41, 0xbf, 0, 0, 0, 0};      /* mov r15d, bytecode */
    static const uint8_t dec[] = {0x41, 0xff, 0xcd}; /* dec r13d */
    static const uint8_t over[] = {0x75, 1, 0xf4};   /* jnz; hlt */
    static const uint8_t fault[] = {0x41, 0x81, 0xfd, 9, 0, 0, 0, 0x75, 2, 0x0f, 0x0b};
    uint32_t at = BYTECODE;
    struct program *p = &b->p;

    p->n = p->calls = 0;
    b->ops = 2 + 2 * rnd(OPS_MAX / 2);
    b->n = 4 + rnd(BYTES_MAX - 4);
    for (unsigned k = 0; k + 1 < b->n; k++)
        b->byte[k] = (uint8_t)rnd(b->ops);
    b->byte[b->n - 1] = (uint8_t)b->ops;
    memcpy(begin + 2, &at, 4);
    put(p, begin, sizeof(begin));
    size_t shared = p->n;
    put_dispatch(p);
    for (unsigned k = 0; k < b->ops; k++) {
        b->at[k] = p->n;
        put_op(b, shared);
    }
    b->at[b->ops] = p->n;
    if (rnd(8) == 0)
        put(p, fault, sizeof(fault)); /* cmp r13d, 9; jne; ud2 */
    put(p, dec, sizeof(dec));
    put(p, over, sizeof(over));
    put(p, begin, sizeof(begin));
    put_next(p, shared);
    put_function(p);
}

static void begin_bytecode(struct cpu_rig *r, const struct bytecode *b, uint32_t at)
{
    begin(r, &b->p, at);
    for (unsigned k = 0; k <= b->ops; k++) {
        uint64_t to = r->st.rip + b->at[k];
        uint32_t rel = (uint32_t)b->at[k];
        memcpy(r->ram + TABLE + 8 * k, &to, 8);
        memcpy(r->ram + TABLE_REL + 4 * k, &rel, 4);
    }
    memcpy(r->ram + BYTECODE, b->byte, b->n);
    r->st.gpr[VMC_R13] = OP_ROUNDS;
}

static void test_bytecode(void **state)
{
    uint32_t first = number("VMC_BT_SEED", 0);
    struct bytecode b;

    (void)state;
    for (unsigned k = 0, n = PROGRAMS * number("VMC_BT_TIMES", 1); k < n; k++) {
        seed = 0x85ebca6bu * (first + k + 1);
        make_bytecode(&b);
        uint32_t at = seed >> 4;
        uint32_t why[2] = {VMC_EXIT_BUDGET, 0};
        for (unsigned r = 0; r < 2; r++)
            begin_bytecode(&rig[r], &b, at);
        for (bool start = true; why[0] == VMC_EXIT_BUDGET; start = false) {
            uint64_t most = some_budget();
            for (unsigned r = 0; r < 2; r++)
                why[r] = start ? cpu_rig_run(&rig[r], most) : cpu_rig_resume(&rig[r], most);
            assert_int_equal(why[0], why[1]);
            compare_pair(k, MIDDLE, REACH);
            assert_memory_equal(rig[0].ram + BYTECODE, rig[1].ram + BYTECODE, BYTES_MAX);
        }
        assert_int_equal(why[0], VMC_EXIT_IDLE);
    }
#ifndef VMC_SANITIZED
    assert_true(cpu_rig_stat(&rig[1], "bt.ways") > PROGRAMS / 4);
#endif
}

/* ---- recursion ---------------------------------------------------------------------------------
 */

#define RECURSIONS     150u
#define RECURSE_ROUNDS 40u

/* A function that calls itself twice, with a frame that steps use. Frames lie across pages at
   every distance from their ends. */
static void make_recursion(struct program *p)
{
    static const uint8_t call[] = {0x41, 0xbf, 9,    0, 0, 0, /* mov r15d, 9 */
                                   0xe8, 6,    0,    0, 0,    /* call */
                                   0x41, 0xff, 0xcd,          /* dec r13d */
                                   0x75, 0xf0, 0xf4};         /* jnz; hlt */
    static const uint8_t push[] = {0x41, 0x57, 0x53};         /* push r15; push rbx */
    static const uint8_t end[] = {0x41, 0x83, 0xff, 1, 0x0f, 0x86, 0, 0, 0, 0}; /* cmp; jbe */
    static const uint8_t dec[] = {0x41, 0xff, 0xcf};                            /* dec r15d */
    static const uint8_t pop[] = {0x5b, 0x41, 0x5f, 0xc3}; /* pop rbx; pop r15; ret */
    uint8_t sub[] = {0x48, 0x81, 0xec, 0, 0, 0, 0}, add[] = {0x48, 0x81, 0xc4, 0, 0, 0, 0};
    uint8_t again[] = {0xe8, 0, 0, 0, 0};
    uint32_t frame = 112 + rnd(40) * (rnd(4) == 0 ? 4 : 8), by;

    memcpy(sub + 3, &frame, 4);
    memcpy(add + 3, &frame, 4);
    p->n = p->calls = 0;
    put(p, call, sizeof(call));
    size_t f = p->n;
    put(p, push, sizeof(push));
    put(p, sub, sizeof(sub));
    put_steps(p, 4);
    put(p, end, sizeof(end));
    size_t leave = p->n;
    for (unsigned k = 0; k < 2; k++) {
        put(p, dec, sizeof(dec));
        by = (uint32_t)(f - (p->n + sizeof(again)));
        memcpy(again + 1, &by, 4);
        put(p, again, sizeof(again));
        put_steps(p, 4);
        if (rnd(3) == 0)
            put_branch(p);
    }
    by = (uint32_t)(p->n - leave);
    memcpy(p->code + leave - 4, &by, 4);
    put_steps(p, 3);
    put(p, add, sizeof(add));
    put(p, pop, sizeof(pop));
}

static void test_recursion(void **state)
{
    uint32_t first = number("VMC_BT_SEED", 0);
    struct program p;

    (void)state;
    for (unsigned k = 0, n = RECURSIONS * number("VMC_BT_TIMES", 1); k < n; k++) {
        seed = 0xc2b2ae35u * (first + k + 1);
        make_recursion(&p);
        uint32_t at = seed >> 4;
        uint32_t why[2] = {VMC_EXIT_BUDGET, 0};
        for (unsigned r = 0; r < 2; r++) {
            begin(&rig[r], &p, at);
            rig[r].st.gpr[VMC_R13] = RECURSE_ROUNDS;
        }
        for (bool start = true; why[0] == VMC_EXIT_BUDGET; start = false) {
            uint64_t most = some_budget();
            for (unsigned r = 0; r < 2; r++)
                why[r] = start ? cpu_rig_run(&rig[r], most) : cpu_rig_resume(&rig[r], most);
            assert_int_equal(why[0], why[1]);
            compare_pair(k, MIDDLE, REACH);
            compare_pair(k, CPU_RIG_STACK, 0x3000);
        }
        assert_int_equal(why[0], VMC_EXIT_IDLE);
    }
}

static void test_nested(void **state)
{
    uint32_t first = number("VMC_BT_SEED", 0);
    struct program p;

    (void)state;
    for (unsigned k = 0, n = PROGRAMS * number("VMC_BT_TIMES", 1); k < n; k++) {
        seed = 0x9e3779b9u * (first + k + 1);
        make(&p);
        uint32_t at = seed >> 4;
        uint32_t why[2] = {VMC_EXIT_BUDGET, 0};
        for (unsigned r = 0; r < 2; r++)
            begin(&rig[r], &p, at);
        for (bool start = true; why[0] == VMC_EXIT_BUDGET; start = false) {
            uint64_t most = some_budget();
            for (unsigned r = 0; r < 2; r++)
                why[r] = start ? cpu_rig_run(&rig[r], most) : cpu_rig_resume(&rig[r], most);
            assert_int_equal(why[0], why[1]);
            compare_pair(k, MIDDLE, REACH);
        }
        assert_int_equal(why[0], VMC_EXIT_IDLE);
    }
#ifndef VMC_SANITIZED /* such builds have no translator */
    assert_true(cpu_rig_stat(&rig[1], "bt.watched") > PROGRAMS);
#endif
}

/* ---- jumps to where RSP points -----------------------------------------------------------------
 */

/* A trace goes on behind JMP RSP, in front of which RSP was moved; one time in eight it leads
   elsewhere, when RSP was before where the trace goes on. The rest of the loop is in another page,
   so each round begins a trace. */
static void test_jump_by_rsp(void **state)
{
    static const uint8_t code[] = {
        0x31, 0xc0,                                     /* again: xor eax, eax */
        0x41, 0xf6, 0xc5, 0x07,                         /* test r13b, 7 */
        0x0f, 0x94, 0xc0,                               /* setz al */
        0x49, 0x8d, 0x24, 0xc7,                         /* lea rsp, [r15 + rax * 8] */
        0x59,                                           /* pop rcx */
        0xff, 0xe4,                                     /* jmp rsp */
        0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00, /* nop */
        0x48, 0xff, 0xc3,                               /* 24: inc rbx */
        0xe9, 0xe0, 0x0f, 0x00, 0x00,                   /* jmp end */
        0x48, 0x83, 0xc3, 0x10,                         /* 32: add rbx, 16 */
        0xe9, 0xd7, 0x0f, 0x00, 0x00,                   /* jmp end */
    };
    static const uint8_t end[] = {
        0x41, 0xff, 0xcd,                   /* dec r13d */
        0x0f, 0x85, 0xf7, 0xef, 0xff, 0xff, /* jnz again */
        0xf4,                               /* hlt */
    };
    const uint64_t rounds = 200000;

    (void)state;
    for (unsigned k = 0; k < 2; k++) {
        struct cpu_rig *r = &rig[k];
        cpu_rig_mode(r, 64, 0);
        cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(code));
        cpu_rig_code(r, CPU_RIG_TEXT + 0x1000, end, sizeof(end));
        r->st.gpr[VMC_RBX] = 0;
        r->st.gpr[VMC_R13] = rounds;
        r->st.gpr[VMC_R15] = CPU_RIG_TEXT + 24 - 8;
        assert_int_equal(cpu_rig_run(r, 0), VMC_EXIT_IDLE);
        assert_int_equal(r->st.gpr[VMC_RBX], rounds / 8 * (7 + 16));
    }
#ifndef VMC_SANITIZED /* such builds have no translator */
    assert_true(cpu_rig_stat(&rig[1], "bt.ways") > 0);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nested, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bytecode, setup, teardown),
        cmocka_unit_test_setup_teardown(test_recursion, setup, teardown),
        cmocka_unit_test_setup_teardown(test_jump_by_rsp, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
