/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * System instructions in translated code against the interpreter: SYSCALL and SYSRET with every
 * reason to fault or to do something unusual, random sequences of the others at CPL 0 and 3, and
 * interrupts that wait for IF. The same state, stack and count must come out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define PAIR_FLAGS VMC_ENGINE_VIRTUAL_TIME
#include "cpu_pair.h"

#define KERNEL (CPU_RIG_TEXT + 0x2000u)
#define CASES  3000u
#define ENOUGH 20000u /* instructions; the translator does not begin with few */

static bool same(const char *what, uint64_t a, uint64_t b, unsigned k)
{
    if (a == b)
        return true;
    print_error("case %u: %s is 0x%llx, not 0x%llx\n", k, what, (unsigned long long)b,
                (unsigned long long)a);
    return false;
}

/* The two rigs agree. */
static void compare(unsigned k)
{
    const struct vmc_x86_state *a = &rig[0].st, *b = &rig[1].st;
    char name[16] = "register 00";
    bool ok = same("exit", rig[0].exit.kind, rig[1].exit.kind, k);

    for (unsigned r = 0; r < 16; r++) {
        name[9] = (char)('0' + r / 10);
        name[10] = (char)('0' + r % 10);
        ok = same(name, a->gpr[r], b->gpr[r], k) && ok;
    }
    ok = same("rip", a->rip, b->rip, k) && ok;
    ok = same("rflags", a->rflags, b->rflags, k) && ok;
    ok = same("cr0", a->cr0, b->cr0, k) && ok;
    ok = same("cr4", a->cr4, b->cr4, k) && ok;
    ok = same("retired", rig[0].exit.retired, rig[1].exit.retired, k) && ok;
    for (unsigned s = 0; s < VMC_SREGS; s++) {
        ok = same("selector", a->seg[s].selector, b->seg[s].selector, k) && ok;
        ok = same("base", a->seg[s].base, b->seg[s].base, k) && ok;
        ok = same("limit", a->seg[s].limit, b->seg[s].limit, k) && ok;
        ok = same("attributes", a->seg[s].attr, b->seg[s].attr, k) && ok;
    }
    ok = same("kernel_gs_base", a->msr.kernel_gs_base, b->msr.kernel_gs_base, k) && ok;
    if (!ok || memcmp(rig[0].ram + CPU_RIG_STACK - 0x2000, rig[1].ram + CPU_RIG_STACK - 0x2000,
                      0x4000) != 0)
        fail_msg("case %u differs", k);
}

/* ---- SYSCALL and SYSRET ---------------------------------------------------------------------- */

/* Four times SYSCALL, with flags of its own each time. */
static const uint8_t user[] = {
    0xb9, 4,    0,    0, 0, /* mov ecx, 4 */
    0x89, 0xcb,             /* l: mov ebx, ecx */
    0x01, 0xd0,             /* add eax, edx */
    0x0f, 0x05,             /* syscall */
    0x48, 0x11, 0xc6,       /* adc rsi, rax */
    0x89, 0xd9,             /* mov ecx, ebx */
    0xff, 0xc9,             /* dec ecx */
    0x75, 0xf1,             /* jnz l */
    0xf4,                   /* hlt: #GP */
};
/* Counts, and at its second call changes RCX and R11 as R8, R9 say. */
static const uint8_t kernel[] = {
    0x49, 0xff, 0xc2,    /* inc r10 */
    0x49, 0x83, 0xfa, 2, /* cmp r10, 2 */
    0x75, 6,             /* jne r */
    0x4c, 0x31, 0xc1,    /* xor rcx, r8 */
    0x4d, 0x31, 0xcb,    /* xor r11, r9 */
    0x48, 0x0f, 0x07,    /* r: sysretq */
};

static uint64_t some_flags(void)
{
    static const uint64_t flag[] = {VMC_FLAG_TF, VMC_FLAG_IF, VMC_FLAG_DF, VMC_FLAG_NT,
                                    VMC_FLAG_RF, VMC_FLAG_AC, VMC_FLAG_ID, VMC_FLAG_IOPL,
                                    VMC_FLAG_OF, VMC_FLAG_CF, VMC_FLAG_ZF, VMC_FLAG_SF,
                                    VMC_FLAG_PF, VMC_FLAG_AF, 1ull << 40};
    uint64_t v = 0;

    for (unsigned n = rnd(4); n > 0; n--)
        v |= flag[rnd(sizeof(flag) / sizeof(flag[0]))];
    return v;
}

static void syscall_case(struct cpu_rig *r, unsigned k)
{
    struct vmc_x86_state *st = &r->st;

    seed = k;
    cpu_rig_mode(r, 64, 3);
    memset(r->ram + CPU_RIG_STACK - 0x2000, 0, 0x4000);
    cpu_rig_code(r, CPU_RIG_TEXT, user, sizeof(user));
    cpu_rig_code(r, KERNEL, kernel, sizeof(kernel));
    r->irq = -1;
    st->gpr[VMC_RAX] = (uint64_t)rnd(1u << 24) << 40 | rnd(1u << 24) << 8;
    st->gpr[VMC_RDX] = (uint64_t)rnd(1u << 24) << 8;
    st->msr.star = (uint64_t)(rnd(4) != 0 ? 0x00080008u : rnd(1u << 24) << 8 | rnd(256)) << 32;
    st->msr.lstar = KERNEL;
    st->msr.sfmask = rnd(2) != 0 ? 0x257fd5 : some_flags();
    st->rflags |= some_flags() & 0x24fed5;
    if (rnd(3) == 0)
        st->gpr[VMC_R9] = some_flags();
    if (rnd(4) == 0)
        st->gpr[VMC_R8] = rnd(2) != 0 ? 1ull << (40 + rnd(24)) : 4;
    if (rnd(16) == 0)
        st->efer &= ~VMC_EFER_SCE;
    if (rnd(16) == 0)
        st->cr0 |= VMC_CR0_AM;
    if (rnd(8) == 0) { /* an interrupt that waits, or a window */
        r->irq = 0x41;
        r->ops->irq_notify(r->ev);
    }
    (void)cpu_rig_run(r, ENOUGH);
}

static void test_syscall(void **state)
{
    (void)state;
    for (unsigned k = 0; k < CASES; k++) {
        syscall_case(&rig[0], k);
        syscall_case(&rig[1], k);
        compare(k);
    }
}

/* ---- IRET ------------------------------------------------------------------------------------ */

/* Where IRET returns to: what flags it gave is added up. */
static const uint8_t returned[] = {
    0x9c, 0x59,       /* pushf; pop rcx */
    0x48, 0x01, 0xc8, /* add rax, rcx */
    0x0f, 0x05,       /* syscall */
};
/* Six times IRET. At the third call parts of the frame change, and perhaps a descriptor. */
static const uint8_t returns[] = {
    0x49, 0xff, 0xc2,                         /* inc r10 */
    0x49, 0x83, 0xfa, 6,                      /* cmp r10, 6 */
    0x74, 30,                                 /* je h */
    0x49, 0x83, 0xfa, 3,                      /* cmp r10, 3 */
    0x75, 12,                                 /* jne r */
    0x4c, 0x31, 0xc7,                         /* xor rdi, r8 */
    0x4c, 0x31, 0xce,                         /* xor rsi, r9 */
    0x49, 0x31, 0xec,                         /* xor r12, rbp */
    0x49, 0x31, 0x17,                         /* xor [r15], rdx */
    0x4c, 0x89, 0xf4,                         /* r: mov rsp, r14 */
    0x41, 0x54, 0x53, 0x56, 0x41, 0x55, 0x57, /* push r12, rbx, rsi, r13, rdi */
    0x48, 0xcf,                               /* iretq */
    0xf4,                                     /* h: hlt */
};

static void iret_case(struct cpu_rig *r, unsigned k)
{
    struct vmc_x86_state *st = &r->st;

    seed = 2000000 + k;
    bool outer = rnd(2) != 0;
    cpu_rig_mode(r, 64, 0);
    memset(r->ram + CPU_RIG_STACK - 0x2000, 0, 0x4000);
    cpu_rig_code(r, CPU_RIG_TEXT, returned, sizeof(returned));
    cpu_rig_code(r, KERNEL, returns, sizeof(returns));
    r->irq = -1;
    memset(st->gpr, 0, sizeof(st->gpr));
    st->rip = KERNEL;
    st->gpr[VMC_R14] = CPU_RIG_STACK - rnd(4) * 0x18; /* the frame may lie in two pages */
    st->gpr[VMC_RBX] = CPU_RIG_STACK + 0x1000 - rnd(64);
    st->gpr[VMC_RDI] = CPU_RIG_TEXT;
    st->gpr[VMC_RSI] = (some_flags() & ~(1ull << 40)) | VMC_FLAG_1;
    st->gpr[VMC_R12] = outer ? CPU_RIG_DS0 + 0x13u : rnd(2) != 0 ? CPU_RIG_DS0 : 0;
    st->gpr[VMC_R13] = outer ? 0x1b : 8;
    st->gpr[VMC_R15] = CPU_RIG_GDT + 8u + 8 * rnd(4);
    st->msr.star = 0x0008000800000000ull;
    st->msr.lstar = KERNEL;
    st->msr.sfmask = VMC_FLAG_TF | VMC_FLAG_NT | VMC_FLAG_AC | VMC_FLAG_IF;
    if (rnd(4) == 0)
        st->gpr[VMC_R8] = 1ull << rnd(64);
    if (rnd(4) == 0)
        st->gpr[VMC_R9] = some_flags();
    if (rnd(4) == 0)
        st->gpr[VMC_RBP] = 1u << rnd(16);
    if (rnd(3) == 0)
        st->gpr[VMC_RDX] = 1ull << rnd(64);
    if (rnd(4) == 0)
        st->seg[VMC_FS] = (struct vmc_segment){.base = 5, .selector = 3, .attr = VMC_SEG_UNUSABLE};
    if (rnd(8) == 0)
        st->rflags |= VMC_FLAG_NT;
    if (rnd(8) == 0) {
        r->irq = 0x41;
        r->ops->irq_notify(r->ev);
    }
    (void)cpu_rig_run(r, rnd(4) == 0 ? 4096 + rnd(60) : ENOUGH);
}

static void test_iret(void **state)
{
    (void)state;
    for (unsigned k = 0; k < CASES; k++) {
        iret_case(&rig[0], k);
        iret_case(&rig[1], k);
        compare(k);
    }
}

/* ---- sequences ------------------------------------------------------------------------------- */

struct piece {
    uint8_t n, bytes[14];
};

/* Three times a random sequence of these, so that the last two rounds run as one trace. */
static const struct piece pieces[] = {
    {1, {0xfb}},                                        /* sti */
    {1, {0xfa}},                                        /* cli */
    {1, {0xfb}},                                        /* sti */
    {2, {0xfb, 0xfa}},                                  /* sti; cli */
    {3, {0xfb, 0x90, 0xfa}},                            /* sti; nop; cli */
    {3, {0xfb, 0x89, 0x06}},                            /* sti; mov [rsi], eax */
    {2, {0x9c, 0x5b}},                                  /* pushf; pop rbx */
    {2, {0x9c, 0x9d}},                                  /* pushf; popf */
    {2, {0x53, 0x9d}},                                  /* push rbx; popf */
    {1, {0xfc}},                                        /* cld */
    {1, {0xfd}},                                        /* std */
    {9, {0xb8, 1, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2}},    /* cpuid 1 */
    {9, {0xb8, 0, 0, 0, 0x80, 0x89, 0xc1, 0x0f, 0xa2}}, /* cpuid 80000000, any subleaf */
    {9, {0xb8, 0xd, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2}},  /* cpuid d.0 */
    {4, {0x31, 0xc0, 0x0f, 0xa2}},                      /* cpuid 0 */
    {2, {0x0f, 0x31}},                                  /* rdtsc: of virtual time */
    {3, {0x0f, 0x01, 0xf9}},                            /* rdtscp */
    {3, {0x0f, 0xae, 0xe8}},                            /* lfence */
    {3, {0x0f, 0xae, 0xf0}},                            /* mfence */
    {3, {0x0f, 0xae, 0xf8}},                            /* sfence */
    {3, {0x0f, 0x20, 0xe0}},                            /* mov rax, cr4 */
    {3, {0x0f, 0x20, 0xc3}},                            /* mov rbx, cr0 */
    {3, {0x0f, 0x20, 0xda}},                            /* mov rdx, cr3 */
    {4, {0x41, 0x0f, 0x20, 0xd0}},                      /* mov r8, cr2 */
    {3, {0x0f, 0x20, 0xc9}},                            /* mov rcx, cr1: #UD */
    {13, {0x0f, 0x20, 0xe0, 0x48, 0x35, 4, 0, 0, 0, 0x0f, 0x22, 0xe0, 0x90}}, /* CR4.TSD */
    {13, {0x0f, 0x20, 0xe0, 0x48, 0x35, 0, 0, 4, 0, 0x0f, 0x22, 0xe0, 0x90}}, /* CR4.OSXSAVE */
    {2, {0x8c, 0xd8}},                                                        /* mov eax, ds */
    {3, {0x66, 0x8c, 0xd3}},                                                  /* mov bx, ss */
    {3, {0x41, 0x8c, 0xc8}},                                                  /* mov r8d, cs */
    {3, {0x48, 0x8c, 0xe2}},                                                  /* mov rdx, fs */
    {3, {0x0f, 0x01, 0xf8}},                                                  /* swapgs */
    {2, {0xe6, 0x80}},                                                        /* out 0x80, al */
    {2, {0xe4, 0x80}},                                                        /* in al, 0x80 */
    {2, {0x66, 0xed}},                                                        /* in ax, dx */
    {2, {0x48, 0xed}},                                  /* in eax, dx, with REX.W */
    {2, {0x48, 0xef}},                                  /* out dx, eax */
    {1, {0xee}},                                        /* out dx, al */
    {1, {0x9d}},                                        /* popf */
    {3, {0x53, 0x66, 0x9d}},                            /* push rbx; popfw */
    {7, {0xb9, 2, 1, 0, 0xc0, 0x0f, 0x32}},             /* rdmsr: KERNEL_GS_BASE */
    {7, {0xb9, 2, 1, 0, 0xc0, 0x0f, 0x30}},             /* wrmsr */
    {9, {0x31, 0xd2, 0xb9, 1, 1, 0, 0xc0, 0x0f, 0x30}}, /* wrmsr: GS_BASE */
    {7, {0xb9, 1, 1, 0, 0xc0, 0x0f, 0x32}},             /* rdmsr */
    {7, {0xb9, 0x10, 0, 0, 0, 0x0f, 0x32}},             /* rdmsr: TSC */
    {7, {0xb9, 0x77, 7, 7, 7, 0x0f, 0x32}},             /* rdmsr: unknown */
    {12, {0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32, 0x83, 0xf0, 1, 0x0f, 0x30}}, /* EFER.SCE */
    {10, {0x0f, 0x20, 0xc0, 0x48, 0x83, 0xf0, 8, 0x0f, 0x22, 0xc0}},       /* CR0.TS */
    {2, {0x0f, 0x06}},                                                     /* clts */
    {3, {0x0f, 0x58, 0xc1}},                                               /* addps xmm0, xmm1 */
    {5, {0x66, 0x48, 0x0f, 0x6e, 0xc0}},                                   /* movq xmm0, rax */
    {5, {0x66, 0x48, 0x0f, 0x7e, 0xc3}},                                   /* movq rbx, xmm0 */
    {4, {0xc5, 0xf8, 0x58, 0xc1}},                                         /* vaddps */
    {2, {0xd9, 0xe8}},                                                     /* fld1 */
    {3, {0x0f, 0x01, 0x3e}},                                               /* invlpg [rsi] */
    {6, {0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8}},                             /* mov cr3, cr3 */
    {4, {0x44, 0x0f, 0x22, 0xc0}},                                         /* mov cr8, rax */
    {4, {0x44, 0x0f, 0x20, 0xc0}},                                         /* mov rax, cr8 */
    {4, {0x8c, 0xd0, 0x8e, 0xd0}},                                         /* mov ss, ss */
    {4, {0x8c, 0xe0, 0x8e, 0xe0}},                                         /* mov fs, fs */
    {3, {0x0f, 0x01, 0xca}},                                               /* clac */
    {3, {0x0f, 0x01, 0xcb}},                                               /* stac */
    {2, {0x01, 0xd0}},                                                     /* add eax, edx */
    {3, {0x48, 0x11, 0xd8}},                                               /* adc rax, rbx */
    {2, {0x39, 0xd8}},                                                     /* cmp eax, ebx */
    {3, {0x0f, 0x94, 0xc1}},                                               /* setz cl */
    {2, {0xd1, 0xe0}},                                                     /* shl eax, 1 */
    {3, {0x48, 0x89, 0x06}},                                               /* mov [rsi], rax */
    {3, {0x48, 0x8b, 0x1e}},                                               /* mov rbx, [rsi] */
    {2, {0x54, 0x5c}},                                                     /* push rsp; pop rsp */
    {2, {0xf3, 0x90}},                                                     /* pause */
    {13, {0x0f, 0x20, 0xe0, 0x48, 0x35, 0, 0, 1, 0, 0x0f, 0x22, 0xe0, 0x90}}, /* CR4.FSGSBASE */
    {5, {0xf3, 0x48, 0x0f, 0xae, 0xc0}},                                      /* rdfsbase rax */
    {4, {0xf3, 0x0f, 0xae, 0xcb}},                                            /* rdgsbase ebx */
    {5, {0xf3, 0x48, 0x0f, 0xae, 0xd3}},                                      /* wrfsbase rbx */
    {4, {0xf3, 0x0f, 0xae, 0xd8}},                                            /* wrgsbase eax */
    {4, {0x48, 0x0f, 0xc7, 0x0e}},                                            /* cmpxchg16b [rsi] */
    {5, {0xf0, 0x48, 0x0f, 0xc7, 0x0e}},                                      /* with lock */
    {5, {0x48, 0x0f, 0xc7, 0x4e, 4}},                            /* cmpxchg16b [rsi + 4]: #GP */
    {4, {0x0f, 0xc7, 0x4e, 3}},                                  /* cmpxchg8b [rsi + 3] */
    {6, {0x65, 0xf0, 0x48, 0x0f, 0xc7, 0x0e}},                   /* lock cmpxchg16b gs:[rsi] */
    {4, {0x48, 0x0f, 0xa3, 0x06}},                               /* bt [rsi], rax */
    {4, {0x41, 0x0f, 0xa3, 0x16}},                               /* bt [r14], edx */
    {9, {0x81, 0xe3, 0xff, 0x0f, 0, 0, 0x0f, 0xab, 0x1e}},       /* and ebx, 4095; bts [rsi], ebx */
    {8, {0x48, 0x0f, 0xbe, 0xd2, 0x48, 0x0f, 0xb3, 0x16}},       /* movsx rdx, dl; btr [rsi], rdx */
    {9, {0x48, 0x0f, 0xbe, 0xd2, 0xf0, 0x48, 0x0f, 0xbb, 0x16}}, /* ...; lock btc [rsi], rdx */
    {8, {0x0f, 0xbe, 0xc9, 0xf0, 0x0f, 0xab, 0x4e, 2}}, /* movsx ecx, cl; lock bts [rsi + 2], ecx */
    {5, {0x65, 0x48, 0x0f, 0xa3, 0x06}},                /* bt gs:[rsi], rax */
    {4, {0x31, 0xd2, 0xf7, 0xf1}},                      /* xor edx, edx; div ecx */
    {5, {0x31, 0xd2, 0x48, 0xf7, 0xf3}},                /* xor edx, edx; div rbx */
    {3, {0x48, 0xf7, 0xf3}},                            /* div rbx */
    {5, {0x31, 0xd2, 0xf7, 0x76, 8}},                   /* xor edx, edx; div dword [rsi + 8] */
    {3, {0x99, 0xf7, 0xfb}},                            /* cdq; idiv ebx */
    {7, {0xf7, 0xd8, 0x99, 0xf7, 0xf9, 0xf7, 0xda}},    /* neg eax; cdq; idiv ecx; neg edx */
    {6, {0x48, 0x99, 0x48, 0xf7, 0x7e, 16}},            /* cqo; idiv qword [rsi + 16] */
    {9, {0x83, 0xcb, 0xff, 0x99, 0xf7, 0xfb, 0x83, 0xd0, 0}}, /* ebx = -1; idiv ebx; adc eax, 0 */
    {11, {0xb8, 0, 0, 0, 0x80, 0x99, 0x83, 0xcb, 0xff, 0xf7, 0xfb}}, /* INT_MIN / -1 */
};

static size_t make(uint8_t *code)
{
    size_t n = 0;

    for (unsigned k = 2 + rnd(10); k > 0; k--) {
        const struct piece *p = &pieces[rnd(sizeof(pieces) / sizeof(pieces[0]))];
        memcpy(code + n, p->bytes, p->n);
        n += p->n;
    }
    static const uint8_t dec[] = {0x41, 0xff, 0xcf};
    memcpy(code + n, dec, sizeof(dec)); /* dec r15d */
    n += sizeof(dec);
    int32_t back = -(int32_t)(n + 6);
    code[n] = 0x0f; /* jnz */
    code[n + 1] = 0x85;
    memcpy(code + n + 2, &back, 4);
    code[n + 6] = 0xf4; /* hlt */
    return n + 7;
}

static void sequence_case(struct cpu_rig *r, unsigned k, uint32_t rounds, uint64_t limit)
{
    struct vmc_x86_state *st = &r->st;
    uint8_t code[256];

    seed = 1000000 + k;
    cpu_rig_mode(r, 64, rnd(4) == 0 ? 3 : 0);
    memset(r->ram + CPU_RIG_STACK - 0x2000, 0, 0x4000);
    cpu_rig_code(r, CPU_RIG_TEXT, code, make(code));
    r->irq = -1;
    for (unsigned g = 0; g < 16; g++)
        st->gpr[g] = rnd(1u << 20);
    st->gpr[VMC_RSP] = CPU_RIG_STACK;
    st->gpr[VMC_RSI] = CPU_RIG_STACK + 0x100;
    st->gpr[VMC_R15] = rounds;
    st->rflags |= some_flags() & (VMC_FLAG_ARITH | VMC_FLAG_IF | VMC_FLAG_DF | VMC_FLAG_AC);
    st->seg[VMC_GS].base = 0x1234000;
    st->msr.kernel_gs_base = 0xffff800000001000ull;
    st->msr.tsc_aux = 7;
    if (rnd(3) == 0) {
        r->irq = 0x41;
        r->ops->irq_notify(r->ev);
    }
    (void)cpu_rig_run(r, limit);
}

static void test_sequences(void **state)
{
    (void)state;
    for (unsigned k = 0; k < CASES; k++) {
        sequence_case(&rig[0], k, 3, ENOUGH);
        sequence_case(&rig[1], k, 3, ENOUGH);
        compare(k);
    }
}

/* The same sequences for ever: each stops when its instructions are used up, to the very one. */
static void test_rounds(void **state)
{
    (void)state;
    for (unsigned k = 0; k < CASES / 3; k++) {
        sequence_case(&rig[0], CASES + k, UINT32_MAX, ENOUGH / 2 + k % 97);
        sequence_case(&rig[1], CASES + k, UINT32_MAX, ENOUGH / 2 + k % 97);
        compare(k);
    }
}

/* ---- jumps between global pages -------------------------------------------------------------- */

#define PAGES_LA 0x40000000u /* two pages of 4 KiB: the first jumps to the second and back */
#define PAGES_PD 0x200000u   /* page directory, page table, first page, two second ones */

static void put64(struct cpu_rig *r, uint64_t at, uint64_t v)
{
    cpu_rig_code(r, at, &v, sizeof(v));
}

/* The second page becomes another one, in turn, and flush tells the processor. */
static void pages_case(struct cpu_rig *r, const uint8_t flush[9], uint64_t first, uint64_t second)
{
    static const uint8_t from[] = {
        0x48, 0xff, 0xc0,                            /* l: inc rax */
        0xe9, 0xf8, 0x0f, 0,    0,                   /* jmp to the second page */
        0xff, 0xc9,                                  /* dec ecx */
        0x75, 0xf4,                                  /* jnz l */
        0x48, 0x89, 0x37,                            /* mov [rdi], rsi */
        0x49, 0x31, 0xdb,                            /* xor r11, rbx */
        0x4c, 0x31, 0xce,                            /* xor rsi, r9 */
        0x90, 0x90, 0x90, 0x90, 0x90,                /* 21: flush */
        0x90, 0x90, 0x90, 0x90, 0xb9, 0x20, 0, 0, 0, /* mov ecx, 32 */
        0x41, 0xff, 0xc8,                            /* dec r8d */
        0x75, 0xd8,                                  /* jnz l */
        0xf4,                                        /* hlt */
    };
    uint8_t code[sizeof(from)];
    uint64_t pml4e;

    cpu_rig_mode(r, 64, 0);
    memcpy(&pml4e, r->ram + r->st.cr3, sizeof(pml4e));
    put64(r, (pml4e & ~0xfffull) + 8, PAGES_PD | 7);
    put64(r, PAGES_PD, (PAGES_PD + 0x1000) | 7);
    put64(r, PAGES_PD + 0x1000, (PAGES_PD + 0x2000) | first);
    put64(r, PAGES_PD + 0x1008, (PAGES_PD + 0x3000) | second);
    memcpy(code, from, sizeof(from));
    memcpy(code + 21, flush, 9);
    cpu_rig_code(r, PAGES_PD + 0x2000, code, sizeof(code));
    for (unsigned k = 0; k < 2; k++) {
        uint8_t to[] = {0x48, 0x83, 0xc3, (uint8_t)(1 + 2 * k), /* add rbx, 1 or 3 */
                        0xe9, 0xff, 0xef, 0xff,
                        0xff}; /* jmp behind the jump */
        cpu_rig_code(r, PAGES_PD + 0x3000 + 0x1000 * k, to, sizeof(to));
    }
    memset(r->st.gpr, 0, sizeof(r->st.gpr));
    r->irq = -1;
    r->st.rip = PAGES_LA;
    r->st.gpr[VMC_RSP] = CPU_RIG_STACK;
    r->st.gpr[VMC_RCX] = 32;
    r->st.gpr[VMC_R8] = 40;
    r->st.gpr[VMC_RDI] = PAGES_PD + 0x1008;
    r->st.gpr[VMC_RSI] = (PAGES_PD + 0x4000) | second;
    r->st.gpr[VMC_R9] = 0x3000 ^ 0x4000;
    r->st.gpr[VMC_RDX] = PAGES_LA + 0x1000;
    assert_int_equal(cpu_rig_run(r, ENOUGH), VMC_EXIT_IDLE);
}

static void test_pages(void **state)
{
    static const uint8_t flush[3][9] = {
        {0x0f, 0x01, 0x3a, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90}, /* invlpg [rdx] */
        {0x41, 0x0f, 0x20, 0xda, 0x41, 0x0f, 0x22, 0xda, 0x90}, /* mov r10, cr3; mov cr3, r10 */
        {0x41, 0x0f, 0x20, 0xe2, 0x90, 0x41, 0x0f, 0x22, 0xe2}, /* mov r10, cr4; mov cr4, r10 */
    };
    /* Both global; none; one of them. What is global is left by a load of CR3 and CR4. */
    static const uint16_t bits[4][2] = {{0x103, 0x103}, {3, 3}, {0x103, 3}, {3, 0x103}};

    (void)state;
    for (unsigned k = 0; k < 12; k++) {
        for (unsigned i = 0; i < 2; i++)
            pages_case(&rig[i], flush[k % 3], bits[k / 3][0], bits[k / 3][1]);
        compare(k);
        if (k % 3 == 0) /* half of the rounds in each of the two */
            assert_int_equal(rig[1].st.gpr[VMC_RBX], 20 * 32 * (1 + 3));
    }
}

/* ---- INVLPG where a large page is ---------------------------------------------------------------
 */

#define LARGE_PD    0x200000u
#define LARGE_FRAME 0x400000u /* two large frames with functions */
#define LARGE_LA    0x40000000u
#define LARGE_EVERY 0x11000u /* functions lie so far from each other */

/* n functions of a large page are called, the page becomes another one, INVLPG, and so on. */
static void large_case(struct cpu_rig *r, uint8_t n, uint64_t flush_la)
{
    uint8_t code[] = {
        0x48, 0xb8, 0,    0,    0,    0x40, 0, 0, 0, 0, /* l: mov rax, LARGE_LA */
        0xb9, n,    0,    0,    0,                      /* mov ecx, n */
        0xff, 0xd0,                                     /* c: call rax */
        0x48, 0x05, 0,    0x10, 1,    0,                /* add rax, LARGE_EVERY */
        0xff, 0xc9, 0x75, 0xf4,                         /* dec ecx; jnz c */
        0x48, 0x89, 0x37,                               /* mov [rdi], rsi */
        0x4c, 0x31, 0xce,                               /* xor rsi, r9 */
        0x0f, 0x01, 0x3a,                               /* invlpg [rdx] */
        0x41, 0xff, 0xc8, 0x75, 0xd7, 0xf4,             /* dec r8d; jnz l; hlt */
    };
    uint64_t pml4e;

    cpu_rig_mode(r, 64, 0);
    memcpy(&pml4e, r->ram + r->st.cr3, sizeof(pml4e));
    put64(r, (pml4e & ~0xfffull) + 8, LARGE_PD | 7);
    put64(r, LARGE_PD, LARGE_FRAME | 0x87);
    cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(code));
    for (unsigned k = 0; k < 2u * n; k++) {
        uint8_t f[] = {0x48, 0x83, 0xc3, (uint8_t)(1 + k), 0xc3}; /* add rbx, 1 + k; ret */
        cpu_rig_code(r, LARGE_FRAME + (k < n ? 0 : 0x200000u) + LARGE_EVERY * (k % n), f,
                     sizeof(f));
    }
    memset(r->st.gpr, 0, sizeof(r->st.gpr));
    r->irq = -1;
    r->st.rip = CPU_RIG_TEXT;
    r->st.gpr[VMC_RSP] = CPU_RIG_STACK;
    r->st.gpr[VMC_R8] = 400;
    r->st.gpr[VMC_RDI] = LARGE_PD;
    r->st.gpr[VMC_RSI] = (LARGE_FRAME + 0x200000u) | 0x87;
    r->st.gpr[VMC_R9] = 0x200000u;
    r->st.gpr[VMC_RDX] = flush_la;
    assert_int_equal(cpu_rig_run(r, 4 * ENOUGH), VMC_EXIT_IDLE);
}

static void test_large(void **state)
{
    (void)state;
    for (uint8_t n = 1; n <= 8; n++) {
        uint64_t sum = 0;
        for (unsigned i = 0; i < 2; i++)
            large_case(&rig[i], n, LARGE_LA + (n % 2 == 0 ? 0 : 0x1ff000u));
        compare(n);
        for (unsigned k = 0; k < 2u * n; k++)
            sum += 200 * (1 + k);
        assert_int_equal(rig[1].st.gpr[VMC_RBX], sum);
    }
    /* What is not in the page stays: jumps and returns are not looked up anew each time. */
    uint64_t before = cpu_rig_stat(&rig[1], "bt.jump_fills");
    large_case(&rig[1], 1, LARGE_LA);
    assert_in_range(cpu_rig_stat(&rig[1], "bt.jump_fills") - before, 0, 40);
}

/* ---- a program whose page of functions is another one after system calls ------------------------
 */

static void program_case(struct cpu_rig *r, uint64_t swap)
{
    static const uint8_t code[] = {
        0xff, 0xd2,                                        /* l: call rdx */
        0x48, 0x8d, 0x42, 0x40, 0xff, 0xd0,                /* lea rax, [rdx + 0x40]; call rax */
        0x48, 0x8d, 0x82, 0x80, 0,    0,    0, 0xff, 0xd0, /* lea rax, [rdx + 0x80]; call rax */
        0x41, 0xff, 0xc8, 0x41, 0xf6, 0xc0, 7,             /* dec r8d; test r8b, 7 */
        0x75, 0xe6, 0x0f, 0x05,                            /* jnz l; syscall */
        0x45, 0x85, 0xc0, 0x75, 0xdf, 0xf4,                /* test r8d, r8d; jnz l; hlt */
    };
    static const uint8_t remap[] = {
        0x48, 0x89, 0x37, 0x4c, 0x31, 0xce,             /* mov [rdi], rsi; xor rsi, r9 */
        0x41, 0x0f, 0x20, 0xda, 0x41, 0x0f, 0x22, 0xda, /* mov r10, cr3; mov cr3, r10 */
        0x48, 0x0f, 0x07,                               /* sysretq */
    };
    uint64_t pml4e;

    cpu_rig_mode(r, 64, 3);
    memcpy(&pml4e, r->ram + r->st.cr3, sizeof(pml4e));
    put64(r, (pml4e & ~0xfffull) + 8, PAGES_PD | 7);
    put64(r, PAGES_PD, (PAGES_PD + 0x1000) | 7);
    put64(r, PAGES_PD + 0x1000, (PAGES_PD + 0x2000) | 7);
    put64(r, PAGES_PD + 0x1008, (PAGES_PD + 0x3000) | 7);
    cpu_rig_code(r, PAGES_PD + 0x2000, code, sizeof(code));
    cpu_rig_code(r, KERNEL, remap, sizeof(remap));
    for (unsigned k = 0; k < 6; k++) {
        static const uint8_t reg[] = {0xc3, 0xc5, 0xc2}; /* rbx, rbp, rdx */
        uint8_t f[] = {0x48, 0x83, reg[k % 3], (uint8_t)(k % 3 == 2 ? 0 : 1 + k), 0xc3};
        cpu_rig_code(r, PAGES_PD + 0x3000 + 0x1000 * (k / 3) + 0x40 * (k % 3), f, sizeof(f));
    }
    memset(r->st.gpr, 0, sizeof(r->st.gpr));
    r->st.msr.star = 0x0008000800000000ull;
    r->st.msr.lstar = KERNEL;
    r->st.rip = PAGES_LA;
    r->st.gpr[VMC_RSP] = CPU_RIG_STACK;
    r->st.gpr[VMC_RDX] = PAGES_LA + 0x1000;
    r->st.gpr[VMC_R8] = 400;
    r->st.gpr[VMC_RDI] = PAGES_PD + 0x1008;
    r->st.gpr[VMC_RSI] = (PAGES_PD + 0x3000 + swap) | 7;
    r->st.gpr[VMC_R9] = (PAGES_PD + 0x3000) ^ (PAGES_PD + 0x3000 + swap);
    assert_int_equal(cpu_rig_run(r, ENOUGH), VMC_EXIT_IDLE);
}

static void test_program(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 4; k++) {
        for (unsigned i = 0; i < 2; i++)
            program_case(&rig[i], k % 2 * 0x1000);
        compare(k);
        assert_int_equal(rig[1].st.gpr[VMC_R8], 0);
        /* All 400 rounds in one page, or half of them in each. */
        assert_int_equal(rig[1].st.gpr[VMC_RBX], k % 2 == 0 ? 400 : 200 * (1 + 4));
        assert_int_equal(rig[1].st.gpr[VMC_RBP], k % 2 == 0 ? 800 : 200 * (2 + 5));
    }
}

/* ---- an endless loop of system calls --------------------------------------------------------- */

static void test_endless(void **state)
{
    static const uint8_t code[] = {0x0f, 0x05, 0xeb, 0xfc}; /* l: syscall; jmp l */
    static const uint8_t back[] = {0x48, 0x0f, 0x07};       /* sysretq */

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct cpu_rig *r = &rig[i];
        cpu_rig_mode(r, 64, 3);
        cpu_rig_code(r, CPU_RIG_TEXT, code, sizeof(code));
        cpu_rig_code(r, KERNEL, back, sizeof(back));
        r->st.msr.star = 0x0008000800000000ull;
        r->st.msr.lstar = KERNEL;
        assert_int_equal(cpu_rig_run(r, 50000), VMC_EXIT_BUDGET);
    }
    compare(0);
}

/* A trace that looks at the budget in front of STI, its first instruction, ends with any budget. */
static void test_sti_first(void **state)
{
    static const uint8_t code[] = {0xfb, 0x90, 0x01, 0xd0, 0x90, 0x90, 0x90,
                                   0x90, 0x01, 0xd0, 0x90, 0x90, 0xeb, 0xf2}; /* l: sti ... jmp l */

    (void)state;
    for (unsigned k = 0; k < 40; k++) {
        for (unsigned i = 0; i < 2; i++) {
            cpu_rig_mode(&rig[i], 64, 0);
            cpu_rig_code(&rig[i], CPU_RIG_TEXT, code, sizeof(code));
            assert_int_equal(cpu_rig_run(&rig[i], 4090 + k), VMC_EXIT_BUDGET);
        }
        compare(k);
    }
}

/* ---- the host's clock ------------------------------------------------------------------------ */

static void test_tsc(void **state)
{
    /* l: rdtsc; shl rdx, 32; or rax, rdx; cmp rax, rbx; jb f; mov rbx, rax; dec ecx; jnz l; hlt;
       f: ud2 */
    static const uint8_t code[] = {0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09,
                                   0xd0, 0x48, 0x39, 0xd8, 0x72, 0x08, 0x48, 0x89,
                                   0xc3, 0xff, 0xc9, 0x75, 0xeb, 0xf4, 0x0f, 0x0b};
    static struct cpu_rig r;

    (void)state;
    cpu_rig_create_soft(&r, 0, VMC_SOFT_TRANSLATE_ALL);
    for (unsigned tsd = 0; tsd < 2; tsd++) {
        for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
            cpu_rig_mode(&r, 64, cpl);
            cpu_rig_code(&r, CPU_RIG_TEXT, code, sizeof(code));
            r.st.gpr[VMC_RCX] = 1000;
            r.st.gpr[VMC_RBX] = 0;
            r.st.cr4 |= tsd != 0 ? VMC_CR4_TSD : 0;
            assert_int_equal(cpu_rig_run(&r, 0), VMC_EXIT_IDLE);
            uint64_t want = CPU_RIG_TEXT + 22; /* behind HLT */
            if (cpl == 3)                      /* of HLT, or of RDTSC itself */
                want = CPU_RIG_TRAPS + VMC_VEC_GP + 1;
            assert_int_equal(r.st.rip, want);
            if (cpl == 0 || tsd == 0)
                assert_int_equal(r.st.gpr[VMC_RCX], 0);
            else
                assert_int_equal(r.st.gpr[VMC_RCX], 1000);
        }
    }
    cpu_rig_destroy(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_syscall, setup, teardown),
        cmocka_unit_test_setup_teardown(test_iret, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sequences, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_program, setup, teardown),
        cmocka_unit_test_setup_teardown(test_endless, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sti_first, setup, teardown),
        cmocka_unit_test(test_tsc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
