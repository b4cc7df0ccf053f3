/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Single step over each kind of instruction, at level 0 and 3 (SDM 3B 18.3.1.4, 3A 6.8.3), debug
 * registers of 64-bit mode, and alignment checks right behind the instruction that switches them
 * on.
 */
#include "kern.h"

#define DE 0
#define DB 1
#define GP 13
#define PF 14
#define AC 17

#define DR6_BS     0x4000ul
#define DR6_STEP   0xffff4ff0ul /* as it reads after a step */
#define DR6_NONE   0xffff0ff0ul
#define CR0_AM     (1ul << 18)
#define FLAGS_IOPL 0x3000ul
#define HITS       12
#define DEBUGCTL   0x1d9
#define BTF        2
#define IN_HANDLER ~0ul

#define DR_ACCESS(n)                                                                               \
    static inline unsigned long rd_dr##n(void)                                                     \
    {                                                                                              \
        unsigned long v;                                                                           \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v) : : "memory");                             \
        return v;                                                                                  \
    }                                                                                              \
    static inline void wr_dr##n(unsigned long v)                                                   \
    {                                                                                              \
        __asm__ volatile("mov %0, %%dr" #n : : "r"(v) : "memory");                                 \
    }
DR_ACCESS(0)
DR_ACCESS(6)
DR_ACCESS(7)

/* A piece of code that can be copied to USER_AREA; it ends by INT 80h. */
#define BLOB(name, text)                                                                           \
    extern const char name[], name##_end[];                                                        \
    __asm__(".pushsection .rodata\n" #name ": " text "\n\tint $0x80\n" #name "_end:\n"             \
            ".popsection")
/* The same, stepped from behind its first STEP_BYTES on. */
#define STEP_BYTES          10
#define STEPPED(name, text) BLOB(name, "pushfq\n\torq $0x100, (%rsp)\n\tpopfq\n" text)

struct hit {
    unsigned long rip, dr6;
};
static struct hit hit[HITS];
static volatile unsigned hits;
static bool branches; /* set BTF again, which #DB clears */
static uint64_t debugctl;

static bool on_trap(struct regs *r)
{
    if (r->vector == 3)
        return true;
    if (r->vector != DB)
        return false;
    if (hits < HITS) {
        hit[hits].rip = r->rip - USER_AREA;
        hit[hits].dr6 = rd_dr6();
    } else {
        r->flags &= ~0x100ul;
    }
    hits++;
    wr_dr6(0);
    if (branches) {
        debugctl |= rdmsr(DEBUGCTL);
        wrmsr(DEBUGCTL, BTF);
    }
    return true;
}

static void jump(void *p)
{
    __asm__ volatile("jmp *%0" : : "r"(p) : "memory");
}

static long run(const char *code, const char *end, bool user)
{
    memcpy((void *)USER_AREA, code, (size_t)(end - code));
    return user ? try_user(USER_AREA, 0) : try_call(jump, (void *)USER_AREA);
}

/* ---- single step ----------------------------------------------------------------------------- */

STEPPED(s_plain, "nop\n\tnop");
STEPPED(s_exits, "push %rax\n\txor %eax, %eax\n\tcpuid\n\tmov $0x3fd, %edx\n\tin (%dx), %al\n\t"
                 "pop %rax");
STEPPED(s_sti, "cli\n\tsti\n\tnop\n\tcli");
STEPPED(s_mov_ss, "mov %ss, %eax\n\tmov %eax, %ss\n\tnop\n\tnop");
STEPPED(s_icebp, "mov %ss, %eax\n\tmov %eax, %ss\n\t.byte 0xf1\n\t.byte 0xf1\n\tnop");
STEPPED(s_int3, "nop\n\tint3\n\tnop\n\tnop");
STEPPED(s_popf, "pushfq\n\tpopfq\n\tnop");
STEPPED(s_branch, "jmp 1f\n\tnop\n1:\tcall 2f\n2:\tpop %rax\n\tloop 3f\n3:");
STEPPED(s_iret, "mov %rsp, %rcx\n\tmov %ss, %eax\n\tpush %rax\n\tpush %rcx\n\tpushfq\n\t"
                "mov %cs, %eax\n\tpush %rax\n\tlea 1f(%rip), %rax\n\tpush %rax\n\tiretq\n"
                "1:\tnop");
STEPPED(s_hlt, "hlt\n\tnop");
STEPPED(s_wrmsr, "mov $0x10, %ecx\n\trdmsr\n\tnop");

static void step(const char *name, const char *code, const char *end, const unsigned *want,
                 unsigned count, uint32_t plain, bool user)
{
    hits = 0;
    wr_dr6(0);
    long r = run(code, end, user);
    CHECK(r == -1, "%s at level %d: exception %ld", name, user ? 3 : 0, r);
    CHECK(hits == count, "%s at level %d: %u traps, not %u", name, user ? 3 : 0, hits, count);
    for (unsigned i = 0; i < count && i < hits; i++) {
        unsigned long dr6 = (plain >> i & 1) != 0 ? DR6_NONE : DR6_STEP;
        CHECK(hit[i].rip == STEP_BYTES + want[i], "%s at level %d: trap %u at %lx, not %x", name,
              user ? 3 : 0, i, hit[i].rip - STEP_BYTES, want[i]);
        CHECK((hit[i].dr6 & 0xffffefff) == (dr6 & 0xffffefff), "%s at level %d: DR6 %lx", name,
              user ? 3 : 0, hit[i].dr6);
    }
}
/* plain: traps that are not single-step traps, a bit mask. */
#define STEP(code, plain, user, ...)                                                               \
    step(#code, code, code##_end, (const unsigned[]){__VA_ARGS__},                                 \
         sizeof((unsigned[]){__VA_ARGS__}) / sizeof(unsigned), plain, user)

static void stepping(void)
{
    set_gate(3, 3, false);
    __asm__ volatile("pushfq\n\torq $0x3000, (%%rsp)\n\tpopfq" : : : "memory", "cc");
    for (int user = 0; user < 2; user++) {
        STEP(s_plain, 0, user, 1, 2);
        STEP(s_exits, 0, user, 1, 3, 5, 10, 11, 12);
        STEP(s_sti, 0, user, 1, 2, 3, 4);
        STEP(s_mov_ss, 0, user, 2, 5, 6);
        STEP(s_icebp, 6, user, 2, 5, 6, 7);
        STEP(s_int3, 0, user, 1, 3, 4);
        STEP(s_popf, 0, user, 1, 2, 3);
        STEP(s_branch, 0, user, 3, 8, 9, 11);
        STEP(s_iret, 0, user, 3, 5, 6, 7, 8, 10, 11, 18, 19, 21, 22);
    }
    STEP(s_hlt, 0, 0, 1, 2); /* the trap ends the halt */
    STEP(s_wrmsr, 0, 0, 5, 7, 8);
}

/* SYSCALL and SYSRET trap by TF as it is at their end: SFMASK clears it, R11 sets it. */
STEPPED(s_syscall, "syscall\n\tnop");
__asm__(".pushsection .text\nsyscall_target: sysretq\n.popsection");
extern const char syscall_target[];

static void syscalls(void)
{
    wrmsr(0xc0000081u, (uint64_t)(SEL_UDATA - 8) << 48 | (uint64_t)SEL_CODE32 << 32);
    wrmsr(0xc0000082u, (unsigned long)syscall_target);
    wrmsr(0xc0000084u, 0x700);
    STEP(s_syscall, 0, 1, 2, 3);
}

/* BTF: only branches that are taken trap. */
STEPPED(b_branch, "nop\n\ttest %rsp, %rsp\n\tjz 1f\n\tjnz 1f\n\tnop\n1:\tcall 2f\n2:\tpop %rax\n\t"
                  "mov $2, %ecx\n3:\tloop 3b\n\tjrcxz 4f\n4:\tjmp 5f\n5:\tmov $3, %ecx\n\t"
                  "mov %rsp, %rsi\n\trep lodsb\n\tpushfq\n\tpopfq");
STEPPED(b_iret, "mov %rsp, %rcx\n\tmov %ss, %eax\n\tpush %rax\n\tpush %rcx\n\tpushfq\n\t"
                "mov %cs, %eax\n\tpush %rax\n\tlea 1f(%rip), %rax\n\tpush %rax\n\tiretq\n"
                "1:\tnop");

static void branch_steps(void)
{
    branches = true;
    debugctl = 0;
    for (int user = 0; user < 2; user++) {
        wrmsr(DEBUGCTL, BTF);
        STEP(b_branch, 0, user, 9, 14, 20, 24, 26);
        wrmsr(DEBUGCTL, BTF);
        STEP(b_iret, 0, user, 21);
        wrmsr(DEBUGCTL, BTF);
        step("NOPs, branches stepped", s_plain, s_plain_end, NULL, 0, 0, user);
    }
    branches = false;
    CHECK(debugctl == 0, "DEBUGCTL in the handler of #DB: %lx", (unsigned long)debugctl);
    wrmsr(DEBUGCTL, BTF | 1);
    CHECK(rdmsr(DEBUGCTL) == BTF, "LBR: DEBUGCTL %lx", (unsigned long)rdmsr(DEBUGCTL));
    wrmsr(DEBUGCTL, 0);
}

/* ---- debug registers ------------------------------------------------------------------------- */

static void put_dr6(void *p)
{
    wr_dr6((unsigned long)p);
}
static void put_dr7(void *p)
{
    wr_dr7((unsigned long)p);
}

static volatile uint64_t watched[3] __attribute__((aligned(32)));

/* Traps of one store of each width at byte offset at of watched[1]. */
static unsigned store8(long at)
{
    hits = 0;
    __asm__ volatile("movb $1, (%0)\n\tnop" : : "r"((uint8_t *)(watched + 1) + at) : "memory");
    return hits;
}

static void registers(void)
{
    CHECK(try_call(put_dr6, (void *)(1ul << 32)) == GP, "upper half of DR6");
    CHECK(try_call(put_dr7, (void *)(1ul << 32)) == GP, "upper half of DR7");
    wr_dr0((unsigned long)(watched + 1));
    wr_dr7(0x90002); /* 8 bytes, write */
    CHECK(rd_dr0() == (unsigned long)(watched + 1) && rd_dr7() == 0x90402, "DR0, DR7");
    CHECK(store8(-1) == 0 && store8(0) == 1 && store8(7) == 1 && store8(8) == 0,
          "a breakpoint of 8 bytes");
    /* B0-B3 are of the last exception; BS stays if software set it. */
    hits = 0;
    wr_dr6(DR6_BS | 2);
    watched[1] = 1;
    CHECK(hits == 1 && (hit[0].dr6 & 0xffffefff) == (DR6_STEP & 0xffffefff) + 1,
          "BS and B1 before a hit of DR0: %lx", hit[0].dr6);
    wr_dr7(0);
}

/* ---- faults ------------------------------------------------------------------------------------
 */

#define UNMAPPED 0x4000000000ul

static void divide(void *p)
{
    unsigned long lo = 1, hi = 0;
    __asm__ volatile("divq (%2)" : "+a"(lo), "+d"(hi) : "r"(p) : "memory", "cc");
}
static void move(void *p)
{
    unsigned long to = UNMAPPED;
    __asm__ volatile("movsq" : "+S"(p), "+D"(to) : : "memory");
}

/* An instruction that faults did not hit the breakpoint that it came across (SDM 3B 18.2.4). */
static void faulting(void)
{
    static void (*const f[])(void *) = {divide, move};

    for (unsigned i = 0; i < 2; i++) {
        watched[1] = 0;
        hits = 0;
        wr_dr0((unsigned long)(watched + 1));
        wr_dr6(0);
        wr_dr7(0xb0002); /* 8 bytes, read or written */
        long v = try_call(f[i], (void *)(watched + 1));
        wr_dr7(0);
        CHECK(v == (i == 0 ? DE : PF) && hits == 0, "fault %u behind a breakpoint: %ld, %u traps",
              i, v, hits);
    }
}

/*
 * MOV SS holds a data breakpoint back for one instruction. INT1 delivers it with its own #DB, INT n
 * and INT3 go first; general detect is a fault, which MOV SS does not hold back (SDM 3A 6.8.3).
 */
#define SS_FROM_MEMORY "mov %ss, 32(%rdi)\n\tmov 32(%rdi), %ss\n\t" /* 3 bytes each */
BLOB(w_nop, SS_FROM_MEMORY "nop\n\tnop");
BLOB(w_icebp, SS_FROM_MEMORY ".byte 0xf1\n\tnop");
BLOB(w_int1, SS_FROM_MEMORY "int $1\n\tnop");
BLOB(w_int3, SS_FROM_MEMORY "int3\n\tnop");
BLOB(g_mov_ss,
     "pushq %rax\n\txor %ecx, %ecx\n\tmov %ss, %eax\n\tpushfq\n\torq $0x100, (%rsp)\n\tpopfq\n\t"
     "mov %eax, %ss\n\tmov %rcx, %dr6\n\tnop\n\tpopq %rax");

static long with_rdi(const char *code, const char *end)
{
    memcpy((void *)USER_AREA, code, (size_t)(end - code));
    return try_user(USER_AREA, (unsigned long)(USER_AREA + 0x1000));
}

static void movss(void)
{
    /* The first trap is that of the store; IN_HANDLER: before the handler's first instruction. */
    static const struct {
        const char *code, *end, *name;
        unsigned count;
        struct hit hit[3];
    } t[] = {
        {w_nop, w_nop_end, "NOP", 2, {{3, 1}, {7, 1}}},
        {w_icebp, w_icebp_end, "INT1", 2, {{3, 1}, {7, 1}}},
        {w_int1, w_int1_end, "INT 1", 3, {{3, 1}, {IN_HANDLER, 1}, {8, 0}}},
        {w_int3, w_int3_end, "INT3", 2, {{3, 1}, {IN_HANDLER, 1}}},
    };

    set_gate(1, 3, false);
    wr_dr0(USER_AREA + 0x1000 + 32);
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        hits = 0;
        wr_dr6(0);
        wr_dr7(0x30002); /* a byte, read or written */
        long r = with_rdi(t[i].code, t[i].end);
        wr_dr7(0);
        CHECK(r == -1 && hits == t[i].count, "MOV SS and %s: %u traps", t[i].name, hits);
        for (unsigned k = 0; k < hits && k < t[i].count; k++) {
            unsigned long at = hit[k].rip < 0x200000 ? hit[k].rip : IN_HANDLER;
            CHECK(at == t[i].hit[k].rip && (hit[k].dr6 & 15) == t[i].hit[k].dr6,
                  "MOV SS and %s: trap %u at %lx, DR6 %lx", t[i].name, k, hit[k].rip, hit[k].dr6);
        }
    }
    set_gate(1, 0, false);
    hits = 0;
    wr_dr6(0);
    wr_dr7(0x2000);
    CHECK(run(g_mov_ss, g_mov_ss_end, false) == -1, "general detect behind MOV SS");
    CHECK(hits == 4 && hit[0].rip == 17 && (hit[0].dr6 & 0xf00f) == 0x2000 && hit[1].rip == 20 &&
              (hit[1].dr6 & 0xf00f) == DR6_BS && hit[3].rip == 22,
          "general detect: %u traps, %lx at %lx, %lx at %lx", hits, hit[0].dr6, hit[0].rip,
          hit[1].dr6, hit[1].rip);
    wr_dr7(0);
}

/* ---- alignment ------------------------------------------------------------------------------- */

#define AC_ON "pushq $0x40202\n\tpopfq\n\t"
BLOB(a_load, AC_ON "mov 1(%rsp), %eax");
BLOB(a_aligned, AC_ON "mov 4(%rsp), %eax\n\tenter $8, $0\n\tleave");
BLOB(a_enter, AC_ON "enter $1, $0"); /* the last word of the frame is looked at */
BLOB(a_nested, AC_ON "enter $1, $2");
BLOB(a_push, "dec %rsp\n\t" AC_ON "push %rax"); /* PUSH of the flags is aligned to nothing */
BLOB(a_off, AC_ON "pushq $0x202\n\tpopfq\n\tmov 1(%rsp), %eax\n\tenter $1, $0");
#define AC_BYTES 6

static void alignment(void)
{
    wr_cr0(rd_cr0() | CR0_AM);
    for (int user = 0; user < 2; user++) {
        long want = user ? AC : -1;
#define ALIGNED(code) run(code, code##_end, user)
        CHECK(ALIGNED(a_load) == want, "load");
        CHECK(!user || fault.rip == USER_AREA + AC_BYTES, "load: at %lx", fault.rip);
        CHECK(ALIGNED(a_enter) == want, "ENTER");
        CHECK(!user || fault.rip == USER_AREA + AC_BYTES, "ENTER: at %lx", fault.rip);
        CHECK(!user || fault.rsp == USER_STACK, "ENTER: RSP %lx", fault.rsp);
        CHECK(ALIGNED(a_nested) == want, "nested ENTER");
        CHECK(ALIGNED(a_push) == want, "PUSH");
        CHECK(ALIGNED(a_aligned) == -1, "aligned");
        CHECK(ALIGNED(a_off) == -1, "AC off again");
    }
    wr_cr0(rd_cr0() & ~CR0_AM);
    CHECK(run(a_enter, a_enter_end, true) == -1, "AM clear");
}

void test_main(void)
{
    exc_hook = on_trap;
    stepping();
    syscalls();
    branch_steps();
    registers();
    faulting();
    movss();
    exc_hook = NULL;
    alignment();
}
