/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest program for several vCPUs, in flat 32-bit mode without paging: they start at the first
 * byte, each with its number in EAX and a stack of its own.
 */
#include "smp_guest.h"

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define LAPIC      0xfee00000u
#define LAPIC_EOI  0xb0
#define LAPIC_SVR  0xf0
#define LAPIC_ICR  0x300
#define LAPIC_ICR2 0x310
#define LAPIC_LVTT 0x320
#define LAPIC_INIT 0x380
#define LAPIC_DIV  0x3e0
#define VECTOR     0x40
#define MSR_STEAL  0x4b564d03u
#define CODE32     8

__asm__(".section .header, \"ax\"\n"
        ".globl _start\n"
        "_start:\n"
        "push %eax\n"
        "call guest_main\n"
        "1: cli\n"
        "hlt\n"
        "jmp 1b\n"
        ".text\n"
        "irq_entry:\n"
        "pusha\n"
        "call on_irq\n"
        "popa\n"
        "iret\n");

void guest_main(u32 me);
void on_irq(void);
extern char irq_entry[];

static struct smp_shared *const sh = (struct smp_shared *)SMP_SHARED;

static u32 rd(u32 reg)
{
    return *(volatile u32 *)(LAPIC + reg);
}

static void wr(u32 reg, u32 v)
{
    *(volatile u32 *)(LAPIC + reg) = v;
}

static void wrmsr(u32 index, u64 v)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

static void wait_a_little(void)
{
    if (sh->quiet)
        __asm__ volatile("nop" : : : "memory");
    else
        __asm__ volatile("pause" : : : "memory");
}

static void work(u32 me, u32 loops)
{
    if (sh->vary && loops != 0) {
        u32 x = sh->cpu[me].random * 1664525u + 1013904223u; /* Numerical Recipes, section 7.1 */
        sh->cpu[me].random = x;
        loops = loops / 2 + (x >> 8) % (loops + 1);
    }
    if (loops != 0)
        __asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(loops));
}

/* ---- interrupts ------------------------------------------------------------------------------ */

static u64 gdt[3] = {0, 0x00cf9b000000ffff, 0x00cf93000000ffff};
static u64 idt[SMP_MAX_CPUS][VECTOR + 1]; /* all the same, and written by each for itself */

void on_irq(void)
{
    u32 me = rd(0x20) >> 24;

    __atomic_add_fetch(&sh->cpu[me].ticks, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&sh->cpu[me].answered, __atomic_load_n(&sh->cpu[me].asked, __ATOMIC_SEQ_CST),
                     __ATOMIC_SEQ_CST);
    wr(LAPIC_EOI, 0);
}

static void irqs_on(u32 me)
{
    struct {
        unsigned short limit;
        u32 base;
    } __attribute__((packed)) g = {sizeof(gdt) - 1, (u32)gdt},
                              i = {sizeof(idt[0]) - 1, (u32)idt[me]};
    u32 at = (u32)irq_entry;

    idt[me][VECTOR] = (at & 0xffff) | (u64)CODE32 << 16 | (u64)(0x8e00 | (at & 0xffff0000)) << 32;
    __asm__ volatile("lgdt %0\n\tlidt %1" : : "m"(g), "m"(i) : "memory");
    wr(LAPIC_SVR, 0x1ff);
}

/* Sleep until the count of interrupts is at least n. */
static void wait_irqs(u32 me, u32 n)
{
    for (;;) {
        __asm__ volatile("cli" : : : "memory");
        if (__atomic_load_n(&sh->cpu[me].ticks, __ATOMIC_SEQ_CST) >= n)
            return;
        __asm__ volatile("sti\n\thlt" : : : "memory");
    }
}

/* ---- programs -------------------------------------------------------------------------------- */

static u32 lock(void)
{
    u32 ticket = __atomic_fetch_add(&sh->next.v, 1, __ATOMIC_SEQ_CST);

    while (__atomic_load_n(&sh->owner.v, __ATOMIC_ACQUIRE) != ticket)
        wait_a_little();
    return ticket;
}

static void unlock(u32 ticket)
{
    __atomic_store_n(&sh->owner.v, ticket + 1, __ATOMIC_RELEASE);
}

static void with_lock(u32 me)
{
    for (u32 i = 0; i < sh->rounds; i++) {
        work(me, sh->work);
        u32 ticket = lock();
        work(me, sh->critical);
        sh->sum++;
        unlock(ticket);
        sh->cpu[me].progress++;
    }
}

static void with_unfair_lock(u32 me)
{
    for (u32 i = 0; i < sh->rounds; i++) {
        work(me, sh->work);
        while (__atomic_exchange_n(&sh->owner.v, 1, __ATOMIC_ACQUIRE) != 0)
            while (__atomic_load_n(&sh->owner.v, __ATOMIC_RELAXED) != 0)
                wait_a_little();
        work(me, sh->critical);
        sh->sum++;
        __atomic_store_n(&sh->owner.v, 0, __ATOMIC_RELEASE);
        sh->cpu[me].progress++;
    }
}

static void with_barrier(u32 me)
{
    for (u32 i = 1; i <= sh->rounds; i++) {
        work(me, sh->work);
        if (__atomic_add_fetch(&sh->arrived.v, 1, __ATOMIC_SEQ_CST) == sh->cpus * i) {
            sh->sum += sh->cpus;
            __atomic_store_n(&sh->sense.v, i, __ATOMIC_RELEASE);
        }
        while (__atomic_load_n(&sh->sense.v, __ATOMIC_ACQUIRE) < i)
            wait_a_little();
        sh->cpu[me].progress++;
    }
}

static void count_for_ever(u32 me)
{
    for (;;) {
        work(me, 1000);
        ((volatile struct smp_cpu *)&sh->cpu[me])->progress++;
    }
}

static void tick(u32 me)
{
    irqs_on(me);
    wr(LAPIC_DIV, 0xb);
    wr(LAPIC_LVTT, 0x20000 | VECTOR); /* periodic */
    wr(LAPIC_INIT, sh->work);
    wait_irqs(me, sh->rounds);
    wr(LAPIC_INIT, 0);
    sh->cpu[me].progress = sh->rounds;
}

static void ping(u32 to)
{
    wr(LAPIC_ICR2, to << 24);
    wr(LAPIC_ICR, 0x4000 | VECTOR);
}

static void ping_pong(u32 me)
{
    irqs_on(me);
    if (__atomic_add_fetch(&sh->arrived.v, 1, __ATOMIC_SEQ_CST) < 2)
        while (__atomic_load_n(&sh->arrived.v, __ATOMIC_SEQ_CST) < 2)
            wait_a_little();
    for (u32 i = 1; i <= sh->rounds; i++) {
        if (me == 0)
            ping(1);
        wait_irqs(me, i);
        if (me == 1)
            ping(0);
        sh->cpu[me].progress++;
    }
}

/* As a kernel does that takes a page away from a process on several CPUs. */
static void shoot_down(u32 me)
{
    u32 asked[SMP_MAX_CPUS];

    for (u32 i = 0; i < sh->rounds; i++) {
        work(me, sh->work);
        for (u32 k = 0; k < sh->cpus; k++)
            asked[k] = __atomic_add_fetch(&sh->cpu[k].asked, k != me, __ATOMIC_SEQ_CST);
        wr(LAPIC_ICR, 0xc4000 | VECTOR); /* all but self */
        for (u32 k = 0; k < sh->cpus; k++)
            while (k != me &&
                   (int)(__atomic_load_n(&sh->cpu[k].answered, __ATOMIC_SEQ_CST) - asked[k]) < 0)
                wait_a_little();
        sh->cpu[me].progress++;
    }
}

static void shoot_each_other(u32 me)
{
    irqs_on(me);
    __atomic_add_fetch(&sh->arrived.v, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&sh->arrived.v, __ATOMIC_SEQ_CST) < sh->cpus)
        wait_a_little();
    __asm__ volatile("sti" : : : "memory");
    shoot_down(me);
    __atomic_add_fetch(&sh->arrived.v, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&sh->arrived.v, __ATOMIC_SEQ_CST) < 2 * sh->cpus)
        wait_a_little();
    __asm__ volatile("cli" : : : "memory");
    u32 ticket = lock();
    sh->sum += sh->rounds;
    unlock(ticket);
}

void guest_main(u32 me)
{
    u32 a = 0x40000001, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    sh->features = a;
    sh->cpu[me].random = me + 1;
    if ((a & 0x20) != 0)
        wrmsr(MSR_STEAL, (u32)sh->cpu[me].steal | 1);
    switch (sh->mode) {
    case SMP_COUNT:
        count_for_ever(me);
        break;
    case SMP_LOCK:
        with_lock(me);
        break;
    case SMP_TAS:
        with_unfair_lock(me);
        break;
    case SMP_SHOOT:
        shoot_each_other(me);
        break;
    case SMP_BARRIER:
        with_barrier(me);
        break;
    case SMP_TICK:
        tick(me);
        break;
    case SMP_IPI:
        ping_pong(me);
        break;
    }
    __asm__ volatile("outb %0, %1" : : "a"((u8)me), "Nd"((unsigned short)SMP_PORT));
}
