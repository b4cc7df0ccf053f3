/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The same pages of code at many addresses, as address space layout randomization has them: random
 * functions, which refer to each other and to their data by distances, are executed in 24 address
 * spaces by turns, each of which has the image at two addresses of its own; some addresses are
 * among those for which translations never move. Functions are called at the other address, too,
 * and code is written. Everything is as in the interpreter: addresses on the stack and in memory,
 * the x87 unit's pointers, and where a fault is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_pair.h"

#define PROGRAMS  120u
#define SPACES    24u
#define TURNS     80u
#define RUNS      400u /* of 50,000 instructions on average */
#define PAGE      4096u
#define CODE      (4 * PAGE)        /* of the image; behind it are */
#define IMAGE     (CODE + 2 * PAGE) /* ... data, and a page that is not there */
#define MEMORY    0x400000u         /* the image, in another order */
#define TABLES    0x500000u         /* of page tables, PER_SPACE for each address space */
#define PER_SPACE (7u * PAGE)
#define TURN      0x300000u /* for each turn: CR3, RIP, R14, count */
#define KERNEL    CPU_RIG_TEXT
#define FUNCTIONS 24u
#define SLOT      640u
#define VECTOR    0x80u

struct image {
    uint8_t bytes[IMAGE];
    size_t n;
    size_t start[FUNCTIONS];
    bool faults;
};

static void put(struct image *m, const void *bytes, size_t n)
{
    memcpy(m->bytes + m->n, bytes, n);
    m->n += n;
}

/* An instruction whose last 4 bytes are the distance to a place in the image. */
static void put_rel(struct image *m, const void *bytes, size_t n, size_t to)
{
    put(m, bytes, n);
    uint32_t by = (uint32_t)(to - (m->n + 4));
    put(m, &by, 4);
}

static const struct {
    uint8_t bytes[5], n;
} relative[] = {
    {{0x48, 0x8b, 0x05}, 3},             /* mov rax, [rip + d] */
    {{0x48, 0x89, 0x1d}, 3},             /* mov [rip + d], rbx */
    {{0x48, 0x01, 0x05}, 3},             /* add [rip + d], rax */
    {{0x48, 0x3b, 0x15}, 3},             /* cmp rdx, [rip + d] */
    {{0x48, 0x8d, 0x1d}, 3},             /* lea rbx, [rip + d] */
    {{0x8d, 0x15}, 2},                   /* lea edx, [rip + d] */
    {{0x67, 0x48, 0x8d, 0x15}, 4},       /* lea rdx, [eip + d] */
    {{0xff, 0x35}, 2},                   /* push qword [rip + d]; popped */
    {{0xf2, 0x0f, 0x10, 0x05}, 4},       /* movsd xmm0, [rip + d] */
    {{0xf2, 0x0f, 0x11, 0x05}, 4},       /* movsd [rip + d], xmm0 */
    {{0x66, 0x0f, 0x6f, 0x0d}, 4},       /* movdqa xmm1, [rip + d] */
    {{0xdd, 0x05}, 2},                   /* fld qword [rip + d]; popped */
    {{0x48, 0x0f, 0xae, 0x05}, 4},       /* fxsave64 [rip + d] */
    {{0x48, 0x0f, 0xab, 0x05}, 4},       /* bts [rip + d], rax; of a small number */
    {{0xf0, 0x48, 0x0f, 0xc1, 0x15}, 5}, /* lock xadd [rip + d], rdx */
    {{0x64, 0x48, 0x8d, 0x0d}, 4},       /* lea rcx, fs:[rip + d] */
};
#define PUSH_AT   7u
#define FLD_AT    11u
#define FXSAVE_AT 12u
#define BTS_AT    13u

static void put_relative(struct image *m)
{
    static const uint8_t small[] = {0x83, 0xe0, 0x7f}; /* and eax, 127 */
    static const uint8_t pop = 0x58, fpop[] = {0xdd, 0xd8};
    unsigned k = rnd(sizeof(relative) / sizeof(relative[0]));
    size_t to = CODE + 16 * rnd(200);

    if (k == BTS_AT)
        put(m, small, sizeof(small));
    put_rel(m, relative[k].bytes, relative[k].n, k == FXSAVE_AT ? CODE + 0xe00 : to);
    if (k == PUSH_AT)
        put(m, &pop, 1);
    if (k == FLD_AT)
        put(m, fpop, sizeof(fpop));
}

static void put_plain(struct image *m)
{
    static const struct {
        uint8_t bytes[8], n;
    } t[] = {
        {{0x48, 0x01, 0xd8}, 3},             /* add rax, rbx */
        {{0x48, 0x31, 0xda}, 3},             /* xor rdx, rbx */
        {{0x48, 0x83, 0xd2, 1}, 4},          /* adc rdx, 1 */
        {{0x53, 0x5a}, 2},                   /* push rbx; pop rdx */
        {{0x48, 0x8b, 0x46, 0x10}, 4},       /* mov rax, [rsi + 16] */
        {{0x48, 0x89, 0x56, 0x18}, 4},       /* mov [rsi + 24], rdx */
        {{0x48, 0x0f, 0xaf, 0xd0}, 4},       /* imul rdx, rax */
        {{0x48, 0xd1, 0xc2}, 3},             /* rol rdx, 1 */
        {{0xd9, 0xe8, 0xdd, 0xd8}, 4},       /* fld1; fstp st0 */
        {{0x72, 0x03, 0x48, 0xff, 0xc2}, 5}, /* jc over inc rdx */
        {{0xeb, 0x01, 0xcc}, 3},             /* jmp over int3 */
    };
    unsigned k = rnd(sizeof(t) / sizeof(t[0]));

    put(m, t[k].bytes, t[k].n);
}

/* A few rounds of something. */
static void put_loop(struct image *m)
{
    uint8_t few[] = {0xb9, (uint8_t)(2 + rnd(30)), 0, 0, 0}; /* mov ecx, k */
    static const uint8_t keep[] = {0x51}, back[] = {0x59, 0xff, 0xc9, 0x0f, 0x85};

    put(m, few, sizeof(few));
    size_t top = m->n;
    put(m, keep, sizeof(keep)); /* push rcx */
    put_relative(m);
    put_plain(m);
    put_rel(m, back, sizeof(back), top); /* pop rcx; dec ecx; jnz */
}

static void put_call(struct image *m, unsigned from)
{
    static const uint8_t call[] = {0xe8}, jz[] = {0x0f, 0x84}, lea[] = {0x4c, 0x8d, 0x15};
    static const uint8_t r10[] = {0x41, 0xff, 0xd2};                              /* call r10 */
    static const uint8_t other[] = {0x4d, 0x85, 0xf6, 0x74, 3, 0x41, 0xff, 0xd6}; /* if r14: call */
    size_t to = m->start[8 * (from / 8 + 1) + rnd(8)];

    switch (rnd(5)) {
    case 0:
        put_rel(m, lea, sizeof(lea), to);
        put(m, r10, sizeof(r10));
        break;
    case 1:
        put(m, other, sizeof(other));
        break;
    case 2: /* over the call, sometimes */
        put_rel(m, jz, sizeof(jz), m->n + sizeof(jz) + 4 + sizeof(call) + 4);
        __attribute__((fallthrough));
    default:
        put_rel(m, call, sizeof(call), to);
        break;
    }
}

/* mov eax, imm32 whose constant is written each time, now and then. */
static void put_write(struct image *m)
{
    static const uint8_t mov[] = {0xb8, 1, 2, 3, 4}, add[] = {0x00, 0x05};
    size_t at = m->n + 1;

    put(m, mov, sizeof(mov));
    put_rel(m, add, sizeof(add), at); /* add [rip + d], al */
}

static void put_function(struct image *m, unsigned f)
{
    static const uint8_t ret[] = {0xc3}, load[] = {0x48, 0x8b, 0x05};
    unsigned calls = 0;

    m->n = m->start[f];
    for (unsigned steps = 4 + rnd(14); steps > 0; steps--) {
        unsigned what = rnd(20);
        if (what < 8)
            put_relative(m);
        else if (what < 14)
            put_plain(m);
        else if (what < 16)
            put_loop(m);
        else if (f < 16 && calls < 3 && ++calls != 0)
            put_call(m, f);
        else if (rnd(40) == 0)
            put_write(m);
        else if (!m->faults && rnd(6) == 0) {
            m->faults = true; /* jz over a load of what is not there */
            put(m, (const uint8_t[]){0x75, 0x07}, 2);
            put_rel(m, load, sizeof(load), CODE + PAGE + 8 * rnd(100));
        }
    }
    put(m, ret, sizeof(ret));
}

/* Calls everything as often as R13 says, then VECTOR. */
static void make(struct image *m)
{
    static const uint8_t call[] = {0xe8}, back[] = {0x41, 0xff, 0xcd, 0x0f, 0x85};
    static const uint8_t end[] = {0xcd, VECTOR};

    memset(m->bytes, 0x90, CODE);
    for (unsigned k = CODE; k < IMAGE; k++)
        m->bytes[k] = (uint8_t)rnd(256);
    m->faults = rnd(2) != 0;
    for (unsigned f = 0; f < FUNCTIONS; f++)
        m->start[f] = 0x100 + f * SLOT + rnd(180);
    for (unsigned f = 0; f < FUNCTIONS; f++)
        put_function(m, f);
    m->n = 0;
    for (unsigned f = 0; f < 8; f++)
        put_rel(m, call, sizeof(call), m->start[f]);
    put_rel(m, back, sizeof(back), 0);
    put(m, end, sizeof(end));
}

/* Not in the way of the identity mapping, nor of the end of a page table. */
static uint64_t random_base(unsigned not )
{
    unsigned top;

    do
        top = 1 + rnd(255);
    while (top == not );
    if (rnd(12) == 0) /* too high to move from or to */
        return (top = 255) != not ? (1ull << 47) - (1 + rnd(1000)) * (1ull << 21) : 1ull << 40;
    return (uint64_t)top << 39 | (uint64_t)rnd(1u << 18) << 21 | (uint64_t)rnd(500) << 12;
}

static void put64(uint8_t *at, uint64_t v)
{
    memcpy(at, &v, 8);
}

/* page[k]: where page k of the image lies. */
static void map(uint8_t *tables, uint64_t cr3, unsigned first, uint64_t base, const unsigned *page)
{
    uint8_t *pml4 = tables + (cr3 - TABLES);
    uint64_t next = cr3 + first * PAGE;

    put64(pml4 + 8 * (base >> 39 & 511), next | 7);
    put64(pml4 + first * PAGE + 8 * (base >> 30 & 511), (next + PAGE) | 7);
    put64(pml4 + (first + 1) * PAGE + 8 * (base >> 21 & 511), (next + 2 * PAGE) | 7);
    for (unsigned k = 0; k < CODE / PAGE + 1; k++)
        put64(pml4 + (first + 2) * PAGE + 8 * ((base >> 12 & 511) + k),
              (MEMORY + page[k] * (uint64_t)PAGE) | 7);
}

struct plan {
    struct image m;
    unsigned page[CODE / PAGE + 1];
    uint8_t tables[SPACES * PER_SPACE];
    uint64_t turn[TURNS][4];
};

/* base, other: where each address space has the image. */
static void make_spaces(struct plan *p, uint64_t *base, uint64_t *other)
{
    for (unsigned k = 0; k <= CODE / PAGE; k++)
        p->page[k] = 2 * k + rnd(2);
    memset(p->tables, 0, sizeof(p->tables));
    for (unsigned s = 0; s < SPACES; s++) {
        uint64_t cr3 = TABLES + s * PER_SPACE;
        base[s] = random_base(0);
        other[s] = random_base((unsigned)(base[s] >> 39));
        put64(p->tables + s * PER_SPACE, (CPU_RIG_PML4 + 0x1000) | 7);
        map(p->tables, cr3, 1, base[s], p->page);
        map(p->tables, cr3, 4, other[s], p->page);
    }
}

static void make_plan(struct plan *p)
{
    uint64_t base[SPACES], other[SPACES];

    make(&p->m);
    make_spaces(p, base, other);
    unsigned s = 0, before = 0;
    for (unsigned k = 0; k < TURNS; k++) {
        unsigned now = rnd(3) == 0 ? before : rnd(SPACES);
        before = s;
        s = now;
        p->turn[k][0] = TABLES + s * PER_SPACE;
        p->turn[k][1] = rnd(8) == 0 ? other[s] : base[s];
        p->turn[k][2] = rnd(4) == 0 ? other[s] + p->m.start[16 + rnd(8)] : 0;
        p->turn[k][3] = 1 + rnd(6);
    }
}

static void begin(struct cpu_rig *r, const struct plan *p)
{
    /* The end of a turn comes here: with another RSP. */
    static const uint8_t kernel[] = {
        0xbc, 0x00,        0xf0, 0x07, 0x00, 0xdb, 0xe3, /* mov esp, 0x7f000; fninit */
        0x48, 0x81,        0xfd, 0,    0,    0,    0,    /* cmp rbp, end */
        0x75, 0x01,        0xf4,                         /* jne over hlt */
        0x48, 0x8b,        0x45, 0x00, 0x0f, 0x22, 0xd8, /* mov rax, [rbp]; mov cr3, rax */
        0x48, 0x8b,        0x4d, 0x08,                   /* mov rcx, [rbp + 8] */
        0x4c, 0x8b,        0x75, 0x10,                   /* mov r14, [rbp + 16] */
        0x4c, 0x8b,        0x6d, 0x18,                   /* mov r13, [rbp + 24] */
        0x48, 0x83,        0xc5, 0x20,                   /* add rbp, 32 */
        0x6a, CPU_RIG_DS3, 0x68, 0x00, 0xc0, 0x07, 0x00, /* push SS; push 0x7c000 */
        0x68, 0x02,        0x02, 0x00, 0x00,             /* push 0x202 */
        0x6a, CPU_RIG_CS3, 0x51, 0x48, 0xcf};            /* push CS; push rcx; iretq */
    uint8_t code[sizeof(kernel)];
    uint32_t end = TURN + sizeof(p->turn);
    uint64_t gate = (KERNEL & 0xffff) | (uint64_t)CPU_RIG_CS0 << 16 | 0xeeull << 40 |
                    (uint64_t)(KERNEL & 0xffff0000) << 32;
    static const uint8_t nothing[0x8000];

    cpu_rig_mode(r, 64, 0);
    memcpy(code, kernel, sizeof(code));
    memcpy(code + 10, &end, 4);
    cpu_rig_code(r, KERNEL, code, sizeof(code));
    cpu_rig_code(r, CPU_RIG_IDT + 16 * VECTOR, &gate, 8);
    cpu_rig_code(r, TABLES, p->tables, sizeof(p->tables));
    cpu_rig_code(r, TURN, p->turn, sizeof(p->turn));
    cpu_rig_code(r, CPU_RIG_STACK - sizeof(nothing), nothing, sizeof(nothing));
    for (unsigned k = 0; k <= CODE / PAGE; k++)
        cpu_rig_code(r, MEMORY + p->page[k] * PAGE, p->m.bytes + k * PAGE, PAGE);
    memset(r->st.gpr, 0, sizeof(r->st.gpr));
    r->st.gpr[VMC_RBP] = TURN;
    r->st.gpr[VMC_RSI] = MEMORY + 0x20000;
    r->st.rip = KERNEL;
}

static void test_moves(void **state)
{
    static struct plan p;
    uint32_t first = number("VMC_BT_SEED", 0);
    unsigned faults = 0, unfinished = 0;

    (void)state;
    for (unsigned k = 0; k < PROGRAMS; k++) {
        seed = 0x9e3779b9u * (first + k + 1);
        make_plan(&p);
        uint32_t why[2] = {VMC_EXIT_BUDGET, 0};
        for (unsigned r = 0; r < 2; r++)
            begin(&rig[r], &p);
        unsigned turns = 0;
        for (; why[0] == VMC_EXIT_BUDGET && turns < RUNS; turns++) {
            uint64_t most = some_budget();
            for (unsigned r = 0; r < 2; r++)
                why[r] = turns == 0 ? cpu_rig_run(&rig[r], most) : cpu_rig_resume(&rig[r], most);
            assert_int_equal(why[0], why[1]);
            compare_pair(k, MEMORY + 0x20000, 0x20000);
            compare_pair(k, CPU_RIG_STACK - 0x4000, 0x4000);
        }
        unfinished += why[0] != VMC_EXIT_IDLE;
        faults += rig[0].st.rip < KERNEL;
    }
    assert_in_range(faults, PROGRAMS / 8, PROGRAMS * 7 / 8);
    assert_int_equal(unfinished, 0);
#ifndef VMC_SANITIZED /* such builds have no translator */
    assert_true(cpu_rig_stat(&rig[1], "bt.moved") > PROGRAMS * 1000);
#endif
}

/* l: call f; dec r13d; jnz l; int VECTOR, in two pages. f, in a third one, adds where it is to what
   is in the data. */
static void make_called(struct image *m)
{
    static const uint8_t call[] = {0xe8}, back[] = {0x41, 0xff, 0xcd, 0x0f, 0x85};
    static const uint8_t end[] = {0xcd, VECTOR}, lea[] = {0x48, 0x8d, 0x05};
    static const uint8_t add[] = {0x48, 0x01, 0x05}, ret[] = {0xc3};
    const size_t f = PAGE + 0x80;

    memset(m, 0, sizeof(*m));
    for (size_t at = 0; at <= 2 * PAGE; at += 2 * PAGE) {
        m->n = at;
        put_rel(m, call, sizeof(call), f);
        put_rel(m, back, sizeof(back), at);
        put(m, end, sizeof(end));
    }
    m->n = f;
    put_rel(m, lea, sizeof(lea), f);
    put_rel(m, add, sizeof(add), CODE + 8);
    put(m, ret, sizeof(ret));
}

/*
 * A page that is global in one address space only: f is translated where it is not, linked to where
 * it is, found at another address, and called by the link again.
 */
static void test_global_somewhere(void **state)
{
    static struct plan p;
    const uint64_t at[] = {5ull << 39 | 0x123ull << 21, 9ull << 39 | 0x56ull << 21};

    (void)state;
    seed = 1;
    make_called(&p.m);
    for (unsigned k = 0; k <= CODE / PAGE; k++)
        p.page[k] = k;
    memset(p.tables, 0, sizeof(p.tables));
    for (unsigned s = 0; s < 3; s++) {
        put64(p.tables + s * PER_SPACE, (CPU_RIG_PML4 + 0x1000) | 7);
        map(p.tables, TABLES + s * PER_SPACE, 1, at[s / 2], p.page);
    }
    for (unsigned k = 0; k <= CODE / PAGE; k++)
        p.tables[PER_SPACE + 3 * PAGE + 8 * k + 1] |= 1; /* global */
    for (unsigned k = 0; k < TURNS; k++) {
        unsigned s = k == 0 || k == 2 ? k : 1;
        uint64_t turn[] = {TABLES + s * PER_SPACE, at[s / 2] + (s == 1 ? 0 : 2 * PAGE), 0, 50};
        memcpy(p.turn[k], turn, sizeof(turn));
    }
    for (unsigned r = 0; r < 2; r++) {
        begin(&rig[r], &p);
        assert_int_equal(cpu_rig_run(&rig[r], 0), VMC_EXIT_IDLE);
        assert_int_equal(rig[r].st.gpr[VMC_RBP], TURN + sizeof(p.turn));
    }
    compare_pair(0, MEMORY + 0x4000, 0x4000);
}

#ifndef VMC_SANITIZED
/* l: call f; add [data], rax; call g; dec r13d; jnz l; int VECTOR. f is in another page. */
static void make_simple(struct image *m)
{
    static const uint8_t call[] = {0xe8}, add[] = {0x48, 0x01, 0x05}, load[] = {0x48, 0x8b, 0x1d};
    static const uint8_t back[] = {0x41, 0xff, 0xcd, 0x0f, 0x85}, end[] = {0xcd, VECTOR};
    static const uint8_t inc[] = {0x48, 0xff, 0xc0}, ret[] = {0xc3};
    const size_t f = PAGE + 0x80, g = 0x200;

    memset(m, 0, sizeof(*m));
    put_rel(m, call, sizeof(call), f);
    put_rel(m, add, sizeof(add), CODE + 8);
    put_rel(m, call, sizeof(call), g);
    put_rel(m, back, sizeof(back), 0);
    put(m, end, sizeof(end));
    m->n = f;
    put_rel(m, load, sizeof(load), CODE + 8);
    put(m, ret, sizeof(ret));
    m->n = g;
    put(m, inc, sizeof(inc));
    put(m, ret, sizeof(ret));
}

/* Code that has moved is as good as before: it is not translated again, nor asks for more help. */
static void test_moved_code_is_whole(void **state)
{
    static struct plan p;
    uint64_t base[SPACES], other[SPACES];

    (void)state;
    seed = 1;
    make_simple(&p.m);
    make_spaces(&p, base, other);
    for (unsigned k = 0; k < TURNS; k++) {
        bool low = base[k % SPACES] < 1ull << 46; /* the others may be too high */
        uint64_t at = low ? base[k % SPACES] : base[0];
        uint64_t turn[] = {TABLES + (low ? k % SPACES : 0) * PER_SPACE, at, 0, 3000};
        memcpy(p.turn[k], turn, sizeof(turn));
    }
    begin(&rig[1], &p);
    assert_int_equal(cpu_rig_run(&rig[1], 0), VMC_EXIT_IDLE);
    assert_int_equal(rig[1].st.gpr[VMC_RBP], TURN + sizeof(p.turn));
    assert_in_range(cpu_rig_stat(&rig[1], "bt.moved"), 20, 1000);
    assert_in_range(cpu_rig_stat(&rig[1], "bt.translated"), 1, 60);
    assert_in_range(cpu_rig_stat(&rig[1], "bt.callouts"), 1, 80 * TURNS);
    assert_in_range(cpu_rig_stat(&rig[1], "bt.jump_fills"), 1, 80 * TURNS);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_moves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_global_somewhere, setup, teardown),
#ifndef VMC_SANITIZED
        cmocka_unit_test_setup_teardown(test_moved_code_is_whole, setup, teardown),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
