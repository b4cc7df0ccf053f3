/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guests that try to get out of translated code: system calls of the host, privileged instructions,
 * instructions hidden in others, and addresses of the host as data, stack, target or segment base.
 * Each attempt must end as the interpreter ends it, in the guest's own handler, with the memory of
 * the host as it was. A system call that reached the host would end the test program.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu_pair.h"

#define GOOD    (CPU_RIG_DATA + 0x100u) /* an address that a guest may use */
#define KERNEL  (CPU_RIG_TEXT + 0x2000u)
#define ROUNDS  8u
#define VALUE   0x4141414141414141ull
#define NOTHING (-1) /* no exception: the SYSCALL handler */
#define ANY     (-2) /* the exception that the CPU model raises */

static uint64_t secret[64]; /* of the host */

static int setup_secret(void **state)
{
    memset(secret, 0x77, sizeof(secret));
    return setup(state);
}

static void secret_is_kept(const char *name)
{
    for (size_t k = 0; k < sizeof(secret) / sizeof(secret[0]); k++)
        if (secret[k] != 0x7777777777777777ull)
            fail_msg("%s: changed memory of the host", name);
}

static void agree(const char *name)
{
    const struct vmc_x86_state *a = &rig[0].st, *b = &rig[1].st;

    for (unsigned r = 0; r < 16; r++)
        if (a->gpr[r] != b->gpr[r])
            fail_msg("%s: register %u is 0x%llx, not 0x%llx", name, r,
                     (unsigned long long)b->gpr[r], (unsigned long long)a->gpr[r]);
    if (a->rip != b->rip || a->rflags != b->rflags || a->cr2 != b->cr2 ||
        rig[0].exit.kind != rig[1].exit.kind)
        fail_msg("%s: ends at 0x%llx, not 0x%llx", name, (unsigned long long)b->rip,
                 (unsigned long long)a->rip);
    if (memcmp(rig[0].ram, rig[1].ram, CPU_RIG_RAM) != 0)
        fail_msg("%s: memory differs", name);
}

/* HLT of the handler of a vector, which was the last instruction. */
static bool trapped(const struct cpu_rig *r, int vector)
{
    return r->st.rip == CPU_RIG_TRAPS + (unsigned)vector + 1;
}

/* ---- instructions ---------------------------------------------------------------------------- */

struct attempt {
    const char *name;
    uint8_t bits, cpl;
    int vector; /* that the guest sees */
    uint8_t n, bytes[16];
};

enum { UD = VMC_VEC_UD, GP = VMC_VEC_GP, NM = VMC_VEC_NM };

static const struct attempt attempts[] = {
    /* System calls: the guest's. Without SCE they are invalid. */
    {"syscall", 64, 3, NOTHING, 2, {0x0f, 0x05}},
    {"syscall, 66", 64, 3, NOTHING, 3, {0x66, 0x0f, 0x05}},
    {"syscall, REX.W", 64, 3, NOTHING, 3, {0x48, 0x0f, 0x05}},
    {"syscall, F3", 64, 3, NOTHING, 3, {0xf3, 0x0f, 0x05}},
    {"syscall, GS", 64, 3, NOTHING, 3, {0x65, 0x0f, 0x05}},
    {"syscall in a kernel", 64, 0, NOTHING, 2, {0x0f, 0x05}},
    {"syscall in an immediate", 64, 3, NOTHING, 6, {0xeb, 0x01, 0xb9, 0x0f, 0x05, 0xf4}},
    {"syscall in a displacement", 64, 3, NOTHING, 7, {0xeb, 0x02, 0x8b, 0x80, 0x0f, 0x05, 0xf4}},
    {"int 80 of 32-bit code", 32, 3, 0x80, 2, {0xcd, 0x80}},
    {"int 80", 64, 3, 0x80, 2, {0xcd, 0x80}},
    {"int 80 in a kernel", 64, 0, 0x80, 2, {0xcd, 0x80}},
    {"int3", 64, 3, 3, 1, {0xcc}},
    {"ud2", 64, 3, UD, 2, {0x0f, 0x0b}},
    {"sysenter", 64, 3, ANY, 2, {0x0f, 0x34}},
    {"sysenter of 32-bit code", 32, 3, ANY, 2, {0x0f, 0x34}},
    {"sysret of a program", 64, 3, GP, 3, {0x48, 0x0f, 0x07}},
    {"sysexit", 64, 3, ANY, 2, {0x0f, 0x35}},
    /* Privileged instructions of a program. */
    {"hlt", 64, 3, GP, 1, {0xf4}},
    {"cli", 64, 3, GP, 1, {0xfa}},
    {"sti", 64, 3, GP, 1, {0xfb}},
    {"in", 64, 3, GP, 1, {0xec}},
    {"out", 64, 3, GP, 2, {0xe6, 0x80}},
    {"rep insb", 64, 3, GP, 2, {0xf3, 0x6c}},
    {"mov cr0", 64, 3, GP, 3, {0x0f, 0x22, 0xc0}},
    {"mov rax, cr3", 64, 3, GP, 3, {0x0f, 0x20, 0xd8}},
    {"mov cr8", 64, 3, GP, 4, {0x44, 0x0f, 0x22, 0xc0}},
    {"mov dr7", 64, 3, GP, 3, {0x0f, 0x23, 0xf8}},
    {"rdmsr", 64, 3, GP, 2, {0x0f, 0x32}},
    {"wrmsr", 64, 3, GP, 2, {0x0f, 0x30}},
    {"wrmsr: GS base", 64, 3, GP, 7, {0xb9, 1, 1, 0, 0xc0, 0x0f, 0x30}},
    {"swapgs", 64, 3, GP, 3, {0x0f, 0x01, 0xf8}},
    {"lgdt", 64, 3, GP, 4, {0x0f, 0x01, 0x14, 0x24}},
    {"lidt", 64, 3, GP, 4, {0x0f, 0x01, 0x1c, 0x24}},
    {"ltr", 64, 3, GP, 3, {0x0f, 0x00, 0xd8}},
    {"lmsw", 64, 3, GP, 3, {0x0f, 0x01, 0xf0}},
    {"clts", 64, 3, GP, 2, {0x0f, 0x06}},
    {"invlpg", 64, 3, GP, 3, {0x0f, 0x01, 0x3b}},
    {"wbinvd", 64, 3, GP, 2, {0x0f, 0x09}},
    {"stac", 64, 3, UD, 3, {0x0f, 0x01, 0xcb}},
    {"vmrun", 64, 3, UD, 3, {0x0f, 0x01, 0xd8}},
    {"vmlaunch", 64, 3, UD, 3, {0x0f, 0x01, 0xc2}},
    {"vmxoff", 64, 0, UD, 3, {0x0f, 0x01, 0xc4}},
    {"vmsave", 64, 0, UD, 3, {0x0f, 0x01, 0xdb}},
    {"enclu", 64, 3, UD, 3, {0x0f, 0x01, 0xd7}},
    {"wrgsbase, CR4.FSGSBASE clear", 64, 3, UD, 5, {0xf3, 0x48, 0x0f, 0xae, 0xd8}},
    {"wrfsbase in a kernel", 64, 0, UD, 5, {0xf3, 0x48, 0x0f, 0xae, 0xd3}},
    {"xsetbv, CR4.OSXSAVE clear", 64, 0, UD, 3, {0x0f, 0x01, 0xd1}},
    {"vaddps, CR4.OSXSAVE clear", 64, 0, UD, 4, {0xc5, 0xf8, 0x58, 0xc1}},
    {"far jump through a gate", 64, 3, GP, 4, {0x48, 0xff, 0x2c, 0x24}},
    {"mov ss, kernel's", 64, 3, GP, 7, {0xb8, 0x10, 0, 0, 0, 0x8e, 0xd0}},
};

static void try_code(struct cpu_rig *r, const struct attempt *a)
{
    static const uint8_t hlt = 0xf4;
    uint8_t code[24] = {0x01, 0xff, 0x11, 0xff}; /* add edi, edi; adc edi, edi: something to copy */
    struct vmc_x86_state *st = &r->st;

    memcpy(code + 4, a->bytes, a->n);
    code[4 + a->n] = 0xf4;
    cpu_rig_mode(r, a->bits, a->cpl);
    cpu_rig_code(r, CPU_RIG_TEXT, code, 5u + a->n);
    cpu_rig_code(r, KERNEL, &hlt, 1);
    st->gpr[VMC_RAX] = a->bits == 64 ? 231 : 252; /* exit_group(99) of Linux */
    st->gpr[VMC_RBX] = a->bits == 64 ? GOOD : 99;
    st->gpr[VMC_RDI] = 33; /* 99 by the time */
    st->msr.star = 0x0008000800000000ull;
    st->msr.lstar = KERNEL;
    (void)cpu_rig_run(r, 10000);
}

static void test_instructions(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof(attempts) / sizeof(attempts[0]); k++) {
        const struct attempt *a = &attempts[k];
        for (unsigned i = 0; i < 2; i++) {
            try_code(&rig[i], a);
            if (a->vector >= 0 && !trapped(&rig[i], a->vector))
                fail_msg("%s: at 0x%llx", a->name, (unsigned long long)rig[i].st.rip);
            if (a->vector == NOTHING && rig[i].st.rip != KERNEL + 1)
                fail_msg("%s: not in the guest's handler", a->name);
            if (a->vector == ANY && !trapped(&rig[i], UD) && !trapped(&rig[i], GP))
                fail_msg("%s: no exception", a->name);
        }
        agree(a->name);
    }
}

/* ---- addresses ------------------------------------------------------------------------------- */

/*
 * Eight rounds; the last two with RBX, an address that was good so far, replaced by one of the
 * host. By then the code is translated and the TLB warm, and the loop in its second copy.
 */
struct access {
    const char *name;
    uint8_t cpl;
    bool target; /* RBX is where control goes: not in the first rounds */
    uint8_t n, bytes[16];
};

static const struct access accesses[] = {
    {"load", 3, false, 3, {0x48, 0x8b, 0x03}},
    {"load in a kernel", 0, false, 3, {0x48, 0x8b, 0x03}},
    {"store", 3, false, 3, {0x48, 0x89, 0x03}},
    {"store in a kernel", 0, false, 3, {0x48, 0x89, 0x03}},
    {"store of a byte", 0, false, 2, {0x88, 0x03}},
    {"load with an index", 0, false, 4, {0x48, 0x8b, 0x04, 0x33}},
    {"store with an index", 0, false, 4, {0x48, 0x89, 0x04, 0x33}},
    {"group", 0, false, 8, {0x48, 0x89, 0x43, 0x08, 0x48, 0x89, 0x43, 0x10}},
    {"read-modify-write", 0, false, 3, {0x48, 0x01, 0x03}},
    {"locked", 0, false, 5, {0xf0, 0x48, 0x0f, 0xc1, 0x03}},
    {"compare and exchange", 0, false, 5, {0xf0, 0x48, 0x0f, 0xb1, 0x03}},
    {"SSE", 0, false, 3, {0x0f, 0x11, 0x03}},
    {"SSE, aligned", 0, false, 3, {0x0f, 0x29, 0x03}},
    {"x87", 0, false, 2, {0xdd, 0x1b}},
    {"push of memory", 0, false, 3, {0xff, 0x33, 0x58}},
    /* Instructions as long as they may be, with another address in them. */
    {"many LOCKs",
     3,
     false,
     15,
     {0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0x01, 0x03}},
    {"many REPs",
     3,
     false,
     15,
     {0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0x8b, 0x03}},
    {"many REPNEs",
     3,
     false,
     15,
     {0xf2, 0xf2, 0xf2, 0xf2, 0xf2, 0xf2, 0xf2, 0xf2, 0xf2, 0xf2, 0xf2, 0xf2, 0xf2, 0x89, 0x03}},
    {"many prefixes for the size",
     3,
     false,
     15,
     {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x81, 0x03, 0x11, 0x22}},
    {"stos",
     0,
     false,
     14,
     {0x48, 0x89, 0xdf, 0xb9, 5, 0, 0, 0, 0xf3, 0xaa, 0x90, 0x90, 0x90, 0x90}},
    {"movs to",
     0,
     false,
     14,
     {0x48, 0x89, 0xdf, 0xb9, 5, 0, 0, 0, 0x48, 0x89, 0xee, 0xf3, 0xa4, 0x90}},
    {"movs from",
     0,
     false,
     14,
     {0x48, 0x89, 0xde, 0xb9, 5, 0, 0, 0, 0x48, 0x89, 0xef, 0xf3, 0xa4, 0x90}},
    {"stack", 3, false, 7, {0x48, 0x8d, 0x63, 0x40, 0x50, 0x58, 0x90}},
    {"stack of a call", 3, false, 10, {0x48, 0x8d, 0x63, 0x40, 0xe8, 0, 0, 0, 0, 0x58}},
    {"leave", 3, false, 4, {0x48, 0x89, 0xdd, 0xc9}},
    {"jump", 3, true, 2, {0xff, 0xe3}},
    {"jump in a kernel", 0, true, 2, {0xff, 0xe3}},
    {"call", 3, true, 2, {0xff, 0xd3}},
    {"return", 3, true, 2, {0x53, 0xc3}},
    /* mov ecx, GS_BASE; mov eax, ebx; mov rdx, rbx; shr rdx, 32; wrmsr */
    {"base of GS",
     0,
     false,
     15,
     {0xb9, 1, 1, 0, 0xc0, 0x89, 0xd8, 0x48, 0x89, 0xda, 0x48, 0xc1, 0xea, 0x20, 0x0f}},
};

/* What the table has no room for. */
static size_t more(const struct access *a, uint8_t *code)
{
    static const uint8_t gs[] = {0x30, 0x65, 0x48, 0x89, 0x04, 0x25, 0, 0, 0, 0}; /* mov gs:[0] */

    if (strcmp(a->name, "base of GS") != 0)
        return 0;
    memcpy(code, gs, sizeof(gs));
    return sizeof(gs);
}

static void try_access(struct cpu_rig *r, const struct access *a, const void *host)
{
    /* l: cmp r12d, 2; cmove rbx, r13; (attempt;) dec r12d; jnz l; hlt */
    static const uint8_t head[] = {0x41, 0x83, 0xfc, 0x02, 0x49, 0x0f, 0x44, 0xdd};
    /* jnz n: the attempt is a jump, made in this round only */
    static const uint8_t tail[] = {0x41, 0xff, 0xcc, 0x75, 0, 0xf4};
    struct vmc_x86_state *st = &r->st;
    uint8_t code[80];
    size_t n = sizeof(head);

    memcpy(code, head, n);
    if (a->target) {
        code[n++] = 0x75;
        code[n++] = a->n;
    }
    memcpy(code + n, a->bytes, a->n);
    n += a->n;
    n += more(a, code + n);
    memcpy(code + n, tail, sizeof(tail));
    code[n + 4] = (uint8_t)(0 - (n + 5));
    n += sizeof(tail);
    cpu_rig_mode(r, 64, a->cpl);
    memset(r->ram + CPU_RIG_DATA, 0x11, 0x1000);
    cpu_rig_code(r, CPU_RIG_TEXT, code, n);
    st->gpr[VMC_RAX] = VALUE;
    st->gpr[VMC_RBX] = GOOD;
    st->gpr[VMC_RBP] = GOOD + 0x80;
    st->gpr[VMC_RSI] = 0;
    st->gpr[VMC_R12] = ROUNDS;
    st->gpr[VMC_R13] = (uintptr_t)host;
    (void)cpu_rig_run(r, 10000);
}

/* Was anything translated at all? */
static void expect_translations(struct cpu_rig *r)
{
#ifndef VMC_SANITIZED /* such builds have no translator */
    assert_true(cpu_rig_stat(r, "bt.translated") > 100);
#else
    (void)r;
#endif
}

static void test_addresses(void **state)
{
    const void *hosts[] = {secret + 16, rig[1].ev, rig[1].ram + GOOD, &rig, state};

    (void)state;
    for (size_t k = 0; k < sizeof(accesses) / sizeof(accesses[0]); k++) {
        const struct access *a = &accesses[k];
        for (size_t h = 0; h < sizeof(hosts) / sizeof(hosts[0]); h++) {
            const void *host = (const void *)((uintptr_t)hosts[h] & ~(uintptr_t)15);
            for (unsigned i = 0; i < 2; i++) {
                try_access(&rig[i], a, host);
                if (!trapped(&rig[i], VMC_VEC_PF))
                    fail_msg("%s: no page fault but 0x%llx", a->name,
                             (unsigned long long)rig[i].st.rip);
            }
            agree(a->name);
            secret_is_kept(a->name);
        }
    }
    expect_translations(&rig[1]);
}

/* ---- the end of RAM -------------------------------------------------------------------------- */

/* A loop that stores beyond the end of RAM, by steps that let operands lie across it: what lies
   there is devices, not the memory of the host behind the guest's. */
static void test_end(void **state)
{
    static const uint8_t steps[] = {1, 2, 3, 4, 7, 8};
    uint8_t code[] = {
        0x48, 0x89, 0x07,    /* l: mov [rdi], rax */
        0x48, 0x83, 0xc7, 0, /* add rdi, step */
        0x41, 0xff, 0xcc,    /* dec r12d */
        0x75, 0xf4,          /* jnz l */
        0xf4,                /* hlt */
    };

    (void)state;
    for (size_t k = 0; k < sizeof(steps); k++) {
        unsigned rounds = 0x2000 / steps[k];
        code[6] = steps[k];
        for (unsigned i = 0; i < 2; i++) {
            struct cpu_rig *r = &rig[i];
            cpu_rig_mode(r, 64, 0);
            cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(code));
            memset(r->ram + CPU_RIG_RAM - 0x1000, 0, 0x1000);
            r->mmio_writes = 0;
            r->st.gpr[VMC_RDI] = CPU_RIG_RAM - 0x1000;
            r->st.gpr[VMC_RAX] = VALUE;
            r->st.gpr[VMC_R12] = rounds;
            assert_int_equal(cpu_rig_run(r, 0), VMC_EXIT_IDLE);
            assert_true(r->mmio_writes >= 0x1000u / steps[k]);
        }
        assert_int_equal(rig[0].mmio_writes, rig[1].mmio_writes);
        agree("end of RAM");
    }
}

/* The same through a segment that begins in front of the end of RAM, up to its limit. */
static void test_segment(void **state)
{
    static const uint8_t steps[] = {1, 2, 3, 4, 7};
    uint8_t code[] = {
        0x89, 0x07,    /* l: mov [edi], eax */
        0x83, 0xc7, 0, /* add edi, step */
        0x49,          /* dec ecx */
        0x75, 0xf8,    /* jnz l */
        0xf4,          /* hlt */
    };

    (void)state;
    for (size_t k = 0; k < sizeof(steps); k++) {
        code[4] = steps[k];
        for (unsigned i = 0; i < 2; i++) {
            struct cpu_rig *r = &rig[i];
            cpu_rig_mode(r, 32, 0);
            cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(code));
            memset(r->ram + CPU_RIG_RAM - 0x1000, 0, 0x1000);
            r->mmio_writes = 0;
            r->st.seg[VMC_DS].base = CPU_RIG_RAM - 0xffd;
            r->st.seg[VMC_DS].limit = 0x17ff;
            r->st.seg[VMC_DS].attr &= ~(uint32_t)VMC_SEG_G;
            r->st.gpr[VMC_RDI] = 0;
            r->st.gpr[VMC_RCX] = 0x4000;
            assert_int_equal(cpu_rig_run(r, 0), VMC_EXIT_IDLE);
            assert_true(trapped(r, VMC_VEC_GP));
            assert_int_equal(r->st.gpr[VMC_RDI], (0x17fc / steps[k] + 1) * steps[k]);
            assert_true(r->mmio_writes >= 0x7f0u / steps[k]);
        }
        assert_int_equal(rig[0].mmio_writes, rig[1].mmio_writes);
        agree("end of RAM by a segment");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_instructions, setup_secret, teardown),
        cmocka_unit_test_setup_teardown(test_addresses, setup_secret, teardown),
        cmocka_unit_test_setup_teardown(test_end, setup_secret, teardown),
        cmocka_unit_test_setup_teardown(test_segment, setup_secret, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
