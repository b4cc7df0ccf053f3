/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A kernel that does one operation of the system many times: "NAME COUNT" on the first serial port,
 * answered by "@done NAME 0". Between commands it halts, so that whoever measures processor time
 * from outside sees nothing but the operation.
 */
#include <stdint.h>

#define USER_CODE  0x40000000ull
#define USER_STACK 0x40010000ull
#define TEST_PAGES 0x40020000ull /* 64 of them, mapped */
#define NO_PAGE    0x40100000ull

extern uint64_t pml4[512], pdpt[512], pd_user[512], pd_high[512], pt_user[512];
extern char stack_top[], user_start[], user_end[], user_syscall[], user_fault[], user_int[];
extern void on_syscall(void), on_int(void), on_page_fault(void), on_serial(void), on_ipi(void),
    on_spurious(void), on_leave(void);
void enter_user(uint64_t rip, uint64_t rsp, uint64_t count, uint64_t address);
void kernel_main(void);

volatile uint32_t *lapic = (volatile uint32_t *)0xfee00000ull;
volatile uint64_t ipis;

/* ---- ports and registers --------------------------------------------------------------------- */

static void out8(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static uint8_t in8(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static void wrmsr(uint32_t msr, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}
static uint64_t rdmsr(uint32_t msr)
{
    uint32_t a, d;
    __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(msr));
    return (uint64_t)d << 32 | a;
}

/* ---- the serial port ------------------------------------------------------------------------- */

#define COM1 0x3f8

static void put(const char *s)
{
    for (; *s != 0; s++) {
        while ((in8(COM1 + 5) & 0x20) == 0)
            ;
        out8(COM1, (uint8_t)*s);
    }
}

static char get(void)
{
    for (;;) {
        __asm__ volatile("cli");
        if ((in8(COM1 + 5) & 1) != 0)
            break;
        __asm__ volatile("sti; hlt");
    }
    __asm__ volatile("sti");
    return (char)in8(COM1);
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static uint64_t gdt[8] = {0, 0x00209b0000000000, 0x0000930000000000,
                          0, 0x0000f30000000000, 0x0020fb0000000000};
static uint32_t tss[26] __attribute__((aligned(16)));
static uint64_t idt[256][2] __attribute__((aligned(16)));

struct __attribute__((packed)) table_reg {
    uint16_t limit;
    uint64_t base;
};

static void gate(unsigned vector, void (*fn)(void), unsigned dpl)
{
    uint64_t a = (uint64_t)fn;
    idt[vector][0] =
        (a & 0xffff) | 8u << 16 | (0x8e00ull | (uint64_t)dpl << 13) << 32 | (a & 0xffff0000) << 32;
    idt[vector][1] = a >> 32;
}

static void setup_descriptors(void)
{
    uint64_t base = (uint64_t)tss, rsp0 = (uint64_t)stack_top - 8192;
    struct table_reg g = {sizeof(gdt) - 1, (uint64_t)gdt}, i = {sizeof(idt) - 1, (uint64_t)idt};

    tss[1] = (uint32_t)rsp0;
    tss[2] = (uint32_t)(rsp0 >> 32);
    gdt[6] =
        (sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[7] = base >> 32;
    gate(0x0e, on_page_fault, 0);
    gate(0x24, on_serial, 0);
    gate(0x40, on_ipi, 0);
    gate(0x80, on_int, 3);
    gate(0x81, on_leave, 3);
    gate(0xff, on_spurious, 0);
    __asm__ volatile("lgdt %0; lidt %1; ltr %w2" : : "m"(g), "m"(i), "r"(0x30));
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void map_user(uint64_t la, uint64_t pa)
{
    pt_user[la >> 12 & 511] = pa | 7;
}

static void setup_memory(void)
{
    pdpt[1] = (uint64_t)pd_user | 7;
    pd_user[0] = (uint64_t)pt_user | 7;
    pdpt[3] = (uint64_t)pd_high | 7;
    pd_high[0xfee00000u >> 21 & 511] = 0xfee00000u | 0x9b; /* 2 MiB, uncached */
    for (uint64_t a = (uint64_t)user_start, n = 0; a < (uint64_t)user_end; a += 4096, n += 4096)
        map_user(USER_CODE + n, a);
    map_user(USER_STACK - 4096, 0x300000);
    for (unsigned i = 0; i < 64; i++)
        map_user(TEST_PAGES + 4096 * i, 0x400000 + 4096 * i);
}

static void setup_devices(void)
{
    out8(0x20, 0x11); /* both interrupt controllers: vectors 20 and 28, all masked but IRQ 4 */
    out8(0x21, 0x20);
    out8(0x21, 4);
    out8(0x21, 1);
    out8(0xa0, 0x11);
    out8(0xa1, 0x28);
    out8(0xa1, 2);
    out8(0xa1, 1);
    out8(0x21, 0xef);
    out8(0xa1, 0xff);
    out8(COM1 + 3, 3);
    out8(COM1 + 4, 0x0b);
    out8(COM1 + 2, 1);
    out8(COM1 + 1, 1);
    lapic[0xf0 / 4] = 0x1ff;
    lapic[0x350 / 4] = 0x700; /* LINT0: the interrupt controllers */
}

/* ---- operations ------------------------------------------------------------------------------ */

static uint64_t user(const char *label)
{
    return USER_CODE + (uint64_t)(label - user_start);
}
static void op_syscall(uint64_t n)
{
    enter_user(user(user_syscall), USER_STACK, n, 0);
}
static void op_page_fault(uint64_t n)
{
    enter_user(user(user_fault), USER_STACK, n, NO_PAGE);
}
static void op_user_int(uint64_t n)
{
    enter_user(user(user_int), USER_STACK, n, 0);
}

/* count is rounded up to a multiple of 8 */
#define OP(name, insns, ...)                                                                       \
    static void op_##name(uint64_t n)                                                              \
    {                                                                                              \
        for (uint64_t i = 0; i < n; i += 8)                                                        \
            __asm__ volatile(".rept 8\n" insns "\n.endr" __VA_ARGS__);                             \
    }
static uint64_t cr3(void)
{
    uint64_t v;
    __asm__ volatile("mov %%cr3, %0" : "=r"(v));
    return v;
}

OP(interrupt, "int $0x80", : : : "memory")
OP(out, "outb %%al, $0x80", : : "a"(0))
OP(in, "inb $0x80, %%al", : : : "rax")
OP(cr8, "mov %0, %%cr8", : : "r"(0ull))
OP(cr3, "mov %0, %%cr3", : : "r"(cr3()) : "memory")
OP(invlpg, "invlpg (%0)", : : "r"(TEST_PAGES) : "memory")
OP(cpuid, "mov $1, %%eax\ncpuid", : : : "rax", "rbx", "rcx", "rdx")
OP(cli_sti, "cli\nsti", : : : "cc")
OP(pushf_popf, "pushf\npopf", : : : "memory", "cc")
OP(rdmsr, "mov $0xc0000102, %%ecx\nrdmsr", : : : "rax", "rcx", "rdx")
OP(wrmsr, "mov $0xc0000102, %%ecx\nxor %%eax, %%eax\nxor %%edx, %%edx\nwrmsr",
   :
   :
   : "rax", "rcx", "rdx", "cc")
OP(rdtsc, "rdtsc", : : : "rax", "rdx")
OP(swapgs, "swapgs", : : : "memory")
OP(fxsave, "fxsave %0\nfxrstor %0", : "+m"(*(char (*)[512])0x500000) : : "memory")
OP(cr3_touch,
   "mov %0, %%cr3\nmov (%1), %%eax\nmov 4096(%1), %%eax\nmov 8192(%1), %%eax\n"
   "mov 12288(%1), %%eax\nmov 16384(%1), %%eax\nmov 20480(%1), %%eax\nmov 24576(%1), %%eax\n"
   "mov 28672(%1), %%eax",
   :
   : "r"(cr3()), "r"(TEST_PAGES)
   : "rax", "memory")

static __attribute__((noinline)) void callee(void)
{
    __asm__ volatile("");
}
static void op_call_ret(uint64_t n)
{
    for (uint64_t i = 0; i < n; i += 8)
        __asm__ volatile(".rept 8\ncall %P0\n.endr" : : "i"(callee) : "memory");
}

static void op_iret(uint64_t n)
{
    while (n-- > 0)
        __asm__ volatile("mov %%rsp, %%rax\n"
                         "pushq $0\npush %%rax\npushf\npushq $8\n"
                         "lea 1f(%%rip), %%rax\npush %%rax\niretq\n1:"
                         :
                         :
                         : "rax", "memory");
}

/* An interrupt that the local APIC delivers, acknowledged by its handler. */
static void op_ipi(uint64_t n)
{
    while (n-- > 0) {
        uint64_t before = ipis;
        lapic[0x300 / 4] = 0x40000 | 0x4000 | 0x40; /* to self */
        while (ipis == before)
            ;
    }
}

static void op_nothing(uint64_t n)
{
    (void)n;
}

static const struct {
    const char *name;
    void (*run)(uint64_t n);
} ops[] = {
    {"syscall", op_syscall},
    {"page_fault", op_page_fault},
    {"interrupt", op_interrupt},
    {"user_int", op_user_int},
    {"ipi", op_ipi},
    {"in", op_in},
    {"out", op_out},
    {"cr8", op_cr8},
    {"cr3", op_cr3},
    {"cr3_touch", op_cr3_touch},
    {"invlpg", op_invlpg},
    {"call_ret", op_call_ret},
    {"cpuid", op_cpuid},
    {"cli_sti", op_cli_sti},
    {"pushf_popf", op_pushf_popf},
    {"rdmsr", op_rdmsr},
    {"wrmsr", op_wrmsr},
    {"rdtsc", op_rdtsc},
    {"swapgs", op_swapgs},
    {"iret", op_iret},
    {"fxsave", op_fxsave},
    {"nothing", op_nothing},
};

/* ---- commands -------------------------------------------------------------------------------- */

static int same(const char *a, const char *b)
{
    while (*a != 0 && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

static void command(char *line)
{
    char *p = line;
    uint64_t n = 0;

    while (*p != 0 && *p != ' ')
        p++;
    if (*p != 0)
        *p++ = 0;
    for (; *p >= '0' && *p <= '9'; p++)
        n = n * 10 + (uint64_t)(*p - '0');
    for (unsigned i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
        if (same(ops[i].name, line)) {
            ops[i].run(n);
            put("@done ");
            put(line);
            put(" 0 0\r\n");
            return;
        }
    put("@error\r\n");
}

void kernel_main(void)
{
    char line[64];
    unsigned n = 0;

    setup_memory();
    setup_descriptors();
    wrmsr(0xc0000081, 0x001b000800000000ull); /* STAR: kernel CS 8, user CS 2b, SS 23 */
    wrmsr(0xc0000082, (uint64_t)on_syscall);
    wrmsr(0xc0000084, 0);
    (void)rdmsr(0x1b);
    setup_devices();
    put("@ready\r\n");
    for (;;) {
        char c = get();
        if (c == '\r')
            continue;
        if (c == '\n' || n == sizeof(line) - 1) {
            line[n] = 0;
            n = 0;
            if (same(line, "quit"))
                break;
            command(line);
        } else {
            line[n++] = c;
        }
    }
    out8(0xf4, 0);
}
