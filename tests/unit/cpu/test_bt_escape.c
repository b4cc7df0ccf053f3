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

/* ---- what is emitted of an instruction ------------------------------------------------------- */

/* Host code of the instruction at CPU_RIG_TEXT + 4. */
static struct {
    size_t n;
    uint8_t bytes[1024];
} emitted;

static void translated(void *ctx, uint32_t vcpu, const struct vmc_translation *t)
{
    const uint8_t *host = t->host;

    (void)ctx;
    (void)vcpu;
    for (uint32_t k = 0; k < t->pieces; k++) {
        const struct vmc_code_piece *p = &t->piece[k];
        size_t end = k + 1 < t->pieces ? p[1].offset : t->bytes;
        if (p->gva != CPU_RIG_TEXT + 4 || p->kind != VMC_CODE_BODY)
            continue;
        emitted.n = end - p->offset;
        assert_true(emitted.n <= sizeof(emitted.bytes));
        memcpy(emitted.bytes, host + p->offset, emitted.n);
    }
}

static int setup_seen(void **state)
{
    struct vmc_soft_config soft = {
        .size = sizeof(soft), .flags = VMC_SOFT_TRANSLATE_ALL, .translated = translated};

    (void)state;
    cpu_rig_create(&rig[0], 0);
    cpu_rig_create_with(&rig[1], 0, &soft);
    return 0;
}

/* Both run it; false: it is not in translated code. */
static bool see(const struct attempt *a)
{
    emitted.n = 0;
    for (unsigned i = 0; i < 2; i++)
        try_code(&rig[i], a);
    agree(a->name);
    return emitted.n != 0;
}

static bool has(const uint8_t *bytes, size_t n)
{
    for (size_t k = 0; k + n <= emitted.n; k++)
        if (memcmp(emitted.bytes + k, bytes, n) == 0)
            return true;
    return false;
}

/* Of the guest's prefixes the host sees those that mean something, each once. */
static void test_prefixes(void **state)
{
    static const struct {
        struct attempt a;
        uint8_t n, host[8]; /* all that is emitted; n = 0: no REP */
    } t[] = {
        {{"rep mov", 64, 3, 0, 3, {0xf3, 0x89, 0xc8}}, 2, {0x89, 0xc8}},
        {{"repne, fs, 67, mov", 64, 3, 0, 5, {0x64, 0x67, 0xf2, 0x89, 0xc8}}, 2, {0x89, 0xc8}},
        {{"66 twice", 64, 3, 0, 5, {0x66, 0x2e, 0x66, 0x89, 0xc8}}, 3, {0x66, 0x89, 0xc8}},
        {{"rep, REX", 64, 3, 0, 5, {0xf3, 0x48, 0x0f, 0xb6, 0xc1}}, 4, {0x48, 0x0f, 0xb6, 0xc1}},
        {{"gs bswap", 64, 3, 0, 3, {0x65, 0x0f, 0xc8}}, 2, {0x0f, 0xc8}},
        {{"xacquire xchg", 64, 3, 0, 3, {0xf2, 0x87, 0xc8}}, 2, {0x87, 0xc8}},
        {{"of repne and rep the last", 64, 3, 0, 6, {0xf2, 0xf3, 0xf3, 0x0f, 0xb8, 0xc1}},
         4,
         {0xf3, 0x0f, 0xb8, 0xc1}},
        {{"67 lea", 64, 3, 0, 4, {0x67, 0x8d, 0x04, 0x08}}, 4, {0x67, 0x8d, 0x04, 0x08}},
        {{"gs lea", 64, 3, 0, 5, {0x65, 0x48, 0x8d, 0x04, 0x08}}, 4, {0x48, 0x8d, 0x04, 0x08}},
        {{"67 movaps", 64, 3, 0, 4, {0x67, 0x0f, 0x28, 0xc1}}, 3, {0x0f, 0x28, 0xc1}},
        {{"66 addsd", 64, 3, 0, 5, {0x66, 0xf2, 0x0f, 0x5a, 0xc1}},
         5,
         {0x66, 0xf2, 0x0f, 0x5a, 0xc1}},
        {{"67 rorx", 64, 3, 0, 7, {0x67, 0xc4, 0xe3, 0x7b, 0xf0, 0xc1, 5}},
         6,
         {0xc4, 0xe3, 0x7b, 0xf0, 0xc1, 5}},
        {{"rep mov of 32-bit code", 32, 3, 0, 4, {0xf3, 0x65, 0x89, 0xc8}}, 2, {0x89, 0xc8}},
        {{"rep inc of 32-bit code", 32, 3, 0, 2, {0xf3, 0x41}}, 2, {0xff, 0xc1}},
        {{"xrelease mov", 64, 3, 0, 3, {0xf3, 0x89, 0x03}}, 0, {0}},
        {{"xacquire lock add", 64, 3, 0, 4, {0xf2, 0xf0, 0x01, 0x03}}, 0, {0}},
        {{"lock xacquire cmpxchg", 64, 3, 0, 5, {0xf0, 0xf2, 0x0f, 0xb1, 0x0b}}, 0, {0}},
        {{"xrelease mov of 32-bit code", 32, 3, 0, 3, {0xf3, 0x89, 0x04, 0x24}}, 0, {0}},
    };

    (void)state;
    for (size_t k = 0; k < sizeof(t) / sizeof(t[0]); k++) {
#ifdef VMC_SANITIZED /* such builds have no translator */
        assert_false(see(&t[k].a));
#else
        if (!see(&t[k].a))
            fail_msg("%s: not translated", t[k].a.name);
        if (t[k].n != 0 && (emitted.n < t[k].n ||
                            memcmp(emitted.bytes + emitted.n - t[k].n, t[k].host, t[k].n) != 0))
            fail_msg("%s: emitted otherwise", t[k].a.name);
        if (t[k].n != 0 && emitted.n > t[k].n)
            fail_msg("%s: more than that", t[k].a.name);
        for (size_t i = 0; t[k].n == 0 && i + 1 < emitted.n; i++) {
            const uint8_t *b = emitted.bytes + i;
            if ((b[0] == 0xf2 || b[0] == 0xf3) &&
                (b[1] == 0xf0 || (b[1] & 0xf0) == 0x40 || b[1] == t[k].a.bytes[t[k].a.n - 2]))
                fail_msg("%s: with its hint", t[k].a.name);
        }
#endif
    }
}

/*
 * Instructions that some hosts have and others not, or that no list has: whatever the host is, it
 * never sees them, as a guest cannot be allowed what they do. What they are to the guest is the
 * interpreter's business.
 */
static void test_unknown(void **state)
{
    static const struct attempt t[] = {
        {"wrpkru", 64, 0, ANY, 3, {0x0f, 0x01, 0xef}},
        {"rdpkru", 64, 0, ANY, 3, {0x0f, 0x01, 0xee}},
        {"xbegin", 64, 0, ANY, 6, {0xc7, 0xf8, 0x00, 0x00, 0x00, 0x00}},
        {"xabort", 64, 0, ANY, 3, {0xc6, 0xf8, 0x01}},
        {"xend", 64, 0, ANY, 3, {0x0f, 0x01, 0xd5}},
        {"xtest", 64, 0, ANY, 3, {0x0f, 0x01, 0xd6}},
        {"incsspq", 64, 0, ANY, 5, {0xf3, 0x48, 0x0f, 0xae, 0xe8}},
        {"rdsspq", 64, 0, ANY, 5, {0xf3, 0x48, 0x0f, 0x1e, 0xc8}},
        {"wrssq", 64, 0, ANY, 5, {0x48, 0x0f, 0x38, 0xf6, 0x03}},
        {"wrussq", 64, 0, ANY, 6, {0x66, 0x48, 0x0f, 0x38, 0xf5, 0x03}},
        {"setssbsy", 64, 0, ANY, 4, {0xf3, 0x0f, 0x01, 0xe8}},
        {"saveprevssp", 64, 0, ANY, 4, {0xf3, 0x0f, 0x01, 0xea}},
        {"rstorssp", 64, 0, ANY, 4, {0xf3, 0x0f, 0x01, 0x2b}},
        {"clrssbsy", 64, 0, ANY, 4, {0xf3, 0x0f, 0xae, 0x33}},
        {"endbr64", 64, 0, ANY, 4, {0xf3, 0x0f, 0x1e, 0xfa}},
        {"umonitor", 64, 0, ANY, 4, {0xf3, 0x0f, 0xae, 0xf0}},
        {"umwait", 64, 0, ANY, 4, {0xf2, 0x0f, 0xae, 0xf0}},
        {"tpause", 64, 0, ANY, 4, {0x66, 0x0f, 0xae, 0xf0}},
        {"movdiri", 64, 0, ANY, 4, {0x0f, 0x38, 0xf9, 0x03}},
        {"movdir64b", 64, 0, ANY, 5, {0x66, 0x0f, 0x38, 0xf8, 0x03}},
        {"enqcmd", 64, 0, ANY, 5, {0xf2, 0x0f, 0x38, 0xf8, 0x03}},
        {"enqcmds", 64, 0, ANY, 5, {0xf3, 0x0f, 0x38, 0xf8, 0x03}},
        {"ptwrite", 64, 0, ANY, 4, {0xf3, 0x0f, 0xae, 0xe0}},
        {"rdpid", 64, 0, ANY, 4, {0xf3, 0x0f, 0xc7, 0xf8}},
        {"REX in front of rep", 64, 0, ANY, 5, {0x48, 0xf3, 0x0f, 0xb6, 0xc1}},
        {"cldemote", 64, 0, ANY, 3, {0x0f, 0x1c, 0x03}},
        {"serialize", 64, 0, ANY, 3, {0x0f, 0x01, 0xe8}},
        {"xsusldtrk", 64, 0, ANY, 4, {0xf2, 0x0f, 0x01, 0xe8}},
        {"uiret", 64, 0, ANY, 4, {0xf3, 0x0f, 0x01, 0xec}},
        {"testui", 64, 0, ANY, 4, {0xf3, 0x0f, 0x01, 0xed}},
        {"clui", 64, 0, ANY, 4, {0xf3, 0x0f, 0x01, 0xee}},
        {"stui", 64, 0, ANY, 4, {0xf3, 0x0f, 0x01, 0xef}},
        {"senduipi", 64, 0, ANY, 4, {0xf3, 0x0f, 0xc7, 0xf0}},
        {"urdmsr", 64, 0, ANY, 5, {0xf2, 0x0f, 0x38, 0xf8, 0xc1}},
        {"uwrmsr", 64, 0, ANY, 5, {0xf3, 0x0f, 0x38, 0xf8, 0xc1}},
        {"urdmsr, immediate",
         64,
         0,
         ANY,
         9,
         {0xc4, 0xe7, 0x7b, 0xf8, 0xc0, 0x00, 0x00, 0x00, 0x00}},
        {"hreset", 64, 0, ANY, 6, {0xf3, 0x0f, 0x3a, 0xf0, 0xc0, 0x00}},
        {"loadiwkey", 64, 0, ANY, 5, {0xf3, 0x0f, 0x38, 0xdc, 0xc1}},
        {"aesenc128kl", 64, 0, ANY, 5, {0xf3, 0x0f, 0x38, 0xdc, 0x03}},
        {"encodekey128", 64, 0, ANY, 5, {0xf3, 0x0f, 0x38, 0xfa, 0xc1}},
        {"aadd", 64, 0, ANY, 4, {0x0f, 0x38, 0xfc, 0x03}},
        {"aand", 64, 0, ANY, 5, {0x66, 0x0f, 0x38, 0xfc, 0x03}},
        {"axor", 64, 0, ANY, 5, {0xf3, 0x0f, 0x38, 0xfc, 0x03}},
        {"cmpoxadd", 64, 0, ANY, 5, {0xc4, 0xe2, 0x61, 0xe0, 0x03}},
        {"ldtilecfg", 64, 0, ANY, 5, {0xc4, 0xe2, 0x78, 0x49, 0x03}},
        {"tilerelease", 64, 0, ANY, 5, {0xc4, 0xe2, 0x78, 0x49, 0xc0}},
        {"tilezero", 64, 0, ANY, 5, {0xc4, 0xe2, 0x7b, 0x49, 0xc0}},
        {"tdpbssd", 64, 0, ANY, 5, {0xc4, 0xe2, 0x6b, 0x5e, 0xc1}},
        {"tileloadd", 64, 0, ANY, 6, {0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x23}},
        {"vpdpbusd", 64, 0, ANY, 5, {0xc4, 0xe2, 0x71, 0x50, 0xc2}},
        {"vpmadd52luq", 64, 0, ANY, 5, {0xc4, 0xe2, 0xf1, 0xb4, 0xc2}},
        {"vbcstnebf162ps", 64, 0, ANY, 5, {0xc4, 0xe2, 0x7a, 0xb1, 0x03}},
        {"vsha512msg1", 64, 0, ANY, 5, {0xc4, 0xe2, 0x7f, 0xcc, 0xc1}},
        {"vaddps zmm", 64, 0, ANY, 6, {0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2}},
        {"EVEX of add", 64, 0, ANY, 6, {0x62, 0xf4, 0x7c, 0x18, 0x01, 0xc8}},
        {"push2", 64, 0, ANY, 6, {0x62, 0xf4, 0x7c, 0x18, 0xff, 0xf0}},
        {"REX2 add", 64, 0, ANY, 4, {0xd5, 0x00, 0x01, 0xc8}},
        {"REX2 of map 1", 64, 0, ANY, 4, {0xd5, 0x80, 0x28, 0x05}},
        {"jmpabs",
         64,
         0,
         ANY,
         11,
         {0xd5, 0x00, 0xa1, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00}},
        {"XOP blcfill", 64, 0, ANY, 5, {0x8f, 0xe9, 0x78, 0x01, 0xc8}},
        {"vfrczps", 64, 0, ANY, 5, {0x8f, 0xe9, 0x78, 0x80, 0xc1}},
        {"llwpcb", 64, 0, ANY, 5, {0x8f, 0xe9, 0x78, 0x12, 0xc0}},
        {"3DNow pfadd", 64, 0, ANY, 4, {0x0f, 0x0f, 0xc1, 0x9e}},
        {"femms", 64, 0, ANY, 2, {0x0f, 0x0e}},
        {"monitor", 64, 0, ANY, 3, {0x0f, 0x01, 0xc8}},
        {"mwait", 64, 0, ANY, 3, {0x0f, 0x01, 0xc9}},
        {"monitorx", 64, 0, ANY, 3, {0x0f, 0x01, 0xfa}},
        {"mwaitx", 64, 0, ANY, 3, {0x0f, 0x01, 0xfb}},
        {"clzero", 64, 0, ANY, 3, {0x0f, 0x01, 0xfc}},
        {"rdpru", 64, 0, ANY, 3, {0x0f, 0x01, 0xfd}},
        {"invlpgb", 64, 0, ANY, 3, {0x0f, 0x01, 0xfe}},
        {"tlbsync", 64, 0, ANY, 3, {0x0f, 0x01, 0xff}},
        {"mcommit", 64, 0, ANY, 4, {0xf3, 0x0f, 0x01, 0xfa}},
        {"rmpadjust", 64, 0, ANY, 4, {0xf3, 0x0f, 0x01, 0xfe}},
        {"pvalidate", 64, 0, ANY, 4, {0xf2, 0x0f, 0x01, 0xff}},
        {"ud0", 64, 0, ANY, 3, {0x0f, 0xff, 0xc1}},
        {"ud1", 64, 0, ANY, 3, {0x0f, 0xb9, 0xc1}},
        {"getsec", 64, 0, ANY, 2, {0x0f, 0x37}},
        {"pconfig", 64, 0, ANY, 3, {0x0f, 0x01, 0xc5}},
        {"enclv", 64, 0, ANY, 3, {0x0f, 0x01, 0xc0}},
        {"wbnoinvd", 64, 0, ANY, 3, {0xf3, 0x0f, 0x09}},
        {"prefetchit0", 64, 0, ANY, 7, {0x0f, 0x18, 0x3d, 0x00, 0x00, 0x00, 0x00}},
        {"movrs", 64, 0, ANY, 5, {0x48, 0x0f, 0x38, 0x8b, 0x03}},
        {"lock mov cr0", 64, 0, ANY, 4, {0xf0, 0x0f, 0x20, 0xc0}},
        {"salc", 64, 0, ANY, 1, {0xd6}},
        {"int1", 64, 0, ANY, 1, {0xf1}},
        {"82", 64, 0, ANY, 3, {0x82, 0xc0, 0x01}},
        {"82 of 32-bit code", 32, 0, ANY, 3, {0x82, 0xc0, 0x01}},
        {"salc of 32-bit code", 32, 0, ANY, 1, {0xd6}},
        {"bndmk", 64, 0, ANY, 4, {0xf3, 0x0f, 0x1b, 0x03}},
        {"bndcl", 64, 0, ANY, 4, {0xf3, 0x0f, 0x1a, 0x03}},
        {"bndmov", 64, 0, ANY, 4, {0x66, 0x0f, 0x1a, 0xc1}},
        {"andn, pp 66", 64, 0, ANY, 5, {0xc4, 0xe2, 0x71, 0xf2, 0xc1}},
        {"andn, L", 64, 0, ANY, 5, {0xc4, 0xe2, 0x74, 0xf2, 0xc1}},
        {"blsr, /0", 64, 0, ANY, 5, {0xc4, 0xe2, 0x70, 0xf3, 0xc1}},
        {"bzhi, pp F2 and L", 64, 0, ANY, 5, {0xc4, 0xe2, 0x77, 0xf5, 0xc1}},
        {"rorx, vvvv", 64, 0, ANY, 6, {0xc4, 0xe3, 0x73, 0xf0, 0xc1, 0x05}},
        {"rorx, pp 66", 64, 0, ANY, 6, {0xc4, 0xe3, 0x79, 0xf0, 0xc1, 0x05}},
        {"mulx, L", 64, 0, ANY, 5, {0xc4, 0xe2, 0x7f, 0xf6, 0xc1}},
        {"VEX behind REX", 64, 0, ANY, 6, {0x48, 0xc4, 0xe3, 0x70, 0xf2, 0xc1}},
        {"VEX behind 66", 64, 0, ANY, 6, {0x66, 0xc4, 0xe2, 0x70, 0xf2, 0xc1}},
        {"VEX behind F3", 64, 0, ANY, 6, {0xf3, 0xc4, 0xe2, 0x70, 0xf2, 0xc1}},
        {"VEX behind LOCK", 64, 0, ANY, 6, {0xf0, 0xc4, 0xe2, 0x70, 0xf2, 0xc1}},
        {"VEX of map 7", 64, 0, ANY, 5, {0xc4, 0xe7, 0x78, 0xf0, 0xc1}},
        {"VEX of map 0", 64, 0, ANY, 5, {0xc4, 0xe0, 0x78, 0xf0, 0xc1}},
        {"cmpxchg8b of registers", 64, 0, ANY, 4, {0xf0, 0x0f, 0xc7, 0xc8}},
        {"lock of a register", 64, 0, ANY, 3, {0xf0, 0x01, 0xc8}},
        {"lock cmp", 64, 0, ANY, 3, {0xf0, 0x39, 0x03}},
        {"lock mov", 64, 0, ANY, 3, {0xf0, 0x89, 0x03}},
        {"lock nop", 64, 0, ANY, 4, {0xf0, 0x0f, 0x1f, 0x00}},
        {"lock movups", 64, 0, ANY, 4, {0xf0, 0x0f, 0x10, 0x03}},
        {"lock fld", 64, 0, ANY, 3, {0xf0, 0xd9, 0x03}},
        {"gather", 64, 0, ANY, 6, {0xc4, 0xe2, 0x71, 0x92, 0x04, 0x13}},
        {"maskmovdqu", 64, 0, ANY, 4, {0x66, 0x0f, 0xf7, 0xc1}},
        {"vmaskmovps", 64, 0, ANY, 5, {0xc4, 0xe2, 0x71, 0x2e, 0x03}},
        {"mov cr8", 64, 0, ANY, 4, {0x44, 0x0f, 0x20, 0xc0}},
        {"mov from a test register", 64, 0, ANY, 3, {0x0f, 0x24, 0xc0}},
        {"lea of a register", 64, 0, ANY, 2, {0x8d, 0xc0}},
        {"bound as EVEX", 64, 0, ANY, 6, {0x62, 0xf1, 0xfe, 0x08, 0x58, 0xc2}},
        {"xsave", 64, 0, ANY, 3, {0x0f, 0xae, 0x23}},
        {"xrstor", 64, 0, ANY, 3, {0x0f, 0xae, 0x2b}},
        {"fxrstor", 64, 0, ANY, 3, {0x0f, 0xae, 0x0b}},
        {"ldmxcsr", 64, 0, ANY, 3, {0x0f, 0xae, 0x13}},
        {"vldmxcsr", 64, 0, ANY, 4, {0xc5, 0xf8, 0xae, 0x13}},
        {"fldenv", 64, 0, ANY, 2, {0xd9, 0x23}},
        {"frstor", 64, 0, ANY, 2, {0xdd, 0x23}},
        {"fldcw", 64, 0, ANY, 2, {0xd9, 0x2b}},
        {"sysenter of 32-bit code", 32, 0, ANY, 2, {0x0f, 0x34}},
        {"les", 32, 0, ANY, 2, {0xc4, 0x03}},
    };

    (void)state;
    for (size_t k = 0; k < sizeof(t) / sizeof(t[0]); k++)
        for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
            struct attempt a = t[k];
            a.cpl = (uint8_t)cpl;
            if (see(&a) && has(a.bytes, a.n))
                fail_msg("%s: the host executes it", a.name);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_instructions, setup_secret, teardown),
        cmocka_unit_test_setup_teardown(test_addresses, setup_secret, teardown),
        cmocka_unit_test_setup_teardown(test_end, setup_secret, teardown),
        cmocka_unit_test_setup_teardown(test_segment, setup_secret, teardown),
        cmocka_unit_test_setup_teardown(test_prefixes, setup_seen, teardown),
        cmocka_unit_test_setup_teardown(test_unknown, setup_seen, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
