/* SPDX-License-Identifier: BSD-2-Clause */
#include "kern.h"

#include <stdarg.h>

struct fault fault;
unsigned failures;
bool (*exc_hook)(struct regs *);
extern uint8_t exc_stubs[];
extern unsigned long try_sp[];

void *memset(void *p, int c, size_t n)
{
    __asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(c) : "memory");
    return p;
}
void *memcpy(void *d, const void *s, size_t n)
{
    void *r = d;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
    return r;
}

/* ---- output ---------------------------------------------------------------------------------- */

static void put_char(char c)
{
    outb(0xe9, (uint8_t)c);
}

static void put_number(unsigned long v, unsigned base)
{
    char buf[24];
    unsigned n = 0;

    do {
        unsigned d = (unsigned)(v % base);
        buf[n++] = (char)(d < 10 ? '0' + d : 'a' + d - 10);
        v /= base;
    } while (v != 0);
    while (n > 0)
        put_char(buf[--n]);
}

static void vprint(const char *f, va_list ap)
{
    for (; *f != 0; f++) {
        if (*f != '%') {
            put_char(*f);
            continue;
        }
        bool wide = *++f == 'l';
        f += wide;
        switch (*f) {
        case 's':
            for (const char *s = va_arg(ap, const char *); *s != 0; s++)
                put_char(*s);
            break;
        case 'c':
            put_char((char)va_arg(ap, int));
            break;
        case 'd': {
            long v = wide ? va_arg(ap, long) : va_arg(ap, int);
            if (v < 0)
                put_char('-');
            put_number((unsigned long)(v < 0 ? -v : v), 10);
            break;
        }
        default:
            put_number(wide ? va_arg(ap, unsigned long) : va_arg(ap, unsigned),
                       *f == 'u' ? 10 : 16);
        }
    }
}

void print(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
}

void fail(const char *fmt, ...)
{
    va_list ap;

    if (++failures > 20)
        return;
    print("FAIL ");
    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
    print("\n");
}

void kern_exit(void)
{
    print("%s, %u failures\n", failures == 0 ? "passed" : "FAILED", failures);
    for (;;) {
        outb(0xf4, failures != 0);
        __asm__ volatile("cli\n\thlt");
    }
}

/* ---- exceptions ------------------------------------------------------------------------------ */

#ifdef __x86_64__
struct gate {
    uint16_t lo, sel;
    uint8_t ist, attr;
    uint16_t mid;
    uint32_t hi, zero;
};
static uint32_t tss[26];
#else
struct gate {
    uint16_t lo, sel;
    uint8_t ist, attr;
    uint16_t mid;
};
static uint32_t tss[26];
#endif
static struct gate idt[256] __attribute__((aligned(16)));

void set_gate(unsigned vector, unsigned dpl, bool trap)
{
    unsigned long at = (unsigned long)exc_stubs + 16 * vector;

    idt[vector] = (struct gate){
        .lo = (uint16_t)at,
        .mid = (uint16_t)(at >> 16),
        .sel = sizeof(long) == 8 ? SEL_CODE64 : SEL_CODE32,
        .attr = (uint8_t)(0x8e | trap | dpl << 5),
    };
}

void set_raw_gate(unsigned vector, uint64_t gate)
{
    *(uint64_t *)(void *)&idt[vector] = gate;
}

/* Called by exc_common. */
void exc_entry(struct regs *r);
void exc_entry(struct regs *r)
{
    if (exc_hook != NULL && exc_hook(r))
        return;
    fault = (struct fault){.vector = (long)r->vector,
                           .code = r->code,
                           .rip = r->rip,
                           .cr2 = rd_cr2(),
                           .flags = r->flags,
                           .rsp = r->rsp,
                           .cs = r->cs};
    if (r->vector == 0x80)
        fault.vector = -1;
    if (try_sp[0] != 0)
        try_abandon(fault.vector);
    print("unexpected exception %lu code %lx at %lx cr2 %lx\n", (unsigned long)r->vector,
          (unsigned long)r->code, (unsigned long)r->rip, rd_cr2());
    failures++;
    kern_exit();
}

struct user_args {
    unsigned long fn, arg;
};
static void user_thunk(void *p)
{
    struct user_args *u = p;
    user_call(u->fn, u->arg);
}
long try_user(unsigned long fn, unsigned long arg)
{
    struct user_args u = {fn, arg};
    return try_call(user_thunk, &u);
}

void kern_init(void)
{
    struct {
        uint16_t limit;
        unsigned long base;
    } __attribute__((packed)) idtr = {sizeof(idt) - 1, (unsigned long)idt};
    unsigned long base = (unsigned long)tss;

    for (unsigned i = 0; i < 256; i++)
        set_gate(i, i == 0x80 ? 3 : 0, false);
    __asm__ volatile("lidt %0" : : "m"(idtr));
    tss[1] = TSS_STACK;
    tss[2] = sizeof(long) == 8 ? 0 : SEL_DATA;
    tss[25] = 104 << 16;
    gdt[SEL_TSS / 8] = 103 | (uint64_t)(base & 0xffffff) << 16 | 0x89ull << 40 |
                       (uint64_t)(base >> 24 & 0xff) << 56;
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}
