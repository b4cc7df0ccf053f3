/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a program of Linux sees of the processor, as its first process or anywhere else: signals of
 * instructions in 64- and 32-bit code, selectors that a signal frame may hold, single steps, system
 * calls with odd flags, debug registers, vector state in signal frames. Prints a line for each;
 * the output is the same on hardware.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <signal.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define CODE   0x10000000ul
#define DATA   0x10010000ul /* one page, then one that is read-only, one without access */
#define STACK  0x10020800ul
#define STEPS  40
#define CS64   0x33
#define CS32   0x23
#define SS3    0x2b
#define LDT(n) ((n)*8 + 7)

/* ---- running a piece of code --------------------------------------------------------------- */

struct start {
    unsigned long rip, rsp, flags;
    unsigned cs, ss;
};
struct outcome {
    int sig, code;
    unsigned long trap, err, rip, rsp, flags, cr2, rax;
    unsigned cs, ss, steps;
    unsigned step[STEPS]; /* offsets in the code */
};
static struct start start;
static struct outcome out;
static sigjmp_buf back;
static uint8_t alt_stack[1 << 16];

static void on_usr1(int sig, siginfo_t *si, void *p)
{
    greg_t *r = ((ucontext_t *)p)->uc_mcontext.gregs;

    (void)sig, (void)si;
    for (int i = 0; i < REG_RIP; i++)
        r[i] = 0;
    r[REG_RIP] = (greg_t)start.rip;
    r[REG_RSP] = (greg_t)start.rsp;
    r[REG_EFL] = (greg_t)start.flags;
    r[REG_RDI] = DATA;
    r[REG_CSGSFS] = (greg_t)(start.cs | (uint64_t)start.ss << 48);
}

static void on_fault(int sig, siginfo_t *si, void *p)
{
    __asm__ volatile("pushq $0x202\n\tpopfq" : : : "memory", "cc"); /* AC would stay */

    ucontext_t *uc = p;
    greg_t *r = uc->uc_mcontext.gregs;
    unsigned at = (unsigned)((unsigned long)r[REG_RIP] - CODE);

    if (sig == SIGTRAP && si->si_code == TRAP_TRACE && out.steps < STEPS) {
        out.step[out.steps++] = at;
        return;
    }
    out.sig = sig;
    out.code = si->si_code;
    out.trap = (unsigned long)r[REG_TRAPNO];
    out.err = (unsigned long)r[REG_ERR];
    out.rip = (unsigned long)r[REG_RIP];
    out.rsp = (unsigned long)r[REG_RSP];
    out.flags = (unsigned long)r[REG_EFL];
    out.rax = (unsigned long)r[REG_RAX];
    out.cr2 = (unsigned long)r[REG_CR2];
    out.cs = (unsigned)(r[REG_CSGSFS] & 0xffff);
    out.ss = (unsigned)((uint64_t)r[REG_CSGSFS] >> 48);
    siglongjmp(back, 1);
}

static void run(void)
{
    static const unsigned mxcsr = 0x1f80;

    memset(&out, 0, sizeof(out));
    __asm__ volatile("mov %w0, %%ds\n\tmov %w0, %%es" : : "r"(SS3)); /* for 32-bit code */
    if (sigsetjmp(back, 1) == 0)
        raise(SIGUSR1);
    __asm__ volatile("fninit\n\tmov %w0, %%ds\n\tmov %w0, %%es\n\tldmxcsr %1"
                     :
                     : "r"(0), "m"(mxcsr));
}

static void put_code(const void *code, size_t bytes)
{
    memset((void *)CODE, 0x90, 0x2000);
    memcpy((void *)CODE, code, bytes);
    ((uint8_t *)CODE)[bytes] = 0x0f; /* UD2 ends it */
    ((uint8_t *)CODE)[bytes + 1] = 0x0b;
}

static void set_handlers(void)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
    struct sigaction a = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    stack_t ss = {.ss_sp = alt_stack, .ss_size = sizeof(alt_stack)};

    sigaltstack(&ss, NULL);
    a.sa_sigaction = on_usr1;
    sigaction(SIGUSR1, &a, NULL);
    a.sa_sigaction = on_fault;
    for (unsigned i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        sigaction(faults[i], &a, NULL);
}

/* ---- instructions -------------------------------------------------------------------------- */

struct piece {
    const char *name;
    const void *code, *end;
    unsigned long bits;
};
/* Code whose first instruction of interest comes last. */
#define P(mode, name, text)                                                                        \
    ".pushsection .rodata\n8: .asciz \"" name "\"\n6: .code" #mode "\n" text "\n7: .code64\n"      \
    ".popsection\n.pushsection .data.pieces,\"aw\"\n.balign 8\n.quad 8b, 6b, 7b, " #mode           \
    "\n.popsection\n"
#define A(name, text) P(64, name, text)
#define B(name, text) P(32, name, text)

/* clang-format off */
__asm__(".pushsection .data.pieces,\"aw\"\n.globl pieces\npieces:\n.popsection\n"
    A("ud2", "ud2")
    A("int3", "int3")
    A("int 3", ".byte 0xcd, 3")
    A("int1", ".byte 0xf1")
    A("int 1", "int $1")
    A("int 4", "int $4")
    A("int 14", "int $14")
    A("int 0x7f", "int $0x7f")
    A("int 0xff", "int $0xff")
    A("into", ".byte 0xce")
    A("div by 0", "div %cl")
    A("div overflow", "mov $0x1000, %eax\nmov $1, %cl\ndiv %cl")
    A("idiv overflow", "mov $1, %eax\nror %eax\nmov %eax, %edx\nsar $31, %edx\nmov $-1, %ecx\n"
      "idiv %ecx")
    A("hlt", "hlt")
    A("cli", "cli")
    A("sti", "sti")
    A("in", "in $0x80, %al")
    A("outs", "mov $0x80, %edx\noutsb")
    A("cr0", "mov %cr0, %rax")
    A("cr8", "mov %cr8, %rax")
    A("dr0", "mov %dr0, %rax")
    A("clts", "clts")
    A("rdmsr", "rdmsr")
    A("wrmsr", "wrmsr")
    A("wbinvd", "wbinvd")
    A("invd", "invd")
    A("invlpg", "invlpg (%rdi)")
    A("lgdt", "lgdt (%rdi)")
    A("lidt", "lidt (%rdi)")
    A("lldt", "lldt %ax")
    A("ltr", "ltr %ax")
    A("lmsw", "lmsw %ax")
    A("swapgs", "swapgs")
    A("sysret", "sysretq")
    A("sysexit", "sysexitl")
    A("xsetbv", "xsetbv")
    A("rsm", "rsm")
    A("rdpmc", "mov $0x7fffffff, %ecx\nrdpmc")
    A("monitor", "monitor")
    A("clac", "clac")
    A("iretq", "iretq")
    A("pop es", ".byte 7")
    A("push cs", ".byte 0xe")
    A("les", ".byte 0xc4, 7")
    A("far call", ".byte 0x9a")
    A("daa", ".byte 0x27")
    A("aam", ".byte 0xd4, 10")
    A("lock mov", ".byte 0xf0, 0x89, 7")
    A("lock nop", ".byte 0xf0, 0x90")
    A("16 bytes", ".rept 14\n.byte 0x66\n.endr\nadd %eax, %eax")
    A("mov to cs", ".byte 0x8e, 0xc8")
    A("mov ss 0", "xor %eax, %eax\nmov %eax, %ss")
    A("mov ds kernel", "mov $0x10, %eax\nmov %eax, %ds")
    A("mov es 0xfff8", "mov $0xfff8, %eax\nmov %eax, %es")
    A("mov es tss", "mov $0x40, %eax\nmov %eax, %es")
    A("ret far to kernel", "pushq $0x10\npushq $0\nlretq")
    A("iret to kernel", "pushq $0x2b\npushq $0\npushq $2\npushq $0x10\npushq $0\niretq")
    A("not canonical", "mov $1, %eax\nror $2, %rax\nmov (%rax), %eax")
    A("not canonical, rbp", "mov $1, %ebp\nror $2, %rbp\nmov (%rbp), %eax")
    A("push not canonical", "mov $1, %esp\nror $2, %rsp\npush %rax")
    A("jump not canonical", "mov $1, %eax\nror $2, %rax\njmp *%rax")
    A("ret not canonical", "mov $1, %eax\nror $2, %rax\npush %rax\nret")
    A("call not canonical", "mov $1, %eax\nror $2, %rax\ncall *%rax")
    A("read null", "mov (%rax), %eax")
    A("write null", "mov %eax, (%rax)")
    A("run null", "jmp *%rax")
    A("read kernel", "mov $-4096, %rax\nmov (%rax), %eax")
    A("write kernel", "mov $-4096, %rax\nmov %eax, (%rax)")
    A("run kernel", "mov $-4096, %rax\njmp *%rax")
    A("write read-only", "mov %eax, 4096(%rdi)")
    A("read no access", "mov 8192(%rdi), %eax")
    A("run data", "jmp *%rdi")
    A("across pages", "movl $-1, 8190(%rdi)")
    A("load across", "mov 8190(%rdi), %eax")
    A("rmw across", "incl 4094(%rdi)")
    A("cmpxchg read-only", "mov $1, %eax\nlock cmpxchg %ecx, 4096(%rdi)")
    A("bts read-only", "mov $32768, %eax\nbts %rax, (%rdi)")
    A("rep movsb", "lea 4080(%rdi), %rdi\nmov %rdi, %rsi\nmov $64, %ecx\nrep movsb")
    A("rep stosq", "lea 4080(%rdi), %rdi\nmov $64, %ecx\nrep stosq")
    A("movaps", "movaps 4(%rdi), %xmm0")
    A("addps", "addps 4(%rdi), %xmm0")
    A("vmovaps", "vmovaps 16(%rdi), %ymm0")
    A("vaddps", "vaddps 17(%rdi), %ymm0, %ymm0")
    A("movnti", "movntdq %xmm0, 8(%rdi)")
    A("fxsave", "fxsave 8(%rdi)")
    A("fxrstor", "movl $-1, 24(%rdi)\nfxrstor (%rdi)")
    A("ldmxcsr", "movl $-1, (%rdi)\nldmxcsr (%rdi)")
    A("xrstor", "mov $-1, %eax\nmovl $-1, 520(%rdi)\nxrstor (%rdi)")
    A("xsave", "mov $7, %eax\nxsave 16(%rdi)")
    A("cmpxchg16b", "cmpxchg16b 8(%rdi)")
    A("xgetbv 2", "mov $2, %ecx\nxgetbv")
    A("x87 zero divide", "movw $0x37b, (%rdi)\nfldcw (%rdi)\nfld1\nfldz\nfdivrp\nnop\nfwait")
    A("x87 invalid", "movw $0x37e, (%rdi)\nfldcw (%rdi)\nfldz\nfldz\nfdivp\nfwait")
    A("x87 stack", "movw $0x37e, (%rdi)\nfldcw (%rdi)\nfninit\nfldcw (%rdi)\nfstp %st(0)\nfwait")
    A("x87 overflow", "movw $0x377, (%rdi)\nfldcw (%rdi)\nmovl $0x7f000000, (%rdi)\n"
      "flds (%rdi)\nfmul %st(0)\nfmul %st(0)\nfmul %st(0)\nfmul %st(0)\nfmul %st(0)\n"
      "fmul %st(0)\nfmul %st(0)\nfmul %st(0)\nfmul %st(0)\nfwait")
    A("x87 inexact", "movw $0x35f, (%rdi)\nfldcw (%rdi)\nfldpi\nfsqrt\nfwait")
    A("x87 denormal", "movw $0x37d, (%rdi)\nfldcw (%rdi)\nmovl $1, (%rdi)\nflds (%rdi)\nfwait")
    A("sse zero divide", "movl $0x1d80, (%rdi)\nldmxcsr (%rdi)\nmov $1, %eax\n"
      "cvtsi2ss %eax, %xmm0\nxorps %xmm1, %xmm1\ndivss %xmm1, %xmm0")
    A("sse invalid", "movl $0x1f00, (%rdi)\nldmxcsr (%rdi)\nxorps %xmm1, %xmm1\n"
      "divss %xmm1, %xmm1")
    A("sse inexact", "movl $0x0f80, (%rdi)\nldmxcsr (%rdi)\nmov $3, %eax\n"
      "cvtsi2ss %eax, %xmm0\nsqrtss %xmm0, %xmm0")
    A("avx zero divide", "movl $0x1d80, (%rdi)\nldmxcsr (%rdi)\nvpcmpeqd %ymm0, %ymm0, %ymm0\n"
      "vpsrld $25, %ymm0, %ymm0\nvpslld $23, %ymm0, %ymm0\nvxorps %ymm1, %ymm1, %ymm1\n"
      "vdivps %ymm1, %ymm0, %ymm0")
    A("ac", "pushfq\norl $0x40000, (%rsp)\npopfq\nmov 1(%rdi), %eax")
    A("ac, push", "pushfq\norl $0x40000, (%rsp)\npopfq\ndec %rsp\npush %rax")
    A("ac, sse", "pushfq\norl $0x40000, (%rsp)\npopfq\nmovups 4(%rdi), %xmm0\n"
      "movsd 4(%rdi), %xmm0")
    A("ac, enter", "pushfq\norl $0x40000, (%rsp)\npopfq\nenter $1, $0")
    A("iopl", "pushfq\norl $0x3000, (%rsp)\npopfq\npushfq\npop %rax")
    A("flags", "pushq $-257\npopfq\npushfq\npop %rax")
    A("nt, syscall", "pushfq\norl $0x4000, (%rsp)\npopfq\nmov $39, %eax\nsyscall\npushfq\n"
      "pop %rax")
    A("nt, int 0x80", "pushfq\norl $0x4000, (%rsp)\npopfq\nmov $20, %eax\nint $0x80\npushfq\n"
      "pop %rax")
    A("df ac, syscall", "std\npushfq\norl $0x40000, (%rsp)\npopfq\nmov $39, %eax\nsyscall\n"
      "pushfq\npop %rax")
    A("rcx r11 of syscall", "stc\nmov $39, %eax\nsyscall\nlea 1f(%rip), %rax\n1: sub %rcx, %rax")
    A("syscall with rsp 0", "xor %esp, %esp\nmov $-1, %eax\nsyscall")
    A("syscall with bad rsp", "mov $1, %esp\nror $2, %rsp\nmov $-1, %eax\nsyscall")
    A("int 0x80 in 64 bits", "mov $-1, %rax\nmov $-1, %r8\nint $0x80\nadd %r8, %rax")
    A("lar kernel code", "mov $0x10, %ecx\nlar %ecx, %eax\nsetz %al")
    A("lar user data", "mov $0x2b, %ecx\nlar %ecx, %eax\nand $0xf0ff00, %eax")
    A("lsl user code", "mov $0x33, %ecx\nlsl %ecx, %eax")
    A("verw", "mov $0x33, %ecx\nverw %cx\nsetz %al")
    A("verr", "mov $0x33, %ecx\nverr %cx\nsetz %al")
    B("32: ud2", "ud2")
    B("32: into", "mov $0x7f, %al\nadd %al, %al\ninto")
    B("32: into, no overflow", "xor %eax, %eax\ninto")
    B("32: bound", "movl $1, (%edi)\nmovl $2, 4(%edi)\nmov $3, %eax\nbound %eax, (%edi)")
    B("32: aam 0", ".byte 0xd4, 0")
    B("32: int3", "int3")
    B("32: int1", ".byte 0xf1")
    B("32: read null", "mov 0, %eax")
    B("32: not mapped", "mov %eax, 0xfffff000")
    B("32: across 4 GiB", "mov 0xfffffffe, %eax")
    B("32: cs write", "mov %eax, %cs:(%edi)")
    B("32: mov ss 0", "xor %eax, %eax\nmov %eax, %ss")
    B("32: rex", "xor %eax, %eax\n.byte 0x48\n.byte 0x90")
    B("32: les", "movl $-1, (%edi)\nmovl $0x2b, 4(%edi)\nles (%edi), %eax")
    B("32: les kernel", "movl $0x18, 4(%edi)\nles (%edi), %eax")
    B("32: push pop", "pusha\npopa\npush %es\npop %eax")
    B("32: popa at a bad page", "lea 8176(%edi), %esp\npopa")
    B("32: pusha at a bad page", "lea 8200(%edi), %esp\npusha")
    B("32: far jump to 64", "ljmp $0x33, $0x10001000")
    B("32: far call to kernel", "lcall $0x10, $0")
    B("32: retf", "pushl $0x33\npushl $0x10001000\nlret")
    B("32: arpl", "mov $0x10, %eax\nmov $3, %ecx\narpl %cx, %ax")
    B("32: int 0x80", "mov $20, %eax\nint $0x80\nmov $0x1234, %eax")
    B("32: loop", "mov $5, %ecx\n1: inc %eax\nloop 1b")
    B("32: jecxz", "xor %ecx, %ecx\njecxz 1f\nud2\n1: nop")
    B("32: daa", "mov $0x9a, %al\ndaa")
    B("32: addr16", ".byte 0x67, 0x8b, 0x07")
    B("32: enter", "enter $16, $3")
    B("32: salc", "stc\n.byte 0xd6")
    ".pushsection .data.pieces,\"aw\"\n.quad 0\n.popsection\n");
/* clang-format on */
extern const struct piece pieces[];

static const char *where(char buf[32], unsigned long v)
{
    if (v - CODE < 0x10000)
        sprintf(buf, "code+%lx", v - CODE);
    else if (v - DATA < 0x10000)
        sprintf(buf, "data+%lx", v - DATA);
    else
        sprintf(buf, "%lx", v);
    return buf;
}

/* The address of an access is only told for page faults; others leave that of an earlier one. */
static void report(const char *name)
{
    char rip[32], rsp[32], cr2[32] = "-";

    if (out.trap == 14)
        where(cr2, out.cr2);
    printf("%s: signal %d code %d trap %lu error %lx at %x:%s stack %x:%s address %s flags %lx rax "
           "%lx\n",
           name, out.sig, out.code, out.trap, out.err, out.cs, where(rip, out.rip), out.ss,
           where(rsp, out.rsp), cr2, out.flags & 0x247dd5, out.rax);
}

static void instructions(void)
{
    for (const struct piece *p = pieces; p->name != NULL; p++) {
        /* Flags after a multiplication or division are not defined: none here sets them. */
        put_code(p->code, (size_t)((const char *)p->end - (const char *)p->code));
        memset((void *)DATA, 0, 4096);
        start = (struct start){CODE, STACK, 0x202, p->bits == 64 ? CS64 : CS32, SS3};
        run();
        report(p->name);
    }
}

/* ---- selectors ----------------------------------------------------------------------------- */

static const struct user_desc ldt[] = {
    {.seg_32bit = 1, .contents = 2, .useable = 1},                       /* 0 code, 32 bits */
    {.seg_32bit = 0, .contents = 2, .useable = 1},                       /* 1 code, 16 bits */
    {.seg_32bit = 1, .contents = 0, .useable = 1},                       /* 2 data, 32 bits */
    {.seg_32bit = 0, .contents = 0, .useable = 1},                       /* 3 data, 16 bits */
    {.seg_32bit = 1, .contents = 2, .seg_not_present = 1, .useable = 1}, /* 4 */
    {.seg_32bit = 1, .contents = 0, .seg_not_present = 1, .useable = 1}, /* 5 */
    {.seg_32bit = 1, .contents = 1, .useable = 1},                       /* 6 expands down */
    {.seg_32bit = 1, .contents = 0, .read_exec_only = 1, .useable = 1},  /* 7 */
    {.seg_32bit = 1, .contents = 3, .useable = 1, .seg_not_present = 1}, /* 8 conforming */
    {.seg_32bit = 1, .contents = 2, .read_exec_only = 1, .useable = 1},  /* 9 execute-only */
};

static void selectors(void)
{
    static const unsigned cs[] = {CS64,   CS32,   0,      0x10,   SS3,    LDT(0),
                                  LDT(1), LDT(2), LDT(4), LDT(9), LDT(8), LDT(20)};
    static const unsigned ss[] = {SS3,    0,      3,      0x18,   CS32,   LDT(2),
                                  LDT(3), LDT(5), LDT(6), LDT(7), LDT(9), LDT(20)};
    static const uint8_t code[] = {0xcc};

    for (unsigned i = 0; i < sizeof(ldt) / sizeof(ldt[0]); i++) {
        struct user_desc d = ldt[i];
        unsigned access = 0, limit = 0;
        bool can = false;

        d.entry_number = i;
        d.base_addr = d.contents == 2 ? (unsigned)CODE : 0;
        d.limit = d.contents == 1 ? 0x1000 : 0xfffff;
        d.limit_in_pages = 1;
        if (syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)) != 0)
            printf("segment %u refused\n", i);
        __asm__ volatile("lar %3, %0\n\tlsl %3, %1\n\tsetz %2"
                         : "+r"(access), "+r"(limit), "=r"(can)
                         : "r"(LDT(i)));
        printf("segment %u: access %x limit %x %d\n", i, access & 0xf0ff00, limit, can);
    }
    put_code(code, sizeof(code));
    for (unsigned i = 0; i < sizeof(cs) / sizeof(cs[0]); i++)
        for (unsigned k = 0; k < sizeof(ss) / sizeof(ss[0]); k++) {
            bool based = cs[i] == LDT(0) || cs[i] == LDT(1) || cs[i] == LDT(9);
            char name[64];

            start = (struct start){based ? 0 : CODE, STACK, 0x202, cs[i], ss[k]};
            run();
            sprintf(name, "selectors %x %x", cs[i], ss[k]);
            out.rax = 0;
            report(name);
        }
}

/* ---- single steps -------------------------------------------------------------------------- */

#define S(n, text)                                                                                 \
    {                                                                                              \
        extern const char n[], n##_end[];                                                          \
        __asm__ volatile(".pushsection .rodata\n" #n ": " text "\n" #n "_end: .code64\n"           \
                         ".popsection");                                                           \
        step(#n, n, n##_end);                                                                      \
    }

static unsigned step_cs;

static void step(const char *name, const char *code, const char *end)
{
    put_code(code, (size_t)(end - code));
    start = (struct start){CODE, STACK, 0x302, step_cs, SS3};
    run();
    printf("step %s: signal %d at %lx:", name, out.sig, out.rip - CODE);
    for (unsigned i = 0; i < out.steps; i++)
        printf(" %x", out.step[i]);
    printf("\n");
}

static void steps(void)
{
    step_cs = CS64;
    S(s_nop, "nop\nnop\nnop");
    S(s_syscall, "mov $39, %eax\nsyscall\nnop");
    S(s_int80, "mov $20, %eax\nint $0x80\nnop");
    S(s_popf, "pushfq\nandl $~0x100, (%rsp)\npopfq\nnop\nnop");
    S(s_set, "pushfq\npushfq\nandl $~0x100, (%rsp)\npopfq\nnop\npopfq\nnop\nnop");
    S(s_rep, "mov %rdi, %rsi\nmov $5, %ecx\nrep movsb\nnop");
    S(s_rep0, "xor %ecx, %ecx\nrep stosb\nnop");
    S(s_call, "call 1f\nnop\nud2\n1: ret");
    S(s_cpuid, "xor %eax, %eax\ncpuid\nrdtsc\nnop");
    S(s_movss, "mov %ss, %eax\nmov %eax, %ss\nnop\nnop");
    S(s_movds, "mov %ds, %eax\nmov %eax, %ds\nnop");
    S(s_xmm, "xorps %xmm0, %xmm0\nvzeroupper\nfninit\nnop");
    S(s_fault, "nop\nmov 8192(%rdi), %eax\nnop");
    step_cs = CS32;
    S(s32_int80, ".code32\nmov $20, %eax\nint $0x80\nnop");
    S(s32_pop, ".code32\npush %ss\npop %ss\nnop\nnop");
    S(s32_pusha, ".code32\npusha\npopa\nloop 1f\n1: nop");
}

/* ---- debug registers ----------------------------------------------------------------------- */

static volatile uint64_t watched[4] __attribute__((aligned(32)));
extern const char watch_code[], watch_exec[], watch_end[];

static void child(void)
{
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    for (int i = -2; i < 10; i++) {
        uint8_t *p = (uint8_t *)watched + 8 + i;
        __asm__ volatile(
            "watch_code: movb $1, (%0)\n\tmovzbl (%0), %%eax\n\tmovw $1, (%0)\n\t"
            "movl $1, (%0)\n\tmovq $1, (%0)\n\txorps %%xmm0, %%xmm0\n\tmovups %%xmm0, (%0)\n"
            "watch_exec: nop\n"
            "watch_end: nop"
            :
            : "D"(p)
            : "eax", "xmm0", "memory");
    }
    _exit(0);
}

static void debug(int pid, unsigned n, unsigned long v)
{
    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg) + 8 * n, v);
}

static void breakpoints(void)
{
    static const unsigned lengths[] = {0, 1, 3, 2}; /* 1, 2, 4, 8 bytes */

    for (unsigned kind = 0; kind < 3; kind++)
        for (unsigned l = 0; l < (kind == 0 ? 1 : 4); l++) {
            int status, pid;
            unsigned hits = 0, sum = 0;
            static const unsigned rw[] = {0, 1, 3};

            fflush(stdout);
            pid = fork();
            if (pid == 0)
                child();
            waitpid(pid, &status, 0);
            debug(pid, 0, kind == 0 ? (unsigned long)watch_exec : (unsigned long)(watched + 1));
            debug(pid, 7, 1 | rw[kind] << 16 | lengths[l] << 18);
            for (;;) {
                ptrace(PTRACE_CONT, pid, 0, 0);
                if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
                    break;
                unsigned long rip =
                    (unsigned long)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.rip), 0);
                unsigned long dr6 = (unsigned long)ptrace(
                    PTRACE_PEEKUSER, pid, offsetof(struct user, u_debugreg) + 48, 0);
                hits++;
                sum = sum * 31 + (unsigned)(rip - (unsigned long)watch_code) * 4 + (dr6 & 15);
            }
            printf("breakpoint %u length %u: %u hits, sum %x, status %x\n", kind, l, hits, sum,
                   status);
        }
}

/* ---- vector state in signal frames --------------------------------------------------------- */

static void on_vector(int sig, siginfo_t *si, void *p)
{
    ucontext_t *uc = p;
    uint8_t *x = (uint8_t *)uc->uc_mcontext.fpregs;

    (void)sig, (void)si;
    printf("frame: xmm1 %x ymm1 %x mxcsr %x\n", *(unsigned *)(x + 160 + 16),
           *(unsigned *)(x + 576 + 16), *(unsigned *)(x + 24));
    *(unsigned *)(x + 160 + 16) = 0x55;
    *(unsigned *)(x + 576 + 16) = 0x66;
    __asm__ volatile("vpcmpeqd %%ymm1, %%ymm1, %%ymm1" : : : "xmm1");
}

static void vectors(void)
{
    struct sigaction a = {.sa_flags = SA_SIGINFO, .sa_sigaction = on_vector};
    unsigned v[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    long pid = getpid(), r;

    sigaction(SIGUSR2, &a, NULL);
    __asm__ volatile("vmovups (%3), %%ymm1\n\tsyscall\n\tvmovups %%ymm1, (%3)\n\tvzeroupper"
                     : "=a"(r)
                     : "a"(SYS_kill), "D"(pid), "r"(v), "S"(SIGUSR2)
                     : "rcx", "r11", "xmm1", "memory");
    printf("after: %ld xmm1 %x %x ymm1 %x %x\n", r, v[0], v[1], v[4], v[5]);
}

int main(void)
{
    bool first = getpid() == 1;

    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    mmap((void *)CODE, 0x10000, PROT_READ | PROT_WRITE | PROT_EXEC,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mmap((void *)DATA, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
         0);
    mmap((void *)(DATA + 4096), 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mmap((void *)(STACK & ~0xffful), 4096, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    set_handlers();
    printf("BEGIN\n");
    instructions();
    selectors();
    steps();
    breakpoints();
    vectors();
    printf("END\n");
    fflush(stdout);
    if (first)
        reboot(RB_POWER_OFF);
    return 0;
}
