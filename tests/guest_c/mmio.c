/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Operands in device memory: each kind of instruction runs with its operand in RAM, in memory
 * behind a device, and across the border of the two, at the same linear address. Registers, flags,
 * x87 and vector results and memory must be the same. For a whole machine with a device for tests.
 */
#include "kern.h"

#define WINDOW      0x8000000ul
#define PAGES       3u
#define DEVICE      0xff000000ul
#define CR4_OSXSAVE (1ul << 18)
#define FLAGS_ARITH 0x8d5ul

/* What mmio_go loads and stores: RAX to R15 in the order of their numbers, without RSP. */
extern uint64_t mmio_regs[16], mmio_flags, mmio_code, mmio_out[8];
void mmio_go(void);

__asm__(".pushsection .data\n\t.balign 64\nmmio_out: .fill 8, 8, 0\nmmio_regs: .fill 16, 8, 0\n"
        "mmio_flags: .quad 0\nmmio_code: .quad 0\n.popsection\n"
        "mmio_go: push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
        "push mmio_flags(%rip)\n\tpopfq\n\t"
        "mov mmio_regs(%rip), %rax\n\tmov mmio_regs+8(%rip), %rcx\n\t"
        "mov mmio_regs+16(%rip), %rdx\n\tmov mmio_regs+24(%rip), %rbx\n\t"
        "mov mmio_regs+40(%rip), %rbp\n\tmov mmio_regs+48(%rip), %rsi\n\t"
        "mov mmio_regs+56(%rip), %rdi\n\tmov mmio_regs+64(%rip), %r8\n\t"
        "mov mmio_regs+72(%rip), %r9\n\tmov mmio_regs+80(%rip), %r10\n\t"
        "call *mmio_code(%rip)\n\t"
        "mov %rax, mmio_regs(%rip)\n\tmov %rcx, mmio_regs+8(%rip)\n\t"
        "mov %rdx, mmio_regs+16(%rip)\n\tmov %rbx, mmio_regs+24(%rip)\n\t"
        "mov %rbp, mmio_regs+40(%rip)\n\tmov %rsi, mmio_regs+48(%rip)\n\t"
        "mov %rdi, mmio_regs+56(%rip)\n\tmov %r8, mmio_regs+64(%rip)\n\t"
        "mov %r9, mmio_regs+72(%rip)\n\tmov %r10, mmio_regs+80(%rip)\n\t"
        "pushfq\n\tpop mmio_flags(%rip)\n\tcld\n\t"
        "pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\tret\n");

struct blob {
    unsigned number;
    const void *code;
    unsigned align; /* of the operand */
    unsigned needs; /* NEEDS_* */
};
enum { NEEDS_NOTHING, NEEDS_AVX, NEEDS_BMI, NEEDS_SSE4 };

/* The operand is at RBX; RSI is the same, RDI 64 bytes further on, RBP 32. */
#define B(n, text, align, needs)                                                                   \
    __asm__(".pushsection .text\nblob_" #n ": " text "\n\tret\n.popsection");
#define LIST                                                                                       \
    /* moves */                                                                                    \
    B(1, "mov (%rbx), %al\n\tmov 8(%rbx), %cx\n\tmov 16(%rbx), %edx\n\tmov 3(%rbx), %r8", 1, 0)    \
    B(2, "mov %al, (%rbx)\n\tmov %cx, 8(%rbx)\n\tmov %edx, 17(%rbx)\n\tmov %r8, -5(%rbx)", 1, 0)   \
    B(3, "movb $0x85, (%rbx)\n\tmovw $0x1234, 8(%rbx)\n\tmovq $-77, 17(%rbx)", 1, 0)               \
    B(4, "movzbl (%rbx), %eax\n\tmovswq 1(%rbx), %rcx\n\tmovslq 3(%rbx), %rdx", 1, 0)              \
    B(5, "xchg %al, (%rbx)\n\txchg %cx, 1(%rbx)\n\txchg %edx, 5(%rbx)\n\txchg %r8, (%rbx)", 1, 0)  \
    B(6, "bswap %eax\n\tmovbe (%rbx), %eax\n\tmovbe %ecx, 1(%rbx)\n\tmovnti %r8, 8(%rbx)", 1, 0)   \
    B(7, "stc\n\tsetc (%rbx)\n\tcmovc 1(%rbx), %eax\n\tcmovnc 1(%rbx), %ecx", 1, 0)                \
    /* arithmetic */                                                                               \
    B(10, "add %al, (%rbx)\n\tadc %cx, 3(%rbx)\n\tsbb %edx, 5(%rbx)\n\tsub %r8, (%rbx)", 1, 0)     \
    B(11, "add (%rbx), %al\n\tadc 3(%rbx), %cx\n\tsbb 5(%rbx), %edx\n\tsub (%rbx), %r8", 1, 0)     \
    B(12, "andl $0x5555, (%rbx)\n\torw $3, 2(%rbx)\n\txorb $9, (%rbx)\n\tcmpl $7, (%rbx)", 1, 0)   \
    B(13, "lock addl $5, (%rbx)\n\tlock decb (%rbx)\n\tlock xorq $3, 8(%rbx)", 1, 0)               \
    B(14, "incl (%rbx)\n\tdecw 1(%rbx)\n\tnegq (%rbx)\n\tnotb (%rbx)\n\ttestl $9, (%rbx)", 1, 0)   \
    B(15, "xadd %al, (%rbx)\n\txadd %cx, 1(%rbx)\n\tlock xadd %edx, 3(%rbx)", 1, 0)                \
    B(16, "lock xadd %r8, (%rbx)\n\tcmpxchg %ecx, (%rbx)", 1, 0)                                   \
    B(17, "mov (%rbx), %rax\n\tlock cmpxchg %r8, (%rbx)\n\tcmpxchg %cl, 1(%rbx)", 1, 0)            \
    B(18, "cmpxchg8b (%rbx)\n\tlock cmpxchg8b (%rbx)", 1, 0)                                       \
    B(19, "lock cmpxchg16b (%rbx)\n\tcmpxchg16b (%rbx)", 16, 0)                                    \
    B(20, "roll %cl, (%rbx)\n\trcrq $3, (%rbx)\n\tshlb $1, (%rbx)\n\tsarw $4, 1(%rbx)", 1, 0)      \
    B(21, "shld $5, %rcx, (%rbx)\n\tshrd %cl, %eax, (%rbx)", 1, 0)                                 \
    B(22,                                                                                          \
      "movzbl %cl, %ecx\n\tmovzbl %al, %eax\n\tbtsq $3, (%rbx)\n\tlock btrl $9, (%rbx)\n\tbtc "    \
      "%rcx, 8(%rbx)\n\tbt %ax, (%rbx)",                                                           \
      1, 0)                                                                                        \
    B(23, "bsf (%rbx), %eax\n\tbsr 1(%rbx), %rcx\n\tpopcnt (%rbx), %edx", 1, 0)                    \
    B(24, "imul (%rbx), %eax\n\timul $3, 1(%rbx), %rcx\n\tmulb (%rbx)\n\tmulq (%rbx)", 1, 0)       \
    B(25, "mov $0, %edx\n\tmovq $77, (%rbx)\n\tdivq (%rbx)\n\tmov $0, %edx\n\tidivl (%rbx)", 1, 0) \
    B(26, "crc32b (%rbx), %eax\n\tcrc32q 1(%rbx), %rcx", 1, NEEDS_SSE4)                            \
    B(27,                                                                                          \
      "mulx (%rbx), %rax, %rcx\n\tandn 1(%rbx), %rdx, %r8\n\tpext (%rbx), %r8, %r9\n\t"            \
      "cmp %al, %al",                                                                              \
      1, NEEDS_BMI)                                                                                \
    /* stack and control */                                                                        \
    B(30, "pushq (%rbx)\n\tpopq 8(%rbx)\n\tpushw 3(%rbx)\n\tpopw (%rbx)", 1, 0)                    \
    B(31,                                                                                          \
      "xchg %rsp, %rbp\n\tpush %rax\n\tpushw %cx\n\tpushq $-3\n\tpop %rdx\n\tpopw %ax\n\t"         \
      "pushfq\n\tpopfq\n\txchg %rsp, %rbp",                                                        \
      1, 0)                                                                                        \
    B(32,                                                                                          \
      "xchg %rsp, %rbp\n\tcall 1f\n\tmov $1, %eax\n\tjmp 2f\n1: inc %ecx\n\tret\n"                 \
      "2: xchg %rsp, %rbp",                                                                        \
      1, 0)                                                                                        \
    B(33,                                                                                          \
      "mov %rsp, %r8\n\tmov %rbp, %rsp\n\tenter $16, $0\n\tpush %rax\n\tleave\n\t"                 \
      "mov %r8, %rsp\n\txor %r8, %r8",                                                             \
      1, 0)                                                                                        \
    B(34,                                                                                          \
      "lea 1f(%rip), %rax\n\tmov %rax, (%rbx)\n\tjmp *(%rbx)\n\tnop\n1: lea 2f(%rip), %rax\n\t"    \
      "mov %rax, 3(%rbx)\n\tcall *3(%rbx)\n\tnop\n\tjmp 3f\n2: ret\n3: xor %eax, %eax",            \
      1, 0)                                                                                        \
    B(35,                                                                                          \
      "mov %ss, %eax\n\txchg %rsp, %rbp\n\tmov %rsp, %r8\n\tpush %rax\n\tpush %r8\n\tpushfq\n\t"   \
      "mov %cs, %eax\n\tpush %rax\n\tlea 1f(%rip), %rax\n\tpush %rax\n\tiretq\n1:\n\t"             \
      "xchg %rsp, %rbp",                                                                           \
      1, 0)                                                                                        \
    /* strings */                                                                                  \
    B(40, "mov $19, %ecx\n\trep movsb", 1, 0)                                                      \
    B(41, "mov $5, %ecx\n\trep movsq\n\tmovsw", 1, 0)                                              \
    B(42, "std\n\tadd $24, %rsi\n\tadd $24, %rdi\n\tmov $7, %ecx\n\trep movsl", 1, 0)              \
    B(43, "mov $9, %ecx\n\trep stosw\n\tstosq\n\tlodsl\n\tlodsb", 1, 0)                            \
    B(44, "mov $30, %ecx\n\trepe cmpsb\n\tmov $4, %edx", 1, 0)                                     \
    B(45,                                                                                          \
      "mov $9, %ecx\n\trepne scasl\n\tmov 7(%rbx), %al\n\tmov %rbx, %rdi\n\tmov $20, %ecx\n\t"     \
      "repne scasb",                                                                               \
      1, 0)                                                                                        \
    B(46,                                                                                          \
      "lea mmio_out(%rip), %rdi\n\tmov $6, %ecx\n\trep movsq\n\tlea mmio_out(%rip), %rsi\n\t"      \
      "mov %rbx, %rdi\n\tmov $20, %ecx\n\trep movsb\n\txor %esi, %esi",                            \
      1, 0)                                                                                        \
    B(47, "mov $0xe0, %edx\n\tmov $5, %ecx\n\trep outsl\n\tmov $9, %ecx\n\trep insb", 1, 0)        \
    B(48, "mov $3000, %ecx\n\tmov %rbx, %rdi\n\trep stosb", 1, 0)                                  \
    /* system */                                                                                   \
    B(50, "smsw (%rbx)\n\tsldt 3(%rbx)\n\tstr 5(%rbx)\n\tmov %ds, 7(%rbx)", 1, 0)                  \
    B(51,                                                                                          \
      "mov %cr0, %rax\n\tmov %ax, (%rbx)\n\tlmsw (%rbx)\n\tmov %ds, (%rbx)\n\tmov (%rbx), %es\n\t" \
      "verw (%rbx)\n\tlar (%rbx), %eax\n\tlsl (%rbx), %ecx",                                       \
      1, 0)                                                                                        \
    B(52, "sgdt (%rbx)\n\tlgdt (%rbx)\n\tsidt 3(%rbx)\n\tlidt 3(%rbx)", 1, 0)                      \
    B(53, "clflush (%rbx)\n\tprefetcht0 (%rbx)\n\tprefetchw (%rbx)\n\tlfence", 1, 0)               \
    B(54,                                                                                          \
      "mov %cs, %eax\n\tmov %ax, 8(%rbx)\n\tlea 1f(%rip), %rax\n\tmov %eax, 4(%rbx)\n\t"           \
      "ljmp *4(%rbx)\n\tnop\n1: xor %eax, %eax",                                                   \
      1, 0)                                                                                        \
    /* x87 and MMX */                                                                              \
    B(60,                                                                                          \
      "fninit\n\tflds (%rbx)\n\tfldl 3(%rbx)\n\tfldt (%rbx)\n\tfstps 17(%rbx)\n\tfstpl (%rbx)"     \
      "\n\tfstpt 5(%rbx)",                                                                         \
      1, 0)                                                                                        \
    B(61,                                                                                          \
      "fninit\n\tfilds (%rbx)\n\tfildl 1(%rbx)\n\tfildll 3(%rbx)\n\tfistpll 9(%rbx)\n\t"           \
      "fisttpl (%rbx)\n\tfistps 5(%rbx)",                                                          \
      1, 0)                                                                                        \
    B(62,                                                                                          \
      "fninit\n\tfildl (%rbx)\n\tfbstp 3(%rbx)\n\tfbld 3(%rbx)\n\tfadds (%rbx)\n\t"                \
      "fimuls 1(%rbx)\n\tfstpt mmio_out(%rip)",                                                    \
      1, 0)                                                                                        \
    B(63,                                                                                          \
      "fninit\n\tfnstcw (%rbx)\n\tfldcw (%rbx)\n\tfnstsw 3(%rbx)\n\tfnstenv 5(%rbx)\n\t"           \
      "fldenv 5(%rbx)",                                                                            \
      1, 0)                                                                                        \
    B(64, "fninit\n\tfld1\n\tfldpi\n\tfnsave 3(%rbx)\n\tfrstor 3(%rbx)\n\tfstpt (%rbx)", 1, 0)     \
    B(65,                                                                                          \
      "movq (%rbx), %mm0\n\tpaddw 3(%rbx), %mm0\n\tmovq %mm0, 5(%rbx)\n\tmovd %mm0, (%rbx)\n\t"    \
      "movntq %mm0, 8(%rbx)\n\temms",                                                              \
      1, 0)                                                                                        \
    B(66, "fninit\n\tfldpi\n\tfxsave (%rbx)\n\tfninit\n\tfxrstor (%rbx)\n\tfstpt mmio_out(%rip)",  \
      16, 0)                                                                                       \
    /* vectors */                                                                                  \
    B(70,                                                                                          \
      "movups (%rbx), %xmm0\n\tmovups %xmm0, 5(%rbx)\n\tmovdqu 3(%rbx), %xmm1\n\t"                 \
      "movdqu %xmm1, (%rbx)\n\tlddqu 1(%rbx), %xmm2\n\tmovups %xmm2, mmio_out(%rip)",              \
      1, 0)                                                                                        \
    B(71,                                                                                          \
      "movaps (%rbx), %xmm0\n\tmovapd %xmm0, 16(%rbx)\n\tmovdqa 16(%rbx), %xmm1\n\t"               \
      "paddd (%rbx), %xmm1\n\tmovntdq %xmm1, (%rbx)\n\tmovntps %xmm0, 32(%rbx)",                   \
      16, 0)                                                                                       \
    B(72,                                                                                          \
      "movss (%rbx), %xmm0\n\tmovsd 1(%rbx), %xmm1\n\tmovhps 3(%rbx), %xmm1\n\t"                   \
      "movlps %xmm1, 5(%rbx)\n\tmovhpd %xmm1, (%rbx)\n\tmovss %xmm0, 9(%rbx)\n\t"                  \
      "movsd %xmm1, 11(%rbx)\n\tmovq 2(%rbx), %xmm3\n\tmovd %xmm3, 3(%rbx)",                       \
      1, 0)                                                                                        \
    B(73,                                                                                          \
      "pinsrw $3, (%rbx), %xmm0\n\tcvtsi2sdl (%rbx), %xmm1\n\tcvttsd2si 1(%rbx), %eax\n\t"         \
      "stmxcsr (%rbx)\n\tldmxcsr (%rbx)\n\tmovups %xmm1, mmio_out(%rip)",                          \
      1, 0)                                                                                        \
    B(74,                                                                                          \
      "pextrb $1, %xmm0, (%rbx)\n\tpinsrq $1, (%rbx), %xmm0\n\tpextrd $2, %xmm0, 3(%rbx)\n\t"      \
      "pmovzxbw 1(%rbx), %xmm1\n\tmovups %xmm1, mmio_out(%rip)",                                   \
      1, NEEDS_SSE4)                                                                               \
    B(75,                                                                                          \
      "pcmpeqb %xmm1, %xmm1\n\tpsrldq $9, %xmm1\n\tmovups (%rbx), %xmm0\n\tlea 32(%rbx), %rdi"     \
      "\n\tmaskmovdqu %xmm1, %xmm0",                                                               \
      1, 0)                                                                                        \
    B(76,                                                                                          \
      "vmovdqu (%rbx), %ymm0\n\tvpaddd 3(%rbx), %ymm0, %ymm1\n\tvmovdqu %ymm1, 5(%rbx)\n\t"        \
      "vbroadcastss (%rbx), %ymm2\n\tvmovups %ymm2, 40(%rbx)\n\tvzeroupper",                       \
      1, NEEDS_AVX)                                                                                \
    B(77,                                                                                          \
      "vpcmpeqd %ymm1, %ymm1, %ymm1\n\tvpsrlq $32, %ymm1, %ymm1\n\tvpslld $31, %ymm1, %ymm1"       \
      "\n\tvmaskmovps (%rbx), %ymm1, %ymm0\n\tvmaskmovps %ymm0, %ymm1, 5(%rbx)\n\tvzeroupper",     \
      1, NEEDS_AVX)                                                                                \
    B(78,                                                                                          \
      "vpxor %xmm0, %xmm0, %xmm0\n\tvpcmpeqd %xmm1, %xmm1, %xmm1\n\t"                              \
      "vpgatherdd %xmm1, 5(%rbx,%xmm0,4), %xmm2\n\tvmovdqu %xmm2, mmio_out(%rip)",                 \
      1, NEEDS_AVX)                                                                                \
    B(79,                                                                                          \
      "pxor %xmm0, %xmm0\n\tmovups %xmm0, 512(%rbx)\n\tmovups %xmm0, 528(%rbx)\n\t"                \
      "movups %xmm0, 544(%rbx)\n\tmovups %xmm0, 560(%rbx)\n\tmov $7, %eax\n\txor %edx, %edx\n\t"   \
      "xsave (%rbx)\n\txrstor (%rbx)",                                                             \
      64, NEEDS_AVX)
LIST
#undef B

#define B(n, text, align, needs) extern const char blob_##n[];
    LIST
#undef B
#define B(n, text, align, needs) {n, blob_##n, align, needs},
    static const struct blob blobs[] = {LIST};

static uint8_t ram[PAGES * 4096] __attribute__((aligned(4096)));
static uint64_t table[512] __attribute__((aligned(4096)));
static bool has[4];

/* Bit i of device: page i is the device's. */
static void map(unsigned device)
{
    for (unsigned i = 0; i < PAGES; i++) {
        table[i] = ((device >> i & 1) != 0 ? DEVICE + i * 4096 : (unsigned long)ram + i * 4096) | 3;
        invlpg(WINDOW + i * 4096);
    }
}

struct result {
    uint64_t regs[16], flags, out[8];
    uint64_t sum[PAGES]; /* of each page */
    long vector;
};

static void call_blob(void *p)
{
    (void)p;
    mmio_go();
}

static void once(const struct blob *b, unsigned device, unsigned long at, struct result *r)
{
    map(device);
    for (unsigned i = 0; i < PAGES * 4096 / 8; i++)
        ((volatile uint64_t *)WINDOW)[i] = 0x0123456789abcdeful * (i % 37 + 3) ^ i << 13;
    for (unsigned i = 0; i < 16; i++)
        mmio_regs[i] = 0x9e3779b97f4a7c15ul * (i + 1);
    memset(mmio_out, 0, sizeof(mmio_out));
    mmio_regs[3] = mmio_regs[6] = at;
    mmio_regs[5] = at + 32;
    mmio_regs[7] = at + 64;
    mmio_flags = 2;
    mmio_code = (uint64_t)b->code;
    r->vector = try_call(call_blob, NULL);
    memcpy(r->regs, mmio_regs, sizeof(r->regs));
    memcpy(r->out, mmio_out, sizeof(r->out));
    r->flags = mmio_flags & FLAGS_ARITH;
    for (unsigned p = 0; p < PAGES; p++) {
        r->sum[p] = 0;
        for (unsigned i = 0; i < 512; i++)
            r->sum[p] =
                (r->sum[p] << 5 | r->sum[p] >> 59) + ((volatile uint64_t *)WINDOW)[p * 512 + i];
    }
}

static void compare(const struct blob *b, unsigned device, unsigned long at)
{
    struct result want, got;

    once(b, 0, at, &want);
    CHECK(want.vector == -1, "blob %u: exception %ld in RAM", b->number, want.vector);
    once(b, device, at, &got);
    CHECK(got.vector == -1, "blob %u: exception %ld; %x at %lx", b->number, got.vector, device, at);
    for (unsigned i = 0; i < 16; i++)
        CHECK(got.regs[i] == want.regs[i], "blob %u: register %u is %lx, not %lx; %x at %lx",
              b->number, i, got.regs[i], want.regs[i], device, at);
    CHECK(got.flags == want.flags, "blob %u: flags %lx, not %lx", b->number, got.flags, want.flags);
    for (unsigned i = 0; i < 8; i++)
        CHECK(got.out[i] == want.out[i], "blob %u: result %lx, not %lx; %x at %lx", b->number,
              got.out[i], want.out[i], device, at);
    for (unsigned p = 0; p < PAGES; p++)
        CHECK(got.sum[p] == want.sum[p], "blob %u: page %u differs; %x at %lx", b->number, p,
              device, at);
}

void test_main(void)
{
    static const unsigned offsets[] = {0x400, 0xfff, 0xffe, 0xffd, 0xffc,
                                       0xff9, 0xff8, 0xff0, 0xfe1, 0xfc0};
    uint64_t *pd = (uint64_t *)(PT_BASE + 0x2000ul) + (WINDOW >> 21);

    outb(0xe0, 0x5a);
    if (inb(0xe0) != 0x5a) {
        print("no device with memory\n");
        return;
    }
    *pd = (uint64_t)table | 3;
    has[NEEDS_NOTHING] = true;
    has[NEEDS_SSE4] = cpu_has(1, 2, 20);
    has[NEEDS_BMI] = cpu_has(7, 1, 3) && cpu_has(7, 1, 8);
    has[NEEDS_AVX] = cpu_has(7, 1, 5) && cpu_has(1, 2, 26);
    if (has[NEEDS_AVX]) {
        wr_cr4(rd_cr4() | CR4_OSXSAVE);
        __asm__ volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
    }
    for (unsigned i = 0; i < sizeof(blobs) / sizeof(blobs[0]); i++) {
        if (!has[blobs[i].needs])
            continue;
        for (unsigned o = 0; o < sizeof(offsets) / sizeof(offsets[0]); o++) {
            if (offsets[o] % blobs[i].align != 0)
                continue;
            for (unsigned device = 1; device < 8; device++)
                compare(&blobs[i], device, WINDOW + offsets[o]);
        }
    }
}
