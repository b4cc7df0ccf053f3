/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RSP in translated code, which moves it once for many pushes and pops: random frames with faults
 * and stops in the middle, in translator and interpreter; and what becomes of a plain function.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_pair.h"

#define PROGRAMS 4000u
#define REACH    0x4000u /* of the stack, up and down */

/* d: the last byte is a multiple of 8 up to 120. RDI is an address that is not canonical. */
static const struct {
    uint8_t bytes[6], n;
    bool d;
} step[] = {
    {{0x50}, 1, false},                           /* push rax */
    {{0x53}, 1, false},                           /* push rbx */
    {{0x41, 0x54}, 2, false},                     /* push r12 */
    {{0x6a, 0x11}, 2, false},                     /* push 17 */
    {{0x58}, 1, false},                           /* pop rax */
    {{0x5b}, 1, false},                           /* pop rbx */
    {{0x41, 0x5c}, 2, false},                     /* pop r12 */
    {{0x48, 0x83, 0xec, 0}, 4, true},             /* sub rsp, d */
    {{0x48, 0x83, 0xc4, 0}, 4, true},             /* add rsp, d */
    {{0x48, 0x89, 0x54, 0x24, 0}, 5, true},       /* mov [rsp + d], rdx */
    {{0x48, 0x8b, 0x54, 0x24, 0}, 5, true},       /* mov rdx, [rsp + d] */
    {{0x48, 0x03, 0x5c, 0xcc, 0}, 5, true},       /* add rbx, [rsp + rcx * 8 + d] */
    {{0x48, 0x8d, 0x54, 0x24, 0}, 5, true},       /* lea rdx, [rsp + d] */
    {{0xff, 0x74, 0x24, 0}, 4, true},             /* push qword [rsp + d] */
    {{0x8f, 0x44, 0x24, 0}, 4, true},             /* pop qword [rsp + d] */
    {{0x48, 0x0f, 0xab, 0x4c, 0x24, 0}, 6, true}, /* bts [rsp + d], rcx */
    {{0xf3, 0x0f, 0x6f, 0x44, 0x24, 0}, 6, true}, /* movdqu xmm0, [rsp + d] */
    {{0xff, 0x75, 0}, 3, true},                   /* push qword [rbp + d] */
    {{0x8f, 0x45, 0}, 3, true},                   /* pop qword [rbp + d] */
    {{0x8f, 0x04, 0xcc}, 3, false},               /* pop qword [rsp + rcx * 8] */
    {{0x48, 0x89, 0xe5}, 3, false},               /* mov rbp, rsp */
    {{0x54}, 1, false},                           /* push rsp */
    {{0x48, 0x89, 0xe3}, 3, false},               /* mov rbx, rsp */
    {{0x9c}, 1, false},                           /* pushf */
    {{0x48, 0x11, 0xd8}, 3, false},               /* adc rax, rbx */
    {{0x0f, 0x9a, 0xc0}, 3, false},               /* setp al */
    {{0x9f}, 1, false},                           /* lahf */
    {{0x48, 0x39, 0xd8}, 3, false},               /* cmp rax, rbx */
    {{0x83, 0xe1, 0x0f}, 3, false},               /* and ecx, 15 */
    {{0x70, 0x00}, 2, false},                     /* jo to the next one */
    {{0xe8, 0, 0, 0, 0}, 5, false},               /* call of the next one */
    {{0x48, 0x8b, 0x17}, 3, false},               /* mov rdx, [rdi]: #GP */
};

static size_t make(uint8_t *code)
{
    size_t n = 0;

    for (unsigned left = 4 + rnd(24); left > 0; left--) {
        unsigned k = rnd(sizeof(step) / sizeof(step[0]) - (rnd(8) != 0));
        memcpy(code + n, step[k].bytes, step[k].n);
        n += step[k].n;
        if (step[k].d)
            code[n - 1] = (uint8_t)(8 * rnd(16));
    }
    code[n++] = 0xf4; /* hlt */
    return n;
}

static void begin(struct cpu_rig *r, const uint8_t *code, size_t n, uint64_t rsp)
{
    cpu_rig_mode(r, 64, 0);
    memset(r->ram + CPU_RIG_STACK - REACH, 0x5a, 2 * REACH);
    cpu_rig_code(r, CPU_RIG_TEXT, code, n);
    for (unsigned k = 0; k < 16; k++)
        r->st.gpr[k] = 0x123456789abull * (k + 1);
    r->st.gpr[VMC_RSP] = rsp;
    r->st.gpr[VMC_RBP] = rsp + 64;
    r->st.gpr[VMC_RCX] = 3;
    r->st.gpr[VMC_RDI] = 1ull << 62;
}

static void test_frames(void **state)
{
    uint8_t code[32 * 6];

    (void)state;
    for (unsigned k = 0; k < PROGRAMS; k++) {
        seed = 0x9e3779b9u * (k + 1);
        size_t n = make(code);
        uint64_t rsp = CPU_RIG_STACK - (rnd(2) != 0 ? rnd(160) : rnd(4096));
        uint64_t most = rnd(2) != 0 ? 0 : 4097 + rnd(20); /* the last 4,096 are interpreted */
        uint32_t why[2] = {VMC_EXIT_BUDGET, 0};
        for (unsigned r = 0; r < 2; r++)
            begin(&rig[r], code, n, rsp);
        for (bool start = true; why[0] == VMC_EXIT_BUDGET; start = false) {
            for (unsigned r = 0; r < 2; r++)
                why[r] = start ? cpu_rig_run(&rig[r], most) : cpu_rig_resume(&rig[r], most);
            assert_int_equal(why[0], why[1]);
            compare_pair(k, CPU_RIG_STACK, REACH);
        }
    }
}

#ifndef VMC_SANITIZED /* such builds have no translator */
/* LEA RSP, [RSP + n] in translated bodies. */
static void count_moves(void *ctx, uint32_t vcpu, const struct vmc_translation *t)
{
    static const uint8_t lea[] = {0x48, 0x8d, 0x64, 0x24};
    const uint8_t *host = t->host;

    (void)vcpu;
    for (unsigned k = 0; k < t->pieces; k++) {
        const struct vmc_code_piece *p = &t->piece[k];
        size_t end = k + 1 < t->pieces ? p[1].offset : t->bytes;
        for (size_t at = p->offset; p->kind == VMC_CODE_BODY && at + sizeof(lea) <= end; at++)
            *(unsigned *)ctx += memcmp(host + at, lea, sizeof(lea)) == 0;
    }
}

static void test_moves(void **state)
{
    static const uint8_t code[] = {
        0x55, 0x53, 0x41, 0x54,             /* push rbp, rbx, r12 */
        0x48, 0x83, 0xec, 0x10,             /* sub rsp, 16 */
        0x48, 0x89, 0x04, 0x24,             /* mov [rsp], rax */
        0x48, 0x83, 0xc4, 0x10,             /* add rsp, 16 */
        0x41, 0x5c, 0x5b, 0x5d, 0x31, 0xc0, /* pop r12, rbx, rbp; xor eax, eax */
        0xeb, 0x00, 0xf4,                   /* jmp to the next one; hlt */
    };
    unsigned moves = 0;
    struct vmc_soft_config soft = {.size = sizeof(soft),
                                   .flags = VMC_SOFT_TRANSLATE_ALL,
                                   .translated = count_moves,
                                   .translated_ctx = &moves};
    struct cpu_rig r;

    (void)state;
    cpu_rig_create_with(&r, 0, &soft);
    cpu_rig_mode(&r, 64, 0);
    cpu_rig_code(&r, CPU_RIG_TEXT, code, sizeof(code));
    r.st.gpr[VMC_RSP] = CPU_RIG_STACK - 256;
    assert_int_equal(cpu_rig_run(&r, 0), VMC_EXIT_IDLE);
    assert_int_equal(r.st.gpr[VMC_RSP], CPU_RIG_STACK - 256);
    assert_true(moves <= 1);
    cpu_rig_destroy(&r);
}

/* POP to memory, as it begins each function of some compilers, is no call for help. */
static void test_pop_to_memory(void **state)
{
    static const uint8_t code[] = {
        0xb9, 0,    0,    1,    0, /* mov ecx, 65536 */
        0x50,                      /* again: push rax */
        0x8f, 0x45, 0x08,          /* pop qword [rbp + 8] */
        0x48, 0xff, 0x45, 0x08,    /* inc qword [rbp + 8] */
        0xff, 0x75, 0x08,          /* push qword [rbp + 8] */
        0x58,                      /* pop rax */
        0xff, 0xc9,                /* dec ecx */
        0x75, 0xf0,                /* jnz again */
        0xf4,                      /* hlt */
    };
    struct cpu_rig *r = &rig[1];

    (void)state;
    cpu_rig_mode(r, 64, 0);
    cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(code));
    r->st.gpr[VMC_RAX] = 0;
    r->st.gpr[VMC_RSP] = CPU_RIG_STACK - 256;
    r->st.gpr[VMC_RBP] = CPU_RIG_STACK - 1024;
    uint64_t before = cpu_rig_stat(r, "bt.callouts");
    assert_int_equal(cpu_rig_run(r, 0), VMC_EXIT_IDLE);
    assert_int_equal(r->st.gpr[VMC_RAX], 65536);
    assert_int_equal(r->st.gpr[VMC_RSP], CPU_RIG_STACK - 256);
    assert_true(cpu_rig_stat(r, "bt.callouts") - before < 200);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_frames, setup, teardown),
#ifndef VMC_SANITIZED
        cmocka_unit_test(test_moves),
        cmocka_unit_test_setup_teardown(test_pop_to_memory, setup, teardown),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
