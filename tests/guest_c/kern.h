/* SPDX-License-Identifier: BSD-2-Clause */
/* What test kernels share: output, exceptions, privileged instructions. */
#ifndef KERN_H
#define KERN_H

#include "kern_asm.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Registers as exc_common pushes them. */
struct regs {
#ifdef __x86_64__
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, code, rip, cs, flags, rsp, ss;
#else
    uint32_t gs, fs, es, ds; /* selectors: 16 bits */
    uint32_t rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint32_t vector, code, rip, cs, flags, rsp, ss;
#endif
};

/* The exception that ended the last try_call. */
struct fault {
    long vector; /* -1: none */
    unsigned long code, rip, cr2, flags, cs, rsp;
};
extern struct fault fault;

void *memset(void *p, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
void test_main(void);
void kern_init(void);
void kern_exit(void) __attribute__((noreturn));

/* %s %d %u %x %lx %c. */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Counts a failure and reports it, at most 20 of them. */
void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
extern unsigned failures;
#define CHECK(x, ...)                                                                              \
    do {                                                                                           \
        if (!(x))                                                                                  \
            fail(__VA_ARGS__);                                                                     \
    } while (0)

/* Run fn(arg); -1, or the vector of the exception that ended it (in fault, too). */
long try_call(void (*fn)(void *), void *arg);
void try_abandon(long result) __attribute__((noreturn));
/* From within try_call: to level 3, IF clear, rbx = rdi = arg. Ends by INT 80h (-1) or an
 * exception. */
void user_call(unsigned long fn, unsigned long arg);
long try_user(unsigned long fn, unsigned long arg);
extern uint64_t gdt[];
/* A handler of one's own; true: go on where it happened. */
extern bool (*exc_hook)(struct regs *);
void set_gate(unsigned vector, unsigned dpl, bool trap);
/* All 8 bytes (64-bit mode: the first 8). */
void set_raw_gate(unsigned vector, uint64_t gate);

/* ---- instructions ---------------------------------------------------------------------------- */

static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline uint8_t inb(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}
#define CR_ACCESS(n)                                                                               \
    static inline unsigned long rd_cr##n(void)                                                     \
    {                                                                                              \
        unsigned long v;                                                                           \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                             \
        return v;                                                                                  \
    }                                                                                              \
    static inline void wr_cr##n(unsigned long v)                                                   \
    {                                                                                              \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory");                                 \
    }
CR_ACCESS(0)
CR_ACCESS(2)
CR_ACCESS(3)
CR_ACCESS(4)
static inline uint64_t rdmsr(uint32_t i)
{
    uint32_t lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(i) : "memory");
    return lo | (uint64_t)hi << 32;
}
static inline void wrmsr(uint32_t i, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "a"((uint32_t)v), "d"((uint32_t)(v >> 32)), "c"(i) : "memory");
}
static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                     : "a"(leaf), "c"(sub));
}
/* Bit of a feature leaf; false where there is no such leaf. reg: 0 EAX to 3 EDX. */
static inline bool cpu_has(uint32_t leaf, unsigned reg, unsigned bit)
{
    uint32_t r[4];
    cpuid(leaf & 0x80000000u, 0, r);
    if (r[0] < leaf || (r[0] ^ leaf) >> 31 != 0)
        return false;
    cpuid(leaf, 0, r);
    return (r[reg] >> bit & 1) != 0;
}
static inline void invlpg(unsigned long la)
{
    __asm__ volatile("invlpg (%0)" : : "r"(la) : "memory");
}
static inline unsigned long rd_flags(void)
{
    unsigned long f;
    __asm__ volatile("pushf\n\tpop %0" : "=r"(f));
    return f;
}

#define CR0_WP   (1ul << 16)
#define CR0_PG   (1ul << 31)
#define CR4_PSE  (1ul << 4)
#define CR4_PAE  (1ul << 5)
#define CR4_PGE  (1ul << 7)
#define CR4_LA57 (1ul << 12)
#define CR4_SMEP (1ul << 20)
#define CR4_SMAP (1ul << 21)
#define CR4_PKE  (1ul << 22)
#define MSR_EFER 0xc0000080u
#define EFER_NXE (1ul << 11)
#define FLAG_AC  (1ul << 18)
#ifdef __x86_64__
#define SP "rsp"
#else
#define SP "esp"
#endif

#endif
