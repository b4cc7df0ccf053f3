/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Short loops in a loop, in translated code: pointers are copied and indexes begin at constants, so
 * that accesses through several registers are checked together, over all rounds of the short loops;
 * loops around them that have one to four rounds, each time another number; and loops that go down
 * the columns of a matrix, in steps of hundreds of bytes. Every fourth program is longer than a
 * trace may be; RSP moves, with flags that others read behind it. In the middle pages vanish, lose
 * their write access or get code that is executed. Everything is as in the interpreter: faults too,
 * with all that was done before.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_pair.h"

#define PROGRAMS 600u
#define PASSES   500u
#define MOST     2500000u /* instructions of one that does not end */
#define TABLE                                                                                      \
    0x300000u /* for each pass two pointers, an entry of the page table, its value and page */
#define PT     0x310000u /* maps the 2 MiB from BEGIN by pages of 4 KiB */
#define BEGIN  0x200000u
#define MIDDLE 0x240000u
#define REACH  0x40000u
#define PAGES  24u /* of them that are used, around the middle */

struct program {
    uint8_t code[8192];
    size_t n;
    unsigned longer; /* so many times, now and then */
};

static void put(struct program *p, const void *bytes, size_t n)
{
    memcpy(p->code + p->n, bytes, n);
    p->n += n;
}

/* Pointers are RSI, RDI and copies of them: RDX, R9. The index is RAX, another count RCX. */
static void put_step(struct program *p, bool moving)
{
    static const struct {
        uint8_t bytes[9], n;
        bool disp, moves;
    } t[] = {
        {{0xf2, 0x0f, 0x10, 0x04, 0x06}, 5, false, false},   /* movsd xmm0, [rsi + rax] */
        {{0xf2, 0x0f, 0x58, 0x44, 0x07, 0}, 6, true, false}, /* addsd xmm0, [rdi + rax + d] */
        {{0xf2, 0x0f, 0x11, 0x44, 0x02, 0}, 6, true, false}, /* movsd [rdx + rax + d], xmm0 */
        {{0xf2, 0x41, 0x0f, 0x11, 0x41, 0}, 6, true, false}, /* movsd [r9 + d], xmm0 */
        {{0x48, 0x8b, 0x1a}, 3, false, false},               /* mov rbx, [rdx] */
        {{0x48, 0x89, 0x5e, 0}, 4, true, false},             /* mov [rsi + d], rbx */
        {{0x4c, 0x03, 0x5f, 0}, 4, true, false},             /* add r11, [rdi + d] */
        {{0x4c, 0x89, 0x5c, 0xc7, 0}, 5, true, false},       /* mov [rdi + rax * 8 + d], r11 */
        {{0x48, 0x39, 0x5c, 0x06, 0}, 5, true, false},       /* cmp [rsi + rax + d], rbx */
        {{0x49, 0x83, 0xd3, 1}, 4, false, false},            /* adc r11, 1 */
        {{0x48, 0x83, 0xec, 8}, 4, false, false},            /* sub rsp, 8 */
        {{0x48, 0x83, 0xc4, 8, 0x49, 0x83, 0xd3, 1},         /* add rsp, 8; adc r11, 1 */
         8,
         false,
         false},
        {{0x53, 0x4c, 0x13, 0x1c, 0x24, 0x5b}, 6, false, false}, /* push rbx; adc r11, [rsp]; pop */
        {{0x48, 0x89, 0xfa}, 3, false, true},                    /* mov rdx, rdi */
        {{0x4c, 0x8d, 0x4e, 0}, 4, true, true},                  /* lea r9, [rsi + d] */
        {{0x49, 0x89, 0xd1}, 3, false, true},                    /* mov r9, rdx */
        {{0x48, 0x83, 0xc2, 8}, 4, false, true},                 /* add rdx, 8 */
        {{0x49, 0x81, 0xc1, 0x80, 1, 0, 0}, 7, false, true},     /* add r9, 384 */
        {{0x48, 0x29, 0xd2, 0x48, 0x01, 0xf2}, 6, false, true},  /* sub rdx, rdx; add rdx, rsi */
        {{0x48, 0x81, 0xc7, 0, 1, 0, 0}, 7, false, true},        /* add rdi, 256 */
    };
    unsigned k = rnd(sizeof(t) / sizeof(t[0]));
    uint8_t b[9];

    if (t[k].moves && !moving)
        return;
    memcpy(b, t[k].bytes, sizeof(b));
    if (t[k].disp)
        b[t[k].n - 1] = (uint8_t)(8 * rnd(9));
    put(p, b, t[k].n);
}

static void put_steps(struct program *p, unsigned n, bool moving)
{
    unsigned k = 1 + rnd(n);

    if (p->longer > 1 && rnd(3) == 0)
        k *= p->longer;
    for (; k > 0; k--)
        put_step(p, moving);
}

static void put_back(struct program *p, size_t to)
{
    uint8_t jnz[] = {0x0f, 0x85, 0, 0, 0, 0};
    uint32_t by = (uint32_t)(to - (p->n + sizeof(jnz)));

    memcpy(jnz + 2, &by, 4);
    put(p, jnz, sizeof(jnz));
}

/* A loop with as many rounds each time: few, or many down a column. */
static void put_loop(struct program *p)
{
    static const uint8_t zero[] = {0x31, 0xc0};                  /* xor eax, eax */
    static const uint8_t eight[] = {0xb8, 8, 0, 0, 0};           /* mov eax, 8 */
    static const uint8_t add[] = {0x48, 0x83, 0xc0, 8};          /* add rax, 8 */
    static const uint8_t lea[] = {0x48, 0x8d, 0x40, 8};          /* lea rax, [rax + 8] */
    static const uint8_t doubled[] = {0x48, 0x8d, 0x5c, 0,    8, /* lea rbx, [rax + rax + 8] */
                                      0x48, 0x89, 0x04, 0x1a,    /* mov [rdx + rbx], rax */
                                      0x48, 0x8d, 0x58, 8,       /* lea rbx, [rax + 8] */
                                      0x48, 0x03, 0x1c, 0x1e};   /* add rbx, [rsi + rbx] */
    static const uint8_t dec[] = {0xff, 0xc9};                   /* dec ecx */
    static const uint8_t down[] = {0x48, 0x81, 0xc2, 0x80, 1,    0, 0, /* add rdx, 384 */
                                   0x66, 0x0f, 0x6f, 0x0a,             /* movdqa xmm1, [rdx] */
                                   0x66, 0x0f, 0xd4, 0x4a, 0x10,       /* paddq xmm1, [rdx + 16] */
                                   0x66, 0x0f, 0x7f, 0x8a, 0x40, 0, 0,
                                   0};                               /* movdqa [rdx + 64], xmm1 */
    static const uint8_t align[] = {0x48, 0x83, 0xe2, 0xc0};         /* and rdx, -64 */
    uint8_t cmp[] = {0x48, 0x83, 0xf8, (uint8_t)(8 * (2 + rnd(6)))}; /* cmp rax, k */
    uint8_t few[] = {0xb9, (uint8_t)(2 + rnd(6)), 0, 0, 0};          /* mov ecx, k */
    unsigned kind = rnd(4);

    if (kind == 0) { /* by a count, not by the index */
        few[1] = (uint8_t)(rnd(2) == 0 ? few[1] : 20 + rnd(40));
        put(p, few, sizeof(few));
        if (rnd(8) != 0)
            put(p, align, sizeof(align));
        size_t top = p->n;
        put(p, down, rnd(2) == 0 ? sizeof(down) : sizeof(down) - 8);
        if (rnd(2) == 0)
            put_step(p, false);
        put(p, dec, sizeof(dec));
        put_back(p, top);
        return;
    }
    if (rnd(4) != 0)
        put(p, zero, sizeof(zero));
    else
        put(p, eight, sizeof(eight));
    if (cmp[3] == 16)
        cmp[3] = 24;
    size_t top = p->n;
    put_steps(p, 5, kind == 1);
    if (rnd(3) == 0)
        put(p, doubled, sizeof(doubled));
    put(p, rnd(2) == 0 ? add : lea, sizeof(add));
    put(p, cmp, sizeof(cmp));
    put_back(p, top);
}

/* ... or a loop around one that has one to four rounds. */
static void put_loops(struct program *p)
{
    static const uint8_t mov[] = {0x45, 0x89, 0xef}; /* mov r15d, r13d */
    uint8_t and[] = {0x41, 0x83, 0xe7, 1};           /* and r15d, k */
    static const uint8_t inc[] = {0x41, 0xff, 0xc7}; /* inc r15d */
    static const uint8_t dec[] = {0x41, 0xff, 0xcf}; /* dec r15d */
    unsigned most = rnd(3);

    if (most == 0) {
        put_loop(p);
        return;
    }
    and[3] = most == 1 ? 1 : 3;
    put(p, mov, sizeof(mov));
    put(p, and, sizeof(and));
    put(p, inc, sizeof(inc));
    size_t top = p->n;
    put_loop(p);
    put_steps(p, 3, true);
    put(p, dec, sizeof(dec));
    put_back(p, top);
}

static void make(struct program *p)
{
    static const uint8_t head[] = {0x48, 0xc7, 0xc4, 0,    0,       /* mov rsp, CPU_RIG_STACK */
                                   8,    0,    0x48, 0x8b, 0x75, 0, /* mov rsi, [rbp] */
                                   0x48, 0x8b, 0x7d, 8,             /* mov rdi, [rbp + 8] */
                                   0x4c, 0x8b, 0x45, 16,            /* mov r8, [rbp + 16] */
                                   0x4c, 0x8b, 0x55, 24,            /* mov r10, [rbp + 24] */
                                   0x4c, 0x8b, 0x75, 32,            /* mov r14, [rbp + 32] */
                                   0x48, 0x83, 0xc5, 40,            /* add rbp, 40 */
                                   0x48, 0x89, 0xfa,                /* mov rdx, rdi */
                                   0x49, 0x89, 0xf1};               /* mov r9, rsi */
    static const uint8_t change[] = {0x4d, 0x85, 0xc0,              /* test r8, r8 */
                                     0x74, 17,                      /* jz over all of this */
                                     0x4d, 0x85, 0xd2,              /* test r10, r10 */
                                     0x78, 0x09,                    /* js to the call */
                                     0x4d, 0x89, 0x10,              /* mov [r8], r10 */
                                     0x41, 0x0f, 0x01, 0x3e,        /* invlpg [r14] */
                                     0xeb, 0x03,                    /* jmp over the call */
                                     0x41, 0xff, 0xd0};             /* call r8 */
    static const uint8_t dec[] = {0x41, 0xff, 0xcd};                /* dec r13d */
    static const uint8_t hlt[] = {0xf4};
    unsigned where = rnd(3);

    p->n = 0;
    put(p, head, sizeof(head));
    put_steps(p, 4, true);
    if (where == 0)
        put(p, change, sizeof(change));
    put_loops(p);
    put_steps(p, 4, true);
    if (where == 1)
        put(p, change, sizeof(change));
    if (rnd(3) != 0)
        put_loops(p);
    if (where == 2)
        put(p, change, sizeof(change));
    put(p, dec, sizeof(dec));
    put_back(p, 0);
    put(p, hlt, sizeof(hlt));
}

static uint64_t entry(uint64_t at)
{
    return PT + (at - BEGIN) / 4096 * 8;
}

struct pass {
    uint64_t rsi, rdi, change, value, page;
};

/* Late passes change something about the page of RDI: it vanishes, cannot be written, can be again,
   or what is in it is called. */
static void make_passes(struct pass *t)
{
    uint64_t rsi = MIDDLE, rdi = MIDDLE;

    for (unsigned k = 0; k < PASSES; k++) {
        if (rnd(8) == 0) {
            rsi = MIDDLE + 8 * rnd(512 * PAGES / 2);
            rdi = MIDDLE + (rnd(2) == 0 ? 64 * rnd(64 * PAGES / 2) : 8 * rnd(512 * PAGES / 2));
            if (rnd(2) == 0) /* in the same page, or nearly so */
                rdi = (rsi & ~4095ull) + 64 * rnd(70);
        }
        t[k] = (struct pass){rsi, rdi, 0, 0, 0};
        if (k < PASSES / 2 || rnd(60) != 0)
            continue;
        uint64_t page = (rnd(4) == 0 ? rsi : rdi) & ~4095ull;
        t[k].page = page;
        t[k].change = entry(page);
        t[k].value = page | (rnd(3) == 0 ? 3u : 0x63u);
        if (rnd(4) == 0)
            t[k].value = rnd(2) == 0 ? 0 : page | 1;
        if (rnd(4) == 0) {
            t[k].change = page + 0xff8;
            t[k].value = 1ull << 63;
        }
    }
}

/* Written as devices do it: a program that ran wild may have executed any of this. */
static void begin(struct cpu_rig *r, const struct program *p, const struct pass *t)
{
    static uint8_t memory[2 * REACH];
    static uint64_t pt[512];

    cpu_rig_mode(r, 64, 0);
    memset(memory, 0x22, sizeof(memory));
    for (unsigned k = 0; k < 2 * REACH; k += 8) /* small numbers: sums take no time */
        memset(memory + k, 0, 6);
    for (unsigned k = REACH; k < 2 * REACH; k += 4096)
        memory[k + 0xff8] = 0xc3;
    for (unsigned k = 0; k < 512; k++)
        pt[k] = (BEGIN + 4096ull * k) | 0x63;
    uint64_t v = PT | 7;
    cpu_rig_code(r, MIDDLE - REACH, memory, sizeof(memory));
    cpu_rig_code(r, TABLE, t, PASSES * sizeof(*t));
    cpu_rig_code(r, PT, pt, sizeof(pt));
    cpu_rig_code(r, CPU_RIG_PML4 + 0x2000 + 8, &v, 8);
    cpu_rig_code(r, CPU_RIG_TEXT, p->code, p->n);
    memset(r->st.gpr, 0, sizeof(r->st.gpr));
    r->st.gpr[VMC_RSP] = CPU_RIG_STACK;
    r->st.gpr[VMC_RBP] = TABLE;
    r->st.gpr[VMC_R13] = PASSES;
    r->st.cr0 |= 1u << 16; /* WP */
}

static void test_nests(void **state)
{
    static struct pass t[PASSES];
    unsigned faults = 0, wild = 0;
    uint32_t first = number("VMC_BT_SEED", 0), programs = PROGRAMS * number("VMC_BT_TIMES", 1);
    struct program p;

    (void)state;
    for (unsigned k = 0; k < programs; k++) {
        seed = 0x9e3779b9u * (first + k + 1);
        p.longer = k % 4 == 3 ? 12 : 1;
        make(&p);
        make_passes(t);
        uint32_t why[2] = {VMC_EXIT_BUDGET, 0};
        for (unsigned r = 0; r < 2; r++)
            begin(&rig[r], &p, t);
        uint64_t all = 0;
        while (why[0] == VMC_EXIT_BUDGET && all < MOST) {
            uint64_t most = some_budget();
            for (unsigned r = 0; r < 2; r++)
                why[r] = all == 0 ? cpu_rig_run(&rig[r], most) : cpu_rig_resume(&rig[r], most);
            all += most;
            assert_int_equal(why[0], why[1]);
            compare_pair(k, MIDDLE, REACH);
        }
        /* Few call what they have written over, and end anyhow or never. */
        wild += why[0] != VMC_EXIT_IDLE;
        faults += rig[0].st.rip < CPU_RIG_TEXT;
    }
    assert_in_range(faults, programs / 8, programs * 7 / 8);
    assert_in_range(wild, 0, programs / 50);
#ifndef VMC_SANITIZED /* such builds have no translator */
    assert_true(cpu_rig_stat(&rig[1], "bt.watched") > PROGRAMS);
    assert_true(cpu_rig_stat(&rig[1], "bt.around") > PROGRAMS / 4);
    assert_true(cpu_rig_stat(&rig[1], "bt.apart") > PROGRAMS / 20);
#endif
}

/* Traces of some hundred instructions, which go around a loop that has two or ten rounds. Flags of
   moves of RSP are read, behind the 255th, too. */
static void test_long(void **state)
{
    static const uint8_t count[] = {0x45, 0x89, 0xef,      /* mov r15d, r13d */
                                    0x41, 0x83, 0xe7, 1,   /* and r15d, 1 */
                                    0x41, 0xc1, 0xe7, 3,   /* shl r15d, 3 */
                                    0x41, 0x83, 0xc7, 2};  /* add r15d, 2 */
    static const uint8_t part[] = {0x4d, 0x39, 0xe3,       /* cmp r11, r12 */
                                   0x48, 0x83, 0xec, 8,    /* sub rsp, 8 */
                                   0x4c, 0x8b, 0x04, 0x24, /* mov r8, [rsp] */
                                   0x49, 0x83, 0xd1, 1,    /* adc r9, 1 */
                                   0x4d, 0x39, 0xe3,       /* cmp r11, r12 */
                                   0x48, 0x83, 0xc4, 8,    /* add rsp, 8 */
                                   0x49, 0x83, 0xd1, 1};   /* adc r9, 1 */
    static const uint8_t dec[2][3] = {{0x41, 0xff, 0xcf},  /* dec r15d */
                                      {0x41, 0xff, 0xcd}}; /* dec r13d */
    static const uint8_t hlt[] = {0xf4};
    static const struct pass t[PASSES];

    (void)state;
    for (unsigned parts = 1; parts <= 12; parts++) {
        struct program p = {.n = 0};
        put(&p, count, sizeof(count));
        size_t top = p.n;
        for (unsigned k = 0; k < parts; k++)
            put(&p, part, sizeof(part));
        put(&p, dec[0], sizeof(dec[0]));
        put_back(&p, top);
        put(&p, dec[1], sizeof(dec[1]));
        put_back(&p, 0);
        put(&p, hlt, sizeof(hlt));
        for (unsigned r = 0; r < 2; r++) {
            begin(&rig[r], &p, t);
            rig[r].st.gpr[VMC_R12] = 1;
            rig[r].st.gpr[VMC_R13] = 20000;
            assert_int_equal(cpu_rig_run(&rig[r], 0), VMC_EXIT_IDLE);
        }
        compare_pair(parts, MIDDLE, REACH);
    }
#ifndef VMC_SANITIZED /* such builds have no translator */
    assert_true(cpu_rig_stat(&rig[1], "bt.around") > 0);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
