/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest of a few hundred bytes, started by Multiboot, for tests that need no Linux. The last word
 * of its command line says what it does:
 *   idle   sleep, and say "tick N" at every second timer interrupt
 *   busy   count for ever, with interrupts off
 *   work   count for ever, with interrupts on
 *   echo   send back what is typed, in upper case
 *   crash  say so, and triple-fault
 *   smc    run code that it writes, again and again, and check it
 *   regs   switch caches off and on in CR0, and check that it reads as it was written
 *   irqs   take a thousand timer interrupts, and say how many came while interrupts were off
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

__asm__(".section .header, \"ax\"\n"
        ".align 4\n"
        ".long 0x1badb002, 0, -0x1badb002\n"
        ".globl _start\n"
        "_start:\n"
        "mov $stack_top, %esp\n"
        "push %ebx\n"
        "call guest_main\n"
        "1: hlt\n"
        "jmp 1b\n"
        ".section .bss\n"
        ".skip 4096\n"
        "stack_top:\n"
        ".text\n"
        "timer_entry:\n"
        "pusha\n"
        "pushl 40(%esp)\n"
        "call on_timer\n"
        "add $4, %esp\n"
        "popa\n"
        "iret\n");

void guest_main(u32 info);
void on_timer(u32 eflags);
extern char timer_entry[];

static inline void outb(u16 port, u8 v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline u8 inb(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static void put(char c)
{
    while ((inb(0x3fd) & 0x20) == 0)
        ;
    outb(0x3f8, (u8)c);
}

static void say(const char *s)
{
    while (*s != 0)
        put(*s++);
}

static void number(u32 n)
{
    char buf[12];
    int i = 11;

    buf[i] = 0;
    do {
        buf[--i] = (char)('0' + n % 10);
        n /= 10;
    } while (n != 0);
    say(buf + i);
}

/* ---- idle ---------------------------------------------------------------------------------------
 */

#define EFLAGS_IF 0x200u

static volatile u32 ticks, unasked;
static u32 linger; /* turns of a loop in the handler, before its first access to a device */

void on_timer(u32 eflags)
{
    ticks++;
    unasked += (eflags & EFLAGS_IF) == 0;
    for (volatile u32 n = 0; n < linger; n++)
        ;
    outb(0x20, 0x20);
}

static unsigned long long gdt[3] = {0, 0x00cf9b000000ffff, 0x00cf93000000ffff};
static unsigned long long idt[64];
static struct {
    u16 limit;
    u32 base;
} __attribute__((packed)) gdtr, idtr;

static void start_timer(u16 divisor)
{
    u32 at = (u32)timer_entry;

    gdtr.limit = sizeof(gdt) - 1;
    gdtr.base = (u32)gdt;
    idt[32] = (at & 0xffff) | 8u << 16 | (unsigned long long)(0x8e00 | (at & 0xffff0000)) << 32;
    idtr.limit = sizeof(idt) - 1;
    idtr.base = (u32)idt;
    __asm__ volatile("lgdt %0\n\tljmp $8, $1f\n1:\tmov $16, %%eax\n\tmov %%eax, %%ds\n\t"
                     "mov %%eax, %%es\n\tmov %%eax, %%ss\n\tlidt %1"
                     :
                     : "m"(gdtr), "m"(idtr)
                     : "eax", "memory");
    outb(0x20, 0x11); /* the 8259s: vectors from 32 on, only the timer */
    outb(0xa0, 0x11);
    outb(0x21, 32);
    outb(0xa1, 40);
    outb(0x21, 4);
    outb(0xa1, 2);
    outb(0x21, 1);
    outb(0xa1, 1);
    outb(0x21, 0xfe);
    outb(0xa1, 0xff);
    outb(0x43, 0x34);
    outb(0x40, divisor & 0xff);
    outb(0x40, divisor >> 8);
}

static void idle(void)
{
    start_timer(23864); /* 50 Hz */
    for (u32 said = 0;;) {
        __asm__ volatile("sti; hlt; cli");
        if (ticks / 25 != said) {
            said = ticks / 25;
            say("tick ");
            number(said);
            say("\n");
        }
    }
}

static void irqs(void)
{
    static u8 across[8] __attribute__((aligned(8)));

    linger = 2000;
    start_timer(1193); /* 1 kHz */
    __asm__ volatile("sti");
    while (ticks < 1000) /* emulators stop all processors for a locked access across two words */
        __asm__ volatile("lock incl %0" : "+m"(*(volatile u32 *)(across + 1)));
    __asm__ volatile("cli");
    say("interrupts that came while they were off: ");
    number(unasked);
    say("\n");
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* ---- the others ---------------------------------------------------------------------------------
 */

static void busy(int irqs)
{
    if (irqs) { /* none of which comes */
        outb(0x21, 0xff);
        outb(0xa1, 0xff);
        __asm__ volatile("sti");
    }
    say("busy\n");
    for (volatile u32 n = 0;; n++)
        ;
}

static void echo(void)
{
    say("ready\n");
    for (;;) {
        while ((inb(0x3fd) & 1) == 0)
            __asm__ volatile("pause");
        u8 c = inb(0x3f8);
        if (c >= 'a' && c <= 'z')
            c = (u8)(c - 32);
        put(c == '\r' ? '\n' : (char)c);
    }
}

static void crash(void)
{
    idtr.limit = 0;
    say("about to crash\n");
    __asm__ volatile("lidt %0\n\tint3" : : "m"(idtr));
}

static void smc(void)
{
    static u8 code[16] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov eax, imm32; ret */
    u32 (*volatile fn)(void) = (u32(*)(void))code;
    u32 bad = 0;

    for (u32 i = 0; i < 2000; i++) {
        *(volatile u32 *)(code + 1) = i * 2654435761u;
        bad += fn() != i * 2654435761u;
    }
    say(bad == 0 ? "modified code is right\n" : "modified code is WRONG\n");
    for (;;)
        __asm__ volatile("cli; hlt");
}

static void regs(void)
{
    u32 cr0, was, bad = 0;

    __asm__ volatile("mov %%cr0, %0" : "=r"(was));
    for (u32 i = 0; i < 8; i++) {
        u32 want = (was & ~0x60000000u) | (i % 4 == 1 ? 0x40000000u : i % 4 == 2 ? 0x60000000u : 0);
        __asm__ volatile("mov %1, %%cr0\n\tmov %%cr0, %0" : "=r"(cr0) : "r"(want) : "memory");
        bad += cr0 != want;
    }
    say(bad == 0 ? "CR0 is right\n" : "CR0 is WRONG\n");
    for (;;)
        __asm__ volatile("cli; hlt");
}

void guest_main(u32 info)
{
    const char *cmd = *(const char **)(info + 16), *last = cmd;

    if ((*(u32 *)info & 4) == 0)
        return;
    for (const char *p = cmd; *p != 0; p++)
        if (*p == ' ' && p[1] != 0)
            last = p + 1;
    say("tiny guest: ");
    say(last);
    say("\n");
    if (*last == 'i' && last[1] == 'd')
        idle();
    else if (*last == 'i')
        irqs();
    else if (*last == 'b' || *last == 'w')
        busy(*last == 'w');
    else if (*last == 'e')
        echo();
    else if (*last == 's')
        smc();
    else if (*last == 'r')
        regs();
    else
        crash();
}
